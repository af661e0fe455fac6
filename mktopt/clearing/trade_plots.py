"""The picture of trades over private wires: who sends what to whom beside the public grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.drawing import flow_arrows
from mktopt.clearing.layout import place_names

FloatArray = npt.NDArray[np.float64]

PUBLIC, PRIVATE = "0.62", "#7b3294"
# More trades than this have no labels, and wires no bends.
MOST_LABELLED = 40
# How far a private wire bows out beside the straight line, as a share of its length.
_BEND = 0.16
_STEPS = 25
# Share of the greatest trade below which a wire counts as idle.
_IDLE = 1e-4


def draw_trades(ax: Any, ends: FloatArray, kw: FloatArray, private: npt.NDArray[np.bool_]) -> None:
    """Public branches straight and grey, private ones bowed and violet, each as wide as it carries.

    ends: places of the branches (n_branches, 2, 2); kw: their flows; private: which are.
    Idle private wires are dotted where they are few, else left out.
    """
    from matplotlib.collections import LineCollection

    size = np.abs(np.nan_to_num(kw))
    share = size / max(float(size.max(initial=0.0)), 1e-9)
    used, few = share > _IDLE, int(private.sum()) <= MOST_LABELLED
    public = ends[~private]
    colour, thin, wide = (PUBLIC, 0.6, 3.6) if few else ("0.8", 0.3, 1.5)
    ax.add_collection(LineCollection(
        list(public), colors=colour, linewidths=thin + wide * share[~private], capstyle="round", zorder=1
    ))  # fmt: skip
    _explain(ax, "public branch (wider: more kW)", colour)
    if few and len(public) <= 3 * MOST_LABELLED:
        flow_arrows(ax, public, kw[~private], share[~private])
    idle = private & ~used
    if few and idle.any():
        dotted = {"linewidths": 0.9, "linestyles": ":"}
        ax.add_collection(LineCollection([bow(*wire) for wire in ends[idle]], colors=PRIVATE, zorder=1.5, **dotted))
        _explain(ax, "private wire that carries nothing", PRIVATE, linestyle=":", linewidth=0.9)
    busy = np.flatnonzero(private & used)
    if not len(busy):
        return
    lines = [bow(*wire) if few else wire for wire in ends[busy]]
    # among thousands of branches the trades have a scale of their own
    most = 1.0 if few else float(share[busy].max())
    widths = (1.0 if few else 0.3) + (4.0 if few else 2.2) * share[busy] / most
    ax.add_collection(LineCollection(
        lines, colors=PRIVATE, linewidths=widths, alpha=1.0 if few else 0.7, capstyle="round", zorder=2
    ))  # fmt: skip
    scale = "" if few else ", on a scale of its own"
    _explain(ax, f"private wire that carries power ({len(busy)} of {int(private.sum())}{scale})", PRIVATE)
    if few:
        middles = [np.array([line[_STEPS // 2 - 1], line[_STEPS // 2 + 1]]) for line in lines]
        _arrows(ax, middles, kw[busy], share[busy])


def _explain(ax: Any, label: str, colour: str, **style: Any) -> None:
    """An entry of the legend, of a width that can be seen."""
    ax.plot([], [], color=colour, label=label, **{"linewidth": 2.5} | style)


def label_trades(
    ax: Any, at: FloatArray, ends: FloatArray, kw: FloatArray, private: npt.NDArray[np.bool_], names: list[str]
) -> None:
    """Writes the kW of trades, and the names of the buses, where both can be read; the axes' limits must stand.

    names: of all buses, or none of them.
    """
    share = np.abs(np.nan_to_num(kw)) / max(float(np.abs(np.nan_to_num(kw)).max(initial=0.0)), 1e-9)
    busy = np.flatnonzero(private & (share > _IDLE))
    if int(private.sum()) > MOST_LABELLED:
        busy = busy[:0]
    spots = [bow(*ends[k])[_STEPS // 2] for k in busy]
    texts = [f"{abs(kw[k]):,.{1 if abs(kw[k]) >= 0.05 else 2}f} kW" for k in busy]
    where = np.array([*spots, *at[: len(names)]]).reshape(-1, 2)
    curves = np.array([np.stack([line[:-1], line[1:]], axis=1) for line in (bow(*ends[k]) for k in busy)])
    reach = np.repeat([6.0, 8.0], [len(busy), len(names)])
    place_names(ax, [*texts, *names], where, np.concatenate([ends[~private], curves.reshape(-1, 2, 2)]), 8.0, reach,
                len(busy), PRIVATE)  # fmt: skip


def bow(start: FloatArray, end: FloatArray) -> FloatArray:
    """Points of a curve from `start` to `end` that bows out to its left, shape (25, 2)."""
    along = np.linspace(0.0, 1.0, _STEPS)[:, None]
    way = end - start
    aside = _BEND * np.array([-way[1], way[0]])
    return np.asarray((1 - along) * start + along * end + 4.0 * along * (1.0 - along) * aside)


def _arrows(ax: Any, middles: list[FloatArray], kw: FloatArray, share: FloatArray) -> None:
    for (start, end), flow, part in zip(middles, kw.tolist(), share.tolist(), strict=True):
        tail, head = (start, end) if flow > 0 else (end, start)
        ax.annotate("", head, xytext=tail, zorder=3, arrowprops={
            "arrowstyle": "-|>", "color": PRIVATE, "lw": 0.0, "mutation_scale": 14.0 + 12.0 * part,
            "shrinkA": 0, "shrinkB": 0,
        })  # fmt: skip
