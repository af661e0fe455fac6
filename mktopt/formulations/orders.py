"""The block of bids and offers that every market over `Orders` shares.

    0 <= x_s <= width_s                          accepted kW of segment s           model.segment_kw[order, period, s]
    q_o = sum_s x_s  >= minimum_o                accepted kW of order o             model.accepted_kw[order, period]
    x_s = width_s y_o,  y_o in {0, 1}            orders that are all or nothing     model.whole[order, period]
    S_t = sum_bids (a x - 1/2 beta x^2) - sum_offers (c x + 1/2 delta x^2)          model.surplus[period]  [$/h]

a, c = price_start [$/kWh]; beta, delta = |price_end - price_start| / width [$/kWh per kW].
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (2)-(5), and its objective in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.numeric_expr import MonomialTermExpression, ProductExpression, SumExpression

from mktopt.formulations.changing import SegmentData, segment_data, set_bounds
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def declare_orders(model: Any, network: Network, orders: Orders) -> Injections:
    """Declares `segment_kw`, `accepted_kw`, `whole` and `surplus` on `model`; returns the injections of the buses.

    Raises DataError where the orders do not fit the network.
    """
    orders.check(network)
    model.periods = pyo.Set(initialize=list(network.periods))
    table = orders.segments
    index = list(zip(table["order"], table["period"].tolist(), table["segment"].tolist(), strict=True))
    data = segment_data(model, orders, index)
    _segments(model, index, data)
    _accepted(model, orders)
    _all_or_nothing(model, orders)
    _surplus(model, orders, data)
    return Injections(model, network, orders)


def _segments(model: Any, index: list[tuple[str, int, int]], data: SegmentData) -> None:
    """`segment_kw` with its bounds; a minimum is the lower bound of the segments that it fills.

    A curve is best taken from its start, so the bound on the sum and the bounds on its first segments have the same
    optima, and bounds cost a solver nothing.
    """
    model.segments = pyo.Set(initialize=index, dimen=3)
    model.segment_kw = pyo.Var(model.segments)
    set_bounds(model.segment_kw.values(), data.lower, data.upper)


def _accepted(model: Any, orders: Orders) -> None:
    variables = list(model.segment_kw.values())
    keys = list(zip(orders.orders["order"], orders.orders["period"].tolist(), strict=True))
    first = [*orders.curves.first.tolist(), len(variables)]
    sums = {
        key: variables[first[row]]
        if first[row + 1] - first[row] == 1
        else LinearExpression(
            linear_coefs=[1.0] * (first[row + 1] - first[row]), linear_vars=variables[first[row] : first[row + 1]]
        )
        for row, key in enumerate(keys)
    }
    model.orders = pyo.Set(initialize=keys, dimen=2)
    model.accepted_kw = pyo.Expression(model.orders, rule=lambda _, order, period: sums[order, period])


def _all_or_nothing(model: Any, orders: Orders) -> None:
    rows = np.flatnonzero(orders.orders["all_or_nothing"].to_numpy())
    chosen = orders.orders.iloc[rows]
    keys = list(zip(chosen["order"], chosen["period"].tolist(), strict=True))
    model.whole_orders = pyo.Set(initialize=keys, dimen=2)
    model.whole = pyo.Var(model.whole_orders, domain=pyo.Binary)
    tied = np.isin(orders.segment_order, rows)
    index = [key for key, take in zip(model.segment_kw, tied, strict=True) if take]
    model.whole_segments = pyo.Set(initialize=index, dimen=3)

    def rule(model: Any, order: str, period: int, segment: int) -> Any:
        x = model.segment_kw[order, period, segment]
        return x == x.upper * model.whole[order, period]

    model.accepted_whole = pyo.Constraint(model.whole_segments, rule=rule)


def _surplus(model: Any, orders: Orders, data: SegmentData) -> None:
    """`surplus[t]`; an order that is all or nothing enters by its whole value, so the model stays linear in it."""
    curves, period = orders.curves, orders.segments["period"].to_numpy()
    sign = -orders.injection_sign[curves.owner]
    whole = orders.orders["all_or_nothing"].to_numpy()
    free = ~whole[curves.owner]
    variables = np.array(list(model.segment_kw.values()), dtype=object)
    linear, quadratic = sign * data.price, -0.5 * data.slope
    value = -orders.injection_sign * data.value
    sums = {}
    for t in model.periods:
        here = free & (period == t)
        at = np.flatnonzero(whole & (orders.orders["period"].to_numpy() == t))
        binaries = [model.whole[orders.orders.at[row, "order"], t] for row in at]
        affine = LinearExpression(
            linear_coefs=[*linear[here].tolist(), *value[at].tolist()],
            linear_vars=[*variables[here].tolist(), *binaries],
        )
        curved = here & data.sloped
        squares = [
            ProductExpression((MonomialTermExpression((coefficient, x)), x))
            for coefficient, x in zip(quadratic[curved].tolist(), variables[curved].tolist(), strict=True)
        ]
        sums[t] = SumExpression([affine, *squares])
    model.surplus = pyo.Expression(model.periods, rule=lambda _, t: sums[t])


class Injections:
    """Power that orders and shunts put into each bus and period, as linear Pyomo expressions [kW].

    `injection[bus, period]` is accepted offers - accepted bids - g_kw of the shunts, positive into the grid.
    `terms(bus, period)` gives the same as (coefficients, variables, constant), from which a flow builds its rows
    without walking over expressions.
    """

    def __init__(self, model: Any, network: Network, orders: Orders) -> None:
        periods = len(network.hours)
        owner = orders.segment_order
        bus = network.bus_positions(orders.orders["bus"])
        key = (bus * periods + orders.orders["period"].to_numpy())[owner]
        sequence = np.argsort(key, kind="stable")
        bounds = np.searchsorted(key[sequence], np.arange(network.n_buses * periods + 1))
        variables = list(model.segment_kw.values())
        self._bounds: list[int] = bounds.tolist()
        self._variables = [variables[k] for k in sequence.tolist()]
        self._signs: list[float] = orders.injection_sign[owner][sequence].tolist()
        self._constant: list[float] = (-network.shunt_kw).tolist()
        self._periods = periods
        self._bus_index = network.bus_index
        self.orders = orders

    def terms(self, bus: int, period: int) -> tuple[list[float], list[Any], float]:
        """(coefficients, variables, constant [kW]) of the injection at the bus in position `bus`."""
        at = bus * self._periods + period
        here = slice(self._bounds[at], self._bounds[at + 1])
        return self._signs[here], self._variables[here], self._constant[bus]

    def __getitem__(self, key: tuple[str, int]) -> Any:
        coefficients, variables, constant = self.terms(self._bus_index[key[0]], key[1])
        return LinearExpression(constant=constant, linear_coefs=coefficients, linear_vars=variables)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((bus, period) for bus in self._bus_index for period in range(self._periods))

