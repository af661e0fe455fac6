"""Flow `distflow`: power flow with losses of a radial grid, as a second-order cone relaxation or exactly.

    p_b - g v2_b = sum_{l from b} P_l - sum_{l to b} P_l^to                                     `balance`
    q_b + b v2_b = sum_{l from b} Q_l - sum_{l to b} Q_l^to                                     `balance_q`
    P_l^to = P_l - r_l i_l,     Q_l^to = Q'_l - x_l i_l + h_l v2_j / n_l^2,   Q'_l = Q_l + h_l v2_i `loss`, `loss_q`
    v2_j = n_l^2 (v2_i - 2 (r_l P_l + x_l Q'_l) + (r_l^2 + x_l^2) i_l)                          `voltage_drop`
    i_l v2_i >= P_l^2 + Q'_l^2          (= where exact)                                         `current`
    v_min^2 <= v2 <= v_max^2,   v2_source = source_v_pu^2
    P_l^2 + Q_l^2 <= rating_l^2, and the same at the to-end                   `apparent_power`, `apparent_power_to`

l = (i, j); P, Q: `p_kw`, `q_kvar`, which leave the from-bus i; P^to, Q^to: `to_kw`, `to_kvar`, which arrive at the
to-bus j; v2: squared voltage [p.u.]; i: squared current [p.u. of 1 kVA], which is `current2` times `current_unit`;
r, x: of z [p.u. per kW]; n: ratio (behind z); h: half of the charging of l, on either side of z [kvar at 1 p.u.];
g, b: shunts [kW, kvar at 1 p.u.]; Q': `series_kvar` where there is charging, else Q. A branch without impedance has no
current and no cone.

`voltage_drop` is written with the ends' powers, v2_j = n^2 (v2_i - r (P + P^to) - x (Q' + Q'^to)), where squared
currents and impedances cancel: with the powers of both ends as variables, and the current in the cone and the losses
alone, an interior-point method needs half of the time, and a tenth where ratings bind.

The relaxation is exact where each cone is tight (`relaxation_gap`), as is usual where prices are positive and upper
voltage limits do not bind; where one is slack, the branch loses more in the model than it would.
Reference: Baran and Wu, IEEE Trans. Power Delivery 4 (1989), eq. (1)-(3); Gan, Li, Topcu and Low, IEEE Trans.
Automatic Control 60 (2015); Farivar and Low, IEEE Trans. Power Systems 28 (2013).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.numeric_expr import MonomialTermExpression, ProductExpression, SumExpression

from mktopt.formulations.changing import set_bounds
from mktopt.formulations.flows.common import index_sets
from mktopt.formulations.flows.power import (
    Grouped,
    Lines,
    Objects,
    balances,
    declare_units,
    drop_scale,
    end_limits,
    entries,
    linear_rows,
    squared,
    typical_kva,
    voltages,
)
from mktopt.formulations.orders import Injections
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network

# Of the power that a branch usually carries: less says nothing about how tight a relaxation is.
_IDLE = 1e-2
# A cone is called slack where its relative gap is greater than the first, and what its branch loses too much, in kW or
# kvar, is more than the second of all the power that moves.
_SLACK, _NOISE = 1e-3, 1e-6
_UNITS = 16.0


def distflow(
    block: Any,
    network: Network,
    injection: Injections,
    *,
    exact: bool = False,
    free_source: bool = False,
    current_limits: bool = False,
) -> None:
    """Fills `block` with `p_kw`, `q_kvar`, `to_kw`, `to_kvar`, `current2`, `v2`, `loss_kw`, `balance`, `balance_q`,
    `loss`, `loss_q`, `voltage_drop`, `current` and limits of apparent power.

    exact: the equations themselves, which are not convex (a local optimum); free_source: the source's voltage is
    chosen within its limits; current_limits: ratings limit currents, P^2 + Q^2 <= rating^2 v2 at either end.
    """
    index_sets(block, network)
    block.relaxed = not exact
    for name in ("p_kw", "q_kvar", "to_kw", "to_kvar"):
        block.add_component(name, pyo.Var(block.branches, block.periods))
    voltages(block, network, free_source)
    lines = Lines(network)
    to_p, to_q = entries(block.to_kw), entries(block.to_kvar)
    end, one = lines.rows(network.to_index), np.ones(len(to_p))
    impeded, unit, current = _currents(block, network, lines, exact)
    series = _series(block, network, lines)
    balances(block, lines, injection, ([(end, one, to_p)], [(end, one, to_q)]))
    _losses(block, lines, impeded, unit, current, series)
    _voltage_drop(block, lines, series)
    _cones(block, lines, impeded, unit, series, exact)
    if exact:
        _start(block, lines)
    _units(block, lines)
    end_limits(block, lines, current_limits, typical_kva(network) if exact else 1.0)


def _units(block: Any, lines: Lines) -> None:
    usual = lines.each(units.branch_kva(lines.network))
    names = [name for name in ("p_kw", "q_kvar", "to_kw", "to_kvar") if block.component(name) is not None]
    declare_units(block, {**dict.fromkeys(names, usual), "v2": 1.0, "current2": _UNITS**2})


def _start(block: Any, lines: Lines) -> None:
    """Values to start a local search from: on each branch its usual power, outwards, and the current that goes with it.

    Without any power the equation of the current has no slope along it.
    """
    network = lines.network
    usual, tree = units.branch_kva(network), network.topology
    away = np.zeros(network.n_branches)
    away[tree.parent_branch[tree.other_buses]] = tree.parent_sign[tree.other_buses]
    power = lines.each(usual * away).tolist()
    for sent, received, kw in zip(block.p_kw.values(), block.to_kw.values(), power, strict=True):
        sent.set_value(kw)
        received.set_value(kw)
    for name in ("q_kvar", "to_kvar", "series_kvar"):
        for variable in getattr(block, name).values() if block.component(name) is not None else ():
            variable.set_value(0.0)
    for variable in block.current2.values():
        variable.set_value(_UNITS**2)


def current_unit(network: Network) -> FloatArray:
    """Units of `current2`, one per branch in service [p.u. of 1 kVA, squared], shape (n_branches,).

    The square of a 16th of the power that the branch carries, which of several powers of two suits Clarabel best on
    feeders of 100 to 10,000 buses: losses are small beside powers, and their coefficients should not be much smaller.
    """
    return np.asarray((units.branch_kva(network) / _UNITS) ** 2)


def _currents(block: Any, network: Network, lines: Lines, exact: bool) -> tuple[Any, FloatArray, Objects]:
    """`current2[l, t]` of branches with an impedance: (which of all branches and periods, their units, variables).

    Where exact, i v2_i = P^2 + Q^2 keeps it from being negative. A bound that says so once more would, at zero power,
    hold the branch there: multipliers of any size, which cancel, make every such point a stationary one.
    """
    impeded = np.flatnonzero(lines.each((lines.r != 0) | (lines.x != 0)))
    keys, unit = list(block.p_kw), lines.each(current_unit(network))[impeded]
    used = [keys[k] for k in impeded]
    block.current2 = pyo.Var(pyo.Set(initialize=used, dimen=2))
    least = lines.each(network.buses["v_min_pu"].to_numpy(float)[network.from_index])[impeded]
    bound = np.where(exact & (least > 0.0), -np.inf, 0.0)
    set_bounds(block.current2.values(), bound, np.full(len(used), np.inf))
    block.current_unit = dict(zip(used, unit.tolist(), strict=True))
    return impeded, unit, entries(block.current2)


def _series(block: Any, network: Network, lines: Lines) -> Objects:
    """Q', what enters z: `series_kvar[l, t]` with a row that defines it where there is charging, else `q_kvar`."""
    series = entries(block.q_kvar)
    charged = np.flatnonzero(lines.each(lines.h))
    if not len(charged):
        return series
    keys = list(block.q_kvar)
    block.series_kvar = pyo.Var(pyo.Set(initialize=[keys[k] for k in charged], dimen=2))
    own, at = entries(block.series_kvar), np.arange(len(charged))
    start = lines.rows(network.from_index)[charged]
    parts = [
        (at, np.ones(len(at)), own),
        (at, -np.ones(len(at)), series[charged]),
        (at, -lines.each(lines.h)[charged], entries(block.v2)[start]),
    ]
    linear_rows(block, "charging", Grouped(len(at), parts), block.series_kvar.index_set())
    series[charged] = own
    return series


