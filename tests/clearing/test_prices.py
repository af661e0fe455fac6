"""Every price is what its definition says: welfare falls by price x epsilon x hours with epsilon more firm demand."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.networks.units import reactance_per_kw
from mktopt.testing import check_flow, check_prices
from tests.clearing.markets import (
    FLOWS,
    LINEAR,
    MESHED_FLOWS,
    PAIRS,
    SOLVERS,
    affine,
    cap_on_bids,
    congested,
    grid,
    meshed,
    radial,
    steps,
)

CASES = [("radial", flow) for flow in FLOWS if flow in LINEAR] + [("meshed", flow) for flow in MESHED_FLOWS]
CASES += [("radial", flow) for flow in FLOWS if flow not in LINEAR]
SOLVED = [(shape, flow, solver) for shape, flow in CASES for with_solver, solver in PAIRS if with_solver == flow]
SOLVED = [case for case in SOLVED if case[1] not in LINEAR or case[1] == "dc" or case[2] != "ipopt"]
# Every flow and solver with one period, free, and with two and a row of one's own; linear flows the other way, too.
MARKETS = [(*case, periods, bound) for case in SOLVED for periods, bound in ((1, False), (2, True))]
MARKETS += [(*case, periods, bound) for case in SOLVED for periods, bound in ((1, True), (2, False))
            if case[1] in LINEAR and case[2] == "clarabel"]  # fmt: skip
HOURS = {1: (0.25,), 2: (0.5, 2.0)}


@functools.cache
def binding_market(shape, flow, periods):
    """Network and orders whose branches are full, and a row on the bids that binds beside them."""
    seed = 7 * periods + CASES.index((shape, flow))
    network = {"radial": radial, "meshed": meshed}[shape](seed, hours=HOURS[periods])
    orders = affine(seed, network)
    network = congested(network, orders, flow)
    return network, orders, cap_on_bids(0.7 if flow in LINEAR else 0.85, network, orders, flow)


def held(network, orders, share_unique=1.0, **arguments) -> pd.DataFrame:
    """`check_prices`, and that the prices are unique so that the check is two-sided."""
    table = check_prices("surplus", network, orders, epsilon_kw=0.01, **arguments)
    assert table["unique"].mean() >= share_unique, table
    middle = (table["more"] + table["less"])[table["unique"]] / 2
    level = table["price"].abs().max()
    assert middle.to_numpy() == pytest.approx(table["price"][table["unique"]].to_numpy(), abs=1e-4 * level)
    return table


@pytest.mark.parametrize(("shape", "flow", "solver", "periods", "bound"), MARKETS)
def test_prices_are_the_cost_of_one_more_kwh(shape, flow, solver, periods, bound):
    network, orders, cap = binding_market(shape, flow, periods)
    extra = [cap] if bound else []
    clearing = mo.clear("surplus", network, orders, flow=flow, solver=solver, extra=extra)
    assert clearing.certificate.ok(), clearing.certificate
    if flow != "copperplate":
        assert (clearing.flows["loading_percent"] > 99.99).any(), "no branch binds: the test would be too easy"
        assert np.ptp(clearing.prices["price"]) > 1e-3
    if bound:
        dual = clearing.constraints["dual"].item()
        assert dual > 1e-3 * network.hours[0], "the extra constraint does not bind"
    buses = ["b5"] if periods == 1 else ["b3"]
    held(network, orders, flow=flow, solver=solver, extra=extra, buses=buses)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_public_conformance_check_passes(flow):
    check_flow(flow)


def test_the_public_conformance_check_finds_a_wrong_flow():
    """Twice the demand on the grid: no price says what a kW really costs, and the money does not add up."""

    def doubled(block, network, injection):
        from mktopt.formulations.flows.common import branch_flows, index_sets

        index_sets(block, network)
        branch_flows(block, network)
        lines = network.lines

        def rule(b, bus, t):
            leaves = sum(b.p_kw[line, t] for line in lines["branch"][lines["from_bus"] == bus])
            enters = sum(b.p_kw[line, t] for line in lines["branch"][lines["to_bus"] == bus])
            return injection[bus, t] == 0.5 * (leaves - enters) if bus == "b" else injection[bus, t] == leaves - enters

        block.balance = pyo.Constraint(block.buses, block.periods, rule=rule)

    with pytest.raises(AssertionError, match="certificate"):
        check_flow(doubled)


def test_the_public_price_check_finds_a_wrong_price(monkeypatch):
    """Prices of the wrong sign do not survive the perturbation."""
    from mktopt.clearing import solve as module

    right = module.row_prices
    monkeypatch.setattr(module, "row_prices", lambda *args: -right(*args))
    network = radial(3)
    with pytest.raises(AssertionError, match="price of bus"):
        check_prices("surplus", network, affine(3, network), buses=["b1"])


# -- what a market may hold -------------------------------------------------------------------------------------------


def with_shunts(network, orders):
    return network.replace(shunts=pd.DataFrame({"bus": ["b1", "b3", "b1"], "g_kw": [12.0, 7.0, -3.0]})), orders


def with_negative_prices(network, orders):
    lower = orders.segments.assign(
        price_start=orders.segments["price_start"] - 0.35, price_end=orders.segments["price_end"] - 0.35
    )
    return network, mo.Orders(orders.orders, lower)


def with_phase_shifters(network, orders):
    branches = network.branches.copy()
    branches.loc[1, "shift_deg"], branches.loc[2, "shift_deg"] = 0.005, -0.002
    branches.loc[2, "ratio"] = 1.05
    return network.replace(branches=branches), orders


def with_segments(network, orders):
    """Every curve cut in two, with a jump of the price between the halves."""
    first, second = orders.segments.copy(), orders.segments.copy()
    middle = (first["price_start"] + first["price_end"]) / 2
    up = np.where(orders.is_bid[orders.segment_order], -1, 1)
    for part, number in ((first, 0), (second, 1)):
        part["width_kw"], part["segment"] = part["width_kw"] / 2, number
    first["price_end"], second["price_start"] = middle - 0.004 * up, middle + 0.004 * up
    return network, mo.Orders(orders.orders, pd.concat([first, second], ignore_index=True))


def with_minima(network, orders):
    """Bids that must take most of their width, an offer that must run."""
    table = orders.orders.copy()
    table["minimum_kw"] = np.where(np.arange(len(orders)) % 3 == 0, 0.9 * orders.width_kw, 0.0)
    table.loc[table["order"] == "sb0", "minimum_kw"] = 0.0
    return network, mo.Orders(table, orders.segments)


def with_firm_orders(network, orders):
    firm = steps(
        ("f1", "b1", "bid", 30.0, 10.0), ("f2", "b4", "bid", 20.0, 10.0), ("f3", "b2", "offer", 15.0, 0.0),
        minimum_kw=[30.0, 20.0, 15.0],
    )  # fmt: skip
    return network, orders.merge(firm)


def with_negative_reactance(network, orders):
    branches = network.branches.copy()
    branches.loc[3, "x_ohm"] *= -0.2
    return network.replace(branches=branches), orders


def with_switches(network, orders):
    branches = network.branches.copy()
    branches.loc[[0, 3], "x_ohm"] = 0.0
    branches.loc[[0, 3], "r_ohm"] = 0.0
    return network.replace(branches=branches), orders


def with_a_branch_out_of_service(network, orders):
    branches = network.branches.copy()
    branches.loc[len(branches) - 1, "in_service"] = False
    return network.replace(branches=branches), orders


FEATURES = [
    with_shunts, with_negative_prices, with_phase_shifters, with_segments, with_minima, with_firm_orders,
    with_negative_reactance, with_switches, with_a_branch_out_of_service,
]  # fmt: skip


@pytest.mark.parametrize("flow", ["transport", "dc", "ac"])
@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.__name__)
def test_prices_hold_with(feature, flow):
    network = meshed(21, hours=[0.5])
    network, orders = feature(network, affine(21, network))
    network = congested(network, orders, flow, share=0.8, most=1)
    clearing = mo.clear("surplus", network, orders, flow=flow)
    assert clearing.certificate.ok(), clearing.certificate
    if feature is with_negative_prices:
        assert clearing.prices["price"].min() < -0.01
    held(network, orders, flow=flow, buses=["b1", "b3", "b4"], share_unique=0.6)


def test_a_phase_shifter_changes_the_flows_of_dc_and_not_those_of_transport():
    network = meshed(21)
    shifted, orders = with_phase_shifters(network, affine(21, network))
    for flow, changes in (("dc", True), ("ptdf", True), ("transport", False)):
        before, after = (mo.clear("surplus", n, orders, flow=flow).flows["p_kw"] for n in (network, shifted))
        assert (np.abs(before - after).max() > 1.0) == changes


@pytest.mark.parametrize("flow", ["transport", "dc"])
def test_prices_of_all_or_nothing_orders_hold_with_their_decisions_fixed(flow):
    """The blocks' decisions are pinned by rows, so that the perturbed markets take the same ones."""
    network = meshed(5, hours=[2.0])
    blocks = steps(
        ("block 1", "b2", "offer", 40.0, 0.05),
        ("block 2", "b3", "offer", 60.0, 0.5),
        ("block 3", "b5", "bid", 30.0, 0.9),
        all_or_nothing=True,
    )  # fmt: skip
    orders = affine(5, network).merge(blocks)
    network = congested(network, orders, flow, most=1)
    clearing = mo.clear("surplus", network, orders, flow=flow)
    taken = {name: clearing.quantity(name) > 1 for name in ("block 1", "block 2", "block 3")}
    assert taken == {"block 1": True, "block 2": False, "block 3": True}

    def pinned(model, network):
        model.pinned = pyo.Constraint(model.whole_orders, rule=lambda m, o, t: m.whole[o, t] == int(taken[o]))

    again = mo.clear("surplus", network, orders, flow=flow, extra=[pinned])
    assert again.prices["price"].to_numpy() == pytest.approx(clearing.prices["price"].to_numpy(), abs=1e-7)
    held(network, orders, flow=flow, extra=[pinned], buses=["b1", "b3"])


