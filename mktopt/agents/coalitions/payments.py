"""Do payments exist that keep every group content? A linear program that answers yes with payments, or no with a proof.

    yes   x with x(N) = v(N), x(S) >= v(S) for all S
    no    weights d_S > 0 of groups, in which each player is once, that together are worth more than all:
          sum_{S with i} d_S = 1 for every i,   sum_S d_S v(S) > v(N)

One of the two holds, never both: a player that works d_S of its time in S is fully at work, and where the groups make
more of that time than N does, whatever x is paid, one of them has less than it is worth. Both follow from the least
core: d = y / m with its weights y, and sum_S d_S v(S) - v(N) = e / m.
References: Bondareva (1963); Shapley, On balanced sets and cores, Nav. Res. Logist. Q. 14 (1967).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mktopt.agents.coalitions.core import excess, least_core
from mktopt.agents.coalitions.oracles import Oracle
from mktopt.agents.coalitions.values import NOTHING, Coalition, CoalitionGame, Payoffs, checked_tolerance, label


@dataclass(frozen=True, eq=False)
class SupportingPayments:
    """The answer; true or false as such.

    exist: whether payments keep every group content. payoffs: such payments by player [$], None where there are none:
    every group has at least `margin` [$] more than by itself. balanced: {group: weight}, empty where payments exist,
    else the groups of which one objects whatever is paid; shortfall: by how much they are worth more than v(N) [$].
    proved: False for a yes that stands on a search that is not exact. A no is always proved, by `balanced` alone.
    """

    exist: bool
    payoffs: pd.Series[float] | None
    margin: float
    balanced: Mapping[Coalition, float]
    shortfall: float
    proved: bool
    game: CoalitionGame

    def __bool__(self) -> bool:
        return self.exist

    @property
    def blocking(self) -> Coalition | None:
        """The heaviest group of `balanced`: paid as near to content as can be, it still gains -margin by leaving."""
        return next(iter(self.balanced), None)

    def objection(self, payoffs: Payoffs) -> tuple[Coalition, float] | None:
        """The group of `balanced` that gains most by leaving `payoffs`, and what it gains [$]; None without one.

        Where no payments exist it gains more than nothing whatever is paid, as long as it is not more than v(N).
        """
        gains = {group: excess(self.game, group, payoffs) for group in self.balanced}
        return max(gains.items(), key=lambda item: item[1]) if gains else None

    def __str__(self) -> str:
        if self.exist:
            most = max(self.margin, 0.0)  # rounding is no lack
            sure = "" if self.proved else " as far as was searched"
            return f"payments exist{sure}: every group has at least {most:.6g} $ more than by itself"
        groups = " + ".join(f"{weight:.4g} {label(group)}" for group, weight in self.balanced.items())
        return f"no payments exist: {groups} is worth {self.shortfall:.6g} $ more than all players together"


def supporting_payments(
    game: CoalitionGame, *, oracle: Oracle | None = None, tolerance: float = 1e-7
) -> SupportingPayments:
    """Whether payments exist that keep every group content: yes with payments, or no with the groups that object.

    The payments are a point of the least core; the nucleolus is another, and unique. tolerance: share of the greatest
    of |v(N)| and the payments that counts as nothing. oracle: see `least_core`, whose errors are raised.
    """
    checked_tolerance(tolerance)
    found = least_core(game, oracle=oracle)
    grand = game.value(game.all)
    size = max(abs(grand), float(np.abs(found.payoffs).max()))
    if found.epsilon <= tolerance * size + NOTHING:
        return SupportingPayments(True, found.payoffs, 0.0 - found.epsilon, {}, 0.0, found.proved, game)
    balanced = balanced_weights(game, found.weights)
    shortfall = sum(weight * game.value(group) for group, weight in balanced.items()) - grand
    return SupportingPayments(False, None, -found.epsilon, balanced, shortfall, True, game)


def balanced_weights(game: CoalitionGame, weights: Mapping[Coalition, float]) -> dict[Coalition, float]:
    """`weights` of groups scaled so that each player is once in them (which they must allow), the heaviest first."""
    once = float(np.mean([sum(w for group, w in weights.items() if player in group) for player in game.players]))
    ranked = sorted(weights.items(), key=lambda item: (-item[1], sorted(item[0])))
    return {group: weight / once for group, weight in ranked}
