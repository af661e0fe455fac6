"""Tables as users bring them: any dtype that pandas makes, any file that a spreadsheet writes; every fault is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.networks.tables import Column, read_csv, read_table

COLUMNS = (
    Column("name", "text"),
    Column("kw"),
    Column("limit", default=np.inf, positive=True, infinite=True, missing=True),
    Column("count", "integer", default=0, low=0, missing=True),
    Column("on", "flag", default=True),
    Column("kind", "text", default="line", choices=("line", "switch")),
)


def read(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    faults: list = []
    table = read_table(frame, "things", COLUMNS, faults, "name")
    return table, [str(fault) for fault in faults]


def one(**cells: object) -> pd.DataFrame:
    return pd.DataFrame({"name": ["a"], "kw": [1.0], **{key: [value] for key, value in cells.items()}})


def test_optional_columns_are_filled():
    table, faults = read(one())
    assert faults == []
    assert table.iloc[0].to_dict() == {
        "name": "a", "kw": 1.0, "limit": np.inf, "count": 0, "on": True, "kind": "line"
    }  # fmt: skip
    assert [table[c].dtype.kind for c in table] == ["O", "f", "f", "i", "b", "O"]


@pytest.mark.parametrize(
    ("kw", "count", "on"),
    [
        (pd.array([10, 5], dtype="Int64"), pd.array([1, None], dtype="Int64"), pd.array([True, None], dtype="boolean")),
        (pd.array([10.0, 5.0], dtype="Float64"), np.array([1, 0], dtype=np.int8), np.array([1, 1])),
        (np.array(["10", " 5 "], dtype=object), ["1", ""], ["yes", "TRUE"]),
        (pd.array(["10", "5e0"], dtype="string"), [1.0, np.nan], [1.0, None]),
        (np.array([10, 5], dtype=np.float32), [True, False], ["1", "1.0"]),
    ],
    ids=["nullable", "Float64", "text", "string", "float32"],
)
def test_every_dtype_is_read(kw, count, on):
    table, faults = read(pd.DataFrame({"name": ["a", "b"], "kw": kw, "count": count, "on": on}))
    assert faults == []
    assert table["kw"].tolist() == [10.0, 5.0]
    assert table["count"].tolist() == [1, 0]
    assert table["on"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"kw": np.nan}, "row 'a', column 'kw', value nan: the cell is empty or NaN (fill it in)"),
        ({"kw": None}, "the cell is empty or NaN"),
        ({"kw": pd.NA}, "the cell is empty or NaN"),
        ({"kw": "  "}, "the cell is empty or NaN"),
        ({"kw": "nan"}, "value 'nan': not a finite number"),
        ({"kw": "5 kW"}, "value '5 kW': not a number (write digits with a point, no unit)"),
        ({"kw": "1,5"}, "value '1,5': not a number"),
        ({"kw": "inf"}, "value 'inf': not a finite number"),
        ({"kw": -np.inf}, "value -inf: not a finite number"),
        ({"kw": "1e999"}, "value '1e999': not a"),
        ({"kw": [1, 2]}, "not a number"),
        ({"limit": 0}, "column 'limit', value 0: must be greater than zero"),
        ({"limit": -np.inf}, "value -inf: not a finite number"),
        ({"count": 1.5}, "column 'count', value 1.5: not a whole number"),
        ({"count": -1}, "column 'count', value -1: below 0"),
        ({"on": "perhaps"}, "column 'on', value 'perhaps': neither yes nor no (true or false)"),
        ({"on": 2}, "neither yes nor no"),
        ({"kind": "cable"}, "column 'kind', value 'cable': unknown word (one of line, switch)"),
        ({"name": None}, "column 'name': the cell is empty (give a name)"),
        ({"kid": "line"}, "column 'kid': unknown column (did you mean 'kind'?)"),
    ],
)
def test_every_fault_is_named(cells, message):
    frame = one()
    for key, value in cells.items():
        frame[key] = pd.Series([value], dtype=object)
    _, faults = read(frame)
    assert len(faults) == 1, faults
    assert message in faults[0]
    assert faults[0].startswith("table 'things'")


def test_a_column_that_stands_twice_is_refused():
    frame = pd.concat([one(), one()[["kw"]]], axis=1)
    with pytest.raises(mo.DataError, match="table 'things', column 'kw': the column stands twice"):
        read(frame)


def test_a_missing_column_lists_those_that_are_there():
    _, faults = read(pd.DataFrame({"name": ["a"], "power": [1.0]}))
    assert faults == ["table 'things', column 'kw': the column is missing (columns: name, power)"]


def test_rows_without_a_name_are_counted():
    faults: list = []
    read_table(pd.DataFrame({"kw": [1.0, "x"]}), "things", COLUMNS[1:2], faults, "name")
    assert "row 'row 2'" in str(faults[0])


def test_columns_of_the_users_own_are_left_out():
    table, faults = read(one(colour="red", length_m=5))
    assert faults == []
    assert list(table.columns) == [column.name for column in COLUMNS]


def write(tmp_path, content: bytes | str):
    path = tmp_path / "things.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    ["name,kw\na,1\nb,2\n", "\ufeffname,kw\na,1\nb,2", "name,kw\r\na,1\r\nb,2\r\n", "name, kw\na, 1\n\nb, 2\n\n",
     '"name","kw"\n"a","1"\n"b","2"\n'],
    ids=["plain", "mark", "windows", "spaces", "quoted"],
)  # fmt: skip
def test_files_as_programs_write_them(tmp_path, content):
    frame = read_csv(write(tmp_path, content))
    assert frame.columns.tolist() == ["name", "kw"]
    assert frame.to_numpy().tolist() == [["a", "1"], ["b", "2"]]


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "a\x0bb", "a,b", 'a"b', "ü", "#1", "NA"])
def test_odd_names_survive_a_file(tmp_path, name):
    path = tmp_path / "things.csv"
    path.write_text(pd.DataFrame({"name": [name], "kw": [1]}).to_csv(index=False), encoding="utf-8", newline="")
    assert read_csv(path)["name"].tolist() == [name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file 'things.csv': the file is empty (the first line must name the columns)"),
        (b"\n \n", "the file is empty"),
        ("name,kw\nä,1\n".encode("latin-1"), "the file is not UTF-8 text (byte 8) (save it as 'CSV UTF-8')"),
        ("name,kw\na,1\n".encode("utf-16"), "the file is not UTF-8 text"),
        ("name,kw\na,1\n".encode("utf-16-le"), "the file holds zero bytes, so it is no UTF-8 text"),
        (b"name,kw\na,1,2\nb\n", "row 'line 2': 3 cells where the header has 2"),
        (b"name,kw\na,1,2\nb\n", "row 'line 3': 1 cells where the header has 2"),
        (b"name,kw\n\n\na,1,2\n", "row 'line 4': 3 cells where the header has 2"),
        (b"name,kw,kw\na,1,2\n", "column 'kw': the column stands twice"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    with pytest.raises(mo.DataError) as caught:
        read_csv(write(tmp_path, content))
    assert message in str(caught.value)


def test_places_that_are_no_file(tmp_path):
    with pytest.raises(mo.DataError, match="no file .*nowhere.csv"):
        read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(mo.DataError, match="is a folder, not a file"):
        read_csv(tmp_path)


def test_a_long_list_of_faults_is_cut_and_counted():
    names = [f"o{k}" for k in range(30)]
    frame = pd.DataFrame({"order": names, "bus": "1", "side": "bid", "width_kw": -1.0, "price": 1})
    with pytest.raises(mo.DataError, match="and 20 more faults") as caught:
        mo.Orders.from_steps(frame)
    assert len(caught.value.faults) == 30
