"""Mechanism `surplus`: the pool that maximises consumers' and producers' net surplus on a grid.

    max  sum_t hours_t S_t    s.t.  the flow's equations,   0 <= x_s <= width_s,   minimum_o <= q_o

S_t: surplus of the accepted orders per hour [$/h] (see `mktopt.formulations.orders`); hours_t: length of period t [h].
The price of bus b and period t is the cost of one more kWh of firm demand there: -(dual of balance[b, t]) / hours_t.
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), use case 1, eq. (1)-(8).
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC

from mktopt.formulations.changing import allow_changes
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.market import Declaration, declare
from mktopt.formulations.orders import declare_orders
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def surplus(network: Network, orders: Orders, flow: Flow, pricing: str = "nodal", *, parametric: bool = False) -> Any:
    """The surplus market of `orders` on `network` under `flow`, as a ConcreteModel.

    `pricing` ('nodal' or 'budget_balanced') says what the accepted orders pay; it does not change the dispatch.
    parametric: prices, slopes, widths and ratings become mutable Params (see `mktopt.formulations.changing`).
    Raises DataError and FormulationError for orders or networks that the flow cannot take.
    """
    with PauseGC():
        model = pool("surplus", network, orders, flow, parametric)
    declare(model, Declaration("surplus", network, orders, flow, {"pricing": pricing}))
    return model


def pool(name: str, network: Network, orders: Orders, flow: Flow, parametric: bool) -> Any:
    """Orders, grid and the welfare that they maximise, as a ConcreteModel called `name`; not yet tied to its data."""
    model = pyo.ConcreteModel(name)
    allow_changes(model, parametric)
    injection = declare_orders(model, network, orders)
    model.grid = pyo.Block()
    flow.fill(model.grid, network, injection)
    model.welfare = pyo.Objective(expr=total_surplus(model, network), sense=pyo.maximize)
    return model


def total_surplus(model: Any, network: Network) -> Any:
    """sum_t hours_t S_t [$]."""
    return sum(float(network.hours[t]) * model.surplus[t] for t in model.periods)
