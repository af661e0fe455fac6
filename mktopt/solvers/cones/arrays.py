"""Clarabel on arrays as they stand: for many small programs whose answers are proved by those who ask.

    min 1/2 xᵀ P x + qᵀ x   s.t.   h - G x in  R+^k x (second-order cones of three)

No units are chosen here and no residual is judged: the program must be scaled so that its answer is of order one, and
whoever asks must check it. Programs that are to be checked here go through `mktopt.solvers.table.solve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

_PRECISE: dict[str, Any] = {
    "verbose": False,
    "presolve_enable": False,
    "max_threads": 1,
    "tol_feas": 1e-11,
    "tol_gap_abs": 1e-12,
    "tol_gap_rel": 1e-12,
}
# Where precise steps do not get there: shorter ones, and less is added to the diagonal.
_CAREFUL: dict[str, Any] = _PRECISE | {
    "max_step_fraction": 0.95,
    "max_iter": 500,
    "static_regularization_constant": 1e-10,
    "iterative_refinement_max_iter": 30,
}
# And where neither does: in the units as they are.
_PLAIN: dict[str, Any] = _CAREFUL | {"equilibrate_enable": False}
CARE = (_PRECISE, _CAREFUL, _PLAIN)


@dataclass(frozen=True, eq=False)
class Arrays:
    """P: upper triangle, csc (n, n); q: (n,); G: csc (m, n); h: (m,); straight: how many rows are >= 0; the others are
    second-order cones, three rows each."""

    P: Any
    q: Array
    G: Any
    h: Array
    straight: int


def solve_arrays(arrays: Arrays, care: int = 0) -> tuple[Array, Array, str]:
    """x (n,), the multipliers z >= 0 of the rows (m,), and the word that Clarabel ends with.

    care: 0, or 1 and 2 for settings that are slower and seldom needed.
    """
    import clarabel

    settings = clarabel.DefaultSettings()
    for name, value in CARE[care].items():
        setattr(settings, name, value)
    cones = [clarabel.NonnegativeConeT(arrays.straight)]
    cones += [clarabel.SecondOrderConeT(3)] * ((len(arrays.h) - arrays.straight) // 3)
    raw = clarabel.DefaultSolver(arrays.P, arrays.q, arrays.G, arrays.h, cones, settings).solve()
    return np.asarray(raw.x), np.asarray(raw.z), str(raw.status)
