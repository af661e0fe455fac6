"""N-1 dispatch and prices against PyPSA's security-constrained optimal power flow, which knows outages of branches."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.testing import check_clearing

pypsa = pytest.importorskip("pypsa", reason="PyPSA is not installed (extra 'dev')")

# HiGHS adds this to the slopes of a quadratic program, 1e-7 by default, which shows beside ours of 3e-4 $/kWh per kW.
OPTIONS = {"output_flag": False, "qp_regularization_value": 1e-12}


def market(seed: int, rise: float) -> tuple[mo.Network, mo.Orders]:
    """A meshed grid of eight buses over two periods, branches rated, loads firm; offers rise by `rise` [$/kWh]."""
    rng = np.random.default_rng(seed)
    n = 8
    ends = [(k, (k + 1) % n) for k in range(n)] + [(0, 4), (1, 5), (2, 6), (0, 1)]  # a ring with chords, one doubled
    branches = pd.DataFrame({
        "branch": [f"l{k}" for k in range(len(ends))],
        "from_bus": [f"b{i}" for i, _ in ends], "to_bus": [f"b{j}" for _, j in ends],
        "r_ohm": 0.01, "x_ohm": rng.uniform(0.05, 0.3, len(ends)),
        "rating_kva": rng.uniform(60.0, 110.0, len(ends)),
    })  # fmt: skip
    buses = pd.DataFrame({"bus": [f"b{k}" for k in range(n)], "base_kv": 1.0})
    network = mo.Network(buses, branches, "b0", hours=(1.0, 1.0))
    rows = [("up", "b0", "offer", t, 400.0, 0.02, 0.02 + rise, 0.0) for t in (0, 1)]
    for k, t in [(k, t) for k in range(1, n) for t in (0, 1)]:
        low = 0.04 + 0.01 * k
        rows.append((f"g{k}", f"b{k}", "offer", t, 60.0, low, low + rise, 0.0))
        kw = float(rng.uniform(20, 50))
        rows.append((f"d{k}", f"b{k}", "bid", t, kw, 1.0, 1.0, kw))
    columns = ["order", "bus", "side", "period", "q_max_kw", "price_min", "price_max", "minimum_kw"]
    return network, mo.Orders.from_curves(pd.DataFrame(rows, columns=columns))


def in_pypsa(network: mo.Network, orders: mo.Orders):
    """The same market, a MW for a kW."""
    other = pypsa.Network()
    other.set_snapshots(list(network.periods))
    other.add("Carrier", "AC")
    other.add("Bus", network.buses["bus"].tolist(), v_nom=1.0, carrier="AC")
    for line in network.lines.itertuples():
        other.add("Line", line.branch, bus0=line.from_bus, bus1=line.to_bus, x=line.x_ohm, r=line.r_ohm,
                  s_nom=line.rating_kva, carrier="AC")  # fmt: skip
    table = orders.joined()
    for name, rows in table.groupby("order", sort=False):
        first = rows.iloc[0]
        if first["side"] == "bid":
            other.add("Load", name, bus=first["bus"], p_set=pd.Series(rows["width_kw"].to_numpy(), network.periods))
        else:
            slope = (first["price_end"] - first["price_start"]) / first["width_kw"]
            other.add("Generator", name, bus=first["bus"], p_nom=first["width_kw"], carrier="AC",
                      marginal_cost=first["price_start"], marginal_cost_quadratic=slope / 2)  # fmt: skip
    return other


@pytest.mark.filterwarnings("ignore::FutureWarning:pypsa")
@pytest.mark.parametrize(("seed", "rise"), [(0, 0.0), (1, 0.02)])
def test_dispatch_and_prices_equal_those_of_pypsa(seed, rise):
    logging.disable(logging.WARNING)
    try:
        network, orders = market(seed, rise)
        outages = network.lines["branch"].tolist()
        other = in_pypsa(network, orders)
        status = other.optimize.optimize_security_constrained(
            branch_outages=outages, solver_name="highs", solver_options=OPTIONS
        )
    finally:
        logging.disable(logging.NOTSET)
    assert status[1] == "optimal"
    clearing = mo.clear("dlmp", network, orders, contingencies=outages)
    check_clearing(clearing)
    free = mo.clear("dlmp", network, orders)
    assert clearing.welfare < free.welfare - 1e-3, "security binds"
    assert clearing.prices_unique
    price = clearing.prices.pivot(index="period", columns="bus", values="price")
    theirs = other.buses_t.marginal_price[price.columns].to_numpy()
    assert price.to_numpy() == pytest.approx(theirs, abs=1e-7)
    offers = clearing.dispatch[clearing.dispatch["side"] == "offer"]
    accepted = offers.pivot(index="period", columns="order", values="quantity_kw")
    assert accepted.to_numpy() == pytest.approx(other.generators_t.p[accepted.columns].to_numpy(), abs=1e-3)
    flow = clearing.flows.pivot(index="period", columns="branch", values="p_kw")
    assert flow.to_numpy() == pytest.approx(other.lines_t.p0[flow.columns].to_numpy(), abs=1e-3)
