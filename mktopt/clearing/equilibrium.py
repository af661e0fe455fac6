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

UPSTREAM, CENTRAL = "upstream", "central"
# Below this share of the largest trade nobody trades.
_IDLE = 1e-9


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
        text = f"{self.method}: {self.verdict} after {self.iterations} iterations, "
        text += f"natural residual {self.residual:.1e} $/kWh at a step of {self.eta:.3g} kW per $/kWh"
        if self.price_taking_welfare is not None:
            text += f"; agents that take prices would have {self.price_taking_welfare:,.4f} $"
        return text


@dataclass(frozen=True, eq=False)
class Point:
    """Where an iteration ended. T periods, K aggregators, N agents.

    p_kw, unit_cost: (T, K); import_kw: (T,); consumption_kw: (T, N); grid: values of the grid's variables and duals of
    its rows (welfare [$] gained per unit of right-hand side), by name as in the declared model; priced: whether those
    duals are prices that belong to this point.
    """

    p_kw: FloatArray
    unit_cost: FloatArray
    import_kw: FloatArray
    consumption_kw: FloatArray
    grid: Mapping[str, float]
    duals: Mapping[str, float]
    priced: bool = True


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
    faced = _faced(model, declaration, prosumers, point, evidence)
    agents = _agents(declaration, prosumers, point, faced)
    relaxation = relaxation_frame(model, declaration)
    dispatch = _dispatch(declaration, agents, point, equilibrium)
    hours = declaration.network.hours
    spent = float(np.sum(hours * np.array(equilibrium.c0) * point.import_kw))
    return Clearing(
        prices=bus_frame(declaration, "price", prices),
        dispatch=dispatch,
        flows=flow_frame(model, declaration),
        voltages=voltage_frame(model, declaration),
        constraints=constraint_frame(evidence.own, evidence.program, evidence.solution),
        order_prices=dispatch[["order", "period"]].assign(order_price=np.r_[faced.T.ravel(), equilibrium.c0]),
        welfare=float(agents["utility"].sum()) - spent,
        status=found.status,
        mechanism=declaration.mechanism,
        flow=declaration.flow.name,
        network=declaration.network,
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
        aggregators=_aggregators(declaration, prosumers, agents, point),
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
    prices[network.bus_positions(prosumers.aggregators["bus"])] = point.unit_cost.T
    return prices.ravel()


def _reactive_prices(declaration: Declaration, evidence: Evidence, point: Point) -> pd.DataFrame | None:
    if evidence.balance_q is None or evidence.balance_q_sign is None or not point.priced:
        return None
    dual = np.append(evidence.multipliers, np.nan)[evidence.balance_q]
    hours = np.tile(declaration.network.hours, declaration.network.n_buses)
    return bus_frame(declaration, "price", -dual * evidence.balance_q_sign / hours)


def _faced(
    model: Any, declaration: Declaration, prosumers: Prosumers, point: Point, evidence: Evidence
) -> FloatArray:
    """What each agent faces [$/kWh], shape (T, N): its unit cost, plus what rows of the user's own charge it."""
    hours = declaration.network.hours
    faced = point.unit_cost[:, prosumers.group]
    rows = evidence.program.row_indices(evidence.own)
    if len(rows):
        columns = evidence.program.columns(model.consumption_kw.values())
        free = columns >= 0
        pull = evidence.program.jacobian(evidence.values)[rows].T @ evidence.multipliers[rows]
        more = np.where(free, pull[columns], 0.0).reshape(len(prosumers), len(hours)).T
        faced = faced + more / hours[:, None]
    return faced


# -- tables ---------------------------------------------------------------------------------------------------------


def _agents(
    declaration: Declaration, prosumers: Prosumers, point: Point, faced: FloatArray
) -> pd.DataFrame:
    """Table `agents`, agent by agent and period within."""
    hours, periods = declaration.network.hours[:, None], len(declaration.network.hours)
    x, cost = point.consumption_kw, point.unit_cost[:, prosumers.group]
    p = x - prosumers.generation_kw
    idle = np.abs(p) <= _IDLE * np.abs(p).max(initial=0.0)
    utility, payment = hours * prosumers.utility(x), hours * cost * p
    gain = hours * deviation_gain(prosumers, x, faced)
    table = prosumers.table
    columns = {
        "role": np.where(idle, "idle", np.where(p > 0, "buyer", "seller")),
        "p_kw": p,
        "consumption_kw": x,
        "generation_kw": np.broadcast_to(prosumers.generation_kw, p.shape),
        "unit_cost": cost,
        "payment": payment,
        "utility": utility,
        "payoff": utility - payment,
        "gain": gain,
    }
    return pd.DataFrame({
        **{name: np.repeat(table[name].to_numpy(), periods) for name in ("agent", "aggregator", "bus")},
        "period": np.tile(np.arange(periods), len(prosumers)),
        **{name: values.T.ravel() for name, values in columns.items()},
    })  # fmt: skip


def deviation_gain(prosumers: Prosumers, consumption_kw: FloatArray, price: FloatArray) -> FloatArray:
    """What each agent could still gain in u(x) - price (x - g) by another x >= 0 [$/h], shapes (..., agents); infinite
    where its demand at the price has no end."""
    best = prosumers.demand_at(price)
    with np.errstate(invalid="ignore"):
        gain = prosumers.utility(best) - prosumers.utility(consumption_kw) - price * (best - consumption_kw)
    return np.where(np.isfinite(best), np.maximum(gain, 0.0), np.inf)


def _aggregators(
    declaration: Declaration, prosumers: Prosumers, agents: pd.DataFrame, point: Point
) -> pd.DataFrame:
    """Table `aggregators`, aggregator by aggregator and period within."""
    table, periods = prosumers.aggregators, len(declaration.network.hours)
    size = len(table) * periods
    at = (prosumers.group[:, None] * periods + np.arange(periods)).ravel()
    p = agents["p_kw"].to_numpy()

    def total(values: Any) -> FloatArray:
        return np.asarray(np.bincount(at, np.asarray(values, dtype=float), size))

    return pd.DataFrame({
        "aggregator": np.repeat(table["aggregator"].to_numpy(), periods),
        "bus": np.repeat(table["bus"].to_numpy(), periods),
        "period": np.tile(np.arange(periods), len(table)),
        "p_kw": point.p_kw.T.ravel(),
        "unit_cost": point.unit_cost.T.ravel(),
        "buyers": total(agents["role"] == "buyer").astype(int),
        "sellers": total(agents["role"] == "seller").astype(int),
        "bought_kw": total(np.maximum(p, 0.0)),
        "sold_kw": total(np.maximum(-p, 0.0)),
        "utility": total(agents["utility"]),
    })  # fmt: skip


def _dispatch(
    declaration: Declaration, agents: pd.DataFrame, point: Point, equilibrium: Equilibrium
) -> pd.DataFrame:
    """The rows of all agents and of the upstream grid, in the columns of every dispatch."""
    network, c0 = declaration.network, np.array(equilibrium.c0)
    p, s = agents["p_kw"].to_numpy(), point.import_kw
    upstream = pd.DataFrame({
        "order": UPSTREAM, "participant": UPSTREAM, "bus": network.source_bus,
        "side": np.where(s >= 0, "offer", "bid"), "period": np.arange(len(s)), "quantity_kw": np.abs(s), "price": c0,
        "payment": -network.hours * c0 * s,
    })  # fmt: skip
    own = pd.DataFrame({
        "order": agents["agent"], "participant": agents["agent"], "bus": agents["bus"],
        "side": np.where(p >= 0, "bid", "offer"), "period": agents["period"], "quantity_kw": np.abs(p),
        "price": agents["unit_cost"], "payment": agents["payment"],
    })  # fmt: skip
    return pd.concat([own, upstream], ignore_index=True)

