"""Programs whose mutable Params stay symbols: the same arrays as those compiled anew with other values."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyomo.core.expr.numeric_expr import LinearExpression

from mktopt.errors import FormulationError
from mktopt.solvers import compile
from mktopt.solvers.reading.parametric import compile_parametric


def _model(values):
    """Three variables, one of them fixed, and Params of every make."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), initialize=0.5)
    model.f = pyo.Var(initialize=values[0])
    model.f.fix()
    model.p = pyo.Param(initialize=values[1], mutable=True)
    model.q = pyo.Param(["a", "b", "c"], initialize=dict(zip("abc", values[2:5], strict=True)), mutable=True)
    model.still = pyo.Param(initialize=3.0)
    model.twice = pyo.Expression(expr=2 * model.q["b"] + 1)
    return model


# Ways in which a number may hold parameters; `f` is the fixed variable.
_NUMBERS = [
    lambda m: 2.0,
    lambda m: m.p,
    lambda m: -m.q["a"],
    lambda m: 2 * m.p + 1,
    lambda m: m.q["b"] / 4,
    lambda m: m.still * m.p,
    lambda m: m.twice,
    lambda m: m.p * m.f,
    lambda m: m.p - m.p + 3,
    lambda m: m.f * (m.q["a"] - 2),
    lambda m: m.p + m.q["a"] - 0.5 * m.q["b"],
    lambda m: m.f**2 - m.p,
    lambda m: pyo.exp(m.f) * m.p,
    lambda m: 0 * m.p,
]
_number = st.sampled_from(_NUMBERS)
# Ways in which it may stand with variables x, y and another number.
_PLACES = [
    lambda a, b, x, y: a * x + b,
    lambda a, b, x, y: a * x * y,
    lambda a, b, x, y: x * (a * y) - b,
    lambda a, b, x, y: a * x**2 + b * x,
    lambda a, b, x, y: (x + 2) * (a * y + b),
    lambda a, b, x, y: -(x * y - a) / 2,
    lambda a, b, x, y: (x - y + 3) ** 2 * 0.5 + a * (x - y) - b,
    lambda a, b, x, y: a + 3 * (b - x),
    lambda a, b, x, y: a * x - a * x + y,
    lambda a, b, x, y: 2 * pyo.log(9 + x) + a * y,
    lambda a, b, x, y: a * pyo.log(9 + x - y) + b,
    lambda a, b, x, y: pyo.log10(60 + a + x) / 2,
    lambda a, b, x, y: -pyo.log(60 - a * 0.1 + 3 * x + y) * 3,
    lambda a, b, x, y: LinearExpression(constant=a, linear_coefs=[b, 1.5], linear_vars=[x, y]),
]
_term = st.tuples(st.sampled_from(_PLACES), _number, _number, st.integers(0, 2), st.integers(0, 2))
_sum = st.lists(_term, min_size=1, max_size=4)
_values = st.lists(st.integers(-4, 4).map(float), min_size=5, max_size=5)


def _written(model, terms):
    return sum(place(a(model), b(model), model.x[i], model.x[j]) for place, a, b, i, j in terms)


