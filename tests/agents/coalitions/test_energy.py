"""The energy game: two agents on paper, the declared model, bounds of all values, Owen payments in the core."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.coalitions import energy as energy_module
from mktopt.agents.coalitions.core import in_core
from mktopt.agents.coalitions.energy import EnergyGame
from mktopt.agents.coalitions.masks import FloatArray, rows_of, sums
from mktopt.agents.coalitions.nucleolus import kohlberg, nucleolus
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.errors import DataError, FormulationError, UnknownNameError
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from tests.agents.coalitions.wired import HOURS, crossed, declared, drawn, firm, main_grid, star

RHO, RETAIL, FEED_IN = 0.01, 0.2, 0.08
SPREAD, SUM = RETAIL - FEED_IN, RETAIL + FEED_IN


def pair(give: float = 80.0, need: float = 80.0, **wire: object) -> tuple[Network, Orders]:
    """`a` has what `b` needs, and a wire goes from `a` to `b`."""
    wires = pd.DataFrame([{"from_bus": "a", "to_bus": "b", "rho": RHO, **wire}])
    steps = pd.concat([main_grid(RETAIL, FEED_IN), firm({"a": give, "b": -need})], ignore_index=True)
    return star(["a", "b"], wires), Orders.from_steps(steps)


def saving(game: EnergyGame) -> float:
    """What all have more together than each alone [$]."""
    return float(game.values([game.players])[0] - game.values([[player] for player in game.players]).sum())


def test_two_agents_on_paper() -> None:
    """Neither is satisfied, so c = f at a and r at b: f* = (r - f) / (rho (r + f)), and half of it gained."""
    game = EnergyGame(*pair())
    gain = SPREAD**2 / (2 * RHO * SUM)
    assert game.values([["a"], ["b"], ["a", "b"]]) == pytest.approx([6.4, -16.0, gain - 9.6], rel=1e-9)
    assert game.flows_kw()[-1, 0] == pytest.approx(SPREAD / (RHO * SUM), rel=1e-5)
    paid = game.payments().set_index("player")
    assert paid["own_surplus"].to_numpy() == pytest.approx(0.0, abs=1e-12)
    assert paid["endowment"].to_dict() == pytest.approx({"a": 6.4, "b": -16.0}, rel=1e-9)
    assert paid["rent"].to_dict() == pytest.approx({"a": gain / 2, "b": gain / 2}, rel=1e-9)


def test_a_rating_and_an_endowment_on_paper() -> None:
    """10 kW at most: gain (r - f) 10 - rho (r + f) 10^2 / 2. With 5 kW to give, f + rho f^2 / 2 = 5 and the price of a
    rises until marginal losses are the spread: c_a (1 + rho f) = r (1 - rho f)."""
    rated = EnergyGame(*pair(rating_kva=10.0))
    assert saving(rated) == pytest.approx(SPREAD * 10 - RHO * SUM * 50, rel=1e-9)
    scarce = EnergyGame(*pair(give=5.0))
    flow = (np.sqrt(1 + 2 * RHO * 5) - 1) / RHO
    assert saving(scarce) == pytest.approx(RETAIL * (flow - RHO * flow**2 / 2) - FEED_IN * 5, rel=1e-9)
    at_a, at_b = scarce.prices()[1:, 0]
    assert at_a == pytest.approx(RETAIL * (1 - RHO * flow) / (1 + RHO * flow), rel=1e-6)
    assert at_b == pytest.approx(RETAIL)
    free = EnergyGame(*pair(give=5.0, rho=0.0))
    assert saving(free) == pytest.approx(SPREAD * 5, rel=1e-9)


def test_a_third_party_is_paid_for_its_wire_alone() -> None:
    game = EnergyGame(*pair(owner="c"))
    gain = SPREAD**2 / (2 * RHO * SUM)
    assert game.players == ("a", "b", "c")
    groups = [["c"], ["a", "c"], ["a", "b"], ["a", "b", "c"]]
    assert game.values(groups) == pytest.approx([0.0, 6.4, -9.6, gain - 9.6], rel=1e-9)
    paid = game.payments().set_index("player")
    assert paid.loc["c"].to_numpy() == pytest.approx([0.0, 0.0, gain, gain], rel=1e-9)
    # alone with the owner of the wire, and without it
    assert game.payments(["a", "b"])["rent"].to_numpy() == pytest.approx(0.0)
    assert game.payments(["a", "b"])["total"].sum() == pytest.approx(-9.6, rel=1e-9)


def test_elastic_orders_on_paper() -> None:
    """A generator at a with cost 0.1 + 0.01 q beside a bid of b that falls from 0.18; no losses: they meet at 0.14."""
    network, _ = pair(rho=0.0)
    frame = pd.DataFrame({
        "order": ["sun", "heat"], "participant": ["a", "b"], "bus": ["a", "b"], "side": ["offer", "bid"],
        "q_max_kw": 10.0, "price_min": [0.1, 0.08], "price_max": [0.2, 0.18],
    })  # fmt: skip
    orders = Orders.from_steps(main_grid(RETAIL, FEED_IN)).merge(Orders.from_curves(frame))
    game = EnergyGame(network, orders)
    # alone: a has no use for its generator (0.1 > 0.08), b pays 0.2 for what is worth 0.18
    assert game.values([["a"], ["b"], ["a", "b"]]) == pytest.approx([0.0, 0.0, 0.08 * 4 / 2], abs=1e-9)
    assert game.prices()[1:, 0] == pytest.approx([0.14, 0.14], rel=1e-6)
    assert game.payments()[["own_surplus", "endowment", "rent"]].to_numpy() == pytest.approx(
        np.array([[0.08, 0.0, 0.0], [0.08, 0.0, 0.0]]), abs=1e-8
    )


@pytest.mark.parametrize(("n", "seed"), [(8, 348), (9, 268), (9, 655)])
def test_loops_of_wires_without_losses(n: int, seed: int) -> None:
    """Where any power could go round, and prices of many buses are one: the hardest of a thousand that were drawn."""
    network, orders = drawn(n, seed)
    game = EnergyGame(network, orders)
    found = game(frozenset(game.players))
    assert found.value == pytest.approx(declared(network, orders, game.players).value, abs=1e-7)
    assert sum(found.weights.values()) - found.value == pytest.approx(0.0, abs=1e-7 * saving(game))


@pytest.mark.parametrize(("wire", "gain"), [
    ({"rating_kva": 1e-3}, SPREAD * 1e-3), ({"rho": 1e-12}, SPREAD * 80), ({"rho": 1e3}, SPREAD**2 / (2e3 * SUM)),
])  # fmt: skip
def test_wires_of_any_size(wire: dict[str, float], gain: float) -> None:
    assert saving(EnergyGame(*pair(**wire))) == pytest.approx(gain, rel=2e-5)


@given(st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=3)
def test_values_are_those_of_the_declared_model(n: int, seed: int) -> None:
    network, orders = drawn(n, seed)
    game = EnergyGame(network, orders)
    rng = np.random.default_rng(seed)
    some = [player for player in game.players if rng.random() < 0.6] or [game.players[0]]
    for group in (list(game.players), some):
        assert game.values([group])[0] == pytest.approx(declared(network, orders, group).value, abs=1e-8)


@given(st.integers(2, 4), st.integers(0, 2**32))
@settings(max_examples=4)
def test_bounds_hold_and_owen_payments_are_in_the_core(n: int, seed: int) -> None:
    _bounds_hold(EnergyGame(*drawn(n, seed)))


@given(st.integers(0, 2**32))
@settings(max_examples=4)
def test_agents_at_many_buses_and_wires_of_many_owners(seed: int) -> None:
    """The same bounds, and a group drawn of it has the value of the declared model."""
    network, orders = crossed(seed)
    energy = EnergyGame(network, orders)
    _bounds_hold(energy)
    some = energy.players[: 1 + seed % len(energy.players)]
    assert energy.values([some])[0] == pytest.approx(declared(network, orders, some).value, abs=1e-8)


def _bounds_hold(energy: EnergyGame) -> None:
    """Every coalition's bound against every value; the bound of S at S is v(S)."""
    game = energy.game()
    values, small = game.table(), 1e-7 * max(saving(energy), 1e-3)
    assert len(game.bounds) == len(values) - 1
    for mask, row in zip(range(1, len(values)), rows_of(range(1, len(values)), game.n), strict=True):
        found = energy(frozenset(np.array(game.players)[row]))
        upper = sums(np.array([found.weights[player] for player in game.players]))
        assert (values[1:] <= upper[1:] + 1e-12).all()
        assert upper[mask] == pytest.approx(values[mask], abs=small)
    paid = energy.payments().set_index("player")["total"]
    assert in_core(game, paid), str(in_core(game, paid))
    assert bool(supporting_payments(game))
    _superadditive(values, small)


