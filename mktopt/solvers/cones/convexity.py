"""Is a program convex: its objective when minimised (concave when maximised), its rows as cones?"""

from __future__ import annotations

import numpy as np

from mktopt.solvers.program import Array, Program

_DENSE = 400
_NOISE = 1e-9


def fault(program: Program) -> str:
    """Why the program is not convex, naming the objective or the row at fault; '' where it is convex.

    sense · P must be positive semidefinite: its diagonal alone decides when P is diagonal; otherwise P is
    scaled to a unit diagonal and its smallest eigenvalue (or, for many variables, the signs of its pivots)
    must be >= -1e-9.
    """
    column = -1 if program.P is None else _wrong_column(program)
    if column >= 0:
        word, wanted = ("minimised", "convex") if program.sense > 0 else ("maximised", "concave")
        return (
            f"the objective is {word} but not {wanted}: it bends the wrong way along '{program.variables[column].name}'"
            " (and what is multiplied with it). A bid's price must not rise and an offer's must not fall along its"
            " quantity; check the sign of the quadratic terms"
        )
    if program.curved:
        from mktopt.solvers.cones.conic import fault_of_rows

        return fault_of_rows(program)
    return ""


def _wrong_column(program: Program) -> int:
    """A column along which the objective has the wrong curvature, -1 where there is none."""
    import scipy.sparse as sp

    P = program.P * float(program.sense)
    diagonal = P.diagonal()
    lowest = int(np.argmin(diagonal))
    if diagonal[lowest] < 0.0:
        return lowest
    off = sp.coo_array(P - sp.diags_array(diagonal))
    off.eliminate_zeros()
    if off.nnz == 0:
        return -1
    flat = diagonal[off.row] == 0.0
    if flat.any():  # x·y without x²: a saddle
        return int(off.row[np.argmax(flat)])
    used = np.unique(off.row)
    root = 1.0 / np.sqrt(diagonal[used])
    scaled = sp.csc_array(P.tocsr()[used][:, used] * root[:, None] * root[None, :])
    bad = _dense(scaled.toarray()) if len(used) <= _DENSE else _sparse(scaled)
    return int(used[bad]) if bad >= 0 else -1


def _dense(matrix: Array) -> int:
    values, vectors = np.linalg.eigh(matrix)
    return int(np.argmax(np.abs(vectors[:, 0]))) if values[0] < -_NOISE * len(matrix) else -1


def _sparse(matrix: object) -> int:
    """Position of a negative pivot of matrix + ε I without row exchanges; -1 if all are positive: definite."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    size = matrix.shape[0]  # type: ignore[attr-defined]
    shifted = sp.csc_array(matrix + _NOISE * size * sp.eye_array(size))
    try:
        factor = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:  # an exactly zero pivot: singular in spite of the shift, so some eigenvalue is negative
        return 0
    wrong = np.flatnonzero(factor.U.diagonal() <= 0.0)
    if len(wrong):
        return int(np.flatnonzero(factor.perm_c == wrong[0])[0])
    exchanged = np.flatnonzero(factor.perm_r != factor.perm_c)
    return int(exchanged[0]) if len(exchanged) else -1
