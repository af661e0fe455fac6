"""Contingencies: on paper, against every outage as a grid of its own, lazily and all at once, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.security import security_violation
from mktopt.errors import DataError, FormulationError, UnknownNameError
from mktopt.formulations import security
from mktopt.formulations.flows.ptdf import ptdf
from mktopt.testing import check_clearing, check_prices
from tests.clearing.markets import affine, congested, grid, meshed, radial, steps

TRIANGLE = [("12", "1", "2", 0.1, 100.0), ("23", "2", "3", 0.1, 100.0), ("13", "1", "3", 0.1, 60.0)]
MARKET = (("up", "1", "offer", 300, 0.02), ("gen", "3", "offer", 100, 0.05))


def triangle(**fields):
    return grid(TRIANGLE, "123", **fields)


def firm(*rows):
    """Firm loads from rows (order, bus, kW)."""
    frame = pd.DataFrame([(o, b, "bid", kw, 1.0, kw) for o, b, kw in rows],
                         columns=["order", "bus", "side", "width_kw", "price", "minimum_kw"])  # fmt: skip
    return mo.Orders.from_steps(frame)


def loads():
    return steps(*MARKET).merge(firm(("d2", "2", 10.0), ("d3", "3", 80.0)))


def feeder(rating=80.0):
    return grid([("line", "s", "a", 0.1, rating)], "sa", "s")


# -- on paper -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("emergency", "generated"), [(1.0, 30.0), (1.1, 24.0)])
@pytest.mark.parametrize("flow", ["ptdf", "dc"])
def test_three_buses_on_paper(flow, emergency, generated):
    """Without 1-2 all of d2 + d3 - gen comes over 1-3: gen = 90 - 60 e, although 1-3 carries 36.7 kW before. Every kW
    more at bus 2 or 3 must be generated; the row's multiplier is 0.05 - 0.02."""
    clearing = mo.clear("dlmp", triangle(), loads(), flow=flow, contingencies="n-1", emergency=emergency)
    assert clearing.quantity("gen") == pytest.approx(generated, abs=1e-6)
    assert [clearing.price(bus) for bus in "123"] == pytest.approx([0.02, 0.05, 0.05], abs=1e-8)
    table = clearing.contingencies.set_index("contingency")
    assert list(table.index) == ["12", "23", "13", "gen"]
    assert list(table["kind"]) == ["branch"] * 3 + ["generator"]
    assert (table["status"] == "secured").all()
    assert table.loc["12", "worst_branch"] == "13"
    assert table.loc["12", "worst_period"] == 0
    net = 90.0 - generated
    assert table.loc["12", "loading_percent"] == pytest.approx(100, abs=1e-6)
    assert table.loc["13", "loading_percent"] == pytest.approx(100 * net / (100 * emergency), abs=1e-6)
    assert table.loc["23", "loading_percent"] == pytest.approx(100 * (net - 10) / (60 * emergency), abs=1e-6)
    assert table.loc["gen", "loading_percent"] == pytest.approx(100 * (80 * 2 + 10) / 3 / (60 * emergency), abs=1e-6)
    check_clearing(clearing)
    parts = clearing.price_parts.set_index("bus")
    assert parts["security"].tolist() == pytest.approx([0.0, 0.03, 0.03], abs=1e-8)
    assert parts["energy"].tolist() == pytest.approx([0.02] * 3, abs=1e-8)
    shares = clearing.price_shares("security")
    assert shares["cause"].tolist() == ["12", "12"]
    assert shares["share"].tolist() == pytest.approx([0.03, 0.03], abs=1e-8)


def test_without_contingencies_nothing_is_generated():
    clearing = mo.clear("dlmp", triangle(), loads())
    assert clearing.quantity("gen") == pytest.approx(0, abs=1e-7)
    assert clearing.contingencies is None


