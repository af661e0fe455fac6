"""Where to draw the buses of a network, and where to put their names so that they do not cover each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.errors import unknown_name
from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# A force-directed drawing of more buses than this takes too long and shows a ball of wool.
MOST_FORCED = 400
RED = "#c1121f"
_DIRECTIONS = np.array([(1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=float)


def positions(network: Network) -> tuple[FloatArray, bool]:
    """(x and y of each bus, shape (n_buses, 2); whether they are the network's own coordinates).

    Where a bus has no coordinates the whole grid gets a drawing of its own: a tree where it is radial or large, a
    force-directed one where it is meshed.
    """
    own = network.buses[["x", "y"]].to_numpy(float)
    if np.isfinite(own).all() and (network.n_buses == 1 or np.ptp(own, axis=0).max() > 0):
        return own, True
    if network.topology.is_radial or network.n_buses > MOST_FORCED:
        return tree_positions(network), False
    import networkx as nx

    found = nx.kamada_kawai_layout(nx.Graph(network.topology.graph))
    return np.array([found[bus] for bus in network.buses["bus"]], dtype=float), False


def tree_positions(network: Network) -> FloatArray:
    """x: branches between source and bus; y: such that no two branches of the tree cross, shape (n_buses, 2).

    Every leaf gets a line of its own; a bus stands at the middle of its children, and the child with the largest
    subtree is drawn first, which keeps the trunk on one side.
    """
    topology, n = network.topology, network.n_buses
    order = topology.order
    children, size = _children(network)
    y = np.zeros(n)
    stack, leaf = [network.source_index], 0
    while stack:
        bus = stack.pop()
        stack += sorted(children[bus], key=lambda child: (int(size[child]), child))
        if not children[bus]:
            y[bus], leaf = -leaf, leaf + 1
    for bus in order[::-1].tolist():
        if children[bus]:
            inner = y[children[bus]]
            y[bus] = 0.5 * (inner.min() + inner.max())
    return np.column_stack([topology.depth.astype(float), y])


def _children(network: Network) -> tuple[list[list[int]], IntArray]:
    """(children of each bus in the tree, number of buses behind it and itself, shape (n_buses,))."""
    order, parent = network.topology.order, network.topology.parent
    size = np.ones(network.n_buses, dtype=np.int64)
    children: list[list[int]] = [[] for _ in range(network.n_buses)]
    for bus in order[:0:-1].tolist():
        size[parent[bus]] += size[bus]
        children[parent[bus]].append(bus)
    return children, size


def sequence(network: Network) -> IntArray:
    """Positions of all buses from the source outwards, shape (n_buses,).

    In a radial grid each lateral is in one piece, short ones before the trunk goes on; in a meshed one the buses with
    fewer branches to the source come first.
    """
    if not network.topology.is_radial:
        return network.topology.order
    children, size = _children(network)
    found, stack = [], [network.source_index]
    while stack:
        bus = stack.pop()
        found.append(bus)
        stack += sorted(children[bus], key=lambda child: (-int(size[child]), -child))
    return np.array(found, dtype=np.int64)


def way_to(network: Network, bus: str) -> IntArray:
    """Positions of the buses from the source to `bus` along the tree; raises UnknownNameError for an unknown one."""
    if bus not in network.bus_index:
        raise unknown_name("bus", bus, network.bus_index)
    found = [network.bus_index[bus]]
    while found[-1] != network.source_index:
        found.append(int(network.topology.parent[found[-1]]))
    return np.array(found[::-1], dtype=np.int64)


def distances(network: Network) -> tuple[FloatArray, str]:
    """(way from the source to each bus along the tree, shape (n_buses,); label of the axis).

    In km where branches have a length (transformers and the like count nothing), else in branches.
    """
    topology = network.topology
    length = network.lines["length_km"].to_numpy(float)
    if not np.nansum(length) > 0:
        return topology.depth.astype(float), "branches from the source"
    length = np.nan_to_num(length)
    way = np.zeros(network.n_buses)
    for bus in topology.order[1:].tolist():
        way[bus] = way[topology.parent[bus]] + length[topology.parent_branch[bus]]
    return way, "distance from the source along the feeder [km]"


def place_names(
    ax: Any, names: list[str], at: FloatArray, ends: FloatArray, size: float, reach: FloatArray, bold: int = 0,
    colour: str = RED,
) -> None:
    """Writes `names` beside the points `at`, each in the direction where it covers least; the first have the choice.

    at: shape (n, 2) in data units; ends: branches to keep clear of, shape (m, 2, 2); size: of the font [pt];
    reach: distance between a point and its name [pt], shape (n,); bold: how many of the first are in bold,
    in `colour`.
    The figure is laid out first, so that what is weighed is what will be seen.
    """
    ax.figure.draw_without_rendering()
    pixel = ax.figure.dpi / 72.0
    points = ax.transData.transform(at)
    wires = ax.transData.transform(ends.reshape(-1, 2)).reshape(-1, 2, 2)
    along = np.linspace(0.0, 1.0, 150)[None, :, None]
    dots = (wires[:, :1] * (1 - along) + wires[:, 1:] * along).reshape(-1, 2)
    taken: list[FloatArray] = []
    for name, point, away in zip(names, points, reach, strict=True):
        half = np.array([(0.31 if len(taken) >= bold else 0.35) * size * len(name), 0.55 * size]) * pixel
        best, least = _DIRECTIONS[0], np.inf
        for rank, direction in enumerate(_DIRECTIONS):
            middle = point + direction * (half + away * pixel * (0.75 if direction.all() else 1.0))
            box = np.array([middle - half, middle + half])
            cost = 0.01 * rank + min(4.0, 0.4 * _inside(dots, box, 0.0)) + 5.0 * _inside(points, box, 2.0 * pixel)
            cost += 10.0 * sum(bool((box[0] < other[1]).all() and (other[0] < box[1]).all()) for other in taken)
            if cost < least:
                best, least, chosen = direction, cost, box
        taken.append(chosen)
        shift = best * away * (0.75 if best.all() else 1.0)
        ax.annotate(
            name, at[len(taken) - 1], xytext=tuple(shift), textcoords="offset points", fontsize=size,
            color=colour if len(taken) <= bold else "0.25", weight="bold" if len(taken) <= bold else "normal",
            ha=("right", "center", "left")[int(best[0]) + 1], va=("top", "center", "bottom")[int(best[1]) + 1],
            zorder=6, annotation_clip=True,
        )  # fmt: skip


def _inside(points: FloatArray, box: FloatArray, margin: float) -> int:
    return int(((points > box[0] - margin) & (points < box[1] + margin)).all(axis=1).sum())
