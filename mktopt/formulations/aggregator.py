"""The aggregators' welfare problem, declared: COP (7) of the paper.

    max  sum_k Theta_k,   Theta_k = sum_{i in k} u_i(x_i)    s.t.   sum_{i in k} (x_i - g_i) <= p_k,    x_i >= 0     (7)

x_i: consumption [kW]; g_i: generation; p_k: net requirement that aggregator k receives from the DSO. The aggregators
have no row in common, so that one model holds any number of them; the multiplier of coupling[k] is the unit cost c_k.
Reference: Das, Faqiry, Zarabie, Wu, Game Theoretic Equilibrium Analysis of Energy Auction in Microgrid, (7)-(9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC

from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.formulations.utilities import utility_expression
from mktopt.networks.prosumers import Prosumers


def aggregator_welfare(prosumers: Prosumers, p_kw: Mapping[str, float] | npt.ArrayLike) -> Any:
    """COP (7) as a ConcreteModel, for net requirements `p_kw` [kW]: by name (only these aggregators), or all (K,).

    consumption_kw[agent]; coupling[aggregator]; objective welfare [$/h] (maximised). Raises UnknownNameError for an
    unknown aggregator, DataError for p_k below -G_k or not finite, and where an own utility is not concave.
    """
    prosumers.refuse_not_concave()
    needs = _requirements(prosumers, p_kw)
    table = prosumers.table
    rows = np.flatnonzero(table["aggregator"].isin(list(needs))).tolist()
    names = table["agent"].to_numpy()
    with PauseGC():
        model = pyo.ConcreteModel("aggregator_welfare")
        model.aggregators = pyo.Set(initialize=list(needs), ordered=True)
        model.agents = pyo.Set(initialize=[names[i] for i in rows], ordered=True)
        model.consumption_kw = pyo.Var(model.agents, bounds=(0, None))
        x = model.consumption_kw
        utilities = [utility_expression(prosumers, i, x[names[i]]) for i in rows]
        model.welfare = pyo.Objective(expr=sum(utilities), sense=pyo.maximize)
        members = table.iloc[rows].groupby("aggregator", sort=False)["agent"].agg(list)
        total = table.groupby("aggregator")["generation_kw"].sum()

        def coupling(model: Any, k: str) -> Any:
            return sum(x[agent] for agent in members[k]) <= needs[k] + float(total[k])

        model.coupling = pyo.Constraint(model.aggregators, rule=coupling)
    for i in rows:  # a start inside the domain of every utility
        x[names[i]].set_value(max(float(prosumers.generation_kw[i]), 1.0))
    return model


def _requirements(prosumers: Prosumers, p_kw: Any) -> dict[str, float]:
    """Net requirement by aggregator, refused where it cannot be met."""
    frame = prosumers.aggregators
    own = dict(zip(frame["aggregator"], frame["generation_kw"].astype(float), strict=True))
    if isinstance(p_kw, Mapping):
        for name in p_kw:
            if name not in own:
                raise unknown_name("aggregator", name, own)
        needs = {str(name): float(value) for name, value in p_kw.items()}
    else:
        values = np.asarray(p_kw, dtype=float)
        if values.shape != (len(own),):
            raise FormulationError(
                f"p_kw has shape {values.shape} where there are {len(own)} aggregators; "
                "give one number each, or a mapping by name"
            )
        needs = dict(zip(own, values.tolist(), strict=True))
    faults = []
    for name, value in needs.items():
        least = -own[name]
        if not np.isfinite(value) or value < least - 1e-9 * max(1.0, -least):
            problem = f"{name!r} can give at most its generation: p_k must be finite and >= -G_k = {least:.6g} kW"
            faults.append(Fault("net requirements", problem, name, "p_kw", value, "raise p_k"))
    if faults:
        raise DataError(faults)
    return needs
