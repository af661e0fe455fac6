"""The README tells the truth: its code runs as printed, and its table is what the tables say."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# a block of Python, and the block of text behind it where there is one
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", TEXT, re.DOTALL)


@pytest.mark.parametrize(("code", "output"), BLOCKS, ids=[f"block{k}" for k in range(len(BLOCKS))])
def test_code_runs_and_prints_what_is_shown(code, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    if output:
        assert [line.split() for line in printed.getvalue().splitlines()] == [
            line.split() for line in output.splitlines()
        ]


def test_there_is_an_example_of_at_most_fifteen_lines_with_output():
    code, output = BLOCKS[0]
    assert output
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_the_tables_are_generated():
    command = [sys.executable, "tools/readme_table.py"]
    made = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    tables = made.stdout.split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert table.strip() in TEXT, "run: python tools/readme_table.py --write"


def test_the_orders_shown_are_read(tmp_path):
    import mktopt as mo

    shown = re.search(r"```text\n(order,.*?)```", TEXT, re.DOTALL)
    assert shown
    path = tmp_path / "orders.csv"
    path.write_text(shown[1])
    clearing = mo.clear("surplus", mo.load_network("ieee37"), mo.Orders.from_csv(path))
    assert clearing.certificate.ok()
    assert clearing.quantity("heat pumps") > 20


def test_every_path_that_it_names_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    table = re.findall(r"^\| (.*?) \|", TEXT, re.MULTILINE)
    for cell in table:
        for path in re.findall(r"`((?:mktopt|benchmarks|examples|tests)[\w/.]*)`", cell):
            assert (ROOT / path).exists(), path
