"""The command line as a user meets it: what it prints where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from mktopt import cli, terminal
from mktopt.networks.cases import CASES

ROOT = Path(__file__).resolve().parents[1]
VILLAGE = ROOT / "examples" / "village"
RUN = "import sys; from mktopt.cli import main; main()"


def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of `mktopt WORDS...`, which must end with `code`."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "100"})
    assert result.exit_code == code, f"{result.exit_code}\n{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert "Traceback" not in result.stdout + result.stderr
    return result.stdout, result.stderr


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A real process of `mktopt WORDS...`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


@pytest.fixture
def village(tmp_path: Path) -> Path:
    """A copy of the example that a test may spoil."""
    return Path(shutil.copytree(VILLAGE, tmp_path / "village"))


@pytest.fixture
def orders(tmp_path: Path) -> Any:
    """Writes a file of orders from its text and gives its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "mine.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# -- clear: results -----------------------------------------------------------------------------------------


def test_clear_shows_prices_dispatch_limits_and_proof() -> None:
    out, err = run("clear", VILLAGE)
    assert err == ""
    assert "surplus on village (transport), solved by highs" in out
    assert "proof     holds" in out
    assert "orders    " in out
    # noon: the village is cut off at what a roof asks; evening: at what the farm would pay
    grid = next(line for line in out.splitlines() if line.startswith("grid "))
    farm = next(line for line in out.splitlines() if line.startswith("farm "))
    assert grid.split() == ["grid", "0.2200", "0.2800", "0.0600", "0.3400"]
    assert farm.split() == ["farm", "0.2200", "0.2800", "0.0200", "0.3600"]
    assert "Branches at their rating" in out
    assert [line.split()[1:4] for line in out.splitlines() if line.startswith("transformer")] == [
        ["2", "-30.00", "100.0"],
        ["3", "30.00", "100.0"],
    ]


def test_long_tables_are_shortened_and_say_where_the_whole_one_is(tmp_path: Path) -> None:
    out, _ = run("clear", "ieee34")
    assert "16 of 37 rows; all prices: --table prices" in out
    assert "each load bids 1.00 $/kWh" in out, "the default orders are named"
    whole, _ = run("clear", "ieee34", "--table", "prices")
    assert len(whole.splitlines()) >= 37
    assert "rows" not in whole
    saved, _ = run("clear", "ieee34", "--out", tmp_path / "o")
    assert "all prices:" in saved
    assert "prices.csv" in saved


def test_csv_is_clean_and_exact() -> None:
    import mktopt as mo

    out, _ = run("clear", "ieee34", "--format", "csv")
    prices = pd.read_csv(io.StringIO(out), dtype={"bus": str}, float_precision="round_trip")
    expected = mo.clear("surplus", *mo.load_case("ieee34")[:2]).prices
    pd.testing.assert_frame_equal(prices, expected, check_dtype=False)
    out, err = run("clear", VILLAGE, "--format", "csv", "--table", "dispatch")
    dispatch = pd.read_csv(io.StringIO(out))
    assert err == ""
    assert len(dispatch) == 42
    assert dispatch["payment"].sum() == pytest.approx(10.8), "payments less receipts are the rent"


def test_json_is_one_document_with_every_table_and_the_proof() -> None:
    out, err = run("clear", VILLAGE, "--format", "json")
    document = json.loads(out)
    assert err == ""
    assert document["welfare"] == pytest.approx(547.26)
    assert document["certificate"]["ok"] is True
    assert document["hours"] == [6.0] * 4
    assert {"bus": "farm", "period": 2, "price": pytest.approx(0.02)} in document["prices"]
    assert document["voltages"] is None
    flows, _ = run("clear", VILLAGE, "--format", "json", "--table", "flows")
    assert len(json.loads(flows)) == 20
    unlimited, _ = run("clear", "case33bw", "--format", "json", "--table", "flows")
    assert all(isinstance(row["p_kw"], float) for row in json.loads(unlimited))


