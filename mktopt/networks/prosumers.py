"""Prosumers: agents with a concave utility of what they consume and some generation of their own.

A prosumer with generation g that takes p from the grid (gives, where p < 0) consumes x = p + g >= 0, which is worth
u(x) to it: one of the forms of `mktopt.networks.utilities`, or a form of its owner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault, unknown_name
from mktopt.networks.orders import Orders
from mktopt.networks.tables import MAX_FAULTS, Column, duplicates, read_csv, read_table, refuse
from mktopt.networks.utilities import LOG, QUADRATIC, UTILITIES, Utility

if TYPE_CHECKING:
    from pathlib import Path

    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]

__all__ = ["LOG", "PROSUMER_COLUMNS", "QUADRATIC", "Prosumers"]

PROSUMER_COLUMNS = (
    Column("agent", "text"),
    Column("bus", "text"),
    Column("aggregator", "text", default=""),
    Column("utility", "text"),
    Column("a"),
    Column("b"),
    Column("generation_kw", default=0.0, low=0.0, missing=True),
)


@dataclass(frozen=True, eq=False)
class Prosumers:
    """Agents with utilities, frozen and validated; every array below has one entry per row of `table`.

    table: agent, bus, aggregator (default: the bus), utility (log | quadratic | a key of `utilities`), a, b,
    generation_kw (0). Log: a in $/h, b in kW. Quadratic: a in $/kWh, b in $/kWh per kW; both must be positive.
    utilities: forms of one's own by name (see `mktopt.own_utility`), with any finite a and b. Raises DataError with
    every fault.
    """

    table: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)
    utilities: Mapping[str, Utility] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        _refuse_records(self.utilities)
        table = read_table(self.table, "prosumers", PROSUMER_COLUMNS, faults, "agent")
        duplicates(table, "prosumers", "agent", faults)
        _check_forms(table, {**UTILITIES, **self.utilities}, faults)
        refuse(faults)
        own = (table["aggregator"] == "").to_numpy()
        table.loc[own, "aggregator"] = table.loc[own, "bus"]
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "utilities", dict(self.utilities))

    @classmethod
    def from_csv(cls, path: str | Path, utilities: Mapping[str, Utility] | None = None) -> Prosumers:
        """Prosumers from a CSV file with the columns of `table`; a file holds names of `utilities`, not functions."""
        frame = read_csv(path)
        if len(frame) == 0:
            raise DataError(Fault(str(path), "the file has a header but no rows", hint="add at least one agent"))
        return cls(frame, utilities=dict(utilities or {}))

    def to_csv(self, path: str | Path) -> None:
        """Writes the table; `from_csv` reads it back unchanged."""
        from mktopt.networks.files import write_text

        write_text(path, self.table.to_csv(index=False, lineterminator="\n"))

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        groups = self.table["aggregator"].nunique()
        return f"Prosumers({len(self)} agents at {self.table['bus'].nunique()} buses, {groups} aggregators)"

    # -- utility --------------------------------------------------------------------------------------------

    @cached_property
    def is_log(self) -> npt.NDArray[np.bool_]:
        """Whether each agent has logarithmic utility."""
        return (self.table["utility"] == LOG).to_numpy()

    @cached_property
    def forms(self) -> list[str]:
        """The name of each agent's utility: column `utility` of `table`, as a list."""
        return [str(name) for name in self.table["utility"]]

    @cached_property
    def a(self) -> FloatArray:
        """Parameter a of each agent."""
        return self.table["a"].to_numpy(float)

    @cached_property
    def b(self) -> FloatArray:
        """Parameter b of each agent."""
        return self.table["b"].to_numpy(float)

    @cached_property
    def generation_kw(self) -> FloatArray:
        """Own generation g of each agent [kW]."""
        return self.table["generation_kw"].to_numpy(float)

    def utility(self, x_kw: npt.ArrayLike) -> FloatArray:
        """Utility u(x) of consuming `x_kw` [$/h]; `x_kw` broadcasts against the agents (last axis)."""
        return self._evaluated("value", x_kw)

    def marginal(self, x_kw: npt.ArrayLike) -> FloatArray:
        """Marginal utility u'(x) at consumption `x_kw` [$/kWh]; `x_kw` broadcasts against the agents."""
        return self._evaluated("marginal", x_kw)

    def curvature(self, x_kw: npt.ArrayLike) -> FloatArray:
        """u''(x) < 0 at consumption `x_kw` [$/kWh per kW]; `x_kw` broadcasts against the agents."""
        return self._evaluated("curvature", x_kw)

    def demand_at(self, price: npt.ArrayLike) -> FloatArray:
        """Consumption x >= 0 with u'(x) = `price` [kW], 0 where even the first unit is worth less.

        `price` [$/kWh] broadcasts against the agents. At a price <= 0 a logarithmic agent has no limit: inf.
        """
        return self._evaluated("demand", price)

    @cached_property
    def _forms(self) -> list[tuple[Utility, npt.NDArray[np.int64]]]:
        """The utilities that occur, each with the rows of its agents."""
        known = {**UTILITIES, **self.utilities}
        names = self.table["utility"].to_numpy(dtype=object)
        return [(known[name], np.flatnonzero(names == name)) for name in dict.fromkeys(names)]

    def _evaluated(self, curve: str, at: npt.ArrayLike) -> FloatArray:
        """A curve of the agents' utilities at x or price `at` (broadcasts, last axis the agents)."""
        given = np.asarray(at, dtype=float)
        if len(self._forms) == 1:
            return np.asarray(getattr(self._forms[0][0], curve)(given, self.a, self.b), dtype=float)
        shape = np.broadcast_shapes(given.shape, (len(self),))
        given, found = np.broadcast_to(given, shape), np.empty(shape)
        for utility, rows in self._forms:
            found[..., rows] = getattr(utility, curve)(given[..., rows], self.a[rows], self.b[rows])
        return found

    def refuse_not_concave(self) -> None:
        """Raises DataError where an own utility is not strictly concave, or not finite, at its test points.

        The two built-in forms are concave by their positive parameters. See `mktopt.networks.concavity`.
        """
        from mktopt.networks.concavity import refuse_not_concave

        refuse_not_concave(self)

    # -- aggregators ------------------------------------------------------------------------------------------

    @cached_property
    def group(self) -> npt.NDArray[np.int64]:
        """Position of each agent's aggregator in `aggregators`."""
        return np.asarray(pd.factorize(self.table["aggregator"])[0], dtype=np.int64)

    @cached_property
    def aggregators(self) -> pd.DataFrame:
        """aggregator, bus, agents (how many), generation_kw (their sum), in sequence of first appearance.

        Raises DataError where agents of one aggregator stand at different buses: it takes its power at one.
        """
        self._refuse_scattered()
        grouped = self.table.groupby("aggregator", sort=False)
        found = grouped.agg(bus=("bus", "first"), agents=("agent", "size"), generation_kw=("generation_kw", "sum"))
        return found.reset_index()

    def of_aggregator(self, name: str) -> Prosumers:
        """The agents of one aggregator, as prosumers of their own; raises UnknownNameError."""
        here = (self.table["aggregator"] == name).to_numpy()
        if not here.any():
            raise unknown_name("aggregator", name, self.aggregators["aggregator"])
        return replace(self, table=self.table[here].reset_index(drop=True))

    def _refuse_scattered(self) -> None:
        first = self.table.groupby("aggregator", sort=False)["bus"].transform("first")
        astray = self.table[self.table["bus"] != first].drop_duplicates("aggregator").head(MAX_FAULTS)
        hint = "an aggregator has one bus; name another aggregator for the agents elsewhere"
        faults = []
        for row, agent, bus, name in astray[["agent", "bus", "aggregator"]].itertuples():
            problem = f"the agents of aggregator {name!r} stand at different buses, {first[row]!r} and {bus!r}"
            faults.append(Fault("prosumers", problem, agent, "bus", bus, hint))
        refuse(faults)

    # -- as orders --------------------------------------------------------------------------------------------

    def to_orders(self, max_error: float | None = None, periods: int = 1) -> Orders:
        """The same people as bids and offers: what an agent consumes beyond its generation is a bid, what it gives
        away of it an offer, both along its marginal utility.

        bid:   price u'(g + q),  q from 0 to where it reaches 0        (order "<agent>:bid")
        offer: price u'(g - q),  q from 0 to g                         (order "<agent>:offer")

        Quadratic agents are exact. A logarithmic curve becomes affine segments whose price is nowhere more than
        `max_error` [$/kWh] off and which end where it falls to `max_error`; without `max_error` it is refused.
        `meta` of the result has `max_price_error`: the error attained. periods: how many periods repeat the orders.
        """
        self._refuse_own_forms()
        if self.is_log.any() and max_error is None:
            agent = self.table["agent"][int(np.argmax(self.is_log))]
            raise DataError(Fault(
                "prosumers", "logarithmic utility cannot become orders exactly", agent, "utility", LOG,
                "pass max_error, the price error that you accept in $/kWh, e.g. to_orders(max_error=1e-3)",
            ))  # fmt: skip
        if max_error is not None and not (np.isfinite(max_error) and max_error > 0):
            raise DataError(Fault("prosumers", "max_error must be a finite price above zero", value=max_error))
        steps, error = self._segments(max_error or 0.0)
        frame = pd.concat([steps.assign(period=period) for period in range(periods)], ignore_index=True)
        orders = frame.drop_duplicates(["order", "period"])[["order", "period", "participant", "bus", "side"]]
        columns = ["order", "period", "segment", "width_kw", "price_start", "price_end"]
        return Orders(orders, frame[columns], {**self.meta, "max_price_error": error})

    def _refuse_own_forms(self) -> None:
        own = self.table["utility"].isin(list(self.utilities)).to_numpy()
        if own.any():
            agent, name = self.table[["agent", "utility"]].iloc[int(np.argmax(own))]
            raise DataError(Fault(
                "prosumers", "a utility of one's own cannot become orders: nothing bounds the error of its segments",
                agent, "utility", name, "use a mechanism that takes utilities as they are (gne), or log | quadratic",
            ))  # fmt: skip

    def _segments(self, max_error: float) -> tuple[pd.DataFrame, float]:
        """One row per segment, and the largest price error of any."""
        g = self.generation_kw
        satisfied = np.where(self.is_log, self.a / max(max_error, 1e-300) - self.b, self.a / self.b)
        parts, errors = [], [0.0]
        for side, far in (("bid", np.maximum(satisfied, g)), ("offer", np.zeros(len(g)))):
            used = np.flatnonzero(np.abs(far - g) > 1e-12 * np.maximum(1.0, g))
            agent, edges, error = self._edges(used, g[used], far[used], max_error)
            start, end = edges[:-1], edges[1:]
            inner = agent[:-1] == agent[1:]
            owner = agent[:-1][inner]
            first = np.r_[True, owner[1:] != owner[:-1]] if len(owner) else np.zeros(0, dtype=bool)
            number = np.arange(len(owner)) - np.maximum.accumulate(np.where(first, np.arange(len(owner)), 0))
            name = self.table["agent"].to_numpy()[owner]
            parts.append(pd.DataFrame({
                "order": name + f":{side}",
                "participant": name,
                "bus": self.table["bus"].to_numpy()[owner],
                "side": np.full(len(owner), side, dtype=object),
                "segment": number,
                "width_kw": np.abs(end - start)[inner],
                "price_start": self._marginal_of(owner, start[inner]),
                "price_end": self._marginal_of(owner, end[inner]),
            }))  # fmt: skip
            errors.append(error)
        if any(self.is_log & (satisfied > g)):
            errors.append(max_error)  # where the bid ends the next unit is still worth this much
        return pd.concat(parts, ignore_index=True), max(errors)

    def _edges(
        self, rows: npt.NDArray[np.int64], near: FloatArray, far: FloatArray, max_error: float
    ) -> tuple[npt.NDArray[np.int64], FloatArray, float]:
        """Consumption at the ends of the segments of agents `rows`, from `near` to `far`: agent, x, largest error.

        The chord of a / x over prices p0 > p1 is too high by at most (sqrt(p0) - sqrt(p1))^2, so that equal steps
        of sqrt(p) use as few segments as the error allows.
        """
        log = self.is_log[rows]
        root = np.sqrt(np.maximum([self._marginal_of(rows, near), self._marginal_of(rows, far)], 0.0))
        span = np.where(log, root[1] - root[0], 0.0)
        pieces = np.ones(len(rows), dtype=np.int64)
        if log.any():
            pieces[log] = np.maximum(1, np.ceil(np.abs(span[log]) / np.sqrt(max_error) - 1e-9)).astype(np.int64)
        error = float(np.max((span / pieces) ** 2, initial=0.0))
        count = pieces + 1
        step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        share = step / np.repeat(pieces, count)
        agent = np.repeat(rows, count)
        linear = np.repeat(near, count) + share * np.repeat(far - near, count)
        price = (np.repeat(root[0], count) + share * np.repeat(span, count)) ** 2
        hyperbola = self.a[agent] / np.where(np.repeat(log, count), price, 1.0) - self.b[agent]
        x = np.where(np.repeat(log, count), hyperbola, linear)
        x[step == 0], x[share == 1.0] = near, far
        return agent, x, error

    def _marginal_of(self, rows: npt.NDArray[np.int64], x: FloatArray) -> FloatArray:
        a, b = self.a[rows], self.b[rows]
        return np.where(self.is_log[rows], a / (b + x), a - b * x)

    # -- checks ------------------------------------------------------------------------------------------------

    def check(self, network: Network) -> None:
        """Raises DataError where an agent stands at a bus that `network` does not have."""
        from mktopt.networks.tables import unknown_values

        faults: list[Fault] = []
        unknown_values(self.table, "prosumers", "agent", "bus", network.buses["bus"], faults, "buses")
        refuse(faults)


