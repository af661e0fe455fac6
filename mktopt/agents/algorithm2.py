"""Algorithm 2 of the paper as printed, whether its own equilibrium exists, and COP (10): run and reported, not mended.

    p <- P_F(p + eta c),    F = {p : h(p) <= 0, c'p >= c0 1'p},  c = c(p) frozen

The import's cost is not in the gradient; only the budget row knows c0. A fixed point is a solution of the paper's QVI:
c(p)'(p - q) >= 0 for all q in F(p), with a multiplier mu >= 0 of the budget row,

    c + mu (c - c0 1) in N_h(p),      mu (c - c0 1)'p = 0.

Divided by 1 + mu this is the condition of the default problem at another price of the import, c0' = c0 mu / (1 + mu):
**the solutions of the printed QVI are those optima p(c0') of max 1'Theta - c0' 1'p over h(p) <= 0, 0 < c0' < c0, whose
budget (c - c0 1)'p is exactly zero, and p(0) where its budget is not negative** (c0' = c0 would need mu infinite). That
is a search along one number, `own_equilibria`. Where no limit binds, c = c0' < c0 everywhere, so that the budget is
zero only where nothing is imported: a microgrid that imports at c0 has no equilibrium of this kind, and the iteration
hovers around c = c0, where F is a half-space that turns with every c (no import at all where every c is below c0), at
a distance that depends on eta.

The natural residual is that of the printed QVI, max |p - P_F(p)(p + eta c(p))| / eta, judged with an eta of the size
of the demand curves whatever step the iteration takes: that of any p falls to nil as eta grows. COP (10) with c =
c(p) is a third problem, not convex, and solved locally (`cop10`).
Reference: Das, Faqiry, Zarabie and Wu, Algorithms 1-2, eq. (10)-(16).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.algorithm1 import run_algorithm1
from mktopt.agents.dso import Point, Step, TwoLevel
from mktopt.agents.dso_methods import solve_auction, too_long
from mktopt.agents.dso_run import CONVERGED, NO_EQUILIBRIUM, PATIENCE, STOPPED, Iterate, Outcome, run
from mktopt.errors import MktoptError, SolverError, UnboundedError, unknown_name
from mktopt.formulations.gne import AGGREGATORS, satiable
from mktopt.formulations.gne_printed import budget_step
from mktopt.formulations.gne_printed import cop10 as declared_cop10
from mktopt.formulations.market import declaration_of
from mktopt.solvers import Session, Solution
from mktopt.solvers.sessions.sharp import sharp_session

FloatArray = npt.NDArray[np.float64]

# Prices of the import, as shares of c0, at which the printed equilibrium is looked for.
_SHARES = np.r_[1e-6, np.linspace(0.04, 0.96, 24), 0.99, 0.999]
_BISECTIONS = 40
_NOTHING = 1e-9
# What Algorithm 1 gets inside of Algorithm 2; as printed it has converged or come back long before, or never does.
_ROUNDS = 500


def algorithm2(
    problem: TwoLevel,
    aggregator: str = "exact",
    eta: float | None = None,
    tol: float = 1e-8,
    max_iterations: int | None = None,
    start: Point | None = None,
) -> Outcome:
    """Algorithm 2 as printed on `problem`, with the verdict on what it does.

    aggregator: how c(p) is found: 'exact', or Algorithm 1 'damped' or as printed ('paper'), of 500 rounds at most,
    whose last cost counts where it does not converge; eta: the fixed step [kW per $/kWh], None for the inverse of the
    median slope of demand at the start; tol: natural residual of the printed QVI [$/kWh]; max_iterations: 300 by
    default; start: None for `problem.start()`. An iteration that hovers, cycles or diverges where the search of
    `own_equilibria` finds no solution of the printed QVI has the verdict 'no equilibrium', with the argument in
    `message`. Raises UnknownNameError and what steps raise.
    """
    if aggregator not in AGGREGATORS:
        raise unknown_name("aggregator", aggregator, AGGREGATORS)
    first = problem.start() if start is None else start
    printed = _Printed(problem, problem.typical_eta(first.unit_costs) if eta is None else eta, aggregator)
    iterates = _iterates(printed, first)
    outcome = run(printed, "paper", iterates, tol, 300 if max_iterations is None else max_iterations, wild=True)
    if outcome.verdict != CONVERGED:
        outcome = _explained(problem, printed, outcome, tol)
    if printed.failures:
        outcome = replace(outcome, message=f"{outcome.message}; {printed.failures}")
    return outcome


class _Printed(TwoLevel):
    """`problem` with the printed step in place of its own; what aggregators answer is the same, or Algorithm 1's."""

    def __init__(self, problem: TwoLevel, eta: float, aggregator: str) -> None:
        self.__dict__.update(problem.__dict__)
        self._people = Aggregators(problem.prosumers)
        self.eta, self.aggregator, self.failures = eta, aggregator, ""
        with self.effort.spent("compile"):
            extra = declaration_of(problem.model).extra
            self.model = budget_step(problem.network, problem.prosumers, problem.flow, extra)
            self.session = sharp_session(self.model, *problem.session_options)
        self._place()

    def replies(self, used_kw: FloatArray) -> FloatArray:
        """c(p), or what Algorithm 1 ends with; also noted where it did not converge."""
        if self.aggregator == "exact":
            return super().replies(used_kw)
        p = np.maximum(used_kw, self.lowest_kw)
        with self.effort.spent("aggregators"):
            self.effort.answers += 1
            found = [run_algorithm1(self._people, row, method=self.aggregator, max_rounds=_ROUNDS) for row in p]
        failed = sum(int((~one.converged).sum()) for one in found)
        words = sorted({verdict.value for one in found for verdict in one.verdicts[~one.converged]})
        self.failures = ""
        if failed:
            listed = ", ".join(words)
            self.failures = f"in the last iteration Algorithm 1 failed {failed} of {p.size} aggregators ({listed})"
        return np.array([one.unit_costs for one in found])

    def projected(self, used_kw: FloatArray, gradient: FloatArray, eta: float) -> Step:
        """P_F(p + eta gradient), F with c = gradient frozen."""
        margin = gradient - self.c0[:, None]
        self.session.set("margin", np.ascontiguousarray(margin.T).ravel())
        return self.step(gradient + used_kw / eta, 1.0 / eta)


