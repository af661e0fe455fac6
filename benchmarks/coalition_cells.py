"""The cells of `coalition_losses.py` (no script): parameters, draws, four behaviours each, on all cores, resumable.

A draw is a seed. It fixes who has how much, where buses lie on the unit square, and a number u in [0, 1) for every pair
of buses; a wire of density d is there where u < d. So one draw has the same people in all cells, the same places in
all areas, and its wires at a low density are among those at a higher one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import mktopt as mo
from mktopt.clearing.coalition_certificate import coalition_certificate
from mktopt.errors import DataError, Fault, MktoptError
from mktopt.networks.private_wires import Wire, add_private_wires, density_of, endowments, with_private_wires

FILE = Path(__file__).parent / "coalition_losses" / "parameters.toml"
LOAD, EQUAL = "load", "equal"
# Each worker has one core, which neither BLAS nor the solver's own threads are to share.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
KEY = ["study", "area_km", "density", "draw"]
FIGURES = ("resource_cost", "settled_cost", "public_loss_kwh", "private_loss_kwh", "import_kwh", "export_kwh")


@dataclass(frozen=True)
class Study:
    """What a cell depends on beside area, density, draw and behaviour; units as in parameters.toml."""

    case: str
    limits: bool
    sizes: str
    size_factor: float
    surplus_share: float
    balanced: bool
    retail: float
    feed_in: float
    wholesale: float
    r_ohm_per_km: float
    x_ohm_per_km: float
    kv: float
    rating_kva: float
    radius_share: float
    seed: int

    @cached_property
    def digest(self) -> str:
        """A short name of these parameters under this code and these solvers: other cells are not comparable."""
        text = json.dumps(asdict(self), sort_keys=True) + _code()
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _code() -> str:
    """Names the code of mktopt and the versions of the libraries that decide about digits."""
    found = hashlib.sha256()
    for path in sorted(Path(mo.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest() + ",".join(version(name) for name in ("clarabel", "numpy", "scipy"))


class Item(NamedTuple):
    """One network of one draw, to be cleared in all behaviours."""

    study: Study
    area_km: float
    density: str
    draw: int
    behaviours: tuple[str, ...]

    @property
    def key(self) -> tuple[str, float, str, int]:
        """What names its lines in the file of cells."""
        return self.study.digest, self.area_km, self.density, self.draw


@dataclass(frozen=True)
class Parameters:
    """The file of parameters, read and checked; scan: further densities, variants: further studies by name, poster:
    its table as printed."""

    study: Study
    behaviours: tuple[str, ...]
    densities: tuple[str, ...]
    areas_km: tuple[float, ...]
    draws: int
    scan: tuple[str, ...]
    variants: dict[str, Study]
    variant_areas_km: tuple[float, ...]
    variant_draws: int
    poster: pd.DataFrame

    @classmethod
    def read(cls, path: Path = FILE) -> Parameters:
        """The parameters of `path`; raises DataError for what is missing or unknown."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise DataError(Fault(path.name, f"cannot be read: {error}")) from None
        try:
            table, other = told["table"], told["sensitivity"]
            given = {**told["grid"], **told["agents"], **told["prices"], **told["wires"], "seed": table["seed"]}
            study = _study(path.name, given)
            variants = {
                name: _study(path.name, {**given, **changes}) for name, changes in other.get("variants", {}).items()
            }
            return cls(
                study, tuple(table["behaviours"]), tuple(table["densities"]), tuple(map(float, table["areas_km"])),
                int(table["draws"]), tuple(other["densities"]), variants, tuple(map(float, other["areas_km"])),
                int(other["draws"]), _poster(told.get("poster", {}), table["densities"]),
            )  # fmt: skip
        except KeyError as missing:
            raise DataError(Fault(path.name, "is missing", column=str(missing))) from None

    def quick(self) -> Parameters:
        """Two draws without the densest wires, which take most of the time."""
        return replace(self, densities=tuple(d for d in self.densities if d != "1/log n"), draws=2, variant_draws=2)

    def items(self, sensitivity: bool = False) -> list[Item]:
        """All work in the order in which it is done: draw by draw, the densest first."""
        dense = self.densities[::-1]
        found = [Item(self.study, area, density, draw, self.behaviours)
                 for draw in range(self.draws) for density in dense for area in self.areas_km]  # fmt: skip
        if sensitivity:
            more = {self.study: self.scan, **dict.fromkeys(self.variants.values(), dense)}
            found += [Item(study, area, density, draw, self.behaviours)
                      for study, densities in more.items() for draw in range(self.variant_draws)
                      for density in densities for area in self.variant_areas_km]  # fmt: skip
        return list({item.key: item for item in found}.values())


