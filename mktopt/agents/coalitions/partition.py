"""Groups that are not independent: what one is worth depends on how the others are organised.

    v(S | p),  p a partition of the players with S in it       partition-function form (Thrall and Lucas, 1963)

Losses on a grid that all share are of this kind. A group that thinks of leaving must expect something of the others:

    pessimistic   v(S) = min over partitions q of N \\ S of v(S | {S} + q)        the largest core
    optimistic    v(S) = max over the same                                       the smallest core
    singletons    the others fall apart;   merging: the others stay together

Each is an ordinary game, with its core, nucleolus and so on; v(N) is the same in all.
References: Thrall, Lucas, Nav. Res. Logist. Q. 10 (1963); Bloch, van den Nouweland, Games Econ. Behav. 88 (2014).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mktopt.agents.coalitions.values import Coalition, CoalitionGame, checked_players, label, named
from mktopt.errors import DataError, Fault, FormulationError, unknown_name

Partition = frozenset[Coalition]

RULES = ("pessimistic", "optimistic", "singletons", "merging")
# Bell numbers grow fast: 10 players have 115,975 partitions and 562,595 groups in them.
MOST_PARTITIONED = 10


class PartitionGame:
    """Players and the value of every group in every partition.

    value: function of a group and the partition that it is in, both frozensets, that gives v(S | p) [$]; it is called
    once for each pair. Raises DataError for names that are empty or stand twice.
    """

    def __init__(self, players: Sequence[str], value: Callable[[Coalition, Partition], float]) -> None:
        self.players = checked_players(players)
        self.value_of = value
        self._known: dict[tuple[Coalition, Partition], float] = {}

    @property
    def n(self) -> int:
        """How many players there are."""
        return len(self.players)

    @property
    def evaluated(self) -> int:
        """How many values were computed."""
        return len(self._known)

    def value(self, coalition: Iterable[str], partition: Iterable[Iterable[str]]) -> float:
        """v(S | p) [$]. Raises DataError where the groups are no partition or S is not one of them, FormulationError
        for a value that is not finite."""
        parts = self.partition(partition)
        group = named(coalition)
        if group not in parts:
            raise DataError(Fault("partition", f"{label(group)} is not one of its groups", words(parts)))
        return self.worth(group, parts)

    def worth(self, group: Coalition, parts: Partition) -> float:
        """v(S | p) [$] of a group and a partition that are known to be such: `value` without its checks."""
        if (group, parts) not in self._known:
            self._known[group, parts] = self._computed(group, parts)
        return self._known[group, parts]

    def _computed(self, group: Coalition, parts: Partition) -> float:
        try:
            found = self.value_of(group, parts)
        except Exception as error:
            error.add_note(f"while valuing {label(group)} in {words(parts)}")
            raise
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = np.nan
        if not np.isfinite(value):
            raise FormulationError(f"the value of {label(group)} in {words(parts)} is {found}; it must be finite")
        return value

    def total(self, partition: Iterable[Iterable[str]]) -> float:
        """What all groups of a partition are worth together [$]."""
        parts = self.partition(partition)
        return sum(self.worth(group, parts) for group in sorted(parts, key=sorted))

    def partition(self, groups: Iterable[Iterable[str]]) -> Partition:
        """`groups` as a partition of the players. Raises DataError where a player is missing or in two groups."""
        return checked_partition(self.players, groups)

    def expecting(self, rule: str) -> CoalitionGame:
        """The ordinary game of groups that expect of the others what `rule` says (see the module).

        Raises UnknownNameError for a rule, and for the first two FormulationError above 10 players.
        """
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        if rule in RULES[:2] and self.n > MOST_PARTITIONED:
            raise FormulationError(
                f"{self.n} players have too many partitions to expect the worst or best of (at most"
                f" {MOST_PARTITIONED} players): use 'singletons' or 'merging', which ask for one each"
            )
        return CoalitionGame(self.players, _Expecting(self, rule))


@dataclass(frozen=True, eq=False)
class _Expecting:
    game: PartitionGame
    rule: str

    def __call__(self, group: Coalition) -> float:
        others = [player for player in self.game.players if player not in group]
        if self.rule == "singletons":
            around: Iterable[list[list[str]]] = [[[player] for player in others]]
        elif self.rule == "merging":
            around = [[others] if others else []]
        else:
            around = partitions(others)
        best = max if self.rule == "optimistic" else min
        return best(self.game.worth(group, frozenset([group, *map(frozenset, rest)])) for rest in around)


def partitions(players: Sequence[str], most: int | None = None) -> Iterator[list[list[str]]]:
    """All partitions of `players`, each once, into at most `most` groups (None: any number); of nobody, one."""
    if not players:
        yield []
        return
    *rest, last = players
    for smaller in partitions(rest, most):
        for k in range(len(smaller)):
            yield [*smaller[:k], [*smaller[k], last], *smaller[k + 1 :]]
        if most is None or len(smaller) < most:
            yield [*smaller, [last]]


def checked_partition(players: Sequence[str], groups: Iterable[Iterable[str]]) -> Partition:
    """`groups` as a partition of `players`; DataError where a player is missing, a stranger or in two groups."""
    listed = [named(group) for group in groups]
    for group in listed:
        if not group:
            raise DataError(Fault("partition", "a group is empty", hint="leave it out"))
    times = Counter(player for group in listed for player in group)
    for player, count in times.items():
        if player not in players:
            raise unknown_name("player", player, players)
        if count > 1:
            raise DataError(Fault("partition", "the player is in two groups", player))
    for player in players:
        if player not in times:
            raise DataError(Fault("partition", "the player is in no group", player, hint="add it, alone if need be"))
    return frozenset(listed)


def words(partition: Iterable[Iterable[str]]) -> str:
    """A partition in words: {A1, A2} {A3}."""
    return " ".join(sorted(label(group) for group in partition))
