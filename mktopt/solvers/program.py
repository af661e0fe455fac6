"""A Pyomo model as arrays: what every solver here takes and what every check here reads.

min or max   constant + cᵀx + ½ xᵀP x
subject to   row_lower <= A x <= row_upper,   lower <= x <= upper,   x_j whole where integer_j
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mktopt.errors import FormulationError

Array = np.ndarray


def inner(a: Array, b: Array) -> float:
    """aᵀb on one thread: for vectors of a market's length BLAS takes longer to wake its threads than to multiply."""
    return float((a * b).sum())


@dataclass(frozen=True, eq=False)
class Program:
    """One linear or quadratic program, with the Pyomo objects that its columns and rows stand for.

    variables: n Pyomo variables, one per column, in order of declaration; rows: m Pyomo constraints;
    A: csr (m, n); row_lower, row_upper: (m,); lower, upper: (n,); integer: bool (n,); c: (n,);
    P: symmetric csc (n, n), or None for a linear objective; sense: +1 minimise, -1 maximise.
    Fixed variables have no column: their values (in `fixed_values`) are folded into the constants.
    """

    variables: list[Any]
    rows: list[Any]
    A: Any
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: Array
    c: Array
    P: Any
    constant: float = 0.0
    sense: int = 1
    name: str = ""
    fixed_variables: list[Any] = field(default_factory=list)
    fixed_values: Array = field(default_factory=lambda: np.zeros(0))
    column_of: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Number of columns (variables)."""
        return len(self.c)

    @property
    def m(self) -> int:
        """Number of rows (constraints)."""
        return len(self.row_lower)

    @cached_property
    def problem_class(self) -> str:
        """LP, QP, MILP or MIQP."""
        kind = "LP" if self.P is None else "QP"
        return "MI" + kind if bool(self.integer.any()) else kind

    def column(self, variable: Any) -> int:
        """The column of a Pyomo variable."""
        column = self.column_of.get(id(variable))
        if column is None:
            raise FormulationError(
                f"variable '{variable}' is not in the program '{self.name}': it belongs to another model or was"
                " added after this one was compiled"
            )
        if column < 0:
            raise FormulationError(f"variable '{variable}' is fixed, so it has no column in the program")
        return column

    def columns(self, variables: Iterable[Any]) -> Array:
        """The columns (int) of many Pyomo variables; -1 for those that are fixed."""
        known = self.column_of
        try:
            found = np.fromiter((known[id(variable)] for variable in variables), dtype=np.int64)
        except KeyError:
            for variable in variables:
                if id(variable) not in known:
                    self.column(variable)
            raise
        return np.maximum(found, -1)

    def values(self, x: Array, variables: Iterable[Any]) -> Array:
        """The values of many Pyomo variables in the point `x` (n,), the fixed ones included."""
        known = self.column_of
        found = np.fromiter((known[id(variable)] for variable in variables), dtype=np.int64)
        # A fixed variable k is recorded as -1-k, which indexes this array from its end.
        return np.concatenate([x, self.fixed_values[::-1]])[found]

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {id(row): position for position, row in enumerate(self.rows)}

    def row(self, constraint: Any) -> int:
        """The row of a Pyomo constraint."""
        row = self._row_of.get(id(constraint))
        if row is None:
            raise FormulationError(
                f"constraint '{constraint}' is not in the program: it is inactive or was added later"
            )
        return row

    def row_indices(self, constraints: Iterable[Any]) -> Array:
        """The rows (int) of many Pyomo constraints."""
        known = self._row_of
        return np.fromiter(
            (known[id(item)] if id(item) in known else self.row(item) for item in constraints), dtype=np.int64
        )

    def variable_names(self) -> list[str]:
        """The Pyomo names of the columns."""
        return [str(variable.name) for variable in self.variables]

    def row_names(self) -> list[str]:
        """The Pyomo names of the rows."""
        return [str(row.name) for row in self.rows]

    def objective(self, x: Array) -> float:
        """constant + cᵀx + ½ xᵀP x, in the sense of the model."""
        return self.constant + inner(self.c, x) + 0.5 * inner(x, self.curvature(x))

    def curvature(self, x: Array) -> Array:
        """P x (n,); zeros for a linear objective."""
        return np.zeros(self.n) if self.P is None else np.asarray(self.P @ x)

    @cached_property
    def typical(self) -> float:
        """The typical size of a finite limit of a row or variable (their median, zeros aside); 1 without any."""
        sizes = np.abs(np.concatenate([self.row_lower, self.row_upper, self.lower, self.upper]))
        sizes = sizes[np.isfinite(sizes) & (sizes > 0.0)]
        return float(np.median(sizes)) if len(sizes) else 1.0

    @cached_property
    def impossible(self) -> str:
        """What no value of the variables can satisfy on its face (crossed bounds, false constant), or ''."""
        crossed = np.flatnonzero(self.lower > self.upper)
        if crossed.size:
            j = crossed[0]
            name = self.variables[j].name
            return f"the bounds of '{name}' cross: lower {self.lower[j]:g} above upper {self.upper[j]:g}"
        crossed = np.flatnonzero(self.row_lower > self.row_upper)
        if crossed.size:
            i = crossed[0]
            name = self.rows[i].name
            return f"the limits of '{name}' cross: {self.row_lower[i]:g} above {self.row_upper[i]:g}"
        false = self.empty_rows & ((self.row_lower > 1e-9) | (self.row_upper < -1e-9))
        if false.any():
            return f"'{self.rows[int(np.flatnonzero(false)[0])].name}' has no free variable and is false"
        return ""

    @cached_property
    def empty_rows(self) -> Array:
        """Whether a row has no coefficient (m,): a constraint between constants."""
        empty: Array = np.diff(self.A.indptr) == 0
        return empty

    def replace(self, **changes: Any) -> Program:
        """A copy with other arrays (cached facts are not carried over)."""
        names = self.__dataclass_fields__
        return Program(**{name: changes.get(name, getattr(self, name)) for name in names})
