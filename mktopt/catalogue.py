"""What there is to choose from, as tables: cases, mechanisms, flows, solvers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from mktopt.networks.cases import CASES, SYNTHETIC, folder_of, load_case, load_network
from mktopt.networks.csv_folder import read_about


def case_table() -> pd.DataFrame:
    """case, buses, branches (in service), loads, radial, about, source, licence of every named case.

    The random one has as many buses as its name says, so that its numbers are missing.
    """
    rows: list[dict[str, Any]] = []
    for name, summary in CASES.items():
        row: dict[str, Any] = {"case": name}
        if name == SYNTHETIC:
            row |= {"radial": "yes", "source": "generated", "licence": "free"}
        else:
            network, about = load_network(name), read_about(folder_of(name))
            row |= {"buses": network.n_buses, "branches": network.n_branches, "loads": len(network.loads)}
            row |= {"radial": "yes" if network.topology.is_radial else "no"}
            row |= {key: str(about.get(key, "")) for key in ("source", "licence")}
        rows.append(row | {"about": summary})
    columns = ["case", "buses", "branches", "loads", "radial", "about", "source", "licence"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[1:4], "Int64"))


def about_case(name: str) -> pd.DataFrame:
    """fact, text: what is known of one case, its default orders among it."""
    from mktopt.describing import describe

    case = load_case(name)
    facts = {"name": name, "about": CASES.get(name, ""), "network": describe(case.network)}
    if case.orders is not None:
        facts["orders"] = describe(case.orders)
    if case.prosumers is not None:
        facts["prosumers"] = f"{len(case.prosumers)} agents"
    facts |= {str(key): _told(value) for key, value in case.meta.items() if key != "name"}
    return pd.DataFrame([(key, text) for key, text in facts.items() if text], columns=["fact", "text"])


def _told(value: Any) -> str:
    """A fact in words; of a table its entries."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {entry}" for key, entry in value.items())
    return str(value)


def mechanism_table() -> pd.DataFrame:
    """mechanism, flow (its default), options, about of every mechanism."""
    from mktopt.mechanisms import MECHANISMS

    rows = []
    for mechanism in MECHANISMS.values():
        choices = mechanism.choices or {}
        options = [f"{name}={'|'.join(choices[name])}" if name in choices else name for name in mechanism.options]
        rows.append((mechanism.name, mechanism.flow, ", ".join(options), mechanism.summary))
    return pd.DataFrame(rows, columns=["mechanism", "flow", "options", "about"])


def flow_table() -> pd.DataFrame:
    """flow, grids (any or radial), options, about of every flow."""
    from mktopt.formulations.flows import FLOWS

    rows = [
        (flow.name, "radial" if flow.radial_only else "any", ", ".join(options_of(flow.build)), flow.summary)
        for flow in FLOWS.values()
    ]
    return pd.DataFrame(rows, columns=["flow", "grids", "options", "about"])


def options_of(build: Callable[..., Any]) -> list[str]:
    """Names of the options of a flow: what its function takes after block, network and injection."""
    return list(inspect.signature(build).parameters)[3:]


def solver_table() -> pd.DataFrame:
    """solver, takes (problem classes), here (whether it can be used, which version), about of every solver."""
    from mktopt.solvers import SOLVERS

    rows = [(name, ", ".join(s.takes), str(s.available()), s.summary) for name, s in SOLVERS.items()]
    return pd.DataFrame(rows, columns=["solver", "takes", "here", "about"])


def combinations() -> pd.DataFrame:
    """mechanism, flows (its default first), takes (kinds of participants) of every mechanism."""
    from mktopt.mechanisms import MECHANISMS

    rows = []
    for mechanism in MECHANISMS.values():
        flows = sorted(mechanism.flows, key=lambda name: name != mechanism.flow)
        rows.append((mechanism.name, ", ".join(flows), ", ".join(kind.__name__ for kind in mechanism.takes)))
    return pd.DataFrame(rows, columns=["mechanism", "flows, the default first", "takes"])


# What makes a market, or any other model, belong to a problem class.
_ARISES = {
    "LP": "flat price curves; linear constraints",
    "MILP": "the same with orders that are all or nothing, or whole-number variables",
    "QP": "affine price curves: a quadratic objective, convex when minimised",
    "MIQP": "the same with orders that are all or nothing, or whole-number variables",
    "SOCP": "convex quadratic constraints; sums of squares below a product of two variables >= 0",
    "MISOCP": "the same with whole-number variables",
    "EXP": "also logarithms of affine expressions, concave when maximised",
    "MIEXP": "the same with whole-number variables",
    "NLP": "every other smooth model, among them all that are not convex (a local optimum)",
}


def class_table() -> pd.DataFrame:
    """problem class, arises from, solvers (the preferred one first) of every problem class that a solver takes."""
    from mktopt.solvers import SOLVERS
    from mktopt.solvers.table import PREFERRED

    rows = []
    for kind in sorted(PREFERRED, key=list(_ARISES).index):
        names = [name for name, solver in SOLVERS.items() if kind in solver.takes]
        rows.append((kind, _ARISES[kind], ", ".join(sorted(names, key=lambda name: name != PREFERRED[kind]))))
    return pd.DataFrame(rows, columns=["problem class", "arises from", "solvers, the preferred one first"])
