"""What is saved is read back as it was, executes nothing, and does not survive tampering."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

import mktopt as mo
from mktopt.testing import small_market

TABLES = ["prices", "dispatch", "flows", "constraints", "order_prices"]


@pytest.fixture(scope="module")
def clearing() -> mo.Clearing:
    network, orders = small_market()

    def cap(model, network):
        return model.accepted_kw["up", 0] <= 90

    return mo.clear("surplus", network, orders, flow="dc", extra=[cap], pricing="budget_balanced")


@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.parametrize("case", ["small", "ieee34"])
def test_it_comes_back_as_it_was(clearing, tmp_path: Path, format: str, case: str):
    saved = clearing if case == "small" else mo.clear("surplus", *mo.load_case(case)[:2], flow="copperplate")
    saved.save(tmp_path / "result", format=format)
    loaded = mo.Clearing.load(tmp_path / "result")
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(saved, name), check_exact=True, check_dtype=False)
    for name in ("welfare", "status", "mechanism", "flow", "solver", "notes"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert dict(loaded.options) == dict(saved.options)
    pd.testing.assert_frame_equal(loaded.network.branches, saved.network.branches, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(loaded.orders.joined(), saved.orders.joined(), check_exact=True, check_dtype=False)
    assert {**asdict(loaded.certificate), "source": ""} == {**asdict(saved.certificate), "source": ""}
    assert loaded.certificate.source == "recorded when saved"
    assert loaded.settlement.budget == pytest.approx(saved.settlement.budget, abs=1e-12)


def test_a_loaded_market_can_be_cleared_again(clearing, tmp_path: Path):
    clearing.save(tmp_path / "result")
    loaded = mo.Clearing.load(tmp_path / "result")
    again = mo.clear(loaded.mechanism, loaded.network, loaded.orders, flow=loaded.flow, **loaded.options)
    assert again.certificate.ok()
    assert again.welfare >= loaded.welfare - 1e-6, "without the row of the user's own there is no less"


def test_the_manifest_says_what_was_done(clearing, tmp_path: Path):
    clearing.save(tmp_path / "result")
    manifest = json.loads((tmp_path / "result" / "manifest.json").read_text())
    assert manifest["mechanism"] == "surplus"
    assert manifest["flow"] == "dc"
    assert manifest["options"] == {"pricing": "budget_balanced"}
    assert manifest["versions"]["mktopt"] == mo.__version__
    assert set(manifest["sha256"]) == {file.name for file in (tmp_path / "result").iterdir()} - {"manifest.json"}


@pytest.mark.parametrize("file", ["prices.csv", "orders.csv", "branches.csv", "network.toml"])
def test_a_changed_file_is_refused(clearing, tmp_path: Path, file: str):
    clearing.save(tmp_path / "result")
    path = tmp_path / "result" / file
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(mo.DataError, match=f"{file}.*changed after it was saved"):
        mo.Clearing.load(tmp_path / "result")


def test_a_missing_file_and_a_folder_that_is_none(clearing, tmp_path: Path):
    clearing.save(tmp_path / "result")
    (tmp_path / "result" / "flows.csv").unlink()
    with pytest.raises(mo.DataError, match=r"flows.csv.*missing|missing.*flows.csv"):
        mo.Clearing.load(tmp_path / "result")
    with pytest.raises(mo.DataError, match="no manifest.json in this folder"):
        mo.Clearing.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{]")
    with pytest.raises(mo.DataError, match="cannot be read"):
        mo.Clearing.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"mktopt_clearing": 99}')
    with pytest.raises(mo.DataError, match="load it with the version of mktopt that saved it"):
        mo.Clearing.load(tmp_path)


def test_the_recorded_certificate_is_bound_to_its_tables(clearing, tmp_path: Path):
    clearing.save(tmp_path / "result")
    loaded = mo.Clearing.load(tmp_path / "result")
    raised = loaded.prices.assign(price=loaded.prices["price"] + 0.01)
    with pytest.raises(mo.MktoptError, match="changed after loading"):
        assert replace(loaded, prices=raised).certificate


def test_names_that_look_like_numbers_or_gaps_stay_text(tmp_path: Path):
    network, orders = small_market()
    names = {"s": "007", "a": "NA", "b": "1e3", "c": "null"}
    renamed = mo.Network(
        network.buses.replace({"bus": names}), network.branches.replace({"from_bus": names, "to_bus": names}), "007",
        hours=network.hours,
    )  # fmt: skip
    book = mo.Orders(orders.orders.replace({"bus": names}), orders.segments)
    saved = mo.clear("surplus", renamed, book)
    saved.save(tmp_path / "result")
    loaded = mo.Clearing.load(tmp_path / "result")
    assert loaded.prices["bus"].unique().tolist() == ["007", "NA", "1e3", "null"]
    assert loaded.network.source_bus == "007"


def test_unknown_formats_are_refused(clearing, tmp_path: Path):
    with pytest.raises(mo.MktoptError, match="unknown format 'pickle'; use 'csv' or 'parquet'"):
        clearing.save(tmp_path / "result", format="pickle")
    assert not (tmp_path / "result").exists()
