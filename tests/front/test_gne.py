"""The auction of prosumers as users meet it: one call, the command line, scenarios, saved results, and mistakes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pyomo.environ as pyo
import pytest
from typer.testing import CliRunner

import mktopt as mo
from mktopt import cli

CASE = "ieee37_aggregators"


def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "120"})
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def clearing() -> mo.Clearing:
    case = mo.load_case(f"{CASE}:stressed")
    assert case.prosumers is not None
    return mo.clear("gne", case.network, case.prosumers, scenario="I")


def test_the_command_clears_a_scenario_of_the_case() -> None:
    out, _ = run("clear", CASE, "--mechanism", "gne", "--scenario", "I")
    assert "newton: converged" in out
    assert "proof     holds" in out
    assert "483 agents" in out
    assert "Aggregators" in out
    table = pd.read_csv(
        io.StringIO(run("clear", CASE, "--mechanism", "gne", "--c0", "0.06", "--table", "aggregators",
                        "--format", "csv")[0])
    )  # fmt: skip
    assert len(table) == 17
    document = json.loads(run("clear", CASE, "--mechanism", "gne", "--scenario", "IV", "--format", "json")[0])
    assert document["equilibrium"]["verdict"] == "converged"
    assert len(document["agents"]) == 483


def test_what_did_not_converge_ends_with_code_3() -> None:
    words = ("clear", CASE, "--mechanism", "gne", "--scenario", "I", "--method", "paper")
    out, err = run(*words, "--eta", "500", "--max-iterations", "5", code=3)
    assert "no equilibrium was found" in out
    assert "does not prove itself" in err


def test_words_of_the_case_are_checked() -> None:
    words = ("clear", CASE, "--mechanism", "gne")
    assert "did you mean 'IV'" in run(*words, "--scenario", "V", code=2)[1]
    assert "c0= in $/kWh" in run(*words, code=2)[1]
    assert "did you mean 'newton'" in run(*words, "--scenario", "I", "--method", "newtom", code=2)[1]
    assert "belongs to method='paper'" in run(*words, "--scenario", "I", "--aggregator", "damped", code=2)[1]
    assert "takes Prosumers, not Orders" in run("clear", "ieee34", "--mechanism", "gne", "--c0", "0.1", code=2)[1]


def test_a_scenario_file_brings_its_prosumers(tmp_path: Path) -> None:
    network, _, prosumers, _ = mo.load_case(CASE)
    assert prosumers is not None
    network.to_csv(tmp_path)
    mo.Prosumers(prosumers.table[:100]).to_csv(tmp_path / "prosumers.csv")
    text = 'mechanism = "gne"\n[options]\nc0 = 0.1\nmethod = "projection"\n'
    (tmp_path / "scenario.toml").write_text(text, encoding="utf-8")
    out, _ = run("clear", tmp_path)
    assert "projection: converged" in out
    prosumers.to_csv(tmp_path / "all.csv")
    assert "holds" in run("clear", tmp_path, "--prosumers", tmp_path / "all.csv")[0]
    assert run("check", tmp_path)[0].startswith("ok")


def test_out_saves_what_loads_again_with_pictures(tmp_path: Path) -> None:
    run("clear", f"{CASE}:stressed", "--mechanism", "gne", "--scenario", "I", "--out", tmp_path / "o")
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"agents.csv", "aggregators.csv", "trace.csv", "prosumers.csv", "curves.png", "convergence.png"} <= names
    again = mo.Clearing.load(tmp_path / "o")
    assert again.certificate.ok()
    assert again.certificate.source == "recorded when saved"


def test_extra_rows_bind_and_are_priced() -> None:
    case = mo.load_case(CASE)
    assert case.prosumers is not None

    def cap(model, network):
        model.cap = pyo.Constraint(expr=model.p_kw["701", 0] <= 300)

    found = [mo.clear("gne", case.network, case.prosumers, scenario="I", extra=[cap], method=m)
             for m in ("newton", "central")]  # fmt: skip
    for clearing in found:
        assert clearing.certificate.ok(), clearing.certificate
        row = clearing.aggregators.set_index("aggregator").loc["701"]
        # what its agents pay beyond the price of their bus is the cap's dual
        assert row["unit_cost"] - clearing.price("701") == pytest.approx(clearing.constraints["dual"][0], rel=1e-5)
    assert found[0].welfare == pytest.approx(found[1].welfare, rel=1e-7)
    with pytest.raises(mo.FormulationError, match="method='central'"):
        mo.clear("gne", case.network, case.prosumers, scenario="I",
                 extra=[lambda model, network: model.consumption_kw["701_001", 0] <= 3])  # fmt: skip


def test_what_a_later_hand_adds_is_not_lost() -> None:
    case = mo.load_case(CASE)
    model = mo.build("gne", case.network, case.prosumers, scenario="I")
    model.cap = pyo.Constraint(expr=model.p_kw["701", 0] <= 300)
    with pytest.raises(mo.FormulationError, match="'cap' was added to the model after mktopt.build"):
        mo.solve(model)
    model = mo.build("gne", case.network, case.prosumers, scenario="I", method="central")
    model.consumption_kw["701_001", 0].fix(3.0)
    assert mo.solve(model).agents["consumption_kw"][0] == 3.0


def test_no_feasible_p_is_reported() -> None:
    case = mo.load_case(CASE)
    with pytest.raises(mo.InfeasibleError) as caught:
        mo.clear("gne", case.network, case.prosumers, scenario="I",
                 extra=[lambda model, network: model.import_kw[0] >= 2600])  # fmt: skip
    assert "799-799r" in " ".join(caught.value.report.conflict)
    assert caught.value.report.relaxation["amount"].min() == pytest.approx(100.0, rel=1e-3)


def test_agents_on_unknown_buses_and_the_reserved_name() -> None:
    case = mo.load_case(CASE)
    people = case.prosumers.table[:3]
    with pytest.raises(mo.DataError, match="'7O1': no such name in table 'buses'"):
        mo.clear("gne", case.network, mo.Prosumers(people.assign(bus="7O1", aggregator="x")), c0=0.1)
    with pytest.raises(mo.DataError, match="name of the upstream grid"):
        mo.clear("gne", case.network, mo.Prosumers(people.assign(agent=["a", "upstream", "c"])), c0=0.1)


def test_an_ac_power_flow_agrees(clearing: mo.Clearing) -> None:
    case = mo.load_case(f"{CASE}:stressed")
    with_losses = mo.clear("gne", case.network, case.prosumers, scenario="I", flow="distflow")
    check = with_losses.check_ac()
    assert check.ok
    assert check.max_voltage_error < 1e-6
    parts = with_losses.price_parts
    assert parts["loss"].abs().max() > 1e-3
    assert with_losses.welfare < clearing.welfare


def test_periods_are_auctions_of_their_own() -> None:
    case = mo.load_case(f"{CASE}:stressed")
    two = case.network.replace(hours=[1.0, 0.5])
    both = mo.clear("gne", two, case.prosumers, c0=[0.06, 0.18])
    assert both.certificate.ok(), both.certificate
    alone = [mo.clear("gne", case.network, case.prosumers, c0=c0) for c0 in (0.06, 0.18)]
    assert both.welfare == pytest.approx(alone[0].welfare + 0.5 * alone[1].welfare, rel=1e-8)
    for period, single in enumerate(alone):
        here = both.aggregators[both.aggregators["period"] == period]["unit_cost"].to_numpy()
        assert here == pytest.approx(single.aggregators["unit_cost"].to_numpy(), rel=1e-6)


def test_agents_that_anticipate_trade_less() -> None:
    case = mo.load_case(CASE)
    shy = mo.clear("gne", case.network, case.prosumers, scenario="II", anticipating=True)
    taking = mo.clear("gne", case.network, case.prosumers, scenario="II")
    assert shy.certificate.ok(), shy.certificate
    assert shy.equilibrium.price_taking_welfare == pytest.approx(taking.welfare, rel=1e-9)
    assert shy.welfare < taking.welfare
    assert taking.price_of_anarchy == pytest.approx(1.0, abs=1e-7)
    idle = shy.equilibrium.welfare_without_trade
    assert shy.price_of_anarchy == pytest.approx((taking.welfare - idle) / (shy.welfare - idle), rel=1e-6)
    assert shy.agents["p_kw"].abs().sum() < taking.agents["p_kw"].abs().sum()
    assert shy.agents["gain"].max() > 1e-4  # at the posted cost they would trade more
