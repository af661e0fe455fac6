"""What an accepted order pays or receives per kWh: the pricing rules of declared markets, by name in `PRICING`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mktopt.errors import SolverError
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]
PricingRule = Callable[[Orders, FloatArray, FloatArray], tuple[FloatArray, list[str]]]


def nodal(orders: Orders, quantity_kw: FloatArray, nodal_price: FloatArray) -> tuple[FloatArray, list[str]]:
    """Every order pays the price of its bus; the operator keeps the congestion rent."""
    return nodal_price, []


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
        for row, variable in model.price.items():
            price[row] = solution.x[program.column(variable)]
        if model.shortfall > 0:
            notes.append(
                f"period {period}: budget balance is out of reach; the accepted offers ask "
                f"{model.shortfall:.6g} $/h more than the accepted bids are willing to pay"
            )
    return price, notes


PRICING: dict[str, PricingRule] = {"nodal": nodal, "budget_balanced": budget_balanced}
