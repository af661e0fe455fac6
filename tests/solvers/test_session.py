"""Sessions of any Pyomo model: what they solve is what solving anew gives, whatever is set; nothing else can be set."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.errors import FormulationError, UnknownNameError
from mktopt.solvers import SOLVERS as SOLVER_TABLE
from mktopt.solvers import Has, Stopped, compile, residuals, solve
from mktopt.solvers.sessions.session import Answer, Session

SOLVERS = {"LP": ("highs", "clarabel"), "QP": ("clarabel",), "MILP": ("highs",)}


def drawn_model(seed: int, kind: str, sense: int = 1) -> Any:
    """A model whose every kind of number is a mutable Param: costs, curvature, bounds, limits of rows, coefficients.

    min cᵀx + ½ xᵀ diag(p) x,  rows of three kinds, upper bounds; feasible and bounded whatever the parameters.
    """
    rng, n = np.random.default_rng(seed), 6
    model, columns = pyo.ConcreteModel(), range(n)

    def parameter(name: str, index: Any, values: Any, **kinds: Any) -> Any:
        model.add_component(name, pyo.Param(list(index), initialize=dict(enumerate(values)), mutable=True, **kinds))
        return model.component(name)

    domain = pyo.NonNegativeIntegers if kind == "MILP" else pyo.Reals
    cost = parameter("cost", columns, rng.normal(0, 5, n))
    room = parameter("room", columns, rng.uniform(1, 20, n), within=pyo.NonNegativeReals)
    demand = parameter("demand", range(2), rng.uniform(-2, 2, 2))
    effort = parameter("effort", range(2), rng.uniform(0.5, 2, 2))
    model.x = pyo.Var(columns, domain=domain, bounds=lambda _, j: (0 if kind == "MILP" else -room[j], room[j]))
    model.slack = pyo.Var(range(2))
    model.late = pyo.Var(range(2), bounds=(0, None))
    model.balance = pyo.Constraint(
        range(2), rule=lambda m, i: demand[i] == sum((1 + (i + j) % 3) * m.x[j] for j in columns) + m.slack[i]
    )
    model.size = pyo.Constraint(range(2), rule=lambda m, i: effort[i] * m.slack[i] - m.late[i] <= 1.5)
    model.other = pyo.Constraint(range(2), rule=lambda m, i: (-3, m.slack[i] + m.late[i], None))
    goal = sum(cost[j] * model.x[j] for j in columns) + sum(7.0 * model.late[i] for i in range(2))
    if kind == "QP":
        bend = parameter("bend", columns, rng.uniform(0, 2, n) * (rng.random(n) < 0.7), within=pyo.NonNegativeReals)
        goal = goal + sum(0.5 * bend[j] * model.x[j] ** 2 for j in columns)
    model.goal = pyo.Objective(expr=sense * goal, sense=pyo.minimize if sense > 0 else pyo.maximize)
    return model


def redrawn(session: Session, rng: np.random.Generator) -> None:
    for name in session.names:
        old = session.get(name)
        new = old * rng.uniform(0.5, 1.6, len(old)) + (rng.normal(0, 1, len(old)) if name in ("cost", "demand") else 0)
        session.set(name, new)


def write(model: Any, session: Session) -> None:
    """The session's numbers into a model, which the session itself never does."""
    for name, keys in session.names.items():
        for key, value in zip(keys, session.get(name), strict=True):
            model.component(name)[key] = value


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["LP", "QP", "MILP"]),
    sense=st.sampled_from([1, -1]),
    data=st.data(),
)
def test_a_session_solves_what_the_model_with_its_numbers_is(seed: int, kind: str, sense: int, data: Any) -> None:
    solver = data.draw(st.sampled_from(SOLVERS[kind]))
    model, rng = drawn_model(seed, kind, sense), np.random.default_rng(seed)
    untouched = {p.name: [pyo.value(p[k]) for k in p] for p in model.component_objects(pyo.Param)}
    session = Session(model, solver)
    for _ in range(4):
        redrawn(session, rng)
        found = session.solve()
        twin = drawn_model(seed, kind, sense)
        write(twin, session)
        program = compile(twin)
        anew = solve(program, solver)
        assert found.status.has is Has.OPTIMAL
        assert found.objective == pytest.approx(anew.objective, rel=1e-6, abs=1e-6)
        assert found.objective == pytest.approx(program.objective(found.x), rel=1e-6, abs=1e-6)
        if kind == "MILP":
            assert residuals(program, found.x).ok()
        else:
            assert residuals(program, found.x, found.row_dual, found.reduced_cost).ok()
    assert {p.name: [pyo.value(p[k]) for k in p] for p in model.component_objects(pyo.Param)} == untouched
    assert all(variable.value is None for variable in model.x.values())
    assert session.statistics["solves"] == 4


