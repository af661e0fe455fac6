"""Pictures of `coalition_losses.py` (no script)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import mktopt as mo
from mktopt.clearing.drawing import pyplot

NAMES = {
    "ad_hoc": "ad hoc", "self_interested": "self-interested", "cooperative": "cooperative", "integrated": "integrated",
}  # fmt: skip
STYLES: dict[str, dict[str, Any]] = {
    "ad_hoc": {"color": "#e69f00", "marker": "o"},
    "self_interested": {"color": "#b2182b", "marker": "^"},
    "cooperative": {"color": "#2166ac", "marker": "s"},
    "integrated": {"color": "0.25", "marker": "x"},
}


def losses(found: pd.DataFrame, cost: pd.DataFrame, poster: pd.DataFrame, densities: Sequence[str]) -> Any:
    """Losses by density for each area beside the poster's, and what they cost; found, cost: `coalition_verdicts.means`
    of loss_percent and cost_change."""
    areas = sorted(found["area_km"].unique())
    figure, axes = pyplot().subplots(2, len(areas) + 1, figsize=(4.6 * (len(areas) + 1), 8.2), layout="constrained",
                                     squeeze=False)  # fmt: skip
    for (top, bottom), area in zip(axes.T, areas, strict=False):
        _lines(top, found[found["area_km"] == area], densities)
        _lines(bottom, cost[cost["area_km"] == area], densities)
        top.set_title(f"losses, {area:g} km x {area:g} km", fontsize=11)
        bottom.set_title(f"resource cost, {area:g} km x {area:g} km", fontsize=11)
        top.set_ylabel("percent of demand")
        bottom.set_ylabel("\\$ per MWh of demand, less cooperative at 0")
        bottom.axhline(0.0, color="0.6", lw=0.8)
        top.set_ylim(bottom=0.0)
    published = poster[poster["area_km"] == poster["area_km"].min()].rename(columns={"loss": "mean"})
    if len(published):
        _lines(axes[0, -1], published.assign(error=np.nan), densities)
        axes[0, -1].set_title("the poster's losses, 1 km x 1 km", fontsize=11)
        axes[0, -1].set_ylabel("as printed, no unit")
        axes[0, -1].set_ylim(bottom=0.0)
    axes[1, -1].set_axis_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[1, -1].legend(handles, labels, loc="center", frameon=False, fontsize=10, title="mean and standard error")
    return figure


def _lines(ax: Any, found: pd.DataFrame, densities: Sequence[str]) -> None:
    for k, (behaviour, style) in enumerate(STYLES.items()):
        line = found[found["behaviour"] == behaviour].set_index("density").reindex(list(densities))
        at = np.arange(len(densities)) + 0.04 * (k - 1.5)  # side by side, so that error bars can be told apart
        ax.errorbar(at, line["mean"], yerr=line["error"], label=NAMES[behaviour], capsize=3, lw=1.5, ms=6,
                    mfc="none", **style)  # fmt: skip
    ax.set_xticks(range(len(densities)), densities)
    ax.set_xlabel("edge density of private wires")
    ax.grid(axis="y", alpha=0.25)
    ax.margins(x=0.06)


def trades(clearings: Sequence[mo.Clearing], size: tuple[float, float] = (15.0, 11.0)) -> Any:
    """The trades of one case in all behaviours, a panel each."""
    figure, axes = pyplot().subplots(2, 2, figsize=size, layout="constrained")
    legend: dict[str, Any] = {}
    for ax, clearing in zip(axes.flat, clearings, strict=True):
        clearing.plot.trades(ax=ax)
        ax.get_legend().remove()  # one for all, without the counts of wires
        handles, labels = ax.get_legend_handles_labels()
        legend |= {label.split(" (", 1)[0]: handle for handle, label in zip(handles, labels, strict=True)}
        found = clearing.coalition
        assert found is not None
        ax.set_title(f"{NAMES[found.behaviour]}: resource cost {found.resource_cost:.3f} \\$, main grid "
                     f"{found.import_kwh - found.export_kwh:.1f} kWh,\nlosses {found.public_loss_kwh:.2f} kWh public, "
                     f"{found.private_loss_kwh:.2f} kWh private", fontsize=11)  # fmt: skip
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False)
    return figure
