"""The auction's equilibrium from one solve of the declared model, without any iteration: the peer of every method.

The central model knows all utilities, which no DSO does. Its optimum is the equilibrium: the multipliers of `coupling`,
divided by the hours, are the unit costs (Das et al., eq. (8)-(9), Lemma 3).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.dso import TwoLevel
from mktopt.agents.dso_run import CONVERGED, STOPPED, Outcome
from mktopt.clearing.diagnosis import refuse_unsolved
from mktopt.formulations.gne import gne
from mktopt.formulations.market import add_extra, declaration_of
from mktopt.solvers import compile, solve
from mktopt.solvers.prices import welfare_duals


def solve_central(
    problem: TwoLevel, solver: str | None = None, options: Mapping[str, Any] | None = None, tol: float = 1e-6
) -> Outcome:
    """The declared model of `problem` solved at once by `solver` (None: the one that suits it); see `Outcome`.

    unit_costs are the multipliers of `coupling`, consumption that of the model; `residual` is measured with the
    aggregators' own answer to p, and the verdict is 'converged' where it is at most tol [$/kWh]. seconds: build,
    compile, solve, total. Raises InfeasibleError, UnboundedError, SolverError.
    """
    began = time.perf_counter()
    model = gne(problem.network, problem.prosumers, problem.flow, problem.c0.tolist(), method="central")
    add_extra(model, declaration_of(problem.model).extra)
    built = time.perf_counter()
    program = compile(model)
    compiled = time.perf_counter()
    solution = solve(program, solver, options)
    solved = time.perf_counter()
    refuse_unsolved(declaration_of(model), model, program, solution)
    periods = len(problem.hours)

    def table(values: Any) -> Any:
        return np.asarray(values, dtype=float).reshape(-1, periods).T

    p = np.maximum(table(program.values(solution.x, model.p_kw.values())), problem.lowest_kw)
    x = np.maximum(table(program.values(solution.x, model.consumption_kw.values())), 0.0)
    rows = program.row_indices(model.coupling.values())
    costs = table(welfare_duals(program, solution)[rows]) / problem.hours[:, None]
    costs = Aggregators(problem.prosumers).at_most_wanted(p, costs)
    used = np.minimum(p, problem.net_kw(x))
    point = problem.answered(p, program.values(solution.x, model.import_kw.values()), used)
    eta = problem.typical_eta(point.unit_costs)
    residual, step = problem.residual(point, eta)
    verdict = CONVERGED if residual <= tol else STOPPED
    said = f"{solution.solver}: {solution.status}; natural residual {residual:.1e} $/kWh, asked {tol:.1e}"
    return Outcome(
        method="central", p_kw=p, unit_costs=costs, import_kw=point.import_kw, used_kw=used, consumption_kw=x,
        welfare=float(solution.objective), residual=residual, eta=eta, iterations=solution.iterations, verdict=verdict,
        message=said, local=problem.local, trace=pd.DataFrame(), p_path=p[None], c_path=costs[None],
        seconds={"build": built - began, "compile": compiled - built, "solve": solved - compiled,
                 "total": solved - began},
        steps=0, answers=0, step=step,
    )  # fmt: skip
