"""Groups that are not independent: expectations, their cores, and the partitions that form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.coalitions.core import in_core, least_core
from mktopt.agents.coalitions.formation import merge_and_split
from mktopt.agents.coalitions.partition import RULES, PartitionGame, partitions
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.agents.coalitions.published import gloves, majority
from mktopt.agents.coalitions.values import CoalitionGame
from mktopt.errors import DataError, FormulationError, UnknownNameError
from tests.agents.coalitions.drawn import NAMES, groups, listed, tables


def cournot(n: int, cost: float = 0.0) -> PartitionGame:
    """Firms that merge, with price 1 - Q: of k groups each earns ((1 - c) / (k + 1))^2, whoever is in it."""
    return PartitionGame(NAMES[:n], lambda group, partition: ((1.0 - cost) / (len(partition) + 1)) ** 2)


def drawn(n: int, seed: int) -> PartitionGame:
    rng = np.random.default_rng(seed)
    table = {
        (frozenset(group), frozenset(map(frozenset, parts))): rng.normal() + len(group) ** 1.5
        for parts in partitions(NAMES[:n])
        for group in parts
    }
    return PartitionGame(NAMES[:n], lambda group, partition: table[group, partition])


def test_there_are_as_many_partitions_as_bell_counted() -> None:
    for n, bell in enumerate([1, 1, 2, 5, 15, 52, 203]):
        found = {frozenset(map(frozenset, parts)) for parts in partitions(NAMES[:n])}
        assert len(found) == bell == len(list(partitions(NAMES[:n])))
    assert len(list(partitions(NAMES[:6], 2))) == 2**5  # one in one group, 2^5 - 1 in two


def test_firms_that_leave_a_monopoly_fear_what_the_others_do() -> None:
    """Three firms: 1/4 together. One that leaves has 1/9 against a pair, 1/16 against two; a pair has 1/9."""
    game = cournot(3)
    values = {rule: game.expecting(rule).value(("a",)) for rule in RULES}
    assert values == pytest.approx({"pessimistic": 1 / 16, "optimistic": 1 / 9, "singletons": 1 / 16, "merging": 1 / 9})
    assert all(game.expecting(rule).value(game.players) == pytest.approx(1 / 4) for rule in RULES)
    # 1/12 each: enough for who expects 1/16, not for who hopes for 1/9
    equal = [1 / 12] * 3
    assert in_core(game.expecting("pessimistic"), equal)
    verdict = in_core(game.expecting("optimistic"), equal)
    assert not verdict and verdict.excess == pytest.approx(1 / 9 - 1 / 12) and len(verdict.blocking) == 1
    assert not supporting_payments(game.expecting("optimistic"))  # 3 x 1/9 > 1/4


@settings(max_examples=10)
@given(st.integers(2, 5), st.integers(0, 2**32))
def test_the_more_a_group_hopes_for_the_smaller_the_core(n: int, seed: int) -> None:
    game = drawn(n, seed)
    epsilon = {rule: least_core(game.expecting(rule)).epsilon for rule in RULES}
    for rule in RULES:
        assert epsilon["pessimistic"] - 1e-8 <= epsilon[rule] <= epsilon["optimistic"] + 1e-8
        values = game.expecting(rule).table()
        assert (game.expecting("pessimistic").table() <= values).all()
        assert (game.expecting("optimistic").table() >= values).all()


@given(tables(most=4), st.sampled_from(RULES))
def test_where_groups_are_independent_expectations_do_not_matter(values, rule: str) -> None:
    game = listed(values)
    form = PartitionGame(game.players, lambda group, partition: game.value(group))
    assert np.array_equal(form.expecting(rule).table(), game.table())


@given(st.integers(2, 5), st.integers(0, 2**32))
def test_stable_means_that_no_merge_and_no_split_pays(n: int, seed: int) -> None:
    game = drawn(n, seed)
    found = merge_and_split(game, judged_by="all")
    assert found.stable and (found.steps["gain"] > 0.0).all()
    total = game.total(found.partition)
    start = game.total([[player] for player in game.players])
    assert total == pytest.approx(start + found.steps["gain"].sum())
    for group in found.partition:
        for parts in partitions(sorted(group)):
            after = [*map(frozenset, parts), *(found.partition - {group})]
            assert game.total(after) <= total + 1e-9
    for some in groups(map(str, range(len(found.partition)))):
        merged = [sorted(found.partition, key=sorted)[int(k)] for k in some]
        after = [frozenset().union(*merged), *(found.partition - set(merged))]
        assert game.total(after) <= total + 1e-9


@given(tables(most=5))
def test_independent_groups_always_reach_an_end(values) -> None:
    found = merge_and_split(listed(values))
    assert found.stable and found.ended == "no merge and no split pays"
    assert found.worth.sum() == pytest.approx(values[1 << np.arange(len(values).bit_length() - 1)].sum()
                                              + found.steps["gain"].sum())  # fmt: skip


def test_known_formations() -> None:
    assert merge_and_split(gloves(["l1", "l2"], ["r"])).partition == {frozenset(["l1", "r"]), frozenset(["l2"])}
    assert len(merge_and_split(majority(2, {"a": 1, "b": 1, "c": 1})).partition) == 2
    # three gain only at once: pairs of groups never find it
    three = CoalitionGame(["a", "b", "c"], lambda s: float(len(s) == 3))
    assert merge_and_split(three).partition == {frozenset("abc")}
    assert len(merge_and_split(three, pieces=2).partition) == 3
    # firms: two of three do not merge (1/9 < 2/16), all three do (1/4 > 3/16)
    assert merge_and_split(cournot(3)).partition == {frozenset("abc")}
    assert len(merge_and_split(cournot(3), pieces=2).partition) == 3
    start = merge_and_split(three, [["a", "b", "c"]])
    assert start.stable and start.steps.empty and start.worth.to_dict() == {"{a, b, c}": 1.0}


def test_going_round_is_said() -> None:
    """A pair gains by merging while the third is alone, and by splitting once it is: what it takes from the third
    differs with what that one does."""

    def value(group: frozenset[str], partition: frozenset[frozenset[str]]) -> float:
        shape = len(partition)
        return {3: 1.0, 2: 3.0 if len(group) == 2 else -5.0, 1: -1.0}[shape]

    game = PartitionGame(["a", "b", "c"], value)
    found = merge_and_split(game, [["a", "b"], ["c"]])
    assert not found.stable and "came again" in found.ended
    assert merge_and_split(game, [["a", "b"], ["c"]], judged_by="all").stable


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cournot(3).value(("a",), [("a",), ("b",)]), DataError, "'c'.*in no group"),
        (lambda: cournot(3).value(("a",), [("a", "b"), ("c",)]), DataError, "not one of its groups"),
        (lambda: cournot(2).total([("a", "b"), ("a",)]), DataError, "in two groups"),
        (lambda: cournot(2).total([("a", "b"), ()]), DataError, "a group is empty"),
        (lambda: cournot(2).total([("a", "z")]), UnknownNameError, "unknown player 'z'"),
        (lambda: cournot(2).value("ab", ["ab"]), FormulationError, r"write \('ab',\)"),
        (lambda: cournot(2).total(["a", "b"]), FormulationError, r"write \('a',\)"),
        (lambda: PartitionGame(["a"], lambda s, p: None).total([("a",)]), FormulationError, "is None; it must"),
        (lambda: merge_and_split(cournot(2), tolerance=np.nan), FormulationError, "at least 0"),
        (lambda: cournot(11).expecting("pessimistic"), FormulationError, "at most 10 players"),
        (lambda: cournot(3).expecting("hopeful"), UnknownNameError, "optimistic"),
        (lambda: merge_and_split(cournot(3), judged_by="none"), UnknownNameError, "involved"),
        (lambda: merge_and_split(cournot(3), pieces=1), FormulationError, "at least two"),
        (lambda: merge_and_split(cournot(21)), FormulationError, "use pieces=2"),
        (lambda: merge_and_split(cournot(11), [NAMES[:11]]), FormulationError, "11 players.*use pieces=2"),
        (lambda: PartitionGame(["a"], lambda s, p: np.nan).total([("a",)]), FormulationError, "must be finite"),
    ],
)
def test_bad_input_is_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_it_gives_up_and_says_what_to_raise() -> None:
    found = merge_and_split(CoalitionGame(NAMES[:4], lambda s: len(s) ** 2.0), pieces=2, most=1)
    assert not found.stable and found.ended == "gave up after 1 steps; judged_by='all' always ends; raise `most`"
    assert "judged" not in merge_and_split(cournot(3), judged_by="all", most=0).ended


def test_an_error_says_of_which_group_and_partition() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        PartitionGame(["a", "b"], lambda group, partition: 1 / 0).total([("a",), ("b",)])
    assert caught.value.__notes__ == ["while valuing {a} in {a} {b}"]
