"""The front: the table of mechanisms, and `build`, `solve`, `clear` over it.

A mechanism is a record: how it is declared (`build`), how it is cleared (`run`: one solve by default), how it is
settled, and whom it takes. Adding one is a file in `formulations/` and a row here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mktopt.agents.coalition import run as run_coalition
from mktopt.agents.gne import run as run_auction
from mktopt.clearing.pricing import PRICING
from mktopt.clearing.result import Clearing
from mktopt.clearing.settlement import VARIANTS, Settlement, settle
from mktopt.clearing.solve import solve as solve_at_once
from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.coalition import BEHAVIOURS, coalition
from mktopt.formulations.dlmp import dlmp
from mktopt.formulations.flows import FLOWS, Flow
from mktopt.formulations.flows import flow as flow_named
from mktopt.formulations.flows.common import FlowBuilder
from mktopt.formulations.gne import AGGREGATORS, METHODS, gne
from mktopt.formulations.market import Extra, add_extra, declaration_of, keep_extra, remember
from mktopt.formulations.surplus import surplus
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import SOLVERS

Participants = Orders | Prosumers
# The keyword of a mechanism's function that asks for changing data as mutable Params; no option of the market.
_PARAMETRIC = "parametric"
# How to come by what a mechanism takes.
_MAKERS = {
    Orders: "make orders with mktopt.Orders.from_csv, from_curves or from_steps",
    Prosumers: "make agents with mktopt.Prosumers(table) or mktopt.Prosumers.from_csv, since it needs their utility",
}


@dataclass(frozen=True)
class Mechanism:
    """How a market is declared, cleared and settled.

    build(network, orders, flow, **options) -> ConcreteModel; run(model, solver, solver_options) -> Clearing;
    settle(clearing, truth) -> Settlement; takes: kinds of participants; flow: the default; choices: allowed words of
    an option; as_prosumers: prosumers stay what they are, where other mechanisms make orders of them; flows: names of
    those that it takes, all by default.
    """

    name: str
    build: Callable[..., Any]
    summary: str
    flow: str
    takes: tuple[type, ...] = (Orders, Prosumers)
    run: Callable[..., Clearing] = solve_at_once
    settle: Callable[..., Settlement] = settle
    choices: Mapping[str, Sequence[str]] | None = None
    as_prosumers: bool = False
    flows: tuple[str, ...] = tuple(FLOWS)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(name for name in list(inspect.signature(self.build).parameters)[3:] if name != _PARAMETRIC)

    @property
    def parametric(self) -> bool:
        """Whether its model can be built with mutable Params, for a session."""
        return _PARAMETRIC in inspect.signature(self.build).parameters

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises UnknownNameError for an option, or an option's word, that this mechanism does not have."""
        for name, value in options.items():
            if name not in self.options:
                raise unknown_name(f"option of mechanism '{self.name}'", name, self.options)
            allowed = (self.choices or {}).get(name)
            if allowed is not None and value not in allowed:
                raise unknown_name(f"word for option '{name}' of mechanism '{self.name}':", value, allowed)


MECHANISMS: dict[str, Mechanism] = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism(
            "surplus",
            surplus,
            "pool that maximises net surplus (OpenGridGym use case 1)",
            flow="transport",
            choices={"pricing": tuple(PRICING)},
        ),
        Mechanism(
            "dlmp",
            dlmp,
            "optimal power flow with contingencies: locational prices, demand response (OpenGridGym use case 3)",
            flow="ptdf",
            choices={"pricing": tuple(PRICING), "demand_response": VARIANTS},
        ),
        Mechanism(
            "gne",
            gne,
            "two-level energy auction of prosumers, aggregators and the DSO: generalised Nash equilibrium (Das et al.)",
            flow="transport",
            takes=(Prosumers,),
            run=run_auction,
            choices={"method": METHODS, "aggregator": AGGREGATORS},
            as_prosumers=True,
        ),
        Mechanism(
            "coalition",
            coalition,
            "private wires on a public grid in four behaviours: resource cost, trades, payments (poster on coalitions)",
            flow="lossy",
            takes=(Orders,),
            run=run_coalition,
            choices={"behaviour": BEHAVIOURS},
            flows=("lossy",),
        ),
    )
}


def mechanism_named(name: str) -> Mechanism:
    """The mechanism called `name`; raises UnknownNameError with the nearest one."""
    if name not in MECHANISMS:
        raise unknown_name("mechanism", name, MECHANISMS)
    return MECHANISMS[name]


