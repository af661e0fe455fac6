"""Newton's steps at the end of a curved program: their factors stay sparse on meshed grids, and the answer is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.sparse.linalg

from mktopt.solvers import compile, solve
from mktopt.solvers.polish import filled

NODES, EDGES = 150, 600


def meshed() -> pyo.ConcreteModel:
    """Flows that lose a square between any two of many nodes, which buy what they lack."""
    rng, model = np.random.default_rng(0), pyo.ConcreteModel()
    first = rng.integers(0, NODES, EDGES)
    second = (first + rng.integers(1, NODES, EDGES)) % NODES
    need, cost = rng.uniform(-1, 1, NODES), rng.uniform(1, 2, NODES)
    model.f, model.loss = pyo.Var(range(EDGES)), pyo.Var(range(EDGES), bounds=(0, None))
    model.buy = pyo.Var(range(NODES), bounds=(0, None))
    model.square = pyo.Constraint(range(EDGES), rule=lambda m, k: 0.01 * m.f[k] ** 2 <= m.loss[k])

    def balance(m: Any, node: int) -> Any:
        leaves = pyo.quicksum(m.f[k] + 0.5 * m.loss[k] for k in np.flatnonzero(first == node).tolist())
        arrives = pyo.quicksum(m.f[k] - 0.5 * m.loss[k] for k in np.flatnonzero(second == node).tolist())
        return m.buy[node] - need[node] == leaves - arrives

    model.balance = pyo.Constraint(range(NODES), rule=balance)
    model.obj = pyo.Objective(expr=pyo.quicksum(cost[node] * model.buy[node] for node in range(NODES)))
    return model


def test_factors_of_a_mesh_stay_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordering for unsymmetric matrices fills them six times as much; a loose answer is exact afterwards."""
    program, fills, factorised = compile(meshed()), list[float](), scipy.sparse.linalg.splu

    def watched(A: Any, *rest: Any, **settings: Any) -> Any:
        factor = factorised(A, *rest, **settings)
        fills.append((factor.L.nnz + factor.U.nnz) / A.nnz)
        return factor

    monkeypatch.setattr(scipy.sparse.linalg, "splu", watched)
    assert 6.0 < filled(program.A) / program.A.nnz < 20.0
    solution = solve(program, "clarabel", dict.fromkeys(("tol_feas", "tol_gap_abs", "tol_gap_rel"), 1e-5))
    assert fills and max(fills) < 20.0
    assert solution.residuals is not None and solution.residuals.ok(1e-12), solution.residuals
