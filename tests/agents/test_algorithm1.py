"""Algorithm 1: the cobweb of two agents on paper, verdicts, Lemmas 1-3, and the damped method, which always ends."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.algorithm1 import METHODS, Outcome, Verdict, algorithm1, run_algorithm1
from mktopt.errors import DataError, FormulationError, UnknownNameError
from mktopt.formulations.aggregator import aggregator_welfare
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import compile, solve


def people(a: list[float], b: list[float], generation_kw: list[float], utility: str = "log") -> Prosumers:
    """Agents of one aggregator k."""
    names = [f"a{i}" for i in range(len(a))]
    return Prosumers(pd.DataFrame({"agent": names, "bus": "n", "aggregator": "k", "utility": utility, "a": a, "b": b,
                                   "generation_kw": generation_kw}))  # fmt: skip


def crowd(seed: int, aggregators: int, agents: int, mixed: bool = False) -> Prosumers:
    """Aggregators of `agents` random agents each, logarithmic (half of them where `mixed`), half with generation."""
    rng, n = np.random.default_rng(seed), aggregators * agents
    is_log = (rng.random(n) < 0.5) | (not mixed)
    group = [f"k{k}" for k in np.repeat(np.arange(aggregators), agents)]
    return Prosumers(pd.DataFrame({
        "agent": [f"a{i}" for i in range(n)],
        "bus": group,
        "utility": np.where(is_log, "log", "quadratic"),
        "a": np.where(is_log, rng.uniform(0.5, 2, n), rng.uniform(0.1, 0.6, n)),
        "b": np.where(is_log, rng.uniform(1, 6, n), rng.uniform(0.01, 0.1, n)),
        "generation_kw": np.where(rng.random(n) < 0.5, rng.uniform(1, 10, n), 0.0),
    }))  # fmt: skip


def cobweb(c: float, buyer: float, seller: float) -> float:
    """One buyer and one seller with b = 2, g = 8, p = 0: the seller gives 8 - (a_s/c - 2), the buyer bids u'(that)."""
    return buyer / (2 + 10 - seller / c)


def test_a_round_on_paper() -> None:
    found = algorithm1(people([1, 0.5], [2, 2], [0, 8]), "k", 0.0, method="paper", start=0.1)
    first = found.trace.iloc[0]
    assert first["supply_kw"] == pytest.approx(8 - (5 - 2))
    assert first["demand_kw"] == pytest.approx(10 - 2)
    assert (first["buyers"], first["sellers"]) == (1, 1)
    expected = [0.1]
    for _ in found.trace.index:
        expected.append(cobweb(expected[-1], 1.0, 0.5))
    assert found.trace["unit_cost"].to_list() == pytest.approx(expected[:-1], rel=1e-12)
    assert found.trace["next_cost"].to_list() == pytest.approx(expected[1:], rel=1e-12)


def test_two_agents_contract_by_the_ratio_of_their_a() -> None:
    # the map has slope -a_s / a_b at its fixed point 1.5 / 12
    found = algorithm1(people([1, 0.5], [2, 2], [0, 8]), "k", 0.0, method="paper", start=0.1, tol=1e-10)
    assert found.verdict is Verdict.CONVERGED
    assert found.unit_cost == pytest.approx(0.125, rel=1e-9)
    error = found.trace["next_cost"].to_numpy() - 0.125
    assert error[11:16] / error[10:15] == pytest.approx(np.full(5, -0.5), rel=1e-2)
    assert found.agents["role"].to_list() == ["buyer", "seller"]
    assert found.agents["p_kw"].sum() == pytest.approx(0.0, abs=1e-7)
    assert str(found).startswith("auction of 'k' at 0 kW (paper): converged after ")


def test_two_equal_agents_cycle_with_period_two() -> None:
    some = people([1, 1], [2, 2], [0, 8])
    found = algorithm1(some, "k", 0.0, method="paper", start=0.15)
    assert (found.verdict, found.period) == (Verdict.CYCLES, 2)
    other = cobweb(0.15, 1, 1)
    assert sorted(found.trace["next_cost"].iloc[-2:]) == pytest.approx(sorted([0.15, other]))
    assert f"{other:.6g}" in found.reason
    assert "method 'damped' converges" in found.reason
    cure = algorithm1(some, "k", 0.0, start=0.15)
    assert cure.verdict is Verdict.CONVERGED
    assert cure.unit_cost == pytest.approx(2 / 12, rel=1e-9)


