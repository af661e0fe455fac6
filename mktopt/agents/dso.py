"""The DSO's level of the two-level auction: power given to aggregators against unit costs received, on any flow.

    max  W(p) = sum_t hours_t ( sum_k Theta_k(p_kt) - c0_t s_t )   over (p, s, grid) in C
    step(a, w):  min  sum_t hours_t ( sum_k (1/2 w_kt p_kt^2 - a_kt p_kt) + c0_t s_t )   over (p, s, grid) in C

The aggregators answer p_k with c_k = Theta_k'(p_k) and, where a method asks, with its slope (`Oracle`); `TwoLevel`
holds them and the step, a quadratic market compiled once (`mktopt.formulations.gne.grid_step`). How good p is, is said
by the **natural residual** with step eta [kW per $/kWh],

    r(p, eta) = max_kt |p - step(c(p) + p/eta, 1/eta)| / eta     [$/kWh],

which is zero at the equilibrium and nowhere else; without losses the step is the projection of p + eta (c - c0 1)
on C. eta is the inverse of the median slope of the demand curves at p, so that r has the size of the unit costs' error:
`TwoLevel.typical_eta`. An aggregator may leave energy unused (sum_i p_i <= p_k, eq. (7)), so that c_k is never negative
at a solution. Iterations therefore move what aggregators use, `used_kw`, in which Theta_k is strictly concave and c_k
its slope of either sign; the step gives p_kw >= used_kw, more only to aggregators whose demand has an end.

Arrays: T periods, K aggregators in the sequence of `prosumers.aggregators`, N agents.
Reference: Das, Faqiry, Zarabie and Wu, Algorithm 2 and eq. (10)-(11), with the import's cost in the objective;
Facchinei and Pang, Finite-Dimensional Variational Inequalities, vol. I, section 1.5 (natural residual).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mktopt.agents.aggregators import Aggregators
from mktopt.clearing.diagnosis import refuse_unsolved
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.gne import grid_step, import_price, used_power
from mktopt.formulations.market import Extra, declaration_of, keep_extra
from mktopt.networks.network import Network
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import Program, Solution
from mktopt.solvers.sessions.sharp import sharp_session

FloatArray = npt.NDArray[np.float64]

# Of the median slope: what a demand curve falls by at least, in the eyes of a step.
_LEAST_SLOPE = 1e-9


class Oracle(Protocol):
    """What the DSO knows of its aggregators: `mktopt.agents.aggregators.Aggregators`, or another with these functions.

    p_kw, c: (..., K); x: (..., N). lowest_kw: the least p_k (K,), where nobody consumes anything.
    """

    lowest_kw: FloatArray

    def unit_costs(self, p_kw: FloatArray, start: FloatArray | None = None) -> FloatArray:
        """c_k(p_k) [$/kWh]; start: a guess."""

    def slopes(self, c: FloatArray) -> FloatArray:
        """c_k'(p_k) <= 0 where the unit costs are c [$/kWh per kW]."""

    def consumption(self, c: FloatArray) -> FloatArray:
        """What each agent consumes at c [kW]."""

    def welfare(self, x: FloatArray) -> FloatArray:
        """Theta_k, the sum of utilities [$/h]."""


@dataclass
class Effort:
    """How often and how long [s] each part was at work; compile: building and compiling the step, once."""

    steps: int = 0
    answers: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"compile": 0.0, "steps": 0.0, "aggregators": 0.0})

    @contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Adds the time of what is done inside to `seconds[part]`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class Point:
    """One allocation and the answer to it: p_kw (T, K), import_kw (T,), used_kw <= p_kw (T, K), unit_costs (T, K)
    [$/kWh] where that is used, welfare [$]."""

    p_kw: FloatArray
    import_kw: FloatArray
    used_kw: FloatArray
    unit_costs: FloatArray
    welfare: float


@dataclass(frozen=True, eq=False)
class Step:
    """The optimum of one step: p_kw (T, K), import_kw (T,), used_kw (T, K), and the solution of the step's program."""

    p_kw: FloatArray
    import_kw: FloatArray
    used_kw: FloatArray
    solution: Solution


