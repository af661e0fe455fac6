"""Losses that are free, cut to what wires lose: among the optima of a relaxed program the one that loses least.

    x' = argmin  cost(x) + e sum_{l, t} L_lt        e: a ten-thousandth of the level of prices                   [$/kWh]

Flow `lossy` lets a wire lose more than it must. Where energy is worth nothing (feed-in or wholesale at zero) that is
free, and an interior-point method ends amid all the ways to waste. x' costs more than an optimum by the square of e at
most, so that multipliers of the program itself prove it. Where waste is worth something, because energy that must be
taken fits no limit or is paid to be rid of, x' wastes as well: then it is no tie, and the relaxation says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mktopt.solvers import solve as solve_program
from mktopt.solvers.program import Program, inner
from mktopt.solvers.solution import Solution

_TIE = 1e-4
# What a better answer may cost more than an optimum, relative: an optimum is no more exact.
_COSTS = 1e-8


def least_losses(
    program: Program,
    solution: Solution,
    losses: Sequence[Any],
    level: float,
    solver: str | Sequence[str] | None = None,
    solver_options: Mapping[str, Any] | None = None,
) -> Solution:
    """`solution` at the optimum that loses least, with the multipliers that it has; itself where none was found.

    losses: the variables of all losses [kW]; level: the usual price [$/kWh]; solver, solver_options: see
    `mktopt.solvers.solve`.
    """
    columns = np.asarray(program.columns(losses), dtype=np.int64)
    if not (columns >= 0).any() or not level > 0.0:
        return solution
    c = program.c.astype(float)
    c[columns[columns >= 0]] += program.sense * _TIE * level
    found = solve_program(program.replace(c=c), solver, solver_options)
    if not found.status.ok:
        return solution
    more = program.sense * (program.objective(found.x) - program.objective(solution.x))
    if not more <= _COSTS * (inner(np.abs(program.c), np.abs(solution.x)) + level * program.typical):
        return solution
    return solution.replace(x=found.x, objective=program.objective(found.x))
