"""Prices in parts against finite differences of a power flow of the test's own, and against H of linear flows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
from scipy.sparse import csr_array

import mktopt as mo
from mktopt.clearing.price_parts import PARTS
from tests.clearing.markets import affine, congested, meshed, radial, steps
from tests.formulations.physics import grid_of, injections

EXACT = mo.flow("distflow", exact=True)


def at(table: pd.DataFrame, bus: str) -> pd.Series[Any]:
    """The row of a bus."""
    return table[table["bus"] == bus].iloc[0]


class PowerFlow:
    """A power flow by fixed-point iteration on complex voltages, for grids without shunts, charging and ratios."""

    def __init__(self, network: mo.Network) -> None:
        lines = network.lines
        z = (lines["r_ohm"].to_numpy() + 1j * lines["x_ohm"].to_numpy()) / (1e3 * 12.47**2)
        A = network.topology.incidence.toarray().T
        self.network, self.A, self.y = network, A, 1.0 / z
        Y = A.T @ (self.y[:, None] * A)
        self.others = np.delete(np.arange(network.n_buses), network.source_index)
        self.Z = np.linalg.inv(Y[np.ix_(self.others, self.others)])

    def solve(self, p: np.ndarray, q: np.ndarray) -> dict[str, np.ndarray]:
        """source: (P, Q) that it sends; v: |V|; from, to: |S|^2 at either end; p, q: injections [kW, kvar]."""
        home, s = self.network.source_v_pu, (p + 1j * q)[self.others]
        V = np.full(len(p), home, dtype=complex)
        for _ in range(100):
            V[self.others] = home + self.Z @ np.conj(s / V[self.others])
        current = self.y * (self.A @ V)
        sent = np.where(self.A > 0, V, 0).sum(axis=1) * np.conj(current)
        received = np.where(self.A < 0, V, 0).sum(axis=1) * np.conj(current)
        source = V[self.network.source_index] * np.conj(self.A.T @ current)[self.network.source_index]
        return {"source": np.array([source.real, source.imag]), "v": np.abs(V), "from": np.abs(sent) ** 2,
                "to": np.abs(received) ** 2}  # fmt: skip

    def slope(self, p: np.ndarray, q: np.ndarray, bus: int, reactive: bool) -> dict[str, np.ndarray]:
        """Change of everything per kW (or kvar) drawn at the bus in position `bus`."""
        step = np.zeros(len(p))
        step[bus] = 0.01
        none = np.zeros(len(p))
        more, less = (
            self.solve(*((p, q + sign * step) if reactive else (p + sign * step, q + none))) for sign in (-1.0, 1.0)
        )
        return {name: (more[name] - less[name]) / 0.02 for name in more}


def limited_market(network: mo.Network, source_kvar: float) -> mo.Orders:
    """The source's reactive power is limited, so that it has a price; a unit at b4 has a range."""
    orders = affine(3, network, tan_phi=0.4)
    ranges = steps(("up q", "b0", "offer", 0.0, 9.0), ("unit", "b4", "offer", 0.0, 9.0),
                   q_min_kvar=[-500.0, -80.0], q_max_kvar=[source_kvar, 200.0])  # fmt: skip
    return orders.merge(ranges)


