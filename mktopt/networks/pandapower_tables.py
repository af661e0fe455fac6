"""Tables of a pandapower net as tables of a network; `names` maps pandapower's index of a bus to its name.

Only buses in `names` (those in service) are looked at; what hangs on others is left out.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks import units
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.names import element_names, unique_names

FloatArray = npt.NDArray[np.float64]

# pandapower's converters write 99999 kA where a line has no limit.
NO_LIMIT = 99999.0


def _open_ends(net: Any, kind: str) -> set[int]:
    """Indices of the elements behind an open switch (`kind` l: lines, t: transformers)."""
    switch = net.switch
    found = switch[(switch["et"] == kind) & ~switch["closed"].astype(bool)]["element"]
    return {int(element) for element in found}


def _between(frame: pd.DataFrame, names: pd.Series[Any], start: str, end: str) -> pd.DataFrame:
    """The rows of `frame` whose two buses are both in service."""
    return frame[frame[start].isin(names.index) & frame[end].isin(names.index)]


def lines(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Lines as branches; parallel ones count as one."""
    frame = _between(net.line, names, "from_bus", "to_bus")
    km, parallel = frame["length_km"].to_numpy(float), frame["parallel"].to_numpy(float)
    kv = net.bus.loc[frame["from_bus"], "vn_kv"].to_numpy(float)
    ampere = 1000.0 * frame["max_i_ka"].fillna(np.inf).to_numpy(float)
    loading = frame.get("max_loading_percent", pd.Series(100.0, index=frame.index)).fillna(100.0).to_numpy(float)
    rating = units.amperes_to_kva(ampere * frame["df"].to_numpy(float) * parallel * loading / 100.0, kv)
    return pd.DataFrame({
        "branch": element_names(frame, "line").to_numpy(),
        "from_bus": names[frame["from_bus"]].to_numpy(),
        "to_bus": names[frame["to_bus"]].to_numpy(),
        "r_ohm": frame["r_ohm_per_km"].to_numpy(float) * km / parallel,
        "x_ohm": frame["x_ohm_per_km"].to_numpy(float) * km / parallel,
        "b_us": 2e-3 * np.pi * net.f_hz * frame["c_nf_per_km"].to_numpy(float) * km * parallel,
        "ratio": 1.0,
        "shift_deg": 0.0,
        "rating_kva": np.where(ampere >= 1000.0 * NO_LIMIT, np.inf, rating),
        "length_km": km,
        "kind": "line",
        "in_service": frame["in_service"].to_numpy(bool) & ~frame.index.isin(list(_open_ends(net, "l"))),
    })  # fmt: skip


