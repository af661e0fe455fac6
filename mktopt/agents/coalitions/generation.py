"""The linear program of the greatest excess, with coalitions that come in when they are violated.

    min e    s.t.   sum_{i in S} x_i + e >= v(S)   for S outside the span of what is settled        weight y_S >= 0
                    E x = right                    what is settled, efficiency x(N) = v(N) first
                    x >= floor                     individual rationality, where wanted

Only the coalitions that an oracle finds violated have a row, some tens of 2^n. Of an optimum, sum_S y_S = 1, and a
coalition with y_S > 0 has excess e in every optimum.
All runs in x = shift + unit x', in which values are near one: a strategically equivalent game.
References: Maschler, Peleg, Shapley (1979); Hallefjord, Helming, Joernsten, Int. J. Game Theory 24 (1995).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, Span, masks_of, rows_of, sums
from mktopt.agents.coalitions.oracles import Oracle
from mktopt.agents.coalitions.values import MOST_LISTED, CoalitionGame
from mktopt.errors import SolverError
from mktopt.solvers.program import Program
from mktopt.solvers.solution import Has, Solution
from mktopt.solvers.table import solve

# Excess above the optimum [units of the game] that calls for another row; what rounding leaves if the row is there.
TOLERANCE = 5e-9
_ROUNDING = 1e-6
# Where coalitions are looked for: between the optimum of the rows so far and the best payoffs so far. At the optimum
# itself, which jumps from corner to corner, it takes ten times as many rounds.
_INWARD = 0.5
# Weights below this are zero: the greatest of at most n + 1 that sum to one is far above.
WEIGHT = 1e-7


@dataclass(frozen=True, eq=False)
class Step:
    """An optimum. payoffs (n,), epsilon: in units of the normal game; rows (k, n), weights (k,): the coalitions with
    y_S > 0; floor_weights (n,): multipliers of the floor."""

    payoffs: FloatArray
    epsilon: float
    rows: BoolArray
    weights: FloatArray
    floor_weights: FloatArray


class Generation:
    """The coalitions that have a row, and the units; `game` and its `oracle`.

    own: v({i}) (n,); shift, unit: x = shift + unit x'.
    """

    def __init__(self, game: CoalitionGame, oracle: Oracle) -> None:
        self.game, self.oracle, self.n = game, oracle, game.n
        single = np.eye(self.n, dtype=bool)
        self.own = game.of_rows(single)
        self.grand = game.value(game.all)
        self.shift, self.unit = self._units()
        self._known: set[int] = set()
        self.rows = np.zeros((0, self.n), dtype=bool)
        self.worth = np.zeros(0)
        self._take(np.vstack([single, ~single]))

    def _units(self) -> tuple[FloatArray, float]:
        """Of the game as it is and with v({i}) = 0, the one with the smaller numbers; losses of groups do not count."""
        found = []
        for shift in (self.own, np.zeros(self.n)):
            found.append(max(abs(self.grand - float(shift.sum())), self._greatest(shift)))
        size = max(abs(self.grand), float(np.abs(self.own).max()))
        best = int(found[1] < found[0])
        # gains of a millionth are in double precision to the tolerance; what is below may be rounding of the values
        return (np.zeros(self.n) if best else self.own), max(found[best], 1e-6 * size) or 1.0

    def _greatest(self, shift: FloatArray) -> float:
        """The greatest v(S) - sum of `shift` (n,) over S of all values known so far, at least 0 [$]."""
        if self.n <= MOST_LISTED:
            return float(np.nanmax(self.game.known - sums(shift)))
        rows = rows_of(self.game.known_coalitions(), self.n)
        return float((self.game.of_rows(rows) - rows @ shift).max(initial=0.0))

    def payoffs(self, normal: FloatArray) -> FloatArray:
        """Payoffs (n,) [$] of those in units of the normal game."""
        return np.asarray(self.shift + self.unit * normal)

    def normal(self, rows: BoolArray, values: FloatArray) -> FloatArray:
        """Values (k,) [$] of coalitions (k, n) in the normal game."""
        return np.asarray((values - rows @ self.shift) / self.unit)

    def _take(self, rows: BoolArray) -> int:
        """Gives rows (k, n) to coalitions that have none; how many that were."""
        fresh = []
        for k, mask in enumerate(masks_of(rows) if len(rows) else ()):
            if mask and mask not in self._known:
                self._known.add(mask)
                fresh.append(k)
        new = rows[fresh]
        self.worth = np.r_[self.worth, self.normal(new, self.game.of_rows(new))]
        self.rows = np.vstack([self.rows, new])
        return len(fresh)

    def lowest(self, settled: Span, equations: FloatArray, right: FloatArray, floor: FloatArray | None = None) -> Step:
        """The least greatest excess of coalitions outside `settled`; equations (m, n), right (m,), floor (n,) in units
        of the normal game. Raises SolverError where no optimum was found."""
        centre: FloatArray | None = None
        reach = np.inf  # the greatest excess at the centre: what the optimum is at most
        while True:
            use = np.flatnonzero(settled.outside(self.rows))
            solution = solved(_program(self.rows[use], self.worth[use], equations, right, floor))
            x, epsilon = solution.x[: self.n], float(solution.x[self.n]) - 1.0
            fresh = 0
            for inward in (_INWARD, 0.0) if centre is not None else (0.0,):
                point = x if centre is None else x + inward * (centre - x)
                worse = self.oracle.worst(self.payoffs(point), settled, 2 * self.n + 10)
                worth = self.normal(worse, self.game.of_rows(worse))
                # those with a row, too: a search that is not exact may miss them
                highest = float(np.r_[worth - worse @ point, self.worth[use] - self.rows[use] @ point].max())
                if highest < reach:
                    centre, reach = point, highest
                above = worth - worse @ x > epsilon + TOLERANCE
                fresh = self._take(worse[above])
                if fresh or reach <= epsilon + TOLERANCE:
                    break
            if not fresh or reach <= epsilon + TOLERANCE:
                break
        if centre is None or reach > epsilon + _ROUNDING * max(1.0, abs(epsilon)):
            raise SolverError(f"a linear program of the game left a row violated by {reach - epsilon:.1e}")
        weights = np.maximum(solution.row_dual[: len(use)], 0.0)
        some = weights > WEIGHT
        rest = np.maximum(solution.reduced_cost[: self.n], 0.0)
        return Step(centre, epsilon, self.rows[use][some], weights[some], rest)


def solved(program: Program) -> Solution:
    """The optimum of a linear program, with multipliers. Raises SolverError where there is none."""
    solution = solve(program, "highs")
    if solution.status.has is not Has.OPTIMAL or not solution.has_duals:
        raise SolverError(f"a linear program of the game has no optimum ({solution.status}; {solution.message})")
    return solution


def linear(matrix: Any, low: FloatArray, high: FloatArray, cost: FloatArray, lower: FloatArray) -> Program:
    """min costᵀx  s.t.  low <= matrix x <= high,  x >= lower."""
    import scipy.sparse as sp

    n = len(cost)
    return Program(
        variables=[],
        rows=[],
        A=sp.csr_array(matrix),
        row_lower=low,
        row_upper=high,
        lower=lower,
        upper=np.full(n, np.inf),
        integer=np.zeros(n, dtype=bool),
        c=cost,
        P=None,
    )


def _program(
    rows: BoolArray, worth: FloatArray, equations: FloatArray, right: FloatArray, floor: FloatArray | None
) -> Program:
    k, n = rows.shape
    matrix = np.vstack([np.c_[rows.astype(float), np.ones(k)], np.c_[equations, np.zeros(len(equations))]])
    lower = np.full(n + 1, -np.inf)
    if floor is not None:
        lower[:n] = floor
    # Rows are raised by one, and e with them: where all values are noise, it is judged beside the unit of the game.
    low, high = np.r_[worth + 1.0, right], np.r_[np.full(k, np.inf), right]
    return linear(matrix, low, high, np.r_[np.zeros(n), 1.0], lower)
