"""Linear sensitivities of a grid: flows per injected kW (PTDF), per outage (LODF), and voltages (linear DistFlow).

Everything here takes a `Topology` and is reached through its cached properties. With incidence A, reactance x per
branch, injections p and angles theta,

    A f = p,      x_l f_l = theta_i - theta_j - shift_l,

which is solved as it stands, so that branches without reactance (switches) and negative ones need no special case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mktopt.errors import FormulationError
from mktopt.networks import units

if TYPE_CHECKING:
    from mktopt.networks.network import Network
    from mktopt.networks.topology import Topology

FloatArray = npt.NDArray[np.float64]
Solve = Callable[[FloatArray], FloatArray]

# Entries of a dense matrix that we are willing to fill: 25 million are 200 MB.
MAX_DENSE = 25_000_000
# A branch whose own transfer factor is this near to 1 leaves nothing to divide by.
_CLOSE = 1e-9


class Sensitivity(NamedTuple):
    """Voltage sensitivities of a radial grid, see `Topology.lindistflow`: R, X [p.u./kW], gain [-]."""

    R: FloatArray
    X: FloatArray
    gain: FloatArray


def _refuse_size(network: Network, what: str, rows: int, columns: int, flow: str) -> None:
    if rows * columns > MAX_DENSE:
        raise FormulationError(
            f"{what} of {network.name!r} would have {rows:,} x {columns:,} entries (limit {MAX_DENSE:,}); "
            f"use flow {flow!r}, which needs no dense matrix"
        )


def ptdf(topology: Topology) -> Any:
    """H of `Topology.ptdf`: sparse for a radial grid, dense for a meshed one."""
    network = topology.network
    n, m = network.n_buses, network.n_branches
    others = topology.other_buses
    if topology.is_radial:
        from scipy.sparse import csr_array

        entries = (-topology.parent_sign[others], (topology.parent_branch[others], others))
        return csr_array(entries, shape=(m, n)) @ topology.subtree
    _refuse_size(network, "the PTDF matrix", m, n, "dc")
    rhs = np.zeros((m + n - 1, n - 1))
    rhs[m + np.arange(n - 1), np.arange(n - 1)] = 1.0
    matrix = np.zeros((m, n))
    matrix[:, others] = topology.dc_solver(rhs)[:m]
    matrix[np.abs(matrix) < 1e-14] = 0.0
    return matrix


def shift_flow_kw(topology: Topology) -> FloatArray:
    """Flows of `Topology.shift_flow_kw`."""
    network = topology.network
    shift = units.shift_rad(network)
    if topology.is_radial or not shift.any():
        return np.zeros(network.n_branches)
    return topology.dc_solver(np.r_[-shift, np.zeros(network.n_buses - 1)])[: network.n_branches]


def dc_solver(topology: Topology) -> Solve:
    """Solves [X, -A'; A, 0] [f; theta] = rhs, the source bus left out; X may hold zeros and negatives."""
    from scipy.sparse import block_array, diags_array
    from scipy.sparse.linalg import splu

    network = topology.network
    refuse_open_loops(network)
    incidence = topology.incidence[topology.other_buses]
    x = units.reactance_per_kw(network)
    scale = float(np.max(np.abs(x), initial=0.0)) or 1.0
    matrix = block_array([[diags_array(x / scale), -incidence.T], [incidence, None]], format="csc")
    m = network.n_branches
    try:
        factors = splu(matrix)
    except RuntimeError:
        raise FormulationError(
            f"the DC flows of {network.name!r} are not determined: the reactances of a loop add up to zero "
            "(look for a series capacitor that cancels a line)"
        ) from None

    def solve(rhs: FloatArray) -> FloatArray:
        scaled = np.array(rhs, dtype=float)
        scaled[:m] /= scale
        return np.asarray(factors.solve(scaled), dtype=float)  # rows from m on are theta / scale

    return solve


def refuse_open_loops(network: Network, among: npt.NDArray[np.bool_] | None = None) -> None:
    """Branches without reactance share a flow in any proportion when they close a loop.

    among: which branches physics binds, bool (n_branches,), all by default. Raises FormulationError naming the loop.
    """
    zero = units.reactance_per_kw(network) == 0
    if among is not None:
        zero &= among
    if zero.sum() < 2:
        return
    import networkx as nx

    ends = zip(network.from_index[zero].tolist(), network.to_index[zero].tolist(), strict=True)
    graph = nx.MultiGraph()
    graph.add_edges_from((a, b, name) for (a, b), name in zip(ends, network.lines["branch"][zero], strict=True))
    try:
        loop = [str(edge[2]) for edge in nx.find_cycle(graph)]
    except nx.NetworkXNoCycle:
        return
    raise FormulationError(
        f"the DC flows of {network.name!r} are not determined: branches without reactance form a loop: "
        f"{' - '.join(loop)} (give one of them a reactance, or take it out of service)"
    )


def lodf(topology: Topology) -> FloatArray:
    """L of `Topology.lodf`."""
    network = topology.network
    m = network.n_branches
    _refuse_size(network, "the LODF matrix", m, m, "dc")
    if topology.is_radial:
        return np.full((m, m), np.nan)
    transfer = np.asarray(topology.incidence.T.dot(topology.ptdf.T)).T
    left = 1.0 - np.diag(transfer)
    lost = topology.bridge_mask
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = np.asarray(transfer / left, dtype=float)
    matrix[:, lost] = np.nan
    for branch in np.flatnonzero(~lost & (np.abs(left) < _CLOSE)):
        matrix[:, branch] = _outage_column(topology, int(branch))
    matrix[np.arange(m), np.arange(m)] = np.where(lost, np.nan, -1.0)
    return matrix


def _outage_column(topology: Topology, branch: int) -> FloatArray:
    """Column of the LODF from the grid without `branch`; needed where the branch takes all of a transfer although
    other ways exist, because it has no reactance and they do."""
    network = topology.network
    others = np.arange(network.n_branches) != branch
    rest = network.replace(branches=network.lines[others])
    column = np.zeros(network.n_branches)
    column[others] = rest.topology.ptdf @ topology.incidence[:, [branch]].toarray().ravel()
    return column


def lindistflow(topology: Topology) -> Sensitivity:
    """R, X and gain of `Topology.lindistflow`."""
    from scipy.sparse import diags_array

    topology.refuse_loops("the LinDistFlow sensitivity")
    network = topology.network
    n = network.n_buses
    _refuse_size(network, "R (and X)", n, n, "lindistflow")
    gain, others, tree = topology.voltage_gain, topology.other_buses, topology.subtree
    # The flow of a subtree passes z on the side of the from-bus: before the ratio if the branch points away from
    # the source, behind it otherwise.
    before = gain[np.where(topology.parent_sign > 0, topology.parent, np.arange(n))]
    result = []
    for per_kw in (units.resistance_pu_per_kw(network), units.reactance_pu_per_kvar(network)):
        drop = np.zeros(n)
        drop[others] = 2.0 * per_kw[topology.parent_branch[others]] / before[others]
        common = tree.T @ (diags_array(drop) @ tree)
        result.append(gain[:, None] * common.toarray())
    return Sensitivity(result[0], result[1], gain)
