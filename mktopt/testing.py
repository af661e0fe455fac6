"""Conformance checks for extensions: run them on a flow, a mechanism or a constraint of your own.

    from mktopt.testing import check_prices, check_flow
    check_flow(my_flow)                        # balance rows, shapes, prices by perturbation, certificate
    check_prices("surplus", network, orders, flow=my_flow, extra=[my_row])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mktopt.clearing.result import Clearing
from mktopt.formulations.flows import Flow, flow
from mktopt.formulations.flows.common import FlowBuilder
from mktopt.formulations.market import Extra
from mktopt.mechanisms import clear
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def price_by_perturbation(
    mechanism: str,
    network: Network,
    orders: Orders,
    bus: str,
    period: int = 0,
    *,
    epsilon_kw: float,
    flow: str | Flow | FlowBuilder | None = None,
    solver: str | None = None,
    extra: Sequence[Extra] = (),
    **options: Any,
) -> tuple[float, float]:
    """Prices of `bus` and `period` from re-clearing with epsilon more, and epsilon less, firm demand [$/kWh].

    price = -(W(demand + epsilon) - W(demand)) / (epsilon hours), and likewise for less demand (a firm offer at no
    cost). Where the two differ the price is not unique, or epsilon is too large.
    """
    arguments: dict[str, Any] = {"flow": flow, "solver": solver, "extra": extra, **options}
    base = clear(mechanism, network, orders, **arguments)
    return _slopes(base.welfare, mechanism, network, orders, bus, period, epsilon_kw, _named(arguments, base))


def _named(arguments: dict[str, Any], base: Clearing) -> dict[str, Any]:
    """`arguments` with the contingencies of `base` by name: under 'n-1' the probe would be one more."""
    if base.contingencies is None:
        return arguments
    return {**arguments, "contingencies": base.contingencies["contingency"].tolist()}


def _slopes(
    base: float,
    mechanism: str,
    network: Network,
    orders: Orders,
    bus: str,
    period: int,
    epsilon_kw: float,
    arguments: dict[str, Any],
) -> tuple[float, float]:
    """Loss of welfare per kWh of more firm demand, gain per kWh of less, from the welfare `base` without either."""
    energy = epsilon_kw * float(network.hours[period])
    more, less = (
        clear(mechanism, network, orders.merge(_probe(bus, period, side, epsilon_kw)), **arguments).welfare
        for side in ("bid", "offer")
    )
    return (base - more) / energy, (less - base) / energy


def _probe(bus: str, period: int, side: str, width_kw: float) -> Orders:
    """A firm order of no value and no cost: demand (bid) or supply (offer) that nobody is asked about."""
    row = {"order": "__probe", "bus": bus, "side": side, "period": period, "width_kw": width_kw, "price": 0.0}
    return Orders.from_steps(pd.DataFrame([{**row, "minimum_kw": width_kw}]))


def check_prices(
    mechanism: str,
    network: Network,
    orders: Orders,
    *,
    buses: Sequence[str] | None = None,
    epsilon_kw: float | None = None,
    tolerance: float = 1e-4,
    flow: str | Flow | FlowBuilder | None = None,
    solver: str | None = None,
    extra: Sequence[Extra] = (),
    **options: Any,
) -> pd.DataFrame:
    """Holds every price against re-clearing with a little more and a little less firm demand.

    Returns bus, period, price, more, less, unique. Raises AssertionError where a price lies outside the two one-sided
    values by more than `tolerance` of the price level. buses: default all; epsilon_kw: default a ten-thousandth of
    the traded energy.
    """
    arguments: dict[str, Any] = {"flow": flow, "solver": solver, "extra": extra, **options}
    clearing = clear(mechanism, network, orders, **arguments)
    arguments = _named(arguments, clearing)
    traded = float(clearing.dispatch["quantity_kw"].sum())
    epsilon = 1e-4 * max(traded, 1.0) if epsilon_kw is None else epsilon_kw
    level = max(float(clearing.prices["price"].abs().max()), 1e-3)
    records = []
    for bus in network.buses["bus"] if buses is None else buses:
        for period in network.periods:
            more, less = _slopes(clearing.welfare, mechanism, network, orders, bus, period, epsilon, arguments)
            price = clearing.price(bus, period)
            unique = abs(more - less) <= 10 * tolerance * level
            assert min(more, less) - tolerance * level <= price <= max(more, less) + tolerance * level, (
                f"price of bus {bus!r}, period {period}: {price:.8g} $/kWh, but welfare falls by {more:.8g} $/kWh "
                f"with more demand and rises by {less:.8g} $/kWh with less"
            )
            records.append((bus, period, price, more, less, unique))
    return pd.DataFrame(records, columns=["bus", "period", "price", "more", "less", "unique"])


def check_clearing(clearing: Clearing, tolerance: float = 1e-6) -> None:
    """Raises AssertionError where a clearing's tables are incomplete or its certificate fails."""
    network = clearing.network
    assert len(clearing.prices) == network.n_buses * len(network.hours), "a price per bus and period is missing"
    assert len(clearing.dispatch) == len(clearing.orders), "a row per order and period is missing in dispatch"
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    assert np.all(np.isfinite(quantity)), "a quantity is not finite"
    assert not (quantity < -1e-9 * max(1.0, np.abs(quantity).max(initial=0))).any(), "a quantity is negative"
    certificate = clearing.certificate
    assert certificate.ok(tolerance), f"the certificate fails: {certificate}"


def check_flow(which: str | Flow | FlowBuilder, network: Network | None = None, orders: Orders | None = None) -> None:
    """Runs a flow through a small market (or yours) and checks its rows, prices and certificate.

    Raises AssertionError where `balance` lacks a bus or period, a price is not what re-clearing says, or the
    certificate fails.
    """
    if network is None or orders is None:
        network, orders = small_market()
    chosen = flow(which)
    clearing = clear("surplus", network, orders, flow=chosen)
    balance = clearing.evidence.model.grid.balance
    missing = [(b, t) for b in network.buses["bus"] for t in network.periods if (b, t) not in balance]
    assert not missing, f"flow {chosen.name!r} has no balance for {missing[:3]}"
    check_clearing(clearing)
    check_prices("surplus", network, orders, flow=chosen)


def small_market() -> tuple[Network, Orders]:
    """A radial feeder of four buses with one congested branch and affine orders over two periods."""
    buses = pd.DataFrame({"bus": ["s", "a", "b", "c"], "base_kv": 12.47})
    branches = pd.DataFrame({
        "branch": ["s-a", "a-b", "a-c"], "from_bus": ["s", "a", "a"], "to_bus": ["a", "b", "c"],
        "r_ohm": [0.3, 0.4, 0.5], "x_ohm": [0.6, 0.5, 0.4], "rating_kva": [150.0, 40.0, np.inf],
    })  # fmt: skip
    network = Network(buses, branches, "s", hours=(1.0, 0.5), name="small market")
    rows = [("up", "s", "offer", 300.0, 0.05, 0.06), ("pv", "c", "offer", 60.0, 0.02, 0.08),
            ("load a", "a", "bid", 90.0, 0.04, 0.30), ("load b", "b", "bid", 80.0, 0.03, 0.40),
            ("load c", "c", "bid", 70.0, 0.05, 0.25)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["order", "bus", "side", "q_max_kw", "price_min", "price_max"])
    both = [frame.assign(period=t, q_max_kw=frame["q_max_kw"] * (1 + 0.2 * t)) for t in (0, 1)]
    return network, Orders.from_curves(pd.concat(both))
