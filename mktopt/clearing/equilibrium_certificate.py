"""The proof that a clearing of prosumers is an equilibrium, evaluated from its tables and the model's expressions.

An equilibrium is one point at which nobody gains alone: each agent in its payoff (1) at the unit cost posted to it, and
the DSO, who at these unit costs takes the p in reach that is worth most. So, with the unit costs c of the tables,

    gain          the most that one agent could gain at its posted cost, without the coupling row, relative to turnover
    primal        violation of the grid's and the user's rows, and of the energy balance of each aggregator
    dual, gap     optimality conditions of   max sum_t hours_t (c_t'p_t - c0_t s_t)  over the grid   at the tables'
                  values and multipliers; gap is relative to turnover, None where the grid is not convex
    residual      ||p - P(p + eta (c - c0 1))||_inf / eta, in $/kWh as it stands; P: one more projection onto the grid,
                  solved for the certificate (with losses the step of `grid_step`); p: what aggregators use
    budget        payments of the agents less the import's cost, against the rent that the wires earn at the prices
    tables        greatest disagreement between tables that say the same

Agents that anticipate prices do not maximise (1) at the posted cost: their `gain` is reported, not asserted.
References: Das et al., eq. (1), (7), (12)-(16); Facchinei and Kanzow, Generalized Nash equilibrium problems, 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.visitor import identify_variables

from mktopt.clearing.certificate import no_load, rent_of_wires
from mktopt.clearing.consistency import loadings_agree
from mktopt.clearing.equilibrium import Equilibrium, deviation_gain, prosumers_of
from mktopt.clearing.optimality import Conditions, conditions, max_of, zero_is_feasible
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError
from mktopt.formulations.gne import grid_step, used_power
from mktopt.formulations.market import declaration_of
from mktopt.solvers.sessions.sharp import sharp_session


@dataclass(frozen=True)
class EquilibriumCertificate:
    """Figures of proof (see the module's text), relative but for `residual` [$/kWh] with its `eta` [kW per $/kWh],
    `rent` and `turnover` [$].

    anticipating: the gain is reported, not asserted. priced: the method has prices for the whole grid; without them
    `dual`, `gap` and `budget` are None and not asserted; `residual` is None where a row of the user's own speaks of
    single agents, which no projection of p knows. `source` says whether it was evaluated here or read.
    """

    primal: float
    dual: float | None
    gap: float | None
    residual: float | None
    eta: float
    gain: float
    budget: float | None
    tables: float
    rent: float
    turnover: float
    rent_must_be_positive: bool = False
    anticipating: bool = False
    local: bool = False
    source: str = "evaluated"

    def failures(self, tol: float = 1e-6) -> list[str]:
        """The names of the figures that do not hold within `tol`."""
        names = ["primal", "dual", "gap", "residual", "budget", "tables"] + ["gain"] * (not self.anticipating)
        given = [(name, getattr(self, name)) for name in names]
        failed = [name for name, value in given if value is not None and not value <= tol]
        if self.rent_must_be_positive and not self.rent >= -tol * self.turnover:
            failed.append("rent")
        return failed

    def ok(self, tol: float = 1e-6) -> bool:
        """Whether every figure that must hold does so within `tol`."""
        return not self.failures(tol)

    def __str__(self) -> str:
        failed = self.failures()
        figures = [
            f"{name} {value:.1e}"
            for name in ("primal", "dual", "gap", "gain", "budget", "tables")
            if (value := getattr(self, name)) is not None
        ]
        kind = " (agents anticipate prices; their gain at the posted cost is not asserted)" if self.anticipating else ""
        kind += " (a local optimum)" if self.local else ""
        verdict = "holds" if not failed else f"FAILS in {', '.join(failed)}"
        if self.residual is not None:
            step = f"natural residual {self.residual:.1e} $/kWh at a step of {self.eta:.3g} kW per $/kWh"
            figures = [step, *figures]
        return f"{verdict}: {', '.join(figures)}, rent {self.rent:.4g} ${kind}"


def certify_equilibrium(clearing: Clearing) -> EquilibriumCertificate:
    """Evaluates the certificate; raises MktoptError where the clearing carries no evidence to evaluate."""
    evidence, found = clearing.evidence, clearing.equilibrium
    if not isinstance(evidence, Evidence) or not isinstance(found, Equilibrium):
        raise MktoptError("this clearing has no evidence; clear the market again to certify it")
    tables = _Tables(clearing)
    priced = bool(np.isfinite(clearing.prices["price"]).all())
    grid = _grid_conditions(clearing, evidence, tables, priced)
    turnover = _turnover(clearing, tables)
    charges = _charges(evidence, tables, grid)
    rent = tables.kept if not priced else rent_of_wires(clearing) + _kept_beside(clearing, tables, charges)
    local = bool(evidence.program is not None and evidence.program.not_convex)
    residual, eta = natural_residual(clearing) if _projects(evidence) else (None, found.eta)
    return EquilibriumCertificate(
        primal=float(np.maximum(grid.primal, tables.imbalance)),
        dual=grid.dual if priced else None,
        gap=None if local or not priced else float(grid.products.sum()) / turnover,
        residual=residual,
        eta=eta,
        gain=float(tables.gain.max(initial=0.0)) / turnover,
        budget=abs(tables.kept - rent) / turnover if priced else None,
        tables=_disagreement(clearing, tables, charges[0], turnover),
        rent=rent,
        turnover=turnover,
        rent_must_be_positive=priced and not local and _nothing_is_feasible(clearing, evidence),
        anticipating=found.anticipating,
        local=local,
    )


class _Tables:
    """What the tables of a clearing say, as arrays: T periods, K aggregators, N agents."""

    def __init__(self, clearing: Clearing) -> None:
        self.prosumers = prosumers_of(clearing)
        found, agents, aggregators = clearing.equilibrium, clearing.agents, clearing.aggregators
        assert found is not None
        assert agents is not None
        assert aggregators is not None
        periods, self.hours = len(clearing.network.hours), clearing.network.hours
        count = len(self.prosumers)
        self.c0 = np.array(found.c0)
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
    def corner(self) -> npt.NDArray[np.bool_]:
        """Where nobody of an aggregator consumes anything, p_k = -G_k, so that its unit cost may lie below the price
        of its bus, (T, K)."""
        lowest = -self.prosumers.aggregators["generation_kw"].to_numpy()
        return np.asarray(self.p_kw - lowest <= 1e-9 * np.maximum(1.0, np.abs(lowest)))

    @property
    def imbalance(self) -> float:
        """What an aggregator's agents take beyond its p_k, relative to what they consume (eq. 5, 7)."""
        generation = self.prosumers.generation_kw
        size = self._by_aggregator(self.x + generation)
        beyond = np.maximum(self._by_aggregator(self.x - generation) - self.p_kw, 0.0)
        return float(max_of(beyond / np.maximum(size, 1e-3 * size.max(initial=1e-12)), np.maximum(-self.x, 0.0)))


def natural_residual(clearing: Clearing, eta: float | None = None) -> tuple[float, float]:
    """(||p - P(p + eta (c - c0 1))||_inf / eta [$/kWh], eta [kW per $/kWh]) at the tables' p and c.

    P is one solve of `grid_step` with slope 1/eta and post c + p/eta; with losses its objective holds the import's
    cost too, so that a residual of nil is an equilibrium whatever eta > 0. eta: None for that of the method.
    Raises MktoptError where the step has no answer.
    """
    declaration, tables = declaration_of(clearing.evidence.model), _Tables(clearing)
    assert clearing.equilibrium is not None
    step = clearing.equilibrium.eta if eta is None else eta
    model = grid_step(declaration.network, tables.prosumers, declaration.flow, tables.c0, declaration.extra)
    post = tables.cost + tables.used_kw / step
    session = sharp_session(model)
    session.set("slope", 1.0 / step)
    session.set("post", post.T.ravel())
    solution = session.solve()
    if not solution.status.ok:
        raise MktoptError(f"the projection that the certificate asks for has no answer ({solution.status})")
    columns = session.parametric.program.columns(used_power(model))
    p = solution.x[columns].reshape(-1, len(tables.hours)).T
    return float(np.abs(p - tables.used_kw).max(initial=0.0)) / step, step


def _grid_conditions(clearing: Clearing, evidence: Evidence, tables: _Tables, priced: bool) -> Conditions:
    """The optimality conditions of the DSO at the posted unit costs."""
    model, hours = evidence.model, tables.hours
    traded = [*model.p_kw.values(), *model.import_kw.values()]
    worth = np.r_[(hours[:, None] * tables.cost).T.ravel(), -hours * tables.c0]
    agents, more = list(model.consumption_kw.values()), (hours[:, None] * tables.faced).T.ravel()
    more = more - (hours[:, None] * tables.cost[:, tables.prosumers.group]).T.ravel()
    charged = np.flatnonzero(more)  # agents in rows of the user's own: what these charge them is theirs to bear
    coefficients = [*worth.tolist(), *more[charged].tolist()]
    goal = LinearExpression(linear_coefs=coefficients, linear_vars=[*traded, *(agents[k] for k in charged)])
    coupling = {id(row) for row in model.coupling.values()}
    kept = [k for k, row in enumerate(evidence.rows) if id(row) not in coupling]
    values, duals = _told(clearing, evidence, tables, priced)
    return conditions(
        SimpleNamespace(expr=goal, sense=pyo.maximize),
        [evidence.rows[k] for k in kept], evidence.variables, values, duals[kept],
    )  # fmt: skip


def _told(clearing: Clearing, evidence: Evidence, tables: _Tables, priced: bool) -> tuple[FloatArray, FloatArray]:
    """Values of the model's variables and multipliers of its rows, those that a table has from the table."""
    model, at = evidence.model, {id(v): k for k, v in enumerate(evidence.variables)}
    values, duals = evidence.values.copy(), evidence.multipliers.copy()
    for component, given in (
        (model.consumption_kw, tables.x.T), (model.p_kw, tables.p_kw.T), (model.import_kw, tables.import_kw),
        (model.grid.component("p_kw"), clearing.flows.get("p_kw", ())),
        (model.grid.component("v2"), () if clearing.voltages is None else clearing.voltages["v_pu"] ** 2),
    ):  # fmt: skip
        if component is None or component.ctype is not pyo.Var:
            continue
        for variable, value in zip(component.values(), np.ravel(given).tolist(), strict=True):
            if id(variable) in at:
                values[at[id(variable)]] = value
    if priced:
        has = evidence.balance >= 0
        hours = np.tile(clearing.network.hours, clearing.network.n_buses)
        price = clearing.prices["price"].to_numpy()
        duals[evidence.balance[has]] = (-price * evidence.balance_sign * hours)[has]
    return values, duals


def _turnover(clearing: Clearing, tables: _Tables) -> float:
    """The scale of figures in $: the money that moves, at least the welfare."""
    moved = float(clearing.dispatch["payment"].abs().sum())
    return max(moved, abs(clearing.welfare), 1e-12)


def _disagreement(clearing: Clearing, tables: _Tables, charge: FloatArray, turnover: float) -> float:
    """The greatest disagreement of tables that say the same: welfare, payments, unit costs, quantities, loadings."""
    agents, dispatch, prosumers = clearing.agents, clearing.dispatch, tables.prosumers
    assert agents is not None
    hours, periods, count = tables.hours, len(tables.hours), len(prosumers)
    welfare = float(np.sum(hours[:, None] * prosumers.utility(tables.x))) - float(
        np.sum(hours * tables.c0 * tables.import_kw)
    )
    p = tables.x - prosumers.generation_kw
    due = hours[:, None] * tables.cost[:, prosumers.group] * p
    sold = np.where(dispatch["side"] == "bid", 1.0, -1.0)[: count * periods]
    size = max(float(np.abs(p).max(initial=0.0)), 1e-12)
    price = clearing.prices["price"].to_numpy().reshape(-1, periods)
    buses = clearing.network.bus_positions(prosumers.aggregators["bus"])
    level = max(float(np.abs(tables.cost).max(initial=0.0)), 1e-12)
    return float(max_of(
        np.array([abs(welfare - clearing.welfare) / turnover]),
        np.abs(due.T.ravel() - agents["payment"].to_numpy()) / turnover,
        np.abs(due.T.ravel() - dispatch["payment"].to_numpy()[: count * periods]) / turnover,
        np.abs(agents["p_kw"].to_numpy() - p.T.ravel()) / size,
        np.abs(sold * dispatch["quantity_kw"].to_numpy()[: count * periods] - p.T.ravel()) / size,
        np.nan_to_num(_at_buses(price[buses] + charge.T, tables)) / level,
        loadings_agree(clearing),
    ))  # fmt: skip


def _at_buses(price: FloatArray, tables: _Tables) -> FloatArray:
    """Unit costs against what the DSO pays at the aggregators' buses: at p_k = -G_k, where nobody consumes, that may be
    any price above the unit cost."""
    above = tables.cost.T - price
    return np.where(tables.corner.T, np.maximum(above, 0.0), np.abs(above))


def _charges(evidence: Evidence, tables: _Tables, grid: Conditions) -> tuple[FloatArray, FloatArray]:
    """What rows of the user's own charge p_kw, (T, K), and import_kw, (T,): dual x coefficient [$/kWh]."""
    coupling = {id(row) for row in evidence.model.coupling.values()}
    own = {id(row) for row in evidence.own}
    kept = [row for row in evidence.rows if id(row) not in coupling]
    mine = np.array([id(row) in own for row in kept], dtype=float)
    total = np.append(grid.pull.T @ mine, 0.0)
    at = {id(v): k for k, v in enumerate(evidence.variables)}
    periods = len(tables.hours)
    p, s = (
        total[[at.get(id(v), -1) for v in component.values()]].reshape(-1, periods).T / tables.hours[:, None]
        for component in (evidence.model.p_kw, evidence.model.import_kw)
    )
    return p, s[:, 0]


def _kept_beside(clearing: Clearing, tables: _Tables, charges: tuple[FloatArray, FloatArray]) -> float:
    """What the DSO keeps beside the rent of the wires [$]: of rows of the user's own, and of aggregators that sell all
    they have at a unit cost below the price of their bus."""
    network = clearing.network
    price = clearing.prices["price"].to_numpy().reshape(-1, len(tables.hours)).T
    paid = price[:, network.bus_positions(tables.prosumers.aggregators["bus"])]
    spread = np.where(tables.corner, tables.cost - paid, charges[0]) * tables.p_kw
    return float(np.sum(tables.hours * (spread.sum(axis=1) + charges[1] * tables.import_kw)))


def _projects(evidence: Evidence) -> bool:
    """Whether the user's rows leave single agents alone."""
    single = {id(variable) for variable in evidence.model.consumption_kw.values()}
    return not any(id(v) in single for row in evidence.own for v in identify_variables(row.body))


def _nothing_is_feasible(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether an unused grid is feasible, so that a convex one cannot leave the DSO to pay in."""
    rows = [row for row in evidence.rows if row.parent_component() is not evidence.model.coupling]
    return zero_is_feasible(rows, evidence.variables, no_load(clearing, evidence))
