"""Projection methods for the (quasi-)variational inequality of a game.

    projection      x+ = P(x - eta F(x))
    extragradient   y = P(x - eta F(x)),   x+ = P(x - eta F(y))

P: onto X(x) (see `formulations/game_models.py`), the shared rows jointly, so that a fixed point is variational. Step of
extragradient (Khobotov, Marcotte): eta |F(x) - F(y)| <= 0.9 |x - y|, shrunk until it holds and grown where there is
room; it converges for monotone F on a convex set that does not move. The plain projection converges for F strongly
monotone and eta small; eta is halved as long as the residual does not fall. For sets that move (QVI) neither has a
guarantee. Residual: |x - y| / eta in units of payoff per unit of a variable.
References: Facchinei and Pang (2003), 12.1; Marcotte, Application of Khobotov's algorithm, INFOR 29 (1991).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.agents.game_numbers import FloatArray, Numbers
from mktopt.agents.game_problems import Projector, feasible_start
from mktopt.agents.game_run import CONVERGED, DIVERGES, NONE_FOUND, STOPPED, Run, period_of, ran_off

_SHRINK, _GROW, _CAUTION = 0.6, 1.3, 0.9
_LEAST_STEP = 1e-5
_PATIENCE = 25


def iterate(
    numbers: Numbers,
    start: FloatArray,
    extragradient: bool,
    tol: float,
    max_iterations: int,
    step: float | None = None,
) -> Run:
    """Runs the projection or the extragradient method from `start` (n,).

    tol: on the residual, relative to the size of F; step: eta, kept as it is where given (units of the variable squared
    per unit of payoff), else adapted.
    """
    projector = Projector(numbers)
    x = feasible_start(numbers, start)
    if x is None:
        return Run(start, NONE_FOUND, "no feasible point: no x in X(x) was found near the start", [])
    walk = _Walk(numbers, projector, extragradient, step, x)
    trace: list[dict[str, Any]] = []
    points = [x]
    for k in range(max_iterations):
        found = walk.step(x)
        if found is None:
            why = f"there is no step from here in iteration {k}: a set X(x) is empty, or F is no number"
            return Run(x, STOPPED, why, trace)
        following, residual, scale = found
        trace.append({"iteration": k, "residual": residual, "step": walk.eta})
        if residual <= tol * scale:
            return Run(x, CONVERGED, f"residual {residual:.1e} at step {walk.eta:.2g}", trace)
        x = following
        points.append(x)
        if ran_off(x, walk.unit):
            return Run(x, DIVERGES, f"the actions grow without limit: residual {residual:.1e}", trace)
        if walk.eta < _LEAST_STEP * walk.first:
            worse = residual > 0.99 * trace[0]["residual"]
            why = f"the residual, {residual:.1e}, does not fall at any step: F is not strongly monotone here"
            return Run(x, DIVERGES if worse else STOPPED, why, trace)
        if k % 10 == 9 and (n := period_of(points)):
            return Run(x, f"cycles with period {n}", f"the last {3 * n} points repeat themselves", trace)
    return Run(x, STOPPED, f"residual {trace[-1]['residual']:.1e} after {max_iterations} iterations", trace)


class _Walk:
    """One step after the other, with the rule for eta."""

    def __init__(
        self, numbers: Numbers, projector: Projector, extragradient: bool, step: float | None, x: FloatArray
    ) -> None:
        self.numbers, self.projector, self.extragradient, self.fixed = numbers, projector, extragradient, step
        self.unit = numbers.unit(x)
        self.eta = self.first = step or self.unit / float(np.max(numbers.slope_sizes(x), initial=1e-300))
        self.best, self.since, self.halved = np.inf, 0, False
        self.scale = 0.0

    def step(self, x: FloatArray) -> tuple[FloatArray, float, float] | None:
        """(next point, residual at x, size of F), None where a set is empty."""
        field = self.numbers.field(x)
        if not np.isfinite(field).all():
            return None
        self.scale = max(self.scale, float(np.max(self.numbers.slope_sizes(x), initial=0.0)))
        y = self.projector.at(x - self.eta * field, x)
        if y is None:
            return None
        if self.extragradient and not self.fixed:
            y = self._shrunk(x, y, field)
            if y is None:
                return None
        residual = float(np.abs(x - y).max(initial=0.0)) / self.eta
        scale = self.scale
        if not self.extragradient:
            self._slow_down(x, y, field, residual)
            return y, residual, scale
        there = self.numbers.field(y)
        following = self.projector.at(x - self.eta * there, x)
        moved, changed = float(np.linalg.norm(x - y)), float(np.linalg.norm(field - there))
        if not self.fixed and self.eta * changed < 0.5 * moved and self.eta < 1e6 * self.first:
            self.eta *= _GROW
        return None if following is None else (following, residual, scale)

    def _shrunk(self, x: FloatArray, y: FloatArray | None, field: FloatArray) -> FloatArray | None:
        """y at a step that keeps eta |F(x) - F(y)| <= 0.9 |x - y|."""
        while y is not None and self.eta > _LEAST_STEP * self.first:
            changed = float(np.linalg.norm(field - self.numbers.field(y)))
            if not self.eta * changed > _CAUTION * float(np.linalg.norm(x - y)):
                break
            self.eta *= _SHRINK
            y = self.projector.at(x - self.eta * field, x)
        return y

    def _slow_down(self, x: FloatArray, y: FloatArray, field: FloatArray, residual: float) -> None:
        """Plain projection: no step beyond 1 / (slope of F), and half of it while the residual does not fall."""
        if self.fixed:
            return
        moved = float(np.linalg.norm(x - y))
        changed = float(np.linalg.norm(field - self.numbers.field(y)))
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