@pytest.mark.parametrize("flow", ["ptdf", "dc", "transport"])
def test_generators_that_stand_in_for_each_other_on_paper(flow):
    """100 kW behind a line of 80: after the loss of g1, 100 - g2 <= 80, and likewise for g2; so both give 20. A kW more
    takes one more of each and one less from upstream: 0.05 + 0.06 - 0.02. Each faces that less the dual of its own
    outage's row: its cost."""
    orders = steps(("up", "s", "offer", 200, 0.02), ("g1", "a", "offer", 60, 0.05), ("g2", "a", "offer", 60, 0.06))
    clearing = mo.clear("dlmp", feeder(), orders.merge(firm(("d", "a", 100.0))), flow=flow, contingencies=["g1", "g2"])
    assert [clearing.quantity(name) for name in ("up", "g1", "g2")] == pytest.approx([60, 20, 20], abs=1e-6)
    assert clearing.price("s") == pytest.approx(0.02, abs=1e-8)
    assert clearing.price("a") == pytest.approx(0.09, abs=1e-8)
    faced = clearing.order_prices.set_index("order")["order_price"]
    assert faced[["g1", "g2"]].tolist() == pytest.approx([0.05, 0.06], abs=1e-8)
    check_clearing(clearing)


def test_security_may_cost_the_operator_money():
    """g1 exports 50 kW although its own loss needs g2 at 0.2: the grid buys dear and sells cheap, -50 x (0.2 - 0.1)."""
    orders = steps(
        ("export", "s", "bid", 200, 0.10), ("up", "s", "offer", 200, 0.12),
        ("g1", "a", "offer", 130, 0.05), ("g2", "a", "offer", 60, 0.20),
    )  # fmt: skip
    clearing = mo.clear("dlmp", feeder(), orders.merge(firm(("d", "a", 100.0))), contingencies=["g1"])
    assert clearing.quantity("export") == pytest.approx(50, abs=1e-6)
    assert clearing.certificate.rent == pytest.approx(-5, abs=1e-6)
    check_clearing(clearing)


def test_a_participant_loses_all_its_offers_at_once():
    """Both of the firm's offers gone, 100 kW must come over the line: 20 kW are not served at 0.5 $/kWh."""
    orders = mo.Orders.from_steps(pd.DataFrame(
        [("up", "up", "s", "offer", 200, 0.02), ("g1", "firm", "a", "offer", 60, 0.05),
         ("g2", "firm", "a", "offer", 60, 0.06), ("d", "d", "a", "bid", 100, 0.50)],
        columns=["order", "participant", "bus", "side", "width_kw", "price"]))  # fmt: skip
    alone = mo.clear("dlmp", feeder(), orders, contingencies=["g1", "g2"])
    both = mo.clear("dlmp", feeder(), orders, contingencies="firm")
    assert alone.quantity("d") == pytest.approx(100, abs=1e-6)
    assert both.quantity("d") == pytest.approx(80, abs=1e-6)
    assert both.contingencies["contingency"].tolist() == ["firm"]
    check_clearing(both)


def test_equal_offers_share_only_as_far_as_security_lets_them():
    """As above with two offers at 0.05 of 60 and 30 kW: shared pro rata, 26.7 and 13.3, the loss of the first would
    leave 86.7 kW to the line."""
    orders = steps(("up", "s", "offer", 200, 0.02), ("g1", "a", "offer", 60, 0.05), ("g2", "a", "offer", 30, 0.05))
    orders = orders.merge(firm(("d", "a", 100.0)))
    for lazy in (False, True):
        clearing = mo.clear("dlmp", feeder(), orders, contingencies="n-1", lazy=lazy)
        assert [clearing.quantity(name) for name in ("g1", "g2")] == pytest.approx([20, 20], abs=1e-6)
        check_clearing(clearing)
    loose = mo.clear("dlmp", feeder(80.0), orders, contingencies="n-1", emergency=1.5)
    assert [loose.quantity(name) for name in ("g1", "g2")] == pytest.approx([40 / 3, 20 / 3], abs=1e-6)


