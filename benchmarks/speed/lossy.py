"""How long markets over private wires take (flow `lossy`): against raw arrays with the same solver, and as they grow.

    python benchmarks/speed/lossy.py [--repeat 5] [--large 3000] [--quick] [--out FILE.md|FILE.json]

IEEE 300 with a private wire between any two buses with probability 1/log n, about 7,900 wires, is cleared cold; then
grids of 3,000 buses, a tree and one with chords, with 100,000 private wires, each in a process of its own, for time
and peak memory. Raw Clarabel gets arrays written by hand: in MW and $/MWh, no reading, no tables, nothing checked.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from clear import OURS, RAW, RAW_OWN, STAGES, fresh, timed, unpaused
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo
from mktopt.networks import units
from mktopt.networks.private_wires import Wire, endowments, with_private_wires
from mktopt.networks.synthetic import radial
from mktopt.solvers.clarabel import DEFAULTS

MW = units.KW_PER_MW
BLOCKED = "raw Clarabel, blocked factors"
SAME_WELFARE = 1e-6  # relative
WIRES = 100_000
RADIAL, MESHED = "radial", "meshed"


@dataclass
class Report:
    """All that was measured, where and when: seconds per contestant and stage (medians), (seconds, GiB) per grid."""

    machine: dict[str, str]
    wires: int = 0
    repeats: int = 0
    error: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    large: dict[str, tuple[float, float]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)


def ieee300(seed: int = 1, density: str = "1/log n") -> tuple[mo.Network, mo.Orders]:
    """IEEE 300 with private wires at 115 kV on 1 km x 1 km; needs and surpluses of 100 MW on average."""
    network = with_private_wires(mo.load_network("case300"), density, seed=seed, wire=Wire(kv=115.0))
    return network, endowments(network, seed, size_kw=1e5 if density == "1/log n" else 1e3)


def large(kind: str, buses: int, wires: int = WIRES, seed: int = 1) -> tuple[mo.Network, mo.Orders]:
    """A synthetic feeder, with a chord for every third bus where it is meshed, and about `wires` private wires."""
    network = radial(buses, seed)[0]
    if kind == MESHED:
        rng, lines = np.random.default_rng(seed), network.branches
        ends = rng.permutation(buses)[: buses // 3 * 2].reshape(2, -1)
        names = network.buses["bus"].to_numpy()
        chords = lines.iloc[rng.integers(0, len(lines), ends.shape[1])].assign(
            branch=[f"chord{k}" for k in range(ends.shape[1])], from_bus=names[ends[0]], to_bus=names[ends[1]]
        )
        network = network.replace(branches=pd.concat([lines, chords], ignore_index=True))
    network = with_private_wires(network, wires / (buses * (buses - 1) / 2), seed=seed)
    return network, endowments(network, seed, size_kw=5.0)


def raw(network: mo.Network, orders: mo.Orders, settings: Mapping[str, Any]) -> float:
    """Welfare [$] by Clarabel on arrays written by hand: assembly, set-up, solve.

    Columns: segments x, mean flows f, losses L [MW], angles; |(2 sqrt(rho) f, L - 1)| <= L + 1, firm orders fixed.
    """
    import clarabel

    lines, curves, owner = network.lines, orders.curves, orders.segment_order
    sign, rho = orders.injection_sign[owner], MW * units.loss_per_kw(network)
    s, m, n = len(sign), len(rho), network.n_buses
    bus = network.bus_positions(orders.orders["bus"])[owner]
    inject = sp.csr_array((sign, (bus, np.arange(s))), shape=(n, s))
    incidence = sp.csr_array(network.topology.incidence)
    public = np.flatnonzero(~network.private)
    x = MW * units.reactance_per_kw(network)[public]
    shift = np.radians(lines["shift_deg"].to_numpy()[public])
    balance = sp.hstack([inject, -incidence, -0.5 * abs(incidence), sp.csr_array((n, n))])
    picked = sp.csr_array((x, (np.arange(len(public)), public)), shape=(len(public), m))
    drop = sp.hstack([sp.csr_array((len(public), s)), picked, sp.csr_array((len(public), m)), -incidence.T[public]])
    total = s + 2 * m + n
    one = sp.eye_array(total, format="csr")
    firm = np.flatnonzero(np.repeat(orders.firm, np.bincount(owner, minlength=len(orders.orders))))
    free, lossless = np.setdiff1d(np.arange(s), firm), np.flatnonzero(rho == 0.0)
    fixed = np.r_[firm, s + m + lossless, s + 2 * m + network.source_index]
    rating = lines["rating_kva"].to_numpy() / MW
    rated, width = np.flatnonzero(np.isfinite(rating)), curves.width / MW
    wide = free[np.isfinite(width[free])]
    equal, flows = sp.vstack([balance, drop, one[fixed]]), one[s : s + m]
    bounds = sp.vstack([-one[free], one[wide], flows[rated], -flows[rated]])
    lossy = np.flatnonzero(rho)
    tops = np.tile([1.0, 0.0, -1.0], len(lossy))
    root, loss = sp.diags_array(2.0 * np.sqrt(rho[lossy])) @ flows[lossy], one[s + m : s + 2 * m][lossy]
    order = np.arange(3 * len(lossy)).reshape(3, -1).T.ravel()
    cones = sp.vstack([-loss, -root, -loss], format="csr")[order]
    A = sp.csc_matrix(sp.vstack([equal, bounds, cones], format="csc"))
    shunts = np.asarray(network.shunt_kw) / MW
    b = np.r_[shunts, -shift, width[firm], np.zeros(len(fixed) - len(firm)), np.zeros(len(free)), width[wide]]
    b = np.r_[b, rating[rated], rating[rated], tops]
    kinds = [clarabel.ZeroConeT(equal.shape[0]), clarabel.NonnegativeConeT(bounds.shape[0])]
    kinds += [clarabel.SecondOrderConeT(3)] * len(lossy)
    pad = np.zeros(total - s)
    curvature, q = np.r_[MW**2 * sign * curves.slope, pad], np.r_[MW * sign * curves.start, pad]
    chosen = clarabel.DefaultSettings()
    for name, value in {"verbose": False, **settings}.items():
        setattr(chosen, name, value)
    P = sp.csc_matrix((curvature, np.arange(total), np.arange(total + 1)), shape=(total, total))
    found = clarabel.DefaultSolver(P, q, A, b, kinds, chosen).solve()
    if str(found.status) not in ("Solved", "AlmostSolved"):
        raise RuntimeError(f"Clarabel on raw arrays: {found.status}")
    return -float(found.obj_val)


CONTESTANTS: dict[str, Mapping[str, Any]] = {
    RAW: DEFAULTS,
    BLOCKED: {**DEFAULTS, "direct_solve_method": "faer"},
    RAW_OWN: {},
}


def contest(report: Report, repeat: int, density: str = "1/log n") -> None:
    """IEEE 300 by everybody in turns; raises RuntimeError where their welfare differs."""
    seconds: dict[str, list[float]] = {}
    stages: dict[str, list[float]] = {}
    for turn in range(repeat + 1):
        network, orders = ieee300(density=density)
        spent, clearing = timed(partial(mo.clear, "surplus", network, orders, flow="lossy"))
        found = {OURS: spent}
        inner = dict(clearing.seconds)
        for name, settings in CONTESTANTS.items():
            found[name], welfare = unpaused(partial(raw, network, orders, settings))
            report.error = max(report.error, abs(welfare - clearing.welfare) / abs(clearing.welfare))
        if turn:  # the first is the warm-up
            for name, value in found.items():
                seconds.setdefault(name, []).append(value)
            for stage in STAGES:
                stages.setdefault(stage, []).append(inner.get(stage, spent - sum(inner.values())))
    if not report.error <= SAME_WELFARE:
        raise RuntimeError(f"the contestants' welfare differs by {report.error:.1e}")
    report.wires, report.repeats = int(network.private.sum()), repeat
    report.seconds = {name: statistics.median(values) for name, values in seconds.items()}
    report.stages = {name: statistics.median(values) for name, values in stages.items()}


MEMORY = """
import sys, time
sys.path.insert(0, {folder!r})
import lossy, mktopt as mo
from reports import peak_gib
network, orders = lossy.large({kind!r}, {buses}, {wires})
start = time.perf_counter()
clearing = mo.clear("surplus", network, orders, flow="lossy")
taken = time.perf_counter() - start
assert clearing.certificate.ok(), clearing.certificate
print(taken, peak_gib())
"""


def measure(repeat: int, buses: int, wires: int = WIRES, density: str = "1/log n") -> Report:
    """Everything, said on stderr while it goes; buses: of the large grids, 0: none."""
    report = Report(machine())
    print("IEEE 300", file=sys.stderr, flush=True)
    contest(report, repeat, density)
    folder = str(Path(__file__).resolve().parent)
    for kind in (RADIAL, MESHED) if buses else ():
        print(f"{buses:,} buses, {kind}", file=sys.stderr, flush=True)
        taken, peak = fresh(MEMORY.format(folder=folder, kind=kind, buses=buses, wires=wires))
        report.large[f"{buses:,} buses, {kind}, {wires:,} private wires"] = taken, peak
    report.targets = judge(report)
    return report


def judge(report: Report) -> list[Target]:
    """The figures beside their limits."""
    ours, at = report.seconds[OURS], f"IEEE 300 with {report.wires:,} private wires"
    found = [
        Target(f"{OURS}, {at}", ours, 1.5, "s"),
        Target(f"{OURS} / {RAW}", ours / report.seconds[RAW], 3.0, "x"),
        Target(f"{OURS} / {BLOCKED}", ours / report.seconds[BLOCKED], None, "x"),
        Target(f"{OURS} / {RAW_OWN}", ours / report.seconds[RAW_OWN], None, "x"),
    ]
    for name, (taken, peak) in report.large.items():
        found += [Target(name, taken, None, "s"), Target(f"peak memory, {name}", peak, None, "GiB")]
    return found


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    rows = [[name, f"{value:.3g}", f"{value / report.seconds[RAW]:.2f} x"] for name, value in report.seconds.items()]
    rows[1:1] = [[f"- {name}", f"{value:.3g}", ""] for name, value in report.stages.items()]
    return document(report, [
        f"IEEE 300, medians of {report.repeats}; welfare equal within {report.error:.0e} (asked: {SAME_WELFARE:g}).",
        "",
        rows_of(["seconds", "median", f"of {RAW}"], rows),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="runs per contestant")
    parser.add_argument("--large", type=int, default=3000, help="buses of the large grids, 0: none")
    parser.add_argument("--quick", action="store_true", help="twice, no large grids")
    chosen = chosen_from(parser, arguments)
    report = measure(2 if chosen.quick else max(chosen.repeat, 1), 0 if chosen.quick else chosen.large)
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