def _iterates(printed: _Printed, point: Point) -> Iterator[Iterate]:
    while True:
        if not np.isfinite(point.unit_costs).all():
            yield Iterate(point, np.inf, printed.eta, "Algorithm 1 ended without a unit cost")
            return
        try:
            step = printed.projected(point.used_kw, point.unit_costs, printed.eta)
        except (UnboundedError, SolverError) as error:
            yield Iterate(point, last=too_long(printed.eta, error))
            return
        residual = float(np.abs(step.used_kw - point.used_kw).max(initial=0.0)) / printed.eta
        yield Iterate(point, residual, printed.eta)
        point = printed.reached(step)


def _explained(problem: TwoLevel, printed: _Printed, outcome: Outcome, tol: float) -> Outcome:
    """The verdict in the light of whether there is anything to converge to."""
    default = solve_auction(problem)
    recent = outcome.p_path[-PATIENCE:]
    distance = float(np.abs(recent - default.p_kw).max())
    where = f"in the end up to {distance:.4g} kW from the optimum with the import's cost, with eta {printed.eta:.4g}"
    own = own_equilibria(problem)
    known = "an equilibrium exists all the same, " if own.exists else ""
    message = f"{outcome.message}; {where}; {known}{own.argument}"
    none = own.exists is False and outcome.verdict != STOPPED
    return replace(outcome, verdict=NO_EQUILIBRIUM if none else outcome.verdict, message=message)


# -- whether there is an equilibrium of the printed QVI ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OwnEquilibria:
    """Whether the printed QVI has solutions. exists: whether the search found one, None where it does not apply;
    argument: why, in words; points: those found; scan: share (c0' / c0), period, budget [$/h], import_kw,
    max_cost, for the optima p(c0')."""

    exists: bool | None
    argument: str
    points: tuple[Point, ...]
    scan: pd.DataFrame


