"""Reading and writing pandapower nets.

Lines, two-winding transformers (taps, phase shifts, iron losses), symmetrical impedances, bus-bus switches, shunts,
wards, loads, static generators and storages are taken. Generators, external grids and controllable static
generators are dispatchable: they are no load but offers (`offers_from_pandapower`). Three-winding transformers and
all other elements in service are refused. Elements keep their `name`; without one a bus is named by its index and
anything else by table and index, as in "line_3"; a name that stands twice gets "#2".
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks import units
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.costs import Generator, offers
from mktopt.networks.names import element_names, unique_names
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.pandapower_export import to_pandapower
from mktopt.networks.pandapower_tables import (
    constant_impedance,
    controllable,
    impedances,
    line_shunts,
    lines,
    loads,
    shunts,
    switches,
)
from mktopt.networks.pandapower_trafo import transformers

__all__ = ["from_pandapower", "offers_from_pandapower", "read_json", "to_pandapower"]

FloatArray = npt.NDArray[np.float64]

# Elements that have no counterpart here; each is refused where it is in service.
REFUSED = (
    "trafo3w", "xward", "motor", "dcline", "asymmetric_load", "asymmetric_sgen", "svc", "ssc", "tcsc", "vsc",
    "line_dc", "b2b_vsc", "bi_vsc",
)  # fmt: skip


def from_pandapower(net: Any, name: str | None = None) -> Network:
    """The network of a pandapower `net` (or of the path of its .json file).

    net: a pandapowerNet; name: of the result, by default that of the net. Units out of service and the buses that are
    out of service are left out; branches out of service stay as such, also those behind an open switch. Raises
    DataError.
    """
    if isinstance(net, (str, Path)):
        path = Path(net)
        net, name = read_json(path), name or path.stem
    _refuse_unknown(net)
    buses = _buses(net)
    names = buses["bus"]
    source = _source(net)
    parts = [lines(net, names), impedances(net, names), switches(net, names)]
    trafos, iron = transformers(net, names)
    branches = pd.concat([part for part in [parts[0], trafos, *parts[1:]] if len(part)], ignore_index=True)
    if len(branches):
        branches["branch"] = unique_names(list(branches["branch"]))
    else:
        branches = pd.DataFrame(columns=["branch", "from_bus", "to_bus", "r_ohm", "x_ohm"])
    return Network(
        buses=buses.reset_index(drop=True),
        branches=branches,
        loads=loads(net, names),
        shunts=_summed(pd.concat([shunts(net, names), iron, constant_impedance(net, names), line_shunts(net, names)])),
        source_bus=str(names[source["bus"]]),
        source_v_pu=float(source["vm_pu"]),
        name=name or str(net.get("name") or "pandapower"),
    )


def read_json(path: str | Path) -> Any:
    """The pandapower net in the .json file at `path`; raises DataError."""
    try:
        import pandapower
    except ImportError:
        raise DataError(Fault(str(path), "reading it needs pandapower", hint="pip install pandapower")) from None
    try:
        text = Path(path).read_text(encoding="utf-8")
        json.loads(text)
        net = pandapower.from_json_string(text)
    except FileNotFoundError:
        raise DataError(Fault(str(path), "no such file", hint="check the path")) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(Fault(str(path), f"cannot be read as JSON: {error}")) from None
    if not hasattr(net, "bus") or not hasattr(net, "ext_grid"):
        raise DataError(Fault(str(path), "holds no pandapower net", hint="write it with pandapower.to_json"))
    return net


def offers_from_pandapower(net: Any, network: Network) -> tuple[Orders, dict[str, float]]:
    """Offers of generators, external grids and controllable static generators from the costs in `net`.

    A unit without costs offers at 0 $/kWh (costs are read as $ where pandapower says EUR). An external grid without
    limits is given ten times the whole load either way. Second: see `costs.offers`. Raises DataError.
    """
    names = _buses(net)["bus"]
    wide = 10.0 * float(network.loads["p_kw"].abs().sum() + 1.0) / units.KW_PER_MW
    costs = _costs(net)
    generators = []
    for table in ("ext_grid", "gen", "sgen"):
        frame = net[table]
        frame = frame[frame["in_service"].astype(bool) & frame["bus"].isin(names.index)]
        frame = frame[controllable(frame)] if table == "sgen" else frame
        labels = element_names(frame, table)
        for index, row in frame.iterrows():
            low, high = _limits(row, table, wide)
            q_low, q_high = float(row.get("min_q_mvar", np.nan)), float(row.get("max_q_mvar", np.nan))
            cost = costs.get((table, int(str(index))), ("polynomial", (0.0,)))
            generators.append(Generator(labels[index], str(names[row["bus"]]), low, high, q_low, q_high, cost))
    unique = unique_names([unit.name for unit in generators])
    return offers(unit._replace(name=label) for unit, label in zip(generators, unique, strict=True))


def _limits(row: pd.Series[Any], table: str, wide: float) -> tuple[float, float]:
    low, high = float(row.get("min_p_mw", np.nan)), float(row.get("max_p_mw", np.nan))
    if table == "ext_grid":
        return (low if np.isfinite(low) else -wide), (high if np.isfinite(high) else wide)
    output = float(row["p_mw"]) * float(row.get("scaling", 1.0))
    if row.get("controllable", True) in (False, np.False_):
        return output, output
    return (low if np.isfinite(low) else min(0.0, output)), (high if np.isfinite(high) else max(0.0, output))


def _costs(net: Any) -> dict[tuple[str, int], tuple[str, tuple[float, ...]]]:
    result: dict[tuple[str, int], tuple[str, tuple[float, ...]]] = {}
    for row in net.poly_cost.itertuples():
        numbers = (float(row.cp2_eur_per_mw2), float(row.cp1_eur_per_mw), float(row.cp0_eur))
        result[row.et, int(row.element)] = ("polynomial", numbers)
    for row in net.pwl_cost.itertuples():
        if row.power_type != "p":
            continue
        points = [(float(row.points[0][0]), float(row.points[0][0]) * float(row.points[0][2]))]
        for low, high, slope in row.points:
            points.append((float(high), points[-1][1] + (float(high) - float(low)) * float(slope)))
        result[row.et, int(row.element)] = ("piecewise", tuple(number for point in points for number in point))
    return result


# -- tables -------------------------------------------------------------------------------------------------------


def _refuse_unknown(net: Any) -> None:
    faults = []
    for table in REFUSED:
        frame = net.get(table)
        if frame is None or len(frame) == 0:
            continue
        count = int(frame["in_service"].astype(bool).sum()) if "in_service" in frame else len(frame)
        if count:
            hint = "use three two-winding transformers and a star bus" if table == "trafo3w" else "replace or drop it"
            faults.append(Fault(f"pandapower.{table}", f"{count} element(s) that mktopt cannot take", hint=hint))
    if faults:
        raise DataError(faults)


def _buses(net: Any) -> pd.DataFrame:
    """Table of buses in service, by pandapower's index."""
    frame = net.bus[net.bus["in_service"].astype(bool)]
    x, y = _coordinates(net, frame.index)
    missing = pd.Series(np.nan, index=frame.index)
    return pd.DataFrame({
        "bus": element_names(frame, "bus"),
        "base_kv": frame["vn_kv"].astype(float),
        "v_min_pu": frame.get("min_vm_pu", missing).astype(float).fillna(0.9),
        "v_max_pu": frame.get("max_vm_pu", missing).astype(float).fillna(1.1),
        "x": x,
        "y": y,
    }, index=frame.index)  # fmt: skip


