"""Values: computed once, refused where they make no sense, the same on several processes."""

from __future__ import annotations

import copy
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.agents.coalitions.masks import Span, masks_of, rows_of, sizes, sums
from mktopt.agents.coalitions.published import airport, bankruptcy, gloves, majority, unanimity
from mktopt.agents.coalitions.values import CoalitionGame
from mktopt.errors import DataError, Fault, FormulationError, SolverError, UnknownNameError
from tests.agents.coalitions.drawn import NAMES, drawn_market, groups


class Misfit(Exception):
    """An error that cannot be made again of its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def failing(group: frozenset[str]) -> float:
    """A value function that fails in three ways."""
    if "misfit" in group:
        raise Misfit(1, 2)
    if "crash" in group:
        os._exit(1)
    if "data" in group:
        raise DataError(Fault("orders", "no such bus", 3))
    return float(len(group))


def test_each_value_is_computed_once_and_never_that_of_nobody() -> None:
    asked = []

    def value(coalition: frozenset[str]) -> float:
        asked.append(coalition)
        return float(len(coalition)) ** 2

    game = CoalitionGame(["a", "b", "c"], value)
    assert game.value(()) == 0.0
    assert game.value(("b", "a")) == game.value({"a", "b"}) == 4.0
    assert game.values([("a",), ("a", "b"), ("a",)]).tolist() == [1.0, 4.0, 1.0]
    assert game.table().tolist() == [0, 1, 1, 4, 1, 4, 4, 9]
    assert sorted(map(sorted, asked)) == sorted(map(sorted, groups("abc"))) and game.evaluated == 7
    assert game.tabulated


def test_many_players_need_no_list() -> None:
    game = CoalitionGame([f"p{k}" for k in range(300)], lambda coalition: float(len(coalition)))
    assert game.value(game.all) == 300.0
    assert game.coalition(game.mask(("p299", "p0"))) == {"p0", "p299"}
    with pytest.raises(FormulationError, match=r"at most 20 players.*shapley_sampled"):
        game.table()


def test_several_processes_give_the_same_values() -> None:
    with CoalitionGame(["misfit", "crash", "data", "a", "b", "c"], failing, workers=2) as game:
        assert game.values(groups("abc")).tolist() == [failing(group) for group in groups("abc")]
        with pytest.raises(DataError, match="table 'orders', row 3: no such bus") as fault:
            game.values([["a"], ["data"], ["data", "a"]])
        assert fault.value.__notes__ == ["while valuing coalition {data}"]
        assert fault.value.faults == (Fault("orders", "no such bus", 3),)
        with pytest.raises(FormulationError, match="raised Misfit: 1 and 2") as misfit:
            game.values([["misfit"], ["misfit", "data"]])
        assert "in failing" in misfit.value.__notes__[-1]
        assert game.evaluated == 7 and copy.deepcopy(game).value(["a"]) == 1.0
        with pytest.raises(SolverError, match=r"ended without an answer.*workers=1, which shows where"):
            game.values([["crash"], ["crash", "a"]])


def test_what_cannot_be_sent_to_processes_and_what_fails_in_this_one() -> None:
    with (
        CoalitionGame(["a", "b"], lambda coalition: 1.0, workers=2) as closure,
        pytest.raises(FormulationError, match="top level of a module"),
    ):
        closure.table()
    with pytest.raises(Misfit) as alone:
        CoalitionGame(["misfit"], failing).value(["misfit"])
    assert alone.value.__notes__ == ["while valuing coalition {misfit}"]


def test_tables_by_coalition_and_by_mask_are_the_same_game() -> None:
    by_mask = CoalitionGame.from_table(["a", "b"], [0.0, 1.0, 2.0, 5.0])
    by_name = CoalitionGame.from_table(["a", "b"], {("a",): 1.0, ("b",): 2.0, ("b", "a"): 5.0})
    assert np.array_equal(by_mask.table(), by_name.table())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CoalitionGame([], len), DataError, "at least one player"),
        (lambda: CoalitionGame(["a", "a"], len), DataError, "stands twice"),
        (lambda: CoalitionGame("ab", len), FormulationError, "sequence of names"),
        (lambda: CoalitionGame({"a", "b"}, len), FormulationError, "whose order is that of arrays"),
        (lambda: CoalitionGame(["a"], len, workers=0), FormulationError, "workers=0"),
        (lambda: CoalitionGame(["a"], len, workers=1.5), FormulationError, "workers=1.5"),
        (lambda: CoalitionGame(["a"], [0.0, 1.0]), FormulationError, "no function.*from_table"),
        (lambda: CoalitionGame(["a"], lambda s: None).value(["a"]), FormulationError, r"\{a\} is None.*a number"),
        (lambda: CoalitionGame([1, 2], len).value([3]), UnknownNameError, "Known: 1, 2"),
        (lambda: CoalitionGame.from_table(["a"], {("a",): None}), DataError, r"row '\{a\}'.*not a finite"),
        (lambda: CoalitionGame(["a", "b"], len).vector("ab"), DataError, r"shape \(2,\), not \(\)"),
        (lambda: CoalitionGame(["a", "b"], len).vector(["x", 1.0]), DataError, "row 'a'.*value 'x'"),
        (lambda: CoalitionGame(["a", "b"], len).vector(pd.Series([1.0, 2, 3], list("aab"))), DataError, "stands twice"),
        (lambda: airport({"a": np.inf}), DataError, "nor infinite"),
        (lambda: majority(0.0, {"a": 1.0}), DataError, "quota must be above 0"),
        (lambda: majority(np.nan, {"a": 1.0}), DataError, "quota must be above 0"),
        (lambda: unanimity(["a"], []), DataError, "carrier is empty"),
        (lambda: CoalitionGame(["ann", "bob"], len).value(["bop"]), UnknownNameError, "did you mean 'bob'"),
        (lambda: CoalitionGame(["a"], len).value("a"), FormulationError, r"write \('a',\)"),
        (lambda: CoalitionGame(["a"], lambda s: float("nan")).value(["a"]), FormulationError, r"\{a\} is nan"),
        (lambda: CoalitionGame.from_table(["a", "b"], {("a",): 1.0}), DataError, "2 of 3 coalitions"),
        (lambda: CoalitionGame.from_table(["a"], {("a",): np.inf}), DataError, "not a finite"),
        (lambda: CoalitionGame.from_table(["a"], [0.0, 1.0, 2.0]), DataError, r"shape \(2,\), this one \(3,\)"),
        (lambda: CoalitionGame.from_table(["a"], [1.0, 1.0]), DataError, "empty coalition must be worth 0"),
        (lambda: CoalitionGame.from_table(list(NAMES), [0.0]), FormulationError, "at most 20"),
        (lambda: CoalitionGame(["a", "b"], len).vector({"a": 1.0}), DataError, "row 'b'.*no payoff"),
        (lambda: CoalitionGame(["a", "b"], len).vector([1.0, np.nan]), DataError, "not a finite"),
        (lambda: CoalitionGame(["a", "b"], len).vector([1.0]), DataError, r"shape \(2,\), not \(1,\)"),
        (lambda: bankruptcy(10.0, {"a": 1.0}), DataError, "between 0 and the sum"),
        (lambda: airport({"a": -1.0}), DataError, "must not be negative"),
        (lambda: unanimity(["a"], ["b"]), UnknownNameError, "unknown player 'b'"),
    ],
)
def test_bad_input_is_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_published_games_are_worth_what_they_say() -> None:
    assert gloves(["l1", "l2"], ["r"]).value(["l1", "l2", "r"]) == 1.0
    assert airport({"a": 1.0, "b": 3.0}).value(["a", "b"]) == -3.0
    assert bankruptcy(200.0, {"a": 100.0, "b": 200.0, "c": 300.0}).value(["b", "c"]) == 100.0
    assert majority(3.0, {"a": 2.0, "b": 1.0, "c": 1.0}).value(["b", "c"]) == 0.0
    assert unanimity(["a", "b", "c"], ["a", "c"]).value(["a", "c"]) == 1.0


def test_payoffs_are_taken_by_name_or_in_order() -> None:
    game = CoalitionGame(["a", "b"], len)
    assert CoalitionGame([1, 2], len).value([2, 1, 2]) == 2.0  # names are what str says of them
    for payoffs in ({"b": 2, "a": 1}, pd.Series({"b": 2.0, "a": 1.0}), [1, 2], np.array([1.0, 2.0])):
        assert game.vector(payoffs).tolist() == [1.0, 2.0]


def test_bounds_of_a_market_hold_for_all_coalitions() -> None:
    game = drawn_market(6, 0).game()
    values = game.table()
    for constant, weights in game.bounds:
        assert (constant + sums(weights) >= values - 1e-12).all()


@given(st.integers(1, 70), st.integers(0, 2**32))
def test_masks_rows_and_spans(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(size=(7, n)) < 0.5
    assert np.array_equal(rows_of(masks_of(rows), n), rows)
    span = Span(n)
    for row in rows:
        before = span.rank
        assert span.outside(row[None])[0] == span.add(row) == (span.rank > before)
    assert span.rank == np.linalg.matrix_rank(rows)
    if n <= 8:
        every = rows_of(range(2**n), n)
        assert np.array_equal(span.all_outside(), span.outside(every))
        assert np.array_equal(sizes(n), every.sum(axis=1))
