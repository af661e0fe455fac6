"""A scenario: which market to clear on which grid, as a `scenario.toml` beside its CSV files.

network   = "."            # a named case, or a path relative to this file; "." is this folder
orders    = "orders.csv"   # left out: orders.csv where there is one, else the default orders of the network
prosumers = "people.csv"   # for mechanisms that take prosumers; left out: prosumers.csv, else those of the network
mechanism = "surplus"
flow      = "transport"    # or a table: flow = {name = "dc"}
solver    = "clarabel"     # left out: the one that suits the problem
hours     = [1.0, 1.0]     # left out: those of the network
seed      = 1              # for what is drawn at random
[options]                  # of the mechanism
pricing   = "nodal"
[solver_options]           # of the solver
time_limit = 60
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mktopt.errors import DataError, Fault, MktoptError, UnknownNameError, unknown_name
from mktopt.networks.cases import case_names, load_case, load_network
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers
from mktopt.words import parse_flow

if TYPE_CHECKING:
    from mktopt.clearing.result import Clearing
    from mktopt.formulations.flows import Flow

FILE = "scenario.toml"
# What each key holds, and how that is called in a message.
KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "network": ((str,), "text: a named case or a path"),
    "orders": ((str,), "text: a path"),
    "prosumers": ((str,), "text: a path"),
    "mechanism": ((str,), "text"),
    "flow": ((str, dict), "text or a table with a name and options"),
    "solver": ((str,), "text"),
    "hours": ((int, float, list), "a number or a list of numbers"),
    "seed": ((int,), "a whole number"),
    "options": ((dict,), "a table"),
    "solver_options": ((dict,), "a table"),
}


class Market(NamedTuple):
    """What a scenario loads: the network, who is on it, and where they come from."""

    network: Network
    participants: Orders | Prosumers
    origin: str


@dataclass(frozen=True)
class Scenario:
    """Names and paths of a market to clear; nothing is loaded before `load`.

    network: named case or path; orders, prosumers: files, None for those of the network; folder: what paths are
    relative to; table: how messages call the source of these names.
    """

    network: str = "."
    orders: str | Path | None = None
    prosumers: str | Path | None = None
    mechanism: str = "surplus"
    flow: str | Mapping[str, Any] | None = None
    solver: str | None = None
    hours: Any = None
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    table: str = "command line"

    def replace(self, **changes: Any) -> Scenario:
        """This scenario with every change that is not None."""
        return dataclasses.replace(self, **{key: value for key, value in changes.items() if value is not None})

    def network_source(self) -> str | Path:
        """The named case, or the path of the network; raises UnknownNameError where it is neither."""
        name, path = self.network, self.folder / self.network
        if name in case_names():
            return name
        if name.split(":")[0] == "synthetic":
            return f"{name}:{self.seed}" if self.seed is not None and name.count(":") == 2 else name
        if path.exists():
            return path
        if "/" in name or path.suffix in (".m", ".json", ".csv"):
            raise MktoptError(f"no such file or folder: {str(path)!r}; check the path")
        error = unknown_name("case", name, case_names())
        raise UnknownNameError(f"{error}. There is no file or folder of that name either")

    def orders_source(self) -> Path | None:
        """The file of the orders, None where they come with the network."""
        if self.orders is not None:
            return self.folder / self.orders
        beside = self.folder / "orders.csv"
        return beside if self.table == FILE and beside.exists() else None

    def prosumers_source(self) -> Path | None:
        """The file of the prosumers, None where they come with the network or the mechanism wants orders."""
        if self.prosumers is not None:
            return self.folder / self.prosumers
        beside = self.folder / "prosumers.csv"
        return beside if self._of_prosumers and self.table == FILE and beside.exists() else None

    @property
    def _of_prosumers(self) -> bool:
        """Whether the mechanism takes prosumers as they are."""
        from mktopt.mechanisms import MECHANISMS

        return self.mechanism in MECHANISMS and MECHANISMS[self.mechanism].as_prosumers

    def flow_chosen(self) -> Flow | None:
        """The flow with its options, None for the mechanism's default."""
        from mktopt.formulations.flows import flow

        if self.flow is None:
            return None
        if isinstance(self.flow, str):
            name, options = parse_flow(self.flow)
            return flow(name, **options)
        options = dict(self.flow)
        if "name" not in options:
            raise DataError(Fault(self.table, "the table has no name", None, "flow", hint='flow = {name = "dc"}'))
        return flow(str(options.pop("name")), **options)

    def load(self) -> Market:
        """Reads the network and who is on it; raises DataError or UnknownNameError."""
        source, file, people = self.network_source(), self.orders_source(), self.prosumers_source()
        if self.orders is not None and self.prosumers is not None:
            raise MktoptError("name a file of orders or one of prosumers, not both")
        if isinstance(source, Path) and source.is_dir() and not (source / "network.toml").exists():
            hint = f"a market has {FILE}, a network has network.toml, buses.csv and branches.csv"
            raise DataError(Fault(str(source), f"the folder holds neither {FILE} nor network.toml", hint=hint))
        if people is not None:
            return Market(self.timed(load_network(source)), Prosumers.from_csv(people), str(people))
        if file is not None:
            return Market(self.timed(load_network(source)), Orders.from_csv(file), str(file))
        case = load_case(source)
        if self._of_prosumers and case.prosumers is not None:
            return Market(self.timed(case.network), case.prosumers, f"{len(case.prosumers)} agents of the network")
        participants = case.orders if case.orders is not None else case.prosumers
        if participants is None:
            raise DataError(Fault(str(source), "there are no orders", hint="name a file of orders"))
        network = self.timed(case.network)
        if isinstance(participants, Orders):
            participants = _in_every_period(participants, len(case.network.hours), len(network.hours))
        return Market(network, participants, str(case.meta.get("defaults", "those of the network")))

    def load_network(self) -> Network:
        """Reads the network alone; raises DataError or UnknownNameError."""
        return self.timed(load_network(self.network_source()))

    def timed(self, network: Network) -> Network:
        """`network` with the hours of this scenario, if it has some."""
        return network if self.hours is None else network.replace(hours=self.hours)

    def clear(self, market: Market) -> Clearing:
        """Clears `market` as this scenario says; raises what `mktopt.clear` raises."""
        from mktopt.mechanisms import clear, mechanism_named

        options = dict(self.options)
        if self.seed is not None and "seed" in mechanism_named(self.mechanism).options:
            options.setdefault("seed", self.seed)
        return clear(
            self.mechanism,
            market.network,
            market.participants,
            flow=self.flow_chosen(),
            solver=self.solver,
            solver_options=dict(self.solver_options),
            **options,
        )

    def check_names(self) -> list[Fault]:
        """A fault for each unknown mechanism, flow, solver or option, all of them."""
        from mktopt.mechanisms import mechanism_named
        from mktopt.solvers import SOLVERS

        faults: list[Fault] = []
        for column, check in (
            ("mechanism", lambda: mechanism_named(self.mechanism).check_options({})),
            ("flow", self.flow_chosen),
        ):
            try:
                check()
            except DataError as error:
                faults += error.faults
            except MktoptError as error:
                faults.append(Fault(self.table, str(error), column=column))
        if self.solver is not None and self.solver not in SOLVERS:
            faults.append(Fault(self.table, str(unknown_name("solver", self.solver, SOLVERS)), column="solver"))
        for name, value in self.options.items():
            try:
                mechanism_named(self.mechanism).check_options({name: value})
            except MktoptError as error:
                if not any(fault.column == "mechanism" for fault in faults):
                    faults.append(Fault(self.table, str(error), column=f"options.{name}"))
        return faults


