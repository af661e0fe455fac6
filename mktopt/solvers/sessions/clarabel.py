"""A session's Clarabel: set up once, handed new numbers with `update`, checked by a handful of products.

    min ½ x̂ᵀP x̂ + qᵀx̂   subject to   G x̂ + s = h,   s = 0 in the first rows, s >= 0 in the others

with x = κ x̂, the objective times sense·σ, and the row of a limit that is far away divided by it (Clarabel's tolerances
are relative to the largest limit, far ones included), all as it was when it was set up. κ is the size of the last
answer that is known. Which rows G has does not depend on numbers: a limit that is finite has a row, an equality is one
whatever the parameters. At (x̂, z)

    e = K (x̂, z) + (q, -h),    K = [P Gᵀ; G 0]

holds the errors of stationarity and of the rows, and x̂ᵀe_x - zᵀe_z = qᵀx̂ + x̂ᵀP x̂ + hᵀz is the gap: the residuals of
solution.py, from one product.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from mktopt.solvers.clarabel import DEFAULTS, NAME, version
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array, Program
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.data import (
    Affine,
    Changes,
    Doubt,
    Found,
    affine_of,
    dot_of,
    product_into,
    same_always,
    stacked,
)
from mktopt.solvers.solution import TOLERANCE

# Clarabel's arrays, and the arrays of the program that they are made of.
SOURCES = {"q": ("c",), "P": ("P",), "b": ("row_lower", "row_upper", "lower", "upper"), "A": ("A",)}


class Rows:
    """Where the rows of G come from: equalities, then `<=` and `>=` rows, upper and lower bounds."""

    def __init__(self, parametric: Parametric) -> None:
        program = parametric.program
        low, high = affine_of(parametric, "row_lower"), affine_of(parametric, "row_upper")
        same = same_always(low, high)
        used = ~program.empty_rows
        self.equal, self.above, self.below = (
            np.flatnonzero(used & mask)
            for mask in (same, np.isfinite(high.base) & ~same, np.isfinite(low.base) & ~same)
        )
        left, right = affine_of(parametric, "lower"), affine_of(parametric, "upper")
        same = same_always(left, right)
        self.pinned, self.upper, self.lower = (
            np.flatnonzero(mask) for mask in (same, np.isfinite(right.base) & ~same, np.isfinite(left.base) & ~same)
        )
        parts = [
            high.take(self.equal),
            right.take(self.pinned),
            high.take(self.above),
            low.take(self.below).scaled(-1.0),
            right.take(self.upper),
            left.take(self.lower).scaled(-1.0),
        ]
        self.h = stacked(parts, len(parametric.theta))
        self.sizes = [len(part.base) for part in parts]
        self.equalities = self.sizes[0] + self.sizes[1]

    def matrix(self, A: Any, n: int) -> Any:
        """G with, as data, 1 + the position of each entry in [A.data, one], negative for a minus; csc."""
        import scipy.sparse as sp

        traced = A.copy()
        traced.data = 1.0 + np.arange(A.nnz)

        def bounds(columns: Array, sign: float) -> Any:
            ends = np.arange(len(columns) + 1)
            return sp.csr_array((np.full(len(columns), sign * (1.0 + A.nnz)), columns, ends), shape=(len(columns), n))

        blocks = [
            traced[self.equal],
            bounds(self.pinned, 1.0),
            traced[self.above],
            -traced[self.below],
            bounds(self.upper, 1.0),
            bounds(self.lower, -1.0),
        ]
        G = sp.vstack(blocks, format="csc")
        G.sort_indices()
        return G

    def duals(self, sense: int, m: int, n: int) -> Any:
        """csr (m + n, rows of G): canonical duals of rows and bounds from z, all in the program's own units."""
        import scipy.sparse as sp

        targets = (self.equal, m + self.pinned, self.above, self.below, m + self.upper, m + self.lower)
        flips = (1.0, 1.0, 1.0, -1.0, 1.0, -1.0)  # where -h is the limit, its derivative has the other sign
        signs = marginal_values(sense, np.repeat(flips, self.sizes), derivative=False)
        count = len(signs)
        return sp.csr_array((signs, (np.concatenate(targets), np.arange(count))), shape=(m + n, count))


