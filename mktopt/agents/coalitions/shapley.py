"""The Shapley value: what a player adds on average to those who came before it, over all orders of arrival.

    phi_i = sum_{S without i}  |S|! (n - |S| - 1)! / n!  (v(S + i) - v(S))

The only payoffs that are efficient, symmetric, additive and give a null player nothing. They need not be in the core.

Sampled from permutations in independent blocks, whose means give the standard error:

    permutation   one at a time
    antithetic    a permutation and its reverse: who came early comes late
    stratified    a permutation and its n - 1 rotations: every player stands at every position once

Each block is efficient and unbiased, so their mean is, too. Its error is estimated from how blocks differ: honest
where there are some tens of them (few permutations are few blocks, of n each if stratified), and where what a player
adds does not hang on coalitions so rare that none was drawn.
References: Shapley (1953); Castro, Gomez, Tejada, Comput. Oper. Res. 36 (2009) and 82 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import comb
from operator import or_

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.coalitions.masks import FloatArray, sizes
from mktopt.agents.coalitions.values import MOST_LISTED, CoalitionGame, checked_tolerance
from mktopt.errors import FormulationError, unknown_name

METHODS = ("antithetic", "stratified", "permutation")
# Up to here values are computed for an exact answer: 4,095 of them.
MOST_EXACT = 12
# Permutations whose values are asked for at once.
_BATCH = 64
# Blocks before their spread is trusted.
_TRUSTED = 30


@dataclass(frozen=True, eq=False)
class Shapley:
    """The Shapley value. payoffs, standard_errors: by player [$], the errors 0 where exact; permutations: how many were
    sampled, in how many independent blocks, both 0 where exact; evaluated: values computed for it."""

    payoffs: pd.Series[float]
    standard_errors: pd.Series[float]
    permutations: int
    blocks: int
    evaluated: int

    @property
    def exact(self) -> bool:
        """Whether all coalitions were counted."""
        return self.permutations == 0

    def intervals(self, confidence: float = 0.95) -> pd.DataFrame:
        """Between what limits the exact values are, each with probability `confidence`: player, payoff, low, high [$].

        By Student's t with as many degrees of freedom as there are blocks, less one. Raises FormulationError where
        `confidence` is not between 0 and 1.
        """
        from scipy.special import stdtrit

        if not 0.0 < confidence < 1.0:
            raise FormulationError(f"confidence={confidence}: it must be between 0 and 1")
        width = 0.0 if self.exact else float(stdtrit(self.blocks - 1, 0.5 + 0.5 * confidence))
        reach = width * self.standard_errors
        columns = {"payoff": self.payoffs, "low": self.payoffs - reach, "high": self.payoffs + reach}
        return pd.DataFrame(columns).reset_index()


def shapley(game: CoalitionGame, *, limit: int | None = None) -> Shapley:
    """The exact Shapley value, of all 2^n values.

    limit: the most players; by default 20 where all values are known, else 12. Raises FormulationError above it.
    """
    most = min(limit if limit is not None else MOST_LISTED if game.tabulated else MOST_EXACT, MOST_LISTED)
    n = game.n
    if n > most:
        raise FormulationError(
            f"the exact Shapley value of {n} players needs {2**n - 1:,} values; at most {most} players are taken"
            f" (limit=... up to {MOST_LISTED}): sample it, shapley_sampled(game, permutations=1000)"
        )
    before = game.evaluated
    values, size = game.table(), sizes(n)
    masks = np.arange(2**n)
    weight = np.array([1.0 / (n * comb(n - 1, s)) for s in range(n)])
    payoffs = np.zeros(n)
    for player in range(n):
        without = masks[(masks >> player) & 1 == 0]
        added = values[without | (1 << player)] - values[without]
        payoffs[player] = float((weight[size[without]] * added).sum())
    return Shapley(game.series(payoffs), game.series(np.zeros(n)), 0, 0, game.evaluated - before)


def shapley_sampled(
    game: CoalitionGame,
    permutations: int = 1000,
    *,
    method: str = "antithetic",
    tolerance: float | None = None,
    seed: int | np.random.Generator = 0,
) -> Shapley:
    """The Shapley value from random permutations, with standard errors, for any number of players.

    permutations: the most that are drawn, rounded up to whole blocks, of which there are at least two (antithetic: 2
    permutations each, stratified: n). tolerance: stop earlier, when no standard error is greater [$], but not before
    the 30th block: the errors of few are small by accident. The same seed gives the same answer. Raises
    UnknownNameError for a method, FormulationError for too few permutations, or a tolerance below 0.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if permutations != int(permutations) or permutations < 1:
        raise FormulationError(f"permutations={permutations}: a whole number, at least one, must be drawn")
    if tolerance is not None:
        checked_tolerance(tolerance)
    rng, n, before = np.random.default_rng(seed), game.n, game.evaluated
    length = {"permutation": 1, "antithetic": 2, "stratified": n}[method]
    blocks = max(2, -(-permutations // length))
    together = max(2, _BATCH // length)
    means = np.zeros((0, n))
    while len(means) < blocks:
        count = min(together, blocks - len(means))
        drawn = np.concatenate([_block(rng.permutation(n), method) for _ in range(count)])
        means = np.vstack([means, _added(game, drawn).reshape(count, length, n).mean(axis=1)])
        if tolerance is not None and len(means) >= _TRUSTED and _errors(means).max() <= tolerance:
            break
    payoffs, errors = game.series(means.mean(axis=0)), game.series(_errors(means))
    return Shapley(payoffs, errors, length * len(means), len(means), game.evaluated - before)


def _block(order: npt.NDArray[np.int64], method: str) -> npt.NDArray[np.int64]:
    """The permutations of a block (length, n)."""
    if method == "permutation":
        return order[None]
    if method == "antithetic":
        return np.stack([order, order[::-1]])
    return np.stack([np.roll(order, k) for k in range(len(order))])


def _added(game: CoalitionGame, orders: npt.NDArray[np.int64]) -> FloatArray:
    """What each player adds when it comes (k, n), in permutations `orders` (k, n)."""
    k, n = orders.shape
    before = [mask for order in orders.tolist() for mask in accumulate((1 << i for i in order), or_)]
    values = np.c_[np.zeros(k), game.values_at(before).reshape(k, n)]
    found = np.empty((k, n))
    np.put_along_axis(found, orders, np.diff(values, axis=1), axis=1)
    return found


def _errors(means: FloatArray) -> FloatArray:
    return np.asarray(means.std(axis=0, ddof=1) / np.sqrt(len(means)))
