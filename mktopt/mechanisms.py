"""The front: the table of mechanisms, and `build`, `solve`, `clear` over it.

A mechanism is a record: how it is declared (`build`), how it is cleared (`run`: one solve by default), how it is
settled, and whom it takes. Adding one is a file in `formulations/` and a row here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mktopt.clearing.pricing import PRICING
from mktopt.clearing.result import Clearing
from mktopt.clearing.settlement import Settlement, settle
from mktopt.clearing.solve import solve
from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.flows import FLOWS, Flow
from mktopt.formulations.flows import flow as flow_named
from mktopt.formulations.flows.common import FlowBuilder
from mktopt.formulations.market import Extra, add_extra
from mktopt.formulations.surplus import surplus
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers
from mktopt.solvers import SOLVERS
from mktopt.solvers.table import PREFERRED

Participants = Orders | Prosumers


@dataclass(frozen=True)
class Mechanism:
    """How a market is declared, cleared and settled.

    build(network, orders, flow, **options) -> ConcreteModel; run(model, solver, solver_options) -> Clearing;
    settle(clearing, truth) -> Settlement; takes: kinds of participants; flow: the default; choices: allowed words of
    an option.
    """

    name: str
    build: Callable[..., Any]
    summary: str
    flow: str
    takes: tuple[type, ...] = (Orders, Prosumers)
    run: Callable[..., Clearing] = solve
    settle: Callable[..., Settlement] = settle
    choices: Mapping[str, Sequence[str]] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(inspect.signature(self.build).parameters)[3:]

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
    **options: Any,
) -> Any:
    """The declared model of a market: an ordinary Pyomo ConcreteModel, to look at, extend and `solve`.

    mechanism: a name of the table; network; participants: `Orders` or quadratic `Prosumers`; flow: a name, a function
    or `mktopt.flow(...)`, None for the mechanism's default; extra: functions `f(model, network)` that add constraints;
    options: of the mechanism. Raises UnknownNameError, DataError, FormulationError.
    """
    record = mechanism_named(mechanism)
    record.check_options(options)
    orders = _orders(record, participants, len(_network(network).hours))
    chosen = flow_named(record.flow if flow is None else flow)
    model = record.build(_network(network), orders, chosen, **options)
    add_extra(model, [extra] if callable(extra) else list(extra))
    return model


def clear(
    mechanism: str,
    network: Network,
    participants: Participants,
    *,
    flow: str | Flow | FlowBuilder | None = None,
    solver: str | None = None,
    solver_options: Mapping[str, Any] | None = None,
    extra: Sequence[Extra] | Extra = (),
    **options: Any,
) -> Clearing:
    """Builds and solves a market: `build`, then the mechanism's `run`. See `build` and `solve` for the arguments.

    Raises what they raise; an infeasible market raises InfeasibleError, whose `.report` says what conflicts and the
    least change that would cure it.
    """
    if solver is not None and solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    model = build(mechanism, network, participants, flow=flow, extra=extra, **options)
    return mechanism_named(mechanism).run(model, solver, solver_options)


def _network(network: Any) -> Network:
    if not isinstance(network, Network):
        raise FormulationError(
            f"expected a Network, got {type(network).__name__}; load one with mktopt.load_network('ieee34') "
            "or mktopt.Network.from_pandapower(net)"
        )
    return network


def _orders(record: Mechanism, participants: Participants, periods: int) -> Orders:
    if type(participants) not in record.takes:
        kinds = " or ".join(kind.__name__ for kind in record.takes)
        raise FormulationError(
            f"mechanism '{record.name}' takes {kinds}, not {type(participants).__name__}; "
            "make orders with mktopt.Orders.from_csv, from_curves or from_steps"
        )
    orders = participants.to_orders(periods=periods) if isinstance(participants, Prosumers) else participants
    if len(orders) == 0:
        raise DataError(Fault("orders", "there are no orders", hint="a market needs at least one"))
    return orders


def overview() -> pd.DataFrame:
    """What can be combined: a row per mechanism and flow, the solvers of each problem class, preferred one first.

    Columns: mechanism, flow, grids, then one per problem class (LP: flat curves; QP: affine curves; MILP and MIQP:
    the same with orders that are all or nothing).
    """
    takers = {kind: ", ".join(_takers(kind)) for kind in PREFERRED}
    return pd.DataFrame([
        {
            "mechanism": mechanism.name,
            "flow": record.name + (" (default)" if record.name == mechanism.flow else ""),
            "grids": "radial" if record.radial_only else "radial, meshed",
            **takers,
        }
        for mechanism in MECHANISMS.values()
        for record in FLOWS.values()
    ])  # fmt: skip


def _takers(kind: str) -> list[str]:
    names = [name for name, solver in SOLVERS.items() if kind in solver.takes]
    return sorted(names, key=lambda name: name != PREFERRED[kind])


__all__ = [
    "FLOWS",
    "MECHANISMS",
    "SOLVERS",
    "Mechanism",
    "build",
    "clear",
    "mechanism_named",
    "overview",
    "settle",
    "solve",
]
