"""Polishing: from an interior-point answer to one that is exact to rounding.

An interior-point method stops with every binding limit almost, but not quite, met. Where its answer tells
clearly which limits bind, the optimality conditions with those limits as equalities are one linear system:

    [ H_FF   A_RFᵀ ] [ x_F]   [ -g_F - H_FN x_N ]
    [ A_RF     0   ] [-y_R] = [  b_R - A_RN x_N ]          H = sense·P,  g = sense·c

F, N: free columns and those at a bound; R: rows that bind. The system is regularised by ±δ (binding rows
may depend on one another) and refined until the regularisation has left no trace. With curved rows it is Newton's
method on the same conditions, A the Jacobian and H the Hessian of the Lagrangian at the point so far: an
interior-point method leaves a curved row with an error of the square root of its gap in the direction of the
multipliers, which two or three such steps remove. Stellato et al., "OSQP:
an operator splitting solver for quadratic programs", Mathematical Programming Computation 12 (2020),
section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers.cones.conic import recognise
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

# Programs of up to this many variables are polished always: it costs them nothing.
SMALL = 2000
_DELTA = 1e-9
_REFINEMENTS = 12


def scales_of(program: Program, x: Array) -> tuple[float, float]:
    """(kappa, sigma) of `polish` from the size of an answer: its largest value, and one over the money per that."""
    kappa = max(float(np.abs(x).max(initial=0.0)), 1e-12)
    steepest = float(np.abs(program.c + program.curvature(x)).max(initial=0.0))
    return kappa, 1.0 / (kappa * (steepest or 1.0))


def polish(program: Program, solution: Solution, kappa: float, sigma: float) -> Solution:
    """The solution with its binding limits met exactly where that makes it better, else the solution as it
    was.

    kappa, sigma: the scales of power and of the objective in which slack and multiplier are compared.
    """
    if solution.residuals is None or not solution.has_duals or program.curved:
        return solution
    weight = program.sense * sigma * kappa
    activity = program.A @ solution.x
    rows, limits = _binding(activity / kappa, weight * solution.row_dual, program.row_lower, program.row_upper, kappa)
    held, bounds = _binding(solution.x / kappa, weight * solution.reduced_cost, program.lower, program.upper, kappa)
    x = np.where(held, bounds, solution.x) / kappa
    y = np.where(rows, solution.row_dual * weight, 0.0)
    found = _solve(program, x, y, ~held, rows, limits / kappa, weight, kappa)
    if found is None:
        return solution
    x, y = np.where(held, bounds, kappa * found[0]), found[1] / weight
    x = np.clip(x, program.lower, program.upper)
    gradient = program.c + program.curvature(x) - program.A.T @ y
    better = judged(
        program,
        solution.replace(
            status=Status(Stopped.OPTIMAL, Has.OPTIMAL),
            x=x,
            row_dual=y,
            reduced_cost=np.where(held, gradient, 0.0),
        ),
    )
    if better.residuals is not None and better.residuals.worst < solution.residuals.worst:
        return better
    return solution


def _binding(value: Array, dual: Array, lower: Array, upper: Array, kappa: float) -> tuple[Array, Array]:
    """(whether a limit binds, which value it has): where the scaled multiplier outweighs the scaled slack."""
    low, high = dual > value - lower / kappa, -dual > upper / kappa - value
    same = lower == upper
    binds = low | high | same
    return binds, np.where(low | same, lower, np.where(high, upper, 0.0))


def _solve(
    program: Program, x: Array, y: Array, free: Array, rows: Array, limits: Array, weight: float, kappa: float
) -> tuple[Array, Array] | None:
    """(x, y) in scaled units that satisfy the system, None where it has no usable factorisation."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    columns, chosen = np.flatnonzero(free), np.flatnonzero(rows)
    P = sp.csr_array((program.n, program.n)) if program.P is None else program.P.tocsr() * (weight * kappa)
    A = program.A[chosen]
    H, B = P[columns][:, columns], A[:, columns]
    size = len(columns)
    if size + len(chosen) == 0:
        return x, y
    exact = sp.block_array([[H, B.T], [B, None]], format="csc") if len(chosen) and size else None
    if exact is None:
        exact = sp.csc_array(H) if size else sp.csc_array((len(chosen), len(chosen)))
    shift = np.r_[np.full(size, _DELTA), np.full(len(chosen), -_DELTA)]
    try:
        factor = splu(sp.csc_array(exact + sp.diags_array(shift)))
    except RuntimeError:
        return None
    for _ in range(_REFINEMENTS):
        error = np.r_[-(weight * program.c + P @ x - program.A.T @ y)[columns], limits[chosen] - A @ x]
        step = factor.solve(error)
        if not np.isfinite(step).all():
            return None
        x[columns] += step[:size]
        y[chosen] -= step[size:]
    return x, y


