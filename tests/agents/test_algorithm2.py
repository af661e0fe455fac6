"""Algorithm 2 as printed: what it does, whether its own equilibrium exists, and COP (10).

On paper (two bakers, u = log(1 + x), c_k = 1 / (1 + p_k), both behind one line of rating 2 S, c0): where the line binds
at unit cost 1 / (1 + S) > c0 the printed fixed point is that of the default problem, p_k = S. With room, c = c0' < c0
at every candidate and the budget 2 p (c - c0) is below zero wherever p > 0: no equilibrium. Where both generate so much
that they would export at c0, the only candidate is the island: nothing imported, c below c0.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.agents.algorithm2 import algorithm2, cop10, own_equilibria
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_methods import solve_auction
from mktopt.agents.dso_run import CONVERGED, NO_EQUILIBRIUM
from mktopt.errors import DataError, UnknownNameError
from mktopt.networks.prosumers import Prosumers

C0 = 0.25


def street(rating: float, generation: float = 0.0, utility: str = "log") -> TwoLevel:
    """Two equal bakers at the end of one line, two aggregators at one bus."""
    buses = pd.DataFrame({"bus": ["s", "one"], "base_kv": 0.4})
    branches = pd.DataFrame({
        "branch": ["s-one"], "from_bus": "s", "to_bus": "one", "r_ohm": 0.1, "x_ohm": 0.1, "rating_kva": rating,
    })  # fmt: skip
    people = pd.DataFrame({
        "agent": ["a", "b"], "bus": "one", "aggregator": ["A", "B"], "utility": utility, "a": 1.0, "b": 1.0,
        "generation_kw": generation,
    })  # fmt: skip
    return TwoLevel(mo.Network(buses, branches, "s"), Prosumers(people), mo.flow("transport"), C0)


@pytest.mark.parametrize("aggregator", ["exact", "damped"])
def test_where_the_line_binds_it_finds_the_default_equilibrium(aggregator: str) -> None:
    problem = street(rating=2.0)
    found = algorithm2(problem, aggregator=aggregator, eta=2.0, start=problem.at_rest(), tol=1e-6)
    assert found.verdict == CONVERGED, found.message
    np.testing.assert_allclose(found.p_kw, 1.0, atol=1e-5)
    np.testing.assert_allclose(found.unit_costs, 0.5, atol=1e-5)


def test_without_limits_it_hovers_at_a_distance_that_depends_on_eta_and_there_is_no_equilibrium() -> None:
    """Where all c are below c0, F holds no import at all, and p falls back to zero."""
    problem = street(rating=1e3)
    optimum = solve_auction(problem).p_kw
    distances = []
    for eta in (1.0, 4.0):
        found = algorithm2(problem, eta=eta, max_iterations=200)
        assert found.verdict == NO_EQUILIBRIUM, found.message
        assert "a search found no equilibrium" in found.message  # 27 prices are no proof, and it says so
        assert found.residual > 0.1
        distances.append(float(np.abs(found.p_path[-60:] - optimum).mean()))
    assert min(distances) > 0.5
    assert abs(distances[1] - distances[0]) > 0.1
    own = own_equilibria(problem)
    assert own.exists is False
    assert (own.scan["budget"] < 0).all()
    np.testing.assert_allclose(own.scan["max_cost"].iloc[1:], own.scan["share"].iloc[1:] * C0, rtol=1e-4)


def test_a_long_step_does_not_make_a_small_residual() -> None:
    """|p - P(p + eta c)| / eta falls to nil with eta for any p in a bounded set: judged is one of usual size."""
    problem = street(rating=2.0)
    found = algorithm2(problem, eta=1e9, start=problem.at_rest(), max_iterations=30)
    assert (found.verdict == CONVERGED) == bool(np.allclose(found.p_kw, 1.0, atol=1e-4))
    assert found.eta < 100.0


def test_an_exporter_has_its_island_for_an_equilibrium_which_solves_the_printed_qvi() -> None:
    problem = street(rating=1e3, generation=7.0)  # c = 1/8 at p = 0, below c0
    own = own_equilibria(problem)
    assert own.exists
    (point,) = own.points
    np.testing.assert_allclose(point.p_kw, 0.0, atol=1e-5)
    np.testing.assert_allclose(point.unit_costs, 1 / 8, rtol=1e-6)
    found = algorithm2(problem, start=point, tol=1e-6)
    assert (found.verdict, found.iterations) == (CONVERGED, 0)


def test_algorithm_1_as_printed_inside_says_when_it_failed() -> None:
    case = mo.load_case("ieee37_aggregators")
    assert case.prosumers is not None
    problem = TwoLevel(case.network, case.prosumers, mo.flow("transport"), case.prosumers.meta["c0"]["I"])
    found = algorithm2(problem, aggregator="paper", max_iterations=3)
    exact = algorithm2(problem, max_iterations=3)
    assert exact.verdict == CONVERGED
    assert (found.verdict == CONVERGED) == ("Algorithm 1 failed" not in found.message)
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        algorithm2(problem, aggregator="papr")


@pytest.mark.parametrize("utility", ["log", "quadratic"])
def test_cop10_is_no_worse_than_the_default_and_keeps_its_budget(utility: str) -> None:
    """Two equal bakers on paper: utility rises in p, the budget 2 p (c - c0) >= 0 binds at c = c0."""
    problem = street(rating=1e3, utility=utility)
    found = cop10(problem)
    assert found.verdict == CONVERGED, found.message
    assert found.local
    np.testing.assert_allclose(found.unit_costs, C0, rtol=1e-4)
    tight = cop10(street(rating=1.0, utility=utility))
    np.testing.assert_allclose(tight.p_kw, 0.5, atol=1e-4)


def test_cop10_refuses_an_own_utility_by_name() -> None:
    problem = street(rating=1.0)
    own = mo.own_utility("root", lambda x, a, b: a * (x + b) ** 0.5)
    table = problem.prosumers.table.assign(utility="root")
    with pytest.raises(DataError, match="'a', column 'utility', value 'root'"):
        cop10(TwoLevel(problem.network, Prosumers(table, utilities={"root": own}), mo.flow("transport"), C0))
