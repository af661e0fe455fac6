"""Pictures of an auction of prosumers: supply and demand by price, an aggregator's crossing, the way to equilibrium."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.drawing import BID, OFFER
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

_POINTS = 400
# Residuals below this are rounding; a logarithmic axis would make a picture of them.
_LEAST = 1e-12


def prices_to_draw(prosumers: Prosumers, around: FloatArray) -> FloatArray:
    """Prices [$/kWh] from next to nothing to beyond where the first unit is wanted, at least around those that
    matter, shape (points,)."""
    highest = float(np.nanmax(prosumers.marginal(0.0)))
    known = around[np.isfinite(around)]
    top = max(min(1.05 * highest, 6.0 * float(known.max(initial=0.0))), 1.5 * float(known.max(initial=1e-3)))
    return np.linspace(0.02 * top, top, _POINTS)


def bought_and_sold(prosumers: Prosumers, price: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(what all would buy, what all would sell) at each price [kW], shapes (points,)."""
    net = prosumers.demand_at(price[:, None]) - prosumers.generation_kw
    net = np.where(np.isfinite(net), net, np.nan)
    return np.maximum(net, 0.0).sum(axis=1), np.maximum(-net, 0.0).sum(axis=1)


def draw_curves(ax: Any, prosumers: Prosumers, cost: FloatArray) -> None:
    """What all agents would buy and sell at one price; the span of the unit costs that they were posted."""
    price = prices_to_draw(prosumers, cost)
    bought, sold = bought_and_sold(prosumers, price)
    ax.plot(bought, price, color=BID, lw=2, label="agents would buy")
    ax.plot(sold, price, color=OFFER, lw=2, label="agents would sell of their own")
    low, high = float(np.nanmin(cost)), float(np.nanmax(cost))
    if high - low > 1e-9:
        span = f"unit costs: {low:.4f} to {high:.4f} \\$/kWh"
        ax.axhspan(low, high, color="#7fbf7b", alpha=0.25, lw=0, label=span)
    else:
        ax.axhline(low, color="#4d9221", lw=1, ls=":", label=f"unit cost: {low:.4f} \\$/kWh")
    near = np.interp(0.5 * low, price, bought)
    ax.set_xlim(0, 1.1 * max(float(near), float(np.nanmax(sold)), 1e-9))
    ax.set_ylim(0, min(price[-1], 4.0 * high) if high > 0 else price[-1])


def draw_crossing(
    ax: Any, prosumers: Prosumers, p_kw: float, cost: float, rounds: pd.DataFrame | None = None
) -> None:
    """One aggregator as the paper's Fig. 3 has it: supply p_k + what its sellers give, demand of its buyers, by unit
    cost, and the point where they meet.

    prosumers: those of the aggregator; rounds: the trace of an auction (`mktopt.agents.algorithm1.Auction.trace`:
    unit_cost [$/kWh], supply_kw of each round), drawn as a cobweb that fills the picture.
    """
    way = np.array([cost]) if rounds is None else np.r_[rounds["unit_cost"].to_numpy(), cost]
    price = prices_to_draw(prosumers, way)
    bought, sold = bought_and_sold(prosumers, price)
    ax.plot(price, p_kw + sold, color=OFFER, lw=2, label="supply: $p_k$ + sellers")
    ax.plot(price, bought, color=BID, lw=2, label="demand: buyers")
    if rounds is not None and len(rounds) > 1:
        c, supply = rounds["unit_cost"].to_numpy(), rounds["supply_kw"].to_numpy()
        x = np.repeat(c, 2)[1:]
        y = np.repeat(supply, 2)[:-1]
        ax.plot(x, y, color="0.35", lw=0.9, marker="o", ms=2.5, label=f"rounds of the auction: {len(rounds)}")
    meet = float(np.interp(cost, price, bought))
    ax.plot([cost], [meet], "k*", ms=11, label=f"equilibrium: {cost:.4f} \\$/kWh", zorder=5)
    room = 0.15 * float(np.ptp(way)) if np.ptp(way) > 1e-3 * cost else 0.6 * cost
    ax.set_xlim(max(price[0], way.min() - room), min(price[-1], way.max() + room))
    inside = (price >= ax.get_xlim()[0]) & (price <= ax.get_xlim()[1])
    seen = np.r_[bought[inside], (p_kw + sold)[inside]]
    if rounds is not None and len(rounds) > 1:
        supply = rounds["supply_kw"].to_numpy()
        ax.set_ylim(min(0.5 * supply.min(), 1.5 * supply.min()), 1.7 * supply.max())
    else:
        ax.set_ylim(min(0.0, 1.1 * float(np.nanmin(seen))), 1.1 * float(np.nanmax(seen)))
    ax.set_xlabel("unit cost $c_k$ [\\$/kWh]")
    ax.set_ylabel("power [kW]")
    ax.legend(frameon=False, fontsize=8.5, loc="best")
    ax.grid(alpha=0.25)


def draw_convergence(ax: Any, trace: pd.DataFrame) -> None:
    """The natural residual of each iteration, on a logarithmic axis, and on a second one the welfare."""
    at = trace["iteration"].to_numpy()
    residual = np.maximum(trace["residual"].to_numpy(dtype=float), _LEAST)
    ax.semilogy(at, residual, color=BID, lw=1.8, marker="o", ms=3.5, label="natural residual")
    ax.set_xlabel("iteration")
    ax.set_ylabel("natural residual [\\$/kWh]", color=BID)
    ax.grid(alpha=0.25)
    other = ax.twinx()
    other.plot(at, trace["welfare"], color=OFFER, lw=1.4, marker="s", ms=3, label="welfare")
    other.set_ylabel("welfare [\\$]", color=OFFER)
    other.ticklabel_format(useOffset=False)
    if len(at) <= 20:
        ax.set_xticks(at)
