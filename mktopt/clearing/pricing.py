"""What an accepted order pays or receives per kWh: the pricing rules of declared markets, by name in `PRICING`.

A rule gives prices, and its `error` tells without solving anything how far given prices are from what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mktopt.errors import SolverError
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]

# The solver's prices and their exact form may differ by this share of their size, not more.
_SHARP = 1e-2


class PricingRule(NamedTuple):
    """How accepted orders are charged.

    price(orders, quantity_kw, nodal_price) -> (prices, notes); error(orders, quantity_kw, nodal_price, prices): the
    greatest departure of any price from the rule [$/kWh]; keeps_rent: the operator keeps the congestion rent. All
    arrays have one entry per row of orders.
    """

    price: Callable[[Orders, FloatArray, FloatArray], tuple[FloatArray, list[str]]]
    error: Callable[[Orders, FloatArray, FloatArray, FloatArray], float]
    keeps_rent: bool


def nodal(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray) -> tuple[FloatArray, list[str]]:
    """Every order pays the price of its bus; the operator keeps the congestion rent."""
    return nodal_price, []


def nodal_error(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray, paid: FloatArray) -> float:
    """The greatest difference between a price that is paid and that of its bus [$/kWh]."""
    return float(np.abs(paid - nodal_price).max(initial=0.0))


def budget_balanced(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray) -> tuple[FloatArray, list[str]]:
    """Prices as near to the nodal ones as a zero rent allows (see `mktopt.formulations.budget_balance`).

    Orders that trade nothing keep the nodal price. The notes say where money is short.
    """
    from mktopt.formulations.budget_balance import budget_balance
    from mktopt.solvers import compile, solve
    from mktopt.solvers.solution import Has

    price, notes = nodal_price.copy(), []
    for period in sorted(set(orders.orders["period"].tolist())):
        model = budget_balance(orders, quantity_kw, nodal_price, period)
        if model is None:
            continue
        program = compile(model)
        solution = solve(program)
        if solution.status.has is not Has.OPTIMAL:
            raise SolverError(f"budget-balanced prices of period {period}: {solution.message}")
        rows = np.array(list(model.accepted), dtype=np.int64)
        price[rows] = sharpened(orders, quantity_kw, nodal_price, rows, float(model.shortfall))
        solved = solution.x[program.columns(list(model.price.values()))]
        level = max(float(np.abs(price[rows]).max()), 1e-6 * float(np.abs(orders.curves.start).max()), 1e-12)
        if float(np.abs(price[rows] - solved).max()) > _SHARP * level:
            raise SolverError(f"budget-balanced prices of period {period}: the solver's answer is not their optimum")
        if model.shortfall > 0:
            notes.append(
                f"period {period}: budget balance is out of reach; the accepted offers ask "
                f"{model.shortfall:.6g} $/h more than the accepted bids are willing to pay"
            )
    return price, notes


def sharpened(
    orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray, rows: npt.NDArray[np.int64], shortfall: float
) -> FloatArray:
    """The optimum of the pricing problem to rounding [$/kWh], one price per entry of `rows`.

    A solver stops when the objective is right, which leaves the prices right to the root of its tolerance only. With
    s = +1 for bids and -1 for offers the optimum is p = lambda + s min(k, room), room = s (limit - lambda), and k
    solves the balance of money  sum_o q_o min(k, room_o) = -sum_o s_o q_o lambda_o - shortfall,  piecewise linear in k.
    """
    from mktopt.formulations.budget_balance import price_limit

    sign, q = -orders.injection_sign[rows], quantity_kw[rows]
    start = nodal_price[rows]
    room = sign * (price_limit(orders, quantity_kw)[rows] - start)
    due = -float(np.sum(sign * q * start)) - shortfall
    order = np.argsort(room)
    # behind place n of this sequence nobody is at a limit: k = (due - what the first n give) / (q of the others)
    given = np.r_[0.0, np.cumsum(np.where(np.isfinite(room[order]), q[order] * room[order], 0.0))]
    free = np.r_[np.cumsum(q[order][::-1])[::-1], 0.0]
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.where(free > 0, (due - given) / np.where(free > 0, free, 1.0), np.inf)
    fits = k <= np.r_[room[order], np.inf]
    level = float(k[np.argmax(fits)])
    return start + sign * np.minimum(level, room)


def budget_error(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray, paid: FloatArray) -> float:
    """How far prices are from the optimum of the pricing problem [$/kWh], by its optimality conditions.

    All prices move towards balance by one k, as far as their limits allow: with s = +1 for bids and -1 for offers,
    s (p - lambda) = k, or less at a limit. The money itself is the certificate's figure `budget`.
    """
    from mktopt.formulations.budget_balance import accepted_rows, price_limit

    sign, limit = -orders.injection_sign, price_limit(orders, quantity_kw)
    worst = 0.0
    idle = np.ones(len(orders), dtype=bool)
    for period in sorted(set(orders.orders["period"].tolist())):
        rows = accepted_rows(orders, quantity_kw, period)
        idle[rows] = False
        if rows.size == 0:
            continue
        moved = sign[rows] * (paid - nodal_price)[rows]
        room = sign[rows] * (limit - paid)[rows]
        short = np.minimum(moved.max() - moved, np.abs(room))
        worst = max(worst, float(np.maximum(short, -room).max()))
    return max(worst, nodal_error(orders, quantity_kw, np.where(idle, nodal_price, paid), paid))


PRICING: dict[str, PricingRule] = {
    "nodal": PricingRule(nodal, nodal_error, keeps_rent=True),
    "budget_balanced": PricingRule(budget_balanced, budget_error, keeps_rent=False),
}
