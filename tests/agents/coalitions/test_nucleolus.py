"""The nucleolus: published answers, closed forms, covariance, and Kohlberg's criterion, which knows no method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.agents.coalitions.core import in_core, least_core
from mktopt.agents.coalitions.masks import FloatArray, sums
from mktopt.agents.coalitions.nucleolus import kohlberg, nucleolus
from mktopt.agents.coalitions.oracles import Callback, LocalSearch
from mktopt.agents.coalitions.published import airport, bankruptcy, gloves, majority
from mktopt.agents.coalitions.values import CoalitionGame
from mktopt.errors import FormulationError
from tests.agents.coalitions.drawn import NAMES, drawn_market, listed, tables


@pytest.mark.parametrize(("estate", "shares"), [(100, [100 / 3] * 3), (200, [50, 75, 75]), (300, [50, 100, 150])])
def test_bankruptcy_is_shared_as_the_talmud_says(estate: float, shares: list[float]) -> None:
    """Aumann and Maschler, J. Econ. Theory 36 (1985), the table of Kethubot 93a."""
    game = bankruptcy(estate, {"a": 100.0, "b": 200.0, "c": 300.0})
    assert nucleolus(game).payoffs.to_numpy() == pytest.approx(shares)


def equal_awards(estate: float, claims: FloatArray) -> FloatArray:
    """All get the same, but nobody more than its claim, of an estate that they cover."""
    awards = np.zeros(len(claims))
    for k, at in enumerate(np.argsort(claims)):
        awards[at] = min(claims[at], (estate - awards.sum()) / (len(claims) - k))
    return awards


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(0.0, 1.0), st.sampled_from([1e-6, 1.0, 1e9]))
def test_bankruptcy_by_the_rule_of_aumann_and_maschler(claims: list[int], share: float, unit: float) -> None:
    """Equal awards of half the claims, or, of more than these, equal losses."""
    d = unit * np.array(claims, dtype=float)
    estate = share * d.sum()
    rule = equal_awards(estate, d / 2) if share <= 0.5 else d - equal_awards(d.sum() - estate, d / 2)
    found = nucleolus(bankruptcy(estate, dict(zip(NAMES, d.tolist(), strict=False))))
    assert found.payoffs.to_numpy() == pytest.approx(rule, abs=1e-7 * d.sum())


def littlechild(costs: list[float]) -> FloatArray:
    """What aircraft of rising `costs` pay in the nucleolus: Littlechild, Int. J. Game Theory 3 (1974).

    Of the i - k that are next, all pay the least of (c_i - paid) / (i - k + 1), or (c_n - paid) / (n - k) at the end.
    """
    n, k, paid, shares = len(costs), 0, 0.0, np.zeros(len(costs))
    while k < n:
        rates = [(costs[i - 1] - paid) / (i - k + (i < n)) for i in range(k + 1, n + 1)]
        last = k + 1 + int(np.argmin(rates))
        shares[k:last] = min(rates)
        paid, k = paid + (last - k) * min(rates), last
    return shares


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=7))
def test_airports_charge_what_littlechild_found(costs: list[float]) -> None:
    costs = sorted(costs)
    game = airport(dict(zip(NAMES, costs, strict=False)))
    assert -nucleolus(game).payoffs.to_numpy() == pytest.approx(littlechild(costs), abs=1e-7 * costs[-1])


def test_gloves_and_majorities() -> None:
    assert nucleolus(gloves(["l1", "l2"], ["r"])).payoffs.to_numpy() == pytest.approx([0, 0, 1], abs=1e-9)
    assert nucleolus(majority(2, {"a": 1, "b": 1, "c": 1})).payoffs.to_numpy() == pytest.approx([1 / 3] * 3)
    # a constant-sum homogeneous majority game: its weights (Peleg 1968); a dictator; a veto player
    homogeneous = majority(4, {"a": 3, "b": 1, "c": 1, "d": 1, "e": 1})
    assert nucleolus(homogeneous).payoffs.to_numpy() == pytest.approx(np.array([3, 1, 1, 1, 1]) / 7)
    assert nucleolus(majority(3, {"a": 3, "b": 1, "c": 1})).payoffs.to_numpy() == pytest.approx([1, 0, 0], abs=1e-9)
    assert nucleolus(majority(3, {"a": 2, "b": 1, "c": 1})).payoffs.to_numpy() == pytest.approx([1, 0, 0], abs=1e-9)


@given(tables(), st.booleans())
def test_it_passes_kohlbergs_criterion_and_nothing_else_does(values: FloatArray, rational: bool) -> None:
    game = listed(values)
    own = values[1 << np.arange(game.n)]
    if rational and own.sum() > values[-1]:
        with pytest.raises(FormulationError, match="no payoffs are individually rational"):
            nucleolus(game)
        return
    found = nucleolus(game, individually_rational=rational)
    assert kohlberg(game, found.payoffs, individually_rational=rational)
    assert found.proved and np.all(np.diff(found.epsilons) <= 1e-6 * np.abs(values).max())
    if rational:
        assert (found.payoffs.to_numpy() >= own - 1e-6).all()
    moved = found.payoffs.to_numpy() + np.r_[0.1, -0.1, np.zeros(game.n - 2)]
    if not rational or (moved >= own).all():
        assert not kohlberg(game, moved, individually_rational=rational)


def test_kohlberg_judges_by_what_groups_gain_not_by_what_they_have() -> None:
    """Gains of 1 beside millions, and none at all beside rounding."""
    own = np.array([1e6, -2e6, 3e6])
    game = listed(sums(own) + np.array([0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0]))
    found = nucleolus(game).payoffs.to_numpy()
    assert kohlberg(game, found) and found - own == pytest.approx([2 / 3] * 3, abs=1e-6)
    assert not kohlberg(game, found + np.array([1e-3, -1e-3, 0.0]))
    assert kohlberg(listed(np.zeros(32)), nucleolus(listed(np.zeros(32))).payoffs)


@given(tables(least=3), st.floats(0.01, 1000.0), st.integers(0, 2**32))
def test_it_follows_units_and_gifts(values: FloatArray, unit: float, seed: int) -> None:
    gifts = np.random.default_rng(seed).normal(0.0, 100.0, len(values).bit_length() - 1)
    plain = nucleolus(listed(values), individually_rational=False).payoffs.to_numpy()
    other = nucleolus(listed(unit * values + sums(gifts)), individually_rational=False).payoffs.to_numpy()
    assert other == pytest.approx(unit * plain + gifts, abs=1e-6 * (unit * np.abs(values).max() + 100.0))


@given(tables())
def test_it_is_in_the_core_where_there_is_one(values: FloatArray) -> None:
    n = len(values).bit_length() - 1
    values[-1] += 2 * n * max(0.0, least_core(listed(values)).epsilon) + 1.0  # all may have more
    game = listed(values)
    assert in_core(game, nucleolus(game).payoffs)


def test_a_market_of_twelve_with_few_of_its_values() -> None:
    market = drawn_market(12, 0)
    found = nucleolus(market.game())
    everything = CoalitionGame(NAMES[:12], lambda s: market(s).value)
    assert kohlberg(everything, found.payoffs)
    assert found.evaluated < 0.5 * 2**12 and in_core(everything, found.payoffs)


def test_fifteen_players_of_random_values() -> None:
    rng = np.random.default_rng(2)
    size = sums(np.ones(15))
    game = listed(np.r_[0.0, (size**1.5 + rng.uniform(0.0, 1.0, 2**15))[1:]])
    found = nucleolus(game)
    assert kohlberg(game, found.payoffs) and len(found.epsilons) <= 14


def test_searches_that_cannot_prove_it_say_so() -> None:
    game = airport({name: 1.0 + k for k, name in enumerate(NAMES[:17])})
    with pytest.raises(FormulationError, match="at most 15 players"):
        nucleolus(game)
    with pytest.raises(FormulationError, match="a Callback cannot know"):
        nucleolus(game, oracle=Callback(game, lambda payoffs: []))
    found = nucleolus(game, oracle=LocalSearch(game))
    assert not found.proved
    assert -found.payoffs.to_numpy() == pytest.approx(littlechild([1.0 + k for k in range(17)]))
