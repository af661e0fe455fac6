"""Reading Pyomo models into arrays."""

from __future__ import annotations

import time

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyomo.core.expr.numeric_expr import LinearExpression
from pyomo.gdp import Disjunct, Disjunction

from mktopt.errors import FormulationError
from mktopt.solvers import compile


def test_rows_of_every_kind_and_columns_in_order_of_declaration():
    model = pyo.ConcreteModel()
    model.unused = pyo.Var(bounds=(1, 2))
    model.x = pyo.Var([1, 2], domain=pyo.NonNegativeReals, bounds=(-5, 7))
    model.y = pyo.Var()
    model.z = pyo.Var(domain=pyo.Binary)
    model.equal = pyo.Constraint(expr=model.x[1] + 2 * model.x[2] == model.y + 3)
    model.above = pyo.Constraint(expr=model.y >= 2 * model.x[1] - 1)
    model.range = pyo.Constraint(expr=(1, model.x[1] - model.y, 4))
    model.vector = pyo.Constraint(
        expr=LinearExpression(constant=1, linear_coefs=[3, -1], linear_vars=[model.y, model.z]) <= 5
    )
    model.obj = pyo.Objective(expr=2 * model.y + 1, sense=pyo.maximize)
    program = compile(model)

    assert program.variable_names() == ["unused", "x[1]", "x[2]", "y", "z"]
    assert program.row_names() == ["equal", "above", "range", "vector"]
    assert [program.column(v) for v in (model.unused, model.x[2], model.z)] == [0, 2, 4]
    assert program.row(model.range) == 2
    np.testing.assert_array_equal(program.lower, [1, 0, 0, -np.inf, 0])
    np.testing.assert_array_equal(program.upper, [2, 7, 7, np.inf, 1])
    np.testing.assert_array_equal(program.integer, [False, False, False, False, True])
    assert (program.sense, program.constant, program.problem_class) == (-1, 1.0, "MILP")
    point = np.array([1.5, 0.3, 0.7, -0.4, 1.0])
    for variable, value in zip(program.variables, point, strict=True):
        variable.set_value(value)
    for i, row in enumerate(program.rows):
        activity = (program.A @ point)[i]
        slack = [activity - program.row_lower[i], program.row_upper[i] - activity]
        np.testing.assert_allclose(slack, [row.lslack(), row.uslack()], err_msg=row.name)
    assert program.objective(point) == pytest.approx(pyo.value(model.obj))


_FORMS = {
    "square": lambda q, x: q * x**2,
    "product": lambda q, x: (q * x) * x,
    "square of a multiple": lambda q, x: q / 4 * (2 * x) ** 2,
    "negated": lambda q, x: -((-q) * x * x),
    "divided": lambda q, x: (q * x * x + 0 * x) / 1.0,
    "bracket": lambda q, x: (q * x + 3) * x - 3 * x,
    "power of a sum": lambda q, x: q * (x + 1) ** 2 - 2 * q * x - q,
}


@pytest.mark.parametrize("form", _FORMS)
def test_every_way_to_write_a_square_gives_the_same_matrix(form):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3))
    model.obj = pyo.Objective(expr=5 + model.x[0] + sum(_FORMS[form](0.5 + i, model.x[i]) for i in range(3)))
    program = compile(model)
    np.testing.assert_allclose(program.P.toarray(), np.diag([1.0, 3.0, 5.0]), atol=1e-15)
    np.testing.assert_allclose(program.c, [1, 0, 0], atol=1e-15)
    assert program.constant == pytest.approx(5)
    assert program.problem_class == "QP"


@given(st.lists(st.integers(-3, 3), min_size=21, max_size=21), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_arrays_say_what_the_expressions_say(numbers, fixed):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(4), initialize=lambda _, i: 0.5 - i)
    for i, flag in enumerate(fixed):
        if flag:
            model.x[i].fix()
    x, a = model.x, numbers
    model.e = pyo.Expression(expr=a[0] * x[0] - a[1] * x[1] / 2 + a[2])
    model.row = pyo.Constraint(expr=(-1, 2 * model.e + a[3] * (x[2] - x[3]) + a[4] * x[0], 9 + a[5]))
    squares = sum(a[6 + 4 * i + j] * x[i] * x[j] for i in range(3) for j in range(4) if i <= j)
    model.obj = pyo.Objective(expr=squares + (x[0] - a[18]) * (x[3] + a[19]) + a[20] * model.e)
    program = compile(model)
    assert program.n == 4 - sum(fixed)
    point = np.arange(1.0, program.n + 1)
    for variable, value in zip(program.variables, point, strict=True):
        variable.set_value(value)
    assert program.objective(point) == pytest.approx(pyo.value(model.obj))
    assert (program.A @ point)[0] - program.row_lower[0] == pytest.approx(pyo.value(model.row.body) + 1)
    np.testing.assert_allclose(program.values(point, x.values()), [pyo.value(v) for v in x.values()])
    np.testing.assert_array_equal(program.columns(x.values()) < 0, fixed)


