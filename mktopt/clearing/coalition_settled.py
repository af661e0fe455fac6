"""What private flows and elastic orders cost when physics settles them: `settled_cost` of behaviour `integrated`.

With these and firm orders given, nothing is left to choose: public wires carry what a power flow with losses says
(`mktopt.clearing.lossy_power_flow`) and the main grid gives or takes what is missing at the source.
"""

from __future__ import annotations

import numpy as np

from mktopt.clearing.coalition_tables import Account
from mktopt.clearing.lossy_power_flow import lossy_power_flow
from mktopt.networks import units
from mktopt.networks.network import FloatArray

# Limits are kept, and what is given arrives, within this share of the greatest order.
_FITS = 1e-6


def settled_cost(account: Account) -> float | None:
    """The resource cost [$] of the account's private flows and elastic orders under physics.

    None where no power flow exists, or where it breaks a rating, needs more than the main grid's orders, or leaves a
    part of the grid that the source does not reach with too much or too little.
    """
    network, main, mine = account.network, account.main_grid, account.agents
    injected = -network.shunt_kw[:, None] * np.ones((1, len(network.hours)))
    np.add.at(injected, (account.bus[mine], account.period[mine]), -account.taken_kw[mine])
    wires, half = account.private, 0.5 * units.loss_per_kw(network)[:, None] * account.p_kw**2
    np.add.at(injected, network.from_index[wires], -(account.p_kw + half)[wires])
    np.add.at(injected, network.to_index[wires], (account.p_kw - half)[wires])
    found = lossy_power_flow(network, injected)
    if found is None or not _fits(account, *found):
        return None
    given = found[1][network.source_index]
    spent = np.maximum(given, 0.0) * main.cost - np.maximum(-given, 0.0) * main.worth
    return float(account.own_cost[mine].sum() + spent @ network.hours)


def _fits(account: Account, flow: FloatArray, lack: FloatArray) -> bool:
    """Whether ratings and the main grid's orders bear the flows and what buses lack, (n_branches, T), (n_buses, T)."""
    network, width = account.network, np.asarray(account.orders.width_kw, dtype=float)
    given, elsewhere = lack[network.source_index], np.delete(lack, network.source_index, axis=0)
    sells, buys = width[list(account.main_grid.supply)], width[list(account.main_grid.buys)]
    rating = network.lines["rating_kva"].to_numpy(dtype=float)[:, None]
    over = (np.abs(flow) - rating, np.abs(elsewhere), given - sells, -given - buys)
    return all(float(one.max(initial=-np.inf)) <= _FITS * account.size_kw for one in over)
