"""What agents would put into their wires at a price: merit orders within the prices of the main grid.

Each agent u has in each period must-take power B_u (offers' minima less all that its bids ask for, [kW]) and power that
it can add, from offers and from bids that give way, in segments k of width w_k at prices a_k + g_k x (g_k >= 0):

    pi_u(c) = c B_u - K_u + sum_k max_{0 <= x <= w_k} ( c x - a_k x - 1/2 g_k x^2 )       f <= c <= r        [$/h]

is the most that u's orders are worth where a kWh costs c, convex in c; K_u: cost of the minima less the value of all
that its elastic bids ask for (that of firm bids is left out). f, r: feed-in and retail price, at which every bus can
sell and buy without limit, so that no price leaves [f, r]: what is cheaper than f is always taken, and part of B_u and
K_u here, what is dearer than r never.

`mktopt.clearing.merit_order` has the same curve of one bus with its orders kept apart, for it must tell which of them
gives how much. Games ask for prices and costs alone, of thousands of groups in which a bus is shared by other agents
each time: here the orders of all agents are read once, and a group's curve is a choice of rows. Tests hold the two
against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, IntArray
from mktopt.errors import DataError, Fault
from mktopt.formulations.coalition import MainGrid
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


@dataclass(frozen=True, eq=False)
class Merit:
    """The merit orders of all agents.

    bus, player: of each unit, a player's orders at one bus, (U,); base_kw, cost: B and K (U, T) [kW], [$/h]; of
    segments (K,): unit, period, width_kw, start [$/kWh], slope [$/kWh per kW]; feed_in, retail, hours: (T,).
    """

    bus: IntArray
    player: IntArray
    base_kw: FloatArray
    cost: FloatArray
    unit: IntArray
    period: IntArray
    width_kw: FloatArray
    start: FloatArray
    slope: FloatArray
    feed_in: FloatArray
    retail: FloatArray
    hours: FloatArray

    def worth(self, prices: FloatArray) -> FloatArray:
        """pi of each unit and period at `prices` of the buses (n_buses, T) [$/kWh], shape (U, T) [$/h]."""
        here = prices[self.bus]
        found = here * self.base_kw - self.cost
        if len(self.unit):
            price = here[self.unit, self.period]
            x = self.taken(price)
            gain = (price - self.start) * x - 0.5 * self.slope * x * x
            np.add.at(found, (self.unit, self.period), gain)
        return np.asarray(found)

    def taken(self, price: FloatArray) -> FloatArray:
        """What each segment gives at a price of its own (K,) [kW]; nothing where it is indifferent."""
        return _taken(price - self.start, self.width_kw, self.slope)


def merit_of(network: Network, orders: Orders, main_grid: MainGrid, player_of: IntArray) -> Merit:
    """The merit orders of the agents' `orders`; player_of: of each row of `orders.orders`, (rows,), -1: nobody's.

    Raises DataError for an order without a finite width that is better than the main grid: nothing would end it.
    """
    curves, sign = orders.curves, orders.injection_sign
    owner, period = curves.owner, orders.segments["period"].to_numpy()
    feed_in, retail = np.array(main_grid.feed_in), np.array(main_grid.retail)
    low, high = feed_in[period], retail[period]
    offer = sign[owner] > 0
    mine = player_of[owner] >= 0
    floor = np.clip(orders.orders["minimum_kw"].to_numpy()[owner] - curves.before_kw, 0.0, curves.width)
    at_floor, at_end = curves.start + curves.slope * floor, curves.end
    idle = np.where(offer, at_floor >= high, at_floor <= low)  # never better than the main grid
    width = np.where(idle, 0.0, curves.width - floor)
    _refuse_endless(orders, mine & np.isinf(width))
    width = np.where(mine, width, 0.0)
    # A bid asks for all of its width and may give way, the least valued kW first.
    base = np.where(offer, floor, -(floor + width))
    first = np.where(offer | idle, at_floor, at_end)
    slope = np.abs(curves.slope)
    filled = np.where(offer, floor, floor + width)
    money = curves.start * filled + 0.5 * curves.slope * filled**2
    cost = np.where(offer, 1.0, np.where(orders.firm[owner], 0.0, -1.0)) * money
    # What is cheaper than feed-in is always given; what is dearer than retail never.
    always = np.clip(_taken(low - first, width, slope), 0.0, width)
    always = np.where((slope == 0.0) & (first >= low), 0.0, always)
    base, cost = base + always, cost + first * always + 0.5 * slope * always**2
    most = np.where(slope > 0.0, np.clip((high - first) / np.where(slope > 0.0, slope, 1.0), 0.0, width),
                    np.where(first < high, width, 0.0))  # fmt: skip
    rest = np.maximum(most - always, 0.0)
    return _gathered(network, orders, main_grid, player_of, (mine, owner, period, base, cost),
                     (rest, first + slope * always, slope))  # fmt: skip


def _taken(gap: FloatArray, width: FloatArray, slope: FloatArray) -> FloatArray:
    """The x in [0, width] of greatest gap x - 1/2 slope x^2."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(slope > 0.0, gap / np.where(slope > 0.0, slope, 1.0), np.where(gap > 0.0, np.inf, 0.0))
    return np.asarray(np.clip(inner, 0.0, width))


