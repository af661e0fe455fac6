"""The four behaviours, run: the poster's trades, the order of resource costs, money that adds up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktopt as mo
from mktopt.clearing.coalition_certificate import coalition_certificate
from mktopt.errors import InfeasibleError, UnboundedError
from mktopt.formulations.coalition import BEHAVIOURS, COOPERATIVE, DECIDED, INTEGRATED
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from tests.agents.private_grids import FEED_IN, RETAIL, WHOLESALE, grid, has, main_grid, orders_of, step

UNIT, NEAR = 10.0, 0.02


def cleared(network: Network, orders: Orders, **options) -> dict[str, mo.Clearing]:
    return {name: mo.clear("coalition", network, orders, behaviour=name, **options) for name in BEHAVIOURS}


def sent(clearing: mo.Clearing) -> dict[str, float]:
    """What each private wire is given, in units of the example, negative against its direction."""
    trades = clearing.coalition.trades
    sign = np.where(trades["branch"].str[:2] == trades["seller"], 1.0, -1.0)
    return dict(zip(trades["branch"].str[:5], sign * trades["sent_kw"] / UNIT, strict=True))


def add_up(clearing: mo.Clearing) -> None:
    found = clearing.coalition
    money = found.payments[["payment", "rent", "cost"]].sum()
    size = found.payments["payment"].abs().sum() + abs(found.resource_cost)
    assert money["payment"] - money["rent"] == pytest.approx(0.0, abs=1e-7 * size + 1e-9)
    assert money.sum() - 2 * money["rent"] == pytest.approx(found.resource_cost, abs=1e-7 * size + 1e-9)
    players = found.payments.iloc[:-2]
    net = players["payment"] - players["rent"] + players["cost"]
    assert players["alone"].to_numpy() == pytest.approx((net + players["saving"]).to_numpy())
    assert found.groups[["cost", "alone", "saving"]].sum().to_numpy() == pytest.approx(
        [net.sum(), players["alone"].sum(), players["saving"].sum()]
    )
    taken = players["need_kwh"] - players["surplus_kwh"]
    assert (players["private_kwh"] + players["public_kwh"]).to_numpy() == pytest.approx(taken.to_numpy())
    assert found.import_kwh - found.export_kwh == pytest.approx(taken.sum() + found.loss_kwh, rel=1e-6, abs=1e-6)


def in_order(costs: dict[str, float], within: float) -> None:
    assert costs[INTEGRATED] <= costs[COOPERATIVE] + within
    assert costs[COOPERATIVE] <= min(costs[name] for name in DECIDED) + within


# -- the poster --------------------------------------------------------------------------------------------------------


def test_the_eight_nodes_trade_as_the_poster_says() -> None:
    network, orders, _, _ = mo.load_case("eight_node")
    assert orders is not None
    found = cleared(network, orders)
    for clearing in found.values():
        assert clearing.certificate.ok() and coalition_certificate(clearing).ok()
        add_up(clearing)
    ad_hoc, alone, together = (sent(found[name]) for name in ("ad_hoc", "self_interested", "cooperative"))
    assert ad_hoc["A4-A5"] == pytest.approx(1.0, rel=NEAR) and ad_hoc["A1-A2"] > 1.0
    assert "A2-A3" not in ad_hoc
    assert alone == pytest.approx({"A4-A5": 1.0, "A1-A2": 2.0, "A2-A3": 1.0}, rel=NEAR)
    assert together["A1-A2"] > 1.0 and together["A2-A3"] > 0.5
    # A4 receives half from A1 and half from the public grid, by way of A5; integrated, one unit from A1
    by_grid, free = (found[name].flows.set_index("branch")["to_kw"] / UNIT for name in (COOPERATIVE, INTEGRATED))
    assert by_grid["A1-A4"] == pytest.approx(0.5, rel=NEAR)
    assert by_grid["A4-A5"] + by_grid["A4-A5:private"] == pytest.approx(-0.5, rel=NEAR)
    assert free["A1-A4"] == pytest.approx(1.0, rel=NEAR)
    costs = {name: clearing.coalition.resource_cost for name, clearing in found.items()}
    in_order(costs, 1e-9)
    assert costs[INTEGRATED] < found[COOPERATIVE].coalition.resource_cost < found[INTEGRATED].coalition.settled_cost
    assert found["ad_hoc"].quantity("A4:generator") == pytest.approx(20.0)
    assert found[COOPERATIVE].quantity("A4:generator") == pytest.approx(0.0, abs=1e-6)


def test_the_record_says_where_each_kwh_and_dollar_went() -> None:
    """A gives B 10 kW over the private wire; both ends of the public ring are lossless."""
    network = grid([("A", "B", 1e-3)], rho=0.0)
    orders = orders_of(has("A", 30.0), has("B", -10.0))
    found = mo.clear("coalition", network, orders, behaviour="ad_hoc", wholesale=0.1)
    record = found.coalition
    flow = 20.0 / (1 + np.sqrt(1 - 0.02))
    loss = 1e-3 * flow**2
    given_kw = flow + loss / 2
    assert record.private_loss_kwh == pytest.approx(loss) and record.public_loss_kwh == 0.0
    assert record.export_kwh == pytest.approx(30.0 - given_kw) and record.import_kwh == pytest.approx(0.0, abs=1e-9)
    assert record.resource_cost == pytest.approx(-0.1 * (30.0 - given_kw))
    price = (RETAIL * 10.0 + FEED_IN * given_kw) / 2 / 10.0
    assert record.trades.iloc[0].drop("payment").to_list() == [
        "w0", 0, "A", "B", "private", *(pytest.approx(x) for x in (given_kw, 10.0, loss, price))
    ]  # fmt: skip
    people = record.payments.set_index("player")
    assert people.loc["B", "payment"] == pytest.approx(10.0 * price)
    assert people.loc["A", "payment"] == pytest.approx(-10.0 * price - FEED_IN * (30.0 - given_kw))
    assert people.loc["A", "alone"] == pytest.approx(-30.0 * FEED_IN)
    assert people.loc["A", "saving"] == pytest.approx(people.loc["B", "saving"])
    assert people.loc["main_grid", "cost"] == pytest.approx(record.resource_cost)
    assert record.groups[["members", "size", "wires"]].to_numpy().tolist() == [["A, B", 2, 1]]
    assert "ad_hoc" in str(record) and record.loss_kwh == record.private_loss_kwh


# -- resource cost -----------------------------------------------------------------------------------------------------


def test_self_interest_may_be_worse_than_no_private_wires() -> None:
    """The tariffs are far apart, so that both pay for losses which the public grid would not have."""
    orders = orders_of(has("A", 100.0), has("B", -100.0))
    with_wire = cleared(grid([("A", "B", 2e-3)]), orders, wholesale=WHOLESALE)
    without = mo.clear("coalition", grid(), orders, wholesale=WHOLESALE).coalition.resource_cost
    assert without < 0.1 < min(with_wire[name].coalition.resource_cost for name in DECIDED)
    assert with_wire[COOPERATIVE].coalition.resource_cost < without


@st.composite
def markets(draw):
    n = draw(st.integers(2, 5))
    buses, hours = "ABCDE"[:n], draw(st.sampled_from([(1.0,), (0.5, 2.0)]))
    pairs = [(i, j) for k, i in enumerate(buses) for j in buses[k + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=4))  # some twice: parallel wires
    rows, wires = [], pd.DataFrame(chosen, columns=["from_bus", "to_bus"])
    wires["rho"] = [draw(st.sampled_from([1e-4, 1e-3, 1e-2])) for _ in chosen]
    wires["owner"] = [draw(st.sampled_from(["", "company", i])) for i, _ in chosen]
    wires["rating_kva"] = [draw(st.sampled_from([np.inf, 5.0])) for _ in chosen]
    for t in range(len(hours)):
        for bus in buses:
            for who in ("", "2")[: draw(st.integers(0, 2))]:
                name = bus + who
                kw = draw(st.sampled_from([-20.0, -7.0, 3.0, 15.0]))
                rows.append(has(bus, kw, t, name))
        if draw(st.booleans()):
            rows.append(step("A:sun", "A", "offer", 9.0, draw(st.sampled_from([0.1, 0.15, 0.3])), t))
        if draw(st.booleans()):
            rows.append(step("B:heat", "B", "bid", 6.0, draw(st.sampled_from([0.05, 0.11, 0.17])), t))
    rows = rows or [has("B", -1.0)]
    orders = orders_of(*rows, main=main_grid(periods=len(hours)))
    return grid(wires, buses=buses, hours=hours, rho=draw(st.sampled_from([1e-5, 1e-4]))), orders


@settings(max_examples=6, deadline=None)
@given(markets(), st.sampled_from([None, WHOLESALE]))
def test_integrated_before_cooperative_before_the_others(
    market: tuple[Network, Orders], wholesale: float | None
) -> None:
    network, orders = market
    found = cleared(network, orders, wholesale=wholesale)
    for clearing in found.values():
        assert clearing.certificate.ok(1e-5), str(clearing.certificate)
        assert coalition_certificate(clearing).ok(1e-5), str(coalition_certificate(clearing))
        add_up(clearing)
    costs = {name: clearing.coalition.resource_cost for name, clearing in found.items()}
    in_order(costs, 1e-6)
    assert costs[COOPERATIVE] <= found[INTEGRATED].coalition.settled_cost + 1e-6
    alone = found["self_interested"].coalition.payments["saving"].dropna()
    assert (alone > -1e-6).all()  # nobody trades at a loss
    assert (found["ad_hoc"].coalition.groups["saving"] > -1e-6).all()
    elastic = len(orders) - orders.firm.sum() - 2 * len(network.hours)
    if not elastic and (network.lines["kind"] != "private").all():
        assert costs["ad_hoc"] == costs["self_interested"] == pytest.approx(costs[COOPERATIVE], abs=1e-7)


def test_without_private_wires_all_but_integrated_are_one() -> None:
    network, orders = grid(buses="ABC"), orders_of(has("A", 40.0), has("B", -25.0), has("C", -30.0))
    found = cleared(network, orders)
    costs = [found[name].coalition.resource_cost for name in (*DECIDED, COOPERATIVE)]
    assert costs == pytest.approx([costs[0]] * 3, rel=1e-9)
    assert found[INTEGRATED].coalition.resource_cost < costs[0]  # loops of unequal reactance
    assert found[INTEGRATED].coalition.settled_cost == pytest.approx(costs[0], rel=1e-9)
    assert found["ad_hoc"].coalition.trades.empty


# -- settlement --------------------------------------------------------------------------------------------------------


def test_the_settlement_prices_a_kwh_beside_the_private_trades() -> None:
    """Of the settlement's prices: what a kW of flexible demand more costs, private trades being what they are."""
    network = grid([("A", "B", 1e-3)], rho=1e-3)
    base = [has("A", 30.0), has("B", -10.0)]
    cost = {}
    for extra in (0.0, 1e-3):
        orders = orders_of(*base, *([step("g:new", "g", "bid", extra, RETAIL + 1.0)] if extra else []))
        cost[extra] = mo.clear("coalition", network, orders, behaviour="self_interested", wholesale=WHOLESALE)
    found = cost[0.0]
    assert found.price("g") == pytest.approx(WHOLESALE)
    record = cost[1e-3].coalition
    rise = record.main_grid_cost - found.coalition.main_grid_cost
    assert rise / 1e-3 == pytest.approx(found.price("g"), rel=1e-3)


