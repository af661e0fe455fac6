"""Random radial feeders of any size with a market on them, reproducible from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BASE_KV = 12.47
# Overhead line of 336.4 kcmil ACSR [ohm/km].
R_OHM_PER_KM, X_OHM_PER_KM = 0.19, 0.39
TAN_PHI = 0.3
# Lines are 0.3 km long on average; in feeders where the nominal load would then drop the voltage by more than 5 % at
# the far end, they are shortened until it does not.
MEAN_KM, DEEPEST_DROP = 0.3, 0.05
TIGHT_SHARE = 0.05


def radial(n_buses: int, seed: int = 0) -> tuple[Network, Orders]:
    """A radial feeder of `n_buses` buses with 2 `n_buses` affine orders.

    Bus i hangs on a random one of the 2 sqrt(n) buses before it, so that depth grows like sqrt(n). Every bus bids for
    its load with a falling price; every bus but the first offers local supply; the first, the source, offers twice the
    whole load. Lines are about 0.3 km, shorter where the nominal load would drop the voltage by more than 5 %. Ratings
    leave room over the flows of the market cleared without limits, but for 5 % of the lines, which are too small for
    them and congest.

    n_buses: at least 2; seed: of numpy's default generator; the same pair gives the same network.
    """
    if n_buses < 2:
        raise DataError(Fault("synthetic", "needs at least 2 buses", column="N", value=n_buses, hint="N >= 2"))
    rng = np.random.default_rng(seed)
    child = np.arange(1, n_buses)
    window = int(np.ceil(2 * np.sqrt(n_buses)))
    parent = child - 1 - np.floor(rng.random(n_buses - 1) * np.minimum(child, window)).astype(np.int64)
    names = np.array([f"b{position}" for position in range(n_buses)], dtype=object)
    load = np.round(rng.uniform(2.0, 8.0, n_buses), 3)
    curves = _curves(names, load, rng)
    levels = _levels(parent)
    nominal = _subtree_sum(load, parent, levels)[1:]
    flow = _subtree_sum(_cleared_injection(curves), parent, levels)[1:]
    tight = rng.random(n_buses - 1) < TIGHT_SHARE
    factor = np.where(tight, rng.uniform(0.5, 0.9, n_buses - 1), rng.uniform(1.3, 2.5, n_buses - 1))
    rating = np.maximum(np.abs(flow) * np.sqrt(1 + TAN_PHI**2) * factor, 1.0)
    length = _lengths(nominal, parent, levels, rng.uniform(0.5, 1.5, n_buses - 1))
    x, y = _coordinates(parent, levels, length, rng)
    network = Network(
        buses=pd.DataFrame({"bus": names, "base_kv": BASE_KV, "v_min_pu": 0.9, "v_max_pu": 1.1, "x": x, "y": y}),
        branches=pd.DataFrame({
            "branch": np.array([f"l{position}" for position in child], dtype=object),
            "from_bus": names[parent],
            "to_bus": names[child],
            "r_ohm": R_OHM_PER_KM * length,
            "x_ohm": X_OHM_PER_KM * length,
            "rating_kva": np.round(rating, 3),
            "length_km": length,
        }),
        source_bus="b0",
        loads=pd.DataFrame({"load": "load_" + names, "bus": names, "p_kw": load, "q_kvar": TAN_PHI * load}),
        name=f"synthetic:radial:{n_buses}:{seed}",
    )  # fmt: skip
    return network, Orders.from_curves(curves)


def _curves(names: npt.NDArray[Any], load: FloatArray, rng: np.random.Generator) -> pd.DataFrame:
    """N bids, one per bus, and N offers: the source's at bus 0 and one at every other bus."""
    n = len(names)
    width = load * rng.uniform(0.2, 0.8, n)
    low, high = rng.uniform(0.03, 0.10, n), rng.uniform(0.15, 0.30, n)
    width[0], low[0], high[0] = 2.0 * load.sum(), 0.05, 0.10
    owner = names.copy()
    owner[0] = "source"
    bids = np.round([rng.uniform(0.0, 0.08, n), rng.uniform(0.20, 0.60, n)], 6)
    return pd.DataFrame({
        "order": np.r_["bid_" + names, "offer_" + names],
        "participant": np.r_[names, owner],
        "bus": np.r_[names, names],
        "side": np.repeat(np.array(["bid", "offer"], dtype=object), n),
        "tan_phi": np.r_[np.full(n, TAN_PHI), np.zeros(n)],
        "q_max_kw": np.r_[load, np.round(width, 6)],
        "price_min": np.r_[bids[0], np.round(low, 6)],
        "price_max": np.r_[bids[1], np.round(high, 6)],
    })  # fmt: skip


def _cleared_injection(curves: pd.DataFrame) -> FloatArray:
    """Injection of each bus [kW] when all orders meet at one price, shape (n_buses,)."""
    low, high = curves["price_min"].to_numpy(), curves["price_max"].to_numpy()
    width = curves["q_max_kw"].to_numpy()
    bid = (curves["side"] == "bid").to_numpy()
    sign = np.where(bid, -1.0, 1.0)

    def injection(price: float) -> FloatArray:
        share = np.clip((price - low) / (high - low), 0.0, 1.0)
        return sign * width * np.where(bid, 1.0 - share, share)

    cheap, dear = 0.0, 1.0
    for _ in range(50):
        middle = (cheap + dear) / 2
        cheap, dear = (middle, dear) if injection(middle).sum() < 0 else (cheap, middle)
    return injection((cheap + dear) / 2).reshape(2, -1).sum(axis=0)


def _levels(parent: IntArray) -> list[IntArray]:
    """The buses 1 .. n-1 grouped by their distance from the source; parent[i] belongs to bus i + 1."""
    n = len(parent) + 1
    depth = np.r_[0, np.ones(n - 1, dtype=np.int64)]
    above = np.r_[0, parent]
    while above.any():
        depth += depth[above]
        above = above[above]
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.cumsum(np.bincount(depth))[:-1])[1:]


def _subtree_sum(values: FloatArray, parent: IntArray, levels: list[IntArray]) -> FloatArray:
    total = values.copy()
    for level in reversed(levels):
        np.add.at(total, parent[level - 1], total[level])
    return total


def _along_tree(steps: FloatArray, parent: IntArray, levels: list[IntArray]) -> FloatArray:
    """Sum of `steps` (one per bus 1 .. n-1) from the source to each bus, shape (n_buses,)."""
    total = np.zeros(len(parent) + 1)
    for level in levels:
        total[level] = total[parent[level - 1]] + steps[level - 1]
    return total


def _lengths(nominal: FloatArray, parent: IntArray, levels: list[IntArray], raw: FloatArray) -> FloatArray:
    """Line lengths [km] in proportion to `raw`: of `MEAN_KM`, less where the voltage would drop too deep."""
    per_km = (R_OHM_PER_KM + X_OHM_PER_KM * TAN_PHI) / (1000.0 * BASE_KV**2)
    drop = _along_tree(per_km * raw * nominal, parent, levels)
    return raw * min(MEAN_KM, DEEPEST_DROP / drop.max())


def _coordinates(
    parent: IntArray, levels: list[IntArray], length: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Positions [km]: each line runs on in about the direction of the line before it."""
    turn = rng.normal(0.0, 0.5, len(parent))
    angle = _along_tree(turn, parent, levels)[1:]
    x = _along_tree(length * np.cos(angle), parent, levels)
    y = _along_tree(length * np.sin(angle), parent, levels)
    return x, y
