"""Limits that cannot hold together, as few as possible.

For linear limits a conflict is a Farkas certificate: multipliers y >= 0 under which the limits add up to 0
>= 1. The irreducible conflicts are exactly the supports of the vertices of that polyhedron (Gleeson and
Ryan, "Identifying minimally infeasible subsystems of inequalities", ORSA Journal on Computing 2 (1990),
theorem 1), so one simplex solve finds one, however many rows there are. Where only integrality makes the
limits conflict there is no such certificate: then limits are hardened until they conflict and the
superfluous ones dropped again (Chinneck, "Feasibility and Infeasibility in Optimization", 2008, sections
6.1 and 6.2).

For convex curved limits the multipliers of the least relaxation are the certificate: the limits that have one conflict
(Boyd and Vandenberghe, "Convex Optimization", section 5.8). They need not be irreducible, so that the superfluous ones
are dropped one by one, the weakest first, where there are few. Where limits are not convex only those that are linear
are looked at first, and then the limits that hold up the least relaxation that was found, which is a local finding.
"""

from __future__ import annotations

import time

import numpy as np

from mktopt.solvers import highs
from mktopt.solvers.diagnosis.elastic import (
    curved_rows,
    elastic,
    floors,
    kept_rows,
    rigid,
    solve_curved,
    without_objective,
)
from mktopt.solvers.diagnosis.limits import Member, Sides, sides_of
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Solution, Stopped

_ROUNDS = 60
_LARGEST_FILTERED = 80
_SECONDS = 5.0
# Multipliers below these shares of the largest: what has one says little, what has none nothing.
_SUPPORT, _IDLE = 1e-5, 1e-10


def conflict_members(
    program: Program, held: tuple[Array, Solution] | None = None
) -> tuple[tuple[Member, ...], bool, bool]:
    """(limits in conflict, whether each is needed, whether integrality is part of it); () when none was found.

    held: a least relaxation that is known already, as which of the limits (in `sides_of`) could move, and the answer.
    """
    sides = sides_of(program)
    chosen = _crossed(program, sides)
    if chosen is None:
        chosen = _farkas(program, sides)
    if chosen is not None:
        return tuple(sides.member(program, int(k)) for k in chosen), True, False
    if not program.integer.any():
        chosen, irreducible = _by_relaxation(program, sides, held)
        return tuple(sides.member(program, int(k)) for k in chosen), irreducible, False
    if program.curved:
        return (), False, True
    chosen, irreducible = _with_integers(program, sides)
    return tuple(sides.member(program, int(k)) for k in chosen), irreducible, True


def _crossed(program: Program, sides: Sides) -> Array | None:
    """A lower limit above the upper one of the same row or variable, or a false row without variables."""
    if not program.impossible:
        return None
    crossed, crossed_rows = program.lower > program.upper, program.row_lower > program.row_upper
    if crossed.any():
        return np.flatnonzero(~sides.is_row & (sides.column == int(crossed.argmax())))
    if crossed_rows.any():
        return np.flatnonzero(sides.is_row & (sides.row == int(crossed_rows.argmax())))
    false = sides.is_row & np.append(program.empty_rows, False)[sides.row]
    wrong = false & np.where(sides.is_lower, sides.limit > 1e-9, sides.limit < -1e-9)
    return np.flatnonzero(wrong)[:1]


def _farkas(program: Program, sides: Sides) -> Array | None:
    """Positions (in `sides`) of an irreducible conflict of linear limits (others are left out), None if there is none.

        min Σ y_k   s.t.   Eᵀ(σ y) = 0,   (σ limit)ᵀ y = 1,   y >= 0,      σ_k = +1 lower, -1 upper

    E: (K, n) the expressions that the limits bound, each scaled to a largest coefficient of one.
    """
    import scipy.sparse as sp

    among = np.flatnonzero(~(sides.is_row & np.isin(sides.row, curved_rows(program))))
    sign = np.where(sides.is_lower, 1.0, -1.0)[among]
    E = sides.matrix(program)[among]
    largest = abs(E).max(axis=1).toarray().ravel()
    scale = sign / np.where(largest > 0.0, largest, 1.0)
    limit = sides.limit[among] * scale
    size = np.median(np.abs(limit[limit != 0.0])) if limit.any() else 1.0
    matrix = sp.vstack([(E * scale[:, None]).T, sp.csr_array(limit[None, :] / size)], format="csr")
    right = np.r_[np.zeros(program.n), 1.0]
    dual = Program(
        variables=[],
        rows=[],
        A=matrix,
        row_lower=right,
        row_upper=right,
        lower=np.zeros(len(limit)),
        upper=np.full(len(limit), np.inf),
        integer=np.zeros(len(limit), dtype=bool),
        c=np.ones(len(limit)),
        P=None,
    )
    answer = highs.solve_auxiliary(dual)
    if answer.status.stopped is not Stopped.OPTIMAL or not len(answer.x):
        return None
    return among[answer.x > 1e-9 * answer.x.max(initial=0.0)]


def _by_relaxation(program: Program, sides: Sides, held: tuple[Array, Solution] | None) -> tuple[Array, bool]:
    """Positions of limits in conflict, the strongest first, and whether each is needed: where rows are curved, or a
    linear program is too badly scaled for a Farkas certificate."""
    if held is None or not held[1].has_duals:
        held = _least(program, sides)
    if held is None:
        return np.zeros(0, dtype=np.int64), False
    weight = _support(program, sides, ~held[0], held[1])
    if program.not_convex:
        return _strongest(weight, weight > _SUPPORT), False
    kept, irreducible = _dropped(program, sides, weight)
    return _strongest(weight, kept), irreducible


