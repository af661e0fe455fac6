"""The benchmarks of speed, each built once and small: they run, agree with mktopt and notice when they do not."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mktopt as mo

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / "benchmarks" / "speed"
PEERS = ("raw", "cvxpy_plain", "cvxpy_parameters")


def loaded(name: str) -> ModuleType:
    """A script of benchmarks/speed as a module; scripts import each other by their bare name."""
    spec = importlib.util.spec_from_file_location(name, SPEED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def frozen(thawed: None) -> None:
    """The benchmarks collect garbage before every run, which need not look through all that the tests have loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def peers() -> Any:
    return loaded("peers")


@pytest.fixture(scope="module")
def clear(peers: Any) -> Any:
    loaded("reports")
    return loaded("clear")


@pytest.fixture(scope="module")
def small(clear: Any) -> Any:
    return clear.measure_size(20, repeat=1, parameters=True)


def test_every_script_of_the_folder_is_run_here() -> None:
    known = {"clear", "coalitions", "gne", "lossy", "peers", "peers_physics", "physics", "reports", "resolve"}
    assert {path.stem for path in SPEED.glob("*.py")} == known


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_our_welfare_and_prices(peers: Any, name: str) -> None:
    network, orders, *_ = mo.load_case("synthetic:radial:25:3")
    assert orders is not None
    clearing = mo.clear("surplus", network, orders)
    answer = getattr(peers, name)(peers.arrays_of(network, orders))
    assert answer.welfare == pytest.approx(clearing.welfare, rel=1e-6)
    np.testing.assert_allclose(answer.prices, clearing.prices["price"], atol=1e-4)


def test_peers_refuse_a_market_that_they_would_simplify(peers: Any) -> None:
    network, orders, *_ = mo.load_case("synthetic:radial:10:0")
    with pytest.raises(ValueError, match="one period of one hour"):
        peers.arrays_of(network.replace(hours=[1.0, 1.0]), orders)


def test_all_contestants_and_stages_are_timed(clear: Any, small: Any) -> None:
    assert set(small.seconds) == {clear.OURS, clear.RAW, clear.RAW_OWN, clear.PLAIN, clear.PARAMETERS}
    assert all(value > 0 for value in (*small.seconds.values(), *small.stages.values()))
    assert sum(small.stages.values()) == pytest.approx(small.seconds[clear.OURS], rel=1e-9)
    assert small.worst_welfare_error <= clear.SAME_WELFARE


def test_a_contestant_that_solves_another_problem_is_noticed(clear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheat(market: Any) -> Any:
        return clear.peers.Answer(1.001 * clear.peers.raw(market).welfare, np.zeros(20))

    monkeypatch.setattr(clear, "contestants", lambda parameters: {clear.RAW: cheat})
    with pytest.raises(RuntimeError, match=r"welfare differs by 1\.0e-03"):
        clear.measure_size(20, repeat=1)


def test_verdicts_follow_the_limits(clear: Any) -> None:
    def size(buses: int, ours: float, raw: float) -> Any:
        seconds = {clear.OURS: ours, clear.RAW: raw, clear.RAW_OWN: raw, clear.PLAIN: raw, clear.PARAMETERS: 2.0}
        return clear.Size(buses, 2 * buses, 1, seconds, dict.fromkeys(clear.STAGES, ours / 4), 0.0)

    sizes = [size(1_000, 0.1, 0.1), size(10_000, 1.0, 0.5), size(100_000, 61.0, 5.0)]
    targets = {t.what: t for t in clear.judge(sizes, 0.031, 0.5, 1.0, {100_000: 5.0})}
    assert targets["mktopt.clear / raw Clarabel at 10,000 buses"].verdict == "met"
    assert targets["mktopt.clear / raw Clarabel at 1,000 buses"].verdict == ""
    assert targets["mktopt.clear at 100,000 buses"].verdict == "NOT MET"
    assert targets["peak memory at 100,000 buses"].verdict == "met"
    growth = targets["growth exponent, 1,000 to 100,000 buses"]
    assert growth.measured == pytest.approx(np.log10(610) / 2)
    assert growth.verdict == "NOT MET"
    assert targets["ieee34, cold"].measured == pytest.approx(31.0)
    assert targets["ieee34, cold"].verdict == "NOT MET"


def test_the_script_prints_its_table_and_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, str(SPEED / "clear.py"), "--sizes", "20", "--repeat", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=_with_package(), capture_output=True, text=True)
    report = json.loads(out.read_text(encoding="utf-8"))
    missed = any(t["limit"] is not None and t["measured"] > t["limit"] for t in report["targets"])
    assert done.returncode == int(missed), done.stderr
    assert done.stdout.count("mktopt.clear") == 5
    assert "| raw Clarabel " in done.stdout
    assert report["sizes"][0]["buses"] == 20
    assert {"import mktopt, fresh process", "peak memory at 20 buses"} <= {t["what"] for t in report["targets"]}


