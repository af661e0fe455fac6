"""Parametric models: the same market, with the data that change as mutable Params."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.mechanisms import MECHANISMS
from mktopt.solvers import compile
from tests.clearing.markets import FLOWS, affine, grid, meshed, radial, steps


def same_arrays(one: Any, other: Any) -> None:
    for name in ("c", "row_lower", "row_upper", "lower", "upper"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, err_msg=name)
    assert abs(one.A - other.A).max() == 0.0
    assert (one.P is None) == (other.P is None)
    if one.P is not None:
        assert abs(one.P - other.P).max() <= 1e-15
    assert one.variable_names() == other.variable_names()
    assert one.row_names() == other.row_names()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_parametric_model_is_the_same_program_under_the_same_names(flow: str) -> None:
    network = (radial if mo.FLOWS[flow].radial_only else meshed)(3, hours=[1.0, 2.0])
    network = network.with_ratings({"l0": 40.0, "l2": 30.0})
    orders = affine(3, network)
    plain = mo.build("surplus", network, orders, flow=flow)
    parametric = mo.build("surplus", network, orders, flow=flow, parametric=True)
    same_arrays(compile(plain), compile(parametric))
    assert not list(plain.component_objects(pyo.Param))


def test_every_number_that_changes_is_a_param_with_its_table_value() -> None:
    network = grid([("l", "1", "2", 0.1, 60.0), ("m", "1", "2", 0.1, np.inf)], "12", hours=[1.0, 2.0])
    rows = [
        ("s", 0, "1", "offer", 0.0, False),
        ("d", 0, "2", "bid", 15.0, False),
        ("f", 1, "2", "bid", 8.0, False),
        ("w", 1, "1", "offer", 0.0, True),
    ]
    columns = ["order", "period", "bus", "side", "minimum_kw", "all_or_nothing"]
    segments = [("s", 0, 0, 20.0, 0.1, 0.3), ("s", 0, 1, np.inf, 0.4, 0.4), ("d", 0, 0, 10.0, 0.9, 0.9),
                ("d", 0, 1, 10.0, 0.8, 0.6), ("f", 1, 0, 8.0, 5.0, 5.0), ("w", 1, 0, 12.0, 0.2, 0.4)]  # fmt: skip
    names = ["order", "period", "segment", "width_kw", "price_start", "price_end"]
    orders = mo.Orders(pd.DataFrame(rows, columns=columns), pd.DataFrame(segments, columns=names))
    model = mo.build("surplus", network, orders, parametric=True)
    found = {p.local_name: {k: pyo.value(p[k]) for k in p} for p in model.component_objects(pyo.Param)}
    assert found == {
        "ask_price": {("s", 0, 0): 0.1, ("s", 0, 1): 0.4},
        "bid_price": {("d", 0, 0): 0.9, ("d", 0, 1): 0.8, ("f", 1, 0): 5.0},
        "ask_slope": {("s", 0, 0): pytest.approx(0.01)},
        "bid_slope": {("d", 0, 0): 0.0, ("d", 0, 1): pytest.approx(0.02), ("f", 1, 0): 0.0},
        "width_kw": {("s", 0, 0): 20.0, ("d", 0, 0): 10.0, ("d", 0, 1): 10.0, ("w", 1, 0): 12.0},
        "least_kw": {("d", 0, 0): 10.0, ("d", 0, 1): 5.0},
        "firm_kw": {("f", 1, 0): 8.0},
        "whole_value": {("w", 1): pytest.approx(0.3 * 12.0)},
        "rating_kva": {("l", 0): 60.0, ("l", 1): 60.0},
    }
    same_arrays(compile(mo.build("surplus", network, orders)), compile(model))


def test_a_market_of_flat_segments_stays_linear() -> None:
    network = grid([("l", "1", "2", 0.1, 60.0)], "12")
    model = mo.build("surplus", network, steps(("s", "1", "offer", 5.0, 0.1)), parametric=True)
    assert model.component("ask_slope") is None
    assert compile(model).problem_class == "LP"


@pytest.mark.parametrize("flow", ["dc", "ptdf"])
def test_angle_limits_stand_beside_ratings_in_rows_of_their_own(flow: str) -> None:
    network = meshed(5)
    lines = network.branches.assign(rating_kva=[90.0] * len(network.branches))
    lines.loc[0, ["angle_min_deg", "angle_max_deg"]] = [-0.001, 0.001]
    lines.loc[1, "angle_max_deg"] = 0.002
    network = network.replace(branches=lines)
    orders = affine(5, network)
    plain = mo.build("surplus", network, orders, flow=flow)
    parametric = mo.build("surplus", network, orders, flow=flow, parametric=True)
    first, second = (network.lines.at[k, "branch"] for k in (0, 1))
    assert set(parametric.grid.angle_limit) == {(first, 0), (second, 0)}
    assert parametric.grid.p_kw[first, 0].ub == 90.0
    assert plain.grid.p_kw[first, 0].ub < 90.0
    limit = parametric.grid.angle_limit[first, 0]
    assert (limit.lower, limit.upper) == (plain.grid.p_kw[first, 0].lb, plain.grid.p_kw[first, 0].ub)
    assert mo.solve(parametric).welfare == pytest.approx(mo.solve(plain).welfare, rel=1e-8)
    tight = network.with_ratings({first: 0.5 * plain.grid.p_kw[first, 0].ub})
    parametric.grid.rating_kva[first, 0] = 0.5 * plain.grid.p_kw[first, 0].ub
    expected = mo.clear("surplus", tight, orders, flow=flow).welfare
    assert mo.solve(parametric).welfare == pytest.approx(expected, rel=1e-8)


def test_parametric_is_no_option_of_a_market() -> None:
    assert "parametric" not in MECHANISMS["surplus"].options
    assert MECHANISMS["surplus"].parametric


def test_a_mechanism_without_params_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = grid([("l", "1", "2", 0.1, 60.0)], "12")

    def plain(network: Any, orders: Any, flow: Any) -> Any:
        return pyo.ConcreteModel()

    monkeypatch.setitem(MECHANISMS, "plain", mo.mechanisms.Mechanism("plain", plain, "", flow="transport"))
    with pytest.raises(mo.FormulationError, match="mechanism 'plain' cannot be built parametric"):
        mo.build("plain", network, steps(("s", "1", "offer", 5.0, 0.1)), parametric=True)


def test_params_keep_their_domain() -> None:
    network = grid([("l", "1", "2", 0.1, 60.0)], "12")
    model = mo.build("surplus", network, steps(("s", "1", "offer", 5.0, 0.1)), parametric=True)
    with pytest.raises(ValueError, match="domain NonNegativeReals"):
        model.width_kw["s", 0, 0] = -1.0
    model.ask_price["s", 0, 0] = -1.0
