"""Polishing: from an interior-point answer to one that is exact to rounding.

An interior-point method stops with every binding limit almost, but not quite, met. Where its answer tells
clearly which limits bind, the optimality conditions with those limits as equalities are one linear system:

    [ H_FF   A_RFᵀ ] [ x_F]   [ -g_F - H_FN x_N ]
    [ A_RF     0   ] [-y_R] = [  b_R - A_RN x_N ]          H = sense·P,  g = sense·c

F, N: free columns and those at a bound; R: rows that bind. The system is regularised by ±δ (binding rows
may depend on one another) and refined until the regularisation has left no trace. Stellato et al., "OSQP:
an operator splitting solver for quadratic programs", Mathematical Programming Computation 12 (2020),
section 5.2.
"""

from __future__ import annotations

import numpy as np

from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

# Programs of up to this many variables are polished always: it costs them nothing.
SMALL = 2000
_DELTA = 1e-9
_REFINEMENTS = 12


def polish(program: Program, solution: Solution, kappa: float, sigma: float) -> Solution:
    """The solution with its binding limits met exactly where that makes it better, else the solution as it
    was.

    kappa, sigma: the scales of power and of the objective in which slack and multiplier are compared.
    """
    if solution.residuals is None or not solution.has_duals:
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
