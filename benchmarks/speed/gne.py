"""How long the energy auction takes: methods of the DSO on 483 agents, against one central solve, and 100,000 agents.

    python benchmarks/speed/gne.py [--agents 1000,10000,100000] [--repeat 5] [--quick] [--out FILE.md|FILE.json]

Every figure is a median after a warm-up. Methods start from p = 0, so that none finds the answer in its start, and stop
at a natural residual of 1e-7 $/kWh; the time is that after compile, which is said beside it. On the synthetic feeder of
1,000 buses agents are drawn by seed and made so small that together they want what the feeder's loads do; one branch in
three is rated at 0.7 to 1.5 of what it would carry without limits.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from clear import timed
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_central import solve_central
from mktopt.agents.dso_methods import ITERATIONS, solve_auction
from mktopt.agents.dso_run import Outcome
from mktopt.errors import MktoptError

CASE, FEEDER, PRICE = "ieee37_aggregators", "synthetic:radial:1000:0", 0.1
TOL, ASKED = 1e-7, 1e-6  # natural residual [$/kWh]: at which methods stop, and what is asked
SAME = 1e-5  # relative: welfare and allocation of any two ways
CENTRAL = ("clarabel", "ipopt")
# Answers of the central model that its solver does not vouch for.
NO_ANSWER = float("nan")


@dataclass
class Run:
    """One way to one equilibrium: seconds after compile (medians), compile alone, and the share spent in the steps."""

    case: str
    agents: int
    method: str
    iterations: int
    seconds: float
    compile: float
    ms_per_iteration: float
    projection_share: float
    residual: float
    error: float  # the greatest relative difference of welfare, p and c from Newton's method
    verdict: str


@dataclass
class Report:
    """All that was measured, where and when."""

    machine: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def drawn(network: mo.Network, count: int, seed: int = 0) -> mo.Prosumers:
    """`count` log agents, a third of them with generation, one aggregator per bus away from the source."""
    rng = np.random.default_rng(seed)
    buses = np.array([bus for bus in network.buses["bus"] if bus != network.source_bus], dtype=object)[:count]
    group = np.sort(np.r_[np.arange(len(buses)), rng.integers(0, len(buses), count - len(buses))])
    a, b = rng.uniform(0.5, 2.0, count), rng.uniform(1.0, 5.0, count)
    generation = np.where(rng.random(count) < 0.37, rng.uniform(5.0, 20.0, count), 0.0)
    size = float(network.load_kw.sum()) / float(np.maximum(a / PRICE - b, 0.0).sum())
    return mo.Prosumers(pd.DataFrame({
        "agent": [f"agent{i}" for i in range(count)], "bus": buses[group], "aggregator": buses[group],
        "utility": "log", "a": size * a, "b": size * b, "generation_kw": size * generation,
    }))  # fmt: skip


def limited(network: mo.Network, people: mo.Prosumers, seed: int = 0) -> mo.Network:
    """The network with one branch in three rated at 0.7 to 1.5 of what it carries where nothing is limited."""
    rng = np.random.default_rng(seed)
    free = network.replace(branches=network.branches.assign(rating_kva=np.inf))
    problem = TwoLevel(free, people, mo.flow("transport"), PRICE)
    solution = solve_auction(problem).step.solution
    carried = np.abs(problem.program.values(solution.x, problem.model.grid.p_kw.values()))
    rating = np.maximum(carried, 0.05 * carried.mean()) * rng.uniform(0.7, 1.5, len(carried))
    rating = np.where(rng.random(len(rating)) < 1 / 3, rating, np.inf)
    return network.replace(branches=network.branches.assign(rating_kva=rating))


def apart(problem: TwoLevel, found: Outcome, other: Outcome) -> float:
    """The greatest relative difference of welfare, of p, and of c where somebody consumes anything (else c has a
    range)."""
    used = other.p_kw > problem.lowest_kw + 1e-6 * np.abs(other.p_kw).max()
    size = float(np.abs(other.p_kw).max())
    return max(
        abs(found.welfare - other.welfare) / abs(other.welfare),
        float(np.abs(found.p_kw - other.p_kw).max()) / size,
        float((np.abs(found.unit_costs - other.unit_costs) / other.unit_costs)[used].max()),
    )


def by_method(case: str, problem: TwoLevel, method: str, repeat: int, reference: Outcome | None) -> tuple[Run, Outcome]:
    """Medians of one method; reference: Newton's outcome, None for itself."""
    spent, shares = [], []
    start = problem.at_rest()
    for turn in range(-1, repeat):
        problem.forget()
        seconds, found = timed(lambda: solve_auction(problem, method, tol=TOL, start=start))
        if turn >= 0:
            spent.append(seconds)
            shares.append(found.seconds["steps"] / found.seconds["total"])
    seconds = statistics.median(spent)
    run = Run(
        case, len(problem.prosumers), method, found.iterations, seconds, problem.effort.seconds["compile"],
        1e3 * seconds / max(found.iterations, 1), statistics.median(shares), found.residual,
        0.0 if reference is None else apart(problem, found, reference), found.verdict,
    )  # fmt: skip
    return run, found


