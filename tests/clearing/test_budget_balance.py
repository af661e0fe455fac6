"""Pricing rule `budget_balanced`: eq. (6)-(8) of OpenGridGym hold, and no prices nearer to the nodal ones exist."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog

import mktopt as mo
from mktopt.clearing.pricing import budget_balanced, budget_error
from tests.clearing.markets import affine, congested, grid, radial, steps
from tests.clearing.test_drawn_markets import markets


def limits(clearing: mo.Clearing) -> tuple[np.ndarray, np.ndarray]:
    """(least, most) price per order: the curve at the accepted quantity, before a jump; firm orders take any."""
    orders, quantity = clearing.orders, clearing.dispatch["quantity_kw"].to_numpy()
    low, high = np.full(len(orders), -np.inf), np.full(len(orders), np.inf)
    for row, key in enumerate(zip(orders.orders["order"], orders.orders["period"], strict=True)):
        if orders.firm[row]:
            continue
        table = orders.segments[(orders.segments["order"] == key[0]) & (orders.segments["period"] == key[1])]
        left, price = quantity[row], None
        for segment in table.itertuples():
            if left <= max(1e-7 * quantity.max(), 1e-8 * min(orders.width_kw[row], 1e9)) and price is not None:
                break
            inside = min(left, segment.width_kw)
            share = inside / segment.width_kw if 0 < segment.width_kw < np.inf else 0.0
            price = segment.price_start + share * (segment.price_end - segment.price_start)
            left -= inside
        (high if orders.is_bid[row] else low)[row] = price
    return low, high


def by_hand(quantity, nodal, low, high, sign):
    """The optimum by its water-filling form: every price moves by one k towards balance, up to its limit."""

    def prices(k):
        return np.clip(nodal + sign * k, low, high)

    def money(k):
        return float(np.sum(sign * quantity * prices(k)))

    limits = np.r_[low, high]
    reach = 1.0 + 2 * float(np.abs(nodal).max() + np.abs(limits[np.isfinite(limits)]).max(initial=0))
    if money(reach) < 0:
        return np.where(sign > 0, high, low)
    if money(-reach) > 0:
        reach *= 1e3
    return prices(brentq(money, -reach, reach, xtol=1e-14))


@given(markets(meshed=False))
def test_it_holds_for_every_drawn_market(market):
    network, orders = market
    try:
        clearing = mo.clear("surplus", network, orders, pricing="budget_balanced")
    except mo.InfeasibleError:
        return
    assert clearing.certificate.ok(), clearing.certificate
    quantity, paid = clearing.dispatch["quantity_kw"].to_numpy(), clearing.dispatch["price"].to_numpy()
    nodal = mo.clear("surplus", network, orders).dispatch["price"].to_numpy()
    low, high = limits(clearing)
    level = max(np.abs(nodal).max(), np.abs(orders.segments["price_start"]).max(), 1e-3)
    period, sign = orders.orders["period"].to_numpy(), np.where(orders.is_bid, 1.0, -1.0)
    for t in network.periods:
        traded = (quantity > 1e-6 * max(quantity.max(), 1e-3)) & (period == t)
        if not traded.any():
            continue
        assert (paid[traded] >= low[traded] - 1e-6 * level).all(), "(6)"
        assert (paid[traded] <= high[traded] + 1e-6 * level).all(), "(7)"
        money = float(np.sum(sign * quantity * paid * (period == t)))
        turnover = float(np.sum(np.abs(quantity * paid) * (period == t))) + level * 1e-3
        short = [note for note in clearing.notes if note.startswith(f"period {t}:")]
        assert (money < -1e-7 * turnover) or abs(money) <= 1e-6 * turnover, "(8)"
        assert abs(money) <= 1e-6 * turnover or short, "money is missing and nobody says so"
        expected = by_hand(quantity[traded], nodal[traded], low[traded], high[traded], sign[traded])
        cost = [float(np.sum(quantity[traded] * (p - nodal[traded]) ** 2)) for p in (paid[traded], expected)]
        assert cost[0] == pytest.approx(cost[1], rel=1e-4, abs=1e-6 * level**2 * quantity.max())


def test_it_is_the_nearest_in_every_direction():
    """No feasible direction from the prices lowers the distance: a linear program finds none."""
    network = radial(31, n=8)
    orders = affine(31, network)
    network = congested(network, orders, "transport")
    clearing = mo.clear("surplus", network, orders, pricing="budget_balanced")
    nodal = mo.clear("surplus", network, orders).dispatch["price"].to_numpy()
    assert clearing.settlement.budget == pytest.approx(0, abs=1e-7)
    assert mo.clear("surplus", network, orders).settlement.budget > 0.1, "there was a rent to give away"
    quantity, paid = clearing.dispatch["quantity_kw"].to_numpy(), clearing.dispatch["price"].to_numpy()
    low, high = limits(clearing)
    sign = np.where(orders.is_bid, 1.0, -1.0)
    traded = quantity > 1e-3
    gradient = 2 * quantity * (paid - nodal)
    step = 1e-3
    ends = [(max(a - p, -step), min(b - p, step)) for a, b, p in zip(low, high, paid, strict=True)]
    found = linprog(
        gradient[traded], A_eq=[(sign * quantity)[traded]], b_eq=[0.0],
        bounds=[(min(a, 0.0), max(b, 0.0)) for (a, b), used in zip(ends, traded, strict=True) if used],
    )  # fmt: skip
    assert found.fun >= -1e-8 * np.abs(gradient).sum()
    assert budget_error(orders, quantity, nodal, paid) < 1e-8


def shortage() -> tuple[mo.Network, mo.Orders]:
    """Offers that must run cost more than the bids are worth: 40 kW at 0.50 against 60 kW at 0.30, 20 kW at 0.10.
    The must-run offer is not firm (40 of 50 kW), so it will not take less than its cost."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[2.0])
    orders = steps(
        ("must", "1", "offer", 50, 0.5), ("cheap", "1", "offer", 20, 0.1), ("d", "2", "bid", 60, 0.3),
        minimum_kw=[40.0, 0.0, 0.0],
    )  # fmt: skip
    return network, orders


