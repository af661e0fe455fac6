"""Voltages as a picture: along the feeder by distance from the source, or bus by bus, between their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.drawing import BID, MOST_NAMED
from mktopt.clearing.layout import RED, distances, sequence

if TYPE_CHECKING:
    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]

WIRE = "0.55"
# A voltage this near to a limit is at it but for rounding [p.u.].
AT_LIMIT = 1e-5
# Limits farther than this from every voltage are told in words instead of drawn [p.u.].
FAR = 0.12


def draw_voltages(ax: Any, network: Network, v_pu: FloatArray) -> None:
    """Draws the voltages of one period, shape (n_buses,) [p.u.], with the limits that are near; those at one in red."""
    radial = network.topology.is_radial and network.n_buses > 1
    if radial:
        where, label = distances(network)
        _wires(ax, network, np.column_stack([where, v_pu]))
    else:
        at = sequence(network)
        where, label = np.empty(len(at)), "buses, from the source outwards"
        where[at] = np.arange(len(at))
        if len(at) <= MOST_NAMED:
            names = network.buses["bus"].to_numpy()[at]
            ax.set_xticks(range(len(at)), names, rotation=90 if len(at) > 12 else 0, fontsize=8)
            label = "bus (from the source outwards)"
    low, high = (network.buses[name].to_numpy(float) for name in ("v_min_pu", "v_max_pu"))
    tight = (v_pu <= low + AT_LIMIT) | (v_pu >= high - AT_LIMIT)
    tight[network.source_index] = False  # what a source holds is no limit that binds
    size = 30 if len(v_pu) <= MOST_NAMED else 6
    ax.scatter(where[~tight], v_pu[~tight], s=size, color=BID, zorder=4, label="bus")
    if tight.any():
        ax.scatter(where[tight], v_pu[tight], s=1.3 * size, color=RED, zorder=5, label="bus at its limit")
    source = network.source_index
    ax.scatter(where[source], v_pu[source], s=2.6 * size, marker="s", facecolor="none", edgecolor="black", lw=1.2,
               zorder=5, label="source")  # fmt: skip
    others = np.arange(len(v_pu)) != source if len(v_pu) > 1 else np.array([True])
    _limits(ax, *(values[others] for values in (where, v_pu, low, high)))
    ax.set_xlabel(label)
    ax.set_ylabel("voltage [p.u.]")
    ax.margins(y=0.08)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="both" if radial else "y", alpha=0.25)
    ax.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _wires(ax: Any, network: Network, points: FloatArray) -> None:
    from matplotlib.collections import LineCollection

    ends = np.stack([points[network.from_index], points[network.to_index]], axis=1)
    ax.add_collection(LineCollection(list(ends), colors=WIRE, linewidths=1.0, zorder=1))


def _limits(ax: Any, where: FloatArray, v_pu: FloatArray, low: FloatArray, high: FloatArray) -> None:
    """The limits of the buses, the source's aside: drawn where a voltage is near, else told in the legend."""
    order = np.argsort(where, kind="stable")
    told = []
    for limit, word in ((low, "lower"), (high, "upper")):
        span = f"{limit.min():g}" + (f" to {limit.max():g}" if np.ptp(limit) > 1e-9 else "")
        if not np.abs(limit - v_pu).min() <= FAR:
            told.append(f"{word} limit: {span} (not shown)")
        elif np.ptp(limit) <= 1e-9:
            ax.axhline(limit[0], color=RED, lw=1.1, ls="--", label=f"{word} limit: {span}")
        else:
            ax.plot(where[order], limit[order], color=RED, lw=0, marker="_", ms=7, label=f"{word} limit: {span}")
    for text in told:
        ax.plot([], [], lw=0, label=text)
