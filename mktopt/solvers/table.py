"""The table of solvers, and the choice among them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import FormulationError, SolverError, unknown_name
from mktopt.solvers import clarabel, highs, ipopt, outer_approximation
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Residuals, Solution, Status, Stopped


class Available(enum.Enum):
    """Whether a solver can be used here, and if not, why."""

    YES = "available"
    NOT_INSTALLED = "not installed"
    BROKEN = "installed, but it cannot be imported"

    def __bool__(self) -> bool:
        return self is Available.YES


@dataclass(frozen=True)
class Availability:
    """The answer of `Solver.available()`: the reason, the installed version, and what to do."""

    available: Available
    version: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.available)

    def __str__(self) -> str:
        return " ".join(part for part in (self.available.value, self.version, self.hint) if part)


@dataclass(frozen=True)
class Solver:
    """One row of the table: a name, the problem classes it takes, how it solves, and its package."""

    name: str
    takes: tuple[str, ...]
    run: Callable[[Program, Mapping[str, Any] | None], Solution]
    version: Callable[[], str]
    packages: tuple[str, ...]
    summary: str

    def available(self) -> Availability:
        """Whether it can be used, its version, and how to get it if it cannot."""
        try:
            return Availability(Available.YES, self.version())
        except ModuleNotFoundError:
            return Availability(Available.NOT_INSTALLED, hint=f"pip install {' '.join(self.packages)}")
        except ImportError as error:
            return Availability(Available.BROKEN, hint=str(error))

    def solve(self, program: Program, options: Mapping[str, Any] | None = None) -> Solution:
        """Solve a program of a class that it takes; see `solve`."""
        return solve(program, self.name, options)


SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver(
            highs.NAME,
            ("LP", "MILP", "QP"),
            highs.solve,
            highs.version,
            ("highspy",),
            "simplex and branch-and-cut",
        ),
        Solver(
            clarabel.NAME,
            ("LP", "QP", "SOCP", "EXP"),
            clarabel.solve,
            clarabel.version,
            ("clarabel",),
            "interior point over cones",
        ),
        Solver(
            ipopt.NAME,
            ("LP", "QP", "SOCP", "EXP", "NLP"),
            ipopt.solve,
            ipopt.version,
            ("'mktopt[ipopt]'",),
            "interior point with line search; a local optimum where the program is not convex",
        ),
        Solver(
            outer_approximation.NAME,
            ("MIQP",),
            outer_approximation.solve,
            outer_approximation.version,
            ("highspy", "clarabel"),
            "tangent cuts: HiGHS for the integers, Clarabel for the squares",
        ),
    )
}
PREFERRED = {
    "LP": highs.NAME,
    "MILP": highs.NAME,
    "QP": clarabel.NAME,
    "MIQP": outer_approximation.NAME,
    "SOCP": clarabel.NAME,
    "EXP": clarabel.NAME,
    "NLP": ipopt.NAME,
}


def choose(program: Program) -> Solver:
    """The solver for a program's class: the preferred one, or the first available that takes the class."""
    kind = program.problem_class
    if kind not in PREFERRED:
        reason = f" ({program.not_convex})" if program.not_convex else ""
        raise FormulationError(
            f"this is a {kind}{reason}, and no solver here takes whole-number variables in it: relax their domain"
            " (variable.domain = pyo.Reals), fix them, or write the curved rows as linear ones"
        )
    return _pick(program, PREFERRED[kind])


def _pick(program: Program, preferred: str) -> Solver:
    kind = program.problem_class
    if SOLVERS[preferred].available():
        return SOLVERS[preferred]
    for solver in SOLVERS.values():
        if kind in solver.takes and solver.available():
            return solver
    raise SolverError(f"no solver for a {kind} is installed; {SOLVERS[preferred].available().hint}")


def _named(program: Program, name: str) -> Solver:
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    solver, kind = SOLVERS[name], program.problem_class
    if kind not in solver.takes:
        able = ", ".join(f"'{item.name}'" for item in SOLVERS.values() if kind in item.takes)
        why = f" because {program.not_convex}" if program.not_convex else ""
        use = f"; use {able}" if able else ""
        raise FormulationError(f"solver '{name}' takes {', '.join(solver.takes)}, and this is a {kind}{why}{use}")
    available = solver.available()
    if not available:
        raise SolverError(f"solver '{name}' is {available}")
    return solver


def solve(program: Program, solver: str | None = None, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve a program and return an answer whose claims its residuals support.

    solver: a name of the table, None for the choice by problem class; options: the solver's own, refused when
    unknown. Infeasible and unbounded are answers, told apart by a further LP where the solver leaves it open.
    """
    start = time.perf_counter()
    record = choose(program) if solver is None else _named(program, solver)
    if program.impossible or program.n == 0:
        solution = _without_solver(program, record)
    else:
        solution = record.run(program, options)
    if solution.status.has is Has.NOTHING and (
        solution.status.stopped in _OPEN
        or (solution.status.stopped is Stopped.INFEASIBLE and record.name == clarabel.NAME)
    ):
        solution = _resolved(program, solution)
    return solution.replace(seconds={**solution.seconds, "total": time.perf_counter() - start})


# How a solver may stop without having said whether there is a point at all. (Nor is an interior-point method's word
# on infeasibility taken without a second opinion.)
_OPEN = (Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.NUMERICAL, Stopped.ITERATION_LIMIT)


def _without_solver(program: Program, record: Solver) -> Solution:
    """The answer where none is needed: limits that are false on their face, or nothing left to decide."""
    seconds = {"solve": 0.0}
    if program.impossible:
        status = Status(Stopped.INFEASIBLE, Has.NOTHING)
        return Solution(status, record.name, message=program.impossible, seconds=seconds)
    return Solution(
        Status(Stopped.OPTIMAL, Has.OPTIMAL),
        record.name,
        row_dual=np.zeros(program.m),
        objective=program.constant,
        residuals=Residuals(0.0, 0.0, 0.0, 0.0),
        message="every variable is fixed",
        seconds=seconds,
    )


def _resolved(program: Program, solution: Solution) -> Solution:
    """Why there is no answer, found out by one LP for feasibility and one for a direction of growth."""
    from mktopt.solvers.infeasible import is_feasible
    from mktopt.solvers.unbounded import unbounded_direction

    feasible = is_feasible(program)
    if feasible is False or (feasible is None and solution.status.stopped is Stopped.INFEASIBLE):
        stopped, found = Stopped.INFEASIBLE, "no point satisfies all constraints"
    elif unbounded_direction(program):
        stopped, found = Stopped.UNBOUNDED, "the objective improves without end along a feasible direction"
    elif solution.status.stopped in (Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.INFEASIBLE):
        stopped, found = Stopped.NUMERICAL, "but a check by linear programs finds it feasible and bounded"
    else:
        return solution
    return solution.replace(status=Status(stopped, Has.NOTHING), message=f"{solution.message}; {found}")
