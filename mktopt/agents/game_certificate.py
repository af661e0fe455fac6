"""The proof that a point is an equilibrium of a game, evaluated from its tables and the model's Pyomo expressions.

    gain             the most a player could gain by its best deviation within its own set X_i(x_-i), shared rows
                     included, in units of its payoff; and relative to the terms that hold variables of its own
    primal           greatest violation of a row or a bound, relative to the size of its terms, constants aside
    stationarity     greatest part of grad_i u_i - sum y grad_i g that no bound explains, relative to its terms
    complementarity  greatest multiplier times slack, relative to payoffs
    natural          |x_j - P(x - eta F(x))_j| relative to the size of the action, eta_j that of actions over that of
                     slopes, P onto X(x) in the metric 1 / eta (variational: shared rows jointly; generalised: each
                     player's own set)
    common           whether one multiplier per shared row explains the point, which is then variational; None where no
                     row is shared

Sizes are those of `game_units.py`: of each player and variable by itself, so that figures depend on no choice of units.
`proof` is `convex` where every deviation was a convex problem, or one of a single variable that is solved by hand, so
that the gain is the greatest there is; `sampled` where some were searched from several starts, so that no better one is
known.
Reference: Facchinei and Kanzow, Generalized Nash equilibrium problems, 4OR 5 (2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.game_conditions import Conditions
from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_problems import Projector, Responses
from mktopt.agents.game_search import CONVEX, SAMPLED
from mktopt.agents.game_units import FloatArray, Units, row_units
from mktopt.clearing.optimality import Expressions
from mktopt.formulations.game_models import FROZEN, MOVING, VARIATIONAL

_ROUNDING = 1e-15


@dataclass(frozen=True, eq=False)
class GameCertificate:
    """Figures of proof (see the module's text). gains: table player, gain [its payoff], relative, proof; eta: the step
    of the natural residual, (n,) [variable squared per payoff]; variational: whether equal multipliers are claimed."""

    gains: pd.DataFrame
    primal: float
    stationarity: float
    complementarity: float
    natural: float
    eta: FloatArray
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
            f" slackness {self.complementarity:.1e}, natural residual {self.natural:.1e}{shared}"
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
    units = numbers.units(x)
    stationarity, complementarity = conditions_at(numbers, payoffs, bodies, x, keys, y)
    shared = Conditions(numbers, VARIATIONAL, x)
    one = conditions_at(numbers, payoffs, bodies, x, shared.keys, shared.multipliers(x))
    own = [(row, player) for row, player in keys if player >= 0 and numbers.rows[row][0] < 0]
    common = max(one) <= tol or (not own and max(stationarity, complementarity) <= tol)
    return GameCertificate(
        gains=_gains(numbers, payoffs, x, units),
        primal=_primal(numbers, bodies, x, units),
        stationarity=stationarity,
        complementarity=complementarity,
        natural=_natural(numbers, payoffs, x, variational, units),
        eta=units.step,
        common=bool(common) if any(owner < 0 for owner, _ in numbers.rows) else None,
        variational=variational,
    )


def conditions_at(
    numbers: Numbers, payoffs: Expressions, bodies: Expressions, x: FloatArray, keys: Sequence[Any], y: FloatArray
) -> tuple[float, float]:
    """(stationarity, complementarity) of the conditions (KKT), both relative."""
    units = numbers.units(x)
    slope = _own_slopes(numbers, payoffs, x)
    jacobian, activity = bodies.jacobian(x).toarray(), bodies.value(x)
    left, size = slope.copy(), units.slope.copy()
    products = [0.0]
    for (row, player), value in zip(keys, y, strict=True):
        limit = numbers.high[row] if value > 0 else numbers.low[row]
        if value == 0.0 or not np.isfinite(limit):  # a multiplier that pushes against nothing explains nothing
            continue
        pulled = ((numbers.owner == player) | (player == -1)) & (jacobian[row] != 0.0)
        pull = np.where(pulled, value * jacobian[row], 0.0)
        left, size = left - pull, size + np.abs(pull)
        money = units.payoff[np.unique(numbers.owner[pulled])].max(initial=0.0)
        products.append(abs(value * (limit - activity[row])) / (money or 1.0))
    limit = np.where(left > 0, numbers.upper, numbers.lower)
    bounded = np.isfinite(limit) & (np.abs(left) > 1e-9 * size)
    products += np.abs(left * np.where(bounded, limit - x, 0.0) / units.payoff[numbers.owner])[bounded].tolist()
    unexplained = np.where(bounded, 0.0, np.abs(left)) / size
    return float(np.max(unexplained, initial=0.0)), float(np.max(products))


def _own_slopes(numbers: Numbers, payoffs: Expressions, x: FloatArray) -> FloatArray:
    """grad_i u_i(x) for each variable (n,), by Pyomo's expressions."""
    return np.asarray(payoffs.jacobian(x).toarray()[numbers.owner, np.arange(numbers.n)])


def _primal(numbers: Numbers, bodies: Expressions, x: FloatArray, units: Units) -> float:
    """The greatest violation; constants count as rounding only, or they would hide any."""
    activity, noise = bodies.value(x), _ROUNDING * bodies.size(x)
    limits = np.abs(
        np.where(np.isfinite([numbers.low, numbers.high]), [numbers.low, numbers.high] - bodies.constant, 0)
    )
    terms = np.maximum(bodies.size(x) - np.abs(bodies.constant), limits.max(axis=0, initial=0.0))
    rows = np.maximum(numbers.low - activity, activity - numbers.high) - noise
    rows = rows / np.maximum(terms, row_units(bodies.jacobian(x).toarray(), units.action))
    bounds = np.maximum(numbers.lower - x, x - numbers.upper) / units.action
    return float(np.max(np.r_[0.0, rows, bounds]))


def _gains(numbers: Numbers, payoffs: Expressions, x: FloatArray, units: Units) -> pd.DataFrame:
    """What each player could gain: player, gain, relative, proof."""
    responses = Responses(numbers, fresh=True)
    size, here = payoffs.size(x), payoffs.value(x)
    records = []
    for k, player in enumerate(numbers.game.players):
        found = responses.of(k, x)
        gain, unit = found.gain, units.payoff[k]
        if found.status.ok:
            there, own = x.copy(), responses.own(k)
            there[own] = found.values
            noise = _ROUNDING * max(size[k], float(payoffs.size(there)[k]))
            gain = float(payoffs.value(there)[k] - here[k])
            gain = 0.0 if gain <= noise else gain  # NaN stays
            unit = max(unit, float((units.slope[own] * np.abs(found.values)).sum()))
        records.append((player.name, gain, gain / unit, found.proof))
    return pd.DataFrame(records, columns=["player", "gain", "relative", "proof"])


def _natural(numbers: Numbers, payoffs: Expressions, x: FloatArray, variational: bool, units: Units) -> float:
    field = -_own_slopes(numbers, payoffs, x)
    projector = Projector(numbers, MOVING if variational else FROZEN, 1.0 / units.step)
    nearest = projector.at(x - units.step * field, x, exact=True)
    return float("nan") if nearest is None else float(np.max(np.abs(x - nearest) / units.action, initial=0.0))
