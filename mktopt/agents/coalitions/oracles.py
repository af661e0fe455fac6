"""Who finds the coalition that is treated worst by given payoffs: the heart of every search among 2^n coalitions.

    e(S, x) = v(S) - sum_{i in S} x_i  [$]     the excess: what S could gain by leaving

An oracle has `exact`, whether nothing worse than what it finds exists, and

    worst(payoffs (n,), settled, count) -> rows of yes and no (k, n), k <= count

the coalitions of greatest excess outside the span `settled`, the worst first. `Exhaustive` looks at all coalitions, but
computes only those values that known bounds do not rule out; `Bounding` (in `bounding`) proves the worst of tens of
players from such bounds; `LocalSearch` climbs from coalition to coalition; a `Callback` is a search of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, Span, masks_of, rows_of, sums
from mktopt.agents.coalitions.values import BOUND_ERROR, MOST_LISTED, NOTHING, Coalition, CoalitionGame, label
from mktopt.errors import FormulationError

# Up to here all values are computed without being asked twice: 32,767 of them.
MOST_COMPUTED = 15
# Each bound costs a pass over all coalitions; of more that come at once some are left out.
_MOST_BOUNDS = 256


class Oracle(Protocol):
    """What `least_core`, `nucleolus` and the others ask for coalitions; see the module."""

    exact: bool

    def worst(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """Up to `count` coalitions (k, n) of greatest excess outside `settled`, the worst first."""


def oracle_for(game: CoalitionGame, oracle: Oracle | None) -> Oracle:
    """The oracle given, or the exhaustive one where the game is small enough. Raises FormulationError where it is
    not, and for an oracle of another game."""
    if oracle is None:
        return Exhaustive(game)
    if getattr(oracle, "game", game) is not game:
        raise FormulationError(f"the {type(oracle).__name__} given searches another game: make one of this game")
    return oracle


class Exhaustive:
    """All coalitions: exact. Values that are not known are computed all at once, or, where the game brings bounds, one
    portion after the other until no bound lets an unknown value be the worst. It is as exact as the bounds are: a value
    above one of them is refused where it is met, from a millionth of the greatest value on.

    limit: the most players; by default 20 where all values are known or bring bounds, else 15. Raises FormulationError
    above it.
    """

    exact = True

    def __init__(self, game: CoalitionGame, limit: int | None = None) -> None:
        if game.n <= MOST_LISTED:
            game.value(game.all)  # which also tells whether values bring bounds
        most = MOST_LISTED if game.tabulated or game.bounds else MOST_COMPUTED
        most = min(most if limit is None else limit, MOST_LISTED)
        if game.n > most:
            raise FormulationError(
                f"{game.n} players form {2**game.n - 1:,} coalitions; an exhaustive search takes at most {most} players"
                f" (Exhaustive(game, limit=...) up to {MOST_LISTED}). Search with oracle=Bounding(game) where values"
                " bring bounds, with LocalSearch(game), whose answer is not proved, or with a Callback of your own; or"
                " sample: shapley_sampled(game)"
            )
        self.game = game
        self._upper = np.full(2**game.n, np.inf)
        self._taken = 0
        if not game.bounds:
            game.table()

    def worst(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """See `Oracle`."""
        game = self.game
        paid, closed = sums(payoffs), ~settled.all_outside()
        count = min(count, 2**game.n)
        while True:
            known = game.known
            unknown = np.isnan(known)
            upper = self._bounded() if unknown.any() else self._upper
            score = np.where(unknown, upper, known) - paid
            score[closed] = -np.inf
            top = np.argpartition(score, -count)[-count:]
            top = top[np.argsort(-score[top], kind="stable")]
            top = top[np.isfinite(score[top]) | unknown[top] & ~closed[top]]
            if not len(top) or not unknown[top[0]]:
                return rows_of(top[~unknown[top]].tolist(), game.n)
            game.values_at(top[unknown[top]].tolist())

    def _bounded(self) -> FloatArray:
        """The least bound known of every value (2^n,). Raises FormulationError where a value is above a bound: then
        others were ruled out wrongly."""
        fresh = self.game.bounds[self._taken :]
        for constant, weights in fresh[:: 1 + len(fresh) // _MOST_BOUNDS]:  # fewer rule out less, but nothing wrongly
            np.minimum(self._upper, constant + sums(weights), out=self._upper)
        if self._taken == len(self.game.bounds):
            return self._upper
        self._taken = len(self.game.bounds)
        known = self.game.known
        small = BOUND_ERROR * float(np.nanmax(np.abs(known))) + NOTHING
        above = np.flatnonzero(known > self._upper + small)
        if len(above):
            group = label(self.game.coalition(int(above[0])))
            raise FormulationError(
                f"{group} is worth {known[above[0]]:.9g}, and a bound of another coalition says at most"
                f" {self._upper[above[0]]:.9g}: give values without bounds if these do not hold for every coalition"
            )
        return self._upper


class LocalSearch:
    """Steepest ascent of the excess: from the worst coalitions known, and from `starts` random ones, one player in or
    out at a time. Not exact: what it finds is there, what it does not find may be there all the same.

    seed: a seed or numpy Generator.
    """

    exact = False

    def __init__(self, game: CoalitionGame, starts: int = 4, seed: int | np.random.Generator = 0) -> None:
        self.game, self.starts, self._rng = game, starts, np.random.default_rng(seed)
        self._eye = np.eye(game.n, dtype=bool)
        self._seen: set[int] = {0}
        self._rows, self._worth = np.zeros((0, game.n), dtype=bool), np.zeros(0)
        self._look(np.vstack([self._eye, rows_of(game.known_coalitions(), game.n).reshape(-1, game.n)]))

    def worst(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """See `Oracle`."""
        random = self._rng.uniform(size=(self.starts, self.game.n)) < self._rng.uniform(size=(self.starts, 1))
        for row in [*self._found(payoffs, settled, self.starts), *random[settled.outside(random)]]:
            self._climb(row, payoffs, settled)
        return self._found(payoffs, settled, count)

    def _climb(self, row: BoolArray, payoffs: FloatArray, settled: Span) -> None:
        here = float(self._look(row[None])[0] - row @ payoffs)
        while True:
            near = row ^ self._eye
            near = near[settled.outside(near)]
            if not len(near):
                return
            excess = self._look(near) - near @ payoffs
            best = int(excess.argmax())
            if excess[best] <= here + 1e-12 * max(1.0, abs(here)):
                return
            row, here = near[best], float(excess[best])

    def _look(self, rows: BoolArray) -> FloatArray:
        """The values of rows (k, n), which are remembered."""
        masks = masks_of(rows)
        values = self.game.values_at(masks)
        fresh = [k for mask, k in {mask: k for k, mask in enumerate(masks)}.items() if mask not in self._seen]
        self._seen.update(masks)
        if fresh:
            self._rows = np.vstack([self._rows, rows[fresh]])
            self._worth = np.r_[self._worth, values[fresh]]
        return values

    def _found(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """The `count` coalitions of greatest excess among those seen."""
        excess = self._worth - self._rows @ payoffs
        excess[~settled.outside(self._rows)] = -np.inf
        top = np.argsort(-excess, kind="stable")[:count]
        return np.asarray(self._rows[top[np.isfinite(excess[top])]])


class Callback:
    """A search of the user's own: `find(payoffs)` takes a Series by player [$] and gives coalitions (sets of names),
    the one of greatest excess v(S) - x(S) among them. exact: whether none has a greater one, as a solver proved.

    It serves the core and the least core. The nucleolus also asks for the worst coalition outside a span, which such a
    search cannot know; it refuses a Callback.
    """

    def __init__(
        self, game: CoalitionGame, find: Callable[[pd.Series[float]], Iterable[Coalition]], exact: bool = False
    ) -> None:
        self.game, self.find, self.exact = game, find, exact

    def worst(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """See `Oracle`; more than `count` where the search gives more."""
        given = self.find(self.game.series(payoffs))
        if not isinstance(given, Iterable):
            raise FormulationError(f"the search found {given!r}; it must give coalitions, or none: an empty list")
        found = [self.game.mask(coalition) for coalition in given]
        rows = rows_of(dict.fromkeys(found), self.game.n).reshape(-1, self.game.n)
        rows = rows[settled.outside(rows)]
        if not len(rows):
            return rows
        excess = self.game.values_at(masks_of(rows)) - rows @ payoffs
        return np.asarray(rows[np.argsort(-excess, kind="stable")])
