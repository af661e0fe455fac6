"""What a session needs to be as quick as its solver: arrays that follow their parameters, and a lean check of answers.

Every array that a solver is given is affine in the parameters θ (K,):  y = base + M θ. `Affine` keeps (base, M) with
the solver's scales, signs and sequence already in it, so that new data are one sparse product into an array that is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mktopt.solvers.program import Array, inner
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.solution import Solution

# Products shorter than this stay on one thread in BLAS, and are quicker there than anywhere else.
_SHORT = 4096


class Changes:
    """Which entries of the program's arrays depend on which Params. A set of Params is an int, bit k for the k-th."""

    def __init__(self, parametric: Parametric) -> None:
        names = list(parametric.index)
        starts = np.array([parametric.start[name] for name in names], dtype=np.int64)
        order = np.argsort(starts)
        self.bits = {name: 1 << k for k, name in enumerate(names)}
        self._entries: dict[str, dict[int, Array]] = {}
        for target, M in parametric.maps.items():
            M = M.tocoo()
            owner = order[np.searchsorted(starts[order], M.col, side="right") - 1]
            self._entries[target] = {
                1 << int(k): np.unique(M.row[(owner == k) & (M.data != 0)]) for k in np.unique(owner[M.data != 0])
            }

    def of(self, target: str, dirty: int) -> Array:
        """The entries of an array ("c", "A", "upper", ...) that depend on any Param of the set `dirty`."""
        found = [rows for bit, rows in self._entries.get(target, {}).items() if dirty & bit]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def touched(self, targets: Sequence[str], dirty: int) -> bool:
        """Whether any of the arrays depends on any Param of the set."""
        return any(dirty & bit for target in targets for bit in self._entries.get(target, {}))


class Found:
    """What a solver found in one solve: arrays in the program's own units, and the objective without its constant."""

    __slots__ = ("bound", "iterations", "objective", "reduced_cost", "row_dual", "x")

    def __init__(
        self,
        x: Array,
        row_dual: Array,
        reduced_cost: Array,
        objective: float,
        iterations: int,
        bound: float = float("nan"),
    ) -> None:
        self.x, self.row_dual, self.reduced_cost = x, row_dual, reduced_cost
        self.objective, self.iterations, self.bound = objective, iterations, bound


class Doubt:
    """What a solver found, where a quick look at it does not settle whether it is optimal."""

    __slots__ = ("found",)

    def __init__(self, found: Found) -> None:
        self.found = found


class Backend(Protocol):
    """A solver that keeps a session's arrays."""

    name: str
    version: str

    def solve(self, theta: Array, dirty: int) -> Found | Doubt | Solution | str:
        """What it found at θ, for certain or in doubt, an answer of another kind, or why it has none.

        dirty: the set of Params (see `Changes`) that have new values since the last call.
        """

    def fits(self, x: Array) -> bool:
        """Whether it is scaled for answers like x."""


class Anew:
    """No solver keeps the arrays: every solve is the ordinary one, of the program at θ."""

    version = ""

    def __init__(self, parametric: Parametric, solver: str, options: Mapping[str, Any]) -> None:
        self.name = solver
        self._parametric, self._options = parametric, options

    def fits(self, x: Array) -> bool:
        """It scales every program anew."""
        return True

    def solve(self, theta: Array, dirty: int) -> Solution:
        """See `table.solve`."""
        from mktopt.solvers.table import solve

        return solve(self._parametric.at(theta.copy()), self.name, self._options)


