"""Games with known equilibria, by every method that should find them, and games without, which every method must
say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.game import METHODS, GameResult, price_of_anarchy, solve_game
from mktopt.formulations.game import Game
from mktopt.networks.network import Network
from tests.agents import known_games as known

VARIATIONAL_METHODS = ("kkt", "projection", "extragradient")


def values(result: GameResult) -> np.ndarray:
    return result.values["value"].to_numpy(float)


def multipliers(result: GameResult) -> np.ndarray:
    return result.multipliers["multiplier"].to_numpy(float)


def proved(result: GameResult) -> GameResult:
    assert result.converged, str(result)
    assert result.certificate is not None and result.certificate.ok(), str(result)
    return result


@pytest.mark.parametrize("method", METHODS)
def test_cournot_oligopoly_in_closed_form(method: str) -> None:
    costs = [10.0, 20.0, 30.0]
    result = proved(solve_game(known.cournot(costs), method))
    expected = [(100.0 - 3 * c + (sum(costs) - c)) / 4.0 for c in costs]
    np.testing.assert_allclose(values(result), expected, atol=1e-7)
    np.testing.assert_allclose(result.payoffs["payoff"], np.square(expected), rtol=1e-6)  # q (p - c) = b q^2
    assert "no shared rows" in result.kind and result.several.startswith("the only Nash equilibrium")


@settings(max_examples=3, deadline=None)
@given(st.lists(st.floats(0.0, 30.0), min_size=2, max_size=4), st.floats(5.0, 40.0))
def test_shared_cap_splits_by_equal_multipliers(costs: list[float], cap: float) -> None:
    result = proved(solve_game(known.cournot(costs, cap=cap)))
    q, (y,) = values(result), multipliers(result)
    # every firm that produces has the same marginal profit, the multiplier; no other has more
    marginal = 100.0 - q.sum() - q - np.array(costs)
    assert y >= 0.0 and y * (cap - q.sum()) <= 1e-6
    np.testing.assert_allclose(marginal[q > 1e-6], y, atol=1e-6)
    assert (marginal <= y + 1e-6).all()
    assert result.kind.startswith("variational equilibrium: equal multipliers")


@pytest.mark.parametrize("method", ["projection", "extragradient"])
def test_shared_cap_of_two_in_closed_form(method: str) -> None:
    # marginal profits 100 - 30 - q - c are equal where q0 - q1 = 10: (20, 10), each 100 - 30 - 20 - 10 = 40
    result = proved(solve_game(known.cournot([10.0, 20.0], cap=30.0), method))
    np.testing.assert_allclose(values(result), [20.0, 10.0], atol=1e-6)
    np.testing.assert_allclose(multipliers(result), [40.0], atol=1e-6)


def test_best_response_finds_a_generalised_equilibrium_and_says_that_it_is_not_variational() -> None:
    game = known.cournot([10.0, 20.0], cap=30.0)
    game.model.q[1].set_value(2.0)
    result = proved(solve_game(game, "best_response"))
    np.testing.assert_allclose(values(result), [28.0, 2.0], atol=1e-6)  # the first takes what is left of the cap
    assert result.kind.startswith("generalised equilibrium")
    assert result.certificate is not None and result.certificate.common is False
    np.testing.assert_allclose(multipliers(result), [100 - 30 - 28 - 10, 100 - 30 - 2 - 20], atol=1e-5)
    assert result.several.startswith("one of several")


@pytest.mark.parametrize("method", VARIATIONAL_METHODS)
def test_facchinei_kanzow_variational(method: str) -> None:
    result = proved(solve_game(known.facchinei_kanzow(), method))
    np.testing.assert_allclose(values(result), [0.75, 0.25], atol=1e-8)
    np.testing.assert_allclose(multipliers(result), [0.5], atol=1e-8)


@pytest.mark.parametrize(("method", "kind"), [("best_response", "variational"), ("kkt", "generalised")])
def test_facchinei_kanzow_generalised(method: str, kind: str) -> None:
    result = proved(solve_game(known.facchinei_kanzow(), method, kind))
    x, y = values(result)
    assert 0.5 - 1e-9 <= x <= 1.0 + 1e-9 and x + y == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(multipliers(result), [2 - 2 * x, 1 - 2 * y], atol=1e-8)
    assert result.kind.startswith("generalised equilibrium") and result.several.startswith("one of several")


def test_harker_has_one_variational_equilibrium_and_a_segment_of_others() -> None:
    np.testing.assert_allclose(values(proved(solve_game(known.harker()))), [5.0, 9.0], atol=1e-8)
    game = known.harker()
    game.model.x.set_value(9.5)
    game.model.y.set_value(5.5)
    result = proved(solve_game(game, "best_response"))
    assert values(result).sum() == pytest.approx(15.0, abs=1e-7) and 5.0 - 1e-7 <= values(result)[1] <= 6.0 + 1e-7
    assert result.kind.startswith("generalised")


@pytest.mark.parametrize("method", ["kkt", "extragradient"])
def test_river_basin_pollution_game(method: str) -> None:
    result = proved(solve_game(known.river_basin(), method))
    np.testing.assert_allclose(values(result), [21.14, 16.03, 2.73], atol=0.01)
    np.testing.assert_allclose(multipliers(result), [0.574, 0.0], atol=1e-3)
    # the same from the four linear equations that hold where only the first limit binds
    data = known.RIVER
    pull = np.array(data["u"][0]) * np.array(data["e"])
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = data["d"][1] * (np.ones((3, 3)) + np.eye(3)) + 2 * np.diag(data["c2"])
    matrix[:3, 3], matrix[3, :3] = pull, pull
    exact = np.linalg.solve(matrix, np.r_[data["d"][0] - np.array(data["c1"]), data["K"][0]])
    np.testing.assert_allclose(np.r_[values(result), multipliers(result)[0]], exact, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_sets_that_move_with_the_actions_of_others(method: str) -> None:
    result = proved(solve_game(known.moving_sets(), method))
    np.testing.assert_allclose(values(result), [2.0, 2.0], atol=1e-7)
    np.testing.assert_allclose(multipliers(result), [-2.0, -2.0], atol=1e-7)
    assert "QVI" in result.kind


def test_nonlinear_payoffs_of_a_contest() -> None:
    # max 9 x_i / sum x - x_i (Tullock): 9 (S - x) = S^2, for three alike x = 9 * 2 / 9 = 2
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(1e-3, None))
    game = Game(model)
    for i in range(3):
        game.player(f"p{i}", model.x[i], maximise=9 * model.x[i] / sum(model.x.values()) - model.x[i])
    result = proved(solve_game(game))
    np.testing.assert_allclose(values(result), 2.0, atol=1e-8)
    assert result.certificate is not None and result.certificate.proof == "sampled"  # a quotient


# -- no equilibrium -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_no_equilibrium_is_said_by_every_method(method: str) -> None:
    result = solve_game(known.pennies(), method)
    assert not result.converged and not result.kind
    assert result.verdict == ("cycles with period 2" if method == "best_response" else "no equilibrium found")
    assert result.certificate is not None and "gain" in result.certificate.failures()
    # whatever y is, the other gains by going to the farther end
    x, y = values(result)
    gain = max(y, 1 - y) ** 2 - (x - y) ** 2
    far = result.certificate.gains.set_index("player")["gain"]["far"]
    assert far == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_race_without_end(method: str) -> None:
    result = solve_game(known.race(), method)
    assert result.verdict == ("diverges" if method in ("projection", "extragradient") else "no equilibrium found")
    if method == "kkt":
        assert "no KKT point" in result.reason and "all rows are linear" in result.reason
    if method == "best_response":
        assert "'one'" in result.reason and "no limit" in result.reason


def test_players_who_leave_each_other_no_room() -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, 1))
    model.over = pyo.Constraint(expr=model.x >= model.y + 0.5)
    model.under = pyo.Constraint(expr=model.y >= model.x + 0.5)
    game = Game(model).player("one", model.x, minimise=model.x**2, constraints=model.over)
    game.player("two", model.y, minimise=model.y**2, constraints=model.under)
    for method in ("kkt", "best_response"):
        result = solve_game(game, method)
        assert result.verdict == "no equilibrium found" and "no " in result.reason
        assert result.certificate is not None and "primal" in result.certificate.failures()


# -- more than one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kkt", "best_response"])
def test_a_continuum_is_seen(method: str) -> None:
    result = proved(solve_game(known.coordination(), method))
    x, y = values(result)
    assert x == pytest.approx(y, abs=1e-8)
    assert result.several.startswith("one of several equilibria, to first order")


def test_isolated_equilibria_are_found_from_several_starts() -> None:
    result = proved(solve_game(known.same_sign(), starts=6, all_starts=True))
    found = {tuple(np.round(frame["value"], 6) + 0.0) for frame in (result.values, *result.alternatives)}
    assert found <= {(1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)} and len(found) >= 2
    assert result.several.startswith("one of several equilibria")


# -- methods ----------------------------------------------------------------------------------------------------------


def test_projection_runs_off_where_extragradient_converges() -> None:
    assert solve_game(known.bilinear(), "projection").verdict == "diverges"
    result = proved(solve_game(known.bilinear(), "extragradient"))
    np.testing.assert_allclose(values(result), 0.0, atol=1e-6)


def test_a_fixed_step_of_projection_grows_as_theory_says() -> None:
    # on F = (y, -x) each step multiplies the length by sqrt(1 + eta^2)
    result = solve_game(known.bilinear(), "projection", step=0.5, max_iterations=11)
    assert result.verdict == "stopped"
    growth = result.trace["residual"].to_numpy()[10] / result.trace["residual"].to_numpy()[0]
    assert growth == pytest.approx(1.25**5, rel=0.35)  # in the largest entry, of a vector that turns


def test_sweeps_of_cournot_converge_or_cycle_as_theory_says() -> None:
    # linear responses: all at once they are multiplied by -(n - 1) / 2 along equal moves
    costs = [10.0, 10.0, 10.0]
    assert solve_game(known.cournot(costs), "best_response", sweep="jacobi").verdict == "cycles with period 2"
    for options in ({"sweep": "jacobi", "damping": 0.5}, {"sweep": "gauss-seidel"}):
        result = proved(solve_game(known.cournot(costs), "best_response", **options))
        np.testing.assert_allclose(values(result), 22.5, atol=1e-6)


def _random_game(seed: int) -> Game:
    """Three players of two variables, F linear and strongly monotone, two shared rows."""
    rng = np.random.default_rng(seed)
    a, skew = rng.normal(size=(6, 6)), rng.normal(size=(6, 6))
    M = a @ a.T / 6 + 0.2 * np.eye(6)
    for k in range(3):
        own = slice(2 * k, 2 * k + 2)
        skew[own, own] = 0.0
    M = M + 0.5 * (skew - skew.T)
    q, B, b = 3 * rng.normal(size=6), rng.normal(size=(2, 6)), np.abs(rng.normal(size=2))
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(6), bounds=(-2, 5))
    x = list(model.x.values())
    model.limit = pyo.Constraint(range(2), rule=lambda m, k: sum(B[k, j] * x[j] for j in range(6)) <= b[k])
    game = Game(model, shared=model.limit)
    for k in range(3):
        own, others = [2 * k, 2 * k + 1], [j for j in range(6) if j // 2 != k]
        cost = sum(0.5 * M[i, j] * x[i] * x[j] for i in own for j in own)
        cost += sum(x[i] * (q[i] + sum(M[i, j] * x[j] for j in others)) for i in own)
        game.player(str(k), [x[i] for i in own], minimise=cost)
    return game


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 10_000))
def test_kkt_and_extragradient_agree_on_monotone_games(seed: int) -> None:
    one = proved(solve_game(_random_game(seed), "kkt"))
    other = proved(solve_game(_random_game(seed), "extragradient"))
    np.testing.assert_allclose(values(one), values(other), atol=1e-6)
    np.testing.assert_allclose(multipliers(one), multipliers(other), atol=1e-5)


# -- power ------------------------------------------------------------------------------------------------------------


def test_generators_behind_one_line_pay_one_congestion_price() -> None:
    """Two generators at buses 1 and 2 of a triangle sell to bus 0, over lines of which 1-0 is full.

    Power transfer factors h = (2/3, 1/3) of that line for equal reactances. Variational: both have the same multiplier
    mu, and each sells where price - b q - c = mu h: nodal prices differ from that of bus 0 by one congestion price
    times h.
    """
    buses = [{"bus": str(k), "base_kv": 10.0} for k in range(3)]
    branches = [
        {"branch": f"{i}{j}", "from_bus": str(i), "to_bus": str(j), "r_ohm": 0.0, "x_ohm": 1.0, "rating_kva": 20.0}
        for i, j in ((1, 0), (2, 0), (1, 2))
    ]
    h = Network(pd.DataFrame(buses), pd.DataFrame(branches), source_bus="0").topology.ptdf[0, 1:]
    np.testing.assert_allclose(h, [2 / 3, 1 / 3], atol=1e-9)
    model = pyo.ConcreteModel()
    model.q = pyo.Var((1, 2), bounds=(0, None))
    model.line = pyo.Constraint(expr=(-20, h[0] * model.q[1] + h[1] * model.q[2], 20))
    price = 50 - 0.5 * (model.q[1] + model.q[2])
    game = Game(model, shared=model.line)
    for k, cost in ((1, 10.0), (2, 15.0)):
        game.player(f"g{k}", model.q[k], maximise=(price - cost) * model.q[k])
    result = proved(solve_game(game))
    q, (mu,) = values(result), multipliers(result)
    exact = np.linalg.solve([[1.0, 0.5, h[0]], [0.5, 1.0, h[1]], [h[0], h[1], 0.0]], [40.0, 35.0, 20.0])
    np.testing.assert_allclose([*q, mu], exact, atol=1e-6)
    assert mu > 1.0
    anarchy = price_of_anarchy(result)
    assert anarchy.optimum >= anarchy.equilibrium and anarchy.proof == "convex"


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "given",
    [
        {"a": 1e-6, "b": 1e6},
        {"x": 1e6, "y": 1e-6},
        {"a": 1e-8, "b": 1e-8, "x": 1e-6, "y": 1e-6},
    ],
)
def test_neither_the_money_of_players_nor_the_units_of_variables_matter(method: str, given: dict[str, float]) -> None:
    result = proved(solve_game(known.units(**given), method))
    exact = np.array([64 / 15 * given.get("x", 1.0), 44 / 15 * given.get("y", 1.0)])
    np.testing.assert_allclose(values(result), exact, rtol=1e-6)
    assert result.several.startswith("the only Nash equilibrium")


@pytest.mark.parametrize("method", ["kkt", "projection"])
def test_shared_rows_in_mixed_units(method: str) -> None:
    # 10 - 2 X - Y / 2 = y = 8 - 2 Y - X / 2 on X + Y = 5: X = 19 / 6 and Y = 11 / 6, y = 11 / 4
    result = proved(solve_game(known.units(x=1e6, y=1e-3, shared=True), method))
    np.testing.assert_allclose(values(result), [19 / 6 * 1e6, 11 / 6 * 1e-3], rtol=1e-6)
    np.testing.assert_allclose(multipliers(result), [11 / 4], rtol=1e-6)


# -- infeasible -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kkt", "best_response"])
def test_rows_that_cannot_hold_together_are_named(method: str) -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, 1))
    model.many = pyo.Constraint(expr=model.x + model.y >= 3)
    model.slack = pyo.Constraint(expr=model.x - model.y <= 1)
    game = Game(model, shared=[model.many, model.slack])
    game.player("one", model.x, minimise=model.x**2).player("two", model.y, minimise=model.y**2)
    result = solve_game(game, method)
    assert result.verdict == "no equilibrium found" and result.reason.startswith("infeasible: ")
    assert "'many' >= 3" in result.reason and "'slack'" not in result.reason


# -- not convex -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kkt", "projection", "best_response"])
def test_a_local_maximum_is_no_equilibrium(method: str) -> None:
    result = solve_game(known.two_wells(), method)
    if method in ("kkt", "best_response"):  # which look where the player would rather be
        assert values(proved(result))[0] ** 3 - values(result)[0] == pytest.approx(1 / 40) and values(result)[0] > 1.0
        assert "against sampled deviations" in result.kind
    else:
        assert result.verdict == "no equilibrium found" and "gain" in result.reason


def test_a_far_peak_without_bounds_is_found() -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(initialize=0.1), pyo.Var()
    peaks = 1 / (1 + model.x**2) + 3 / (1 + (model.x - 8) ** 2)
    game = Game(model).player("one", model.x, maximise=peaks).player("two", model.y, minimise=(model.y - model.x) ** 2)
    result = solve_game(game, "projection")
    assert result.verdict == "no equilibrium found" and "gain" in result.reason
    assert result.certificate is not None and result.certificate.gains["gain"][0] == pytest.approx(2.0, abs=0.1)


def test_the_best_corner_of_a_player_of_many_variables_is_found() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(6), bounds=(-1, 1), initialize=0.01)
    total = sum(w * model.x[k] for k, w in enumerate((1.0, -2.0, 1.5, -0.5, 3.0, -1.0)))
    result = proved(solve_game(Game(model).player("one", model.x, maximise=total**2 + total / 3), "best_response"))
    np.testing.assert_allclose(values(result), [1, -1, 1, -1, 1, -1])


def test_extragradient_gives_up_where_it_does_not_come_closer() -> None:
    # F = (y, -x) turns and -0.6 (x, y) pushes outward: payoffs are not concave, and the run goes round in the box
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(-1, 1), initialize=0.5), pyo.Var(bounds=(-1, 1))
    x, y = model.x, model.y
    game = Game(model).player("one", x, minimise=x * y - 0.3 * x**2).player("two", y, maximise=x * y + 0.3 * y**2)
    result = solve_game(game, "extragradient")
    assert not result.converged and "gain" in result.certificate.failures()
    assert result.verdict.startswith(("cycles", "stopped")) and len(result.trace) < 500


@pytest.mark.parametrize("method", ["projection", "extragradient"])
def test_steps_keep_away_from_where_slopes_are_no_numbers(method: str) -> None:
    # max x / (x + y) - x, max y / (x + y) - 2 y (Tullock): y = (x + y)^2, x = 2 (x + y)^2, so that x + y = 1 / 3
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2), bounds=(0, None))
    x, y = model.x.values()
    game = Game(model).player("one", x, maximise=x / (x + y) - x).player("two", y, maximise=y / (x + y) - 2 * y)
    np.testing.assert_allclose(values(proved(solve_game(game, method))), [2 / 9, 1 / 9], atol=1e-7)


def test_a_start_without_slopes_is_not_insisted_on() -> None:
    # max sqrt(x) - x from x = 0, where the slope is infinite: x = 1 / 4
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(0, None), initialize=0.0)
    result = proved(solve_game(Game(model).player("one", model.x, maximise=pyo.sqrt(model.x) - model.x), "projection"))
    np.testing.assert_allclose(values(result), 0.25, atol=1e-7)