def _superadditive(values: FloatArray, small: float) -> None:
    """v(S + T) >= v(S) + v(T) for all disjoint S, T."""
    masks = np.arange(len(values))
    apart = (masks[:, None] & masks) == 0
    assert (values[masks[:, None] | masks] - values[:, None] - values)[apart].min() >= -small


@given(st.integers(2, 4), st.integers(0, 2**32))
@settings(max_examples=2)
def test_payments_of_the_declared_models_duals_are_in_the_core_too(n: int, seed: int) -> None:
    network, orders = drawn(n, seed)
    energy = EnergyGame(network, orders)
    found = declared(network, orders, energy.players)
    game = energy.game()
    verdict = in_core(game, found.payments.set_index("player")["total"], tolerance=1e-6)
    assert verdict, str(verdict)
    assert found.payments["rent"].min() >= -1e-6


@given(st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=3)
def test_without_wires_the_game_is_additive(n: int, seed: int) -> None:
    network, orders = drawn(n, seed)
    bare = network.replace(branches=network.branches[network.branches["kind"] != "private"])
    energy = EnergyGame(bare, orders)
    values = energy.game().table()
    at_home = len(set(zip(orders.orders["participant"], orders.orders["bus"], strict=True))) == len(energy.players) + 1
    if at_home:  # an order at another's bus joins it there without a wire
        assert values == pytest.approx(sums(values[1 << np.arange(len(energy.players))]), abs=1e-12)
    assert energy.programs == 0


