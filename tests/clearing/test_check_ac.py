"""The AC verdict: exact flows agree with pandapower, others are told by how much they do not, and where it hurts."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.clearing.check_ac import branch_powers, check_ac, injections
from mktopt.networks import units
from tests.formulations.physics import market, two_bus

pp = pytest.importorskip("pandapower")


def cleared(network: mo.Network, orders: mo.Orders, flow: str, **options) -> mo.Clearing:
    return mo.clear("surplus", network, orders, flow=mo.flow(flow, **options))


def dressed() -> mo.Network:
    """Four buses with charging, shunts, a ratio, a regulator and a switch without impedance; two periods."""
    buses = pd.DataFrame({"bus": list("1234"), "base_kv": [12.0, 12.0, 4.0, 4.0], "v_min_pu": 0.8, "v_max_pu": 1.2})
    branches = pd.DataFrame({
        "branch": ["a", "b", "c"], "from_bus": ["1", "3", "4"], "to_bus": ["2", "2", "3"], "r_ohm": [0.5, 0.08, 0.0],
        "x_ohm": [1.0, 0.3, 0.0], "b_us": [900.0, 400.0, 0.0], "ratio": [1.0, 0.98, 1.0],
        "rating_kva": [2500.0, 2e3, 9e3],
    })  # fmt: skip
    shunts = pd.DataFrame({"bus": ["2", "3"], "g_kw": [20.0, 0.0], "b_kvar": [0.0, 150.0]})
    return mo.Network(buses, branches, "1", shunts=shunts, source_v_pu=1.02, hours=[0.5, 2.0])


def orders_of(network: mo.Network, kw: float = 600.0) -> mo.Orders:
    """Loads at every bus but the source's, more in later periods, and a unit with a reactive range at the last bus."""
    rows = []
    for t in network.periods:
        rows.append(("up", network.source_bus, "offer", t, 1e5, 0.05, 0.0, np.nan, np.nan))
        rows += [(f"d{bus}", bus, "bid", t, kw * (1 + t), 1.0, 0.4, np.nan, np.nan) for bus in network.buses["bus"][1:]]
        rows.append(("unit", network.buses["bus"].iloc[-1], "offer", t, 300.0, 0.04, 0.0, 20.0, 90.0))
    columns = ["order", "bus", "side", "period", "width_kw", "price", "tan_phi", "q_min_kvar", "q_max_kvar"]
    return mo.Orders.from_steps(pd.DataFrame(rows, columns=columns))


@pytest.mark.parametrize(
    ("case", "flow", "options"),
    [
        ("case33bw", "distflow", {"exact": True}), ("ieee34", "distflow", {"exact": True}), ("ieee37", "ac", {}),
        ("case30", "ac", {}), ("ieee123", "distflow", {}), ("dressed", "distflow", {"exact": True}),
        ("dressed", "ac", {}),
    ],
)  # fmt: skip
def test_exact_flows_hold(case, flow, options):
    network = dressed() if case == "dressed" else mo.load_network(case)
    orders = orders_of(network) if case == "dressed" else mo.load_case(case).orders
    clearing = cleared(network, orders, flow, **options)
    check = clearing.check_ac()
    assert check.ok, check
    assert check.max_voltage_error < 1e-6
    size = clearing.flows["p_kw"].abs().max()
    assert check.branches["p_kw"].to_numpy() == pytest.approx(clearing.flows["p_kw"].to_numpy(), abs=1e-5 * size)
    assert check.branches["q_kvar"].to_numpy() == pytest.approx(clearing.flows["q_kvar"].to_numpy(), abs=1e-5 * size)
    loading = clearing.flows["loading_percent"].to_numpy()
    assert check.branches["loading_percent"].to_numpy() == pytest.approx(loading, abs=1e-2)
    losses = check.losses
    assert losses["loss_kwh"].to_numpy() == pytest.approx(losses["model_loss_kwh"].to_numpy(), rel=1e-4, abs=1e-6)
    assert losses["source_kw"].to_numpy() == pytest.approx(losses["model_source_kw"].to_numpy(), rel=1e-6)
    assert "holds" in str(check) and list(check.converged) == list(network.periods)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_grids_of_any_size(size: float) -> None:
    """From 1 kW to 10 GW, with branches that have no reactance beside a ratio, and one without any impedance."""
    branches = pd.DataFrame({
        "branch": list("abc"), "from_bus": list("123"), "to_bus": list("234"), "ratio": [1.0, 1.02, 0.98],
        "r_ohm": [1.0 / size, 2.0 / size, 0.0], "x_ohm": [2.0 / size, 0.0, 0.0], "shift_deg": [0.0, 10.0, 0.0],
    })  # fmt: skip
    buses = pd.DataFrame({"bus": list("1234"), "base_kv": 10.0, "v_min_pu": 0.8, "v_max_pu": 1.2})
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "town"], "bus": ["1", "4"], "side": ["offer", "bid"], "width_kw": [9e3 * size, 1e3 * size],
        "price": [0.05, 1.0], "tan_phi": [0.0, 0.3],
    }))  # fmt: skip
    clearing = cleared(mo.Network(buses, branches, "1"), orders, "ac")
    check = clearing.check_ac()
    assert check.ok, check
    assert check.max_voltage_error < 5e-6
    flows = clearing.flows["p_kw"].to_numpy()
    assert check.branches["p_kw"].to_numpy() == pytest.approx(flows, rel=1e-5)


