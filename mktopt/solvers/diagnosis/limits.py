"""The finite limits of a program, one by one: what a diagnosis counts, relaxes and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers.program import Array, Program


@dataclass(frozen=True)
class Member:
    """One limit: of a row or of a variable ("row" | "variable"), its index, Pyomo name, side and value."""

    kind: str
    index: int
    name: str
    side: str
    limit: float

    def __str__(self) -> str:
        word = ">=" if self.side == "lower" else "<="
        return f"{'constraint' if self.kind == 'row' else 'variable'} '{self.name}' {word} {self.limit:.6g}"


@dataclass(frozen=True, eq=False)
class Sides:
    """All finite limits in one order: rows' lower, rows' upper, columns' lower, columns' upper.

    is_row, is_lower: bool (K,); row, column: index (K,), -1 where it is not one; limit: (K,).
    """

    is_row: Array
    is_lower: Array
    row: Array
    column: Array
    limit: Array

    def member(self, program: Program, k: int) -> Member:
        """The k-th limit with its name."""
        is_row = bool(self.is_row[k])
        index = int(self.row[k] if is_row else self.column[k])
        name = program.rows[index].name if is_row else program.variables[index].name
        side = "lower" if self.is_lower[k] else "upper"
        return Member("row" if is_row else "variable", index, str(name), side, float(self.limit[k]))

    def matrix(self, program: Program) -> Any:
        """csr (K, n): the expression that each limit bounds."""
        import scipy.sparse as sp

        return sp.vstack([program.A, sp.eye_array(program.n, format="csr")], format="csr")[
            np.where(self.is_row, self.row, program.m + self.column)
        ]


def sides_of(program: Program) -> Sides:
    """The finite limits of a program."""
    groups = [np.flatnonzero(np.isfinite(limit)) for limit in (program.row_lower, program.row_upper)]
    groups += [np.flatnonzero(np.isfinite(limit)) for limit in (program.lower, program.upper)]
    sizes = [len(group) for group in groups]
    index = np.concatenate(groups)
    is_row = np.repeat([True, True, False, False], sizes)
    limits = (program.row_lower, program.row_upper, program.lower, program.upper)
    return Sides(
        is_row=is_row,
        is_lower=np.repeat([True, False, True, False], sizes),
        row=np.where(is_row, index, -1),
        column=np.where(is_row, -1, index),
        limit=np.concatenate([limit[group] for limit, group in zip(limits, groups, strict=True)]),
    )
