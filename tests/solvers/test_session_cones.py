"""Sessions of programs with cones and logarithms: new numbers by products, answers that prove themselves."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.errors import FormulationError, UnknownNameError
from mktopt.solvers import Has, Program, Stopped, residuals, solve
from mktopt.solvers.cones.conic import recognise
from mktopt.solvers.cones.standard_form import standard_form
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.cones import ConeSession, refused
from mktopt.solvers.sessions.residuals import Check
from mktopt.solvers.sessions.session import Session
from tests.solvers.drawn_cones import log_row, product_row, random_program, squares_row

MAKERS = {"squares": (squares_row,), "products": (squares_row, product_row), "logs": (squares_row, log_row)}


def parametrised(program: Program, random: np.random.Generator, frozen: bool = True) -> Parametric:
    """Parameters, 0 at first, that enter costs, curvature, coefficients, limits and logarithms of a program.

    frozen: rows with a product on their greater side, and lower bounds of such columns, stay as they are.
    """
    rows, columns = np.ones(program.m, dtype=bool), np.ones(program.n, dtype=bool)
    if frozen and program.quadratics is not None:
        conic = recognise(program)
        rows[np.setdiff1d(conic.curved, conic.rows[conic.linear])] = False
        columns[program.quadratics.first] = columns[program.quadratics.second] = False
    blocks: dict[str, list[Any]] = {}
    counts = {"cost": program.n, "limit": program.m, "bound": program.n, "entry": program.A.nnz, "bend": 1}
    logs = program.logs
    if logs is not None:
        counts |= {"weight": len(logs.row), "inside": logs.M.nnz, "offset": len(logs.row)}

    def enters(target: str, name: str, values: Any, weight: Any) -> None:
        if len(values):
            blocks.setdefault(target, []).append((name, np.asarray(values, dtype=float), weight))

    def diagonal(weight: Any) -> Any:
        return sp.diags_array(np.asarray(weight, dtype=float))

    at = np.repeat(np.arange(program.m), np.diff(program.A.indptr))
    enters("c", "cost", program.c, diagonal(random.uniform(0.5, 2, program.n)))
    enters("A", "entry", program.A.data, diagonal(rows[at] * 0.1))
    for target in ("row_lower", "row_upper"):
        value = getattr(program, target)
        enters(target, "limit", value, diagonal(rows & np.isfinite(value)))
    pinned = program.lower == program.upper
    enters("lower", "bound", program.lower, diagonal(pinned & columns))
    enters("upper", "bound", program.upper, diagonal(~pinned | columns))
    if program.P is not None:
        enters("P", "bend", program.P.data, sp.csr_array(program.P.data[:, None]))
    if logs is not None:
        enters("log_coef", "weight", logs.coef, diagonal(logs.coef))
        enters("log_M", "inside", logs.M.data, diagonal(np.full(logs.M.nnz, 0.1)))
        enters("log_offset", "offset", logs.offset, diagonal(np.ones(len(logs.row))))
    used = [name for name in counts if any(part[0] == name for parts in blocks.values() for part in parts)]
    start = dict(zip(used, np.cumsum([0, *(counts[name] for name in used)]).tolist(), strict=False))
    total = sum(counts[name] for name in used)
    maps, base = {}, {}
    for target, ((name, values, weight),) in blocks.items():
        entries = sp.coo_array(weight)
        live = entries.data != 0.0
        where = entries.row[live], start[name] + entries.col[live]
        maps[target] = sp.csr_array((entries.data[live], where), shape=(len(values), total))
        base[target] = values
    index = {name: list(range(counts[name])) for name in used}
    return Parametric(program, index, start, np.zeros(total), maps, base)


def redrawn(session: Session, random: np.random.Generator) -> None:
    """New numbers for a random choice of the parameters; curvature and weights keep their sign."""
    for name, keys in session.names.items():
        if random.random() < 0.3:
            continue
        reach = {"cost": 1.0, "limit": 0.1, "bound": 0.2, "entry": 0.5, "bend": 0.9, "weight": 0.8, "inside": 0.3}
        new = random.uniform(-1, 1, len(keys)) * reach.get(name, 0.05)
        session.set(name, np.abs(new) if name == "bound" else new)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(list(MAKERS)))
def test_a_session_solves_what_solving_anew_does(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    program, _ = random_program(seed, MAKERS[kind])
    if program.problem_class not in ConeSession.takes or program.empty_rows.any():
        return
    parametric = parametrised(program, random)
    assert refused(parametric) == ""
    session = Session(parametric)
    assert isinstance(session._backend, ConeSession)
    for step in range(4):
        if step:
            redrawn(session, random)
        found, there = session.solve(), parametric.at(session.theta)
        anew = solve(there)
        assert found.status.has is anew.status.has, (found.message, anew.message)
        if anew.status.ok:
            turnover = 1.0 + float(np.abs(there.c) @ np.abs(anew.x))
            assert found.objective == pytest.approx(anew.objective, rel=1e-6, abs=1e-6 * turnover)
            assert found.objective == pytest.approx(there.objective(found.x), rel=1e-9, abs=1e-9)
            assert residuals(there, found.x, found.row_dual, found.reduced_cost).ok()
        else:
            assert found.status.stopped is anew.status.stopped


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(list(MAKERS)))
def test_products_give_the_arrays_that_the_form_has(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    program, _ = random_program(seed, MAKERS[kind])
    if program.problem_class not in ConeSession.takes or program.empty_rows.any():
        return
    session = Session(parametrised(program, random))
    backend: Any = session._backend
    backend._updated(session.theta, 0)
    arrays = backend._arrays
    redrawn(session, random)
    arrays.refresh(session.theta, session.dirty)
    there = session.parametric.at(session.theta)
    data = standard_form(there, backend._equal, backend._pinned).scaled(arrays.scales)
    for name, wanted in {"q": data.q, "P": data.P.data, "b": data.h, "A": data.G.data}.items():
        np.testing.assert_allclose(arrays.at[name], wanted, rtol=1e-9, atol=1e-12)


def costlier(program: Program, factor: float) -> Program:
    """The same with its objective times a factor."""
    logs = program.logs
    if logs is not None:
        logs = replace(logs, coef=np.where(logs.row < 0, factor, 1.0) * logs.coef)
    return program.replace(c=factor * program.c, P=None if program.P is None else factor * program.P, logs=logs)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(list(MAKERS)),
    digits=st.floats(4, 9),
    cost=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_what_the_quick_look_supports_has_small_residuals(seed: int, kind: str, digits: float, cost: float) -> None:
    random = np.random.default_rng(seed)
    program = costlier(random_program(seed, MAKERS[kind])[0], cost)
    parametric = parametrised(program, random)
    parametric = Parametric(**{**parametric.__dict__, "theta": 0.02 * random.uniform(0, 1, len(parametric.theta))})
    there = parametric.at(parametric.theta)
    solution = solve(there)
    if not solution.has_duals or there.remainder is not None or there.problem_class not in ConeSession.takes:
        return
    check = Check(parametric, parametric.theta)
    exact = residuals(there, solution.x, solution.row_dual, solution.reduced_cost)
    if exact.worst < 1e-10 and np.abs(solution.x).max() > 1e-2:
        assert check.supports(solution.x, solution.row_dual, solution.reduced_cost)
        assert check.value + there.constant == pytest.approx(there.objective(solution.x), rel=1e-12, abs=1e-12)
    for _ in range(20):
        noise = [
            10**-digits * np.abs(part).max(initial=0.0) * random.normal(size=len(part)) * random.integers(2)
            for part in (solution.x, solution.row_dual, solution.reduced_cost)
        ]
        x = check.clip(solution.x + noise[0])
        y, z = solution.row_dual + noise[1], solution.reduced_cost + noise[2]
        if check.supports(x, y, z):
            assert residuals(there, x, y, z).ok()


def feeder(size: int = 12, far: float = np.inf) -> Any:
    """A chain of lines with apparent-power limits P² + Q² <= S², offers and demand that change; far: idle bounds."""
    random, model = np.random.default_rng(size), pyo.ConcreteModel()
    buses = range(size)
    model.ask = pyo.Param(buses, initialize=lambda m, i: random.uniform(5, 60), mutable=True)
    model.need = pyo.Param(buses, initialize=lambda m, i: random.uniform(0.2, 1), mutable=True)
    model.rating = pyo.Param(buses, initialize=lambda m, i: random.uniform(1, 9), mutable=True)
    model.g, model.q = pyo.Var(buses, bounds=(0, 2)), pyo.Var(buses, bounds=(-0.5, 0.5))
    model.shed = pyo.Var(buses, bounds=(0, None))
    model.P, model.Q = pyo.Var(buses, bounds=(-far, far)), pyo.Var(buses, bounds=(-far, far))
    model.power = pyo.Constraint(
        buses, rule=lambda m, i: m.P[i] + m.g[i] + m.shed[i] - (m.P[i + 1] if i + 1 < size else 0) == m.need[i]
    )
    model.reactive = pyo.Constraint(
        buses, rule=lambda m, i: m.Q[i] + m.q[i] - (m.Q[i + 1] if i + 1 < size else 0) == 0.3 * m.need[i]
    )
    model.limit = pyo.Constraint(buses, rule=lambda m, i: m.P[i] ** 2 + m.Q[i] ** 2 <= m.rating[i])
    goal = sum(model.ask[i] * model.g[i] + model.g[i] ** 2 + 500 * model.shed[i] for i in buses)
    model.goal = pyo.Objective(expr=30 * model.P[0] + goal)
    return model


@pytest.mark.parametrize("far", [np.inf, 1e3, 1e7])
def test_the_quick_way_is_the_usual_one(monkeypatch: pytest.MonkeyPatch, far: float) -> None:
    polished = []
    really = ConeSession._polished
    monkeypatch.setattr(ConeSession, "_polished", lambda self, *a: polished.append(1) or really(self, *a))
    session, random = Session(feeder(far=far)), np.random.default_rng(0)
    start = {name: session.get(name) for name in session.names}
    for _ in range(60):
        for name, values in start.items():
            session.set(name, values * random.uniform(0.8, 1.25, len(values)))
        assert session.solve().status.has is Has.OPTIMAL
    assert session.statistics["fallbacks"] == 0
    assert len(polished) <= 10


def test_prices_are_what_a_perturbation_says() -> None:
    session = Session(feeder())
    found = session.solve()
    names = session.parametric.program.row_names()
    for row, name in (("power", "need"), ("limit", "rating")):
        ends, i = [], 3
        for sign in (1, -1):
            start = session.get(name)[i]
            session.set(name, {i: start + sign * 1e-4})
            ends.append(session.solve().objective)
            session.set(name, {i: start})
        slope = (ends[0] - ends[1]) / 2e-4
        price = found.row_dual[names.index(f"{row}[{i}]")]
        # What is needed stands on whichever side of its row Pyomo keeps it; a rating is a right-hand side.
        assert (abs(price) if name == "need" else price) == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_data_of_another_size_are_scaled_anew() -> None:
    session = Session(feeder())
    start = {name: session.get(name) for name in session.names}
    for scale in (1.0, 1e-5, 1e4, 1.0):
        session.set("ask", start["ask"] * scale)
        session.set("rating", start["rating"] * scale)
        found = session.solve()
        assert found.status.has is Has.OPTIMAL
        assert found.residuals is not None
        assert found.residuals.ok()
        assert found.objective == pytest.approx(solve(session.program).objective, rel=1e-6)


def fisher(buyers: int = 6, goods: int = 4) -> Any:
    """A market of buyers with budgets, max Σ budget log(utility): prices are the duals of supply."""
    random, model = np.random.default_rng(1), pyo.ConcreteModel()
    who, what = range(buyers), range(goods)
    model.budget = pyo.Param(who, initialize=lambda m, i: random.uniform(1, 3), mutable=True)
    model.value = pyo.Param(who, what, initialize=lambda m, i, j: random.uniform(0.5, 2), mutable=True)
    model.supply = pyo.Param(what, initialize=1.0, mutable=True)
    model.x = pyo.Var(who, what, bounds=(0, None))
    model.stock = pyo.Constraint(what, rule=lambda m, j: sum(m.x[i, j] for i in who) <= m.supply[j])
    utility = {i: sum(model.value[i, j] * model.x[i, j] for j in what) for i in who}
    model.goal = pyo.Objective(expr=sum(model.budget[i] * pyo.log(utility[i]) for i in who), sense=pyo.maximize)
    return model


def test_what_buyers_pay_are_their_budgets_whatever_these_are() -> None:
    """Eisenberg and Gale (1959): the prices of the program's optimum exhaust all budgets."""
    session, random = Session(fisher()), np.random.default_rng(0)
    assert isinstance(session._backend, ConeSession)
    for _ in range(10):
        for name in session.names:
            session.set(name, random.uniform(0.5, 3, len(session.names[name])))
        found = session.solve()
        spent = float((found.row_dual * session.get("supply")).sum())
        assert spent == pytest.approx(session.get("budget").sum(), rel=1e-5)
    assert session.statistics["fallbacks"] == 0


