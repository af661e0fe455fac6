"""Tangents of cones and logarithms: linear rows that every point of a convex program satisfies.

At a point x̄, with ŝ = (ŝ₀, ŝ₁) the entries of a second-order cone (`form.py`) and ū the argument of a logarithm there,

    ŝ₀(x) >= ūᵀŝ₁(x),   ū = ŝ₁(x̄)/‖ŝ₁(x̄)‖          t <= log ū + (u(x) - ū)/ū

Both cut x̄ off where it is outside, and touch where it is on the boundary. (A cone at its apex has no tangent there.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mktopt.solvers.cones.scaling import cone_scales
from mktopt.solvers.cones.standard_form import standard_form
from mktopt.solvers.program import Array, Program

# A cone is worth a tangent where less than this share of its first entry is left, and larger than rounding.
_TIGHT = 1e-2
_ROUNDING = 1e-12
_LEAST = 1e-9


class Tangents:
    """The cones and logarithms of a convex program, ready to be cut; columns: x (n,), then t (one per logarithm)."""

    def __init__(self, program: Program) -> None:
        form = standard_form(program.replace(integer=np.zeros(program.n, dtype=bool)))
        scales = replace(cone_scales(form), columns=np.ones(len(form.q)))
        data = form.scaled(scales)
        block = slice(form.ends[-1], form.tail)
        self.form, self.logs, self.n = form, program.logs, program.n
        self.G, self.h = data.G.tocsr()[block], data.h[block]
        self.heads = form.heads - form.ends[-1]

    @property
    def columns(self) -> int:
        """n + number of logarithms."""
        return len(self.form.q)

    def at(self, x: Array) -> tuple[Any, Array]:
        """(rows csr (K, columns), limits (K,)) with rows · (x, t) <= limits, at the point x (n,)."""
        import scipy.sparse as sp

        parts, limits = [sp.csr_array((0, self.columns))], [np.zeros(0)]
        inside = np.zeros(0) if self.logs is None else np.maximum(self.logs.inside(x), _LEAST)
        if len(self.heads):
            rows, limit = self._of_cones(np.r_[x, np.log(inside)])
            parts.append(rows)
            limits.append(limit)
        if self.logs is not None:
            slope = sp.diags_array(1.0 / inside) @ self.logs.M
            parts.append(sp.hstack([-slope, sp.eye_array(len(inside))], format="csr"))
            limits.append(np.log(inside) - 1.0 + self.logs.offset / inside)
        return sp.vstack(parts, format="csr"), np.concatenate(limits)

    def _of_cones(self, x: Array) -> tuple[Any, Array]:
        import scipy.sparse as sp

        s = self.h - self.G @ x
        first = s[self.heads]
        rest = s.copy()
        rest[self.heads] = 0.0
        length = np.sqrt(np.add.reduceat(rest * rest, self.heads))
        chosen = (length > _ROUNDING) & (first - length <= _TIGHT * np.abs(first))
        weight = -rest / np.where(chosen, length, 1.0)[self.form.cone_of]
        weight[self.heads] = 1.0
        used = np.flatnonzero(chosen[self.form.cone_of])
        rank = np.cumsum(chosen) - 1
        shape = (int(chosen.sum()), len(s))
        pick = sp.csr_array((weight[used], (rank[self.form.cone_of[used]], used)), shape=shape)
        return pick @ self.G, pick @ self.h
