"""Price-anticipating agents: two on paper, the certificate by other means, limits of many, and games without trade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.anticipation import TradeVerdict, anticipating_unit_costs, greatest_gain
from mktopt.errors import DataError
from mktopt.formulations.utilities import own_utility
from mktopt.networks.prosumers import Prosumers

WRITTEN = own_utility("written", lambda x, a, b: a * pyo.log(1 + x / b))


def people(a: list[float], b: list[float], generation_kw: list[float], utility: str = "log") -> Prosumers:
    """Agents of one aggregator k."""
    names = [f"a{i}" for i in range(len(a))]
    table = pd.DataFrame({"agent": names, "bus": "n", "aggregator": "k", "utility": utility, "a": a, "b": b,
                          "generation_kw": generation_kw})  # fmt: skip
    return Prosumers(table, utilities={"written": WRITTEN})


def crowd(seed: int, aggregators: int = 6, agents: int = 8) -> Prosumers:
    """Aggregators of random agents, logarithmic and quadratic, half of them with generation."""
    rng, n = np.random.default_rng(seed), aggregators * agents
    is_log = rng.random(n) < 0.5
    return Prosumers(pd.DataFrame({
        "agent": [f"a{i}" for i in range(n)],
        "bus": [f"k{k}" for k in np.repeat(np.arange(aggregators), agents)],
        "utility": np.where(is_log, "log", "quadratic"),
        "a": np.where(is_log, rng.uniform(0.5, 2, n), rng.uniform(0.1, 0.6, n)),
        "b": np.where(is_log, rng.uniform(1, 6, n), rng.uniform(0.01, 0.03, n)),
        "generation_kw": np.where(rng.random(n) < 0.5, rng.uniform(1, 10, n), 0.0),
    }))  # fmt: skip


def test_two_buyers_on_paper() -> None:
    # log, a = 1, b = 1 and 4, S = p = 3: (1 - x/3)/(b + x) = c has c = 1/(S + b_1 + b_2) = 1/8, x = 21/11 and 12/11
    some = people([1, 1], [1, 4], [0, 0])
    found = anticipating_unit_costs(some, [3.0])
    assert found.unit_costs == pytest.approx([1 / 8], rel=1e-12)
    assert found.net_kw == pytest.approx([21 / 11, 12 / 11], rel=1e-12)
    assert found.supply_kw == pytest.approx([3.0])
    assert found.taking_unit_costs == pytest.approx([1 / 4])  # price takers: x = 3 and 0
    expected = (np.log(4) - np.log(32 / 11) - np.log(14 / 11)) / np.log(4)
    assert found.loss == pytest.approx([expected], rel=1e-10)
    assert found.table["verdict"].to_list() == ["equilibrium"]
    assert greatest_gain(some, found) == pytest.approx([0.0], abs=1e-14)


def test_equal_buyers_share_equally_at_a_lower_cost() -> None:
    found = anticipating_unit_costs(people([2] * 5, [3] * 5, [0] * 5), [10.0])
    assert found.net_kw == pytest.approx(np.full(5, 2.0))
    assert found.unit_costs == pytest.approx([2 / 5 * (1 - 1 / 5)])
    assert found.loss == pytest.approx([0.0], abs=1e-14)


def test_one_against_one_does_not_trade() -> None:
    some = people([1, 2], [1, 4], [0, 3])
    found = anticipating_unit_costs(some, [0.0])
    assert found.verdicts[0] is TradeVerdict.NO_TRADE
    assert np.isnan([*found.unit_costs, *found.loss, *found.net_kw, *greatest_gain(some, found)]).all()
    alone = anticipating_unit_costs(people([1], [1], [0]), [2.0])
    assert alone.verdicts[0] is TradeVerdict.NO_PRICE
    # two sated quadratic agents leave power over whatever it costs
    sated = anticipating_unit_costs(people([0.1, 0.1], [0.1, 0.1], [0, 0], "quadratic"), [50.0])
    assert sated.verdicts[0] is TradeVerdict.NO_PRICE
    with pytest.raises(DataError, match="'k' can give at most its generation"):
        anticipating_unit_costs(some, [-4.0])


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), share=st.floats(-0.2, 1.0))
def test_nobody_gains_by_another_bid(seed: int, share: float) -> None:
    some = Aggregators(crowd(seed))
    p = -share * some.lowest_kw
    found = anticipating_unit_costs(some, p)
    there = found.verdicts == TradeVerdict.EQUILIBRIUM
    assert (found.unit_costs[there] > 0).all()
    assert some.total(found.net_kw)[there] == pytest.approx(p[there], abs=1e-9)
    assert greatest_gain(some, found)[there] == pytest.approx(0.0, abs=1e-11)
    assert (found.loss[there] >= -1e-12).all()
    if share > 0:
        assert there.any()


def test_the_certificate_sees_what_is_no_equilibrium_and_agrees_with_a_search() -> None:
    from scipy.optimize import minimize_scalar

    some = people([1, 1.5, 0.7, 0.9], [1, 4, 2, 3], [0, 0, 9, 6])
    found = anticipating_unit_costs(some, [1.0])
    everyone = Aggregators(some)
    taking = everyone.consumption(found.taking_unit_costs) - some.generation_kw
    supply = 1.0 - taking[taking < 0].sum()
    taken = replace(found, unit_costs=found.taking_unit_costs, supply_kw=np.array([supply]), net_kw=taking)
    gains = []
    for result in (found, taken):
        c, s = float(result.unit_costs[0]), float(result.supply_kw[0])
        bid, offer = np.maximum(result.net_kw, 0) * c, np.maximum(-result.net_kw, 0)
        best = []
        for i in range(4):
            others_money, others_power = c * s - bid[i], s - offer[i]

            def payoff(net: np.ndarray, paid: float, i: int = i) -> float:
                return float(some.utility(some.generation_kw + net)[i]) - paid

            def buying(m: float, money: float = others_money, power: float = others_power, i: int = i) -> float:
                return -payoff(m * power / (money + m), m, i)

            def selling(q: float, money: float = others_money, power: float = others_power, i: int = i) -> float:
                return -payoff(-q, -money * q / (power + q), i)

            now = payoff(result.net_kw, c * result.net_kw[i], i)
            tries = [minimize_scalar(buying, bounds=(0, 20), method="bounded", options={"xatol": 1e-10})]
            if some.generation_kw[i] > 0:
                most = float(some.generation_kw[i])
                tries.append(minimize_scalar(selling, bounds=(0, most), method="bounded", options={"xatol": 1e-10}))
            best.append(max(-one.fun for one in tries) - now)
        gains.append(max(best))
        assert greatest_gain(some, result) == pytest.approx([max(best)], abs=1e-8)
    assert gains[0] == pytest.approx(0.0, abs=1e-8)
    assert gains[1] > 1e-3


def test_many_equal_agents_take_prices_in_the_limit() -> None:
    losses, costs = [], []
    for n in (4, 16, 64):
        found = anticipating_unit_costs(people([1.5, 0.8] * n, [2, 3] * n, [0, 9] * n), [0.0])
        losses.append(float(found.loss[0]))
        costs.append(abs(float(found.unit_costs[0] / found.taking_unit_costs[0]) - 1))
    assert losses[0] > losses[1] > losses[2] > 0
    # each agent's part of the supply falls as 1/n, and what is lost with its square
    assert losses[1] / losses[2] == pytest.approx(16, rel=0.1)
    assert losses[2] < 1e-4
    assert costs[2] < 0.02


def test_own_utilities_go_another_way_to_the_same_end() -> None:
    figures = [1.0, 1.5, 0.7, 0.9], [1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 9.0, 6.0]
    for p in (4.0, 0.0):
        known, own = (anticipating_unit_costs(people(*figures, name), [p]) for name in ("log", "written"))
        assert own.unit_costs == pytest.approx(known.unit_costs, rel=1e-11)
        assert own.net_kw == pytest.approx(known.net_kw, rel=1e-9)


def test_export_has_an_equilibrium_where_sellers_compete() -> None:
    some = people([2, 2, 2, 0.3, 0.3, 0.3, 0.3], [3] * 7, [0, 0, 0, 20, 20, 20, 20])
    found = anticipating_unit_costs(some, [-5.0])
    assert found.verdicts[0] is TradeVerdict.EQUILIBRIUM
    assert found.net_kw.sum() == pytest.approx(-5.0)
    assert greatest_gain(some, found) == pytest.approx([0.0], abs=1e-12)
    assert found.unit_costs[0] != pytest.approx(found.taking_unit_costs[0], rel=1e-3)


def test_leading_axes() -> None:
    some = Aggregators(crowd(7))
    p = np.array([[0.1], [0.4], [0.8]]) * np.maximum(-some.lowest_kw, 1.0)
    found = anticipating_unit_costs(some, p)
    assert found.unit_costs.shape == (3, 6)
    assert some.total(found.net_kw) == pytest.approx(p, abs=1e-9)
    alone = anticipating_unit_costs(some, p[1])
    assert found.unit_costs[1] == pytest.approx(alone.unit_costs, rel=1e-12)
    assert found.loss[1] == pytest.approx(alone.loss, abs=1e-12)
    assert greatest_gain(some, found) == pytest.approx(np.zeros((3, 6)), abs=1e-11)