class ClarabelSession:
    """Clarabel on the arrays of a `Parametric` that is an LP or a QP."""

    name = NAME
    takes = ("LP", "QP")

    def __init__(
        self, parametric: Parametric, changes: Changes, theta: Array, options: Mapping[str, Any], x: Array | None = None
    ) -> None:
        self.version = version()
        program = parametric.program
        self.n, self.m = program.n, program.m
        rows = Rows(parametric)
        G = rows.matrix(program.A, self.n)
        self._data = _Data(parametric, changes, theta, rows, G, x)
        self._check = _Check(self._data, rows.equalities, program.typical)
        self._solver = self._data.solver(options, rows.equalities)
        self._sense = program.sense / self._data.sigma
        back = rows.duals(program.sense, self.m, self.n)
        back.data = back.data * (self._data.weights / (self._data.sigma * self._data.kappa))[back.indices]
        self._duals = product_into(back)
        import clarabel

        self._solved = clarabel.SolverStatus.Solved
        self._bounds = (affine_of(parametric, "lower"), affine_of(parametric, "upper"))
        self._box = (np.empty(self.n), np.empty(self.n))
        for side, out in zip(self._bounds, self._box, strict=True):
            out[:] = side.at(theta)
        self._write_box = [side.writer(out) for side, out in zip(self._bounds, self._box, strict=True)]

    def fits(self, x: Array) -> bool:
        """Whether its scale is that of an answer."""
        return bool(0.25 <= _typical(np.array([np.abs(x).max(initial=0.0)])) / self._data.kappa <= 4.0)

    def solve(self, theta: Array, dirty: int) -> Found | Doubt | str:
        """See `Backend`."""
        data, solver, check = self._data, self._solver, self._check
        if dirty:
            changed = data.refresh(theta, dirty)
            if changed:
                if "P" in changed and not data.convex():
                    return "the objective is not convex with these values"
                solver.update(**changed)
                check.refresh(changed)
            if "b" in changed:
                for write in self._write_box:
                    write(theta)
        raw = solver.solve()
        if raw.status != self._solved:
            return f"Clarabel: {raw.status}"
        supported = check.supports(raw.x, raw.z)
        x = check.x * data.kappa
        np.maximum(x, self._box[0], out=x)
        np.minimum(x, self._box[1], out=x)
        duals = np.zeros(self.m + self.n)
        self._duals(check.z, duals)
        found = Found(x, duals[: self.m], duals[self.m :], self._sense * check.value, raw.iterations)
        return found if supported else Doubt(found)


