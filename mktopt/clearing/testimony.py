"""What a clearing's tables say about its model: values of its variables, multipliers of its rows.

What no table has (angles, multipliers of the physics) is taken from the solver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mktopt.clearing.consistency import mean_kw
from mktopt.clearing.reactive import has_range
from mktopt.clearing.result import Clearing, Evidence, FloatArray


def values_of(clearing: Clearing, evidence: Evidence) -> FloatArray:
    """Values of `evidence.variables`: those of the tables where a table has them, shape (n,)."""
    model, curves = evidence.model, clearing.orders.curves
    x = evidence.values.copy()
    at = {id(variable): column for column, variable in enumerate(evidence.variables)}

    def put(component: Any, numbers: FloatArray) -> None:
        columns = np.array([at.get(id(v), -1) for v in component.values()], dtype=np.int64)
        x[columns[columns >= 0]] = numbers[columns >= 0]

    quantity = clearing.dispatch["quantity_kw"].to_numpy(dtype=float)
    filled = curves.fill(quantity)
    last = np.r_[curves.first[1:], len(filled)] - 1
    filled[curves.first] += np.minimum(quantity, 0.0)  # below zero and beyond the width must show as violations
    filled[last] += np.maximum(quantity - clearing.orders.width_kw, 0.0)
    put(model.segment_kw, filled)
    if len(model.whole):
        whole = clearing.orders.orders["all_or_nothing"].to_numpy()
        width = clearing.orders.width_kw[whole]
        share = np.divide(quantity[whole], width, out=np.zeros(len(width)), where=width > 0)
        put(model.whole, share)
    put_grid(clearing, model.grid, put)
    ranged = model.grid.component("reactive_kvar")
    if ranged is not None and len(ranged):
        put(ranged, clearing.dispatch["q_kvar"].to_numpy(dtype=float)[has_range(clearing.orders)])
    return x


def put_grid(clearing: Clearing, grid: Any, put: Callable[[Any, FloatArray], None]) -> None:
    """Calls `put` with each component of the flow's block and its values in the tables of flows and voltages."""
    if getattr(grid, "loss_shared", False):
        flows = clearing.flows
        put(grid.p_kw, mean_kw(flows))
        put(grid.loss_kw, flows["p_kw"].to_numpy(dtype=float) - flows["to_kw"].to_numpy(dtype=float))
        return
    for name in ("p_kw", "q_kvar", "to_kw", "to_kvar"):
        if (component := grid.component(name)) is not None:
            put(component, clearing.flows[name].to_numpy(dtype=float))
    if (v2 := grid.component("v2")) is not None and clearing.voltages is not None:
        put(v2, clearing.voltages["v_pu"].to_numpy(dtype=float) ** 2)


def multipliers_of(clearing: Clearing, evidence: Evidence) -> FloatArray:
    """Multipliers of `evidence.rows`: prices and duals of the tables where a table has them, shape (m,) [$]."""
    y = evidence.multipliers.copy()
    hours = np.tile(clearing.network.hours, clearing.network.n_buses)
    has = evidence.balance >= 0
    price = clearing.prices["price"].to_numpy(dtype=float) * hours
    y[evidence.balance[has]] = -(price / evidence.balance_sign)[has]
    if evidence.balance_q is not None and clearing.reactive_prices is not None:
        has = evidence.balance_q >= 0
        reactive = clearing.reactive_prices["price"].to_numpy(dtype=float) * hours
        y[evidence.balance_q[has]] = -(reactive / evidence.balance_q_sign)[has]
    row_of = {id(row): k for k, row in enumerate(evidence.rows)}
    y[[row_of[id(row)] for row in evidence.own]] = clearing.constraints["dual"].to_numpy(dtype=float)
    return y
