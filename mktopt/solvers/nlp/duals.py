"""From IPOPT's multipliers to canonical duals.

Where equations depend on each other (a balance written twice), their multipliers are not unique, and IPOPT's may run
off along what they leave open: pairs of ±1e11 that cancel. Then the shortest multipliers of the equations are taken
that leave stationarity as it is:

    min ‖y_e‖   subject to   J_eᵀ y_e = ∇f - J_iᵀ y_i - reduced_cost
"""

from __future__ import annotations

import numpy as np

from mktopt.solvers.nlp.backends import Raw
from mktopt.solvers.nlp.least import least_multipliers
from mktopt.solvers.nlp.problem import Nlp
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array, Program

# How many times larger than the slopes that they balance multipliers may be before they are taken for run off.
_RUN_OFF = 1e6
_DENSE = 2_000_000


def duals(nlp: Nlp, raw: Raw, x: Array) -> tuple[Array, Array]:
    """(row_dual (m,), reduced_cost (n,)), canonical, of an answer of IPOPT; x: (n,), in the program's units."""
    program, n = nlp.program, nlp.program.n
    sigma, used = nlp.scale.objective, len(nlp.rows)
    row_dual = np.zeros(program.m)
    finite = bool(np.isfinite(x).all() and np.isfinite(raw.y).all())
    if finite and not program.gradient(x).any():
        return row_dual, np.zeros(n)  # nothing has a price where no step has a worth (an empty objective, say)
    row_dual[nlp.rows] = marginal_values(program.sense, nlp.R[:used] * raw.y[:used] / sigma, derivative=False)
    z = (raw.z_lower[:n] - raw.z_upper[:n]) / (sigma * nlp.D[:n])
    reduced_cost = marginal_values(program.sense, z, derivative=True)
    fixed = program.lower == program.upper
    with np.errstate(all="ignore"):
        if finite and _run_off(program, x, row_dual, reduced_cost):
            shorter = _shortest(program, x, row_dual, reduced_cost)
            # Where a branch is stiff, honest multipliers are as large; then least squares would lose the small ones.
            if _error(program, x, shorter, reduced_cost) <= 2.0 * _error(program, x, row_dual, reduced_cost):
                row_dual = shorter
        if finite:
            row_dual, reduced_cost = least_multipliers(program, x, row_dual, reduced_cost, nlp.D[:n], sigma)
        if finite and fixed.any():
            reduced_cost[fixed] = (program.gradient(x) - program.jacobian(x).T @ row_dual)[fixed]
    return row_dual, reduced_cost


def _run_off(program: Program, x: Array, y: Array, z: Array) -> bool:
    """Whether the multipliers of equations cancel each other instead of balancing slopes."""
    equal = program.row_lower == program.row_upper
    if not equal.any():
        return False
    slopes = np.abs(program.gradient(x)) + np.abs(z)
    J = abs(program.jacobian(x))
    largest = float((slopes + J.T @ np.where(equal, 0.0, np.abs(y))).max(initial=0.0))
    return float((J.T @ np.where(equal, np.abs(y), 0.0)).max(initial=0.0)) > _RUN_OFF * largest


def _error(program: Program, x: Array, y: Array, z: Array) -> float:
    """The largest violation of stationarity along free variables."""
    error = program.gradient(x) - program.jacobian(x).T @ y - z
    return float(np.abs(error[program.lower < program.upper]).max(initial=0.0))


def _shortest(program: Program, x: Array, y: Array, z: Array) -> Array:
    from scipy.sparse.linalg import lsqr

    equal = np.flatnonzero(program.row_lower == program.row_upper)
    free = np.flatnonzero(program.lower < program.upper)
    J = program.jacobian(x)
    others = y.copy()
    others[equal] = 0.0
    slope = (program.gradient(x) - J.T @ others - z)[free]
    part = J[equal][:, free].T
    if part.shape[0] * part.shape[1] <= _DENSE:
        found = np.linalg.lstsq(part.toarray(), slope, rcond=1e-11)[0]
    else:
        found = lsqr(part, slope, atol=1e-14, btol=1e-14, iter_lim=4 * len(equal))[0]
    others[equal] = found
    return others if np.isfinite(found).all() else y
