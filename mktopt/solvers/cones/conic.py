"""Recognising second-order cones and concave logarithms in the rows of a program.

A row  aᵀx + Σ products <= b  (one with `>=` is negated) is a second-order cone in two cases:

**Squares on the smaller side.** The products are ‖Fx‖² (their matrix is positive semidefinite):

    ‖F x‖² <= 1 · (b - aᵀx)

**A product of two non-negative variables on the greater side**, k u v with k > 0 (or a square k t², t >= 0): the other
products are ‖Fx‖², and the linear part is what is left of completed squares and shifted factors,

    ‖F x + g‖² + c0 <= (u + β) · k (v + γ),      c0 >= 0,   u + β >= 0 and v + γ >= 0 by their bounds

Both are  wᵀw <= p r  with p, r >= 0. A logarithm must stand with a coefficient that makes its row or objective convex:
then a column t <= log(M x + offset) in the exponential cone takes its place.

Boyd and Vandenberghe, "Convex Optimization" (2004), sections 4.4.2 and 3.1.5; Lobo et al., "Applications of
second-order cone programming", Linear Algebra and its Applications 284 (1998), section 2.3 (hyperbolic constraints).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers.cones.factor import small_factors, sparse_factor
from mktopt.solvers.program import Array, Program

_DENSE = 40
# Rounding in the constant of a completed square, relative to what it is made of.
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Conic:
    """Rows of a program as wᵀw <= p r, w = F x + g.

    rows: int (R,), ascending; sign: (R,), +1 for `<=`, -1 for `>=`; linear: bool (R,): p = 1, r = b - aᵀx, else
    p = x[first] + shift_first, r = factor · (x[second] + shift_second). sizes: int (R,), length of (p, r, w), or of
    (p, w) where both factors are one variable. F: csr (K, n), g: (K,), the entries of all w, cone after cone.
    curved: all rows with products, those included that say nothing beyond bounds. fault: why a row is no cone, or ''.
    """

    rows: Array
    sign: Array
    linear: Array
    first: Array
    second: Array
    factor: Array
    shift_first: Array
    shift_second: Array
    sizes: Array
    F: Any
    g: Array
    curved: Array
    fault: str = ""

    def implied(self, lower: Array) -> Array:
        """Columns whose lower bound says the same as p >= 0 or r >= 0 of a cone."""
        bent = ~self.linear
        columns, shifts = (
            np.r_[self.first[bent], self.second[bent]],
            np.r_[self.shift_first[bent], self.shift_second[bent]],
        )
        return columns[lower[columns] == -shifts]

    @property
    def paired(self) -> Array:
        """bool (R,): whether p and r are two things; False for a square, of which there is √factor · p once."""
        return self.linear | (self.first != self.second)

    def rows_of_form(self, program: Program, A: Any) -> tuple[Any, Array]:
        """(G csr, h) of s = (p, r, w), cone after cone; A: csr (m, N), the linear rows, N >= n."""
        import scipy.sparse as sp

        heads = np.cumsum(self.sizes) - self.sizes
        body = np.delete(np.arange(int(self.sizes.sum())), np.r_[heads, heads[self.paired] + 1])
        h = np.zeros(int(self.sizes.sum()))
        straight, bent, one = (np.flatnonzero(k) for k in (self.linear, self.paired & ~self.linear, ~self.paired))
        limit = np.where(self.sign > 0, program.row_upper[self.rows], program.row_lower[self.rows])
        h[heads[straight]], h[heads[straight] + 1] = 1.0, (self.sign * limit)[straight]
        h[heads[bent]] = self.shift_first[bent]
        h[heads[bent] + 1] = (self.factor * self.shift_second)[bent]
        root = np.sqrt(self.factor[one])
        h[heads[one]] = root * self.shift_first[one]
        h[body] = self.g
        slope, F = A[self.rows[straight]].tocoo(), self.F.tocoo()
        chosen = straight[slope.row]
        where = (heads[chosen] + 1, heads[bent], heads[bent] + 1, heads[one], body[F.row])
        column = (slope.col, self.first[bent], self.second[bent], self.first[one], F.col)
        value = (self.sign[chosen] * slope.data, -np.ones(len(bent)), -self.factor[bent], -root, -F.data)
        entries = np.concatenate(value), (np.concatenate(where), np.concatenate(column))
        return sp.csr_array(entries, shape=(len(h), A.shape[1])), h


_KNOWN: weakref.WeakKeyDictionary[Program, Conic] = weakref.WeakKeyDictionary()


def recognise(program: Program) -> Conic:
    """The cones in the rows with products of a program; `fault` names the first row that is none.

    Rows without finite limits say nothing and are left out. The answer is kept as long as the program lives.
    """
    found = _KNOWN.get(program)
    if found is None:
        found = _KNOWN[program] = _Reader(program).read()
    return found


def fault_of_rows(program: Program) -> str:
    """Why rows (or logarithms of the objective) are no convex cones, naming the one at fault; '' where they are."""
    if program.remainder is not None and len(program.remainder.rows):
        row = int(program.remainder.rows[0])
        return f"{_name(program, row)} has a part that is neither quadratic nor a logarithm of an affine expression"
    return _fault_of_logs(program) or ("" if program.quadratics is None else recognise(program).fault)


def _name(program: Program, row: int) -> str:
    return "the objective" if row < 0 else f"constraint '{program.rows[row].name}'"


def _fault_of_logs(program: Program) -> str:
    logs = program.logs
    if logs is None:
        return ""
    low = np.append(np.isfinite(program.row_lower), program.sense < 0)
    high = np.append(np.isfinite(program.row_upper), program.sense > 0)
    # Concave where it must be large, convex where it must be small; the objective is the last, as index -1 has it.
    wrong = np.flatnonzero((high[logs.row] & (logs.coef > 0.0)) | (low[logs.row] & (logs.coef < 0.0)))
    if not len(wrong):
        return ""
    k = int(wrong[0])
    name, row = _name(program, int(logs.row[k])), int(logs.row[k])
    if row < 0:
        verb = "minimised" if program.sense > 0 else "maximised"
        return f"{name} is {verb} with a logarithm times {logs.coef[k]:g}, which bends the wrong way"
    if low[row] and high[row]:
        return f"{name} has a logarithm and limits on both sides, and only one of them can be convex"
    side = "at most" if high[row] else "at least"
    return f"{name} asks for {side} a limit of a logarithm times {logs.coef[k]:g}, which is not convex"


class _Reader:
    """The steps of reading one program, on all rows at a time; entries are the live terms of `Quadratics`."""

    def __init__(self, program: Program) -> None:
        terms = program.quadratics
        assert terms is not None
        self.program = program
        self.low, self.high = np.isfinite(program.row_lower), np.isfinite(program.row_upper)
        live = np.flatnonzero((terms.coef != 0.0) & (self.low | self.high)[terms.row])
        self.rows, self.row = np.unique(terms.row[live], return_inverse=True)
        self.first, self.second = terms.first[live].astype(np.int64), terms.second[live].astype(np.int64)
        self.sign = np.where(self.high[self.rows], 1.0, -1.0)
        self.coef = terms.coef[live] * self.sign[self.row]
        limit = np.where(self.sign > 0, program.row_upper[self.rows], program.row_lower[self.rows])
        self.b = self.sign * limit
        self.faults: dict[int, str] = {}  # position in self.rows -> reason

    @property
    def count(self) -> int:
        return len(self.rows)

    def read(self) -> Conic:
        both = np.flatnonzero(self.low[self.rows] & self.high[self.rows])
        for i in both:
            same = self.program.row_lower[self.rows[i]] == self.program.row_upper[self.rows[i]]
            self.faults[int(i)] = (
                "is an equality with products of variables"
                if same
                else "has products of variables and limits on both sides, and only one of them can be convex"
            )
        greater = self._greater_sides()
        return self._assemble(greater, *self._factors(greater))

    def _greater_sides(self) -> Array:
        """The entries (at most one per row) that are the product on the greater side."""
        n = self.program.n
        square = self.first == self.second
        first, second = self.row * n + self.first, self.row * n + self.second
        key, times = np.unique(np.r_[first, second[~square]], return_counts=True)
        alone = (times[np.searchsorted(key, first)] == 1) & (times[np.searchsorted(key, second)] == 1)
        found = np.flatnonzero((self.coef < 0.0) & alone)
        rows, at, times = np.unique(self.row[found], return_index=True, return_counts=True)
        for i in rows[times > 1]:
            self.faults.setdefault(int(i), "has more than one negative square or product, and a cone has one at most")
        return found[at]

    def _factors(self, greater: Array) -> tuple[tuple[Array, ...], Array]:
        """Entries of F (cone, row within the cone, column, value), and the number of rows of F of each cone."""
        rest = np.ones(len(self.row), dtype=bool)
        rest[greater] = False
        square = self.first == self.second
        plain = np.ones(self.count, dtype=bool)  # rows with positive squares only
        plain[self.row[rest & (~square | (self.coef < 0.0))]] = False
        self.plain = plain
        chosen = np.flatnonzero(rest & plain[self.row])
        tall = np.bincount(self.row[chosen], minlength=self.count)
        start = np.cumsum(tall) - tall
        within = np.arange(len(chosen)) - start[self.row[chosen]]
        parts: list[tuple[Array, ...]]
        parts = [(self.row[chosen], within, self.first[chosen], np.sqrt(self.coef[chosen]))]
        others = np.flatnonzero(rest & ~plain[self.row])
        if len(others):
            parts += self._general(others, tall)
        return tuple(np.concatenate(group) for group in zip(*parts, strict=True)), tall

    def _general(self, entries: Array, tall: Array) -> list[tuple[Array, ...]]:
        """Factors of the rows with products: many small ones of a size at a time, large ones one by one."""
        n = self.program.n
        row = self.row[entries]
        keys = np.unique(np.r_[row * n + self.first[entries], row * n + self.second[entries]])
        owner, column = np.divmod(keys, n)
        cones, begin, size = np.unique(owner, return_index=True, return_counts=True)
        place = np.searchsorted(cones, row)
        a = np.searchsorted(keys, row * n + self.first[entries]) - begin[place]
        b = np.searchsorted(keys, row * n + self.second[entries]) - begin[place]
        parts: list[tuple[Array, ...]] = []
        for k in np.unique(size[size <= _DENSE]):
            these = np.flatnonzero(size == k)
            stack = np.full(len(cones), -1)
            stack[these] = np.arange(len(these))
            used = np.flatnonzero(stack[place] >= 0)
            Q = np.zeros((len(these), k, k))
            at = stack[place[used]]
            np.add.at(Q, (at, a[used], b[used]), 0.5 * self.coef[entries[used]])
            np.add.at(Q, (at, b[used], a[used]), 0.5 * self.coef[entries[used]])
            F, bad = small_factors(Q)
            for wrong in np.flatnonzero(bad >= 0):
                self._bends(cones[these[wrong]], column[begin[these[wrong]] + bad[wrong]])
            tall[cones[these]] = k
            one, i, j = np.nonzero(F)
            parts.append((cones[these[one]], i, column[begin[these[one]] + j], F[one, i, j]))
        for c in np.flatnonzero(size > _DENSE):
            used = np.flatnonzero(place == c)
            own = column[begin[c] : begin[c] + size[c]]
            parts.append(self._large(cones[c], own, entries[used], a[used], b[used], tall))
        return parts

    def _large(self, cone: int, column: Array, entries: Array, a: Array, b: Array, tall: Array) -> tuple[Array, ...]:
        import scipy.sparse as sp

        half = 0.5 * self.coef[entries]
        Q = sp.csc_array((np.r_[half, half], (np.r_[a, b], np.r_[b, a])), shape=(len(column), len(column)))
        F, bad = sparse_factor(Q)
        if bad >= 0:
            self._bends(cone, column[bad])
            F = sp.csr_array((0, len(column)))
        F = F.tocoo()
        tall[cone] = F.shape[0]
        return np.full(F.nnz, cone), F.row, column[F.col], F.data

    def _bends(self, cone: int, column: int) -> None:
        name = self.program.variables[column].name
        self.faults.setdefault(int(cone), f"is not convex: its products bend the wrong way along '{name}'")

    def _assemble(self, greater: Array, parts: tuple[Array, ...], tall: Array) -> Conic:
        """Join factors, completed squares, shifted products, and constants with a component of their own."""
        import scipy.sparse as sp

        owner, within, column, value = parts
        first, second, factor = np.full(self.count, -1), np.full(self.count, -1), np.zeros(self.count)
        cones = self.row[greater]
        first[cones], second[cones], factor[cones] = self.first[greater], self.second[greater], -self.coef[greater]
        linear = factor == 0.0
        beta, gamma, spare = (np.zeros(self.count) for _ in range(3))
        shift = np.zeros(int(tall.sum()))  # g of every row of F, cone after cone
        place = (np.cumsum(tall) - tall)[owner] + within
        if len(cones):
            slope, of_first, of_second = self._slopes(linear, first, second, (owner, column, value, place), shift)
            beta[cones], gamma[cones] = -of_second[cones] / factor[cones], -of_first[cones] / factor[cones]
            plain = self.plain[owner]
            shift[place[plain]] = 0.5 * slope[plain] / value[plain]
            squares = np.bincount(np.repeat(np.arange(self.count), tall), shift * shift, self.count)
            spare = self._constants(cones, factor * beta * gamma, squares)
            self._check_bounds(cones, first, beta)
            self._check_bounds(cones, second, gamma)
        trivial = ~linear & (tall + (spare > 0.0) == 0)  # 0 <= p r: true by the bounds of p and r
        square = ~linear & (first == second)
        long = np.where(trivial, 0, np.maximum(tall + (spare > 0.0), square))  # no cone of a single entry
        begin = np.cumsum(long) - long
        g = np.zeros(int(long.sum()))
        g[begin[owner] + within] = shift[place]
        own = np.flatnonzero(spare > 0.0)
        g[begin[own] + tall[own]] = np.sqrt(spare[own])
        F = sp.csr_array((value, (begin[owner] + within, column)), shape=(len(g), self.program.n))
        fault = ""
        if self.faults:
            i = min(self.faults)
            fault = f"{_name(self.program, int(self.rows[i]))} {self.faults[i]}"
        every = (self.rows, self.sign, linear, first, second, factor, beta, gamma, 2 - square + long)
        rows, sign, linear, first, second, factor, beta, gamma, sizes = (a[~trivial] for a in every)
        return Conic(rows, sign, linear, first, second, factor, beta, gamma, sizes, F, g, self.rows, fault)

    def _slopes(
        self, linear: Array, first: Array, second: Array, entries: tuple[Array, Array, Array, Array], shift: Array
    ) -> tuple[Array, Array, Array]:
        """Linear terms of the rows with a product on the greater side: per entry of F, per cone's first and second.

        entries: owner, column, value, place of the entries of F. Where a row of F has several entries, the square is
        completed here, in `shift`.
        """
        owner, column = entries[:2]
        n, A = self.program.n, self.program.A[self.rows].tocoo()
        live = np.flatnonzero(~linear[A.row] & (A.data != 0.0))
        cone, where, value = A.row[live].astype(np.int64), A.col[live], self.sign[A.row[live]] * A.data[live]
        on_first, on_second = where == first[cone], where == second[cone]
        # A square's linear term belongs half to each of its two equal factors.
        value = np.where(on_first & on_second, 0.5 * value, value)
        sums = [np.bincount(cone[on], value[on], self.count) for on in (on_first, on_second)]
        rest = np.flatnonzero(~on_first & ~on_second)
        key, wanted = owner * n + column, cone[rest] * n + where[rest]
        plain = self.plain[owner]
        order = np.argsort(key)
        at = order[np.minimum(np.searchsorted(key, wanted, sorter=order), len(order) - 1)] if len(order) else rest * 0
        known = (key[at] == wanted) & plain[at] if len(order) else np.zeros(len(rest), dtype=bool)
        slope = np.zeros(len(owner))
        slope[at[known]] = value[rest[known]]
        left = rest[~known]
        self._complete(cone[left], where[left], value[left], entries, shift)
        logs = self.program.logs
        mixed = np.flatnonzero(~linear & np.isin(self.rows, [] if logs is None else logs.row))
        for i in mixed:
            self.faults.setdefault(int(i), "is no second-order cone: beside its products stands a logarithm")
        return slope, sums[0], sums[1]

    def _complete(
        self, cone: Array, where: Array, value: Array, entries: tuple[Array, Array, Array, Array], shift: Array
    ) -> None:
        """‖F x‖² + aᵀx = ‖F x + g‖² - gᵀg with 2 Fᵀg = a, for small cones: g into `shift`, or a fault without one."""
        owner, column, data, place = entries
        order = np.argsort(owner, kind="stable")
        for i in np.unique(cone):
            used = order[slice(*np.searchsorted(owner, [i, i + 1], sorter=order))]
            own, at = np.unique(column[used], return_inverse=True)
            these = cone == i
            stray = where[these][~np.isin(where[these], own)]
            rows, row = np.unique(place[used], return_inverse=True)
            if not len(stray) and len(own) <= _DENSE:
                F, a = np.zeros((len(rows), len(own))), np.zeros(len(own))
                F[row, at] = data[used]
                np.add.at(a, np.searchsorted(own, where[these]), value[these])
                g = np.linalg.lstsq(2.0 * F.T, a, rcond=1e-12)[0]
                if float(np.abs(2.0 * F.T @ g - a).max()) <= 1e-10 * float(np.abs(a).max()):
                    shift[rows] = g
                    continue
            name = self.program.variables[stray[0] if len(stray) else where[these][0]].name
            self.faults.setdefault(
                int(i), f"is no second-order cone: beside its products stands the linear term of '{name}'"
            )

    def _constants(self, cones: Array, product: Array, squares: Array) -> Array:
        """c0 of each cone (R,), without what is rounding: what stands beside the squares on their side."""
        constant = product - self.b - squares
        constant[np.abs(constant) <= _ROUNDING * (np.abs(product) + np.abs(self.b) + squares)] = 0.0
        for i in cones[constant[cones] < 0.0]:
            self.faults.setdefault(
                int(i), f"is no second-order cone: its product may be {-constant[i]:g} less than its squares"
            )
        found = np.zeros(self.count)
        found[cones] = np.maximum(constant[cones], 0.0)
        return found

    def _check_bounds(self, cones: Array, column: Array, shift: Array) -> None:
        low = self.program.lower[column[cones]]
        for k in np.flatnonzero(low < -shift[cones]):
            cone = cones[k]
            name, least = self.program.variables[column[cone]].name, -shift[cone]
            self.faults.setdefault(
                int(cone),
                f"bounds squares by a product of variables, of which '{name}' needs a lower bound >= {least + 0.0:g}"
                f" (it is {low[k]:g})",
            )
