"""Two-winding transformers of a pandapower net as branches from the high to the low voltage side, and their iron.

pandapower puts z and the iron admittance y of a transformer on its low voltage side behind the tap tau. With half of
z on either side of y (its T model) the equivalent pi section has

    z_pi = z + z^2 y / 4,      y_pi = y / (2 + z y / 2)      at each end of z_pi.

z_pi moves to the from side as z_pi tau^2; the iron becomes shunts: y_pi / tau^2 at the high and y_pi at the low
voltage bus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks import units
from mktopt.networks.names import element_names

FloatArray = npt.NDArray[np.float64]

# pandapower's converters write 99999 MVA where a transformer has no limit.
NO_LIMIT = 99999.0


def transformers(net: Any, names: pd.Series[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Branches and shunts of the two-winding transformers of `net` between the buses in `names` (by index)."""
    frame = net.trafo[net.trafo["hv_bus"].isin(names.index) & net.trafo["lv_bus"].isin(names.index)]
    _refuse_tables(frame)
    hv_kv, lv_kv, shift = _taps(frame)
    base_hv, base_lv = (net.bus.loc[frame[side], "vn_kv"].to_numpy(float) for side in ("hv_bus", "lv_bus"))
    tap = (hv_kv / lv_kv) / (base_hv / base_lv)
    z, y = _impedance(frame, lv_kv, base_lv)
    z_pi, y_pi = z + z**2 * y / 4.0, y / (2.0 + z * y / 2.0)
    ohm = z_pi * tap**2 * units.base_ohm(base_hv)
    open_ends = net.switch[(net.switch["et"] == "t") & ~net.switch["closed"].astype(bool)]["element"]
    active = frame["in_service"].to_numpy(bool) & ~frame.index.isin(list(open_ends))
    branches = pd.DataFrame({
        "branch": element_names(frame, "trafo").to_numpy(),
        "from_bus": names[frame["hv_bus"]].to_numpy(),
        "to_bus": names[frame["lv_bus"]].to_numpy(),
        "r_ohm": ohm.real,
        "x_ohm": ohm.imag,
        "b_us": 0.0,
        "ratio": 1.0 / tap,
        "shift_deg": shift,
        "rating_kva": _rating(frame),
        "length_km": np.nan,
        "kind": "transformer",
        "in_service": active,
    })  # fmt: skip
    high, low = y_pi[active] / tap[active] ** 2, y_pi[active]
    iron = pd.DataFrame({
        "bus": np.r_[branches["from_bus"][active].to_numpy(), branches["to_bus"][active].to_numpy()],
        "g_kw": np.r_[high.real, low.real],
        "b_kvar": np.r_[high.imag, low.imag],
    })  # fmt: skip
    return branches, iron


def _column(frame: pd.DataFrame, name: str, default: float) -> FloatArray:
    if name not in frame:
        return np.full(len(frame), default)
    return pd.to_numeric(frame[name], errors="coerce").fillna(default).to_numpy(float)


def _refuse_tables(frame: pd.DataFrame) -> None:
    for column in ("tap_dependency_table", "tap_dependent_impedance"):
        used = frame[column].map(lambda value: value is True or value is np.True_) if column in frame else None
        if used is not None and used.any():
            problem = "the transformer depends on a characteristic table"
            hint = "write its values at the present tap and clear the flag"
            raise DataError(Fault("pandapower.trafo", problem, frame.index[used][0], column, hint=hint))


def _taps(frame: pd.DataFrame) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rated voltages and phase shift at the present position of both tap changers."""
    volts = {"hv": frame["vn_hv_kv"].to_numpy(float), "lv": frame["vn_lv_kv"].to_numpy(float)}
    shift = frame["shift_degree"].to_numpy(float).copy()
    for tap in ("tap", "tap2"):
        if f"{tap}_pos" not in frame:
            continue
        steps = _column(frame, f"{tap}_pos", np.nan) - _column(frame, f"{tap}_neutral", np.nan)
        percent, degree = _column(frame, f"{tap}_step_percent", 0.0), _column(frame, f"{tap}_step_degree", 0.0)
        ideal, turned = _kinds(frame, tap)
        for side, sign in (("hv", 1.0), ("lv", -1.0)):
            here = (frame[f"{tap}_side"] == side).to_numpy() & np.isfinite(steps)
            phase = here & ideal
            by_percent = np.rad2deg(2.0 * np.arcsin(np.clip(steps * percent / 200.0, -1.0, 1.0)))
            shift[phase] += (sign * np.where(degree != 0, steps * degree, by_percent))[phase]
            added = volts[side] * (1.0 + steps * percent / 100.0 * np.exp(1j * np.deg2rad(degree)))
            change = here & turned
            relative = np.where(change, added / volts[side], 1.0)
            shift += sign * np.rad2deg(np.angle(relative))
            volts[side] = volts[side] * np.abs(relative)
    return volts["hv"], volts["lv"], shift


def _kinds(frame: pd.DataFrame, tap: str) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tap changers shift the phase ideally, and which change the voltage; nets of all versions."""
    if f"{tap}_changer_type" in frame:
        kind = frame[f"{tap}_changer_type"]
        return (kind == "Ideal").to_numpy(), kind.isin(["Ratio", "Symmetrical"]).to_numpy()
    if f"{tap}_phase_shifter" in frame:
        ideal = frame[f"{tap}_phase_shifter"].map(lambda value: value is True or value is np.True_).to_numpy(bool)
        return ideal, ~ideal
    return np.zeros(len(frame), dtype=bool), np.ones(len(frame), dtype=bool)


def _impedance(
    frame: pd.DataFrame, lv_kv: FloatArray, base_lv: FloatArray
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]:
    """Series impedance and iron admittance on the low voltage side, in p.u. of 1 kVA."""
    parallel = frame["parallel"].to_numpy(float)
    rated = units.KW_PER_MW * frame["sn_mva"].to_numpy(float)
    to_base = (lv_kv / base_lv) ** 2 / (100.0 * rated * parallel)
    size, r = frame["vk_percent"].to_numpy(float) * to_base, frame["vkr_percent"].to_numpy(float) * to_base
    x = np.sign(size) * np.sqrt(np.maximum(size**2 - r**2, 0.0))
    iron_kw = frame["pfe_kw"].to_numpy(float)
    size_kva = frame["i0_percent"].to_numpy(float) / 100.0 * rated
    magnetising = np.sqrt(np.maximum(size_kva**2 - iron_kw**2, 0.0))
    y = (iron_kw - 1j * magnetising) * parallel * (base_lv / lv_kv) ** 2
    return r + 1j * x, y


def _rating(frame: pd.DataFrame) -> FloatArray:
    rated = frame["sn_mva"].to_numpy(float)
    factor = _column(frame, "df", 1.0) * frame["parallel"].to_numpy(float)
    rating = units.KW_PER_MW * rated * factor * _column(frame, "max_loading_percent", 100.0) / 100.0
    return np.where(rated >= NO_LIMIT, np.inf, rating)
