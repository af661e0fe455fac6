"""Why there is no answer where rows are curved: feasibility, conflicts, relaxations, growth; and carried rows."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mktopt.solvers import Has, Stopped, compile, diagnose, is_feasible, solve, unbounded_direction
from mktopt.solvers.diagnosis.carried import carried
from mktopt.solvers.diagnosis.elastic import elastic, sides_of, without_objective

SOLVERS = [None, "clarabel", "ipopt"]


def ball(radius: float = 2.0, least: float = 3.0):
    """x² + y² <= radius² and x + y >= least, which needs least <= √2 radius."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], bounds=(-10, 10))
    model.far = pyo.Var(bounds=(0, 5))
    model.ball = pyo.Constraint(expr=model.x[0] ** 2 + model.x[1] ** 2 <= radius**2)
    model.least = pyo.Constraint(expr=model.x[0] + model.x[1] >= least)
    model.loose = pyo.Constraint(expr=model.x[0] + model.far <= 50)
    model.o = pyo.Objective(expr=model.x[0] + 2 * model.x[1] + model.far)
    return model


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_ball_that_is_out_of_reach(solver):
    model = ball()
    program = compile(model)
    solution = solve(program, solver)
    assert solution.status.stopped is Stopped.INFEASIBLE
    assert len(solution.attempts) == 1
    assert is_feasible(program) is False
    report = diagnose(program)
    assert {item.name for item in report.conflict} == {"ball", "least"}
    assert report.irreducible and report.curable and not report.local
    # the nearest x + y in the ball is 2√2; but the ball may grow instead, by 4.5 - 4
    assert {item.name: item.amount for item in report.relaxation} == pytest.approx({"least": 3 - 2 * 2**0.5}, rel=1e-4)
    only = diagnose(program, rows=np.array([program.row(model.ball)]), columns=np.zeros(0, dtype=int), conflict=False)
    assert {item.name: item.amount for item in only.relaxation} == pytest.approx({"ball": 0.5}, rel=1e-4)
    assert solve(compile(ball(least=2.8)), solver).status.ok
    assert is_feasible(compile(ball(least=2.8))) is True


