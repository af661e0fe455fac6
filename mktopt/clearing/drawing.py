"""Parts of pictures: matplotlib when it is needed, summed curves, colour scales, arrows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.errors import MktoptError
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]

BID, OFFER = "#2166ac", "#d6604d"
# Up to here names of buses can be read.
MOST_NAMED = 60


def pyplot() -> Any:
    """matplotlib.pyplot; raises MktoptError that says how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MktoptError("pictures need matplotlib; install it with: pip install 'mktopt[plot]'") from error
    return plt


def aggregate_curve(orders: Orders, side: str, period: int) -> tuple[FloatArray, FloatArray]:
    """Quantity [kW] and price [$/kWh] along the sum of all curves of `side` ('bid' or 'offer'), to draw as a line.

        Q(p) = sum_s width_s clip((p - start_s) / (end_s - start_s), 0, 1)

    The sum is taken at equal price; a flat segment is a step. Offers rise, bids fall along the line.
    """
    curves = orders.curves
    table = orders.orders
    use = ((table["side"] == side) & (table["period"] == period)).to_numpy()[curves.owner] & (curves.width > 0)
    sign = -1.0 if side == "bid" else 1.0
    width, start, end = curves.width[use], sign * curves.start[use], sign * curves.end[use]
    if not len(width):
        return np.zeros(0), np.zeros(0)
    flat = end <= start
    levels = np.unique(np.r_[start, end])
    slanted = width[~flat], start[~flat], end[~flat]
    quantity, price = [], []
    for level in levels.tolist():
        inner = float(np.sum(slanted[0] * np.clip((level - slanted[1]) / (slanted[2] - slanted[1]), 0.0, 1.0)))
        below = inner + float(width[flat & (start < level)].sum())
        quantity += [below, below + float(width[flat & (start == level)].sum())]
        price += [sign * level] * 2
    q, p = np.r_[0.0, quantity], np.r_[price[0], price]
    if np.isfinite(q[-1]):  # a last vertical stroke: beyond its width nobody buys or sells at any price
        q, p = np.r_[q, q[-1]], np.r_[p, 0.0 if side == "bid" else p[-1]]
    return q, p


def new_axes(ax: Any, size: tuple[float, float] = (7.0, 4.4)) -> Any:
    """`ax`, or the Axes of a new figure of `size` [inch] where it is None."""
    return pyplot().subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def map_size(at: FloatArray) -> tuple[float, float]:
    """(width, height) of a picture that fits the coordinates [inch]: 9.5 wide, less for what is tall."""
    width, height = np.maximum(np.ptp(at, axis=0), 1e-9)
    return float(np.clip(2.6 + 7.0 * width / height, 6.2, 9.5)), float(np.clip(1.6 + 8.0 * height / width, 3.6, 8.5))


def colour_span(values: FloatArray) -> dict[str, float]:
    """Limits of a colour scale that does not blow rounding up to a pattern."""
    known = values[np.isfinite(values)]
    if not known.size:
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(known.min()), float(known.max())
    room = max(0.0, 0.02 * max(abs(low), abs(high), 1e-3) - (high - low))
    return {"vmin": low - room / 2, "vmax": high + room / 2}


def leave_room(ax: Any, values: FloatArray) -> None:
    """One price everywhere is a line in the middle, not the noise of its last digits."""
    span = colour_span(values)
    if np.ptp(values[np.isfinite(values)]) < 1e-3 * (span["vmax"] - span["vmin"]) + 1e-12:
        middle = 0.5 * (span["vmin"] + span["vmax"])
        ax.set_ylim(middle - 0.5 * abs(middle) - 1e-3, middle + 0.5 * abs(middle) + 1e-3)


def price_bars(ax: Any, names: list[str], price: FloatArray) -> None:
    """Price bus by bus: bars with names, or a line where there are too many."""
    at = np.arange(len(names))
    if len(names) <= MOST_NAMED:
        ax.bar(at, price, color=BID, width=0.75)
        ax.set_xticks(at, names, rotation=0 if len(names) <= 12 else 90, fontsize=9 if len(names) <= 30 else 7)
        ax.set_xlabel("bus")
    else:
        ax.step(at, price, where="mid", color=BID, lw=1.0)
        leave_room(ax, price)
        ax.set_xlabel("bus (position in the table)")
    ax.grid(axis="y", alpha=0.25)


def flow_arrows(ax: Any, ends: FloatArray, kw: FloatArray, share: FloatArray) -> None:
    """An arrow in the direction of the flow at the middle of each branch that is long enough for one.

    share: |kW| as a share of the greatest, which sets the size.
    """
    extent = max(float(np.ptp(ends.reshape(-1, 2), axis=0).max(initial=0.0)), 1e-12) if len(ends) else 1.0
    for (start, end), flow, part in zip(ends, kw.tolist(), share.tolist(), strict=True):
        length = float(np.hypot(*(end - start)))
        if not abs(flow) > 1e-9 or part < 1e-6 or length < 0.03 * extent:
            continue
        middle, half = 0.5 * (start + end), (end - start) / length * 0.004 * extent * np.sign(flow)
        ax.annotate("", middle + half, xytext=middle - half, zorder=2.5, arrowprops={
            "arrowstyle": "-|>", "color": "0.25", "lw": 0.0, "mutation_scale": 7.0 + 6.0 * part,
            "shrinkA": 0, "shrinkB": 0,
        })  # fmt: skip


def cut_high_bids(ax: Any, bids: FloatArray, offers: FloatArray, prices: FloatArray) -> None:
    """Leaves bids far above all else outside, and says so in the legend: the market happens at the offers' prices."""
    high = max(float(offers.max(initial=0.0)), float(prices.max(initial=0.0)))
    top = float(bids.max(initial=0.0))
    low = min(0.0, float(offers.min(initial=0.0)), float(prices.min(initial=0.0)), float(bids.min(initial=0.0)))
    if high > 0 and top > 3.0 * high:
        ax.set_ylim(low, 1.7 * high)
        ax.plot([], [], lw=0, label=f"bids go on to {top:,.2f} \\$/kWh")
    elif max(top, high) > low:
        ax.set_ylim(low, 1.12 * max(top, high))