def test_a_price_is_per_kwh_whatever_the_length_of_the_period():
    network = radial(9)
    orders = affine(9, network)
    short, long = (mo.clear("surplus", network.replace(hours=[h]), orders) for h in (1 / 12, 8.0))
    assert short.prices["price"].to_numpy() == pytest.approx(long.prices["price"].to_numpy(), rel=1e-6)
    assert long.welfare == pytest.approx(96 * short.welfare, rel=1e-6)


# -- flows against each other -----------------------------------------------------------------------------------------


def same(first, second, tolerance=1e-6):
    for table, column in (("prices", "price"), ("dispatch", "quantity_kw"), ("flows", "p_kw")):
        a, b = (getattr(clearing, table)[column].to_numpy() for clearing in (first, second))
        assert a == pytest.approx(b, abs=tolerance * max(1.0, np.abs(b).max())), (table, np.abs(a - b).max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(4))
def test_transport_dc_and_ptdf_agree_on_radial_grids(seed, solver):
    network = radial(seed, n=12, hours=[1.0, 0.5])
    orders = affine(seed, network)
    network, orders = with_shunts(congested(network, orders, "transport", most=3), orders)
    first, *others = (mo.clear("surplus", network, orders, flow=f, solver=solver) for f in ("transport", "dc", "ptdf"))
    for other in others:
        same(first, other)