def _coordinates(net: Any, index: pd.Index[Any]) -> tuple[FloatArray, FloatArray]:
    if "geo" in net.bus:
        points = [
            json.loads(text)["coordinates"][:2] if isinstance(text, str) and text else (np.nan, np.nan)
            for text in net.bus.loc[index, "geo"]
        ]
        pairs = np.array(points, dtype=float).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]
    table = net.get("bus_geodata")
    if table is None or len(table) == 0:
        return np.full(len(index), np.nan), np.full(len(index), np.nan)
    placed = table.reindex(index)
    return placed["x"].to_numpy(float), placed["y"].to_numpy(float)


def _source(net: Any) -> Any:
    """The row of the first external grid in service, else of the first generator that is a slack."""
    for frame in (net.ext_grid, net.gen[net.gen["slack"].astype(bool)] if len(net.gen) else net.gen):
        active = frame[frame["in_service"].astype(bool)] if len(frame) else frame
        if len(active) > 1:
            warnings.warn(
                f"{len(active)} external grids: the first (bus {active['bus'].iloc[0]}) is the source, the others are "
                "left to orders",
                NetworkWarning,
                stacklevel=4,
            )
        if len(active):
            return active.iloc[0]
    hint = "add an ext_grid, or a gen with slack=True"
    raise DataError(Fault("pandapower.ext_grid", "the net has no source in service", hint=hint))


def _summed(shunts: pd.DataFrame) -> pd.DataFrame:
    """One row per bus; buses whose shunts are zero are left out."""
    total = shunts.groupby("bus", sort=False)[["g_kw", "b_kvar"]].sum().reset_index()
    return total[(total["g_kw"] != 0) | (total["b_kvar"] != 0)].reset_index(drop=True)
