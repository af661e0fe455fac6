"""Warnings about data that is valid but looks like a mistake."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mktopt.networks.network import Network

# A load ten times what its branch can carry is no load of that grid; a whole load of a thousandth of the smallest
# rating is none either.
HIGH, LOW = 10.0, 1e-3
FEWEST_LOADS = 3


class NetworkWarning(UserWarning):
    """Data that can be used but is probably not what its author meant, or was simplified when read."""


def warn_about_units(network: Network, stacklevel: int = 2) -> None:
    """Warns where kW and MW seem to be mixed up.

    Loads too high: the mean load is above 10 times the rating of its branch (the largest that reaches its bus). Loads
    too low: at least three loads together are below a thousandth of the smallest rating.
    """
    loads = np.abs(network.loads["p_kw"].to_numpy())
    if loads.sum() == 0 or network.n_branches == 0:
        return
    rating = network.lines["rating_kva"].to_numpy()
    largest = np.zeros(network.n_buses)
    for ends in (network.from_index, network.to_index):
        np.maximum.at(largest, ends, rating)
    at_load = largest[network.bus_positions(network.loads["bus"])]
    limited = np.isfinite(at_load)
    finite = rating[np.isfinite(rating)]
    if limited.any() and loads[limited].mean() > HIGH * at_load[limited].mean():
        text = (
            f"loads of {network.name!r} are {loads[limited].mean():.4g} kW on average where their branches are rated "
            f"{at_load[limited].mean():.4g} kVA: are the ratings in MVA, or the loads in W? mktopt wants kW and kVA"
        )
        warnings.warn(text, NetworkWarning, stacklevel=stacklevel + 1)
    elif len(finite) and np.count_nonzero(loads) >= FEWEST_LOADS and loads.sum() < LOW * finite.min():
        text = (
            f"all loads of {network.name!r} together are {loads.sum():.4g} kW where the smallest branch is rated "
            f"{finite.min():.4g} kVA: are the loads in MW? mktopt wants kW and kVA"
        )
        warnings.warn(text, NetworkWarning, stacklevel=stacklevel + 1)
