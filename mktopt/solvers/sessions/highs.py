"""A session's HiGHS: it keeps model and basis, is handed what changed, and starts from where it stopped.

Its answer is (x, y); what it says beside these is not used. With z = c - Aᵀy computed here, so that stationarity is
exact, and a = (x, A x), w = (z, y), the answer is optimal where no limit is passed, no w pushes against a limit that is
not there, and the products of multiplier and distance

    max(w, 0) (a - low)   and   max(-w, 0) (high - a)

which sum to the duality gap, are nothing beside the money that moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mktopt.solvers.highs import NAME, load, version
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array, Program
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.data import Changes, Doubt, Found, affine_of, as_slice, dot_of, product_into
from mktopt.solvers.solution import TOLERANCE, Has, Solution, Status, Stopped

_Step = Callable[[Array], None]


class HighsSession:
    """HiGHS on the arrays of a `Parametric` that is an LP, with or without whole-number variables."""

    name = NAME
    takes = ("LP", "MILP")

    def __init__(
        self, parametric: Parametric, changes: Changes, theta: Array, options: Mapping[str, Any]
    ) -> None:
        import highspy

        self.version = version()
        self._parametric, self._changes = parametric, changes
        program = parametric.at(theta).replace(constant=0.0)
        self._sense, self._integers = program.sense, bool(program.integer.any())
        self._sign = float(marginal_values(program.sense, np.ones(1), derivative=True)[0])
        self._highs, self._states = load(program, options), highspy.HighsModelStatus
        self._optimal = self._states.kOptimal
        self._check = _Check(program)
        self._plans: dict[int, list[_Step]] = {}

    def fits(self, x: Array) -> bool:
        """A basis needs no scale."""
        return True

    def solve(self, theta: Array, dirty: int) -> Found | Doubt | Solution | str:
        """See `Backend`."""
        highs, check = self._highs, self._check
        if dirty:
            plan = self._plans.get(dirty)
            if plan is None:
                plan = self._plans[dirty] = self._plan(dirty)
            for step in plan:
                step(theta)
        highs.run()
        status = highs.getModelStatus()
        if status != self._optimal:
            return self._unsolved(status)
        raw = highs.getSolution()
        if self._integers:
            return self._with_integers(np.array(raw.col_value))
        supported = check.supports(raw.col_value, raw.row_dual)
        duals = self._sign * check.w
        if check.inside:
            x = check.x.copy()
        else:
            x = np.maximum(check.x, check.lower)
            np.minimum(x, check.upper, out=x)
        # The number of iterations is not asked for: the question takes as long as a tenth of a warm solve.
        found = Found(x, duals[check.n :], duals[: check.n], self._sense * check.value, 0)
        return found if supported else Doubt(found)

    def _with_integers(self, x: Array) -> Doubt:
        """A point without duals; what it is worth as a point is left to the ordinary residuals."""
        info, none = self._highs.getInfo(), np.zeros(0)
        objective, bound = float((self._check.cost * x).sum()), float(info.mip_dual_bound)
        iterations = max(int(info.simplex_iteration_count), 0)
        return Doubt(Found(x, none, none, self._sense * objective, iterations, self._sense * bound))

    def _unsolved(self, status: Any) -> Solution | str:
        message = f"HiGHS: {self._highs.modelStatusToString(status)}"
        known = {self._states.kInfeasible: Stopped.INFEASIBLE, self._states.kUnbounded: Stopped.UNBOUNDED}
        if status not in known:
            return message
        return Solution(Status(known[status], Has.NOTHING), self.name, self.version, message=message)

    # -- new data ---------------------------------------------------------------------------------------------

    def _plan(self, dirty: int) -> list[_Step]:
        """What to do when the Params of a set have new values: write their entries, and hand them to HiGHS."""
        highs, check = self._highs, self._check
        plan = []
        if len(at := self._changes.of("c", dirty)):
            plan.append(self._costs(at))
        columns = self._changes.of("lower", dirty), self._changes.of("upper", dirty)
        rows = self._changes.of("row_lower", dirty), self._changes.of("row_upper", dirty)
        if len(at := np.union1d(*columns)):
            plan.append(self._limits(at, "lower", "upper", highs.changeColsBounds))
        if len(at := np.union1d(*rows)):
            plan.append(self._limits(at, "row_lower", "row_upper", highs.changeRowsBounds))
        if any(map(len, (*columns, *rows))):
            plan.append(lambda theta: check.refresh_limits())
        if len(at := self._changes.of("A", dirty)):
            plan.append(self._coefficients(at))
        return plan

    def _costs(self, at: Array) -> _Step:
        highs, check = self._highs, self._check
        new, index, here = np.zeros(len(at)), at.astype(np.int32), as_slice(at)
        write = affine_of(self._parametric, "c").take(at).scaled(float(self._sense)).writer(new)

        def step(theta: Array) -> None:
            write(theta)
            highs.changeColsCost(len(index), index, new)
            check.cost[here] = new
            check.least_money = -1.0

        return step

    def _limits(self, at: Array, low: str, high: str, change: Callable[..., Any]) -> _Step:
        mine = getattr(self._check, low), getattr(self._check, high)
        new, index = (np.zeros(len(at)), np.zeros(len(at))), at.astype(np.int32)
        write = [
            affine_of(self._parametric, name).take(at).writer(out)
            for name, out in zip((low, high), new, strict=True)
        ]

        def step(theta: Array) -> None:
            for k in (0, 1):
                write[k](theta)
                mine[k][at] = new[k]
            change(len(index), index, *new)

        return step

    def _coefficients(self, at: Array) -> _Step:
        A, check, highs = self._check.A, self._check, self._highs
        new = np.zeros(len(at))
        write = affine_of(self._parametric, "A").take(at).writer(new)
        where = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))[at].tolist(), A.indices[at].tolist()

        def step(theta: Array) -> None:
            write(theta)
            A.data[at] = new
            for row, column, value in zip(*where, new.tolist(), strict=True):
                highs.changeCoeff(row, column, value)
            check.refresh_matrix()

        return step


class _Check:
    """Whether (x, y) is optimal, by one product with [A 0; 0 -Aᵀ]."""

    def __init__(self, program: Program) -> None:
        import scipy.sparse as sp

        self.n, self.m, self._typical, self.value = program.n, program.m, program.typical, 0.0
        n, m, both = self.n, self.m, self.n + self.m
        self.A = program.A.copy()
        self.lower, self.upper = program.lower.copy(), program.upper.copy()
        self.row_lower, self.row_upper = program.row_lower.copy(), program.row_upper.copy()
        # One array for (x, A x, z, y): the product reads its ends and writes its middle.
        self._all = np.zeros(2 * both)
        self.x, self._middle, self.y = self._all[:n], self._all[n : both + n], self._all[both + n :]
        self._a, self.w = self._all[:both], self._all[both:]
        A = self.A.tocoo()
        entry = np.r_[1.0 + np.arange(A.nnz), -1.0 - np.arange(A.nnz)]
        where = np.r_[A.row, m + A.col], np.r_[A.col, both + n + A.row]
        K = sp.csr_array((entry, where), shape=(both, 2 * both))
        self._take, self._flip, self._entries = np.abs(K.data).astype(np.int64) - 1, np.sign(K.data), K.data
        self._apply = product_into(K)
        self._constant = np.r_[np.zeros(m), program.sense * program.c]
        self.cost, self.least_money = self._constant[m:], -1.0
        self._distance, self._pull = np.zeros((2, both)), np.zeros((2, both))
        self._distance_flat, self._pull_flat, self.inside = self._distance.ravel(), self._pull.ravel(), True
        low, high = np.r_[program.lower, program.row_lower], np.r_[program.upper, program.row_upper]
        self._has = np.array([np.isfinite(low), -1.0 * np.isfinite(high)], dtype=float)
        self._turn, self._limits = np.array([[1.0], [-1.0]]), np.zeros((2, both))
        self._endless = np.flatnonzero(self._has == 0.0)
        self._dot, self._dot_all = dot_of(n), dot_of(2 * both)
        self.refresh_limits()
        self.refresh_matrix()

    def refresh_limits(self) -> None:
        """Follows new limits."""
        n, mine = self.n, self._limits
        mine[0, :n], mine[0, n:] = self.lower, self.row_lower
        np.negative(self.upper, out=mine[1, :n])
        np.negative(self.row_upper, out=mine[1, n:])
        mine.ravel()[self._endless] = 0.0

    def refresh_matrix(self) -> None:
        """Follows new coefficients."""
        np.multiply(self.A.data[self._take], self._flip, out=self._entries)

    def supports(self, x: Any, y: Any) -> bool:
        """Whether x and y (lists) are optimal within `TOLERANCE`, judged by floors that sizes can only exceed.

        They are left in `x` and `y`, (z, y) with z = c - Aᵀy in `w`, the objective in `value`: of the minimisation.
        """
        self.x[:] = x
        self.y[:] = y
        np.copyto(self._middle, self._constant)
        self._apply(self._all, self._middle)
        distance, pull = self._distance, self._pull
        np.multiply(self._has, self._a, out=distance)
        np.subtract(distance, self._limits, out=distance)
        np.multiply(self._turn, self.w, out=pull)
        np.maximum(pull, 0.0, out=pull)
        self.value = value = self._dot(self.cost, self.x)
        # Products are the gap, none of them greater unless another is negative, by at most what x is outside.
        gap, outside = self._dot_all(self._pull_flat, self._distance_flat), -np.minimum.reduce(self._distance_flat)
        self.inside = outside <= 0.0
        if not self.inside:
            largest = np.maximum.reduce(self.x, initial=0.0)
            if outside > TOLERANCE * max(min(1.0, largest), 1e-4 * largest, 1e-6 * self._typical):
                return False
            gap = abs(gap) + outside * np.add.reduce(self._pull_flat)
        if not abs(gap) <= TOLERANCE * abs(value):
            return False
        return not len(self._endless) or self._no_pull_on_nothing()

    def _no_pull_on_nothing(self) -> bool:
        """Whether no multiplier pushes against a limit that is not there, beyond rounding."""
        if self.least_money < 0.0:
            highest = float(np.abs(self.cost).max(initial=0.0))
            self.least_money = max(min(1.0, highest), 1e-4 * highest)
        return bool(np.maximum.reduce(self._pull_flat[self._endless]) <= TOLERANCE * self.least_money)
