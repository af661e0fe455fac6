"""Reading Pyomo models into arrays."""

from __future__ import annotations

import gc

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyomo.core.expr.calculus.derivatives import differentiate
from pyomo.core.expr.numeric_expr import LinearExpression
from pyomo.core.expr.visitor import identify_variables
from pyomo.gdp import Disjunct, Disjunction
from pyomo.mpec import Complementarity, complements

from mktopt.errors import FormulationError
from mktopt.solvers import compile, solve


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

    assert "'kinds'" in _refused(put("kinds", lambda m, x: pyo.SOSConstraint(var=x, sos=1)))
    said = _refused(put("u", lambda m, x: pyo.Constraint(expr=float("nan") * x[1] + x[2] <= 1)))
    assert "'u' has a coefficient that is nan" in said
    assert "takes its values from" in _refused(put("v", lambda m, x: pyo.Var(domain=pyo.Set(initialize=[1, 5, 7]))))

    said = _refused(put("o", lambda m, x: pyo.Objective(expr=x[1] + float("inf") * x[2] ** 2)))
    assert "objective 'o' has a coefficient that is inf" in said

    def two(m, x):
        m.a = pyo.Objective(expr=x[1])
        m.b = pyo.Objective(expr=x[2])

    assert "2 active objectives ('a', 'b')" in _refused(two)

    def choice(m, x):
        m.this, m.that = Disjunct(), Disjunct()
        m.either = Disjunction(expr=[m.this, m.that])

    said = _refused(choice)
    assert "Disjunct" in said
    assert "deactivate it or write it as ordinary constraints" in said

    def complementary(m, x):
        m.pair = Complementarity(expr=complements(x[1] >= 0, x[2] >= 0))

    assert "'pair' (Complementarity)" in _refused(complementary)

    def fixed(m, x):
        m.f = pyo.Var()
        m.f.fixed = True
        m.c = pyo.Constraint(expr=m.f + x[1] == 0)

    assert "'f' is fixed but has no value" in _refused(fixed)

    def empty(m, x):
        m.p = pyo.Param(mutable=True)
        m.c = pyo.Constraint(expr=m.p * x[1] <= 0)

    assert "constraint 'c': 'p' has no value" in _refused(empty)


_NO_NUMBER = {
    "division by a fixed zero": (lambda m: m.x[1] / m.f, "divides by zero"),
    "division by a zero parameter": (lambda m: m.x[1] / m.p, "'1/p' cannot be evaluated"),
    "power of zero": (lambda m: m.f**-1 + m.x[1], "'f**(-1)' cannot be evaluated"),
    "logarithm of a fixed zero": (lambda m: m.x[1] + pyo.log(m.f), "is no real number"),
    "logarithm of what cancels": (lambda m: pyo.log(m.x[1] - m.x[1] - 3), "has the logarithm of -3"),
    "root of a negative": (lambda m: (m.f - 1) ** 0.5 * m.x[1], "is no real number"),
    "empty expression": (lambda m: m.nothing + m.x[1], "expression 'nothing' has no value"),
    "empty variable": (lambda m: m.x[1] * (m.x[2] + m.g), "variable 'g' is fixed but has no value"),
    "infinite logarithm": (lambda m: pyo.log(float("inf") * m.x[1]), "has a coefficient that is inf"),
}


@pytest.mark.parametrize("form", _NO_NUMBER)
@pytest.mark.parametrize("place", ["row", "objective"])
def test_what_has_no_value_is_refused_by_name(form, place):
    write, problem = _NO_NUMBER[form]
    model = pyo.ConcreteModel()
    model.x = pyo.Var([1, 2])
    model.f, model.g = pyo.Var(initialize=0.0), pyo.Var()
    model.f.fix()
    model.g.fixed = form == "empty variable"
    model.p = pyo.Param(initialize=0.0, mutable=True)
    model.nothing = pyo.Expression()
    model.fine = pyo.Constraint(expr=model.x[1] <= 1)
    if place == "row":
        model.bad = pyo.Constraint(expr=write(model) <= 1)
    else:
        model.bad = pyo.Objective(expr=write(model))
    with pytest.raises(FormulationError) as error:
        compile(model)
    assert problem in str(error.value)
    assert f"'{'g' if form == 'empty variable' else 'bad'}'" in str(error.value)


def test_a_range_with_a_variable_limit_is_refused_by_name():
    model = pyo.ConcreteModel()
    model.x = pyo.Var([1, 2])
    model.between = pyo.Constraint(expr=pyo.inequality(model.x[1], model.x[2], 3))
    with pytest.raises(FormulationError, match="'between'"):
        compile(model)


