"""When a market has no answer: infeasible (what conflicts, what would cure it) or unbounded (which orders)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mktopt.clearing.cures import CURES, OVERLOAD, SHED, SUPPORT, WIDEN, Cure, cures
from mktopt.clearing.limit_names import LimitNames
from mktopt.errors import InfeasibleError, SolverError, UnboundedError
from mktopt.formulations.market import Declaration
from mktopt.solvers.diagnosis.unbounded import unbounded_direction
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Solution, Stopped

__all__ = ["OVERLOAD", "SHED", "SUPPORT", "WIDEN", "InfeasibilityReport", "infeasible", "refuse_unsolved", "unbounded"]


@dataclass(frozen=True, eq=False)
class InfeasibilityReport:
    """Why a market is infeasible, in the words of its data.

    conflict: constraints and limits that cannot hold together (`irreducible`: each of them is needed for that), those
    that could be others first, the physics last; relaxation: one row per limit that would have to give: cure ('serve
    less': firm demand shed or firm supply spilled, with the reactive power that goes with it; 'load branches more':
    ratings exceeded; 'support the voltage': reactive power injected or absorbed; 'widen voltage limits'), what, where,
    period, amount, unit. Each cure is the least in total (see `mktopt.clearing.cures`); rows of the user's own may
    give in any. A cure that does not exist has no rows. `local`: the market is not convex, so that a feasible
    dispatch, or a lesser cure, may exist elsewhere.
    """

    conflict: tuple[str, ...]
    relaxation: pd.DataFrame
    irreducible: bool = True
    local: bool = False

    def cure(self, which: str) -> pd.DataFrame:
        """The rows of one cure."""
        return self.relaxation[self.relaxation["cure"] == which]

    def __str__(self) -> str:
        word = "" if self.irreducible else " (not all of them may be needed)"
        lines = [f"These cannot hold together{word}:"] if self.conflict else []
        lines += _listed([f"  - {name}" for name in self.conflict])
        for which in CURES:
            rows = self.cure(which)
            if len(rows):
                lines.append(f"Least change that cures it, if it is to {which} (total {rows['amount'].sum():,.4g}):")
                lines += _listed([
                    f"  - {row.what} {row.where}{'' if row.period == '' else f', period {row.period}'}: "
                    f"{row.amount:,.4g} {row.unit}".rstrip()
                    for row in rows.itertuples()
                ])  # fmt: skip
        return "\n".join(lines)


def _listed(lines: list[str], most: int = 12) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"  - ... and {len(lines) - most} more"]


# How a local solver may stop where there is nothing to be found.
_LOST = (Stopped.INFEASIBLE, Stopped.INFEASIBLE_OR_UNBOUNDED, Stopped.NUMERICAL, Stopped.ITERATION_LIMIT)


def refuse_unsolved(declaration: Declaration, model: Any, program: Program, solution: Solution) -> None:
    """Raises InfeasibleError, UnboundedError or SolverError unless `solution` holds an optimum.

    Of a market that is not convex, a solver that found no point is not believed before the least relaxation has been
    sought too: where nothing has to give there is a dispatch, and the solver's stop is a SolverError.
    """
    if solution.status.ok:
        return
    stopped, feasible = solution.status.stopped, ""
    if stopped is Stopped.INFEASIBLE or (program.not_convex and stopped in _LOST):
        found = list(cures(declaration, model, program))
        doubt = bool(program.not_convex) and any(cure.nothing_to_cure for cure in found)
        if not doubt and (stopped is Stopped.INFEASIBLE or any(cure.found.curable for cure in found)):
            raise _refusal(declaration, model, program, found)
        feasible = "a search for the least relaxation did find a feasible dispatch; " if doubt else ""
    if stopped is Stopped.UNBOUNDED:
        raise unbounded(model, program)
    raise SolverError(
        f"{solution.solver} did not clear the market ({solution.status}): {solution.message or 'no more is known'}; "
        f"{feasible}try another solver=, or a longer time limit in solver_options"
    )


def infeasible(declaration: Declaration, model: Any, program: Program) -> InfeasibleError:
    """The error for a market without a feasible dispatch, with its report."""
    return _refusal(declaration, model, program, list(cures(declaration, model, program)))


def _refusal(declaration: Declaration, model: Any, program: Program, found: list[Cure]) -> InfeasibleError:
    names = LimitNames(model, declaration, program)
    records = [(cure.name, *names.relaxed(item, cure)) for cure in found if cure.found.curable
               for item in cure.found.relaxation]  # fmt: skip
    table = pd.DataFrame(records, columns=["cure", "what", "where", "period", "amount", "unit"])
    keys = ["cure", "what", "where", "period", "unit"]
    amounts = table.groupby(keys, sort=False)["amount"].sum()
    table = _without_repetition(amounts.reset_index()[list(table.columns)])
    first = found[0].found
    conflict = tuple(dict.fromkeys(names.conflict(first.conflict)))
    local = bool(program.not_convex)
    report = InfeasibilityReport(conflict, table, first.irreducible, local)
    verdict = "no dispatch was found that satisfies" if local else "no dispatch satisfies"
    text = f"the market is infeasible: {verdict} every limit\n{report}"
    return InfeasibleError(text, report)


def _without_repetition(table: pd.DataFrame) -> pd.DataFrame:
    """Cures of voltages that move rows of the user's own alone say what the cures before them said."""
    own = table.groupby("cure")["unit"].transform(lambda units: bool((units == "").all())).astype(bool)
    return table[~(own & table["cure"].isin(CURES[2:]))].reset_index(drop=True)


def unbounded(model: Any, program: Program) -> UnboundedError:
    """The error for a market whose welfare has no limit, naming the orders that grow."""
    orders = {id(v): key[0] for key, v in model.segment_kw.items()}
    growth = unbounded_direction(program)
    variables = [program.variables[item.column] for item in growth]
    culprits = list(dict.fromkeys(orders[id(v)] for v in variables if id(v) in orders))
    if not culprits:
        culprits = [item.name for item in growth]
    named = ", ".join(repr(name) for name in culprits[:6])
    return UnboundedError(
        f"the market is unbounded: welfare grows without limit along {named}; "
        "give these orders a finite width_kw, or limit what they can trade with each other (prices, ratings)",
        culprits,
    )
