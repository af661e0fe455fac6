"""Validated tables: one declared `Column` per column, every fault reported, nothing guessed in silence.

A table is a pandas frame with plain columns. `read_table` brings it into its declared form (names as text,
numbers as float, optional columns filled) and collects a `Fault` for each cell that does not fit.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mktopt.errors import DataError, Fault

_TRUE = {"true", "yes", "1", "1.0"}
_FALSE = {"false", "no", "0", "0.0", ""}
MAX_FAULTS = 200


@dataclass(frozen=True)
class Column:
    """What a column holds.

    name; kind: 'text' | 'number' | 'integer' | 'flag'; default: None where the column must be there;
    low, high: closed bounds of a number; positive: zero is refused; infinite: +inf is allowed ("no limit");
    missing: an empty cell is allowed and becomes `default`; choices: the allowed words.
    """

    name: str
    kind: str = "number"
    default: Any = None
    low: float = -np.inf
    high: float = np.inf
    positive: bool = False
    infinite: bool = False
    missing: bool = False
    choices: tuple[str, ...] = ()


def read_table(
    frame: pd.DataFrame, table: str, columns: Sequence[Column], faults: list[Fault], key: str | None = None
) -> pd.DataFrame:
    """`frame` in its declared form; faults are appended to `faults`, with rows named by column `key`.

    Columns that are not declared are dropped unless they look like a misspelling, which is a fault.
    """
    given: Any = frame
    if not isinstance(given, pd.DataFrame):
        problem = f"expected a pandas DataFrame, got {type(given).__name__}"
        raise DataError(Fault(table, problem, hint="pass a DataFrame with plain columns"))
    doubled = frame.columns[frame.columns.duplicated()].unique()
    refuse(Fault(table, "the column stands twice", column=str(name), hint="keep one") for name in doubled)
    labels = _labels(frame, key)
    _misspelt(frame, table, columns, faults)
    result: dict[str, Any] = {}
    for column in columns:
        if column.name not in frame.columns:
            if column.default is None:
                have = ", ".join(map(str, frame.columns)) or "(none)"
                faults.append(Fault(table, "the column is missing", column=column.name, hint=f"columns: {have}"))
            result[column.name] = _filled(column, len(frame))
            continue
        result[column.name] = _READ[column.kind](frame[column.name], table, column, labels, faults)
    return pd.DataFrame(result, columns=[column.name for column in columns])


def refuse(faults: Iterable[Fault]) -> None:
    """Raises one `DataError` with all `faults`, if there are any."""
    found = list(faults)
    if found:
        raise DataError(found)


def duplicates(frame: pd.DataFrame, table: str, key: str | list[str], faults: list[Fault]) -> None:
    """Appends a fault for every key of `frame` that stands twice."""
    names = [key] if isinstance(key, str) else key
    doubled = frame[names][frame.duplicated(names)].drop_duplicates()
    for values in doubled.itertuples(index=False):
        row = values[0] if len(names) == 1 else tuple(values)
        faults.append(
            Fault(table, "the name stands twice", row=row, column=", ".join(names), hint="names must be unique")
        )


def unknown_values(
    frame: pd.DataFrame, table: str, key: str, column: str, known: Iterable[str], faults: list[Fault], of: str
) -> None:
    """Appends a fault for every cell of `column` that is not among the `known` names of table `of`."""
    import difflib

    known = list(known)
    wrong = ~frame[column].isin(set(known))
    for row, value in frame.loc[wrong, [key, column]].head(MAX_FAULTS).itertuples(index=False):
        close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"add it to table '{of}' or correct the name"
        faults.append(Fault(table, f"no such name in table '{of}'", row, column, value, hint))


def read_csv(path: str | Path, table: str | None = None) -> pd.DataFrame:
    """A CSV file as text cells (typed later by `read_table`, which can then name the faulty cell).

    Raises DataError for a missing, empty, undecodable or ragged file.
    """
    path = Path(path)
    table = table or path.name
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(Fault(table, f"no file {str(path)!r}", hint="check the path")) from None
    except IsADirectoryError:
        raise DataError(Fault(table, f"{str(path)!r} is a folder, not a file", hint="name the CSV file")) from None
    except PermissionError:
        raise DataError(Fault(table, f"no permission to read {str(path)!r}")) from None
    except UnicodeDecodeError as error:
        problem = f"the file is not UTF-8 text (byte {error.start})"
        raise DataError(Fault(table, problem, hint="save it as 'CSV UTF-8'")) from None
    if "\x00" in text:
        raise DataError(Fault(table, "the file holds zero bytes, so it is no UTF-8 text", hint="save as 'CSV UTF-8'"))
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    numbered = [(reader.line_num, row) for row in reader if row and row != [""]]
    rows = [row for _, row in numbered]
    if not rows:
        raise DataError(Fault(table, "the file is empty", hint="the first line must name the columns"))
    header = [cell.strip() for cell in rows[0]]
    faults = [
        Fault(table, f"{len(row)} cells where the header has {len(header)}", row=f"line {number}")
        for number, row in numbered[1:]
        if len(row) != len(header)
    ]
    doubled = sorted({name for name in header if header.count(name) > 1})
    faults += [Fault(table, "the column stands twice", column=name) for name in doubled]
    refuse(faults)
    return pd.DataFrame(rows[1:], columns=header, dtype=object)


def _labels(frame: pd.DataFrame, key: str | None) -> Sequence[object]:
    if key is not None and key in frame.columns:
        return [str(value) for value in frame[key]]
    return [f"row {number}" for number in range(1, len(frame) + 1)]


def _misspelt(frame: pd.DataFrame, table: str, columns: Sequence[Column], faults: list[Fault]) -> None:
    import difflib

    names = [column.name for column in columns]
    absent = [name for name in names if name not in frame.columns]
    for extra in frame.columns:
        close = difflib.get_close_matches(str(extra), absent, n=1, cutoff=0.8)
        if extra not in names and close:
            faults.append(Fault(table, "unknown column", column=str(extra), hint=f"did you mean '{close[0]}'?"))


def _filled(column: Column, length: int) -> np.ndarray[Any, Any]:
    blank = {"text": "", "number": np.nan, "integer": 0, "flag": False}[column.kind]
    value = blank if column.default is None else column.default
    return np.full(length, value, dtype=object if column.kind == "text" else None)


def _empty(values: pd.Series[Any]) -> np.ndarray[Any, Any]:
    blank = values.isna().to_numpy()
    if values.dtype == object or pd.api.types.is_string_dtype(values):
        blank = blank | (values.astype(str).str.strip() == "").to_numpy()
    return blank


def _read_text(
    values: pd.Series[Any], table: str, column: Column, labels: Sequence[object], faults: list[Fault]
) -> np.ndarray[Any, Any]:
    if pd.api.types.is_float_dtype(values):
        # a name column that pandas read as float (701.0) is a whole number with gaps
        whole = [str(int(v)) if np.isfinite(v) and v == int(v) else str(v) for v in values.to_numpy()]
        text = np.array(whole, dtype=object)
    else:
        text = np.array([str(v).strip() for v in values], dtype=object)
    blank = values.isna().to_numpy() | (text == "")
    allowed = column.default is not None
    for position in np.flatnonzero(blank).tolist():
        if allowed:
            text[position] = column.default
        elif len(faults) < MAX_FAULTS:
            faults.append(Fault(table, "the cell is empty", labels[position], column.name, hint="give a name"))
    if column.choices:
        for position in np.flatnonzero(~np.isin(text.astype(str), column.choices) & ~blank).tolist():
            faults.append(
                Fault(table, "unknown word", labels[position], column.name, text[position],
                      f"one of {', '.join(column.choices)}")
            )  # fmt: skip
    return text


def _read_number(
    values: pd.Series[Any], table: str, column: Column, labels: Sequence[object], faults: list[Fault]
) -> np.ndarray[Any, Any]:
    number = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan, copy=True)
    if values.dtype.kind not in "fiub":
        # pandas rounds the last digit of some texts; float() reads back exactly what repr wrote
        usable = np.isfinite(number)
        with contextlib.suppress(ValueError, TypeError):
            number[usable] = values.to_numpy(dtype=object)[usable].astype(float)
    allowed = column.missing
    problems: list[tuple[np.ndarray[Any, Any], str, str]] = []
    if values.dtype.kind in "fiu":
        blank = np.isnan(number)
    else:
        blank = _empty(values)
        words = values.astype(str).str.strip().str.lower().isin(["nan"]).to_numpy() & ~blank
        text = np.isnan(number) & ~blank & ~words
        problems.append((text, "not a number", "write digits with a point, no unit"))
        problems.append((words, "not a finite number", "fill it in"))
    if allowed:
        number = np.where(blank, np.nan if column.default is None else column.default, number)
    else:
        problems.append((blank, "the cell is empty or NaN", "fill it in"))
    endless = np.isinf(number) & ~((number > 0) & column.infinite)
    problems.append((endless, "not a finite number", "give a finite value"))
    finite = ~np.isnan(number) & ~endless
    problems.append((finite & (number < column.low), f"below {column.low:g}", "check sign and unit"))
    problems.append((finite & (number > column.high), f"above {column.high:g}", "check sign and unit"))
    if column.positive:
        problems.append((finite & (number <= 0), "must be greater than zero", "check sign and unit"))
    raw = values.to_numpy()
    for wrong, problem, hint in problems:
        for position in np.flatnonzero(wrong)[:MAX_FAULTS]:
            faults.append(Fault(table, problem, labels[position], column.name, raw[position], hint))
    return number


def _read_integer(
    values: pd.Series[Any], table: str, column: Column, labels: Sequence[object], faults: list[Fault]
) -> np.ndarray[Any, Any]:
    number = _read_number(values, table, column, labels, faults)
    broken = np.isfinite(number) & (number != np.floor(number))
    for position in np.flatnonzero(broken)[:MAX_FAULTS]:
        faults.append(Fault(table, "not a whole number", labels[position], column.name, number[position]))
    return np.where(np.isfinite(number), number, 0).astype(np.int64)


def _read_flag(
    values: pd.Series[Any], table: str, column: Column, labels: Sequence[object], faults: list[Fault]
) -> np.ndarray[Any, Any]:
    if values.dtype == bool:
        return values.to_numpy()
    text = values.map(_word)
    blank = (text == "").to_numpy()
    result = text.isin(_TRUE).to_numpy() | (blank & bool(column.default))
    for position in np.flatnonzero(~text.isin(_TRUE | _FALSE).to_numpy()).tolist():
        faults.append(
            Fault(table, "neither yes nor no", labels[position], column.name, values.iloc[position], "true or false")
        )
    return result


def _word(value: Any) -> str:
    return "" if pd.isna(value) else str(value).strip().lower()


_READ = {"text": _read_text, "number": _read_number, "integer": _read_integer, "flag": _read_flag}
