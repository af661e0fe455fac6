"""Between a session's parameters and a market's tables: where answers stand in the arrays, what changed data mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyomo.core.expr.visitor import identify_variables

from mktopt.clearing.result import FloatArray
from mktopt.clearing.ties import Ties
from mktopt.errors import FormulationError
from mktopt.formulations.changing import places, present
from mktopt.formulations.market import Declaration
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.solvers.prices import row_prices
from mktopt.solvers.program import Program
from mktopt.solvers.sessions.data import as_slice, product_into
from mktopt.solvers.sessions.session import Session

IntArray = npt.NDArray[np.int64]
# Along an order prices may step the wrong way by rounding; this much, relative to the price, is taken for equal.
_ROUNDING = 1e-9
# Parameters that move the ends of segments, from which prices must be monotone.
_BENDING = ("ask_price", "bid_price", "ask_slope", "bid_slope", "width_kw", "firm_kw")


@dataclass(frozen=True, eq=False)
class SegmentNumbers:
    """The present numbers of all segments, each of shape (segments,)."""

    price: FloatArray
    slope: FloatArray
    lower: FloatArray
    width: FloatArray


class Layout:
    """Where orders, prices and flows stand in the arrays of a market's program. Holds no Pyomo objects."""

    def __init__(self, model: Any, declaration: Declaration, program: Program) -> None:
        network, orders = declaration.network, declaration.orders
        self.integers = bool(program.integer.any())
        segments = list(model.segment_kw.values())
        self.columns = program.columns(segments)
        self.fixed = self.columns < 0  # by a later hand
        self.fixed_kw = np.where(self.fixed, program.values(np.zeros(program.n), segments), 0.0)
        self.curves, self.sign = orders.curves, orders.injection_sign[orders.segment_order]
        self.none_fixed, self.take = not self.fixed.any(), as_slice(self.columns)
        self.single = len(segments) == len(orders) and not self.fixed.any()
        self._price_layout(model, network, program)
        self.periods = len(network.hours)
        flow = model.grid.component("p_kw")
        flows = [] if flow is None else list(flow.values())
        self.flow_columns = program.columns(flows)
        self.flow_fixed = program.values(np.zeros(program.n), flows) if flows else np.zeros(0)
        shared = list(model.grid.loss_kw.values()) if getattr(model.grid, "loss_shared", False) else []
        self.loss_columns = program.columns(shared)
        self.at, self.full = places(orders), {name: values.copy() for name, values in present(orders).items()}
        follows = np.r_[False, orders.segment_order[1:] == orders.segment_order[:-1]]
        whole = orders.orders["all_or_nothing"].to_numpy(dtype=bool)[orders.segment_order]
        self.second = np.flatnonzero(follows & ~whole)
        self.names = list(model.segments)

    def _price_layout(self, model: Any, network: Network, program: Program) -> None:
        balance = {key: program.row(row) for key, row in model.grid.balance.items()}
        keys = [(bus, t) for bus in network.buses["bus"] for t in network.periods]
        rows = np.array([balance.get(key, -1) for key in keys], dtype=np.int64)
        has = rows >= 0
        hours = np.tile(network.hours, network.n_buses)
        factor = np.full(len(rows), np.nan)  # a lone bus without orders in some period has no price there
        # A price is linear in the dual of its row: its factor is the price at a dual of one.
        factor[has] = row_prices(program, np.ones(program.m), rows[has], self.columns, self.sign, hours[has])
        self.price_rows, self.price_factor = as_slice(np.maximum(rows, 0)), factor.reshape(network.n_buses, -1)

    def touched(self, model: Any, own: list[Any]) -> npt.NDArray[np.bool_]:
        """Which segments are not free to be shared with ties: fixed, or named by a constraint of the user's own."""
        named = {id(v) for row in own for v in identify_variables(row.body)}
        return self.fixed | np.array([id(v) in named for v in model.segment_kw.values()], dtype=bool)

    def segment_kw(self, x: FloatArray) -> FloatArray:
        """Accepted kW of every segment."""
        if self.none_fixed:
            return x[self.take]
        return np.where(self.fixed, self.fixed_kw, x[self.columns])

    def dispatch(self, x: FloatArray, ties: tuple[Ties, SegmentNumbers] | None) -> FloatArray:
        """Accepted kW of every order (rows,)."""
        if not len(x):
            return np.full(self.curves.rows, np.nan)
        if self.single and ties is None:
            return x[self.columns]
        found = self.segment_kw(x)
        if ties is not None:
            data = ties[1]
            found = ties[0].share(found, data.price, data.slope, data.lower, data.width)
        return np.add.reduceat(found, self.curves.first)

    def prices(self, row_dual: FloatArray) -> FloatArray:
        """Prices (buses, periods)."""
        if not len(row_dual):
            return np.full(self.price_factor.shape, np.nan)
        return self.price_factor * row_dual[self.price_rows].reshape(self.price_factor.shape)

    def flows(self, x: FloatArray) -> FloatArray:
        """Flows (branches, periods)."""
        if not len(x):
            return np.full(len(self.flow_columns), np.nan).reshape(-1, self.periods)
        found = np.where(self.flow_columns < 0, self.flow_fixed, x[self.flow_columns])
        if len(self.loss_columns):  # `p_kw` of the model is the mean of both ends
            found = found + np.where(self.loss_columns < 0, 0.0, 0.5 * x[self.loss_columns])
        return found.reshape(-1, self.periods)

    def data(self, session: Session) -> SegmentNumbers:
        """The present numbers of all segments."""
        full = {name: values.copy() for name, values in self.full.items()}
        for name, column in _COLUMN.items():
            if len(self.at[name]):
                full[column][self.at[name]] = session.get(name)
        lower = full["least_kw"]
        lower[self.at["firm_kw"]] = full["width_kw"][self.at["firm_kw"]]
        return SegmentNumbers(full["ask_price"], full["ask_slope"], lower, full["width_kw"])

    def refuse_bent(self, session: Session) -> None:
        """Raises FormulationError where a bid's price rises or an offer's falls from one segment to the next."""
        data, second = self.data(session), self.second
        first = second - 1
        width = np.where(np.isfinite(data.width[first]), data.width[first], 0.0)
        end = data.price[first] + self.sign[first] * data.slope[first] * width
        start = data.price[second]
        step = self.sign[second] * (start - end)
        wrong = step < -_ROUNDING * np.maximum(1.0, np.maximum(np.abs(start), np.abs(end)))
        if wrong.any():
            k = int(wrong.argmax())
            order, period, segment = self.names[second[k]]
            offer = self.sign[second[k]] > 0
            raise FormulationError(
                f"order {order!r}, period {period}: segment {segment} of this {'offer' if offer else 'bid'} starts at"
                f" {start[k]:g} $/kWh, {'below' if offer else 'above'} the {end[k]:g} at which the one before it ends;"
                f" along an order prices must not {'fall' if offer else 'rise'}"
            )


