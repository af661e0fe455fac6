"""Groups that share a public grid and each feel their part of its losses: their equilibrium as one program.

    f_S = H p_S,   F = sum_S f_S + F_0,     losses sum_l rho_l F_l^2,     part of S:  sum_l rho_l F_l f_S,l       [kW]

p_S: what group S puts into each bus of the public grid, its private wires aside [kW]; H: flows per kW of the public
grid without losses (PTDF); F_0: flows of others who are not asked. The part of S is its injections times half of what
they cost at the margin, and parts sum to the losses. Every group minimises, the others given,

    cost_S = sum_t hours_t [ cost of offers - value of elastic bids - w_t sum_b p_S,b + w_t sum_l rho_l F_l f_S,l ]  [$]

with w, the wholesale price at which the main grid trades. This is an exact potential game:

    min  sum_S own cost_S + sum_t hours_t w_t / 2 [ sum_l rho_l F_l^2 + sum_S sum_l rho_l f_S,l^2 ]

has, along p_S, the slope of cost_S: w H' rho (F + f_S) both. It is convex, so its optimum is an equilibrium, and the
only one up to ties. With one group the potential is cost_N itself, the resource cost with losses of the second order.
References: Monderer, Shapley, Potential games, Games Econ. Behav. 14 (1996); poster "Coalitions on private
infrastructure", which leaves games with losses that are not independent open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC

from mktopt.formulations.changing import allow_changes
from mktopt.formulations.flows.common import flow_limits
from mktopt.formulations.orders import declare_orders
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network
from mktopt.networks.orders import Orders


@dataclass(frozen=True)
class Group:
    """One group: its name, its rows in `orders.orders`, and the private wires that it may use, of those in service."""

    name: str
    rows: tuple[int, ...]
    wires: tuple[int, ...]


def shared_grid(
    network: Network,
    orders: Orders,
    groups: Sequence[Group],
    wholesale: FloatArray,
    sensitivity: FloatArray,
    others_kw: FloatArray,
) -> Any:
    """The potential of `groups` as a ConcreteModel.

    orders: those of all groups and no others; wholesale: w (T,) [$/kWh], not below zero; sensitivity: H of the public
    branches, zero rows for private ones (n_branches, n_buses); others_kw: F_0 (n_branches, T). Variables `segment_kw`,
    `private_kw`, `private_loss_kw` [branch, period] of wires in use, `exchange_kw` [group, bus, period], `public_kw`
    [group, branch, period], `total_kw` [branch, period] of public branches with resistance; objective `potential`.
    Ratings of public branches and the main grid's limits are left out: no group feels them.
    """
    with PauseGC():
        model = pyo.ConcreteModel("shared_grid")
        allow_changes(model, False)
        declare_orders(model, network, orders)
        for segment, firm in zip(model.segment_kw.values(), orders.firm[orders.segment_order].tolist(), strict=True):
            if firm:
                segment.fix(segment.upper)
        _private(model, network, groups)
        _exchange(model, network, orders, groups)
        rho = units.loss_per_kw(network)
        lossy = np.flatnonzero((np.abs(sensitivity).max(axis=1, initial=0.0) > 0.0) & (rho > 0.0)).tolist()
        _public(model, network, groups, lossy, sensitivity, others_kw)
        names, hours = network.lines["branch"].to_numpy(), network.hours.tolist()
        losses = {
            t: sum(0.5 * float(rho[branch]) * _squares(model, groups, names[branch], t) for branch in lossy)
            for t in model.periods
        }
        net = {t: sum(model.exchange_kw[key] for key in model.exchange_kw if key[2] == t) for t in model.periods}
        model.potential = pyo.Objective(
            expr=sum(hours[t] * (float(wholesale[t]) * (losses[t] - net[t]) - model.surplus[t]) for t in model.periods)
        )
    return model


def _squares(model: Any, groups: Sequence[Group], branch: str, t: int) -> Any:
    """F^2 + sum_S f_S^2 of a branch."""
    return model.total_kw[branch, t] ** 2 + sum(model.public_kw[group.name, branch, t] ** 2 for group in groups)


def _private(model: Any, network: Network, groups: Sequence[Group]) -> None:
    """Flows and losses of the private wires in use: `private_kw`, `private_loss_kw`, `private_loss`."""
    names, rho = network.lines["branch"].to_numpy(), units.loss_per_kw(network)
    used = sorted(wire for group in groups for wire in group.wires)
    low, high = flow_limits(network, None)
    keys = [(names[wire], t) for wire in used for t in network.periods]
    at = {names[wire]: wire for wire in used}
    model.private_keys = pyo.Set(initialize=keys, dimen=2)
    model.private_kw = pyo.Var(
        model.private_keys, bounds=lambda _, name, t: (_finite(low[at[name]]), _finite(high[at[name]]))
    )
    model.private_loss_kw = pyo.Var(model.private_keys)

    def rule(model: Any, name: str, t: int) -> Any:
        lost = model.private_loss_kw[name, t]
        if rho[at[name]] == 0.0:
            lost.fix(0.0)
            return pyo.Constraint.Skip
        return float(rho[at[name]]) * model.private_kw[name, t] ** 2 - lost <= 0.0

    model.private_loss = pyo.Constraint(model.private_keys, rule=rule)


def _finite(limit: float) -> float | None:
    return float(limit) if np.isfinite(limit) else None


def _exchange(model: Any, network: Network, orders: Orders, groups: Sequence[Group]) -> None:
    """`exchange_kw`: orders' injections less what private wires take, of each group at each of its buses."""
    names, buses = network.lines["branch"].to_numpy(), network.buses["bus"].to_numpy()
    where, period = network.bus_positions(orders.orders["bus"]), orders.orders["period"].to_numpy()
    keys, taken = list[tuple[str, str, int]](), dict[tuple[str, str, int], list[Any]]()
    table = list(zip(orders.orders["order"], orders.orders["period"].tolist(), strict=True))
    for group in groups:
        for row in group.rows:
            key = (group.name, buses[where[row]], int(period[row]))
            taken.setdefault(key, []).append(float(orders.injection_sign[row]) * model.accepted_kw[table[row]])
        for wire in group.wires:
            for t in network.periods:
                flow, lost = model.private_kw[names[wire], t], model.private_loss_kw[names[wire], t]
                for bus, sign in ((network.from_index[wire], -1.0), (network.to_index[wire], 1.0)):
                    taken.setdefault((group.name, buses[bus], t), []).append(sign * flow - 0.5 * lost)
    keys = list(taken)
    model.exchange_keys = pyo.Set(initialize=keys, dimen=3)
    model.exchange_kw = pyo.Var(model.exchange_keys)
    model.balance = pyo.Constraint(model.exchange_keys, rule=lambda m, *key: sum(taken[key]) == m.exchange_kw[key])


