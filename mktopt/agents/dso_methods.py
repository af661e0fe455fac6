"""Methods of the DSO for the default problem: welfare net of the import's cost, over the feasible set of any flow.

Each is a generator of iterates on a `TwoLevel`; s(d) stands for the step from p along the unit costs c(p).

- `newton` (default): p+ = p + alpha (step(c + w p, w) - p) with w = -c'(p): every aggregator posts the tangent of its
  demand curve, the DSO clears the quadratic market, and alpha is found by a line search on the concave W. Quadratic
  near the solution (Facchinei and Pang, vol. II, section 7.3: Josephy-Newton), from everywhere by the line search.
- `projection`: spectral projected gradient. d = P(p + eta c) - p with Barzilai and Borwein's eta, and the greatest
  alpha in 1, 1/2, ... with W(p + alpha d) >= least of the last ten W + 1e-4 alpha W'(p; d). Converges for every
  continuously differentiable W on a convex set (Birgin, Martinez and Raydan, SIAM J. Optimization 10 (2000)).
- `fixed_step`: p+ = P(p + eta c), nothing else; converges for eta < 2 / L, L the steepest slope of a demand curve.
- `extragradient`: q = P(p + tau c(p) / m), p+ = P(p + tau c(q) / m) (Korpelevich 1976), tau shortened until
  tau |c(p) - c(q)| <= 0.9 |p - q| in the metric (Khobotov 1987; Marcotte 1991). Needs c to be monotone, not a gradient.
- `accelerated`: Nesterov's momentum with backtracking (Beck and Teboulle, SIAM J. Imaging Sciences 2 (2009)), restarted
  where momentum points backwards (O'Donoghue and Candes, Found. Comput. Math. 15 (2015)).

The metric m of the last two is the slope of each demand curve, and w = m / tau that of every step, so that neither the
sizes of aggregators nor the number of their agents matter. It is taken at the start and after 4, 8, 16, ... steps, a
finite number of times, as if the method began there.

With losses the import's cost s(p) is in the step, not in the gradient: proximal gradients, with the same guarantees.
Where a flow is not convex, a point between two feasible ones need not be; `newton` and `projection` then shorten the
step itself until W rises, and what they find is local. The other two are refused there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from mktopt.agents.dso import Point, Step, TwoLevel
from mktopt.agents.dso_run import Iterate, Outcome, run
from mktopt.errors import FormulationError, SolverError, UnboundedError, unknown_name

FloatArray = npt.NDArray[np.float64]

_TINY = 1e-12
# Of the money that moves: what the optimum of a step may be off by.
_ACCURACY = 1e-10
_HALVINGS = 40
# After how many steps a metric is taken anew.
_RETAKEN = {0, *(2**k for k in range(2, 12))}


def solve_auction(
    problem: TwoLevel,
    method: str = "newton",
    tol: float = 1e-8,
    max_iterations: int | None = None,
    eta: float | None = None,
    start: Point | None = None,
) -> Outcome:
    """Runs one of ITERATIONS on `problem` until the natural residual is at most tol [$/kWh].

    eta: a fixed step [kW per $/kWh], for method 'projection' alone; start: a feasible point, None for
    `problem.start()`. Raises UnknownNameError, FormulationError (a method that the flow or eta does not suit) and what
    steps raise.
    """
    if method not in ITERATIONS:
        raise unknown_name("method of the auction", method, ITERATIONS)
    if eta is not None and method != "projection":
        raise FormulationError(
            f"method '{method}' finds its own steps; eta is for method='projection' (and Algorithm 2 as printed)"
        )
    if problem.local and method in ("extragradient", "accelerated"):
        raise FormulationError(
            f"method '{method}' needs a convex flow and '{problem.flow.name}' is not convex with these options:"
            " use 'newton', 'projection' or 'central', which then find a local optimum"
        )
    function, most = ITERATIONS[method]
    first = problem.start() if start is None else start
    iterates = function(problem, first) if eta is None else fixed_step(problem, first, eta)
    name = method if eta is None else "projection with a fixed step"
    wild = eta is not None
    return run(problem, name, iterates, tol, most if max_iterations is None else max_iterations, wild, advise=wild)


def newton(problem: TwoLevel, point: Point) -> Iterator[Iterate]:
    """Newton's method with a line search; see the module."""
    stiffer = 1.0
    while True:
        yield Iterate(point)
        c, w = point.unit_costs, problem.curvature(point.unit_costs) * stiffer
        step = problem.step(c + w * point.used_kw, w)
        if not problem.local:
            new = _along(problem, point, step) or _closer(problem, point, step)
        else:
            new, stiffer = _stiffened(problem, point, step, stiffer)
        if new is None or np.abs(new.used_kw - point.used_kw).max() <= _TINY * np.abs(point.used_kw).max():
            yield Iterate(point, last="no step raises welfare any more: the accuracy of the numbers is reached")
            return
        point = new