_GUESSES, _GUESSES_LARGE = 6, 3
_STEPS = 8
_PER_STEP = 2
_EXACT = 1e-15
# A logarithm of a sum of k variables has a Hessian of k² entries; more than these are not worth a polish.
_MOST_ENTRIES = 4_000_000
# Where squares of the rows' lengths add up to more than so many times their entries, as on meshed grids (trees have 4
# or 5), an ordering for unsymmetric matrices fills them: 5,000 wires on 1,000 buses took 52 s and a gigabyte where one
# for symmetric ones takes 2 s. Small pivots are kept for its sake, but not all: without a threshold of their own steps
# were right to no digit.
_WIDE = 6.0
# Where they add up to more than this, as with 100,000 branches on 3,000 buses, no ordering helps.
_MOST_FILL = 20_000_000
_SYMMETRIC: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}


def polish_curved(
    program: Program, solution: Solution, units: Array, sigma: float, kept: Array | None = None
) -> Solution:
    """As `polish`, for a program with curved rows: Newton steps where rows that bind are equalities.

    Where the outcome breaks a limit or has a multiplier of the wrong sign, which limits bind is guessed anew from it, a
    few times (a primal-dual active set method: Hintermüller, Ito and Kunisch, "The primal-dual active set strategy as a
    semismooth Newton method", SIAM Journal on Optimization 13 (2002)).

    units: (n,), in which the columns are measured; sigma: > 0, by which the objective is multiplied; kept: rows that
    keep the value that they have at the solution instead of their limit (see `apex.py`).
    """
    if solution.residuals is None or not solution.has_duals or too_large(program):
        return solution
    weight, best = program.sense * sigma, solution
    size = abs(program.jacobian(solution.x)) @ units
    lower = program.lower.copy()
    if program.quadratics is not None and not program.not_convex:
        lower[recognise(program).implied(lower)] = -np.inf  # a bound that the cone holds; both at once have no gradient
    system = _System(program, weight, units, np.where(size > 0.0, size, 1.0), lower)
    x, y, z = solution.x, solution.row_dual, solution.reduced_cost
    fixed = None if kept is None else (kept, program.activity(x)[kept])
    before = None
    for _ in range(_GUESSES if program.n <= SMALL else _GUESSES_LARGE):
        rows, limits, held, bounds = system.guess(x, y, z)
        if fixed is not None:
            rows[fixed[0]], limits[fixed[0]] = True, fixed[1]
        guess = np.r_[rows, held]
        if before is not None and (guess == before).all():
            break
        before = guess
        # From the first point again: a wrong guess leads far away.
        start = np.where(held, bounds, solution.x), np.where(rows, solution.row_dual, 0.0)
        found = system.newton(*start, ~held, rows, limits)
        if found is None:
            break
        x, y = found
        slope = program.gradient(x) - program.jacobian(x).T @ y
        if not (np.isfinite(slope).all() and np.isfinite(x).all()):
            break
        z = np.where(held, slope, 0.0)
        better = solution.replace(
            status=Status(Stopped.OPTIMAL, Has.OPTIMAL),
            x=np.clip(x, program.lower, program.upper),
            row_dual=y,
            reduced_cost=z,
        )
        better = judged(program, better)
        if (
            better.residuals is not None
            and best.residuals is not None
            and better.residuals.worst < best.residuals.worst
        ):
            best = better
    return best


