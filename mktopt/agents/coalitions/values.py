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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, masks_of
from mktopt.errors import DataError, Fault, FormulationError, unknown_name

Coalition = frozenset[str]
Payoffs = Mapping[str, float] | Sequence[float] | FloatArray | pd.Series

# Above this many players not even an array over all coalitions is held.
MOST_LISTED = 20
# By which share a value may exceed a bound: what a solver leaves.
BOUND_ERROR = 1e-6
# And by how much at least [$], where nothing is worth anything.
NOTHING = 1e-12
# Values are handed to a process in portions: often enough to keep all busy, seldom enough to cost nothing.
_PORTIONS = 8


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
        if workers < 1:
            raise FormulationError(f"workers={workers}: at least one process must compute the values")
        self.value_of, self.workers = value, int(workers)
        self._bit = {player: 1 << k for k, player in enumerate(self.players)}
        self._array: FloatArray | None = np.full(2**self.n, np.nan) if self.n <= MOST_LISTED else None
        self._others: dict[int, float] = {}
        self._store(0, 0.0)
        self.bounds: list[tuple[float, FloatArray]] = []
        self.evaluated = 0
        self._pool: ProcessPoolExecutor | None = None

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
            raise _not_finite(game.coalition(int(mask)), float(values[mask]))
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
            if not math.isfinite(value):
                raise _not_finite(self.coalition(mask), value)
            values[mask] = value
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
        if isinstance(coalition, str):
            raise FormulationError(
                f"a coalition is a set of players, not a text: write ({coalition!r},) for one player"
            )
        found = 0
        for player in coalition:
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
            given = {str(player): float(value) for player, value in payoffs.items()}
            for player in given:
                if player not in self._bit:
                    raise unknown_name("player", player, self.players)
            for player in self.players:
                if player not in given:
                    raise DataError(Fault("payoffs", "the player has no payoff", player, hint="give 0 for nothing"))
            found = np.array([given[player] for player in self.players])
        else:
            found = np.array(payoffs, dtype=float)
        if found.shape != (self.n,):
            raise DataError(Fault("payoffs", f"{self.n} players need shape ({self.n},), not {found.shape}"))
        for k in np.flatnonzero(~np.isfinite(found))[:1]:
            raise DataError(Fault("payoffs", "not a finite number", self.players[k], "payoff", float(found[k])))
        return found

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
        if not len(masks):
            return
        coalitions = [self.coalition(int(mask)) for mask in masks]
        self.evaluated += len(masks)
        for mask, coalition, found in zip(masks, coalitions, self._found(coalitions), strict=True):
            value = found.value if isinstance(found, Bounded) else float(found)
            if not math.isfinite(value):
                raise FormulationError(
                    f"the value of coalition {label(coalition)} is {value}; it must be a finite number"
                )
            self._store(int(mask), value)
            if isinstance(found, Bounded):
                self.bounds.append(self._bound(coalition, found))

    def _bound(self, coalition: Coalition, found: Bounded) -> tuple[float, FloatArray]:
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

    def _found(self, coalitions: list[Coalition]) -> Iterable[float | Bounded]:
        if self.workers == 1 or len(coalitions) == 1:
            return map(self.value_of, coalitions)
        if self._pool is None:
            self._pool = _pool(self.value_of, self.workers)
        portion = max(1, len(coalitions) // (_PORTIONS * self.workers))
        return self._pool.map(_in_worker, coalitions, chunksize=portion)

    def _store(self, mask: int, value: float) -> None:
        if self._array is not None:
            self._array[mask] = value
        else:
            self._others[mask] = value

    def close(self) -> None:
        """Ends the processes of the workers; values stay."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> CoalitionGame:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CoalitionGame({self.n} players, {len(self.known_coalitions())} of {2**self.n - 1} values known)"


def label(coalition: Iterable[str]) -> str:
    """A coalition in words: {A1, A2}."""
    return "{" + ", ".join(sorted(coalition)) + "}"


def checked_players(players: Sequence[str]) -> tuple[str, ...]:
    """The names of players, each there once. Raises DataError."""
    if isinstance(players, str):
        raise FormulationError(f"players is a sequence of names, not the text {players!r}")
    names = tuple(str(player) for player in players)
    if not names:
        raise DataError(Fault("players", "a game needs at least one player"))
    for k, player in enumerate(names):
        if not player:
            raise DataError(Fault("players", "the name is empty", k))
        if names.index(player) < k:
            raise DataError(Fault("players", "the name stands twice", k, "player", player, "make names unique"))
    return names


def _read_only(array: FloatArray) -> FloatArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _not_finite(coalition: Coalition, value: float) -> DataError:
    return DataError(Fault("coalition values", "not a finite number", label(coalition), "value", value))


def _listed_only(coalition: Coalition) -> float:
    raise FormulationError(f"the table has no value of {label(coalition)}")


# -- workers -------------------------------------------------------------------------------------------------------

_HERE: dict[str, Callable[[Coalition], float | Bounded]] = {}


def _pool(value: Any, workers: int) -> ProcessPoolExecutor:
    """Fresh processes, not forks: a solver's threads do not survive a fork."""
    import multiprocessing
    from multiprocessing.reduction import ForkingPickler

    try:
        ForkingPickler.dumps(value)
    except Exception as error:  # whatever an object's own reduction raises
        raise FormulationError(
            f"the value function cannot be sent to other processes ({error}); define it at the top level of a module,"
            " or as a class there with __call__, or use workers=1"
        ) from error
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(value,))


def _begin(value: Callable[[Coalition], float | Bounded]) -> None:
    _HERE["value"] = value


def _in_worker(coalition: Coalition) -> float | Bounded:
    return _HERE["value"](coalition)
