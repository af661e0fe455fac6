"""Who buys and sells in an auction of prosumers, as tables that follow from a few figures.

Given p_k, c_k, the import s and each agent's x, all else follows: roles, payments c_k (x - g), utilities, payoffs (1),
what each could still gain, sums over aggregators, the rows of the dispatch. A certificate makes these tables anew from
the figures and holds them against those of the result.
Reference: Das, Faqiry, Zarabie, Wu, Game theoretic equilibrium analysis of energy auction in microgrid, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.clearing.result import Evidence, FloatArray
from mktopt.networks.network import Network
from mktopt.networks.prosumers import Prosumers

UPSTREAM = "upstream"
# Below this share of the largest trade nobody trades.
_IDLE = 1e-9
_MONEY = ("payment", "utility", "payoff", "gain")


@dataclass(frozen=True, eq=False)
class Point:
    """Where an iteration ended. T periods, K aggregators, N agents.

    p_kw, unit_cost: (T, K); import_kw: (T,); consumption_kw: (T, N); grid: values of the grid's variables and duals of
    its rows (welfare [$] gained per unit of right-hand side), by name as in the declared model; priced: whether those
    duals are prices that belong to this point.
    """

    p_kw: FloatArray
    unit_cost: FloatArray
    import_kw: FloatArray
    consumption_kw: FloatArray
    grid: Mapping[str, float]
    duals: Mapping[str, float]
    priced: bool = True


def agents_table(prosumers: Prosumers, length: FloatArray, point: Point, faced: FloatArray) -> pd.DataFrame:
    """Table `agents`, agent by agent and period within; length: of the periods [h], faced: (T, N) [$/kWh]."""
    hours, periods = length[:, None], len(length)
    x, cost = point.consumption_kw, point.unit_cost[:, prosumers.group]
    p = x - prosumers.generation_kw
    idle = np.abs(p) <= _IDLE * np.abs(p).max(initial=0.0)
    utility, payment = hours * prosumers.utility(x), hours * cost * p
    gain = hours * deviation_gain(prosumers, x, faced)
    table = prosumers.table
    columns = {
        "role": np.where(idle, "idle", np.where(p > 0, "buyer", "seller")),
        "p_kw": p,
        "consumption_kw": x,
        "generation_kw": np.broadcast_to(prosumers.generation_kw, p.shape),
        "unit_cost": cost,
        "payment": payment,
        "utility": utility,
        "payoff": utility - payment,
        "gain": gain,
    }
    return pd.DataFrame({
        **{name: np.repeat(table[name].to_numpy(), periods) for name in ("agent", "aggregator", "bus")},
        "period": np.tile(np.arange(periods), len(prosumers)),
        **{name: values.T.ravel() for name, values in columns.items()},
    })  # fmt: skip


def deviation_gain(prosumers: Prosumers, consumption_kw: FloatArray, price: FloatArray) -> FloatArray:
    """What each agent could still gain in u(x) - price (x - g) by another x >= 0 [$/h], shapes (..., agents); infinite
    where its demand at the price has no end."""
    best = prosumers.demand_at(price)
    with np.errstate(invalid="ignore"):
        gain = prosumers.utility(best) - prosumers.utility(consumption_kw) - price * (best - consumption_kw)
    return np.where(np.isfinite(best), np.maximum(gain, 0.0), np.inf)


def aggregators_table(prosumers: Prosumers, length: FloatArray, agents: pd.DataFrame, point: Point) -> pd.DataFrame:
    """Table `aggregators`, aggregator by aggregator and period within; length: of the periods [h]."""
    table, periods = prosumers.aggregators, len(length)
    size = len(table) * periods
    at = (prosumers.group[:, None] * periods + np.arange(periods)).ravel()
    p = agents["p_kw"].to_numpy()

    def total(values: Any) -> FloatArray:
        return np.asarray(np.bincount(at, np.asarray(values, dtype=float), size))

    return pd.DataFrame({
        "aggregator": np.repeat(table["aggregator"].to_numpy(), periods),
        "bus": np.repeat(table["bus"].to_numpy(), periods),
        "period": np.tile(np.arange(periods), len(table)),
        "p_kw": point.p_kw.T.ravel(),
        "unit_cost": point.unit_cost.T.ravel(),
        "buyers": total(agents["role"] == "buyer").astype(int),
        "sellers": total(agents["role"] == "seller").astype(int),
        "bought_kw": total(np.maximum(p, 0.0)),
        "sold_kw": total(np.maximum(-p, 0.0)),
        "utility": total(agents["utility"]),
    })  # fmt: skip


def dispatch_table(network: Network, agents: pd.DataFrame, point: Point, c0: FloatArray) -> pd.DataFrame:
    """The rows of all agents and of the upstream grid, which is paid c0 (T,) [$/kWh], in the columns of every
    dispatch."""
    p, s = agents["p_kw"].to_numpy(), point.import_kw
    upstream = pd.DataFrame({
        "order": UPSTREAM, "participant": UPSTREAM, "bus": network.source_bus,
        "side": np.where(s >= 0, "offer", "bid"), "period": np.arange(len(s)), "quantity_kw": np.abs(s), "price": c0,
        "payment": -network.hours * c0 * s,
    })  # fmt: skip
    own = pd.DataFrame({
        "order": agents["agent"], "participant": agents["agent"], "bus": agents["bus"],
        "side": np.where(p >= 0, "bid", "offer"), "period": agents["period"], "quantity_kw": np.abs(p),
        "price": agents["unit_cost"], "payment": agents["payment"],
    })  # fmt: skip
    return pd.concat([own, upstream], ignore_index=True)


def faced_prices(
    prosumers: Prosumers, length: FloatArray, unit_cost: FloatArray, evidence: Evidence, charge: FloatArray
) -> FloatArray:
    """What each agent faces [$/kWh], (T, N): its unit cost (T, K), plus what rows of the user's own charge it.

    length: of the periods [h]; charge: what those rows charge each of `evidence.variables` [$/kW].
    """
    at = {id(variable): k for k, variable in enumerate(evidence.variables)}
    total = np.append(charge, 0.0)[[at.get(id(v), -1) for v in evidence.model.consumption_kw.values()]]
    return np.asarray(unit_cost[:, prosumers.group] + total.reshape(len(prosumers), -1).T / length[:, None])


def tables_differ(stated: pd.DataFrame | None, expected: pd.DataFrame, turnover: float) -> float:
    """The greatest difference of two tables, infinite where a name, a role or a length is another.

    Figures in $ count relative to turnover, all others to the greatest of their column.
    """
    if stated is None or len(stated) != len(expected) or list(stated) != list(expected):
        return float("inf")
    worst = 0.0
    for name, column in expected.items():
        is_number = column.dtype.kind == "f"
        a, b = (table[name].to_numpy(float if is_number else object) for table in (stated, expected))
        if not is_number:
            worst = max(worst, 0.0 if bool((a == b).all()) else np.inf)
            continue
        size = turnover if name in _MONEY else max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), 1e-12)
        with np.errstate(invalid="ignore"):
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b)) / size
        worst = max(worst, float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0)))
    return worst
