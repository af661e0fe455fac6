"""One program at a time: its best answer, global where that can be known, else the best of a search from many points.

A program that is convex has one optimal value and a solver finds it; one of a single variable with linear rows and an
objective at most quadratic is solved by hand. Elsewhere the search starts from the best of points scattered over the
bounds, and what it finds is called `sampled`: no better answer is known, which is no proof that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mktopt.agents.game_units import FloatArray
from mktopt.clearing.optimality import values_kept
from mktopt.solvers import Has, Program, Solution, Status, Stopped, solve

CONVEX, SAMPLED = "convex", "sampled"
_POINTS = 64
_STARTS = 4
_APART = 0.1
_ITERATIONS = 300
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-11}
ENDLESS = (Stopped.UNBOUNDED, Stopped.INFEASIBLE_OR_UNBOUNDED)


def put(variables: Sequence[Any], x: FloatArray) -> None:
    """Gives the variables the values x."""
    for variable, value in zip(variables, x, strict=True):
        variable.set_value(float(value), skip_validation=True)


def best_of(program: Program) -> tuple[Solution, str]:
    """The solution, global where the program is convex; elsewhere the best from several starts."""
    if not program.n or not program.not_convex:
        return solve_exactly(program), CONVEX
    first = solve(program)
    found = [first]
    points = _samples(program)
    if not _bends_well(program, points):
        for start in _good_points(program, points):
            put(program.variables, start)
            found.append(solve(program, "ipopt", {"max_iter": _ITERATIONS}))
    endless = [item for item in found if item.status.stopped in ENDLESS]
    if endless:  # whatever the others found, this beats it
        return endless[0], SAMPLED
    known = [item for item in found if item.status.has is not Has.NOTHING and np.isfinite(item.objective)]
    if not known:
        return first, SAMPLED
    best = min(known, key=lambda item: program.sense * item.objective)
    # a feasible point is a deviation, whatever kept the solver from proving it a local optimum
    return (best if best.status.ok else replace(best, status=Status(best.status.stopped, Has.LOCAL))), SAMPLED


def solve_exactly(program: Program) -> Solution:
    """Solved by an active set where that can be: it ends at a corner, where interior points only come near.

    Coefficients that solvers would take for zero are kept by units in which 1/2 x'Px - c'x has a diagonal of ones, its
    answer without limits a length of about one, and rows a largest coefficient of one.
    """
    from scipy.sparse import csc_array, csr_array

    if program.problem_class != "QP":
        return solve(program, options=TIGHT if program.problem_class == "SOCP" else {})
    diagonal = np.abs(program.P.diagonal())
    if not (diagonal > 0.0).all():
        return solve(program)
    far = float((program.c**2 / diagonal).max())
    money = 1.0 / far if far > 0.0 else 1.0
    unit = 1.0 / np.sqrt(money * diagonal)
    A = program.A * unit[None, :]
    steep = np.asarray(abs(A).max(axis=1).toarray()).ravel() if A.shape[0] else np.zeros(0)
    size = np.where(steep > 0.0, steep, 1.0)
    scaled = program.replace(
        A=csr_array(A / size[:, None]),
        row_lower=program.row_lower / size,
        row_upper=program.row_upper / size,
        lower=program.lower / unit,
        upper=program.upper / unit,
        c=money * program.c * unit,
        P=csc_array(money * (program.P * unit[:, None] * unit[None, :])),
        units=None,
    )
    with values_kept(program.variables):
        put(program.variables, np.array([float(v.value or 0.0) for v in program.variables]) / unit)
        solution = solve(scaled, ("highs", "clarabel"), {"clarabel": TIGHT})
    if len(solution.x) != program.n:
        return solution
    x = np.clip(solution.x * unit, program.lower, program.upper)
    return replace(solution, x=x, objective=float(program.objective(x)))


def on_a_line(program: Program) -> tuple[float, Status] | None:
    """The best value of the only variable of a program with linear rows and an objective at most quadratic, of which
    none is better, whatever its shape; None for other programs."""
    if program.n != 1 or program.curved:
        return None
    a = program.A.toarray()[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.array([program.row_lower, program.row_upper]) / a
    flat = a == 0.0
    if (flat & ((program.row_lower > 0.0) | (program.row_upper < 0.0))).any():
        return 0.0, Status(Stopped.INFEASIBLE, Has.NOTHING)
    low = float(np.r_[program.lower, ends.min(axis=0)[~flat]].max())
    high = float(np.r_[program.upper, ends.max(axis=0)[~flat]].min())
    if low > high:
        return 0.0, Status(Stopped.INFEASIBLE, Has.NOTHING)
    c = program.sense * float(program.c[0])
    bend = 0.0 if program.P is None else program.sense * float(program.P.toarray()[0, 0])
    if bend > 0.0:
        return min(max(-c / bend, low), high), Status(Stopped.OPTIMAL, Has.OPTIMAL)
    if bend == 0.0 and c == 0.0:
        here = program.variables[0].value
        return min(max(0.0 if here is None else float(here), low), high), Status(Stopped.OPTIMAL, Has.OPTIMAL)
    costs = [c * end + 0.5 * bend * end**2 if np.isfinite(end) else -np.inf for end in (low, high)]
    if bend == 0.0:
        costs = [c * end for end in (low, high)]
    best = int(np.argmin(costs))
    if costs[best] == -np.inf:
        return 0.0, Status(Stopped.UNBOUNDED, Has.NOTHING)
    return (low, high)[best], Status(Stopped.OPTIMAL, Has.OPTIMAL)


def scattered(
    low: FloatArray, high: FloatArray, count: int, unit: float | FloatArray = 1.0, wide: bool = False
) -> FloatArray:
    """Points (count, n) that fill the box evenly (additive recurrence).

    Where there is no bound they fill a box of a few units, scalar or (n,); wide: all of the line instead, ever thinner
    away from the nearest bound, or zero. Reference: Roberts' generalised golden ratio, phi^(n+1) = phi + 1, with steps
    phi^-1, phi^-2, ...
    """
    n = len(low)
    phi = 2.0
    for _ in range(40):
        phi = (1.0 + phi) ** (1.0 / (n + 1))
    share = (0.5 + np.outer(np.arange(1, count + 1), phi ** -np.arange(1.0, n + 1))) % 1.0
    bottom = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 4.0 * unit, -2.0 * unit))
    top = np.where(np.isfinite(high), high, bottom + 4.0 * unit)
    points = bottom + share * (top - bottom)
    if not wide:
        return np.asarray(points)
    away = 4.0 * unit * np.tan(0.5 * np.pi * np.clip(share, 1e-6, 1.0 - 1e-6))
    both = 4.0 * unit * np.tan(np.pi * (np.clip(share, 1e-6, 1.0 - 1e-6) - 0.5))
    points = np.where(np.isfinite(low) & ~np.isfinite(high), low + away, points)
    points = np.where(np.isfinite(high) & ~np.isfinite(low), high - away, points)
    return np.asarray(np.where(np.isfinite(low) | np.isfinite(high), points, both))


def _samples(program: Program) -> FloatArray:
    """Points over the bounds of a program: even ones, far ones where there is no bound, and corners of the box."""
    low, high = program.lower, program.upper
    count = _POINTS * (4 if program.n <= 2 else 1)
    even = scattered(low, high, count, program.typical)
    with np.errstate(invalid="ignore"):
        nearer = np.where(even - low < high - even, low, high)
    corners = np.where(np.isfinite(low) & np.isfinite(high), nearer, even)
    ends = [np.where(np.isfinite(side), side, 0.0) for side in (low, high)]
    far = scattered(low, high, count, program.typical, wide=True)
    return np.unique(np.vstack([even, far, corners, *ends]), axis=0)


def _good_points(program: Program, points: FloatArray) -> list[FloatArray]:
    """The best feasible ones of the points, none close to another."""
    rated = []
    with np.errstate(all="ignore"):
        for point in points:
            activity = program.activity(point)
            if not ((activity >= program.row_lower - 1e-6) & (activity <= program.row_upper + 1e-6)).all():
                continue
            value = program.sense * program.objective(point)
            if np.isfinite(value):
                rated.append((value, point))
    rated.sort(key=lambda item: item[0])
    spread = np.quantile(points, 0.75, axis=0) - np.quantile(points, 0.25, axis=0)
    apart = _APART * np.where(spread > 0.0, spread, 1.0)
    chosen: list[FloatArray] = []
    for _, point in rated:
        if all((np.abs(point - other) > apart).any() for other in chosen):
            chosen.append(point)
        if len(chosen) == _STARTS:
            break
    return chosen


def _bends_well(program: Program, points: FloatArray) -> bool:
    """Whether the objective is convex (concave if maximised) at the points where it is defined, and no row curved."""
    curved = [part.row for part in (program.quadratics, program.logs) if part is not None]
    curved += [program.remainder.rows] if program.remainder is not None else []
    if any((np.asarray(rows) >= 0).any() for rows in curved):
        return False
    seen = 0
    with np.errstate(all="ignore"):
        for point in points[:: max(1, len(points) // 32)]:
            matrix = program.sense * program.hessian(point, np.zeros(program.m)).toarray()
            if not np.isfinite(matrix).all():
                continue
            seen += 1
            if np.linalg.eigvalsh(matrix)[0] < -1e-9 * np.abs(matrix).max():
                return False
    return seen >= 8
