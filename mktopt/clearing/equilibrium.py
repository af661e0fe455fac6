"""The result of the two-level energy auction as a `Clearing`: who buys and sells at which unit cost, and the proof.

Agents come in the dispatch beside the upstream grid: one row each, a bid where the agent takes power, an offer where it
gives some. Three more tables say what an auction of aggregators adds:

    agents       agent, aggregator, bus, period, role (buyer | seller | idle), p_kw, consumption_kw, generation_kw,
                 unit_cost [$/kWh], payment, utility, payoff = utility - payment, gain [$]
    aggregators  aggregator, bus, period, p_kw, unit_cost [$/kWh], buyers, sellers, bought_kw, sold_kw, utility [$]
    trace        what the iteration went through

`gain` is what the agent could still gain in its payoff, eq. (1), by another p >= -g at the unit cost posted to it,
without the coupling row: with that row every allocation that exhausts p_k would pass.
Reference: Das, Faqiry, Zarabie, Wu, Game theoretic equilibrium analysis of energy auction in microgrid, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

from mktopt.clearing.equilibrium_tables import Point, agents_table, aggregators_table, dispatch_table, faced_prices
from mktopt.clearing.frames import bus_frame, constraint_frame, flow_frame, relaxation_frame, slack_cones, voltage_frame
from mktopt.clearing.reactive import balance_rows
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError
from mktopt.formulations.market import Declaration, declaration_of, own_rows
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import compile
from mktopt.solvers import solve as solve_program
from mktopt.solvers.prices import orientation
from mktopt.solvers.solution import Has, Solution, Status, Stopped

CENTRAL = "central"


@dataclass(frozen=True)
class Equilibrium:
    """How an equilibrium was sought, and what came of it.

    method; aggregator: how the lower level was solved; verdict: 'converged' or what happened instead; converged;
    residual: natural residual of the problem that the method solves [$/kWh], at the step `eta` [kW per $/kWh];
    iterations; c0: price of the import per period [$/kWh]; anticipating: agents know that they move the price;
    welfare_without_trade: what all agents have from their own generation [$]; price_taking_welfare: what agents that
    take prices would have [$], None where they do; advice: what to try next, empty where it converged.
    """

    method: str
    aggregator: str
    verdict: str
    converged: bool
    residual: float
    eta: float
    iterations: int
    c0: tuple[float, ...]
    anticipating: bool = False
    welfare_without_trade: float = 0.0
    price_taking_welfare: float | None = None
    advice: str = ""

    def __str__(self) -> str:
        if self.method == CENTRAL:
            return f"the declared model, solved at once ({self.iterations} iterations of the solver)"
        when = f"after {self.iterations} iterations" if self.iterations else "where it started"
        text = f"{self.method}: {self.verdict} {when}, "
        text += f"natural residual {self.residual:.1e} $/kWh at a step of {self.eta:.3g} kW per $/kWh"
        if self.price_taking_welfare is not None:
            text += f"; agents that take prices would have {self.price_taking_welfare:,.4f} $"
        return text


@dataclass(frozen=True, eq=False)
class Found:
    """What belongs to a result beside its numbers: status, the solver's name and options, times, notes."""

    status: Status
    solver: str
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prosumers_of(clearing: Clearing) -> Prosumers:
    """The agents of a clearing of prosumers; raises MktoptError for any other."""
    if clearing.prosumers is None:
        raise MktoptError(f"mechanism '{clearing.mechanism}' cleared orders; this is a question about prosumers")
    return clearing.prosumers


def tabulate_equilibrium(
    model: Any, point: Point, equilibrium: Equilibrium, trace: pd.DataFrame, found: Found
) -> Clearing:
    """The `Clearing` of a declared two-level auction at `point`; the model carries the point afterwards."""
    declaration = declaration_of(model)
    prosumers = declaration.prosumers
    assert prosumers is not None
    _give(model, point)
    evidence = _evidence(model, declaration, point)
    prices = _prices(declaration, evidence, point)
    own = evidence.program.row_indices(evidence.own)
    charge = evidence.program.jacobian(evidence.values)[own].T @ evidence.multipliers[own]
    faced = faced_prices(prosumers, declaration.network.hours, point.unit_cost, evidence, charge)
    network, hours = declaration.network, declaration.network.hours
    agents = agents_table(prosumers, hours, point, faced)
    relaxation = relaxation_frame(model, declaration)
    dispatch = dispatch_table(network, agents, point, np.array(equilibrium.c0))
    spent = float(np.sum(hours * np.array(equilibrium.c0) * point.import_kw))
    return Clearing(
        prices=bus_frame(declaration, "price", prices),
        dispatch=dispatch,
        flows=flow_frame(model, declaration),
        voltages=voltage_frame(model, declaration),
        constraints=_constraints(evidence, point),
        order_prices=dispatch[["order", "period"]].assign(order_price=np.r_[faced.T.ravel(), equilibrium.c0]),
        welfare=float(agents["utility"].sum()) - spent,
        status=found.status,
        mechanism=declaration.mechanism,
        flow=declaration.flow.name,
        network=network,
        orders=declaration.orders,
        options=dict(declaration.options),
        flow_options=dict(declaration.flow.options),
        solver=found.solver,
        solver_options=dict(found.solver_options),
        seconds=dict(found.seconds),
        notes=(*found.notes, *slack_cones(relaxation)),
        evidence=evidence,
        reactive_prices=_reactive_prices(declaration, evidence, point),
        relaxation=relaxation,
        prosumers=prosumers,
        agents=agents,
        aggregators=aggregators_table(prosumers, hours, agents, point),
        trace=trace,
        equilibrium=equilibrium,
    )


