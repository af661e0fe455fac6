"""What a solver hands back, and the residuals by which it is believed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mktopt.solvers.program import Array, Program, inner

TOLERANCE = 1e-6


class Stopped(enum.Enum):
    """Why the solver stopped."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    INFEASIBLE_OR_UNBOUNDED = "infeasible or unbounded"
    TIME_LIMIT = "time limit"
    ITERATION_LIMIT = "iteration limit"
    NUMERICAL = "numerical difficulties"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class Has(enum.Enum):
    """What the solver has in its hands."""

    NOTHING = "nothing"
    FEASIBLE = "a feasible point"
    LOCAL = "a local optimum"
    OPTIMAL = "an optimum"


@dataclass(frozen=True)
class Status:
    """Why the solver stopped, and what it has: two facts, never one string."""

    stopped: Stopped
    has: Has

    @property
    def ok(self) -> bool:
        """Whether there is an optimum to read."""
        return self.has in (Has.OPTIMAL, Has.LOCAL)

    def __str__(self) -> str:
        return f"stopped: {self.stopped.value}; has {self.has.value}"


@dataclass(frozen=True)
class Residuals:
    """How far a point is from optimal, each relative to the size of the numbers that it is made of.

    primal: the worst violation of a row, a bound or an integrality; dual: of stationarity and of the signs of
    the multipliers; gap: primal minus dual objective; complementarity: multiplier times slack. The last three
    are NaN where there are no multipliers (before the integers are fixed).
    """

    primal: float
    dual: float
    gap: float
    complementarity: float

    @property
    def worst(self) -> float:
        """The largest of those that exist."""
        return max(value for value in (self.primal, self.dual, self.gap, self.complementarity, 0.0) if value == value)

    def ok(self, tolerance: float = TOLERANCE) -> bool:
        """Whether all residuals are at most `tolerance`."""
        return bool(self.worst <= tolerance)

    def __str__(self) -> str:
        parts = (
            ("primal", self.primal),
            ("dual", self.dual),
            ("gap", self.gap),
            ("slackness", self.complementarity),
        )
        return ", ".join(f"{name} {value:.1e}" for name, value in parts)


@dataclass(frozen=True)
class Attempt:
    """One solver's try at a program: how it ended, in what time [s], and how good what it left is."""

    solver: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    residuals: Residuals | None = None

    def __str__(self) -> str:
        return f"{self.solver} ({self.seconds:.3g} s): {self.status}" + (f"; {self.message}" if self.message else "")


@dataclass(frozen=True, eq=False)
class Solution:
    """A solver's answer in the terms of the `Program`, with the same meaning for every solver.

    x: (n,); row_dual[i] = ∂(optimal objective in the model's own sense)/∂(right-hand side of row i), (m,);
    reduced_cost[j] = ∂(objective)/∂(value of the binding bound of variable j), (n,). They are empty arrays
    where the solver has none. `duals_from` tells what the duals belong to when it is not the program itself
    ("fixed integers"); `seconds` holds "solve" and "total". attempts: every solver that was tried, in sequence;
    the last one answered, where any did.
    """

    status: Status
    solver: str
    version: str = ""
    x: Array = field(default_factory=lambda: np.zeros(0))
    row_dual: Array = field(default_factory=lambda: np.zeros(0))
    reduced_cost: Array = field(default_factory=lambda: np.zeros(0))
    objective: float = float("nan")
    bound: float = float("nan")
    iterations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    residuals: Residuals | None = None
    message: str = ""
    duals_from: str = ""
    attempts: tuple[Attempt, ...] = ()

    @property
    def has_duals(self) -> bool:
        """Whether row duals and reduced costs exist."""
        return self.status.has is not Has.NOTHING and len(self.reduced_cost) == len(self.x)

    def replace(self, **changes: Any) -> Solution:
        """A copy with some fields changed."""
        return replace(self, **changes)


def residuals(
    program: Program, x: Array, row_dual: Array | None = None, reduced_cost: Array | None = None
) -> Residuals:
    """Residuals of a point and its multipliers, from the arrays and functions of the program alone.

    primal      max_i  violation_i / max(Σ |terms of row i|, floor)
    dual        max_j  |∇f - Jᵀy - z|_j / max(|c_j| + |P x|_j + (|J|ᵀ|y|)_j + |z_j|, floor)
    gap         |xᵀ(∇f - Jᵀy - z) + Σ multiplier · slack|: primal minus dual objective of a convex program
    where a multiplier that pushes against an infinite limit is set to zero first, so that a wrong sign
    shows as a failure of stationarity. The floor keeps a row whose own numbers are nearly zero from being
    judged by noise: see `_floor`. A program that is not convex has no gap (NaN).
    """
    activity = program.activity(x)
    if not np.isfinite(activity).all():  # outside the domain of a logarithm, say
        return Residuals(np.inf, np.nan, np.nan, np.nan)
    size = program.size(x)
    violation = np.maximum(program.row_lower - activity, activity - program.row_upper)
    limit = np.where(program.row_lower > activity, program.row_lower, program.row_upper)
    violation = np.maximum(violation, 0.0)
    rows = _relative(violation, size + np.abs(limit, where=violation > 0.0, out=np.zeros(program.m)), program.typical)
    violation = np.maximum(np.maximum(program.lower - x, x - program.upper), 0.0)
    columns = _relative(violation, np.abs(x), program.typical)
    fraction = np.abs(x - np.round(x))[program.integer]
    primal = max(rows, columns, float(fraction.max(initial=0.0)))
    if row_dual is None or reduced_cost is None or len(reduced_cost) != program.n:
        return Residuals(primal, np.nan, np.nan, np.nan)
    return _with_duals(program, x, activity, row_dual, reduced_cost, primal)


