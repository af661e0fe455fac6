"""Infeasible, unbounded, or neither: a second opinion where a solver leaves it open.

An interior-point method that stops without a point may have met an infeasible program, an unbounded one, or its own
limits. One program without an objective tells whether there is a point, one for a direction of growth whether the
objective has an end: two LPs, or two cone programs where the rows are curved and convex. Of a program that is not
convex only the linear limits can be checked; what its solver said about the rest stays a local finding.
"""

from __future__ import annotations

from functools import cached_property

from mktopt.solvers import highs
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped

# How a solver may stop without having said whether there is a point at all. (Nor is an interior-point method's word on
# infeasibility or growth taken without a second opinion.)
_OPEN = (Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.NUMERICAL, Stopped.ITERATION_LIMIT)
_CLAIMS = (Stopped.INFEASIBLE, Stopped.UNBOUNDED)


class SecondOpinion:
    """What is known about a program beyond its solvers' words; found out once, and only when asked for."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def feasible(self) -> bool | None:
        """Whether any point satisfies all limits; None where that cannot be told."""
        from mktopt.solvers.diagnosis.infeasible import is_feasible

        return is_feasible(self.program)

    @cached_property
    def grows(self) -> bool:
        """Whether the objective improves without end along some direction."""
        from mktopt.solvers.diagnosis.unbounded import unbounded_direction

        return bool(unbounded_direction(self.program))

    def on(self, solution: Solution) -> Solution:
        """The solution, with why there is no answer where it has none."""
        stopped = solution.status.stopped
        own_word = stopped in _CLAIMS and solution.solver == highs.NAME
        if solution.status.has is not Has.NOTHING or own_word or stopped not in (*_OPEN, *_CLAIMS):
            return solution
        local = bool(self.program.not_convex)
        if self.feasible is False or (self.feasible is None and stopped is Stopped.INFEASIBLE and not local):
            verdict, found = Stopped.INFEASIBLE, "no point satisfies all constraints"
        elif local:
            return solution
        elif self.grows:
            verdict, found = Stopped.UNBOUNDED, "the objective improves without end along a feasible direction"
        elif stopped in (Stopped.INFEASIBLE_OR_UNBOUNDED, *_CLAIMS):
            verdict, found = Stopped.NUMERICAL, "but a check without the objective finds it feasible and bounded"
        else:
            return solution
        return solution.replace(status=Status(verdict, Has.NOTHING), message=f"{solution.message}; {found}")
