"""An auction of prosumers as a clearing: tables that agree, money that adds up, a certificate that can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.equilibrium_figures import natural_residual
from mktopt.clearing.equilibrium_tables import Point, agents_table, aggregators_table, dispatch_table

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
    x = clearing.agents["consumption_kw"].to_numpy() + np.array([0.5, -0.5, 0.0])
    prosumers, hours = mo.Prosumers(TWO), clearing.network.hours
    costs, imported = clearing.aggregators["unit_cost"].to_numpy()[None], np.array([clearing.quantity("upstream")])
    point = Point(clearing.aggregators["p_kw"].to_numpy()[None], costs, imported, x[None], {}, {})
    agents = agents_table(prosumers, hours, point, costs[:, prosumers.group])
    forged = dataclasses.replace(
        clearing, agents=agents, aggregators=aggregators_table(prosumers, hours, agents, point),
        dispatch=dispatch_table(clearing.network, agents, point, np.array([0.1])),
        welfare=float(agents["utility"].sum() - 0.1 * imported[0]),
    )  # fmt: skip
    assert forged.certificate.failures() == ["gain"]
    lost = prosumers.utility(clearing.agents["consumption_kw"].to_numpy()).sum() - prosumers.utility(x).sum()
    # what is not efficient is what somebody could still gain
    assert agents["gain"].sum() == pytest.approx(lost, rel=1e-6)


def test_whatever_is_changed_in_a_table_fails() -> None:
    base = cleared(rating_kva=5.0, flow="lindistflow", extra=[lambda model, network: model.p_kw["N", 0] <= 4.0])
    assert base.certificate.ok(), base.certificate
    for name in ("prices", "dispatch", "flows", "voltages", "constraints", "order_prices", "agents", "aggregators"):
        table = getattr(base, name)
        for column in table.columns.difference(["index", "slack", "loss_kw"]):
            values = table[column].to_numpy(object).copy()
            number = isinstance(values[0], float)
            at = int(np.abs(values).argmax()) if number else 0
            values[at] = values[at] * 1.001 + 1e-3 if number else "?"
            forged = table.assign(**{column: values.astype(float) if number else values})
            assert not dataclasses.replace(base, **{name: forged}).certificate.ok(), (name, column)
    found = base.equilibrium
    for other in ({"c0": (0.2,)}, {"anticipating": True}, {"welfare_without_trade": 0.0}):
        assert not dataclasses.replace(base, equilibrium=dataclasses.replace(found, **other)).certificate.ok(), other
    assert dataclasses.replace(base, welfare=base.welfare * 1.001).certificate.failures() == ["tables"]
    unknown = base.prices.assign(price=np.nan)
    assert not dataclasses.replace(base, prices=unknown).certificate.ok()


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


# -- corners, where a proof is easily too strict or too lax ----------------------------------------------------------


def proven(rating_kva: float, method: str, c0: float = 0.1, people: mo.Prosumers | None = None, **options):
    people = mo.Prosumers(TWO) if people is None else people
    clearing = mo.clear("gne", line(rating_kva), people, c0=c0, method=method, **options)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.certificate.gap is not None
    return clearing


def test_where_all_is_sold_every_method_posts_the_greatest_first_marginal_utility() -> None:
    # at 100 $/kWh F sells the 6 kW it has; it would take 1/3 to 100 $/kWh not to consume, and 2/4 is posted
    for method in ("newton", "central", "projection"):
        clearing = proven(np.inf, method, c0=100.0)
        assert clearing.aggregators["unit_cost"].tolist() == pytest.approx([0.5, 0.5], rel=1e-9)
        assert clearing.aggregators["p_kw"].tolist() == pytest.approx([-6.0, -1.0], rel=1e-6)
        assert clearing.price("far") == pytest.approx(100.0)


@pytest.mark.parametrize("method", ["newton", "central"])
def test_what_is_next_to_nothing_is_proven_too(method: str) -> None:
    nobody = mo.Prosumers(TWO.assign(generation_kw=0.0))
    assert proven(np.inf, method, c0=0.9, people=nobody).welfare == pytest.approx(0.0, abs=1e-9)
    free = mo.Prosumers(TWO.assign(utility="quadratic", a=0.5, b=0.05))
    assert proven(np.inf, method, c0=0.0, people=free).agents["consumption_kw"].tolist() == pytest.approx([10.0] * 3)


@pytest.mark.parametrize("method", ["projection", "extragradient"])
def test_prices_fit_the_unit_costs_of_steep_aggregators_too(method: str) -> None:
    # by the last gradient step, prices of F were off by thousands of its residual
    people = mo.Prosumers(TWO.assign(a=[2.0, 1.0, 60.0], b=[0.01, 0.01, 400.0], utility=["log", "log", "log"]))
    clearing = proven(5.0, method, people=people)
    assert clearing.price("far") == pytest.approx(clearing.aggregators["unit_cost"][0], rel=1e-8)


def test_utilities_of_ones_own_are_concave_and_prove_themselves_and_load_with_the_same_function(tmp_path) -> None:
    own = {"root": mo.own_utility("root", _root)}
    people = mo.Prosumers(TWO.assign(utility=["root", "log", "quadratic"]), utilities=own)
    central = proven(5.0, "central", people=people)
    clearing = proven(5.0, "newton", people=people)
    assert clearing.welfare == pytest.approx(central.welfare, rel=1e-9)
    assert not clearing.certificate.local
    clearing.save(tmp_path / "s")
    with pytest.raises(mo.DataError, match="root .load it with Clearing.load.folder, utilities="):
        mo.Clearing.load(tmp_path / "s")
    assert mo.Clearing.load(tmp_path / "s", utilities=own).certificate.ok()
    with pytest.raises(mo.DataError, match="not the one that the market was cleared with"):
        mo.Clearing.load(tmp_path / "s", utilities={"root": mo.own_utility("root", lambda x, a, b: a * (x + b) ** 0.4)})


def _root(x, a, b):
    return a * (x + b) ** 0.5


def test_rows_and_limits_of_a_later_hand_count_in_the_declared_model() -> None:
    def built(method: str = "central"):
        return mo.build("gne", line(5.0), mo.Prosumers(TWO), c0=0.1, method=method)

    limited, held, capped = built(), built(), built()
    limited.p_kw["N", 0].setub(3.0)
    held.p_kw["N", 0].fix(3.0)
    capped.cap = pyo.Constraint(expr=capped.p_kw["N", 0] <= 3.0)
    for model in (limited, held, capped):
        clearing = mo.solve(model)
        assert clearing.aggregators["unit_cost"][1] == pytest.approx(0.3, rel=1e-6)  # a - b x at x = 4
        assert clearing.certificate.ok(), clearing.certificate
        assert clearing.certificate.residual is None  # no projection knows what was not in `extra`
        assert clearing.certificate.rent == pytest.approx(5 * (1 / 6 - 0.1) + 3 * 0.2, rel=1e-6)
    bounded = built("newton")
    bounded.p_kw["N", 0].setub(3.0)
    with pytest.raises(mo.FormulationError, match="fixed or bounded after mktopt.build"):
        mo.solve(bounded)


def test_a_step_so_long_that_any_residual_is_small_proves_nothing() -> None:
    for method in ("paper", "projection"):
        clearing = cleared(rating_kva=5.0, method=method, eta=1e12, max_iterations=20)
        assert not clearing.equilibrium.converged
        assert not clearing.certificate.ok()
        assert clearing.notes[0].startswith("no equilibrium was found")
    assert clearing.certificate.eta < 1e3


@pytest.mark.parametrize("options", [{"max_iterations": 3}, {"tol": 1e-3}, {"eta": 2.0}])
def test_one_solve_takes_no_options_of_iterations(options) -> None:
    with pytest.raises(mo.FormulationError, match="method 'central'"):
        cleared(method="central", **options)
