"""Tables of costs as orders: what units cost to run, and what loads cost to reduce.

    offer of a unit            C'(p),          p_min <= p <= p_max                    c_gen of eq. (12)
    bid of a load P0           c'(P0 - P),     P0 - r_max <= P <= P0                  c_DR(P0 - P) of eq. (12)

A load that is reduced by r = P0 - P costs c(r), so its consumption is worth u(P) = u(P0) - c(P0 - P): the value of the
last kW consumed is the cost of the first kW reduced, and the bid is the marginal cost of reduction read from its end.

Reference: El Helou et al., OpenGridGym, IEEE Trans. Smart Grid 2023, eq. (12), (14), (15).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.cost_curves import MOST_PIECES, ROUNDING, CostCurve, curve_of, polynomial
from mktopt.networks.costs import order_frames, segment_rows, unit_orders
from mktopt.networks.order_rules import DEMAND_RESPONSE, PRODUCER
from mktopt.networks.orders import BID, OFFER, ORDER_COLUMNS
from mktopt.networks.tables import Column, read_csv, read_table, refuse

Row = Mapping[Hashable, Any]
Made = tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]

_SHARED = tuple(column for column in ORDER_COLUMNS if column.name not in ("side", "minimum_kw", "role"))
_COMMON = tuple(column.name for column in _SHARED if column.name not in ("q_min_kvar", "q_max_kvar"))
COST_COLUMNS = (
    *_SHARED,
    Column("side", "text", default=OFFER, choices=(OFFER,)),
    Column("role", "text", default=PRODUCER, choices=(PRODUCER,)),
    Column("p_min_kw", default=0.0, missing=True),
    Column("p_max_kw", infinite=True),
)
REDUCTION_COLUMNS = (
    *_SHARED,
    Column("side", "text", default=BID, choices=(BID,)),
    Column("role", "text", default=DEMAND_RESPONSE, choices=(DEMAND_RESPONSE,)),
    Column("initial_kw", low=0.0),
    Column("max_reduction_kw", default=np.nan, low=0.0, missing=True),
)
# How the cost of a reduction may be given, and the columns that say so.
STEPS, AFFINE, POLYNOMIAL = "steps", "affine", "polynomial"
FORMS: dict[str, tuple[Column, ...]] = {
    STEPS: (Column("reduction_kw", low=0.0), Column("price")),
    AFFINE: (Column("price_min"), Column("price_max")),
}
_CONVEX = "give coefficients whose marginal cost rises all along, or narrower limits"


def cost_orders(costs: pd.DataFrame | str | Path, max_error: float) -> Made:
    """Tables `orders` and `segments`, and `meta`, of `Orders.from_costs`; raises DataError."""
    _check_error(max_error)
    frame = _frame(costs, "costs")
    faults: list[Fault] = []
    table, powers = _read(frame, "costs", COST_COLUMNS, faults)
    if not powers:
        hint = "give C(p) = c0 + c1 p + c2 p^2 ... in columns c1, c2 ..."
        faults.append(Fault("costs", "there is no cost", hint=hint))
    _misplaced(frame, "costs", {"minimum_kw": "what must run is p_min_kw"}, faults)
    refuse(faults)
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    account = _Account()
    for row in table.to_dict("records"):
        curve = _cost_curve(row, powers, max_error, faults)
        if curve is None:
            continue
        account.add(row, curve)
        given = {name: row[name] for name in _COMMON} | {"participant": row["participant"] or row["order"]}
        made = unit_orders(given, curve, (row["q_min_kvar"], row["q_max_kvar"]))
        rows += made[0]
        segments += made[1]
    refuse(faults)
    return *order_frames(rows, segments), account.meta()


def _cost_curve(row: Row, powers: Sequence[str], max_error: float, faults: list[Fault]) -> CostCurve | None:
    """The curve of one row of costs, None (and a fault) where it has none."""
    low, high = row["p_min_kw"], row["p_max_kw"]
    numbers = _coefficients(row, powers)
    if not low <= high:
        problem, hint = "p_min_kw is above p_max_kw", f"p_max_kw is {high:g}"
        faults.append(Fault("costs", problem, _label(row), "p_min_kw", low, hint))
        return None
    if np.isinf(high) and np.any(numbers[2:]):
        problem = "an unlimited output needs one price"
        faults.append(Fault("costs", problem, _label(row), "p_max_kw", high, "leave c2 and above out, or limit it"))
        return None
    return _polynomial(row, "costs", "output", numbers, (low, high), max_error, faults)


def reduction_orders(reductions: pd.DataFrame | str | Path, max_error: float) -> Made:
    """Tables `orders` and `segments`, and `meta`, of `Orders.from_reductions`; raises DataError."""
    _check_error(max_error)
    frame = _frame(reductions, "reductions")
    form = _form(frame)
    faults: list[Fault] = []
    table, powers = _read(frame, "reductions", (*REDUCTION_COLUMNS, *FORMS.get(form, ())), faults)
    _misplaced(frame, "reductions", {"minimum_kw": "what cannot be reduced is initial_kw - max_reduction_kw"}, faults)
    refuse(faults)
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    account = _Account()
    for row, steps in _loads(table, form, faults):
        curve = _reduction_curve(row, steps, form, powers, max_error, faults)
        if curve is None:
            continue
        account.add(row, curve)
        made = _bid(row, curve)
        rows.append(made[0])
        segments += made[1]
    refuse(faults)
    return *order_frames(rows, segments), account.meta()


def _bid(row: Row, curve: CostCurve) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The load as a bid: what cannot be reduced first, then the reductions from the dearest to the cheapest."""
    initial, most = row["initial_kw"], float(curve.p[-1])
    firm = initial - most if initial - most > ROUNDING * initial else 0.0
    pieces = [(width, b, a) for width, a, b in reversed(curve.pieces(1.0))]
    if firm > 0.0:
        pieces = [(firm, pieces[0][1], pieces[0][1]), *(piece for piece in pieces if piece[0] > 0.0)]
    shared = {column.name: row[column.name] for column in _SHARED}
    order = {**shared, "side": BID, "minimum_kw": firm, "role": DEMAND_RESPONSE}
    return order, segment_rows(row["order"], row["period"], pieces)


