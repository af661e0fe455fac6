"""How long physics takes: cones against raw Clarabel and CVXPY, `ac` against pandapower's runopp, N-1 lazily.

    python benchmarks/speed/physics.py [--sizes 1000,10000] [--repeat 5] [--quick] [--out FILE.md|FILE.json]

Every figure is a median over cold runs of the mechanism `dlmp` after a warm-up: network and orders are new objects,
and prices and tables are part of it. The contestants take turns, and what they find is compared.
"""

from __future__ import annotations

import copy
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import peers_physics
from clear import PLAIN, RAW, RAW_OWN, timed, unpaused
from reports import Target, chosen_from, document, leave, machine, parser_of, rows_of

import mktopt as mo
from mktopt.solvers.clarabel import DEFAULTS

OURS, RUNOPP, LAZY, AT_ONCE = "mktopt.clear", "pandapower runopp", "N-1, rows as they bind", "N-1, all rows at once"
SAME = {"cones": 1e-6, "ac": 1e-4, "N-1": 1e-6}  # relative


@dataclass
class Contest:
    """Median seconds per contestant on one case; error: the greatest relative difference of what they found."""

    name: str
    kind: str
    repeats: int
    seconds: dict[str, float]
    error: float


@dataclass
class Report:
    """All that was measured, where and when."""

    machine: dict[str, str]
    contests: list[Contest] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def case_of(name: str) -> tuple[mo.Network, mo.Orders]:
    """New objects of a case."""
    network, orders, *_ = mo.load_case(name)
    assert orders is not None
    return network, orders


def contest(name: str, kind: str, repeat: int, runs: dict[str, Callable[[], Callable[[], float]]]) -> Contest:
    """Medians; runs: what prepares a contestant, uncounted, and returns what is timed and gives the welfare [$].

    Raises RuntimeError where the contestants' answers differ.
    """
    seconds: dict[str, list[float]] = {}
    found: dict[str, float] = {}
    for turn in range(-1, repeat):  # the first turn warms up
        for who, prepare in runs.items():
            run = prepare()
            spent, found[who] = (timed if who in (OURS, LAZY, AT_ONCE) else unpaused)(run)
            if turn >= 0:
                seconds.setdefault(who, []).append(spent)
    first, *others = found.values()
    error = max([abs(other - first) / abs(first) for other in others], default=0.0)
    if not error <= SAME[kind]:
        raise RuntimeError(f"{name}: what the contestants find differs by {error:.1e}: {found}")
    return Contest(name, kind, repeat, {who: statistics.median(values) for who, values in seconds.items()}, error)


def cleared(name: str, **how: Any) -> Callable[[], float]:
    """A cold clearing of a case, ready to be timed."""
    network, orders = case_of(name)
    return lambda: mo.clear("dlmp", network, orders, **how).welfare


def cones(name: str, repeat: int) -> Contest:
    """`distflow` as cones against the same market written by hand."""

    def by_hand(run: Callable[[peers_physics.Feeder], float]) -> Callable[[], float]:
        return partial(run, peers_physics.feeder_of(*case_of(name)))

    raw = partial(peers_physics.raw, settings=DEFAULTS)
    return contest(name, "cones", repeat, {
        OURS: partial(cleared, name, flow="distflow"),
        RAW: partial(by_hand, raw),
        RAW_OWN: partial(by_hand, peers_physics.raw),
        PLAIN: partial(by_hand, peers_physics.cvxpy),
    })  # fmt: skip


def alone(name: str, repeat: int) -> Contest:
    """`distflow` as cones on a case that the peers leave out (charging, ratios, capacitors)."""
    return contest(name, "cones", repeat, {OURS: partial(cleared, name, flow="distflow")})


def against_runopp(name: str, repeat: int) -> Contest:
    """`ac` against pandapower's optimal power flow, by the cost of generation [$/h]."""
    import pandapower as pp
    import pandapower.networks as cases

    def ours() -> Callable[[], float]:
        network, orders, meta = _served(name)
        return lambda: _cost(mo.clear("dlmp", network, orders, flow="ac"), meta)

    example = getattr(cases, name)()

    def theirs() -> Callable[[], float]:
        net = copy.deepcopy(example)

        def run() -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pp.runopp(net, calculate_voltage_angles=True, numba=False)
            return float(net.res_cost)

        return run

    return contest(name, "ac", repeat, {OURS: ours, RUNOPP: theirs})


def _served(name: str) -> tuple[mo.Network, mo.Orders, Any]:
    network, orders, _, meta = mo.load_case(name)
    assert orders is not None
    return network, orders, meta