class Monotone:
    """A quick look at whether prices are monotone along all orders; `Layout.refuse_bent` looks closely.

    The step from segment k-1 to segment k of an order is  s (price_k - price_{k-1}) - slope_{k-1} width_{k-1}  (s: +1
    for offers, -1 for bids): affine in the parameters but for the products.
    """

    def __init__(self, layout: Layout, session: Session) -> None:
        from scipy.sparse import csr_array

        self._layout, self._session = layout, session
        second, sign = layout.second, layout.sign[layout.second]
        self.dirty = session.mask(_BENDING) if len(second) else 0
        where = {"price": np.full(len(layout.sign), -1), "slope": np.full(len(layout.sign), -1)}
        where["width"] = where["slope"].copy()
        for name in _BENDING:
            if len(layout.at[name]) and name in session.names:
                start = session.place(name).start
                where[name.split("_")[0 if "kw" in name else 1].replace("firm", "width")][layout.at[name]] = (
                    start + np.arange(len(layout.at[name]))
                )
        rows = np.arange(len(second))
        columns = np.r_[where["price"][second], where["price"][second - 1]]
        shape = len(rows), len(session.theta)
        self._add_steps = product_into(csr_array((np.r_[sign, -sign], (np.r_[rows, rows], columns)), shape=shape))
        self._step = np.zeros(len(rows))
        slope, width = where["slope"][second - 1], where["width"][second - 1]
        self._sloped = np.flatnonzero((slope >= 0) & (width >= 0))
        self._slope, self._width = slope[self._sloped], width[self._sloped]

    def check(self) -> None:
        """Raises FormulationError where they are not."""
        theta, step = self._session.theta, self._step
        step.fill(0.0)
        self._add_steps(theta, step)
        if len(self._sloped):
            step[self._sloped] -= theta[self._slope] * theta[self._width]
        if not np.minimum.reduce(step) >= -_ROUNDING:
            self._layout.refuse_bent(self._session)


