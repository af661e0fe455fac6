"""Pictures of `gne_auction.py` (no script): panels are functions of an Axes, which the overview uses again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from auction_cases import METHODS, Auction, Eight, aggregators, full_branches
from auction_day import Day
from auction_printed import ETAS, Shown, Upper
from feeder_figures import PRICE
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from mktopt.clearing.auction_plots import draw_crossing
from mktopt.clearing.drawing import BID, OFFER, colour_span, pyplot
from mktopt.clearing.layout import RED, place_names, positions

FloatArray = npt.NDArray[np.float64]

FIXED = "fixed step"
COLOURS = dict(zip((*METHODS, FIXED), (OFFER, BID, "0.45", "#1b7837", "#e69f00"), strict=True))
NAMES = {"newton": "Newton (default)", "projection": "projected gradient", "extragradient": "extragradient",
         "accelerated": "accelerated gradient", FIXED: "projected gradient, fixed step 1/L at p = 0"}  # fmt: skip
ETA_COLOURS = dict(zip(ETAS, ("#1b7837", BID, "#e69f00", OFFER), strict=True))
UNIT_COST = "unit cost [\\$/kWh]"
SMALL = 8.5


# -- Fig. 6 ---------------------------------------------------------------------------------------------------------


def convergence(eight: Eight) -> Any:
    """Fig. 6: welfare, all unit costs and the residual by iteration, a column per scenario, from p = 0."""
    names = eight.scenarios
    figure, axes = pyplot().subplots(3, len(names), figsize=(3.4 * len(names) + 0.8, 9.0), layout="constrained",
                                     squeeze=False, sharex=True)  # fmt: skip
    for column, scenario in zip(axes.T, names, strict=True):
        auction = eight.of(scenario)
        _welfares(column[0], auction)
        unit_costs(column[1], auction)
        residuals(column[2], auction)
        column[0].set_title(f"scenario {scenario}: $c_0$ = {auction.c0:.2f} \\$/kWh", fontsize=11)
        column[2].set_xlabel("iteration")
    labels = ("welfare [\\$]", "unit cost, fixed step [\\$/kWh]", "natural residual [\\$/kWh]")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    handles, labels = axes[2, 0].get_legend_handles_labels()
    more = [Line2D([], [], color="black", ls="--", lw=1.1), Line2D([], [], color="black", ls=":", lw=1.3)]
    figure.legend([*handles, *more], [*labels, "central optimum", "price of the import $c_0$"],
                  loc="outside lower center", ncols=4, frameon=False, fontsize=9)  # fmt: skip
    figure.suptitle("Convergence from p = 0, stressed limits: welfare, unit costs of the 17 aggregators, residual",
                    fontsize=12)  # fmt: skip
    return figure


def _welfares(ax: Any, auction: Auction) -> None:
    for method in ("newton", FIXED):
        trace = _run(auction, method).trace
        ax.plot(trace["iteration"], trace["welfare"], color=COLOURS[method], lw=1.8,
                marker="." if method == "newton" else None, ms=6)  # fmt: skip
    ax.axhline(auction.optimum, color="black", ls="--", lw=1.1, zorder=1)
    _iterations(ax)


def unit_costs(ax: Any, auction: Auction) -> None:
    """All unit costs by iteration of the fixed step, coloured by where they end."""
    path = _run(auction, FIXED).c_path[:, 0, :]
    span = colour_span(path[-1])
    # Without the lightest colours, which are hard to see on white.
    shades = pyplot().get_cmap("viridis")(0.88 * (path[-1] - span["vmin"]) / (span["vmax"] - span["vmin"]))
    for costs, shade in zip(path.T, shades, strict=True):
        ax.plot(costs, color=shade, lw=1.2)
    ax.axhline(auction.c0, color="black", ls=":", lw=1.3)
    _iterations(ax)


def residuals(ax: Any, auction: Auction) -> None:
    """Residuals of the four methods and of the fixed step."""
    for method in COLOURS:
        trace = _run(auction, method).trace
        ax.semilogy(trace["iteration"], np.maximum(trace["residual"], 1e-13), color=COLOURS[method], lw=1.5,
                    marker="." if method == "newton" else None, ms=6, label=NAMES[method])  # fmt: skip
    ax.set_ylim(1e-12, 1.0)
    _iterations(ax)


def _run(auction: Auction, method: str) -> Any:
    return auction.fixed[1.0] if method == FIXED else auction.outcomes[method]


def _iterations(ax: Any) -> None:
    ax.set_xscale("symlog", linthresh=1.0)
    ax.set_xlim(left=0.0)
    ax.xaxis.set_major_formatter("{x:.0f}")
    _plain(ax)


# -- Fig. 5 ---------------------------------------------------------------------------------------------------------


def feeder(eight: Eight, scenarios: tuple[str, str]) -> Any:
    """Fig. 5: the feeder with its aggregators, in two scenarios with stressed limits."""
    figure, axes = pyplot().subplots(1, 2, figsize=(12.4, 7.6), layout="constrained")
    for ax, scenario in zip(axes, scenarios, strict=True):
        feeder_map(ax, eight.of(scenario))
    figure.suptitle("IEEE 37-node feeder, 17 aggregators with 483 agents (number of agents in brackets)", fontsize=12)
    return figure


def feeder_map(ax: Any, auction: Auction) -> None:
    """Aggregators as large as |p_k| (discs take power, squares give some), coloured by unit cost; full branches red."""
    clearing, table = auction.clearing, aggregators(auction.clearing)
    network = clearing.network
    at, _ = positions(network)
    ends = np.stack([at[network.from_index], at[network.to_index]], axis=1)
    red = network.branches["branch"].isin(full_branches(clearing)).to_numpy()
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_axis_off()
    for which, colour, width in ((~red, "0.6", 1.3), (red, RED, 3.2)):
        ax.add_collection(LineCollection(list(ends[which]), colors=colour, linewidths=width, zorder=1))
    where, p = at[network.bus_positions(table["bus"])], table["p_kw"].to_numpy()
    cost, size = table["unit_cost"].to_numpy(), _area(p, p)
    for shape, which in (("o", p >= 0), ("s", p < 0)):
        dots = ax.scatter(*where[which].T, c=cost[which], s=size[which], marker=shape, cmap="viridis", edgecolor="0.3",
                          lw=0.6, zorder=3, **colour_span(cost))  # fmt: skip
    source = at[network.source_index]
    # The branch at the source is too short to be seen.
    first = red & (network.from_index == network.source_index)
    ax.plot(*source, marker="D", ms=7, color=RED if first.any() else "black", zorder=4)
    ax.margins(0.09, 0.07)
    bar = ax.figure.colorbar(dots, cax=ax.inset_axes((0.64, 0.97, 0.34, 0.018)), orientation="horizontal")
    bar.set_label(UNIT_COST, fontsize=SMALL)
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=4)
    bar.ax.tick_params(labelsize=SMALL)
    span = f"{cost.min():.3f}" + (f" to {cost.max():.3f}" if np.ptp(cost) > 1e-6 else "")
    way = "import" if auction.import_kw >= 0 else "export"
    ax.set_title(f"scenario {auction.scenario}, {auction.limits}: {way} {abs(auction.import_kw):,.0f} kW,\nunit costs "
                 f"{span} \\$/kWh", fontsize=10.5)  # fmt: skip
    _map_legend(ax, p, bool(red.any()), bool(first.any()))
    names = [f"{name} ({count})" for name, count in zip(table["aggregator"], _counts(clearing), strict=True)]
    place_names(ax, [*map(str, names), "source"], np.vstack([where, source]), ends, 7.5,
                np.r_[np.sqrt(size) / 2 + 2.5, 7.0])  # fmt: skip


def _area(p: FloatArray, of: FloatArray) -> FloatArray:
    return 25.0 + 330.0 * np.abs(p) / np.abs(of).max()


def _map_legend(ax: Any, p: FloatArray, red: bool, full: bool) -> None:
    largest = float(f"{np.abs(p).max():.1g}")
    shapes = [("o", largest, "takes")] * bool((p >= 0).any()) + [("s", largest, "gives")] * bool((p < 0).any())
    source = "source, its transformer at its limit" if full else "source"
    handles = [Line2D([], [], marker="D", ls="", color=RED if full else "black", ms=6, label=source)]
    handles += [Line2D([], [], marker=m, ls="", mfc="0.85", mec="0.3", ms=float(np.sqrt(_area(np.array(v), p))),
                       label=f"{what} {v:.0f} kW") for m, v, what in shapes]  # fmt: skip
    if red:
        handles.append(Line2D([], [], color=RED, lw=3.2, label="branch at its limit"))
    ax.legend(handles=handles, loc="upper left", frameon=False, fontsize=SMALL, labelspacing=0.9)


def _counts(clearing: Any) -> list[int]:
    return clearing.prosumers.aggregators["agents"].tolist()


# -- Fig. 3 ---------------------------------------------------------------------------------------------------------


def cobwebs(shown: tuple[Shown, Shown]) -> Any:
    """Fig. 3: supply and demand with the rounds of Algorithm 1, where it converges and where it cycles."""
    figure, axes = pyplot().subplots(2, 2, figsize=(11.6, 8.2), layout="constrained", height_ratios=(1.5, 1))
    for (top, bottom), one in zip(axes.T, shown, strict=True):
        cobweb(top, one)
        by_round(bottom, one)
    figure.suptitle("Algorithm 1 as printed: supply and demand of one aggregator, and the unit cost by round",
                    fontsize=12)  # fmt: skip
    return figure


def cobweb(ax: Any, one: Shown, title: str = "") -> None:
    """Supply, demand and the rounds of the auction as printed, drawn where these are."""
    draw_crossing(ax, one.people, one.p_kw, one.cost, one.printed.trace)
    ends = f"cycles with period {one.printed.period}" if one.printed.period else "converges"
    ax.set_title(title or f"{one.title}: {ends}", fontsize=10.5)
    ax.legend(frameon=False, fontsize=SMALL, loc="upper right")


def by_round(ax: Any, one: Shown) -> None:
    """The unit cost by round, as printed and damped."""
    for auction, colour, label in ((one.printed, OFFER, "as printed"), (one.damped, BID, "damped")):
        ax.plot(auction.trace["round"], auction.trace["unit_cost"], color=colour, lw=1.3, marker=".", ms=5, label=label)
    ax.axhline(one.cost, color="black", ls="--", lw=1.0, label="exact")
    ax.set_xlabel("round")
    ax.set_ylabel(UNIT_COST)
    ax.legend(frameon=False, fontsize=SMALL, ncols=3, loc="best")
    _plain(ax)


# -- Algorithm 2 ----------------------------------------------------------------------------------------------------


def algorithm2(upper: Upper, scenarios: list[str]) -> Any:
    """Algorithm 2 as printed by iteration: import, budget and the residual of its own QVI, for every eta."""
    figure, axes = pyplot().subplots(3, len(scenarios), figsize=(4.1 * len(scenarios) + 0.8, 8.6), layout="constrained",
                                     squeeze=False)  # fmt: skip
    for column, scenario in zip(axes.T, scenarios, strict=True):
        for name, eta, inside in upper.runs:
            if name == scenario and inside == "exact":
                path = upper.path(name, eta).iloc[:121]
                style: dict[str, Any] = {"color": ETA_COLOURS[eta], "lw": 1.2, "label": f"$\\eta$ = {eta:g}"}
                column[0].plot(path["iteration"], path["import_kw"], **style)
                column[1].plot(path["iteration"], path["budget"], **style)
                column[2].semilogy(path["iteration"], path["residual"], **style)
        imported = float(upper.defaults[scenario].import_kw.sum())
        column[0].axhline(imported, color="black", ls="--", lw=1.1)
        column[1].axhline(0.0, color="black", ls=":", lw=1.1)
        word = {True: "an equilibrium exists", False: "no equilibrium found", None: "undecided"}
        column[0].set_title(f"scenario {scenario}: {word[upper.own[scenario].exists]}", fontsize=10.5)
        column[2].set_xlabel("iteration")
        column[1].set_yscale("symlog", linthresh=1.0)
        for ax in column:
            _plain(ax)
    labels = ("import [kW]", "budget $(c - c_0 1)^T p$ [\\$/h]", "residual of the printed QVI [\\$/kWh]")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend([*handles, Line2D([], [], color="black", ls="--", lw=1.1)],
                  [*(f"{name} kW per \\$/kWh" for name in names), "import of the default problem, where all start"],
                  loc="outside lower center", ncols=5, frameon=False, fontsize=9)  # fmt: skip
    figure.suptitle("Algorithm 2 as printed, started at the optimum of the default problem", fontsize=12)
    return figure


# -- the day --------------------------------------------------------------------------------------------------------


def day(found: Day) -> Any:
    """The hours: powers, prices, rent."""
    figure, (top, middle, bottom) = pyplot().subplots(3, 1, figsize=(9.6, 9.4), layout="constrained", sharex=True,
                                                      height_ratios=(1.3, 1.2, 0.7))  # fmt: skip
    table = found.summary
    day_powers(top, table)
    day_prices(middle, table)
    bottom.bar(np.arange(len(table)), np.maximum(table["rent"], 0.0), color=RED, alpha=0.75, width=0.8)
    bottom.set_ylabel("rent of the wires [\\$]")
    bottom.set_xlabel("hour of the day")
    bottom.grid(axis="y", alpha=0.25)
    figure.suptitle(f"{len(table)} hourly auctions, stressed limits", fontsize=12)
    return figure


def day_powers(ax: Any, table: pd.DataFrame) -> None:
    """Consumption, generation, and the net requirement that goes upstream."""
    at = np.arange(len(table))
    imported = table["import_kw"].to_numpy()
    ax.bar(at, np.maximum(imported, 0.0), width=0.8, color="0.75", label="net requirement: import")
    ax.bar(at, np.minimum(imported, 0.0), width=0.8, color="#7fbf7b", label="net requirement: export")
    ax.plot(at, table["consumed_kw"], color=BID, lw=2, marker=".", label="consumption")
    ax.plot(at, table["generated_kw"], color="#e69f00", lw=2, marker=".", label="generation")
    ax.axhline(0.0, color="0.3", lw=0.8)
    ax.set_ylabel("power [kW]")
    ax.set_ylim(top=1.32 * float(table[["consumed_kw", "generated_kw"]].to_numpy().max()))
    ax.legend(frameon=False, fontsize=SMALL, ncols=2, loc="upper left")
    _hours(ax, table)


def day_prices(ax: Any, table: pd.DataFrame) -> None:
    """The price of the import, and the span and mean of the unit costs."""
    at = np.arange(len(table))
    ax.fill_between(at, table["min_cost"], table["max_cost"], color=BID, alpha=0.2, lw=0, label="span of unit costs")
    ax.plot(at, table["mean_cost"], color=BID, lw=1.8, label="mean of unit costs")
    ax.plot(at, table["c0"], color="black", ls="--", lw=1.4, label="price of the import $c_0$")
    ax.set_ylabel(PRICE)
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left")
    _hours(ax, table)


def _hours(ax: Any, table: pd.DataFrame) -> None:
    ax.set_xticks(np.arange(len(table)), table["hour"])
    ax.margins(x=0.02)
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)


# -- overview -------------------------------------------------------------------------------------------------------


def overview(eight: Eight, scenario: str, cycling: Shown, found: Day) -> Any:
    """The feeder, the unit costs by iteration, the cobweb that cycles and the day, side by side."""
    figure = pyplot().figure(figsize=(14.0, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    feeder_map(figure.add_subplot(grid[:, 0]), eight.of(scenario))
    costs, web, power, price = (figure.add_subplot(grid[k // 2, 1 + k % 2]) for k in range(4))
    unit_costs(costs, eight.of(scenario))
    costs.set_title(f"scenario {scenario}: unit costs by iteration, from p = 0", fontsize=10.5)
    costs.set_xlabel("iteration (projected gradient, fixed step)")
    costs.set_ylabel(UNIT_COST)
    dotted = Line2D([], [], color="black", ls=":", lw=1.3, label="price of the import $c_0$")
    costs.legend(handles=[dotted], frameon=False, fontsize=SMALL)
    cobweb(web, cycling, "Algorithm 1 as printed, where it cycles")
    day_powers(power, found.summary)
    power.set_title("hourly auctions of a day: power", fontsize=10.5)
    day_prices(price, found.summary)
    price.set_title("hourly auctions of a day: unit costs", fontsize=10.5)
    every = 3 if len(found.summary) > 12 else 1
    for ax in (power, price):
        ax.set_xlabel("hour of the day")
        ax.set_xticks(range(0, len(found.summary), every), found.summary["hour"].tolist()[::every])
    return figure


def _plain(ax: Any) -> None:
    ax.grid(alpha=0.25)
    if ax.get_yscale() == "linear":
        ax.ticklabel_format(axis="y", useOffset=False)
