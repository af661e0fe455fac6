"""`compile`: a Pyomo model into a `Program`.

Rows and the objective may hold anything that is smooth: linear terms, products of variables, logarithms of affine
expressions as arrays, the rest as functions (`remainder.py`). The objective is read as one more row, the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.core.expr.visitor import identify_variables

from mktopt.errors import FormulationError
from mktopt.solvers.curved import Logs, Quadratics
from mktopt.solvers.program import Array, Program
from mktopt.solvers.reading.affine import Forms, Parameters, forms
from mktopt.solvers.reading.assembly import Assembled, assemble
from mktopt.solvers.reading.terms import Terms, fixed_value, located

SUPPORTED = (
    "constraints and one objective, of continuous, integer and binary variables, are; deactivate it or write it as"
    " ordinary constraints"
)


def compile(model: Any) -> Program:
    """Read a Pyomo model into arrays, and into functions where it is neither quadratic nor logarithmic.

    Inactive components are ignored, fixed variables are folded into constants, and every other variable of
    the model gets a column whether it is used or not; Params are numbers. Raises `FormulationError`, naming the
    component, for what cannot be taken.
    """
    with PauseGC():
        arrays = Reader(model).arrays()
    return arrays.program({name: array.base for name, array in arrays.forms.items()})


@dataclass(frozen=True, eq=False)
class Arrays:
    """A model as arrays of forms in its parameters, and the structure that they fill.

    forms: "c", "P", "A", "row_lower", "row_upper", "lower", "upper", "constant", "quadratics", "log_coef", "log_M",
    "log_offset", matrices by their entries; places: for those with a structure, its integer arrays; facts: the fields
    of the program that hold no such numbers.
    """

    forms: dict[str, Forms]
    places: dict[str, Any]
    facts: dict[str, Any]

    def program(self, values: dict[str, Array]) -> Program:
        """The program with these numbers, one array per form."""
        import scipy.sparse as sp

        m, n, places = len(values["row_lower"]), len(values["c"]), self.places
        quadratics = logs = None
        if len(places["quadratics"][0]):
            row, first, second = places["quadratics"]
            quadratics = Quadratics(row, first, second, values["quadratics"])
        if len(places["log_row"]):
            M = sp.csr_array((values["log_M"], *places["log_M"]), shape=(len(places["log_row"]), n))
            logs = Logs(places["log_row"], values["log_coef"], M, values["log_offset"])
        return Program(
            A=sp.csr_array((values["A"], *places["A"]), shape=(m, n)),
            P=sp.csc_array((values["P"], *places["P"]), shape=(n, n)) if len(values["P"]) else None,
            constant=float(values["constant"][0]),
            quadratics=quadratics,
            logs=logs,
            row_lower=values["row_lower"],
            row_upper=values["row_upper"],
            lower=values["lower"],
            upper=values["upper"],
            c=values["c"],
            **self.facts,
        )


class Reader:
    """The steps of one compilation and what they share; with `parameters`, mutable Params stay symbols in it."""

    def __init__(self, model: Any, parameters: Parameters | None = None) -> None:
        self.model = model
        self.parameters = parameters
        self.terms = Terms(parameters)
        self.rows: list[Any] = []
        self.objective: Any = None
        self.free: list[Any] = []
        self.fixed: list[Any] = []
        self.column_of: dict[int, int] = {}
        self.blocks = list(model.block_data_objects(active=True))
        self._refuse_other_components()

    def arrays(self) -> Arrays:
        """Everything that the model holds, as arrays."""
        for variable in self._data(pyo.Var):
            self._register(variable)
        limits = self._constraints()
        sense = self._objective()
        self.terms.settle(self._name, self._columns)
        self._register_nonlinear()
        # Bounds may hold parameters, which must be counted before arrays are made of forms.
        bounds, integer = self._bounds()
        count = None if self.parameters is None else len(self.parameters.theta)
        found = assemble(self.terms, self._fixed_values(), count, self._name)
        m, n = len(self.rows), len(self.free)
        body = found.constant.take(np.arange(m))
        numbers, places = _placed(found, m, n)
        for name, side in zip(("row_lower", "row_upper"), limits, strict=True):
            numbers[name] = forms(side, count).minus(body)
        numbers["lower"], numbers["upper"] = (forms(side, count) for side in bounds)
        self._refuse_nan(numbers)
        facts = {
            "variables": self.free,
            "rows": self.rows,
            "integer": integer,
            "sense": sense,
            "name": str(self.model.name),
            "model": self.model,
            "fixed_variables": self.fixed,
            "fixed_values": self._fixed_values(),
            "column_of": self.column_of,
            "remainder": self._remainder(),
            "units": self._units(),
        }
        return Arrays(numbers, places, facts)

    def _data(self, kind: Any) -> Iterator[Any]:
        """Active data objects of one component type, in order of declaration, without references."""
        for block in self.blocks:
            for component in block.component_objects(kind, descend_into=False):
                if not component.is_reference():
                    yield from component.values()
                else:  # which a MatrixConstraint also calls itself, although its rows stand nowhere else
                    yield from (item for item in component.values() if item.parent_component() is component)

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
                        f"component '{component.name}' ({component.ctype.__name__}) cannot be solved: {SUPPORTED}"
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

    def _name(self, row: int) -> str:
        """What errors call a row."""
        return f"constraint '{self.rows[row].name}'" if row < len(self.rows) else f"objective '{self.objective.name}'"

    def _units(self) -> Array | None:
        """What the suffix `scaling_factor` of the model or its blocks says of the sizes of columns, NaN where nothing.

        As elsewhere in Pyomo, a factor is what a variable is multiplied by to be near one.
        """
        units = np.full(len(self.free), np.nan)
        for block in self.blocks:
            suffix = block.component("scaling_factor")
            if suffix is None or suffix.ctype is not pyo.Suffix or not suffix.active:
                continue
            for component, factor in suffix.items():
                if component is None or component.ctype is not pyo.Var:
                    continue
                if not 0.0 < factor < np.inf:
                    raise FormulationError(
                        f"suffix 'scaling_factor' gives {component.name} the factor {factor!r}: it must be above zero"
                    )
                for variable in component.values() if component.is_indexed() else (component,):
                    column = self.column_of.get(id(variable), -1)
                    if column >= 0:
                        units[column] = 1.0 / factor
        return units if np.isfinite(units).any() else None

    def _constraints(self) -> tuple[list[Any], list[Any]]:
        """Reads the rows; returns their lower and upper limits, before constants of the bodies are moved."""
        lower: list[Any] = []
        upper: list[Any] = []
        add_row, number = self.terms.add_row, self.terms.number
        for row in self._data(pyo.Constraint):
            if not row.active:
                continue
            try:
                low, body, high = row.to_bounded_expression()
                if body is None:
                    continue
                add_row(body)
                lower.append(-np.inf if low is None else low if low.__class__ is float else number(low))
                upper.append(np.inf if high is None else high if high.__class__ is float else number(high))
            except FormulationError as error:
                raise located(error, f"constraint '{row.name}'", self.parameters) from error
            except ValueError as error:  # Pyomo's own, for a range whose limit holds a free variable
                raise FormulationError(f"constraint '{row.name}': {error}") from error
            self.rows.append(row)
        return lower, upper

    def _objective(self) -> int:
        """Reads the objective; returns its sense."""
        objectives = [item for item in self._data(pyo.Objective) if item.active]
        if len(objectives) > 1:
            names = ", ".join(f"'{item.name}'" for item in objectives[:5])
            raise FormulationError(
                f"the model has {len(objectives)} active objectives ({names}): deactivate all but one"
            )
        if not objectives:
            self.terms.add_row(0.0)
            return 1
        self.objective = objective = objectives[0]
        try:
            self.terms.add_row(objective.expr)
        except FormulationError as error:
            raise located(error, self._name(len(self.rows)), self.parameters) from error
        return 1 if objective.sense == pyo.minimize else -1

    def _register_nonlinear(self) -> None:
        """Columns for variables that live on an inactive block or on no model, within nonlinear terms."""
        for parts in self.terms.nonlinear.values():
            for part in parts:
                for variable in identify_variables(part, include_fixed=True):
                    self._register(variable)

    def _bounds(self) -> tuple[tuple[list[Any], list[Any]], Array]:
        """((lower, upper), integer) of the variables, domain and bounds taken together."""
        domains: dict[int, tuple[bool, bool]] = {}
        lower: list[Any] = []
        upper: list[Any] = []
        integer = np.zeros(len(self.free), dtype=bool)
        symbolic = self.parameters is not None
        for j, variable in enumerate(self.free):
            domain = variable.domain
            known = domains.get(id(domain))
            if known is None:
                known = domains[id(domain)] = _kind(variable)
            # Where the domain does not bound, Pyomo hands the bounds out as they were given, which takes less time.
            low, high = (variable.lower, variable.upper) if known[1] or symbolic else variable.bounds
            lower.append(low if low.__class__ is float else self._bound(low, variable, -1))
            upper.append(high if high.__class__ is float else self._bound(high, variable, 1))
            integer[j] = known[0]
        return (lower, upper), integer

    def _bound(self, value: Any, variable: Any, side: int) -> Any:
        if value is None:
            return side * np.inf
        try:
            return self.terms.number(value)
        except FormulationError as error:
            where = f"the {'upper' if side > 0 else 'lower'} bound of variable '{variable.name}'"
            raise located(error, where, self.parameters, value) from error

    def _refuse_nan(self, numbers: dict[str, Forms]) -> None:
        for name in ("row_lower", "row_upper", "lower", "upper"):
            bad = np.isnan(numbers[name].base)
            if bad.any():
                k = int(bad.argmax())
                if name.startswith("row"):
                    raise FormulationError(f"{self._name(k)} has a limit that is NaN")
                raise FormulationError(f"variable '{self.free[k].name}' has a {name} bound NaN")

    def _fixed_values(self) -> Array:
        return np.array([fixed_value(variable) for variable in self.fixed])

    def _remainder(self) -> Any:
        """The nonlinear terms as functions, None where there are none."""
        if not self.terms.nonlinear:
            return None
        from mktopt.solvers.nlp.remainder import NlRemainder

        found = self.terms.nonlinear
        rows = np.array([row if row < len(self.rows) else -1 for row in found], dtype=np.int64)
        expressions = [parts[0] if len(parts) == 1 else sum(parts) for parts in found.values()]
        names = [self._name(row) for row in found]
        return NlRemainder(rows=rows, expressions=expressions, variables=self.free, names=names)


def _kind(variable: Any) -> tuple[bool, bool]:
    """(whether the domain is one of whole numbers, whether it does not bound)."""
    low, high, step = variable.domain.get_interval()
    if step not in (0, 1):
        raise FormulationError(
            f"variable '{variable.name}' takes its values from '{variable.domain}', which is neither an interval"
            " nor whole numbers in a row; use binary variables to choose among values"
        )
    return step == 1, low is None and high is None


def _placed(found: Assembled, m: int, n: int) -> tuple[dict[str, Forms], dict[str, Any]]:
    """(numbers, where they stand) of the arrays of rows and, from row m, of the objective."""
    cut, q_cut = np.searchsorted(found.row, m), np.searchsorted(found.q_row, m)
    here, there = np.arange(cut), np.arange(cut, len(found.row))
    pairs, squares = np.arange(q_cut), np.arange(q_cut, len(found.q_row))
    P, P_place = _symmetric(found.first[squares], found.second[squares], found.quadratic.take(squares), n)
    numbers = {
        "c": found.linear.take(there).sums(found.column[there], n),
        "P": P,
        "A": found.linear.take(here),
        "constant": found.constant.take(np.array([m])),
        "quadratics": found.quadratic.take(pairs),
        "log_coef": found.l_coef,
        "log_M": found.m_data,
        "log_offset": found.offset,
    }
    places = {
        "A": (found.column[here], _starts(found.row[here], m)),
        "P": P_place,
        "quadratics": (found.q_row[pairs], found.first[pairs], found.second[pairs]),
        "log_row": np.where(found.l_row < m, found.l_row, -1),
        "log_M": (found.m_column, _starts(found.m_row, len(found.l_row))),
    }
    return numbers, places


def _symmetric(first: Array, second: Array, values: Forms, n: int) -> tuple[Forms, tuple[Array, Array]]:
    """(entries, (rows, starts of columns)) of the matrix P with ½ xᵀP x = Σ values · x_first · x_second, as csc."""
    off = np.flatnonzero(first != second)
    row, column = np.r_[first, second[off]], np.r_[second, first[off]]
    source = np.r_[np.arange(len(first)), off]
    order = np.lexsort((row, column))
    row, column, source = row[order], column[order], source[order]
    return values.take(source).times(np.where(row == column, 2.0, 1.0)), (row, _starts(column, n))


def _starts(rows: Array, count: int) -> Array:
    """Where each row begins in ascending `rows`, and where the last one ends (count + 1,)."""
    return np.searchsorted(rows, np.arange(count + 1))
