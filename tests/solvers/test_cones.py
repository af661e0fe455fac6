"""Curved rows as cones: drawn programs are proved optimal, held against CVXPY, and their duals against perturbation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.errors import FormulationError
from mktopt.solvers import Has, Program, Stopped, clarabel, compile, outer_approximation, solve, with_integers_fixed
from mktopt.solvers.clarabel import defaults_for
from mktopt.solvers.cones.conic import recognise
from mktopt.solvers.polish import filled
from tests.solvers.drawn_cones import log_row, product_row, random_program, squares_row

HALF = settings(max_examples=max(settings().max_examples // 2, 10))


def prove(program: Program, solution: Any) -> None:
    assert solution.status.has is Has.OPTIMAL, solution.message
    assert solution.status.stopped is Stopped.OPTIMAL
    assert solution.x.shape == (program.n,)
    assert solution.residuals.ok(1e-6), solution.residuals
    assert np.isfinite(solution.residuals.worst)


def values_beside(program: Program, row: int, moves: tuple[float, ...]) -> list[float]:
    """The optimal objective where the right-hand side of a row moves; NaN where there is none."""
    found = []
    for move in moves:
        low, high = program.row_lower.copy(), program.row_upper.copy()
        low[row] += move
        high[row] += move
        moved = program.replace(row_lower=low, row_upper=high)
        # A product that is zero at least may not be asked to be less: that is no cone.
        there = None if moved.not_convex else solve(moved, "clarabel")
        found.append(there.objective if there is not None and there.status.has is Has.OPTIMAL else np.nan)
    return found


def prove_slopes(program: Program, solution: Any) -> None:
    """Every dual is a slope of the optimal value in its row's right-hand side.

    That value is convex in the limits of linear rows and of convex functions, so the dual supports it on both sides.
    In the constant beside a product it need not be: there the dual is held against differences.
    """
    products = [] if program.quadratics is None else recognise(program).rows[~recognise(program).linear]
    for i in range(program.m):
        dual, tight = solution.row_dual[i], i in products
        step = 1e-7 if tight else 1e-3
        moves = np.array([step, -step])
        rise = np.array(values_beside(program, i, tuple(moves))) - solution.objective
        moves, rise = moves[np.isfinite(rise)], rise[np.isfinite(rise)]
        if tight:  # at its apex the value falls like a square root, without a slope
            slopes, off = rise / moves, 1e-2 * (1.0 + abs(dual))
            assert abs(dual) > 1e3 or not len(rise) or slopes.min() - off <= dual <= slopes.max() + off, f"row {i}"
        else:
            gain = program.sense * (rise - dual * moves)
            assert (gain >= -1e-6 * (1.0 + abs(solution.objective))).all(), f"row {i}"


ROWS = {
    "squares": (squares_row,),
    "products": (product_row,),
    "logs": (log_row,),
    "all": (squares_row, product_row, log_row),
}


@pytest.mark.parametrize("kinds", ROWS.values(), ids=ROWS.keys())
@HALF
@given(seed=st.integers(0, 2**32 - 1))
def test_drawn_cones_are_solved_and_their_duals_support_the_value(kinds, seed):
    program, peer = random_program(seed, kinds)
    assert program.not_convex == ""
    solution = solve(program, "clarabel")
    prove(program, solution)
    peer.solve("CLARABEL")
    assert solution.objective == pytest.approx(peer.value, rel=1e-5, abs=1e-5)
    prove_slopes(program, solution)


def small_model() -> Any:
    model = pyo.ConcreteModel()
    model.p, model.q, model.any = pyo.Var(), pyo.Var(), pyo.Var()
    model.s, model.u, model.v = (pyo.Var(domain=pyo.NonNegativeReals) for _ in range(3))
    model.limit = pyo.Constraint(expr=model.s + model.u + model.v <= 4)
    return model


REFUSED = {
    "an equality": (lambda m: m.p**2 + m.q**2 == 1, "'c'.*equality"),
    "a range": (lambda m: (1, m.p**2 + m.q**2, 2), "'c'.*both sides"),
    "outside a circle": (lambda m: m.p**2 + m.q**2 >= 1, "'c'.*more than one negative square"),
    "a saddle": (lambda m: m.p**2 + m.q**2 + 3 * m.p * m.q <= 1, "'c'.*bend the wrong way along '[pq]'"),
    "a product that must be small": (lambda m: m.u * m.v <= 1, "'c'.*bend the wrong way along '[uv]'"),
    "a factor of either sign": (
        lambda m: m.p**2 <= m.u * m.any,
        "'c'.*'any' needs a lower bound >= 0 \\(it is -inf\\)",
    ),
    "a square of either sign": (lambda m: m.p**2 <= m.any**2, "'c'.*'any' needs a lower bound >= 0"),
    "squares less than a product and more": (lambda m: m.p**2 <= m.u * m.v + 1, "'c'.*no second-order cone"),
    "two products": (lambda m: m.p**2 <= m.u * m.v + m.s**2, "'c'.*more than one"),
    "a linear term beside": (lambda m: m.p**2 + m.q <= m.u * m.v, "'c'.*linear term of 'q'"),
    "a convex logarithm": (lambda m: pyo.log(m.u) <= 1, "'c'.*at most.*logarithm"),
    "a logarithm within limits": (lambda m: (0, pyo.log(m.u), 1), "'c'.*both sides"),
    "something else": (lambda m: pyo.sin(m.p) <= 1, "'c'.*neither quadratic nor a logarithm"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_cone_is_refused_by_name(kind):
    make, reason = REFUSED[kind]
    model = small_model()
    model.c = pyo.Constraint(expr=make(model))
    model.obj = pyo.Objective(expr=model.p + model.u)
    program = compile(model)
    assert program.problem_class == "NLP"
    with pytest.raises(FormulationError, match=reason):
        solve(program, "clarabel")


@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
def test_a_logarithm_on_the_wrong_side_of_the_objective_is_refused(sense):
    model = small_model()
    gain = pyo.log(model.u + 1) - model.u
    model.obj = pyo.Objective(expr=gain if sense == pyo.minimize else -gain, sense=sense)
    with pytest.raises(FormulationError, match="the objective is .*logarithm"):
        solve(compile(model), "clarabel")


TAKEN = {
    "shifted factors": lambda m: m.p**2 + (m.q - 1) ** 2 <= (m.u + 0.5) * (m.v + 2),
    "a shifted square": lambda m: (m.p - 2) ** 2 + 4 <= (m.s + 1) ** 2,
    "a hyperbola": lambda m: m.u * m.v >= 0.5,
    "products that make a square": lambda m: m.p**2 - 2 * m.p * m.q + m.q**2 <= m.u,
    "products and a product": lambda m: 2 * m.p**2 + 2 * m.p * m.q + 2 * m.q**2 <= m.u * m.v,
    "beside a logarithm": lambda m: m.p**2 + m.q**2 <= pyo.log(m.u + 0.1) + m.v,
    "a factor fixed": lambda m: m.p**2 + m.q**2 <= m.u * m.three,
}


@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("kind", TAKEN)
def test_cones_in_many_clothes(kind, flipped, sense):
    """Written either way round and for either sense: an optimum, and a dual that is a slope."""
    model = small_model()
    model.three = pyo.Var(initialize=3.0)
    model.three.fix()
    less, more = TAKEN[kind](model).args
    model.c = pyo.Constraint(expr=-less >= -more if flipped else less <= more)
    model.box = pyo.Constraint(expr=(-5, model.p + 2 * model.q, 9))
    cost = 2 * model.u + 3 * model.v + model.s - 9 * model.p - model.q + 0.1 * model.q**2
    model.obj = pyo.Objective(expr=cost if sense == pyo.minimize else -cost, sense=sense)
    program = compile(model)
    assert program.not_convex == ""
    solution = solve(program, "clarabel")
    prove(program, solution)
    row = program.row(model.c)
    up, down = (values_beside(program, row, (move,))[0] for move in (1e-5, -1e-5))
    slopes = np.array([up - solution.objective, solution.objective - down]) / 1e-5
    assert np.isfinite(slopes).any()
    for slope in slopes[np.isfinite(slopes)]:
        assert solution.row_dual[row] == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_a_product_that_is_at_least_zero_says_nothing():
    model = small_model()
    model.c = pyo.Constraint(expr=model.u * model.v >= 0)
    model.obj = pyo.Objective(expr=model.u + 2 * model.v - model.s)
    program = compile(model)
    solution = solve(program, "clarabel")
    prove(program, solution)
    np.testing.assert_allclose(
        solution.x[[program.column(v) for v in (model.u, model.v, model.s)]], [0, 0, 4], atol=1e-9
    )
    assert solution.row_dual[program.row(model.c)] == 0.0


@pytest.mark.parametrize("gain", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("product", [False, True])
def test_an_idle_device_is_at_the_apex_of_its_cone_and_yet_proved(product, gain):
    """Nothing is gained by using it: no multiplier exists at rest, but residuals a hair's breadth from it are tiny."""
    model = small_model()
    less = model.p**2 + model.q**2
    model.c = pyo.Constraint(expr=less <= model.u * model.v if product else less <= model.s**2)
    cost = 0.5 * (model.u + model.v) if product else model.s
    model.obj = pyo.Objective(expr=cost - gain * model.p)
    program = compile(model)
    solution = solve(program, "clarabel")
    prove(program, solution)
    used = [program.column(v) for v in (model.p, model.q, *([model.u, model.v] if product else [model.s]))]
    assert np.abs(solution.x[used]).max() <= 1e-6
    assert solution.objective == pytest.approx(0.0, abs=1e-6)


