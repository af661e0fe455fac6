"""Coalitions on private wires, run: from the declared model `coalition` to a `Clearing` with the record `coalition`.

    model = mo.build("coalition", network, orders, behaviour="ad_hoc")     the program, mktopt.formulations.coalition
    run(model)                                                             decide private trades, then settle

cooperative and integrated are one solve. Under ad_hoc and self_interested, private flows and elastic orders are
decided first (`mktopt.agents.private_trade`) and fixed in the model, whose solution is then the settlement: physics,
losses, the main grid's balance, and prices, each the resource cost of a kWh more where private trades stay what they
are. They stay fixed in the model, which carries the solution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mktopt.agents.private_trade import PrivateTrade, ad_hoc, self_interested
from mktopt.clearing.coalition import Coalition
from mktopt.clearing.coalition_settled import settled_cost
from mktopt.clearing.coalition_tables import Account, groups, payments, phantom_kw, trades
from mktopt.clearing.consistency import mean_kw
from mktopt.clearing.frames import bus_frame
from mktopt.clearing.result import Clearing
from mktopt.clearing.solve import solve, tabulate
from mktopt.clearing.tight import least_losses
from mktopt.errors import InfeasibleError
from mktopt.formulations.coalition import AD_HOC, COOPERATIVE, DECIDED, INTEGRATED, MainGrid, coalition, main_grid_of
from mktopt.formulations.market import Declaration, add_extra, declaration_of, own_rows
from mktopt.networks import units
from mktopt.networks.network import FloatArray

SETTLED_NOTE = (
    "private flows and elastic orders were decided blind to the public grid and stay what they are: prices say what a "
    "kWh more costs besides, and no regret counts orders that were decided; what players pay is in table payments, "
    "while those of the dispatch are at these prices"
)
UNSETTLED_NOTE = (
    "the private flows of the integrated optimum do not fit the public grid as physics has it: there is no settled cost"
)
PHANTOM_NOTE = (
    "{:.4g} kWh are wasted that no wire would lose: energy that must be taken fits no limit, or is paid to be rid of; "
    "the resource cost holds only where so much can be curtailed"
)


def run(
    model: Any, solver: str | Sequence[str] | None = None, solver_options: Mapping[str, Any] | None = None
) -> Clearing:
    """Clears a model that `mktopt.build("coalition", ...)` declared; `clearing.coalition` is the record of it.

    solver, solver_options: of every solve, see `mktopt.solvers.solve`. Raises InfeasibleError (with `.report`), where
    private trades that were decided first do not fit the public grid too, UnboundedError, SolverError, DataError.
    """
    declaration = declaration_of(model)
    main_grid = _main_grid(declaration)
    trade = _decided(declaration, main_grid, solver, solver_options)
    if trade is None:
        clearing = solve(model, solver, solver_options)
    else:
        fix_private(model, declaration, main_grid, trade.p_kw, trade.segment_kw)
        clearing = _settled(model, trade.behaviour, solver, solver_options)
    clearing = _netted(_tight(clearing, model, main_grid, solver, solver_options), model, main_grid)
    record = _record(clearing, declaration, main_grid, trade)
    if record.behaviour == INTEGRATED and len(clearing.constraints):
        settled = _settled_under(clearing, declaration, main_grid, solver, solver_options)
        record = replace(record, settled_cost=settled)
    notes = clearing.notes if trade is None else (*clearing.notes, SETTLED_NOTE)
    if record.behaviour == INTEGRATED and record.settled_cost is None:
        notes = (*notes, UNSETTLED_NOTE)
    if record.phantom_kwh > 0.0:
        notes = (*notes, PHANTOM_NOTE.format(record.phantom_kwh))
    return replace(clearing, notes=notes, coalition=record)


def _main_grid(declaration: Declaration) -> MainGrid:
    options = declaration.options
    prices = (options[name] for name in ("retail", "feed_in", "wholesale"))
    return main_grid_of(declaration.orders, declaration.network, *prices)


def _decided(
    declaration: Declaration, main_grid: MainGrid, solver: Any, solver_options: Mapping[str, Any] | None
) -> PrivateTrade | None:
    """What is decided before the settlement, None where nothing is."""
    options, network, orders = declaration.options, declaration.network, declaration.orders
    if options["behaviour"] not in DECIDED:
        return None
    if options["behaviour"] == AD_HOC:
        return ad_hoc(network, orders, main_grid, options["radius_km"])
    return self_interested(network, orders, main_grid, solver, solver_options)


def fix_private(
    model: Any, declaration: Declaration, main_grid: MainGrid, p_kw: FloatArray, segment_kw: FloatArray
) -> None:
    """Fixes in `model` the flows and losses of private wires and the agents' elastic orders.

    p_kw: (n_branches, T) [kW]; segment_kw: of each segment of the orders, (segments,) [kW]. A wire loses rho f^2.
    """
    network, orders, grid = declaration.network, declaration.orders, model.grid
    rho, private = units.loss_per_kw(network), network.private
    names = network.lines["branch"].to_numpy()
    for wire in np.flatnonzero(private).tolist():
        for t, flow in enumerate(p_kw[wire].tolist()):
            key = (names[wire], t)
            grid.p_kw[key].fix(flow, skip_validation=True)
            grid.loss_kw[key].fix(float(rho[wire]) * flow**2, skip_validation=True)
            if key in grid.loss:
                grid.loss[key].deactivate()
    elastic = (main_grid.agents(orders) & ~orders.firm)[orders.segment_order]
    for variable, free, kw in zip(model.segment_kw.values(), elastic.tolist(), segment_kw.tolist(), strict=True):
        if free:
            variable.fix(min(max(kw, variable.lb or 0.0), np.inf if variable.ub is None else variable.ub))


def _settled(
    model: Any, behaviour: str, solver: str | Sequence[str] | None, solver_options: Mapping[str, Any] | None
) -> Clearing:
    """The settlement of a model whose private trades are fixed."""
    try:
        return solve(model, solver, solver_options)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"what was decided over private wires ({behaviour}) does not fit the public grid, which the traders do not "
            "look at; raise the limits named below, limit the private wires (rating_kva, radius_km), or take behaviour "
            f"'{COOPERATIVE}', which heeds them\n{error}",
            error.report,
        ) from error


def _settled_under(
    clearing: Clearing, declaration: Declaration, main_grid: MainGrid, solver: Any, options: Mapping[str, Any] | None
) -> float | None:
    """`settled_cost` where constraints of the user's own are to be kept, too: by solving the cooperative model."""
    flow = declaration.flow.with_options(physics=True)
    prices = {name: declaration.options[name] for name in ("retail", "feed_in", "wholesale")}
    model = coalition(declaration.network, declaration.orders, flow, COOPERATIVE, **prices)
    add_extra(model, declaration.extra)
    shape = (declaration.network.n_branches, len(declaration.network.hours))
    quantity = clearing.dispatch["quantity_kw"].to_numpy(dtype=float)
    segment_kw = declaration.orders.curves.fill(quantity)
    fix_private(model, declaration, main_grid, mean_kw(clearing.flows).reshape(shape), segment_kw)
    try:
        settled = _tight(solve(model, solver, options), model, main_grid, solver, options)
    except InfeasibleError:
        return None
    return None if phantom_kw(settled).any() else _costs(settled, main_grid)[0]


