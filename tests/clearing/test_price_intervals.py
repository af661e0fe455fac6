"""The range of prices that support a dispatch: on paper, by perturbation, and what is said about it."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.testing import price_by_perturbation
from tests.clearing.markets import FLOWS, LINEAR, SOLVERS, affine, cap_on_bids, congested, grid, meshed, radial, steps

ONE_LINE = [("1-2", "1", "2", 0.1, np.inf)]


def pair(*rows: tuple, rating: float = np.inf, **columns) -> tuple[mo.Network, mo.Orders]:
    return grid([("1-2", "1", "2", 0.1, rating)], "12"), steps(*rows, **columns)


# -- on paper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flow", "solver"), [(flow, solver) for flow in LINEAR for solver in SOLVERS])
def test_a_bid_and_an_offer_of_one_width(flow, solver):
    """Both are used up: any price between what the offer asks and what the bid pays supports it."""
    market = pair(("s", "1", "offer", 50, 0.1), ("d", "2", "bid", 50, 0.4))
    clearing = mo.clear("surplus", *market, flow=flow, solver=solver)
    assert clearing.quantity("d") == pytest.approx(50)
    for bus in "12":
        assert clearing.price_interval(bus) == pytest.approx((0.1, 0.4), abs=1e-7)
        assert 0.1 - 1e-9 <= clearing.price(bus) <= 0.4 + 1e-9
    assert not clearing.prices_unique
    assert clearing.certificate.ok()
    assert "not unique: at bus 1, period 0, anything from 0.1 to 0.4 $/kWh would do" in clearing.summary()


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_marginal_offer_fixes_the_price(solver):
    market = pair(("s", "1", "offer", 80, 0.1), ("d", "2", "bid", 50, 0.4))
    clearing = mo.clear("surplus", *market, solver=solver)
    assert clearing.prices_unique
    assert clearing.price_interval("2") == pytest.approx((0.1, 0.1), abs=1e-9)
    assert "not unique" not in clearing.summary()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_that_is_just_used_up(solver):
    """50 kW at 0.1, then 50 kW at 0.3, and 50 kW are wanted: one kW less saves 0.1, one more costs 0.3."""
    market = pair(("s", "1", "offer", 50, 0.1), ("t", "1", "offer", 50, 0.3), ("d", "2", "bid", 50, 0.9))
    assert mo.clear("surplus", *market, solver=solver).price_interval("1") == pytest.approx((0.1, 0.3), abs=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_firm_demand_that_cannot_rise(solver):
    """All supply is used by a firm bid: no price is too high; one kW less saves the dearest offer."""
    market = pair(("s", "1", "offer", 50, 0.1), ("d", "2", "bid", 50, 0.4), minimum_kw=[0.0, 50.0])
    clearing = mo.clear("surplus", *market, solver=solver)
    low, high = clearing.price_interval("2")
    assert low == pytest.approx(0.1, abs=1e-7)
    assert math.isinf(high) and high > 0
    assert "anything from 0.1 $/kWh upwards would do" in clearing.summary()


@pytest.mark.parametrize("solver", SOLVERS)
def test_firm_supply_that_cannot_be_taken_in_part(solver):
    """A firm offer meets a firm bid: demand can neither rise nor fall."""
    market = pair(("s", "1", "offer", 50, 0.1), ("d", "2", "bid", 50, 0.4), minimum_kw=50.0)
    clearing = mo.clear("surplus", *market, solver=solver)
    assert clearing.price_interval("1") == (-np.inf, np.inf)
    assert "anything would do" in clearing.summary()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_line_that_is_just_full(solver):
    """50 kW of the cheap offer fill the line; the dear one behind it is not needed: the far price is open, the near
    one is not."""
    market = pair(
        ("s", "1", "offer", 80, 0.1), ("t", "2", "offer", 80, 0.3), ("d", "2", "bid", 50, 0.9), rating=50.0
    )  # fmt: skip
    clearing = mo.clear("surplus", *market, flow="transport", solver=solver)
    assert clearing.price_interval("1") == pytest.approx((0.1, 0.1), abs=1e-7)
    assert clearing.price_interval("2") == pytest.approx((0.1, 0.3), abs=1e-7)
    table = clearing.price_intervals()
    assert list(table.columns) == ["bus", "period", "price", "low", "high"]
    assert table["low"].to_numpy() == pytest.approx([0.1, 0.1], abs=1e-7)
    assert table["high"].to_numpy() == pytest.approx([0.1, 0.3], abs=1e-7)


def test_a_price_is_per_kwh_and_each_period_has_its_own():
    network = grid(ONE_LINE, "12", hours=[0.25, 4.0])
    rows = [("s", "1", "offer", 50, 0.1, 0), ("d", "2", "bid", 50, 0.4, 0), ("s", "1", "offer", 80, 0.2, 1),
            ("d", "2", "bid", 50, 0.4, 1)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["order", "bus", "side", "width_kw", "price", "period"])
    clearing = mo.clear("surplus", network, mo.Orders.from_steps(frame))
    assert clearing.price_interval("2", 0) == pytest.approx((0.1, 0.4), abs=1e-7)
    assert clearing.price_interval("2", 1) == pytest.approx((0.2, 0.2), abs=1e-7)
    with pytest.raises(mo.UnknownNameError, match="unknown period"):
        clearing.price_interval("2", 2)
    with pytest.raises(mo.UnknownNameError, match="unknown bus"):
        clearing.price_interval("3")


def test_all_or_nothing_is_taken_as_it_was_decided():
    """The block of 60 kW runs for the load of 60 kW: one kW more comes from the unit, and one less is none of the
    block's, so that supply could go nowhere."""
    market = pair(
        ("block", "1", "offer", 60, 0.1), ("unit", "1", "offer", 100, 0.15), ("load", "2", "bid", 60, 1.0),
        all_or_nothing=[True, False, False],
    )  # fmt: skip
    clearing = mo.clear("surplus", *market)
    assert clearing.quantity("block") == pytest.approx(60)
    assert clearing.price_interval("2") == pytest.approx((-np.inf, 0.15), abs=1e-7)
    assert not clearing.prices_unique


