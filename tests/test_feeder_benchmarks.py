"""The benchmarks on feeders, each run once and small: use case 3 of OpenGridGym, and six physics compared."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import mktopt as mo

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
HOURS = (3, 21)


def loaded(name: str) -> ModuleType:
    """A script as a module; scripts import each other by their bare name."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def dlmp() -> Any:
    loaded("feeder_figures")
    return loaded("dlmp_ieee37")


@pytest.fixture(scope="module")
def physics(dlmp: Any) -> Any:
    return loaded("physics_compare")


@pytest.fixture(scope="module")
def day(dlmp: Any) -> Any:
    return dlmp.Day.run(HOURS, progress=lambda line: None)


def test_the_market_holds_all_loads_and_whoever_has_power(dlmp: Any) -> None:
    table = dlmp.hour_table()
    assert table["hour"].tolist() == list(range(24))
    orders = dlmp.market(table.iloc[[3, 12]])
    load_kw = mo.load_network("ieee37").loads["p_kw"].sum()
    for period, hour in enumerate((3, 12)):
        bids = orders.is_bid & (orders.orders["period"] == period).to_numpy()
        assert orders.width_kw[bids].sum() == pytest.approx(load_kw * table["load_factor"][hour])
        sun = orders.orders["order"].str.startswith("pv") & (orders.orders["period"] == period)
        assert sun.sum() == (0 if hour == 3 else 3)
    roles = orders.orders.groupby("role")["order"].nunique()
    assert roles.to_dict() == {"producer": 6, "demand_response": 6, "consumer": 24}


def test_the_feeder_is_derated_and_limited_where_it_says(dlmp: Any) -> None:
    network, given = dlmp.feeder(), mo.load_network("ieee37")
    changed = network.lines["rating_kva"].to_numpy() != given.lines["rating_kva"].to_numpy()
    assert network.lines.loc[changed, "branch"].tolist() == [dlmp.DERATED]
    free = network.buses["v_min_pu"].to_numpy() < dlmp.V_MIN
    assert set(network.buses.loc[free, "bus"]) == set(dlmp.UNSERVED)


def test_the_telling_hour_has_every_part(dlmp: Any, day: Any) -> None:
    assert day.hour == 21
    zones = day.zones().set_index("bus")
    assert np.allclose(zones[list(dlmp.SHOWN)].sum(axis=1), zones["price"], atol=5e-5)
    assert (zones[["loss", "congestion", "voltage"]].max() > 0.005).all()
    # behind the derated line power is dearer, in front of it the line adds next to nothing
    assert zones.loc["730", "congestion"] - zones.loc["703", "congestion"] > 0.04
    assert day.shares("congestion")["cause"].tolist() == [dlmp.DERATED]
    assert dlmp.full_branches(day.clearings[1]) == [dlmp.DERATED]


def test_each_hour_is_proved_and_carried_by_an_ac_power_flow(dlmp: Any, day: Any) -> None:
    table = day.summary().set_index("hour")
    assert (table["certificate"] == "holds").all()
    assert (table["ac"] == "holds").all()
    assert table.loc[21, "v_min_pu"] == pytest.approx(dlmp.V_MIN, abs=1e-5)
    assert "voltage low" in table.loc[21, "paper_ac"]  # what H knows nothing of
    assert day.separable <= 1e-6


def test_money_and_roles_add_up(day: Any) -> None:
    roles = day.roles()
    assert roles["bill"].sum() - roles["revenue"].sum() == pytest.approx(day.rent, abs=0.05)
    assert day.rent > 0
    gain = roles["revenue"] - roles["cost"] + roles["utility"] - roles["bill"]
    assert gain.to_numpy() == pytest.approx(roles["reward"].to_numpy(), abs=0.01)
    assert (roles["reward"] > -1e-6).all()
    responses = roles[roles["role"] == "demand_response"]
    assert responses["reduction_kwh"].sum() > 1
    assert (responses["revenue"] >= responses["cost"]).all()  # nobody reduces for less than it costs
    welfare = sum(clearing.welfare for clearing in day.clearings)
    assert roles["reward"].sum() + day.rent == pytest.approx(welfare, abs=0.05)


