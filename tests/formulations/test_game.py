"""A `Game` says whose everything is, or which component is nobody's; its models are those of the players."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyomo.environ as pyo
import pytest

from mktopt.errors import FormulationError
from mktopt.formulations.game import Game
from mktopt.formulations.game_models import (
    FROZEN,
    JOINT,
    central_model,
    kkt_model,
    limits_of,
    multiplier_keys,
    projection_model,
    response_model,
)


def two() -> tuple[Any, Game]:
    """min (x0 - 1)^2 + x1 over two variables and min (y - x0)^2, one shared row, one own row that moves."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], bounds=(0, 4))
    model.y, model.z = pyo.Var(), pyo.Var()
    model.p = pyo.Param(mutable=True)
    model.cap = pyo.Constraint(expr=model.x[0] + model.y <= 3)
    model.own = pyo.Constraint(expr=(-1, model.y - model.x[1], 2))
    game = Game(model)
    game.player("one", model.x, minimise=(model.x[0] - 1) ** 2 + model.x[1])
    game.player("two", model.y, minimise=(model.y - model.x[0]) ** 2, constraints=[model.own])
    return model, game.shared([model.cap])


def more(model: Any, game: Game, goal: Any) -> None:
    """One player more, who decides z."""
    game.player("more", model.z, minimise=goal)


def test_declaration_at_once_and_step_by_step_are_the_same() -> None:
    model, game = two()
    game.check()
    again = Game(
        model,
        {
            "one": {"variables": [model.x[0], model.x[1]], "minimise": (model.x[0] - 1) ** 2 + model.x[1]},
            "two": {"variables": model.y, "minimise": (model.y - model.x[0]) ** 2, "constraints": model.own},
        },
        shared=model.cap,
    )
    again.check()
    for one, other in ((game, again),):
        assert [v.name for v in one.variables] == [v.name for v in other.variables] == ["x[0]", "x[1]", "y"]
        assert one.owners == other.owners == [0, 0, 1]
        assert [(k, row.name) for k, row in one.rows] == [(k, row.name) for k, row in other.rows]
        assert one.sets_move and other.sets_move and one.bound_by == other.bound_by == [{0, 1}, {0, 1}]
    assert repr(game) == "Game(2 players (one: 2 variables, 0 own rows; two: 1 variables, 1 own rows), 1 shared rows)"


def test_slices_and_blocks_are_taken_for_their_members() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var([0, 1], [0, 1])
    model.firm = pyo.Block([0, 1])
    for k in (0, 1):
        model.firm[k].cap = pyo.Constraint(expr=model.x[k, 0] + model.x[k, 1] <= 1)
    game = Game(model)
    for k in (0, 1):
        cost = model.x[k, 0] ** 2 + model.x[k, 1] ** 2
        game.player(str(k), model.x[k, :], minimise=cost, constraints=model.firm[k])
    game.check()
    assert [v.name for v in game.players[1].variables] == ["x[1,0]", "x[1,1]"]
    assert [row.name for row in game.players[1].rows] == ["firm[1].cap"]
    assert not game.sets_move


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m, g: setattr(m, "more", pyo.Constraint(expr=m.y <= 1)), "constraint 'more' is nobody's"),
        (lambda m, g: setattr(m, "goal", pyo.Objective(expr=m.y)), "objective 'goal' is active"),
        (lambda m, g: setattr(m, "sos", pyo.SOSConstraint(var=m.x, sos=1)), "component 'sos'"),
        (lambda m, g: g.player("one", m.y, minimise=m.y), "player 'one' is declared twice"),
        (lambda m, g: g.player("three", m.y, minimise=m.y), "variable 'y' belongs to player 'two' and to 'three'"),
        (lambda m, g: g.player("three", [], minimise=m.y), "has no variables"),
        (lambda m, g: g.shared(m.own), "constraint 'own' is player 'two''s own already"),
        (lambda m, g: g.shared(m.cap), "constraint 'cap' is shared already"),
        (lambda m, g: g.shared(m.y), "expected Pyomo Constraint components"),
        (lambda m, g: (m.x.fix(0), m.y.fix(0)), "every variable of every player is fixed"),
        (lambda m, g: m.y.setlb(3) or m.y.setub(2), "the bounds of variable 'y' cross: lower 3 above upper 2"),
        (lambda m, g: more(m, g, abs(m.z)), r"payoff of player 'more' holds abs\(...\) of a variable"),
        (lambda m, g: more(m, g, m.z <= 1), "its goal is InequalityExpression"),
        (lambda m, g: more(m, g, m.x), "its goal is IndexedVar 'x'"),
        (lambda m, g: more(m, g, "z"), "its goal is str 'z'"),
        (lambda m, g: more(m, g, m.p * m.z), "holds Param 'p', which has no value"),
        (lambda m, g: g.player("more", [two()[0].y], minimise=m.y), "Var 'y' belongs to another model"),
        (lambda m, g: g.shared(two()[0].cap), "Constraint 'cap' belongs to another model"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[Any, Game], Any], message: str) -> None:
    model, game = two()

    def spoilt() -> None:
        spoil(model, game)
        game.check()

    with pytest.raises(FormulationError, match=message):
        spoilt()