@pytest.fixture(scope="module")
def resolve(clear: Any) -> Any:
    return loaded("resolve")


def test_a_re_solving_peer_finds_what_clearing_the_new_offers_finds(peers: Any, resolve: Any) -> None:
    for flat in (False, True):
        network, orders = resolve.feeder(flat)
        offers, arrays = resolve.Offers(orders), peers.arrays_of(network, orders)
        start, slope = offers.draw()
        clearing = mo.clear("surplus", network, offers.tables(start, slope))
        if flat:
            answers = [peers.HighsAgain(arrays, offers.asks, {}).solve(start)]
        else:
            others = (peers.ClarabelAgain, peers.CvxpyAgain)
            answers = [peer(arrays, offers.asks).solve(start, slope) for peer in others]
        for answer in answers:
            assert answer.welfare == pytest.approx(clearing.welfare, rel=1e-6)


def test_a_contestant_that_re_solves_another_problem_is_noticed(resolve: Any) -> None:
    network, orders = resolve.feeder(False)

    def cheat(start: Any, slope: Any) -> Any:
        return resolve.peers.Answer(1.0, np.zeros(1))

    with pytest.raises(RuntimeError, match="welfare differs"):
        resolve.contest("cheat", network, orders, 3, {"cheat": cheat}, 1)


def test_the_cone_program_that_is_compiled_is_one(resolve: Any) -> None:
    assert set(resolve.compile_times(20, 1)) == {"QP", "parametric QP", "SOCP"}


