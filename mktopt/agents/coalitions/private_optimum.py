"""The best private trades of a group of wires: a program of cones on arrays, with a proof of each answer.

    v = max  - sum_b C_b(y_b)
        s.t. y_b = sum_{l from b} (f_l + rho_l f_l^2 / 2) - sum_{l to b} (f_l - rho_l f_l^2 / 2),   |f_l| <= F_l
      = min over c in [feed-in, retail]^B of   sum_b pi_b(c_b) + sum_l R_l(c_i, c_j)

    R_l = max_{|f| <= F_l}  c_j (f - rho f^2 / 2) - c_i (f + rho f^2 / 2)  =  D f* - 1/2 rho s f*^2
    D = c_j - c_i,  s = c_i + c_j,   f* = D / (rho s), no more than F_l

C_b(y): the least cost of bus b of giving y, its trade with the main grid included; pi_b its conjugate (`merit`). Any
flows give a value that is attained, and any prices in the box one that is not exceeded, both in closed form; what lies
between them is what a solver left open, whatever it says of itself. That gap is asked to be small.

No wire need carry more than all offers, and none does more than (r - f) / (rho (r + f)), where even the widest spread
of prices is lost; F_l is the least of these and the rating. The cones are in these units, prices in those of r - f.
References: Rockafellar, Convex Analysis (1970), §31, for the duality; poster "Coalitions on private infrastructure".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mktopt.agents.coalitions.masks import FloatArray, IntArray
from mktopt.agents.coalitions.merit import Merit, Supply
from mktopt.errors import SolverError
from mktopt.solvers.cones.arrays import Arrays, solve_arrays

# What may lie between what is attained and what is proved, as a share of what trade brings: what is sought, and what is
# taken where no attempt finds it; and, as a share of all that is at stake, what rounding leaves.
SOUGHT, TAKEN, ROUNDING = 1e-8, 1e-7, 1e-13

# Whether buses count for no more than their wires can take, and with how much care the solver goes.
_ATTEMPTS = ((False, 0), (True, 0), (False, 1), (True, 1), (False, 2))


@dataclass(frozen=True, eq=False)
class Wires:
    """Private wires: branch (position among those in service), first, second (buses), rho [1/kW], limit_kw: (W, T)."""

    branch: IntArray
    first: IntArray
    second: IntArray
    rho: FloatArray
    limit_kw: FloatArray


@dataclass(frozen=True, eq=False)
class Optimum:
    """The optimum of one group of buses and wires over all periods.

    value: attained [$]; proved: not exceeded [$]; prices: (buses, T) [$/kWh]; flows_kw: (wires, T).
    """

    value: float
    proved: float
    prices: FloatArray
    flows_kw: FloatArray


def limits(rho: FloatArray, rating: FloatArray, offered_kw: FloatArray, merit: Merit) -> FloatArray:
    """F_l of every wire and period (W, T) [kW]; offered_kw: all that agents could give (T,)."""
    spread = np.divide(merit.retail - merit.feed_in, merit.retail + merit.feed_in,
                       out=np.zeros_like(merit.retail), where=merit.retail + merit.feed_in > 0.0)  # fmt: skip
    lost = np.divide(spread[None, :], rho[:, None], out=np.full((len(rho), len(spread)), np.inf),
                     where=rho[:, None] > 0.0)  # fmt: skip
    return np.minimum(np.minimum(lost, rating[:, None]), offered_kw[None, :])


def rents(wires: Wires, prices: FloatArray) -> FloatArray:
    """R_l at prices of all buses (n_buses, T), shape (W, T) [$/h]."""
    first, second = prices[wires.first], prices[wires.second]
    flow = best_flows(wires.rho[:, None], wires.limit_kw, first, second)
    return np.asarray((second - first) * flow - 0.5 * wires.rho[:, None] * (first + second) * flow**2)


def best_flows(rho: FloatArray, limit_kw: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """f* of wires at the prices of their ends [kW]."""
    spread, cost = second - first, rho * (first + second)
    with np.errstate(divide="ignore", invalid="ignore"):
        free = np.where(cost > 0.0, spread / np.where(cost > 0.0, cost, 1.0), np.sign(spread) * np.inf)
    return np.asarray(np.clip(np.where(spread == 0.0, 0.0, free), -limit_kw, limit_kw))


def optimum(merit: Merit, wires: Wires, units: IntArray, buses: IntArray, near: FloatArray | None) -> Optimum:
    """The optimum of `buses` (sorted positions) with `units` at them and `wires` between them.

    near: (buses, T), prices to take where several are right [$/kWh]. Raises SolverError where no solution is proved to
    1e-7 of what the trades bring.
    """
    periods = len(merit.hours)
    prices, flows = np.zeros((len(buses), periods)), np.zeros((len(wires.rho), periods))
    value = proved = 0.0
    for t in range(periods):
        supplies, fixed = supplies_of(merit, units, buses, t)
        ends = np.searchsorted(buses, wires.first), np.searchsorted(buses, wires.second)
        target = None if near is None else near[:, t]
        problem = _Problem(supplies, ends, wires.rho, wires.limit_kw[:, t], target)
        prices[:, t], flows[:, t], attained, least = problem.solve()
        value += merit.hours[t] * (attained - fixed)
        proved += merit.hours[t] * (least - fixed)
    return Optimum(value, proved, prices, flows)


def wire_exports(first: IntArray, second: IntArray, rho: FloatArray, flows_kw: FloatArray, buses: int) -> FloatArray:
    """y: what wires take from each bus, half of their losses included, (buses, T) [kW]; flows_kw: (W, T)."""
    lost = 0.5 * rho[:, None] * flows_kw**2
    found = np.zeros((buses, flows_kw.shape[1]))
    np.add.at(found, first, flows_kw + lost)
    np.add.at(found, second, lost - flows_kw)
    return found


def supplies_of(merit: Merit, units: IntArray, buses: IntArray, t: int) -> tuple[list[Supply], float]:
    """The curve of each bus in period t, and the cost of what must be given [$/h]."""
    at = np.searchsorted(buses, merit.bus[units])
    base = np.bincount(at, merit.base_kw[units, t], len(buses))
    low, high = float(merit.feed_in[t]), float(merit.retail[t])
    none = np.zeros(0)
    found = [Supply(float(kw), none, none, none, low, high) for kw in base]
    chosen = np.flatnonzero((merit.period == t) & np.isin(merit.unit, units)) if len(merit.unit) else none
    if len(chosen):
        place = np.searchsorted(buses, merit.bus[merit.unit[chosen]])
        for b in np.unique(place).tolist():
            mine = chosen[place == b]
            found[b] = Supply(float(base[b]), merit.width_kw[mine], merit.start[mine], merit.slope[mine], low, high)
    return found, float(merit.cost[units, t].sum())


class _Problem:
    """One period of one group; all [$/h]."""

    def __init__(self, supplies: list[Supply], ends: tuple[IntArray, IntArray], rho: FloatArray, limit_kw: FloatArray,
                 near: FloatArray | None) -> None:  # fmt: skip
        self.supplies, (self.first, self.second), self.rho, self.limit = supplies, ends, rho, limit_kw
        self.low, self.high = supplies[0].low, supplies[0].high
        self.near = near

    def solve(self) -> tuple[FloatArray, FloatArray, float, float]:
        """(prices (B,), flows (W,), what is attained, what is not exceeded)."""
        alone = np.array([supply.prices(0.0) for supply in self.supplies])
        flows = np.zeros(len(self.rho))
        least, most = float(alone[:, 0].max()), float(alone[:, 1].min())
        if least <= most or not len(self.rho):  # one price suits all: nothing is worth sending
            middle = alone.mean(axis=1) if self.near is None else self.near
            if len(self.rho):
                prices = np.full(len(alone), float(np.clip(np.median(middle), least, most)))
            else:
                prices = np.clip(middle, alone[:, 0], alone[:, 1])
            return prices, flows, self._attained(flows), self._proved(prices)
        nothing = attained = self._attained(flows)
        proved = np.inf
        for attempt in _ATTEMPTS:  # of all the best plan and the best prices, which need not come from one
            some_prices, some_flows = self._cones(*attempt)
            ends = some_prices[self.first], some_prices[self.second]
            for plan in (some_flows, best_flows(self.rho, self.limit, *ends))[: 1 if attempt == _ATTEMPTS[0] else 2]:
                if (value := self._attained(plan)) >= attained:
                    attained, flows = value, plan
            if (bound := self._proved(some_prices)) < proved:
                proved, prices = bound, some_prices
            share = TAKEN if attempt == _ATTEMPTS[-1] else SOUGHT
            if self._fine(nothing, attained, proved, share):
                return prices, flows, attained, proved
        raise SolverError(
            f"private trades of {len(self.supplies)} buses over {len(self.rho)} wires are proved only to within"
            f" {proved - attained:.3g} of {proved - nothing:.3g} $/h: are resistances of very different sizes?"
        )

    def _fine(self, nothing: float, attained: float, proved: float, share: float) -> bool:
        size = sum(abs(supply.base_kw) + float(supply.width_kw.sum()) for supply in self.supplies) * self.high
        return proved - attained <= share * max(proved - nothing, 0.0) + ROUNDING * size

    def _attained(self, flows: FloatArray) -> float:
        """What these flows are worth, losses and all."""
        export = wire_exports(self.first, self.second, self.rho, flows[:, None], len(self.supplies))[:, 0]
        return -sum(supply.cost(float(kw)) for supply, kw in zip(self.supplies, export, strict=True))

    def _proved(self, prices: FloatArray) -> float:
        """What no flows exceed."""
        first, second = prices[self.first], prices[self.second]
        flow = best_flows(self.rho, self.limit, first, second)
        rent = (second - first) * flow - 0.5 * self.rho * (first + second) * flow**2
        return sum(s.worth(float(c)) for s, c in zip(self.supplies, prices, strict=True)) + float(rent.sum())

    def _base(self) -> FloatArray:
        """What buses must give, no more than twice what their wires can take or bring: what is beyond is sold or bought
        anyway. With no more than once, prices would be open where wires are full."""
        base, width = (
            np.array(part) for part in zip(*((s.base_kw, s.width_kw.sum()) for s in self.supplies), strict=True)
        )
        most = np.zeros(len(base))
        for ends in (self.first, self.second):
            np.add.at(most, ends, 2.0 * self.limit + self.rho * self.limit**2)
        return np.asarray(np.where(base > most, most, np.where(base + width < -most, -most - width, base)))

    def _cones(self, near: bool, care: int) -> tuple[FloatArray, FloatArray]:
        """Prices and flows by Clarabel. Columns: f, L, bought, given by segments; rows: balance, limits, cones."""
        import scipy.sparse as sp

        n, m = len(self.supplies), len(self.rho)
        base = self._base() if near else np.array([supply.base_kw for supply in self.supplies])
        at = np.repeat(np.arange(n), [len(supply.start) for supply in self.supplies])
        width, start, slope = (
            np.concatenate([getattr(supply, name) for supply in self.supplies])
            for name in ("width_kw", "start", "slope")
        )
        k, unit, spread = len(at), float(np.abs(base).max() + width.sum()), self.high - self.low
        # Round a loop of wires without losses any power could go: their limits are always there.
        size = np.where(self.rho > 0.0, np.minimum(self.limit, unit), self.limit)
        lost = self.rho * size**2 / unit
        f, L, buy, given = np.split(np.arange(2 * m + n + k), np.cumsum([m, m, n]))
        q = np.r_[np.zeros(m), self.low / spread * lost, np.ones(n), (start - self.low) / spread]
        P = sp.diags_array(np.r_[np.zeros(2 * m + n), slope * unit / spread], format="csc")
        tight = np.flatnonzero(self.limit <= size)
        wires, rows = np.arange(m), np.arange(3 * m)
        G_row = [self.first, self.first, self.second, self.second, np.arange(n), at]
        G_col = [f, L, f, L, buy, given]
        G_val = [size / unit, 0.5 * lost, -size / unit, 0.5 * lost, -np.ones(n), -np.ones(k)]
        top = n
        for columns, sign in ((f[tight], 1.0), (f[tight], -1.0), (buy, -1.0), (given, -1.0), (given, 1.0)):
            G_row.append(top + np.arange(len(columns)))
            G_col.append(columns)
            G_val.append(np.full(len(columns), sign))
            top += len(columns)
        # L >= f^2:  || (2 f, L - 1) || <= L + 1
        G_row.append(top + rows)
        G_col.append(np.c_[L, f, L].ravel())
        G_val.append(np.tile([-1.0, -2.0, -1.0], m))
        h = np.r_[base / unit, np.ones(2 * len(tight)), np.zeros(n + k), width / unit, np.tile([1.0, 0.0, -1.0], m)]
        shape = (top + 3 * m, 2 * m + n + k)
        G = sp.csc_matrix((np.concatenate(G_val), (np.concatenate(G_row), np.concatenate(G_col))), shape=shape)
        x, z, _ = solve_arrays(Arrays(P, q, G, h, top), care)
        prices = np.clip(self.low + spread * np.nan_to_num(z[:n]), self.low, self.high)
        flows = np.clip(size * np.nan_to_num(x[wires]), -self.limit, self.limit)
        return prices, flows
