"""The two ways to IPOPT: `cyipopt.Problem` on functions in numpy, and CasADi's own IPOPT on the same functions as SX.

Both take an `Nlp`, a starting point with multipliers, and IPOPT's options; both return a `Raw` answer with IPOPT's own
signs: at an optimum ∇f + Jᵀλ - z_L + z_U = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from mktopt.solvers.nlp.options import refused
from mktopt.solvers.nlp.problem import Nlp
from mktopt.solvers.program import Array

# (iteration, objective, primal infeasibility, dual infeasibility, barrier parameter) -> whether to go on.
Watch = Callable[[int, float, float, float, float], bool]

_CODES = {
    0: "Solve_Succeeded",
    1: "Solved_To_Acceptable_Level",
    2: "Infeasible_Problem_Detected",
    3: "Search_Direction_Becomes_Too_Small",
    4: "Diverging_Iterates",
    5: "User_Requested_Stop",
    6: "Feasible_Point_Found",
    -1: "Maximum_Iterations_Exceeded",
    -2: "Restoration_Failed",
    -3: "Error_In_Step_Computation",
    -4: "Maximum_CpuTime_Exceeded",
    -5: "Maximum_WallTime_Exceeded",
    -10: "Not_Enough_Degrees_Of_Freedom",
    -11: "Invalid_Problem_Definition",
    -12: "Invalid_Option",
    -13: "Invalid_Number_Detected",
    -100: "Unrecoverable_Exception",
    -101: "NonIpopt_Exception_Thrown",
    -102: "Insufficient_Memory",
    -199: "Internal_Error",
}


@dataclass(frozen=True)
class Start:
    """Where IPOPT starts: x̂ (N,), λ (M,), z_L and z_U (N,)."""

    x: Array
    y: Array
    z_lower: Array
    z_upper: Array


@dataclass(frozen=True)
class Raw:
    """What IPOPT hands back, in its own signs and in the scale of the `Nlp`; `status` is IPOPT's name for it."""

    status: str
    x: Array
    y: Array
    z_lower: Array
    z_upper: Array
    iterations: int


def available() -> str:
    """'cyipopt' or 'casadi', whichever is to be used; ImportError where neither can be imported."""
    try:
        import cyipopt  # noqa: F401
    except ImportError:
        import casadi  # noqa: F401

        return "casadi"
    return "cyipopt"


def ipopt_version(backend: str) -> str:
    """Versions of IPOPT and of what calls it."""
    if backend == "cyipopt":
        import cyipopt

        return f"{'.'.join(map(str, cyipopt.IPOPT_VERSION))} (cyipopt {metadata.version('cyipopt')})"
    return f"of casadi {metadata.version('casadi')}"


def run(backend: str, nlp: Nlp, start: Start, options: Mapping[str, Any], watch: Watch | None) -> Raw:
    """Solve; raises what the watch or Ctrl-C raised, SolverError, or the error of an unknown option."""
    if backend == "cyipopt":
        return _run_cyipopt(nlp, start, options, watch)
    from mktopt.solvers.nlp import casadi_ipopt as nlp_casadi

    return nlp_casadi.run(nlp, start, options, watch)


class _Callbacks:
    """What cyipopt calls, and the first exception raised in there.

    cyipopt keeps an exception of a callback until the next iteration, and goes on with numbers that nobody wrote. So
    from the first one on, every callback says at once that it cannot be evaluated.
    """

    def __init__(self, nlp: Nlp, watch: Watch | None) -> None:
        self.nlp, self.watch = nlp, watch
        self.iterations = 0
        self.raised: BaseException | None = None

    def _try(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import cyipopt

        if self.raised is None:
            try:
                return function(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again once IPOPT has let go
                self.raised = error
        raise cyipopt.CyIpoptEvaluationError

    def objective(self, x: Array) -> Any:
        return self._try(self.nlp.objective, x)

    def gradient(self, x: Array) -> Any:
        return self._try(self.nlp.gradient, x)

    def constraints(self, x: Array) -> Any:
        return self._try(self.nlp.constraints, x)

    def jacobian(self, x: Array) -> Any:
        return self._try(self.nlp.jacobian, x)

    def hessian(self, x: Array, multipliers: Array, factor: float) -> Any:
        return self._try(self.nlp.hessian, x, multipliers, factor)

    def jacobianstructure(self) -> Any:
        return self.nlp.jacobian_at

    def hessianstructure(self) -> Any:
        return self.nlp.hessian_at

    def intermediate(self, mode: int, iteration: int, objective: float, primal: float, dual: float, mu: float,
                     *others: Any) -> bool:  # fmt: skip
        self.iterations = iteration
        if self.raised is not None:
            return False
        try:
            return self.watch is None or self.watch(iteration, objective, primal, dual, mu)
        except BaseException as error:  # noqa: BLE001 - raised again once IPOPT has let go
            self.raised = error
            return False


def _run_cyipopt(nlp: Nlp, start: Start, options: Mapping[str, Any], watch: Watch | None) -> Raw:
    import cyipopt

    callbacks = _Callbacks(nlp, watch)
    # 2e19 and beyond is infinite to IPOPT.
    limits = {"lb": nlp.lower, "ub": nlp.upper, "cl": nlp.row_lower, "cu": nlp.row_upper}
    problem = cyipopt.Problem(n=nlp.n, m=nlp.m, problem_obj=callbacks, **limits)
    for name, value in options.items():
        try:
            problem.add_option(name, value)
        except (TypeError, OverflowError) as error:
            raise refused(name, value) from error
    try:
        with np.errstate(all="ignore"):
            x, info = problem.solve(start.x, lagrange=start.y, zl=start.z_lower, zu=start.z_upper)
    except BaseException:
        if callbacks.raised is not None:
            raise callbacks.raised from None
        raise
    finally:
        problem.close()
    if callbacks.raised is not None:
        raise callbacks.raised
    status = _CODES.get(int(info["status"]), "Internal_Error")
    return Raw(status, x, info["mult_g"], info["mult_x_L"], info["mult_x_U"], callbacks.iterations)