def test_what_is_not_finite_becomes_null() -> None:
    frame = pd.DataFrame({"a": [1.5, float("nan"), float("inf")], "b": ["x", None, "y"]})
    assert terminal.plain(frame) == [{"a": 1.5, "b": "x"}, {"a": None, "b": None}, {"a": None, "b": "y"}]


def test_out_saves_a_clearing_that_loads_and_pictures(tmp_path: Path) -> None:
    from mktopt.clearing.result import Clearing

    folder = tmp_path / "deep" / "result"
    out, err = run("clear", VILLAGE, "--out", folder, "--format", "json")
    assert json.loads(out)["network"] == "village", "what is said about the folder does not disturb stdout"
    assert f"saved in {folder}" in err
    loaded = Clearing.load(folder)
    assert loaded.welfare == pytest.approx(547.26)
    assert loaded.certificate.ok()
    for name in ("prices", "network", "curves"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (folder / "own.csv").write_text("mine")
    run("clear", VILLAGE, "--out", folder, "--flow", "lindistflow")
    with_voltages = {"voltages.csv", "voltages.png", "reactive_prices.csv"}
    assert with_voltages < {file.name for file in folder.iterdir()}
    run("clear", VILLAGE, "--out", folder, "--flow", "dc")
    left = {file.name for file in folder.iterdir()}
    assert not with_voltages & left and "own.csv" in left, "nothing of the earlier result is left behind"
    assert Clearing.load(folder).flow == "dc", "a saved result may be replaced by another"


def test_command_line_overrides_the_scenario(village: Path, orders: Any) -> None:
    mine = orders("order,bus,side,width_kw,price\nneed,farm,bid,5,1\nsun,mill,offer,20,0.25\n")
    words = ["--orders", mine, "--flow", "dc", "--solver", "clarabel", "--solver-option", "max_iter=88"]
    document = json.loads(run("clear", village, *words, "--format", "json")[0])
    assert (document["flow"], document["solver"]) == ("dc", "clarabel")
    assert {row["order"] for row in document["dispatch"]} == {"need", "sun"}


def test_options_of_a_mechanism_may_stand_before_the_scenario() -> None:
    before = run("clear", "--pricing", "budget_balanced", VILLAGE, "--format", "csv", "--table", "dispatch")
    after = run("clear", VILLAGE, "--format", "csv", "--table", "dispatch", "--pricing", "budget_balanced")
    assert before == after
    assert pd.read_csv(io.StringIO(before[0]))["payment"].sum() == pytest.approx(0, abs=1e-6)


def test_orders_relative_to_where_the_user_stands(village: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(village)
    (village / "sub").mkdir()
    shutil.copy("orders.csv", "sub/other.csv")
    monkeypatch.chdir(village / "sub")
    assert "orders    " in run("clear", "..", "--orders", "other.csv")[0]
    assert "orders    orders.csv" in run("clear", village / "scenario.toml")[0].replace(f"{village}/", "")


def test_a_market_without_trade_is_cleared(orders: Any) -> None:
    mine = orders("order,bus,side,width_kw,price\nneed,farm,bid,5,0.1\nsun,mill,offer,20,0.25\n")
    out, _ = run("clear", VILLAGE, "--orders", mine)
    assert "Nothing is traded" in out


def test_an_answer_that_does_not_prove_itself_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    from mktopt.clearing.certificate import Certificate

    monkeypatch.setattr(Certificate, "failures", lambda _self, _tol=1e-6: ["gap"])
    out, err = run("clear", VILLAGE, "--format", "csv", code=3)
    assert out.startswith("bus,period,price")
    assert "does not prove itself" in err


# -- clear: no market ---------------------------------------------------------------------------------------

INFEASIBLE = "order,bus,side,width_kw,price,minimum_kw\nfirm,farm,bid,50,5,50\nimport,grid,offer,100,0.1,0\n"
UNBOUNDED = "order,bus,side,width_kw,price\nwant,farm,bid,inf,5\nsun,farm,offer,inf,0.1\n"


def test_infeasible_ends_with_1_and_the_report(orders: Any) -> None:
    out, err = run("clear", VILLAGE, "--orders", orders(INFEASIBLE), code=1)
    assert out == ""
    assert "the market is infeasible" in err
    assert "limit of branch track, period 0: 25 kVA" in err
    assert "firm order firm, period 0: 50 kW" in err
    assert "shed at bus farm, period 0: 25 kW" in err
    document = json.loads(run("clear", VILLAGE, "--orders", orders(INFEASIBLE), "--format", "json", code=1)[0])
    assert document["status"] == {"stopped": "infeasible"}
    shed = [row for row in document["relaxation"] if row["unit"] == "kW"]
    assert [(row["where"], row["amount"]) for row in shed] == [("farm", pytest.approx(25))]


def test_unbounded_ends_with_1_and_names_the_order(orders: Any, tmp_path: Path) -> None:
    out, err = run("clear", VILLAGE, "--orders", orders(UNBOUNDED), "--out", tmp_path / "o", code=1)
    assert out == ""
    assert "unbounded" in err
    assert "'want'" in err
    assert not (tmp_path / "o").exists(), "nothing is left behind"
    document = json.loads(run("clear", VILLAGE, "--orders", orders(UNBOUNDED), "--format", "json", code=1)[0])
    assert "want" in document["culprits"]


# -- clear: bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ieee43"], "unknown case 'ieee43'; did you mean 'ieee37'?"),
        (["ieee43"], "no file or folder of that name either"),
        (["no/such/place"], "no such file or folder: 'no/such/place'"),
        (["nowhere.toml"], "file 'nowhere.toml': no such file"),
        (["grid.m"], "no such file or folder: 'grid.m'"),
        (["synthetic:ring:10:1"], "unknown synthetic shape 'ring'"),
        ([], "name one scenario or case to clear"),
        (["ieee13", "ieee34"], "not 2: ieee13, ieee34"),
        (["ieee13", "--mechanism", "surplu"], "unknown mechanism 'surplu'; did you mean 'surplus'?"),
        (["ieee13", "--flow", "transprt"], "unknown flow 'transprt'; did you mean 'transport'?"),
        (["ieee13", "--flow", "dc:fast=true"], "unknown option of flow 'dc' 'fast'"),
        (["ieee13", "--flow", "dc:fast"], "option of flow 'dc': 'fast' is not name=value"),
        (["ieee13", "--solver", "higs"], "unknown solver 'higs'; did you mean 'highs'?"),
        (["ieee13", "--solver-option", "x"], "--solver-option: 'x' is not name=value"),
        (["ieee13", "--solver-option", "time_limt=3"], "did you mean 'time_limit'?"),
        (["ieee13", "--pricng", "nodal"], "unknown option '--pricng'; did you mean '--pricing'?"),
        (["ieee13", "--mechanizm", "surplus"], "did you mean '--mechanism'?"),
        (["ieee13", "--pricing", "nodel"], "'nodel'; did you mean 'nodal'?"),
        (["ieee13", "--pricing"], "unknown word for option 'pricing' of mechanism 'surplus': 'True'"),
        (["ieee13", "-q"], "unknown option '-q'"),
        (["ieee13", "--orders", "none.csv"], "no file '"),
        (["ieee13", "--orders", "."], "is a folder, not a file"),
        (["ieee13", "--table", "voltages"], "flow 'transport' has no voltages"),
    ],
)
def test_bad_words_end_with_2_and_say_what_is_meant(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = run("clear", *words, code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert said in err


@pytest.mark.parametrize(
    "words",
    [
        ["clear", "ieee13", "--format", "xml"],
        ["clear", "ieee13", "--table", "money"],
        ["clear", "ieee13", "--seed", "y"],
        ["cases", "--nothing"],
        ["check"],
        ["chck"],
    ],
)
def test_usage_errors_end_with_2(words: list[str]) -> None:
    out, err = run(*words, code=2)
    assert out == ""
    assert "Usage" in err or "Error" in err


HEADER = "order,bus,side,width_kw,price"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty"),
        (HEADER.encode(), "no rows"),
        (b"order,bus,side,width_kw\na,farm,bid,1\n", "the column is missing"),
        (f"{HEADER}\nM\xfcller,farm,bid,1,1\n".encode("latin-1"), "not UTF-8 text"),
        (f"{HEADER}\na,farm,bid,1,1\n".encode("utf-16"), "not UTF-8 text"),
        (f"{HEADER}\na,farm,bid,1\n".encode(), "4 cells where the header has 5"),
        (f"{HEADER}\na,farm,bid,nan,1\n".encode(), "row 'a', column 'width_kw', value 'nan': not a finite number"),
        (f"{HEADER}\na,farm,bid,1,inf\n".encode(), "row 'a', column 'price', value 'inf': not a finite number"),
        (f"{HEADER}\na,farm,bid,1,cheap\n".encode(), "row 'a', column 'price', value 'cheap': not a number"),
        (f"{HEADER}\na,farm,bid,,1\n".encode(), "row 'a', column 'width_kw'"),
        (f"{HEADER}\na,farm,bid,-1,1\n".encode(), "value '-1': below 0"),
        (f"{HEADER}\na,farm,buy,1,1\n".encode(), "value 'buy': unknown word (one of bid, offer)"),
        (f"{HEADER}\na,frm,bid,1,1\n".encode(), "value 'frm': no such name in table 'buses' (did you mean 'farm'?)"),
        (f"{HEADER}\na,farm,bid,1,1\na,farm,bid,1,2\n".encode(), "rising bid"),
        (f"{HEADER}\na,farm,offer,1,2\na,farm,offer,1,1\n".encode(), "falling offer"),
        (f"{HEADER},period\na,farm,bid,1,1,7\n".encode(), "value 7: no such period"),
        (b"order,bus,side,q_min_kw,q_max_kw,price_min,price_max\na,farm,bid,5,4,1,2\n", "q_max <= q_min"),
        (b"order,bus,side,q_max_kw,price_min,price_max\na,farm,bid,4,2,1\n", "p_max < p_min"),
        (b"order,bus,side,q_max_kw,price_min,price_max\na,farm,bid,4,1,2\na,farm,bid,4,1,2\n", "stands twice"),
    ],
)  # fmt: skip
def test_bad_orders_end_with_2_and_name_the_cell(text: bytes, said: str, orders: Any) -> None:
    out, err = run("clear", VILLAGE, "--orders", orders(text), code=2)
    assert out == ""
    assert said in err


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("branches.csv", "mill,farm,", "mill,frm,", "row 'track', column 'to_bus', value 'frm'"),
        ("branches.csv", "track,mill", "north,mill", "the name stands twice"),
        ("branches.csv", ",25,0.3", ",-25,0.3", "row 'track', column 'rating_kva', value '-25'"),
        ("branches.csv", ",25,0.3", ",abc,0.3", "not a number"),
        ("branches.csv", "0.09,", "nan,", "row 'track', column 'r_ohm'"),
        ("branches.csv", "r_ohm", "resistance", "column 'r_ohm': the column is missing"),
        ("branches.csv", "track,mill,farm,0.09,0.024,25,0.3,line\n", "", "1 of 6 buses have no path to the source"),
        ("branches.csv", None, "", "the file is empty"),
        ("buses.csv", "farm,0.4", "mill,0.4", "row 'mill', column 'bus': the name stands twice"),
        ("buses.csv", None, None, "no file"),
        ("loads.csv", "farm,farm", "farm,fram", "did you mean 'farm'?"),
        ("network.toml", '"grid"', '"gird"', "value 'gird': the source is no bus"),
        ("network.toml", "source_bus", "sourcebus", "unknown key"),
        ("network.toml", '"grid"', "grid", "not valid TOML"),
        ("network.toml", "6.0, 6.0]", "6.0, -6.0]", "'hours', value -6.0"),
        ("scenario.toml", '"transport"', '"tranport"', "did you mean 'transport'?"),
    ],
)  # fmt: skip
def test_bad_networks_end_with_2_and_name_the_cell(
    village: Path, file: str, old: str | None, new: str | None, said: str
) -> None:
    spoil(village / file, old, new)
    _, err = run("clear", village, code=2)
    assert said in err
    out, _ = run("check", village, code=2)
    assert said in out, "`check` says the same"


