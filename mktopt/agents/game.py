"""`solve_game`: an equilibrium of a `Game`, by one of several methods, with its certificate and an honest verdict.

    kkt            the conditions of all players at once (`game_kkt.py`): general, both kinds of equilibrium
    projection     onto the set of the game along -F (`game_projection.py`): variational; needs strong monotony
    extragradient  the same with a look ahead: converges for monotone games whose sets do not move
    best_response  in turn (`game_best_response.py`): generalised, variational only by chance

The default is kkt: it needs no monotony, takes sets that move, finds both kinds, and ends exact to rounding. Take
extragradient for large monotone games, where conditions with all multipliers at once are too many. Whatever the method
says, `converged` is what the certificate confirms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents import game_best_response, game_kkt, game_projection
from mktopt.agents.game_certificate import GameCertificate, certify_game
from mktopt.agents.game_conditions import Conditions
from mktopt.agents.game_numbers import Numbers
from mktopt.agents.game_run import CONVERGED, DIVERGES, NONE_FOUND, Run
from mktopt.agents.game_search import SAMPLED, best_of, put
from mktopt.agents.game_units import FloatArray
from mktopt.clearing.optimality import values_kept
from mktopt.errors import FormulationError, SolverError, unknown_name
from mktopt.formulations.game import Game
from mktopt.formulations.game_models import GENERALISED, VARIATIONAL, central_model
from mktopt.solvers import SOLVERS, compile

KINDS = (VARIATIONAL, GENERALISED)
EVERYBODY = "all"
_HUGE = 1e3
_LEAST_TOL = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class GameResult:
    """What `solve_game` found.

    verdict: converged | no equilibrium found | cycles with period n | diverges | stopped, `reason` says why; kind: what
    equilibrium it is, '' where it is none; values: variable, player, value; payoffs: player, payoff (in its own sense);
    multipliers: constraint, index, player, multiplier: what the player gains per unit by which the right-hand side is
    raised, player 'all' where one holds for all; trace: one row per iteration; certificate: None where a run diverges;
    several: what is known of other equilibria; alternatives: the values of those that were found.
    """

    game: Game
    method: str
    verdict: str
    reason: str
    kind: str
    values: pd.DataFrame
    payoffs: pd.DataFrame
    multipliers: pd.DataFrame
    trace: pd.DataFrame
    certificate: GameCertificate | None
    several: str = ""
    alternatives: tuple[pd.DataFrame, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether an equilibrium was found and its certificate holds."""
        return self.verdict == CONVERGED

    def value(self, variable: Any) -> float:
        """The value of one variable of the game, given by its Pyomo component or its name."""
        name = str(getattr(variable, "name", variable))
        found = self.values.loc[self.values["variable"] == name, "value"]
        if found.empty:
            raise unknown_name("variable of the game", name, self.values["variable"])
        return float(found.iloc[0])

    def __repr__(self) -> str:
        return f"GameResult({self.method}: {self.verdict}; {len(self.payoffs)} players, {len(self.values)} variables)"

    def __str__(self) -> str:
        lines = [f"{self.method}: {self.verdict} ({self.reason})"]
        lines += [self.kind] if self.kind else []
        lines += [self.several] if self.several else []
        lines += [f"certificate {self.certificate}"] if self.certificate is not None else []
        return "\n".join([*lines, self.values.head(20).to_string(index=False)])


def _projection(numbers: Numbers, start: FloatArray, kind: str, tol: float, **options: Any) -> Run:
    given = {"max_iterations": 5000, **options}
    return game_projection.iterate(numbers, start, False, 1e-1 * tol, **given)


def _extragradient(numbers: Numbers, start: FloatArray, kind: str, tol: float, **options: Any) -> Run:
    given = {"max_iterations": 5000, **options}
    return game_projection.iterate(numbers, start, True, 1e-1 * tol, **given)


def _best_response(numbers: Numbers, start: FloatArray, kind: str, tol: float, **options: Any) -> Run:
    return game_best_response.iterate(numbers, start, tol, **{"max_iterations": 200, **options})


METHODS: dict[str, tuple[Callable[..., Run], tuple[str, ...]]] = {
    "kkt": (game_kkt.search, ("starts", "all_starts")),
    "projection": (_projection, ("max_iterations", "step")),
    "extragradient": (_extragradient, ("max_iterations", "step")),
    "best_response": (_best_response, ("max_iterations", "sweep", "damping")),
}


