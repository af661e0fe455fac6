"""`compile`: a Pyomo model into a `Program`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.common.numeric_types import native_numeric_types

from mktopt.errors import FormulationError
from mktopt.solvers.program import Array, Program
from mktopt.solvers.terms import Nonlinear, Terms, number

SUPPORTED = "linear constraints and a linear or quadratic objective are supported"


def compile(model: Any) -> Program:
    """Read a Pyomo model with linear constraints and a linear or quadratic objective into arrays.

    Inactive components are ignored, fixed variables are folded into constants, and every other variable of
    the model gets a column whether it is used or not. Raises `FormulationError`, naming the component, for
    what cannot be taken.
    """
    with PauseGC():
        return _Compiler(model).program()


class _Compiler:
    """The steps of one compilation and what they share."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.free: list[Any] = []
        self.fixed: list[Any] = []
        self.column_of: dict[int, int] = {}
        self.blocks = list(model.block_data_objects(active=True))
        self._refuse_other_components()

    def program(self) -> Program:
        for variable in self._data(pyo.Var):
            self._register(variable)
        rows, bodies, row_lower, row_upper = self._constraints()
        objective, sense = self._objective()
        A, constants = self._linear_rows(rows, bodies)
        P, c, constant = self._quadratic_objective(objective)
        lower, upper, integer = _bounds(self.free)
        return Program(
            variables=self.free,
            rows=rows,
            A=_sized(A, len(rows), len(self.free)),
            row_lower=row_lower - constants,
            row_upper=row_upper - constants,
            lower=lower,
            upper=upper,
            integer=integer,
            c=_sized(c, 1, len(self.free)).toarray().ravel(),
            P=_sized(P, len(self.free), len(self.free)).tocsc() if P.nnz else None,
            constant=constant,
            sense=sense,
            name=str(self.model.name),
            fixed_variables=self.fixed,
            fixed_values=self._fixed_values(),
            column_of=self.column_of,
        )

    def _data(self, kind: Any) -> Iterator[Any]:
        """Active data objects of one component type, in order of declaration, without references."""
        for block in self.blocks:
            for component in block.component_objects(kind, descend_into=False):
                if not component.is_reference():
                    yield from component.values()

    def _refuse_other_components(self) -> None:
        known = {pyo.Block, pyo.Var, pyo.Constraint, pyo.Objective, pyo.Expression, pyo.Param, pyo.Set}
        known |= {pyo.RangeSet, pyo.Suffix, pyo.ExternalFunction, pyo.BuildAction, pyo.BuildCheck}
        for block in self.blocks:
            for component in block.component_objects(active=True, descend_into=False):
                if component.ctype not in known and component.ctype.__name__ not in (
                    "BooleanVar",
                    "SetOf",
                    "Port",
                ):
                    raise FormulationError(
                        f"component '{component.name}' ({component.ctype.__name__}) cannot be solved: {SUPPORTED};"
                        " deactivate it or write it as ordinary constraints"
                    )

    def _register(self, variable: Any) -> int:
        key = id(variable)
        column = self.column_of.get(key)
        if column is None:
            if variable.fixed:
                self.fixed.append(variable)
                column = -len(self.fixed)
            else:
                column = len(self.free)
                self.free.append(variable)
            self.column_of[key] = column
        return column

    def _columns(self, variables: list[Any]) -> Array:
        """Column of each variable, -1-k for the fixed one k."""
        known = self.column_of
        try:
            return np.array([known[id(variable)] for variable in variables], dtype=np.int64)
        except KeyError:  # a variable that lives on an inactive block or on no model
            return np.array([self._register(variable) for variable in variables], dtype=np.int64)

    def _constraints(self) -> tuple[list[Any], Terms, Array, Array]:
        rows, terms = [], Terms()
        lower: list[float] = []
        upper: list[float] = []
        for row in self._data(pyo.Constraint):
            if not row.active:
                continue
            low, body, high = row.to_bounded_expression()
            if body is None:
                continue
            try:
                terms.add_row(body)
            except Nonlinear as error:
                raise FormulationError(
                    f"constraint '{row.name}' is nonlinear, in the part '{_short(error.part)}': {SUPPORTED}"
                ) from None
            rows.append(row)
            lower.append(-np.inf if low is None else low if low.__class__ is float else number(low))
            upper.append(np.inf if high is None else high if high.__class__ is float else number(high))
        limits = np.array(lower, dtype=float), np.array(upper, dtype=float)
        for limit in limits:
            if np.isnan(limit).any():
                raise FormulationError(
                    f"constraint '{rows[int(np.isnan(limit).argmax())].name}' has a limit that is NaN"
                )
        return rows, terms, *limits

    def _objective(self) -> tuple[Terms, int]:
        objectives = [item for item in self._data(pyo.Objective) if item.active]
        terms = Terms()
        if len(objectives) > 1:
            names = ", ".join(f"'{item.name}'" for item in objectives[:5])
            raise FormulationError(
                f"the model has {len(objectives)} active objectives ({names}): deactivate all but one"
            )
        if not objectives:
            terms.add_row(0.0)
            return terms, 1
        objective = objectives[0]
        try:
            terms.add_row(objective.expr)
        except Nonlinear as error:
            raise FormulationError(
                f"objective '{objective.name}' is more than quadratic, in the part '{_short(error.part)}': {SUPPORTED}"
            ) from None
        return terms, 1 if objective.sense == pyo.minimize else -1

    def _linear_rows(self, rows: list[Any], terms: Terms) -> tuple[Any, Array]:
        A, Q, constants = self._assemble(terms, rows)
        if Q.nnz:
            k = int(np.flatnonzero(Q.data)[0])
            raise FormulationError(f"constraint '{rows[Q.row[k]].name}' is quadratic: {SUPPORTED}")
        return A, constants

    def _quadratic_objective(self, terms: Terms) -> tuple[Any, Any, float]:
        import scipy.sparse as sp

        c, Q, constants = self._assemble(terms, None)
        n = len(self.free)
        first, second = np.divmod(Q.col, max(n, 1))
        P = sp.coo_array((np.tile(Q.data, 2), (np.r_[first, second], np.r_[second, first])), shape=(n, n)).tocsc()
        P.eliminate_zeros()
        return P, c, float(constants[0])

    def _assemble(self, terms: Terms, rows: list[Any] | None) -> tuple[Any, Any, Array]:
        """(A csr, Q coo whose column is first * n + second, constants) with fixed variables folded in."""
        import scipy.sparse as sp

        m = len(terms.constants)
        columns, data = self._columns(terms.variables), terms.coefficients()
        first, second = self._columns(terms.q_first), self._columns(terms.q_second)
        q_rows, q_data = np.array(terms.q_rows, dtype=np.int64), np.array(terms.q_coefs, dtype=float)
        constants = np.array(terms.constants, dtype=float)
        where = np.repeat(np.arange(m), np.diff(np.array([0, *terms.ends])))
        if self.fixed:
            values = np.r_[0.0, self._fixed_values()[::-1]]  # indexed from the end, like the columns
            half = (first < 0) != (second < 0)  # a fixed variable times a free one is linear
            known, free = np.minimum(first[half], second[half]), np.maximum(first[half], second[half])
            where, columns = np.r_[where, q_rows[half]], np.r_[columns, free]
            data = np.r_[data, q_data[half] * values[known]]
            both = (first < 0) & (second < 0)
            constants += np.bincount(q_rows[both], q_data[both] * values[first[both]] * values[second[both]], m)
            keep = columns < 0
            constants += np.bincount(where[keep], data[keep] * values[columns[keep]], m)
            where, columns, data = where[~keep], columns[~keep], data[~keep]
            keep = ~(half | both)
            q_rows, q_data, first, second = q_rows[keep], q_data[keep], first[keep], second[keep]
        _refuse_not_finite(data, where, constants, q_data, q_rows, rows)
        n = len(self.free)
        A = sp.coo_array((data, (where, columns)), shape=(m, n)).tocsr()
        A.eliminate_zeros()
        # One key per unordered pair, so that x·y and y·x meet and may cancel.
        key = np.minimum(first, second) * n + np.maximum(first, second)
        Q = sp.coo_array((q_data, (q_rows, key)), shape=(m, max(n * n, 1)))
        Q.sum_duplicates()
        Q.eliminate_zeros()
        return A, Q, constants

    def _fixed_values(self) -> Array:
        for variable in self.fixed:
            if variable.value is None:
                raise FormulationError(f"variable '{variable.name}' is fixed but has no value")
        return np.array([float(variable.value) for variable in self.fixed])


