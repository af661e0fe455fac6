"""The nonlinear remainder of a Pyomo model, as functions with exact sparse first and second derivatives.

    r_k(x),   ∂r_k/∂x_j,   Σ_k w_k ∂²r_k/∂x_i∂x_j        k: a row of the program, or its objective

Pyomo writes the expressions as .nl, the text in which AMPL hands a model to a solver. That happens at once, so that a
later change of the model (a parameter, a fixed variable) does not reach a program that exists. CasADi reads the text
when a value is first asked for, expands it to scalar operations (SX) and differentiates those. The text is also what
is pickled: another process rebuilds the functions from it, without Pyomo.

Floor and ceil (no derivative), asinh, acosh, atanh, Expr_if over variables and external functions are refused by name.
abs is taken, with the derivative of the side on which the point lies; whether a point at its kink is optimal, the
residuals tell.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import FormulationError, SolverError

Array = np.ndarray

INSTALL = "pip install 'mktopt[ipopt]'"
# The operators of an .nl text that have no smooth derivative or that CasADi's reader does not know, by their codes.
_REFUSED = {"o13": "floor", "o14": "ceil", "o35": "Expr_if", "o47": "atanh", "o50": "asinh", "o52": "acosh"}
# What Pyomo's writer raises where a constant has no finite value (a division by zero, the logarithm of a fixed -1).
_WRITER = (ValueError, ArithmeticError, TypeError, RuntimeError)
_IN_PYOMO = {"Expr_ifExpression": "Expr_if", "ExternalFunctionExpression": "external function"}


def casadi_module() -> Any:
    """The casadi module; raises SolverError with the command that installs it."""
    try:
        import casadi
    except ImportError as error:
        raise SolverError(
            f"nonlinear terms need casadi, which cannot be imported ({error}); install it with {INSTALL}"
        ) from error
    return casadi


class NlRemainder:
    """Smooth Pyomo expressions as a `Remainder` of a program.

    rows: int (K,), the row that each expression belongs to, -1 for the objective; expressions: K of them;
    variables: the n Pyomo variables that are the columns of x (fixed variables are no columns: their present values
    are folded in); names: (K,), what to call the expressions in errors.
    Raises FormulationError where an expression cannot be taken; SolverError without casadi, on first use only.
    """

    def __init__(
        self, rows: Array, expressions: Sequence[Any], variables: Sequence[Any], names: Sequence[str] | None = None
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.n = len(variables)
        self.names = [str(name) for name in names] if names is not None else [f"row {row}" for row in self.rows]
        # The text; where each of its columns stands in x, -1 for the auxiliary one; where each expression stands in it.
        self.text, self.columns, self.order = _written(expressions, variables, self.names)
        self._start()

    def _start(self) -> None:
        self._functions: _Functions | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "n", "names", "text", "columns", "order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def functions(self) -> _Functions:
        """The compiled functions, built on first use."""
        with self._lock:
            if self._functions is None:
                self._functions = _Functions(self.text, self.columns, self.order)
            return self._functions

    def value(self, x: Array) -> Array:
        """The values (K,) at x (n,)."""
        functions = self.functions
        with self._lock:
            return functions.value(x[functions.columns])

    def jacobian_values(self, x: Array) -> Array:
        """The entries of the Jacobian, in the order of `jacobian_structure`."""
        functions = self.functions
        with self._lock:
            return functions.jacobian(x[functions.columns])

    @property
    def jacobian_structure(self) -> tuple[Array, Array]:
        """(k, column) of each entry of the Jacobian (K, n) that is not zero everywhere."""
        functions = self.functions
        return functions.jacobian_at[0], functions.columns[functions.jacobian_at[1]]

    def hessian_values(self, x: Array, weights: Array) -> Array:
        """The entries of Σ_k weights_k ∇²r_k in the order of `hessian_structure`; weights: (K,)."""
        functions = self.functions
        with self._lock:
            return functions.hessian(x[functions.columns], weights)

    @property
    def hessian_structure(self) -> tuple[Array, Array]:
        """(i, j) of each entry of one triangle of the Hessian (n, n): each unordered pair once."""
        functions = self.functions
        return functions.columns[functions.hessian_at[0]], functions.columns[functions.hessian_at[1]]

    def jacobian(self, x: Array) -> Any:
        """The gradients, csr (K, n)."""
        import scipy.sparse as sp

        where = self.jacobian_structure
        return sp.coo_array((self.jacobian_values(x), where), shape=(len(self.rows), self.n)).tocsr()

    def hessian(self, x: Array, weights: Array) -> Any:
        """Σ_k weights_k ∇²r_k, symmetric csc (n, n); weights: (K,)."""
        import scipy.sparse as sp

        i, j = self.hessian_structure
        values = self.hessian_values(x, weights)
        off = i != j
        where = np.r_[i, j[off]], np.r_[j, i[off]]
        return sp.coo_array((np.r_[values, values[off]], where), shape=(self.n, self.n)).tocsc()

    def symbolic(self, x: Any) -> Any:
        """The expressions (K,) as CasADi SX of an SX vector x (n,)."""
        functions = self.functions
        return functions.function(x[functions.columns.tolist()])


@dataclass
class _Call:
    """A CasADi function that reads and writes numpy arrays in place: a tenth of the cost of converting them."""

    inputs: list[Array]
    output: Array
    run: Callable[[], None]
    alive: tuple[Any, Any]  # the function and its buffer, which the memory of `run` belongs to

    def __call__(self, *values: Array) -> Array:
        for buffer, value in zip(self.inputs, values, strict=True):
            buffer[:] = value
        self.run()
        return self.output.copy()


def _callable(function: Any) -> _Call:
    inputs = [np.zeros(function.nnz_in(i)) for i in range(function.n_in())]
    output = np.zeros(function.nnz_out(0))
    buffer, run = function.buffer()
    for i, array in enumerate(inputs):
        buffer.set_arg(i, array.data)
    buffer.set_res(0, output.data)
    return _Call(inputs, output, run, (function, buffer))


class _Functions:
    """Values and derivatives of the K expressions of an .nl text, over the columns that appear in it."""

    def __init__(self, text: str, columns: Array, order: Array) -> None:
        casadi = casadi_module()
        self.columns = columns[columns >= 0]
        body = _read(casadi, text)
        x = casadi.SX.sym("x", len(self.columns))
        whole = casadi.SX.zeros(len(columns))
        whole[np.flatnonzero(columns >= 0).tolist()] = x
        values = casadi.densify(body(whole)[order.tolist()])
        weights = casadi.SX.sym("w", len(order))
        jacobian = casadi.jacobian(values, x)
        hessian = casadi.tril(casadi.hessian(casadi.dot(weights, values), x)[0])
        self.function = casadi.Function("values", [x], [values])
        self.jacobian_at = tuple(np.array(part, dtype=np.int64) for part in jacobian.sparsity().get_triplet())
        self.hessian_at = tuple(np.array(part, dtype=np.int64) for part in hessian.sparsity().get_triplet())
        self.value = _callable(self.function)
        self.jacobian = _callable(casadi.Function("jacobian", [x], [jacobian]))
        self.hessian = _callable(casadi.Function("hessian", [x, weights], [hessian]))


def _read(casadi: Any, text: str) -> Any:
    """The expressions of an .nl text as a CasADi function of its columns, expanded to scalar operations."""
    builder = casadi.NlpBuilder()
    handle, path = tempfile.mkstemp(suffix=".nl", text=True)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        builder.import_nl(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise SolverError(f"CasADi cannot read the nonlinear terms: {reason}") from error
    finally:
        os.unlink(path)
    # Each row is  expression - constant + auxiliary = -constant: the writer moves constants to the right.
    constants = casadi.SX(casadi.DM(builder.g_lb))
    x = casadi.vertcat(*builder.x)
    rows = casadi.Function("rows", [x], [casadi.vertcat(*builder.g)]).expand()
    columns = casadi.SX.sym("x", len(builder.x))
    return casadi.Function("body", [columns], [rows(columns) - constants])


def _written(expressions: Sequence[Any], variables: Sequence[Any], names: Sequence[str]) -> tuple[str, Array, Array]:
    """The expressions as .nl rows; the column of x behind each column of the text; the row of each expression."""
    try:
        text, columns, rows = _write(expressions)
    except _WRITER as error:
        raise FormulationError(_guilty(expressions, names, error)) from error
    _refuse_operators(text, expressions, names)
    column_of = {id(variable): column for column, variable in enumerate(variables)}
    strange = [variable.name for variable in columns if variable is not None and id(variable) not in column_of]
    if strange:
        raise FormulationError(f"variable '{strange[0]}' of a nonlinear term is not in the program")
    where = [-1 if variable is None else column_of[id(variable)] for variable in columns]
    return text, np.array(where, dtype=np.int64), np.argsort(rows)


def _write(expressions: Sequence[Any]) -> tuple[str, list[Any], list[int]]:
    """The text, the variable behind each of its columns (None: the auxiliary one), the expression behind each row."""
    import pyomo.environ as pyo
    from pyomo.repn.plugins.nl_writer import NLWriter

    model = pyo.ConcreteModel()
    # It is zero; with it no row is without a variable, which the writer would drop or call infeasible.
    model.auxiliary = pyo.Var()
    model.rows = pyo.Constraint(pyo.RangeSet(0, len(expressions) - 1))
    for k, expression in enumerate(expressions):
        model.rows[k] = expression + model.auxiliary == 0
    stream = io.StringIO()
    info = NLWriter().write(model, stream, linear_presolve=False, scale_model=False)
    text = stream.getvalue()
    if "InvalidNumber" in text:  # the writer raises that itself, but for within an `except` block of the caller
        raise ValueError("a constant in it is not a finite number (a division by zero, a logarithm of zero)")
    columns = [None if variable is model.auxiliary else variable for variable in info.variables]
    return text, columns, [row.index() for row in info.constraints]


def _guilty(expressions: Sequence[Any], names: Sequence[str], error: Exception) -> str:
    """Which expression the writer refuses, and why: known once each is written alone."""
    for name, expression in zip(names, expressions, strict=True):
        try:
            _write([expression])
        except _WRITER as alone:
            lines = [line.strip() for line in str(alone).splitlines() if line.strip()] or [type(alone).__name__]
            return f"{name}: '{_short(expression)}' has no finite value: {lines[-1]}"
    return f"the nonlinear terms cannot be written: {error}"


def _refuse_operators(text: str, expressions: Sequence[Any], names: Sequence[str]) -> None:
    found = {operator for code, operator in _REFUSED.items() if f"\n{code}\n" in text}
    if "\nF0 " in text:
        found.add("external function")
    if not found:
        return
    for name, expression in zip(names, expressions, strict=True):
        for operator in _operators(expression) & found:
            why = "it has no derivative" if operator in ("floor", "ceil") else "CasADi's reader does not know it"
            raise FormulationError(
                f"{name} uses '{operator}', which IPOPT cannot be given ({why}); {_INSTEAD.get(operator, _OTHERWISE)}"
            )
    raise FormulationError(f"a nonlinear term uses {', '.join(sorted(found))}, which IPOPT cannot be given")


_OTHERWISE = "write it with smooth operators (+ - * / ** exp log sqrt sin cos tan asin acos atan sinh cosh tanh)"
_INSTEAD = {
    "asinh": "write log(u + sqrt(u**2 + 1)) for asinh(u)",
    "acosh": "write log(u + sqrt(u**2 - 1)) for acosh(u)",
    "atanh": "write 0.5 * log((1 + u) / (1 - u)) for atanh(u)",
}


def _operators(expression: Any) -> set[str]:
    """The names of all operators of an expression."""
    found, rest = set(), [expression]
    while rest:
        node = rest.pop()
        if getattr(node, "is_expression_type", bool)():
            if not node.is_relational():
                found.add(_IN_PYOMO.get(type(node).__name__) or str(node.getname()))
            rest.extend(node.args)
    return found


def _short(expression: Any, length: int = 120) -> str:
    text = str(expression)
    return text if len(text) <= length else text[: length - 3] + "..."
