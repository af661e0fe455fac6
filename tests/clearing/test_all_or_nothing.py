"""Orders that are all or nothing, against the enumeration of every choice; and how the result speaks of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

import mktopt as mo
from tests.clearing.markets import affine, congested, grid, meshed, steps


def blocks(seed: int, count: int, buses: list[str], price: tuple[float, float]) -> mo.Orders:
    rng = np.random.default_rng(seed)
    rows = [
        (f"block {k}", bus, side, rng.uniform(10, 60), rng.uniform(*price))
        for k, (bus, side) in enumerate(zip(rng.choice(buses, count), rng.choice(["bid", "offer"], count), strict=True))
    ]
    return steps(*rows, all_or_nothing=True)


def best_of_all(network: mo.Network, others: mo.Orders, whole: mo.Orders, flow: str) -> tuple[float, tuple[int, ...]]:
    """The greatest welfare over every subset of blocks: those taken are firm, the others absent."""
    best = -np.inf, ()
    names = whole.orders["order"].to_numpy()
    for choice in product((0, 1), repeat=len(whole)):
        taken = whole.without(names[np.array(choice) == 0])
        firm = mo.Orders(taken.orders.assign(minimum_kw=taken.width_kw, all_or_nothing=False), taken.segments)
        try:
            welfare = mo.clear("surplus", network, others.merge(firm) if len(firm) else others, flow=flow).welfare
        except mo.InfeasibleError:
            continue
        if welfare > best[0] + 1e-9:
            best = welfare, choice
    return best


@pytest.mark.parametrize("curves", ["affine", "steps"])
@pytest.mark.parametrize(("seed", "draw"), [(0, 38), (1, 8), (2, 11)])
def test_it_is_the_best_of_all_choices(seed, draw, curves):
    """MIQP (affine others, by tangent cuts) and MILP (steps), on a congested mesh; a part of a block would be best."""
    network = meshed(seed, n=5, chords=2, hours=[0.5])
    others = affine(seed, network)
    if curves == "steps":
        middle = (others.segments["price_start"] + others.segments["price_end"]) / 2
        others = mo.Orders(others.orders, others.segments.assign(price_start=middle, price_end=middle))
    network = congested(network, others, "dc", most=2)
    whole = blocks(draw, 4, network.buses["bus"].tolist(), (0.1, 0.3))
    parts = mo.Orders(whole.orders.assign(all_or_nothing=False), whole.segments)
    taken = mo.clear("surplus", network, others.merge(parts), flow="dc")
    part = [taken.quantity(name) / width for name, width in zip(whole.orders["order"], whole.width_kw, strict=True)]
    assert np.abs(part - np.round(part)).max() > 0.05, "wholeness binds nowhere"
    clearing = mo.clear("surplus", network, others.merge(whole), flow="dc")
    welfare, choice = best_of_all(network, others, whole, "dc")
    assert clearing.welfare == pytest.approx(welfare, rel=1e-6)
    share = [clearing.quantity(name) / width for name, width in zip(whole.orders["order"], whole.width_kw, strict=True)]
    assert share == pytest.approx(np.round(share), abs=1e-9)
    assert tuple(round(s) for s in share) == choice
    assert clearing.certificate.ok(), clearing.certificate
    assert not clearing.certificate.convex
    assert any("re-solving" in note for note in clearing.notes)


def test_several_segments_are_taken_together():
    """A block of 20 kW at 0.1 and 20 kW at 0.5 is worth taking as a whole (average 0.3) or not at all."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    for price, expected in ((0.35, 40.0), (0.25, 0.0)):
        frame = pd.DataFrame({
            "order": ["block", "block", "load"], "bus": ["1", "1", "2"], "side": ["offer", "offer", "bid"],
            "width_kw": [20.0, 20.0, 40.0], "price": [0.1, 0.5, price], "all_or_nothing": [True, True, False],
        })  # fmt: skip
        clearing = mo.clear("surplus", network, mo.Orders.from_steps(frame))
        assert clearing.quantity("block") == pytest.approx(expected, abs=1e-9)
        assert clearing.certificate.ok(), clearing.certificate


def test_uplift_is_what_a_block_loses_at_the_price():
    """A block of 40 kW at 0.30 serves 60 kW bid at 0.40, together with 20 kW of a unit at 0.10 whose width is 30 kW:
    the price is 0.10, the block loses 40 x 0.20 = 8 $/h, half of it in half an hour."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12", hours=[0.5])
    frame = pd.DataFrame({
        "order": ["block", "unit", "load"], "bus": ["1", "1", "2"], "side": ["offer", "offer", "bid"],
        "width_kw": [40.0, 30.0, 60.0], "price": [0.3, 0.1, 0.4], "all_or_nothing": [True, False, False],
    })  # fmt: skip
    clearing = mo.clear("surplus", network, mo.Orders.from_steps(frame))
    assert clearing.dispatch["quantity_kw"].tolist() == pytest.approx([40, 20, 60])
    assert clearing.price("2") == pytest.approx(0.1)
    assert mo.regrets(clearing).set_index("participant")["regret"].to_dict() == pytest.approx(
        {"block": 4.0, "unit": 0.0, "load": 0.0}, abs=1e-9
    )
    assert clearing.certificate.regret > 1e-3, "uplift is reported"
    assert clearing.certificate.ok(), "and not held against the result"


def test_a_solver_that_takes_no_integers_says_which_does():
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = affine(1, network.replace(buses=network.buses)).merge(blocks(1, 1, ["1"], (0.1, 0.2)))
    with pytest.raises(mo.FormulationError, match="solver 'clarabel' takes LP, QP, SOCP, EXP, and this is a MIQP; use"):
        mo.clear("surplus", network, orders, solver="clarabel")


def test_a_conflict_of_whole_numbers_is_reported():
    """A firm load of 50 kW and a block of 60 kW as the only supply: only wholeness is in the way."""
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    frame = pd.DataFrame({
        "order": ["block", "load"], "bus": ["1", "2"], "side": ["offer", "bid"], "width_kw": [60.0, 50.0],
        "price": [0.1, 1.0], "minimum_kw": [0.0, 50.0], "all_or_nothing": [True, False],
    })  # fmt: skip
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("surplus", network, mo.Orders.from_steps(frame))
    assert caught.value.report.cure("serve less")["amount"].sum() == pytest.approx(10)
