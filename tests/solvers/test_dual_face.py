"""All multipliers that support an optimum: on paper, by perturbation, for every way to write a program."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from mktopt.solvers import Stopped, compile, solve
from mktopt.solvers.dual_face import dual_face, null_vectors


def corner(sense: str, written: str, unit: float, shift: float = 0.0, bend: float = 0.0):
    """Three offers of 5 at 1, 2 and 4, and a demand of 10 + shift: between 2 and 4 per unit; 3 units of money each."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0, 5))
    supply, demand = unit * sum(model.x.values()), unit * (10.0 + shift)
    model.row = pyo.Constraint(
        expr={"supply == demand": supply == demand, "demand == supply": demand == supply, "enough": supply >= demand}[
            written
        ]
    )
    model.idle = pyo.Constraint(expr=model.x[0] <= 7)
    cost = 3 * (model.x[0] + 2 * model.x[1] + 4 * model.x[2]) + bend * model.x[1] ** 2
    model.o = pyo.Objective(expr=cost) if sense == "min" else pyo.Objective(expr=-cost, sense=pyo.maximize)
    return model


@pytest.mark.parametrize("written", ["supply == demand", "demand == supply", "enough"])
@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("unit", [1.0, 1e-3, 40.0])
@pytest.mark.parametrize("solver", ["highs", "clarabel"])
@pytest.mark.parametrize("bend", [0.0, 0.1])
def test_a_corner_on_paper(sense, written, unit, solver, bend):
    """y per unit of the right-hand side: 3·2 (+ 2·0.1·5) at the left, 3·4 at the right."""
    program = compile(corner(sense, written, unit, bend=bend))
    solution = solve(program, solver)
    face = dual_face(program, solution.x, solution.row_dual)
    rows = np.arange(2)
    low, high = face.intervals(rows)
    sign = 1.0 if sense == "min" else -1.0
    ends = np.sort(sign * np.array([6.0 + 10.0 * bend, 12.0]) / unit)
    assert (low[0], high[0]) == pytest.approx(tuple(ends), rel=1e-6)
    assert (low[1], high[1]) == (solution.row_dual[1], solution.row_dual[1])
    assert low[0] <= solution.row_dual[0] <= high[0]
    assert face.widest(rows) == 0
    assert face.widest(rows[1:]) == -1


def test_a_unique_multiplier_costs_no_linear_program():
    program = compile(corner("min", "enough", 1.0, shift=-2.0))
    solution = solve(program)
    face = dual_face(program, solution.x, solution.row_dual)
    assert not face.movable(np.arange(2)).any()
    assert face.widest(np.arange(2)) == -1
    assert "_ends" not in vars(face)
    low, high = face.intervals(np.arange(2))
    assert low.tolist() == high.tolist() == solution.row_dual.tolist()


def test_an_end_is_infinite_where_nothing_more_is_possible():
    program = compile(corner("min", "supply == demand", 1.0, shift=5.0))
    solution = solve(program)
    low, high = dual_face(program, solution.x, solution.row_dual).intervals(np.array([0]))
    assert (low[0], high[0]) == pytest.approx((12.0, np.inf))
    assert solve(compile(corner("min", "supply == demand", 1.0, shift=5.1))).status.stopped is Stopped.INFEASIBLE