def _sized(matrix: Any, m: int, n: int) -> Any:
    """Give a matrix its final shape: columns registered late widen it by zeros."""
    matrix.resize((m, n))
    return matrix


def _bounds(variables: list[Any]) -> tuple[Array, Array, Array]:
    """(lower, upper, integer) of the variables, domain and bounds taken together."""
    domains: dict[int, tuple[bool, bool]] = {}
    count = len(variables)
    lower, upper = np.empty(count), np.empty(count)
    integer = np.zeros(count, dtype=bool)
    for j, variable in enumerate(variables):
        domain = variable.domain
        known = domains.get(id(domain))
        if known is None:
            low, high, step = domain.get_interval()
            if step not in (0, 1):
                raise FormulationError(
                    f"variable '{variable.name}' takes its values from '{domain}', which is neither an interval"
                    " nor whole numbers in a row; use binary variables to choose among values"
                )
            known = domains[id(domain)] = (step == 1, low is None and high is None)
        if known[1]:  # the domain does not bound, so Pyomo hands the bounds out as they were given
            low, high = variable.lower, variable.upper
        else:
            low, high = variable.bounds
        lower[j] = -np.inf if low is None else low if low.__class__ in native_numeric_types else number(low)
        upper[j] = np.inf if high is None else high if high.__class__ in native_numeric_types else number(high)
        integer[j] = known[0]
    for bound, side in ((lower, "lower"), (upper, "upper")):
        if np.isnan(bound).any():
            raise FormulationError(f"variable '{variables[int(np.isnan(bound).argmax())].name}' has a {side} bound NaN")
    return lower, upper, integer


def _refuse_not_finite(
    data: Array, where: Array, constants: Array, q_data: Array, q_rows: Array, rows: list[Any] | None
) -> None:
    for values, places in ((data, where), (constants, np.arange(len(constants))), (q_data, q_rows)):
        bad = ~np.isfinite(values)
        if bad.any():
            k = int(bad.argmax())
            name = "the objective" if rows is None else f"constraint '{rows[places[k]].name}'"
            raise FormulationError(f"{name} has a coefficient that is {values[k]}; every number must be finite")


def _short(expression: Any, length: int = 120) -> str:
    text = str(expression)
    return text if len(text) <= length else text[: length - 3] + "..."
