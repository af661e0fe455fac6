"""A saved clearing comes back equal, cannot be changed unseen, and is never half written."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.clearing.storage import TABLES
from tests.clearing.markets import affine, cap_on_bids, congested, grid, radial, steps

PACKAGE = Path(mo.__file__).parent
ODD = ["NA", "nan", "1.0", "a,b", 'say "x"', "zwei\nzeilen", "ü\u2028ß"]


def market(**options) -> mo.Clearing:
    network = radial(8, hours=[0.5, 2.0])
    orders = affine(8, network)
    network = congested(network, orders, "dc", most=2)
    cap = cap_on_bids(0.9, network, orders, "dc")
    return mo.clear("surplus", network, orders, flow="dc", extra=[cap], solver_options={"max_iter": 150}, **options)


@pytest.fixture(scope="module")
def clearing() -> mo.Clearing:
    return market()


def same(first: mo.Clearing, second: mo.Clearing) -> None:
    for name in TABLES:
        one, two = getattr(first, name), getattr(second, name)
        if one is None:
            assert two is None
        else:
            pd.testing.assert_frame_equal(one, two, check_exact=True, check_dtype=len(one) > 0)
    for frame in ("buses", "branches", "loads", "shunts"):
        one, two = getattr(first.network, frame), getattr(second.network, frame)
        pd.testing.assert_frame_equal(one, two, check_exact=True, check_dtype=len(one) > 0)
    pd.testing.assert_frame_equal(first.orders.joined(), second.orders.joined(), check_exact=True)
    assert first.network.hours.tolist() == second.network.hours.tolist()
    for name in ("welfare", "status", "mechanism", "flow", "solver", "notes"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("options", "flow_options", "solver_options", "seconds"):
        assert dict(getattr(first, name)) == dict(getattr(second, name)), name


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_round_trip_changes_nothing(clearing, tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    clearing.save(tmp_path / "out", format=format)
    loaded = mo.Clearing.load(tmp_path / "out")
    same(clearing, loaded)
    certificate = loaded.certificate
    assert replace(certificate, source="evaluated") == clearing.certificate
    assert certificate.source == "recorded when saved"
    assert loaded.settlement.budget == clearing.settlement.budget
    assert "holds" in loaded.summary()
    loaded.save(tmp_path / "again", format=format)
    same(clearing, mo.Clearing.load(tmp_path / "again"))


def test_a_market_without_flows_rows_or_limits_comes_back(tmp_path):
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("up", "1", "offer", np.inf, 0.05), ("load", "2", "bid", 80, 1.0))
    for flow in ("copperplate", "transport"):
        clearing = mo.clear("surplus", network, orders, flow=flow)
        clearing.save(tmp_path / flow)
        same(clearing, mo.Clearing.load(tmp_path / flow))


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_odd_names_come_back(tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    network = grid([(f"l {name}", "1", name, 0.1, np.inf) for name in ODD], ["1", *ODD])
    rows = [(name, name, "bid", 1.0 + k / 3, 0.5) for k, name in enumerate(ODD)]
    clearing = mo.clear("surplus", network, steps(("up", "1", "offer", 100, 0.1 + 0.2), *rows))
    clearing.save(tmp_path / "out", format=format)
    same(clearing, mo.Clearing.load(tmp_path / "out"))


def test_an_extra_row_with_an_index_comes_back(tmp_path):
    network = grid([("1-2", "1", "2", 0.1, np.inf)], "12")
    orders = steps(("up", "1", "offer", 100, 0.05), ("load", "2", "bid", 80, 1.0))

    def caps(model, network):
        model.caps = pyo.Constraint([("a", 1), ("b", 2)], rule=lambda m, a, k: m.accepted_kw["load", 0] <= 30 * k)

    clearing = mo.clear("surplus", network, orders, extra=[caps])
    assert clearing.constraints["index"].tolist() == ["a, 1", "b, 2"]
    clearing.save(tmp_path / "out")
    same(clearing, mo.Clearing.load(tmp_path / "out"))


def test_saving_over_an_older_result_replaces_it(clearing, tmp_path):
    market(pricing="budget_balanced").save(tmp_path / "out")
    stale = tmp_path / "out" / "voltages.csv"
    stale.write_text("bus,period,v_pu\nb0,0,1.0\n")
    clearing.save(tmp_path / "out")
    loaded = mo.Clearing.load(tmp_path / "out")
    same(clearing, loaded)
    assert loaded.voltages is None, "a file that the manifest does not list was read"


CHANGES = {
    "welfare": lambda m: m.update(welfare=m["welfare"] + 1),
    "a figure of the certificate": lambda m: m["certificate"].update(gap=0.0, regret=0.0),
    "a file's digest": lambda m: m["sha256"].update({"prices.csv": "0" * 64}),
    "a file less": lambda m: m["sha256"].pop("voltages.csv", m["sha256"].pop("prices.csv")),
    "the status": lambda m: m["status"].update(stopped="PERFECT"),
    "an entry less": lambda m: m.pop("notes"),
    "the digest itself": lambda m: m.pop("sha256_of_manifest"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_manifest_is_refused(clearing, tmp_path, what):
    clearing.save(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    CHANGES[what](manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(mo.DataError, match=r"manifest\.json.*the manifest was changed after it was saved"):
        mo.Clearing.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[1, 2]", "the manifest's format is not 1"),
        ('{"mktopt_clearing": 99}', "format is not 1.*load it with the version of mktopt that saved it"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(mo.DataError, match=message):
        mo.Clearing.load(tmp_path)


def test_a_crash_on_the_way_leaves_the_old_result(clearing, tmp_path, monkeypatch):
    clearing.save(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    from mktopt.clearing import storage

    def full(table, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_write", full)
    with pytest.raises(mo.DataError, match="cannot be written: No space left on device"):
        market().save(tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "something half written was left behind"
    with pytest.raises(mo.DataError):
        market().save(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@contextmanager
def ordinary_user():
    """Root may write anywhere, so the tests give up its powers for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users as POSIX has them")
def test_a_folder_without_write_permission(clearing):
    """Nothing is written, and the message says where and what to do."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        clearing.save(Path(name) / "warm up")  # all is imported that an ordinary user might not read
        closed = Path(name) / "closed"
        closed.mkdir()
        os.chmod(closed, 0o555)
        writes = {
            "out": clearing.save, "": clearing.save,
            "grid": clearing.network.to_csv, "orders.csv": clearing.orders.to_csv,
        }  # fmt: skip
        for place, write in writes.items():
            with ordinary_user(), pytest.raises(mo.DataError) as caught:
                write(closed / place)
            assert "cannot be written: Permission denied (choose a folder that you may write to)" in str(caught.value)
            assert str(closed) in str(caught.value)
        assert list(closed.iterdir()) == []
        assert sorted(p.name for p in Path(name).iterdir()) == ["closed", "warm up"]
        os.chmod(closed, 0o755)


def test_nothing_pickles_or_executes_what_a_file_holds():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace("def eval(", "")  # what CasADi calls a callback's method
        for word in ("pickle.load", "Unpickler", "import dill", "cloudpickle", "read_pickle", "to_pickle", "yaml.load",
                     " eval(", " exec(", "allow_pickle=True"):  # fmt: skip
            assert word not in text, f"{path.name} has {word!r}"
