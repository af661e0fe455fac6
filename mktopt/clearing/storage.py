"""Saving a clearing as plain tables with a manifest, and reading it back. No pickle; nothing is executed.

folder/
  manifest.json      versions, mechanism, flow, options, solver, welfare, status, certificate, notes, sha256 of files,
                     whether prices are unique
  prices.*, dispatch.*, flows.*, voltages.*, constraints.*, order_prices.*, reactive_prices.*, relaxation.*,
  contingencies.*, agents.*, aggregators.*, trace.*                              (csv or parquet)
  trades.*, payments.*, groups.*, private_prices.*   of a coalition, with `coalition` in the manifest
  prosumers.csv                                      of an auction of prosumers, with `equilibrium` in the manifest
  orders.csv, network.toml, buses.csv, branches.csv, loads.csv, shunts.csv        the inputs
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mktopt.clearing.certificate import Certificate
from mktopt.clearing.coalition import Coalition
from mktopt.clearing.equilibrium import Equilibrium
from mktopt.clearing.equilibrium_certificate import EquilibriumCertificate
from mktopt.clearing.price_ranges import Ambiguity, ambiguity
from mktopt.clearing.result import Clearing
from mktopt.errors import DataError, Fault, MktoptError
from mktopt.networks.csv_folder import write_tables
from mktopt.networks.files import write_folder
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.utilities import UTILITIES, Utility
from mktopt.solvers.solution import Has, Status, Stopped

FORMAT = 1
TABLES = (
    "prices", "dispatch", "flows", "voltages", "constraints", "order_prices", "reactive_prices", "relaxation",
    "contingencies", "agents", "aggregators", "trace",
)  # fmt: skip
# Those of the record `coalition`.
OF_COALITION = ("trades", "payments", "groups", "private_prices")
_NAMES = (
    "bus", "order", "participant", "side", "branch", "name", "index", "contingency", "kind", "status", "worst_branch",
    "agent", "aggregator", "role", "verdict", "seller", "buyer", "player", "group", "members",
)  # fmt: skip

# Whole numbers stay whole where there are none, and where some are missing.
_WHOLE = {"period": "int64", "worst_period": "Int64"}


@dataclass(frozen=True)
class Recorded:
    """What was found out when the clearing was saved, bound to the tables that it speaks of: the certificate, and a
    price that is not unique (None: all are; "unknown": it was saved without evidence)."""

    figures: dict[str, Any]
    digest: str
    open_price: Ambiguity | str | None = None

    def certificate(self, clearing: Clearing) -> Certificate | EquilibriumCertificate:
        """The recorded certificate; raises MktoptError where the tables are no longer those that were saved."""
        if _digest(clearing) != self.digest:
            raise MktoptError("the tables were changed after loading, so the recorded certificate does not hold")
        kind = Certificate if clearing.equilibrium is None else EquilibriumCertificate
        return kind(**{**self.figures, "source": "recorded when saved"})

    def ambiguity(self, clearing: Clearing) -> Ambiguity | None:
        """The recorded price that is not unique; raises MktoptError where tables were changed or it is unknown."""
        if _digest(clearing) != self.digest:
            raise MktoptError("the tables were changed after loading, so what is recorded of the prices does not hold")
        if isinstance(self.open_price, str):
            raise MktoptError("this clearing was saved without telling whether its prices are unique")
        return self.open_price


def save(clearing: Clearing, folder: str | Path, format: str = "csv") -> None:
    """Writes `clearing` to `folder` in one step; raises DataError where the folder cannot be written.

    format: 'csv', or 'parquet' (needs the extra `parquet`). The certificate is evaluated first.
    """
    if format not in ("csv", "parquet"):
        raise MktoptError(f"unknown format {format!r}; use 'csv' or 'parquet'")
    certificate = asdict(clearing.certificate)

    def fill(aside: Path) -> None:
        write_tables(clearing.network, aside)
        if clearing.prosumers is None:
            aside.joinpath("orders.csv").write_text(clearing.orders.joined().to_csv(index=False), encoding="utf-8")
        else:
            clearing.prosumers.to_csv(aside / "prosumers.csv")
        for name, table in _tables(clearing).items():
            if table is not None:
                _write(table, aside / f"{name}.{format}")
        manifest = _manifest(clearing, certificate, format) | _uniqueness(clearing)
        manifest["sha256"] = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
        manifest["sha256_of_manifest"] = _manifest_digest(manifest)
        text = json.dumps(manifest, indent=2, default=str)
        aside.joinpath("manifest.json").write_text(text + "\n", encoding="utf-8")

    earlier = [f"{name}.{kind}" for name in (*TABLES, *OF_COALITION) for kind in ("csv", "parquet")]
    earlier += ["orders.csv", "prosumers.csv"]
    write_folder(folder, fill, earlier if (Path(folder) / "manifest.json").is_file() else ())


def load(folder: str | Path, utilities: Mapping[str, Utility] | None = None) -> Clearing:
    """Reads a clearing that `save` wrote; raises DataError where a file is missing or was changed since.

    utilities: those of your own that its prosumers have, by name, since functions are not saved.

    The loaded clearing carries the recorded certificate; clear the market again to evaluate it anew.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file():
            raise DataError(Fault(str(folder), "a file of the saved clearing is missing", name))
        if _sha256(folder / name) != digest:
            problem = "the file was changed after it was saved (its sha256 differs from the manifest's)"
            raise DataError(Fault(str(folder), problem, name, hint="save the clearing again"))
    files = {name: f"{name}.{manifest['format']}" for name in TABLES}
    tables: dict[str, Any] = {
        name: _read(folder / file) if file in manifest["sha256"] else None for name, file in files.items()
    }
    clearing = Clearing(
        **tables,
        welfare=manifest["welfare"],
        status=Status(Stopped[manifest["status"]["stopped"]], Has[manifest["status"]["has"]]),
        network=Network.from_csv(folder),
        **_participants(folder, manifest, utilities),
        coalition=_coalition(folder, manifest),
        notes=tuple(manifest["notes"]),
        **{key: manifest[key] for key in _PLAIN},
    )
    _refuse_other_utilities(clearing, folder)
    return replace(clearing, evidence=Recorded(manifest["certificate"], _digest(clearing), _open_price(manifest)))


