"""HiGHS: LP, MILP and (slowly) convex QP."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name
from mktopt.solvers.polish import SMALL, polish, scales_of
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

NAME = "highs"

_STOPPED = {
    "kOptimal": Stopped.OPTIMAL,
    "kModelEmpty": Stopped.OPTIMAL,
    "kInfeasible": Stopped.INFEASIBLE,
    "kUnbounded": Stopped.UNBOUNDED,
    "kUnboundedOrInfeasible": Stopped.INFEASIBLE_OR_UNBOUNDED,
    "kTimeLimit": Stopped.TIME_LIMIT,
    "kIterationLimit": Stopped.ITERATION_LIMIT,
    "kSolutionLimit": Stopped.ITERATION_LIMIT,
    "kInterrupt": Stopped.INTERRUPTED,
    "kHighsInterrupt": Stopped.INTERRUPTED,
    "kUnknown": Stopped.NUMERICAL,
}
# On the long chains of equalities that a radial feeder is, presolve costs ten times the simplex that it
# saves (10,000 buses: 1.7 s against 0.16 s). The QP solver adds its regularisation to the Hessian and does
# not take it out again: the default of 1e-7 shows in the prices. Slack that HiGHS may leave by default
# (1e-7) is as large as what the certificate allows; these cost next to nothing.
_DEFAULTS: dict[str, Any] = {
    "primal_feasibility_tolerance": 1e-9,
    "dual_feasibility_tolerance": 1e-9,
    "presolve": "off",
    "qp_regularization_value": 1e-12,
}
# Residuals of a QP above this are worth a polish.
_TARGET = 1e-7
# Where the QP solver loses its way on a flat objective, its own regularisation often helps; the polish takes it out.
_AGAIN = (Stopped.NUMERICAL, Stopped.ITERATION_LIMIT, Stopped.ERROR)
_SECOND: dict[str, Any] = {"qp_regularization_value": 1e-7}
# The default absolute gap (1e-6 $) would be all the welfare of a small market.
_MIP_DEFAULTS: dict[str, Any] = {
    "presolve": "choose",
    "mip_rel_gap": 1e-7,
    "mip_abs_gap": 1e-12,
    "mip_feasibility_tolerance": 1e-9,
}


def version() -> str:
    """The installed version; ImportError where there is none."""
    import highspy

    return str(highspy.Highs().version())  # type: ignore[no-untyped-call]


def solve_auxiliary(program: Program) -> Solution:
    """Solve an LP that serves a diagnosis, at a vertex: by simplex, or by interior point and crossover if large.

    Such LPs have several times the size of the program that they explain, and start from nothing.
    """
    if program.integer.any():
        return solve(program)
    return solve(program, {"solver": "ipm" if program.n > 5000 else "simplex"})


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve with HiGHS; `options` are its own (`time_limit`, `mip_rel_gap`, `threads`, ...)."""
    solution = _attempt(program, options)
    if program.P is None or solution.status.stopped not in _AGAIN:
        return solution
    again = _attempt(program, {**_SECOND, **(options or {})})
    return again if again.status.has is Has.OPTIMAL else solution


def _attempt(program: Program, options: Mapping[str, Any] | None) -> Solution:
    start = time.perf_counter()
    highs = load(program, options)
    began = time.perf_counter()
    highs.run()
    seconds = {"solve": time.perf_counter() - began}
    return _answer(program, highs, start, seconds)


def load(program: Program, options: Mapping[str, Any] | None = None) -> Any:
    """A quiet `highspy.Highs` that holds the program as a minimisation."""
    import highspy

    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    chosen = dict(_DEFAULTS)
    if program.integer.any():
        chosen |= _MIP_DEFAULTS
    if program.P is not None:
        chosen |= _qp_defaults(program)
    _set_options(highs, chosen | dict(options or {}))
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = program.n, program.m
    lp.col_cost_ = program.sense * program.c
    lp.offset_ = program.sense * program.constant
    lp.col_lower_, lp.col_upper_ = program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = program.A.indptr
    lp.a_matrix_.index_ = program.A.indices
    lp.a_matrix_.value_ = program.A.data
    if program.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in program.integer]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise SolverError(
            "HiGHS refused the problem; is a coefficient larger than 1e15 or a bound infinite on the wrong side?"
        )
    if program.P is not None:
        _pass_hessian(highs, program)
    return highs


