"""Mechanism `coalition`: agents with private wires on a public grid, in four behaviours.

    min  sum_t hours_t [ sum_offers cost(q) - sum_bids value(q) + c_t m+_t - w_t m-_t ]    resource cost          [$]
    s.t. flow `lossy`: balance at every bus, losses rho f^2 on every wire, ratings; public flows as physics has them

Offers and bids are the agents': firm ones (endowments at 0, needs) and elastic ones (local generation, flexible
demand). m+, m-: what the main grid sells and buys at the source bus [kW]; c, w: what its energy costs and is worth
[$/kWh]: `wholesale` for both, or its own orders' prices, `retail` and `feed_in`, where no wholesale price is known.
Agents pay retail and are paid feed-in; these payments are transfers and no cost. Behaviours:

    cooperative       groups and grid minimise the resource cost together: the program above
    integrated        the same where public flows obey no physics: a bound, which no grid attains
    self_interested   each private group (a component of the private wires) minimises its own bill, buying at `retail`
                      and selling at `feed_in` at any of its buses without a limit (`private_market`)
    ad_hoc            pairs of neighbours trade over the wire between them, the nearest first, while both gain

The last two decide private flows and elastic orders blind to the public grid's losses and limits. Their model is the
program above, too: it is the settlement, where what they have decided is fixed and physics and the main grid do the
rest (`mktopt.agents.private_trade`). So integrated <= cooperative <= ad_hoc, self_interested in resource cost, whatever
the orders, limits and prices: each is a feasible point of the one before. Firm bids are served by all, and what
flexible bids are worth is counted. Without private wires and without elastic orders the last three are equal.
Constraints of the user's own act on the program: no private trader knows them.

Reference: poster "Coalitions on private infrastructure"; Shapley, Shubik, On market games, J. Econ. Theory 1 (1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.core.expr import LinearExpression

from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.changing import allow_changes
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.flows.lossy import lossy
from mktopt.formulations.market import Declaration, declare
from mktopt.formulations.orders import Injections, declare_orders
from mktopt.formulations.surplus import pool, total_surplus
from mktopt.networks.network import FloatArray, IntArray, Network
from mktopt.networks.orders import Orders
from mktopt.networks.private_wires import MAIN_GRID, PUBLIC_GRID

NAME = "coalition"
AD_HOC, SELF_INTERESTED, COOPERATIVE, INTEGRATED = "ad_hoc", "self_interested", "cooperative", "integrated"
BEHAVIOURS = (AD_HOC, SELF_INTERESTED, COOPERATIVE, INTEGRATED)
# Of which private flows and elastic orders are decided before the public grid is looked at.
DECIDED = (AD_HOC, SELF_INTERESTED)
# In place of a wholesale price: the main grid's energy costs what agents pay for it.
TARIFF = "tariff"
Prices = float | Sequence[float] | FloatArray


def coalition(
    network: Network,
    orders: Orders,
    flow: Flow,
    behaviour: str = COOPERATIVE,
    retail: Prices | None = None,
    feed_in: Prices | None = None,
    wholesale: Prices | str | None = None,
    radius_km: float | None = None,
) -> Any:
    """The resource-cost program of `orders` on `network` with private wires, as a ConcreteModel.

    orders: the agents', and participant `main_grid` at the source bus with one offer and one bid in every period (see
    `main_grid_of`, also for retail, feed_in and wholesale [$/kWh], a number or one per period); behaviour: one of
    BEHAVIOURS; radius_km: of ad_hoc, wires longer than it are not known to those who could trade over them, None: all
    are. flow: `lossy` alone, since other flows have no losses to share and no private wires.
    Raises DataError and FormulationError for orders, prices or flows that cannot be taken.
    """
    if behaviour not in BEHAVIOURS:
        raise unknown_name("behaviour", behaviour, BEHAVIOURS)
    flow = _checked_flow(flow, behaviour)
    orders.check(network)
    main_grid = main_grid_of(orders, network, retail, feed_in, wholesale)
    _refuse_names(network, orders)
    if behaviour in DECIDED:
        _refuse_cut_off(network, orders)
    priced = main_grid.repriced(orders)
    with PauseGC():
        model = pool(NAME, network, priced, flow, False)
    options = {
        "behaviour": behaviour,
        "retail": main_grid.retail,
        "feed_in": main_grid.feed_in,
        "wholesale": TARIFF if main_grid.wholesale is None else main_grid.wholesale,
        "radius_km": _checked_radius(radius_km, behaviour),
    }
    declare(model, Declaration(NAME, network, priced, flow, options))
    return model


def _checked_flow(flow: Flow, behaviour: str) -> Flow:
    """The flow of a behaviour: `lossy`, without physics where it is integrated."""
    if flow.build is not lossy:
        raise FormulationError(
            f"mechanism 'coalition' takes flow 'lossy', not '{flow.name}', which knows no private wires that their "
            "owners control and no losses r f^2; leave `flow` out, or take mechanism 'surplus' for this flow"
        )
    physics = flow.options.get("physics")
    if behaviour == INTEGRATED:
        if physics:
            raise FormulationError("behaviour 'integrated' knows no physics; for physics=True take 'cooperative'")
        return flow.with_options(physics=False)
    if physics is not None and not physics:
        raise FormulationError(
            f"behaviour '{behaviour}' leaves public flows to physics; without it (physics=False) that is 'integrated'"
        )
    return flow


def _checked_radius(radius_km: float | None, behaviour: str) -> float | None:
    if radius_km is None:
        return None
    if behaviour != AD_HOC:
        raise FormulationError(f"radius_km is what traders of behaviour 'ad_hoc' know; '{behaviour}' has no use for it")
    if isinstance(radius_km, (bool, str)) or not radius_km >= 0:
        raise FormulationError(f"radius_km takes a distance [km], zero or more, not {radius_km!r}")
    return float(radius_km)


# -- the main grid -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MainGrid:
    """The participant that sells to and buys from everybody at the source bus.

    retail, feed_in: what agents pay and get [$/kWh], one per period; wholesale: what its energy costs and is worth, one
    per period, None: its tariffs; supply, buys: the rows of `orders.orders` with its offer and its bid, one per period.
    """

    retail: tuple[float, ...]
    feed_in: tuple[float, ...]
    wholesale: tuple[float, ...] | None
    supply: tuple[int, ...]
    buys: tuple[int, ...]

    @property
    def cost(self) -> FloatArray:
        """What a kWh of import costs [$/kWh], shape (T,)."""
        return np.array(self.retail if self.wholesale is None else self.wholesale)

    @property
    def worth(self) -> FloatArray:
        """What a kWh of export is worth [$/kWh], shape (T,)."""
        return np.array(self.feed_in if self.wholesale is None else self.wholesale)

    @property
    def rows(self) -> IntArray:
        """All rows of its orders."""
        return np.array([*self.supply, *self.buys], dtype=np.int64)

    def agents(self, orders: Orders) -> npt.NDArray[np.bool_]:
        """Which rows of `orders.orders` are agents', bool, shape (rows,)."""
        mask = np.ones(len(orders), dtype=bool)
        mask[self.rows] = False
        return mask

    def repriced(self, orders: Orders) -> Orders:
        """`orders` with the main grid's at what its energy costs and is worth."""
        price = orders.segments["price_start"].to_numpy().copy()
        price[orders.curves.first[list(self.supply)]] = self.cost
        price[orders.curves.first[list(self.buys)]] = self.worth
        mine = np.isin(orders.segment_order, self.rows)
        end = np.where(mine, price, orders.segments["price_end"].to_numpy())
        if (price == orders.segments["price_start"].to_numpy()).all():
            return orders
        return Orders(orders.orders, orders.segments.assign(price_start=price, price_end=end), orders.meta)


