"""What exporting a kW more costs those at one bus: their orders in order of merit between feed-in and retail.

    g(y) = min  sum_offers cost(q) - sum_bids value(q) + retail buy - feed_in sell      [$/h]
           s.t. offers - bids + buy - sell = y                                          [kW]
    M(y) = g'(y)

y: what leaves over private wires in sum. What the orders supply at a price p, S(p) = sum_offers q(p) - sum_bids q(p),
never falls in p, so that M is its inverse, held between both tariffs: below S(feed_in) a kW more is a kW less fed in,
above S(retail) it is a kW more bought. M never falls in y; where the orders have a gap between two prices it jumps, and
`left` and `right` are its limits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mktopt.networks.network import FloatArray, IntArray
from mktopt.networks.orders import Orders

# Sums of orders that differ by no more than this share of them are one kink.
_ROUNDING = 1e-13


class Piece(NamedTuple):
    """A piece of M: from `low_kw` to `high_kw` it runs in a straight line from `low` to `high` [$/kWh]."""

    low_kw: float
    high_kw: float
    low: float
    high: float

    def at(self, y: float) -> float:
        """M at `y` within the piece [$/kWh]."""
        if self.low == self.high:
            return self.low
        return self.low + (self.high - self.low) * (y - self.low_kw) / (self.high_kw - self.low_kw)


class MeritOrder:
    """The orders in `rows` of `orders.orders`, all of one period, at `feed_in` <= `retail` [$/kWh].

    A minimum of an order is taken whatever the price. None may be all or nothing.
    """

    def __init__(self, orders: Orders, rows: npt.ArrayLike, feed_in: float, retail: float) -> None:
        curves = orders.curves
        chosen = np.asarray(rows, dtype=np.int64)
        last = np.r_[curves.first[1:], len(curves.owner)]
        self.segments: IntArray = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(curves.first[row], last[row]) for row in chosen.tolist())]
        )
        at = self.segments
        self.feed_in, self.retail = float(feed_in), float(retail)
        self._sign = orders.injection_sign[curves.owner[at]]
        self._start, self._slope, self._width = curves.start[at], curves.slope[at], curves.width[at]
        self._least = np.clip(
            orders.orders["minimum_kw"].to_numpy()[curves.owner[at]] - curves.before_kw[at], 0.0, self._width
        )
        self._flat = self._slope == 0.0
        self._knots()

    def _knots(self) -> None:
        """Where M bends: kW and prices, neither falling."""
        moving = self._width > self._least
        with np.errstate(invalid="ignore"):
            ends = np.r_[
                self._start[moving],
                (self._start + self._slope * self._least)[moving],
                (self._start + self._slope * np.where(self._flat, 0.0, self._width))[moving],
            ]
        inside = ends[(ends > self.feed_in) & (ends < self.retail)]
        kw, price = list[float](), list[float]()
        for p in np.unique(np.r_[self.feed_in, inside, self.retail]).tolist():
            for side in (self.fill_at(p, beyond=False), self.fill_at(p, beyond=True)):
                y = float(self._sign @ side) if len(side) else 0.0
                noise = _ROUNDING * float(np.abs(side).sum()) if np.isfinite(y) else 0.0
                y = next((kink for kink in (0.0, *kw[-1:]) if abs(y - kink) <= noise), y)
                if not kw or y > kw[-1] or p > price[-1]:
                    kw.append(max(y, kw[-1]) if kw else y)
                    price.append(p)
        self.kw, self.price = kw, price

    def fill_at(self, price: float, beyond: bool) -> FloatArray:
        """kW of each segment just below `price`, or just above it where `beyond`, shape (segments,)."""
        gap = self._sign * (price - self._start)
        paid = (gap > 0.0) | ((gap == 0.0) & ((self._sign > 0) == beyond))
        steep = np.where(self._flat, 1.0, np.abs(self._slope))
        x = np.where(self._flat, np.where(paid, self._width, 0.0), gap / steep)
        return np.asarray(np.clip(x, self._least, self._width))

    def after(self, y: float) -> Piece:
        """The piece of M that begins at or before `y` and goes on beyond it."""
        return self._piece(bisect_right(self.kw, y))

    def before(self, y: float) -> Piece:
        """The piece of M that ends at or beyond `y` and comes from before it."""
        return self._piece(bisect_left(self.kw, y))

    def _piece(self, k: int) -> Piece:
        if k == 0:
            return Piece(-np.inf, self.kw[0], self.feed_in, self.feed_in)
        if k == len(self.kw):
            return Piece(self.kw[-1], np.inf, self.retail, self.retail)
        return Piece(self.kw[k - 1], self.kw[k], self.price[k - 1], self.price[k])

    def left(self, y: float) -> float:
        """What the last kW exported at `y` costs [$/kWh]: the limit of M from below."""
        return self.before(y).at(y)

    def right(self, y: float) -> float:
        """What one kW more than `y` would cost [$/kWh]: the limit of M from above."""
        return self.after(y).at(y)

    def fill(self, y: float) -> FloatArray:
        """kW of each segment when `y` leaves at least cost, shape (segments,); equal prices share pro rata."""
        price = self.left(y)
        low, high = self.fill_at(price, False), self.fill_at(price, True)
        endless = ~np.isfinite(high - low)
        base = np.where(endless, self._least, low)
        missing = y - float(self._sign @ base)
        use = endless & (self._sign * missing > 0.0)
        if use.any():
            return np.asarray(np.where(use, base + abs(missing) / use.sum(), base))
        step = np.where(endless, 0.0, high - low)
        total = float(self._sign @ step)
        if missing <= 0.0 or total <= 0.0:
            return np.asarray(base)
        return np.asarray(base + step * min(missing / total, 1.0))

    def exchange(self, y: float) -> float:
        """What is bought (positive) or sold (negative) at the tariffs when `y` leaves [kW]."""
        return y - float(self._sign @ self.fill(y))

    def cost(self, y: float) -> float:
        """g(y) [$/h], what must be given or taken at its own price included."""
        x = self.fill(y)
        traded = y - float(self._sign @ x)
        own = float(self._sign @ (self._start * x + 0.5 * self._slope * x * x))
        return own + (self.retail if traded > 0.0 else self.feed_in) * traded
