"""What happens where a solver stops without an answer: who is tried next, what is kept, and what is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyomo.environ as pyo
import pytest

from mktopt.errors import FormulationError, SolverError, UnknownNameError
from mktopt.solvers import SOLVERS, Has, Solution, Status, Stopped, compile, residuals, solve, solve_fixed, table
from tests.solvers.test_table import model_of

HURRY = {"time_limit": 1e-9}
CLASSES = [(name, kind) for name, solver in SOLVERS.items() for kind in solver.takes]


def hard(kind: str = "LP"):
    return compile(model_of(kind))


def large():
    """More than a time limit of nothing leaves room for, even to round a first guess off."""
    random = np.random.default_rng(4)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(60), bounds=(0, 4))
    a, c = random.uniform(0.1, 1.0, (40, 60)), random.uniform(1.0, 2.0, 60)
    model.c = pyo.Constraint(range(40), rule=lambda m, i: sum(a[i, j] * m.x[j] for j in range(60)) >= 5.0)
    model.o = pyo.Objective(expr=sum(c[j] * model.x[j] for j in range(60)))
    return compile(model)


def test_another_solver_takes_over_where_the_first_reaches_its_limit():
    """max_iter is Clarabel's own: HiGHS, which would refuse it, does not get it."""
    solution = solve(hard("QP"), None, {"max_iter": 1})
    assert solution.status == Status(Stopped.OPTIMAL, Has.OPTIMAL)
    assert solution.solver == "highs"
    first, second = solution.attempts
    assert (first.solver, second.solver) == ("clarabel", "highs")
    assert first.status.stopped is Stopped.ITERATION_LIMIT
    assert second.status.ok and second.residuals.ok()
    assert "MaxIterations; then HiGHS" in solution.message
    assert first.seconds > 0 and second.seconds > 0
    assert solution.seconds["total"] >= first.seconds + second.seconds
    assert str(first).startswith("clarabel (") and "iteration limit" in str(first)
    assert solution.objective == pytest.approx(solve(hard("QP")).objective)


def test_a_time_limit_leads_on_too():
    solution = solve(hard(), None, {"highs": HURRY})
    assert [item.solver for item in solution.attempts] == ["highs", "clarabel"]
    assert solution.attempts[0].status.stopped is Stopped.TIME_LIMIT
    assert solution.status.ok


def test_a_common_time_limit_holds_for_every_attempt():
    solution = solve(large(), ["highs", "clarabel"], HURRY)
    assert [item.status.stopped for item in solution.attempts] == [Stopped.TIME_LIMIT, Stopped.TIME_LIMIT]
    assert not solution.status.ok
    assert solution.status.stopped is Stopped.TIME_LIMIT


@pytest.mark.parametrize("name", ["highs", "clarabel"])
def test_a_solver_that_is_named_stands_alone(name):
    options = {"highs": {"qp_iteration_limit": 0}, "clarabel": {"max_iter": 1}}[name]
    solution = solve(hard("QP"), name, options)
    assert [item.solver for item in solution.attempts] == [name]
    assert not solution.status.ok
    assert solution.solver == name


def test_several_names_are_a_chain():
    program = large()
    assert [item.solver for item in solve(program, ["clarabel", "highs"]).attempts] == ["clarabel"]
    solution = solve(program, ("clarabel", "highs", "clarabel"), {"max_iter": 1})
    assert [item.solver for item in solution.attempts] == ["clarabel", "highs"]
    both = {"clarabel": {"max_iter": 1}, "highs": HURRY}
    assert not solve(program, ["clarabel", "highs"], both).status.ok


def test_what_a_chain_cannot_take_is_refused_before_anything_is_tried():
    with pytest.raises(UnknownNameError, match="did you mean 'highs'"):
        solve(hard(), ["clarabel", "hihgs"])
    with pytest.raises(FormulationError, match="'outer_approximation' takes MIQP, MISOCP, MIEXP, and this is a LP"):
        solve(hard(), ["highs", "outer_approximation"])
    with pytest.raises(FormulationError, match="options for solver 'highs', which is not tried here: clarabel"):
        solve(hard(), "clarabel", {"highs": HURRY})
    with pytest.raises(UnknownNameError, match="did you mean 'max_iter'"):
        solve(hard(), ["highs", "clarabel"], {"highs": HURRY, "clarabel": {"maxiter": 3}})
    with pytest.raises(SolverError, match="empty list"):
        solve(hard(), [])


@pytest.mark.parametrize("solver", [None, "highs", "clarabel", ["clarabel", "highs"]])
def test_infeasible_and_unbounded_are_answers(solver):
    model = model_of("LP")
    model.c.set_value(model.x[0] + model.x[1] >= 9)
    infeasible = solve(compile(model), solver)
    assert infeasible.status.stopped is Stopped.INFEASIBLE
    assert len(infeasible.attempts) == 1
    model.c.deactivate()
    model.x[0].setlb(None)
    unbounded = solve(compile(model), solver)
    assert unbounded.status.stopped is Stopped.UNBOUNDED
    assert len(unbounded.attempts) == 1


def test_the_story_of_a_program_without_variables_and_of_fixed_integers():
    model = model_of("LP")
    model.x.fix(1.0)
    assert [item.status.has for item in solve(compile(model)).attempts] == [Has.OPTIMAL]
    program = hard("MIQP")
    solution = solve_fixed(program, solve(program))
    assert [item.solver for item in solution.attempts] == ["outer_approximation", "clarabel"]


# -- what adapters may do wrong ---------------------------------------------------------------------------------------


