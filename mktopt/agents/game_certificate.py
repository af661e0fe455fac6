"""The proof that a point is an equilibrium of a game, evaluated from its tables and the model's Pyomo expressions.

    gain             the most a player could gain by its best deviation within its own set X_i(x_-i), shared rows
                     included, in units of its payoff; and relative to the size of the terms of that payoff
    primal           greatest violation of a row or a bound, relative to the size of its terms
    stationarity     greatest part of grad_i u_i - sum y grad_i g that no bound explains, relative to its terms
    complementarity  greatest multiplier times slack, relative to payoffs
    natural          |x - P(x - eta F(x))| / eta, eta the size of actions over that of slopes, relative to the size of
                     F's terms, P onto X(x) (variational: shared rows jointly; generalised: each player's own set)
    common           whether one multiplier per shared row explains the point, which is then variational; None where no
                     row is shared

`proof` is `convex` where every deviation was a convex problem, so that the gain is the greatest there is; `sampled`
where some were searched from several starts, so that no better one is known.
Reference: Facchinei and Kanzow, Generalized Nash equilibrium problems, 4OR 5 (2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.game_conditions import Conditions
from mktopt.agents.game_numbers import FloatArray, Numbers, floor_of
from mktopt.agents.game_problems import CONVEX, SAMPLED, Projector, Responses
from mktopt.clearing.optimality import Expressions
from mktopt.formulations.game_models import FROZEN, MOVING, VARIATIONAL


@dataclass(frozen=True, eq=False)
class GameCertificate:
    """Figures of proof (see the module's text). gains: table player, gain [its payoff], relative, proof; eta: the step
    of the natural residual; variational: whether the result claims equal multipliers."""

    gains: pd.DataFrame
    primal: float
    stationarity: float
    complementarity: float
    natural: float
    eta: float
    common: bool | None
    variational: bool

    @property
    def gain(self) -> float:
        """The greatest relative gain of any player; infinite where a payoff has no limit, NaN where none was found."""
        found = self.gains["relative"].to_numpy(float)
        return float(np.nan if np.isnan(found).any() else found.max(initial=0.0))

    @property
    def proof(self) -> str:
        """`convex` or `sampled`: what stands behind `gain`."""
        return CONVEX if (self.gains["proof"] == CONVEX).all() else SAMPLED

    def failures(self, tol: float = 1e-6) -> list[str]:
        """The names of the figures that do not hold within `tol`."""
        names = ("primal", "stationarity", "complementarity", "natural", "gain")
        failed = [name for name in names if not getattr(self, name) <= tol]
        return failed + ["common"] * (self.variational and self.common is False)

    def ok(self, tol: float = 1e-6) -> bool:
        """Whether every figure holds within `tol`."""
        return not self.failures(tol)

    def __str__(self) -> str:
        failed = self.failures()
        verdict = "holds" if not failed else f"FAILS in {', '.join(failed)}"
        first = int(np.argmax(np.nan_to_num(self.gains["relative"].to_numpy(float), nan=np.inf)))
        worst = self.gains.iloc[first]
        local = "" if self.proof == CONVEX else " (convexity not proven: as far as several starts can tell)"
        shared = "" if self.common is None else f", multipliers of shared rows {'equal' if self.common else 'differ'}"
        return (
            f"{verdict}: greatest gain {worst['gain']:.1e} (player '{worst['player']}', {self.gain:.1e} of its payoff)"
            f"{local}, primal {self.primal:.1e}, stationarity {self.stationarity:.1e},"
            f" slackness {self.complementarity:.1e}, natural residual {self.natural:.1e} at step {self.eta:g}{shared}"
        )


def certify_game(
    numbers: Numbers,
    x: FloatArray,
    keys: Sequence[tuple[int, int]],
    y: FloatArray,
    variational: bool,
    tol: float = 1e-6,
) -> GameCertificate:
    """The certificate of values x (n,) and multipliers y of `keys` (row, player; -1 for one that all share).

    variational: whether equal multipliers are claimed; tol: within which one multiplier for all must explain the point.
    """
    game, variables = numbers.game, numbers.variables
    payoffs = Expressions([player.utility for player in game.players], variables)
    bodies = Expressions([row.body for _, row in numbers.rows], variables)
    primal = _primal(numbers, bodies, x)
    stationarity, complementarity = conditions_at(numbers, payoffs, bodies, x, keys, y)
    shared = Conditions(numbers, VARIATIONAL, x)
    one = conditions_at(numbers, payoffs, bodies, x, shared.keys, shared.multipliers(x))
    own = [(row, player) for row, player in keys if player >= 0 and numbers.rows[row][0] < 0]
    common = max(one) <= tol or (not own and max(stationarity, complementarity) <= tol)
    eta = numbers.unit(x) / float(np.max(numbers.slope_sizes(x), initial=1e-300))
    return GameCertificate(
        gains=_gains(numbers, payoffs, x),
        primal=primal,
        stationarity=stationarity,
        complementarity=complementarity,
        natural=_natural(numbers, payoffs, x, variational, eta),
        eta=eta,
        common=bool(common) if any(owner < 0 for owner, _ in numbers.rows) else None,
        variational=variational,
    )


def conditions_at(
    numbers: Numbers, payoffs: Expressions, bodies: Expressions, x: FloatArray, keys: Sequence[Any], y: FloatArray
) -> tuple[float, float]:
    """(stationarity, complementarity) of the conditions (KKT), both relative."""
    slope = _own_slopes(numbers, payoffs, x)
    jacobian, activity = bodies.jacobian(x).toarray(), bodies.value(x)
    left, size = slope.copy(), numbers.slope_sizes(x)
    products = [0.0]
    for (row, player), value in zip(keys, y, strict=True):
        limit = numbers.high[row] if value > 0 else numbers.low[row]
        if value == 0.0 or not np.isfinite(limit):  # a multiplier that pushes against nothing explains nothing
            continue
        pull = np.where((numbers.owner == player) | (player == -1), value * jacobian[row], 0.0)
        left, size = left - pull, size + np.abs(pull)
        products.append(abs(value * (limit - activity[row])))
    limit = np.where(left > 0, numbers.upper, numbers.lower)
    noise = np.maximum(size, floor_of(size))
    bounded = np.isfinite(limit) & (np.abs(left) > 1e-9 * noise)
    products += np.abs(left * np.where(bounded, limit - x, 0.0))[bounded].tolist()
    unexplained = np.where(bounded, 0.0, np.abs(left)) / noise
    money = float(np.max(payoffs.size(x), initial=0.0))
    return float(np.max(unexplained, initial=0.0)), float(np.max(products)) / max(money, floor_of(np.array([money])))


def _own_slopes(numbers: Numbers, payoffs: Expressions, x: FloatArray) -> FloatArray:
    """grad_i u_i(x) for each variable (n,), by Pyomo's expressions."""
    return np.asarray(payoffs.jacobian(x).toarray()[numbers.owner, np.arange(numbers.n)])


def _primal(numbers: Numbers, bodies: Expressions, x: FloatArray) -> float:
    activity, size = bodies.value(x), bodies.size(x)
    rows = np.maximum(numbers.low - activity, activity - numbers.high) / np.maximum(size, floor_of(size))
    bounds = np.maximum(numbers.lower - x, x - numbers.upper) / np.maximum(np.abs(x), floor_of(np.abs(x)))
    return float(np.max(np.r_[0.0, rows, bounds]))


def _gains(numbers: Numbers, payoffs: Expressions, x: FloatArray) -> pd.DataFrame:
    """What each player could gain: player, gain, relative, proof."""
    responses = Responses(numbers, fresh=True)
    size, here = payoffs.size(x), payoffs.value(x)
    scale = np.maximum(size, floor_of(size))
    records = []
    for k, player in enumerate(numbers.game.players):
        found = responses.of(k, x)
        gain, unit = found.gain, scale[k]
        if found.status.ok:
            there = x.copy()
            there[responses.own(k)] = found.values
            gain = max(float(payoffs.value(there)[k] - here[k]), 0.0)
            unit = max(unit, float(payoffs.size(there)[k]))
        records.append((player.name, gain, gain / unit, found.proof))
    return pd.DataFrame(records, columns=["player", "gain", "relative", "proof"])


def _natural(numbers: Numbers, payoffs: Expressions, x: FloatArray, variational: bool, eta: float) -> float:
    field = -_own_slopes(numbers, payoffs, x)
    nearest = Projector(numbers, MOVING if variational else FROZEN).at(x - eta * field, x, exact=True)
    if nearest is None:
        return float("nan")
    return float(np.max(np.abs(x - nearest) / numbers.slope_sizes(x), initial=0.0)) / eta