def main_grid_of(
    orders: Orders,
    network: Network,
    retail: Prices | None = None,
    feed_in: Prices | None = None,
    wholesale: Prices | str | None = None,
) -> MainGrid:
    """The main grid of `orders`: participant `main_grid`, with one flat offer and one flat bid in every period.

    retail, feed_in: in place of these orders' prices; wholesale: what its energy costs and is worth, None: what
    `orders.meta["wholesale"]` says, and where it says nothing the tariffs themselves ('tariff' asks for these); each
    [$/kWh], a number or one per period. Wholesale may lie below feed-in and above retail: both ways have one price.
    Raises DataError where the orders are missing, doubled, firm or have several prices, are elsewhere than at the
    source bus, where retail is below feed-in, where feed-in or wholesale is below zero, where an order is all or
    nothing; FormulationError for prices that are none.
    """
    supply, buys = (_rows_of(orders, network, side) for side in ("offer", "bid"))
    whole = orders.orders["all_or_nothing"].to_numpy()
    if whole.any():
        hint = "let it be accepted in part"
        name = orders.orders["order"].to_numpy()[whole][0]
        problem = "coalitions take no order that is all or nothing"
        raise DataError(Fault("orders", problem, name, "all_or_nothing", True, hint))
    start = orders.curves.start[orders.curves.first]
    periods = len(network.hours)
    sells = start[supply] if retail is None else per_period("retail", retail, periods)
    gets = start[buys] if feed_in is None else per_period("feed_in", feed_in, periods)
    _refuse_arbitrage(sells, gets)
    known = orders.meta.get("wholesale") if wholesale is None else wholesale
    if isinstance(known, str) and known != TARIFF:
        raise unknown_name("wholesale price", known, [TARIFF])
    cost = None if known is None or isinstance(known, str) else per_period("wholesale", known, periods)
    if cost is not None:
        _refuse_negative("wholesale", cost)
    return MainGrid(
        tuple(sells.tolist()), tuple(gets.tolist()), None if cost is None else tuple(cost.tolist()),
        tuple(supply.tolist()), tuple(buys.tolist()),
    )  # fmt: skip


