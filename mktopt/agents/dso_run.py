"""A method of the auction run to its end: every iterate judged by one residual, traced, and named for what it does.

A method is a generator of `Iterate`s (`mktopt.agents.dso_methods`, `mktopt.agents.algorithm2`). The verdicts:

    converged    the natural residual is at most tol
    cycles       the iterates come back after n of them, with a residual above tol
    hovers       the residual neither falls nor grows any more
    diverges     the residual or the allocation grows beyond every bound
    no equilibrium   it does not converge, and a search found nothing to converge to (Algorithm 2 as printed)
    stopped      the iterations are used up, or the accuracy of the numbers is, with a residual above tol
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.dso import Point, Step, TwoLevel

FloatArray = npt.NDArray[np.float64]

CONVERGED, CYCLES, HOVERS, DIVERGES, STOPPED = "converged", "cycles", "hovers", "diverges", "stopped"
NO_EQUILIBRIUM = "no equilibrium"
# The longest cycle looked for, how many times it must be seen, and how alike points are, of the way between them.
LONGEST, TURNS, ALIKE = 16, 3, 1e-6
# Over how many iterates a residual that does not fall to this share counts as one that does not fall any more.
PATIENCE, FALLS = 60, 0.9
GROWTH = 1e6
# A rise of welfare that counts as one, of its size.
GAINED = 1e-12


@dataclass(frozen=True, eq=False)
class Iterate:
    """A point and, where the method knows it, its residual [$/kWh] with the eta [kW per $/kWh] that it belongs to.

    eta: also the step that led on from here. last: the method itself says that it cannot go on, and why.
    """

    point: Point
    residual: float | None = None
    eta: float | None = None
    last: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method found, and how.

    p_kw, unit_costs, used_kw: (T, K), used_kw < p_kw only where c = 0; import_kw: (T,); consumption_kw: (T, N);
    welfare [$]; residual [$/kWh] with its eta [kW per $/kWh]; verdict: see the module; message: what it means and
    what to do; period: of a cycle, else 0; local: whether the flow is not convex, so that another equilibrium may
    exist. trace: iteration, welfare, residual, eta, import_kw (mean over the periods), min_cost, max_cost; p_path,
    c_path: (iterations + 1, T, K). seconds: compile (once per `TwoLevel`), steps, aggregators, total; steps,
    answers: how often the grid and the aggregators were asked. step: the last step from the point found,
    `TwoLevel.confirmed`, whose `solution` has the multipliers of the rows of `TwoLevel.program`.
    """

    method: str
    p_kw: FloatArray
    unit_costs: FloatArray
    import_kw: FloatArray
    used_kw: FloatArray
    consumption_kw: FloatArray
    welfare: float
    residual: float
    eta: float
    iterations: int
    verdict: str
    message: str
    local: bool
    trace: pd.DataFrame = field(repr=False)
    p_path: FloatArray = field(repr=False)
    c_path: FloatArray = field(repr=False)
    seconds: dict[str, float] = field(repr=False)
    steps: int
    answers: int
    step: Step = field(repr=False)
    period: int = 0

    @property
    def converged(self) -> bool:
        """Whether it is an equilibrium within tol."""
        return self.verdict == CONVERGED


def run(
    problem: TwoLevel,
    method: str,
    iterates: Iterator[Iterate],
    tol: float,
    max_iterations: int,
    wild: bool = False,
    advise: bool = False,
) -> Outcome:
    """Draws `iterates` until their residual is at most tol [$/kWh] or a verdict stands, and tells the story.

    wild: nothing guarantees that they converge, so that cycles, hovering and divergence are looked for; advise: with
    the step that would do. A method with a guarantee ends as 'stopped' where nothing is gained any more.
    """
    began, before = time.perf_counter(), dict(problem.effort.seconds)
    counts = problem.effort.steps, problem.effort.answers
    story = Story(tol, wild, (lambda p: problem.curvature(problem.replies(p))) if advise else None)
    for number, iterate in enumerate(iterates):
        known = iterate.residual is not None and iterate.eta is not None and iterate.residual > tol
        residual, eta = _residual_of(problem, iterate, known)
        story.add(iterate.point, residual, eta)
        if story.verdict or iterate.last or number >= max_iterations:
            break
    point = story.points[-1]
    if not story.verdict:
        story.close(iterate.last)
    if known:
        residual, eta = _residual_of(problem, iterate, False)
    step = problem.confirmed(point, eta)
    seconds = {part: spent - before[part] for part, spent in problem.effort.seconds.items()}
    seconds["compile"] = problem.effort.seconds["compile"]
    seconds["total"] = time.perf_counter() - began
    return Outcome(
        method=method, p_kw=point.p_kw, unit_costs=np.maximum(point.unit_costs, 0.0), import_kw=point.import_kw,
        used_kw=point.used_kw,
        consumption_kw=problem.consumption(point.unit_costs), welfare=point.welfare, residual=residual, eta=eta,
        iterations=len(story.points) - 1, verdict=story.verdict, message=story.message, local=problem.local,
        trace=story.trace(), p_path=np.array([p.p_kw for p in story.points]),
        c_path=np.array([np.maximum(p.unit_costs, 0.0) for p in story.points]), seconds=seconds,
        steps=problem.effort.steps - counts[0], answers=problem.effort.answers - counts[1], step=step,
        period=story.period,
    )  # fmt: skip


