"""Random feeders: reproducible, of any size, with limits that bind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mktopt.errors import DataError
from mktopt.networks.cases import load_case
from mktopt.networks.synthetic import DEEPEST_DROP, TAN_PHI, radial


@pytest.mark.parametrize("n", [2, 3, 10, 500])
def test_size_and_shape(n: int) -> None:
    network, orders = radial(n, seed=1)
    assert (network.n_buses, network.n_branches, len(orders)) == (n, n - 1, 2 * n)
    assert int(orders.is_bid.sum()) == n
    assert network.topology.is_radial
    assert orders.orders["participant"].iloc[n] == "source"
    orders.check(network)
    assert (orders.curves.slope != 0).all()


def test_same_seed_same_market() -> None:
    one, other, third = radial(200, 7), radial(200, 7), radial(200, 8)
    pd.testing.assert_frame_equal(one[0].branches, other[0].branches)
    pd.testing.assert_frame_equal(one[1].segments, other[1].segments)
    assert not one[0].branches.equals(third[0].branches)
    assert load_case("synthetic:radial:200:7").network.branches.equals(one[0].branches)
    assert load_case("synthetic:radial:200").network.branches.equals(radial(200, 0)[0].branches)


def test_voltage_at_nominal_load_and_depth() -> None:
    network, _ = radial(2000, seed=2)
    R, X, gain = network.topology.lindistflow
    v2 = gain - R @ network.load_kw - X @ (TAN_PHI * network.load_kw)
    assert (1 - v2.min()) / 2 == pytest.approx(DEEPEST_DROP, rel=1e-6)
    assert 10 < network.topology.depth.max() < 10 * np.sqrt(2000)


def test_some_lines_are_too_small_for_the_market_without_limits() -> None:
    """Clears at one price (bisection), then compares the flows with the ratings."""
    network, orders = radial(1000, seed=3)
    curves, sign = orders.curves, orders.injection_sign
    low, high = 0.0, 1.0
    for _ in range(60):
        price = (low + high) / 2
        kw = curves.best_response(np.full(len(orders), price), sign, np.zeros(len(orders)), orders.width_kw)
        low, high = (price, high) if sign @ kw < 0 else (low, price)
    injection = np.bincount(network.bus_positions(orders.orders["bus"]), weights=sign * kw)
    flow = np.abs(network.topology.ptdf @ injection)
    tight = (flow > network.lines["rating_kva"].to_numpy()).mean()
    assert 0.01 < tight < 0.06


def test_one_bus_is_no_feeder() -> None:
    with pytest.raises(DataError, match="column 'N', value 1: needs at least 2 buses"):
        radial(1)