def _study(table: str, given: Mapping[str, Any]) -> Study:
    known = {field.name: field.type for field in fields(Study)}
    for name in [*(given.keys() - known), *(known.keys() - given)]:
        problem = "is unknown" if name in given else "is missing"
        raise DataError(Fault(table, problem, column=name, hint=f"parameters of a study: {', '.join(known)}"))
    kinds: dict[Any, Callable[[Any], Any]] = {"str": str, "bool": bool, "int": int, "float": float}
    study = Study(**{name: kinds[known[name]](value) for name, value in given.items()})
    if study.sizes not in (LOAD, EQUAL):
        raise DataError(Fault(table, "must be one of 'load', 'equal'", column="sizes", value=study.sizes))
    return study


def _poster(told: Mapping[str, Mapping[str, Sequence[float]]], densities: Sequence[str]) -> pd.DataFrame:
    rows = [(float(area), behaviour, density, loss) for area, models in told.items()
            for behaviour, losses in models.items()
            for density, loss in zip(densities, losses, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["area_km", "behaviour", "density", "loss"])


# -- one draw ----------------------------------------------------------------------------------------------------------


@cache
def public_grid(case: str, limits: bool) -> mo.Network:
    """The public grid of a study, without ratings and angle limits unless it has `limits`."""
    network = mo.load_network(case)
    if limits:
        return network
    free = network.branches.assign(rating_kva=np.inf, angle_min_deg=-360.0, angle_max_deg=360.0)
    return network.replace(branches=free)


def people(study: Study, draw: int) -> mo.Orders:
    """Surpluses and needs of a draw, and the main grid's orders."""
    network = public_grid(study.case, study.limits)
    load = network.loads.groupby("bus")["p_kw"].sum().reindex(network.buses["bus"], fill_value=0.0).abs().to_numpy()
    size = load if study.sizes == LOAD else np.full(network.n_buses, load.mean())
    orders = endowments(network, study.seed + draw, size_kw=study.size_factor * size,
                        surplus_share=study.surplus_share, retail=study.retail, feed_in=study.feed_in)  # fmt: skip
    return _balanced(orders) if study.balanced else orders


def _balanced(orders: mo.Orders) -> mo.Orders:
    """`orders` with all surpluses scaled so that they add up to all needs."""
    table = orders.orders
    needs, gives = (((table["participant"] != "main_grid") & (table["side"] == side)).to_numpy()
                    for side in ("bid", "offer"))  # fmt: skip
    kw = table["minimum_kw"].to_numpy()
    factor = np.where(gives, kw[needs].sum() / kw[gives].sum(), 1.0)
    width = orders.segments["width_kw"] * factor[orders.segment_order]
    return mo.Orders(table.assign(minimum_kw=kw * factor), orders.segments.assign(width_kw=width), orders.meta)


def grid(study: Study, area_km: float, density: str, draw: int) -> mo.Network:
    """The public grid at the places of a draw, with its private wires."""
    seed = study.seed + draw
    placed = with_private_wires(public_grid(study.case, study.limits), 0.0, (area_km, area_km), seed)
    first, second = np.triu_indices(placed.n_buses, 1)
    drawn = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))).random(len(first))
    there = drawn < density_of(density, placed.n_buses)
    names = placed.buses["bus"].to_numpy()
    ends = pd.DataFrame({"from_bus": names[first[there]], "to_bus": names[second[there]]})
    return add_private_wires(placed, ends, Wire(study.r_ohm_per_km, study.x_ohm_per_km, study.rating_kva, study.kv))


