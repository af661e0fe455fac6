"""Bids and offers as frozen tables: piecewise affine price curves, one per order and period.

Segment s of an order accepts 0 <= x_s <= width_kw; its price runs in a straight line from `price_start` to
`price_end`. Along an order a bid's price never rises and an offer's never falls, so that clearing is convex.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.order_rules import ROLES, default_roles, shape_faults
from mktopt.networks.tables import Column, duplicates, read_csv, read_table, refuse, unknown_values

if TYPE_CHECKING:
    from pathlib import Path

    from mktopt.networks.curves import Curves
    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BID, OFFER = "bid", "offer"

ORDER_COLUMNS = (
    Column("order", "text"),
    Column("period", "integer", default=0, low=0, missing=True),
    Column("participant", "text", default=""),
    Column("bus", "text"),
    Column("side", "text", choices=(BID, OFFER)),
    Column("minimum_kw", default=0.0, low=0.0, missing=True),
    Column("all_or_nothing", "flag", default=False),
    Column("tan_phi", default=0.0, missing=True),
    Column("q_min_kvar", default=np.nan, missing=True),
    Column("q_max_kvar", default=np.nan, missing=True),
    Column("role", "text", default="", choices=ROLES),
)
SEGMENT_COLUMNS = (
    Column("order", "text"),
    Column("period", "integer", default=0, low=0, missing=True),
    Column("segment", "integer", default=0, low=0, missing=True),
    Column("width_kw", low=0.0, infinite=True),
    Column("price_start"),
    Column("price_end"),
)
CURVE_COLUMNS = (
    *(column for column in ORDER_COLUMNS),
    Column("q_min_kw", low=0.0, default=0.0, missing=True),
    Column("q_max_kw", low=0.0),
    Column("price_min"),
    Column("price_max"),
)
STEP_COLUMNS = (*ORDER_COLUMNS, Column("width_kw", low=0.0, infinite=True), Column("price"))


@dataclass(frozen=True, eq=False)
class Orders:
    """All bids and offers of a market, frozen and validated.

    orders (one row per order and period): order, period, participant (default: the order's name), bus,
    side (bid | offer), minimum_kw (hard lower bound, 0), all_or_nothing (no), tan_phi (kvar per kW, 0),
    q_min_kvar, q_max_kvar (a free reactive range instead; empty = none), role (producer | consumer |
    demand_response; an offer's is producer, a bid's consumer; demand response is a bid of the initial load);
    segments: order, period, segment, width_kw (inf only in a last, flat segment), price_start, price_end [$/kWh].
    An order is *firm* where minimum_kw equals its whole width; its prices are then its value of lost load.

    Raises DataError with every fault: duplicate names, unknown sides, text or NaN where a number belongs,
    negative widths, a rising bid, a falling offer, a minimum above the width, demand response that is an offer.
    """

    orders: pd.DataFrame
    segments: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        orders = read_table(self.orders, "orders", ORDER_COLUMNS, faults, "order")
        segments = read_table(self.segments, "segments", SEGMENT_COLUMNS, faults, "order")
        refuse(faults)
        unnamed = (orders["participant"] == "").to_numpy()
        orders.loc[unnamed, "participant"] = orders.loc[unnamed, "order"]
        orders["role"] = np.where(orders["role"] == "", default_roles(orders), orders["role"])
        duplicates(orders, "orders", ["order", "period"], faults)
        duplicates(segments, "segments", ["order", "period", "segment"], faults)
        refuse(faults)
        segments = _aligned(orders, segments, faults)
        refuse(faults)
        object.__setattr__(self, "orders", orders)
        object.__setattr__(self, "segments", segments)
        refuse(shape_faults(self))

    # -- makers ---------------------------------------------------------------------------------------------

    @classmethod
    def none(cls) -> Orders:
        """No orders at all: those of a market whose participants are others."""
        columns = (ORDER_COLUMNS, SEGMENT_COLUMNS)
        orders, segments = (pd.DataFrame({column.name: [] for column in part}) for part in columns)
        return cls(orders, segments)

    @classmethod
    def from_curves(cls, frame: pd.DataFrame, meta: Mapping[str, Any] | None = None) -> Orders:
        """Orders from the quadruples of OpenGridGym: columns order, bus, side, q_max_kw, price_min, price_max.

        Optional: participant, period (0), q_min_kw (0) and the optional columns of table `orders`. Up to `q_min_kw`
        the price is flat (price_max of a bid, price_min of an offer); from there to `q_max_kw` it is affine:

            p_s = (p_max - p_min) / (q_max - q_min) (q_s - q_min) + p_min        (eq. 2)
            p_d = (p_min - p_max) / (q_max - q_min) (q_d - q_min) + p_max        (eq. 3)

        Raises DataError unless p_max >= p_min (eq. 4) and q_max > q_min (eq. 5).
        Reference: El Helou et al., OpenGridGym, IEEE Trans. Smart Grid 2023.
        """
        faults: list[Fault] = []
        table = read_table(frame, "curves", CURVE_COLUMNS, faults, "order")
        refuse(faults)
        q_min, q_max = table["q_min_kw"].to_numpy(), table["q_max_kw"].to_numpy()
        low, high = table["price_min"].to_numpy(), table["price_max"].to_numpy()
        for row in np.flatnonzero(q_max <= q_min)[:50]:
            hint = f"q_min_kw is {q_min[row]:g}; a curve needs q_max_kw > q_min_kw (eq. 5)"
            faults.append(Fault("curves", "q_max <= q_min", table.at[row, "order"], "q_max_kw", q_max[row], hint))
        for row in np.flatnonzero(high < low)[:50]:
            hint = f"price_min is {low[row]:g}; a curve needs price_max >= price_min (eq. 4)"
            faults.append(Fault("curves", "p_max < p_min", table.at[row, "order"], "price_max", high[row], hint))
        refuse(faults)
        bid = (table["side"] == BID).to_numpy()
        flat = q_min > 0
        first, last = np.where(bid, high, low), np.where(bid, low, high)
        names, period = table["order"].to_numpy(), table["period"].to_numpy()
        segments = pd.DataFrame({
            "order": np.r_[names, names[flat]],
            "period": np.r_[period, period[flat]],
            "segment": np.r_[np.where(flat, 1, 0), np.zeros(flat.sum(), dtype=int)],
            "width_kw": np.r_[q_max - q_min, q_min[flat]],
            "price_start": np.r_[first, first[flat]],
            "price_end": np.r_[last, first[flat]],
        })  # fmt: skip
        return cls(table[[column.name for column in ORDER_COLUMNS]], segments, meta or {})

    @classmethod
    def from_steps(cls, frame: pd.DataFrame, meta: Mapping[str, Any] | None = None) -> Orders:
        """Orders from flat steps, one row each: columns order, bus, side, width_kw, price [$/kWh].

        Steps of one order and period follow each other best price first. Optional: the other columns of table
        `orders`, equal in all rows of an order and period. Raises DataError.
        """
        faults: list[Fault] = []
        table = read_table(frame, "steps", STEP_COLUMNS, faults, "order")
        refuse(faults)
        table["segment"] = table.groupby(["order", "period"], sort=False).cumcount()
        table["price_start"] = table["price_end"] = table["price"]
        return cls(*_split(table, "steps"), meta or {})

    @classmethod
    def from_costs(cls, costs: pd.DataFrame | str | Path, max_error: float = 1e-4) -> Orders:
        """Offers of units with polynomial costs C(p) = c0 + c1 p + c2 p^2 + ... [$/h], p in kW, of any degree.

        costs: a frame or CSV file, one row per order and period: order, bus, p_max_kw, c1 and as many of c0, c2,
        c3 ... as there are (empty = 0). Optional: p_min_kw (0; what lies between it and 0 must run; below 0 the unit
        also consumes, by a bid "<order>:consumption") and the other columns of table `orders`. A p_max_kw of inf
        needs a constant price. The price C'(p) is exact up to c2, and else nowhere more than `max_error` [$/kWh] off.
        `meta`: `max_price_error`, that bound; `fixed_cost_per_h`, what C exceeds the orders' cost by, per (order,
        period). Raises DataError; for a cost that is not convex between the limits it says where its price falls.
        """
        from mktopt.networks.cost_tables import cost_orders

        return cls(*cost_orders(costs, max_error))

    @classmethod
    def from_reductions(cls, reductions: pd.DataFrame | str | Path, max_error: float = 1e-4) -> Orders:
        """Demand response: bids of initial loads whose reduction by r kW costs c(r) [$/h], 0 <= r <= max_reduction_kw.

            u(P) = u(P0) - c(P0 - P),   u'(P) = c'(P0 - P),   P0 - max_reduction_kw <= P <= P0 = initial_kw

        reductions: a frame or CSV file: order, bus, initial_kw, and c as one of: steps (reduction_kw, price; several
        rows, cheapest first), an affine marginal price (price_min at r = 0, price_max at max_reduction_kw), or a
        polynomial (c1, c2 ... as in `from_costs`). Optional: max_reduction_kw (initial_kw; of steps, their sum) and
        the other columns of table `orders`. What cannot be reduced is `minimum_kw`, at the price of the dearest
        reduction. Steps and affine prices are exact; `max_error` and `meta` are as in `from_costs`.

        Raises DataError where reducing gets cheaper along r. Reference: OpenGridGym, eq. (12), (15).
        """
        from mktopt.networks.cost_tables import reduction_orders

        return cls(*reduction_orders(reductions, max_error))

    @classmethod
    def from_csv(cls, path: str | Path) -> Orders:
        """Orders from a CSV file: one row per segment, or one per quadruple, step, cost or reduction.

        Its columns tell: those of tables `orders` and `segments` joined, or of `from_reductions` (initial_kw),
        `from_costs` (p_max_kw), `from_curves` (q_max_kw, price_min, price_max) or `from_steps` (width_kw, price).
        Raises DataError naming row, column and value.
        """
        frame = read_csv(path)
        if len(frame) == 0:
            raise DataError(Fault(str(path), "the file has a header but no rows", hint="add at least one order"))
        if "initial_kw" in frame.columns:
            return cls.from_reductions(frame)
        if "p_max_kw" in frame.columns:
            return cls.from_costs(frame)
        if {"price_min", "price_max"} & set(frame.columns):
            return cls.from_curves(frame)
        if "price" in frame.columns:
            return cls.from_steps(frame)
        joined = {column.name: column for column in (*ORDER_COLUMNS, *SEGMENT_COLUMNS)}
        faults: list[Fault] = []
        table = read_table(frame, "orders", tuple(joined.values()), faults, "order")
        refuse(faults)
        if "segment" not in frame.columns:
            table["segment"] = table.groupby(["order", "period"], sort=False).cumcount()
        return cls(*_split(table, "orders"))

    def to_csv(self, path: str | Path) -> None:
        """Writes the join of both tables, one row per segment; `from_csv` reads it back unchanged."""
        from mktopt.networks.files import write_text

        write_text(path, self.joined().to_csv(index=False))

    def joined(self) -> pd.DataFrame:
        """Tables `orders` and `segments` as one, a row per segment; without roles where sides say them all."""
        table = self.orders
        if (table["role"].to_numpy() == default_roles(table)).all():
            table = table.drop(columns="role")
        left = table.iloc[self.segment_order].reset_index(drop=True)
        return pd.concat([left, self.segments[["segment", "width_kw", "price_start", "price_end"]]], axis=1)

    # -- derived, computed once -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.orders)

    @cached_property
    def is_bid(self) -> npt.NDArray[np.bool_]:
        """Whether each row of `orders` is a bid, shape (rows,)."""
        return (self.orders["side"] == BID).to_numpy()

    @cached_property
    def injection_sign(self) -> FloatArray:
        """+1 for offers, -1 for bids: the sign of an accepted kW in the injection of its bus, shape (rows,)."""
        return np.where(self.is_bid, -1.0, 1.0)

    @cached_property
    def segment_order(self) -> IntArray:
        """Row in `orders` of each segment, shape (segments,); segments are grouped by it, best price first."""
        counts = self._segments_per_order
        return np.repeat(np.arange(len(self.orders)), counts)

    @cached_property
    def _segments_per_order(self) -> IntArray:
        numbers = _keys(self.orders, self.segments)
        return np.bincount(numbers[1], minlength=len(self.orders))

    @cached_property
    def width_kw(self) -> FloatArray:
        """Whole width of each order row [kW], shape (rows,)."""
        widths = self.segments["width_kw"].to_numpy(dtype=float)
        return np.bincount(self.segment_order, weights=widths, minlength=len(self.orders)).astype(float)

    @cached_property
    def firm(self) -> npt.NDArray[np.bool_]:
        """Whether each order row is firm: minimum_kw equals a positive width, shape (rows,)."""
        minimum = self.orders["minimum_kw"].to_numpy()
        return (minimum >= self.width_kw * (1 - 1e-12)) & (minimum > 0)

    @cached_property
    def curves(self) -> Curves:
        """The price curves as arrays: value, marginal price and filling of segments."""
        from mktopt.networks.curves import Curves

        return Curves(self)

    # -- new orders from these ------------------------------------------------------------------------------

    def merge(self, *others: Orders) -> Orders:
        """These and all `others` as one; raises DataError where a name and period stand twice.

        Of the parts' `max_price_error` the greatest holds, `fixed_cost_per_h` are joined; of other entries of `meta`
        the last counts.
        """
        parts = (self, *others)
        meta: dict[str, Any] = {}
        for part in parts:
            meta.update(_joined_meta(meta, part.meta))
        return Orders(
            pd.concat([part.orders for part in parts], ignore_index=True),
            pd.concat([part.segments for part in parts], ignore_index=True),
            meta,
        )

    def select(self, rows: npt.ArrayLike) -> Orders:
        """The orders at the given rows of `orders` (positions or a mask)."""
        chosen = np.asarray(rows)
        positions = np.arange(len(self.orders))[chosen if chosen.size else np.zeros(0, dtype=np.int64)]
        keep = np.isin(self.segment_order, positions)
        return Orders(self.orders.iloc[positions], self.segments[keep], self.meta)

    def without(self, orders: Iterable[str]) -> Orders:
        """All but the named `orders`."""
        return self.select(~self.orders["order"].isin(set(orders)).to_numpy())

    def check(self, network: Network) -> None:
        """Raises DataError where these orders do not fit `network`: unknown bus, a period that it does not have,
        or an arbitrage loop at the source (one participant exports there dearer than it imports)."""
        faults: list[Fault] = []
        unknown_values(self.orders, "orders", "order", "bus", network.buses["bus"], faults, "buses")
        late = (self.orders["period"] >= len(network.hours)).to_numpy()
        for row in np.flatnonzero(late)[:50]:
            hint = f"the network has periods 0 to {len(network.hours) - 1}; give it longer `hours`"
            faults.append(Fault("orders", "no such period", self.orders.at[row, "order"], "period",
                                self.orders["period"].to_numpy()[row].item(), hint))  # fmt: skip
        refuse(faults)
        self._refuse_arbitrage(network.source_bus)

    def _refuse_arbitrage(self, source_bus: str) -> None:
        # what must be taken or given is no trade
        at_source = self.orders[(self.orders["bus"] == source_bus).to_numpy() & ~self.firm]
        if at_source["side"].nunique() < 2:
            return
        first = self.curves.first_price[at_source.index.to_numpy()]
        best = at_source.assign(price=first).groupby(["participant", "period", "side"])["price"]
        table = pd.DataFrame({"high": best.max(), "low": best.min()}).unstack("side")
        high, low = table["high"][BID].to_numpy(), table["low"][OFFER].to_numpy()
        for (participant, period), buys, sells in zip(table.index.to_list(), high, low, strict=True):
            if buys > sells:
                problem = f"arbitrage loop: {participant!r} buys at {buys:g} what it sells at {sells:g} $/kWh"
                hint = "the export price must not exceed the import price; name other participants apart"
                raise DataError(Fault("orders", f"{problem} at the source bus, period {period}", hint=hint))

    def __repr__(self) -> str:
        bids = int(self.is_bid.sum())
        return f"Orders({bids} bids, {len(self.orders) - bids} offers, {len(self.segments)} segments)"


def _joined_meta(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`second`, with what only both together can say."""
    result = dict(second)
    if "max_price_error" in first and "max_price_error" in second:
        result["max_price_error"] = max(first["max_price_error"], second["max_price_error"])
    fixed = [part.get("fixed_cost_per_h") for part in (first, second)]
    if all(isinstance(costs, Mapping) for costs in fixed):
        result["fixed_cost_per_h"] = {**fixed[0], **fixed[1]}  # type: ignore[dict-item]
    return result


