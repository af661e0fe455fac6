"""Clarabel: convex QP, and LP without a basis. An interior-point method in Rust.

Clarabel takes  min ½ x̂ᵀP̂x̂ + q̂ᵀx̂  subject to  G x̂ + s = ĥ,  s in a product of cones. Here
x = κ x̂ and the objective is multiplied by sense·σ, so that powers and prices are both of order one
whatever the size of the market: the tolerances of an interior-point method are absolute below one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name
from mktopt.solvers.polish import SMALL, polish
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import TOLERANCE, Has, Solution, Status, Stopped, judged

NAME = "clarabel"

_STOPPED = {
    "Solved": Stopped.OPTIMAL,
    "AlmostSolved": Stopped.NUMERICAL,
    "PrimalInfeasible": Stopped.INFEASIBLE,
    "AlmostPrimalInfeasible": Stopped.INFEASIBLE_OR_UNBOUNDED,
    "DualInfeasible": Stopped.INFEASIBLE_OR_UNBOUNDED,  # no bound from below; feasibility is not shown by it
    "AlmostDualInfeasible": Stopped.INFEASIBLE_OR_UNBOUNDED,
    "MaxIterations": Stopped.ITERATION_LIMIT,
    "MaxTime": Stopped.TIME_LIMIT,
    "NumericalError": Stopped.NUMERICAL,
    "InsufficientProgress": Stopped.NUMERICAL,
    "CallbackTerminated": Stopped.INTERRUPTED,
}
# One order tighter than Clarabel's own: an iteration or two more, and prices good to eight digits. No row is
# ever infinite here, so its presolve has nothing to drop. Refining every step of the method takes half of its time
# and changes no digit of most answers; those that the residuals do not support are sought again, with it.
DEFAULTS: dict[str, Any] = {
    "verbose": False,
    "presolve_enable": False,
    "tol_feas": 1e-9,
    "tol_gap_abs": 1e-9,
    "tol_gap_rel": 1e-9,
    "iterative_refinement_enable": False,
}
_REFINED: dict[str, Any] = {"iterative_refinement_enable": True}
# Where the first attempt ends short of an optimum, a second one with smaller, more careful steps often gets
# there.
_CAREFUL: dict[str, Any] = _REFINED | {
    "max_step_fraction": 0.95,
    "max_iter": 500,
    "static_regularization_constant": 1e-9,
    "iterative_refinement_max_iter": 30,
    "equilibrate_max_iter": 30,
}
# Residuals that are asked for, and how many times the largest value a limit may be away and still matter.
_TARGET = 1e-7
_FAR = 1e5


@dataclass(frozen=True)
class Cones:
    """The rows of G: equalities first, then four groups of inequalities, each with the rows they came from."""

    G: Any
    h: Array
    equal: Array
    above: Array
    below: Array
    upper: Array
    lower: Array

    @property
    def groups(self) -> tuple[Array, ...]:
        """The rows or columns behind the rows of G, group by group."""
        return (self.equal, self.above, self.below, self.upper, self.lower)

    def subset(self, keep: Array) -> Cones:
        """Only some of the rows of G."""
        masks = np.split(keep, np.cumsum([len(group) for group in self.groups])[:-1])
        groups = [group[mask] for group, mask in zip(self.groups, masks, strict=True)]
        return Cones(self.G.tocsr()[np.flatnonzero(keep)].tocsc(), self.h[keep], *groups)


def version() -> str:
    """The installed version; ImportError where there is none."""
    import clarabel

    return str(clarabel.__version__)


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve with Clarabel; `options` are its own settings (`time_limit`, `tol_gap_rel`, `max_iter`, ...)."""
    start = time.perf_counter()
    options = dict(options or {})
    settings = _settings(DEFAULTS | options)
    cones = build_cones(program)
    spent = {"solve": 0.0}
    solution = _attempt(program, cones, settings, _scales(program, cones), spent)
    # Two more looks in the scale of the answer itself, then one with small steps: most problems need none
    # of them.
    for changes, target in ((_REFINED, _TARGET), (_REFINED, _TARGET), (_CAREFUL, TOLERANCE)):
        if _settled(solution, target):
            break
        settings = _settings(DEFAULTS | changes | options)
        if np.isfinite(settings.time_limit):
            settings.time_limit = max(settings.time_limit - spent["solve"], 1e-3)
        again = _closer(program, cones, settings, solution, spent)
        solution = again if _better(again, solution) else solution
    return solution.replace(seconds={**spent, "total": time.perf_counter() - start})


