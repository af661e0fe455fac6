"""The tables of a `Coalition`: trades over private wires, who pays what, and groups.

Made from quantities, flows and prices alone, so that a certificate can make them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.consistency import mean_kw
from mktopt.clearing.merit_order import MeritOrder
from mktopt.clearing.owen import Ownership, ownership, wire_rents
from mktopt.clearing.result import Clearing
from mktopt.errors import DataError, Fault
from mktopt.formulations.coalition import AD_HOC, SELF_INTERESTED, MainGrid
from mktopt.networks.network import FloatArray, IntArray, Network
from mktopt.networks.orders import Orders
from mktopt.networks.private_wires import MAIN_GRID, PUBLIC_GRID

# A wire that carries less than this share of what moves in the market carries nothing.
_CARRIES = 1e-6
# Quantities below this share of the widest order of an agent say nothing of the size of a market.
_MOVES = 1e-3


@dataclass(frozen=True, eq=False)
class Account:
    """What the tables are made of.

    quantity_kw: accepted per row of `orders.orders` [kW]; p_kw, loss_kw: mean flow and loss of branches in service,
    (n_branches, T) [kW]; prices: nodal, of the settlement, (n_buses, T) [$/kWh]; private_prices: of those who decided
    the private flows, (n_buses, T), None where nobody did; paid, received: what buyers pay and sellers get over each
    wire where they agreed on it, (n_branches, T) [$].
    """

    behaviour: str
    network: Network
    orders: Orders
    main_grid: MainGrid
    quantity_kw: FloatArray
    p_kw: FloatArray
    loss_kw: FloatArray
    prices: FloatArray
    private_prices: FloatArray | None = None
    paid: FloatArray | None = None
    received: FloatArray | None = None

    @classmethod
    def of(
        cls,
        clearing: Clearing,
        behaviour: str,
        main_grid: MainGrid,
        private_prices: FloatArray | None = None,
        paid: FloatArray | None = None,
        received: FloatArray | None = None,
    ) -> Account:
        """The account of tables dispatch, flows and prices of a clearing."""
        flows, shape = clearing.flows, (-1, len(clearing.network.hours))
        return cls(
            behaviour,
            clearing.network,
            clearing.orders,
            main_grid,
            clearing.dispatch["quantity_kw"].to_numpy(dtype=float),
            mean_kw(flows).reshape(shape),
            (flows["p_kw"] - flows["to_kw"]).to_numpy(dtype=float).reshape(shape),
            clearing.prices["price"].to_numpy(dtype=float).reshape(shape),
            private_prices,
            paid,
            received,
        )

    @property
    def private(self) -> npt.NDArray[np.bool_]:
        """Which branches in service are private, (n_branches,)."""
        return self.network.private

    @cached_property
    def own(self) -> Ownership:
        """Players and what they own."""
        return ownership(self.network, self.orders, MAIN_GRID)

    @cached_property
    def bus(self) -> IntArray:
        """The bus of each order row, (rows,)."""
        return self.network.bus_positions(self.orders.orders["bus"])

    @cached_property
    def period(self) -> IntArray:
        """The period of each order row, (rows,)."""
        return np.asarray(self.orders.orders["period"].to_numpy())

    @cached_property
    def agents(self) -> npt.NDArray[np.bool_]:
        """Which order rows are agents', (rows,)."""
        return self.main_grid.agents(self.orders)

    @cached_property
    def size_kw(self) -> float:
        """The size of what moves: the greatest quantity or flow, no less than a share of agents' widest order [kW]."""
        width = np.asarray(self.orders.width_kw, dtype=float)[self.agents]
        wide = float(width[np.isfinite(width)].max(initial=0.0)) or 1.0
        moved = (float(np.abs(values).max(initial=0.0)) for values in (self.quantity_kw, self.p_kw))
        return max(*moved, _MOVES * wide)

    @cached_property
    def taken_kw(self) -> FloatArray:
        """What each order row takes from its bus, negative for offers, (rows,) [kW]."""
        return -self.orders.injection_sign * self.quantity_kw

    @cached_property
    def own_cost(self) -> FloatArray:
        """Cost of an offer less value of a bid that is not firm, (rows,) [$]."""
        value = np.where(self.orders.is_bid & self.orders.firm, 0.0, self.orders.curves.value(self.quantity_kw))
        return np.asarray(self.orders.injection_sign * value * self.network.hours[self.period])

    @cached_property
    def private_in_kw(self) -> FloatArray:
        """What private wires bring to each bus, net, (n_buses, T) [kW]."""
        network, brought = self.network, np.zeros((self.network.n_buses, len(self.network.hours)))
        mine = self.private
        np.add.at(brought, network.to_index[mine], (self.p_kw - 0.5 * self.loss_kw)[mine])
        np.add.at(brought, network.from_index[mine], -(self.p_kw + 0.5 * self.loss_kw)[mine])
        return brought

    @cached_property
    def public_in_kw(self) -> FloatArray:
        """What agents take from the public grid at each bus, net, (n_buses, T) [kW]."""
        need = np.zeros((self.network.n_buses, len(self.network.hours)))
        np.add.at(need, (self.bus[self.agents], self.period[self.agents]), self.taken_kw[self.agents])
        return np.asarray(need - self.private_in_kw)

    def tariff(self, kw: FloatArray) -> FloatArray:
        """What taking `kw` (..., T) costs at the tariffs, retail for what is taken, feed-in for what is given [$/h]."""
        return np.asarray(np.where(kw > 0.0, np.array(self.main_grid.retail), np.array(self.main_grid.feed_in)) * kw)

    @cached_property
    def main_grid_cost(self) -> float:
        """What the main grid's energy costs [$]."""
        return float(self.own_cost[~self.agents].sum())


