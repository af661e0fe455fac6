"""Constraints of the user's own: every way to add them, their duals by perturbation, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from tests.clearing.markets import PAIRS, affine, congested, grid, radial, steps


@pytest.fixture
def two_bus() -> tuple[mo.Network, mo.Orders]:
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[2.0])
    return network, steps(("up", "1", "offer", 200, 0.05), ("load", "2", "bid", 80, 1.0))


def attached(model, network):
    model.cap = pyo.Constraint(expr=model.accepted_kw["load", 0] <= 20)


def returned(model, network):
    return model.accepted_kw["load", 0] <= 20


def several(model, network):
    return [model.accepted_kw["load", 0] <= 20, model.accepted_kw["up", 0] <= 70]


def indexed(model, network):
    model.cap = pyo.Constraint(["a", "b"], rule=lambda m, k: m.accepted_kw["load", 0] <= {"a": 20, "b": 25}[k])


def listed(model, network):
    model.caps = pyo.ConstraintList()
    model.caps.add(model.accepted_kw["load", 0] <= 20)
    model.caps.add(model.accepted_kw["load", 0] <= 90)


def on_the_grid(model, network):
    model.grid.cap = pyo.Constraint(expr=model.grid.p_kw["1-2", 0] <= 20)


def with_a_variable(model, network):
    model.reserve = pyo.Var(bounds=(60, None))
    model.room = pyo.Constraint(expr=model.accepted_kw["load", 0] + model.reserve == 80)


def between(model, network):
    model.cap = pyo.Constraint(expr=(5, model.accepted_kw["load", 0], 20))


def in_a_block(model, network):
    model.mine = pyo.Block()
    model.mine.cap = pyo.Constraint(expr=model.accepted_kw["load", 0] <= 20)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (attached, ["cap"]), (returned, ["returned"]), (several, ["several", "several"]), (indexed, ["cap", "cap"]),
        (listed, ["caps", "caps"]), (on_the_grid, ["grid.cap"]), (with_a_variable, ["room"]), (between, ["cap"]),
        (in_a_block, ["mine.cap"]),
    ],
)  # fmt: skip
def test_every_way_to_add_a_row(two_bus, function, names):
    """20 kW may flow; one kW more is worth 2 h x (1.00 - 0.05) $; the dual stands at the row that binds."""
    clearing = mo.clear("surplus", *two_bus, extra=[function])
    assert clearing.quantity("load") == pytest.approx(20, abs=1e-6)
    table = clearing.constraints
    assert table["name"].tolist() == names
    assert list(table.columns) == ["name", "index", "slack", "dual"]
    assert table["dual"].abs().max() == pytest.approx(1.9, abs=1e-6)
    assert table["slack"].min() == pytest.approx(0, abs=1e-6)
    assert (np.minimum(table["slack"].abs(), table["dual"].abs()) < 1e-6).all(), "complementary slackness"
    assert clearing.certificate.ok(), clearing.certificate


def test_one_function_needs_no_list(two_bus):
    assert mo.clear("surplus", *two_bus, extra=returned).constraints["name"].tolist() == ["returned"]
    assert len(mo.clear("surplus", *two_bus).constraints) == 0


def test_a_function_gets_model_and_network(two_bus):
    seen = []

    def look(model, network):
        seen.append((network, sorted(model.accepted_kw), list(model.grid.balance)))
        return model.accepted_kw["load", 0] <= 20

    mo.clear("surplus", *two_bus, extra=[look])
    assert seen == [(two_bus[0], [("load", 0), ("up", 0)], [("1", 0), ("2", 0)])]


def test_a_name_that_is_taken_gets_another(two_bus):
    def whole(model, network):
        return model.accepted_kw["load", 0] <= 20

    clearing = mo.clear("surplus", *two_bus, extra=[whole, whole])
    assert len(set(clearing.constraints["name"])) == 2


@functools.cache
def tight_market(flow):
    """A market whose most loaded branch is full, and what it does without a row of the user's own."""
    network = radial(13, hours=[0.5, 2.0])
    orders = affine(13, network)
    network = congested(network, orders, flow, most=1)
    return network, orders, mo.clear("surplus", network, orders, flow=flow)