class TwoLevel:
    """The auction as the DSO sees it: aggregators that answer, and a grid to step on.

    c0: price of the import [$/kWh], one or one per period; extra: constraints on p_kw, import_kw and grid; aggregators:
    who answers, None for the exact `Aggregators` of `prosumers`; solver, solver_options: of the steps. Raises what
    `mktopt.formulations.gne.grid_step` raises.

    hours, c0: (T,); local: whether the flow is not convex, so that steps and all that stands on them are local.
    """

    def __init__(
        self,
        network: Network,
        prosumers: Prosumers,
        flow: Flow,
        c0: float | Sequence[float] | FloatArray,
        extra: Sequence[Extra] = (),
        aggregators: Oracle | None = None,
        solver: str | None = None,
        solver_options: dict[str, Any] | None = None,
    ) -> None:
        self.effort = Effort()
        self.network, self.prosumers, self.flow = network, prosumers, flow
        self.hours = np.asarray(network.hours, dtype=float)
        self.c0 = import_price(network, prosumers, c0)
        self.aggregators: Oracle = Aggregators(prosumers) if aggregators is None else aggregators
        self.lowest_kw = np.asarray(self.aggregators.lowest_kw, dtype=float)
        with self.effort.spent("compile"):
            self.model = grid_step(network, prosumers, flow, self.c0, extra)
            keep_extra(self.model, extra)
            self.session_options = solver, dict(solver_options or {})
            self.session = sharp_session(self.model, *self.session_options)
        self._place()

    def _place(self) -> None:
        """Where the powers stand in the program."""
        self.local = bool(self.program.not_convex)
        shape = len(self.lowest_kw), len(self.hours)
        self._p = self.program.columns(self.model.p_kw.values()).reshape(shape).T
        self._used = self.program.columns(used_power(self.model)).reshape(shape).T
        self._import = self.program.columns(self.model.import_kw.values())
        self.forget()

    def forget(self) -> None:
        """Drops the last unit costs, from which the aggregators' search starts."""
        self._last: FloatArray | None = None

    @property
    def program(self) -> Program:
        """The step as arrays, whatever the parameters."""
        return self.session.parametric.program

    # -- what the aggregators answer ----------------------------------------------------------------------------

    def unit_costs(self, p_kw: FloatArray) -> FloatArray:
        """c(p) [$/kWh], (T, K), where the aggregators are given p; zero where they leave some of it unused."""
        return np.maximum(self.replies(p_kw), 0.0)

    def replies(self, used_kw: FloatArray) -> FloatArray:
        """c [$/kWh], (T, K), where the aggregators use all of `used_kw`, below zero beyond the end of demand."""
        start = self._last if self._last is not None and self._last.shape == used_kw.shape else None
        with self.effort.spent("aggregators"):
            self.effort.answers += 1
            self._last = self.aggregators.unit_costs(np.maximum(used_kw, self.lowest_kw), start)
        return self._last

    def consumption(self, c: FloatArray) -> FloatArray:
        """What each agent consumes at unit costs c [kW], (T, N)."""
        return self.aggregators.consumption(c)

    def curvature(self, c: FloatArray) -> FloatArray:
        """-c'(p) > 0 at unit costs c [$/kWh per kW], (T, K); what is flat counts as very nearly so."""
        with self.effort.spent("aggregators"):
            w = np.maximum(-self.aggregators.slopes(c), 0.0)
        usual = w[w > 0]
        return np.maximum(w, _LEAST_SLOPE * (float(np.median(usual)) if len(usual) else 1.0))

    def typical_eta(self, c: FloatArray) -> float:
        """The inverse of the median slope of the demand curves [kW per $/kWh]."""
        return 1.0 / float(np.median(self.curvature(c)))

    def answered(self, p_kw: FloatArray, import_kw: FloatArray, used_kw: FloatArray | None = None) -> Point:
        """The point p with the aggregators' answer and the welfare W; used_kw: None is all of it."""
        used = p_kw if used_kw is None else used_kw
        c = self.replies(used)
        with self.effort.spent("aggregators"):
            theta = self.aggregators.welfare(self.consumption(c))
        value = float((self.hours * (theta.sum(axis=-1) - self.c0 * import_kw)).sum())
        return Point(p_kw, import_kw, used, c, value)

    def reached(self, step: Step) -> Point:
        """The point that a step leads to."""
        return self.answered(step.p_kw, step.import_kw, step.used_kw)

    def between(self, point: Point, step: Step, alpha: float) -> Point:
        """The point at share `alpha` of the way from a point to a step."""
        p, s, used = (
            a + alpha * (b - a)
            for a, b in zip(
                (point.p_kw, point.import_kw, point.used_kw), (step.p_kw, step.import_kw, step.used_kw), strict=True
            )
        )
        return self.answered(p, s, used)

    def directional(self, c: FloatArray, d_kw: FloatArray, d_import_kw: FloatArray) -> float:
        """The derivative of W along d_kw, of what is used, and d_import_kw where the unit costs are c [$]."""
        return float((self.hours * ((c * d_kw).sum(axis=-1) - self.c0 * d_import_kw)).sum())

    def inner(self, a: FloatArray, b: FloatArray) -> float:
        """sum_t hours_t sum_k a_kt b_kt: the inner product in which step(., 1/eta) projects."""
        return float((self.hours[:, None] * a * b).sum())

    # -- the grid -----------------------------------------------------------------------------------------------

    def step(self, post: FloatArray, slope: FloatArray | float) -> Step:
        """The optimum of the step with a = post [$/kWh] and w = slope [$/kWh per kW], both (T, K).

        Raises InfeasibleError (with `.report`) where no p is feasible, UnboundedError, SolverError.
        """
        session = self.session
        with self.effort.spent("steps"):
            self.effort.steps += 1
            session.set("post", np.ascontiguousarray(post.T).ravel())
            session.set("slope", np.ascontiguousarray(np.broadcast_to(slope, post.shape).T).ravel())
            solution = session.solve()
        if not solution.status.ok:
            refuse_unsolved(declaration_of(self.model), self.model, session.program, solution)
        p, used = (np.maximum(solution.x[columns], self.lowest_kw) for columns in (self._p, self._used))
        return Step(p, solution.x[self._import], used, solution)

    def projected(self, used_kw: FloatArray, gradient: FloatArray, eta: float) -> Step:
        """The step along `gradient` [$/kWh] of length eta: the point nearest to used_kw + eta (gradient - c0 1)."""
        return self.step(gradient + used_kw / eta, 1.0 / eta)

    def residual(self, point: Point, eta: float) -> tuple[float, Step]:
        """(r(p, eta) [$/kWh], the step that it was measured with)."""
        step = self.projected(point.used_kw, point.unit_costs, eta)
        return float(np.abs(step.used_kw - point.used_kw).max(initial=0.0)) / eta, step

    def confirmed(self, point: Point, eta: float) -> Step:
        """The step from a point near the equilibrium whose multipliers are nearest to the unit costs that it leads to.

        A step with slope w prices k at c_k(p) + w_k (p_k - p+_k), which is c_k(p+) but for terms of second order where
        w_k is the slope of demand; aggregators whose demand is flatter than most take 1/eta, and hardly move.
        """
        w = np.maximum(self.curvature(point.unit_costs), 1.0 / eta)
        return self.step(point.unit_costs + w * point.used_kw, w)

    def start(self) -> Point:
        """A feasible point: that next to what all would take at c0, which is the equilibrium where no limit binds."""
        c = np.repeat(np.maximum(self.c0, 1e-6)[:, None], len(self.lowest_kw), axis=1)
        slope = self.curvature(c)
        return self.reached(self.step(c + slope * self.net_kw(self.consumption(c)), slope))

    def at_rest(self) -> Point:
        """The feasible point next to p = 0, where no aggregator is given anything."""
        zero = np.zeros((len(self.hours), len(self.lowest_kw)))
        return self.reached(self.projected(zero, zero + self.c0[:, None], 1.0))

    def net_kw(self, x_kw: FloatArray) -> FloatArray:
        """sum_i x_i - G_k of consumption (T, N) [kW], (T, K)."""
        sums = [np.bincount(self.prosumers.group, weights=row, minlength=len(self.lowest_kw)) for row in x_kw]
        return np.array(sums) + self.lowest_kw
