"""What the paper's algorithms do as printed, for `gne_auction.py`: Algorithm 1, Algorithm 2 and COP (10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from auction_cases import FLOW, Eight, agents, aggregators, grid, prices

import mktopt as mo
from mktopt.agents import algorithm1 as one
from mktopt.agents.aggregators import Aggregators
from mktopt.agents.algorithm2 import OwnEquilibria, algorithm2, cop10, own_equilibria
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_methods import solve_auction
from mktopt.agents.dso_run import Outcome

FloatArray = npt.NDArray[np.float64]

SEED, ROUNDS, SIZES = 37, 500, ((2, 4), (5, 12), (13, 40))
# Shares of their generation that the aggregators of the case give away where Algorithm 1 is tried beyond equilibrium.
GIVEN = (0.5, 0.8, 0.95)
ETAS = (1.0, 10.0, 100.0, 1000.0)
PRINTED = "Algorithm 1 as printed"
LAST = 30  # iterations by which it is judged where Algorithm 2 hovers
NAMES = {one.Verdict.STOPPED: f"not within {ROUNDS} rounds", one.Verdict.DIVERGES: "nothing to share"}


# -- Algorithm 1 ----------------------------------------------------------------------------------------------------


def random_agents(seed: int, count: int, fewest: int, most: int) -> tuple[mo.Prosumers, FloatArray]:
    """(log agents of `count` aggregators with `fewest` to `most` each, a net requirement p_k for each [kW]).

    a: 0.4 to 2 $/h, b: 1 to 6 kW, half of them with 0 to 12 kW of generation; p_k: -G_k/2 to G_k; all uniform.
    """
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(count), rng.integers(fewest, most + 1, count))
    n = len(at)
    table = pd.DataFrame({
        "agent": [f"{k}_{i}" for i, k in enumerate(at.tolist())], "bus": at.astype(str), "aggregator": at.astype(str),
        "utility": "log", "a": rng.uniform(0.4, 2.0, n), "b": rng.uniform(1.0, 6.0, n),
        "generation_kw": np.where(rng.random(n) < 0.5, rng.uniform(0.0, 12.0, n), 0.0),
    })  # fmt: skip
    generation = np.bincount(at, table["generation_kw"], count)
    return mo.Prosumers(table), rng.uniform(-0.5, 1.0, count) * generation


def cobweb_factor(everyone: Aggregators, p_kw: FloatArray) -> FloatArray:
    """By how much an error of the unit cost comes back one round later, at the equilibrium of log agents, (K,).

    Sellers answer dc with -A_S dc / c^2, A_S the sum of their a; shares at given money answer a supply ds with bids
    that fall by sum p_i^2 |u_i''| / s^2 ds, and |u_i''| = c^2 / a_i. So the factor is A_S sum(p_i^2 / a_i) / s^2.
    """
    people = everyone.prosumers
    x = everyone.consumption(everyone.unit_costs(p_kw))
    bought, sells = np.maximum(x - people.generation_kw, 0.0), (x < people.generation_kw) & (x > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steep = everyone.total(bought**2 / people.a) / everyone.total(bought) ** 2
        return everyone.total(np.where(sells, people.a, 0.0)) * steep


def _told(outcome: one.Outcome) -> npt.NDArray[np.object_]:
    """The verdict of each aggregator in words, cycles with their period."""
    words = [NAMES.get(verdict, verdict.value) for verdict in outcome.verdicts]
    return np.array([f"{w} (period {p})" if p else w for w, p in zip(words, outcome.periods, strict=True)], object)


@dataclass(frozen=True, eq=False)
class Shown:
    """An aggregator to draw. people: its agents; p_kw; cost: exact [$/kWh]; printed, damped: the auctions; title."""

    people: mo.Prosumers
    p_kw: float
    cost: float
    printed: one.Auction
    damped: one.Auction
    title: str

    @classmethod
    def of(cls, people: mo.Prosumers, name: str, p_kw: float, title: str) -> Shown:
        """Holds the auction of aggregator `name` both ways."""
        own = people.of_aggregator(name)
        printed, damped = (one.algorithm1(own, name, p_kw, method=m, max_rounds=ROUNDS) for m in ("paper", "damped"))
        return cls(own, p_kw, float(Aggregators(own).unit_costs(np.array([p_kw]))[0]), printed, damped, title)


@dataclass(frozen=True, eq=False)
class Lower:
    """Algorithm 1 as printed, over the aggregators of the case and random ones. tried: a row per auction: where,
    aggregator, agents, p_kw, verdict, rounds, factor, right (of converged ones: distance from the exact cost); shown:
    one that converges and one that cycles."""

    tried: pd.DataFrame
    shown: tuple[Shown, Shown]

    @classmethod
    def run(cls, eight: Eight, quick: bool) -> Lower:
        """Holds all auctions; quick: 100 random aggregators of one size in place of 400 of three."""
        people = agents()
        everyone, tables = Aggregators(people), []
        for case in eight.auctions:
            p = aggregators(case.clearing)["p_kw"].to_numpy()
            tables.append(_tried(f"case, at equilibrium {case.scenario}, {case.limits}", everyone, p))
        for share in GIVEN:
            tables.append(_tried(f"case, {share:.0%} of generation given away", everyone, share * everyone.lowest_kw))
        drawn = {size: random_agents(SEED, 100 if quick else 400, *size) for size in (SIZES[1:2] if quick else SIZES)}
        for (fewest, most), (made, p) in drawn.items():
            group, where = Aggregators(made), f"random, {fewest} to {most} agents"
            tables += [_tried(f"{where}, p = 0", group, 0.0 * p), _tried(f"{where}, p random", group, p)]
        tried = pd.concat(tables, ignore_index=True)
        return cls(tried, (_converging(tried, people), _cycling(tried, *drawn[SIZES[1]])))

    @cached_property
    def counts(self) -> pd.DataFrame:
        """where, auctions, and how many end in each way; rounds: median and most of those that converge."""
        table = pd.crosstab(self.tried["where"], self.tried["verdict"])[sorted(set(self.tried["verdict"]), key=_rank)]
        done = self.tried[self.tried["verdict"] == "converged"].groupby("where")["rounds"]
        table = table.assign(median_rounds=done.median(), most_rounds=done.max())
        table.insert(0, "auctions", self.tried.groupby("where").size())
        return table.loc[self.tried["where"].unique()].reset_index()

    @cached_property
    def by_factor(self) -> pd.DataFrame:
        """The verdicts by the cobweb factor: at one and more it can not converge."""
        known = self.tried[np.isfinite(self.tried["factor"])]
        kinds = pd.cut(known["factor"], [-np.inf, 0.25, 0.5, 0.75, 1.0, 2.0, np.inf],
                       labels=["below 0.25", "to 0.5", "to 0.75", "to 1", "1 to 2", "above 2"])  # fmt: skip
        table = pd.crosstab(kinds, known["verdict"])
        return table[sorted(table.columns, key=_rank)].rename_axis("factor").reset_index()

    @property
    def converged_in_vain(self) -> int:
        """How many converged although the cobweb factor is above one; none should."""
        return int(((self.tried["factor"] > 1.0 + 1e-6) & (self.tried["verdict"] == "converged")).sum())

    @property
    def worst(self) -> float:
        """How far those that converged are from the exact unit cost, at most, relative."""
        return float(self.tried["error"].max())


def _rank(word: Any) -> tuple[int, str]:
    return ("converged", "cycles", "nothing", "not").index(word.split()[0].rstrip(",")), word


def _tried(where: str, everyone: Aggregators, p_kw: FloatArray) -> pd.DataFrame:
    outcome = one.run_algorithm1(everyone, p_kw, method="paper", max_rounds=ROUNDS)
    exact = everyone.unit_costs(p_kw)
    error = np.where(outcome.converged, np.abs(outcome.unit_costs - exact) / exact, np.nan)
    return pd.DataFrame({
        "where": where, "aggregator": everyone.names, "agents": everyone.agents, "p_kw": p_kw, "unit_cost": exact,
        "verdict": _told(outcome), "rounds": outcome.rounds, "factor": cobweb_factor(everyone, p_kw), "error": error,
    })  # fmt: skip


def _converging(tried: pd.DataFrame, people: mo.Prosumers) -> Shown:
    """Of the case at its equilibria, the auction that takes most rounds to converge."""
    rows = tried[tried["where"].str.startswith("case, at") & (tried["verdict"] == "converged")]
    row = rows.loc[rows["rounds"].idxmax()]
    scenario = row["where"].removeprefix("case, at equilibrium ")
    name = str(row["aggregator"])
    return Shown.of(people, name, float(row["p_kw"]), f"aggregator {name} of the case, scenario {scenario}")


def _cycling(tried: pd.DataFrame, people: mo.Prosumers, p_kw: FloatArray) -> Shown:
    """Of the random ones, the auction with most agents that cycles."""
    where = f"random, {SIZES[1][0]} to {SIZES[1][1]} agents, p random"
    rows = tried[(tried["where"] == where) & tried["verdict"].str.startswith("cycles")]
    row = rows.loc[rows["agents"].idxmax()]
    name = str(row["aggregator"])
    p = float(p_kw[Aggregators(people).names.index(name)])
    return Shown.of(people, name, p, f"a random aggregator, {row['agents']} agents, $p_k$ = {p:.1f} kW")


# -- Algorithm 2 and COP (10) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Upper:
    """Algorithm 2 as printed and COP (10) on the case with its rated limits. defaults, cops, own: by scenario; runs:
    (scenario, eta, aggregator) to outcome, all started at the optimum of the default problem."""

    defaults: dict[str, Outcome]
    runs: dict[tuple[str, float, str], Outcome]
    cops: dict[str, Outcome]
    own: dict[str, OwnEquilibria]

    @classmethod
    def run(cls, scenarios: Sequence[str], quick: bool, progress: Callable[[str], None] = print) -> Upper:
        """Runs all; quick: with one eta, COP (10) in the last scenario, and never with Algorithm 1 inside."""
        people, network = agents(), grid("rated")
        defaults, runs, cops, own = {}, {}, {}, {}
        for scenario in scenarios:
            problem = TwoLevel(network, people, mo.flow(FLOW), prices()[scenario])
            defaults[scenario] = solve_auction(problem)
            for eta in ETAS[2:3] if quick else ETAS:
                runs[scenario, eta, "exact"] = algorithm2(problem, eta=eta)
            own[scenario], last = own_equilibria(problem), scenario == scenarios[-1]
            if last or not quick:
                cops[scenario] = cop10(problem)
            if last and not quick:
                inside = algorithm2(problem, aggregator="paper", eta=ETAS[1], max_iterations=60)
                runs[scenario, ETAS[1], PRINTED] = inside
            progress(f"scenario {scenario}: Algorithm 2 as printed {_ends(runs, scenario)}")
        return cls(defaults, runs, cops, own)

    @cached_property
    def algorithm2(self) -> pd.DataFrame:
        """A row per run: verdict, iterations, and over the last LAST of them the residual of the printed QVI [$/kWh],
        the distance from the default's p [kW], import [kW], budget (c - c0 1)'p [$/h] and welfare net of c0 [$]."""
        rows = []
        for (scenario, eta, inside), found in self.runs.items():
            path = self.path(scenario, eta, inside).iloc[-LAST:]
            names = ("residual", "import_kw", "budget", "welfare")
            span = {f"{name}_{end}": getattr(path[name], end)() for name in names for end in ("min", "max")}
            rows.append({
                "scenario": scenario, "eta": eta, "aggregators": inside,
                "verdict": found.verdict + (f" (period {found.period})" if found.period else ""),
                "iterations": found.iterations, "distance_kw": path["distance_kw"].max(), **span,
                "default_welfare": self.defaults[scenario].welfare,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def path(self, scenario: str, eta: float, inside: str = "exact") -> pd.DataFrame:
        """iteration, residual, distance_kw, import_kw, budget, welfare of one run."""
        found, c0 = self.runs[scenario, eta, inside], prices()[scenario]
        budget = ((found.c_path - c0) * found.p_path).sum(axis=(1, 2))
        away = np.abs(found.p_path - self.defaults[scenario].p_kw).max(axis=(1, 2))
        trace = found.trace[["iteration", "residual", "import_kw", "welfare"]]
        return trace.assign(budget=budget, distance_kw=away)

    @cached_property
    def three(self) -> pd.DataFrame:
        """Default, an equilibrium of Algorithm 2's own QVI (or, without one, the mean of where it hovers at the least
        eta) and COP (10): import [kW], utility [$], welfare net of c0 [$], budget (c - c0 1)'p [$/h]."""
        rows = []
        for scenario, default in self.defaults.items():
            rows.append(self._row(scenario, "default", default.verdict, default))
            own = self.own[scenario]
            if own.points:
                rows.append(self._row(scenario, "solution of the printed QVI", "exists", own.points[0]))
            eta = min(key[1] for key in self.runs if key[0] == scenario)
            run = self.runs[scenario, eta, "exact"]
            label = f"Algorithm 2 as printed, eta {eta:g}"
            last = self.path(scenario, eta).iloc[-LAST:].mean()
            spent = prices()[scenario] * last["import_kw"]
            rows.append({"scenario": scenario, "problem": label, "verdict": run.verdict, "import_kw": last["import_kw"],
                         "utility": last["welfare"] + spent, "welfare": last["welfare"],
                         "budget": last["budget"]})  # fmt: skip
            if scenario in self.cops:
                rows.append(self._row(scenario, "COP (10), local", self.cops[scenario].verdict, self.cops[scenario]))
        return pd.DataFrame(rows)

    @staticmethod
    def _row(scenario: str, problem: str, said: str, found: Any) -> dict[str, Any]:
        c0, imported = prices()[scenario], float(found.import_kw.sum())
        return {
            "scenario": scenario, "problem": problem, "verdict": said, "import_kw": imported,
            "utility": found.welfare + c0 * imported, "welfare": found.welfare,
            "budget": float(((found.unit_costs - c0) * found.p_kw).sum()),
        }  # fmt: skip


def _ends(runs: dict[tuple[str, float, str], Outcome], scenario: str) -> str:
    mine = {key[1]: run for key, run in runs.items() if key[0] == scenario and key[2] == "exact"}
    return ", ".join(f"{run.verdict} at eta {eta:g}" for eta, run in mine.items())
