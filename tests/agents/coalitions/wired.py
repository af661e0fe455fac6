"""Agents with private wires for the tests: drawn at random, in small numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from mktopt.clearing.owen import owen_payments, ownership
from mktopt.formulations.coalition import main_grid_of, private_market
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.private_wires import MAIN_GRID
from mktopt.solvers import compile, row_prices, solve

HOURS = (1.0, 0.5)


def star(buses: list[str], wires: pd.DataFrame | None = None, hours: tuple[float, ...] = (1.0,)) -> Network:
    """Public lines from the source `g` to each bus, and private wires (columns from_bus, to_bus, rho, ...) between.

    At 1 kV a wire of 1 ohm loses f^2 / 1000 kW, so that r_ohm = 1000 rho.
    """
    public = pd.DataFrame({
        "branch": [f"g-{bus}" for bus in buses], "from_bus": "g", "to_bus": buses, "r_ohm": 1.0, "x_ohm": 1.0,
        "kind": "line", "owner": "", "rating_kva": np.inf,
    })  # fmt: skip
    tables = [public]
    if wires is not None and len(wires):
        private = wires.drop(columns="rho").assign(r_ohm=1000.0 * wires["rho"], x_ohm=0.1, kind="private")
        private["branch"] = [f"w{k}" for k in range(len(private))]
        for column, usual in (("owner", ""), ("rating_kva", np.inf)):
            private[column] = private.get(column, usual)
        tables.append(private)
    branches = pd.concat(tables, ignore_index=True)
    nodes = pd.DataFrame({"bus": ["g", *buses], "base_kv": 1.0})
    return Network(buses=nodes, branches=branches, source_bus="g", hours=np.array(hours))


def main_grid(retail: float, feed_in: float, periods: int = 1) -> pd.DataFrame:
    """Its steps."""
    return pd.DataFrame({
        "order": np.tile(["main:supply", "main:feed_in"], periods), "participant": "main_grid", "bus": "g",
        "period": np.repeat(np.arange(periods), 2), "side": np.tile(["offer", "bid"], periods), "minimum_kw": 0.0,
        "width_kw": 1e4, "price": np.tile([retail, feed_in], periods),
    })  # fmt: skip


def firm(endowments: dict[str, float], period: int = 0) -> pd.DataFrame:
    """Steps of agents at buses of their names: above zero an endowment at 0, below a need at 10 $/kWh [kW]."""
    kw = np.array(list(endowments.values()))
    names = np.array(list(endowments), dtype=object)
    side = np.where(kw > 0, "offer", "bid").astype(object)
    return pd.DataFrame({
        "order": names + ":" + side, "participant": names, "bus": names, "period": period, "side": side,
        "minimum_kw": np.abs(kw), "width_kw": np.abs(kw), "price": np.where(kw > 0, 0.0, 10.0),
    })[kw != 0]  # fmt: skip


def drawn(n: int, seed: int, elastic: bool = True, third: bool = True) -> tuple[Network, Orders]:
    """`n` agents in two periods of unequal length: firm orders, elastic ones, wires with limits and other owners."""
    rng = np.random.default_rng(seed)
    names = [f"a{k}" for k in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.6]
    owners = [f"{names[i]}+{names[j]}" for i, j in pairs]
    if third:
        owners = [["third", "", owner, owner][rng.integers(4)] for owner in owners]
    wires = pd.DataFrame({
        "from_bus": [names[i] for i, _ in pairs], "to_bus": [names[j] for _, j in pairs],
        "rho": rng.choice([0.0, 0.003, 0.02, 0.1], len(pairs)), "owner": owners,
        "rating_kva": rng.choice([2.0, 5.0, np.inf], len(pairs)),
    })  # fmt: skip
    network = star(names, wires, HOURS)
    steps = [main_grid(0.2, 0.08, 2)]
    for t in range(2):
        steps.append(firm(dict(zip(names, rng.uniform(-8, 8, n), strict=True)), t))
    orders = Orders.from_steps(pd.concat(steps, ignore_index=True))
    if not elastic:
        return network, orders
    at = np.flatnonzero(rng.random(n) < 0.7)
    side = np.where(rng.random(len(at)) < 0.5, "offer", "bid").astype(object)
    middle, half = rng.uniform(0.05, 0.25, len(at)), rng.choice([0.0, 0.05], len(at))
    least = np.where(rng.random(len(at)) < 0.3, 1.0, 0.0)
    flexible = pd.DataFrame({
        "order": [f"a{k}:flexible" for k in at], "participant": [names[k] for k in at], "period": 1, "side": side,
        "bus": [names[k] if rng.random() < 0.8 else names[0] for k in at], "minimum_kw": least,
    })  # fmt: skip
    sign = np.where(side == "offer", 1.0, -1.0)
    segments = pd.DataFrame({
        "order": flexible["order"], "period": 1, "segment": 0, "width_kw": rng.uniform(1.5, 6, len(at)),
        "price_start": middle - sign * half, "price_end": middle + sign * half,
    })  # fmt: skip
    return network, orders.merge(Orders(flexible, segments)) if len(at) else orders


class Declared(NamedTuple):
    """The declared program of a group: v(S) without the value of firm bids [$], and Owen payments at its duals."""

    value: float
    payments: pd.DataFrame


def declared(network: Network, orders: Orders, members: Collection[str]) -> Declared:
    """`private_market` of the orders of `members` and the wires that are all theirs, by the toolkit's solvers."""
    inside = set(members)
    players = ownership(network, orders)
    others = np.array([name not in inside for name in players.players])
    shut = network.lines["branch"][(players.shares[:, others] > 0).any(axis=1)]
    branches = network.branches[~network.branches["branch"].isin(shut)]
    mine = orders.orders["participant"].isin(inside | {MAIN_GRID}).to_numpy()
    network, orders = network.replace(branches=branches), orders.select(mine)
    main = main_grid_of(orders, network)
    model = private_market(network, orders, main)
    program = compile(model)
    solution = solve(program)
    assert solution.status.ok
    agents = orders.select(main.agents(orders))
    hours = network.hours[agents.orders["period"].to_numpy()]
    left_out = float((hours * agents.curves.value(agents.width_kw))[agents.firm & agents.is_bid].sum())
    rows = program.row_indices(model.grid.balance.values())
    buy = program.columns(model.buy_kw.values())
    shape = (network.n_buses, len(network.hours))
    every = np.tile(network.hours, network.n_buses)
    prices = row_prices(program, solution, rows, buy, np.ones(len(buy)), every).reshape(shape)
    quantity = agents.curves.total(program.values(solution.x, model.segment_kw.values()))
    flows, losses = (
        program.values(solution.x, part.values()).reshape(network.n_branches, -1)
        for part in (model.grid.p_kw, model.grid.loss_kw)
    )
    private = (network.lines["kind"] == "private").to_numpy()
    paid = owen_payments(network, agents, prices, quantity, flows, losses, private)
    return Declared(solution.objective - left_out, paid)