def test_two_buses_on_paper():
    """u = v2^2 solves u^2 + (2 (r P + x Q) - 1) u + (r^2 + x^2)(P^2 + Q^2) = 0; r (P^2 + Q^2) / u is lost."""
    u = (0.96 + np.sqrt(0.96**2 - 4 * 5e-8 * 12_500)) / 2
    for flow in ("copperplate", "transport", "lindistflow", "distflow", "ac"):
        check = cleared(two_bus(), market(kw=100.0, tan_phi=0.5), flow).check_ac()
        assert check.voltages["v_pu"].to_numpy() == pytest.approx([1.0, np.sqrt(u)], abs=1e-9)
        lost = 1e-4 * 12_500 / u
        assert check.losses["loss_kwh"].item() == pytest.approx(lost, rel=1e-7)
        row = check.branches.iloc[0]
        assert (row["p_kw"], row["q_kvar"]) == pytest.approx((100 + lost, 50 + 2 * lost), rel=1e-7)
        assert check.losses["source_kw"].item() == pytest.approx(100 + lost, rel=1e-7)


def test_branch_powers_are_those_of_pandapower():
    """Lines and transformers, with charging; pandapower counts that of its transformers as shunts."""
    network = mo.load_network("case57")
    net = network.to_pandapower()
    net.load[["p_mw", "q_mvar"]] *= 0.05
    pp.runpp(net, calculate_voltage_angles=True, numba=False)
    volts = net.res_bus["vm_pu"].to_numpy() * np.exp(1j * np.radians(net.res_bus["va_degree"].to_numpy()))
    sent, received = branch_powers(network, volts[:, None], np.zeros((network.n_buses, 1)))
    ours = pd.DataFrame({"sent": sent[:, 0], "received": received[:, 0]}, index=network.lines["branch"])
    lines = net.res_line.set_axis(net.line["name"])
    assert ours.loc[lines.index, "sent"].to_numpy() == pytest.approx(
        1e3 * (lines["p_from_mw"] + 1j * lines["q_from_mvar"]).to_numpy(), abs=1e-4)  # fmt: skip
    assert ours.loc[lines.index, "received"].to_numpy() == pytest.approx(
        -1e3 * (lines["p_to_mw"] + 1j * lines["q_to_mvar"]).to_numpy(), abs=1e-4)  # fmt: skip
    trafos = net.res_trafo.set_axis(net.trafo["name"])
    assert len(trafos) > 10
    assert ours.loc[trafos.index, "sent"].to_numpy().real == pytest.approx(1e3 * trafos["p_hv_mw"].to_numpy(), abs=1e-4)