@pytest.mark.parametrize("lazy", [False, True])
def test_only_security_bounds_it(lazy):
    """Offer and bid at one bus, both endless: what the line can bring after the offer's loss, 80 kW, is the limit."""
    orders = steps(("up", "s", "offer", 50, 0.20), ("g", "a", "offer", np.inf, 0.05), ("d", "a", "bid", np.inf, 0.30))
    with pytest.raises(mo.errors.UnboundedError):
        mo.clear("dlmp", feeder(), orders)
    clearing = mo.clear("dlmp", feeder(), orders, contingencies=["g"], lazy=lazy)
    assert clearing.quantity("d") == pytest.approx(80, abs=1e-6)
    assert clearing.price("a") == pytest.approx(0.30, abs=1e-8)
    assert clearing.certificate.primal < 1e-6


# -- every outage as a grid of its own --------------------------------------------------------------------------


def enumerated(network, orders, emergency):
    """Every contingency's flows as rows of the user's own, by the PTDF of the grid that it leaves."""

    def rows(model, network):
        limit = emergency * network.lines["rating_kva"].to_numpy()
        lost = orders.orders[(orders.orders["side"] == "offer") & (orders.orders["bus"] != network.source_bus)]
        found = []
        for t in network.periods:
            p = np.array([model.grid.injection_kw[bus, t] for bus in network.buses["bus"]], dtype=object)
            for k in np.flatnonzero(~network.topology.bridge_mask):
                kept = np.arange(network.n_branches) != k
                rest = network.replace(branches=network.lines[kept])
                found += _limits(rest, p, limit[kept])
            for order in lost.itertuples():
                if order.period == t:
                    left = p.copy()
                    left[network.bus_index[order.bus]] -= model.accepted_kw[order.order, t]
                    found += _limits(network, left, limit)
        return found

    return rows


def _limits(network, p, limit):
    factors, fixed = np.asarray(network.topology.ptdf), network.topology.shift_flow_kw
    return [
        pyo.inequality(-limit[k], sum(h * q for h, q in zip(factors[k], p, strict=True)) + fixed[k], limit[k])
        for k in np.flatnonzero(np.isfinite(limit))
    ]


def drawn(seed, **fields):
    """A meshed market whose ratings bind after outages, with a phase shifter."""
    network = meshed(seed, **fields)
    shift = np.where(np.arange(network.n_branches) == seed % network.n_branches, 0.001, 0.0)
    network = network.replace(branches=network.branches.assign(shift_deg=shift))
    orders = affine(seed, network)
    return congested(network, orders, "ptdf", share=0.9, most=4), orders


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([0.8, 1.0, 1.3]), st.booleans())
def test_it_is_the_market_with_every_outage_as_a_grid_of_its_own(seed, emergency, lazy):
    network, orders = drawn(seed)
    options = {"contingencies": "n-1", "emergency": emergency, "lazy": lazy}
    rows = enumerated(network, orders, emergency)
    try:
        clearing = mo.clear("dlmp", network, orders, **options)
    except mo.errors.InfeasibleError:  # the shifter's own flow, after an outage
        with pytest.raises(mo.errors.InfeasibleError):
            mo.clear("surplus", network, orders, flow="ptdf", extra=rows)
        return
    check_clearing(clearing)
    other = mo.clear("surplus", network, orders, flow="ptdf", extra=rows)
    assert clearing.welfare == pytest.approx(other.welfare, rel=1e-7, abs=1e-7)
    if clearing.prices_unique and other.prices_unique:
        assert clearing.prices["price"].to_numpy() == pytest.approx(other.prices["price"].to_numpy(), abs=1e-5)