@given(
    _values,
    _values,
    _sum,
    st.lists(st.tuples(_sum, _number, st.sampled_from(["<=", ">=", "==", "range", "sides"])), max_size=3),
    st.lists(st.sampled_from([*_NUMBERS[:6], _NUMBERS[10]]), min_size=2, max_size=2),
)
def test_other_values_give_what_a_new_compilation_gives(now, later, objective, rows, bounds):
    model = _model(now)
    model.o = pyo.Objective(expr=_written(model, objective), sense=pyo.maximize)
    model.c = pyo.ConstraintList()
    for terms, limit, kind in rows:
        body, number = _written(model, terms), limit(model)
        if kind == "range" and number.__class__ is not float and number.is_potentially_variable():
            kind = "sides"
        model.c.add(
            {
                "<=": lambda body=body, number=number: body <= number,
                ">=": lambda body=body, number=number: body >= number,
                "==": lambda body=body, number=number: number == body,
                "range": lambda body=body, number=number: (number, body, number + 5),
                "sides": lambda body=body, number=number: body + model.x[0] <= number + 2 * model.x[1],
            }[kind]()
        )
    model.x[0].setlb(bounds[0](model))
    model.x[1].setub(bounds[1](model))
    before = {key: entry.value for key, entry in model.q.items()}
    parametric = compile_parametric(model)
    assert {key: entry.value for key, entry in model.q.items()} == before
    _same(parametric.program, compile(model))
    _same(parametric.at(parametric.theta), parametric.program, exactly=True)

    model.p.set_value(later[1])
    for key, value in zip("abc", later[2:], strict=True):
        model.q[key].set_value(value)
    assert set(parametric.index) <= {"p", "q"}
    theta = np.zeros(len(parametric.theta))
    for name, keys in parametric.index.items():
        component = model.component(name)
        for k, key in enumerate(keys):
            theta[parametric.start[name] + k] = component[key].value
    _same(parametric.at(theta), compile(model))
    for name, matrix in parametric.maps.items():
        assert matrix.shape == (len(parametric.base[name]), len(theta))
        assert not np.diff(matrix.indptr)[np.isinf(parametric.base[name])].any()
        assert matrix.nnz


def _same(one, other, exactly=False):
    """Equal, whatever structural zeros one of them has."""
    close = np.testing.assert_array_equal if exactly else _close
    for name in ("c", "row_lower", "row_upper", "lower", "upper", "constant"):
        close(getattr(one, name), getattr(other, name), err_msg=name)
    close(one.A.toarray(), other.A.toarray())
    close(*(np.zeros((one.n, one.n)) if item.P is None else item.P.toarray() for item in (one, other)))
    assert one.remainder is None
    assert other.remainder is None
    cubes = [_dense(item) for item in (one, other)]
    close(*cubes)
    logs = [_logs(item) for item in (one, other)]
    assert len(logs[0]) == len(logs[1])
    for a, b in zip(*logs, strict=True):
        close(a, b)


def _close(a, b, err_msg=""):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=err_msg)


def _dense(program):
    cube = np.zeros((program.m, program.n, program.n))
    if program.quadratics is not None:
        q = program.quadratics
        assert (np.diff(q.row) >= 0).all()
        assert (q.first <= q.second).all()
        assert len({*zip(q.row, q.first, q.second, strict=True)}) == len(q.row)
        cube[q.row, q.first, q.second] = q.coef
    return cube


def _logs(program):
    if program.logs is None:
        return []
    logs = program.logs
    rows = np.c_[logs.row, logs.coef, logs.M.toarray(), logs.offset]
    return [row for row in rows if row[1] != 0.0]


def test_places_in_theta_and_targets():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2))
    model.grid = pyo.Block()
    model.grid.rating = pyo.Param([3, 1, 2], initialize={3: 30.0, 1: 10.0, 2: np.inf}, mutable=True)
    model.slope = pyo.Param(initialize=0.0, mutable=True)
    model.idle = pyo.Param(initialize=1.0, mutable=True)
    model.gone = pyo.Param(initialize=1.0, mutable=True)
    model.c = pyo.Constraint(expr=(-model.grid.rating[1], model.x[0] - 3, 2 * model.grid.rating[1]))
    model.d = pyo.Constraint(expr=model.x[1] <= model.grid.rating[2])
    model.e = pyo.Constraint(expr=0 * model.gone + model.x[0] >= 1)
    model.o = pyo.Objective(expr=model.slope * model.x[0] ** 2 + model.slope * model.x[0] * model.x[1] + model.x[1])
    parametric = compile_parametric(model)
    assert parametric.index == {"grid.rating": [3, 1, 2], "slope": [None]}
    np.testing.assert_array_equal(parametric.theta[parametric.start["grid.rating"] :][:3], [30.0, 10.0, np.inf])
    assert sorted(parametric.maps) == ["P", "row_lower", "row_upper"]
    # The matrix keeps its places although the slope is zero.
    np.testing.assert_array_equal(parametric.program.P.data, np.zeros(3))
    np.testing.assert_array_equal(parametric.program.row_upper, [23.0, np.inf, np.inf])
    np.testing.assert_array_equal(parametric.base["row_upper"], [3.0, 0.0, np.inf])
    np.testing.assert_array_equal(parametric.base["row_lower"], [3.0, -np.inf, 1.0])
    theta = parametric.theta.copy()
    theta[parametric.start["slope"]] = 2.0
    np.testing.assert_array_equal(parametric.at(theta).P.toarray(), [[4.0, 2.0], [2.0, 0.0]])
    np.testing.assert_array_equal(parametric.program.P.data, np.zeros(3))
    with pytest.raises(FormulationError, match="4 parameter values"):
        parametric.at([1.0])