def listed(monkeypatch, name: str, run, kinds=("LP", "QP")):
    monkeypatch.setitem(SOLVERS, name, replace(SOLVERS["highs"], name=name, takes=kinds, run=run))


@pytest.mark.parametrize(("name", "kind"), CLASSES)
@pytest.mark.parametrize("residual", ["none", "forgotten duals", "own"])
def test_no_optimum_without_residuals_that_say_so(monkeypatch, name, kind, residual):
    """The right answer of each solver, moved a little, with or without residuals that tell of it."""
    program = compile(model_of(kind))
    right = SOLVERS[name].run

    def wrong(program, options):
        solution = right(program, options)
        x = solution.x + np.where(np.arange(program.n) == 0, 0.01, 0.0)
        y = np.zeros(0) if residual == "forgotten duals" else solution.row_dual
        z = np.zeros(0) if residual == "forgotten duals" else solution.reduced_cost
        found = residuals(program, x, y, z) if residual == "own" else None
        return solution.replace(x=x, row_dual=y, reduced_cost=z, residuals=found)

    monkeypatch.setitem(SOLVERS, name, replace(SOLVERS[name], run=wrong))
    solution = solve(program, name)
    assert solution.residuals is not None
    if solution.status.ok:  # without duals only feasibility and integrality can be judged
        assert residual == "forgotten duals" or kind.startswith("MI")
        assert solution.residuals.ok()
    else:
        assert solution.status.stopped is Stopped.NUMERICAL
        assert "do not support" in solution.message


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_an_optimum_is_one_by_residuals_that_are_worked_out_anew(name, kind):
    program = compile(model_of(kind))
    for options in ({}, {"time_limit": 1e-9}, {"time_limit": 1e-3}, {"time_limit": 60.0}):
        solution = solve(program, name, options)
        if solution.status.ok:
            found = residuals(program, solution.x, solution.row_dual, solution.reduced_cost)
            assert found.ok(), (options, found)
            assert solution.objective == pytest.approx(program.objective(solution.x), abs=1e-9)


def test_a_wrong_claim_leads_on(monkeypatch):
    def wrong(program, options):
        return Solution(Status(Stopped.OPTIMAL, Has.OPTIMAL), "liar", x=np.full(program.n, 1.0),
                        row_dual=np.zeros(program.m), reduced_cost=np.zeros(program.n), message="trust me")  # fmt: skip

    listed(monkeypatch, "liar", wrong)
    alone = solve(hard(), "liar")
    assert alone.status == Status(Stopped.NUMERICAL, Has.FEASIBLE)
    solution = solve(hard(), ["liar", "highs"])
    assert solution.solver == "highs" and solution.status.ok
    assert "residuals do not support" in solution.attempts[0].message
    # a feasible point is kept where nobody after it has more
    kept = solve(hard(), ["liar", "highs"], {"highs": HURRY})
    assert kept.solver == "liar"
    assert kept.status.has is Has.FEASIBLE
    assert kept.x == pytest.approx(np.ones(3))
    assert [item.solver for item in kept.attempts] == ["liar", "highs"]
    assert "trust me" in kept.message and "HiGHS" in kept.message


@pytest.mark.parametrize("better", ["first", "second"])
@pytest.mark.parametrize("sense", [1, -1])
def test_the_better_of_two_points_is_kept(monkeypatch, better, sense):
    def at(value):
        def run(program, options):
            x = np.full(program.n, value)
            return table.judged(
                program, Solution(Status(Stopped.TIME_LIMIT, Has.FEASIBLE), f"at {value:g}", x=x, message="tired")
            )

        return run

    low, high = ("first", "second") if (better == "first") else ("second", "first")
    listed(monkeypatch, low, at(1.0))
    listed(monkeypatch, high, at(2.0))
    program = compile(model_of("LP", pyo.minimize if sense > 0 else pyo.maximize))
    assert solve(program, ["first", "second"]).x == pytest.approx(np.ones(3))  # cheaper in either sense


def test_a_solver_that_fails_leads_on_unless_its_options_were_wrong(monkeypatch):
    def fails(program, options):
        raise SolverError("out of order")

    listed(monkeypatch, "broken", fails)
    solution = solve(hard(), ["broken", "highs"])
    assert solution.status.ok
    assert solution.attempts[0].status.stopped is Stopped.ERROR
    assert solution.attempts[0].message == "out of order"
    with pytest.raises(SolverError, match="out of order"):
        solve(hard(), "broken")
    with pytest.raises(SolverError, match="out of order"):
        solve(hard(), ["broken", "highs"], {"speed": 3})


def test_a_solver_that_is_not_installed_is_passed_over_and_told_of(monkeypatch):
    def missing():
        raise ModuleNotFoundError("none")

    monkeypatch.setitem(SOLVERS, "absent", replace(SOLVERS["highs"], name="absent", version=missing))
    solution = solve(hard(), ["absent", "highs"])
    assert solution.status.ok
    assert solution.attempts[0].solver == "absent"
    assert "not installed" in solution.attempts[0].message
    with pytest.raises(SolverError, match="solver 'absent' is not installed pip install highspy"):
        solve(hard(), "absent")
    with pytest.raises(SolverError, match="'absent' is not installed"):
        solve(hard(), ["absent"])


def test_an_interruption_ends_the_chain(monkeypatch):
    def stopped(program, options):
        return Solution(Status(Stopped.INTERRUPTED, Has.NOTHING), "first", message="stopped by the user")

    listed(monkeypatch, "first", stopped)
    solution = solve(hard(), ["first", "highs"])
    assert solution.status.stopped is Stopped.INTERRUPTED
    assert len(solution.attempts) == 1
