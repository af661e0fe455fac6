"""IPOPT through cyipopt and through CasADi: proved answers, statuses, options, warm starts, progress and Ctrl-C."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.errors import SolverError, UnknownNameError
from mktopt.solvers import Has, Status, Stopped, compile, ipopt, solve
from mktopt.solvers.ipopt import IpoptProblem
from mktopt.solvers.nlp import casadi_ipopt as nlp_casadi
from mktopt.solvers.nlp.problem import Nlp
from mktopt.solvers.nlp.start import first_scale
from tests.solvers.proof import prove

BACKENDS = ["cyipopt", "casadi"]
both = pytest.mark.parametrize("backend", BACKENDS)


def run(model_or_program, backend="cyipopt", **options):
    program = model_or_program if hasattr(model_or_program, "rows") and hasattr(model_or_program, "c") else None
    return IpoptProblem(program or compile(model_or_program), backend).solve(options=options)


def proved(model, program, solution, tolerance=1e-6):
    assert solution.status.ok, solution.message
    prove(model, program, solution, tolerance)


def hs071(sense=1, product=25.0, squares=40.0):
    """Hock and Schittkowski 71; its optimum is 17.0140173."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var([1, 2, 3, 4], bounds=(1, 5), initialize={1: 1, 2: 5, 3: 5, 4: 1})
    x = m.x
    m.product = pyo.Constraint(expr=x[1] * x[2] * x[3] * x[4] >= product)
    m.squares = pyo.Constraint(expr=x[1] ** 2 + x[2] ** 2 + x[3] ** 2 + x[4] ** 2 == squares)
    cost = x[1] * x[4] * (x[1] + x[2] + x[3]) + x[3]
    m.o = pyo.Objective(expr=sense * cost, sense=pyo.minimize if sense > 0 else pyo.maximize)
    return m