def test_a_weight_of_the_wrong_sign_is_never_taken_for_concave() -> None:
    session = Session(fisher(), "clarabel")
    assert session.solve().status.has is Has.OPTIMAL
    session.set("budget", {2: -1.0})
    with pytest.raises(FormulationError, match="logarithm"):
        session.solve()
    session.set("budget", {2: 1.5})
    assert session.solve().objective == pytest.approx(solve(session.program).objective, rel=1e-6)


def ball(bend: float = 1.0) -> Any:
    model = pyo.ConcreteModel()
    model.bend, model.cross = pyo.Param(initialize=bend, mutable=True), pyo.Param(initialize=0.5, mutable=True)
    model.low = pyo.Param(initialize=-5.0, mutable=True)
    model.x, model.y = pyo.Var(bounds=(-5, 5)), pyo.Var(bounds=(-5, 5))
    model.row = pyo.Constraint(expr=model.x**2 + model.y**2 <= 2)
    model.plane = pyo.Constraint(expr=model.x + model.y >= model.low)
    model.goal = pyo.Objective(
        expr=model.bend * model.x**2 + model.y**2 + model.cross * model.x * model.y - 3 * model.x
    )
    return model


@pytest.mark.parametrize(("name", "value"), [("bend", -3.0), ("cross", 4.0)])
def test_a_curve_turned_upside_down_is_never_taken_for_convex(name: str, value: float) -> None:
    session = Session(ball(), "clarabel")
    assert session.solve().status.has is Has.OPTIMAL
    before = session.get(name)
    session.set(name, value)
    with pytest.raises(FormulationError, match="clarabel"):
        session.solve()
    session.set(name, before)
    assert session.solve().objective == pytest.approx(solve(session.program).objective, rel=1e-6)


