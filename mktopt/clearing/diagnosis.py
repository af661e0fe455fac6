"""When a market has no answer: infeasible (what conflicts, what would cure it) or unbounded (which orders)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

from mktopt.clearing.result import FloatArray
from mktopt.errors import InfeasibleError, SolverError, UnboundedError
from mktopt.formulations.market import Declaration, own_rows
from mktopt.solvers.diagnosis.infeasible import Member, Relaxed, diagnose
from mktopt.solvers.diagnosis.unbounded import unbounded_direction
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Solution, Stopped

SHED, OVERLOAD = "serve less", "load branches more"


@dataclass(frozen=True, eq=False)
class InfeasibilityReport:
    """Why a market is infeasible, in the words of its data.

    conflict: constraints and limits that cannot hold together (`irreducible`: each of them is needed for that);
    relaxation: one row per limit that would have to give: cure ('serve less': firm demand shed or firm supply spilled;
    'load branches more': ratings exceeded), what, where, period, amount, unit. Each cure is the least in total;
    rows of the user's own may give in either. A cure that does not exist has no rows. `local`: the market is not
    convex, so that a feasible dispatch, or a lesser cure, may exist elsewhere.
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
        for which in (SHED, OVERLOAD):
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


def refuse_unsolved(declaration: Declaration, model: Any, program: Program, solution: Solution) -> None:
    """Raises InfeasibleError, UnboundedError or SolverError unless `solution` holds an optimum."""
    if solution.status.ok:
        return
    if solution.status.stopped is Stopped.INFEASIBLE:
        raise infeasible(declaration, model, program)
    if solution.status.stopped is Stopped.UNBOUNDED:
        raise unbounded(model, program)
    raise SolverError(
        f"{solution.solver} did not clear the market ({solution.status}): {solution.message or 'no more is known'}; "
        "try another solver=, or a longer time limit in solver_options"
    )


def infeasible(declaration: Declaration, model: Any, program: Program) -> InfeasibleError:
    """The error for a market without a feasible dispatch, with its report."""
    names = _Names(model, declaration, program)
    rows = [program.row(row) for row in model.grid.balance.values()]
    firm = _firm_kw(declaration, list(model.grid.balance))
    own = [program.row(row) for row in own_rows(model)]
    branches = list(program.columns(model.grid.p_kw.values())) if model.grid.component("p_kw") is not None else []
    most = np.hstack([firm, np.full((2, len(own)), np.inf)])
    first = diagnose(
        program, rows=np.array(rows + own, dtype=int), columns=np.array([], dtype=int), row_most=most
    )
    second = diagnose(
        program, rows=np.array(own, dtype=int), columns=np.array(branches, dtype=int), conflict=False
    )
    records = [(cure, *names.relaxed(item)) for cure, found in ((SHED, first), (OVERLOAD, second))
               if found.curable for item in found.relaxation]  # fmt: skip
    columns = ["cure", "what", "where", "period", "amount", "unit"]
    conflict = tuple(dict.fromkeys(names.limit(member) for member in first.conflict))
    local = bool(program.not_convex)
    report = InfeasibilityReport(conflict, pd.DataFrame(records, columns=columns), first.irreducible, local)
    verdict = "no dispatch was found that satisfies" if local else "no dispatch satisfies"
    text = f"the market is infeasible: {verdict} every limit\n{report}"
    return InfeasibleError(text, report)


def _firm_kw(declaration: Declaration, keys: list[tuple[str, int]]) -> FloatArray:
    """All that could be shed, and all that could be spilled, at each bus and period of `keys` [kW], shape (2, keys)."""
    orders, network = declaration.orders, declaration.network
    periods = len(network.hours)
    at = network.bus_positions(orders.orders["bus"]) * periods + orders.orders["period"].to_numpy()
    must = np.where(orders.orders["all_or_nothing"], orders.width_kw, orders.orders["minimum_kw"])
    drawn = np.repeat(network.shunt_kw, periods)
    sums = [np.bincount(at[side], must[side], len(drawn)) for side in (orders.is_bid, ~orders.is_bid)]
    firm: FloatArray = np.array([sums[0] + np.maximum(drawn, 0.0), sums[1] + np.maximum(-drawn, 0.0)])
    rows = [network.bus_index[bus] * periods + period for bus, period in keys]
    return firm[:, rows]


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


class _Names:
    """Rows and variables of a market model in the words of its data."""

    def __init__(self, model: Any, declaration: Declaration, program: Program) -> None:
        self.program = program
        grid = model.grid
        self.balance = {id(row): key for key, row in grid.balance.items()}
        total = grid.component("total")
        self.total = {} if total is None else {id(row): period for period, row in total.items()}
        self.physics = {
            id(row): key
            for component in grid.component_objects(pyo.Constraint, descend_into=False)
            if component.dim() == 2 and component is not grid.balance
            for key, row in component.items()
            if key[0] in grid.branches
        }
        self.flow = {id(v): key for key, v in grid.p_kw.items()} if grid.component("p_kw") is not None else {}
        self.segment = {id(v): key for key, v in model.segment_kw.items()}
        table = declaration.orders.orders
        keys = zip(table["order"], table["period"].tolist(), strict=True)
        self.firm = dict(zip(keys, declaration.orders.firm.tolist(), strict=True))

    def _component(self, member: Member) -> int:
        program = self.program
        return id(program.rows[member.index] if member.kind == "row" else program.variables[member.index])

    def limit(self, member: Member) -> str:
        """One limit of a conflict."""
        what = self._component(member)
        if what in self.balance:
            bus, period = self.balance[what]
            return f"balance of bus {bus}, period {period}"
        if what in self.total:
            return f"balance of the whole grid, period {self.total[what]}"
        if what in self.physics:
            branch, period = self.physics[what]
            return f"physics of branch {branch}, period {period}"
        if what in self.flow:
            branch, period = self.flow[what]
            way = "against" if member.side == "lower" else "along"
            return f"limit of branch {branch}, period {period}: {abs(member.limit):g} kVA {way} its direction"
        if what in self.segment:
            order, period, _ = self.segment[what]
            if member.side == "upper":
                return f"width of order {order}, period {period}: {member.limit:g} kW"
            kind = "firm order" if self.firm.get((order, period)) else "minimum of order"
            return f"{kind} {order}, period {period}: {member.limit:g} kW"
        return str(member)

    def relaxed(self, item: Relaxed) -> tuple[str, str, int | str, float, str]:
        """(what, where, period, amount, unit) of one limit that gives."""
        what = self._component(item.member)
        if what in self.balance:
            bus, period = self.balance[what]
            # orders inject on the left: a row that ends below zero lacks supply
            word = "shed at bus" if item.side == "lower" else "spill at bus"
            return word, bus, period, item.amount, "kW"
        if what in self.flow:
            branch, period = self.flow[what]
            return "exceed the rating of branch", branch, period, item.amount, "kVA"
        return f"{'lower' if item.side == 'lower' else 'raise'} the limit of", item.name, "", item.amount, ""
