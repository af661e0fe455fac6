"""The optimality conditions of a market model at given values and multipliers, read from its Pyomo expressions.

For  max f(x)  s.t.  g_i(x) in [a_i, b_i],  l <= x <= u  with multipliers y (welfare gained per unit of right-hand side)

    primal        greatest violation of a row, a bound or an integrality, relative to the size of its terms
    z = grad f - sum_i y_i grad g_i                 what a variable would still gain
    dual          greatest part of z that no bound explains, relative to the size of its terms
    products      |y_i| (distance of g_i to the limit that y_i pushes against) and |z_j| (distance of x_j), which sum to
                  the duality gap of a convex program (at a point where `dual` is nil)

Gradients of what is more than quadratic come from Pyomo's own differentiation of the expressions.
A multiplier that pushes against a limit that is not there counts as zero, so that a wrong sign shows in `dual`.
References: Boyd, Vandenberghe, Convex Optimization, 5.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr.calculus.derivatives import Modes, differentiate
from pyomo.core.expr.numeric_expr import SumExpression
from pyomo.repn import generate_standard_repn
from scipy.sparse import csr_array

FloatArray = npt.NDArray[np.float64]
# Sizes below this share of the largest are judged by it: rounding reaches them.
_SMALL = 1e-4
_NOISE = 1e-9


class Expressions:
    """Smooth Pyomo expressions over `variables`, as numbers: value, size and Jacobian at a point.

    constant: shape (m,). What is neither linear nor quadratic stays an expression; outside its domain it is NaN.
    """

    def __init__(self, expressions: Sequence[Any], variables: Sequence[Any]) -> None:
        at = {id(variable): column for column, variable in enumerate(variables)}
        self.shape = (len(expressions), len(variables))
        self.constant = np.zeros(len(expressions))
        linear: list[tuple[int, int, float]] = []
        quadratic: list[tuple[int, int, int, float]] = []
        self._nonlinear: list[_Nonlinear] = []
        for row, expression in enumerate(expressions):
            repn = generate_standard_repn(expression, quadratic=True)
            if repn.nonlinear_expr is not None:
                inside = list(repn.nonlinear_vars)
                self._nonlinear.append(_Nonlinear(row, repn.nonlinear_expr, inside, [at[id(v)] for v in inside]))
            self.constant[row] = float(pyo.value(repn.constant))
            linear += [(row, at[id(v)], c) for c, v in zip(repn.linear_coefs, repn.linear_vars, strict=True)]
            quadratic += [
                (row, at[id(v)], at[id(w)], c)
                for c, (v, w) in zip(repn.quadratic_coefs, repn.quadratic_vars, strict=True)
            ]
        self._linear = _columns(linear, 3)
        self._quadratic = _columns(quadratic, 4)

    def value(self, x: FloatArray) -> FloatArray:
        """The expressions at x, shape (m,)."""
        value = self.constant + self._sum(*self._terms(x))
        for part in self._nonlinear:
            value[part.row] += sum(part.terms(x))
        return value

    def size(self, x: FloatArray) -> FloatArray:
        """The sum of the sizes of their terms at x, shape (m,)."""
        rows, terms = self._terms(x)
        size = np.abs(self.constant) + self._sum(rows, np.abs(terms))
        for part in self._nonlinear:
            size[part.row] += sum(map(abs, part.terms(x)))
        return size

    def jacobian(self, x: FloatArray) -> Any:
        """The gradients at x, csr of shape (m, n)."""
        (rows, columns, coefficients), (q_rows, first, second, q) = self._linear, self._quadratic
        where = np.r_[rows, q_rows, q_rows].astype(int), np.r_[columns, first, second].astype(int)
        data = np.r_[coefficients, q * x[second.astype(int)], q * x[first.astype(int)]]
        linear = csr_array((data, where), shape=self.shape)
        if not self._nonlinear:
            return linear
        slopes = [part.slopes(x) for part in self._nonlinear]
        rows = np.repeat([part.row for part in self._nonlinear], [len(part.columns) for part in self._nonlinear])
        columns = np.concatenate([part.columns for part in self._nonlinear])
        return linear + csr_array((np.concatenate(slopes), (rows, columns)), shape=self.shape)

    def _terms(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        (rows, columns, coefficients), (q_rows, first, second, q) = self._linear, self._quadratic
        squares = q * x[first.astype(int)] * x[second.astype(int)]
        return np.r_[rows, q_rows], np.r_[coefficients * x[columns.astype(int)], squares]

    def _sum(self, rows: FloatArray, terms: FloatArray) -> FloatArray:
        total: FloatArray = np.bincount(rows.astype(int), terms, self.shape[0]).astype(float)
        return total


@dataclass(frozen=True, eq=False)
class _Nonlinear:
    """The part of expression `row` that is neither linear nor quadratic, over `variables` in `columns`."""

    row: int
    expression: Any
    variables: list[Any]
    columns: list[int]

    def terms(self, x: FloatArray) -> list[float]:
        """The values of its summands at x."""
        parts = self.expression.args if isinstance(self.expression, SumExpression) else [self.expression]
        with self._at(x):
            return [_number(part) for part in parts]

    def slopes(self, x: FloatArray) -> FloatArray:
        """Its derivatives in `variables` at x."""
        with self._at(x):
            try:
                found = differentiate(self.expression, wrt_list=self.variables, mode=Modes.reverse_numeric)
            except (ValueError, ArithmeticError):
                return np.full(len(self.variables), np.nan)
        return np.array(found, dtype=float)

    @contextmanager
    def _at(self, x: FloatArray) -> Iterator[None]:
        """The variables of the model at x, and back as they were."""
        with values_kept(self.variables):
            for variable, column in zip(self.variables, self.columns, strict=True):
                variable.set_value(float(x[column]), skip_validation=True)
            yield


@contextmanager
def values_kept(variables: Sequence[Any]) -> Iterator[None]:
    """The values of the variables as they were, afterwards, whatever happens."""
    before = [(variable, variable.value, variable.stale) for variable in variables]
    try:
        yield
    finally:
        for variable, value, stale in before:
            variable.set_value(value, skip_validation=True)
            variable.stale = stale


def _number(expression: Any) -> float:
    """The value of an expression, NaN where it has no real one."""
    try:
        found = pyo.value(expression)
    except (ValueError, ArithmeticError):
        return float("nan")
    return float("nan") if isinstance(found, complex) else float(found)


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the optimality conditions say: primal, dual (relative), products [$], value of the objective [$] and
    `pull`, shape (rows, variables): multiplier times gradient of each row, csr [$ per unit of the variable]."""

    primal: float
    dual: float
    products: FloatArray
    objective: float
    pull: Any


