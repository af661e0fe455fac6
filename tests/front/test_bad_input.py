"""Each mistake of a user has a message that says where it stands, what is wrong and what to do. None is a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.formulations.flows import Flow
from mktopt.formulations.flows.transport import transport
from mktopt.networks.checks import NetworkWarning
from mktopt.testing import small_market


def parts() -> dict[str, Any]:
    network, _ = small_market()
    return {"buses": network.buses, "branches": network.branches, "source_bus": "s"}


def network_with(table: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> mo.Network:
    tables = parts()
    frame = tables[table].copy().astype(object)
    changed = change(frame)
    tables[table] = frame if changed is None else changed
    return mo.Network(**tables)


def put(row: int, column: str, value: object) -> Callable[[pd.DataFrame], None]:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[row, column] = value

    return change


NETWORKS = [
    ("branches", put(1, "r_ohm", np.nan), ["table 'branches'", "row 'a-b'", "'r_ohm'", "empty or NaN"]),
    ("branches", put(1, "x_ohm", np.inf), ["row 'a-b'", "'x_ohm'", "inf", "not a finite number"]),
    ("branches", put(1, "x_ohm", "0.5 ohm"), ["row 'a-b'", "'0.5 ohm'", "not a number", "no unit"]),
    ("branches", put(1, "r_ohm", -0.1), ["row 'a-b'", "'r_ohm'", "-0.1", "below 0"]),
    ("branches", put(1, "rating_kva", -5), ["row 'a-b'", "'rating_kva'", "-5", "greater than zero"]),
    ("branches", put(1, "rating_kva", 0), ["'rating_kva'", "greater than zero"]),
    ("branches", put(1, "branch", "s-a"), ["'s-a'", "stands twice"]),
    ("branches", put(1, "to_bus", "bb"), ["row 'a-b'", "'to_bus'", "'bb'", "did you mean 'b'?"]),
    ("branches", put(1, "to_bus", "a"), ["row 'a-b'", "ends where it starts"]),
    ("branches", put(1, "kind", "wire"), ["'kind'", "'wire'", "line, transformer, switch, private"]),
    ("branches", put(1, "in_service", "perhaps"), ["'in_service'", "'perhaps'", "neither yes nor no"]),
    ("branches", lambda f: f.drop(columns="x_ohm"), ["'x_ohm'", "the column is missing", "columns: branch"]),
    (
        "branches",
        lambda f: f.rename(columns={"rating_kva": "rating_kv"}),
        ["'rating_kv'", "did you mean 'rating_kva'?"],
    ),
    ("branches", lambda f: f.iloc[:2], ["1 of 4 buses", "no path to the source bus 's'", "c", "close a switch"]),
    ("buses", put(2, "bus", "a"), ["'a'", "stands twice"]),
    ("buses", put(2, "base_kv", 0), ["row 'b'", "'base_kv'", "greater than zero"]),
    ("buses", put(2, "v_min_pu", 1.2), ["row 'b'", "v_min_pu 1.2 is above"]),
    ("buses", lambda f: f.iloc[:0], ["'buses'", "no rows"]),
]


@pytest.mark.parametrize(("table", "change", "said"), NETWORKS, ids=[" ".join(said[-2:]) for *_, said in NETWORKS])
def test_networks(table: str, change: Callable[[pd.DataFrame], None], said: list[str]) -> None:
    with pytest.raises(mo.DataError) as caught:
        network_with(table, change)
    for words in said:
        assert words in str(caught.value)


def test_the_source_must_be_a_bus() -> None:
    with pytest.raises(mo.DataError, match=r"'source_bus', value 'q': the source is no bus \(name a bus"):
        mo.Network(**{**parts(), "source_bus": "q"})


def test_lengths_of_periods() -> None:
    with pytest.raises(mo.DataError, match=r"row 'period 1', column 'hours', value 0.0: must be finite and above zero"):
        mo.Network(**parts(), hours=[1, 0])


def test_every_fault_is_reported_at_once() -> None:
    tables = parts()
    tables["branches"] = tables["branches"].astype(object)
    tables["branches"].loc[0, "r_ohm"] = "x"
    tables["branches"].loc[2, "rating_kva"] = -1
    tables["buses"] = tables["buses"].assign(base_kv=-1.0)
    with pytest.raises(mo.DataError) as caught:
        mo.Network(**tables)
    assert len(caught.value.faults) == 6


CURVE = {"order": "a", "bus": "b", "side": "bid", "q_max_kw": 10.0, "price_min": 0.1, "price_max": 0.3}
CURVES = [
    ({"side": "buy"}, ["row 'a'", "'side'", "'buy'", "one of bid, offer"]),
    ({"q_max_kw": -1}, ["row 'a'", "'q_max_kw'", "-1", "below 0"]),
    ({"q_max_kw": 0}, ["row 'a'", "q_max <= q_min", "q_max_kw > q_min_kw"]),
    ({"q_min_kw": 10}, ["q_max <= q_min"]),
    ({"price_max": 0.0}, ["row 'a'", "'price_max'", "p_max < p_min", "price_max >= price_min"]),
    ({"price_min": "cheap"}, ["'price_min'", "'cheap'", "not a number"]),
    ({"price_min": np.nan}, ["'price_min'", "empty or NaN"]),
    ({"price_max": np.inf}, ["'price_max'", "not a finite number"]),
    ({"bus": ""}, ["row 'a'", "'bus'", "empty"]),
    ({"minimum_kw": 11}, ["row 'a'", "'minimum_kw'", "11", "above the width", "10 kW"]),
    ({"period": 0.5}, ["'period'", "0.5", "not a whole number"]),
]


@pytest.mark.parametrize(("change", "said"), CURVES, ids=[str(change) for change, _ in CURVES])
def test_curves(change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(mo.DataError) as caught:
        mo.Orders.from_curves(pd.DataFrame([{**CURVE, **change}]))
    for words in said:
        assert words in str(caught.value)


def steps(side: str, *rows: tuple[float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["width_kw", "price"])
    return frame.assign(order="a", bus="b", side=side)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (steps("bid", (1, 0.1), (1, 0.2)), "row 'a, period 0, segment 1', column 'price_start', value 0.2: rising bid"),
        (steps("offer", (1, 0.2), (1, 0.1)), "value 0.1: falling offer: it starts below the segment before"),
        (steps("offer", (-1, 0.2)), "row 'a', column 'width_kw', value -1: below 0"),
        (steps("offer", (np.inf, 0.1), (1, 0.2)), "only the last segment may be unlimited"),
        (steps("bid", (1, 0.1)).assign(all_or_nothing="maybe"), "neither yes nor no"),
        (steps("bid", (np.inf, 0.1)).assign(all_or_nothing=True), "an unlimited order cannot be all or nothing"),
        (steps("bid", (1, 0.2), (1, 0.1)).assign(bus=["b", "c"]), "rows of one order disagree"),
        (steps("bid", (1, 0.2)).drop(columns="side"), "column 'side': the column is missing"),
    ],
)
def test_steps(frame: pd.DataFrame, said: str) -> None:
    with pytest.raises(mo.DataError) as caught:
        mo.Orders.from_steps(frame)
    assert said in str(caught.value)


def test_names_of_orders_are_unique() -> None:
    with pytest.raises(mo.DataError, match=r"row \('a', 0\).*the name stands twice"):
        mo.Orders.from_curves(pd.DataFrame([CURVE, CURVE]))


def test_orders_must_fit_the_network() -> None:
    network, orders = small_market()
    with pytest.raises(mo.DataError, match=r"row 'a', column 'bus', value 'bx': .* \(did you mean 'b'\?\)"):
        mo.clear("surplus", network, mo.Orders.from_curves(pd.DataFrame([{**CURVE, "bus": "bx"}])))
    with pytest.raises(mo.DataError, match=r"row 'a', column 'period', value 7: no such period \(.* periods 0 to 1"):
        mo.clear("surplus", network, mo.Orders.from_curves(pd.DataFrame([{**CURVE, "period": 7}])))
    with pytest.raises(mo.DataError, match="there are no orders"):
        mo.clear("surplus", network, orders.select([]))


def test_an_arbitrage_loop_at_the_source_is_refused() -> None:
    network, _ = small_market()
    grid = {"bus": "s", "participant": "grid"}
    export, imports = {"order": "export", "price_max": 0.12}, {"order": "import", "side": "offer"}
    rows = [{**CURVE, **grid, **export}, {**CURVE, **grid, **imports}]
    with pytest.raises(mo.DataError, match="arbitrage loop: 'grid' buys at 0.12 what it sells at 0.1"):
        mo.clear("surplus", network, mo.Orders.from_curves(pd.DataFrame(rows)))
    apart = pd.DataFrame([rows[0], {**rows[1], "participant": "other"}])
    assert mo.clear("surplus", network, mo.Orders.from_curves(apart)).certificate.ok()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mechanism": "surpluss"}, "unknown mechanism 'surpluss'; did you mean 'surplus'?"),
        ({"flow": "transprt"}, "unknown flow 'transprt'; did you mean 'transport'?"),
        ({"solver": "clarable"}, "unknown solver 'clarable'; did you mean 'clarabel'?"),
        ({"princing": "nodal"}, "unknown option of mechanism 'surplus' 'princing'; did you mean 'pricing'?"),
        ({"pricing": "nodel"}, "'nodel'; did you mean 'nodal'?"),
        ({"solver": "highs", "solver_options": {"time_limt": 1}}, "'time_limt'; did you mean 'time_limit'?"),
        ({"solver": "clarabel", "solver_options": {"max_itr": 1}}, "'max_itr'; did you mean 'max_iter'?"),
    ],
)
def test_unknown_names(arguments: dict[str, Any], said: str) -> None:
    network, orders = small_market()
    with pytest.raises(mo.UnknownNameError) as caught:
        mo.clear(arguments.pop("mechanism", "surplus"), network, orders, **arguments)
    assert said in str(caught.value)
    assert "Known: " in str(caught.value)


def test_unknown_cases_buses_and_orders() -> None:
    with pytest.raises(mo.MktoptError, match="'ieee344'; did you mean 'ieee34'"):
        mo.load_case("ieee344")
    network, orders = small_market()
    clearing = mo.clear("surplus", network, orders)
    with pytest.raises(mo.UnknownNameError, match="unknown bus 'bb'; did you mean 'b'"):
        clearing.price("bb")
    with pytest.raises(mo.UnknownNameError, match="unknown order in period 0 'loud a'; did you mean 'load a'"):
        clearing.quantity("loud a")
    with pytest.raises(mo.DataError, match=r"row 'a-d': no such branch \(did you mean 'a-"):
        network.with_ratings({"a-d": 5.0})
    with pytest.raises(mo.UnknownNameError, match="unknown option of flow 'dc' 'exact'"):
        mo.flow("dc", exact=True)


def test_wrong_kinds_of_argument() -> None:
    network, orders = small_market()
    with pytest.raises(mo.FormulationError, match="expected a Network, got str; load one with"):
        mo.clear("surplus", "ieee34", orders)  # type: ignore[arg-type]
    with pytest.raises(mo.FormulationError, match="takes Orders or Prosumers, not DataFrame"):
        mo.clear("surplus", network, orders.orders)  # type: ignore[arg-type]
    with pytest.raises(mo.FormulationError, match="is no market model; make it with"):
        mo.solve(object())


@pytest.mark.parametrize("value", ["maybe", 1, None])
def test_a_switch_of_a_flow_is_on_or_off(value: Any) -> None:
    """What Python takes for true is no answer to 'exact or not?'; likewise for a flow of one's own."""

    def mine(block: Any, network: Any, injection: Any, *, exact: bool = False) -> None: ...

    for which in ("distflow", mine):
        with pytest.raises(mo.FormulationError, match=f"'exact' of flow '.*' takes true or false, not {value!r}"):
            mo.flow(which, exact=value)


