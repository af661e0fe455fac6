"""Whether utilities of one's own are strictly concave, found by test points.

Agent i with generation g_i, whose aggregator's agents generate G, is tested at x = 0 and at points that grow
geometrically from a thousandth of X to X = 10 max(1, G) kW: u must be finite, u' finite (at x = 0 it may be
+inf, as of a square root) and strictly smaller at each point than at the one before.
Points are no proof; what they miss shows later as a unit cost that does not balance, which is refused too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mktopt.errors import Fault
from mktopt.networks.tables import MAX_FAULTS, refuse

if TYPE_CHECKING:
    from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

_POINTS = 25


def points_tried(prosumers: Prosumers) -> FloatArray:
    """Consumption at which each agent is tested [kW], shape (points, N): 0, then geometric up to X."""
    total = np.bincount(prosumers.group, prosumers.generation_kw)[prosumers.group]
    most = 10.0 * np.maximum(1.0, total)
    return np.concatenate([np.zeros((1, len(prosumers))), np.geomspace(1e-3, 1.0, _POINTS)[:, None] * most])


def refuse_not_concave(prosumers: Prosumers) -> None:
    """Raises DataError naming each agent whose own utility fails, with the points and the marginal utilities there."""
    rows = np.flatnonzero(prosumers.table["utility"].isin(list(prosumers.utilities)))
    if not len(rows):
        return
    x = points_tried(prosumers)
    with np.errstate(all="ignore"):
        value, marginal = prosumers.utility(x)[:, rows], prosumers.marginal(x)[:, rows]
    points = x[:, rows]
    names = prosumers.table[["agent", "utility"]].iloc[rows].to_numpy()
    faults: list[Fault] = []
    for column, (agent, name) in enumerate(names):
        problem = _problem(points[:, column], value[:, column], marginal[:, column])
        if problem and len(faults) < MAX_FAULTS:
            tried = f"tried 0 and {points[1, column]:.4g} to {points[-1, column]:.4g} kW"
            hint = f"a utility must be finite and strictly concave; {tried}"
            faults.append(Fault("prosumers", problem, agent, "utility", name, hint))
    refuse(faults)


def _problem(x: FloatArray, value: FloatArray, marginal: FloatArray) -> str:
    """What is wrong with a utility of these values at points x (points,), or nothing."""
    wrong = np.flatnonzero(~np.isfinite(value))
    if len(wrong):
        return f"the utility is {value[wrong[0]]} at x = {x[wrong[0]]:.6g} kW"
    fine = np.isfinite(marginal)
    fine[0] |= marginal[0] == np.inf
    if not fine.all():
        return f"the marginal utility is {marginal[~fine][0]} at x = {x[~fine][0]:.6g} kW"
    # saturated utilities: what is left of the marginal may be below rounding, or underflow to zero
    scale = np.max(np.abs(marginal[np.isfinite(marginal)]), initial=0.0)
    level = np.abs(marginal[1:] - marginal[:-1]) <= 1e-12 * np.abs(marginal[1:])
    gone = level & (np.abs(marginal[1:]) <= 1e-12 * scale)
    rising = np.flatnonzero(~(marginal[1:] < marginal[:-1]) & ~gone)
    if len(rising):
        at = int(rising[0])
        return (
            f"the utility is not strictly concave: its marginal is {marginal[at]:.6g} $/kWh at x = {x[at]:.6g} kW "
            f"and {marginal[at + 1]:.6g} at x = {x[at + 1]:.6g} kW"
        )
    return ""