def test_private_trades_that_do_not_fit_are_infeasible_with_a_report() -> None:
    """A's nearest neighbour is B, whom the public grid could serve; C, whom it cannot, is left without."""
    network = grid([("A", "B", 1e-4), ("A", "C", 1e-4)], buses="ABC").with_ratings({"BC": 4.0, "Cg": 4.0})
    orders = orders_of(has("A", 20.0), has("B", -20.0), has("C", -20.0))
    with pytest.raises(InfeasibleError, match="does not fit the public grid") as error:
        mo.clear("coalition", network, orders, behaviour="ad_hoc")
    assert len(error.value.report.relaxation)
    assert mo.clear("coalition", network, orders).certificate.ok()
    short = orders_of(has("B", -50.0), main=main_grid(width_kw=20.0))
    for behaviour in (COOPERATIVE, "self_interested"):
        with pytest.raises(InfeasibleError) as error:
            mo.clear("coalition", grid([("A", "B", 1e-3)]), short, behaviour=behaviour)
        assert "50" in str(error.value)


def test_an_endless_order_that_a_tariff_pays_for_is_named() -> None:
    orders = orders_of(has("B", -1.0), step("A:sun", "A", "offer", np.inf, 0.01))
    with pytest.raises(UnboundedError, match="A:sun"):
        mo.clear("coalition", grid([("A", "B", 1e-3)]), orders, behaviour="self_interested")


