"""Settlement: who pays what, what the operator keeps, and what everybody gains.

    payment_o = p_o q_o hours                        [$], positive for bids, negative for offers
    rent_t    = sum_o payment_o                      what the operator keeps (congestion rent under nodal prices)
    r_s = p_s q_s - c_s(q_s)                         (9)    reward of a supplier, with its true cost
    r_d = u_d(q_d) - p_d q_d                         (10)   reward of a consumer, with its true utility

Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (9)-(10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import DataError, Fault
from mktopt.networks.orders import Orders


@dataclass(frozen=True, eq=False)
class Settlement:
    """Money of a clearing.

    orders: order, participant, bus, side, period, quantity_kw, price, payment [$], value [$] (true utility of a bid,
    true cost of an offer), reward [$]; participants: participant, bought_kwh, sold_kwh, paid, received, reward;
    rent: period, rent [$].
    """

    orders: pd.DataFrame
    participants: pd.DataFrame
    rent: pd.DataFrame

    @property
    def budget(self) -> float:
        """Payments minus receipts over all periods [$]: the operator's rent, zero under `budget_balanced`."""
        return float(self.rent["rent"].sum())

    def reward(self, participant: str) -> float:
        """The reward of one participant [$]."""
        found = self.participants.loc[self.participants["participant"] == participant, "reward"]
        return float(found.sum())

    def __str__(self) -> str:
        total = self.participants[["paid", "received", "reward"]].sum()
        return (
            f"paid {total['paid']:,.4f} $, received {total['received']:,.4f} $, rent {self.budget:,.4f} $, "
            f"rewards {total['reward']:,.4f} $ over {len(self.participants)} participants"
        )


def settle(clearing: Clearing, truth: Orders | None = None) -> Settlement:
    """Payments and rewards of `clearing`, valued by the curves of `truth` (default: the submitted orders).

    `truth` holds the hidden true curves under the same order names and periods; it may hold others too.
    Raises DataError where an order that was cleared is missing from `truth`, stands on the other side there, or has a
    curve there that is shorter than what was accepted.
    """
    table = clearing.dispatch.copy()
    hours = clearing.network.hours[table["period"].to_numpy()]
    quantity = table["quantity_kw"].to_numpy()
    table["value"] = hours * _true_value(clearing, clearing.orders if truth is None else truth, quantity)
    bid = (table["side"] == "bid").to_numpy()
    table["reward"] = np.where(bid, 1.0, -1.0) * table["value"] - table["payment"]
    energy = quantity * hours
    people = table.assign(
        bought_kwh=np.where(bid, energy, 0.0),
        sold_kwh=np.where(bid, 0.0, energy),
        paid=np.where(bid, table["payment"], 0.0),
        received=np.where(bid, 0.0, -table["payment"]),
    )
    columns = ["bought_kwh", "sold_kwh", "paid", "received", "reward"]
    participants = people.groupby("participant", sort=False)[columns].sum().reset_index()
    kept = np.bincount(table["period"], weights=table["payment"], minlength=len(clearing.network.hours))
    rent = pd.DataFrame({"period": list(clearing.network.periods), "rent": kept})
    return Settlement(table, participants, rent)


def _true_value(clearing: Clearing, truth: Orders, quantity: FloatArray) -> FloatArray:
    """Utility or cost per hour of what each dispatch row accepted, by the true curves [$/h]."""
    if truth is clearing.orders:
        return truth.curves.value(quantity)
    keys = pd.MultiIndex.from_frame(truth.orders[["order", "period"]])
    rows = keys.get_indexer(pd.MultiIndex.from_frame(clearing.dispatch[["order", "period"]]))
    faults = [
        Fault("truth", "the order was cleared but has no true curve", name, hint="add it under the same name")
        for name in clearing.dispatch["order"].to_numpy()[rows < 0]
    ]
    if faults:
        raise DataError(faults)
    side = truth.orders["side"].to_numpy()[rows]
    faults = [
        Fault("truth", f"the order was cleared as a {cleared}", name, "side", true, "give the curve of that side")
        for name, cleared, true in zip(clearing.dispatch["order"], clearing.dispatch["side"], side, strict=True)
        if cleared != true
    ]
    if faults:
        raise DataError(faults)
    short = np.flatnonzero(truth.width_kw[rows] < quantity * (1 - 1e-9) - 1e-9)
    if short.size:
        raise DataError([
            Fault("truth", f"the true curve ends before the accepted {quantity[k]:g} kW",
                  clearing.dispatch["order"].iloc[k], "width_kw", truth.width_kw[rows[k]], "lengthen it")
            for k in short
        ])  # fmt: skip
    whole = np.zeros(len(truth))
    whole[rows] = quantity
    return truth.curves.value(whole)[rows]
