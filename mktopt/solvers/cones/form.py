"""A convex program in the form that interior-point methods over cones take: its arrays, scales and duals.

    min ½ xᵀP x + qᵀx   subject to   G x + s = h,   s in a product of cones

x: (N,), the program's n columns, then one column t_k per logarithm. The rows of G, in this order (`Form`):

    equal      A_i x = b                         zero cone
    pinned     x_j = bound                       zero cone (two inequalities would leave no interior)
    above      A_i x <= row_upper                s >= 0
    below     -A_i x <= -row_lower               s >= 0
    upper      x_j <= upper;  lower  -x_j <= -lower
    per conic row of the program (`conic.py`):   s = (p, r, w),  p r >= wᵀw,  p, r >= 0
    per logarithm:                               s = (t, 1, u),  t <= log u,  u = M_k x + offset_k

**Scales.** With x = d x̂ and the objective times σ, so that powers and prices are of order one whatever the size of the
market (tolerances of an interior-point method are absolute below one), rows are multiplied by what leaves their cone
as it is: a linear one by any e > 0, a conic one as a whole by e, with p turned against r by α,

    ŝ = e (α p + r/α,  α p - r/α,  2 w)  in the second-order cone,   ŝ₀² - ŝ₁² - ‖ŝ₂‖² = 4 e² (p r - wᵀw)

(where p and r are one and the same, ŝ = 2 e (p, w): an entry that says nothing would leave its multiplier undecided),

and a logarithm by e, with u measured in units of 1/ρ:   ŝ = e (t + log ρ, 1, ρ u)  in the exponential cone.

**Duals.** ẑ are the multipliers of Ĝ x̂ + ŝ = ĥ. With z = T ẑ/σ, where T is the row scaling above transposed, those of
G x + s = h, so that qᵀ + xᵀP + zᵀG = 0 at an optimum. Linear rows and bounds: the canonical dual is -sense z (+ where
the limit enters with a minus). A conic row stands for body_i <= b with slack g = p r - wᵀw = b - body_i:

- p = 1, r = b - A_i x: the right-hand side stands in r, so the multiplier of the row is λ = z_r.
- p, r affine in one variable each: at an optimum with ŝ ≠ 0, ẑ = μ (ŝ₀, -ŝ₁, -ŝ₂), of which μ is the least-squares fit;
  ẑᵀdŝ = ½ μ d(ŝ₀² - ŝ₁² - ‖ŝ₂‖²) = 2 μ e² dg, so λ = 2 μ e²/σ. It is 0 where the row is slack. At the apex (ŝ = 0) the
  row has no gradient, and a multiplier exists in the limit only: the iterates of the method are close to the central
  path, on which ẑ has that same direction, so μ is read off the last of them and may be very large; where that does
  not do, `apex.py` looks for a better one.

The dual of a row that holds logarithms is its own, since t stands in it with their coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array, Program

GROUPS = ("equal", "pinned", "above", "below", "upper", "lower")


@dataclass(frozen=True, eq=False)
class Scales:
    """x = columns · x̂, objective times `money`, rows times `rows`; see above for cones (α: tilt, ρ: units).

    columns: scalar or (N,); rows: scalar or (M,), one value per cone; tilt: (R,); units: (K,).
    """

    columns: Any
    money: float
    rows: Any
    tilt: Array
    units: Array


@dataclass(frozen=True, eq=False)
class Data:
    """What is handed to Clarabel: scaled P (upper triangle, csc), q, G (csc), h, and the scales."""

    P: Any
    q: Array
    G: Any
    h: Array
    scales: Scales


@dataclass(frozen=True, eq=False)
class Form:
    """min ½ xᵀP x + qᵀx subject to G x + s = h, in the program's own units, with where each row of G comes from.

    P: csc (N, N), upper triangle; q: (N,); G: csc (M, N); h: (M,). equal, above, below: rows of the program; pinned,
    upper, lower: its columns; conic: rows of the program that are second-order cones, each with `sizes` rows of G;
    sign: +1 where such a row is a `<=`, -1 where it is a `>=`; linear: bool, whether its right-hand side stands in r;
    paired: bool, False where p = r and is there once; logs: number of logarithms.
    """

    program: Program
    P: Any
    q: Array
    G: Any
    h: Array
    equal: Array
    pinned: Array
    above: Array
    below: Array
    upper: Array
    lower: Array
    conic: Array
    sizes: Array
    sign: Array
    linear: Array
    paired: Array
    logs: int

    @property
    def groups(self) -> tuple[Array, ...]:
        """The rows or columns behind the linear rows of G, group by group."""
        return (self.equal, self.pinned, self.above, self.below, self.upper, self.lower)

    @cached_property
    def ends(self) -> Array:
        """Where each linear group ends among the rows of G (6,)."""
        return np.cumsum([len(group) for group in self.groups])

    @cached_property
    def heads(self) -> Array:
        """The row of G with the p of each second-order cone (R,); its r is the next."""
        return np.asarray(self.ends[-1] + np.cumsum(self.sizes) - self.sizes, dtype=np.int64)

    @cached_property
    def cone_of(self) -> Array:
        """Which second-order cone each of their rows of G belongs to."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def tail(self) -> int:
        """The first row of G of the exponential cones."""
        return int(self.ends[-1] + self.sizes.sum())

    def kinds(self) -> list[Any]:
        """Clarabel's cones."""
        import clarabel

        zero, positive = int(self.ends[1]), int(self.ends[-1] - self.ends[1])
        kinds = [clarabel.ZeroConeT(zero)] if zero else []
        kinds += [clarabel.NonnegativeConeT(positive)] if positive else []
        kinds += [clarabel.SecondOrderConeT(size) for size in self.sizes.tolist()]
        return kinds + [clarabel.ExponentialConeT()] * self.logs

    def subset(self, keep: Array) -> Form:
        """Only some of the linear rows; keep: bool (M,), true for all rows of cones."""
        masks = np.split(keep, self.ends)
        kept = {name: group[mask] for name, group, mask in zip(GROUPS, self.groups, masks[: len(GROUPS)], strict=True)}
        return replace(self, G=self.G.tocsr()[np.flatnonzero(keep)].tocsc(), h=self.h[keep], **kept)

    def scaled(self, scales: Scales) -> Data:
        """P, q, G, h in x̂ and ŝ."""
        import scipy.sparse as sp

        d, sigma = scales.columns, scales.money
        if np.ndim(d) == 0 and np.ndim(scales.rows) == 0 and not len(self.sizes) and not self.logs:
            G = self.G if d * scales.rows == 1.0 else self.G * (d * scales.rows)
            return Data(self.P * (sigma * d * d), self.q * (sigma * d), G, self.h * scales.rows, scales)
        d, P, G = np.broadcast_to(d, len(self.q)), self.P.copy(), self.G.tocoo()
        P.data = P.data * sigma * d[P.indices] * np.repeat(d, np.diff(P.indptr))
        where, column, value = self.spread(G.row, G.col, G.data * d[G.col], scales)
        every = np.arange(len(self.h))
        at, _, limit = self.spread(every, every, self.h, scales)
        h = np.bincount(at, limit, len(self.h)) + self.shift(scales)
        G = sp.coo_array((value, (where, column)), shape=G.shape).tocsc()
        G.sort_indices()
        return Data(P, self.q * (sigma * d), G, h, scales)

    def spread(self, where: Array, column: Array, value: Array, scales: Scales) -> tuple[Array, Array, Array]:
        """Entries (row, column, value) of G or h after the row scaling; those at p and r become two each."""
        own = np.array(np.broadcast_to(scales.rows, len(self.h)), dtype=float)
        first, tilt = self.heads[self.paired], scales.tilt[self.paired]
        own[self.ends[-1] : self.tail] *= 2.0
        own[first] *= 0.5 * tilt
        own[first + 1] *= -0.5 / tilt
        own[self.tail + 2 :: 3] *= scales.units
        other = np.zeros(len(own), dtype=np.int64)
        other[first], other[first + 1] = 1, -1
        more = np.flatnonzero(other[where])
        to = other[where[more]]
        return (
            np.r_[where, where[more] + to],
            np.r_[column, column[more]],
            np.r_[own[where] * value, to * own[where[more]] * value[more]],
        )

    def shift(self, scales: Scales) -> Array:
        """What is added to h (M,): e log ρ, for logarithms measured in units of 1/ρ."""
        shift, rows = np.zeros(len(self.h)), np.broadcast_to(scales.rows, len(self.h))
        shift[self.tail :: 3] = rows[self.tail :: 3] * np.log(scales.units)
        return shift

    def multipliers(self, z: Array, scales: Scales) -> Array:
        """Those of G x + s = h, (M,), from those of the scaled rows."""
        found = z * (scales.rows / scales.money)
        if self.logs:
            found[self.tail + 2 :: 3] *= scales.units
        if len(self.sizes):
            found[self.ends[-1] : self.tail] *= 2.0
            first, tilt = self.heads[self.paired], scales.tilt[self.paired]
            p, r = found[first] / 2.0, found[first + 1] / 2.0
            found[first], found[first + 1] = (p + r) * tilt, (p - r) / tilt
        return found

    @cached_property
    def dual_maps(self) -> tuple[Any, Any]:
        """(csr (m, M), csr (n, M)): canonical duals of linear rows and of bounds from z = `multipliers(ẑ)`.

        Rows of the program that are second-order cones have zeros here: see `cone_duals`.
        """
        import scipy.sparse as sp

        position = np.arange(len(self.h))
        parts = np.split(position[: self.ends[-1]], self.ends[:-1])
        found = []
        for target, chosen in (((0, 2, 3), self.program.m), ((1, 4, 5), self.program.n)):
            where = np.concatenate([self.groups[k] for k in target])
            # The last group of each kind has the limit with a minus: its derivative has the other sign.
            weight = np.concatenate([np.full(len(parts[k]), -1.0 if k in (3, 5) else 1.0) for k in target])
            weight = marginal_values(self.program.sense, weight, derivative=False)
            column = np.concatenate([parts[k] for k in target])
            found.append(sp.csr_array((weight, (where, column)), shape=(chosen, len(self.h))))
        return found[0], found[1]

    def cone_duals(self, z: Array, s: Array, scales: Scales) -> Array:
        """Canonical duals of the second-order rows (R,), in the order of `conic`; z, s: ẑ and ŝ of the solver."""
        rows = np.broadcast_to(scales.rows, len(self.h))
        mirror = s[self.ends[-1] : self.tail].copy()
        mirror[np.delete(np.arange(len(mirror)), self.heads - self.ends[-1])] *= -1.0
        part = z[self.ends[-1] : self.tail]
        count = len(self.sizes)
        size = np.bincount(self.cone_of, mirror * mirror, count)
        fit = np.bincount(self.cone_of, mirror * part, count) / np.where(size > 0.0, size, 1.0)
        product = 2.0 * fit * rows[self.heads] ** 2 / scales.money
        right = self.multipliers(z, scales)[np.where(self.linear, self.heads + 1, 0)]
        value = np.maximum(np.where(self.linear, right, product), 0.0)
        return marginal_values(self.program.sense, self.sign * value, derivative=False)

    def duals(self, z: Array, s: Array, scales: Scales) -> tuple[Array, Array]:
        """(row_dual (m,), reduced_cost (n,)), canonical, from the solver's own ẑ and ŝ."""
        found = self.multipliers(z, scales)
        of_rows, of_columns = self.dual_maps
        rows = np.asarray(of_rows @ found)
        if len(self.conic):
            rows[self.conic] = self.cone_duals(z, s, scales)
        return rows, np.asarray(of_columns @ found)
