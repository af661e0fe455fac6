"""The benchmark of private wires, run small: what is kept of a run, what must hold, what the verdicts mean."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import mktopt as mo

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))  # scripts import each other by their bare name
    try:
        import coalition_losses
    finally:
        sys.path.remove(str(BENCHMARKS))
    return coalition_losses


@pytest.fixture(scope="module")
def parameters(benchmark: Any) -> Any:
    """Two draws on 30 buses instead of 20 on 300."""
    given = benchmark.cells.Parameters.read()
    study = replace(given.study, case="case30", size_factor=0.5)
    return replace(given, study=study, densities=("0", "1/n"), areas_km=(100.0,), draws=2, scan=("1/n",),
                   variants={}, variant_draws=1)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coalition")


@pytest.fixture(scope="module")
def study(benchmark: Any, parameters: Any, out: Path) -> Any:
    return benchmark.Losses.run(parameters, out, sensitivity=True)


def test_everything_is_left_and_no_claim_fails(
    benchmark: Any, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "left"
    assert benchmark.leave_study(study, left, 20) == 0
    plt.close("all")
    pictures = {"coalition_losses.png", "coalition_trades.png"}
    tables = {f"{name}.csv" for name in study.tables()}
    assert {file.name for file in left.iterdir()} == {*tables, *pictures, "summary.md"}
    assert left.joinpath("summary.md").read_text(encoding="utf-8").strip() in capsys.readouterr().out
    claims = pd.read_csv(left / "claims.csv")
    assert (claims["verdict"] == "holds").all()
    assert (claims["measured"] <= claims["asked"]).all()


def test_cells_say_what_they_are(study: Any) -> None:
    table = study.main.set_index(["density", "draw", "behaviour"])
    assert len(table) == 2 * 2 * 4
    none, some = table.xs("0"), table.xs("1/n")
    assert (none["wires"] == 0).all() and (none["private_percent"] == 0).all()
    assert (some["wires"] > 5).all() and (some.xs("cooperative", level="behaviour")["private_percent"] > 0).all()
    # one wholesale price both ways: the resource cost is that of what goes in and out
    net = table["import_kwh"] - table["export_kwh"]
    assert table["resource_cost"].to_numpy() == pytest.approx((study.parameters.study.wholesale * net).to_numpy())
    base = none["resource_cost"].xs("cooperative", level="behaviour")
    saved = 1e3 * (some["resource_cost"].xs("ad_hoc", level="behaviour") - base)
    saved /= none["demand_kwh"].groupby("draw").max()
    assert some["cost_change"].xs("ad_hoc", level="behaviour").tolist() == pytest.approx(saved.tolist())
    assert table["settled_cost"].notna().groupby("behaviour").all().to_dict() == {
        "ad_hoc": False, "cooperative": False, "integrated": True, "self_interested": False,
    }  # fmt: skip


def test_wires_of_a_draw_are_nested_and_its_people_stay(benchmark: Any, parameters: Any) -> None:
    cells, study = benchmark.cells, parameters.study

    def wires(network: Any) -> pd.DataFrame:
        table = network.branches
        return table[table["kind"] == "private"].set_index("branch")

    near, far = cells.grid(study, 1.0, "0.1", 3), cells.grid(study, 100.0, "0.3", 3)
    few, many = wires(near), wires(far)
    assert 0 < len(few) < len(many)
    assert set(few.index) < set(many.index)
    assert (100.0 * few["length_km"]).tolist() == pytest.approx(many.loc[few.index, "length_km"].tolist())
    assert set(wires(cells.grid(study, 1.0, "0.1", 4)).index) != set(few.index)
    assert cells.grid(study, 1.0, "1", 3).n_branches - near.n_branches + len(few) == 30 * 29 // 2
    orders = cells.people(study, 3).orders
    pd.testing.assert_frame_equal(orders, cells.people(study, 3).orders)
    even = cells.people(replace(study, balanced=True), 3).orders
    agents = even[even["participant"] != "main_grid"].groupby("side")["minimum_kw"].sum()
    assert agents["offer"] == pytest.approx(agents["bid"])
    equal = cells.people(replace(study, sizes="equal"), 3).orders
    assert len(equal) == 29 + 2 > len(orders)


def test_a_run_goes_on_where_it_was(benchmark: Any, parameters: Any, study: Any, out: Path, tmp_path: Path) -> None:
    kept, asked = (out / benchmark.CELLS).read_bytes(), parameters.items(True)
    assert kept.count(b"\n") == len(asked) == 2 * 2
    whole = tmp_path / benchmark.CELLS
    whole.write_bytes(kept)
    steps: list[tuple[int, int]] = []
    again = benchmark.Losses.run(parameters, tmp_path, sensitivity=True, progress=lambda *step: steps.append(step))
    assert steps == [(4, 4)]
    pd.testing.assert_frame_equal(again.table, study.table)
    whole.write_bytes(kept[:-20])  # interrupted while it wrote
    steps.clear()
    torn = benchmark.Losses.run(parameters, tmp_path, sensitivity=True, progress=lambda *step: steps.append(step))
    assert steps == [(3, 4), (4, 4)]
    pd.testing.assert_frame_equal(torn.table.drop(columns="seconds"), study.table.drop(columns="seconds"))
    assert [json.loads(line)[0]["draw"] for line in whole.read_bytes().splitlines()].count(0) == 2
    # cells of other parameters are not taken for these
    other = replace(parameters, study=replace(parameters.study, kv=69.0)).items()
    assert benchmark.cells.known(whole, other) == {}
    assert len(benchmark.cells.known(whole, asked)) == 4


@pytest.mark.parametrize(("behaviour", "factor", "claim"), [
    ("cooperative", 1.001, "cooperative costs more than ad hoc"),
    ("integrated", 1.05, "integrated costs more than cooperative"),
    ("self_interested", 0.99, "density 0: self-interested and cooperative differ"),
])  # fmt: skip
def test_a_wrong_cost_fails_the_claims(study: Any, behaviour: str, factor: float, claim: str) -> None:
    wrong = study.table.copy()
    wrong.loc[wrong["behaviour"] == behaviour, "resource_cost"] *= factor
    failed = replace(study, table=wrong).claims
    assert claim in failed.loc[failed["verdict"] == "FAILS", "claim"].tolist()


def test_what_cannot_be_cleared_is_told_and_fails(
    benchmark: Any, parameters: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = replace(parameters.study, size_factor=500.0)
    few = replace(parameters, study=huge, densities=("0",), draws=1, behaviours=("cooperative", "integrated"))
    failed = benchmark.Losses.run(few, tmp_path)
    assert failed.table["problem"].str.contains("infeasible").all()
    assert failed.claims.set_index("claim").loc["cells without a result", "measured"] == 2


def test_means_errors_and_verdicts_by_hand(benchmark: Any) -> None:
    verdicts = benchmark.verdicts
    rows = [(1.0, draw, "cooperative", density, loss) for density, losses in
            {"0": (7.0, 8.0, 9.0), "1/n^2": (6.0, 8.0, 7.0), "1/n": (1.0, 2.0, 3.0)}.items()
            for draw, loss in enumerate(losses)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["area_km", "draw", "behaviour", "density", "loss_percent"])
    found = verdicts.means(table, "loss_percent").set_index("density")
    assert found.loc["1/n", "mean"] == 2.0
    assert found.loc["1/n", "error"] == pytest.approx(1.0 / np.sqrt(3.0))
    poster = pd.DataFrame({"area_km": [1.0], "behaviour": "cooperative", "density": "0", "loss": 7.13})
    told = verdicts.orderings(table, poster).set_index("ordering")
    first, second = told.loc["cooperative: 1/n^2 below 0"], told.loc["cooperative: 1/n below 1/n^2"]
    # differences 1, 0, 2: one standard error is 1/sqrt(3), and one is not above two of them
    assert (first["difference"], first["verdict"]) == (1.0, "open")
    assert (first["share"], first["ties"]) == pytest.approx((2 / 3, 1 / 3))
    assert second["verdict"] == "yes" and second["share"] == 1.0
    assert first["poster_more"] == 7.13
    assert verdicts.as_printed(verdicts.means(table, "loss_percent"), ["0", "1/n"]).loc[0, "0"] == "8.00 ± 0.58"


def test_the_parameters_are_those_of_the_posters_table(benchmark: Any, tmp_path: Path) -> None:
    cells = benchmark.cells
    given = cells.Parameters.read()
    assert len(given.items()) == 4 * 2 * 20
    assert given.behaviours == benchmark.verdicts.BEHAVIOURS
    assert len(given.poster) == 4 * 4 * 2
    changed = tmp_path / "parameters.toml"
    changed.write_text(cells.FILE.read_text(encoding="utf-8").replace("retail =", "retial ="), encoding="utf-8")
    with pytest.raises(mo.MktoptError, match="retial"):
        cells.Parameters.read(changed)


def test_two_workers_find_what_one_finds_and_variants_stand_beside(
    benchmark: Any, parameters: Any, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # workers look for modules where their parent does
    even = replace(parameters.study, balanced=True)
    few = replace(parameters, draws=1, densities=("1/n",), behaviours=("cooperative",), variants={"balanced": even})
    found = benchmark.Losses.run(few, tmp_path, workers=2, sensitivity=True)
    here, there = found.main.iloc[0], study.main.set_index(["density", "behaviour", "draw"])
    same = there.loc[("1/n", "cooperative", 0)]
    assert [here[name] for name in ("wires", *benchmark.cells.FIGURES[::2])] == pytest.approx(
        [same[name] for name in ("wires", *benchmark.cells.FIGURES[::2])]
    )
    beside = found.sensitivity.set_index("variant")["cooperative 1/n"]
    assert beside.index.tolist() == ["as in the table", "balanced"]
    assert beside.iloc[0] == here["loss_percent"] != beside.iloc[1] > 0.0
