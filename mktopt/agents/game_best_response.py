"""Best responses in turn: every player does what is best for it given what the others do.

    gauss-seidel   one player after the other, each sees what those before it have just done
    jacobi         all at once
    x_i+ = (1 - damping) x_i + damping * (best response)          damping = 1: the response itself

A fixed point is a generalised Nash equilibrium, by definition and whatever the shape of payoffs, as far as each
response is global. It need not be variational where rows are shared: who came first keeps what it took. There is no
guarantee of convergence (there is for potential games, and where responses contract); cycles are reported with their
period. Reference: Facchinei and Kanzow, 4OR 5 (2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_problems import Responses, feasible_start
from mktopt.agents.game_run import CONVERGED, DIVERGES, NONE_FOUND, STOPPED, Run, period_of, ran_off
from mktopt.agents.game_units import FloatArray
from mktopt.errors import unknown_name

SWEEPS = ("gauss-seidel", "jacobi")


def iterate(
    numbers: Numbers,
    start: FloatArray,
    tol: float,
    max_iterations: int,
    sweep: str = "gauss-seidel",
    damping: float = 1.0,
) -> Run:
    """Sweeps of best responses from `start` (n,), until no action changes by more than `tol` of its size."""
    if sweep not in SWEEPS:
        raise unknown_name("sweep", sweep, SWEEPS)
    responses = Responses(numbers)
    feasible, why = feasible_start(numbers, start)  # else the first player may have no feasible action at all
    if feasible is None:
        return Run(start, NONE_FOUND, why, [])
    x, trace = feasible.copy(), list[dict[str, Any]]()
    unit = numbers.units(x).action
    points = [x / unit]
    for k in range(max_iterations):
        before = x.copy()
        x = x.copy()
        gains = np.zeros(numbers.players)
        for player in range(numbers.players):
            seen = x if sweep == "gauss-seidel" else before
            found = responses.of(player, seen)
            if not found.status.ok:
                return _no_answer(numbers, player, found, x, k, trace)
            gains[player] = found.gain
            own = responses.own(player)
            x[own] = (1.0 - damping) * before[own] + damping * found.values
        change = float((np.abs(x - before) / numbers.units(x).action).max(initial=0.0))
        trace.append({"iteration": k, "change": change, "gain": float(gains.max(initial=0.0))})
        points.append(x / unit)
        if change <= damping * tol:
            return Run(x, CONVERGED, f"no player changes its action by more than {change:.1e} of its size", trace)
        if ran_off(x, unit):
            return Run(x, DIVERGES, "the actions grow without limit", trace)
        if n := period_of(points):
            why = f"the last {3 * n} points of {sweep} sweeps repeat themselves"
            return Run(x, f"cycles with period {n}", why, trace)
    why = f"actions still change by {trace[-1]['change']:.1e} of their sizes after {max_iterations} sweeps"
    return Run(x, STOPPED, why, trace)


def _no_answer(numbers: Numbers, player: int, found: Any, x: FloatArray, k: int, trace: list[dict[str, Any]]) -> Run:
    name = numbers.game.players[player].name
    if found.unbounded:
        why = f"the payoff of player '{name}' has no limit at the others' actions of sweep {k}; bound its variables"
        return Run(x, NONE_FOUND, why, trace)
    if found.empty:
        why = f"the others' actions of sweep {k} leave player '{name}' no feasible action; damp, or start elsewhere"
        return Run(x, STOPPED, why, trace)
    return Run(x, STOPPED, f"the problem of player '{name}' has no answer in sweep {k} ({found.status})", trace)
