"""Reactive power is priced and paid for: on paper, by perturbation, and in the sum of the money."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.clearing.certificate import certify, regrets
from tests.clearing.markets import affine, radial
from tests.formulations.physics import kvar_price, kvar_price_by_perturbation, two_bus

FLOWS = ["lindistflow", "distflow", mo.flow("distflow", exact=True), "ac"]
IDS = ["lindistflow", "distflow", "exact", "ac"]


def weak_feeder() -> mo.Network:
    """A line with r = 1e-4 and x = 2e-4 per kW to bus 2, whose voltage may fall to 0.98."""
    network = two_bus()
    return network.replace(buses=network.buses.assign(v_min_pu=[0.5, 0.98]))


def with_support(q_max_kvar: float = 30.0) -> mo.Orders:
    """A load of up to 200 kW with 0.5 kvar per kW at bus 2, and beside it a unit that gives kvar, but hardly any kW."""
    return mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load", "unit"], "bus": ["1", "2", "2"], "side": ["offer", "bid", "offer"],
        "width_kw": [1e4, 200.0, 5.0], "price": [0.05, 1.0, 2.0], "tan_phi": [0.0, 0.5, 0.0],
        "q_min_kvar": [np.nan, np.nan, -10.0], "q_max_kvar": [np.nan, np.nan, q_max_kvar],
    }))  # fmt: skip


def test_prices_of_a_binding_voltage_on_paper():
    """Linear: 1 - 2 (r P + x Q) >= 0.98^2 binds, with P = d, Q = d / 2 - 30: 2 (1e-4 d + 2e-4 (d / 2 - 30)) = 0.0396.
    So d = (0.0396 + 0.012) / 4e-4 = 129 kW. The load is worth 1.0 at the margin: 0.05 + mu (2 r + x) = 1, so that the
    price of kvar is 2 x mu = 2 * 0.95 / 2 = 0.95 / kvarh times x / (r + x / 2), and that of kW 0.05 + 0.95 / 2."""
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow="lindistflow")
    assert clearing.quantity("load") == pytest.approx(129.0, abs=1e-5)
    assert clearing.price("2") == pytest.approx(0.05 + 0.475, abs=1e-7)
    assert kvar_price(clearing, "2") == pytest.approx(0.95, abs=1e-7)
    table = clearing.dispatch.set_index("order")
    assert table.loc["load", "q_kvar"] == pytest.approx(64.5, abs=1e-5)
    assert table.loc["unit", "q_kvar"] == pytest.approx(30.0, abs=1e-5)
    assert table.loc["load", "price"] == pytest.approx(1.0, abs=1e-7)
    assert table.loc["load", "payment"] == pytest.approx(129.0, abs=1e-4)
    assert table.loc["unit", "payment"] == pytest.approx(-30.0 * 0.95, abs=1e-4)
    assert kvar_price(clearing, "1") == pytest.approx(0.0, abs=1e-9)
    rent = 129.0 - 30 * 0.95 - 0.05 * 129
    assert clearing.certificate.rent == pytest.approx(rent, abs=1e-4)
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_money_adds_up_where_voltages_bind(flow):
    network = weak_feeder().replace(hours=[0.5])
    clearing = mo.clear("surplus", network, with_support(), flow=flow)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.voltages["v_pu"].iloc[1] == pytest.approx(0.98, abs=1e-6)
    assert kvar_price(clearing, "2") > 0.1
    assert clearing.settlement.budget == pytest.approx(clearing.certificate.rent, abs=1e-5)
    expected = kvar_price_by_perturbation(network, with_support(), "2", 0.05, flow=flow)
    assert kvar_price(clearing, "2") == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_a_result_tampered_with_is_seen(flow):
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow=flow)

    def altered(table: str, column: str, row: int, change) -> mo.Clearing:
        frame = getattr(clearing, table).copy()
        frame.loc[row, column] = change(frame.loc[row, column])
        return replace(clearing, **{table: frame})

    for table, column, row in (
        ("reactive_prices", "price", 1), ("dispatch", "q_kvar", 1), ("dispatch", "q_kvar", 2),
        ("dispatch", "payment", 2), ("voltages", "v_pu", 1), ("flows", "q_kvar", 0),
    ):  # fmt: skip
        certificate = certify(altered(table, column, row, lambda value: value * 1.001))
        assert not certificate.ok(), (table, column, certificate)
    assert not certify(replace(clearing, reactive_prices=None)).ok()


def test_a_unit_that_gives_less_than_it_would_has_regret():
    """It would be paid 0.95 $/kvarh: every kvar that it keeps is a loss to it."""
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow="lindistflow")
    dispatch = clearing.dispatch.copy()
    dispatch.loc[2, "q_kvar"] -= 10.0
    found = regrets(replace(clearing, dispatch=dispatch)).set_index("participant")["regret"]
    assert found["unit"] == pytest.approx(9.5, abs=1e-5)
    assert found["load"] == pytest.approx(0.0, abs=1e-6)


def test_flows_without_reactive_power_have_none():
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow="transport")
    assert clearing.reactive_prices is None and clearing.voltages is None and clearing.relaxation is None
    assert "q_kvar" not in clearing.dispatch


def test_budget_balance_leaves_reactive_power_unpaid_and_no_money():
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow="lindistflow", pricing="budget_balanced")
    assert clearing.settlement.budget == pytest.approx(0.0, abs=1e-6)
    assert clearing.dispatch["payment"].iloc[2] == pytest.approx(0.0, abs=1e-9)
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_saved_and_loaded_with_all_tables(tmp_path, flow):
    clearing = mo.clear("surplus", weak_feeder(), with_support(), flow=flow)
    clearing.save(tmp_path / "saved")
    loaded = mo.Clearing.load(tmp_path / "saved")
    for name in ("voltages", "reactive_prices", "dispatch", "flows", "relaxation"):
        one, other = getattr(clearing, name), getattr(loaded, name)
        if one is None:
            assert other is None
        else:
            pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=1e-12)
    assert loaded.certificate.ok()


# -- relaxation -------------------------------------------------------------------------------------------------------


def test_slack_cones_are_named():
    """Who is paid for taking power burns it in losses that no wire has; the result says on which branch."""
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load"], "bus": ["1", "2"], "side": ["offer", "bid"], "width_kw": [300.0, 100.0],
        "price": [-0.05, 0.20],
    }))  # fmt: skip
    clearing = mo.clear("surplus", two_bus(), orders, flow="distflow")
    assert clearing.relaxation["gap"].item() > 0.1
    assert clearing.relaxation["phantom_kw"].item() > 1.0
    assert clearing.relaxation["slack"].item()
    assert any("not tight on 1-2" in note for note in clearing.notes)
    assert "not tight on 1-2" in clearing.summary()
    exact = mo.clear("surplus", two_bus(), orders, flow=mo.flow("distflow", exact=True))
    assert exact.relaxation is None
    assert not any("tight" in note for note in exact.notes)


def test_slack_cones_of_reactances_lose_kvar():
    """A branch without resistance has nothing but reactive power to lose too much of, and the note says how much."""
    network = two_bus()
    network = network.replace(branches=network.branches.assign(r_ohm=0.0))
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load", "unit"], "bus": ["1", "2", "2"], "side": ["offer", "bid", "offer"],
        "width_kw": [1e3, 100.0, 1.0], "price": [0.05, 1.0, 2.0],
        "q_min_kvar": [0.0, np.nan, 60.0], "q_max_kvar": [0.0, np.nan, 60.0],
    }))  # fmt: skip
    clearing = mo.clear("surplus", network, orders, flow="distflow")
    row = clearing.relaxation.iloc[0]
    assert row["slack"] and row["phantom_kw"] == 0.0 and row["phantom_kvar"] == pytest.approx(58.0, abs=1.0)
    note = next(note for note in clearing.notes if "not tight" in note)
    assert f"lose up to {row['phantom_kvar']:.4g} kvar in the model" in note


@pytest.mark.parametrize("seed", range(4))
def test_tight_cones_raise_no_alarm(seed):
    network = radial(seed, n=10, hours=[1.0, 2.0])
    clearing = mo.clear("surplus", network, affine(seed, network), flow="distflow")
    assert not clearing.relaxation["slack"].any()
    assert not any("tight" in note for note in clearing.notes)