def phantom_kw(clearing: Clearing) -> FloatArray:
    """What branches lose in the model and no wire would, (n_branches, T) [kW]; zero where the relaxation is tight."""
    shape, table = (-1, len(clearing.network.hours)), clearing.relaxation
    if table is None:
        return np.zeros((clearing.network.n_branches, shape[1]))
    return np.where(table["slack"], table["phantom_kw"], 0.0).astype(float).reshape(shape)


def trades(account: Account) -> pd.DataFrame:
    """Table `trades`, see `mktopt.clearing.coalition.Coalition`."""
    network, p_kw = account.network, np.where(account.private[:, None], account.p_kw, 0.0)
    wire, t = np.nonzero(np.abs(p_kw) > _CARRIES * account.size_kw)
    flow, loss = np.abs(p_kw[wire, t]), account.loss_kw[wire, t]
    forward = p_kw[wire, t] > 0
    names, starts, ends = network.buses["bus"].to_numpy(), network.from_index[wire], network.to_index[wire]
    received, hours = flow - 0.5 * loss, network.hours[t]
    known = account.prices if account.private_prices is None else account.private_prices
    if account.paid is None:
        price = 0.5 * (known[starts, t] + known[ends, t])
        payment = price * received * hours
    else:
        payment = account.paid[wire, t]
        energy = received * hours
        price = np.divide(payment, energy, out=np.zeros(len(wire)), where=energy > 0.0)
    return pd.DataFrame({
        "branch": network.lines["branch"].to_numpy()[wire],
        "period": t,
        "seller": names[np.where(forward, starts, ends)],
        "buyer": names[np.where(forward, ends, starts)],
        "kind": network.lines["kind"].to_numpy()[wire],
        "sent_kw": flow + 0.5 * loss,
        "received_kw": received,
        "loss_kw": loss,
        "price": price,
        "payment": payment,
    })  # fmt: skip


# -- who pays what -----------------------------------------------------------------------------------------------------


def payments(account: Account) -> pd.DataFrame:
    """Table `payments`, see `mktopt.clearing.coalition.Coalition`."""
    own, n = account.own, len(account.own.players)
    agents, player = account.agents, account.own.player_of
    hours = account.network.hours[account.period]
    energy = account.quantity_kw * hours

    def summed(values: FloatArray, rows: npt.NDArray[np.bool_]) -> FloatArray:
        return np.bincount(player[rows], weights=values[rows], minlength=n).astype(float)

    bid = account.orders.is_bid
    private = _shared(account, account.private_in_kw) * hours
    paid, rent, others = _money(account)
    table = pd.DataFrame({
        "player": pd.Series(own.players, dtype=object),
        "group": player_groups(account),
        "need_kwh": summed(energy, agents & bid),
        "surplus_kwh": summed(energy, agents & ~bid),
        "private_kwh": summed(private, agents),
        "public_kwh": summed(account.taken_kw * hours - private, agents),
        "payment": summed(paid, agents),
        "rent": rent,
        "cost": summed(account.own_cost, agents),
        "alone": _alone(account),
    })  # fmt: skip
    table["saving"] = table["alone"] - (table["payment"] - table["rent"] + table["cost"])
    closing = _closing(account, *others, float(energy[~agents & ~bid].sum() - energy[~agents & bid].sum()))
    return pd.concat([table, closing], ignore_index=True)