def decided_before(orders: Orders, behaviour: str) -> npt.NDArray[np.bool_]:
    """Which rows of `orders.orders` are decided before the market is settled, bool, shape (rows,)."""
    agents = (orders.orders["participant"] != MAIN_GRID).to_numpy()
    return np.asarray(agents & ~orders.firm & (behaviour in DECIDED))


def per_period(name: str, given: Prices, periods: int) -> FloatArray:
    """`given` as one price per period [$/kWh], shape (periods,); raises FormulationError for anything else."""
    try:
        price = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise FormulationError(f"{name} takes a price in $/kWh or one per period, not {given!r}") from None
    if isinstance(given, bool) or not np.isfinite(price).all():
        raise FormulationError(f"{name} takes finite prices in $/kWh, not {given!r}")
    if price.shape not in ((), (1,), (periods,)):
        raise FormulationError(f"{name} has {price.size} prices, the network {periods} periods; give one, or one each")
    return np.broadcast_to(price, periods).astype(float)


def _rows_of(orders: Orders, network: Network, side: str) -> IntArray:
    """The row of the main grid's order of `side` in each period, shape (T,)."""
    table = orders.orders
    rows = np.flatnonzero(((table["participant"] == MAIN_GRID) & (table["side"] == side)).to_numpy())
    what = {"offer": "sells at retail", "bid": "buys at feed-in"}[side]
    hint = f"participant {MAIN_GRID!r} {what} by one {side} per period at {network.source_bus!r}; see endowments"
    faults = []
    count = np.bincount(table["period"].to_numpy()[rows], minlength=len(network.hours))
    for t in np.flatnonzero(count != 1)[:10].tolist():
        problem = f"the main grid has {count[t]} {side}s in period {t} and needs one"
        faults.append(Fault("orders", problem, None, "participant", MAIN_GRID, hint))
    segments = np.bincount(orders.segment_order, minlength=len(orders))
    sloped = orders.segments["price_start"].to_numpy() != orders.segments["price_end"].to_numpy()
    sloping = np.bincount(orders.segment_order, weights=sloped, minlength=len(orders)) > 0
    for row in rows.tolist():
        name, bus = table.at[row, "order"], table.at[row, "bus"]
        if bus != network.source_bus:
            faults.append(Fault("orders", "the main grid is at the source bus", name, "bus", bus, hint))
        if (least := float(table["minimum_kw"].to_numpy()[row])) > 0:
            problem = "the main grid takes what is left: it cannot be firm"
            faults.append(Fault("orders", problem, name, "minimum_kw", least, "set it to 0"))
        if segments[row] > 1 or sloping[row]:
            faults.append(Fault("orders", "the main grid has one price", name, "price_start", None, hint))
    if faults:
        raise DataError(faults)
    return np.asarray(rows[np.argsort(table["period"].to_numpy()[rows])], dtype=np.int64)


def _refuse_arbitrage(retail: FloatArray, feed_in: FloatArray) -> None:
    faults = []
    for t in np.flatnonzero(retail < feed_in).tolist():
        problem = f"retail is below feed-in ({feed_in[t]:g} $/kWh) in period {t}: buying to sell would pay without end"
        faults.append(Fault("main grid", problem, None, "retail", float(retail[t]), "feed-in must not exceed it"))
    if faults:
        raise DataError(faults)
    _refuse_negative("feed_in", feed_in)


def _refuse_negative(name: str, price: FloatArray) -> None:
    """Raises DataError where energy would be worth less than nothing: the best wire would be the worst."""
    faults = []
    for t in np.flatnonzero(price < 0.0).tolist():
        problem = f"{name} is below zero in period {t}: wires would be paid for what they waste"
        faults.append(Fault("main grid", problem, None, name, float(price[t]), "zero: it is worth nothing"))
    if faults:
        raise DataError(faults)


def _refuse_names(network: Network, orders: Orders) -> None:
    """Raises DataError where a wire or an order has the name of those who close the account."""
    lines, faults = network.lines[network.private], list[Fault]()
    hint = f"{MAIN_GRID!r} and {PUBLIC_GRID!r} close the account of all players and own no private wire; name it apart"
    for branch, owner in zip(lines["branch"], lines["owner"], strict=True):
        if not {MAIN_GRID, PUBLIC_GRID}.isdisjoint(part.strip() for part in str(owner).split("+")):
            faults.append(Fault("branches", "no owner can have this name", branch, "owner", owner, hint))
    table = orders.orders[(orders.orders["participant"] == PUBLIC_GRID).to_numpy()]
    for name in table["order"]:
        faults.append(Fault("orders", "no participant can have this name", name, "participant", PUBLIC_GRID, hint))
    if faults:
        raise DataError(faults[:10])


