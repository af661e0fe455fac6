"""Convex programs with integers by outer approximation: an MILP with tangent cuts, and cones with integers fixed.

    min  cᵀx + Σ_k q_k(x)       the program: q_k convex, one per connected block of P; x in cones
    min  cᵀx + Σ_k t_k          the master:  t_k >= q_k(x̄) + ∇q_k(x̄)ᵀ(x - x̄)  at every point x̄ seen so far, and the
                                tangents of cones and logarithms there (`tangents.py`)

(a block is one variable where P is diagonal). The master bounds the optimum from below; the program with the
master's integers fixed bounds it from above and gives the next point. A choice of integers that comes back although
it was solved (it has no point, or its optimum is where a cone has no tangent) is ruled out if all integers are yes or
no, else it is cut by LPs with the integers fixed, until the master knows what it is worth.

Duran and Grossmann, "An outer-approximation algorithm for a class of mixed-integer nonlinear programs",
Mathematical Programming 36 (1986), section 4; the LPs are cutting planes as in Kelley, "The cutting-plane method for
solving convex programs", Journal of SIAM 8 (1960).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name
from mktopt.solvers import clarabel, highs
from mktopt.solvers.cones.conic import recognise
from mktopt.solvers.cones.tangents import Tangents
from mktopt.solvers.fixed import with_integers_fixed
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

NAME = "outer_approximation"
OPTIONS: dict[str, float] = {"mip_gap": 1e-6, "max_iterations": 200, "time_limit": np.inf}
_PLANES = 200


def version() -> str:
    """The versions of the two solvers it is made of; ImportError where one is missing."""
    return f"highs {highs.version()}, clarabel {clarabel.version()}"


@dataclass
class _State:
    """Bounds (in minimisation) and the best point so far; the gap is relative to the relaxed optimum at least."""

    deadline: float
    iterations: int = 0
    lower: float = -np.inf
    upper: float = np.inf
    scale: float = 0.0
    x: Array | None = None
    seen: dict[bytes, tuple[float, bool]] = field(default_factory=dict)  # value of each choice, and if that is certain
    excluded: int = 0

    def gap(self) -> float:
        if not np.isfinite(self.upper):
            return float("inf")
        return (self.upper - self.lower) / max(abs(self.upper), self.scale, 1e-9)

    def left(self) -> float:
        return self.deadline - time.perf_counter()


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve a convex MIQP, MISOCP or MIEXP.

    options: `mip_gap` (relative, 1e-6), `max_iterations` (200), `time_limit` (s).
    """
    start = time.perf_counter()
    chosen = _options(options)
    state = _State(deadline=start + chosen["time_limit"])
    relaxed = clarabel.solve(program.replace(integer=np.zeros(program.n, dtype=bool)), _limit(state))
    if relaxed.status.has is not Has.OPTIMAL:
        stopped = relaxed.status.stopped
        return _close(program, state, stopped, f"continuous relaxation: {relaxed.message}", start)
    state.scale = abs(relaxed.objective)
    master = _Master(program)
    master.cut_around(relaxed.x)
    stopped = _iterate(program, master, state, chosen)
    return _close(program, state, stopped, f"{state.iterations} masters, relative gap {state.gap():.1e}", start)


def _options(options: Mapping[str, Any] | None) -> dict[str, float]:
    chosen = dict(OPTIONS)
    for name, value in (options or {}).items():
        if name not in OPTIONS:
            raise unknown_name("outer approximation option", name, OPTIONS)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise SolverError(f"outer approximation option '{name}' must be a positive number, not {value!r}")
        chosen[name] = value
    return chosen


def _limit(state: _State) -> dict[str, float]:
    return {"time_limit": max(state.left(), 1e-3)} if np.isfinite(state.deadline) else {}


