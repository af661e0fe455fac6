"""Aggregators of price-anticipating agents, as the DSO meets them: power in, unit costs out.

The trading post of `mktopt.agents.anticipation` answers p_k with a c_k that is no derivative of welfare: buyers want
less and sellers give less than at the same price taken as given. So no welfare guides the DSO, only the residual:

    p+ = step(c + w p, w),    w = the slopes of price takers' demand, made steeper where the residual would grow,

Josephy's step with slopes that are nearly right. c_k(p_k) falls in p_k in every auction that we drew; nothing proves
that it must. Where p_k leaves too few to trade with, agents have no equilibrium; the search starts and stays where they
have one, and says which aggregator has none where it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mktopt.agents.aggregators import Aggregators
from mktopt.agents.anticipation import TradeVerdict, anticipating_unit_costs
from mktopt.agents.dso import Point, TwoLevel
from mktopt.agents.dso_run import Iterate
from mktopt.errors import SolverError
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

_TRIALS = 40
# Answers whose consumption may still be asked for: those of the last trials.
_REMEMBERED = 100
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)


class NoEquilibriumError(SolverError):
    """The agents of an aggregator have no equilibrium with trade at some p_k."""


def first_point(problem: TwoLevel, agents: Anticipating) -> Point:
    """A feasible point at which all agents have an equilibrium: what price takers would have, or on the way from there
    to no exchange with the grid. Raises NoEquilibriumError where there is none on that way."""
    c = np.repeat(np.maximum(problem.c0, 1e-6)[:, None], len(problem.lowest_kw), axis=1)
    slope = problem.curvature(c)
    wanted = agents.taking.net_kw(c)
    for share in _SHARES:
        step = problem.step(problem.c0[:, None] + slope * share * wanted, slope)
        try:
            return problem.reached(step)
        except NoEquilibriumError as error:
            last = error
    raise last


def by_residual(problem: TwoLevel, point: Point) -> Iterator[Iterate]:
    """Steps along posted demand curves, held to a falling residual; see the module."""
    eta, stiffer, trouble = problem.typical_eta(point.unit_costs), 1.0, ""
    residual, _ = problem.residual(point, eta)
    while True:
        yield Iterate(point, residual, eta)
        for _ in range(_TRIALS):
            w = problem.curvature(point.unit_costs) * stiffer
            step = problem.step(point.unit_costs + w * point.used_kw, w)
            try:
                new = problem.reached(step)
                after, _ = problem.residual(new, eta)
            except NoEquilibriumError as error:
                trouble, after = str(error), np.inf
            if after < residual:
                break
            stiffer *= 2.0
        else:
            yield Iterate(point, residual, eta, last=trouble or "no step makes the residual fall any more")
            return
        point, residual, stiffer = new, after, max(1.0, 0.5 * stiffer)


class Anticipating:
    """An `mktopt.agents.dso.Oracle` of agents that know that their bids move the price.

    Raises NoEquilibriumError, naming the aggregator, its p_k and the reason, where its agents have none with trade.
    """

    def __init__(self, prosumers: Prosumers) -> None:
        self.taking = Aggregators(prosumers)
        self.lowest_kw: FloatArray = self.taking.lowest_kw
        self._answers: dict[bytes, FloatArray] = {}  # consumption by the unit costs that it came with

    def unit_costs(self, p_kw: FloatArray, start: FloatArray | None = None) -> FloatArray:
        """c_k at net requirements p_k [$/kWh], (T, K)."""
        found = anticipating_unit_costs(self.taking, p_kw)
        without = np.argwhere(found.verdicts != TradeVerdict.EQUILIBRIUM)
        for at in map(tuple, without[:1]):
            raise NoEquilibriumError(
                f"aggregator '{self.taking.names[at[-1]]}' at p = {found.p_kw[at]:.6g} kW: {found.verdicts[at].value};"
                " give it more agents of that kind, or clear with anticipating=False"
            )
        while len(self._answers) >= _REMEMBERED:
            self._answers.pop(next(iter(self._answers)))
        self._answers[found.unit_costs.tobytes()] = found.net_kw + self.taking.prosumers.generation_kw
        return found.unit_costs

    def consumption(self, c: FloatArray) -> FloatArray:
        """What each agent consumed when these unit costs were answered [kW], (T, N); raises KeyError for others, which
        say nothing of p_k."""
        return self._answers[np.asarray(c).tobytes()]

    def slopes(self, c: FloatArray) -> FloatArray:
        """Slopes of price takers' demand at c, which have the size of these agents' too [$/kWh per kW]."""
        return self.taking.slopes(c)

    def welfare(self, x: FloatArray) -> FloatArray:
        """The sum of utilities of each aggregator [$/h]."""
        return self.taking.welfare(x)
