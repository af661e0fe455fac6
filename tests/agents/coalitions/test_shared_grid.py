"""Groups that share the losses of a grid: on paper, equilibria by perturbation, the cooperative clearing, the core."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.agents.coalitions.masks import FloatArray
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.agents.coalitions.shared_grid import LOSSES, SharedGrid
from mktopt.errors import DataError, FormulationError, SolverError, UnknownNameError
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from tests.agents.coalitions.wired import drawn, firm, main_grid, star

RETAIL, FEED_IN, WHOLESALE = 0.2, 0.08, 0.12
TRUNK, SPUR = 0.002, 0.001  # rho [1/kW] of g-x, and of x-a, x-t and g-b


def fork(t_kw: float, private: float = 0.0) -> tuple[Network, Orders]:
    """`a` (10 kW to give) and `t` behind the trunk g-x, `b` (5 kW needed) on a line of its own; a wire from a to b."""
    lines = [("g-x", "g", "x", TRUNK), ("x-a", "x", "a", SPUR), ("x-t", "x", "t", SPUR), ("g-b", "g", "b", SPUR)]
    branches = pd.DataFrame(
        [(*line[:3], 1000.0 * line[3], "line", "") for line in lines]
        + [("a-b", "a", "b", 1000.0 * private, "private", "a+b")],
        columns=["branch", "from_bus", "to_bus", "r_ohm", "kind", "owner"],
    ).assign(x_ohm=1.0)
    network = Network(
        buses=pd.DataFrame({"bus": ["g", "x", "a", "b", "t"], "base_kv": 1.0}), branches=branches, source_bus="g"
    )
    steps = [main_grid(RETAIL, FEED_IN), firm({"a": 10.0, "b": -5.0, "t": t_kw})]
    return network, Orders.from_steps(pd.concat(steps, ignore_index=True))


APART, JOINED = [["a"], ["b"], ["t"]], [["a", "b"], ["t"]]


@pytest.mark.parametrize("losses", LOSSES)
def test_a_merger_of_others_on_paper(losses: str) -> None:
    """`t` needs what `a` gives, and nothing flows over the trunk. Once a feeds b over their wire, it carries what a
    sends: t has 10 of it in F f_t. A need is hurt by the merger, and an endowment in its place is helped.

    Ignored: b is fed in full, f - rho f^2 / 2 = 5. Felt, over a wire without losses: a and b minimise
    SPUR (10 - f)^2 + SPUR (5 - f)^2 + TRUNK f (f - 10), so that f = (15 SPUR + 5 TRUNK) / (2 SPUR + TRUNK) = 6.25 kW.
    """
    rho = 0.0 if losses == "felt" else 0.01
    flow = (15 * SPUR + 5 * TRUNK) / (2 * SPUR + TRUNK) if losses == "felt" else (1 - np.sqrt(1 - 2 * rho * 5)) / rho
    sent, arrives = flow + rho * flow**2 / 2, flow - rho * flow**2 / 2
    needs = SharedGrid(*fork(-10.0, rho), wholesale=WHOLESALE, losses=losses)
    alone, joined = needs.outcome(APART), needs.outcome(JOINED)
    assert joined.private_kw[-1, 0] == pytest.approx(flow, rel=1e-6)
    t_alone, t_joined = alone.groups["worth"].iloc[2], joined.groups["worth"].iloc[1]
    assert t_alone == pytest.approx(-WHOLESALE * (10 + SPUR * 100), rel=1e-9)
    assert t_joined == pytest.approx(-WHOLESALE * (10 + SPUR * 100 + TRUNK * sent * 10), rel=1e-6)
    lost = SPUR * (100 + (10 - sent) ** 2 + (5 - arrives) ** 2) + TRUNK * sent**2
    assert joined.loss_kwh == pytest.approx(lost, rel=1e-6)
    gives = SharedGrid(*fork(10.0, rho), wholesale=WHOLESALE, losses=losses)
    helped = [gives.outcome(parts).groups.set_index("group").loc["{t}", "worth"] for parts in (APART, JOINED)]
    assert helped[1] > helped[0] + 1e-3


def parts_of(players: tuple[str, ...], seed: int) -> list[list[str]]:
    """A partition at random."""
    at = np.random.default_rng(seed).integers(0, 3, len(players))
    return [[player for player, k in zip(players, at, strict=True) if k == here] for here in np.unique(at)]


@given(st.integers(2, 4), st.integers(0, 2**32), st.sampled_from(LOSSES))
@settings(max_examples=4)
def test_shares_sum_to_one_and_worth_to_the_resource_cost(n: int, seed: int, losses: str) -> None:
    game = SharedGrid(*drawn(n, seed), wholesale=WHOLESALE, losses=losses)
    found = game.outcome(parts_of(game.players, seed))
    groups = found.groups
    assert groups["share_kwh"].sum() == pytest.approx(found.loss_kwh, rel=1e-9, abs=1e-12)
    cost = groups["own_cost"].sum() + WHOLESALE * (groups["import_kwh"].sum() + found.loss_kwh)
    assert found.total == pytest.approx(-cost, rel=1e-9, abs=1e-9)


@given(st.integers(2, 4), st.integers(0, 2**32))
@settings(max_examples=4)
def test_no_group_gains_by_choosing_anew_alone(n: int, seed: int) -> None:
    game = SharedGrid(*drawn(n, seed), wholesale=WHOLESALE)
    parts = parts_of(game.players, seed)
    worth = game.outcome(parts).groups.set_index("members")["worth"]
    for group in parts:
        before = worth[tuple(sorted(group))]
        assert game.best_reply(frozenset(group), parts) == pytest.approx(before, abs=1e-7)


def test_other_flows_of_a_group_are_worth_less_to_it() -> None:
    """Worth written out from the formula: with more or less over the wire of a and b, and t as it is, less is left."""

    def worth(flow: float) -> float:
        trunk, lost = 10.0 - 10.0 + flow, 0.01 * flow**2
        a, b = 10.0 - flow - lost / 2, -5.0 + flow - lost / 2
        part = SPUR * a**2 + SPUR * b**2 + TRUNK * (trunk + lost / 2) * -a
        return WHOLESALE * (a + b - part)

    game = SharedGrid(*fork(-10.0, private=0.01), wholesale=WHOLESALE)
    found = game.outcome(JOINED)
    flow = float(found.private_kw[-1, 0])
    assert found.groups["worth"].iloc[0] == pytest.approx(worth(flow), rel=1e-9)
    assert 0.01 < flow < 5.0
    for step in (0.02, -0.02):
        assert worth(flow + step) < worth(flow)
    assert worth(flow + 1e-3) - worth(flow - 1e-3) == pytest.approx(0.0, abs=1e-9)


def _difference(size: float) -> float:
    """Resource cost of the cooperative clearing plus v(N), over the cost of losses."""
    network, orders = fork(-10.0, private=0.01)
    small = Orders(
        orders.orders.assign(minimum_kw=size * orders.orders["minimum_kw"]),
        orders.segments.assign(width_kw=size * orders.segments["width_kw"]),
    )
    cleared = mo.clear("coalition", network, small, behaviour="cooperative", wholesale=WHOLESALE)
    found = SharedGrid(network, small, wholesale=WHOLESALE).outcome([["a", "b", "t"]])
    assert cleared.coalition is not None
    return float((cleared.coalition.resource_cost + found.total) / (WHOLESALE * found.loss_kwh))


def test_all_together_are_the_cooperative_clearing_up_to_losses_of_losses() -> None:
    """A tenth of the power: a tenth of the loss per kW, and a tenth of the difference per loss."""
    whole, tenth = _difference(1.0), _difference(0.1)
    assert abs(whole) < 0.05
    assert abs(tenth) < 0.12 * abs(whole)


@pytest.mark.parametrize("losses", LOSSES)
def test_all_together_have_the_most_where_losses_are_felt(losses: str) -> None:
    """And payments exist under every expectation: the instance is small, and no more is claimed."""
    game = SharedGrid(*fork(-10.0, private=0.01), wholesale=WHOLESALE, losses=losses).game()
    grand = game.value(["a", "b", "t"], [["a", "b", "t"]])
    totals = [game.total(parts) for parts in (APART, JOINED, [["a", "t"], ["b"]], [["b", "t"], ["a"]])]
    if losses == "felt":
        assert max(totals) <= grand + 1e-9
    values = {rule: game.expecting(rule).table() for rule in ("pessimistic", "optimistic")}
    assert (values["pessimistic"] <= values["optimistic"] + 1e-12).all()
    assert values["pessimistic"][-1] == values["optimistic"][-1] == grand
    for rule in values:
        answer = supporting_payments(game.expecting(rule))
        if answer:
            assert answer.payoffs is not None
            assert (_paid(answer.payoffs.to_numpy()) >= values[rule] - 1e-7).all()
        else:
            assert answer.shortfall > 0.0


def _paid(payoffs: FloatArray) -> FloatArray:
    masks = np.arange(2 ** len(payoffs))
    return np.asarray(((masks[:, None] >> np.arange(len(payoffs))) & 1) @ payoffs)


def test_the_eight_nodes_form_groups() -> None:
    """Blind to losses, A1 to A3 join and nobody gains by more; felt losses leave no group that gains by leaving all."""
    case = mo.load_case("eight_node")
    assert case.orders is not None
    blind = SharedGrid(case.network, case.orders, losses="ignored").form(pieces=2)
    assert blind.stable
    assert frozenset({"A1", "A2", "A3"}) in blind.partition
    felt = SharedGrid(case.network, case.orders)
    everyone = frozenset(felt.players)
    total = felt.outcome([everyone]).total
    for group in ({"A1", "A2", "A3"}, {"A4", "A5"}, {"A1"}):
        assert felt.outcome([group, everyone - group]).total <= total + 1e-9


def test_a_rating_that_is_exceeded_is_told() -> None:
    network, orders = fork(-10.0)
    rated = network.replace(branches=network.branches.assign(rating_kva=[50.0, 9.0, 50.0, 50.0, 50.0]))
    game = SharedGrid(rated, orders, WHOLESALE)
    with pytest.warns(NetworkWarning, match=r"overloads 1 public .*: x-a"):
        assert game.outcome(APART).overloaded == ("x-a",)
    game.outcome(JOINED)  # once is enough


def test_where_wasting_would_pay_no_equilibrium_is_claimed() -> None:
    """Lines of rho 0.001 on which 1000 and 500 kW would lose more than themselves: better lost on the way to b."""
    wires = pd.DataFrame([{"from_bus": "a", "to_bus": "b", "rho": 0.0005}])
    steps = pd.concat([main_grid(RETAIL, FEED_IN), firm({"a": 1000.0, "b": 500.0})], ignore_index=True)
    game = SharedGrid(star(["a", "b"], wires), Orders.from_steps(steps), WHOLESALE)
    with pytest.raises(SolverError, match="wasting power"):
        game.outcome([["a", "b"]])


def test_refusals_name_the_fault() -> None:
    network, orders = fork(-10.0)
    with pytest.raises(UnknownNameError, match="'shared'"):
        SharedGrid(network, orders, WHOLESALE, losses="shared")
    with pytest.raises(FormulationError, match="give wholesale"):
        SharedGrid(network, orders)
    with pytest.raises(DataError, match="wholesale is below zero"):
        SharedGrid(network, orders, -0.1)
    shunts = pd.DataFrame({"bus": ["x"], "g_kw": [1.0], "b_kvar": [0.0]})
    with pytest.raises(FormulationError, match="shunts"):
        SharedGrid(network.replace(shunts=shunts), orders, WHOLESALE)
    with pytest.raises(DataError, match="in no group"):
        SharedGrid(network, orders, WHOLESALE).outcome([["a"], ["b"]])
