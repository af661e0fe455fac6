"""What is wrong with the files of a market: every fault of them, not only the first.

A reader refuses a file at its first kind of fault. Here each fault that was found is taken out of the tables (a
faulty cell is blanked, a faulty order set aside) and the rest is read again, until nothing new is found.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mktopt.describing import describe
from mktopt.errors import DataError, Fault, MktoptError
from mktopt.networks.cases import load_case
from mktopt.networks.csv_folder import REQUIRED, TABLES, read_settings
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.tables import Column, read_csv, read_table, unknown_values
from mktopt.scenario import FILE, Scenario, parse

T = TypeVar("T")


@dataclass
class Finding:
    """What was found in one file or folder: what it is, its faults, and what looks odd without being wrong."""

    path: str
    what: str = ""
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(target: str, network: Network | None = None) -> list[Finding]:
    """The findings of a scenario, a network (folder, `.m`, `.json`, named case) or a file of orders, one per file.

    network: what orders are checked against where they do not lie in the folder of one.
    """
    path = Path(target)
    if path.name == FILE or (path.suffix == ".toml" and path.name != "network.toml"):
        return check_scenario(path)
    if path.is_dir() and (path / FILE).exists():
        return check_scenario(path / FILE)
    if path.name == "network.toml" or path.name in {f"{table}.csv" for table in TABLES}:
        path = path.parent
    if path.is_dir():
        found, own = check_folder(path)
        if (path / "orders.csv").exists():
            found = [*found, check_participants(path / "orders.csv", own or network)]
        return found
    if path.suffix in (".m", ".json") or not (path.exists() or path.suffix == ".csv"):
        return [check_case(target)]
    return [check_participants(path, network)]


# -- scenarios ----------------------------------------------------------------------------------------------


def check_scenario(path: Path) -> list[Finding]:
    """Findings of a scenario.toml, of its network and of its orders."""
    plan, faults = parse(path)
    own = Finding(str(path), f"scenario of mechanism '{plan.mechanism}'", faults)
    if not path.is_file():
        return [own]
    own.faults += plan.check_names()
    try:
        source = plan.network_source()
    except MktoptError as error:
        own.faults.append(Fault(path.name, str(error), column="network"))
        return [own, *_loose_orders(plan)]
    if isinstance(source, Path) and source.is_dir():
        findings, network = check_folder(source)
    else:
        findings, network = [], _caught(own.faults, str(source), lambda: load_case(source).network)
    timed = network and _caught(own.faults, path.name, lambda: plan.timed(network))
    orders = plan.orders_source()
    if orders is None and isinstance(source, Path) and (source / "orders.csv").exists():
        orders = source / "orders.csv"
    return [own, *findings, *([check_participants(orders, timed)] if orders else [])]


def _loose_orders(plan: Scenario) -> list[Finding]:
    orders = plan.orders_source()
    return [check_participants(orders, None)] if orders else []


def check_case(target: str) -> Finding:
    """The finding of a named case, a MATPOWER `.m` or a pandapower `.json` file, with the orders of its costs."""
    found = Finding(target)
    with _warnings_to(found):
        case = _caught(found.faults, target, lambda: load_case(target))
    if case is not None:
        found.what = describe(case.network)
        if case.orders is not None:
            found.what += f"; {describe(case.orders)}"
            _caught(found.faults, target, lambda: case.orders.check(case.network) if case.orders else None)
    return found


# -- networks -----------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> tuple[list[Finding], Network | None]:
    """The finding of a network's folder, and the network itself where it has no fault."""
    found = Finding(str(folder))
    with _warnings_to(found):
        network = _network(folder, found.faults)
    files = dict(zip(TABLES, (f"{table}.csv" for table in TABLES), strict=True)) | {"network": "network.toml"}
    found.faults = [replace(fault, table=files.get(fault.table, fault.table)) for fault in found.faults]
    if network is not None:
        found.what = describe(network)
    return [found], network


def _network(folder: Path, faults: list[Fault]) -> Network | None:
    """The network in `folder`, None where faults (all appended to `faults`) leave none."""
    settings = _caught(faults, str(folder), lambda: read_settings(folder))
    if settings is None and not folder.is_dir():
        return None
    files = {table: folder / f"{table}.csv" for table in TABLES}
    raw: dict[str, pd.DataFrame] = {}
    for table, file in files.items():
        if table in REQUIRED or file.exists():
            frame = _caught(faults, file.name, lambda file=file: read_csv(file, file.name))  # type: ignore[misc]
            if frame is not None:
                raw[table] = frame
    mended: dict[str, Any] = {table: _mended(frame, table, TABLES[table], faults) for table, frame in raw.items()}
    if any(table not in mended for table in REQUIRED) or any(frame is None for frame in mended.values()):
        return None  # without names nothing can be held against anything
    settings = settings or {}
    source = settings.get("source_bus", next(iter(mended["buses"]["bus"]), ""))
    optional = {key: settings[key] for key in ("source_v_pu", "hours", "name") if key in settings}
    before = [*faults]
    try:
        network = Network(**mended, source_bus=str(source), **{"name": folder.name, **optional})
    except DataError as error:
        faults += [fault for fault in error.faults if not _follows(fault, before)]
        return None
    return None if faults else network


