"""The proof of a `Coalition`: its numbers made anew from the clearing's tables, and choices held against their reasons.

    losses    losses and energies of the record against rho f^2 of every wire, and what is wasted beside against table
              `flows`, relative
    costs     tariffs against the options of the clearing; resource cost and its parts against dispatch and orders'
              curves; of integrated, `settled_cost` against a power flow of its own
              (`mktopt.clearing.lossy_power_flow`), relative
    payments  tables of trades, payments and groups against the same made anew; sum (payment - rent) against zero and
              sum (payment - rent + cost) against the resource cost, relative
    choice    what those who decided private trades missed. self_interested: the duality gap of the groups' program at
              `private_prices`, over their turnover (wires, exchange at the tariffs, elastic orders), and prices beyond
              the tariffs, over retail. ad_hoc: the greatest gain per kWh that a pair left, or lost by going on, when
              it traded, and what a bus's orders cost more than they must, over retail. None where nothing was
              decided apart.

That the settlement is optimal is `clearing.certificate`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mktopt.clearing.coalition import Coalition
from mktopt.clearing.coalition_settled import settled_cost
from mktopt.clearing.coalition_tables import Account, groups, payments, positions, third_parties, trades, wires_known
from mktopt.clearing.merit_order import MeritOrder
from mktopt.clearing.optimality import max_of
from mktopt.clearing.result import Clearing
from mktopt.errors import MktoptError
from mktopt.formulations.coalition import AD_HOC, DECIDED, INTEGRATED, TARIFF, main_grid_of
from mktopt.networks import units
from mktopt.networks.network import FloatArray

# Positions nearer to a kink than this share of the greatest order stand at it.
_NEAR = 1e-7
# What a bus trades is worth judging from this share of the greatest order.
_FEW = 1e-5


@dataclass(frozen=True)
class CoalitionCertificate:
    """Figures of proof, all relative; see the module's text."""

    losses: float
    costs: float
    payments: float
    choice: float | None

    def failures(self, tol: float = 1e-6) -> list[str]:
        """The names of the figures that do not hold within `tol`."""
        figures = {name: getattr(self, name) for name in ("losses", "costs", "payments", "choice")}
        return [name for name, value in figures.items() if value is not None and not value <= tol]

    def ok(self, tol: float = 1e-6) -> bool:
        """Whether every figure holds within `tol`."""
        return not self.failures(tol)

    def __str__(self) -> str:
        failed = self.failures()
        verdict = "holds" if not failed else f"FAILS in {', '.join(failed)}"
        choice = "" if self.choice is None else f", choice {self.choice:.1e}"
        return f"{verdict}: losses {self.losses:.1e}, costs {self.costs:.1e}, payments {self.payments:.1e}{choice}"


def coalition_certificate(clearing: Clearing) -> CoalitionCertificate:
    """Evaluates the proof of `clearing.coalition`; raises MktoptError for a clearing of another mechanism."""
    found = clearing.coalition
    if found is None:
        raise MktoptError("this clearing is none of mechanism 'coalition': it has no record of private trades")
    if not _as_asked(clearing, found):  # a record of something else says nothing about this clearing
        return CoalitionCertificate(np.inf, np.inf, np.inf, np.inf)
    account, choice = _account(clearing, found), None
    if found.behaviour == AD_HOC:
        replayed = _replayed(account, clearing.options.get("radius_km"))
        account, choice = replace(account, paid=replayed.paid, received=replayed.received), replayed.missed
    elif found.behaviour in DECIDED:
        choice = _groups_missed(account)
    costs = _worst(_costs(found, account), _settled(clearing, found, account))
    return CoalitionCertificate(_losses(clearing, found, account), costs, _payments(found, account), choice)


def _account(clearing: Clearing, found: Coalition) -> Account:
    """What the tables of `found` are made of, but for the money of pairs, from tables dispatch, flows and prices."""
    wholesale = TARIFF if found.wholesale is None else found.wholesale
    main_grid = main_grid_of(clearing.orders, clearing.network, found.retail, found.feed_in, wholesale)
    private = found.private_prices
    if private is None:
        return Account.of(clearing, found.behaviour, main_grid)
    prices = private["price"].to_numpy(dtype=float).reshape(-1, len(clearing.network.hours))
    return Account.of(clearing, found.behaviour, main_grid, prices)