def _qp_defaults(program: Program) -> dict[str, int]:
    """The QP solver's tolerances are absolute, so costs are brought near one (power of two: nothing is rounded); where
    it runs in circles all the same it is stopped."""
    costs = np.abs(program.c[program.c != 0])
    exponent = -np.round(np.log2(np.median(costs))) if len(costs) else 0.0
    return {
        "user_objective_scale": int(np.clip(exponent, -30, 30)),
        "qp_iteration_limit": 1000 + 10 * (program.n + program.m),
    }


def _pass_hessian(highs: Any, program: Program) -> None:
    import highspy
    import scipy.sparse as sp

    lower = sp.tril(program.sense * program.P, format="csc")
    hessian = highspy.HighsHessian()
    hessian.dim_ = program.n
    hessian.format_ = highspy.HessianFormat.kTriangular
    hessian.start_, hessian.index_, hessian.value_ = lower.indptr, lower.indices, lower.data
    if highs.passHessian(hessian) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refused the quadratic objective")


def _set_options(highs: Any, options: Mapping[str, Any]) -> None:
    import highspy

    for name, value in options.items():
        status, kind = highs.getOptionType(name)
        if status != highspy.HighsStatus.kOk:
            known = sorted(item for item in dir(highspy.HighsOptions) if not item.startswith("_"))
            raise unknown_name("HiGHS option", name, known)
        if kind == highspy.HighsOptionType.kDouble and not isinstance(value, (bool, str)):
            value = float(value)
        if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(
                f"HiGHS option '{name}' does not take the value {value!r} ({kind.name[1:].lower()} expected)"
            )


def _answer(program: Program, highs: Any, start: float, seconds: dict[str, float]) -> Solution:
    name = highs.getModelStatus().name
    stopped = _STOPPED.get(name, Stopped.ERROR)
    info = highs.getInfo()
    found = highs.getSolution()
    has = Has.OPTIMAL if stopped is Stopped.OPTIMAL else Has.NOTHING
    if (
        has is Has.NOTHING
        and stopped not in (Stopped.INFEASIBLE, Stopped.UNBOUNDED)
        and info.primal_solution_status == 2
    ):
        has = Has.FEASIBLE
    x = np.array(found.col_value, dtype=float) if has is not Has.NOTHING else np.zeros(0)
    y = z = np.zeros(0)
    if len(x) and found.dual_valid and not program.integer.any():
        y = marginal_values(program.sense, np.array(found.row_dual), derivative=True)
        z = marginal_values(program.sense, np.array(found.col_dual), derivative=True)
    counts = (info.simplex_iteration_count, info.ipm_iteration_count, info.qp_iteration_count)
    mixed = bool(program.integer.any())
    solution = Solution(
        status=Status(stopped, has),
        solver=NAME,
        version=str(highs.version()),
        x=x,
        row_dual=y,
        reduced_cost=z,
        bound=program.sense * float(info.mip_dual_bound) if mixed else float("nan"),
        iterations=sum(max(int(count), 0) for count in counts),
        message=f"HiGHS: {highs.modelStatusToString(highs.getModelStatus())}",
    )
    solution = judged(program, solution)
    if program.P is not None and stopped not in (Stopped.INFEASIBLE, Stopped.UNBOUNDED):
        solution = _mended(program, found, solution)
    return solution.replace(seconds={**seconds, "total": time.perf_counter() - start})


def _mended(program: Program, found: Any, solution: Solution) -> Solution:
    """The answer of the QP solver polished, where it gave up or drifted off the equalities on its way.

    HiGHS calls such values invalid, and they are; but they tell which limits bind, and residuals judge the rest.
    """
    settled = solution.residuals is not None and solution.residuals.ok(_TARGET)
    if len(found.col_value) != program.n or (settled and program.n > SMALL):
        return solution
    x = np.clip(np.array(found.col_value, dtype=float), program.lower, program.upper)
    candidate = solution.replace(
        status=Status(Stopped.OPTIMAL, Has.OPTIMAL),
        message=f"{solution.message}, polished",
        x=x,
        row_dual=marginal_values(program.sense, np.array(found.row_dual), derivative=True),
        reduced_cost=marginal_values(program.sense, np.array(found.col_dual), derivative=True),
    )
    if not all(np.isfinite(part).all() for part in (x, candidate.row_dual, candidate.reduced_cost)):
        return solution
    polished = polish(program, judged(program, candidate), *scales_of(program, x))
    return polished if polished.status.has is Has.OPTIMAL else solution
