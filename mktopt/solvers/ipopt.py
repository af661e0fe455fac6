"""IPOPT: any smooth program, to a local optimum; the global one where the program is convex.

IPOPT is an interior-point method with a filter line search (Wächter and Biegler 2006). It is called through `cyipopt`
where that can be imported, else through CasADi; the functions are the same (`problem.py`). Its multipliers satisfy

    ∇f̂ + Jᵀλ - z_L + z_U = 0,     f̂ = σ·sense·f,     z_L, z_U >= 0

With the scale of `problem.py` (variables in units D, rows times R) the canonical duals are, for rows and bounds,

    row_dual = -sense · R λ / σ,        reduced_cost = sense · (z_L - z_U) / (σ D)

and for a fixed column, whose multiplier IPOPT does not know, what stationarity leaves: ∇f - Jᵀ row_dual.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers.blocks import blocks, one_by_one
from mktopt.solvers.nlp import backends as nlp_backends
from mktopt.solvers.nlp.backends import Raw, Start
from mktopt.solvers.nlp.duals import duals
from mktopt.solvers.nlp.options import checked
from mktopt.solvers.nlp.problem import Nlp
from mktopt.solvers.nlp.remainder import INSTALL
from mktopt.solvers.nlp.start import another_start, answer_scale, first_scale, named_fault, starting_point
from mktopt.solvers.polish import SMALL, polish, scales_of
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

NAME = "ipopt"

DEFAULTS: dict[str, Any] = {
    "print_level": 0,
    "sb": "yes",
    "linear_solver": "mumps",
    "tol": 1e-9,
    "bound_relax_factor": 0.0,
    "check_derivatives_for_naninf": "yes",
    "diverging_iterates_tol": 1e12,  # in units of a typical limit; IPOPT's own 1e20 takes thousands of iterations
}
# A start that is an answer already: begin with the barrier nearly gone, and push it into the interior by next to
# nothing.
_WARM: dict[str, Any] = {
    "warm_start_init_point": "yes",
    "mu_init": 1e-7,
    "warm_start_bound_push": 1e-9,
    "warm_start_bound_frac": 1e-9,
    "warm_start_slack_bound_push": 1e-9,
    "warm_start_slack_bound_frac": 1e-9,
    "warm_start_mult_bound_push": 1e-9,
}
_NEAR: dict[str, Any] = {"bound_push": 1e-6, "bound_frac": 1e-6, "slack_bound_push": 1e-6, "slack_bound_frac": 1e-6}
_CAREFUL: dict[str, Any] = {"mu_strategy": "adaptive"}
# Residuals above which another attempt is worth its time.
_TARGET = 1e-7

_STOPPED = {
    "Solve_Succeeded": Stopped.OPTIMAL,
    "Feasible_Point_Found": Stopped.OPTIMAL,
    "Solved_To_Acceptable_Level": Stopped.NUMERICAL,
    "Infeasible_Problem_Detected": Stopped.INFEASIBLE,
    "Search_Direction_Becomes_Too_Small": Stopped.NUMERICAL,
    "Diverging_Iterates": Stopped.INFEASIBLE_OR_UNBOUNDED,
    "User_Requested_Stop": Stopped.INTERRUPTED,
    "Maximum_Iterations_Exceeded": Stopped.ITERATION_LIMIT,
    "Restoration_Failed": Stopped.NUMERICAL,
    "Error_In_Step_Computation": Stopped.NUMERICAL,
    "Maximum_CpuTime_Exceeded": Stopped.TIME_LIMIT,
    "Maximum_WallTime_Exceeded": Stopped.TIME_LIMIT,
    "Invalid_Number_Detected": Stopped.NUMERICAL,
}
_OFFERED = (Stopped.INFEASIBLE, Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.ERROR)  # stops whose point is no answer


@dataclass(frozen=True)
class Progress:
    """One iteration of IPOPT, as the option `progress` is shown it.

    iteration: from 0; objective: in the model's own sense and unit; primal_infeasibility, dual_infeasibility, barrier:
    as IPOPT measures them, in its scale (barrier is NaN through CasADi, which does not tell it).
    """

    iteration: int
    objective: float
    primal_infeasibility: float
    dual_infeasibility: float
    barrier: float


def version() -> str:
    """The installed version; ImportError where there is none."""
    return nlp_backends.ipopt_version(nlp_backends.available())


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve with IPOPT.

    options: IPOPT's own (`tol`, `max_iter`, `mu_strategy`, ...; those that it does not know are refused), and
    time_limit: seconds of wall clock; warm_start: a `Solution` of the same structure, or (x, row_dual, reduced_cost);
    progress: a function that is called with a `Progress` in each iteration, and stops the solver by returning False.
    The start is the values of the Pyomo variables where they have one. Blocks that nothing connects (see `blocks.py`)
    are solved one by one, unless a warm start or a function is given that is of the whole.
    Raises SolverError without the library (with the command that installs it) and for a value that an option cannot
    take, UnknownNameError for an unknown option. Ctrl-C ends it at the next iteration, with KeyboardInterrupt.
    """
    options = dict(options or {})
    parts = [] if {"warm_start", "progress"} & set(options) or program.impossible else blocks(program)
    if program.curved and len(parts) > 1:
        return one_by_one(program, parts, lambda block, given: IpoptProblem(block).solve(options=given), options)
    return IpoptProblem(program).solve(options=options)


