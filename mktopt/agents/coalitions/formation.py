"""Which groups form: merging and splitting until nobody gains by either.

    merge   groups T_1 .. T_k become one      where  v(T_1 + .. + T_k | after) > sum_j v(T_j | before)
    split   a group becomes T_1 .. T_k        where  sum_j v(T_j | after) > v(T_1 + .. + T_k | before)

As utility is transferable, more for a group can be shared so that each of its members has more. The merge of greatest
gain goes first; where none pays, the split of greatest gain. Where groups are independent the total rises with each
step, so that the end is reached; where they are not, what some gain others may lose, and the same partition may come
again, which is said. judged_by="all" lets only such steps pass that raise the total of all groups, and always ends.
References: Apt, Witzel, A generic approach to coalition formation, Int. Game Theory Rev. 11 (2009); Saad et al.,
IEEE Signal Process. Mag. 26(5) (2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from mktopt.agents.coalitions.partition import Partition, PartitionGame, checked_partition, partitions, words
from mktopt.agents.coalitions.values import Coalition, CoalitionGame, checked_tolerance, label
from mktopt.errors import FormulationError, unknown_name

JUDGES = ("involved", "all")
# Into any number of pieces 10 players fall in 115,975 ways, into two 20 players in 524,287.
_MOST = {None: 10, 2: 20}


@dataclass(frozen=True, eq=False)
class Formation:
    """Where merging and splitting ended.

    partition: the groups; stable: no merge and no split into at most `pieces` (None: any number) pays; ended: why it
    stopped, in words; worth: of each group [$], by its name; steps: step, move, before, after, gain [$].
    """

    partition: Partition
    stable: bool
    ended: str
    pieces: int | None
    worth: pd.Series[float]
    steps: pd.DataFrame


def merge_and_split(
    game: CoalitionGame | PartitionGame,
    start: Iterable[Iterable[str]] | None = None,
    *,
    pieces: int | None = None,
    judged_by: str = "involved",
    tolerance: float = 1e-9,
    most: int = 1000,
) -> Formation:
    """The partition that merging and splitting reach from `start` (None: everyone alone).

    pieces: how many groups a merge unites, or a split leaves, at most; 2 is quicker, and takes more players, but may
    stop where three would gain by uniting at once. judged_by: "involved" (those who merge or split) or "all".
    tolerance: share of what is at stake that a gain must exceed. most: steps after which it gives up, and says so.
    Raises FormulationError for a group too large to try all its splits, DataError for a start that is no partition.
    """
    if judged_by not in JUDGES:
        raise unknown_name("judge", judged_by, JUDGES)
    if pieces is not None and pieces < 2:
        raise FormulationError(f"pieces={pieces}: a merge takes at least two groups, a split leaves at least two")
    checked_tolerance(tolerance)
    alone = [[player] for player in game.players]
    here = checked_partition(game.players, alone if start is None else start)
    stakes = _Stakes(game, judged_by == "all", tolerance)
    seen, steps = {here}, list[dict[str, object]]()
    always = "" if stakes.everyone else "; judged_by='all' always ends"
    ended, stable = f"gave up after {most} steps{always}; raise `most`", False
    while len(steps) < most:
        move = _best(stakes, here, _merges(here, pieces)) or _best(stakes, here, _splits(here, pieces))
        if move is None:
            ended, stable = "no merge and no split pays", True
            break
        old, new, gain = move
        here = (here - old) | new
        kind = "merge" if len(old) > 1 else "split"
        steps.append({"step": len(steps), "move": kind, "before": words(old), "after": words(new), "gain": gain})
        if here in seen:
            ended = f"{words(here)} came again: groups that are not independent go round{always}"
            break
        seen.add(here)
    order = sorted(here, key=sorted)
    index = pd.Index([label(group) for group in order], name="group")
    worth = pd.Series([stakes.of(group, here) for group in order], index=index, name="worth", dtype=float)
    frame = pd.DataFrame(steps, columns=["step", "move", "before", "after", "gain"])
    return Formation(here, stable, ended, pieces, worth, frame)


_Move = tuple[Partition, Partition]


@dataclass(frozen=True)
class _Stakes:
    """What moves are worth in a game."""

    game: CoalitionGame | PartitionGame
    everyone: bool
    tolerance: float

    def of(self, group: Coalition, partition: Partition) -> float:
        """v(S | p), or v(S) where groups are independent."""
        if isinstance(self.game, PartitionGame):
            return self.game.worth(group, partition)
        return self.game.value(group)

    def gain(self, here: Partition, old: Partition, new: Partition) -> float:
        """What a move brings [$], 0 where that is rounding."""
        there = (here - old) | new
        before = [self.of(group, here) for group in (here if self.everyone else old)]
        after = [self.of(group, there) for group in (there if self.everyone else new)]
        gain = sum(after) - sum(before)
        return gain if gain > self.tolerance * sum(map(abs, [*before, *after])) else 0.0


def _best(stakes: _Stakes, here: Partition, moves: Iterator[_Move]) -> tuple[Partition, Partition, float] | None:
    """The move of greatest gain; None where none pays."""
    best: tuple[Partition, Partition, float] | None = None
    for old, new in moves:
        gain = stakes.gain(here, old, new)
        if gain > (best[2] if best else 0.0):
            best = old, new, gain
    return best


def _merges(here: Partition, pieces: int | None) -> Iterator[_Move]:
    groups = sorted(here, key=sorted)
    if pieces is None and len(groups) > _MOST[2]:
        raise FormulationError(
            f"{len(groups)} groups merge in 2^{len(groups)} ways; at most {_MOST[2]} groups are tried in any number:"
            " use pieces=2"
        )
    for count in range(2, min(len(groups), pieces or len(groups)) + 1):
        for old in combinations(groups, count):
            yield frozenset(old), frozenset([frozenset().union(*old)])


def _splits(here: Partition, pieces: int | None) -> Iterator[_Move]:
    for group in sorted(here, key=sorted):
        limit = _MOST[2] if pieces == 2 else _MOST[None]
        if len(group) > limit:
            raise FormulationError(
                f"a group of {len(group)} players splits in too many ways: into {pieces or 'any number of'} pieces at"
                f" most {limit} players are tried" + ("" if pieces == 2 else "; use pieces=2")
            )
        for parts in partitions(sorted(group), pieces):
            if len(parts) > 1:
                yield frozenset([group]), frozenset(map(frozenset, parts))