@pytest.mark.parametrize(
    ("flow", "tree"),
    [("distflow", True), (EXACT, True), ("ac", True), ("ac", False)],
    ids=["cone", "exact", "ac", "ac meshed"],
)
def test_every_part_is_a_multiplier_times_a_finite_difference(flow, tree):
    network = (radial if tree else meshed)(3, n=7, hours=[0.5])
    lines = network.branches
    network = network.replace(branches=lines.assign(r_ohm=20 * lines["r_ohm"], x_ohm=20 * lines["x_ohm"]))
    network = network.replace(buses=network.buses.assign(v_min_pu=0.9963 if tree else 0.9987))
    network = network.with_ratings({"l1": 30.0, "l3": 20.0})
    clearing = mo.clear("surplus", network, limited_market(network, 60.0 if tree else 10.0), flow=flow)
    if clearing.relaxation is not None:
        assert clearing.relaxation["gap"].max() < 1e-6
    flows, state = PowerFlow(network), injections(clearing)
    assert flows.solve(*state)["v"] == pytest.approx(clearing.voltages["v_pu"].to_numpy(), abs=1e-7)
    seen = set()
    for of, parts, prices in (
        ("active", clearing.price_parts, clearing.prices),
        ("reactive", clearing.reactive_price_parts, clearing.reactive_prices),
    ):
        home = [frame["price"].iloc[network.source_index] for frame in (clearing.prices, clearing.reactive_prices)]
        level = float(prices["price"].abs().max())
        shares = {part: clearing.price_shares(part, of) for part in ("congestion", "voltage")}
        for bus in flows.others:
            name = network.buses["bus"].iloc[bus]
            slope, row = flows.slope(*state, bus, of == "reactive"), at(parts, name)
            assert row["energy"] + row["loss"] == pytest.approx(home[0] * slope["source"][0], abs=1e-6 * level)
            assert row["reactive"] == pytest.approx(home[1] * slope["source"][1], abs=1e-6 * level)
            expected = expected_shares(clearing, slope)
            for part in shares:
                here = shares[part][shares[part]["bus"] == name].set_index("cause")["share"]
                for cause in set(expected[part]) | set(here.index):
                    found, wanted = here.get(cause, 0.0), expected[part].get(cause, 0.0)
                    assert found == pytest.approx(wanted, abs=2e-6 * level), (part, cause)
        seen |= {part for part in PARTS if parts[part].abs().max() > 1e-4 * level}
    assert seen == {"energy", "loss", "congestion", "voltage", "reactive"}


