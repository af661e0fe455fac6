"""Where no voltage is feasible: the report names the buses, and each cure works when applied, and less does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from mktopt.solvers import Stopped, compile, solve
from tests.clearing.markets import radial
from tests.clearing.test_cures import shed

CURES = ("serve less", "load branches more", "support the voltage", "widen voltage limits")
PHYSICS = [("lindistflow", {}), ("distflow", {}), ("distflow", {"exact": True}), ("ac", {})]
CURRENTS = {"current_limits": True}
RATED = [*PHYSICS[:2], ("lindistflow", {"sides": 12}), ("distflow", CURRENTS), ("ac", {}), ("ac", CURRENTS)]


def feeder(v_min: float = 0.95, rating: float = np.inf, **fields) -> mo.Network:
    """Buses 1 - 2 - 3 of 1 kV, each branch r = 1e-4, x = 2e-4 per kW; voltage limits from bus 2 on."""
    buses = pd.DataFrame({"bus": list("123"), "base_kv": 1.0, "v_min_pu": [0.5, v_min, v_min], "v_max_pu": 1.05})
    branches = pd.DataFrame({"branch": ["1-2", "2-3"], "from_bus": ["1", "2"], "to_bus": ["2", "3"], "r_ohm": 0.1,
                             "x_ohm": 0.2, "rating_kva": rating})  # fmt: skip
    return mo.Network(buses, branches, "1", **fields)


def load(kw: float = 200.0, tan_phi: float = 0.5, bus: str = "3", side: str = "bid") -> mo.Orders:
    """A firm order at the far end, and whatever it takes at the source."""
    other = "offer" if side == "bid" else "bid"
    return mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "firm"], "bus": ["1", bus], "side": [other, side], "width_kw": [1e4, kw],
        "price": [0.05, 1.0 if side == "bid" else 0.01], "tan_phi": [0.0, tan_phi], "minimum_kw": [0.0, kw],
    }))  # fmt: skip


def refused(network: mo.Network, orders: mo.Orders, flow: str, **options) -> mo.InfeasibleError:
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", network, orders, flow=mo.flow(flow, **options))
    return caught.value


def impossible(network: mo.Network, orders: mo.Orders, flow: str, **options) -> None:
    """As `refused` without the report, where the solver's answer is a proof: none is one of a local solver."""
    if flow == "ac" or "exact" in options:
        refused(network, orders, flow, **options)
        return
    program = compile(mo.build("surplus", network, orders, flow=mo.flow(flow, **options)))
    assert solve(program).status.stopped is Stopped.INFEASIBLE


def clears(network: mo.Network, orders: mo.Orders, flow: str, **options) -> mo.Clearing:
    return mo.clear("surplus", network, orders, flow=mo.flow(flow, **options))


def supported(orders: mo.Orders, cure: pd.DataFrame, share: float) -> mo.Orders:
    """Beside `orders`, what gives (or draws) a share of the kvar of a cure, and no kW."""
    kvar = cure["amount"] * np.where(cure["what"] == "inject at bus", share, -share)
    assert set(cure["what"]) <= {"inject at bus", "absorb at bus"} and set(cure["unit"]) == {"kvar"}
    return orders.merge(mo.Orders.from_steps(pd.DataFrame({
        "order": [f"kvar {k}" for k in range(len(cure))], "bus": cure["where"].to_numpy(), "side": "offer",
        "period": cure["period"].astype(int).to_numpy(), "width_kw": 0.0, "price": 0.0,
        "q_min_kvar": kvar.to_numpy(), "q_max_kvar": kvar.to_numpy()})))  # fmt: skip


def widened(network: mo.Network, cure: pd.DataFrame, share: float) -> mo.Network:
    """The voltage limits of a cure moved by a share of it."""
    buses = network.buses.set_index("bus")
    for row in cure.itertuples():
        low = row.what == "lower the voltage limit of bus"
        assert low or row.what == "raise the voltage limit of bus"
        column = "v_min_pu" if low else "v_max_pu"
        limit = network.buses.set_index("bus").at[row.where, column]
        moved = limit + (-share if low else share) * row.amount
        buses.loc[row.where, column] = (min if low else max)(moved, buses.at[row.where, column])
    return network.replace(buses=buses.reset_index())