def _strongest(weight: Array, chosen: Array) -> Array:
    found = np.flatnonzero(chosen)
    return np.asarray(found[np.argsort(-weight[found], kind="stable")])


def _least(program: Program, sides: Sides) -> tuple[Array, Solution] | None:
    """A least relaxation of all limits: which of them could move, and the answer.

    Where rows are not convex, those of equations only move if the others cannot give enough: they are how things are,
    rather than a limit that is too tight.
    """
    none = np.zeros(len(sides.limit), dtype=bool)
    for hard in (_equations(program, sides), none) if program.not_convex else (rigid(program, sides),):
        answer = solve_curved(elastic(program, sides, ~hard, np.ones(int((~hard).sum()))))
        if answer.has_duals and len(answer.x):
            return ~hard, answer
    return None


def _equations(program: Program, sides: Sides) -> Array:
    """Which limits are those of rows whose two limits are one, bool (K,)."""
    equal = np.append(program.row_lower == program.row_upper, False)
    return np.asarray(sides.is_row & equal[sides.row])


def _support(program: Program, sides: Sides, hard: Array, answer: Solution) -> Array:
    """The multiplier of each limit in the least relaxation (K,), as a share of the greatest: of those that could move,
    and of those that stayed."""
    weight = np.zeros(len(hard))
    count = int((~hard).sum())
    stayed = program.replace(row_lower=np.full(program.m, -np.inf), row_upper=np.full(program.m, np.inf))
    for k in np.flatnonzero(hard & sides.is_row):
        (stayed.row_lower if sides.is_lower[k] else stayed.row_upper)[sides.row[k]] = sides.limit[k]
    still = kept_rows(stayed.row_lower, stayed.row_upper)
    weight[~hard] = np.abs(answer.row_dual[len(still) : len(still) + count])
    row_dual, reduced = np.zeros(program.m), answer.reduced_cost[: program.n]
    row_dual[still] = answer.row_dual[: len(still)]
    for k in np.flatnonzero(hard):
        dual = row_dual[sides.row[k]] if sides.is_row[k] else reduced[sides.column[k]]
        weight[k] = max(dual if sides.is_lower[k] else -dual, 0.0)
    for group in (hard, ~hard):
        weight[group] /= max(float(weight[group].max(initial=0.0)), 1e-300)
    return weight


def _dropped(program: Program, sides: Sides, weight: Array) -> tuple[Array, bool]:
    """What is kept, bool (K,), when limits are dropped without which the others still conflict; whether no more can go.

    First all without a multiplier at once, then the others one by one, the weakest first, where they are few.
    """
    from mktopt.solvers.diagnosis.infeasible import is_feasible

    order, end = np.argsort(weight, kind="stable"), time.perf_counter() + _SECONDS
    few = order[weight[order] > _IDLE]
    kept, sure = weight > _IDLE, True
    if len(few) > _LARGEST_FILTERED or is_feasible(_only(program, sides, kept)) is not False:
        return weight > _SUPPORT, False
    for k in few:
        if time.perf_counter() > end:
            return kept, False
        kept[k] = False
        feasible = is_feasible(_only(program, sides, kept))
        sure &= feasible is not None
        kept[k] = feasible is not False
    return kept, sure


def _with_integers(program: Program, sides: Sides) -> tuple[Array, bool]:
    """A conflict that needs integrality: harden what an elastic MILP stretches, then drop what is not needed."""
    # Bounds of whole variables are part of what they are (0 or 1), not limits that could be blamed.
    own = ~sides.is_row & np.append(program.integer, False)[sides.column]
    hard = own.copy()
    for _ in range(_ROUNDS):
        movable = ~hard
        answer = highs.solve(elastic(program, sides, movable, np.ones(int(movable.sum()))), {"time_limit": _SECONDS})
        if answer.status.stopped is Stopped.INFEASIBLE:
            return _filtered(program, sides, hard, own)
        if not len(answer.x):
            break
        stretched = np.flatnonzero(movable)[answer.x[program.n :] > 1e-7]
        if not len(stretched):
            break
        hard[stretched] = True
    return np.zeros(0, dtype=np.int64), False


def _filtered(program: Program, sides: Sides, hard: Array, own: Array) -> tuple[Array, bool]:
    members = np.flatnonzero(hard & ~own)
    if len(members) > _LARGEST_FILTERED:
        return members, False
    kept, sure = hard.copy(), True
    for k in members:
        kept[k] = False
        answer = highs.solve(_only(program, sides, kept), {"time_limit": _SECONDS})
        needed = answer.status.stopped is not Stopped.INFEASIBLE
        sure &= not needed or bool(len(answer.x))
        kept[k] = needed
    return np.flatnonzero(kept & ~own), sure


def _only(program: Program, sides: Sides, kept: Array) -> Program:
    """The program with only some of its limits (and its floors), and nothing to optimise."""
    arrays = {
        "row_lower": np.full(program.m, -np.inf),
        "row_upper": np.full(program.m, np.inf),
        "lower": floors(program),
        "upper": np.full(program.n, np.inf),
    }
    for side, is_lower in (("lower", True), ("upper", False)):
        for name, is_row, index in ((f"row_{side}", True, sides.row), (side, False, sides.column)):
            chosen = kept & (sides.is_lower == is_lower) & (sides.is_row == is_row)
            arrays[name][index[chosen]] = sides.limit[chosen]
    return without_objective(program.replace(**arrays))
