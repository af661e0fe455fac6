"""Roots of many falling functions of one variable at once, without their derivatives.

Each f_j falls and changes sign between low_j and high_j. Chandrupatla's rule takes inverse quadratic interpolation
where the last three points make it safe, else the middle, so that every bracket keeps shrinking.
Reference: Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
without using derivatives, Advances in Engineering Software 28 (1997).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_ROUNDS = 200
_UNIT = float(np.finfo(float).eps)


def falling_root(
    function: Callable[[FloatArray], FloatArray], low: FloatArray, high: FloatArray, share: float = 4 * _UNIT
) -> FloatArray:
    """x in [low, high] with `function`(x) = 0, elementwise; `function` takes and gives arrays of their shape.

    Where it is <= 0 at `low` already the answer is `low`, where it is >= 0 at `high` it is `high`. It may be infinite
    at the ends. share: length of the last bracket, relative to the size of the root.
    """
    a, b = np.array(high, dtype=float), np.array(low, dtype=float)
    fa, fb = function(a), function(b)
    found = np.where(fb <= 0, b, a)
    active = (fb > 0) & (fa < 0)
    c, fc, step = a.copy(), fa.copy(), np.full(a.shape, 0.5)
    for _ in range(_ROUNDS):
        if not active.any():
            break
        trial = a + step * (b - a)
        value = np.where(active, function(np.where(active, trial, found)), 0.0)
        same = np.sign(value) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = trial, value
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        with np.errstate(all="ignore"):
            least = 0.5 * (share * np.abs(best) + 1e-300) / np.abs(b - a)
            found = np.where(active, best, found)
            active = active & (fa != 0) & (least < 0.5)
            # the points of three: how far along, and whether an inverse parabola through them stays inside
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            curve = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            step = np.where(safe & np.isfinite(curve), np.clip(curve, least, 1 - least), 0.5)
    return found
