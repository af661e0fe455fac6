"""Mechanism `dlmp`: distribution locational marginal prices by (security-constrained) optimal power flow.

    min  LMP_source max(0, P_source) + c_gen(P^g) + c_DR(Pbar^d - P^d)                 (12)
    s.t. P_source = 1'(P^d - P^g),  P^g_min <= P^g <= P^g_max,  0 <= P^d <= Pbar^d,     (13)-(15)
         flows within ratings (16)-(18), after every contingency within emergency ratings

LMP_source: wholesale price at the source [$/kWh]; P^g, P^d: power of generators and of consumers [kW]; Pbar^d: load
before demand response; c: convex costs [$/h]. It is the pool of `surplus` read from the other end:

- the upstream grid is an ordinary offer at the source bus at the price LMP_source, paid for import only, so that
  max(0, .) needs no trick; export is a bid there; without such an offer only the others supply, which is allowed;
- a generator is an offer whose curve is its marginal cost;
- a demand-response provider is a bid of width Pbar whose value of the last kW is the cost of the first kW reduced;
- other load is firm (or has a value of its own).

So welfare is the constant value of the initial load minus (12), and maximising it is the problem above. The DLMP of a
bus is the dual of its balance, energy, losses, congestion, voltage and security in one number (see `price_parts`).
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), use case 3, eq. (12)-(18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyomo.common.gc_manager import PauseGC

from mktopt.errors import FormulationError
from mktopt.formulations.contingencies import emergency_limits
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.market import Declaration, declare
from mktopt.formulations.security import Security
from mktopt.formulations.surplus import pool
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def dlmp(
    network: Network,
    orders: Orders,
    flow: Flow,
    contingencies: str | Sequence[str] | None = None,
    emergency: float | Mapping[str, float] = 1.0,
    lazy: bool | None = None,
    demand_response: str = "credit",
    pricing: str = "nodal",
    *,
    parametric: bool = False,
) -> Any:
    """The optimal power flow of `orders` on `network` under `flow`, as a ConcreteModel.

    contingencies: None, 'n-1' (every branch and every offer away from the source), or names of branches, offers and
    participants (see `mktopt.formulations.contingencies`); emergency: factor on `rating_kva` after an outage, or a
    mapping from branches to factors; lazy: whether contingency rows are declared only where the dispatch violates
    them, None for as many as there are (see `mktopt.formulations.security`); demand_response ('credit' or 'on_top')
    and pricing ('nodal' or 'budget_balanced') say what is paid and do not change the dispatch; parametric: prices,
    slopes, widths and ratings become mutable Params, without contingencies only. Without an offer at the source bus
    nothing is imported, and nothing could pick up a lost generator.

    Raises UnknownNameError, DataError and FormulationError for orders, contingencies or networks that cannot be taken.
    """
    security = _security(network, orders, flow, contingencies, emergency, lazy, parametric)
    with PauseGC():
        model = pool("dlmp", network, orders, flow, parametric)
        if security is not None:
            security.declare(model)
    options: dict[str, Any] = {"demand_response": demand_response, "pricing": pricing}
    if security is not None:
        asked = contingencies if isinstance(contingencies, str) else [item.name for item in security.contingencies]
        factors = {str(k): float(v) for k, v in emergency.items()} if isinstance(emergency, Mapping) else emergency
        options |= {"contingencies": asked, "emergency": factors, "lazy": security.lazy}
    declare(model, Declaration("dlmp", network, orders, flow, options, security=security))
    return model


def _security(
    network: Network,
    orders: Orders,
    flow: Flow,
    contingencies: str | Sequence[str] | None,
    emergency: float | Mapping[str, float],
    lazy: bool | None,
    parametric: bool,
) -> Security | None:
    if contingencies is None:
        emergency_limits(network, emergency)  # refuses what would be refused with contingencies
        return None
    if parametric:
        raise FormulationError(
            "a parametric market takes no contingencies: which of their rows are needed changes with the data; "
            "build it anew for other data, or leave parametric=True out"
        )
    orders.check(network)
    return Security(network, orders, flow, contingencies, emergency, lazy)
