"""Flow `copperplate`: no grid at all, one price everywhere.

    sum_b p_b = 0        per period

p_b: injection of bus b [kW]. The reference price of every comparison (design of the pool without a network).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.formulations.flows.common import explicit_injection, index_sets
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network


def copperplate(block: Any, network: Network, injection: Injections) -> None:
    """Fills `block` with `injection_kw`, `balance` per bus and `total` per period."""
    index_sets(block, network)
    explicit_injection(block, network, injection)
    block.total = pyo.Constraint(block.periods, rule=power_is_balanced)


def power_is_balanced(block: Any, t: int) -> Any:
    """sum_b injection_kw[b, t] = 0."""
    variables = [block.injection_kw[bus, t] for bus in block.buses]
    return (0.0, LinearExpression(linear_coefs=[1.0] * len(variables), linear_vars=variables), 0.0)
