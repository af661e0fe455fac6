"""The README's tables of mechanisms and of solvers, made from the tables of the package.

    python tools/readme_table.py            prints them
    python tools/readme_table.py --write    puts them into README.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from mktopt.catalogue import class_table, combinations

README = Path(__file__).resolve().parents[1] / "README.md"
TABLES = {"mechanisms": combinations, "solvers": class_table}


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table."""
    rows = [frame.columns.tolist(), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)


def with_tables(text: str) -> str:
    """`text` of the README with each table in its place."""
    for name, make in TABLES.items():
        place = re.compile(rf"(<!-- table of {name}: .*? -->\n).*?(<!-- end of table -->)", re.DOTALL)
        made = markdown(make())
        text = place.sub(lambda match, made=made: match[1] + made + match[2], text)
    return text


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n".join(markdown(make()) for make in TABLES.values()), end="")
