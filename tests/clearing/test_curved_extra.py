"""Curved rows of the user's own: cones, logarithms and what is not convex, from the model to the proof."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.certificate import certify
from mktopt.solvers import Has
from mktopt.testing import check_clearing, check_prices
from tests.clearing.markets import affine, congested, grid, radial, steps
from tests.clearing.test_price_intervals import slopes

CONVEX = [name for name, solver in mo.SOLVERS.items() if "SOCP" in solver.takes and solver.available()]
LINE = [("1-2", "1", "2", 0.1, np.inf)]


def feeder(seed: int = 13) -> tuple[mo.Network, mo.Orders]:
    """Two periods, affine orders, one full branch."""
    network = radial(seed, hours=[0.5, 2.0])
    orders = affine(seed, network)
    return congested(network, orders, "transport", most=1), orders


# Each binds at the feeder's optimum, is convex, and may have another right-hand side.


def disc(limit: float = 50.0**2):
    """x² + y² <= limit"""

    def row(model, network):
        return model.accepted_kw["db1", 0] ** 2 + model.accepted_kw["db3", 0] ** 2 <= limit

    return row


def ellipse(limit: float = 95.0**2):
    """4 x² + x f + f² <= limit, with a flow in it"""

    def row(model, network):
        x, f = model.accepted_kw["db2", 0], model.grid.p_kw["l1", 0]
        return 4 * x**2 + x * f + f**2 <= limit

    return row


def product(limit: float = 38.0**2):
    """x y >= limit: the cone of a geometric mean"""

    def row(model, network):
        return model.accepted_kw["sb2", 0] * model.accepted_kw["sb4", 0] >= limit

    return row


def utility(limit: float = 7.6):
    """log(1 + x) + log(1 + y) >= limit: both must get something"""

    def row(model, network):
        x, y = model.accepted_kw["db1", 0], model.accepted_kw["db3", 0]
        return pyo.log(1 + x) + pyo.log(1 + y) >= limit

    return row


ROWS = {"disc": disc, "ellipse": ellipse, "product": product, "utility": utility}


@pytest.fixture(scope="module")
def market() -> tuple[mo.Network, mo.Orders]:
    return feeder()


@pytest.mark.parametrize("solver", CONVEX)
@pytest.mark.parametrize("name", ROWS)
def test_prices_and_duals_are_what_perturbation_says(market, name, solver):
    network, orders = market
    row = ROWS[name]
    limit = row.__defaults__[0]
    clearing = mo.clear("surplus", network, orders, extra=[row()], solver=solver)
    assert clearing.solver == solver
    table = clearing.constraints
    dual = table["dual"].item()
    assert abs(dual) > 1e-6, "the row does not bind"
    assert table["slack"].item() == pytest.approx(0.0, abs=1e-5 * limit)
    assert clearing.certificate.ok(), clearing.certificate
    assert clearing.certificate.convex and clearing.certificate.gap <= 1e-6
    check_clearing(clearing)
    held = check_prices("surplus", network, orders, buses=["b1", "b4"], epsilon_kw=0.01, extra=[row()], solver=solver)
    assert held["unique"].all()
    step = 1e-4 * limit
    moved = [mo.clear("surplus", network, orders, extra=[row(limit + s)], solver=solver) for s in (step, -step)]
    assert (moved[0].welfare - moved[1].welfare) / (2 * step) == pytest.approx(dual, rel=2e-3)
    assert clearing.prices_unique
    low, high = clearing.price_interval("b1", 0)
    assert low == pytest.approx(high, abs=1e-7)


@pytest.mark.parametrize("name", ROWS)
def test_an_order_faces_the_dual_times_the_slope_of_the_row(market, name):
    """At what it faces each order in the row is at the margin of its own curve."""
    network, orders = market
    clearing = mo.clear("surplus", network, orders, extra=[ROWS[name]()])
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    inner = (quantity > 1e-3) & (quantity < orders.width_kw - 1e-3)
    first = orders.curves.first
    margin = orders.curves.start[first] + (orders.curves.end - orders.curves.start)[first] * quantity / orders.width_kw
    faced = clearing.order_prices["order_price"].to_numpy()
    assert faced[inner] == pytest.approx(margin[inner], abs=1e-6)
    assert np.abs(faced - clearing.dispatch["price"]).max() > 1e-3, "nobody faces more than the price of the bus"


@pytest.mark.parametrize("name", ROWS)
def test_solvers_agree(market, name):
    network, orders = market
    found = [mo.clear("surplus", network, orders, extra=[ROWS[name]()], solver=solver) for solver in CONVEX]
    for other in found[1:]:
        assert other.welfare == pytest.approx(found[0].welfare, rel=1e-7)
        assert other.prices["price"].to_numpy() == pytest.approx(found[0].prices["price"].to_numpy(), abs=1e-5)


def changed(clearing: mo.Clearing, table: str, column: str, row: int, factor: float) -> mo.Clearing:
    frame = getattr(clearing, table).copy()
    frame.iloc[row, frame.columns.get_loc(column)] *= factor
    return replace(clearing, **{table: frame})


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    ("table", "column", "factor"),
    [
        ("constraints", "dual", 1.001), ("constraints", "dual", -1.0), ("prices", "price", 1.001),
        ("dispatch", "quantity_kw", 1.001), ("dispatch", "quantity_kw", 0.999), ("order_prices", "order_price", 1.001),
    ],
)  # fmt: skip
def test_tampering_is_seen(market, name, table, column, factor):
    network, orders = market
    clearing = mo.clear("surplus", network, orders, extra=[ROWS[name]()])
    place = 0
    if table != "constraints":
        in_row = {"disc": "db1", "ellipse": "db2", "product": "sb2", "utility": "db1"}[name]
        order = np.flatnonzero((clearing.dispatch["order"] == in_row) & (clearing.dispatch["period"] == 0))[0]
        place = int(order)
        if table == "prices":
            place = int(network.bus_index[clearing.dispatch["bus"].iloc[place]]) * 2
    certificate = certify(changed(clearing, table, column, place, factor))
    assert not certificate.ok(), certificate


def test_a_slack_that_is_not_that_of_the_expression_is_seen(market):
    clearing = mo.clear("surplus", *market, extra=[utility()])
    table = clearing.constraints.assign(slack=0.5)
    assert certify(replace(clearing, constraints=table)).failures() == ["tables"]


def test_the_certificate_reads_expressions_without_touching_the_model(market):
    """Values of the model are as they were after certifying other values."""
    clearing = mo.clear("surplus", *market, extra=[utility()])
    model = clearing.evidence.model
    before = [v.value for v in model.component_data_objects(pyo.Var)]
    certify(changed(clearing, "dispatch", "quantity_kw", 0, 0.5))
    assert [v.value for v in model.component_data_objects(pyo.Var)] == before


def test_outside_the_domain_of_a_logarithm_nothing_is_certified(market):
    clearing = mo.clear("surplus", *market, extra=[utility()])
    table = clearing.dispatch.copy()
    table.loc[(table["order"] == "db1") & (table["period"] == 0), "quantity_kw"] = -5.0
    certificate = certify(replace(clearing, dispatch=table))
    assert not certificate.ok()
    assert math.isnan(certificate.primal)


# -- on paper ---------------------------------------------------------------------------------------------------------


def test_a_disc_on_paper():
    """max 0.9 a + 0.9 b - 0.1 (a + b) with a² + b² <= 50²: a = b = 50/√2, and one more kW costs the offer's 0.1.
    dual: 0.8 √2 R = 0.8 √2 √r, by r: 0.8 √2 / (2 R)."""
    network = grid(LINE, "12", hours=[2.0])
    orders = steps(("s", "1", "offer", 200, 0.1), ("a", "2", "bid", 100, 0.9), ("b", "2", "bid", 100, 0.9))

    def circle(model, network):
        return model.accepted_kw["a", 0] ** 2 + model.accepted_kw["b", 0] ** 2 <= 50**2

    for solver in CONVEX:
        clearing = mo.clear("surplus", network, orders, extra=[circle], solver=solver)
        assert clearing.quantity("a") == pytest.approx(50 / math.sqrt(2), abs=1e-4)
        assert clearing.price("2") == pytest.approx(0.1, abs=1e-7)
        assert clearing.constraints["dual"].item() == pytest.approx(2 * 0.8 * math.sqrt(2) / 100, abs=1e-7)
        assert clearing.order_prices["order_price"].to_numpy() == pytest.approx([0.1, 0.9, 0.9], abs=1e-6)
        assert clearing.certificate.ok(), clearing.certificate
        assert clearing.certificate.rent_must_be_positive


def test_a_corner_beside_a_cone():
    """The cone gives 50 kW, and so does the cheap offer: the price is between 0.1 and 0.3."""
    orders = steps(("s", "1", "offer", 50, 0.1), ("t", "1", "offer", 50, 0.3), ("a", "2", "bid", 100, 0.9))

    def disc(model, network):
        return model.accepted_kw["a", 0] ** 2 <= 50**2

    clearing = mo.clear("surplus", grid(LINE, "12"), orders, extra=[disc], solver="clarabel")
    assert clearing.price_interval("2") == pytest.approx((0.1, 0.3), abs=1e-5)
    assert not clearing.prices_unique
    table = check_prices("surplus", clearing.network, orders, buses=["2"], epsilon_kw=0.1, extra=[disc])
    assert (table["less"].item(), table["more"].item()) == pytest.approx((0.1, 0.3), abs=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_the_ends_of_a_price_are_one_sided_derivatives_beside_curved_rows(seed):
    """Whole numbers, so that corners are frequent; the welfare bends by the row, so that a step tells its slope to
    one part in a hundred."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    network = radial(seed % 1000, n=n, hours=[1.0])
    rated = [str(branch) for branch in network.lines["branch"] if rng.random() < 0.4]
    network = network.with_ratings({branch: float(rng.integers(1, 4)) for branch in rated})
    orders = steps(*[
        (f"o{k}", f"b{rng.integers(n)}", str(rng.choice(["bid", "offer"])), float(rng.integers(1, 4)),
         float(rng.choice([0.1, 0.2, 0.3, 0.5]))) for k in range(int(rng.integers(3, 8)))
    ])  # fmt: skip
    a, b = rng.choice(len(orders), 2, replace=False)
    limit, kind = int(rng.integers(1, 20)), int(rng.integers(3))

    def row(model, network):
        x, y = model.accepted_kw[f"o{a}", 0], model.accepted_kw[f"o{b}", 0]
        if kind == 2:
            return pyo.log(1 + x) + pyo.log(1 + y) >= np.log(min(limit, 6))
        return x**2 + y**2 <= limit if kind == 0 else x**2 <= limit - 3 * y

    try:
        clearing = mo.clear("surplus", network, orders, extra=[row])
    except mo.InfeasibleError:
        return
    assert clearing.certificate.ok(), clearing.certificate
    bus = f"b{rng.integers(n)}"
    ends = clearing.price_interval(bus)
    assert ends[0] - 1e-9 <= clearing.price(bus) <= ends[1] + 1e-9
    assert ends == pytest.approx(slopes(clearing, bus, 0, 1e-3, extra=[row]), rel=1e-2, abs=1e-3)


