"""The market game of Shapley and Shubik on energy: what prosumers are worth to each other without a grid between them.

    v(S) = max sum_{i in S} u_i(x_i) + f s - r b   s.t.   sum_{i in S} x_i + s <= sum_{i in S} g_i + b,   x, s, b >= 0
         = min over c in [f, r] of  sum_{i in S} pi_i(c),      pi_i(c) = max_x u_i(x) + c (g_i - x)

x_i: consumption [kW]; g_i: generation, the endowment; s, b: sold outside at the feed-in price f and bought at the
retail price r [$/kWh]; c: the price that clears S. pi_i is what i would have if it bought and sold all at c, own
surplus plus endowment at c; the price of one coalition bounds the value of every other, as the second line says.

Owen payments are pi_i at the price of all. They are in the core: at the same price no group is worth more.
References: Shapley, Shubik, J. Econ. Theory 1 (1969); Int. J. Game Theory 4 (1975); Owen, Math. Program. 9 (1975).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.masks import FloatArray
from mktopt.agents.coalitions.values import Bounded, Coalition, CoalitionGame, named
from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.roots import falling_root


@dataclass(frozen=True, eq=False)
class MarketGame:
    """The market game of `prosumers`, values in $/h. feed_in, retail: prices outside [$/kWh]; as they stand, nothing
    can be bought and what is left over is worth nothing.

    Raises DataError where an own utility is not concave, and where retail is below feed_in: to buy at one and sell at
    the other would earn without end.
    """

    prosumers: Prosumers
    feed_in: float = 0.0
    retail: float = np.inf

    def __post_init__(self) -> None:
        self.prosumers.refuse_not_concave()
        if not self.retail >= self.feed_in:
            problem = f"below the feed-in price {self.feed_in:g}: buying to sell would earn without end"
            raise DataError(Fault("market game", problem, "prices", "retail", self.retail, "raise retail to feed_in"))
        if not np.isfinite(self.feed_in):
            raise DataError(Fault("market game", "not a finite price", "prices", "feed_in", self.feed_in))

    @property
    def players(self) -> tuple[str, ...]:
        """The agents, in the order of every array (n,)."""
        return tuple(self.prosumers.table["agent"])

    def game(self, workers: int = 1) -> CoalitionGame:
        """The game, whose values bring bounds, so that up to 20 players have a nucleolus."""
        return CoalitionGame(self.players, self, workers=workers)

    def price(self, coalition: Iterable[str]) -> float:
        """The price c that clears a coalition [$/kWh]. Raises UnknownNameError for a stranger."""
        return self._price(self._members(coalition))

    def payments(self, coalition: Iterable[str] | None = None) -> pd.Series[float]:
        """Owen payments of a coalition (None: of all) by player [$/h]: own surplus and endowment at its price."""
        inside = self._members(self.players if coalition is None else coalition)
        index = pd.Index(np.array(self.players)[inside], name="player")
        return pd.Series(self._shares(self._price(inside))[inside], index=index, name="payoff", dtype=float)

    def __call__(self, coalition: Coalition) -> Bounded:
        """v(S) [$/h], with the bound that its price gives of all values."""
        inside = self._members(coalition)
        shares = self._shares(self._price(inside))
        return Bounded(float(shares[inside].sum()), 0.0, dict(zip(self.players, shares.tolist(), strict=True)))

    def _members(self, coalition: Iterable[str]) -> FloatArray:
        wanted = named(coalition)
        for player in sorted(wanted - set(self.players))[:1]:
            raise unknown_name("player", player, self.players)
        if not wanted:
            raise FormulationError("the empty coalition has no price; it is worth 0")
        return np.array([player in wanted for player in self.players])

    def _price(self, inside: FloatArray) -> float:
        """Of n that share X one has at least X / n and one at most: marginal utilities there bracket the price."""
        people = self.prosumers
        total = float(people.generation_kw[inside].sum())
        around = people.marginal(total / inside.sum())[inside]
        low = max(self.feed_in, min(float(around.min()), self.retail))
        high = max(low, min(float(around.max()), self.retail))
        if not np.isfinite(high):
            raise FormulationError(
                "the first kW of a group without generation has no finite worth: set retail, at which it can buy"
            )
        if total == 0.0 and np.isinf(self.retail):
            return high

        def excess_demand(c: FloatArray) -> FloatArray:
            return np.array([people.demand_at(float(price))[inside].sum() - total for price in np.ravel(c)])

        return float(falling_root(excess_demand, np.array([low]), np.array([high]))[0])

    def _shares(self, price: float) -> FloatArray:
        """pi_i at a price (n,) [$/h]; infinite where nothing is enough, at a price of zero."""
        people = self.prosumers
        x = people.demand_at(price)
        end = np.where(np.isfinite(x), x, 0.0)
        return np.where(np.isfinite(x), people.utility(end) + price * (people.generation_kw - end), np.inf)
