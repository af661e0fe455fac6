"""Mechanism `dlmp`: the paper's problem (12)-(18) written down directly, on paper, and its options."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.errors import DataError, UnknownNameError
from mktopt.solvers import compile
from mktopt.solvers import solve as solve_program
from mktopt.testing import check_clearing, check_prices
from tests.clearing.markets import grid, meshed, steps
from tests.formulations.test_security import feeder, firm


def response(order, bus, kw, low, high):
    """A load of `kw` whose reduction costs `low` $/kWh for the first and `high` for the last kW, in a straight line."""
    row = {"order": order, "bus": bus, "initial_kw": kw, "price_min": low, "price_max": high}
    return mo.Orders.from_reductions(pd.DataFrame([row]))


def test_a_congested_feeder_on_paper():
    """80 of 100 kW come over the line; the marginal kW behind it is either generated at 0.06 + 0.001 g or not consumed
    at 0.05 + 0.002 r: with g + r = 20 both cost 0.07, g = r = 10."""
    orders = mo.Orders.from_curves(pd.DataFrame([
        {"order": "g", "bus": "a", "side": "offer", "q_max_kw": 50, "price_min": 0.06, "price_max": 0.11}
    ]))  # fmt: skip
    orders = orders.merge(steps(("up", "s", "offer", 200, 0.02)), response("dr", "a", 60.0, 0.05, 0.17))
    clearing = mo.clear("dlmp", feeder(), orders.merge(firm(("d", "a", 40.0))))
    assert clearing.quantity("g") == pytest.approx(10, abs=1e-5)
    assert clearing.quantity("dr") == pytest.approx(50, abs=1e-5)
    assert clearing.price("s") == pytest.approx(0.02, abs=1e-7)
    assert clearing.price("a") == pytest.approx(0.07, abs=1e-7)
    check_clearing(clearing)


def drawn(seed, size=6):
    """A meshed grid with ratings, generators, demand response, firm load, and an LMP at the source."""
    rng = np.random.default_rng(seed)
    network = meshed(seed, size)
    network = network.with_ratings({str(name): float(rng.uniform(40, 120)) for name in network.lines["branch"]})
    generators = pd.DataFrame({
        "order": [f"g{k}" for k in range(1, size)], "bus": [f"b{k}" for k in range(1, size)], "side": "offer",
        "q_max_kw": rng.uniform(20, 80, size - 1), "price_min": rng.uniform(0.01, 0.05, size - 1),
        "price_max": rng.uniform(0.06, 0.12, size - 1),
    })  # fmt: skip
    loads = pd.DataFrame({
        "order": [f"r{k}" for k in range(1, size)], "bus": [f"b{k}" for k in range(1, size)], "side": "bid",
        "q_max_kw": rng.uniform(20, 60, size - 1), "price_min": rng.uniform(0.02, 0.06, size - 1),
        "price_max": rng.uniform(0.2, 0.4, size - 1),
    })  # fmt: skip
    price = float(rng.uniform(0.02, 0.06))
    return network, generators, loads, price


def as_printed(network, generators, loads, lmp):
    """(12)-(18) with the paper's own variables, max(0, P_source) by its two halves, none of which is sold."""
    model = pyo.ConcreteModel()
    model.g = pyo.Var(generators["order"].tolist(), bounds=lambda _, k: (0, float(of(generators, k)["q_max_kw"])))
    model.d = pyo.Var(loads["order"].tolist(), bounds=lambda _, k: (0, float(of(loads, k)["q_max_kw"])))
    model.source, model.paid = pyo.Var(), pyo.Var(within=pyo.NonNegativeReals)
    model.max = pyo.Constraint(expr=model.paid >= model.source)
    model.balance = pyo.Constraint(expr=model.source == sum(model.d.values()) - sum(model.g.values()))
    p = dict.fromkeys(network.buses["bus"], 0.0)
    for row in generators.itertuples():
        p[row.bus] += model.g[row.order]
    for row in loads.itertuples():
        p[row.bus] -= model.d[row.order]
    factors, rating = np.asarray(network.topology.ptdf), network.lines["rating_kva"].to_numpy()
    flows = [sum(h * p[bus] for h, bus in zip(line, p, strict=True)) for line in factors]
    model.limits = pyo.Constraint(
        range(len(flows)), rule=lambda _, k: pyo.inequality(-rating[k], flows[k], rating[k])
    )
    cost = lmp * model.paid
    for row in generators.itertuples():
        slope = (row.price_max - row.price_min) / row.q_max_kw
        cost += row.price_min * model.g[row.order] + slope / 2 * model.g[row.order] ** 2
    for row in loads.itertuples():
        reduced, slope = row.q_max_kw - model.d[row.order], (row.price_max - row.price_min) / row.q_max_kw
        cost += row.price_min * reduced + slope / 2 * reduced**2
    model.cost = pyo.Objective(expr=cost)
    return model


