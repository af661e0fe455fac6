"""Whether a clearing's tables agree with each other, with its orders and with the multipliers that they state.

Each check of numbers gives a relative disagreement, 0 where the tables agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

from mktopt.clearing.optimality import Conditions, Expressions, max_of
from mktopt.clearing.pricing import PRICING
from mktopt.clearing.reactive import delivered_price, has_range, range_payment
from mktopt.clearing.result import Clearing, Evidence, FloatArray


def disagreement(clearing: Clearing, evidence: Evidence, found: Conditions, x: FloatArray, turnover: float) -> float:
    """The greatest disagreement of any two tables whose names agree."""
    return max_of(
        _welfare(clearing, found.objective, turnover),
        _payments(clearing, turnover),
        _faced_prices(clearing, evidence, found.pull),
        loadings_agree(clearing),
        _losses_agree(clearing),
        _reactive(clearing),
        slacks_agree(clearing, evidence, x),
    )


def names_agree(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether every table has the rows that it must have, in their sequence."""
    orders = clearing.orders.orders
    keys = ["order", "participant", "bus", "side", "period"]
    traded = _same_names(clearing.dispatch, orders[keys]) and _same_names(
        clearing.order_prices, orders[["order", "period"]]
    )
    return traded and grid_names_agree(clearing, evidence)


