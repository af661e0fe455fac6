"""Networks written and read back unchanged, and what a faulty folder is told."""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mktopt.errors import DataError
from mktopt.networks.cases import DATA, load_case
from mktopt.networks.csv_folder import read_about, read_network, write_network
from mktopt.networks.network import Network

MakeNetwork = Callable[..., Network]
TABLES = ("buses", "branches", "loads", "shunts")
LETTERS = string.ascii_letters + string.digits + " ,;'\"#-_.äß€中\\"


def assert_same(one: Network, other: Network) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True, check_dtype=False)
    assert (one.name, one.source_bus, one.source_v_pu) == (other.name, other.source_bus, other.source_v_pu)
    assert one.hours.tolist() == other.hours.tolist()


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks with any text as names and any finite numbers."""
    text = st.text(LETTERS, min_size=1, max_size=8).map(str.strip).filter(bool)
    names = draw(st.lists(text, min_size=2, max_size=6, unique=True))
    n = len(names)
    number = st.floats(-1e12, 1e12, allow_subnormal=False)
    above = st.floats(1e-9, 1e12)

    def column(values: st.SearchStrategy[Any], size: int) -> list[Any]:
        return draw(st.lists(values, min_size=size, max_size=size))

    return Network(
        buses=pd.DataFrame({"bus": names, "base_kv": column(above, n), "x": column(number | st.just(np.nan), n)}),
        branches=pd.DataFrame({
            "branch": [f"branch {k}" for k in range(n - 1)],
            "from_bus": names[:-1],
            "to_bus": names[1:],
            "r_ohm": column(st.floats(0, 1e9), n - 1),
            "x_ohm": column(number, n - 1),
            "b_us": column(number, n - 1),
            "ratio": column(above, n - 1),
            "rating_kva": column(above | st.just(np.inf), n - 1),
            "kind": column(st.sampled_from(["line", "transformer", "switch", "private"]), n - 1),
            "owner": column(text | st.just(""), n - 1),
        }),
        loads=pd.DataFrame({"load": names, "bus": names, "p_kw": column(number, n), "q_kvar": column(number, n)}),
        shunts=pd.DataFrame({"bus": names[:1], "g_kw": column(number, 1), "b_kvar": column(number, 1)}),
        source_bus=names[0],
        source_v_pu=draw(st.floats(0.5, 1.5)),
        hours=draw(st.lists(st.floats(0.01, 24), min_size=1, max_size=3)),
        name=draw(st.text(max_size=10).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t))),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::mktopt.networks.checks.NetworkWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(network=networks(), compact=st.booleans())
def test_what_is_written_is_read_back_exactly(network: Network, compact: bool, tmp_path: Path) -> None:
    write_network(network, tmp_path / "case", compact=compact)
    assert_same(read_network(tmp_path / "case"), network)


@pytest.mark.parametrize("name", ["ieee123", "case300", "eight_node", "synthetic:radial:200:4"])
def test_cases_survive_the_round_trip(name: str, tmp_path: Path) -> None:
    network, orders, _, meta = load_case(name)
    write_network(network, tmp_path / "case", orders=orders, about={"source": str(meta["source"])})
    again = load_case(tmp_path / "case")
    assert_same(again.network, network)
    assert orders is not None
    assert again.orders is not None
    pd.testing.assert_frame_equal(again.orders.orders, orders.orders, check_exact=True)
    pd.testing.assert_frame_equal(again.orders.segments, orders.segments, check_exact=True)
    assert read_about(tmp_path / "case") == {"source": meta["source"]}


def test_compact_leaves_defaults_out(make_network: MakeNetwork, tmp_path: Path) -> None:
    write_network(make_network(1), tmp_path / "full")
    write_network(make_network(1), tmp_path / "short", compact=True)
    assert (tmp_path / "short" / "branches.csv").read_text().splitlines()[0] == "branch,from_bus,to_bus,r_ohm,x_ohm"
    assert "rating_kva" in (tmp_path / "full" / "branches.csv").read_text().splitlines()[0]


def test_only_two_tables_are_needed(make_network: MakeNetwork, tmp_path: Path) -> None:
    make_network(1).to_csv(tmp_path / "case")
    for table in ("loads", "shunts"):
        (tmp_path / "case" / f"{table}.csv").unlink()
    assert len(Network.from_csv(tmp_path / "case").loads) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of ieee13 to be damaged."""
    for file in (DATA / "ieee13").iterdir():
        (tmp_path / "case").mkdir(exist_ok=True)
        (tmp_path / "case" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "case"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("buses.csv", "bus,base_kv", "bas,base_kv", r"table 'buses', column 'bus': the column is missing"),
        ("branches.csv", "r_ohm", "r_ohms", r"column 'r_ohms': unknown column \(did you mean 'r_ohm'"),
        ("branches.csv", "650,rg60", "650,rg61", r"row '650-rg60', column 'to_bus', value 'rg61'.*did you mean 'rg60'"),
        ("branches.csv", "650-rg60", "632-633", r"row '632-633', column 'branch': the name stands twice"),
        ("branches.csv", "0.0704419192", "0,0704419192", r"branches.csv.*line 4.*cells where the header has"),
        ("branches.csv", "0.0704419192", "0.07 ohm", r"row 'rg60-632', column 'r_ohm', value '0.07 ohm': not a number"),
        ("branches.csv", "0.0704419192", "-0.07", r"row 'rg60-632', column 'r_ohm', value '-0.07': below 0"),
        ("branches.csv", "0.0704419192", "NaN", r"row 'rg60-632', column 'r_ohm', value 'NaN': not a finite number"),
        ("branches.csv", "5259.89189", "0", r"column 'rating_kva', value '0': must be greater than zero"),
        ("branches.csv", "5259.89189", "-inf", r"column 'rating_kva', value '-inf': not a finite number"),
        ("branches.csv", "switch", "swich", r"row '671-692', column 'kind', value 'swich': unknown word \(one of line"),
        ("loads.csv", "1155.0", "inf", r"row '671', column 'p_kw', value 'inf': not a finite number"),
        ("loads.csv", "671,671,", "671,none,", r"row '671', column 'bus', value 'none': no such name in table 'buses'"),
        ("shunts.csv", "675", "6755", r"row '6755', column 'bus', value '6755'.*did you mean '675'"),
        ("network.toml", "sourcebus", "sorcebus", r"column 'source_bus', value 'sorcebus': the source is no bus"),
        ("network.toml", "source_bus", "source_buss", r"key 'source_buss': unknown key"),
        ("network.toml", "1.0001", "nan", r"column 'source_v_pu', value nan: must be a finite number above zero"),
        ("network.toml", "[1.0]", "[1.0, 0.0]", r"row 'period 1', column 'hours', value 0.0: must be finite and above"),
        ("network.toml", "hours = [", "hours = ", r"network.toml': not valid TOML"),
    ],
)
def test_faults_are_named(folder: Path, file: str, old: str, new: str, message: str) -> None:
    edit(folder / file, old, new)
    with pytest.raises(DataError, match=message):
        read_network(folder)


