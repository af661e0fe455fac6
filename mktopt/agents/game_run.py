"""What the methods for games hand on: how a run ended, where, and its trace; and what recurs in a sequence of
points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mktopt.agents.game_units import FloatArray

CONVERGED, NONE_FOUND, DIVERGES, STOPPED = "converged", "no equilibrium found", "diverges", "stopped"
LONGEST_PERIOD = 20
FAR = 1e9


@dataclass(frozen=True, eq=False)
class Run:
    """How a method ended. x: the last (or best) point (n,); verdict: converged | no equilibrium found | cycles with
    period n | diverges | stopped; reason: why, in a sentence; trace: one record per iteration; y: multipliers by the
    keys of its kind, None where the method has none; others: further equilibria that it came across."""

    x: FloatArray
    verdict: str
    reason: str
    trace: list[dict[str, Any]]
    y: FloatArray | None = None
    others: list[FloatArray] = field(default_factory=list)

    @property
    def frame(self) -> pd.DataFrame:
        """The trace as a table."""
        return pd.DataFrame(self.trace)


def period_of(points: Sequence[FloatArray], close: float = 1e-8, wide: float = 1e-4) -> int:
    """The period n >= 2 with which the last 3 n points repeat themselves, 0 where they do not.

    Points, in units of actions, are the same within `close` of their size; within a period they must differ by more
    than `wide`.
    """
    last = points[-1]
    scale = max(float(np.abs(point).max(initial=0.0)) for point in points[-LONGEST_PERIOD:])
    for n in range(2, min(LONGEST_PERIOD, len(points) // 3) + 1):
        pairs = zip(points[-2 * n :], points[-3 * n : -n], strict=True)
        if max(float(np.abs(a - b).max()) for a, b in pairs) > close * scale:
            continue
        if max(float(np.abs(a - last).max()) for a in points[-n:]) > wide * scale:
            return n
    return 0


def ran_off(x: FloatArray, unit: FloatArray) -> bool:
    """Whether an action is out of all proportion to its size where the run began."""
    return bool((np.abs(x) > FAR * np.maximum(unit, 1.0)).any())
