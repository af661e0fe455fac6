"""Projection methods for the (quasi-)variational inequality of a game.

    projection      x+ = P(x - eta F(x) / D)
    extragradient   y = P(x - eta F(x) / D),   x+ = P(x - eta F(y) / D)

P: onto X(x) (see `formulations/game_models.py`) in the metric of the diagonal D, the shared rows jointly, so that a
fixed point is variational whatever D is. D: the curvature of each variable's payoff at the start (slope over action
where it is straight), so that neither the money of a player nor the unit of a variable matters; ones where a step is
given. Step of extragradient (Khobotov, Marcotte): eta |F(x) - F(y)| <= 0.9 |x - y| in the norms of 1 / D and D, shrunk
until it holds and grown where there is room; it converges for monotone F on a convex set that does not move. The plain
projection converges for F strongly monotone and eta small; eta is halved as long as the residual does not fall. For
sets that move (QVI) neither has a guarantee. Residual: D |x - y| / eta in units of payoff per unit of a variable.
References: Facchinei and Pang (2003), 12.1; Marcotte, Application of Khobotov's algorithm, INFOR 29 (1991).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_problems import Projector, feasible_start
from mktopt.agents.game_run import CONVERGED, DIVERGES, NONE_FOUND, STOPPED, Run, period_of, ran_off
from mktopt.agents.game_units import FloatArray

_SHRINK, _GROW, _CAUTION = 0.6, 1.3, 0.9
_LEAST_STEP = 1e-5
_PATIENCE = 25
_STALLED = 200
_GONE = 1e4


def iterate(
    numbers: Numbers,
    start: FloatArray,
    extragradient: bool,
    tol: float,
    max_iterations: int,
    step: float | None = None,
) -> Run:
    """Runs the projection or the extragradient method from `start` (n,).

    tol: on the residual of each variable, relative to the size of its slope; step: eta, kept as it is where given
    (units of the variable squared per unit of payoff), else adapted, in units of 1 / D.
    """
    x, why = feasible_start(numbers, start)
    if x is None:
        return Run(start, NONE_FOUND, why, [])
    walk = _Walk(numbers, extragradient, step, x)
    trace: list[dict[str, Any]] = []
    points = [x / walk.unit]
    for k in range(max_iterations):
        found = walk.step(x)
        if found is None:
            why = f"there is no step from here in iteration {k}: a set X(x) is empty, or F is no number"
            return Run(x, STOPPED, why, trace)
        following, left = found
        residual = float(left.max(initial=0.0))
        trace.append({"iteration": k, "residual": residual, "step": walk.eta})
        if walk.small(x, left, tol):
            return Run(x, CONVERGED, f"residual {residual:.1e} at step {walk.eta:.2g}", trace)
        x = following
        points.append(x / walk.unit)
        hopeless = walk.hopeless(x, residual, trace[0]["residual"])
        if hopeless is not None:
            return Run(x, *hopeless, trace)
        if k % 10 == 9 and (n := period_of(points)):
            return Run(x, f"cycles with period {n}", f"the last {3 * n} points repeat themselves", trace)
    return Run(x, STOPPED, f"residual {trace[-1]['residual']:.1e} after {max_iterations} iterations", trace)


class _Walk:
    """One step after the other, with the rule for eta."""

    def __init__(self, numbers: Numbers, extragradient: bool, step: float | None, x: FloatArray) -> None:
        self.numbers, self.extragradient, self.fixed = numbers, extragradient, step
        units = numbers.units(x)
        self.unit, self.slope = units.action, units.slope
        with np.errstate(all="ignore"):
            bend = np.abs(numbers.field_jacobian(x).diagonal())
        self.metric = np.where(np.isfinite(bend) & (bend > 0.0), bend, 1.0 / units.step)
        self.metric = np.ones(numbers.n) if step else self.metric
        self.projector = Projector(numbers, metric=self.metric)
        self.eta = self.first = step or 1.0
        self.best, self.since, self.halved = np.inf, 0, False

    def step(self, x: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """(next point, residuals at x (n,)), None where a set is empty."""
        field = self.numbers.field(x)
        if not np.isfinite(field).all():
            return None
        y = self._moved(x, field)
        if not self.fixed:
            y = self._shrunk(x, y, field)
        if y is None:
            return None
        left = self.metric * np.abs(x - y) / self.eta
        if not self.extragradient:
            self._slow_down(x, y, field, float(left.max(initial=0.0)))
            return y, left
        there = self.numbers.field(y)
        following = self._moved(x, there)
        if not self.fixed and self.eta * self._changed(field - there) < 0.5 * self._long(x - y):
            self.eta *= _GROW if self.eta < 1e6 * self.first else 1.0
        return None if following is None else (following, left)

    def small(self, x: FloatArray, left: FloatArray, tol: float) -> bool:
        """Whether residuals are small beside the slopes, which are measured anew before it is said."""
        if (left > tol * self.slope).any():
            self.slope = np.maximum(self.slope, self.numbers.slope_sizes(x))
            return False
        self.slope = self.numbers.units(x).slope
        return bool((left <= tol * self.slope).all())

    def hopeless(self, x: FloatArray, residual: float, first: float) -> tuple[str, str] | None:
        """Verdict and reason where nothing is to be hoped for from further steps."""
        gone = f"the actions grow without limit: residual {residual:.1e}"
        if ran_off(x, self.unit):
            return DIVERGES, gone
        if self.eta < _LEAST_STEP * self.first:
            why = f"the residual, {residual:.1e}, does not fall at any step: F is not strongly monotone here"
            return (DIVERGES if residual > 0.99 * first else STOPPED), why
        if not self.extragradient or self.fixed:  # the plain projection has its own rule
            return None
        self.best, self.since = (residual, 0) if residual < 0.99 * self.best else (self.best, self.since + 1)
        if self.since < _STALLED:
            return None
        if (np.abs(x) > _GONE * np.maximum(self.unit, 1.0)).any():
            return DIVERGES, gone
        why = f"the residual, {residual:.1e}, did not fall in {_STALLED} iterations: F is not monotone, or sets move"
        return STOPPED, why

    def _moved(self, x: FloatArray, field: FloatArray) -> FloatArray | None:
        return self.projector.at(x - self.eta * field / self.metric, x)

    def _long(self, move: FloatArray) -> float:
        return float(np.linalg.norm(np.sqrt(self.metric) * move))

    def _changed(self, field: FloatArray) -> float:
        return float(np.linalg.norm(field / np.sqrt(self.metric)))

    def _shrunk(self, x: FloatArray, y: FloatArray | None, field: FloatArray) -> FloatArray | None:
        """y at a step that keeps F(y) a number, and of extragradient eta |F(x) - F(y)| <= 0.9 |x - y|."""
        while y is not None and self.eta > _LEAST_STEP * self.first:
            there = self.numbers.field(y)
            short = not self.extragradient or self.eta * self._changed(field - there) <= _CAUTION * self._long(x - y)
            if np.isfinite(there).all() and short:
                break
            self.eta *= _SHRINK
            y = self._moved(x, field)
        return y

    def _slow_down(self, x: FloatArray, y: FloatArray, field: FloatArray, residual: float) -> None:
        """Plain projection: no step beyond 1 / (slope of F), and half of it while the residual does not fall."""
        if self.fixed:
            return
        moved, changed = self._long(x - y), self._changed(field - self.numbers.field(y))
        if self.eta * changed > moved > 0.0:
            self.eta = moved / changed
        elif self.eta * changed < 0.5 * moved and not self.halved and self.eta < 1e6 * self.first:
            self.eta *= _GROW
            self.since = 0
        if residual < 0.99 * self.best:
            self.best, self.since = residual, 0
            return
        self.since += 1
        if self.since >= _PATIENCE:
            self.eta, self.since, self.best = 0.5 * self.eta, 0, residual
            self.first, self.halved = self.first if self.halved else self.eta, True
