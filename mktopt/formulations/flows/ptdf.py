"""Flow `ptdf`: linear power flow without angles, by sensitivities of flows to injections.

    f = H p + f0,        1' p = 0,        |f| <= rating

p: injections [kW], shape (buses,); f: branch flows [kW], shape (branches,); H: power transfer distribution factors
with the source as slack, shape (branches, buses); f0: flows that phase shifters drive at zero injection.
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (16)-(18), without contingencies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression
from scipy.sparse import csr_array

from mktopt.formulations.flows.common import branch_flows, explicit_injection, index_sets
from mktopt.formulations.flows.copperplate import power_is_balanced
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network
from mktopt.networks.units import reactance_per_kw


def ptdf(block: Any, network: Network, injection: Injections) -> None:
    """Fills `block` with `injection_kw`, `p_kw`, `balance`, `total` and `sensitivity` (f = H p + f0)."""
    index_sets(block, network)
    explicit_injection(block, network, injection)
    block.total = pyo.Constraint(block.periods, rule=power_is_balanced)
    branch_flows(block, network, reactance_per_kw(network))
    _sensitivity(block, network)


def _sensitivity(block: Any, network: Network) -> None:
    factors = csr_array(network.topology.ptdf)
    starts, columns, data = factors.indptr.tolist(), factors.indices, factors.data
    constant = network.topology.shift_flow_kw
    periods = len(network.hours)
    injections = np.array(list(block.injection_kw.values()), dtype=object).reshape(-1, periods)
    position = {branch: k for k, branch in enumerate(network.lines["branch"])}

    def rule(block: Any, branch: str, t: int) -> Any:
        k = position[branch]
        here = slice(starts[k], starts[k + 1])
        used = columns[here]
        body = LinearExpression(
            linear_coefs=[1.0, *(-data[here]).tolist()],
            linear_vars=[block.p_kw[branch, t], *injections[used, t].tolist()],
        )
        return (float(constant[k]), body, float(constant[k]))

    block.sensitivity = pyo.Constraint(block.branches, block.periods, rule=rule)