def projection(problem: TwoLevel, point: Point) -> Iterator[Iterate]:
    """Spectral projected gradient; see the module."""
    eta = problem.typical_eta(point.unit_costs)
    recent = [point.welfare]
    while True:
        if problem.local:
            step, new, eta = _shortened(problem, point, eta)
        else:
            step = problem.projected(point.used_kw, point.unit_costs, eta)
            new = _backtracked(problem, point, step, min(recent))
        residual = float(np.abs(step.used_kw - point.used_kw).max(initial=0.0)) / eta
        yield Iterate(point, residual, eta, "" if new else "no step raises welfare any more")
        if new is None:
            return
        eta = _spectral(problem, point, new, eta)
        point = new
        recent = [*recent[-9:], point.welfare]


def fixed_step(problem: TwoLevel, point: Point, eta: float) -> Iterator[Iterate]:
    """Projected gradient with the same step always, which may be too long."""
    while True:
        try:
            step = problem.projected(point.used_kw, point.unit_costs, eta)
        except (UnboundedError, SolverError) as error:
            yield Iterate(point, last=too_long(eta, error))
            return
        residual = float(np.abs(step.used_kw - point.used_kw).max(initial=0.0)) / eta
        yield Iterate(point, residual, eta)
        point = problem.reached(step)


def too_long(eta: float, error: Exception) -> str:
    """What is said where the solver has no answer to a step of length eta."""
    return (
        f"the solver has no answer to a step of eta = {eta:g} kW per $/kWh ({type(error).__name__}): take a shorter"
        " one, or leave eta out"
    )


def extragradient(problem: TwoLevel, point: Point) -> Iterator[Iterate]:
    """Korpelevich's method with Marcotte's step; see the module."""
    for turn in itertools.count():
        if turn in _RETAKEN:
            metric, tau = problem.curvature(point.unit_costs), 1.0
        yield Iterate(point)
        for _ in range(_HALVINGS):
            ahead = _scaled(problem, point, point.unit_costs, metric, tau)
            moved = ahead.used_kw - point.used_kw
            c = problem.replies(ahead.used_kw)
            fell = c - point.unit_costs
            size = problem.inner(moved, metric * moved)
            ratio = tau * float(np.sqrt(problem.inner(fell, fell / metric) / size)) if size > 0.0 else 0.0
            if ratio <= 0.9:
                break
            tau *= max(0.7 / ratio, 0.1)
        step = _scaled(problem, point, c, metric, tau)
        point = problem.reached(step)
        if ratio <= 0.5:
            tau *= 1.5


def accelerated(problem: TwoLevel, point: Point) -> Iterator[Iterate]:
    """Nesterov's momentum with backtracking and restarts; see the module."""
    yield Iterate(point)
    for turn in itertools.count():
        if turn in _RETAKEN:
            metric, tau, weight = problem.curvature(point.unit_costs), 1.0, 1.0
            ahead = point  # where the gradient is taken
        step, tau = _proximal(problem, ahead, metric, tau)
        new = problem.reached(step)
        backwards = problem.inner(ahead.used_kw - new.used_kw, metric * (new.used_kw - point.used_kw)) > 0
        following = 0.5 * (1.0 + float(np.sqrt(1.0 + 4.0 * weight**2)))
        p = new.used_kw + (weight - 1.0) / following * (new.used_kw - point.used_kw)
        if backwards or (p < problem.lowest_kw).any():
            ahead, weight, tau = new, 1.0, 1.5 * tau
        else:
            ahead, weight = Point(p, new.import_kw, p, problem.replies(p), np.nan), following
        point = new
        yield Iterate(point)


Method = Callable[[TwoLevel, Point], Iterator[Iterate]]
# Each with the number of iterations that it is allowed.
ITERATIONS: dict[str, tuple[Method, int]] = {
    "newton": (newton, 100),
    "projection": (projection, 2000),
    "extragradient": (extragradient, 5000),
    "accelerated": (accelerated, 5000),
}


# -- steps ------------------------------------------------------------------------------------------------------------


