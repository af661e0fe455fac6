"""Reading MATPOWER case files (`.m`, version 2): the network, and a market from its generation costs.

A branch with tap tau and shift phi becomes z tau^2, b / tau^2, ratio 1 / tau and shift phi (see `units`). RATE_A = 0
is no limit; a base voltage of 0 is taken as 1 kV. Buses of type 4 and what hangs on them are left out. Buses are
named by their numbers; branch "1-2" runs from bus 1 to bus 2 and "1-2#2" is the second one between them.
Reference: MATPOWER User's Manual, appendix B.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks import units
from mktopt.networks.costs import Generator, offers
from mktopt.networks.defaults import firm_orders
from mktopt.networks.names import unique_names
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]

REFERENCE, ISOLATED = 3, 4
# Least number of columns that each table must have.
WIDTHS = {"bus": 13, "gen": 10, "branch": 11}


class MatpowerCase(NamedTuple):
    """Tables of a MATPOWER case: base_mva, and bus, gen, branch, gencost (None where absent) as arrays."""

    name: str
    base_mva: float
    bus: FloatArray
    gen: FloatArray
    branch: FloatArray
    gencost: FloatArray | None


def read_network(path: str | Path) -> Network:
    """The network of the case file at `path`; raises DataError."""
    return to_network(read_case(path))


def read_case(path: str | Path) -> MatpowerCase:
    """The tables of the case file at `path`; raises DataError for what is no plain version-2 case."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="strict")
    except FileNotFoundError:
        raise DataError(Fault(path.name, f"no file {str(path)!r}", hint="check the path")) from None
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(Fault(path.name, f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        text = path.read_bytes().decode("latin-1")  # names in comments; all that counts is ASCII
    return parse_case(text, path.stem, path.name)


def parse_case(text: str, name: str = "case", table: str = "case.m") -> MatpowerCase:
    """The tables in the `text` of a case file; `name` is taken where the file names no function."""
    code = _without_comments(text)
    struct, named = _header(code)
    computed = re.search(rf"^\s*{struct}\.\w+\s*\([^=]*=", code, re.MULTILINE)
    if computed:
        problem = f"the file computes on its tables ({computed.group().strip()[:40]}...)"
        raise DataError(Fault(table, problem, hint="run it in MATPOWER and save the result with savecase"))
    if not code.strip():
        raise DataError(Fault(table, "the file is empty", hint="give a MATPOWER case of version 2"))
    version = re.search(rf"\b{struct}\.version\s*=\s*['\"]?(\w+)", code)
    if version is None or version.group(1) != "2":
        value = None if version is None else version.group(1)
        hint = "convert it in MATPOWER with savecase"
        raise DataError(Fault(table, "not a MATPOWER case of version 2", None, "mpc.version", value, hint))
    base = re.search(rf"\b{struct}\.baseMVA\s*=\s*([^;\n]+)", code)
    if base is None:
        raise DataError(Fault(table, "the value is missing", column="mpc.baseMVA"))
    tables = {key: _matrix(code, struct, key, table) for key in ("bus", "gen", "branch", "gencost")}
    for key, width in WIDTHS.items():
        found = tables[key]
        if found is None:
            raise DataError(Fault(table, "the table is missing", column=f"mpc.{key}"))
        if len(found) and found.shape[1] < width:
            raise DataError(Fault(table, f"{found.shape[1]} columns, at least {width} needed", column=f"mpc.{key}"))
    gencost = tables.pop("gencost")
    (base_mva,) = _numbers([base.group(1).strip()], table, "mpc.baseMVA", 1)
    return MatpowerCase(named or name, base_mva, gencost=gencost, **tables)  # type: ignore[arg-type]


def _header(code: str) -> tuple[str, str]:
    """Names of the struct and of the function in the first line of a case file."""
    head = re.search(r"^\s*function\s+(\w+)\s*=\s*(\w+)", code, re.MULTILINE)
    return (head.group(1), head.group(2)) if head else ("mpc", "")


def _without_comments(text: str) -> str:
    """`text` without comments and with continued lines joined; a % or ... within quotes stays."""
    lines = []
    for line in re.sub(r"^\s*%\{\s*$.*?^\s*%\}\s*$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        quoted, end = False, len(line)
        for position, letter in enumerate(line):
            # A quote after a word or bracket is a transpose, not a string.
            if letter == "'" and (quoted or not re.search(r"[\w\])]$", line[:position])):
                quoted = not quoted
            elif not quoted and (letter == "%" or line.startswith("...", position)):
                end = position
                break
        lines.append(line[:end] + (" " if line.startswith("...", end) else "\n"))
    return "".join(lines)


def _matrix(code: str, struct: str, key: str, table: str) -> FloatArray | None:
    found = re.search(rf"\b{struct}\.{key}\s*=\s*\[(.*?)\]", code, re.DOTALL)
    if found is None:
        return None
    rows = [row for row in re.split(r"[;\n]", found.group(1)) if row.strip()]
    cells = [row.replace(",", " ").split() for row in rows]
    numbers = [_numbers(row, table, f"mpc.{key}", number) for number, row in enumerate(cells, start=1)]
    widths = {len(row) for row in numbers}
    if len(widths) > 1 and key != "gencost":
        odd = next(number for number, row in enumerate(numbers, start=1) if len(row) != len(numbers[0]))
        problem = f"{len(numbers[odd - 1])} cells where the first row has {len(numbers[0])}"
        raise DataError(Fault(table, problem, f"row {odd} of mpc.{key}"))
    width = max(widths, default=0)
    return np.array([row + [0.0] * (width - len(row)) for row in numbers], dtype=float).reshape(len(numbers), width)


def _numbers(cells: list[str], table: str, column: str, row: int) -> list[float]:
    result = []
    for cell in cells:
        try:
            result.append(float(cell))  # float() knows Inf, -inf and NaN too
        except ValueError:
            hint = "write plain numbers; save computed cases with savecase"
            raise DataError(Fault(table, "not a number", f"row {row}", column, cell, hint)) from None
    return result


# -- network ------------------------------------------------------------------------------------------------------


def to_network(case: MatpowerCase) -> Network:
    """The network of a parsed `case`; raises DataError."""
    bus = case.bus[case.bus[:, 1] != ISOLATED]
    names = _bus_names(bus[:, 0])
    reference = np.flatnonzero(bus[:, 1] == REFERENCE)
    if len(reference) != 1:
        hint = "exactly one bus must have BUS_TYPE 3"
        raise DataError(Fault("mpc.bus", f"{len(reference)} reference buses", column="BUS_TYPE", hint=hint))
    kv = np.where(bus[:, 9] > 0, bus[:, 9], 1.0)
    loaded, shunted = (bus[:, 2] != 0) | (bus[:, 3] != 0), (bus[:, 4] != 0) | (bus[:, 5] != 0)
    source = names[reference[0]]
    return Network(
        buses=pd.DataFrame({"bus": names, "base_kv": kv, "v_min_pu": bus[:, 12], "v_max_pu": bus[:, 11]}),
        branches=_branches(case, dict(zip(names, kv, strict=True))),
        loads=pd.DataFrame({
            "load": "load_" + names[loaded],
            "bus": names[loaded],
            "p_kw": units.KW_PER_MW * bus[loaded, 2],
            "q_kvar": units.KW_PER_MW * bus[loaded, 3],
        }),
        shunts=pd.DataFrame({
            "bus": names[shunted],
            "g_kw": units.KW_PER_MW * bus[shunted, 4],
            "b_kvar": units.KW_PER_MW * bus[shunted, 5],
        }),
        source_bus=str(source),
        source_v_pu=_source_voltage(case, bus[reference[0]]),
        name=case.name,
    )  # fmt: skip


def _bus_names(numbers: FloatArray) -> npt.NDArray[Any]:
    return np.array([f"{number:.0f}" for number in numbers], dtype=object)


def _source_voltage(case: MatpowerCase, row: FloatArray) -> float:
    """Set point of a generator in service at the reference bus, else the voltage in its bus row."""
    gens = case.gen[(case.gen[:, 0] == row[0]) & (case.gen[:, 7] > 0)] if len(case.gen) else case.gen
    voltage = float(gens[0, 5]) if len(gens) else float(row[7])
    return voltage if voltage > 0 else 1.0


def _branches(case: MatpowerCase, kv: dict[str, float]) -> pd.DataFrame:
    branch = case.branch if len(case.branch) else np.zeros((0, 13))
    start, end = _bus_names(branch[:, 0]), _bus_names(branch[:, 1])
    isolated = set(_bus_names(case.bus[case.bus[:, 1] == ISOLATED, 0]))
    keep = np.array([a not in isolated and b not in isolated for a, b in zip(start, end, strict=True)], dtype=bool)
    branch, start, end = branch[keep], start[keep], end[keep]
    tap = np.where(branch[:, 8] == 0, 1.0, branch[:, 8])
    base = np.array([kv.get(name, 1.0) for name in start])
    other = np.array([kv.get(name, 1.0) for name in end])
    base_kva = units.KW_PER_MW * case.base_mva
    limits = branch[:, 11:13] if branch.shape[1] >= 13 else np.tile([-360.0, 360.0], (len(branch), 1))
    unlimited = (limits[:, 0] == 0) & (limits[:, 1] == 0)
    transformer = (branch[:, 8] != 0) | (branch[:, 9] != 0) | (base != other)
    return pd.DataFrame({
        "branch": unique_names([f"{a}-{b}" for a, b in zip(start, end, strict=True)]),
        "from_bus": start,
        "to_bus": end,
        "r_ohm": units.pu_to_ohm(branch[:, 2], base, base_kva) * tap**2,
        "x_ohm": units.pu_to_ohm(branch[:, 3], base, base_kva) * tap**2,
        "b_us": units.pu_to_us(branch[:, 4], base, base_kva) / tap**2,
        "ratio": 1.0 / tap,
        "shift_deg": branch[:, 9],
        "angle_min_deg": np.where(unlimited, -360.0, np.maximum(limits[:, 0], -360.0)),
        "angle_max_deg": np.where(unlimited, 360.0, np.minimum(limits[:, 1], 360.0)),
        "rating_kva": np.where(branch[:, 5] == 0, np.inf, units.KW_PER_MW * branch[:, 5]),
        "kind": np.where(transformer, "transformer", "line"),
        "in_service": branch[:, 10] > 0,
    })  # fmt: skip


# -- market -------------------------------------------------------------------------------------------------------


def to_orders(case: MatpowerCase, network: Network, voll: float = 10.0) -> tuple[Orders, dict[str, float]]:
    """Offers from the generation costs and firm bids of the loads at `voll` [$/kWh]; see `costs.offers`.

    Raises DataError where the file has no costs, or costs that no market can take.
    """
    if case.gencost is None:
        hint = "give mpc.gencost, or orders of your own"
        raise DataError(Fault("mpc.gencost", "the case has no generation costs", hint=hint))
    if len(case.gencost) not in (len(case.gen), 2 * len(case.gen)):
        problem = f"{len(case.gencost)} rows for {len(case.gen)} generators"
        raise DataError(Fault("mpc.gencost", problem, hint="one row per generator (and one more each for reactive)"))
    known = set(network.buses["bus"])
    names = unique_names([f"gen_{bus}" for bus in _bus_names(case.gen[:, 0])])
    generators = [
        Generator(name, bus, float(row[9]), float(row[8]), float(row[4]), float(row[3]), _cost(cost, name))
        for name, bus, row, cost in zip(names, _bus_names(case.gen[:, 0]), case.gen, case.gencost, strict=False)
        if row[7] > 0 and bus in known
    ]
    orders, account = offers(generators)
    return orders.merge(firm_orders(network, voll)), account


def _cost(row: FloatArray, name: str) -> tuple[str, tuple[float, ...]]:
    count = int(row[3])
    kinds = {1: ("piecewise", 2 * count), 2: ("polynomial", count)}
    if int(row[0]) not in kinds:
        raise DataError(Fault("mpc.gencost", "unknown cost model", name, "MODEL", row[0], "1 or 2"))
    kind, length = kinds[int(row[0])]
    if len(row) < 4 + length:
        raise DataError(Fault("mpc.gencost", f"{length} cost numbers announced, {len(row) - 4} given", name, "NCOST"))
    return kind, tuple(float(value) for value in row[4 : 4 + length])