# Curved forms in variables x, y, f (fixed) and a number a; what they are read as: (quadratic, logarithms, remainder).
_CURVED = {
    "square": (lambda a, x, y, f: a * x**2 + y, (1, 0, 0)),
    "product": (lambda a, x, y, f: x * y * a - x * y / 3, (1, 0, 0)),
    "same twice": (lambda a, x, y, f: x * y + y * x + x * x, (2, 0, 0)),
    "cancelled": (lambda a, x, y, f: x * y - y * x + y**2 - y * y + x, (0, 0, 0)),
    "with fixed": (lambda a, x, y, f: f * x * y + f**2 * x + f**3 + x * f, (1, 0, 0)),
    "deep in fixed": (lambda a, x, y, f: f * (f * (x + 1) * (y + f)) - (f * x) ** 2, (2, 0, 0)),
    "by a fixed": (lambda a, x, y, f: (x * y + 3) / (f + 9) + (x * f) / 2, (1, 0, 0)),
    "brackets": (lambda a, x, y, f: (x + 2 * y - a) * (y - f) + (x - y + 1) ** 2, (3, 0, 0)),
    "powers 0 and 1": (lambda a, x, y, f: (x * y + 1) ** 1 + (20 + x + y) ** 0, (1, 0, 0)),
    "logarithm": (lambda a, x, y, f: 2 * pyo.log(20 + x) - a * pyo.log10(30 - 2 * y + x) / 2, (0, 2, 0)),
    "logarithm of fixed": (lambda a, x, y, f: f * pyo.log(20 + f) + pyo.log(20.0) + x, (0, 0, 0)),
    "logarithm with fixed": (lambda a, x, y, f: -(pyo.log(20 + x * f) * (f + 3)) / 3, (0, 1, 0)),
    "logarithm of constant": (lambda a, x, y, f: pyo.log(20 + x - x) + y, (0, 0, 0)),
    "logarithm of square": (lambda a, x, y, f: pyo.log(20 + x**2) + x**2, (1, 0, 1)),
    "nothing of it": (lambda a, x, y, f: 0 * pyo.exp(x) + y, (0, 0, 0)),
    "exponential": (lambda a, x, y, f: a * pyo.exp(x / 4) - pyo.sin(y) * f + pyo.cos(f), (0, 0, 1)),
    "cube": (lambda a, x, y, f: x**3 + x * y * (x + 1) + y + y**2, (1, 0, 1)),
    "quotient": (lambda a, x, y, f: (x + 1) / (20 + y) + x * y, (1, 0, 1)),
    "root": (lambda a, x, y, f: pyo.sqrt(20 + x + y) - pyo.log(20 + x), (0, 1, 1)),
    "power of fixed": (lambda a, x, y, f: (f + 9) ** x + (20 + x) ** f, (0, 0, 1)),
}


@pytest.mark.parametrize("form", _CURVED)
@pytest.mark.parametrize("named", [False, True])
def test_what_curved_forms_are_read_as(form, named):
    write, (squares, logs, rest) = _CURVED[form]
    if rest:
        pytest.importorskip("casadi")
    for place in ("row", "objective"):
        model = pyo.ConcreteModel()
        model.x, model.y, model.f = pyo.Var(), pyo.Var(), pyo.Var(initialize=1.25)
        model.f.fix()
        body = write(3.0, model.x, model.y, model.f)
        if named:
            model.e = pyo.Expression(expr=body)
            body = 2 - model.e
        if place == "row":
            model.c = pyo.Constraint(expr=body <= model.x)
        else:
            model.o = pyo.Objective(expr=body)
        program = compile(model)
        if place == "row":
            assert (0 if program.quadratics is None else len(program.quadratics.coef)) == squares
        else:
            assert (0 if program.P is None else np.triu(program.P.toarray()).astype(bool).sum()) == squares
        assert (0 if program.logs is None else len(program.logs.coef)) == logs
        assert (0 if program.remainder is None else len(program.remainder.rows)) == rest
        _says_what_pyomo_says(model, program, np.array([0.7, -0.3]))


def _says_what_pyomo_says(model, program, point):
    """Values and gradients of the objective and of all rows, against Pyomo's own."""
    for variable, value in zip(program.variables, point, strict=True):
        variable.set_value(value)
    objectives = list(model.component_data_objects(pyo.Objective, active=True))
    bodies = [row.to_bounded_expression() for row in program.rows]
    activity = program.activity(point)
    for i, (low, body, high) in enumerate(bodies):
        for limit, mine in ((low, program.row_lower[i]), (high, program.row_upper[i])):
            if limit is None:
                assert np.isinf(mine)
            else:
                assert activity[i] - mine == pytest.approx(pyo.value(body) - pyo.value(limit), rel=1e-9, abs=1e-9)
        _close(program.jacobian(point).toarray()[i], _gradient(body, program.variables))
    assert program.objective(point) == pytest.approx(sum(pyo.value(o) for o in objectives), rel=1e-9, abs=1e-9)
    if objectives:
        _close(program.gradient(point), _gradient(objectives[0].expr, program.variables))