def _losses(block: Any, lines: Lines, impeded: Any, unit: FloatArray, current: Objects, series: Objects) -> None:
    """`loss[l, t]`, `loss_q[l, t]`: what arrives is what leaves less what z takes, plus the charging at its end."""
    keys, v2 = list(block.p_kw), entries(block.v2)
    every, one, end = np.arange(len(keys)), np.ones(len(keys)), lines.rows(lines.network.to_index)
    r, x = lines.each(lines.r)[impeded] * unit, lines.each(lines.x)[impeded] * unit
    kw = [(every, one, entries(block.to_kw)), (every, -one, entries(block.p_kw)), (impeded, r, current)]
    kvar = [
        (every, one, entries(block.to_kvar)),
        (every, -one, series),
        (every, -lines.each(lines.h / lines.n2), v2[end]),
        (impeded, x, current),
    ]
    linear_rows(block, "loss", Grouped(len(keys), kw), block.p_kw.index_set())
    linear_rows(block, "loss_q", Grouped(len(keys), kvar), block.p_kw.index_set())
    lost = dict.fromkeys(keys, 0.0)
    for key, a, variable in zip(block.current2, r.tolist(), current.tolist(), strict=True):
        lost[key] = LinearExpression(linear_coefs=[a], linear_vars=[variable])
    block.loss_kw = pyo.Expression(block.branches, block.periods, rule=lambda _, *key: lost[key])


