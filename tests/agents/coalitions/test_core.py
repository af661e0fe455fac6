"""The core and the least core: against all coalitions written out, by their own proofs, and from the literature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mktopt.agents.coalitions.bounding import Bounding
from mktopt.agents.coalitions.core import excess, in_core, least_core
from mktopt.agents.coalitions.masks import FloatArray, rows_of, sums
from mktopt.agents.coalitions.oracles import Callback, Exhaustive, LocalSearch
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.agents.coalitions.published import airport, gloves, majority
from mktopt.agents.coalitions.values import Bounded, CoalitionGame
from mktopt.errors import FormulationError, UnknownNameError
from tests.agents.coalitions.drawn import NAMES, drawn_market, listed, tables


def written_out(values: FloatArray) -> float:
    """The least greatest excess, by one linear program with all coalitions."""
    n = len(values).bit_length() - 1
    rows = rows_of(range(1, 2**n - 1), n).astype(float)
    A = np.c_[-rows, -np.ones(len(rows))]
    total = np.r_[np.ones(n), 0.0][None]
    free = [(None, None)] * (n + 1)
    return float(linprog(np.r_[np.zeros(n), 1.0], A, -values[1:-1], total, values[-1:], free).fun)


@settings(max_examples=10)
@given(tables(most=6))
def test_the_least_core_is_that_of_all_coalitions_and_proves_itself(values: FloatArray) -> None:
    game = listed(values)
    found = least_core(game)
    size = np.abs(values).max()
    assert found.epsilon == pytest.approx(written_out(values), abs=1e-7 * size)
    gains = values - sums(found.payoffs.to_numpy())
    assert gains[1:-1].max() <= found.epsilon + 1e-7 * size
    assert gains[-1] == pytest.approx(0.0, abs=1e-7 * size)
    # the proof: weights in which every player counts the same
    once = [sum(w for group, w in found.weights.items() if player in group) for player in game.players]
    assert np.ptp(once) < 1e-9 and sum(found.weights.values()) == pytest.approx(1.0)
    proof = sum(w * game.value(group) for group, w in found.weights.items()) - once[0] * game.value(game.all)
    assert proof == pytest.approx(found.epsilon, abs=1e-7 * size)


@given(tables())
def test_payments_exist_or_a_balanced_collection_objects(values: FloatArray) -> None:
    game = listed(values)
    answer = supporting_payments(game)
    assert bool(answer) == (written_out(values) <= 1e-7 * np.abs(values).max())
    if answer:
        assert answer.payoffs is not None and in_core(game, answer.payoffs) and not answer.balanced
        return
    assert answer.payoffs is None and answer.proved
    for player in game.players:
        assert sum(w for group, w in answer.balanced.items() if player in group) == pytest.approx(1.0)
    worth = sum(w * game.value(group) for group, w in answer.balanced.items())
    assert worth - game.value(game.all) == pytest.approx(answer.shortfall) and answer.shortfall > 0.0
    paid = np.random.default_rng(0).normal(size=game.n)
    paid += (values[-1] - paid.sum()) / game.n
    objection = answer.objection(paid)  # whatever is paid, one of its groups is worth more
    assert objection is not None and objection[1] > 0.0
    assert excess(game, objection[0], paid) == pytest.approx(objection[1])


@given(tables(), st.integers(0, 2**32))
def test_the_blocking_group_gains_most(values: FloatArray, seed: int) -> None:
    game = listed(values)
    paid = np.random.default_rng(seed).normal(0.0, 10.0, game.n)
    paid += (values[-1] - paid.sum()) / game.n
    verdict = in_core(game, paid)
    gains = (values - sums(paid))[1:]
    assert verdict.excess == pytest.approx(gains[:-1].max(), abs=1e-9) or verdict.excess >= gains[:-1].max()
    assert verdict.inside == bool(gains.max() <= 1e-7 * max(abs(values[-1]), np.abs(paid).max()))
    if verdict.blocking is not None:
        assert excess(game, verdict.blocking, paid) == pytest.approx(verdict.excess) and verdict.excess > 0.0


def test_a_right_glove_has_everything_where_left_ones_are_two() -> None:
    game = gloves(["l1", "l2"], ["r"])
    assert in_core(game, {"l1": 0, "l2": 0, "r": 1})
    verdict = in_core(game, {"l1": 0.1, "l2": 0.0, "r": 0.9})
    assert verdict.blocking == {"l2", "r"} and verdict.excess == pytest.approx(0.1)
    assert not in_core(game, {"l1": 0, "l2": 0, "r": 2}) and in_core(game, [0, 0, 2]).blocking is None
    assert in_core(game, [0, 0, 0.5]).blocking == {"l1", "r"} or in_core(game, [0, 0, 0.5]).blocking is not None
    assert least_core(game).epsilon == pytest.approx(0.0, abs=1e-12)
    assert supporting_payments(game).payoffs.to_numpy() == pytest.approx([0, 0, 1], abs=1e-9)


def test_majority_of_three_has_no_core() -> None:
    """Any two take all. Weights 1/2 of the three pairs: 3/2 > 1, so e = (3/2 - 1) (1/2) / (3/4) = 1/3."""
    game = majority(2.0, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert least_core(game).epsilon == pytest.approx(1 / 3)
    answer = supporting_payments(game)
    assert not answer and answer.shortfall == pytest.approx(0.5)
    assert {tuple(sorted(g)): w for g, w in answer.balanced.items()} == {
        pair: pytest.approx(0.5) for pair in [("a", "b"), ("a", "c"), ("b", "c")]
    }
    assert "is worth 0.5 $ more than all players together" in str(answer)


@settings(max_examples=10)
@given(st.integers(2, 8), st.integers(0, 2**32))
def test_owen_payments_of_a_market_are_in_its_core(n: int, seed: int) -> None:
    market = drawn_market(n, seed)
    game = market.game()
    payments = market.owen(market.price(list(range(n))))
    assert in_core(game, payments), in_core(game, payments)
    assert supporting_payments(game)
    # the market's own bounds prove it: no value but that of all, and of some groups, was computed
    fresh = market.game()
    assert in_core(fresh, payments) and fresh.evaluated <= game.evaluated


def test_bounds_spare_most_values() -> None:
    market = drawn_market(13, 3)
    game, all_of_them = market.game(), CoalitionGame(NAMES[:13], lambda s: market(s).value)
    found, known = least_core(game), least_core(all_of_them)
    assert found.epsilon == pytest.approx(known.epsilon, abs=1e-7 * abs(game.value(game.all)))
    assert found.evaluated < 0.1 * known.evaluated == 0.1 * (2**13 - 1)


def test_wrong_bounds_are_seen() -> None:
    def own(group: frozenset[str]) -> Bounded:
        return Bounded(float(len(group)), 0.0, dict.fromkeys(NAMES[:4], 0.5))

    with pytest.raises(FormulationError, match="its own bound says at most 2"):
        least_core(CoalitionGame(NAMES[:4], own))

    def others(group: frozenset[str]) -> Bounded:  # true of the group itself, and too low for three
        value = {1: 1.0, 2: 1.0, 3: 3.5, 4: 4.0}[len(group)]
        return Bounded(value, 0.0, dict.fromkeys(NAMES[:4], value / len(group)))

    with pytest.raises(FormulationError, match="a bound of another coalition says at most"):
        least_core(CoalitionGame(NAMES[:4], others))
    with pytest.raises(UnknownNameError, match="unknown player of a bound 'z'"):
        CoalitionGame(NAMES[:4], lambda group: Bounded(1.0, 1.0, {"z": 1.0})).value(["a"])


def test_bounds_of_values_that_are_all_known_cost_nothing() -> None:
    market = drawn_market(10, 3)
    game, fresh = market.game(), market.game()
    game.table()
    assert len(game.bounds) == 2**10 - 1
    assert least_core(game).epsilon == pytest.approx(least_core(fresh).epsilon, abs=1e-9 * game.value(game.all))
    half = market.game()  # more bounds at once than are looked at
    half.values_at(list(range(1, 700)))
    assert least_core(half).epsilon == pytest.approx(least_core(fresh).epsilon, abs=1e-9 * game.value(game.all))


def test_a_search_of_another_game_and_a_tolerance_of_nothing_are_refused() -> None:
    game, other = gloves(["l"], ["r"]), gloves(["l"], ["r"])
    with pytest.raises(FormulationError, match="the LocalSearch given searches another game"):
        least_core(game, oracle=LocalSearch(other))
    for tolerance in (-1.0, np.nan, np.inf):
        with pytest.raises(FormulationError, match="it must be finite and at least 0"):
            in_core(game, [1.0, 0.0], tolerance=tolerance)
        with pytest.raises(FormulationError, match="it must be finite and at least 0"):
            supporting_payments(game, tolerance=tolerance)
    assert excess(game, ["l", "l"], [0.25, 0.75]) == -0.25  # a coalition is a set


def test_bounds_prove_a_least_core_by_mixed_integer_programs() -> None:
    market = drawn_market(6, 2)
    game = market.game()
    found = least_core(game, oracle=Bounding(game))
    assert found.proved and found.evaluated < 50
    assert found.epsilon == pytest.approx(least_core(market.game()).epsilon, abs=1e-8 * game.value(game.all))
    with pytest.raises(FormulationError, match="needs values that bring them"):
        Bounding(majority(2.0, {"a": 1.0, "b": 1.0, "c": 1.0}))


def runway(costs: FloatArray) -> tuple[CoalitionGame, Callback]:
    """An airport of any size, with the exact search: for the largest aircraft, all smaller ones that pay anything."""
    game = airport({f"p{k}": float(cost) for k, cost in enumerate(costs)})

    def find(payoffs):  # -v(S) is the cost of the largest
        paying = [player for player in game.players if payoffs[player] < 0.0]
        for k, player in enumerate(game.players):
            group = {*(p for p in paying if game.players.index(p) <= k), player}
            if len(group) < game.n:
                yield frozenset(group)
        cheapest = max(payoffs.index, key=lambda player: payoffs[player])
        yield frozenset(game.players) - {cheapest}

    return game, Callback(game, find, exact=True)


def test_a_search_of_ones_own_takes_more_players() -> None:
    costs = np.cumsum(np.random.default_rng(1).uniform(0.1, 1.0, 12))
    game, search = runway(costs)
    assert least_core(game, oracle=search).epsilon == pytest.approx(least_core(game).epsilon)
    many, search = runway(np.cumsum(np.random.default_rng(1).uniform(0.1, 1.0, 30)))
    found = least_core(many, oracle=search)
    once = sum(w for group, w in found.weights.items() if "p0" in group)
    proof = sum(w * many.value(g) for g, w in found.weights.items()) - once * many.value(many.all)
    assert found.proved and found.epsilon == pytest.approx(proof) and found.epsilon < 0.0
    with pytest.raises(FormulationError, match=r"1,073,741,823 coalitions.*at most 15.*LocalSearch.*shapley_sampled"):
        least_core(many)
    assert in_core(many, found.payoffs, oracle=search).proved


def test_a_local_search_says_that_it_is_not_proved() -> None:
    game = drawn_market(10, 5).game()
    found = least_core(game, oracle=LocalSearch(game, seed=1))
    assert not found.proved
    assert found.epsilon <= least_core(game, oracle=Exhaustive(game)).epsilon + 1e-9
    again = drawn_market(10, 5).game()
    assert least_core(again, oracle=LocalSearch(again, seed=1)).payoffs.equals(found.payoffs)
    many = majority(13.0, {f"p{k}": 1.0 for k in range(25)})
    answer = supporting_payments(many, oracle=LocalSearch(many))
    assert not answer and answer.proved  # a no stands on its own weights


def test_a_single_player_keeps_what_it_has() -> None:
    game = CoalitionGame(["a"], lambda s: 7.0)
    assert least_core(game).payoffs.to_dict() == {"a": 7.0}
    assert in_core(game, [7.0]) and not in_core(game, [6.0]) and supporting_payments(game)
