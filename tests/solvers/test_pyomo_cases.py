"""Pyomo's own test cases for solvers, all that apply, on every solver that mktopt registers with Pyomo."""

from __future__ import annotations

import re
import unittest
from typing import Any

import pyomo.environ as pyo
import pyomo.solvers.tests.models  # noqa: F401  (registers the models)
import pytest
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.solvers.tests.models.base import all_models

pytest.importorskip("parameterized")

from mktopt.solvers import pyomo as plugin
from tests.solvers import pyomo_cases

CHOICE = ("mktopt", plugin.Mktopt)
HIGHS = ("mktopt_highs", plugin.MktoptHighs)
CLARABEL = ("mktopt_clarabel", plugin.MktoptClarabel)
IPOPT = ("mktopt_ipopt", plugin.MktoptIpopt)
ALL = [CHOICE, HIGHS, CLARABEL, IPOPT]
LISTS = {
    "all_solvers": ALL,
    "dual_solvers": ALL,
    "qp_solvers": ALL,
    "mip_solvers": [CHOICE, HIGHS],
    "qcp_solvers": [CHOICE, CLARABEL, IPOPT],
    "nlp_solvers": [CHOICE, IPOPT],
}
CASES = pyomo_cases.cases(pyomo_cases.load(pyomo_cases.SOLVERS, LISTS, literal=[HIGHS]))
MINE = {name: case for name, case in CASES.items() if re.search(r"_\d+_mktopt", name)}
# What Pyomo tests for some solvers and not for these.
NOT_APPLICABLE = {
    "TestSolvers::test_presolve_with_zero_coef": "an option of Pyomo's .nl writer (linear_presolve); none is used here",
    "TestSolvers::test_external_function": "functions from compiled libraries are refused by name: no derivatives",
    "TestSolvers::test_sos": "special ordered sets are refused by name: none of the solvers takes them",
}


def _run(case: unittest.TestCase) -> None:
    result = unittest.TestResult()
    case.run(result)
    for _, trouble in [*result.errors, *result.failures]:
        pytest.fail(trouble, pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1


@pytest.mark.parametrize("name", MINE)
def test_case_of_pyomo(name: str) -> None:
    case, method = MINE[name]
    _run(case(method))


@pytest.mark.parametrize("solver", [HIGHS[1], CHOICE[1]], ids=["highs", "choice"])
@pytest.mark.parametrize(
    "method", ["test_mutable_params_with_remove_cons", "test_mutable_params_with_remove_vars", "test_fix_and_unfix"]
)
def test_case_of_pyomo_for_highs(solver: Any, method: str) -> None:
    module = pyomo_cases.load(pyomo_cases.HIGHS)
    module.Highs = solver
    _run(module.TestBugs(method))


def test_every_other_case_of_pyomo_is_one_that_does_not_apply() -> None:
    kinds: dict[str, bool] = {}
    for name in CASES:
        base = re.split(r"_\d+_(?=[a-z])", name)[0]
        kinds[base] = kinds.get(base, False) or name in MINE
    assert {base for base, ours in kinds.items() if not ours} <= set(NOT_APPLICABLE)


# Models for the legacy interface. Their expected results are not part of the installed package, so they are held
# against Pyomo's own HiGHS, which takes all of these. (LP_compiled it does not: see below.)
MODELS = sorted(
    name
    for name in all_models()
    if not {"quadratic_constraint", "sos1", "sos2"} & all_models(name).capabilities
    and not name.endswith(("_kernel", "_nosuffixes"))
    and name not in ("LP_compiled", "MIQP_simple")
)


def _outcome(solver: str, name: str) -> dict[str, Any]:
    """How one of Pyomo's models ends: objective, values, stale flags, duals and reduced costs, by name."""
    case = all_models(name)()
    case.generate_model([] if case.solve_should_fail or "integer" in case.capabilities else ["dual", "rc"])
    model = case.model
    found = pyo.SolverFactory(solver).solve(model, load_solutions=not case.solve_should_fail)
    if case.solve_should_fail:
        assert str(found.solver.termination_condition) in ("infeasible", "unbounded", "infeasibleOrUnbounded")
        return {"fails": 1.0}
    pyo.assert_optimal_termination(found)
    outcome = {item.name: pyo.value(item) for item in model.component_data_objects(pyo.Objective, active=True)}
    for variable in model.component_data_objects(pyo.Var):
        assert variable.stale == (variable.value is None)
        outcome[variable.name] = float("nan") if variable.value is None else variable.value
    for suffix in model.component_objects(pyo.Suffix):
        outcome |= {f"{suffix.name} {item.name}": value for item, value in suffix.items()}
    return outcome


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        (name, solver)
        for name in MODELS
        for solver, _ in (LISTS["mip_solvers"] if "integer" in all_models(name).capabilities else ALL)
    ],
)
def test_model_of_pyomo_ends_as_with_its_own_highs(name: str, solver: str) -> None:
    if not SolverFactory(solver).available():
        pytest.skip(f"{solver} is not installed")
    expected = pytest.approx(_outcome("highs", name), rel=1e-5, abs=1e-5, nan_ok=True)
    assert _outcome(solver, name) == expected


@pytest.mark.parametrize("name", ["mktopt", "mktopt_highs"])
def test_rows_of_a_compiled_block_are_seen(name: str) -> None:
    """A MatrixConstraint calls itself a reference; left out, it would leave the model unbounded."""
    case = all_models("LP_compiled")()
    case.generate_model([])
    compiled = SolverFactory(name).solve(case.model)
    plain = pyo.ConcreteModel()
    plain.x = pyo.Var(range(1, 13))
    for i, (low, high) in {1: (-1, 1), 2: (-1, 1), 3: (-1, None), 4: (None, 1)}.items():
        plain.x[i].setlb(low)
        plain.x[i].setub(high)
    for i, value in zip(range(5, 13), (-1, -1, 1, 1, -1, -1, 1, 1), strict=True):
        plain.x[i].fix(value)
    plain.o = pyo.Objective(expr=sum((-1) ** (i + 1) * plain.x[i] for i in plain.x))
    assert compiled.incumbent_objective == pytest.approx(SolverFactory(name).solve(plain).incumbent_objective)


def test_the_harness_sees_a_wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyomo's cases fail where the duals are not what they are said to be."""
    from mktopt.solvers.pyomo_results import Loader

    right = Loader.get_duals
    monkeypatch.setattr(Loader, "get_duals", lambda *given: {row: -dual for row, dual in right(*given).items()})
    failed = [name for name in MINE if "SignConvention" in name and "_mktopt_highs" in name]
    assert failed
    for name in failed:
        case, method = MINE[name]
        result = unittest.TestResult()
        case(method).run(result)
        assert result.failures, name
