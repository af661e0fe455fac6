"""Pictures of `dlmp_ieee37.py` and `physics_compare.py` (no script)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.collections import LineCollection

import mktopt as mo
from mktopt.clearing.drawing import colour_span, pyplot
from mktopt.clearing.layout import RED, distances, positions, sequence
from mktopt.clearing.part_plots import PART_COLOURS
from mktopt.networks.files import write_folder

FloatArray = npt.NDArray[np.float64]
DPI = 150
PRICE = "price [\\$/kWh]"


def leave(
    folder: Path, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Any], text: str, dpi: int = DPI
) -> None:
    """Writes tables as CSV, figures as PNG (and closes them) and the page as summary.md."""
    for name, table in tables.items():
        folder.joinpath(f"{name}.csv").write_text(table.to_csv(index=False), encoding="utf-8")
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=dpi)
        pyplot().close(figure)
    folder.joinpath("summary.md").write_text(text, encoding="utf-8")


def leave_study(study: Any, out: Path, dpi: int = DPI) -> int:
    """Writes tables, pictures and the page to `out` and prints the page; 1 where a claim fails, else 0.

    study: has tables(), figures(), text(), and `claims` with columns claim and verdict ('holds' where it does).
    """
    tables, figures, text = study.tables(), study.figures(), study.text()
    write_folder(out, lambda folder: leave(folder, tables, figures, text, dpi))
    print(text)
    print(f"left in {out}/: {', '.join(sorted(file.name for file in out.iterdir()))}")
    failed = study.claims.loc[study.claims["verdict"] != "holds", "claim"]
    for claim in failed:
        print(f"fails: {claim}", file=sys.stderr)
    return 1 if len(failed) else 0


def km_and_sequence(network: mo.Network) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """(way from the source to each bus, positions of the buses from the source outwards)."""
    return distances(network)[0], sequence(network)


# -- use case 3 -----------------------------------------------------------------------------------------------------


def dlmp_map(clearing: mo.Clearing, title: str) -> Any:
    """Fig. 10: DLMPs on the feeder."""
    ax = clearing.plot.network()
    ax.set_title(f"{title}\n{clearing.mechanism} market, {clearing.flow} flow", fontsize=11)
    return ax.figure


def part_maps(clearing: mo.Clearing, linear: mo.Clearing, period: int, hour: int) -> Any:
    """The prices of `linear` in `period`, without losses and voltages, and the parts of those with them: four maps."""
    figure, axes = pyplot().subplots(1, 4, figsize=(15.0, 7.4), layout="constrained")
    parts = clearing.price_parts
    assumed = linear.prices[linear.prices["period"] == period]["price"]
    panels = [(linear, period, assumed, f"price, flow {linear.flow} (the paper's H)")]
    panels += [(clearing, 0, parts[name], f"{name} part, flow {clearing.flow}")
               for name in ("loss", "congestion", "voltage")]  # fmt: skip
    for ax, (cleared, number, values, title) in zip(axes, panels, strict=True):
        _small_map(ax, cleared, number, values.to_numpy(float))
        ax.set_title(title, fontsize=10.5)
    figure.suptitle(f"{clearing.network.name}, hour {hour}: what the DLMPs are made of (red: branch at its limit; "
                    "each map has its own colours)", fontsize=12)  # fmt: skip
    return figure


def _small_map(ax: Any, clearing: mo.Clearing, period: int, values: FloatArray) -> None:
    network = clearing.network
    at, _ = positions(network)
    ends = np.stack([at[network.from_index], at[network.to_index]], axis=1)
    flows = clearing.flows[clearing.flows["period"] == period]
    full = flows["loading_percent"].to_numpy(float) >= 100.0 - 1e-4
    for which, colour, width in ((~full, "0.6", 1.2), (full, RED, 3.0)):
        ax.add_collection(LineCollection(list(ends[which]), colors=colour, linewidths=width, zorder=1))
    dots = ax.scatter(*at.T, c=values, s=52, cmap="viridis", edgecolor="0.35", lw=0.5, zorder=3, **colour_span(values))
    bar = ax.figure.colorbar(dots, ax=ax, location="bottom", shrink=0.85, pad=0.02, label="\\$/kWh")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=5)
    names = network.buses["bus"].to_numpy()
    for k in {network.source_index, int(np.argmax(values))}:
        ax.annotate(str(names[k]), at[k], xytext=(6, -1), textcoords="offset points", fontsize=8, va="center",
                    color="0.25")  # fmt: skip
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.margins(0.1, 0.05)


def part_profile(clearing: mo.Clearing, end: str, hour: int) -> Any:
    """Parts of the prices of all buses, and along the way to the farthest one."""
    figure, (top, bottom) = pyplot().subplots(2, 1, figsize=(10.5, 8.6), layout="constrained", height_ratios=(1, 0.9))
    clearing.plot.price_parts(top)
    top.set_title(f"{clearing.network.name}, hour {hour}: DLMPs in parts, bus by bus ({clearing.flow})", fontsize=11)
    clearing.plot.price_parts(bottom, to=end)
    bottom.set_title(f"the same along the way to bus {end}", fontsize=11)
    return figure


def parts_by_hour(parts: pd.DataFrame, hours: pd.DataFrame, bus: str, shown: Sequence[str]) -> Any:
    """The parts of one bus's price over the day, with the price that the paper's H finds."""
    figure, ax = pyplot().subplots(figsize=(9.5, 4.6), layout="constrained")
    at, low = np.arange(len(hours)), np.zeros(len(hours))
    for name in shown:
        value = parts[name].to_numpy(float)
        ax.bar(at, value, bottom=low, width=0.8, color=PART_COLOURS[name], label=name)
        low = low + value
    ax.stairs(parts["paper_price"], np.arange(len(hours) + 1) - 0.5, baseline=None, color="black", lw=1.5, ls="--",
              label="price, flow ptdf (the paper's H)")  # fmt: skip
    ax.set_xticks(at, hours["hour"])
    ax.set_xlabel("hour of the day")
    ax.set_ylabel(PRICE)
    ax.set_title(f"price in parts at bus {bus}, hour by hour", fontsize=11)
    ax.margins(x=0.02)
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8.5, loc="upper left")
    return figure


def price_map(clearing: mo.Clearing, hours: Sequence[int]) -> Any:
    """DLMPs of all buses and hours."""
    figure, ax = pyplot().subplots(figsize=(9.5, 8.0), layout="constrained")
    clearing.plot.prices(ax)
    if len(hours) > 1:
        ax.set_xticks(range(len(hours)), hours)
        ax.set_xlabel("hour of the day")
        ax.set_title(f"{clearing.network.name}: DLMPs of all buses and hours, flow {clearing.flow}", fontsize=11)
    return figure


# -- six physics ----------------------------------------------------------------------------------------------------

STYLES: dict[str, dict[str, Any]] = {
    "copperplate": {"color": "0.25", "ls": ":", "lw": 1.8, "zorder": 4},
    "transport": {"color": "#e69f00", "ls": "--", "lw": 1.6, "zorder": 3},
    "lindistflow": {"color": "#2166ac", "ls": "-", "lw": 1.6},
    "distflow": {"color": RED, "ls": "-", "lw": 1.8},
    "distflow exact": {"color": "black", "ls": "none", "marker": "o", "mfc": "none", "ms": 6.5, "mew": 0.9},
    "ac": {"color": "black", "ls": "none", "marker": "x", "ms": 4.5, "mew": 0.9},
}


def compare_prices(feeders: Sequence[Any]) -> Any:
    """Prices along each feeder under all flows; feeders: of `physics_compare.Feeder`."""
    figure, axes = pyplot().subplots(len(feeders), 1, figsize=(10.5, 4.1 * len(feeders)), layout="constrained",
                                     squeeze=False)  # fmt: skip
    for ax, feeder in zip(axes[:, 0], feeders, strict=True):
        table = feeder.by_bus()
        for label in feeder.clearings:
            ax.plot(range(len(table)), table[f"price {label}"], label=label, **STYLES[label])
        _buses_below(ax, table["bus"].tolist())
        ax.set_ylabel(PRICE)
        ax.set_title(f"{feeder.name}: the same bids under six flows", fontsize=11)
        ax.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def compare_voltages(feeders: Sequence[Any]) -> Any:
    """AC voltages of all dispatches with the lower limit, and what the models that have voltages are off by."""
    figure, axes = pyplot().subplots(2, len(feeders), figsize=(7.2 * len(feeders), 8.0), layout="constrained",
                                     squeeze=False)  # fmt: skip
    for (top, bottom), feeder in zip(axes.T, feeders, strict=True):
        table, at = feeder.by_bus(), np.arange(len(feeder.network.buses))
        found, error = table.filter(like="ac voltage"), 1e3 * table.filter(like="voltage error")
        for label in feeder.clearings:
            top.plot(at, table[f"ac voltage {label}"], label=label, **STYLES[label])
            if error[f"voltage error {label}"].notna().any():
                bottom.plot(at, error[f"voltage error {label}"], label=label, **STYLES[label])
        limit = feeder.network.buses.set_index("bus").loc[table["bus"], "v_min_pu"]
        top.step(at, limit, where="mid", color="0.4", lw=1.0, label="lower limit")
        top.set_ylim(found.min().min() - 0.006, found.max().max() + 0.006)
        top.set_title(f"{feeder.name}: AC power flow of each dispatch", fontsize=11)
        top.set_ylabel("voltage [p.u.]")
        bottom.set_title(f"{feeder.name}: voltage of the model less that of the power flow", fontsize=11)
        bottom.set_ylabel("error [0.001 p.u.]")
        for ax in (top, bottom):
            _buses_below(ax, table["bus"].tolist())
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _buses_below(ax: Any, names: Sequence[str]) -> None:
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    ax.set_xlabel("bus (from the source outwards)")
    ax.margins(x=0.015)
    ax.grid(alpha=0.25)
