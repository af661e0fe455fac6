"""Networks from and to pandapower: power flows agree with reference solutions and with the original net."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.errors import DataError
from mktopt.networks.cases import load_case, load_network
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.network import Network
from mktopt.networks.pandapower import from_pandapower, offers_from_pandapower
from tests.nets import example_net

pp = pytest.importorskip("pandapower")

MakeNetwork = Callable[..., Network]
REFERENCE = Path(__file__).parents[1] / "data"


def power_flow(net: Any, network: Network | None = None, **options: Any) -> pd.DataFrame:
    """Voltages by bus name, of a Newton power flow that starts at no load where the grid is ours and radial."""
    start = {} if network is None else {"init_vm_pu": network.topology.no_load_v_pu, "init_va_degree": "dc"}
    pp.runpp(net, calculate_voltage_angles=True, tolerance_mva=1e-9, numba=False, **start, **options)
    return pd.DataFrame({"v": net.res_bus["vm_pu"].to_numpy(), "angle": net.res_bus["va_degree"].to_numpy()},
                        index=net.bus["name"])  # fmt: skip


@pytest.mark.parametrize("name", ["ieee34", "ieee37"])
@pytest.mark.parametrize("taps", ["taps", "neutral"])
def test_feeders_reproduce_their_reference_solution(name: str, taps: str) -> None:
    network = load_network(name)
    if taps == "neutral":
        network = network.replace(branches=network.branches.assign(ratio=1.0))
    found = power_flow(network.to_pandapower(), network)
    expected = pd.read_csv(REFERENCE / f"{name}_{taps}.csv", dtype={"bus": str}).set_index("bus").loc[found.index]
    assert len(expected) == network.n_buses
    assert found["v"].to_numpy() == pytest.approx(expected["v_pu"].to_numpy(), abs=1e-7)
    assert found["angle"].to_numpy() == pytest.approx(expected["angle_deg"].to_numpy(), abs=1e-6)


def test_case300_reproduces_the_solution_of_matpower() -> None:
    """With MATPOWER's set points, and without the one phase shift that MATPOWER's tables do not have."""
    network = load_network("case300")
    assert network.branches.set_index("branch")["shift_deg"].loc[lambda s: s != 0].to_dict() == {"196-2040": -11.4}
    network = network.replace(branches=network.branches.assign(shift_deg=0.0))
    expected = pd.read_csv(REFERENCE / "case300_solution.csv", dtype={"bus": str}).set_index("bus")
    net = network.to_pandapower()
    for bus, row in expected[expected["vg_pu"].notna()].iterrows():
        if bus != network.source_bus:
            pp.create_gen(net, network.bus_index[str(bus)], p_mw=row["pg_mw"], vm_pu=row["vg_pu"])
    expected = expected.loc[network.buses["bus"]]
    angle = (expected["va_deg"] - expected["va_deg"][network.source_bus]).to_numpy()
    pp.runpp(net, calculate_voltage_angles=True, numba=False,
             init_vm_pu=expected["vm_pu"].to_numpy(), init_va_degree=angle)  # fmt: skip
    assert net.res_bus["vm_pu"].to_numpy() == pytest.approx(expected["vm_pu"].to_numpy(), abs=1e-7)
    assert net.res_bus["va_degree"].to_numpy() == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("name", ["case33bw", "case30", "case57", "case118"])
def test_the_committed_cases_equal_pandapower(name: str) -> None:
    net = example_net(name)
    ours, theirs = load_network(name), from_pandapower(net)
    for table, key in (("buses", "bus"), ("branches", "branch"), ("loads", "load"), ("shunts", "bus")):
        columns = [column for column in getattr(ours, table) if column != key]
        pd.testing.assert_frame_equal(getattr(ours, table)[columns], getattr(theirs, table)[columns], rtol=1e-12)
    assert ours.source_bus == theirs.source_bus
    assert ours.source_v_pu == theirs.source_v_pu


@pytest.mark.parametrize("name", ["case33bw", "case30", "case57", "case118"])
def test_costs_of_the_committed_cases_are_those_of_pandapower(name: str) -> None:
    """At any dispatch the orders cost what pandapower's polynomials do."""
    net = example_net(name)
    orders = load_case(name).orders
    assert orders is not None
    offers = orders.select(~orders.is_bid)
    units = pd.concat([net.ext_grid.assign(et="ext_grid"), net.gen.assign(et="gen")])
    assert len(units) == len(offers)
    assert offers.width_kw == pytest.approx(1000 * units["max_p_mw"].to_numpy())
    output = 0.37 * units["max_p_mw"].to_numpy()
    table = net.poly_cost.set_index(["et", "element"])
    expected = [
        table.at[(kind, index), "cp1_eur_per_mw"] * p + table.at[(kind, index), "cp2_eur_per_mw2"] * p**2
        for kind, index, p in zip(units["et"], units.index, output, strict=True)
    ]
    assert offers.curves.value(1000 * output) == pytest.approx(np.array(expected), rel=1e-9)


