"""The eight cases of `gne_auction.py`, scenario by limits: every method, the central model, physics, anticipation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import mktopt as mo
from mktopt.agents.aggregators import Aggregators
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_central import solve_central
from mktopt.agents.dso_methods import solve_auction
from mktopt.agents.dso_run import Outcome

FloatArray = npt.NDArray[np.float64]

CASE = "ieee37_aggregators"
LIMITS = {"rated": CASE, "stressed": f"{CASE}:stressed"}
FLOW = "ptdf"  # the paper's H
METHODS = ("newton", "projection", "extragradient", "accelerated")
CENTRAL = ("clarabel", "ipopt")
# Fixed steps that are tried, in 1/L: L is the steepest slope of an aggregator's demand at p = 0.
FIXED, FIXED_TOL = (1.0, 1.8), 1e-6
LOSSY = "distflow"
# A branch this near to its rating is at its limit but for rounding.
FULL_PERCENT = 100.0 - 1e-4


@cache
def agents() -> mo.Prosumers:
    """The 483 agents of the case."""
    prosumers = mo.load_case(CASE).prosumers
    assert prosumers is not None
    return prosumers


@cache
def grid(limits: str) -> mo.Network:
    """The feeder with limits 'rated' or 'stressed'."""
    return mo.load_network(LIMITS[limits])


def prices() -> dict[str, float]:
    """c0 [$/kWh] by scenario, I to IV."""
    known: Mapping[str, float] = agents().meta["c0"]
    return dict(known)


@dataclass(frozen=True, eq=False)
class Auction:
    """One case. clearings: by method, each from the start of its own; outcomes: by method from p = 0, and by solver of
    the central model; fixed: projected gradient with a fixed step from p = 0, by the step in 1/L (stressed only)."""

    scenario: str
    limits: str
    clearings: dict[str, mo.Clearing]
    outcomes: dict[str, Outcome]
    fixed: dict[float, Outcome]

    @classmethod
    def run(cls, scenario: str, limits: str, quick: bool) -> Auction:
        """Clears the case by every method (quick: with the certificate of Newton's alone)."""
        network, prosumers, c0 = grid(limits), agents(), prices()[scenario]
        cleared = METHODS[:1] if quick else (*METHODS, "central")
        clearings = {m: mo.clear("gne", network, prosumers, flow=FLOW, scenario=scenario, method=m) for m in cleared}
        problem = TwoLevel(network, prosumers, mo.flow(FLOW), c0)
        start = problem.at_rest()
        outcomes = {method: solve_auction(problem, method, start=start) for method in METHODS}
        outcomes |= {f"central, {solver}": solve_central(problem, solver) for solver in CENTRAL}
        longest = 1.0 / float(problem.curvature(start.unit_costs).max())
        tried, tol = (FIXED[:1], 100 * FIXED_TOL) if quick else (FIXED, FIXED_TOL)
        fixed = {
            share: solve_auction(problem, "projection", tol, eta=share * longest, start=start)
            for share in tried if limits == "stressed"
        }  # fmt: skip
        return cls(scenario, limits, clearings, outcomes, fixed)

    @property
    def clearing(self) -> mo.Clearing:
        """That of the default method."""
        return self.clearings["newton"]

    @property
    def c0(self) -> float:
        """The price of the import [$/kWh]."""
        return prices()[self.scenario]

    @property
    def import_kw(self) -> float:
        """What the upstream grid gives [kW]."""
        return net_import(self.clearing)

    @property
    def optimum(self) -> float:
        """Welfare of the central model by Clarabel [$]."""
        return self.outcomes["central, clarabel"].welfare

    def row(self) -> dict[str, Any]:
        """The case as a row of `Eight.cases`."""
        clearing, cost = self.clearing, aggregators(self.clearing)["unit_cost"]
        bought = aggregators(clearing)["bought_kw"].sum()
        proofs = [proof(one) for one in self.clearings.values()]
        return {
            "scenario": self.scenario, "limits": self.limits, "c0": self.c0, "import_kw": self.import_kw,
            "bought_kw": bought, "min_cost": cost.min(), "mean_cost": cost.mean(), "max_cost": cost.max(),
            "welfare": clearing.welfare, "price_of_anarchy": self.optimum / clearing.welfare,
            "rent": proof(clearing).rent, "full_branches": ", ".join(full_branches(clearing)),
            "residual": max(found.residual or 0.0 for found in proofs),
            "gain": max(found.gain for found in proofs),
            "certificates": f"{sum(found.ok() for found in proofs)} of {len(proofs)} hold",
            **{f"{m} iterations": self.outcomes[m].iterations for m in METHODS},
        }  # fmt: skip

    def agreement(self) -> list[dict[str, Any]]:
        """How far each method ends from Newton's [share of the greatest |p|, of the greatest c, of welfare]."""
        reference, rows = self.outcomes["newton"], []
        every = self.outcomes | {f"clearing, {method}": _as_outcome(c) for method, c in self.clearings.items()}
        for name, found in every.items():
            if name != "newton":
                distance = {
                    "p": _apart(found.p_kw, reference.p_kw), "c": _apart(found.unit_costs, reference.unit_costs),
                    "welfare": _apart(np.array(found.welfare), np.array(reference.welfare)),
                }  # fmt: skip
                rows.append({"scenario": self.scenario, "limits": self.limits, "method": name, **distance})
        return rows

    def effort(self) -> list[dict[str, Any]]:
        """Iterations and seconds of every method from p = 0; steps: share of the time spent in projections."""
        rows = []
        for name, found in self.outcomes.items():
            total = found.seconds["total"]
            rows.append({
                "scenario": self.scenario, "limits": self.limits, "method": name, "verdict": found.verdict,
                "iterations": found.iterations, "residual": found.residual, "seconds": total,
                "steps_share": found.seconds["steps"] / total if "steps" in found.seconds else np.nan,
            })  # fmt: skip
        return rows


@dataclass(frozen=True)
class _Found:
    """What is compared of a clearing."""

    p_kw: FloatArray
    unit_costs: FloatArray
    welfare: float


def _as_outcome(clearing: mo.Clearing) -> Any:
    table = aggregators(clearing)
    return _Found(table["p_kw"].to_numpy()[None], table["unit_cost"].to_numpy()[None], clearing.welfare)


def _apart(one: FloatArray, other: FloatArray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def aggregators(clearing: mo.Clearing) -> pd.DataFrame:
    """Table `aggregators` of an auction."""
    assert clearing.aggregators is not None
    return clearing.aggregators


def proof(clearing: mo.Clearing) -> mo.EquilibriumCertificate:
    """The certificate of an auction."""
    found = clearing.certificate
    assert isinstance(found, mo.EquilibriumCertificate)
    return found


def net_import(clearing: mo.Clearing) -> float:
    """What the upstream grid gives in the one period of `clearing` [kW]; negative where it takes power."""
    upstream = clearing.dispatch.iloc[-1]
    return float(upstream["quantity_kw"] * (1.0 if upstream["side"] == "offer" else -1.0))


def full_branches(clearing: mo.Clearing) -> list[str]:
    """Names of the branches at their limit."""
    return list(clearing.flows.loc[clearing.flows["loading_percent"] >= FULL_PERCENT, "branch"])


@dataclass(frozen=True, eq=False)
class Eight:
    """All cases: scenarios I to IV (or some), limits as rated and stressed; quick: losses and anticipation in the first
    scenario alone."""

    auctions: list[Auction]
    quick: bool = False

    @classmethod
    def run(cls, scenarios: Sequence[str], quick: bool, progress: Callable[[str], None] = print) -> Eight:
        """Clears all cases, or (quick) those with stressed limits; raises what `mktopt.clear` raises."""
        found = []
        for limits in ("stressed",) if quick else LIMITS:
            for scenario in scenarios:
                found.append(Auction.run(scenario, limits, quick))
                cost = aggregators(found[-1].clearing)["unit_cost"]
                progress(f"scenario {scenario}, {limits}: import {found[-1].import_kw:,.1f} kW, unit costs "
                         f"{cost.min():.4f} to {cost.max():.4f} $/kWh")  # fmt: skip
        return cls(found, quick)

    def of(self, scenario: str, limits: str = "stressed") -> Auction:
        """The case of a scenario and its limits."""
        return next(one for one in self.auctions if (one.scenario, one.limits) == (scenario, limits))

    @property
    def scenarios(self) -> list[str]:
        """Names of the scenarios, in sequence."""
        return list(dict.fromkeys(one.scenario for one in self.auctions))

    # -- tables -----------------------------------------------------------------------------------------------------

    @cached_property
    def cases(self) -> pd.DataFrame:
        """A row per case: import, unit costs, welfare, price of anarchy, rent, proof, iterations of every method."""
        return pd.DataFrame([one.row() for one in self.auctions])

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """scenario, limits, method, and its distance p, c, welfare from Newton's method."""
        return pd.DataFrame([row for one in self.auctions for row in one.agreement()])

    @cached_property
    def effort(self) -> pd.DataFrame:
        """scenario, limits, method, verdict, iterations, residual [$/kWh], seconds, steps_share."""
        return pd.DataFrame([row for one in self.auctions for row in one.effort()])

    @cached_property
    def fixed(self) -> pd.DataFrame:
        """Fixed steps from p = 0: scenario, step [1/L], eta [kW per $/kWh], verdict, iterations, residual [$/kWh]."""
        return pd.DataFrame([
            {"scenario": one.scenario, "step": share, "eta": found.trace["eta"].iloc[0],
             "verdict": found.verdict + (f" (period {found.period})" if found.period else ""),
             "iterations": found.iterations, "residual": found.residual}
            for one in self.auctions for share, found in one.fixed.items()
        ])  # fmt: skip

    @cached_property
    def unlimited(self) -> pd.DataFrame:
        """Without any limit, against the closed form: c_k = c0 and import = sum of demand at c0 less generation."""
        network, people, rows = grid("rated"), agents(), []
        for scenario in self.scenarios:
            c0 = prices()[scenario]
            clearing = mo.clear("gne", network, people, flow="copperplate", scenario=scenario)
            cost, wanted = aggregators(clearing)["unit_cost"], people.demand_at(c0).sum() - people.generation_kw.sum()
            rows.append({
                "scenario": scenario, "c0": c0, "import_kw": net_import(clearing), "closed_form_kw": wanted,
                "import_error": abs(net_import(clearing) - wanted) / abs(wanted),
                "cost_error": (cost - c0).abs().max() / c0, "welfare": clearing.welfare,
                "certificate": verdict(clearing),
            })  # fmt: skip
        return pd.DataFrame(rows)

    @cached_property
    def lossy(self) -> pd.DataFrame:
        """The stressed cases under LOSSY, whose start is not exact: losses, iterations, proof."""
        people, rows = agents(), []
        for scenario in self.scenarios[: 1 if self.quick else None]:
            clearing = mo.clear("gne", grid("stressed"), people, flow=LOSSY, scenario=scenario)
            found, cost = clearing.equilibrium, aggregators(clearing)["unit_cost"]
            assert found is not None
            rows.append({
                "scenario": scenario, "import_kw": net_import(clearing), "loss_kw": clearing.flows["loss_kw"].sum(),
                "min_cost": cost.min(), "max_cost": cost.max(), "welfare": clearing.welfare,
                "lossless_welfare": self.of(scenario).clearing.welfare,
                "iterations": found.iterations, "residual": found.residual, "certificate": verdict(clearing),
            })  # fmt: skip
        return pd.DataFrame(rows)

    @cached_property
    def anticipation(self) -> pd.DataFrame:
        """Price-anticipating agents on the stressed grid: what they lose against agents that take prices.

        loss: share of welfare; gain_lost: share of what trade adds to agents that take prices; traded_kw: bought within
        and beyond the aggregators; greatest_loss: of one aggregator's sum of utilities at the same p_k.
        """
        people, rows = agents(), []
        for scenario in self.scenarios[: 1 if self.quick else None]:
            network = grid("stressed")
            clearing = mo.clear("gne", network, people, flow=FLOW, scenario=scenario, anticipating=True)
            found, taking = clearing.equilibrium, self.of(scenario).clearing
            assert found is not None
            assert found.price_taking_welfare is not None
            lost = found.price_taking_welfare - clearing.welfare
            at_same = self._lost_at(clearing)
            rows.append({
                "scenario": scenario, "verdict": found.verdict, "import_kw": net_import(clearing),
                "taking_import_kw": net_import(taking), "bought_kw": aggregators(clearing)["bought_kw"].sum(),
                "taking_bought_kw": aggregators(taking)["bought_kw"].sum(), "welfare": clearing.welfare,
                "taking_welfare": found.price_taking_welfare, "loss": lost / found.price_taking_welfare,
                "gain_lost": lost / (found.price_taking_welfare - found.welfare_without_trade),
                "greatest_loss": float(at_same.max()), "where": aggregators(clearing)["aggregator"][at_same.argmax()],
            })  # fmt: skip
        return pd.DataFrame(rows)

    @staticmethod
    def _lost_at(clearing: mo.Clearing) -> FloatArray:
        """Share of its sum of utilities that each aggregator loses against agents that take prices, at the same p_k."""
        everyone, table = Aggregators(agents()), aggregators(clearing)
        best = everyone.welfare(everyone.consumption(everyone.unit_costs(table["p_kw"].to_numpy())))
        return np.asarray((best - table["utility"].to_numpy()) / best)


def verdict(clearing: mo.Clearing) -> str:
    """Whether the certificate holds."""
    return "holds" if clearing.certificate.ok() else "FAILS"