def test_a_radial_flow_names_the_loop() -> None:
    network, orders = small_market()
    loop = pd.DataFrame([{"branch": "b-c", "from_bus": "b", "to_bus": "c", "r_ohm": 0.1, "x_ohm": 0.1}])
    meshed = network.replace(branches=pd.concat([network.branches, loop]))
    radial = Flow("tree", transport, radial_only=True)
    assert mo.clear("surplus", network, orders, flow=radial).certificate.ok()
    with pytest.raises(mo.FormulationError, match="flow 'tree' needs a radial grid.*loop: ") as caught:
        mo.clear("surplus", meshed, orders, flow=radial)
    assert all(branch in str(caught.value) for branch in ("b-c", "a-b", "a-c"))


def test_megawatts_are_suspected() -> None:
    network, _ = small_market()
    loads = pd.DataFrame({"load": ["l"], "bus": ["b"], "p_kw": [80e3]})
    with pytest.warns(NetworkWarning, match="kW"):
        network.replace(loads=loads)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"order,bus,side,q_max_kw,price_min,price_max\n", "a header but no rows"),
        ("order,bus\nä,b\n".encode("latin-1"), "not UTF-8 text"),
        ("order,bus\na,b\n".encode("utf-16"), "not UTF-8 text"),
        (b"order,bus,side,q_max_kw,price_min,price_max\na,b,bid,5\n", "row 'line 2': 4 cells where the header has 6"),
        (b"order,bus,side,q_max_kw,price_min,price_max\na,b,bid,1e,0,1\n", "row 'a', column 'q_max_kw', value '1e'"),
        (b"order,bus,side,q_max_kw,price_max\na,b,bid,1,1\n", "column 'price_min': the column is missing"),
    ],
)
def test_order_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(mo.DataError) as caught:
        mo.Orders.from_csv(path)
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(mo.DataError, match="no file .*check the path"):
        mo.Orders.from_csv(tmp_path / "none.csv")


def test_a_place_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    network, orders = small_market()
    clearing = mo.clear("surplus", network, orders)
    file = tmp_path / "file"
    file.write_text("mine")
    for write in (clearing.save, network.to_csv, orders.to_csv):
        with pytest.raises(mo.DataError, match="cannot be written"):
            write(file / "below")
    assert file.read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_breaks_off_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, orders = small_market()
    clearing = mo.clear("surplus", network, orders)
    clearing.save(tmp_path / "result")
    before = {file.name: file.read_bytes() for file in (tmp_path / "result").iterdir()}
    # the manifest is the last file to be written: break there
    monkeypatch.setattr("mktopt.clearing.storage._manifest", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(mo.DataError, match="disk full"):
        clearing.save(tmp_path / "result")
    assert {file.name: file.read_bytes() for file in (tmp_path / "result").iterdir()} == before
    assert os.listdir(tmp_path) == ["result"]
