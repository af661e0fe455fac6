"""`mktopt check`: every fault of a file is named, not only the first, and a good file has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mktopt import cli
from mktopt.checking import Finding, check
from mktopt.networks.cases import case_names, load_network

VILLAGE = Path(__file__).resolve().parents[1] / "examples" / "village"


@pytest.fixture
def village(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VILLAGE, tmp_path / "village"))


def messages(findings: list[Finding]) -> list[str]:
    return [str(fault) for finding in findings for fault in finding.faults]


def command(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["check", *map(str, words)])
    return result.exit_code, result.stdout


@pytest.mark.parametrize(
    "target", [VILLAGE, VILLAGE / "scenario.toml", VILLAGE / "network.toml", VILLAGE / "loads.csv"]
)
def test_the_example_is_without_fault(target: Path) -> None:
    code, out = command(target)
    assert code == 0
    assert "network 'village': 6 buses, 5 branches in service (radial), 4 loads, 4 period(s)" in out
    assert "28 bids and 14 offers, checked against network 'village'" in out


@pytest.mark.parametrize("name", [name for name in case_names() if ":" not in name])
def test_every_named_case_is_without_fault(name: str) -> None:
    (finding,) = check(name)
    assert finding.faults == []
    assert finding.what.startswith("network '")


BAD_ORDERS = """order,bus,side,width_kw,price,period
unknown_bus,frm,bid,1,1,0
wrong_side,farm,buy,1,1,0
negative,farm,bid,-1,1,0
endless_price,farm,bid,1,inf,0
nan_price,farm,bid,1,nan,0
text_price,farm,bid,1,ten,0
late,farm,bid,1,1,9
rising,farm,bid,1,1,0
rising,farm,bid,1,2,0
falling,farm,offer,1,2,0
falling,farm,offer,1,1,0
two_places,farm,bid,1,1,0
two_places,mill,bid,1,1,0
twice_wrong,scholl,offer,x,1,0
,farm,bid,1,1,0
fine,farm,bid,1,1,0
"""


def test_every_fault_of_orders_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(BAD_ORDERS, encoding="utf-8")
    found = messages(check(str(path), load_network(VILLAGE)))
    expected = [
        "line 16", "'wrong_side', column 'side', value 'buy'", "'negative', column 'width_kw', value '-1': below 0",
        "'endless_price', column 'price', value 'inf'", "'nan_price', column 'price', value 'nan'",
        "'text_price', column 'price', value 'ten': not a number", "'twice_wrong', column 'width_kw', value 'x'",
        "'twice_wrong', column 'bus', value 'scholl': no such name in table 'buses' (did you mean 'school'?)",
        "'two_places': rows of one order disagree", "rising bid", "falling offer",
        "'unknown_bus', column 'bus', value 'frm'", "'late', column 'period', value 9: no such period",
    ]  # fmt: skip
    for part in expected:
        assert sum(part in message for message in found) == 1, part
    assert len(found) == len(expected)
    assert all(message.startswith("file 'mine.csv'") for message in found)
    assert not any("'fine'" in message for message in found)


def test_faults_of_curves_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(
        "order,bus,side,q_min_kw,q_max_kw,price_min,price_max\n"
        "a,farm,bid,5,4,1,2\nb,farm,bid,0,4,2,1\nc,farm,bid,0,4,1,2\nc,farm,bid,0,4,1,2\nd,farm,bid,0,x,1,2\n"
    )
    found = "\n".join(messages(check(str(path))))
    for part in (
        "'a', column 'q_max_kw'",
        "p_max < p_min",
        "the name stands twice",
        "'d', column 'q_max_kw', value 'x'",
    ):
        assert part in found
    assert found.count("\n") == 4, "two orders of one name are as much a pair of faults in both tables"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty"),
        (b"order,bus,side,width_kw,price\n", "no rows"),
        (b"order,bus\na,b\n", "column 'side': the column is missing"),
        (b"order,bus,side,width_kw,price\n\xff,farm,bid,1,1\n", "not UTF-8 text"),
        (b"order,bus,side,width_kw,price\na,farm\nb,farm,bid\n", "line 3"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text)
    code, out = command(path)
    assert code == 2
    assert said in out


def test_every_fault_of_a_network_is_named(village: Path) -> None:
    replaced = {
        "buses.csv": [("mill,0.4", "mill,-0.4"), ("farm,0.4,4", "farm,0.4,east")],
        "branches.csv": [("south,square,school,0.04", "south,square,schol,-0.04"), (",25,0.3,line", ",nan,0.3,lime")],
        "loads.csv": [("mill,mill,12", "mill,mill,inf"), ("farm,farm", "farm,nowhere")],
        "network.toml": [('"grid"', '"gird"')],
    }
    for file, changes in replaced.items():
        text = (village / file).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (village / file).write_text(text, encoding="utf-8")
    with (village / "buses.csv").open("a") as file:
        file.write("mill,0.4,1,1\n")
    found = messages(check(str(village / "network.toml"))[:1])
    expected = [
        "'buses.csv', row 'mill', column 'base_kv', value '-0.4'", "'farm', column 'x', value 'east'",
        "'buses.csv', row 'mill', column 'bus': the name stands twice", "'south', column 'r_ohm', value '-0.04'",
        "'south', column 'to_bus', value 'schol': no such name in table 'buses' (did you mean 'school'?)",
        "'track', column 'rating_kva', value 'nan'", "'track', column 'kind', value 'lime'",
        "'loads.csv', row 'mill', column 'p_kw', value 'inf'", "'loads.csv', row 'farm', column 'bus', value 'nowhere'",
        "'network.toml', key 'source_bus', value 'gird'",
    ]  # fmt: skip
    for part in expected:
        assert sum(part in message for message in found) == 1, part
    assert len(found) == len(expected), found


def test_missing_files_and_columns_of_a_network_are_all_named(village: Path) -> None:
    (village / "network.toml").unlink()
    (village / "buses.csv").write_text("")
    text = (village / "branches.csv").read_text().replace("r_ohm", "resistance")
    (village / "branches.csv").write_text(text)
    found = "\n".join(messages(check(str(village / "network.toml"))))
    assert "network.toml': the file is missing" in found
    assert "'buses.csv': the file is empty" in found
    assert "'branches.csv', column 'r_ohm': the column is missing" in found


def test_a_misspelt_column_is_recognised(village: Path) -> None:
    text = (village / "branches.csv").read_text().replace("rating_kva", "rating_kv")
    (village / "branches.csv").write_text(text)
    (message,) = messages(check(str(village)))
    assert "'rating_kv': unknown column (did you mean 'rating_kva'?)" in message


def test_an_island_is_named_beside_a_bad_number(village: Path) -> None:
    text = (village / "branches.csv").read_text().replace("track,mill,farm,0.09,0.024,25,0.3,line\n", "")
    (village / "branches.csv").write_text(text)
    text = (village / "loads.csv").read_text().replace("farm,farm,8", "farm,farm,eight")
    (village / "loads.csv").write_text(text)
    found = "\n".join(messages(check(str(village))))
    assert "value 'eight': not a number" in found
    assert "1 of 6 buses have no path to the source bus 'grid': farm" in found


def test_every_fault_of_a_scenario_and_its_files(village: Path) -> None:
    (village / "scenario.toml").write_text(
        'netwrk = "."\nmechanism = "surplu"\nflow = "dcc"\nsolver = "higs"\nseed = "x"\n'
    )
    (village / "orders.csv").write_text("order,bus,side,width_kw,price\na,frm,bid,1,1\n")
    code, out = command(village)
    assert code == 2
    for part in ("did you mean 'network'", "did you mean 'surplus'", "did you mean 'dc'", "did you mean 'highs'",
                 "key 'seed', value 'x'", "value 'frm'"):  # fmt: skip
        assert part in out, part
    assert "6 buses" in out, "the network itself is good"


def test_options_of_a_scenario_are_checked(village: Path) -> None:
    (village / "scenario.toml").write_text('[options]\npricng = "nodal"\n')
    (message,) = messages(check(str(village)))
    assert "did you mean 'pricing'" in message


def test_a_scenario_whose_network_is_missing_still_has_its_orders_read(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text('network = "nowhere/net"\n')
    (tmp_path / "orders.csv").write_text("order,bus,side,width_kw,price\na,b,bid,-1,1\n")
    found = "\n".join(messages(check(str(tmp_path))))
    assert "no such file or folder" in found
    assert "value '-1': below 0" in found


def test_orders_are_held_against_a_named_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("order,bus,side,width_kw,price\na,671,bid,1,1\nb,67l,bid,1,1\n")
    assert command(path)[0] == 0
    code, out = command(path, "--network", "ieee13")
    assert code == 2
    assert "row 'b', column 'bus', value '67l'" in out
    result = CliRunner().invoke(cli.app, ["check", str(path), "--network", "ieee31"])
    assert result.exit_code == 2
    assert "unknown case 'ieee31'" in result.stderr


def test_prosumers_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "prosumers.csv"
    path.write_text("agent,bus,utility,a,b\nx,671,log,1,1\ny,999,quadratic,1,1\n")
    (finding,) = check(str(path), load_network("ieee13"))
    assert "column 'bus', value '999'" in "\n".join(messages([finding]))
    assert check(str(path))[0].faults == []


def test_files_are_reported_one_by_one(tmp_path: Path) -> None:
    code, out = command(VILLAGE, tmp_path / "none.csv", "ieee31")
    assert code == 2
    assert out.count("1 fault ") == 2
    assert "no file" in out
    assert "unknown case 'ieee31'" in out


@pytest.mark.parametrize("name", ["bad.m", "bad.json"])
def test_other_networks_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no network")
    code, out = command(tmp_path / name)
    assert code == 2
    assert "1 fault" in out
    assert "Traceback" not in out


def test_loads_in_the_wrong_unit_are_suspected(village: Path) -> None:
    text = (village / "loads.csv").read_text().replace("farm,farm,8,", "farm,farm,8000,")
    (village / "loads.csv").write_text(text)
    code, out = command(village)
    assert code == 0, "a suspicion is no fault"
    assert out.count("warning: loads of 'village'") == 1
    assert "are the ratings in MVA, or the loads in W?" in out
