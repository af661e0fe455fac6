"""Why there is no answer: conflicts, least relaxations, directions of growth."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mktopt.solvers import Stopped, compile, diagnose, is_feasible, solve, unbounded_direction


def line(demand: float = 8.0, rating: float = 5.0, quadratic: bool = False):
    """A firm demand behind a line."""
    model = pyo.ConcreteModel()
    model.supply = pyo.Var(bounds=(0, 100))
    model.other = pyo.Var(bounds=(0, 1))
    model.flow = pyo.Var(bounds=(-rating, rating))
    model.here = pyo.Constraint(expr=model.supply - model.flow == 0)
    model.there = pyo.Constraint(expr=model.flow == demand)
    model.unrelated = pyo.Constraint(expr=model.other >= 0.5)
    model.obj = pyo.Objective(expr=model.supply + (model.supply**2 if quadratic else 0))
    return model


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
@pytest.mark.parametrize("quadratic", [False, True])
def test_a_conflict_on_paper(quadratic, solver):
    program = compile(line(quadratic=quadratic))
    solution = solve(program, solver)
    assert solution.status.stopped is Stopped.INFEASIBLE
    report = diagnose(program)
    assert {(item.name, item.side) for item in report.conflict} == {("flow", "upper"), ("there", "lower")}
    assert report.irreducible
    assert report.curable
    assert report.total == pytest.approx(3.0)
    text = str(report)
    assert "variable 'flow' <= 5" in text
    assert "constraint 'there' >= 8" in text
    assert "by 3" in text


def test_the_caller_says_what_may_give():
    model = line()
    program = compile(model)
    rows, none = np.array([program.row(model.there)]), np.array([], dtype=int)
    shed = diagnose(program, rows=rows, columns=none, conflict=False)
    assert [(item.name, item.side) for item in shed.relaxation] == [("there", "lower")]
    assert shed.relaxation[0].amount == pytest.approx(3.0)
    wider = diagnose(program, rows=none, columns=np.array([program.column(model.flow)]), conflict=False)
    assert [(item.name, item.side) for item in wider.relaxation] == [("flow", "upper")]
    neither = diagnose(program, rows=none, columns=none)
    assert not neither.curable
    assert neither.relaxation == ()
    assert "No relaxation" in str(neither)


def test_weights_choose_between_cures():
    program = compile(line())
    dear = diagnose(program, row_weights=10.0, column_weights=1.0)
    assert {item.name for item in dear.relaxation} == {"flow"}
    cheap = diagnose(program, row_weights=1.0, column_weights=10.0)
    assert {item.name for item in cheap.relaxation} == {"there"}


def test_false_on_its_face():
    model = line(demand=1.0)
    model.other.setlb(3.0)
    program = compile(model)
    solution = solve(program)
    assert solution.status.stopped is Stopped.INFEASIBLE
    assert "'other' cross" in solution.message
    assert {item.name for item in diagnose(program).conflict} == {"other"}
    model.other.fix(0.2)
    program = compile(model)
    assert "'unrelated' has no free variable and is false" in solve(program).message
    assert [item.name for item in diagnose(program).conflict] == ["unrelated"]


@given(st.integers(0, 2**32 - 1))
def test_a_conflict_is_infeasible_and_each_part_is_needed(seed):
    random = np.random.default_rng(seed)
    n, m = int(random.integers(1, 5)), int(random.integers(2, 8))
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(-2, 2))
    model.c = pyo.ConstraintList()
    for _ in range(m):
        a = random.integers(-2, 3, n)
        a[0] = a[0] or 1
        body = sum(int(k) * model.x[j] for j, k in enumerate(a))
        model.c.add([body <= int(random.integers(-3, 3)), body == int(random.integers(-3, 4))][random.integers(2)])
    program = compile(model)
    assume(is_feasible(program) is False)
    report = diagnose(program)
    assert report.conflict
    assert report.irreducible
    assert is_feasible(_keep(program, report.conflict)) is False
    for k in range(len(report.conflict)):
        assert is_feasible(_keep(program, report.conflict[:k] + report.conflict[k + 1 :])) is True
    assert is_feasible(_relax(program, report.relaxation, 1.0)) is True
    assert is_feasible(_relax(program, report.relaxation, 0.99)) is False


def _keep(program, members):
    arrays = {
        "row_lower": np.full(program.m, -np.inf),
        "row_upper": np.full(program.m, np.inf),
        "lower": np.full(program.n, -np.inf),
        "upper": np.full(program.n, np.inf),
    }
    for member in members:
        arrays[f"row_{member.side}" if member.kind == "row" else member.side][member.index] = member.limit
    return program.replace(**arrays)


def _relax(program, relaxation, share):
    arrays = {name: getattr(program, name).copy() for name in ("row_lower", "row_upper", "lower", "upper")}
    for item in relaxation:
        name = f"row_{item.side}" if item.member.kind == "row" else item.side
        move = share * item.amount + (1e-7 if share == 1.0 else 0.0)
        arrays[name][item.member.index] += -move if item.side == "lower" else move
    return program.replace(**arrays)


def test_a_long_feeder_is_diagnosed():
    n = 1500
    model = pyo.ConcreteModel()
    model.f = pyo.Var(range(n), bounds=(0, 1e6))
    model.f[700].setub(795.0)
    model.balance = pyo.Constraint(range(n - 1), rule=lambda m, i: m.f[i] - m.f[i + 1] == 1)
    program = compile(model)
    report = diagnose(program)
    assert report.total == pytest.approx(4.0)  # 799 kW are drawn behind a limit of 795
    names = {item.name for item in report.conflict}
    assert {"f[700]", "f[1499]", "balance[700]", "balance[1498]"} <= names
    assert "balance[699]" not in names
    assert "more" in str(report)


def test_a_conflict_that_exists_only_for_whole_numbers():
    model = pyo.ConcreteModel()
    model.y = pyo.Var([1, 2], domain=pyo.Binary)
    model.x = pyo.Var(bounds=(0, 10))
    model.size = pyo.Constraint(expr=model.x == 4 * model.y[1] + 6 * model.y[2])
    model.want = pyo.Constraint(expr=(4.5, model.x, 5.5))
    model.loose = pyo.Constraint(expr=model.x <= 9)
    program = compile(model)
    assert solve(program).status.stopped is Stopped.INFEASIBLE
    report = diagnose(program)
    assert report.with_integers
    assert report.irreducible
    assert {item.name for item in report.conflict} == {"size", "want"}
    assert report.total == pytest.approx(0.5)
    assert "whole numbers" in str(report)


@pytest.mark.parametrize("solver", [None, "highs", "clarabel"])
def test_an_unbounded_objective_names_what_grows(solver):
    model = pyo.ConcreteModel()
    model.bid, model.offer = pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, None))
    model.calm, model.flow = pyo.Var(bounds=(0, 5)), pyo.Var()
    model.here = pyo.Constraint(expr=model.offer == model.flow)
    model.there = pyo.Constraint(expr=model.flow + model.calm == model.bid)
    square = 0.0 if solver == "highs" else model.calm**2
    model.obj = pyo.Objective(expr=3 * model.bid - 2 * model.offer - model.calm - square, sense=pyo.maximize)
    program = compile(model)
    assert solve(program, solver).status.stopped is Stopped.UNBOUNDED
    growth = {item.name: item.amount for item in unbounded_direction(program)}
    assert growth == pytest.approx({"bid": 1.0, "offer": 1.0, "flow": 1.0})
    assert "bid (grows 1)" in [str(item) for item in unbounded_direction(program)]
    model.obj.expr -= model.bid**2
    if solver != "highs":
        assert unbounded_direction(compile(model)) == []
        assert solve(compile(model), solver).status.ok


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_infeasible_and_unbounded_at_once_is_infeasible(solver):
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, 1))
    model.c = pyo.Constraint(expr=model.y >= 2 + 0 * model.x)
    model.obj = pyo.Objective(expr=model.x, sense=pyo.maximize)
    assert solve(compile(model), solver).status.stopped is Stopped.INFEASIBLE


def test_an_unbounded_mixed_integer_program():
    model = pyo.ConcreteModel()
    model.x = pyo.Var(domain=pyo.NonNegativeIntegers)
    model.y = pyo.Var(bounds=(0, 1))
    model.obj = pyo.Objective(expr=model.x + model.y - model.y**2, sense=pyo.maximize)
    assert solve(compile(model)).status.stopped is Stopped.UNBOUNDED