@given(st.integers(0, 2**32 - 1))
def test_the_ends_are_one_sided_slopes_of_the_optimal_objective(seed):
    """Small LPs and QPs of whole numbers, whose vertices are often degenerate; every right-hand side is moved."""
    random = np.random.default_rng(seed)
    n, m = int(random.integers(2, 5)), int(random.integers(1, 4))
    a, b = random.integers(-1, 2, (m, n)), random.integers(0, 3, m)
    kinds, c = random.integers(0, 3, m), random.integers(-2, 3, n)
    squares = random.integers(0, 2, n) * (random.random() < 0.5)
    sense = pyo.minimize if random.random() < 0.5 else pyo.maximize

    def make(shift):
        model = pyo.ConcreteModel()
        model.x = pyo.Var(range(n), bounds=(0, 2))
        model.rows = pyo.ConstraintList()
        for i in range(m):
            body = sum(float(k) * v for k, v in zip(a[i], model.x.values(), strict=True)) + 0.0 * model.x[0]
            right = float(b[i]) + shift[i]
            model.rows.add([body <= right, body >= right, body == right][kinds[i]])
        cost = sum(float(k) * v for k, v in zip(c, model.x.values(), strict=True))
        bent = sum(float(k) * v**2 for k, v in zip(squares, model.x.values(), strict=True))
        model.o = pyo.Objective(expr=cost + (bent if sense == pyo.minimize else -bent), sense=sense)
        return compile(model)

    program = make(np.zeros(m))
    solution = solve(program)
    if not solution.status.ok or program.empty_rows.any():
        return
    face = dual_face(program, solution.x, solution.row_dual)
    low, high = face.intervals(np.arange(m))
    step = 1e-3
    for i in range(m):
        slopes = []
        for sign in (-1.0, 1.0):
            moved = solve(make(sign * step * np.eye(m)[i]))
            slopes.append(sign * (moved.objective - solution.objective) / step if moved.status.ok else None)
        # in a maximisation the objective is concave in the right-hand side: its slope falls
        first, second = slopes if program.sense > 0 else slopes[::-1]
        assert low[i] == (pytest.approx(first, abs=3e-3) if first is not None else -np.inf)
        assert high[i] == (pytest.approx(second, abs=3e-3) if second is not None else np.inf)
    assert (face.widest(np.arange(m)) >= 0) == bool((high - low > 1e-5).any())


def test_a_curved_row_counts_with_its_gradient():
    """max x + y in a disc that just touches the bound x <= 1, where both bind: y's price is fixed, the disc's not."""
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, 1))
    model.disc = pyo.Constraint(expr=model.x**2 + model.y**2 <= 2)
    model.sum = pyo.Constraint(expr=model.x + model.y <= 2)
    model.o = pyo.Objective(expr=model.x + model.y, sense=pyo.maximize)
    program = compile(model)
    solution = solve(program)
    assert solution.x == pytest.approx([1.0, 1.0], abs=1e-6)
    low, high = dual_face(program, np.ones(2), solution.row_dual).intervals(np.arange(2))
    # (1, 1) = disc (2, 2) + sum (1, 1) + bounds >= 0: each alone may carry it, or nothing of it
    assert low == pytest.approx([0.0, 0.0], abs=1e-7)
    assert high == pytest.approx([0.5, 1.0], abs=1e-6)


# -- null vectors -----------------------------------------------------------------------------------------------------


def test_null_vectors_of_matrices_that_are_known():
    random = np.random.default_rng(1)
    full = sp.csr_array(random.normal(size=(9, 5)))
    assert not null_vectors(full).any()
    left, right = random.normal(size=(9, 3)), random.normal(size=(3, 5))
    thin = sp.csr_array(left @ right)
    found = null_vectors(thin)
    assert np.abs(thin @ found).max() < 1e-9
    assert np.linalg.matrix_rank(found) == 2
    mixed = sp.block_diag([full, thin], format="csr")
    found = null_vectors(mixed)
    assert not found[:5].any()
    assert found[5:].any(axis=1).all()


@pytest.mark.parametrize("n", [10, 1000, 20000])
def test_a_long_chain_is_told_from_one_that_is_loose(n):
    """Differences along a chain have a least singular value of about 1/n: not zero, unless no end is tied down."""
    ends = np.arange(n - 1)
    rows, columns = np.r_[ends, ends], np.r_[ends, ends + 1]
    chain = sp.csr_array((np.r_[np.ones(n - 1), -np.ones(n - 1)], (rows, columns)), shape=(n - 1, n))
    loose = null_vectors(chain)
    assert loose.any(axis=1).all()
    assert np.ptp(loose[:, 0]) < 1e-6 * np.abs(loose[:, 0]).max()
    tied = sp.vstack([chain, sp.csr_array(([1.0], ([0], [0])), shape=(1, n))], format="csr")
    assert not null_vectors(tied).any()
