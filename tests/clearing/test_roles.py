"""Roles of use case 3: producers, consumers and demand response, what they are dispatched, paid and charged."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

import mktopt as mo
from tests.clearing.markets import grid, radial, steps

VARIANTS = ("credit", "on_top")


def line(rating: float, **fields) -> mo.Network:
    return grid([("1-2", "1", "2", 0.1, rating)], "12", **fields)


def on_paper(hours: float = 1.0, tan_phi: float = 0.0) -> mo.Clearing:
    """A line of 60 kW to bus 2, where a load of 100 kW may be reduced at c(r) = 0.05 r + 0.001 r^2, a generator costs
    0.1 p + 0.001 p^2, and a consumer takes 20 kW whatever they cost. r + p = 100 + 20 - 60 = 60 with
    0.05 + 0.002 r = 0.1 + 0.002 p = price gives r = 42.5, p = 17.5 and a price of 0.135 (0.1 at bus 1)."""
    loads = pd.DataFrame([{"order": "d", "bus": "2", "initial_kw": 100.0, "c1": 0.05, "c2": 1e-3, "tan_phi": tan_phi}])
    units = pd.DataFrame({"order": ["grid", "g"], "bus": ["1", "2"], "p_max_kw": [np.inf, 50.0], "c1": [0.1, 0.1],
                          "c2": [0.0, 1e-3]})  # fmt: skip
    firm = steps(("f", "2", "bid", 20.0, 10.0), minimum_kw=20.0)
    orders = mo.Orders.from_reductions(loads).merge(mo.Orders.from_costs(units), firm)
    return mo.clear("surplus", line(60.0, hours=[hours]), orders)


def test_the_dispatch_on_paper():
    clearing = on_paper()
    assert clearing.quantity("d") == pytest.approx(57.5, abs=1e-5)
    assert clearing.quantity("g") == pytest.approx(17.5, abs=1e-5)
    assert clearing.price("1") == pytest.approx(0.1) and clearing.price("2") == pytest.approx(0.135)
    assert clearing.certificate.ok(), clearing.certificate


def test_demand_response_is_charged_its_load_and_credited_its_reduction():
    settlement = mo.settle(on_paper(hours=0.5))
    row = settlement.orders.set_index("order").loc["d"]
    assert row["role"] == "demand_response" and row["initial_kw"] == 100
    assert row["reduction_kw"] == pytest.approx(42.5, abs=1e-5)
    assert row["charged"] == pytest.approx(0.5 * 13.5) and row["credited"] == pytest.approx(0.5 * 5.7375, abs=1e-6)
    assert row["payment"] == pytest.approx(0.5 * 7.7625, abs=1e-6)
    assert row["reduction_cost"] == pytest.approx(0.5 * 3.93125, abs=1e-6)
    assert row["reduction_reward"] == pytest.approx(0.5 * 1.80625, abs=1e-6)
    assert row["reward"] == pytest.approx(0.5 * (15.0 - 3.93125 - 7.7625), abs=1e-6)  # u(100) = c(100) = 15
    roles = settlement.roles.set_index(["participant", "role"])
    assert roles.loc[("g", "producer"), ["energy_kwh", "revenue", "bill", "cost", "reward"]].tolist() == pytest.approx(
        [8.75, 0.5 * 2.3625, 0, 0.5 * 2.05625, 0.5 * 0.30625], abs=1e-5
    )
    wanted = [28.75, 21.25, 0.5 * 5.7375, 0.5 * 13.5, 0.5 * 3.93125, 0.5 * 15]
    columns = ["energy_kwh", "reduction_kwh", "revenue", "bill", "cost", "utility"]
    assert roles.loc[("d", "demand_response"), columns].tolist() == pytest.approx(wanted, abs=1e-5)
    assert settlement.budget == pytest.approx(0.5 * 0.035 * 60, abs=1e-6)
    assert settlement.deficit["deficit"].tolist() == [0]


def test_paid_on_top_the_consumers_bear_it():
    clearing = on_paper(hours=0.5)
    plain, settlement = mo.settle(clearing), mo.settle(clearing, demand_response="on_top")
    table = settlement.orders.set_index("order")
    paid = 0.5 * 5.7375
    assert table.loc["d", ["charged", "credited", "levy"]].tolist() == pytest.approx([0.5 * 7.7625, paid, 0], abs=1e-6)
    assert table.loc["d", "payment"] == pytest.approx(0.5 * 7.7625 - paid, abs=1e-6)
    assert table.loc["d", "reduction_reward"] == pytest.approx(2 * paid - 0.5 * 3.93125, abs=1e-6)
    assert table.loc["f", ["charged", "levy"]].tolist() == pytest.approx([0.5 * 20 * 0.135, paid], abs=1e-6)
    assert table.loc[["g", "grid"], "levy"].tolist() == [0, 0]
    deficit = settlement.deficit.iloc[0]
    assert deficit[["deficit", "levied", "left"]].tolist() == pytest.approx([paid, paid, 0], abs=1e-6)
    assert deficit["levy"] == pytest.approx(paid / 10, abs=1e-6)
    assert settlement.rent["rent"].tolist() == pytest.approx(plain.rent["rent"].tolist())
    assert settlement.reward("d") - plain.reward("d") == pytest.approx(paid, abs=1e-6)
    assert settlement.reward("f") - plain.reward("f") == pytest.approx(-paid, abs=1e-6)
    assert "$ paid on top for reductions, 0.0000 $ of it left to the operator" in str(settlement)
    assert "on top" not in str(plain)


def test_what_nobody_can_bear_is_left_to_the_operator():
    loads = pd.DataFrame([{"order": "d", "bus": "2", "initial_kw": 10.0, "price_min": 0.0, "price_max": 0.4}])
    orders = mo.Orders.from_reductions(loads).merge(steps(("grid", "1", "offer", 99.0, 0.1)))
    settlement = mo.settle(mo.clear("surplus", line(np.inf), orders), demand_response="on_top")
    # c'(r) = 0.04 r: reduced by 2.5 kW at 0.1, paid 0.25 $
    found = settlement.deficit[["deficit", "levied", "left"]].iloc[0].tolist()
    assert found == pytest.approx([0.25, 0, 0.25], abs=1e-6)
    assert settlement.budget == pytest.approx(-0.25, abs=1e-6)


def test_the_variant_is_an_option_of_the_clearing_and_a_word():
    clearing = on_paper()
    with pytest.raises(mo.UnknownNameError, match="unknown settlement of demand response 'ontop'; did you mean"):
        mo.settle(clearing, demand_response="ontop")
    chosen = mo.clear("dlmp", clearing.network, clearing.orders, demand_response="on_top").settlement
    wanted = mo.settle(clearing, demand_response="on_top")
    assert chosen.orders["payment"].tolist() == pytest.approx(wanted.orders["payment"].tolist(), abs=1e-5)


def market(seed: int, n: int = 6) -> tuple[mo.Network, pd.DataFrame, pd.DataFrame, mo.Orders]:
    """A random tree with generators, reducible loads of quadratic cost and a consumer, in two periods."""
    rng = np.random.default_rng(seed)
    network = radial(seed, n, hours=[0.5, 2.0])
    buses = network.buses["bus"].to_numpy()
    loads = pd.DataFrame([
        {"order": f"d{bus}", "bus": bus, "period": t, "participant": f"p{k % 3}", "initial_kw": rng.uniform(20, 80),
         "c1": rng.uniform(0.02, 0.2), "c2": rng.uniform(5e-4, 3e-3), "tan_phi": 0.2}
        for t in range(2) for k, bus in enumerate(buses[1:])
    ])  # fmt: skip
    units = pd.DataFrame([
        {"order": f"g{bus}", "bus": bus, "period": t, "participant": f"p{k % 3}", "p_max_kw": rng.uniform(10, 60),
         "c1": rng.uniform(0.02, 0.2), "c2": rng.uniform(5e-4, 3e-3)}
        for t in range(2) for k, bus in enumerate(buses[2::2])
    ])  # fmt: skip
    rest = pd.DataFrame([
        {"order": name, "bus": bus, "side": side, "period": t, "width_kw": width, "price": price + 0.1 * t}
        for t in range(2)
        for name, bus, side, width, price in (
            ("grid", buses[0], "offer", 1e4, 0.15),
            ("c1", buses[1], "bid", 15.0, 0.5),
            ("c3", buses[3], "bid", 5.0, 0.6),
        )
    ])  # fmt: skip
    names = [str(name) for name in rng.choice(network.lines["branch"], 2, replace=False)]
    network = network.with_ratings({name: float(rng.uniform(20, 60)) for name in names})
    return network, loads, units, mo.Orders.from_steps(rest)


def of_the_paper(network: mo.Network, loads: pd.DataFrame, units: pd.DataFrame, lmp: float, more: np.ndarray):
    """Eq. (12)-(15) and (18) of one hour in their own variables P_g, P_d and an import s >= max(0, P_source), lines by
    what lies behind them, solved by SLSQP. more: firm demand of each bus [kW]. Gives cost [$/h], P_g, P_d."""
    n, bus = network.n_buses, network.bus_index
    parent, behind = np.full(n, -1), np.eye(n)
    ends = list(zip(network.from_index.tolist(), network.to_index.tolist(), strict=True))
    order, seen = [network.source_index], {network.source_index}
    for i in order:
        for a, b in ends:
            j = b if a == i else a if b == i else i
            if j not in seen:
                parent[j] = i
                seen.add(j)
                order.append(j)
    for j in order[:0:-1]:
        behind[parent[j]] += behind[j]
    child = [b if parent[b] == a else a for a, b in ends]
    rating = network.lines["rating_kva"].to_numpy()
    limited = np.flatnonzero(np.isfinite(rating))
    lines, rating = behind[[child[k] for k in limited]], rating[limited]

    gens, dems = len(units), len(loads)
    at = np.zeros((n, gens + dems + 1))  # net demand of each bus
    at[[bus[b] for b in units["bus"]], np.arange(gens)] = -1
    at[[bus[b] for b in loads["bus"]], gens + np.arange(dems)] = 1
    top = loads["initial_kw"].to_numpy()
    c1 = np.r_[units["c1"], loads["c1"]]
    c2 = np.r_[units["c2"], loads["c2"]]
    total, spare = at.sum(axis=0), np.r_[np.zeros(gens + dems), 1.0]

    def amount(x: np.ndarray) -> np.ndarray:
        return np.r_[x[:gens], top - x[gens:-1]]

    def cost(x: np.ndarray) -> float:
        y = amount(x)
        return float(lmp * x[-1] + (c1 * y + c2 * y * y).sum())

    def slope(x: np.ndarray) -> np.ndarray:
        y = c1 + 2 * c2 * amount(x)
        return np.r_[y[:gens], -y[gens:], lmp]

    rows = np.vstack([spare - total, lines @ -at, lines @ at])
    ends_of_rows = np.r_[-more.sum(), rating - lines @ more, rating + lines @ more]
    found = minimize(
        cost, np.r_[np.zeros(gens), 0.3 * top, 0.3 * top.sum()], jac=slope, method="SLSQP",
        bounds=[(0, high) for high in [*units["p_max_kw"], *top]] + [(0, None)],
        constraints=[{"type": "ineq", "fun": lambda x: rows @ x + ends_of_rows, "jac": lambda x: rows}],
        options={"maxiter": 500, "ftol": 1e-13},
    )  # fmt: skip
    assert found.success, found.message
    return found.fun, found.x[:gens], found.x[gens:-1]


@pytest.mark.parametrize("seed", range(5))
def test_the_orders_solve_the_problem_of_the_paper(seed):
    """Cost, dispatch and prices are those of eq. (12)-(18) as printed; a price is the cost of one more kWh there."""
    network, loads, units, _ = market(seed)
    clearing = cleared(seed)
    got = clearing.dispatch.set_index(["order", "period"])["quantity_kw"]
    for t in (0, 1):
        here, there = loads[loads["period"] == t], units[units["period"] == t]
        more = np.zeros(network.n_buses)
        for name, at in (("c1", 1), ("c3", 3)):  # what consumers take is given to the paper's problem as firm
            more[at] = got[name, t]
        lmp = 0.15 + 0.1 * t
        cost, p_g, p_d = of_the_paper(network, here, there, lmp, more)
        made = got[[(name, t) for name in there["order"]]].to_numpy()
        taken = got[[(name, t) for name in here["order"]]].to_numpy()
        assert made == pytest.approx(p_g, abs=2e-3) and taken == pytest.approx(p_d, abs=2e-3)
        reduced = np.r_[made, here["initial_kw"].to_numpy() - taken]
        mine = lmp * got["grid", t] + float(np.r_[there["c1"], here["c1"]] @ reduced)
        mine += float(np.r_[there["c2"], here["c2"]] @ reduced**2)
        assert mine == pytest.approx(cost, rel=1e-6)
        for at in (2, 5):
            step = np.eye(network.n_buses)[at] * 0.05
            ends = [of_the_paper(network, here, there, lmp, more + sign * step)[0] for sign in (1, -1)]
            assert clearing.price(f"b{at}", t) == pytest.approx((ends[0] - ends[1]) / 0.1, abs=2e-4)


@cache
def cleared(seed: int) -> mo.Clearing:
    network, loads, units, rest = market(seed)
    return mo.clear("surplus", network, mo.Orders.from_reductions(loads).merge(mo.Orders.from_costs(units), rest))


@given(st.integers(0, 7), st.sampled_from(VARIANTS), st.booleans())
def test_money_adds_up(seed, variant, hidden):
    network, loads, units, rest = market(seed)
    clearing = cleared(seed)
    truth = None
    if hidden:
        responses = mo.Orders.from_reductions(loads.assign(c2=loads["c2"] * 0.5))
        truth = responses.merge(mo.Orders.from_costs(units.assign(c1=0.01)), rest)
    settlement = mo.settle(clearing, truth, demand_response=variant)
    table, people, roles = settlement.orders, settlement.participants, settlement.roles
    paid = clearing.dispatch["payment"].to_numpy()
    parts = table["charged"] - table["credited"] + table["levy"]
    assert table["payment"].to_numpy() == pytest.approx(parts.to_numpy(), abs=1e-9)
    assert settlement.budget == pytest.approx(paid.sum(), abs=1e-9)
    assert settlement.rent["rent"].to_numpy() == pytest.approx(np.bincount(table["period"], paid), abs=1e-9)
    assert (people["paid"] - people["received"]).sum() == pytest.approx(settlement.budget, abs=1e-9)
    welfare = float(np.where(table["side"] == "bid", table["value"], -table["value"]).sum())
    assert people["reward"].sum() + settlement.budget == pytest.approx(welfare)
    if not hidden:
        assert welfare == pytest.approx(clearing.welfare)
    wanted = roles["revenue"] - roles["cost"] + roles["utility"] - roles["bill"]
    assert roles["reward"].to_numpy() == pytest.approx(wanted.to_numpy(), abs=1e-9)
    by_person = roles.groupby("participant", sort=False)["reward"].sum()
    assert by_person[people["participant"]].to_numpy() == pytest.approx(people["reward"].to_numpy(), abs=1e-9)
    response = table[table["role"] == "demand_response"]
    owed = response["price"] * response["initial_kw"] * network.hours[response["period"].to_numpy()]
    saved = response["credited"] if variant == "on_top" else 0.0
    assert (response["charged"] + saved).to_numpy() == pytest.approx(owed.to_numpy(), abs=1e-9)
    gain = response["credited"] + saved - response["reduction_cost"]
    assert response["reduction_reward"].to_numpy() == pytest.approx(gain.to_numpy(), abs=1e-9)
    assert settlement.deficit["deficit"].sum() == pytest.approx(
        response["credited"].sum() if variant == "on_top" else 0.0, abs=1e-9
    )
    if not hidden and variant == "credit":
        assert response["reduction_reward"].min() > -1e-5  # at a price that it accepts nobody loses by reducing
    assert table["levy"].sum() == pytest.approx(settlement.deficit["levied"].sum(), abs=1e-9)


def test_a_person_may_have_several_roles():
    settlement = cleared(3).settlement
    people = settlement.participants.set_index("participant")
    assert people.loc["p0", "role"] == "demand_response, producer"
    assert people.loc["c1", "role"] == "consumer"
    roles = settlement.roles.set_index(["participant", "role"])
    assert {("p0", "producer"), ("p0", "demand_response"), ("grid", "producer")} <= set(roles.index)
    assert roles.loc[("grid", "producer"), "reduction_kwh"] == 0


def test_a_reduction_is_valued_by_the_true_curve_of_the_whole_load():
    clearing = on_paper()
    loads = pd.DataFrame([{"order": "d", "bus": "2", "initial_kw": 100.0, "c1": 0.02, "c2": 2e-4}])
    rest = clearing.orders.without(["d"])
    true = mo.settle(clearing, rest.merge(mo.Orders.from_reductions(loads))).orders.set_index("order").loc["d"]
    assert true["reduction_cost"] == pytest.approx(0.02 * 42.5 + 2e-4 * 42.5**2, abs=1e-6)
    short = mo.Orders.from_reductions(loads.assign(initial_kw=80.0))
    with pytest.raises(mo.DataError, match="value 80.0: the true curve ends before the initial 100 kW"):
        mo.settle(clearing, rest.merge(short))


@pytest.mark.parametrize("flow", ["lindistflow", "distflow"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_reactive_power_is_charged_with_the_energy(flow, variant):
    """With tan_phi an order's price is that of its active and reactive power together; the net payment stands."""
    network = mo.Network(
        pd.DataFrame({"bus": ["1", "2"], "base_kv": 1.0, "v_min_pu": 0.9, "v_max_pu": 1.1}),
        pd.DataFrame([{"branch": "l", "from_bus": "1", "to_bus": "2", "r_ohm": 0.5, "x_ohm": 0.5, "rating_kva": 70.0}]),
        "1",
    )
    clearing = mo.clear("surplus", network, on_paper(tan_phi=0.4).orders, flow=flow)
    assert clearing.reactive_prices is not None and clearing.reactive_prices["price"].abs().max() > 1e-4
    settlement = mo.settle(clearing, demand_response=variant)
    row = settlement.orders.set_index("order").loc["d"]
    whole = clearing.price("2") + 0.4 * clearing.reactive_prices["price"].iloc[1]
    assert row["credited"] == pytest.approx(whole * row["reduction_kw"], rel=1e-6)
    net = clearing.dispatch.set_index("order").loc["d", "payment"]
    assert row["payment"] == pytest.approx(net if variant == "credit" else net - row["credited"], rel=1e-9)
    assert settlement.budget == pytest.approx(clearing.dispatch["payment"].sum(), rel=1e-9)


