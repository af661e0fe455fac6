"""The arrays behind cones: factors, recognition at speed, scales for unlike units, and what they are made from."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.sparse as sp

from mktopt.errors import FormulationError
from mktopt.solvers import Has, Program, compile, solve
from mktopt.solvers.cones.conic import recognise
from mktopt.solvers.cones.factor import small_factors, sparse_factor
from mktopt.solvers.cones.scaling import cone_scales
from mktopt.solvers.cones.standard_form import sources, standard_form
from mktopt.solvers.curved import Quadratics
from tests.solvers.drawn_cones import Draft, linear_row, log_row, product_row, squares_row


@pytest.mark.parametrize("kind", ["squares", "log"])
def test_scaled_arrays_follow_from_their_sources(kind):
    random = np.random.default_rng(5)
    draft = Draft(random, random.uniform(0.5, 1, 4), np.zeros(4), np.full(4, 3.0))
    draft.lower[1] = draft.upper[1] = draft.inside[1]
    draft.upper[2] = np.inf
    for make in (linear_row, squares_row, linear_row, log_row if kind == "log" else squares_row, linear_row):
        make(draft)
    if kind == "log":
        draft.logs.append((-1, -0.7, np.array([1.0, 0.0, 2.0, 1.0]), 0.5))
    program = draft.program(random.normal(size=4), np.diag([1.0, 0.0, 2.0, 0.0]), 1)
    form = standard_form(program)
    scales = cone_scales(form)
    found = sources(form, scales)
    changed = [program.A.data, program.c, program.P.data, program.row_upper, program.row_lower]
    if program.logs is not None:
        changed += [program.logs.coef, program.logs.offset, program.logs.M.data]
    for part in changed:
        part *= random.uniform(0.5, 1.5)
    equal = np.isin(np.arange(program.m), form.equal)
    program.row_lower[equal] = program.row_upper[equal]
    data = standard_form(program, equal=equal).scaled(scales)
    limits = np.concatenate([program.row_lower, program.row_upper, program.lower, program.upper])
    limits = np.where(np.isfinite(limits), limits, 0.0)
    logs = program.logs
    coef, offset, inside = (logs.coef, logs.offset, logs.M.data) if logs is not None else (np.zeros(0),) * 3
    np.testing.assert_allclose(found.q_base + found.q_map @ np.r_[program.c, coef], data.q)
    np.testing.assert_allclose(found.h_base + found.h_map @ np.r_[limits, offset], data.h)
    entries = found.G_base + found.G_map @ np.r_[program.A.data, coef, inside]
    np.testing.assert_allclose(entries, data.G.toarray().T[data.G.toarray().T != 0])
    np.testing.assert_allclose(found.P_map @ program.P.data, data.P.data)


def test_products_on_the_greater_side_do_not_follow_from_sources():
    draft = Draft(np.random.default_rng(1), np.ones(4), np.zeros(4), np.full(4, 3.0))
    product_row(draft)
    form = standard_form(draft.program(np.ones(4), None, 1))
    sources(form, cone_scales(form))
    with pytest.raises(FormulationError, match="product of two variables"):
        sources(form, cone_scales(form), rows=np.ones(1, dtype=bool))
    with pytest.raises(FormulationError, match="lower bound"):
        sources(form, cone_scales(form), columns=np.ones(4, dtype=bool))
    with pytest.raises(FormulationError, match="quadratics"):
        sources(form, cone_scales(form), targets=["quadratics"])


@pytest.mark.parametrize("size", [3, 100, 300])
@pytest.mark.parametrize("units", [1.0, 1e8])
def test_factors_represent_their_matrix_to_rounding(size, units):
    """Singular ones too, and in any units; the least bend the wrong way is found."""
    chain = sp.diags_array([np.ones(size), -np.ones(size - 1)], offsets=[0, 1]).tocsc()[: size - 1]
    random = sp.random_array((size // 2, size), density=3 / size, rng=np.random.default_rng(0)).tocsc()
    unit = sp.diags_array(np.where(np.arange(size) % 2, units, 1.0))
    for root in (chain, random):
        Q = sp.csc_array(unit @ root.T @ root @ unit)
        scale = np.sqrt(np.maximum(Q.diagonal(), 1e-300))
        F, bad = sparse_factor(Q)
        assert bad < 0
        assert (abs(F.T @ F - Q).toarray() <= 1e-10 * np.outer(scale, scale)).all()
        if size == 3:
            G, none = small_factors(Q.toarray()[None])
            assert none[0] < 0
            np.testing.assert_allclose(G[0].T @ G[0], Q.toarray(), atol=1e-12 * units**2)
    Q = sp.csc_array(unit @ (chain.T @ chain - 1e-5 * sp.eye_array(size)) @ unit)
    assert 0 <= sparse_factor(Q)[1] < size
    assert small_factors(Q.toarray()[None])[1][0] >= 0


def test_a_row_over_thousands_of_variables_stays_sparse():
    """Steps between neighbours, 0.5 Σ (x_i - x_{i+1})² <= 2: a singular banded matrix."""
    n = 3000
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(-1, 1))
    random = np.random.default_rng(0)
    terms = [(0, i, j, v) for i in range(n - 1) for j, v in ((i, 1.0 if i else 0.5), (i + 1, -1.0))] + [
        (0, n - 1, n - 1, 0.5)
    ]
    row, first, second, coef = zip(*terms, strict=True)
    model.c = pyo.Constraint(expr=model.x[0] <= 1)
    program = Program(
        variables=list(model.x.values()),
        rows=[model.c],
        A=sp.csr_array((1, n)),
        row_lower=np.array([-np.inf]),
        row_upper=np.array([2.0]),
        lower=-np.ones(n),
        upper=np.ones(n),
        integer=np.zeros(n, dtype=bool),
        c=random.normal(size=n),
        P=None,
        quadratics=Quadratics(np.array(row), np.array(first), np.array(second), np.array(coef)),
    )
    assert program.not_convex == ""
    assert recognise(program).F.nnz < 3 * n
    solution = solve(program, "clarabel")
    assert solution.status.has is Has.OPTIMAL, solution.message
    assert solution.residuals.ok(1e-6)
    assert solution.row_dual[0] < -1e-3


def feeder(buses: int, power: float, current: float, seed: int = 1) -> Program:
    """A radial feeder with losses: bids, one offer, P, Q, squared currents and voltages in very unlike units."""
    random = np.random.default_rng(seed)
    parent = np.array([-1, *(random.integers(i // 3, i) for i in range(1, buses))])
    lines, base = buses - 1, power * np.sqrt(buses)
    bid, offer, P = np.arange(buses), buses, buses + 2 + np.arange(lines)
    Q, ell, v = P + lines, P + 2 * lines, P[0] + 3 * lines + np.arange(buses)
    n, to, r = int(v[-1]) + 1, np.arange(1, buses), random.uniform(0.2, 1, lines) * 0.2 / np.sqrt(buses)
    A = sp.lil_array((3 * buses - 1 + lines + lines, n))
    for rows, flow, load, supply in ((bid, P, 1.0, offer), (buses + bid, Q, 0.3, offer + 1)):
        A[rows, bid] = -load
        A[rows[0], supply] = 1.0
        A[rows[to], flow], A[rows[to], ell] = 1.0, -r * current
        for line in range(lines):
            A[rows[parent[line + 1]], flow[line]] -= 1.0
    drop = 2 * buses + np.arange(lines)
    A[drop, v[to]] = -1.0
    A[drop, v[parent[to]]] = 1.0
    A[drop, P] = A[drop, Q] = -2.0 * r / base
    A[drop, ell] = 2.0 * r**2 * current / base
    cone, limit = 3 * buses - 1 + np.arange(lines), 3 * buses - 1 + lines + np.arange(lines)
    one = np.ones(lines)
    row = np.r_[cone, cone, cone, limit, limit]
    first, second = np.r_[P, Q, ell, P, Q], np.r_[P, Q, v[parent[to]], P, Q]
    coef = np.r_[one, one, -current * base * one, one, one]
    order = np.argsort(row, kind="stable")
    fixed = np.zeros(A.shape[0])
    low, high = fixed.copy(), fixed.copy()
    low[cone[0] :], high[limit] = -np.inf, (0.4 * power * buses) ** 2
    lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
    lower[: buses + 1], lower[ell], lower[v], upper[v] = 0.0, 0.0, 0.81, 1.21
    upper[bid], upper[offer] = random.uniform(0.1, 2, buses) * power, 2 * power * buses
    lower[v[0]] = upper[v[0]] = 1.0
    c = np.r_[random.uniform(0.5, 1, buses), -0.3, np.zeros(n - buses - 1)]
    bend = np.r_[-0.2 / power * random.uniform(0.5, 1, buses), np.zeros(n - buses)]
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n))
    terms = Quadratics(row[order], first[order], second[order], coef[order])
    return Program(
        list(model.x.values()), [], A.tocsr(), low, high, lower, upper, np.zeros(n, dtype=bool), c,
        sp.diags_array(bend, format="csc"), sense=-1, quadratics=terms,
    )  # fmt: skip


@pytest.mark.parametrize("current", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("power", [1e-3, 1.0, 1e3, 1e5])
def test_powers_voltages_and_currents_of_any_size_in_one_model(power, current):
    program = feeder(25, power, current)
    assert program.not_convex == ""
    solution = solve(program, "clarabel")
    assert solution.status.has is Has.OPTIMAL, solution.message
    assert solution.residuals.ok(1e-6)
    assert solution.residuals.worst <= 2e-7
    assert solution.objective == pytest.approx(power * solve(feeder(25, 1.0, 1.0), "clarabel").objective, rel=1e-6)


def test_ten_thousand_cones_are_recognised():
    program = feeder(5001, 1.0, 1.0)
    cones = recognise(program)
    assert len(cones.rows) == 10_000
    assert cones.fault == ""
    assert int(cones.linear.sum()) == 5_000


@pytest.mark.parametrize("nothing", [1e-12, 1e-60, -1e-146])
def test_what_rounding_leaves_of_zero_moves_no_unit(nothing):
    def program(limit):
        m = pyo.ConcreteModel()
        m.f, m.lost = pyo.Var([0, 1, 2]), pyo.Var([0, 1, 2], bounds=(0, None))
        needs = {0: 1e5, 1: limit, 2: 40.0}
        m.balance = pyo.Constraint(
            [0, 1, 2],
            rule=lambda m, k: m.f[k] - 0.5 * m.lost[k] - (m.f[k + 1] + 0.5 * m.lost[k + 1] if k < 2 else 0) == needs[k],
        )
        m.loss = pyo.Constraint([0, 1, 2], rule=lambda m, k: 1e-8 * m.f[k] ** 2 <= m.lost[k])
        m.o = pyo.Objective(expr=m.f[0] + 0.5 * m.lost[0])
        return compile(m)

    units = [cone_scales(standard_form(program(limit))).columns for limit in (0.0, nothing)]
    assert (units[0] == units[1]).all()
    found, known = (solve(program(limit)) for limit in (nothing, 0.0))
    assert found.status.has is Has.OPTIMAL
    assert found.x == pytest.approx(known.x, rel=1e-9)