def price_of_anarchy(clearing: Clearing) -> float:
    """Welfare of the central optimum over that of the equilibrium, both net of what all have without trade.

    1 where nothing is lost, as with agents that take prices; infinite where the equilibrium gains nothing. One solve of
    the declared model. Raises MktoptError for a clearing of orders, a loaded one, or where that has no optimum.
    """
    evidence, found = clearing.evidence, clearing.equilibrium
    prosumers_of(clearing)
    if not isinstance(evidence, Evidence) or found is None:
        raise MktoptError("this clearing was loaded, without the model to solve; clear the market again")
    solution = solve_program(evidence.program)
    if not solution.status.ok:
        raise MktoptError(f"the declared model was not solved ({solution.status}): {solution.message}")
    best = solution.objective - found.welfare_without_trade
    gained = clearing.welfare - found.welfare_without_trade
    if gained <= 0:
        return float("inf") if best > 0 else 1.0
    return best / gained


# -- the declared model at the point ------------------------------------------------------------------------------


def _give(model: Any, point: Point) -> None:
    """Gives the variables of the declared model their values at `point`."""
    for component, values in (
        (model.consumption_kw, point.consumption_kw.T),
        (model.p_kw, point.p_kw.T),
        (model.import_kw, point.import_kw),
    ):
        for variable, value in zip(component.values(), np.ravel(values).tolist(), strict=True):
            variable.set_value(value, skip_validation=True)
    for variable in model.grid.component_data_objects(pyo.Var):
        if variable.name in point.grid:
            variable.set_value(point.grid[variable.name], skip_validation=True)


def _evidence(model: Any, declaration: Declaration, point: Point) -> Evidence:
    """Values and multipliers of the declared model at the point, as the evidence of its certificate."""
    program = compile(model)
    x = np.array([variable.value for variable in program.variables], dtype=float)
    y = np.array([point.duals.get(row.name, 0.0) for row in program.rows], dtype=float)
    hours = declaration.network.hours
    y[program.row_indices(model.coupling.values())] = (hours[:, None] * point.unit_cost).T.ravel()
    slope = program.gradient(x) - program.jacobian(x).T @ y
    solution = Solution(
        Status(Stopped.OPTIMAL, Has.LOCAL if program.not_convex else Has.OPTIMAL), declaration.mechanism,
        x=x, row_dual=y, reduced_cost=slope, objective=program.objective(x),
    )  # fmt: skip
    keys = [(bus, t) for bus in declaration.network.buses["bus"] for t in declaration.network.periods]
    at = {key: program.row(row) for key, row in model.grid.balance.items()}
    rows = np.array([at.get(key, -1) for key in keys], dtype=np.int64)
    sign = np.ones(len(rows))
    traded = [*model.p_kw.values(), *model.import_kw.values()]
    signs = np.repeat([-1.0, 1.0], [len(model.p_kw), len(model.import_kw)])
    sign[rows >= 0] = orientation(program, rows[rows >= 0], program.columns(traded), signs)
    reactive = balance_rows(model, declaration.network, program) or (None, None)
    return Evidence(
        model, program.variables, x, program.rows, y, rows, sign, own_rows(model), program, solution, *reactive
    )


def _prices(declaration: Declaration, evidence: Evidence, point: Point) -> FloatArray:
    """The price of every bus and period, bus by bus [$/kWh]; of the aggregators' buses alone where the method has no
    other."""
    network, prosumers = declaration.network, declaration.prosumers
    assert prosumers is not None
    if point.priced:
        dual = np.append(evidence.multipliers, np.nan)[evidence.balance]
        return np.asarray(-dual * evidence.balance_sign / np.tile(network.hours, network.n_buses))
    prices = np.full((network.n_buses, len(network.hours)), np.nan)
    at = network.bus_positions(prosumers.aggregators["bus"])
    prices[at] = point.unit_cost.T
    apart = np.abs(prices[at] - point.unit_cost.T).max(axis=1) > 1e-9 * np.abs(point.unit_cost).max()
    prices[at[apart]] = np.nan  # aggregators of one bus that do not agree
    return prices.ravel()


def _constraints(evidence: Evidence, point: Point) -> pd.DataFrame:
    """Table `constraints`; a method without prices has none for the rows of the user's own either."""
    table = constraint_frame(evidence.own, evidence.program, evidence.solution)
    return table if point.priced else table.assign(dual=np.nan)


def _reactive_prices(declaration: Declaration, evidence: Evidence, point: Point) -> pd.DataFrame | None:
    if evidence.balance_q is None or evidence.balance_q_sign is None or not point.priced:
        return None
    dual = np.append(evidence.multipliers, np.nan)[evidence.balance_q]
    hours = np.tile(declaration.network.hours, declaration.network.n_buses)
    return bus_frame(declaration, "price", -dual * evidence.balance_q_sign / hours)