def build(
    mechanism: str,
    network: Network,
    participants: Participants,
    *,
    flow: str | Flow | FlowBuilder | None = None,
    extra: Sequence[Extra] | Extra = (),
    parametric: bool = False,
    **options: Any,
) -> Any:
    """The declared model of a market: an ordinary Pyomo ConcreteModel, to look at, extend and `solve`.

    mechanism: a name of the table; network; participants: `Orders` or `Prosumers`, as the mechanism takes them (where
    it knows orders alone, quadratic ones become exact orders); flow: a name, a function
    or `mktopt.flow(...)`, None for the mechanism's default; extra: functions `f(model, network)` that add constraints;
    parametric: prices, slopes, widths and ratings become mutable Params of the model, which `mktopt.Session` changes;
    options: of the mechanism. Raises UnknownNameError, DataError, FormulationError.
    """
    record = mechanism_named(mechanism)
    record.check_options(options)
    people = _participants(record, participants, len(_network(network).hours))
    chosen = flow_named(record.flow if flow is None else flow)
    functions = [extra] if callable(extra) else list(extra)
    if not parametric:
        model = record.build(_network(network), people, chosen, **options)
        add_extra(model, functions)
        keep_extra(model, functions)
        return model
    if not record.parametric:
        raise FormulationError(f"mechanism '{mechanism}' cannot be built parametric; build it anew for other data")
    model = record.build(_network(network), people, chosen, parametric=True, **options)
    add_extra(model, functions)
    remember(model, partial(build, mechanism, flow=chosen, extra=tuple(functions), parametric=True, **options))
    return model


def clear(
    mechanism: str,
    network: Network,
    participants: Participants,
    *,
    flow: str | Flow | FlowBuilder | None = None,
    solver: str | Sequence[str] | None = None,
    solver_options: Mapping[str, Any] | None = None,
    extra: Sequence[Extra] | Extra = (),
    **options: Any,
) -> Clearing:
    """Builds and solves a market: `build`, then the mechanism's `run`. See `build` and `solve` for the arguments.

    Raises what they raise; an infeasible market raises InfeasibleError, whose `.report` says what conflicts and the
    least change that would cure it.
    """
    for name in [solver] if isinstance(solver, str) else solver or ():
        if name not in SOLVERS:
            raise unknown_name("solver", name, SOLVERS)
    model = build(mechanism, network, participants, flow=flow, extra=extra, **options)
    return mechanism_named(mechanism).run(model, solver, solver_options)


def solve(
    model: Any, solver: str | Sequence[str] | None = None, solver_options: Mapping[str, Any] | None = None
) -> Clearing:
    """Clears a market model made by `build`, by the way of its mechanism: one solve, or an iteration.

    See `mktopt.clearing.solve.solve` for arguments and errors; the model carries the solution afterwards.
    """
    record = MECHANISMS.get(declaration_of(model).mechanism)
    return (solve_at_once if record is None else record.run)(model, solver, solver_options)


def _network(network: Any) -> Network:
    if not isinstance(network, Network):
        raise FormulationError(
            f"expected a Network, got {type(network).__name__}; load one with mktopt.load_network('ieee34') "
            "or mktopt.Network.from_pandapower(net)"
        )
    return network


def _participants(record: Mechanism, participants: Participants, periods: int) -> Participants:
    """Who takes part, as the mechanism takes them: prosumers become orders where it knows these alone."""
    if type(participants) not in record.takes:
        kinds = " or ".join(kind.__name__ for kind in record.takes)
        ways = " or ".join(_MAKERS[kind] for kind in record.takes if kind in _MAKERS)
        raise FormulationError(
            f"mechanism '{record.name}' takes {kinds}, not {type(participants).__name__}; {ways}"
        )
    if record.as_prosumers and isinstance(participants, Prosumers):
        if len(participants) == 0:
            raise DataError(Fault("prosumers", "there are no agents", hint="an auction needs at least one"))
        return participants
    orders = participants.to_orders(periods=periods) if isinstance(participants, Prosumers) else participants
    if len(orders) == 0:
        raise DataError(Fault("orders", "there are no orders", hint="a market needs at least one"))
    return orders


__all__ = [
    "FLOWS",
    "MECHANISMS",
    "SOLVERS",
    "Mechanism",
    "build",
    "clear",
    "mechanism_named",
    "settle",
    "solve",
]