def _refuse_records(utilities: Mapping[str, Any]) -> None:
    """Raises DataError where `utilities` is no mapping of new names to records."""
    for name, record in dict(utilities).items():
        if name in UTILITIES:
            raise DataError(Fault("utilities", "the name of a built-in utility", name, hint="choose another name"))
        if not isinstance(record, Utility):
            problem = f"expected a Utility, got {type(record).__name__}"
            raise DataError(Fault("utilities", problem, name, hint="make one with mktopt.own_utility(name, function)"))


def _check_forms(table: pd.DataFrame, known: Mapping[str, Utility], faults: list[Fault]) -> None:
    """Appends a fault for every unknown form of utility and every parameter that its form does not allow."""
    import difflib

    form = table["utility"]
    for row in np.flatnonzero(~form.isin(list(known)) & (form != ""))[:MAX_FAULTS]:
        close = difflib.get_close_matches(str(form[row]), list(known), n=1, cutoff=0.5)
        hint = (f"did you mean {close[0]!r}? " if close else "") + f"one of {', '.join(known)}"
        faults.append(Fault("prosumers", "unknown word", table["agent"][row], "utility", form[row], hint))
    strict = form.isin([name for name, utility in known.items() if utility.positive])
    for column in ("a", "b"):
        for row in np.flatnonzero(strict & (table[column] <= 0))[:MAX_FAULTS]:
            value = table[column][row]
            hint = "check sign and unit"
            faults.append(Fault("prosumers", "must be greater than zero", table["agent"][row], column, value, hint))
