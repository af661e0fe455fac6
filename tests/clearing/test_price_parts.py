"""Prices in parts: their sum, on paper, where something is open, and flows of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.price_parts import OPEN, PARTS, SHARED
from tests.clearing.markets import affine, congested, grid, meshed, radial, steps
from tests.formulations.physics import grid_of, market, two_bus

EXACT = mo.flow("distflow", exact=True)
LINEAR = ["copperplate", "transport", "dc", "ptdf"]
FLOWS = {
    **{name: mo.flow(name) for name in [*LINEAR, "lindistflow", "distflow", "lossy", "ac"]},
    "free lossy": mo.flow("lossy", physics=False),
    "polygon": mo.flow("lindistflow", sides=8),
    "exact": EXACT,
    "current": mo.flow("distflow", current_limits=True),
    "free source": mo.flow("ac", free_source=True),
}
# What a flow cannot produce in a market without shunts and rows of the user's own.
NEVER = {
    "copperplate": {"loss", "congestion", "voltage", "reactive", "unassigned"},
    **{name: {"loss", "voltage", "reactive", "unassigned"} for name in ("transport", "dc", "ptdf")},
    **{name: {"loss", "unassigned"} for name in ("lindistflow", "polygon")},
    **{name: {"unassigned"} for name in ("exact", "ac", "free source")},
    "lossy": {"voltage", "reactive"},
}


def at(table: pd.DataFrame, bus: str, period: int = 0) -> pd.Series[Any]:
    """The row of a bus and period."""
    return table[(table["bus"] == bus) & (table["period"] == period)].iloc[0]


def assert_they_sum(clearing: mo.Clearing) -> None:
    """Parts to prices, shares to parts, both kinds of prices."""
    kinds = ["active"] if clearing.reactive_prices is None else ["active", "reactive"]
    for of in kinds:
        parts = clearing.price_parts if of == "active" else clearing.reactive_price_parts
        level = float(clearing.prices["price"].abs().max())
        stated = clearing.prices if of == "active" else clearing.reactive_prices
        assert parts["price"].to_numpy() == pytest.approx(stated["price"].to_numpy(), abs=0)
        apart = parts["price"] - parts[list(PARTS)].sum(axis=1)
        assert np.abs(apart).max() <= 1e-6 * level
        for part in set(SHARED) - ({"unassigned"} if parts.attrs["note"] else set()):
            total = clearing.price_shares(part, of).groupby(["bus", "period"])["share"].sum()
            total = total.reindex(pd.MultiIndex.from_frame(parts[["bus", "period"]])).fillna(0.0)
            assert total.to_numpy() == pytest.approx(parts[part].to_numpy(), abs=1e-7 * level)


# -- sums -------------------------------------------------------------------------------------------------------------


def own_row(kind: int, flow: str) -> list[Any]:
    """A row of the user's own that may bind, of each kind in turn: none, orders alone, flows, both, a curved one, one
    that ties two periods, a voltage."""

    def row(model: Any, network: mo.Network) -> Any:
        grid, kw = model.grid, model.accepted_kw
        if kind == 1:
            return kw["db2", 0] + kw["db3", 0] <= 20.0
        if kind == 2:
            return grid.p_kw["l1", 0] + grid.p_kw["l2", 0] <= 10.0
        if kind == 3:
            return grid.p_kw["l1", 0] + kw["db2", 0] <= 20.0
        if kind == 4:
            return 0.01 * grid.p_kw["l1", 0] ** 2 <= 1.0
        if kind == 5:
            return grid.p_kw["l1", 0] + grid.p_kw["l1", 1] <= 5.0
        return grid.v2["b3", 0] >= 0.995

    barred = {"copperplate": (2, 3, 4, 5, 6)} | dict.fromkeys(["transport", "dc", "ptdf", "lossy", "free lossy"], (6,))
    return [] if kind == 0 or kind in barred.get(flow, ()) else [row]


def drawn_market(seed: int, tree: bool) -> tuple[mo.Network, mo.Orders]:
    """Six buses, two periods of other hours than one, ratings, voltage limits; regulators and charging in some."""
    rng = np.random.default_rng(seed)
    network = (radial if tree else meshed)(seed, hours=[0.5, 2.0], source_v_pu=1.02)
    lines = network.branches
    lines = lines.assign(r_ohm=20 * lines["r_ohm"], x_ohm=10 * lines["x_ohm"], b_us=rng.choice([0.0, 40.0]), ratio=1.0)
    if tree and rng.random() < 0.7:
        lines.loc[[1, 3], "ratio"] = [1.03, 0.98]
    if rng.random() < 0.3:
        lines.loc[2, ["r_ohm", "x_ohm", "b_us"]] = 0.0
    buses = network.buses.assign(v_min_pu=rng.choice([0.9, 0.98]), v_max_pu=1.1)
    network = network.replace(branches=lines, buses=buses).with_ratings({"l1": 30.0, "l3": 25.0})
    return network, affine(seed, network)


@pytest.mark.parametrize("name", FLOWS)
@settings(max_examples=max(settings().max_examples // 7, 5))
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 6), tree=st.booleans())
def test_parts_sum_to_the_price(name, seed, kind, tree):
    network, orders = drawn_market(seed, tree or FLOWS[name].radial_only)
    extra = own_row(kind, name)
    try:
        clearing = mo.clear("surplus", network, orders, flow=FLOWS[name], extra=extra)
    except mo.InfeasibleError:
        return
    assert_they_sum(clearing)
    parts = clearing.price_parts
    for part in NEVER.get(name, set()) | {"security"} | (set() if extra and kind != 1 else {"custom"}):
        assert (parts[part] == 0).all(), part


@pytest.mark.parametrize(
    ("name", "flow"),
    [("ieee34", "lindistflow"), ("ieee34", "distflow"), ("ieee37", "lindistflow"), ("case33bw", "exact"),
     ("ieee13", "ac"), ("case30", "ac")],
)  # fmt: skip
def test_parts_sum_on_cases(name, flow):
    """With regulators, switches and shunts."""
    case = mo.load_case(name)
    clearing = mo.clear("surplus", case.network, case.orders, flow=FLOWS[flow])
    parts = clearing.price_parts
    level = parts["price"].abs().max()
    assert np.abs(parts["price"] - parts[list(PARTS)].sum(axis=1)).max() <= 1e-6 * level
    assert (parts["unassigned"] == 0).all()
    assert parts.attrs["note"] == ""
    assert (parts["loss"].abs() > 1e-3 * level).any() == (flow != "lindistflow")


def test_two_ways_to_write_one_physics_have_the_same_parts():
    case = mo.load_case("ieee34")
    one, other = (mo.clear("surplus", case.network, case.orders, flow=f).price_parts for f in (EXACT, "ac"))
    assert one["congestion"].abs().max() > 0.1
    assert one[list(PARTS)].to_numpy() == pytest.approx(other[list(PARTS)].to_numpy(), abs=1e-6)


# -- on paper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["distflow", EXACT, "ac"], ids=["cone", "exact", "ac"])
def test_losses_on_paper(flow):
    """Bus 1 sends P at v = 1: r P^2 is lost and P - r P^2 arrives, so that dP/dp = 1 / (1 - 2 r P)."""
    clearing = mo.clear("surplus", two_bus(x_ohm=0.0), market(tan_phi=0.0), flow=flow)
    sent, r = (1.0 - np.sqrt(1.0 - 4e-4 * 100.0)) / 2e-4, 1e-4
    row = at(clearing.price_parts, "2")
    assert row["energy"] == pytest.approx(0.05, abs=1e-8)
    assert row["loss"] == pytest.approx(0.05 * 2 * r * sent / (1 - 2 * r * sent), abs=1e-8)
    assert row[["congestion", "voltage", "security", "reactive", "custom", "unassigned"]].abs().max() < 1e-8
    home = at(clearing.price_parts, "1")
    assert home["energy"] == home["price"]
    assert home[list(PARTS[1:])].abs().max() == 0


def test_a_voltage_limit_on_paper():
    """As in `test_lindistflow.py`: 0.05 of the price of a kW is energy and 0.475 is the voltage's; all of a kvar's."""
    network = two_bus()
    network = network.replace(buses=network.buses.assign(v_min_pu=[0.5, 0.98]))
    clearing = mo.clear("surplus", network, market(), flow="lindistflow")
    row, kvar = at(clearing.price_parts, "2"), at(clearing.reactive_price_parts, "2")
    assert [row["energy"], row["voltage"]] == pytest.approx([0.05, 0.475], abs=1e-6)
    assert [kvar["energy"], kvar["voltage"]] == pytest.approx([0.0, 0.95], abs=1e-6)
    shares = clearing.price_shares("voltage")
    assert shares[["bus", "period", "cause"]].to_numpy().tolist() == [["2", 0, "2"]]
    assert shares["share"].to_numpy() == pytest.approx([0.475], abs=1e-6)


@pytest.mark.parametrize("flow", ["dc", "ptdf"])
def test_a_triangle_on_paper(flow):
    """Of the power for bus 3, x from 1 (at 0.1) goes over 1-3 to two thirds and y from 2 (at 0.3) to one third; that
    line is full: 2/3 x + 1/3 y = 40 and x + y = 90. A kW more is two kW more of y and one less of x, which costs
    2 0.3 - 0.1 = 0.5; the multiplier is 0.6, and two thirds of it are what bus 3 pays above 0.1."""
    lines = [("1-2", "1", "2", 0.1, np.inf), ("2-3", "2", "3", 0.1, np.inf), ("1-3", "1", "3", 0.1, 40.0)]
    network = grid(lines, "123")
    orders = steps(("a", "1", "offer", 200, 0.1), ("b", "2", "offer", 200, 0.3), ("d", "3", "bid", 90, 0.9))
    clearing = mo.clear("surplus", network, orders, flow=flow)
    parts = clearing.price_parts.set_index("bus")
    assert parts["energy"].to_numpy() == pytest.approx([0.1, 0.1, 0.1], abs=1e-9)
    assert parts["congestion"].to_numpy() == pytest.approx([0.0, 0.2, 0.4], abs=1e-9)
    shares = clearing.price_shares("congestion")
    assert set(shares["cause"]) == {"1-3"}
    assert shares["share"].to_numpy() == pytest.approx([0.2, 0.4], abs=1e-9)


# -- where something is open ------------------------------------------------------------------------------------------


def test_a_negative_price_leaves_losses_unassigned():
    """Nobody minds a loss there: of the price at bus 2 what losses of the slack cone would add is nobody's."""
    orders = steps(("up", "1", "offer", 3000.0, -0.05), ("load", "2", "bid", 100.0, 0.20))
    network = two_bus().replace(buses=two_bus().buses.assign(v_min_pu=0.9))
    clearing = mo.clear("surplus", network, orders, flow="distflow")
    assert clearing.relaxation["gap"].max() > 0.01
    assert_they_sum(clearing)
    row = at(clearing.price_parts, "2")
    assert row["energy"] == pytest.approx(-0.05, abs=1e-8)
    assert abs(row["unassigned"]) > 1e-4
    assert row["loss"] == pytest.approx(0.0, abs=1e-9), "the only line is slack"
    assert set(clearing.price_shares("unassigned")["cause"]) == {"1-2"}
    assert any("not tight on 1-2" in note for note in clearing.notes)
    exact = mo.clear("surplus", network, orders, flow=EXACT)
    assert_they_sum(exact)
    assert (exact.price_parts["unassigned"] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_where_flows_are_free_all_that_is_not_energy_is_congestion(seed):
    network = meshed(seed, n=8)
    orders = affine(seed, network)
    network = congested(network, orders, "transport", share=0.5)
    clearing = mo.clear("surplus", network, orders, flow="transport")
    parts = clearing.price_parts
    assert parts["congestion"].abs().max() > 1e-3
    assert (parts["congestion"] + parts["energy"]).to_numpy() == pytest.approx(parts["price"].to_numpy(), abs=1e-10)
    assert (parts["unassigned"] == 0).all()
    assert_they_sum(clearing)


def test_a_flow_that_the_user_fixed_leaves_prices_behind_it_to_nobody():
    network, orders = radial(2, hours=[1.0, 2.0]), affine(2, radial(2, hours=[1.0, 2.0]))

    def islanded(model: Any, network: mo.Network) -> Any:
        model.grid.p_kw["l0", 0].fix(3.0)
        return model.accepted_kw["db1", 0] <= 1e4

    clearing = mo.clear("surplus", network, orders, flow="transport", extra=[islanded])
    parts = clearing.price_parts
    assert parts.attrs["note"] == OPEN
    assert parts[list(PARTS)].sum(axis=1).to_numpy() == pytest.approx(parts["price"].to_numpy(), abs=1e-9)
    assert parts["unassigned"].abs().max() > 1e-3
    assert (parts.loc[parts["period"] == 1, "unassigned"].abs() < 1e-9).all()


# -- flows of one's own, names, errors --------------------------------------------------------------------------------


def test_a_flow_of_ones_own_is_sorted_by_its_indices():
    """Rows on branches and buses that bear the same names; the bus's row is a limit of what it may inject."""

    def wires(block: Any, network: mo.Network, injection: Any) -> None:
        mo.FLOWS["transport"].build(block, network, injection)
        block.most = pyo.Constraint(block.branches, block.periods, rule=lambda b, *key: b.p_kw[key] <= 30.0)
        block.total = pyo.Constraint(
            block.buses, block.periods,
            rule=lambda b, bus, t: b.p_kw["1", t] + b.p_kw["2", t] <= (70.0 if bus == "1" else 1e3),
        )  # fmt: skip

    network = grid([("1", "0", "1", 0.1, np.inf), ("2", "0", "2", 0.1, np.inf)], "012", source="0")
    orders = steps(("up", "0", "offer", 500, 0.1), ("a", "1", "bid", 50, 0.9), ("b", "2", "bid", 25, 0.5))
    clearing = mo.clear("surplus", network, orders, flow=wires)
    parts = clearing.price_parts.set_index("bus")
    assert parts["congestion"].to_numpy() == pytest.approx([0, 0.8, 0], abs=1e-8)
    assert set(clearing.price_shares("congestion")["cause"]) == {"1"}

    def voltage(block: Any, network: mo.Network, injection: Any) -> None:
        wires(block, network, injection)
        block.most.deactivate()

    clearing = mo.clear("surplus", network, orders, flow=voltage)
    assert clearing.price_parts.set_index("bus")["voltage"].to_numpy() == pytest.approx([0, 0.4, 0.4], abs=1e-8)
    assert set(clearing.price_shares("voltage")["cause"]) == {"1"}


def test_an_inequality_can_stand_for_physics():
    """A line that loses f^2 / 1000 at least, half at either end. 50 kW arrive: f - f^2 / 2000 = 50, and a kW more
    takes (1 + f / 1000) / (1 - f / 1000) from the source. The block says that the row is no limit."""

    def lossy(block: Any, network: mo.Network, injection: Any) -> None:
        mo.FLOWS["transport"].build(block, network, injection)
        del block.balance
        block.lost = pyo.Var(block.branches, block.periods)
        block.loses = pyo.Constraint(
            block.branches, block.periods, rule=lambda b, *key: b.p_kw[key] ** 2 / 1000 <= b.lost[key]
        )

        def rule(b: Any, bus: str, t: int) -> Any:
            coefficients, variables, constant = injection.terms(network.bus_index[bus], t)
            injected = constant + sum(a * v for a, v in zip(coefficients, variables, strict=True))
            return injected == (1.0 if bus == "1" else -1.0) * b.p_kw["1-2", t] + 0.5 * b.lost["1-2", t]

        block.balance = pyo.Constraint(block.buses, block.periods, rule=rule)
        block.relaxed_rows = ("loses",)

    orders = steps(("up", "1", "offer", 500, 0.1), ("d", "2", "bid", 50, 0.9))
    clearing = mo.clear("surplus", grid([("1-2", "1", "2", 0.1, np.inf)], "12"), orders, flow=lossy)
    f = 1000.0 - np.sqrt(1e6 - 2000.0 * 50.0)
    row = at(clearing.price_parts, "2")
    assert row["price"] == pytest.approx(0.1 * (1 + f / 1000) / (1 - f / 1000), abs=1e-7)
    assert row["loss"] == pytest.approx(row["price"] - 0.1, abs=1e-8)
    assert row["energy"] == pytest.approx(0.1, abs=1e-8)


def test_a_bound_of_the_users_on_a_flow_is_congestion():
    network, orders = radial(4), affine(4, radial(4))
    free = mo.clear("surplus", network, orders, flow="transport").flows.set_index("branch")["p_kw"]
    line = str(free.abs().idxmax())

    def tightened(model: Any, network: mo.Network) -> Any:
        model.grid.p_kw[line, 0].setlb(-0.5 * abs(free[line]))
        model.grid.p_kw[line, 0].setub(0.5 * abs(free[line]))
        return model.accepted_kw["db1", 0] <= 1e4

    clearing = mo.clear("surplus", network, orders, flow="transport", extra=[tightened])
    assert set(clearing.price_shares("congestion")["cause"]) == {line}
    assert_they_sum(clearing)


def test_a_lone_bus_has_energy_alone():
    orders = steps(("up", "1", "offer", 10, 0.1), ("d", "1", "bid", 5, 0.4))
    for flow in ("transport", "lindistflow", "copperplate"):
        parts = mo.clear("surplus", grid([], "1"), orders, flow=flow).price_parts
        assert parts[list(PARTS)].to_numpy()[0] == pytest.approx([0.1, *[0.0] * 7], abs=1e-9)


def test_integers_keep_their_parts():
    orders = affine(1, radial(1)).merge(steps(("block", "b2", "offer", 15.0, 0.01), all_or_nothing=[True]))
    clearing = mo.clear("surplus", radial(1).with_ratings({"l1": 10.0}), orders, flow="transport")
    assert_they_sum(clearing)


def test_a_session_takes_prices_apart_too():
    network = radial(3, hours=[1.0, 2.0]).with_ratings({"l0": 40.0, "l2": 30.0})
    model = mo.build("surplus", network, affine(3, network), flow="lindistflow", parametric=True)
    session = mo.Session(model)
    session.solve()
    assert_they_sum(session.clearing())


def test_an_inaccurate_answer_is_not_made_to_look_accurate():
    """A multiplier that is 1e-4 off: the parts do not sum, and the table says why."""
    network = radial(3).with_ratings({"l0": 40.0, "l2": 30.0})
    clearing = mo.clear("surplus", network, affine(3, network), flow="transport")
    assert clearing.price_parts.attrs["note"] == ""
    evidence = clearing.evidence
    cost = evidence.solution.reduced_cost.copy()
    cost[evidence.program.column(grid_of(clearing).p_kw["l2", 0])] += 1e-4
    spoilt = replace(clearing, evidence=replace(evidence, solution=evidence.solution.replace(reduced_cost=cost)))
    parts = spoilt.price_parts
    assert np.abs(parts["price"] - parts[list(PARTS)].sum(axis=1)).max() == pytest.approx(1e-4, rel=1e-6)
    assert (parts["unassigned"] == 0).all()
    assert "the solver left prices inaccurate by" in parts.attrs["note"]


def test_errors_say_what_there_is(tmp_path):
    clearing = mo.clear("surplus", two_bus(), market(tan_phi=0.0), flow="dc")
    with pytest.raises(mo.UnknownNameError, match="unknown part with causes 'loss'.*congestion, voltage, security"):
        clearing.price_shares("loss")
    with pytest.raises(mo.UnknownNameError, match="did you mean 'reactive'"):
        clearing.price_shares("voltage", of="reactiv")
    with pytest.raises(mo.MktoptError, match="flow 'dc' has no reactive power"):
        _ = clearing.reactive_price_parts
    clearing.save(tmp_path / "saved")
    with pytest.raises(mo.MktoptError, match="clear the market again to take its prices apart"):
        _ = mo.Clearing.load(tmp_path / "saved").price_parts
