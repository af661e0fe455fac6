"""The tables of a `Clearing` that say what the grid does: prices, flows, voltages, slack cones, rows of the user's own.

Read from a solved model; nothing here knows who trades.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo

from mktopt.clearing.consistency import carried_kva
from mktopt.clearing.result import FloatArray
from mktopt.formulations.flows.distflow import relaxation_gap
from mktopt.formulations.flows.lossy import loss_gap
from mktopt.formulations.market import Declaration
from mktopt.solvers.prices import welfare_duals
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Solution


def bus_frame(declaration: Declaration, column: str, values: FloatArray) -> pd.DataFrame:
    """bus, period, `column` from values of shape (buses * periods,), bus by bus."""
    network = declaration.network
    periods = len(network.hours)
    return pd.DataFrame({
        "bus": np.repeat(network.buses["bus"].to_numpy(), periods),
        "period": np.tile(np.arange(periods), network.n_buses),
        column: values,
    })  # fmt: skip


def flow_frame(model: Any, declaration: Declaration) -> pd.DataFrame:
    """branch, period, p_kw, loading_percent (with q_kvar, to_kw, to_kvar, loss_kw where the flow has them).

    Loading: of the apparent power at the end that carries more. No rows without branch flows (copperplate).
    """
    network = declaration.network
    component = model.grid.component("p_kw")
    if component is None:
        return pd.DataFrame({"branch": np.array([], dtype=object), "period": np.array([], dtype=int),
                             "p_kw": np.array([]), "loading_percent": np.array([])})  # fmt: skip
    periods = len(network.hours)
    found = {name: _values(model.grid.component(name)) for name in ("p_kw", "q_kvar", "to_kw", "to_kvar", "loss_kw")}
    columns = {name: values for name, values in found.items() if values is not None}
    if getattr(model.grid, "loss_shared", False):  # `p_kw` of the model is the mean of both ends
        half = 0.5 * columns["loss_kw"]
        columns |= {"to_kw": columns["p_kw"] - half, "p_kw": columns["p_kw"] + half}
    return pd.DataFrame({
        "branch": np.repeat(network.lines["branch"].to_numpy(), periods),
        "period": np.tile(np.arange(periods), network.n_branches),
        **columns,
        "loading_percent": 100 * carried_kva(columns) / np.repeat(network.lines["rating_kva"].to_numpy(), periods),
    })  # fmt: skip


def _values(component: Any) -> FloatArray | None:
    """The values of a component of the flow, None where it has none of that name."""
    if component is None:
        return None
    return np.fromiter((pyo.value(item) for item in component.values()), dtype=float, count=len(component))


def voltage_frame(model: Any, declaration: Declaration) -> pd.DataFrame | None:
    """bus, period, v_pu, None where the flow has no voltages."""
    v2 = _values(model.grid.component("v2"))
    return None if v2 is None else bus_frame(declaration, "v_pu", np.sqrt(v2))


def relaxation_frame(model: Any, declaration: Declaration) -> pd.DataFrame | None:
    """branch, period, gap, phantom_kw, phantom_kvar, slack of cones that stand for equations; None without any."""
    network = declaration.network
    if not getattr(model.grid, "relaxed", False):
        return None
    shared = getattr(model.grid, "loss_shared", False)
    found = loss_gap(model.grid, network) if shared else relaxation_gap(model.grid, network)
    return pd.DataFrame({
        "branch": np.repeat(network.lines["branch"].to_numpy(), len(network.hours)),
        "period": np.tile(np.arange(len(network.hours)), network.n_branches),
        "gap": found.gap.ravel(),
        "phantom_kw": found.phantom_kw.ravel(),
        "phantom_kvar": found.phantom_kvar.ravel(),
        "slack": found.slack.ravel(),
    })  # fmt: skip


def slack_cones(relaxation: pd.DataFrame | None) -> list[str]:
    """A warning that names the branches whose cones are slack."""
    if relaxation is None or not (slack := relaxation["slack"].to_numpy()).any():
        return []
    branches = relaxation["branch"][slack].drop_duplicates().tolist()
    named = ", ".join(map(str, branches[:6])) + (f" and {len(branches) - 6} more" if len(branches) > 6 else "")
    sizes = {unit: float(relaxation[f"phantom_{unit}"][slack].abs().max()) for unit in ("kw", "kvar")}
    most = max(sizes.values())
    lost = " and ".join(f"{size:.4g} {unit.replace('kw', 'kW')}" for unit, size in sizes.items() if size > 1e-6 * most)
    return [
        f"the relaxation is not tight on {named}: these branches lose up to {lost} in the model that no wire would, so "
        "no power flow matches this dispatch (see .relaxation); the same flow with exact=True has none of it"
    ]


def constraint_frame(own: list[Any], program: Program, solution: Solution) -> pd.DataFrame:
    """name, index, slack, dual of the user's rows; dual: welfare gained per unit of right-hand side [$]."""
    multipliers = welfare_duals(program, solution)
    records = []
    for row in own:
        body = pyo.value(row.body)
        gaps = [body - pyo.value(row.lower)] if row.has_lb() else []
        gaps += [pyo.value(row.upper) - body] if row.has_ub() else []
        index = row.index()
        text = "" if index is None else ", ".join(map(str, index)) if isinstance(index, tuple) else str(index)
        records.append((row.parent_component().name, text, min(gaps, default=np.inf), multipliers[program.row(row)]))
    return pd.DataFrame(records, columns=["name", "index", "slack", "dual"])
