"""The programs that a game consists of, declared as Pyomo models on the variables of the game's own model.

response    (P_i): what one player would do, the others' variables being Params
projection  the point of X(x_bar) nearest to a target, where own rows hold the others' variables at x_bar
kkt         the conditions (KKT) of all players at once, complementarity relaxed: multiplier times slack <= t
central     the sum of what players gain, over all rows: what one decision maker would do

Nothing is written to the game's model: each of these is a model of its own, whose rows hold the game's variables.
Reference: Scholtes, Convergence properties of a regularization scheme for MPCC, SIAM J. Optim. 11 (2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyomo.environ as pyo
from pyomo.core.expr.calculus.derivatives import Modes, differentiate
from pyomo.core.expr.visitor import identify_mutable_parameters, identify_variables, replace_expressions

from mktopt.errors import FormulationError
from mktopt.formulations.game import Game

VARIATIONAL, GENERALISED = "variational", "generalised"


def limits_of(row: Any) -> tuple[float, float]:
    """Lower and upper limit of a constraint, infinite where there is none."""
    low, _, high = row.to_bounded_expression(True)
    return (-float("inf") if low is None else float(low)), (float("inf") if high is None else float(high))


def response_model(game: Game, position: int, bound_by: Sequence[set[int]], fixed: bool = False) -> Any:
    """The problem (P_i) of the player at `position`, as a ConcreteModel.

    `rows` are its own and the shared rows that hold variables of its own (rows without any cannot be helped by it),
    told by `game.bound_by`. `others[k]`, a mutable Param, is the value of the game's variable k; fixed: they are left
    as they are instead, to be fixed by the caller.
    """
    player, variables, owners = game.players[position], game.variables, game.owners
    model = pyo.ConcreteModel(f"response of {player.name}")
    others = set() if fixed else {k for k, owner in enumerate(owners) if owner != position}
    swap = _others(model, variables, others)
    model.rows = pyo.Constraint(pyo.Any)
    for number, (owner, row) in enumerate(game.rows):
        if owner in (-1, position) and position in bound_by[number]:
            model.rows[number] = _limited(row, swap)
    sense = pyo.maximize if player.maximise else pyo.minimize
    model.payoff = pyo.Objective(expr=_swapped(player.payoff, swap), sense=sense)
    return model


MOVING, FROZEN, JOINT = "moving", "frozen", "joint"


def projection_model(game: Game, rows: str = MOVING, metric: Sequence[float] | None = None) -> Any:
    """min sum_k 1/2 metric_k x_k^2 - target_k x_k over X(x_bar): the point nearest to target_k / metric_k in the metric
    (n,), ones by default. x_bar in `others[k]`; `target`, `others`: mutable Params over the game's variables.

    rows: MOVING: own rows with the others' variables at x_bar, shared rows over all variables jointly; FROZEN: shared
    rows too count as own rows of every player, each with the others at x_bar; JOINT: all rows jointly, x in X(x).
    """
    variables, owners = game.variables, game.owners
    model = pyo.ConcreteModel("projection")
    everyone = range(len(variables))
    model.target = pyo.Param(everyone, mutable=True, initialize=0.0)
    moving = {k: {j for j in everyone if owners[j] != k} for k in range(len(game))}
    model.others = pyo.Param(everyone, mutable=True, initialize=0.0)
    model.rows = pyo.Constraint(pyo.Any)
    for number, ((owner, row), inside) in enumerate(zip(game.rows, game.bound_by, strict=True)):
        if rows == JOINT or (owner < 0 and rows == MOVING):
            model.rows[number, -1] = _limited(row, {})
            continue
        for k in range(len(game)) if owner < 0 else (owner,):
            swap = {id(variables[j]): model.others[j] for j in moving[k]}
            if k in inside:
                model.rows[number, k] = _limited(row, swap)
    # the square of the target moves no argument, and would not be affine in the Params
    weight = [1.0] * len(variables) if metric is None else metric
    squares = sum(0.5 * weight[k] * v**2 - model.target[k] * v for k, v in enumerate(variables))
    model.distance = pyo.Objective(expr=squares)
    return model


def central_model(game: Game) -> Any:
    """Maximise the sum of what all players gain (costs counted negative) over all rows, as a ConcreteModel."""
    model = pyo.ConcreteModel("central")
    model.rows = pyo.Constraint(pyo.Any)
    for number, (_, row) in enumerate(game.rows):
        model.rows[number] = _limited(row, {})
    model.welfare = pyo.Objective(expr=sum(player.utility for player in game.players), sense=pyo.maximize)
    return model


def multiplier_keys(game: Game, kind: str) -> list[tuple[int, int]]:
    """(row, player) of each multiplier; player -1 for one that all share.

    Own rows have their owner's; shared rows one for all (`variational`) or one per player whose variables they hold
    (`generalised`).
    """
    if kind not in (VARIATIONAL, GENERALISED):
        raise FormulationError(f"kind '{kind}' of equilibrium is unknown; take '{VARIATIONAL}' or '{GENERALISED}'")
    keys = []
    bound_by = game.bound_by if kind == GENERALISED else []
    for number, (owner, _) in enumerate(game.rows):
        if owner >= 0 or kind == VARIATIONAL:
            keys.append((number, owner))
        else:
            keys += [(number, player) for player in sorted(bound_by[number])]
    return keys


def kkt_model(game: Game, kind: str = VARIATIONAL) -> Any:
    """The conditions (KKT) of all players as one ConcreteModel without an objective.

    `up[row, player]`, `down[...]` >= 0, `free[...]`: parts of the multiplier y = free + up - down that belong to the
    upper limit, the lower limit, an equation; `bound_up[k]`, `bound_down[k]`: of the bounds of variable k;
    `stationarity[k]`; `rows`; `products`: multiplier times slack <= `t`, a mutable Param.
    """
    rows, variables, owners = game.rows, game.variables, game.owners
    model = pyo.ConcreteModel(f"KKT, {kind}")
    model.t = pyo.Param(mutable=True, initialize=1.0)
    keys = multiplier_keys(game, kind)
    limits = [limits_of(row) for _, row in rows]
    equal = {number for number, (low, high) in enumerate(limits) if low == high}
    model.up = pyo.Var([k for k in keys if k[0] not in equal and limits[k[0]][1] < float("inf")], bounds=(0, None))
    model.down = pyo.Var([k for k in keys if k[0] not in equal and limits[k[0]][0] > -float("inf")], bounds=(0, None))
    model.free = pyo.Var([k for k in keys if k[0] in equal])
    model.bound_up = pyo.Var([k for k, v in enumerate(variables) if v.upper is not None], bounds=(0, None))
    model.bound_down = pyo.Var([k for k, v in enumerate(variables) if v.lower is not None], bounds=(0, None))
    model.rows = pyo.Constraint(range(len(rows)), rule=lambda m, k: _limited(rows[k][1], {}))

    slopes = _slopes(game)
    pull: list[Any] = [0.0] * len(variables)
    for key in keys:
        y = sum(part[key] * sign for part, sign in ((model.up, 1), (model.down, -1), (model.free, 1)) if key in part)
        for k, slope in slopes[key[0]].items():
            if key[1] in (-1, owners[k]):
                pull[k] = pull[k] + y * slope
    for k in range(len(variables)):
        pull[k] = pull[k] + sum(z[k] * s for z, s in ((model.bound_up, 1), (model.bound_down, -1)) if k in z)
    gains = _gains(game)
    model.stationarity = pyo.Constraint(range(len(variables)), rule=lambda m, k: _balance(gains[k] - pull[k]))
    model.products = pyo.ConstraintList()
    for number, player in model.up:
        model.products.add(model.up[number, player] * (limits[number][1] - rows[number][1].body) <= model.t)
    for number, player in model.down:
        model.products.add(model.down[number, player] * (rows[number][1].body - limits[number][0]) <= model.t)
    for k in model.bound_up:
        model.products.add(model.bound_up[k] * (variables[k].upper - variables[k]) <= model.t)
    for k in model.bound_down:
        model.products.add(model.bound_down[k] * (variables[k] - variables[k].lower) <= model.t)
    return model


def _balance(expression: Any) -> Any:
    if isinstance(expression, (int, float)):  # a payoff that pulls without anything to hold it
        return pyo.Constraint.Feasible if expression == 0 else pyo.Constraint.Infeasible
    return expression == 0


def _gains(game: Game) -> list[Any]:
    """The derivative of each player's utility in each of its own variables, as expressions (n,)."""
    return [slope for player in game.players for slope in _derivatives(player.utility, player.variables)]