def _form(frame: pd.DataFrame) -> str:
    """How `frame` gives the cost of reduction; refuses none and several."""
    have = set(frame.columns)
    found = [form for form, columns in FORMS.items() if have & {column.name for column in columns}]
    found += [POLYNOMIAL] if _powers(have) else []
    if len(found) != 1:
        problem = f"several costs of reduction: {', '.join(found)}" if found else "there is no cost of reduction"
        hint = "give one of: reduction_kw, price (steps); price_min, price_max (affine); c1, c2 ... (polynomial)"
        raise DataError(Fault("reductions", problem, hint=hint))
    return found[0]


def _loads(table: pd.DataFrame, form: str, faults: list[Fault]) -> Iterable[tuple[Row, pd.DataFrame]]:
    """Each load once, with all its rows: several where these are steps."""
    if form != STEPS:
        return [(row, table) for row in table.to_dict("records")]
    steps = [column.name for column in FORMS[STEPS]]
    groups = table.groupby(["order", "period"], sort=False)
    heads = table.drop(columns=steps).drop_duplicates()
    for name, period in heads.loc[heads.duplicated(["order", "period"]), ["order", "period"]].itertuples(index=False):
        hint = "bus, initial_kw, participant and the like must be equal in all steps of an order and period"
        faults.append(Fault("reductions", f"rows of one order disagree (period {period})", name, hint=hint))
    refuse(faults)
    return [(rows.to_dict("records")[0], rows) for _, rows in groups]


