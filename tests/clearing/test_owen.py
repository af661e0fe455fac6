"""Owen payments: owners of wires in words, an example on paper, and that they pay out all that a market earns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mktopt.clearing.owen import owen_payments, ownership, wire_owners, wire_rents
from mktopt.errors import DataError
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def street(owners: list[str]) -> Network:
    """A public line g-a and private wires a-b, as many as owners are given."""
    wires = pd.DataFrame({"from_bus": "a", "to_bus": "b", "owner": owners, "kind": "private"})
    wires["branch"] = [f"w{k}" for k in range(len(owners))]
    public = pd.DataFrame([{"branch": "g-a", "from_bus": "g", "to_bus": "a", "owner": "utility", "kind": "line"}])
    table = pd.concat([public, wires], ignore_index=True).assign(r_ohm=1.0, x_ohm=1.0)
    return Network(pd.DataFrame({"bus": ["g", "a", "b"], "base_kv": 1.0}), table, "g", hours=np.array([1.0, 0.5]))


def people() -> Orders:
    """Two at bus a, one at b, in two periods; the main grid."""
    rows = [
        ("sun", "ann", "a", 0, "offer", 4.0, 4.0, 0.0), ("flat", "abe", "a", 0, "offer", 0.0, 3.0, 0.1),
        ("need", "bob", "b", 0, "bid", 2.0, 2.0, 10.0), ("heat", "bob", "b", 1, "bid", 0.0, 5.0, 0.3),
        ("supply", "main_grid", "g", 0, "offer", 0.0, 99.0, 0.2), ("takes", "main_grid", "g", 0, "bid", 0.0, 99.0, 0.1),
    ]  # fmt: skip
    columns = ["order", "participant", "bus", "period", "side", "minimum_kw", "width_kw", "price"]
    return Orders.from_steps(pd.DataFrame(rows, columns=columns))


def test_owners_are_read_as_they_are_written() -> None:
    network = street(["a+b", "", "carl", "ann + bob+ann", "b"])
    assert wire_owners(network) == [(), ("a", "b"), ("a", "b"), ("carl",), ("ann", "bob"), ("b",)]


def test_a_bus_stands_for_its_participants() -> None:
    """Half of a wire of a+b is a's, of whom there are two; the main grid owns nothing by being there."""
    owned = ownership(street(["a+b", "carl", "bob+g"]), people())
    assert owned.players == ("ann", "abe", "bob", "carl", "g")
    assert owned.player_of.tolist() == [0, 1, 2, 2, -1, -1]
    expected = [[0, 0, 0, 0, 0], [0.25, 0.25, 0.5, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0.5, 0, 0.5]]
    assert owned.shares == pytest.approx(np.array(expected))


def test_payments_on_paper() -> None:
    """Prices 0.1 at a and 0.2 at b in the first hour, 0.3 both in the half hour after; 2 kW arrive of 2.2 sent.

    rent 0.2 x 2 - 0.1 x 2.2 = 0.18, half of which is bob's and a quarter ann's and abe's each.
    """
    network, orders = street(["a+b"]), people()
    prices = np.array([[0.1, 0.3], [0.1, 0.3], [0.2, 0.3]])
    flows, losses = np.array([[0.0, 0.0], [2.1, 0.0]]), np.array([[0.0, 0.0], [0.2, 0.0]])
    quantity = np.array([4.0, 3.0, 2.0, 4.0, 0.0, 1.0])
    paid = owen_payments(network, orders, prices, quantity, flows, losses, [False, True]).set_index("player")
    assert paid["rent"].to_dict() == pytest.approx({"ann": 0.045, "abe": 0.045, "bob": 0.09})
    assert paid["endowment"].to_dict() == pytest.approx({"ann": 0.4, "abe": 0.0, "bob": -0.4})
    assert paid["own_surplus"].to_numpy() == pytest.approx(0.0, abs=1e-12)  # each at its own price
    cheaper = owen_payments(network, orders, prices - 0.05, quantity, flows, losses, [False, True]).set_index("player")
    assert cheaper["own_surplus"].to_dict() == pytest.approx({"ann": 0.0, "abe": -0.15, "bob": 0.05 * 4 * 0.5})
    assert cheaper["total"].sum() == pytest.approx(cheaper[["own_surplus", "endowment", "rent"]].to_numpy().sum())


def test_what_is_paid_out_is_what_the_market_earns() -> None:
    """Rents, orders and what leaves over public lines sum to value less cost, whatever the prices."""
    network, orders = street(["a+b", "carl"]), people()
    rng = np.random.default_rng(0)
    prices = rng.uniform(0.1, 0.3, (3, 2))
    flows, losses = rng.normal(size=(3, 2)), rng.uniform(0.0, 0.1, (3, 2))
    quantity = np.array([4.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    paid = owen_payments(network, orders, prices, quantity, flows, losses, [False, True, True])
    assert paid["rent"].sum() == pytest.approx(wire_rents(network, prices, flows, losses)[1:].sum())
    hours, sign = network.hours[orders.orders["period"]], orders.injection_sign
    own = hours * np.where([False, False, True, False, False, False], 0.0, sign * orders.curves.value(quantity))
    power = hours * sign * quantity * prices[network.bus_positions(orders.orders["bus"]), orders.orders["period"]]
    assert paid[["own_surplus", "endowment"]].to_numpy().sum() == pytest.approx((power - own).sum())


def test_refusals_name_the_array() -> None:
    network, orders = street(["a+b"]), people()
    zeros = np.zeros((2, 2))
    with pytest.raises(DataError, match="prices"):
        owen_payments(network, orders, np.zeros((2, 2)), np.zeros(6), zeros, zeros, [False, True])
    with pytest.raises(DataError, match="loss_kw"):
        owen_payments(network, orders, np.zeros((3, 2)), np.zeros(6), zeros, zeros * np.nan, [False, True])