@pytest.mark.parametrize(("kind", "solver"), [("LP", "highs"), ("LP", "clarabel"), ("QP", "clarabel")])
def test_the_quick_way_is_the_usual_one(kind: str, solver: str) -> None:
    session, rng = Session(drawn_model(3, kind), solver), np.random.default_rng(0)
    start = {name: session.get(name) for name in session.names}
    for _ in range(200):
        for name, values in start.items():
            session.set(name, values * rng.uniform(0.8, 1.25, len(values)))
        assert session.solve().status.has is Has.OPTIMAL
    assert session.statistics["fallbacks"] <= 2, session.statistics


@pytest.mark.parametrize(("kind", "solver"), [("LP", "highs"), ("LP", "clarabel"), ("QP", "clarabel")])
def test_prices_are_what_a_perturbation_says(kind: str, solver: str) -> None:
    session = Session(drawn_model(11, kind), solver)
    found = session.solve()
    program = session.parametric.program
    for i in range(2):
        step, ends = 1e-4, []
        for sign in (1, -1):
            session.set("demand", {i: session.get("demand")[i] + sign * step})
            ends.append(session.solve().objective)
            session.set("demand", {i: session.get("demand")[i] - sign * step})
        row = program.row_names().index(f"balance[{i}]")
        # The demand is a right-hand side, on whichever side of the row Pyomo keeps it.
        slope = abs(ends[0] - ends[1]) / (2 * step)
        assert abs(found.row_dual[row]) == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_values_are_set_by_array_number_or_key() -> None:
    session = Session(drawn_model(1, "LP"))
    assert session.names["demand"] == [0, 1]
    session.set("demand", [1.0, 2.0])
    session.set("room", 5)
    session.set("demand", {1: -3.0})
    assert session.get("demand").tolist() == [1.0, -3.0]
    assert session.get("room").tolist() == [5.0] * 6
    session.get("room")[:] = 0  # a copy
    assert session.get("room").tolist() == [5.0] * 6