class IpoptProblem:
    """A program made ready for IPOPT, to be solved again and again with other numbers.

        problem = IpoptProblem(program)                          # finds the structure once
        first = problem.solve(options={"tol": 1e-8})
        later = problem.solve(program.replace(c=c), warm_start=first)   # other c, P, A, limits; same structure

    `solve(program=None, options=None, warm_start=None) -> Solution`: `program` is another `Program` with the same rows,
    columns and places of entries (numbers may differ in c, constant, P.data, A.data, limits, coefficients of
    quadratics and logs); one of another structure is taken too, and prepared anew. `warm_start` is a `Solution` or
    (x, row_dual, reduced_cost), canonical as in `Solution`; None starts from the variables' values. One object serves
    one thread at a time. It can be pickled where the program can; what the backend holds is rebuilt.
    """

    def __init__(self, program: Program, backend: str | None = None) -> None:
        self.program = program
        self._backend = backend
        self._nlp: Nlp | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"program": self.program, "_backend": self._backend, "_nlp": None}

    def solve(
        self, program: Program | None = None, options: Mapping[str, Any] | None = None, warm_start: Any = None
    ) -> Solution:
        """Solve, with the numbers of `program` if given; see the class and the function `solve`."""
        began = time.perf_counter()
        program = self.program = self.program if program is None else program
        options = dict(options or {})
        named = options.pop("warm_start", None)
        warm = _multipliers(program, named if warm_start is None else warm_start)
        call = _Call(program, options, _backend(self._backend), began)
        if program.impossible:
            return call.finished(
                Solution(Status(Stopped.INFEASIBLE, Has.NOTHING), NAME, message=f"IPOPT: {program.impossible}")
            )
        if self._nlp is None or not self._nlp.fits(program):
            self._nlp = Nlp(program, first_scale(program))
        else:
            self._nlp.load(program)
        solution = call.attempt(self._nlp, warm, {})
        if solution.status.stopped is Stopped.INFEASIBLE and program.not_convex and not call.late:
            # Only the neighbourhood of where it stopped is known to hold no feasible point: look from elsewhere, once.
            again = call.attempt(self._nlp, None, {}, near=another_start(program))
            solution = again if again.residuals is not None else solution
        for changes in ({}, _CAREFUL):
            if call.settled(solution):
                break
            again = call.attempt(Nlp(program, answer_scale(program, solution.x)), None, changes, near=solution.x)
            solution = _better(solution, again)
        return call.finished(solution)