def _slopes(game: Game) -> list[dict[int, Any]]:
    """For each row its derivatives, by position of the variable."""
    at = {id(v): k for k, v in enumerate(game.variables)}
    found = []
    for _, row in game.rows:
        inside = list(identify_variables(row.body, include_fixed=False))
        found.append({at[id(v)]: slope for v, slope in zip(inside, _derivatives(row.body, inside), strict=True)})
    return found


def _derivatives(expression: Any, variables: Sequence[Any]) -> list[Any]:
    if not any(True for _ in identify_variables(expression, include_fixed=False)):
        return [0.0] * len(variables)
    inside = {id(v) for v in identify_variables(expression, include_fixed=False)}
    used = [v for v in variables if id(v) in inside]
    found = dict(zip(map(id, used), differentiate(expression, wrt_list=used, mode=Modes.reverse_symbolic), strict=True))
    return [found.get(id(v), 0.0) for v in variables]


def _others(model: Any, variables: Sequence[Any], positions: Iterable[int]) -> dict[int, Any]:
    """The variables at `positions` as mutable Params `others` of `model`, by id."""
    positions = sorted(positions)
    model.others = pyo.Param(positions, mutable=True, initialize=0.0)
    return {id(variables[k]): model.others[k] for k in positions}


def _swapped(expression: Any, swap: dict[int, Any]) -> Any:
    """The expression with what is in `swap` replaced, and mutable Params of the game's model at their present values:
    the Params of these models are their own."""
    numbers = {id(param): float(pyo.value(param)) for param in identify_mutable_parameters(expression)}
    return replace_expressions(expression, numbers | swap) if numbers or swap else expression


def _limited(row: Any, swap: dict[int, Any]) -> Any:
    low, high = limits_of(row)
    body = _swapped(row.body, swap)
    if not getattr(body, "is_potentially_variable", lambda: False)() and not swap:
        if low <= pyo.value(body) <= high:
            return pyo.Constraint.Feasible
        body = row.body  # without variables and false: still a row, for solvers to say so
    if low == high:
        return body == low
    return pyo.inequality(None if low == -float("inf") else low, body, None if high == float("inf") else high)
