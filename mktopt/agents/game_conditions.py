"""The conditions of all players in numbers: residuals, Newton's method, the multipliers of a point, whether it is
isolated.

With G_i(x, y) = -grad_i u_i(x) + sum_r y_r grad_i g_r(x), box [l, u] and rows g(x) in [a, b], the conditions (KKT) of
`formulations/game.py` are

    R_x = x - clip(x - eta G(x, y), l, u) = 0,        R_y = g(x) - clip(g(x) + rho y, a, b) = 0

one R_y for each multiplier: a shared row has one for all players (variational) or one for each (generalised). R is
piecewise smooth; near a regular solution Newton's method on the smooth piece at hand converges quadratically, which for
a linear complementarity problem means in the last step. All is in units X of actions, S of slopes (of each variable)
and |g'| X of rows, eta = X / S and rho likewise, so that residuals have no dimension. Multipliers of a given x minimise
|G + z|^2 + sum (y slack)^2 in these units.
References: Facchinei and Pang, Finite-Dimensional Variational Inequalities (2003), 1.5 (natural map) and 7.2.
"""

from __future__ import annotations

import numpy as np

from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_units import FloatArray, row_units
from mktopt.formulations.game_models import multiplier_keys

# Rows and bounds this near, in their units, may have a multiplier when one is sought for a given point.
_NEAR = 1e-3
_NEWTON = 30