def test_a_shortfall_is_reported_and_prices_stand_at_their_limits():
    """Bids pay 60 x 0.30 = 18, offers ask 40 x 0.50 + 20 x 0.10 = 22: 4 $/h are missing, 8 $ over two hours."""
    clearing = mo.clear("surplus", *shortage(), pricing="budget_balanced")
    assert clearing.dispatch["quantity_kw"].tolist() == pytest.approx([40, 20, 60], abs=1e-6)
    assert clearing.dispatch["price"].tolist() == pytest.approx([0.5, 0.1, 0.3], abs=1e-6)
    assert len(clearing.notes) == 1
    assert "out of reach" in clearing.notes[0] and "4 $/h" in clearing.notes[0]
    assert clearing.settlement.budget == pytest.approx(-8, abs=1e-5)
    assert clearing.certificate.ok(), clearing.certificate


def test_firm_orders_take_any_price():
    """The must-run offer is firm: it is paid what is left, and no money is short."""
    network, orders = shortage()
    table = orders.orders.assign(minimum_kw=orders.width_kw * (orders.orders["order"] == "must"))
    clearing = mo.clear("surplus", network, mo.Orders(table, orders.segments), pricing="budget_balanced")
    assert clearing.notes == ()
    assert clearing.settlement.budget == pytest.approx(0, abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate


def test_nothing_traded_keeps_nodal_prices():
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("s", "1", "offer", 20, 0.5), ("d", "2", "bid", 20, 0.2))
    first, second = (mo.clear("surplus", network, orders, pricing=rule) for rule in ("nodal", "budget_balanced"))
    assert first.dispatch["price"].tolist() == second.dispatch["price"].tolist()
    assert second.notes == ()


def test_at_a_jump_the_last_accepted_unit_counts():
    """A bid of 10 kW at 0.9 and 10 kW at 0.2 that gets exactly 10 kW may pay up to 0.9."""
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["d", "d", "s"], "bus": "1", "side": ["bid", "bid", "offer"], "width_kw": [10.0, 10.0, 10.0],
        "price": [0.9, 0.2, 0.1],
    }))  # fmt: skip
    price, notes = budget_balanced(orders, np.array([10.0, 10.0]), np.array([0.8, 0.5]))
    assert price == pytest.approx([0.65, 0.65], abs=1e-6)  # both move by 0.15
    assert notes == []
    price, _ = budget_balanced(orders, np.array([10.0 + 1e-9, 10.0]), np.array([1.2, 0.9]))
    assert price == pytest.approx([0.9, 0.9], abs=1e-6)  # the bid's limit binds: the offer comes down to it


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.01, 1)), min_size=1, max_size=5), st.floats(-0.5, 1.0))
def test_the_error_of_a_price_is_zero_only_at_the_optimum(offers, shift):
    rows = [(f"s{k}", "1", "offer", round(w, 3), round(p, 3)) for k, (w, p) in enumerate(offers)]
    total = sum(row[3] for row in rows)
    orders = steps(*rows, ("d", "1", "bid", total, 2.0))
    quantity = np.r_[[row[3] for row in rows], total]
    nodal = np.r_[np.full(len(rows), 1.0), 1.0 + shift]
    price, _ = budget_balanced(orders, quantity, nodal)
    assert budget_error(orders, quantity, nodal, price) < 1e-6
    if len(rows) > 1 and price[0] > rows[0][4] + 1e-3 and price[1] > rows[1][4] + 1e-3:
        price[1] += 1e-3 * quantity[0] / quantity[1]
        price[0] -= 1e-3
        assert budget_error(orders, quantity, nodal, price) > 5e-4