def test_outages_of_producers_are_secured_and_cost_something(day: Any) -> None:
    table = day.security()
    producers = table[table["kind"] == "generator"]
    assert (producers["status"] == "secured").all()
    assert producers["loading_percent"].max() == pytest.approx(100.0, abs=1e-3)  # of the emergency rating
    assert table.loc[table["kind"] == "branch", "status"].str.startswith("islands").all()
    assert day.zones()["n-1_security"].max() > 0.01
    assert day.secured.welfare < day.paper.welfare


def test_use_case_3_leaves_what_it_names(dlmp: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "case"
    assert dlmp.main(["--hours", "21", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    names = {"fig10_dlmps.png", "fig10_parts.png", "parts_profile.png", "parts_by_hour.png", "prices_by_hour.png",
             "dlmps.csv", "hours.csv", "dispatch.csv", "roles.csv", "role_totals.csv", "telling_hour.csv",
             "congestion_by_branch.csv", "voltage_by_bus.csv", "security.csv", "summary.md"}  # fmt: skip
    assert {file.name for file in out.iterdir()} == names
    assert all(file.stat().st_size > 10_000 for file in out.glob("*.png"))
    assert out.joinpath("summary.md").read_text(encoding="utf-8").strip() in printed
    prices = pd.read_csv(out / "dlmps.csv")
    assert prices[list(dlmp.SHOWN)].sum(axis=1).to_numpy() == pytest.approx(prices["price"].to_numpy(), abs=5e-6)


@pytest.mark.parametrize("hours", ["24", "1,1", "noon", "-1", ""])
def test_hours_that_are_none_are_refused(dlmp: Any, hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dlmp.main([f"--hours={hours}"])
    assert "0 to 23" in capsys.readouterr().err


@pytest.fixture(scope="module")
def feeders(physics: Any) -> Any:
    return {name: physics.Feeder.run(name, progress=lambda line: None) for name in physics.FEEDERS}


@pytest.mark.parametrize("name", ["ieee37", "case33bw"])
def test_more_physics_leave_less_welfare_and_the_exact_ones_agree(physics: Any, feeders: Any, name: str) -> None:
    table = feeders[name].comparison().set_index("flow")
    assert table.index.tolist() == list(physics.FLOWS)
    # each flow knows more limits than the one before, and the fourth losses
    assert (np.diff(table["welfare"].iloc[:4]) <= 1e-4).all()
    assert table.loc["distflow", "welfare"] >= table.loc["distflow exact", "welfare"] - 1e-4
    assert table["welfare"].iloc[4:].to_numpy() == pytest.approx(table.loc["distflow", "welfare"], rel=1e-6)
    assert table.loc["distflow", "gap"] < 1e-6
    assert table.loc[["distflow exact", "ac"], "price_error"].max() < 1e-6


@pytest.mark.parametrize("name", ["ieee37", "case33bw"])
def test_only_flows_with_losses_stand_an_ac_power_flow(feeders: Any, name: str) -> None:
    table = feeders[name].comparison().set_index("flow")
    full = ["distflow", "distflow exact", "ac"]
    assert (table.loc[full, "ac"] == "holds").all()
    assert (table.drop(index=full)["ac"] != "holds").all()
    assert table.loc[full, "voltage_error"].max() < 1e-8
    assert table.loc[full, "loss_kwh"].to_numpy() == pytest.approx(table.loc[full, "ac_loss_kwh"].to_numpy(), abs=0.02)
    assert table.loc[full, "settled_welfare"].to_numpy() == pytest.approx(table.loc[full, "welfare"].to_numpy())
    assert table.loc["lindistflow", "voltage_error"] > 1e-4
    assert table[["loss_kwh", "voltage_error"]].loc["copperplate"].tolist() == [0.0, pytest.approx(np.nan, nan_ok=True)]
    errors = feeders[name].by_bus()
    assert errors["voltage error lindistflow"].abs().max() == pytest.approx(table.loc["lindistflow", "voltage_error"],
                                                                            abs=1e-6)  # fmt: skip


def test_the_comparison_leaves_what_it_names(
    physics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "physics"
    assert physics.main(["--feeders", "case33bw", "--out", str(out)]) == 0
    tables = {f"case33bw_{kind}.csv" for kind in ("comparison", "by_bus", "dispatch")}
    assert {file.name for file in out.iterdir()} == {"prices.png", "voltages.png", "summary.md", *tables}
    assert "distflow exact" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        physics.main(["--feeders", "case34"])
    assert "case33bw" in capsys.readouterr().err
