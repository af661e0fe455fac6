"""Pricing rule `budget_balanced`: one price per accepted order that leaves no money on the table.

Given the dispatch q and the nodal prices lambda, per period

    min  sum_o q_o (p_o - lambda_bus(o))^2
    s.t. p_s >= supply curve at q_s          (6)   `price` bounds of offers
         p_d <= demand curve at q_d          (7)   `price` bounds of bids that are not firm
         sum_d p_d q_d + shortfall = sum_s p_s q_s   (8)   `money`

The last accepted unit's price counts at a jump of a curve. `shortfall` is zero where the accepted bids' value covers
the accepted offers' cost; otherwise it is what is missing [$/h], and the prices stand at their limits.
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (6)-(8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]


def budget_balance(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray, period: int) -> Any | None:
    """The pricing model of one period, or None where nothing is traded.

    orders; quantity_kw, nodal_price: shape (rows of orders,). The model has `price[row]` [$/kWh] over the accepted
    rows, `shortfall` [$/h] as a number, `money` and `distance`.
    """
    table = orders.orders
    traded = (quantity_kw > _smallest(quantity_kw)) & (table["period"] == period).to_numpy()
    rows = np.flatnonzero(traded)
    if rows.size == 0:
        return None
    curve = orders.curves.marginal(quantity_kw, tolerance_kw=_smallest(quantity_kw))
    bid, firm = orders.is_bid, orders.firm
    model = pyo.ConcreteModel("budget_balance")
    model.accepted = pyo.Set(initialize=rows.tolist())
    model.price = pyo.Var(model.accepted)
    for row in rows.tolist():
        if bid[row] and not firm[row]:
            model.price[row].setub(float(curve[row]))
        elif not bid[row] and not firm[row]:
            model.price[row].setlb(float(curve[row]))
    model.shortfall = shortfall(orders, quantity_kw, curve, rows)
    sign = np.where(bid[rows], 1.0, -1.0)
    variables = [model.price[row] for row in rows.tolist()]
    body = LinearExpression(linear_coefs=(sign * quantity_kw[rows]).tolist(), linear_vars=variables)
    model.money = pyo.Constraint(expr=(-model.shortfall, body, -model.shortfall))
    model.distance = pyo.Objective(
        expr=sum(
            q * (p - value) ** 2
            for q, p, value in zip(quantity_kw[rows].tolist(), variables, nodal_price[rows].tolist(), strict=True)
        ),
        sense=pyo.minimize,
    )
    return model


def shortfall(orders: Orders, quantity_kw: FloatArray, curve: FloatArray, rows: npt.NDArray[np.int64]) -> float:
    """Money per hour that the accepted offers of `rows` cost beyond what the accepted bids would pay at most [$/h]."""
    bid, firm = orders.is_bid[rows], orders.firm[rows]
    worth = quantity_kw[rows] * curve[rows]
    if (bid & firm).any() or (~bid & firm).any():
        return 0.0  # a firm order takes any price
    return max(0.0, float(worth[~bid].sum() - worth[bid].sum()))


def _smallest(quantity_kw: FloatArray) -> float:
    """Quantities up to this are rounding, not trade [kW]."""
    return 1e-7 * max(1.0, float(np.max(quantity_kw, initial=0.0)))
