"""Price-anticipating agents: within each aggregator they know that their own bid moves the unit cost.

The trading post of an aggregator with net requirement p: buyers j put down money m_j >= 0, sellers i put up power q_i
in [0, g_i], and

    S = p + sum_i q_i > 0,      c = sum_j m_j / S,      buyer j gets x_j = m_j / c,      seller i gets c q_i.

With M_- and S_- what the others put down and up, a buyer of money m gets m S / (M_- + m), whose derivative in m is
S M_- / (M_- + m)^2 = (1 - x / S) / c. A seller of q gets M q / (S_- + q), with derivative c (1 - q / S). Both payoffs
are concave, so that the conditions of a Nash equilibrium are

    buyer:   u'(g + x) (1 - x / S) = c,    or x = 0 where u'(g) <= c
    seller:  u'(g - q) = c (1 - q / S),    or q = 0 where u'(g) >= c, q = g where u'(0) <= c (1 - g / S)
    sum_j x_j = S.

Price takers have the same without the factors (1 - x / S) and (1 - q / S), which tend to 1 as agents become small
parts of S. At given S the x_j fall in c, which gives c(S), falling in S; and f(S) = p + sum_i q_i(c(S), S) - S has the
equilibria as its roots. For p >= 0 there is at most one: dq_i/dS <= q_i / S, so that f falls wherever it is zero. For
p < 0 (the DSO takes power away at c) there may be two, and the one with more trade is taken, searched down from all
generation put up at 60 supplies.
One buyer alone would pay next to nothing for everything, and one seller alone (p <= 0) put up next to nothing: there is
no equilibrium with trade then, and the verdict says so. (Nobody trading is an equilibrium of any such game.)
References: Faqiry and Das, IEEE Access 4 (2016), the paper's [4]; Kelly, European Transactions on
Telecommunications 8 (1997); Johari and Tsitsiklis, Mathematics of Operations Research 29 (2004).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.aggregators import Aggregators
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.roots import falling_root
from mktopt.networks.utilities import UTILITIES

FloatArray = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Supplies, as shares of all there could be, at which an exporting aggregator is searched for an equilibrium.
_SEARCHED = np.geomspace(1.0, 1e-6, 60)
_BALANCED = 1e-8


class TradeVerdict(enum.Enum):
    """Whether price-anticipating agents of an aggregator have an equilibrium with trade."""

    EQUILIBRIUM = "equilibrium"
    NO_TRADE = "no equilibrium with trade: too few sellers to put up power against each other"
    NO_PRICE = "no equilibrium at a positive price: fewer than two agents would pay for what is put up"


@dataclass(frozen=True, eq=False)
class Anticipation:
    """What price-anticipating agents do at given net requirements; K aggregators, N agents. NaN without equilibrium.

    unit_costs: c (K,) [$/kWh]; supply_kw: S (K,); net_kw: x_j of buyers, -q_i of sellers (N,) [kW]; verdicts: (K,)
    `TradeVerdict`; welfare, taking_welfare: sum of utilities of price-anticipating and of price-taking agents at the
    same net requirement (K,) [$/h]; taking_unit_costs: (K,) [$/kWh].
    """

    aggregators: tuple[str, ...]
    p_kw: FloatArray
    unit_costs: FloatArray
    supply_kw: FloatArray
    net_kw: FloatArray
    verdicts: npt.NDArray[np.object_]
    welfare: FloatArray
    taking_unit_costs: FloatArray
    taking_welfare: FloatArray

    @property
    def loss(self) -> FloatArray:
        """Welfare that anticipation costs, as a share of that of price takers (K,); NaN without equilibrium."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.taking_welfare - self.welfare) / np.abs(self.taking_welfare)

    @property
    def table(self) -> pd.DataFrame:
        """aggregator, p_kw, unit_cost, taking_unit_cost, welfare, taking_welfare, loss, verdict; no leading axes."""
        return pd.DataFrame({
            "aggregator": self.aggregators,
            "p_kw": self.p_kw,
            "unit_cost": self.unit_costs,
            "taking_unit_cost": self.taking_unit_costs,
            "welfare": self.welfare,
            "taking_welfare": self.taking_welfare,
            "loss": self.loss,
            "verdict": [verdict.value for verdict in self.verdicts],
        })  # fmt: skip


