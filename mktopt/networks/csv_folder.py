"""A network as a folder of CSV files: network.toml, buses.csv, branches.csv, loads.csv, shunts.csv.

`network.toml` holds name, source_bus, source_v_pu and hours, and may hold a table [about] (origin, licence, notes)
that is read by `read_about`. The CSV columns are those of `Network`; optional ones may be left out. `loads.csv` and
`shunts.csv` may be missing. An `orders.csv` beside them (see `Orders.from_csv`) is the market of the folder.
Numbers are written so that they are read back unchanged.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.files import write_folder
from mktopt.networks.network import BRANCH_COLUMNS, BUS_COLUMNS, LOAD_COLUMNS, SHUNT_COLUMNS, Network
from mktopt.networks.tables import Column, read_csv

if TYPE_CHECKING:
    from mktopt.networks.orders import Orders

TABLES: dict[str, Sequence[Column]] = {
    "buses": BUS_COLUMNS,
    "branches": BRANCH_COLUMNS,
    "loads": LOAD_COLUMNS,
    "shunts": SHUNT_COLUMNS,
}
# A key of TOML that needs no quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")
REQUIRED = ("buses", "branches")
SETTINGS = ("name", "source_bus", "source_v_pu", "hours", "about")


def read_network(folder: str | Path) -> Network:
    """The network in `folder`; raises DataError naming the file, row, column and value of every fault."""
    folder = Path(folder)
    settings = read_settings(folder)
    tables: dict[str, Any] = {}
    for table in TABLES:
        path = folder / f"{table}.csv"
        if table in REQUIRED or path.exists():
            tables[table] = read_csv(path, path.name)
    optional = {key: settings[key] for key in ("source_v_pu", "hours") if key in settings}
    name = str(settings.get("name", folder.name))
    return Network(**tables, source_bus=str(settings["source_bus"]), name=name, **optional)


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Contents of `network.toml` in `folder`, checked: raises DataError for unknown or missing keys."""
    folder = Path(folder)
    path = folder / "network.toml"
    hint = 'it must at least say: source_bus = "..."'
    if not folder.is_dir():
        raise DataError(Fault(str(folder), "no such folder", hint="check the path"))
    try:
        settings = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(Fault(str(path), "the file is missing", hint=hint)) from None
    except PermissionError:
        raise DataError(Fault(str(path), "no permission to read it")) from None
    except UnicodeDecodeError as error:
        raise DataError(Fault(str(path), f"not UTF-8 text (byte {error.start})", hint="save it as UTF-8")) from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(Fault(str(path), f"not valid TOML: {error}", hint=hint)) from None
    faults = [
        Fault("network.toml", "unknown key", column=key, hint=f"known: {', '.join(SETTINGS)}")
        for key in settings
        if key not in SETTINGS
    ]
    if "source_bus" not in settings:
        faults.append(Fault("network.toml", "the key is missing", column="source_bus", hint=hint))
    if faults:
        raise DataError(faults)
    return settings


def read_about(folder: str | Path) -> dict[str, Any]:
    """Table [about] of `network.toml` in `folder` (origin, licence, notes); empty where there is none."""
    about = read_settings(folder).get("about", {})
    return dict(about) if isinstance(about, dict) else {"notes": about}


def write_network(
    network: Network,
    folder: str | Path,
    orders: Orders | None = None,
    about: Mapping[str, Any] | None = None,
    compact: bool = False,
) -> None:
    """Writes `network` (and `orders`, and a table [about]) to `folder`, all or nothing.

    With `compact` the optional columns that hold nothing but their default are left out. The files are written aside
    and then renamed. Raises DataError where the folder cannot be written.
    """

    def fill(aside: Path) -> None:
        write_tables(network, aside, about, compact)
        if orders is not None:
            orders.to_csv(aside / "orders.csv")

    write_folder(folder, fill)


def write_tables(
    network: Network, folder: Path, about: Mapping[str, Any] | None = None, compact: bool = False
) -> None:
    """Writes the files of `network` into an existing folder, as part of a larger `write_folder`."""
    (folder / "network.toml").write_text(_settings(network, about or {}), encoding="utf-8")
    for table, columns in TABLES.items():
        frame = getattr(network, table)
        names = [c.name for c in columns if not (compact and _is_default(frame[c.name], c))]
        frame[names].to_csv(folder / f"{table}.csv", index=False, encoding="utf-8", lineterminator="\n")


def _settings(network: Network, about: Mapping[str, Any]) -> str:
    hours = ", ".join(repr(float(value)) for value in network.hours)
    lines = [
        f"name = {_quoted(network.name)}",
        f"source_bus = {_quoted(network.source_bus)}",
        f"source_v_pu = {network.source_v_pu!r}",
        f"hours = [{hours}]",
    ]
    plain = {key: value for key, value in about.items() if not isinstance(value, Mapping)}
    tables: dict[str, Mapping[str, Any]] = {"about": plain} if about else {}
    tables |= {f"about.{key}": value for key, value in about.items() if isinstance(value, Mapping)}
    for table, content in tables.items():
        lines += ["", f"[{table}]"]
        for key, value in content.items():
            key = key if _BARE.fullmatch(key) else _quoted(key)
            lines.append(f"{key} = {_quoted(value) if isinstance(value, str) else repr(float(value))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """`text` as a TOML string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_default(values: pd.Series[Any], column: Column) -> bool:
    if column.default is None:
        return False
    if isinstance(column.default, float) and np.isnan(column.default):
        return bool(values.isna().all())
    return bool((values == column.default).all())
