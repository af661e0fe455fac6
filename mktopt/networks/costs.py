"""Generation costs as offers: polynomial and piecewise-linear costs of MATPOWER and pandapower.

A cost C(P) in $/h of an output P in MW with P_min <= P <= P_max becomes the marginal price C'(P) / 1000 in $/kWh
along the output. Output is counted from 0: what must run (P_min > 0) is a first flat segment with `minimum_kw`, so
that the dispatch is that of the cost, and the cost is the orders' cost plus a constant, which is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.orders import ORDER_COLUMNS, SEGMENT_COLUMNS, Orders
from mktopt.networks.units import KW_PER_MW

FloatArray = npt.NDArray[np.float64]

# Price error of the segments that stand for a cost of third or higher degree, relative to the range of its prices.
PRICE_ERROR = 1e-3


class Generator(NamedTuple):
    """A dispatchable unit: output limits in MW (negative: consumption), reactive limits in Mvar, and its cost.

    cost: ("polynomial", coefficients of C(P) from the highest power down) or ("piecewise", P and C alternating).
    """

    name: str
    bus: str
    p_min_mw: float
    p_max_mw: float
    q_min_mvar: float
    q_max_mvar: float
    cost: tuple[str, tuple[float, ...]]


class _Curve(NamedTuple):
    """Marginal prices along the output: breakpoints [MW] and the prices at the start and end of each piece [$/MWh]."""

    p: FloatArray
    start: FloatArray
    end: FloatArray
    constant: float
    error: float


def offers(generators: Iterable[Generator]) -> tuple[Orders, dict[str, float]]:
    """Orders of `generators`, and what an exact account needs besides.

    Output above 0 is an offer, below 0 a bid ("<name>:consumption" where a unit has both). A bid's reactive range
    counts as consumption, an offer's as production. Second: `fixed_cost_per_h`, what the costs exceed those of the
    orders by [$/h] (constant terms, and cheaper or dearer first units of what must run), and `max_price_error`
    [$/kWh]. Raises DataError for a cost that falls along the output (it has no convex market), or limits that cross.
    """
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    fixed, error = 0.0, 0.0
    for unit in generators:
        if not unit.p_min_mw <= unit.p_max_mw:
            raise DataError(Fault("generators", "p_min is above p_max", unit.name, "p_min_mw", unit.p_min_mw,
                                  f"p_max_mw is {unit.p_max_mw:g}"))  # fmt: skip
        curve = _curve(unit)
        fixed += curve.constant
        error = max(error, curve.error / KW_PER_MW)
        upward, downward = unit.p_max_mw > 0 or unit.p_min_mw == 0, unit.p_min_mw < 0
        q = (KW_PER_MW * unit.q_min_mvar, KW_PER_MW * unit.q_max_mvar)
        if upward:
            minimum = max(unit.p_min_mw, 0.0)
            rows.append(_row(unit, unit.name, "offer", minimum, q))
            segments += _segments(unit.name, minimum, curve, 1.0)
        if downward:
            name = f"{unit.name}:consumption" if upward else unit.name
            minimum = max(-unit.p_max_mw, 0.0)
            rows.append(_row(unit, name, "bid", minimum, (np.nan, np.nan) if upward else (-q[1], -q[0])))
            segments += _segments(name, minimum, curve, -1.0)
    table = pd.DataFrame(rows, columns=[column.name for column in ORDER_COLUMNS])
    pieces = pd.DataFrame(segments, columns=[column.name for column in SEGMENT_COLUMNS])
    return Orders(table, pieces), {"fixed_cost_per_h": fixed, "max_price_error": error}


def _row(unit: Generator, name: str, side: str, minimum_mw: float, q: tuple[float, float]) -> dict[str, Any]:
    free = all(np.isfinite(q))
    return {
        "order": name, "period": 0, "participant": unit.name, "bus": unit.bus, "side": side,
        "minimum_kw": KW_PER_MW * minimum_mw, "all_or_nothing": False, "tan_phi": 0.0,
        "q_min_kvar": q[0] if free else np.nan, "q_max_kvar": q[1] if free else np.nan,
    }  # fmt: skip


def _segments(name: str, minimum_mw: float, curve: _Curve, sign: float) -> list[dict[str, Any]]:
    """The pieces of `curve` on one side of 0, outwards; what must run comes first at the price of its last unit."""
    pieces = [
        (sign * p0, sign * p1, a, b) if sign > 0 else (-p1, -p0, b, a)
        for p0, p1, a, b in zip(curve.p[:-1], curve.p[1:], curve.start, curve.end, strict=True)
    ]
    pieces = sorted(piece for piece in pieces if piece[0] >= 0.0)
    first = pieces[0][2] if pieces else float((curve.start if sign > 0 else curve.end)[0 if sign > 0 else -1])
    if minimum_mw > 0:
        pieces = [(0.0, minimum_mw, first, first), *(piece for piece in pieces if piece[1] > piece[0])]
    return [
        {
            "order": name, "period": 0, "segment": number, "width_kw": KW_PER_MW * (p1 - p0),
            "price_start": a / KW_PER_MW, "price_end": b / KW_PER_MW,
        }
        for number, (p0, p1, a, b) in enumerate(pieces or [(0.0, 0.0, first, first)])
    ]  # fmt: skip


def _curve(unit: Generator) -> _Curve:
    kind, numbers = unit.cost
    if not np.all(np.isfinite(numbers)) or not np.isfinite([unit.p_min_mw, unit.p_max_mw]).all():
        raise DataError(Fault("generators", "cost and output limits must be finite", unit.name, hint="fill them in"))
    curve = _polynomial(unit, np.array(numbers)) if kind == "polynomial" else _piecewise(unit, np.array(numbers))
    prices = np.c_[curve.start, curve.end].ravel()
    slack = 1e-9 * max(1.0, float(np.abs(prices).max()))
    if np.any(np.diff(prices) < -slack):
        where = curve.p[int(np.argmin(np.diff(prices))) // 2]
        raise DataError(Fault("generators", f"the marginal cost falls with the output near {where:g} MW", unit.name,
                              "cost", hint="an offer must not fall: give a convex cost"))  # fmt: skip
    return curve


def _polynomial(unit: Generator, coefficients: FloatArray) -> _Curve:
    """Exact up to the second degree; above, chords of the marginal price with a bounded error."""
    cost = np.poly1d(coefficients if len(coefficients) else [0.0])
    price = cost.deriv()
    low, high = unit.p_min_mw, unit.p_max_mw
    pieces = 1
    if price.order >= 2 and high > low:
        bend = float(np.abs(price.deriv(2)(np.linspace(low, high, 200))).max())
        span = abs(float(price(high) - price(low))) or 1.0
        pieces = max(1, int(np.ceil((high - low) * np.sqrt(bend / (8.0 * PRICE_ERROR * span)))))
    p = np.linspace(low, high, pieces + 1)
    if low < 0 < high:
        p = np.unique(np.r_[p, 0.0])
    marginal = np.asarray(price(p))
    error = 0.0
    if price.order >= 2:
        inside = np.linspace(low, high, 50 * pieces + 1)
        error = float(np.abs(price(inside) - np.interp(inside, p, marginal)).max())
    nearest = float(np.clip(0.0, low, high))
    return _Curve(p, marginal[:-1], marginal[1:], float(cost(nearest) - price(nearest) * nearest), error)


def _piecewise(unit: Generator, numbers: FloatArray) -> _Curve:
    """Steps; the first and last slope go on beyond the given points."""
    x, y = numbers[0::2], numbers[1::2]
    if len(x) != len(y) or len(x) < 2 or np.any(np.diff(x) <= 0):
        raise DataError(Fault("generators", "a piecewise-linear cost needs at least two points of rising output",
                              unit.name, "cost", hint="give P and C in turns"))  # fmt: skip
    slope = np.diff(y) / np.diff(x)
    low, high = unit.p_min_mw, unit.p_max_mw
    inner = x[1:-1][(x[1:-1] > low) & (x[1:-1] < high)]
    zero = [0.0] if low < 0 < high else []
    p = np.unique(np.r_[low, inner, zero, high])
    p = p if len(p) > 1 else np.array([low, high])
    step = slope[np.clip(np.searchsorted(x, (p[:-1] + p[1:]) / 2, side="right") - 1, 0, len(slope) - 1)]
    nearest = float(np.clip(0.0, low, high))
    which = int(np.clip(np.searchsorted(x, nearest, side="right") - 1, 0, len(slope) - 1))
    at = float(y[which] + slope[which] * (nearest - x[which]))
    price = float(step[0] if nearest == low else step[-1])  # between the limits 0 is the nearest: no matter then
    return _Curve(p, step, step, at - price * nearest, 0.0)
