"""Convex MIQP by outer approximation: an MILP with tangent cuts and QPs with the integers fixed.

    min  cᵀx + Σ_k q_k(x)       the program: q_k convex, one per connected block of P
    min  cᵀx + Σ_k t_k          the master:  t_k >= q_k(x̄) + ∇q_k(x̄)ᵀ(x - x̄)  at every point x̄ seen so far

(a block is one variable where P is diagonal). The master bounds the optimum from below; the QP with the
master's integers fixed bounds it from above and gives the next point. Both bounds meet after finitely many
steps, because a choice of integers that comes back has been solved exactly.

Duran and Grossmann, "An outer-approximation algorithm for a class of mixed-integer nonlinear programs",
Mathematical Programming 36 (1986), section 4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name
from mktopt.solvers import clarabel, highs
from mktopt.solvers.fixed import with_integers_fixed
from mktopt.solvers.program import Array, Program
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

NAME = "outer_approximation"
OPTIONS: dict[str, float] = {"mip_gap": 1e-6, "max_iterations": 200, "time_limit": np.inf}


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

    def gap(self) -> float:
        if not np.isfinite(self.upper):
            return float("inf")
        return (self.upper - self.lower) / max(abs(self.upper), self.scale, 1e-9)

    def left(self) -> float:
        return self.deadline - time.perf_counter()


def solve(program: Program, options: Mapping[str, Any] | None = None) -> Solution:
    """Solve a convex MIQP; options: `mip_gap` (relative, 1e-6), `max_iterations` (200), `time_limit` (s)."""
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
    seen: dict[bytes, float] = {}
    while state.iterations < chosen["max_iterations"]:
        if state.left() <= 0.0:
            return Stopped.TIME_LIMIT
        state.iterations += 1
        answer = highs.solve(master.program(), _limit(state) | {"mip_rel_gap": 0.1 * chosen["mip_gap"]})
        if answer.status.stopped is not Stopped.OPTIMAL:
            return answer.status.stopped
        state.lower = max(state.lower, float(answer.bound if np.isfinite(answer.bound) else answer.objective))
        whole = np.round(answer.x[: program.n][program.integer])
        key = whole.tobytes()
        point = clarabel.solve(with_integers_fixed(program, whole), _limit(state))
        if point.status.has is Has.OPTIMAL:
            value = program.sense * program.objective(point.x)
            if value < state.upper:
                state.upper, state.x = value, point.x
            master.cut(point.x)
        master.cut(answer.x[: program.n])
        if state.gap() <= chosen["mip_gap"]:
            return Stopped.OPTIMAL
        if point.status.stopped is Stopped.TIME_LIMIT:
            return Stopped.TIME_LIMIT
        if seen.get(key, -np.inf) >= state.lower:  # its exact cuts are in the master, and yet nothing has moved
            return Stopped.NUMERICAL
        seen[key] = state.lower
    return Stopped.ITERATION_LIMIT


class _Master:
    """The MILP with its cuts: columns x (n,) then t (one per block of P)."""

    def __init__(self, program: Program) -> None:
        from scipy.sparse.csgraph import connected_components

        self.base = program
        self.P = program.P.tocsr() * float(program.sense)
        self.used = np.flatnonzero(np.diff(self.P.indptr))
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

        gradient = (self.P @ x)[self.used]
        value = np.bincount(self.block, 0.5 * gradient * x[self.used], self.blocks)
        shape = (self.blocks, self.base.n)
        slope = sp.coo_array((-gradient, (self.block, self.used)), shape=shape).tocsr()
        rows = sp.hstack([slope, sp.eye_array(self.blocks)], format="csr")
        keep = slice(None) if blocks is None else np.flatnonzero(blocks)
        # q(x̄) + ∇qᵀ(x - x̄) = ∇qᵀx - q(x̄), since q is purely quadratic.
        self.cuts.append(rows[keep])
        self.limits.append(-value[keep])

    def program(self) -> Program:
        """The master as a minimisation, without the constant's sign to care about."""
        import scipy.sparse as sp

        base, none = self.base, np.full(sum(len(limit) for limit in self.limits), np.inf)
        empty = sp.csr_array((base.m, self.blocks))
        rest = np.zeros(self.blocks)
        return Program(
            variables=[*base.variables, *([None] * self.blocks)],
            rows=[],
            A=sp.vstack([sp.hstack([base.A, empty], format="csr"), *self.cuts], format="csr"),
            row_lower=np.concatenate([base.row_lower, *self.limits]),
            row_upper=np.concatenate([base.row_upper, none]),
            lower=np.concatenate([base.lower, rest]),
            upper=np.concatenate([base.upper, rest + np.inf]),
            integer=np.concatenate([base.integer, rest > 0]),
            c=np.concatenate([base.sense * base.c, rest + 1.0]),
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
