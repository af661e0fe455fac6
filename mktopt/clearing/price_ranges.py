"""How far prices are determined: the range of prices that support a clearing, per bus and period.

    low  = what one kWh less of firm demand would save,   high = what one kWh more would cost      [$/kWh]

They are the ends of the optimal multipliers of `balance` (see `mktopt.solvers.dual_face`), at the dispatch of the
clearing: with yes-or-no decisions fixed as they were taken, and of a local optimum in its neighbourhood. Where they
differ, demand stands at a corner of the supply (a step is just used up, a bid just served), every price between them
supports the dispatch, and which one is reported is the solver's choice. An end is infinite where firm demand could not
rise (or fall) any further.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError
from mktopt.solvers import with_integers_fixed
from mktopt.solvers.dual_face import DualFace, dual_face


@dataclass(frozen=True)
class Ambiguity:
    """A price that is not unique: anything between `low` and `high` [$/kWh] supports the dispatch."""

    bus: str
    period: int
    low: float
    high: float

    def __str__(self) -> str:
        where = f"at bus {self.bus}, period {self.period}, anything"
        if np.isinf(self.low) and np.isinf(self.high):
            return f"{where} would do"
        if np.isinf(self.high):
            return f"{where} from {self.low:.6g} $/kWh upwards would do"
        if np.isinf(self.low):
            return f"{where} up to {self.high:.6g} $/kWh would do"
        return f"{where} from {self.low:.6g} to {self.high:.6g} $/kWh would do"


@dataclass(frozen=True, eq=False)
class PriceRanges:
    """The supporting prices of one clearing: face of its multipliers; rows: (P,) the balance row of each bus and period
    (bus by bus), -1 where there is none; factor: (P,) price over dual."""

    face: DualFace
    rows: npt.NDArray[np.int64]
    factor: FloatArray

    def ends(self, positions: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Low and high [$/kWh] of some positions; NaN where there is no balance."""
        low, high = np.full(len(positions), np.nan), np.full(len(positions), np.nan)
        has = np.flatnonzero(self.rows[positions] >= 0)
        at = positions[has]
        ends = [dual * self.factor[at] for dual in self.face.intervals(self.rows[at])]
        low[has], high[has] = np.minimum(*ends), np.maximum(*ends)
        return low, high

    def widest(self) -> int:
        """The position of a price that is not unique, -1 where all are."""
        has = np.flatnonzero(self.rows >= 0)
        k = self.face.widest(self.rows[has])
        return k if k < 0 else int(has[k])


def price_ranges(clearing: Clearing) -> PriceRanges:
    """The supporting prices of `clearing`; raises MktoptError where it does not carry what they are found from."""
    evidence = clearing.evidence
    if not isinstance(evidence, Evidence) or evidence.program is None or evidence.solution is None:
        raise MktoptError(
            "this clearing does not carry the program that it was solved from (a loaded one does not); "
            "clear the market again to learn the range of its prices"
        )
    program, solution = evidence.program, evidence.solution
    if program.integer.any():
        program = with_integers_fixed(program, np.round(solution.x[program.integer]))
    rows = evidence.balance
    hours = np.tile(clearing.network.hours, clearing.network.n_buses)
    factor = program.sense * evidence.balance_sign / hours
    return PriceRanges(dual_face(program, evidence.values, solution.row_dual), rows, factor)


def ambiguity(clearing: Clearing) -> Ambiguity | None:
    """A price of `clearing` that is not unique, with its range; None where all are unique."""
    if not isinstance(clearing.evidence, Evidence):
        recorded: Ambiguity | None = getattr(clearing.evidence, "ambiguity", _unknown)(clearing)
        return recorded
    ranges = clearing._price_ranges
    position = ranges.widest()
    if position < 0:
        return None
    low, high = ranges.ends(np.array([position]))
    row = clearing.prices.iloc[position]
    return Ambiguity(str(row["bus"]), int(row["period"]), float(low[0]), float(high[0]))


def _unknown(clearing: Clearing) -> None:
    raise MktoptError("this clearing has no evidence; clear the market again to learn whether its prices are unique")
