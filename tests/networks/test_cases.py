"""Named cases: the figures of the published networks, and default markets that fit them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mktopt.errors import DataError, UnknownNameError
from mktopt.networks.cases import DATA, case_names, load_case, load_network

# name: buses, branches in service, loads, load buses, kW, kvar, capacitor kvar, source
FEEDERS = {
    "ieee13": (16, 15, 15, 9, 3466.0, 2102.0, 700.0, "sourcebus"),
    "ieee34": (37, 36, 68, 28, 1769.0, 1044.0, 750.0, "sourcebus"),
    "ieee37": (39, 38, 30, 25, 2457.0, 1201.0, 0.0, "sourcebus"),
    "ieee123": (130, 129, 91, 85, 3490.0, 1920.0, 750.0, "150"),
    "eulv": (907, 906, 55, 55, 55.0, 18.08, 0.0, "sourcebus"),
    "ieee8500": (4876, 4875, 1177, 1177, 10773.17, 2700.01, 3900.0, "sourcebus"),
    "case33bw": (33, 32, 32, 32, 3715.0, 2300.0, 0.0, "0"),
}
# name: buses, branches, loads, generators, MW
MESHED = {
    "case30": (30, 41, 20, 6, 189.2),
    "case57": (57, 80, 42, 7, 1250.8),
    "case118": (118, 186, 99, 54, 4242.0),
    "case300": (300, 411, 201, 69, 23525.85),
}
# Less by the switch of ieee13 and the eight of ieee123, and by the jumper of ieee37 that its regulator swallows.
LINES = {"ieee13": 12 - 1, "ieee34": 32, "ieee37": 36 - 1, "ieee123": 126 - 8, "eulv": 905}
COMMITTED = [name for name in case_names() if ":" not in name]


@pytest.mark.parametrize("name", FEEDERS)
def test_feeders_have_their_published_size(name: str) -> None:
    buses, branches, loads, load_buses, kw, kvar, capacitors, source = FEEDERS[name]
    network = load_network(name)
    assert (network.n_buses, network.n_branches, len(network.loads)) == (buses, branches, loads)
    assert network.loads["bus"].nunique() == load_buses
    assert network.loads["p_kw"].sum() == pytest.approx(kw, abs=0.005)
    assert network.loads["q_kvar"].sum() == pytest.approx(kvar, abs=0.005)
    banks = network.shunts[network.shunts["b_kvar"] > 0]["b_kvar"].sum()
    assert banks == pytest.approx(capacitors, abs=0.2 + 0.002 * capacitors)
    assert network.source_bus == source
    assert network.topology.is_radial


@pytest.mark.parametrize("name", LINES)
def test_feeders_have_their_lines(name: str) -> None:
    lines = load_network(name).lines
    assert (lines["kind"] == "line").sum() == LINES[name]
    assert lines["length_km"].notna().sum() >= LINES[name]


@pytest.mark.parametrize("name", MESHED)
def test_transmission_cases_have_their_published_size(name: str) -> None:
    buses, branches, loads, generators, mw = MESHED[name]
    network, orders, _, _ = load_case(name)
    assert (network.n_buses, network.n_branches, len(network.loads)) == (buses, branches, loads)
    assert network.loads["p_kw"].sum() == pytest.approx(1000 * mw)
    assert orders is not None
    gens = orders.orders["order"].str.startswith("gen_")
    assert gens.sum() == generators
    assert not orders.is_bid[gens].any()
    load = ~gens.to_numpy()
    signed = -orders.injection_sign[load] * orders.width_kw[load]
    assert signed.sum() == pytest.approx(1000 * mw)
    assert orders.firm[load & (orders.width_kw > 0)].all()
    bids = orders.segments[(orders.is_bid & load)[orders.segment_order]]
    assert set(bids["price_start"]) == {10.0}


def test_case300_keeps_what_is_odd_about_it() -> None:
    network = load_network("case300")
    assert (network.branches["x_ohm"] < 0).sum() == 1
    assert np.isfinite(network.branches["rating_kva"]).all()
    assert set(network.branches["angle_max_deg"]) == {30.0}
    assert network.loads["p_kw"].lt(0).sum() == 8
    assert network.loads[network.loads["p_kw"] != 0]["bus"].nunique() == 199
    assert network.loads["q_kvar"].sum() == pytest.approx(7787970)
    assert network.source_v_pu == 1.0507


@pytest.mark.parametrize(("name", "ratios"), [
    ("ieee13", [1.05]), ("ieee34", [1.04791667, 1.08125]), ("ieee37", [1.09375]),
])  # fmt: skip
def test_regulator_ratios_survive(name: str, ratios: list[float]) -> None:
    branches = load_network(name).branches
    assert branches.loc[branches["ratio"] != 1, "ratio"].to_list() == ratios
    assert set(branches.loc[branches["ratio"] != 1, "kind"]) == {"transformer"}


def test_tie_switches_of_ieee123_are_open() -> None:
    branches = load_network("ieee123").branches
    assert branches.loc[~branches["in_service"], "branch"].to_list() == ["151-300", "54-94"]


def test_ieee8500_holds_its_set_points() -> None:
    """A power flow of the reduction: regulated buses within one tap step, voltages and losses plausible."""
    pp = pytest.importorskip("pandapower")
    network = load_network("ieee8500")
    net = network.to_pandapower()
    pp.runpp(net, init_vm_pu=network.topology.no_load_v_pu, init_va_degree="dc", numba=False)
    volts = dict(zip(net.bus["name"], net.res_bus["vm_pu"], strict=True))
    for bus, held in {"_hvmv_sub_lsb": 126.5, "190-8593": 125, "190-8581": 125, "190-7361": 125}.items():
        assert volts[bus] == pytest.approx(held * 60 / 7200, abs=1 / 160)
    assert min(volts.values()) > 0.9
    assert 0.05 < net.res_ext_grid["p_mw"][0] / 10.773 - 1 < 0.15


@pytest.mark.parametrize("name", ["ieee13", "ieee34", "ieee37", "ieee123", "eulv", "ieee8500"])
def test_default_orders_of_a_feeder(name: str) -> None:
    network, orders, prosumers, meta = load_case(name)
    assert orders is not None
    assert prosumers is None
    bids, offers = orders.orders[orders.is_bid], orders.orders[~orders.is_bid]
    assert bids["order"].to_list() == bids["participant"].to_list() == network.loads["load"].to_list()
    assert orders.width_kw[orders.is_bid] == pytest.approx(network.loads["p_kw"].to_numpy())
    q = bids["tan_phi"].to_numpy() * orders.width_kw[orders.is_bid]
    assert q == pytest.approx(network.loads["q_kvar"].to_numpy())
    assert offers[["order", "bus"]].to_numpy().tolist() == [["source", network.source_bus]]
    assert orders.width_kw[~orders.is_bid] == pytest.approx([2 * network.loads["p_kw"].sum()])
    assert orders.segments["price_start"].to_list() == [1.0] * len(bids) + [0.05]
    assert not orders.firm.any()
    assert "1.00 $/kWh" in meta["defaults"]
    assert "0.05 $/kWh" in meta["defaults"]


@pytest.mark.parametrize("name", [*COMMITTED, "synthetic:radial:40:2", "synthetic:radial:40"])
def test_every_case_fits_its_orders_and_says_where_it_is_from(name: str) -> None:
    network, orders, prosumers, meta = load_case(name)
    assert {"name", "source", "licence", "defaults"} <= set(meta)
    assert (orders is None) == (name == "ieee37_aggregators")
    if orders is not None:
        orders.check(network)
    if prosumers is not None:
        prosumers.check(network)
    assert load_network(name).n_buses == network.n_buses


def test_sources_and_licences_stand_beside_the_data() -> None:
    text = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    for name in COMMITTED:
        assert name in text
        assert {"network.toml", "buses.csv", "branches.csv"} <= {file.name for file in (DATA / name).iterdir()}
    assert {folder.name for folder in DATA.iterdir() if folder.is_dir()} == set(COMMITTED)
    licence = (DATA / "LICENSE.electricdss-tst.txt").read_text(encoding="utf-8")
    assert "Electric Power Research Institute" in licence
    assert "Redistribution and use in source and binary forms" in licence


def test_the_eight_nodes() -> None:
    network, orders, _, _ = load_case("eight_node")
    private = network.branches[network.branches["kind"] == "private"]
    ends = private[["from_bus", "to_bus"]].to_numpy().tolist()
    assert ends == [["A1", "A2"], ["A2", "A3"], ["A4", "A5"]]
    assert private["owner"].to_list() == ["A1+A2", "A2+A3", "A4+A5"]
    assert orders is not None
    assert set(orders.orders.loc[orders.firm, "order"]) == {"A1", "A2", "A3", "A4", "A5", "A7"}
    # The public grid alone reaches everyone.
    public = network.replace(branches=network.branches[network.branches["kind"] != "private"])
    assert public.n_branches == 8


def test_the_aggregators() -> None:
    network, orders, prosumers, meta = load_case("ieee37_aggregators")
    assert orders is None
    assert prosumers is not None
    assert len(prosumers) == 483
    assert prosumers.table["aggregator"].nunique() == 17
    assert (prosumers.generation_kw == 0).sum() == 303
    assert (prosumers.table["bus"] == prosumers.table["aggregator"]).all()
    assert meta["c0"] == prosumers.meta["c0"] == {"I": 0.06, "II": 0.10, "III": 0.14, "IV": 0.18}
    assert meta["stressed"] == {"713-704": 330, "703-730": 460, "734-737": 190}
    derated = load_network("ieee37_aggregators:stressed")
    assert derated.name == "ieee37_aggregators:stressed"
    lower = derated.branches["rating_kva"] < network.branches["rating_kva"]
    assert set(derated.branches["branch"][lower]) == set(meta["stressed"])
    # The first agent of the published table takes x_ref = 12.823 kW at the reference price of 0.10 $/kWh.
    assert prosumers.table["agent"][0] == "701_001"
    assert prosumers.demand_at(0.10)[0] == pytest.approx(12.823, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ieee_34", "unknown case 'ieee_34'; did you mean 'ieee34'"),
        ("case117", "unknown case 'case117'; did you mean 'case118'"),
        ("synthetic:radail:10", "unknown synthetic shape 'radail'; did you mean 'radial'"),
    ],
)
def test_unknown_names_say_the_nearest(name: str, message: str) -> None:
    for load in (load_case, load_network):
        with pytest.raises(UnknownNameError, match=message):
            load(name)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        ":radial",
        ":radial:ten",
        ":radial:10:x",
        ":radial:-5",
        ":radial:10:1:2",
        ":radial:N:seed",
    ],
)
def test_synthetic_names_say_their_form(rest: str) -> None:
    hint = "write synthetic:radial:N:seed, for example synthetic:radial:1000:0"
    with pytest.raises(DataError, match=re.escape(hint)):
        load_case(f"synthetic{rest}")


def test_paths_of_all_kinds(tmp_path: Path) -> None:
    load_network("ieee13").to_csv(tmp_path / "mine")
    assert load_network(str(tmp_path / "mine")).n_buses == 16
    case = load_case(tmp_path / "mine")
    assert case.meta["name"] == "ieee13"
    assert case.orders is not None
    assert len(case.orders) == 16
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt': not a network file \(give a folder with network.toml"):
        load_network(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such folder"):
        load_case("./nowhere")