def centrally(case: str, problem: TwoLevel, solver: str, repeat: int, reference: Outcome) -> Run:
    """Medians of the declared model solved at once; a solver that does not vouch for an answer has none."""
    spent = []
    for _ in range(repeat):
        try:
            found = solve_central(problem, solver)
        except MktoptError as error:
            print(f"{case}, {solver}: {error}", file=sys.stderr)
            name = f"central, {solver}"
            none = NO_ANSWER
            return Run(case, len(problem.prosumers), name, 0, none, none, none, 0.0, none, none, "no answer")
        spent.append(found.seconds)
    seconds = statistics.median(one["solve"] for one in spent)
    compiled = statistics.median(one["build"] + one["compile"] for one in spent)
    return Run(
        case, len(problem.prosumers), f"central, {solver}", found.iterations, seconds, compiled,
        1e3 * seconds / max(found.iterations, 1), 0.0, found.residual, apart(problem, found, reference), found.verdict,
    )  # fmt: skip


def compared(case: str, problem: TwoLevel, repeat: int, methods: Sequence[str], solvers: Sequence[str]) -> list[Run]:
    """Every method and solver on one auction; Newton first."""
    first, reference = by_method(case, problem, "newton", repeat, None)
    runs = [first]
    runs += [by_method(case, problem, method, repeat, reference)[0] for method in methods if method != "newton"]
    return runs + [centrally(case, problem, solver, repeat, reference) for solver in solvers]


def eight(repeat: int, flow: str, quick: bool) -> list[Run]:
    """Scenarios I to IV, rated and stressed."""
    runs = []
    case = mo.load_case(CASE)
    assert case.prosumers is not None
    grids = {"rated": case.network, "stressed": case.network.with_ratings(case.meta["stressed"])}
    scenarios = dict(list(case.prosumers.meta["c0"].items())[: 1 if quick else None])
    for label, network in grids.items():
        for scenario, c0 in scenarios.items():
            problem = TwoLevel(network, case.prosumers, mo.flow(flow), c0)
            runs += compared(f"{scenario}, {label}, {flow}", problem, repeat, list(ITERATIONS), CENTRAL)
    return runs


def many(count: int, repeat: int, flow: str, feeder: str, solvers: Sequence[str]) -> list[Run]:
    """Drawn agents on a synthetic feeder."""
    network = mo.load_network(feeder)
    people = drawn(network, count)
    problem = TwoLevel(limited(network, people), people, mo.flow(flow), PRICE)
    methods = list(ITERATIONS) if flow == "transport" else ["newton"]
    return compared(f"{feeder}, {flow}", problem, repeat, methods, solvers)


