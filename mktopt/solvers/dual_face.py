"""All multipliers that support an optimum, not only those that a solver happened to end at.

At an optimum x* of a convex program the optimal multipliers (y, z) are the polyhedron

    ∇f(x*) = J(x*)ᵀ y + z,   sense·y_i >= 0 at a lower limit, <= 0 at an upper one, free at both, 0 at neither

and likewise z_j at bounds. It does not depend on which optimum x* is. The least and the greatest y_i over it are the
left and right derivatives of the optimal objective in the right-hand side of row i (Rockafellar, "Convex Analysis"
(1970), theorems 23.4 and 29.1): what the last unit saved, and what the next unit costs. An end is infinite where the
program would become infeasible.

It is written in steps d from the multipliers y* that the solver gave, which so are always in it, over the rows R that
bind; F are the columns off their bounds, J_Rj is column j of J with the rows R alone:

    J_RFᵀ d = 0,   sense·(z*_j - J_Rjᵀ d) >= 0 at a lower bound, <= 0 at an upper one,   y* + d of the right signs

In most markets d = 0 alone solves the equations, which one sparse factorisation tells; what they leave undetermined is
found by inverse iteration from random vectors. Rows that move in proportion (a zone of one price) then share one
variable, so that the linear programs for the ends have as many columns as there are such groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers import highs
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Stopped

# Slack up to this share of a limit, or of the typical size of a kW, counts as none.
_SLACK, _ROUNDING = 1e-6, 1e-7
# Entries of null vectors below this share of the largest are zero.
_ZERO = 1e-9
# A candidate that M leaves with more than this share of it is no null vector.
_NULL = 1e-10
_DELTA = 1e-12
_STEPS = 4
# How far multipliers may go, in units of the steepest gradient, while it is found out which of them can move at all.
_FAR = 1e3
_SEED = 20


@dataclass(frozen=True, eq=False)
class DualFace:
    """The optimal multipliers sense·y = sense·y* + money d / size of a program, with

        low <= d <= high,   equal d = 0,   below <= bound d <= above

    y: (m,) the canonical duals y* that it was found from; sense: +1 minimise, -1 maximise; rows: (R,) the rows that
    bind; size: (R,) their largest coefficients; money: the steepest gradient; low, high: (R,), equal: csr (F, R) over
    the columns off their bounds; bound: csr (K, R), below, above: (K,) over those at one bound.
    """

    y: Array
    sense: int
    rows: Array
    size: Array
    money: float
    low: Array
    high: Array
    equal: Any
    bound: Any
    below: Array
    above: Array

    @cached_property
    def loose(self) -> Array:
        """Random vectors d with equal d = 0, (R, 3): a row of zeros is a multiplier that the equations fix."""
        return null_vectors(self.equal)

    @cached_property
    def _ends(self) -> _Ends:
        return _Ends(self)

    def movable(self, rows: Array) -> Array:
        """Which of some rows of the program the equations alone leave open, bool (len(rows),)."""
        open_ = np.zeros(len(self.y), dtype=bool)
        open_[self.rows] = self.loose.any(axis=1)
        return open_[rows]

    def widest(self, rows: Array, tolerance: float = 1e-6) -> int:
        """The position in `rows` of a dual that is not unique, -1 where all are.

        tolerance: what counts as a difference, relative to the steepest gradient. Only where the equations leave
        something open it takes two LPs, with random weights, over what they leave open.
        """
        moving = np.flatnonzero(self.movable(rows))
        if not len(moving):
            return -1
        random = np.random.default_rng(_SEED)
        weights = np.zeros(len(self.y))
        weights[rows[moving]] = random.uniform(0.5, 1.5, len(moving)) * random.choice([-1.0, 1.0], len(moving))
        cost = self._ends.gathered(weights[self.rows])
        apart = np.zeros(len(self.y))
        apart[self.rows] = np.abs(self._ends.spread(self._ends.point(cost) - self._ends.point(-cost)))
        k = int(moving[np.argmax(apart[rows[moving]])])
        return k if apart[rows[k]] > tolerance else -1

    def intervals(self, rows: Array) -> tuple[Array, Array]:
        """Least and greatest optimal dual of each of `rows`; two LPs per group of rows that move in proportion."""
        low, high = self.y[rows].copy(), self.y[rows].copy()
        place = np.zeros(len(self.y), dtype=np.int64)
        place[self.rows] = np.arange(len(self.rows))
        found: dict[int, tuple[float, float]] = {}
        for k in np.flatnonzero(self.movable(rows)).tolist():
            at = int(place[rows[k]])
            group = int(self._ends.group[at])
            if group not in found:
                found[group] = self._ends.interval(group)
            unit = self.sense * self._ends.share[at] * self.money / self.size[at]
            moved = sorted(unit * end for end in found[group])
            low[k], high[k] = low[k] + min(moved[0], 0.0), high[k] + max(moved[1], 0.0)
        return low, high


def dual_face(program: Program, x: Array, row_dual: Array) -> DualFace:
    """The multipliers that support the optimum x (n,), found from the canonical duals (m,) of a solver.

    program: with integers fixed (see `with_integers_fixed`). Of a program that is not convex these are the multipliers
    of this point.
    """
    sense, typical = program.sense, program.typical
    J = (program.jacobian(x) if program.curved else program.A).tocsr()
    slope = sense * program.gradient(x)
    u = sense * row_dual
    w = slope - J.T @ u
    money = float((np.abs(slope) + np.abs(program.c)).max(initial=0.0)) or 1.0
    size = np.zeros(program.m)
    np.maximum.at(size, np.repeat(np.arange(program.m), np.diff(J.indptr)), np.abs(J.data))
    used = size > 0.0
    size[~used] = 1.0
    u = u * size / money
    limits = program.row_lower, program.row_upper
    at_low, at_high = _binding(program.activity(x), *limits, program.size(x), typical * size, u)
    rows = np.flatnonzero((at_low | at_high) & used)
    w = w / money
    held_low, held_high = _binding(x, program.lower, program.upper, np.abs(x), np.full(program.n, typical), w)
    free, one = np.flatnonzero(~(held_low | held_high)), np.flatnonzero(held_low ^ held_high)
    part = (J[rows] * (1.0 / size[rows])[:, None]).T.tocsr()
    return DualFace(
        y=row_dual,
        sense=sense,
        rows=rows,
        size=size[rows],
        money=money,
        low=np.where(at_high[rows], -np.inf, -np.maximum(u[rows], 0.0)),
        high=np.where(at_low[rows], np.inf, np.maximum(-u[rows], 0.0)),
        equal=part[free],
        bound=part[one],
        below=np.where(held_low[one], -np.inf, np.minimum(w[one], 0.0)),
        above=np.where(held_low[one], np.maximum(w[one], 0.0), np.inf),
    )


def _binding(
    value: Array, lower: Array, upper: Array, terms: Array, typical: Array, multiplier: Array
) -> tuple[Array, Array]:
    """(whether the lower, whether the upper limit binds): hardly any slack, or less slack than multiplier.

    multiplier: (K,) in units of the steepest gradient, positive at a lower limit; terms: (K,) the size of what value
    is made of, which its rounding is relative to.
    """
    limits = np.abs(np.array([lower, upper]))
    reach = np.where(np.isfinite(limits), limits, 0.0).max(axis=0)
    unit = np.minimum(np.where(reach > 0.0, reach, np.inf), typical)
    allowed = _SLACK * unit + _ROUNDING * terms
    low, high = value - lower, upper - value
    return (low <= allowed) | (low < multiplier * unit), (high <= allowed) | (high < -multiplier * unit)


def null_vectors(matrix: Any, count: int = 3) -> Array:
    """Random vectors (R, count) of the null space of a sparse matrix (F, R), zeros where there is none.

    Inverse iteration on MᵀM + δ I, by one factorisation of [[I, M], [Mᵀ, -δ I]], which does not square what M is
    worth; δ is so small that nothing but null vectors survives. A row of zeros is a coordinate that is zero in all null
    vectors (with probability one). Golub and Van Loan, "Matrix Computations", 4th edition, section 8.2.
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    F, R = matrix.shape
    v = np.random.default_rng(_SEED).standard_normal((R, count))
    if F == 0 or R == 0 or matrix.nnz == 0:
        return v
    K = sp.block_array([[sp.eye_array(F), matrix], [matrix.T, -_DELTA * sp.eye_array(R)]], format="csc")
    factor = splu(K, permc_spec="MMD_AT_PLUS_A")
    for _ in range(_STEPS):
        v = factor.solve(np.concatenate([np.zeros((F, count)), v]))[F:]
        v = v / np.maximum(np.abs(v).max(axis=0), 1e-300)
    if float(np.abs(matrix @ v).max()) > _NULL:
        return np.zeros((R, count))
    v[np.abs(v).max(axis=1) < _ZERO] = 0.0
    return v