# -- not convex -------------------------------------------------------------------------------------------------------


def either_or(limit: float = 100.0):
    """x y <= limit: not both may be large"""

    def row(model, network):
        return model.accepted_kw["a", 0] * model.accepted_kw["b", 0] <= limit

    return row


def two_bids() -> tuple[mo.Network, mo.Orders]:
    frame = pd.DataFrame({
        "order": ["s", "a", "b"], "bus": ["1", "2", "2"], "side": ["offer", "bid", "bid"],
        "q_min_kw": 0.0, "q_max_kw": [200.0, 40.0, 40.0], "price_min": [0.1, 0.2, 0.2], "price_max": [0.2, 0.9, 0.8],
    })  # fmt: skip
    return grid(LINE, "12"), mo.Orders.from_curves(frame)


def test_a_row_that_is_not_convex_is_solved_locally_and_says_so():
    clearing = mo.clear("surplus", *two_bids(), extra=[either_or()])
    assert clearing.solver == "ipopt"
    assert clearing.status.has is Has.LOCAL
    assert clearing.quantity("a") * clearing.quantity("b") == pytest.approx(100, rel=1e-4)
    certificate = clearing.certificate
    assert certificate.gap is None and certificate.local and not certificate.convex
    assert certificate.ok(), certificate
    assert "local optimum" in str(certificate) and "slackness" in str(certificate)
    assert any("local optimum" in note for note in clearing.notes)
    held = check_prices("surplus", *two_bids(), buses=["2"], epsilon_kw=0.01, extra=[either_or()])
    assert held["unique"].all()
    dual = clearing.constraints["dual"].item()
    up, down = (mo.clear("surplus", *two_bids(), extra=[either_or(100 + s)]).welfare for s in (0.1, -0.1))
    assert (up - down) / 0.2 == pytest.approx(dual, rel=1e-3)
    for table, column, place in (("prices", "price", 1), ("dispatch", "quantity_kw", 1), ("constraints", "dual", 0)):
        assert not certify(changed(clearing, table, column, place, 1.001)).ok()


