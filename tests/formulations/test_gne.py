"""The declared model of the auction: its rows, its optimum, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.errors import DataError, FormulationError, MktoptError, UnknownNameError
from mktopt.formulations.gne import gne, grid_step, import_price
from mktopt.formulations.gne_printed import budget_step
from mktopt.formulations.market import declaration_of
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import Session, compile, solve
from mktopt.solvers.prices import welfare_duals

TRANSPORT = mo.flow("transport")


def network(hours: tuple[float, ...] = (1.0,)) -> mo.Network:
    buses = pd.DataFrame({"bus": ["s", "one"], "base_kv": 0.4})
    branches = pd.DataFrame({
        "branch": ["s-one"], "from_bus": "s", "to_bus": "one", "r_ohm": 0.1, "x_ohm": 0.1, "rating_kva": 2.0,
    })  # fmt: skip
    return mo.Network(buses, branches, "s", hours=hours)


def people(**columns: Any) -> Prosumers:
    """Two aggregators, one at the source bus; the second with a buyer and a seller."""
    table = {
        "agent": ["a", "b", "c"], "bus": ["s", "one", "one"], "aggregator": ["A", "B", "B"], "utility": "log",
        "a": [1.0, 2.0, 0.2], "b": 1.0, "generation_kw": [0.0, 0.0, 1.5],
    }  # fmt: skip
    return Prosumers(pd.DataFrame({**table, **columns}), {"c0": {"I": 0.2, "II": 0.5}})


def test_unit_costs_are_the_multipliers_of_the_coupling_rows() -> None:
    """On paper: A takes 1/c0 - 1 = 4 at c0 = 0.2; B may import 2 and has x_b + x_c = 3.5 = 2/c - 1 + max(0, 0.2/c - 1).

    At c = 2/4.5 the third agent would want less than nothing, so that x_b = 3.5 and this is c.
    """
    model = gne(network((2.0,)), people(), TRANSPORT, scenario="I")
    program = compile(model)
    solution = solve(program)
    duals = welfare_duals(program, solution)[program.row_indices(model.coupling.values())]
    np.testing.assert_allclose(duals / 2.0, [0.2, 2 / 4.5], rtol=1e-6)
    p = program.values(solution.x, model.p_kw.values())
    np.testing.assert_allclose(p, [4.0, 2.0], rtol=1e-5)
    value = np.log(5.0) + 2.0 * np.log(4.5) - 0.2 * 6.0
    assert solution.objective == pytest.approx(2.0 * value, rel=1e-8)


def test_the_declaration_holds_what_the_run_needs() -> None:
    model = gne(network((1.0, 1.0)), people(), TRANSPORT, c0=[0.2, 0.3], method="projection", eta=5)
    found = declaration_of(model)
    assert (found.mechanism, len(found.orders), len(found.prosumers or [])) == ("gne", 0, 3)
    assert found.options["c0"] == (0.2, 0.3)
    assert (found.options["method"], found.options["eta"]) == ("projection", 5.0)
    assert model.p_kw["B", 1].lb == -1.5
    assert set(model.consumption_kw.index_set()) == {(agent, t) for agent in "abc" for t in (0, 1)}


@pytest.mark.parametrize("flow", ["transport", "dc", "ptdf", "lindistflow", "distflow"])
def test_rows_of_grid_and_extra_correspond_to_those_of_the_step(flow: str) -> None:
    def cap(model: Any, _: mo.Network) -> Any:
        return model.p_kw["A", 0] + model.import_kw[0] <= 5.0

    central, step = (
        gne(network(), people(), mo.flow(flow), c0=0.2),
        grid_step(network(), people(), mo.flow(flow), 0.2, [cap]),
    )
    rows = [{row.name for row in model.component_data_objects(pyo.Constraint)} for model in (central, step)]
    assert rows[0] - rows[1] == {"coupling[A,0]", "coupling[B,0]"}
    assert rows[1] - rows[0] == {"cap"}


def test_a_step_is_the_projection_on_the_feasible_set() -> None:
    """min 1/2 w (p - q)^2 + c0 1'p over p_B <= 2: p_A = q_A - c0/w, and p_B at its limit."""
    session = Session(grid_step(network(), people(), TRANSPORT, 0.2))
    session.set("slope", [0.1, 0.1])
    session.set("post", [0.1 * 7.0, 0.1 * 9.0])
    columns = session.parametric.program.columns
    model = session._model
    x = session.solve().x
    np.testing.assert_allclose(x[columns(model.p_kw.values())], [5.0, 2.0], atol=1e-5)
    np.testing.assert_allclose(x[columns(model.import_kw.values())], 7.0, atol=1e-5)


