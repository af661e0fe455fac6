"""Every solver, both senses, every kind of row: the answer is proved, not compared with a number."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mktopt.solvers import Has, Program, compile, residuals, solve
from tests.solvers.proof import prove, prove_marginals

SENSES = {"min": pyo.minimize, "max": pyo.maximize}


def market(kind: str, sense: str, flipped: bool, moved: dict[int, float]):
    """Two offers, one bid and one firm demand of 1 kW over a line; rows 0 to 3, the last a requirement."""
    shift = [moved.get(i, 0.0) for i in range(4)]
    model = pyo.ConcreteModel()
    model.a, model.b = pyo.Var(bounds=(0, 4)), pyo.Var(bounds=(0.5, 9))
    model.d, model.f = pyo.Var(bounds=(None, 6)), pyo.Var()
    here, there = model.a - model.f, model.b + model.f - model.d
    if flipped:
        model.here = pyo.Constraint(expr=-here == -shift[0])
        model.there = pyo.Constraint(expr=-there == -1 - shift[1])
    else:
        model.here = pyo.Constraint(expr=here == shift[0])
        model.there = pyo.Constraint(expr=there == 1 + shift[1])
    model.line = pyo.Constraint(expr=(-3 + shift[2], model.f, 1.5 + shift[2]))
    model.both = pyo.Constraint(expr=model.a + model.b >= 2.5 + shift[3])
    cost = 10 * model.a + 30 * model.b - 45 * model.d
    if kind == "QP":
        cost = cost + 2 * model.a**2 + model.b**2 + 3 * model.d**2 + model.a * model.b
    model.obj = pyo.Objective(expr=cost if sense == "min" else -cost, sense=SENSES[sense])
    return model


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize("kind", ["LP", "QP"])
@pytest.mark.parametrize("solver", [None, "highs", "clarabel"])
def test_optimal_and_every_dual_is_a_slope(solver, kind, sense, flipped):
    model = market(kind, sense, flipped, {})
    program = compile(model)
    assert program.problem_class == kind
    prove(model, program, solve(program, solver))
    if flipped:  # written the other way round, a row's right-hand side moves the other way
        prove_marginals(
            lambda moved: market(kind, sense, True, {i: v if i > 1 else -v for i, v in moved.items()}), 4, solver
        )
    else:
        prove_marginals(lambda moved: market(kind, sense, False, moved), 4, solver)


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
@pytest.mark.parametrize("sense", SENSES)
def test_reduced_costs_are_slopes_of_bounds(solver, sense):
    def at(upper, lower):
        model = pyo.ConcreteModel()
        model.x, model.y = pyo.Var(bounds=(0, upper)), pyo.Var(bounds=(lower, None))
        model.c = pyo.Constraint(expr=model.x + model.y <= 10)
        gain = 5 * model.x - 2 * model.y - 0.1 * model.x**2
        model.obj = pyo.Objective(expr=gain if sense == "max" else -gain, sense=SENSES[sense])
        return solve(compile(model), solver)

    base, step = at(3.0, 1.0), 1e-4
    slopes = [
        (at(3.0 + step, 1.0).objective - at(3.0 - step, 1.0).objective) / (2 * step),
        (at(3.0, 1.0 + step).objective - at(3.0, 1.0 - step).objective) / (2 * step),
    ]
    np.testing.assert_allclose(base.reduced_cost, slopes, rtol=1e-4)


@st.composite
def programs(draw):
    """A random feasible and bounded program: a point inside its limits is drawn first."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    n, m = draw(st.integers(1, 6)), draw(st.integers(0, 5))
    inside = random.integers(-3, 4, n).astype(float)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n))
    x = list(model.x.values())
    for variable, value in zip(x, inside, strict=True):
        width = random.integers(0, 4, 2)
        variable.setlb(value - width[0])
        variable.setub(value + width[1])
    model.c = pyo.ConstraintList()
    for _ in range(m):
        a = random.integers(-2, 3, n).astype(float)
        if not a.any():
            a[0] = 1.0
        body, at = sum(k * v for k, v in zip(a, x, strict=True)), float(a @ inside)
        low, high = at - random.integers(0, 3), at + random.integers(0, 3)
        kinds = [body == at, body <= high, body >= low, (low, body, high), -body == -at]
        model.c.add(kinds[random.integers(len(kinds))])
    cost = sum(float(k) * v for k, v in zip(random.integers(-5, 6, n), x, strict=True))
    if draw(st.booleans()):
        root = random.integers(-2, 3, (n, n))
        square = root.T @ root * draw(st.sampled_from([1e-3, 1.0]))
        cost = cost + sum(float(square[i, j]) * x[i] * x[j] for i in range(n) for j in range(n) if square[i, j])
    sense = draw(st.sampled_from(list(SENSES)))
    model.obj = pyo.Objective(expr=cost if sense == "min" else -cost, sense=SENSES[sense])
    return model