def _cost(clearing: mo.Clearing, meta: Any) -> float:
    """Cost of the accepted offers [$/h], with what the costs exceed those of the orders by."""
    orders = clearing.orders
    value = orders.curves.value(clearing.dispatch["quantity_kw"].to_numpy())
    return float(value[~orders.is_bid].sum()) + float(meta.get("fixed_cost_per_h", 0.0))


def security(name: str, repeat: int) -> Contest:
    """All outages of branches and generators, rows declared as they bind and all at once.

    With ratings, which the case lacks or which bind nowhere: 1.1 of what flows without any, but no less than 80 MVA.
    Loads are bids that may be cut, at 10 $/kWh, for not every outage could be survived with all of them.
    """
    network, orders = case_of(name)
    flows = mo.clear("surplus", network, orders, flow="dc").flows.set_index("branch")["p_kw"].abs()
    ratings = (1.1 * network.branches["branch"].map(flows).fillna(0.0)).clip(lower=80_000.0)

    def run(lazy: bool) -> Callable[[], float]:
        fresh, firm = case_of(name)
        tight = fresh.replace(branches=fresh.branches.assign(rating_kva=ratings))
        soft = mo.Orders(firm.orders.assign(minimum_kw=0.0), firm.segments)
        return lambda: mo.clear("dlmp", tight, soft, flow="dc", contingencies="n-1", lazy=lazy).welfare

    return contest(name + ", N-1", "N-1", repeat, {LAZY: partial(run, True), AT_ONCE: partial(run, False)})


def judge(contests: Sequence[Contest]) -> list[Target]:
    """The figures beside their limits."""
    found = []
    for one in contests:
        ours = one.seconds.get(OURS)
        if ours is not None and RAW in one.seconds:
            limit = 2.0 if "10000" in one.name else None
            found.append(Target(f"{OURS} / {RAW}, {one.name}", ours / one.seconds[RAW], limit, "x"))
            found += [
                Target(f"{OURS} / {who}, {one.name}", ours / one.seconds[who], None, "x") for who in (RAW_OWN, PLAIN)
            ]
        elif ours is not None and RUNOPP in one.seconds:
            limit = {"case33bw": 1 / 3, "case118": 1.0}.get(one.name)
            found.append(Target(f"{OURS} / {RUNOPP}, {one.name}", ours / one.seconds[RUNOPP], limit, "x"))
        elif ours is not None:
            limit = 150.0 if one.name == "ieee123" else None
            found.append(Target(f"{OURS}, {one.name}", 1e3 * ours, limit, "ms"))
        else:
            found.append(Target(f"{LAZY}, {one.name}", one.seconds[LAZY], 5.0, "s"))
            found.append(Target(f"{AT_ONCE}, {one.name}", one.seconds[AT_ONCE], None, "s"))
    return found


def measure(sizes: Sequence[int], repeat: int, quick: bool = False) -> Report:
    """Everything, said on stderr while it goes."""
    report = Report(machine())
    steps: list[tuple[str, Callable[[], Contest]]] = [
        (f"{buses:,} buses", partial(cones, f"synthetic:radial:{buses}:0", repeat)) for buses in sorted(sizes)
    ]
    steps += [("ieee123", partial(alone, "ieee123", 4 * repeat))]
    ac = ["case33bw"] if quick else ["case33bw", "case118"]
    steps += [(f"{name}, ac", partial(against_runopp, name, repeat)) for name in ac]
    steps += [("N-1", partial(security, "case30" if quick else "case118", 1 if quick else min(repeat, 3)))]
    for said, step in steps:
        print(said, file=sys.stderr, flush=True)
        report.contests.append(step())
    report.targets = judge(report.contests)
    return report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    rows = [
        [one.name, who, f"{value:.3g}", str(one.repeats), f"{one.error:.0e}"]
        for one in report.contests
        for who, value in one.seconds.items()
    ]
    return document(report, [
        "",
        rows_of(["case", "who", "median [s]", "runs", "difference"], rows),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", default="1000,10000", help="numbers of buses, commas between")
    parser.add_argument("--repeat", type=int, default=5, help="runs per contestant")
    parser.add_argument("--quick", action="store_true", help="300 buses and small cases, twice")
    chosen = chosen_from(parser, arguments)
    try:
        sizes = [300] if chosen.quick else [int(size) for size in chosen.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {chosen.sizes}: whole numbers with commas between")
    report = measure(sizes, 2 if chosen.quick else max(chosen.repeat, 1), chosen.quick)
    return leave(report, markdown(report), chosen.out)


if __name__ == "__main__":
    raise SystemExit(main())