def test_a_long_feeder_on_paper():
    """LinDistFlow: v2_3 = 1 - 8e-4 (P/2 + Q) must be 0.95^2; P = 200 kW and Q = 100 kvar are 78.125 kW (with half as
    many kvar) or 78.125 kvar too much."""
    error = refused(feeder(), load(), "lindistflow")
    report = error.report
    found = {cure: report.cure(cure)[["what", "where", "period", "unit"]].to_numpy().tolist() for cure in CURES}
    assert found == {
        "serve less": [["shed at bus", "3", 0, "kW"]],
        "load branches more": [],
        "support the voltage": [["inject at bus", "3", 0, "kvar"]],
        "widen voltage limits": [["lower the voltage limit of bus", "3", 0, "p.u."]],
    }
    amounts = report.relaxation.set_index("cure")["amount"].to_dict()
    assert amounts == pytest.approx(
        {"serve less": 78.125, "support the voltage": 78.125, "widen voltage limits": 0.95 - 0.84**0.5}, rel=1e-6
    )
    assert report.irreducible and not report.local
    assert report.conflict == (
        "voltage of bus 3, period 0: at least 0.95 p.u.",
        "firm order firm, period 0: 200 kW",
        "balance of bus 2, period 0",
        "balance of bus 3, period 0",
        "reactive balance of bus 2, period 0",
        "reactive balance of bus 3, period 0",
        "voltage drop of branch 1-2, period 0",
        "voltage drop of branch 2-3, period 0",
    )
    assert "if it is to support the voltage (total 78.12):\n  - inject at bus 3, period 0: 78.12 kvar" in str(error)


@pytest.mark.parametrize(("flow", "options"), PHYSICS)
@pytest.mark.parametrize("side", ["bid", "offer"])
def test_each_cure_of_a_voltage_works(flow, options, side):
    """Too low behind a load, too high behind a unit; a capacitor of so many kvar does as an order does."""
    how = {"side": side, "tan_phi": 0.5 if side == "bid" else 0.0}
    network, orders, kw = feeder(), load(**how), 200.0
    if side == "offer":
        orders, kw = load(400.0, **how), 400.0
    if side == "offer" and (flow, options) == ("distflow", {}):
        waste(clears(network, orders, flow))
        return
    report = refused(network, orders, flow, **options).report
    assert report.local == (bool(options) or flow == "ac")
    assert not any("grid." in name or "segment" in name for name in report.conflict), report.conflict
    limit = "at least 0.95" if side == "bid" else "at most 1.05"
    assert report.conflict[0] == f"voltage of bus 3, period 0: {limit} p.u."
    support, widen, less = (report.cure(name) for name in ("support the voltage", "widen voltage limits", "serve less"))
    assert set(support["what"]) == {"inject at bus" if side == "bid" else "absorb at bus"}
    clears(network, supported(orders, support, 1.0 + 1e-5), flow, **options)
    impossible(network, supported(orders, support, 0.99), flow, **options)
    clears(widened(network, widen, 1.0 + 1e-4), orders, flow, **options)
    impossible(widened(network, widen, 0.99), orders, flow, **options)
    assert less["what"].tolist() == ["shed at bus" if side == "bid" else "spill at bus"]
    again = load(kw - less["amount"].item() - 1e-3, **how)
    v = clears(network, again, flow, **options).voltages.set_index("bus")["v_pu"]
    assert v["3"] == pytest.approx(0.95 if side == "bid" else 1.05, abs=1e-5)
    if side == "bid" and len(support) == 1:
        kvar = support["amount"].item() / 0.95**2
        shunts = pd.DataFrame({"bus": ["3"], "g_kw": [0.0], "b_kvar": [kvar * (1 + 1e-5)]})
        assert clears(network.replace(shunts=shunts), orders, flow, **options).certificate.ok()


def waste(clearing: mo.Clearing) -> None:
    """A relaxation that burns what would raise the voltage is no dispatch: the gap and the AC verdict say so."""
    assert clearing.relaxation["phantom_kw"].max() > 10.0
    violations = clearing.check_ac().violations.set_index("what")
    assert violations.loc["voltage high", "where"] == "3"


@pytest.mark.parametrize(("flow", "options"), RATED)
def test_each_cure_of_a_rating_works(flow, options):
    """Two branches of 150 kVA in a row, and 200 kW with 100 kvar behind them."""
    network, orders = feeder(v_min=0.5, rating=150.0), load()
    report = refused(network, orders, flow, **options).report
    word = "current" if "current_limits" in options else "apparent power"
    assert report.conflict[0].startswith(f"{word} of branch "), report.conflict
    assert "rating 150 kVA" in report.conflict[0]
    assert not any("grid." in name for name in report.conflict), report.conflict
    more, less = report.cure("load branches more"), report.cure("serve less")
    assert set(more["what"]) == {"exceed the rating of branch"} and set(more["unit"]) == {"kVA"}
    for share, works in ((1.0 + 1e-5, True), (0.99, False)):
        ratings = {row.where: 150.0 + share * row.amount for row in more.itertuples()}
        (clears if works else impossible)(network.with_ratings(ratings), orders, flow, **options)
    clears(network, shed(orders, less, 1.0 + 1e-5), flow, **options)
    impossible(network, shed(orders, less, 0.99), flow, **options)
    if flow == "lindistflow" and not options:
        amounts = more.set_index("where")["amount"].to_dict()
        assert amounts == pytest.approx(dict.fromkeys(("1-2", "2-3"), 100 * 5**0.5 - 150))
        assert less["amount"].item() == pytest.approx(200 - 150 / 1.25**0.5)