def _iterate(program: Program, master: _Master, state: _State, chosen: Mapping[str, float]) -> Stopped:
    while state.iterations < chosen["max_iterations"]:
        if state.left() <= 0.0:
            return Stopped.TIME_LIMIT
        state.iterations += 1
        answer = highs.solve(master.program(), _limit(state) | {"mip_rel_gap": 0.1 * chosen["mip_gap"]})
        if answer.status.stopped is Stopped.INFEASIBLE and state.x is not None and state.excluded:
            state.lower = state.upper  # no choice is left
            return Stopped.OPTIMAL
        if answer.status.stopped is not Stopped.OPTIMAL:
            return answer.status.stopped
        bound = float(answer.bound if np.isfinite(answer.bound) else answer.objective)
        state.lower = max(state.lower, min(bound, state.upper))
        whole = np.round(answer.x[: program.n][program.integer])
        again = whole.tobytes() in state.seen
        if not again:
            _try(program, whole, master, state)
            master.cut(answer.x[: program.n])
        if state.gap() <= chosen["mip_gap"]:
            return Stopped.OPTIMAL
        if again and not _give_its_value(whole, master, state, 0.1 * chosen["mip_gap"]):
            return Stopped.TIME_LIMIT if state.left() <= 0.0 else Stopped.NUMERICAL
    return Stopped.ITERATION_LIMIT


def _try(program: Program, whole: Array, master: _Master, state: _State) -> None:
    """Solve with these integers fixed, and cut at the answer."""
    point = clarabel.solve(with_integers_fixed(program, whole), _limit(state))
    optimal = point.status.has is Has.OPTIMAL
    usable = optimal or point.status.has is Has.FEASIBLE  # of a cone with a single point left there may be no more
    value = program.sense * program.objective(point.x) if usable else np.inf
    state.seen[whole.tobytes()] = value, optimal or point.status.stopped is Stopped.INFEASIBLE
    if usable:
        master.cut(point.x)
    if value < state.upper:
        state.upper, state.x = value, point.x


def _give_its_value(whole: Array, master: _Master, state: _State, slack: float) -> bool:
    """Let the master know what a choice of integers is worth that it makes again; whether that could be done."""
    value, certain = state.seen[whole.tobytes()]
    if certain and master.exclude(whole):
        state.excluded += 1
        return True
    return master.settle(whole, value, slack * max(state.scale, 1e-9), state)


