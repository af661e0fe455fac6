"""The conditions of all players at once, as a complementarity problem by IPOPT along a relaxation path.

    stationarity of every player, all rows and bounds, multipliers >= 0, multiplier times slack <= t,    t -> 0

From each start t falls from 1 to 1e-9 (times the size of slopes and actions, a payoff), every program starting at the
answer of the last. After each, Newton's method on the piecewise smooth form of the conditions (`game_conditions.py`)
tries to get to the solution itself; the column `t` of the trace says how far t had come by then. Starts after the
first try Newton's method alone before, so that equilibria far from the middle of the path are found as well. A point
of the conditions is an equilibrium where each player's problem is convex; elsewhere it is one only if the player's
best responses say so too, which is checked for each; a player who can gain sends the search to where it would rather
be.
References: Scholtes, SIAM J. Optim. 11 (2001); Dreves, Facchinei, Kanzow and Sagratella, SIAM J. Optim. 21 (2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.agents.game_conditions import Conditions
from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_problems import Responses, conflict
from mktopt.agents.game_run import CONVERGED, NONE_FOUND, Run
from mktopt.agents.game_search import put, scattered
from mktopt.agents.game_units import FloatArray
from mktopt.clearing.optimality import values_kept
from mktopt.formulations.game_models import kkt_model
from mktopt.solvers import Program, compile, solve

_PATH = tuple(10.0**-k for k in range(10))
_EXACT = 1e-10
_SAME = 1e-5


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Where one start led: point, multipliers, largest residual of the conditions, and what IPOPT said last."""

    x: FloatArray
    y: FloatArray
    residual: float
    said: str
    least_t: float


def search(
    numbers: Numbers, start: FloatArray, kind: str, tol: float, starts: int = 4, all_starts: bool = False
) -> Run:
    """Equilibria by the path above, from `start` (n,) and from starts - 1 points scattered over the bounds.

    tol: on the gain of players, relative to payoffs, and on the residual; all_starts: go on after the first
    equilibrium, to see whether others exist. After a point that a player would leave the search goes on from where it
    would go, at most as often as there are starts.
    """
    path = _Path(numbers, kind)
    responses = Responses(numbers)
    unit = numbers.units(start).action
    points = [start, *scattered(numbers.lower, numbers.upper, starts - 1, unit)] if starts > 1 else [start]
    trace: list[dict[str, Any]] = []
    kept: list[_Candidate] = []
    refused: list[tuple[_Candidate, str]] = []
    number = 0
    while points:
        candidate = path.follow(points.pop(0), number, trace)
        number += 1
        if not candidate.residual <= max(_EXACT, 1e-2 * tol):
            refused.append((candidate, ""))
            continue
        why, better = ("", None) if numbers.sufficient else _who_gains(numbers, responses, candidate.x, tol)
        trace[-1]["gains"] = why
        if why:
            refused.append((candidate, why))
            if better is not None and number < 2 * starts:  # where a player would rather be, others may follow
                points.insert(0, better)
            continue
        if all(np.abs(candidate.x - k.x).max() > _SAME * max(1.0, np.abs(k.x).max()) for k in kept):
            kept.append(candidate)
        if not all_starts:
            break
    if kept:
        first = kept[0]
        how = f"least t {first.least_t:.0e}" if np.isfinite(first.least_t) else first.said
        reason = f"residual of the conditions {first.residual:.1e}, {how}"
        return Run(first.x, CONVERGED, reason, trace, first.y, [k.x for k in kept[1:]])
    return _nothing(numbers, refused, trace)


def _who_gains(numbers: Numbers, responses: Responses, x: FloatArray, tol: float) -> tuple[str, FloatArray | None]:
    """Which player gains by leaving x, '' where none does; and the point that it leaves for."""
    scale = numbers.units(x).payoff
    for player in range(numbers.players):
        found = responses.of(player, x)
        name = numbers.game.players[player].name
        if found.unbounded:
            return f"player '{name}' gains without limit", None
        if found.status.ok and found.gain > tol * scale[player]:
            there = x.copy()
            there[responses.own(player)] = found.values
            return f"player '{name}' gains {found.gain:.3g} by leaving it", there
    return "", None