@pytest.mark.parametrize(("flow", "solver"), PAIRS)
@pytest.mark.parametrize("sense", ["<=", ">=", "=="])
def test_duals_are_the_welfare_gained_per_unit_of_right_hand_side(flow, solver, sense):
    network, orders, free = tight_market(flow)
    bids = free.dispatch[(free.dispatch["side"] == "bid")]
    total = float(bids["quantity_kw"].sum())
    limit = {"<=": 0.8, ">=": 1.1, "==": 1.05}[sense] * total

    def row(shift):
        def energy(model, network):
            body = sum(model.accepted_kw[key] for key in zip(bids["order"], bids["period"], strict=True))
            return {"<=": body <= limit + shift, ">=": body >= limit + shift, "==": body == limit + shift}[sense]

        return energy

    arguments = {"flow": flow, "solver": solver}
    clearing = mo.clear("surplus", network, orders, extra=[row(0)], **arguments)
    dual = clearing.constraints["dual"].item()
    assert (dual > 1e-3) if sense == "<=" else (dual < -1e-3)
    step = 0.01
    up, down = (mo.clear("surplus", network, orders, extra=[row(s)], **arguments).welfare for s in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx(dual, rel=1e-4)
    faced = clearing.order_prices["order_price"].to_numpy() - clearing.dispatch["price"].to_numpy()
    hours = network.hours[orders.orders["period"]]
    assert faced == pytest.approx(np.where(orders.is_bid, dual / hours, 0.0), abs=1e-6)
    assert clearing.certificate.ok(), clearing.certificate


def test_a_row_that_does_not_bind_has_no_dual(two_bus):
    table = mo.clear("surplus", *two_bus, extra=[lambda m, n: m.accepted_kw["load", 0] <= 500]).constraints
    assert table["dual"].item() == pytest.approx(0, abs=1e-9)
    assert table["slack"].item() == pytest.approx(420, abs=1e-6)


# -- refused ----------------------------------------------------------------------------------------------------------


def some_numbers(model, network):
    model.cap = pyo.Constraint(expr=model.accepted_kw["load", 0] <= 20)
    return [model.accepted_kw["load", 0] <= 20, True]


def whole_and_curved(model, network):
    model.on = pyo.Var(domain=pyo.Binary)
    return model.accepted_kw["load", 0] ** 2 <= 400 * model.on


def whole_and_bent(model, network):
    model.on = pyo.Var(domain=pyo.Binary)
    return model.accepted_kw["load", 0] ** 2 >= 4 * model.on


def unknown_order(model, network):
    return model.accepted_kw["laod", 0] <= 20


def unknown_period(model, network):
    return model.accepted_kw["load", 3] <= 20


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (some_numbers, "'some_numbers' returned True, which is no relation"),
        (whole_and_bent, "MINLP.*no solver here takes whole-number variables in it"),
        (unknown_order, r"'unknown_order': unknown index of accepted_kw.*laod.*did you mean .*load"),
        (unknown_period, r"'unknown_period': unknown index of accepted_kw.*did you mean .*load"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(two_bus, function, message):
    with pytest.raises(mo.FormulationError, match=message):
        mo.clear("surplus", *two_bus, extra=[function])


def test_a_users_own_mistake_is_not_disguised(two_bus):
    def broken(model, network):
        return undefined_name <= 5  # noqa: F821

    with pytest.raises(NameError):
        mo.clear("surplus", *two_bus, extra=[broken])


def test_solve_takes_market_models_only():
    with pytest.raises(mo.FormulationError, match=r"is no market model; make it with mktopt.build"):
        mo.solve(pyo.ConcreteModel())
    with pytest.raises(mo.FormulationError, match="is no market model"):
        mo.solve("surplus")


def test_a_model_can_be_solved_again_and_its_clone_too(two_bus):
    model = mo.build("surplus", *two_bus, extra=[attached])
    first = mo.solve(model)
    assert pyo.value(model.accepted_kw["load", 0]) == pytest.approx(20, abs=1e-6)
    clone = model.clone()
    model.cap.deactivate()
    second, third = mo.solve(model), mo.solve(clone)
    assert second.quantity("load") == pytest.approx(80, abs=1e-6)
    assert len(second.constraints) == 0
    assert third.quantity("load") == pytest.approx(20, abs=1e-6)
    assert third.constraints["name"].tolist() == ["cap"]
    for clearing in (first, second, third):
        assert clearing.certificate.ok(), clearing.certificate


def test_fixed_quantities_stay_fixed(two_bus):
    model = mo.build("surplus", *two_bus)
    model.segment_kw["load", 0, 0].fix(30.0)
    clearing = mo.solve(model)
    assert clearing.quantity("up") == pytest.approx(30, abs=1e-9)
    assert clearing.price("2") == pytest.approx(0.05, abs=1e-9)
    assert clearing.welfare == pytest.approx(2 * (30 - 1.5))


def test_a_flow_without_balance_is_refused(two_bus):
    def lost(block, network, injection):
        block.nothing = pyo.Var()

    with pytest.raises(mo.FormulationError, match="flow 'lost' declared no `balance` constraint"):
        mo.clear("surplus", *two_bus, flow=lost)
    with pytest.raises(mo.FormulationError, match="a flow is a name, a function or"):
        mo.clear("surplus", *two_bus, flow=5)


def test_loops_without_reactance_are_refused_by_dc_and_ptdf():
    network = grid([("a", "1", "2", 0.0, 9.0), ("b", "1", "2", 0.0, 9.0), ("c", "2", "3", 0.1, 9.0)], "123")
    orders = steps(("up", "1", "offer", 20, 0.05), ("load", "3", "bid", 5, 1.0))
    for flow in ("dc", "ptdf"):
        with pytest.raises(mo.FormulationError, match="branches without reactance form a loop: .*a.*b|b.*a"):
            mo.clear("surplus", network, orders, flow=flow)
    assert mo.clear("surplus", network, orders, flow="transport").quantity("load") == pytest.approx(5)


def test_prosumers_trade_in_every_period():
    """Two quadratic prosumers, u' = a - b x: 2 - 0.1 x and 1 - 0.1 x with 10 and 5 kW of their own.
    At one price p: (2-p)/0.1 + (1-p)/0.1 = 15 gives p = 0.75, x = 12.5 and 2.5: 2.5 kW change hands, every hour."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[1.0, 3.0])
    people = mo.Prosumers(pd.DataFrame({
        "agent": ["a", "b"], "bus": ["1", "2"], "utility": "quadratic", "a": [2.0, 1.0], "b": [0.1, 0.1],
        "generation_kw": [10.0, 5.0],
    }))  # fmt: skip
    clearing = mo.clear("surplus", network, people)
    assert clearing.prices["price"].to_numpy() == pytest.approx(np.full(4, 0.75), abs=1e-6)
    traded = clearing.dispatch.groupby(["period", "side"])["quantity_kw"].sum()
    assert traded.to_numpy() == pytest.approx(np.full(4, 2.5), abs=1e-5)


def test_whole_numbers_beside_a_cone_are_decided(two_bus):
    clearing = mo.clear("surplus", *two_bus, extra=[whole_and_curved])
    assert clearing.solver == "outer_approximation"
    most = float(clearing.orders.width_kw[clearing.orders.is_bid].max())
    assert clearing.quantity("load") == pytest.approx(min(20.0, most), rel=1e-6)
    assert clearing.certificate.ok()
