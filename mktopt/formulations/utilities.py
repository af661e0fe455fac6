"""Utilities as Pyomo expressions, and a user's own made of Pyomo operators.

`own_utility` calls the user's function once with symbols, differentiates what comes back twice (Pyomo's reverse mode),
and evaluates u, u' and u'' on numpy arrays; demand d(price) inverts u' inside a bracket that grows until u' has fallen
to the price. In a model the same function is called with the model's own variable, so that nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr import numeric_expr
from pyomo.core.expr.calculus.derivatives import Modes, differentiate
from pyomo.core.expr.calculus.diff_with_pyomo import DifferentiationException

from mktopt.errors import FormulationError
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.roots import falling_root
from mktopt.networks.utilities import LOG, QUADRATIC, Utility

FloatArray = npt.NDArray[np.float64]
Function = Callable[[Any, Any, Any], Any]

# Consumption beyond which an agent counts as without limit [kW].
_ENDLESS = 1e15

_UNARY: dict[str, Callable[[Any], Any]] = {
    "log": np.log, "log10": np.log10, "sqrt": np.sqrt, "exp": np.exp, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
}  # fmt: skip


def utility_expression(prosumers: Prosumers, i: int, x: Any) -> Any:
    """u_i(x) [$/h] of agent number `i` as a Pyomo expression of `x` (a variable or expression, consumption in kW)."""
    name = prosumers.forms[i]
    a, b = float(prosumers.a[i]), float(prosumers.b[i])
    if name == LOG:
        return a * pyo.log(1 + x / b)
    if name == QUADRATIC:
        return a * x - 0.5 * b * x**2
    expression = prosumers.utilities[name].expression
    if expression is None:
        raise FormulationError(
            f"utility {name!r} has no Pyomo expression, so that no model can hold it; "
            "make it with mktopt.own_utility(name, function)"
        )
    return expression(x, a, b)


def own_utility(name: str, function: Function) -> Utility:
    """A utility of one's own: `function`(x, a, b) [$/h] composed of Pyomo operators (pyo.log, pyo.sqrt, **, ...).

    x: consumption [kW]; a, b: the agent's parameters, any finite numbers. It must be strictly concave on x >= 0 and
    finite at 0, which `Prosumers` tests at points when a model or an iteration is made. The utility can be pickled
    where `function` can (a function of a module, no lambda). Raises FormulationError, naming the reason, where
    `function` is not built of Pyomo operators that can be differentiated twice.
    """
    if not callable(function):
        raise FormulationError(f"utility {name!r}: expected a function (x, a, b), got {type(function).__name__}")
    try:
        _derivatives(function)
    except FormulationError as error:
        raise FormulationError(f"utility {name!r}: {error}") from error.__cause__
    value, marginal, curvature = (_Derivative(function, order) for order in range(3))
    return Utility(name, value, marginal, curvature, _Demand(function), function)


@dataclass(frozen=True)
class _Derivative:
    """The derivative of `function` in x of this order, on arrays."""

    function: Function
    order: int

    def __call__(self, x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        symbols, trees = _derivatives(self.function)
        arrays = [np.asarray(value, dtype=float) for value in (x, a, b)]
        values = dict(zip(map(id, symbols), arrays, strict=True))
        with np.errstate(all="ignore"):
            found = np.asarray(_evaluated(trees[self.order], values), dtype=float)
        return np.broadcast_to(found, np.broadcast_shapes(*(array.shape for array in arrays))).copy()


@dataclass(frozen=True)
class _Demand:
    """The inverse of the derivative of `function` in x, on arrays."""

    function: Function

    def __call__(self, price: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        marginal = _Derivative(self.function, 1)
        price, a, b = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (price, a, b)))
        low, high = np.zeros(price.shape), np.ones(price.shape)
        wanted = marginal(low, a, b) > price
        more = wanted & (marginal(high, a, b) > price)
        while more.any() and high.max() < _ENDLESS:
            low, high = np.where(more, high, low), np.where(more, 8.0 * high, high)
            more = more & (marginal(high, a, b) > price)

        with np.errstate(invalid="ignore"):  # infinite marginal utility at zero, at an infinite price
            root = falling_root(lambda x: marginal(x, a, b) - price, low, np.where(wanted, high, low))
        return np.where(more, np.inf, np.where(wanted, root, 0.0))


@lru_cache(maxsize=256)
def _derivatives(function: Function) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The symbols (x, a, b), and u, u' and u'' as trees over them."""
    model = pyo.ConcreteModel()
    model.x, model.a, model.b = pyo.Var(), pyo.Var(), pyo.Var()
    symbols = (model.x, model.a, model.b)
    how = "compose it of Pyomo's operators and functions (pyo.log, pyo.sqrt, pyo.exp, **, ...), without `if`"
    try:
        tree = function(*symbols)
    except Exception as error:
        raise FormulationError(f"the function cannot take Pyomo variables ({error}); {how}") from error
    if not hasattr(tree, "is_expression_type") or not (tree.is_expression_type() or tree is model.x):
        raise FormulationError(f"the function gave {tree!r}, no Pyomo expression of x; {how}")
    try:
        marginal = differentiate(tree, wrt=model.x, mode=Modes.reverse_symbolic)
        trees = (tree, marginal, differentiate(marginal, wrt=model.x, mode=Modes.reverse_symbolic))
        for each in trees:
            _evaluated(each, dict.fromkeys(map(id, symbols), np.ones(1)))
    except (DifferentiationException, KeyError, TypeError) as error:
        raise FormulationError(f"the expression {tree} cannot be differentiated twice ({error}); {how}") from error
    return (model, *symbols)[1:], trees


def _evaluated(tree: Any, values: dict[int, FloatArray]) -> Any:
    """A tree over the symbols whose arrays stand in `values` by id, with numpy in the place of scalars."""
    if tree.__class__ in (int, float) or not hasattr(tree, "is_expression_type"):
        return tree
    if not tree.is_expression_type():
        return values[id(tree)] if id(tree) in values else float(pyo.value(tree))
    parts = [_evaluated(part, values) for part in tree.args]
    if isinstance(tree, numeric_expr.AbsExpression):
        return np.abs(parts[0])
    if isinstance(tree, numeric_expr.UnaryFunctionExpression):
        return _UNARY[tree.getname()](*parts)
    if isinstance(tree, numeric_expr.PowExpression):
        return np.power(np.asarray(parts[0], dtype=float), parts[1])
    if isinstance(tree, numeric_expr.SumExpression):
        return sum(parts)
    if isinstance(tree, numeric_expr.DivisionExpression):
        return np.divide(parts[0], parts[1])
    if isinstance(tree, numeric_expr.NegationExpression):
        return -parts[0]
    if isinstance(tree, numeric_expr.ProductExpression):
        return parts[0] * parts[1]
    if tree.is_named_expression_type():
        return parts[0]
    raise TypeError(f"no numpy counterpart of {type(tree).__name__}")
