"""What Pyomo is told about a solution: why the solver stopped, what there is, and the numbers on demand.

Where both have a word for it, ours is translated; where Pyomo knows fewer words, `results.extra_info` keeps ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyomo.contrib.solver.common.solution_loader as loading
import pyomo.environ as pyo
from pyomo.common.collections import ComponentMap
from pyomo.contrib.solver.common.results import Results, SolutionStatus, TerminationCondition
from pyomo.contrib.solver.common.util import NoDualsError, NoReducedCostsError, NoSolutionError
from pyomo.core.base.enums import TraversalStrategy
from pyomo.core.staleflag import StaleFlagManager

from mktopt.solvers.diagnosis.infeasible import is_feasible
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Stopped

CONVERGED = TerminationCondition.convergenceCriteriaSatisfied
_CONDITIONS = {
    Stopped.OPTIMAL: CONVERGED,
    Stopped.INFEASIBLE: TerminationCondition.provenInfeasible,
    Stopped.UNBOUNDED: TerminationCondition.unbounded,
    Stopped.INFEASIBLE_OR_UNBOUNDED: TerminationCondition.infeasibleOrUnbounded,
    Stopped.TIME_LIMIT: TerminationCondition.maxTimeLimit,
    Stopped.ITERATION_LIMIT: TerminationCondition.iterationLimit,
    Stopped.NUMERICAL: TerminationCondition.unknown,
    Stopped.INTERRUPTED: TerminationCondition.interrupted,
    Stopped.ERROR: TerminationCondition.error,
}
_STATUSES = {
    Has.NOTHING: SolutionStatus.noSolution,
    Has.FEASIBLE: SolutionStatus.feasible,
    Has.LOCAL: SolutionStatus.optimal,  # Pyomo's word for "satisfies the solver's criteria"; extra_info says local
    Has.OPTIMAL: SolutionStatus.optimal,
}
# Pyomo 6.10.0 has another name for the same base class.
_LoaderBase: Any = getattr(loading, "SolutionLoader", None) or loading.SolutionLoaderBase


def condition(program: Program, solution: Solution) -> TerminationCondition:
    """Why the solver stopped, in Pyomo's words.

    Infeasible where the program is not convex and its linear limits alone can be satisfied: one solver's local finding.
    """
    found = _CONDITIONS[solution.status.stopped]
    open_still = solution.status.stopped is Stopped.INFEASIBLE and program.not_convex and not program.impossible
    return TerminationCondition.locallyInfeasible if open_still and is_feasible(program) is not False else found


def fill(results: Results, program: Program, solution: Solution, has_objective: bool) -> None:
    """Write what is known of a solution into Pyomo's `results`; the objective only where the model has one."""
    status = solution.status
    results.termination_condition = condition(program, solution)
    results.solution_status = _STATUSES[status.has]
    if has_objective:
        if status.has is not Has.NOTHING:
            results.incumbent_objective = float(solution.objective)
        if program.integer.any():
            results.objective_bound = None if np.isnan(solution.bound) else float(solution.bound)
        elif status.has is Has.OPTIMAL:
            results.objective_bound = results.incumbent_objective
    extra = results.extra_info
    extra.solver = solution.solver
    extra.solver_version = solution.version
    extra.problem_class = program.problem_class
    extra.status = str(status)
    extra.message = solution.message
    extra.iteration_count = solution.iterations
    extra.local_optimum = status.has is Has.LOCAL
    extra.duals_from = solution.duals_from
    extra.attempts = [str(attempt) for attempt in solution.attempts]
    if solution.residuals is not None:
        extra.residuals = asdict(solution.residuals)
    for name, seconds in solution.seconds.items():
        results.timing_info[f"{name}_time"] = seconds