def _gradient(expression, variables):
    inside = {id(v) for v in identify_variables(expression)} if hasattr(expression, "args") else {id(expression)}
    used = [v for v in variables if id(v) in inside]
    slopes = dict(zip(map(id, used), differentiate(expression, wrt_list=used), strict=True)) if used else {}
    return np.array([float(slopes.get(id(v), 0.0)) for v in variables])


def _close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


_form = st.tuples(st.sampled_from(sorted(_CURVED)), st.integers(-3, 3), *[st.integers(0, 3)] * 3)
_forms = st.lists(_form, min_size=1, max_size=3)
_kinds = st.sampled_from(["<=", ">=", "==", "turned", "range", "both sides"])


@given(
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.lists(st.tuples(_forms, _kinds, st.booleans()), max_size=3),
    st.none() | _forms,
    st.lists(st.integers(-8, 8), min_size=8, max_size=8),
)
def test_programs_say_what_the_expressions_say(fixed, rows, objective, numbers):
    if any(_CURVED[form[0]][1][2] for forms in [*(row[0] for row in rows), objective or []] for form in forms):
        pytest.importorskip("casadi")
    model = pyo.ConcreteModel()
    model.unused = pyo.Var()
    model.x = pyo.Var(range(4), initialize=lambda _, i: numbers[i] / 8)
    model.f = pyo.Var(initialize=0.75)
    model.f.fix()
    for i, flag in enumerate(fixed):
        if flag:
            model.x[i].fix()

    def written(forms):
        x = model.x
        return sum(_CURVED[name][0](a, x[i], x[j], x[k] if x[k].fixed else model.f) for name, a, i, j, k in forms)

    model.c, model.e = pyo.ConstraintList(), pyo.Expression(range(len(rows)))
    for k, (forms, kind, named) in enumerate(rows):
        body = written(forms)
        if named:
            model.e[k] = body
            body = model.e[k] - 2
        model.c.add(
            {
                "<=": lambda body=body: body <= 2,
                ">=": lambda body=body: body >= 2,
                "==": lambda body=body: body == 2,
                "turned": lambda body=body: 2 == body,
                "range": lambda body=body: (-1, body, 2),
                "both sides": lambda body=body: body >= model.x[0] ** 2 + 1,
            }[kind]()
        )
    if objective is not None:
        model.o = pyo.Objective(expr=written(objective), sense=pyo.maximize)
    program = compile(model)
    assert program.n == 1 + 4 - sum(fixed)
    _says_what_pyomo_says(model, program, np.array(numbers[: program.n]) / 8)


def test_nonsmooth_and_unowned_parts_do_not_crash():
    pytest.importorskip("casadi")
    model = pyo.ConcreteModel()
    model.x = pyo.Var([1, 2])
    model.off = pyo.Block()
    model.off.y, model.off.z = pyo.Var(), pyo.Var(initialize=2.0)
    model.off.z.fix()
    model.off.deactivate()
    model.c = pyo.Constraint(expr=pyo.exp(model.off.y * model.off.z) + model.x[1] <= 1)
    model.d = pyo.Constraint(expr=abs(model.x[1]) + pyo.log(3 + model.off.z) <= 5)
    program = compile(model)
    assert program.variable_names() == ["x[1]", "x[2]", "off.y"]
    _close(program.activity(np.array([-0.5, 9.0, 0.25])), [np.exp(0.5) - 0.5, 0.5])
    _close(program.values(np.zeros(3), [model.off.z]), [2.0])
    model.e = pyo.Constraint(expr=pyo.Expr_if(model.x[1] >= 0, model.x[1], model.x[2] ** 3) <= 1)
    with pytest.raises(FormulationError, match=r"'e'.*Expr_if"):
        compile(model)


def test_deeply_nested_products_are_read_or_left_to_the_remainder():
    pytest.importorskip("casadi")
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), initialize=0.9)
    model.f = pyo.Var(initialize=1.01)
    model.f.fix()
    scaled, power = model.x[0] + 1, 1.0
    for _ in range(30):
        scaled = model.f * (scaled + model.x[1])
    for _ in range(400):
        power = power * (model.x[0] + 0.1 * model.x[2])
    model.c = pyo.Constraint(expr=scaled <= 3)
    model.d = pyo.Constraint(expr=power <= 3)
    program = compile(model)
    assert program.A.nnz == 2
    assert list(program.remainder.rows) == [1]
    _says_what_pyomo_says(model, program, np.array([0.8, 0.5, 0.3]))