class Conditions:
    """The conditions (KKT) of one kind of equilibrium, in units that `measure` takes from a point.

    keys: (row, player) of each of the k multipliers, see `multiplier_keys`.
    """

    def __init__(self, numbers: Numbers, kind: str, x: FloatArray | None = None) -> None:
        self.numbers = numbers
        self.keys = multiplier_keys(numbers.game, kind)
        self.row = np.array([row for row, _ in self.keys], dtype=int)
        player = np.array([owner for _, owner in self.keys], dtype=int)
        # whose stationarity a multiplier enters: that of its player, or of all (k, n)
        self.enters = (player[:, None] == numbers.owner[None, :]) | (player[:, None] == -1)
        self.measure(np.clip(np.zeros(numbers.n), numbers.lower, numbers.upper) if x is None else x)

    def measure(self, x: FloatArray) -> None:
        """Takes the units of actions, slopes, rows and multipliers from x (n,)."""
        numbers = self.numbers
        units = numbers.units(x)
        with np.errstate(all="ignore"):
            jacobian = numbers.slopes(x)[1][self.row] * self.enters
        self.unit, self.slope = units.action, units.slope
        self.row_unit = row_units(jacobian, self.unit)
        worth = np.where(jacobian != 0.0, self.slope * self.unit, 0.0).max(axis=1, initial=0.0)
        self.money = np.where(worth > 0.0, worth, 1.0) / self.row_unit

    def gradient(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """G(x, y), shape (n,): what is left for the bounds to explain."""
        field, jacobian = self.numbers.slopes(x)
        return np.asarray(field + ((jacobian[self.row] * self.enters) * y[:, None]).sum(axis=0))

    def residual(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """(R_x, R_y) in units, shape (n + k,)."""
        numbers = self.numbers
        moved = x - self.unit / self.slope * self.gradient(x, y)
        activity = numbers.activity(x)[self.row]
        pushed = activity + self.row_unit / self.money * y
        at_x = (x - np.clip(moved, numbers.lower, numbers.upper)) / self.unit
        at_y = (activity - np.clip(pushed, numbers.low[self.row], numbers.high[self.row])) / self.row_unit
        return np.r_[at_x, at_y]

    def worst(self, x: FloatArray, y: FloatArray) -> float:
        """The largest residual, infinite where one is no number."""
        with np.errstate(all="ignore"):
            size = float(np.abs(self.residual(x, y)).max(initial=0.0))
        return size if np.isfinite(size) else float("inf")

    def derivative(self, x: FloatArray, y: FloatArray, slack: float = 0.0) -> FloatArray:
        """An element of the generalised Jacobian of the residual in units of all, (n + k, n + k).

        slack: limits that bind with a multiplier of no more than this, in units, count as not binding.
        """
        numbers, n = self.numbers, self.numbers.n
        moved = x - self.unit / self.slope * self.gradient(x, y)
        jacobian = numbers.slopes(x)[1][self.row]
        pushed = numbers.activity(x)[self.row] + self.row_unit / self.money * y
        matrix = np.eye(n + len(y))
        near = slack * self.unit
        inside = (moved > numbers.lower - near) & (moved < numbers.upper + near)
        low, high, room = numbers.low[self.row], numbers.high[self.row], slack * self.row_unit
        within = (low < high) & (pushed > low - room) & (pushed < high + room)
        curvature = numbers.field_jacobian(x, y, self.keys) * self.unit[None, :] / self.slope[:, None]
        pull = (jacobian * self.enters).T * self.money[None, :] / self.slope[:, None]
        matrix[:n, :n][inside] = curvature[inside]
        matrix[:n, n:][inside] = pull[inside]
        matrix[n:, n:][within] *= -1.0
        matrix[n:, n:][~within] = 0.0
        matrix[n:, :n][~within] = (jacobian * self.unit[None, :] / self.row_unit[:, None])[~within]
        return matrix

    def newton(self, x: FloatArray, y: FloatArray, steps: int = _NEWTON) -> tuple[FloatArray, FloatArray, float]:
        """(x, y, largest residual) of the best point that Newton's method finds from here; never a worse one."""
        best = x, y, self.worst(x, y)
        with np.errstate(all="ignore"):
            for _ in range(steps):
                if best[2] <= 1e-14:
                    break
                residual, matrix = self.residual(x, y), self.derivative(x, y)
                if not (np.isfinite(residual).all() and np.isfinite(matrix).all()):
                    break
                move = np.linalg.lstsq(matrix, -residual, rcond=1e-12)[0]
                x, y = x + self.unit * move[: len(x)], y + self.money * move[len(x) :]
                size = self.worst(x, y)
                if size < best[2]:
                    best = x, y, size
                elif size > 1e3 * max(best[2], 1e-12):
                    break
        return best

    def multipliers(self, x: FloatArray) -> FloatArray:
        """The multipliers that explain x best (k,): least squares of stationarity and of multiplier times slack."""
        from scipy.optimize import nnls

        numbers = self.numbers
        field, jacobian = numbers.slopes(x)
        y = np.zeros(len(self.keys))
        columns, slack, where = self._candidates(x, jacobian)
        if not columns or not np.isfinite(field).all():
            return y
        matrix = np.vstack([np.array(columns).T, np.diag(slack)])
        found = nnls(matrix, np.r_[-field / self.slope, np.zeros(len(slack))])[0]
        for (k, sign), value in zip(where, found, strict=True):
            if k >= 0:
                y[k] += sign * value * self.money[k]
        return y

    def _candidates(
        self, x: FloatArray, jacobian: FloatArray
    ) -> tuple[list[FloatArray], list[float], list[tuple[int, float]]]:
        """What limits near x could pull with, in units: pull (n,), slack, and (multiplier or -1 for bounds, sign)."""
        numbers, activity = self.numbers, self.numbers.activity(x)
        columns: list[FloatArray] = []
        slack: list[float] = []
        where: list[tuple[int, float]] = []
        for k, row in enumerate(self.row):
            for sign, room in ((1.0, numbers.high[row] - activity[row]), (-1.0, activity[row] - numbers.low[row])):
                if room <= _NEAR * self.row_unit[k]:
                    columns.append(sign * jacobian[row] * self.enters[k] * self.money[k] / self.slope)
                    slack.append(max(float(room / self.row_unit[k]), 0.0))
                    where.append((k, sign))
        for j in range(numbers.n):
            for sign, room in ((1.0, numbers.upper[j] - x[j]), (-1.0, x[j] - numbers.lower[j])):
                if room <= _NEAR * self.unit[j]:
                    columns.append(sign * np.eye(1, numbers.n, j)[0])
                    slack.append(max(float(room / self.unit[j]), 0.0))
                    where.append((-1, sign))
        return columns, slack, where

    def singular(self, x: FloatArray, y: FloatArray, slack: float = 0.0) -> bool:
        """Whether equilibria near x are not isolated to first order: some dx != 0 keeps the conditions."""
        matrix = self.derivative(x, y, slack)
        scale = np.abs(matrix).max(axis=1, keepdims=True, initial=0.0)
        _, sizes, right = np.linalg.svd(matrix / np.where(scale > 0, scale, 1.0))
        flat = right[sizes <= 1e-9 * max(float(sizes[0]), 1e-300)]
        return bool(len(flat) and np.abs(flat[:, : len(x)]).max() > 1e-6)
