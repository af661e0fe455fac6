"""The solvers as Pyomo's users meet them: both interfaces, signs by perturbation, and the words of what is refused."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyomo.environ as pyo
import pytest
from pyomo.common.errors import ApplicationError
from pyomo.contrib.solver.common.base import Availability
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition
from pyomo.contrib.solver.common.util import (
    IncompatibleModelError,
    NoDualsError,
    NoFeasibleSolutionError,
    NoOptimalSolutionError,
    NoReducedCostsError,
    NoSolutionError,
)
from pyomo.contrib.solver.common.util import SolverError as PyomoSolverError
from pyomo.opt import TerminationCondition as LegacyCondition

import mktopt.solvers.pyomo  # noqa: F401  (registers the solvers)
from mktopt.errors import FormulationError, UnknownNameError
from mktopt.solvers import SOLVERS
from tests.solvers.pyomo_models import curved, hilly, knapsack, market, useful

NAMES = ["mktopt", "mktopt_highs", "mktopt_clarabel", "mktopt_ipopt"]
CURVED = ["mktopt", "mktopt_clarabel", "mktopt_ipopt"]
LOCAL = ["mktopt", "mktopt_ipopt"]
STEP = 1e-4


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name and not SolverFactory(name).available():
        pytest.skip(f"{name} is not installed")


def optimum(name: str, model: Any) -> float:
    pyo.assert_optimal_termination(pyo.SolverFactory(name).solve(model))
    return float(pyo.value(model.total))


def prove_by_perturbation(name: str, make: Callable[[], Any], tolerance: float = 1e-4) -> None:
    """Each dual and each reduced cost is the slope of the optimal objective when its limit moves."""
    model = make()
    optimum(name, model)
    duals = {row.name: model.dual[row] for row in model.component_data_objects(pyo.Constraint)}
    costs = {item.name: model.rc[item] for item in model.component_data_objects(pyo.Var) if not item.fixed}
    assert any(abs(value) > 1e-3 for value in duals.values())

    def moved(component: str, step: float) -> float:
        other = make()
        item = other.find_component(component)
        if item.ctype is pyo.Constraint:
            low, body, high = item.to_bounded_expression(evaluate_bounds=True)
            item.set_value((None if low is None else low + step, body, None if high is None else high + step))
        else:
            item.setlb(None if item.lb is None else item.lb + step)
            item.setub(None if item.ub is None else item.ub + step)
        return optimum(name, other)

    for component, slope in {**duals, **costs}.items():
        found = (moved(component, STEP) - moved(component, -STEP)) / (2.0 * STEP)
        assert slope == pytest.approx(found, rel=tolerance, abs=tolerance), component


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
@pytest.mark.parametrize("curvature", [0.0, 0.3])
def test_duals_of_linear_rows_are_slopes(name: str, sense: Any, curvature: float) -> None:
    prove_by_perturbation(name, lambda: market(sense, curvature=curvature))


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
@pytest.mark.parametrize("make", [curved, useful])
def test_duals_of_curved_rows_are_slopes(name: str, sense: Any, make: Callable[[Any], Any]) -> None:
    prove_by_perturbation(name, lambda: make(sense))


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("sense", [pyo.minimize, pyo.maximize])
def test_duals_of_a_local_optimum_are_slopes(name: str, sense: Any) -> None:
    prove_by_perturbation(name, lambda: hilly(sense))


@pytest.mark.parametrize("name", NAMES)
def test_the_dual_changes_sign_with_the_writing_and_with_the_sense(name: str) -> None:
    """A unit more of firm demand costs the same in all four; Pyomo's dual has the sign of the row and of the sense."""
    found = {}
    for sense in (pyo.minimize, pyo.maximize):
        for demand_first in (False, True):
            m = market(sense, demand_first)
            optimum(name, m)
            found[sense, demand_first] = m.dual[m.balance]
    price = found[pyo.minimize, False]
    assert price > 0.0
    assert found[pyo.maximize, False] == pytest.approx(-price)
    assert found[pyo.minimize, True] == pytest.approx(-price)
    assert found[pyo.maximize, True] == pytest.approx(price)


@pytest.mark.parametrize("name", NAMES)
def test_results_of_the_new_interface_tell_everything(name: str) -> None:
    m = market()
    found = SolverFactory(name).solve(m)
    assert found.termination_condition is TerminationCondition.convergenceCriteriaSatisfied
    assert found.solution_status is SolutionStatus.optimal
    assert found.incumbent_objective == pytest.approx(pyo.value(m.total))
    assert found.objective_bound == pytest.approx(found.incumbent_objective)
    assert found.solver_name == name
    assert len(found.solver_version) >= 2
    assert found.extra_info.solver in SOLVERS
    assert found.extra_info.problem_class == "LP"
    assert found.extra_info.iteration_count > 0
    assert not found.extra_info.local_optimum
    assert 0.0 <= found.extra_info.residuals["primal"] <= 1e-6
    assert 0.0 < found.timing_info.solve_time <= found.timing_info.wall_time
    assert found.solver_log
    loader = found.solution_loader
    assert loader.get_number_of_solutions() == 1
    assert list(loader.get_vars([m.p[1]])) == [m.p[1]]
    assert list(loader.get_duals([m.most])) == [m.most]
    assert list(loader.get_reduced_costs([m.p[0]])) == [m.p[0]]
    assert loader.get_reduced_costs()[m.p[2]] == pytest.approx(m.rc[m.p[2]])


