"""The demonstration: the default market of ieee34, and use case 1 of OpenGridGym, as tables and pictures in a folder.

Act 1 clears offers at cost, act 2 raised offers against inelastic demand, act 3 the same offers against more and more
flexible demand (see `mktopt.market_power`). What the paper publishes stands beside what we find.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from mktopt.clearing.result import Clearing
from mktopt.clearing.settlement import settle
from mktopt.demo_figures import dispatch_figure, elastic_figure, flexibility_figure
from mktopt.market_power import SHARES, MarketPower, consumer_prices, price_levels, proved
from mktopt.mechanisms import clear
from mktopt.networks.cases import load_case
from mktopt.networks.files import write_folder

SEEDS, FEW_SEEDS = range(60), range(5)
_DPI = 150


def run_demo(
    out: Path, *, seeds: Collection[int] = SEEDS, progress: Callable[[str], None] = print
) -> None:
    """Clears the default market of ieee34 and the three acts of use case 1; leaves tables and pictures in `out`.

    seeds: of the draws of flexible consumers in act 3; progress: called with what is found, some lines at a time.
    Raises SolverError where the proof of a clearing does
    not hold, DataError where `out` cannot be written.
    """
    out = Path(out)
    main = proved(_main_job(), "ieee34")
    progress(main.summary())
    run_use_case(out, seeds=seeds, progress=progress)
    main.save(out / "ieee34")
    write_folder(out, lambda folder: _save(main.plot.network().figure, folder / "ieee34_map.png"))


def run_use_case(
    out: Path, *, seeds: Collection[int] = SEEDS, progress: Callable[[str], None] = print
) -> UseCase:
    """Clears the three acts of use case 1 and leaves tables, pictures and summary.md in `out`.

    seeds: of the draws of flexible consumers in act 3. Raises what `run_demo` raises.
    """
    case = UseCase.run(seeds, progress)

    def fill(folder: Path) -> None:
        for name, table in case.tables().items():
            folder.joinpath(f"{name}.csv").write_text(table.to_csv(index=False), encoding="utf-8")
        for name, figure in case.figures().items():
            _save(figure, folder / f"{name}.png")
        folder.joinpath("summary.md").write_text(case.text(), encoding="utf-8")

    write_folder(out, fill)
    progress(case.text())
    return case


def _main_job() -> Clearing:
    network, orders, *_ = load_case("ieee34")
    assert orders is not None
    return clear("surplus", network, orders)


@dataclass(frozen=True, eq=False)
class UseCase:
    """The three acts cleared. acts: by name; draws: act 3, one row per share and seed ($/kWh)."""

    market: MarketPower
    acts: dict[str, Clearing]
    draws: pd.DataFrame

    TABLES: ClassVar = (
        "figures", "consumer_prices", "price_levels", "supplies", "flows", "flexibility", "flexibility_draws",
    )  # fmt: skip

    @classmethod
    def run(
        cls,
        seeds: Collection[int] = SEEDS,
        progress: Callable[[str], None] = print,
        market: MarketPower | None = None,
    ) -> UseCase:
        """Clears all acts; act 3 at each share of `SHARES` and for each of `seeds`."""
        market = market or MarketPower()
        progress("use case 1 of OpenGridGym: 28 consumers, 5 supplies, prices that leave no money on the table")
        everybody = list(market.consumers.index)
        acts = {
            "act 1": proved(market.clear(raised=False), "act 1"),
            "act 2": proved(market.clear(), "act 2"),
            "act 3": proved(market.clear(flexible=everybody), "act 3, everybody flexible"),
        }
        progress(f"act 3: {', '.join(f'{share:.0%}' for share in SHARES)} flexible, {len(seeds)} draws each")
        return cls(market, acts, market.flexibility(SHARES, seeds))

    # -- tables -------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by file name; prices in cents/kWh, money in $."""
        tables = (
            self.published(), self.consumers(), self.levels(), self.supplies(), self.flows(), self.flexibility(),
            self._draws_in_cents(),
        )  # fmt: skip
        return dict(zip(self.TABLES, tables, strict=True))

    def consumers(self) -> pd.DataFrame:
        """act, bus, quantity_kw, price, nodal_price of every consumer."""
        parts = [consumer_prices(clearing).assign(act=act) for act, clearing in self.acts.items()]
        table = pd.concat(parts, ignore_index=True)
        table[["price", "nodal_price"]] = (100 * table[["price", "nodal_price"]]).round(5)
        return table[["act", "bus", "quantity_kw", "price", "nodal_price"]].round({"quantity_kw": 4})

    def levels(self) -> pd.DataFrame:
        """act, price, consumers, quantity_kw, buses: groups of consumers who pay the same."""
        parts = [price_levels(clearing).assign(act=act) for act, clearing in self.acts.items()]
        table = pd.concat(parts, ignore_index=True)
        table["price"] = (100 * table["price"]).round(4)
        return table[["act", "price", "consumers", "quantity_kw", "buses"]].round({"quantity_kw": 3})

    def supplies(self) -> pd.DataFrame:
        """act, supply, bus, quantity_kw, price, nodal_price, payment, true_cost, reward by (9) with offers at cost."""
        truth = self.market.orders(raised=False)
        costs = truth.select(~truth.is_bid)
        parts = []
        for act, clearing in self.acts.items():
            # bids keep their own curves: a supply's reward does not depend on them
            settled = settle(clearing, clearing.orders.select(clearing.orders.is_bid).merge(costs))
            nodal = clearing.prices.set_index("bus")["price"]
            table = settled.orders[settled.orders["side"] == "offer"].assign(act=act)
            parts.append(table.assign(nodal_price=nodal.loc[table["bus"]].to_numpy()))
        table = pd.concat(parts, ignore_index=True).rename(columns={"order": "supply", "value": "true_cost"})
        table["payment"] = -table["payment"]
        table[["price", "nodal_price"]] *= 100
        columns = ["act", "supply", "bus", "quantity_kw", "price", "nodal_price", "payment", "true_cost", "reward"]
        return table[columns].round(4)

    def flows(self) -> pd.DataFrame:
        """act, branch, p_kw, rating_kva, loading_percent of every branch."""
        rating = self.market.network.lines.set_index("branch")["rating_kva"]
        parts = [clearing.flows.assign(act=act) for act, clearing in self.acts.items()]
        table = pd.concat(parts, ignore_index=True)
        table["rating_kva"] = rating.loc[table["branch"]].to_numpy()
        return table[["act", "branch", "p_kw", "rating_kva", "loading_percent"]].round(3)

    def _draws_in_cents(self) -> pd.DataFrame:
        table = self.draws.copy()
        prices = [name for name in table.columns if name.startswith("mean_")]
        table[prices] = (100 * table[prices]).round(5)
        return table.round({"energy_kwh": 3})

    def flexibility(self) -> pd.DataFrame:
        """Per share: flexible, draws, mean_price with std, lowest, highest over draws; other means; energy_kwh."""
        groups = self._draws_in_cents().groupby("share", as_index=False)
        table = groups.agg(
            flexible=("flexible", "first"),
            draws=("seed", "size"),
            mean_price=("mean_price", "mean"),
            std=("mean_price", lambda draws: draws.std(ddof=1) if len(draws) > 1 else 0.0),
            lowest=("mean_price", "min"),
            highest=("mean_price", "max"),
            mean_price_per_head=("mean_price_per_head", "mean"),
            mean_nodal_price=("mean_nodal_price", "mean"),
            energy_kwh=("energy_kwh", "mean"),
        )
        return table.round(4)

    def published(self) -> pd.DataFrame:
        """figure, published, ours, difference, use: every figure of the paper beside ours."""
        first = 100 * consumer_prices(self.acts["act 1"])["price"]
        levels = self.levels()
        second = levels.loc[levels["act"] == "act 2", "price"].tolist()
        rows: list[tuple[str, float, float, str]] = [
            ("act 1: lowest consumer price", 4.3, float(first.min()), "fitted"),
            ("act 1: highest consumer price", 4.3, float(first.max()), "fitted"),
        ]
        for number, (paper, ours) in enumerate(zip((4.6, 4.8, 6.9), second, strict=True), 1):
            rows.append((f"act 2: price level {number}", paper, ours, "fitted"))
        for share, paper, use in ((0.08, 6.64, "fitted"), (0.75, 5.28, "prediction")):
            row = self.flexibility().query("share == @share").iloc[0]
            what = f"act 3: mean price, {share:.0%} flexible"
            rows.append((f"{what}, by kWh", paper, float(row["mean_price"]), use))
            rows.append((f"{what}, by head", paper, float(row["mean_price_per_head"]), "other reading"))
        table = pd.DataFrame(rows, columns=["figure", "published", "ours", "use"])
        table["ours"] = table["ours"].round(4)
        table.insert(3, "difference", (table["ours"] - table["published"]).round(4))
        return table

    # -- pictures and words ---------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """The paper's figures 5 to 7 and the feeder in act 2, by file name."""
        return {
            "act2_map": self.acts["act 2"].plot.network().figure,
            "fig5_dispatch": dispatch_figure(self.acts["act 1"], self.acts["act 2"]),
            "fig6_elastic": elastic_figure(self.acts["act 2"], self.acts["act 3"]),
            "fig7_flexibility": flexibility_figure(self.flexibility()),
        }

    def text(self) -> str:
        """A page to read: the paper's figures beside ours, prices, supplies, flexibility, proof."""
        balance = {act: clearing.settlement.budget for act, clearing in self.acts.items()}
        return "\n\n".join([
            "# Use case 1 of OpenGridGym on ieee34: who pays what when two branches are full",
            "Prices in cents/kWh, quantities in kW. Consumers pay what suppliers receive (`budget_balanced`, "
            "eq. 6-8); nodal prices stand beside. What the paper does not publish is fitted to its figures, but for "
            "the mean at 75 %, which is a prediction. `mktopt/market_power.toml` has the parameters.",
            "## The paper's figures and ours", _block(self.published()),
            "## Who pays how much", _block(self.levels()),
            "## Supplies (reward: payment minus true cost, $/h)", _block(self.supplies()),
            "## Flexible demand", _block(self.flexibility()),
            "Consumers before the full branches pay more when others are flexible: there is less congestion rent to "
            "hand back to them.",
            "## Proof",
            "\n".join(f"- {act}: {clearing.certificate}; money left on the table {balance[act]:.1e} $/h"
                      for act, clearing in self.acts.items()),
            "",
        ])  # fmt: skip


def _block(table: pd.DataFrame) -> str:
    return f"```text\n{table.to_string(index=False)}\n```"


def _save(figure: Any, path: Path) -> None:
    from mktopt.clearing.drawing import pyplot

    figure.savefig(path, dpi=_DPI)
    pyplot().close(figure)
