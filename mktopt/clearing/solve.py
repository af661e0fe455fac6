"""From a market model to a `Clearing`: compile, solve, price, tabulate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyomo.common.gc_manager import PauseGC
from pyomo.core.expr.visitor import identify_variables

from mktopt.clearing.diagnosis import refuse_unsolved
from mktopt.clearing.frames import bus_frame, constraint_frame, flow_frame, relaxation_frame, slack_cones, voltage_frame
from mktopt.clearing.pricing import PRICING
from mktopt.clearing.reactive import balance_rows, delivered_price, order_kvar, range_payment
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.clearing.security import missing_rows, share_securely, told_of_missing_rows, with_contingencies
from mktopt.formulations.market import Declaration, declaration_of, own_rows
from mktopt.networks.network import Network
from mktopt.solvers import compile, solve_fixed
from mktopt.solvers import solve as solve_program
from mktopt.solvers.prices import order_prices, orientation, row_prices, welfare_duals
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Solution

FIXED_NOTE = (
    "prices come from re-solving with the all-or-nothing decisions fixed: they support the dispatch of the other "
    "orders, and an all-or-nothing order may lose or miss money at them (its regret is uplift)"
)


LOCAL_NOTE = (
    "a local optimum: the model is not convex, so that another dispatch may be worth more; prices are those of this "
    "point, what a little more demand costs near it"
)


def solve(
    model: Any, solver: str | Sequence[str] | None = None, solver_options: Mapping[str, Any] | None = None
) -> Clearing:
    """Solves a market model made by `mktopt.build` and returns its `Clearing`; the model carries the solution too.

    solver: a name of `mktopt.SOLVERS`, several that are tried one after the other until one answers, or None for the
    one that suits the problem class and, where it stops without an answer, the others that take it. A note of the
    result tells where it took more than one; solver_options: see `mktopt.solvers.solve`. Raises InfeasibleError (with
    `.report`), UnboundedError (naming the orders), SolverError, UnknownNameError.
    """
    declaration = declaration_of(model)
    seconds = {"compile": 0.0, "solve": 0.0, "tabulate": 0.0}
    with PauseGC():
        program, first, priced = _optimum(model, declaration, solver, solver_options, seconds)
        start = time.perf_counter()
        clearing = tabulate(model, declaration, program, priced, first, dict(solver_options or {}))
        if declaration.security is not None:
            clearing = with_contingencies(clearing, declaration.security)
        seconds["tabulate"] = time.perf_counter() - start
    clearing.seconds.update(seconds)  # type: ignore[attr-defined]
    return clearing


def _optimum(
    model: Any,
    declaration: Declaration,
    solver: str | Sequence[str] | None,
    solver_options: Mapping[str, Any] | None,
    seconds: dict[str, float],
) -> tuple[Program, Solution, Solution]:
    """The program, its optimum, and the one that prices come from (its integers fixed).

    Where contingencies are lazy it is solved anew until the dispatch violates none of their rows; `seconds` adds up.
    """
    while True:
        start = time.perf_counter()
        program = compile(model)
        compiled = time.perf_counter()
        solution = solve_program(program, solver, solver_options)
        priced = solve_fixed(program, solution) if program.integer.any() and solution.status.ok else solution
        more = missing_rows(model, declaration.security, program, priced)
        if not more:
            with told_of_missing_rows(declaration.security):
                refuse_unsolved(declaration, model, program, solution)
        seconds["compile"] += compiled - start
        seconds["solve"] += time.perf_counter() - compiled
        if not more:
            return program, solution, priced


def tabulate(
    model: Any,
    declaration: Declaration,
    program: Program,
    solution: Solution,
    first: Solution,
    solver_options: dict[str, Any],
) -> Clearing:
    """All tables of the result. `solution` carries the prices, `first` the status of the original problem."""
    network, orders = declaration.network, declaration.orders
    segments = list(model.segment_kw.values())
    columns = program.columns(segments)  # -1 where the user fixed the variable
    free = columns >= 0
    own = own_rows(model)
    x = np.clip(solution.x, program.lower, program.upper)  # a solver's tolerance is no negative quantity
    bound = ~free | _touched(model, own)
    segment_kw = share_securely(declaration.security, model, program, x, orders, program.values(x, segments), bound)
    x[columns[free]] = segment_kw[free]
    for variable, value in zip(program.variables, x.tolist(), strict=True):
        variable.set_value(value, skip_validation=True)

    evidence, prices = _price(model, declaration, program, solution, columns, x, own)
    reactive = _reactive_prices(evidence, network)
    quantity = orders.curves.total(segment_kw)
    kvar = order_kvar(model, orders, quantity)
    rule = PRICING[declaration.options.get("pricing", "nodal")]
    where = network.bus_positions(orders.orders["bus"]) * len(network.hours) + orders.orders["period"].to_numpy()
    local = None if reactive is None else reactive[where]
    nodal = delivered_price(orders, prices[where], local)
    faced = _order_prices(declaration, program, solution, columns, model)
    faced = np.where(np.isnan(faced), nodal, faced)
    paid, notes = rule.price(orders, quantity, nodal)
    relaxation = relaxation_frame(model, declaration)
    notes = [*_story(first), *slack_cones(relaxation), *notes]
    if program.integer.any():
        notes = [FIXED_NOTE, *notes]
    if first.status.has is Has.LOCAL:
        notes = [LOCAL_NOTE, *notes]
    hours = network.hours[orders.orders["period"].to_numpy()]
    dispatch = orders.orders[["order", "participant", "bus", "side", "period"]].copy()
    dispatch["quantity_kw"] = quantity
    if kvar is not None:
        dispatch["q_kvar"] = kvar
    dispatch["price"] = paid
    dispatch["payment"] = -orders.injection_sign * paid * quantity * hours
    if rule.keeps_rent:
        dispatch["payment"] += hours * range_payment(orders, local, kvar)
    welfare = float(np.sum(-orders.injection_sign * hours * orders.curves.value(quantity)))
    return Clearing(
        prices=bus_frame(declaration, "price", prices),
        dispatch=dispatch,
        flows=flow_frame(model, declaration),
        voltages=voltage_frame(model, declaration),
        constraints=constraint_frame(own, program, solution),
        order_prices=orders.orders[["order", "period"]].assign(order_price=faced),
        welfare=welfare,
        status=first.status,
        mechanism=declaration.mechanism,
        flow=declaration.flow.name,
        network=network,
        orders=orders,
        options=dict(declaration.options),
        flow_options=dict(declaration.flow.options),
        solver=first.solver,
        solver_options=solver_options,
        seconds={},
        notes=tuple(notes),
        evidence=evidence,
        reactive_prices=None if reactive is None else bus_frame(declaration, "price", reactive),
        relaxation=relaxation,
    )


def _story(solution: Solution) -> list[str]:
    """A note on the solvers that were tried in vain before the one that answered."""
    if len(solution.attempts) < 2:
        return []
    *vain, last = solution.attempts
    tried = [f"{item.solver} gave no answer in {item.seconds:.3g} s ({item.status.stopped.value})" for item in vain]
    return ["; ".join([*tried, f"{last.solver} answered in {last.seconds:.3g} s"])]


def _touched(model: Any, own: list[Any]) -> npt.NDArray[np.bool_]:
    """Which segments a user's own constraint names, shape (segments,)."""
    named = {id(v) for row in own for v in identify_variables(row.body)}
    if not named:
        return np.zeros(len(model.segment_kw), dtype=bool)
    return np.fromiter((id(v) in named for v in model.segment_kw.values()), dtype=bool, count=len(model.segment_kw))


