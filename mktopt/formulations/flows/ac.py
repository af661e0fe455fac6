"""Flow `ac`: alternating-current power flow in polar coordinates, for meshed grids. Not convex: a local optimum.

    p_b - g v_b^2 = sum_{l from b} P_l - sum_{l to b} P_l^to                                    `balance`
    q_b + b v_b^2 = sum_{l from b} Q_l - sum_{l to b} Q_l^to                                    `balance_q`

and for l = (i, j) with z = r + jx, 1/z = G + jB, u = v_j / n, d = theta_i - theta_j - shift,

    c = v_i u cos d,   s = v_i u sin d                                          `is_cosine`, `is_sine`
    P    =  G (v_i^2 - c) - B s                                                                 `from_kw`
    Q    = -B (v_i^2 - c) - G s - h v_i^2                                                       `from_kvar`
    P^to =  G (c - u^2) - B s                                                                   `arriving_kw`
    Q^to = -B (c - u^2) - G s + h u^2                                                           `arriving_kvar`

    v_min <= v <= v_max,   v_source = source_v_pu,   angle_min <= theta_i - theta_j <= angle_max,
    P^2 + Q^2 <= rating^2, and the same at the to-end                         `apparent_power`, `apparent_power_to`

P, Q: `p_kw`, `q_kvar`, which leave the from-bus i; P^to, Q^to: `to_kw`, `to_kvar`, which arrive at the to-bus j [kW,
kvar]; v: `v_pu`; theta: `angle` [rad], zero at the source; G, B in kW at 1 p.u.; n: ratio; h: half of the charging, on
either side of z [kvar at 1 p.u.]; g, b: shunts; c, s: `cosine`, `sine`, which with `v2` = v^2 as variables leave two
rows of a branch that are not linear. A branch without impedance has u = v_i and d = 0 instead (`ratio`, `turn`). The
four rows are divided by `power_unit`, a power of the size that branches carry.
Reference: Zimmerman, Murillo-Sanchez and Thomas, MATPOWER, IEEE Trans. Power Systems 26 (2011), eq. (1)-(8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo

from mktopt.formulations.changing import set_bounds
from mktopt.formulations.flows.common import index_sets
from mktopt.formulations.flows.power import (
    Grouped,
    Lines,
    Objects,
    Part,
    balances,
    end_limits,
    entries,
    linear_rows,
    source_voltage,
    typical_kva,
)
from mktopt.formulations.orders import Injections
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network


def ac(
    block: Any, network: Network, injection: Injections, *, free_source: bool = False, current_limits: bool = False
) -> None:
    """Fills `block` with `v_pu`, `angle`, `p_kw`, `q_kvar`, `to_kw`, `to_kvar`, `v2`, `loss_kw`, `balance`, `balance_q`
    and the equations and limits of the branches.

    free_source: the source's voltage is chosen within its limits; current_limits: ratings limit currents,
    P^2 + Q^2 <= rating^2 v2 at either end.
    """
    index_sets(block, network)
    for name in ("p_kw", "q_kvar", "to_kw", "to_kvar"):
        block.add_component(name, pyo.Var(block.branches, block.periods, initialize=0.0))
    _voltages(block, network, free_source)
    block.power_unit = typical_kva(network)
    lines = Lines(network)
    to_p, to_q = entries(block.to_kw), entries(block.to_kvar)
    end, one = lines.rows(network.to_index), np.ones(len(to_p))
    balances(block, lines, injection, ([(end, one, to_p)], [(end, one, to_q)]))
    _branches(block, lines)
    _angle_limits(block, network)
    block.loss_kw = pyo.Expression(block.branches, block.periods, rule=lambda b, *key: b.p_kw[key] - b.to_kw[key])
    end_limits(block, lines, current_limits, block.power_unit)


def _voltages(block: Any, network: Network, free_source: bool) -> None:
    block.v_pu, block.angle = pyo.Var(block.buses, block.periods), pyo.Var(block.buses, block.periods, initialize=0.0)
    block.angle_scale = 1.0
    repeat, buses = len(network.hours), network.buses
    low, high = (np.repeat(buses[name].to_numpy(float), repeat) for name in ("v_min_pu", "v_max_pu"))
    set_bounds(block.v_pu.values(), low, high)
    start = np.repeat(_start(network), repeat)
    for variable, value in zip(block.v_pu.values(), start.tolist(), strict=True):
        variable.set_value(value, skip_validation=True)
    for t in network.periods:
        block.angle[network.source_bus, t].fix(0.0)
        if not free_source:
            block.v_pu[network.source_bus, t].fix(source_voltage(network))
    block.v2 = pyo.Var(block.buses, block.periods)
    for square, variable in zip(block.v2.values(), block.v_pu.values(), strict=True):
        square.set_value(variable.value**2, skip_validation=True)
    block.square = pyo.Constraint(block.buses, block.periods, rule=lambda b, *key: b.v2[key] == b.v_pu[key] ** 2)


def _start(network: Network) -> FloatArray:
    """Voltages to start from, well within their limits: those at no load in a tree, 1 in a meshed grid."""
    low, high = network.buses["v_min_pu"].to_numpy(float), network.buses["v_max_pu"].to_numpy(float)
    start = network.topology.no_load_v_pu if network.topology.is_radial else np.ones(network.n_buses)
    room = 0.2 * (high - low)
    return np.asarray(np.clip(start, low + room, high - room))


def _products(block: Any, lines: Lines) -> tuple[Objects, Objects, Any]:
    """`cosine[l, t]` and `sine[l, t]` with the rows that define them: (all of them, which branches have them)."""
    network, keys = lines.network, list(block.p_kw)
    impeded = np.flatnonzero(lines.each((lines.r != 0) | (lines.x != 0)))
    block.impeded = pyo.Set(initialize=[keys[k] for k in impeded], dimen=2)
    block.cosine, block.sine = pyo.Var(block.impeded), pyo.Var(block.impeded, initialize=0.0)
    v, angle = entries(block.v_pu), entries(block.angle)
    start, end = lines.rows(network.from_index)[impeded].tolist(), lines.rows(network.to_index)[impeded].tolist()
    n = lines.each(network.lines["ratio"].to_numpy())[impeded].tolist()
    shift = lines.each(units.shift_rad(network))[impeded].tolist()
    rows: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for key, i, j, ratio, phi in zip(block.impeded, start, end, n, shift, strict=True):
        product, d = v[i] * v[j] * (1.0 / ratio), angle[i] - angle[j] - phi
        block.cosine[key].set_value(v[i].value * v[j].value / ratio)
        rows[0][key] = block.cosine[key] == product * pyo.cos(d)
        rows[1][key] = block.sine[key] == product * pyo.sin(d)
    block.is_cosine = pyo.Constraint(block.impeded, rule=rows[0])
    block.is_sine = pyo.Constraint(block.impeded, rule=rows[1])
    return entries(block.cosine), entries(block.sine), impeded


def _branches(block: Any, lines: Lines) -> None:
    """The four equations of every branch, divided by `power_unit`; a branch without impedance has two of them."""
    network, every = lines.network, np.arange(len(block.p_kw))
    cosine, sine, impeded = _products(block, lines)
    ideal = np.setdiff1d(every, impeded)
    z2 = np.where((lines.r == 0) & (lines.x == 0), 1.0, lines.r**2 + lines.x**2)
    scale, unit = 1.0 / block.power_unit, np.full(len(every), 1.0 / block.power_unit)
    G, B, h, n2 = (
        lines.each(values) for values in (scale * lines.r / z2, -scale * lines.x / z2, scale * lines.h, lines.n2)
    )
    v2, start, end = entries(block.v2), lines.rows(network.from_index), lines.rows(network.to_index)
    p, q, to_p, to_q = (entries(c) for c in (block.p_kw, block.q_kvar, block.to_kw, block.to_kvar))
    g, b = G[impeded], B[impeded]

    def turned(along: FloatArray, across: FloatArray) -> list[Part]:
        return [(impeded, along, cosine), (impeded, across, sine)]

    def received(powers: Objects) -> Part:
        return (ideal, -unit[ideal], powers[ideal])

    _rows(block, "from_kw", every, [(every, unit, p), (every, -G, v2[start]), *turned(g, b), received(to_p)])
    kvar = h + np.where(np.isin(every, ideal), h, B)
    _rows(block, "from_kvar", every, [(every, unit, q), (every, kvar, v2[start]), *turned(-b, g), received(to_q)])
    _rows(block, "arriving_kw", impeded, [(every, unit, to_p), (every, G / n2, v2[end]), *turned(-g, b)])
    _rows(block, "arriving_kvar", impeded, [(every, unit, to_q), (every, -(B + h) / n2, v2[end]), *turned(b, g)])
    _ideal(block, network, ideal)


def _rows(block: Any, name: str, used: npt.NDArray[np.int64], parts: list[Part]) -> None:
    """Declares `name[l, t]` on the `used` branches and periods: the sums of `parts` are zero."""
    keys = list(block.p_kw)
    place = np.full(len(keys), -1)
    place[used] = np.arange(len(used))
    kept = [(place[rows[on]], values[on], terms[on]) for rows, values, terms in parts for on in [place[rows] >= 0]]
    index = block.p_kw.index_set() if len(used) == len(keys) else block.impeded
    linear_rows(block, name, Grouped(len(used), kept), index)


def _ideal(block: Any, network: Network, ideal: npt.NDArray[np.int64]) -> None:
    """`ratio[l, t]`, `turn[l, t]` of branches without impedance: v_j = n v_i, theta_j = theta_i - shift."""
    keys = list(block.p_kw)
    table = network.lines.set_index("branch")[["from_bus", "to_bus", "ratio", "shift_deg"]]
    ends = {branch: tuple(table.loc[branch]) for branch in {keys[k][0] for k in ideal}}
    index = [keys[k] for k in ideal]

    def ratio(block: Any, branch: str, t: int) -> Any:
        i, j, n, _ = ends[branch]
        return block.v_pu[j, t] - float(n) * block.v_pu[i, t] == 0

    def turn(block: Any, branch: str, t: int) -> Any:
        i, j, _, degrees = ends[branch]
        return block.angle[i, t] - block.angle[j, t] == float(np.radians(degrees))

    block.ideal = pyo.Set(initialize=index, dimen=2)
    block.ratio, block.turn = pyo.Constraint(block.ideal, rule=ratio), pyo.Constraint(block.ideal, rule=turn)


def _angle_limits(block: Any, network: Network) -> None:
    """`angle_limit[l, t]`: of theta_i - theta_j, where the branch has one."""
    lines = network.lines
    low, high = lines["angle_min_deg"].to_numpy(), lines["angle_max_deg"].to_numpy()
    limits = {
        lines.at[k, "branch"]: (
            lines.at[k, "from_bus"],
            lines.at[k, "to_bus"],
            float(np.radians(low[k])) if low[k] > -360 else None,
            float(np.radians(high[k])) if high[k] < 360 else None,
        )
        for k in np.flatnonzero((low > -360) | (high < 360))
    }

    def rule(block: Any, branch: str, t: int) -> Any:
        i, j, least, most = limits[branch]
        return (least, block.angle[i, t] - block.angle[j, t], most)

    block.angle_limit = pyo.Constraint(list(limits), block.periods, rule=rule)