class _Ends:
    """The linear programs over a face, in one variable per group of rows that move in proportion.

    group: (R,) the group of each row, -1 where it does not move; share: (R,) its d over that of its group.
    """

    def __init__(self, face: DualFace) -> None:
        import scipy.sparse as sp

        self.group, self.share = _groups(face.loose)
        at = np.flatnonzero(self.group >= 0)
        count = int(self.group.max(initial=-1)) + 1
        into = sp.csr_array((self.share[at], (at, self.group[at])), shape=(len(self.group), count))
        parts, limits = [], []
        for matrix, low, high in (
            (face.equal, np.zeros(face.equal.shape[0]), np.zeros(face.equal.shape[0])),
            (face.bound, face.below, face.above),
            (sp.eye_array(len(self.group), format="csr")[at], face.low[at], face.high[at]),
        ):
            reduced = sp.csr_array(matrix @ into)
            reduced.data[np.abs(reduced.data) < _ZERO] = 0.0
            reduced.eliminate_zeros()
            kept = np.flatnonzero((np.diff(reduced.indptr) > 0) & (np.isfinite(low) | np.isfinite(high)))
            parts.append(reduced[kept])
            limits.append((low[kept], high[kept]))
        self.A = sp.vstack(parts, format="csr")
        self.low, self.high = (np.concatenate(side) for side in zip(*limits, strict=True))

    def gathered(self, weights: Array) -> Array:
        """The cost of each group (g,) from weights on the rows (R,)."""
        moves = self.group >= 0
        return np.bincount(self.group[moves], (weights * self.share)[moves], self.A.shape[1])

    def spread(self, point: Array) -> Array:
        """d of the rows (R,) from a value per group."""
        return np.where(self.group >= 0, self.share * point[self.group], 0.0)

    def point(self, cost: Array) -> Array:
        """A least point of costᵀd, (g,), within _FAR steepest gradients of y*."""
        answer = highs.solve_auxiliary(_program(self.A, self.low, self.high, cost, _FAR))
        if not len(answer.x):
            raise SolverError(f"the range of prices could not be found: {answer.message}")
        return answer.x

    def interval(self, group: int) -> tuple[float, float]:
        """Least and greatest value of one group, over the groups and rows that have to do with it."""
        row_part, column_part = self._parts
        rows, columns = (np.flatnonzero(part == column_part[group]) for part in (row_part, column_part))
        A, low, high = self.A[rows][:, columns], self.low[rows], self.high[rows]
        if len(columns) == 1:  # low <= a d <= high
            ends = np.array([low, high]) / A.toarray().ravel()
            return float(ends.min(axis=0).max(initial=-np.inf)), float(ends.max(axis=0).min(initial=np.inf))
        found = []
        for sign in (1.0, -1.0):
            cost = np.where(columns == group, sign, 0.0)
            answer = highs.solve_auxiliary(_program(A, low, high, cost, np.inf))
            # d = 0 is feasible, so what has no optimum has no end.
            endless = answer.status.stopped in (Stopped.UNBOUNDED, Stopped.INFEASIBLE_OR_UNBOUNDED)
            if not endless and not len(answer.x):
                raise SolverError(f"the range of prices could not be found: {answer.message}")
            found.append(-sign * np.inf if endless else float(answer.x[columns == group][0]))
        return found[0], found[1]

    @cached_property
    def _parts(self) -> tuple[Array, Array]:
        """The number of the connected part that each row, and each group, belongs to."""
        import scipy.sparse as sp
        from scipy.sparse.csgraph import connected_components

        rows = self.A.shape[0]
        labels = connected_components(sp.block_array([[None, self.A], [self.A.T, None]], format="csr"), False)[1]
        return labels[:rows], labels[rows:]