def solve_game(
    game: Game, method: str | None = None, kind: str = VARIATIONAL, tol: float = 1e-6, **options: Any
) -> GameResult:
    """An equilibrium of `game`; the model carries the values afterwards, which are also where the search starts.

    method: a key of METHODS, None for kkt where IPOPT is there, else extragradient; kind: 'variational' (equal
    multipliers of shared rows, the default) or 'generalised' (kkt: one multiplier per player; best_response finds
    no other, whatever is asked); tol: on every relative figure of the certificate. options, by method: kkt:
    starts=4, all_starts=False (go on after the first equilibrium); projection, extragradient: max_iterations=5000,
    step=None (adapted); best_response: max_iterations=200, sweep='gauss-seidel' | 'jacobi', damping=1.0.
    Raises FormulationError for a model that is no game (see `Game.check`) and for options that make no sense,
    UnknownNameError, SolverError. A game without an equilibrium is no error but a verdict.
    """
    if not isinstance(game, Game):
        raise FormulationError(f"solve_game takes a Game, not {type(game).__name__}; declare one: Game(model)")
    name = _default() if method is None else method
    _check(name, kind, tol, options)
    numbers = Numbers(game)
    start = _start(numbers)
    run = METHODS[name][0](numbers, start, kind, tol, **options)
    return _told(numbers, run, name, kind, tol)


def _default() -> str:
    """The KKT system is the most general way; it needs IPOPT, which extragradient steps do not."""
    return "kkt" if SOLVERS["ipopt"].available() else "extragradient"


def _check(method: str, kind: str, tol: float, options: Mapping[str, Any]) -> None:
    if method not in METHODS:
        raise unknown_name("method for games", method, METHODS)
    if kind not in KINDS:
        raise unknown_name("kind of equilibrium", kind, KINDS)
    if not (_is_number(tol) and _LEAST_TOL <= tol < 1.0):
        raise FormulationError(f"tol must be between {_LEAST_TOL:g} (no solver answers to more) and 1, not {tol!r}")
    for option, value in options.items():
        if option not in METHODS[method][1]:
            raise unknown_name(f"option of method '{method}'", option, METHODS[method][1])
        if option == "damping" and not (_is_number(value) and 0.0 < value <= 1.0):
            raise FormulationError(f"damping must be above 0 and at most 1 (no damping), and {value!r} was given")
        if option in ("starts", "max_iterations") and not (_is_number(value) and isinstance(value, int) and value >= 1):
            raise FormulationError(f"{option} must be a whole number of at least 1, and {value!r} was given")
        if option == "step" and value is not None and not (_is_number(value) and 0.0 < value < np.inf):
            raise FormulationError(f"step must be a number above zero, and {value!r} was given")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _start(numbers: Numbers) -> FloatArray:
    """The values of the variables; without one, and of all where F is no number there (as sqrt at zero), the middle of
    its box, one from its bound, or zero."""
    low, high = numbers.lower, numbers.upper
    default = np.where(np.isfinite(low), low + 1.0, np.where(np.isfinite(high), high - 1.0, 0.0))
    box = np.isfinite(low) & np.isfinite(high)
    default[box] = 0.5 * (low[box] + high[box])
    given = np.array([np.nan if v.value is None else float(v.value) for v in numbers.variables])
    start = np.asarray(np.clip(np.where(np.isfinite(given), given, default), low, high))
    with np.errstate(all="ignore"):
        return start if np.isfinite(numbers.field(start)).all() else np.asarray(np.clip(default, low, high))


