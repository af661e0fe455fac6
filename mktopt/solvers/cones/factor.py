"""Factors F of positive semidefinite matrices: Q = FᵀF to rounding, or the variable along which Q is not.

Q is first brought to a unit diagonal, so that its units do not matter. Small matrices go by their eigenvalues, many of
one size at a time; large ones by a sparse LDLᵀ. A singular Q (x₁ - x₂ squared, say) has zero pivots, on which a
factorisation would divide noise by noise: a shift of the size of rounding takes them away from zero, and the rows of F
that stand for nothing but such a shift are dropped again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
# Q counts as positive semidefinite where its smallest eigenvalue, at unit diagonal, is above -NOISE.
NOISE = 1e-10
_ROUNDING = 1e-14


def small_factors(Q: Array) -> tuple[Array, Array]:
    """(F (B, k, k), bad (B,)) of a stack Q (B, k, k): bad is the position of the worst direction, -1 where Q is PSD.

    Rows of F are zero where eigenvalues are.
    """
    diagonal = np.einsum("bii->bi", Q)
    bad = np.where((diagonal < 0.0).any(axis=1), diagonal.argmin(axis=1), -1)
    # A variable without a square may not appear in a product: x·y is a saddle.
    saddle = (diagonal == 0.0) & (np.abs(Q).sum(axis=1) > 0.0)
    bad = np.where((bad < 0) & saddle.any(axis=1), saddle.argmax(axis=1), bad)
    root = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(Q / (root[:, :, None] * root[:, None, :]))
    wrong = (bad < 0) & (values[:, 0] < -NOISE)
    bad = np.where(wrong, np.abs(vectors[:, :, 0]).argmax(axis=1), bad)
    kept = np.where(values > _ROUNDING, values, 0.0)
    return np.sqrt(kept)[:, :, None] * vectors.transpose(0, 2, 1) * root[:, None, :], bad


def sparse_factor(Q: Any) -> tuple[Any, int]:
    """(F csr (rank, k), bad) of one symmetric sparse Q (k, k); bad as for `small_factors`."""
    import scipy.sparse as sp

    diagonal = Q.diagonal()
    if diagonal.min() < 0.0:
        return None, int(diagonal.argmin())
    saddle = (diagonal == 0.0) & (abs(Q).sum(axis=0) > 0.0)
    if saddle.any():
        return None, int(saddle.argmax())
    root = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    unit = sp.csc_array(sp.diags_array(1.0 / root) @ Q @ sp.diags_array(1.0 / root))
    for shift in (_ROUNDING, 1e-13, 1e-12, NOISE):
        F, bad = _pivoted(unit, shift)
        if bad < 0:
            return sp.csr_array(F @ sp.diags_array(root)), -1
    return None, bad


def _pivoted(unit: Any, shift: float) -> tuple[Any, int]:
    """(F, -1) of `unit` + shift·I by LDLᵀ without row exchanges, or (None, position of a pivot that is negative)."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    shifted = sp.csc_array(unit + shift * sp.eye_array(unit.shape[0]))
    try:
        factor = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:  # an exactly zero pivot: singular in spite of the shift, so some eigenvalue is negative
        return None, 0
    pivots = factor.U.diagonal()
    wrong = np.flatnonzero(pivots <= 0.0)
    if len(wrong):
        return None, int(np.flatnonzero(factor.perm_c == wrong[0])[0])
    exchanged = np.flatnonzero(factor.perm_r != factor.perm_c)
    if len(exchanged):
        return None, int(exchanged[0])
    F = sp.csr_array(sp.diags_array(1.0 / np.sqrt(pivots)) @ factor.U)
    kept = np.flatnonzero((F * F).sum(axis=1) > 100.0 * shift)
    return F[kept].tocsc()[:, factor.perm_c], -1