@pytest.mark.parametrize("solver", SOLVERS)
def test_logarithms_that_ask_for_too_much(solver):
    """log x + log y >= 2 needs x y >= e²; x + y <= 5 gives 6.25."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], bounds=(0, 10))
    model.logs = pyo.Constraint(expr=pyo.log(model.x[0]) + pyo.log(model.x[1]) >= 2)
    model.sum = pyo.Constraint(expr=model.x[0] + model.x[1] <= 5)
    model.o = pyo.Objective(expr=model.x[0])
    program = compile(model)
    assert program.problem_class == "EXP"
    assert solve(program, solver).status.stopped is Stopped.INFEASIBLE
    report = diagnose(program)
    assert {item.name for item in report.conflict} == {"logs", "sum"}
    assert report.total == pytest.approx(2 - np.log(6.25), rel=1e-4)
    assert {item.name for item in report.relaxation} == {"logs"}


def test_a_cone_does_not_give_way_but_what_meets_it_does():
    """x² <= y z with y, z >= 0 is a cone only as it stands: limits beside it are relaxed, signs are not."""
    model = pyo.ConcreteModel()
    model.x, model.y, model.z = pyo.Var(bounds=(3, None)), pyo.Var(bounds=(0, 2)), pyo.Var(bounds=(0, None))
    model.cone = pyo.Constraint(expr=model.x**2 <= model.y * model.z)
    model.most = pyo.Constraint(expr=model.z <= 4)
    model.o = pyo.Objective(expr=model.z)
    program = compile(model)
    assert program.problem_class == "SOCP"
    assert solve(program).status.stopped is Stopped.INFEASIBLE
    report = diagnose(program)
    assert report.curable and report.irreducible
    assert {item.name: item.amount for item in report.relaxation} == pytest.approx({"x": 3 - 8**0.5}, rel=1e-4)
    assert {str(item) for item in report.conflict} == {
        "constraint 'cone' <= 0", "constraint 'most' <= 4", "variable 'x' >= 3", "variable 'y' <= 2",
    }  # fmt: skip
    report = diagnose(program, columns=np.zeros(0, dtype=int))
    assert {item.name: item.amount for item in report.relaxation} == pytest.approx({"most": 0.5}, rel=1e-4)


def test_the_linear_rows_alone_may_be_in_conflict():
    model = ball(radius=9.0)
    model.never = pyo.Constraint(expr=model.x[0] + model.x[1] <= 1)
    for bend in (False, True):
        if bend:
            model.bent = pyo.Constraint(expr=model.x[0] * model.x[1] >= -1)
        program = compile(model)
        assert bool(program.not_convex) == bend
        assert is_feasible(program) is False
        report = diagnose(program)
        assert {item.name for item in report.conflict} == {"least", "never"}
        assert report.irreducible
        assert solve(program).status.stopped is Stopped.INFEASIBLE


def test_what_is_not_convex_is_diagnosed_locally():
    """x y >= 4 where x, y <= 1: the product lacks 3."""
    model = pyo.ConcreteModel()
    model.x, model.y, model.w = pyo.Var(bounds=(-1, 1)), pyo.Var(bounds=(-1, 1)), pyo.Var(bounds=(0, 1))
    model.product = pyo.Constraint(expr=model.x * model.y >= 4)
    model.bent = pyo.Constraint(expr=pyo.sin(model.w) + model.x**3 >= -5)
    model.o = pyo.Objective(expr=model.x + model.w)
    program = compile(model)
    assert is_feasible(program) is None
    assert solve(program).status.stopped is Stopped.INFEASIBLE
    rows, none = np.array([program.row(model.product)]), np.zeros(0, dtype=int)
    report = diagnose(program, rows=rows, columns=none)
    assert report.local and not report.irreducible
    assert report.total == pytest.approx(3.0, rel=1e-4)
    assert "found locally" in str(report)


@given(st.integers(0, 2**32 - 1))
def test_a_relaxation_is_enough_and_a_conflict_is_infeasible(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 4))
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(-3, 3))
    model.c = pyo.ConstraintList()
    for _ in range(int(random.integers(1, 3))):
        centre = random.integers(-2, 3, n)
        model.c.add(sum((model.x[j] - int(centre[j])) ** 2 for j in range(n)) <= float(random.integers(1, 4)))
    for _ in range(int(random.integers(0, 3))):
        a = random.integers(-2, 3, n)
        a[0] = a[0] or 1
        model.c.add(sum(int(k) * model.x[j] for j, k in enumerate(a)) >= float(random.integers(-2, 5)))
    model.o = pyo.Objective(expr=model.x[0])
    program = compile(model)
    feasible = is_feasible(program)
    report = diagnose(program)
    assume(feasible is False and report.total > 1e-3)
    assert solve(program).status.stopped is Stopped.INFEASIBLE
    assert report.conflict and report.irreducible
    assert is_feasible(_keep(program, report.conflict)) is False
    for k in range(len(report.conflict)):
        assert is_feasible(_keep(program, report.conflict[:k] + report.conflict[k + 1 :])) is not False
    assert is_feasible(_relax(program, report.relaxation, 1.001)) is True
    assert is_feasible(_relax(program, report.relaxation, 0.99)) is False


def _keep(program, members):
    arrays = {name: np.full(program.m, np.inf) for name in ("row_lower", "row_upper")}
    arrays |= {name: np.full(program.n, np.inf) for name in ("lower", "upper")}
    arrays["row_lower"], arrays["lower"] = -arrays["row_lower"], -arrays["lower"]
    for member in members:
        arrays[f"row_{member.side}" if member.kind == "row" else member.side][member.index] = member.limit
    return program.replace(**arrays)


def _relax(program, relaxation, share):
    arrays = {name: getattr(program, name).copy() for name in ("row_lower", "row_upper", "lower", "upper")}
    for item in relaxation:
        name = f"row_{item.side}" if item.member.kind == "row" else item.side
        arrays[name][item.member.index] += (-1.0 if item.side == "lower" else 1.0) * share * item.amount
    return program.replace(**arrays)


# -- growth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_grows_beside_a_curved_row_is_named(solver):
    """x² <= y leaves y free to grow, and x along with it slower: the direction is y's."""
    model = pyo.ConcreteModel()
    model.x, model.y, model.z = pyo.Var(), pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, 1))
    model.bowl = pyo.Constraint(expr=model.x**2 <= model.y)
    model.o = pyo.Objective(expr=model.y + model.z + 0.1 * model.x, sense=pyo.maximize)
    program = compile(model)
    assert {item.name: item.amount for item in unbounded_direction(program)} == pytest.approx({"y": 1.0}, abs=1e-4)
    assert solve(program, solver).status.stopped is Stopped.UNBOUNDED


