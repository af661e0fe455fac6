"""What owners of private wires decide for themselves: closed forms, and each choice against its alternatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.private_trade import ad_hoc, self_interested
from mktopt.clearing.merit_order import MeritOrder
from mktopt.errors import DataError, FormulationError
from mktopt.networks.orders import Orders
from tests.agents.private_grids import FEED_IN, RETAIL, grid, has, main_grid, orders_of, step, tariffs

RHO = 1e-3


def pair(*rows, wires=(("A", "B", RHO),), **options):
    network = grid(pd.DataFrame(wires, columns=["from_bus", "to_bus", "rho"]), **options)
    orders = orders_of(*rows)
    return network, orders, tariffs(orders, network)


@pytest.mark.parametrize("trade", [ad_hoc, self_interested])
def test_neither_has_enough(trade) -> None:
    """f = (r - phi) / (rho (r + phi)): a kW more brings r (1 - rho f) and costs phi (1 + rho f)."""
    found = trade(*pair(has("A", 1000.0), has("B", -1000.0)))
    assert found.p_kw[-1, 0] == pytest.approx((RETAIL - FEED_IN) / (RHO * (RETAIL + FEED_IN)), rel=1e-6)
    assert found.loss_kw[-1, 0] == pytest.approx(RHO * found.p_kw[-1, 0] ** 2)
    assert not found.p_kw[:-1].any()
    if trade is ad_hoc:
        flow, loss = found.p_kw[-1, 0], found.loss_kw[-1, 0]
        value, cost = RETAIL * (flow - loss / 2), FEED_IN * (flow + loss / 2)
        assert found.paid[-1, 0] == found.received[-1, 0] == pytest.approx((value + cost) / 2)


def test_the_seller_may_be_at_either_end() -> None:
    one = ad_hoc(*pair(has("A", 30.0), has("B", -10.0)))
    other = ad_hoc(*pair(has("A", 30.0), has("B", -10.0), wires=[("B", "A", RHO)]))
    assert one.p_kw[-1, 0] == pytest.approx(-other.p_kw[-1, 0])
    assert one.p_kw[-1, 0] - one.loss_kw[-1, 0] / 2 == pytest.approx(10.0, rel=1e-12)  # B has what it needs
    assert one.paid[-1, 0] == pytest.approx(other.paid[-1, 0]) and one.paid[-1, 0] > 0


def test_an_endowment_or_a_rating_ends_the_trade() -> None:
    small = ad_hoc(*pair(has("A", 10.0), has("B", -30.0)))
    assert small.p_kw[-1, 0] + small.loss_kw[-1, 0] / 2 == pytest.approx(10.0, rel=1e-12)
    wires = pd.DataFrame({"from_bus": ["A"], "to_bus": ["B"], "rho": [RHO], "rating_kva": [4.0]})
    network, orders = grid(wires), orders_of(has("A", 10.0), has("B", -30.0))
    for trade in (ad_hoc, self_interested):
        assert trade(network, orders, tariffs(orders, network)).p_kw[-1, 0] == pytest.approx(4.0, rel=1e-6)


def test_no_trade_without_a_gain() -> None:
    same = ad_hoc(*pair(has("A", -5.0), has("B", -7.0)))
    assert not same.p_kw.any()
    network, orders = grid([("A", "B", RHO)]), orders_of(has("A", 5.0), has("B", -5.0), main=main_grid(0.1, 0.1))
    for trade in (ad_hoc, self_interested):
        assert trade(network, orders, tariffs(orders, network)).p_kw == pytest.approx(0.0, abs=1e-6)


def test_the_nearest_comes_first_and_the_radius_ends_what_is_known() -> None:
    wires = pd.DataFrame({"from_bus": ["A", "A"], "to_bus": ["B", "C"], "rho": RHO, "length_km": [2.0, 1.0]})
    network = grid(wires, buses="ABC")
    orders = orders_of(has("A", 10.0), has("B", -9.0), has("C", -9.0))
    main = tariffs(orders, network)
    found = ad_hoc(network, orders, main).p_kw[-2:, 0]
    assert found[1] == pytest.approx(2 * 9.0 / (1 + np.sqrt(1 - 2 * RHO * 9.0)))  # C is served first, B gets the rest
    assert 0 < found[0] < 1.0
    near = ad_hoc(network, orders, main, radius_km=1.5)
    assert near.p_kw[-2, 0] == 0.0 and near.p_kw[-1, 0] == found[1]
    assert not ad_hoc(network, orders, main, radius_km=0.0).p_kw.any()
    lost = network.replace(branches=network.branches.assign(length_km=np.nan))
    with pytest.raises(DataError, match="nearest neighbour"):
        ad_hoc(lost, orders, main)


def test_greedy_pairs_miss_what_a_group_finds() -> None:
    """A gives, B needs nothing and C does: only a group sends power through B."""
    network, orders = grid([("A", "B", RHO), ("B", "C", RHO)], buses="ABC"), orders_of(
        has("A", 20.0), step("B:idle", "B", "bid", 1.0, 0.0), has("C", -10.0)
    )  # fmt: skip
    main = tariffs(orders, network)
    assert not ad_hoc(network, orders, main).p_kw[-2:].any()
    assert self_interested(network, orders, main).p_kw[-1, 0] > 9.0


def test_a_group_splits_flows_by_marginal_losses() -> None:
    network, orders = grid([("A", "B", RHO), ("A", "B", 3 * RHO)]), orders_of(has("A", 80.0), has("B", -60.0))
    found = self_interested(network, orders, tariffs(orders, network))
    one, other = found.p_kw[-2:, 0]
    assert one == pytest.approx(3 * other, rel=1e-5)
    assert (found.p_kw - found.loss_kw / 2)[-2:].sum() == pytest.approx(60.0, rel=1e-6)
    greedy = ad_hoc(network, orders, tariffs(orders, network))  # the nearer wire takes it all
    assert greedy.p_kw[-2, 0] > one and greedy.p_kw[-1, 0] == 0.0


def test_wires_without_resistance_and_without_end() -> None:
    found = ad_hoc(*pair(has("A", 30.0), has("B", -10.0), wires=[("A", "B", 0.0)]))
    assert found.p_kw[-1, 0] == 10.0 and found.loss_kw[-1, 0] == 0.0
    group = self_interested(*pair(has("A", 30.0), has("B", -10.0), wires=[("A", "B", 0.0)]))
    assert group.p_kw[-1, 0] >= 10.0 - 1e-6  # more would be fed in at either end
    endless = pair(step("A:sun", "A", "offer", np.inf, 0.1), step("B:heat", "B", "bid", np.inf, 0.15))
    assert np.isfinite(ad_hoc(*endless).p_kw).all()
    with pytest.raises(FormulationError, match="no end"):
        ad_hoc(*pair(step("A:sun", "A", "offer", np.inf, 0.1), step("B:heat", "B", "bid", np.inf, 0.15),
                     wires=[("A", "B", 0.0)]))  # fmt: skip


def test_buses_without_agents_trade_nothing() -> None:
    network = grid([("A", "B", RHO), ("B", "C", RHO), ("C", "D", RHO)], buses="ABCD")
    orders = orders_of(has("A", 10.0))
    main = tariffs(orders, network)
    assert not ad_hoc(network, orders, main).p_kw.any()
    assert np.abs(self_interested(network, orders, main).p_kw).max() < 1e-6


def test_a_third_party_shares_the_gain() -> None:
    wires = pd.DataFrame({"from_bus": ["A"], "to_bus": ["B"], "rho": [RHO], "owner": ["wire company"]})
    network, orders = grid(wires), orders_of(has("A", 1000.0), has("B", -1000.0))
    found = ad_hoc(network, orders, tariffs(orders, network))
    flow, loss = found.p_kw[-1, 0], found.loss_kw[-1, 0]
    value, cost = RETAIL * (flow - loss / 2), FEED_IN * (flow + loss / 2)
    assert found.paid[-1, 0] == pytest.approx(value - (value - cost) / 3)
    assert found.received[-1, 0] == pytest.approx(cost + (value - cost) / 3)


def test_elastic_orders_follow_the_tariffs_and_the_trade() -> None:
    """A's generator rises from 0.10 to 0.20 over 100 kW: M_A(y) = 0.1 + y / 1000. B buys at retail."""
    curve = pd.DataFrame({"order": ["A:sun"], "participant": "A", "bus": "A", "side": "offer", "q_min_kw": 0.0,
                          "q_max_kw": 100.0, "price_min": 0.1, "price_max": 0.2})  # fmt: skip
    network = grid([("A", "B", RHO)])
    orders = Orders.from_curves(curve).merge(orders_of(has("B", -1000.0)))
    main = tariffs(orders, network)
    found = ad_hoc(network, orders, main)
    flow = found.p_kw[-1, 0]
    exports = flow + RHO * flow**2 / 2
    assert RETAIL * (1 - RHO * flow) == pytest.approx((0.1 + exports / 1000) * (1 + RHO * flow), rel=1e-9)
    assert found.segment_kw[0] == pytest.approx(exports)
    assert self_interested(network, orders, main).p_kw[-1, 0] == pytest.approx(flow, rel=1e-5)
    lonely = grid()
    for trade in (ad_hoc, self_interested):  # alone it feeds nothing in: 0.08 is less than its first kWh costs
        assert trade(lonely, orders, tariffs(orders, lonely)).segment_kw[0] == pytest.approx(0.0, abs=1e-6)