def _keys(orders: pd.DataFrame, segments: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """The row in `orders` of each row of `orders` (0, 1, ...) and of `segments` (-1: none)."""
    periods = 1 + max(_top(orders), _top(segments))
    codes, names = pd.factorize(orders["order"])
    inner = pd.Index(names).get_indexer(segments["order"])
    left = codes.astype(np.int64) * periods + orders["period"].to_numpy()
    right = np.where(inner < 0, -1, inner * periods + segments["period"].to_numpy())
    return np.arange(len(orders)), pd.Index(left).get_indexer(right)


def _top(frame: pd.DataFrame) -> int:
    return int(frame["period"].max()) if len(frame) else 0


def _aligned(orders: pd.DataFrame, segments: pd.DataFrame, faults: list[Fault]) -> pd.DataFrame:
    """`segments` grouped in the sequence of `orders`, by segment number within; faults for orphans."""
    row = _keys(orders, segments)[1]
    for position in np.flatnonzero(row < 0)[:50]:
        period = segments.at[position, "period"]
        faults.append(Fault("segments", f"no such order in period {period} of table 'orders'",
                            segments.at[position, "order"], "order", segments.at[position, "order"]))  # fmt: skip
    counts = np.bincount(row[row >= 0], minlength=len(orders))
    for position in np.flatnonzero(counts == 0)[:50]:
        faults.append(Fault("orders", "the order has no segment", orders.at[position, "order"],
                            hint="add a row to table 'segments'"))  # fmt: skip
    if faults:
        return segments
    number = segments["segment"].to_numpy()
    if np.all((np.diff(row) > 0) | ((np.diff(row) == 0) & (np.diff(number) > 0))):
        return segments
    return segments.iloc[np.lexsort((number, row))].reset_index(drop=True)


def _split(joined: pd.DataFrame, table: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `orders` and `segments` of their join; refuses an order whose rows disagree about the order itself."""
    columns = [column.name for column in ORDER_COLUMNS]
    orders = joined[columns].drop_duplicates(ignore_index=True)
    doubled = orders[orders.duplicated(["order", "period"])]
    faults = [
        Fault(table, f"rows of one order disagree (period {row.period})", row.order,
              hint="bus, side, participant and the like must be equal in all rows of an order and period")
        for row in doubled.itertuples()
    ]  # fmt: skip
    refuse(faults)
    return orders, joined[[column.name for column in SEGMENT_COLUMNS]].copy()
