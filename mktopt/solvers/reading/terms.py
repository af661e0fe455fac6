"""Reading Pyomo expressions into flat lists: linear and quadratic terms, logarithms, and what is left.

Sums, multiples, products of two affine factors, squares and logarithms of affine arguments are taken apart, through
named expressions and whatever fixed variables make constant. Everything else is handed on as it stands. The shapes
that models of any size consist of (`coefficient * variable`, `coefficient * variable * variable`) come first and
take no detour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from pyomo.common.numeric_types import native_numeric_types
from pyomo.core.expr.numeric_expr import (
    DivisionExpression,
    LinearExpression,
    MonomialTermExpression,
    NegationExpression,
    PowExpression,
    ProductExpression,
    SumExpression,
    UnaryFunctionExpression,
)
from pyomo.core.expr.visitor import identify_variables

from mktopt.errors import FormulationError
from mktopt.solvers.reading.affine import Form, NotAffine, Parameters, divided, plain

_SUMS = frozenset({SumExpression, LinearExpression})
_LOGS = {"log": 1.0, "log10": 1.0 / math.log(10.0)}
# Products nested deeper than this are not taken apart: they are not quadratic unless all but two factors are fixed.
_DEEPEST = 40

Array = np.ndarray
_NONE = np.zeros(0, dtype=np.int64)

Rest = list[tuple[Any, Any]]


class Terms:
    """The terms of a sequence of expressions ("rows"), in flat lists.

    Row r is

        constants[r] + Σ coefs[k]·variables[k] + Σ q_coefs[k]·q_first[k]·q_second[k]
                     + Σ l_coefs[k]·log(row k of `inside`) + Σ nonlinear[r]

    where the linear k run over ends[r-1] <= k < ends[r], the others over those with q_rows[k] = r, l_rows[k] = r.
    Numbers are floats; with `parameters` mutable Params stay symbols, and a number may be a `Form` of them. Methods
    raise FormulationError for what has no value, and NotAffine where parameters are multiplied.
    """

    def __init__(self, parameters: Parameters | None = None, depth: int = 0) -> None:
        self.constants: list[Any] = []
        self.coefs: list[Any] = []
        self.variables: list[Any] = []
        self.ends: list[int] = []
        self.q_rows: list[int] = []
        self.q_coefs: list[Any] = []
        self.q_first: list[Any] = []
        self.q_second: list[Any] = []
        self.l_rows: list[int] = []
        self.l_coefs: list[Any] = []
        self.inside: Terms | None = None
        self.nonlinear: dict[int, list[Any]] = {}
        self.places: tuple[Array, Array, Array] = (_NONE, _NONE, _NONE)
        self.parameters = parameters
        self.number: Callable[[Any], Any] = plain if parameters is None else parameters.number
        self._depth = depth

    def add_row(self, expression: Any) -> None:
        """Append one expression as the next row."""
        constant: Any = 0.0
        rest: Rest = []
        if expression.__class__ is LinearExpression:
            for term in expression.args:
                if term.__class__ is MonomialTermExpression:
                    coefficient, variable = term.args
                    self.coefs.append(coefficient)
                    self.variables.append(variable)
                else:
                    rest.append((1.0, term))
        else:
            rest.append((1.0, expression))
        term = expression
        try:
            while rest:
                scale, term = rest.pop()
                constant = constant + self._take(scale, term, rest)
        except NotAffine as error:
            error.part = term if error.part is None else error.part
            raise
        self.constants.append(constant)
        self.ends.append(len(self.coefs))

    def settle(self, name: Callable[[int], str], columns: Callable[[list[Any]], Array]) -> None:
        """Make numbers (or forms) of the coefficients that were only stored, and find the columns of the variables.

        name(row): what errors call a row; columns(variables): their columns; they become `places`, those of
        `variables`, `q_first` and `q_second`, also of the logarithms.
        """
        self.places = columns(self.variables), columns(self.q_first), columns(self.q_second)
        if self.inside is not None:
            self.inside.settle(name, columns)
        row = 0
        for k, item in enumerate(self.coefs):
            if item.__class__ is not float:
                try:
                    self.coefs[k] = self.number(item)
                except FormulationError as error:
                    while self.ends[row] <= k:
                        row += 1
                    raise located(error, name(row), self.parameters, item) from error

    def _take(self, scale: Any, term: Any, rest: Rest) -> Any:
        """Read `scale * term`: store its terms, push what is still to read on `rest`, return its constant."""
        kind = term.__class__
        if kind is MonomialTermExpression:
            coefficient, variable = term.args
            self._linear(scale * self.number(coefficient), variable)
        elif kind in native_numeric_types:
            return scale * float(term)
        elif kind in _SUMS:
            rest.extend([(scale, part) for part in term.args])
        elif kind is ProductExpression:
            return self._product(scale, term, rest)
        elif kind is PowExpression:
            return self._power(scale, term, rest)
        elif kind is NegationExpression:
            rest.append((-scale, term.args[0]))
        elif not term.is_potentially_variable():
            return scale * self.number(term)
        elif term.is_variable_type():
            self._linear(scale, term)
        elif kind is DivisionExpression:
            return self._quotient(scale, term, rest)
        elif term.is_named_expression_type():
            if term.args[0] is None:
                raise FormulationError(f"expression '{term.name}' has no value; give it one before solving")
            rest.append((scale, term.args[0]))
        else:
            return self._other(scale, term)
        return 0.0

    def _product(self, scale: Any, term: Any, rest: Rest) -> Any:
        left, right = term.args
        if is_number(left):
            rest.append((scale * self.number(left), right))
            return 0.0
        if is_number(right):
            rest.append((scale * self.number(right), left))
            return 0.0
        first, second = self._single(left), self._single(right)
        if first is not None and second is not None:
            self._quadratic(scale * first[0] * second[0], first[1], second[1])
            return 0.0
        if self._depth >= _DEEPEST:
            return self._other(scale, term)
        one = self._piece(left)
        if one.is_constant:
            rest.append((scale * one.constant, right))
            return 0.0
        other = self._piece(right)
        if other.is_constant:
            rest.append((scale * other.constant, left))
            return 0.0
        if one.degree + other.degree > 2:
            return self._other(scale, term)
        return self._multiplied(scale, one, other)

    def _power(self, scale: Any, term: Any, rest: Rest) -> Any:
        base, exponent = term.args
        if is_number(exponent) or _is_fixed(exponent):
            power = self.number(exponent)
            if power == 2.0:
                single = self._single(base)
                if single is not None:
                    self._quadratic(scale * _square(single[0]), single[1], single[1])
                    return 0.0
                piece = self._piece(base) if self._depth < _DEEPEST else None
                if piece is not None and piece.degree <= 1:
                    return self._squared(scale, piece)
            elif power == 1.0:
                rest.append((scale, base))
                return 0.0
            elif power == 0.0:
                return scale
        return self._other(scale, term)

    def _quotient(self, scale: Any, term: Any, rest: Rest) -> Any:
        above, below = term.args
        if is_number(below) or _is_fixed(below):
            rest.append((divided(scale, self.number(below)), above))
            return 0.0
        return self._other(scale, term)

    def _other(self, scale: Any, term: Any) -> Any:
        """A term that is no polynomial: a constant, a logarithm of something affine, or nonlinear."""
        if _is_fixed(term):
            return scale * self.number(term)
        if _is(scale, 0.0):
            return 0.0
        if term.__class__ is UnaryFunctionExpression and term.getname() in _LOGS and self._depth < _DEEPEST:
            inside = self._piece(term.args[0])
            if inside.degree <= 1:
                if self.inside is None:
                    self.inside = Terms(self.parameters)
                self.inside.constants.append(inside.constant)
                self.inside.coefs.extend([coefficient for coefficient, _ in inside.linear])
                self.inside.variables.extend([variable for _, variable in inside.linear])
                self.inside.ends.append(len(self.inside.coefs))
                self.l_rows.append(len(self.ends))
                self.l_coefs.append(scale * _LOGS[term.getname()])
                return 0.0
        if self.parameters is not None:
            self.parameters.refuse_inside(term)
            if scale.__class__ is Form:
                raise NotAffine(scale.terms, term)
        part = term if _is(scale, 1.0) else scale * term
        self.nonlinear.setdefault(len(self.ends), []).append(part)
        return 0.0

    def _piece(self, expression: Any) -> Piece:
        """An expression alone, to be multiplied or taken the logarithm of."""
        terms = Terms(self.parameters, self._depth + 1)
        terms.add_row(expression)
        return Piece(terms)

    def _multiplied(self, scale: Any, one: Piece, other: Piece) -> Any:
        """The product of two affine factors."""
        for a, x in one.linear:
            weight = scale * a
            for b, y in other.linear:
                self._quadratic(weight * b, x, y)
            self._linear_unless_zero(weight, other.constant, x)
        for b, y in other.linear:
            self._linear_unless_zero(scale * b, one.constant, y)
        return scale * one.constant * other.constant

    def _squared(self, scale: Any, piece: Piece) -> Any:
        linear = piece.linear
        for k, (a, x) in enumerate(linear):
            self._quadratic(scale * _square(a), x, x)
            for b, y in linear[k + 1 :]:
                self._quadratic(scale * a * b * 2.0, x, y)
            self._linear_unless_zero(scale * a * 2.0, piece.constant, x)
        return scale * _square(piece.constant)

    def _linear_unless_zero(self, coefficient: Any, factor: Any, variable: Any) -> None:
        if not _is(factor, 0.0):
            self._linear(coefficient * factor, variable)

    def _linear(self, coefficient: Any, variable: Any) -> None:
        self.coefs.append(coefficient)
        self.variables.append(variable)

    def _quadratic(self, coefficient: Any, first: Any, second: Any) -> None:
        self.q_rows.append(len(self.ends))
        self.q_coefs.append(coefficient)
        self.q_first.append(first)
        self.q_second.append(second)

    def _single(self, term: Any) -> tuple[Any, Any] | None:
        """(coefficient, variable) where the term is just that, else None."""
        if term.__class__ is MonomialTermExpression:
            coefficient, variable = term.args
            return self.number(coefficient), variable
        return (1.0, term) if term.is_variable_type() else None


class Piece:
    """One expression with its fixed variables folded in and equal variables taken together.

    constant; linear: [(coefficient, variable)]; degree: 0, 1, 2, or 3 for all that is not a polynomial of these (whose
    quadratic part is not kept). Raises FormulationError for a fixed variable without a value.
    """

    __slots__ = ("constant", "degree", "linear")

    def __init__(self, terms: Terms) -> None:
        self.constant = terms.constants[0]
        found: dict[int, tuple[Any, Any]] = {}
        for coefficient, variable in zip(terms.coefs, terms.variables, strict=True):
            self._add(found, terms.number(coefficient), variable)
        curved = False
        for coefficient, first, second in zip(terms.q_coefs, terms.q_first, terms.q_second, strict=True):
            if first.fixed:
                self._add(found, coefficient * fixed_value(first), second)
            elif second.fixed:
                self._add(found, coefficient * fixed_value(second), first)
            else:
                curved = curved or not _is(coefficient, 0.0)
        self.linear = [item for item in found.values() if not _is(item[0], 0.0)]
        if terms.nonlinear or terms.l_rows:
            self.degree = 3
        else:
            self.degree = 2 if curved else int(bool(self.linear))

    def _add(self, found: dict[int, tuple[Any, Any]], coefficient: Any, variable: Any) -> None:
        if variable.fixed:
            self.constant = self.constant + coefficient * fixed_value(variable)
            return
        known = found.get(id(variable))
        found[id(variable)] = (coefficient if known is None else known[0] + coefficient, variable)

    @property
    def is_constant(self) -> bool:
        """Whether no free variable is left."""
        return self.degree == 0


def is_number(term: Any) -> bool:
    """Whether a term holds no variable (a number, a parameter, or an expression of those)."""
    return term.__class__ in native_numeric_types or not term.is_potentially_variable()


def _is_fixed(term: Any) -> bool:
    """Whether no free variable is in a term. (Pyomo calls 0·x fixed, with x free and perhaps without a value.)"""
    return bool(term.is_fixed()) and all(variable.fixed for variable in identify_variables(term))


def fixed_value(variable: Any) -> float:
    """The value of a fixed variable."""
    if variable.value is None:
        raise FormulationError(f"variable '{variable.name}' is fixed but has no value")
    return float(variable.value)


def located(error: FormulationError, where: str, parameters: Parameters | None, part: Any = None) -> FormulationError:
    """The error with the name of the constraint, objective or variable that it is about, and the next step."""
    if not isinstance(error, NotAffine) or parameters is None:
        return FormulationError(f"{where}: {error}")
    names = parameters.names(error.places)
    listed = ", ".join(f"'{name}'" for name in names[:5]) + (", ..." if len(names) > 5 else "")
    part = part if error.part is None else error.part
    within = "" if part is None else f", in '{short(part)}'"
    return FormulationError(
        f"{where}: the parameter{'s' * (len(names) > 1)} {listed} must enter affinely, which is not"
        f" so{within}; declare what enters as a mutable Param of its own, or make it a number or an immutable Param if"
        " it does not change"
    )


def short(expression: Any, length: int = 120) -> str:
    """An expression as text, cut where it is long."""
    text = str(expression)
    return text if len(text) <= length else text[: length - 3] + "..."


def _square(number: Any) -> Any:
    return number * number


def _is(number: Any, value: float) -> bool:
    """Whether a number is just this value, whatever the parameters."""
    return number.__class__ is not Form and number == value
