"""Networks and orders in one line."""

from __future__ import annotations

from mktopt.networks.network import Network
from mktopt.networks.orders import Orders


def describe(thing: Network | Orders) -> str:
    """What a network or orders are, in one line."""
    if isinstance(thing, Network):
        shape = "radial" if thing.topology.is_radial else "meshed"
        return (
            f"network '{thing.name}': {thing.n_buses} buses, {thing.n_branches} branches in service ({shape}), "
            f"{len(thing.loads)} loads, {len(thing.hours)} period(s)"
        )
    bids = int(thing.is_bid.sum())
    return f"{bids} bids and {len(thing) - bids} offers"
