"""The problems of single players and the projection of a game, solved again and again at other actions of the others.

A problem whose Params enter affinely is compiled once, any other anew for each point. How each is solved, and what is
known of the answer: `game_search.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_search import CONVEX, ENDLESS, TIGHT, best_of, on_a_line, put, solve_exactly
from mktopt.agents.game_units import FloatArray
from mktopt.clearing.optimality import values_kept
from mktopt.errors import FormulationError
from mktopt.formulations.game_models import JOINT, MOVING, projection_model, response_model
from mktopt.solvers import Has, Program, Session, Solution, Status, Stopped, compile, diagnose, is_feasible, solve
from mktopt.solvers.reading.parametric import compile_parametric

_ROUNDING = 1e-9
_SHOWN = 8


class Again:
    """A model with Params as a program at any values of these."""

    def __init__(self, model: Any) -> None:
        self.model = model
        try:
            self._parametric: Any = compile_parametric(model)
        except FormulationError:  # not affine in its Params, unless `compile` objects too
            self._parametric = None
        self._session: Session | None = None

    def program(self, given: Mapping[str, FloatArray]) -> Program:
        """The program with the Params, by name, at these values (in sequence of their index)."""
        if self._parametric is not None:
            theta = self._parametric.theta.copy()
            for name, keys in self._parametric.index.items():
                if name not in given:  # of a row that is a number, and false
                    continue
                start = self._parametric.start[name]
                theta[start : start + len(keys)] = _in_sequence(self.model, name, keys, given[name])
            program: Program = self._parametric.at(theta)
            return program
        for name, values in given.items():
            param = self.model.component(name)
            for key, value in zip(param.index_set(), values, strict=True):
                param[key] = float(value)
        return compile(self.model)

    @property
    def structure(self) -> Program:
        """The program whose columns an answer of `quick` has."""
        program: Program = compile(self.model) if self._parametric is None else self._parametric.program
        return program

    def quick(self, given: Mapping[str, FloatArray]) -> Solution:
        """Solved by a `Session` where the problem is convex: fast, and a little less exact."""
        if self._parametric is None or self._parametric.program.problem_class not in ("QP", "SOCP"):
            return solve(self.program(given))
        if self._session is None:
            self._session = Session(self._parametric, "clarabel", TIGHT)
        for name in set(self._session.names) & set(given):
            self._session.set(name, given[name])
        return self._session.solve()


def _in_sequence(model: Any, name: str, keys: Sequence[Any], values: FloatArray) -> FloatArray:
    if len(keys) == len(values):
        return values
    every = {key: position for position, key in enumerate(model.component(name).index_set())}
    return values[[every[key] for key in keys]]


@dataclass(frozen=True, eq=False)
class Response:
    """What a player would do: values of its variables (none where there is no answer), what it would gain there,
    whether the problem is CONVEX or SAMPLED, and how the search ended."""

    values: FloatArray
    gain: float
    proof: str
    status: Status

    @property
    def unbounded(self) -> bool:
        """Whether its payoff has no limit."""
        return self.status.stopped in ENDLESS

    @property
    def empty(self) -> bool:
        """Whether the others leave it no feasible action."""
        return self.status.stopped is Stopped.INFEASIBLE


class Responses:
    """Best responses of all players of a game.

    fresh: each is read anew from the expressions of the model, with the others' variables fixed for the time being;
    else from what was compiled before.
    """

    def __init__(self, numbers: Numbers, fresh: bool = False) -> None:
        self.numbers, self.fresh = numbers, fresh
        self._own = [np.flatnonzero(numbers.owner == k) for k in range(numbers.players)]
        self._problems: dict[int, Again] = {}

    def own(self, player: int) -> Any:
        """The positions of a player's variables."""
        return self._own[player]

    def _program(self, player: int, x: FloatArray) -> Program:
        """The problem of a player, the others at x."""
        numbers = self.numbers
        others = np.flatnonzero(numbers.owner != player)
        if self.fresh:
            model = response_model(numbers.game, player, numbers.bound_by, fixed=True)
            with _fixed([numbers.variables[j] for j in others]):
                return compile(model)
        if numbers.linear and numbers.quadratic:
            return numbers.sliced(player, x)
        if player not in self._problems:
            self._problems[player] = Again(response_model(numbers.game, player, numbers.bound_by))
        return self._problems[player].program({"others": x[others]})

    def of(self, player: int, x: FloatArray) -> Response:
        """The best response of `player` to the actions x of all (its own are where the search begins)."""
        own = self._own[player]
        if not len(own):  # all that it decides is fixed
            return Response(np.zeros(0), 0.0, CONVEX, Status(Stopped.OPTIMAL, Has.OPTIMAL))
        with values_kept(self.numbers.variables):
            put(self.numbers.variables, x)
            program = _admitting(self._program(player, x), self.numbers.row_sizes(x)[self.numbers.rows_of(player)])
            found, status, proof = _answer(program)
        values = x[own].copy()
        here = float(self.numbers.payoffs(x)[player])
        if not status.ok:
            return Response(values, np.inf if status.stopped in ENDLESS else np.nan, proof, status)
        at = {id(v): k for k, v in enumerate(program.variables)}
        for position, j in enumerate(own):
            column = at.get(id(self.numbers.variables[j]))
            if column is not None:
                values[position] = np.clip(found[column], self.numbers.lower[j], self.numbers.upper[j])
        there = x.copy()
        there[own] = values
        return Response(values, float(self.numbers.payoffs(there)[player]) - here, proof, status)