def chain(n, start=-1.2):
    """Rosenbrock's chain, which takes IPOPT many iterations."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(n), initialize=start)
    m.o = pyo.Objective(expr=sum(100 * (m.x[i + 1] - m.x[i] ** 2) ** 2 + (1 - m.x[i]) ** 2 for i in range(n - 1)))
    return m


# -- proved answers --------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("sense", [1, -1])
def test_a_known_nonlinear_program_has_its_optimum_and_the_duals_of_perturbation(backend, sense):
    model = hs071(sense)
    program = compile(model)
    solution = run(program, backend)
    assert solution.status == Status(Stopped.OPTIMAL, Has.LOCAL)
    assert solution.objective == pytest.approx(sense * 17.0140173, abs=1e-6)
    assert solution.residuals.ok(1e-8)
    proved(model, program, solution)
    step = 1e-4
    for name in ("product", "squares"):
        base = {"product": 25.0, "squares": 40.0}[name]
        up, down = (run(hs071(sense, **{name: base + sign * step}), backend) for sign in (1, -1))
        slope = (up.objective - down.objective) / (2 * step)
        assert solution.row_dual[program.row(getattr(model, name))] == pytest.approx(slope, rel=1e-5)


def rough(random, kind):
    """A random smooth program, feasible at `inside`, bounded by its box."""
    n = int(random.integers(2, 7))
    inside = random.uniform(0.6, 1.8, n)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(n))
    x = list(m.x.values())
    for variable, value in zip(x, inside, strict=True):
        variable.setlb(float(value - random.uniform(0.1, 0.5)))
        variable.setub(float(value + random.uniform(0.1, 2.0)))
    if random.random() < 0.3:
        m.x[0].fix(float(inside[0]))
    m.unused = pyo.Var(bounds=(0, 1))
    m.rows = pyo.ConstraintList()
    for k in range(int(random.integers(0, 4))):
        body = piece(random, x, kind) + 0.5 * piece(random, x, kind)
        at = float(_at(body, x, inside))
        forms = [body <= at + 0.3, at - 0.3 <= body, (at - 0.5, body, at + 0.4), body == at]
        # One equation at most: more of them than variables have no single set of multipliers.
        m.rows.add(forms[random.integers(3 if k else 4)] if kind == "rough" else forms[0])
    m.inside = pyo.Param(range(n), initialize=dict(enumerate(inside)))
    cost = sum(piece(random, x, kind) for _ in range(3)) + 3.0
    cost = cost + sum(float(k) * v for k, v in zip(random.normal(size=n), x, strict=True))
    m.o = pyo.Objective(expr=cost) if random.random() < 0.5 else pyo.Objective(expr=-cost, sense=pyo.maximize)
    return m


def piece(random, x, kind):
    a, b, c = (x[k] for k in random.integers(0, len(x), 3))
    convex = [pyo.exp(0.5 * a - b), (a - b) ** 4, a**2 / b if kind == "rough" else a**2 + b**2, -pyo.log(a + b),
              a**1.5, -pyo.sqrt(a + 0.1), pyo.exp(a) + b**-1]  # fmt: skip
    others = [pyo.sin(a * b), a * b * c, a**b, a / (b + c), pyo.atan(a - b) * c, pyo.log(a + b**2), pyo.cos(a) * b]
    pieces = convex if kind == "convex" else convex + others
    return float(random.uniform(0.3, 2.0)) * pieces[random.integers(len(pieces))]


def _at(body, x, point):
    for variable, value in zip(x, point, strict=True):
        if not variable.fixed:
            variable.set_value(float(value), skip_validation=True)
    value = pyo.value(body)
    for variable in x:
        if not variable.fixed:
            variable.set_value(None)
    return value


def by_scipy(program, start):
    """The same program by SLSQP from the functions of `Program`."""
    from scipy.optimize import minimize

    sense, limits = program.sense, []
    for bound, sign in ((program.row_lower, 1.0), (program.row_upper, -1.0)):
        used = np.flatnonzero(np.isfinite(bound) & (program.row_lower != program.row_upper))
        limits.append(_limit(program, "ineq", used, sign, bound))
    limits.append(_limit(program, "eq", np.flatnonzero(program.row_lower == program.row_upper), 1.0, program.row_lower))
    return minimize(
        lambda x: sense * program.objective(x), start, jac=lambda x: sense * program.gradient(x), method="SLSQP",
        bounds=list(zip(program.lower, program.upper, strict=True)), constraints=[c for c in limits if c],
        options={"ftol": 1e-12, "maxiter": 300},
    )  # fmt: skip


def _limit(program, kind, rows, sign, bound):
    if not len(rows):
        return None
    return {
        "type": kind,
        "fun": lambda x: sign * (program.activity(x)[rows] - bound[rows]),
        "jac": lambda x: sign * program.jacobian(x)[rows].toarray(),
    }


@both
@given(seed=st.integers(0, 2**32 - 1))
def test_random_smooth_programs_are_proved_and_nothing_near_the_answer_is_better(backend, seed):
    model = rough(np.random.default_rng(seed), "rough")
    program = compile(model)
    solution = run(program, backend)
    if solution.status.stopped is Stopped.INFEASIBLE:
        assert "locally" in solution.message  # and it is not from a start that is feasible
        inside = [model.inside[v.index()] if v.parent_component() is model.x else 0.5 for v in program.variables]
        solution = run(program, backend, warm_start=(inside, None, None))
    proved(model, program, solution)
    # Another method, started at the answer, stays there: it is a local optimum and no saddle.
    other = by_scipy(program, solution.x)
    if other.success and _feasible(program, other.x):
        assert program.sense * solution.objective <= other.fun + 1e-5 * (1 + abs(other.fun))


@given(seed=st.integers(0, 2**32 - 1))
def test_random_convex_programs_have_the_optimum_that_scipy_finds_from_elsewhere(seed):
    random = np.random.default_rng(seed)
    model = rough(random, "convex")
    program = compile(model)
    solution = run(program)
    proved(model, program, solution)
    other = by_scipy(program, 0.5 * (program.lower + program.upper))
    if other.success and _feasible(program, other.x):
        assert program.sense * solution.objective == pytest.approx(other.fun, rel=1e-5, abs=1e-5)


def _feasible(program, x):
    body = program.activity(x)
    return bool((body >= program.row_lower - 1e-7).all() and (body <= program.row_upper + 1e-7).all())


@both
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("sense", [1, -1])
def test_a_market_of_any_size_has_the_prices_of_the_convex_solvers(backend, size, sense):
    """A feeder with strictly convex costs: dispatch and prices are unique, so every solver must find the same."""
    random = np.random.default_rng(7)
    m = pyo.ConcreteModel()
    m.q = pyo.Var(range(8))
    m.f = pyo.Var(range(3), bounds=(-0.6 * size, 0.6 * size))
    cost = 0.0
    for i, q in m.q.items():
        q.setlb(0.0)
        q.setub(float(size * random.uniform(0.5, 1.5)))
        price, slope = random.uniform(0.1, 0.9), random.uniform(0.2, 0.5) / size
        cost = cost + (price * q if i % 2 else -(price + 0.3) * q) + 0.5 * slope * q**2
    sign = {i: 1 if i % 2 else -1 for i in m.q}
    flow = {0: -m.f[0] - m.f[1] - m.f[2], 1: m.f[0], 2: m.f[1], 3: m.f[2]}
    m.balance = pyo.Constraint(range(4), rule=lambda m, b: sign[2 * b] * m.q[2 * b] + m.q[2 * b + 1] + flow[b] == 0)
    m.o = pyo.Objective(expr=sense * cost, sense=pyo.minimize if sense > 0 else pyo.maximize)
    program = compile(m)
    mine, theirs = run(program, backend), solve(program, "clarabel")
    assert mine.status == Status(Stopped.OPTIMAL, Has.OPTIMAL)
    assert mine.residuals.ok(1e-7)
    np.testing.assert_allclose(mine.x, theirs.x, rtol=1e-5, atol=1e-5 * size)
    np.testing.assert_allclose(mine.row_dual, theirs.row_dual, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.reduced_cost, theirs.reduced_cost, rtol=1e-5, atol=1e-6)
    proved(m, program, mine, 1e-6 * max(1.0, size))


@both
def test_linear_conic_and_logarithmic_programs_agree_with_highs_and_clarabel(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(0, 10))
    m.total = pyo.Constraint(expr=m.x[0] + 2 * m.x[1] + 3 * m.x[2] >= 6)
    m.mix = pyo.Constraint(expr=m.x[0] - m.x[2] == 0.5)
    m.o = pyo.Objective(expr=2 * m.x[0] + 3 * m.x[1] + 7 * m.x[2])
    linear = compile(m)
    assert linear.problem_class == "LP"
    agree(m, linear, run(linear, backend), solve(linear, "highs"))

    m.disc = pyo.Constraint(expr=(m.x[0] - 2) ** 2 + (m.x[1] - 1) ** 2 <= 1.5)
    m.cone = pyo.Constraint(expr=(m.x[0] - 1) ** 2 <= m.x[1] * m.x[2])
    conic = compile(m)
    assert conic.problem_class == "SOCP"
    agree(m, conic, run(conic, backend), solve(conic, "clarabel"))

    m.worth = pyo.Constraint(expr=pyo.log(m.x[0] + m.x[1] - 0.5) + 2 * pyo.log(m.x[2]) >= -2.0)
    m.o.set_value(m.o.expr - pyo.log(m.x[0] + 0.3 * m.x[2]) - pyo.log(m.x[1]))
    logarithmic = compile(m)
    assert logarithmic.problem_class == "EXP"
    agree(m, logarithmic, run(logarithmic, backend), solve(logarithmic, "clarabel"))


def agree(model, program, mine, theirs):
    assert mine.status == Status(Stopped.OPTIMAL, Has.OPTIMAL)
    assert theirs.status.ok
    assert mine.objective == pytest.approx(theirs.objective, rel=1e-6)
    np.testing.assert_allclose(mine.row_dual, theirs.row_dual, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.reduced_cost, theirs.reduced_cost, rtol=1e-4, atol=1e-5)
    proved(model, program, mine)


@both
def test_fixed_columns_have_the_reduced_cost_that_stationarity_leaves(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-5, 5))
    m.x[1].setlb(2.0)
    m.x[1].setub(2.0)  # a column whose bounds meet, not a fixed variable
    m.link = pyo.Constraint(expr=m.x[0] + m.x[1] + m.x[2] == 4)
    m.o = pyo.Objective(expr=m.x[0] ** 2 + pyo.exp(m.x[1]) + 2 * m.x[2] ** 2)
    program = compile(m)
    solution = run(program, backend)
    proved(m, program, solution)
    # one unit more of x1 costs its own slope, and saves the dual of the link
    assert solution.reduced_cost[1] == pytest.approx(np.exp(2.0) - solution.row_dual[0], rel=1e-6)


@both
@pytest.mark.parametrize("case", ["square", "too many rows", "no rows", "no objective", "all bounds meet", "free row"])
def test_shapes_that_ipopt_itself_refuses(backend, case):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(-4, 4))
    m.unused = pyo.Var()
    m.rows = pyo.ConstraintList()
    m.o = pyo.Objective(expr=pyo.exp(m.x[0]) + m.x[1] ** 2 + m.x[1])
    if case in ("square", "too many rows"):
        m.rows.add(m.x[0] + m.x[1] ** 2 == 2)
        m.rows.add(m.x[0] - m.x[1] == 0)
    if case == "too many rows":
        m.rows.add(2 * m.x[0] - 2 * m.x[1] == 0)
        m.rows.add(m.x[0] * m.x[1] == 1)
    if case == "no objective":
        m.o.deactivate()
        m.rows.add(m.x[0] * m.x[1] >= 1)
    if case == "all bounds meet":
        for variable in m.x.values():
            variable.setlb(1.0)
            variable.setub(1.0)
        m.unused.fix(0)
    if case == "free row":
        m.rows.add(m.x[0] ** 3 <= 99)
        m.rows.add(m.x[0] >= -1)
    program = compile(m)
    if case == "free row":
        program = program.replace(row_upper=np.full(program.m, np.inf))
    solution = run(program, backend)
    assert solution.status.ok, solution.message
    assert solution.residuals.ok(1e-6)
    if case == "no objective":
        assert not solution.row_dual.any()
    else:
        proved(m, program, solution)


@both
def test_equations_that_depend_on_each_other_keep_multipliers_of_the_size_of_prices(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-4, 4))
    m.once = pyo.Constraint(expr=m.x[0] + m.x[1] * m.x[2] == 1)
    m.twice = pyo.Constraint(expr=-2 * m.x[0] - 2 * m.x[1] * m.x[2] == -2)
    m.sum = pyo.Constraint(expr=m.x[1] + m.x[2] == 2)
    m.same = pyo.Constraint(expr=2 == m.x[1] + m.x[2])
    m.o = pyo.Objective(expr=pyo.exp(m.x[0]) + m.x[1] ** 2 + 3 * m.x[2] ** 2)
    program = compile(m)
    solution = run(program, backend)
    proved(m, program, solution)
    assert np.abs(solution.row_dual).max() < 20.0


# -- statuses --------------------------------------------------------------------------------------------------------


@both
def test_an_infeasible_convex_program_is_infeasible(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(0, 1))
    m.c = pyo.Constraint(expr=m.x[0] ** 2 + m.x[1] ** 2 <= 1)
    m.d = pyo.Constraint(expr=m.x[0] + m.x[1] >= 1.9)
    m.o = pyo.Objective(expr=m.x[0])
    solution = run(m, backend)
    assert solution.status == Status(Stopped.INFEASIBLE, Has.NOTHING)
    assert "locally" not in solution.message


@both
def test_local_infeasibility_of_a_nonconvex_program_is_said_to_be_local(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-10, 10), initialize=3.0)
    m.c = pyo.Constraint(expr=(m.x**2 - 1) ** 2 + 0.1 * m.x <= -0.5)
    m.o = pyo.Objective(expr=m.x)
    solution = run(m, backend)
    assert solution.status == Status(Stopped.INFEASIBLE, Has.NOTHING)
    assert "locally" in solution.message


@both
@pytest.mark.parametrize("curve", [False, True])
def test_an_unbounded_objective_is_told(backend, curve):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2))
    m.c = pyo.Constraint(expr=m.x[0] + m.x[1] >= 1)
    m.o = pyo.Objective(expr=-m.x[0] ** 3 if curve else m.x[0] + 0.5 * m.x[1])
    solution = run(m, backend)
    assert solution.status.has in (Has.NOTHING, Has.FEASIBLE)
    assert solution.status.stopped in (Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.NUMERICAL), solution.message
    assert "no limit" in solution.message


@both
def test_limits_of_iterations_and_time_are_told_apart_and_keep_a_feasible_point(backend):
    solution = run(chain(30), backend, max_iter=5)
    assert solution.status == Status(Stopped.ITERATION_LIMIT, Has.FEASIBLE)
    assert solution.iterations == 5
    began = time.perf_counter()
    solution = run(compile(chain(3000)), backend, time_limit=0.3)
    assert solution.status == Status(Stopped.TIME_LIMIT, Has.FEASIBLE)
    assert time.perf_counter() - began < 5.0
    assert solution.seconds["solve"] <= solution.seconds["total"]


@both
def test_a_function_without_a_value_is_named(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(-3, -1))
    m.fine = pyo.Constraint(expr=m.x[1] ** 3 <= 5)
    m.root = pyo.Constraint(expr=pyo.sqrt(m.x[0]) * m.x[1] <= 1)
    m.o = pyo.Objective(expr=m.x[0])
    solution = run(m, backend)
    assert solution.status == Status(Stopped.NUMERICAL, Has.NOTHING)
    assert "'root'" in solution.message


@both
def test_a_start_outside_the_domain_is_moved_into_it(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), initialize=-2.0)
    m.c = pyo.Constraint(expr=pyo.log(m.x[0] - 3) + pyo.log(m.x[1] - m.x[0]) >= 0.5)
    m.o = pyo.Objective(expr=m.x[0] ** 2 + m.x[1] - pyo.sqrt(m.x[1]))
    program = compile(m)
    proved(m, program, run(program, backend))


@both
def test_a_stationary_point_that_is_no_minimum_is_not_taken_for_one(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(-1, 1))
    m.o = pyo.Objective(expr=m.x[0] * m.x[1])
    assert run(m, backend).objective == pytest.approx(-1.0, abs=1e-6)


# -- options, progress, warm start -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_iterations": 3}, UnknownNameError, "max_iter"),
        ({"tol": "tight"}, SolverError, "'tol'.*'tight'.*number"),
        ({"tol": -1.0}, SolverError, "'tol'.*-1.0"),
        ({"max_iter": 2.5}, SolverError, "'max_iter'.*2.5.*whole number"),
        ({"max_iter": True}, SolverError, "'max_iter'.*True"),
        ({"mu_strategy": "clever"}, SolverError, "'mu_strategy'.*monotone, adaptive"),
        ({"time_limit": 0}, SolverError, "'time_limit'"),
        ({"progress": 3}, SolverError, "'progress'"),
        ({"warm_start": (1, 2)}, SolverError, "row_dual"),
        ({"warm_start": ([1.0], [], [])}, SolverError, "4 variables and 2 rows"),
        ({"warm_start": ([np.nan] * 4, [0.0] * 2, [0.0] * 4)}, SolverError, "finite"),
    ],
)
def test_options_that_cannot_be_taken_are_refused_by_name_and_silently(backend, options, error, match, capfd):
    with pytest.raises(error, match=match):
        run(hs071(), backend, **options)
    assert capfd.readouterr() == ("", "")


@both
def test_options_reach_ipopt_and_nothing_is_printed(backend, capfd):
    loose = run(hs071(), backend, tol=1e-2, mu_strategy="adaptive", honor_original_bounds=True, max_iter=np.int64(50))
    tight = run(hs071(), backend)
    assert loose.iterations < tight.iterations or loose.residuals.worst > tight.residuals.worst
    assert capfd.readouterr() == ("", "")
    assert run(hs071(), backend, print_level=5).status.ok
    assert "Number of Iterations" in capfd.readouterr().out


@both
def test_progress_shows_each_iteration_and_may_stop_the_solver(backend):
    records = []
    solution = run(hs071(-1), backend, progress=records.append)
    assert [record.iteration for record in records] == list(range(solution.iterations + 1))
    assert records[-1].objective == pytest.approx(solution.objective, abs=1e-6)
    assert records[-1].primal_infeasibility < 1e-6
    assert records[-1].dual_infeasibility < 1e-6
    stopped = run(chain(30), backend, progress=lambda record: record.iteration < 4)
    assert stopped.status == Status(Stopped.INTERRUPTED, Has.FEASIBLE)
    assert stopped.iterations <= 5


@both
def test_a_warm_start_takes_fewer_iterations_and_finds_the_same(backend):
    for model in (hs071(), chain(20)):
        program = compile(model)
        problem = IpoptProblem(program, backend)
        cold = problem.solve()
        moved = program.replace(c=program.c + 1e-3)
        again = problem.solve(moved, warm_start=cold)
        assert again.status.ok
        assert again.iterations <= max(2, cold.iterations // 3)
        same = problem.solve(moved)
        np.testing.assert_allclose(again.x, same.x, atol=1e-6)
        np.testing.assert_allclose(again.row_dual, same.row_dual, atol=1e-6)
        through_options = problem.solve(moved, options={"warm_start": (cold.x, cold.row_dual, cold.reduced_cost)})
        assert through_options.iterations == again.iterations
        assert problem.solve(moved, warm_start=(cold.x, None, None)).status.ok


@both
def test_other_numbers_in_the_same_structure_are_solved_as_if_new(backend):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(0, 4))
    m.c = pyo.Constraint(expr=m.x[0] + 2 * m.x[1] + m.x[2] <= 5)
    m.d = pyo.Constraint(expr=m.x[0] ** 2 + m.x[1] * m.x[2] + pyo.sin(m.x[2]) <= 4)
    m.e = pyo.Constraint(expr=pyo.log(m.x[0] + m.x[1] + 1) >= 0.2)
    m.o = pyo.Objective(expr=3 * m.x[0] + m.x[1] + m.x[2] - m.x[2] ** 2 + pyo.log(m.x[0] + 0.1), sense=pyo.maximize)
    program = compile(m)
    problem = IpoptProblem(program, backend)
    first = problem.solve()
    structure = problem._nlp
    A, P = program.A.copy(), program.P.copy()
    A.data, P.data = A.data * 1.2, P.data * 1.5
    other = program.replace(
        A=A, P=P, c=program.c * 0.9, row_upper=program.row_upper * 0.8, upper=program.upper * 0.7, constant=5.0,
        quadratics=replace(program.quadratics, coef=program.quadratics.coef * 1.1),
        logs=replace(program.logs, offset=program.logs.offset * 1.3, coef=program.logs.coef * 0.9),
    )  # fmt: skip
    changed, anew = problem.solve(other, warm_start=first), IpoptProblem(other, backend).solve()
    assert problem._nlp is structure
    assert changed.status.ok
    assert abs(changed.objective - first.objective) > 0.1
    np.testing.assert_allclose(changed.x, anew.x, atol=1e-6)
    np.testing.assert_allclose(changed.row_dual, anew.row_dual, atol=1e-6)
    # a limit that goes needs nothing new; one that comes does, and is seen
    free = other.replace(row_upper=np.array([np.inf, *other.row_upper[1:]]))
    assert IpoptProblem(free, backend).solve().objective > changed.objective + 0.01
    problem = IpoptProblem(free, backend)
    assert problem.solve().objective > changed.objective + 0.01
    structure = problem._nlp
    assert problem.solve(other).objective == pytest.approx(anew.objective, rel=1e-6)
    assert problem._nlp is not structure


@both
def test_a_problem_can_be_sent_to_another_process(backend):
    program = compile(hs071())
    problem = IpoptProblem(program, backend)
    first = problem.solve()
    stand_ins = [[SimpleNamespace(name=item.name) for item in items] for items in (program.variables, program.rows)]
    bare = program.replace(variables=stand_ins[0], rows=stand_ins[1], column_of={})
    copy = pickle.loads(pickle.dumps(IpoptProblem(bare, backend)))  # noqa: S301 - our own
    again = copy.solve(warm_start=first)
    np.testing.assert_allclose(again.x, first.x, atol=1e-8)


# -- the functions themselves ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
def test_the_functions_in_numpy_are_those_in_casadi_and_have_the_derivatives_of_the_program(seed):
    import casadi

    random = np.random.default_rng(seed)
    model = rough(random, "rough")
    model.more = pyo.Constraint(expr=(1, model.x[1] ** 2 + 3 * model.x[0] * model.x[1] - model.x[0], 100))
    model.logs = pyo.Constraint(expr=pyo.log(model.x[1] + 2 * model.x[0]) - 2 * pyo.log(3 * model.x[1]) <= 9)
    program = compile(model)
    nlp = Nlp(program, first_scale(program))
    x = random.uniform(0.5, 1.5, nlp.n)
    # at a point where lifted logarithms agree with what they stand for
    lifted = len(nlp.lifted)
    point = nlp.D[: program.n] * x[: program.n]
    if lifted:
        x[program.n : program.n + lifted] = program.logs.inside(point)[nlp.lifted] / nlp.D[program.n :][:lifted]
    f, g = nlp.objective(x), nlp.constraints(x)
    assert f == pytest.approx(nlp.factor[-1] * program.objective(point), rel=1e-12)
    used = len(nlp.rows)
    np.testing.assert_allclose(g[:used], nlp.R[:used] * program.activity(point)[nlp.rows], rtol=1e-10, atol=1e-10)

    X, p, F, G = nlp_casadi.symbolic(nlp)
    lam = casadi.SX.sym("lam", nlp.m)
    H = casadi.hessian(2.0 * F + casadi.dot(lam, G), X)[0]
    functions = casadi.Function("all", [X, p, lam], [F, G, casadi.gradient(F, X), casadi.jacobian(G, X), H])
    y = random.normal(size=nlp.m)
    numbers = np.concatenate(list(nlp_casadi.numbers(nlp).values()))
    theirs = [np.array(casadi.densify(part)) for part in functions(x, numbers, y)]
    J = np.zeros((nlp.m, nlp.n))
    J[nlp.jacobian_at] = nlp.jacobian(x)
    L = np.zeros((nlp.n, nlp.n))
    L[nlp.hessian_at] = nlp.hessian(x, y, 2.0)
    assert not np.triu(L, 1).any()
    mine = [f, g, nlp.gradient(x), J, L + np.tril(L, -1).T]
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=1e-9, atol=1e-9)


# -- Ctrl-C and missing libraries ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_the_progress_function_raises_reaches_the_caller(backend, error):
    def fail(record):
        if record.iteration == 3:
            raise error

    program = compile(chain(30))
    with pytest.raises(error):
        run(program, backend, progress=fail)
    assert run(program, backend).status.ok  # and nothing is left behind


@both
def test_ctrl_c_stops_a_long_solve_at_once(backend):
    program = compile(chain(5000))
    handler = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    began = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(program, backend)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
    assert time.perf_counter() - began < 5.0


def test_a_missing_extra_names_the_one_command():
    """First without CasADi, then without either."""
    script = (
        "import sys\n"
        "import pyomo.environ as pyo\n"
        "from mktopt.errors import SolverError\n"
        "from mktopt.solvers import compile, ipopt\n"
        "m = pyo.ConcreteModel(); m.x = pyo.Var(initialize=1); m.o = pyo.Objective(expr=pyo.exp(m.x) - m.x)\n"
        "program = compile(m)\n"
        "for name in ('casadi', 'cyipopt'):\n"
        "    sys.modules[name] = None\n"
        "    try: ipopt.solve(program)\n"
        "    except SolverError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert all("pip install 'mktopt[ipopt]'" in line for line in said)


def test_the_version_tells_ipopt_and_what_calls_it():
    assert "cyipopt" in ipopt.version() or "casadi" in ipopt.version()
    assert run(hs071(), "casadi").version.startswith("IPOPT")
