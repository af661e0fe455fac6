"""The two-level energy auction, run: from the declared model `gne` to a `Clearing` that proves itself.

    model = mo.build("gne", network, prosumers, c0=0.1)      the declared model, mktopt.formulations.gne
    run(model)                                               an iteration between DSO and aggregators, or one solve

The iteration never sees the agents' utilities: the DSO gives power to aggregators and receives unit costs. Where it has
ended, the declared model takes its values, the multipliers of the last step become prices, and the certificate of the
clearing holds the one against the other.
Reference: Das, Faqiry, Zarabie, Wu, Game theoretic equilibrium analysis of energy auction in microgrid, 2018.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.algorithm2 import algorithm2, cop10
from mktopt.agents.anticipating import Anticipating, by_residual, first_point
from mktopt.agents.dso import Oracle, TwoLevel
from mktopt.agents.dso import Point as Start
from mktopt.agents.dso_methods import ITERATIONS, solve_auction
from mktopt.agents.dso_run import NO_EQUILIBRIUM, STOPPED, Outcome
from mktopt.agents.dso_run import run as run_method
from mktopt.clearing.diagnosis import refuse_unsolved
from mktopt.clearing.equilibrium import CENTRAL, Equilibrium, Found, tabulate_equilibrium
from mktopt.clearing.equilibrium_tables import UPSTREAM, Point
from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import DataError, Fault, FormulationError
from mktopt.formulations.gne import PRINTED, TOLERANCE
from mktopt.formulations.market import Declaration, declaration_of, own_rows
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import compile
from mktopt.solvers import solve as solve_program
from mktopt.solvers.prices import welfare_duals
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped

NEWTON = "newton"
_MOST = 200  # iterations of agents that anticipate
# A natural residual [$/kWh] that is a matter of digits.
_CLOSE = 1e-6
# How much stiffer than the demand curves the step is that shows the grid at a given p.
_STIFF = 1e4
ANTICIPATION_NOTE = (
    "agents anticipate that their bids move the price: they trade less than agents that take prices, and each unit "
    "cost is below what a kWh is worth to a buyer and above what it is worth to a seller"
)


def run(
    model: Any, solver: str | Sequence[str] | None = None, solver_options: Mapping[str, Any] | None = None
) -> Clearing:
    """Holds the auction that `mktopt.build("gne", ...)` declared, by the method of its options.

    solver, solver_options: of the steps (of several solvers the first), or of the one solve of method 'central';
    see `mktopt.solvers.solve`. Where the method does not converge the clearing says what happened instead, in
    `equilibrium`, `trace` and its notes, and its certificate fails. Raises InfeasibleError where no p is feasible,
    UnboundedError, SolverError, FormulationError.
    """
    declaration = declaration_of(model)
    _refuse_names(declaration)
    _refuse_idle_options(declaration.options)
    if declaration.options["method"] == CENTRAL:
        return _central(model, declaration, solver, solver_options)
    problem = _problem(declaration, solver, solver_options)
    _refuse_later_changes(model, problem)
    outcome = _hold(problem, declaration)
    point = _point(problem, outcome, declaration.options["method"] not in PRINTED)
    equilibrium = _equilibrium(declaration, outcome)
    solution = outcome.step.solution
    notes = [] if outcome.converged else [_shortfall(outcome)]
    notes += [ANTICIPATION_NOTE] * equilibrium.anticipating
    found = Found(
        _status(outcome), solution.solver, dict(solver_options or {}), dict(outcome.seconds), tuple(notes)
    )
    return tabulate_equilibrium(model, point, equilibrium, outcome.trace, found)


def _problem(
    declaration: Declaration, solver: str | Sequence[str] | None, solver_options: Mapping[str, Any] | None
) -> TwoLevel:
    chosen = solver if isinstance(solver, (str, type(None))) else next(iter(solver), None)
    prosumers, options = _prosumers(declaration), declaration.options
    answers: Oracle = Anticipating(prosumers) if options["anticipating"] else Aggregators(prosumers)
    return TwoLevel(
        declaration.network, prosumers, declaration.flow, options["c0"], declaration.extra, answers, chosen,
        dict(solver_options or {}),
    )  # fmt: skip


def _hold(problem: TwoLevel, declaration: Declaration) -> Outcome:
    """The outcome of the method that the options ask for."""
    options = declaration.options
    method, limits = options["method"], {"tol": options["tol"], "max_iterations": options["max_iterations"]}
    if options["anticipating"] and method == NEWTON:
        most = _MOST if options["max_iterations"] is None else options["max_iterations"]
        return run_method(problem, method, by_residual(problem, _first(problem)), options["tol"], most)
    if method in ITERATIONS:
        start = _first(problem) if options["anticipating"] else None
        start = start if options["eta"] is None else problem.at_rest()  # where a fixed step shows what it does
        return solve_auction(problem, method, eta=options["eta"], start=start, **limits)
    if method == "paper":
        start = problem.at_rest()
        return algorithm2(problem, aggregator=options["aggregator"], eta=options["eta"], start=start, **limits)
    return cop10(problem, **limits)


def _first(problem: TwoLevel) -> Start:
    assert isinstance(problem.aggregators, Anticipating)
    return first_point(problem, problem.aggregators)


def _central(
    model: Any,
    declaration: Declaration,
    solver: str | Sequence[str] | None,
    solver_options: Mapping[str, Any] | None,
) -> Clearing:
    """The declared model solved at once: unit costs are the multipliers of `coupling`."""
    began = time.perf_counter()
    program = compile(model)
    compiled = time.perf_counter()
    solution = solve_program(program, solver, solver_options)
    refuse_unsolved(declaration, model, program, solution)
    solved = time.perf_counter()
    hours, prosumers = declaration.network.hours, _prosumers(declaration)
    x = np.clip(solution.x, program.lower, program.upper)
    duals = welfare_duals(program, solution)
    at = program.row_indices(model.coupling.values())
    aggregators, p_kw = Aggregators(prosumers), _table(program.values(x, model.p_kw.values()), hours)
    point = Point(
        p_kw=p_kw,
        unit_cost=aggregators.at_most_wanted(p_kw, _table(duals[at], hours) / hours[:, None]),
        import_kw=program.values(x, model.import_kw.values()),
        consumption_kw=_table(program.values(x, model.consumption_kw.values()), hours),
        grid={v.name: value for v, value in zip(program.variables, x.tolist(), strict=True)},
        duals=_named_duals(program, solution),
    )
    slopes = np.abs(aggregators.slopes(point.unit_cost))
    equilibrium = Equilibrium(
        method=CENTRAL, aggregator="declared", verdict="converged", converged=True, residual=float("nan"),
        eta=1.0 / float(np.median(slopes[slopes > 0])) if (slopes > 0).any() else 1.0,
        iterations=solution.iterations, c0=declaration.options["c0"], welfare_without_trade=_idle(declaration),
    )  # fmt: skip
    seconds = {"compile": compiled - began, "solve": solved - compiled}
    found = Found(solution.status, solution.solver, dict(solver_options or {}), seconds)
    return tabulate_equilibrium(model, point, equilibrium, pd.DataFrame(), found)


# -- the result -----------------------------------------------------------------------------------------------------


def _point(problem: TwoLevel, outcome: Outcome, priced: bool) -> Point:
    """The point of the last step, at which p, the grid and its multipliers belong together.

    Where the method did not converge, or stands for another problem, it is the method's own p and the grid at it.
    """
    p, c, step = outcome.p_kw, outcome.unit_costs, outcome.step
    consumption = outcome.consumption_kw
    if priced and outcome.converged:
        p = step.p_kw
        c = problem.unit_costs(p)
        consumption = problem.consumption(c)
    else:
        slope = _STIFF * problem.curvature(c)
        step = problem.step(slope * p + problem.c0[:, None], slope)
    program, solution = problem.program, step.solution
    names = zip(program.variables, solution.x.tolist(), strict=True)
    return Point(
        p_kw=p, unit_cost=c, import_kw=step.import_kw, consumption_kw=consumption,
        grid={variable.name: value for variable, value in names},
        duals=_named_duals(program, outcome.step.solution) if priced else {}, priced=priced,
    )  # fmt: skip


def _equilibrium(declaration: Declaration, outcome: Outcome) -> Equilibrium:
    options = declaration.options
    anticipating = bool(options["anticipating"])
    return Equilibrium(
        method=outcome.method, aggregator="anticipating" if anticipating else options["aggregator"],
        verdict=outcome.verdict, converged=outcome.converged, residual=outcome.residual, eta=outcome.eta,
        iterations=outcome.iterations, c0=options["c0"], anticipating=anticipating,
        welfare_without_trade=_idle(declaration),
        price_taking_welfare=_price_taking(declaration) if anticipating else None,
        advice="" if outcome.converged else outcome.message,
    )  # fmt: skip


def _price_taking(declaration: Declaration) -> float:
    """What the same agents, taking prices, would have on the same grid [$]."""
    plain = TwoLevel(
        declaration.network, _prosumers(declaration), declaration.flow, declaration.options["c0"], declaration.extra
    )
    return solve_auction(plain).welfare


def _shortfall(outcome: Outcome) -> str:
    """What a reader must know of an outcome that did not converge; close by, it is a matter of digits."""
    what = "no equilibrium was found" if outcome.residual > _CLOSE else "not as near to the equilibrium as was asked"
    verdict = "" if outcome.verdict == NO_EQUILIBRIUM else f"{outcome.verdict}; "
    return f"{what}: {verdict}{outcome.message}"


def _status(outcome: Outcome) -> Status:
    if outcome.converged:
        return Status(Stopped.OPTIMAL, Has.LOCAL if outcome.local else Has.OPTIMAL)
    # what cycles, hovers or diverges was ended by its verdict, not by a limit
    return Status(Stopped.ITERATION_LIMIT if outcome.verdict == STOPPED else Stopped.INTERRUPTED, Has.FEASIBLE)


def _named_duals(program: Program, solution: Solution) -> dict[str, float]:
    """Welfare gained per unit of each row's right-hand side [$], by the row's name."""
    duals = welfare_duals(program, solution)
    return {row.name: value for row, value in zip(program.rows, duals.tolist(), strict=True)}


def _idle(declaration: Declaration) -> float:
    """What all agents have from their own generation, without any trade [$]."""
    prosumers = _prosumers(declaration)
    return float(declaration.network.hours.sum() * prosumers.utility(prosumers.generation_kw).sum())


def _table(values: FloatArray, hours: FloatArray) -> FloatArray:
    """Values in the sequence of an index (name, period) as (T, names)."""
    return values.reshape(-1, len(hours)).T


# -- what cannot be run ---------------------------------------------------------------------------------------------


def _prosumers(declaration: Declaration) -> Prosumers:
    if declaration.prosumers is None:
        raise FormulationError(
            f"model '{declaration.mechanism}' is no auction of prosumers; make one with "
            "mktopt.build('gne', network, prosumers, c0=...)"
        )
    return declaration.prosumers


def _refuse_idle_options(options: Mapping[str, Any]) -> None:
    """An option that the method has no use for would be a promise not kept."""
    method = options["method"]
    if options["aggregator"] != "exact" and method != "paper":
        raise FormulationError(
            f"method '{method}' asks its aggregators for exact unit costs; "
            f"aggregator='{options['aggregator']}' belongs to method='paper'"
        )
    if options["eta"] is not None and method in (CENTRAL, "cop10"):
        raise FormulationError(f"method '{method}' takes no steps; eta belongs to methods 'projection' and 'paper'")
    if method == CENTRAL and (options["max_iterations"] is not None or options["tol"] != TOLERANCE):
        raise FormulationError(
            "method 'central' is one solve, to which tol and max_iterations do not apply; pass solver_options"
        )
    if options["anticipating"] and method not in (NEWTON, "extragradient"):
        raise FormulationError(
            f"unit costs that agents anticipate are no gradient of welfare, which method '{method}' climbs; with "
            f"anticipating=True use method='{NEWTON}' or 'extragradient'"
        )


def _refuse_names(declaration: Declaration) -> None:
    if (_prosumers(declaration).table["agent"] == UPSTREAM).any():
        raise DataError(Fault(
            "prosumers", "this is the name of the upstream grid in the tables", UPSTREAM, "agent", UPSTREAM,
            "give the agent another name",
        ))  # fmt: skip


def _refuse_later_changes(model: Any, problem: TwoLevel) -> None:
    """What a later hand did to the declared model would be ignored by an iteration, which has a model of its own."""
    known = {row.name for row in problem.program.rows}
    for row in own_rows(model):
        if row.name not in known:
            raise FormulationError(
                f"constraint '{row.name}' was added to the model after mktopt.build, where an iteration does not see "
                "it; pass it as extra=[function], or use method='central'"
            )
    limits = {variable.name: _limits(variable) for variable in problem.model.component_data_objects(pyo.Var)}
    changed = [v for v in model.consumption_kw.values() if _limits(v) != (0.0, None, None)]
    for component in (model.p_kw, model.import_kw, *model.grid.component_objects(pyo.Var)):
        changed += [v for v in component.values() if _limits(v) != limits.get(v.name)]
    for variable in changed[:1]:
        raise FormulationError(
            f"variable '{variable.name}' was fixed or bounded after mktopt.build, which an iteration does not see; "
            "use method='central', or an extra constraint on p_kw, import_kw or grid"
        )


def _limits(variable: Any) -> tuple[Any, Any, Any]:
    """Lower and upper limit, and the value that it is held at; None where there is none."""
    return variable.lb, variable.ub, variable.value if variable.fixed else None