def _tight(
    clearing: Clearing, model: Any, main_grid: MainGrid, solver: Any, options: Mapping[str, Any] | None
) -> Clearing:
    """The same without losses that no wire has, where these are a tie: where energy is worth nothing."""
    evidence = clearing.evidence
    if clearing.relaxation is None or not clearing.relaxation["slack"].any():
        return clearing
    losses, level = list(model.grid.loss_kw.values()), max(*main_grid.retail, *main_grid.cost) or 1.0
    found = least_losses(evidence.program, evidence.solution, losses, level, solver, options)
    if found is evidence.solution:
        return clearing
    first = found.replace(status=clearing.status, solver=clearing.solver)
    again = tabulate(model, declaration_of(model), evidence.program, found, first, dict(options or {}))
    again.seconds.update(clearing.seconds)  # type: ignore[attr-defined]
    return again


def _netted(clearing: Clearing, model: Any, main_grid: MainGrid) -> Clearing:
    """The same where the main grid does not sell and buy in one period at one price, which changes nothing else."""
    orders, network, evidence = clearing.orders, clearing.network, clearing.evidence
    quantity = clearing.dispatch["quantity_kw"].to_numpy(dtype=float).copy()
    supply, buys = np.array(main_grid.supply), np.array(main_grid.buys)
    both = np.where(main_grid.cost == main_grid.worth, np.minimum(quantity[supply], quantity[buys]), 0.0)
    if not (both > 0.0).any() or own_rows(model):
        return clearing
    segments, values = list(model.segment_kw.values()), evidence.values.copy()
    column = {id(variable): k for k, variable in enumerate(evidence.variables)}
    for rows in (supply, buys):
        quantity[rows] -= both
        for row in rows.tolist():
            variable = segments[orders.curves.first[row]]
            variable.set_value(quantity[row], skip_validation=True)
            if id(variable) in column:
                values[column[id(variable)]] = quantity[row]
    sign, hours = -orders.injection_sign, network.hours[orders.orders["period"].to_numpy()]
    dispatch = clearing.dispatch.assign(quantity_kw=quantity)
    dispatch["payment"] = sign * dispatch["price"] * quantity * hours
    return replace(clearing, dispatch=dispatch, evidence=replace(evidence, values=values))