def _worst(*figures: float | FloatArray) -> float:
    """The greatest of all, NaN where one is NaN."""
    return max_of(*(np.asarray(figure, dtype=float) for figure in figures))


def _apart(stated: float, found: float, scale: float) -> float:
    return abs(stated - found) / max(scale, 1e-12)


def _losses(clearing: Clearing, found: Coalition, account: Account) -> float:
    hours, private = clearing.network.hours, account.private
    square = units.loss_per_kw(clearing.network)[:, None] * account.p_kw**2
    phantom = account.loss_kw - square
    energy = account.quantity_kw * hours[account.period]
    supply, buys = list(account.main_grid.supply), list(account.main_grid.buys)
    pairs = [
        (found.private_loss_kwh, float((square @ hours)[private].sum())),
        (found.public_loss_kwh, float((square @ hours)[~private].sum())),
        (found.import_kwh, float(energy[supply].sum())),
        (found.export_kwh, float(energy[buys].sum())),
    ]
    moved, most = max(float(energy.sum()), account.size_kw * float(hours.max())), account.size_kw
    # what a solver leaves at each wire may add up
    wires = max(moved, most * float(hours.max()) * len(phantom))
    said = None if clearing.relaxation is None else clearing.relaxation["phantom_kw"].to_numpy(dtype=float)
    wasted = np.where(units.loss_per_kw(clearing.network)[:, None] > 0.0, phantom, 0.0).ravel()
    return _worst(
        np.maximum(-phantom, 0.0) / most,  # a wire loses no less than rho f^2
        0.0 if said is None else np.abs(said - wasted) / most,
        _apart(found.phantom_kwh, float((phantom @ hours).sum()), wires),
        *(_apart(stated, value, moved) for stated, value in pairs),
    )


def _as_asked(clearing: Clearing, found: Coalition) -> bool:
    """Whether behaviour and prices of the record are those of the clearing, and its tables are there."""
    wholesale = TARIFF if found.wholesale is None else found.wholesale
    stated = {"behaviour": found.behaviour, "retail": found.retail, "feed_in": found.feed_in, "wholesale": wholesale}
    if any(_plain(clearing.options.get(name)) != _plain(value) for name, value in stated.items()):
        return False
    if any(table is None for table in (found.trades, found.payments, found.groups)):
        return False
    if (found.private_prices is None) != (found.behaviour not in DECIDED):
        return False
    keys = ["bus", "period"]
    return found.private_prices is None or bool(
        list(found.private_prices) == [*keys, "price"] and found.private_prices[keys].equals(clearing.prices[keys])
    )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else tuple(np.ravel(value).tolist())


def _settled(clearing: Clearing, found: Coalition, account: Account) -> float:
    """`settled_cost` against a power flow, relative; with constraints of the user's own there is more to keep to."""
    if found.behaviour != INTEGRATED:
        return 0.0 if found.settled_cost is None else np.inf
    if len(clearing.constraints):
        return 0.0
    cost = settled_cost(account)
    if cost is None or found.settled_cost is None:
        return 0.0 if cost is None and found.settled_cost is None else np.inf
    return _apart(found.settled_cost, cost, max(float(np.abs(account.own_cost).sum()), _money(account)))


def _money(account: Account) -> float:
    """What the account's least sum of note is worth at retail [$]."""
    return account.size_kw * max(account.main_grid.retail) * float(account.network.hours.max())


def _costs(found: Coalition, account: Account) -> float:
    agents, bid, cost = account.agents, account.orders.is_bid, account.own_cost
    generation, demand = float(cost[agents & ~bid].sum()), -float(cost[agents & bid].sum())
    main = float(cost[~agents].sum())
    scale = max(float(np.abs(cost).sum()), abs(found.resource_cost), _money(account))
    pairs = [
        (found.generation_cost, generation),
        (found.demand_value, demand),
        (found.main_grid_cost, main),
        (found.resource_cost, generation + main - demand),
    ]
    return _worst(*(_apart(stated, value, scale) for stated, value in pairs))


