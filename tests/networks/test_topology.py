"""Trees, loops and sensitivities against power flows of their own definition and of pandapower."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.errors import FormulationError
from mktopt.networks import sensitivity, units
from mktopt.networks.cases import load_network
from mktopt.networks.network import Network
from mktopt.networks.synthetic import radial

MakeNetwork = Callable[..., Network]


def test_tree_of_a_small_grid() -> None:
    network = Network(
        buses=pd.DataFrame({"bus": list("sabc"), "base_kv": 1.0}),
        branches=pd.DataFrame({
            "branch": ["sa", "ba", "bc"],
            "from_bus": ["s", "b", "b"],
            "to_bus": ["a", "a", "c"],
            "r_ohm": 1.0,
            "x_ohm": 1.0,
        }),
        source_bus="s",
    )  # fmt: skip
    topology = network.topology
    assert topology.is_radial
    assert topology.find_loop() == []
    assert topology.order.tolist() == [0, 1, 2, 3]
    assert topology.parent.tolist() == [-1, 0, 1, 2]
    assert topology.parent_branch.tolist() == [-1, 0, 1, 2]
    assert topology.parent_sign.tolist() == [0, 1, -1, 1]
    assert topology.depth.tolist() == [0, 1, 2, 3]
    # What is injected at c flows c -> b -> a -> s: with branch ba, against sa and bc.
    assert topology.ptdf.toarray()[:, 3].tolist() == [-1, 1, -1]
    assert topology.subtree.toarray()[1].tolist() == [0, 1, 1, 1]


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30))
def test_tree_of_random_grids(seed: int, n: int, make_network: MakeNetwork) -> None:
    topology = make_network(seed, n).topology
    assert sorted(topology.order.tolist()) == list(range(n))
    position = np.argsort(topology.order)
    for bus in range(1, n):
        assert position[topology.parent[bus]] < position[bus]
        assert topology.depth[bus] == topology.depth[topology.parent[bus]] + 1


def test_graph_has_every_branch_by_name(make_network: MakeNetwork) -> None:
    network = make_network(3, 6, chords=2)
    assert {key for *_, key in network.topology.graph.edges(keys=True)} == set(network.lines["branch"])


@given(seed=st.integers(0, 10_000), chords=st.integers(1, 4))
def test_find_loop_gives_a_closed_way(seed: int, chords: int, make_network: MakeNetwork) -> None:
    network = make_network(seed, 10, chords=chords)
    loop = network.topology.find_loop()
    ends = network.lines.set_index("branch").loc[loop, ["from_bus", "to_bus"]]
    degree = pd.Series(ends.to_numpy().ravel()).value_counts()
    assert len(loop) >= 2
    assert (degree == 2).all()
    for one, other in zip(loop, [*loop[1:], loop[0]], strict=True):
        assert set(ends.loc[one]) & set(ends.loc[other])


def test_a_loop_is_named_where_a_tree_is_needed() -> None:
    with pytest.raises(FormulationError, match=r"needs a radial grid, but network 'case30' has a loop: .*1-3"):
        _ = load_network("case30").topology.lindistflow


@given(seed=st.integers(0, 10_000), chords=st.integers(0, 4))
def test_ptdf_solves_the_dc_equations(seed: int, chords: int, make_network: MakeNetwork) -> None:
    network = make_network(seed, 9, chords=chords, ratios=True)
    topology = network.topology
    rng = np.random.default_rng(seed)
    p = rng.normal(size=9)
    p[0] -= p.sum()
    flow = topology.ptdf @ p
    assert topology.incidence @ flow == pytest.approx(p, abs=1e-9)
    # Kirchhoff's second law: some angles explain the flows.
    drop = units.reactance_per_kw(network) * flow
    theta = np.linalg.lstsq(topology.incidence.T.toarray(), drop, rcond=None)[0]
    assert topology.incidence.T @ theta == pytest.approx(drop, abs=1e-12)


@pytest.mark.parametrize("name", ["case30", "case57", "case118", "case300"])
def test_ptdf_agrees_with_pandapower(name: str) -> None:
    import pandapower as pp

    network = load_network(name)
    net = network.to_pandapower()
    pp.rundcpp(net, calculate_voltage_angles=True)
    theirs = pd.concat([
        pd.Series(net.res_line["p_from_mw"].to_numpy(), index=net.line["name"]),
        pd.Series(net.res_trafo["p_hv_mw"].to_numpy(), index=net.trafo["name"]),
    ]).reindex(network.lines["branch"])  # fmt: skip
    topology = network.topology
    injection = -network.load_kw - network.shunt_kw
    injection[network.source_index] -= injection.sum()
    ours = topology.ptdf @ injection + topology.shift_flow_kw
    assert ours == pytest.approx(1000 * theirs.to_numpy(), abs=1e-9 * np.abs(ours).max())
    assert (topology.shift_flow_kw != 0).any() == (name == "case300")


def test_ptdf_by_perturbation_of_pandapower() -> None:
    import pandapower as pp

    network = load_network("case57")
    flows = []
    for step in (0.0, 1000.0):
        loads = network.loads.copy()
        loads.loc[3, "p_kw"] += step
        net = network.replace(loads=loads).to_pandapower()
        pp.rundcpp(net, calculate_voltage_angles=True)
        flows.append(np.r_[net.res_line["p_from_mw"], net.res_trafo["p_hv_mw"]])
        names = [*net.line["name"], *net.trafo["name"]]
    column = network.bus_index[network.loads["bus"][3]]
    expected = pd.Series(network.topology.ptdf[:, column], index=network.lines["branch"]).reindex(names)
    assert flows[0] - flows[1] == pytest.approx(expected.to_numpy(), abs=1e-9)


@settings(max_examples=settings().max_examples // 2)
@given(seed=st.integers(0, 10_000), chords=st.integers(1, 5))
def test_lodf_is_the_flow_after_the_outage(seed: int, chords: int, make_network: MakeNetwork) -> None:
    network = make_network(seed, 8, chords=chords)
    topology = network.topology
    p = np.random.default_rng(seed).normal(size=8)
    p[0] -= p.sum()
    before = topology.ptdf @ p
    for branch in range(network.n_branches):
        if topology.bridge_mask[branch]:
            assert np.isnan(topology.lodf[:, branch]).all()
            continue
        others = np.arange(network.n_branches) != branch
        rest = network.replace(branches=network.lines[others])
        after = before + topology.lodf[:, branch] * before[branch]
        assert after[others] == pytest.approx(rest.topology.ptdf @ p, abs=1e-9)
        assert after[branch] == pytest.approx(0.0, abs=1e-12)


def test_lodf_of_a_switch_beside_a_line(make_network: MakeNetwork) -> None:
    """A switch takes the whole transfer, so that 1 - H a is 0 although it is no bridge."""
    network = make_network(5, 4)
    line = network.branches.iloc[[1]]
    switch = line.assign(branch="switch", r_ohm=0.0, x_ohm=0.0, kind="switch")
    beside = network.replace(branches=pd.concat([network.branches, switch], ignore_index=True))
    column = beside.topology.lodf[:, 3]
    assert column[[1, 3]] == pytest.approx([1.0, -1.0])
    assert np.isnan(beside.topology.lodf[:, 0]).all()


def test_bridges_fall_apart(make_network: MakeNetwork) -> None:
    assert make_network(1, 5).topology.bridges == ["e0", "e1", "e2", "e3"]
    assert np.isnan(make_network(1, 5).topology.lodf).all()
    assert load_network("eight_node").topology.bridges == ["A8-A6"]


def test_a_loop_without_reactance_is_named(make_network: MakeNetwork) -> None:
    network = make_network(2, 5, chords=1)
    dead = network.branches.assign(x_ohm=0.0)
    with pytest.raises(FormulationError, match=r"branches without reactance form a loop: .*e4"):
        _ = network.replace(branches=dead).topology.ptdf
    twins = pd.concat([dead.iloc[:4], dead.iloc[[0]].assign(branch="twin")], ignore_index=True)
    with pytest.raises(FormulationError, match=r"e0.*twin|twin.*e0"):
        _ = network.replace(branches=twins).topology.ptdf


def test_reactances_that_cancel_are_refused() -> None:
    network = Network(
        buses=pd.DataFrame({"bus": ["a", "b"], "base_kv": 1.0}),
        branches=pd.DataFrame({
            "branch": ["coil", "capacitor"], "from_bus": "a", "to_bus": "b", "r_ohm": 0.0, "x_ohm": [0.25, -0.25],
        }),
        source_bus="a",
    )  # fmt: skip
    with pytest.raises(FormulationError, match="reactances of a loop add up to zero"):
        _ = network.topology.ptdf


def test_matrices_too_large_are_refused(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MAX_DENSE", 30)
    with pytest.raises(FormulationError, match="use flow 'dc'"):
        _ = make_network(1, 6, chords=1).topology.ptdf
    with pytest.raises(FormulationError, match="use flow 'lindistflow'"):
        _ = make_network(1, 6).topology.lindistflow


def sweep_v2(network: Network, p_kw: np.ndarray, q_kvar: np.ndarray) -> np.ndarray:
    """Squared voltages by the linear DistFlow recursion, branch by branch."""
    topology = network.topology
    down_p, down_q = topology.subtree @ p_kw, topology.subtree @ q_kvar
    z = 1000.0 * network.buses["base_kv"].to_numpy()[network.from_index] ** 2
    lines = network.lines
    v2 = np.full(network.n_buses, network.source_v_pu**2)
    for bus in topology.order[1:]:
        branch, above = topology.parent_branch[bus], topology.parent[bus]
        r, x, ratio = lines.loc[branch, ["r_ohm", "x_ohm", "ratio"]].astype(float)
        rise = 2 * (r * down_p[bus] + x * down_q[bus]) / z[branch]
        if topology.parent_sign[bus] > 0:
            v2[bus] = ratio**2 * (v2[above] + rise)
        else:
            v2[bus] = v2[above] / ratio**2 + rise
    return v2


@given(seed=st.integers(0, 10_000), n=st.integers(1, 15))
def test_lindistflow_is_the_recursion(seed: int, n: int, make_network: MakeNetwork) -> None:
    network = make_network(seed, n, ratios=True)
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 100, n), rng.normal(0, 50, n)
    R, X, gain = network.topology.lindistflow
    ours = gain * network.source_v_pu**2 + R @ p + X @ q
    assert ours == pytest.approx(sweep_v2(network, p, q), abs=1e-12)


def test_lindistflow_is_the_slope_of_a_power_flow_at_no_load() -> None:
    """Perturbation of pandapower's nonlinear power flow of ieee34, shunts and charging taken away."""
    import pandapower as pp

    full = load_network("ieee34")
    bare = {"shunts": full.shunts.iloc[:0], "loads": full.loads.iloc[:0]}
    network = full.replace(branches=full.branches.assign(b_us=0.0), **bare)
    R, X, gain = network.topology.lindistflow
    v2 = {}
    bus = network.bus_index["848"]
    for p, q in ((0.0, 0.0), (10.0, 0.0), (0.0, 10.0)):
        net = network.to_pandapower()
        pp.create_sgen(net, bus, p_mw=p / 1000, q_mvar=q / 1000)
        pp.runpp(net, init_vm_pu=network.topology.no_load_v_pu, init_va_degree="dc", tolerance_mva=1e-8, numba=False)
        v2[p, q] = net.res_bus["vm_pu"].to_numpy() ** 2
    assert v2[0, 0] == pytest.approx(gain * network.source_v_pu**2, abs=1e-9)
    assert v2[10, 0] - v2[0, 0] == pytest.approx(10 * R[:, bus], rel=3e-3, abs=1e-8)
    assert v2[0, 10] - v2[0, 0] == pytest.approx(10 * X[:, bus], rel=3e-3, abs=1e-8)


def test_a_hundred_thousand_buses_are_quick() -> None:
    network, orders = radial(100_000, seed=3)
    assert (network.n_buses, len(orders)) == (100_000, 200_000)
    topology = network.topology
    _ = (topology.depth, topology.parent_branch, topology.incidence, topology.voltage_gain)
    assert topology.depth.max() < 1000


def test_a_large_sparse_ptdf_balances_every_bus() -> None:
    network, _ = radial(20_000, seed=3)
    p = -network.load_kw
    p[0] -= p.sum()
    assert network.topology.incidence @ (network.topology.ptdf @ p) == pytest.approx(p, abs=1e-6)


def test_no_warning_from_numpy(make_network: MakeNetwork) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        topology = make_network(4, 7, chords=3).topology
        _ = (topology.lodf, topology.ptdf, topology.shift_flow_kw)


def test_a_grid_goes_to_another_process_after_use(make_network: MakeNetwork) -> None:
    network = make_network(3, 6, 2)
    factors = network.topology.ptdf
    there = pickle.loads(pickle.dumps(network))  # noqa: S301 our own bytes
    assert (there.topology.ptdf == factors).all()
    assert there.topology.dc_solver(np.zeros(network.n_branches + 5)) == pytest.approx(0.0)
