"""Generation costs as offers: polynomial and piecewise-linear costs of MATPOWER and pandapower.

A cost C(P) in $/h of an output P in MW with P_min <= P <= P_max becomes the marginal price C'(P) / 1000 in $/kWh
along the output. Output is counted from 0: what must run (P_min > 0) is a first flat segment with `minimum_kw`, so
that the dispatch is that of the cost, and the cost is the orders' cost plus a constant, which is recorded. That
segment's price is the mean price of what must run, so that the constant is C(0) wherever C is convex from 0 on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.cost_curves import MOST_PIECES, CostCurve, curve_of, polynomial
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


def offers(generators: Iterable[Generator]) -> tuple[Orders, dict[str, float]]:
    """Orders of `generators`, and what an exact account needs besides.

    Output above 0 is an offer, below 0 a bid ("<name>:consumption" where a unit has both). A bid's reactive range
    counts as consumption, an offer's as production. Second: `fixed_cost_per_h`, what the costs exceed those of the
    orders by [$/h] (constant terms, and what must run where it is dearer than the next unit), and `max_price_error`
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
        q = (KW_PER_MW * unit.q_min_mvar, KW_PER_MW * unit.q_max_mvar)
        given = {"order": unit.name, "period": 0, "participant": unit.name, "bus": unit.bus, "tan_phi": 0.0}
        made = unit_orders(given, curve, q if np.isfinite(q).all() else (np.nan, np.nan), KW_PER_MW)
        rows += made[0]
        segments += made[1]
    return Orders(*order_frames(rows, segments)), {"fixed_cost_per_h": fixed, "max_price_error": error}


def unit_orders(
    given: Mapping[str, Any], curve: CostCurve, q_kvar: tuple[float, float], kw: float = 1.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of tables `orders` and `segments` for a unit that costs `curve`: an offer, a bid, or both.

    given: what both have in common (order, period, participant, bus ...); q_kvar: reactive range, counted as
    production; kw: kW in a unit of power of `curve`. Output above 0 is an offer, below 0 a bid ("<order>:consumption"
    where there is an offer too, which then has the reactive range).
    """
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    low, high = float(curve.p[0]), float(curve.p[-1])
    upward, downward = high > 0 or low == 0, low < 0
    none = (np.nan, np.nan)
    for side, used, sign, minimum, q in (
        ("offer", upward, 1.0, max(low, 0.0), q_kvar),
        ("bid", downward, -1.0, max(-high, 0.0), none if upward else (-q_kvar[1], -q_kvar[0])),
    ):
        if not used:
            continue
        name = f"{given['order']}:consumption" if upward and side == "bid" else given["order"]
        own = {"order": name, "side": side, "minimum_kw": kw * minimum, "q_min_kvar": q[0], "q_max_kvar": q[1]}
        rows.append({**given, **own})
        segments += segment_rows(name, given["period"], [(kw * w, a / kw, b / kw) for w, a, b in curve.pieces(sign)])
    return rows, segments


def segment_rows(order: str, period: int, pieces: Iterable[tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Rows of table `segments` of one order from its `pieces`: (width [kW], price at start, price at end [$/kWh])."""
    return [
        {"order": order, "period": period, "segment": number, "width_kw": width, "price_start": a, "price_end": b}
        for number, (width, a, b) in enumerate(pieces)
    ]


def order_frames(rows: list[dict[str, Any]], segments: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of tables `orders` and `segments` as frames; columns that no row has are left to their defaults."""
    have = set().union(*rows) if rows else {column.name for column in ORDER_COLUMNS}
    return (
        pd.DataFrame(rows, columns=[column.name for column in ORDER_COLUMNS if column.name in have]),
        pd.DataFrame(segments, columns=[column.name for column in SEGMENT_COLUMNS]),
    )


def _curve(unit: Generator) -> CostCurve:
    kind, numbers = unit.cost
    if not np.all(np.isfinite(numbers)) or not np.isfinite([unit.p_min_mw, unit.p_max_mw]).all():
        raise DataError(Fault("generators", "cost and output limits must be finite", unit.name, hint="fill them in"))
    curve = _polynomial(unit, np.array(numbers)) if kind == "polynomial" else _piecewise(unit, np.array(numbers))
    if curve.fall is not None:
        problem = f"the marginal cost falls with the output near {curve.fall.p_from:g} MW"
        raise DataError(Fault("generators", problem, unit.name, "cost",
                              hint="an offer must not fall: give a convex cost"))  # fmt: skip
    return curve


def _polynomial(unit: Generator, coefficients: FloatArray) -> CostCurve:
    """Exact up to the second degree; above, chords whose error is small against the range of the prices."""
    low, high = unit.p_min_mw, unit.p_max_mw
    price = np.poly1d(coefficients if len(coefficients) else [0.0]).deriv()
    span = abs(float(price(high) - price(low))) or 1.0
    curve = polynomial(coefficients[::-1], low, high, PRICE_ERROR * span)
    if curve is None:
        problem = f"the marginal cost needs more than {MOST_PIECES} segments"
        raise DataError(Fault("generators", problem, unit.name, "cost", hint="give a cost of lower degree"))
    return curve


def _piecewise(unit: Generator, numbers: FloatArray) -> CostCurve:
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

    def cost(output: float) -> float:
        which = int(np.clip(np.searchsorted(x, output, side="right") - 1, 0, len(slope) - 1))
        return float(y[which] + slope[which] * (output - x[which]))

    return curve_of(p, step, step, cost(0.0), cost(float(np.clip(0.0, low, high))))
