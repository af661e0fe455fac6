"""An auction of prosumers as a clearing: tables that agree, money that adds up, a certificate that can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.equilibrium import deviation_gain
from mktopt.clearing.equilibrium_certificate import natural_residual

TWO = pd.DataFrame({
    "agent": ["ann", "bob", "cy"],
    "bus": ["far", "far", "near"],
    "aggregator": ["F", "F", "N"],
    "utility": ["log", "log", "quadratic"],
    "a": [2.0, 1.0, 0.5],
    "b": [4.0, 3.0, 0.05],
    "generation_kw": [0.0, 6.0, 1.0],
})  # fmt: skip


def line(rating_kva: float) -> mo.Network:
    """source - near - far, the last branch limited."""
    buses = pd.DataFrame({"bus": ["source", "near", "far"], "base_kv": 0.4})
    branches = pd.DataFrame({
        "branch": ["a", "b"], "from_bus": ["source", "near"], "to_bus": ["near", "far"],
        "r_ohm": [0.01, 0.01], "x_ohm": [0.01, 0.01], "rating_kva": [np.inf, rating_kva],
    })  # fmt: skip
    return mo.Network(buses, branches, source_bus="source", name="line")


def cleared(rating_kva: float = np.inf, c0: float = 0.1, table: pd.DataFrame = TWO, **options) -> mo.Clearing:
    return mo.clear("gne", line(rating_kva), mo.Prosumers(table), c0=c0, **options)


def test_without_limits_everybody_faces_c0() -> None:
    clearing = cleared()
    x = np.array([2.0 / 0.1 - 4.0, 1.0 / 0.1 - 3.0, (0.5 - 0.1) / 0.05])
    assert clearing.agents is not None
    assert clearing.aggregators is not None
    np.testing.assert_allclose(clearing.agents["consumption_kw"], x, rtol=1e-7)
    np.testing.assert_allclose(clearing.aggregators["unit_cost"], 0.1, rtol=1e-7)
    assert clearing.quantity("upstream") == pytest.approx(x.sum() - 7.0, rel=1e-7)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.certificate.rent == pytest.approx(0.0, abs=1e-6)


def test_a_limit_on_paper() -> None:
    # F may draw 5 kW and has 6 of its own: 11 kW for two. 2/(4+x) = 1/(3+11-x)  ->  x = 8, c = 1/6.
    clearing = cleared(rating_kva=5.0)
    assert clearing.agents is not None
    np.testing.assert_allclose(clearing.agents["consumption_kw"][:2], [8.0, 3.0], rtol=1e-6)
    assert clearing.price("far") == pytest.approx(1 / 6, rel=1e-6)
    assert clearing.price("near") == pytest.approx(0.1, rel=1e-6)
    assert clearing.certificate.rent == pytest.approx(5.0 * (1 / 6 - 0.1), rel=1e-5)
    assert list(clearing.agents["role"]) == ["buyer", "seller", "buyer"]
    assert clearing.price_parts.loc[clearing.price_parts["bus"] == "far", "congestion"].iloc[0] == pytest.approx(
        1 / 6 - 0.1, rel=1e-5
    )


@pytest.mark.parametrize("method", ["newton", "projection", "extragradient", "accelerated", "central"])
def test_methods_agree_and_prove_themselves(method: str) -> None:
    clearing = cleared(rating_kva=5.0, method=method)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.price("far") == pytest.approx(1 / 6, rel=1e-6)
    assert clearing.equilibrium is not None
    assert clearing.equilibrium.converged


def test_an_arbitrary_allocation_that_exhausts_p_fails() -> None:
    # ann and bob swap half a kW: the coupling row holds as before, and with it nobody could deviate upwards.
    clearing = cleared(rating_kva=5.0)
    assert clearing.agents is not None
    agents = clearing.agents.copy()
    shift = np.array([0.5, -0.5, 0.0])
    x = agents["consumption_kw"] + shift
    prosumers = mo.Prosumers(TWO)
    agents = agents.assign(
        consumption_kw=x, p_kw=agents["p_kw"] + shift, utility=prosumers.utility(x),
        payment=agents["unit_cost"] * (agents["p_kw"] + shift),
    )  # fmt: skip
    dispatch = clearing.dispatch.copy()
    dispatch.loc[:2, "quantity_kw"] = agents["p_kw"].abs().to_numpy()
    dispatch.loc[:2, "payment"] = agents["payment"].to_numpy()
    welfare = float(agents["utility"].sum()) - 0.1 * clearing.quantity("upstream")
    forged = dataclasses.replace(clearing, agents=agents, dispatch=dispatch, welfare=welfare)
    assert forged.certificate.failures() == ["gain"]
    lost = prosumers.utility(clearing.agents["consumption_kw"].to_numpy()).sum() - prosumers.utility(x.to_numpy()).sum()
    cost = clearing.agents["unit_cost"].to_numpy()
    gain = deviation_gain(prosumers, x.to_numpy(), cost)
    assert gain.sum() == pytest.approx(lost, rel=1e-6)  # what is not efficient is what somebody could still gain


@pytest.mark.parametrize("column", ["unit_cost", "p_kw"])
def test_a_changed_table_fails(column: str) -> None:
    clearing = cleared(rating_kva=5.0)
    assert clearing.aggregators is not None
    table = clearing.aggregators.copy()
    table.loc[0, column] *= 1.001
    assert not dataclasses.replace(clearing, aggregators=table).certificate.ok()


def test_changed_prices_and_welfare_fail() -> None:
    clearing = cleared(rating_kva=5.0)
    dearer = clearing.prices.assign(price=clearing.prices["price"] * 1.001)
    assert not dataclasses.replace(clearing, prices=dearer).certificate.ok()
    assert dataclasses.replace(clearing, welfare=clearing.welfare * 1.001).certificate.failures() == ["tables"]


def test_the_natural_residual_says_how_far_it_is() -> None:
    clearing = cleared(rating_kva=5.0)
    assert natural_residual(clearing)[0] < 1e-7
    assert clearing.aggregators is not None
    table = clearing.aggregators.copy()
    table.loc[1, "unit_cost"] += 0.01  # N's line is not limited: the projection follows the cost
    off = dataclasses.replace(clearing, aggregators=table)
    for eta in (1.0, 10.0):
        assert natural_residual(off, eta)[0] == pytest.approx(0.01, rel=1e-4)


def test_money_adds_up() -> None:
    clearing = cleared(rating_kva=5.0)
    settlement = clearing.settlement
    assert settlement.budget == pytest.approx(clearing.certificate.rent, rel=1e-6)
    idle = clearing.equilibrium.welfare_without_trade
    gained = settlement.participants["reward"].sum() + settlement.budget
    assert gained == pytest.approx(clearing.welfare - idle, rel=1e-9)
    assert (settlement.participants.set_index("participant")["reward"][["ann", "bob", "cy"]] >= 0).all()
    assert settlement.reward("upstream") == pytest.approx(0.0, abs=1e-12)
    greedier = TWO.assign(a=TWO["a"] * 2)
    assert mo.settle(clearing, mo.Prosumers(greedier)).reward("ann") > settlement.reward("ann")
    with pytest.raises(mo.DataError, match="no true utility"):
        mo.settle(clearing, mo.Prosumers(TWO[:2]))


def test_quadratic_agents_are_the_surplus_markets() -> None:
    table = TWO.assign(utility="quadratic", a=[0.5, 0.4, 0.3], b=[0.02, 0.03, 0.05])
    people = mo.Prosumers(table)
    auction = mo.clear("gne", line(5.0), people, c0=0.1)
    upstream = mo.Orders.from_steps(pd.DataFrame({
        "order": ["import"], "bus": ["source"], "side": ["offer"], "width_kw": [1e3], "price": [0.1],
    }))  # fmt: skip
    pool = mo.clear("surplus", line(5.0), people.to_orders().merge(upstream))
    np.testing.assert_allclose(auction.prices["price"], pool.prices["price"], rtol=1e-6)
    gained = auction.welfare - auction.equilibrium.welfare_without_trade
    assert gained == pytest.approx(pool.welfare, rel=1e-8)


def test_prices_are_the_cost_of_one_more_kwh() -> None:
    for rating in (5.0, 100.0):
        base = cleared(rating_kva=rating)
        for bus, aggregator in (("far", "F"), ("near", "N")):
            step = 1e-3
            less = TWO.copy()
            less.loc[less["aggregator"] == aggregator, "generation_kw"] -= [step] + [0.0] * (
                int((less["aggregator"] == aggregator).sum()) - 1
            ) if aggregator == "N" else [0.0, step]
            fallen = base.welfare - cleared(rating_kva=rating, table=less).welfare
            assert fallen / step == pytest.approx(base.price(bus), rel=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_drawn_auctions_are_proven(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    bus = rng.choice(["source", "near", "far"], n)
    table = pd.DataFrame({
        "agent": [f"a{k}" for k in range(n)], "bus": bus, "utility": rng.choice(["log", "quadratic"], n),
        "a": rng.uniform(0.3, 3.0, n), "b": rng.uniform(0.05, 4.0, n),
        "generation_kw": rng.choice([0.0, 5.0, 20.0], n),
    })  # fmt: skip
    flow = str(rng.choice(["transport", "lindistflow", "distflow"]))
    clearing = mo.clear("gne", line(float(rng.uniform(0.5, 30))), mo.Prosumers(table), c0=0.1, flow=flow)
    assert clearing.certificate.ok(1e-5), (clearing.certificate, clearing.equilibrium)
    assert clearing.certificate.rent >= -1e-7


def test_what_belongs_to_orders_says_so(tmp_path) -> None:
    clearing = cleared()
    with pytest.raises(mo.FormulationError, match="true utilities as Prosumers"):
        mo.settle(clearing, mo.Orders.none())
    clearing.save(tmp_path / "saved")
    again = mo.Clearing.load(tmp_path / "saved")
    assert again.certificate.ok()
    assert again.equilibrium == clearing.equilibrium
    pd.testing.assert_frame_equal(again.agents, clearing.agents)
    assert not (tmp_path / "saved" / "orders.csv").exists()
