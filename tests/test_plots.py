"""Pictures of clearings: that what is drawn is what was cleared, and that nothing covers anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection

import mktopt as mo
from mktopt.clearing.drawing import aggregate_curve
from mktopt.clearing.layout import distances, positions, sequence, tree_positions


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def three_buses(hours: tuple[float, ...] = (1.0,), meshed: bool = False) -> mo.Network:
    """a - b - c with 10 kVA between b and c, of lengths 2 and 3 km; meshed: and a - c."""
    lines = [("ab", "a", "b", np.inf, 2.0), ("bc", "b", "c", 10.0, 3.0)] + [("ac", "a", "c", 5.0, 4.0)] * meshed
    branches = pd.DataFrame(lines, columns=["branch", "from_bus", "to_bus", "rating_kva", "length_km"])
    buses = pd.DataFrame({"bus": ["a", "b", "c"], "base_kv": 10.0})
    return mo.Network(buses, branches.assign(r_ohm=0.1, x_ohm=0.1), "a", hours=hours, name="three")


def orders(periods: int = 1) -> mo.Orders:
    """30 kW wanted at c; the source asks 0.1, a supply at c 0.3 $/kWh."""
    steps = [("load", "c", "bid", 30.0, 1.0), ("grid", "a", "offer", 50.0, 0.1), ("own", "c", "offer", 40.0, 0.3)]
    table = pd.DataFrame(steps, columns=["order", "bus", "side", "width_kw", "price"])
    return mo.Orders.from_steps(pd.concat([table.assign(period=t) for t in range(periods)], ignore_index=True))


@pytest.fixture(scope="module")
def clearing() -> mo.Clearing:
    return mo.clear("surplus", three_buses(), orders())


def dots(ax: Axes, label: str) -> np.ndarray:
    found = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_label() == label]
    assert len(found) == 1, [c.get_label() for c in ax.collections]
    return np.asarray(found[0].get_offsets())


def test_prices_stand_at_their_distance_from_the_source(clearing: mo.Clearing) -> None:
    ax = clearing.plot.prices()
    assert isinstance(ax, Axes)
    assert dots(ax, "bus with bids") == pytest.approx(np.array([[5.0, 0.3]]))
    assert dots(ax, "bus without bids") == pytest.approx(np.array([[0.0, 0.1], [2.0, 0.1]]))
    assert sorted(dots(ax, "supply that sells")[:, 0]) == pytest.approx([0.0, 5.0])
    full = next(c for c in ax.collections if c.get_label() == "branch at its limit")
    assert np.asarray(full.get_segments()) == pytest.approx(np.array([[[2.0, 0.1], [5.0, 0.3]]]))
    assert "km" in ax.get_xlabel()
    assert "kWh" in ax.get_ylabel()


def test_prices_without_lengths_count_branches() -> None:
    network = three_buses()
    bare = network.replace(branches=network.branches.assign(length_km=np.nan))
    way, label = distances(bare)
    assert way.tolist() == [0, 1, 2]
    assert "branches" in label


def test_prices_of_a_meshed_grid_are_bars_from_zero() -> None:
    cleared = mo.clear("surplus", three_buses(meshed=True), orders())
    ax = cleared.plot.prices()
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(cleared.prices["price"].tolist())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", "c"]
    assert ax.get_ylim()[0] == 0


def test_several_periods_are_a_map_from_the_source_outwards() -> None:
    cleared = mo.clear("surplus", three_buses((1.0, 0.5)), orders(2))
    ax = cleared.plot.prices()
    image = np.asarray(ax.images[0].get_array())
    assert image == pytest.approx(np.array([[0.1, 0.1], [0.1, 0.1], [0.3, 0.3]]))
    assert "period 1" in cleared.plot.prices(period=1).get_title()


@pytest.mark.parametrize("kind", ["prices", "price_parts", "network", "curves"])
def test_a_period_that_is_not_there_is_named(clearing: mo.Clearing, kind: str) -> None:
    with pytest.raises(mo.UnknownNameError, match="period"):
        getattr(clearing.plot, kind)(period=3)


def test_the_network_shows_prices_limits_supplies_and_names(clearing: mo.Clearing) -> None:
    ax = clearing.plot.network()
    buses = next(c for c in ax.collections if isinstance(c, PathCollection) and c.get_array() is not None)
    assert np.asarray(buses.get_array()) == pytest.approx([0.1, 0.1, 0.3])
    assert len(dots(ax, "source")) == 1
    assert len(dots(ax, "supply that sells")) == 2
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert [len(c.get_segments()) for c in lines] == [1, 1]
    texts = {text.get_text() for text in ax.texts}
    assert {"a", "b", "c", "10 kW"} <= texts
    assert sum(text == "" for text in (t.get_text() for t in ax.texts)) == 2  # an arrow on each branch


def test_arrows_follow_the_flow(clearing: mo.Clearing) -> None:
    for reverse in (False, True):
        network = three_buses()
        if reverse:
            turned = network.branches.rename(columns={"from_bus": "to_bus", "to_bus": "from_bus"})
            network = network.replace(branches=turned)
        ax = mo.clear("surplus", network, orders()).plot.network()
        arrows = [text for text in ax.texts if text.get_text() == ""]
        assert all(arrow.xy[0] > arrow.xyann[0] for arrow in arrows)  # from the source, which is on the left


def test_wider_branches_carry_more() -> None:
    network = mo.load_network("ieee34")
    cleared = mo.clear("surplus", *mo.load_case("ieee34")[:2])
    ax = cleared.plot.network()
    width = np.asarray(next(c for c in ax.collections if isinstance(c, LineCollection)).get_linewidths())
    kw = cleared.flows["p_kw"].abs().to_numpy()
    assert len(width) == network.n_branches
    assert np.argsort(kw, kind="stable")[-1] in np.flatnonzero(width == width.max())
    assert np.corrcoef(kw, width)[0, 1] == pytest.approx(1.0)


def test_names_on_ieee34_do_not_cover_each_other() -> None:
    ax = mo.clear("surplus", *mo.load_case("ieee34")[:2]).plot.network()
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert len(boxes) == 37
    overlaps = [(i, j) for i in range(37) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert overlaps == []


def test_a_large_feeder_has_no_names_and_no_arrows() -> None:
    cleared = mo.clear("surplus", *mo.load_case("synthetic:radial:1500:0")[:2])
    ax = cleared.plot.network()
    assert all("kW" in text.get_text() for text in ax.texts)
    assert cleared.plot.prices().collections


def test_a_tree_is_drawn_without_crossings() -> None:
    network = mo.load_network("ieee34")
    at = tree_positions(network)
    assert len(np.unique(at, axis=0)) == network.n_buses
    ends = np.stack([at[network.from_index], at[network.to_index]], axis=1)
    # between two columns of buses branches keep the sequence of their ends
    for depth in np.unique(ends[:, 0, 0]):
        column = ends[ends[:, 0, 0] == depth][:, :, 1]
        column = column[np.lexsort((column[:, 1], column[:, 0]))]
        assert (np.diff(column[:, 1]) > 0).all()


def test_coordinates_are_used_where_all_are_there() -> None:
    network = mo.load_network("ieee34")
    assert positions(network)[1]
    lost = network.replace(buses=network.buses.assign(x=network.buses["x"].where(network.buses["bus"] != "890")))
    at, own = positions(lost)
    assert not own
    assert np.isfinite(at).all()
    assert np.isfinite(positions(three_buses(meshed=True))[0]).all()


def test_curves_show_demand_supply_and_what_was_cleared(clearing: mo.Clearing) -> None:
    ax = clearing.plot.curves()
    lines = {line.get_label(): line for line in ax.lines}
    demand, supply = lines["demand (bids)"], lines["supply (offers)"]
    assert float(np.max(demand.get_xdata())) == pytest.approx(30.0)
    drawn = np.column_stack([supply.get_xdata(), supply.get_ydata()])[1:5]
    assert drawn == pytest.approx(np.array([(0.0, 0.1), (50.0, 0.1), (50.0, 0.3), (90.0, 0.3)]))
    cleared = next(line for label, line in lines.items() if label.startswith("cleared"))
    assert cleared.get_xdata()[0] == pytest.approx(30.0)
    assert any("0.1000 to 0.3000" in text.get_text() for text in ax.get_legend().get_texts())


def test_aggregated_curves_are_sums_at_equal_price() -> None:
    curves = pd.DataFrame({
        "order": ["x", "y"], "bus": "a", "side": "offer", "q_max_kw": [10.0, 30.0], "price_min": [0.1, 0.2],
        "price_max": [0.3, 0.2],
    })  # fmt: skip
    q, p = aggregate_curve(mo.Orders.from_curves(curves), "offer", 0)
    # x gives 5 kW below 0.2, where y brings 30 at once, and 5 more up to 0.3
    drawn = np.column_stack([q, p])[2:6]
    assert drawn == pytest.approx(np.array([(0.0, 0.1), (5.0, 0.2), (35.0, 0.2), (40.0, 0.3)]))


def test_an_endless_offer_and_no_bids_can_be_drawn() -> None:
    endless = pd.DataFrame({"order": ["g"], "bus": "a", "side": "offer", "width_kw": [np.inf], "price": [0.1]})
    cleared = mo.clear("surplus", three_buses(), mo.Orders.from_steps(endless))
    for kind in ("prices", "network", "curves"):
        ax = getattr(cleared.plot, kind)()
        ax.figure.draw_without_rendering()
        assert np.isfinite(ax.get_xlim()).all()


def test_given_axes_are_used(clearing: mo.Clearing) -> None:
    for kind in ("prices", "price_parts", "network", "curves"):
        figure, ax = plt.subplots()
        assert getattr(clearing.plot, kind)(ax) is ax
        assert ax in figure.axes


def test_copperplate_has_no_flows_to_draw() -> None:
    cleared = mo.clear("surplus", three_buses(), orders(), flow="copperplate")
    ax = cleared.plot.network()
    assert len(ax.get_legend().get_texts()) == 3
    assert cleared.plot.prices().get_title()


def test_without_matplotlib_the_next_step_is_named(clearing: mo.Clearing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind in ("prices", "price_parts", "network", "curves"):
        with pytest.raises(mo.MktoptError, match=r"pip install 'mktopt\[plot\]'"):
            getattr(clearing.plot, kind)()


def parts_of(ax: Axes) -> dict[str, np.ndarray]:
    """Bottom and top of each bar, by part, shape (buses, 2)."""
    found = {}
    for container in ax.containers:
        found[container.get_label()] = np.array([(bar.get_y(), bar.get_y() + bar.get_height()) for bar in container])
    return found


def test_parts_are_stacked_to_the_price(clearing: mo.Clearing) -> None:
    ax = clearing.plot.price_parts()
    bars = parts_of(ax)
    assert set(bars) == {"energy", "congestion"}  # a flow without losses has no part for them
    assert bars["energy"] == pytest.approx(np.array([(0.0, 0.1)] * 3))
    assert bars["congestion"] == pytest.approx(np.array([(0.1, 0.1), (0.1, 0.1), (0.1, 0.3)]))
    price = next(line for line in ax.lines if line.get_label() == "price")
    assert price.get_ydata() == pytest.approx([0.1, 0.1, 0.3])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", "c"]


def test_parts_below_zero_are_stacked_downwards() -> None:
    steps = [("load", "a", "bid", 30.0, 1.0), ("grid", "a", "offer", 50.0, 0.1), ("own", "c", "offer", 40.0, 0.04)]
    table = pd.DataFrame(steps, columns=["order", "bus", "side", "width_kw", "price"])
    ax = mo.clear("surplus", three_buses(), mo.Orders.from_steps(table)).plot.price_parts()
    bars = parts_of(ax)
    # c sells all that its line takes and would sell more: its price is its own 0.04, 0.06 below that of the source
    assert bars["congestion"][2] == pytest.approx((0.0, -0.06))
    assert bars["energy"][2] == pytest.approx((0.0, 0.1))
    assert next(line for line in ax.lines if line.get_label() == "price").get_ydata()[2] == pytest.approx(0.04)


def test_parts_along_one_way_stand_at_its_distances(clearing: mo.Clearing) -> None:
    ax = clearing.plot.price_parts(to="b")
    price = next(line for line in ax.lines if line.get_label() == "price")
    assert price.get_xdata() == pytest.approx([0.0, 2.0])
    assert price.get_ydata() == pytest.approx([0.1, 0.1])
    assert "bus b" in ax.get_xlabel()
    with pytest.raises(mo.UnknownNameError, match="bus"):
        clearing.plot.price_parts(to="z")


def test_parts_of_a_period_are_its_own() -> None:
    both = orders(2)
    less = both.segments["width_kw"].where((both.segments["order"] != "load") | (both.segments["period"] != 0), 5.0)
    relaxed = mo.Orders(both.orders, both.segments.assign(width_kw=less))  # 5 kW in period 0: the line is not full
    cleared = mo.clear("surplus", three_buses((1.0, 0.5)), relaxed)
    assert set(parts_of(cleared.plot.price_parts(period=0))) == {"energy"}
    assert parts_of(cleared.plot.price_parts(period=1))["congestion"][2] == pytest.approx((0.1, 0.3))
    with pytest.raises(mo.UnknownNameError, match="period"):
        cleared.plot.price_parts(period=2)


def test_parts_of_many_buses_are_areas_and_of_a_mesh_are_drawn_too() -> None:
    ax = mo.clear("surplus", *mo.load_case("synthetic:radial:150:0")[:2]).plot.price_parts()
    assert not ax.containers
    assert {"energy", "congestion"} <= {area.get_label() for area in ax.collections}
    ax = mo.clear("surplus", three_buses(meshed=True), orders(), flow="dc").plot.price_parts()
    assert len(parts_of(ax)["energy"]) == 3


def test_the_map_shows_one_part_where_asked(clearing: mo.Clearing) -> None:
    ax = clearing.plot.network(part="congestion")
    buses = next(c for c in ax.collections if isinstance(c, PathCollection) and c.get_array() is not None)
    assert np.asarray(buses.get_array()) == pytest.approx([0.0, 0.0, 0.2])
    assert "congestion" in ax.get_title()
    with pytest.raises(mo.UnknownNameError, match="congestion"):
        clearing.plot.network(part="congestoin")


@pytest.mark.parametrize("case", ["ieee34", "ieee123", "case33bw"])
def test_from_the_source_outwards_each_lateral_is_in_one_piece(case: str) -> None:
    network = mo.load_network(case)
    place = np.argsort(sequence(network))
    topology = network.topology
    behind: list[list[int]] = [[bus] for bus in range(network.n_buses)]
    for bus in topology.order[:0:-1].tolist():
        assert place[topology.parent[bus]] < place[bus]
        behind[topology.parent[bus]] += behind[bus]
    assert sorted(place.tolist()) == list(range(network.n_buses))
    assert all(np.ptp(place[buses]) == len(buses) - 1 for buses in behind)


def test_a_tall_feeder_has_a_narrow_map_without_covered_names() -> None:
    ax = mo.clear("surplus", *mo.load_case("ieee37")[:2]).plot.network()
    ax.figure.draw_without_rendering()
    assert ax.figure.get_figwidth() < 8 < ax.figure.get_figheight()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])] == []


def test_bids_beyond_the_picture_are_told_where_nothing_covers_it() -> None:
    ax = mo.clear("surplus", *mo.load_case("case30")[:2], flow="dc").plot.curves()
    assert "bids go on to 10.00 \\$/kWh" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert not ax.texts


def test_voltages_stand_between_their_limits() -> None:
    """1.0 p.u. at a; b and c by their drops 2 (r P + x Q), with c at its lower limit, which the source has not."""
    network = three_buses()
    low = np.sqrt(1 - 2 * 30 * (2 * 0.1 / 1e5))
    network = network.replace(
        branches=network.branches.assign(rating_kva=np.inf),
        buses=network.buses.assign(v_min_pu=[1.0, 0.99, low], v_max_pu=[1.0, 1.05, 1.05]),
    )
    cleared = mo.clear("surplus", network, orders(), flow="lindistflow")
    ax = cleared.plot.voltages()
    assert dots(ax, "bus at its limit") == pytest.approx(np.array([[5.0, low]]))
    assert dots(ax, "bus") == pytest.approx(np.array([[0.0, 1.0], [2.0, np.sqrt(1 - 30 * 2e-6 * 1.0)]]), abs=1e-6)
    assert dots(ax, "source") == pytest.approx(np.array([[0.0, 1.0]]))
    lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines}
    assert lines["upper limit: 1.05"] == pytest.approx([1.05, 1.05])
    assert "km" in ax.get_xlabel() and "p.u." in ax.get_ylabel() and "lindistflow" in ax.get_title()
    with pytest.raises(mo.UnknownNameError, match="period"):
        cleared.plot.voltages(period=1)


def test_voltages_of_a_mesh_are_in_sequence_and_far_limits_in_words() -> None:
    pytest.importorskip("casadi")
    network = three_buses((1.0, 2.0), meshed=True)
    network = network.replace(buses=network.buses.assign(v_min_pu=0.5, v_max_pu=2.0))
    cleared = mo.clear("surplus", network, orders(2), flow="ac")
    ax = cleared.plot.voltages(period=1)
    table = cleared.voltages[cleared.voltages["period"] == 1].set_index("bus")["v_pu"]
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert dots(ax, "bus")[:, 1] == pytest.approx(table.to_numpy())
    assert dots(ax, "bus")[:, 0] == pytest.approx([names.index(bus) for bus in table.index])
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "lower limit: 0.5 (not shown)" in told and "upper limit: 2 (not shown)" in told


def test_a_flow_without_voltages_has_no_picture_of_them(clearing: mo.Clearing) -> None:
    with pytest.raises(mo.MktoptError, match="no voltages"):
        clearing.plot.voltages()