class Named:
    """What stands for a Pyomo variable or row in a session of another process: its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def without_pyomo(parametric: Any) -> Any:
    """The same with names in place of Pyomo objects, which can be pickled."""
    program = parametric.program
    if program.remainder is not None:
        return parametric
    light = program.replace(
        variables=[Named(str(variable.name)) for variable in program.variables],
        rows=[Named(str(row.name)) for row in program.rows],
        fixed_variables=[Named(str(variable.name)) for variable in program.fixed_variables],
        column_of={},
        model=None,
    )
    return replace(parametric, program=light)


def as_slice(at: Array) -> Any:
    """Positions as a slice where they follow each other, which is quicker to index with."""
    if len(at) and (np.diff(at) == 1).all():
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def dot_of(length: int) -> Callable[[Array, Array], float]:
    """The quickest aᵀb for vectors of this length."""
    return np.dot if length < _SHORT else inner


def product_into(matrix: Any) -> Callable[[Array, Array], None]:
    """f(x, y): y += M x for a csr matrix, without allocating and without scipy's checks (which cost more than M x).

    The function reads `matrix.data` when it is called, so the entries may be written in place.
    """
    try:
        from scipy.sparse._sparsetools import csr_matvec
    except ImportError:  # a private name, quicker but not promised

        def slowly(x: Array, y: Array) -> None:
            y += matrix @ x

        return slowly
    rows, columns = matrix.shape
    starts, indices, data = matrix.indptr, matrix.indices, matrix.data

    def quickly(x: Array, y: Array) -> None:
        csr_matvec(rows, columns, starts, indices, data, x, y)

    return quickly


@dataclass(frozen=True, eq=False)
class Affine:
    """y = base + M θ: base (N,), M csr (N, K) or None where no parameter enters."""

    base: Array
    M: Any = None

    def scaled(self, factor: Any) -> Affine:
        """factor · y; factor: scalar or (N,)."""
        if self.M is None:
            return Affine(self.base * factor)
        import scipy.sparse as sp

        weights = np.broadcast_to(np.asarray(factor, dtype=float), self.base.shape)
        return Affine(self.base * factor, sp.csr_array(sp.diags_array(weights) @ self.M))

    def take(self, rows: Array) -> Affine:
        """y[rows]."""
        if self.M is None or not len(rows):
            return Affine(self.base[rows])
        return _lean(self.base[rows], self.M[rows])

    def minus(self, other: Affine) -> Affine:
        """self - other."""
        base = self.base - other.base
        if self.M is None or other.M is None:
            return _lean(base, self.M if other.M is None else -other.M)
        return _lean(base, self.M - other.M)

    def at(self, theta: Array) -> Array:
        """A new array of the values."""
        return self.base.copy() if self.M is None else np.asarray(self.base + self.M @ theta)

    def writer(self, out: Array) -> Callable[[Array], None]:
        """f(θ), which writes the values into `out` (N,)."""
        base = self.base
        if self.M is None:
            return lambda theta: np.copyto(out, base)
        add = product_into(self.M)

        def write(theta: Array) -> None:
            np.copyto(out, base)
            add(theta, out)

        return write


def _lean(base: Array, M: Any) -> Affine:
    """Without a map where it is empty, which also keeps infinite bases free of arithmetic."""
    if M is None or not M.nnz:
        return Affine(base)
    import scipy.sparse as sp

    return Affine(base, sp.csr_array(M))


def stacked(parts: Sequence[Affine], count: int) -> Affine:
    """The parts one below the other; count: the number K of parameters."""
    base = np.concatenate([part.base for part in parts]) if parts else np.zeros(0)
    if all(part.M is None for part in parts):
        return Affine(base)
    import scipy.sparse as sp

    blocks = [sp.csr_array((len(part.base), count)) if part.M is None else part.M for part in parts]
    return _lean(base, sp.vstack(blocks, format="csr"))


def affine_of(parametric: Parametric, name: str) -> Affine:
    """One array of the program ("c", "P", "A", "row_lower", ..., the matrices by their entries) in the parameters."""
    if name in parametric.maps:
        return _lean(parametric.base[name], parametric.maps[name])
    program = parametric.program
    value = getattr(program, name)
    if name in ("P", "A"):
        value = np.zeros(0) if value is None else value.data
    return Affine(np.atleast_1d(np.asarray(value, dtype=float)))


def same_always(one: Affine, other: Affine) -> Array:
    """Which entries are equal and finite whatever the parameters (N,)."""
    equal = (one.base == other.base) & np.isfinite(one.base)
    rows = np.zeros(len(one.base), dtype=bool)
    difference = one.minus(other) if one.M is not None or other.M is not None else Affine(one.base)
    if difference.M is not None:
        apart = difference.M.tocsr()
        apart.eliminate_zeros()
        rows[np.flatnonzero(np.diff(apart.indptr))] = True
    return equal & ~rows


class Margins:
    """Limits that may cross when parameters change: of rows and of variables, upper minus lower."""

    def __init__(self, parametric: Parametric) -> None:
        self.program = parametric.program
        count = len(parametric.theta)
        self._rows = affine_of(parametric, "row_upper").minus(affine_of(parametric, "row_lower"))
        self._columns = affine_of(parametric, "upper").minus(affine_of(parametric, "lower"))
        gaps = stacked([self._rows, self._columns], count)
        moving = np.zeros(0, dtype=np.int64) if gaps.M is None else np.flatnonzero(np.diff(gaps.M.indptr))
        moving = moving[np.isfinite(gaps.base[moving])]
        self._where = moving
        self._gaps = gaps.take(moving)
        self._value = np.zeros(len(moving))
        self._write = self._gaps.writer(self._value)

    def crossed(self, theta: Array) -> int | None:
        """The first row (or, from m on, column m + j) whose limits cross at θ, or None."""
        if not len(self._where):
            return None
        self._write(theta)
        if np.minimum.reduce(self._value) >= 0.0:
            return None
        return int(self._where[int(self._value.argmin())])

    def culprits(self, place: int) -> Array:
        """The parameters that enter the limits at `place`, as positions in θ."""
        at = int(np.flatnonzero(self._where == place)[0])
        M = self._gaps.M
        return np.asarray(M.indices[M.indptr[at] : M.indptr[at + 1]])
