"""The DSO's level: every method finds the equilibrium, and says so only where there is one.

On paper (two bakers). Both aggregators hold one agent with u = a log(1 + x / b), no generation, so that p_k = x_k and
c_k = a / (b + p_k). Without limits c_k = c0 and p_k = a / c0 - b. With a = 1, b = 1, c0 = 0.25: p_k = 3 each. A line
that lets 2 kW to the second one: p_2 = 2, c_2 = 1/3, and the multiplier of the line is c_2 - c0 = 1/12.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_central import solve_central
from mktopt.agents.dso_methods import ITERATIONS, solve_auction
from mktopt.agents.dso_run import CONVERGED, CYCLES, HOVERS, STOPPED, Iterate, run
from mktopt.errors import FormulationError, InfeasibleError, UnknownNameError
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers.prices import row_prices

CASE = mo.load_case("ieee37_aggregators")
PEOPLE = CASE.prosumers
assert PEOPLE is not None
C0 = PEOPLE.meta["c0"]
GRIDS = {"rated": CASE.network, "stressed": CASE.network.with_ratings(CASE.meta["stressed"])}
TIED = 1e-5  # relative: what methods may differ by


@cache
def auction(grid: str, scenario: str, flow: str = "transport") -> TwoLevel:
    return TwoLevel(GRIDS[grid], PEOPLE, mo.flow(flow), C0[scenario])


def star(rating: float = np.inf, hours: tuple[float, ...] = (1.0,)) -> mo.Network:
    """A source with a bus `one` beside it and a bus `two` behind a line of `rating` kVA."""
    buses = pd.DataFrame({"bus": ["s", "one", "two"], "base_kv": 0.4})
    branches = pd.DataFrame({
        "branch": ["s-one", "s-two"], "from_bus": "s", "to_bus": ["one", "two"], "r_ohm": 0.1, "x_ohm": 0.1,
        "rating_kva": [np.inf, rating],
    })  # fmt: skip
    return mo.Network(buses, branches, "s", hours=hours)


def bakers(**columns: Any) -> Prosumers:
    table = {"agent": ["a", "b"], "bus": ["one", "two"], "utility": "log", "a": 1.0, "b": 1.0}
    return Prosumers(pd.DataFrame({**table, **columns}))


def test_two_bakers_on_paper() -> None:
    free = solve_auction(TwoLevel(star(), bakers(), mo.flow("transport"), 0.25))
    np.testing.assert_allclose(free.p_kw, [[3.0, 3.0]], atol=1e-6)
    np.testing.assert_allclose(free.unit_costs, 0.25, atol=1e-8)
    problem = TwoLevel(star(rating=2.0), bakers(), mo.flow("transport"), 0.25)
    tight = solve_auction(problem)
    np.testing.assert_allclose(tight.p_kw, [[3.0, 2.0]], atol=1e-6)
    np.testing.assert_allclose(tight.unit_costs, [[0.25, 1 / 3]], atol=1e-7)
    assert tight.import_kw == pytest.approx([5.0], abs=1e-6)
    assert tight.welfare == pytest.approx(np.log(4) + np.log(3) - 0.25 * 5, abs=1e-9)
    column = problem.program.column(problem.model.grid.p_kw["s-two", 0])
    assert abs(tight.step.solution.reduced_cost[column]) == pytest.approx(1 / 12, abs=1e-6)


def test_prices_of_the_last_step_are_the_unit_costs() -> None:
    problem = auction("stressed", "I", "lindistflow")
    found = solve_auction(problem)
    buses = PEOPLE.aggregators["bus"]
    rows = problem.program.row_indices(problem.model.grid.balance[bus, 0] for bus in buses)
    columns = problem.program.columns(problem.model.p_kw.values())
    prices = row_prices(problem.program, found.step.solution, rows, columns, -np.ones(len(columns)))
    np.testing.assert_allclose(prices, found.unit_costs[0], atol=1e-6)
    assert np.ptp(prices) > 0.01  # lines do bind


@pytest.mark.parametrize("method", ITERATIONS)
@pytest.mark.parametrize(("grid", "scenario", "flow"), [("stressed", "I", "transport")])
def test_methods_agree_with_the_central_model(method: str, grid: str, scenario: str, flow: str) -> None:
    problem = auction(grid, scenario, flow)
    found = solve_auction(problem, method, start=problem.at_rest())
    assert found.verdict == CONVERGED, found.message
    assert found.iterations > 1
    same_as(found, central(grid, scenario, flow))


@cache
def central(grid: str, scenario: str, flow: str) -> Any:
    return solve_central(auction(grid, scenario, flow))


def same_as(found: Any, other: Any) -> None:
    assert found.welfare == pytest.approx(other.welfare, rel=1e-8)
    np.testing.assert_allclose(found.p_kw, other.p_kw, atol=TIED * np.abs(other.p_kw).max())
    np.testing.assert_allclose(found.unit_costs, other.unit_costs, rtol=TIED)
    assert other.residual <= 1e-6


def test_losses_do_not_part_methods() -> None:
    problem = auction("stressed", "III", "distflow")
    newton = solve_auction(problem)
    assert newton.import_kw.sum() > newton.p_kw.sum() + 0.1  # the import pays for losses
    same_as(solve_auction(problem, "accelerated", start=problem.at_rest()), newton)
    same_as(newton, solve_central(problem))


def test_ipopt_finds_the_same_from_the_declared_model() -> None:
    same_as(solve_auction(auction("stressed", "II")), solve_central(auction("stressed", "II"), "ipopt"))


def test_on_a_flow_that_is_not_convex_it_is_local_and_agrees_with_its_relaxation() -> None:
    line = star(rating=2.0)
    relaxed, exact, ac = (
        TwoLevel(line, bakers(), mo.flow(name, **how), 0.25)
        for name, how in (("distflow", {}), ("distflow", {"exact": True}), ("ac", {}))
    )
    found = solve_auction(relaxed)
    for problem in (exact, ac):
        local = solve_auction(problem)
        assert local.converged
        assert local.local
        same_as(local, found)
    with pytest.raises(FormulationError, match="not convex"):
        solve_auction(exact, "accelerated")


@pytest.mark.parametrize("scenario", C0)
def test_without_limits_every_unit_cost_is_c0(scenario: str) -> None:
    c0 = C0[scenario]
    found = solve_auction(TwoLevel(CASE.network, PEOPLE, mo.flow("copperplate"), c0))
    np.testing.assert_allclose(found.unit_costs, c0, rtol=1e-7)
    wanted = float((PEOPLE.demand_at(c0) - PEOPLE.generation_kw).sum())
    assert found.import_kw == pytest.approx([wanted], rel=1e-6)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_drawn_auctions_converge_never_pay_in_and_cannot_be_improved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    people = Prosumers(pd.DataFrame({
        "agent": [f"a{i}" for i in range(count)],
        "bus": [str(bus) for bus in rng.choice(["s", "one", "two"], count)],
        "utility": [str(word) for word in rng.choice(["log", "quadratic"], count)],
        "a": rng.uniform(0.2, 2.0, count), "b": rng.uniform(0.05, 3.0, count),
        "generation_kw": np.where(rng.random(count) < 0.4, rng.uniform(0.5, 8.0, count), 0.0),
    }))  # fmt: skip
    problem = TwoLevel(star(float(rng.uniform(0.3, 5.0))), people, mo.flow("transport"), float(rng.uniform(0.05, 0.4)))
    found = solve_auction(problem)
    assert found.converged, found.message
    assert float(((found.unit_costs - problem.c0[:, None]) * found.p_kw).sum()) >= -1e-6  # the budget
    for _ in range(5):  # no step from other demand leads to a better point
        other = problem.projected(rng.normal(0.0, 5.0, found.p_kw.shape), np.zeros_like(found.p_kw), 1.0)
        point = problem.reached(other)
        assert point.welfare <= found.welfare + 1e-7
        gradient = problem.directional(
            found.unit_costs, point.used_kw - found.used_kw, point.import_kw - found.import_kw
        )
        assert gradient <= 1e-5  # the variational inequality, Theorem 2 with the import's cost


def test_what_the_satiated_cannot_send_away_costs_nothing() -> None:
    """On paper: u = x - x^2/2 wants 1 kW at most, has 10 and a line for 2: 7 are left over, worth nothing."""
    people = bakers(utility=["log", "quadratic"], generation_kw=[0.0, 10.0])
    problem = TwoLevel(star(rating=2.0), people, mo.flow("transport"), 0.25)
    for method in ITERATIONS:
        found = solve_auction(problem, method, start=problem.at_rest())
        assert found.converged, found.message
        np.testing.assert_allclose(found.unit_costs, [[0.25, 0.0]], atol=1e-6)
        np.testing.assert_allclose(found.p_kw, [[3.0, -2.0]], atol=1e-5)
        np.testing.assert_allclose(found.used_kw, [[3.0, -9.0]], atol=1e-5)
        np.testing.assert_allclose(found.consumption_kw, [[3.0, 1.0]], atol=1e-5)
    assert solve_central(problem).welfare == pytest.approx(found.welfare, rel=1e-8)


def test_hours_and_prices_of_periods_are_those_of_separate_auctions() -> None:
    prices = [0.15, 0.25, 0.4]
    day = solve_auction(TwoLevel(star(2.0, (1.0, 0.5, 2.0)), bakers(), mo.flow("transport"), prices))
    alone = [solve_auction(TwoLevel(star(2.0), bakers(), mo.flow("transport"), c0)) for c0 in prices]
    np.testing.assert_allclose(day.p_kw, np.concatenate([one.p_kw for one in alone]), atol=1e-5)
    assert day.welfare == pytest.approx(alone[0].welfare + 0.5 * alone[1].welfare + 2 * alone[2].welfare, rel=1e-8)


def test_an_extra_constraint_on_what_the_dso_gives_binds() -> None:
    def cap(model: Any, network: mo.Network) -> Any:
        return model.import_kw[0] <= 4.0

    found = solve_auction(TwoLevel(star(), bakers(), mo.flow("transport"), 0.25, extra=[cap]))
    np.testing.assert_allclose(found.p_kw, [[2.0, 2.0]], atol=1e-6)
    np.testing.assert_allclose(found.unit_costs, 1 / 3, atol=1e-7)


# -- verdicts never lie -----------------------------------------------------------------------------------------------


def test_a_fixed_step_converges_below_two_over_the_slope_and_cycles_above() -> None:
    problem = TwoLevel(star(rating=2.0), bakers(), mo.flow("transport"), 0.25)  # slopes at the equilibrium: 1/16, 1/9
    start = problem.at_rest()
    assert solve_auction(problem, "projection", eta=20.0, start=start).converged
    long = solve_auction(problem, "projection", eta=40.0, start=start)
    assert long.verdict in (CYCLES, HOVERS)
    assert long.residual > 1e-3
    advised = float(long.message.split("eta < ")[1].split()[0])
    assert advised <= 32.0
    assert solve_auction(problem, "projection", eta=0.9 * advised, start=start).converged


def test_a_cycle_is_named_with_its_length() -> None:
    problem = auction("stressed", "II")
    found = solve_auction(problem, "projection", eta=5000.0, start=problem.at_rest())
    assert (found.verdict, found.period) == (CYCLES, 2)
    np.testing.assert_allclose(found.p_path[-1], found.p_path[-3], rtol=1e-4, atol=1e-3)
    assert np.abs(found.p_path[-1] - found.p_path[-2]).max() > 10.0


def test_a_step_that_the_solver_cannot_take_ends_with_advice() -> None:
    problem = TwoLevel(star(), bakers(), mo.flow("transport"), 0.25)
    found = solve_auction(problem, "projection", eta=1e12, start=problem.at_rest())
    assert found.verdict != CONVERGED
    assert "leave eta out" in found.message


def test_running_out_of_iterations_is_no_convergence() -> None:
    problem = auction("stressed", "I")
    found = solve_auction(problem, start=problem.at_rest(), max_iterations=2)
    assert found.verdict == STOPPED
    assert found.residual > 1e-5
    assert len(found.trace) == len(found.p_path) == 3
    assert "max_iterations" in found.message


def test_the_residual_is_judged_anew_whatever_a_method_claims() -> None:
    problem = auction("stressed", "I")

    def liar() -> Any:
        while True:
            yield Iterate(problem.at_rest(), 0.0, 1.0)

    assert run(problem, "liar", liar(), 1e-7, 3).verdict == STOPPED


def test_the_trace_tells_the_story() -> None:
    found = solve_auction(auction("stressed", "I"), start=auction("stressed", "I").at_rest())
    trace = found.trace
    assert list(trace) == ["iteration", "welfare", "residual", "eta", "import_kw", "min_cost", "max_cost"]
    assert (np.diff(trace["welfare"]) > 0).all()
    assert trace["residual"].iloc[-1] <= 1e-7 < trace["residual"].iloc[0]
    assert found.c_path.shape == (found.iterations + 1, 1, 17)
    assert found.seconds["total"] >= found.seconds["steps"] > 0


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"method": "newtn"}, UnknownNameError, "did you mean 'newton'"),
        ({"method": "newton", "eta": 3.0}, FormulationError, "finds its own steps"),
    ],
)
def test_what_cannot_be_run_is_refused(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solve_auction(auction("rated", "I"), **how)


def test_an_auction_without_a_feasible_p_has_a_report() -> None:
    def need(model: Any, network: mo.Network) -> Any:
        return model.p_kw["two", 0] >= 3.0

    with pytest.raises(InfeasibleError) as caught:
        solve_auction(TwoLevel(star(rating=2.0), bakers(), mo.flow("transport"), 0.25, extra=[need]))
    assert caught.value.report is not None
    assert "s-two" in str(caught.value.report)
