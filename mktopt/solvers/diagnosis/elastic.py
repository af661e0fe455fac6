"""A program whose limits may give way, at a cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mktopt.solvers.diagnosis.carried import carried, cone_rows, domain
from mktopt.solvers.diagnosis.limits import Sides, sides_of
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Solution

__all__ = ["curved_rows", "elastic", "floors", "kept_rows", "rigid", "sides_of", "solve_curved", "without_objective"]


_SLACK = SimpleNamespace(name="slack", value=None)


def elastic(program: Program, sides: Sides, movable: Array, cost: Array, most: Array | float = np.inf) -> Program:
    """min costᵀs  s.t.  e_k(x) + s_k >= limit_k (lower),  e_k(x) - s_k <= limit_k (upper),  0 <= s <= most.

    sides: the K finite limits of the program; movable: bool (K,); cost, most: (S,) for the S movable ones; the other
    limits stay. Columns are x (n,) then s (S,); rows: those that keep a limit, in their sequence, then the S movable
    ones, then the domain of the objective's logarithms. Integrality stays; curved rows stay curved, whether they move
    or not, so that a convex row stays convex: for that, a lower bound that gives way stops at its floor (`floors`).
    """
    import scipy.sparse as sp

    places = np.flatnonzero(movable)
    count = len(places)
    sign = np.where(sides.is_lower[places], 1.0, -1.0)
    moved = sp.hstack(
        [
            sides.matrix(program)[places],
            sp.csr_array((sign, (np.arange(count), np.arange(count))), shape=(count, count)),
        ],
        format="csr",
    )
    kept = program.replace(
        **{name: getattr(program, name).copy() for name in ("row_lower", "row_upper", "lower", "upper")}
    )
    least = floors(program)
    for k in places:
        side = "lower" if sides.is_lower[k] else "upper"
        target = getattr(kept, f"row_{side}" if sides.is_row[k] else side)
        free = np.inf if not sides.is_lower[k] else -np.inf if sides.is_row[k] else least[sides.column[k]]
        target[sides.row[k] if sides.is_row[k] else sides.column[k]] = free
    limit = sides.limit[places]
    still = kept_rows(kept.row_lower, kept.row_upper)
    inside, low = domain(program)
    source = np.r_[still, np.where(sides.is_row[places], sides.row[places], -1), np.full(len(low), -1)]
    return Program(
        variables=[*program.variables, *[_SLACK] * count] if program.curved else [],  # names, and values to start from
        rows=_named(program, source),
        A=sp.vstack(
            [
                sp.hstack([program.A[still], sp.csr_array((len(still), count))], format="csr"),
                moved,
                sp.hstack([inside, sp.csr_array((len(low), count))], format="csr"),
            ],
            format="csr",
        ),
        row_lower=np.r_[kept.row_lower[still], np.where(sign > 0, limit, -np.inf), low],
        row_upper=np.r_[kept.row_upper[still], np.where(sign > 0, np.inf, limit), np.full(len(low), np.inf)],
        lower=np.r_[kept.lower, np.zeros(count)],
        upper=np.r_[kept.upper, np.broadcast_to(most, count)],
        integer=np.r_[program.integer, np.zeros(count, dtype=bool)],
        c=np.r_[np.zeros(program.n), cost],
        P=None,
        **carried(program, source, count),
    )


def rigid(program: Program, sides: Sides) -> Array:
    """Which limits cannot give way without bending a convex program out of shape, bool (K,).

    Those of rows that are cones as they stand, and the floors of the variables in them.
    """
    cones = cone_rows(program)
    if not len(cones):
        return np.zeros(len(sides.limit), dtype=bool)
    at_floor = ~sides.is_row & sides.is_lower & (np.append(floors(program), np.nan)[sides.column] >= sides.limit)
    return at_floor | np.isin(sides.row, cones)


def floors(program: Program) -> Array:
    """How far the lower bound of each variable may fall, (n,): to zero where a cone of a convex program needs it not
    to be negative, else without limit; a bound below zero is a floor itself."""
    least = np.full(program.n, -np.inf)
    if program.quadratics is None or program.not_convex:
        return least
    inside = np.isin(program.quadratics.row, cone_rows(program)) & (program.quadratics.coef != 0.0)
    columns = np.unique(np.r_[program.quadratics.first[inside], program.quadratics.second[inside]])
    least[columns] = np.minimum(program.lower[columns], 0.0)
    return least


def kept_rows(row_lower: Array, row_upper: Array) -> Array:
    """The rows that have a finite limit."""
    return np.flatnonzero(np.isfinite(row_lower) | np.isfinite(row_upper))


def without_objective(program: Program, linear: bool = False) -> Program:
    """The program with its rows and nothing to optimise; linear=True: with its linear rows alone.

    Rows without any limit are left out; the domain of the objective's logarithms becomes rows.
    """
    import scipy.sparse as sp

    kept = kept_rows(program.row_lower, program.row_upper)
    if linear:
        kept = np.setdiff1d(kept, curved_rows(program))
    inside, low = domain(program)
    source = np.r_[kept, np.full(len(low), -1)]
    return program.replace(
        rows=_named(program, source),
        A=sp.vstack([program.A[kept], inside], format="csr"),
        row_lower=np.r_[program.row_lower[kept], low],
        row_upper=np.r_[program.row_upper[kept], np.full(len(low), np.inf)],
        c=np.zeros(program.n),
        P=None,
        constant=0.0,
        **carried(program, source),
    )


def _named(program: Program, source: Array) -> list[Any]:
    """The rows whose curved parts the rows of a new program carry; only these are ever named."""
    return [program.rows[row] if row >= 0 else None for row in source.tolist()] if program.curved else []


def curved_rows(program: Program) -> Array:
    """The rows that hold more than linear terms."""
    parts = [part.row for part in (program.quadratics, program.logs) if part is not None]
    parts += [program.remainder.rows] if program.remainder is not None else []
    rows: Array = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))
    return rows[rows >= 0]


def solve_curved(program: Program) -> Solution:
    """The answer of the solver for its class: Clarabel where it is convex, IPOPT (local) where it is not."""
    from mktopt.solvers.table import choose

    return choose(program).run(program, None)
