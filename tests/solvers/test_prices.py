"""The sign of prices: on paper, and by perturbation."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest

from mktopt.errors import FormulationError
from mktopt.solvers import compile, order_prices, orientation, row_prices, solve, welfare_duals


def two_buses(
    sense: str, written: str, hours: float, firm: tuple[float, float] = (0.0, 0.0), unit: float = 1.0, bend=0.0
):
    """Cheap offer at bus 0, dear offer and a bid at bus 1, a line of 5 kW; the price is 10 at bus 0 and 30 at bus 1."""
    model = pyo.ConcreteModel()
    model.cheap, model.dear = pyo.Var(bounds=(0, 20)), pyo.Var(bounds=(0, 20))
    model.bid, model.flow = pyo.Var(bounds=(0, 8)), pyo.Var(bounds=(-5, 5))
    at = [(model.cheap - firm[0], model.flow), (model.dear - model.bid - firm[1], -model.flow)]
    forms = {
        "injection == outflow": lambda p, f: unit * p == unit * f,
        "outflow == injection": lambda p, f: unit * f == unit * p,
        "zero": lambda p, f: unit * (f - p) == 0,
        "in turn": lambda p, f: unit * p == unit * f,
    }
    model.balance = pyo.Constraint([0, 1], rule=lambda m, i: forms[written](*at[i]))
    if written == "in turn":
        model.balance[1].set_value(at[1][1] == at[1][0])
    welfare = hours * (50 * model.bid - 10 * model.cheap - 30 * model.dear - bend * (model.cheap**2 + model.dear**2))
    if sense == "max":
        model.obj = pyo.Objective(expr=welfare, sense=pyo.maximize)
    else:
        model.obj = pyo.Objective(expr=-welfare)
    return model


def read(model):
    program = compile(model)
    rows = program.row_indices(model.balance.values())
    columns = program.columns([model.cheap, model.dear, model.bid])
    return program, rows, columns, np.array([1.0, 1.0, -1.0])


@pytest.mark.parametrize("written", ["injection == outflow", "outflow == injection", "zero", "in turn"])
@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_prices_on_paper(solver, sense, written):
    hours = 0.25
    model = two_buses(sense, written, hours)
    program, rows, columns, signs = read(model)
    solution = solve(program, solver)
    np.testing.assert_allclose(row_prices(program, solution, rows, columns, signs, hours), [10, 30], rtol=1e-6)
    np.testing.assert_allclose(order_prices(program, solution, columns, signs, hours), [10, 30, 30], rtol=1e-6)


@pytest.mark.parametrize("bend", [0.0, 0.7])
@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("solver", [None, "highs", "clarabel"])
def test_a_price_is_the_welfare_that_one_more_kwh_costs(solver, sense, bend):
    hours, step = 3.0, 1e-3
    program, rows, columns, signs = read(two_buses(sense, "zero", hours, bend=bend))
    prices = row_prices(program, solve(program, solver), rows, columns, signs, hours)
    sign = 1.0 if sense == "max" else -1.0
    for bus in (0, 1):
        more, less = (
            sign
            * solve(
                compile(two_buses(sense, "zero", hours, tuple(e * s for s in np.eye(2)[bus]), bend=bend)), solver
            ).objective
            for e in (step, -step)
        )
        assert prices[bus] == pytest.approx((less - more) / (2 * step * hours), rel=1e-4)


def test_the_unit_of_a_row_does_not_matter():
    for unit in (1e-3, 7.0):
        program, rows, columns, signs = read(two_buses("max", "zero", 1.0, unit=unit))
        np.testing.assert_allclose(row_prices(program, solve(program), rows, columns, signs), [10, 30], rtol=1e-6)


def test_a_binding_row_of_the_users_own_enters_what_an_order_faces():
    model = two_buses("max", "zero", 1.0)
    model.cap = pyo.Constraint(expr=2 * model.bid <= 6)
    program, rows, columns, signs = read(model)
    solution = solve(program)
    balance = row_prices(program, solution, rows, columns, signs)
    faced = order_prices(program, solution, columns, signs)
    dual = welfare_duals(program, solution)[program.row(model.cap)]
    assert dual > 0
    assert faced[2] == pytest.approx(balance[1] + 2 * dual)
    assert faced[2] == pytest.approx(50)  # the bid is at the margin of what it faces
    np.testing.assert_allclose(order_prices(program, solution, columns, signs, rows=rows)[2], balance[1])


def test_rows_without_orders_take_the_orientation_of_the_others():
    model = pyo.ConcreteModel()
    model.offer, model.bid = pyo.Var(bounds=(0, 9)), pyo.Var(bounds=(0, 4))
    model.f = pyo.Var([0, 1], bounds=(-8, 8))
    model.balance = pyo.Constraint([0, 1, 2])
    model.balance[0] = model.f[0] - model.offer == 0
    model.balance[1] = model.f[1] - model.f[0] == 0  # a bus at which nobody trades
    model.balance[2] = model.bid - model.f[1] == 0
    model.obj = pyo.Objective(expr=9 * model.bid - 2 * model.offer, sense=pyo.maximize)
    program = compile(model)
    columns, signs = program.columns([model.offer, model.bid]), np.array([1.0, -1.0])
    np.testing.assert_array_equal(orientation(program, np.arange(3), columns, signs), [-1, -1, -1])
    np.testing.assert_allclose(row_prices(program, solve(program), np.arange(3), columns, signs), [2, 2, 2])
    np.testing.assert_array_equal(orientation(program, np.array([1]), columns, signs), [1])


def test_a_row_that_is_no_balance_is_refused():
    model = two_buses("max", "zero", 1.0)
    model.odd = pyo.Constraint(expr=model.cheap + model.bid <= 100)
    program, _, columns, signs = read(model)
    with pytest.raises(FormulationError, match="'odd' is not a balance"):
        orientation(program, np.array([program.row(model.odd)]), columns, signs)


def test_a_fixed_order_has_no_price_of_its_own():
    model = two_buses("max", "zero", 1.0)
    model.bid.fix(8.0)
    program, rows, columns, signs = read(model)
    solution = solve(program)
    assert np.isnan(order_prices(program, solution, columns, signs)[2])
    np.testing.assert_allclose(row_prices(program, solution, rows, columns, signs), [10, 30])