def own_equilibria(problem: TwoLevel) -> OwnEquilibria:
    """Looks for solutions of the printed QVI along the optima p(c0'), 0 <= c0' < c0; see the module.

    For flows without losses, and grids whose periods do not depend on each other, by the sign of the budget at 27
    prices and bisection between: what is found is one; that none is found is strong evidence, no proof.
    """
    empty = pd.DataFrame(columns=["share", "period", "budget", "import_kw", "max_cost"])
    first = problem.start()
    lost = np.abs(first.import_kw - first.p_kw.sum(axis=1) - problem.network.shunt_kw.sum()).max()
    if problem.local or lost > 1e-6 * np.abs(first.p_kw).sum(axis=1).max():
        return OwnEquilibria(None, "with losses it is not decided whether an equilibrium exists", (), empty)
    if satiable(problem.prosumers).any():
        text = "it is not decided whether an equilibrium exists where aggregators may leave energy unused"
        return OwnEquilibria(None, text, (), empty)
    if (problem.c0 <= 0).any():
        return OwnEquilibria(None, "at c0 = 0 there is no budget to balance", (), empty)
    periods = len(problem.hours)
    path, point = [], None
    for share in _SHARES:
        point = _optimum(problem, np.full(periods, share), point)
        path.append(point)
    budgets = np.array([_budget(problem, one) for one in path])
    scan = pd.DataFrame({
        "share": np.repeat(_SHARES, periods),
        "period": np.tile(np.arange(periods), len(_SHARES)),
        "budget": budgets.ravel(),
        "import_kw": np.array([one.import_kw for one in path]).ravel(),
        "max_cost": np.array([one.unit_costs.max(axis=1) for one in path]).ravel(),
    })  # fmt: skip
    size = np.maximum(np.abs(budgets).max(axis=0), _NOTHING)
    free = budgets[0] >= -1e-6 * size
    change = (budgets[:-1] < 0) != (budgets[1:] < 0)
    solved = free | change.any(axis=0)
    if not solved.all():
        t = int(np.argmin(solved))
        return OwnEquilibria(False, _refusal(problem, budgets[:, t], path, t), (), scan)
    share = _roots(problem, free, change, path)
    found = _optimum(problem, share, path[0])
    where = f"the optimum at c0' = {_listed(share * problem.c0)} $/kWh"
    where = "the optimum of an import that costs nothing, where the budget does not bind" if free.all() else where
    argument = f"{where}: import {_listed(found.import_kw)} kW"
    return OwnEquilibria(True, argument, (found,), scan)


def _refusal(problem: TwoLevel, budget: FloatArray, path: list[Point], t: int) -> str:
    c0 = float(problem.c0[t])
    low, high = float(budget.min()), float(budget.max())
    sign = "loses" if high < 0 else "earns"
    return (
        f"a search found no equilibrium (period {t}): the printed QVI is solved only by an optimum for a price of"
        f" import c0' below c0 = {c0:g} $/kWh at which the DSO's budget is zero, and at all {len(budget)} prices tried"
        f" it {sign} money ({low:.4g} to {high:.4g} $/h, imports {path[0].import_kw[t]:.4g} to"
        f" {path[-1].import_kw[t]:.4g} kW); between them it was not looked for"
    )


def _roots(problem: TwoLevel, free: npt.NDArray[np.bool_], change: Any, path: list[Point]) -> FloatArray:
    """The share c0'/c0 of every period at which its budget is zero, by bisection of the last change of sign."""
    last = len(change) - 1 - np.argmax(change[::-1], axis=0)
    low = np.where(free, 0.0, _SHARES[last])
    high = np.where(free, 0.0, _SHARES[last + 1])
    if free.all():
        return np.full(len(free), _SHARES[0])
    rising = _budget(problem, _optimum(problem, np.where(free, _SHARES[0], high), path[0])) >= 0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        above = (_budget(problem, _optimum(problem, np.where(free, _SHARES[0], middle), path[0])) >= 0) == rising
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(free, _SHARES[0], 0.5 * (low + high))


class _Cheaper:
    """Aggregators whose unit costs are raised by what the import is cheaper than c0: what they answer is the same."""

    def __init__(self, problem: TwoLevel, discount: FloatArray) -> None:
        self._inner, self._discount = problem.aggregators, discount[:, None]
        self.lowest_kw = problem.lowest_kw

    def unit_costs(self, p_kw: FloatArray, start: FloatArray | None = None) -> FloatArray:
        """c(p) + c0 - c0'."""
        return self._inner.unit_costs(p_kw, None) + self._discount

    def slopes(self, c: FloatArray) -> FloatArray:
        """Those of the aggregators."""
        return self._inner.slopes(c - self._discount)

    def consumption(self, c: FloatArray) -> FloatArray:
        """Of the agents at c - (c0 - c0')."""
        return self._inner.consumption(c - self._discount)

    def welfare(self, x: FloatArray) -> FloatArray:
        """Theta, without the discount."""
        return self._inner.welfare(x)


def _optimum(problem: TwoLevel, share: FloatArray, start: Point | None) -> Point:
    """p(c0') with c0' = share c0, and the aggregators' answer to it."""
    cheaper = copy.copy(problem)
    cheaper.aggregators = _Cheaper(problem, problem.c0 * (1.0 - share))
    cheaper.forget()
    begun = cheaper.start() if start is None else cheaper.answered(start.p_kw, start.import_kw)
    outcome = solve_auction(cheaper, "newton", tol=1e-8, max_iterations=200, start=begun)
    return problem.answered(outcome.p_kw, outcome.import_kw)


def _budget(problem: TwoLevel, point: Point) -> FloatArray:
    """(c - c0 1)'p of every period [$/h], (T,)."""
    return np.asarray(((point.unit_costs - problem.c0[:, None]) * point.p_kw).sum(axis=1))


