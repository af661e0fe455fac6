"""Small random markets for the tests: grids, orders without degenerate prices, ratings that bind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

import mktopt as mo
from mktopt.clearing.consistency import carried_kva

FLOWS = list(mo.FLOWS)
MESHED_FLOWS = [name for name, flow in mo.FLOWS.items() if not flow.radial_only]
CONES, NONCONVEX = ["lindistflow", "distflow", "lossy"], ["ac"]
# Flows whose markets are linear but for the curves of orders.
LINEAR = [name for name in FLOWS if name not in CONES + NONCONVEX]


def _taking(kinds: set[str]) -> list[str]:
    return [name for name, solver in mo.SOLVERS.items() if kinds <= set(solver.takes) and solver.available()]


SOLVERS = _taking({"LP", "QP"})
# Every flow with every solver that takes its markets.
PAIRS = [(flow, solver) for flow in LINEAR for solver in SOLVERS]
PAIRS += [(flow, solver) for flow in CONES for solver in _taking({"SOCP"})]
PAIRS += [(flow, solver) for flow in NONCONVEX for solver in _taking({"NLP"})]
Cap = Callable[[Any, mo.Network], Any]


def grid(rows: list[tuple], buses: list[str] | str, source: str = "1", **fields: Any) -> mo.Network:
    """A network from rows (branch, from_bus, to_bus, x_ohm, rating_kva)."""
    branches = pd.DataFrame(rows, columns=["branch", "from_bus", "to_bus", "x_ohm", "rating_kva"]).assign(r_ohm=0.0)
    return mo.Network(pd.DataFrame({"bus": list(buses), "base_kv": 1.0}), branches, source, **fields)


def steps(*rows: tuple, **columns: Any) -> mo.Orders:
    """Orders from rows (order, bus, side, width_kw, price)."""
    frame = pd.DataFrame(rows, columns=["order", "bus", "side", "width_kw", "price"])
    return mo.Orders.from_steps(frame.assign(**columns))


def radial(seed: int, n: int = 6, **fields: Any) -> mo.Network:
    """A random tree of n buses without limits; half of its branches point towards the source."""
    rng = np.random.default_rng(seed)
    return _network(rng, [(int(rng.integers(i)), i) for i in range(1, n)], n, **fields)


def meshed(seed: int, n: int = 6, chords: int = 3, **fields: Any) -> mo.Network:
    """A random tree of n buses and some chords, one of them parallel to a branch."""
    rng = np.random.default_rng(seed)
    ends = [(int(rng.integers(i)), i) for i in range(1, n)]
    ends += [tuple(map(int, rng.choice(n, 2, replace=False))) for _ in range(chords - 1)]
    return _network(rng, [*ends, ends[0]], n, **fields)


def _network(rng: np.random.Generator, ends: list[tuple[int, int]], n: int, **fields: Any) -> mo.Network:
    turned = [pair if rng.random() < 0.5 else pair[::-1] for pair in ends]
    branches = pd.DataFrame({
        "branch": [f"l{k}" for k in range(len(ends))],
        "from_bus": [f"b{i}" for i, _ in turned],
        "to_bus": [f"b{j}" for _, j in turned],
        "r_ohm": rng.uniform(0.05, 0.2, len(ends)),
        "x_ohm": rng.uniform(0.1, 0.4, len(ends)),
    })  # fmt: skip
    buses = pd.DataFrame({"bus": [f"b{i}" for i in range(n)], "base_kv": 12.47})
    return mo.Network(buses, branches, "b0", **fields)


def affine(seed: int, network: mo.Network, tan_phi: float = 0.2) -> mo.Orders:
    """A falling bid at every bus and a rising offer at every other one, in every period; the source's is wide."""
    rng = np.random.default_rng(seed + 1000)
    rows = []
    for t in network.periods:
        for k, bus in enumerate(network.buses["bus"]):
            low, high = rng.uniform(0.01, 0.05), rng.uniform(0.3, 0.6)
            rows.append((f"d{bus}", bus, "bid", t, rng.uniform(40, 90), low, high, tan_phi))
            if k % 2 == 0:
                low, high = rng.uniform(0.02, 0.10), rng.uniform(0.15, 0.30)
                width = 300.0 if k == 0 else rng.uniform(20, 50)
                rows.append((f"s{bus}", bus, "offer", t, width, low, high, 0.0))
    columns = ["order", "bus", "side", "period", "q_max_kw", "price_min", "price_max", "tan_phi"]
    return mo.Orders.from_curves(pd.DataFrame(rows, columns=columns))


def congested(
    network: mo.Network, orders: mo.Orders, flow: str, share: float = 0.6, most: int | None = None
) -> mo.Network:
    """`network` with ratings of the most (default: all) loaded branches below what they carry without any."""
    flows = mo.clear("surplus", network, orders, flow=flow).flows
    if not len(flows):
        return network
    carried = pd.Series(carried_kva(flows), index=flows.index)
    peak = carried.groupby(flows["branch"], sort=False).max().sort_values(ascending=False)
    peak = peak.clip(lower=0.05 * peak.max()).head(most or len(peak))
    return network.with_ratings({str(branch): float(share * kw) for branch, kw in peak.items()})


def cap_on_bids(share: float, network: mo.Network, orders: mo.Orders, flow: str) -> Cap:
    """A constraint that holds the bids of period 0 below a share of what they take without it, which binds."""
    dispatch = mo.clear("surplus", network, orders, flow=flow).dispatch
    names = dispatch[(dispatch["side"] == "bid") & (dispatch["period"] == 0)]
    limit = share * float(names["quantity_kw"].sum())

    def cap(model: Any, network: mo.Network) -> None:
        model.cap = pyo.Constraint(expr=sum(model.accepted_kw[name, 0] for name in names["order"]) <= limit)

    return cap