def test_the_printed_step_keeps_the_budget() -> None:
    """Projection of (1, 4) on -p_A + 3 p_B >= 0, p_B <= 2: (1, 2); of (6, 1) on the half-space: t (3, 1), t = 1.9."""
    session = Session(budget_step(network(), people(), TRANSPORT))
    model, columns = session._model, session.parametric.program.columns
    session.set("margin", [-1.0, 3.0])
    for target, found in (([1.0, 4.0], [1.0, 2.0]), ([6.0, 1.0], [5.7, 1.9])):
        session.set("post", target)
        np.testing.assert_allclose(session.solve().x[columns(model.p_kw.values())], found, atol=1e-4)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, FormulationError, "neither c0 nor scenario"),
        ({"c0": 0.1, "scenario": "I"}, FormulationError, "both c0 and scenario"),
        ({"scenario": "IV"}, UnknownNameError, "scenario"),
        ({"c0": [0.1, 0.2]}, FormulationError, "2 prices"),
        ({"c0": float("nan")}, FormulationError, "finite"),
        ({"c0": "cheap"}, FormulationError, "not 'cheap'"),
        ({"c0": 0.0}, FormulationError, "agent 'a' wants energy without end"),
        ({"c0": 0.1, "method": "neton"}, UnknownNameError, "did you mean 'newton'"),
        ({"c0": 0.1, "aggregator": "exat"}, UnknownNameError, "did you mean 'exact'"),
        ({"c0": 0.1, "tol": 0.0}, FormulationError, "tol takes"),
        ({"c0": 0.1, "eta": -1.0}, FormulationError, "eta takes"),
        ({"c0": 0.1, "max_iterations": 0}, FormulationError, "max_iterations takes"),
        ({"c0": 0.1, "anticipating": "no"}, FormulationError, "anticipating takes"),
    ],
)
def test_what_cannot_be_declared_is_refused(how: dict[str, Any], error: type[MktoptError], message: str) -> None:
    with pytest.raises(error, match=message):
        gne(network(), people(), TRANSPORT, **how)


def test_a_price_below_zero_is_refused_and_zero_only_where_demand_ends() -> None:
    satiable = people(utility="quadratic")
    assert import_price(network(), satiable, 0.0).tolist() == [0.0]
    with pytest.raises(FormulationError, match="import without end"):
        import_price(network(), satiable, -0.1)


def test_a_utility_that_is_not_concave_is_refused_before_anything_is_declared() -> None:
    table = people().table.assign(utility=["log", "log", "convex"])
    convex = Prosumers(table, utilities={"convex": mo.own_utility("convex", lambda x, a, b: a * x**2)})
    with pytest.raises(DataError, match="'c'.*not strictly concave"):
        gne(network(), convex, TRANSPORT, c0=0.1, method="central")


def test_an_unknown_bus_names_the_agent() -> None:
    with pytest.raises(DataError, match="'c'"):
        gne(network(), people(bus=["s", "s", "nowhere"], aggregator=["A", "B", "C"]), TRANSPORT, c0=0.1)


def test_a_constraint_on_consumption_is_refused_by_the_step_with_the_way_out() -> None:
    def share(model: Any, _: mo.Network) -> Any:
        return model.consumption_kw["a", 0] >= 1.0

    with pytest.raises(FormulationError, match="'share'.*method='central'"):
        grid_step(network(), people(), TRANSPORT, 0.1, [share])