def test_constraints_of_ones_own_act_on_the_settlement() -> None:
    network, orders = grid([("A", "B", 1e-3)], rho=1e-4), orders_of(has("A", 30.0), has("B", -40.0))

    def little_import(model, network):
        return model.accepted_kw["main:supply", 0] <= 11.0

    for behaviour in (COOPERATIVE, "self_interested"):
        found = mo.clear("coalition", network, orders, behaviour=behaviour, extra=little_import)
        assert found.constraints["slack"].iloc[0] > 0 and found.certificate.ok()

    def too_little(model, network):
        return model.accepted_kw["main:supply", 0] <= 9.0

    with pytest.raises(InfeasibleError):
        mo.clear("coalition", network, orders, behaviour="ad_hoc", extra=too_little)


def test_the_main_grid_goes_one_way_at_a_time_and_models_may_be_solved_again() -> None:
    network, orders = grid([("A", "B", 1e-3)]), orders_of(has("A", 30.0), has("B", -40.0))
    for behaviour in BEHAVIOURS:
        model = mo.build("coalition", network, orders, behaviour=behaviour, wholesale=WHOLESALE)
        first, again = mo.solve(model), mo.solve(model)
        assert first.quantity("main:feed_in") == 0.0 < first.quantity("main:supply") < 11.0
        assert again.coalition.resource_cost == pytest.approx(first.coalition.resource_cost, rel=1e-9)
        assert first.certificate.ok()


