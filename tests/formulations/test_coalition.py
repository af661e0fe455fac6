"""The declared models of coalitions: what they take, what they refuse, and the groups' own program."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.errors import DataError, FormulationError, UnknownNameError
from mktopt.formulations.coalition import main_grid_of, private_market
from mktopt.networks.orders import Orders
from mktopt.solvers import compile, solve
from tests.agents.private_grids import grid, has, main_grid, orders_of, step

NETWORK = grid([("A", "B", 1e-3)])
AGENTS = (has("A", 10.0), has("B", -10.0))


def test_the_main_grid_is_read_from_its_orders() -> None:
    network = grid(hours=(1.0, 2.0))
    orders = orders_of(*AGENTS, main=main_grid(0.3, 0.1, periods=2))
    found = main_grid_of(orders, network)
    assert (found.retail, found.feed_in, found.wholesale) == ((0.3, 0.3), (0.1, 0.1), None)
    assert found.cost.tolist() == [0.3, 0.3] and found.worth.tolist() == [0.1, 0.1]
    assert orders.orders["order"].to_numpy()[found.rows].tolist() == ["main:supply"] * 2 + ["main:feed_in"] * 2
    other = main_grid_of(orders, network, retail=(0.4, 0.5), feed_in=0.2, wholesale=0.15)
    assert (other.retail, other.feed_in, other.wholesale) == ((0.4, 0.5), (0.2, 0.2), (0.15, 0.15))
    repriced = other.repriced(orders)
    assert repriced.curves.start[repriced.curves.first[other.rows]].tolist() == [0.15] * 4
    assert repriced.curves.start[0] == orders.curves.start[0]
    assert main_grid_of(orders, network).repriced(orders) is orders


def test_the_wholesale_price_comes_with_the_orders() -> None:
    _, orders, _, meta = mo.load_case("eight_node")
    network = mo.load_network("eight_node")
    assert orders is not None
    assert meta["wholesale"] == orders.meta["wholesale"] == 0.12
    assert main_grid_of(orders, network).wholesale == (0.12,)
    assert main_grid_of(orders, network, wholesale="tariff").wholesale is None
    assert main_grid_of(orders, network, wholesale=0.3).wholesale == (0.3,)
    with pytest.raises(UnknownNameError, match="did you mean 'tariff'"):
        main_grid_of(orders, network, wholesale="tarif")


def without(name: str) -> Orders:
    return orders_of(*AGENTS).without([name])


@pytest.mark.parametrize(
    ("orders", "options", "words"),
    [
        (without("main:supply"), {}, "0 offers in period 0 and needs one"),
        (without("main:feed_in"), {}, "0 bids in period 0 and needs one"),
        (orders_of(*AGENTS, step("main:more", "g", "offer", 1.0, 0.3) | {"participant": "main_grid"}), {}, "2 offers"),
        (orders_of(*AGENTS), {"retail": 0.05}, "arbitrage|without end"),
        (orders_of(*AGENTS), {"feed_in": -0.1}, "below zero"),
        (orders_of(*AGENTS, main=[row | {"bus": "A"} for row in main_grid()]), {}, "at the source bus"),
        (orders_of(*AGENTS, main=[row | {"minimum_kw": 3.0} for row in main_grid()]), {}, "cannot be firm"),
        (orders_of(*AGENTS, step("A:x", "A", "offer", 1.0, 0.1) | {"all_or_nothing": True}), {}, "all or nothing"),
        (orders_of(*AGENTS, main=[*main_grid(), main_grid(0.4)[0]]), {}, "has one price"),
    ],
)
def test_a_main_grid_that_cannot_be_one_is_refused(orders: Orders, options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        mo.build("coalition", NETWORK, orders, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flow": "dc"}, "no private wires"),
        ({"flow": mo.flow("lossy", physics=False)}, "that is 'integrated'"),
        ({"flow": mo.flow("lossy", physics=True), "behaviour": "integrated"}, "knows no physics"),
        ({"radius_km": 1.0}, "no use for it"),
        ({"radius_km": -1.0, "behaviour": "ad_hoc"}, "zero or more"),
        ({"retail": "dear"}, "not 'dear'"),
        ({"retail": [0.2, 0.3]}, "has 2 prices"),
        ({"retail": np.nan}, "finite"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(FormulationError, match=words):
        mo.build("coalition", NETWORK, orders_of(*AGENTS), **options)


def test_unknown_behaviours_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cooperative'"):
        mo.build("coalition", NETWORK, orders_of(*AGENTS), behaviour="cooperativ")


def test_retail_below_feed_in_is_refused_in_the_orders_too() -> None:
    with pytest.raises(DataError, match="dearer|arbitrage|without end"):
        mo.build("coalition", NETWORK, orders_of(*AGENTS, main=main_grid(0.05, 0.1)))


def test_integrated_has_no_angles_and_others_have() -> None:
    orders = orders_of(*AGENTS)
    for behaviour, physics in (("integrated", False), ("cooperative", True), ("ad_hoc", True)):
        model = mo.build("coalition", NETWORK, orders, behaviour=behaviour)
        assert (model.grid.component("angle") is not None) == physics


@pytest.mark.parametrize("feed_in", [0.08, 0.2])
def test_the_private_market_is_each_groups_own(feed_in: float) -> None:
    """Two groups in two periods: the optimum of both is the sum; a kW between the tariffs is bought or sold."""
    network = grid([("A", "B", 1e-3), ("C", "D", 2e-3)], buses="ABCD", hours=(1.0, 0.5))
    rows = [has("A", 30.0), has("B", -10.0), has("C", 5.0), has("D", -20.0), has("A", 10.0, 1), has("D", -4.0, 1)]
    orders = orders_of(*rows, main=main_grid(0.2, feed_in, periods=2))
    main = main_grid_of(orders, network)

    def optimum(kept: Orders) -> tuple[float, object]:
        model = private_market(network, kept, main_grid_of(kept, network))
        program = compile(model)
        solution = solve(program)
        assert solution.status.ok
        for variable, value in zip(program.variables, solution.x, strict=True):
            variable.set_value(value, skip_validation=True)
        return float(pyo.value(model.profit)), model

    everybody, model = optimum(orders)
    parts = [optimum(orders.select(orders.orders["bus"].isin([*pair, "g"]).to_numpy()))[0] for pair in ("AB", "CD")]
    assert everybody == pytest.approx(sum(parts), rel=1e-6)
    public = [branch for branch in model.grid.branches if not branch.startswith("w")]  # type: ignore[attr-defined]
    assert all(model.grid.p_kw[branch, t].value == 0.0 for branch in public for t in (0, 1))  # type: ignore[attr-defined]
    traded = {b: model.buy_kw[b, 0].value - model.sell_kw[b, 0].value for b in "ABCD"}  # type: ignore[attr-defined]
    if feed_in < 0.2:
        assert traded["A"] == pytest.approx(-19.9, abs=0.01)  # 30 kW less 10 kW and the loss
        assert traded["B"] == pytest.approx(0.0, abs=1e-4)
    assert main.agents(orders).sum() == 6