@pytest.mark.parametrize("flow", ["ptdf", "dc"])
def test_prices_are_what_more_demand_costs(flow):
    network, orders = drawn(9, hours=(1.0, 0.5))
    options = {"contingencies": "n-1", "emergency": 1.0}
    clearing = mo.clear("dlmp", network, orders, flow=flow, **options)
    rows = clearing.evidence.model.grid.security
    duals = {key: clearing.evidence.program.row(row) for key, row in rows.items()}
    tight = {key for key, row in duals.items() if abs(clearing.evidence.multipliers[row]) > 1e-6}
    kinds = clearing.contingencies.set_index("contingency")["kind"]
    assert {kinds[name] for name, _, _ in tight} == {"branch", "generator"}, "both kinds of rows bind"
    found = check_prices("dlmp", network, orders, buses=["b0", "b2", "b4"], flow=flow, epsilon_kw=0.002, **options)
    assert found["unique"].all()


def test_the_probe_of_a_perturbation_is_no_contingency():
    """A firm offer of the probe's size could fail too under 'n-1', on a line that is full already."""
    check_prices("dlmp", feeder(), steps(
        ("up", "s", "offer", 200, 0.02), ("g", "a", "offer", 60, 0.05), ("d", "a", "bid", 90, 0.50)
    ), contingencies="n-1", epsilon_kw=0.01)  # fmt: skip


# -- lazily -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_round", [1, 5])
@pytest.mark.parametrize("seed", [1, 3])
def test_lazily_it_is_the_same_optimum(seed, per_round, monkeypatch):
    monkeypatch.setattr(security, "PER_ROUND", per_round)
    network, orders = drawn(seed, hours=(1.0, 0.25))
    lazy, full = (mo.clear("dlmp", network, orders, contingencies="n-1", lazy=flag) for flag in (True, False))
    rows = [len(found.evidence.model.grid.security) for found in (lazy, full)]
    assert 1 < rows[0] < rows[1]
    assert lazy.welfare == pytest.approx(full.welfare, rel=1e-8)
    assert lazy.prices["price"].to_numpy() == pytest.approx(full.prices["price"].to_numpy(), abs=1e-6)
    assert lazy.dispatch["quantity_kw"].to_numpy() == pytest.approx(full.dispatch["quantity_kw"].to_numpy(), abs=1e-4)
    check_clearing(lazy)


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_that_just_hold_widen_the_range_of_prices(lazy):
    """Without 1-2 and without 2-3 alike 1-3 carries d3 - gen = 60. A kW more at bus 2 comes by 1-2 unless that is gone,
    so that the two rows, 0.03 to share, leave its price open between 0.02 and 0.05."""
    orders = steps(*MARKET).merge(firm(("d3", "3", 80.0)))
    clearing = mo.clear("dlmp", triangle(), orders, contingencies="n-1", lazy=lazy)
    assert clearing.quantity("gen") == pytest.approx(20, abs=1e-6)
    assert not clearing.prices_unique
    assert clearing.price_interval("2") == pytest.approx((0.02, 0.05), abs=1e-7)
    assert clearing.price_interval("3") == pytest.approx((0.05, 0.05), abs=1e-7)


def test_lazily_with_orders_that_are_all_or_nothing():
    orders = steps(
        ("up", "1", "offer", 300, 0.02), ("gen", "3", "offer", 100, 0.05), ("d2", "2", "bid", 30, 0.40),
        ("d3", "3", "bid", 80, 0.30), ("block", "3", "bid", 70, 0.21), all_or_nothing=[False] * 4 + [True],
    )  # fmt: skip
    found = [mo.clear("dlmp", triangle(), orders, contingencies="n-1", lazy=lazy) for lazy in (True, False)]
    assert found[0].welfare == pytest.approx(found[1].welfare, rel=1e-8)
    assert found[0].dispatch["quantity_kw"].tolist() == pytest.approx(found[1].dispatch["quantity_kw"].tolist())
    check_clearing(found[0])