def test_infeasible_is_an_answer_and_the_session_goes_on() -> None:
    session = Session(ball())
    session.set("low", 3.0)
    assert session.solve().status.stopped is Stopped.INFEASIBLE
    session.set("low", 1.0)
    assert session.solve().objective == pytest.approx(solve(session.program).objective, rel=1e-6)


@pytest.mark.parametrize("what", ["squares", "product", "bound"])
def test_what_has_no_product_is_solved_anew(what: str) -> None:
    model = pyo.ConcreteModel()
    model.p = pyo.Param(initialize=1.0, mutable=True)
    model.x = pyo.Var(bounds=(-5, 5))
    model.u, model.v = pyo.Var(bounds=(model.p - 1 if what == "bound" else 0, 9)), pyo.Var(bounds=(0, 9))
    weight, extra = (model.p if what == "squares" else 1.0), (model.p if what == "product" else 1.0)
    model.row = pyo.Constraint(expr=weight * model.x**2 + extra <= model.u * model.v)
    model.goal = pyo.Objective(expr=model.u + 2 * model.v - model.x + model.p * model.x)
    session = Session(model)
    assert not isinstance(session._backend, ConeSession)
    assert refused(session.parametric)
    for value in (1.0, 1.5, 2.0):
        session.set("p", value)
        assert session.solve().objective == pytest.approx(solve(session.program).objective, rel=1e-6)


