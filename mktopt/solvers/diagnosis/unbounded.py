"""Which variables grow without bound when the objective has no limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers import clarabel, highs
from mktopt.solvers.diagnosis.carried import carried, cone_rows
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Stopped


@dataclass(frozen=True)
class Growth:
    """One variable of an unbounded direction: its column, its Pyomo name, and its share of the direction (signed)."""

    column: int
    name: str
    amount: float

    def __str__(self) -> str:
        return f"{self.name} ({'grows' if self.amount > 0 else 'falls'} {abs(self.amount):.3g})"


def unbounded_direction(program: Program) -> list[Growth]:
    """The direction that improves the objective most per unit of movement, largest part first; [] if there
    is none.

        max  -sense · cᵀd   s.t.  A d and d in the recession cones of the limits,  P d = 0,  Σ|d| <= 1

    A finite lower limit asks for >= 0, a finite upper limit for <= 0. The sum of |d| keeps the support
    small, so that the variables at fault are named and not everything that could move along. The amounts
    are scaled to a largest of one. Integers are treated as reals (a rational direction of the relaxation
    can be scaled to whole numbers). Convex curved rows enter by their recession cones: a convex quadratic row asks for
    Q d = 0 and its linear part, a cone `squares <= product` for itself without its constants, a logarithm for an
    argument that does not fall (what grows by a logarithm alone has no direction). [] for programs that are not
    convex, where a direction proves nothing. Rockafellar, "Convex Analysis" (1970), section 8.
    """
    if program.curved:
        direction = np.zeros(program.n) if program.not_convex else _curved_direction(program)
    else:
        direction = _direction(program)
    largest = np.abs(direction).max(initial=0.0)
    if largest <= 1e-7:
        return []
    direction = direction / largest
    order = np.argsort(-np.abs(direction), kind="stable")
    return [
        Growth(int(j), str(program.variables[j].name), float(direction[j])) for j in order if abs(direction[j]) > 1e-7
    ]


def _direction(program: Program) -> Array:
    import scipy.sparse as sp

    n = program.n
    gain = program.sense * program.c
    size = float(np.abs(gain).max(initial=0.0))
    if size == 0.0:
        return np.zeros(n)
    row_lower, row_upper = _recession(program.row_lower, program.row_upper)
    lower, upper = _recession(program.lower, program.upper)
    parts = [program.A]
    if program.P is not None:
        flat = program.P.tocsr()
        flat = flat[np.flatnonzero(np.diff(flat.indptr))]
        scale = 1.0 / np.maximum(abs(flat).max(axis=1).toarray().ravel(), 1e-300)
        parts.append(flat * scale[:, None])
        row_lower, row_upper = (np.r_[side, np.zeros(flat.shape[0])] for side in (row_lower, row_upper))
    A = sp.vstack(parts, format="csr")
    total = sp.csr_array(np.ones((1, 2 * n)))
    cone = Program(
        variables=[],
        rows=[],
        A=sp.vstack([sp.hstack([A, -A], format="csr"), total], format="csr"),
        row_lower=np.r_[row_lower, -np.inf],
        row_upper=np.r_[row_upper, 1.0],
        lower=np.zeros(2 * n),
        upper=np.r_[np.minimum(upper, 1.0), np.minimum(-lower, 1.0)],
        integer=np.zeros(2 * n, dtype=bool),
        c=np.r_[gain, -gain] / size,
        P=None,
    )
    answer = highs.solve_auxiliary(cone)
    if answer.status.stopped is not Stopped.OPTIMAL or not len(answer.x) or answer.objective > -1e-9:
        return np.zeros(n)
    return np.asarray(answer.x[:n] - answer.x[n:])


def _recession(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Limits on a direction: zero where the limit itself is finite."""
    return np.where(np.isfinite(lower), 0.0, -np.inf), np.where(np.isfinite(upper), 0.0, np.inf)


def _curved_direction(program: Program) -> Array:
    """As `_direction`, with curved rows: columns d (n,), then u >= |d| with Σ u <= 1."""
    import scipy.sparse as sp

    n, m = program.n, program.m
    gain = program.sense * program.c
    size = float(np.abs(gain).max(initial=0.0))
    if size == 0.0:
        return np.zeros(n)
    flat, cones = _flat_parts(program)
    row_lower, row_upper = _recession(program.row_lower, program.row_upper)
    lower, upper = _recession(program.lower, program.upper)
    inside = sp.csr_array((0, n)) if program.logs is None else program.logs.M
    linear = sp.diags_array(1.0 - np.isin(np.arange(m), cones)) @ program.A
    eye = sp.eye_array(n)
    A = sp.vstack([sp.csr_array(linear), flat, inside], format="csr")
    A = sp.block_array([[A, None], [-eye, eye], [eye, eye], [None, sp.csr_array(np.ones((1, n)))]], format="csr")
    zeros, none = np.zeros(flat.shape[0]), np.full(inside.shape[0], np.inf)
    cone = Program(
        variables=[],
        rows=[],
        A=A,
        row_lower=np.r_[row_lower, zeros, np.zeros(inside.shape[0] + 2 * n), -np.inf],
        row_upper=np.r_[row_upper, zeros, none, np.full(2 * n, np.inf), 1.0],
        lower=np.r_[np.maximum(lower, -1.0), np.zeros(n)],
        upper=np.r_[np.minimum(upper, 1.0), np.ones(n)],
        integer=np.zeros(2 * n, dtype=bool),
        c=np.r_[gain / size, np.zeros(n)],
        P=None,
    )
    held = np.where(np.isin(np.arange(A.shape[0]), cones), np.arange(A.shape[0]), -1)
    cone = cone.replace(quadratics=carried(program, held, n)["quadratics"])
    answer = highs.solve_auxiliary(cone) if not cone.curved else clarabel.solve(cone)
    if answer.status.stopped is not Stopped.OPTIMAL or not len(answer.x) or answer.objective > -1e-7:
        return np.zeros(n)
    return np.where(np.abs(answer.x[:n]) > 1e-5 * np.abs(answer.x[:n]).max(), answer.x[:n], 0.0)


def _flat_parts(program: Program) -> tuple[Any, Array]:
    """(rows in which a direction must be zero: of P and of convex quadratic rows, scaled; rows that are cones)."""
    import scipy.sparse as sp

    parts = [] if program.P is None else [sp.csr_array(program.P)]
    cones, quadratics = cone_rows(program), program.quadratics
    if quadratics is not None:
        for row in np.setdiff1d(quadratics.row, cones).tolist():
            columns, Q = quadratics.matrix(row)
            part = sp.coo_array(Q)
            parts.append(sp.csr_array((part.data, (part.row, columns[part.col])), shape=(len(columns), program.n)))
    flat = sp.vstack(parts, format="csr") if parts else sp.csr_array((0, program.n))
    flat = flat[np.flatnonzero(np.diff(flat.indptr))]
    largest = abs(flat).max(axis=1).toarray().ravel() if flat.shape[0] else np.zeros(0)
    return flat * (1.0 / np.maximum(largest, 1e-300))[:, None], cones
