"""A program as IPOPT wants it: smooth functions of a scaled point, and the entries of their derivatives.

    min  σ·sense·f(D x̂)     subject to     R·row_lower <= R·g(D x̂) <= R·row_upper,    lower <= D x̂ <= upper

Powers and prices of a market may be of any size, and the tolerances of an interior-point method are absolute below
one; D, R (diagonal) and σ bring them to order one. Three more changes that leave the answer as it is:

- a logarithm of an affine expression, log(M_k x + o_k), becomes log(t_k) with t_k - M_k x = o_k and t_k >= 0, so that
  no iterate leaves its domain and the Hessian stays as sparse as the rows are;
- rows without a limit or without a variable are left out;
- where there are as many equations as free variables or more, idle variables in [-1, 1] are added: IPOPT refuses such
  problems, although they may well have a solution.

Where the entries of the Jacobian and the Hessian stand is worked out once; a value is then a few operations on vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers.program import Array, Program, inner


@dataclass(frozen=True)
class Scale:
    """D (n,), R (m,) and σ: the unit of each variable, the inverse unit of each row and of the objective."""

    columns: Array
    rows: Array
    objective: float


class Nlp:
    """The functions that IPOPT calls; x̂ is (N,), rows are (M,), multipliers as IPOPT defines them.

    `load` takes another program of the same structure (`fits`), with other numbers.
    """

    def __init__(self, program: Program, scale: Scale) -> None:
        self.program, self.scale = program, scale
        self.solvers: dict[Any, Any] = {}  # what a backend keeps from one solve to the next
        self._choose_rows(program)
        self._choose_logs(program)
        self._count(program)
        self._place(program)
        self.load(program)

    # -- structure ---------------------------------------------------------------------------------------------------

    def _choose_rows(self, program: Program) -> None:
        limited = np.isfinite(program.row_lower) | np.isfinite(program.row_upper)
        self.rows = np.flatnonzero(limited & ~program.empty_rows)
        # Where each row went; the objective (-1) and rows that are left out are -1 and -2.
        self.place = np.full(program.m + 1, -2)
        self.place[self.rows] = np.arange(len(self.rows))
        self.place[-1] = -1

    def _choose_logs(self, program: Program) -> None:
        """Which logarithms are lifted: all but those of one variable that its own lower bound keeps inside."""
        logs = program.logs
        if logs is None:
            self.lifted = np.zeros(0, dtype=np.int64)
            return
        M = logs.M
        single = np.diff(M.indptr) == 1
        inside = np.zeros(len(logs.row), dtype=bool)
        first = M.indptr[:-1][single]
        good = (M.data[first] > 0.0) & (logs.offset[single] == 0.0) & (program.lower[M.indices[first]] >= 0.0)
        inside[single] = good
        self.lifted = np.flatnonzero(~inside)
        self.log_column = np.empty(len(logs.row), dtype=np.int64)
        self.log_column[self.lifted] = program.n + np.arange(len(self.lifted))
        self.direct = np.flatnonzero(inside)
        self.direct_at = M.indptr[:-1][inside]
        self.log_column[self.direct] = M.indices[self.direct_at]
        self.M = M[self.lifted]
        self.M_at = np.flatnonzero(np.repeat(~inside, np.diff(M.indptr)))

    def _count(self, program: Program) -> None:
        self.m = len(self.rows) + len(self.lifted)
        self.n = program.n + len(self.lifted)
        self.n += self._idle(program)

    def _idle(self, program: Program) -> int:
        """How many idle variables are needed: IPOPT wants more free variables than equations."""
        free = int((program.lower < program.upper).sum())
        equations = int((program.row_lower[self.rows] == program.row_upper[self.rows]).sum())
        return max(0, equations + 1 - free)

    def fits(self, program: Program) -> bool:
        """Whether a program has the structure that this was made for."""
        old = self.program
        if program is old:
            return True
        same = program.n == old.n and program.m == old.m and program.sense == old.sense
        same = same and program.remainder is old.remainder
        same = same and _same_places(program.A, old.A) and _same_places(program.P, old.P)
        for kind, names in (("quadratics", ("row", "first", "second")), ("logs", ("row",))):
            new, was = getattr(program, kind), getattr(old, kind)
            same = same and (new is None) == (was is None)
            if same and new is not None:
                same = all(_equal(getattr(new, name), getattr(was, name)) for name in names)
        if same and program.logs is not None and old.logs is not None:
            logs = program.logs
            same = _same_places(logs.M, old.logs.M) and not logs.offset[self.direct].any()
            same = same and bool((logs.M.data[self.direct_at] > 0.0).all())
            same = same and bool((program.lower[self.log_column[self.direct]] >= 0.0).all())
        if not same:
            return False
        limited = np.isfinite(program.row_lower) | np.isfinite(program.row_upper)
        used = np.zeros(program.m, dtype=bool)
        used[self.rows] = True
        fixed = self.n - program.n - len(self.lifted)
        return bool((limited[~used] <= program.empty_rows[~used]).all()) and self._idle(program) <= fixed

    def _place(self, program: Program) -> None:
        """Find the entries of the Jacobian and of the lower triangle of the Hessian, and their scales."""
        D, n = self.scale.columns, program.n
        typical = np.abs(self.M) @ D if len(self.lifted) else np.zeros(0)
        if len(self.lifted) and program.logs is not None:
            typical = np.maximum(typical, np.abs(program.logs.offset[self.lifted]))
        self.D = np.concatenate([D, _power_of_two(typical), np.ones(self.n - n - len(self.lifted))])
        self.R = np.concatenate([self.scale.rows[self.rows], 1.0 / self.D[n : n + len(self.lifted)]])
        self.factor = np.append(self.R, program.sense * self.scale.objective)  # of the row, at -1 of the objective
        A = program.A.tocoo()
        where = self.place[A.row]
        self.A_at = np.flatnonzero(where >= 0)
        jacobian = [(where[self.A_at], A.col[self.A_at])]
        if len(self.lifted):
            M = self.M.tocoo()
            jacobian.append((len(self.rows) + M.row, M.col))
            lifted = np.arange(len(self.lifted))
            jacobian.append((len(self.rows) + lifted, n + lifted))
        if self.m:  # IPOPT refuses a Jacobian without any entry, which a row like exp(x - x) leaves
            jacobian.append((np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)))
        constant = sum(len(part[0]) for part in jacobian)
        hessian = []
        if program.P is not None:
            P = program.P.tocoo()
            self.P_at = np.flatnonzero(P.row >= P.col)
            hessian.append((P.row[self.P_at], P.col[self.P_at]))
            self.P_scale = self.factor[-1] * self.D[P.row] * self.D[P.col]
        self._place_curved(program, jacobian, hessian)
        self.jacobian_at, slots = _merged(jacobian, self.n)
        self._constant_slots, self._moving_slots = slots[:constant], slots[constant:]
        self.hessian_at, self._hessian_slots = _merged(hessian, self.n)
        self._constant_scale = self.R[np.concatenate([part[0] for part in jacobian])[:constant]]
        self._constant_scale = self._constant_scale * self.D[np.concatenate([part[1] for part in jacobian])[:constant]]

    def _place_curved(self, program: Program, jacobian: list[Any], hessian: list[Any]) -> None:
        quadratics, logs, remainder = program.quadratics, program.logs, program.remainder
        if quadratics is not None:
            row = self.place[quadratics.row]
            self.q_at = np.flatnonzero(row >= 0)
            self.q_row, first, second = row[self.q_at], quadratics.first[self.q_at], quadratics.second[self.q_at]
            self.q_first, self.q_second = first, second
            self.q_twice = np.where(first == second, 2.0, 1.0)
            self.q_scale = self.R[self.q_row] * self.D[first] * self.D[second]
            jacobian += [(self.q_row, first), (self.q_row, second)]
            hessian.append((np.maximum(first, second), np.minimum(first, second)))
        if logs is not None:
            row = self.place[logs.row]
            self.log_at = np.flatnonzero(row > -2)
            self.log_row, self.log_in = row[self.log_at], self.log_column[self.log_at]
            self.log_rows, self.log_objective = np.flatnonzero(self.log_row >= 0), np.flatnonzero(self.log_row < 0)
            jacobian.append((self.log_row[self.log_rows], self.log_in[self.log_rows]))
            hessian.append((self.log_in, self.log_in))
        if remainder is not None:
            self._place_remainder(remainder, jacobian, hessian)

    def _place_remainder(self, remainder: Any, jacobian: list[Any], hessian: list[Any]) -> None:
        if not hasattr(remainder, "jacobian_structure"):
            raise SolverError("the nonlinear remainder does not say where its derivatives stand; use NlRemainder")
        row = self.place[remainder.rows]
        self.r_row, self.r_factor = row, np.where(row > -2, self.factor[np.maximum(row, -1)], 0.0)
        k, column = remainder.jacobian_structure
        self.r_jacobian_rows, self.r_gradient = np.flatnonzero(row[k] >= 0), np.flatnonzero(row[k] == -1)
        self.r_gradient_column = column[self.r_gradient]
        self.r_jacobian_scale = self.r_factor[k] * self.D[column]
        i, j = remainder.hessian_structure
        self.r_hessian_scale = self.D[i] * self.D[j]
        jacobian.append((row[k][self.r_jacobian_rows], column[self.r_jacobian_rows]))
        hessian.append((np.maximum(i, j), np.minimum(i, j)))

    # -- numbers -----------------------------------------------------------------------------------------------------

    def load(self, program: Program) -> None:
        """Take the numbers of a program of the same structure."""
        import scipy.sparse as sp

        self.program = program
        n, lifted = program.n, len(self.lifted)
        self.c = np.zeros(self.n)
        self.c[:n] = self.factor[-1] * program.c * self.D[:n]
        self.constant = self.factor[-1] * program.constant
        idle = np.ones(self.n - n - lifted)
        self.lower = np.concatenate([program.lower, np.zeros(lifted), -idle]) / self.D
        self.upper = np.concatenate([program.upper, np.full(lifted, np.inf), idle]) / self.D
        parts, offsets = [program.A.data[self.A_at]], np.zeros(0)
        if program.logs is not None:
            offsets = program.logs.offset[self.lifted]
            self._load_logs(program.logs, parts)
        parts.append(np.zeros(min(self.m, 1)))
        self.row_lower = np.concatenate([program.row_lower[self.rows], offsets]) * self.R
        self.row_upper = np.concatenate([program.row_upper[self.rows], offsets]) * self.R
        self.constant_entries = np.concatenate(parts) * self._constant_scale
        self.constant_jacobian = np.bincount(self._constant_slots, self.constant_entries, len(self.jacobian_at[0]))
        self.linear = sp.csr_array((self.constant_jacobian, self.jacobian_at), shape=(self.m, self.n))
        if program.P is not None:
            self.P_entries = program.P.data * self.P_scale
            self.P = sp.csc_array((self.P_entries, program.P.indices, program.P.indptr), shape=(n, n))
            self.P_entries = self.P_entries[self.P_at]
        if program.quadratics is not None:
            self.q_coef = program.quadratics.coef[self.q_at] * self.q_scale
        self._last: dict[str, tuple[Array, Array]] = {}

    def _load_logs(self, logs: Any, parts: list[Array]) -> None:
        if len(self.lifted):
            parts += [-logs.M.data[self.M_at], np.ones(len(self.lifted))]
        slope = np.ones(len(logs.row))
        slope[self.direct] = logs.M.data[self.direct_at]
        self.log_slope = slope[self.log_at] * self.D[self.log_in]
        self.log_coef = logs.coef[self.log_at] * self.factor[self.log_row]

    @property
    def moving(self) -> bool:
        """Whether the Jacobian depends on x."""
        return bool(len(self._moving_slots))

    # -- what IPOPT calls --------------------------------------------------------------------------------------------

    def objective(self, x: Array) -> float:
        """σ·sense·f."""
        value = self.constant + inner(self.c, x)
        if self.program.P is not None:
            part = x[: self.program.n]
            value += 0.5 * inner(part, self.P @ part)
        if self.program.logs is not None:
            value += float(self._logs(x)[self.log_objective].sum())
        if self.program.remainder is not None:
            value += float(self._remainder(x)[self.r_row == -1].sum())
        return value

    def gradient(self, x: Array) -> Array:
        """∇(σ·sense·f) (N,)."""
        value = self.c.copy()
        if self.program.P is not None:
            value[: self.program.n] += self.P @ x[: self.program.n]
        if self.program.logs is not None and len(self.log_objective):
            where = self.log_in[self.log_objective]
            value += np.bincount(where, self.log_coef[self.log_objective] / x[where], self.n)
        if self.program.remainder is not None and len(self.r_gradient):
            slope = self._remainder_jacobian(x)[self.r_gradient]
            value += np.bincount(self.r_gradient_column, slope, self.n)
        return value

    def constraints(self, x: Array) -> Array:
        """R g (M,)."""
        value = np.asarray(self.linear @ x)
        if self.program.quadratics is not None:
            value += np.bincount(self.q_row, self.q_coef * x[self.q_first] * x[self.q_second], self.m)
        if self.program.logs is not None:
            value += np.bincount(self.log_row[self.log_rows], self._logs(x)[self.log_rows], self.m)
        if self.program.remainder is not None:
            used = self.r_row >= 0
            value += np.bincount(self.r_row[used], self._remainder(x)[used], self.m)
        return value

    def jacobian(self, x: Array) -> Array:
        """The entries of the Jacobian of the rows, where `jacobian_at` says."""
        parts = []
        if self.program.quadratics is not None:
            parts += [self.q_coef * x[self.q_second], self.q_coef * x[self.q_first]]
        if self.program.logs is not None:
            parts.append(self.log_coef[self.log_rows] / x[self.log_in[self.log_rows]])
        if self.program.remainder is not None:
            parts.append(self._remainder_jacobian(x)[self.r_jacobian_rows])
        if not parts:
            return self.constant_jacobian
        moving = np.bincount(self._moving_slots, np.concatenate(parts), len(self.constant_jacobian))
        return self.constant_jacobian + moving

    def hessian(self, x: Array, multipliers: Array, objective_factor: float) -> Array:
        """The entries of objective_factor · ∇²objective + Σ_i multipliers_i ∇²row_i, where `hessian_at` says."""
        weights = np.append(multipliers, objective_factor)
        parts = []
        if self.program.P is not None:
            parts.append(objective_factor * self.P_entries)
        if self.program.quadratics is not None:
            parts.append(self.q_twice * self.q_coef * weights[self.q_row])
        if self.program.logs is not None:
            parts.append(-weights[self.log_row] * self.log_coef / x[self.log_in] ** 2)
        if self.program.remainder is not None:
            scaled = self.r_factor * weights[np.maximum(self.r_row, -1)]
            entries = self.program.remainder.hessian_values(self._unscaled(x), scaled)  # type: ignore[attr-defined]
            parts.append(entries * self.r_hessian_scale)
        if not parts:
            return np.zeros(0)
        return np.bincount(self._hessian_slots, np.concatenate(parts), len(self.hessian_at[0]))

    def _unscaled(self, x: Array) -> Array:
        n = self.program.n
        return np.asarray(x[:n] * self.D[:n])

    def _logs(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.log_coef * np.log(self.log_slope * x[self.log_in]))

    def _remainder(self, x: Array) -> Array:
        return self._once("value", x)

    def _remainder_jacobian(self, x: Array) -> Array:
        return self._once("jacobian", x)

    def _once(self, kind: str, x: Array) -> Array:
        """Values or derivatives of the remainder, which objective and rows share at one point."""
        last = self._last.get(kind)
        if last is not None and np.array_equal(last[0], x):
            return last[1]
        remainder: Any = self.program.remainder
        point = self._unscaled(x)
        if kind == "value":
            found = remainder.value(point) * self.r_factor
        else:
            found = remainder.jacobian_values(point) * self.r_jacobian_scale
        self._last[kind] = (x.copy(), found)
        return found


def _merged(parts: list[tuple[Array, Array]], n: int) -> tuple[tuple[Array, Array], Array]:
    """((row, column) of the distinct entries, in order of rows; the entry that each of the parts' entries adds to)."""
    if not parts:
        return (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)), np.zeros(0, dtype=np.int64)
    row, column = (np.concatenate([part[k] for part in parts]).astype(np.int64) for k in (0, 1))
    keys, slots = np.unique(row * n + column, return_inverse=True)
    where = np.divmod(keys, n)
    return (where[0], where[1]), slots


def _same_places(a: Any, b: Any) -> bool:
    if a is None or b is None or a is b:
        return a is b
    return bool(a.shape == b.shape and _equal(a.indptr, b.indptr) and _equal(a.indices, b.indices))


def _equal(a: Array, b: Array) -> bool:
    return a is b or bool(np.array_equal(a, b))


def _power_of_two(sizes: Array) -> Array:
    """The nearest power of two, so that scaling rounds nothing; 1 for zero."""
    return np.asarray(2.0 ** np.round(np.log2(np.where(sizes > 0.0, sizes, 1.0))))
