"""A cooperative game with transferable utility: what each group of players is worth by itself.

    v: 2^N -> R,  v(empty) = 0          v(S) [$]: what the players of S can get together, or minus what it costs them

Costs are entered as negative values: an airport that costs S  max_{i in S} c_i  has v(S) = -max c_i, and payoffs are
minus what the players pay. Values are computed when they are asked for, once each, in several processes if wanted.

A value may bring a bound that holds for all coalitions,

    v(S) <= a + sum_{i in S} b_i   for every S

which weak duality gives for nothing where v is a convex program: b_i is the endowment of i at the prices of the
solved coalition, plus half the rents of its wires; a, what the resources that all share would earn. Searches that know
such bounds need not value every coalition.
Reference: Peleg and Sudhoelter, Introduction to the Theory of Cooperative Games, 2nd ed. (2007), ch. 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, masks_of
from mktopt.agents.coalitions.workers import Workers
from mktopt.errors import DataError, Fault, FormulationError, unknown_name

Coalition = frozenset[str]
Payoffs = Mapping[str, float] | Sequence[float] | FloatArray | pd.Series

# Above this many players not even an array over all coalitions is held.
MOST_LISTED = 20
# By which share a value may exceed a bound: what a solver leaves.
BOUND_ERROR = 1e-6
# And by how much at least [$], where nothing is worth anything.
NOTHING = 1e-12
# Coalitions that are written out at once: all of 20 players would fill a gigabyte.
_AT_ONCE = 2**14


@dataclass(frozen=True)
class Bounded:
    """A value [$] with a bound for all coalitions: v(S) <= constant + sum of `weights` over S (no entry: 0) [$]."""

    value: float
    constant: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)


class CoalitionGame:
    """Players and the value of every group of them.

    players: names, in the order of every array (n,). value: function of a frozenset of names, never empty, that gives
    v(S) [$] or `Bounded`; it is called once per coalition. workers: processes that compute values side by side
    (1: this one). With more, `value` is sent to fresh processes, so it must be a function at the top level of a module
    or an object of such a class, and a script needs `if __name__ == "__main__":`.
    Raises DataError for names that are empty, or stand twice.
    """

    def __init__(
        self, players: Sequence[str], value: Callable[[Coalition], float | Bounded], *, workers: int = 1
    ) -> None:
        self.players = checked_players(players)
        if not callable(value):
            raise FormulationError(f"value={value!r} is no function of a coalition; a table goes into from_table")
        if int(workers) != workers or workers < 1:
            raise FormulationError(f"workers={workers}: at least one process must compute the values")
        self.value_of, self.workers = value, int(workers)
        self._bit = {player: 1 << k for k, player in enumerate(self.players)}
        self._array: FloatArray | None = np.full(2**self.n, np.nan) if self.n <= MOST_LISTED else None
        self._others: dict[int, float] = {}
        self._store(0, 0.0)
        self.bounds: list[tuple[float, FloatArray]] = []
        self.evaluated = 0
        self._pool: Workers[Coalition, float | Bounded] | None = None

    @classmethod
    def from_table(cls, players: Sequence[str], table: Mapping[Iterable[str], float] | npt.ArrayLike) -> CoalitionGame:
        """The game whose values [$] are listed, for at most 20 players.

        table: {coalition (a tuple or frozenset of names): value} for all but the empty one, or an array (2^n,) whose
        entry k is the coalition that holds player i where bit i of k is set. Raises DataError naming a coalition that
        is missing, stands twice or is not finite.
        """
        game = cls(players, _listed_only)
        if game._array is None:
            raise FormulationError(
                f"a table of {game.n} players would hold 2^{game.n} values; at most {MOST_LISTED} players can be"
                " listed: give a function, CoalitionGame(players, value)"
            )
        values = game._from_mapping(table) if isinstance(table, Mapping) else np.array(table, dtype=float)
        if values.shape != game._array.shape:
            problem = f"an array of {game.n} players has shape ({2**game.n},), this one {values.shape}"
            raise DataError(Fault("coalition values", problem, hint="entry k: player i where bit i of k is set"))
        for mask in np.flatnonzero(~np.isfinite(values))[:1]:
            _number(values[mask], "coalition values", label(game.coalition(int(mask))), "value")
        if values[0] != 0.0:
            raise DataError(Fault("coalition values", "the empty coalition must be worth 0", "()", "value", values[0]))
        game._array = values
        return game

    def _from_mapping(self, table: Mapping[Iterable[str], float]) -> FloatArray:
        values = np.full(2**self.n, np.nan)
        values[0] = 0.0
        seen = set[int]()
        for coalition, value in table.items():
            mask = self.mask(coalition)
            if mask in seen:
                raise DataError(Fault("coalition values", "the coalition stands twice", label(self.coalition(mask))))
            seen.add(mask)
            values[mask] = _number(value, "coalition values", label(self.coalition(mask)), "value")
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            problem = f"{len(missing)} of {2**self.n - 1} coalitions have no value"
            first = label(self.coalition(int(missing[0])))
            raise DataError(Fault("coalition values", problem, first, hint="list them all, or give a function"))
        return values

    # -- names ---------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """How many players there are."""
        return len(self.players)

    @property
    def all(self) -> Coalition:
        """The coalition of all players."""
        return frozenset(self.players)

    def mask(self, coalition: Iterable[str]) -> int:
        """The whole number that stands for a coalition. Raises UnknownNameError for a stranger."""
        found = 0
        for player in named(coalition):
            if player not in self._bit:
                raise unknown_name("player", player, self.players)
            found |= self._bit[player]
        return found

    def coalition(self, mask: int) -> Coalition:
        """The players of a mask."""
        return frozenset(player for player, bit in self._bit.items() if mask & bit)

    def vector(self, payoffs: Payoffs) -> FloatArray:
        """`payoffs` as an array (n,) [$]: of a mapping or Series by player, or a sequence in the players' order.

        Raises DataError for a player without payoff, or one that is not finite, and UnknownNameError for a stranger.
        """
        if isinstance(payoffs, (Mapping, pd.Series)):
            given: dict[str, Any] = {}
            for player, value in payoffs.items():
                if str(player) not in self._bit:
                    raise unknown_name("player", player, self.players)
                if str(player) in given:
                    raise DataError(Fault("payoffs", "the player stands twice", str(player)))
                given[str(player)] = value
            for player in self.players:
                if player not in given:
                    raise DataError(Fault("payoffs", "the player has no payoff", player, hint="give 0 for nothing"))
            listed = np.array([given[player] for player in self.players], dtype=object)
        else:
            listed = np.array(payoffs, dtype=object)
            if listed.shape != (self.n,):
                raise DataError(Fault("payoffs", f"{self.n} players need shape ({self.n},), not {listed.shape}"))
        return np.array([_number(value, "payoffs", p, "payoff") for p, value in zip(self.players, listed, strict=True)])

    def series(self, payoffs: FloatArray) -> pd.Series[float]:
        """`payoffs` (n,) by player [$]."""
        return pd.Series(payoffs, index=pd.Index(self.players, name="player"), name="payoff", dtype=float)

    # -- values --------------------------------------------------------------------------------------------------

    def value(self, coalition: Iterable[str]) -> float:
        """v(S) [$]."""
        return float(self.values_at([self.mask(coalition)])[0])

    def values(self, coalitions: Iterable[Iterable[str]]) -> FloatArray:
        """v(S) of many coalitions (k,) [$], side by side where the game has workers."""
        return self.values_at([self.mask(coalition) for coalition in coalitions])

    def of_rows(self, rows: BoolArray) -> FloatArray:
        """v(S) of coalitions given as rows of yes and no (k, n) [$]."""
        return self.values_at(masks_of(rows))

    def values_at(self, masks: Sequence[int]) -> FloatArray:
        """v(S) of coalitions given as masks (k,) [$]. Raises FormulationError for a value that is not finite."""
        if self._array is not None:
            at = np.asarray(masks, dtype=np.int64)
            self._compute(np.unique(at[np.isnan(self._array[at])]).tolist())
            return self._array[at]
        self._compute(sorted({mask for mask in masks if mask not in self._others}))
        return np.array([self._others[mask] for mask in masks], dtype=float)

    @property
    def known(self) -> FloatArray:
        """The values computed so far, of all coalitions (2^n,) [$], NaN elsewhere. At most 20 players."""
        return _read_only(self._listed())

    @property
    def tabulated(self) -> bool:
        """Whether all values are there already."""
        return self._array is not None and not bool(np.isnan(self._array).any())

    def table(self) -> FloatArray:
        """The values of all coalitions (2^n,) [$], computed where need be. At most 20 players (FormulationError)."""
        array = self._listed()
        self._compute(np.flatnonzero(np.isnan(array)).tolist())
        return _read_only(array)

    def _listed(self) -> FloatArray:
        if self._array is None:
            raise FormulationError(
                f"{self.n} players form 2^{self.n} coalitions, too many to list (at most {MOST_LISTED} players):"
                " sample with shapley_sampled(game), or search with LocalSearch(game)"
            )
        return self._array

    def known_coalitions(self) -> list[int]:
        """The masks of all coalitions valued so far, the empty one aside."""
        if self._array is None:
            return [mask for mask in self._others if mask]
        return [int(mask) for mask in np.flatnonzero(~np.isnan(self._array)) if mask]

    def _compute(self, masks: Sequence[int]) -> None:
        for start in range(0, len(masks), _AT_ONCE):
            some = [int(mask) for mask in masks[start : start + _AT_ONCE]]
            coalitions = [self.coalition(mask) for mask in some]
            for mask, coalition, found in zip(some, coalitions, self._found(coalitions), strict=True):
                if isinstance(found, Bounded):
                    self.bounds.append(self._bound(coalition, found))
                self._store(mask, float(found.value if isinstance(found, Bounded) else found))
                self.evaluated += 1

    def _bound(self, coalition: Coalition, found: Bounded) -> tuple[float, FloatArray]:
        strangers = sorted(found.weights.keys() - self._bit.keys())
        for player in strangers[:1]:  # its weight would be lost, and the bound too low
            raise unknown_name("player of a bound", player, self.players)
        weights = np.array([float(found.weights.get(player, 0.0)) for player in self.players])
        inside = np.array([player in coalition for player in self.players])
        most = found.constant + float(weights[inside].sum())
        size = abs(found.constant) + float(np.abs(weights[inside]).sum()) + abs(found.value)
        if np.isnan(weights).any() or not most >= found.value - BOUND_ERROR * size - NOTHING:
            raise FormulationError(
                f"{label(coalition)} is worth {found.value:.9g}, and its own bound says at most {most:.9g}:"
                " constant and weights must bound v(S) for every S, among them this one"
            )
        return float(found.constant), weights

    def _found(self, coalitions: list[Coalition]) -> Iterator[float | Bounded]:
        if self.workers == 1 or len(coalitions) == 1:
            return map(partial(_valued, self.value_of), coalitions)
        if self._pool is None or self._pool.broken:
            self._pool = Workers(partial(_valued, self.value_of), self.workers)
        return self._pool.answers(coalitions)

    def _store(self, mask: int, value: float) -> None:
        if self._array is not None:
            self._array[mask] = value
        else:
            self._others[mask] = value

    def close(self) -> None:
        """Ends the processes of the workers; values stay."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}  # a copy has processes of its own

    def __enter__(self) -> CoalitionGame:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CoalitionGame({self.n} players, {len(self.known_coalitions())} of {2**self.n - 1} values known)"


