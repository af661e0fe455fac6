"""The certificate holds for every flow and solver, and fails as soon as one number of the result is not right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.clearing.certificate import certify
from mktopt.testing import check_clearing
from tests.clearing.markets import (
    FLOWS,
    NONCONVEX,
    PAIRS,
    SOLVERS,
    affine,
    cap_on_bids,
    congested,
    grid,
    meshed,
    radial,
    steps,
)

FIGURES = ("primal", "dual", "gap", "regret", "budget", "tables")


def market(flow: str, seed: int = 11, pricing: str = "nodal", solver: str | None = None) -> mo.Clearing:
    """A congested market of two periods with a row of the user's own, all of them binding."""
    network = radial(seed, hours=[0.5, 2.0])
    orders = affine(seed, network)
    network = congested(network, orders, flow)
    cap = cap_on_bids(0.8, network, orders, flow)
    return mo.clear("surplus", network, orders, flow=flow, solver=solver, extra=[cap], pricing=pricing)


@pytest.fixture(scope="module")
def cleared() -> dict[str, mo.Clearing]:
    return {flow: market(flow) for flow in FLOWS}


@pytest.mark.parametrize(("flow", "solver"), PAIRS)
def test_the_certificate_holds(flow, solver):
    clearing = market(flow, solver=solver)
    certificate = clearing.certificate
    assert certificate.ok(), certificate
    local = flow in NONCONVEX
    assert certificate.local == local
    assert certificate.convex != local
    assert (certificate.gap is None) == local
    for figure in FIGURES:
        assert (getattr(certificate, figure) or 0.0) <= 1e-6
    assert certificate.rent_must_be_positive != local
    assert certificate.rent >= 0
    assert certificate.rent == pytest.approx(clearing.settlement.budget, abs=1e-6 * certificate.turnover)
    assert str(certificate).startswith("holds")
    check_clearing(clearing)


def changed(clearing: mo.Clearing, table: str, column: str, row: int, value) -> mo.Clearing:
    frame = getattr(clearing, table).copy()
    place = frame.columns.get_loc(column)
    frame.iloc[row, place] = value(frame.iloc[row, place]) if callable(value) else value
    return replace(clearing, **{table: frame})


def traded(clearing: mo.Clearing, side: str = "bid") -> int:
    """An order that is accepted in part."""
    table, width = clearing.dispatch, clearing.orders.width_kw
    inner = (table["quantity_kw"] > 0.1 * width) & (table["quantity_kw"] < 0.9 * width) & (table["side"] == side)
    return int(np.flatnonzero(inner)[0])


def loaded(clearing: mo.Clearing) -> int:
    return int(clearing.flows["p_kw"].abs().to_numpy().argmax())


# Each tampers with one thing, by a ten-thousandth where it is a number.
TAMPERED = {
    "one price": lambda c: changed(c, "prices", "price", 3, lambda v: v * 1.0001),
    "the price of the source": lambda c: changed(c, "prices", "price", 0, lambda v: v * 1.0001),
    "no price": lambda c: changed(c, "prices", "price", 3, np.nan),
    "one quantity": lambda c: changed(c, "dispatch", "quantity_kw", traded(c), lambda v: v * 1.0001),
    "one offered quantity": lambda c: changed(c, "dispatch", "quantity_kw", traded(c, "offer"), lambda v: v * 0.9999),
    "a negative quantity": lambda c: changed(c, "dispatch", "quantity_kw", 0, -0.1),
    "no quantity": lambda c: changed(c, "dispatch", "quantity_kw", 0, np.nan),
    "a payment": lambda c: changed(c, "dispatch", "payment", traded(c), lambda v: v * 1.001),
    "a paid price": lambda c: changed(c, "dispatch", "price", traded(c), lambda v: v * 1.0001),
    "an order price": lambda c: changed(c, "order_prices", "order_price", 0, lambda v: v * 1.0001),
    "the dual of the extra row": lambda c: changed(c, "constraints", "dual", 0, lambda v: v * 1.0001),
    "the sign of that dual": lambda c: changed(c, "constraints", "dual", 0, lambda v: -v),
    "the slack of the extra row": lambda c: changed(c, "constraints", "slack", 0, 1.0),
    "the name of the extra row": lambda c: changed(c, "constraints", "name", 0, "cup"),
    "the welfare": lambda c: replace(c, welfare=c.welfare * 1.0001),
    "the name of a bus": lambda c: changed(c, "prices", "bus", 2, "b0"),
    "who pays": lambda c: changed(c, "dispatch", "participant", 0, "somebody else"),
    "a row too few": lambda c: replace(c, prices=c.prices.iloc[:-1]),
    "voltages from nowhere": lambda c: replace(c, voltages=c.prices.rename(columns={"price": "v_pu"})),
}
TAMPERED_FLOWS = {
    "one flow": lambda c: changed(c, "flows", "p_kw", loaded(c), lambda v: v * 1.0001),
    "a small flow": lambda c: changed(c, "flows", "p_kw", int(c.flows["p_kw"].abs().argmin()), lambda v: v + 0.01),
    "no flow": lambda c: changed(c, "flows", "p_kw", 1, np.nan),
    "a loading": lambda c: changed(c, "flows", "loading_percent", loaded(c), 50.0),
    "the name of a branch": lambda c: changed(c, "flows", "branch", 1, "elsewhere"),
}


