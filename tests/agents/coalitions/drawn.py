"""Games for the tests: drawn at random, and from the literature on markets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations

import numpy as np
from hypothesis import strategies as st

from mktopt.agents.coalitions.values import Bounded, Coalition, CoalitionGame

NAMES = tuple("abcdefghijklmnopqrstuvwxyz")


def groups(players: Iterable[str]) -> list[Coalition]:
    """All coalitions but the empty one."""
    listed = list(players)
    return [frozenset(c) for c in chain.from_iterable(combinations(listed, k) for k in range(1, len(listed) + 1))]


def listed(values: np.ndarray) -> CoalitionGame:
    """The game of an array (2^n,)."""
    return CoalitionGame.from_table(NAMES[: len(values).bit_length() - 1], values)


@st.composite
def tables(draw: st.DrawFn, least: int = 2, most: int = 5, whole: bool | None = None) -> np.ndarray:
    """Values of all coalitions: whole numbers, in which many are equal, or not."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ties = draw(st.booleans()) if whole is None else whole
    values = rng.integers(-3, 8, 2**n).astype(float) if ties else rng.normal(0.0, 10.0, 2**n)
    values[0] = 0.0
    return values


class Market:
    """A Shapley-Shubik market of one good with u_i(x) = a_i x - 1/2 b_i x^2 and endowments e_i, in closed form.

    sum_i (a_i - p) / b_i = sum_i e_i gives the price p of a coalition; what is unlimited below zero needs no bounds.
    v(S) = max sum u_i(x_i) = sum_i (u_i(x_i(p)) + p (e_i - x_i(p))), and for any p the right side is a bound of v.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, e: np.ndarray) -> None:
        self.a, self.b, self.e = a, b, e

    def price(self, at: list[int]) -> float:
        """The price that clears a coalition."""
        return float(((self.a / self.b)[at].sum() - self.e[at].sum()) / (1.0 / self.b)[at].sum())

    def owen(self, price: float) -> np.ndarray:
        """Surplus and endowment of each player at a price."""
        x = (self.a - price) / self.b
        return np.asarray(self.a * x - 0.5 * self.b * x**2 + price * (self.e - x))

    def __call__(self, coalition: Coalition) -> Bounded:
        at = [NAMES.index(player) for player in coalition]
        shares = self.owen(self.price(at))
        return Bounded(float(shares[at].sum()), 0.0, dict(zip(NAMES, shares.tolist(), strict=False)))

    def game(self) -> CoalitionGame:
        """The market game, whose values bring their bounds."""
        return CoalitionGame(NAMES[: len(self.a)], self)


def drawn_market(n: int, seed: int) -> Market:
    """A market of n players."""
    rng = np.random.default_rng(seed)
    return Market(rng.uniform(1, 5, n), rng.uniform(0.5, 2, n), rng.uniform(0, 3, n))
