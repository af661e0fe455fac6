"""Utilities by finite differences, demand as the inverse of marginal utility, and curves within their error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.errors import DataError
from mktopt.networks.cases import load_case
from mktopt.networks.network import Network
from mktopt.networks.prosumers import Prosumers

MakeNetwork = Callable[..., Network]


def people(**changes: Any) -> Prosumers:
    """A log buyer, a log seller, a quadratic buyer and a quadratic seller."""
    table = pd.DataFrame({
        "agent": ["lb", "ls", "qb", "qs"],
        "bus": ["n1", "n1", "n2", "n3"],
        "utility": ["log", "log", "quadratic", "quadratic"],
        "a": [1.6, 0.9, 0.5, 0.4],
        "b": [4.0, 2.0, 0.02, 0.05],
        "generation_kw": [0.0, 12.0, 0.0, 6.0],
    })  # fmt: skip
    return Prosumers(table.assign(**changes))


def test_figures_by_hand() -> None:
    some = people()
    assert some.utility(8.0)[0] == pytest.approx(1.6 * np.log(3))
    assert some.marginal(12.0)[0] == pytest.approx(0.1)
    assert some.utility(10.0)[2] == pytest.approx(5.0 - 1.0)
    assert some.marginal(10.0)[2] == pytest.approx(0.3)
    assert some.demand_at(0.1) == pytest.approx([12.0, 7.0, 20.0, 6.0])
    assert some.utility(0.0).tolist() == [0, 0, 0, 0]


@given(x=st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_marginal_is_the_derivative(x: list[float]) -> None:
    some, at, step = people(), np.array(x), 1e-4
    slope = (some.utility(at + step) - some.utility(at - step)) / (2 * step)
    assert some.marginal(at) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@given(price=st.floats(1e-3, 1.0))
def test_demand_inverts_marginal(price: float) -> None:
    some = people()
    x = some.demand_at(price)
    reached = some.marginal(x)
    inside = x > 0
    assert reached[inside] == pytest.approx(np.full(inside.sum(), price), rel=1e-9)
    assert (reached[~inside] <= price * (1 + 1e-12)).all()


def test_arrays_broadcast_over_agents() -> None:
    some = people()
    prices = np.array([[0.05], [0.1], [0.2]])
    assert some.demand_at(prices).shape == (3, 4)
    assert some.demand_at(prices)[1] == pytest.approx(some.demand_at(0.1))
    assert np.isinf(some.demand_at(0.0)[:2]).all()
    assert some.demand_at(-0.1)[2] == pytest.approx(30.0)


def answer(some: Prosumers, orders: Any, price: float) -> np.ndarray:
    """Net purchase of each agent when its orders meet `price` [kW]."""
    zero = np.zeros(len(orders))
    kw = orders.curves.best_response(np.full(len(orders), price), orders.injection_sign, zero, orders.width_kw)
    by_agent = pd.Series(-orders.injection_sign * kw).groupby(orders.orders["participant"].to_numpy()).sum()
    return by_agent.reindex(some.table["agent"]).fillna(0.0).to_numpy()


@given(price=st.floats(0.0, 0.7), periods=st.integers(1, 3))
def test_quadratic_people_are_exact(price: float, periods: int) -> None:
    some = Prosumers(people().table.iloc[2:])
    orders = some.to_orders(periods=periods)
    assert orders.meta["max_price_error"] == 0
    assert orders.orders["period"].nunique() == periods
    wanted = some.demand_at(price) - some.generation_kw
    assert answer(some, orders, price) == pytest.approx(wanted * periods, abs=1e-9)


def test_names_sides_and_self_trade() -> None:
    orders = people().to_orders(max_error=1e-3)
    table = orders.orders.set_index("order")
    assert set(table.index) == {"lb:bid", "ls:bid", "ls:offer", "qb:bid", "qs:bid", "qs:offer"}
    assert table.loc["ls:offer", ["participant", "bus", "side"]].to_list() == ["ls", "n1", "offer"]
    first = pd.Series(orders.curves.first_price, index=orders.orders["order"])
    assert first["ls:bid"] == pytest.approx(first["ls:offer"])
    assert orders.width_kw[list(table.index).index("ls:offer")] == pytest.approx(12.0)


@pytest.mark.parametrize("max_error", [1e-2, 1e-3, 1e-4])
def test_log_people_stay_within_the_error(max_error: float) -> None:
    some = people()
    orders = some.to_orders(max_error=max_error)
    attained = orders.meta["max_price_error"]
    assert attained <= max_error * (1 + 1e-9)
    rng = np.random.default_rng(0)
    names = orders.orders["order"].to_list()
    for row, name in enumerate(names):
        agent = some.table["agent"].to_list().index(name.split(":")[0])
        sign = 1 if name.endswith("bid") else -1
        quantity = np.zeros(len(orders))
        for q in rng.uniform(0, orders.width_kw[row], 200):
            quantity[row] = q
            price = orders.curves.marginal(quantity)[row]
            exact = some.marginal(some.generation_kw[agent] + sign * q)[agent]
            assert abs(price - exact) <= attained + 1e-12
        end = some.generation_kw[agent] + sign * orders.width_kw[row]
        assert some.marginal(end)[agent] <= max_error * 1.001 or sign < 0


def test_the_whole_published_crowd() -> None:
    prosumers = load_case("ieee37_aggregators").prosumers
    assert prosumers is not None
    orders = prosumers.to_orders(max_error=1e-3)
    assert len(orders) == 483 + 180
    assert orders.meta["max_price_error"] <= 1e-3 * (1 + 1e-9)
    price = 0.10
    exact = prosumers.demand_at(price) - prosumers.generation_kw
    slope = prosumers.a / (prosumers.b + prosumers.demand_at(price)) ** 2
    assert (np.abs(answer(prosumers, orders, price) - exact) <= 1.5e-3 / slope).all()


def test_log_needs_an_error() -> None:
    with pytest.raises(DataError, match=r"row 'lb', column 'utility', value 'log'.*pass max_error.*max_error=1e-3"):
        people().to_orders()


@pytest.mark.parametrize("max_error", [0.0, -1.0, np.nan, np.inf])
def test_the_error_must_be_a_price(max_error: float) -> None:
    with pytest.raises(DataError, match="max_error must be a finite price above zero"):
        people().to_orders(max_error=max_error)


def test_csv_round_trip(tmp_path: Path) -> None:
    some = people(aggregator=["k1", "k1", "k2", "k2"])
    some.to_csv(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(Prosumers.from_csv(tmp_path / "p.csv").table, some.table, check_exact=True)
    assert people().table["aggregator"].to_list() == ["n1", "n1", "n2", "n3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "x"}, r"row 'x', column 'agent': the name stands twice"),
        ({"utility": "cubic"}, r"row 'lb', column 'utility', value 'cubic': unknown word \(one of log, quadratic\)"),
        ({"a": 0.0}, r"row 'lb', column 'a', value 0.0: must be greater than zero"),
        ({"b": np.nan}, r"row 'lb', column 'b', value nan: the cell is empty or NaN"),
        ({"generation_kw": -1.0}, r"column 'generation_kw', value -1.0: below 0"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        people(**changes)


def test_unknown_buses_are_named(make_network: MakeNetwork) -> None:
    people().check(make_network(1, 4))
    with pytest.raises(DataError, match=r"row 'qs', column 'bus', value 'n3': no such name in table 'buses'"):
        people().check(make_network(1, 3))


def test_aggregators_in_sequence_of_appearance() -> None:
    some = people(aggregator=["k2", "k2", "k1", "k0"])
    frame = some.aggregators
    assert frame["aggregator"].to_list() == ["k2", "k1", "k0"]
    assert frame["bus"].to_list() == ["n1", "n2", "n3"]
    assert frame["agents"].to_list() == [2, 1, 1]
    assert frame["generation_kw"].to_list() == [12.0, 0.0, 6.0]
    assert some.group.tolist() == [0, 0, 1, 2]


def test_an_aggregator_has_one_bus() -> None:
    scattered = people(aggregator=["k", "k", "k", "k2"])
    message = r"row 'qb', column 'bus', value 'n2': the agents of aggregator 'k' .* 'n1' and 'n2'"
    with pytest.raises(DataError, match=message):
        _ = scattered.aggregators
    assert scattered.group.tolist() == [0, 0, 0, 1]  # orders of such people are none the worse