def net_with_everything() -> Any:
    """A net with each element that is taken, some out of service."""
    net = pp.create_empty_network(name="all sorts", sn_mva=7.0)
    hv, mv, lv, far, dead = (pp.create_bus(net, kv, name=name) for name, kv in
                             [("hv", 110.0), ("mv", 20.0), (None, 0.4), ("far", 20.0), ("dead", 20.0)])  # fmt: skip
    side, end = pp.create_bus(net, 20.0, name="side"), pp.create_bus(net, 20.0, name="end")
    net.bus.loc[dead, "in_service"] = False
    pp.create_ext_grid(net, hv, vm_pu=1.02)
    pp.create_transformer_from_parameters(
        net, hv, mv, sn_mva=25, vn_hv_kv=112, vn_lv_kv=20.5, vkr_percent=0.5, vk_percent=11, pfe_kw=20, i0_percent=0.4,
        shift_degree=150, tap_side="hv", tap_neutral=0, tap_min=-9, tap_max=9, tap_step_percent=1.5, tap_pos=-3,
        tap_changer_type="Ratio", name="T1", max_loading_percent=80,
    )  # fmt: skip
    pp.create_transformer_from_parameters(
        net, mv, lv, sn_mva=0.63, vn_hv_kv=20, vn_lv_kv=0.4, vkr_percent=1.2, vk_percent=6, pfe_kw=1.2, i0_percent=0.3,
        shift_degree=0, tap_side="lv", tap_neutral=0, tap_min=-2, tap_max=2, tap_step_percent=2.5, tap_step_degree=60,
        tap_pos=2, tap_changer_type="Symmetrical", parallel=2,
    )  # fmt: skip
    pp.create_transformer_from_parameters(
        net, side, end, sn_mva=5, vn_hv_kv=20, vn_lv_kv=20, vkr_percent=0.3, vk_percent=4, pfe_kw=0, i0_percent=0,
        shift_degree=0, tap_side="hv", tap_neutral=0, tap_min=-9, tap_max=9, tap_step_degree=1.0, tap_pos=2,
        tap_changer_type="Ideal", name="shifter",
    )  # fmt: skip
    for a, b, name in [(mv, far, "L"), (mv, far, "L"), (far, side, None), (far, dead, "to dead")]:
        pp.create_line_from_parameters(net, a, b, length_km=4.0, r_ohm_per_km=0.2, x_ohm_per_km=0.3, c_nf_per_km=200,
                                       g_us_per_km=3, max_i_ka=0.3, df=0.9, parallel=2, name=name)  # fmt: skip
    pp.create_line_from_parameters(net, far, end, 2.0, 0.2, 0.3, 10, 99999, name="tie")
    pp.create_switch(net, far, int(net.line.index[-1]), et="l", closed=False)
    pp.create_impedance(net, mv, end, rft_pu=0.01, xft_pu=0.05, sn_mva=10, name="coil")
    pp.create_switch(net, mv, side, et="b", closed=False, name="coupler")
    pp.create_load(net, far, p_mw=2, q_mvar=0.5, scaling=0.8, name="L")
    pp.create_load(net, lv, p_mw=0.3, q_mvar=0.1, const_z_p_percent=40, const_z_q_percent=40)
    pp.create_load(net, dead, p_mw=9)
    pp.create_load(net, far, p_mw=9, in_service=False)
    pp.create_sgen(net, end, p_mw=1.5, q_mvar=0.2, name="pv")
    pp.create_storage(net, far, p_mw=0.4, max_e_mwh=1)
    pp.create_shunt(net, side, q_mvar=-0.5, p_mw=0.01, vn_kv=21, step=2)
    pp.create_ward(net, far, ps_mw=0.1, qs_mvar=0.02, pz_mw=0.05, qz_mvar=-0.3)
    return net