def test_infeasible_and_unbounded_cones_are_told():
    model = small_model()
    model.c = pyo.Constraint(expr=model.p**2 + model.q**2 <= model.u * model.v)
    model.far = pyo.Constraint(expr=model.p + model.q >= 10)
    model.obj = pyo.Objective(expr=model.u)
    assert clarabel.solve(compile(model)).status.stopped is Stopped.INFEASIBLE
    model.far.deactivate()
    model.limit.deactivate()
    model.obj.set_value(model.u - model.p)
    status = clarabel.solve(compile(model)).status
    assert status.stopped in (Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.UNBOUNDED)
    assert status.has is Has.NOTHING


@pytest.mark.parametrize("kinds", ROWS.values(), ids=ROWS.keys())
@settings(max_examples=max(settings().max_examples // 4, 5))
@given(seed=st.integers(0, 2**32 - 1))
def test_no_choice_of_integers_in_cones_is_better(kinds, seed):
    """Outer approximation against every choice tried out."""
    program, _ = random_program(seed, kinds)
    lower, upper = program.lower.copy(), program.upper.copy()
    whole = (np.arange(program.n) % 2 == 0) & (lower < upper)
    lower[whole] = np.ceil(lower[whole])
    upper[whole] = np.maximum(np.floor(upper[whole]), lower[whole])
    program = program.replace(integer=whole, lower=lower, upper=upper)
    values = []
    for choice in itertools.product(
        *(range(int(a), int(b) + 1) for a, b in zip(lower[whole], upper[whole], strict=True))
    ):
        there = clarabel.solve(with_integers_fixed(program, np.array(choice, dtype=float)))
        values += [program.sense * there.objective] if there.status.ok else []
    solution = outer_approximation.solve(program)
    if not values:
        assert solution.status.stopped is Stopped.INFEASIBLE, solution.message
        return
    assert solution.status.ok, solution.message
    assert program.sense * solution.objective == pytest.approx(min(values), rel=2e-6, abs=2e-6)
    assert program.sense * solution.bound <= min(values) + 1e-6 * (1.0 + abs(min(values)))


@pytest.mark.parametrize("n", [30, 300, 3000])
def test_the_logarithm_of_a_long_sum_is_solved(n):
    """Its argument is in units of the sum, not of one term, and no polish forms its dense Hessian."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(0, 1))
    model.some = pyo.Constraint(expr=sum(model.x[i] for i in range(0, n, 2)) <= n / 10)
    worth = 5 * pyo.log(1 + sum((1 + i % 7) * model.x[i] for i in range(n)))
    model.obj = pyo.Objective(
        expr=worth - sum((0.01 + i % 13 * 1e-3) * model.x[i] for i in range(n)), sense=pyo.maximize
    )
    program = compile(model)
    assert program.problem_class == "EXP"
    solution = solve(program, "clarabel")
    assert solution.status.has is Has.OPTIMAL, solution.message
    assert solution.objective == pytest.approx(solve(program, "ipopt").objective, rel=1e-6)


def test_rows_that_are_many_and_long_are_factorised_in_blocks():
    """An answer does not depend on how: 40 balances of 600 flows, each of which loses a square."""
    rng, n = np.random.default_rng(0), 600
    model = pyo.ConcreteModel()
    model.f, model.loss = pyo.Var(range(n)), pyo.Var(range(n), bounds=(0, None))
    weights = rng.normal(size=(40, n))
    model.square = pyo.Constraint(range(n), rule=lambda m, k: m.f[k] ** 2 <= m.loss[k])
    model.balance = pyo.Constraint(
        range(40), rule=lambda m, i: pyo.quicksum(weights[i, k] * m.f[k] for k in range(n)) == float(i)
    )
    model.obj = pyo.Objective(expr=pyo.quicksum(model.loss.values()))
    program = compile(model)
    assert filled(program.A) == pytest.approx(40 * 600**2, rel=1e-2) and "direct_solve_method" in defaults_for(program)
    found = solve(program, "clarabel")
    prove(program, found)
    other = solve(program, "clarabel", {"direct_solve_method": "qdldl"})
    least = weights.T @ np.linalg.solve(weights @ weights.T, np.arange(40.0))
    for one in (found, other):
        assert one.x[[program.column(v) for v in model.f.values()]] == pytest.approx(least, abs=1e-7)