def _answer(program: Program) -> tuple[FloatArray, Status, str]:
    """Values by column, how the search ended, and what is known of them."""
    line = on_a_line(program)
    if line is not None:
        return np.array([line[0]]), line[1], CONVEX
    solution, proof = best_of(program)
    return solution.x, solution.status, proof


def _admitting(program: Program, sizes: FloatArray) -> Program:
    """The program with limits that the variables' present values touch moved behind these by rounding.

    sizes: of the terms of each row, those of other players' variables included. Where several rows bind, they may leave
    a point alone feasible, which the rounding of others would take away.
    """
    point = np.array([float(variable.value) for variable in program.variables])
    activity, near = program.activity(point), _ROUNDING * sizes
    low, high = program.row_lower, program.row_upper
    room = np.where(low < high, 1e-3 * near, 0.0)
    return program.replace(
        row_lower=np.where(np.abs(low - activity) <= near, np.minimum(low, activity) - room, low),
        row_upper=np.where(np.abs(high - activity) <= near, np.maximum(high, activity) + room, high),
    )


@contextmanager
def _fixed(variables: Sequence[Any]) -> Iterator[None]:
    """The variables fixed at their present values, and free again afterwards, whatever happens."""
    for variable in variables:
        variable.fixed = True
    try:
        yield
    finally:
        for variable in variables:
            variable.fixed = False


class Projector:
    """P onto X(x_bar) in the metric sum_j metric_j (y_j - x_j)^2, all one by default; `rows` as in
    `projection_model`."""

    def __init__(self, numbers: Numbers, rows: str = MOVING, metric: FloatArray | None = None) -> None:
        self.numbers = numbers
        self._box = not numbers.rows
        self._metric = np.ones(numbers.n) if metric is None else metric / float(np.exp(np.log(metric).mean()))
        model = None if self._box else projection_model(numbers.game, rows, self._metric.tolist())
        self._problem = None if model is None else Again(model)
        self._rows = [] if self._problem is None else [number for number, _ in self._problem.model.rows]
        self._columns: Any = [] if self._problem is None else self._problem.structure.columns(numbers.variables)

    def at(self, target: FloatArray, others: FloatArray, exact: bool = False) -> FloatArray | None:
        """The nearest point to `target` (n,), None where the set is empty or no answer was found."""
        numbers = self.numbers
        if self._problem is None:
            return np.asarray(np.clip(target, numbers.lower, numbers.upper))
        given = {"target": self._metric * target, "others": others}
        if exact:
            with values_kept(numbers.variables):
                put(numbers.variables, others)
                program = _admitting(self._problem.program(given), numbers.row_sizes(others)[self._rows])
                solution = solve_exactly(program)
        else:
            solution = self._problem.quick(given)
        if not solution.status.ok:
            return None
        x = solution.x[self._columns]  # every variable has a column, for its distance from the target
        return np.asarray(np.clip(x, numbers.lower, numbers.upper))


def feasible_start(numbers: Numbers, start: FloatArray) -> tuple[FloatArray | None, str]:
    """(the point nearest to `start` in its own set, x in X(x), as far as a local search finds one, else None; why)."""
    if numbers.violation(start) <= 0.0:
        return start, ""
    with values_kept(numbers.variables):
        put(numbers.variables, start)
        found = Projector(numbers, JOINT).at(start, start, exact=True)
    if found is not None:
        return found, ""
    why = conflict(numbers, start)
    return None, f"infeasible: {why}" if why else "no feasible point: no x in X(x) was found near the start"


def conflict(numbers: Numbers, start: FloatArray) -> str:
    """Why no x satisfies all rows and bounds at once, '' where some x does, or nothing was proved.

    Every equilibrium satisfies them all. What is in conflict is named by `diagnose`.
    """
    with values_kept(numbers.variables):
        put(numbers.variables, start)
        model = projection_model(numbers.game, JOINT)
        program = compile(model)
        if program.not_convex or is_feasible(program) is not False:
            return ""
        named = {id(model.rows[key]): numbers.rows[key[0]][1] for key in model.rows}
        program = program.replace(rows=[named[id(row)] for row in program.rows])
        names = ", ".join(f"{member}" for member in diagnose(program).conflict[:_SHOWN]) or program.impossible
    return f"no actions satisfy all rows and bounds at once; these cannot hold together: {names}"