@pytest.mark.parametrize("what", [*TAMPERED, *TAMPERED_FLOWS])
@pytest.mark.parametrize("flow", FLOWS)
def test_it_fails_on_a_result_tampered_with(cleared, flow, what):
    clearing = cleared[flow]
    assert certify(clearing).ok()
    if what in TAMPERED_FLOWS and not len(clearing.flows):
        extra = pd.DataFrame({"branch": ["l0"], "period": [0], "p_kw": [1.0], "loading_percent": [1.0]})
        assert not certify(replace(clearing, flows=extra)).ok()
        return
    tampered = {**TAMPERED, **TAMPERED_FLOWS}[what](clearing)
    certificate = certify(tampered)
    assert not certificate.ok(), f"{what}: {certificate}"
    assert str(certificate).startswith("FAILS")
    with pytest.raises(AssertionError):
        check_clearing(tampered)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("bus", ["b0", "b3"])
def test_a_wrong_price_that_every_table_repeats_is_seen(cleared, flow, bus):
    """Price, payments and order prices of one bus are all moved together: the tables agree, the optimum does not."""
    clearing = cleared[flow]
    share = 1.001
    at_bus = (clearing.orders.orders["bus"] == bus).to_numpy()
    dispatch, faced, prices = clearing.dispatch.copy(), clearing.order_prices.copy(), clearing.prices.copy()
    before = [clearing.price(bus, t) for t in dispatch["period"]]
    step = np.where(at_bus, (share - 1) * np.array(before), 0.0)
    hours = clearing.network.hours[dispatch["period"].to_numpy()]
    prices.loc[prices["bus"] == bus, "price"] *= share
    dispatch["price"] += step
    dispatch["payment"] = -clearing.orders.injection_sign * dispatch["price"] * dispatch["quantity_kw"] * hours
    faced["order_price"] += step
    certificate = certify(replace(clearing, prices=prices, dispatch=dispatch, order_prices=faced))
    assert certificate.tables <= 1e-6
    seen = "complementarity" if certificate.local else "gap"
    assert seen in certificate.failures(), certificate  # regret is of second order in the price


def test_two_payments_that_cancel_are_seen(cleared):
    """The sum of the money is as before; each payment is not price times energy."""
    clearing = cleared["transport"]
    dispatch = clearing.dispatch.copy()
    dispatch.loc[[0, 2], "payment"] += [0.01, -0.01]
    certificate = certify(replace(clearing, dispatch=dispatch))
    assert certificate.budget <= 1e-6
    assert certificate.failures() == ["tables"]


def test_a_shifted_price_level_is_seen_by_the_figure_that_it_breaks(cleared):
    certificate = certify(changed(cleared["dc"], "dispatch", "quantity_kw", traded(cleared["dc"]), lambda v: v - 1.0))
    assert {"primal", "tables"} <= set(certificate.failures())


@pytest.mark.parametrize("field", ["price", "payment"])
def test_budget_balanced_prices_are_certified(field):
    clearing = market("transport", pricing="budget_balanced")
    assert clearing.certificate.ok(), clearing.certificate
    assert not certify(changed(clearing, "dispatch", field, traded(clearing), lambda v: v * 1.001)).ok()