def _voltage_drop(block: Any, lines: Lines, series: Objects) -> None:
    """`voltage_drop[l, t]`, with Q'^to = Q^to - h v2_j / n^2, scaled to coefficients near one."""
    network, v2, keys = lines.network, entries(block.v2), list(block.p_kw)
    every, scale = np.arange(len(keys)), drop_scale(lines)
    r, x = lines.each(scale * lines.n2 * lines.r), lines.each(scale * lines.n2 * lines.x)
    parts = [
        (every, lines.each(scale * (1.0 - lines.x * lines.h)), v2[lines.rows(network.to_index)]),
        (every, -lines.each(scale * lines.n2), v2[lines.rows(network.from_index)]),
        (every, r, entries(block.p_kw)),
        (every, r, entries(block.to_kw)),
        (every, x, series),
        (every, x, entries(block.to_kvar)),
    ]
    linear_rows(block, "voltage_drop", Grouped(len(keys), parts), block.p_kw.index_set())


def _cones(block: Any, lines: Lines, impeded: Any, unit: FloatArray, series: Objects, exact: bool) -> None:
    """`current[l, t]`: (P^2 + Q'^2) / unit - current2 v2_i <= 0, or = 0."""
    start = lines.rows(lines.network.from_index)
    columns = (entries(block.p_kw), series, entries(block.v2)[start])
    p, q, v2 = (part[impeded].tolist() for part in columns)
    current, scale, lower = list(block.current2.values()), (1.0 / unit).tolist(), 0.0 if exact else None
    position = {key: k for k, key in enumerate(block.current2)}

    def rule(_: Any, *key: Any) -> Any:
        k = position[key]
        product = ProductExpression((MonomialTermExpression((-1.0, current[k])), v2[k]))
        body = SumExpression([*squared([(1.0, p[k])], scale[k]), *squared([(1.0, q[k])], scale[k]), product])
        return (lower, body, 0.0)

    block.current = pyo.Constraint(block.current2.index_set(), rule=rule)


class RelaxationGap(NamedTuple):
    """How slack the cone of each branch and period is, arrays of shape (branches, periods).

    gap: (i v2_i - P^2 - Q'^2) / max(i v2_i, e), e: the square of a hundredth of the branch's usual power, or of a
    thousandth of the greatest of all, which is noise; phantom_kw: losses of the model that a power flow would not have,
    r (i - (P^2 + Q'^2) / v2_i); phantom_kvar: the same of reactive power, with x; slack: bool, where the gap matters:
    it exceeds a thousandth, and one of the two a millionth of the greatest power. Zero for branches without impedance.
    """

    gap: FloatArray
    phantom_kw: FloatArray
    phantom_kvar: FloatArray
    slack: npt.NDArray[np.bool_]


def relaxation_gap(block: Any, network: Network) -> RelaxationGap:
    """The relaxation gap of a solved `distflow` block, from the values of its variables."""
    lines, shape = Lines(network), (network.n_branches, len(network.hours))

    def values(component: Any) -> FloatArray:
        return np.fromiter((variable.value for variable in component.values()), float, len(component)).reshape(
            -1, shape[1]
        )

    p, q, v2 = values(block.p_kw), values(block.q_kvar), values(block.v2)[network.from_index]
    impeded = (lines.r != 0) | (lines.x != 0)
    square = np.zeros(shape)
    square[impeded] = values(block.current2) * np.reshape([*block.current_unit.values()], (-1, shape[1]))
    flow2 = p**2 + (q + lines.h[:, None] * v2) ** 2
    slack = np.where(impeded[:, None], square * v2 - flow2, 0.0)
    usual = units.branch_kva(network)
    most = usual.max(initial=0.0)
    idle = np.maximum(_IDLE * usual, _IDLE / 10.0 * most)[:, None] ** 2
    gap, excess = slack / np.maximum(square * v2, idle), slack / v2
    kw, kvar = lines.r[:, None] * excess, lines.x[:, None] * excess
    lost = np.maximum(kw, np.abs(kvar))
    return RelaxationGap(gap, kw, kvar, (gap > _SLACK) & (lost > _NOISE * most))
