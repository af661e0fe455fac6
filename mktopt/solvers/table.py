"""The table of solvers, and the choice among them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import FormulationError, SolverError, unknown_name
from mktopt.solvers import clarabel, highs, ipopt, outer_approximation
from mktopt.solvers.diagnosis.verdict import SecondOpinion
from mktopt.solvers.program import Program
from mktopt.solvers.solution import TOLERANCE, Attempt, Has, Residuals, Solution, Status, Stopped, judged


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
            ("MIQP", "MISOCP", "MIEXP"),
            outer_approximation.solve,
            outer_approximation.version,
            ("highspy", "clarabel"),
            "tangent cuts: HiGHS for the integers, Clarabel for what is curved",
        ),
    )
}
PREFERRED = {
    "LP": highs.NAME,
    "MILP": highs.NAME,
    "QP": clarabel.NAME,
    "MIQP": outer_approximation.NAME,
    "SOCP": clarabel.NAME,
    "MISOCP": outer_approximation.NAME,
    "EXP": clarabel.NAME,
    "MIEXP": outer_approximation.NAME,
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
    why = f" ({program.not_convex})" if program.not_convex else ""
    raise SolverError(f"no solver for a {kind}{why} is installed; {SOLVERS[preferred].available().hint}")


def _named(program: Program, name: str) -> Solver:
    """The solver called `name`, which must take the program's class."""
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    solver, kind = SOLVERS[name], program.problem_class
    if kind not in solver.takes:
        able = ", ".join(f"'{item.name}'" for item in SOLVERS.values() if kind in item.takes)
        why = f" because {program.not_convex}" if program.not_convex else ""
        use = f"; use {able}" if able else ""
        raise FormulationError(f"solver '{name}' takes {', '.join(solver.takes)}, and this is a {kind}{why}{use}")
    return solver


def _chain(program: Program, solver: str | Sequence[str] | None) -> list[Solver]:
    """The solvers to try, in sequence; the first is available."""
    if solver is None:
        first, kind = choose(program), program.problem_class
        return [first, *(item for item in SOLVERS.values() if item is not first and kind in item.takes)]
    names = [solver] if isinstance(solver, str) else list(dict.fromkeys(solver))
    chain = [_named(program, name) for name in names]
    if not any(item.available() for item in chain):
        missing = "; ".join(f"solver '{item.name}' is {item.available()}" for item in chain)
        raise SolverError(missing or f"solver is an empty list; use None or names of {', '.join(SOLVERS)}")
    return chain


def solve(
    program: Program, solver: str | Sequence[str] | None = None, options: Mapping[str, Any] | None = None
) -> Solution:
    """Solve a program and return an answer whose claims its residuals support.

    solver: a name of the table, which is then the only one that is tried; several names, tried one after the other; or
    None: the one that suits the problem class, and the others that take the class after it. The next one is tried where
    one stops without an answer: numerical difficulties, an error, a limit of iterations or time, an optimum that its
    residuals do not support. Answers are an optimum, and infeasibility and unboundedness that hold up (told apart by
    further programs where the solver leaves it open). A feasible point of one attempt is kept where no later one gives
    better; `attempts` of the solution tells the whole story.

    options: the solver's own, refused when unknown; of several solvers they go to the first. An entry {name: options}
    is for the solver of that name. `time_limit` [s] holds for each attempt anew, since a limit that the first used up
    would leave the next nothing: name one solver where it must hold for all.

    Raises UnknownNameError, FormulationError (a class that it does not take), SolverError (none is installed, or the
    option has a wrong value).
    """
    start = time.perf_counter()
    chain = _chain(program, solver)
    if program.impossible or program.n == 0:
        solution = _without_solver(program, chain[0])
        solution = solution.replace(attempts=(_attempt(solution, 0.0),))
    else:
        solution = _first_answer(program, chain, _shares(chain, options or {}), named=solver is not None)
    return solution.replace(seconds={**solution.seconds, "total": time.perf_counter() - start})


def _shares(chain: list[Solver], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each solver of a chain."""
    own = {name: dict(value) for name, value in options.items() if name in SOLVERS and isinstance(value, Mapping)}
    stray = [name for name in own if name not in {item.name for item in chain}]
    if stray:
        raise FormulationError(
            f"options for solver '{stray[0]}', which is not tried here: {', '.join(item.name for item in chain)}"
        )
    first = {name: value for name, value in options.items() if name not in own}
    later = {name: value for name, value in first.items() if name == "time_limit"}
    return [{**(later if k else first), **own.get(item.name, {})} for k, item in enumerate(chain)]


def _first_answer(program: Program, chain: list[Solver], shares: list[dict[str, Any]], named: bool) -> Solution:
    """The first answer of a chain of solvers, or else the best that one of them left; `named`: by the caller."""
    opinion = SecondOpinion(program)
    found: list[Solution] = []
    attempts: list[Attempt] = []
    for k, (solver, options) in enumerate(zip(chain, shares, strict=True)):
        if (k or (named and len(chain) > 1)) and not (available := solver.available()):
            if named:
                attempts.append(Attempt(solver.name, Status(Stopped.ERROR, Has.NOTHING), str(available)))
            continue
        start = time.perf_counter()
        try:
            solution = solver.run(program, options)
        except SolverError as error:
            if set(options) - {"time_limit"} or (k == len(chain) - 1 and not found):
                raise
            solution = Solution(Status(Stopped.ERROR, Has.NOTHING), solver.name, message=str(error))
        solution = opinion.on(_supported(program, solution))
        attempts.append(_attempt(solution, time.perf_counter() - start))
        found.append(solution)
        if solution.status.ok or solution.status.stopped in _ANSWERS:
            break
    best = found[-1] if found[-1].status.stopped in _ANSWERS else max(found, key=lambda item: _merit(program, item))
    message = "; then ".join(item.message for item in attempts) if len(attempts) > 1 else best.message
    return best.replace(attempts=tuple(attempts), message=message)


# After these no other solver is asked, whatever there is in hand.
_ANSWERS = (Stopped.INFEASIBLE, Stopped.UNBOUNDED, Stopped.INTERRUPTED)


def _supported(program: Program, solution: Solution) -> Solution:
    """No optimum without residuals that say so, whatever an adapter claims."""
    if solution.status.ok and (solution.residuals is None or not solution.residuals.ok(TOLERANCE)):
        return judged(program, solution)
    return solution


def _merit(program: Program, solution: Solution) -> tuple[int, float]:
    """What a solution is worth beside others: an optimum, a local one, a point (the better the more), nothing."""
    rank = [Has.NOTHING, Has.FEASIBLE, Has.LOCAL, Has.OPTIMAL].index(solution.status.has)
    return rank, -program.sense * solution.objective if rank else 0.0


def _attempt(solution: Solution, seconds: float) -> Attempt:
    return Attempt(solution.solver, solution.status, solution.message, seconds, solution.residuals)


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
