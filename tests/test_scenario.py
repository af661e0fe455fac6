"""Scenarios: a scenario.toml beside its CSV files, and the words that stand for one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mktopt.errors import DataError, MktoptError, UnknownNameError
from mktopt.networks.orders import Orders
from mktopt.scenario import KEYS, Scenario, find, read
from mktopt.words import parse_flow, parse_pairs, parse_value, parse_words

VILLAGE = Path(__file__).resolve().parents[1] / "examples" / "village"


def write(folder: Path, text: str) -> Path:
    """A scenario.toml in `folder`."""
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_loads_and_clears() -> None:
    plan = read(VILLAGE / "scenario.toml")
    market = plan.load()
    assert market.network.name == "village"
    assert len(market.participants) == 42
    clearing = plan.clear(market)
    assert clearing.certificate.ok()
    assert clearing.price("farm", 2) == pytest.approx(0.02)
    assert clearing.price("grid", 2) == pytest.approx(0.06)


@pytest.mark.parametrize("target", [VILLAGE, VILLAGE / "scenario.toml"])
def test_find_takes_the_file_or_its_folder(target: Path) -> None:
    assert find(str(target)).load().origin.endswith("orders.csv")


def test_find_takes_a_network_without_a_scenario(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(VILLAGE, tmp_path / "v"))
    (folder / "scenario.toml").unlink()
    for target in (folder, folder / "network.toml"):
        market = find(str(target)).load()
        assert len(market.participants) == 42, "the orders of the folder"
    (folder / "orders.csv").unlink()
    market = find(str(folder)).load()
    assert len(market.participants) == 4 * 5, "the defaults: four loads and the source, in four periods"
    assert "each load bids" in market.origin


def test_a_named_case_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(VILLAGE, tmp_path / "ieee13")
    monkeypatch.chdir(tmp_path)
    assert find("ieee13").load().network.name == "ieee13"
    assert find("./ieee13").load().network.name == "village"


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(VILLAGE, tmp_path / "grids" / "v")
    (tmp_path / "mine").mkdir()
    shutil.copy(VILLAGE / "orders.csv", tmp_path / "mine" / "today.csv")
    path = write(tmp_path / "mine", 'network = "../grids/v"\norders = "today.csv"\n')
    monkeypatch.chdir("/")
    assert read(path).load().origin == str(tmp_path / "mine" / "today.csv")


def test_orders_of_a_case_unless_some_lie_beside(tmp_path: Path) -> None:
    path = write(tmp_path, 'network = "ieee13"\n')
    assert "each load bids" in read(path).load().origin
    (tmp_path / "orders.csv").write_text("order,bus,side,width_kw,price\na,671,bid,1,1\n")
    assert len(read(path).load().participants) == 1


def test_every_key_is_heard(tmp_path: Path) -> None:
    text = """
network = "ieee13"
mechanism = "surplus"
solver = "clarabel"
hours = [0.5, 2.0]
seed = 7
flow = {name = "dc"}
[options]
pricing = "budget_balanced"
[solver_options]
max_iter = 77
"""
    plan = read(write(tmp_path, text))
    assert set(KEYS) - {"orders", "prosumers"} <= {key for key in KEYS if getattr(plan, key)}
    market = plan.load()
    np.testing.assert_array_equal(market.network.hours, [0.5, 2.0])
    assert isinstance(market.participants, Orders)
    assert sorted(set(market.participants.orders["period"])) == [0, 1], "default orders hold in every period"
    clearing = plan.clear(market)
    assert (clearing.flow, clearing.solver) == ("dc", "clarabel")
    assert clearing.options["pricing"] == "budget_balanced"
    assert clearing.solver_options == {"max_iter": 77}
    once = Scenario(network="ieee13")
    assert clearing.welfare == pytest.approx(2.5 * once.clear(once.load()).welfare)


def test_a_seed_makes_the_synthetic_network() -> None:
    named = Scenario(network="synthetic:radial:30:5").load().network
    seeded = Scenario(network="synthetic:radial:30", seed=5).load().network
    other = Scenario(network="synthetic:radial:30", seed=6).load().network
    assert named.branches.equals(seeded.branches)
    assert not named.branches.equals(other.branches)


def test_every_fault_of_the_keys_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'netwrk = "ieee13"\norders = 3\nseed = true\nhours = "long"\noptions = 1\n')
    with pytest.raises(DataError) as caught:
        read(path)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    assert "key 'netwrk': unknown key (did you mean 'network'?" in text
    assert "key 'orders', value 3: wrong kind of value (it must be text: a path)" in text
    assert "key 'seed', value True" in text
    assert "a number or a list of numbers" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"network = ieee34\n", 'text needs quotes: network = "ieee34"'),
        ("network = 'Gr\xfcn'\n".encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "scenario.toml").write_bytes(content)
    with pytest.raises(DataError, match=r"scenario\.toml") as caught:
        read(tmp_path / "scenario.toml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"network": "ieee43"}, UnknownNameError, "did you mean 'ieee37'"),
        ({"network": "a/b"}, MktoptError, "no such file or folder"),
        ({"network": "ieee13", "hours": [1.0, -1.0]}, DataError, "hours"),
        ({"network": "ieee13", "orders": "none.csv"}, DataError, "none.csv"),
    ],
)
def test_what_cannot_be_loaded(changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        Scenario(folder=tmp_path, **changes).load()
    assert said in str(caught.value)


def test_a_flow_table_needs_a_name() -> None:
    with pytest.raises(DataError, match="the table has no name"):
        Scenario(flow={"exact": True}).flow_chosen()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("nodal", "nodal"),
        ("", ""),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_flows_carry_options() -> None:
    assert parse_flow("dc") == ("dc", {})
    assert parse_flow("distflow:exact=true,cuts=3") == ("distflow", {"exact": True, "cuts": 3})
    assert parse_pairs(["a-b=c=d"], "x") == {"a_b": "c=d"}
    with pytest.raises(MktoptError, match="is not name=value"):
        parse_flow("distflow:exact")


def test_words_divide_into_targets_and_options() -> None:
    words = ["--pricing", "nodal", "ieee34", "--min-gap=0.5", "--offset", "-3", "--fast"]
    assert parse_words(words, ()) == (["ieee34"], {"pricing": "nodal", "min_gap": 0.5, "offset": -3, "fast": True})
    assert parse_words(["--a", "--b", "1"], ()) == ([], {"a": True, "b": 1})
    with pytest.raises(UnknownNameError, match="unknown option '-x'"):
        parse_words(["-x"], ["--out"])
