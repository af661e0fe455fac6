"""The energy game: what agents are worth to each other over their private wires, without the public grid between them.

    v(S) = max  sum_{i in S} (value of bids - cost of offers) + sum_{b, t} hours_t (f_t sell - r_t buy)             [$]
           s.t. at every bus of S:  offers - bids + buy - sell = what wires take,
                wires whose owners are all in S, each losing rho f^2, half at either end; public wires carry nothing

r, f: retail and feed-in price of the main grid, at which every bus trades; what firm bids are worth is left out. It is
the market game of Shapley and Shubik with wires for means of production: orders belong to agents, wires to their owners
in shares, so what S has is the sum of what its members have.

**Bounds.** Let c be any prices in [f, r] of all buses and periods, pi_i(c) what i's orders earn at them at most
(`merit`) and R_l(c) >= 0 the greatest rent of wire l (`private_optimum`). For every S

    v(S) <= sum_{i in S} b_i,      b_i = sum_t hours_t ( pi_i(c) + sum_l share_il R_l(c) )

since at prices c each part of S's plan earns at most its pi_i or R_l, trade with the main grid earns nothing (it costs
r >= c and brings f <= c), payments among the members cancel, and wires that S may use are owned by S alone: their
shares within S sum to one, those of others add to the bound what is not negative. Any shares that sum to one over the
owners will do. Where the bound comes from a coalition T, wires that T may not use are shared by their owners outside T,
so that at the duals of T the bound of T is v(T) itself.

**Owen payments** are b_i at the duals of all: they sum to v(N), and by the bound no group is worth more than it gets.
A value that is returned is attained by a plan, the bound that comes with it is proved, and what lies between them is at
most 1e-7 of what trade brings (1e-8 but for rare cases), rounding aside. A group's value is the sum over what its wires
join, and such parts are kept, so that many values cost no program.
References: Shapley, Shubik, J. Econ. Theory 1 (1969); Owen, Math. Program. 9 (1975); poster "Coalitions on private
infrastructure".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, IntArray
from mktopt.agents.coalitions.merit import merit_of
from mktopt.agents.coalitions.private_optimum import Optimum, Wires, limits, optimum, rents, supplies_of, wire_exports
from mktopt.agents.coalitions.values import Bounded, Coalition, CoalitionGame, checked_players, named
from mktopt.clearing.owen import ownership
from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.coalition import Prices, main_grid_of
from mktopt.networks import units
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


@dataclass(frozen=True, eq=False)
class Plan:
    """exchange_kw: what is sold to the main grid at each bus less what is bought, (n_buses, T); cost: of offers less
    the value of elastic bids (T,) [$/h]; flows_kw: of private wires, mean of both ends (n_branches, T)."""

    exchange_kw: FloatArray
    cost: FloatArray
    flows_kw: FloatArray


# What parts whose optimum is kept may take up together [bytes], and each of them besides its numbers.
_KEPT, _EACH = 250e6, 600.0


class EnergyGame:
    """The energy game of `orders` over the private wires of `network`, values in $ over all periods.

    retail, feed_in: in place of the main grid's prices [$/kWh], a number or one per period. Players: participants but
    `main_grid`, then owners of wires who are no participants. Called with a coalition it gives `Bounded`: v(S) and the
    bound that the duals of S are; `programs`: how many groups with wires were solved so far. Losses on the public grid
    are not in it: `SharedGrid` has these. Raises DataError as `main_grid_of` does, for an agent's order without an end,
    for buses that no public line joins to the source (those there could trade with nobody, and a group that needs
    power would have no supply and no value), and where nobody plays.
    """

    def __init__(
        self, network: Network, orders: Orders, retail: Prices | None = None, feed_in: Prices | None = None
    ) -> None:
        orders.check(network)
        self.network, self.orders = network, orders
        self.main_grid = main_grid_of(orders, network, retail, feed_in)
        owned = ownership(network, orders)
        if not owned.players:
            raise DataError(Fault("orders", "nobody plays: no participant but the main grid, and no private wire"))
        self._players = checked_players(owned.players)
        self._number = {player: k for k, player in enumerate(self._players)}
        self._merit = merit_of(network, orders, self.main_grid, owned.player_of)
        self._own_kw = _firm_kw(network, orders, owned.player_of, self._merit.bus, self._merit.player)
        self._wires = self._private(network)
        _refuse_off_grid(network, self._merit.bus, self._wires)
        self._shares = owned.shares[self._wires.branch]
        self._owned = self._shares > 0.0
        self._parts: dict[bytes, Optimum] = {}
        self._taken = 0.0
        self._all: FloatArray | None = None
        self.programs = 0

    def _private(self, network: Network) -> Wires:
        merit, branch = self._merit, np.flatnonzero(network.private)
        rating = network.lines["rating_kva"].to_numpy(dtype=float)[branch]
        rho = units.loss_per_kw(network)[branch]
        given = np.maximum(merit.base_kw, 0.0).sum(axis=0)
        np.add.at(given, merit.period, merit.width_kw)
        return Wires(
            branch, network.from_index[branch], network.to_index[branch], rho, limits(rho, rating, given, merit)
        )

    # -- the game ------------------------------------------------------------------------------------------------------

    @property
    def players(self) -> tuple[str, ...]:
        """Agents in the order of their orders, then owners who have wires alone."""
        return self._players

    def game(self, workers: int = 1) -> CoalitionGame:
        """The game, whose values bring bounds: with them up to 20 players have a nucleolus (see `Exhaustive`)."""
        return CoalitionGame(self.players, self, workers=workers)

    def values(self, coalitions: Iterable[Iterable[str]]) -> FloatArray:
        """v(S) of many coalitions (k,) [$]."""
        found = [self._value(self._members(coalition), self._all)[0] for coalition in coalitions]
        return np.array(found, dtype=float)

    def __call__(self, coalition: Coalition) -> Bounded:
        """v(S) [$], with the bound that its prices give of all values."""
        inside = self._members(coalition)
        value, prices = self._value(inside, self._prices_of_all())
        weights = self._earned(prices, self._shares_beside(inside)).sum(axis=1)
        return Bounded(value, 0.0, dict(zip(self.players, weights.tolist(), strict=True)))

    def payments(self, coalition: Iterable[str] | None = None) -> pd.DataFrame:
        """Owen payments of a coalition (None: of all): columns player, own_surplus, endowment, rent, total [$].

        They are what its members' orders and the wires that it may use earn at its prices; see `owen_payments` for what
        the columns hold. Elastic offers' minima count as own surplus.
        """
        inside = self._members(self.players if coalition is None else coalition)
        prices = self._value(inside, self._prices_of_all())[1]
        earned = self._earned(prices, np.where(self._usable(inside)[:, None], self._shares, 0.0))[inside]
        names = np.array(self.players, dtype=object)[inside]
        columns = dict(zip(("own_surplus", "endowment", "rent"), earned.T, strict=True))
        return pd.DataFrame({"player": names, **columns, "total": earned.sum(axis=1)})

    def prices(self, coalition: Iterable[str] | None = None) -> FloatArray:
        """The prices of a coalition (None: of all) at every bus and period (n_buses, T) [$/kWh].

        They are the duals of its balances; where it has nobody, those of all.
        """
        inside = self._members(self.players if coalition is None else coalition)
        return self._value(inside, self._prices_of_all())[1]

    def flows_kw(self, coalition: Iterable[str] | None = None) -> FloatArray:
        """What a coalition (None: all) sends over branches in service (n_branches, T), mean of both ends [kW]."""
        inside = self._members(self.players if coalition is None else coalition)
        found = np.zeros((self.network.n_branches, len(self._merit.hours)))
        for _, wires, part in self._solved(inside, self._prices_of_all()):
            found[self._wires.branch[wires]] = part.flows_kw
        return found

    def plan(self, coalition: Iterable[str]) -> Plan:
        """What a coalition does at its optimum; where a bus is indifferent it rather trades within than outside."""
        inside, merit = self._members(coalition), self._merit
        shape = (self.network.n_buses, len(merit.hours))
        plan = Plan(np.zeros(shape), np.zeros(shape[1]), np.zeros((self.network.n_branches, shape[1])))
        units_in = np.flatnonzero(inside[merit.player])
        for buses, wires, part in self._solved(inside, self._prices_of_all()):
            first, second = (np.searchsorted(buses, end[wires]) for end in (self._wires.first, self._wires.second))
            here = units_in[np.isin(merit.bus[units_in], buses)]
            plan.flows_kw[self._wires.branch[wires]] = part.flows_kw
            exports = wire_exports(first, second, self._wires.rho[wires], part.flows_kw, len(buses))
            for t in range(shape[1]):
                supplies, fixed = supplies_of(merit, here, buses, t)
                traded = [supply.outside(float(kw)) for supply, kw in zip(supplies, exports[:, t], strict=True)]
                plan.exchange_kw[buses, t] = [kw for kw, _ in traded]
                plan.cost[t] += fixed + sum(cost for _, cost in traded)
        return plan

    # -- values --------------------------------------------------------------------------------------------------------

    def _members(self, coalition: Iterable[str]) -> BoolArray:
        inside = np.zeros(len(self.players), dtype=bool)
        for player in named(coalition):
            if player not in self._number:
                raise unknown_name("player", player, self.players)
            inside[self._number[player]] = True
        if not inside.any():
            raise FormulationError("the empty coalition has no prices; it is worth 0")
        return inside

    def wires_of(self, coalition: Iterable[str]) -> BoolArray:
        """Which branches in service are private wires that a coalition may use, (n_branches,)."""
        found = np.zeros(self.network.n_branches, dtype=bool)
        found[self._wires.branch] = self._usable(self._members(coalition))
        return found

    def _usable(self, inside: BoolArray) -> BoolArray:
        """Which wires have all of their owners inside (W,)."""
        return np.asarray(~(self._owned & ~inside).any(axis=1))

    def _prices_of_all(self) -> FloatArray:
        """The duals of N, (n_buses, T): where a group leaves prices open they are taken, so that bounds meet."""
        if self._all is None:
            everyone = np.ones(len(self.players), dtype=bool)
            self._all = self._value(everyone, None)[1]
            self._forget()
        return self._all

    def _forget(self) -> None:
        self._parts.clear()
        self._taken = 0.0

    def _value(self, inside: BoolArray, near: FloatArray | None = None) -> tuple[float, FloatArray]:
        """(v(S), prices at every bus (n_buses, T))."""
        merit = self._merit
        shape = (self.network.n_buses, len(merit.hours))
        middle = np.broadcast_to(0.5 * (merit.feed_in + merit.retail), shape)
        prices, value = np.array(middle if near is None else near), 0.0
        for buses, _, part in self._solved(inside, near):
            value += part.value
            prices[buses] = part.prices
        return value, prices

    def _solved(self, inside: BoolArray, near: FloatArray | None) -> Iterable[tuple[IntArray, IntArray, Optimum]]:
        """(buses, wires, optimum) of the parts that a coalition falls into."""
        units_in = np.flatnonzero(inside[self._merit.player])
        wires_in = np.flatnonzero(self._usable(inside))
        for buses, here, wires in self._divided(units_in, wires_in):
            key = here.astype(np.int32).tobytes() + b"|" + wires.astype(np.int32).tobytes()
            part = self._parts.get(key)
            if part is None:
                part = self._optimum(buses, here, wires, near)
                size = _EACH + len(key) + part.prices.nbytes + part.flows_kw.nbytes
                if self._taken + size > _KEPT:
                    self._forget()
                self._parts[key], self._taken = part, self._taken + size
            yield buses, wires, part

    def _optimum(self, buses: IntArray, here: IntArray, wires: IntArray, near: FloatArray | None) -> Optimum:
        chosen, self.programs = self._wires, self.programs + bool(len(wires))
        some = Wires(
            chosen.branch[wires], chosen.first[wires], chosen.second[wires], chosen.rho[wires], chosen.limit_kw[wires]
        )
        return optimum(self._merit, some, here, buses, None if near is None else near[buses])

    def _divided(self, units_in: IntArray, wires_in: IntArray) -> list[tuple[IntArray, IntArray, IntArray]]:
        """(buses, units, wires) of each part, in the order of their first bus; also of wires where nobody is."""
        parent: dict[int, int] = {}

        def root(bus: int) -> int:
            while (above := parent.setdefault(bus, bus)) != bus:
                parent[bus] = parent[above]
                bus = parent[bus]
            return bus

        first, second = self._wires.first[wires_in].tolist(), self._wires.second[wires_in].tolist()
        for one, other in zip(first, second, strict=True):
            a, b = root(one), root(other)
            parent[max(a, b)] = min(a, b)
        parts: dict[int, tuple[list[int], list[int], list[int]]] = {}
        for unit, bus in zip(units_in.tolist(), self._merit.bus[units_in].tolist(), strict=True):
            parts.setdefault(root(bus), ([], [], []))[1].append(unit)
        for wire, bus in zip(wires_in.tolist(), first, strict=True):
            parts.setdefault(root(bus), ([], [], []))[2].append(wire)
        for bus in sorted(parent):
            parts[root(bus)][0].append(bus)
        return [tuple(np.array(one, dtype=np.int64) for one in part) for _, part in sorted(parts.items())]  # type: ignore[misc]

    # -- shares --------------------------------------------------------------------------------------------------------

    def _shares_beside(self, inside: BoolArray) -> FloatArray:
        """Shares of wires (W, n_players): those that a coalition may not use are its other owners', in equal parts."""
        lost = ~self._usable(inside)
        outside = self._owned & ~inside
        part = outside / np.maximum(outside.sum(axis=1, keepdims=True), 1)
        return np.asarray(np.where(lost[:, None], part, self._shares))

    def _earned(self, prices: FloatArray, shares: FloatArray) -> FloatArray:
        """Own surplus, endowment and rents of each player at prices and shares (n_players, 3) [$]."""
        merit, hours = self._merit, self._merit.hours
        firm = np.einsum("ut,ut,t->u", prices[merit.bus], self._own_kw[0], hours) - self._own_kw[1] @ hours
        worth = merit.worth(prices) @ hours
        rent = rents(self._wires, prices) @ hours
        count = len(self.players)
        found = np.zeros((count, 3))
        found[:, 0] = np.bincount(merit.player, worth - firm, count)
        found[:, 1] = np.bincount(merit.player, firm, count)
        found[:, 2] = rent @ shares
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: all but what is kept, which they find anew."""
        return {**self.__dict__, "_parts": {}, "_taken": 0.0}

    def __repr__(self) -> str:
        return f"EnergyGame({len(self.players)} players, {len(self._wires.rho)} private wires)"


def _refuse_off_grid(network: Network, agents_at: IntArray, wires: Wires) -> None:
    """Everybody trades with the main grid in this game: raises DataError where an agent or a wire is off the grid."""
    island = network.parts(~network.private)
    used = np.unique(np.r_[agents_at, wires.first, wires.second])
    lost = used[island[used] != island[network.source_index]]
    if len(lost):
        names = network.buses["bus"].to_numpy()[lost]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        problem = f"no public line joins {len(names)} bus(es) to the source {network.source_bus!r}: {shown}"
        hint = (
            "a group there that needs power has no supply without the others, and no value: add a public line, or clear"
            " mechanism 'coalition' with behaviour 'cooperative', which feeds it over private wires"
        )
        raise DataError(Fault("branches", problem, hint=hint))


def _firm_kw(
    network: Network, orders: Orders, player_of: IntArray, bus: IntArray, player: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Injection of firm orders of each unit (U, T) [kW] and what its firm offers cost (U, T) [$/h]."""
    rows = np.flatnonzero(orders.firm & (player_of >= 0))
    number = {key: k for k, key in enumerate(zip(bus.tolist(), player.tolist(), strict=True))}
    where = network.bus_positions(orders.orders["bus"])[rows].tolist()
    unit = np.array([number[key] for key in zip(where, player_of[rows].tolist(), strict=True)], dtype=np.int64)
    shape, at = (len(bus), len(network.hours)), (unit, orders.orders["period"].to_numpy()[rows])
    power, cost = np.zeros(shape), np.zeros(shape)
    kw = np.where(orders.firm, orders.width_kw, 0.0)
    np.add.at(power, at, (orders.injection_sign * kw)[rows])
    np.add.at(cost, at, np.where(orders.is_bid, 0.0, orders.curves.value(kw))[rows])
    return power, cost