def anticipating_unit_costs(prosumers: Prosumers | Aggregators, p_kw: npt.ArrayLike) -> Anticipation:
    """The Nash equilibrium of price-anticipating agents in every aggregator, at net requirements `p_kw` [kW].

    p_kw: (K,), or (..., K) with leading axes, which the results then have too.

    Raises DataError for p_k < -G_k. Where there is no equilibrium with trade, the verdict says why and figures are NaN.
    """
    everyone = prosumers if isinstance(prosumers, Aggregators) else Aggregators(prosumers)
    p = np.asarray(p_kw, dtype=float)
    p = np.broadcast_to(p, np.broadcast_shapes(p.shape, (len(everyone),))).copy()
    taking = everyone.unit_costs(p)
    post = _Post(everyone, p)
    supply = post.supply()
    c = post.price(supply)
    x, q = post.bought(c, supply), post.sold(c, supply)
    net = x - q
    size = np.maximum(1.0, np.abs(p) - everyone.lowest_kw)
    priced = (c > 0) & (np.abs(everyone.total(x) - supply) <= _BALANCED * size)
    traded = (supply > 0) & (np.abs(everyone.total(net) - p) <= _BALANCED * size)
    verdicts = np.full(p.shape, TradeVerdict.EQUILIBRIUM, dtype=object)
    verdicts[~traded] = TradeVerdict.NO_TRADE
    verdicts[~priced | (post.payers < 2)] = TradeVerdict.NO_PRICE
    found = np.asarray(verdicts == TradeVerdict.EQUILIBRIUM, dtype=bool)
    net = np.where(found[..., everyone.group], net, np.nan)
    return Anticipation(
        everyone.names,
        p,
        np.where(found, c, np.nan),
        np.where(found, supply, np.nan),
        net,
        verdicts,
        everyone.welfare(net + post.g),
        taking,
        everyone.welfare(everyone.consumption(taking)),
    )


def greatest_gain(prosumers: Prosumers | Aggregators, result: Anticipation) -> FloatArray:
    """The most any agent of each aggregator could gain by another bid, the others' bids as they are (K,) [$/h].

    An agent may change its money or power, and its role; it does not buy and sell at once. The certificate of a Nash
    equilibrium: nil but for rounding. NaN without equilibrium.
    """
    everyone = prosumers if isinstance(prosumers, Aggregators) else Aggregators(prosumers)
    people, group = everyone.prosumers, everyone.group
    g = people.generation_kw
    c, supply = result.unit_costs[..., group], result.supply_kw[..., group]
    now = people.utility(g + result.net_kw) - c * result.net_kw
    money = c * (supply - np.maximum(result.net_kw, 0.0))
    others = np.maximum(supply - np.maximum(-result.net_kw, 0.0), 0.0)

    def buy(share: FloatArray) -> FloatArray:
        return people.utility(g + share * others) - money * share / (1.0 - share)

    def sell(q: FloatArray) -> FloatArray:
        return people.utility(np.maximum(g - q, 0.0)) + money * q / (others + q)

    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.maximum(_greatest(buy, np.full(c.shape, 1.0 - 1e-12)), _greatest(sell, g + 0.0 * c))
    return everyone.largest(np.maximum(best - now, 0.0))


def _greatest(payoff: Callable[[FloatArray], FloatArray], most: FloatArray) -> FloatArray:
    """The greatest value of concave functions on [0, most], elementwise, by golden section."""
    ratio = 0.5 * (np.sqrt(5.0) - 1.0)
    low, high = np.zeros(most.shape), most.astype(float)
    best = np.fmax(payoff(low), payoff(high))
    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        at_left, at_right = payoff(left), payoff(right)
        best = np.fmax(best, np.fmax(at_left, at_right))
        low, high = np.where(at_left < at_right, left, low), np.where(at_left < at_right, high, right)
    return best


