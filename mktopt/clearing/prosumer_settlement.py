"""Money of an auction of prosumers, in the tables of every `Settlement`.

    value of trading p:   v = u(p + g) - u(g)        reward = v - payment

u: the agent's utility; g: its own generation. A buyer's v is what it gains by p kW, a seller's is minus what it gives
up (cost = -v), so that rewards compare with those of orders made from the same people: eq. (1) less u(g), which is the
agent's with or without a market. The upstream grid is paid the import's cost and has neither gain nor loss by it.
Reference: Das, Faqiry, Zarabie, Wu, Game theoretic equilibrium analysis of energy auction in microgrid, 2018, eq. (1).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mktopt.clearing.equilibrium import prosumers_of
from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import DataError, Fault
from mktopt.networks.order_rules import CONSUMER, PRODUCER
from mktopt.networks.prosumers import Prosumers


def prosumer_table(clearing: Clearing, truth: Prosumers | None) -> tuple[pd.DataFrame, FloatArray]:
    """(the dispatch with value [$] (of a bid) or cost (of an offer), reward, role, charged, credited, levy; hours of
    each row [h]); truth: the agents' true utilities, under the same names, in any sequence.

    Raises DataError where an agent has no true utility, or other generation there.
    """
    declared = prosumers_of(clearing)
    true = declared if truth is None else truth
    rows = _rows(declared, true)
    table, periods = clearing.dispatch.copy(), len(clearing.network.hours)
    hours = clearing.network.hours[table["period"].to_numpy()]
    bid = (table["side"] == "bid").to_numpy()
    own = len(declared) * periods
    p = (np.where(bid, 1.0, -1.0) * table["quantity_kw"].to_numpy())[:own].reshape(-1, periods).T
    gained = np.zeros((periods, len(true)))
    gained[:, rows] = p
    value = (true.utility(gained + true.generation_kw) - true.utility(true.generation_kw))[:, rows]
    paid = table["payment"].to_numpy()
    worth = np.r_[hours[:own] * value.T.ravel(), paid[own:]]
    table["role"] = np.where(bid, CONSUMER, PRODUCER)
    table["value"] = np.where(bid, worth, -worth)
    table["reward"] = worth - paid
    table["charged"], table["credited"], table["levy"] = np.where(bid, paid, 0.0), np.where(bid, 0.0, -paid), 0.0
    for name in ("initial_kw", "reduction_kw", "reduction_cost", "reduction_reward"):
        table[name] = np.nan
    return table, hours


def _rows(declared: Prosumers, true: Prosumers) -> np.ndarray:
    """The row in `true` of each declared agent."""
    names = pd.Index(true.table["agent"])
    rows = names.get_indexer(declared.table["agent"])
    missing = declared.table["agent"].to_numpy()[rows < 0]
    faults = [
        Fault("truth", "the agent was cleared but has no true utility", name, hint="add it under the same name")
        for name in missing[:50]
    ]
    if faults:
        raise DataError(faults)
    other = np.flatnonzero(true.generation_kw[rows] != declared.generation_kw)
    faults = [
        Fault("truth", f"the agent declared {declared.generation_kw[k]:g} kW", declared.table["agent"][int(k)],
              "generation_kw", true.generation_kw[rows[k]], "generation is metered; only utilities may differ")
        for k in other[:50]
    ]  # fmt: skip
    if faults:
        raise DataError(faults)
    return rows