def order_values(at: Mapping[str, IntArray], new: Orders) -> dict[str, FloatArray]:
    """The values of a session's parameters that `new` orders have; at: the places of these."""
    full = present(new)
    return {name: full[name][positions] for name, positions in at.items() if len(positions)}


def rating_values(names: Mapping[str, list[Any]], network: Network) -> dict[str, FloatArray]:
    """The values of `rating_kva`, or of its square, that a network has."""
    rating = dict(zip(network.lines["branch"], network.lines["rating_kva"].tolist(), strict=True))
    return {
        name: np.array([rating[branch] for branch, _ in names[name]]) ** power
        for name, power in RATINGS.items()
        if name in names
    }


def changed_orders(at: Mapping[str, IntArray], orders: Orders, parts: Mapping[str, FloatArray]) -> Orders:
    """`orders` with the numbers of a session's parameters; at: the places of these.

    Slopes become end prices. An order that is all or nothing is known by its whole value alone: its prices are
    multiplied to have it, or flat where the value changes its sign.
    """
    old, sign = present(orders), orders.injection_sign[orders.segment_order]
    new = {name: values.copy() for name, values in old.items()}
    for name, column in _COLUMN.items():
        if name in parts:
            new[column][at[name]] = parts[name]
    lower = np.where(np.isin(np.arange(len(sign)), at["firm_kw"]), new["width_kw"], new["least_kw"])
    start, width, steep = new["ask_price"], new["width_kw"], new["ask_slope"]
    kept = np.isin(orders.segment_order, at["whole_value"]) | (
        (start == old["ask_price"]) & (width == old["width_kw"]) & (steep == old["ask_slope"])
    )
    end = np.where(kept, orders.curves.end, start + sign * steep * np.where(np.isfinite(width), width, 0.0))
    minimum = np.bincount(orders.segment_order, lower, len(orders))
    table = orders.orders.assign(minimum_kw=minimum)
    segments = orders.segments.assign(width_kw=width, price_start=start, price_end=end)
    found = Orders(table, segments, orders.meta)
    rows = at["whole_value"]
    if not len(rows) or "whole_value" not in parts:
        return found
    have, asked, total = present(found)["whole_value"][rows], parts["whole_value"], found.width_kw[rows]
    alike = have * asked > 0.0
    factor, level = np.ones(len(orders)), np.zeros(len(orders))
    factor[rows] = np.where(alike, asked / np.where(alike, have, 1.0), 0.0)
    level[rows] = np.where(alike | (total == 0.0), 0.0, asked / np.where(total == 0.0, 1.0, total))
    factor, level = factor[orders.segment_order], level[orders.segment_order]
    segments = segments.assign(price_start=start * factor + level, price_end=end * factor + level)
    return Orders(table, segments, orders.meta)


# The column of `present` that each parameter is part of.
_COLUMN = {
    "ask_price": "ask_price",
    "bid_price": "ask_price",
    "ask_slope": "ask_slope",
    "bid_slope": "ask_slope",
    "width_kw": "width_kw",
    "firm_kw": "width_kw",
    "least_kw": "least_kw",
}


def changed_network(network: Network, parts: Mapping[str, FloatArray], keys: Mapping[str, list[Any]]) -> Network:
    """`network` with the ratings of a session's parameters: the greatest, where those of the periods differ."""
    name = next((name for name in RATINGS if name in parts), None)
    if name is None:
        return network
    most: dict[str, float] = {}
    for (branch, _), value in zip(keys[name], parts[name].tolist(), strict=True):
        most[branch] = max(value ** (1.0 / RATINGS[name]), most.get(branch, 0.0))
    branches = network.branches
    rating_kva = branches["branch"].map(most).fillna(branches["rating_kva"]).where(branches["in_service"])
    return network.replace(branches=branches.assign(rating_kva=rating_kva.fillna(branches["rating_kva"])))


