"""`solve_game` keeps its promises: certificates that fail beside an equilibrium, options, restored models, honest
kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

from mktopt.agents.game import price_of_anarchy, solve_game
from mktopt.agents.game_certificate import certify_game
from mktopt.agents.game_conditions import Conditions
from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_problems import Responses
from mktopt.agents.game_run import period_of
from mktopt.agents.game_search import scattered
from mktopt.errors import FormulationError, UnknownNameError
from mktopt.formulations.game import Game
from tests.agents import known_games as known


def certificate_at(game: Game, x: list[float], kind: str = "variational") -> Any:
    numbers = Numbers(game)
    conditions = Conditions(numbers, kind)
    point = np.array(x, dtype=float)
    return certify_game(numbers, point, conditions.keys, conditions.multipliers(point), kind == "variational")


def test_a_certificate_holds_at_equilibria_alone() -> None:
    game = known.facchinei_kanzow()
    assert certificate_at(game, [0.75, 0.25]).ok()
    generalised = certificate_at(game, [0.9, 0.1], "generalised")
    assert generalised.ok() and generalised.common is False and "differ" in str(generalised)
    claimed = certificate_at(game, [0.9, 0.1], "variational")  # the same point claimed to be variational
    assert {"natural", "common"} <= set(claimed.failures()) and claimed.gain <= 1e-11
    assert "gain" in certificate_at(game, [0.4, 0.5]).failures()  # room that the first would take
    assert "primal" in certificate_at(game, [0.9, 0.2]).failures()
    # the gain is exact: at (0.4, 0.6) the first cannot move up, the second gains (0.1)^2 by moving to 1/2
    gains = certificate_at(game, [0.4, 0.6]).gains.set_index("player")["gain"]
    assert gains["one"] == pytest.approx(0.0, abs=1e-9) and gains["two"] == pytest.approx(0.01, abs=1e-9)


def test_a_constant_in_a_payoff_or_a_row_counts() -> None:
    numbers = Numbers(known.facchinei_kanzow())
    np.testing.assert_allclose(numbers.payoffs(np.array([0.0, 0.0])), [-1.0, -0.25])
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    model.row = pyo.Constraint(expr=(-5, 2 * model.x + 7, 9))
    numbers = Numbers(Game(model).player("one", model.x, minimise=(model.x - 3) ** 2, constraints=model.row))
    np.testing.assert_allclose(numbers.activity(np.array([1.0])), [9.0])
    result = solve_game(numbers.game)
    assert result.value(model.x) == pytest.approx(1.0) and result.payoffs["payoff"][0] == pytest.approx(4.0)
    assert result.multipliers["multiplier"][0] == pytest.approx(2.0)  # raising 9 by e gains 4 (e / 2): d(x - 3)^2


def test_slopes_are_those_of_finite_differences() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0.1, 3))
    a, b, c = model.x.values()
    model.row = pyo.Constraint(expr=a**2 + pyo.sqrt(b) * c <= 9)
    game = Game(model, shared=model.row)
    game.player("one", [a, b], maximise=pyo.log(a + 2 * b) - a * c**2).player("two", c, minimise=c**1.5 * b - c)
    numbers = Numbers(game)
    conditions = Conditions(numbers, "generalised")
    x, y, step = np.array([0.7, 1.1, 1.9]), np.array([0.3, 0.8]), 1e-6
    for j in range(3):
        up, down = x + step * np.eye(3)[j], x - step * np.eye(3)[j]
        slope = -(numbers.payoffs(up) - numbers.payoffs(down))[numbers.owner[j]] / (2 * step)
        assert numbers.field(x)[j] == pytest.approx(slope, rel=1e-6)
        curvature = (conditions.gradient(up, y) - conditions.gradient(down, y)) / (2 * step)
        np.testing.assert_allclose(numbers.field_jacobian(x, y, conditions.keys)[:, j], curvature, rtol=1e-5, atol=1e-7)
    assert not numbers.linear and not numbers.quadratic and not numbers.sufficient


def test_the_model_carries_the_values_and_nothing_else_changes() -> None:
    game = known.river_basin()
    model = game.model
    before = {component.name for component in model.component_objects()}
    result = solve_game(game, "best_response")
    np.testing.assert_allclose([v.value for v in model.x.values()], result.values["value"])
    assert not any(v.fixed for v in model.x.values())
    assert all(row.active for row in model.limit.values())
    assert {component.name for component in model.component_objects()} == before


def test_flags_and_values_are_restored_when_a_problem_cannot_be_read() -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(initialize=0.25, bounds=(0, 1)), pyo.Var(initialize=0.5, bounds=(0, 1))
    game = Game(model).player("one", model.x, minimise=(model.x - model.y) ** 2)
    game.player("two", model.y, minimise=(model.y - model.x) ** 2)
    numbers = Numbers(game)
    model.bad = pyo.Constraint(expr=pyo.floor(model.x) <= 3)
    numbers.game.shared(model.bad)
    responses = Responses(numbers, fresh=True)
    with pytest.raises(FormulationError, match="floor"):
        responses.of(0, np.array([0.1, 0.2]))
    assert not model.x.fixed and not model.y.fixed and (model.x.value, model.y.value) == (0.25, 0.5)


def test_a_fixed_variable_is_a_number() -> None:
    game = known.cournot([10.0, 20.0])
    game.model.q[1].fix(10.0)
    result = solve_game(game)
    assert result.converged and len(result.values) == 1
    assert result.value(game.model.q[0]) == pytest.approx((100 - 10 - 10) / 2)  # the response to 10
    assert game.model.q[1].fixed and game.model.q[1].value == 10.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"method": "newton"}, UnknownNameError, "method for games 'newton'"),
        ({"kind": "normalised"}, UnknownNameError, "kind of equilibrium 'normalised'"),
        ({"tol": 0.0}, FormulationError, "tol must be between"),
        ({"sweep": "jacobi"}, UnknownNameError, "option of method 'kkt' 'sweep'"),
        ({"method": "best_response", "sweep": "random"}, UnknownNameError, "sweep 'random'"),
        ({"method": "best_response", "damping": 0.0}, FormulationError, "damping must be above 0"),
        ({"method": "projection", "step": -1.0}, FormulationError, "step must be"),
        ({"starts": 0}, FormulationError, "starts must be"),
        ({"starts": True}, FormulationError, "starts must be"),
        ({"tol": "small"}, FormulationError, "tol must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solve_game(known.cournot([10.0, 20.0]), **given)


def test_stopping_early_is_no_equilibrium() -> None:
    result = solve_game(known.river_basin(), "extragradient", max_iterations=3)
    assert result.verdict == "stopped" and not result.converged and len(result.trace) == 3 and not result.kind
    with pytest.raises(FormulationError, match="no equilibrium to compare"):
        price_of_anarchy(result)
    assert "stopped" in str(result)


def test_an_unbounded_deviation_is_never_certified() -> None:
    # x = 0 is stationary for max x^2 / 2, and the worst that the player can do
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(), pyo.Var()
    game = Game(model).player("one", model.x, maximise=model.x**2 / 2 - model.y)
    game.player("two", model.y, minimise=model.y**2)
    for method in ("kkt", "projection"):
        assert not solve_game(game, method).converged
    assert np.isinf(certificate_at(game, [0.0, 0.0]).gain)


def test_price_of_anarchy_in_closed_form() -> None:
    # duopoly q = 30 each, profit 900 each; together 45 in all at price 55: 45 * 45 = 2025
    anarchy = price_of_anarchy(solve_game(known.cournot([10.0, 10.0])))
    assert anarchy.equilibrium == pytest.approx(1800.0) and anarchy.optimum == pytest.approx(2025.0)
    assert anarchy.ratio == pytest.approx(1.125) and anarchy.loss == pytest.approx(225.0)
    # costs: (1/4)^2 + (1/4)^2, which no one could lower
    costs = price_of_anarchy(solve_game(known.facchinei_kanzow()))
    assert costs.sense == "minimise" and costs.ratio == pytest.approx(1.0) and costs.equilibrium == pytest.approx(0.125)


def test_rows_that_say_the_same_twice_are_no_obstacle() -> None:
    game = known.facchinei_kanzow()
    model = game.model
    model.again = pyo.Constraint(expr=2 * model.x + 2 * model.y <= 2)
    game.shared(model.again)
    for method in ("kkt", "extragradient"):
        result = solve_game(game, method)
        assert result.converged, str(result)
        assert result.value(model.x) == pytest.approx(0.75, abs=1e-7)
        y = result.multipliers["multiplier"].to_numpy()
        assert y[0] + 2 * y[1] == pytest.approx(0.5, abs=1e-7) and (y >= -1e-9).all()


@pytest.mark.parametrize("n", [2, 3, 7])
def test_periods_are_told_from_convergence(n: int) -> None:
    cycle = [np.array([np.cos(2 * np.pi * k / n), float(k % n)]) for k in range(4 * n)]
    assert period_of(cycle) == n
    assert period_of([0.9**k * point for k, point in enumerate(cycle)]) == 0
    assert period_of([cycle[0]] * 30) == 0


def test_scattered_points_fill_the_box() -> None:
    points = scattered(np.array([0.0, -1.0]), np.array([1.0, np.inf]), 64)
    assert points.min(axis=0)[0] < 0.05 and points.max(axis=0)[0] > 0.95
    assert (points[:, 1] >= -1.0).all() and np.histogram2d(*points.T, bins=4)[0].min() >= 2


def test_a_certificate_is_not_fooled_by_what_is_large_elsewhere() -> None:
    # the local maximum stays one, whatever is added that the player cannot change
    for game in (known.two_wells(), known.two_wells(constant=1e9), known.two_wells(other=1e3)):
        assert certificate_at(game, [-0.9872567, 1e6]).failures()[-1] == "gain"
        assert certificate_at(game, [1.01227308, 1e6]).ok()
    # what is nothing in the money of one is much in that of the other
    assert {"stationarity", "natural", "gain"} <= set(certificate_at(known.units(a=1e9), [64 / 15, 2.9]).failures())
    assert certificate_at(known.units(a=1e9), [64 / 15, 44 / 15]).ok()
    # nor does the size of one row, or of its constants, excuse another
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(), pyo.Var()
    model.big = pyo.Constraint(expr=1e9 * model.x + 1e9 * model.y <= 1e10)
    model.small = pyo.Constraint(expr=model.x + 1e7 <= 1e7 + 1)
    game = Game(model, shared=model.big).player("one", model.x, minimise=(model.x - 3) ** 2, constraints=model.small)
    game.player("two", model.y, minimise=(model.y - 1) ** 2)
    assert "primal" in certificate_at(game, [1.01, 1.0]).failures()
    assert certificate_at(game, [1.0, 1.0]).ok()


def test_rows_without_interior_have_moderate_multipliers() -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 0.7)), pyo.Var(bounds=(0, 0.3))
    model.cap = pyo.Constraint(expr=model.x + model.y <= 1)
    model.least = pyo.Constraint(expr=model.x + model.y >= 1)
    game = Game(model, shared=[model.cap, model.least])
    game.player("one", model.x, maximise=3 * model.x).player("two", model.y, maximise=model.y)
    result = solve_game(game)
    assert result.converged and result.multipliers["multiplier"].abs().max() < 10.0


def test_what_a_search_cannot_reach_the_equilibrium_itself_bounds() -> None:
    # a cost and a gain: in the sense of a welfare the cost counts negative; nothing is lost at the optimum
    anarchy = price_of_anarchy(solve_game(known.bilinear(1.0)))
    assert (anarchy.equilibrium, anarchy.loss, anarchy.ratio) == (0.0, 0.0, 1.0)
    assert price_of_anarchy(solve_game(known.two_wells(), "best_response")).loss >= 0.0


def test_a_result_is_read_by_name_and_shown_in_a_line() -> None:
    result = solve_game(known.facchinei_kanzow())
    assert result.value("x") == result.value(result.game.model.x) == pytest.approx(0.75)
    assert repr(result) == "GameResult(kkt: converged; 2 players, 2 variables)"
    with pytest.raises(UnknownNameError, match="variable of the game 'z'"):
        result.value("z")
    with pytest.raises(FormulationError, match="takes a Game, not ConcreteModel"):
        solve_game(result.game.model)


def test_params_of_the_model_are_read_at_their_values() -> None:
    # own names of the models built for players (`others`, `target`) are free for the model to use
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 3)), pyo.Var(bounds=(0, 3))
    model.others, model.target = pyo.Param(initialize=9.0, mutable=True), pyo.Param(initialize=2.0, mutable=True)
    model.cap = pyo.Constraint(expr=model.x**2 + model.y <= model.target)
    model.number = pyo.Constraint(expr=model.target <= 7)
    game = Game(model, shared=model.cap).player("one", model.x, maximise=pyo.exp(model.x / model.others))
    game.player("two", model.y, minimise=(model.y - 1) ** 2, constraints=model.number)
    model.others.value = 0.5
    for method in ("kkt", "best_response"):
        result = solve_game(game, method, kind="generalised")
        assert result.converged, str(result)
        x, y = result.values["value"]
        assert x**2 + y == pytest.approx(2.0, abs=1e-7) and y <= 1.0 + 1e-7, method
        assert result.payoffs["payoff"][0] == pytest.approx(np.exp(2 * x))


def test_rows_in_small_units_are_held_in_these() -> None:
    # max x + y on x + y <= 1e-4, in whatever unit that is: a thousandth of it more is a violation
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, None))
    model.cap = pyo.Constraint(expr=model.x + model.y <= 1e-4)
    game = (
        Game(model, shared=model.cap).player("one", model.x, maximise=model.x).player("two", model.y, maximise=model.y)
    )
    assert certificate_at(game, [5e-5, 5e-5]).ok()
    assert "primal" in certificate_at(game, [5e-5, 5.01e-5]).failures()
    assert "gain" in certificate_at(game, [5e-5, 4.99e-5]).failures()