def test_a_local_result_is_saved_and_read(tmp_path):
    clearing = mo.clear("surplus", *two_bids(), extra=[either_or()])
    clearing.save(tmp_path / "out")
    loaded = mo.Clearing.load(tmp_path / "out")
    assert loaded.certificate.gap is None
    assert loaded.certificate.ok()
    assert "local optimum" in loaded.summary()
    assert loaded.prices_unique == clearing.prices_unique


def test_convex_solvers_refuse_it_by_name():
    with pytest.raises(mo.FormulationError, match=r"'clarabel' takes .* NLP because .*'row'.*use 'ipopt'"):
        mo.clear("surplus", *two_bids(), extra=[either_or()], solver="clarabel")


# -- infeasible -------------------------------------------------------------------------------------------------------


def firm(width: float = 60.0) -> tuple[mo.Network, mo.Orders]:
    orders = steps(("s", "1", "offer", 200, 0.1), ("a", "2", "bid", width, 0.9), ("b", "2", "bid", width, 0.9),
                   minimum_kw=[0.0, width, width])  # fmt: skip
    return grid(LINE, "12"), orders


def test_a_cone_that_makes_a_market_infeasible_is_named_with_its_cure():
    """60² + 60² is 7200: the disc of 80² lacks 800."""

    def disc(model, network):
        return model.accepted_kw["a", 0] ** 2 + model.accepted_kw["b", 0] ** 2 <= 80**2

    with pytest.raises(mo.InfeasibleError) as error:
        mo.clear("surplus", *firm(), extra=[disc])
    report = error.value.report
    assert sorted(name.split(",")[0] for name in report.conflict) == [
        "constraint 'disc' <= 6400", "firm order a", "firm order b"
    ]  # fmt: skip
    assert report.irreducible
    assert not report.local
    raised = report.relaxation[report.relaxation["where"] == "disc"]
    assert raised["amount"].to_numpy() == pytest.approx(800, rel=1e-4)
    assert "raise the limit of disc: 800" in str(error.value)


