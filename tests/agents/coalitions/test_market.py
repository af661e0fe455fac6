"""The market game: two agents on paper, the declared model, Owen payments in the core, bounds of all values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.coalitions.core import in_core
from mktopt.agents.coalitions.market import MarketGame
from mktopt.agents.coalitions.masks import sums
from mktopt.agents.coalitions.nucleolus import kohlberg, nucleolus
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.errors import DataError, FormulationError, UnknownNameError
from mktopt.formulations.aggregator import aggregator_welfare
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import compile, solve


def crowd(n: int, seed: int) -> Prosumers:
    """Random agents at one bus, half of them logarithmic, some with generation."""
    rng = np.random.default_rng(seed)
    log = rng.random(n) < 0.5
    return Prosumers(pd.DataFrame({
        "agent": [f"a{i}" for i in range(n)],
        "bus": "n",
        "aggregator": "k",
        "utility": np.where(log, "log", "quadratic"),
        "a": np.where(log, rng.uniform(0.5, 2, n), rng.uniform(0.1, 0.6, n)),
        "b": np.where(log, rng.uniform(1, 6, n), rng.uniform(0.01, 0.1, n)),
        "generation_kw": np.where(rng.random(n) < 0.6, rng.uniform(1, 20, n), 0.0),
    }))  # fmt: skip


def pair() -> Prosumers:
    """u = 4 x - x^2 / 2 each; the one has nothing, the other 4 kW, all that it wants."""
    table = pd.DataFrame({"agent": ["one", "two"], "bus": "n", "aggregator": "k", "utility": "quadratic",
                          "a": 4.0, "b": 1.0, "generation_kw": [0.0, 4.0]})  # fmt: skip
    return Prosumers(table)


def test_two_agents_on_paper() -> None:
    """Together 2 kW each at c = 2: v = 2 (8 - 2) = 12. Owen: 6 - 4 = 2 and 6 + 4 = 10; alone 0 and 8."""
    market = MarketGame(pair())
    game = market.game()
    assert market.price(["one", "two"]) == pytest.approx(2.0)
    assert game.table() == pytest.approx([0.0, 0.0, 8.0, 12.0])
    assert market.payments().to_dict() == pytest.approx({"one": 2.0, "two": 10.0})
    assert nucleolus(game).payoffs.to_numpy() == pytest.approx([2.0, 10.0])
    # bought at 3 $/kWh alone: x = 1, 4 - 1/2 - 3 = 1/2; sold at 1: x = 3, 12 - 9/2 + 1 = 17/2
    outside = MarketGame(pair(), feed_in=1.0, retail=3.0).game()
    assert outside.table() == pytest.approx([0.0, 0.5, 8.5, 12.0])


@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_values_are_those_of_the_declared_model(n: int, seed: int, outside: bool) -> None:
    people = crowd(n, seed)
    prices = {"feed_in": 0.05, "retail": 0.2} if outside else {}
    market = MarketGame(people, **prices)
    model = aggregator_welfare(people, {"k": 0.0})
    if outside:
        model.bought, model.sold = pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, None))
        model.coupling["k"].set_value(
            sum(model.consumption_kw.values()) + model.sold <= people.generation_kw.sum() + model.bought
        )
        model.welfare.expr += 0.05 * model.sold - 0.2 * model.bought
    program = compile(model)
    assert market.game().value(market.players) == pytest.approx(solve(program).objective, rel=1e-6, abs=1e-6)


@settings(max_examples=10)
@given(st.integers(2, 6), st.integers(0, 2**32), st.booleans())
def test_owen_payments_are_in_the_core(n: int, seed: int, outside: bool) -> None:
    market = MarketGame(crowd(n, seed), *((0.05, 0.2) if outside else ()))
    game = market.game()
    payments = market.payments()
    assert payments.sum() == pytest.approx(game.value(game.all))
    verdict = in_core(game, payments)
    assert verdict, verdict
    assert supporting_payments(game)
    values = game.table()
    for constant, weights in game.bounds:
        assert (constant + sums(weights) >= values - 1e-9 * np.abs(values).max() - 1e-12).all()
    some = market.payments(market.players[:2])  # a submarket has its own
    assert in_core(MarketGame(crowd(n, seed), market.feed_in, market.retail).game(), payments)
    assert some.sum() == pytest.approx(game.value(market.players[:2]))


def test_fifteen_players_have_a_nucleolus() -> None:
    market = MarketGame(crowd(15, 1), 0.05, 0.2)
    found = nucleolus(market.game())
    assert found.proved and found.evaluated < 0.05 * 2**15
    assert in_core(market.game(), found.payoffs)


def test_a_market_of_eight_by_kohlberg() -> None:
    game = MarketGame(crowd(8, 4)).game()
    assert kohlberg(game, nucleolus(game).payoffs)


def test_where_nobody_gains_all_keep_what_they_have() -> None:
    """Who can always buy and sell outside at one price does nothing together: values differ by rounding."""
    game = MarketGame(crowd(6, 3), 0.1, 0.1).game()
    own = game.values([(player,) for player in game.players])
    assert nucleolus(game).payoffs.to_numpy() == pytest.approx(own) and supporting_payments(game)


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="buying to sell would earn without end"):
        MarketGame(pair(), feed_in=0.2, retail=0.1)
    with pytest.raises(DataError, match="not a finite price"):
        MarketGame(pair(), feed_in=-np.inf)
    with pytest.raises(UnknownNameError, match="unknown player 'three'"):
        MarketGame(pair()).price(["three"])
    with pytest.raises(FormulationError, match="no price"):
        MarketGame(pair()).price([])
