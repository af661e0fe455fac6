"""Unit costs in closed form, by their inverse and as the multiplier of COP (7); limits, slopes and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.aggregators import Aggregators
from mktopt.errors import DataError, FormulationError, SolverError, UnknownNameError
from mktopt.formulations.aggregator import aggregator_welfare
from mktopt.formulations.utilities import own_utility
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.utilities import Utility
from mktopt.solvers import compile, solve


def crowd(seed: int, agents: int, aggregators: int, log: float = 0.5, sellers: float = 0.4) -> Prosumers:
    """Random agents, scattered over the aggregators; `log`, `sellers`: shares of agents."""
    rng = np.random.default_rng(seed)
    is_log = rng.random(agents) < log
    group = np.r_[np.arange(aggregators), rng.integers(0, aggregators, agents - aggregators)]
    return Prosumers(pd.DataFrame({
        "agent": [f"a{i}" for i in range(agents)],
        "bus": [f"n{k}" for k in group],
        "aggregator": [f"k{k}" for k in group],
        "utility": np.where(is_log, "log", "quadratic"),
        "a": np.where(is_log, rng.uniform(0.5, 2, agents), rng.uniform(0.1, 0.6, agents)),
        "b": np.where(is_log, rng.uniform(1, 6, agents), rng.uniform(0.01, 0.1, agents)),
        "generation_kw": np.where(rng.random(agents) < sellers, rng.uniform(1, 20, agents), 0.0),
    }))  # fmt: skip


def two(utility: str = "log", generation: tuple[float, float] = (0.0, 3.0), **changes: Any) -> Prosumers:
    """A buyer (a 1, b 1) and a seller (a 2, b 4) at one bus."""
    table = pd.DataFrame({"agent": ["b", "s"], "bus": "n", "aggregator": "k", "utility": utility, "a": [1.0, 2.0],
                          "b": [1.0, 4.0], "generation_kw": generation})  # fmt: skip
    return Prosumers(table.assign(**changes))


def test_two_agents_on_paper() -> None:
    # 1/(1 + x) = 2/(4 + y) = c with x + y = 3 + p:  c = 3 / (8 + p) while both consume; y = 0 below c = 1/2, p = -2
    some = Aggregators(two())
    p = np.array([[0.0], [10.0], [1e6], [-2.5], [-3.0]])
    c = some.unit_costs(p)
    assert c.ravel() == pytest.approx([3 / 8, 3 / 18, 3 / (8 + 1e6), 1 / 1.5, 1.0], rel=1e-14)
    assert some.slopes(c).ravel()[[0, 3, 4]] == pytest.approx([-3 / 64, -1 / 1.5**2, -1.0], rel=1e-12)
    assert some.consumption(c)[0] == pytest.approx([5 / 3, 4 / 3])
    assert some.welfare(some.consumption(c))[0] == pytest.approx(np.log(8 / 3) + 2 * np.log(4 / 3))
    assert some.consumption(c)[4].tolist() == [0, 0]
    assert some.lowest_kw.tolist() == [-3.0]


def test_sated_agents_pay_to_consume_less() -> None:
    # 1 - x = 2 - 4 y = c, x + y = 13:  x = 1 - c, y = (2 - c)/4, so that 1.5 - 1.25 c = 13
    some = Aggregators(two("quadratic"))
    assert some.unit_costs([10.0]) == pytest.approx([-11.5 / 1.25], rel=1e-14)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), log=st.sampled_from([0.0, 0.5, 1.0]))
def test_power_balances_and_slopes_are_slopes(seed: int, log: float) -> None:
    prosumers = crowd(seed, 60, 7, log)
    some = Aggregators(prosumers)
    rng = np.random.default_rng(seed)
    p = some.lowest_kw * (1 - 2 * rng.random((3, 7))) + 1e-3
    c = some.unit_costs(p)
    size = np.abs(p) - some.lowest_kw
    assert np.max(np.abs(some.net_kw(c) - p) / size) <= 2e-13
    assert some.unit_costs(p, start=c * rng.uniform(0.5, 2.0, c.shape)) == pytest.approx(c, rel=1e-11)
    by_name = [prosumers.table["aggregator"] == name for name in some.names]
    one = some.consumption(c)[0] - prosumers.generation_kw
    assert [one[rows].sum() for rows in by_name] == pytest.approx(p[0], abs=1e-10 * size.max())
    step = 1e-6 * size
    rise = (some.unit_costs(p + step) - some.unit_costs(p - step)) / (2 * step)
    # where another agent begins to consume the slope jumps
    kinked = np.abs(some.slopes(c + rise * step) / some.slopes(c - rise * step) - 1) > 1e-3
    assert (rise <= 0).all()
    assert rise[~kinked] == pytest.approx(some.slopes(c)[~kinked], rel=1e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_unit_cost_is_the_derivative_of_welfare(seed: int) -> None:
    some = Aggregators(crowd(seed, 30, 4))
    p = -some.lowest_kw * np.random.default_rng(seed).uniform(-0.9, 1.0, 4) + 1e-2
    theta = [some.welfare(some.consumption(some.unit_costs(p + h))) for h in (-1e-4, 1e-4)]
    assert some.unit_costs(p) == pytest.approx((theta[1] - theta[0]) / 2e-4, rel=1e-5, abs=1e-7)


def test_limits_where_nobody_consumes() -> None:
    prosumers = crowd(5, 40, 5)
    some = Aggregators(prosumers)
    c = some.unit_costs(some.lowest_kw)
    frame = pd.Series(prosumers.marginal(0.0)).groupby(prosumers.group).max()
    assert c == pytest.approx(frame.to_numpy(), rel=1e-15)
    assert (some.consumption(c) == 0).all()
    assert (some.slopes(c) < 0).all()
    assert some.unit_costs(some.lowest_kw - 1e-12) == pytest.approx(c)


def test_only_sellers_and_only_buyers_have_unit_costs() -> None:
    sellers, buyers = Aggregators(two(generation=(2.0, 3.0))), Aggregators(two(generation=(0.0, 0.0)))
    assert sellers.unit_costs([-2.0]) == pytest.approx([3 / 8])  # 1/(1+x) = 2/(4+y), x + y = 3
    assert buyers.unit_costs([3.0]) == pytest.approx([3 / 8])


@pytest.mark.parametrize("log", [0.4, 1.0])
def test_cop_7_has_these_multipliers(log: float) -> None:
    prosumers = crowd(11, 40, 4, log)
    some = Aggregators(prosumers)
    p = np.minimum(-some.lowest_kw, 60.0) * np.array([0.3, -0.5, 0.0, -0.9])
    c = some.unit_costs(p)
    model = aggregator_welfare(prosumers, p)
    solution = solve(compile(model))
    x = some.consumption(c)
    assert solution.x == pytest.approx(x, abs=2e-4)
    assert solution.objective == pytest.approx(some.welfare(x).sum(), rel=1e-7)
    assert np.abs(solution.row_dual) == pytest.approx(np.abs(c), rel=1e-4)


def test_cop_7_of_some_and_with_own_utilities() -> None:
    root = own_utility("root", lambda x, a, b: a * pyo.sqrt(x) + b * x)
    table = crowd(3, 12, 2).table
    table.loc[:3, ["utility", "b"]] = ["root", 0.01]
    prosumers = Prosumers(table, utilities={"root": root})
    some = Aggregators(prosumers)
    name, p = some.names[1], 0.5 * some.lowest_kw
    model = aggregator_welfare(prosumers, {name: float(p[1])})
    assert list(model.coupling) == [name]
    solution = solve(compile(model))
    x = some.consumption(some.unit_costs(p))[some.group == 1]
    assert solution.objective == pytest.approx(some.welfare(some.consumption(some.unit_costs(p)))[1], rel=1e-6)
    assert solution.x == pytest.approx(x, abs=1e-3)


def test_no_perturbation_of_a_feasible_sort_is_worth_more() -> None:
    prosumers = crowd(8, 50, 5)
    some = Aggregators(prosumers)
    x = some.consumption(some.unit_costs(0.4 * some.lowest_kw))
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-1, 3.0):
        other = np.maximum(x + scale * rng.standard_normal((50, len(x))), 0.0)
        other *= (some.total(x) / some.total(other))[:, some.group]  # the same power in each aggregator
        assert (some.welfare(other) <= some.welfare(x) + 1e-12).all()


def test_many_agents_take_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    prosumers = crowd(1, 20_000, 200, log=1.0)
    some = Aggregators(prosumers)
    calls = []
    demand = Prosumers.demand_at
    monkeypatch.setattr(Prosumers, "demand_at", lambda self, price: calls.append(1) or demand(self, price))
    c = some.unit_costs(0.3 * some.lowest_kw)
    assert len(calls) <= 12  # each is one pass over all agents, whatever their number
    assert some.net_kw(c) == pytest.approx(0.3 * some.lowest_kw, rel=1e-12)


def test_refusals() -> None:
    prosumers = two()
    some = Aggregators(prosumers)
    message = r"row 'k', column 'p_kw', value -3.5: 'k' can give at most its generation: .*-3 kW"
    with pytest.raises(DataError, match=message):
        some.unit_costs([-3.5])
    with pytest.raises(DataError, match="not a finite number"):
        some.unit_costs([np.nan])
    with pytest.raises(DataError, match="'k' can give at most its generation"):
        aggregator_welfare(prosumers, [-3.5])
    with pytest.raises(UnknownNameError, match="unknown aggregator 'kk'; did you mean 'k'"):
        aggregator_welfare(prosumers, {"kk": 1.0})
    with pytest.raises(FormulationError, match="p_kw has shape"):
        aggregator_welfare(prosumers, [1.0, 2.0])
    with pytest.raises(DataError, match="stand at different buses"):
        Aggregators(two(bus=["n", "m"]))


def test_a_utility_that_is_convex_beyond_the_test_points_is_seen() -> None:
    def marginal(x: Any, a: Any, b: Any) -> Any:
        return np.where(x < 400, a / (1 + x), a / 401 + (x - 400) * 1e-4) + 0 * b

    def demand(price: Any, a: Any, b: Any) -> Any:
        return np.clip(a / np.maximum(price, 1e-300) - 1, 0, 400) + 0 * b

    bent = Utility("bent", lambda x, a, b: a * np.log1p(x), marginal, lambda x, a, b: -a / (1 + x) ** 2 + 0 * b, demand)
    table = two().table.assign(utility="bent", generation_kw=[0.0, 0.0])
    some = Aggregators(Prosumers(table, utilities={"bent": bent}))
    assert some.unit_costs([10.0]) == pytest.approx([3 / 12])
    with pytest.raises(SolverError, match="no unit cost balances aggregator 'k'.*strictly concave"):
        some.unit_costs([5000.0])


def test_an_own_utility_that_is_not_concave_is_refused_before_anything_is_solved() -> None:
    convex = own_utility("convex", lambda x, a, b: a * x**2)
    table = two().table.assign(utility=["log", "convex"])
    with pytest.raises(DataError, match="row 's', column 'utility', value 'convex': .*not strictly concave"):
        Aggregators(Prosumers(table, utilities={"convex": convex}))