def test_a_market_that_is_not_convex_and_has_no_answer_nearby():
    with pytest.raises(mo.InfeasibleError, match="no dispatch was found") as error:
        mo.clear("surplus", *firm(), extra=[either_or(50.0**2)])
    report = error.value.report
    assert report.local
    raised = report.relaxation[report.relaxation["where"] == "row"]
    assert raised["amount"].to_numpy() == pytest.approx(3600 - 2500, rel=1e-3)


# -- fallbacks --------------------------------------------------------------------------------------------------------


def test_the_notes_tell_of_a_solver_that_gave_no_answer(market):
    network, orders = market
    clearing = mo.clear("surplus", network, orders, solver_options={"max_iter": 1})
    assert clearing.solver == "highs"
    assert any("clarabel gave no answer" in note and "highs answered" in note for note in clearing.notes)
    assert clearing.certificate.ok()
    plain = mo.clear("surplus", network, orders)
    assert not any("gave no answer" in note for note in plain.notes)
    chain = mo.clear("surplus", network, orders, solver=["clarabel", "highs"], solver_options={"max_iter": 1})
    assert chain.solver == "highs"
    with pytest.raises(mo.UnknownNameError, match="unknown solver 'hihgs'"):
        mo.clear("surplus", network, orders, solver=["clarabel", "hihgs"])
