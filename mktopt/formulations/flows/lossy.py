"""Flow `lossy`: branches lose the square of what they carry; public flows follow physics, private ones their owners.

    p_b = sum_{l from b} (f_l + L_l / 2) - sum_{l to b} (f_l - L_l / 2),     |f_l| <= rating_l      `balance`
    L_l >= rho_l f_l^2          (= where exact)                                                     `loss`
    x_l f_l = theta_i - theta_j - shift_l     public branches, where physics                        `angle_drop`

f_l: mean flow of l = (i, j) [kW], `p_kw`; L_l: its loss, half of it at either end [kW], `loss_kw`; rho_l = r_ohm /
(1000 base_kv^2) [1/kW], `units.loss_per_kw`; x_l, theta, `angle`: as in flow `dc`. What leaves the from-bus is f + L/2
and what arrives at the to-bus is f - L/2: columns p_kw and to_kw of the table of flows. The loading is |f| / rating.

A branch of kind `private` has no law but its rating: what its owners send over it is theirs to choose. Where private
branches alone join parts of the public grid, each part has an angle of reference of its own.

A wire may lose more than it must (free disposal), which makes the flow convex: rho f^2 <= L is a cone. It is tight
wherever the prices at its ends add up to more than zero, since a kW less lost is worth half of their sum; `loss_gap`
says where it is not. In marginal terms, with multipliers of limits and angles aside,

    lambda_j (1 - rho f) = lambda_i (1 + rho f),

so that two ways from i to j are used until their marginal losses agree: rho_1 f_1 = rho_2 f_2.
Reference: poster "Coalitions on private infrastructure" (market games with quadratic losses); Stott, Jardim, Alsac, DC
power flow revisited, IEEE Trans. Power Systems 2009, for the losses of a linear power flow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import MonomialTermExpression, ProductExpression, SumExpression

from mktopt.formulations.flows.common import branch_flows, grid_balance, index_sets
from mktopt.formulations.flows.dc import angle_drop
from mktopt.formulations.flows.power import declare_units, entries
from mktopt.formulations.orders import Injections
from mktopt.networks import units
from mktopt.networks.network import FloatArray, IntArray, Network
from mktopt.networks.sensitivity import refuse_open_loops

BoolArray = npt.NDArray[np.bool_]

# A loss is called slack where more than the first of it is no wire's, and that is more than the second of the power
# that moves; of the branch's usual loss, less than the third says nothing.
_SLACK, _NOISE, _IDLE = 1e-3, 1e-6, 1e-4
# Flows are measured in so many orders of usual size: from one to a hundred all is much the same.
_ORDERS_PER_UNIT = 16.0


def lossy(block: Any, network: Network, injection: Injections, *, physics: bool = True, exact: bool = False) -> None:
    """Fills `block` with `p_kw`, `loss_kw`, `balance`, `loss` and, where physics, `angle` and `angle_drop`.

    physics: public flows are those of the linear power flow, else all are free within their ratings; exact: losses are
    what wires lose and no more, which is not convex (a local optimum). Raises FormulationError where public branches
    without reactance form a loop, whose flows physics would leave open.
    """
    index_sets(block, network)
    rho = units.loss_per_kw(network)
    public = ~network.private if physics else np.zeros(network.n_branches, dtype=bool)
    reactance = np.where(public, units.reactance_per_kw(network), 0.0)
    if physics:
        refuse_open_loops(network, public)
    branch_flows(block, network, reactance if physics else None)
    block.loss_kw = pyo.Var(block.branches, block.periods)
    block.loss_shared, block.relaxed, block.relaxed_rows = True, not exact, ("loss",)
    periods = len(network.hours)
    lossless = np.repeat(rho == 0.0, periods)
    for variable, without in zip(block.loss_kw.values(), lossless.tolist(), strict=True):
        if without:
            variable.fix(0.0)
    grid_balance(block, network, injection, list(block.loss_kw.values()))
    _losses(block, np.repeat(rho, periods), exact)
    if physics:
        _angles(block, network, reactance, public)
    _declare_units(block, network, injection)
    if exact:
        _start(block, network, rho)


def angle_references(network: Network, public: BoolArray) -> IntArray:
    """Positions of the buses whose angle is zero: one of each part that branches `public` join, the source of its."""
    part = network.parts(public)
    references = np.unique(part, return_index=True)[1]
    references[part[network.source_index]] = network.source_index
    return references


def _declare_units(block: Any, network: Network, injection: Injections) -> None:
    """The usual order for the unit of all that is injected, a few of it for that of flows and losses alike.

    Losses are thousands of times less than flows, but in units of their own they end an interior-point method short of
    an optimum: the price of a loss, the same as that of a flow, would hardly count. Left to its rows, the main grid's
    wide orders are the unit of everything: 66,000 private wires on 1,500 buses take 21 steps then, and 15 with these.
    """
    width = injection.orders.width_kw
    width = width[(width > 0.0) & np.isfinite(width)]
    if not len(width):
        return
    usual = float(np.median(width))
    declare_units(block, {"p_kw": _ORDERS_PER_UNIT * usual, "loss_kw": _ORDERS_PER_UNIT * usual})
    for bus in range(network.n_buses):
        for t in range(len(network.hours)):
            block.scaling_factor.update((variable, 1.0 / usual) for variable in injection.terms(bus, t)[1])


def _start(block: Any, network: Network, rho: FloatArray) -> None:
    """Values to start a local search from: without any flow the losses have no slope along it."""
    usual = np.repeat(units.branch_kva(network), len(network.hours))
    loss = np.repeat(rho, len(network.hours)) * usual**2
    for flow, lost, kw, lose in zip(
        block.p_kw.values(), block.loss_kw.values(), usual.tolist(), loss.tolist(), strict=True
    ):
        flow.set_value(kw, skip_validation=True)
        lost.set_value(lose)


def _losses(block: Any, rho: FloatArray, exact: bool) -> None:
    """`loss[l, t]`: rho f^2 - L <= 0, or = 0; a branch without resistance has none."""
    keys, flows, losses = list(block.p_kw), list(block.p_kw.values()), list(block.loss_kw.values())
    at = {keys[k]: k for k in np.flatnonzero(rho).tolist()}
    coefficient, lower = rho.tolist(), 0.0 if exact else None

    def rule(_: Any, *key: Any) -> Any:
        k = at[key]
        square = ProductExpression((MonomialTermExpression((coefficient[k], flows[k])), flows[k]))
        return (lower, SumExpression([square, MonomialTermExpression((-1.0, losses[k]))]), 0.0)

    every = len(at) == len(keys)
    block.loss = pyo.Constraint(block.p_kw.index_set() if every else pyo.Set(initialize=list(at), dimen=2), rule=rule)


def _angles(block: Any, network: Network, reactance: FloatArray, public: BoolArray) -> None:
    """`angle` and `angle_drop` of public branches; one angle of every part of the public grid is zero."""
    used = reactance[reactance != 0.0]
    block.angle_scale = float(np.median(np.abs(used))) if len(used) else 1.0
    block.angle = pyo.Var(block.buses, block.periods)
    for bus in network.buses["bus"].to_numpy()[angle_references(network, public)]:
        for t in network.periods:
            block.angle[bus, t].fix(0.0)
    angle_drop(block, network, reactance / block.angle_scale, np.flatnonzero(public))


class LossGap(NamedTuple):
    """How much more each branch loses in the model than a wire would, arrays of shape (branches, periods).

    gap: (L - rho f^2) / max(L, e), e: a ten-thousandth of the loss at the branch's usual power; phantom_kw: L - rho f^2
    [kW]; phantom_kvar: zero; slack: bool, where the gap exceeds a thousandth and the phantom a millionth of the
    greatest power.
    """

    gap: FloatArray
    phantom_kw: FloatArray
    phantom_kvar: FloatArray
    slack: BoolArray


def loss_gap(block: Any, network: Network) -> LossGap:
    """The gap of a solved `lossy` block, from the values of its variables."""
    shape = (network.n_branches, len(network.hours))
    flow, lost = (
        np.array([variable.value for variable in entries(component)], dtype=float).reshape(shape)
        for component in (block.p_kw, block.loss_kw)
    )
    rho, usual = units.loss_per_kw(network)[:, None], units.branch_kva(network)[:, None]
    phantom = np.where(rho > 0.0, lost - rho * flow**2, 0.0)
    idle = np.maximum(_IDLE * rho * usual**2, np.finfo(float).tiny)
    most = max(float(np.abs(flow).max(initial=0.0)), float(usual.max(initial=0.0)))
    gap = phantom / np.maximum(lost, idle)
    return LossGap(gap, phantom, np.zeros(shape), (gap > _SLACK) & (phantom > _NOISE * most))
