"""What all speed reports share: figures beside what was asked of them, the machine, tables, and where a report goes."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Target:
    """A figure beside what was asked of it; `limit` None: information."""

    what: str
    measured: float
    limit: float | None
    unit: str

    @property
    def verdict(self) -> str:
        """Whether the limit is kept."""
        return "" if self.limit is None else "met" if self.measured <= self.limit else "NOT MET"


def machine() -> dict[str, str]:
    """Where the figures are from."""
    model, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = f"{len(models)} x {models[0]}" if models else model
    libraries = ("clarabel", "cvxpy", "highspy", "numpy", "pandas", "pyomo", "scipy")
    return {
        "date": datetime.date.today().isoformat(),
        "machine": model,
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in libraries),
    }


def rows_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of equal width."""
    width = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    lines = [heads, ["-" * w for w in width], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, width, strict=True)) + " |" for line in lines)


def document(report: Any, lines: Sequence[str]) -> str:
    """A report as Markdown: where its figures are from, `lines`, and its targets with their verdicts."""
    facts = report.machine
    verdicts = [
        [t.what, f"{t.measured:.3g} {t.unit}".strip(), "" if t.limit is None else f"<= {t.limit:.3g}", t.verdict]
        for t in report.targets
    ]
    where = f"{facts['date']}, {facts['machine']}, Python {facts['python']}, {facts['libraries']}."
    return "\n".join([where, *lines, "", rows_of(["figure", "measured", "asked", "verdict"], verdicts)])


def leave(report: Any, text: str, out: Path | None) -> int:
    """Prints a report and writes it to `out` as its name says; returns the exit code: 1 where a target is missed."""
    print(text)
    if out is not None:
        written = json.dumps(asdict(report), indent=2) if out.suffix == ".json" else text
        out.write_text(written + "\n", encoding="utf-8")
    return 1 if any(target.verdict == "NOT MET" for target in report.targets) else 0


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A parser of a script's options, --out among them; text: the script's own."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file that ends in .md or .json")
    return parser


def chosen_from(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options given; ends the script where --out has a name of another kind."""
    chosen = parser.parse_args(arguments)
    if chosen.out is not None and chosen.out.suffix not in (".md", ".json"):
        parser.error(f"--out {chosen.out}: the name must end in .md or .json")
    return chosen


def peak_gib() -> float:
    """The most memory that this process has held [GiB].

    Linux hands the peak of the parent, which may have held other contestants' matrices, on to its child; VmHWM begins
    anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