@st.composite
def positions(draw):
    price, kw = st.floats(0.0, 0.3), st.floats(0.5, 20.0)
    rows = []
    for k in range(draw(st.integers(0, 4))):
        side = draw(st.sampled_from(["offer", "bid"]))
        ends = sorted((draw(price), draw(price)), reverse=side == "bid")
        width, least = draw(kw), draw(st.sampled_from([0.0, 0.25, 1.0]))
        rows.append({"order": f"o{k}", "bus": "A", "side": side, "width_kw": width, "price_start": ends[0],
                     "price_end": ends[draw(st.integers(0, 1))], "minimum_kw": least * width})  # fmt: skip
    frame = pd.DataFrame(rows or [{"order": "o", "bus": "A", "side": "bid", "width_kw": 1.0, "price_start": 0.1,
                                   "price_end": 0.1, "minimum_kw": 0.0}])  # fmt: skip
    return Orders(frame.drop(columns=["width_kw", "price_start", "price_end"]),
                  frame[["order", "width_kw", "price_start", "price_end"]])  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(positions(), st.floats(-60.0, 60.0), st.floats(0.01, 5.0))
def test_the_merit_order_is_the_least_cost(orders: Orders, y: float, more: float) -> None:
    """g is convex with M as its slope, and no other fill of the orders with the same exports costs less."""
    position = MeritOrder(orders, np.arange(len(orders)), FEED_IN, RETAIL)
    rise = position.cost(y + more) - position.cost(y)
    assert position.right(y) * more - 1e-9 <= rise <= position.left(y + more) * more + 1e-9
    x, curves = position.fill(y), orders.curves
    rng = np.random.default_rng(0)
    least = curves.fill(orders.orders["minimum_kw"].to_numpy())
    assert (x >= least - 1e-9).all() and (x <= curves.width + 1e-9).all()
    sign = orders.injection_sign
    for other in least + rng.random((20, len(x))) * (curves.width - least):
        total = curves.total(other)
        traded = y - float(sign @ total)
        cost = float(sign @ curves.value(total)) + (RETAIL if traded > 0 else FEED_IN) * traded
        assert cost >= position.cost(y) - 1e-9