def _residual_of(problem: TwoLevel, iterate: Iterate, known: bool) -> tuple[float, float]:
    """(natural residual [$/kWh], its eta [kW per $/kWh]) of an iterate: as the method knows it, or measured."""
    if known and iterate.residual is not None and iterate.eta is not None:
        return iterate.residual, iterate.eta
    eta = problem.typical_eta(iterate.point.unit_costs)
    return problem.residual(iterate.point, eta)[0], eta


class Story:
    """The iterates so far, and the verdict as soon as there is one; slopes: of the demand curves at a given p,
    where advice about steps is wanted."""

    def __init__(
        self, tol: float, wild: bool = False, slopes: Callable[[FloatArray], FloatArray] | None = None
    ) -> None:
        self.tol, self._wild, self._slopes = tol, wild, slopes
        self.points: list[Point] = []
        self.residuals: list[float] = []
        self.etas: list[float] = []
        self.verdict, self.message, self.period = "", "", 0

    def add(self, point: Point, residual: float, eta: float) -> None:
        """Notes an iterate; `verdict` is set where it settles the matter."""
        self.points.append(point)
        self.residuals.append(residual)
        self.etas.append(eta)
        if residual <= self.tol:
            self.verdict = CONVERGED
            self.message = f"natural residual {residual:.1e} $/kWh (eta {eta:.4g} kW per $/kWh), asked {self.tol:.1e}"
        elif not np.isfinite(residual) or self._grows():
            self.verdict = DIVERGES
            self.message = f"the residual has grown to {residual:.3g} $/kWh{self._advice()}"
        elif not self._wild:
            self._stall()
        elif self._cycle():
            self.verdict = CYCLES
            self.message = (
                f"the iterates come back after {self.period}, with a residual of {self._spread()}{self._advice()}"
            )
        elif self._still():
            self.verdict = HOVERS
            self.message = f"the residual does not fall below {self._spread()} any more{self._advice()}"

    def close(self, reason: str) -> None:
        """The verdict where iterations, or the method, end without one."""
        self.verdict = STOPPED
        said = reason or f"{len(self.points) - 1} iterations are used up; allow more (max_iterations)"
        self.message = f"{said}; the residual is {self.residuals[-1]:.3g} $/kWh, asked {self.tol:.1e}"

    def trace(self) -> pd.DataFrame:
        """One row per iterate: iteration, welfare, residual, eta, import_kw, min_cost, max_cost."""
        return pd.DataFrame({
            "iteration": np.arange(len(self.points)),
            "welfare": [point.welfare for point in self.points],
            "residual": self.residuals,
            "eta": self.etas,
            "import_kw": [float(point.import_kw.mean()) for point in self.points],
            "min_cost": [float(point.unit_costs.min()) for point in self.points],
            "max_cost": [float(point.unit_costs.max()) for point in self.points],
        })  # fmt: skip

    def _grows(self) -> bool:
        first = max(self.residuals[0], self.tol)
        sizes = [float(np.abs(self.points[k].used_kw).max(initial=1.0)) for k in (0, -1)]
        return self.residuals[-1] > GROWTH * first or sizes[1] > GROWTH * max(sizes[0], 1.0)

    def _cycle(self) -> bool:
        """Whether the last iterates repeat; points nearer to each other than the way between them are the same."""
        for period in range(2, LONGEST + 1):
            if len(self.points) <= TURNS * period:
                return False
            window = [point.used_kw for point in self.points[-TURNS * period - 1 :]]
            way = max(float(np.abs(a - b).max(initial=0.0)) for a, b in itertools.pairwise(window))
            again = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(window, window[period:], strict=False))
            if way > 0.0 and again <= ALIKE * way:
                self.period = period
                return True
        return False

    def _still(self) -> bool:
        """Whether the residual of the last iterates is no less than that of those before."""
        if len(self.residuals) <= 2 * PATIENCE:
            return False
        recent, earlier = self.residuals[-PATIENCE:], self.residuals[:-PATIENCE]
        return min(recent) > FALLS * min(earlier)

    def _stall(self) -> None:
        """Ends a method with a guarantee where neither the residual falls nor welfare rises any more."""
        if not self._still():
            return
        welfare = np.array([point.welfare for point in self.points])
        if welfare[-PATIENCE:].max() <= welfare[:-PATIENCE].max() + GAINED * np.abs(welfare).max():
            self.close("nothing is gained any more, the accuracy of the numbers is reached")

    def _spread(self) -> str:
        low, high = min(self.residuals[-PATIENCE:]), max(self.residuals[-PATIENCE:])
        return f"{low:.3g} $/kWh" if high <= 1.001 * low else f"{low:.3g} to {high:.3g} $/kWh"

    def _advice(self) -> str:
        """What step would do: less than 2/L, L measured amid the last points and on the way between them."""
        if self._slopes is None:
            return ""
        recent = self.points[-LONGEST:]
        steepest = float(self._slopes(np.mean([point.used_kw for point in recent], axis=0)).max())
        for one, other in itertools.pairwise(recent):
            moved = float(np.sqrt(((one.used_kw - other.used_kw) ** 2).sum()))
            if moved > 1e-9:
                steepest = max(steepest, float(np.sqrt(((one.unit_costs - other.unit_costs) ** 2).sum())) / moved)
        return (
            f"; unit costs fall by up to {steepest:.3g} $/kWh per kW where it ended, so that a step needs"
            f" eta < {2.0 / steepest:.4g} kW per $/kWh; or leave eta out, for a step that finds itself"
        )