def _reduction_curve(
    row: Row, steps: pd.DataFrame, form: str, powers: Sequence[str], max_error: float, faults: list[Fault]
) -> CostCurve | None:
    """The cost of reducing one load, None (and a fault) where it has none."""
    initial, most = row["initial_kw"], row["max_reduction_kw"]
    given = not np.isnan(most)
    limit = most if given else initial
    if limit > initial:
        problem = "more is reduced than the load"
        hint = f"initial_kw is {initial:g}"
        faults.append(Fault("reductions", problem, _label(row), "max_reduction_kw", limit, hint))
        return None
    if form == POLYNOMIAL:
        return _polynomial(row, "reductions", "reduction", _coefficients(row, powers), (0.0, limit), max_error, faults)
    if form == AFFINE:
        start, end = np.array([row["price_min"]]), np.array([row["price_max"]])
        p, column = np.array([0.0, limit]), "price_max"
    else:
        start = end = steps["price"].to_numpy(dtype=float)
        p, column = np.r_[0.0, np.cumsum(steps["reduction_kw"].to_numpy(dtype=float))], "price"
        if p[-1] > limit * (1 + ROUNDING):
            name = "max_reduction_kw" if given else "initial_kw"
            hint = f"{name} is {limit:g}"
            faults.append(Fault("reductions", f"the steps reduce {p[-1]:g} kW, more than there is", _label(row),
                                "reduction_kw", steps["reduction_kw"].iloc[-1], hint))  # fmt: skip
            return None
    curve = curve_of(p, start, end, 0.0, 0.0)
    if curve.fall is not None:
        fall = curve.fall
        problem = f"reducing gets cheaper: {fall.price_from:g} $/kWh, and beyond {fall.p_from:g} kW {fall.price_to:g}"
        faults.append(Fault("reductions", problem, _label(row), column, fall.price_to, "give rising prices"))
        return None
    return curve


class _Account:
    """What the orders leave out of the costs: the constants, and the greatest error of a price."""

    def __init__(self) -> None:
        self._error = 0.0
        self._fixed: dict[tuple[str, int], float] = {}

    def add(self, row: Row, curve: CostCurve) -> None:
        self._error = max(self._error, curve.error)
        if curve.constant != 0.0:
            self._fixed[row["order"], row["period"]] = curve.constant

    def meta(self) -> dict[str, Any]:
        return {"max_price_error": self._error, "fixed_cost_per_h": self._fixed}


def _polynomial(
    row: Row,
    table: str,
    what: str,
    numbers: np.ndarray[Any, np.dtype[np.float64]],
    limits: tuple[float, float],
    max_error: float,
    faults: list[Fault],
) -> CostCurve | None:
    curve = polynomial(numbers, *limits, max_error)
    if curve is None:
        problem = f"within {max_error:g} $/kWh the cost takes more than {MOST_PIECES:,} segments"
        faults.append(Fault(table, problem, _label(row), hint="allow a greater max_error"))
        return None
    if curve.fall is not None:
        fall = curve.fall
        problem = (
            f"the cost is not convex: its marginal cost falls from {fall.price_from:g} $/kWh at {fall.p_from:g} kW "
            f"of {what} to {fall.price_to:g} at {fall.p_to:g} kW"
        )
        faults.append(Fault(table, problem, _label(row), hint=_CONVEX))
        return None
    return curve


def _frame(source: Any, table: str) -> pd.DataFrame:
    """A frame as it is, a path as the CSV file there."""
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, (str, Path)):
        return read_csv(source)
    problem = f"expected a pandas DataFrame or the path of a CSV file, got {type(source).__name__}"
    raise DataError(Fault(table, problem))


def _powers(columns: Iterable[object]) -> list[str]:
    """The columns of coefficients, c0, c1 ..., lowest power first."""
    found = [str(name) for name in columns if re.fullmatch(r"c(0|[1-9]\d?)", str(name))]
    return sorted(found, key=lambda name: int(name[1:]))


def _read(
    frame: pd.DataFrame, table: str, columns: Sequence[Column], faults: list[Fault]
) -> tuple[pd.DataFrame, list[str]]:
    powers = _powers(frame.columns)
    numbers = tuple(Column(name, default=0.0, missing=True) for name in powers)
    return read_table(frame, table, (*columns, *numbers), faults, "order"), powers


def _misplaced(frame: pd.DataFrame, table: str, columns: Mapping[str, str], faults: list[Fault]) -> None:
    """Faults for columns that orders have but `table` does not."""
    for name, hint in columns.items():
        if name in frame.columns:
            faults.append(Fault(table, "the column has no place here", column=name, hint=hint))


def _coefficients(row: Row, powers: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = np.zeros(1 + max((int(name[1:]) for name in powers), default=0))
    for name in powers:
        numbers[int(name[1:])] = row[name]
    return numbers


def _label(row: Row) -> str:
    return f"{row['order']}, period {row['period']}" if row["period"] else str(row["order"])


def _check_error(max_error: float) -> None:
    if not (np.isfinite(max_error) and max_error > 0):
        raise DataError(Fault("costs", "max_error must be a finite price above zero", value=max_error,
                              hint="the price error that you accept in $/kWh, e.g. 1e-4"))  # fmt: skip
