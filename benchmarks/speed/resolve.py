"""How long it takes to clear the same market again with other offers: sessions against raw solvers and CVXPY.

    python benchmarks/speed/resolve.py [--steps 2000] [--buses 10000] [--reclears 25000] [--quick] [--out FILE]

A step draws new offers, hands them over, clears, and reads dispatch and prices as arrays; every figure is a median over
steps. The contestants take turns at the same offers, and their welfare is compared in every step.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peers
import pyomo.environ as pyo
from clear import SAME_WELFARE, fresh, market
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo
from mktopt.solvers import compile
from mktopt.solvers.highs import _DEFAULTS as HIGHS_OPTIONS

OURS, TABLES, COLD = "set + solve", "update(orders=) + solve", "mktopt.clear"
RAW, DPP, HIGHS = "raw Clarabel, update + solve", "CVXPY with parameters", "raw highspy, warm start"
OFFERS, STEPS = 5, 10


@dataclass
class Contest:
    """Median seconds per step of all contestants in one market."""

    name: str
    steps: int
    seconds: dict[str, float]
    worst_welfare_error: float
    fallbacks: int


@dataclass
class Report:
    """All that was measured, where and when."""

    machine: dict[str, str]
    contests: list[Contest] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def feeder(flat: bool, seed: int = 0) -> tuple[mo.Network, mo.Orders]:
    """ieee34 with 28 bids and 5 offers: affine ones or, with `flat`, in 10 flat steps each."""
    network = mo.load_network("ieee34")
    rng = np.random.default_rng(seed)
    loads = network.loads.groupby("bus", sort=False)["p_kw"].sum()
    loads = loads[loads > 0].head(28)
    capacity = 1.2 * loads.sum() / OFFERS
    sites = rng.choice(network.buses["bus"].to_numpy(), OFFERS, replace=False)
    if not flat:
        rows = [(f"d{bus}", bus, "bid", kw, 0.15, rng.uniform(0.3, 0.6)) for bus, kw in loads.items()]
        rows += [(f"s{bus}", bus, "offer", capacity, *np.sort(rng.uniform(0.05, 0.35, 2))) for bus in sites]
        columns = ["order", "bus", "side", "q_max_kw", "price_min", "price_max"]
        return network, mo.Orders.from_curves(pd.DataFrame(rows, columns=columns))
    steps = []
    for bus, kw in loads.items():
        prices = np.sort(rng.uniform(0.15, 0.6, STEPS))[::-1]
        steps += [(f"d{bus}", bus, "bid", kw / STEPS, price) for price in prices]
    for bus in sites:
        prices = np.sort(rng.uniform(0.05, 0.35, STEPS))
        steps += [(f"s{bus}", bus, "offer", capacity / STEPS, price) for price in prices]
    return network, mo.Orders.from_steps(pd.DataFrame(steps, columns=["order", "bus", "side", "width_kw", "price"]))


class Offers:
    """New offers at every step: prices and slopes of the asks, in the sequence of `session.names`."""

    def __init__(self, orders: mo.Orders, seed: int = 1) -> None:
        self.asks = ~orders.is_bid[orders.segment_order]
        self.owner = orders.segment_order[self.asks]
        self.slope, self.width = orders.curves.slope[self.asks], orders.curves.width[self.asks]
        self.orders, self.rng = orders, np.random.default_rng(seed)

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Prices that rise along each offer, and slopes; both new."""
        count = len(self.owner)
        if not self.slope.any():
            prices = self.rng.uniform(0.05, 0.35, count)
            return prices[np.lexsort((prices, self.owner))], self.slope
        low, high = np.sort(self.rng.uniform(0.05, 0.35, (2, count)), axis=0)
        return low, (high - low) / self.width

    def tables(self, start: np.ndarray, slope: np.ndarray) -> mo.Orders:
        """The same offers as a validated table."""
        segments = self.orders.segments.copy()
        segments.loc[self.asks, "price_start"] = start
        segments.loc[self.asks, "price_end"] = start + slope * self.width
        return mo.Orders(self.orders.orders, segments)


