"""Congested cases, phase shifts and taps: flow `dc` against pandapower's DC optimal power flow with the same costs.

What pandapower's `rundcopp` is: generators and the external grid with p limits and polynomial costs in EUR/MW, loads as
constants, |P| <= max_loading_percent of max_i_ka at nominal voltage. Its lam_p is the price per MWh. It leaves out
the transformers' iron losses, which are shunts here (44 kW of 4,242 MW in case118).
"""

from __future__ import annotations

import numpy as np
import pytest

import mktopt as mo
from tests.nets import example_net

pandapower = pytest.importorskip("pandapower")

CASES = ["case30", "case57", "case118"]


def solved(net) -> None:
    pandapower.rundcopp(net, PDIPM_FEASTOL=1e-9, PDIPM_GRADTOL=1e-9, PDIPM_COMPTOL=1e-9, PDIPM_COSTTOL=1e-9)
    assert net.OPF_converged


def market(net) -> tuple[mo.Network, mo.Orders]:
    from mktopt.networks.defaults import firm_orders
    from mktopt.networks.pandapower import offers_from_pandapower

    network = mo.Network.from_pandapower(net)
    return network, offers_from_pandapower(net, network)[0].merge(firm_orders(network))


def agrees(net, network: mo.Network, clearing: mo.Clearing, fixed_cost: float) -> None:
    """Prices, flows and cost, each to 1e-4 of its size."""
    theirs = net.res_bus["lam_p"].to_numpy() / 1000.0
    ours = clearing.prices["price"].to_numpy()
    assert ours == pytest.approx(theirs, abs=1e-4 * np.abs(theirs).max())
    flows = np.r_[net.res_line["p_from_mw"], net.res_trafo["p_hv_mw"], net.res_impedance["p_from_mw"]] * 1000.0
    active = network.branches["in_service"].to_numpy()
    assert len(flows) == len(active)
    assert clearing.flows["p_kw"].to_numpy() == pytest.approx(flows[active], abs=1e-4 * np.abs(flows).max())
    offers = ~clearing.orders.is_bid
    cost = clearing.orders.curves.value(clearing.dispatch["quantity_kw"])[offers].sum()
    assert cost + fixed_cost == pytest.approx(net.res_cost, rel=1e-4)


@pytest.mark.parametrize("flow", ["dc", "ptdf"])
@pytest.mark.parametrize("name", CASES)
def test_congested_cases_clear_as_in_pandapower(name, flow):
    """The most loaded lines that are no bridge may carry less than they would: prices part."""
    net = example_net(name)
    solved(net)
    bridges = set(mo.Network.from_pandapower(net).topology.bridge_mask.nonzero()[0].tolist())
    order = net.res_line["p_from_mw"].abs().sort_values(ascending=False).index
    chosen = [line for line in order if line not in bridges][:3]
    kv = net.bus.loc[net.line.loc[chosen, "from_bus"], "vn_kv"].to_numpy()
    share = 0.9 if name == "case30" else 0.7  # case30 has little room: 0.7 leaves no feasible dispatch
    limit = share * net.res_line.loc[chosen, "p_from_mw"].abs().to_numpy()
    net.line.loc[chosen, "max_i_ka"] = limit / (np.sqrt(3) * kv)
    net.line.loc[chosen, "max_loading_percent"] = 100.0
    solved(net)
    network, orders = market(net)
    clearing = mo.clear("surplus", network, orders, flow=flow)
    assert clearing.certificate.ok(), clearing.certificate
    assert np.ptp(clearing.prices["price"]) > 0.01 * clearing.prices["price"].abs().max(), "nothing is congested"
    assert (clearing.flows["loading_percent"] > 99.99).sum() >= 1
    agrees(net, network, clearing, 0.0)


def test_phase_shifts_and_taps_agree_with_pandapower():
    """case57 with a phase shifter and two off-nominal taps: their effect on DC flows is pandapower's."""
    net = example_net("case57")
    net.trafo.loc[0, "shift_degree"] += 3.0
    net.trafo.loc[3, "shift_degree"] -= 2.0
    solved(net)
    network, orders = market(net)
    clearing = mo.clear("surplus", network, orders, flow="dc")
    agrees(net, network, clearing, 0.0)
    plain = mo.load_case("case57")
    before = mo.clear("surplus", plain.network, plain.orders, flow="dc").flows["p_kw"]
    assert np.abs(before - clearing.flows["p_kw"]).max() > 1000.0, "the shift moves no power"
