"""Multipliers where a cone is at its apex: from a point a hair's breadth inside it.

A row k t² >= ‖F x‖² with t >= 0 has no gradient at t = 0, F x = 0, where an idle device or a norm that is minimised
puts it, and so no finite multiplier need exist: the value falls like the square root of what the row's right-hand side
is moved. But the row  k t² >= ‖F x‖² + ε²  has one everywhere, and its optimum is off by the order of ε. On it
ẑ = μ (ŝ₀, -ŝ₁, -ŝ₂) (see `form.py`), so that from the multipliers ẑ of the cone at its apex

    ŝ = ε (ẑ₀, -ẑ₁, -ẑ₂) / √(ẑ₀² - ẑ₁² - ‖ẑ₂‖²),      μ = √(ẑ₀² - ẑ₁² - ‖ẑ₂‖²) / ε

is where Newton's method on that row starts. The answer satisfies all conditions of the row itself to the order of ε,
with a multiplier of the order of 1/ε: that is what its right-hand side is worth there.
"""

from __future__ import annotations

import numpy as np

from mktopt.solvers.cones.form import Data, Form
from mktopt.solvers.program import Array

EPSILON = 2.0**-26
# A cone is at its apex where its entries are this small beside its multipliers.
_NEAR = 1e-3


def leave(form: Form, data: Data, x: Array, z: Array, s: Array) -> tuple[Array, Array, Array] | None:
    """(x̂ (N,), program rows (K,), λ (K,) >= 0) a step inside the cones that are at their apex; None where none is.

    x, z, s: x̂, ẑ, ŝ of the solver. λ: multipliers of rows written as `<=` in a minimisation.
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    if not len(form.sizes) or form.linear.all():
        return None
    block = slice(form.ends[-1], form.tail)
    heads = form.heads - form.ends[-1]
    sign = -np.ones(form.tail - form.ends[-1])
    sign[heads] = 1.0
    entries, weights = s[block], z[block]
    size = np.sqrt(np.add.reduceat(entries * entries, heads))
    worth = np.sqrt(np.add.reduceat(weights * weights, heads))
    inside = np.add.reduceat(sign * weights * weights, heads)
    at_apex = ~form.linear & (size < _NEAR * np.minimum(worth, 1.0)) & (inside > 1e-6 * worth * worth)
    cones = np.flatnonzero(at_apex)
    if not len(cones):
        return None
    root = np.sqrt(inside[cones])
    used = np.flatnonzero(at_apex[form.cone_of])
    aim = EPSILON * (sign * weights)[used] / np.repeat(root, form.sizes[cones])
    used += form.ends[-1]
    binding = np.flatnonzero((z > s)[: form.ends[-1]] | (np.arange(form.ends[-1]) < form.ends[1]))
    G = data.G.tocsr()[np.r_[binding, used]]
    away = np.r_[np.zeros(len(binding)), aim - (data.h - data.G @ x)[used]]
    columns = np.unique(G.indices)
    part = sp.csc_array(G.tocsc()[:, columns])
    try:
        normal = splu(sp.csc_array(part.T @ part + 1e-10 * sp.eye_array(len(columns))))
    except RuntimeError:
        return None
    moved = x.copy()
    moved[columns] -= normal.solve(part.T @ away)
    rows = np.broadcast_to(data.scales.rows, len(form.h))[form.heads[cones]]
    return moved, form.conic[cones], 2.0 * rows**2 * root / (EPSILON * data.scales.money)
