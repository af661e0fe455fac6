"""Settlement: who pays what, what the operator keeps, and what everybody gains.

    payment_o = p_o q_o hours                        [$], positive for bids, negative for offers
    rent_t    = sum_o payment_o                      what the operator keeps (congestion rent under nodal prices)
    r_s = p_s q_s - c_s(q_s)                         (9)    reward of a producer, with its true cost
    r_d = u_d(q_d) - p_d q_d                         (10)   reward of a consumer, with its true utility

A provider of demand response, whose load is P0 without it, consumes P and so reduces it by r = P0 - P at the cost
c(r) = u(P0) - u(P). In both variants its reward is u(P) - payment.

    credit    charged p P0 hours, credited p r hours: it pays p P hours, and gains (p r - c(r)) hours by reducing
    on_top    charged p P hours, and paid p r hours besides: it saves and is paid, and gains (2 p r - c(r)) hours

What is paid on top is the operator's deficit. It is charged to the consumers of the period, demand response excepted,
by the energy that they bought,

    deficit_t = sum_d p_d r_d hours,      levy_o = deficit_t  q_o / sum_{o' consumers} q_o',

so that the rent is what it is with `credit`; where nobody consumes it is left to the operator. Consumers are the bids
of that role: a bid for export, or of a battery that charges, bears the levy too unless its role is producer.

p_o is the price of table `dispatch`: with nodal prices that of the bus, with reactive power in it where the order's
follows its active power. What an order pays for a reactive range of its own is part of what it is charged.

Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (9)-(10), (12), (15).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.prosumer_settlement import prosumer_table
from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.coalition import DECIDED
from mktopt.networks.order_rules import CONSUMER, DEMAND_RESPONSE
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers

IntArray = npt.NDArray[np.int64]

CREDIT, ON_TOP = "credit", "on_top"
VARIANTS = (CREDIT, ON_TOP)


@dataclass(frozen=True, eq=False)
class Settlement:
    """Money of a clearing.

    orders: those of `dispatch` with payment [$] (all that the order pays in the end: charged - credited + levy), value
    [$] (true utility of a bid, true cost of an offer), reward [$], role; charged, credited [$] (of an offer, what it
    receives), levy [$] (its share in what is paid on top); of demand response besides, empty elsewhere: initial_kw
    (P0), reduction_kw, reduction_cost [$] and reduction_reward [$] (its reward beyond that of consuming P0 at the same
    price; it is credited - reduction_cost unless paid on top).

    participants: participant, role (all it has), bought_kwh, sold_kwh, paid, received, reward.
    roles: participant, role, energy_kwh (sold or bought), reduction_kwh, revenue (what it receives at its price: sales,
    credits), bill (what it is charged, levy included), cost (true cost of production or reduction), utility (true; of
    demand response that of the initial load), reward = revenue - cost + utility - bill, all [$].
    rent: period, rent [$]. deficit: period, deficit (paid on top), levied, left [$], levy (per kWh, [$/kWh]).
    """

    orders: pd.DataFrame
    participants: pd.DataFrame
    rent: pd.DataFrame
    roles: pd.DataFrame
    deficit: pd.DataFrame

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
        text = (
            f"paid {total['paid']:,.4f} $, received {total['received']:,.4f} $, rent {self.budget:,.4f} $, "
            f"rewards {total['reward']:,.4f} $ over {len(self.participants)} participants"
        )
        deficit = float(self.deficit["deficit"].sum())
        if deficit:
            left = float(self.deficit["left"].sum())
            text += f"; {deficit:,.4f} $ paid on top for reductions, {left:,.4f} $ of it left to the operator"
        return text


def _refuse_tariffs(clearing: Clearing) -> None:
    if clearing.coalition is not None and clearing.coalition.behaviour in DECIDED:
        raise FormulationError(
            f"players of behaviour '{clearing.coalition.behaviour}' pay tariffs and their partners, not nodal prices; "
            "see clearing.payments for what each pays and saves"
        )


def settle(
    clearing: Clearing, truth: Orders | Prosumers | None = None, demand_response: str | None = None
) -> Settlement:
    """Payments and rewards of `clearing`, valued by the curves of `truth` (default: the submitted orders).

    `truth` holds the hidden true curves under the same order names and periods; it may hold others too. Of an auction
    of prosumers it holds their true utilities (see `mktopt.clearing.prosumer_settlement`).
    demand_response: 'credit' (charged for the initial load, credited for the reduction) or 'on_top' (charged for what
    is consumed, and paid for the reduction by a levy on consumers); None: the clearing's option of that name, else
    'credit'.

    Raises DataError where an order that was cleared is missing from `truth`, stands on the other side there, or has a
    curve there that is shorter than what was accepted (or reduced); UnknownNameError for another variant; and
    FormulationError for private trades that were decided beforehand, whose players do not pay nodal prices.
    """
    variant = clearing.options.get("demand_response", CREDIT) if demand_response is None else demand_response
    if variant not in VARIANTS:
        raise unknown_name("settlement of demand response", variant, VARIANTS)
    _refuse_tariffs(clearing)
    if clearing.prosumers is not None:
        if not isinstance(truth, (Prosumers, type(None))):
            raise FormulationError("this was an auction of prosumers: give their true utilities as Prosumers")
        people, hours = prosumer_table(clearing, truth)
        nobody = np.zeros(len(people))
        deficit, _ = _levy(clearing, people, hours, nobody)
        return _settled(clearing, people, hours, np.where(people["side"] == "bid", people["value"], 0.0), deficit)
    if isinstance(truth, Prosumers):
        raise FormulationError("this market cleared orders; give their true curves as Orders, not Prosumers")
    table, rows = clearing.dispatch.copy(), _rows(clearing)
    hours = clearing.network.hours[table["period"].to_numpy()]
    quantity, bid = table["quantity_kw"].to_numpy(), (table["side"] == "bid").to_numpy()
    table["role"] = clearing.orders.orders["role"].to_numpy()[rows]
    response = (table["role"] == DEMAND_RESPONSE).to_numpy()
    initial = np.where(response, np.fmax(clearing.orders.width_kw[rows], quantity), quantity)
    true = _TrueCurves(clearing, rows, clearing.orders if truth is None else truth, initial)
    table["value"], whole = hours * true.value(quantity), hours * true.value(initial)
    paid = table["payment"].to_numpy()
    worth = table["price"].to_numpy() * (initial - quantity) * hours  # of what was reduced: zero but for responses
    on_top = worth if variant == ON_TOP else np.zeros(len(table))
    deficit, levy = _levy(clearing, table, hours, on_top)
    table["payment"] = paid - on_top + levy
    table["reward"] = np.where(bid, 1.0, -1.0) * table["value"] - table["payment"]
    table["charged"] = np.where(bid, paid + worth - on_top, 0.0)
    table["credited"] = np.where(bid, worth, -paid)
    table["levy"] = levy
    table["initial_kw"] = np.where(response, initial, np.nan)
    table["reduction_kw"] = np.where(response, initial - quantity, np.nan)
    table["reduction_cost"] = np.where(response, whole - table["value"], np.nan)
    # Without any reduction it would have the initial load's utility, and pay the same price for all of it.
    table["reduction_reward"] = np.where(response, table["reward"] - (whole - paid - worth), np.nan)
    return _settled(clearing, table, hours, whole, deficit)


def _settled(
    clearing: Clearing, table: pd.DataFrame, hours: FloatArray, whole: FloatArray, deficit: pd.DataFrame
) -> Settlement:
    kept = np.bincount(table["period"], weights=table["payment"], minlength=len(clearing.network.hours))
    rent = pd.DataFrame({"period": list(clearing.network.periods), "rent": kept})
    return Settlement(table, _participants(table, hours), rent, _roles(table, hours, whole), deficit)


def _rows(clearing: Clearing) -> IntArray:
    """The row of the submitted orders of each row of `dispatch`."""
    return _found(clearing.dispatch, clearing.orders.orders)


def _found(dispatch: pd.DataFrame, orders: pd.DataFrame) -> IntArray:
    """The row of `orders` that has the order and period of each row of `dispatch`, -1 where there is none."""
    keys = ["order", "period"]
    if len(orders) == len(dispatch) and all((orders[key].to_numpy() == dispatch[key].to_numpy()).all() for key in keys):
        return np.arange(len(orders))
    return pd.MultiIndex.from_frame(orders[keys]).get_indexer(pd.MultiIndex.from_frame(dispatch[keys]))


def _levy(
    clearing: Clearing, table: pd.DataFrame, hours: FloatArray, on_top: FloatArray
) -> tuple[pd.DataFrame, FloatArray]:
    """Table `deficit`, and what each row of `table` pays of it: in proportion to the energy that consumers bought."""
    period, periods = table["period"].to_numpy(), len(clearing.network.hours)
    pays = (table["role"] == CONSUMER).to_numpy() & (table["side"] == "bid").to_numpy()
    energy = np.where(pays, table["quantity_kw"] * hours, 0.0)
    deficit = np.bincount(period, weights=on_top, minlength=periods)
    bought = np.bincount(period, weights=energy, minlength=periods)
    levy = np.divide(deficit, bought, out=np.zeros(periods), where=bought > 0)
    frame = pd.DataFrame({
        "period": list(clearing.network.periods), "deficit": deficit, "levied": levy * bought,
        "left": np.where(bought > 0, 0.0, deficit), "levy": levy,
    })  # fmt: skip
    return frame, levy[period] * energy


def _participants(table: pd.DataFrame, hours: FloatArray) -> pd.DataFrame:
    bid = (table["side"] == "bid").to_numpy()
    energy = table["quantity_kw"].to_numpy() * hours
    people = table.assign(
        bought_kwh=np.where(bid, energy, 0.0),
        sold_kwh=np.where(bid, 0.0, energy),
        paid=table["charged"] + table["levy"],
        received=table["credited"],
    )
    columns = ["bought_kwh", "sold_kwh", "paid", "received", "reward"]
    found = people.groupby("participant", sort=False)[columns].sum()
    roles: dict[str, list[str]] = {}
    for name, role in people[["participant", "role"]].drop_duplicates().itertuples(index=False):
        roles.setdefault(name, []).append(role)
    found.insert(0, "role", [", ".join(roles[name]) for name in found.index])
    return found.reset_index()


def _roles(table: pd.DataFrame, hours: FloatArray, whole: FloatArray) -> pd.DataFrame:
    """What each participant has from each of its roles; whole: true value of an order, of the initial load where it
    is one [$]."""
    bid = (table["side"] == "bid").to_numpy()
    response = (table["role"] == DEMAND_RESPONSE).to_numpy()
    parts = pd.DataFrame({
        "participant": table["participant"],
        "role": table["role"],
        "energy_kwh": table["quantity_kw"] * hours,
        "reduction_kwh": np.where(response, table["reduction_kw"] * hours, 0.0),
        "revenue": table["credited"],
        "bill": table["charged"] + table["levy"],
        "cost": np.where(bid, np.where(response, table["reduction_cost"], 0.0), table["value"]),
        "utility": np.where(bid, whole, 0.0),
        "reward": table["reward"],
    })  # fmt: skip
    return parts.groupby(["participant", "role"], sort=False).sum().reset_index()


class _TrueCurves:
    """The true curves of the rows of `dispatch`; raises DataError unless there is one for each, as long as `reach`."""

    def __init__(self, clearing: Clearing, rows: IntArray, truth: Orders, reach: FloatArray) -> None:
        self._truth = truth
        self._rows = rows if truth is clearing.orders else _true_rows(clearing, truth, reach)

    def value(self, quantity: FloatArray) -> FloatArray:
        """Utility or cost per hour of `quantity` [$/h]."""
        whole = np.zeros(len(self._truth))
        whole[self._rows] = quantity
        return self._truth.curves.value(whole)[self._rows]


def _true_rows(clearing: Clearing, truth: Orders, reach: FloatArray) -> IntArray:
    """The row of `truth` of each row of `dispatch`."""
    rows = _found(clearing.dispatch, truth.orders)
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
    short = np.flatnonzero(truth.width_kw[rows] < reach * (1 - 1e-9) - 1e-9)
    if short.size:
        response = (clearing.orders.orders["role"] == DEMAND_RESPONSE).to_numpy()[_rows(clearing)]
        raise DataError([
            Fault("truth", f"the true curve ends before the {'initial' if response[k] else 'accepted'} {reach[k]:g} kW",
                  clearing.dispatch["order"].iloc[k], "width_kw", truth.width_kw[rows[k]], "lengthen it")
            for k in short
        ])  # fmt: skip
    return rows
