"""Sessions of markets: other data give what clearing the changed market anew gives, and nothing is written to."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from tests.clearing.markets import affine, grid, meshed, radial, steps

FLOWS = ("copperplate", "transport", "dc", "ptdf")  # whose programs are linear but for the curves of orders
KINDS = ("affine", "steps", "mixed", "whole", "whole and affine")


def a_grid(structure: int, data: int, periods: int = 2) -> mo.Network:
    """A meshed grid whose structure (which branches are rated) and data (how highly) are drawn apart."""
    network = meshed(structure, n=5, chords=2, hours=[1.0, 0.5][:periods])
    rated, rng = np.random.default_rng(structure).random(network.n_branches) < 0.7, np.random.default_rng(data)
    sizes = rng.uniform(15, 60, network.n_branches)
    return network.with_ratings({b: s for b, s, on in zip(network.lines["branch"], sizes, rated, strict=True) if on})


def some_orders(structure: int, data: int, network: mo.Network, kind: str) -> mo.Orders:
    """Bids and offers of one to three segments; firm, partly firm and all-or-nothing ones among them."""
    shape, rng = np.random.default_rng(structure), np.random.default_rng(data)
    orders, segments = [], []
    for t in network.periods:
        for k, bus in enumerate([*network.buses["bus"], *network.buses["bus"]]):
            offer = k >= network.n_buses or k == 0
            name, count = f"{'s' if offer else 'd'}{k}", int(shape.integers(1, 4)) if "affine" not in kind else 1
            sloped = kind in ("affine", "whole and affine") or (kind == "mixed" and shape.random() < 0.5)
            widths = rng.uniform(5, 40, count)
            prices = np.sort(rng.uniform(0.02, 0.6, 2 * count))
            prices = prices if offer else prices[::-1]
            endless = k == 0 and kind in ("steps", "mixed")
            start, end = prices[::2], prices[1::2] if sloped and not endless else prices[::2]
            odd = shape.random()
            minimum = 0.0
            if "whole" not in kind and not offer and odd < 0.2:
                minimum = float(widths.sum())
            elif "whole" not in kind and not offer and odd < 0.4:
                minimum = float(widths[0] * rng.uniform(0.1, 0.5))
            whole = "whole" in kind and 0 < k and odd < 0.4
            orders.append((name, t, bus, "offer" if offer else "bid", minimum, whole))
            widths = np.r_[widths[:-1], np.inf] if endless else widths
            segments += [(name, t, s, widths[s], start[s], end[s]) for s in range(count)]
    columns = ["order", "period", "bus", "side", "minimum_kw", "all_or_nothing"]
    names = ["order", "period", "segment", "width_kw", "price_start", "price_end"]
    return mo.Orders(pd.DataFrame(orders, columns=columns), pd.DataFrame(segments, columns=names))


def set_one_by_one(session: Any, network: mo.Network, orders: mo.Orders) -> None:
    """Every parameter from the tables, by its key: what a user would write without `update`."""
    table = orders.segments.set_index(["order", "period", "segment"]).sort_index()
    minimum = orders.orders.set_index(["order", "period"])["minimum_kw"]
    slope = (table["price_end"] - table["price_start"]).abs() / table["width_kw"]
    rating = network.lines.set_index("branch")["rating_kva"]
    columns = {"ask_price": table["price_start"], "bid_price": table["price_start"], "ask_slope": slope}
    columns |= {"bid_slope": slope, "width_kw": table["width_kw"], "firm_kw": table["width_kw"]}
    for name, keys in session.names.items():
        if name == "rating_kva":
            values = [rating[branch] for branch, _ in keys]
        elif name == "least_kw":
            before = {key: table["width_kw"].loc[key[:2]].iloc[: key[2]].sum() for key in keys}
            values = [np.clip(minimum[key[:2]] - before[key], 0, table.at[key, "width_kw"]) for key in keys]
        elif name == "whole_value":
            worth = (table["price_start"] + table["price_end"]) / 2 * table["width_kw"]
            values = [worth.loc[key].sum() for key in keys]
        else:
            values = columns[name].loc[keys].to_list()
        session.set(name, values)


def agree(cleared: Any, clearing: mo.Clearing, dispatch: bool) -> None:
    assert cleared.welfare == pytest.approx(clearing.welfare, rel=1e-6, abs=1e-6)
    assert cleared.status == clearing.status
    wide = clearing.dispatch["quantity_kw"].max()
    if dispatch:
        np.testing.assert_allclose(cleared.dispatch_kw, clearing.dispatch["quantity_kw"], atol=1e-3 * max(wide, 1.0))
    if clearing.prices_unique and not clearing.orders.orders["all_or_nothing"].any():
        np.testing.assert_allclose(cleared.prices.ravel(), clearing.prices["price"], atol=1e-4)


def snapshot(model: Any) -> list[Any]:
    """All values that a model carries, of variables, their bounds and parameters."""
    variables = [(v.name, v.value, v.lb, v.ub, v.fixed) for v in model.component_data_objects(pyo.Var)]
    params = [(p.name, k, pyo.value(p[k])) for p in model.component_objects(pyo.Param) for k in p]
    return variables + params


@settings(max_examples=12)
@given(
    structure=st.integers(0, 10**6),
    data=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    flow=st.sampled_from(FLOWS),
    tables=st.booleans(),
)
def test_other_data_give_what_the_changed_market_gives(
    structure: int, data: int, kind: str, flow: str, tables: bool
) -> None:
    network = a_grid(structure, data)
    model = mo.build("surplus", network, some_orders(structure, data, network, kind), flow=flow, parametric=True)
    before = snapshot(model)
    session = mo.Session(model)
    for step in range(1, 4):
        grid_now = a_grid(structure, data + step)
        orders = some_orders(structure, data + step, network, kind)
        if tables:
            session.update(orders=orders, network=grid_now)
        else:
            set_one_by_one(session, grid_now, orders)
        try:
            clearing = mo.clear("surplus", grid_now, orders, flow=flow)
        except mo.InfeasibleError:
            with pytest.raises(mo.InfeasibleError):
                session.solve()
            continue
        cleared = session.solve()
        agree(cleared, clearing, dispatch=kind == "affine")  # others may have several optima of equal welfare
    assert snapshot(model) == before


@settings(max_examples=8)
@given(
    structure=st.integers(0, 10**6),
    data=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    flow=st.sampled_from(FLOWS),
)
def test_the_full_result_belongs_to_the_last_solve_and_is_certified(
    structure: int, data: int, kind: str, flow: str
) -> None:
    network = a_grid(structure, data, periods=1)
    model = mo.build("surplus", network, some_orders(structure, data, network, kind), flow=flow, parametric=True)
    before, session = snapshot(model), mo.Session(model)
    orders = some_orders(structure, data + 1, network, kind)
    set_one_by_one(session, network, orders)
    cleared = session.solve(check=False)
    if not cleared.status.ok:
        return
    full = session.clearing()
    assert full.certificate.ok(), full.certificate
    assert full.welfare == pytest.approx(cleared.welfare, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(full.dispatch["quantity_kw"], cleared.dispatch_kw, atol=1e-3)
    np.testing.assert_allclose(full.orders.segments["width_kw"], orders.segments["width_kw"], rtol=1e-12)
    if "whole" not in kind:  # whose prices are known by their sum alone
        np.testing.assert_allclose(full.orders.segments["price_end"], orders.segments["price_end"], atol=1e-9)
    session.set("ask_price", 9.0)  # for the next solve
    assert session.clearing().welfare == full.welfare
    assert snapshot(model) == before


def two_bus(demand: float = 80.0, rating: float = 60.0) -> tuple[mo.Network, mo.Orders]:
    """A cheap offer at bus 1, a dear one at bus 2 where the firm demand is; the line between is too thin for all."""
    network = grid([("l", "1", "2", 0.1, rating)], "12")
    offers = ("cheap", "1", "offer", 100.0, 0.1), ("dear", "2", "offer", 100.0, 0.3)
    orders = steps(*offers, ("load", "2", "bid", demand, 5.0))
    return network, mo.Orders(orders.orders.assign(minimum_kw=[0.0, 0.0, demand]), orders.segments)


def session_of(network: mo.Network, orders: mo.Orders, **options: Any) -> Any:
    return mo.Session(mo.build("surplus", network, orders, parametric=True, **options))


def test_a_market_on_paper() -> None:
    session = session_of(*two_bus())
    assert session.names["ask_price"] == [("cheap", 0, 0), ("dear", 0, 0)]
    assert "ask_slope" not in session.names
    assert session.solver == "highs"
    cleared = session.solve()
    assert cleared.dispatch_kw.tolist() == pytest.approx([60, 20, 80])
    assert cleared.prices.tolist() == [pytest.approx([0.1]), pytest.approx([0.3])]
    assert cleared.flows_kw.tolist() == [pytest.approx([60])]
    session.set("rating_kva", 90.0)
    session.set("ask_price", {("dear", 0, 0): 0.05})
    cleared = session.solve()
    assert cleared.dispatch_kw.tolist() == pytest.approx([0, 80, 80])
    assert cleared.welfare == pytest.approx(80 * 5.0 - 80 * 0.05)
    assert cleared.prices.ravel() == pytest.approx(0.05)
    session.set("firm_kw", 120.0)
    assert session.solve().dispatch_kw.tolist() == pytest.approx([20, 100, 120])


def test_an_infeasible_market_says_why_when_asked_and_can_be_mended() -> None:
    session = session_of(*two_bus())
    session.set("firm_kw", 200.0)
    with pytest.raises(mo.InfeasibleError, match="present data") as caught:
        session.solve()
    assert "firm order load" in str(caught.value.report)
    assert caught.value.report.cure("serve less")["amount"].sum() == pytest.approx(40.0)
    cleared = session.solve(check=False)
    assert not cleared.status.ok
    for array, shape in ((cleared.dispatch_kw, (3,)), (cleared.prices, (2, 1)), (cleared.flows_kw, (1, 1))):
        assert array.shape == shape
        assert np.isnan(array).all()
    with pytest.raises(mo.InfeasibleError):
        session.clearing()
    session.set("firm_kw", 150.0)
    assert session.solve().dispatch_kw.tolist() == pytest.approx([60, 90, 150])
    assert session.clearing().certificate.ok()


def test_an_unbounded_market_names_the_orders() -> None:
    orders = steps(("much", "1", "offer", np.inf, 0.1), ("more", "1", "bid", np.inf, 0.05))
    session = session_of(grid([("l", "1", "2", 0.1, 10.0)], "12"), orders)
    assert session.solve().welfare == pytest.approx(0.0)
    session.set("bid_price", 0.2)
    with pytest.raises(mo.UnboundedError, match="'more', 'much'|'much', 'more'"):
        session.solve()


def changed(orders: mo.Orders, table: str, row: int, **cells: Any) -> mo.Orders:
    frame = getattr(orders, table).copy()
    for column, value in cells.items():
        frame.loc[row, column] = value
    return mo.Orders(frame if table == "orders" else orders.orders, frame if table == "segments" else orders.segments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.without(["dear"]), r"table 'orders' differs in .*dear"),
        (lambda o: o.select([1, 0, 2]), "the sequence of rows"),
        (lambda o: changed(o, "orders", 0, bus="2"), "order 'cheap' has bus '2' instead of '1'"),
        (lambda o: changed(o, "orders", 1, side="bid"), "order 'dear' has side 'bid' instead of 'offer'"),
        (lambda o: changed(o, "segments", 0, width_kw=np.inf), "order 'cheap'.*an infinite width_kw"),
        (lambda o: changed(o, "segments", 0, price_end=0.2), "order 'cheap'.*a slope.*built without any"),
        (lambda o: changed(o, "orders", 0, minimum_kw=5.0), "order 'cheap'.*a minimum_kw, and was built without"),
        (lambda o: changed(o, "orders", 2, minimum_kw=5.0), "order 'load'.*a width above its minimum_kw.*built firm"),
    ],
)
def test_another_structure_is_refused_by_name_and_nothing_is_set(change: Any, words: str) -> None:
    network, orders = two_bus()
    session = session_of(network, orders)
    before = {name: session.get(name).tolist() for name in session.names}
    with pytest.raises(mo.FormulationError, match=f"(?s){words}.*another structure.*new parametric model"):
        session.update(orders=change(orders), network=network.with_ratings({"l": 5.0}))
    assert {name: session.get(name).tolist() for name in session.names} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n.with_ratings({"l": np.inf}), "rating_kva.*cannot become inf.*structure"),
        (lambda n: n.replace(hours=[2.0]), "periods have other lengths"),
        (lambda n: n.replace(branches=n.branches.assign(x_ohm=0.2)), "branches 'l' has x_ohm 0.2 instead of 0.1"),
        (lambda n: n.replace(source_bus="2"), "the source is another"),
    ],
)
def test_another_grid_is_refused(change: Any, words: str) -> None:
    network, orders = two_bus()
    session = session_of(network, orders)
    cheaper = changed(orders, "segments", 0, price_start=0.01, price_end=0.01)
    with pytest.raises(mo.FormulationError, match=words):
        session.update(orders=cheaper, network=change(network))
    assert session.get("ask_price").tolist() == [0.1, 0.3]


def test_prices_must_stay_monotone_along_an_order() -> None:
    network = grid([("l", "1", "2", 0.1, 90.0)], "12")
    orders = steps(("s", "1", "offer", 30.0, 0.1), ("s", "1", "offer", 30.0, 0.2), ("d", "2", "bid", 50.0, 0.4))
    session = session_of(network, orders)
    session.set("ask_price", [0.3, 0.2])
    with pytest.raises(mo.FormulationError, match=r"order 's', period 0: segment 1 of this offer starts at 0.2"):
        session.solve()
    session.set("ask_price", [0.3, 0.35])
    assert session.solve().prices[0, 0] == pytest.approx(0.35)


def test_a_model_of_numbers_is_no_model_for_a_session() -> None:
    with pytest.raises(mo.FormulationError, match="parametric=True"):
        mo.Session(mo.build("surplus", *two_bus()))
    with pytest.raises(mo.FormulationError, match="no market model"):
        mo.Session(pyo.ConcreteModel())


def cap(model: Any, network: mo.Network) -> None:
    model.cap = pyo.Param(initialize=50.0, mutable=True)
    model.capped = pyo.Constraint(expr=model.accepted_kw["cheap", 0] <= model.cap)


def test_a_parameter_of_the_users_own_is_set_like_any_other() -> None:
    session = session_of(*two_bus(), extra=cap)
    assert session.solve().dispatch_kw.tolist() == pytest.approx([50, 30, 80])
    session.set("cap", 20.0)
    cleared = session.solve()
    assert cleared.dispatch_kw.tolist() == pytest.approx([20, 60, 80])
    full = session.clearing()
    assert full.certificate.ok(), full.certificate
    assert full.constraints["dual"].tolist() == pytest.approx([0.2])


def test_a_row_added_later_is_solved_but_not_certified_from_the_declaration() -> None:
    model = mo.build("surplus", *two_bus(), parametric=True)
    model.late = pyo.Constraint(expr=model.accepted_kw["cheap", 0] <= 10)
    session = mo.Session(model)
    assert session.solve().dispatch_kw.tolist() == pytest.approx([10, 70, 80])
    with pytest.raises(mo.MktoptError, match="pass it as extra="):
        session.clearing()


@pytest.mark.parametrize("flow", ["distflow", "ac", mo.flow("distflow", exact=True)], ids=["cone", "ac", "exact"])
def test_other_ratings_and_loads_leave_units_as_they_were(flow: Any) -> None:
    """These flows choose the units of their rows by ratings, or loads: those of the grid that the session began with.
    A rating four times as high is two powers of two away."""
    network = radial(3, hours=[0.5]).with_ratings({"l1": 30.0, "l3": 25.0})
    orders = affine(3, network)
    session = mo.Session(mo.build("dlmp", network, orders, flow=flow, parametric=True))
    wider = network.with_ratings({"l1": 120.0, "l3": 6.0})
    loads = pd.DataFrame({"load": ["one"], "bus": ["b2"], "p_kw": [600.0], "q_kvar": [0.0]})
    for grid_now in (wider, wider.replace(loads=loads)):
        session.update(network=grid_now)
        session.solve()
        full, fresh = session.clearing(), mo.clear("dlmp", grid_now, orders, flow=flow)
        assert full.certificate.ok()
        assert full.welfare == pytest.approx(fresh.welfare, rel=1e-7)
        assert full.prices["price"].tolist() == pytest.approx(fresh.prices["price"].tolist(), rel=1e-5)
        loading = fresh.flows["loading_percent"].tolist()
        assert full.flows["loading_percent"].tolist() == pytest.approx(loading, abs=1e-3)
        if full.relaxation is not None:
            assert np.abs(full.relaxation["phantom_kw"]).max() < 1e-3


def half_of_the_rating(model: Any, network: mo.Network) -> Any:
    return model.grid.p_kw["l", 0] <= 0.5 * float(network.lines["rating_kva"].iloc[0])


def test_a_row_that_reads_a_rating_is_not_certified_with_another() -> None:
    network, orders = two_bus()
    session = session_of(network, orders, extra=half_of_the_rating)
    session.solve()
    assert session.clearing().certificate.ok()
    session.update(network=network.with_ratings({"l": 50.0}))
    session.solve()
    with pytest.raises(mo.MktoptError, match=r"reads what has changed in the network.*make a new session"):
        session.clearing()


def test_ties_share_pro_rata_as_in_a_clearing() -> None:
    network = grid([("l", "1", "2", 0.1, 90.0)], "12")
    orders = steps(("a", "1", "offer", 10.0, 0.1), ("b", "1", "offer", 30.0, 0.2), ("d", "2", "bid", 20.0, 0.4))
    session = session_of(network, orders)
    assert session.solve().dispatch_kw.tolist() == pytest.approx([10, 10, 20])
    session.set("ask_price", 0.15)
    cleared = session.solve()
    assert cleared.dispatch_kw.tolist() == pytest.approx([5, 15, 20])
    assert session.clearing().dispatch["quantity_kw"].tolist() == pytest.approx([5, 15, 20])


def test_a_full_result_needs_a_solve_first() -> None:
    with pytest.raises(mo.MktoptError, match="not solved yet"):
        session_of(*two_bus()).clearing()


def test_a_record_does_not_change() -> None:
    session = session_of(*two_bus())
    first = session.solve()
    quantities = first.dispatch_kw.copy()
    session.set("ask_price", [0.5, 0.2])
    session.solve()
    assert (first.dispatch_kw == quantities).all()
    with pytest.raises(AttributeError, match="does not change"):
        first.welfare = 0.0


def cleared_elsewhere(session: Any, prices: list[list[float]]) -> tuple[list[float], bool]:
    found = []
    for price in prices:
        session.set("ask_price", price)
        found.append(session.solve().welfare)
    return found, session.clearing().certificate.ok()


def test_a_session_works_in_another_process_with_extra_and_all() -> None:
    session = session_of(*two_bus(), extra=cap)
    session.set("cap", 30.0)
    prices = [[0.1, 0.3], [0.2, 0.1], [0.4, 0.6]]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, proven = pool.apply(cleared_elsewhere, (session, prices))
    assert proven
    assert there == pytest.approx(cleared_elsewhere(session, prices)[0])


def test_a_session_with_a_nameless_function_says_why_it_cannot_go_elsewhere() -> None:
    session = session_of(*two_bus(), extra=lambda model, network: model.accepted_kw["cheap", 0] <= 9)
    assert session.solve().dispatch_kw[0] == pytest.approx(9)
    with pytest.raises(mo.FormulationError, match="top level of a module"):
        pickle.dumps(session)
