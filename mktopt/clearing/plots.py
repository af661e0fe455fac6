"""Pictures of a clearing: prices, their parts and voltages along the feeder, the network with its flows, the curves.

Each method draws into the matplotlib Axes that it is given, or into a new one, and returns it. Matplotlib is imported
when something is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.drawing import (
    BID,
    MOST_NAMED,
    OFFER,
    aggregate_curve,
    colour_span,
    cut_high_bids,
    flow_arrows,
    leave_room,
    map_size,
    new_axes,
    price_bars,
)
from mktopt.clearing.equilibrium import prosumers_of
from mktopt.clearing.layout import RED, distances, place_names, positions, sequence
from mktopt.errors import MktoptError, unknown_name

if TYPE_CHECKING:
    from mktopt.clearing.result import Clearing

FloatArray = npt.NDArray[np.float64]

WIRE, COLOURS = "0.55", "viridis"
# Up to here names of buses and arrows can be read.
MOST_ARROWS, MOST_DETAILED = 120, 400
# A branch this near to its rating is at its limit but for rounding.
FULL_PERCENT = 100.0 - 1e-4


class Plots:
    """The pictures of one clearing: `.prices()`, `.price_parts()`, `.voltages()`, `.network()`, `.curves()`, of an
    auction of prosumers `.aggregator(name)` and `.convergence()`, of private wires `.trades()`."""

    def __init__(self, clearing: Clearing) -> None:
        self.clearing = clearing

    def prices(self, ax: Any = None, period: int | None = None) -> Any:
        """Price of each bus [$/kWh]: against its distance from the source in a radial grid, else bus by bus.

        period: which one; None shows all, several as a map of buses (along the feeder) and periods.
        Returns the Axes. Raises UnknownNameError for a period that is not there.
        """
        network = self.clearing.network
        if period is None and len(network.hours) > 1:
            return self._price_map(new_axes(ax))
        ax = new_axes(ax)
        price = self._price(0 if period is None else period)
        if network.topology.is_radial and network.n_buses > 1:
            self._price_profile(ax, price, period or 0)
            ax.margins(y=0.12)
            leave_room(ax, price)
        else:
            price_bars(ax, network.buses["bus"].tolist(), price)
        ax.set_ylabel("price [\\$/kWh]")
        ax.set_title(self._title("price at each bus", period), fontsize=11)
        return ax

    def price_parts(self, ax: Any = None, period: int = 0, to: str | None = None) -> Any:
        """What each bus's price is made of [$/kWh]: its parts stacked, bus by bus from the source outwards.

        to: a bus, for the parts along the way from the source to it, by distance. See `Clearing.price_parts`. Returns
        the Axes. Raises UnknownNameError for a bus or period that is not there, MktoptError for a loaded clearing.
        """
        from mktopt.clearing.part_plots import draw_parts

        network, parts = self.clearing.network, self._parts(period)
        wide = to is None and network.n_buses > 24
        ax = new_axes(ax, (10.5, 4.8) if wide else (8.0, 4.4))
        draw_parts(ax, network, parts, to)
        ax.set_title(self._title("prices in parts", period), fontsize=11)
        return ax

    def voltages(self, ax: Any = None, period: int = 0) -> Any:
        """Voltage of each bus [p.u.] between its limits: by distance from the source in a radial grid, else bus by bus.

        Returns the Axes. Raises UnknownNameError for a period that is not there, MktoptError where the flow has none.
        """
        from mktopt.clearing.voltage_plots import draw_voltages

        network, table = self.clearing.network, self.clearing.voltages
        if table is None:
            raise MktoptError(
                f"flow {self.clearing.flow!r} has no voltages to draw: clear with lindistflow, distflow or ac, or "
                "look at those of an AC power flow of the dispatch, check_ac().voltages"
            )
        self._price(period)  # refuses a period that is not there
        ax = new_axes(ax, (8.4, 4.4))
        draw_voltages(ax, network, table.loc[table["period"] == period, "v_pu"].to_numpy(float))
        ax.set_title(self._title("voltage at each bus", period), fontsize=11)
        return ax

    def network(self, ax: Any = None, period: int = 0, part: str | None = None) -> Any:
        """The grid: buses coloured by price, branches as wide as they are loaded, those at their limit in red.

        Arrows show the direction of the flow where there is room, a square the source, triangles the supplies that
        sell. part: colours by one of the price's parts instead ('loss', 'congestion' ...; see `Clearing.price_parts`).
        Returns the Axes. Raises UnknownNameError for a period or part that is not there.
        """
        network = self.clearing.network
        price = self._price(period) if part is None else self._part(part, period)
        at, own = positions(network)
        ax = new_axes(ax, map_size(at) if own else (9.5, 6.0))
        ends = np.stack([at[network.from_index], at[network.to_index]], axis=1)
        full = self._branches(ax, ends, period)
        self._buses(ax, at, price, "price" if part is None else f"{part} part of the price")
        self._supplies(ax, at, period)
        ax.set_aspect("equal" if own or not network.topology.is_radial else "auto", adjustable="datalim")
        ax.set_axis_off()
        ax.margins(0.06)
        what = "prices and flows" if part is None else f"{part} part of the prices, flows"
        ax.set_title(self._title(what, period), fontsize=11)
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False, fontsize=8.5,
                  ncols=4 if ax.figure.get_figwidth() > 8 else 2, labelspacing=0.9, markerscale=0.8)  # fmt: skip
        self._names(ax, at, ends, full if len(full) <= 12 else full[:0], period)
        return ax

    def curves(self, ax: Any = None, period: int = 0) -> Any:
        """All bids and all offers summed by price, the quantity that was cleared, and the span of the buses' prices.

        On a congested grid the cleared quantity need not lie where the curves cross. Returns the Axes. Raises
        UnknownNameError for a period that is not there.
        """
        if self.clearing.prosumers is not None:
            return self._prosumer_curves(new_axes(ax), period)
        ax = new_axes(ax)
        price = self._price(period)
        dispatch = self._dispatch(period)
        quantity = float(dispatch.loc[dispatch["side"] == "bid", "quantity_kw"].sum())
        demand, supply = (aggregate_curve(self.clearing.orders, side, period) for side in ("bid", "offer"))
        finite = [curve[0][np.isfinite(curve[0])].max(initial=0.0) for curve in (demand, supply)]
        right = 1.08 * max(*finite, quantity, 1e-9)
        for (q, p), colour, label in ((demand, BID, "demand (bids)"), (supply, OFFER, "supply (offers)")):
            if len(q):
                ax.plot(np.minimum(q, 10 * right), p, color=colour, lw=2, label=label)
        ax.axvline(quantity, color="0.3", lw=1, ls="--", label=f"cleared: {quantity:,.1f} kW")
        known = price[np.isfinite(price)]
        if known.size:
            span = f"{known.min():.4f}" + (f" to {known.max():.4f}" if np.ptp(known) > 1e-9 else "")
            label = f"prices of the buses: {span} \\$/kWh"
            if np.ptp(known) > 1e-9:
                ax.axhspan(known.min(), known.max(), color="#7fbf7b", alpha=0.25, lw=0, label=label)
            else:
                ax.axhline(known.min(), color="#4d9221", lw=1, ls=":", label=label)
        ax.set_xlim(0, right)
        cut_high_bids(ax, demand[1], supply[1], known)
        ax.set_xlabel("quantity [kW]")
        ax.set_ylabel("price [\\$/kWh]")
        ax.set_title(self._title("supply and demand", period), fontsize=11)
        ax.legend(frameon=False, fontsize=8.5, loc="best")
        ax.grid(alpha=0.25)
        return ax

    def aggregator(self, name: str, ax: Any = None, period: int = 0, rounds: Any = None) -> Any:
        """One aggregator's supply and demand by unit cost, and where they meet; rounds: the trace of an auction
        (`mktopt.agents.algorithm1`), as a cobweb. Returns the Axes. Raises UnknownNameError, and MktoptError for a
        clearing of orders."""
        from mktopt.clearing.auction_plots import draw_crossing

        self._price(period)
        people = prosumers_of(self.clearing).of_aggregator(name)
        table = self._aggregators(period)
        row = table[table["aggregator"] == name]
        ax = new_axes(ax)
        draw_crossing(ax, people, float(row["p_kw"].iloc[0]), float(row["unit_cost"].iloc[0]), rounds)
        ax.set_title(self._title(f"aggregator {name}", period), fontsize=11)
        return ax

    def convergence(self, ax: Any = None) -> Any:
        """Natural residual and welfare of each iteration of the auction. Returns the Axes; raises MktoptError where
        there was no iteration."""
        from mktopt.clearing.auction_plots import draw_convergence

        trace = self.clearing.trace
        if trace is None or not len(trace):
            raise MktoptError("nothing was iterated here: only an auction of prosumers with another method than "
                              "'central' leaves a trace")  # fmt: skip
        ax = new_axes(ax)
        draw_convergence(ax, trace)
        ax.set_title(self._title("convergence", None), fontsize=11)
        return ax

    def trades(self, ax: Any = None, period: int = 0) -> Any:
        """Who sends what over private wires, beside the public grid and its flows.

        Returns the Axes. Raises UnknownNameError for a period that is not there, MktoptError where no wire is private.
        """
        from mktopt.clearing.trade_plots import draw_trades, label_trades

        network = self.clearing.network
        self._price(period)  # refuses a period that is not there
        private = network.private
        if not private.any():
            raise MktoptError("no branch is private; add some with mktopt.add_private_wires or with_private_wires")
        at, own = positions(network)
        kw, _ = self._flows(period)
        ax = new_axes(ax, map_size(at) if own else (9.5, 6.0))
        ends = np.stack([at[network.from_index], at[network.to_index]], axis=1)
        draw_trades(ax, ends, kw, private)
        named = network.n_buses <= MOST_NAMED
        ax.scatter(*at.T, s=46.0 if named else 6.0, c="white" if named else "0.35", edgecolor="0.25", zorder=4)
        ax.scatter(*at[[network.source_index]].T, marker="s", s=170, facecolor="none", edgecolor="black", lw=1.4,
                   zorder=4, label="main grid")  # fmt: skip
        ax.set_aspect("equal", adjustable="datalim")
        ax.set_axis_off()
        ax.margins(0.08)
        found = self.clearing.coalition
        what = "trades" if found is None else f"{found.behaviour_in_words} trades"
        ax.set_title(self._title(what, period), fontsize=11)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False, fontsize=8.5, ncols=2)
        label_trades(ax, at, ends, kw, private, network.buses["bus"].tolist() if named else [])
        return ax

    def _prosumer_curves(self, ax: Any, period: int) -> Any:
        from mktopt.clearing.auction_plots import draw_curves

        self._price(period)
        cost = self._aggregators(period)["unit_cost"].to_numpy(float)
        draw_curves(ax, prosumers_of(self.clearing), cost)
        ax.set_xlabel("quantity [kW]")
        ax.set_ylabel("price [\\$/kWh]")
        ax.set_title(self._title("supply and demand of the agents", period), fontsize=11)
        ax.legend(frameon=False, fontsize=8.5, loc="best")
        ax.grid(alpha=0.25)
        return ax

    # -- data ---------------------------------------------------------------------------------------------------

    def _price(self, period: int) -> FloatArray:
        """Price of each bus in `period`, shape (n_buses,)."""
        periods = self.clearing.network.periods
        if period not in periods:
            raise unknown_name("period", str(period), map(str, periods))
        prices: FloatArray = self.clearing.prices["price"].to_numpy(float).reshape(-1, len(periods))[:, period]
        return prices

    def _parts(self, period: int) -> Any:
        """The rows of `price_parts` in `period`, bus by bus."""
        self._price(period)  # refuses a period that is not there
        parts = self.clearing.price_parts
        return parts[parts["period"] == period]

    def _part(self, part: str, period: int) -> FloatArray:
        """One part of the price of each bus in `period`, shape (n_buses,)."""
        from mktopt.clearing.price_parts import PARTS

        if part not in PARTS:
            raise unknown_name("part of the price", part, PARTS)
        values: FloatArray = self._parts(period)[part].to_numpy(float)
        return values

    def _flows(self, period: int) -> tuple[FloatArray, FloatArray]:
        """(kW, percent of the rating) of each branch in service; NaN where the flow has no branch flows."""
        flows, n = self.clearing.flows, self.clearing.network.n_branches
        if not len(flows):
            return np.full(n, np.nan), np.full(n, np.nan)
        here = flows[flows["period"] == period]
        return here["p_kw"].to_numpy(float), here["loading_percent"].to_numpy(float)

    def _aggregators(self, period: int) -> Any:
        """The rows of `aggregators` in `period`."""
        table: Any = self.clearing.aggregators
        return table[table["period"] == period]

    def _dispatch(self, period: int) -> Any:
        dispatch = self.clearing.dispatch
        return dispatch[dispatch["period"] == period]

    def _sellers(self, period: int) -> npt.NDArray[np.int64]:
        """Positions of buses where an offer sells."""
        dispatch = self._dispatch(period)
        least = 1e-7 * max(1.0, float(dispatch["quantity_kw"].max() if len(dispatch) else 0.0))
        sold = dispatch[(dispatch["side"] == "offer") & (dispatch["quantity_kw"] > least)]
        return np.unique(self.clearing.network.bus_positions(sold["bus"]))

    def _title(self, what: str, period: int | None) -> str:
        network = self.clearing.network
        when = f", period {period}" if len(network.hours) > 1 and period is not None else ""
        return f"{network.name}: {what}{when}\n{self.clearing.mechanism} market, {self.clearing.flow} flow"

    # -- price pictures -----------------------------------------------------------------------------------------

    def _price_profile(self, ax: Any, price: FloatArray, period: int) -> None:
        from matplotlib.collections import LineCollection

        network = self.clearing.network
        few = network.n_buses <= MOST_DETAILED
        way, label = distances(network)
        points = np.column_stack([way, price])
        ends = np.stack([points[network.from_index], points[network.to_index]], axis=1)
        full = self._flows(period)[1] >= FULL_PERCENT
        ax.add_collection(LineCollection(list(ends[~full]), colors=WIRE, linewidths=1.0, zorder=1))
        if full.any():
            thick = 2.0 if few else 0.6
            limit = LineCollection(list(ends[full]), colors=RED, linewidths=thick, linestyles="--", zorder=2)
            limit.set_label("branch at its limit")
            ax.add_collection(limit)
        size = 30 if network.n_buses <= MOST_NAMED else 6
        consumes = np.isin(np.arange(network.n_buses), network.bus_positions(self._bids(period)["bus"]))
        ax.scatter(way[~consumes], price[~consumes], s=0.5 * size, color="0.6", zorder=3, label="bus without bids")
        ax.scatter(way[consumes], price[consumes], s=size, color=BID, zorder=4, label="bus with bids")
        sells = self._sellers(period)
        if few or len(sells) <= 20:
            ax.scatter(way[sells], price[sells], s=2.2 * size, marker="^", facecolor="none", edgecolor=OFFER, lw=1.4,
                       zorder=5, label="supply that sells")  # fmt: skip
        ax.set_xlabel(label)
        ax.legend(frameon=False, fontsize=8.5, loc="best")
        ax.grid(alpha=0.25)

    def _bids(self, period: int) -> Any:
        dispatch = self._dispatch(period)
        return dispatch[dispatch["side"] == "bid"]

    def _price_map(self, ax: Any) -> Any:
        network = self.clearing.network
        order = sequence(network)
        table = self.clearing.prices["price"].to_numpy(float).reshape(-1, len(network.hours))
        image = ax.imshow(table[order], aspect="auto", cmap=COLOURS, interpolation="nearest", **colour_span(table))
        ax.figure.colorbar(image, ax=ax, label="price [\\$/kWh]")
        if network.n_buses <= MOST_NAMED:
            names = network.buses["bus"].to_numpy()[order]
            ax.set_yticks(range(len(names)), names, fontsize=8 if len(names) <= 25 else 6.5)
            ax.set_ylabel("bus (from the source outwards)")
        else:
            ax.set_ylabel("buses, from the source outwards")
        if len(network.hours) <= 24:
            ax.set_xticks(range(len(network.hours)))
        ax.set_xlabel("period")
        ax.set_title(self._title("price at each bus and period", None), fontsize=11)
        return ax

    # -- parts of the network -----------------------------------------------------------------------------------

    def _branches(self, ax: Any, ends: FloatArray, period: int) -> npt.NDArray[np.int64]:
        """Draws the branches; returns the positions of those at their limit."""
        from matplotlib.collections import LineCollection

        kw, percent = self._flows(period)
        small = len(ends) <= MOST_ARROWS
        share = np.nan_to_num(np.abs(kw)) / max(float(np.nan_to_num(np.abs(kw)).max(initial=0.0)), 1e-9)
        width = (0.8 + 3.7 * share) if small else (0.4 + 2.1 * share)
        full = percent >= FULL_PERCENT
        unit = "wider: more kW" if np.isfinite(kw).any() else ""
        wires = LineCollection(list(ends[~full]), colors=WIRE, linewidths=width[~full], capstyle="round", zorder=1)
        wires.set_label(f"branch ({unit})" if unit else "branch")
        ax.add_collection(wires)
        if full.any():
            limit = LineCollection(list(ends[full]), colors=RED, linewidths=width[full] + 1.2, zorder=2)
            limit.set_label("branch at its limit")
            ax.add_collection(limit)
        if small:
            flow_arrows(ax, ends, kw, share)
        return np.flatnonzero(full)

    def _buses(self, ax: Any, at: FloatArray, price: FloatArray, label: str) -> None:
        n = len(at)
        size = 46.0 if n <= MOST_NAMED else float(np.clip(12_000 / n, 4.0, 30.0))
        dots = ax.scatter(*at.T, c=price, s=size, cmap=COLOURS, edgecolor="0.35", lw=0.5 if n <= 200 else 0.0,
                          zorder=3, plotnonfinite=True, **colour_span(price))  # fmt: skip
        bar = ax.figure.colorbar(dots, ax=ax, shrink=0.75, pad=0.02, label=f"{label} [\\$/kWh]")
        bar.outline.set_visible(False)

    def _supplies(self, ax: Any, at: FloatArray, period: int) -> None:
        source, sells = self.clearing.network.source_index, self._sellers(period)
        size = 105 if len(at) <= MOST_NAMED else 40
        if len(sells) <= max(20, 0.2 * len(at)):
            ax.scatter(*at[sells].T, marker="^", s=1.5 * size, facecolor="none", edgecolor=OFFER, lw=1.6, zorder=5,
                       label="supply that sells")  # fmt: skip
        ax.scatter(*at[[source]].T, marker="s", s=1.6 * size, facecolor="none", edgecolor="black", lw=1.4, zorder=4,
                   label="source")  # fmt: skip

    def _names(
        self, ax: Any, at: FloatArray, ends: FloatArray, full: npt.NDArray[np.int64], period: int
    ) -> None:
        """The kW of branches at their limit; the names of the buses where they are few enough to be read."""
        network = self.clearing.network
        kw, _ = self._flows(period)
        names = [f"{abs(kw[branch]):,.0f} kW" for branch in full.tolist()]
        where, reach = ends[full].mean(axis=1), np.full(len(full), 6.0)
        if network.n_buses <= MOST_NAMED:
            marked = np.isin(np.arange(network.n_buses), [*self._sellers(period), network.source_index])
            close = np.abs(at - at[network.source_index]).max(axis=1) < 0.01 * np.ptp(at, axis=0).max(initial=1e-9)
            marked |= close  # beneath the source's square
            names += network.buses["bus"].tolist()
            where, reach = np.r_[where, at], np.r_[reach, np.where(marked, 8.5, 5.0)]
        place_names(ax, names, where, ends, 7.5, reach, bold=len(full))
