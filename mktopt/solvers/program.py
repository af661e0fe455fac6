"""A Pyomo model as arrays: what every solver here takes and what every check here reads.

min or max   constant + cᵀx + ½ xᵀP x + r_0(x)
subject to   row_lower <= A x + r(x) <= row_upper,   lower <= x <= upper,   x_j whole where integer_j

r: products of variables in rows, logarithms, and whatever else is smooth (`curved.py`); none in an LP or a QP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mktopt.errors import FormulationError
from mktopt.solvers.curved import Logs, Quadratics, Remainder

Array = np.ndarray


def inner(a: Array, b: Array) -> float:
    """aᵀb on one thread: for vectors of a market's length BLAS takes longer to wake its threads than to multiply."""
    return float((a * b).sum())


@dataclass(frozen=True, eq=False)
class Program:
    """One program, with the Pyomo objects that its columns and rows stand for.

    variables: n Pyomo variables, one per column, in order of declaration; rows: m Pyomo constraints;
    A: csr (m, n); row_lower, row_upper: (m,); lower, upper: (n,); integer: bool (n,); c: (n,);
    P: symmetric csc (n, n), or None without a quadratic objective; sense: +1 minimise, -1 maximise;
    quadratics, logs, remainder: what rows and objective hold beyond that, None where there is nothing of the kind;
    units: of what size the value of each column is, as far as the model says (suffix `scaling_factor`), else NaN.
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
    quadratics: Quadratics | None = None
    logs: Logs | None = None
    remainder: Remainder | None = None
    units: Array | None = None
    model: Any = field(default=None, repr=False)  # keeps alive what variables and rows take their names from

    @property
    def n(self) -> int:
        """Number of columns (variables)."""
        return len(self.c)

    @property
    def m(self) -> int:
        """Number of rows (constraints)."""
        return len(self.row_lower)

    @property
    def curved(self) -> bool:
        """Whether a row or the objective holds more than linear and quadratic-objective terms."""
        return self.quadratics is not None or self.logs is not None or self.remainder is not None

    @cached_property
    def not_convex(self) -> str:
        """Why no convex solver can take it, naming the row or objective at fault; '' for a convex program."""
        from mktopt.solvers.cones.convexity import fault

        return fault(self)

    @cached_property
    def problem_class(self) -> str:
        """The least of LP, QP, SOCP, EXP, NLP that it fits in; with MI in front where variables must be whole.

        SOCP: convex quadratic rows and second-order cones; EXP: also logarithms; NLP: everything else, among it all
        that is not convex.
        """
        if self.not_convex:
            kind = "NLP"
        elif self.logs is not None:
            kind = "EXP"
        elif self.quadratics is not None:
            kind = "SOCP"
        else:
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
        """The objective at x, in the sense of the model."""
        value = self.constant + inner(self.c, x) + 0.5 * inner(x, self.curvature(x))
        if self.logs is not None:
            value += float(self.logs.terms(x)[self.logs.row < 0].sum())
        if self.remainder is not None:
            value += float(self.remainder.value(x)[self.remainder.rows < 0].sum())
        return value

    def curvature(self, x: Array) -> Array:
        """P x (n,); zeros without a quadratic objective."""
        return np.zeros(self.n) if self.P is None else np.asarray(self.P @ x)

    def gradient(self, x: Array) -> Array:
        """The gradient of the objective (n,)."""
        slope = self.c + self.curvature(x)
        if self.logs is not None:
            slope = slope + self.logs.jacobian(x).T @ (self.logs.row < 0).astype(float)
        if self.remainder is not None:
            slope = slope + self.remainder.jacobian(x).T @ (self.remainder.rows < 0).astype(float)
        return np.asarray(slope)

    def activity(self, x: Array) -> Array:
        """The bodies of the rows (m,)."""
        value = self.A @ x
        if self.quadratics is not None:
            value = value + self.quadratics.value(x, self.m)
        if self.logs is not None:
            value = value + self._into_rows(self.logs.row, self.logs.terms(x))
        if self.remainder is not None:
            value = value + self._into_rows(self.remainder.rows, self.remainder.value(x))
        return np.asarray(value)

    def size(self, x: Array) -> Array:
        """The sum of the sizes of the terms of each row (m,): what its rounding is relative to."""
        value = abs(self.A) @ np.abs(x)
        if self.quadratics is not None:
            value = value + self.quadratics.size(x, self.m)
        if self.logs is not None:
            value = value + self._into_rows(self.logs.row, np.abs(self.logs.terms(x)))
        if self.remainder is not None:
            value = value + self._into_rows(self.remainder.rows, np.abs(self.remainder.value(x)))
        return np.asarray(value)

    def jacobian(self, x: Array) -> Any:
        """The gradients of the rows, csr (m, n)."""
        import scipy.sparse as sp

        value = self.A
        if self.quadratics is not None:
            value = value + self.quadratics.jacobian(x, (self.m, self.n))
        for rows, part in self._parts(x):
            used = np.flatnonzero(rows >= 0)
            pick = sp.csr_array((np.ones(len(used)), (rows[used], used)), shape=(self.m, len(rows)))
            value = value + pick @ part
        return sp.csr_array(value)

    def _parts(self, x: Array) -> list[tuple[Array, Any]]:
        parts = [] if self.logs is None else [(self.logs.row, self.logs.jacobian(x))]
        return parts if self.remainder is None else [*parts, (self.remainder.rows, self.remainder.jacobian(x))]

    def _into_rows(self, rows: Array, values: Array) -> Array:
        used = rows >= 0
        return np.bincount(rows[used], values[used], self.m)

    def hessian(self, x: Array, row_weights: Array, objective_weight: float = 1.0) -> Any:
        """objective_weight · ∇²objective + Σ_i row_weights_i · ∇²row_i, symmetric csc (n, n)."""
        import scipy.sparse as sp

        weights = np.append(row_weights, objective_weight)  # the objective is row -1
        value = sp.csc_array((self.n, self.n)) if self.P is None else objective_weight * self.P
        if self.quadratics is not None:
            value = value + self.quadratics.hessian(row_weights, self.n)
        if self.logs is not None:
            value = value + self.logs.hessian(x, weights[self.logs.row])
        if self.remainder is not None:
            value = value + self.remainder.hessian(x, weights[self.remainder.rows])
        return sp.csc_array(value)

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
        for part in (self.quadratics, self.logs):
            if part is not None:
                empty[part.row[part.row >= 0]] = False
        if self.remainder is not None:
            empty[self.remainder.rows[self.remainder.rows >= 0]] = False
        return empty

    def replace(self, **changes: Any) -> Program:
        """A copy with other arrays (cached facts are not carried over)."""
        names = self.__dataclass_fields__
        return Program(**{name: changes.get(name, getattr(self, name)) for name in names})