def filled(A: Any) -> float:
    """Squares of the rows' lengths added up: about how many entries A Aᵀ has, and factors of it at the least."""
    return float(np.sum(np.diff(A.tocsr().indptr).astype(float) ** 2))


def too_large(program: Program) -> bool:
    """Whether logarithms of long sums, or many long rows, make a system too large to factorise for a polish."""
    if program.n > SMALL and filled(program.A) > _MOST_FILL:
        return True
    return program.logs is not None and float((np.diff(program.logs.M.indptr).astype(float) ** 2).sum()) > _MOST_ENTRIES


@dataclass(frozen=True, eq=False)
class _System:
    """The optimality conditions of a curved program in scaled units; rows: (m,), in which the rows are measured.

    lower: (n,), the lower bounds that may bind.
    """

    program: Program
    weight: float
    units: Array
    rows: Array
    lower: Array

    def guess(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array, Array]:
        """(rows that bind, their limits, columns at a bound, their bounds)."""
        program, d, e = self.program, self.units, self.rows
        low, high = program.row_lower / e, program.row_upper / e
        rows, limits = _binding(program.activity(x) / e, self.weight * e * y, low, high, 1.0)
        held, bounds = _binding(x / d, self.weight * d * z, self.lower / d, program.upper / d, 1.0)
        return rows, limits * e, held, bounds * d

    def newton(self, x: Array, y: Array, free: Array, rows: Array, limits: Array) -> tuple[Array, Array] | None:
        """(x, y) with stationarity in the free columns and the binding rows met; None where no step can be made."""
        import scipy.sparse as sp
        from scipy.sparse.linalg import splu

        program, weight = self.program, self.weight
        columns, chosen = np.flatnonzero(free), np.flatnonzero(rows)
        size, d, e = len(columns), self.units[columns], 1.0 / self.rows[chosen]
        if size + len(chosen) == 0:
            return x, y
        best, found = np.inf, None
        long = program.jacobian(x)[chosen]
        how = _SYMMETRIC if filled(long) > _WIDE * long.nnz else {}
        for number in range(_STEPS):
            J = program.jacobian(x)[chosen]
            H = program.hessian(x, -weight * y, weight).tocsr()[columns][:, columns]
            H, B = sp.diags_array(d) @ H @ sp.diags_array(d), sp.diags_array(e) @ J[:, columns] @ sp.diags_array(d)
            # The shift of a row must be small beside B H⁻¹ Bᵀ, which a multiplier of any size may make small.
            bend = max(1.0, float(np.abs(H.data).max(initial=0.0)))
            shift = sp.diags_array(np.r_[np.full(size, _DELTA), np.full(len(chosen), -_DELTA / bend)])
            try:
                factor = splu(sp.csc_array(sp.block_array([[H, B.T], [B, None]], format="csc") + shift), **how)
            except (RuntimeError, ValueError):
                return found
            for _ in range(_PER_STEP):
                slope = weight * (program.gradient(x) - program.jacobian(x).T @ y)[columns]
                error = np.r_[-d * slope, e * (limits - program.activity(x))[chosen]]
                worst = float(np.abs(error).max())
                if number == 0 and best == np.inf:
                    start = worst
                if worst < best:
                    best, found = worst, (x, y)
                step = factor.solve(error)
                if not (np.isfinite(step).all() and best > _EXACT):
                    return found
                x, y = x.copy(), y.copy()
                x[columns] += d * step[:size]
                y[chosen] -= e * step[size:] / weight
            if number >= 2 and best > 0.1 * start:  # nowhere near: a method that converges would be done by now
                return found
        return found
