"""Use case 1 of OpenGridGym as a market on ieee34: topology-induced market power, and flexible demand against it.

28 consumers (one bid per load bus, its real kW) and 5 supplies of equal capacity Q. One supply is the wholesale market
at the feeder head, with a flat price w; the others cost c(q), alike, and in acts 2 and 3 offer it raised by a factor:

    p_s(q) = m_s c(q),    c(q) = c_0 + (c_Q - c_0) q / Q                                                     (2)
    inelastic bid         gives up a share e of its kW between price 0 and p_top                             (3)
    flexible bid          takes its whole kW at w and nothing at p_flex, in a straight line between          (3)

Prices are `budget_balanced` (6)-(8): consumers pay what suppliers receive. Two branches carry a limit, in every act.
Numbers come from `market_power.toml`, which `benchmarks/opengridgym_fit.py` writes.
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), use case 1.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.result import Clearing
from mktopt.errors import SolverError
from mktopt.mechanisms import clear
from mktopt.networks.cases import load_network
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]

PARAMETERS = Path(__file__).with_name("market_power.toml")
CASE = "ieee34"
WHOLESALE = "wholesale"
# Shares of the 28 bidders who are flexible: 8 % are 2 of them.
SHARES = (0.0, 0.08, 0.25, 0.50, 0.75, 1.0)


@dataclass(frozen=True)
class Parameters:
    """What the paper leaves open, in $/kWh and kW.

    capacity_kw: Q, of each supply; wholesale_price: w; cost_start, cost_end: c_0, c_Q; raises: m_s by site (bus);
    limits_kva: by branch; inelastic_share, inelastic_price: e, p_top; flexible_price: p_flex; provenance: where the
    numbers come from, as in the file.
    """

    capacity_kw: float
    wholesale_price: float
    cost_start: float
    cost_end: float
    raises: Mapping[str, float]
    limits_kva: Mapping[str, float]
    inelastic_share: float
    inelastic_price: float
    flexible_price: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = PARAMETERS) -> Parameters:
        """The parameters in a TOML file of the fit."""
        with path.open("rb") as file:
            table = tomllib.load(file)
        return cls(**table["parameters"], provenance={k: v for k, v in table.items() if k != "parameters"})


class MarketPower:
    """The market of use case 1 under given parameters; every clearing is a new one."""

    def __init__(self, parameters: Parameters | None = None) -> None:
        self.parameters = parameters or Parameters.load()

    @cached_property
    def network(self) -> Network:
        """ieee34 with the limits."""
        return load_network(CASE).with_ratings(dict(self.parameters.limits_kva))

    @cached_property
    def consumers(self) -> pd.Series[float]:
        """kW of each consumer, by bus: the loads of the case summed per bus."""
        loads = self.network.loads.groupby("bus")["p_kw"].sum()
        in_table = [bus for bus in self.network.buses["bus"] if bus in loads.index]
        return loads.loc[in_table]

    def bids(self, flexible: Collection[str] = ()) -> pd.DataFrame:
        """Quadruples of all consumers; those at the buses `flexible` bid the flexible curve."""
        p, bus = self.parameters, self.consumers.index.to_numpy()
        kw = self.consumers.to_numpy()
        bends = np.isin(bus, list(flexible))
        return pd.DataFrame({
            "order": [f"consumer {name}" for name in bus],
            "bus": bus,
            "side": "bid",
            "q_min_kw": np.where(bends, 0.0, (1.0 - p.inelastic_share) * kw),
            "q_max_kw": kw,
            "price_min": np.where(bends, p.wholesale_price, 0.0),
            "price_max": np.where(bends, p.flexible_price, p.inelastic_price),
        })  # fmt: skip

    def offers(self, raised: bool) -> pd.DataFrame:
        """Quadruples of the five supplies, at cost or raised; the wholesale price is never raised."""
        p = self.parameters
        factor = np.array(list(p.raises.values())) if raised else np.ones(len(p.raises))
        return pd.DataFrame({
            "order": [WHOLESALE, *(f"supply {site}" for site in p.raises)],
            "bus": [self.network.source_bus, *p.raises],
            "side": "offer",
            "q_min_kw": 0.0,
            "q_max_kw": p.capacity_kw,
            "price_min": [p.wholesale_price, *(factor * p.cost_start)],
            "price_max": [p.wholesale_price, *(factor * p.cost_end)],
        })  # fmt: skip

    def orders(self, raised: bool = True, flexible: Collection[str] = ()) -> Orders:
        """All bids and offers of one act."""
        return Orders.from_curves(pd.concat([self.bids(flexible), self.offers(raised)], ignore_index=True))

    def clear(self, raised: bool = True, flexible: Collection[str] = ()) -> Clearing:
        """One act cleared: prices of buses are nodal, what consumers pay is budget-balanced."""
        orders = self.orders(raised, flexible)
        return clear("surplus", self.network, orders, flow="transport", pricing="budget_balanced")

    def drawn(self, share: float, seed: int) -> list[str]:
        """The flexible consumers of a draw: the first of a random sequence, so that larger shares contain smaller."""
        sequence = np.random.default_rng(seed).permutation(self.consumers.index.to_numpy())
        return [str(bus) for bus in sequence[: flexible_count(share, len(sequence))]]

    def flexibility(self, shares: Collection[float] = SHARES, seeds: Collection[int] = range(60)) -> pd.DataFrame:
        """Act 3: share, flexible, seed and the figures of `mean_prices`, one row per share and draw.

        No draw is needed where nobody or everybody is flexible. Raises SolverError where a proof does not hold.
        """
        rows: list[dict[str, float]] = []
        for share in shares:
            count = flexible_count(share, len(self.consumers))
            for seed in seeds if 0 < count < len(self.consumers) else [min(seeds)]:
                cleared = self.clear(flexible=self.drawn(share, seed))
                proved(cleared, f"{share:.0%} flexible, seed {seed}")
                rows.append({"share": share, "flexible": count, "seed": seed, **mean_prices(cleared)})
        return pd.DataFrame(rows)


def proved(clearing: Clearing, what: str) -> Clearing:
    """`clearing`, whose certificate holds; raises SolverError otherwise."""
    if not clearing.certificate.ok():
        raise SolverError(f"{what}: the certificate does not hold: {clearing.certificate}")
    return clearing


def flexible_count(share: float, consumers: int) -> int:
    """How many of `consumers` are flexible at `share`: 8 % of 28 are 2."""
    return round(share * consumers)


def consumer_prices(clearing: Clearing) -> pd.DataFrame:
    """bus, quantity_kw, price (what the consumer pays), nodal_price [$/kWh], in the sequence of the buses."""
    bids = clearing.dispatch[clearing.dispatch["side"] == "bid"]
    nodal = clearing.prices.set_index("bus")["price"]
    return pd.DataFrame({
        "bus": bids["bus"].to_numpy(),
        "quantity_kw": bids["quantity_kw"].to_numpy(),
        "price": bids["price"].to_numpy(),
        "nodal_price": nodal.loc[bids["bus"]].to_numpy(),
    })  # fmt: skip


def mean_prices(clearing: Clearing) -> dict[str, float]:
    """Mean price of consumers [$/kWh] by kWh and by head, under both pricing rules, and their energy [kWh].

    mean_price is what consumers pay in all over the energy that they take; mean_price_per_head counts each once.
    """
    table = consumer_prices(clearing)
    quantity = table["quantity_kw"].to_numpy()
    return {
        "mean_price": float(np.average(table["price"], weights=quantity)),
        "mean_price_per_head": float(table["price"].mean()),
        "mean_nodal_price": float(np.average(table["nodal_price"], weights=quantity)),
        "mean_nodal_price_per_head": float(table["nodal_price"].mean()),
        "energy_kwh": float(quantity.sum()),
    }


def price_levels(clearing: Clearing, within: float = 5e-4) -> pd.DataFrame:
    """price [$/kWh] (mean by kWh), consumers, quantity_kw of each group of consumers whose prices are `within`."""
    table = consumer_prices(clearing)
    ranked = table["price"].sort_values()
    group = (ranked.diff() > within).cumsum().loc[table.index]  # consumers stay in the sequence of the buses
    rows = [
        {
            "price": float(np.average(part["price"], weights=part["quantity_kw"])),
            "consumers": len(part),
            "quantity_kw": float(part["quantity_kw"].sum()),
            "buses": " ".join(part["bus"]),
        }
        for _, part in table.groupby(group)
    ]
    return pd.DataFrame(rows)
