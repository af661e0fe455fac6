"""Infeasible markets: the conflict is one (and irreducible), each cure works when applied, and none is too much."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from tests.clearing.markets import grid, meshed, radial, steps


def forced(seed: int, shape: str) -> tuple[mo.Network, mo.Orders]:
    """Firm loads all over a grid whose branches carry a third of them; the source could serve all."""
    network = {"radial": radial, "meshed": meshed}[shape](seed, hours=[0.5, 2.0])
    rng = np.random.default_rng(seed)
    rows, periods = [], []
    for t in network.periods:
        for bus in network.buses["bus"][1:]:
            rows.append((f"d{bus}", bus, "bid", float(rng.uniform(10, 30)), 5.0))
            periods.append(t)
        rows.append(("up", "b0", "offer", 500.0, 0.1))
        periods.append(t)
    orders = steps(*rows, period=periods)
    table = orders.orders.assign(minimum_kw=np.where(orders.is_bid, orders.width_kw, 0.0))
    return network.with_ratings(dict.fromkeys(network.lines["branch"], 25.0)), mo.Orders(table, orders.segments)


def refused(network: mo.Network, orders: mo.Orders, flow: str) -> mo.InfeasibleError:
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", network, orders, flow=flow)
    return caught.value


def shed(orders: mo.Orders, cure, share: float) -> mo.Orders:
    """Firm demand lowered by `share` of what the cure sheds at each bus and period."""
    table, segments = orders.orders.copy(), orders.segments.copy()
    for row in cure.itertuples():
        assert row.what == "shed at bus" and row.unit == "kW"
        at = (table["bus"] == row.where) & (table["period"] == row.period) & (table["side"] == "bid")
        position = int(np.flatnonzero(at)[0])
        left = table.loc[position, "minimum_kw"] - share * row.amount
        assert left >= -1e-5, "more is shed than is asked for"
        table.loc[position, "minimum_kw"] = max(left, 0.0)
        here = (segments["order"] == table.loc[position, "order"]) & (segments["period"] == row.period)
        segments.loc[here, "width_kw"] = max(left, 0.0)
    return mo.Orders(table, segments)


@pytest.mark.parametrize("flow", ["transport", "dc", "ptdf"])
@pytest.mark.parametrize(("shape", "seed"), [("radial", 1), ("radial", 2), ("meshed", 3), ("meshed", 4)])
def test_cures_work_and_less_does_not(shape, seed, flow):
    network, orders = forced(seed, shape)
    error = refused(network, orders, flow)
    less, more = (error.report.cure(which) for which in ("serve less", "load branches more"))
    assert len(less) and len(more)
    assert set(less["period"]) <= {0, 1}

    assert mo.clear("surplus", network, shed(orders, less, 1 + 1e-7), flow=flow).certificate.ok()
    refused(network, shed(orders, less, 0.99), flow)

    assert set(more["what"]) == {"exceed the rating of branch"} and set(more["unit"]) == {"kVA"}
    most = more.groupby("where")["amount"].max()
    ratings = {branch: 25.0 + amount for branch, amount in most.items()}
    assert mo.clear("surplus", network.with_ratings(ratings), orders, flow=flow).welfare > 0
    few = {branch: 25.0 + 0.99 * amount for branch, amount in most.items()}
    refused(network.with_ratings(few), orders, flow)


def test_the_least_shedding_is_the_least():
    """A line 1 - 2 - 3 with 50 and 30 kVA and firm 40 and 45 kW: 15 must go at bus 3, 20 more anywhere beyond 1-2."""
    network = grid([("1-2", "1", "2", 0.1, 50.0), ("2-3", "2", "3", 0.1, 30.0)], "123")
    orders = steps(("up", "1", "offer", 500, 0.1), ("a", "2", "bid", 40, 5.0), ("b", "3", "bid", 45, 5.0),
                   minimum_kw=[0.0, 40.0, 45.0])  # fmt: skip
    report = refused(network, orders, "transport").report
    less = report.cure("serve less")
    assert less["amount"].sum() == pytest.approx(35)
    assert less.set_index("where")["amount"]["3"] >= 15 - 1e-6
    more = report.cure("load branches more").set_index("where")["amount"]
    assert more.to_dict() == pytest.approx({"1-2": 35.0, "2-3": 15.0})
    assert report.irreducible


def drop(network: mo.Network, orders: mo.Orders, name: str) -> tuple[mo.Network, mo.Orders]:
    """The market without one limit of a conflict, found by its words."""
    if name.startswith("limit of branch"):
        branch = name.split("limit of branch ")[1].split(",")[0]
        return network.with_ratings({branch: 1e6}), orders
    order = name.split(" order ")[-1].split(",")[0]
    table, segments = orders.orders.copy(), orders.segments.copy()
    if name.startswith("width"):
        segments.loc[segments["order"] == order, "width_kw"] = 1e6
    else:
        table.loc[table["order"] == order, "minimum_kw"] = 0.0
    return network, mo.Orders(table, segments)


def test_each_limit_of_the_conflict_is_needed():
    """Two loads behind a thin line, a small local unit, and things that have nothing to do with it."""
    network = grid([("1-2", "1", "2", 0.1, 20.0), ("2-3", "2", "3", 0.1, 90.0), ("1-4", "1", "4", 0.1, 5.0)], "1234")
    orders = steps(
        ("up", "1", "offer", 500, 0.1), ("local", "3", "offer", 10, 0.3), ("a", "2", "bid", 25, 5.0),
        ("b", "3", "bid", 15, 5.0), ("c", "4", "bid", 4, 5.0), ("flexible", "2", "bid", 30, 0.9),
        minimum_kw=[0.0, 0.0, 25.0, 15.0, 4.0, 0.0],
    )  # fmt: skip
    conflict = refused(network, orders, "transport").report.conflict
    limits = [name for name in conflict if not name.startswith("balance")]
    text = " | ".join(limits)
    assert "firm order a" in text and "firm order b" in text and "limit of branch 1-2" in text
    assert "width of order local" in text
    assert not any(word in text for word in ("1-4", "2-3", "order c", "order up"))
    for name in limits:
        if "flexible" in name:
            continue  # its minimum of zero: nothing to give
        assert mo.clear("surplus", *drop(network, orders, name)).welfare > 0, f"{name} was not needed"


def test_names_are_those_of_the_data_for_every_flow():
    network, orders = forced(3, "meshed")
    for flow in ("transport", "dc", "ptdf"):
        error = refused(network, orders, flow)
        assert not any("grid." in name or "segment_kw" in name for name in error.report.conflict), error
        assert "These cannot hold together:" in str(error)


def test_copperplate_lacks_supply():
    network = grid([("1-2", "1", "2", 0.1, 5.0)], "12")
    orders = steps(("up", "1", "offer", 50, 0.1), ("a", "2", "bid", 70, 5.0), minimum_kw=[0.0, 70.0])
    error = refused(network, orders, "copperplate")
    assert error.report.cure("serve less")["amount"].sum() == pytest.approx(20)
    assert len(error.report.cure("load branches more")) == 0
    assert any("balance of the whole grid, period 0" in name for name in error.report.conflict)


def test_a_shunt_at_a_bus_that_nobody_serves():
    network = mo.Network(*[getattr(grid([], "1"), t) for t in ("buses", "branches")], "1", hours=[1.0, 1.0],
                         shunts=pd.DataFrame({"bus": ["1"], "g_kw": [3.0]}))  # fmt: skip
    orders = steps(("up", "1", "offer", 50, 0.1), ("a", "1", "bid", 5, 0.5))
    for flow in mo.FLOWS:
        cure = refused(network, orders, flow).report.cure("serve less")
        assert cure[["where", "period", "amount"]].to_numpy().tolist() == [["1", 1, pytest.approx(3.0)]]


@pytest.mark.parametrize("kind", ["affine", "flat"])
def test_unbounded_markets_name_their_orders(kind):
    """Endless supply below endless demand; other orders, also affine ones, are not to blame."""
    network = grid([("1-2", "1", "2", 0.1, np.inf), ("2-3", "2", "3", 0.1, 50.0)], "123")
    orders = steps(
        ("up", "1", "offer", np.inf, 0.1), ("sink", "2", "bid", np.inf, 0.3), ("far", "3", "bid", np.inf, 0.9),
        ("dear", "1", "offer", np.inf, 0.4),
    )  # fmt: skip
    if kind == "affine":
        extra = {"order": "slope", "bus": "2", "side": "bid", "q_max_kw": 10.0, "price_min": 0.0, "price_max": 1.0}
        orders = orders.merge(mo.Orders.from_curves(pd.DataFrame([extra])))
    for flow in ("transport", "dc", "ptdf"):
        with pytest.raises(mo.UnboundedError, match="welfare grows without limit along") as caught:
            mo.clear("surplus", network, orders, flow=flow)
        assert set(caught.value.culprits) == {"up", "sink"}
        assert "finite width_kw" in str(caught.value)
