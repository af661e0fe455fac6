"""Recognising cones in the rows of a program."""

from __future__ import annotations

from mktopt.solvers.program import Program


def fault_of_rows(program: Program) -> str:
    """Why the rows of a program are no convex cones, naming the row at fault; '' where they are."""
    if program.remainder is not None:
        return "it holds a nonlinear term"
    return ""
