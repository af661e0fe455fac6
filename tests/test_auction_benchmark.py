"""The benchmark of the two-level auction, run once and small: its claims, and what its tables mean."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PICTURES = ("fig3_cobweb", "fig6_convergence", "algorithm2", "overview")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))  # scripts import each other by their bare name
    try:
        import gne_auction
    finally:
        sys.path.remove(str(BENCHMARKS))
    return gne_auction


@pytest.fixture(scope="module")
def study(benchmark: Any) -> Any:
    return benchmark.Study.run(quick=True, progress=lambda line: None)


def test_everything_is_left_and_no_claim_fails(
    benchmark: Any, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "auction"
    assert benchmark.leave_study(study, out, benchmark.COARSE) == 0
    plt.close("all")
    tables = {f"{name}.csv" for name in study.tables()}
    assert {file.name for file in out.iterdir()} == {*tables, *(f"{name}.png" for name in PICTURES), "summary.md"}
    assert all(file.stat().st_size > 8_000 for file in out.glob("*.png"))
    assert out.joinpath("summary.md").read_text(encoding="utf-8").strip() in capsys.readouterr().out
    claims = pd.read_csv(out / "claims.csv")
    assert (claims["verdict"] == "holds").all()
    assert (claims["measured"] <= claims["asked"]).all()


def test_a_method_that_ends_elsewhere_fails_the_claims(study: Any) -> None:
    auction = study.eight.auctions[0]  # the certificates of the others are there already
    found = auction.outcomes["accelerated"]
    wrong = replace(auction, outcomes=auction.outcomes | {"accelerated": replace(found, p_kw=1.001 * found.p_kw)})
    eight = replace(study.eight, auctions=[wrong, *study.eight.auctions[1:]])
    failed = replace(study, eight=eight).claims
    assert failed.loc[failed["verdict"] != "holds", "claim"].str.startswith("methods differ").tolist() == [True]


def test_scenarios_differ_as_c0_says(study: Any) -> None:
    table = study.eight.cases.set_index("scenario")
    full = set(table.loc["I", "full_branches"].split(", "))
    assert full == {"799-799r", "713-704", "703-730", "734-737"}
    # behind each full line power is dearer; dear import is sold instead of bought
    assert table.loc["I", "min_cost"] < table.loc["I", "mean_cost"] < table.loc["I", "max_cost"]
    assert table.loc["I", "rent"] > 1.0
    assert table.loc["IV", "import_kw"] < 0 < table.loc["I", "import_kw"]
    assert table.loc["IV", "max_cost"] == pytest.approx(0.18)
    lossy, first = study.eight.lossy.iloc[0], table.loc["I"]
    assert lossy["loss_kw"] > 1.0
    assert lossy["welfare"] < first["welfare"] == pytest.approx(lossy["lossless_welfare"])


def test_newton_needs_fewest_iterations_and_a_fixed_step_most(study: Any) -> None:
    effort = study.eight.effort.groupby("method")["iterations"].max()
    iterated = effort[~effort.index.str.contains("central")]
    assert iterated.idxmin() == "newton"
    assert study.eight.fixed["iterations"].min() > iterated["newton"]
    assert (study.eight.fixed["verdict"] == "converged").all()


def test_price_anticipation_costs_welfare_and_trade(study: Any) -> None:
    row = study.eight.anticipation.iloc[0]
    assert 0.0 < row["loss"] < row["gain_lost"] < 0.1
    assert row["bought_kw"] < row["taking_bought_kw"]
    assert row["loss"] < row["greatest_loss"]


def test_algorithm_1_converges_on_the_case_and_cycles_elsewhere(study: Any) -> None:
    tried = study.lower.tried
    here = tried[tried["where"].str.startswith("case, at")]
    assert (here["verdict"] == "converged").all()
    drawn = tried[tried["where"].str.startswith("random")]
    share = drawn["verdict"].str.startswith("cycles (period 2)").mean()
    assert 0.05 < share < 0.3
    assert not (drawn.loc[drawn["factor"] > 1.0, "verdict"] == "converged").any()
    converging, cycling = study.lower.shown
    assert converging.printed.unit_cost == pytest.approx(converging.cost, rel=1e-5)
    assert cycling.printed.period == 2
    costs = cycling.printed.trace["unit_cost"].iloc[-2:]
    assert costs.min() < cycling.cost < costs.max()
    assert cycling.damped.unit_cost == pytest.approx(cycling.cost, rel=1e-8)


def test_algorithm_2_as_printed_ends_elsewhere_than_the_default(study: Any) -> None:
    runs = study.upper.algorithm2.set_index("scenario")
    assert runs.loc["I", "verdict"] == "converged"  # where the transformer is full, c0 does not matter
    assert runs.loc["IV", "verdict"].startswith("cycles")
    assert runs.loc["IV", "distance_kw"] > 10.0
    three = study.upper.three.set_index(["scenario", "problem"])
    default, own, cop = (three.loc[("IV", p)] for p in ("default", "solution of the printed QVI", "COP (10), local"))
    assert abs(own["import_kw"]) < 1e-3  # without limits its budget is zero only where nothing is imported
    assert abs(own["budget"]) < 1e-6
    assert default["welfare"] > own["welfare"]
    # COP (10) is about utility alone, the import being paid by its budget row
    assert cop["utility"] > own["utility"] > default["utility"]
    assert cop["welfare"] < default["welfare"]


def test_the_day_asks_upstream_for_what_is_missing(study: Any) -> None:
    table = study.day.summary.set_index("hour")
    assert np.allclose(table["import_kw"], table["consumed_kw"] - table["generated_kw"], atol=1e-5)
    assert table.loc[12, "import_kw"] < 0 < table.loc[20, "import_kw"]
    assert table.loc[20, "max_cost"] > table.loc[20, "c0"] + 0.01
    assert table.loc[12, ["min_cost", "max_cost"]].to_numpy(float) == pytest.approx(0.106)
    assert (table["rent"] > -1e-6).all()
    assert (table["certificate"] == "holds").all()
    sums = study.day.by_aggregator.groupby("hour")["p_kw"].sum()
    assert np.allclose(sums, table["import_kw"], atol=1e-5)


def test_the_hours_are_a_day(benchmark: Any) -> None:
    hours = benchmark.Day.run.__globals__["hour_table"]()
    assert hours["hour"].tolist() == list(range(24))
    assert hours["c0"].between(0.05, 0.2).all()
    assert hours["pv_factor"].between(0.0, 1.0).all()
    assert (hours.loc[hours["hour"].isin([0, 23]), "pv_factor"] == 0).all()


def test_an_option_that_is_none_is_refused(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--hours", "3"])
    assert "--quick" in capsys.readouterr().err
