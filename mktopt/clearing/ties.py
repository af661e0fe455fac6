"""Equal-priced orders at one bus share pro rata, whichever solver chose between them.

Flat segments of the same bus, period, side, price and tan_phi are interchangeable: any split of their total is optimal.
The split chosen here gives each the same share of the width that is free above its minimum,

    x_s = lower_s + (X - sum lower) (w_s - lower_s) / sum (w - lower).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]


def share_ties(orders: Orders, segment_kw: FloatArray, bound: npt.NDArray[np.bool_]) -> FloatArray:
    """`segment_kw` with ties shared pro rata, shape (segments,).

    bound: segments that a constraint of the user's own names, which are left as the solver chose them.
    """
    curves, table = orders.curves, orders.orders
    free = (curves.slope == 0) & ~bound & (curves.width > 0)
    free &= ~table["all_or_nothing"].to_numpy()[curves.owner]
    at = np.flatnonzero(free)
    if at.size < 2:
        return segment_kw
    keys = table[["bus", "period", "side", "tan_phi", "q_min_kvar", "q_max_kvar"]].iloc[curves.owner[at]]
    groups = keys.assign(price=curves.start[at]).groupby([*keys.columns, "price"], sort=False, dropna=False)
    number = groups.ngroup().to_numpy()
    several = np.bincount(number)[number] > 1
    if not several.any():
        return segment_kw
    at = at[several]
    number = pd.factorize(number[several])[0]
    return _shared(segment_kw, at, number, curves.fill(table["minimum_kw"].to_numpy()), curves.width)


def _shared(
    segment_kw: FloatArray,
    at: npt.NDArray[np.int64],
    number: npt.NDArray[np.int64],
    lower: FloatArray,
    width: FloatArray,
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
