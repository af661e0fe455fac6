"""Flow `distflow`: on paper, against pandapower, `lindistflow` and the exact equations; prices by perturbation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.formulations.flows.distflow import distflow, relaxation_gap
from mktopt.formulations.flows.lindistflow import lindistflow
from mktopt.solvers import compile
from mktopt.testing import check_prices, small_market
from tests.clearing.markets import affine, radial
from tests.formulations.physics import (
    grid_of,
    kvar_price,
    kvar_price_by_perturbation,
    market,
    newton,
    two_bus,
    values,
)
from tests.formulations.test_parametric import same_arrays

EXACT = mo.flow(distflow, exact=True)
BOTH = [mo.flow(distflow), EXACT]
IDS = ["cone", "exact"]


@pytest.mark.parametrize("flow", BOTH, ids=IDS)
def test_a_line_with_losses_on_paper(flow):
    """Arriving 100 + 50j at v behind z: v^2 solves v2^2 + v2 (2 (r P + x Q) - 1) + z2 S2 = 0, with r P + x Q = 0.02,
    z2 = 5e-8 and S2 = 12500; i = S2 / v2, and the line loses r i."""
    clearing = mo.clear("surplus", two_bus(), market(), flow=flow)
    grid = grid_of(clearing)
    b, c = 2 * 0.02 - 1.0, 5e-8 * 12500
    v2 = (-b + np.sqrt(b * b - 4 * c)) / 2
    loss = 1e-4 * 12500 / v2
    assert grid.v2["2", 0].value == pytest.approx(v2, abs=1e-9)
    assert grid.p_kw["1-2", 0].value == pytest.approx(100 + loss, abs=1e-6)
    assert grid.to_kw["1-2", 0].value == pytest.approx(100, abs=1e-6)
    assert grid.source_kvar[0].value == pytest.approx(50 + 2 * loss, abs=1e-6)
    assert values(grid.loss_kw) == pytest.approx([loss], abs=1e-7)
    gap = relaxation_gap(grid, clearing.network)
    assert np.abs(gap.gap).max() < 1e-7
    assert np.abs(gap.phantom_kw).max() < 1e-7


@pytest.mark.parametrize("kw", [0.05, 1.0, 100.0])
def test_no_branch_is_held_at_no_power(kw):
    """A unit that gives kvar alone hangs on a branch of its own: a bound on that branch's current, which its equation
    implies, would make a point at which it gives none a stationary one."""
    r = 10.0 / kw
    buses = pd.DataFrame({"bus": list("1234"), "base_kv": 1.0, "v_min_pu": 0.5, "v_max_pu": 1.5})
    branches = pd.DataFrame({"branch": list("abc"), "from_bus": list("123"), "to_bus": list("234"), "r_ohm": r,
                             "x_ohm": 2 * r})  # fmt: skip
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "town", "unit"], "bus": ["1", "3", "4"], "side": ["offer", "bid", "offer"],
        "width_kw": [1e4 * kw, kw, kw], "price": [0.05, 1.0, 0.9], "tan_phi": [0.0, 0.5, 0.0],
        "q_min_kvar": [np.nan, np.nan, -0.3 * kw], "q_max_kvar": [np.nan, np.nan, 0.3 * kw],
    }))  # fmt: skip
    network = mo.Network(buses, branches, "1")
    cone, exact = (mo.clear("surplus", network, orders, flow=flow) for flow in BOTH)
    assert not cone.relaxation["slack"].any()
    assert exact.welfare == pytest.approx(cone.welfare, rel=1e-7)
    given = exact.dispatch.set_index("order")["q_kvar"]["unit"]
    assert given == pytest.approx(cone.dispatch.set_index("order")["q_kvar"]["unit"], rel=1e-3)
    assert given > 0.1 * kw


@pytest.mark.parametrize("name", ["case33bw", "ieee34", "ieee37"])
@pytest.mark.parametrize("flow", BOTH, ids=IDS)
def test_voltages_are_those_of_newtons_power_flow(name, flow):
    case = mo.load_case(name)
    clearing = mo.clear("surplus", case.network, case.orders, flow=flow)
    assert np.sqrt(values(grid_of(clearing).v2)) == pytest.approx(newton(clearing), abs=1e-6)


def test_charging_ratio_and_shunts_are_pandapowers():
    """All of them at once, with a branch that points towards the source, one that is a switch, and local supply."""
    network = radial(11, n=12)
    lines = network.branches.assign(ratio=1.0, b_us=40.0)
    lines.loc[[1, 6], "ratio"] = [1.03, 0.98]
    lines.loc[4, ["r_ohm", "x_ohm", "b_us"]] = 0.0
    shunts = pd.DataFrame({"bus": ["b3", "b9"], "g_kw": [8.0, 0.0], "b_kvar": [30.0, -20.0]})
    network = network.replace(branches=lines, shunts=shunts)
    orders = affine(11, network)
    for flow in BOTH:
        clearing = mo.clear("surplus", network, orders, flow=flow)
        grid = grid_of(clearing)
        assert len(grid.current2) == network.n_branches - 1
        assert np.sqrt(values(grid.v2)) == pytest.approx(newton(clearing), abs=1e-6)
        assert np.abs(relaxation_gap(grid, network).gap).max() < 1e-5


def test_without_losses_it_is_lindistflow_to_second_order():
    """Injections scaled by e: the difference of squared voltages falls with e^2."""
    network = radial(4, n=10)
    apart = []
    for share in (1.0, 0.1):
        curves = affine(4, network)
        segments = curves.segments.assign(width_kw=share * curves.segments["width_kw"])
        table = curves.orders.assign(minimum_kw=0.0)
        firm = mo.Orders(table, segments)
        bids = firm.is_bid
        firm = mo.Orders(table.assign(minimum_kw=np.where(bids, firm.width_kw, 0.0)), segments)
        keep = bids | (firm.orders["bus"] == "b0").to_numpy()
        wide = firm.segments.assign(width_kw=np.where(bids[firm.segment_order], firm.segments["width_kw"], 1e4))
        orders = mo.Orders(firm.orders, wide).select(keep)
        v2 = [values(grid_of(mo.clear("surplus", network, orders, flow=f)).v2) for f in (distflow, lindistflow)]
        apart.append(np.abs(v2[0] - v2[1]).max())
    assert apart[0] > 1e-6
    assert apart[1] == pytest.approx(apart[0] / 100.0, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_relaxation_costs_no_more_than_the_exact_flow(seed):
    network = radial(seed, n=10).with_ratings({"l1": 30.0, "l3": 40.0, "l5": 25.0})
    orders = affine(seed, network)
    cone, exact = (mo.clear("surplus", network, orders, flow=flow) for flow in BOTH)
    assert cone.welfare >= exact.welfare - 1e-6 * abs(exact.welfare)
    assert np.abs(relaxation_gap(grid_of(exact), network).gap).max() < 1e-6
    if np.abs(relaxation_gap(grid_of(cone), network).gap).max() < 1e-6:
        assert cone.welfare == pytest.approx(exact.welfare, rel=1e-6)


def test_a_negative_price_makes_the_cone_slack():
    """Who is paid for taking power burns it in losses that no wire has."""
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load"], "bus": ["1", "2"], "side": ["offer", "bid"], "width_kw": [300.0, 100.0],
        "price": [-0.05, 0.20],
    }))  # fmt: skip
    network = two_bus()
    clearing = mo.clear("surplus", network, orders, flow=distflow)
    gap = relaxation_gap(grid_of(clearing), network)
    assert gap.gap.max() > 0.1
    assert gap.phantom_kw.max() > 1.0
    exact = mo.clear("surplus", network, orders, flow=EXACT)
    assert clearing.welfare > exact.welfare + 1e-3
    assert relaxation_gap(grid_of(exact), network).gap.max() < 1e-7


def test_ratings_bind_at_the_end_that_carries_more():
    """Power towards the source: the to-end of a branch that points away from it carries less than it sends."""
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["pv", "up"], "bus": ["2", "1"], "side": ["offer", "bid"], "width_kw": [300.0, 300.0],
        "price": [0.05, 0.20],
    }))  # fmt: skip
    for flow in BOTH:
        grid = grid_of(mo.clear("surplus", two_bus(rating_kva=50.0), orders, flow=flow))
        sent = np.hypot(grid.to_kw["1-2", 0].value, grid.to_kvar["1-2", 0].value)
        received = np.hypot(grid.p_kw["1-2", 0].value, grid.q_kvar["1-2", 0].value)
        assert sent == pytest.approx(50.0, abs=1e-5)
        assert received < 50.0 - 1e-3


def test_current_limits_leave_less_where_the_voltage_is_low():
    network = two_bus(rating_kva=100.0).replace(source_v_pu=0.9)
    for exact in (False, True):
        by_current = mo.flow(distflow, exact=exact, current_limits=True)
        power, current = (
            mo.clear("surplus", network, market(), flow=f) for f in (mo.flow(distflow, exact=exact), by_current)
        )
        assert current.quantity("load") < power.quantity("load") - 1.0
        grid = grid_of(current)
        amperes = np.hypot(grid.to_kw["1-2", 0].value, grid.to_kvar["1-2", 0].value) / np.sqrt(grid.v2["2", 0].value)
        assert amperes == pytest.approx(100.0, abs=1e-4)


@pytest.mark.parametrize("flow", BOTH, ids=IDS)
def test_prices_are_those_of_a_perturbation(flow):
    check_prices("surplus", *small_market(), flow=flow)


@pytest.mark.parametrize("flow", BOTH, ids=IDS)
def test_prices_of_reactive_power_are_those_of_a_perturbation(flow):
    network = radial(5, n=7, hours=[0.5]).with_ratings({"l1": 30.0, "l3": 25.0})
    orders = affine(5, network)
    clearing = mo.clear("surplus", network, orders, flow=flow)
    found = [kvar_price(clearing, bus) for bus in ("b2", "b4", "b6")]
    assert max(map(abs, found)) > 1e-3, "nothing binds"
    for bus, price in zip(("b2", "b4", "b6"), found, strict=True):
        expected = kvar_price_by_perturbation(network, orders, bus, 0.1, flow=flow)
        assert price == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"current_limits": True}], ids=["cone", "exact", "current"])
def test_a_parametric_model_is_the_same_program(options):
    network = radial(3, hours=[1.0, 2.0]).with_ratings({"l0": 40.0, "l2": 30.0})
    arguments = {"flow": mo.flow(distflow, **options)}
    plain = mo.build("surplus", network, affine(3, network), **arguments)
    parametric = mo.build("surplus", network, affine(3, network), parametric=True, **arguments)
    same_arrays(compile(plain), compile(parametric))
    assert sorted(parametric.grid.rating_kva2) == [("l0", 0), ("l0", 1), ("l2", 0), ("l2", 1)]


def test_it_is_a_cone_program_and_exactly_none():
    network = radial(2)
    classes = [compile(mo.build("surplus", network, affine(2, network), flow=f)).problem_class for f in BOTH]
    assert classes == ["SOCP", "NLP"]


@pytest.mark.parametrize("name", ["ieee13", "ieee34", "ieee37", "ieee123", "case33bw"])
def test_feeders_clear_with_tight_cones(name):
    case = mo.load_case(name)
    clearing = mo.clear("surplus", case.network, case.orders, flow=distflow)
    assert clearing.evidence.solution.residuals.ok(1e-7)
    gap = relaxation_gap(grid_of(clearing), case.network)
    assert not gap.slack.any()  # a branch that carries next to nothing may have any gap
    assert np.abs(gap.phantom_kw).max() < 1e-4
