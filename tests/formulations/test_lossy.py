"""Flow `lossy`: on paper, private wires beside public ones, the exact equations, prices by perturbation, its gap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.networks import units
from mktopt.networks.private_wires import Wire, endowments, with_private_wires
from mktopt.testing import check_clearing, check_prices
from tests.clearing.markets import affine, meshed, steps

# At 1 kV a resistance of 1 ohm is rho = 1e-3 per kW.
FREE = mo.flow("lossy", physics=False)
EXACT = mo.flow("lossy", exact=True)


def net(*rows: tuple, buses: str = "12", **fields) -> mo.Network:
    """Rows (branch, from_bus, to_bus, r_ohm, x_ohm, kind)."""
    table = pd.DataFrame(rows, columns=["branch", "from_bus", "to_bus", "r_ohm", "x_ohm", "kind"])
    return mo.Network(pd.DataFrame({"bus": list(buses), "base_kv": 1.0}), table.assign(**fields), "1")


def need(kw: float, bus: str = "2") -> mo.Orders:
    """A firm need at `bus` and a wide offer at bus 1 for 0.1 $/kWh."""
    return steps(("up", "1", "offer", 1e3, 0.1), ("need", bus, "bid", kw, 10.0), minimum_kw=[0.0, kw])


def flows(clearing: mo.Clearing) -> pd.DataFrame:
    return clearing.flows.set_index("branch")


@pytest.mark.parametrize("flow", ["lossy", EXACT], ids=["cone", "exact"])
def test_one_line_on_paper(flow):
    """f - 1e-3 f^2 / 2 = 99.5 / 2 arrives, so f = 51.07...; lambda_2 (1 - rho f) = lambda_1 (1 + rho f)."""
    clearing = mo.clear("surplus", net(("a", "1", "2", 1.0, 0.5, "line")), need(49.75), flow=flow)
    f = (1 - np.sqrt(1 - 2e-3 * 49.75)) / 1e-3
    row = flows(clearing).loc["a"]
    assert row["loss_kw"] == pytest.approx(1e-3 * f**2, rel=1e-6)
    assert row["p_kw"] == pytest.approx(f + 0.5e-3 * f**2, rel=1e-6)
    assert row["to_kw"] == pytest.approx(49.75, rel=1e-6)
    assert clearing.price("2", 0) == pytest.approx(0.1 * (1 + 1e-3 * f) / (1 - 1e-3 * f), rel=1e-6)
    parts = clearing.price_parts.set_index("bus").loc["2"]
    assert parts["loss"] == pytest.approx(clearing.price("2", 0) - 0.1, rel=1e-6)
    check_clearing(clearing)


def test_a_private_wire_beside_a_public_one_shares_until_marginal_losses_agree():
    """rho_1 f_1 = rho_2 f_2: with 1 and 3 ohm the flows are 3 to 1, whatever the reactances say."""
    network = net(("public", "1", "2", 1.0, 5.0, "line"), ("own", "1", "2", 3.0, 0.1, "private"))
    table = flows(mo.clear("surplus", network, need(40.0), flow="lossy"))
    mean = (table["p_kw"] + table["to_kw"]) / 2
    assert mean["public"] == pytest.approx(3 * mean["own"], rel=1e-6)


def test_public_flows_follow_physics_and_private_ones_do_not():
    """Triangle 1-2-3, x = 1, 1, 1: two thirds go the short way. Without physics or over private wires losses decide."""
    sides = [("a", "1", "2", 0.1, 1.0), ("b", "2", "3", 0.4, 1.0), ("c", "1", "3", 0.1, 1.0)]
    public = net(*[(*side, "line") for side in sides], buses="123")
    private = net(*[(*side, "line" if side[0] == "c" else "private") for side in sides], buses="123")

    def share(network, flow):
        table = flows(mo.clear("surplus", network, need(30.0, "3"), flow=flow))
        mean = (table["p_kw"] + table["to_kw"]) / 2
        assert mean["a"] == pytest.approx(mean["b"], rel=0.02)  # but for the losses drawn at bus 2
        return mean["c"] / (mean["b"] + mean["c"])

    assert share(public, "lossy") == pytest.approx(2 / 3, abs=0.01)
    assert share(public, FREE) == pytest.approx(5 / 6, abs=0.01)
    assert share(private, "lossy") == pytest.approx(share(private, FREE), rel=1e-6)


def test_ratings_limit_the_mean_flow():
    network = net(("a", "1", "2", 1.0, 1.0, "line"), rating_kva=20.0)
    orders = steps(("up", "1", "offer", 1e3, 0.1), ("bid", "2", "bid", 50.0, 1.0))
    clearing = mo.clear("surplus", network, orders, flow="lossy")
    assert flows(clearing).loc["a", "loading_percent"] == pytest.approx(100.0, abs=1e-5)
    assert clearing.quantity("bid") == pytest.approx(20.0 - 0.5e-3 * 400, rel=1e-6)
    assert clearing.price_parts.set_index("bus").loc["2", "congestion"] > 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_a_tight_relaxation_is_the_exact_optimum(seed):
    network = meshed(seed, hours=[0.5])
    lines = network.branches.assign(r_ohm=20 * network.branches["r_ohm"])
    lines.loc[[1, 4], "kind"] = "private"
    network = network.replace(branches=lines)
    orders = affine(seed, network)
    convex, exact = (mo.clear("surplus", network, orders, flow=flow) for flow in ("lossy", EXACT))
    assert not convex.relaxation["slack"].any() and exact.relaxation is None
    assert exact.welfare == pytest.approx(convex.welfare, rel=1e-7)
    check_clearing(exact)
    check_prices("surplus", network, orders, flow="lossy", buses=["b3", "b5"])


def test_where_energy_is_worth_less_than_nothing_the_gap_is_reported():
    """A must-take surplus that nobody wants is burnt in the model's wire; no wire would lose so much."""
    orders = steps(("must", "2", "offer", 10.0, 0.0), ("dump", "1", "bid", 1e3, -0.1), minimum_kw=[10.0, 0.0])
    network = net(("a", "1", "2", 1.0, 1.0, "line"))
    clearing = mo.clear("surplus", network, orders, flow="lossy")
    row = clearing.relaxation.iloc[0]
    f = flows(clearing).loc["a"]
    mean = (f["p_kw"] + f["to_kw"]) / 2
    assert row["slack"] and row["phantom_kw"] == pytest.approx(f["loss_kw"] - 1e-3 * mean**2, abs=1e-9)
    assert row["phantom_kw"] > 1.0 and any("not tight" in note for note in clearing.notes)


