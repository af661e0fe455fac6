"""Aggregators' unit costs, exactly: the multiplier of COP (7) for every aggregator at once.

    Theta_k(p_k) = max sum_i u_i(x_i)   s.t.   sum_i (x_i - g_i) <= p_k,   x_i >= 0           (7)
    c_k = Theta_k'(p_k)   solves   D_k(c) := sum_i d_i(c) = p_k + G_k =: X_k

d_i(c): the consumption with u_i'(x) = c, 0 where even the first unit is worth less; G_k = sum_i g_i. D_k falls in c
from where demand begins, so that c_k is unique, falls in p_k, and

    dc_k/dp_k = 1 / sum_{i consumes} 1 / u_i''(x_i)  <= 0.

Of n agents that share X one has at least X / n and one at most X / n, which brackets the root for any utilities:

    min_i u_i'(X / n)  <=  c_k  <=  max_i u_i'(X / n).

At p_k = -G_k nobody consumes and c_k is its limit, max_i u_i'(0). Where agents can be satiated c_k may be negative: it
is the multiplier of the balance sum_i (x_i - g_i) = p_k, energy that must go somewhere.
Reference: Das, Faqiry, Zarabie, Wu, Game Theoretic Equilibrium Analysis of Energy Auction in Microgrid, (2), (7), (9).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mktopt.errors import DataError, Fault, SolverError
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

# How far below -G_k a requirement may fall and count as -G_k [share of size], which is what rounding leaves.
_ROUNDED = 1e-9
# How near to -G_k [share of size] a solver's p_k is that stands there.
_IDLE = 1e-6
# Demand balances to this share of size, or to what some last places of c move it by.
_TOLERANCE, _UNIT = 1e-14, 2e-16
# Newton alone for some rounds; from then on every other trial is the middle of the bracket.
_PATIENCE, _ROUNDS = 30, 250


class Aggregators:
    """The aggregators of `prosumers` as functions of net power and of unit cost; K aggregators, N agents.

    All arrays may have leading axes (periods, scenarios); the last axis is the aggregators (..., K), in sequence of
    `prosumers.aggregators`, or the agents (..., N). names: tuple of K; lowest_kw: -G_k [kW]; highest: the greatest u'
    at zero [$/kWh]; agents: how many, all (K,). Raises DataError where agents of one aggregator stand at different
    buses or an own utility is not concave.
    """

    def __init__(self, prosumers: Prosumers) -> None:
        prosumers.refuse_not_concave()
        self.prosumers = prosumers
        self.names: tuple[str, ...] = tuple(prosumers.aggregators["aggregator"])
        self.group = prosumers.group
        order = np.argsort(self.group, kind="stable")
        self._order = None if np.array_equal(order, np.arange(len(order))) else order
        self._first = np.searchsorted(self.group[order], np.arange(len(self.names)))
        self.agents = np.bincount(self.group, minlength=len(self.names))
        self.lowest_kw: FloatArray = 0.0 - self.total(prosumers.generation_kw)
        self._straight = self.largest(np.where(prosumers.is_log, 0.0, 1.0)) > 0
        self._begins = prosumers.marginal(0.0)
        self.highest = self.largest(self._begins)

    def __len__(self) -> int:
        return len(self.names)

    # -- sums over the agents of each aggregator ----------------------------------------------------------------

    def total(self, values: FloatArray) -> FloatArray:
        """Sums of `values` (..., N) over the agents of each aggregator (..., K)."""
        return np.asarray(np.add.reduceat(self._grouped(values), self._first, axis=-1))

    def largest(self, values: FloatArray) -> FloatArray:
        """Greatest of `values` (..., N) among the agents of each aggregator (..., K)."""
        return np.asarray(np.maximum.reduceat(self._grouped(values), self._first, axis=-1))

    def _grouped(self, values: FloatArray) -> FloatArray:
        return values if self._order is None else values[..., self._order]

    # -- what follows from unit costs ------------------------------------------------------------------------

    def consumption(self, c: npt.ArrayLike) -> FloatArray:
        """Each agent's best consumption x (..., N) [kW] at its aggregator's unit cost `c` (..., K) [$/kWh], eq. (2)."""
        return self.prosumers.demand_at(np.asarray(c, dtype=float)[..., self.group])

    def net_kw(self, c: npt.ArrayLike) -> FloatArray:
        """Net requirement sum_i (x_i - g_i) at unit cost `c`, both (..., K) [kW]."""
        return self.total(self.consumption(c)) + self.lowest_kw

    def slopes(self, c: npt.ArrayLike) -> FloatArray:
        """dc_k/dp_k <= 0 at unit cost `c`, both (..., K) [$/kWh per kW].

        Where nobody consumes it is the slope at which the first agents begin to.
        """
        cost = np.minimum(np.asarray(c, dtype=float), self.highest)
        return self._slopes(cost, self.consumption(cost))

    def _slopes(self, cost: FloatArray, x: FloatArray) -> FloatArray:
        active = (x > 0) | (self._begins >= cost[..., self.group])
        with np.errstate(divide="ignore", invalid="ignore"):
            give = np.where(active, -1.0 / self.prosumers.curvature(x), 0.0)
            return np.asarray(-1.0 / self.total(give))

    def welfare(self, x_kw: npt.ArrayLike) -> FloatArray:
        """Theta = sum_i u_i(x_i) (..., K) [$/h] of consumption `x_kw` (..., N)."""
        return self.total(self.prosumers.utility(x_kw))

    # -- unit costs --------------------------------------------------------------------------------------------

    def unit_costs(self, p_kw: npt.ArrayLike, start: npt.ArrayLike | None = None) -> FloatArray:
        """c_k with sum_i (x_i - g_i) = p_k, for net requirements `p_kw` (..., K) [kW]; result (..., K) [$/kWh].

        Safeguarded Newton in c (in 1/c where all agents are logarithmic, whose demand is piecewise linear in it), from
        `start` (broadcasts) or the lower end of the bracket. Raises DataError for p_k < -G_k or not finite, naming the
        aggregator, and SolverError where no unit cost balances, which only a utility that is not concave can cause.
        """
        p = np.asarray(p_kw, dtype=float)
        p = np.broadcast_to(p, np.broadcast_shapes(p.shape, (len(self),)))
        wanted = self.consumed_kw(p)
        low, high = self.bracket(wanted)
        if start is None:
            c = low.copy()
        else:
            begun = np.broadcast_to(np.asarray(start, dtype=float), p.shape)
            c = np.where((begun > low) & (begun < high), begun, low)
        idle = wanted <= 0
        c[idle] = np.broadcast_to(self.highest, p.shape)[idle]
        return self._balanced(c, low, high, wanted, ~idle)

    def consumed_kw(self, p: FloatArray) -> FloatArray:
        """What agents consume together, X = p + G >= 0 (..., K) [kW]; refuses what nobody can deliver (DataError)."""
        size = np.maximum(1.0, -self.lowest_kw)
        wrong = ~np.isfinite(p) | (p < self.lowest_kw - _ROUNDED * size)
        if wrong.any():
            raise DataError(self._faults(p, wrong))
        return np.maximum(0.0, p - self.lowest_kw)

    def _faults(self, p: FloatArray, wrong: npt.NDArray[np.bool_]) -> Sequence[Fault]:
        faults = []
        for at in np.argwhere(wrong)[:10]:
            k, value = int(at[-1]), float(p[tuple(at)])
            least = f"{self.names[k]!r} can give at most its generation: p_k >= -G_k = {self.lowest_kw[k]:.6g} kW"
            problem = "the net requirement is not a finite number" if not np.isfinite(value) else least
            faults.append(Fault("net requirements", problem, self.names[k], "p_kw", value, "raise p_k"))
        return faults

    def at_most_wanted(self, p_kw: FloatArray, multiplier: FloatArray) -> FloatArray:
        """c_k (..., K) [$/kWh] from a multiplier of the balance at `p_kw` [kW]: at p_k = -G_k, where anything from
        max_i u_i'(0) up to the price of the bus supports that nobody consumes, the least of them, as `unit_costs`."""
        idle = p_kw - self.lowest_kw <= _IDLE * np.maximum(1.0, -self.lowest_kw)
        return np.asarray(np.where(idle, np.minimum(multiplier, self.highest), multiplier) + 0.0)  # no -0.0

    def bracket(self, consumed_kw: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Bounds of c_k where agents consume `consumed_kw` (..., K) together: least and greatest u' at equal shares."""
        at = self.prosumers.marginal((consumed_kw / self.agents)[..., self.group])
        return -self.largest(-at), self.largest(at)

    def _balanced(
        self, c: FloatArray, low: FloatArray, high: FloatArray, wanted: FloatArray, active: npt.NDArray[np.bool_]
    ) -> FloatArray:
        """Newton within the bracket [low, high]; excess demand is >= 0 at `low` and <= 0 at `high`."""
        size = np.maximum(wanted, np.abs(wanted + self.lowest_kw)) - self.lowest_kw
        for turn in range(_ROUNDS):
            x = self.consumption(c)
            over, slope = self.total(x) - wanted, self._slopes(c, x)
            low, high = np.where(over >= 0, c, low), np.where(over <= 0, c, high)
            # what one unit in the last place of c moves demand by cannot be balanced any finer
            with np.errstate(divide="ignore", invalid="ignore"):
                finest = np.where(np.isfinite(over) & (slope < 0), np.abs(c / slope) * _UNIT, 0.0)
            allowed = np.maximum(_TOLERANCE * size, finest)
            collapsed = np.nextafter(low, high) >= high
            self._refuse_unbalanced(active & collapsed & ~(np.abs(over) <= 1e6 * allowed), c)
            active = active & ~collapsed & ~(np.abs(over) <= allowed)
            if not active.any():
                return c
            middle = low + 0.5 * (high - low)
            trial = middle if turn > _PATIENCE and turn % 2 else self._newton(c, low, high, middle, over, slope)
            c = np.where(active, trial, c)
        self._refuse_unbalanced(active, c)
        return c

    def _newton(self, c: FloatArray, low: FloatArray, high: FloatArray, middle: FloatArray, over: FloatArray,
                slope: FloatArray) -> FloatArray:  # fmt: skip
        """Newton's next trial, or the middle where that leaves the bracket."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = over * slope
            trial = np.where(self._straight, c - step, c / (1.0 + step / c))
        return np.where((trial >= low) & (trial <= high), trial, middle)

    def _refuse_unbalanced(self, wrong: npt.NDArray[np.bool_], c: FloatArray) -> None:
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            raise SolverError(
                f"no unit cost balances aggregator {self.names[int(at[-1])]!r} (last tried {c[at]:.6g} $/kWh); "
                "utilities must be strictly concave over all that their agents may consume"
            )