def _with_duals(program: Program, x: Array, activity: Array, y: Array, z: Array, primal: float) -> Residuals:
    sense = program.sense
    y_low, y_high = _sides(sense * y, program.row_lower, program.row_upper)
    z_low, z_high = _sides(sense * z, program.lower, program.upper)
    y, z = y_low - y_high, z_low - z_high
    curvature = sense * program.curvature(x)
    slope = sense * (program.gradient(x) if program.curved else program.c + program.curvature(x))
    c = _slopes(program, x)
    J = program.jacobian(x) if program.curved else program.A
    error = slope - J.T @ y - z
    bent = np.abs(curvature) if program.P is None else abs(program.P) @ np.abs(x)  # its terms may cancel, too
    size = c + bent + abs(J).T @ np.abs(y) + np.abs(z)
    # The steepest gradient is the size of prices: where (nearly) nothing moves, noise in money is judged by what a
    # typical limit is worth at it; where nothing has a price, by one per unit.
    steepest = float((c + bent).max(initial=0.0))
    dual = _relative(np.abs(error), size) if steepest else float(np.abs(error).max(initial=0.0))

    limits = (program.row_lower, program.row_upper, program.lower, program.upper)
    low, high, x_low, x_high = (np.where(np.isfinite(limit), limit, 0.0) for limit in limits)
    pairs = ((y_low, activity - low), (y_high, high - activity), (z_low, x - x_low), (z_high, x_high - x))
    slackness = max(float(np.abs(multiplier * slack).max(initial=0.0)) for multiplier, slack in pairs)
    gap = abs(inner(error, x) + sum(inner(multiplier, slack) for multiplier, slack in pairs))
    square = inner(x, curvature)
    turnover = inner(c, np.abs(x)) + 0.5 * abs(square)
    reach = inner(np.abs(y), np.abs(low) + np.abs(high)) + inner(np.abs(z), np.abs(x_low) + np.abs(x_high))
    scale = max(turnover, min(1.0, reach), 1e-6 * reach, 1e-4 * program.typical * (steepest or 1.0))
    if (program.curved or program.P is not None) and program.not_convex:
        gap = np.nan
    return Residuals(primal, dual, gap / scale, slackness / scale)


def _slopes(program: Program, x: Array) -> Array:
    """The sizes of the terms of the objective's gradient (n,), squares aside: they may cancel, as at 2 x - 3 log x."""
    size = np.abs(program.c)
    parts = [] if program.logs is None else [(program.logs.row, program.logs.jacobian(x))]
    if program.remainder is not None:
        parts.append((program.remainder.rows, program.remainder.jacobian(x)))
    for row, jacobian in parts:
        size = size + abs(jacobian).T @ (row < 0).astype(float)
    return np.asarray(size)


def _sides(multiplier: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Multipliers of lower and upper limits, both >= 0, zero where that limit is infinite."""
    low = np.where(np.isfinite(lower), np.maximum(multiplier, 0.0), 0.0)
    high = np.where(np.isfinite(upper), np.maximum(-multiplier, 0.0), 0.0)
    return low, high


def _relative(error: Array, size: Array, typical: float = 0.0) -> float:
    """The largest error relative to its own size, with a floor for sizes that are nearly zero."""
    if not len(error):
        return 0.0
    floor = _floor(float(size.max()), typical)
    return float((error / np.maximum(size, floor)).max()) if floor > 0.0 else float(error.max())


def _floor(largest: float, typical: float) -> float:
    """The size below which a quantity counts as noise.

    One unit, as usual; but the largest size where the whole problem is smaller than a unit, a ten
    thousandth of the largest where the problem is so large that rounding alone reaches a unit's millionth,
    and a millionth of the typical limit where (nearly) nothing is traded although much could be.
    """
    return max(min(1.0, largest), 1e-4 * largest, 1e-6 * typical)


def judged(program: Program, solution: Solution, tolerance: float = TOLERANCE) -> Solution:
    """The solution with its residuals, and with no claim of optimality that they do not support."""
    if not len(solution.x):
        return solution
    found = residuals(program, solution.x, solution.row_dual, solution.reduced_cost)
    status, message = solution.status, solution.message
    if solution.status.ok and not found.ok(tolerance):
        has = Has.FEASIBLE if found.primal <= tolerance else Has.NOTHING
        status = Status(Stopped.NUMERICAL, has)
        message = f"{message}; the solver claims an optimum but the residuals do not support it ({found})".lstrip("; ")
    elif solution.status.has is Has.FEASIBLE and found.primal > tolerance:
        status = Status(solution.status.stopped, Has.NOTHING)
    return solution.replace(status=status, message=message, residuals=found, objective=program.objective(solution.x))
