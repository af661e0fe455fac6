"""A market without an answer says why: what conflicts, the least cure (which then works), or which orders run away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.clearing.diagnosis import OVERLOAD, SHED

FIRM = 80.0


def feeder(*ratings: float) -> mo.Network:
    """Buses 1 - 2 - 3 in a row."""
    buses = pd.DataFrame({"bus": ["1", "2", "3"], "base_kv": 1.0})
    branches = pd.DataFrame({"branch": ["1-2", "2-3"], "from_bus": ["1", "2"], "to_bus": ["2", "3"], "r_ohm": 0.0,
                             "x_ohm": 0.1, "rating_kva": ratings})  # fmt: skip
    return mo.Network(buses, branches, "1")


def orders(*rows: tuple) -> mo.Orders:
    columns = ["order", "bus", "side", "width_kw", "price", "minimum_kw"]
    return mo.Orders.from_steps(pd.DataFrame(rows, columns=columns))


@pytest.fixture
def firm_demand() -> mo.Orders:
    return orders(("up", "1", "offer", 200, 0.05, 0), ("load", "3", "bid", FIRM, 1.0, FIRM))


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
@pytest.mark.parametrize("flow", ["transport", "dc", "ptdf"])
def test_a_firm_load_behind_a_thin_line(firm_demand, flow, solver):
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", feeder(50, 30), firm_demand, flow=flow, solver=solver)
    report = caught.value.report
    assert any("firm order load" in name and "80 kW" in name for name in report.conflict)
    assert any("limit of branch 2-3" in name and "30 kVA" in name for name in report.conflict)
    assert not any("1-2" in name for name in report.conflict), "30 kVA are enough of a conflict"
    shed = report.cure(SHED)
    assert shed["amount"].sum() == pytest.approx(50)
    over = report.cure(OVERLOAD).set_index("where")["amount"]
    assert over.to_dict() == pytest.approx({"2-3": 50, "1-2": 30})
    assert "shed at bus" in str(caught.value)
    assert "exceed the rating of branch 2-3" in str(caught.value)


def test_each_cure_works_and_less_does_not(firm_demand):
    def cleared(network: mo.Network, demand: float) -> bool:
        book = orders(("up", "1", "offer", 200, 0.05, 0), ("load", "3", "bid", demand, 1.0, demand))
        try:
            return mo.clear("surplus", network, book).certificate.ok()
        except mo.InfeasibleError:
            return False

    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", feeder(50, 30), firm_demand)
    shed = caught.value.report.cure(SHED)["amount"].sum()
    assert cleared(feeder(50, 30), FIRM - shed)
    assert not cleared(feeder(50, 30), FIRM - shed + 0.01)
    over = caught.value.report.cure(OVERLOAD).set_index("where")["amount"]
    assert cleared(feeder(50 + over["1-2"], 30 + over["2-3"]), FIRM)
    assert not cleared(feeder(50 + over["1-2"], 30 + over["2-3"] - 0.01), FIRM)


def test_firm_supply_with_nobody_to_take_it():
    buyers = ("load", "3", "bid", 20, 1.0, 0), ("sink", "1", "bid", 100, 0.1, 0)
    book = orders(("pv", "3", "offer", 60, 0.0, 60), *buyers)
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", feeder(50, 30), book)
    cure = caught.value.report.cure(SHED)
    assert cure["what"].tolist() == ["spill at bus"]
    assert cure["amount"].tolist() == pytest.approx([10])
    assert any("firm order pv" in name for name in caught.value.report.conflict)


def test_a_row_of_the_users_own_is_named():
    book = orders(("up", "1", "offer", 200, 0.05, 0), ("load", "3", "bid", 80, 1.0, 0))

    def at_least(model, network):
        return model.accepted_kw["load", 0] >= 70

    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", feeder(50, 60), book, extra=at_least)
    assert any("at_least" in name for name in caught.value.report.conflict)
    assert caught.value.report.cure(OVERLOAD)["amount"].sum() == pytest.approx(20)


@pytest.mark.parametrize("solver", ["highs", "clarabel"])
def test_an_unbounded_market_names_both_orders(solver):
    book = orders(("up", "1", "offer", np.inf, 0.05, 0), ("sink", "1", "bid", np.inf, 0.1, 0),
                  ("load", "3", "bid", 10, 1.0, 0))  # fmt: skip
    with pytest.raises(mo.UnboundedError, match="give these orders a finite width_kw") as caught:
        mo.clear("surplus", feeder(50, 30), book, solver=solver)
    assert set(caught.value.culprits) == {"up", "sink"}


def test_an_endless_order_is_fine_where_the_rest_is_finite():
    book = orders(("up", "1", "offer", np.inf, 0.05, 0), ("load", "3", "bid", 10, 1.0, 0))
    clearing = mo.clear("surplus", feeder(50, 30), book)
    assert clearing.quantity("up") == pytest.approx(10)
    assert clearing.certificate.ok()


def test_a_time_limit_is_no_answer():
    case = mo.load_case("synthetic:radial:300:1")
    with pytest.raises(mo.SolverError, match=r"did not clear the market \(stopped: .*try another solver="):
        mo.clear("surplus", case.network, case.orders, solver="clarabel", solver_options={"max_iter": 2})
