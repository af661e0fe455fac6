"""The Shapley value: its four axioms, published answers, all permutations, and errors that tell the truth."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.agents.coalitions.masks import FloatArray, rows_of
from mktopt.agents.coalitions.published import airport, gloves, majority, unanimity
from mktopt.agents.coalitions.shapley import METHODS, shapley, shapley_sampled
from mktopt.agents.coalitions.values import CoalitionGame
from mktopt.errors import FormulationError, UnknownNameError
from tests.agents.coalitions.drawn import NAMES, listed, tables


def phi(values: FloatArray) -> FloatArray:
    return shapley(listed(values)).payoffs.to_numpy()


@given(tables(least=1))
def test_all_is_shared(values: FloatArray) -> None:
    assert phi(values).sum() == pytest.approx(values[-1], abs=1e-9)


@given(tables(least=2, most=4))
def test_it_is_the_mean_over_all_orders(values: FloatArray) -> None:
    n = len(values).bit_length() - 1
    total, orders = np.zeros(n), list(permutations(range(n)))
    for order in orders:
        mask = 0
        for player in order:
            total[player] += values[mask | 1 << player] - values[mask]
            mask |= 1 << player
    assert phi(values) == pytest.approx(total / len(orders), abs=1e-9)


@given(tables(), st.integers(0, 2**32))
def test_names_do_not_matter(values: FloatArray, seed: int) -> None:
    n = len(values).bit_length() - 1
    order = np.random.default_rng(seed).permutation(n)
    renamed = np.empty_like(values)
    rows = rows_of(range(2**n), n)
    renamed[rows[:, order] @ (1 << np.arange(n))] = values
    assert phi(renamed) == pytest.approx(phi(values)[order], abs=1e-9)


@given(tables(most=4))
def test_who_adds_nothing_gets_nothing(values: FloatArray) -> None:
    with_null = np.r_[values, values]  # the last player adds nothing to anyone
    assert phi(with_null) == pytest.approx(np.r_[phi(values), 0.0], abs=1e-9)


@given(tables(least=4, most=4), tables(least=4, most=4), st.floats(-3, 3))
def test_it_is_linear(one: FloatArray, two: FloatArray, factor: float) -> None:
    assert phi(one + factor * two) == pytest.approx(phi(one) + factor * phi(two), abs=1e-8)


def test_published_values() -> None:
    assert shapley(gloves(["l"], ["r1", "r2"])).payoffs.to_numpy() == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    # Littlechild and Owen (1973): each part of the runway is shared by those who need it
    assert shapley(airport({"a": 1.0, "b": 2.0, "c": 4.0})).payoffs.to_numpy() == pytest.approx(
        [-1 / 3, -1 / 3 - 1 / 2, -1 / 3 - 1 / 2 - 2]
    )
    assert shapley(unanimity(["a", "b", "c"], ["a", "c"])).payoffs.to_numpy() == pytest.approx([0.5, 0, 0.5])
    # [3; 2, 1, 1]: the large one is pivotal in 4 of 6 orders
    assert shapley(majority(3, {"a": 2, "b": 1, "c": 1})).payoffs.to_numpy() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize("method", METHODS)
def test_samples_are_unbiased_and_their_errors_are_true(method: str) -> None:
    rng = np.random.default_rng(3)
    game = listed(np.r_[0.0, rng.normal(0.0, 1.0, 2**8 - 1)])
    exact = shapley(game).payoffs
    scores, covered = [], []
    for seed in range(12):
        found = shapley_sampled(game, 200, method=method, seed=seed)
        assert found.payoffs.sum() == pytest.approx(game.value(game.all))
        assert not found.exact and found.permutations >= 200
        scores.append((found.payoffs - exact) / found.standard_errors)
        limits = found.intervals(0.95).set_index("player")
        covered.append(limits["low"].le(exact) & limits["high"].ge(exact))
    z = np.concatenate(scores)
    # 96 scores, of which efficiency ties some: their spread would leave these limits once in thousands of draws
    assert 0.7 < z.std() < 1.35 and abs(z.mean()) < 0.4 and np.abs(z).max() < 5.0
    assert np.concatenate(covered).mean() > 0.87  # 96 of 95 %: below in one of thousands of draws
    again = shapley_sampled(game, 200, method=method, seed=0)
    assert again.payoffs.equals(shapley_sampled(game, 200, method=method, seed=0).payoffs)


def test_an_airport_is_sampled_with_any_number_of_players() -> None:
    costs = np.arange(1.0, 41.0)
    game = airport({f"p{k}": float(cost) for k, cost in enumerate(costs)})
    exact = -np.cumsum(1.0 / np.arange(40, 0, -1))  # each metre shared by those who need it
    with pytest.raises(FormulationError, match=r"at most 12 players.*shapley_sampled"):
        shapley(game)
    found = shapley_sampled(game, 400, seed=4)
    assert (np.abs(found.payoffs.to_numpy() - exact) <= 5.0 * found.standard_errors.to_numpy() + 1e-9).all()
    early = shapley_sampled(game, 10_000, tolerance=0.5, seed=4)
    assert early.permutations < 10_000 and early.standard_errors.max() <= 0.5


def test_blocks_that_agree_by_accident_do_not_end_it() -> None:
    """One pair of 30 players is worth something: two blocks of rotations seldom tell who they are."""
    game = unanimity(NAMES, ["a", "b"])
    found = shapley_sampled(game, 5000, method="stratified", tolerance=0.05)
    assert found.blocks >= 30 and found.permutations == 26 * found.blocks < 5000
    assert found.payoffs["a"] == pytest.approx(0.5, abs=0.2)


def test_few_blocks_have_wide_intervals() -> None:
    """By Student's t with one degree of freedom: tan(0.475 pi) = 12.7 errors at 95 %."""
    game = CoalitionGame(NAMES[:5], lambda s: float("a" in s) * len(s) ** 2)
    found = shapley_sampled(game, 2, method="permutation")
    limits = found.intervals().set_index("player")
    assert found.blocks == 2 and found.standard_errors.max() > 0.0
    assert (limits["high"] - limits["payoff"]).to_numpy() == pytest.approx(
        np.tan(0.475 * np.pi) * found.standard_errors.to_numpy()
    )
    exact = shapley(game).intervals()
    assert (exact["low"] == exact["high"]).all() and list(exact) == ["player", "payoff", "low", "high"]