def named(coalition: Iterable[str]) -> Coalition:
    """The players of a coalition, each by what `str` says, as the names of players are. A text is refused: it would be
    one player per letter."""
    if isinstance(coalition, str):
        raise FormulationError(f"a coalition is a set of players, not a text: write ({coalition!r},) for one player")
    return frozenset(map(str, coalition))


def label(coalition: Iterable[str]) -> str:
    """A coalition in words: {A1, A2}."""
    return "{" + ", ".join(sorted(coalition)) + "}"


def checked_players(players: Sequence[str]) -> tuple[str, ...]:
    """The names of players, each there once. Raises DataError."""
    if isinstance(players, (str, set, frozenset)):
        raise FormulationError(f"players is a sequence of names, whose order is that of arrays, not {players!r}")
    names = tuple(str(player) for player in players)
    if not names:
        raise DataError(Fault("players", "a game needs at least one player"))
    for k, player in enumerate(names):
        if not player:
            raise DataError(Fault("players", "the name is empty", k))
        if names.index(player) < k:
            raise DataError(Fault("players", "the name stands twice", k, "player", player, "make names unique"))
    return names


def checked_tolerance(tolerance: float) -> float:
    """`tolerance`; FormulationError where it is no number of at least 0, beside which nothing could be judged."""
    if not (math.isfinite(tolerance) and tolerance >= 0.0):
        raise FormulationError(f"tolerance={tolerance}: it must be finite and at least 0")
    return tolerance


def _read_only(array: FloatArray) -> FloatArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _number(value: Any, table: str, row: str, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(Fault(table, "not a finite number", row, column, value))
    return number


def _listed_only(coalition: Coalition) -> float:
    raise FormulationError(f"the table has no value of {label(coalition)}")


def _valued(value_of: Callable[[Coalition], float | Bounded], coalition: Coalition) -> float | Bounded:
    """What a value function says of a coalition, a number or `Bounded`; errors say of which coalition."""
    try:
        found = value_of(coalition)
    except Exception as error:
        error.add_note(f"while valuing coalition {label(coalition)}")
        raise
    try:
        value = float(found.value if isinstance(found, Bounded) else found)
    except (TypeError, ValueError) as error:
        raise FormulationError(
            f"the value of coalition {label(coalition)} is {found!r}; the function must return a number, or Bounded"
        ) from error
    if not math.isfinite(value):
        raise FormulationError(f"the value of coalition {label(coalition)} is {value}; it must be a finite number")
    return found if isinstance(found, Bounded) else value
