"""Flow `lindistflow`: on paper, against the R and X sensitivities, and its prices by perturbation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.formulations.flows.lindistflow import lindistflow
from mktopt.solvers import compile
from mktopt.testing import check_prices, small_market
from tests.clearing.markets import affine, radial
from tests.formulations.physics import (
    grid_of,
    injections,
    kvar_price,
    kvar_price_by_perturbation,
    market,
    two_bus,
    values,
)
from tests.formulations.test_parametric import same_arrays


def test_a_voltage_drop_on_paper():
    """100 kW and 50 kvar: v2 = 1 - 2 (1e-4 100 + 2e-4 50) = 0.96."""
    clearing = mo.clear("surplus", two_bus(), market(), flow=lindistflow)
    grid = grid_of(clearing)
    assert values(grid.v2) == pytest.approx([1.0, 0.96], abs=1e-9)
    assert grid.p_kw["1-2", 0].value == pytest.approx(100, abs=1e-6)
    assert grid.q_kvar["1-2", 0].value == pytest.approx(50, abs=1e-6)
    assert grid.source_kvar[0].value == pytest.approx(50, abs=1e-6)


def test_a_binding_voltage_limit_on_paper():
    """v2 >= 0.9604 leaves 99 kW: 2 (1e-4 + 0.5 2e-4) p = 0.0396. A kW more is worth 0.95 $, so that the limit's
    multiplier is m = 0.95 / 4e-4, the price of a kW 0.05 + 2e-4 m = 0.525 and of a kvar 4e-4 m = 0.95."""
    network = two_bus()
    network = network.replace(buses=network.buses.assign(v_min_pu=[0.5, 0.98]))
    clearing = mo.clear("surplus", network, market(), flow=lindistflow)
    assert clearing.quantity("load") == pytest.approx(99, abs=1e-5)
    assert clearing.price("1") == pytest.approx(0.05, abs=1e-7)
    assert clearing.price("2") == pytest.approx(0.525, abs=1e-6)
    assert kvar_price(clearing, "2") == pytest.approx(0.95, abs=1e-6)
    assert kvar_price(clearing, "1") == pytest.approx(0.0, abs=1e-7)
    faced = clearing.order_prices.set_index("order")["order_price"]
    assert faced["load"] == pytest.approx(1.0, abs=1e-6), "price + tan_phi x price of reactive power"


@pytest.mark.parametrize("turned", [False, True], ids=["along", "against"])
def test_charging_ratio_and_shunts_on_paper(turned):
    """No load. Away from the source, with n = 1.05, h = 5 and a capacitor b = 20 kvar behind:
    Q' = -(h + n^2 b) w and w = 1 - 2 x Q' for w = v2_2 / n^2; Q = Q' - h. Turned, the ratio is at the source:
    Q' = (h / n^2 + ...) likewise."""
    x, h, n2, b = 2e-4, 5.0, 1.05**2, 20.0
    ends = {"from_bus": "2", "to_bus": "1"} if turned else {}
    network = two_bus(b_us=1e4, ratio=1.05, **ends)  # 1e-6 S x 1e6 V^2 / 1e3 = 10 kvar in all
    network = network.replace(shunts=pd.DataFrame({"bus": ["2"], "b_kvar": [b]}))
    grid = grid_of(mo.clear("surplus", network, market(0.0), flow=lindistflow))
    if turned:
        # bus 2 is in front: Q = -(flow into bus 2) = b v, Q' = Q + h v = (b + h) v, and 1 = n2 (v - 2 x Q')
        v = 1.0 / n2 / (1.0 - 2.0 * x * (b + h))
        source = -((b + h) * v + h / n2)
    else:
        w = 1.0 / (1.0 - 2.0 * x * (h + n2 * b))
        v, source = n2 * w, -(h + n2 * b) * w - h
    assert grid.v2["2", 0].value == pytest.approx(v, abs=1e-9)
    assert grid.source_kvar[0].value == pytest.approx(source, abs=1e-6)