def test_a_cone_bounds_what_grows_with_it():
    """x² <= y z with z at most one: a direction keeps x still; in x² <= y z with both free all three grow."""
    model = pyo.ConcreteModel()
    model.x, model.y, model.z = pyo.Var(), pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, 1))
    model.cone = pyo.Constraint(expr=model.x**2 <= model.y * model.z)
    model.o = pyo.Objective(expr=model.x - model.y, sense=pyo.maximize)
    assert unbounded_direction(compile(model)) == []
    assert solve(compile(model)).status.ok
    model.z.setub(None)
    growth = {item.name for item in unbounded_direction(compile(model))}
    assert {"x", "z"} <= growth
    assert solve(compile(model)).status.stopped is Stopped.UNBOUNDED


def test_an_end_to_growth_by_a_ball():
    model = ball(least=-9.0)
    model.x.setlb(None)
    assert unbounded_direction(compile(model)) == []
    assert solve(compile(model)).status.has is Has.OPTIMAL


# -- carried rows -----------------------------------------------------------------------------------------------------


def everything():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0.1, 4))
    x = model.x
    model.a = pyo.Constraint(expr=x[0] ** 2 + x[0] * x[1] <= 5)
    model.b = pyo.Constraint(expr=x[0] + x[2] <= 6)
    model.c = pyo.Constraint(expr=pyo.log(x[0] + 1) + 2 * pyo.log(x[2] + 2) + x[1] >= 0)
    model.d = pyo.Constraint(expr=pyo.sin(x[1]) * x[0] + x[2] ** 2 <= 7)
    model.o = pyo.Objective(expr=pyo.log(x[0]) + pyo.cos(x[1]) - x[2], sense=pyo.maximize)
    return compile(model)


def test_carried_rows_keep_their_values_and_derivatives():
    program = everything()
    random = np.random.default_rng(2)
    source = np.array([3, -1, 0, 2, 2, 3, 1])
    import scipy.sparse as sp

    A = sp.csr_array(random.normal(size=(7, 5)))
    other = program.replace(
        A=A, row_lower=np.zeros(7), row_upper=np.ones(7), lower=np.zeros(5), upper=np.ones(5), c=np.zeros(5), P=None,
        integer=np.zeros(5, dtype=bool), **carried(program, source, 2),
    )  # fmt: skip
    for _ in range(3):
        x = random.uniform(0.2, 2.0, 5)
        curved = program.activity(x[:3]) - program.A @ x[:3]
        expected = np.where(source >= 0, curved[source], 0.0)
        np.testing.assert_allclose(other.activity(x) - A @ x, expected, rtol=1e-12, atol=1e-12)
        J = (program.jacobian(x[:3]) - program.A).toarray()
        expected = np.zeros((7, 5))
        expected[:, :3] = np.where(source[:, None] >= 0, J[source], 0.0)
        np.testing.assert_allclose((other.jacobian(x) - A).toarray(), expected, rtol=1e-12, atol=1e-12)
        weights = random.normal(size=7)
        summed = np.bincount(source[source >= 0], weights[source >= 0], program.m)
        found = other.hessian(x, weights).toarray()
        np.testing.assert_allclose(found[:3, :3], program.hessian(x[:3], summed, 0.0).toarray(), atol=1e-12)
        assert not found[3:].any() and not found[:, 3:].any()


def test_carried_rows_are_what_casadi_sees_of_them():
    import casadi

    program = everything()
    other = carried(program, np.array([3, -1, 3]), 2)["remainder"]
    x = casadi.SX.sym("x", 5)
    function = casadi.Function("carried", [x], [other.symbolic(x)])
    point = np.array([0.5, 1.5, 2.0, 7.0, 9.0])
    np.testing.assert_allclose(np.array(function(point)).ravel(), other.value(point), rtol=1e-12)
    k, column = other.jacobian_structure
    dense = np.zeros((2, 5))
    np.add.at(dense, (k, column), other.jacobian_values(point))
    np.testing.assert_allclose(dense, other.jacobian(point).toarray(), rtol=1e-12)
    assert other.rows.tolist() == [0, 2]


def test_without_its_objective_a_program_keeps_the_domain_of_its_logarithms():
    program = everything()
    bare = without_objective(program)
    assert bare.m == program.m + 1
    x = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(bare.activity(x), [*program.activity(x), 0.5])
    assert not bare.gradient(x).any()
    linear = without_objective(program, linear=True)
    assert not linear.curved
    assert linear.m == 2
    sides = sides_of(program)
    stretched = elastic(program, sides, np.ones(len(sides.limit), dtype=bool), np.ones(len(sides.limit)))
    assert stretched.n == program.n + len(sides.limit)
    s = np.zeros(stretched.n)
    s[:3] = x
    assert stretched.objective(s) == 0.0
    assert solve(program).status.has is Has.LOCAL
