"""Warnings where kW and MW seem to be mixed up, and none for the cases that ship."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest

from mktopt.networks.cases import case_names, load_network
from mktopt.networks.checks import NetworkWarning
from mktopt.networks.network import Network


def feeder(load_kw: float, rating_kva: float, loads: int = 3) -> Network:
    return Network(
        buses=pd.DataFrame({"bus": ["a", "b"], "base_kv": 20.0}),
        branches=pd.DataFrame({
            "branch": ["l"], "from_bus": ["a"], "to_bus": ["b"], "r_ohm": 1.0, "x_ohm": 1.0, "rating_kva": rating_kva,
        }),
        loads=pd.DataFrame({"load": [f"d{k}" for k in range(loads)], "bus": "b", "p_kw": load_kw}),
        source_bus="a",
    )  # fmt: skip


def test_ratings_in_mva() -> None:
    with pytest.warns(NetworkWarning, match=r"300 kW on average.* rated 5 kVA: are the ratings in MVA"):
        feeder(300.0, 5.0)


def test_loads_in_mw() -> None:
    with pytest.warns(NetworkWarning, match=r"together are 0.9 kW.* smallest branch is rated 5000 kVA.*in MW\?"):
        feeder(0.3, 5000.0)


@pytest.mark.parametrize(("load", "rating", "loads"), [
    (300, 5000, 3), (49, 5, 3), (300, float("inf"), 3), (0.3, 5000, 2), (0, 5000, 3), (-300, 5000, 3),
])  # fmt: skip
def test_plausible_data_is_left_alone(load: float, rating: float, loads: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NetworkWarning)
        feeder(load, rating, loads)


@pytest.mark.parametrize("name", [n for n in case_names() if "synthetic" not in n] + ["synthetic:radial:100:1"])
def test_the_cases_warn_of_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NetworkWarning)
        load_network(name)


def test_the_warning_points_at_the_caller() -> None:
    with pytest.warns(NetworkWarning) as caught:
        feeder(300.0, 5.0)
    assert caught[0].filename == __file__