class _Data:
    """P, q, G, h in Clarabel's scales, rewritten in place when parameters change."""

    def __init__(
        self, parametric: Parametric, changes: Changes, theta: Array, rows: Rows, traced: Any, x: Array | None
    ) -> None:
        import scipy.sparse as sp

        program, n = parametric.program, parametric.program.n
        count = len(theta)
        c, P = affine_of(parametric, "c"), affine_of(parametric, "P")
        h = rows.h.at(theta)
        self.kappa, self.sigma = _scales(parametric.at(theta), h, x)
        self.weights = 1.0 / np.maximum(1.0, 2.0 ** np.ceil(np.log2(np.maximum(np.abs(h) / self.kappa, 1.0))))
        self.weights[: rows.equalities] = 1.0
        factor = program.sense * self.sigma * self.kappa
        full = sp.csc_array((n, n)) if program.P is None else sp.csc_array(program.P)
        column = np.repeat(np.arange(n), np.diff(full.indptr))
        upper = np.flatnonzero(full.indices <= column)
        self.P = sp.csc_matrix((n, n))
        if len(upper):
            ends = np.r_[0, np.cumsum(np.bincount(column[upper], minlength=n))]
            self.P = sp.csc_matrix((np.zeros(len(upper)), full.indices[upper], ends), shape=(n, n))
        source = np.abs(traced.data).astype(np.int64) - 1
        entries = stacked([affine_of(parametric, "A"), Affine(np.ones(1))], count)
        self.G = sp.csc_matrix((np.zeros(traced.nnz), traced.indices, traced.indptr), shape=traced.shape)
        self.full, self.full_data = full, np.zeros(full.nnz)
        self.q, self.h = np.zeros(n), np.zeros(len(rows.h.base))
        scaled = P.scaled(factor * self.kappa)
        self._changes, self._program = changes, program
        self._diagonal = bool((full.indices == column).all())
        self._write = {
            "q": [c.scaled(factor).writer(self.q)],
            "P": [scaled.take(upper).writer(self.P.data), scaled.writer(self.full_data)],
            "b": [rows.h.scaled(self.weights / self.kappa).writer(self.h)],
            "A": [entries.take(source).scaled(np.sign(traced.data) * self.weights[traced.indices]).writer(self.G.data)],
        }
        self._arrays = {"q": self.q, "P": self.P.data, "b": self.h, "A": self.G.data}
        self._plans: dict[int, Any] = {}
        for writers in self._write.values():
            for write in writers:
                write(theta)

    def refresh(self, theta: Array, dirty: int) -> dict[str, Array]:
        """Rewrites what is dirty; the arguments of Clarabel's `update`."""
        plan = self._plans.get(dirty)
        if plan is None:
            names = [name for name, targets in SOURCES.items() if self._changes.touched(targets, dirty)]
            writers = [write for name in names for write in self._write[name]]
            plan = self._plans[dirty] = writers, {name: self._arrays[name] for name in names}
        for write in plan[0]:
            write(theta)
        return plan[1]

    def convex(self) -> bool:
        """Whether P is positive semidefinite, as Clarabel takes for granted."""
        if self._diagonal:
            return bool(np.minimum.reduce(self.full_data, initial=0.0) >= 0.0)
        P = self.full.copy()
        P.data = self.full_data * (1.0 / np.abs(self.full_data).max(initial=1.0))
        return not self._program.replace(P=P, sense=1).not_convex

    def solver(self, options: Mapping[str, Any], equalities: int) -> Any:
        """Clarabel, set up."""
        import clarabel

        from mktopt.solvers.clarabel import _settings

        kinds = [clarabel.ZeroConeT(equalities)] if equalities else []
        if len(self.h) > equalities:
            kinds.append(clarabel.NonnegativeConeT(len(self.h) - equalities))
        settings = _settings({**DEFAULTS, **options, "presolve_enable": False})
        return clarabel.DefaultSolver(self.P, self.q, self.G, self.h, kinds, settings)


def _scales(program: Program, h: Array, x: Array | None) -> tuple[float, float]:
    """(κ, σ): the size of an answer, or the typical size of a limit, and the inverse of the typical money per κ."""
    sizes = np.abs(h) if x is None else np.array([np.abs(x).max(initial=0.0)])
    kappa = _typical(sizes)
    gradient = np.abs(program.c)
    if program.P is not None:
        bend = np.abs(program.P.diagonal()) * kappa if x is None else np.abs(program.curvature(x))
        gradient = gradient + bend
    return kappa, 1.0 / (kappa * _typical(gradient))


def _typical(sizes: Array) -> float:
    """A power of two near the median, so that scaling rounds nothing."""
    sizes = sizes[np.isfinite(sizes) & (sizes > 0.0)]
    return float(2.0 ** np.round(np.log2(np.median(sizes)))) if len(sizes) else 1.0


