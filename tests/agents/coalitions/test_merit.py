"""Merit orders of the games against those of the clearing: one curve, written down twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mktopt.agents.coalitions.merit import merit_of
from mktopt.agents.coalitions.private_optimum import supplies_of
from mktopt.clearing.merit_order import MeritOrder
from mktopt.clearing.owen import ownership
from mktopt.formulations.coalition import main_grid_of
from tests.agents.coalitions.wired import crossed


@given(st.integers(0, 2**32))
@settings(max_examples=6)
def test_both_merit_orders_of_a_bus_are_one(seed: int) -> None:
    """Prices from below and above, also at the knots, and cost, up to what firm bids are worth."""
    network, orders = crossed(seed)
    main = main_grid_of(orders, network)
    merit = merit_of(network, orders, main, ownership(network, orders).player_of)
    where, period = network.bus_positions(orders.orders["bus"]), orders.orders["period"].to_numpy()
    value = np.where(orders.firm & orders.is_bid, orders.curves.value(orders.width_kw), 0.0)
    for bus in np.unique(merit.bus).tolist():
        for t in network.periods:
            rows = np.flatnonzero(main.agents(orders) & (where == bus) & (period == t))
            one = MeritOrder(orders, rows, main.feed_in[t], main.retail[t])
            (other,), fixed = supplies_of(merit, np.flatnonzero(merit.bus == bus), np.array([bus]), t)
            for y in [-25.0, 25.0, 0.1, *one.kw, *(kw + 0.01 for kw in one.kw)]:
                assert abs(other.cost(y) + fixed - one.cost(y) - value[rows].sum()) <= 1e-9 * (1.0 + value[rows].sum())
                near = 1e-7  # rounding puts a knot on either side
                low, high = other.prices(y - near)[0], other.prices(y + near)[1]
                assert low - 1e-6 <= one.left(y) <= one.right(y) <= high + 1e-6
                low, high = one.left(y - near), one.right(y + near)
                assert low - 1e-6 <= other.prices(y)[0] <= other.prices(y)[1] <= high + 1e-6