def test_budget_balance_at_prices_that_are_not_the_nearest_is_seen():
    """Money balances, payments fit prices, but two offers share it another way than the rule says."""
    clearing = market("transport", pricing="budget_balanced")
    dispatch = clearing.dispatch.copy()
    quantity, hours = dispatch["quantity_kw"].to_numpy(), clearing.network.hours[dispatch["period"].to_numpy()]
    first, second = np.flatnonzero((quantity > 1) & (dispatch["side"] == "offer") & (dispatch["period"] == 0))[:2]
    dispatch.loc[first, "price"] += 0.01
    dispatch.loc[second, "price"] -= 0.01 * quantity[first] / quantity[second]
    sign = np.where(dispatch["side"] == "bid", 1, -1)
    dispatch["payment"] = sign * dispatch["price"] * quantity * hours
    certificate = certify(replace(clearing, dispatch=dispatch))
    assert certificate.budget <= 1e-6
    assert certificate.failures() == ["tables"]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_point_that_is_not_optimal_is_seen(flow):
    """A feasible market with less trade than would be best, and with the prices of that trade."""
    right = market(flow)
    orders = right.orders
    smaller = mo.Orders(orders.orders, orders.segments.assign(width_kw=0.5 * orders.segments["width_kw"]))
    model = right.evidence.model
    cap = mo.clear("surplus", right.network, smaller, flow=flow)
    tables = ("prices", "dispatch", "flows", "order_prices", "welfare", "voltages", "reactive_prices")
    names = {name: getattr(cap, name) for name in tables}
    constraints = right.constraints.assign(dual=0.0)
    certificate = certify(replace(right, constraints=constraints, **names))
    assert model is right.evidence.model
    money = {"complementarity"} if certificate.local else {"gap", "regret"}
    assert money <= set(certificate.failures()), certificate


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_stopped_early_does_not_pass_as_an_optimum(solver):
    network = meshed(2, n=30, chords=10, hours=[1.0, 1.0])
    orders = affine(2, network)
    network = congested(network, orders, "dc", most=3)
    limit = {"clarabel": {"max_iter": 3}, "highs": {"qp_iteration_limit": 3}}.get(solver, {"time_limit": 1e-9})
    with pytest.raises(mo.SolverError, match=f"{solver} did not clear the market.*try another solver"):
        mo.clear("surplus", network, orders, flow="dc", solver=solver, solver_options=limit)


def test_all_or_nothing_in_between_is_no_answer():
    """Half a block: rows and money can be made to fit, the integrality cannot."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    rows = [("block", "1", "offer", 60, 0.10, True), ("unit", "1", "offer", 100, 0.15, False),
            ("load", "2", "bid", 80, 1.0, False)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["order", "bus", "side", "width_kw", "price", "all_or_nothing"])
    clearing = mo.clear("surplus", network, mo.Orders.from_steps(frame))
    assert clearing.certificate.ok() and not clearing.certificate.convex
    dispatch = clearing.dispatch.copy()
    assert dispatch["quantity_kw"].tolist() == pytest.approx([60, 20, 80])
    dispatch["quantity_kw"] = [30.0, 50.0, 80.0]
    dispatch["payment"] = [-30 * 0.15, -50 * 0.15, 80 * 0.15]
    certificate = certify(replace(clearing, dispatch=dispatch, welfare=80 - 3 - 7.5))
    assert certificate.failures() == ["primal"], certificate


def test_integers_of_the_users_own_make_the_market_not_convex():
    """Either of two units may run, not both: the price is that of the fixed choice, and the result says so."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("a", "1", "offer", 50, 0.1), ("b", "2", "offer", 50, 0.2), ("load", "2", "bid", 80, 1.0))

    def one_of_two(model, network):
        model.on = pyo.Var(["a", "b"], domain=pyo.Binary)
        model.runs = pyo.Constraint(["a", "b"], rule=lambda m, o: m.accepted_kw[o, 0] <= 50 * m.on[o])
        model.one = pyo.Constraint(expr=model.on["a"] + model.on["b"] <= 1)

    clearing = mo.clear("surplus", network, orders, extra=[one_of_two])
    assert clearing.dispatch["quantity_kw"].tolist() == pytest.approx([50, 0, 50], abs=1e-6)
    assert not clearing.certificate.convex
    assert clearing.certificate.ok(), clearing.certificate
    assert any("fixed" in note for note in clearing.notes)


def test_rent_may_be_negative_where_something_is_forced_through_the_grid():
    """A firm offer of 30 kW at the far end must come out over the line, against the price."""
    network = grid([("1-2", "1", "2", 0.1, 30.0)], "12")
    orders = steps(
        ("must", "2", "offer", 50, 0.0), ("up", "1", "bid", 100, 0.02), ("load", "2", "bid", 100, -0.5),
        minimum_kw=[50.0, 0.0, 0.0],
    )  # fmt: skip
    clearing = mo.clear("surplus", network, orders)
    assert clearing.certificate.ok(), clearing.certificate
    assert not clearing.certificate.rent_must_be_positive
    assert clearing.price("2") == pytest.approx(-0.5) and clearing.price("1") == pytest.approx(0.02)