def test_the_re_solving_script_prints_its_tables_and_writes_them(
    resolve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "resolve.json"
    monkeypatch.setenv("PYTHONPATH", _with_package()["PYTHONPATH"])  # for the processes that the script starts
    sizes = ["--steps", "5", "--buses", "30", "--reclears", "200"]
    ended = resolve.main([*sizes, "--out", str(out)])
    printed = capsys.readouterr().out
    report = json.loads(out.read_text(encoding="utf-8"))
    missed = any(t["limit"] is not None and t["measured"] > t["limit"] for t in report["targets"])
    assert ended == int(missed)
    affine, flat, large = report["contests"]
    assert set(affine["seconds"]) == {resolve.OURS, resolve.RAW, resolve.DPP, resolve.TABLES, resolve.COLD}
    assert set(flat["seconds"]) == {resolve.OURS, resolve.HIGHS, resolve.TABLES, resolve.COLD}
    for contest in (affine, flat, large):
        assert contest["steps"] == 5
        assert all(t > 0 for t in contest["seconds"].values())
        assert contest["worst_welfare_error"] <= resolve.SAME_WELFARE
    assert "200 re-clears" in printed
    assert "compile a SOCP of 30 buses" in printed


def _with_package() -> dict[str, str]:
    """The environment, with this repository's package in front."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module")
def physics(clear: Any) -> Any:
    loaded("peers_physics")
    return loaded("physics")


@pytest.mark.parametrize("peer", ["raw", "cvxpy"])
def test_a_peer_with_losses_finds_our_welfare(physics: Any, peer: str) -> None:
    network, orders = physics.case_of("synthetic:radial:25:3")
    clearing = mo.clear("surplus", network, orders, flow="distflow")
    found = getattr(physics.peers_physics, peer)(physics.peers_physics.feeder_of(network, orders))
    assert found == pytest.approx(clearing.welfare, rel=1e-6)


def test_peers_with_losses_refuse_a_market_that_they_would_simplify(physics: Any) -> None:
    with pytest.raises(ValueError, match="no charging, shunts, ratios"):
        physics.peers_physics.feeder_of(*physics.case_of("ieee34"))


def test_contests_of_physics_time_everybody_and_compare_them(physics: Any) -> None:
    cones, secure = physics.cones("synthetic:radial:20:0", 1), physics.security("case30", 1)
    assert set(cones.seconds) == {physics.OURS, physics.RAW, physics.RAW_OWN, physics.PLAIN}
    assert set(secure.seconds) == {physics.LAZY, physics.AT_ONCE}
    assert cones.error <= physics.SAME["cones"]
    assert physics.against_runopp("case33bw", 1).error <= physics.SAME["ac"]
    report = physics.Report(physics.machine(), [cones, secure], physics.judge([cones, secure]))
    text = physics.markdown(report)
    assert text.count("synthetic:radial:20:0") == 7
    assert "N-1, rows as they bind" in text


def test_a_contestant_of_physics_that_solves_another_problem_is_noticed(physics: Any) -> None:
    runs = {physics.OURS: physics.partial(physics.cleared, "case33bw", flow="distflow"), "cheat": lambda: lambda: 1.0}
    with pytest.raises(RuntimeError, match="what the contestants find differs"):
        physics.contest("cheat", "cones", 1, runs)


def test_the_auction_s_ways_are_timed_and_find_the_same(clear: Any) -> None:
    gne = loaded("gne")
    runs = gne.many(60, 1, "transport", "synthetic:radial:12:0", gne.CENTRAL)
    assert {run.method for run in runs} == {*gne.ITERATIONS, "central, clarabel", "central, ipopt"}
    assert all(run.verdict == "converged" and run.error <= gne.SAME for run in runs)
    assert all(run.seconds > 0 and run.residual <= gne.ASKED for run in runs)
    small = [gne.Run("I", 483, "newton", 5, 0.5, 0.1, 100.0, 0.5, 1e-8, error, "converged") for error in (0.0, 1e-3)]
    verdicts = {target.what: target.verdict for target in gne.judge([*small, *runs])}
    assert verdicts["483 agents, slowest by Newton's method"] == "met"
    assert verdicts["largest difference, 483 agents"] == "NOT MET"
    assert "ms / iteration" in gne.markdown(gne.Report(gne.machine(), runs, gne.judge([*small, *runs])))


def test_coalitions_are_timed_and_their_gap_judged(clear: Any) -> None:
    coalitions = loaded("coalitions")
    runs = [coalitions.values(5, "0.5", 12, 1), coalitions.session_values(5, "0.5", 12, 1)]
    runs += [coalitions.nucleoli(4, "0.5", 1), coalitions.sharing("ignored")]
    assert all(run.seconds > 0 and run.programs > 0 and run.gap <= coalitions.ASKED_GAP for run in runs)
    wide = coalitions.Run("values, d = 1", 30, 435, 1000, 1000, 21.0, 1e-5)
    verdicts = {target.what: target.verdict for target in coalitions.judge([*runs, wide])}
    assert verdicts["1,000 values, d = 1, 30 players"] == "NOT MET"
    assert verdicts["nucleolus, d = 0.5, 4 players"] == "met"
    assert verdicts["widest gap between value and bound, or two ways to a value"] == "NOT MET"
    assert "programs" in coalitions.markdown(coalitions.Report(coalitions.machine(), runs, coalitions.judge(runs)))


def test_private_wires_by_hand_and_as_they_grow(clear: Any, peers: Any) -> None:
    lossy = loaded("lossy")
    network, orders = lossy.ieee300(density="0")
    welfare = mo.clear("surplus", network, orders, flow="lossy").welfare
    assert lossy.raw(network, orders, {}) == pytest.approx(welfare, rel=1e-6)
    for kind in (lossy.RADIAL, lossy.MESHED):
        network, orders = lossy.large(kind, 30, wires=200)
        clearing = mo.clear("surplus", network, orders, flow="lossy")
        assert clearing.certificate.ok() and 150 < network.private.sum() < 250
        assert lossy.raw(network, orders, {}) == pytest.approx(clearing.welfare, rel=1e-6)
    seconds = {clear.OURS: 2.0, lossy.BLOCKED: 1.0, clear.RAW: 1.0, clear.RAW_OWN: 1.0}
    report = lossy.Report(clear.machine(), seconds=seconds)
    assert [target.verdict for target in lossy.judge(report)[:2]] == ["NOT MET", "met"]
    assert "NOT MET" in lossy.markdown(lossy.Report(**{**vars(report), "targets": lossy.judge(report)}))