def test_a_saved_clearing_knows_the_roles(tmp_path):
    clearing = on_paper()
    clearing.save(tmp_path / "out")
    back = mo.Clearing.load(tmp_path / "out")
    assert back.orders.orders["role"].tolist() == clearing.orders.orders["role"].tolist()
    for variant in VARIANTS:
        one, two = mo.settle(clearing, demand_response=variant), mo.settle(back, demand_response=variant)
        for name in ("orders", "participants", "rent", "roles", "deficit"):
            pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))


def test_a_session_keeps_the_roles():
    clearing = on_paper()
    session = mo.Session(mo.build("surplus", clearing.network, clearing.orders, parametric=True))
    session.update(orders=clearing.orders)
    session.solve()
    again = mo.settle(session.clearing()).orders
    pd.testing.assert_frame_equal(again, mo.settle(clearing).orders, atol=1e-4)
    table = clearing.orders.orders.assign(role=["consumer", *clearing.orders.orders["role"].iloc[1:]])
    with pytest.raises(mo.FormulationError, match="order 'd' has role 'consumer' instead of 'demand_response'"):
        session.update(orders=mo.Orders(table, clearing.orders.segments))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_balanced_budget_stays_balanced(variant):
    clearing = on_paper()
    balanced = mo.clear("surplus", clearing.network, clearing.orders, pricing="budget_balanced")
    settlement = mo.settle(balanced, demand_response=variant)
    assert settlement.budget == pytest.approx(0, abs=1e-6)
    row = settlement.orders.set_index("order").loc["d"]
    assert row["credited"] == pytest.approx(row["price"] * row["reduction_kw"])
