"""Flow `dc` against pandapower's DC optimal power flow, with the same costs and limits."""

from __future__ import annotations

import numpy as np
import pytest

import mktopt as mo
from tests.nets import example_net

pandapower = pytest.importorskip("pandapower")


@pytest.fixture(scope="module", params=["case30", "case57", "case118"])
def both(request):
    net = example_net(request.param)
    pandapower.rundcopp(net)
    case = mo.load_case(request.param)
    return net, case, mo.clear("surplus", case.network, case.orders, flow="dc")


def test_the_cost_is_the_same(both):
    """Welfare is the value of firm loads minus the cost of offers; the cost is pandapower's but for constants."""
    net, case, clearing = both
    dispatch, bids = clearing.dispatch, case.orders.is_bid
    cost = float(case.orders.curves.value(dispatch["quantity_kw"].to_numpy())[~bids].sum())
    assert cost + case.meta.get("fixed_cost_per_h", 0.0) == pytest.approx(net.res_cost, rel=1e-4)


def test_prices_are_the_same(both):
    """lam_p is in cost per MWh, of one more MW of load."""
    net, case, clearing = both
    names = net.bus["name"].astype(str) if "name" in net.bus else net.bus.index.astype(str)
    theirs = dict(zip(_bus_names(net, case, names), net.res_bus["lam_p"] / 1e3, strict=True))
    ours = clearing.prices.set_index("bus")["price"]
    level = max(abs(price) for price in theirs.values())
    for bus, price in theirs.items():
        assert ours[bus] == pytest.approx(price, abs=1e-4 * level), bus


def test_flows_are_the_same(both):
    """Flows at the from end, all lines and transformers, up to the sign of their direction."""
    net, case, clearing = both
    buses = _bus_names(net, case, net.bus["name"].astype(str))
    name_of = dict(zip(net.bus.index, buses, strict=True))
    ends = [*net.line[["from_bus", "to_bus"]].to_numpy(), *net.trafo[["hv_bus", "lv_bus"]].to_numpy()]
    values = [*net.res_line["p_from_mw"], *net.res_trafo["p_hv_mw"]]
    theirs = [(name_of[i], name_of[j], p) for (i, j), p in zip(ends, values, strict=True)]
    lines = case.network.lines
    ours: dict[tuple[str, str], float] = {}
    for i, j, p in zip(lines["from_bus"], lines["to_bus"], clearing.flows["p_kw"], strict=True):
        ours[i, j] = ours.get((i, j), 0.0) + p / 1e3
        ours[j, i] = ours.get((j, i), 0.0) - p / 1e3
    sums: dict[tuple[str, str], float] = {}
    for i, j, p in theirs:
        sums[i, j] = sums.get((i, j), 0.0) + p
        sums[j, i] = sums.get((j, i), 0.0) - p
    assert set(sums) == set(ours)
    largest = max(abs(p) for p in sums.values())
    worst = max(abs(sums[pair] - ours[pair]) for pair in sums)
    assert worst <= 1e-4 * largest


def test_the_certificate_holds(both):
    _, _, clearing = both
    assert clearing.certificate.ok(), clearing.certificate


def _bus_names(net, case, names) -> list[str]:
    """pandapower's buses under the names that our tables give them, in its sequence."""
    known = set(case.network.buses["bus"])
    listed = [str(name) for name in names]
    if set(listed) != known:
        listed = [str(index) for index in net.bus.index]
    if set(listed) != known:
        listed = [str(index + 1) for index in net.bus.index]
    assert set(listed) == known
    assert np.unique(listed).size == len(listed)
    return listed


# -- case300 with the limits and costs of PGLib ----------------------------------------------------------------------


@pytest.mark.parametrize(("susceptance", "optimum"), [("reactance", 517_585), ("powermodels", 517_850)])
def test_case300_has_pglibs_optimum(susceptance, optimum):
    case = mo.load_case("case300")
    clearing = mo.clear("surplus", case.network, case.orders, flow=mo.flow("dc", susceptance=susceptance))
    offers = ~case.orders.is_bid
    cost = float(case.orders.curves.value(clearing.dispatch["quantity_kw"].to_numpy())[offers].sum())
    assert cost + case.meta.get("fixed_cost_per_h", 0.0) == pytest.approx(optimum, rel=1e-4)
    assert clearing.certificate.ok(), clearing.certificate


def test_a_susceptance_on_paper():
    """Two parallel lines, z = 3 + 4j and 5j ohm at 1 kV: susceptances 4 / 25 and 1 / 5, or 1 / 4 and 1 / 5."""
    import pandas as pd

    branches = pd.DataFrame({
        "branch": ["a", "b"], "from_bus": "1", "to_bus": "2", "r_ohm": [3.0, 0.0], "x_ohm": [4.0, 5.0],
    })  # fmt: skip
    network = mo.Network(pd.DataFrame({"bus": ["1", "2"], "base_kv": 1.0}), branches, "1")
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": ["up", "load"], "bus": ["1", "2"], "side": ["offer", "bid"], "width_kw": [10.0, 9.0],
        "price": [0.1, 1.0],
    }))  # fmt: skip
    for susceptance, shares in (("reactance", [5.0, 4.0]), ("powermodels", [4.0, 5.0])):
        flows = mo.clear("surplus", network, orders, flow=mo.flow("dc", susceptance=susceptance)).flows
        assert flows["p_kw"].to_numpy() == pytest.approx(shares, abs=1e-6)
    bare = network.replace(branches=branches.assign(x_ohm=[0.0, 5.0]))
    with pytest.raises(mo.FormulationError, match="branch 'a' has resistance but no reactance"):
        mo.clear("surplus", bare, orders, flow=mo.flow("dc", susceptance="powermodels"))
    with pytest.raises(mo.UnknownNameError, match="powermodels"):
        mo.clear("surplus", network, orders, flow=mo.flow("dc", susceptance="powermodel"))
