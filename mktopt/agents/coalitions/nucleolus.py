"""The nucleolus: the payoffs whose excesses, the greatest first, are lexicographically least.

Least cores within least cores: of each linear program

    min e    s.t.   x(S) >= v(S) - e  for S not settled,   x(S) = v(S) - e_S  for S settled,   x_i >= v({i})

the coalitions with a positive weight y_S have excess e in every optimum; they are settled, and with them every
coalition in the span of the settled ones, whose payoff follows. Each round raises the rank, so there are at most n - 1.

It is unique; it lies in the core where there is one. Without x_i >= v({i}) it is the prenucleolus.
Proof (Kohlberg): x is the prenucleolus if and only if for every level t the coalitions of excess >= t are balanced:
they have positive weights in which every player counts the same. For the nucleolus, players at x_i = v({i}) may count
less.
References: Schmeidler (1969); Kohlberg, SIAM J. Appl. Math. 20 (1971); Maschler, Peleg, Shapley (1979);
Potters, Reijnierse, Ansing (1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.core import first_step
from mktopt.agents.coalitions.generation import WEIGHT, Generation, Step, linear
from mktopt.agents.coalitions.masks import BoolArray, FloatArray, Span, masks_of, rows_of, sums
from mktopt.agents.coalitions.oracles import Callback, Oracle, oracle_for
from mktopt.agents.coalitions.values import NOTHING, Coalition, CoalitionGame, Payoffs, checked_tolerance
from mktopt.errors import FormulationError, SolverError
from mktopt.solvers.solution import Stopped
from mktopt.solvers.table import solve


@dataclass(frozen=True, eq=False)
class Nucleolus:
    """The nucleolus. payoffs: by player [$]; epsilons: the excess [$] settled in each round, falling; settled: the
    coalitions of each round; proved: whether the oracle was exact; evaluated: values computed for it."""

    payoffs: pd.Series[float]
    epsilons: tuple[float, ...]
    settled: tuple[tuple[Coalition, ...], ...]
    proved: bool
    evaluated: int


def nucleolus(game: CoalitionGame, *, oracle: Oracle | None = None, individually_rational: bool = True) -> Nucleolus:
    """The nucleolus of `game`, or with individually_rational=False its prenucleolus, [$].

    oracle: who finds violated coalitions; by default all are looked at (at most 20 players, 15 where values must be
    computed; FormulationError above). Excesses within about 1e-8 of what the players gain together count as equal.
    Raises FormulationError where v(N) is less than the players have by themselves,
    so that no payoffs are individually rational, and SolverError where an LP fails.
    """
    before = game.evaluated
    oracle = oracle_for(game, oracle)
    if isinstance(oracle, Callback):
        raise FormulationError(
            "the nucleolus asks for the worst coalition outside a span, which a Callback cannot know; use least_core"
            " with it, or oracle=LocalSearch(game)"
        )
    generation = Generation(game, oracle)
    floor = _floor(generation) if individually_rational else None
    rounds, x = _rounds(generation, floor)
    epsilons = tuple(generation.unit * step.epsilon for step in rounds)
    settled = tuple(tuple(game.coalition(mask) for mask in masks_of(step.rows)) for step in rounds)
    payoffs = game.series(generation.payoffs(x))
    return Nucleolus(payoffs, epsilons, settled, oracle.exact, game.evaluated - before)


def _floor(generation: Generation) -> FloatArray:
    own, grand = generation.own, generation.grand
    lack = float(own.sum()) - grand
    if lack > 1e-9 * float(np.abs(own).sum() + abs(grand)):
        raise FormulationError(
            f"no payoffs are individually rational: the players have {own.sum():.6g} $ by themselves and v(N) ="
            f" {grand:.6g} $ together; ask for the prenucleolus, individually_rational=False"
        )
    floor = generation.normal(np.eye(generation.n, dtype=bool), own)
    return np.asarray(floor - max(0.0, lack) / generation.unit / generation.n)  # rounding must not empty the set


def _rounds(generation: Generation, floor: FloatArray | None) -> tuple[list[Step], FloatArray]:
    """The rounds, and the payoffs that they leave, in units of the normal game."""
    n = generation.n
    everyone = np.ones(n, dtype=bool)
    span = Span(n, [everyone])
    equations = [everyone.astype(float)]
    right = [float(generation.normal(everyone[None], np.array([generation.grand]))[0])]
    rounds = [first_step(generation, floor)]
    while True:
        step, before = rounds[-1], span.rank
        worth = generation.normal(step.rows, generation.game.of_rows(step.rows)) if len(step.rows) else np.zeros(0)
        for row, value in zip(step.rows, worth, strict=True):
            if span.add(row):
                equations.append(row.astype(float))
                right.append(float(value) - step.epsilon)
        for player in np.flatnonzero(step.floor_weights > WEIGHT):
            single = np.arange(n) == player
            if floor is not None and span.add(single):
                equations.append(single.astype(float))
                right.append(float(floor[player]))
        if span.rank == n:
            return rounds, np.linalg.solve(np.array(equations), np.array(right))
        if span.rank == before:
            raise SolverError(f"round {len(rounds)} of the nucleolus settled no coalition (multipliers all zero)")
        rounds.append(generation.lowest(span, np.array(equations), np.array(right), floor))


# -- proof -----------------------------------------------------------------------------------------------------------


def kohlberg(
    game: CoalitionGame, payoffs: Payoffs, *, individually_rational: bool = True, tolerance: float = 1e-6
) -> bool:
    """Whether `payoffs` are the nucleolus (the prenucleolus with individually_rational=False), by Kohlberg's criterion.

    It looks at all coalitions (at most 20 players) and knows nothing of how payoffs were found. tolerance: share of
    what groups are worth or gain together, whichever is less, within which excesses are equal and limits bind.
    """
    x = game.vector(payoffs)
    values = game.table()
    own = values[1 << np.arange(game.n)]
    rounding = 1e-12 * max(float(np.abs(values).max()), float(np.abs(x).max())) + NOTHING
    small = checked_tolerance(tolerance) * min(_size(values), _size(values - sums(own))) + rounding
    if abs(float(x.sum()) - float(values[-1])) > small or (individually_rational and bool((x < own - small).any())):
        return False
    at_floor = np.flatnonzero(x <= own + small) if individually_rational else np.zeros(0, dtype=np.int64)
    gains = values - sums(x)
    span = Span(game.n, [np.ones(game.n, dtype=bool)])
    while span.rank < game.n:
        outside = span.all_outside()
        level = float(gains[outside].max())
        top = rows_of(np.flatnonzero(outside & (gains >= level - small)).tolist(), game.n)
        if not _balanced(top, np.eye(game.n, dtype=bool)[at_floor], span):
            return False
        for row in top:
            span.add(row)
    return True


def _size(values: FloatArray) -> float:
    return max(float(values.max()), abs(float(values[-1])))


def _balanced(rows: BoolArray, free: BoolArray, span: Span) -> bool:
    """Whether weights y > 0 of `rows` and z >= 0 of `free` exist with  rowsᵀ y + freeᵀ z  in the span.

    The span is that of coalitions that are balanced themselves: adding much of these makes any weight there positive.
    """
    both = np.vstack([rows, free]).astype(float)
    off = both - (both @ span.basis.T) @ span.basis
    off[np.abs(off) < 1e-12] = 0.0
    zero = np.zeros(span.n)
    lower = np.r_[np.ones(len(rows)), np.zeros(len(free))]
    answer = solve(linear(off.T, zero, zero, np.ones(len(both)), lower), "highs")
    return answer.status.stopped is Stopped.OPTIMAL and answer.status.ok
