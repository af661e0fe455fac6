"""Signs: every solver x sense x way of writing a balance x kind of limit gives the price of perturbation."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest

from mktopt.solvers import SOLVERS, compile, order_prices, row_prices, solve, welfare_duals

HOURS = 0.5
STEP = 1e-4

BALANCES = {
    "injection == outflow": lambda p, f: p == f,
    "outflow == injection": lambda p, f: f == p,
    "p - f == 0": lambda p, f: p - f == 0,
    "0 == f - p": lambda p, f: 0 == f - p,
    "3 f == 3 p": lambda p, f: 3 * f == 3 * p,
}

# Each limits the flow f to 5 kW (4 for the two that carry q = 0.75 f), by a row whose right-hand side moves by `by`.
LIMITS = {
    "f <= 5": lambda m, by: m.f <= 5 + by,
    "5 >= f": lambda m, by: 5 + by >= m.f,
    "-f >= -5": lambda m, by: -m.f >= -5 + by,
    "range": lambda m, by: (-5, m.f, 5 + by),
    "equality": lambda m, by: m.f == 5 + by,
    "equality reversed": lambda m, by: 10 - m.f == 5 + by,
    "f^2 + q^2 <= 25": lambda m, by: m.f**2 + m.q**2 <= 25 + by,
    "-f^2 - q^2 >= -25": lambda m, by: -(m.f**2) - m.q**2 >= -25 + by,
    "f^2 + q^2 <= u v": lambda m, by: m.f**2 + m.q**2 <= m.u * m.v + by,
    "u v - f^2 - q^2 >= 0": lambda m, by: m.u * m.v - m.f**2 - m.q**2 >= by,
    "f^2 + q^2 <= t^2": lambda m, by: m.f**2 + m.q**2 - m.t**2 <= by,
    "log(6 - f) >= 0": lambda m, by: pyo.log(6 - m.f) >= by,
    "-log(6 - f) <= 0": lambda m, by: -pyo.log(6 - m.f) <= by,
    "exp(f - 5) <= 1": lambda m, by: pyo.exp(m.f - 5) <= 1 + by,
    "sqrt(f + 4) == 3": lambda m, by: (m.f + 4) ** 0.5 == 3 + by,
}
# What raising the right-hand side does to welfare: a `<=` that gives way helps, a `>=` that tightens hurts.
HELPS = {name: not name.startswith(("-f", "equality reversed", "u v", "log")) for name in LIMITS}


def market(limit, written, sense, bend, firm=(0.0, 0.0), by=0.0):
    """Cheap offers at bus 0, dear offers, a bid and a firm kW at bus 1, and one limited line from 0 to 1."""
    model = pyo.ConcreteModel()
    model.cheap, model.dear, model.bid = (pyo.Var(bounds=(0, 20)) for _ in range(3))
    model.f, model.q = pyo.Var(bounds=(-50, 50), initialize=1.0), pyo.Var(bounds=(-50, 50), initialize=0.75)
    model.u, model.v = pyo.Var(bounds=(0, 25), initialize=20.0), pyo.Var(bounds=(0.5, 1), initialize=1.0)
    model.t = pyo.Var(bounds=(0, 5), initialize=4.0)
    model.reactive = pyo.Constraint(expr=4 * model.q == 3 * model.f)
    injection = model.cheap - firm[0], model.dear - model.bid - 1 - firm[1]
    outflow = model.f, -model.f
    model.balance = pyo.Constraint([0, 1], rule=lambda m, k: BALANCES[written](injection[k], outflow[k]))
    model.limit = pyo.Constraint(expr=LIMITS[limit](model, by))
    welfare = 50 * model.bid - 10 * model.cheap - 30 * model.dear - 0.5 * model.bid**2 * bend
    welfare = HOURS * (welfare - bend * (model.cheap**2 + model.dear**2))
    sign, kind = (1, pyo.maximize) if sense == "max" else (-1, pyo.minimize)
    model.obj = pyo.Objective(expr=sign * welfare, sense=kind)
    return model


def welfare_of(*arguments, **moved):
    program = compile(market(*arguments, **moved))
    solution = solve(program)  # a cone whose right-hand side grows is none any more, and another solver's task
    assert solution.status.ok, solution.message
    return -program.sense * solution.objective


def slope(arguments, name, direction=None):
    """The central difference of the optimal welfare when `name` moves."""
    steps = [STEP * sign if direction is None else tuple(STEP * sign * d for d in direction) for sign in (1.0, -1.0)]
    up, down = (welfare_of(*arguments, **{name: step}) for step in steps)
    return (up - down) / (2 * STEP)


def able(limit, bend):
    kind = compile(market(limit, "p - f == 0", "max", bend)).problem_class
    return [name for name, solver in SOLVERS.items() if kind in solver.takes]


CASES = [(limit, bend) for limit in LIMITS for bend in (0.0, 0.2)]


@pytest.mark.parametrize(("limit", "bend"), CASES)
def test_every_solver_gives_the_price_of_perturbation(limit, bend):
    solvers = able(limit, bend)
    assert solvers
    expected = None
    for sense in ("min", "max"):
        for written in BALANCES:
            arguments = (limit, written, sense, bend)
            if expected is None:  # all ways of writing it are one market, so one perturbation serves all
                prices = [-slope(arguments, "firm", direction) / HOURS for direction in ((1, 0), (0, 1))]
                expected = np.array(prices), slope(arguments, "by")
                assert expected[0][1] > expected[0][0] + 1  # the limit binds, so the buses differ
                assert (expected[1] > 0) is HELPS[limit]
            for solver in solvers:
                model = market(*arguments)
                program = compile(model)
                solution = solve(program, solver)
                rows = program.row_indices(model.balance.values())
                columns, signs = program.columns([model.cheap, model.dear, model.bid]), np.array([1.0, 1.0, -1.0])
                told = f"{solver}, {sense}, {written}"
                found = row_prices(program, solution, rows, columns, signs, HOURS)
                np.testing.assert_allclose(found, expected[0], rtol=1e-3, atol=1e-3, err_msg=told)
                faced = order_prices(program, solution, columns, signs, HOURS)
                np.testing.assert_allclose(faced, found[[0, 1, 1]], rtol=1e-5, err_msg=told)
                dual = welfare_duals(program, solution)[program.row(model.limit)]
                assert dual == pytest.approx(expected[1], rel=2e-3, abs=2e-3), told


def test_the_limits_are_what_they_are_called():
    for limit, reach in {"f <= 5": 5, "f^2 + q^2 <= 25": 4, "log(6 - f) >= 0": 5, "exp(f - 5) <= 1": 5}.items():
        model = market(limit, "p - f == 0", "max", 0.0)
        program = compile(model)
        x = solve(program).x
        assert x[program.column(model.f)] == pytest.approx(reach, rel=1e-5)
