"""Systems F' w = R with the transposed Jacobian F of a grid's physics, by one sparse factorisation.

Where F is square and regular w is unique. Where the physics leaves flows free (a meshed grid without impedances: more
columns than rows) or ties nothing together (a flow that the user fixed: more rows than columns) it is the w of least
norm among those of least error ‖F' w - R‖, both measured in scaled rows and columns; see `Adjoint.regular`.
Reference: Golub and Van Loan, Matrix Computations (2013), section 5.3 (augmented system), 6.1 (regularisation).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.solvers.program import Array

# Of a solution of size one: more means a singular system. Branches of next to no impedance alone leave 1e-5.
_EXACT = 1e-3
_DELTA = 1e-10
_REFINEMENTS = 8
_PROBES = 16


class Adjoint:
    """The factorised system of one Jacobian F, sparse (rows, columns).

    regular: whether F is square and well enough conditioned that F' w = R has one solution.
    """

    def __init__(self, jacobian: Any) -> None:
        import scipy.sparse as sp

        shape = jacobian.shape
        self._left, self._right = _equilibrated(jacobian.T.tocsr())
        self._matrix = sp.csc_array(sp.diags_array(self._left) @ jacobian.T @ sp.diags_array(self._right))
        self._factor: Any = None
        self.regular = shape[0] == shape[1]
        if self.regular and shape[0]:
            self._factor = _factorised(self._matrix)
            self.regular = self._factor is not None and self._is_exact()
        if not self.regular:
            self._factor = self._augmented()

    def solve(self, right: Array) -> Array:
        """w, shape (rows, k), for R of shape (columns, k)."""
        scaled = self._left[:, None] * right
        if 0 in scaled.shape or 0 in self._matrix.shape:
            return np.zeros((self._matrix.shape[1], scaled.shape[1]))
        return self._right[:, None] * (self._square(scaled) if self.regular else self._least_squares(scaled))

    def reach(self, weights: Array) -> Array:
        """At least ‖weights · w‖ for R one unit of each column of F, shape (columns,); infinite unless regular.

        weights: (rows,). The norms are estimated by random vectors, and four times as much is returned: the chance that
        one is underestimated nevertheless is one in 10^9.
        """
        if not self.regular or self._factor is None:
            return np.full(self._matrix.shape[0], np.inf)
        drawn = np.random.default_rng(0).standard_normal((len(weights), _PROBES)) * weights[:, None]
        found = self._left[:, None] * self._factor.solve(self._right[:, None] * drawn, "T")
        return np.asarray(4.0 * np.sqrt(np.mean(found * found, axis=1)))

    def _square(self, right: Array) -> Array:
        found = self._factor.solve(right)
        for _ in range(2):
            found = found + self._factor.solve(right - self._matrix @ found)
        return np.asarray(found)

    def _is_exact(self) -> bool:
        """Whether a solution of size one, drawn at random, is found again."""
        drawn = np.random.default_rng(0).uniform(0.5, 1.5, (self._matrix.shape[0], 1))
        with np.errstate(all="ignore"):
            found = self._square(self._matrix @ drawn)
        return bool(np.isfinite(found).all() and np.abs(found - drawn).max() <= _EXACT)

    def _augmented(self) -> Any:
        import scipy.sparse as sp

        count = self._matrix.shape
        if 0 in count:
            return None
        one, small = sp.eye_array(count[0]), -_DELTA * sp.eye_array(count[1])
        return _factorised(sp.block_array([[one, self._matrix], [self._matrix.T, small]], format="csc"))

    def _least_squares(self, right: Array) -> Array:
        """Regularised least squares, repeated on what is left until the regularisation has left no trace."""
        rows, columns = self._matrix.shape
        found = np.zeros((columns, right.shape[1]))
        for _ in range(_REFINEMENTS):
            left = right - self._matrix @ found
            found += self._factor.solve(np.vstack([left, np.zeros_like(found)]))[rows:]
        return found


def _factorised(matrix: Any) -> Any:
    """The LU factors, None of a singular matrix."""
    from scipy.sparse.linalg import splu

    try:
        return splu(matrix)
    except RuntimeError:
        return None


def _equilibrated(matrix: Any) -> tuple[Array, Array]:
    """Scales of rows and columns, powers of two, that bring the largest entry of each near one (Ruiz's iteration)."""
    size = abs(matrix).tocoo()
    (rows, columns), logs = size.coords, np.full(len(size.data), -np.inf)
    used = size.data > 0
    logs[used] = np.log2(size.data[used])
    left, right = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1])
    for _ in range(5):
        for scale, at in ((left, rows), (right, columns)):
            largest = np.full(len(scale), -np.inf)
            np.maximum.at(largest, at, logs + left[rows] + right[columns])
            scale -= np.where(np.isfinite(largest), 0.5 * largest, 0.0)
    return np.exp2(np.round(left)), np.exp2(np.round(right))
