"""The proof that a clearing of prosumers is an equilibrium, evaluated from its tables and the model's expressions.

An equilibrium is one point at which nobody gains alone: each agent in its payoff (1) at the unit cost posted to it, and
the DSO, who at these unit costs takes the p in reach that is worth most. So, with the unit costs c of the tables,

    gain          the most that one agent could gain at its posted cost, without the coupling row, relative to turnover
    primal        violation of the grid's and the user's rows, and of the energy balance of each aggregator
    dual, gap     optimality conditions of   max sum_t hours_t (c_t'p_t - c0_t s_t)  over the grid   at the tables'
                  values and multipliers; gap is relative to turnover, None where the grid is not convex
    residual      ||p - P(p + eta (c - c0 1))||_inf / eta, in $/kWh as it stands; P: one more projection onto the grid,
                  solved for the certificate (with losses the step of `grid_step`); p: what aggregators use; eta: of
                  the size of the demand curves, since the residual of any p falls to nil as eta grows
    budget        payments of the agents less the import's cost, against the rent that the wires earn at the prices
    tables        greatest disagreement between tables that say the same

Agents that anticipate prices do not maximise (1) at the posted cost: their `gain` is reported, not asserted.
References: Das et al., eq. (1), (7), (12)-(16); Facchinei and Kanzow, Generalized Nash equilibrium problems, 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.clearing.certificate import no_load, rent_of_wires
from mktopt.clearing.consistency import grid_names_agree, loadings_agree, slacks_agree
from mktopt.clearing.equilibrium import Equilibrium, prosumers_of
from mktopt.clearing.equilibrium_figures import WATT, Figures, projection, residual_at
from mktopt.clearing.equilibrium_tables import (
    Point,
    agents_table,
    aggregators_table,
    dispatch_table,
    faced_prices,
    tables_differ,
)
from mktopt.clearing.optimality import Conditions, conditions, max_of, zero_is_feasible
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.clearing.testimony import multipliers_of, put_grid
from mktopt.errors import MktoptError
from mktopt.formulations.gne import PRINTED
from mktopt.formulations.market import declaration_of
from mktopt.solvers import compile


@dataclass(frozen=True)
class EquilibriumCertificate:
    """Figures of proof (see the module's text), relative but for `residual` [$/kWh] with its `eta` [kW per $/kWh],
    `rent` and `turnover` [$].

    anticipating: the gain is reported, not asserted. priced: the method has prices for the whole grid; without them
    `dual`, `gap` and `budget` are None and not asserted; `residual` is None where a row of the user's own speaks of
    single agents or was added by a later hand, which no projection of p knows. `source` says whether it was
    evaluated here or read.
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
    options = declaration_of(evidence.model).options
    said = found.c0 == tuple(options["c0"]) and found.anticipating == options["anticipating"]
    if not said or not grid_names_agree(clearing, evidence) or not _trade_is_there(clearing):
        unknown = float("nan")  # numbers that belong to nothing prove nothing
        return EquilibriumCertificate(
            unknown, unknown, unknown, unknown, unknown, unknown, unknown, float("inf"), unknown, unknown
        )
    tables, priced = Figures(clearing, options["c0"]), options["method"] not in PRINTED
    values, off = _told(clearing, evidence, tables)
    grid = _grid_conditions(clearing, evidence, tables, values, priced)
    turnover = _turnover(clearing, tables)
    charges = _Charges(evidence, tables, grid)
    rent = rent_of_wires(clearing) + _kept_beside(clearing, tables, charges) if priced else tables.kept
    residual, eta = None, tables.typical_eta
    local = bool(evidence.program is not None and evidence.program.not_convex)
    if (step := projection(clearing, evidence)) is not None:
        residual = residual_at(tables, step, eta)
        # of a utility of one's own, found concave where it was tried, the expression does not tell
        local = local and bool(compile(step).not_convex)
    apart = _disagreement(clearing, tables, charges, turnover), off, slacks_agree(clearing, evidence, values)
    return EquilibriumCertificate(
        primal=float(np.maximum(grid.primal, tables.imbalance)),
        dual=grid.dual if priced else None,
        gap=None if local or not priced else float(grid.products.sum()) / turnover,
        residual=residual,
        eta=eta,
        gain=float(tables.gain.max(initial=0.0)) / turnover,
        budget=abs(tables.kept - rent) / turnover if priced else None,
        tables=max_of(*map(np.asarray, apart)),
        rent=rent,
        turnover=turnover,
        rent_must_be_positive=priced and not local and _nothing_is_feasible(clearing, evidence),
        anticipating=bool(options["anticipating"]),
        local=local,
    )


def _trade_is_there(clearing: Clearing) -> bool:
    """Whether the tables of who trades have the rows that they must have; what is in them is compared later."""
    periods, count = len(clearing.network.hours), len(prosumers_of(clearing))
    lengths = (
        (clearing.agents, count),
        (clearing.aggregators, len(prosumers_of(clearing).aggregators)),
        (clearing.dispatch, count + 1),
        (clearing.order_prices, count + 1),
    )
    return all(table is not None and len(table) == rows * periods for table, rows in lengths)


def _grid_conditions(
    clearing: Clearing, evidence: Evidence, tables: Figures, values: FloatArray, priced: bool
) -> Conditions:
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
    duals = multipliers_of(clearing, evidence) if priced else evidence.multipliers
    return conditions(
        SimpleNamespace(expr=goal, sense=pyo.maximize),
        [evidence.rows[k] for k in kept], evidence.variables, values, duals[kept], least=WATT,
    )  # fmt: skip


def _told(clearing: Clearing, evidence: Evidence, tables: Figures) -> tuple[FloatArray, float]:
    """Values of the model's variables, those that a table has from the table, and how far off tables are of values
    that are given, as the voltage of the source."""
    model, at = evidence.model, {id(v): k for k, v in enumerate(evidence.variables)}
    values, off = evidence.values.copy(), [0.0]

    def put(component: Any, given: FloatArray) -> None:
        for item, value in zip(component.values(), np.ravel(given).tolist(), strict=True):
            if (k := at.get(id(item))) is not None:
                values[k] = value
            elif item.is_variable_type() and item.fixed:
                off.append(abs(value - item.value) / max(abs(item.value), 1.0))

    put(model.consumption_kw, tables.x.T)
    put(model.p_kw, tables.p_kw.T)
    put(model.import_kw, tables.import_kw)
    put_grid(clearing, model.grid, put)
    return values, max_of(np.array(off))


def _turnover(clearing: Clearing, tables: Figures) -> float:
    """The scale of figures in $: the money that moves, at least the welfare, and what next to no power costs."""
    moved = float(clearing.dispatch["payment"].abs().sum())
    least = WATT * float(np.sum(tables.hours * np.abs(tables.cost).max(axis=1)))
    return max(moved, abs(clearing.welfare), least, 1e-12)


def _disagreement(clearing: Clearing, tables: Figures, charges: _Charges, turnover: float) -> float:
    """The greatest disagreement of tables that say the same: all that follows from x, p_k, c_k and the import, made
    anew; welfare; unit costs and the prices of their buses; loadings."""
    network, prosumers, hours = clearing.network, tables.prosumers, tables.hours
    point = Point(tables.p_kw, tables.cost, tables.import_kw, tables.x, {}, {})
    faced = faced_prices(prosumers, hours, tables.cost, clearing.evidence, charges.all)
    agents = agents_table(prosumers, hours, point, tables.faced)
    dispatch = dispatch_table(network, agents, point, tables.c0)
    order_prices = dispatch[["order", "period"]].assign(order_price=np.r_[faced.T.ravel(), tables.c0])
    idle = float(hours.sum() * prosumers.utility(prosumers.generation_kw).sum())
    welfare = float(agents["utility"].sum()) - float(np.sum(hours * tables.c0 * tables.import_kw))
    price = clearing.prices["price"].to_numpy().reshape(-1, len(hours))
    at_buses = price[network.bus_positions(prosumers.aggregators["bus"])].T
    # where everything is for nothing, what a first kWh is worth still says what money means here
    worth = prosumers.marginal(0.0)
    least = 1e-4 * float(worth[np.isfinite(worth)].max(initial=0.0))
    level = max(float(np.abs(np.nan_to_num(price)).max()), float(np.abs(tables.cost).max()), least, 1e-12)
    assert clearing.equilibrium is not None
    return max_of(
        np.abs(np.array([welfare - clearing.welfare, idle - clearing.equilibrium.welfare_without_trade])) / turnover,
        np.array([
            tables_differ(clearing.agents, agents, turnover),
            tables_differ(clearing.aggregators, aggregators_table(prosumers, hours, agents, point), turnover),
            tables_differ(clearing.dispatch, dispatch, turnover),
            tables_differ(clearing.order_prices, order_prices, turnover),
        ]),
        np.nan_to_num(_at_buses(at_buses + charges.p_kw, tables)) / level,
        loadings_agree(clearing),
    )  # fmt: skip


def _at_buses(price: FloatArray, tables: Figures) -> FloatArray:
    """Unit costs against what the DSO pays at the aggregators' buses, which may be more where p_k cannot fall, as at
    -G_k where nobody consumes, and less where it cannot rise."""
    above, (low, high) = tables.cost - price, tables.at_limits
    return np.maximum(np.where(high, 0.0, above), np.where(low, 0.0, -above))


class _Charges:
    """What rows of the user's own charge each variable, `all` (variables,) [$/kW], and p_kw (T, K) and import_kw (T,)
    in $/kWh: dual x coefficient."""

    def __init__(self, evidence: Evidence, tables: Figures, grid: Conditions) -> None:
        coupling = {id(row) for row in evidence.model.coupling.values()}
        own = {id(row) for row in evidence.own}
        kept = [row for row in evidence.rows if id(row) not in coupling]
        mine = np.array([id(row) in own for row in kept], dtype=float)
        self.all: FloatArray = grid.pull.T @ mine
        total, at = np.append(self.all, 0.0), {id(v): k for k, v in enumerate(evidence.variables)}
        self.p_kw, importing = (
            total[[at.get(id(v), -1) for v in component.values()]].reshape(-1, len(tables.hours)).T
            / tables.hours[:, None]
            for component in (evidence.model.p_kw, evidence.model.import_kw)
        )
        self.import_kw = importing[:, 0]


def _kept_beside(clearing: Clearing, tables: Figures, charges: _Charges) -> float:
    """What the DSO keeps beside the rent of the wires [$]: of rows of the user's own, and of aggregators whose p_k is
    at a limit, as where they sell all they have at a unit cost below the price of their bus."""
    network = clearing.network
    price = clearing.prices["price"].to_numpy().reshape(-1, len(tables.hours)).T
    paid = price[:, network.bus_positions(tables.prosumers.aggregators["bus"])]
    spread = np.where(np.any(tables.at_limits, axis=0), tables.cost - paid, charges.p_kw) * tables.p_kw
    return float(np.sum(tables.hours * (spread.sum(axis=1) + charges.import_kw * tables.import_kw)))


def _nothing_is_feasible(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether an unused grid is feasible, so that a convex one cannot leave the DSO to pay in."""
    rows = [row for row in evidence.rows if row.parent_component() is not evidence.model.coupling]
    return zero_is_feasible(rows, evidence.variables, no_load(clearing, evidence))
