"""What the tests of flows with voltages share: dispatch put into pandapower, prices of reactive power, arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

import mktopt as mo


def two_bus(r_ohm: float = 0.1, x_ohm: float = 0.2, **branch: Any) -> mo.Network:
    """1 kV, so that a unit of impedance is 1000 ohm: r = 1e-4, x = 2e-4 per kW; bus 2 hangs on the source, bus 1."""
    buses = pd.DataFrame({"bus": ["1", "2"], "base_kv": 1.0, "v_min_pu": 0.5, "v_max_pu": 1.5})
    line = {"branch": "1-2", "from_bus": "1", "to_bus": "2", "r_ohm": r_ohm, "x_ohm": x_ohm}
    return mo.Network(buses, pd.DataFrame([line | branch]), "1")


def market(kw: float = 100.0, tan_phi: float = 0.5, price: float = 1.0) -> mo.Orders:
    """A bid at bus 2 and a wide offer at the source for 0.05 $/kWh."""
    return mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load"], "bus": ["1", "2"], "side": ["offer", "bid"], "width_kw": [1e4, kw],
        "price": [0.05, price], "tan_phi": [0.0, tan_phi],
    }))  # fmt: skip


def values(component: Any) -> np.ndarray:
    """The values of an indexed component, in its sequence."""
    return np.array([pyo.value(item) for item in component.values()])


def grid_of(clearing: mo.Clearing) -> Any:
    """The flow's block, with the solution in it."""
    return clearing.evidence.model.grid


def kvar_price(clearing: mo.Clearing, bus: str, period: int = 0) -> float:
    """What one more kvarh of firm reactive demand costs [$/kvarh]."""
    table = clearing.reactive_prices
    return float(table.loc[(table["bus"] == bus) & (table["period"] == period), "price"].item())


def kvar_price_by_perturbation(network: mo.Network, orders: mo.Orders, bus: str, epsilon: float, **how: Any) -> float:
    """The same from clearing with a little more and a little less of it."""
    welfare = []
    for kvar in (epsilon, -epsilon):
        probe = pd.DataFrame([{
            "order": "__probe", "bus": bus, "side": "bid", "width_kw": 0.0, "price": 0.0, "q_min_kvar": kvar,
            "q_max_kvar": kvar,
        }])  # fmt: skip
        welfare.append(mo.clear("surplus", network, orders.merge(mo.Orders.from_steps(probe)), **how).welfare)
    return (welfare[1] - welfare[0]) / (2.0 * epsilon * float(network.hours[0]))


def injections(clearing: mo.Clearing) -> tuple[np.ndarray, np.ndarray]:
    """What the orders inject into each bus in period 0 [kW, kvar]."""
    orders, network, grid = clearing.orders, clearing.network, grid_of(clearing)
    kw = orders.injection_sign * clearing.dispatch["quantity_kw"].to_numpy()
    kvar = np.where(np.isnan(orders.orders["q_min_kvar"]), orders.orders["tan_phi"], 0.0) * kw
    where = network.bus_positions(orders.orders["bus"])
    p, q = (np.bincount(where, part, network.n_buses) for part in (kw, kvar))
    sign = dict(zip(orders.orders["order"], orders.injection_sign, strict=True))
    place = dict(zip(orders.orders["order"], where, strict=True))
    for (order, _), variable in grid.reactive_kvar.items():
        q[place[order]] += sign[order] * variable.value
    return p, q


def newton(clearing: mo.Clearing) -> np.ndarray:
    """Voltages that pandapower's power flow finds for the dispatch [p.u.]."""
    import pandapower as pp

    network = clearing.network
    net = network.to_pandapower()
    net.load = net.load.iloc[:0]
    p, q = injections(clearing)
    others = np.delete(np.arange(network.n_buses), network.source_index)
    pp.create_loads(net, others, p_mw=-p[others] / 1e3, q_mvar=-q[others] / 1e3)
    start = network.topology.no_load_v_pu if network.topology.is_radial else "flat"
    pp.runpp(net, init_vm_pu=start, init_va_degree="dc", calculate_voltage_angles=True, tolerance_mva=1e-10,
             max_iteration=50, numba=False)  # fmt: skip
    return net.res_bus["vm_pu"].to_numpy()