def test_a_conductance_draws_with_the_square_of_the_voltage():
    network = two_bus().replace(shunts=pd.DataFrame({"bus": ["2"], "g_kw": [50.0]}))
    grid = grid_of(mo.clear("surplus", network, market(), flow=lindistflow))
    v2 = grid.v2["2", 0].value
    assert grid.p_kw["1-2", 0].value == pytest.approx(100 + 50 * v2, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_voltages_are_those_of_the_sensitivities(seed):
    network = radial(seed, n=15)
    lines = network.branches.assign(ratio=1.0)
    lines.loc[[2, 7], "ratio"] = [1.04, 0.97]
    network = network.replace(branches=lines, source_v_pu=1.02)
    clearing = mo.clear("surplus", network, affine(seed, network), flow=lindistflow)
    p, q = injections(clearing)
    linear = network.topology.lindistflow
    expected = linear.gain * network.source_v_pu**2 + linear.R @ p + linear.X @ q
    assert values(grid_of(clearing).v2) == pytest.approx(expected, abs=1e-8)


def test_ratings_limit_apparent_power():
    """P^2 + Q^2 <= 50^2 with Q = P / 2 holds P at 50 / sqrt(1.25)."""
    clearing = mo.clear("surplus", two_bus(rating_kva=50.0), market(), flow=lindistflow)
    assert clearing.quantity("load") == pytest.approx(50 / np.sqrt(1.25), abs=1e-5)


def test_charging_counts_at_either_end():
    """12 kvar of charging at each end of a line that brings no reactive power: its ends differ."""
    network = two_bus(b_us=24e3, rating_kva=50.0)
    grid = grid_of(mo.clear("surplus", network, market(tan_phi=0.0), flow=lindistflow))
    p, q, v2 = grid.p_kw["1-2", 0].value, grid.q_kvar["1-2", 0].value, values(grid.v2)
    arriving = q + 12.0 * v2.sum()
    assert arriving == pytest.approx(0.0, abs=1e-6)
    assert np.hypot(p, q) == pytest.approx(50.0, abs=1e-5)


def test_a_polygon_makes_it_linear_and_stays_inside():
    network = radial(3, n=8).with_ratings({"l0": 30.0, "l2": 25.0, "l4": 40.0})
    orders = affine(3, network)
    flat = mo.Orders(orders.orders, orders.segments.assign(price_end=orders.segments["price_start"]))
    circle = mo.clear("surplus", network, flat, flow=lindistflow).welfare
    before = -np.inf
    for sides in (4, 8, 32):
        chosen = mo.flow(lindistflow, sides=sides)
        assert compile(mo.build("surplus", network, flat, flow=chosen)).problem_class == "LP"
        welfare = mo.clear("surplus", network, flat, flow=chosen).welfare
        assert before - 1e-9 <= welfare <= circle + 1e-6
        before = welfare
    assert before == pytest.approx(circle, rel=0.01)


@pytest.mark.parametrize("sides", [3, 4.5, True, "many"])
def test_too_few_sides_are_refused(sides):
    with pytest.raises(mo.FormulationError, match=f"from 4 on, not {sides!r}"):
        mo.clear("surplus", two_bus(), market(), flow=mo.flow(lindistflow, sides=sides))


def test_a_reactive_range_is_free_whether_the_order_trades_or_not():
    """Voltage holds the load; a dear unit at its bus with -10 .. 30 kvar lifts it without selling a kW."""
    network = two_bus()
    network = network.replace(buses=network.buses.assign(v_min_pu=[0.5, 0.98]))
    unit = mo.Orders.from_steps(pd.DataFrame({
        "order": ["unit"], "bus": ["2"], "side": ["offer"], "width_kw": [10.0], "price": [9.0], "q_min_kvar": [-10.0],
        "q_max_kvar": [30.0],
    }))  # fmt: skip
    clearing = mo.clear("surplus", network, market(200.0), flow=lindistflow)
    helped = mo.clear("surplus", network, market(200.0).merge(unit), flow=lindistflow)
    assert grid_of(helped).reactive_kvar["unit", 0].value == pytest.approx(30.0, abs=1e-5)
    assert helped.quantity("unit") == pytest.approx(0.0, abs=1e-6)
    assert helped.quantity("load") - clearing.quantity("load") == pytest.approx(30.0, abs=1e-4)  # 4e-4 30 / 4e-4


def test_an_offer_at_the_source_with_a_range_limits_what_is_free_there():
    orders = market()
    table = orders.orders.assign(q_min_kvar=[-5.0, np.nan], q_max_kvar=[20.0, np.nan])
    clearing = mo.clear("surplus", two_bus(), mo.Orders(table, orders.segments), flow=lindistflow)
    assert len(grid_of(clearing).source_kvar) == 0
    assert clearing.quantity("load") == pytest.approx(40.0, abs=1e-5)


def test_prices_are_those_of_a_perturbation():
    check_prices("surplus", *small_market(), flow=lindistflow)


def test_prices_of_reactive_power_are_those_of_a_perturbation():
    network = radial(5, n=7, hours=[0.5]).with_ratings({"l1": 30.0, "l3": 25.0})
    orders = affine(5, network)
    clearing = mo.clear("surplus", network, orders, flow=lindistflow)
    found = [kvar_price(clearing, bus) for bus in ("b2", "b4", "b6")]
    assert max(map(abs, found)) > 1e-3, "nothing binds"
    for bus, price in zip(("b2", "b4", "b6"), found, strict=True):
        expected = kvar_price_by_perturbation(network, orders, bus, 0.01, flow=lindistflow)
        assert price == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"sides": 8}], ids=["circle", "polygon"])
def test_a_parametric_model_is_the_same_program(options):
    network = radial(3, hours=[1.0, 2.0]).with_ratings({"l0": 40.0, "l2": 30.0})
    arguments = {"flow": mo.flow(lindistflow, **options)}
    plain = mo.build("surplus", network, affine(3, network), **arguments)
    parametric = mo.build("surplus", network, affine(3, network), parametric=True, **arguments)
    same_arrays(compile(plain), compile(parametric))
    name = "rating_kva" if options else "rating_kva2"
    assert sorted(parametric.grid.component(name)) == [("l0", 0), ("l0", 1), ("l2", 0), ("l2", 1)]


def test_a_loop_is_named():
    network = two_bus()
    second = network.branches.assign(branch="back", from_bus="2", to_bus="1")
    network = network.replace(branches=pd.concat([network.branches, second]))
    tree = mo.Flow("lindistflow", lindistflow, radial_only=True)
    with pytest.raises(mo.FormulationError, match="flow 'lindistflow' needs a radial grid.*1-2.*back|back.*1-2"):
        mo.clear("surplus", network, market(), flow=tree)