def conditions(
    objective: Any, rows: Sequence[Any], variables: Sequence[Any], x: FloatArray, y: FloatArray, least: float = 0.0
) -> Conditions:
    """The optimality conditions at values x, shape (variables,), and multipliers y, shape (rows,).

    least: the size that violations are relative to, at least; without it the smallest market is held to its own.
    """
    body = Expressions([row.body for row in rows], variables)
    goal = Expressions([objective.expr], variables)
    sense = 1.0 if objective.sense == pyo.maximize else -1.0
    low, high = _limits(rows)
    lower, upper = _limits(variables)
    typical = _typical(low, high, lower, upper)
    free = np.array([v.is_continuous() for v in variables], dtype=bool)
    activity, jacobian = body.value(x), body.jacobian(x)

    y = np.where(np.isinf(np.where(y > 0, high, low)) & (y != 0), 0.0, y)
    pull = csr_array(jacobian * y[:, None])
    slope = sense * goal.jacobian(x).toarray().ravel()
    z = slope - pull.sum(axis=0)
    size = np.abs(slope) + abs(pull).sum(axis=0)
    steep = float(size[free].max(initial=0.0)) if slope.any() else 1.0  # where nothing has a price: $1/kWh
    scale = np.maximum(size, _floor(steep))
    limit = np.where(z > 0, upper, lower)
    # what is noise beside its terms is left unexplained, however far the limit that might explain it
    bounded = np.isfinite(limit) & (np.abs(z) > _NOISE * scale)
    products = [_product(y, np.where(y > 0, high, low) - activity), _product(z, limit - x)[free & bounded]]
    unexplained = np.where(free & ~bounded, np.abs(z), 0.0)
    primal = max_of(
        _violation(activity, low, high, body.size(x), typical, least),
        _violation(x, lower, upper, np.abs(x), typical, least),
        np.abs(x - np.round(x))[~free],
    )
    dual = max_of(unexplained / scale)
    return Conditions(primal, dual, np.concatenate(products), sense * float(goal.value(x)[0]), pull)


def zero_is_feasible(
    rows: Sequence[Any], variables: Sequence[Any], nothing: FloatArray, tolerance: float = 1e-9
) -> bool:
    """Whether the variables at `nothing`, zero but for voltages and the like, satisfy every row and bound."""
    at = Expressions([row.body for row in rows], variables).value(nothing)
    for value, of in ((at, rows), (nothing, variables)):
        low, high = _limits(of)
        if not np.all((value >= low - tolerance) & (value <= high + tolerance)):  # NaN: outside a domain
            return False
    return True


def max_of(*parts: FloatArray) -> float:
    """The greatest of all entries, 0 where there are none, NaN where one is NaN."""
    return float(np.concatenate([np.zeros(1), *map(np.ravel, parts)]).max())


def _columns(records: list[Any], width: int) -> tuple[FloatArray, ...]:
    return tuple(np.array(records, dtype=float).reshape(-1, width).T)


def _limits(of: Sequence[Any]) -> tuple[FloatArray, FloatArray]:
    """Lower and upper limits of rows or variables, infinite where there are none."""
    low = [-np.inf if item.lower is None else float(pyo.value(item.lower)) for item in of]
    high = [np.inf if item.upper is None else float(pyo.value(item.upper)) for item in of]
    return np.array(low), np.array(high)


def _violation(
    value: FloatArray, low: FloatArray, high: FloatArray, size: FloatArray, typical: float, least: float
) -> FloatArray:
    beyond = np.maximum(low - value, value - high)  # NaN stays NaN, and fails
    return beyond / np.maximum(size, max(least, _floor(float(np.max(size, initial=0.0)), typical)))


def _typical(*limits: FloatArray) -> float:
    """The median size of the limits that there are."""
    sizes = np.abs(np.concatenate(limits))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(np.median(sizes)) if len(sizes) else 0.0


def _floor(largest: float, typical: float = 0.0) -> float:
    """The size below which numbers are noise: one unit, less where all are smaller, more where some are huge."""
    return max(min(1.0, largest), _SMALL * largest, _SMALL * typical, 1e-12)


def _product(multiplier: FloatArray, distance: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.where(multiplier != 0, np.abs(multiplier * distance), 0.0)
