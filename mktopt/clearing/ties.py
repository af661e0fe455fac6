"""Equal-priced orders at one bus share pro rata, whichever solver chose between them.

Flat segments of the same bus, period, side, price and tan_phi are interchangeable: any split of their total is optimal.
The split chosen here gives each the same share of the width that is free above its minimum,

    x_s = lower_s + (X - sum lower) (w_s - lower_s) / sum (w - lower).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ALIKE = ["bus", "period", "side", "tan_phi", "q_min_kvar", "q_max_kvar"]


class Ties:
    """Which segments of a market may share; prices, slopes and widths may change.

    bound: segments, shape (segments,), that a constraint of the user's own names: left as the solver chose them.
    """

    def __init__(self, orders: Orders, bound: npt.NDArray[np.bool_]) -> None:
        table, owner = orders.orders, orders.segment_order
        free = ~bound & ~table["all_or_nothing"].to_numpy(dtype=bool)[owner]
        place = table.groupby(_ALIKE, sort=False, dropna=False).ngroup().to_numpy()[owner]
        # Ties within one order are no matter of who is accepted: it takes several orders of a kind.
        several = np.bincount(place, weights=np.r_[True, owner[1:] != owner[:-1]]) > 1
        self._at: IntArray = np.flatnonzero(free & several[place])
        self._place = place[self._at]

    def __bool__(self) -> bool:
        """Whether there is anything that could be tied."""
        return len(self._at) > 1

    def share(
        self, segment_kw: FloatArray, price: FloatArray, slope: FloatArray, lower: FloatArray, width: FloatArray
    ) -> FloatArray:
        """`segment_kw` with ties shared pro rata; all of shape (segments,)."""
        flat = (slope[self._at] == 0) & (width[self._at] > 0)
        at, place = self._at[flat], self._place[flat]
        if len(at) < 2:
            return segment_kw
        sequence = np.lexsort((price[at], place))
        at, place = at[sequence], place[sequence]
        new = np.r_[True, (place[1:] != place[:-1]) | (price[at[1:]] != price[at[:-1]])]
        if new.all():
            return segment_kw
        number = np.cumsum(new) - 1
        tied = np.bincount(number)[number] > 1
        return _shared(segment_kw, at[tied], np.unique(number[tied], return_inverse=True)[1], lower, width)


def share_ties(orders: Orders, segment_kw: FloatArray, bound: npt.NDArray[np.bool_]) -> FloatArray:
    """`segment_kw` with ties shared pro rata, shape (segments,).

    bound: segments that a constraint of the user's own names, which are left as the solver chose them.
    """
    ties, curves = Ties(orders, bound), orders.curves
    if not ties:
        return segment_kw
    lower = curves.fill(orders.orders["minimum_kw"].to_numpy())
    return ties.share(segment_kw, curves.start, curves.slope, lower, curves.width)


def _shared(
    segment_kw: FloatArray, at: IntArray, number: IntArray, lower: FloatArray, width: FloatArray
) -> FloatArray:
    room = width[at] - lower[at]
    endless = np.isinf(room)
    has_endless = np.bincount(number, weights=endless) > 0
    # beside an endless order the share of a finite one tends to nothing
    weight = np.where(has_endless[number], endless.astype(float), room)
    total = np.bincount(number, weights=weight)
    surplus = np.bincount(number, weights=segment_kw[at] - lower[at])
    share = np.divide(surplus, total, out=np.zeros_like(surplus), where=total > 0)
    result = segment_kw.copy()
    result[at] = lower[at] + np.clip(share[number] * weight, 0.0, room)
    return result