def test_every_key_of_a_parameter_has_a_place_also_one_that_only_has_the_default():
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    model.p = pyo.Param([5, 2, 7], initialize={2: 4.0}, default=1.5, mutable=True)
    model.c = pyo.Constraint(expr=model.p[7] * model.x <= 1)
    parametric = compile_parametric(model)
    assert parametric.index == {"p": [5, 2, 7]}
    np.testing.assert_array_equal(parametric.theta, [1.5, 4.0, 1.5])
    assert parametric.maps["A"].indices == [2]


def test_coefficients_that_are_zero_now_stay_in_rows_products_and_logarithms():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2))
    model.p = pyo.Param(range(4), initialize=0.0, mutable=True)
    p, x = model.p, model.x
    model.c = pyo.Constraint(expr=p[0] * x[0] + x[1] - x[1] + p[1] * x[0] * x[1] <= 1)
    model.o = pyo.Objective(expr=p[2] * pyo.log(x[0] + 2) + pyo.log(p[3] * x[0] + x[1] + 2), sense=pyo.maximize)
    parametric = compile_parametric(model)
    program = parametric.program
    assert (program.A.nnz, len(program.quadratics.coef), len(program.logs.coef), program.logs.M.nnz) == (1, 1, 2, 3)
    assert sorted(parametric.maps) == ["A", "log_M", "log_coef", "quadratics"]
    other = parametric.at([3.0, 4.0, 5.0, 6.0])
    assert (other.A.data, other.quadratics.coef) == ([3.0], [4.0])
    np.testing.assert_array_equal(np.sort(other.logs.coef), [1.0, 5.0])
    np.testing.assert_array_equal(np.sort(other.logs.M.data), [1.0, 1.0, 6.0])


def test_a_bound_beside_a_domain_is_affine_where_the_domain_of_the_parameter_says_so():
    model = pyo.ConcreteModel()
    model.p = pyo.Param(initialize=2.0, mutable=True, within=pyo.NonNegativeReals)
    model.x = pyo.Var(domain=pyo.NonNegativeReals, bounds=(2 * model.p + 1, 9 * model.p))
    parametric = compile_parametric(model)
    changed = parametric.at([4.0])
    assert (changed.lower, changed.upper) == ([9.0], [36.0])
    model.y = pyo.Var(domain=pyo.NonNegativeReals, bounds=(model.p - 1, None))
    with pytest.raises(FormulationError, match=r"the lower bound of variable 'y'.*'p' must enter affinely"):
        compile_parametric(model)
    model.del_component("y")
    model.z = pyo.Var(domain=pyo.Binary, bounds=(None, model.p))
    with pytest.raises(FormulationError, match=r"the upper bound of variable 'z'.*'p' must enter affinely"):
        compile_parametric(model)


_REFUSED = {
    "product": lambda m: m.p * m.q[1] * m.x,
    "of a variable and two": lambda m: m.p * (m.q[1] * m.x + 1),
    "square": lambda m: m.p**2 * m.x,
    "squared sum": lambda m: (m.x - m.p) ** 2,
    "quotient": lambda m: m.x / m.p,
    "one over": lambda m: (1 / m.p) * m.x**2,
    "exponential": lambda m: pyo.exp(m.p) + m.x,
    "logarithm": lambda m: pyo.log(m.p) * m.x,
    "logarithm of a fixed": lambda m: pyo.log(m.p * m.f) + m.x,
    "largest": lambda m: pyo.Expr_if(m.p >= 1, m.p, 1) * m.x,
    "exponent": lambda m: (m.x + 2) ** m.p,
    "remainder": lambda m: pyo.sin(m.p * m.x),
    "multiple of it": lambda m: m.p * pyo.sin(m.x),
    "weight": lambda m: m.p * pyo.log(m.q[1] * m.x + 5) * m.q[1],
    "a list": lambda m: LinearExpression(linear_coefs=[m.p * m.q[1]], linear_vars=[m.x]),
}


