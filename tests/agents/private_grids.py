"""Small public grids with private wires and agents, for the tests of the four behaviours."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from mktopt.formulations.coalition import MainGrid, main_grid_of
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

RETAIL, FEED_IN, WHOLESALE = 0.20, 0.08, 0.12


def grid(
    wires: list[tuple[str, str, float]] | pd.DataFrame = (),  # type: ignore[assignment]
    buses: str = "AB",
    hours: tuple[float, ...] = (1.0,),
    rho: float = 1e-5,
    rating_kva: float = np.inf,
) -> Network:
    """A public ring from the source `g` through `buses`, and private wires (from_bus, to_bus, rho [1/kW]).

    At 1 kV a wire of r ohm loses r f^2 / 1000 kW. Private wires are called w0, w1 ... and are 1, 2 ... km long.
    """
    ring = ["g", *buses, "g"]
    public = pd.DataFrame({
        "branch": [f"{i}{j}" for i, j in pairwise(ring)],
        "from_bus": ring[:-1], "to_bus": ring[1:], "r_ohm": 1000.0 * rho,
        "x_ohm": [1.0 + 0.5 * k for k in range(len(ring) - 1)], "rating_kva": rating_kva, "kind": "line", "owner": "",
        "length_km": 1.0,
    })  # fmt: skip
    table = wires if isinstance(wires, pd.DataFrame) else pd.DataFrame(wires, columns=["from_bus", "to_bus", "rho"])
    private = table.drop(columns="rho").assign(r_ohm=1000.0 * table["rho"], x_ohm=0.1, kind="private")
    usual = {
        "branch": [f"w{k}" for k in range(len(table))], "length_km": np.arange(1.0, len(table) + 1.0), "owner": "",
        "rating_kva": np.inf,
    }  # fmt: skip
    for column, values in usual.items():
        if column not in private:
            private[column] = values
    branches = pd.concat([public, private], ignore_index=True) if len(private) else public
    nodes = pd.DataFrame({"bus": ["g", *buses], "base_kv": 1.0})
    return Network(buses=nodes, branches=branches, source_bus="g", hours=np.array(hours))


def main_grid(
    retail: float = RETAIL, feed_in: float = FEED_IN, periods: int = 1, width_kw: float = 1e5
) -> list[dict[str, object]]:
    """Steps of the main grid's orders."""
    rows: list[dict[str, object]] = []
    for t in range(periods):
        rows.append(step("main:supply", "g", "offer", width_kw, retail, t) | {"participant": "main_grid"})
        rows.append(step("main:feed_in", "g", "bid", width_kw, feed_in, t) | {"participant": "main_grid"})
    return rows


def step(order: str, bus: str, side: str, kw: float, price: float, period: int = 0) -> dict[str, object]:
    """An elastic order of the participant that its name begins with."""
    return {
        "order": order, "participant": order.split(":")[0], "bus": bus, "side": side, "period": period,
        "minimum_kw": 0.0, "width_kw": kw, "price": price,
    }  # fmt: skip


def has(bus: str, kw: float, period: int = 0, who: str | None = None) -> dict[str, object]:
    """A firm order at `bus`: above zero an endowment at 0 $/kWh, below a need at 10 $/kWh."""
    side, price = ("offer", 0.0) if kw > 0 else ("bid", 10.0)
    return step(f"{who or bus}:{side}", bus, side, abs(kw), price, period) | {"minimum_kw": abs(kw)}


def orders_of(*rows: dict[str, object], main: list[dict[str, object]] | None = None) -> Orders:
    """The orders of `rows` and the main grid's."""
    return Orders.from_steps(pd.DataFrame([*rows, *(main_grid() if main is None else main)]))


def tariffs(orders: Orders, network: Network) -> MainGrid:
    """The main grid of the orders, at its tariffs."""
    return main_grid_of(orders, network)
