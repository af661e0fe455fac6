"""Default markets: what the loads of a case bid and its source offers when nobody says otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

LOAD_PRICE, SOURCE_PRICE, VOLL = 1.00, 0.05, 10.0
SOURCE_SHARE = 2.0
FEEDER_DEFAULTS = (
    f"each load bids {LOAD_PRICE:.2f} $/kWh for its kW at its power factor; "
    f"the source offers {SOURCE_SHARE:g} times the total load at {SOURCE_PRICE:.2f} $/kWh"
)
FIRM_DEFAULTS = (
    f"each load is a firm bid at {VOLL:g} $/kWh (value of lost load) at its power factor; a negative load is a firm "
    "offer at 0 $/kWh"
)


def feeder_orders(
    network: Network,
    load_price: float = LOAD_PRICE,
    source_price: float = SOURCE_PRICE,
    source_share: float = SOURCE_SHARE,
) -> Orders:
    """Loads as flexible bids and the source as an offer, in every period of `network`.

    load_price: what each load bids for its kW [$/kWh]; source_price: of the source's offer [$/kWh]; source_share: its
    width in multiples of the total positive load. A negative load is a firm offer at 0 $/kWh. Orders are named after
    loads, the offer of the source "source".
    """
    loads = _load_steps(network, load_price, firm=False)
    width = source_share * float(network.loads["p_kw"].clip(lower=0).sum())
    name = "source"
    while (loads["order"] == name).any():
        name += "_"
    source = pd.DataFrame([{
        "order": name, "bus": network.source_bus, "side": "offer", "minimum_kw": 0.0, "tan_phi": 0.0,
        "q_min_kvar": np.nan, "q_max_kvar": np.nan, "width_kw": width, "price": source_price,
    }])  # fmt: skip
    return Orders.from_steps(_every_period(pd.concat([loads, source], ignore_index=True), network))


def firm_orders(network: Network, voll: float = VOLL) -> Orders:
    """Loads as firm bids at `voll` [$/kWh], negative loads as firm offers at 0 $/kWh, in every period."""
    return Orders.from_steps(_every_period(_load_steps(network, voll, firm=True), network))


def _load_steps(network: Network, price: float, firm: bool) -> pd.DataFrame:
    """One step per load that takes or gives power; a load of reactive power only has no width and a fixed range."""
    loads = network.loads
    p, q = loads["p_kw"].to_numpy(), loads["q_kvar"].to_numpy()
    used = (p != 0) | (q != 0)
    p, q = p[used], q[used]
    reactive = p == 0
    offer = p < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        tan_phi = np.where(reactive, 0.0, q / np.where(reactive, 1.0, p)) + 0.0  # no -0.0
    return pd.DataFrame({
        "order": loads["load"].to_numpy()[used],
        "bus": loads["bus"].to_numpy()[used],
        "side": np.where(offer, "offer", "bid").astype(object),
        "minimum_kw": np.where(firm | offer, np.abs(p), 0.0),
        "tan_phi": tan_phi,
        "q_min_kvar": np.where(reactive, q, np.nan),
        "q_max_kvar": np.where(reactive, q, np.nan),
        "width_kw": np.abs(p),
        "price": np.where(offer, 0.0, price),
    })  # fmt: skip


def _every_period(frame: pd.DataFrame, network: Network) -> pd.DataFrame:
    parts = [frame.assign(period=period) for period in network.periods]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