@pytest.mark.parametrize("form", _REFUSED)
@pytest.mark.parametrize("place", ["row", "objective"])
def test_parameters_that_do_not_enter_affinely_are_refused_by_name(form, place):
    model = pyo.ConcreteModel()
    model.x, model.f = pyo.Var(), pyo.Var(initialize=2.0)
    model.f.fix()
    model.p = pyo.Param(initialize=1.5, mutable=True)
    model.q = pyo.Param([1, 2], initialize=2.5, mutable=True)
    expression = _REFUSED[form](model)
    if place == "row":
        model.other = pyo.Constraint(expr=model.x <= 3)
        model.c = pyo.Constraint(expr=expression <= 2)
    else:
        model.o = pyo.Objective(expr=expression)
    compile(model)
    with pytest.raises(FormulationError) as error:
        compile_parametric(model)
    said = str(error.value)
    assert said.startswith("constraint 'c'" if place == "row" else "objective 'o'")
    assert "'p'" in said or "'q[1]'" in said
    assert "a mutable Param of its own" in said


def test_limits_and_missing_values_are_refused_by_name():
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    model.p = pyo.Param(initialize=1.5, mutable=True)
    model.c = pyo.Constraint(expr=model.x <= model.p * model.p)
    with pytest.raises(FormulationError, match=r"constraint 'c': the parameter 'p' .*in 'p\*p'"):
        compile_parametric(model)
    model.del_component("c")
    model.empty = pyo.Param(["k"], mutable=True)
    model.d = pyo.Constraint(expr=model.empty["k"] * model.x <= 2)
    with pytest.raises(FormulationError, match=r"'empty\[k\]' has no value"):
        compile_parametric(model)
    model.empty["k"] = np.inf
    with pytest.raises(FormulationError, match="every number of the program must be finite"):
        compile_parametric(model)


def test_a_remainder_without_parameters_is_kept():
    pytest.importorskip("casadi")
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    model.p = pyo.Param(initialize=1.5, mutable=True)
    model.c = pyo.Constraint(expr=pyo.sin(model.x) + model.p * model.x <= 1)
    program = compile_parametric(model).at([4.0])
    np.testing.assert_allclose(program.activity(np.array([0.3])), [np.sin(0.3) + 1.2])


def test_many_parameters_are_read_as_they_stand():
    n = 10_000
    rng = np.random.default_rng(0)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2 * n))
    model.width = pyo.Param(range(2 * n), initialize=lambda m, i: 1.0 + i % 3, mutable=True)
    model.price = pyo.Param(range(2 * n), initialize=dict(enumerate(rng.uniform(size=2 * n))), mutable=True)
    model.slope = pyo.Param(range(2 * n), initialize=0.5, mutable=True)
    model.rating = pyo.Param(range(n), initialize=4.0, mutable=True)
    x = list(model.x.values())
    for variable, width in zip(x, model.width.values(), strict=True):
        variable.setlb(0.0)
        variable.setub(width)
    linear = LinearExpression(linear_coefs=list(model.price.values()), linear_vars=x)
    squares = sum(-0.5 * slope * v * v for slope, v in zip(model.slope.values(), x, strict=True))
    model.o = pyo.Objective(expr=linear + squares, sense=pyo.maximize)

    def row(m, i):
        body = LinearExpression(linear_coefs=[1.0, -1.0], linear_vars=[x[i], x[n + i]])
        return (-m.rating[i], body, m.rating[i])

    model.c = pyo.Constraint(range(n), rule=row)
    parametric = compile_parametric(model)
    assert {name: matrix.nnz for name, matrix in parametric.maps.items()} == {
        "c": 2 * n,
        "P": 2 * n,
        "upper": 2 * n,
        "row_lower": n,
        "row_upper": n,
    }
    _close(parametric.program.c, [entry.value for entry in model.price.values()])