def _closing(account: Account, paid: float, rent: float, given_kwh: float) -> pd.DataFrame:
    """The rows of the main grid, which pays `paid` [$] and gives `given_kwh`, and of the public grid with its rent."""
    both = np.array([1.0, 0.0])
    return pd.DataFrame({
        "player": pd.Series([MAIN_GRID, PUBLIC_GRID], dtype=object),
        "group": pd.Series(["", ""], dtype=object),
        "need_kwh": 0.0,
        "surplus_kwh": both * given_kwh,
        "private_kwh": 0.0,
        "public_kwh": both * -given_kwh + 0.0,
        "payment": both * paid,
        "rent": both[::-1] * rent,
        "cost": both * account.main_grid_cost,
        "alone": np.nan,
        "saving": np.nan,
    })  # fmt: skip


def _money(account: Account) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    """(what each order row pays, rent of each player, (what the main grid pays, rent of the public grid)), all [$]."""
    network, hours = account.network, account.network.hours
    if account.behaviour == AD_HOC:
        return _agreed(account)
    nodal = account.behaviour != SELF_INTERESTED
    prices = account.prices if nodal or account.private_prices is None else account.private_prices
    paid = prices[account.bus, account.period] * account.taken_kw * hours[account.period]
    rents = wire_rents(network, prices, account.p_kw, account.loss_kw)
    private = np.where(account.private, rents, 0.0) @ account.own.shares
    if nodal:
        shunts = float(np.sum(prices * network.shunt_kw[:, None] * hours))
        return paid, private, (float(paid[~account.agents].sum()), float(rents[~account.private].sum()) - shunts)
    return paid, private, (-float(np.sum(account.tariff(account.public_in_kw) @ hours)), 0.0)


def _agreed(account: Account) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    """The money of trades between pairs, and of what each bus trades at the tariffs.

    Several at a bus pay for what they take at what a kWh is worth there, and share the rest in equal parts.
    """
    network, hours = account.network, account.network.hours
    assert account.paid is not None
    assert account.received is not None
    assert account.private_prices is not None
    forward = account.p_kw > 0.0
    due = account.tariff(account.public_in_kw) * hours
    starts, ends = network.from_index, network.to_index
    np.add.at(due, ends, np.where(forward, account.paid, -account.received))
    np.add.at(due, starts, np.where(forward, -account.received, account.paid))
    rows, worth = account.agents, account.private_prices[account.bus, account.period]
    paid = worth * account.taken_kw * hours[account.period]
    spent = np.zeros_like(due)
    np.add.at(spent, (account.bus[rows], account.period[rows]), paid[rows])
    players = pd.DataFrame({"bus": account.bus, "period": account.period, "player": account.own.player_of})
    count = players.groupby(["bus", "period", "player"])["bus"].transform("size").to_numpy()
    heads = np.zeros_like(due)
    np.add.at(heads, (account.bus[rows], account.period[rows]), 1.0 / count[rows])
    rest = np.divide(due - spent, heads, out=np.zeros_like(due), where=heads > 0.0)
    paid = np.where(rows, paid + rest[account.bus, account.period] / count, 0.0)
    third = third_parties(network, account.orders).astype(float)
    third /= np.maximum(third.sum(axis=1, keepdims=True), 1.0)
    kept = (account.paid - account.received).sum(axis=1)
    main = -float(np.sum(account.tariff(account.public_in_kw) @ hours))
    return paid, kept @ third, (main, 0.0)


def third_parties(network: Network, orders: Orders) -> npt.NDArray[np.bool_]:
    """Which players own a part of each branch in service without being at either end, bool, (n_branches, n_players)."""
    own, agents = ownership(network, orders, MAIN_GRID), orders.orders["participant"].to_numpy() != MAIN_GRID
    here = np.zeros((network.n_buses, len(own.players)), dtype=bool)
    here[network.bus_positions(orders.orders["bus"])[agents], own.player_of[agents]] = True
    return np.asarray((own.shares > 0.0) & ~here[network.from_index] & ~here[network.to_index])


def _shared(account: Account, per_bus: FloatArray) -> FloatArray:
    """What comes to each bus, (n_buses, T), shared by its agents' order rows in proportion to what they trade."""
    where = (account.bus, account.period)
    size = np.where(account.agents, np.abs(account.taken_kw), 0.0)
    total, count = np.zeros_like(per_bus), np.zeros_like(per_bus)
    np.add.at(total, where, size)
    np.add.at(count, where, account.agents.astype(float))
    equal = np.divide(1.0, count[where], out=np.zeros(len(size)), where=account.agents)
    share = np.divide(size, total[where], out=equal, where=total[where] > 0.0)
    return np.asarray(per_bus[where] * share)