def _along(problem: TwoLevel, point: Point, step: Step) -> Point | None:
    """The point on the way to `step` at which the concave W is near its greatest, None where there is no rise.

    With the slope f(alpha) of W along the way, which falls, taken is the first alpha in 1, 1/2, ... with
    f(alpha) >= 0, or with f(alpha) >= -f(0)/2 and f(alpha/2) + f(alpha) >= 0: W has risen by no less than alpha/2 times
    that sum. Slopes alone are used: near the solution they keep the digits that differences of W lose. Where all that
    there is to gain is less than a step's own accuracy the whole step is taken, for the residual to judge.
    """
    d, d_import = step.used_kw - point.used_kw, step.import_kw - point.import_kw
    rise = problem.directional(point.unit_costs, d, d_import)
    noise = 1e-15 * abs(problem.directional(point.unit_costs, np.abs(d), -np.abs(d_import)))
    turnover = problem.directional(point.unit_costs, np.abs(point.used_kw), -np.abs(point.import_kw))

    def slope_at(new: Point) -> float:
        return problem.directional(new.unit_costs, d, d_import)

    if abs(rise) <= _ACCURACY * turnover:
        return problem.reached(step)
    if rise <= -noise:
        return None
    alpha = 1.0
    for _ in range(_HALVINGS):
        new = problem.between(point, step, alpha)
        slope = slope_at(new)
        if slope >= -noise:
            return new
        if slope >= -0.5 * rise and slope_at(problem.between(point, step, 0.5 * alpha)) + slope >= -noise:
            return new
        alpha *= 0.5
    return None


def _closer(problem: TwoLevel, point: Point, step: Step) -> Point | None:
    """The point of the whole step where that has a smaller residual, though rounding hides that welfare rises."""
    new, eta = problem.reached(step), problem.typical_eta(point.unit_costs)
    return new if problem.residual(new, eta)[0] < 0.9 * problem.residual(point, eta)[0] else None


def _stiffened(problem: TwoLevel, point: Point, step: Step, stiffer: float) -> tuple[Point | None, float]:
    """A step that raises W on a grid that is not convex: demand curves are posted steeper until one does."""
    c = point.unit_costs
    for _ in range(_HALVINGS):
        new = problem.reached(step)
        if new.welfare >= point.welfare - 1e-12 * abs(point.welfare):
            return new, max(1.0, stiffer / 4.0)
        stiffer *= 4.0
        w = problem.curvature(c) * stiffer
        step = problem.step(c + w * point.used_kw, w)
    return None, stiffer


def _backtracked(problem: TwoLevel, point: Point, step: Step, least: float) -> Point | None:
    """The first of alpha = 1, 1/2, ... at which W rises enough above the least of the last ones."""
    d, d_import = step.used_kw - point.used_kw, step.import_kw - point.import_kw
    rise = problem.directional(point.unit_costs, d, d_import)
    noise = 1e-13 * max(abs(point.welfare), abs(least))
    alpha = 1.0
    for _ in range(_HALVINGS):
        new = problem.between(point, step, alpha)
        if new.welfare >= least + 1e-4 * alpha * rise - noise:
            return new
        alpha *= 0.5
    return None


def _shortened(problem: TwoLevel, point: Point, eta: float) -> tuple[Step, Point | None, float]:
    """The projection with the first of eta, eta/2, ... after which W has risen."""
    for _ in range(_HALVINGS):
        step = problem.projected(point.used_kw, point.unit_costs, eta)
        new = problem.reached(step)
        if new.welfare >= point.welfare - 1e-12 * abs(point.welfare):
            return step, new, eta
        eta *= 0.5
    return step, None, eta


def _spectral(problem: TwoLevel, point: Point, new: Point, eta: float) -> float:
    """Barzilai and Borwein's step: the inverse of the slope seen on the last way, within sensible limits."""
    moved, fell = new.used_kw - point.used_kw, point.unit_costs - new.unit_costs
    usual = problem.typical_eta(new.unit_costs)
    curvature = problem.inner(moved, fell)
    if curvature <= 0.0:
        return eta
    return float(np.clip(problem.inner(moved, moved) / curvature, 1e-4 * usual, 1e4 * usual))


def _proximal(problem: TwoLevel, ahead: Point, metric: FloatArray, tau: float) -> tuple[Step, float]:
    """(step, tau): tau is shortened until demand is no steeper than metric / tau on the way."""
    for _ in range(_HALVINGS):
        step = _scaled(problem, ahead, ahead.unit_costs, metric, tau)
        moved = step.used_kw - ahead.used_kw
        seen = problem.inner(moved, ahead.unit_costs - problem.replies(step.used_kw))
        if seen <= problem.inner(moved, metric * moved) / tau * (1.0 + 1e-9) + _TINY:
            break
        tau *= 0.5
    return step, tau


def _scaled(problem: TwoLevel, point: Point, gradient: FloatArray, metric: FloatArray, tau: float) -> Step:
    """The step from a point along `gradient` in a metric [$/kWh per kW]: each p_k moves by tau / metric_k at most."""
    slope = metric / tau
    return problem.step(gradient + slope * point.used_kw, slope)
