"""The same bids through six physics on two feeders: prices, losses, and how far each is from an AC power flow.

    python benchmarks/physics_compare.py --out out/physics_compare
    python benchmarks/physics_compare.py --feeders case33bw

ieee37 with the orders of an evening hour of `dlmp_ieee37.py`; case33bw with those of benchmarks/physics_compare/. Every
dispatch goes into an AC power flow, whatever flow it was cleared with, and what the source then supplies beyond the
model's is paid at its offer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlmp_ieee37
import feeder_figures as figures
import numpy as np
import pandas as pd

import mktopt as mo
from mktopt.clearing.check_ac import AcCheck
from mktopt.market_power import proved
from mktopt.networks.files import write_folder

DATA = Path(__file__).with_suffix("")
HOUR = 21
# What makes case33bw a market with congestion and a voltage that binds (see the folder's README).
RATINGS = {"2-22": 800.0}
V_MIN, V_MAX = 0.95, 1.05
FLOWS: dict[str, Any] = {
    "copperplate": "copperplate",
    "transport": "transport",
    "lindistflow": "lindistflow",
    "distflow": "distflow",
    "distflow exact": mo.flow("distflow", exact=True),
    "ac": "ac",
}
REFERENCE = "ac"


def ieee37() -> tuple[mo.Network, mo.Orders]:
    """The feeder and the orders of `HOUR` of use case 3."""
    hours = dlmp_ieee37.hour_table()
    return dlmp_ieee37.feeder(), dlmp_ieee37.market(hours[hours["hour"] == HOUR])


def case33bw() -> tuple[mo.Network, mo.Orders]:
    """The feeder of Baran and Wu with local producers, demand response, a rating and voltage limits."""
    network = mo.load_network("case33bw").with_ratings(RATINGS)
    buses = network.buses.copy()
    inner = buses["bus"] != network.source_bus
    buses.loc[inner, ["v_min_pu", "v_max_pu"]] = V_MIN, V_MAX
    loads = dlmp_ieee37.loads_of(network)
    table = pd.read_csv(DATA / "reductions.csv")
    reductions, bids = dlmp_ieee37.reductions(loads, table), dlmp_ieee37.bids(loads, table)
    orders = mo.Orders.from_costs(DATA / "producers.csv").merge(mo.Orders.from_reductions(reductions))
    orders = orders.merge(mo.Orders.from_steps(bids))
    return network.replace(buses=buses), orders


FEEDERS: dict[str, Callable[[], tuple[mo.Network, mo.Orders]]] = {"ieee37": ieee37, "case33bw": case33bw}


@dataclass(frozen=True, eq=False)
class Feeder:
    """One feeder cleared under every flow. clearings, checks: by the names of `FLOWS`."""

    name: str
    network: mo.Network
    clearings: dict[str, mo.Clearing]
    checks: dict[str, AcCheck]

    @classmethod
    def run(cls, name: str, progress: Callable[[str], None] = print) -> Feeder:
        """Clears the feeder called `name`; raises SolverError where the proof of a clearing does not hold."""
        network, orders = FEEDERS[name]()
        clearings = {}
        for label, flow in FLOWS.items():
            clearings[label] = proved(mo.clear("dlmp", network, orders, flow=flow), f"{name}, {label}")
            seconds = sum(clearings[label].seconds.values())
            progress(f"{name}, {label}: welfare {clearings[label].welfare:,.3f} $, {seconds:.2f} s")
        return cls(name, network, clearings, {label: found.check_ac() for label, found in clearings.items()})

    def comparison(self) -> pd.DataFrame:
        """One row per flow.

        welfare [$]; settled_welfare: less the wholesale cost of what the source supplies beyond the model's; lowest,
        mean (by energy bought), highest price and price_error (the greatest difference from `REFERENCE`) [$/kWh];
        loss_kwh, ac_loss_kwh; voltage_error: of the model against the power flow of its dispatch [p.u.]; ac_v_min_pu,
        ac_loading_percent, ac: what that power flow finds; gap, phantom_kw: of the relaxation; seconds.
        """
        return pd.DataFrame([self._row(label) for label in FLOWS]).round(
            {"welfare": 4, "settled_welfare": 4, "lowest": 5, "mean": 5, "highest": 5, "price_error": 6, "loss_kwh": 2,
             "ac_loss_kwh": 2, "ac_v_min_pu": 4, "ac_loading_percent": 1, "seconds": 2})  # fmt: skip

    def _row(self, label: str) -> dict[str, Any]:
        clearing, check, wide = self.clearings[label], self.checks[label], self.clearings[label].relaxation
        price, losses = clearing.prices["price"], check.losses.iloc[0]
        wholesale = float(clearing.price(self.network.source_bus))
        unseen = float(losses["source_kw"] - losses["model_source_kw"])
        bids = clearing.dispatch[clearing.dispatch["side"] == "bid"]
        at_bus = clearing.prices.set_index("bus")["price"].loc[bids["bus"]].to_numpy()
        reference = self.clearings[REFERENCE].prices["price"]
        return {
            "flow": label, "welfare": clearing.welfare, "settled_welfare": clearing.welfare - wholesale * unseen,
            "lowest": price.min(), "mean": np.average(at_bus, weights=bids["quantity_kw"]), "highest": price.max(),
            "price_error": (price - reference).abs().max(), "loss_kwh": losses["model_loss_kwh"],
            "ac_loss_kwh": losses["loss_kwh"], "voltage_error": check.max_voltage_error,
            "ac_v_min_pu": self.served_voltage(label).min(),
            "ac_loading_percent": check.branches["loading_percent"].max(), "ac": dlmp_ieee37.verdict(check, 0),
            "gap": np.nan if wide is None else wide["gap"].max(),
            "phantom_kw": np.nan if wide is None else wide["phantom_kw"].sum(),
            "seconds": sum(clearing.seconds.values()),
        }  # fmt: skip

    def served_voltage(self, label: str) -> pd.Series[Any]:
        """Voltages of the AC power flow where this feeder has limits of its own [p.u.]."""
        table = self.checks[label].voltages
        limited = table["v_min_pu"] >= table["v_min_pu"][table["bus"] != self.network.source_bus].max()
        return table.loc[limited & (table["bus"] != self.network.source_bus), "v_pu"]

    def by_bus(self) -> pd.DataFrame:
        """bus, km, and per flow the price [$/kWh], the AC voltage of its dispatch and the model's error [p.u.]."""
        km, sequence = figures.km_and_sequence(self.network)
        columns = {"bus": self.network.buses["bus"], "km": km}
        for label, clearing in self.clearings.items():
            found = self.checks[label].voltages
            columns[f"price {label}"] = clearing.prices["price"].to_numpy()
            columns[f"ac voltage {label}"] = found["v_pu"].to_numpy()
            columns[f"voltage error {label}"] = (found["model_v_pu"] - found["v_pu"]).to_numpy()
        return pd.DataFrame(columns).iloc[sequence].round(6)

    def dispatch(self) -> pd.DataFrame:
        """order, bus, side and what each flow accepts of it [kW]: only orders that differ."""
        tables = [clearing.dispatch["quantity_kw"].rename(label) for label, clearing in self.clearings.items()]
        frame = next(iter(self.clearings.values())).dispatch[["order", "bus", "side"]]
        table = pd.concat([frame, *tables], axis=1)
        return table[np.ptp(table[list(FLOWS)].to_numpy(), axis=1) > 0.05].round(2)


