"""How long `mktopt.clear` takes: against raw arrays and CVXPY with the same solver, and as the grid grows.

    python benchmarks/speed/clear.py [--sizes 1000,10000,100000] [--repeat 5] [--quick] [--out FILE.md|FILE.json]

Every figure is a median over runs after a warm-up on another case. A run of mktopt is cold: network and orders are
new objects, and prices and tables are part of it. The contestants take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import gc
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import peers
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo

WARM_UP = "synthetic:radial:300:1"
STAGES = ("build", "compile", "solve", "tabulate")
SAME_WELFARE = 1e-6  # relative
LARGE = 50_000  # from here on three runs are enough, and take a minute
CVXPY_PARAMETERS_UP_TO = 10_000

OURS, RAW, RAW_OWN = "mktopt.clear", "raw Clarabel", "raw Clarabel, its own settings"
PLAIN, PARAMETERS = "CVXPY", "CVXPY with parameters"


@dataclass
class Size:
    """Seconds per contestant and per stage of mktopt at one number of buses, all medians."""

    buses: int
    orders: int
    repeats: int
    seconds: dict[str, float]
    stages: dict[str, float]
    worst_welfare_error: float


@dataclass
class Report:
    """All that was measured, where and when."""

    machine: dict[str, str]
    sizes: list[Size] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result); collects garbage before, so that no run pays for the one before it."""
    gc.collect()
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def unpaused(run: Callable[[], Any]) -> tuple[float, Any]:
    """As `timed`, without garbage collection during the run: the peers are given what mktopt does for itself."""
    gc.disable()
    try:
        return timed(run)
    finally:
        gc.enable()


def market(buses: int, seed: int = 0) -> tuple[mo.Network, mo.Orders]:
    """A new radial feeder with 2 orders per bus."""
    network, orders, *_ = mo.load_case(f"synthetic:radial:{buses}:{seed}")
    assert orders is not None
    return network, orders


def contestants(parameters: bool) -> dict[str, Callable[[peers.Arrays], peers.Answer]]:
    """Who runs against mktopt."""
    found: dict[str, Callable[[peers.Arrays], peers.Answer]] = {RAW: peers.raw}
    found |= {RAW_OWN: partial(peers.raw, settings={}), PLAIN: peers.cvxpy_plain}
    if parameters:
        found[PARAMETERS] = peers.cvxpy_parameters
    return found


def measure_size(buses: int, repeat: int, parameters: bool = False) -> Size:
    """Medians of all contestants at one size; raises RuntimeError where their welfare differs."""
    seconds: dict[str, list[float]] = {}
    stages: dict[str, list[float]] = {}
    error = 0.0
    for turn in range(repeat):
        network, orders = market(buses)
        spent, clearing = timed(partial(mo.clear, "surplus", network, orders))
        seconds.setdefault(OURS, []).append(spent)
        inner = dict(clearing.seconds)
        for stage in STAGES:  # what `solve` does not time of itself is the time before it
            stages.setdefault(stage, []).append(inner.get(stage, spent - sum(inner.values())))
        welfare = clearing.welfare
        arrays = peers.arrays_of(network, orders)
        del network, orders, clearing
        for name, run in contestants(parameters and turn == 0).items():
            spent, answer = unpaused(partial(run, arrays))
            seconds.setdefault(name, []).append(spent)
            error = max(error, abs(answer.welfare - welfare) / abs(welfare))
    if not error <= SAME_WELFARE:
        raise RuntimeError(f"at {buses:,} buses the contestants' welfare differs by {error:.1e}")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    spread = {name: statistics.median(values) for name, values in stages.items()}
    return Size(buses, 2 * buses, repeat, middle, spread, error)


def warm_up(parameters: bool) -> None:
    """One run of everybody on a case that is not measured."""
    network, orders = market(*map(int, WARM_UP.split(":")[2:]))
    mo.clear("surplus", network, orders)
    for run in contestants(parameters).values():
        run(peers.arrays_of(network, orders))


def measure_ieee34(repeat: int) -> float:
    """Seconds of a cold clearing of ieee34."""
    found = []
    for _ in range(repeat):
        network, orders, *_ = mo.load_case("ieee34")
        found.append(timed(partial(mo.clear, "surplus", network, orders))[0])
    return statistics.median(found)


def fresh(code: str, repeat: int = 1) -> list[float]:
    """The numbers that `code` prints last in a fresh Python process; medians over `repeat` processes."""
    runs = []
    for _ in range(repeat):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    return [statistics.median(column) for column in zip(*runs, strict=True)]