def test_violations_are_named():
    """Flows without losses are off, and drops that they do not see break limits that they did not know of."""
    network, orders = mo.load_network("case33bw"), mo.load_case("case33bw").orders
    check = cleared(network, orders, "lindistflow").check_ac()
    assert 2e-3 < check.max_voltage_error < 5e-3
    v = check.voltages.set_index("bus")["v_pu"]

    buses = network.buses.assign(v_min_pu=np.where(network.buses["bus"] == network.source_bus, 0.9, 0.92))
    narrow = network.replace(buses=buses).with_ratings({"0-1": 4000.0})
    clearing = cleared(narrow, orders, "copperplate")
    check = clearing.check_ac()
    assert check.voltages["model_v_pu"].isna().all() and np.isnan(check.max_voltage_error)
    assert check.branches["model_p_kw"].isna().all()
    low = check.violations[check.violations["what"] == "voltage low"]
    assert set(low["where"]) == set(v.index[v < 0.92]) and len(low) > 0
    assert low["value"].is_monotonic_increasing and (low["limit"] == 0.92).all()
    loaded = check.violations[check.violations["what"] == "loading"]
    row = check.branches.iloc[0]
    assert loaded[["where", "limit", "unit"]].to_numpy().tolist() == [["0-1", 4000.0, "kVA"]]
    assert loaded["value"].item() == pytest.approx(np.hypot(row["p_kw"], row["q_kvar"]))
    assert loaded["value"].item() > 4000
    assert not check.ok and "voltage low at bus 17, period 0: 0.913" in str(check)
    assert len(clearing.check_ac(tolerance=0.2).violations) == 0


def test_high_voltages_and_angles():
    """A unit without a load pushes the voltage up, and turns it."""
    network = two_bus(x_ohm=0.05, angle_min_deg=-0.1, angle_max_deg=60.0)
    network = network.replace(buses=network.buses.assign(v_max_pu=1.02))
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["sink", "unit"], "bus": ["1", "2"], "side": ["bid", "offer"], "width_kw": [1e4, 300.0],
        "price": [0.2, 0.1]}))  # fmt: skip
    check = cleared(network, orders, "transport").check_ac()
    found = check.violations.set_index("what")
    assert found["where"].to_dict() == {"voltage high": "2", "angle low": "1-2"}
    assert found.loc["voltage high", "value"] > 1.025 and found.loc["voltage high", "limit"] == 1.02
    turn = np.degrees(np.arcsin(-300 * 5e-5 / found.loc["voltage high", "value"]))
    assert found.loc["angle low", "value"] == pytest.approx(turn, rel=1e-6)


def test_a_dispatch_that_no_voltage_carries():
    """Two periods: one is served, the other asks for 50 times what the line can carry."""
    network = two_bus().replace(hours=[1.0, 1.0])
    one = market(kw=100.0)
    rows = pd.concat([one.orders, one.orders.assign(period=1)], ignore_index=True)
    segments = pd.concat([one.segments, one.segments.assign(period=1)], ignore_index=True)
    segments.loc[segments["period"] == 1, "width_kw"] = 1e5
    clearing = cleared(network, mo.Orders(rows, segments), "copperplate")
    check = clearing.check_ac()
    assert check.converged == {0: True, 1: False} and not check.ok
    assert len(check.violations) == 0
    v = check.voltages.set_index(["bus", "period"])["v_pu"]
    assert np.isfinite(v["2", 0]) and np.isnan(v["2", 1])
    assert check.losses["converged"].tolist() == [True, False] and np.isnan(check.losses["loss_kwh"][1])
    assert "no power flow in period(s) 1" in str(check)
    assert clearing.check_ac(periods=0).ok
    alone = clearing.check_ac(periods=[1])
    assert alone.converged == {1: False} and set(alone.branches["period"]) == {1}
    assert "Newton's method does not converge" in str(alone)
    with pytest.raises(mo.UnknownNameError, match="unknown period '2'.*Known: 0, 1"):
        clearing.check_ac(periods=2)