def run(item: Item) -> list[dict[str, Any]]:
    """The rows of an item, one per behaviour; a behaviour that cannot be cleared has `problem` and no figures."""
    study = item.study
    orders, network = people(study, item.draw), grid(study, item.area_km, item.density, item.draw)
    agents = orders.orders[orders.orders["participant"] != "main_grid"]
    needs = float(agents["minimum_kw"].where(agents["side"] == "bid", 0.0).sum())
    surplus = float(agents["minimum_kw"].where(agents["side"] == "offer", 0.0).sum())
    told = {
        **dict(zip(KEY, item.key, strict=True)),
        "edge_density": density_of(item.density, network.n_buses),
        "wires": int((network.branches["kind"] == "private").sum()), "demand_kwh": needs, "surplus_kwh": surplus,
        "shunt_kwh": float(network.shunts["g_kw"].sum()),
    }  # fmt: skip
    return [told | _cell(study, network, orders, item.area_km, behaviour) for behaviour in item.behaviours]


def _cell(study: Study, network: mo.Network, orders: mo.Orders, area_km: float, behaviour: str) -> dict[str, Any]:
    options: dict[str, Any] = {"behaviour": behaviour, "wholesale": study.wholesale}
    if behaviour == "ad_hoc" and math.isfinite(study.radius_share):
        options["radius_km"] = study.radius_share * area_km
    start = time.perf_counter()
    try:
        clearing = mo.clear("coalition", network, orders, **options)
    except MktoptError as error:
        seconds, none = time.perf_counter() - start, dict.fromkeys((*FIGURES, "phantom_kw"), np.nan)
        return {"behaviour": behaviour, "problem": str(error).splitlines()[0], "seconds": seconds,
                "status": "no result", "certificate": False, "record": False, **none}  # fmt: skip
    found, seconds = clearing.coalition, time.perf_counter() - start
    assert found is not None
    assert clearing.relaxation is not None
    return {
        "behaviour": behaviour, "problem": None, "seconds": seconds, "status": str(clearing.status),
        "certificate": bool(clearing.certificate.ok()), "record": coalition_certificate(clearing).ok(),
        "phantom_kw": float(clearing.relaxation["phantom_kw"].abs().sum()),
        **{name: getattr(found, name) for name in FIGURES},
    }  # fmt: skip


# -- all of them -------------------------------------------------------------------------------------------------------


def known(path: Path, items: Sequence[Item]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows in the file that belong to `items`, by key, of those that have all behaviours asked for.

    A last line that was cut off in the middle is cut off the file; rows of other parameters or other code stay there
    and are left out.
    """
    if not path.exists():
        return {}
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        text = text[: text.rfind(b"\n") + 1]
        os.truncate(path, len(text))
    wanted = {item.key: set(item.behaviours) for item in items}
    found = {}
    for line in text.splitlines():
        rows = json.loads(line)
        key = tuple(rows[0][name] for name in KEY)
        if key in wanted and wanted[key] <= {row["behaviour"] for row in rows}:
            found[key] = [row for row in rows if row["behaviour"] in wanted[key]]
    return found


def run_all(
    items: Sequence[Item], path: Path, workers: int, fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Rows of all items, from the file `path` where it has them, else computed and appended, one line per item.

    A line is written in one piece and synchronised before the next: what an interruption leaves is whole. progress is
    called with the numbers of items done and of all.
    """
    if fresh:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = known(path, items)
    left = [item for item in items if item.key not in found]
    report = progress or (lambda done, of: None)
    report(len(found), len(items))
    with open(path, "ab", buffering=0) as file:
        for item, rows in _computed(left, workers):
            file.write(json.dumps(rows).encode() + b"\n")
            os.fsync(file.fileno())
            found[item.key] = rows
            report(len(found), len(items))
    return pd.DataFrame([row for item in items for row in found[item.key]])


def _computed(items: Sequence[Item], workers: int) -> Iterator[tuple[Item, list[dict[str, Any]]]]:
    """Items with their rows, as they are done; one worker: here, in order."""
    if workers <= 1 or len(items) <= 1:
        for item in items:
            yield item, run(item)
        return
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read by the libraries of the workers when they begin
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(run, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenExecutor:
        raise MktoptError("a worker was ended from outside, perhaps for want of memory; what is done is kept, "
                          "the same command with fewer --workers goes on") from None  # fmt: skip
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