def _told(numbers: Numbers, run: Run, method: str, kind: str, tol: float) -> GameResult:
    """The result of a run: multipliers, what kind of equilibrium it is, certificate, and the verdict that it
    supports."""
    if not np.isfinite(run.x).all():
        raise SolverError(f"{method} ended at a point that is no number ({run.reason}); give the variables bounds")
    x, y, found = _explained(numbers, run, kind, tol)
    x = np.where(
        np.abs(x) <= 1e-14 * numbers.units(x).action, 0.0, x
    )  # rounding, of which even an unbounded gain can be made
    x = np.clip(x, numbers.lower, numbers.upper)
    conditions = Conditions(numbers, found, x)
    keys = conditions.keys
    y = np.where(np.abs(y) <= 1e-12 * conditions.money, 0.0, y)  # what is left of rounding is no multiplier
    certificate, verdict, reason = None, run.verdict, run.reason
    if verdict != DIVERGES:
        certificate = certify_game(numbers, x, keys, y, found == VARIATIONAL, tol)
        if verdict == CONVERGED and not certificate.ok(tol):
            verdict = NONE_FOUND
            failed = ", ".join(certificate.failures(tol))
            reason = f"the point where it stopped is none: its certificate fails in {failed}"
    converged = verdict == CONVERGED
    put(numbers.variables, x)
    for variable in numbers.variables:
        variable.stale = False
    return GameResult(
        game=numbers.game,
        method=method,
        verdict=verdict,
        reason=reason,
        kind=_kind_text(numbers, found, certificate) if converged else "",
        values=_values(numbers, x),
        payoffs=_payoffs(numbers, x),
        multipliers=_multipliers(numbers, keys, y),
        trace=run.frame,
        certificate=certificate,
        several=_several(numbers, run, x, y, found) if converged else "",
        alternatives=tuple(_values(numbers, other) for other in run.others),
    )


def _explained(numbers: Numbers, run: Run, kind: str, tol: float) -> tuple[FloatArray, FloatArray, str]:
    """(point, multipliers, kind) of a run: with equal multipliers where these explain it, else one per player."""
    if run.y is not None:
        return run.x, _moderate(numbers, run.x, run.y, kind), kind
    if run.verdict != CONVERGED:
        conditions = Conditions(numbers, kind, run.x)
        return run.x, conditions.multipliers(run.x), kind
    for found in (VARIATIONAL, GENERALISED):
        conditions = Conditions(numbers, found, run.x)
        y = conditions.multipliers(run.x)
        if conditions.worst(run.x, y) > 1e2 * np.sqrt(tol) and found == VARIATIONAL:
            continue
        x, polished, _ = conditions.newton(run.x, y)
        near = (np.abs(x - run.x) / conditions.unit).max(initial=0.0) <= max(1e3 * tol, 1e-8)
        x, y = (x, polished) if near else (run.x, y)
        if conditions.worst(x, y) <= tol or found == GENERALISED:
            return x, y, found
    raise AssertionError("one of the kinds is always returned")


def _moderate(numbers: Numbers, x: FloatArray, y: FloatArray, kind: str) -> FloatArray:
    """Multipliers of x in place of y where these are huge though smaller ones explain x as well (as where rows leave
    the set no interior)."""
    conditions = Conditions(numbers, kind, x)
    if (np.abs(y) <= _HUGE * conditions.money).all():
        return y
    other = conditions.multipliers(x)
    return other if conditions.worst(x, other) <= max(conditions.worst(x, y), 1e-10) else y


def _kind_text(numbers: Numbers, kind: str, certificate: GameCertificate | None) -> str:
    moving = " of the QVI (own sets move with the actions of others)" if numbers.game.sets_move else ""
    if certificate is not None and certificate.proof == SAMPLED:
        moving += " (against sampled deviations: not every player's problem is seen to be convex)"
    if not any(owner < 0 for owner, _ in numbers.rows):
        return f"Nash equilibrium{moving}: no shared rows"
    if kind == VARIATIONAL:
        return f"variational equilibrium{moving}: equal multipliers of shared rows for all players"
    same = certificate is not None and certificate.common
    what = "but one for all would do: it is variational, too" if same else "and they differ: it is not variational"
    return f"generalised equilibrium{moving}: every player has its own multipliers of shared rows, {what}"


def _several(numbers: Numbers, run: Run, x: FloatArray, y: FloatArray, kind: str) -> str:
    """What is known of other equilibria."""
    if run.others:
        return f"one of several equilibria: {len(run.others)} more were found from other starts (alternatives)"
    conditions = Conditions(numbers, kind, x)
    if conditions.singular(x, y):
        return "one of several equilibria, to first order: the KKT conditions are singular here, and do not isolate it"
    if conditions.singular(x, y, slack=1e-9):
        return "perhaps one of several equilibria: without a limit that binds at multiplier zero nothing isolates it"
    if kind == VARIATIONAL and numbers.linear and numbers.quadratic and not numbers.game.sets_move:
        shared = any(owner < 0 for owner, _ in numbers.rows)
        least = _least_bend(numbers.field_jacobian(x), numbers.owner, not shared)
        if least > 1e-9:
            what = "variational" if shared else "Nash"
            return f"the only {what} equilibrium: F is strongly monotone (least eigenvalue {least:.2g}, diagonal one)"
    return "isolated to first order; other equilibria may exist"


