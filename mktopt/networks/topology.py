"""Graph, spanning tree and linear sensitivities of a network, computed once and cached.

Buses and branches (those in service) are numbered as in `network.buses` and `network.lines`. With incidence A
(buses x branches, +1 at the from-bus, -1 at the to-bus), injections p [kW] and angles theta [rad],

    A f = p,      x_l f_l = theta_i - theta_j - shift_l.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mktopt.errors import FormulationError
from mktopt.networks import sensitivity

if TYPE_CHECKING:
    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# A sparse matrix takes 12 bytes an entry: 1.2 GB.
MAX_SPARSE = 100_000_000


class Topology:
    """What follows from the shape of `network`: trees, loops, flows and voltages per injected kW."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: all but the factors of a solver, which are found anew there."""
        return {name: value for name, value in self.__dict__.items() if name != "dc_solver"}

    # -- graph and tree -------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> Any:
        """The branches in service as a networkx MultiGraph: nodes are bus names, edge keys are branch names.

        Built only when asked for: ten thousand buses take longer here than everything else in this class.
        """
        import networkx as nx

        graph = nx.MultiGraph(name=self.network.name)
        graph.add_nodes_from(self.network.buses["bus"])
        lines = self.network.lines
        graph.add_edges_from(zip(lines["from_bus"], lines["to_bus"], lines["branch"], strict=True))
        return graph

    @property
    def is_radial(self) -> bool:
        """Whether the branches in service form a tree (the network is connected: it was validated)."""
        return self.network.n_branches == self.network.n_buses - 1

    @cached_property
    def _search(self) -> tuple[IntArray, IntArray]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import breadth_first_order

        network = self.network
        n = network.n_buses
        ones = np.ones(network.n_branches)
        graph = coo_array((ones, (network.from_index, network.to_index)), shape=(n, n)).tocsr()
        order, parent = breadth_first_order(graph, network.source_index, directed=False)
        return order.astype(np.int64), np.where(parent < 0, -1, parent).astype(np.int64)

    @property
    def order(self) -> IntArray:
        """Buses from the source outwards, each after its parent, shape (n_buses,)."""
        return self._search[0]

    @property
    def parent(self) -> IntArray:
        """The bus before each bus on its way from the source (-1 for the source), shape (n_buses,).

        In a meshed grid: of a spanning tree with as few branches as possible between each bus and the source.
        """
        return self._search[1]

    @cached_property
    def parent_branch(self) -> IntArray:
        """The tree branch between each bus and its parent (-1 for the source), shape (n_buses,)."""
        start, end = self.network.from_index, self.network.to_index
        down, up = self.parent[end] == start, self.parent[start] == end
        child = np.where(down, end, np.where(up, start, -1))
        branches = np.flatnonzero(child >= 0)[::-1]  # the first of parallel branches is written last and stays
        result = np.full(self.network.n_buses, -1, dtype=np.int64)
        result[child[branches]] = branches
        return result

    @cached_property
    def parent_sign(self) -> FloatArray:
        """+1 where the parent branch points from the parent to the bus, -1 against, 0 for the source, (n_buses,)."""
        if self.network.n_branches == 0:
            return np.zeros(self.network.n_buses)
        sign = np.where(self.network.to_index[self.parent_branch] == np.arange(self.network.n_buses), 1.0, -1.0)
        sign[self.network.source_index] = 0.0
        return sign

    @cached_property
    def depth(self) -> IntArray:
        """Number of tree branches between the source and each bus, shape (n_buses,)."""
        # Pointer jumping: after k rounds every bus knows its ancestor 2^k steps up.
        root = self.network.source_index
        above = np.where(self.parent < 0, root, self.parent)
        depth = np.ones(self.network.n_buses, dtype=np.int64)
        depth[root] = 0
        while np.any(above != root):
            depth += depth[above]
            above = above[above]
        return depth

    def find_loop(self) -> list[str]:
        """Names of the branches of one loop, in sequence; empty for a radial grid."""
        rest = np.ones(self.network.n_branches, dtype=bool)
        rest[self.parent_branch[self.parent_branch >= 0]] = False
        extra = np.flatnonzero(rest)
        return self._loop_of(int(extra[0])) if len(extra) else []

    def _loop_of(self, branch: int) -> list[str]:
        """The loop that `branch`, which is not in the spanning tree, closes with it."""
        left, right = int(self.network.from_index[branch]), int(self.network.to_index[branch])
        ahead: list[int] = []
        back: list[int] = []
        while left != right:
            if self.depth[left] >= self.depth[right]:
                ahead.append(int(self.parent_branch[left]))
                left = int(self.parent[left])
            else:
                back.append(int(self.parent_branch[right]))
                right = int(self.parent[right])
        names = self.network.lines["branch"].to_numpy()
        return [str(names[position]) for position in [branch, *back, *reversed(ahead)]]

    def refuse_loops(self, what: str) -> None:
        """Raises FormulationError that names a loop, where the grid has one and `what` needs a tree."""
        if not self.is_radial:
            raise FormulationError(
                f"{what} needs a radial grid, but network {self.network.name!r} has a loop: "
                f"{' - '.join(self.find_loop())} (open one of these branches, or use a flow for meshed grids)"
            )

    # -- matrices -------------------------------------------------------------------------------------------

    @cached_property
    def incidence(self) -> Any:
        """A: +1 at the from-bus, -1 at the to-bus of each branch; scipy csr, shape (n_buses, n_branches)."""
        from scipy.sparse import csr_array

        network = self.network
        m = network.n_branches
        rows = np.r_[network.from_index, network.to_index]
        values = np.r_[np.ones(m), -np.ones(m)]
        return csr_array((values, (rows, np.tile(np.arange(m), 2))), shape=(network.n_buses, m))

    @cached_property
    def subtree(self) -> Any:
        """T: 1 where column bus b lies below or at row bus c in the tree; scipy csr, shape (n_buses, n_buses).

        T p is the injection of each subtree. A radial grid with buses of depth d_b has sum (d_b + 1) entries.
        """
        from scipy.sparse import csr_array

        n = self.network.n_buses
        entries = int(self.depth.sum()) + n
        if entries > MAX_SPARSE:
            raise FormulationError(
                f"the path matrix of {self.network.name!r} would have {entries:,} entries (limit {MAX_SPARSE:,}); "
                "use a flow that keeps the branch flows as variables (transport, dc, lindistflow)"
            )
        rows, columns = [np.arange(n)], [np.arange(n)]
        above, bus = np.arange(n), np.arange(n)
        while True:
            above = self.parent[above]
            bus, above = bus[above >= 0], above[above >= 0]
            if len(bus) == 0:
                break
            rows.append(above)
            columns.append(bus)
        row, column = np.concatenate(rows), np.concatenate(columns)
        return csr_array((np.ones(len(row)), (row, column)), shape=(n, n))

    @cached_property
    def ptdf(self) -> Any:
        """H: flow of each branch per kW injected at each bus and taken at the source, shape (n_branches, n_buses).

        f = H p + shift_flow_kw for 1'p = 0. Scipy csr for a radial grid (then -1, 0 or +1), else a numpy array.
        Raises FormulationError where a loop of branches without reactance leaves flows open, or for a meshed grid
        too large for a dense matrix.
        """
        return sensitivity.ptdf(self)

    @property
    def other_buses(self) -> IntArray:
        """All buses but the source, shape (n_buses - 1,)."""
        return np.delete(np.arange(self.network.n_buses), self.network.source_index)

    @cached_property
    def dc_solver(self) -> sensitivity.Solve:
        """Solver of the DC equations with the source left out, factorised once (see `sensitivity.dc_solver`)."""
        return sensitivity.dc_solver(self)

    @cached_property
    def shift_flow_kw(self) -> FloatArray:
        """Flow of each branch that the phase shifters drive at zero injection [kW], shape (n_branches,)."""
        return sensitivity.shift_flow_kw(self)

    # -- outages --------------------------------------------------------------------------------------------

    @cached_property
    def bridge_mask(self) -> BoolArray:
        """Whether the grid falls apart without each branch, shape (n_branches,)."""
        if self.is_radial:
            return np.ones(self.network.n_branches, dtype=bool)
        import networkx as nx

        pairs = {frozenset(pair) for pair in nx.bridges(self.graph)}
        lines = self.network.lines
        ends = zip(lines["from_bus"], lines["to_bus"], strict=True)
        return np.fromiter((frozenset(pair) in pairs for pair in ends), bool, len(lines))

    @property
    def bridges(self) -> list[str]:
        """Names of the branches without which the grid falls apart."""
        return [str(name) for name in self.network.lines["branch"][self.bridge_mask]]

    @cached_property
    def lodf(self) -> FloatArray:
        """L: change of the flow of branch l per kW that branch k carried before its outage, (n_branches, n_branches).

            L_lk = (H_l a_k) / (1 - H_k a_k),    L_kk = -1,    a_k = column k of A.

        The column of a bridge is NaN: without it the grid falls apart and no flow replaces the lost one.
        """
        return sensitivity.lodf(self)

    # -- voltages -------------------------------------------------------------------------------------------

    @cached_property
    def lindistflow(self) -> sensitivity.Sensitivity:
        """R, X and gain of the linear DistFlow equations of a radial grid:

            v2 = gain v2_source + R p + X q,
            R_jb = sum over the branches l that the ways to j and to b share of 2 r_l gain_j / gain_l

        p, q: injections [kW, kvar], shape (n_buses,); v2: squared voltages [p.u.]; gain_j: product of the squared
        ratios on the way from the source to j; gain_l: of those before the impedance of l; R, X: shape (n_buses,
        n_buses). Injections are constant here: charging and shunts enter through p and q.
        Reference: Baran and Wu, IEEE Trans. Power Delivery 4 (1989).
        """
        return sensitivity.lindistflow(self)

    @cached_property
    def voltage_gain(self) -> FloatArray:
        """Squared voltage of each bus per squared voltage of the source at no load, shape (n_buses,).

        The product of the squared ratios on the tree path (of their inverses against a branch's direction).
        """
        n = self.network.n_buses
        if n == 1:
            return np.ones(1)
        step = 2.0 * np.log(self.network.lines["ratio"].to_numpy())[self.parent_branch] * self.parent_sign
        above = np.where(self.parent < 0, self.network.source_index, self.parent)
        root = self.network.source_index
        total = step
        while np.any(above != root):
            total = total + total[above]
            above = above[above]
        return np.exp(total)

    @property
    def no_load_v_pu(self) -> FloatArray:
        """Voltage of each bus at no load [p.u.], along the spanning tree; a safe start of a power flow, (n_buses,)."""
        return np.asarray(self.network.source_v_pu * np.sqrt(self.voltage_gain))