def _payments(found: Coalition, account: Account) -> float:
    paid = payments(account)
    stated = found.payments
    turnover = max(float(stated[["payment", "cost"]].abs().to_numpy().sum()), _money(account))
    closing = float((stated["payment"] - stated["rent"]).sum())
    total = closing + float(stated["cost"].sum())
    made = [(stated, paid), (found.trades, trades(account)), (found.groups, groups(account, paid))]
    tables = [_tables_apart(one, other) for one, other in made]
    return _worst(*tables, _apart(closing, 0.0, turnover), _apart(total, found.resource_cost, turnover))


def _tables_apart(stated: pd.DataFrame, found: pd.DataFrame) -> float:
    """The greatest difference between two tables, over the greatest number of the column; inf for other names."""
    if list(stated.columns) != list(found.columns) or len(stated) != len(found):
        return np.inf
    worst = 0.0
    for column in stated.columns:
        one, other = stated[column], found[column]
        if not pd.api.types.is_numeric_dtype(other):
            if (one.to_numpy() != other.to_numpy()).any():
                return np.inf
            continue
        first, second = one.to_numpy(dtype=float), other.to_numpy(dtype=float)
        if (np.isnan(first) != np.isnan(second)).any():
            return np.inf
        size = max(float(np.nanmax(np.abs(second), initial=0.0)), 1.0)
        worst = max(worst, float(np.nanmax(np.abs(first - second), initial=0.0)) / size)
    return worst


# -- choices -----------------------------------------------------------------------------------------------------------


def _groups_missed(account: Account) -> float:
    """The duality gap of the groups' own program at the private prices, relative; and prices beyond the tariffs."""
    network, price, hours = account.network, account.private_prices, account.network.hours
    assert price is not None
    main = account.main_grid
    retail, feed_in = np.array(main.retail), np.array(main.feed_in)
    taken = account.public_in_kw
    exchange = (np.maximum(taken, 0.0) * (retail - price) + np.maximum(-taken, 0.0) * (price - feed_in)) @ hours
    missed = float(np.abs(exchange).sum()) + float(_wires_missed(account, price) @ hours)
    orders, elastic = account.orders, account.agents & ~account.orders.firm
    faced, sign = price[account.bus, account.period], orders.injection_sign
    least = orders.orders["minimum_kw"].to_numpy()
    most = np.where(np.isinf(orders.width_kw), np.maximum(account.quantity_kw, least), orders.width_kw)
    best = orders.curves.best_response(faced, sign, least, most)
    gain = [sign * (faced * q - orders.curves.value(q)) for q in (best, account.quantity_kw)]
    missed += float(np.sum(((gain[0] - gain[1]) * hours[account.period])[elastic]))
    energy = account.quantity_kw * hours[account.period]
    level = max(float(retail.max()), 1e-12)
    turnover = level * float(energy[account.agents].sum())
    beyond = float(np.maximum(price - retail, feed_in - price).max(initial=0.0)) if network.n_buses else 0.0
    return max(missed / max(turnover, _money(account), 1e-12), beyond / level)


def _wires_missed(account: Account, price: FloatArray) -> FloatArray:
    """What the best flows over private wires would earn beyond the flows that there are, (T,) [$/h]."""
    network, private = account.network, account.private
    rho = units.loss_per_kw(network)[private, None]
    rating = network.lines["rating_kva"].to_numpy()[private, None]
    start, end = price[network.from_index[private]], price[network.to_index[private]]
    flow, rise, mean = account.p_kw[private], end - start, 0.5 * (end + start)
    steep = 2.0 * rho * mean
    idle = np.minimum(rating, np.maximum(np.abs(flow), 1.0))  # where nothing but the rating ends it
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(steep > 0.0, np.clip(rise / steep, -rating, rating), np.sign(rise) * idle)

    def earned(f: FloatArray) -> FloatArray:
        return np.asarray(rise * f - rho * mean * f**2)

    return np.asarray((earned(best) - earned(flow)).sum(axis=0))


class _Replayed(NamedTuple):
    """paid, received [$] per wire and period; missed: the greatest gain that a pair left or lost, over retail."""

    paid: FloatArray
    received: FloatArray
    missed: float


