"""Clarabel: convex QP, second-order and exponential cones, and LP without a basis. An interior-point method in Rust.

It takes the standard form of `form.py`, in units in which powers and prices are of order one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name
from mktopt.solvers.blocks import blocks, one_by_one
from mktopt.solvers.cones.apex import leave
from mktopt.solvers.cones.form import Data, Form, Scales
from mktopt.solvers.cones.scaling import cone_scales, plain_scales, typical, uniform_scales
from mktopt.solvers.cones.standard_form import standard_form
from mktopt.solvers.polish import SMALL, filled, polish, polish_curved, too_large
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Program
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
# Small programs with cones: an iteration more, after which polishing finds what binds where it did not before.
_SHARP: dict[str, Any] = dict.fromkeys(("tol_feas", "tol_gap_abs", "tol_gap_rel"), 1e-10)
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
# Where wires between everybody and everybody fill the factors, a blocked factorisation on all cores is the faster one:
# 3,000 buses and 100,000 wires in 20 s. Up to 600 buses there is nothing between the two, and one core is enough.
_BLOCKED: dict[str, Any] = {"direct_solve_method": "faer"}
_FILL = 1e7
# Residuals that are asked for, and how many times the largest value a limit may be away and still matter.
_TARGET = 1e-7
# Straight programs of up to this many variables are polished always, for a tenth of the time: along a chain of 2,000
# buses with angles a dual residual of 1e-9 is an error of 5e-5 in prices.
_STRAIGHT = 50_000
_FAR = 1e5
_TINY = 1e-12


def version() -> str:
    """The installed version; ImportError where there is none."""
    import clarabel

    return str(clarabel.__version__)


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve with Clarabel; `options` are its own settings (`time_limit`, `tol_gap_rel`, `max_iter`, ...)."""
    options = dict(options or {})
    parts = blocks(program) if program.curved else []
    if len(parts) > 1:
        return one_by_one(program, parts, _solve, options)
    return _solve(program, options)


def _solve(program: Program, options: Mapping[str, Any]) -> Solution:
    start, options = time.perf_counter(), dict(options)
    sharp = _SHARP if program.quadratics is not None and program.n <= SMALL else {}
    defaults = defaults_for(program)
    settings = _settings(defaults | (_REFINED if program.logs is not None else {}) | sharp | options)
    form = standard_form(program)
    spent = {"solve": 0.0}
    scales = cone_scales(form) if program.curved else plain_scales(form)
    solution = _attempt(form, settings, scales, spent)
    # Two more looks in the scale of the answer itself, then one with small steps: most problems need none
    # of them. What is too large to be polished would not come closer by them either.
    enough = TOLERANCE if program.curved and too_large(program) else _TARGET
    for changes, target in ((_REFINED, enough), (_REFINED, enough), (_CAREFUL, TOLERANCE)):
        if _settled(solution, target):
            break
        settings = _settings(defaults | changes | options)
        if np.isfinite(settings.time_limit):
            settings.time_limit = max(settings.time_limit - spent["solve"], 1e-3)
        near, scales = _closer(form, solution, scales)
        again = _attempt(near, settings, scales, spent)
        solution = again if _better(again, solution) else solution
    return solution.replace(seconds={**spent, "total": time.perf_counter() - start})


def defaults_for(program: Program) -> dict[str, Any]:
    """The settings that suit a program, before those of its user."""
    wide = program.quadratics is not None and filled(program.A) > _FILL
    return DEFAULTS | _BLOCKED if wide else DEFAULTS


def _settled(solution: Solution, target: float) -> bool:
    """Whether another attempt could not help: good enough already, or stopped for a reason of its own."""
    if solution.residuals is not None and solution.residuals.ok(target):
        return True
    return solution.status.stopped not in (Stopped.OPTIMAL, Stopped.NUMERICAL)


def _closer(form: Form, first: Solution, before: Scales) -> tuple[Form, Scales]:
    """The form for another attempt in the scale of a first answer, without the limits that are far away from it.

    A market may be allowed to trade a million times what it does trade; then the tolerances, relative to
    the limits, say little about the trade. Dropping far limits is safe: the residuals are judged with all
    of them.
    """
    program = form.program
    if not len(first.x):
        one = uniform_scales(form, 1.0, 1.0)
        return form, replace(one, columns=np.ones(len(form.q)), rows=np.ones(len(form.h))) if program.curved else one
    if program.curved:
        x = first.x
        if program.logs is not None:
            x = np.r_[x, np.log(np.maximum(program.logs.inside(x), _TINY))]
        scales = cone_scales(form, x, before)
    else:
        x, kappa = first.x, typical(np.array([max(float(np.abs(first.x).max()), 1e-12)]))
        gradient = np.abs(program.c) + np.abs(program.curvature(x))
        scales = uniform_scales(form, kappa, 1.0 / (kappa * typical(gradient[gradient > 0.0])))
    near = np.abs(form.h - form.G @ x) * scales.rows < _FAR
    near[: form.ends[1]] = True
    near[form.ends[-1] :] = True
    rows = scales.rows if np.ndim(scales.rows) == 0 else scales.rows[near]
    return form.subset(near), replace(scales, rows=rows)


def _attempt(form: Form, settings: Any, scales: Scales, spent: dict[str, float]) -> Solution:
    import clarabel

    program, data = form.program, form.scaled(scales)
    began = time.perf_counter()
    raw = clarabel.DefaultSolver(data.P, data.q, data.G, data.h, form.kinds(), settings).solve()
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
    x = np.clip((scales.columns * np.asarray(raw.x))[: program.n], program.lower, program.upper)
    row_dual, reduced_cost = form.duals(np.asarray(raw.z), np.asarray(raw.s), scales)
    if not (np.isfinite(x).all() and np.isfinite(row_dual).all() and np.isfinite(reduced_cost).all()):
        return solution
    claim = Status(Stopped.OPTIMAL, Has.OPTIMAL)
    solution = judged(program, solution.replace(status=claim, x=x, row_dual=row_dual, reduced_cost=reduced_cost))
    always = SMALL if program.curved else _STRAIGHT
    if solution.residuals is not None and (program.n <= always or not solution.residuals.ok(_TARGET)):
        solution = _polished(form, data, solution, raw)
        if solution.status.has is Has.OPTIMAL:
            solution = solution.replace(message=f"Clarabel: {name}")
    if solution.status.has is not Has.OPTIMAL and stopped is not Stopped.OPTIMAL:
        return solution.replace(status=Status(stopped, solution.status.has), message=f"Clarabel: {name}")
    return solution


def _polished(form: Form, data: Data, solution: Solution, raw: Any) -> Solution:
    program, scales = form.program, data.scales
    if not program.curved:
        return polish(program, solution, scales.columns, scales.money)
    units = scales.columns[: program.n]
    solution = polish_curved(program, solution, units, scales.money)
    if solution.status.has is Has.OPTIMAL:
        return solution
    inside = leave(form, data, np.asarray(raw.x), np.asarray(raw.z), np.asarray(raw.s))
    if inside is None:
        return solution
    x, rows, dual = inside
    row_dual = solution.row_dual.copy()
    row_dual[rows] = marginal_values(
        program.sense, form.sign[np.searchsorted(form.conic, rows)] * dual, derivative=False
    )
    start = solution.replace(x=(scales.columns * x)[: program.n], row_dual=row_dual)
    return polish_curved(program, start, units, scales.money, rows)


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