def test_strata_and_pairs_have_smaller_errors_where_they_should() -> None:
    """Where what a player adds depends on its position alone, rotations have no error at all, and reverses none where
    it is linear in it."""
    convex = CoalitionGame(NAMES[:10], lambda s: float(len(s) ** 3))
    assert shapley_sampled(convex, 40, method="stratified").standard_errors.max() < 1e-9
    linear = CoalitionGame(NAMES[:10], lambda s: float(len(s) ** 2))
    assert shapley_sampled(linear, 40, method="antithetic").standard_errors.max() < 1e-9
    assert shapley_sampled(linear, 40, method="permutation").standard_errors.max() > 0.1


def test_bounds_and_bad_input() -> None:
    game = CoalitionGame(NAMES[:13], lambda s: float(len(s)))
    with pytest.raises(FormulationError, match="needs 8,191 values; at most 12"):
        shapley(game)
    assert shapley(game, limit=13).payoffs.to_numpy() == pytest.approx(np.ones(13))
    assert shapley(game).exact  # all values are there now
    with pytest.raises(UnknownNameError, match="antithetic"):
        shapley_sampled(game, method="antithetical")
    for most in (0, 1.5):
        with pytest.raises(FormulationError, match=f"permutations={most}"):
            shapley_sampled(game, most)
    with pytest.raises(FormulationError, match="tolerance=-1"):
        shapley_sampled(game, tolerance=-1)
    with pytest.raises(FormulationError, match="between 0 and 1"):
        shapley(game).intervals(95)