def text(feeders: Sequence[Feeder]) -> str:
    """A page to read."""
    pages = [
        "# The same bids through six physics",
        "Prices in $/kWh. `settled_welfare`: welfare less the wholesale cost of what the source must supply beyond the "
        "model's; only where `ac` holds could that dispatch run. `price_error`: from the prices of flow ac. "
        "`voltage_error`: of the model, against the AC power flow of its own dispatch.",
    ]
    for feeder in feeders:
        pages += [f"## {feeder.name}", _block(feeder.comparison())]
        pages += ["Orders that differ, kW:", _block(feeder.dispatch())]
    return "\n\n".join([*pages, ""])


def _block(table: pd.DataFrame) -> str:
    tiny: dict[str | int, Any] = dict.fromkeys(("voltage_error", "gap", "phantom_kw"), "{:.0e}".format)
    # Empty rather than NaN: a flow without voltages has no error in them.
    return f"```text\n{table.to_string(index=False, na_rep='', formatters=tiny)}\n```"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/physics_compare"), help="folder for tables and pictures")
    parser.add_argument("--feeders", default=",".join(FEEDERS), help=f"some of {', '.join(FEEDERS)}")
    chosen = parser.parse_args(arguments)
    names = chosen.feeders.split(",")
    if not set(names) <= set(FEEDERS):
        parser.error(f"--feeders takes {', '.join(FEEDERS)}; got {chosen.feeders!r}")
    try:
        feeders = [Feeder.run(name) for name in names]
        tables = {f"{f.name}_{kind}": getattr(f, kind)() for f in feeders for kind in ("comparison", "by_bus",
                                                                                       "dispatch")}  # fmt: skip
        pictures = {"prices": figures.compare_prices(feeders), "voltages": figures.compare_voltages(feeders)}
        write_folder(chosen.out, lambda folder: figures.leave(folder, tables, pictures, text(feeders)))
    except mo.MktoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text(feeders))
    print(f"left in {chosen.out}/: {', '.join(sorted(file.name for file in chosen.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