def _refuse_cut_off(network: Network, orders: Orders) -> None:
    """Raises DataError for agents at buses that no public wire joins to the main grid: no tariff can be had there."""
    part = network.parts(~network.private)
    bus = network.bus_positions(orders.orders["bus"])
    lost = np.flatnonzero(part[bus] != part[network.source_index])
    hint = f"join it to {network.source_bus!r} by public wires, or take behaviour {COOPERATIVE!r}, which needs none"
    problem = "private traders buy and sell at tariffs, and no public wire brings the main grid to this bus"
    table = orders.orders
    faults = [Fault("orders", problem, table.at[k, "order"], "bus", table.at[k, "bus"], hint) for k in lost.tolist()]
    if faults:
        raise DataError(faults[:10])


# -- groups on their own -----------------------------------------------------------------------------------------------


def private_market(network: Network, orders: Orders, main_grid: MainGrid, *, parametric: bool = False) -> Any:
    """All private groups' own programs as one ConcreteModel: no public wire, tariffs at every bus.

        max  sum_t hours_t [ sum_bids value(q) - sum_offers cost(q) - retail_t buy + feed_in_t sell ]               [$]
        s.t. offers - bids + buy - sell = what private wires take from the bus                     `grid.balance`

    network: public wires are there but carry nothing; orders: agents' and the main grid's, whose rows are left out.
    Variables: `segment_kw`, `accepted_kw` of the agents' orders, `buy_kw`, `sell_kw` [bus, period] (what a bus takes
    from and gives to the main grid, net where retail = feed-in), `grid.p_kw`, `grid.loss_kw`; objective `profit`.
    Shunts are the public grid's. Groups share nothing, so the optimum of all is that of each. parametric: prices,
    widths and finite ratings become mutable Params (see `mktopt.formulations.changing`): with the orders of some
    players and the wires of their owners set to zero, a session gives what the others are worth.
    """
    with PauseGC():
        model = pyo.ConcreteModel("private_market")
        allow_changes(model, parametric)
        agents = orders.select(main_grid.agents(orders))
        declare_orders(model, network, agents)
        keys = [(bus, t) for bus in network.buses["bus"] for t in network.periods]
        model.buses_and_periods = pyo.Set(initialize=keys, dimen=2)
        model.buy_kw = pyo.Var(model.buses_and_periods)
        model.sell_kw = pyo.Var(model.buses_and_periods, bounds=(0.0, None))
        for t in network.periods:
            for bus in network.buses["bus"]:
                if main_grid.retail[t] > main_grid.feed_in[t]:
                    model.buy_kw[bus, t].setlb(0.0)
                else:  # one price both ways leaves but the net to be decided
                    model.sell_kw[bus, t].fix(0.0)
        model.grid = pyo.Block()
        lossy(model.grid, network, _WithTariffs(model, network, agents), physics=False)
        _without_public(model.grid, network)
        hours = network.hours.tolist()
        prices = [hours[t] * main_grid.feed_in[t] for _, t in keys] + [-hours[t] * main_grid.retail[t] for _, t in keys]
        exchange = LinearExpression(linear_coefs=prices, linear_vars=[*model.sell_kw.values(), *model.buy_kw.values()])
        model.profit = pyo.Objective(expr=total_surplus(model, network) + exchange, sense=pyo.maximize)
    return model


class _WithTariffs(Injections):
    """Injections of orders and of what each bus trades with the main grid; without shunts."""

    def __init__(self, model: Any, network: Network, orders: Orders) -> None:
        super().__init__(model, network, orders)
        self._buy, self._sell = list(model.buy_kw.values()), list(model.sell_kw.values())

    def terms(self, bus: int, period: int) -> tuple[list[float], list[Any], float]:
        """(coefficients, variables, constant [kW]) of the injection at the bus in position `bus`."""
        coefficients, variables, _ = super().terms(bus, period)
        at = bus * self._periods + period
        return [*coefficients, 1.0, -1.0], [*variables, self._buy[at], self._sell[at]], 0.0


def _without_public(block: Any, network: Network) -> None:
    """Public wires carry and lose nothing in `block`."""
    for branch in network.lines["branch"].to_numpy()[~network.private]:
        for t in network.periods:
            block.p_kw[branch, t].fix(0.0)
            block.loss_kw[branch, t].fix(0.0)
            if (branch, t) in block.loss:
                block.loss[branch, t].deactivate()
