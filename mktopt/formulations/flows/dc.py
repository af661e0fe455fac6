"""Flow `dc`: linear power flow with voltage angles, for meshed grids.

    p_b = sum_{l from b} f_l - sum_{l to b} f_l,        |f_l| <= rating_l
    x_l f_l = theta_i - theta_j - shift_l               (f_l = b_l (theta_i - theta_j - shift_l), b_l = 1 / x_l)

f_l: flow of l = (i, j) [kW]; x_l: reactance times ratio, in radians per kW (`units.reactance_per_kw`), or with
susceptance="powermodels" (r^2 + x^2) / x without the ratio;
theta_b: voltage angle, zero at the source [rad]. Written with x_l on the left so that a switch (x_l = 0) needs no
division; limits of theta_i - theta_j are limits of x_l f_l + shift_l and so bounds on f_l. `angle[b, t]` is
theta_b / `angle_scale`, a scale that brings the coefficients near one.
Reference: Stott, Jardim, Alsac, DC power flow revisited, IEEE Trans. Power Systems 2009; for the other susceptance
Coffrin, Bent, Sundar, Ng, Lubin, PowerModels.jl, Power Systems Computation Conference 2018.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.flows.common import branch_flows, index_sets, nodal_balance
from mktopt.formulations.orders import Injections
from mktopt.networks.network import FloatArray, IntArray, Network
from mktopt.networks.sensitivity import refuse_open_loops
from mktopt.networks.units import reactance_per_kw

SUSCEPTANCES = ("reactance", "powermodels")


def dc(block: Any, network: Network, injection: Injections, *, susceptance: str = "reactance") -> None:
    """Fills `block` with `p_kw`, `angle`, `balance` and `angle_drop`.

    susceptance: 'reactance', 1 / (x ratio), or 'powermodels', x / (r^2 + x^2) without the ratio. Raises
    FormulationError where a loop without any reactance leaves its flows undetermined, or a branch has none to give.
    """
    reactance = _reactance(network, susceptance)
    index_sets(block, network)
    branch_flows(block, network, reactance)
    nodal_balance(block, network, injection)
    block.angle_scale = float(np.median(np.abs(reactance[reactance != 0]))) if reactance.any() else 1.0
    block.angle = pyo.Var(block.buses, block.periods)
    for t in network.periods:
        block.angle[network.source_bus, t].fix(0.0)
    angle_drop(block, network, reactance / block.angle_scale)


def _reactance(network: Network, susceptance: str) -> FloatArray:
    if susceptance not in SUSCEPTANCES:
        raise unknown_name("word for option 'susceptance' of flow 'dc':", susceptance, SUSCEPTANCES)
    reactance = reactance_per_kw(network, susceptance)
    if np.isinf(reactance).any():
        branch = network.lines["branch"].iloc[int(np.isinf(reactance).argmax())]
        raise FormulationError(
            f"branch '{branch}' has resistance but no reactance, so that with susceptance='powermodels' nothing flows "
            "over it; give it an x_ohm, or use susceptance='reactance'"
        )
    refuse_open_loops(network)
    return reactance


def angle_drop(block: Any, network: Network, reactance: FloatArray, among: IntArray | None = None) -> None:
    """Declares `angle_drop[l, t]`: x_l f_l - theta_i + theta_j = -shift_l, all divided by `angle_scale`.

    reactance: x_l / `angle_scale` (n_branches,); among: positions of the branches that obey it, all by default.
    """
    lines = network.lines
    columns = (lines["branch"], reactance, lines["from_bus"], lines["to_bus"], _shifts(block, network))
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    ends = {branch: rest for branch, *rest in rows}
    chosen = block.branches if among is None else lines["branch"].to_numpy()[among].tolist()

    def rule(block: Any, branch: str, t: int) -> Any:
        x, i, j, shift = ends[branch]
        body = LinearExpression(
            linear_coefs=[x, -1.0, 1.0],
            linear_vars=[block.p_kw[branch, t], block.angle[i, t], block.angle[j, t]],
        )
        return (body, -shift)

    block.angle_drop = pyo.Constraint(chosen, block.periods, rule=rule)


def _shifts(block: Any, network: Network) -> list[float]:
    shifts: list[float] = (np.radians(network.lines["shift_deg"].to_numpy()) / block.angle_scale).tolist()
    return shifts
