"""The curved parts of a program under other rows and beside more columns: for programs made from programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers.curved import Logs, Quadratics, Remainder
from mktopt.solvers.program import Array, Program


def carried(program: Program, source: Array, more: int = 0) -> dict[str, Any]:
    """Fields quadratics, logs and remainder of a program whose row i has the curved part of row source[i].

    source: int (m',), -1 for a linear row; a row of `program` may be taken several times or not at all. more: number of
    columns added behind those of `program`. What the objective held is left out.
    """
    source = np.asarray(source, dtype=np.int64)
    fields: dict[str, Any] = {"quadratics": None, "logs": None, "remainder": None}
    if program.quadratics is not None:
        q = program.quadratics
        row, take = _spread(q.row, source)
        fields["quadratics"] = Quadratics(row, q.first[take], q.second[take], q.coef[take]) if len(row) else None
    if program.logs is not None:
        g = program.logs
        order = np.argsort(g.row, kind="stable")
        row, take = _spread(g.row[order], source)
        take = order[take]
        fields["logs"] = Logs(row, g.coef[take], _wider(g.M[take], more), g.offset[take]) if len(row) else None
    if program.remainder is not None:
        order = np.argsort(program.remainder.rows, kind="stable")
        row, take = _spread(program.remainder.rows[order], source)
        if len(row):
            fields["remainder"] = Carried(program.remainder, order[take], row, program.n, more)
    return fields


def domain(program: Program) -> tuple[Any, Array]:
    """(M, low): M x >= low, what the logarithms of the objective ask for (its closure); no rows without any."""
    import scipy.sparse as sp

    if program.logs is None:
        return sp.csr_array((0, program.n)), np.zeros(0)
    own = np.flatnonzero(program.logs.row < 0)
    return program.logs.M[own], -program.logs.offset[own]


def cone_rows(program: Program) -> Array:
    """The rows with products whose quadratic part is not convex by itself: cones such as `squares <= product`.

    They are convex only as they stand: with their limit, and with the bounds of the variables in them.
    """
    quadratics = program.quadratics
    if quadratics is None:
        return np.zeros(0, dtype=np.int64)
    found = []
    for row in np.unique(quadratics.row).tolist():
        Q = quadratics.matrix(row)[1]
        values = np.linalg.eigvalsh(Q if np.isfinite(program.row_upper[row]) else -Q)
        if values[0] < -1e-9 * np.abs(values).max():
            found.append(row)
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Carried:
    """A remainder under other rows: function k is function taken[k] of `inner`, in row rows[k].

    n: number of columns that `inner` knows; more: number of columns behind them.
    """

    inner: Remainder
    taken: Array
    rows: Array
    n: int
    more: int

    def value(self, x: Array) -> Array:
        """Values (K,)."""
        return np.asarray(self.inner.value(x[: self.n])[self.taken])

    def jacobian(self, x: Array) -> Any:
        """Gradients, csr (K, n + more)."""
        return _wider(self.inner.jacobian(x[: self.n])[self.taken], self.more)

    def hessian(self, x: Array, weights: Array) -> Any:
        """Σ_k weights_k · ∇²(function k), symmetric csc (n + more, n + more)."""
        import scipy.sparse as sp

        bend = sp.csc_array(self.inner.hessian(x[: self.n], self._summed(weights)))
        bend.resize((self.n + self.more, self.n + self.more))
        return bend

    # What IPOPT asks of a remainder that knows where its derivatives stand (see `NlRemainder`).

    @property
    def jacobian_structure(self) -> tuple[Array, Array]:
        """(k, column) of each entry of the Jacobian."""
        k, entry = self._entries
        return k, np.asarray(self._known.jacobian_structure[1])[entry]

    def jacobian_values(self, x: Array) -> Array:
        """The entries of the Jacobian, in the order of `jacobian_structure`."""
        return np.asarray(self._known.jacobian_values(x[: self.n])[self._entries[1]])

    @property
    def hessian_structure(self) -> tuple[Array, Array]:
        """(i, j) of each entry of one triangle of the Hessian."""
        i, j = self._known.hessian_structure
        return i, j

    def hessian_values(self, x: Array, weights: Array) -> Array:
        """The entries of Σ_k weights_k ∇²(function k), in the order of `hessian_structure`."""
        return np.asarray(self._known.hessian_values(x[: self.n], self._summed(weights)))

    def symbolic(self, x: Any) -> Any:
        """The functions (K,) as CasADi SX of an SX vector x (n + more,)."""
        return self._known.symbolic(x[: self.n])[self.taken.tolist()]

    @property
    def _known(self) -> Any:
        if not hasattr(self.inner, "jacobian_structure"):
            raise SolverError("the nonlinear remainder does not say where its derivatives stand; use NlRemainder")
        return self.inner

    @cached_property
    def _entries(self) -> tuple[Array, Array]:
        """(k, position among the entries of the inner Jacobian) of each entry of this one."""
        row = np.asarray(self._known.jacobian_structure[0])
        order = np.argsort(row, kind="stable")
        k, place = _spread(row[order], self.taken)
        return k, order[place]

    def _summed(self, weights: Array) -> Array:
        return np.bincount(self.taken, weights, len(self.inner.rows))


def _spread(row: Array, source: Array) -> tuple[Array, Array]:
    """(new row, position) of every entry that a new row takes over; row: ascending, the old row of each entry."""
    low = np.searchsorted(row, source, "left")
    count = np.where(source >= 0, np.searchsorted(row, source, "right") - low, 0)
    new = np.repeat(np.arange(len(source)), count)
    return new, np.repeat(low - np.cumsum(count) + count, count) + np.arange(len(new))


def _wider(matrix: Any, more: int) -> Any:
    import scipy.sparse as sp

    matrix = sp.csr_array(matrix)
    if more:
        matrix.resize((matrix.shape[0], matrix.shape[1] + more))
    return matrix