def _public(model: Any, network: Network, groups: Sequence[Group], lossy: list[int], sensitivity: FloatArray,
            others_kw: FloatArray) -> None:  # fmt: skip
    """`public_kw` of each group and `total_kw`."""
    names, index = network.lines["branch"].to_numpy(), network.bus_index
    at = {names[branch]: branch for branch in lossy}
    found: dict[tuple[str, int], list[Any]] = {}
    for group, bus, t in model.exchange_kw:
        found.setdefault((group, t), []).append((index[bus], model.exchange_kw[group, bus, t]))
    branch_keys = [(name, t) for name in at for t in network.periods]
    model.public_keys = pyo.Set(initialize=[(group.name, *key) for group in groups for key in branch_keys], dimen=3)
    model.total_keys = pyo.Set(initialize=branch_keys, dimen=2)
    model.public_kw, model.total_kw = pyo.Var(model.public_keys), pyo.Var(model.total_keys)

    def flow(model: Any, group: str, name: str, t: int) -> Any:
        here = [(float(sensitivity[at[name], bus]), variable) for bus, variable in found.get((group, t), [])]
        return model.public_kw[group, name, t] == sum(h * variable for h, variable in here if h != 0.0)

    def total(model: Any, name: str, t: int) -> Any:
        own = sum(model.public_kw[group.name, name, t] for group in groups)
        return model.total_kw[name, t] == own + float(others_kw[at[name], t])

    model.sensitivity = pyo.Constraint(model.public_keys, rule=flow)
    model.adding_up = pyo.Constraint(model.total_keys, rule=total)
