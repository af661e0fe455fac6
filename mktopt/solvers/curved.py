"""What rows and objectives may hold beyond linear terms: products of two variables, logarithms, and the rest.

A row i of a program (or its objective, i = -1) is

    A_i x  +  Σ_k coef_k x_first_k x_second_k  +  Σ_k coef_k log(M_k x + offset_k)  +  remainder_i(x)

The first three kinds are arrays, from which cones are recognised; the remainder is any smooth function, known by its
values and derivatives only. (The quadratic part of an objective is `Program.P`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Quadratic terms of rows: row[k] has coef[k] · x[first[k]] · x[second[k]]; each unordered pair once per row.

    row: int (K,), ascending; first, second: columns (K,), first <= second; coef: (K,).
    """

    row: Array
    first: Array
    second: Array
    coef: Array

    def value(self, x: Array, m: int) -> Array:
        """The quadratic part of each row (m,)."""
        return np.bincount(self.row, self.coef * x[self.first] * x[self.second], m)

    def size(self, x: Array, m: int) -> Array:
        """The sum of the sizes of the terms of each row (m,)."""
        return np.bincount(self.row, np.abs(self.coef * x[self.first] * x[self.second]), m)

    def jacobian(self, x: Array, shape: tuple[int, int]) -> Any:
        """Their gradients, csr (m, n)."""
        import scipy.sparse as sp

        data = np.r_[self.coef * x[self.second], self.coef * x[self.first]]
        return sp.csr_array((data, (np.r_[self.row, self.row], np.r_[self.first, self.second])), shape=shape)

    def hessian(self, weights: Array, n: int) -> Any:
        """Σ_i weights_i · ∇²(quadratic part of row i), symmetric csc (n, n)."""
        import scipy.sparse as sp

        data = self.coef * weights[self.row]
        where = np.r_[self.first, self.second], np.r_[self.second, self.first]
        return sp.csc_array((np.tile(data, 2), where), shape=(n, n))

    def matrix(self, row: int) -> tuple[Array, Array]:
        """(columns, Q) of one row: its quadratic part is ½ x[columns]ᵀ Q x[columns], Q dense and symmetric."""
        low, high = np.searchsorted(self.row, [row, row + 1])
        first, second, coef = self.first[low:high], self.second[low:high], self.coef[low:high]
        columns = np.unique(np.r_[first, second])
        a, b = np.searchsorted(columns, first), np.searchsorted(columns, second)
        Q = np.zeros((len(columns), len(columns)))
        np.add.at(Q, (a, b), coef)
        np.add.at(Q, (b, a), coef)
        return columns, Q


@dataclass(frozen=True, eq=False)
class Logs:
    """Logarithms of affine expressions: row[k] (-1: the objective) has coef[k] · log(M[k] x + offset[k]).

    row: int (K,); coef: (K,), not zero; M: csr (K, n); offset: (K,). Outside its domain a logarithm is NaN.
    """

    row: Array
    coef: Array
    M: Any
    offset: Array

    def inside(self, x: Array) -> Array:
        """M x + offset (K,): what the logarithms are taken of."""
        return np.asarray(self.M @ x + self.offset)

    def terms(self, x: Array) -> Array:
        """coef · log(...) of each term (K,)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.coef * np.log(self.inside(x)))

    def jacobian(self, x: Array) -> Any:
        """The gradient of each term, csr (K, n)."""
        with np.errstate(divide="ignore"):
            slope = self.coef / self.inside(x)
        gradient = self.M.copy()
        gradient.data = gradient.data * np.repeat(slope, np.diff(gradient.indptr))
        return gradient

    def hessian(self, x: Array, weights: Array) -> Any:
        """Σ_k weights_k · ∇²(term k), symmetric csc (n, n); weights: (K,)."""
        import scipy.sparse as sp

        bend = -weights * self.coef / self.inside(x) ** 2
        return sp.csc_array(self.M.T @ sp.diags_array(bend) @ self.M)


class Remainder(Protocol):
    """Smooth functions that are neither quadratic nor logarithms of affine expressions.

    rows: int (K,), the row that each belongs to, -1 for the objective; each at most once. x is always (n,).
    """

    rows: Array

    def value(self, x: Array) -> Array:
        """Values (K,)."""

    def jacobian(self, x: Array) -> Any:
        """Gradients, csr (K, n)."""

    def hessian(self, x: Array, weights: Array) -> Any:
        """Σ_k weights_k · ∇²(function k), symmetric csc (n, n); weights: (K,)."""