def test_all_outages_of_a_transmission_grid():
    """Loads may be shed, ratings are a tenth above flows: of tens of thousands of rows a few hundred are needed."""
    network, orders, *_ = mo.load_case("case118")
    orders = mo.Orders(orders.orders.assign(minimum_kw=0.0), orders.segments)
    flow_kw = mo.clear("dlmp", network, orders).flows["p_kw"].abs().clip(lower=70e3)
    network = network.with_ratings(dict(zip(network.lines["branch"], 1.1 * flow_kw, strict=True)))
    clearing = mo.clear("dlmp", network, orders, contingencies="n-1")
    assert clearing.options["lazy"]
    assert 0 < len(clearing.evidence.model.grid.security) < 5_000
    kinds = clearing.contingencies["status"].str.split(":").str[0].value_counts()
    assert kinds.to_dict() == {"secured": len(clearing.contingencies) - 9, "islands": 9}
    assert clearing.contingencies["loading_percent"].max() == pytest.approx(100, abs=1e-4)
    check_clearing(clearing)


def test_rows_that_cannot_bind_are_not_declared():
    network, orders = triangle(), loads()
    some = mo.build("dlmp", network, orders, contingencies="n-1").grid.security
    assert ("12", "13", 0) in some
    wide = network.with_ratings(dict.fromkeys(["12", "23", "13"], 1e6))
    assert len(mo.build("dlmp", wide, orders, contingencies="n-1").grid.security) == 0
    endless = network.with_ratings(dict.fromkeys(["12", "23", "13"], np.inf))
    clearing = mo.clear("dlmp", endless, orders, contingencies="n-1")
    assert (clearing.contingencies["status"] == "secured").all()
    assert clearing.contingencies[["worst_period", "loading_percent"]].isna().all(axis=None)


# -- the report and the proof -----------------------------------------------------------------------------------


def test_outages_that_cut_buses_off_are_reported():
    network = radial(1, 5)
    orders = affine(1, network)
    clearing = mo.clear("dlmp", network, orders, contingencies="n-1")
    table = clearing.contingencies
    branches = table[table["kind"] == "branch"]
    assert len(branches) == network.n_branches
    assert branches["status"].str.startswith("islands: bus").all()
    assert branches["loading_percent"].isna().all()
    assert (table["status"][table["kind"] == "generator"] == "secured").all()
    assert any("4 of" in note and "cut buses off" in note for note in clearing.notes)
    # what is cut off is what no way from the source reaches
    import networkx as nx

    for row in branches.itertuples():
        graph = nx.Graph()
        graph.add_nodes_from(network.buses["bus"])
        rest = network.lines[network.lines["branch"] != row.contingency]
        graph.add_edges_from(zip(rest["from_bus"], rest["to_bus"], strict=True))
        lost = set(graph) - nx.node_connected_component(graph, "b0")
        assert set(row.status.split(" ", 2)[2].split(", ")) == lost


def test_a_bridge_in_a_list_is_reported_too():
    network = grid([*TRIANGLE, ("34", "3", "4", 0.1, 50.0)], "1234")
    clearing = mo.clear("dlmp", network, loads(), contingencies=["34", "12", "12"])
    assert clearing.contingencies["status"].tolist() == ["islands: bus 4", "secured"]
    assert clearing.quantity("gen") == pytest.approx(30, abs=1e-6)


def test_without_branch_flows_it_says_so():
    clearing = mo.clear("dlmp", triangle(), loads(), flow="copperplate", contingencies="n-1")
    assert (clearing.contingencies["status"] == "no branch flows").all()
    assert any("no branches" in note for note in clearing.notes)
    assert clearing.quantity("gen") == pytest.approx(0, abs=1e-7)


def test_the_certificate_sees_what_is_not_secure():
    model = mo.build("dlmp", triangle(), loads(), contingencies="n-1")
    clearing = mo.solve(model)
    assert security_violation(clearing) < 1e-8
    assert clearing.certificate.ok()
    told = clearing.contingencies.assign(loading_percent=50.0)
    assert "primal" in replace(clearing, contingencies=told).certificate.failures()
    assert "primal" in replace(clearing, contingencies=None).certificate.failures()
    model.grid.security.deactivate()
    insecure = mo.solve(model)
    assert security_violation(insecure) == pytest.approx(90 / 60 - 1)
    assert insecure.contingencies["status"][0] == "overloaded"
    assert "primal" in insecure.certificate.failures()


