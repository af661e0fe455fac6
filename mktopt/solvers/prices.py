"""The sign of prices: the one place where it is decided.

Every solver has its own convention for multipliers, and all are easy to get wrong. For the same market the
raw dual of `supply == demand` comes out as +30 when the model minimises cost and as -30 when it maximises
surplus; writing `demand == supply` flips it again. So it is done in two steps, both here.

**1. Raw to canonical** (`marginal_values`). All adapters hand the solver a *minimisation* (objective times
`sense`) and turn the answer into

    row_dual[i]     = ∂(optimal objective, in the model's own sense) / ∂(right-hand side of row i)
    reduced_cost[j] = ∂(optimal objective, in the model's own sense) / ∂(binding bound of variable j)

so that for either sense   ∇f = Jᵀ row_dual + reduced_cost   at an optimum (c + P x = Aᵀ row_dual + reduced_cost
where rows are linear). In a minimisation a binding
lower limit has a multiplier >= 0 and a binding upper limit one <= 0; in a maximisation it is the reverse.

**2. Canonical to price** (`row_prices`, `order_prices`). A price is what one more kWh of firm demand costs:
the fall of welfare (the rise of cost) per kW of extra withdrawal, divided by the hours of the period. It
does not depend on how the author of a balance has written it, since the orientation of a row is read off
the coefficient with which injections enter it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mktopt.errors import FormulationError

if TYPE_CHECKING:
    from mktopt.solvers.program import Array, Program
    from mktopt.solvers.solution import Solution


def marginal_values(sense: int, multiplier: Array, *, derivative: bool) -> Array:
    """Canonical duals from the multipliers of the problem `minimise sense * objective`.

    derivative=True: the multiplier is the derivative of the minimised value with respect to the limit
    (HiGHS: row_dual, col_dual). derivative=False: it is the Lagrange multiplier of `limit - expression`
    written as `expression + s = limit` with +multiplier in the Lagrangian (Clarabel: z), which is minus
    that derivative.
    """
    return (sense if derivative else -sense) * np.asarray(multiplier, dtype=float)


def row_prices(
    program: Program,
    solution: Solution | Array,
    rows: Array,
    columns: Array,
    signs: Array,
    hours: Array | float = 1.0,
) -> Array:
    """Price of each balance row: the cost of one more kWh of firm demand there.

    price_r = sense · row_dual_r · o_r / hours_r,    o_r = signs_j · A[r, j] for an injection j in the row

    rows: (R,) balance rows; columns: (J,) columns that inject; signs: (J,) +1 for offers, -1 for bids; hours:
    scalar or (R,). sense is +1 when the model minimises a cost, -1 when it maximises welfare. The
    orientation o_r makes the price independent of which side of the equality the injections stand on, and
    of the unit of the row. Rows without any injection take the orientation that the other rows share, or +1
    where they share none.
    """
    dual = solution if isinstance(solution, np.ndarray) else solution.row_dual
    rows = np.asarray(rows, dtype=np.int64)
    if not len(dual):
        raise FormulationError("the solution has no duals, so there are no prices to read")
    return np.asarray(program.sense * dual[rows] * orientation(program, rows, columns, signs) / hours)


def orientation(program: Program, rows: Array, columns: Array, signs: Array) -> Array:
    """With which coefficient an injection enters each row (R,): +1 for `injection - flow = 0`, -1 for the reverse."""
    rows, columns = np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)
    sign_of = np.zeros(program.n)
    has_column = columns >= 0  # a fixed order has none
    sign_of[columns[has_column]] = np.asarray(signs, dtype=float)[has_column]
    part = program.A[rows]
    coefficients = part.data * sign_of[part.indices]
    where = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
    used = coefficients != 0.0
    low, high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
    np.minimum.at(low, where[used], coefficients[used])
    np.maximum.at(high, where[used], coefficients[used])
    known = np.isfinite(low)
    mixed = known & (high - low > 1e-9 * np.maximum(np.abs(low), np.abs(high)))
    if mixed.any():
        r = int(mixed.argmax())
        raise FormulationError(
            f"row '{program.rows[rows[r]].name}' is not a balance: injections enter it with different coefficients"
            f" ({low[r]:g} to {high[r]:g}), so it has no single price"
        )
    shared = low[known][0] if known.any() and np.ptp(low[known]) <= 1e-9 * abs(low[known][0]) else 1.0
    return np.where(known, low, shared)


def order_prices(
    program: Program,
    solution: Solution | Array,
    columns: Array,
    signs: Array,
    hours: Array | float = 1.0,
    rows: Array | None = None,
    x: Array | None = None,
) -> Array:
    """What each order faces: its balance's price plus dual times coefficient of every other row that
    contains it.

    price_j = sense · signs_j · Σ_r row_dual_r J[r, j] / hours_j

    J: the gradients of the rows at x (n,), which of linear rows are their coefficients; columns: (J,) columns of the
    orders, in kW, -1 (fixed) gives NaN; signs: (J,) +1 offers, -1 bids; hours: scalar or (J,); rows: the rows that
    count, all of them by default; x: the point, that of the solution by default, which bare duals of curved rows lack.
    """
    dual = solution if isinstance(solution, np.ndarray) else solution.row_dual
    if not len(dual) and program.m:
        raise FormulationError("the solution has no duals, so there are no prices to read")
    if rows is not None:
        kept = np.zeros(program.m)
        kept[np.asarray(rows, dtype=np.int64)] = 1.0
        dual = dual * kept
    columns = np.asarray(columns, dtype=np.int64)
    worth = np.append(_slopes(program, solution, x).T @ dual, np.nan)
    return np.asarray(program.sense * np.asarray(signs) * worth[columns] / hours)


def _slopes(program: Program, solution: Solution | Array, x: Array | None) -> Any:
    """The gradients of the rows, csr (m, n)."""
    if not program.curved:
        return program.A
    if x is None:
        if isinstance(solution, np.ndarray):
            raise FormulationError("rows of this program are curved, so their coefficients depend on x: pass it too")
        x = solution.x
    return program.jacobian(x)


def welfare_duals(program: Program, solution: Solution | Array) -> Array:
    """Welfare gained per unit of right-hand side of each row (m,), for either sense of the model.

    welfare_dual_i = -sense · row_dual_i: a cost minimised is a welfare of the other sign. A binding `<=` row has a
    dual >= 0, a binding `>=` row one <= 0.
    """
    dual = solution if isinstance(solution, np.ndarray) else solution.row_dual
    return np.asarray(-program.sense * dual)
