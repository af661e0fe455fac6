"""What a game is like: whether groups that unite lose nothing, and whether the more join, the more one more adds.

    superadditive   v(S + T) >= v(S) + v(T)  for all S, T without a common player       all together lose nothing
    convex          v(S + i + j) - v(S + j) >= v(S + i) - v(S)  for all S, i, j         the Shapley value is in the core

A convex game is superadditive and has a core; a superadditive one may have none.
Reference: Shapley, Cores of convex games, Int. J. Game Theory 1 (1971).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from mktopt.agents.coalitions.masks import FloatArray, IntArray
from mktopt.agents.coalitions.oracles import MOST_COMPUTED
from mktopt.agents.coalitions.values import NOTHING, Coalition, CoalitionGame, checked_tolerance, label
from mktopt.errors import FormulationError

# Players whose 3^k ways of being in S, in T or in neither are listed at once.
_TOGETHER = 11


@dataclass(frozen=True)
class Property:
    """Whether a property holds; true or false as such. groups: the two that violate it most, empty where it holds
    (convexity: S + i and S + j); lack: by how much [$], 0 where none is violated at all."""

    holds: bool
    groups: tuple[Coalition, ...]
    lack: float

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        if self.holds:
            return "it holds for all groups"
        return f"it fails most for {label(self.groups[0])} and {label(self.groups[1])}: {self.lack:.6g} $ are missing"


def superadditive(game: CoalitionGame, *, tolerance: float = 1e-9) -> Property:
    """Whether no two groups without a common player lose by uniting.

    tolerance: share of the greatest |v| that counts as nothing. It needs all values: at most 20 players, 15 where they
    must be computed (FormulationError above).
    """
    values = _all_values(game)
    worst = (0.0, 0, 0)
    few = min(game.n, _TOGETHER)
    one, other = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for bit in 1 << np.arange(few):
        one, other = np.concatenate([one, one | bit, one]), np.concatenate([other, other, other | bit])
    rest = [int(bit) for bit in 1 << np.arange(few, game.n)]
    for places in product((0, 1, 2), repeat=len(rest)):
        s = one | sum(bit for bit, place in zip(rest, places, strict=True) if place == 1)
        t = other | sum(bit for bit, place in zip(rest, places, strict=True) if place == 2)
        worst = _worse(worst, values[s] + values[t] - values[s | t], s, t)
    return _verdict(game, values, worst, tolerance)


def convex(game: CoalitionGame, *, tolerance: float = 1e-9) -> Property:
    """Whether what a player adds never falls as others join; `tolerance` and bounds as in `superadditive`."""
    values = _all_values(game)
    masks = np.arange(2**game.n)
    worst = (0.0, 0, 0)
    for i in range(game.n):
        for j in range(i):
            without = masks[(masks & (1 << i | 1 << j)) == 0]
            s, t = without | 1 << i, without | 1 << j
            worst = _worse(worst, values[s] + values[t] - values[s | t] - values[without], s, t)
    return _verdict(game, values, worst, tolerance)


def _all_values(game: CoalitionGame) -> FloatArray:
    if game.n > MOST_COMPUTED and not game.tabulated:
        raise FormulationError(
            f"all 2^{game.n} values of {game.n} players are needed; at most {MOST_COMPUTED} players' are computed for"
            " it: call game.table() first (up to 20 players)"
        )
    return game.table()


def _worse(worst: tuple[float, int, int], lacks: FloatArray, s: IntArray, t: IntArray) -> tuple[float, int, int]:
    k = int(lacks.argmax())
    return (float(lacks[k]), int(s[k]), int(t[k])) if lacks[k] > worst[0] else worst


def _verdict(game: CoalitionGame, values: FloatArray, worst: tuple[float, int, int], tolerance: float) -> Property:
    holds = worst[0] <= checked_tolerance(tolerance) * float(np.abs(values).max()) + NOTHING
    return Property(holds, () if holds else tuple(map(game.coalition, worst[1:])), worst[0])