def test_a_seller_that_reacts_more_than_the_buyer_leaves_nothing_to_share() -> None:
    found = algorithm1(people([1, 4], [2, 4], [0, 60]), "k", 0.0, method="paper", start=0.08)
    assert found.verdict is Verdict.DIVERGES
    assert "there is nothing to share" in found.reason
    assert np.abs(found.trace["next_cost"] / (5 / 66) - 1).iloc[-2] > abs(0.08 / (5 / 66) - 1)
    assert algorithm1(people([1, 4], [2, 4], [0, 60]), "k", 0.0).unit_cost == pytest.approx(5 / 66, rel=1e-8)


def test_only_sellers_only_buyers_and_one_agent() -> None:
    sellers = people([1, 2], [1, 4], [2, 3])
    printed = algorithm1(sellers, "k", -2.0, method="paper", start=0.9)
    assert printed.verdict is Verdict.NO_BUYERS
    assert "nobody asks for power" in printed.reason
    assert algorithm1(sellers, "k", -2.0).unit_cost == pytest.approx(3 / 8, rel=1e-8)
    buyers = people([1, 2], [1, 4], [0, 0])
    for method in METHODS:
        found = algorithm1(buyers, "k", 3.0, method=method)
        assert found.verdict is Verdict.CONVERGED, method
        assert found.unit_cost == pytest.approx(3 / 8, rel=1e-5)
    assert algorithm1(people([1], [1], [2]), "k", 1.0).unit_cost == pytest.approx(1 / 4, rel=1e-8)
    assert algorithm1(sellers, "k", -5.0).unit_cost == 1.0  # nobody consumes: the greatest u'(0)


def test_an_agent_that_wants_nothing_does_not_hold_the_auction_up() -> None:
    # u'(0) = 0.1 < c = 3/8: no seller (it has nothing) and no buyer; its share of the supply dies away
    found = algorithm1(people([2, 1, 0.4], [4, 1, 4], [0, 3, 0]), "k", 0.0, method="paper", start=0.3)
    assert found.verdict is Verdict.CONVERGED
    assert found.unit_cost == pytest.approx(3 / 8, rel=1e-5)
    assert abs(found.agents["p_kw"].iat[2]) < 1e-5


def lemmas(prosumers: Prosumers, p: np.ndarray, found: Outcome, tol: float) -> None:
    """Lemmas 1-3 for the auctions that converged: one unit cost, power balance, the greatest welfare."""
    some = Aggregators(prosumers)
    ok = found.converged
    here = ok[some.group]
    charged = found.unit_costs[some.group]
    size = p - 2 * some.lowest_kw
    traded = here & (np.abs(found.net_kw) > 1e-4 * size[some.group])
    bids = np.where(found.buying, prosumers.marginal(np.maximum(found.net_kw + prosumers.generation_kw, 0)), charged)
    assert bids[traded] == pytest.approx(charged[traded], rel=10 * tol)
    assert (np.abs(some.total(found.net_kw) - p)[ok] <= 100 * tol * size[ok]).all()
    best = some.welfare(some.consumption(some.unit_costs(p)))
    reached = some.welfare(np.maximum(found.net_kw + prosumers.generation_kw, 0.0))
    assert (best - reached)[ok] == pytest.approx(0.0, abs=100 * tol * np.abs(best).max())
    assert found.unit_costs[ok] == pytest.approx(some.unit_costs(p)[ok], rel=100 * tol, abs=100 * tol)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), share=st.floats(-0.9, 1.0), mixed=st.booleans())
def test_the_damped_method_always_ends_and_keeps_the_lemmas(seed: int, share: float, mixed: bool) -> None:
    prosumers = crowd(seed, 20, 6, mixed)
    p = -share * Aggregators(prosumers).lowest_kw
    found = run_algorithm1(prosumers, p, start=np.full(20, 0.2))
    assert found.converged.all()
    assert found.rounds.max() <= 150
    lemmas(prosumers, p, found, 1e-8)


