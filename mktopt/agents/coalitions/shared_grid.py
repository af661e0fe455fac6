"""Groups on a public grid whose losses they share: a game in partition-function form.

    v(S | p) = - sum_t hours_t [ cost of S's offers - value of its elastic bids
                                 + w_t ( net import of S + losses x share_S ) ]                                   [$]
    share_S = sum_l rho_l F_l f_S,l / sum_l rho_l F_l^2,      F = sum_S f_S,   losses = sum_l rho_l F_l^2

w: wholesale price [$/kWh], at which S's imports cost and its exports count; f_S: flows that S's injections would have
alone on the public grid, without losses [kW]. Losses go with the square of all flows together, so that what one group
loses depends on what the others do: a group that sends against the others' flow is paid. Shares sum to one; they are
Aumann and Shapley's of the losses, the losses themselves those of the lossless flows (second order).

    losses="felt"      each group minimises its cost, the others given: the equilibrium of
                       `mktopt.formulations.shared_grid`; all players together minimise the resource cost
    losses="ignored"   each group trades as the energy game does, blind, at retail and feed-in (`EnergyGame`)

Blind groups with wires that lose nothing at all may be indifferent how much they send; what they do is then one of
their choices, and others would be worth something else. Shunts and phase shifters are refused. Nobody feels the ratings
of public branches or the main grid's limits: a NetworkWarning comes with the first partition that overloads a branch,
and every outcome names those that it does (`overloaded`). Where a kW more would lose more than itself on the public
grid, groups had better waste power, and no equilibrium is proved: SolverError.
Where losses are felt, all groups together have at most v(N), since N could do what they do; where they are ignored,
nothing says so. Neither says that payments exist: ask `supporting_payments` for each expectation.
References: Thrall, Lucas, Nav. Res. Logist. Q. 10 (1963); poster "Coalitions on private infrastructure", which asks
whether its game is one; Aumann, Shapley, Values of Non-Atomic Games (1974).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.energy import EnergyGame
from mktopt.agents.coalitions.formation import Formation, merge_and_split
from mktopt.agents.coalitions.masks import BoolArray, FloatArray
from mktopt.agents.coalitions.partition import Partition, PartitionGame, checked_partition
from mktopt.agents.coalitions.values import Coalition, label
from mktopt.clearing.owen import ownership
from mktopt.errors import FormulationError, SolverError, unknown_name
from mktopt.formulations.coalition import Prices, main_grid_of
from mktopt.formulations.shared_grid import Group, shared_grid
from mktopt.networks import units
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.solvers.reading.compiler import compile
from mktopt.solvers.table import solve

LOSSES = ("felt", "ignored")
# How far the potential may be off that of the program, as a share of what is at stake; and of what needs are worth.
_WASTED, _ROUNDING = 1e-6, 1e-9
# By which share a rating must be exceeded to be called so.
_OVER = 1e-6


@dataclass(frozen=True, eq=False)
class SharedOutcome:
    """What a partition of the players comes to.

    groups: columns group, members, worth, own_cost (offers less elastic bids), import_kwh (net), share_kwh, loss_cost
    [$], one row per group: worth = -(own_cost + what imports cost at wholesale + loss_cost). public_kw: flows of each
    group on branches in service (groups, n_branches, T), private branches zero; private_kw: flows of private wires
    (n_branches, T); loss_kwh: losses of the public grid; overloaded: public branches that carry more than their rating
    in some period, which no group was asked to heed.
    """

    groups: pd.DataFrame
    public_kw: FloatArray
    private_kw: FloatArray
    loss_kwh: float
    overloaded: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """What all groups are worth together [$]: minus the resource cost."""
        return float(self.groups["worth"].sum())


class SharedGrid:
    """The game of `orders` on `network` whose groups share the public grid's losses.

    wholesale: [$/kWh], a number or one per period; None: `orders.meta["wholesale"]`. losses: "felt" or "ignored".
    Players are those of `EnergyGame`. Raises UnknownNameError for another word, FormulationError without a wholesale
    price, and for shunts or phase shifters on the public grid; DataError as `main_grid_of` (a wholesale price below
    zero, at which losses would pay, among others) and `EnergyGame`.
    """

    def __init__(self, network: Network, orders: Orders, wholesale: Prices | None = None, losses: str = "felt") -> None:
        if losses not in LOSSES:
            raise unknown_name("way with losses", losses, LOSSES)
        self.network, self.orders, self.losses = network, orders, losses
        self.energy = EnergyGame(network, orders)
        main = main_grid_of(orders, network, wholesale=wholesale)
        if main.wholesale is None:
            raise FormulationError(
                "what imports and losses cost has no price: give wholesale [$/kWh]; retail and feed-in are transfers"
            )
        self.wholesale = np.array(main.wholesale)
        self._owned = ownership(network, orders)
        self._sensitivity = _sensitivity(network)
        self._outcomes: dict[Partition, SharedOutcome] = {}
        self._selected: dict[bytes, Orders] = {}
        self._warned = False

    @property
    def players(self) -> tuple[str, ...]:
        """Agents in the order of their orders, then owners who have wires alone."""
        return self.energy.players

    @property
    def evaluated(self) -> int:
        """How many partitions were solved so far."""
        return len(self._outcomes)

    def game(self) -> PartitionGame:
        """The game in partition-function form; `expecting(rule)` of it has cores, nucleoli and payments."""
        return PartitionGame(self.players, self)

    def __call__(self, group: Coalition, partition: Partition) -> float:
        """v(S | p) [$]; one program tells all groups of a partition."""
        found = self.outcome(partition).groups.set_index("group")
        return float(found["worth"].to_dict()[label(group)])

    def form(self, start: Iterable[Iterable[str]] | None = None, **options: Any) -> Formation:
        """Where merging and splitting ends from `start` (None: everyone alone); options: of `merge_and_split`."""
        return merge_and_split(self.game(), start, **options)

    def outcome(self, partition: Iterable[Iterable[str]]) -> SharedOutcome:
        """What a partition comes to. Raises DataError where it is none, SolverError where a program has no answer."""
        parts = checked_partition(self.players, partition)
        if parts not in self._outcomes:
            order = sorted(parts, key=sorted)
            find = self._felt if self.losses == "felt" else self._ignored
            self._outcomes[parts] = found = self._told(order, *find(order))
            self._warn(found)
        return self._outcomes[parts]

    def _warn(self, found: SharedOutcome) -> None:
        if found.overloaded and not self._warned:
            self._warned = True
            shown = ", ".join(found.overloaded[:5]) + (", ..." if len(found.overloaded) > 5 else "")
            text = (
                f"a partition overloads {len(found.overloaded)} public branch(es): {shown}; groups that share a grid"
                " know no ratings, and values are as if there were none (mechanism 'coalition' heeds them)"
            )
            warnings.warn(text, NetworkWarning, stacklevel=4)

    def best_reply(self, group: Coalition, partition: Iterable[Iterable[str]]) -> float:
        """The most that `group` could be worth if it alone chose anew, the other groups' flows given [$]."""
        order = sorted(checked_partition(self.players, partition), key=sorted)
        here = self.outcome(order)
        k = order.index(group)
        others = here.public_kw.sum(axis=0) - here.public_kw[k]
        if not self._chooses(group):
            return float(here.groups["worth"].iloc[k])
        exchange, cost, _ = self._solved([group], others)
        return float(self._worth(exchange, cost, others)[0][0])

    # -- the two ways --------------------------------------------------------------------------------------------------

    def _felt(self, order: list[Coalition]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The equilibrium; groups of firm orders alone that may use no wire have nothing to choose and no program."""
        idle = [k for k, group in enumerate(order) if not self._chooses(group)]
        exchange = np.zeros((len(order), self.network.n_buses, len(self.wholesale)))
        cost = np.zeros((len(order), len(self.wholesale)))
        for k in idle:
            exchange[k], cost[k] = self._of_firm(order[k])
        others = np.einsum("lb,gbt->lt", self._sensitivity, exchange)
        busy = [k for k in range(len(order)) if k not in idle]
        if not busy:
            return exchange, cost, np.zeros_like(others)
        exchange[busy], cost[busy], flows = self._solved([order[k] for k in busy], others)
        return exchange, cost, flows

    def _chooses(self, group: Coalition) -> bool:
        return bool(self.energy.wires_of(group).any() or (self._rows_of(group) & ~self.orders.firm).any())

    def _rows_of(self, group: Coalition) -> BoolArray:
        """Which rows of `orders.orders` are the group's."""
        inside = np.array([*(player in group for player in self._owned.players), False])
        return np.asarray(inside[self._owned.player_of])

    def _of_firm(self, group: Coalition) -> tuple[FloatArray, FloatArray]:
        """Exchange (n_buses, T) [kW] and cost (T,) [$/h] of a group's firm orders."""
        rows = tuple(np.flatnonzero(self._rows_of(group) & self.orders.firm).tolist())
        kw = np.where(self.orders.firm, self.orders.width_kw, 0.0)
        none = np.zeros((self.network.n_branches, len(self.wholesale)))
        exchange, cost = self._exchange(self.orders, kw, [Group(label(group), rows, ())], none)
        return exchange[0], cost[0]

    def _solved(self, order: list[Coalition], others_kw: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Exchange (G, n_buses, T) [kW], own cost (G, T) [$/h] and private flows (n_branches, T) of an equilibrium."""
        network = self.network
        inside = np.array([self._rows_of(group) for group in order])
        mine = np.flatnonzero(inside.any(axis=0))
        if (key := mine.tobytes()) not in self._selected:  # the same in most partitions
            self._selected = {key: self.orders.select(mine)}
        orders = self._selected[key]
        usable = [self.energy.wires_of(group) for group in order]
        groups = [
            Group(label(group), tuple(np.flatnonzero(has[mine]).tolist()), tuple(np.flatnonzero(wires).tolist()))
            for group, has, wires in zip(order, inside, usable, strict=True)
        ]
        model = shared_grid(network, orders, groups, self.wholesale, self._sensitivity, others_kw)
        program = compile(model)
        solution = solve(program)
        if not solution.status.ok:
            raise SolverError(f"the equilibrium of the groups was not found ({solution.status}; {solution.message})")
        x = np.clip(solution.x, program.lower, program.upper)
        quantity = orders.curves.total(program.values(x, list(model.segment_kw.values())))
        flows = np.zeros((network.n_branches, len(self.wholesale)))
        wires = np.flatnonzero(np.any(usable, axis=0))
        flows[wires] = program.values(x, list(model.private_kw.values())).reshape(len(wires), len(self.wholesale))
        exchange, cost = self._exchange(orders, quantity, groups, flows)
        self._refuse_waste(orders, float(solution.objective), exchange, cost, others_kw)
        return exchange, cost, flows

    def _refuse_waste(
        self, orders: Orders, found: float, exchange: FloatArray, cost: FloatArray, others_kw: FloatArray
    ) -> None:
        """The potential with losses of wires as they are, against the program's, in which power may be thrown away."""
        flows = np.einsum("lb,gbt->glt", self._sensitivity, exchange)
        lost = 0.5 * units.loss_per_kw(self.network) @ ((flows.sum(axis=0) + others_kw) ** 2 + (flows**2).sum(axis=0))
        hours, net = self.network.hours, exchange.sum(axis=(0, 1))
        bids = orders.firm & orders.is_bid
        needs = (hours[orders.orders["period"].to_numpy()] * orders.curves.value(orders.width_kw))[bids].sum()
        exact = float(hours @ (cost.sum(axis=0) + self.wholesale * (lost - net))) - needs
        size = float(hours @ (np.abs(cost).sum(axis=0) + self.wholesale * (lost + np.abs(exchange).sum(axis=(0, 1)))))
        if exact - found > _WASTED * size + _ROUNDING * abs(needs):
            raise SolverError(
                f"{exact - found:.3g} $ of {size:.3g} $ are saved by wasting power: where a kW more loses more than"
                " itself on the public grid, groups have no equilibrium that is proved; check r_ohm and base_kv"
            )

    def _exchange(
        self, orders: Orders, quantity: FloatArray, groups: list[Group], flows: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """What groups put into the public grid (G, n_buses, T), and their own cost (G, T), losses of wires exact."""
        network = self.network
        rho, periods = units.loss_per_kw(network)[:, None], len(self.wholesale)
        where, period = network.bus_positions(orders.orders["bus"]), orders.orders["period"].to_numpy()
        money = np.where(orders.firm & orders.is_bid, 0.0, orders.curves.value(quantity)) * orders.injection_sign
        exchange, cost = np.zeros((len(groups), network.n_buses, periods)), np.zeros((len(groups), periods))
        for k, group in enumerate(groups):
            rows, wires = np.array(group.rows, dtype=np.int64), np.array(group.wires, dtype=np.int64)
            np.add.at(exchange[k], (where[rows], period[rows]), (orders.injection_sign * quantity)[rows])
            np.add.at(cost[k], period[rows], money[rows])
            lost = 0.5 * rho[wires] * flows[wires] ** 2
            np.add.at(exchange[k], network.from_index[wires], -flows[wires] - lost)
            np.add.at(exchange[k], network.to_index[wires], flows[wires] - lost)
        return exchange, cost

    def _ignored(self, order: list[Coalition]) -> tuple[FloatArray, FloatArray, FloatArray]:
        plans = [self.energy.plan(group) for group in order]
        exchange = np.array([plan.exchange_kw for plan in plans])
        cost, flows = (np.array([getattr(plan, name) for plan in plans]) for name in ("cost", "flows_kw"))
        return exchange, cost, flows.sum(axis=0)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _worth(
        self, exchange: FloatArray, cost: FloatArray, others_kw: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Worth (G,) [$], part of the losses (G, T) [kW], public flows (G, n_branches, T) [kW]."""
        flows = np.einsum("lb,gbt->glt", self._sensitivity, exchange)
        rho = units.loss_per_kw(self.network)
        part = np.einsum("l,lt,glt->gt", rho, flows.sum(axis=0) + others_kw, flows)
        net_cost = cost + self.wholesale * (part - exchange.sum(axis=1))
        return -(net_cost @ self.network.hours), part, flows

    def _told(
        self, order: list[Coalition], exchange: FloatArray, cost: FloatArray, private: FloatArray
    ) -> SharedOutcome:
        worth, part, flows = self._worth(exchange, cost, np.zeros(flows_shape(self.network)))
        hours = self.network.hours
        table = pd.DataFrame({
            "group": [label(group) for group in order],
            "members": [tuple(sorted(group)) for group in order],
            "worth": worth,
            "own_cost": cost @ hours,
            "import_kwh": -exchange.sum(axis=1) @ hours,
            "share_kwh": part @ hours,
            "loss_cost": part @ (hours * self.wholesale),
        })  # fmt: skip
        rho = units.loss_per_kw(self.network)
        loss = float(np.einsum("l,lt,t->", rho, flows.sum(axis=0) ** 2, hours))
        over = (np.abs(flows.sum(axis=0)).max(axis=1) / self.network.lines["rating_kva"].to_numpy()) > 1.0 + _OVER
        overloaded = tuple(self.network.lines["branch"].to_numpy()[over].tolist())
        return SharedOutcome(table, flows, private, loss, overloaded)


def flows_shape(network: Network) -> tuple[int, int]:
    """(n_branches, T)."""
    return network.n_branches, len(network.hours)


def _sensitivity(network: Network) -> FloatArray:
    """H of the public branches, dense (n_branches, n_buses), rows of private ones zero."""
    public = ~network.private
    grid = network.replace(branches=network.lines[public].reset_index(drop=True))
    if network.shunt_kw.any() or units.shift_rad(grid).any():
        raise FormulationError(
            f"network {network.name!r} has shunts that draw power or phase shifters, whose losses would be nobody's;"
            " take them out, or clear mechanism 'coalition' instead"
        )
    found = grid.topology.ptdf
    dense = np.zeros((network.n_branches, network.n_buses))
    dense[public] = found if isinstance(found, np.ndarray) else found.toarray()
    return dense
