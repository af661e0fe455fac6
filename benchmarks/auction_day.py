"""A day of 24 hourly auctions for `gne_auction.py`: agents, price of import and sun change by the hour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from auction_cases import FLOW, agents, aggregators, full_branches, grid, net_import, proof, verdict

import mktopt as mo

HOURS = Path(__file__).parent / "gne_auction" / "hours.csv"


def hour_table() -> pd.DataFrame:
    """hour, c0 [$/kWh], load_factor, pv_factor: a row per hour of the day, synthetic."""
    return pd.read_csv(HOURS)


def agents_at(load_factor: float, pv_factor: float) -> mo.Prosumers:
    """The agents of the case in an hour: parameter a, what they would spend, times `load_factor`; generation times
    `pv_factor`."""
    table = agents().table
    return mo.Prosumers(table.assign(
        a=table["a"] * load_factor, generation_kw=table["generation_kw"] * pv_factor
    ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Day:
    """Hours cleared one by one on the stressed grid; hours: rows of `hour_table`."""

    hours: pd.DataFrame
    clearings: list[mo.Clearing]

    @classmethod
    def run(cls, hours: Sequence[int] = range(24), progress: Callable[[str], None] = print) -> Day:
        """Clears `hours`; raises what `mktopt.clear` raises."""
        table = hour_table().set_index("hour").loc[list(hours)].reset_index()
        network, clearings = grid("stressed"), []
        for hour, c0, load, sun in table[["hour", "c0", "load_factor", "pv_factor"]].itertuples(index=False):
            clearings.append(mo.clear("gne", network, agents_at(load, sun), flow=FLOW, c0=c0))
            progress(f"hour {hour:2d}: c0 {c0:.3f} $/kWh, net requirement {net_import(clearings[-1]):8,.1f} kW")
        return cls(table, clearings)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per hour: c0 [$/kWh]; consumed_kw, generated_kw, bought_kw (within and from outside the aggregators);
        import_kw, what the upstream operator is asked for (negative: given); unit costs [$/kWh]; welfare, rent [$];
        buyers, sellers; iterations; full branches; proof."""
        return pd.DataFrame([self._row(k) for k in range(len(self.clearings))])

    def _row(self, k: int) -> dict[str, Any]:
        clearing, people = self.clearings[k], aggregators(self.clearings[k])
        told, cost = clearing.agents, people["unit_cost"]
        assert told is not None
        assert clearing.equilibrium is not None
        return {
            "hour": int(self.hours["hour"][k]), "c0": self.hours["c0"][k],
            "consumed_kw": told["consumption_kw"].sum(), "generated_kw": told["generation_kw"].sum(),
            "bought_kw": people["bought_kw"].sum(), "import_kw": net_import(clearing), "min_cost": cost.min(),
            "mean_cost": cost.mean(), "max_cost": cost.max(), "welfare": clearing.welfare,
            "rent": proof(clearing).rent, "buyers": int(people["buyers"].sum()),
            "sellers": int(people["sellers"].sum()),
            "iterations": clearing.equilibrium.iterations,
            "full_branches": ", ".join(full_branches(clearing)), "certificate": verdict(clearing),
        }  # fmt: skip

    @cached_property
    def by_aggregator(self) -> pd.DataFrame:
        """hour, aggregator, p_kw, unit_cost, buyers, sellers."""
        columns = ["aggregator", "p_kw", "unit_cost", "buyers", "sellers"]
        tables = [aggregators(c)[columns].assign(hour=hour) for hour, c in zip(self.hours["hour"], self.clearings,
                                                                               strict=True)]  # fmt: skip
        return pd.concat(tables, ignore_index=True)[["hour", *columns]]

    @property
    def exported(self) -> float:
        """What goes upstream over all hours [kWh]."""
        return float(np.maximum(-self.summary["import_kw"], 0.0).sum())
