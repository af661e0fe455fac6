"""Programs that fall apart are solved block by block: the blocks partition them, and the whole is proved optimal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.solvers import Has, Stopped, compile, solve
from mktopt.solvers.blocks import blocks, part
from tests.solvers.proof import prove

COLUMNS = 120


def model(tied: bool = False, worst: float = 30.0, convex: bool = True) -> pyo.ConcreteModel:
    """Three blocks: shares x of a limited sum of squares, worth log(1 + x) in the second and their price elsewhere."""
    rng = np.random.default_rng(3)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), range(COLUMNS), bounds=(0.0, 5.0), initialize=0.5)
    m.apart = pyo.Var(bounds=(1.0, 2.0))
    worth = rng.uniform(0.5, 2.0, (3, COLUMNS))
    terms = [worth[b, j] * (pyo.log(1 + m.x[b, j]) if b == 1 else m.x[b, j]) for b, j in m.x]
    m.value = pyo.Objective(expr=sum(terms) - 0.1 * m.x[0, 0] ** 2 - m.apart + 7.0, sense=pyo.maximize)
    limit = {0: 40.0, 1: 20.0, 2: worst}
    m.squares = pyo.Constraint(range(3), rule=lambda m, b: sum(m.x[b, j] ** 2 for j in range(COLUMNS)) <= limit[b])
    m.least = pyo.Constraint(range(3), rule=lambda m, b: sum(m.x[b, j] for j in range(5)) >= 1.0)
    if tied:
        m.tie = pyo.Constraint(expr=m.x[0, 1] + m.x[1, 1] + m.x[2, 1] <= 2.0)
    if not convex:
        m.ring = pyo.Constraint(expr=m.x[0, 2] ** 2 + m.x[0, 3] ** 2 >= 0.5)
    return m


def test_blocks_partition_columns_and_rows() -> None:
    program = compile(model())
    found = blocks(program)
    assert len(found) == 3
    for k, count in ((0, program.n), (1, program.m)):
        assert np.sort(np.concatenate([block[k] for block in found])).tolist() == list(range(count))
    assert len(blocks(compile(model(tied=True)))) == 1
    point = np.random.default_rng(1).uniform(0.0, 1.0, program.n)
    parts = [(part(program, *block), block) for block in found]
    total = sum(p.objective(point[columns]) for p, (columns, _) in parts)
    assert total + program.constant == pytest.approx(program.objective(point))
    for p, (columns, rows) in parts:
        assert p.activity(point[columns]) == pytest.approx(program.activity(point)[rows])


@pytest.mark.parametrize(("solver", "convex"), [("clarabel", True), ("ipopt", True), ("ipopt", False)])
def test_the_whole_is_optimal(solver: str, convex: bool) -> None:
    m = model(convex=convex)
    program = compile(m)
    prove(m, program, solve(program, solver))


@pytest.mark.parametrize("solver", ["clarabel", "ipopt"])
def test_a_block_without_an_answer_leaves_the_whole_without(solver: str) -> None:
    solution = solve(compile(model(worst=-1.0)), solver)
    assert solution.status.stopped is Stopped.INFEASIBLE
    assert solution.status.has is Has.NOTHING
    assert not len(solution.x)
    with pytest.raises(mo.SolverError, match="time_limit"):
        solve(compile(model()), solver, {"time_limit": "soon"})


def test_a_day_of_cones_needs_no_second_solver() -> None:
    """24 hours of case33bw were one program that Clarabel did not solve to the digits asked for."""
    case, hours = mo.load_case("case33bw"), 24
    table, segments = case.orders.orders, case.orders.segments
    share = 0.9 + 0.1 * np.sin(np.linspace(0.0, 2 * np.pi, hours)) ** 2
    bids = segments["order"].isin(table.loc[table["side"] == "bid", "order"])
    orders = mo.Orders(
        pd.concat([table.assign(period=t, minimum_kw=table["minimum_kw"] * share[t]) for t in range(hours)]),
        pd.concat([
            segments.assign(period=t, width_kw=segments["width_kw"].where(~bids, segments["width_kw"] * share[t]))
            for t in range(hours)
        ]),
    )  # fmt: skip
    clearing = mo.clear("surplus", case.network.replace(hours=np.ones(hours)), orders, flow="distflow")
    assert clearing.solver == "clarabel" and not clearing.notes
    assert clearing.certificate.ok(1e-7)
