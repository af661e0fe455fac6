"""Cooperative games from the literature, whose solutions are known: for teaching, and to hold methods against.

    gloves         v(S) = min(left gloves in S, right gloves in S)                    Shapley and Shubik (1969)
    airport        v(S) = -max_{i in S} c_i: the runway that the largest aircraft needs    Littlechild and Owen (1973)
    bankruptcy     v(S) = max(0, E - sum_{i not in S} d_i): what the others leave          Aumann and Maschler (1985)
    majority       v(S) = 1 where sum_{i in S} w_i >= q, else 0                            Shapley and Shubik (1954)
    unanimity      v(S) = 1 where S contains the carrier T, else 0                         Shapley (1953)

Each is a `CoalitionGame` that can be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.agents.coalitions.values import Coalition, CoalitionGame
from mktopt.errors import DataError, Fault, unknown_name


@dataclass(frozen=True)
class _Value:
    """A value function that can be sent to other processes."""

    rule: Callable[..., float]
    data: Any
    level: float = 0.0

    def __call__(self, coalition: Coalition) -> float:
        return float(self.rule(coalition, self.data, self.level))


def gloves(left: Sequence[str], right: Sequence[str]) -> CoalitionGame:
    """The glove game: players `left` own a left glove each, `right` a right one; a pair is worth 1."""
    return CoalitionGame([*left, *right], _Value(_pairs, (frozenset(left), frozenset(right))))


def airport(costs: Mapping[str, float]) -> CoalitionGame:
    """The airport game: `costs` of the runway that each player needs [$]; payoffs are minus what players pay."""
    _not_negative("costs", costs)
    return CoalitionGame(list(costs), _Value(_longest, dict(costs)))


def bankruptcy(estate: float, claims: Mapping[str, float]) -> CoalitionGame:
    """The bankruptcy game: an `estate` [$] that does not cover the `claims` [$]. Raises DataError where it does."""
    _not_negative("claims", claims)
    if not 0.0 <= estate <= sum(claims.values()) * (1.0 + 1e-12):
        problem = f"the estate must be between 0 and the sum of the claims, {sum(claims.values()):g}"
        raise DataError(Fault("bankruptcy", problem, column="estate", row="estate", value=estate))
    return CoalitionGame(list(claims), _Value(_left, dict(claims), estate))


def majority(quota: float, weights: Mapping[str, float]) -> CoalitionGame:
    """The weighted majority game [quota; weights]: winning coalitions are worth 1. Raises DataError for a quota that
    is not above 0: nobody would win."""
    _not_negative("weights", weights)
    if not 0.0 < quota < np.inf:
        raise DataError(Fault("majority", "the quota must be above 0 and finite", "quota", "quota", quota))
    return CoalitionGame(list(weights), _Value(_wins, dict(weights), quota))


def unanimity(players: Sequence[str], carrier: Sequence[str]) -> CoalitionGame:
    """The unanimity game: 1 where all of `carrier` are together. Raises UnknownNameError for a stranger in it, and
    DataError where it is empty: nobody would be worth 1."""
    if not carrier:
        raise DataError(Fault("unanimity", "the carrier is empty", hint="name at least one player"))
    for player in carrier:
        if player not in players:
            raise unknown_name("player", player, players)
    return CoalitionGame(players, _Value(_holds, frozenset(carrier)))


def _pairs(coalition: Coalition, hands: tuple[Coalition, Coalition], level: float) -> float:
    return min(len(coalition & hands[0]), len(coalition & hands[1]))


def _longest(coalition: Coalition, costs: Mapping[str, float], level: float) -> float:
    return -max(costs[player] for player in coalition)


def _left(coalition: Coalition, claims: Mapping[str, float], estate: float) -> float:
    return max(0.0, estate - sum(claim for player, claim in claims.items() if player not in coalition))


def _wins(coalition: Coalition, weights: Mapping[str, float], quota: float) -> float:
    return float(sum(weights[player] for player in coalition) >= quota)


def _holds(coalition: Coalition, carrier: Coalition, level: float) -> float:
    return float(carrier <= coalition)


def _not_negative(table: str, numbers: Mapping[str, float]) -> None:
    for player, value in numbers.items():
        if not 0.0 <= value < np.inf:
            raise DataError(Fault(table, "must not be negative, nor infinite", player, table, value))
