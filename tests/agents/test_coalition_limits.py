"""Where coalitions meet their limits: energy worth nothing, or that fits nowhere; names; a power flow of one's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.agents.coalition import fix_private
from mktopt.clearing.consistency import mean_kw
from mktopt.clearing.lossy_power_flow import lossy_power_flow
from mktopt.errors import DataError
from mktopt.formulations.coalition import BEHAVIOURS, COOPERATIVE, DECIDED, INTEGRATED, main_grid_of
from mktopt.formulations.market import declaration_of
from mktopt.networks.network import Network
from tests.agents.private_grids import WHOLESALE, grid, has, main_grid, orders_of, step

# -- a power flow with losses ------------------------------------------------------------------------------------------


def test_a_power_flow_of_two_buses_has_a_closed_form() -> None:
    """f - rho f^2 / 2 arrives; f + rho f^2 / 2 is what the source gives."""
    line = pd.DataFrame({"branch": ["l"], "from_bus": ["g"], "to_bus": ["A"], "r_ohm": [1.0], "x_ohm": [0.2]})
    buses = pd.DataFrame({"bus": ["g", "A"], "base_kv": 1.0})
    network, need = Network(buses=buses, branches=line, source_bus="g"), 20.0
    found = lossy_power_flow(network, np.array([[0.0], [-need]]))
    assert found is not None
    flow = 2.0 * need / (1.0 + np.sqrt(1.0 - 2e-3 * need))
    assert found[0] == pytest.approx(np.array([[flow]]))
    assert found[1][:, 0] == pytest.approx([flow + 5e-4 * flow**2, 0.0], abs=1e-9)
    assert lossy_power_flow(network, np.array([[0.0], [-600.0]])) is None  # 1 / (2 rho) is the most that arrives


def test_what_integrated_would_cost_under_physics_is_the_cost_of_the_fixed_model() -> None:
    network = grid([("A", "B", 1e-3), ("C", "g", 1e-3)], buses="ABC", hours=(1.0, 0.5), rho=1e-4)
    rows = [has("A", 30.0), has("B", -25.0), has("C", -9.0), has("A", 8.0, 1), has("C", -5.0, 1)]
    orders = orders_of(*rows, step("B:sun", "B", "offer", 6.0, 0.11), main=main_grid(periods=2))
    free = mo.clear("coalition", network, orders, behaviour=INTEGRATED, wholesale=WHOLESALE)
    model = mo.build("coalition", network, orders, behaviour=COOPERATIVE, wholesale=WHOLESALE)
    declaration, main = declaration_of(model), main_grid_of(orders, network, wholesale=WHOLESALE)
    quantity = free.dispatch["quantity_kw"].to_numpy()
    fix_private(model, declaration, main, mean_kw(free.flows).reshape(-1, 2), declaration.orders.curves.fill(quantity))
    settled = mo.solve(model).coalition
    assert free.coalition.settled_cost == pytest.approx(settled.resource_cost, rel=1e-9)
    assert free.coalition.settled_cost > free.coalition.resource_cost


# -- worth nothing, or no place for it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_what_is_worth_nothing_is_not_wasted_for_it(behaviour: str) -> None:
    """Nobody pays for the surplus of A and B: it is fed in, not lost on wires nor sent to and fro."""
    network = grid([("A", "B", 1e-2), ("B", "C", 1e-3)], buses="ABC", rho=1e-4)
    orders = orders_of(has("A", 30.0), has("B", 20.0), has("C", -5.0), main=main_grid(feed_in=0.0))
    found = mo.clear("coalition", network, orders, behaviour=behaviour)
    assert found.coalition.phantom_kwh == 0.0
    assert not found.relaxation["slack"].any()
    assert found.certificate.ok()
    flows = pd.Series(mean_kw(found.flows), index=found.flows["branch"])
    if behaviour in DECIDED:  # A's surplus is worth as little at B
        assert flows["w0"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_what_fits_nowhere_is_said_to_be_wasted(behaviour: str) -> None:
    """A must give 20 kW, and its two wires bear 4 kW each."""
    network, orders = grid(rho=0.01).with_ratings({"gA": 4.0, "AB": 4.0}), orders_of(has("A", 20.0))
    found = mo.clear("coalition", network, orders, behaviour=behaviour)
    record = found.coalition
    assert record.phantom_kwh > 11.0
    assert record.export_kwh - record.import_kwh == pytest.approx(20.0 - record.loss_kwh - record.phantom_kwh)
    flow = mean_kw(found.flows)
    assert record.loss_kwh == pytest.approx(0.01 * np.sum(flow**2))
    assert "wasted" in str(record)
    assert any("wasted" in note for note in found.notes)
    assert record.settled_cost is None
    assert found.certificate.ok(), str(found.certificate)


def test_wires_may_lose_money_at_the_prices_of_the_settlement() -> None:
    """What was decided between the tariffs need not pay at the price that the public grid has."""
    network = grid([("A", "B", 1e-2)], rho=0.0)
    orders = orders_of(step("A:sun", "A", "offer", 9.0, 0.10), step("B:heat", "B", "bid", 6.0, 0.17))
    for behaviour in DECIDED:
        found = mo.clear("coalition", network, orders, behaviour=behaviour, wholesale=WHOLESALE)
        assert found.certificate.rent < 0.0
        assert found.certificate.ok(), str(found.certificate)


# -- refusals and names ------------------------------------------------------------------------------------------------


def test_what_is_refused_and_why() -> None:
    orders = orders_of(has("A", 30.0), has("B", -10.0))
    with pytest.raises(DataError, match="paid for what they waste"):
        mo.clear("coalition", grid(), orders, wholesale=-0.1)
    for owner in ("main_grid", "A+public grid"):
        wires = pd.DataFrame({"from_bus": ["A"], "to_bus": ["B"], "rho": [1e-3], "owner": [owner]})
        with pytest.raises(DataError, match="no owner can have this name"):
            mo.clear("coalition", grid(wires), orders)
    network = grid([("A", "B", 1e-3)], buses="AB")
    island = network.replace(branches=network.branches[~network.branches["branch"].isin(["AB", "Bg"])])
    for behaviour in DECIDED:
        with pytest.raises(DataError, match=r"row 'B:bid'.*no public wire brings the main grid"):
            mo.clear("coalition", island, orders, behaviour=behaviour)
    assert mo.clear("coalition", island, orders).certificate.ok()


def test_a_name_with_a_plus_is_one_owner() -> None:
    wires = pd.DataFrame({"from_bus": ["A+x"], "to_bus": ["B"], "rho": [1e-3], "owner": ["A+x"]})
    network = grid(wires, buses=["A+x", "B"])  # type: ignore[arg-type]
    found = mo.clear("coalition", network, orders_of(has("A+x", 30.0), has("B", -10.0)))
    assert found.coalition.payments["player"].to_list() == ["A+x", "B", "main_grid", "public grid"]
    assert found.coalition.payments["rent"].iloc[0] > 0.0


def test_a_household_at_the_source_may_need_and_make() -> None:
    orders = orders_of(has("g", -5.0, who="house"), step("house:sun", "g", "offer", 3.0, 0.1))
    found = mo.clear("coalition", grid(), orders)
    assert found.coalition.import_kwh == pytest.approx(2.0)


def test_alternating_current_takes_private_flows_as_their_owners_send_them() -> None:
    pytest.importorskip("pandapower")
    network, orders, *_ = mo.load_case("eight_node")
    assert orders is not None
    found = {name: mo.clear("coalition", network, orders, behaviour=name) for name in DECIDED}
    for clearing in found.values():
        check = clearing.check_ac()
        assert check.ok
        assert set(check.branches["branch"]) == set(network.lines["branch"][network.lines["kind"] != "private"])
        assert check.losses["loss_kwh"].iloc[0] == pytest.approx(clearing.coalition.public_loss_kwh, rel=0.1)