def test_it_is_saved_and_read(tmp_path):
    network = grid([*TRIANGLE, ("34", "3", "4", 0.1, 50.0)], "1234")
    clearing = mo.clear("dlmp", network, loads(), contingencies="n-1", emergency={"13": 1.1})
    clearing.save(tmp_path / "saved")
    loaded = mo.Clearing.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(loaded.contingencies, clearing.contingencies)
    assert str(loaded.contingencies["worst_period"].dtype) == "Int64"
    assert loaded.options["contingencies"] == "n-1"
    assert loaded.certificate.ok()


# -- what is refused ------------------------------------------------------------------------------------------------


def own(block, network, injection):
    """The physics of `ptdf` under another name, of which nothing is known."""
    ptdf(block, network, injection)


@pytest.mark.parametrize("flow", ["lindistflow", "distflow", "ac", own])
def test_flows_that_are_not_linear_are_refused(flow):
    with pytest.raises(FormulationError, match="ptdf or dc"):
        mo.clear("dlmp", feeder(), steps(("up", "s", "offer", 9, 0.1)), flow=flow, contingencies="n-1")


def test_transport_in_loops_is_refused():
    with pytest.raises(FormulationError, match="not bound to physics"):
        mo.clear("dlmp", triangle(), loads(), flow="transport", contingencies="n-1")


def test_another_susceptance_is_refused():
    flow = mo.flow("dc", susceptance="powermodels")
    with pytest.raises(FormulationError, match="outage factors are those of susceptance='reactance'"):
        mo.clear("dlmp", triangle(), loads(), flow=flow, contingencies="n-1")


def test_changing_data_are_refused():
    with pytest.raises(FormulationError, match="parametric market takes no contingencies"):
        mo.build("dlmp", triangle(), loads(), contingencies="n-1", parametric=True)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (["gem"], UnknownNameError, "did you mean 'gen'"),
        ("12, 31", UnknownNameError, "unknown contingency '31'"),
        (["d3"], FormulationError, "is a bid"),
        (["up"], FormulationError, "at the source bus '1'"),
        (["old"], FormulationError, "out of service"),
        (["both"], FormulationError, "'branch both' or 'offer both'"),
        (3.5, FormulationError, "takes 'n-1' or names"),
        ({"12": 1}, FormulationError, "takes 'n-1' or names"),
    ],
)
def test_names_that_cannot_fail(asked, error, words):
    branches = pd.DataFrame([*TRIANGLE, ("old", "1", "3", 0.1, 9.0), ("both", "1", "3", 0.1, 9.0)],
                            columns=["branch", "from_bus", "to_bus", "x_ohm", "rating_kva"])  # fmt: skip
    branches = branches.assign(r_ohm=0.0, in_service=branches["branch"] != "old")
    network = mo.Network(triangle().buses, branches, "1")
    orders = loads().merge(steps(("both", "2", "offer", 5, 0.3)))
    with pytest.raises(error, match=words):
        mo.clear("dlmp", network, orders, contingencies=asked)


def test_all_of_them_and_some_more():
    """'n-1' among names stands for all of them, to which participants may be added."""
    frame = pd.DataFrame([("g1", "firm", "2", "offer", 9, 0.3), ("g2", "firm", "3", "offer", 9, 0.3)],
                         columns=["order", "participant", "bus", "side", "width_kw", "price"])  # fmt: skip
    orders = loads().merge(mo.Orders.from_steps(frame))
    for asked in ("n-1, firm, 12", ["firm", "n-1"]):
        found = mo.clear("dlmp", triangle(), orders, contingencies=asked).contingencies["contingency"]
        assert sorted(found) == sorted(["12", "23", "13", "gen", "g1", "g2", "firm"])


