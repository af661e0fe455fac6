"""The least multipliers of an optimum, where those of a solver ran off.

Where limits leave no room (offers of which none can be sold: their sum is zero, and each is at least zero), the
multipliers that support the optimum reach to infinity, and an interior-point method follows them until it stops, at
prices of millions. Then those of limits that are least are taken, over what binds at x, in scaled units:

    min ‖(y_i, z)‖²   subject to   Jᵀ y + z = ∇f along what is not fixed,   sense·(y_i, z) >= 0 at lower limits, <= 0 at
                                                                            upper ones

y_i: the multipliers of rows that are no equations.
"""

from __future__ import annotations

import numpy as np

from mktopt.solvers.program import Array, Program

# How many times larger than the steepest slope, in scaled units, multipliers of limits may be before they are doubted.
_FAR = 1e3
# Scaled slack up to which a limit binds, and the error of stationarity that is none.
_BINDS, _EXACT = 1e-6, 1e-9
# The weight of multipliers of equations, which only helps the solver.
_HARDLY = 1e-6


def least_multipliers(program: Program, x: Array, y: Array, z: Array, D: Array, sigma: float) -> tuple[Array, Array]:
    """(row_dual (m,), reduced_cost (n,)), those given unless limits' multipliers ran off and lesser ones do as well.

    D (n,), sigma: the units of `mktopt.solvers.nlp.problem`.
    """
    import scipy.sparse as sp

    J = sp.csr_array(program.jacobian(x) @ sp.diags_array(D))
    largest = np.asarray(abs(J).max(axis=1).todense()).ravel() if J.nnz else np.zeros(program.m)
    R = 1.0 / np.where(largest > 0, largest, 1.0)
    free, slope = program.lower < program.upper, sigma * D * program.gradient(x)
    rows, bounds = y * sigma / R, np.where(free, z * sigma * D, 0.0)
    limits = np.where(program.row_lower < program.row_upper, rows, 0.0)
    if not np.abs(np.r_[limits, bounds]).max(initial=0.0) > _FAR * np.abs(slope).max(initial=0.0):
        return y, z
    J = sp.csr_array(sp.diags_array(R) @ J)
    row_sign = program.sense * _sides(program.activity(x), program.row_lower, program.row_upper, 1.0 / R, rows)
    bound_sign = program.sense * _sides(x, program.lower, program.upper, D, bounds)
    used, at = np.flatnonzero(row_sign != 0), np.flatnonzero(free & (bound_sign != 0))
    one = sp.eye_array(program.n, format="csc")[:, at]
    equations = sp.csc_array(sp.hstack([J[used].T, one]))[free]
    found = _least_norm(equations, slope[free], np.r_[row_sign[used], bound_sign[at]])
    if found is None:
        return y, z
    new_rows, new_bounds = np.zeros(program.m), np.zeros(program.n)
    new_rows[used], new_bounds[at] = found[: len(used)], found[len(used) :]
    before, after = (np.abs((slope - J.T @ p - q)[free]).max() for p, q in ((rows, bounds), (new_rows, new_bounds)))
    if after > max(before, _EXACT * np.abs(slope).max()):
        return y, z
    return new_rows * R / sigma, np.where(free, new_bounds / (sigma * D), z)


def _sides(value: Array, lower: Array, upper: Array, unit: Array, multiplier: Array) -> Array:
    """+1 where a lower limit binds, -1 where an upper one does, NaN for an equation, 0 where neither does.

    A limit binds where its slack is next to nothing, or less than its multiplier, both in scaled units.
    """
    most = np.maximum(np.abs(multiplier), _BINDS) * unit
    low, high = value - lower <= most, upper - value <= most
    nearer = value - lower <= upper - value
    side = np.where(low & nearer, 1.0, np.where(high & ~nearer, -1.0, 0.0))
    return np.where(lower == upper, np.nan, side)


def _least_norm(equations: object, slope: Array, sign: Array) -> Array | None:
    """The u that is least where it has a sign (others are NaN), with equations u = slope and sign·u >= 0; or None."""
    import clarabel
    import scipy.sparse as sp

    signed = np.flatnonzero(~np.isnan(sign))
    G = sp.csc_array((-sign[signed], (np.arange(len(signed)), signed)), shape=(len(signed), len(sign)))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    answer = clarabel.DefaultSolver(
        sp.diags_array(np.where(np.isnan(sign), _HARDLY, 1.0), format="csc"),
        np.zeros(len(sign)),
        sp.csc_array(sp.vstack([equations, G])),
        np.r_[slope, np.zeros(len(signed))],
        [clarabel.ZeroConeT(len(slope)), clarabel.NonnegativeConeT(len(signed))],
        settings,
    ).solve()
    found = np.array(answer.x)
    if len(found) != len(sign) or not np.isfinite(found).all():
        return None
    found[signed] = np.where(sign[signed] * found[signed] > 0, found[signed], 0.0)
    return found