def of(frame, order):
    """The row of an order."""
    return frame[frame["order"] == order].iloc[0]


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_problem_as_printed(seed):
    """The upstream grid is an offer at the LMP and an export that pays nothing, so that max(0, P_source) is free."""
    network, generators, loads, lmp = drawn(seed)
    model = as_printed(network, generators, loads, lmp)
    program = compile(model)
    solved = solve_program(program)
    assert solved.status.ok
    upstream = steps(("up", "b0", "offer", 1e3, lmp), ("away", "b0", "bid", 1e3, 0.0))
    clearing = mo.clear("dlmp", network, mo.Orders.from_curves(pd.concat([generators, loads])).merge(upstream))
    check_clearing(clearing)
    orders = [*model.g, *model.d]
    printed = program.values(solved.x, [*model.g.values(), *model.d.values()])
    assert [clearing.quantity(order) for order in orders] == pytest.approx(printed.tolist(), abs=1e-3)
    # welfare is what the initial load is worth, less the cost (12)
    worth = float(((loads["price_min"] + loads["price_max"]) / 2 * loads["q_max_kw"]).sum())
    assert clearing.welfare == pytest.approx(worth - solved.objective, abs=1e-6)


@pytest.mark.parametrize("flow", ["ptdf", "dc"])
def test_prices_are_what_more_demand_costs(flow):
    network, generators, loads, lmp = drawn(2)
    orders = mo.Orders.from_curves(pd.concat([generators, loads])).merge(steps(("up", "b0", "offer", 1e3, lmp)))
    assert check_prices("dlmp", network, orders, flow=flow)["unique"].any()


@pytest.mark.parametrize("flow", list(mo.FLOWS))
def test_it_clears_as_the_pool_does_under_every_flow(flow):
    network, orders = mo.testing.small_market()
    here, pool = (mo.clear(name, network, orders, flow=flow) for name in ("dlmp", "surplus"))
    assert here.mechanism == "dlmp"
    assert here.prices["price"].to_numpy() == pytest.approx(pool.prices["price"].to_numpy(), abs=1e-9)
    assert here.welfare == pytest.approx(pool.welfare, rel=1e-9)


def test_the_default_flow_is_by_sensitivities():
    assert mo.clear("dlmp", *mo.testing.small_market()).flow == "ptdf"


def test_without_an_upstream_offer_nothing_is_imported():
    orders = steps(("g", "a", "offer", 60, 0.05), ("d", "a", "bid", 90, 0.50))
    clearing = mo.clear("dlmp", feeder(), orders)
    assert clearing.quantity("d") == pytest.approx(60, abs=1e-6)
    assert clearing.flows["p_kw"].to_numpy() == pytest.approx([0.0], abs=1e-6)


def test_settlement_of_demand_response_is_an_option_of_the_mechanism():
    orders = steps(("up", "s", "offer", 200, 0.02), ("d", "a", "bid", 40, 1.0))
    orders = orders.merge(response("dr", "a", 60, 0.05, 0.17))
    credit, on_top = (
        mo.clear("dlmp", feeder(), orders, demand_response=way).settlement for way in ("credit", "on_top")
    )
    assert float(credit.deficit["deficit"].sum()) == 0
    reduced = credit.orders.set_index("order").loc["dr", "reduction_kw"]
    assert reduced == pytest.approx(20, abs=1e-5)
    price = 0.05 + 0.002 * 20
    assert float(on_top.deficit["deficit"].sum()) == pytest.approx(price * reduced, abs=1e-6)
    assert on_top.budget == pytest.approx(credit.budget, abs=1e-9)
    with pytest.raises(UnknownNameError, match="did you mean 'on_top'"):
        mo.clear("dlmp", feeder(), orders, demand_response="on top")


def test_a_session_without_contingencies():
    network, orders = mo.testing.small_market()
    session = mo.Session(mo.build("dlmp", network, orders, flow="transport", parametric=True))
    first = session.solve().welfare
    assert first == pytest.approx(mo.clear("dlmp", network, orders, flow="transport").welfare, rel=1e-7)
    session.set("ask_price", session.get("ask_price") + 0.01)
    dearer = session.solve()
    assert dearer.welfare < first
    assert session.clearing().certificate.ok()


def test_a_loop_under_a_radial_flow_is_named():
    network = grid([("12", "1", "2", 0.1, 9.0), ("23", "2", "3", 0.1, 9.0), ("13", "1", "3", 0.1, 9.0)], "123")
    with pytest.raises(mo.errors.FormulationError, match="loop"):
        mo.clear("dlmp", network, steps(("up", "1", "offer", 9, 0.1)), flow="distflow")


def test_orders_that_do_not_fit_are_refused_before_anything_is_built():
    with pytest.raises(DataError, match="no such name in table 'buses'"):
        mo.clear("dlmp", feeder(), steps(("up", "x", "offer", 9, 0.1)), contingencies="n-1")
