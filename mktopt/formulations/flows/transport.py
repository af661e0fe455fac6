"""Flow `transport`: power is conserved and limited, but not bound to physics in loops.

    p_b = sum_{l from b} f_l - sum_{l to b} f_l,        |f_l| <= rating_l

p_b: injection of bus b [kW]; f_l: flow of branch l, positive from `from_bus` [kW]. On a radial grid this is the
papers' simplified DC model, q_line(i,j) = q_bus(j) + sum_{k in children(j)} q_line(j,k).
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (1).
"""

from __future__ import annotations

from typing import Any

from mktopt.formulations.flows.common import branch_flows, index_sets, nodal_balance
from mktopt.formulations.orders import Injections
from mktopt.networks.network import Network


def transport(block: Any, network: Network, injection: Injections) -> None:
    """Fills `block` with `p_kw` (ratings as bounds) and `balance`."""
    index_sets(block, network)
    branch_flows(block, network)
    nodal_balance(block, network, injection)