def crossed(seed: int) -> tuple[Network, Orders]:
    """Two or three agents with orders at several buses, in several segments, and wires of anybody.

    Owners are agents, buses, others and lists of these; wires join the source too and lie beside each other; feed-in
    may be zero and retail the same.
    """
    rng = np.random.default_rng(seed)
    buses, agents = [f"b{k}" for k in range(rng.integers(2, 5))], [f"p{k}" for k in range(rng.integers(2, 4))]
    anyone, wires = [*agents, *buses, "third", "g"], []
    for _ in range(rng.integers(1, 7)):
        start, end = rng.choice(["g", *buses], 2, replace=False)
        owner = ["", "+".join(rng.choice(anyone, rng.integers(1, 4))), rng.choice(agents)][rng.integers(3)]
        wires.append((start, end, rng.choice([0.0, 1e-4, 0.02, 0.1]), owner, rng.choice([0.5, 3.0, np.inf])))
    columns = ["from_bus", "to_bus", "rho", "owner", "rating_kva"]
    network = star(buses, pd.DataFrame(wires, columns=columns), HOURS)
    feed_in = float(rng.choice([0.0, 0.05, 0.08]))
    grid = Orders.from_steps(main_grid(feed_in + float(rng.choice([0.0, 0.12, 0.12, 0.12])), feed_in, len(HOURS)))
    orders, segments = list[dict[str, object]](), list[dict[str, object]]()
    for number in range(rng.integers(len(agents), 4 * len(agents))):
        bid, width = bool(rng.random() < 0.5), rng.uniform(0.2, 8.0, rng.integers(1, 4))
        prices = np.sort(rng.uniform(-0.05, 0.3, 2 * len(width)))
        if firm := bool(rng.random() < 0.4):
            prices[:] = 10.0 if bid else 0.0
        elif rng.random() < 0.5:
            prices[1::2] = prices[::2]
        prices = prices[::-1] if bid else prices
        least = width.sum() if firm else width.sum() * max(rng.uniform(-1.0, 0.9), 0.0)
        name, period = f"o{number}", int(rng.integers(len(HOURS)))
        orders.append({"order": name, "participant": agents[number % len(agents)], "bus": rng.choice(buses),
                       "period": period, "side": "bid" if bid else "offer", "minimum_kw": least})  # fmt: skip
        for k, kw in enumerate(width):
            segments.append({"order": name, "period": period, "segment": k, "width_kw": kw,
                             "price_start": prices[2 * k], "price_end": prices[2 * k + 1]})  # fmt: skip
    return network, grid.merge(Orders(pd.DataFrame(orders), pd.DataFrame(segments)))
