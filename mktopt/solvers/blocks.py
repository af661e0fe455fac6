"""Programs that fall apart: blocks of columns and rows that nothing connects, such as periods without storage.

    columns j and k are in one block where a row, a product or the objective's curvature holds both

An interior-point method takes all blocks at once with one step length and one measure of convergence, so that the
hardest block is the pace, and the accuracy, of all of them. Taken one by one, each has its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mktopt.solvers.curved import Logs, Quadratics
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

# Blocks of fewer columns share a program with others: each call of a solver has its cost.
_LEAST = 100


def blocks(program: Program) -> list[tuple[Array, Array]]:
    """(columns, rows) of each block, ascending; one where the program does not fall apart, or nobody can tell."""
    everything = [(np.arange(program.n), np.arange(program.m))]
    if program.remainder is not None or program.n < 2 * _LEAST:
        return everything
    of_column, of_row = _components(program)
    size = np.bincount(of_column, minlength=int(of_row.max(initial=0)) + 1)
    group = np.zeros(len(size), dtype=np.int64)
    current = filled = 0
    for component, count in enumerate(size.tolist()):
        if filled >= _LEAST:
            current, filled = current + 1, 0
        group[component] = current
        filled += count
    if filled < _LEAST and current:  # the last one is too small: it joins the one before
        current -= 1
        group = np.minimum(group, current)
    if current == 0:
        return everything
    of_column, of_row = group[of_column], group[of_row]
    return [(np.flatnonzero(of_column == k), np.flatnonzero(of_row == k)) for k in range(current + 1)]


def _components(program: Program) -> tuple[Array, Array]:
    """The component of each column (n,) and row (m,)."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    n, m = program.n, program.m
    A = program.A.tocoo()
    pairs = [(n + A.row, A.col)]
    if program.P is not None:
        P = program.P.tocoo()
        pairs.append((P.row, P.col))
    if program.quadratics is not None:
        q = program.quadratics
        pairs += [(n + q.row, q.first), (n + q.row, q.second)]
    extra = 0
    if program.logs is not None:  # a node per logarithm, tied to its row where it is not in the objective
        M, own = program.logs.M.tocoo(), np.flatnonzero(program.logs.row >= 0)
        extra = len(program.logs.row)
        pairs += [(n + m + M.row, M.col), (n + m + own, n + program.logs.row[own])]
    first, second = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    total = n + m + extra
    graph = sp.coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(total, total))
    label = connected_components(graph, directed=False)[1]
    return label[:n], label[n : n + m]


def part(program: Program, columns: Array, rows: Array) -> Program:
    """The program of one block, without a constant."""
    place = np.full(program.n, -1)
    place[columns] = np.arange(len(columns))
    row_place = np.full(program.m, -1)
    row_place[rows] = np.arange(len(rows))
    quadratics, logs = program.quadratics, program.logs
    if quadratics is not None:
        k = np.flatnonzero(row_place[quadratics.row] >= 0)
        ends = place[quadratics.first[k]], place[quadratics.second[k]]
        quadratics = Quadratics(row_place[quadratics.row[k]], *ends, quadratics.coef[k]) if len(k) else None
    if logs is not None:
        M = logs.M.tocsr()[:, columns]
        k = np.flatnonzero(np.diff(M.indptr) > 0)
        row = np.where(logs.row[k] >= 0, row_place[logs.row[k]], -1)
        logs = Logs(row, logs.coef[k], M[k], logs.offset[k]) if len(k) else None
    return program.replace(
        variables=[program.variables[j] for j in columns.tolist()],
        rows=[program.rows[i] for i in rows.tolist()],
        A=program.A[rows][:, columns],
        P=None if program.P is None else program.P.tocsc()[columns][:, columns],
        constant=0.0,
        quadratics=quadratics,
        logs=logs,
        column_of={},
        units=None if program.units is None else program.units[columns],
        **{name: getattr(program, name)[columns] for name in ("lower", "upper", "integer", "c")},
        **{name: getattr(program, name)[rows] for name in ("row_lower", "row_upper")},
    )


Solve = Callable[[Program, Mapping[str, Any]], Solution]


def one_by_one(
    program: Program, parts: list[tuple[Array, Array]], solve: Solve, options: Mapping[str, Any]
) -> Solution:
    """The answer of `solve` to every block as one, judged by the whole program; it ends with the first without any.

    A `time_limit` in the options is that of all blocks together.
    """
    x, row_dual, reduced_cost = np.zeros(program.n), np.zeros(program.m), np.zeros(program.n)
    iterations, spent, began, limit = 0, 0.0, time.perf_counter(), options.get("time_limit")
    has, found = Has.OPTIMAL, Solution(Status(Stopped.OPTIMAL, Has.OPTIMAL), "")
    for columns, rows in parts:
        if isinstance(limit, int | float) and limit > 0:
            options = {**options, "time_limit": max(limit - (time.perf_counter() - began), 1e-3)}
        found = solve(part(program, columns, rows), options)
        iterations, spent = iterations + found.iterations, spent + found.seconds.get("solve", 0.0)
        if not found.has_duals or not found.status.ok:
            nothing, status = np.zeros(0), Status(found.status.stopped, Has.NOTHING)
            found = found.replace(status=status, x=nothing, row_dual=nothing, reduced_cost=nothing, residuals=None)
            break
        has = found.status.has if found.status.has is Has.LOCAL else has
        x[columns], row_dual[rows], reduced_cost[columns] = found.x, found.row_dual, found.reduced_cost
    else:
        found = found.replace(status=Status(Stopped.OPTIMAL, has), x=x, row_dual=row_dual, reduced_cost=reduced_cost)
    seconds = {"solve": spent, "total": time.perf_counter() - began}
    return judged(program, found.replace(iterations=iterations, seconds=seconds))
