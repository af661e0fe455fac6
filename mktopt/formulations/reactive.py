"""Reactive power that orders draw and give, for the flows that carry it.

    q_b = sum_{o at b} sign_o kvar_o + source,      kvar_o = tan_phi_o accepted_o   or   q_min_o <= kvar_o <= q_max_o

sign_o: +1 for offers (which give kvar_o), -1 for bids (which draw it); q_b: injection of bus b [kvar]. An order with a
reactive range gives or draws within it whether it trades or not: `reactive_kvar[order, period]`. Reactive power is free
at the source bus, `source_kvar[period]`, unless an offer there has a range, which is then its limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from mktopt.formulations.changing import set_bounds
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


class ReactiveInjections:
    """The reactive injections of a market's orders; declares `reactive_kvar` and `source_kvar` on the flow's block.

    `terms(bus, period)` is like that of `mktopt.formulations.orders.Injections`, in kvar; shunts are not in it.
    """

    def __init__(self, block: Any, network: Network, injection: Injections) -> None:
        orders = injection.orders
        periods = len(network.hours)
        at = network.bus_positions(orders.orders["bus"]) * periods + orders.orders["period"].to_numpy()
        ranged = ~np.isnan(orders.orders["q_min_kvar"].to_numpy())
        free = _ranges(block, orders, np.flatnonzero(ranged))
        slope = np.where(ranged, 0.0, orders.orders["tan_phi"].to_numpy()) * orders.injection_sign
        owner = orders.segment_order
        tied = np.flatnonzero(slope[owner])
        segments = np.array([*block.model().segment_kw.values(), None], dtype=object)[:-1]
        source = _source(block, network, orders, ranged)
        free_at = network.source_index * periods + np.array(list(source), dtype=np.int64)
        row = np.r_[at[owner[tied]], at[ranged], free_at]
        coefficient = np.r_[slope[owner[tied]], orders.injection_sign[ranged], np.ones(len(source))]
        variables = [*segments[tied], *free, *source.values()]
        sequence = np.argsort(row, kind="stable")
        self._starts: list[int] = np.searchsorted(row[sequence], np.arange(network.n_buses * periods + 1)).tolist()
        self._coefficients: list[float] = coefficient[sequence].tolist()
        self._variables = [variables[k] for k in sequence.tolist()]
        self._periods = periods

    def terms(self, bus: int, period: int) -> tuple[list[float], list[Any], float]:
        """(coefficients, variables, constant [kvar]) of the injection at the bus in position `bus`."""
        at = bus * self._periods + period
        here = slice(self._starts[at], self._starts[at + 1])
        return self._coefficients[here], self._variables[here], 0.0


def _ranges(block: Any, orders: Orders, rows: Any) -> list[Any]:
    """`reactive_kvar` of the order rows with a reactive range."""
    table = orders.orders.iloc[rows]
    keys = list(zip(table["order"], table["period"].tolist(), strict=True))
    block.reactive_kvar = pyo.Var(pyo.Set(initialize=keys, dimen=2))
    variables = list(block.reactive_kvar.values())
    set_bounds(variables, table["q_min_kvar"].to_numpy(), table["q_max_kvar"].to_numpy())
    return variables


def _source(block: Any, network: Network, orders: Orders, ranged: Any) -> dict[int, Any]:
    """`source_kvar` of the periods in which no offer at the source bus has a reactive range."""
    limits = ranged & ~orders.is_bid & (orders.orders["bus"] == network.source_bus).to_numpy()
    limited = set(orders.orders["period"].to_numpy()[limits].tolist())
    block.source_kvar = pyo.Var([t for t in network.periods if t not in limited])
    return dict(block.source_kvar.items())