def _replayed(account: Account, radius_km: float | None) -> _Replayed:
    """The trades that table `flows` shows, made one after the other in the traders' sequence."""
    network, hours = account.network, account.network.hours
    paid, received = np.zeros_like(account.p_kw), np.zeros_like(account.p_kw)
    parties = 2 + third_parties(network, account.orders).sum(axis=1)
    known, missed = wires_known(network, radius_km), 0.0
    near = _NEAR * account.size_kw
    unknown = account.private.copy()
    unknown[known] = False
    if np.abs(account.p_kw[unknown]).max(initial=0.0) > near:
        return _Replayed(paid, received, np.inf)
    rating = network.lines["rating_kva"].to_numpy(dtype=float)
    for t in network.periods:
        at = positions(network, account.orders, account.main_grid, t)
        y = dict.fromkeys(at, 0.0)
        level = max(account.main_grid.retail[t], 1e-12)
        for wire in known.tolist():
            i, j, flow = int(network.from_index[wire]), int(network.to_index[wire]), float(account.p_kw[wire, t])
            if i not in at or j not in at:
                missed = max(missed, np.inf if abs(flow) > near else 0.0)
                continue
            seller, buyer = (i, j) if flow >= 0.0 else (j, i)
            half = 0.5 * float(account.loss_kw[wire, t])
            if flow:
                gain = -at[seller].cost(y[seller]), at[buyer].cost(y[buyer])
                y[seller] += abs(flow) + half
                y[buyer] -= abs(flow) - half
                cost, value = at[seller].cost(y[seller]) + gain[0], gain[1] - at[buyer].cost(y[buyer])
                part = (value - cost) / parties[wire]
                paid[wire, t], received[wire, t] = (value - part) * hours[t], (cost + part) * hours[t]
            full = bool(abs(flow) >= rating[wire] * (1.0 - _NEAR))
            slope = 2.0 * half / abs(flow) if flow else 0.0
            gains = _gains(at[seller], y[seller], at[buyer], y[buyer], slope, near, flow != 0.0, full)
            missed = max(missed, *(gain / level for gain in gains))
        missed = float(np.max([missed, _orders_missed(account, at, y, t) / level, _worths(account, at, y, t) / level]))
    return _Replayed(paid, received, missed)


def _worths(account: Account, at: Mapping[int, MeritOrder], y: Mapping[int, float], period: int) -> float:
    """How far a private price lies outside of what a kWh more and a kWh less are worth at its bus [$/kWh]."""
    assert account.private_prices is not None
    price, main = account.private_prices[:, period], account.main_grid
    near = _NEAR * account.size_kw
    apart = [0.0]
    for bus, stated in enumerate(price.tolist()):
        if bus in at:
            apart.append(at[bus].left(y[bus] - near) - stated)
            apart.append(stated - at[bus].right(y[bus] + near))
        else:
            apart.append(abs(stated - 0.5 * (main.feed_in[period] + main.retail[period])))
    return float(np.max(apart))


def _orders_missed(account: Account, at: Mapping[int, MeritOrder], y: Mapping[int, float], period: int) -> float:
    """What orders and tariffs cost more at each bus than they need, when `y` leaves, per kW traded there [$/kWh]."""
    here = np.flatnonzero(account.agents & (account.period == period))
    quantity, bus = account.quantity_kw, account.bus[here]
    value = (account.orders.injection_sign * account.orders.curves.value(quantity))[here]
    spent = np.bincount(bus, value, account.network.n_buses) + account.tariff(account.public_in_kw)[:, period]
    traded = np.maximum(np.bincount(bus, quantity[here], account.network.n_buses), _FEW * account.size_kw)
    return max((float(abs(spent[b] - position.cost(y[b])) / traded[b]) for b, position in at.items()), default=0.0)


def _gains(
    seller: MeritOrder,
    sold: float,
    buyer: MeritOrder,
    bought: float,
    slope: float,
    near: float,
    trades: bool,
    full: bool,
) -> Iterator[float]:
    """What a pair would gain per kWh [$/kWh] by a little more, or a little less, than it trades; slope: rho f."""
    yield 0.0
    if not full:
        yield buyer.left(bought - near) * (1.0 - slope) - seller.right(sold + near) * (1.0 + slope)
    if trades:
        yield seller.left(sold - near) * (1.0 + slope) - buyer.right(bought + near) * (1.0 - slope)
    elif not full:
        yield seller.left(sold - near) - buyer.right(bought + near)