def _least_bend(matrix: FloatArray, owner: FloatArray, free: bool) -> float:
    """The least eigenvalue of the symmetric part of the Jacobian of F, in units that make its diagonal one; free: each
    player's payoff may be counted in another money, as nothing shared compares them."""
    diagonal = matrix.diagonal()
    if not (diagonal > 0.0).all():
        return 0.0
    largest = np.array([diagonal[owner == k].max() for k in owner])
    found = []
    for money in (np.ones(len(owner)), largest)[: 2 if free else 1]:
        root = np.sqrt(diagonal / money)
        scaled = matrix / money[:, None] / root[:, None] / root[None, :]
        found.append(float(np.linalg.eigvalsh(0.5 * (scaled + scaled.T))[0]))
    return max(found)


def _values(numbers: Numbers, x: FloatArray) -> pd.DataFrame:
    names = [player.name for player in numbers.game.players]
    owners = [names[k] for k in numbers.owner]
    return pd.DataFrame({"variable": [v.name for v in numbers.variables], "player": owners, "value": x})


def _payoffs(numbers: Numbers, x: FloatArray) -> pd.DataFrame:
    players = numbers.game.players
    sense = np.array([1.0 if player.maximise else -1.0 for player in players])
    return pd.DataFrame({"player": [player.name for player in players], "payoff": sense * numbers.payoffs(x)})


def _multipliers(numbers: Numbers, keys: list[tuple[int, int]], y: FloatArray) -> pd.DataFrame:
    records = []
    for (row, owner), value in zip(keys, y, strict=True):
        constraint = numbers.rows[row][1]
        player = EVERYBODY if owner < 0 else numbers.game.players[owner].name
        records.append((constraint.parent_component().name, constraint.index(), player, float(value)))
    return pd.DataFrame(records, columns=["constraint", "index", "player", "multiplier"])


@dataclass(frozen=True)
class PriceOfAnarchy:
    """Welfare of an equilibrium against the optimum of one decision maker over the same rows.

    equilibrium, optimum: the sum of payoffs, in the sense `maximise` or `minimise`; loss: what is lost, >= 0; ratio:
    the larger over the smaller, 1 where nothing is lost, NaN where their signs leave no ratio; proof: `convex` (the
    optimum is global) or `sampled`.
    """

    equilibrium: float
    optimum: float
    sense: str
    proof: str

    @property
    def loss(self) -> float:
        """Welfare lost (cost added) by the equilibrium."""
        return self.optimum - self.equilibrium if self.sense == "maximise" else self.equilibrium - self.optimum

    @property
    def ratio(self) -> float:
        """The price of anarchy."""
        top, bottom = (self.optimum, self.equilibrium) if self.sense == "maximise" else (self.equilibrium, self.optimum)
        if top == bottom:
            return 1.0
        return top / bottom if bottom > 0 else float("nan")


def price_of_anarchy(result: GameResult, sense: str | None = None) -> PriceOfAnarchy:
    """The sum of payoffs at the equilibrium against its central optimum over all rows (Koutsoupias and Papadimitriou).

    sense: 'maximise' or 'minimise'; by default as the players do. Where some maximise and some minimise, costs count
    negative in a welfare. Raises FormulationError where `result` is no equilibrium, SolverError where the central
    problem has no answer.
    """
    if not result.converged:
        raise FormulationError(f"there is no equilibrium to compare: {result.verdict} ({result.reason})")
    goals = {player.maximise for player in result.game.players}
    sense = sense or ("minimise" if goals == {False} else "maximise")
    if sense not in ("maximise", "minimise"):
        raise unknown_name("sense", sense, ("maximise", "minimise"))
    variables = result.game.variables
    own = {player.name: 1.0 if player.maximise else -1.0 for player in result.game.players}
    welfare = sum(own[name] * value for name, value in zip(*map(list, result.payoffs.to_numpy().T), strict=True))
    with values_kept(variables):
        put(variables, result.values["value"].to_numpy(float))
        solution, proof = best_of(compile(central_model(result.game)))
    if not solution.status.ok:
        raise SolverError(f"the central problem has no answer ({solution.status}): {solution.message}")
    sign = 1.0 if sense == "maximise" else -1.0
    # the equilibrium is feasible for the centre as well: a search that ended below it has found it at least
    return PriceOfAnarchy(sign * float(welfare), sign * max(solution.objective, float(welfare)), sense, proof)
