"""Numbers: Pyomo model -> arrays -> solver -> arrays. Knows no market.

Adding a solver is one file with `solve(program, options) -> Solution` and one row in `table.SOLVERS`.
"""

from mktopt.solvers.diagnosis.infeasible import Infeasibility, Member, Relaxed, diagnose, is_feasible
from mktopt.solvers.diagnosis.unbounded import Growth, unbounded_direction
from mktopt.solvers.fixed import solve_fixed, with_integers_fixed
from mktopt.solvers.prices import marginal_values, order_prices, orientation, row_prices, welfare_duals
from mktopt.solvers.program import Program
from mktopt.solvers.reading.compiler import compile
from mktopt.solvers.sessions.session import Session
from mktopt.solvers.solution import Attempt, Has, Residuals, Solution, Status, Stopped, residuals
from mktopt.solvers.table import SOLVERS, Availability, Available, Solver, choose, solve

__all__ = [
    "SOLVERS",
    "Attempt",
    "Availability",
    "Available",
    "Growth",
    "Has",
    "Infeasibility",
    "Member",
    "Program",
    "Relaxed",
    "Residuals",
    "Session",
    "Solution",
    "Solver",
    "Status",
    "Stopped",
    "choose",
    "compile",
    "diagnose",
    "is_feasible",
    "marginal_values",
    "order_prices",
    "orientation",
    "residuals",
    "row_prices",
    "solve",
    "solve_fixed",
    "unbounded_direction",
    "welfare_duals",
    "with_integers_fixed",
]
