"""A game on one Pyomo model: who decides what, who wants what, who is bound by what.

Player i chooses its own variables x_i, knowing those of all others, x_-i:

    max u_i(x_i, x_-i)   s.t.  x_i in X_i(x_-i) = {own rows,  bounds,  shared rows}                              (P_i)

x* is a *generalised Nash equilibrium* (GNE) if every x_i* solves (P_i) at x_-i*. Own rows may hold variables of others,
so that the sets move: with F(x) = (-grad_i u_i(x))_i and X(x) = product of the X_i(x_-i), a GNE of players who are
convex in their own variables solves the quasi-variational inequality

    x* in X(x*),    F(x*)'(y - x*) >= 0   for all y in X(x*)                                                     (QVI)

Shared rows g(x) in [a, b] bind all players jointly. Each player then has a multiplier of its own for them, and there is
often a continuum of equilibria. The *variational* equilibrium is one where all players have the same multipliers y:

    grad_i u_i(x) = sum_r y_r grad_i g_r(x) + sum_s y_s grad_i h_s(x) + z_i      h_s: own rows of player i       (KKT)

A multiplier is what its owner gains per unit by which the right-hand side of the row is raised: y >= 0 at a binding <=,
y <= 0 at a binding >=; z likewise for bounds. With own sets that do not move, and shared rows that are convex, it is
the solution of the VI over the one set that all rows describe, so that a common price clears what is shared.
References: Facchinei and Kanzow, Generalized Nash equilibrium problems, 4OR 5 (2007); Harker,
Generalized Nash games and quasi-variational inequalities, EJOR 54 (1991); Rosen, Econometrica 33 (1965).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyomo.environ as pyo
from pyomo.core.expr.visitor import identify_mutable_parameters, identify_variables

from mktopt.errors import FormulationError

_TAKEN = {pyo.Block, pyo.Var, pyo.Constraint, pyo.Objective, pyo.Expression, pyo.Param, pyo.Set, pyo.RangeSet}
_TAKEN |= {pyo.Suffix, pyo.ExternalFunction, pyo.BuildAction, pyo.BuildCheck}
_KINKED = {"abs", "floor", "ceil", "Expr_if"}


@dataclass(frozen=True, eq=False)
class Player:
    """One player: its name, its payoff as an expression, whether it is maximised, its variables and its own rows."""

    name: str
    payoff: Any
    maximise: bool
    declared: tuple[Any, ...]
    rows: tuple[Any, ...]

    @property
    def variables(self) -> list[Any]:
        """Its variables that are not fixed."""
        return [variable for variable in self.declared if not variable.fixed]

    @property
    def utility(self) -> Any:
        """What it maximises: the payoff, or minus a payoff that it minimises."""
        return self.payoff if self.maximise else -self.payoff


class Game:
    """Players on one ordinary Pyomo ConcreteModel; see the module's text for the mathematics.

        game = Game(model)
        game.player("a", variables=[model.x], maximise=profit_a, constraints=[model.capacity_a])
        game.player("b", variables=[model.y], minimise=cost_b)
        game.shared([model.cap])

    or at once: Game(model, {"a": dict(variables=..., maximise=...), ...}, shared=[...]). Components may be indexed,
    single members, slices, blocks, or lists of these. Bounds of variables are own constraints of their player. Fixed
    variables are numbers. Every active constraint must be somebody's or shared, every variable that a payoff or a row
    holds must be one player's, and the model may have no active objective: `check` says what is missing.
    """

    def __init__(self, model: Any, players: Mapping[str, Mapping[str, Any]] | None = None, shared: Any = ()) -> None:
        if not isinstance(model, pyo.ConcreteModel):
            raise FormulationError(f"Game takes a Pyomo ConcreteModel, not {type(model).__name__}")
        self.model = model
        self._players: dict[str, Player] = {}
        self._shared: list[Any] = []
        for name, record in (players or {}).items():
            self.player(name, **record)
        self.shared(shared)

    # -- declaring ----------------------------------------------------------------------------------------------

    def player(
        self, name: str, variables: Any, maximise: Any = None, minimise: Any = None, constraints: Any = ()
    ) -> Game:
        """Adds a player; returns the game.

        variables: what it decides; maximise or minimise: its payoff, an expression of any variables; constraints: rows
        that bind it alone, which may hold variables of others (its set then moves with their actions). Raises
        FormulationError for a name, variable or row that is taken, for whole-number variables, and for no goal or two.
        """
        name = str(name)
        if name in self._players:
            raise FormulationError(f"player '{name}' is declared twice; give each player a name of its own")
        if (maximise is None) == (minimise is None):
            raise FormulationError(f"player '{name}' needs one goal: maximise=expression or minimise=expression")
        goal = minimise if maximise is None else maximise
        _check_goal(name, goal)
        found = tuple(_members(variables, pyo.Var, f"variables of player '{name}'"))
        rows = tuple(_members(constraints, pyo.Constraint, f"constraints of player '{name}'"))
        if not found:
            raise FormulationError(f"player '{name}' has no variables, so there is nothing that it decides")
        self._refuse_taken(name, found, rows)
        self._players[name] = Player(name, goal, minimise is None, found, rows)
        return self

    def shared(self, constraints: Any) -> Game:
        """Adds rows that bind all players jointly; returns the game. Raises FormulationError for a row that is
        taken."""
        rows = tuple(_members(constraints, pyo.Constraint, "shared constraints"))
        owner = self._row_owner()
        for row in rows:
            self._refuse_foreign(row)
            if id(row) in owner:
                raise FormulationError(f"constraint '{row.name}' is {_whose(owner[id(row)])} already; declare it once")
            owner[id(row)] = None
        self._shared += rows
        return self

    def _refuse_foreign(self, component: Any) -> None:
        if component.model() is not self.model:
            raise FormulationError(
                f"{component.ctype.__name__} '{component.name}' belongs to another model than the game; declare it on"
                " the game's own"
            )

    def _refuse_taken(self, name: str, variables: Sequence[Any], rows: Sequence[Any]) -> None:
        owner = {id(v): player.name for player in self._players.values() for v in player.declared}
        for variable in variables:
            self._refuse_foreign(variable)
            if owner.get(id(variable)) == name:
                raise FormulationError(f"variable '{variable.name}' is given twice to player '{name}'; give it once")
            if id(variable) in owner:
                raise FormulationError(
                    f"variable '{variable.name}' belongs to player '{owner[id(variable)]}' and to '{name}'; a variable"
                    " has one owner"
                )
            owner[id(variable)] = name
            if not variable.is_continuous():
                raise FormulationError(
                    f"variable '{variable.name}' of player '{name}' is a whole number ({variable.domain}); equilibria"
                    " are sought in continuous variables: fix it, or relax its domain"
                )
        taken = self._row_owner()
        for row in rows:
            self._refuse_foreign(row)
            if id(row) in taken:
                raise FormulationError(
                    f"constraint '{row.name}' is {_whose(taken[id(row)])} already, and cannot be player '{name}''s own;"
                    " rows that bind several players jointly belong to game.shared([...])"
                )
            taken[id(row)] = name

    def _row_owner(self) -> dict[int, str | None]:
        owner: dict[int, str | None] = {id(row): p.name for p in self._players.values() for row in p.rows}
        return owner | {id(row): None for row in self._shared}

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def players(self) -> tuple[Player, ...]:
        """The players in sequence of declaration."""
        return tuple(self._players.values())

    @property
    def variables(self) -> list[Any]:
        """The free variables of all players, player after player (n,)."""
        return [variable for player in self.players for variable in player.variables]

    @property
    def owners(self) -> list[int]:
        """The position of the player who owns each of `variables` (n,)."""
        return [k for k, player in enumerate(self.players) for _ in player.variables]

    @property
    def rows(self) -> list[tuple[int, Any]]:
        """Active rows with their owner's position, own rows player after player, then the shared ones with -1."""
        own = [(k, row) for k, player in enumerate(self.players) for row in player.rows if row.active]
        return own + [(-1, row) for row in self._shared if row.active]

    @property
    def bound_by(self) -> list[set[int]]:
        """For each of `rows` the positions of the players whose variables it holds."""
        owner = {id(v): k for v, k in zip(self.variables, self.owners, strict=True)}
        return [{owner[id(v)] for v in identify_variables(row.body, include_fixed=False)} for _, row in self.rows]

    @property
    def sets_move(self) -> bool:
        """Whether an own row of some player holds variables of another (a QVI beyond its shared rows)."""
        return any(k >= 0 and inside - {k} for (k, _), inside in zip(self.rows, self.bound_by, strict=True))

    def __len__(self) -> int:
        return len(self._players)

    def __repr__(self) -> str:
        parts = [f"{p.name}: {len(p.declared)} variables, {len(p.rows)} own rows" for p in self.players[:4]]
        more = f", ... {len(self) - 4} more" if len(self) > 4 else ""
        return f"Game({len(self)} players ({'; '.join(parts)}{more}), {len(self._shared)} shared rows)"

    # -- checking -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises FormulationError, naming it, for whatever of the model nobody answers for."""
        if not self._players:
            raise FormulationError("the game has no players; add them: game.player(name, variables=..., maximise=...)")
        self._check_components()
        if not self.variables:
            raise FormulationError("every variable of every player is fixed, so there is nothing to decide; unfix some")
        for variable in self.variables:
            if variable.lower is not None and variable.upper is not None and variable.lower > variable.upper:
                raise FormulationError(
                    f"the bounds of variable '{variable.name}' cross: lower {variable.lower:g} above upper"
                    f" {variable.upper:g}; correct one of them"
                )
        owned = {id(v) for player in self.players for v in player.declared}
        taken = self._row_owner()
        for row in self.model.component_data_objects(pyo.Constraint, active=True):
            if id(row) not in taken:
                raise FormulationError(
                    f"constraint '{row.name}' is nobody's: pass it as constraints= of its player, to game.shared([...])"
                    " where it binds all players, or deactivate it"
                )
        for player in self.players:
            where = f"the payoff of player '{player.name}'"
            self._check_owned(player.payoff, owned, where)
            _check_smooth(player.payoff, where)
            if not any(True for _ in identify_variables(player.payoff, include_fixed=True)):
                raise FormulationError(f"{where} holds no variable, so nothing that is done matters to it; check it")
        for _, row in self.rows:
            self._check_owned(row.body, owned, f"constraint '{row.name}'")
            _check_smooth(row.body, f"constraint '{row.name}'")

    def _check_components(self) -> None:
        for block in self.model.block_data_objects(active=True):
            for component in block.component_objects(active=True, descend_into=False):
                if component.ctype not in _TAKEN and component.ctype.__name__ != "SetOf":
                    raise FormulationError(
                        f"component '{component.name}' ({component.ctype.__name__}) cannot be part of a game: write it"
                        " as ordinary constraints, or deactivate it"
                    )
        objective = next(self.model.component_data_objects(pyo.Objective, active=True), None)
        if objective is not None:
            raise FormulationError(
                f"objective '{objective.name}' is active, and a game has no objective of its own: deactivate it, and"
                " give players their payoffs by maximise= or minimise="
            )

    def _check_owned(self, expression: Any, owned: set[int], where: str) -> None:
        for param in identify_mutable_parameters(expression):
            if param.is_indexed() or pyo.value(param, exception=False) is None:
                raise FormulationError(f"{where} holds Param '{param.name}', which has no value; give it one")
        for variable in identify_variables(expression, include_fixed=False):
            if id(variable) not in owned:
                raise FormulationError(
                    f"{where} holds variable '{variable.name}', which no player decides: give it to a player, or fix it"
                )


