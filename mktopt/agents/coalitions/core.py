"""The core, the least core, and whether given payoffs are in the core.

    core         { x : x(N) = v(N),  x(S) >= v(S) for all S }                      no group gains by leaving
    least core   min e   s.t.   x(N) = v(N),  x(S) >= v(S) - e for all S but N and the empty one

e <= 0: the core is not empty, and every group has at least -e more than by itself. e > 0: it is empty, and e is what
each group would have to lose by leaving for payoffs to hold. The weights y_S of the coalitions that stand in the way
(sum y = 1, every player in coalitions of the same total weight m) prove it without any search:

    e = sum_S y_S v(S) - m v(N)

References: Gillies (1959); Maschler, Peleg, Shapley, Math. Oper. Res. 4 (1979); Bondareva (1963); Shapley (1967).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.generation import Generation, Step
from mktopt.agents.coalitions.masks import FloatArray, Span, masks_of, rows_of
from mktopt.agents.coalitions.oracles import Oracle, oracle_for
from mktopt.agents.coalitions.values import NOTHING, Coalition, CoalitionGame, Payoffs, checked_tolerance, label


@dataclass(frozen=True)
class CoreTest:
    """Whether payoffs are in the core; true or false as such.

    inside: no group gains by leaving, and v(N) is paid out in full, within the tolerance. blocking: the group that
    would gain most by leaving (None: none would), by `excess` [$]; budget: what is paid out beyond v(N) [$];
    proved: False where the search for groups was not exact and found none.
    """

    inside: bool
    blocking: Coalition | None
    excess: float
    budget: float
    proved: bool

    def __bool__(self) -> bool:
        return self.inside

    def __str__(self) -> str:
        if self.inside:
            sure = "" if self.proved else ", as far as was searched"
            return f"in the core{sure}: no group gains more than {self.excess:.3g} $"
        if self.blocking is not None:
            return f"not in the core: {label(self.blocking)} gains {self.excess:.6g} $ by leaving"
        return f"not in the core: payoffs sum to {self.budget:.6g} $ more than v(N)"


@dataclass(frozen=True, eq=False)
class LeastCore:
    """A point of the least core with its proof.

    payoffs: one of its points, by player [$] (it may have others: the nucleolus is unique); epsilon: the greatest
    excess [$], <= 0 where the core is not empty; weights: {coalition: y_S}, the proof that no payoffs do better;
    proved: whether the oracle was exact (else epsilon is a lower bound); evaluated: values computed for it.
    """

    payoffs: pd.Series[float]
    epsilon: float
    weights: Mapping[Coalition, float]
    proved: bool
    evaluated: int


def excess(game: CoalitionGame, coalition: Iterable[str], payoffs: Payoffs) -> float:
    """v(S) - sum_{i in S} x_i [$]: what `coalition` would gain by leaving."""
    row = rows_of([game.mask(coalition)], game.n)[0]
    return game.value(coalition) - float(row @ game.vector(payoffs)) + 0.0


def in_core(
    game: CoalitionGame, payoffs: Payoffs, *, oracle: Oracle | None = None, tolerance: float = 1e-7
) -> CoreTest:
    """Whether `payoffs` [$] are in the core, or which group would gain most by leaving.

    payoffs: by player, or (n,) in their order. tolerance: share of the greatest of |v(N)| and the payoffs that counts
    as nothing. oracle: how to find the group; by default all are looked at, which takes at most 20 players (15 where
    values must be computed; FormulationError above).
    """
    x = game.vector(payoffs)
    oracle = oracle_for(game, oracle)
    grand = game.value(game.all)
    small = checked_tolerance(tolerance) * max(abs(grand), float(np.abs(x).max())) + NOTHING
    budget = float(x.sum()) - grand
    rows = oracle.worst(x, Span(game.n, [np.ones(game.n, dtype=bool)]), 1)
    gains, blocking = -np.inf, None
    if len(rows):
        gains = float(game.of_rows(rows[:1])[0] - rows[0] @ x)
        blocking = game.coalition(masks_of(rows[:1])[0])
    if -budget > gains:
        gains, blocking = -budget, game.all
    found = blocking if gains > small else None
    inside = found is None and budget <= small
    return CoreTest(inside, found, gains + 0.0, budget, oracle.exact or not inside)


def least_core(game: CoalitionGame, *, oracle: Oracle | None = None) -> LeastCore:
    """A point of the least core; coalitions enter its linear program only where they are violated.

    oracle: who finds them; by default all are looked at, which takes at most 20 players (15 where values must be
    computed; FormulationError above, which says what else there is). Raises SolverError where an LP fails.
    """
    before = game.evaluated
    oracle = oracle_for(game, oracle)
    generation = Generation(game, oracle)
    step = first_step(generation)
    unit = generation.unit
    weights = dict(zip(map(game.coalition, masks_of(step.rows)), step.weights.tolist(), strict=True))
    payoffs = game.series(generation.payoffs(step.payoffs))
    return LeastCore(payoffs, unit * step.epsilon + 0.0, weights, oracle.exact, game.evaluated - before)


def first_step(generation: Generation, floor: FloatArray | None = None) -> Step:
    """The least core in units of the normal game; a single player has no coalition that could leave: epsilon 0."""
    n = generation.n
    everyone = np.ones((1, n), dtype=bool)
    right = generation.normal(everyone, np.array([generation.grand]))
    if n == 1:
        return Step(right, 0.0, np.zeros((0, 1), dtype=bool), np.zeros(0), np.zeros(1))
    return generation.lowest(Span(n, list(everyone)), everyone.astype(float), right, floor)