@given(st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=4)
def test_the_plan_of_a_coalition_earns_its_value(n: int, seed: int) -> None:
    """What it sells at feed-in less what it buys at retail and what its orders cost; power is lost in wires alone."""
    network, orders = drawn(n, seed)
    energy = EnergyGame(network, orders)
    some = energy.players[: 1 + seed % len(energy.players)]
    plan = energy.plan(some)
    earned = np.where(plan.exchange_kw > 0.0, FEED_IN, RETAIL) * plan.exchange_kw
    assert (earned.sum(axis=0) - plan.cost) @ np.array(HOURS) == pytest.approx(energy.values([some])[0], abs=1e-8)
    assert plan.flows_kw == pytest.approx(energy.flows_kw(some))


def test_the_nucleolus_of_four() -> None:
    game = EnergyGame(*drawn(4, 7)).game()
    found = nucleolus(game)
    assert found.proved
    assert kohlberg(game, found.payoffs)


def test_prices_are_what_one_more_kwh_is_worth() -> None:
    """Central differences of v(N) in the endowment of an agent that is neither short nor rich."""
    step = 1e-3
    more, less = (EnergyGame(*pair(give=5.0 + change)).values([["a", "b"]])[0] for change in (step, -step))
    price = EnergyGame(*pair(give=5.0)).prices()[1, 0]
    assert (more - less) / (2 * step) == pytest.approx(price, rel=1e-6)


def test_periods_add_up_by_their_hours() -> None:
    network, orders = pair()
    twice = network.replace(hours=np.array(HOURS))
    both = Orders.from_steps(pd.concat([
        main_grid(RETAIL, FEED_IN, 2), firm({"a": 80.0, "b": -80.0}), firm({"a": 5.0, "b": -80.0}, 1)
    ], ignore_index=True))  # fmt: skip
    later = EnergyGame(*pair(give=5.0))
    assert saving(EnergyGame(twice, both)) == pytest.approx(
        HOURS[0] * saving(EnergyGame(network, orders)) + HOURS[1] * saving(later), rel=1e-9
    )
    # the second period at one price both ways: wires bring nothing
    flat = EnergyGame(twice, both, retail=[RETAIL, FEED_IN])
    assert saving(flat) == pytest.approx(saving(EnergyGame(network, orders)), rel=1e-9)


def test_it_can_be_sent_to_other_processes() -> None:
    energy = EnergyGame(*drawn(3, 5))
    energy.values([energy.players])
    copy = pickle.loads(pickle.dumps(energy))  # noqa: S301 - our own
    for group in (energy.players, energy.players[:2]):
        assert copy(frozenset(group)) == energy(frozenset(group))


def test_what_is_kept_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one part, and values asked for before and after their bounds."""
    market, groups = drawn(4, 5), [frozenset(group) for group in (["a0", "a1"], ["a1", "a2", "a3"], ["a0", "a1"])]
    roomy = EnergyGame(*market)
    bounded = [roomy(group) for group in groups]
    monkeypatch.setattr(energy_module, "_KEPT", 700.0)
    narrow = EnergyGame(*market)
    assert narrow.values(groups) == pytest.approx([one.value for one in bounded], rel=1e-9)
    assert [narrow(group) for group in groups] == bounded
    assert narrow.values(groups).tolist() == [one.value for one in bounded]
    assert narrow.programs > roomy.programs


def test_refusals_name_the_fault() -> None:
    network, orders = pair()
    with pytest.raises(DataError, match="no public line joins 1 .* 'g': b"):
        EnergyGame(network.replace(branches=network.branches[network.branches["branch"] != "g-b"]), orders)
    game = EnergyGame(network, orders)
    with pytest.raises(UnknownNameError, match="'aa'"):
        game.values([["aa"]])
    with pytest.raises(FormulationError, match="not a text"):
        game.values(["a"])
    with pytest.raises(FormulationError, match="worth 0"):
        game(frozenset())
    with pytest.raises(DataError, match="below feed-in"):
        EnergyGame(network, orders, retail=0.05)
    with pytest.raises(DataError, match="nobody plays"):
        EnergyGame(star(["a"]), Orders.from_steps(main_grid(RETAIL, FEED_IN)))
    endless = pd.DataFrame(
        [{"order": "sun", "participant": "a", "bus": "a", "side": "offer", "width_kw": np.inf, "price": 0.1}]
    )
    with pytest.raises(DataError, match="without an end"):
        EnergyGame(network, orders.merge(Orders.from_steps(endless)))
    dear = EnergyGame(network, orders.merge(Orders.from_steps(endless.assign(price=0.3))))
    assert saving(dear) == pytest.approx(saving(game))
