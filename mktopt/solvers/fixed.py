"""Duals for a program with integers: fix them at a solution and solve what remains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution


def with_integers_fixed(program: Program, whole: Array) -> Program:
    """The LP or QP that remains when the integer columns (k,) are held at `whole`."""
    lower, upper = program.lower.copy(), program.upper.copy()
    lower[program.integer] = upper[program.integer] = whole
    return program.replace(lower=lower, upper=upper, integer=np.zeros(program.n, dtype=bool))


def solve_fixed(program: Program, solution: Solution, options: Mapping[str, Any] | None = None) -> Solution:
    """Re-solve with the integers fixed at a solution, which gives it duals; marked `duals_from="fixed
    integers"`.

    The duals are exact for that choice of integers: they say what one more unit costs while every yes-or-no
    decision stands. The status stays that of the first solution, whose claim about the integers it is.
    options go to the solver of the remaining LP or QP.
    """
    from mktopt.solvers.table import solve

    if not program.integer.any():
        return solution
    if not len(solution.x):
        raise SolverError(f"there is no solution whose integers could be fixed ({solution.status})")
    whole = np.round(solution.x[program.integer])
    fixed = solve(with_integers_fixed(program, whole), None, options)
    if fixed.status.has is not Has.OPTIMAL:
        raise SolverError(
            f"with the integers fixed at the solution of {solution.solver}, {fixed.solver} found no optimum"
            f" ({fixed.status}; {fixed.message})"
        )
    seconds = {key: solution.seconds.get(key, 0.0) + fixed.seconds.get(key, 0.0) for key in ("solve", "total")}
    return fixed.replace(
        status=solution.status,
        solver=f"{solution.solver}+{fixed.solver}",
        version=f"{solution.version}, {fixed.version}",
        bound=solution.bound,
        iterations=solution.iterations + fixed.iterations,
        seconds=seconds,
        message=f"{solution.message}; with integers fixed: {fixed.message}",
        duals_from="fixed integers",
        attempts=solution.attempts + fixed.attempts,
    )