def _gathered(network: Network, orders: Orders, main_grid: MainGrid, player_of: IntArray,
              base_of: tuple[BoolArray, IntArray, IntArray, FloatArray, FloatArray],
              rest_of: tuple[FloatArray, FloatArray, FloatArray]) -> Merit:  # fmt: skip
    """Segments (in the sequence of `orders.segments`) as units and what is left of them."""
    mine, owner, period, base, cost = base_of
    rest, start, slope = rest_of
    bus = network.bus_positions(orders.orders["bus"])
    players = int(player_of.max(initial=-1)) + 1
    key = (bus * max(players, 1) + player_of)[owner]
    units, unit = np.unique(key[mine], return_inverse=True)
    shape, at = (len(units), len(network.hours)), (unit, period[mine])
    base_kw, money = np.zeros(shape), np.zeros(shape)
    np.add.at(base_kw, at, base[mine])
    np.add.at(money, at, cost[mine])
    left = rest[mine] > 0.0
    return Merit(
        bus=units // max(players, 1),
        player=units % max(players, 1),
        base_kw=base_kw,
        cost=money,
        unit=unit[left].astype(np.int64),
        period=period[mine][left].astype(np.int64),
        width_kw=rest[mine][left],
        start=start[mine][left],
        slope=slope[mine][left],
        feed_in=np.array(main_grid.feed_in),
        retail=np.array(main_grid.retail),
        hours=np.asarray(network.hours, dtype=float),
    )


def _refuse_endless(orders: Orders, endless: BoolArray) -> None:
    for position in np.flatnonzero(endless)[:1]:
        row = orders.segment_order[position]
        problem = "an agent's order without an end that is better than the main grid's price would have no optimum"
        name = orders.orders.at[row, "order"]
        raise DataError(Fault("orders", problem, name, "width_kw", np.inf, "give the last segment a width"))


# -- the curve of one bus ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Supply:
    """What one bus gives in one period: base_kw [kW], segments (k,), within the prices low, high [$/kWh]."""

    base_kw: float
    width_kw: FloatArray
    start: FloatArray
    slope: FloatArray
    low: float
    high: float

    def prices(self, export_kw: float) -> tuple[float, float]:
        """The least and the greatest price at which the bus gives `export_kw` net of what it trades outside [$/kWh]."""
        need = export_kw - self.base_kw
        if not len(self.start):
            return (self.low if need <= 0.0 else self.high), (self.high if need >= 0.0 else self.low)
        end = self.start + self.slope * self.width_kw
        at = np.unique(np.clip(np.r_[self.low, self.start, end, self.high], self.low, self.high))
        ramp = _taken(at[:, None] - self.start, self.width_kw, self.slope)
        left = ramp.sum(axis=1)
        flat = (self.slope == 0.0) & (self.start == at[:, None])
        right = left + (flat * self.width_kw).sum(axis=1)
        left[0], right[-1] = -np.inf, np.inf
        first = int(np.argmax(right >= need))
        last = len(at) - 1 - int(np.argmax((left <= need)[::-1]))
        least = at[first] if left[first] <= need else _between(at, right, left, first, need)
        most = at[last] if right[last] >= need else _between(at, right, left, last + 1, need)
        return float(least), float(most)

    def worth(self, price: float) -> float:
        """The most that the bus earns at a price within low, high, without the cost of what it must give [$/h]."""
        x = _taken(price - self.start, self.width_kw, self.slope)
        return float(price * self.base_kw + ((price - self.start) * x - 0.5 * self.slope * x * x).sum())

    def cost(self, export_kw: float) -> float:
        """The least cost of giving `export_kw`, without that of what it must give [$/h]: c y - pi(c) at its price."""
        price = self.prices(export_kw)[0]
        return price * export_kw - self.worth(price)

    def outside(self, export_kw: float) -> tuple[float, float]:
        """What the bus sells outside less what it buys when it gives `export_kw` [kW], and the cost of what it adds
        itself [$/h]: the least cost of giving, without what the trade outside costs and brings."""
        taken = min(max(export_kw - self.base_kw, 0.0), float(self.width_kw.sum()))
        sold = self.base_kw + taken - export_kw
        return sold, self.cost(export_kw) + (self.low if sold > 0.0 else self.high) * sold


def _between(at: FloatArray, right: FloatArray, left: FloatArray, k: int, need: float) -> float:
    """The price between at[k - 1] and at[k] at which the ramps from one to the other give `need`."""
    low, high = right[k - 1], left[k]
    share = (need - low) / (high - low) if high > low else 1.0
    return float(at[k - 1] + min(max(share, 0.0), 1.0) * (at[k] - at[k - 1]))