def _settled(solution: Solution, target: float) -> bool:
    """Whether another attempt could not help: good enough already, or stopped for a reason of its own."""
    if solution.residuals is not None and solution.residuals.ok(target):
        return True
    return solution.status.stopped not in (Stopped.OPTIMAL, Stopped.NUMERICAL)


def _closer(program: Program, cones: Cones, settings: Any, first: Solution, spent: dict[str, float]) -> Solution:
    """Another attempt in the scale of a first answer, without the limits that are far away from it.

    A market may be allowed to trade a million times what it does trade; then the tolerances, relative to
    the limits, say little about the trade. Dropping far limits is safe: the residuals are judged with all
    of them.
    """
    if not len(first.x):
        return _attempt(program, cones, settings, (1.0, 1.0), spent)
    kappa = _typical(np.array([max(float(np.abs(first.x).max()), 1e-12)]))
    gradient = np.abs(program.c) + np.abs(program.curvature(first.x))
    sigma = 1.0 / (kappa * _typical(gradient[gradient > 0.0]))
    near = np.abs(cones.h - cones.G @ first.x) < _FAR * kappa
    near[: len(cones.equal)] = True
    return _attempt(program, cones.subset(near), settings, (kappa, sigma), spent)


def build_cones(program: Program) -> Cones:
    """G and h: only finite limits become rows.

    A_e x = b,   A_a x <= row_upper,   -A_b x <= -row_lower,   x_u <= upper,   -x_l <= -lower
    """
    import scipy.sparse as sp

    low, high = np.isfinite(program.row_lower), np.isfinite(program.row_upper)
    same = low & high & (program.row_lower == program.row_upper)
    used = ~program.empty_rows
    equal, above, below = (np.flatnonzero(mask & used) for mask in (same, high & ~same, low & ~same))
    upper, lower = np.flatnonzero(np.isfinite(program.upper)), np.flatnonzero(np.isfinite(program.lower))
    A = program.A
    blocks = [A if len(rows) == program.m else A[rows] for rows in (equal, above, below) if len(rows)]
    if len(below):
        blocks[-1] = -blocks[-1]
    for columns, sign in ((upper, 1.0), (lower, -1.0)):
        if len(columns):
            ends = np.arange(len(columns) + 1)
            blocks.append(sp.csr_array((np.full(len(columns), sign), columns, ends), shape=(len(columns), program.n)))
    G = sp.vstack(blocks, format="csc") if blocks else sp.csc_array((0, program.n))
    parts = (program.row_upper[equal], program.row_upper[above], -program.row_lower[below])
    h = np.concatenate([*parts, program.upper[upper], -program.lower[lower]])
    return Cones(G, h, equal, above, below, upper, lower)


