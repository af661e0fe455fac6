"""Flow `lindistflow`: active and reactive power without losses, and voltages, of a radial grid.

    p_b - g v2_b = sum_{l from b} P_l - sum_{l to b} P_l                                        `balance`
    q_b + b v2_b = sum_{l from b} Q_l - sum_{l to b} (Q'_l + h_l v2_b / n_l^2)                  `balance_q`
    v2_j = n_l^2 (v2_i - 2 (r_l P_l + x_l Q'_l)),       Q'_l = Q_l + h_l v2_i                   `voltage_drop`
    v_min^2 <= v2 <= v_max^2,   v2_source = source_v_pu^2
    P_l^2 + Q^2 <= rating_l^2  for Q at either end of l                                         `apparent_power`

l = (i, j); P, Q: measured at the from-bus i [kW, kvar]; v2: squared voltage [p.u.]; r, x: of z [p.u. per kW]; n: ratio
(behind z); h: half of the charging of l, on either side of z [kvar at 1 p.u.]; g, b: shunts, capacitors among them
[kW, kvar at 1 p.u.]; p, q: injections of the orders. Angles and shifts do not enter.
Reference: Baran and Wu, IEEE Trans. Power Delivery 4 (1989), eq. (1)-(3) without their quadratic terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.errors import FormulationError
from mktopt.formulations.flows.common import index_sets
from mktopt.formulations.flows.power import (
    Affine,
    End,
    Grouped,
    Lines,
    Powers,
    apparent_power,
    balances,
    drop_scale,
    entries,
    linear_rows,
    voltages,
)
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network


def lindistflow(
    block: Any, network: Network, injection: Injections, *, sides: int | None = None, free_source: bool = False
) -> None:
    """Fills `block` with `p_kw`, `q_kvar`, `v2`, `balance`, `balance_q`, `voltage_drop` and limits of apparent power.

    sides: a polygon of so many sides (at least 4) inscribed in the circle P^2 + Q^2 <= rating^2 takes its place, which
    leaves the program linear; free_source: the source's voltage is chosen within its limits. Raises FormulationError
    for fewer sides.
    """
    if not (sides is None or (_is_whole(sides) and sides >= 4)):
        raise FormulationError(f"option 'sides' of flow 'lindistflow' takes a whole number from 4 on, not {sides!r}")
    index_sets(block, network)
    block.p_kw = pyo.Var(block.branches, block.periods)
    block.q_kvar = pyo.Var(block.branches, block.periods)
    voltages(block, network, free_source)
    lines = Lines(network)
    p, q, v2 = (entries(component) for component in (block.p_kw, block.q_kvar, block.v2))
    start, end = lines.rows(network.from_index), lines.rows(network.to_index)
    h, behind = lines.each(lines.h), lines.each(lines.h / lines.n2)
    one = np.ones(len(end))
    balances(block, lines, injection, ([(end, one, p)], [(end, one, q), (end, h, v2[start]), (end, behind, v2[end])]))
    _voltage_drop(block, lines)

    def leaving(k: int) -> tuple[Affine, Affine]:
        return [(1.0, p[k])], [(1.0, q[k])]

    def arriving(k: int) -> tuple[Affine, Affine]:
        return [(1.0, p[k])], [(1.0, q[k]), (h[k], v2[start[k]]), (behind[k], v2[end[k]])]

    every = np.ones(network.n_branches, dtype=bool)
    ends = {"apparent_power": End(leaving, every), "apparent_power_to": End(arriving, lines.h != 0)}
    apparent_power(block, network, ends, sides)
    if lines.h.any():
        _arrivals(block, arriving)


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _arrivals(block: Any, arriving: Powers) -> None:
    """`to_kw[l, t]`, `to_kvar[l, t]`: what arrives at the to-bus, where charging makes it differ from what leaves."""
    ends = [arriving(k) for k in range(len(block.p_kw))]
    for name, side in (("to_kw", 0), ("to_kvar", 1)):
        rows = {
            key: LinearExpression(linear_coefs=[a for a, _ in end[side]], linear_vars=[v for _, v in end[side]])
            for key, end in zip(block.p_kw, ends, strict=True)
        }
        block.add_component(name, pyo.Expression(block.p_kw.index_set(), rule=lambda _, *key, rows=rows: rows[key]))


def _voltage_drop(block: Any, lines: Lines) -> None:
    """`voltage_drop[l, t]`, scaled to coefficients near one."""
    network, v2, keys = lines.network, entries(block.v2), list(block.p_kw)
    every, scale = np.arange(len(keys)), drop_scale(lines)
    parts = [
        (every, lines.each(scale), v2[lines.rows(network.to_index)]),
        (every, -lines.each(scale * lines.n2 * (1.0 - 2.0 * lines.x * lines.h)), v2[lines.rows(network.from_index)]),
        (every, lines.each(2.0 * scale * lines.n2 * lines.r), entries(block.p_kw)),
        (every, lines.each(2.0 * scale * lines.n2 * lines.x), entries(block.q_kvar)),
    ]
    linear_rows(block, "voltage_drop", Grouped(len(keys), parts), block.p_kw.index_set())