IMPORT = "import time; start = time.perf_counter(); import mktopt; print(time.perf_counter() - start)"
FIRST = (
    "import time; start = time.perf_counter(); import mktopt as mo; case = mo.load_case('ieee34');"
    "mo.clear('surplus', case.network, case.orders); print(time.perf_counter() - start)"
)
MEMORY = """
import sys, time
sys.path.insert(0, {folder!r})
import mktopt as mo
from reports import peak_gib
network, orders, *_ = mo.load_case("synthetic:radial:{buses}:0")
start = time.perf_counter()
clearing = mo.clear("surplus", network, orders)
print(time.perf_counter() - start, peak_gib())
"""


def judge(
    sizes: Sequence[Size], ieee34: float, imported: float, first: float, memory: dict[int, float]
) -> list[Target]:
    """The figures beside their limits."""
    found = []
    for size in sizes:
        ours, limit = size.seconds[OURS], 3.0 if size.buses == 10_000 else None
        at = f"at {size.buses:,} buses"
        found.append(Target(f"{OURS} / {RAW} {at}", ours / size.seconds[RAW], limit, "x"))
        found.append(Target(f"{OURS} / {RAW_OWN} {at}", ours / size.seconds[RAW_OWN], None, "x"))
        found.append(Target(f"{OURS} / {PLAIN} {at}", ours / size.seconds[PLAIN], None, "x"))
        if PARAMETERS in size.seconds:
            limit = 1.0 if size.buses == 10_000 else None
            found.append(Target(f"{OURS} / {PARAMETERS} {at}", ours / size.seconds[PARAMETERS], limit, "x"))
        if size.buses == 100_000:
            found.append(Target(f"{OURS} {at}", ours, 60.0, "s"))
    for buses, peak in memory.items():
        found.append(Target(f"peak memory at {buses:,} buses", peak, 6.0 if buses == 100_000 else None, "GiB"))
    if len(sizes) > 1:
        low, high = sizes[0], sizes[-1]
        growth = math.log(high.seconds[OURS] / low.seconds[OURS]) / math.log(high.buses / low.buses)
        limit = 1.2 if (low.buses, high.buses) == (1_000, 100_000) else None
        found.append(Target(f"growth exponent, {low.buses:,} to {high.buses:,} buses", growth, limit, ""))
    found.append(Target("ieee34, cold", 1e3 * ieee34, 30.0, "ms"))
    found.append(Target("import mktopt, fresh process", imported, 1.5, "s"))
    found.append(Target("import and first clearing (ieee34), fresh process", first, None, "s"))
    return found


def measure(sizes: Sequence[int], repeat: int, quick: bool = False) -> Report:
    """Everything, said on stderr while it goes."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = Report(machine())
    say("warm-up")
    warm_up(not quick)
    for buses in sorted(sizes):
        repeats = min(repeat, 3) if buses >= LARGE else repeat
        say(f"{buses:,} buses, {repeats} times")
        parameters = not quick and buses <= CVXPY_PARAMETERS_UP_TO
        report.sizes.append(measure_size(buses, repeats, parameters))
    say("ieee34, import, memory")
    folder = str(Path(__file__).resolve().parent)
    largest = [] if quick else sorted(sizes)[-1:]
    memory = {buses: fresh(MEMORY.format(folder=folder, buses=buses))[1] for buses in largest}
    runs = min(repeat, 5)
    imported, first = fresh(IMPORT, runs)[0], fresh(FIRST, runs)[0]
    report.targets = judge(report.sizes, measure_ieee34(4 * repeat), imported, first, memory)
    return report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    sizes = report.sizes
    names = list(dict.fromkeys(name for size in sizes for name in size.seconds))
    heads = ["seconds", *(f"{size.buses:,} buses" for size in sizes)]

    def cell(size: Size, name: str) -> str:
        if name not in size.seconds:
            return "-"
        return f"{size.seconds[name]:.3g} ({size.seconds[name] / size.seconds[RAW]:.2f} x)"

    contest = [[name, *(cell(size, name) for size in sizes)] for name in names]
    stages = [[f"- {stage}", *(f"{size.stages[stage]:.3g}" for size in sizes)] for stage in STAGES]
    error = max(size.worst_welfare_error for size in sizes)
    repeats = ", ".join(f"{size.repeats} at {size.buses:,}" for size in sizes)
    return document(report, [
        f"Medians of {repeats}; in brackets the time relative to raw Clarabel.",
        f"Welfare of all contestants equal within {error:.0e} (asked: {SAME_WELFARE:g}).",
        "",
        rows_of(heads, [contest[0], *stages, *contest[1:]]),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of buses, commas between")
    parser.add_argument("--repeat", type=int, default=5, help="runs per contestant and size (3 from 50,000 buses)")
    parser.add_argument("--quick", action="store_true", help="1,000 and 3,000 buses, no parameters, no memory")
    chosen = chosen_from(parser, arguments)
    try:
        sizes = [1_000, 3_000] if chosen.quick else [int(size) for size in chosen.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {chosen.sizes}: whole numbers with commas between")
    report = measure(sizes, 2 if chosen.quick else max(chosen.repeat, 1), chosen.quick)
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
