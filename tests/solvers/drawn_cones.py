"""Draws programs with cones, feasible and bounded by construction, each also as a problem for CVXPY."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from mktopt.solvers import Program
from mktopt.solvers.curved import Logs, Quadratics


@dataclass
class Draft:
    """A program in the making: dense rows, each with a point inside, and the same for CVXPY."""

    random: np.random.Generator
    inside: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    rows: list[tuple[np.ndarray, float, float]] = field(default_factory=list)
    products: list[tuple[int, int, int, float]] = field(default_factory=list)
    logs: list[tuple[int, float, np.ndarray, float]] = field(default_factory=list)
    peer: list[Any] = field(default_factory=list)  # functions of CVXPY's x that give constraints

    @property
    def n(self) -> int:
        return len(self.inside)

    def add(self, a: np.ndarray, low: float, high: float, terms: dict[tuple[int, int], float] | None = None) -> None:
        """A row, written as it is or the other way round."""
        sign = 1.0 if self.random.integers(2) else -1.0
        limits = (low, high) if sign > 0 else (-high, -low)
        for (i, j), value in (terms or {}).items():
            if value:
                self.products.append((len(self.rows), min(i, j), max(i, j), sign * value))
        self.rows.append((sign * a, *limits))

    def program(self, c: np.ndarray, P: np.ndarray | None, sense: int, constant: float = 0.0) -> Program:
        model = pyo.ConcreteModel()
        model.x = pyo.Var(range(self.n))
        model.c = pyo.Constraint(range(len(self.rows)), rule=lambda m, i: m.x[0] >= i)
        A = np.array([a for a, *_ in self.rows]).reshape(-1, self.n)
        logs, terms = None, sorted(self.products)
        if self.logs:
            row, coef, M, offset = zip(*self.logs, strict=True)
            logs = Logs(np.array(row), np.array(coef), sp.csr_array(np.array(M)), np.array(offset))
        return Program(
            variables=list(model.x.values()),
            rows=list(model.c.values()),
            A=sp.csr_array(A),
            row_lower=np.array([low for _, low, _ in self.rows]),
            row_upper=np.array([high for *_, high in self.rows]),
            lower=self.lower,
            upper=self.upper,
            integer=np.zeros(self.n, dtype=bool),
            c=c,
            P=None if P is None else sp.csc_array(P),
            constant=constant,
            sense=sense,
            quadratics=Quadratics(
                *(np.array([t[k] for t in terms], dtype=np.int64) for k in range(3)), np.array([t[3] for t in terms])
            )
            if terms
            else None,
            logs=logs,
        )


def linear_row(draft: Draft) -> None:
    a = draft.random.integers(-2, 3, draft.n).astype(float)
    at, kind = float(a @ draft.inside), draft.random.integers(3)
    low, high = at - draft.random.uniform(0, 2), at + draft.random.uniform(0, 2)
    low, high = ((at, at), (-np.inf, high), (low, high))[kind]
    draft.add(a, low, high)
    draft.peer += [lambda x: a @ x <= high, lambda x: a @ x >= low][: 2 if np.isfinite(low) else 1]


def squares_of(F: np.ndarray, columns: np.ndarray) -> dict[tuple[int, int], float]:
    Q, terms = F.T @ F, {}
    for i in range(len(columns)):
        for j in range(i, len(columns)):
            terms[int(columns[i]), int(columns[j])] = float(Q[i, j] * (1.0 if i == j else 2.0))
    return terms


def random_factor(draft: Draft, size: int) -> np.ndarray:
    """Diagonal, of full rank, or of less."""
    kind = draft.random.integers(3)
    if kind == 0:
        return np.diag(draft.random.uniform(0.3, 2, size))
    return draft.random.normal(size=(size if kind == 1 else max(size - 1, 1), size))


def squares_row(draft: Draft) -> None:
    import cvxpy as cp

    columns = draft.random.permutation(draft.n)[: draft.random.integers(1, draft.n + 1)]
    F, a = random_factor(draft, len(columns)), draft.random.integers(-1, 2, draft.n).astype(float)
    high = float(((F @ draft.inside[columns]) ** 2).sum() + a @ draft.inside + draft.random.uniform(0.1, 2))
    draft.add(a, -np.inf, high, squares_of(F, columns))
    draft.peer.append(lambda x: cp.sum_squares(F @ x[columns]) + a @ x <= high)


def product_row(draft: Draft) -> None:
    import cvxpy as cp

    order = draft.random.permutation(draft.n)
    same = bool(draft.random.integers(2)) or draft.n < 3
    u, v = (order[0], order[0]) if same else order[:2]
    columns = order[1 if same else 2 :]
    for j in (u, v):
        draft.lower[j] = max(draft.lower[j], 0.0)
    F = random_factor(draft, len(columns)) if len(columns) else np.zeros((1, 0))
    beyond = float(draft.random.choice([0.0, 0.5]))
    needed = float(((F @ draft.inside[columns]) ** 2).sum()) + beyond
    k = (needed + draft.random.uniform(0.05, 1.0)) / float(draft.inside[u] * draft.inside[v])
    draft.add(np.zeros(draft.n), -np.inf, -beyond, squares_of(F, columns) | {(int(u), int(v)): -k})
    draft.peer.append(
        lambda x: (
            cp.SOC(k * x[u] + x[v], cp.hstack([k * x[u] - x[v], 2 * F @ x[columns], 2 * np.sqrt(beyond)]))
            if not same
            else cp.SOC(np.sqrt(k) * x[u], cp.hstack([F @ x[columns], np.sqrt(beyond)]))
        )
    )


def log_row(draft: Draft) -> None:
    import cvxpy as cp

    m, a = draft.random.integers(-1, 2, draft.n).astype(float), draft.random.integers(-1, 2, draft.n).astype(float)
    offset, coef = draft.random.uniform(0.2, 2) - float(m @ draft.inside), draft.random.uniform(0.3, 3)
    low = coef * np.log(m @ draft.inside + offset) + a @ draft.inside - draft.random.uniform(0.1, 1)
    draft.add(a, float(low), np.inf)
    sign = 1.0 if np.isfinite(draft.rows[-1][1]) else -1.0
    draft.logs.append((len(draft.rows) - 1, sign * coef, m, offset))
    draft.peer.append(lambda x: coef * cp.log(m @ x + offset) + a @ x >= low)


def random_program(seed: int, kinds: tuple[Any, ...]) -> tuple[Program, Any]:
    """(program, CVXPY's problem) of rows of some kinds, feasible and bounded: a point is drawn first."""
    import cvxpy as cp

    random = np.random.default_rng(seed)
    n = int(random.integers(1, 6))
    inside = random.uniform(0.2, 2.0, n)
    low, high = inside - random.uniform(0.1, 3, n), inside + random.uniform(0.1, 3, n)
    if n > 2 and random.integers(2):
        low[0] = high[0] = inside[0]
    draft, choice = Draft(random, inside, low, high), [*kinds, linear_row]
    for _ in range(random.integers(1, 5)):
        choice[random.integers(len(choice))](draft)
    sense = int(random.choice([1, -1]))
    c = random.integers(-3, 4, n).astype(float)
    x = cp.Variable(n)
    cost, P = c @ x, None
    if random.integers(2):
        root = random.normal(size=(random.integers(1, n + 1), n))
        P, cost = sense * root.T @ root, cost + sense * 0.5 * cp.sum_squares(root @ x)
    if log_row in kinds and random.integers(2):
        m, weight = random.uniform(0.1, 1.0, n), random.uniform(0.3, 3)
        offset = 0.1 - float(m @ low)
        draft.logs.append((-1, -sense * weight, m, offset))
        cost = cost - sense * weight * cp.log(m @ x + offset)
    limits = [x >= draft.lower, x <= draft.upper, *(make(x) for make in draft.peer)]
    problem = cp.Problem(cp.Minimize(cost) if sense > 0 else cp.Maximize(cost), limits)
    return draft.program(c, P, sense), problem
