"""The flows after each contingency, from those before it: what could exceed a limit, what does, and the worst of it.

    f^c = f + L_c f_c             after the loss of branch c
    f^c = f - sum_o H_b(o) q_o    after the loss of the offers o, whose power the substation picks up

L: line outage distribution factors; H: power transfer distribution factors with the source as slack; f: flows [kW];
q: accepted power [kW]. Dense matrices of branches by contingencies are made in parts, so that memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csc_array, diags_array

from mktopt.formulations.contingencies import BRANCH, Contingency
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TOLERANCE = 1e-7  # by which a flow may exceed its limit, relative to it
_REACH = 1e-9  # what could exceed its limit by no more than this, relative to it, cannot bind
_ENTRIES = 4_000_000  # numbers that are held at a time


class Rows(NamedTuple):
    """Rows of security, each array of shape (rows,): position of the contingency, of the branch, and the period."""

    contingency: IntArray
    branch: IntArray
    period: IntArray


class _Part(NamedTuple):
    """Some contingencies in one period: their positions, and |f| of every branch after each, (branches, part) [kW]."""

    contingencies: IntArray
    period: int
    after: FloatArray


class Outages:
    """What the contingencies of a market do to its flows.

    limit_kw: what each branch may carry after an outage, shape (branches,); has_flows: whether branches carry anything.
    Flows are of shape (branches, periods), accepted kW of shape (rows of `orders.orders`,).
    """

    def __init__(
        self,
        network: Network,
        orders: Orders,
        contingencies: Sequence[Contingency],
        limit_kw: FloatArray,
        has_flows: bool = True,
    ) -> None:
        self.network, self.orders, self.contingencies = network, orders, list(contingencies)
        self.limit_kw, self.has_flows = limit_kw, has_flows
        self._periods = len(network.hours)
        self._bus = network.bus_positions(orders.orders["bus"])
        self._period = orders.orders["period"].to_numpy()
        acting = [j for j, item in enumerate(self.contingencies) if not item.islands and has_flows]
        self._acting = {
            kind: [j for j in acting if (self.contingencies[j].kind == BRANCH) == kind] for kind in (True, False)
        }
        # in which periods there is anything to lose
        self._there = np.zeros((len(self.contingencies), self._periods), dtype=bool)
        for j, item in enumerate(self.contingencies):
            self._there[j, self._period[item.rows] if item.branch < 0 else slice(None)] = True

    @property
    def loses_orders(self) -> bool:
        """Whether any of the contingencies takes offers away, so that rows of security hold both flows and orders."""
        return bool(self._acting[False])

    def lost_orders(self, j: int, t: int) -> IntArray:
        """The rows of `orders.orders` that contingency `j` takes away in period `t`."""
        rows = self.contingencies[j].rows
        return np.asarray(rows[self._period[rows] == t])

    def transfer(self, branch: int, row: int) -> float:
        """H of `branch` and the bus of order row `row`."""
        return float(self.network.topology.ptdf[branch, self._bus[row]])

    def _parts(self) -> Iterator[list[int]]:
        """The acting contingencies in parts of one kind, small enough for dense matrices of (branches, part)."""
        size = max(1, _ENTRIES // max(self.network.n_branches, 1))
        for here in self._acting.values():
            yield from (here[k : k + size] for k in range(0, len(here), size))

    def _lost(self, part: list[int], t: int, flow_kw: FloatArray, order_kw: FloatArray) -> tuple[FloatArray, csc_array]:
        """What the outages of `part` take away in period t, and how every flow answers to it: (factors, lost).

        factors: dense, (branches, places); lost [kW]: sparse, (places, part); flow_kw: (branches,) in that period.
        """
        topology = self.network.topology
        if self.contingencies[part[0]].branch >= 0:
            out = [self.contingencies[j].branch for j in part]
            return topology.lodf[:, out], diags_array(flow_kw[out]).tocsc()
        rows = [self.lost_orders(j, t) for j in part]
        at = np.concatenate(rows)
        used, place = np.unique(self._bus[at], return_inverse=True)
        column = np.repeat(np.arange(len(part)), [len(item) for item in rows])
        lost = csc_array((order_kw[at], (place, column)), shape=(len(used), len(part)))
        factors = topology.ptdf[:, used]
        return -(factors.toarray() if hasattr(factors, "toarray") else factors), lost

    def _judged(self, flow_kw: FloatArray, order_kw: FloatArray) -> Iterator[_Part]:
        """The acting contingencies part by part and period by period, with the flows after each."""
        for part in self._parts():
            for t in range(self._periods):
                factors, lost = self._lost(part, t, flow_kw[:, t], order_kw)
                after = np.abs(flow_kw[:, t, None] + _product(factors, lost))
                yield _Part(np.array(part), t, self._without_the_lost(part, t, after))

    def _without_the_lost(self, part: list[int], t: int, after: FloatArray) -> FloatArray:
        """`after`, zero for the branch that is gone itself, and where there is nothing to lose in period t."""
        out = np.array([self.contingencies[j].branch for j in part])
        columns = np.flatnonzero(out >= 0)
        after[out[columns], columns] = 0.0
        after[:, ~self._there[part, t]] = 0.0
        return after

    def reachable(self) -> Iterator[Rows]:
        """The rows that could bind: the greatest flow that ratings and widths of orders allow is beyond the limit."""
        most, limit = self._most(), self.limit_kw[:, None] * (1 + _REACH)
        for part in self._parts():
            for t in range(self._periods):
                branch, k = np.nonzero(self._reach(part, t, most) > limit)
                yield Rows(np.array(part)[k], branch, np.full(len(k), t))

    def _reach(self, part: list[int], t: int, most: FloatArray) -> FloatArray:
        """The greatest |f| after each outage of `part` in period t [kW], (branches, part)."""
        lost = self._lost(part, t, most[:, t], self.orders.width_kw)
        return self._without_the_lost(part, t, most[:, t, None] + _greatest(*lost))

    def _most(self) -> FloatArray:
        """An upper bound on |f| of each branch and period [kW], shape (branches, periods)."""
        network, orders = self.network, self.orders
        most = np.zeros((network.n_buses, self._periods))
        for bids in (True, False):
            side = np.zeros_like(most)
            here = orders.is_bid == bids
            np.add.at(side, (self._bus[here], self._period[here]), orders.width_kw[here])
            most = np.maximum(most, side)  # what is drawn and what is given at a bus cancel
        most = most + np.abs(network.shunt_kw)[:, None]
        factors = abs(network.topology.ptdf)
        endless = np.isinf(most)
        reach = np.asarray(factors @ np.where(endless, 0.0, most))
        reach[np.asarray(factors @ endless.astype(float)) > _REACH] = np.inf
        reach += np.abs(network.topology.shift_flow_kw)[:, None]
        return np.minimum(reach, network.lines["rating_kva"].to_numpy()[:, None])

    def violated(self, flow_kw: FloatArray, order_kw: FloatArray, tight: bool = False) -> tuple[Rows, FloatArray]:
        """The rows that a dispatch violates, and by how much of the limit; with `tight` also those that just hold."""
        found, excess = [], []
        limit, most = self.limit_kw[:, None], self._most() if tight else flow_kw
        for part in self._judged(flow_kw, order_kw):
            over = part.after > limit * (1 - TOLERANCE if tight else 1 + TOLERANCE)
            if tight and over.any():  # a full branch that the outage does not touch just holds, whatever happens
                over &= self._reach(part.contingencies.tolist(), part.period, most) > limit * (1 + _REACH)
            branch, k = np.nonzero(over)
            found.append(Rows(part.contingencies[k], branch, np.full(len(k), part.period)))
            excess.append(part.after[branch, k] / self.limit_kw[branch] - 1.0)
        if not found:
            none = np.zeros(0, dtype=np.int64)
            return Rows(none, none, none), np.zeros(0)
        return Rows(*(np.concatenate(column) for column in zip(*found, strict=True))), np.concatenate(excess)

    def report(self, flow_kw: FloatArray, order_kw: FloatArray) -> pd.DataFrame:
        """What a dispatch makes of every contingency.

        Columns: contingency, kind, status ('secured', 'overloaded', 'islands: buses ...', 'no branch flows'),
        worst_branch and worst_period ('' and NA where no branch has a limit), loading_percent of its emergency rating.
        """
        n = len(self.contingencies)
        worst, branch, period = np.full(n, np.nan), np.full(n, -1), np.zeros(n, dtype=np.int64)
        limited = np.isfinite(self.limit_kw)
        for part in self._judged(flow_kw, order_kw) if limited.any() else ():
            loading = 100 * part.after / self.limit_kw[:, None]
            top = loading.argmax(axis=0)
            value = loading[top, np.arange(len(top))]
            more = ~(worst[part.contingencies] >= value)
            at = part.contingencies[more]
            worst[at], branch[at], period[at] = value[more], top[more], part.period
        names = np.append(self.network.lines["branch"].to_numpy(), "")
        return pd.DataFrame({
            "contingency": [item.name for item in self.contingencies],
            "kind": [item.kind for item in self.contingencies],
            "status": [self._status(item, worst[j]) for j, item in enumerate(self.contingencies)],
            "worst_branch": names[branch],
            "worst_period": pd.arrays.IntegerArray(period, branch < 0),
            "loading_percent": worst,
        })  # fmt: skip

    def _status(self, item: Contingency, loading: float) -> str:
        if item.islands:
            return item.island_text
        if not self.has_flows:
            return "no branch flows"
        return "overloaded" if loading > 100 * (1 + 1e-6) else "secured"


def _product(factors: FloatArray, lost: csc_array) -> FloatArray:
    """factors @ lost, for a dense and a sparse matrix."""
    return np.asarray((lost.T @ factors.T).T)


def _greatest(factors: FloatArray, lost: csc_array) -> FloatArray:
    """|factors| @ |lost|, where what is endless counts only through factors above rounding."""
    size, endless = abs(lost), abs(lost)
    endless.data = np.isinf(size.data).astype(float)
    size.data[np.isinf(size.data)] = 0.0
    total = _product(np.abs(factors), size)
    total[_product((np.abs(factors) > _REACH).astype(float), endless) > 0] = np.inf
    return total