@dataclass
class _Call:
    """One call of `solve`: its options, its clock, and one attempt after the other."""

    program: Program
    options: dict[str, Any]
    backend: str
    began: float

    def __post_init__(self) -> None:
        self.limit = self.options.pop("time_limit", None)
        self.progress: Callable[[Progress], Any] | None = self.options.pop("progress", None)
        if self.progress is not None and not callable(self.progress):
            raise SolverError(f"IPOPT option 'progress' takes a function of one Progress, not {self.progress!r}")
        if self.limit is not None and not (isinstance(self.limit, int | float) and self.limit > 0.0):
            raise SolverError(f"IPOPT option 'time_limit' takes a positive number of seconds, not {self.limit!r}")
        self.options = {name: checked(name, value) for name, value in self.options.items()}
        self.spent, self.iterations = 0.0, 0

    def attempt(
        self, nlp: Nlp, warm: tuple[Array, Array, Array] | None, changes: Mapping[str, Any], near: Array | None = None
    ) -> Solution:
        """Run IPOPT once and judge its answer. `near`: a point to start from, without multipliers."""
        settings = self._settings(nlp, warm, changes, near)
        start = _start(nlp, warm) if warm is not None else _cold(nlp, starting_point(nlp, near))
        watch = None if self.progress is None else self._watch(nlp)
        began = time.perf_counter()
        raw = nlp_backends.run(self.backend, nlp, start, settings, watch)
        self.spent += time.perf_counter() - began
        self.iterations += raw.iterations
        if raw.status == "Invalid_Option":
            listed = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise SolverError(f"IPOPT, as it is built here, does not take one of the options {listed}")
        return _answer(nlp, raw, nlp_backends.ipopt_version(self.backend))

    def _settings(self, nlp: Nlp, warm: Any, changes: Mapping[str, Any], near: Array | None) -> dict[str, Any]:
        settings = dict(DEFAULTS)
        if not nlp.moving:
            settings |= {"jac_c_constant": "yes", "jac_d_constant": "yes"}
        if not self.program.curved:
            settings["hessian_constant"] = "yes"
        if warm is not None:
            settings |= _WARM if len(warm[2]) else _NEAR
        elif near is not None and len(near):
            settings |= _NEAR
        settings |= dict(changes) | self.options
        if self.limit is not None:
            settings["max_wall_time"] = max(self.limit - (time.perf_counter() - self.began), 1e-3)
        return settings

    def _watch(self, nlp: Nlp) -> nlp_backends.Watch:
        factor = nlp.factor[-1]
        progress = self.progress

        def watch(iteration: int, objective: float, primal: float, dual: float, barrier: float) -> bool:
            record = Progress(iteration, float(objective / factor), primal, dual, barrier)
            return progress is None or progress(record) is not False

        return watch

    @property
    def late(self) -> bool:
        """Whether the time limit has passed."""
        return self.limit is not None and time.perf_counter() - self.began > self.limit

    def settled(self, solution: Solution) -> bool:
        """Whether another attempt could not help."""
        if solution.residuals is not None and solution.status.ok and solution.residuals.ok(_TARGET):
            return True
        if self.late:
            return True
        return solution.status.stopped not in (Stopped.OPTIMAL, Stopped.NUMERICAL)

    def finished(self, solution: Solution) -> Solution:
        """The solution with the times and iterations of the whole call."""
        seconds = {"solve": self.spent, "total": time.perf_counter() - self.began}
        return solution.replace(seconds=seconds, iterations=self.iterations)


