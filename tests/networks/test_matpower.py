"""MATPOWER files: what is read, what it means in ohm and kW, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.errors import DataError
from mktopt.networks import units
from mktopt.networks.cases import load_case, load_network
from mktopt.networks.matpower import parse_case, to_network, to_orders

CASE = """
function mpc = tiny
% a comment with mpc.bus = [ 1 2 3 ];
mpc.version = '2';   %% the version
mpc.baseMVA = 50;
mpc.bus_name = {'Aa % b'; 'x''y'};
mpc.bus = [
\t1  3  0   0   0 0 1 1.0 0 110 1 1.1 0.9;   % source
\t2, 1, 90, 30, 1 19, 1, 1.0, 0, 20, 1, 1.05, 0.95
\t30 2  -10 0   0 0 1 1.0 0 20  1 1.1 0.9 ; 4 4 50 0 0 0 1 1 0 20 1 1.1 0.9
];
mpc.gen = [
  1  80 0 100 -100 1.03 100 1 200 10 0 0 0 0 0 0 0 0 0 0 0;
  30 10 0 Inf -Inf 1.0 100 1 40 0 0 0 0 0 0 0 0 0 0 0 0;
  30 10 0 5 -5 1.0 100 0 40 0 0 0 0 0 0 0 0 0 0 0 0;
  2  0 0 0 0 1.0 100 1 0 -20 0 0 0 0 0 0 0 0 0 0 0;
];
mpc.branch = [
  1 2  0.01 0.1 0.02 150 0 0 0.95 30 1 -360 360;
  1 2  0.01 0.1 0.02 0   0 0 0.95 0  1 0 0;
  2 30 0.02 ...  continued
       0.2 0.04 0 0 0 0 0 1 -30 25;
  1 30 0.02 0.2 0.04 0 0 0 0 0 0 -360 360;
  2 4  0.02 0.2 0.04 0 0 0 0 0 1 -360 360
];
mpc.gencost = [
  2 100 0 3 0.05 20 7;
  1 0 0 3 0 0 20 500 40 1500;
  2 0 0 2 1 0 0;
  2 0 0 2 60 0 0;
];
"""


def test_network_of_a_hand_written_case(tmp_path: Path) -> None:
    (tmp_path / "other_name.m").write_text(CASE)
    network = load_network(tmp_path / "other_name.m")
    assert network.name == "tiny"
    assert list(network.buses["bus"]) == ["1", "2", "30"]
    assert network.buses["v_max_pu"].to_list() == [1.1, 1.05, 1.1]
    assert (network.source_bus, network.source_v_pu) == ("1", 1.03)
    branches = network.branches.set_index("branch")
    assert list(branches.index) == ["1-2", "1-2#2", "2-30", "1-30"]
    first = branches.loc["1-2"]
    base = 110**2 / 50
    assert first["r_ohm"] == pytest.approx(0.01 * base * 0.95**2)
    assert first["x_ohm"] == pytest.approx(0.1 * base * 0.95**2)
    assert first["b_us"] == pytest.approx(0.02 / base / 0.95**2 * 1e6)
    assert (first["ratio"], first["shift_deg"], first["rating_kva"]) == (1 / 0.95, 30, 150_000)
    assert branches["rating_kva"].to_list() == [150_000, np.inf, np.inf, np.inf]
    assert branches["in_service"].to_list() == [True, True, True, False]
    assert branches["kind"].to_list() == ["transformer", "transformer", "line", "transformer"]
    assert branches["angle_min_deg"].to_list() == [-360, -360, -30, -360]
    assert branches["angle_max_deg"].to_list() == [360, 360, 25, 360]
    assert network.loads["p_kw"].to_list() == [90_000, -10_000]
    assert network.shunts.to_dict("list") == {"bus": ["2"], "g_kw": [1000], "b_kvar": [19_000]}


def test_orders_of_a_hand_written_case(tmp_path: Path) -> None:
    (tmp_path / "tiny.m").write_text(CASE)
    case = load_case(tmp_path / "tiny.m")
    orders = case.orders
    assert orders is not None
    table = orders.orders.set_index("order")
    assert list(table.index) == ["gen_1", "gen_30", "gen_2", "load_2", "load_30"]
    assert table["side"].to_list() == ["offer", "offer", "bid", "bid", "offer"]
    assert table["minimum_kw"].to_list() == [10_000, 0, 0, 90_000, 10_000]
    assert orders.width_kw.tolist() == [200_000, 40_000, 20_000, 90_000, 10_000]
    assert orders.firm.tolist() == [False, False, False, True, True]
    assert table.loc["load_2", "tan_phi"] == pytest.approx(1 / 3)
    assert table.loc["gen_1", ["q_min_kvar", "q_max_kvar"]].to_list() == [-100_000, 100_000]
    assert np.isnan(table.loc["gen_30", "q_max_kvar"])
    # C(P) = 0.05 P^2 + 20 P + 7: what must run is priced at its mean, (C(10) - C(0)) / 10 = 20.5 $/MWh,
    # the rest from C'(10) = 21 to C'(200) = 40.
    first = orders.segments[orders.segments["order"] == "gen_1"]
    assert first["width_kw"].to_list() == [10_000, 190_000]
    assert first["price_start"].to_list() == pytest.approx([0.0205, 0.021])
    assert first["price_end"].to_list() == pytest.approx([0.0205, 0.040])
    assert orders.segments.set_index("order").loc["gen_30", "price_start"].to_list() == pytest.approx([0.025, 0.05])
    assert orders.segments.set_index("order").loc["gen_2", "price_start"] == pytest.approx(0.06)
    assert orders.segments.set_index("order").loc["load_2", "price_start"] == 10
    # Account: at 100 MW and 30 MW, consuming 5 MW, the costs of the file are these.
    wanted = 0.05 * 100**2 + 20 * 100 + 7 + 1000 + 60 * -5
    value = orders.curves.value(np.array([100_000, 30_000, 5_000, 0, 0]))
    assert value[0] + value[1] - value[2] + case.meta["fixed_cost_per_h"] == pytest.approx(wanted)


def test_a_case_without_costs_gets_feeder_orders(tmp_path: Path) -> None:
    (tmp_path / "tiny.m").write_text(CASE.split("mpc.gencost")[0])
    case = load_case(tmp_path / "tiny.m")
    assert case.orders is not None
    assert list(case.orders.orders["order"]) == ["load_2", "load_30", "source"]
    assert "no costs in the file" in case.meta["defaults"]
    data = parse_case((tmp_path / "tiny.m").read_text())
    with pytest.raises(DataError, match="the case has no generation costs"):
        to_orders(data, to_network(data))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mpc.version = '2'", "mpc.version = '1'", r"column 'mpc.version', value '1': not a MATPOWER case"),
        ("mpc.version = '2';", "", "not a MATPOWER case of version 2"),
        ("mpc.baseMVA = 50;", "", "column 'mpc.baseMVA': the value is missing"),
        ("mpc.baseMVA = 50;", "mpc.baseMVA = 5*10;", r"value '5\*10': not a number"),
        ("mpc.branch = [", "mpc.brunch = [", "column 'mpc.branch': the table is missing"),
        ("0.01 0.1 0.02 150", "0.01 0.1 1/50 150", r"row 'row 1', column 'mpc.branch', value '1/50': not a number"),
        ("0.95 30 1 -360 360;", "0.95 30 1;", r"row 'row 2 of mpc.branch'.*13 cells where the first row has 11"),
        ("mpc.gencost", "mpc.branch(:, 3) = mpc.branch(:, 3) / 2;\nmpc.gencost", r"computes on its tables.*savecase"),
        ("1  3  0", "1  2  0", "0 reference buses"),
        ("30 2  -10", "30 3  -10", "2 reference buses"),
        ("  1 2  0.01", "  1 9  0.01", r"row '1-9', column 'to_bus', value '9': no such name"),
        ("  2 100 0 3 0.05 20 7;", "", "3 rows for 4 generators"),
        ("0.05 20 7", "-0.05 20 7", r"row 'gen_1', column 'cost'.*the marginal cost falls with the output"),
        ("0 0 20 500 40 1500", "0 0 20 900 40 1500", r"row 'gen_30'.*the marginal cost falls"),
        ("0 0 20 500 40 1500", "0 0 20 500 20 1500", r"needs at least two points of rising output"),
        ("1 200 10", "1 200 300", r"row 'gen_1', column 'p_min_mw', value 300.0: p_min is above p_max"),
        ("2 100 0 3 0.05", "5 100 0 3 0.05", r"column 'MODEL', value 5.0: unknown cost model \(1 or 2\)"),
        ("1 0 0 3 0 0 20", "1 0 0 9 0 0 20", r"row 'gen_30', column 'NCOST': 18 cost numbers announced"),
    ],
)
def test_faults_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in CASE
    (tmp_path / "tiny.m").write_text(CASE.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_case(tmp_path / "tiny.m")


@pytest.mark.parametrize("content", [b"", b"% nothing\n", b"hello"])
def test_a_file_that_is_no_case(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny.m").write_bytes(content)
    with pytest.raises(DataError, match=r"the file is empty|not a MATPOWER case of version 2"):
        load_network(tmp_path / "tiny.m")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*tiny.m"):
        load_network(tmp_path / "tiny.m")


def test_latin_1_in_a_comment_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "tiny.m").write_bytes(("% Kraftwerk Süd\n" + CASE).encode("latin-1"))
    assert load_network(tmp_path / "tiny.m").n_buses == 3


def test_a_base_voltage_of_zero_keeps_the_per_unit_values() -> None:
    network = to_network(parse_case(CASE.replace("1.0 0 110 1", "1.0 0 0 1")))
    assert network.buses["base_kv"].to_list() == [1, 20, 20]
    assert units.reactance_pu_per_kvar(network)[0] == pytest.approx(0.1 * 0.95**2 / 50_000)


@given(
    r=st.floats(0, 0.5), x=st.floats(-1, 1), b=st.floats(-1, 1), tap=st.floats(0.8, 1.2),
    shift=st.floats(-60, 60), v=st.complex_numbers(min_magnitude=0.9, max_magnitude=1.1),
    w=st.complex_numbers(min_magnitude=0.9, max_magnitude=1.1),
)  # fmt: skip
def test_a_branch_carries_what_matpowers_does(
    r: float, x: float, b: float, tap: float, shift: float, v: complex, w: complex
) -> None:
    """Currents at both ends for any two voltages, MATPOWER's branch matrix against the definition of ours."""
    z = complex(r, x)
    if abs(z) < 1e-3:
        return
    row = f"1 2 {r!r} {x!r} {b!r} 0 0 0 {tap!r} {shift!r} 1 -360 360;"
    text = CASE.replace("1 2  0.01 0.1 0.02 150 0 0 0.95 30 1 -360 360;", row)
    network = to_network(parse_case(text))
    complex_tap = tap * np.exp(1j * np.deg2rad(shift))
    y = 1 / z
    theirs_from = (y + 0.5j * b) / tap**2 * v - y / np.conj(complex_tap) * w
    theirs_to = -y / complex_tap * v + (y + 0.5j * b) * w
    line = network.lines.iloc[0]
    per_unit = 50_000.0  # from 1 kVA to the 50 MVA of the case
    our_z = complex(units.resistance_pu_per_kw(network)[0], units.reactance_pu_per_kvar(network)[0]) * per_unit
    our_b = units.charging_kvar(network)[0] / per_unit
    ratio = line["ratio"] * np.exp(-1j * np.deg2rad(line["shift_deg"]))
    inner = w / ratio
    through = (v - inner) / our_z
    assert through + 0.5j * our_b * v == pytest.approx(theirs_from, rel=1e-9, abs=1e-9)
    assert (-through + 0.5j * our_b * inner) / np.conj(ratio) == pytest.approx(theirs_to, rel=1e-9, abs=1e-9)