def judge(runs: Sequence[Run]) -> list[Target]:
    """The figures beside their limits."""
    methods = [run for run in runs if not run.method.startswith("central")]
    small = [run for run in methods if run.agents == 483]
    newton = [run for run in methods if run.method == "newton"]
    lossy = [run for run in small if "distflow" in run.case]
    plain = [run for run in small if run not in lossy]
    found = [
        Target("483 agents, slowest method without losses", max(run.seconds for run in plain), 1.0, "s"),
        Target("483 agents, slowest by Newton's method", max(run.seconds for run in small if run in newton), 1.0, "s"),
        Target("largest residual of a method", max(run.residual for run in methods), ASKED, "$/kWh"),
        Target("methods that did not converge", float(sum(run.verdict != "converged" for run in methods)), 0.0, ""),
        Target("largest difference, 483 agents", max(run.error for run in runs if run.agents == 483), SAME, ""),
    ]
    if lossy:
        found.append(Target("483 agents, slowest method with losses", max(run.seconds for run in lossy), None, "s"))
    large = [run for run in newton if run.agents >= 100_000]
    found += [
        Target(f"{run.agents:,} agents, {run.case}, compile included", run.seconds + run.compile, 60.0, "s")
        for run in large
    ]
    on_feeder = [run for run in methods if run.agents != 483 and "transport" in run.case]
    few, most = (pick((run.agents for run in on_feeder), default=0) for pick in (min, max))
    for method in dict.fromkeys(run.method for run in on_feeder) if most > few else ():
        first, last = (next(r for r in on_feeder if (r.agents, r.method) == (n, method)) for n in (few, most))
        what = f"{method}, iterations at {most:,} against {few:,} agents"
        found.append(Target(what, last.iterations / max(first.iterations, 1), 2.0, "x"))
    return found


def measure(counts: Sequence[int], repeat: int, quick: bool = False) -> Report:
    """Everything, said on stderr while it goes."""
    report = Report(machine())
    feeder = "synthetic:radial:30:0" if quick else FEEDER
    steps: list[tuple[str, Callable[[], list[Run]]]] = [("483 agents", lambda: eight(repeat, "transport", quick))]
    if not quick:
        steps.append(("483 agents with losses", lambda: eight(repeat, "distflow", quick)))
    for count in sorted(counts):
        solvers = CENTRAL if count <= 10_000 else CENTRAL[:1]
        steps.append((f"{count:,} agents", partial(many, count, min(repeat, 3), "transport", feeder, solvers)))
    if not quick:
        largest = max(counts)
        steps.append((f"{largest:,} agents with losses", lambda: many(largest, 1, "distflow", feeder, ())))
    for said, step in steps:
        print(said, file=sys.stderr, flush=True)
        report.runs += step()
    report.targets = judge(report.runs)
    return report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    heads = ["case", "agents", "way", "iterations", "s", "compile s", "ms / iteration", "in steps", "residual",
             "difference", "verdict"]  # fmt: skip
    rows = [
        [
            run.case, f"{run.agents:,}", run.method, str(run.iterations), f"{run.seconds:.3g}", f"{run.compile:.2g}",
            f"{run.ms_per_iteration:.3g}", f"{run.projection_share:.0%}", f"{run.residual:.0e}", f"{run.error:.0e}",
            run.verdict,
        ]
        for run in report.runs
    ]  # fmt: skip
    return document(report, [
        "",
        rows_of(heads, rows),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--agents", default="1000,10000,100000", help="numbers of drawn agents, commas between")
    parser.add_argument("--repeat", type=int, default=5, help="runs per way")
    parser.add_argument("--quick", action="store_true", help="one scenario and 200 agents on 30 buses, once")
    chosen = chosen_from(parser, arguments)
    try:
        counts = [200] if chosen.quick else [int(count) for count in chosen.agents.split(",")]
    except ValueError:
        parser.error(f"--agents {chosen.agents}: whole numbers with commas between")
    report = measure(counts, 1 if chosen.quick else max(chosen.repeat, 1), chosen.quick)
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
