"""Use case 3 of OpenGridGym on ieee37: locational prices of 24 hours, their parts, and what each role earns and pays.

    python benchmarks/dlmp_ieee37.py --out out/dlmp_ieee37
    python benchmarks/dlmp_ieee37.py --hours 12,18,21                     # some hours only

Producers, demand-response providers and hours are tables in benchmarks/dlmp_ieee37/, with their reasons. No hour
depends on another, so each is cleared by itself, as in the paper, and all of them once more as one market.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import feeder_figures as figures
import numpy as np
import pandas as pd

import mktopt as mo
from mktopt.clearing.check_ac import AcCheck
from mktopt.clearing.price_parts import PARTS
from mktopt.market_power import proved
from mktopt.networks.files import write_folder
from mktopt.networks.order_rules import ROLES

DATA = Path(__file__).with_suffix("")
# The line that carries less than it was built for, and the fixed tap of the regulator (see the folder's README).
DERATED, RATING_KVA = "703-730", 600.0
REGULATOR, RATIO = "799-799r", 1.0 + 10 * 0.00625
V_MIN, V_MAX = 0.975, 1.05
UNSERVED = ("sourcebus", "799")  # in front of the regulator, without customers
VALUE_OF_LOAD = 1.0
EMERGENCY = 1.15
FLOW, PAPER = "distflow", "ptdf"
SHOWN = ("energy", "loss", "congestion", "voltage")


def hour_table() -> pd.DataFrame:
    """hour, lmp [$/kWh], load_factor, pv_factor, battery_factor: a row per hour of the day."""
    return pd.read_csv(DATA / "hours.csv")


def feeder(periods: int = 1) -> mo.Network:
    """ieee37 with the derated line, the regulator at its tap and voltage limits where customers are."""
    network = mo.load_network("ieee37").with_ratings({DERATED: RATING_KVA})
    buses, branches = network.buses.copy(), network.branches.copy()
    branches.loc[branches["branch"] == REGULATOR, "ratio"] = RATIO
    served = ~buses["bus"].isin(UNSERVED)
    buses.loc[served, ["v_min_pu", "v_max_pu"]] = V_MIN, V_MAX
    return network.replace(buses=buses, branches=branches, hours=[1.0] * periods)


def market(hours: pd.DataFrame) -> mo.Orders:
    """Offers, reductions and loads of rows of `hour_table`, each a period of its own."""
    loads, table = loads_of(mo.load_network("ieee37")), pd.read_csv(DATA / "reductions.csv")
    rows = [row | {"period": period} for period, row in enumerate(hours.to_dict("records"))]
    made = [
        [f(loads, table, row["load_factor"]).assign(period=row["period"]) for row in rows] for f in (reductions, bids)
    ]
    offers = mo.Orders.from_costs(pd.concat([_offers(row) for row in rows]))
    return offers.merge(mo.Orders.from_reductions(pd.concat(made[0]))).merge(mo.Orders.from_steps(pd.concat(made[1])))


def loads_of(network: mo.Network) -> pd.DataFrame:
    """Loads by name: bus, p_kw, q_kvar, tan_phi."""
    return network.loads.assign(tan_phi=network.loads["q_kvar"] / network.loads["p_kw"]).set_index("load")


def reductions(loads: pd.DataFrame, table: pd.DataFrame, factor: float = 1.0) -> pd.DataFrame:
    """Input of `Orders.from_reductions`: the loads of `table` (order, participant, share, price_min, price_max) times
    `factor`, of which they offer `share`."""
    own = loads.loc[table["order"]].reset_index()
    initial = own["p_kw"] * factor
    return table.drop(columns="share").assign(
        bus=own["bus"], tan_phi=own["tan_phi"], initial_kw=initial, max_reduction_kw=table["share"] * initial
    )


def bids(loads: pd.DataFrame, table: pd.DataFrame, factor: float = 1.0) -> pd.DataFrame:
    """Input of `Orders.from_steps`: the loads that offer no reduction in `table`, times `factor`."""
    others = loads[~loads.index.isin(table["order"])]
    return pd.DataFrame({
        "order": others.index, "bus": others["bus"].to_numpy(), "side": "bid",
        "width_kw": others["p_kw"].to_numpy() * factor, "price": VALUE_OF_LOAD,
        "tan_phi": others["tan_phi"].to_numpy(),
    })  # fmt: skip


def _offers(hour: dict[Any, Any]) -> pd.DataFrame:
    """The wholesale supply, and every producer that has power in this hour."""
    producers = pd.read_csv(DATA / "producers.csv")
    factor = [1.0 if pd.isna(name) else float(hour[name]) for name in producers.pop("profile")]
    producers["p_max_kw"] *= factor
    wholesale = {"order": "wholesale", "participant": "transmission", "bus": "sourcebus", "p_max_kw": np.inf}
    offers = pd.concat([pd.DataFrame([wholesale | {"c1": hour["lmp"]}]), producers[producers["p_max_kw"] > 0]])
    return offers.assign(period=hour["period"])


@dataclass(frozen=True, eq=False)
class Day:
    """All hours cleared. hours: rows of `hour_table`; clearings: hour by hour under FLOW; whole, paper: all hours as
    one market under FLOW and under PAPER (the paper's H); check, paper_check: the AC verdicts of those two."""

    hours: pd.DataFrame
    clearings: list[mo.Clearing]
    whole: mo.Clearing
    paper: mo.Clearing
    check: AcCheck
    paper_check: AcCheck

    @classmethod
    def run(cls, hours: Sequence[int] = range(24), progress: Callable[[str], None] = print) -> Day:
        """Clears `hours`; raises SolverError where the proof of a clearing does not hold."""
        table = hour_table().set_index("hour").loc[list(hours)].reset_index()
        clearings = []
        for number, hour in enumerate(table["hour"]):
            cleared = mo.clear("dlmp", feeder(), market(table.iloc[[number]]), flow=FLOW)
            clearings.append(proved(cleared, f"hour {hour}"))
            price, wholesale = cleared.prices["price"], table["lmp"][number]
            progress(f"hour {hour:2d}: wholesale {wholesale:.4f}, DLMPs up to {price.max():.4f} $/kWh")
        network, orders = feeder(len(table)), market(table)
        whole, paper = (proved(mo.clear("dlmp", network, orders, flow=flow), flow) for flow in (FLOW, PAPER))
        return cls(table, clearings, whole, paper, whole.check_ac(), paper.check_ac())

    @cached_property
    def telling(self) -> int:
        """Position of the hour in which the least of the loss, congestion and voltage parts is greatest."""
        most = [c.price_parts[list(SHOWN[1:])].abs().max().min() for c in self.clearings]
        return int(np.argmax(most))

    @property
    def hour(self) -> int:
        """The hour of `telling`."""
        return int(self.hours["hour"][self.telling])

    @cached_property
    def secured(self) -> mo.Clearing:
        """The telling hour under PAPER, secure against the loss of any branch or local producer."""
        orders = market(self.hours.iloc[[self.telling]])
        cleared = mo.clear("dlmp", feeder(), orders, flow=PAPER, contingencies="n-1", emergency=EMERGENCY)
        return proved(cleared, "n-1")

    @property
    def separable(self) -> float:
        """How far prices of the one market of all hours are from those of the separate ones, at most [$/kWh]."""
        alone = np.column_stack([c.prices["price"].to_numpy() for c in self.clearings])
        return float(np.abs(self.whole.prices["price"].to_numpy().reshape(alone.shape) - alone).max())

    def _by_hour(self) -> Iterator[tuple[int, mo.Clearing]]:
        return zip(self.hours["hour"], self.clearings, strict=True)

    # -- tables -------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by file name."""
        return {
            "dlmps": self.dlmps(), "hours": self.summary(), "dispatch": self.dispatch(), "roles": self.roles(),
            "role_totals": self.totals(), "telling_hour": self.zones(), "congestion_by_branch": self.shares(
            "congestion"), "voltage_by_bus": self.shares("voltage"), "security": self.security(),
        }  # fmt: skip

    def dlmps(self) -> pd.DataFrame:
        """hour, bus, price and its parts [$/kWh], reactive_price [$/kvarh], paper_price and paper_congestion."""
        tables = []
        for k, (hour, clearing) in enumerate(self._by_hour()):
            parts, assumed = clearing.price_parts, _period(self.paper.price_parts, k)
            reactive = clearing.reactive_prices
            assert reactive is not None
            tables.append(parts.drop(columns="period").assign(
                reactive_price=reactive["price"], paper_price=assumed["price"],
                paper_congestion=assumed["congestion"]))  # fmt: skip
            tables[-1].insert(0, "hour", hour)
        table = pd.concat(tables, ignore_index=True)
        absent = [part for part in PARTS if part not in SHOWN and not (table[part].abs() > 1e-9).any()]
        return table.drop(columns=absent).round(6)

    def summary(self) -> pd.DataFrame:
        """A row per hour: wholesale price, energy, prices, what binds, losses, proof and AC verdict, both flows."""
        rows = []
        for k, clearing in enumerate(self.clearings):
            price, response = clearing.prices["price"], clearing.settlement.orders["reduction_kw"]
            dispatch, voltages, wide = clearing.dispatch, clearing.voltages, clearing.relaxation
            assert voltages is not None
            assert wide is not None
            bid = dispatch["side"] == "bid"
            served = voltages[~voltages["bus"].isin(UNSERVED)]["v_pu"]
            rows.append({
                "hour": self.hours["hour"][k], "lmp": self.hours["lmp"][k],
                "bought_kw": dispatch.loc[bid, "quantity_kw"].sum(), "import_kw": clearing.quantity("wholesale"),
                "reduced_kw": response.sum(), "loss_kw": clearing.flows["loss_kw"].sum(),
                "lowest": price.min(), "highest": price.max(),
                **{part: clearing.price_parts[part].max() for part in SHOWN[1:]}, "v_min_pu": served.min(),
                "full_branches": ", ".join(full_branches(clearing)), "relaxation_gap": wide["gap"].max(),
                "certificate": "holds" if clearing.certificate.ok() else "FAILS", "ac": verdict(self.check, k),
                "paper_highest": _period(self.paper.prices, k)["price"].max(), "paper_ac": verdict(self.paper_check, k),
            })  # fmt: skip
        digits = dict.fromkeys(("lowest", "highest", *SHOWN[1:], "v_min_pu", "paper_highest"), 5)
        return pd.DataFrame(rows).round({"bought_kw": 1, "import_kw": 1, "reduced_kw": 1, "loss_kw": 1, **digits})

    def dispatch(self) -> pd.DataFrame:
        """hour, order, participant, role, bus, quantity_kw, q_kvar, price, payment, reward, reduction_kw."""
        tables = [c.settlement.orders.assign(hour=hour) for hour, c in self._by_hour()]
        columns = ["hour", "order", "participant", "role", "bus", "quantity_kw", "q_kvar", "price", "payment",
                   "reward", "reduction_kw"]  # fmt: skip
        return pd.concat(tables, ignore_index=True)[columns].round(5)

    def roles(self) -> pd.DataFrame:
        """participant, role, energy_kwh, reduction_kwh, revenue, bill, cost, utility, reward [$] over all hours."""
        table = pd.concat([clearing.settlement.roles for clearing in self.clearings])
        found = table.groupby(["role", "participant"], sort=False).sum().reset_index().round(3)
        return found.sort_values("role", key=lambda roles: roles.map(ROLES.index), kind="stable", ignore_index=True)

    def totals(self) -> pd.DataFrame:
        """The same by role, and mean_price: what is paid or received per kWh [$/kWh]; of responses, net."""
        table = self.roles().drop(columns="participant").groupby("role", sort=False).sum().reset_index()
        table["mean_price"] = ((table["bill"] - table["revenue"]).abs() / table["energy_kwh"]).round(5)
        return table

    @property
    def rent(self) -> float:
        """What the operator keeps over all hours [$]: payments less receipts."""
        return sum(clearing.settlement.budget for clearing in self.clearings)

    def zones(self) -> pd.DataFrame:
        """bus, km, price, parts, paper_price, secured_price of the telling hour, from the source outwards."""
        clearing, paper = self.clearings[self.telling], _period(self.paper.prices, self.telling)
        km, sequence = figures.km_and_sequence(clearing.network)
        parts = clearing.price_parts[["bus", "price", *SHOWN]].assign(km=km)
        parts["paper_price"], parts["n-1_price"] = paper["price"], self.secured.prices["price"]
        parts["n-1_security"] = self.secured.price_parts["security"]
        return parts.iloc[sequence].round(5)

    def shares(self, part: str) -> pd.DataFrame:
        """hour, cause, least, greatest: what each branch (or bus) adds to the prices of an hour [$/kWh]."""
        tables = [c.price_shares(part).assign(hour=hour) for hour, c in self._by_hour()]
        table = pd.concat(tables, ignore_index=True)
        return table.groupby(["hour", "cause"])["share"].agg(least="min", greatest="max").reset_index().round(5)

    def security(self) -> pd.DataFrame:
        """Table `contingencies` of the telling hour."""
        table = self.secured.contingencies
        assert table is not None
        return table.round(3)

    # -- pictures and words -------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """Fig. 10 and what explains it, by file name."""
        clearing = self.clearings[self.telling]
        dear = str(clearing.prices.loc[clearing.prices["price"].idxmax(), "bus"])
        end = str(clearing.network.buses["bus"][int(np.argmax(figures.km_and_sequence(clearing.network)[0]))])
        whole = self.dlmps()
        return {
            "fig10_dlmps": figures.dlmp_map(clearing, f"DLMPs on the IEEE 37-node feeder, hour {self.hour}"),
            "fig10_parts": figures.part_maps(clearing, self.paper, self.telling, self.hour),
            "parts_profile": figures.part_profile(clearing, end, self.hour),
            "parts_by_hour": figures.parts_by_hour(whole[whole["bus"] == dear], self.hours, dear, SHOWN),
            "prices_by_hour": figures.price_map(self.whole, self.hours["hour"].tolist()),
        }

    def text(self) -> str:
        """A page to read."""
        energy, hour = self.roles(), self.hour
        few = ["hour", "lmp", "bought_kw", "import_kw", "reduced_kw", "loss_kw", "lowest", "highest", *SHOWN[1:],
               "v_min_pu", "full_branches", "ac", "paper_highest", "paper_ac"]  # fmt: skip
        return "\n\n".join([
            f"# Use case 3 of OpenGridGym on ieee37: {len(self.hours)} hours, mechanism dlmp",
            f"Prices in $/kWh, power in kW. Flow {FLOW} (losses, voltages, reactive power) beside {PAPER} (the paper's "
            "H: active power alone). Inputs are ours; the paper prints none, and no numbers to compare with.",
            "## Hour by hour", _block(self.summary()[few]),
            "`loss`, `congestion`, `voltage`: the greatest part at any bus. `ac`: limits that an AC power flow of the "
            "dispatch violates.",
            "## Who earns and pays what (all hours)", _block(energy[energy["role"] != "consumer"]),
            _block(self.totals()),
            f"The operator keeps {self.rent:,.2f} $ (bills less revenues). A provider of demand response is billed for "
            "its initial load and credited for what it reduces (revenue), at the same price.",
            f"## Hour {hour}, the most telling", _block(self.zones()),
            "Who causes the congestion and the voltage part, and what each adds at the least and the most hit bus:",
            *(_block(table[table["hour"] == hour]) for table in map(self.shares, ("congestion", "voltage"))),
            self._security_text(), "## Proof", self._proof(), "",
        ])  # fmt: skip

    def _security_text(self) -> str:
        table = self.security()
        return (
            f"`n-1`: {PAPER} with every local producer's outage picked up by the substation within {EMERGENCY:g} x "
            f"ratings; {int((table['kind'] == 'generator').sum())} such outages are secured, and "
            f"{int(table['status'].str.startswith('islands').sum())} branch outages cut buses off, as any does on a "
            "radial feeder."
        )

    def _proof(self) -> str:
        proofs = [c.certificate.ok() for c in (*self.clearings, self.whole, self.paper, self.secured)]
        verdicts = [[verdict(check, k) for k in range(len(self.hours))] for check in (self.check, self.paper_check)]
        held = [found.count("holds") for found in verdicts]
        return "\n".join([
            f"- certificates: {sum(proofs)} of {len(proofs)} hold",
            f"- AC power flow of the {FLOW} dispatch: {held[0]} of {len(self.hours)} hours without a violation, "
            f"voltages within {self.check.max_voltage_error:.0e} p.u.; of the {PAPER} dispatch: {held[1]}",
            f"- hours cleared one by one or as one market (by {self.whole.solver}): prices differ by at most "
            f"{self.separable:.0e} $/kWh",
        ])  # fmt: skip


def full_branches(clearing: mo.Clearing) -> list[str]:
    """Names of the branches at their limit."""
    flows = clearing.flows
    return list(flows.loc[flows["loading_percent"] >= 100.0 - 1e-4, "branch"])


def verdict(check: AcCheck, period: int) -> str:
    """'holds', or how many limits of each kind are violated in `period`."""
    if not check.converged[period]:
        return "no power flow"
    kinds = _period(check.violations, period)["what"].value_counts(sort=False)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "holds"


def _period(table: pd.DataFrame, period: int) -> pd.DataFrame:
    return table[table["period"] == period].reset_index(drop=True)


def _block(table: pd.DataFrame) -> str:
    return f"```text\n{table.to_string(index=False)}\n```"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/dlmp_ieee37"), help="folder for tables and pictures")
    parser.add_argument("--hours", default=",".join(map(str, range(24))), help="hours of the day, 0 to 23")
    chosen = parser.parse_args(arguments)
    try:
        hours = [int(text) for text in chosen.hours.split(",")]
    except ValueError:
        hours = []
    if not hours or not set(hours) <= set(range(24)) or len(set(hours)) < len(hours):
        parser.error(f"--hours takes different numbers from 0 to 23, as in 12,18,21; got {chosen.hours!r}")
    try:
        day = Day.run(hours)
        write_folder(chosen.out, lambda folder: figures.leave(folder, day.tables(), day.figures(), day.text()))
    except mo.MktoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(day.text())
    print(f"left in {chosen.out}/: {', '.join(sorted(file.name for file in chosen.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
