"""Settlement: payments, rent and rewards of eq. (9)-(10) against hidden true curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from tests.clearing.markets import affine, congested, grid, radial, steps


@pytest.fixture(scope="module")
def cleared() -> mo.Clearing:
    network = radial(6, hours=[0.5, 2.0])
    orders = affine(6, network)
    return mo.clear("surplus", congested(network, orders, "transport"), orders)


def test_money_adds_up(cleared):
    settlement = mo.settle(cleared)
    people, hours = settlement.participants, cleared.network.hours
    assert settlement.budget == pytest.approx(people["paid"].sum() - people["received"].sum())
    assert settlement.rent["rent"].sum() == pytest.approx(settlement.budget)
    assert list(settlement.rent["period"]) == [0, 1]
    assert people["reward"].sum() + settlement.budget == pytest.approx(cleared.welfare, rel=1e-9)
    flow = cleared.flows["p_kw"].to_numpy().reshape(-1, 2)
    price = cleared.prices["price"].to_numpy().reshape(-1, 2)
    network = cleared.network
    rent = (flow * (price[network.to_index] - price[network.from_index])).sum(axis=0) * hours
    assert settlement.rent["rent"].to_numpy() == pytest.approx(rent, rel=1e-6)
    assert "rent" in str(settlement) and str(len(people)) in str(settlement)


def test_rewards_against_hidden_true_curves():
    """Eq. (9)-(10) on paper. The offer says 0.2 + 0.006 q, truly 0.1 + 0.003 q;
    the bid 1 - 0.01 q, truly 0.8 - 0.004 q.
    They meet at 50 kW and 0.5: r_s = 25 - (5 + 3.75) = 16.25, r_d = (40 - 5) - 25 = 10 $/h, over 1.5 hours."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[1.5])
    columns = ["order", "bus", "side", "q_max_kw", "price_min", "price_max"]
    said = mo.Orders.from_curves(
        pd.DataFrame([("s", "1", "offer", 100, 0.2, 0.8), ("d", "2", "bid", 100, 0.0, 1.0)], columns=columns)
    )
    truth = mo.Orders.from_curves(
        pd.DataFrame(
            [("x", "1", "offer", 9, 0.2, 0.8), ("d", "2", "bid", 200, 0.0, 0.8), ("s", "1", "offer", 100, 0.1, 0.4)],
            columns=columns,
        )
    )
    settlement = mo.settle(mo.clear("surplus", network, said), truth=truth)
    assert settlement.reward("s") == pytest.approx(1.5 * 16.25, abs=1e-5)
    assert settlement.reward("d") == pytest.approx(1.5 * 10, abs=1e-5)
    assert settlement.reward("x") == 0
    assert settlement.orders["value"].tolist() == pytest.approx([1.5 * 8.75, 1.5 * 35], abs=1e-5)


def test_a_participant_of_several_orders_has_one_line():
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("pv", "2", "offer", 30, 0.0), ("load", "2", "bid", 20, 0.5), ("grid", "1", "bid", 100, 0.1),
                   participant=["home", "home", "grid"])  # fmt: skip
    people = mo.clear("surplus", network, orders).settlement.participants.set_index("participant")
    assert people.loc["home", ["bought_kwh", "sold_kwh", "paid", "received"]].tolist() == pytest.approx([20, 30, 2, 3])
    assert people.loc["home", "reward"] == pytest.approx(10 - 2 + 3)


def test_an_order_without_a_true_curve_is_refused(cleared):
    truth = cleared.orders.without(["db1"])
    with pytest.raises(mo.DataError, match="table 'truth', row 'db1'.*no true curve.*add it under the same name"):
        mo.settle(cleared, truth=truth)
    nothing = cleared.orders.select(np.zeros(len(cleared.orders), dtype=bool))
    with pytest.raises(mo.DataError, match="no true curve"):
        mo.settle(cleared, truth=nothing)


def test_a_true_curve_that_ends_too_soon_is_refused(cleared):
    segments = cleared.orders.segments.copy()
    segments.loc[segments["order"] == "sb0", "width_kw"] = 1.0
    with pytest.raises(mo.DataError, match="row 'sb0', column 'width_kw', value 1.0: the true curve ends before"):
        mo.settle(cleared, truth=mo.Orders(cleared.orders.orders, segments))


def test_a_true_curve_of_the_other_side_is_refused(cleared):
    table = cleared.orders.orders.copy()
    table.loc[table["order"] == "db1", "side"] = "offer"
    segments = cleared.orders.segments.copy()
    turned = segments["order"] == "db1"
    segments.loc[turned, ["price_start", "price_end"]] = segments.loc[turned, ["price_end", "price_start"]].to_numpy()
    with pytest.raises(mo.DataError, match="row 'db1', column 'side', value 'offer'.*cleared as a bid"):
        mo.settle(cleared, truth=mo.Orders(table, segments))


def test_lookups_name_what_is_near(cleared):
    with pytest.raises(mo.UnknownNameError, match="unknown bus 'b11'; did you mean 'b1'"):
        cleared.price("b11")
    with pytest.raises(mo.UnknownNameError, match="unknown period '2'"):
        cleared.price("b1", 2)
    with pytest.raises(mo.UnknownNameError, match="unknown order in period 0 'db11'; did you mean 'db1'"):
        cleared.quantity("db11")
    assert cleared.quantity("db1", 1) == cleared.dispatch.query("order == 'db1' and period == 1")["quantity_kw"].item()
