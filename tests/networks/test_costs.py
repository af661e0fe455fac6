"""Costs as orders: at every output the orders and the recorded constant give the cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.errors import DataError
from mktopt.networks.costs import Generator, offers
from mktopt.networks.orders import Orders


def cost_at(orders: Orders, constant: float, p_mw: float) -> float:
    """What the orders and the constant say about an output (offers cost, bids are worth)."""
    quantity = np.where(orders.is_bid, max(-p_mw, 0.0), max(p_mw, 0.0)) * 1000
    value = orders.curves.value(quantity)
    return float(np.sum(np.where(orders.is_bid, -value, value)) + constant)


limits = st.tuples(st.floats(-50, 50), st.floats(0.1, 100)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(limits=limits, c2=st.floats(0, 1), c1=st.floats(-20, 100), c0=st.floats(0, 100), share=st.floats(0, 1))
def test_quadratic_costs_are_exact(limits: tuple[float, float], c2: float, c1: float, c0: float, share: float) -> None:
    unit = Generator("g", "b", *limits, -1.0, 1.0, ("polynomial", (c2, c1, c0)))
    orders, account = offers([unit])
    p = limits[0] + share * (limits[1] - limits[0])
    assert cost_at(orders, account["fixed_cost_per_h"], p) == pytest.approx(c2 * p * p + c1 * p + c0, abs=1e-6)
    assert account["max_price_error"] == 0
    total = orders.width_kw @ np.where(orders.is_bid, 0, 1)
    assert total == pytest.approx(1000 * max(limits[1], 0.0), abs=1e-6)
    minimum = orders.orders["minimum_kw"].to_numpy()
    assert minimum.max() == pytest.approx(1000 * max(limits[0], -limits[1], 0.0), abs=1e-6)


@given(
    limits=limits,
    steps=st.lists(st.tuples(st.floats(1, 40), st.floats(0, 30)), min_size=1, max_size=4),
    start=st.floats(-60, 20),
    share=st.floats(0, 1),
)
def test_piecewise_costs_are_exact(
    limits: tuple[float, float], steps: list[tuple[float, float]], start: float, share: float
) -> None:
    x, y, slope = [start], [100.0], -10.0
    for width, rise in steps:
        slope += rise
        x.append(x[-1] + width)
        y.append(y[-1] + slope * width)
    numbers = tuple(value for pair in zip(x, y, strict=True) for value in pair)
    orders, account = offers([Generator("g", "b", *limits, 0.0, 0.0, ("piecewise", numbers))])
    p = limits[0] + share * (limits[1] - limits[0])
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    expected = np.interp(p, x, y) + first * min(p - x[0], 0.0) + last * max(p - x[-1], 0.0)
    assert cost_at(orders, account["fixed_cost_per_h"], p) == pytest.approx(expected, abs=1e-6)


@given(c3=st.floats(1e-6, 0.01), c2=st.floats(0, 0.2), high=st.floats(5, 200), share=st.floats(0, 1))
def test_cubic_costs_stay_within_the_stated_error(c3: float, c2: float, high: float, share: float) -> None:
    unit = Generator("g", "b", 0.0, high, 0.0, 0.0, ("polynomial", (c3, c2, 5.0, 0.0)))
    orders, account = offers([unit])
    p = share * high
    price = float(orders.curves.marginal(np.array([1000 * p]))[0])
    exact = (3 * c3 * p * p + 2 * c2 * p + 5.0) / 1000
    assert abs(price - exact) <= account["max_price_error"] * 1.01 + 1e-12
    assert account["max_price_error"] <= 1e-3 * (3 * c3 * high**2 + 2 * c2 * high) / 1000 * 1.01


def test_a_unit_that_gives_and_takes_is_two_orders() -> None:
    orders, _ = offers([Generator("battery", "b", -5.0, 10.0, -1.0, 1.0, ("polynomial", (1.0, 30.0, 0.0)))])
    table = orders.orders.set_index("order")
    assert table["side"].to_dict() == {"battery": "offer", "battery:consumption": "bid"}
    assert table["participant"].unique().tolist() == ["battery"]
    assert orders.segments["price_start"].to_list() == pytest.approx([0.03, 0.03])
    assert orders.segments["price_end"].to_list() == pytest.approx([0.05, 0.02])


def test_a_unit_that_must_consume() -> None:
    orders, _ = offers([Generator("pump", "b", -8.0, -3.0, -2.0, 1.0, ("polynomial", (40.0, 0.0)))])
    row = orders.orders.iloc[0]
    assert (row["order"], row["side"], row["minimum_kw"]) == ("pump", "bid", 3000)
    assert (row["q_min_kvar"], row["q_max_kvar"]) == (-1000, 2000)
    assert orders.segments["width_kw"].to_list() == [3000, 5000]


def test_a_condenser_is_an_offer_of_no_width() -> None:
    orders, _ = offers([Generator("condenser", "b", 0.0, 0.0, -20.0, 20.0, ("polynomial", (0.0,)))])
    assert orders.width_kw.tolist() == [0]
    assert orders.orders["q_max_kvar"].to_list() == [20_000]


def test_a_fixed_output_is_firm() -> None:
    orders, account = offers([Generator("g", "b", 7.0, 7.0, 0.0, 0.0, ("polynomial", (0.5, 10.0, 3.0)))])
    assert orders.firm.tolist() == [True]
    assert cost_at(orders, account["fixed_cost_per_h"], 7.0) == pytest.approx(0.5 * 49 + 70 + 3)


def test_no_units_are_no_orders() -> None:
    assert len(offers([])[0]) == 0


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_must_be_finite(number: float) -> None:
    with pytest.raises(DataError, match=r"row 'g': cost and output limits must be finite"):
        offers([Generator("g", "b", 0.0, 1.0, 0.0, 0.0, ("polynomial", (number, 0.0)))])
    with pytest.raises(DataError, match="must be finite"):
        offers([Generator("g", "b", 0.0, np.inf, 0.0, 0.0, ("polynomial", (1.0, 0.0)))])