def _refuse_other_utilities(clearing: Clearing, folder: Path) -> None:
    """Functions are not saved; those given must be worth to the agents what they were when it was cleared."""
    if clearing.prosumers is None or clearing.agents is None or not clearing.prosumers.utilities:
        return
    people, agents, hours = clearing.prosumers, clearing.agents, clearing.network.hours
    x, saved = (agents[name].to_numpy().reshape(-1, len(hours)).T for name in ("consumption_kw", "utility"))
    found = hours[:, None] * people.utility(x)
    apart = np.abs(found - saved).max(axis=0) > 1e-6 * np.maximum(np.abs(saved).max(axis=0), 1.0)
    if apart.any():
        agent, name = people.table[["agent", "utility"]].iloc[int(np.argmax(apart))]
        problem = "the utility given is not the one that the market was cleared with"
        raise DataError(Fault(str(folder), problem, agent, "utility", name, "give the function of that time"))


_PLAIN = ("mechanism", "flow", "options", "flow_options", "solver", "solver_options", "seconds")


def _participants(folder: Path, manifest: dict[str, Any], utilities: Mapping[str, Utility] | None) -> dict[str, Any]:
    """The fields of a clearing that say who took part."""
    found = manifest.get("equilibrium")
    if found is None:
        return {"orders": Orders.from_csv(folder / "orders.csv")}
    figures = {**found, "c0": tuple(found["c0"])}
    numbers = {name: math.nan for name in ("residual", "eta") if figures[name] is None}
    own = sorted(set(_read(folder / "prosumers.csv").get("utility", ())) - {*UTILITIES, *(utilities or {})})
    if own:
        hint = f"load it with Clearing.load(folder, utilities={{'{own[0]}': ...}}), made by mktopt.own_utility"
        problem = f"its agents have utilities of one's own, which no file holds: {', '.join(map(str, own))}"
        raise DataError(Fault(str(folder), problem, hint=hint))
    return {
        "orders": Orders.none(),
        "prosumers": Prosumers.from_csv(folder / "prosumers.csv", utilities=utilities),
        "equilibrium": Equilibrium(**figures | numbers),
    }


def _equilibrium(clearing: Clearing) -> dict[str, Any] | None:
    """The manifest's entry of how an equilibrium was found; what is no number is null."""
    if clearing.equilibrium is None:
        return None
    entry = asdict(clearing.equilibrium)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}


def _tables(clearing: Clearing) -> dict[str, pd.DataFrame | None]:
    """All tables of a clearing by name, None for those that it does not have."""
    tables = {name: getattr(clearing, name) for name in TABLES}
    if clearing.coalition is not None:
        tables |= {name: getattr(clearing.coalition, name) for name in OF_COALITION}
    return tables


def _coalition_entry(clearing: Clearing) -> dict[str, Any] | None:
    """The manifest's entry of a coalition: all of its record but the tables."""
    if clearing.coalition is None:
        return None
    found = clearing.coalition
    return {item.name: getattr(found, item.name) for item in fields(found) if item.name not in OF_COALITION}