def _mended(frame: pd.DataFrame, table: str, columns: Sequence[Column], faults: list[Fault]) -> pd.DataFrame | None:
    """`frame` with its faulty cells (appended to `faults`) made harmless; None where a column of names is missing."""
    key = columns[0].name
    frame = frame.copy()
    while True:
        new: list[Fault] = []
        read_table(frame, table, columns, new, key)
        if not new:
            return frame
        faults += new
        for fault in new:
            column = next((c for c in columns if c.name == fault.column), None)
            if column is None:
                frame = frame.drop(columns=str(fault.column))
            elif column.name not in frame.columns:
                if column.kind == "text":
                    return None
                frame[column.name] = "1"
            elif column.kind == "text" and not column.choices:
                frame = frame[frame[column.name].astype(str).str.strip() != ""].reset_index(drop=True)
            else:
                labels = frame[key].astype(str) if key in frame else pd.Series([f"row {n + 1}" for n in frame.index])
                harmless = "" if column.missing or column.kind in ("text", "flag") else "1"
                frame.loc[(labels == str(fault.row)).to_numpy(), column.name] = harmless


def _follows(fault: Fault, before: Sequence[Fault]) -> bool:
    """Whether a fault only follows from cells that were blanked or rows that were left out."""
    if fault.table == "branches" and fault.row is None:  # islands: not judged where a branch could not be read
        return any(other.table in ("branches", "branches.csv") for other in before)
    names = ("bus", "from_bus", "to_bus")
    return fault.column not in names and any((o.table, o.row) == (fault.table, fault.row) for o in before)


# -- orders -------------------------------------------------------------------------------------------------


def check_participants(path: Path, network: Network | None) -> Finding:
    """The finding of a CSV file of orders, or of prosumers (told by its columns)."""
    found = Finding(str(path))
    frame = _caught(found.faults, path.name, lambda: read_csv(path))
    if frame is None:
        return found
    if {"agent", "utility"} <= set(frame.columns):
        prosumers = _caught(found.faults, path.name, lambda: Prosumers.from_csv(path))
        if prosumers is not None:
            found.what = f"{len(prosumers)} prosumers"
            if network is not None:
                buses = network.buses["bus"]
                unknown_values(prosumers.table, path.name, "agent", "bus", buses, found.faults, "buses")
        return found
    if len(frame) == 0:
        _caught(found.faults, path.name, lambda: Orders.from_csv(path))
        return found
    orders = _orders(frame, found.faults, network)
    found.faults = _in_file(found.faults, path.name, frame)
    if orders is not None:
        found.what = describe(orders) + (f", checked against network '{network.name}'" if network else "")
    return found


def _in_file(faults: Sequence[Fault], file: str, frame: pd.DataFrame) -> list[Fault]:
    """`faults` in the words of the file that holds them: its name, and the line of an order without a name."""
    nameless: Iterator[int] = iter(())
    if "order" in frame:
        nameless = (position + 2 for position, name in enumerate(frame["order"]) if not str(name).strip())
    result = []
    for fault in faults:
        blank = fault.column == "order" and fault.row is not None and not str(fault.row).strip()
        row = f"line {next(nameless, '?')}" if blank else fault.row
        result.append(replace(fault, table=file, row=row))
    return result


def _orders(frame: pd.DataFrame, faults: list[Fault], network: Network | None) -> Orders | None:
    """The orders of a table as text, all faults appended to `faults`: faulty orders are set aside, the rest read on."""
    left = frame
    while len(left):
        try:
            orders = _read_orders(left)
            if network is not None:
                orders.check(network)
        except DataError as error:
            faults += error.faults
            if "order" not in left:
                return None
            faulty = _orders_of(error.faults, left["order"].astype(str).str.strip())
            if network is not None and "bus" in left:
                _unknown_buses(left[faulty], network, faults)
            if not faulty.any():
                return None
            left = left[~faulty]
        else:
            return orders
    return None


def _read_orders(frame: pd.DataFrame) -> Orders:
    """The orders of a table as `Orders.from_csv` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.csv"
        frame.to_csv(path, index=False)
        return Orders.from_csv(path)


def _orders_of(faults: Sequence[Fault], names: pd.Series[str]) -> pd.Series[bool]:
    """Which rows belong to an order that a fault names (alone, in a tuple, or as 'order, period p, segment s')."""
    known = set(names)
    named: set[str] = set()
    for fault in faults:
        row = fault.row[0] if isinstance(fault.row, tuple) else fault.row
        text = str(row).strip()
        named.add(text if text in known else text.rsplit(", period ", 1)[0])
    return names.isin(named)


def _unknown_buses(rows: pd.DataFrame, network: Network, faults: list[Fault]) -> None:
    """The unknown buses of orders that have another fault, unless they are among the faults already."""
    table = rows[["order", "bus"]].drop_duplicates()
    table = table[table["bus"].astype(str).str.strip() != ""].apply(lambda cells: cells.astype(str).str.strip())
    new: list[Fault] = []
    unknown_values(table, "orders", "order", "bus", network.buses["bus"], new, "buses")
    seen = {(str(fault.row), fault.column) for fault in faults}
    faults += [fault for fault in new if (str(fault.row), fault.column) not in seen]


@contextmanager
def _warnings_to(finding: Finding) -> Iterator[None]:
    """Collects what the readers warn of, each text once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield
    finding.warnings += dict.fromkeys(str(item.message) for item in caught)


def _caught(faults: list[Fault], name: str, read: Callable[[], T]) -> T | None:
    """What `read` gives, None where it fails with faults, which are appended to `faults`."""
    try:
        return read()
    except DataError as error:
        faults += error.faults
    except (MktoptError, OSError) as error:
        faults.append(Fault(name, str(error)))
    return None