def _check_goal(name: str, goal: Any) -> None:
    """Refuses what is no payoff: objectives, relations, indexed components, names."""
    if isinstance(goal, pyo.Objective):
        raise FormulationError(f"player '{name}': pass the expression of '{goal.name}', and deactivate it")
    number = isinstance(goal, (int, float)) or getattr(goal, "is_numeric_type", lambda: False)()
    if not number:
        raise FormulationError(
            f"player '{name}': its goal is {type(goal).__name__} {str(goal)[:60]!r}, and must be one expression of"
            " variables, such as price * m.q - cost"
        )


def _check_smooth(expression: Any, where: str) -> None:
    """Slopes are what every method stands on: refuses what has none at a kink or a step."""
    rest = [expression]
    while rest:
        node = rest.pop()
        if not getattr(node, "is_expression_type", lambda: False)():
            continue
        name = str(node.getname())
        if name in _KINKED and any(True for _ in identify_variables(node, include_fixed=False)):
            raise FormulationError(
                f"{where} holds {name}(...) of a variable, which has no slope at its kink: write it with a variable of"
                " its own and rows, such as t >= x and t >= -x for abs(x)"
            )
        rest.extend(node.args)


def _whose(owner: str | None) -> str:
    return "shared" if owner is None else f"player '{owner}''s own"


def _members(given: Any, kind: Any, what: str) -> Iterator[Any]:
    """The single members of `kind` in components, members, slices, blocks and lists of these."""
    if getattr(given, "ctype", None) is kind:
        if given.is_indexed():
            yield from given.values()
        else:
            yield given
    elif getattr(given, "ctype", None) is pyo.Block:
        blocks = given.values() if given.is_indexed() else (given,)
        for block in blocks:
            yield from block.component_data_objects(kind, active=True if kind is pyo.Constraint else None)
    elif isinstance(given, Mapping):
        for item in given.values():
            yield from _members(item, kind, what)
    elif isinstance(given, Iterable) and not isinstance(given, str):
        for item in given:
            yield from _members(item, kind, what)
    else:
        raise FormulationError(f"{what}: expected Pyomo {kind.__name__} components, not {given!r}")