def _backend(wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    try:
        return nlp_backends.available()
    except ImportError as error:
        raise SolverError(f"IPOPT is not installed ({error}); install it with {INSTALL}") from error


def _multipliers(program: Program, warm: Any) -> tuple[Array, Array, Array] | None:
    """(x, row_dual, reduced_cost) of a warm start, checked; the last two may be empty."""
    if warm is None:
        return None
    parts = (warm.x, warm.row_dual, warm.reduced_cost) if isinstance(warm, Solution) else tuple(warm)
    if len(parts) != 3:
        raise SolverError("warm_start takes a Solution or (x, row_dual, reduced_cost)")
    x, y, z = (np.asarray(part if part is not None else (), dtype=float).ravel() for part in parts)
    if isinstance(warm, Solution) and not len(x):
        return None  # a solver that stopped without a point has nothing to start from
    if len(x) != program.n or len(y) not in (0, program.m) or len(z) not in (0, program.n):
        raise SolverError(
            f"warm_start has sizes {len(x)}, {len(y)}, {len(z)}, but the program has {program.n} variables and"
            f" {program.m} rows: (x, row_dual, reduced_cost) must be ({program.n}, {program.m}, {program.n})"
        )
    if not all(np.isfinite(part).all() for part in (x, y, z)):
        raise SolverError("warm_start holds numbers that are not finite")
    if len(y) != program.m or len(z) != program.n:
        y = z = np.zeros(0)
    return x, y, z


def _cold(nlp: Nlp, x: Array) -> Start:
    return Start(x, np.zeros(nlp.m), np.zeros(nlp.n), np.zeros(nlp.n))


def _start(nlp: Nlp, warm: tuple[Array, Array, Array]) -> Start:
    """A warm start in IPOPT's scale and signs, lifted logarithms included."""
    x, row_dual, reduced_cost = warm
    point = starting_point(nlp, x)
    if not len(reduced_cost):
        return _cold(nlp, point)
    program, n = nlp.program, nlp.program.n
    sigma, used = nlp.scale.objective, len(nlp.rows)
    y = np.zeros(nlp.m)
    y[:used] = -program.sense * row_dual[nlp.rows] * sigma / nlp.R[:used]
    if len(nlp.lifted):
        # Stationarity along t_k: w_k coef_k / t_k + λ_k = 0, w the multiplier of its row, 1 in the objective.
        weights = np.append(y, 1.0)
        part = nlp.log_in >= n
        at = nlp.log_in[part]
        y[used + at - n] = -weights[nlp.log_row[part]] * nlp.log_coef[part] / point[at]
    z = np.zeros(nlp.n)
    z[:n] = program.sense * reduced_cost * sigma * nlp.D[:n]
    return Start(point, y, np.maximum(z, 0.0), np.maximum(-z, 0.0))


def _answer(nlp: Nlp, raw: Raw, number: str) -> Solution:
    """The solution in the terms of the program, with no claim that its residuals do not support."""
    program = nlp.program
    stopped = _STOPPED.get(raw.status, Stopped.ERROR)
    message = f"IPOPT: {raw.status}"
    convex = not program.not_convex
    if stopped is Stopped.INFEASIBLE and not convex:
        message += ", locally: the program is not convex, and from another start there may be a feasible point"
    elif stopped is Stopped.INFEASIBLE_OR_UNBOUNDED:
        message += ": the iterates grow without end, so the objective seems to have no limit"
    elif raw.status == "Invalid_Number_Detected":
        message += named_fault(nlp, raw.x)
    solution = Solution(Status(stopped, Has.NOTHING), NAME, f"IPOPT {number}", message=message)
    if stopped in _OFFERED:
        return solution
    x = np.clip(nlp.D[: program.n] * raw.x[: program.n], program.lower, program.upper)
    row_dual, reduced_cost = duals(nlp, raw, x)
    if not (np.isfinite(x).all() and np.isfinite(row_dual).all() and np.isfinite(reduced_cost).all()):
        return solution
    has = Has.OPTIMAL if convex else Has.LOCAL
    claim = Status(Stopped.OPTIMAL, has)
    if stopped not in (Stopped.OPTIMAL, Stopped.NUMERICAL):
        claim = Status(stopped, Has.FEASIBLE)
    found = judged(program, solution.replace(status=claim, x=x, row_dual=row_dual, reduced_cost=reduced_cost))
    if stopped is Stopped.NUMERICAL and not found.status.ok:
        return found.replace(status=Status(stopped, found.status.has), message=message)
    if convex and not program.curved and program.n <= SMALL and found.status.ok:
        return polish(program, found, *scales_of(program, x))
    return found


def _better(first: Solution, second: Solution) -> Solution:
    """The one whose residuals are smaller; one that has a point before one that has none."""
    if second.residuals is None or first.residuals is None:
        return second if second.residuals is not None else first
    return second if second.residuals.worst < first.residuals.worst else first