@given(programs())
def test_two_solvers_agree_and_both_are_proved(model):
    program = compile(model)
    chosen, other = solve(program), solve(program, "clarabel" if program.P is None else "highs")
    prove(model, program, chosen)
    # HiGHS' QP method may give up on degenerate problems; then it must say so rather than be wrong.
    assume(other.status.has is Has.OPTIMAL)
    prove(model, program, other)
    assert chosen.objective == pytest.approx(other.objective, rel=1e-6, abs=1e-6)


def feeder(buses: int, power: float, price: float, curvature: float, **kind: bool) -> Program:
    """A radial market as arrays: a bid and an offer per bus, in units in which power and price have a given size."""
    import scipy.sparse as sp

    random = np.random.default_rng(buses)
    parent = np.array([-1, *(random.integers(max(0, i - 5), i) for i in range(1, buses))])
    orders, lines = 2 * buses, buses - 1
    model = pyo.ConcreteModel()
    model.v = pyo.Var(range(orders + lines))
    at = np.r_[np.arange(buses), random.integers(0, buses, buses), np.arange(1, buses), parent[1:]]
    column = np.r_[np.arange(orders), orders + np.arange(lines), orders + np.arange(lines)]
    value = np.r_[-np.ones(buses), np.ones(buses), np.ones(lines), -np.ones(lines)]
    width = random.uniform(0.1, 2.0, orders) * power
    rating = random.uniform(0.5, 3.0, lines) * power if kind.get("tight") else np.full(lines, 1e6 * power * buses)
    c = np.r_[random.uniform(0.5, 1, buses) * price, -random.uniform(0.1, 0.7, buses) * price, np.zeros(lines)]
    if kind.get("idle"):  # no bid is worth what any offer costs: nothing is traded
        c[:buses] *= 0.1
        c[buses:] *= 10.0
    bend = np.r_[-curvature * random.uniform(0.5, 1, orders), np.zeros(lines)]
    zero = np.zeros(buses)
    return Program(
        variables=list(model.v.values()),
        rows=[],
        A=sp.csr_array((value, (at, column)), shape=(buses, orders + lines)),
        row_lower=zero,
        row_upper=zero,
        lower=np.r_[np.zeros(orders), -rating],
        upper=np.r_[width, rating],
        integer=np.zeros(orders + lines, dtype=bool),
        c=c,
        P=sp.diags_array(bend, format="csc"),
        sense=-1,
    )


@pytest.mark.parametrize("kind", [{}, {"tight": True}, {"idle": True}], ids=["loose", "tight", "idle"])
@pytest.mark.parametrize("curvature", [1e-9, 1e-4, 1.0])
@pytest.mark.parametrize("price", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("power", [1e-3, 1.0, 1e4, 1e8])
def test_any_size_of_power_and_money_is_solved_accurately(power, price, curvature, kind):
    program = feeder(25, power, price, curvature, **kind)
    solution = solve(program, "clarabel")
    assert solution.status.has is Has.OPTIMAL, solution.message
    assert solution.residuals.worst <= 2e-7
    assert (solution.x >= program.lower).all()
    assert (solution.x <= program.upper).all()


def test_residuals_see_what_is_wrong():
    program = feeder(6, 1.0, 1.0, 0.1)
    good = solve(program)
    assert good.residuals.ok(1e-7)
    moved = good.x.copy()
    moved[0] += 0.01
    assert residuals(program, moved, good.row_dual, good.reduced_cost).primal > 1e-3
    assert residuals(program, good.x, good.row_dual + 0.01, good.reduced_cost).dual > 1e-3
    flipped = residuals(program, good.x, -good.row_dual, -good.reduced_cost)
    assert flipped.dual > 1e-2
    assert flipped.gap > 1e-2
    lazy = residuals(program, 0.5 * good.x, good.row_dual, good.reduced_cost)
    assert lazy.gap > 1e-3
    assert lazy.complementarity > 1e-3
