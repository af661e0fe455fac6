"""What the tables of an auction's clearing say, as arrays, and how far the p in them is from a projection.

    r(p, eta) = max_kt |p - P(p + eta (c - c0 1))| / eta     [$/kWh]

P is one solve of `grid_step`, the quadratic market on the grid of the auction. Every figure here is read from the
tables; nothing is taken from the method that found them.
References: as `mktopt.clearing.equilibrium_certificate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr.visitor import identify_variables

from mktopt.clearing.equilibrium import prosumers_of
from mktopt.clearing.equilibrium_tables import deviation_gain
from mktopt.clearing.optimality import max_of
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError
from mktopt.formulations.gne import grid_step, used_power
from mktopt.formulations.market import declaration_of
from mktopt.solvers.sessions.sharp import sharp_session

# How near to a limit [share of size] p_k is that stands there, as at -G_k where nobody consumes anything; beyond it the
# limit explains nothing, and what it explains within it is in the gap.
THERE = 1e-6
# What counts where hardly anything is traded [kW]; less is rounding.
WATT = 1e-3


class Figures:
    """What the tables of a clearing say, as arrays: T periods, K aggregators, N agents."""

    def __init__(self, clearing: Clearing, c0: Sequence[float]) -> None:
        self.prosumers, self.c0 = prosumers_of(clearing), np.array(c0)
        self.model = clearing.evidence.model
        agents, aggregators = clearing.agents, clearing.aggregators
        assert agents is not None
        assert aggregators is not None
        periods, self.hours = len(clearing.network.hours), clearing.network.hours
        count = len(self.prosumers)
        self.p_kw = aggregators["p_kw"].to_numpy().reshape(-1, periods).T
        self.cost = aggregators["unit_cost"].to_numpy().reshape(-1, periods).T
        self.x = agents["consumption_kw"].to_numpy().reshape(-1, periods).T
        rows = clearing.dispatch.iloc[count * periods :]
        self.import_kw = np.where(rows["side"] == "offer", 1.0, -1.0) * rows["quantity_kw"].to_numpy()
        self.faced = clearing.order_prices["order_price"].to_numpy()[: count * periods].reshape(-1, periods).T
        self.gain = self.hours[:, None] * deviation_gain(self.prosumers, self.x, self.faced)
        self.kept = float(clearing.dispatch["payment"].sum())

    def _by_aggregator(self, values: FloatArray) -> FloatArray:
        """Sums over the agents of each aggregator: (T, N) to (T, K)."""
        at = self.prosumers.group
        return np.array([np.bincount(at, row, self.p_kw.shape[1]) for row in values])

    @property
    def used_kw(self) -> FloatArray:
        """What the agents of each aggregator take, which may be less than what it is given, (T, K)."""
        return np.minimum(self._by_aggregator(self.x - self.prosumers.generation_kw), self.p_kw)

    @property
    def typical_eta(self) -> float:
        """The inverse of the median slope of the aggregators' demand curves [kW per $/kWh]."""
        with np.errstate(divide="ignore"):
            each = np.where(self.x > 0, -1.0 / self.prosumers.curvature(self.x), 0.0)  # dx/dc of those who consume
        width = self._by_aggregator(each)
        usable = width[np.isfinite(width) & (width > 0)]
        return float(np.median(usable)) if len(usable) else 1.0

    @property
    def at_limits(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where p_k is at its lower and its upper limit, or held there, so that its unit cost may lie below and above
        the price of its bus, (T, K) each."""
        ends = [(v.value, v.value) if v.fixed else (v.lb, v.ub) for v in self.model.p_kw.values()]
        low, high = np.array(ends, dtype=float).reshape(*self.p_kw.T.shape, 2).T  # None becomes NaN
        with np.errstate(invalid="ignore"):
            return self.p_kw - low <= THERE * np.fmax(1.0, -low), high - self.p_kw <= THERE * np.fmax(1.0, high)

    @property
    def imbalance(self) -> float:
        """What an aggregator's agents take beyond its p_k, relative to what they consume (eq. 5, 7)."""
        generation = self.prosumers.generation_kw
        size = self._by_aggregator(self.x + generation)
        beyond = np.maximum(self._by_aggregator(self.x - generation) - self.p_kw, 0.0)
        return float(max_of(beyond / np.maximum(size, max(1e-3 * size.max(), WATT)), np.maximum(-self.x, 0.0)))


def natural_residual(clearing: Clearing, eta: float | None = None) -> tuple[float, float]:
    """(||p - P(p + eta (c - c0 1))||_inf / eta [$/kWh], eta [kW per $/kWh]) at the tables' p and c.

    P is one solve of `grid_step` with slope 1/eta and post c + p/eta; with losses its objective holds the import's
    cost too, so that a residual of nil is an equilibrium whatever eta > 0. eta: None for the inverse of the median
    slope of the demand curves, whatever step the method took: the residual of any p falls to nil as eta grows.
    Raises MktoptError where the step has no answer.
    """
    tables = Figures(clearing, declaration_of(clearing.evidence.model).options["c0"])
    step = tables.typical_eta if eta is None else eta
    return residual_at(tables, _step(clearing), step), step


def _step(clearing: Clearing) -> Any:
    """`grid_step` of the clearing, a ConcreteModel."""
    declaration, people = declaration_of(clearing.evidence.model), prosumers_of(clearing)
    return grid_step(declaration.network, people, declaration.flow, declaration.options["c0"], declaration.extra)


def residual_at(tables: Figures, model: Any, eta: float) -> float:
    """The natural residual [$/kWh], by one solve of the step `model`."""
    session = sharp_session(model)
    session.set("slope", 1.0 / eta)
    session.set("post", (tables.cost + tables.used_kw / eta).T.ravel())
    solution = session.solve()
    if not solution.status.ok:
        raise MktoptError(f"the projection that the certificate asks for has no answer ({solution.status})")
    columns = session.parametric.program.columns(used_power(model))
    p = solution.x[columns].reshape(-1, len(tables.hours)).T
    return float(np.abs(p - tables.used_kw).max(initial=0.0)) / eta


def projection(clearing: Clearing, evidence: Evidence) -> Any | None:
    """`grid_step` of the clearing, None where the declared model has rows of the user's own that it has not: on single
    agents, or of a later hand."""
    single = {id(variable) for variable in evidence.model.consumption_kw.values()}
    if any(id(v) in single for row in evidence.own for v in identify_variables(row.body)):
        return None
    step = _step(clearing)
    rows = {row.name for row in step.component_data_objects(pyo.Constraint, active=True)}
    known = rows.issuperset(row.name for row in evidence.own) and _limits(evidence.model) == _limits(step)
    return step if known and not any(v.fixed for v in evidence.model.consumption_kw.values()) else None


def _limits(model: Any) -> list[tuple[Any, ...]]:
    """What bounds or holds the variables that the declared model and the step have in common, in their sequence."""
    variables = [*model.p_kw.values(), *model.import_kw.values(), *model.grid.component_data_objects(pyo.Var)]
    return [(v.lb, v.ub, v.fixed and v.value) for v in variables]
