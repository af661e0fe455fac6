"""Private wires at random: densities, places, resistances, owners; endowments; what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mktopt.errors import DataError
from mktopt.networks.cases import load_network
from mktopt.networks.private_wires import (
    Wire,
    add_private_wires,
    density_of,
    endowments,
    random_edges,
    with_private_wires,
)
from mktopt.networks.synthetic import radial


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1/n", 0.1), ("1/n^2", 0.01), ("1/n²", 0.01), (0.3, 0.3),
                                             ("1/log n", 1 / np.log(10)), ("1/log(n)", 1 / np.log(10))])  # fmt: skip
def test_densities(text, value):
    assert density_of(text, 10) == pytest.approx(value)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "1/m", True, np.nan])
def test_other_densities_are_refused(wrong):
    with pytest.raises(DataError, match=r"density.*\[0, 1\]"):
        density_of(wrong, 10)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 60])
def test_density_one_is_every_pair_once(n):
    edges = set(zip(*random_edges(n, 1.0, np.random.default_rng(0)), strict=True))
    assert edges == {(i, j) for j in range(n) for i in range(j)}


def test_every_pair_is_equally_likely():
    rng = np.random.default_rng(5)
    count = np.zeros((6, 6))
    for _ in range(2000):
        count[random_edges(6, 0.3, rng)] += 1
    seen = count[np.triu_indices(6, 1)]
    assert np.abs(seen / 2000 - 0.3).max() < 5 * np.sqrt(0.21 / 2000)


def test_wires_on_300_buses():
    public = load_network("case300")
    network = with_private_wires(public, "1/log n", (3.0, 2.0), seed=4, wire=Wire(0.5, 0.1, 70.0, kv=10.0))
    lines = network.branches[network.branches["kind"] == "private"]
    expected = 300 * 299 / 2 / np.log(300)
    assert abs(len(lines) - expected) < 5 * np.sqrt(expected)
    assert network.buses[["x", "y"]].max().to_numpy() == pytest.approx([3.0, 2.0], rel=0.05)
    places = network.buses.set_index("bus")[["x", "y"]]
    ends = [places.loc[lines[name]].to_numpy() for name in ("from_bus", "to_bus")]
    length = np.hypot(*(ends[0] - ends[1]).T)
    kv = network.buses.set_index("bus").loc[lines["from_bus"], "base_kv"].to_numpy()
    assert lines["r_ohm"].to_numpy() / kv**2 == pytest.approx(0.5 * length / 100.0)
    assert (lines["owner"] == lines["from_bus"] + "+" + lines["to_bus"]).all() and (lines["rating_kva"] == 70.0).all()
    pd.testing.assert_frame_equal(network.branches.iloc[: len(public.branches)], public.branches)


def test_one_seed_one_network_and_the_same_spots_of_any_area():
    public, _ = radial(40, 1)
    one, same, other = (with_private_wires(public, 0.2, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.branches, same.branches)
    assert not one.branches.equals(other.branches)
    wide = with_private_wires(public, "0", (100.0, 100.0), seed=1)
    assert wide.buses[["x", "y"]].to_numpy() == pytest.approx(100.0 * one.buses[["x", "y"]].to_numpy())
    assert wide.n_branches == public.n_branches


def test_bad_wires_are_refused():
    public, _ = radial(5, 1)
    with pytest.raises(DataError, match="r_ohm_per_km.*-1"):
        Wire(-1.0)
    with pytest.raises(DataError, match="no such name.*buses"):
        add_private_wires(public, pd.DataFrame({"from_bus": ["b0"], "to_bus": ["b77"]}))
    table = pd.DataFrame({"branch": ["own"], "from_bus": ["b0"], "to_bus": ["b3"], "r_ohm": [-0.1]})
    with pytest.raises(DataError) as caught:
        add_private_wires(public, table)
    fault = caught.value.faults[0]
    assert (fault.table, fault.row, fault.column, fault.value) == ("branches", "own", "r_ohm", -0.1)
    with pytest.raises(DataError) as caught:
        add_private_wires(public, table.assign(from_bus="b77", r_ohm=0.1))
    fault = caught.value.faults[0]
    assert (fault.row, fault.column, fault.value) == ("own", "from_bus", "b77")
    with pytest.raises(DataError, match="nowhere"):
        with_private_wires(public, 0.5, among=["b0", "nowhere"])
    with pytest.raises(DataError, match="area_km"):
        with_private_wires(public, 0.5, (0.0, 1.0))


def test_endowments_are_firm_and_the_main_grid_serves_them():
    network = radial(30, 1)[0].replace(hours=[1.0, 0.5])
    orders = endowments(network, 2, size_kw=5.0, surplus_share=0.4)
    orders.check(network)
    agents = orders.orders["participant"] != "main_grid"
    assert orders.firm[agents].all() and not orders.firm[~agents].any()
    assert orders.width_kw[agents].max() <= 10.0 and agents.sum() == 2 * 29
    pd.testing.assert_frame_equal(orders.segments, endowments(network, 2, size_kw=5.0, surplus_share=0.4).segments)
    with pytest.raises(DataError, match="retail is below feed-in"):
        endowments(network, retail=0.05, feed_in=0.08)


def test_generators_have_rising_costs_and_change_nothing_else():
    network = radial(40, 1)[0].replace(hours=[1.0, 0.5])
    plain = endowments(network, 2, size_kw=5.0)
    options = {"generation_kw": 3.0, "generation_cost": (0.05, 0.15)}
    more = endowments(network, 2, size_kw=5.0, generation_share=0.5, **options)
    own = more.orders["order"].str.endswith(":generation").to_numpy()
    assert 20 < own.sum() < 60 and (more.orders["side"][own] == "offer").all() and not more.firm[own].any()
    assert (more.orders["participant"] + ":generation" == more.orders["order"])[own].all()
    table = more.segments[more.segments["order"].str.endswith(":generation")]
    assert (table["price_start"] < table["price_end"]).all() and table["width_kw"].between(0, 6).all()
    assert table["price_start"].min() > 0.05 and table["price_end"].max() < 0.15
    assert table.groupby("order")[["width_kw", "price_start"]].nunique().max().max() == 1  # alike in every period
    agents = more.orders["participant"].ne("main_grid").to_numpy() & ~own
    pd.testing.assert_frame_equal(more.orders[agents], plain.orders[plain.orders["participant"] != "main_grid"])
    more.check(network)


@pytest.mark.parametrize(("name", "value"), [("generation_share", 1.5), ("generation_cost", (0.2, 0.1)),
                                             ("generation_cost", (0.1, np.nan)), ("generation_kw", -1.0),
                                             ("surplus_share", -0.1), ("size_kw", np.inf)])  # fmt: skip
def test_bad_endowments_name_what_is_wrong(name, value):
    with pytest.raises(DataError) as caught:
        endowments(radial(5, 1)[0], **{name: value})
    assert caught.value.faults[0].column == name


def test_a_third_party_may_own_the_wires():
    network = with_private_wires(radial(12, 1)[0], 0.5, seed=1, owner="cable company")
    private = network.branches["kind"] == "private"
    assert private.any() and (network.branches["owner"][private] == "cable company").all()
