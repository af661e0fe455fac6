"""Why a program has no feasible point: what is in conflict, and the least that would have to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.solvers import clarabel, highs
from mktopt.solvers.diagnosis.conflict import conflict_members
from mktopt.solvers.diagnosis.elastic import elastic, rigid, sides_of, solve_curved, without_objective
from mktopt.solvers.diagnosis.limits import Member
from mktopt.solvers.diagnosis.unbounded import Growth, unbounded_direction
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Stopped

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
    that exists only because some variables must be whole; `local` a relaxation of rows that are not convex, which is
    the least near the point where it was sought and no more (`curable` False is then no proof).
    """

    conflict: tuple[Member, ...]
    relaxation: tuple[Relaxed, ...]
    irreducible: bool
    curable: bool
    with_integers: bool = False
    local: bool = False

    @property
    def total(self) -> float:
        """Sum of the amounts of the relaxation."""
        return float(sum(item.amount for item in self.relaxation))

    def __str__(self) -> str:
        lines = ["These limits cannot hold together" + (" with whole numbers:" if self.with_integers else ":")]
        lines += _listed(self.conflict) or ["  (no small set of limits was found)"]
        if self.curable:
            near = " (found locally: less may do elsewhere)" if self.local else ""
            lines += [f"The least that would make it feasible{near}:", *_listed(self.relaxation)]
        else:
            near = " was found that" if self.local else ""
            lines.append(f"No relaxation of the limits that may move{near} makes it feasible.")
        return "\n".join(lines)


def _listed(items: tuple[Any, ...]) -> list[str]:
    lines = [f"  {item}" for item in items[:_SHOWN]]
    return [*lines, f"  ... and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else lines


def is_feasible(program: Program, options: dict[str, Any] | None = None) -> bool | None:
    """Whether any point satisfies all limits (and integrality); None when the solver cannot tell.

    Of rows that are not convex, or curved beside whole variables, the linear ones alone are looked at: where they
    conflict nothing is feasible, otherwise it cannot be told. options go to the solver: HiGHS for linear rows, Clarabel
    for curved ones.
    """
    if program.impossible:
        return False
    if not program.curved:
        return _answered(highs.solve(program.replace(c=np.zeros(program.n), P=None, constant=0.0), options))
    bare = without_objective(program)
    if not bare.curved:
        return _answered(highs.solve(bare, options))
    if not bare.not_convex and not program.integer.any():
        return _answered(clarabel.solve(bare, options))
    linear = _answered(highs.solve(without_objective(program, linear=True)))
    return False if linear is False else None


def _answered(answer: Solution) -> bool | None:
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
    column_most: Array | None = None,
    conflict: bool = True,
) -> Infeasibility:
    """Explain an infeasible program: limits in conflict, and the least relaxation.

        min Σ w s   s.t.   row_lower - s <= A x <= row_upper + s',   lower - s'' <= x <= upper + s''',   s
        >= 0

    rows, columns: which rows (R,) and which columns' bounds (C,) may be relaxed, all of them by default
    (bounds of integer columns never); row_weights, column_weights: cost per unit, scalar or (R,), (C,).
    row_most, column_most: the most that the lower and the upper limit of each of `rows`, `columns` may give, (2, R),
    (2, C), no limit by default.
    The objective does not matter, so quadratic objectives cost nothing extra. Slack enters curved rows linearly, so
    that convex ones make a cone program, and others an NLP whose answer is `local`; rows such as `squares <= product`
    of a convex program, which would lose their form by it, stay as they are, and so do the signs of their factors. The
    conflict looks at all limits, whatever may be relaxed. conflict=False leaves it out (one LP less).
    """
    given = (rows, row_weights, row_most), (columns, column_weights, column_most)
    moved, local, held = _relaxation(program, *given)
    curable = held is not None
    if not conflict:
        return Infeasibility((), moved, False, curable, local=local)
    members, irreducible, with_integers = conflict_members(program, held)
    return Infeasibility(members, moved, irreducible, curable, with_integers, local)


_Given = tuple[Array | None, Any, Array | None]


def _relaxation(
    program: Program, rows: _Given, columns: _Given
) -> tuple[tuple[Relaxed, ...], bool, tuple[Array, Solution] | None]:
    """(what moves, whether it is the least locally only, which limits could have moved with the answer).

    Each given: which, weights, most. The last is None where there is no cure.
    """
    sides = sides_of(program)
    by_row, by_column = _costs(program.m, *rows), _costs(program.n, *columns)
    by_column[0][:-1][program.integer] = np.nan
    (row_cost, row_most), (column_cost, column_most) = by_row, by_column
    side = np.where(sides.is_lower, 0, 1)
    cost = np.where(sides.is_row, row_cost[sides.row], column_cost[sides.column])
    most = np.where(sides.is_row, row_most[side, sides.row], column_most[side, sides.column])
    movable = np.isfinite(cost) & (most > 0.0)
    if program.curved and not program.not_convex:
        movable &= ~rigid(program, sides)
    stretched = elastic(program, sides, movable, cost[movable], most[movable])
    answer = solve_curved(stretched) if stretched.curved else highs.solve_auxiliary(stretched)
    local = bool(stretched.curved and stretched.not_convex)
    if not len(answer.x):
        return (), local, None
    amounts = answer.x[program.n :]
    places = np.flatnonzero(movable)
    size = np.maximum(1.0, np.abs(sides.limit[places]))
    kept = list(np.flatnonzero(amounts > _noise(amounts, size, stretched.curved)))
    kept.sort(key=lambda k: -amounts[k])
    moved = tuple(Relaxed(sides.member(program, int(places[k])), float(amounts[k])) for k in kept)
    return moved, local, (movable, answer)


def _costs(count: int, which: Array | None, weights: Any, most: Array | None) -> tuple[Array, Array]:
    """(cost per unit (count + 1,), NaN where nothing may give; the most that limits may give (2, count + 1))."""
    which = np.arange(count) if which is None else np.asarray(which, dtype=np.int64)
    cost, limits = np.full(count + 1, np.nan), np.full((2, count + 1), np.inf)
    cost[which] = weights
    limits[:, which] = np.inf if most is None else most
    return cost, limits


def _noise(amounts: Array, size: Array, curved: bool) -> Array:
    """Amounts below this are the solver's tolerance, not a relaxation."""
    largest = amounts.max(initial=0.0)
    if curved:  # interior points leave a little of everything
        return np.full(len(amounts), 1e-6 * largest)
    smallest: Array = np.minimum(1e-8 * size, 1e-6 * largest)
    return smallest