def test_theorem_1_no_other_allocation_within_p_is_better_at_the_agents_marginal_utilities() -> None:
    """(14): u'(p*)'(p* - q) >= 0 for all q with 1'q <= p_k, and q_i >= -g_i, which the paper leaves out."""
    prosumers, rng = crowd(7, 10, 6, mixed=True), np.random.default_rng(7)
    some = Aggregators(prosumers)
    p = 0.3 * some.lowest_kw
    net = run_algorithm1(prosumers, p).net_kw
    slope = prosumers.marginal(np.maximum(net + prosumers.generation_kw, 0.0))
    for _ in range(20):
        x = rng.uniform(0.0, 1.0, len(prosumers))
        x *= (rng.uniform(0.5, 1.0, 10) * some.consumed_kw(p) / some.total(x))[some.group]
        assert (some.total(slope * (net - x + prosumers.generation_kw)) >= -1e-8).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_as_printed_a_fifth_of_random_crowds_cycles(seed: int) -> None:
    prosumers = crowd(seed, 50, 8)
    p = np.zeros(50)
    found = run_algorithm1(prosumers, p, method="paper", max_rounds=600)
    lemmas(prosumers, p, found, 2e-6)
    cycles = found.verdicts == Verdict.CYCLES
    assert 0.1 < cycles.mean() < 0.4
    assert set(found.periods[cycles]) == {2}
    assert 0.4 < found.converged.mean() < 0.9
    # a cycle is one: from where it ended, two rounds later it is there again, and after one it is not
    k = int(np.argmax(cycles))
    name, start = f"k{k}", found.unit_costs[k]
    again = algorithm1(prosumers, name, 0.0, method="paper").trace["next_cost"].to_numpy()
    assert again[-1] == pytest.approx(start, rel=1e-12)
    assert again[-1] == pytest.approx(again[-3], rel=1e-5)
    assert abs(again[-1] / again[-2] - 1) > 1e-5
    assert run_algorithm1(prosumers, p).converged.all()


def test_together_as_alone_and_against_the_declared_model() -> None:
    prosumers = crowd(4, 5, 6)
    p = 0.2 * Aggregators(prosumers).lowest_kw
    for method in METHODS:
        together = run_algorithm1(prosumers, p, method=method)
        alone = [algorithm1(prosumers, f"k{k}", p[k], method=method) for k in range(5)]
        assert together.unit_costs == pytest.approx([one.unit_cost for one in alone], rel=1e-12)
        assert together.verdicts.tolist() == [one.verdict for one in alone]
        assert together.rounds.tolist() == [one.rounds for one in alone]
    solution = solve(compile(aggregator_welfare(prosumers, p)))
    found = run_algorithm1(prosumers, p)
    assert solution.x == pytest.approx(found.net_kw + prosumers.generation_kw, abs=1e-4)


def test_longer_cycles_and_the_limit_of_rounds() -> None:
    prosumers = crowd(1, 30, 8, mixed=True)
    found = run_algorithm1(prosumers, np.zeros(30), method="paper", max_rounds=400)
    assert {2, 4, 8} <= set(found.periods.tolist())
    stopped = run_algorithm1(prosumers, np.zeros(30), method="paper", max_rounds=3)
    assert Verdict.STOPPED in stopped.verdicts
    assert "raise max_rounds" in algorithm1(prosumers, "k0", 0.0, max_rounds=1, method="paper").reason


def test_refusals() -> None:
    some = people([1, 2], [1, 4], [0, 3])
    with pytest.raises(UnknownNameError, match="unknown aggregator 'kk'; did you mean 'k'"):
        algorithm1(some, "kk", 0.0)
    with pytest.raises(UnknownNameError, match="unknown method of Algorithm 1 'papers'; did you mean 'paper'"):
        algorithm1(some, "k", 0.0, method="papers")
    with pytest.raises(DataError, match="'k' can give at most its generation"):
        algorithm1(some, "k", -4.0)
    with pytest.raises(FormulationError, match="max_rounds=0"):
        algorithm1(some, "k", 0.0, max_rounds=0)
    with pytest.raises(FormulationError, match="start"):
        algorithm1(some, "k", 0.0, start=np.nan)
