"""What the command line tells of prices in parts and of contingencies."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest

import mktopt as mo
from mktopt.report import TITLES, as_document, print_clearing, telling_parts
from mktopt.terminal import Format
from tests.clearing.markets import affine, congested, radial
from tests.test_cli import run

FEEDER = ("clear", "ieee37", "--mechanism", "dlmp", "--flow", "distflow")
SECURE = ("clear", "case30", "--mechanism", "dlmp", "--contingencies", "n-1")


def section(text: str, title: str) -> list[list[str]]:
    """The rows of a printed table, as words; its head is left out."""
    lines = text.split(title, 1)[1].splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("──"))
    rows = lines[start + 1 :]
    end = next((k for k, line in enumerate(rows) if not line.strip()), len(rows))
    return [line.split() for line in rows[:end]]


def test_prices_are_printed_in_parts_that_sum_to_them():
    text, _ = run(*FEEDER)
    rows = section(text, "Prices in parts [$/kWh]")
    assert len(rows) == 39, "every bus of a small feeder"
    for _, price, *parts in rows:
        assert sum(map(float, parts)) == pytest.approx(float(price), abs=2e-4)
    head = text.split("Prices in parts", 1)[1].split("──", 1)[0]
    assert "loss" in head
    assert "congestion" in head
    assert "security" not in head, "parts that are zero everywhere are left out"
    assert "Prices [$/kWh]\n" not in text, "the price stands in the table of its parts"


def test_no_number_is_cut_off(monkeypatch, capsys):
    """A terminal of 60 columns for eight columns of numbers: lines get longer, numbers stay whole."""
    clearing = mo.clear("surplus", *mo.load_case("ieee37")[:2], flow="distflow")
    monkeypatch.setenv("COLUMNS", "60")
    for name, digits in (("flows", 2), ("voltages", 4), ("reactive_prices", 4), ("price_parts", 4)):
        print_clearing(clearing, Format.table, name, None, "")
        rows, table = section(capsys.readouterr().out, TITLES[name]), getattr(clearing, name)
        column = table.columns[2]
        written = [float(row[2].replace(",", "")) for row in rows]
        assert written == pytest.approx(table[column].tolist(), abs=0.51 * 10**-digits), name


def test_parts_that_are_zero_are_no_columns():
    text, _ = run(*SECURE, "--table", "price_parts")
    assert "security" in text
    assert "reactive" not in text
    assert "reactive" in run(*SECURE, "--table", "price_parts", "--format", "csv")[0]


def test_prices_of_one_part_are_printed_as_before():
    text, _ = run("clear", "ieee37", "--mechanism", "dlmp", "--flow", "copperplate")
    assert "Prices in parts" not in text
    assert "Prices [$/kWh]" in text


def test_of_many_prices_the_dearest_and_the_cheapest_are_shown():
    text, _ = run("clear", "ieee123", "--flow", "distflow")
    rows = [row for row in section(text, "dearest and cheapest") if row[0] not in ("...", "16")]
    prices = [float(row[1]) for row in rows if len(row) > 2 and row[1][0].isdigit()]
    assert prices == sorted(prices, reverse=True)
    whole = mo.clear("surplus", *mo.load_case("ieee123")[:2], flow="distflow").prices["price"]
    assert prices[0] == pytest.approx(whole.max(), abs=1e-4)
    assert prices[-1] == pytest.approx(whole.min(), abs=1e-4)


def test_several_periods_stand_in_rows():
    network = radial(2, 4, hours=(1.0, 0.5))
    orders = affine(2, network)
    clearing = mo.clear("dlmp", congested(network, orders, "ptdf"), orders)
    parts = telling_parts(clearing)
    assert parts.columns.tolist()[:3] == ["bus", "period", "price"]
    assert len(parts) == 8
    assert parts["energy"].add(parts["congestion"]).tolist() == pytest.approx(parts["price"].tolist(), abs=1e-9)


def test_contingencies_are_printed_worst_first():
    text, _ = run(*SECURE)
    assert "3 of 46 contingencies cut buses off" in text
    first = section(text, "Contingencies (loading")[0]
    assert first[0] == "28-27"
    assert float(first[-1]) == pytest.approx(100, abs=0.1)
    found = pd.read_csv(io.StringIO(run(*SECURE, "--format", "csv", "--table", "contingencies")[0]))
    assert len(found) == 46
    assert found["loading_percent"].max() <= 100 * (1 + 1e-6)


def test_a_program_reads_parts_and_contingencies():
    told = json.loads(run(*SECURE, "--format", "json")[0])
    assert told["contingencies"][0]["status"] == "secured"
    assert {"energy", "congestion", "security"} <= set(told["price_parts"][0])
    network, orders, *_ = mo.load_case("case30")
    assert as_document(mo.clear("surplus", network, orders))["contingencies"] is None


def test_options_of_security_are_given_as_words():
    text, _ = run(*SECURE[:-1], "28-27,gen_27", "--emergency", "1.1", "--lazy", "true")
    names = [row[0] for row in section(text, "Contingencies (loading")]
    assert sorted(names) == ["28-27", "gen_27"]
    assert "did you mean '28-27'" in run(*SECURE[:-1], "28-26", code=2)[1]
    assert "positive factor" in run(*SECURE, "--emergency", "0", code=2)[1]
    assert "use ptdf or dc" in run(*FEEDER, "--contingencies", "n-1", code=2)[1]
    assert "no contingencies were asked for" in run(*FEEDER, "--table", "contingencies", code=2)[1]
