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
    rows = accepted_rows(orders, quantity_kw, period)
    if rows.size == 0:
        return None
    limit, nodal, quantity = price_limit(orders, quantity_kw)[rows], nodal_price[rows], quantity_kw[rows]
    smallest = 1e-12 * float(np.abs(np.r_[orders.curves.start, orders.curves.end]).max())
    limit, nodal = (np.where(np.abs(price) > smallest, price, 0.0) for price in (limit, nodal))
    bid = orders.is_bid[rows]
    model = pyo.ConcreteModel("budget_balance")
    model.accepted = pyo.Set(initialize=rows.tolist())
    model.price = pyo.Var(model.accepted)
    variables = list(model.price.values())
    for variable, is_bid, end in zip(variables, bid.tolist(), limit.tolist(), strict=True):
        variable.setub(end if is_bid and np.isfinite(end) else None)
        variable.setlb(end if not is_bid and np.isfinite(end) else None)
    model.shortfall = shortfall(orders, quantity_kw, period)
    body = LinearExpression(linear_coefs=(np.where(bid, 1.0, -1.0) * quantity).tolist(), linear_vars=variables)
    model.money = pyo.Constraint(expr=(-model.shortfall, body, -model.shortfall))
    model.distance = pyo.Objective(
        expr=sum(
            q * (p - value) ** 2
            for q, p, value in zip(quantity.tolist(), variables, nodal.tolist(), strict=True)
        ),
        sense=pyo.minimize,
    )
    return model


def accepted_rows(orders: Orders, quantity_kw: FloatArray, period: int) -> npt.NDArray[np.int64]:
    """Rows of `orders` that trade in `period`."""
    traded = (quantity_kw > _rounding(orders, quantity_kw)) & (orders.orders["period"] == period).to_numpy()
    return np.flatnonzero(traded)


def price_limit(orders: Orders, quantity_kw: FloatArray) -> FloatArray:
    """The most that each bid would pay, the least that each offer asks for its last unit [$/kWh], shape (rows,).

    A firm order takes any price: inf for bids, -inf for offers.
    """
    curve = orders.curves.marginal(quantity_kw, tolerance_kw=_rounding(orders, quantity_kw))
    return np.where(orders.firm, -orders.injection_sign * np.inf, curve)


def shortfall(orders: Orders, quantity_kw: FloatArray, period: int) -> float:
    """Money per hour that the accepted offers cost beyond what the accepted bids would pay at most [$/h]."""
    rows = accepted_rows(orders, quantity_kw, period)
    worth = orders.injection_sign[rows] * quantity_kw[rows] * price_limit(orders, quantity_kw)[rows]
    return max(0.0, float(worth.sum()))


def _rounding(orders: Orders, quantity_kw: FloatArray) -> FloatArray:
    """Quantities up to this are rounding, not trade [kW], shape (rows,)."""
    own = np.where(np.isfinite(orders.width_kw), 1e-8 * orders.width_kw, 0.0)
    return np.maximum(own, 1e-7 * float(np.max(quantity_kw, initial=0.0)))
