"""Names of elements: text, and unique within their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def unique_names(names: Sequence[str]) -> list[str]:
    """`names` with "#2", "#3" ... added where one stands again."""
    seen: dict[str, int] = {}
    taken = set(names)
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique = name
        while seen[name] > 1 and (unique == name or unique in taken):
            unique = f"{name}#{seen[name]}"
            seen[name] += unique in taken
        taken.add(unique)
        result.append(unique)
    return result


def element_names(frame: pd.DataFrame, table: str) -> pd.Series[Any]:
    """Names of the rows of a pandapower `table`, by its index: column `name`, else the index ("line_3", bus "3")."""
    prefix = "" if table == "bus" else f"{table}_"
    given = frame["name"] if "name" in frame else pd.Series(None, index=frame.index, dtype=object)
    texts = []
    for index, value in zip(frame.index, given, strict=True):
        blank = value is None or value != value
        whole = not blank and isinstance(value, float) and value.is_integer()  # 701.0: pandas made it a float
        text = "" if blank else str(int(value) if whole else value).strip()
        texts.append(text or f"{prefix}{index}")
    return pd.Series(unique_names(texts), index=frame.index, dtype=object)