def _price(
    model: Any,
    declaration: Declaration,
    program: Program,
    solution: Solution,
    columns: npt.NDArray[np.int64],
    x: FloatArray,
    own: list[Any],
) -> tuple[Evidence, FloatArray]:
    """The evidence of the solution, and the price of every bus and period (bus by bus) [$/kWh]."""
    network, orders = declaration.network, declaration.orders
    at = {key: program.row(row) for key, row in model.grid.balance.items()}
    keys = [(bus, t) for bus in network.buses["bus"] for t in network.periods]
    rows = np.array([at.get(key, -1) for key in keys], dtype=np.int64)
    has = rows >= 0
    sign = orders.injection_sign[orders.segment_order]
    hours = np.tile(network.hours, network.n_buses)
    prices = np.full(len(rows), np.nan)  # a lone bus without orders in some period has no price there
    prices[has] = row_prices(program, solution, rows[has], columns, sign, hours[has])
    written = np.ones(len(rows))
    written[has] = orientation(program, rows[has], columns, sign)
    multipliers = welfare_duals(program, solution)
    rows_q, written_q = balance_rows(model, network, program) or (None, None)
    evidence = Evidence(
        model, program.variables, x, program.rows, multipliers, rows, written, own, program, solution, rows_q, written_q
    )
    return evidence, prices


def _reactive_prices(evidence: Evidence, network: Network) -> FloatArray | None:
    """The price of reactive power at every bus and period (bus by bus) [$/kvarh], None without reactive power."""
    if evidence.balance_q is None or evidence.balance_q_sign is None:
        return None
    dual = np.append(evidence.multipliers, np.nan)[evidence.balance_q]
    return np.asarray(-dual * evidence.balance_q_sign / np.tile(network.hours, network.n_buses))


def _order_prices(
    declaration: Declaration, program: Program, solution: Solution, columns: npt.NDArray[np.int64], model: Any
) -> FloatArray:
    """What each order row faces [$/kWh]: the price of its bus, plus dual x coefficient of other rows that contain it.

    A row that only ties an order's own segments to its yes or no is the order's own affair and does not count.
    """
    network, orders = declaration.network, declaration.orders
    counts = np.ones(program.m, dtype=bool)
    counts[program.row_indices(model.accepted_whole.values())] = False
    hours = network.hours[orders.orders["period"].to_numpy()]
    first = columns[orders.curves.first]
    return order_prices(program, solution, first, orders.injection_sign, hours, np.flatnonzero(counts))