def test_rent_is_not_asserted_where_a_row_ties_the_grid_to_the_orders():
    """The flow must be at least what order d takes at the near end: the grid carries power at a loss."""
    network = grid([("1-2", "1", "2", 0.1, 100.0)], "12")
    orders = steps(
        ("cheap", "2", "offer", 100, 0.1), ("dear", "1", "offer", 100, 0.3), ("d", "1", "bid", 40, 1.0),
        ("e", "2", "bid", 50, 0.9),
    )  # fmt: skip

    def tied(model, network):
        return model.grid.p_kw["1-2", 0] >= model.accepted_kw["d", 0]

    clearing = mo.clear("surplus", network, orders, extra=[tied])
    assert clearing.flows["p_kw"][0] == pytest.approx(40, abs=1e-5)
    assert clearing.certificate.rent < -1.0
    assert not clearing.certificate.rent_must_be_positive
    assert clearing.certificate.ok(), clearing.certificate


def test_a_negative_rent_fails_where_nothing_forces_it(cleared):
    certificate = replace(cleared["transport"].certificate, rent=-1.0)
    assert certificate.failures() == ["rent"]


def test_figures_are_relative_and_so_hold_for_tiny_and_huge_markets():
    for scale in (1e-5, 1e7):
        network = radial(4)
        orders = affine(4, network)
        orders = mo.Orders(orders.orders, orders.segments.assign(width_kw=orders.segments["width_kw"] * scale))
        network = congested(network, orders, "dc", most=1)
        clearing = mo.clear("surplus", network, orders, flow="dc")
        assert clearing.certificate.ok(), (scale, clearing.certificate)
        assert not certify(changed(clearing, "dispatch", "quantity_kw", traded(clearing), lambda v: v * 1.001)).ok()
        assert not certify(changed(clearing, "prices", "price", 2, lambda v: v * 1.001)).ok()


def test_a_clearing_without_evidence_says_so(cleared):
    with pytest.raises(mo.MktoptError, match="no evidence; clear the market again"):
        certify(replace(cleared["dc"], evidence=None))


def test_rows_added_after_build_are_part_of_the_result():
    """A built model is an ordinary Pyomo model: what is added later counts like `extra`, on any block."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[2.0])
    orders = steps(("up", "1", "offer", 200, 0.05), ("load", "2", "bid", 80, 1.0))
    model = mo.build("surplus", network, orders, extra=[lambda m, n: m.accepted_kw["up", 0] <= 60])
    model.grid.limit = pyo.Constraint(expr=model.grid.p_kw["1-2", 0] <= 50)
    model.late = pyo.Constraint([0, 1], rule=lambda m, k: m.accepted_kw["load", 0] <= 40 + 5 * k)
    clearing = mo.solve(model)
    rows = clearing.constraints.set_index(["name", "index"])
    assert set(clearing.constraints["name"]) == {"extra", "late", "grid.limit"}
    assert rows.loc[("late", "0"), "dual"] == pytest.approx(2 * 0.95, abs=1e-6)
    assert rows.loc[("late", "1"), "slack"] == pytest.approx(5, abs=1e-6)
    assert rows.loc[("grid.limit", ""), "slack"] == pytest.approx(10, abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.order_prices["order_price"].tolist() == pytest.approx([0.05, 1.0], abs=1e-6)


def test_several_functions_keep_their_duals_apart():
    """The second function attaches to the model, the first to its grid: names and duals still belong together."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("up", "1", "offer", 200, 0.05), ("near", "1", "bid", 30, 0.5), ("far", "2", "bid", 80, 1.0))

    def line(model, network):
        model.grid.limit = pyo.Constraint(expr=model.grid.p_kw["1-2", 0] <= 50)

    def near(model, network):
        model.near = pyo.Constraint(expr=model.accepted_kw["near", 0] <= 10)

    clearing = mo.clear("surplus", network, orders, extra=[line, near])
    duals = clearing.constraints.set_index("name")["dual"]
    assert duals["grid.limit"] == pytest.approx(0.95, abs=1e-6)
    assert duals["near"] == pytest.approx(0.45, abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate
