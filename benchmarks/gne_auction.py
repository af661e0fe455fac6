"""Section IV of Das et al.: the two-level energy auction of 483 agents on the IEEE 37-node feeder, in four scenarios.

    python benchmarks/gne_auction.py --out out/gne_auction
    python benchmarks/gne_auction.py --quick                      # two scenarios, stressed limits alone, four hours

Convergence of all methods (Fig. 6), the feeder with its aggregators (Fig. 5), supply and demand with the cobweb of
Algorithm 1 (Fig. 3), what Algorithms 1 and 2 do as printed, price-anticipating agents, and a day of 24 hourly auctions.
What is claimed is checked; where a claim fails the exit code is 1. Data and reasons: benchmarks/gne_auction/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import auction_figures as pictures
import pandas as pd
from auction_cases import FIXED_TOL, METHODS, Eight, prices, proof
from auction_day import Day
from auction_printed import LAST, ROUNDS, Lower, Upper
from feeder_figures import DPI, leave_study

import mktopt as mo

QUICK_SCENARIOS, QUICK_HOURS = ("I", "IV"), (3, 12, 17, 20)
COARSE = 60  # dots per inch of pictures of a quick run


@dataclass(frozen=True, eq=False)
class Study:
    """Everything run: the eight cases, the algorithms as printed, the day."""

    eight: Eight
    lower: Lower
    upper: Upper
    day: Day

    @classmethod
    def run(cls, quick: bool = False, progress: Callable[[str], None] = print) -> Study:
        """Runs all; quick: two scenarios, stressed limits, 100 random aggregators, four hours. Raises MktoptError."""
        scenarios = QUICK_SCENARIOS if quick else tuple(prices())
        eight = Eight.run(scenarios, quick, progress)
        lower = Lower.run(eight, quick)
        counts = lower.tried["verdict"].value_counts()
        progress("Algorithm 1 as printed: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
        return cls(eight, lower, Upper.run(scenarios, quick, progress),
                   Day.run(QUICK_HOURS if quick else range(24), progress))  # fmt: skip

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by file name."""
        eight, lower, upper = self.eight, self.lower, self.upper
        return {
            "claims": self.claims, "cases": eight.cases, "agreement": eight.agreement, "effort": eight.effort,
            "fixed_steps": eight.fixed, "unlimited": eight.unlimited, "with_losses": eight.lossy,
            "anticipation": eight.anticipation, "algorithm1": lower.counts, "algorithm1_by_factor": lower.by_factor,
            "algorithm1_auctions": lower.tried, "algorithm2": upper.algorithm2, "three_problems": upper.three,
            "day": self.day.summary, "day_by_aggregator": self.day.by_aggregator,
        }  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """All pictures by file name; after a quick run without those whose panels the overview has as well."""
        names = self.eight.scenarios
        found = {
            "fig6_convergence": pictures.convergence(self.eight),
            "fig3_cobweb": pictures.cobwebs(self.lower.shown),
            "algorithm2": pictures.algorithm2(self.upper, names[1:]),
            "overview": pictures.overview(self.eight, names[0], self.lower.shown[1], self.day),
        }
        if not self.eight.quick:
            found["fig5_feeder"] = pictures.feeder(self.eight, (names[0], names[-1]))
            found["day"] = pictures.day(self.day)
        return found

    @cached_property
    def claims(self) -> pd.DataFrame:
        """claim, measured, asked (at most), verdict."""
        cases, distance = self.eight.cases, self.eight.agreement
        free, clearings = self.eight.unlimited, [c for one in self.eight.auctions for c in one.clearings.values()]
        proofs = [proof(c) for c in (*clearings, *self.day.clearings)]
        failed = sum(not found.ok() for found in proofs)
        failed += sum((table["certificate"] != "holds").sum() for table in (free, self.eight.lossy))
        central = distance["method"].str.contains("central")
        apart = distance.set_index(central)[["p", "c", "welfare"]].max(axis=1).groupby(level=0).max()
        unsolved = (self.eight.effort["verdict"] != "converged").sum()
        rows = [
            ("methods differ from Newton's in p, c or welfare by (relative)", apart[False], 1e-5),
            ("the central model differs by (Clarabel, IPOPT)", apart[True], 1e-5),
            ("runs that do not converge", unsolved, 0),
            (f"certificates of {len(proofs) + len(free) + len(self.eight.lossy)} clearings that fail", failed, 0),
            ("greatest gain of an agent from deviating, share of welfare", max(p.gain for p in proofs), 1e-6),
            ("price of anarchy of price takers less 1", (cases["price_of_anarchy"] - 1).abs().max(), 1e-6),
            ("without limits: unit costs from c0 (relative)", free["cost_error"].max(), 1e-6),
            ("without limits: import from the closed form (relative)", free["import_error"].max(), 1e-6),
            ("what the DSO pays in, share of the money that moves", max(-p.rent / p.turnover for p in proofs), 1e-6),
            ("Algorithm 1: auctions that converge with a cobweb factor above 1", self.lower.converged_in_vain, 0),
            ("Algorithm 1: unit costs of converged auctions from the exact ones (relative)", self.lower.worst, 1e-5),
        ]
        table = pd.DataFrame(rows, columns=["claim", "measured", "asked"])
        met = table["measured"] <= table["asked"]
        return table.assign(verdict=met.map({True: "holds", False: "FAILS"}))

    def text(self) -> str:
        """A page to read."""
        cases = self.eight.cases.drop(columns=[f"{m} iterations" for m in METHODS])
        effort = self.eight.effort.groupby("method", sort=False)
        spent = effort.agg(iterations_min=("iterations", "min"), iterations_max=("iterations", "max"),
                           seconds_median=("seconds", "median"), steps_share=("steps_share", "mean"))  # fmt: skip
        worst = self.eight.agreement.groupby("method", sort=False)[["p", "c", "welfare"]].max()
        return "\n\n".join([
            "# The two-level energy auction of Das, Faqiry, Zarabie and Wu, Section IV",
            "Power in kW, prices and unit costs in $/kWh, welfare and rent in $ (one hour). Agents, c0 and limits are "
            "ours: the paper prints none, and no numbers to compare with.",
            "## Claims", _block(self.claims, measured="{:.1e}", asked="{:.0e}"),
            "## Four scenarios, limits as rated and stressed", _block(cases),
            "`residual`, `gain`: the greatest of the methods' certificates (gain as a share of welfare). "
            "`price_of_anarchy`: welfare of the central optimum over that of the auction.",
            "## Methods from p = 0, over all cases", _block(spent.reset_index(), steps_share="{:.0%}"),
            "The methods' own start, what all want at c0 brought onto the grid, is exact for log agents of whom none "
            "is at zero: from there every method is done at once on grids without losses (`clearing, ...`). Distances "
            "from Newton's method, at most:", _block(worst.reset_index(), p="{:.0e}", c="{:.0e}", welfare="{:.0e}"),
            f"Projected gradient with a fixed step from p = 0, in 1/L (L at p = 0), to {FIXED_TOL:g} $/kWh:",
            _block(self.eight.fixed, eta="{:.1f}", step="{:.1f}"),
            "## Without limits, against the closed form", _block(self.eight.unlimited),
            "## With losses (distflow, stressed)", _block(self.eight.lossy),
            "## Price-anticipating agents (stressed)", _block(self.eight.anticipation),
            "`loss`: of welfare; `gain_lost`: of what trade adds to it; `greatest_loss`: of one aggregator's sum of "
            "utilities, at the p_k that it has.",
            "## Algorithm 1 as printed", _block(self.lower.counts, median_rounds="{:.0f}", most_rounds="{:.0f}"),
            f"By the cobweb factor, what an error of the unit cost comes back as one round later (at most {ROUNDS} "
            "rounds):", _block(self.lower.by_factor),
            "## Algorithm 2 as printed, from the optimum of the default problem (rated limits)",
            _block(self.upper.algorithm2, eta="{:g}"),
            f"Least and greatest of the last {LAST} iterations. eta in kW per $/kWh. Equilibria of its own QVI:",
            "\n".join(f"- {name}: {own.argument}" for name, own in self.upper.own.items()),
            "## Three problems", _block(self.upper.three),
            "## A day of hourly auctions (stressed)", _block(self.day.summary), "",
        ])  # fmt: skip


