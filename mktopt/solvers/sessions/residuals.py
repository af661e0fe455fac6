"""The residuals of a convex curved program at a glance: those of solution.py, over arrays that follow parameters.

All of the program's numbers stand in one array, base + M θ, of which c, A.data, the limits and so on are pieces. The
derivatives of products and logarithms are of the form (constant structure) · v(x), with

    v = (coef x_second, coef x_first, M_ke coef_k / u_k),      u = M x + offset,

so that J(x) and the gradient of the objective are one sparse product each. Every quotient of `residuals` is taken with
the same numerator and with a denominator that is at most the one there: what is supported here passes there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mktopt.solvers.program import Array
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.data import Affine, affine_of, dot_of, product_into, stacked
from mktopt.solvers.solution import TOLERANCE

# Asked of gap and complementarity, which are far below it wherever the method got to its end; 1e-6 would do.
GAP = 1e-7
LIMITS = ("row_lower", "row_upper", "lower", "upper")


class Numbers:
    """All numbers of a `Parametric`, as views of one array; `write(theta)` brings them up to date."""

    def __init__(self, parametric: Parametric) -> None:
        names = ["c", "A", "P", *LIMITS, "log_coef", "log_M", "log_offset"]
        parts = [piece_of(parametric, name) for name in names]
        values = np.zeros(sum(len(part.base) for part in parts))
        ends = np.cumsum([len(part.base) for part in parts])
        self.of = dict(zip(names, np.split(values, ends[:-1]), strict=True))
        self.write = stacked(parts, len(parametric.theta)).writer(values)


def piece_of(parametric: Parametric, name: str) -> Affine:
    """`affine_of`, for the numbers of logarithms too ("log_coef", "log_M", "log_offset"); empty without any."""
    if name in parametric.maps or not name.startswith("log_"):
        return affine_of(parametric, name)
    logs = parametric.program.logs
    if logs is None:
        return Affine(np.zeros(0))
    value = getattr(logs, name[4:])
    return Affine(np.asarray(value.data if name == "log_M" else value, dtype=float))


class Check:
    """Whether x and its multipliers are optimal. `value`: the objective at the last x, without its constant."""

    def __init__(self, parametric: Parametric, theta: Array) -> None:
        program, self._numbers = parametric.program, Numbers(parametric)
        of = self.numbers = self._numbers.of
        self._sense, self.m, self.n = float(program.sense), program.m, program.n
        terms, logs, none = program.quadratics, program.logs, np.zeros(0, dtype=np.int64)
        self._row, self._first, self._second, self._coef = none, none, none, np.zeros(0)
        if terms is not None:
            self._row, self._first, self._second, self._coef = terms.row, terms.first, terms.second, terms.coef
        self._log_row = none if logs is None else logs.row
        A, P = program.A, program.P
        self._apply_A = _product_of(of["A"], A.indices, A.indptr, A.shape)
        self._apply_P = None
        if P is not None:  # symmetric, so columns are rows
            self._apply_P = _product_of(of["P"], P.indices, P.indptr, P.shape)
        self._owner, inside = none, none
        if logs is not None:
            M = logs.M
            self._owner, inside = np.repeat(np.arange(len(logs.row)), np.diff(M.indptr)), M.indices
            self._apply_M = _product_of(of["log_M"], inside, M.indptr, M.shape)
        self._structure(A.tocoo(), np.r_[self._first, self._second, inside])
        self._dot = dot_of(self.n)
        self._numbers.write(theta)
        finite = [np.isfinite(of[name]) for name in LIMITS]
        # The values that multipliers may have: those that push against an infinite limit do not count.
        self._ranges = [
            (np.where(high, -np.inf, 0.0), np.where(low, np.inf, 0.0)) for low, high in (finite[:2], finite[2:])
        ]
        self._finite = finite
        self.refresh(theta)

    def _structure(self, A: Any, column: Array) -> None:
        """Where A.data and v go in the entries of Jᵀ, and v in the gradient of the objective."""
        import scipy.sparse as sp

        m, n = self.m, self.n
        row = np.r_[self._row, self._row, self._log_row[self._owner]]
        used, priced = np.flatnonzero(row >= 0), np.flatnonzero(row < 0)
        keys = np.r_[A.col, column[used]].astype(np.int64) * m + np.r_[A.row, row[used]]
        known, at = np.unique(keys, return_inverse=True)
        at, count = at.reshape(-1), len(known)
        self._at_A = at[: A.nnz]
        self._into_J = product_into(sp.csr_array((np.ones(len(used)), (at[A.nnz :], used)), shape=(count, len(row))))
        self._J, self._J_size = np.zeros(count), np.zeros(count)
        where = known % max(m, 1), np.searchsorted(known, np.arange(n + 1, dtype=np.int64) * m)
        self._apply_J = _product_of(self._J, *where, (n, m))
        self._apply_J_size = _product_of(self._J_size, *where, (n, m))
        self._priced = self._log_row < 0 if len(priced) else None
        into = sp.csr_array((np.ones(len(priced)), (column[priced], priced)), shape=(n, len(row)))
        self._into_slope = product_into(into)

    def refresh(self, theta: Array) -> None:
        """Follows new parameters."""
        self._numbers.write(theta)
        of = self._numbers.of
        self._sizes = [np.where(there, of[name], 0.0) for name, there in zip(LIMITS, self._finite, strict=True)]
        low, high, x_low, x_high = self._sizes
        self._span, self._x_span = np.abs(low) + np.abs(high), np.abs(x_low) + np.abs(x_high)
        self._cost = np.abs(of["c"])

    def clip(self, x: Array) -> Array:
        """x within its bounds, in place."""
        of = self._numbers.of
        np.maximum(x, of["lower"], out=x)
        return np.minimum(x, of["upper"], out=x)

    def supports(self, x: Array, y: Array, z: Array) -> bool:
        """Whether x (n,), within its bounds, and the canonical multipliers y (m,), z (n,) have residuals <= 1e-6."""
        of, first, second, m = self._numbers.of, self._first, self._second, self.m
        left, right = self._coef * x[first], self._coef * x[second]
        activity = np.bincount(self._row, left * x[second], m) if len(left) else np.zeros(m)
        self._apply_A(x, activity)
        bent = np.zeros(self.n)
        if self._apply_P is not None:
            self._apply_P(x, bent)
        self._twice = self._dot(x, bent)
        self.value = self._dot(of["c"], x) + 0.5 * self._twice
        slope, cost, v = of["c"] + bent, self._cost, np.concatenate([right, left])
        if len(self._log_row):
            inside = of["log_offset"].copy()
            self._apply_M(x, inside)
            if not np.minimum.reduce(inside) > 0.0:
                return False
            worth = of["log_coef"] * np.log(inside)
            v = np.concatenate([v, of["log_M"] * (of["log_coef"] / inside)[self._owner]])
            if self._priced is None:
                activity += np.bincount(self._log_row, worth, m)
            else:
                self.value += float(worth[self._priced].sum())
                activity += np.bincount(self._log_row + 1, worth, m + 1)[1:]
                cost = cost.copy()
                self._into_slope(v, slope)
                self._into_slope(np.abs(v), cost)
        over = np.maximum(of["row_lower"] - activity, activity - of["row_upper"])
        if not np.maximum.reduce(over, initial=0.0) <= TOLERANCE * _floor(np.abs(activity)):
            return False
        J = self._J
        J.fill(0.0)
        J[self._at_A] = of["A"]
        self._into_J(v, J)
        np.abs(J, out=self._J_size)
        return self._optimal(x, activity, self._sense * slope, np.abs(bent), cost, self._sense * y, self._sense * z)

    def _optimal(self, x: Array, activity: Array, error: Array, bent: Array, cost: Array, y: Array, z: Array) -> bool:
        """Stationarity, gap and complementarity; error: the gradient; y, z: as in a minimisation."""
        (y_least, y_most), (z_least, z_most) = self._ranges
        y = np.minimum(np.maximum(y, y_least), y_most)  # np.clip takes three times as long on short arrays
        z = np.minimum(np.maximum(z, z_least), z_most)
        pull = np.zeros(self.n)
        self._apply_J(y, pull)
        error = error - pull - z
        size_y, size_z = np.abs(y), np.abs(z)
        size = cost + bent
        steepest = np.maximum.reduce(size, initial=0.0)
        size += size_z
        self._apply_J_size(size_y, size)
        denominator = np.maximum(size, _floor(size))
        if not steepest > 0.0:  # nothing has a price: by one per unit
            denominator = np.minimum(denominator, 1.0)
        if not (np.logical_and.reduce(np.abs(error) <= TOLERANCE * denominator)):
            return False
        low, high, x_low, x_high = self._sizes
        rows = y * (activity - np.where(y > 0.0, low, high))
        columns = z * (x - np.where(z > 0.0, x_low, x_high))
        gap = abs(self._dot(error, x) + np.add.reduce(rows) + np.add.reduce(columns))
        most = np.maximum.reduce
        worst = max(most(np.abs(rows), initial=0.0), most(np.abs(columns), initial=0.0), gap)
        size_x = np.abs(x)
        turnover = self._dot(cost, size_x) + 0.5 * abs(self._twice)
        if worst <= GAP * turnover:
            return True
        reach = np.add.reduce(size_y * self._span) + np.add.reduce(size_z * self._x_span)
        return bool(worst <= GAP * max(turnover, min(1.0, reach), 1e-6 * reach))


def _floor(size: Array) -> float:
    """The size below which a quantity counts as noise, without what a typical limit adds to it."""
    largest = float(np.maximum.reduce(size, initial=0.0))
    return max(min(1.0, largest), 1e-4 * largest)


def _product_of(values: Array, indices: Array, starts: Array, shape: tuple[int, int]) -> Callable[[Array, Array], None]:
    """f(x, y): y += M x for the csr matrix whose entries are what `values` holds when it is called."""
    import scipy.sparse as sp

    matrix = sp.csr_array((np.zeros(len(values)), indices, starts), shape=shape)
    matrix.data = values  # not in the constructor, which copies views of longer arrays
    return product_into(matrix)