def _coalition(folder: Path, manifest: dict[str, Any]) -> Coalition | None:
    """The record of a coalition that was saved, None where it was another mechanism."""
    entry = manifest.get("coalition")
    if entry is None:
        return None
    files = {name: f"{name}.{manifest['format']}" for name in OF_COALITION}
    tables: dict[str, Any] = {
        name: _read(folder / file) if file in manifest["sha256"] else None for name, file in files.items()
    }
    prices = {name: None if entry[name] is None else tuple(entry[name]) for name in ("retail", "feed_in", "wholesale")}
    return Coalition(**entry | prices, **tables)


def _manifest(clearing: Clearing, certificate: dict[str, Any], format: str) -> dict[str, Any]:
    packages = ("mktopt", "pyomo", "highspy", "clarabel", "numpy", "scipy", "pandas")
    return {
        "mktopt_clearing": FORMAT,
        "format": format,
        **{key: _plain(getattr(clearing, key)) for key in _PLAIN},
        "status": {"stopped": clearing.status.stopped.name, "has": clearing.status.has.name},
        "welfare": clearing.welfare,
        "notes": list(clearing.notes),
        "seed": clearing.options.get("seed"),
        "certificate": certificate,
        "equilibrium": _equilibrium(clearing),
        "coalition": _coalition_entry(clearing),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def _uniqueness(clearing: Clearing) -> dict[str, Any]:
    """The manifest's entries on the uniqueness of prices; an end that is infinite is null."""
    try:
        found = ambiguity(clearing)
    except MktoptError:
        return {"prices_unique": None, "open_price": None}
    if found is None:
        return {"prices_unique": True, "open_price": None}
    ends = {name: value if math.isfinite(value) else None for name, value in (("low", found.low), ("high", found.high))}
    return {"prices_unique": False, "open_price": {"bus": found.bus, "period": found.period, **ends}}


def _open_price(manifest: dict[str, Any]) -> Ambiguity | str | None:
    unique, entry = manifest.get("prices_unique"), manifest.get("open_price")
    if unique is None:
        return "unknown"
    if unique or entry is None:
        return None
    low = -math.inf if entry["low"] is None else entry["low"]
    return Ambiguity(entry["bus"], entry["period"], low, math.inf if entry["high"] is None else entry["high"])


def _plain(value: Any) -> Any:
    return dict(value) if not isinstance(value, str) else value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "no manifest.json in this folder, so it is no saved clearing"
        raise DataError(Fault(str(folder), problem, hint="name a folder that Clearing.save wrote")) from None
    except (ValueError, OSError) as error:
        raise DataError(Fault(str(path), f"cannot be read: {error}", hint="save the clearing again")) from None
    if not isinstance(manifest, dict) or manifest.get("mktopt_clearing") != FORMAT:
        problem = f"the manifest's format is not {FORMAT}"
        raise DataError(Fault(str(path), problem, hint="load it with the version of mktopt that saved it"))
    if manifest.get("sha256_of_manifest") != _manifest_digest(manifest):
        problem = "the manifest was changed after it was saved (its sha256 differs from the one in it)"
        raise DataError(Fault(str(path), problem, hint="save the clearing again"))
    kind = Certificate if manifest.get("equilibrium") is None else EquilibriumCertificate
    known = {field.name for field in fields(kind)}
    if set(manifest["certificate"]) != known:
        raise DataError(Fault(str(path), "the certificate has other figures than this version's"))
    return manifest


def _write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        path.write_text(table.to_csv(index=False), encoding="utf-8")
        return
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise MktoptError("parquet needs pyarrow: pip install 'mktopt[parquet]', or save with format='csv'") from None


def _manifest_digest(manifest: dict[str, Any]) -> str:
    """sha256 of the manifest's other entries, as JSON reads them back."""
    rest = {key: value for key, value in manifest.items() if key != "sha256_of_manifest"}
    plain = json.loads(json.dumps(rest, default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    header = pd.read_csv(path, nrows=0).columns
    kinds: dict[str, Any] = {name: str for name in _NAMES if name in header}
    kinds |= {name: kind for name, kind in _WHOLE.items() if name in header}
    gaps = {name: [""] for name in header if name not in _NAMES}  # a bus may be called NA
    options: dict[str, Any] = {"dtype": kinds, "keep_default_na": False, "na_values": gaps}
    return pd.read_csv(path, float_precision="round_trip", **options)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(clearing: Clearing) -> str:
    digest = hashlib.sha256(repr(clearing.welfare).encode())
    if (entry := _coalition_entry(clearing)) is not None:
        digest.update(json.dumps(entry, sort_keys=True).encode())
    for table in _tables(clearing).values():
        digest.update(b"none" if table is None else table.to_csv(index=False).encode())
    return digest.hexdigest()
