"""The numbers of a game at a point: payoffs, their slopes F(x) = -(grad_i u_i(x))_i, and curvatures, compiled once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo

from mktopt.agents.game_units import FloatArray, Units, units_of
from mktopt.formulations.game import Game
from mktopt.formulations.game_models import limits_of
from mktopt.solvers import Program, compile


class Numbers:
    """Slopes and curvatures of a game, compiled once. n variables, m rows, K players; x: (n,).

    limits: low, high (m,) of rows and lower, upper (n,) of variables; owner: (n,) player of each variable.
    """

    def __init__(self, game: Game) -> None:
        game.check()
        self.game, self.variables, self.rows = game, game.variables, game.rows
        self.owner = np.array(game.owners, dtype=int)
        self.n, self.m, self.players = len(self.variables), len(self.rows), len(game)
        self.lower, self.upper = _bounds(self.variables)
        limits = np.array([limits_of(row) for _, row in self.rows], dtype=float).reshape(-1, 2)
        self.low, self.high = limits[:, 0], limits[:, 1]
        model = pyo.ConcreteModel("game")
        bodies = {"sum": sum(self.variables)}  # the keys are what errors of reading name
        bodies |= {f"payoff of player '{player.name}'": player.utility for player in game.players}
        bodies |= {f"'{row.name}'": row.body for _, row in self.rows}
        model.rows = pyo.Constraint(list(bodies), rule=lambda m, name: bodies[name] == 0.0)
        self.program = compile(model)
        self._constants = -self.program.row_lower  # `compile` moves what is constant in a body to its limits
        self._columns = self.program.columns(self.variables)
        self._offset = 1 + self.players

    def _point(self, x: FloatArray) -> FloatArray:
        point = np.zeros(self.program.n)
        point[self._columns] = x
        return point

    def payoffs(self, x: FloatArray) -> FloatArray:
        """What each player gains at x, costs negative (K,)."""
        return np.asarray((self.program.activity(self._point(x)) + self._constants)[1 : self._offset])

    def activity(self, x: FloatArray) -> FloatArray:
        """The bodies of the rows (m,)."""
        return np.asarray((self.program.activity(self._point(x)) + self._constants)[self._offset :])

    def slopes(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """F(x) = -(derivative of each variable's owner's utility) (n,), and the Jacobian of the rows (m, n)."""
        jacobian = self.program.jacobian(self._point(x)).toarray()[:, self._columns]
        return -jacobian[1 + self.owner, np.arange(self.n)], jacobian[self._offset :]

    def slope_sizes(self, x: FloatArray) -> FloatArray:
        """The sums of the sizes of the terms of F(x), which may cancel (n,)."""
        import scipy.sparse as sp

        program, point = self.program, self._point(x)
        size = abs(program.A)
        if program.quadratics is not None:
            absolute = replace(program.quadratics, coef=np.abs(program.quadratics.coef))
            size = size + absolute.jacobian(np.abs(point), (program.m, program.n))
        for part, rows in ((program.logs, "row"), (program.remainder, "rows")):
            if part is not None:
                slopes = abs(part.jacobian(point))
                where = np.asarray(getattr(part, rows))
                into = (np.ones(len(where)), (where, np.arange(len(where))))
                size = size + sp.csr_array(into, shape=(program.m, len(where))) @ slopes
        return np.asarray(sp.csr_array(size).toarray()[:, self._columns][1 + self.owner, np.arange(self.n)])

    def units(self, x: FloatArray) -> Units:
        """The sizes of actions, slopes and payoffs at x, see `game_units`."""
        with np.errstate(all="ignore"):
            sizes, bend = self.slope_sizes(x), self.field_jacobian(x)
        return units_of(x, self._reach(x), sizes, bend, self.owner, self.players)

    def _reach(self, x: FloatArray) -> FloatArray:
        """How far limits let each variable go: the larger of a box, and what a row alone allows; 1 at most (n,)."""
        low, high = self.lower, self.upper
        box = np.where(np.isfinite(low) & np.isfinite(high), np.maximum(np.abs(low), np.abs(high)), 1.0)
        limits = np.abs([self.low, self.high] - self._constants[self._offset :])
        limit = np.where(np.isfinite(limits), limits, 0.0).max(axis=0, initial=0.0)
        with np.errstate(all="ignore"):
            alone = limit[:, None] / np.abs(self.slopes(x)[1])
        alone = np.where(np.isfinite(alone) & (alone > 0.0), alone, 1.0).min(axis=0, initial=1.0)
        return np.asarray(np.minimum(np.where(box > 0.0, box, 1.0), alone))

    def row_sizes(self, x: FloatArray) -> FloatArray:
        """The sum of the sizes of the terms of each row at x, constants as far as they are rounded (m,)."""
        return np.asarray((self.program.size(self._point(x)) + 1e-6 * np.abs(self._constants))[self._offset :])

    def rows_of(self, player: int) -> list[int]:
        """The rows that bind a player: its own and shared ones, as far as they hold variables of its own."""
        return [k for k, (owner, _) in enumerate(self.rows) if owner in (-1, player) and player in self.bound_by[k]]

    def field(self, x: FloatArray) -> FloatArray:
        """F(x), shape (n,)."""
        return self.slopes(x)[0]

    def field_jacobian(self, x: FloatArray, y: FloatArray | None = None, parts: Any = None) -> FloatArray:
        """The Jacobian of F(x), or of G(x, y) with multipliers y of the keys `parts` (n, n)."""
        if self.linear and self.quadratic:
            return self._constant_jacobian
        return self._jacobian(x, y, parts)

    @cached_property
    def _constant_jacobian(self) -> FloatArray:
        return self._jacobian(np.zeros(self.n))

    def _jacobian(self, x: FloatArray, y: FloatArray | None = None, parts: Any = None) -> FloatArray:
        found = np.zeros((self.n, self.n))
        for player in range(self.players):
            weights = np.zeros(len(self.program.rows))
            weights[1 + player] = -1.0
            for (row, owner), value in zip(parts or (), y if y is not None else (), strict=True):
                if owner in (-1, player):
                    weights[self._offset + row] += value
            mine = self.owner == player
            curvature = self.program.hessian(self._point(x), weights, 0.0).toarray()
            found[mine] = curvature[np.ix_(self._columns[mine], self._columns)]
        return found

    def violation(self, x: FloatArray) -> float:
        """The greatest violation of a row or a bound at x."""
        activity = self.activity(x)
        parts = [self.low - activity, activity - self.high, self.lower - x, x - self.upper]
        return float(np.concatenate([np.zeros(1), *parts]).max())

    @cached_property
    def bound_by(self) -> list[set[int]]:
        """For each row the players whose variables it holds."""
        return self.game.bound_by

    def sliced(self, player: int, x: FloatArray) -> Program:
        """The problem of a player at x as a program, by arrays: payoffs at most quadratic, rows linear."""
        import scipy.sparse as sp

        own = np.flatnonzero(self.owner == player)
        rows = self.rows_of(player)
        weights = np.zeros(self.program.m)
        weights[1 + player] = -1.0
        P = self.program.hessian(self._point(x), weights, 0.0)[self._columns[own]][:, self._columns[own]]
        jacobian = self.program.A[[self._offset + k for k in rows]][:, self._columns]
        A = sp.csr_array(jacobian[:, own])
        slope = self.program.jacobian(self._point(x))[[1 + player]].toarray()[0, self._columns[own]]
        rest = self.activity(x)[rows] - A @ x[own]
        return Program(
            variables=[self.variables[j] for j in own],
            rows=[self.rows[k][1] for k in rows],
            A=A,
            row_lower=self.low[rows] - rest,
            row_upper=self.high[rows] - rest,
            lower=self.lower[own],
            upper=self.upper[own],
            integer=np.zeros(len(own), dtype=bool),
            c=-slope - P @ x[own],
            P=sp.csc_array(P) if P.nnz else None,
            name=f"response of {self.game.players[player].name}",
        )

    @cached_property
    def sufficient(self) -> bool:
        """Whether every player's problem is seen to be convex: payoffs quadratic and concave in its own, rows
        linear."""
        if not (self.linear and self.quadratic):
            return False
        matrix = self.field_jacobian(np.zeros(self.n))
        for player in range(self.players):
            own = self.owner == player
            if not own.any():
                continue
            part = matrix[np.ix_(own, own)]
            if np.linalg.eigvalsh(0.5 * (part + part.T))[0] < -1e-10 * max(1.0, float(np.abs(part).max())):
                return False
        return True

    @cached_property
    def linear(self) -> bool:
        """Whether all rows are linear, so that the conditions (KKT) are necessary without further ado."""
        for part in (self.program.quadratics, self.program.logs):
            if part is not None and (np.asarray(part.row) >= self._offset).any():
                return False
        remainder = self.program.remainder
        return remainder is None or not (np.asarray(remainder.rows) >= self._offset).any()

    @cached_property
    def quadratic(self) -> bool:
        """Whether payoffs are at most quadratic, so that the Jacobian of F is the same everywhere."""
        logs, remainder = self.program.logs, self.program.remainder
        curved = [] if logs is None else [np.asarray(logs.row)]
        curved += [] if remainder is None else [np.asarray(remainder.rows)]
        return not any((rows < self._offset).any() for rows in curved)


def _bounds(variables: list[Any]) -> tuple[FloatArray, FloatArray]:
    low = [-np.inf if v.lower is None else float(pyo.value(v.lower)) for v in variables]
    high = [np.inf if v.upper is None else float(pyo.value(v.upper)) for v in variables]
    return np.array(low), np.array(high)