@pytest.mark.parametrize(("seed", "flow"), [*((seed, "lindistflow") for seed in (1, 2, 3)), (4, "distflow")])
def test_cures_of_random_feeders_work_and_less_does_not(seed, flow):
    """Firm loads all over a tree, one or two periods, and a limit halfway between its lowest voltage and the source."""
    network = radial(seed, n=5, hours=[0.5, 2.0][: 1 + seed % 2])
    longer = network.branches.assign(r_ohm=30 * network.branches["r_ohm"], x_ohm=30 * network.branches["x_ohm"])
    network = network.replace(branches=longer, buses=network.buses.assign(v_min_pu=0.5))
    rng = np.random.default_rng(seed)
    rows = [("up", "b0", "offer", t, 1e4, 0.1, 0.0, 0.0) for t in network.periods]
    for t in network.periods:
        for bus in network.buses["bus"][1:]:
            kw = float(rng.uniform(100, 300))
            rows.append((f"d{bus}", bus, "bid", t, kw, 5.0, float(rng.uniform(-0.2, 0.6)), kw))
    columns = ["order", "bus", "side", "period", "width_kw", "price", "tan_phi", "minimum_kw"]
    orders = mo.Orders.from_steps(pd.DataFrame(rows, columns=columns))
    v = clears(network, orders, flow).voltages["v_pu"]
    limit = 0.5 * (v.min() + 1.0)
    narrow = network.replace(buses=network.buses.assign(v_min_pu=limit))
    report = refused(narrow, orders, flow).report
    support, widen, less = (report.cure(name) for name in ("support the voltage", "widen voltage limits", "serve less"))
    clears(narrow, supported(orders, support, 1 + 1e-4), flow)
    impossible(narrow, supported(orders, support, 0.99), flow)
    clears(widened(narrow, widen, 1 + 1e-3), orders, flow)
    impossible(widened(narrow, widen, 0.99), orders, flow)
    most = orders.orders.groupby(["bus", "period"])["minimum_kw"].max()
    enough = [min(1.0001 * row.amount, most[row.where, row.period]) for row in less.itertuples()]
    clears(narrow, shed(orders, less.assign(amount=enough), 1.0), flow)
    impossible(narrow, shed(orders, less, 0.99), flow)
    assert report.conflict[0].startswith("voltage of bus ") and "at least" in report.conflict[0]


@pytest.mark.parametrize(("flow", "options"), [("distflow", {}), ("ac", {})])
def test_a_feeder_with_regulators(flow, options):
    """IEEE 34 with firm loads and a limit that bus 890 cannot keep."""
    case = mo.load_case("ieee34")
    network = case.network.replace(buses=case.network.buses.assign(v_min_pu=0.95)).with_ratings({"832-888": 1000.0})
    table = case.orders.orders
    firm = table.assign(minimum_kw=np.where(case.orders.is_bid, case.orders.width_kw, table["minimum_kw"]))
    report = refused(network, mo.Orders(firm, case.orders.segments), flow, **options).report
    first, second = report.conflict[:2]
    assert first == "voltage of bus 890, period 0: at least 0.95 p.u."
    assert second == "firm order s890, period 0: 450 kW"
    found = {(row.cure, row.what, row.where): row.amount for row in report.relaxation.itertuples()}
    assert found == pytest.approx({
        ("serve less", "shed at bus", "890"): found["serve less", "shed at bus", "890"],
        ("support the voltage", "inject at bus", "890"): found["support the voltage", "inject at bus", "890"],
        ("widen voltage limits", "lower the voltage limit of bus", "890"): 0.95 - 0.916964,
    }, abs=1e-5)  # fmt: skip
    kw = report.cure("serve less")["amount"].item()
    assert kw == pytest.approx(62.55, abs=0.01)


def test_a_stop_is_no_proof():
    """A local solver that was stopped early has not shown that there is nothing: that is a SolverError."""
    with pytest.raises(mo.SolverError, match="did not clear the market.*did find a feasible dispatch; try another"):
        mo.clear("surplus", feeder(v_min=0.5), load(), flow="ac", solver="ipopt", solver_options={"max_iter": 2})