# -- the record --------------------------------------------------------------------------------------------------------


def _costs(clearing: Clearing, main_grid: MainGrid) -> tuple[float, float, float, float]:
    """(resource cost, generation, main grid, flexible demand) [$], see `mktopt.clearing.coalition`."""
    orders = clearing.orders
    hours = clearing.network.hours[orders.orders["period"].to_numpy()]
    worth = hours * orders.curves.value(clearing.dispatch["quantity_kw"].to_numpy(dtype=float))
    agents, bid = main_grid.agents(orders), orders.is_bid
    generation = float(worth[agents & ~bid].sum())
    main = float(worth[~agents & ~bid].sum() - worth[~agents & bid].sum())
    demand = float(worth[agents & bid & ~orders.firm].sum())
    return generation + main - demand, generation, main, demand


def _record(
    clearing: Clearing,
    declaration: Declaration,
    main_grid: MainGrid,
    trade: PrivateTrade | None,
) -> Coalition:
    network, hours = clearing.network, clearing.network.hours
    decided = () if trade is None else (trade.prices, trade.paid, trade.received)
    account = Account.of(clearing, declaration.options["behaviour"], main_grid, *decided)
    quantity = account.quantity_kw
    total, generation, main, demand = _costs(clearing, main_grid)
    phantom = phantom_kw(clearing)
    lost = (units.loss_per_kw(network)[:, None] * account.p_kw**2) @ hours  # not what a solver left of it
    paid = payments(account)
    return Coalition(
        behaviour=account.behaviour,
        retail=main_grid.retail,
        feed_in=main_grid.feed_in,
        wholesale=main_grid.wholesale,
        resource_cost=total,
        generation_cost=generation,
        main_grid_cost=main,
        demand_value=demand,
        public_loss_kwh=float(lost[~account.private].sum()),
        private_loss_kwh=float(lost[account.private].sum()),
        import_kwh=float(quantity[list(main_grid.supply)] @ hours),
        export_kwh=float(quantity[list(main_grid.buys)] @ hours),
        trades=trades(account),
        payments=paid,
        groups=groups(account, paid),
        phantom_kwh=float(phantom.sum(axis=0) @ hours),
        settled_cost=settled_cost(account) if account.behaviour == INTEGRATED else None,
        private_prices=None if trade is None else bus_frame(declaration, "price", trade.prices.ravel()),
    )