class _Master:
    """The MILP with its cuts: columns x (n,), one per logarithm, then t (one per block of P)."""

    def __init__(self, program: Program) -> None:
        import scipy.sparse as sp
        from scipy.sparse.csgraph import connected_components

        self.base = program
        self.P = sp.csr_array((program.n,) * 2) if program.P is None else program.P.tocsr() * float(program.sense)
        self.curved = Tangents(program) if program.curved else None
        self.columns = program.n if self.curved is None else self.curved.columns
        self.used = np.flatnonzero(np.diff(self.P.indptr))
        count, block = 0, self.used
        if len(self.used):
            count, block = connected_components(self.P[self.used][:, self.used], directed=False)
        self.blocks, self.block = int(count), block
        self.single = np.bincount(block, minlength=count) == 1
        self.cuts: list[Any] = []
        self.limits: list[Array] = []

    def cut_around(self, x: Array) -> None:
        """Tangents at the relaxed optimum, at zero and, for separable blocks, spread over the range of x."""
        low, high = self.base.lower, self.base.upper
        spread = np.maximum(np.abs(x), 1.0)
        low, high = np.where(np.isfinite(low), low, x - spread), np.where(np.isfinite(high), high, x + spread)
        self.cut(x)
        self.cut(np.clip(0.0 * x, low, high))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            self.cut(low + share * (high - low), self.single)

    def cut(self, x: Array, blocks: Array | None = None) -> None:
        """Tangents t_k - ∇q_k(x̄)ᵀx >= -q_k(x̄) of (some) blocks at x̄."""
        import scipy.sparse as sp

        if self.curved is not None and blocks is None:
            rows, limits = self.curved.at(x)
            self.cuts.append(-sp.hstack([rows, sp.csr_array((len(limits), self.blocks))], format="csr"))
            self.limits.append(-limits)
        if not self.blocks:
            return
        gradient = (self.P @ x)[self.used]
        value = np.bincount(self.block, 0.5 * gradient * x[self.used], self.blocks)
        shape = (self.blocks, self.columns)
        slope = sp.coo_array((-gradient, (self.block, self.used)), shape=shape).tocsr()
        rows = sp.hstack([slope, sp.eye_array(self.blocks)], format="csr")
        keep = slice(None) if blocks is None else np.flatnonzero(blocks)
        # q(x̄) + ∇qᵀ(x - x̄) = ∇qᵀx - q(x̄), since q is purely quadratic.
        self.cuts.append(rows[keep])
        self.limits.append(-value[keep])

    def exclude(self, whole: Array) -> bool:
        """Rule out one choice of integers, whose value is known; whether it could be done: yes-or-no variables only."""
        import scipy.sparse as sp

        columns = np.flatnonzero(self.base.integer)
        low, high = self.base.lower[columns], self.base.upper[columns]
        if not (high - low <= 1.0).all():
            return False
        sign = np.where(whole == low, 1.0, -1.0) * (high > low)  # at least one must move by one
        row = sp.csr_array((sign, (np.zeros(len(columns)), columns)), shape=(1, self.columns + self.blocks))
        self.cuts.append(row)
        self.limits.append(np.array([1.0 + float(sign @ whole)]))
        return True

    def settle(self, whole: Array, value: float, slack: float, state: _State) -> bool:
        """Cut until the master gives these integers at least their value; whether that has come about."""
        for _ in range(_PLANES):
            if state.left() <= 0.0:
                return False
            answer = highs.solve(with_integers_fixed(self.program(), whole), _limit(state))
            if answer.status.stopped is Stopped.INFEASIBLE:
                return True
            if answer.status.has is not Has.OPTIMAL:
                return False
            if answer.objective >= value - slack:
                return True
            self.cut(answer.x[: self.base.n])
        return False

    def program(self) -> Program:
        """The master as a minimisation, without the constant's sign to care about."""
        import scipy.sparse as sp

        base, logs = self.base, self.base.logs
        none = np.full(sum(len(limit) for limit in self.limits), np.inf)
        rest = np.zeros(self.blocks)
        free = np.full(self.columns - base.n, np.inf)
        low, high, worth = base.row_lower, base.row_upper, np.zeros(len(free))
        A = sp.hstack([base.A, sp.csr_array((base.m, len(free) + self.blocks))], format="csr")
        if base.quadratics is not None:  # rows with products are what the cuts stand for
            low, high = low.copy(), high.copy()
            curved = recognise(base).curved
            low[curved], high[curved] = -np.inf, np.inf
        if logs is not None:
            own = np.flatnonzero(logs.row >= 0)
            worth = np.where(logs.row < 0, base.sense * logs.coef, 0.0)
            A = A + sp.csr_array((logs.coef[own], (logs.row[own], base.n + own)), shape=A.shape)
        return Program(
            variables=[*base.variables, *([None] * (len(free) + self.blocks))],
            rows=[],
            A=sp.vstack([A, *self.cuts], format="csr"),
            row_lower=np.concatenate([low, *self.limits]),
            row_upper=np.concatenate([high, none]),
            lower=np.concatenate([base.lower, -free, rest]),
            upper=np.concatenate([base.upper, free, rest + np.inf]),
            integer=np.concatenate([base.integer, free < 0, rest > 0]),
            c=np.concatenate([base.sense * base.c, worth, rest + 1.0]),
            P=None,
            constant=base.sense * base.constant,
        )


def _close(program: Program, state: _State, stopped: Stopped, message: str, start: float) -> Solution:
    has = Has.NOTHING if state.x is None else Has.OPTIMAL if stopped is Stopped.OPTIMAL else Has.FEASIBLE
    solution = Solution(
        status=Status(stopped, has),
        solver=NAME,
        version=version(),
        x=np.zeros(0) if state.x is None else state.x,
        bound=program.sense * state.lower,
        iterations=state.iterations,
        message=f"outer approximation: {message}",
    )
    spent = time.perf_counter() - start
    return judged(program, solution).replace(seconds={"solve": spent, "total": spent})