@settings(max_examples=8, deadline=None)
@given(positions(), positions(), st.sampled_from([1e-4, 1e-2, 0.1]), st.floats(0.5, 40.0))
def test_no_other_flow_gains_more(one: Orders, other: Orders, rho: float, rating: float) -> None:
    renamed = Orders(other.orders.assign(order="x" + other.orders["order"], bus="B", participant="B"),
                     other.segments.assign(order="x" + other.segments["order"]))  # fmt: skip
    orders = one.merge(renamed, orders_of())
    wires = pd.DataFrame({"from_bus": ["A"], "to_bus": ["B"], "rho": [rho], "rating_kva": [rating]})
    network = grid(wires)
    found = ad_hoc(network, orders, tariffs(orders, network))
    left, right = (MeritOrder(part, np.arange(len(part)), FEED_IN, RETAIL) for part in (one, other))

    def cost(flow: float) -> float:
        half = rho * flow**2 / 2
        return left.cost(flow + half) + right.cost(half - flow)

    best = cost(found.p_kw[-1, 0])
    assert best <= min(cost(flow) for flow in np.linspace(-rating, rating, 201)) + 1e-9
    group = self_interested(network, orders, tariffs(orders, network))
    assert cost(group.p_kw[-1, 0]) == pytest.approx(best, abs=1e-5)