def test_new_variables_must_have_one_owner_and_no_whole_numbers() -> None:
    model, game = two()
    model.n = pyo.Var(domain=pyo.Integers)
    with pytest.raises(FormulationError, match=r"variable 'n' of player 'three' is a whole number"):
        game.player("three", model.n, maximise=model.n)
    with pytest.raises(FormulationError, match="needs one goal"):
        game.player("three", model.z)
    with pytest.raises(FormulationError, match="needs one goal"):
        game.player("three", model.z, maximise=model.z, minimise=model.z)
    model.row = pyo.Constraint(expr=model.z + model.y <= 1)
    with pytest.raises(FormulationError, match=r"'cap' is shared already, and cannot be player 'three''s own"):
        game.player("three", model.z, maximise=model.z, constraints=model.cap)
    game.shared(model.row)
    with pytest.raises(FormulationError, match=r"constraint 'row' holds variable 'z', which no player decides"):
        game.check()
    model.z.fix(0.5)  # a number now
    game.check()
    assert len(game.variables) == 3
    with pytest.raises(FormulationError, match="ConcreteModel"):
        Game(pyo.Block())
    with pytest.raises(FormulationError, match="no players"):
        Game(pyo.ConcreteModel()).check()


def test_a_payoff_without_variables_is_refused() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var()
    with pytest.raises(FormulationError, match="holds no variable"):
        Game(model).player("one", model.x, maximise=3.0).check()


def test_a_response_takes_the_others_as_parameters() -> None:
    model, game = two()
    response = response_model(game, 1, game.bound_by)
    assert list(response.others) == [0, 1] and len(response.rows) == 2
    response.others[0], response.others[1] = 2.0, 0.5
    model.y.set_value(1.0)
    assert pyo.value(response.payoff) == 1.0 and model.x[0].value is None  # nothing is written to the game's model
    bodies = sorted(pyo.value(row.body) for row in response.rows.values())
    assert bodies == [0.5, 3.0]
    fixed = response_model(game, 1, game.bound_by, fixed=True)
    assert not fixed.component("others") or not len(fixed.others)


@pytest.mark.parametrize(("rows", "count"), [("moving", 2), (FROZEN, 3), (JOINT, 2)])
def test_what_a_projection_freezes(rows: str, count: int) -> None:
    _, game = two()
    projection = projection_model(game, rows)
    assert len(projection.rows) == count
    for k in range(3):
        projection.others[k] = 10.0
        game.variables[k].set_value(float(k))
    # x = (0, 1), y = 2: shared x0 + y, own y - x1, each with the others' 10 where these are frozen
    found = sorted(pyo.value(row.body) for row in projection.rows.values())
    assert found == {"moving": [2 - 10, 0 + 2], FROZEN: [2 - 10, 0 + 10, 10 + 2], JOINT: [2 - 1, 0 + 2]}[rows]


def test_multipliers_are_shared_or_each_players_own() -> None:
    _, game = two()
    assert multiplier_keys(game, "variational") == [(0, 1), (1, -1)]
    assert multiplier_keys(game, "generalised") == [(0, 1), (1, 0), (1, 1)]
    with pytest.raises(FormulationError, match="kind 'other'"):
        multiplier_keys(game, "other")
    assert [limits_of(row) for _, row in game.rows] == [(-1.0, 2.0), (-float("inf"), 3.0)]


def test_the_kkt_model_holds_at_an_equilibrium_and_nowhere_beside() -> None:
    # one: x0 = 1, x1 = 0 (its bound has multiplier 1); two: y = x0 = 1, all rows slack
    _, game = two()
    kkt = kkt_model(game, "variational")
    for variable, value in zip(game.variables, (1.0, 0.0, 1.0), strict=True):
        variable.set_value(value)
    for part in (kkt.up, kkt.down, kkt.free, kkt.bound_up, kkt.bound_down):
        for variable in part.values():
            variable.set_value(0.0)
    kkt.bound_down[1].set_value(1.0)
    kkt.t.set_value(0.0)

    def holds() -> bool:
        rows = kkt.component_data_objects(pyo.Constraint, active=True)
        return all(row.slack() >= -1e-12 for row in rows)

    assert holds()
    for variable in (*game.variables, *kkt.bound_down.values(), *kkt.up.values()):
        before = variable.value
        variable.set_value(before + 0.1)
        assert not holds(), variable.name
        variable.set_value(before)


def test_the_centre_adds_what_everybody_gains() -> None:
    _, game = two()
    for variable, value in zip(game.variables, (3.0, 1.0, 2.0), strict=True):
        variable.set_value(value)
    central = central_model(game)
    assert pyo.value(central.welfare) == -((3 - 1) ** 2 + 1) - (2 - 3) ** 2 and len(central.rows) == 2