def refuse_other_market(orders: Orders, new: Orders, at: Mapping[str, IntArray]) -> None:
    """Raises FormulationError unless `new` has the orders, segments and structure of `orders`."""
    for name, one, other in (("orders", orders.orders, new.orders), ("segments", orders.segments, new.segments)):
        keys = ["order", "period"] + (["segment"] if name == "segments" else [])
        mine, theirs = (list(frame[keys].itertuples(index=False, name=None)) for frame in (one, other))
        if mine != theirs:
            odd = [key for key in theirs if key not in set(mine)] + [key for key in mine if key not in set(theirs)]
            what = f"{keys} {odd[0]}" if odd else "the sequence of rows"
            raise _structure(f"table '{name}' differs in {what}", "keep the same orders and segments, in the same rows")
    for column in ("bus", "side", "role", "all_or_nothing", "tan_phi", "q_min_kvar", "q_max_kvar"):
        was, now = orders.orders[column], new.orders[column]
        wrong = ~((was == now) | (was.isna() & now.isna())).to_numpy()
        if wrong.any():
            k = int(wrong.argmax())
            raise _structure(
                f"order {orders.orders.at[k, 'order']!r} has {column} {_text(now[k])} instead of {_text(was[k])}",
                "withdraw an order by setting its width to 0",
            )
    _refuse_other_segments(new, at)


def _refuse_other_segments(new: Orders, at: Mapping[str, IntArray]) -> None:
    full, segments = present(new), new.segments
    count = len(segments)

    def among(*names: str) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(count), np.concatenate([at[name] for name in names]))

    whole = new.orders["all_or_nothing"].to_numpy(dtype=bool)[new.segment_order]
    loose = (~new.firm & (new.width_kw > 0))[new.segment_order]
    limited, width, least = among("width_kw", "firm_kw"), full["width_kw"], full["least_kw"]
    checks = (
        (np.isfinite(width) & ~limited, "a finite width_kw", "give it a large finite width from the start"),
        (np.isinf(width) & limited, "an infinite width_kw", "give it a large finite width"),
        (
            (full["ask_slope"] > 0) & ~whole & ~among("ask_slope", "bid_slope"),
            "a slope, and the market was built without any",
            "build it with at least one sloped segment",
        ),
        (
            (least > 0) & ~among("least_kw", "firm_kw"),
            "a minimum_kw, and was built without",
            "build it with a positive minimum that reaches into this segment",
        ),
        (among("firm_kw") & loose, "a width above its minimum_kw, and was built firm", "keep both equal"),
    )
    for wrong, what, cure in checks:
        if wrong.any():
            k = int(wrong.argmax())
            row = segments.iloc[k]
            where = f"order {row['order']!r}, period {row['period']}, segment {row['segment']}"
            raise _structure(f"{where} has {what}", cure)


def refuse_other_network(network: Network, new: Network) -> None:
    """Raises FormulationError unless `new` is the same grid but for ratings."""
    for name, one, other, columns in (
        ("buses", network.buses, new.buses, ["bus", "base_kv", "v_min_pu", "v_max_pu"]),
        ("branches", network.lines, new.lines, [c for c in network.lines.columns if c not in _FREE]),
        ("shunts", network.shunts, new.shunts, list(network.shunts.columns)),
    ):
        if len(one) != len(other):
            raise _structure(f"table '{name}' has {len(other)} rows instead of {len(one)}", "")
        for column in columns:
            left, right = one[column], other[column]
            wrong = ~((left == right) | (left.isna() & right.isna())).to_numpy()
            if wrong.any():
                k = int(wrong.argmax())
                what = f"{column} {_text(right[k])} instead of {_text(left[k])}"
                raise _structure(f"{name} {one.iloc[k, 0]!r} has {what}", "")
    if network.source_bus != new.source_bus or network.source_v_pu != new.source_v_pu:
        raise _structure("the source is another", "")
    if list(network.hours) != list(new.hours):
        raise _structure("the periods have other lengths", "")


# The Params that hold ratings, and the power of the rating that each is (an apparent power is limited by a square).
RATINGS = {"rating_kva": 1, "rating_kva2": 2}
# Columns of branches that enter no program, or as a parameter.
_FREE = {"rating_kva", "length_km", "owner", "kind"}


def _text(value: Any) -> str:
    return repr(value.item() if hasattr(value, "item") else value)


def _structure(what: str, cure: str) -> FormulationError:
    return FormulationError(
        f"{what}: that is another structure, which a session does not take;"
        f" {cure + ', or ' if cure else ''}build a new parametric model and a new session"
    )
