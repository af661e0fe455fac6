"""Price curves of orders as arrays: how much an accepted quantity is worth, and what its last unit costs.

For order o with segments s of width w_s, start price a_s and slope g_s = (end - start) / width, a quantity q fills
the segments in turn (x_s = clip(q - W_s, 0, w_s), W_s the width before s) and is worth

    value(q) = sum_s a_s x_s + 1/2 g_s x_s^2        [$/h]

which is the utility of a bid and the cost of an offer.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]

# A segment narrower than this has no slope that a float could hold.
_LEAST_KW = 1e-200


class Curves:
    """Array view of the curves of `orders`; all quantities have one entry per row of `orders.orders`."""

    def __init__(self, orders: Orders) -> None:
        segments = orders.segments
        self.owner = orders.segment_order
        self.width = segments["width_kw"].to_numpy()
        self.start = segments["price_start"].to_numpy()
        self.end = segments["price_end"].to_numpy()
        self.rows = len(orders)
        self.first = np.searchsorted(self.owner, np.arange(self.rows))

    @cached_property
    def slope(self) -> FloatArray:
        """Price change per kW of each segment, shape (segments,); 0 where a segment has no (or no end of) width."""
        rise = self.end - self.start
        usable = (self.width > _LEAST_KW) & np.isfinite(self.width)
        return np.where(usable, rise / np.where(usable, self.width, 1.0), 0.0)

    @cached_property
    def before_kw(self) -> FloatArray:
        """Width of the segments before each segment in its order [kW], shape (segments,)."""
        width = np.where(np.isinf(self.width), 0.0, self.width)  # only a last segment is endless
        total = np.cumsum(width) - width
        return total - total[self.first][self.owner]

    @property
    def first_price(self) -> FloatArray:
        """Price of the first unit of each order [$/kWh], shape (rows,)."""
        return self.start[self.first]

    def fill(self, quantity_kw: npt.ArrayLike) -> FloatArray:
        """Accepted kW of each segment when the orders accept `quantity_kw`, best price first, shape (segments,)."""
        quantity = np.asarray(quantity_kw, dtype=float)[self.owner]
        return np.clip(quantity - self.before_kw, 0.0, self.width)

    def total(self, segment_kw: FloatArray) -> FloatArray:
        """Accepted kW of each order from those of its segments, shape (rows,)."""
        return np.bincount(self.owner, weights=segment_kw, minlength=self.rows).astype(float)

    def value(self, quantity_kw: npt.ArrayLike) -> FloatArray:
        """Utility (bid) or cost (offer) of `quantity_kw` per hour [$/h], shape (rows,)."""
        x = self.fill(quantity_kw)
        worth = self.start * x + 0.5 * self.slope * x * x
        return np.bincount(self.owner, weights=worth, minlength=self.rows).astype(float)

    def marginal(self, quantity_kw: npt.ArrayLike, tolerance_kw: npt.ArrayLike = 0.0) -> FloatArray:
        """Price of the last accepted unit at `quantity_kw` [$/kWh], shape (rows,); of the first where nothing is.

        At a jump of the curve the last accepted unit counts; `tolerance_kw` keeps a rounding error beyond a jump
        from counting as the next segment's first unit.
        """
        x = self.fill(np.maximum(np.asarray(quantity_kw, dtype=float) - tolerance_kw, 0.0))
        positions = np.arange(len(self.owner))
        last = np.full(self.rows, -1)
        np.maximum.at(last, self.owner[x > 0], positions[x > 0])
        last = np.where(last < 0, self.first, last)
        full = self.fill(quantity_kw)
        return self.start[last] + self.slope[last] * full[last]

    def best_response(
        self, price: npt.ArrayLike, sign: FloatArray, lower_kw: FloatArray, upper_kw: FloatArray
    ) -> FloatArray:
        """The quantity of greatest surplus at `price` [$/kWh] within [lower_kw, upper_kw], shape (rows,).

        `sign` is +1 for offers (they gain where the price is above the curve) and -1 for bids. Among equals the
        smallest is taken.
        """
        gap = sign[self.owner] * (np.asarray(price, dtype=float)[self.owner] - self.start)
        steep = np.abs(self.slope)
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(steep > 0, gap / np.where(steep > 0, steep, 1.0), np.where(gap > 0, np.inf, 0.0))
        x = np.clip(inner, 0.0, self.width)
        return np.clip(self.total(x), lower_kw, upper_kw)