def test_the_voltage_that_the_flow_chose():
    network = two_bus()
    network = network.replace(buses=network.buses.assign(v_max_pu=1.1))
    clearing = cleared(network, market(), "distflow", free_source=True)
    check = clearing.check_ac()
    v = check.voltages.set_index("bus")["v_pu"]
    assert v["1"] == pytest.approx(1.1, abs=1e-4)  # the higher, the less is lost
    assert check.max_voltage_error < 1e-6 and check.ok


def test_limits_of_currents():
    """At 100 kVA and less than 1 p.u. a current of 100 kVA at 1 p.u. is exceeded, if that is what the rating means."""
    network = two_bus(rating_kva=100.0)
    orders = market(kw=200.0, tan_phi=0.0)
    arriving = {}
    for limited in (False, True):
        check = cleared(network, orders, "distflow", exact=True, current_limits=limited).check_ac()
        assert check.ok and check.branches["loading_percent"].item() == pytest.approx(100.0, abs=1e-3)
        arriving[limited] = (check.branches["p_kw"] - check.branches["loss_kw"]).item()
    v = check.voltages["v_pu"].iloc[1]
    sent = np.hypot(check.branches["p_kw"].item(), check.branches["q_kvar"].item())
    assert max(sent, arriving[True] / v) == pytest.approx(100.0, abs=1e-3)
    assert v < 0.995


@pytest.mark.parametrize(("low", "high", "expected"), [(20.0, 90.0, 20.0), (-90.0, -20.0, -20.0), (-5.0, 5.0, 0.0)])
def test_reactive_ranges_without_reactive_power(low, high, expected):
    """The value of the range nearest to zero; tan_phi where there is no range."""
    offers = market(kw=50.0, tan_phi=0.5).merge(mo.Orders.from_steps(pd.DataFrame([{
        "order": "unit", "bus": "2", "side": "offer", "width_kw": 10.0, "price": 0.01, "q_min_kvar": low,
        "q_max_kvar": high}])))  # fmt: skip
    power = injections(cleared(two_bus(), offers, "transport"))
    assert power[1, 0] == pytest.approx(-50 + 10 + 1j * (expected - 25))


def test_switches_without_impedance_carry_what_is_left():
    """Also two of them side by side, half each; Kirchhoff's law holds at every bus."""
    network = dressed()
    double = network.branches.iloc[[2]].assign(branch="c2")
    network = network.replace(branches=pd.concat([network.branches, double], ignore_index=True))
    clearing = cleared(network, orders_of(network), "copperplate")
    check = check_ac(clearing)
    power = injections(clearing)
    flows = {name: check.branches[name].to_numpy().reshape(-1, 2) for name in ("p_kw", "q_kvar", "loss_kw")}
    assert flows["p_kw"][2] == pytest.approx(flows["p_kw"][3])
    assert flows["p_kw"][2] + flows["p_kw"][3] == pytest.approx(power[3].real, abs=1e-3)
    v2 = check.voltages["v_pu"].to_numpy().reshape(-1, 2)[2] ** 2
    arrives = flows["p_kw"][2] + flows["p_kw"][3] - flows["p_kw"][1]
    assert arrives == pytest.approx(-power[2].real, abs=1e-3)
    charging = units.charging_kvar(network)[1]
    gives = flows["q_kvar"][2] + flows["q_kvar"][3] - flows["q_kvar"][1] + 150 * v2
    assert gives == pytest.approx(-power[2].imag, abs=1e-2) and charging > 0


def test_a_lone_bus_and_a_missing_library(monkeypatch):
    alone = mo.Network(two_bus().buses.iloc[:1], two_bus().branches.iloc[:0], "1")
    orders = market()
    single = orders.select((orders.orders["bus"] == "1").to_numpy())
    assert cleared(alone, single, "copperplate").check_ac().ok
    clearing = cleared(two_bus(), orders, "transport")
    monkeypatch.setitem(sys.modules, "pandapower", None)
    with pytest.raises(mo.DataError, match="needs pandapower.*pip install pandapower"):
        clearing.check_ac()