@pytest.mark.parametrize("make", [feeder, fisher])
def test_a_pickled_session_goes_on_with_its_numbers(make: Any) -> None:
    session = Session(make())
    name = next(iter(session.names))
    session.set(name, session.get(name) * 1.1)
    copy = pickle.loads(pickle.dumps(session))  # noqa: S301 - our own bytes
    assert isinstance(copy._backend, ConeSession)
    assert copy.solve().objective == pytest.approx(session.solve().objective, rel=1e-8)


def test_an_answer_that_residuals_do_not_support_is_sought_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from mktopt.solvers.sessions.cones import _Arrays

    session = Session(feeder())
    honest, really = session.solve(), _Arrays.answer
    # Multipliers that are far from anything: no polishing starts from there.
    monkeypatch.setattr(_Arrays, "answer", lambda self, raw: tuple(100.0 * part + 7.0 for part in really(self, raw)))
    again = session.solve()
    assert session.statistics == {"solves": 2, "fallbacks": 1}
    assert "solved anew" in again.message
    np.testing.assert_allclose(again.objective, honest.objective, rtol=1e-7)


def test_options_are_the_solvers_own() -> None:
    with pytest.raises(UnknownNameError, match="max_itr"):
        Session(feeder(), options={"max_itr": 3})
    found = Session(feeder(), "clarabel", {"max_iter": 1}).solve()
    assert found.iterations <= 1
    assert found.status.has is not Has.OPTIMAL or (found.residuals is not None and found.residuals.ok())