def test_mutable_parameters_are_read_at_each_compilation():
    model = pyo.ConcreteModel()
    model.p = pyo.Param(initialize=2.0, mutable=True)
    model.x = pyo.Var(bounds=(0, model.p))
    model.c = pyo.Constraint(expr=LinearExpression(linear_coefs=[model.p], linear_vars=[model.x]) <= 3 * model.p)
    model.obj = pyo.Objective(expr=model.p * model.x + model.p**2 * model.x**2)
    for value in (2.0, 5.0):
        model.p.set_value(value)
        program = compile(model)
        assert program.A.toarray() == [[value]]
        assert program.row_upper == [3 * value]
        assert program.upper == [value]
        assert program.c == [value]
        assert program.P.toarray() == [[2 * value**2]]


def test_inactive_parts_are_ignored_and_unowned_variables_found():
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    model.off = pyo.Block()
    model.off.y = pyo.Var(bounds=(0, 1))
    model.off.c = pyo.Constraint(expr=model.off.y >= 2)
    model.off.deactivate()
    model.c = pyo.Constraint([1, 2], rule=lambda m, i: m.x + m.off.y <= i)
    model.c[1].deactivate()
    model.again = pyo.Reference(model.c)
    program = compile(model)
    assert program.row_names() == ["c[2]"]
    assert program.variable_names() == ["x", "off.y"]
    assert program.objective(np.array([3.0, 4.0])) == 0.0
    with pytest.raises(FormulationError, match="inactive or was added later"):
        program.row(model.c[1])


def test_constant_rows_are_kept_and_fixed_variables_have_no_column():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(initialize=2.0)
    model.y = pyo.Var()
    model.x.fix()
    model.c = pyo.Constraint(expr=3 * model.x <= 5)
    model.d = pyo.Constraint(expr=model.x * model.y <= 8)
    model.never = pyo.Constraint(expr=pyo.Constraint.Infeasible)
    program = compile(model)
    assert program.empty_rows.tolist() == [True, False, True]
    assert program.A.toarray().tolist() == [[0.0], [2.0], [0.0]]
    assert program.row_upper[0] == -1.0
    assert "'c' has no free variable and is false" in program.impossible
    with pytest.raises(FormulationError, match="'x' is fixed"):
        program.column(model.x)


def _refused(build):
    model = pyo.ConcreteModel()
    model.x = pyo.Var([1, 2], bounds=(0, 1))
    build(model, model.x)
    with pytest.raises(FormulationError) as error:
        compile(model)
    return str(error.value)


def test_what_cannot_be_taken_is_refused_by_name():
    def put(name, part):
        return lambda m, x: setattr(m, name, part(m, x))

    said = _refused(put("curve", lambda m, x: pyo.Constraint(expr=pyo.exp(x[1]) + x[2] <= 2)))
    assert "'curve' is nonlinear" in said
    assert "exp(x[1])" in said
    said = _refused(put("disc", lambda m, x: pyo.Constraint(expr=x[1] ** 2 + x[2] ** 2 <= 1)))
    assert "'disc' is quadratic" in said
    assert "linear constraints" in said
    said = _refused(put("cost", lambda m, x: pyo.Objective(expr=x[1] ** 3)))
    assert "'cost' is more than quadratic" in said
    assert "'kinds'" in _refused(put("kinds", lambda m, x: pyo.SOSConstraint(var=x, sos=1)))
    said = _refused(put("u", lambda m, x: pyo.Constraint(expr=float("nan") * x[1] + x[2] <= 1)))
    assert "'u' has a coefficient that is nan" in said
    assert "takes its values from" in _refused(put("v", lambda m, x: pyo.Var(domain=pyo.Set(initialize=[1, 5, 7]))))

    def two(m, x):
        m.a = pyo.Objective(expr=x[1])
        m.b = pyo.Objective(expr=x[2])

    assert "2 active objectives ('a', 'b')" in _refused(two)

    def choice(m, x):
        m.this, m.that = Disjunct(), Disjunct()
        m.either = Disjunction(expr=[m.this, m.that])

    assert "Disjunct" in _refused(choice)

    def fixed(m, x):
        m.f = pyo.Var()
        m.f.fixed = True
        m.c = pyo.Constraint(expr=m.f + x[1] == 0)

    assert "'f' is fixed but has no value" in _refused(fixed)

    def empty(m, x):
        m.p = pyo.Param(mutable=True)
        m.c = pyo.Constraint(expr=m.p * x[1] <= 0)

    assert "'p' has no value" in _refused(empty)


def test_another_models_variable_is_unknown():
    model, other = pyo.ConcreteModel("mine"), pyo.ConcreteModel()
    model.x, other.x = pyo.Var(), pyo.Var()
    with pytest.raises(FormulationError, match="'x' is not in the program 'mine'"):
        compile(model).columns([other.x])


def test_a_large_model_is_read_quickly():
    n = 4000
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2 * n), bounds=(0, 1))
    x = list(model.x.values())
    model.c = pyo.Constraint(
        range(n),
        rule=lambda m, i: (0, LinearExpression(linear_coefs=[1.0, -1.0], linear_vars=[x[i], x[2 * n - 1 - i]]), 0),
    )
    model.obj = pyo.Objective(expr=sum(v + 0.5 * v**2 for v in x))
    compile(model)
    start = time.perf_counter()
    program = compile(model)
    spent = time.perf_counter() - start
    assert program.A.nnz == 2 * n
    assert program.P.nnz == 2 * n
    assert spent < 1.0  # measured 0.03 s; the limit leaves room for a busy machine
