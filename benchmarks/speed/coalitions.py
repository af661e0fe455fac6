"""How long coalitions on private wires take: values of the energy game, its nucleolus, groups that share a grid.

    python benchmarks/speed/coalitions.py [--repeat 3] [--quick] [--out FILE.md|FILE.json]

Agents are drawn by seed: a firm surplus or need of 20 kW on average each, and wires of 1 kV between any two with
probability d on 5 km x 5 km. Every figure is a median over fresh games, which know nothing yet; making the game counts.
Coalitions are drawn too, each player in with probability 1/2. What lies between a value that is attained and the bound
that is proved comes with every figure, as a share of what trade brings; of the declared program in a session, how far
its values are from these.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from clear import timed
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo
from mktopt.agents.coalitions.core import in_core
from mktopt.agents.coalitions.energy import EnergyGame
from mktopt.agents.coalitions.nucleolus import nucleolus
from mktopt.agents.coalitions.payments import supporting_payments
from mktopt.agents.coalitions.shared_grid import SharedGrid
from mktopt.clearing.owen import ownership
from mktopt.formulations.coalition import main_grid_of, private_market
from mktopt.networks.network import PRIVATE, FloatArray
from mktopt.networks.private_wires import Wire, endowments, with_private_wires
from mktopt.solvers import Session

VALUES, ASKED_VALUES, ASKED_NUCLEOLUS, ASKED_GAP = 1000, 20.0, 60.0, 1e-7
DENSITIES = ("0.1", "0.3", "1")


@dataclass
class Run:
    """One task: seconds (median), values asked for, programs solved, and the widest gap [share of savings]."""

    task: str
    players: int
    wires: int
    values: int
    programs: int
    seconds: float
    gap: float


@dataclass
class Report:
    """All that was measured, where and when."""

    machine: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def market(players: int, density: str, seed: int = 0) -> tuple[mo.Network, mo.Orders]:
    """Agents at all buses of a synthetic feeder but its source, and wires between them."""
    network = mo.load_network(f"synthetic:radial:{players + 1}:{seed}")
    buses = [bus for bus in network.buses["bus"] if bus != network.source_bus]
    network = with_private_wires(network, density, (5.0, 5.0), seed, wire=Wire(kv=1.0), among=buses)
    return network, endowments(network, seed, size_kw=20.0)


def gap_of(energy: EnergyGame, groups: Sequence[frozenset[str]]) -> float:
    """The widest gap between value and bound, as a share of what all gain by trading."""
    together = energy.values([energy.players])[0] - energy.values([[player] for player in energy.players]).sum()
    found = [energy(group) for group in groups]
    gaps = [sum(one.weights[player] for player in group) - one.value for one, group in zip(found, groups, strict=True)]
    return float(max(gaps) / together) if together > 0.0 else 0.0


def values(players: int, density: str, count: int, repeat: int) -> Run:
    """Values of `count` coalitions drawn at random."""
    network, orders = market(players, density)
    groups = drawn(EnergyGame(network, orders).players, count)
    spent = []
    for turn in range(-1, repeat):
        seconds, energy = timed(lambda: _valued(network, orders, groups))
        if turn >= 0:
            spent.append(seconds)
    programs = energy.programs
    wires = int(network.private.sum())
    task = f"values, d = {density}"
    return Run(task, players, wires, count, programs, statistics.median(spent), gap_of(energy, groups))


def _valued(network: mo.Network, orders: mo.Orders, groups: Sequence[frozenset[str]]) -> EnergyGame:
    energy = EnergyGame(network, orders)
    for group in groups:
        energy(group)
    return energy


def session_values(players: int, density: str, count: int, repeat: int) -> Run:
    """The same values by the declared program in a session, where those outside have no orders and no wires.

    Raises RuntimeError where they differ from those of `EnergyGame` by more than 1e-7 of the greatest.
    """
    network, orders = market(players, density)
    groups = drawn(EnergyGame(network, orders).players, count)
    spent = []
    for turn in range(-1, repeat):
        seconds, found = timed(lambda: through_a_session(network, orders, groups))
        if turn >= 0:
            spent.append(seconds)
    expected = EnergyGame(network, orders).values(groups)
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not apart <= ASKED_GAP:
        raise RuntimeError(f"values through a session differ by {apart:.1e}")
    wires = int(network.private.sum())
    return Run(f"values, d = {density}, in a session", players, wires, count, count, statistics.median(spent), apart)


def through_a_session(network: mo.Network, orders: mo.Orders, groups: Sequence[frozenset[str]]) -> FloatArray:
    """v(S) of each group [$], for firm orders: building and compiling the program included."""
    most = float(orders.width_kw[orders.firm & ~orders.is_bid].sum())  # no wire carries more, and inf is no parameter
    rating = np.where(network.branches["kind"] == PRIVATE, np.minimum(network.branches["rating_kva"], most), np.inf)
    network = network.replace(branches=network.branches.assign(rating_kva=rating))
    main = main_grid_of(orders, network)
    agents = orders.select(main.agents(orders))
    session = Session(private_market(network, orders, main, parametric=True))
    owned = ownership(network, agents)
    place = {branch: k for k, branch in enumerate(network.lines["branch"])}
    wire = np.array([place[branch] for branch, _ in session.names["rating_kva"]], dtype=np.int64)
    kw = network.lines["rating_kva"].to_numpy(dtype=float)[wire]
    needs = np.where(agents.is_bid, agents.curves.value(agents.width_kw), 0.0)
    found = []
    for group in groups:
        inside = np.array([player in group for player in owned.players])
        mine = inside[owned.player_of]
        session.set("firm_kw", np.where(mine[agents.curves.owner], agents.curves.width, 0.0))
        session.set("rating_kva", np.where((owned.shares[wire][:, ~inside] > 0.0).any(axis=1), 0.0, kw))
        solution = session.solve()
        if not solution.status.ok:
            raise RuntimeError(f"no value: {solution.message}")
        found.append(solution.objective - float(needs[mine].sum()))
    return np.array(found)


def drawn(players: Sequence[str], count: int) -> list[frozenset[str]]:
    """`count` coalitions, everybody in each with even chance."""
    names = np.array(players, dtype=object)
    rows = np.random.default_rng(0).random((2 * count, len(names))) < 0.5
    return [frozenset(names[row]) for row in rows if row.any()][:count]


def nucleoli(players: int, density: str, repeat: int) -> Run:
    """The nucleolus, proved; and Owen payments are in the core (else RuntimeError)."""
    network, orders = market(players, density)
    spent = []
    for _ in range(repeat):

        def run() -> tuple[EnergyGame, int]:
            energy = EnergyGame(network, orders)
            found = nucleolus(energy.game())
            if not found.proved:
                raise RuntimeError("the nucleolus is not proved")
            return energy, found.evaluated

        seconds, (energy, evaluated) = timed(run)
        spent.append(seconds)
    programs = energy.programs
    verdict = in_core(energy.game(), energy.payments().set_index("player")["total"])
    if not verdict:
        raise RuntimeError(f"Owen payments: {verdict}")
    wires = int(network.private.sum())
    gap = gap_of(energy, [frozenset(energy.players)])
    return Run(f"nucleolus, d = {density}", players, wires, evaluated, programs, statistics.median(spent), gap)


def sharing(losses: str) -> Run:
    """All partitions of the eight nodes, and whether payments exist where the worst is expected of the others."""
    case = mo.load_case("eight_node")
    assert case.orders is not None
    game = SharedGrid(case.network, case.orders, losses=losses)
    seconds, answer = timed(lambda: supporting_payments(game.game().expecting("pessimistic")))
    wires = int(case.network.private.sum())
    task = f"all partitions of eight_node, losses {losses}: {'payments exist' if answer else 'no payments exist'}"
    return Run(task, len(game.players), wires, game.evaluated, game.evaluated, seconds, 0.0)


def judge(runs: Sequence[Run]) -> list[Target]:
    """The figures beside their limits."""
    found = []
    for kind, asked in (("values", ASKED_VALUES), ("nucleolus", ASKED_NUCLEOLUS)):
        for run in runs:
            if run.task.startswith(kind):
                counted = f"{run.values:,} " if kind == "values" else ""
                found.append(Target(f"{counted}{run.task}, {run.players} players", run.seconds, asked, "s"))
    game = [run for run in runs if run.task.startswith(("values", "nucleolus"))]
    what = "widest gap between value and bound, or two ways to a value"
    found.append(Target(what, max(run.gap for run in game), ASKED_GAP, ""))
    return found


def measure(repeat: int, quick: bool = False) -> Report:
    """Everything."""
    report = Report(machine())
    few, many, count = (6, 8, 50) if quick else (15, 30, VALUES)
    for density in DENSITIES[1:2] if quick else DENSITIES:
        report.runs.append(values(many, density, count, repeat))
        report.runs.append(session_values(many, density, count, repeat))
        report.runs.append(nucleoli(few, density, repeat))
    report.runs += [sharing(losses) for losses in (("ignored",) if quick else ("ignored", "felt"))]
    report.targets = judge(report.runs)
    return report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    heads = ["task", "players", "wires", "values", "programs", "s", "gap"]
    rows = [
        [run.task, str(run.players), str(run.wires), f"{run.values:,}", f"{run.programs:,}", f"{run.seconds:.3g}",
         f"{run.gap:.0e}"]
        for run in report.runs
    ]  # fmt: skip
    return document(report, [
        "",
        rows_of(heads, rows),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--quick", action="store_true", help="8 and 6 players, once")
    chosen = chosen_from(parser, arguments)
    report = measure(1 if chosen.quick else max(chosen.repeat, 1), chosen.quick)
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