def test_every_fault_is_reported_at_once(folder: Path) -> None:
    edit(folder / "branches.csv", "0.0704419192", "much")
    edit(folder / "loads.csv", "1155.0", "")
    edit(folder / "buses.csv", "115.0", "0")
    with pytest.raises(DataError) as caught:
        read_network(folder)
    assert {(fault.table, fault.column) for fault in caught.value.faults} == {
        ("branches", "r_ohm"), ("loads", "p_kw"), ("buses", "base_kv"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("branches.csv", b"", "branches.csv': the file is empty"),
        ("branches.csv", b"\xff\xfeb\x00r\x00", r"branches.csv': the file is not UTF-8 text \(byte 0\)"),
        ("loads.csv", "load,bus,p_kw\nWärme,671,1\n".encode("latin-1"), r"loads.csv': the file is not UTF-8 text"),
        ("buses.csv", b"bus,base_kv\n", "table 'buses': the table has no rows"),
        ("network.toml", b"name = 'x'\n", r"network.toml', key 'source_bus': the key is missing"),
        ("network.toml", b"\xff", r"network.toml': not UTF-8 text"),
    ],
)
def test_unusable_files_are_named(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_network(folder)


@pytest.mark.parametrize("file", ["buses.csv", "branches.csv", "network.toml"])
def test_missing_files_are_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(DataError, match=f"{file}.*(no file|the file is missing)"):
        read_network(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere': no such folder \(check the path\)"):
        read_network(tmp_path / "nowhere")


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_network(folder).n_buses == 16


def test_islands_are_named(folder: Path) -> None:
    lines = (folder / "branches.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("684-611")]
    (folder / "branches.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(DataError, match=r"1 of 16 buses have no path to the source bus 'sourcebus': 611 \(close"):
        read_network(folder)


def test_an_older_folder_survives_a_failed_write(folder: Path, make_network: MakeNetwork) -> None:
    class Broken:
        def to_csv(self, path: Path) -> None:
            raise OSError(28, "No space left on device", str(path))

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        write_network(make_network(1), folder, orders=Broken())  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_in_the_way_is_named(make_network: MakeNetwork, tmp_path: Path) -> None:
    (tmp_path / "case").write_text("a file")
    with pytest.raises(DataError, match=r"case': cannot be written"):
        make_network(1).to_csv(tmp_path / "case")
    assert (tmp_path / "case").read_text() == "a file"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(folder: Path, make_network: MakeNetwork) -> None:
    folder.chmod(0o555)
    with pytest.raises(DataError, match=r"cannot be written: Permission denied \(choose a folder"):
        make_network(1).to_csv(folder)
    with pytest.raises(DataError, match="cannot be written"):
        make_network(1).to_csv(folder / "inner")
    folder.chmod(0o755)
    assert len(list(folder.iterdir())) == len(list((DATA / "ieee13").iterdir()))


def test_nothing_is_written_where_no_folder_can_be(make_network: MakeNetwork) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        make_network(1).to_csv("/proc/mktopt-case")