class _Post:
    """The trading posts of all aggregators at net requirements `p` (..., K)."""

    def __init__(self, everyone: Aggregators, p: FloatArray) -> None:
        self.everyone, self.p, self.group = everyone, p, everyone.group
        self.people, self.g = everyone.prosumers, everyone.prosumers.generation_kw
        self.worth = self.people.marginal(self.g)
        self.own = ~self.people.table["utility"].isin(list(UTILITIES)).to_numpy()
        self.payers = everyone.total((self.worth > 0).astype(float))
        self.most = np.maximum(p - everyone.lowest_kw, 0.0)

    def bought(self, c: FloatArray, supply: FloatArray) -> FloatArray:
        """x_j at unit costs and supplies (K,), shape (N,)."""
        price, whole = c[..., self.group], np.maximum(supply[..., self.group], 1e-300)
        a, b, first = self.people.a, self.people.b, self.worth - price
        with np.errstate(all="ignore"):
            # log: a (1 - x/S) = c (b + g + x); quadratic: (w - b x)(1 - x/S) = c with w = a - b g
            log = (a - price * (b + self.g)) / (price + a / whole)
            steep = self.worth / whole
            quadratic = 2.0 * first / (steep + b + np.sqrt((steep - b) ** 2 + 4.0 * b * price / whole))
            found = np.where(first > 0, np.clip(np.where(self.people.is_log, log, quadratic), 0.0, whole), 0.0)
        if not self.own.any():
            return found

        def over(x: FloatArray) -> FloatArray:
            with np.errstate(invalid="ignore", over="ignore"):
                return self.people.marginal(self.g + x) * (1.0 - x / whole) - price

        return np.where(self.own, falling_root(over, np.zeros(whole.shape), np.where(self.own, whole, 0.0)), found)

    def sold(self, c: FloatArray, supply: FloatArray) -> FloatArray:
        """q_i at unit costs and supplies (K,), shape (N,)."""
        price, whole = c[..., self.group], np.maximum(supply[..., self.group], 1e-300)
        a, b = self.people.a, self.people.b
        with np.errstate(all="ignore"):
            # log: a = c (b + g - q)(1 - q/S), where no price means no sale; quadratic: w + b q = c (1 - q/S)
            far = (b + self.g) / whole
            log = 2.0 * (b + self.g - a / price) / (1.0 + far + np.sqrt((1.0 - far) ** 2 + 4.0 * a / (price * whole)))
            quadratic = (price - self.worth) / (b + price / whole)
            inside = np.clip(np.where(self.people.is_log, log, quadratic), 0.0, self.g)
            found = np.where(self.worth < price, inside, 0.0)
        if not self.own.any():
            return found

        def over(q: FloatArray) -> FloatArray:
            return price * (1.0 - q / whole) - self.people.marginal(np.maximum(self.g - q, 0.0))

        most = np.where(self.own, self.g, 0.0 * whole)
        return np.where(self.own, falling_root(over, np.zeros(whole.shape), most), found)

    def price(self, supply: FloatArray) -> FloatArray:
        """c(S) (K,): where all that is put up is bought; of n agents one gets at least and one at most S / n."""
        everyone, equal = self.everyone, (supply / self.everyone.agents)[..., self.group]
        worth = self.people.marginal(self.g + equal)
        low = np.maximum(0.0, -everyone.largest(-worth) * (1.0 - 1.0 / everyone.agents))
        high = np.maximum(low, everyone.largest(worth))
        return falling_root(lambda c: everyone.total(self.bought(c, supply)) - supply, low, high)

    def lacking(self, supply: FloatArray) -> FloatArray:
        """f(S) = p + sum_i q_i(c(S), S) - S (K,)."""
        return self.p + self.everyone.total(self.sold(self.price(supply), supply)) - supply

    def supply(self) -> FloatArray:
        """The greatest root S of f (K,); where there is none, the lower end of the search."""
        low = np.where(self.p > 0, self.p, self.most * _SEARCHED[-1])
        high = self.most.copy()
        if (self.p < 0).any():
            low, high = self._searched(low, high)
        return falling_root(self.lacking, low, high)

    def _searched(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Brackets of exporting aggregators: down from the greatest supply to the first where f > 0."""
        open_, above = self.p < 0, high
        for share in _SEARCHED:
            trial = np.where(self.p < 0, self.most * share, low)
            found = open_ & (self.lacking(trial) >= 0)
            low, high = np.where(found, trial, low), np.where(found, above, high)
            above, open_ = np.where(self.p < 0, trial, high), open_ & ~found
            if not open_.any():
                break
        return low, high
