"""Flow `dc`: linear power flow with voltage angles, for meshed grids.

    p_b = sum_{l from b} f_l - sum_{l to b} f_l,        |f_l| <= rating_l
    x_l f_l = theta_i - theta_j - shift_l               (f_l = b_l (theta_i - theta_j - shift_l), b_l = 1 / x_l)

f_l: flow of l = (i, j) [kW]; x_l: reactance times ratio, in radians per kW (`units.reactance_per_kw`);
theta_b: voltage angle, zero at the source [rad]. Written with x_l on the left so that a switch (x_l = 0) needs no
division; limits of theta_i - theta_j are limits of x_l f_l + shift_l and so bounds on f_l. `angle[b, t]` is
theta_b / `angle_scale`, a scale that brings the coefficients near one.
Reference: Stott, Jardim, Alsac, DC power flow revisited, IEEE Trans. Power Systems 2009.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.formulations.flows.common import branch_flows, index_sets, nodal_balance
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network
from mktopt.networks.sensitivity import refuse_open_loops
from mktopt.networks.units import reactance_per_kw


def dc(block: Any, network: Network, injection: Injections) -> None:
    """Fills `block` with `p_kw`, `angle`, `balance` and `angle_drop`.

    Raises FormulationError where a loop without any reactance leaves its flows undetermined.
    """
    refuse_open_loops(network)
    index_sets(block, network)
    branch_flows(block, network, angles=True)
    nodal_balance(block, network, injection)
    reactance = reactance_per_kw(network)
    block.angle_scale = float(np.median(np.abs(reactance[reactance != 0]))) if reactance.any() else 1.0
    block.angle = pyo.Var(block.buses, block.periods)
    for t in network.periods:
        block.angle[network.source_bus, t].fix(0.0)
    _angle_drop(block, network, reactance / block.angle_scale)


def _angle_drop(block: Any, network: Network, reactance: Any) -> None:
    """`angle_drop[l, t]`: x_l f_l - theta_i + theta_j = -shift_l, all divided by `angle_scale`."""
    ends = {
        branch: (x, network.lines.at[k, "from_bus"], network.lines.at[k, "to_bus"], shift)
        for k, (branch, x, shift) in enumerate(
            zip(network.lines["branch"], reactance.tolist(), _shifts(block, network), strict=True)
        )
    }

    def rule(block: Any, branch: str, t: int) -> Any:
        x, i, j, shift = ends[branch]
        body = LinearExpression(
            linear_coefs=[x, -1.0, 1.0],
            linear_vars=[block.p_kw[branch, t], block.angle[i, t], block.angle[j, t]],
        )
        return (body, -shift)

    block.angle_drop = pyo.Constraint(block.branches, block.periods, rule=rule)


def _shifts(block: Any, network: Network) -> list[float]:
    shifts: list[float] = (np.radians(network.lines["shift_deg"].to_numpy()) / block.angle_scale).tolist()
    return shifts