class Loader(_LoaderBase):  # type: ignore[misc]
    """Primal values, duals and reduced costs of one solution, and their way into the model.

    What belongs to no solution is refused with Pyomo's NoSolutionError, NoDualsError, NoReducedCostsError; a variable
    or constraint that the solver has not seen with FormulationError.
    """

    def __init__(self, model: Any, program: Program, used: Array, solution: Solution) -> None:
        self._pyomo_model = model
        self._program = program
        self._solution = solution
        self._used = np.flatnonzero(used)

    def get_number_of_solutions(self) -> int:
        """One, or none."""
        return int(self._solution.status.has is not Has.NOTHING)

    def get_vars(self, vars_to_load: Sequence[Any] | None = None) -> Any:
        """ComponentMap from variables to values; by default of those that are in a constraint or the objective."""
        if self._solution.status.has is Has.NOTHING:
            reason = f"{self._solution.solver} {self._solution.status}"
            raise NoSolutionError(f"{NoSolutionError.default_message} ({reason})")
        return self._picked(self._solution.x, vars_to_load)

    get_primals = get_vars  # its name in Pyomo 6.10.0

    def load_vars(self, vars_to_load: Sequence[Any] | None = None) -> None:
        """Set the values of the variables in the model; those in nothing that was solved keep theirs, and are stale."""
        for variable, value in self.get_vars(vars_to_load).items():
            variable.set_value(value, skip_validation=True)
        StaleFlagManager.mark_all_as_stale(delayed=True)

    def get_duals(self, cons_to_load: Sequence[Any] | None = None) -> dict[Any, float]:
        """Dual of each constraint: ∂(objective in its own sense)/∂(its limit)."""
        self._refuse_without_multipliers(NoDualsError)
        program, dual = self._program, self._solution.row_dual
        rows = program.rows if cons_to_load is None else list(cons_to_load)
        where = slice(None) if cons_to_load is None else program.row_indices(rows)
        return dict(zip(rows, dual[where].tolist(), strict=True))

    def get_reduced_costs(self, vars_to_load: Sequence[Any] | None = None) -> Any:
        """ComponentMap from variables to reduced costs: ∂(objective in its own sense)/∂(the bound that binds)."""
        self._refuse_without_multipliers(NoReducedCostsError)
        return self._picked(self._solution.reduced_cost, vars_to_load, fixed=0.0)

    def load_solution(self) -> None:
        """Set the variables, and fill the suffixes `dual` and `rc` where the model imports them."""
        self.load_vars()
        self.load_import_suffixes()

    def load_import_suffixes(self) -> None:
        """Empty every suffix that imports, and fill the outermost ones called `dual` and `rc`."""
        read = {"dual": self.get_duals, "rc": self.get_reduced_costs}
        for suffix in self._pyomo_model.component_objects(
            pyo.Suffix, active=True, descend_into=True, descent_order=TraversalStrategy.BreadthFirstSearch
        ):
            if suffix.import_enabled():
                suffix.clear()
                if suffix.local_name in read:
                    suffix.update(read.pop(suffix.local_name)())

    def _picked(self, values: Array, variables: Sequence[Any] | None, fixed: float | None = None) -> Any:
        """The entries of `values` (n,) for the used columns, or for some variables; `fixed`: what fixed ones get."""
        program = self._program
        if variables is None:
            chosen = [program.variables[j] for j in self._used]
            return ComponentMap(zip(chosen, values[self._used].tolist(), strict=True))
        chosen = list(variables)
        columns = program.columns(chosen)
        known = program.values(values, chosen)
        if fixed is not None:
            known = np.where(columns < 0, fixed, known)
        return ComponentMap(zip(chosen, known.tolist(), strict=True))

    def _refuse_without_multipliers(self, error: type[Exception]) -> None:
        solution = self._solution
        if solution.status.ok and solution.has_duals:
            return
        if not solution.status.ok:
            why = f"{solution.solver} {solution.status}"
        elif self._program.integer.any():
            why = "some variables must be whole; fix those at their values and solve again"
        else:
            why = f"{solution.solver} returns none"
        raise error(f"{getattr(error, 'default_message', '')} ({why})")