@pytest.mark.parametrize("asked", ["n-1", "gen"])
def test_a_grid_without_branches_is_secure(asked):
    network = mo.Network(pd.DataFrame({"bus": ["1"], "base_kv": 1.0}), triangle().branches[:0], "1")
    orders = steps(("up", "1", "offer", 300, 0.02), ("d", "1", "bid", 10, 1.0))
    if asked == "gen":
        with pytest.raises(UnknownNameError, match="unknown contingency 'gen'"):
            mo.clear("dlmp", network, orders, contingencies=asked)
        return
    clearing = mo.clear("dlmp", network, orders, contingencies=asked)
    assert clearing.contingencies.empty
    assert clearing.certificate.ok()


def test_names_that_two_things_have():
    branches = triangle().branches.assign(branch=["12", "23", "gen"])
    network = mo.Network(triangle().buses, branches, "1")
    clearing = mo.clear("dlmp", network, loads(), contingencies="n-1")
    names = clearing.contingencies["contingency"].tolist()
    assert names == ["12", "23", "branch gen", "offer gen"]
    again = mo.clear("dlmp", network, loads(), contingencies=names)
    pd.testing.assert_frame_equal(again.contingencies, clearing.contingencies)


@pytest.mark.parametrize("emergency", [0, -1.0, np.nan, np.inf, "much", True, {"13": 0.0}])
def test_emergency_factors_must_be_positive(emergency):
    with pytest.raises(DataError, match="positive factor"):
        mo.clear("dlmp", triangle(), loads(), contingencies="n-1", emergency=emergency)


def test_options_are_looked_at_without_contingencies_too():
    with pytest.raises(DataError, match="positive factor"):
        mo.clear("dlmp", triangle(), loads(), emergency=0.0)
    with pytest.raises(FormulationError, match="'lazy' takes true"):
        mo.clear("dlmp", triangle(), loads(), contingencies="n-1", lazy="yes")


def test_emergency_factors_of_branches():
    clearing = mo.clear("dlmp", triangle(), loads(), contingencies="n-1", emergency={"13": 1.2})
    assert clearing.quantity("gen") == pytest.approx(90 - 72, abs=1e-6)
    with pytest.raises(UnknownNameError, match="did you mean '13'"):
        mo.clear("dlmp", triangle(), loads(), contingencies="n-1", emergency={"133": 1.2})


def test_nothing_may_fail():
    clearing = mo.clear("dlmp", triangle(), loads(), contingencies=[])
    assert len(clearing.contingencies) == 0
    assert clearing.certificate.ok()


@pytest.mark.parametrize("lazy", [False, True])
def test_what_cannot_be_secured_is_infeasible_by_name(lazy):
    """80 kW at bus 3 when 1-3 may carry 60 alone, without 1-2 or without 2-3."""
    orders = steps(("up", "1", "offer", 300, 0.02)).merge(firm(("d", "3", 80.0)))
    with pytest.raises(mo.errors.InfeasibleError, match="after the outage of") as caught:
        mo.clear("dlmp", triangle(), orders, contingencies="n-1", lazy=lazy)
    shed = caught.value.report.cure("serve less")
    assert shed["where"].tolist() == ["3"]
    assert shed["amount"].sum() == pytest.approx(20, abs=1e-5)
    wider = caught.value.report.cure("load branches more")
    assert sorted(wider["where"]) == ["13 after the outage of 12", "13 after the outage of 23"]
    assert wider["amount"].tolist() == pytest.approx([20, 20], abs=1e-5)


def test_an_infeasible_report_says_where_rows_are_missing(monkeypatch):
    orders = steps(("up", "1", "offer", 300, 0.02)).merge(firm(("d", "3", 80.0)))
    monkeypatch.setattr(security, "FEW", 1)
    with pytest.raises(mo.errors.InfeasibleError, match="more may have to give"):
        mo.clear("dlmp", triangle(), orders, contingencies="n-1")
