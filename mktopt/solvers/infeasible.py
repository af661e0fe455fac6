"""Why a program has no feasible point: what is in conflict, and the least that would have to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers import highs
from mktopt.solvers.conflict import conflict_members
from mktopt.solvers.elastic import elastic, sides_of
from mktopt.solvers.limits import Member
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Stopped
from mktopt.solvers.unbounded import Growth, unbounded_direction

__all__ = ["Growth", "Infeasibility", "Member", "Relaxed", "diagnose", "is_feasible", "unbounded_direction"]

_SHOWN = 12


@dataclass(frozen=True)
class Relaxed:
    """One limit that the least relaxation moves, and by how much (in the unit of the row or variable)."""

    member: Member
    amount: float

    @property
    def name(self) -> str:
        """The Pyomo name of the row or variable."""
        return self.member.name

    @property
    def side(self) -> str:
        """'lower' or 'upper'."""
        return self.member.side

    def __str__(self) -> str:
        word = "lowered" if self.side == "lower" else "raised"
        return f"{self.member} {word} by {self.amount:.6g}"


@dataclass(frozen=True)
class Infeasibility:
    """The report on an infeasible program.

    conflict: limits that cannot hold together; `irreducible` tells whether each of them is needed for that.
    relaxation: the least total (weighted) amount by which limits must move until a feasible point exists;
    empty when the limits that may move cannot cure it, as `curable` tells. `with_integers` marks a conflict
    that exists only because some variables must be whole.
    """

    conflict: tuple[Member, ...]
    relaxation: tuple[Relaxed, ...]
    irreducible: bool
    curable: bool
    with_integers: bool = False

    @property
    def total(self) -> float:
        """Sum of the amounts of the relaxation."""
        return float(sum(item.amount for item in self.relaxation))

    def __str__(self) -> str:
        lines = ["These limits cannot hold together" + (" with whole numbers:" if self.with_integers else ":")]
        lines += _listed(self.conflict) or ["  (no small set of limits was found)"]
        if self.curable:
            lines += ["The least that would make it feasible:", *_listed(self.relaxation)]
        else:
            lines.append("No relaxation of the limits that may move makes it feasible.")
        return "\n".join(lines)


def _listed(items: tuple[Any, ...]) -> list[str]:
    lines = [f"  {item}" for item in items[:_SHOWN]]
    return [*lines, f"  ... and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else lines


def is_feasible(program: Program, options: dict[str, Any] | None = None) -> bool | None:
    """Whether any point satisfies all limits (and integrality); None when the solver cannot tell."""
    if program.impossible:
        return False
    answer = highs.solve(program.replace(c=np.zeros(program.n), P=None, constant=0.0), options)
    if answer.status.stopped is Stopped.INFEASIBLE:
        return False
    return True if answer.status.has in (Has.OPTIMAL, Has.FEASIBLE) else None


def diagnose(
    program: Program,
    *,
    rows: Array | None = None,
    columns: Array | None = None,
    row_weights: Array | float = 1.0,
    column_weights: Array | float = 1.0,
    row_most: Array | None = None,
    conflict: bool = True,
) -> Infeasibility:
    """Explain an infeasible program: limits in conflict, and the least relaxation.

        min Σ w s   s.t.   row_lower - s <= A x <= row_upper + s',   lower - s'' <= x <= upper + s''',   s
        >= 0

    rows, columns: which rows (R,) and which columns' bounds (C,) may be relaxed, all of them by default
    (bounds of integer columns never); row_weights, column_weights: cost per unit, scalar or (R,), (C,).
    row_most: the most that the lower and the upper limit of each of `rows` may give, (2, R), no limit by default.
    Only linear limits matter, so quadratic objectives cost nothing extra. The conflict looks at all limits,
    whatever may be relaxed. conflict=False leaves it out (one LP less).
    """
    moved, curable = _relaxation(program, rows, columns, row_weights, column_weights, row_most)
    if not conflict:
        return Infeasibility((), moved, False, curable)
    members, irreducible, with_integers = conflict_members(program)
    return Infeasibility(members, moved, irreducible, curable, with_integers)


def _relaxation(
    program: Program,
    rows: Array | None,
    columns: Array | None,
    row_weights: Any,
    column_weights: Any,
    row_most: Array | None,
) -> tuple[tuple[Relaxed, ...], bool]:
    rows = np.arange(program.m) if rows is None else np.asarray(rows, dtype=np.int64)
    columns = np.arange(program.n) if columns is None else np.asarray(columns, dtype=np.int64)
    row_cost, column_cost = np.full(program.m, np.nan), np.full(program.n, np.nan)
    row_cost[rows] = row_weights
    column_cost[columns] = column_weights
    column_cost[program.integer] = np.nan
    sides = sides_of(program)
    cost = np.where(sides.is_row, np.append(row_cost, np.nan)[sides.row], np.append(column_cost, np.nan)[sides.column])
    movable = np.isfinite(cost)
    limits = np.full((2, program.m + 1), np.inf)
    limits[:, rows] = np.inf if row_most is None else row_most
    most = np.where(sides.is_row, limits[np.where(sides.is_lower, 0, 1), sides.row], np.inf)
    answer = highs.solve_auxiliary(elastic(program, sides, movable, cost[movable], most[movable]))
    if not len(answer.x):
        return (), False
    amounts = answer.x[program.n :]
    places = np.flatnonzero(movable)
    size = np.maximum(1.0, np.abs(sides.limit[places]))
    kept = list(np.flatnonzero(amounts > _noise(amounts, size)))
    kept.sort(key=lambda k: -amounts[k])
    return tuple(Relaxed(sides.member(program, int(places[k])), float(amounts[k])) for k in kept), True


def _noise(amounts: Array, size: Array) -> Array:
    """Amounts below this are the solver's tolerance, not a relaxation."""
    smallest: Array = np.minimum(1e-8 * size, 1e-6 * amounts.max(initial=0.0))
    return smallest
