"""What tables of orders must obey: the shapes that make clearing convex, and who may have which role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import Fault

if TYPE_CHECKING:
    from mktopt.networks.orders import Orders

PRODUCER, CONSUMER, DEMAND_RESPONSE = "producer", "consumer", "demand_response"
ROLES = (PRODUCER, CONSUMER, DEMAND_RESPONSE)
# Prices that came through arithmetic may cross by rounding; this much is taken for equal.
_ROUNDING = 1e-9


def default_roles(orders: pd.DataFrame) -> npt.NDArray[np.object_]:
    """The role of each row of `orders` by its side: an offer's is producer, a bid's consumer, shape (rows,)."""
    return np.where((orders["side"] == "offer").to_numpy(), PRODUCER, CONSUMER).astype(object)


def shape_faults(table: Orders) -> list[Fault]:
    """Faults of widths, monotone prices, minima and ranges: every rule that makes the clearing problem convex."""
    segments, owner = table.segments, table.segment_order
    faults: list[Fault] = []
    width = segments["width_kw"].to_numpy()
    start, end = segments["price_start"].to_numpy(), segments["price_end"].to_numpy()
    sign = np.where(table.is_bid[owner], -1.0, 1.0)
    slack = _ROUNDING * np.maximum(1.0, np.maximum(np.abs(start), np.abs(end)))
    follows = np.r_[False, owner[1:] == owner[:-1]]
    step = np.r_[0.0, start[1:] - end[:-1]]
    endless = np.isinf(width)
    inner = np.r_[follows[1:], False]

    def name(row: int) -> str:
        period, segment = segments.at[row, "period"], segments.at[row, "segment"]
        return f"{segments.at[row, 'order']}, period {period}, segment {segment}"

    def collect(wrong: npt.NDArray[np.bool_], column: str, bid: str, offer: str, hint: str) -> None:
        for row in np.flatnonzero(wrong)[:50]:
            problem = bid if sign[row] < 0 else offer
            faults.append(Fault("segments", problem, name(int(row)), column, segments.at[row, column], hint))

    collect(sign * (end - start) < -slack, "price_end", "rising bid: price_end is above price_start",
            "falling offer: price_end is below price_start", "exchange the two prices")  # fmt: skip
    collect(follows & (sign * step < -slack), "price_start", "rising bid: it starts above the segment before",
            "falling offer: it starts below the segment before", "sort the segments best price first")  # fmt: skip
    text = "an unlimited width needs one price"
    collect(endless & (start != end), "price_end", text, text, "make price_start and price_end equal")
    text = "only the last segment may be unlimited"
    collect(endless & inner, "width_kw", text, text, "give a finite width")
    return [*faults, *_order_faults(table)]


def _order_faults(table: Orders) -> list[Fault]:
    """Faults of whole orders: minima, all or nothing, reactive ranges, roles."""
    orders, total = table.orders, table.width_kw
    minimum, endless = orders["minimum_kw"].to_numpy(), np.isinf(table.width_kw)
    low, high = orders["q_min_kvar"].to_numpy(), orders["q_max_kvar"].to_numpy()
    response = (orders["role"] == DEMAND_RESPONSE).to_numpy()
    rules = (
        (minimum > total * (1 + 1e-12), "minimum_kw", "the minimum is above the width", "its whole width is {:g} kW"),
        (orders["all_or_nothing"].to_numpy() & endless, "all_or_nothing",
         "an unlimited order cannot be all or nothing", "give it a finite width"),
        ((np.isnan(low) != np.isnan(high)) | (low > high), "q_max_kvar",
         "the reactive range needs q_min_kvar <= q_max_kvar", "give both or none"),
        (response & ~table.is_bid, "role", "an offer cannot be demand response",
         "make it a bid of the initial load: see Orders.from_reductions"),
        (response & table.is_bid & endless, "role", "demand response needs an initial load",
         "give the order a finite width"),
    )  # fmt: skip
    return [
        Fault("orders", problem, orders.at[row, "order"], column, orders.at[row, column], hint.format(total[row]))
        for wrong, column, problem, hint in rules
        for row in np.flatnonzero(wrong)[:50]
    ]