# -- by perturbation --------------------------------------------------------------------------------------------------


def slopes(clearing: mo.Clearing, bus: str, period: int, epsilon: float, **arguments) -> tuple[float, float]:
    """(saving per kWh of less, cost per kWh of more firm demand), infinite where that is infeasible."""
    market = ("surplus", clearing.network, clearing.orders)
    try:
        more, less = price_by_perturbation(*market, bus, period, epsilon_kw=epsilon, **arguments)
    except mo.InfeasibleError:
        return _one_by_one(clearing, bus, period, epsilon, **arguments)
    return less, more


def _one_by_one(clearing, bus, period, epsilon, **arguments):
    ends = []
    for side, sign in (("offer", -1.0), ("bid", 1.0)):
        row = {"order": "__more", "bus": bus, "side": side, "period": period, "width_kw": epsilon, "price": 0.0}
        probe = mo.Orders.from_steps(pd.DataFrame([{**row, "minimum_kw": epsilon}]))
        try:
            welfare = mo.clear("surplus", clearing.network, clearing.orders.merge(probe), **arguments).welfare
            ends.append(sign * (clearing.welfare - welfare) / (epsilon * clearing.network.hours[period]))
        except mo.InfeasibleError:
            ends.append(sign * np.inf)
    return tuple(ends)


@settings(max_examples=settings().max_examples // 2)
@given(st.integers(0, 2**32 - 1))
def test_the_ends_are_the_one_sided_derivatives_of_welfare(seed):
    """Whole numbers of kW and few prices, so that corners are frequent; some orders firm, some lines full."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    maker = meshed if n > 2 and rng.random() < 0.4 else radial
    network = maker(seed % 1000, n=n, hours=[float(rng.choice([0.5, 1.0, 2.0]))])
    ratings = {str(b): float(rng.integers(1, 4)) for b in network.lines["branch"] if rng.random() < 0.5}
    network = network.with_ratings(ratings)
    rows = [(f"o{k}", f"b{rng.integers(n)}", str(rng.choice(["bid", "offer"])), float(rng.integers(1, 4)),
             float(rng.choice([0.1, 0.2, 0.3, 0.5]))) for k in range(int(rng.integers(2, 8)))]  # fmt: skip
    firm = rng.random(len(rows)) < 0.2
    orders = steps(*rows, minimum_kw=np.where(firm, [row[3] for row in rows], 0.0))
    flow = "dc" if maker is meshed else str(rng.choice(LINEAR))
    solver = str(rng.choice(SOLVERS))
    try:
        clearing = mo.clear("surplus", network, orders, flow=flow, solver=solver)
    except mo.InfeasibleError:
        return
    bus = f"b{rng.integers(n)}"
    low, high = clearing.price_interval(bus)
    assert low - 1e-9 <= clearing.price(bus) <= high + 1e-9
    less, more = slopes(clearing, bus, 0, 1e-3, flow=flow, solver=solver)
    assert (low, high) == pytest.approx((less, more), abs=2e-5)
    if not clearing.prices_unique:
        table = clearing.price_intervals()
        assert (table["high"] - table["low"]).max() > 1e-6
    else:
        assert high - low < 1e-5


@pytest.mark.parametrize("flow", FLOWS)
def test_affine_markets_have_one_price(flow):
    """With a row of the user's own and full lines: the multipliers are unique, and so are the prices."""
    network = radial(13, hours=[0.5, 2.0])
    orders = affine(13, network)
    network = congested(network, orders, flow)
    cap = cap_on_bids(0.7, network, orders, flow)
    clearing = mo.clear("surplus", network, orders, flow=flow, extra=[cap])
    assert clearing.prices_unique
    table = clearing.price_intervals()
    assert table["low"].to_numpy() == pytest.approx(table["price"].to_numpy(), abs=1e-8)
    assert table["high"].to_numpy() == pytest.approx(table["price"].to_numpy(), abs=1e-8)


def test_a_corner_of_affine_curves():
    """The bid's first segment falls from 0.9 to 0.6, the second from 0.4; the offer rises through the gap at 20 kW."""
    network = grid(ONE_LINE, "12")
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["s"], "bus": ["1"], "side": ["offer"], "width_kw": [100.0], "price": [0.5],
    }))  # fmt: skip
    table, segments = steps(("d", "2", "bid", 20, 0.9), ("s", "1", "offer", 100, 0.5)), None
    segments = pd.DataFrame({
        "order": ["d", "d", "s"], "period": 0, "segment": [0, 1, 0], "width_kw": [20.0, 20.0, 20.0],
        "price_start": [0.9, 0.4, 0.1], "price_end": [0.6, 0.2, 0.5],
    })  # fmt: skip
    orders = mo.Orders(table.orders, segments)
    clearing = mo.clear("surplus", network, orders)
    assert clearing.quantity("d") == pytest.approx(20, abs=1e-6)
    assert clearing.price_interval("1") == pytest.approx((0.5, 0.6), abs=1e-6)
    less, more = slopes(clearing, "1", 0, 1e-3)
    assert clearing.price_interval("1") == pytest.approx((less, more), abs=1e-4)