def _nothing(numbers: Numbers, refused: list[tuple[_Candidate, str]], trace: list[dict[str, Any]]) -> Run:
    """No equilibrium: what was found instead, and what that proves."""
    necessary = (
        "all rows are linear, so that an equilibrium would satisfy these conditions"
        if numbers.linear
        else "an equilibrium would satisfy these conditions wherever a constraint qualification holds"
    )
    left = [(candidate, why) for candidate, why in refused if why]
    if left:
        best = left[0]
        reason = (
            f"{len(left)} of {len(refused)} starts led to a point of the KKT conditions that is no equilibrium:"
            f" {best[1]} (the problem of a player is not convex)"
        )
        return Run(best[0].x, NONE_FOUND, reason, trace, best[0].y)
    why = conflict(numbers, refused[0][0].x)
    if why:
        return Run(refused[0][0].x, NONE_FOUND, f"infeasible: {why}", trace, refused[0][0].y)
    nearest = min((candidate for candidate, _ in refused), key=lambda item: item.residual)
    how_far = f"least t {nearest.least_t:.0e}" if np.isfinite(nearest.least_t) else "not even relaxed to t = 1"
    reason = (
        f"no KKT point from {len(refused)} starts: largest residual {nearest.residual:.1e}, {how_far} ({nearest.said});"
        f" {necessary}, but the search is local"
    )
    return Run(nearest.x, NONE_FOUND, reason, trace, nearest.y)


class _Path:
    """The relaxed program, compiled once, and the path along which t falls."""

    def __init__(self, numbers: Numbers, kind: str) -> None:
        self.numbers = numbers
        self.model = kkt_model(numbers.game, kind)
        self.conditions = Conditions(numbers, kind)
        self.program = compile(self.model)
        self.products = self.program.row_indices(self.model.products.values())

    def follow(self, start: FloatArray, number: int, trace: list[dict[str, Any]]) -> _Candidate:
        """Where the path from `start` leads."""
        numbers, program = self.numbers, self.program
        self.conditions.measure(start)
        none = np.zeros(len(self.conditions.keys))
        best = _Candidate(start, none, np.inf, "", np.inf)
        if number:  # the path from anywhere leads through the middle first: look nearby before
            x, y, residual = self.conditions.newton(start, none)
            best = _Candidate(x, y, residual, "Newton's method from the start", np.inf)
            if residual <= _EXACT:
                trace.append({"start": number, "t": np.nan, "status": best.said, "residual": residual, "gains": ""})
                return best
        with values_kept(numbers.variables):
            put(numbers.variables, start)
            self._start_multipliers()
            worth = float((self.conditions.unit * self.conditions.slope).max(initial=0.0))
            for t in _PATH:
                solution = solve(self._at(t * worth), "ipopt")
                said = str(solution.status)
                if len(solution.x) == program.n:
                    put(program.variables, solution.x)
                x, y = self._now(program, solution.x, start)
                self.conditions.measure(x)
                x, y, residual = self.conditions.newton(x, y)
                least = t if solution.status.ok else best.least_t
                if residual <= best.residual:
                    best = _Candidate(x, y, residual, said, least)
                trace.append({"start": number, "t": t, "status": said, "residual": residual, "gains": ""})
                if residual <= _EXACT or not solution.status.ok:
                    break
        return _Candidate(best.x, best.y, best.residual, said, best.least_t)

    def _start_multipliers(self) -> None:
        """Multipliers in the interior, at a tenth of their units."""
        model, conditions = self.model, self.conditions
        for part in (model.up, model.down, model.free):
            for key, variable in part.items():
                variable.set_value(0.0 if part is model.free else 0.1 * conditions.money[conditions.keys.index(key)])
        for part in (model.bound_up, model.bound_down):
            for k, variable in part.items():
                variable.set_value(0.1 * conditions.slope[k])

    def _at(self, t: float) -> Program:
        upper = self.program.row_upper.copy()
        base = self.program.row_upper[self.products] - 1.0  # compiled at t = 1, constants moved to the limit
        upper[self.products] = base + t
        return self.program.replace(row_upper=upper)

    def _now(self, program: Program, found: FloatArray, start: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Point and multipliers by key, from a point of the program."""
        if len(found) != program.n:
            return start, np.zeros(len(self.conditions.keys))
        x = np.asarray(program.values(found, self.numbers.variables))
        y = np.zeros(len(self.conditions.keys))
        parts = ((self.model.up, 1.0), (self.model.down, -1.0), (self.model.free, 1.0))
        for position, key in enumerate(self.conditions.keys):
            y[position] = sum(sign * float(part[key].value) for part, sign in parts if key in part)
        return x, y