def _alone(account: Account) -> FloatArray:
    """What each player's orders would cost it at the tariffs, bus by bus, without wires, (players,) [$]."""
    orders, main = account.orders, account.main_grid
    rows = np.flatnonzero(account.agents)
    keys = np.stack([account.own.player_of, account.bus, account.period])[:, rows]
    found, place = np.unique(keys, axis=1, return_inverse=True)
    place = np.ravel(place)
    sequence = np.argsort(place, kind="stable")
    parts = np.split(rows[sequence], np.flatnonzero(np.diff(place[sequence])) + 1) if len(rows) else []
    alone = np.zeros(len(account.own.players))
    firm = np.where(orders.is_bid & orders.firm, orders.curves.value(orders.orders["minimum_kw"].to_numpy()), 0.0)
    for (player, _, t), part in zip(found.T.tolist(), parts, strict=True):
        position = MeritOrder(orders, part, main.feed_in[t], main.retail[t])
        alone[player] += account.network.hours[t] * (position.cost(0.0) + float(firm[part].sum()))
    return alone


# -- pairs -------------------------------------------------------------------------------------------------------------


def wires_known(network: Network, radius_km: float | None = None) -> IntArray:
    """Positions of the private wires in service no longer than `radius_km`, nearest first (length, then name).

    Raises DataError where a private wire has no length.
    """
    lines = network.lines
    wires = np.flatnonzero(network.private)
    length, names = lines["length_km"].to_numpy(dtype=float)[wires], lines["branch"].to_numpy(dtype=str)[wires]
    if np.isnan(length).any():
        name = str(names[np.isnan(length)][0])
        hint = "ad hoc trades begin with the nearest neighbour; give the length of every private wire"
        raise DataError(Fault("branches", "a private wire has no length", name, "length_km", np.nan, hint))
    known = np.ones(len(wires), dtype=bool) if radius_km is None else length <= radius_km
    return np.asarray(wires[known][np.lexsort((names[known], length[known]))], dtype=np.int64)


def positions(network: Network, orders: Orders, main_grid: MainGrid, period: int) -> dict[int, MeritOrder]:
    """What exports cost at each bus that has agents' orders in `period`, by position of the bus."""
    rows = np.flatnonzero(main_grid.agents(orders) & (orders.orders["period"].to_numpy() == period))
    bus = network.bus_positions(orders.orders["bus"].iloc[rows])
    sequence = np.argsort(bus, kind="stable")
    found, first = np.unique(bus[sequence], return_index=True)
    parts = np.split(rows[sequence], first[1:]) if len(rows) else []
    tariffs = main_grid.feed_in[period], main_grid.retail[period]
    return {b: MeritOrder(orders, part, *tariffs) for b, part in zip(found.tolist(), parts, strict=True)}


# -- groups ------------------------------------------------------------------------------------------------------------


def player_groups(account: Account) -> npt.NDArray[Any]:
    """The group of each player, named after its first member; '' where a player's buses or wires are in several."""
    of_bus, own = account.network.parts(account.private), account.own
    found: list[set[int]] = [set() for _ in own.players]
    for bus, player in zip(account.bus[account.agents].tolist(), own.player_of[account.agents].tolist(), strict=True):
        found[player].add(int(of_bus[bus]))
    wires, owners = np.nonzero(own.shares)
    for wire, player in zip(wires.tolist(), owners.tolist(), strict=True):
        found[player].add(int(of_bus[account.network.from_index[wire]]))
    first = dict[int, str]()
    for name, groups in zip(own.players, found, strict=True):
        if len(groups) == 1:
            first.setdefault(min(groups), name)
    return np.array([first[min(groups)] if len(groups) == 1 else "" for groups in found], dtype=object)


def groups(account: Account, table: pd.DataFrame) -> pd.DataFrame:
    """Table `groups` from table `payments`, see `mktopt.clearing.coalition.Coalition`."""
    players = table.iloc[: len(account.own.players)]
    net = players["payment"] - players["rent"] + players["cost"]
    names = players["group"].to_numpy()
    wires = dict.fromkeys(names, 0)
    for owners in account.own.shares[account.private] > 0.0:
        for name in set(names[owners]):
            wires[name] += 1
    grouped = players.assign(net=net).groupby("group", sort=False)
    return pd.DataFrame({
        "group": pd.Series([name for name, _ in grouped], dtype=object),
        "members": pd.Series([", ".join(part["player"]) for _, part in grouped], dtype=object),
        "size": [len(part) for _, part in grouped],
        "wires": [wires[name] for name, _ in grouped],
        "cost": grouped["net"].sum().to_numpy(),
        "alone": grouped["alone"].sum().to_numpy(),
        "saving": grouped["saving"].sum().to_numpy(),
    })  # fmt: skip