def _in_every_period(orders: Orders, known: int, wanted: int) -> Orders:
    """Orders of one period in each of the `wanted` ones; others stay as they are."""
    if known != 1 or wanted == 1:
        return orders
    import pandas as pd

    tables = [
        pd.concat([table.assign(period=period) for period in range(wanted)], ignore_index=True)
        for table in (orders.orders, orders.segments)
    ]
    return Orders(tables[0], tables[1], orders.meta)


def find(target: str) -> Scenario:
    """The scenario that `target` names: a scenario.toml, a folder with one, a named case, or a network's path."""
    path = Path(target)
    if target in case_names():
        return Scenario(network=target)
    if path.is_dir() and (path / FILE).exists():
        return read(path / FILE)
    if path.name == "network.toml":
        return Scenario(network=str(path.parent))
    if path.suffix == ".toml":
        return read(path)
    return Scenario(network=target)


def read(path: str | Path) -> Scenario:
    """The scenario in a TOML file; raises DataError with every fault of its keys."""
    scenario, faults = parse(Path(path))
    if faults:
        raise DataError(faults)
    return scenario


def parse(path: Path) -> tuple[Scenario, list[Fault]]:
    """The scenario in a TOML file and the faults of its keys; a faulty key is left out of the scenario."""
    base = Scenario(folder=path.parent, table=path.name)
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return base, [Fault(str(path), "no such file", hint="check the path")]
    except UnicodeDecodeError as error:
        return base, [Fault(str(path), f"not UTF-8 text (byte {error.start})", hint="save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return base, [Fault(str(path), f"not valid TOML: {error}", hint='text needs quotes: network = "ieee34"')]
    except OSError as error:
        return base, [Fault(str(path), f"cannot be read: {error.strerror}")]
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for key, value in content.items():
        kinds, described = KEYS.get(key, ((), ""))
        if not kinds:
            faults.append(Fault(path.name, "unknown key", column=key, hint=_nearest(key, KEYS)))
        elif not isinstance(value, kinds) or isinstance(value, bool):
            faults.append(Fault(path.name, "wrong kind of value", None, key, value, f"it must be {described}"))
        else:
            values[key] = value
    return dataclasses.replace(base, **values), faults


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return (f"did you mean '{close[0]}'? " if close else "") + f"known: {', '.join(known)}"
