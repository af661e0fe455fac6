"""In what units a game is judged: sizes of actions, slopes and payoffs, of each variable and player by itself.

Players need not count in the same money, nor variables in the same unit: what is small beside the payoff of one may be
all that another has. With s the sizes of the terms of F(x) and H = |dF/dx|,

    action_j = max(|x_j|, min(1, reach_j, s_j / H_jj))          slope_j = max(s_j, max_k H_jk action_k)
    payoff_i = sum over its own j of slope_j action_j

reach_j: the larger limit of a box, or what a row allows it alone. Terms without own variables, which no action of a
player changes, do not count, whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
# Slopes below this share of the largest of the same player are judged by it: rounding reaches them.
_SMALL = 1e-4
# A length of s / H below this is what is left of rounding near zero, and tells no unit.
_NO_LENGTH = 1e-7


@dataclass(frozen=True, eq=False)
class Units:
    """Sizes to divide by, all above zero. action, slope: of each variable (n,); payoff: of each player (K,)."""

    action: FloatArray
    slope: FloatArray
    payoff: FloatArray

    @property
    def step(self) -> FloatArray:
        """eta of each variable, a step of the size of its action: action / slope (n,)."""
        return self.action / self.slope


def units_of(x: FloatArray, reach: FloatArray, sizes: FloatArray, bend: FloatArray, owner: FloatArray, k: int) -> Units:
    """The units at x (n,): reach (n,) of each variable, sizes of the terms of F (n,), its Jacobian `bend` (n, n), the
    `owner` of each variable (n,) among `k` players."""
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    bend = np.abs(np.where(np.isfinite(bend), bend, 0.0))
    diagonal = bend.diagonal()
    length = np.divide(sizes, diagonal, out=np.ones(len(x)), where=diagonal > 0.0)
    small = np.minimum(np.minimum(1.0, np.maximum(reach, _NO_LENGTH)), np.where(length > _NO_LENGTH, length, 1.0))
    action = np.maximum(np.abs(x), small)
    slope = np.maximum(sizes, (bend * action).max(axis=1, initial=0.0))
    payoff = np.ones(k)
    for player in range(k):
        own = owner == player
        largest = float(slope[own].max(initial=0.0))
        slope[own] = np.maximum(slope[own], _SMALL * largest if largest > 0.0 else 1.0)
        payoff[player] = float((slope * action)[own].sum()) if own.any() else 1.0
    return Units(action, slope, payoff)


def row_units(jacobian: FloatArray, action: FloatArray) -> FloatArray:
    """How far rows with gradients `jacobian` (m, n) move by an action; 1 for one without variables (m,)."""
    found = (np.abs(np.where(np.isfinite(jacobian), jacobian, 0.0)) * action).max(axis=1, initial=0.0)
    return np.asarray(np.where(found > 0.0, found, 1.0))