class _Check:
    """Whether (x̂, z) is optimal, by one product with K."""

    def __init__(self, data: _Data, equalities: int, typical: float) -> None:
        import scipy.sparse as sp

        n, rows = len(data.q), len(data.h)
        self._data, self._n = data, n
        P, G = sp.coo_array(data.full), data.G.tocoo()
        count = data.full.nnz
        entry = np.r_[np.arange(count), count + np.arange(G.nnz), count + np.arange(G.nnz)] + 1.0
        where = np.r_[P.row, G.col, n + G.row], np.r_[P.col, n + G.row, G.col]
        K = sp.csr_array((entry, where), shape=(n + rows, n + rows))
        self._take = K.data.astype(np.int64) - 1
        K.data = np.zeros(K.nnz)
        self._K, self._entries = K, K.data
        self._apply = product_into(K)
        self._v, self._error, self._product, self._constant = (np.zeros(n + rows) for _ in range(4))
        self.x, self.z = self._v[:n], self._v[n:]
        self._e_x, self._e_z, self._products = self._error[:n], self._error[n:], self._product[n:]
        self._firm, self._free = self._error[: n + equalities], self._error[n + equalities :]
        self._e_equal, self._signed = self._error[n : n + equalities], self._v[n + equalities :]
        self._equalities, self._bounded = equalities, rows > equalities
        self._inverse = 1.0 / data.weights
        self._weighted = bool((data.weights != 1.0).any())
        self._dot_x, self._dot_z = dot_of(n), dot_of(rows)
        self._cost, self._typical, self.value = np.zeros(n), typical, 0.0
        self.refresh(SOURCES)

    def refresh(self, changed: Container[str]) -> None:
        """Follows new data in some of Clarabel's arrays."""
        import scipy.sparse as sp

        data, n = self._data, self._n
        if "q" in changed:
            self._constant[:n] = data.q
            np.abs(data.q, out=self._cost)
            highest = float(np.maximum.reduce(self._cost, initial=0.0))
            self._least_money = max(min(data.sigma * data.kappa, highest), 1e-4 * highest)
        if "b" in changed:
            np.negative(data.h, out=self._constant[n:])
        if "P" in changed or "A" in changed:
            np.take(np.concatenate([data.full_data, data.G.data]), self._take, out=self._entries)
        if "A" in changed:
            strongest = abs(sp.diags_array(self._inverse) @ data.G).max(axis=0)
            self._strength = float(strongest.min()) if min(data.G.shape) else 0.0

    def supports(self, x: Any, z: Any) -> bool:
        """Whether x̂ and z (lists) are optimal within `TOLERANCE`, by floors that the sizes of terms can only exceed.

        They are left in `x` and `z`, with the objective in `value`.
        """
        data, error = self._data, self._error
        self.x[:] = x
        self.z[:] = z
        np.copyto(error, self._constant)
        self._apply(self._v, error)
        products = self._products
        np.multiply(self.z, self._e_z, out=products)
        difference = self._dot_x(self.x, self._e_x) - np.add.reduce(products)  # qᵀx + xᵀP x + hᵀz
        linear = self._dot_x(data.q, self.x)
        half = 0.5 * (difference - linear - self._dot_z(data.h, self.z))
        self.value = linear + half
        np.abs(products, out=products)
        products_most = np.maximum.reduce(products, initial=0.0)
        apart = max(abs(difference), products_most)
        if self._weighted:
            np.multiply(self._e_z, self._inverse, out=self._e_z)
        np.abs(self._firm, out=self._firm)
        if self._bounded and np.minimum.reduce(self._signed) < 0.0:
            return False
        beyond = np.maximum.reduce(self._free, initial=0.0)
        if self._equalities:
            beyond = max(beyond, np.maximum.reduce(self._e_equal))
        largest = self._strength * np.maximum.reduce(self.x, initial=0.0)
        kappa = data.kappa
        least = max(min(1.0 / kappa, largest), 1e-4 * largest, 1e-6 * self._typical / kappa)
        return bool(
            np.maximum.reduce(self._e_x, initial=0.0) <= TOLERANCE * self._least_money
            and beyond <= TOLERANCE * least
            and apart <= TOLERANCE * (abs(linear) + abs(half))
        )