@pytest.mark.parametrize("turned", [False, True], ids=["along", "against"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(2))
def test_dc_and_ptdf_agree_on_meshed_grids(seed, solver, turned):
    """With phase shifters, a ratio, a switch, a negative reactance and an angle limit that binds."""
    network = meshed(seed, n=8, chords=4)
    network, orders = with_phase_shifters(network, affine(seed, network))
    branches = network.branches.copy()
    branches.loc[4, ["x_ohm", "r_ohm"]] = 0.0
    branches.loc[5, "x_ohm"] *= -0.2
    if turned:
        branches.loc[0, ["from_bus", "to_bus"]] = branches.loc[0, ["to_bus", "from_bus"]].to_numpy()
    network = network.replace(branches=branches)
    before = mo.clear("surplus", network, orders, flow="dc")
    model = before.evidence.model
    line = network.lines.iloc[0]
    angle = pyo.value(model.grid.angle[line["from_bus"], 0] - model.grid.angle[line["to_bus"], 0])
    degrees = float(np.degrees(angle * model.grid.angle_scale))
    branches.loc[0, "angle_max_deg" if degrees > 0 else "angle_min_deg"] = 0.7 * degrees
    network = network.replace(branches=branches)
    first, second = (mo.clear("surplus", network, orders, flow=f, solver=solver) for f in ("dc", "ptdf"))
    same(first, second)
    reached = [float(reactance_per_kw(network)[0] * c.flows["p_kw"][0]) for c in (first, second)]
    assert np.degrees(reached) == pytest.approx([0.7 * degrees] * 2, rel=1e-6), "the angle limit does not bind"
    for clearing in (first, second):
        assert clearing.certificate.ok(), clearing.certificate
    held(network, orders, flow="dc", solver=solver, buses=["b1", "b5"])


def test_a_flow_for_radial_grids_refuses_a_loop_and_names_it():
    radial_only = mo.Flow("tree", mo.FLOWS["transport"].build, radial_only=True)
    orders = steps(("s", "1", "offer", 10, 0.1), ("d", "2", "bid", 5, 0.3))
    tree = grid([("1-2", "1", "2", 0.1, 9.0), ("2-3", "2", "3", 0.1, 9.0)], "123")
    assert mo.clear("surplus", tree, orders, flow=radial_only).quantity("d") == pytest.approx(5)
    loop = grid([("1-2", "1", "2", 0.1, 9.0), ("2-3", "2", "3", 0.1, 9.0), ("3-1", "3", "1", 0.1, 9.0)], "123")
    with pytest.raises(mo.FormulationError, match="'tree' needs a radial grid") as error:
        mo.clear("surplus", loop, orders, flow=radial_only)
    assert all(name in str(error.value) for name in ("1-2", "2-3", "3-1", "open one of these"))
