"""Writing a network as a pandapower net, for power flows and for tools that speak pandapower.

Lines without ratio become lines, bus-bus switches without impedance become switches, and every other branch becomes
a two-winding transformer from the from-bus ("hv") to the to-bus ("lv") whose rated voltages carry the ratio. Its
charging becomes two shunts. The source becomes an external grid; loads and shunts stay what they are. Owner and kind
`private` have no place there and are lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks import units

if TYPE_CHECKING:
    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]
# What pandapower's own converters write for "no limit" [kA, MVA].
NO_LIMIT = 99999.0
# A branch without reactance gets this much, because pandapower divides by it [p.u. of 1 MVA], ...
LEAST_X = 1e-7
# ... but no more than this share of the median impedance, and no less than this share of its own resistance, beside
# which it would be lost.
_OF_MEDIAN, _OF_RESISTANCE = 1e-4, 1e-6


def to_pandapower(network: Network) -> Any:
    """`network` as a pandapowerNet with the same names and in MW, Mvar and kA.

    Shifts need `runpp(net, calculate_voltage_angles=True)`. Over regulators of low impedance Newton's method diverges
    from a flat start; begin at no load: `runpp(net, init_vm_pu=network.topology.no_load_v_pu, init_va_degree="dc")`.
    Raises DataError without pandapower.
    """
    try:
        import pandapower as pp
    except ImportError:
        raise DataError(Fault("network", "writing it needs pandapower", hint="pip install pandapower")) from None
    net = pp.create_empty_network(name=network.name, sn_mva=1.0)
    buses = network.buses
    pp.create_buses(net, len(buses), buses["base_kv"].to_numpy(), name=buses["bus"].to_numpy(),
                    min_vm_pu=buses["v_min_pu"].to_numpy(), max_vm_pu=buses["v_max_pu"].to_numpy())  # fmt: skip
    net.bus["geo"] = [
        f'{{"coordinates": [{x!r}, {y!r}], "type": "Point"}}' if x == x and y == y else None
        for x, y in zip(buses["x"].tolist(), buses["y"].tolist(), strict=True)
    ]
    pp.create_ext_grid(net, network.source_index, vm_pu=network.source_v_pu, name="source")
    _branches(pp, net, network)
    _units(pp, net, network)
    return net


def written_reactance(r: FloatArray, x: FloatArray) -> FloatArray:
    """What `to_pandapower` writes for reactances `x` of branches with resistances `r` [p.u. of 1 MVA], shape (n,)."""
    size = np.hypot(r, x)
    least = min(LEAST_X, _OF_MEDIAN * float(np.median(size[size > 0]))) if (size > 0).any() else LEAST_X
    return np.where(x != 0, x, np.maximum(least, _OF_RESISTANCE * r))


def _branches(pp: Any, net: Any, network: Network) -> None:
    table = network.branches
    start, end = network.bus_positions(table["from_bus"]), network.bus_positions(table["to_bus"])
    kv = network.buses["base_kv"].to_numpy()
    frame = table.assign(start=start, end=end, from_kv=kv[start], to_kv=kv[end])
    r, x = (units.ohm_to_pu(table[name], kv[start], units.KW_PER_MW) for name in ("r_ohm", "x_ohm"))
    written = units.pu_to_ohm(written_reactance(r, x), kv[start], units.KW_PER_MW)
    plain = (frame["ratio"] == 1) & (frame["shift_deg"] == 0) & (frame["from_kv"] == frame["to_kv"])
    ideal = (frame["r_ohm"] == 0) & (frame["x_ohm"] == 0) & (frame["b_us"] == 0)
    frame["x_ohm"] = np.where(frame["x_ohm"] == 0, written, frame["x_ohm"])
    switch = plain & ideal
    line = plain & ~ideal & (frame["kind"] != "transformer")
    if switch.any():
        _switches(pp, net, frame[switch])
    if line.any():
        _lines(pp, net, frame[line])
    if (~switch & ~line).any():
        _transformers(pp, net, frame[~switch & ~line])


def _switches(pp: Any, net: Any, frame: pd.DataFrame) -> None:
    pp.create_switches(net, frame["start"].to_numpy(), frame["end"].to_numpy(), et="b",
                       closed=frame["in_service"].to_numpy(), name=frame["branch"].to_numpy())  # fmt: skip


def _lines(pp: Any, net: Any, frame: pd.DataFrame) -> None:
    km = frame["length_km"].where(frame["length_km"] > 0, 1.0).to_numpy()
    ampere = units.kva_to_amperes(frame["rating_kva"], frame["from_kv"])
    pp.create_lines_from_parameters(
        net,
        frame["start"].to_numpy(),
        frame["end"].to_numpy(),
        length_km=km,
        r_ohm_per_km=frame["r_ohm"].to_numpy() / km,
        x_ohm_per_km=frame["x_ohm"].to_numpy() / km,
        c_nf_per_km=frame["b_us"].to_numpy() / km * 1e3 / (2.0 * np.pi * net.f_hz),
        max_i_ka=np.where(np.isfinite(ampere), ampere / 1000.0, NO_LIMIT),
        max_loading_percent=100.0,
        name=frame["branch"].to_numpy(),
        in_service=frame["in_service"].to_numpy(),
    )


def _transformers(pp: Any, net: Any, frame: pd.DataFrame) -> None:
    """z on the from side in p.u. of the transformer's own rating at vn_hv = base_kv / ratio: z_hv ratio^2 there."""
    rated = np.where(np.isfinite(frame["rating_kva"]), frame["rating_kva"], units.KW_PER_MW * NO_LIMIT)
    ratio = frame["ratio"].to_numpy()
    z = frame["r_ohm"].to_numpy() + 1j * frame["x_ohm"].to_numpy()
    percent = 100.0 * z * ratio**2 * rated / units.base_ohm(frame["from_kv"])
    size = np.abs(percent) * np.sign(percent.imag)
    pp.create_transformers_from_parameters(
        net,
        frame["start"].to_numpy(),
        frame["end"].to_numpy(),
        sn_mva=rated / units.KW_PER_MW,
        vn_hv_kv=frame["from_kv"].to_numpy() / ratio,
        vn_lv_kv=frame["to_kv"].to_numpy(),
        vkr_percent=percent.real,
        vk_percent=size,
        pfe_kw=0.0,
        i0_percent=0.0,
        shift_degree=frame["shift_deg"].to_numpy(),
        max_loading_percent=100.0,
        name=frame["branch"].to_numpy(),
        in_service=frame["in_service"].to_numpy(),
    )
    charged = frame[(frame["b_us"] != 0) & frame["in_service"]]
    if len(charged):
        half = units.us_to_pu(charged["b_us"], charged["from_kv"]) / units.KW_PER_MW / 2.0
        buses = np.r_[charged["start"].to_numpy(), charged["end"].to_numpy()]
        mvar = np.r_[half, half / charged["ratio"].to_numpy() ** 2]
        names = np.r_[charged["branch"].to_numpy(), charged["branch"].to_numpy()] + " charging"
        pp.create_shunts(net, buses, q_mvar=-mvar, name=names, vn_kv=net.bus["vn_kv"].to_numpy()[buses])


def _units(pp: Any, net: Any, network: Network) -> None:
    loads, shunts = network.loads, network.shunts
    if len(loads):
        pp.create_loads(net, network.bus_positions(loads["bus"]), p_mw=loads["p_kw"].to_numpy() / units.KW_PER_MW,
                        q_mvar=loads["q_kvar"].to_numpy() / units.KW_PER_MW, name=loads["load"].to_numpy())  # fmt: skip
    if len(shunts):
        where = network.bus_positions(shunts["bus"])
        # vn_kv explicitly: left out, some versions of pandapower take it from the wrong buses
        pp.create_shunts(net, where, p_mw=shunts["g_kw"].to_numpy() / units.KW_PER_MW,
                         q_mvar=-shunts["b_kvar"].to_numpy() / units.KW_PER_MW,
                         vn_kv=network.buses["base_kv"].to_numpy()[where])  # fmt: skip
