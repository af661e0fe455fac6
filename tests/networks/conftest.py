"""Random grids for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mktopt.networks.network import Network

MakeNetwork = Callable[..., Network]


def random_network(seed: int, n: int = 12, chords: int = 0, ratios: bool = False) -> Network:
    """A connected grid: a random tree, branches pointing either way, and `chords` more branches."""
    rng = np.random.default_rng(seed)
    ends = [(int(rng.integers(0, child)), child) for child in range(1, n)]
    ends += [tuple(int(v) for v in rng.choice(n, 2, replace=False)) for _ in range(chords)]
    flip = rng.random(len(ends)) < 0.5
    ends = [(b, a) if turn else (a, b) for (a, b), turn in zip(ends, flip, strict=True)]
    m = len(ends)
    return Network(
        buses=pd.DataFrame({"bus": [f"n{k}" for k in range(n)], "base_kv": 10.0}),
        branches=pd.DataFrame({
            "branch": [f"e{k}" for k in range(m)],
            "from_bus": [f"n{a}" for a, _ in ends],
            "to_bus": [f"n{b}" for _, b in ends],
            "r_ohm": rng.uniform(0.05, 0.5, m),
            "x_ohm": rng.uniform(0.05, 0.5, m),
            "ratio": rng.uniform(0.95, 1.05, m) if ratios else np.ones(m),
        }),
        loads=pd.DataFrame({"load": ["d"], "bus": [f"n{n - 1}"], "p_kw": [10.0], "q_kvar": [3.0]}),
        source_bus="n0",
        name=f"random {seed}",
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """The maker of random grids."""
    return random_network