@pytest.mark.parametrize("name", NAMES)
def test_the_log_goes_to_the_streams_of_tee(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    found = SolverFactory(name).solve(market(), tee=[stream])
    assert stream.getvalue() == found.solver_log
    assert len(found.solver_log.splitlines()) > 5
    assert capfd.readouterr().out == ""
    pyo.SolverFactory(name).solve(market(), tee=True)
    assert len(capfd.readouterr().out.splitlines()) > 5
    found = SolverFactory(name).solve(market())
    assert capfd.readouterr().out == ""
    assert len(found.solver_log.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_threads_solve_beside_each_other(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda k: SolverFactory(name).solve(market(), tee=k == 4), range(9)))
    print("still here")
    assert capfd.readouterr().out.endswith("still here\n")
    assert {round(item.incumbent_objective, 5) for item in found} == {round(found[0].incumbent_objective, 5)}


@pytest.mark.parametrize("name", NAMES)
def test_the_legacy_interface_loads_now_or_later(name: str) -> None:
    m = market()
    found = pyo.SolverFactory(name).solve(m, load_solutions=False, symbolic_solver_labels=True)
    assert pyo.check_optimal_termination(found)
    assert m.p[0].value is None
    m.solutions.load_from(found)
    later = [*(v.value for v in m.p.values()), m.dual[m.balance]]
    optimum(name, m)
    assert later == pytest.approx([*(v.value for v in m.p.values()), m.dual[m.balance]])
    assert found.problem.upper_bound == pytest.approx(pyo.value(m.total))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mktopt", {"simplex_iteration_limit": 0}),
        ("mktopt_highs", {"simplex_iteration_limit": 0}),
        ("mktopt_clarabel", {"max_iter": 1}),
        ("mktopt_ipopt", {"max_iter": 1}),
    ],
)
def test_options_reach_the_solver(name: str, options: dict[str, Any]) -> None:
    limited = SolverFactory(name).solve(
        market(), solver_options=options, load_solutions=False, raise_exception_on_nonoptimal_result=False
    )
    if name == "mktopt":  # stopped there, and another one has answered
        assert "iteration limit" in limited.extra_info.attempts[0]
        assert limited.solution_status is SolutionStatus.optimal
    else:
        assert limited.termination_condition is TerminationCondition.iterationLimit
    m = market()
    del m.dual, m.rc
    legacy = pyo.SolverFactory(name, options=options).solve(m, load_solutions=False)
    assert name == "mktopt" or legacy.solver.termination_condition is LegacyCondition.maxIterations
    with pytest.raises(UnknownNameError, match="no_such"):
        pyo.SolverFactory(name).solve(market(), options={"no_such": 1})


@pytest.mark.parametrize("name", CURVED)
def test_a_time_limit_of_nothing_is_kept(name: str) -> None:
    found = SolverFactory(name).solve(
        market(curvature=0.1), time_limit=0, load_solutions=False, raise_exception_on_nonoptimal_result=False
    )
    assert found.termination_condition is TerminationCondition.maxTimeLimit
    assert len(found.extra_info.attempts) == 1


@pytest.mark.parametrize("name", ["mktopt", "mktopt_highs"])
def test_gaps_and_threads_of_a_mip(name: str) -> None:
    exact = SolverFactory(name).solve(knapsack())
    assert exact.objective_bound == pytest.approx(exact.incumbent_objective, rel=1e-6)
    for given in ({"rel_gap": 0.3}, {"abs_gap": 100.0}, {"threads": 1}, {"threads": 2}):
        found = SolverFactory(name).solve(knapsack(), **given)
        assert found.solution_status is SolutionStatus.optimal
        assert found.incumbent_objective <= exact.incumbent_objective + 1e-6
        assert found.objective_bound >= exact.incumbent_objective - 1e-6


def test_what_a_solver_does_not_have_is_said(caplog: pytest.LogCaptureFixture) -> None:
    m = market()
    m.p[0].domain = pyo.Integers
    m.total.expr += 0.1 * m.p[1] ** 2
    del m.dual, m.rc
    with caplog.at_level("WARNING"):
        SolverFactory("mktopt").solve(m, threads=2)
    assert "threads=2 is not used by the solver 'outer_approximation'" in caplog.text


def test_a_mip_has_no_duals_and_says_why() -> None:
    found = SolverFactory("mktopt_highs").solve(knapsack())
    with pytest.raises(NoDualsError, match="must be whole"):
        found.solution_loader.get_duals()
    with pytest.raises(NoReducedCostsError, match="must be whole"):
        found.solution_loader.get_reduced_costs()