@pytest.mark.parametrize(
    ("name", "values", "error", "words"),
    [
        ("demnd", [1, 2], UnknownNameError, "demand"),
        ("demand", [1.0, 2.0, 3.0], FormulationError, r"'demand' has 2 values.*shape \(3,\)"),
        ("demand", [[1.0, 2.0]], FormulationError, r"shape \(1, 2\)"),
        ("demand", [1.0, np.nan], FormulationError, "'demand' was given NaN for 1"),
        ("demand", [np.inf, 1.0], FormulationError, "'demand' is .* for 0 and cannot become inf: .*structure"),
        ("demand", {7: 1.0}, UnknownNameError, "key of parameter 'demand'"),
        ("demand", {1: "much"}, FormulationError, "'demand' takes a number for 1"),
        ("demand", "much", FormulationError, "'demand' takes numbers"),
        ("room", -1.0, FormulationError, "'room' must be at least 0, and -1 was given for 0"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(name: str, values: Any, error: Any, words: str) -> None:
    session = Session(drawn_model(1, "LP"))
    before = session.theta.copy()
    with pytest.raises(error, match=words):
        session.set(name, values)
    assert (session.theta == before).all()


def two_limits(low: float, high: float) -> Any:
    model = pyo.ConcreteModel()
    model.low = pyo.Param(initialize=low, mutable=True)
    model.high = pyo.Param(initialize=high, mutable=True)
    model.x = pyo.Var(bounds=(model.low, model.high))
    model.y = pyo.Var(bounds=(0, 10))
    model.row = pyo.Constraint(expr=model.x + model.y >= 3)
    model.goal = pyo.Objective(expr=2 * model.x + model.y)
    return model


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_crossing_limits_are_named_when_solving(solver: str) -> None:
    session = Session(two_limits(0.0, 5.0), solver)
    session.set("low", 6.0)
    with pytest.raises(FormulationError, match=r"'x' cross.*low = 6, high = 5|'x' cross.*high = 5, low = 6"):
        session.solve()
    session.set("high", 8.0)
    assert session.solve().objective == pytest.approx(12.0)


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_infeasible_is_an_answer_and_the_session_goes_on(solver: str) -> None:
    session = Session(two_limits(0.0, 5.0), solver)
    session.set("high", -20.0)
    session.set("low", -30.0)
    assert session.solve().status.stopped is Stopped.INFEASIBLE
    session.set("high", 5.0)
    session.set("low", 0.0)
    assert session.solve().objective == pytest.approx(3.0)


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_unbounded_is_an_answer(solver: str) -> None:
    model = pyo.ConcreteModel()
    model.price = pyo.Param(initialize=1.0, mutable=True)
    model.x = pyo.Var(bounds=(0, None))
    model.y = pyo.Var(bounds=(0, 4))
    model.row = pyo.Constraint(expr=model.x - model.y >= -1)
    model.goal = pyo.Objective(expr=model.price * model.x - model.y)
    session = Session(model, solver)
    assert session.solve().objective == pytest.approx(-1.0)
    session.set("price", -1.0)
    assert session.solve().status.stopped is Stopped.UNBOUNDED


def test_data_of_another_size_are_solved_too() -> None:
    session, rng = Session(drawn_model(5, "QP"), "clarabel"), np.random.default_rng(1)
    start = {name: session.get(name) for name in session.names}
    for scale in (1e-4, 1.0, 1e5):
        for name in ("room", "demand"):
            session.set(name, start[name] * scale * rng.uniform(0.9, 1.1))
        found = session.solve()
        assert found.status.has is Has.OPTIMAL
        assert found.residuals is not None
        assert found.residuals.ok()
        assert found.objective == pytest.approx(solve(session.program).objective, rel=1e-6)


def test_an_answer_that_residuals_do_not_support_is_sought_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(drawn_model(4, "LP"), "highs")
    honest = session.solve()
    check = session._backend._check  # type: ignore[attr-defined]
    really = check.supports

    def shifted(x: Any, y: Any) -> bool:
        return bool(really([value + 1e-3 for value in x], y))

    monkeypatch.setattr(check, "supports", shifted)
    again = session.solve()
    assert session.statistics == {"solves": 2, "fallbacks": 1}
    assert "solved anew" in again.message
    np.testing.assert_allclose(again.x, honest.x, atol=1e-8)


def test_curved_rows_are_solved_with_other_numbers() -> None:
    model = pyo.ConcreteModel()
    model.radius = pyo.Param(initialize=4.0, mutable=True)
    model.x = pyo.Var(range(2), bounds=(-10, 10))
    model.ball = pyo.Constraint(expr=model.x[0] ** 2 + model.x[1] ** 2 <= model.radius)
    model.goal = pyo.Objective(expr=model.x[0] + model.x[1])
    session = Session(model)
    for radius in (4.0, 9.0, 1.0):
        session.set("radius", radius)
        found = session.solve()
        assert found.objective == pytest.approx(-np.sqrt(2 * radius), rel=1e-6)
        assert found.row_dual[0] == pytest.approx(-1 / np.sqrt(2 * radius), rel=1e-5)


@pytest.mark.skipif(not SOLVER_TABLE["ipopt"].available(), reason="IPOPT is not installed")
def test_ipopt_starts_from_its_last_answer() -> None:
    model = pyo.ConcreteModel()
    model.need = pyo.Param(initialize=1.0, mutable=True)
    model.price = pyo.Param(initialize=2.0, mutable=True)
    model.x, model.y = pyo.Var(bounds=(0.1, 5)), pyo.Var(bounds=(0, 5))
    model.row = pyo.Constraint(expr=model.x + model.y >= model.need)
    model.curve = pyo.Constraint(expr=pyo.exp(model.x) * model.y <= 20)
    model.goal = pyo.Objective(expr=model.price * model.x + pyo.sin(model.y) + model.y)
    session, iterations = Session(model), []
    for need in (1.0, 2.0, 3.0, 2.5):
        session.set("need", need)
        session.set("price", 1 + need / 3)
        found, cold = session.solve(), solve(session.program)
        assert found.status.has is Has.LOCAL
        assert found.objective == pytest.approx(cold.objective, rel=1e-7)
        iterations.append((found.iterations, cold.iterations))
    assert all(warm < cold for warm, cold in iterations[1:])


def solved_elsewhere(session: Session, values: list[float]) -> list[float]:
    found = []
    for value in values:
        session.set("demand", value)
        found.append(session.solve().objective)
    return found


def test_a_session_works_in_another_process() -> None:
    session = Session(drawn_model(2, "QP"))
    session.set("cost", session.get("cost") * 1.1)
    values = [0.5, 1.0, 1.5]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(solved_elsewhere, (session, values))
    np.testing.assert_allclose(there, solved_elsewhere(session, values), rtol=1e-6)


def test_a_pickled_session_keeps_its_numbers_and_names() -> None:
    session = Session(drawn_model(2, "LP"))
    session.set("cost", 3.0)
    copy = pickle.loads(pickle.dumps(session))  # noqa: S301 - our own bytes
    assert copy.names == session.names
    assert copy.program.row_names() == session.program.row_names()
    copy.set("cost", 1.0)
    assert session.get("cost").tolist() == [3.0] * 6
    assert copy.solve().objective != pytest.approx(session.solve().objective)
    with pytest.raises(FormulationError, match="must be at least 0"):
        copy.set("room", -1.0)


def test_an_answer_is_a_solution_in_every_respect() -> None:
    session = Session(drawn_model(2, "QP"))
    first = session.solve()
    assert isinstance(first, Answer)
    before = first.residuals
    session.set("cost", -5.0)
    session.solve()
    assert first.residuals == before
    plain = first.replace(message="mine")
    assert (plain.message, plain.solver, plain.objective) == ("mine", "clarabel", first.objective)
    assert pickle.loads(pickle.dumps(first)).objective == first.objective  # noqa: S301 - our own bytes
    assert first.seconds["total"] > 0
    assert first.has_duals


def bent(curvature: float, cross: float = 0.0) -> Any:
    model = pyo.ConcreteModel()
    model.bend = pyo.Param(initialize=curvature, mutable=True)
    model.cross = pyo.Param(initialize=cross, mutable=True)
    model.x, model.y = pyo.Var(bounds=(-1, 3)), pyo.Var(bounds=(-1, 3))
    model.row = pyo.Constraint(expr=model.x + model.y <= 4)
    bowl = model.bend * model.x**2 + model.y**2 + model.cross * model.x * model.y
    model.goal = pyo.Objective(expr=bowl - model.x)
    return model


@pytest.mark.parametrize("name", ["bend", "cross"])
def test_a_curve_turned_upside_down_is_never_taken_for_convex(name: str) -> None:
    session = Session(bent(1.0, 0.5 if name == "cross" else 0.0), "clarabel")
    assert session.solve().status.has is Has.OPTIMAL
    session.set(name, -3.0)
    with pytest.raises(FormulationError, match="clarabel"):
        session.solve()
    session.set(name, 0.25)
    assert session.solve().objective == pytest.approx(solve(session.program).objective, rel=1e-6)


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_a_row_without_variables_is_still_checked(solver: str) -> None:
    model = two_limits(0.0, 5.0)
    model.z = pyo.Var(initialize=2.0)
    model.z.fix(2.0)
    model.high_enough = pyo.Constraint(expr=model.z >= model.low)
    session = Session(model, solver)
    assert session.solve().objective == pytest.approx(3.0)
    session.set("low", 2.5)
    assert session.solve().status.stopped is Stopped.INFEASIBLE