def line_shunts(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Shunts of lines: conductances, half at each end, and what a line that is open at one end takes as a whole.

    Seen from its other end an open line is y = y_c / 2 + 1 / (z + 2 / y_c), y_c = g + j b: all of its charging.
    """
    frame = net.line[net.line["in_service"].astype(bool)]
    switch = net.switch[(net.switch["et"] == "l") & ~net.switch["closed"].astype(bool)]
    opened = set(zip(switch["element"], switch["bus"], strict=True))
    alive = np.array([
        [row[side] in names.index and (index, row[side]) not in opened for side in ("from_bus", "to_bus")]
        for index, row in frame[["from_bus", "to_bus"]].iterrows()
    ], dtype=bool).reshape(-1, 2)  # fmt: skip
    kv = net.bus.loc[frame["from_bus"], "vn_kv"].to_numpy(float)
    km, parallel = frame["length_km"].to_numpy(float), frame["parallel"].to_numpy(float)
    b_us = 2e-3 * np.pi * net.f_hz * frame["c_nf_per_km"].to_numpy(float)
    y = units.us_to_pu((frame["g_us_per_km"].to_numpy(float) * km * parallel), kv).astype(complex)
    half = y.real / 2.0
    y += 1j * units.us_to_pu(b_us * km * parallel, kv)
    z = (frame["r_ohm_per_km"].to_numpy(float) + 1j * frame["x_ohm_per_km"].to_numpy(float)) * km / parallel
    whole = y / 2.0 + y / (2.0 + units.ohm_to_pu(z.real, kv) * y + 1j * units.ohm_to_pu(z.imag, kv) * y)
    both, dangling = alive.all(axis=1), alive.sum(axis=1) == 1
    near = np.where(alive[:, 0], frame["from_bus"], frame["to_bus"])
    buses = np.r_[frame["from_bus"][both], frame["to_bus"][both], near[dangling]]
    return pd.DataFrame({
        "bus": names[buses].to_numpy(),
        "g_kw": np.r_[half[both], half[both], whole.real[dangling]],
        "b_kvar": np.r_[np.zeros(2 * both.sum()), whole.imag[dangling]],
    })  # fmt: skip


def impedances(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Symmetrical impedances as branches; raises DataError for others."""
    frame = _between(net.impedance, names, "from_bus", "to_bus")
    one_way = (frame["rft_pu"] != frame["rtf_pu"]) | (frame["xft_pu"] != frame["xtf_pu"])
    shunted = frame.filter(regex=r"^[gb][ft]_pu$").fillna(0.0).to_numpy(float).any(axis=1)
    wrong = (one_way.to_numpy() | shunted) & frame["in_service"].to_numpy(bool)
    if wrong.any():
        hint = "only symmetrical impedances without shunt part can be taken"
        raise DataError(Fault("pandapower.impedance", "not symmetrical", frame.index[wrong][0], hint=hint))
    kv = net.bus.loc[frame["from_bus"], "vn_kv"].to_numpy(float)
    base_kva = units.KW_PER_MW * frame["sn_mva"].to_numpy(float)
    z = [frame[key].to_numpy(float) * units.base_ohm(kv) / base_kva for key in ("rft_pu", "xft_pu")]
    return pd.DataFrame({
        "branch": element_names(frame, "impedance").to_numpy(),
        "from_bus": names[frame["from_bus"]].to_numpy(),
        "to_bus": names[frame["to_bus"]].to_numpy(),
        "r_ohm": z[0],
        "x_ohm": z[1],
        "b_us": 0.0,
        "ratio": 1.0,
        "shift_deg": 0.0,
        "rating_kva": np.inf,
        "length_km": np.nan,
        "kind": "line",
        "in_service": frame["in_service"].to_numpy(bool),
    })  # fmt: skip


def switches(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Bus-bus switches as branches; an impedance splits as pandapower does it (r = 2 x)."""
    frame = _between(net.switch[net.switch["et"] == "b"], names, "bus", "element")
    z = frame.get("z_ohm", pd.Series(0.0, index=frame.index)).fillna(0.0).to_numpy(float)
    return pd.DataFrame({
        "branch": element_names(frame, "switch").to_numpy(),
        "from_bus": names[frame["bus"]].to_numpy(),
        "to_bus": names[frame["element"]].to_numpy(),
        "r_ohm": z * 2.0 / np.sqrt(5.0),
        "x_ohm": z / np.sqrt(5.0),
        "b_us": 0.0,
        "ratio": 1.0,
        "shift_deg": 0.0,
        "rating_kva": np.inf,
        "length_km": np.nan,
        "kind": "switch",
        "in_service": frame["closed"].to_numpy(bool),
    })  # fmt: skip


def controllable(frame: pd.DataFrame) -> pd.Series[Any]:
    """Which rows of a pandapower table are marked as dispatchable."""
    if "controllable" not in frame:
        return pd.Series(False, index=frame.index)
    return frame["controllable"].map(lambda value: value == True).astype(bool)  # noqa: E712 - may be NaN or None


def _active(net: Any, table: str, names: pd.Series[Any]) -> pd.DataFrame:
    frame = net[table]
    return frame[frame["in_service"].astype(bool) & frame["bus"].isin(names.index)]


def _load_share(frame: pd.DataFrame, kind: str, quantity: str) -> FloatArray:
    """Share of a load that is of constant `kind` (z, i), in `quantity` p or q, from the columns of any version."""
    for column in (f"const_{kind}_{quantity}_percent", f"const_{kind}_percent"):
        if column in frame:
            return frame[column].fillna(0.0).to_numpy(float) / 100.0
    return np.zeros(len(frame))


def loads(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Loads, wards, storages, and as negative loads the static generators that are not controllable."""
    parts = []
    columns = {"load": ("p_mw", "q_mvar", 1.0), "sgen": ("p_mw", "q_mvar", -1.0), "storage": ("p_mw", "q_mvar", 1.0),
               "ward": ("ps_mw", "qs_mvar", 1.0)}  # fmt: skip
    for table, (p, q, sign) in columns.items():
        frame = _active(net, table, names)
        if table == "sgen":
            frame = frame[~controllable(frame)]
        factor = sign * units.KW_PER_MW * frame.get("scaling", pd.Series(1.0, index=frame.index)).to_numpy(float)
        kept = [np.ones(len(frame)), np.ones(len(frame))]
        if table == "load":
            kept = [1.0 - _load_share(frame, "z", "p"), 1.0 - _load_share(frame, "z", "q")]
            current = int(((_load_share(frame, "i", "p") != 0) | (_load_share(frame, "i", "q") != 0)).sum())
            if current:
                text = f"{current} loads are partly of constant current; they are taken as constant power"
                warnings.warn(text, NetworkWarning, stacklevel=4)
        parts.append(pd.DataFrame({
            "load": element_names(frame, table).to_numpy(),
            "bus": names[frame["bus"]].to_numpy(),
            "p_kw": factor * kept[0] * frame[p].to_numpy(float),
            "q_kvar": factor * kept[1] * frame[q].to_numpy(float),
        }))  # fmt: skip
    loads = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    loads["load"] = unique_names(list(loads["load"]))
    return loads


def shunts(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """Shunts and the impedance part of wards."""
    shunt, ward = _active(net, "shunt", names), _active(net, "ward", names)
    table = shunt.get("step_dependency_table", pd.Series(False, index=shunt.index)).fillna(False).astype(bool)
    if table.any():
        hint = "write its p_mw and q_mvar at the present step"
        raise DataError(
            Fault("pandapower.shunt", "shunts with a characteristic table", shunt.index[table][0], hint=hint)
        )
    kv = net.bus.loc[shunt["bus"], "vn_kv"].to_numpy(float)
    rated = np.where(shunt["vn_kv"].isna(), kv, shunt["vn_kv"].to_numpy(float))
    factor = units.KW_PER_MW * shunt["step"].to_numpy(float) * (kv / rated) ** 2
    return pd.DataFrame({
        "bus": np.r_[names[shunt["bus"]].to_numpy(), names[ward["bus"]].to_numpy()],
        "g_kw": np.r_[factor * shunt["p_mw"].to_numpy(float), units.KW_PER_MW * ward["pz_mw"].to_numpy(float)],
        "b_kvar": -np.r_[factor * shunt["q_mvar"].to_numpy(float), units.KW_PER_MW * ward["qz_mvar"].to_numpy(float)],
    })  # fmt: skip


def constant_impedance(net: Any, names: pd.Series[Any]) -> pd.DataFrame:
    """The part of loads that is a constant impedance, as shunts."""
    frame = _active(net, "load", names)
    factor = units.KW_PER_MW * frame["scaling"].to_numpy(float)
    p = factor * frame["p_mw"].to_numpy(float) * _load_share(frame, "z", "p")
    q = factor * frame["q_mvar"].to_numpy(float) * _load_share(frame, "z", "q")
    return pd.DataFrame({"bus": names[frame["bus"]].to_numpy(), "g_kw": p, "b_kvar": -q})