def test_everything_that_is_taken_keeps_the_power_flow() -> None:
    net = net_with_everything()
    network = from_pandapower(net)
    theirs = power_flow(net)
    ours = power_flow(network.to_pandapower())
    theirs.index = [name or "2" for name in theirs.index]
    assert ours["v"].to_numpy() == pytest.approx(theirs.loc[ours.index, "v"].to_numpy(), abs=1e-8)
    assert ours["angle"].to_numpy() == pytest.approx(theirs.loc[ours.index, "angle"].to_numpy(), abs=1e-6)


def test_names_ratings_and_switches() -> None:
    network = from_pandapower(net_with_everything())
    assert network.name == "all sorts"
    assert list(network.buses["bus"]) == ["hv", "mv", "2", "far", "side", "end"]
    branches = network.branches.set_index("branch")
    assert list(branches.index) == ["L", "L#2", "line_2", "tie", "T1", "trafo_1", "shifter", "coil", "coupler"]
    assert branches.loc["L", "rating_kva"] == pytest.approx(np.sqrt(3) * 20 * 300 * 0.9 * 2)
    assert branches.loc["T1", "rating_kva"] == pytest.approx(20_000)
    assert branches.loc["trafo_1", "rating_kva"] == pytest.approx(1260)
    assert np.isinf(branches.loc[["tie", "coil", "coupler"], "rating_kva"]).all()
    assert list(branches.index[~branches["in_service"]]) == ["tie", "coupler"]
    assert branches.loc["coupler", "kind"] == "switch"
    loads = network.loads.set_index("load")["p_kw"]
    assert loads.to_dict() == {"L": 1600, "load_1": pytest.approx(180), "pv": -1500, "storage_0": 400, "ward_0": 100}


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), chords=st.integers(0, 3))
def test_there_and_back(seed: int, chords: int, make_network: MakeNetwork) -> None:
    base = make_network(seed, 7, chords=chords)
    rng = np.random.default_rng(seed)
    m = len(base.branches)
    some = rng.random(m) < 0.5
    network = base.replace(
        branches=base.branches.assign(
            rating_kva=np.where(some, rng.uniform(100, 1000, m), np.inf),
            b_us=rng.uniform(-100, 200, m) * ~some,
            ratio=np.where(some, rng.uniform(0.9, 1.1, m), 1.0),
            shift_deg=np.where(some, rng.uniform(-20, 20, m), 0.0),
            x_ohm=base.branches["x_ohm"] * np.where(rng.random(m) < 0.3, -1, 1),
            length_km=rng.uniform(0.1, 5, m),
            kind=np.where(some, "transformer", "line"),
        ),
        shunts=pd.DataFrame({"bus": ["n2", "n3"], "g_kw": [1.0, 0.0], "b_kvar": [-5.0, 40.0]}),
        source_v_pu=1.03,
    )
    again = from_pandapower(network.to_pandapower())
    left, right = (n.branches.set_index("branch").sort_index() for n in (network, again))
    columns = ["from_bus", "to_bus", "r_ohm", "x_ohm", "b_us", "ratio", "shift_deg", "rating_kva", "kind", "in_service"]
    pd.testing.assert_frame_equal(left[columns], right[columns], rtol=1e-9)
    pd.testing.assert_frame_equal(network.buses, again.buses)
    pd.testing.assert_frame_equal(network.loads, again.loads)
    pd.testing.assert_frame_equal(network.shunts, again.shunts)
    assert (again.source_bus, again.source_v_pu, again.name) == (network.source_bus, 1.03, network.name)


