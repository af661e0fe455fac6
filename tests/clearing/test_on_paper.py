"""Two- and three-bus markets whose answers were found on paper; each test states the sum."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo

SOLVERS = ["highs", "clarabel"]


def grid(rows: list[tuple], buses: str, source: str = "1", **kwargs) -> mo.Network:
    branches = pd.DataFrame(rows, columns=["branch", "from_bus", "to_bus", "x_ohm", "rating_kva"]).assign(r_ohm=0.0)
    return mo.Network(pd.DataFrame({"bus": list(buses), "base_kv": 1.0}), branches, source, **kwargs)


def steps(*rows: tuple, **columns) -> mo.Orders:
    frame = pd.DataFrame(rows, columns=["order", "bus", "side", "width_kw", "price"])
    return mo.Orders.from_steps(frame.assign(**columns))


@pytest.fixture
def two_bus() -> mo.Network:
    return grid([("1-2", "1", "2", 0.1, 50.0)], "12")


@pytest.fixture
def triangle() -> mo.Network:
    return grid([("1-2", "1", "2", 0.1, np.inf), ("1-3", "1", "3", 0.1, 50.0), ("2-3", "2", "3", 0.1, np.inf)], "123")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("flow", ["transport", "dc", "ptdf"])
def test_a_congested_line_parts_two_prices(two_bus, flow, solver):
    """80 kW at bus 2: the line brings 50 at 0.05, the local unit 30 at 0.20; W = 80 - 2.5 - 6 = 71.5 $/h."""
    orders = steps(("up", "1", "offer", 200, 0.05), ("local", "2", "offer", 100, 0.20), ("load", "2", "bid", 80, 1.0))
    clearing = mo.clear("surplus", two_bus, orders, flow=flow, solver=solver)
    assert clearing.price("1") == pytest.approx(0.05, abs=1e-7)
    assert clearing.price("2") == pytest.approx(0.20, abs=1e-7)
    assert clearing.quantity("up") == pytest.approx(50, abs=1e-5)
    assert clearing.quantity("local") == pytest.approx(30, abs=1e-5)
    assert clearing.welfare == pytest.approx(71.5, abs=1e-5)
    assert clearing.settlement.budget == pytest.approx(50 * 0.15, abs=1e-5)
    assert clearing.flows["loading_percent"].iloc[0] == pytest.approx(100, abs=1e-5)
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_a_grid_one_price(two_bus, solver):
    """Copperplate: all 80 kW come at 0.05."""
    orders = steps(("up", "1", "offer", 200, 0.05), ("local", "2", "offer", 100, 0.20), ("load", "2", "bid", 80, 1.0))
    clearing = mo.clear("surplus", two_bus, orders, flow="copperplate", solver=solver)
    assert clearing.prices["price"].to_numpy() == pytest.approx([0.05, 0.05], abs=1e-7)
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize("solver", SOLVERS)
def test_affine_curves_cross(two_bus, solver):
    """1 - 0.01 q = 0.2 + 0.006 q at q = 50, p = 0.5; W = 50 (1 - 0.2) / 2 = 20 $/h; an hour and a half gives 30 $."""
    network = two_bus.replace(hours=[1.5]).with_ratings({"1-2": 60.0})
    frame = pd.DataFrame(
        [("s", "1", "offer", 100, 0.2, 0.8), ("d", "2", "bid", 100, 0.0, 1.0)],
        columns=["order", "bus", "side", "q_max_kw", "price_min", "price_max"],
    )
    clearing = mo.clear("surplus", network, mo.Orders.from_curves(frame), solver=solver)
    assert clearing.prices["price"].to_numpy() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert clearing.quantity("d") == pytest.approx(50, abs=1e-4)
    assert clearing.welfare == pytest.approx(30, abs=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("flow", ["dc", "ptdf"])
def test_the_triangle(triangle, flow, solver):
    """90 kW at bus 3: 2/3 p1 + 1/3 p2 <= 50 gives p1 = 60, p2 = 30; one kW more at 3 needs -1 at 1 and +2 at 2."""
    orders = steps(("g1", "1", "offer", 200, 0.10), ("g2", "2", "offer", 200, 0.20), ("d", "3", "bid", 90, 1.0))
    clearing = mo.clear("surplus", triangle, orders, flow=flow, solver=solver)
    assert clearing.dispatch["quantity_kw"].to_numpy() == pytest.approx([60, 30, 90], abs=1e-4)
    assert clearing.prices["price"].to_numpy() == pytest.approx([0.10, 0.20, 0.30], abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate
    rent = 10 * 0.10 + 50 * 0.20 + 40 * 0.10
    assert clearing.settlement.budget == pytest.approx(rent, abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_transport_ignores_the_loop_law(triangle, solver):
    """As a transport model the triangle brings all 90 kW from bus 1: 50 direct, 40 by way of bus 2."""
    orders = steps(("g1", "1", "offer", 200, 0.10), ("g2", "2", "offer", 200, 0.20), ("d", "3", "bid", 90, 1.0))
    clearing = mo.clear("surplus", triangle, orders, flow="transport", solver=solver)
    assert clearing.quantity("g1") == pytest.approx(90, abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_extra_row_enters_the_price_that_an_order_faces(two_bus, solver):
    """A cap of 20 on the load's 80 kW: bus price 0.05, and the row is worth 1.00 - 0.05 per kW and hour."""
    network = two_bus.replace(hours=[2.0])
    orders = steps(("up", "1", "offer", 200, 0.05), ("load", "2", "bid", 80, 1.0))

    def cap(model, network):
        model.cap = pyo.Constraint(expr=model.accepted_kw["load", 0] <= 20)

    clearing = mo.clear("surplus", network, orders, solver=solver, extra=[cap])
    assert clearing.price("2") == pytest.approx(0.05, abs=1e-6)
    row = clearing.constraints.iloc[0]
    assert (row["name"], row["slack"]) == ("cap", pytest.approx(0, abs=1e-6))
    assert row["dual"] == pytest.approx(2 * 0.95, abs=1e-6)
    faced = clearing.order_prices.set_index("order")["order_price"]
    assert faced["load"] == pytest.approx(1.0, abs=1e-6)
    assert faced["up"] == pytest.approx(0.05, abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate


def test_budget_balance_shares_the_rent(two_bus):
    """Nodal prices 0.05 and 0.20 leave 7.5 $/h. min sum q (p - lambda)^2 moves all prices by the same k towards
    balance: (0.20 - k) 80 = (0.05 + k) 50 + (0.20 + k) 30 gives k = 7.5 / 160."""
    orders = steps(("up", "1", "offer", 200, 0.05), ("local", "2", "offer", 100, 0.20), ("load", "2", "bid", 80, 1.0))
    clearing = mo.clear("surplus", two_bus, orders, pricing="budget_balanced")
    k = 7.5 / 160
    paid = clearing.dispatch.set_index("order")["price"]
    assert paid["load"] == pytest.approx(0.20 - k, abs=1e-6)
    assert paid["up"] == pytest.approx(0.05 + k, abs=1e-6)
    assert paid["local"] == pytest.approx(0.20 + k, abs=1e-6)
    assert clearing.settlement.budget == pytest.approx(0, abs=1e-6)
    assert clearing.price("2") == pytest.approx(0.20, abs=1e-7), "the table of prices stays nodal"
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_orders_share_pro_rata(two_bus, solver):
    """60 kW of demand, two equal offers of 30 and 90 kW at one bus: 15 and 45, whichever solver."""
    orders = steps(("a", "2", "offer", 30, 0.1), ("b", "2", "offer", 90, 0.1), ("load", "2", "bid", 60, 1.0))
    clearing = mo.clear("surplus", two_bus, orders, solver=solver)
    assert clearing.quantity("a") == pytest.approx(15, abs=1e-5)
    assert clearing.quantity("b") == pytest.approx(45, abs=1e-5)


def test_an_order_that_is_all_or_nothing(two_bus):
    """A block of 60 kW at 0.10 does not fit a demand of 50 kW: the dearer unit at 0.15 serves it, at its price."""
    frame = pd.DataFrame(
        [
            ("block", "1", "offer", 60, 0.10, True),
            ("unit", "1", "offer", 100, 0.15, False),
            ("load", "1", "bid", 50, 1.0, False),
        ],
        columns=["order", "bus", "side", "width_kw", "price", "all_or_nothing"],
    )
    clearing = mo.clear("surplus", two_bus, mo.Orders.from_steps(frame))
    assert clearing.quantity("block") == pytest.approx(0, abs=1e-9)
    assert clearing.price("1") == pytest.approx(0.15, abs=1e-7)
    assert any("re-solving" in note for note in clearing.notes)
    assert clearing.certificate.ok()
    assert not clearing.certificate.convex
    uplift = mo.regrets(clearing).set_index("participant")["regret"]
    assert uplift["block"] == pytest.approx(60 * 0.05, abs=1e-6), "what the block would gain at 0.15"
