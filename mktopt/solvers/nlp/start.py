"""Where IPOPT starts, in which scale, and what is not finite there."""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.solvers.nlp.problem import Nlp, Scale
from mktopt.solvers.program import Array, Program

# The golden ratio's fractions: as far from any pattern of a model as numbers can be, and the same in every run.
_GOLDEN = 0.6180339887498949


def power_of_two(size: float) -> float:
    """The nearest power of two, so that scaling rounds nothing; 1 where there is no size."""
    return float(2.0 ** np.round(np.log2(size))) if 0.0 < size < np.inf else 1.0


def first_scale(program: Program) -> Scale:
    """One unit for all variables and rows (the typical limit), and the objective so that a unit is worth about one.

    In a program with a nonlinear remainder, units differ and were chosen by its author: they are kept.
    """
    kappa = power_of_two(program.typical) if program.remainder is None else 1.0
    x = _own_start(program)
    with np.errstate(all="ignore"):
        slope = np.abs(program.gradient(x)) * kappa
        if program.P is not None:
            slope = slope + np.abs(program.P.diagonal()) * kappa**2
    slope = slope[np.isfinite(slope) & (slope > 0.0)]
    sigma = 1.0 / power_of_two(float(np.median(slope))) if len(slope) else 1.0
    return Scale(np.full(program.n, kappa), np.full(program.m, 1.0 / kappa), sigma)


def answer_scale(program: Program, x: Array) -> Scale:
    """Units of the size of a first answer x, for each variable, row and the objective."""
    if len(x) != program.n or not np.isfinite(x).all():
        return Scale(np.ones(program.n), np.ones(program.m), 1.0)
    sizes = np.maximum(np.abs(x), 1e-4 * max(float(np.abs(x).max(initial=0.0)), 1e-12))
    D = np.array([power_of_two(size) for size in sizes])
    with np.errstate(all="ignore"):
        steep = abs(program.jacobian(x)) @ D
        slope = np.abs(program.gradient(x)) * D
    slope = slope[np.isfinite(slope) & (slope > 0.0)]
    sigma = 1.0 / power_of_two(float(np.median(slope))) if len(slope) else 1.0
    R = np.array([1.0 / power_of_two(size) for size in np.where(np.isfinite(steep), steep, 1.0)])
    return Scale(D, R, sigma)


def _own_start(program: Program) -> Array:
    """The variables' values where they have one, else the middle of a small box, or what is next to zero."""
    given = [getattr(variable, "value", None) for variable in program.variables]
    x = np.array([np.nan if value is None else float(value) for value in given])
    known = np.isfinite(x)
    x[~known] = 0.0
    low, high = program.lower, program.upper
    width = high - low
    box = ~known & np.isfinite(width) & (width <= 100.0 * program.typical)
    x[box] = 0.5 * (low[box] + high[box])
    if program.not_convex:
        # A symmetric point is often stationary without being a minimum (x·y at 0): start beside it.
        away = (np.arange(1, program.n + 1) * _GOLDEN) % 1.0
        small = np.where(np.isfinite(width), np.minimum(width, program.typical), program.typical)
        x[~known] += (0.02 * away * small)[~known]
    return np.asarray(np.clip(x, low, high))


def another_start(program: Program) -> Array:
    """A point far from most others: scattered over the boxes, and over a typical limit where there is no box."""
    unit = program.typical
    low = np.where(np.isfinite(program.lower), program.lower, np.minimum(program.upper, unit) - unit)
    high = np.where(np.isfinite(program.upper), program.upper, low + 2.0 * unit)
    share = (np.arange(1, program.n + 1) * _GOLDEN + 0.5) % 1.0
    return np.asarray(low + share * (high - low))


def starting_point(nlp: Nlp, given: Array | None = None) -> Array:
    """x̂ (N,) to start from: a given point (n,) or the model's own, where the functions are finite if one is found."""
    program = nlp.program
    x = _own_start(program) if given is None or not len(given) else np.clip(given, program.lower, program.upper)
    point = _lifted(nlp, x)
    if finite(nlp, point):
        return point
    for other in _others(program, x):
        candidate = _lifted(nlp, other)
        if finite(nlp, candidate):
            return candidate
    return point


def _lifted(nlp: Nlp, x: Array) -> Array:
    """x in the scale of the Nlp, with the values of lifted logarithms' arguments: those are kept positive."""
    n = nlp.program.n
    point = np.zeros(nlp.n)
    point[:n] = x / nlp.D[:n]
    logs = nlp.program.logs
    if logs is not None and len(nlp.lifted):
        inside = logs.inside(x)[nlp.lifted] / nlp.D[n : n + len(nlp.lifted)]
        point[n : n + len(nlp.lifted)] = np.maximum(inside, 1e-8)
    return point


def finite(nlp: Nlp, point: Array) -> bool:
    """Whether objective and rows are finite where IPOPT will push a starting point: inside its bounds."""
    inside = _pushed(nlp, point)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(nlp.objective(inside)) and np.isfinite(nlp.constraints(inside)).all())


def _pushed(nlp: Nlp, point: Array) -> Array:
    low, high = nlp.lower, nlp.upper
    with np.errstate(invalid="ignore"):
        room = 0.01 * (high - low)
        below = low + np.minimum(0.01 * np.maximum(1.0, np.abs(low)), room)
        above = high - np.minimum(0.01 * np.maximum(1.0, np.abs(high)), room)
    return np.asarray(np.clip(point, np.where(np.isfinite(low), below, low), np.where(np.isfinite(high), above, high)))


def _others(program: Program, x: Array) -> list[Array]:
    """Other points to start from, in order: ones, middles, steps away from x of growing length."""
    low, high = program.lower, program.upper
    box = np.isfinite(low) & np.isfinite(high)
    middle = np.ones(program.n)
    middle[box] = 0.5 * (low[box] + high[box])
    points = [np.full(program.n, program.typical), np.ones(program.n), middle]
    away = (np.arange(1, program.n + 1) * _GOLDEN) % 1.0
    for length in (0.1, 1.0, 10.0):
        points += [x + length * (0.5 + away), x - length * (0.5 + away), x + length * (2.0 * away - 1.0)]
    return [np.clip(point, low, high) for point in points]


def named_fault(nlp: Nlp, point: Array) -> str:
    """Which row, objective or derivative is not finite at x̂; '' where none is."""
    program = nlp.program
    x = np.clip(nlp.D[: program.n] * point[: program.n], program.lower, program.upper)
    with np.errstate(all="ignore"):
        activity, value = program.activity(x), program.objective(x)
        rows = program.jacobian(x).tocoo()
        slopes = rows.row[~np.isfinite(rows.data)]
        steep = not np.isfinite(program.gradient(x)).all()
    bad = np.flatnonzero(~np.isfinite(activity))
    if len(bad) or len(slopes):
        row = int(bad[0] if len(bad) else slopes[0])
        what = "has no finite value" if len(bad) else "has no finite derivative"
        return f": '{_name(program.rows[row])}' {what} where IPOPT stopped; {_ADVICE}"
    if not np.isfinite(value) or steep:
        what = "value" if not np.isfinite(value) else "derivative"
        return f": the objective has no finite {what} where IPOPT stopped; {_ADVICE}"
    return f": a function has no finite value or derivative near where IPOPT stopped; {_ADVICE}"


_ADVICE = "bound the variables so that it is defined, or give them values to start from (variable.value)"


def _name(component: Any) -> str:
    return str(getattr(component, "name", component))
