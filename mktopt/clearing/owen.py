"""Owen payments of a market with private wires: what every resource earns at the prices.

    x_i = sum_t hours_t [ sum_{bids of i} (value(q) - lambda q) + sum_{offers of i} (lambda q - cost(q)) ]
        + sum_{wires l of i} share_il rent_l                                                                     [$]
    rent_l = sum_t hours_t [ lambda_j (f - L / 2) - lambda_i (f + L / 2) ],     l = (i, j)                       [$]

lambda: nodal prices [$/kWh]; f, L: mean flow and loss of a wire [kW], half of the loss at either end (flow `lossy`), so
that the rent is what arrives at its price there less what left at its price here. What a firm bid is worth is left
out: it is the same in every coalition. A firm offer at cost 0 thus earns lambda x endowment and a firm need pays
lambda x need. The main grid is no player.

At the prices of an optimum every x_i is the greatest that i's orders and wires could earn, which is why no group of
players is worth more than it is paid (`mktopt.agents.coalitions.energy`).
References: Owen, On the core of linear production games, Math. Program. 9 (1975); Shapley, Shubik, On market games,
J. Econ. Theory 1 (1969); poster "Coalitions on private infrastructure".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.network import PRIVATE, FloatArray, IntArray, Network
from mktopt.networks.orders import Orders
from mktopt.networks.private_wires import MAIN_GRID

BoolArray = npt.NDArray[np.bool_]

COLUMNS = ("own_surplus", "endowment", "rent", "total")


@dataclass(frozen=True, eq=False)
class Ownership:
    """Who plays, and what is whose.

    players: agents in the order of their orders, then owners who have nothing but wires; player_of: the player of each
    row of `orders.orders`, -1 for the main grid's, (rows,); shares: of each branch in service and player, rows that sum
    to one for private wires and to zero for others, (n_branches, n_players).
    """

    players: tuple[str, ...]
    player_of: IntArray
    shares: FloatArray


def wire_owners(network: Network, known: Iterable[str] = ()) -> list[tuple[str, ...]]:
    """The owners of each branch in service as its table names them, joined by '+' there; () for public branches.

    A private wire without an owner belongs to its ends. known: names besides those of buses that are one name, though
    they may have a '+' in them.
    """
    whole = {*network.buses["bus"], *known}
    lines, found = network.lines, list[tuple[str, ...]]()
    for kind, owner, start, end in zip(lines["kind"], lines["owner"], lines["from_bus"], lines["to_bus"], strict=True):
        if kind != PRIVATE:
            found.append(())
        elif owner in ("", f"{start}+{end}"):  # a name may have a plus in it
            found.append((str(start), str(end)))
        elif owner in whole:
            found.append((str(owner),))
        else:
            names = (part.strip() for part in str(owner).split("+"))
            found.append(tuple(dict.fromkeys(name for name in names if name)))
    return found


def ownership(network: Network, orders: Orders, main_grid: str = MAIN_GRID) -> Ownership:
    """The players of `orders` on `network` and their shares of wires.

    Owners of a wire have equal parts. One that is a participant is that player; a bus is the participants there but the
    main grid, in equal parts; any other name, and a bus without participants, is a player that has wires alone.
    """
    participants = orders.orders["participant"].to_numpy(dtype=object)
    agents = [str(name) for name in dict.fromkeys(participants) if name != main_grid]
    number = {name: k for k, name in enumerate(agents)}
    at_bus: dict[str, list[str]] = {}
    for bus, name in zip(orders.orders["bus"], participants, strict=True):
        if name != main_grid and name not in (there := at_bus.setdefault(bus, [])):
            there.append(name)
    player_of = np.array([number.get(name, -1) for name in participants], dtype=np.int64)
    owners = wire_owners(network, agents)
    parts = list[tuple[int, int, float]]()
    for wire, names in enumerate(owners):
        for name in names:
            found = [name] if name in number else at_bus.get(name, [name])
            for one in found:
                player = number.setdefault(one, len(number))
                parts.append((wire, player, 1.0 / len(names) / len(found)))
    shares = np.zeros((len(owners), len(number)))
    for wire, player, share in parts:
        shares[wire, player] += share
    return Ownership(tuple(number), player_of, shares)


def wire_rents(network: Network, prices: FloatArray, p_kw: FloatArray, loss_kw: FloatArray) -> FloatArray:
    """rent_l of every branch in service over all periods [$], shape (n_branches,).

    prices: (n_buses, T) [$/kWh]; p_kw, loss_kw: mean flow and loss (n_branches, T) [kW].
    """
    arrives = prices[network.to_index] * (p_kw - 0.5 * loss_kw)
    leaves = prices[network.from_index] * (p_kw + 0.5 * loss_kw)
    return np.asarray((arrives - leaves) @ network.hours)


def owen_payments(
    network: Network,
    orders: Orders,
    prices: FloatArray,
    quantity_kw: FloatArray,
    p_kw: FloatArray,
    loss_kw: FloatArray,
    wires: npt.ArrayLike,
    main_grid: str = MAIN_GRID,
) -> pd.DataFrame:
    """What each player gets at `prices`: columns player, own_surplus, endowment, rent, total [$].

    prices: (n_buses, T) [$/kWh]; quantity_kw: accepted per row of `orders.orders`, (rows,) [kW]; p_kw, loss_kw: mean
    flow and loss of branches in service, (n_branches, T) [kW]; wires: bool (n_branches,), those whose rent is paid out
    (public ones have no owner: their rent is nobody's here). own_surplus: of orders that are not firm; endowment: of
    firm ones, offers less their cost, bids without their value; total: the sum of the three.
    Raises DataError where an array has another shape or is not finite.
    """
    periods, rows = len(network.hours), len(orders)
    shapes = {
        "prices": (prices, (network.n_buses, periods)),
        "quantity_kw": (quantity_kw, (rows,)),
        "p_kw": (p_kw, (network.n_branches, periods)),
        "loss_kw": (loss_kw, (network.n_branches, periods)),
        "wires": (np.asarray(wires, dtype=float), (network.n_branches,)),
    }
    for name, (array, shape) in shapes.items():
        if np.shape(array) != shape:
            raise DataError(Fault("owen payments", f"needs shape {shape}", None, name, np.shape(array)))
        if not np.isfinite(array).all():
            raise DataError(Fault("owen payments", "not finite", None, name, "NaN or inf", "solve the market first"))
    own = ownership(network, orders, main_grid)
    worth = _order_worth(network, orders, prices, np.asarray(quantity_kw, dtype=float))
    rents = np.where(np.asarray(wires, dtype=bool), wire_rents(network, prices, p_kw, loss_kw), 0.0)
    columns = dict.fromkeys(COLUMNS, np.zeros(len(own.players)))
    for name, mask in (("own_surplus", ~orders.firm), ("endowment", orders.firm)):
        here = mask & (own.player_of >= 0)
        columns[name] = np.bincount(own.player_of[here], worth[here], len(own.players)).astype(float)
    columns["rent"] = rents @ own.shares
    columns["total"] = columns["own_surplus"] + columns["endowment"] + columns["rent"]
    return pd.DataFrame({"player": pd.Series(own.players, dtype=object), **columns})


def _order_worth(network: Network, orders: Orders, prices: FloatArray, quantity_kw: FloatArray) -> FloatArray:
    """What each order gains at the prices [$], shape (rows,); firm bids without their value."""
    period = orders.orders["period"].to_numpy()
    price = prices[network.bus_positions(orders.orders["bus"]), period]
    value = np.where(orders.is_bid & orders.firm, 0.0, orders.curves.value(quantity_kw))
    sign = orders.injection_sign
    return np.asarray(network.hours[period] * sign * (price * quantity_kw - value))
