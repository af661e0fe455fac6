"""The poster's table of losses: four behaviours, four densities of private wires, two areas, on the IEEE 300-bus grid.

    python benchmarks/coalition_losses.py --out out/coalition_losses       # 20 draws on all cores
    python benchmarks/coalition_losses.py --sensitivity                    # other sizes, wires and radii as well
    python benchmarks/coalition_losses.py --quick                          # two draws without the densest wires

Cells that are done are kept in OUT/cells.jsonl, so that an interrupted run goes on where it was; `--fresh` forgets
them. Cells of other parameters or of other code are kept there, too, and not used. What must hold in every draw is
checked; where it fails the exit code is 1. Parameters: benchmarks/coalition_losses/parameters.toml.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import coalition_cells as cells
import coalition_figures as pictures
import coalition_verdicts as verdicts
import pandas as pd
from feeder_figures import DPI, leave_study

import mktopt as mo

CELLS = "cells.jsonl"
COARSE = 60  # dots per inch of pictures of a quick run
EXAMPLE = "eight_node"


@dataclass(frozen=True, eq=False)
class Losses:
    """All cells, measured: those of the poster's table, and those of variants where they were run."""

    parameters: cells.Parameters
    table: pd.DataFrame

    @classmethod
    def run(
        cls, parameters: cells.Parameters, out: Path, workers: int = 1, sensitivity: bool = False, fresh: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Losses:  # fmt: skip
        """Computes what `out` has not; raises MktoptError for parameters that cannot be taken."""
        rows = cells.run_all(parameters.items(sensitivity), out / CELLS, workers, fresh, progress)
        studies = (parameters.study, *parameters.variants.values())
        return cls(parameters, verdicts.measured(rows, {one.digest: one.wholesale for one in studies}))

    @property
    def main(self) -> pd.DataFrame:
        """The cells of the poster's table."""
        mine = self.table["study"] == self.parameters.study.digest
        return self.table[mine & self.table["density"].isin(self.parameters.densities)]

    @cached_property
    def claims(self) -> pd.DataFrame:
        """claim, measured, asked (at most), verdict, over all cells."""
        return verdicts.claims(self.table)

    @cached_property
    def orderings(self) -> pd.DataFrame:
        """The poster's orderings of losses, see `coalition_verdicts.orderings`."""
        return verdicts.orderings(self.main, self.parameters.poster)

    def means(self, column: str) -> pd.DataFrame:
        """Means and standard errors of a column of the poster's table."""
        return verdicts.means(self.main, column)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """A row per variant (and the table itself, at the same area and draws): mean losses, orderings that hold."""
        area, found = self.parameters.variant_areas_km[0], []
        named = {"as in the table": self.parameters.study} | self.parameters.variants
        for name, study in named.items():
            here = self.table[(self.table["study"] == study.digest) & (self.table["area_km"] == area)]
            here = here[here["draw"] < self.parameters.variant_draws]
            here = here[here["density"].isin(self.parameters.densities)]
            if len(here):
                kept = verdicts.orderings(here, self.parameters.poster)["verdict"]
                found.append({"variant": name, **verdicts.outcome(here), "yes": int((kept == "yes").sum()),
                              "no": int((kept == "no").sum())})  # fmt: skip
        return pd.DataFrame(found)

    @cached_property
    def scan(self) -> pd.DataFrame:
        """Losses of the table's people at more densities: edge_density, wires, and the mean loss of each behaviour as
        a share of that without wires."""
        area, draws = self.parameters.variant_areas_km[0], range(self.parameters.variant_draws)
        rows = self.table[(self.table["study"] == self.parameters.study.digest) & (self.table["area_km"] == area)
                          & self.table["draw"].isin(draws)]  # fmt: skip
        loss = rows.pivot_table(index="edge_density", columns="behaviour", values="loss_percent", aggfunc="mean")
        share = (loss / loss["cooperative"].get(0.0, float("nan"))).reindex(columns=list(self.parameters.behaviours))
        share.insert(0, "wires", rows.groupby("edge_density")["wires"].mean())
        return share.reset_index()

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by file name."""
        columns = {"losses": "loss_percent", "public_losses": "public_percent", "private_losses": "private_percent",
                   "cost": "cost_change", "wires": "wires", "seconds": "seconds"}  # fmt: skip
        found = {name: self.means(column) for name, column in columns.items()}
        return found | {
            "claims": self.claims, "orderings": self.orderings, "sensitivity": self.sensitivity,
            "areas": self.areas, "scan": self.scan, "cells": self.table,
        }  # fmt: skip

    @property
    def areas(self) -> pd.DataFrame:
        """Whether the area matters, see `coalition_verdicts.areas`."""
        return verdicts.areas(self.main, self.parameters.poster, self.parameters.densities)

    def printed(self, column: str, digits: int = 2) -> pd.DataFrame:
        """A column as the poster has its table."""
        return verdicts.as_printed(self.means(column), list(self.parameters.densities), digits)

    def figures(self) -> dict[str, Any]:
        """All pictures by file name."""
        table = pictures.losses(self.means("loss_percent"), self.means("cost_change"), self.parameters.poster,
                                self.parameters.densities)  # fmt: skip
        return {"coalition_losses": table, "coalition_trades": pictures.trades(example())}

    def text(self) -> str:
        """A page to read."""
        study, main = self.parameters.study, self.main
        area, few = f"{self.parameters.variant_areas_km[0]:g}", self.parameters.variant_draws
        wires = main.groupby("density")["wires"].mean().reindex(list(self.parameters.densities))
        counted = ", ".join(f"{density}: {count:,.1f}" for density, count in wires.items())
        wrong = main.loc[main["problem"].notna(), ["area_km", "density", "draw", "behaviour", "problem"]]
        return "\n\n".join([
            "# Four behaviours on private wires: losses and resource cost",
            f"Grid {study.case}, {main['draw'].nunique()} draws, mean demand {main['demand_kwh'].mean() / 1e3:,.0f} "
            f"MWh in one hour. Private wires in the mean, by density: {counted}. Mean ± standard error.",
            "## What must hold", _block(self.claims, measured="{:.1e}", asked="{:.0e}"),
            *(["Without a result:", _block(wrong)] if len(wrong) else []),
            "## Losses, percent of demand", _block(self.printed("loss_percent")),
            "of which in private wires", _block(self.printed("private_percent", 3)),
            "## Resource cost, $ per MWh of demand, less that of cooperative without private wires in the same draw",
            _block(self.printed("cost_change", 3)),
            "## The poster's orderings of losses",
            "yes, no: the mean difference of paired draws is two standard errors from zero; share: of draws that have "
            "it.", _block(self.orderings, share="{:.0%}", ties="{:.0%}", difference="{:.3f}", error="{:.3f}"),
            "## Does the area matter?", _block(self.areas, ratio="{:.3f}", poster_ratio="{:.3f}"),
            f"## How many wires it takes: losses as a share of those without wires, {area} km, {few} draws",
            _block(self.scan, edge_density="{:.2e}", wires="{:,.1f}"),
            f"## Sensitivity: mean losses, and how many of the orderings hold or not, {area} km, {few} draws",
            _block(self.sensitivity, yes="{:d}", no="{:d}"),
            "## Seconds per cell", _block(self.printed("seconds")), "",
        ])  # fmt: skip


def example() -> list[mo.Clearing]:
    """The eight-node example in all behaviours."""
    case = mo.load_case(EXAMPLE)
    return [mo.clear("coalition", case.network, case.orders, behaviour=name) for name in verdicts.BEHAVIOURS]


def _block(table: pd.DataFrame, **forms: str) -> str:
    ways: dict[str | int, Any] = {name: form.format for name, form in forms.items() if name in table}
    return f"```text\n{table.to_string(index=False, na_rep='', formatters=ways, float_format='{:.2f}'.format)}\n```"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/coalition_losses"), help="folder for all that is left")
    parser.add_argument("--parameters", type=Path, default=cells.FILE, help="a TOML file in place of ours")
    parser.add_argument("--draws", type=int, help="in place of what the parameters say; 20")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; one per core")
    parser.add_argument("--sensitivity", action="store_true", help="the variants of the parameters, too")
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are done")
    parser.add_argument("--quick", action="store_true", help="two draws without the densest wires")
    chosen = parser.parse_args(arguments)
    if (chosen.draws is not None and chosen.draws < 1) or chosen.workers < 1:
        parser.error("--draws and --workers must be at least 1")
    try:
        parameters = cells.Parameters.read(chosen.parameters)
        parameters = parameters.quick() if chosen.quick else parameters
        parameters = replace(parameters, draws=chosen.draws) if chosen.draws else parameters
        with bar() as report:
            study = Losses.run(parameters, chosen.out, chosen.workers, chosen.sensitivity, chosen.fresh, report)
        return leave_study(study, chosen.out, COARSE if chosen.quick else DPI)
    except mo.MktoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what is done is in {chosen.out / CELLS}, the same command goes on", file=sys.stderr)
        return 130


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as what is to be called with the numbers of networks done and of all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = ("networks", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


if __name__ == "__main__":
    raise SystemExit(main())
