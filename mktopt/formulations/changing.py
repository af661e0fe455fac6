"""Data that may change between clearings: numbers in an ordinary model, mutable Params in a parametric one.

A parametric market model holds, in `session.set(name, ...)` and on the model under the same names,

    ask_price, bid_price  [order, period, segment]  price_start of offers' and bids' segments [$/kWh]
    ask_slope, bid_slope  [order, period, segment]  |price_end - price_start| / width [$/kWh per kW]
    width_kw              [order, period, segment]  finite widths of segments that are not firm [kW]
    least_kw              [order, period, segment]  the part of a segment that a minimum fills, where there is one [kW]
    firm_kw               [order, period, segment]  widths of firm orders: lower bound = upper bound [kW]
    whole_value           [order, period]           value (bid) or cost (offer) of an all-or-nothing order [$/h]
    rating_kva            [branch, period]          finite ratings, in `model.grid` [kVA]
    rating_kva2           [branch, period]          their squares, where apparent power is limited by a circle [kVA^2]

each of which enters the program affinely. (Price times width does not, so an all-or-nothing order enters by its whole
value.) Where no segment has a slope the market is an LP and stays one: there are no slopes to set. Where one has, all
segments of finite width have, so that a flat one may become affine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo

from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ATTRIBUTE = "_mktopt_parametric"
# Prices may have any sign; everything else is a size.
SIGNED = ("ask_price", "bid_price", "whole_value")


def allow_changes(model: Any, parametric: bool) -> None:
    """Says, before anything is declared on `model`, whether its changing data become mutable Params."""
    object.__setattr__(model, _ATTRIBUTE, parametric)


def is_parametric(block: Any) -> bool:
    """Whether the changing data of the model that `block` belongs to are mutable Params."""
    return bool(getattr(block.model(), "__dict__", {}).get(_ATTRIBUTE, False))


def numbers(block: Any, name: str, index: Iterable[Any], values: npt.ArrayLike) -> list[Any]:
    """`values`, one per key of `index`: as floats, or as entries of a new mutable Param `block.name[key]`.

    A flow or mechanism writes its coefficients and limits with what this returns, and is parametric where the model is.
    Nothing is declared for an empty index.
    """
    listed: list[float] = np.asarray(values, dtype=float).tolist()
    if not is_parametric(block) or not listed:
        return listed
    domain = pyo.Reals if name in SIGNED else pyo.NonNegativeReals
    keys = list(index)
    values_of = dict(zip(keys, listed, strict=True))
    block.add_component(name, pyo.Param(keys, initialize=values_of, mutable=True, within=domain))
    return list(block.component(name).values())


def places(orders: Orders) -> dict[str, IntArray]:
    """Which segments (rows of `orders.orders` for `whole_value`) each Param of a parametric model holds.

    Every position stands in the sequence of its table, which is that of the Param's index.
    """
    curves = orders.curves
    bid, firm = orders.is_bid[curves.owner], orders.firm[curves.owner]
    whole = orders.orders["all_or_nothing"].to_numpy(dtype=bool)
    priced, finite = ~whole[curves.owner], np.isfinite(curves.width)
    sloped = priced & finite & bool((priced & (curves.slope != 0)).any())
    least = curves.fill(orders.orders["minimum_kw"].to_numpy()) > 0
    masks = {
        "ask_price": priced & ~bid,
        "bid_price": priced & bid,
        "ask_slope": sloped & ~bid,
        "bid_slope": sloped & bid,
        "width_kw": finite & ~firm,
        "least_kw": least & ~firm,
        "firm_kw": firm,
        "whole_value": whole,
    }
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def present(orders: Orders) -> dict[str, FloatArray]:
    """The numbers of all segments (rows of `orders.orders` for `whole_value`) under the names of the Params."""
    curves = orders.curves
    steep = np.maximum(orders.injection_sign[curves.owner] * curves.slope, 0.0)
    whole = orders.orders["all_or_nothing"].to_numpy(dtype=bool)
    return {
        "ask_price": curves.start,
        "bid_price": curves.start,
        "ask_slope": steep,
        "bid_slope": steep,
        "width_kw": curves.width,
        "least_kw": curves.fill(orders.orders["minimum_kw"].to_numpy()),
        "firm_kw": curves.width,
        "whole_value": curves.value(np.where(whole, orders.width_kw, 0.0)),
    }


@dataclass(frozen=True, eq=False)
class SegmentData:
    """The numbers of a market's segments, entry by entry a float or a mutable Param.

    price, slope, lower, upper: arrays of shape (segments,), of objects in a parametric model; value: shape (rows of
    `orders.orders`,); sloped: bool (segments,), which segments have a slope to write.
    """

    price: Any
    slope: Any
    lower: Any
    upper: Any
    value: Any
    sloped: npt.NDArray[np.bool_]


def segment_data(model: Any, orders: Orders, index: Sequence[tuple[str, int, int]]) -> SegmentData:
    """The numbers of all segments, as Params of `model` where it is parametric; index: of the segments."""
    full = present(orders)
    if not is_parametric(model):
        curves = orders.curves
        slope = orders.injection_sign[curves.owner] * curves.slope
        return SegmentData(curves.start, slope, full["least_kw"], curves.width, full["whole_value"], slope != 0)
    rows, at = list(zip(orders.orders["order"], orders.orders["period"].tolist(), strict=True)), places(orders)
    columns = {name: full[name].astype(object) for name in ("ask_price", "ask_slope", "least_kw", "width_kw")}
    price, slope, lower, upper = columns.values()
    value = full["whole_value"].astype(object)
    into = {
        "ask_price": [price],
        "bid_price": [price],
        "ask_slope": [slope],
        "bid_slope": [slope],
        "width_kw": [upper],
        "least_kw": [lower],
        "firm_kw": [lower, upper],
        "whole_value": [value],
    }
    for name, positions in at.items():
        keys = rows if name == "whole_value" else index
        entries = numbers(model, name, [keys[k] for k in positions], full[name][positions])
        for column in into[name]:
            column[positions] = entries
    sloped = np.zeros(len(index), dtype=bool)
    sloped[np.r_[at["ask_slope"], at["bid_slope"]]] = True
    return SegmentData(price, slope, lower, upper, value, sloped)


def rated(network: Network) -> IntArray:
    """The entries of (branch, period) that have a finite rating, as positions in branch-by-branch sequence."""
    return np.flatnonzero(np.repeat(np.isfinite(network.lines["rating_kva"].to_numpy()), len(network.hours)))


def ratings(block: Any, network: Network) -> Any:
    """The rating of every branch and period [kVA], shape (branches * periods,), branch by branch; inf for none.

    In a parametric model the finite ones are entries of `block.rating_kva`, which it declares.
    """
    full = np.repeat(network.lines["rating_kva"].to_numpy(), len(network.hours))
    if not is_parametric(block):
        return full
    keys, at = [(branch, t) for branch in block.branches for t in block.periods], rated(network)
    mixed = full.astype(object)
    mixed[at] = numbers(block, "rating_kva", [keys[k] for k in at], full[at])
    return mixed


def set_bounds(variables: Iterable[Any], lower: Any, upper: Any) -> None:
    """Bounds of `variables` from arrays of floats (infinite for none) or of Params."""
    for variable, low, high in zip(variables, lower.tolist(), upper.tolist(), strict=True):
        variable.setlb(None if low.__class__ is float and low == -np.inf else low)
        variable.setub(None if high.__class__ is float and high == np.inf else high)