def _listed(values: FloatArray) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:4])
    return shown + (", ..." if len(values) > 4 else "")


# -- COP (10) ---------------------------------------------------------------------------------------------------------

# Complementarity is relaxed to these shares of the largest agent's a [$/h], one after the other.
_RELAXATIONS = (1e-2, 1e-4, 1e-6, 1e-8)


def cop10(problem: TwoLevel, tol: float = 1e-6, max_iterations: int | None = None) -> Outcome:
    """COP (10) with c = c(p), by IPOPT along a path of relaxed complementarity from the default optimum.

    The verdict 'converged' says that IPOPT ended at a local optimum of the last relaxation whose budget holds within
    tol [share of the money that moves] at the aggregators' exact answer. `residual` is that of the printed QVI there,
    for comparison; trace: relaxation, utility, budget, residual of the solver. max_iterations: IPOPT's own. Raises
    DataError for own utilities.
    """
    began = time.perf_counter()
    default = solve_auction(problem)
    start = (default.p_kw, default.import_kw, default.unit_costs, default.consumption_kw)
    extra = declaration_of(problem.model).extra
    model = declared_cop10(problem.network, problem.prosumers, problem.flow, problem.c0, extra, start)
    session = Session(model, "ipopt", {"max_iter": max_iterations or 1000})
    columns = session.parametric.program.columns
    shape = problem.lowest_kw.size, problem.hours.size
    at_p, at_s = columns(model.p_kw.values()).reshape(shape).T, columns(model.import_kw.values())
    at_x = columns(model.consumption_kw.values()).reshape(-1, shape[1]).T
    at_c = columns(model.unit_cost.values()).reshape(shape).T
    rows: list[tuple[float, float, float, float]] = []
    solution: Solution | None = None
    path = [problem.answered(default.p_kw, default.import_kw, default.used_kw)]
    scale = float(problem.prosumers.a.max())
    for relaxation in _RELAXATIONS:
        session.set("relaxation", relaxation * scale)
        try:
            found = session.solve()
        except MktoptError as error:
            raise SolverError(f"COP (10), relaxed to {relaxation:g}: {error}") from error
        if not found.status.ok:
            break
        solution = found
        p = np.maximum(found.x[at_p], problem.lowest_kw)
        path.append(problem.answered(p, found.x[at_s], np.minimum(p, problem.net_kw(found.x[at_x]))))
        budget = float(((found.x[at_c] - problem.c0[:, None]) * p).sum())
        worst = found.residuals.worst if found.residuals is not None else np.nan
        rows.append((relaxation * scale, found.objective, budget, worst))
    return _reported(problem, default, path, rows, solution, tol, time.perf_counter() - began)


def _reported(
    problem: TwoLevel, default: Outcome, path: list[Point], rows: list[Any], solution: Solution | None, tol: float,
    seconds: float,
) -> Outcome:  # fmt: skip
    point = path[-1]
    eta = problem.typical_eta(point.unit_costs)
    printed = _Printed(problem, eta, "exact")
    residual, step = printed.residual(point, eta)
    budget = _budget(problem, point)
    turnover = float((np.abs(point.unit_costs * point.p_kw)).sum()) + _NOTHING
    complete = len(rows) == len(_RELAXATIONS)
    verdict = CONVERGED if complete and budget.min() >= -tol * turnover else STOPPED
    utility = point.welfare + float((problem.hours * problem.c0 * point.import_kw).sum())
    said = (
        f"a local optimum of COP (10): utility {utility:.6g} $, budget {budget.min():.3g} $/h, welfare net of the"
        f" import {point.welfare:.6g} $ against {default.welfare:.6g} $ of the default problem"
    )
    if verdict == STOPPED:
        said = f"IPOPT solved {len(rows)} of {len(_RELAXATIONS)} relaxations; the budget is {budget.min():.3g} $/h"
    trace = pd.DataFrame(rows, columns=["relaxation", "utility", "budget", "solver_residual"])
    if solution is not None:
        step = replace(step, solution=solution)
    return Outcome(
        method="cop10", p_kw=point.p_kw, unit_costs=np.maximum(point.unit_costs, 0.0), import_kw=point.import_kw,
        used_kw=point.used_kw,
        consumption_kw=problem.consumption(point.unit_costs), welfare=point.welfare, residual=residual,
        eta=eta, iterations=len(rows), verdict=verdict, message=said, local=True, trace=trace,
        p_path=np.array([one.p_kw for one in path]), c_path=np.array([one.unit_costs for one in path]),
        seconds={**default.seconds, "total": seconds}, steps=default.steps + 1, answers=default.answers, step=step,
    )  # fmt: skip