@pytest.mark.parametrize("name", NAMES)
def test_infeasible_and_unbounded_are_answers(name: str) -> None:
    quiet = {"load_solutions": False, "raise_exception_on_nonoptimal_result": False}
    m = market()
    m.demand.fix(50.0)
    found = SolverFactory(name).solve(m, **quiet)
    assert found.termination_condition is TerminationCondition.provenInfeasible
    assert found.solution_status is SolutionStatus.noSolution
    assert found.incumbent_objective is None
    for read, error in (
        (found.solution_loader.get_vars, NoSolutionError),
        (found.solution_loader.get_duals, NoDualsError),
        (found.solution_loader.get_reduced_costs, NoReducedCostsError),
    ):
        with pytest.raises(error):
            read()
    with pytest.raises(NoOptimalSolutionError, match="infeasible"):
        SolverFactory(name).solve(m)
    with pytest.raises(NoFeasibleSolutionError, match="infeasible"):
        pyo.SolverFactory(name).solve(m)
    legacy = pyo.SolverFactory(name).solve(m, load_solutions=False)
    assert legacy.solver.termination_condition is LegacyCondition.infeasible
    m = market()
    m.balance.deactivate()
    m.p[1].setub(None)
    m.total.sense = pyo.maximize
    found = SolverFactory(name).solve(m, **quiet)
    assert found.termination_condition is TerminationCondition.unbounded


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_found_locally_is_called_so(name: str) -> None:
    m = hilly()
    found = SolverFactory(name).solve(m)
    assert found.extra_info.local_optimum
    assert found.objective_bound is None
    m.wave.set_value(m.x[0] * pyo.exp(0.3 * m.x[1]) >= 300.0)
    found = SolverFactory(name).solve(m, load_solutions=False, raise_exception_on_nonoptimal_result=False)
    assert found.termination_condition is TerminationCondition.locallyInfeasible


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_nothing_uses_is_not_in_the_model(name: str) -> None:
    m = market()
    m.whole = pyo.Var(domain=pyo.Integers, initialize=7)
    m.crossed = pyo.Var(bounds=(2, 1))
    m.fixed = pyo.Var(initialize=3.0)
    m.fixed.fix()
    m.most.set_value(m.p[0] - 0.2 * m.p[1] + m.fixed <= 9.0)
    best = optimum(name, market())
    found = SolverFactory(name).solve(m)
    assert pyo.value(m.total) == pytest.approx(best)
    assert m.whole.stale
    assert m.whole.value == 7
    assert m.crossed.value is None
    assert not m.p[0].stale
    assert m.whole not in found.solution_loader.get_vars()
    assert found.solution_loader.get_vars([m.fixed])[m.fixed] == 3.0
    assert found.solution_loader.get_reduced_costs([m.fixed])[m.fixed] == 0.0
    with pytest.raises(FormulationError, match="belongs to another model"):
        found.solution_loader.get_vars([knapsack().x[0]])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_left_to_decide(name: str) -> None:
    m = market()
    for variable, value in zip(m.p.values(), (5.0, 4.0, 2.0), strict=True):
        variable.fix(value)
    m.balance.deactivate()
    found = SolverFactory(name).solve(m)
    assert found.incumbent_objective == pytest.approx(pyo.value(m.total))
    assert found.solution_loader.get_duals()[m.most] == 0.0
    m.balance.activate()
    with pytest.raises(NoOptimalSolutionError, match="balance"):
        SolverFactory(name).solve(m)
    pyo.assert_optimal_termination(pyo.SolverFactory(name).solve(pyo.ConcreteModel()))


def test_a_model_that_is_not_taken_is_incompatible_in_our_words() -> None:
    with pytest.raises(IncompatibleModelError, match="solver 'clarabel' takes .* this is a MILP; use 'highs'"):
        SolverFactory("mktopt_clarabel").solve(knapsack())
    with pytest.raises(IncompatibleModelError, match="'wave'"):
        SolverFactory("mktopt_clarabel").solve(hilly())
    m = market()
    m.other = pyo.Objective(expr=m.p[0])
    with pytest.raises(IncompatibleModelError, match="2 active objectives"):
        pyo.SolverFactory("mktopt").solve(m)
    with pytest.raises(PyomoSolverError, match="time_limit"):
        SolverFactory("mktopt_highs").solve(market(), solver_options={"time_limit": "soon"})


def test_a_solver_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise ModuleNotFoundError("clarabel")

    assert SolverFactory("mktopt_clarabel").available() is Availability.FullLicense
    monkeypatch.setitem(SOLVERS, "clarabel", dataclasses.replace(SOLVERS["clarabel"], version=missing))
    opt = SolverFactory("mktopt_clarabel")
    assert opt.available() is Availability.NotFound
    assert opt.version() == ()
    with pytest.raises(ApplicationError, match="pip install clarabel"):
        opt.solve(market())
    assert not pyo.SolverFactory("mktopt_clarabel").available(exception_flag=False)
    pyo.assert_optimal_termination(pyo.SolverFactory("mktopt").solve(market(curvature=1.0)))
