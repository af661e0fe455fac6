"""IPOPT: any smooth program, to a local optimum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mktopt.solvers.program import Program
from mktopt.solvers.solution import Solution

NAME = "ipopt"


def version() -> str:
    """The installed version; ImportError where there is none."""
    raise ModuleNotFoundError("casadi")


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve with IPOPT."""
    raise ModuleNotFoundError("casadi")