# How columns are written: powers and money with two digits, prices with five, what is nearly zero by its size.
_FORMS = {
    **dict.fromkeys(("residual", "residual_min", "residual_max", "gain", "import_error", "cost_error"), "{:.0e}"),
    **dict.fromkeys(("loss", "gain_lost", "greatest_loss"), "{:.2%}"),
    **dict.fromkeys(("min_cost", "mean_cost", "max_cost"), "{:.5f}"),
    **dict.fromkeys(("c0", "seconds_median"), "{:.3f}"), "price_of_anarchy": "{:.9f}",
}  # fmt: skip


def _block(table: pd.DataFrame, **forms: str) -> str:
    ways: dict[str | int, Any] = {name: form.format for name, form in (_FORMS | forms).items() if name in table}
    return f"```text\n{table.to_string(index=False, na_rep='', formatters=ways, float_format=_plain)}\n```"


def _plain(value: float) -> str:
    return f"{value + 0.0 if abs(value) >= 5e-3 else 0.0:.2f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gne_auction"), help="folder for tables and pictures")
    parser.add_argument("--quick", action="store_true", help="two scenarios, 100 random aggregators, four hours")
    chosen = parser.parse_args(arguments)
    try:
        return leave_study(Study.run(chosen.quick), chosen.out, COARSE if chosen.quick else DPI)
    except mo.MktoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