def _attempt(
    program: Program, cones: Cones, settings: Any, scales: tuple[float, float], spent: dict[str, float]
) -> Solution:
    import clarabel
    import scipy.sparse as sp

    kappa, sigma = scales
    factor = program.sense * sigma * kappa
    if program.P is None:
        P = sp.csc_matrix((program.n, program.n))
    else:
        P = sp.csc_matrix(sp.triu(program.P, format="csc") * (factor * kappa))
    began = time.perf_counter()
    kinds = []
    if len(cones.equal):
        kinds.append(clarabel.ZeroConeT(len(cones.equal)))
    if len(cones.h) > len(cones.equal):
        kinds.append(clarabel.NonnegativeConeT(len(cones.h) - len(cones.equal)))
    raw = clarabel.DefaultSolver(P, factor * program.c, cones.G, cones.h / kappa, kinds, settings).solve()
    spent["solve"] += time.perf_counter() - began
    name = str(raw.status)
    stopped = _STOPPED.get(name, Stopped.ERROR)
    solution = Solution(
        status=Status(stopped, Has.NOTHING),
        solver=NAME,
        version=version(),
        iterations=int(raw.iterations),
        message=f"Clarabel: {name}",
    )
    if stopped in (Stopped.INFEASIBLE, Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.ERROR):
        return solution
    x = np.clip(kappa * np.asarray(raw.x), program.lower, program.upper)
    row_dual, reduced_cost = _duals(program, cones, np.asarray(raw.z) / (sigma * kappa))
    if not (np.isfinite(x).all() and np.isfinite(row_dual).all() and np.isfinite(reduced_cost).all()):
        return solution
    claim = Status(Stopped.OPTIMAL, Has.OPTIMAL)
    solution = judged(program, solution.replace(status=claim, x=x, row_dual=row_dual, reduced_cost=reduced_cost))
    if solution.residuals is not None and (program.n <= SMALL or not solution.residuals.ok(_TARGET)):
        solution = polish(program, solution, kappa, sigma)
    if solution.status.has is not Has.OPTIMAL and stopped is not Stopped.OPTIMAL:
        return solution.replace(status=Status(stopped, solution.status.has), message=f"Clarabel: {name}")
    return solution


def _duals(program: Program, cones: Cones, z: Array) -> tuple[Array, Array]:
    """Canonical duals of rows and bounds from the multipliers z of `G x + s = h`."""
    groups = cones.groups
    parts = np.split(z, np.cumsum([len(group) for group in groups])[:-1])
    rows, columns = np.zeros(program.m), np.zeros(program.n)
    for target, group, part, flipped in zip(
        (rows, rows, rows, columns, columns), groups, parts, (False, False, True, False, True), strict=True
    ):
        # The last limit of each kind is -h: its derivative has the other sign.
        value = marginal_values(program.sense, part, derivative=False)
        target[group] += -value if flipped else value
    return rows, columns


def _scales(program: Program, cones: Cones) -> tuple[float, float]:
    """(κ, σ): the typical size of a finite limit, and the inverse of the typical money per κ."""
    limits = np.abs(cones.h)
    kappa = _typical(limits[limits > 0.0])
    gradient = np.abs(program.c)
    if program.P is not None:
        gradient = gradient + np.abs(program.P.diagonal()) * kappa
    sigma = 1.0 / (kappa * _typical(gradient[gradient > 0.0]))
    return kappa, sigma


def _typical(sizes: Array) -> float:
    """A power of two near the median, so that scaling rounds nothing."""
    return float(2.0 ** np.round(np.log2(np.median(sizes)))) if len(sizes) else 1.0


def _settings(options: Mapping[str, Any]) -> Any:
    import clarabel

    settings = clarabel.DefaultSettings()
    known = [name for name in dir(settings) if not name.startswith("_") and name != "default"]
    for name, value in options.items():
        if name not in known:
            raise unknown_name("Clarabel option", name, known)
        try:
            setattr(settings, name, value)
        except (TypeError, ValueError, OverflowError) as error:
            expected = type(getattr(settings, name)).__name__
            raise SolverError(
                f"Clarabel option '{name}' does not take the value {value!r} ({expected} expected)"
            ) from error
    return settings


def _better(first: Solution, second: Solution) -> bool:
    if first.residuals is None or second.residuals is None:
        return first.status.stopped is Stopped.INFEASIBLE or first.residuals is not None
    return first.residuals.ok(TOLERANCE) or first.residuals.worst < second.residuals.worst