def test_a_shunt_that_nobody_may_serve():
    """5 kW of a shunt at 1 p.u. behind a source that sells nothing."""
    shunts = pd.DataFrame({"bus": ["1"], "g_kw": [5.0], "b_kvar": [0.0]})
    orders = load(kw=10.0)
    table, segments = orders.orders, orders.segments
    orders = mo.Orders(table[table["order"] == "firm"], segments[segments["order"] == "firm"])
    for flow in ("lindistflow", "distflow", "ac"):
        less = refused(feeder(shunts=shunts), orders, flow).report.cure("serve less").set_index("where")["amount"]
        assert less.to_dict() == pytest.approx({"1": 5.0, "3": 10.0}, abs=5e-3)


def test_constraints_of_the_users_own_are_named_once():
    def floor(model, network):
        return model.grid.v2["3", 0] >= 0.96

    def much(model, network):
        return model.accepted_kw["up", 0] <= -1.0

    report = refused_with(floor)
    assert any(row.what == "lower the limit of" and "floor" in row.where for row in report.relaxation.itertuples())
    report = refused_with(much)
    own = report.relaxation[report.relaxation["unit"] == ""]
    assert set(own["cure"]) <= set(CURES[:2])


def refused_with(extra):
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", feeder(v_min=0.5), load(), flow="lindistflow", extra=[extra])
    return caught.value.report


def test_sessions_report_their_present_ratings():
    wide = feeder(v_min=0.5, rating=1e3)
    session = mo.Session(mo.build("surplus", wide, load(), flow="lindistflow", parametric=True))
    assert session.solve().status.ok
    session.update(network=feeder(v_min=0.5, rating=150.0))
    with pytest.raises(mo.InfeasibleError) as caught:
        session.solve()
    more = caught.value.report.cure("load branches more").set_index("where")["amount"]
    assert more.to_dict() == pytest.approx(dict.fromkeys(("1-2", "2-3"), 100 * 5**0.5 - 150))
    assert "rating 150 kVA" in str(caught.value.report)


# -- what cannot even be declared --------------------------------------------------------------------------------


@pytest.mark.parametrize(("flow", "options"), PHYSICS[:3])
def test_a_loop_is_named(flow, options):
    network = feeder()
    chord = network.branches.iloc[[0]].assign(branch="1-3", to_bus="3")
    meshed = network.replace(branches=pd.concat([network.branches, chord], ignore_index=True))
    with pytest.raises(mo.FormulationError, match=f"flow '{flow}'.*1-3"):
        clears(meshed, load(), flow, **options)
    assert clears(meshed.replace(buses=meshed.buses.assign(v_min_pu=0.5)), load(), "ac").certificate.ok()


@pytest.mark.parametrize(("flow", "options"), PHYSICS)
def test_a_branch_without_impedance_joins_its_buses(flow, options):
    """Neither loss nor drop, with a ratio the voltage that it makes; nothing is divided by zero."""
    columns = {"r_ohm": [0.1, 0.0], "x_ohm": [0.2, 0.0], "ratio": [1.0, 1.02], "rating_kva": [np.inf, 150.0]}
    network = feeder(v_min=0.5).replace(branches=feeder().branches.assign(**columns))
    clearing = clears(network, load(100.0), flow, **options)
    v = clearing.voltages.set_index("bus")["v_pu"]
    assert v["3"] == pytest.approx(1.02 * v["2"], rel=1e-7)
    assert clearing.price("3") == pytest.approx(clearing.price("2"), rel=1e-5)
    assert clearing.certificate.ok()
    report = refused(network, load(), flow, **options).report
    assert report.cure("load branches more")["where"].tolist() == ["2-3"]


@pytest.mark.parametrize(("flow", "options"), PHYSICS)
@pytest.mark.parametrize(("v", "low", "high"), [(1.1, 0.9, 1.05), (0.8, 0.9, 1.05)])
def test_a_source_outside_its_own_limits(flow, options, v, low, high):
    network = feeder(v_min=0.5, source_v_pu=v)
    network = network.replace(buses=network.buses.assign(v_min_pu=[low, 0.5, 0.5], v_max_pu=[high, 1.5, 1.5]))
    match = rf"'source_v_pu', value {v}: the source bus '1' would be held outside its own limits, 0.9 to 1.05 p.u."
    with pytest.raises(mo.DataError, match=match):
        clears(network, load(), flow, **options)
    chosen = clears(network, load(), flow, free_source=True, **options).voltages.set_index("bus")["v_pu"]
    assert low - 1e-6 <= chosen["1"] <= high + 1e-6
    assert clears(network, load(), "transport").welfare > 0