def test_the_exact_model_agrees_where_the_relaxation_is_tight() -> None:
    network = grid([("A", "B", 1e-3), ("B", "C", 2e-3)], buses="ABC", rho=1e-4)
    orders = orders_of(has("A", 30.0), has("B", -10.0), has("C", -15.0))
    for behaviour in (COOPERATIVE, "self_interested"):
        convex = mo.clear("coalition", network, orders, behaviour=behaviour)
        exact = mo.clear("coalition", network, orders, behaviour=behaviour, flow=mo.flow("lossy", exact=True))
        assert not convex.relaxation["slack"].any()
        assert exact.coalition.resource_cost == pytest.approx(convex.coalition.resource_cost, rel=1e-6)


# -- money -------------------------------------------------------------------------------------------------------------


def test_a_company_that_owns_the_wire_earns_its_rent() -> None:
    wires = pd.DataFrame({"from_bus": ["A"], "to_bus": ["B"], "rho": [1e-3], "owner": ["company"]})
    network, orders = grid(wires), orders_of(has("A", 30.0), has("B", -10.0))
    for behaviour in BEHAVIOURS:
        found = mo.clear("coalition", network, orders, behaviour=behaviour, wholesale=WHOLESALE)
        people = found.coalition.payments.set_index("player")
        assert people.loc["company", "rent"] > 0 and people.loc["company", "payment"] == 0.0
        assert people.loc["company", "group"] == "A"
        add_up(found)
        if behaviour == "ad_hoc":  # seller, buyer and owner gain alike
            assert np.ptp(people.loc[["A", "B", "company"], "saving"]) < 1e-9


def test_several_at_a_bus_pay_their_part() -> None:
    network = grid([("A", "B", 1e-3)])
    rows = [has("A", 30.0, who="sun"), has("A", -5.0, who="home"), has("B", -4.0, who="b1"), has("B", -8.0, who="b2")]
    for behaviour in BEHAVIOURS:
        found = mo.clear("coalition", network, orders_of(*rows), behaviour=behaviour)
        people = found.coalition.payments.set_index("player")
        assert people.index[:4].to_list() == ["sun", "home", "b1", "b2"]
        assert people.loc["b2", "private_kwh"] == pytest.approx(2 * people.loc["b1", "private_kwh"])
        assert people.loc["home", "alone"] == pytest.approx(5 * RETAIL)
        add_up(found)