@pytest.mark.parametrize("name", ["ieee13", "ieee34", "ieee123", "case33bw", "case57", "case118", "ieee37_aggregators"])
def test_named_cases_there_and_back(name: str) -> None:
    """Regulators, charging, shunts and switches included; what has no reactance comes back with the least there is."""
    network = load_network(name)
    again = from_pandapower(network.to_pandapower())
    left, right = (n.branches.set_index("branch").sort_index() for n in (network, again))
    columns = ["from_bus", "to_bus", "r_ohm", "b_us", "ratio", "shift_deg", "rating_kva", "in_service"]
    pd.testing.assert_frame_equal(left[columns], right[columns], rtol=1e-9)
    kv = network.buses.set_index("bus")["base_kv"].loc[left["from_bus"]].to_numpy()
    least = np.maximum(1e-7 * kv**2, 1e-6 * left["r_ohm"]) * (left["x_ohm"] == 0)
    ideal = ((left["r_ohm"] == 0) & (left["kind"] != "transformer")).to_numpy()
    assert right["x_ohm"].to_numpy() == pytest.approx(left["x_ohm"].to_numpy() + np.where(ideal, 0.0, least), rel=1e-9)
    for table in ("buses", "loads", "shunts"):
        pd.testing.assert_frame_equal(getattr(network, table), getattr(again, table), rtol=1e-9)


def test_dispatchable_units_are_offers_and_no_load() -> None:
    net = example_net("case30")
    pp.create_sgen(net, 3, p_mw=5, q_mvar=1, controllable=True, min_p_mw=1, max_p_mw=8, name="wind")
    pp.create_pwl_cost(net, int(net.sgen.index[0]), "sgen", [[0, 4, 10], [4, 8, 30]])
    network = from_pandapower(net)
    assert "wind" not in set(network.loads["load"])
    offers, account = offers_from_pandapower(net, network)
    row = offers.orders.set_index("order").loc["wind"]
    assert (row["bus"], row["side"], row["minimum_kw"]) == ("4", "offer", 1000)
    wind = offers.segments[offers.segments["order"] == "wind"]
    assert wind["width_kw"].to_list() == [1000, 3000, 4000]
    assert wind["price_start"].to_list() == pytest.approx([0.01, 0.01, 0.03])
    assert account["fixed_cost_per_h"] == pytest.approx(0.0)


def test_a_net_on_disk(tmp_path: Path) -> None:
    net = example_net("case30")
    pp.to_json(net, tmp_path / "grid.json")
    network = load_network(tmp_path / "grid.json")
    assert (network.name, network.n_buses) == ("grid", 30)
    case = load_case(tmp_path / "grid.json")
    assert case.orders is not None
    assert int(case.orders.firm.sum()) == 20
    assert "offers from its costs" in case.meta["defaults"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "cannot be read as JSON"), ("{", "cannot be read as JSON"), ('{"a": 1}', "holds no pandapower net")],
)
def test_a_file_that_is_no_net(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_network(tmp_path / "grid.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_network(tmp_path / "grid.json")


def test_three_winding_transformers_are_refused() -> None:
    net = example_net("example_multivoltage")
    with pytest.raises(DataError, match=r"pandapower.trafo3w': 1 element\(s\) that mktopt cannot take.*star bus"):
        from_pandapower(net)


def test_a_net_without_source_is_refused() -> None:
    net = example_net("case30")
    net.ext_grid["in_service"] = False
    with pytest.raises(DataError, match="no source in service"):
        from_pandapower(net)


def test_a_slack_generator_is_a_source() -> None:
    net = example_net("case30")
    net.ext_grid["in_service"] = False
    net.gen.loc[1, "slack"] = True
    assert from_pandapower(net).source_bus == str(net.bus["name"][net.gen["bus"][1]])


def test_an_unsupplied_part_is_named() -> None:
    net = example_net("case33bw")
    net.line.loc[31, "in_service"] = False
    with pytest.raises(DataError, match="1 of 33 buses have no path to the source bus '0'"):
        from_pandapower(net)


def test_constant_current_is_said() -> None:
    net = example_net("case33bw")
    net.load.loc[0, "const_i_p_percent"] = 50.0
    with pytest.warns(NetworkWarning, match="1 loads are partly of constant current"):
        from_pandapower(net)


def test_ordinary_nets_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NetworkWarning)
        for name in ("case9", "case14", "case39", "create_cigre_network_lv"):
            network = from_pandapower(example_net(name))
            assert network.n_branches >= network.n_buses - 1
