"""The nonlinear remainder: values and exact derivatives, held against Pyomo itself and against differences."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.errors import FormulationError, SolverError
from mktopt.solvers import compile
from mktopt.solvers.nlp.remainder import NlRemainder

OPERATORS = ["exp", "log", "log10", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"]


def variables(count=5, seed=0):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(count))
    x = np.random.default_rng(seed).uniform(0.2, 0.9, count)
    put(model.x, x)
    return model, list(model.x.values()), x


def put(columns, x):
    for variable, value in zip(columns.values() if hasattr(columns, "values") else columns, x, strict=True):
        variable.set_value(float(value))


def grown(random, leaves, depth):
    """A random expression with values of order one for leaves in (0, 1]."""
    if depth == 0:
        return leaves[random.integers(len(leaves))] if random.random() < 0.8 else float(random.uniform(0.5, 2.0))
    a, b = grown(random, leaves, depth - 1), grown(random, leaves, depth - 1)
    kind = random.integers(9)
    if kind < 5:
        return [a + b, a - 2.0 * b, a * b, a / (1.5 + b * b), (1.0 + a * a) ** 1.5][kind]
    inside = a * a / (1.0 + a * a)  # in [0, 1)
    return [pyo.exp(inside - b * 0), pyo.sin(a), pyo.log(1.1 + inside), pyo.atan(a) * b][kind - 5]


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_has_pyomos_value_and_the_derivatives_of_differences(name):
    model, columns, x = variables(2)
    function = getattr(pyo, name)
    expressions = [function(model.x[0] * model.x[1] + 0.1)]
    held(NlRemainder([0], expressions, columns), expressions, columns, x)


@given(seed=st.integers(0, 2**32 - 1))
def test_random_expressions_have_pyomos_values_and_the_derivatives_of_differences(seed):
    random = np.random.default_rng(seed)
    model, columns, _ = variables(5, seed)
    model.x[3].fix(0.7)
    model.part = pyo.Expression(expr=grown(random, columns, 2))
    leaves = [*columns, model.part]
    expressions = [grown(random, leaves, int(random.integers(1, 4))) + 0.0 for _ in range(4)]
    free = [columns[k] for k in random.permutation([0, 1, 2, 4])]
    point = np.array([variable.value for variable in free])
    held(NlRemainder(np.array([2, -1, 0, 5]), expressions, free), expressions, free, point)


def held(remainder, expressions, columns, x, step=1e-6):
    put(columns, x)
    np.testing.assert_allclose(remainder.value(x), [pyo.value(e) for e in expressions], rtol=1e-12, atol=1e-12)
    weights = np.arange(1.0, len(expressions) + 1.0)
    J, H = remainder.jacobian(x), remainder.hessian(x, weights)
    assert J.shape == (len(expressions), len(columns))
    assert H.shape == (len(columns), len(columns))
    assert abs(H - H.T).max() == 0.0 if H.nnz else True
    moves = step * np.eye(len(columns))
    slopes = np.array([remainder.value(x + move) - remainder.value(x - move) for move in moves]).T / (2 * step)
    np.testing.assert_allclose(J.toarray(), slopes, rtol=1e-5, atol=1e-6 * (1 + np.abs(slopes).max()))
    pulls = [(remainder.jacobian(x + move) - remainder.jacobian(x - move)).T @ weights for move in moves]
    bends = np.array(pulls) / (2 * step)
    np.testing.assert_allclose(H.toarray(), bends, rtol=1e-5, atol=1e-6 * (1 + np.abs(bends).max()))


def test_constants_single_variables_cancelled_terms_and_unused_columns_keep_their_places():
    model, columns, x = variables(4)
    model.x[2].fix(3.0)
    expressions = [0 * model.x[0] + 4, model.x[1], model.x[0] - model.x[0] + 2, model.x[2] * model.x[1] - 7.25,
                   model.x[0] * model.x[0] * model.x[0] + 1 / 3]  # fmt: skip
    free = [columns[3], columns[1], columns[0]]
    remainder = NlRemainder(np.arange(5), expressions, free)
    point = x[[3, 1, 0]]
    held(remainder, expressions, free, point)
    assert remainder.value(point)[0] == 4.0
    assert remainder.jacobian(point)[:, [0]].nnz == 0


def test_a_later_change_of_the_model_does_not_reach_it():
    model, columns, x = variables(2)
    model.k = pyo.Param(initialize=2.0, mutable=True)
    remainder = NlRemainder([0], [model.k * pyo.exp(model.x[0]) * model.x[1]], columns)
    model.k.set_value(100.0)
    model.x[1].fix(50.0)
    assert remainder.value(x)[0] == pytest.approx(2.0 * np.exp(x[0]) * x[1])


def test_a_pickled_one_is_evaluated_elsewhere_without_pyomo(tmp_path):
    model, columns, x = variables(3)
    expression = pyo.exp(model.x[0]) * model.x[2] ** 2.5
    remainder = NlRemainder([-1], [expression], columns)
    before = remainder.value(x)
    assert pickle.loads(pickle.dumps(remainder)).value(x) == before  # noqa: S301 - our own
    (tmp_path / "it").write_bytes(pickle.dumps(remainder))
    # The package's own modules import Pyomo; the class and its text do not need it.
    script = (
        "import pickle, sys, numpy as np, mktopt.solvers\n"
        "sys.modules['pyomo.environ'] = None\n"
        f"it = pickle.loads(open({str(tmp_path / 'it')!r}, 'rb').read())\n"
        f"x = np.array({x.tolist()!r})\n"
        "print(repr(float(it.value(x)[0])), it.hessian(x, np.ones(1)).nnz)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repr(float(before[0])), "4"]


@pytest.mark.parametrize("name", ["asinh", "acosh", "atanh", "floor", "ceil", "Expr_if"])
def test_operators_without_a_derivative_or_unknown_to_casadi_are_refused_by_name_and_row(name):
    model, columns, _ = variables(3)
    x = model.x
    if name == "Expr_if":
        bad = pyo.Expr_if(IF=x[0] >= 1, THEN=x[1] ** 3, ELSE=x[2])
    else:
        bad = getattr(pyo, name)(x[0]) * x[1]
    with pytest.raises(FormulationError, match=rf"limit\[3\].*'{name}'"):
        NlRemainder([0, 1], [x[0] ** 3, bad], columns, names=["first", "limit[3]"])
    model.first = pyo.Constraint(expr=x[0] ** 3 <= 1)
    model.second = pyo.Constraint(expr=bad <= 1)
    model.o = pyo.Objective(expr=x[0])
    with pytest.raises(FormulationError, match=rf"second.*'{name}'"):
        compile(model)


def test_an_external_function_is_refused_by_row():
    model, columns, _ = variables(2)
    model.f = pyo.ExternalFunction(lambda a, b: a * b)
    with pytest.raises(FormulationError, match=r"curve.*'external function'"):
        NlRemainder([0], [model.f(model.x[0], model.x[1])], columns, names=["curve"])


@pytest.mark.parametrize("handling", [False, True])
def test_a_constant_that_is_not_finite_is_refused_by_row(handling):
    """Also while the caller handles an exception, when Pyomo's writer would print `nan` and say nothing."""
    model, columns, _ = variables(2)
    model.x[1].fix(3.0)
    expressions = [pyo.exp(model.x[0]), model.x[0] / (model.x[1] - 3.0)]

    def make():
        if not handling:
            return NlRemainder([0, 1], expressions, columns[:1], names=["good", "ratio"])
        try:
            raise KeyError
        except KeyError:
            return NlRemainder([0, 1], expressions, columns[:1], names=["good", "ratio"])

    with pytest.raises(FormulationError, match="ratio.*finite"):
        make()


def test_a_variable_of_another_model_is_refused_by_name():
    model, columns, _ = variables(2)
    with pytest.raises(FormulationError, match=r"x\[1\]"):
        NlRemainder([0], [pyo.sin(model.x[0] * model.x[1])], columns[:1])


def test_without_casadi_it_can_be_made_and_the_first_value_names_the_command(monkeypatch):
    model, columns, x = variables(2)
    monkeypatch.setitem(sys.modules, "casadi", None)
    remainder = NlRemainder([0], [pyo.sin(model.x[0])], columns)
    with pytest.raises(SolverError, match=r"pip install 'mktopt\[ipopt\]'"):
        remainder.value(x)
