"""Reading Pyomo expressions into flat lists of linear and quadratic terms.

Pyomo's own visitors take any expression; they are the fallback here. The shapes that models of any size
consist of (sums of `coefficient * variable` and `coefficient * variable * variable`) are read directly,
which halves the time and needs no dictionary per row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.common.numeric_types import native_numeric_types
from pyomo.core.expr.numeric_expr import (
    DivisionExpression,
    LinearExpression,
    MonomialTermExpression,
    NegationExpression,
    PowExpression,
    ProductExpression,
    SumExpression,
)
from pyomo.repn.quadratic import QuadraticRepnVisitor
from pyomo.repn.util import OrderedVarRecorder

from mktopt.errors import FormulationError

_SUMS = frozenset({SumExpression, LinearExpression})


class Nonlinear(Exception):
    """An expression is more than quadratic; `part` is the piece that is."""

    def __init__(self, part: Any) -> None:
        super().__init__(str(part))
        self.part = part


class Terms:
    """Linear and quadratic terms of a sequence of expressions ("rows"), in flat lists.

    Row r is `constants[r] + Σ coefs[k]·variables[k] + Σ q_coefs[k]·q_first[k]·q_second[k]`, where the linear
    k run over `ends[r-1] <= k < ends[r]` and the quadratic ones over those with `q_rows[k] = r`.
    """

    def __init__(self) -> None:
        self.constants: list[float] = []
        self.coefs: list[Any] = []
        self.variables: list[Any] = []
        self.ends: list[int] = []
        self.q_rows: list[int] = []
        self.q_coefs: list[float] = []
        self.q_first: list[Any] = []
        self.q_second: list[Any] = []
        self._visitor: Any = None

    def add_row(self, expression: Any) -> None:
        """Append one expression as the next row; raises `Nonlinear` for what is more than quadratic."""
        constant = 0.0
        if expression.__class__ is LinearExpression:
            rest = []
            for term in expression.args:
                if term.__class__ is MonomialTermExpression:
                    coefficient, variable = term.args
                    self.coefs.append(coefficient)
                    self.variables.append(variable)
                else:
                    rest.append((1.0, term))
        else:
            rest = [(1.0, expression)]
        while rest:
            constant += self._take(*rest.pop(), rest)
        self.constants.append(constant)
        self.ends.append(len(self.coefs))

    def _take(self, scale: float, term: Any, rest: list[tuple[float, Any]]) -> float:
        """Read `scale * term`: store its terms, push what is still to read on `rest`, return its constant."""
        kind = term.__class__
        if kind is MonomialTermExpression:
            coefficient, variable = term.args
            self._linear(scale * number(coefficient), variable)
        elif kind in native_numeric_types:
            return scale * float(term)
        elif kind in _SUMS:
            rest.extend([(scale, part) for part in term.args])
        elif kind is ProductExpression:
            return self._product(scale, term, rest)
        elif kind is PowExpression and _is_two(term.args[1]) and (single := _single(term.args[0])):
            self._quadratic(scale * single[0] ** 2, single[1], single[1])
        elif not term.is_potentially_variable():
            return scale * number(term)
        elif term.is_variable_type():
            self._linear(scale, term)
        elif kind is NegationExpression:
            rest.append((-scale, term.args[0]))
        elif kind is DivisionExpression and is_number(term.args[1]):
            rest.append((scale / number(term.args[1]), term.args[0]))
        elif term.is_named_expression_type():
            rest.append((scale, term.args[0]))
        else:
            return self._general(scale, term)
        return 0.0

    def _product(self, scale: float, term: Any, rest: list[tuple[float, Any]]) -> float:
        left, right = term.args
        if is_number(left):
            rest.append((scale * number(left), right))
        elif is_number(right):
            rest.append((scale * number(right), left))
        else:
            first, second = _single(left), _single(right)
            if first is None or second is None:
                return self._general(scale, term)
            self._quadratic(scale * first[0] * second[0], first[1], second[1])
        return 0.0

    def _general(self, scale: float, term: Any) -> float:
        """Any other expression, by Pyomo's visitor (which folds fixed variables and expands products)."""
        if self._visitor is None:
            recorder = OrderedVarRecorder({}, {}, None)
            self._visitor = QuadraticRepnVisitor({}, var_recorder=recorder)
        repn = self._visitor.walk_expression(term)
        if repn.nonlinear is not None:
            raise Nonlinear(repn.nonlinear)
        variables = self._visitor.var_recorder.var_map
        for key, coefficient in repn.linear.items():
            self._linear(scale * float(coefficient), variables[key])
        for (first, second), coefficient in (repn.quadratic or {}).items():
            self._quadratic(scale * float(coefficient), variables[first], variables[second])
        return scale * float(repn.constant)

    def _linear(self, coefficient: float, variable: Any) -> None:
        self.coefs.append(coefficient)
        self.variables.append(variable)

    def _quadratic(self, coefficient: float, first: Any, second: Any) -> None:
        self.q_rows.append(len(self.ends))
        self.q_coefs.append(coefficient)
        self.q_first.append(first)
        self.q_second.append(second)

    def coefficients(self) -> np.ndarray:
        """The linear coefficients as floats; mutable parameters are evaluated here."""
        try:
            return np.array(self.coefs, dtype=float)
        except (TypeError, ValueError):
            return np.array([number(item) for item in self.coefs], dtype=float)


def is_number(term: Any) -> bool:
    """Whether a term holds no variable (a number, a parameter, or an expression of those)."""
    return term.__class__ in native_numeric_types or not term.is_potentially_variable()


def number(term: Any) -> float:
    """The value of a term without variables, or of an expression of fixed ones."""
    if term.__class__ in native_numeric_types:
        return float(term)
    try:
        result = pyo.value(term)
    except ValueError as error:
        raise FormulationError(f"'{term}' has no value; give it one before solving") from error
    if result is None:
        raise FormulationError(f"'{term}' has no value; give it one before solving")
    return float(result)


def _single(term: Any) -> tuple[float, Any] | None:
    """(coefficient, variable) where the term is just that, else None."""
    if term.__class__ is MonomialTermExpression:
        coefficient, variable = term.args
        return number(coefficient), variable
    return (1.0, term) if term.is_variable_type() else None


def _is_two(term: Any) -> bool:
    return is_number(term) and number(term) == 2.0
