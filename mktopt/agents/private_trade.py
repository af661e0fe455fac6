"""What owners of private wires decide before the public grid is looked at: behaviours `ad_hoc` and `self_interested`.

**ad_hoc.** Pairs at the ends of a private wire trade over it, the nearest first (length, then name), each wire once. A
bus that exports y kW in sum has the marginal cost M(y) of its orders and the tariffs (`mktopt.clearing.merit_order`).
The mean flow f from i to j takes f + rho f^2 / 2 from i and brings f - rho f^2 / 2 to j, and maximises what both gain:

    M_j(y_j - f + rho f^2 / 2) (1 - rho f) = M_i(y_i + f + rho f^2 / 2) (1 + rho f)

or ends at the rating or where a marginal cost jumps. Where neither has enough, f = (r - phi) / (rho (r + phi)) with
retail r and feed-in phi. No trade without a gain. Those whose consent it takes share the gain in equal parts: buyer and
seller, and owners who are at neither end.

**self_interested.** Every private group solves its own program (`mktopt.formulations.coalition.private_market`), one
QCQP for all, since they share nothing. Its balance duals are prices within the group.

Both are blind to the public grid, and to constraints of the user's own.
Reference: poster "Coalitions on private infrastructure".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyomo.common.gc_manager import PauseGC

from mktopt.clearing.coalition_tables import positions, third_parties, wires_known
from mktopt.clearing.diagnosis import unbounded
from mktopt.clearing.merit_order import MeritOrder
from mktopt.clearing.tight import least_losses
from mktopt.errors import FormulationError, SolverError
from mktopt.formulations.coalition import AD_HOC, SELF_INTERESTED, MainGrid, private_market
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network
from mktopt.networks.orders import Orders
from mktopt.solvers import compile
from mktopt.solvers import solve as solve_program
from mktopt.solvers.prices import row_prices
from mktopt.solvers.solution import Stopped

_HALVINGS = 100


@dataclass(frozen=True, eq=False)
class PrivateTrade:
    """What private wires carry, and what orders do, by the will of those who own them.

    behaviour: its name; p_kw, loss_kw: mean flow and loss of branches in service, shape (n_branches, T), zero for
    public ones [kW]; segment_kw: of each segment of `orders`, shape (segments,) [kW], the main grid's zero; prices:
    what a kWh is worth at each bus to those there, shape (n_buses, T) [$/kWh]; paid: of ad_hoc, what the buyer pays
    over each wire, and received: what the seller gets, shape (n_branches, T) [$], None else; solver: of the program.
    """

    behaviour: str
    p_kw: FloatArray
    loss_kw: FloatArray
    segment_kw: FloatArray
    prices: FloatArray
    paid: FloatArray | None = None
    received: FloatArray | None = None
    solver: str = ""


# -- pairs of neighbours -----------------------------------------------------------------------------------------------


def ad_hoc(network: Network, orders: Orders, main_grid: MainGrid, radius_km: float | None = None) -> PrivateTrade:
    """Greedy trades of neighbours, the nearest first, over wires no longer than `radius_km` (None: all).

    A wire with nobody at one of its ends carries nothing. Raises DataError where a private wire has no length, and
    FormulationError where a trade would have no end (endless orders over a wire without resistance and rating).
    """
    wires = wires_known(network, radius_km)
    shape = (network.n_branches, len(network.hours))
    p_kw, paid, received = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    prices, segment_kw = np.zeros((network.n_buses, shape[1])), np.zeros(len(orders.segments))
    ends = list(zip(network.from_index[wires].tolist(), network.to_index[wires].tolist(), strict=True))
    rho, rating = units.loss_per_kw(network).tolist(), network.lines["rating_kva"].tolist()
    parties = 2 + third_parties(network, orders).sum(axis=1)
    for t in network.periods:
        at = positions(network, orders, main_grid, t)
        y = dict.fromkeys(at, 0.0)
        for wire, (i, j) in zip(wires.tolist(), ends, strict=True):
            if i not in at or j not in at:
                continue
            trade = _trade(at, y, i, j, rho[wire], rating[wire])
            if trade.flow == 0.0:
                continue
            seller, buyer = (i, j) if trade.flow > 0 else (j, i)
            cost = at[seller].cost(trade.exports) - at[seller].cost(y[seller])
            value = at[buyer].cost(y[buyer]) - at[buyer].cost(trade.imports)
            part = (value - cost) / parties[wire] * network.hours[t]
            paid[wire, t], received[wire, t] = value * network.hours[t] - part, cost * network.hours[t] + part
            p_kw[wire, t], y[seller], y[buyer] = trade.flow, trade.exports, trade.imports
        for bus, position in at.items():
            segment_kw[position.segments] = position.fill(y[bus])
            prices[bus, t] = 0.5 * (position.left(y[bus]) + position.right(y[bus]))
        nobody = [bus for bus in range(network.n_buses) if bus not in at]
        prices[nobody, t] = 0.5 * (main_grid.feed_in[t] + main_grid.retail[t])
    loss = units.loss_per_kw(network)[:, None] * p_kw**2
    return PrivateTrade(AD_HOC, p_kw, loss, segment_kw, prices, paid, received)


@dataclass(frozen=True)
class _Trade:
    """flow: mean, positive from i to j [kW]; exports, imports: what seller and buyer export in sum after it [kW]."""

    flow: float
    exports: float = 0.0
    imports: float = 0.0


def _trade(at: Mapping[int, MeritOrder], y: Mapping[int, float], i: int, j: int, rho: float, rating: float) -> _Trade:
    """The best trade between `i` and `j` from where they stand; its flow is negative where j sells."""
    one, other = at[i], at[j]
    if other.left(y[j]) > one.right(y[i]):
        return best_flow(one, y[i], other, y[j], rho, rating)
    if one.left(y[i]) > other.right(y[j]):
        found = best_flow(other, y[j], one, y[i], rho, rating)
        return _Trade(-found.flow, found.exports, found.imports)
    return _Trade(0.0)


def best_flow(seller: MeritOrder, sold: float, buyer: MeritOrder, bought: float, rho: float, rating: float) -> _Trade:
    """The flow that maximises what both gain, where they export `sold` and `bought` so far [kW].

    Walks from kink to kink of the marginal costs; between two it is a root, in closed form where both are flat.
    Raises FormulationError where the gain has no end.
    """
    flow, exports, imports = 0.0, sold, bought
    while True:
        dear, cheap = buyer.before(imports), seller.after(exports)

        def gain(f: float, dear: Any = dear, cheap: Any = cheap) -> float:
            half = 0.5 * rho * f * f
            return float(
                dear.at(max(bought - f + half, dear.low_kw)) * (1.0 - rho * f)
                - cheap.at(min(sold + f + half, cheap.high_kw)) * (1.0 + rho * f)
            )

        if gain(flow) <= 0.0:
            return _Trade(flow, exports, imports)
        full, sated = _leaving(cheap.high_kw - sold, rho), _arriving(bought - dear.low_kw, rho)
        end = min(full, sated, rating, 1.0 / rho if rho > 0.0 else np.inf)
        if not np.isfinite(end):
            raise FormulationError(
                "an ad hoc trade has no end: two orders without a limit meet over a wire without resistance and rating"
            )
        if gain(end) < 0.0:
            flow = _root(gain, flow, end, dear, cheap, rho)
            return _Trade(flow, sold + flow + 0.5 * rho * flow**2, bought - flow + 0.5 * rho * flow**2)
        flow, half = end, 0.5 * rho * end**2
        exports = cheap.high_kw if end == full else sold + end + half
        imports = dear.low_kw if end == sated else bought - end + half
        if end == rating or rho * end >= 1.0:
            return _Trade(flow, exports, imports)


def _root(gain: Any, low: float, high: float, dear: Any, cheap: Any, rho: float) -> float:
    """Where the gain per kW, which falls, is zero between `low` and `high`."""
    if dear.low == dear.high and cheap.low == cheap.high:
        return float((dear.low - cheap.low) / (rho * (dear.low + cheap.low)))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if gain(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)


def _leaving(kw: float, rho: float) -> float:
    """The mean flow f with f + rho f^2 / 2 = kw."""
    return kw if np.isinf(kw) else float(2.0 * kw / (1.0 + np.sqrt(1.0 + 2.0 * rho * kw)))


def _arriving(kw: float, rho: float) -> float:
    """The mean flow f with f - rho f^2 / 2 = kw, infinite where no flow brings so much."""
    return float(2.0 * kw / (1.0 + np.sqrt(1.0 - 2.0 * rho * kw))) if 2.0 * rho * kw <= 1.0 else np.inf


# -- groups ------------------------------------------------------------------------------------------------------------


def self_interested(
    network: Network,
    orders: Orders,
    main_grid: MainGrid,
    solver: str | Sequence[str] | None = None,
    solver_options: Mapping[str, Any] | None = None,
) -> PrivateTrade:
    """What every private group chooses for itself at the tariffs: the optimum of `private_market`.

    solver, solver_options: see `mktopt.solvers.solve`. A group is never short, since the tariffs have no limit; the
    main grid's may show when all is settled. Raises UnboundedError (an endless order that a tariff makes worth while,
    named), SolverError where there is no answer.
    """
    with PauseGC():
        model = private_market(network, orders, main_grid)
        program = compile(model)
        solution = solve_program(program, solver, solver_options)
    if solution.status.stopped is Stopped.UNBOUNDED:
        raise unbounded(model, program)
    if not solution.status.ok:
        raise SolverError(f"the private groups' own program was not solved ({solution.status}): {solution.message}")
    if min(main_grid.feed_in) <= 0.0:  # what is worth nothing may be sent round for nothing
        losses = list(model.grid.loss_kw.values())
        solution = least_losses(program, solution, losses, max(main_grid.retail) or 1.0, solver, solver_options)
    shape = (network.n_branches, len(network.hours))
    x = np.clip(solution.x, program.lower, program.upper)
    p_kw = program.values(x, list(model.grid.p_kw.values())).reshape(shape)
    mine = main_grid.agents(orders)
    segment_kw, segments = np.zeros(len(orders.segments)), list(model.segment_kw.values())
    segment_kw[mine[orders.segment_order]] = program.values(x, segments)
    rows = np.array([program.row(row) for row in model.grid.balance.values()], dtype=np.int64)
    sign = orders.injection_sign[orders.segment_order][mine[orders.segment_order]]
    hours = np.tile(network.hours, network.n_buses)
    prices = row_prices(program, solution, rows, program.columns(segments), sign, hours)
    loss = units.loss_per_kw(network)[:, None] * p_kw**2
    prices = prices.reshape(network.n_buses, -1)
    return PrivateTrade(SELF_INTERESTED, p_kw, loss, segment_kw, prices, solver=solution.solver)
