"""The worst treated coalition among any number of players, proved, where values bring bounds for all coalitions.

    max t    s.t.   t <= a_k + sum_i (b_ki - x_i) s_i   for the bounds k known,   1 <= sum_i s_i <= n - 1,   s in {0, 1}

is at least every excess v(S) - x(S). The coalition that attains it is valued, its own bound comes in, and so on, until
the coalition found is known: then nothing is worse. It is Benders' decomposition, with v as the subproblem.
Coalitions that may not be the answer, since they are settled, are cut off one by one as they come.
Reference: Benders, Numer. Math. 4 (1962).
"""

from __future__ import annotations

import numpy as np

from mktopt.agents.coalitions.masks import BoolArray, FloatArray, Span, masks_of, rows_of
from mktopt.agents.coalitions.values import BOUND_ERROR, NOTHING, CoalitionGame
from mktopt.errors import FormulationError, SolverError
from mktopt.solvers.program import Program
from mktopt.solvers.table import solve

# What a coalition may be worth more than the worst one known and count as no worse [share of the sizes involved].
_GAP = 1e-8


class Bounding:
    """An exact search by mixed-integer programs over the bounds that values bring: for markets of tens of players.

    It values fewer coalitions than an exhaustive search, and takes longer to choose them: for values that are
    expensive, or for more than 20 players. most: programs solved for one answer, after which it gives up (SolverError).
    Raises FormulationError for a game whose values bring no bounds (see `Bounded`).
    """

    exact = True

    def __init__(self, game: CoalitionGame, most: int = 1000) -> None:
        self.game, self.most = game, most
        game.value(game.all)
        game.of_rows(np.vstack([np.eye(game.n, dtype=bool), ~np.eye(game.n, dtype=bool)]))
        if not any(np.isfinite(constant) and np.isfinite(weights).all() for constant, weights in game.bounds):
            raise FormulationError(
                "a search by bounds needs values that bring them, Bounded(value, constant, weights); use LocalSearch"
            )

    def worst(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """See `Oracle`."""
        if self.game.n == 1:
            return np.zeros((0, 1), dtype=bool)
        barred: list[BoolArray] = []
        for _ in range(self.most):
            found = self._highest(payoffs, barred)
            if found is None:
                return self._known(payoffs, settled, count)
            row, excess, size = found
            known = self._known(payoffs, settled, 1)
            reached = float(self.game.of_rows(known)[0] - known[0] @ payoffs) if len(known) else -np.inf
            if excess <= reached + _GAP * size:
                return self._known(payoffs, settled, count)
            before = self.game.evaluated
            value = float(self.game.of_rows(row[None])[0])
            if value - float(row @ payoffs) > excess + BOUND_ERROR * size + NOTHING:
                raise FormulationError(
                    f"a coalition of {int(row.sum())} players is worth {value:.9g}, more than the bound of another"
                    " says: give values without bounds if these do not hold for every coalition"
                )
            if self.game.evaluated == before or not settled.outside(row[None])[0]:
                barred.append(row)  # known, with a bound that is loose; or settled
        raise SolverError(f"the worst coalition was not found by {self.most} mixed-integer programs; raise `most`")

    def _known(self, payoffs: FloatArray, settled: Span, count: int) -> BoolArray:
        """The worst of the coalitions valued so far."""
        rows = rows_of(self.game.known_coalitions(), self.game.n)
        rows = rows[settled.outside(rows)]
        excess = self.game.values_at(masks_of(rows)) - rows @ payoffs if len(rows) else np.zeros(0)
        return np.asarray(rows[np.argsort(-excess, kind="stable")[:count]])

    def _highest(self, payoffs: FloatArray, barred: list[BoolArray]) -> tuple[BoolArray, float, float] | None:
        """The coalition of greatest bound, that bound less what it is paid, and the size of the numbers; None where
        all are barred."""
        n = self.game.n
        gaps = np.array([weights - payoffs for _, weights in self.game.bounds])
        constants = np.array([constant for constant, _ in self.game.bounds])
        use = np.isfinite(constants) & np.isfinite(gaps).all(axis=1)
        gaps, constants = gaps[use], constants[use]
        size = max(float(np.abs(gaps).max()), float(np.abs(constants).max()), 1e-300)
        bars = np.array([np.where(row, 1.0, -1.0) for row in barred]).reshape(-1, n)
        A = np.vstack(
            [np.c_[-gaps / size, np.ones(len(gaps))], np.r_[np.ones(n), 0.0], np.c_[bars, np.zeros(len(bars))]]
        )
        held = np.array([float(row.sum()) - 1.0 for row in barred])  # at least one player in or out
        high = np.r_[constants / size, n - 1.0, held]
        low = np.r_[np.full(len(gaps), -np.inf), 1.0, np.full(len(bars), -np.inf)]
        solution = solve(_maximise(A, low, high, n), "highs", {"mip_rel_gap": 0.0})  # or it would be no proof
        if not solution.status.ok:
            if solution.status.stopped.name == "INFEASIBLE":
                return None
            raise SolverError(f"the search for the worst coalition failed ({solution.status}; {solution.message})")
        return solution.x[:n] > 0.5, size * float(solution.x[n]), size


def _maximise(A: FloatArray, low: FloatArray, high: FloatArray, n: int) -> Program:
    """max t over n whole numbers 0 or 1 and t."""
    import scipy.sparse as sp

    return Program(
        variables=[],
        rows=[],
        A=sp.csr_array(A),
        row_lower=low,
        row_upper=high,
        lower=np.r_[np.zeros(n), -np.inf],
        upper=np.r_[np.ones(n), np.inf],
        integer=np.r_[np.ones(n, dtype=bool), False],
        c=np.r_[np.zeros(n), 1.0],
        P=None,
        sense=-1,
    )