def expected_shares(clearing: mo.Clearing, slope: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Multiplier of each limit times its change per unit drawn [$/kWh]."""
    block, evidence, network = grid_of(clearing), clearing.evidence, clearing.network
    hours, program = float(network.hours[0]), evidence.program
    branches, found = network.lines["branch"].tolist(), {"congestion": {}, "voltage": {}}
    for component, end in (("apparent_power", "from"), ("apparent_power_to", "to")):
        for (branch, _), row in block.component(component).items():
            k = branches.index(branch)
            unit = pyo.value(row.upper) / network.lines["rating_kva"].iloc[k] ** 2
            worth = evidence.multipliers[program.row(row)] * unit * slope[end][k] / hours
            found["congestion"][branch] = found["congestion"].get(branch, 0.0) + worth
    polar = block.component("v_pu") is not None
    volts = clearing.voltages["v_pu"].to_numpy()
    for b, bus in enumerate(network.buses["bus"]):
        if b != network.source_index:
            column = program.column((block.v_pu if polar else block.v2)[bus, 0])
            worth = -program.sense * evidence.solution.reduced_cost[column] / hours
            found["voltage"][bus] = worth * slope["v"][b] * (1.0 if polar else 2.0 * volts[b])
    return found


@pytest.mark.parametrize("flow", ["dc", "ptdf", "transport"])
def test_congestion_and_own_rows_are_multipliers_times_ptdf(flow):
    """And a row that holds orders too counts with what the grid's variables do in it."""
    seed = 7 if flow == "transport" else 5
    network = (radial if flow == "transport" else meshed)(seed, n=7, hours=[2.0])
    orders = affine(seed, network)
    network = congested(network, orders, flow, share=0.7, most=2)
    p_kw = mo.clear("surplus", network, orders, flow=flow).flows.set_index("branch")["p_kw"]
    room = network.lines.set_index("branch")["rating_kva"] - p_kw.abs()
    line = p_kw[room > 1.0].abs().idxmax()
    sign = float(np.sign(p_kw[line]))

    def most(model: Any, network: mo.Network) -> None:
        body = 2.0 * sign * model.grid.p_kw[line, 0] - 0.1 * model.accepted_kw["db2", 0]
        model.most = pyo.Constraint(expr=body <= 1.5 * abs(p_kw[line]))

    clearing = mo.clear("surplus", network, orders, flow=flow, extra=[most])
    parts, hours = clearing.price_parts, 2.0
    H = pd.DataFrame(np.asarray(csr_array(network.topology.ptdf).toarray()), index=network.lines["branch"])
    own = float(clearing.constraints["dual"].iloc[0])
    assert own > 1e-3
    assert parts["custom"].to_numpy() == pytest.approx(-2.0 * sign * own * H.loc[line].to_numpy() / hours, abs=1e-9)
    assert set(clearing.price_shares("custom")["cause"]) == {"most"}
    evidence, shares = clearing.evidence, clearing.price_shares("congestion")
    assert len(shares)
    for branch in network.lines["branch"]:
        cost = evidence.solution.reduced_cost[evidence.program.column(grid_of(clearing).p_kw[branch, 0])]
        here = shares[shares["cause"] == branch].set_index("bus")["share"].reindex(network.buses["bus"]).fillna(0.0)
        wanted = evidence.program.sense * cost * H.loc[branch].to_numpy() / hours
        assert here.to_numpy() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("flow", ["dc", "ptdf"])
def test_security_is_multipliers_times_flows_after_outages(flow):
    network = meshed(9, n=7, chords=4, hours=[0.5])
    orders = affine(9, network)
    loaded = mo.clear("surplus", network, orders, flow=flow).flows["p_kw"].abs().max()
    network = network.with_ratings(dict.fromkeys(network.lines["branch"], 0.8 * float(loaded)))
    clearing = mo.clear("dlmp", network, orders, flow=flow, contingencies="n-1")
    shares = clearing.price_shares("security").set_index(["cause", "bus"])["share"]
    assert len(shares)
    H, L = np.asarray(network.topology.ptdf), np.asarray(network.topology.lodf)
    names, buses = network.lines["branch"].tolist(), network.buses["bus"].tolist()
    wanted: dict[Any, float] = {}
    for (contingency, branch, _), row in grid_of(clearing).security.items():
        dual = clearing.evidence.multipliers[clearing.evidence.program.row(row)] / 0.5
        k = names.index(branch)
        after = H[k] + (L[k, names.index(contingency)] * H[names.index(contingency)] if contingency in names else 0.0)
        for b, bus in enumerate(buses):
            wanted[contingency, bus] = wanted.get((contingency, bus), 0.0) - dual * after[b]
    for key in set(wanted) | set(shares.index):
        assert shares.get(key, 0.0) == pytest.approx(wanted.get(key, 0.0), abs=1e-8)


@pytest.mark.parametrize("flow", ["lindistflow", "distflow", "ac"])
def test_a_limit_written_by_the_user_costs_what_the_grids_own_does(flow):
    """The same lower voltage limit as data and as a row: `voltage` in one is `custom` in the other."""
    network = radial(3, n=7, hours=[0.5])
    lines = network.branches
    network = network.replace(branches=lines.assign(r_ohm=20 * lines["r_ohm"], x_ohm=20 * lines["x_ohm"]))
    orders = affine(3, network, tan_phi=0.4)
    volts = mo.clear("surplus", network, orders, flow=flow).voltages.set_index("bus")["v_pu"]
    weak, least = volts.idxmin(), float(volts.min()) + 2e-4

    def kept(model: Any, network: mo.Network) -> Any:
        return model.grid.v2[weak, 0] >= least**2

    limits = network.buses["v_min_pu"].where(network.buses["bus"] != weak, least)
    own = mo.clear("surplus", network, orders, flow=flow, extra=[kept])
    grids = mo.clear("surplus", network.replace(buses=network.buses.assign(v_min_pu=limits)), orders, flow=flow)
    one, other = own.price_parts, grids.price_parts
    assert other["voltage"].abs().max() > 1e-4
    assert (one["voltage"].abs() < 1e-9).all()
    assert one["custom"].to_numpy() == pytest.approx(other["voltage"].to_numpy(), abs=1e-7)
    assert one["loss"].to_numpy() == pytest.approx(other["loss"].to_numpy(), abs=1e-7)
    assert set(own.price_shares("custom")["cause"]) == {"kept"}
    assert set(grids.price_shares("voltage")["cause"]) == {weak}
