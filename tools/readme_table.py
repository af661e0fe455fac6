"""The README's table of mechanisms, flows and solvers, made from the tables of the package.

    python tools/readme_table.py            prints it
    python tools/readme_table.py --write    puts it into README.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mktopt.mechanisms import overview

README = Path(__file__).resolve().parents[1] / "README.md"
_PLACE = re.compile(r"(<!-- table: .*? -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table() -> str:
    """The overview as a Markdown table."""
    frame = overview()
    rows = [frame.columns.tolist(), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)


def with_table(text: str) -> str:
    """`text` of the README with the table in its place."""
    return _PLACE.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")
