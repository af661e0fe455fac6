"""Convex costs as marginal prices in straight pieces: exact up to the second degree, chords above.

A cost C(p) on low <= p <= high has the marginal price C'(p). Where C is a polynomial of degree three or more, C' is
replaced by chords between breakpoints; on a piece of length h

    |C'(p) - chord(p)| <= h^2 / 8  max |C'''|

so that the error is stated, not estimated: the maximum of |C'''| is taken at the ends of the piece and where C''''
vanishes. Breakpoints stand at equal steps of the integral of sqrt |C'''|, which needs about as few pieces as the error
allows. C is convex on its range if C' does not fall between any two of the points where C'' vanishes.

Powers and prices are in one unit of the caller's (kW and $/kWh, or MW and $/MWh).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

FloatArray = npt.NDArray[np.float64]

MOST_PIECES = 10_000
# Marginal prices that fall by no more than this (relative, from 1 up) are taken for equal.
ROUNDING = 1e-9
# A range narrower than this has no powers that a float could hold.
_LEAST = 1e-30


class Fall(NamedTuple):
    """Where a marginal price falls: from `price_from` at `p_from` to `price_to` at `p_to`."""

    p_from: float
    price_from: float
    p_to: float
    price_to: float


class CostCurve(NamedTuple):
    """Marginal prices along the output: breakpoints, shape (pieces + 1,), and prices at the ends of each piece.

    must: price of what must run (all that lies between 0 and the range), so that must-run and pieces together cost
    C(p) - constant; error: how far a price may be from C'(p) at most; fall: set where C is not convex.
    """

    p: FloatArray
    start: FloatArray
    end: FloatArray
    must: float
    constant: float
    error: float
    fall: Fall | None

    def pieces(self, sign: float) -> list[tuple[float, float, float]]:
        """(width, price at its start, price at its end) of the output above 0 (sign 1) or below it (sign -1).

        Outwards from 0, what must run first; one piece of no width where there is no range.
        """
        all_pieces = zip(self.p[:-1].tolist(), self.p[1:].tolist(), self.start.tolist(), self.end.tolist(), strict=True)
        turned = [(p0, p1, a, b) if sign > 0 else (-p1, -p0, b, a) for p0, p1, a, b in all_pieces]
        found = sorted(piece for piece in turned if piece[0] >= 0.0)
        first = found[0][0] if found else 0.0
        if first > 0.0:
            found = [(0.0, first, self.must, self.must), *(piece for piece in found if piece[1] > piece[0])]
        return [(p1 - p0, a, b) for p0, p1, a, b in found] or [(0.0, self.must, self.must)]


def curve_of(p: FloatArray, start: FloatArray, end: FloatArray, at_zero: float, nearest: float) -> CostCurve:
    """The curve through given pieces; at_zero: C(0); nearest: C at the point of the range that is nearest to 0.

    What must run costs its mean price C(0) is exceeded by, unless its next unit is cheaper (dearer, below 0): then
    the price of that, for a curve must not fall.
    """
    near = float(np.clip(0.0, p[0], p[-1]))
    margin = float(start[0] if near == p[0] else end[-1])
    must = margin
    if near != 0.0:
        mean = (nearest - at_zero) / near
        must = min(mean, margin) if near > 0 else max(mean, margin)
    return CostCurve(p, start, end, must, nearest - must * near, 0.0, fall_of(np.repeat(p, 2)[1:-1], _ends(start, end)))


def _ends(start: FloatArray, end: FloatArray) -> FloatArray:
    return np.c_[start, end].ravel()


def fall_of(p: FloatArray, price: FloatArray) -> Fall | None:
    """The greatest fall of `price` between neighbouring points `p`, None where it falls by rounding at most."""
    step = np.diff(price)
    if not len(step):
        return None
    worst = int(np.argmin(step))
    if step[worst] >= -ROUNDING * max(1.0, float(np.abs(price).max())):
        return None
    return Fall(float(p[worst]), float(price[worst]), float(p[worst + 1]), float(price[worst + 1]))


def polynomial(coefficients: npt.ArrayLike, low: float, high: float, max_error: float) -> CostCurve | None:
    """The curve of C(p) = sum_k coefficients[k] p^k on [low, high], prices nowhere more than `max_error` off.

    coefficients: constant first, any number of them; `high` may be infinite where C' is constant. None where
    more than `MOST_PIECES` pieces would be needed.
    """
    numbers = np.trim_zeros(np.atleast_1d(np.asarray(coefficients, dtype=float)), "b")
    if np.isinf(high):
        price = float(numbers[1]) if len(numbers) > 1 else 0.0
        p, constant = np.unique([low, max(low, 0.0), high]), float(numbers[0]) if len(numbers) else 0.0
        flat = np.full(len(p) - 1, price)
        return curve_of(p, flat, flat, constant, constant + price * max(low, 0.0))
    # In p / scale the powers are comparable, and the roots of derivatives well conditioned.
    scale = max(abs(low), abs(high))
    scale = scale if scale > _LEAST else 1.0
    cost = Polynomial(numbers * scale ** np.arange(len(numbers)) if len(numbers) else [0.0])
    marginal = cost.deriv() / scale
    ends = np.array([low, high]) / scale
    turns = np.unique(np.r_[ends, roots(marginal.deriv(), ends)])
    edges = _edges(marginal.deriv(2), ends, max_error)
    if edges is None:
        return None
    error = float(_errors(marginal.deriv(2), edges).max(initial=0.0))
    p = edges * scale
    p[0], p[-1] = low, high
    if low < 0.0 < high:
        p = np.unique(np.r_[p, 0.0])
    prices = marginal(p / scale)
    rising = np.maximum.accumulate(prices)
    near = float(np.clip(0.0, low, high)) / scale
    curve = curve_of(p, rising[:-1], rising[1:], float(cost(0.0)), float(cost(near)))
    error += float((rising - prices).max())
    return curve._replace(error=error, fall=fall_of(turns * scale, np.asarray(marginal(turns))))


def roots(function: Polynomial, ends: FloatArray) -> FloatArray:
    """Real parts of the roots of `function` strictly between `ends`.

    Those of complex roots too: a double root that rounding has split must not be missed, and one point more does
    no harm where monotone stretches are looked for.
    """
    numbers = function.coef
    size = np.abs(numbers)
    used = np.flatnonzero(size > 1e-14 * size.max())  # the rest moves no price by as much as rounding
    if not len(used) or used[-1] == 0:
        return np.zeros(0)
    found = np.real(Polynomial(numbers[: used[-1] + 1]).roots())
    inside: FloatArray = found[(found > ends[0]) & (found < ends[-1])]
    return inside


def _edges(bend: Polynomial, ends: FloatArray, max_error: float) -> FloatArray | None:
    """Breakpoints between `ends` whose chords are nowhere more than `max_error` off, None where that takes too many."""
    if ends[1] <= ends[0] or not bend.coef.any():
        return ends
    grid = np.linspace(ends[0], ends[1], 513)
    density = np.sqrt(np.abs(bend(grid)))
    total = np.r_[0.0, np.cumsum((density[1:] + density[:-1]) / 2)] * (grid[1] - grid[0])
    pieces = max(1, int(np.ceil(min(total[-1] / np.sqrt(8.0 * max_error), 2.0 * MOST_PIECES) - 1e-9)))
    while pieces <= MOST_PIECES:
        inner = np.interp(np.linspace(0.0, total[-1], pieces + 1)[1:-1], total, grid)
        edges = np.unique(np.r_[ends[0], inner, ends[1]])
        if _errors(bend, edges).max() <= max_error:
            return edges
        pieces += 1 + pieces // 10
    return None


def _errors(bend: Polynomial, edges: FloatArray) -> FloatArray:
    """How far the chord of each piece may be off: h^2 / 8 max |bend|, shape (pieces,)."""
    size = np.abs(bend(edges))
    most = np.maximum(size[:-1], size[1:])
    for point in roots(bend.deriv(), edges):
        at = int(np.searchsorted(edges, point)) - 1
        most[at] = max(most[at], abs(float(bend(point))))
    return most * np.diff(edges) ** 2 / 8.0
