"""Coalitions as a user meets them: on the command line, in a folder, in a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mktopt as mo
from mktopt import cli
from mktopt.errors import DataError, FormulationError, MktoptError


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "140"})
    assert result.exit_code == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module", params=["cooperative", "self_interested"])
def clearing(request: pytest.FixtureRequest) -> mo.Clearing:
    network, orders, *_ = mo.load_case("eight_node")
    return mo.clear("coalition", network, orders, behaviour=request.param)


def test_the_command_clears_the_eight_nodes() -> None:
    document = json.loads(run("clear", "eight_node", "--mechanism", "coalition", "--format", "json"))
    assert document["certificate"]["ok"]
    assert document["coalition"]["behaviour"] == "cooperative"
    sent = {row["branch"]: row["sent_kw"] for row in document["trades"]}
    assert sent["A1-A2:private"] > 10.0
    assert sent["A2-A3:private"] > 5.0
    report = run("clear", "eight_node", "--mechanism", "coalition", "--behaviour", "ad_hoc")
    assert "Trades over private wires" in report
    assert "choice" in report
    groups = run("clear", "eight_node", "--mechanism", "coalition", "--table", "groups", "--format", "csv")
    assert groups.startswith("group,members,size,wires,cost,alone,saving")


def test_what_the_command_refuses() -> None:
    assert "has no trades" in run("clear", "eight_node", "--table", "trades", code=2)
    spoken = run("clear", "eight_node", "--mechanism", "coalition", "--behaviour", "co-operative", code=2)
    assert "cooperative" in spoken
    below = run("clear", "eight_node", "--mechanism", "coalition", "--retail", "0.05", code=2)
    assert "retail" in below


def test_the_example_of_a_street() -> None:
    street = Path(__file__).resolve().parents[1] / "examples" / "street"
    run("check", str(street))
    cost = {}
    for behaviour in ("ad_hoc", "self_interested", "cooperative", "integrated"):
        document = json.loads(run("clear", str(street), "--behaviour", behaviour, "--format", "json"))
        assert document["certificate"]["ok"], behaviour
        cost[behaviour] = document["coalition"]["resource_cost"]
        assert {"wire company", "main_grid", "public grid"} <= {row["player"] for row in document["payments"]}
    # the public grid is a tree, which leaves physics nothing to say
    assert cost["integrated"] == pytest.approx(cost["cooperative"], rel=1e-9)
    assert cost["cooperative"] < min(cost["ad_hoc"], cost["self_interested"])


def test_tariffs_are_not_settled_as_nodal_prices(clearing: mo.Clearing) -> None:
    assert clearing.coalition is not None
    if clearing.coalition.behaviour == "cooperative":
        assert clearing.settlement.budget == pytest.approx(clearing.certificate.rent, rel=1e-6)
    else:
        with pytest.raises(FormulationError, match=r"clearing\.payments"):
            _ = clearing.settlement


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_saved_coalition_comes_back_whole(clearing: mo.Clearing, form: str, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    clearing.save(tmp_path / "saved", format=form)
    again = mo.Clearing.load(tmp_path / "saved")
    assert again.coalition is not None
    assert clearing.coalition is not None
    for name, value in vars(clearing.coalition).items():
        other = getattr(again.coalition, name)
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(other, value, check_dtype=False)
        else:
            assert other == value, name
    assert again.certificate.ok()
    assert again.certificate.record == clearing.certificate.record
    # a saved file that was changed is noticed, and so is a record that was
    table = tmp_path / "saved" / f"payments.{form}"
    if form == "csv":
        table.write_text(table.read_text().replace("A1", "A9", 1))
        with pytest.raises(DataError, match=r"payments\.csv"):
            mo.Clearing.load(tmp_path / "saved")
    forged = replace(again, coalition=replace(again.coalition, resource_cost=0.0))
    with pytest.raises(MktoptError, match="changed after loading"):
        _ = forged.certificate


@pytest.mark.parametrize("name", ["trades", "payments", "groups"])
def test_a_forged_record_fails(clearing: mo.Clearing, name: str) -> None:
    assert clearing.coalition is not None
    assert clearing.certificate.ok()
    table = getattr(clearing.coalition, name)
    for column in table.columns:
        values = table[column].to_numpy(copy=True)
        values[0] = values[0] + (1e-2 if values.dtype.kind == "f" else 1 if values.dtype.kind in "iu" else "x")
        forged = replace(clearing.coalition, **{name: table.assign(**{column: values})})
        assert not replace(clearing, coalition=forged).certificate.ok(), column


def test_a_forged_number_fails(clearing: mo.Clearing) -> None:
    assert clearing.coalition is not None
    for name, value in vars(clearing.coalition).items():
        if isinstance(value, float):
            forged = replace(clearing.coalition, **{name: value + 1e-3})
            assert not replace(clearing, coalition=forged).certificate.ok(), name
        if isinstance(value, tuple):
            forged = replace(clearing.coalition, **{name: tuple(np.array(value) * 1.01)})
            assert not replace(clearing, coalition=forged).certificate.ok(), name


def test_the_picture_shows_the_trades(clearing: mo.Clearing) -> None:
    ax = clearing.plot.trades()
    assert clearing.coalition is not None
    labels = {text.get_text() for text in ax.texts}
    assert clearing.coalition.behaviour_in_words in ax.get_title()
    flows = clearing.flows.set_index("branch")
    for branch in clearing.coalition.trades["branch"]:
        mean = abs(0.5 * (flows.at[branch, "p_kw"] + flows.at[branch, "to_kw"]))
        assert any(text.endswith(" kW") and abs(float(text[:-3]) - mean) < 0.6 for text in labels), branch
    assert set(clearing.network.buses["bus"]) <= labels
    plt.close("all")


def test_a_picture_of_many_wires_names_none() -> None:
    network = mo.with_private_wires(mo.load_network("synthetic:radial:80:1"), 0.05, seed=2)
    orders = mo.endowments(network, 3)
    ax = mo.clear("coalition", network, orders, behaviour="ad_hoc").plot.trades()
    assert not [text for text in ax.texts if text.get_text()]
    assert any("a scale of its own" in label for label in ax.get_legend_handles_labels()[1])
    plt.close("all")


def test_there_is_no_picture_of_trades_without_private_wires() -> None:
    network, orders, *_ = mo.load_case("ieee34")
    with pytest.raises(MktoptError, match="no branch is private"):
        mo.clear("surplus", network, orders).plot.trades()
