"""A program whose limits may give way, at a cost."""

from __future__ import annotations

import numpy as np

from mktopt.solvers.limits import Sides, sides_of
from mktopt.solvers.program import Array, Program

__all__ = ["elastic", "sides_of"]


def elastic(program: Program, sides: Sides, movable: Array, cost: Array, most: Array | float = np.inf) -> Program:
    """min costᵀs  s.t.  e_k(x) + s_k >= limit_k (lower),  e_k(x) - s_k <= limit_k (upper),  0 <= s <= most.

    sides: the K finite limits of the program; movable: bool (K,); cost, most: (S,) for the S movable ones; the other
    limits stay. Columns are x (n,) then s (S,). Integrality stays.
    """
    import scipy.sparse as sp

    places = np.flatnonzero(movable)
    count = len(places)
    sign = np.where(sides.is_lower[places], 1.0, -1.0)
    moved = sp.hstack(
        [
            sides.matrix(program)[places],
            sp.csr_array((sign, (np.arange(count), np.arange(count))), shape=(count, count)),
        ],
        format="csr",
    )
    kept = program.replace(
        **{name: getattr(program, name).copy() for name in ("row_lower", "row_upper", "lower", "upper")}
    )
    for k in places:
        side = "lower" if sides.is_lower[k] else "upper"
        target = getattr(kept, f"row_{side}" if sides.is_row[k] else side)
        target[sides.row[k] if sides.is_row[k] else sides.column[k]] = -np.inf if sides.is_lower[k] else np.inf
    limit = sides.limit[places]
    still = np.flatnonzero(np.isfinite(kept.row_lower) | np.isfinite(kept.row_upper))
    return Program(
        variables=[],
        rows=[],
        A=sp.vstack(
            [sp.hstack([program.A[still], sp.csr_array((len(still), count))], format="csr"), moved],
            format="csr",
        ),
        row_lower=np.r_[kept.row_lower[still], np.where(sign > 0, limit, -np.inf)],
        row_upper=np.r_[kept.row_upper[still], np.where(sign > 0, np.inf, limit)],
        lower=np.r_[kept.lower, np.zeros(count)],
        upper=np.r_[kept.upper, np.broadcast_to(most, count)],
        integer=np.r_[program.integer, np.zeros(count, dtype=bool)],
        c=np.r_[np.zeros(program.n), cost],
        P=None,
    )