def test_a_part_of_the_grid_that_private_wires_alone_reach():
    network = net(("a", "1", "2", 1.0, 1.0, "private"), ("b", "2", "3", 1.0, 1.0, "line"), buses="123")
    check_clearing(mo.clear("surplus", network, need(20.0, "3"), flow="lossy"))


def test_public_branches_without_reactance_in_a_loop_are_refused():
    loop = [("a", "1", "2", 1.0, 0.0), ("b", "1", "2", 1.0, 0.0)]
    with pytest.raises(mo.FormulationError, match="without reactance form a loop"):
        mo.clear("surplus", net(*[(*row, "line") for row in loop]), need(1.0), flow="lossy")
    mo.clear("surplus", net((*loop[0], "line"), (*loop[1], "private")), need(1.0), flow="lossy")


def test_a_dense_private_grid_over_300_buses_solves():
    network = with_private_wires(mo.load_network("case300"), "1/log n", seed=1, wire=Wire(kv=115.0))
    clearing = mo.clear("surplus", network, endowments(network, 3, size_kw=1e5), flow="lossy")
    assert clearing.certificate.ok(), clearing.certificate
    assert not clearing.relaxation["slack"].any()


def drawn(seed: int) -> tuple[mo.Network, mo.Orders]:
    """Two to thirty buses, tree and chords, private wires of any density; agents of 1 W to 1 GW, losses of any size."""
    rng = np.random.default_rng(seed)
    n, size, stress = int(rng.choice([2, 3, 5, 12, 30])), 10 ** rng.uniform(-3, 6), 10 ** rng.uniform(-6, -0.7)
    ends = [(int(rng.integers(k)), k) for k in range(1, n)]
    ends += [tuple(map(int, rng.choice(n, 2, replace=False))) for _ in range(int(rng.integers(n // 2 + 1)))]
    table = pd.DataFrame([(f"l{k}", f"b{i}", f"b{j}") for k, (i, j) in enumerate(ends)])
    table.columns = ["branch", "from_bus", "to_bus"]
    r, x = 10 ** rng.uniform(-1, 0.3, (2, len(ends)))
    table = table.assign(r_ohm=np.where(rng.random(len(ends)) < 0.1, 0.0, r), x_ohm=x)
    kv = np.sqrt(n * size / (1000 * stress))
    buses = pd.DataFrame({"bus": [f"b{k}" for k in range(n)], "base_kv": kv})
    public = mo.Network(buses, table, "b0", hours=[1.0, 0.5][: int(rng.integers(1, 3))])
    density = rng.choice([0.0, 1 / n**2, 1 / n, 1 / np.log(n + 1), 1.0])
    wire = Wire(rng.choice([0.0, 0.2]), kv=kv, rating_kva=rng.choice([np.inf, size / 2]))
    network = with_private_wires(public, min(density, 1.0), rng.choice([1.0, 100.0], 2), seed, wire=wire)
    share, retail = rng.choice([0.0, 0.3, 0.6]), rng.uniform(0.1, 0.5)
    feed_in = rng.choice([retail, 0.5 * retail])
    options = {"surplus_share": share, "generation_share": rng.choice([0.0, 0.5])}
    return network, endowments(network, seed, size_kw=size, retail=retail, feed_in=feed_in, **options)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_any_market_in_any_unit_ends_with_an_optimum_that_is_tight(seed):
    network, orders = drawn(seed)
    clearing = mo.clear("surplus", network, orders, flow="lossy")
    check_clearing(clearing)
    table, parts = clearing.flows, clearing.price_parts
    rho = np.repeat(units.loss_per_kw(network), len(network.hours))
    mean = (table["p_kw"] + table["to_kw"]) / 2
    most = np.median(orders.width_kw)  # flows themselves may be nothing but noise
    assert np.abs(table["loss_kw"] - rho * mean**2).max() <= 1e-6 * most
    assert not clearing.relaxation["slack"].any()
    total = parts.drop(columns=["bus", "period", "price"]).sum(axis=1)
    assert np.abs(total - parts["price"]).max() <= 1e-6 * parts["price"].abs().max()


def test_the_unit_of_power_does_not_matter():
    """A thousand times the power over a thousand times less loss per kW: the same prices, a thousand times the flow."""
    network = with_private_wires(meshed(3), 0.5, seed=3)
    small = endowments(network, 4, size_kw=5.0, generation_share=0.5)
    large = endowments(network, 4, size_kw=5e3, generation_share=0.5)
    wide = network.replace(buses=network.buses.assign(base_kv=network.buses["base_kv"] * np.sqrt(1e3)))
    one, other = (mo.clear("surplus", *market, flow="lossy") for market in ((network, small), (wide, large)))
    assert other.prices["price"].to_numpy() == pytest.approx(one.prices["price"].to_numpy(), rel=1e-7)
    assert other.flows["p_kw"].to_numpy() == pytest.approx(1e3 * one.flows["p_kw"].to_numpy(), rel=1e-6, abs=1e-3)


def test_equal_wires_carry_the_same_and_one_without_resistance_takes_all():
    wires = [("a", "1", "2", 1.0, 1.0, "private"), ("b", "2", "1", 1.0, 9.0, "private")]
    table = flows(mo.clear("surplus", net(*wires), need(30.0), flow="lossy"))
    assert table["loss_kw"].iloc[0] == pytest.approx(table["loss_kw"].iloc[1], rel=1e-6)
    free = ("c", "1", "2", 0.0, 1.0, "private")
    clearing = mo.clear("surplus", net(*wires, free), need(30.0), flow="lossy")
    assert flows(clearing)["p_kw"].to_numpy() == pytest.approx([0.0, 0.0, 30.0], abs=1e-6)
    assert clearing.price("2", 0) == pytest.approx(0.1, rel=1e-6)
    idle = mo.clear("surplus", net(*wires), steps(("up", "1", "offer", 9.0, 0.1)), flow="lossy")
    assert idle.flows["loss_kw"].abs().max() <= 1e-9
    check_clearing(idle)


@pytest.mark.parametrize("retail", [0.2, 0.08])
def test_equal_tariffs_and_what_a_price_may_be(retail):
    """With retail at feed-in every price is known: 0.08 at bus 1; between the two, a balanced agent's may be any."""
    network = net(("a", "1", "2", 1.0, 1.0, "line"))
    rows = [("sell", "1", "offer", 1e3, retail), ("buy", "1", "bid", 1e3, 0.08)]
    rows += [("need", "2", "bid", 40.0, 10.0), ("give", "2", "offer", 40.0, 0.0)]
    orders = steps(*rows, minimum_kw=[0.0, 0.0, 40.0, 40.0])
    clearing = mo.clear("surplus", network, orders, flow="lossy")
    low, high = clearing.price_interval("2")
    assert low == pytest.approx(0.08, rel=1e-5) and high == pytest.approx(retail, rel=1e-5)
    assert flows(clearing).loc["a", "loss_kw"] == pytest.approx(0.0, abs=1e-7)


def test_where_free_disposal_pays_the_exact_wire_is_another_optimum():
    """10 kW that nobody wants at 0.1 $/kWh to be rid of: the model burns them, a wire of 1 ohm loses 0.1 kW."""
    orders = steps(("must", "2", "offer", 10.0, 0.0), ("dump", "1", "bid", 1e3, -0.1), minimum_kw=[10.0, 0.0])
    network = net(("a", "1", "2", 1.0, 1.0, "line"))
    convex, exact = (mo.clear("surplus", network, orders, flow=flow) for flow in ("lossy", EXACT))
    f = (np.sqrt(1 + 2e-3 * 10.0) - 1) / 1e-3  # f + 1e-3 f^2 / 2 = 10 leave bus 2
    row = flows(exact).loc["a"]
    assert row["loss_kw"] == pytest.approx(1e-3 * f**2, rel=1e-6)
    assert exact.relaxation is None and exact.quantity("dump") == pytest.approx(10.0 - row["loss_kw"], rel=1e-6)
    assert convex.welfare > exact.welfare + 0.5 and convex.relaxation["slack"].any()


def test_prices_over_private_wires_are_what_a_little_more_demand_costs():
    network = with_private_wires(meshed(5, hours=[1.0, 0.5]), 0.4, seed=6, wire=Wire(5.0, rating_kva=2.0))
    orders = endowments(network, 7, size_kw=9.0, generation_share=0.6)
    check_prices("surplus", network, orders, flow="lossy", buses=["b2", "b4"])
    check_prices("surplus", network, orders, flow=FREE, buses=["b3"])


def test_a_session_over_private_wires_gives_what_a_cold_clearing_gives():
    network = with_private_wires(meshed(2), 0.6, seed=2, wire=Wire(2.0, rating_kva=6.0))
    orders = endowments(network, 5, size_kw=9.0)
    session = mo.Session(mo.build("surplus", network, orders, flow="lossy", parametric=True))
    for retail, rating in ((0.2, 6.0), (0.3, 4.0), (0.12, 5.0)):
        changed = network.with_ratings(dict.fromkeys(network.lines.query("kind == 'private'")["branch"], rating))
        orders = endowments(changed, 5, size_kw=9.0, retail=retail)
        session.update(orders=orders, network=changed)
        found, cold = session.solve(), mo.clear("surplus", changed, orders, flow="lossy")
        assert found.welfare == pytest.approx(cold.welfare, rel=1e-8)
        assert found.prices.ravel() == pytest.approx(cold.prices["price"].to_numpy(), rel=1e-5)
