"""Prices in parts as a picture: stacked bars, bus by bus along the feeder, or a stacked profile of one way along it.

Parts above zero are stacked upwards from it, parts below zero downwards, so that the price is the height of the one
pile less the depth of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.drawing import MOST_NAMED
from mktopt.clearing.layout import RED, distances, sequence, way_to
from mktopt.clearing.price_parts import PARTS

if TYPE_CHECKING:
    import pandas as pd

    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PART_COLOURS = {
    "energy": "#bdbdbd", "loss": "#e69f00", "congestion": RED, "voltage": "#4393c3", "security": "#762a83",
    "reactive": "#5aae61", "custom": "#8c510a", "unassigned": "#404040",
}  # fmt: skip
# Parts that nowhere reach this share of the greatest price are left out of the picture.
LEAST_SHOWN = 1e-5


def draw_parts(ax: Any, network: Network, parts: pd.DataFrame, to: str | None) -> None:
    """Draws the rows of `price_parts` of one period, a row per bus in the sequence of the network's buses.

    to: None for all buses in their `sequence`; a bus for the way from the source to it, by
    distance. Raises UnknownNameError for a bus that is not there.
    """
    if to is None:
        at = sequence(network)
        where = np.arange(len(at), dtype=float)
        _name_axis(ax, network, at)
    else:
        at = way_to(network, to)
        way, label = distances(network)
        where = way[at]
        ax.set_xlabel(f"{label}, up to bus {to}")
    _stack(ax, where, parts.iloc[at], to is None)
    ax.set_ylabel("price [\\$/kWh]")
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)
    ax.margins(x=0.01)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _name_axis(ax: Any, network: Network, at: IntArray) -> None:
    if len(at) <= MOST_NAMED:
        names = network.buses["bus"].to_numpy()[at]
        ax.set_xticks(range(len(at)), names, rotation=90 if len(at) > 12 else 0, fontsize=8)
        ax.set_xlabel("bus (from the source outwards)")
    else:
        ax.set_xlabel("buses, from the source outwards")


def _stack(ax: Any, where: FloatArray, parts: pd.DataFrame, separate: bool) -> None:
    """Piles the parts at the places `where`; separate: as bars, where there are few enough to be told apart."""
    price = parts["price"].to_numpy(float)
    least = LEAST_SHOWN * float(np.nanmax(np.abs(price), initial=0.0))
    up, down = np.zeros(len(parts)), np.zeros(len(parts))
    for name in PARTS:
        value = np.nan_to_num(parts[name].to_numpy(float))
        if not (np.abs(value) > least).any():
            continue
        low = np.where(value >= 0, up, down)
        up, down = up + np.maximum(value, 0.0), down + np.minimum(value, 0.0)
        if separate and len(where) <= MOST_NAMED:
            ax.bar(where, value, bottom=low, width=0.8, color=PART_COLOURS[name], label=name)
        else:
            step = "mid" if separate else None
            ax.fill_between(where, low, low + value, step=step, color=PART_COLOURS[name], lw=0, label=name)
    if separate:
        ax.plot(where, price, ls="none", marker="_" if len(where) <= MOST_NAMED else ",", ms=9, mew=1.6, color="black",
                label="price")  # fmt: skip
    else:
        ax.plot(where, price, color="black", lw=1.2, marker="o", ms=3.5, label="price")
    if (down < -least).any():
        ax.axhline(0.0, color="0.3", lw=0.8)