def test_a_row_of_the_users_own_that_just_binds():
    """The cap is as wide as the bid: with it the price may lie below what the bid would pay."""
    market = pair(("s", "1", "offer", 80, 0.1), ("d", "2", "bid", 50, 0.4))

    def cap(model, network):
        return model.accepted_kw["s", 0] <= 50

    clearing = mo.clear("surplus", *market, extra=[cap])
    assert clearing.price_interval("2") == pytest.approx((0.1, 0.4), abs=1e-7)
    assert clearing.price_interval("2") == pytest.approx(slopes(clearing, "2", 0, 1e-2, extra=[cap]), abs=1e-6)


# -- what is said -----------------------------------------------------------------------------------------------------


def open_market() -> mo.Clearing:
    return mo.clear("surplus", *pair(("s", "1", "offer", 50, 0.1), ("d", "2", "bid", 50, 0.4), minimum_kw=[0.0, 50.0]))


def test_a_saved_clearing_carries_the_flag(tmp_path):
    clearing = open_market()
    clearing.save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["prices_unique"] is False
    loaded = mo.Clearing.load(tmp_path / "out")
    assert not loaded.prices_unique
    assert loaded.summary() == clearing.summary()
    with pytest.raises(mo.MktoptError, match="clear the market again"):
        loaded.price_interval("1")
    with pytest.raises(mo.MktoptError, match="tables were changed"):
        _ = replace(loaded, welfare=1.0).prices_unique
    loaded.save(tmp_path / "again")
    assert not mo.Clearing.load(tmp_path / "again").prices_unique


def test_unique_prices_are_saved_as_such(tmp_path):
    clearing = mo.clear("surplus", *pair(("s", "1", "offer", 80, 0.1), ("d", "2", "bid", 50, 0.4)))
    clearing.save(tmp_path / "out")
    loaded = mo.Clearing.load(tmp_path / "out")
    assert loaded.prices_unique
    assert "not unique" not in loaded.summary()


def test_without_evidence_nothing_is_claimed():
    clearing = replace(open_market(), evidence=None)
    with pytest.raises(mo.MktoptError, match="no evidence"):
        _ = clearing.prices_unique
    with pytest.raises(mo.MktoptError, match="clear the market again"):
        clearing.price_intervals()
    assert "not unique" not in clearing.summary()


def test_many_buses_take_little_time():
    network, orders, *_ = mo.load_case("synthetic:radial:3000:1")
    clearing = mo.clear("surplus", network, orders)
    start = time.perf_counter()
    assert clearing.prices_unique
    table = clearing.price_intervals()
    assert time.perf_counter() - start < 1.0
    assert len(table) == network.n_buses
    assert (table["high"] - table["low"]).max() == 0.0


def test_the_flag_is_not_worked_out_before_it_is_asked_for():
    clearing = open_market()
    assert "_price_ranges" not in vars(clearing)
    assert not clearing.prices_unique
    assert "_price_ranges" in vars(clearing)


def test_a_bus_without_a_balance_has_no_range():
    """A lone bus without orders in the second period has no price there."""
    network = mo.Network(pd.DataFrame({"bus": ["1"], "base_kv": [1.0]}), grid(ONE_LINE, "12").branches.iloc[:0], "1",
                         hours=[1.0, 1.0])  # fmt: skip
    clearing = mo.clear("surplus", network, steps(("s", "1", "offer", 80, 0.1), ("d", "1", "bid", 50, 0.4)))
    assert clearing.price_interval("1", 0) == pytest.approx((0.1, 0.1))
    if math.isnan(clearing.price("1", 1)):
        assert all(math.isnan(end) for end in clearing.price_interval("1", 1))
