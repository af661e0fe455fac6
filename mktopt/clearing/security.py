"""Contingencies in a clearing: rows declared as they are needed, ties that respect them, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.result import Clearing, FloatArray
from mktopt.clearing.ties import share_ties
from mktopt.errors import InfeasibleError
from mktopt.formulations.market import declaration_of
from mktopt.formulations.security import Security
from mktopt.networks.orders import Orders
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Solution, Stopped


def missing_rows(model: Any, security: Security | None, program: Program, solution: Solution) -> int:
    """Declares contingency rows that `solution` violates, and says how many; 0 where there are none to declare.

    Where the market is unbounded without them all are declared, and likewise where it is infeasible already, for its
    report, unless they are many. The model's variables take the solution's values.
    """
    if security is None or not security.lazy:
        return 0
    if solution.status.ok:
        values = np.clip(solution.x, program.lower, program.upper).tolist()
    elif solution.status.stopped is Stopped.UNBOUNDED or (
        solution.status.stopped is Stopped.INFEASIBLE and not security.many
    ):
        values = [None] * program.n
    else:
        return 0
    for variable, value in zip(program.variables, values, strict=True):
        variable.set_value(value, skip_validation=True)
    return security.separate(model)


@contextmanager
def told_of_missing_rows(security: Security | None) -> Iterator[None]:
    """Adds to the report of an infeasible market that not all contingency rows are in it, where that is so."""
    try:
        yield
    except InfeasibleError as error:
        if security is None or not (security.lazy and security.many):
            raise
        more = "Only contingency rows that were needed so far are in this: with all of them more may have to give."
        raise InfeasibleError(f"{error}\n{more}", error.report) from None


def share_securely(
    security: Security | None,
    model: Any,
    program: Program,
    x: FloatArray,
    orders: Orders,
    segment_kw: FloatArray,
    bound: npt.NDArray[np.bool_],
) -> FloatArray:
    """`segment_kw` with ties shared pro rata (`mktopt.clearing.ties`), but for offers whose outage that would overload.

    Sharing moves no flow, so that only the loss of the offers themselves can become worse. x: values of the program's
    columns; bound: segments that are left alone anyway; both arrays of shape (segments,).
    """
    shared = share_ties(orders, segment_kw, bound)
    if security is None or not security.has_flows:
        return shared
    flow_kw = program.values(x, model.grid.p_kw.values()).reshape(-1, len(security.network.hours))
    while True:
        rows = security.violated(flow_kw, orders.curves.total(shared))[0]
        lost = [security.contingencies[j].rows for j in np.unique(rows.contingency)]
        fresh = np.isin(orders.segment_order, np.concatenate([*lost, np.zeros(0, dtype=np.int64)])) & ~bound
        if not fresh.any():
            return shared
        bound = bound | fresh
        shared = share_ties(orders, segment_kw, bound)


def with_contingencies(clearing: Clearing, security: Security) -> Clearing:
    """`clearing` with its table of contingencies, evaluated from its other tables, and notes on them."""
    table = security.report(*_tables(clearing, security))
    return replace(clearing, contingencies=table, notes=(*clearing.notes, *security.notes()))


def security_violation(clearing: Clearing) -> float:
    """By how much the flows after the worst contingency exceed an emergency rating, relative to it; 0 for none.

    Evaluated anew from the tables of flows and dispatch; NaN where the table of contingencies says something else
    than they do, so that no tolerance accepts it. Needs the model (`clearing.evidence.model`).
    """
    security = declaration_of(clearing.evidence.model).security
    if security is None:
        return 0.0
    found, stated = security.report(*_tables(clearing, security)), clearing.contingencies
    if stated is None or not _agree(found, stated):
        return float("nan")
    worst = found["loading_percent"].max() / 100 - 1.0
    return max(float(worst), 0.0) if np.isfinite(worst) else 0.0


def _agree(found: Any, stated: Any) -> bool:
    names = ["contingency", "kind", "status"]
    if len(found) != len(stated) or not (found[names].to_numpy() == stated[names].to_numpy()).all():
        return False
    here, there = (frame["loading_percent"].to_numpy(dtype=float) for frame in (found, stated))
    return bool(np.allclose(here, there, rtol=1e-6, atol=1e-6, equal_nan=True))


def _tables(clearing: Clearing, security: Security) -> tuple[FloatArray, FloatArray]:
    """Flows, shape (branches, periods), and accepted kW, shape (rows of orders,), as the tables have them."""
    flow = clearing.flows["p_kw"].to_numpy(dtype=float)
    shape = (security.network.n_branches, len(security.network.hours))
    return flow.reshape(shape) if len(flow) else np.zeros(shape), clearing.dispatch["quantity_kw"].to_numpy(dtype=float)
