"""Superadditive and convex games: by their definitions written out, and what follows from them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.agents.coalitions.core import in_core
from mktopt.agents.coalitions.masks import FloatArray, sizes
from mktopt.agents.coalitions.properties import convex, superadditive
from mktopt.agents.coalitions.published import airport, bankruptcy, gloves, majority
from mktopt.agents.coalitions.shapley import shapley
from mktopt.agents.coalitions.values import CoalitionGame
from mktopt.errors import FormulationError
from tests.agents.coalitions.drawn import NAMES, listed, tables


@given(tables(least=1, most=4))
def test_they_are_what_their_definitions_say(values: FloatArray) -> None:
    game = listed(values)
    pairs = list(product(range(len(values)), repeat=2))
    unite = max(values[s] + values[t] - values[s | t] for s, t in pairs if not s & t)
    join = max(values[s] + values[t] - values[s | t] - values[s & t] for s, t in pairs)
    assert superadditive(game).lack == pytest.approx(unite) and bool(superadditive(game)) == (unite <= 1e-9)
    assert bool(convex(game)) == (join <= 1e-9)
    for found in (superadditive(game), convex(game)):
        if not found:
            s, t = found.groups
            assert game.value(s) + game.value(t) - game.value(s | t) - game.value(s & t) == pytest.approx(found.lack)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.floats(0.0, 1.0))
def test_bankruptcies_and_airports_are_convex_so_that_shapley_is_in_the_core(costs: list[int], share: float) -> None:
    named = dict(zip(NAMES, map(float, costs), strict=False))
    for game in (bankruptcy(share * sum(costs), named), airport(named)):
        assert convex(game) and superadditive(game) and in_core(game, shapley(game).payoffs)


def test_gloves_are_superadditive_and_not_convex() -> None:
    game = gloves(["l1", "l2"], ["r"])
    assert superadditive(game) and not convex(game)
    assert str(convex(game)) == "it fails most for {l2, r} and {l1, r}: 1 $ are missing"
    found = superadditive(majority(1, {"a": 1, "b": 1}))  # each wins alone, and both no more than one
    assert set(found.groups) == {frozenset("a"), frozenset("b")} and found.lack == 1.0


def test_more_players_than_are_listed_at_once() -> None:
    values = sizes(13).astype(float) ** 2
    assert superadditive(listed(values)) and convex(listed(values))
    values[0b1_1000_0000_0001] -= 10.0  # 9 - 10 + ... : less than its parts
    found = superadditive(listed(values))
    assert found.lack == pytest.approx(4.0 + 1.0 - (9.0 - 10.0)) and len(found.groups[0] | found.groups[1]) == 3
    with pytest.raises(FormulationError, match=r"call game.table\(\) first"):
        convex(CoalitionGame([f"p{k}" for k in range(16)], len))
    assert np.isfinite(found.lack)
