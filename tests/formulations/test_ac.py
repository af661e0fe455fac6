"""Flow `ac`: on paper, against `distflow(exact=True)`, and against pandapower's and PGLib's optimal power flows.

pandapower's `runopp` keeps the external grid's voltage and limits currents, |S| <= rating v, at either end.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.formulations.flows.ac import ac
from mktopt.formulations.flows.distflow import distflow
from mktopt.solvers import compile
from mktopt.testing import check_prices, small_market
from tests.clearing.markets import affine, meshed, radial
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
from tests.nets import example_net

AC = mo.flow(ac)


def cost_of(clearing: mo.Clearing) -> float:
    """What the offers cost [$/h]."""
    offers = ~clearing.orders.is_bid
    return float(clearing.orders.curves.value(clearing.dispatch["quantity_kw"].to_numpy())[offers].sum())


def test_a_line_with_losses_on_paper():
    """As in `distflow`; and the angle: v1 v2 sin(theta) = x P - r Q with P, Q arriving."""
    grid = grid_of(mo.clear("surplus", two_bus(), market(), flow=ac))
    b, c = 2 * 0.02 - 1.0, 5e-8 * 12500
    v2 = (-b + np.sqrt(b * b - 4 * c)) / 2
    assert grid.v_pu["2", 0].value == pytest.approx(np.sqrt(v2), abs=1e-9)
    assert values(grid.loss_kw) == pytest.approx([1e-4 * 12500 / v2], abs=1e-6)
    sine = (2e-4 * 100 - 1e-4 * 50) / np.sqrt(v2)
    assert grid.angle["2", 0].value == pytest.approx(-np.arcsin(sine), abs=1e-8)


@pytest.mark.parametrize("name", ["case33bw", "ieee34", "ieee13"])
def test_on_a_feeder_it_is_the_exact_distflow(name):
    case = mo.load_case(name)
    polar, squared = (
        mo.clear("surplus", case.network, case.orders, flow=f) for f in (AC, mo.flow(distflow, exact=True))
    )
    assert polar.welfare == pytest.approx(squared.welfare, rel=1e-7)
    assert values(grid_of(polar).v_pu) == pytest.approx(np.sqrt(values(grid_of(squared).v2)), abs=1e-6)
    assert polar.prices["price"].to_numpy() == pytest.approx(squared.prices["price"].to_numpy(), abs=1e-6)


def test_everything_that_a_branch_has_is_pandapowers():
    """A meshed grid with ratios, a shift, charging, shunts and a switch."""
    network = meshed(8, n=9, chords=4)
    lines = network.branches.assign(ratio=1.0, b_us=40.0, shift_deg=0.0)
    lines.loc[[1, 6], "ratio"] = [1.03, 0.98]
    lines.loc[2, "shift_deg"] = 1.0
    lines.loc[4, ["r_ohm", "x_ohm", "b_us"]] = 0.0
    shunts = pd.DataFrame({"bus": ["b3", "b7"], "g_kw": [8.0, 0.0], "b_kvar": [30.0, -20.0]})
    network = network.replace(branches=lines, shunts=shunts)
    clearing = mo.clear("surplus", network, affine(8, network), flow=ac)
    assert values(grid_of(clearing).v_pu) == pytest.approx(newton(clearing), abs=1e-6)


@pytest.mark.parametrize("name", ["case33bw", "case30", "case118"])
def test_costs_and_voltages_are_those_of_runopp(name):
    pandapower = pytest.importorskip("pandapower")
    from mktopt.networks.defaults import firm_orders
    from mktopt.networks.pandapower import offers_from_pandapower

    net = example_net(name)
    pandapower.runopp(net, calculate_voltage_angles=True, numba=False, PDIPM_FEASTOL=1e-9, PDIPM_GRADTOL=1e-9,
                      PDIPM_COMPTOL=1e-9, PDIPM_COSTTOL=1e-9)  # fmt: skip
    network = mo.Network.from_pandapower(net)
    offers, extra = offers_from_pandapower(net, network)
    orders = offers.merge(firm_orders(network))
    clearing = mo.clear("surplus", network, orders, flow=mo.flow(ac, current_limits=True))
    assert cost_of(clearing) + extra["fixed_cost_per_h"] == pytest.approx(net.res_cost, rel=1e-6)
    assert values(grid_of(clearing).v_pu) == pytest.approx(net.res_bus["vm_pu"].to_numpy(), abs=1e-4)


def test_case300_is_pglibs_optimum():
    """565,220 $/h with the limits of PGLib (pglib_opf_case300_ieee), whose reference bus chooses its voltage."""
    case = mo.load_case("case300")
    clearing = mo.clear("surplus", case.network, case.orders, flow=mo.flow(ac, free_source=True))
    assert cost_of(clearing) + case.meta.get("fixed_cost_per_h", 0.0) == pytest.approx(565_220, rel=1e-5)


def test_a_fixed_source_costs_no_less():
    case = mo.load_case("case30")
    fixed, free = (
        mo.clear("surplus", case.network, case.orders, flow=mo.flow(ac, free_source=s)) for s in (False, True)
    )
    assert free.welfare >= fixed.welfare
    assert grid_of(fixed).v_pu[case.network.source_bus, 0].value == case.network.source_v_pu


def test_an_angle_limit_binds():
    network = two_bus(r_ohm=0.0, x_ohm=0.2, angle_min_deg=-0.5)
    network = network.replace(branches=network.branches.assign(from_bus="2", to_bus="1"))
    grid = grid_of(mo.clear("surplus", network, market(tan_phi=0.0), flow=ac))
    assert np.degrees(grid.angle["2", 0].value) == pytest.approx(-0.5, abs=1e-6)
    network = two_bus(r_ohm=0.0, x_ohm=0.2, angle_max_deg=0.5)
    grid = grid_of(mo.clear("surplus", network, market(tan_phi=0.0), flow=ac))
    assert np.degrees(grid.angle["2", 0].value) == pytest.approx(-0.5, abs=1e-6)


def test_prices_are_those_of_a_perturbation():
    check_prices("surplus", *small_market(), flow=ac)


def test_prices_on_a_meshed_grid_are_those_of_a_perturbation():
    network = meshed(7, hours=[0.5]).with_ratings({"l1": 30.0, "l3": 40.0})
    orders = affine(7, network)
    check_prices("surplus", network, orders, flow=ac, buses=["b2", "b5"], epsilon_kw=0.1)
    clearing = mo.clear("surplus", network, orders, flow=ac)
    found = [kvar_price(clearing, bus) for bus in ("b2", "b4")]
    assert max(map(abs, found)) > 1e-4, "nothing binds"
    for bus, price in zip(("b2", "b4"), found, strict=True):
        assert price == pytest.approx(kvar_price_by_perturbation(network, orders, bus, 0.1, flow=ac), abs=2e-5)


def test_a_parametric_model_is_the_same_program():
    network = radial(3, hours=[1.0, 2.0]).with_ratings({"l0": 40.0, "l2": 30.0})
    plain = mo.build("surplus", network, affine(3, network), flow=ac)
    parametric = mo.build("surplus", network, affine(3, network), parametric=True, flow=ac)
    same_arrays(compile(plain), compile(parametric))
    assert sorted(parametric.grid.rating_kva2) == [("l0", 0), ("l0", 1), ("l2", 0), ("l2", 1)]


@pytest.mark.parametrize("flow", ["ac", mo.flow("ac", free_source=True), mo.flow("distflow", exact=True)])
def test_prices_of_hours_without_demand_do_not_run_off(flow):
    """Where nothing can be sold any price below all costs supports that; IPOPT alone ends at minus thousands, or
    millions. What is sold in the other hour has the price that it has alone."""
    rows = [row for t in (0, 1) for row in (("up", "1", "offer", t, 200.0, 0.20), ("pv", "2", "offer", t, 30.0, 0.02))]
    columns = ["order", "bus", "side", "period", "width_kw", "price"]
    orders = mo.Orders.from_steps(pd.DataFrame([*rows, ("load", "2", "bid", 1, 80.0, 0.5)], columns=columns))
    network = two_bus().replace(hours=[0.5, 2.0])
    clearing = mo.clear("surplus", network, orders, flow=flow)
    assert clearing.certificate.ok()
    night = clearing.prices[clearing.prices["period"] == 0]["price"]
    assert night.max() <= 0.02 + 1e-6
    assert night.min() >= -1.0
    alone = mo.clear("surplus", network.replace(hours=[2.0]), only(orders, 1), flow=flow)
    day = clearing.prices[clearing.prices["period"] == 1]["price"].tolist()
    assert day == pytest.approx(alone.prices["price"].tolist(), rel=1e-6)


def only(orders, period):
    """The orders of one period, as those of the only one."""
    tables = (table[table["period"] == period].assign(period=0) for table in (orders.orders, orders.segments))
    return mo.Orders(*(table.reset_index(drop=True) for table in tables))
