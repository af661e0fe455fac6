"""Proves that a solution is optimal, from the Pyomo model itself and not from the compiled arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr.calculus.derivatives import Modes, differentiate

from mktopt.solvers import Has, Program, Solution, Stopped, compile, solve


def prove(model: Any, program: Program, solution: Solution, tolerance: float = 1e-6) -> None:
    """Primal feasibility, stationarity, signs of the multipliers and complementarity, on the Pyomo expressions."""
    assert solution.status.stopped is Stopped.OPTIMAL, solution.message
    assert solution.status.has is (Has.LOCAL if program.not_convex else Has.OPTIMAL)
    assert solution.residuals is not None
    assert solution.residuals.ok(tolerance)
    for variable, value in zip(program.variables, solution.x, strict=True):
        variable.set_value(float(value), skip_validation=True)
    objective = next(model.component_data_objects(pyo.Objective, active=True))
    sense = 1 if objective.sense == pyo.minimize else -1
    scale = 1.0 + abs(pyo.value(objective))
    assert solution.objective == _near(pyo.value(objective), tolerance * scale)

    gradient = {id(v): 0.0 for v in program.variables}
    rows = list(model.component_data_objects(pyo.Constraint, active=True))
    free = [v for v in program.variables if id(v) in {id(u) for u in _variables(objective.expr)}]
    for variable, slope in zip(
        free, differentiate(objective.expr, wrt_list=free, mode=Modes.reverse_numeric), strict=True
    ):
        gradient[id(variable)] += float(slope)
    for row in rows:
        dual = solution.row_dual[program.row(row)]
        body = pyo.value(row.body)
        _sides(sense * dual, body, row.lb, row.ub, tolerance * scale, f"row {row.name}")
        inside = [v for v in _variables(row.body) if not v.fixed]
        for variable, slope in zip(
            inside, differentiate(row.body, wrt_list=inside, mode=Modes.reverse_numeric), strict=True
        ):
            gradient[id(variable)] -= dual * float(slope)
    for variable, reduced in zip(program.variables, solution.reduced_cost, strict=True):
        _sides(sense * reduced, variable.value, variable.lb, variable.ub, tolerance * scale, variable.name)
        assert gradient[id(variable)] == _near(reduced, tolerance * scale), f"stationarity at {variable.name}"


def prove_marginals(make: Callable[[dict[int, float]], Any], rows: int, solver: str | None, step: float = 1e-4) -> None:
    """row_dual of each row is the slope of the optimal objective when that row's right-hand side moves."""
    base = compile(make({}))
    at = solve(base, solver)
    for i in range(rows):
        up, down = (solve(compile(make({i: sign * step})), solver) for sign in (1.0, -1.0))
        slope = (up.objective - down.objective) / (2.0 * step)
        np.testing.assert_allclose(at.row_dual[i], slope, rtol=1e-4, atol=2e-4, err_msg=f"row {i}")


def _variables(expression: Any) -> list[Any]:
    from pyomo.core.expr.visitor import identify_variables

    return list(identify_variables(expression, include_fixed=False))


def _sides(dual: float, value: float, lower: float | None, upper: float | None, slack: float, what: str) -> None:
    if lower is not None:
        assert value >= lower - slack, f"{what} violates its lower limit"
    if upper is not None:
        assert value <= upper + slack, f"{what} violates its upper limit"
    low, high = max(dual, 0.0), max(-dual, 0.0)
    assert low <= slack or (lower is not None and abs(low * (value - lower)) <= slack), f"{what}: lower multiplier"
    assert high <= slack or (upper is not None and abs(high * (upper - value)) <= slack), f"{what}: upper multiplier"


def _near(value: float, tolerance: float) -> Any:
    import pytest

    return pytest.approx(value, abs=tolerance, rel=0.0)
