"""Polynomial costs and reductions as orders: convex or refused, and nowhere further off than they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.polynomial import Polynomial

import mktopt as mo
from mktopt.networks.cost_curves import polynomial


def costs(coefficients, low: float, high: float, **columns) -> pd.DataFrame:
    """One unit `g` of cost sum_k coefficients[k] p^k between its limits."""
    powers = {f"c{k}": [float(c)] for k, c in enumerate(coefficients)}
    return pd.DataFrame({"order": ["g"], "bus": "1", "p_min_kw": low, "p_max_kw": high, **powers, **columns})


def loads(initial: float, **columns) -> pd.DataFrame:
    """One load `d`; lists are steps."""
    return pd.DataFrame({"bus": "1", "initial_kw": initial, **columns}, index=range(_rows(columns))).assign(order="d")


def _rows(columns: dict) -> int:
    return max(len(value) if isinstance(value, list) else 1 for value in columns.values())


@st.composite
def convex(draw) -> tuple[Polynomial, float, float]:
    """A convex cost of degree 2 to 5 [$/h] and limits [kW]: its second derivative is a square or positive terms."""
    high = draw(st.floats(1, 5000))
    low = high * draw(st.sampled_from([-1.0, -0.3, 0.0, 0.0, 0.2, 0.9]))
    if draw(st.booleans()):
        root, lift = draw(st.floats(-1, 1)), draw(st.floats(0, 1))
        second = Polynomial([-root, 1.0]) ** 2 + lift
    else:
        weights = draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))
        second = Polynomial(weights)(Polynomial([-low / high, 1.0]))  # in what lies above the lower limit
    first = draw(st.floats(-0.1, 0.5))
    unit = second.integ() * draw(st.floats(0.01, 0.5)) + first
    cost = unit.integ() * high + draw(st.floats(-5, 5))
    return cost(Polynomial([0.0, 1.0 / high])), low, high


@given(convex(), st.sampled_from([1e-2, 1e-3, 1e-4, 1e-5]), st.floats(0, 1))
def test_prices_are_as_near_as_stated(drawn, max_error, share):
    cost, low, high = drawn
    orders = mo.Orders.from_costs(costs(cost.coef, low, high), max_error=max_error)
    error = orders.meta["max_price_error"]
    assert 0 <= error <= max_error
    assert error == 0 or cost.degree() > 2 or error < 1e-9
    price = cost.deriv()
    for p in np.r_[low + share * (high - low), low, high, np.linspace(low, high, 23)]:
        quantity = np.where(orders.is_bid, max(-p, 0.0), max(p, 0.0))
        value = orders.curves.value(quantity)
        total = float(np.where(orders.is_bid, -value, value).sum()) + orders.meta["fixed_cost_per_h"].get(("g", 0), 0.0)
        run = abs(p - np.clip(0.0, low, high))  # what must run counts with its true cost
        assert total == pytest.approx(cost(p), abs=error * run * (1 + 1e-9) + 1e-9 * (1 + abs(cost(p)) + high))
        if max(low, 0.0) < p:
            faced = orders.curves.marginal(quantity)[~orders.is_bid][0]
            assert abs(faced - price(p)) <= error + 1e-9
        elif p < min(high, 0.0):
            faced = orders.curves.marginal(quantity)[orders.is_bid][0]
            assert abs(faced - price(p)) <= error + 1e-9


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=6), st.floats(-1, 0), st.floats(0.1, 3000))
def test_what_is_not_convex_is_refused_where_it_falls(coefficients, low, high):
    """Refused if and only if the marginal cost falls somewhere, and truly between the two outputs that are named."""
    scaled = np.array(coefficients) / high ** np.arange(len(coefficients)) * high * 0.1
    price = Polynomial(scaled).deriv()
    curve = polynomial(scaled, low * high, high, 1e-2)
    marginal = price(np.linspace(low * high, high, 4001))
    drop = float((np.maximum.accumulate(marginal) - marginal).max())
    assume(drop == 0 or drop > 1e-7)
    assert curve is not None
    assert (curve.fall is not None) == (drop > 0)
    if curve.fall is not None:
        assert curve.fall.p_from < curve.fall.p_to
        assert price(curve.fall.p_from) == pytest.approx(curve.fall.price_from)
        assert price(curve.fall.p_to) == pytest.approx(curve.fall.price_to)
        assert curve.fall.price_to < curve.fall.price_from
        with pytest.raises(mo.DataError, match=r"row 'g': the cost is not convex: its marginal cost falls from"):
            mo.Orders.from_costs(costs(scaled, low * high, high))


def test_a_cubic_takes_no_more_segments_than_it_must():
    """C = p^3 / 3e5 on 0..300: C''' = 2e-5 throughout, so n chords are off by (300 / n)^2 / 8 2e-5 = 0.225 / n^2."""
    orders = mo.Orders.from_costs(costs([0, 0, 0, 1 / 3e5], 0, 300), max_error=1.01e-3)
    assert len(orders.segments) == 15  # of 14 each would be off by 1.15e-3
    assert orders.meta["max_price_error"] == pytest.approx(1e-3)
    middle = orders.curves.marginal([10.0])[0]
    assert middle - 10.0**2 / 1e5 == pytest.approx(1e-3)  # attained in the middle of each chord


@pytest.mark.parametrize("width", [0.0, 5e-324, 1e-200, 1e-12])
def test_a_range_of_next_to_no_width_has_its_price(width):
    orders = mo.Orders.from_costs(costs([1.0, 0.5, 2.0, 1.0], 0, width))
    assert orders.segments["price_start"].tolist() == pytest.approx([0.5])
    assert orders.width_kw.tolist() == [width]


def test_a_flat_bend_within_the_range_is_found():
    """C' = (p - 50)^3 neither falls nor rises at 50; with -1e-3 (p - 50) added it falls between two close outputs."""
    price = Polynomial([-50.0, 1.0]) ** 3 * 1e-6
    assert len(mo.Orders.from_costs(costs(price.integ().coef, 0, 100)))
    dented = price - Polynomial([-50.0, 1.0]) * 1e-6
    with pytest.raises(mo.DataError, match=r"falls from .* \$/kWh at 49\.4226 kW of output to .* at 50\.5774 kW"):
        mo.Orders.from_costs(costs(dented.integ().coef, 0, 100))


def test_units_of_the_substation_and_of_both_sides():
    frame = pd.concat([
        costs([2.0, 0.1], 0, np.inf, tan_phi=0.0),
        costs([0, 0.2, 1e-3], -10, 30, tan_phi=0.5, participant="battery").assign(order="b"),
        costs([5.0, 0.1, 1e-3], 10, 30, q_min_kvar=-1.0, q_max_kvar=2.0, period=3).assign(order="m"),
    ])  # fmt: skip
    orders = mo.Orders.from_costs(frame)
    table = orders.orders.set_index("order")
    assert table.index.tolist() == ["g", "b", "b:consumption", "m"]
    assert table["side"].tolist() == ["offer", "offer", "bid", "offer"]
    assert table["participant"].tolist() == ["g", "battery", "battery", "m"]
    assert table["role"].tolist() == ["producer", "producer", "consumer", "producer"]
    assert table["tan_phi"].tolist() == [0, 0.5, 0.5, 0]
    assert table["minimum_kw"].tolist() == [0, 0, 0, 10]
    assert table.loc["m", ["period", "q_min_kvar", "q_max_kvar"]].tolist() == [3, -1, 2]
    assert orders.width_kw.tolist() == [np.inf, 30, 10, 30]
    assert orders.meta == {"max_price_error": 0.0, "fixed_cost_per_h": {("g", 0): 2.0, ("m", 3): 5.0}}
    both = mo.Orders.from_costs(costs([0, 0.1], -5, np.inf))
    assert both.width_kw.tolist() == [np.inf, 5] and both.segments["price_start"].tolist() == [0.1, 0.1]


STEPS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.3)), min_size=1, max_size=4)


@given(st.floats(0.1, 1e4), st.floats(0, 1), STEPS, st.floats(-0.1, 0.4))
def test_steps_of_a_reduction_are_exact(initial, part, drawn, first):
    size = np.array([share for share, _ in drawn])
    assume(size.sum() > 1e-3)
    width = size / size.sum() * part * initial
    price = first + np.cumsum([rise for _, rise in drawn])
    orders = mo.Orders.from_reductions(loads(initial, reduction_kw=width.tolist(), price=price.tolist(), tan_phi=0.3))
    _check_bid(orders, initial, float(width.sum()))
    edges = np.r_[0.0, np.cumsum(width)]
    for r in np.linspace(0, edges[-1], 7):
        cost = float((price * np.clip(r - edges[:-1], 0, width)).sum())
        assert _lost(orders, initial, r) == pytest.approx(cost, abs=1e-9 * (1 + initial))
    assert orders.meta["max_price_error"] == 0


@given(st.floats(0.1, 1e4), st.floats(0, 1), st.floats(-0.1, 0.5), st.floats(0, 0.5))
def test_an_affine_reduction_is_exact(initial, part, low, rise):
    most = part * initial
    columns = {"price_min": low, "price_max": low + rise, "max_reduction_kw": most, "tan_phi": 0.3}
    orders = mo.Orders.from_reductions(loads(initial, **columns))
    _check_bid(orders, initial, most)
    for r in np.linspace(0, most, 5):
        cost = low * r + (0.5 * rise * r * r / most if most > 0 else 0.0)
        assert _lost(orders, initial, r) == pytest.approx(cost, abs=1e-9 * (1 + initial))


@given(convex(), st.just(0.0) | st.floats(1e-6, 1), st.sampled_from([1e-2, 1e-4]))
def test_a_polynomial_reduction_is_as_near_as_stated(drawn, part, max_error):
    cost, low, high = drawn
    assume(low == 0)
    most = part * high
    powers = {f"c{k}": float(c) for k, c in enumerate(cost.coef)}
    frame = loads(high, max_reduction_kw=most, tan_phi=0.3, **powers)
    orders = mo.Orders.from_reductions(frame, max_error=max_error)
    _check_bid(orders, high, most)
    error = orders.meta["max_price_error"]
    assert error <= max_error
    for r in np.linspace(0, most, 9):
        near = error * r * (1 + 1e-9) + 1e-8 * (1 + high)
        assert _lost(orders, high, r) == pytest.approx(cost(r) - cost(0), abs=near)
        if r < most:
            last = orders.curves.marginal([high - r])[0]  # the last kW consumed is the first that is not reduced
            assert abs(last - cost.deriv()(r)) <= error + 1e-8


def _check_bid(orders: mo.Orders, initial: float, most: float) -> None:
    row = orders.orders.iloc[0]
    assert (row["side"], row["role"], row["tan_phi"]) == ("bid", "demand_response", 0.3)
    assert orders.width_kw[0] == pytest.approx(initial)
    assert row["minimum_kw"] == pytest.approx(initial - most, abs=1e-8 * initial)


def _lost(orders: mo.Orders, initial: float, r: float) -> float:
    """What the bid loses in value when it is reduced by r kW [$/h]."""
    return float(orders.curves.value([initial])[0] - orders.curves.value([initial - r])[0])


def test_files_tell_what_they_hold(tmp_path):
    costs_file, loads_file = tmp_path / "costs.csv", tmp_path / "loads.csv"
    costs_file.write_text("order,bus,p_max_kw,c0,c1,c3\ng,1,100,,0.1,1e-6\nh,2,50,3,0.2,\n")
    loads_file.write_text("order,bus,initial_kw,reduction_kw,price\nd,1,100,20,0.1\nd,1,100,30,0.2\n")
    units, responses = mo.Orders.from_csv(costs_file), mo.Orders.from_csv(loads_file)
    pd.testing.assert_frame_equal(units.joined(), mo.Orders.from_costs(costs_file).joined())
    pd.testing.assert_frame_equal(responses.joined(), mo.Orders.from_reductions(loads_file).joined())
    assert units.meta["fixed_cost_per_h"] == {("h", 0): 3.0}
    both = units.merge(responses)
    assert both.meta == units.meta
    assert responses.merge(units).meta["max_price_error"] == units.meta["max_price_error"] > 0
    both.to_csv(tmp_path / "both.csv")
    back = mo.Orders.from_csv(tmp_path / "both.csv")
    pd.testing.assert_frame_equal(back.orders, both.orders, check_exact=True)
    pd.testing.assert_frame_equal(back.segments, both.segments, check_exact=True)


SOUND = {"order": "g", "bus": "1", "p_max_kw": 9.0, "c1": 0.1}
REFUSED_COSTS = [
    ({"p_min_kw": 10}, "row 'g', column 'p_min_kw', value 10.0: p_min_kw is above p_max_kw (p_max_kw is 9)"),
    ({"p_max_kw": np.inf, "c2": 1.0}, "row 'g', column 'p_max_kw', value inf: an unlimited output needs one price"),
    ({"p_max_kw": None}, "row 'g', column 'p_max_kw': the cell is empty or NaN"),
    ({"p_min_kw": -np.inf}, "row 'g', column 'p_min_kw', value -inf: not a finite number"),
    ({"c1": "dear"}, "row 'g', column 'c1', value 'dear': not a number"),
    ({"c2": np.inf}, "row 'g', column 'c2', value inf: not a finite number"),
    ({"c2": -0.1}, "row 'g': the cost is not convex: its marginal cost falls from 0.1 $/kWh at 0 kW of output"),
    ({"c2": -0.1, "period": 2}, "row 'g, period 2': the cost is not convex"),
    ({"side": "bid"}, "row 'g', column 'side', value 'bid': unknown word (one of offer)"),
    ({"role": "consumer"}, "row 'g', column 'role', value 'consumer': unknown word (one of producer)"),
    ({"minimum_kw": 2}, "column 'minimum_kw': the column has no place here (what must run is p_min_kw)"),
    ({"bus": None}, "row 'g', column 'bus'"),
    ({"q_min_kvar": 2.0}, "give both or none"),
    ({"tan_phi": np.inf}, "column 'tan_phi', value inf: not a finite number"),
    ({"participent": "x"}, "column 'participent': unknown column (did you mean 'participant'?)"),
    ({"c3": 1e9}, "within 0.0001 $/kWh the cost takes more than 10,000 segments (allow a greater max_error)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED_COSTS, ids=[message for _, message in REFUSED_COSTS])
def test_bad_costs_are_named(change, message):
    with pytest.raises(mo.DataError) as caught:
        mo.Orders.from_costs(pd.DataFrame([SOUND | change]))
    assert message in str(caught.value)


LOAD = {"order": "d", "bus": "1", "initial_kw": 50.0}
STEP, LINE = {"reduction_kw": 20.0, "price": 0.1}, {"price_min": 0.1, "price_max": 0.3}
REFUSED_REDUCTIONS = [
    ([LOAD], "table 'reductions': there is no cost of reduction (give one of: reduction_kw, price (steps)"),
    ([LOAD | STEP | LINE], "several costs of reduction: steps, affine"),
    ([LOAD | LINE | {"c1": 1.0}], "several costs of reduction: affine, polynomial"),
    ([LOAD | {"price_min": 0.1}], "column 'price_max': the column is missing"),
    ([LOAD | {"reduction_kw": 1.0}], "column 'price': the column is missing"),
    ([LOAD | LINE | {"price_max": 0.0}], "row 'd', column 'price_max', value 0.0: reducing gets cheaper"),
    ([LOAD | STEP, LOAD | STEP | {"price": 0.05}], "column 'price', value 0.05: reducing gets cheaper: 0.1 $/kWh, and "
     "beyond 20 kW 0.05 (give rising prices)"),
    ([LOAD | {"c1": 1.0, "c2": -0.01}], "its marginal cost falls from 1 $/kWh at 0 kW of reduction to 0 at 50 kW"),
    ([LOAD | STEP] * 3, "row 'd', column 'reduction_kw', value 20.0: the steps reduce 60 kW, more than there is"),
    ([LOAD | STEP | {"max_reduction_kw": 10}], "the steps reduce 20 kW, more than there is (max_reduction_kw is 10)"),
    ([LOAD | LINE | {"max_reduction_kw": 51}], "value 51.0: more is reduced than the load (initial_kw is 50)"),
    ([LOAD | LINE | {"max_reduction_kw": -1}], "column 'max_reduction_kw', value -1: below 0"),
    ([LOAD | LINE | {"initial_kw": -1}], "column 'initial_kw', value -1: below 0"),
    ([LOAD | LINE | {"initial_kw": np.inf}], "column 'initial_kw', value inf: not a finite number"),
    ([LOAD | STEP | {"reduction_kw": -1}], "column 'reduction_kw', value -1: below 0"),
    ([LOAD | STEP | {"price": np.nan}], "column 'price', value nan: the cell is empty or NaN"),
    ([LOAD | STEP, LOAD | STEP | {"bus": "2"}], "row 'd': rows of one order disagree (period 0)"),
    ([LOAD | LINE, LOAD | LINE], "row ('d', 0), column 'order, period': the name stands twice"),
    ([LOAD | LINE | {"side": "offer"}], "column 'side', value 'offer': unknown word (one of bid)"),
    ([LOAD | LINE | {"role": "consumer"}], "column 'role', value 'consumer': unknown word (one of demand_response)"),
    ([LOAD | LINE | {"minimum_kw": 1}], "column 'minimum_kw': the column has no place here (what cannot be reduced is"),
    ([LOAD | LINE | {"max_reduction": 1}], "column 'max_reduction': unknown column (did you mean 'max_reduction_kw'?)"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), REFUSED_REDUCTIONS, ids=[message for _, message in REFUSED_REDUCTIONS])
def test_bad_reductions_are_named(rows, message):
    with pytest.raises(mo.DataError) as caught:
        mo.Orders.from_reductions(pd.DataFrame(rows))
    assert message in str(caught.value)


@pytest.mark.parametrize("make", [mo.Orders.from_costs, mo.Orders.from_reductions])
def test_what_is_no_table_and_no_price_error_is_refused(make, tmp_path):
    with pytest.raises(mo.DataError, match="expected a pandas DataFrame or the path of a CSV file, got list"):
        make([1, 2])
    with pytest.raises(mo.DataError, match="no file .*check the path"):
        make(tmp_path / "missing.csv")
    for error in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(mo.DataError, match="max_error must be a finite price above zero"):
            make(pd.DataFrame([SOUND | LOAD]), max_error=error)
    with pytest.raises(mo.DataError, match="there is no cost"):
        make(pd.DataFrame([{"order": "g", "bus": "1", "p_max_kw": 1.0, "initial_kw": 1.0}]))