def test_another_models_variable_is_unknown():
    model, other = pyo.ConcreteModel("mine"), pyo.ConcreteModel()
    model.x, other.x = pyo.Var(), pyo.Var()
    with pytest.raises(FormulationError, match="'x' is not in the program 'mine'"):
        compile(model).columns([other.x])


def test_a_large_model_is_read_as_it_stands():
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
    program = compile(model)
    assert program.A.nnz == 2 * n
    assert program.P.nnz == 2 * n


def test_ten_thousand_cones_are_read_as_they_stand():
    n = 10_000
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(4 * n))
    x = list(model.x.values())
    model.flat = pyo.Constraint(
        range(4 * n),
        rule=lambda m, i: (
            0,
            LinearExpression(linear_coefs=[1.0, -1.0, 2.0], linear_vars=[x[i], x[i - 1], x[i - 2]]),
            0,
        ),
    )
    model.cone = pyo.Constraint(
        range(n), rule=lambda m, i: x[i] ** 2 + x[n + i] * x[n + i] <= 2 * x[2 * n + i] * x[3 * n + i]
    )
    program = compile(model)
    assert program.A.nnz == 12 * n
    assert len(program.quadratics.coef) == 3 * n
    np.testing.assert_array_equal(np.unique(program.quadratics.coef), [-2.0, 1.0])


@pytest.mark.parametrize("make", [
    lambda x: pyo.exp(0.0 * x[0] + x[1]) + x[0] <= 9,
    lambda x: pyo.log(0.0 * x[0] + x[1]) + x[0] <= 3,
    lambda x: (0.0 * x[0] + x[1]) ** 3 + x[0] <= 9,
    lambda x: x[0] / (0.0 * x[0] + x[1]) <= 1,
    lambda x: x[0] ** (0.0 * x[0] + x[1]) <= 9,
])  # fmt: skip
def test_a_free_variable_times_zero_needs_no_value(make):
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], bounds=(0, 20))
    model.x[1].fix(2.0)
    model.row = pyo.Constraint(expr=make(model.x))
    model.obj = pyo.Objective(expr=model.x[0], sense=pyo.maximize)
    program = compile(model)
    x = solve(program).x
    assert program.activity(x)[0] == pytest.approx(program.row_upper[0])  # it binds, whatever it was taken for
    model.x[0].set_value(float(x[0]))
    assert pyo.value(model.row.body) == pytest.approx(pyo.value(model.row.upper), abs=1e-6)


def test_a_program_remembers_the_names_of_a_model_that_nobody_else_holds():
    def made():
        model = pyo.ConcreteModel("short-lived")
        model.x = pyo.Var([1, 2], bounds=(0, 1))
        model.row = pyo.Constraint(expr=model.x[1] + model.x[2] <= 1)
        return compile(model)

    program = made()
    gc.collect()
    assert program.variable_names() == ["x[1]", "x[2]"]
    assert program.row_names() == ["row"]


def test_the_suffix_of_scaling_factors_tells_units():
    model = pyo.ConcreteModel()
    model.x = pyo.Var([1, 2], initialize=0.0)
    model.held = pyo.Var(initialize=1.0)
    model.held.fix()
    model.part = pyo.Block()
    model.part.y = pyo.Var()
    model.row = pyo.Constraint(expr=model.x[1] + model.x[2] + model.part.y >= model.held)
    model.goal = pyo.Objective(expr=model.x[1] + model.x[2] + model.part.y)
    assert compile(model).units is None
    model.scaling_factor = pyo.Suffix(direction=pyo.Suffix.EXPORT)
    model.scaling_factor[model.x] = 0.01
    model.scaling_factor[model.x[2]] = 0.001
    model.scaling_factor[model.row] = 7.0
    model.scaling_factor[model.held] = 3.0
    model.part.scaling_factor = pyo.Suffix(direction=pyo.Suffix.LOCAL)
    assert compile(model).units == pytest.approx([100.0, 1000.0, np.nan], nan_ok=True)
    model.part.scaling_factor[model.part.y] = 4.0
    assert compile(model).units == pytest.approx([100.0, 1000.0, 0.25])
    model.scaling_factor.deactivate()
    assert compile(model).units == pytest.approx([np.nan, np.nan, 0.25], nan_ok=True)
    model.part.scaling_factor[model.part.y] = 0.0
    with pytest.raises(FormulationError, match=r"part\.y the factor 0\.0"):
        compile(model)