def _program(A: Any, low: Array, high: Array, cost: Array, far: float) -> Program:
    """min costᵀd subject to low <= A d <= high, |d| <= far."""
    count = len(cost)
    return Program(
        variables=[],
        rows=[],
        A=A,
        row_lower=low,
        row_upper=high,
        lower=np.full(count, -far),
        upper=np.full(count, far),
        integer=np.zeros(count, dtype=bool),
        c=cost,
        P=None,
    )


def _groups(loose: Array) -> tuple[Array, Array]:
    """(group of each row, -1 for a row of zeros; its share): rows of null vectors that are multiples of each other."""
    length = np.linalg.norm(loose, axis=1)
    group, share = np.full(len(loose), -1), np.zeros(len(loose))
    moves = np.flatnonzero(length > 0.0)
    if len(moves):
        way = loose[moves] / length[moves, None]
        turned = np.sign(way[np.arange(len(way)), np.abs(way).argmax(axis=1)])
        known: dict[bytes, int] = {}
        keys = np.round(way * turned[:, None], 6) + 0.0
        group[moves] = [known.setdefault(key.tobytes(), len(known)) for key in keys]
        share[moves] = turned * length[moves]
        largest = np.zeros(len(known))
        np.maximum.at(largest, group[moves], length[moves])
        share[moves] /= largest[group[moves]]
    return group, share
