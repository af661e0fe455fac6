"""Bids and offers: their makers, files, curves, and the rules that keep clearing convex."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

import mktopt as mo

QUADRUPLE = ["order", "bus", "side", "q_min_kw", "q_max_kw", "price_min", "price_max"]


def curves(*rows: tuple) -> mo.Orders:
    return mo.Orders.from_curves(pd.DataFrame(rows, columns=QUADRUPLE))


def book(*rows: tuple, side: str = "offer") -> mo.Orders:
    """One order `o` from segments (width_kw, price_start, price_end)."""
    segments = pd.DataFrame(rows, columns=["width_kw", "price_start", "price_end"])
    segments = segments.assign(order="o", segment=range(len(rows)))
    return mo.Orders(pd.DataFrame({"order": ["o"], "bus": "1", "side": side}), segments)


def test_quadruples_are_the_papers_curves():
    """Eq. (2)-(3): the supply rises from p_min at q_min to p_max at q_max, the demand falls the other way round."""
    orders = curves(("s", "1", "offer", 10, 50, 0.2, 0.6), ("d", "1", "bid", 10, 50, 0.2, 0.6))
    for q in (0.0, 5.0, 10.0, 30.0, 50.0):
        supply = 0.2 + max(0.0, q - 10) * 0.4 / 40
        demand = 0.6 - max(0.0, q - 10) * 0.4 / 40
        assert orders.curves.marginal([q, q]) == pytest.approx([supply, demand])
    assert orders.width_kw.tolist() == [50, 50]
    assert orders.curves.value([50, 50]) == pytest.approx([10 * 0.2 + 40 * 0.4, 10 * 0.6 + 40 * 0.4])


def test_steps_follow_each_other():
    frame = pd.DataFrame({"order": "o", "bus": "1", "side": "offer", "width_kw": [5, 10], "price": [0.1, 0.4]})
    orders = mo.Orders.from_steps(frame)
    assert len(orders) == 1 and orders.segments["segment"].tolist() == [0, 1]
    assert orders.curves.value([8]) == pytest.approx([0.5 + 1.2])
    assert orders.curves.marginal([5]) == pytest.approx([0.1])
    assert orders.curves.marginal([5.0 + 1e-9]) == pytest.approx([0.4])
    assert orders.curves.marginal([5.0 + 1e-9], tolerance_kw=1e-6) == pytest.approx([0.1])


SEGMENTS = st.lists(st.tuples(st.floats(0, 20), st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=4)


@given(SEGMENTS, st.sampled_from(["bid", "offer"]), st.floats(0, 1), st.floats(-1.5, 1.5), st.floats(0, 1))
def test_value_is_the_integral_of_the_curve_and_the_best_response_is_best(segments, side, share, price, low):
    ends = sorted([end for segment in segments for end in segment[1:]], reverse=side == "bid")
    orders = book(*[(width, ends[2 * k], ends[2 * k + 1]) for k, (width, *_) in enumerate(segments)], side=side)
    width = float(orders.width_kw[0])
    edges = np.r_[0.0, np.cumsum(orders.segments["width_kw"])]

    def curve(q: float) -> float:
        k = min(int(np.searchsorted(edges, q, side="right")) - 1, len(segments) - 1)
        row = orders.segments.iloc[k]
        part = (q - edges[k]) / row["width_kw"] if row["width_kw"] > 0 else 0.0
        return float(row["price_start"] + part * (row["price_end"] - row["price_start"]))

    q = share * width
    integral = sum(quad(curve, a, min(b, q))[0] for a, b in pairwise(edges) if a < min(b, q))
    assert orders.curves.value([q])[0] == pytest.approx(integral, abs=1e-6)
    assert orders.curves.total(orders.curves.fill([q]))[0] == pytest.approx(q)

    sign = orders.injection_sign
    lower = np.array([low * width])
    best = orders.curves.best_response(np.array([price]), sign, lower, orders.width_kw)

    def gain(quantity: np.ndarray) -> np.ndarray:
        return np.array([sign[0] * (price * x - orders.curves.value([x])[0]) for x in quantity])

    assert lower[0] - 1e-12 <= best[0] <= width + 1e-12
    assert gain(best)[0] >= gain(np.linspace(lower[0], width, 41)).max() - 1e-9


def test_segments_come_in_any_sequence():
    orders = pd.DataFrame({"order": ["b", "a"], "bus": "1", "side": ["bid", "offer"]})
    segments = pd.DataFrame({
        "order": ["a", "b", "a", "b"], "segment": [7, 2, 3, 1], "width_kw": [1.0, 2.0, 3.0, 4.0],
        "price_start": [0.5, 0.1, 0.2, 0.9], "price_end": [0.5, 0.1, 0.2, 0.9],
    })  # fmt: skip
    made = mo.Orders(orders, segments)
    assert made.segments["order"].tolist() == ["b", "b", "a", "a"]
    assert made.segments["width_kw"].tolist() == [4.0, 2.0, 3.0, 1.0]
    assert made.curves.value([5.0, 4.0]) == pytest.approx([4 * 0.9 + 0.1, 3 * 0.2 + 0.5])


def test_defaults_and_names():
    orders = mo.Orders.from_steps(pd.DataFrame({
        "order": [1, 2], "bus": [701.0, 702.0], "side": ["bid", "offer"], "width_kw": [5, 6], "price": [0.3, 0.1],
    }))  # fmt: skip
    assert orders.orders["order"].tolist() == ["1", "2"]
    assert orders.orders["bus"].tolist() == ["701", "702"]
    assert orders.orders["participant"].tolist() == ["1", "2"]
    assert orders.orders[["minimum_kw", "tan_phi", "period"]].to_numpy().tolist() == [[0, 0, 0]] * 2
    assert orders.injection_sign.tolist() == [-1, 1]
    assert repr(orders) == "Orders(1 bids, 1 offers, 2 segments)"


def roles(*rows: tuple, width: float = 5.0) -> mo.Orders:
    """Steps of `width` kW from rows (order, side, role)."""
    frame = pd.DataFrame(rows, columns=["order", "side", "role"])
    return mo.Orders.from_steps(frame.assign(bus="1", width_kw=width, price=0.3))


def test_roles_are_those_of_the_sides_unless_told():
    orders = roles(("a", "bid", ""), ("b", "offer", None), ("c", "bid", "demand_response"), ("d", "bid", "producer"))
    assert orders.orders["role"].tolist() == ["consumer", "producer", "demand_response", "producer"]
    assert curves(("s", "1", "offer", 0, 5, 0, 1)).orders["role"].tolist() == ["producer"]


def test_roles_go_where_the_orders_go(tmp_path):
    first, second = roles(("a", "bid", ""), ("b", "offer", "")), roles(("c", "bid", "demand_response"))
    both = first.merge(second)
    assert "role" not in first.joined().columns and "role" in both.joined().columns
    assert both.orders["role"].tolist() == ["consumer", "producer", "demand_response"]
    assert both.select([2]).orders["role"].tolist() == both.without(["a", "b"]).orders["role"].tolist()
    for orders in (first, both):
        orders.to_csv(tmp_path / "orders.csv")
        back = mo.Orders.from_csv(tmp_path / "orders.csv")
        pd.testing.assert_frame_equal(back.orders, orders.orders, check_exact=True)


def test_firm_is_a_minimum_of_the_whole_width():
    frame = pd.DataFrame({"order": ["a", "b", "c"], "bus": "1", "side": "bid", "width_kw": [5.0, 5.0, 0.0],
                          "price": 1.0, "minimum_kw": [5.0, 4.0, 0.0]})  # fmt: skip
    assert mo.Orders.from_steps(frame).firm.tolist() == [True, False, False]


NAMES = st.text(min_size=1, max_size=8).map(str.strip).filter(lambda s: s and "\x00" not in s and "\r" not in s)


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True),
    st.lists(st.floats(0, 1e6), min_size=4, max_size=4),
    st.lists(st.floats(-10, 10), min_size=4, max_size=4),
)
def test_a_csv_file_brings_orders_back_unchanged(tmp_path_factory, names, widths, prices):
    frame = pd.DataFrame([
        {"order": name, "bus": f"bus {name}", "side": "offer", "width_kw": widths[k], "price": prices[k], "period": k,
         "tan_phi": prices[k] / 3}
        for k, name in enumerate(names)
    ])  # fmt: skip
    orders = mo.Orders.from_steps(frame)
    path = tmp_path_factory.mktemp("orders") / "orders.csv"
    orders.to_csv(path)
    back = mo.Orders.from_csv(path)
    pd.testing.assert_frame_equal(back.orders, orders.orders, check_exact=True)
    pd.testing.assert_frame_equal(back.segments, orders.segments, check_exact=True)


def test_a_csv_file_with_everything_comes_back(tmp_path):
    table = pd.DataFrame({
        "order": ["a", "b", "c"], "period": [0, 3, 0], "participant": ["x", "", "x"], "bus": ["1", "2", "3"],
        "side": ["bid", "offer", "offer"], "minimum_kw": [1.0, 0, 0], "all_or_nothing": [False, True, False],
        "tan_phi": [0.1, -0.2, 0], "q_min_kvar": [np.nan, -1.0, np.nan], "q_max_kvar": [np.nan, 2.0, np.nan],
    })  # fmt: skip
    segments = pd.DataFrame({
        "order": ["a", "a", "b", "c"], "period": [0, 0, 3, 0], "segment": [0, 1, 0, 0],
        "width_kw": [1.5, 2.5, 3.0, np.inf], "price_start": [1 / 3, 0.2, 0.1, 0.4], "price_end": [0.3, 0.1, 0.2, 0.4],
    })  # fmt: skip
    orders = mo.Orders(table, segments)
    orders.to_csv(tmp_path / "orders.csv")
    back = mo.Orders.from_csv(tmp_path / "orders.csv")
    pd.testing.assert_frame_equal(back.joined(), orders.joined(), check_exact=True)


@pytest.mark.parametrize(
    ("header", "row"),
    [("order,bus,side,q_max_kw,price_min,price_max", "a,1,bid,10,0.1,0.5"),
     ("order,bus,side,width_kw,price", "a,1,bid,10,0.3"),
     ("order,bus,side,segment,width_kw,price_start,price_end", "a,1,bid,0,10,0.5,0.1")],
)  # fmt: skip
def test_the_columns_of_a_file_tell_its_form(tmp_path, header, row):
    path = tmp_path / "orders.csv"
    path.write_text(f"\ufeff{header}\n{row}\n", encoding="utf-8")  # with the mark that spreadsheets write
    orders = mo.Orders.from_csv(path)
    assert orders.width_kw.tolist() == [10.0]
    assert orders.curves.value([10.0]) == pytest.approx([3.0])


def test_merge_select_without():
    first, second = curves(("a", "1", "bid", 0, 5, 0, 1)), curves(("b", "1", "bid", 0, 7, 0, 1))
    both = first.merge(second)
    assert both.orders["order"].tolist() == ["a", "b"]
    assert both.without(["a"]).width_kw.tolist() == [7.0]
    assert both.select([False, True]).orders["order"].tolist() == ["b"]
    assert len(both.select(np.zeros(2, dtype=bool))) == 0
    with pytest.raises(mo.DataError, match=r"row \('a', 0\).*the name stands twice"):
        both.merge(first)


def test_the_frames_given_are_not_kept():
    frame = pd.DataFrame([("a", "1", "bid", 0.0, 5.0, 0.0, 1.0)], columns=QUADRUPLE)
    orders = mo.Orders.from_curves(frame)
    frame.loc[0, "q_max_kw"] = 99.0
    assert orders.width_kw.tolist() == [5.0]
    segments = orders.segments
    again = mo.Orders(orders.orders, segments)
    segments.loc[0, "width_kw"] = 77.0
    assert again.segments.loc[0, "width_kw"] == 5.0


REFUSED = [
    (lambda: book((1, 0.1, 0.2), side="bid"), "price_end', value 0.2: rising bid: price_end is above price_start"),
    (lambda: book((1, 0.2, 0.1)), "price_end', value 0.1: falling offer: price_end is below price_start"),
    (lambda: book((1, 0.2, 0.2), (1, 0.1, 0.3)), "segment 1', column 'price_start'.*starts below the segment"),
    (lambda: book((np.inf, 0.1, 0.2)), "an unlimited width needs one price"),
    (lambda: book((-1, 0.1, 0.2)), "column 'width_kw', value -1: below 0"),
    (lambda: book(), "row 'o': the order has no segment"),
    (lambda: mo.Orders(book((1, 0.1, 0.2)).orders, book((1, 0.1, 0.2)).segments.assign(order="x")), "no such order in"),
    (lambda: mo.Orders(book((1, 0, 0)).orders.assign(q_min_kvar=1.0), book((1, 0, 0)).segments), "give both or none"),
    (lambda: roles(("o", "offer", "demand_response")), "value 'demand_response': an offer cannot be demand response"),
    (lambda: roles(("o", "bid", "demand")), "value 'demand': unknown word .one of producer, consumer, demand_response"),
    (lambda: roles(("a", "bid", ""), ("a", "bid", "demand_response")), "row 'a': rows of one order disagree"),
    (lambda: roles(("o", "bid", "demand_response"), width=np.inf), "needs an initial load .give the order a finite"),
    (lambda: mo.Orders([1, 2], [3]), "table 'orders': expected a pandas DataFrame, got list"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_would_not_be_convex_is_refused(make, message):
    with pytest.raises(mo.DataError, match=message):
        make()


def test_prices_that_cross_by_rounding_pass():
    third = 0.1 + 0.2
    assert len(book((1, 0.3, third), (1, 0.3, 0.4))) == 1
