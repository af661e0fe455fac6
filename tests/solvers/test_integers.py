"""MILP and MIQP against every choice of integers tried out; duals with integers fixed."""

from __future__ import annotations

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mktopt.errors import SolverError
from mktopt.solvers import Has, Stopped, compile, solve, solve_fixed, with_integers_fixed
from tests.solvers.proof import prove


def random_model(seed: int, kind: str):
    """Two continuous and up to three whole variables, joined by two rows, with a convex cost."""
    random = np.random.default_rng(seed)
    model = pyo.ConcreteModel()
    whole = int(random.integers(1, 4))
    model.z = pyo.Var(range(whole), domain=pyo.Integers, bounds=(-1, 2))
    model.x = pyo.Var(range(2), bounds=(-2, 3))
    every = [*model.z.values(), *model.x.values()]
    model.c = pyo.ConstraintList()
    for _ in range(2):
        a = random.integers(-2, 3, len(every))
        a[-1] = 1
        model.c.add(sum(int(k) * v for k, v in zip(a, every, strict=True)) <= int(random.integers(0, 3)))
    cost = sum(float(k) * v for k, v in zip(random.uniform(-4, 4, len(every)), every, strict=True))
    if kind == "diagonal":
        cost += sum(float(q) * v**2 for q, v in zip(random.uniform(0.0, 2.0, len(every)), every, strict=True))
    elif kind == "coupled":
        root = random.uniform(-1, 1, (len(every), len(every)))
        P = root.T @ root
        cost += sum(P[i, j] * every[i] * every[j] for i in range(len(every)) for j in range(len(every)))
    maximise = bool(random.integers(2))
    model.obj = pyo.Objective(expr=-cost if maximise else cost, sense=pyo.maximize if maximise else pyo.minimize)
    return model


def best_by_trying(program):
    found = []
    for whole in itertools.product(range(-1, 3), repeat=int(program.integer.sum())):
        solution = solve(with_integers_fixed(program, np.array(whole, dtype=float)))
        if solution.status.ok:
            found.append(program.sense * solution.objective)
    return program.sense * min(found) if found else None


@pytest.mark.parametrize("kind", ["linear", "diagonal", "coupled"])
@settings(max_examples=settings().max_examples // 2)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=2227677)  # two choices of integers that differ by less than HiGHS' own absolute gap
def test_no_choice_of_integers_is_better(kind, seed):
    program = compile(random_model(seed, kind))
    assert program.problem_class == ("MILP" if kind == "linear" else "MIQP")
    solution, best = solve(program), best_by_trying(program)
    if best is None:
        assert solution.status.stopped is Stopped.INFEASIBLE
        return
    assert solution.status.ok, solution.message
    assert solution.objective == pytest.approx(best, rel=2e-6, abs=2e-6)
    assert program.sense * (solution.objective - solution.bound) >= -1e-6 * (1 + abs(best))
    assert not solution.has_duals
    assert np.isnan(solution.residuals.dual)


@pytest.mark.parametrize("quadratic", [False, True])
def test_duals_come_from_the_problem_with_integers_fixed(quadratic):
    model = pyo.ConcreteModel()
    model.on = pyo.Var(domain=pyo.Binary)
    model.block, model.flexible = pyo.Var(bounds=(0, 6)), pyo.Var(bounds=(0, 9))
    model.whole = pyo.Constraint(expr=model.block == 6 * model.on)
    model.balance = pyo.Constraint(expr=model.block + model.flexible == 7.5)
    cost = 10 * model.block + 30 * model.flexible
    model.obj = pyo.Objective(expr=cost + (model.flexible**2 if quadratic else 0))
    program = compile(model)
    first = solve(program)
    assert first.x[program.column(model.on)] == pytest.approx(1.0)
    priced = solve_fixed(program, first)
    assert priced.duals_from == "fixed integers"
    assert priced.status == first.status
    assert priced.row_dual[program.row(model.balance)] == pytest.approx(33.0 if quadratic else 30.0)
    assert priced.objective == pytest.approx(first.objective)
    assert "+" in priced.solver
    model.on.fix(1)
    again = compile(model)
    prove(model, again, solve(again))
    assert solve_fixed(again, solve(again)).duals_from == ""


def test_duals_of_nothing_are_refused():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(domain=pyo.Integers, bounds=(0, 5))
    model.c = pyo.Constraint(expr=2 * model.x == 3)
    program = compile(model)
    solution = solve(program)
    assert solution.status.stopped is Stopped.INFEASIBLE
    with pytest.raises(SolverError, match="no solution whose integers"):
        solve_fixed(program, solution)


def test_limits_of_the_outer_approximation_are_told_honestly():
    random = np.random.default_rng(3)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(12), domain=pyo.Integers, bounds=(-9, 9))
    root = random.uniform(-1, 1, (12, 12))
    P, target = root.T @ root + 0.1 * np.eye(12), random.uniform(-5, 5, 12)
    x = list(model.x.values())
    model.obj = pyo.Objective(
        expr=sum(P[i, j] * (x[i] - target[i]) * (x[j] - target[j]) for i in range(12) for j in range(12))
    )
    program = compile(model)
    few = solve(program, None, {"max_iterations": 2})
    assert few.status.stopped is Stopped.ITERATION_LIMIT
    assert few.status.has is Has.FEASIBLE
    assert few.bound < few.objective
    np.testing.assert_allclose(few.x, np.round(few.x), atol=1e-6)
    late = solve(program, None, {"time_limit": 1e-6})
    assert late.status.stopped is Stopped.TIME_LIMIT
    assert not late.status.ok
