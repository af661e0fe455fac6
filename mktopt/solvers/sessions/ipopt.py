"""A session's IPOPT: it keeps the structure of the program, and starts from where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mktopt.solvers.ipopt import NAME, IpoptProblem, version
from mktopt.solvers.program import Array
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.solution import Solution


class IpoptSession:
    """IPOPT on the program of a `Parametric`, of any class; the last answer, with its multipliers, is the start of the
    next."""

    name = NAME

    def __init__(self, parametric: Parametric, options: Mapping[str, Any]) -> None:
        self.version = version()
        self._parametric, self._options = parametric, dict(options)
        self._problem = IpoptProblem(parametric.program)
        self._last: Solution | None = None

    def fits(self, x: Array) -> bool:
        """It scales itself."""
        return True

    def solve(self, theta: Array, dirty: int) -> Solution | str:
        """See `Backend`; an answer that starts from a bad last one is sought anew by the session."""
        program = self._parametric.at(theta.copy())
        solution = self._problem.solve(program, self._options, warm_start=self._last)
        self._last = solution if solution.status.ok else None
        return solution if solution.status.ok else f"IPOPT, from its last answer: {solution.status}"