def spoil(path: Path, old: str | None, new: str | None) -> None:
    """Replaces `old` by `new` in a file, its whole text where `old` is None; removes it where `new` is None."""
    if new is None:
        path.unlink()
        return
    text = path.read_text(encoding="utf-8")
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new), encoding="utf-8")


def test_a_suspicious_unit_warns_on_stderr_and_only_once(village: Path) -> None:
    spoil(village / "loads.csv", "farm,farm,8,1.6", "farm,farm,8000,1600")
    out, err = run("clear", village, "--format", "csv")
    assert out.startswith("bus,period,price")
    assert err.count("warning: loads of 'village' are") == 1
    assert "are the ratings in MVA, or the loads in W?" in err
    checked = run("check", village)[0]
    assert "warning: loads of 'village'" in checked
    assert "warning" not in run("clear", VILLAGE, "--format", "csv")[1]


def test_an_empty_folder_is_told_what_belongs_in_it(tmp_path: Path) -> None:
    assert "neither scenario.toml nor network.toml" in run("clear", tmp_path, code=2)[1]


def test_out_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, village: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"'{file}': cannot be written" in run("clear", "ieee13", "--out", file, code=2)[1]
    assert "is a file" in run("clear", "ieee13", "--out", file / "sub", code=2)[1]
    assert "cannot be written" in run("clear", "ieee13", "--out", "/proc/mktopt", code=2)[1]
    assert "is a file" in run("demo", "--out", file, code=2)[1]
    assert file.read_text() == "mine"
    before = {path.name: path.read_bytes() for path in village.iterdir()}
    assert "saving a result here would replace" in run("clear", village, "--out", village, code=2)[1]
    assert {path.name: path.read_bytes() for path in village.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not bind root")
def test_out_without_permission_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert "no permission" in run("clear", "ieee13", "--out", locked / "o", code=2)[1]
    assert list(locked.iterdir()) == []


# -- other commands -----------------------------------------------------------------------------------------


def test_cases_lists_every_case_with_its_size() -> None:
    out, _ = run("cases", "--format", "csv")
    frame = pd.read_csv(io.StringIO(out)).set_index("case")
    assert list(frame.index) == list(CASES)
    assert tuple(frame.loc["case118", ["buses", "branches", "radial"]]) == (118, 186, "no")
    assert tuple(frame.loc["ieee34", ["buses", "branches", "radial"]]) == (37, 36, "yes")
    assert frame["licence"].notna().all()
    assert frame["source"].notna().all()
    records = json.loads(run("cases", "--format", "json")[0])
    assert records[0]["case"] == "ieee13"
    assert records[-1]["buses"] is None
    listed = run("cases")[0]
    assert all(name in listed for name in CASES)


def test_cases_describes_one() -> None:
    out, _ = run("cases", "ieee34")
    assert "68 bids and 1 offers" in out
    assert "BSD-3-Clause" in out
    assert "defaults" in out
    assert json.loads(run("cases", "case30", "--format", "json")[0])[0]["name"] == "case30"
    assert "did you mean 'ieee34'" in run("cases", "iee34", code=2)[1]


def test_mechanisms_lists_the_three_tables() -> None:
    from mktopt.formulations.flows import FLOWS
    from mktopt.mechanisms import MECHANISMS
    from mktopt.solvers import SOLVERS

    document = json.loads(run("mechanisms", "--format", "json")[0])
    assert [row["mechanism"] for row in document["mechanisms"]] == list(MECHANISMS)
    assert [row["flow"] for row in document["flows"]] == list(FLOWS)
    assert [row["solver"] for row in document["solvers"]] == list(SOLVERS)
    assert "pricing=nodal|budget_balanced" in document["mechanisms"][0]["options"]
    assert "clarabel" in run("mechanisms")[0]
    assert "--format json" in run("mechanisms", "--format", "csv", code=2)[1]


def test_version_and_help() -> None:
    import mktopt

    assert run("--version")[0].strip() == f"mktopt {mktopt.__version__}"
    out, _ = run("--help")
    for command in ("demo", "clear", "cases", "check", "mechanisms"):
        assert command in out


# -- how a command ends -------------------------------------------------------------------------------------


def test_a_defect_ends_with_3_and_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("mktopt.catalogue.case_table", fail)
    out, err = run("cases", code=3)
    assert out == ""
    assert "ZeroDivisionError: by hand" in err
    assert "Please report it" in err
    result = CliRunner().invoke(cli.app, ["--debug", "cases"])
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "in fail" in result.stderr


def test_debug_shows_where_a_mistake_was_found() -> None:
    result = CliRunner().invoke(cli.app, ["clear", "ieee43"], env={"MKTOPT_DEBUG": "1"})
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_markup_in_a_users_names_is_only_text(orders: Any) -> None:
    mine = orders("order,bus,side,width_kw,price\n[red]x[/red],farm,bid,5,1\n[/b],farm,offer,20,0.25\n")
    out, _ = run("clear", VILLAGE, "--orders", mine)
    assert "[red]x[/red]" in out
    assert "[/b]" in out
    assert "[/oops]" in run("clear", "[/oops]", code=2)[1] + run("check", "[/oops]", code=2)[0]


def test_a_process_ends_as_it_says(tmp_path: Path) -> None:
    with start("clear", "ieee43", cwd=tmp_path) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: unknown case")
    with start("clear", "ieee13", "--format", "csv", cwd=tmp_path) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith("bus,period,price\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_met_with_silence() -> None:
    with start("clear", "ieee123") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("form", list(terminal.Format))
def test_each_format_meets_a_reader_that_goes_away_with_silence(
    form: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same within this process, with a real pipe: its last bytes go nowhere when it is closed, as at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "argv", ["mktopt", "clear", "ieee123", "--format", form])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        monkeypatch.undo()
    assert ended.value.code == 141
    assert capfd.readouterr() == ("", "")


def test_control_c_ends_with_130() -> None:
    # a shell that runs the tests in its background has SIGINT ignored, which its processes would inherit
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with start("clear", "synthetic:radial:60000:1", "--format", "csv", **heard) as process:
        time.sleep(2.0)
        assert process.poll() is None, "the test needs a longer command"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def test_a_terminal_that_cannot_show_a_name_shows_the_rest(orders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = orders("order,bus,side,width_kw,price\nMüller,farm,bid,5,1\nsun,farm,offer,20,0.25\n")
    shown = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in shown.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["mktopt", "clear", str(VILLAGE), "--orders", str(mine)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    monkeypatch.undo()
    out, err = (stream.detach().getvalue().decode("ascii") for stream in shown.values())
    assert (ended.value.code, err) == (0, "")
    assert "M\\xfcller" in out


def test_help_is_quick_and_imports_no_library_of_numbers() -> None:
    code = "import sys; import mktopt.cli; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for heavy in ("pandas", "numpy", "scipy", "pyomo", "highspy", "matplotlib"):
        assert f"'{heavy}'" not in done.stdout


def test_demo_leaves_tables_and_pictures(tmp_path: Path) -> None:
    out, _ = run("demo", "--quick", "--out", tmp_path / "out")
    left = {path.suffix for path in (tmp_path / "out").rglob("*")}
    assert {".csv", ".png"} <= left
    for path in (tmp_path / "out").iterdir():
        if path.suffix in (".csv", ".png"):
            assert path.name in out
