"""Random Pyomo models with everything that users put into them; every adapter is proved and held against the others."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.solvers import SOLVERS, Has, Stopped, compile, solve, solve_fixed
from tests.solvers.proof import prove

KINDS = ("LP", "QP", "SOCP", "EXP", "NLP", "MILP", "MIQP", "MISOCP", "MIEXP")
CURVED = ("SOCP", "EXP", "NLP")
SLOW = ("MIQP", "MISOCP", "MIEXP")  # a tenth of a second and more each


class Drawn:
    """A feasible model whose optimum is bounded: `inside` is a point strictly within all curved rows."""

    def __init__(self, seed: int, kind: str) -> None:
        self.random = np.random.default_rng(seed)
        self.kind = kind
        self.model = pyo.ConcreteModel()
        self.n = int(self.random.integers(2, 6))
        self.inside = self.random.integers(-3, 4, self.n).astype(float)
        self._variables()
        self.model.rows = pyo.ConstraintList()
        for _ in range(int(self.random.integers(0, 5))):
            self._linear_row()
        self._harmless()
        if kind.endswith(CURVED):
            for _ in range(int(self.random.integers(1, 3))):
                self._curved_row()
        self._objective()

    def _variables(self) -> None:
        model, random = self.model, self.random
        model.x = pyo.Var(range(self.n))
        self.x = list(model.x.values())
        for k, (variable, value) in enumerate(zip(self.x, self.inside, strict=True)):
            variable.setlb(value - random.integers(1, 4))
            variable.setub(value + random.integers(1, 4))
            if self.kind.startswith("MI") and random.random() < 0.6:
                variable.domain = pyo.Integers
            elif k and random.random() < 0.2:
                variable.fix(value)
        if self.kind.startswith("MI") and not any(v.is_integer() for v in self.x):
            self.x[0].domain = pyo.Integers
        model.unused = pyo.Var(bounds=(-1, 2))
        model.fixed = pyo.Var()
        model.fixed.fix(2.0)
        model.never = pyo.Var()  # in no constraint, without bounds: any value will do

    def _combination(self) -> tuple[object, float]:
        a = self.random.integers(-2, 3, self.n).astype(float)
        a[self.random.integers(self.n)] = 1.0
        constant = float(self.random.integers(-2, 3))
        body = sum(k * v for k, v in zip(a, self.x, strict=True)) + constant
        return body, float(a @ self.inside) + constant

    def _linear_row(self) -> None:
        body, at = self._combination()
        low, high = at - self.random.integers(0, 3), at + self.random.integers(0, 3)
        forms = [body == at, at == body, -body == -at, body <= high, high >= body, body >= low, (low, body, high)]
        if self.kind.endswith(CURVED):  # interior-point methods ask for a point within
            forms = [body <= at + 1, at - 1 <= body, (at - 1, body, at + 2), at + 1 >= body]
        self.model.rows.add(forms[self.random.integers(len(forms))])

    def _harmless(self) -> None:
        """Rows that say nothing: between constants, or over fixed variables only."""
        if self.random.random() < 0.4:
            self.model.fine = pyo.Constraint(expr=(1.0, 3 * self.model.fixed, 6.0))
        if self.random.random() < 0.4:
            self.model.wide = pyo.Constraint(expr=self.x[0] + self.model.fixed <= 1e3)

    def _curved_row(self) -> None:
        body, at = self._combination()
        other, there = self._combination()
        if self.kind.endswith("EXP") and self.random.random() < 0.5:
            # log(b) >= log of something smaller than b at the point inside
            self.model.rows.add(pyo.log(body - at + 2.0) >= 0.1)
        elif self.kind == "NLP" and self.random.random() < 0.7:
            self.model.rows.add(pyo.exp(0.3 * (body - at)) + (other - there) ** 4 <= 3.0)
        elif self.random.random() < 0.5:
            square = (body - at) ** 2 + 0.5 * (other - there) ** 2
            self.model.rows.add([square <= 2.0, -square >= -2.0][self.random.integers(2)])
        else:
            name = f"pair{len(self.model.rows)}"
            pair = pyo.Var([0, 1], bounds=(0, 4))
            self.model.add_component(name, pair)
            self.model.rows.add((body - at) ** 2 + (other - there) ** 2 <= pair[0] * pair[1])
            self.model.rows.add(pair[0] + 2 * pair[1] <= 4)

    def _objective(self) -> None:
        random = self.random
        cost = sum(float(k) * v for k, v in zip(random.integers(-5, 6, self.n), self.x, strict=True)) + 7.0
        if "Q" in self.kind or (self.kind.endswith(CURVED) and random.random() < 0.5):
            root = random.integers(-2, 3, (self.n, self.n))
            root[0, 0] = root[0, 0] or 1
            square = root.T @ root
            pairs = [(i, j) for i in range(self.n) for j in range(self.n) if square[i, j]]
            cost = cost + sum(float(square[i, j]) * self.x[i] * self.x[j] for i, j in pairs)
        if self.kind.endswith("EXP"):
            low = min(v.lb for v in self.x)
            cost = cost - 3.0 * pyo.log(self.x[0] - low + 1.0)
        if self.kind == "NLP":
            cost = cost + pyo.exp(0.2 * self.x[0]) + 0.1 * (self.x[-1] - 1) ** 4
        if self.kind == "LP" and random.random() < 0.15:
            return  # no objective at all: any feasible point
        if random.random() < 0.5:
            self.model.obj = pyo.Objective(expr=cost)
        else:
            self.model.obj = pyo.Objective(expr=-cost, sense=pyo.maximize)


def takers(program):
    return [name for name, solver in SOLVERS.items() if program.problem_class in solver.takes]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_adapter_finds_a_proved_optimum_and_all_agree(kind, seed):
    proved_and_agreed(kind, seed)


@pytest.mark.parametrize("kind", SLOW)
@settings(max_examples=settings().max_examples // 2)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_adapter_of_curves_and_integers_finds_the_same_optimum(kind, seed):
    proved_and_agreed(kind, seed)


def proved_and_agreed(kind, seed):
    model = Drawn(seed, kind).model
    program = compile(model)
    names = [None, *takers(program)]
    answers = {}
    for name in names:
        solution = solve(program, name)
        if solution.status.has is Has.NOTHING and name == "highs" and "Q" in program.problem_class:
            continue  # its QP method may give up on degenerate problems, and says so
        if kind in ("MISOCP", "MIEXP") and solution.status.has is Has.FEASIBLE:
            # Whole numbers may leave a cone a single point, which has no multipliers; the solver then says so.
            assert solution.residuals.primal <= 1e-6
            continue
        assert solution.status.ok, f"{name}: {solution.message}"
        if program.integer.any():
            assert solution.residuals.primal <= 1e-6
            solution = solve_fixed(program, solution)
        if not any(True for _ in model.component_data_objects(pyo.Objective, active=True)):
            assert solution.residuals.primal <= 1e-6
            continue
        if not program.integer.any():
            prove(model, program, solution)
        answers[name] = solution.objective
    assert np.ptp(list(answers.values()) or [0.0]) <= 1e-5 * (1 + max(map(abs, answers.values()), default=0.0)), answers


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "NLP"])
@given(seed=st.integers(0, 2**32 - 1))
def test_no_adapter_finds_a_point_where_there_is_none(kind, seed):
    drawn = Drawn(seed, kind)
    body, at = drawn._combination()
    drawn.model.here = pyo.Constraint(expr=body <= at - 100.0)
    if drawn.random.random() < 0.2:
        drawn.model.here.set_value(drawn.model.fixed <= 1.0)  # false whatever the others do
    program = compile(drawn.model)
    for name in (None, *takers(program)):
        solution = solve(program, name)
        assert solution.status.has is Has.NOTHING, name
        assert solution.status.stopped is Stopped.INFEASIBLE, f"{name}: {solution.status}, {solution.message}"


@given(seed=st.integers(0, 2**32 - 1))
def test_convex_quadratic_rows_agree_with_another_modeller(seed):
    """The same program written for CVXPY from the compiled arrays, in CVXPY's own reformulation."""
    import cvxpy as cp

    program = compile(Drawn(seed, "SOCP").model)
    if any(_is_product(program, row) for row in np.unique(program.quadratics.row)):
        return  # CVXPY wants products of variables written as cones by hand
    x = cp.Variable(program.n)
    cost = program.sense * program.c @ x + program.constant * program.sense
    if program.P is not None:
        cost = cost + 0.5 * cp.quad_form(x, cp.psd_wrap(program.sense * program.P.toarray()))
    limits = [x[j] >= program.lower[j] for j in np.flatnonzero(np.isfinite(program.lower))]
    limits += [x[j] <= program.upper[j] for j in np.flatnonzero(np.isfinite(program.upper))]
    for i in range(program.m):
        columns, Q = program.quadratics.matrix(i)
        row = program.A[[i]].toarray().ravel()
        sign = -1.0 if len(columns) and np.linalg.eigvalsh(Q)[0] < -1e-9 else 1.0
        body = sign * row @ x
        if len(columns):
            body = body + 0.5 * cp.quad_form(x[columns], cp.psd_wrap(sign * Q))
        low, high = sorted((sign * program.row_lower[i], sign * program.row_upper[i]))
        limits += [body <= high] if np.isfinite(high) else []
        limits += [body >= low] if np.isfinite(low) else []
    problem = cp.Problem(cp.Minimize(cost), limits)
    problem.solve(solver=cp.CLARABEL)
    assert problem.status == cp.OPTIMAL
    found = program.sense * solve(program).objective
    assert found == pytest.approx(problem.value, rel=1e-5, abs=1e-5)


def _is_product(program, row):
    values = np.linalg.eigvalsh(program.quadratics.matrix(row)[1])
    return values[0] < -1e-9 and values[-1] > 1e-9