def contest(
    name: str,
    network: mo.Network,
    orders: mo.Orders,
    steps: int,
    raw: dict[str, Callable[..., peers.Answer]],
    cold: int,
) -> Contest:
    """All contestants at the same offers, step by step; raises RuntimeError where their welfare differs.

    raw: functions of prices and slopes; cold: in how many steps also the slow ways are timed.
    """
    session, offers = mo.Session(mo.build("surplus", network, orders, parametric=True)), Offers(orders)
    slow = mo.Session(mo.build("surplus", network, orders, parametric=True))
    sloped = "ask_slope" in session.names
    seconds: dict[str, list[float]] = {}
    error = 0.0

    def ours(start: np.ndarray, slope: np.ndarray) -> Any:
        session.set("ask_price", start)
        if sloped:
            session.set("ask_slope", slope)
        cleared = session.solve()
        return cleared, cleared.dispatch_kw, cleared.prices

    def tables(start: np.ndarray, slope: np.ndarray) -> Any:
        slow.update(orders=offers.tables(start, slope))
        return slow.solve()

    def anew(start: np.ndarray, slope: np.ndarray) -> Any:
        return mo.clear("surplus", network, offers.tables(start, slope))

    for step in range(-max(steps // 20, 3), steps):  # the first steps warm up
        start, slope = offers.draw()
        clock = time.perf_counter
        welfare = None
        for who, run in {OURS: ours, **raw, **({TABLES: tables, COLD: anew} if 0 <= step < cold else {})}.items():
            if step < cold:
                gc.collect()
            began = clock()
            answer = run(start, slope)
            spent = clock() - began
            found = answer[0].welfare if who == OURS else answer.welfare
            welfare = found if welfare is None else welfare
            error = max(error, abs(found - welfare) / abs(welfare))
            if step >= 0:
                seconds.setdefault(who, []).append(spent)
    if not error <= SAME_WELFARE:
        raise RuntimeError(f"{name}: the contestants' welfare differs by {error:.1e}")
    middle = {who: statistics.median(values) for who, values in seconds.items()}
    return Contest(name, steps, middle, error, session.statistics["fallbacks"])


def affine_contest(steps: int) -> Contest:
    """ieee34 with 28 bids and 5 affine offers: a QP."""
    network, orders = feeder(flat=False)
    arrays, asks = peers.arrays_of(network, orders), Offers(orders).asks
    again = {RAW: peers.ClarabelAgain(arrays, asks).solve, DPP: peers.CvxpyAgain(arrays, asks).solve}
    return contest("ieee34, 28 bids, 5 affine offers", network, orders, steps, again, min(steps, 50))


def flat_contest(steps: int) -> Contest:
    """ieee34 with 28 bids and 5 offers of 10 flat steps each: an LP."""
    network, orders = feeder(flat=True)
    raw = peers.HighsAgain(peers.arrays_of(network, orders), Offers(orders).asks, HIGHS_OPTIONS)
    again = {HIGHS: lambda start, slope: raw.solve(start)}
    return contest("ieee34, 28 bids, 5 offers, 10 steps each", network, orders, steps, again, min(steps, 50))


def large_contest(buses: int, steps: int) -> Contest:
    """A radial feeder with 2 affine orders per bus, all offers new at every step."""
    network, orders = market(buses)
    raw = peers.ClarabelAgain(peers.arrays_of(network, orders), Offers(orders).asks)
    return contest(f"{buses:,} buses", network, orders, steps, {RAW: raw.solve}, 1)


RECLEARS = """
import gc, sys, time
sys.path.insert(0, {folder!r})
import resolve
import mktopt as mo

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1024

network, orders = resolve.feeder(flat=False)
session, offers = mo.Session(mo.build("surplus", network, orders, parametric=True)), resolve.Offers(orders)
tenth, marks = {reclears} // 10, []
for step in range(1, {reclears} + 1):
    start, slope = offers.draw()
    session.set("ask_price", start)
    session.set("ask_slope", slope)
    session.solve().prices
    if step == {early}:
        low = resident()
    if step % tenth == 0:
        marks.append(time.process_time())
print(low, resident(), (marks[-1] - marks[-3]) / (marks[3] - marks[1]), marks[-1] - marks[0])
"""


def reclears(count: int, early: int) -> tuple[float, float, float, float]:
    """(RSS [MiB] after `early` re-clears and after all, time of the last fifth over that of the second, seconds)."""
    folder = str(Path(__file__).parent)
    low, high, drift, seconds = fresh(RECLEARS.format(folder=folder, reclears=count, early=early))
    return low, high, drift, seconds


def cone_model(buses: int) -> Any:
    """A radial feeder of linear P and Q flows with P² + Q² <= S² on every branch: a second-order cone program."""
    network, orders = market(buses)
    model, lines = mo.build("surplus", network, orders), network.lines
    grid = model.grid
    branches = list(grid.branches)
    grid.q_kvar = pyo.Var(branches)
    rating = dict(zip(lines["branch"], lines["rating_kva"].tolist(), strict=True))
    ends = dict(zip(lines["branch"], zip(lines["from_bus"], lines["to_bus"], strict=True), strict=True))
    behind: dict[str, list[str]] = {bus: [] for bus in grid.buses}
    for branch, (start, end) in ends.items():
        behind[start].append(branch)
        behind[end].append(branch)

    def reactive(grid: Any, bus: str) -> Any:
        if bus == network.source_bus:
            return pyo.Constraint.Skip
        flows = sum(grid.q_kvar[b] if ends[b][1] == bus else -grid.q_kvar[b] for b in behind[bus])
        return flows == 1.0

    grid.reactive = pyo.Constraint(grid.buses, rule=reactive)
    grid.apparent = pyo.Constraint(
        [b for b in branches if np.isfinite(rating[b])],
        rule=lambda grid, b: grid.p_kw[b, 0] ** 2 + grid.q_kvar[b] ** 2 <= rating[b] ** 2,
    )
    return model


def compile_times(buses: int, repeat: int) -> dict[str, float]:
    """Median seconds to compile the QP, the parametric QP and the cone program of this many buses."""
    from mktopt.solvers.reading.parametric import compile_parametric

    network, orders = market(buses)
    cases = {
        "QP": (mo.build("surplus", network, orders), compile),
        "parametric QP": (mo.build("surplus", network, orders, parametric=True), compile_parametric),
        "SOCP": (cone_model(buses), compile),
    }
    found = {}
    for name, (model, run) in cases.items():
        spent = []
        for _ in range(repeat):
            gc.collect()
            began = time.perf_counter()
            result = run(model)
            spent.append(time.perf_counter() - began)
        kind = getattr(result, "program", result).problem_class
        if kind != name.split()[-1]:
            raise RuntimeError(f"the {name} was compiled into a {kind}")
        found[name] = statistics.median(spent)
    return found


def judge(
    contests: Sequence[Contest], compiled: dict[str, float], buses: int, memory: tuple[float, float, float, float]
) -> list[Target]:
    """The figures beside their limits; at other sizes than asked for they are information."""
    affine, flat, large = (contest.seconds for contest in contests)
    full = buses == 10_000
    growth = memory[1] / memory[0]
    return [
        Target(f"{OURS} / {RAW}, ieee34", affine[OURS] / affine[RAW], 1.25, "x"),
        Target(f"{DPP} / {OURS}, ieee34 (asked: at least 3)", affine[DPP] / affine[OURS], None, "x"),
        Target(f"{OURS} / {DPP}, ieee34", affine[OURS] / affine[DPP], 1 / 3, "x"),
        Target(f"{TABLES}, ieee34", 1e3 * affine[TABLES], None, "ms"),
        Target(f"{COLD}, ieee34", 1e3 * affine[COLD], None, "ms"),
        Target(f"{OURS} / {HIGHS}, ieee34 in steps", flat[OURS] / flat[HIGHS], 1.3, "x"),
        Target(f"{OURS} / {RAW}, {buses:,} buses", large[OURS] / large[RAW], 1.1 if full else None, "x"),
        Target("time of the last fifth of re-clears / of the second", memory[2], 1.1, "x"),
        Target("memory after all re-clears / after the first of them", growth, 1.02, "x"),
        Target(f"compile the QP of {buses:,} buses", compiled["QP"], 0.5 if full else None, "s"),
        Target(f"compile the parametric QP of {buses:,} buses", compiled["parametric QP"], None, "s"),
        Target(f"compile a SOCP of {buses:,} buses", compiled["SOCP"], 1.5 if full else None, "s"),
    ]


def measure(steps: int, buses: int, count: int) -> Report:
    """Everything, said on stderr while it goes."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = Report(machine())
    say(f"ieee34, {steps} steps")
    report.contests = [affine_contest(steps), flat_contest(steps)]
    say(f"{buses:,} buses")
    report.contests.append(large_contest(buses, max(5, min(15, steps // 100))))
    say(f"compile, and {count:,} re-clears")
    early = max(count // 25, 1)
    memory = reclears(count, early)
    report.machine["reclears"] = (
        f"{count:,} re-clears in {memory[3] * 10 / 9:.3g} s of processor time,"
        f" memory (RSS) {memory[0]:.1f} MiB after {early:,} and {memory[1]:.1f} MiB after all"
    )
    report.targets = judge(report.contests, compile_times(buses, 3), buses, memory)
    return report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    facts = report.machine
    tables = []
    for item in report.contests:
        base = item.seconds[next(name for name in item.seconds if name.startswith("raw"))]
        rows = [[who, f"{1e3 * t:.3g}", f"{t / base:.2f} x"] for who, t in item.seconds.items()]
        tables += ["", rows_of([item.name, "ms per step", "to raw"], rows)]
    error = max(item.worst_welfare_error for item in report.contests)
    steps = ", ".join(f"{item.steps}" for item in report.contests)
    fallbacks = sum(item.fallbacks for item in report.contests)
    return document(report, [
        f"Medians of {steps} steps; {fallbacks} of them fell back to solving anew. {facts['reclears']}.",
        f"Welfare of all contestants equal within {error:.0e} (asked: {SAME_WELFARE:g}).",
        *tables,
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=2_000, help="re-clears of ieee34 that are timed")
    parser.add_argument("--buses", type=int, default=10_000, help="size of the large feeder")
    parser.add_argument("--reclears", type=int, default=25_000, help="re-clears in one process, for its memory")
    parser.add_argument("--quick", action="store_true", help="200 steps, 1,000 buses, 2,500 re-clears")
    chosen = chosen_from(parser, arguments)
    if chosen.quick:
        chosen.steps, chosen.buses, chosen.reclears = 200, 1_000, 2_500
    report = measure(max(chosen.steps, 5), chosen.buses, max(chosen.reclears, 50))
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