def grid_names_agree(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether the tables of the grid and of the user's constraints have the rows that they must have."""
    network = clearing.network
    per_bus = _product(network.buses["bus"], "bus", len(network.hours))
    per_branch = _product(network.lines["branch"], "branch", len(network.hours))
    own = pd.DataFrame({"name": [row.parent_component().name for row in evidence.own]})
    pairs = [
        (clearing.prices, per_bus),
        (clearing.constraints, own),
        (clearing.flows, per_branch if evidence.model.grid.component("p_kw") is not None else per_branch[:0]),
    ]
    for table, name in ((clearing.voltages, "v2"), (clearing.reactive_prices, "balance_q")):
        if (table is None) != (evidence.model.grid.component(name) is None):
            return False
        if table is not None:
            pairs.append((table, per_bus))
    return all(_same_names(table, expected) for table, expected in pairs)


def _same_names(table: pd.DataFrame, expected: pd.DataFrame) -> bool:
    return len(table) == len(expected) and all(
        bool((table[column].to_numpy() == expected[column].to_numpy()).all()) for column in expected
    )


def _product(names: pd.Series[Any], column: str, periods: int) -> pd.DataFrame:
    return pd.DataFrame({
        column: np.repeat(names.to_numpy(), periods),
        "period": np.tile(np.arange(periods), len(names)),
    })  # fmt: skip


def _welfare(clearing: Clearing, objective: float, turnover: float) -> FloatArray:
    """Reported welfare against the curves at the reported quantities, and against the model's objective."""
    orders = clearing.orders
    hours = clearing.network.hours[orders.orders["period"].to_numpy()]
    value = orders.curves.value(clearing.dispatch["quantity_kw"].to_numpy())
    counted = float(np.sum(-orders.injection_sign * hours * value))
    return np.abs(np.array([counted, objective]) - clearing.welfare) / turnover


def _payments(clearing: Clearing, turnover: float) -> FloatArray:
    """Paid prices against the pricing rule, and payments against price times energy."""
    orders, network, dispatch = clearing.orders, clearing.network, clearing.dispatch
    period = orders.orders["period"].to_numpy()
    where = network.bus_positions(orders.orders["bus"]) * len(network.hours) + period
    reactive = None if clearing.reactive_prices is None else clearing.reactive_prices["price"].to_numpy()[where]
    nodal = delivered_price(orders, clearing.prices["price"].to_numpy()[where], reactive)
    quantity, paid = dispatch["quantity_kw"].to_numpy(), dispatch["price"].to_numpy()
    rule = PRICING[clearing.options.get("pricing", "nodal")]
    error = rule.error(orders, quantity, nodal, paid) / _level(clearing)
    due = -orders.injection_sign * paid * quantity * network.hours[period]
    if rule.keeps_rent and "q_kvar" in dispatch:
        due += network.hours[period] * range_payment(orders, reactive, dispatch["q_kvar"].to_numpy())
    return np.r_[error, np.abs(due - dispatch["payment"].to_numpy()) / turnover]


def _faced_prices(clearing: Clearing, evidence: Evidence, pull: Any) -> FloatArray:
    """Order prices against the multipliers of all rows that contain the order's first segment.

    A row that only ties an order's own segments to its yes or no is the order's own affair and does not count.
    """
    orders, network = clearing.orders, clearing.network
    period = orders.orders["period"].to_numpy()
    at = {id(variable): column for column, variable in enumerate(evidence.variables)}
    segments = list(evidence.model.segment_kw.values())
    first = np.array([at.get(id(segments[k]), -1) for k in orders.curves.first], dtype=np.int64)
    ties = evidence.model.accepted_whole
    counts = np.array([row.parent_component() is not ties for row in evidence.rows], dtype=float)
    total = np.append(pull.T @ counts, 0.0)
    where = network.bus_positions(orders.orders["bus"]) * len(network.hours) + period
    reactive = None if clearing.reactive_prices is None else clearing.reactive_prices["price"].to_numpy()[where]
    nodal = delivered_price(orders, clearing.prices["price"].to_numpy()[where], reactive)
    faced = np.where(first >= 0, -orders.injection_sign * total[first] / network.hours[period], nodal)
    stated = clearing.order_prices["order_price"].to_numpy()
    return np.abs(stated - faced) / _level(clearing)


def carried_kva(flows: Any) -> FloatArray:
    """The apparent power at the end of each branch that carries more, from columns p_kw, q_kvar, to_kw, to_kvar.

    Without reactive power the mean of both ends, which flow `lossy` limits.
    """
    if "to_kw" in flows and "q_kvar" not in flows:
        return np.abs(mean_kw(flows))
    reactive = np.asarray(flows["q_kvar"], dtype=float) if "q_kvar" in flows else 0.0
    carried = np.hypot(np.asarray(flows["p_kw"], dtype=float), reactive)
    if "to_kw" in flows and "to_kvar" in flows:
        arriving = np.hypot(np.asarray(flows["to_kw"], dtype=float), np.asarray(flows["to_kvar"], dtype=float))
        carried = np.maximum(carried, arriving)
    return np.asarray(carried)


def mean_kw(flows: Any) -> FloatArray:
    """The mean of what leaves and what arrives over each branch [kW], from columns p_kw and, with losses, to_kw."""
    sent = np.asarray(flows["p_kw"], dtype=float)
    return 0.5 * (sent + np.asarray(flows["to_kw"], dtype=float)) if "to_kw" in flows else sent


def loadings_agree(clearing: Clearing) -> FloatArray:
    """Loadings against flows and ratings."""
    if not len(clearing.flows):
        return np.zeros(0)
    rating = np.repeat(clearing.network.lines["rating_kva"].to_numpy(), len(clearing.network.hours))
    loading = 100 * carried_kva(clearing.flows) / rating
    stated = clearing.flows["loading_percent"].to_numpy()
    return np.abs(stated - loading) / np.maximum(loading, 1.0)


def _losses_agree(clearing: Clearing) -> FloatArray:
    """Losses against what leaves and what arrives, over the greatest flow."""
    flows = clearing.flows
    if "loss_kw" not in flows or "to_kw" not in flows:
        return np.zeros(0)
    sent, arrived, lost = (flows[name].to_numpy(dtype=float) for name in ("p_kw", "to_kw", "loss_kw"))
    return np.abs(lost - (sent - arrived)) / max(float(np.abs(sent).max(initial=0.0)), 1e-12)


def _reactive(clearing: Clearing) -> FloatArray:
    """Reactive power that goes with active power against tan_phi."""
    if "q_kvar" not in clearing.dispatch:
        return np.zeros(0)
    orders, kvar = clearing.orders, clearing.dispatch["q_kvar"].to_numpy(dtype=float)
    due = orders.orders["tan_phi"].to_numpy() * clearing.dispatch["quantity_kw"].to_numpy()
    size = np.maximum(np.abs(due), 1e-3 * np.abs(due).max(initial=0.0) + 1e-12)
    return np.where(has_range(orders), 0.0, np.abs(kvar - due) / size)


def slacks_agree(clearing: Clearing, evidence: Evidence, x: FloatArray) -> FloatArray:
    """Slacks of the user's rows against their expressions."""
    body = Expressions([row.body for row in evidence.own], evidence.variables)
    value = body.value(x)
    low = [value[k] - float(pyo.value(row.lower)) if row.has_lb() else np.inf for k, row in enumerate(evidence.own)]
    high = [float(pyo.value(row.upper)) - value[k] if row.has_ub() else np.inf for k, row in enumerate(evidence.own)]
    slack = np.minimum(low, high)
    stated = clearing.constraints["slack"].to_numpy(dtype=float)
    with np.errstate(invalid="ignore"):
        apart = np.where(stated == slack, 0.0, np.abs(stated - slack))
    return apart / np.maximum(body.size(x), 1.0)


def _level(clearing: Clearing) -> float:
    """The size of prices by which differences between them are judged [$/kWh]."""
    prices, curves = np.abs(clearing.prices["price"].to_numpy()), np.abs(clearing.orders.curves.start)
    return max(float(np.nanmax(prices)), 1e-4 * float(curves.max()), 1e-12)
