"""The solvers of this package for every user of Pyomo: importing this module registers them.

    import mktopt.solvers.pyomo
    pyo.SolverFactory("mktopt").solve(model)

`mktopt` chooses by problem class and tries the next suitable solver where one gives no answer; `mktopt_highs`,
`mktopt_clarabel` and `mktopt_ipopt` are that solver alone. The same names hold in Pyomo's newest interface,
`pyomo.contrib.solver.common.factory.SolverFactory`, whose `solve` returns the `Results` that the classes below speak
of, and in `pyo.SolverFactory`, which wraps it in the interface that most models are written for.

**Sign.** Pyomo reads a constraint as `lower <= body <= upper` and holds, for either sense of the objective,

    dual[i] = ∂(optimal objective, in its own sense) / ∂(limit of row i)
    rc[j]   = ∂(optimal objective, in its own sense) / ∂(bound of variable j that binds)

which are our canonical duals (`prices.py`) as they are: nothing is flipped. What may flip is the row. With variables on
both sides Pyomo keeps `supply == demand` as the body `supply - demand` and `demand == supply` as its negative, and the
dual changes sign with it; a price does not, and is read by `prices.row_prices`.

**Config.** `time_limit` holds for the whole solve (`mktopt` then asks one solver only); `threads`, `rel_gap` and
`abs_gap` reach the solvers that have them, with a warning from the others; `solver_options` are the solver's own, and
those of Pyomo's own options that say the same win. Solvers write a log only where `tee` asks for it, so that without it
solves may run in several threads. Models are never written to files: `working_dir` and `symbolic_solver_labels` have
nothing to act on.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import io
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyomo.environ  # noqa: F401  (Pyomo's own solvers register first)
from pyomo.common.errors import ApplicationError
from pyomo.common.tee import TeeStream, capture_output
from pyomo.common.timing import HierarchicalTimer
from pyomo.contrib.solver.common.base import Availability, SolverBase
from pyomo.contrib.solver.common.config import BranchAndBoundConfig, SolverConfig
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.contrib.solver.common.results import Results, SolutionStatus
from pyomo.contrib.solver.common.util import (
    IncompatibleModelError,
    NoFeasibleSolutionError,
    NoOptimalSolutionError,
    get_objective,
)
from pyomo.contrib.solver.common.util import SolverError as PyomoSolverError
from pyomo.core.staleflag import StaleFlagManager

from mktopt.errors import FormulationError, SolverError
from mktopt.solvers import clarabel, highs, ipopt, outer_approximation
from mktopt.solvers.program import Array, Program
from mktopt.solvers.pyomo_results import CONVERGED, Loader, fill
from mktopt.solvers.reading.compiler import compile
from mktopt.solvers.solution import Solution
from mktopt.solvers.table import SOLVERS, Available, choose, solve

logger = logging.getLogger(__name__)

# What the options that Pyomo has for all solvers are called in each of ours, and how it is made to write its log.
_CALLED: dict[str, dict[str, str]] = {
    highs.NAME: {
        "time_limit": "time_limit",
        "threads": "threads",
        "rel_gap": "mip_rel_gap",
        "abs_gap": "mip_abs_gap",
    },
    clarabel.NAME: {"time_limit": "time_limit", "threads": "max_threads"},
    ipopt.NAME: {"time_limit": "time_limit"},
    outer_approximation.NAME: {"time_limit": "time_limit", "rel_gap": "mip_gap"},
}
_LOG: dict[str, dict[str, Any]] = {
    highs.NAME: {"output_flag": True},
    clarabel.NAME: {"verbose": True},
    ipopt.NAME: {"print_level": 5},
}
# Listening to the console takes it from the whole process: one at a time, and only when asked for.
_CONSOLE = threading.Lock()
# A limit of zero is one that not every solver takes: the shortest that all do.
_SHORTEST = 1e-6
_AVAILABLE = {
    Available.YES: Availability.FullLicense,
    Available.NOT_INSTALLED: Availability.NotFound,
    Available.BROKEN: Availability.NeedsCompiledExtension,
}


class _Plugin(SolverBase):  # type: ignore[misc]
    """One solver of the table (or the choice among them, `solver` None) behind Pyomo's solver interface."""

    CONFIG = SolverConfig()
    solver: str | None = None

    def available(self) -> Availability:
        """Pyomo's word for whether it can be used; what to do about it is in the error that `solve` raises."""
        if self.solver is not None:
            return _AVAILABLE[SOLVERS[self.solver].available().available]
        return Availability.FullLicense if any(map(_usable, SOLVERS)) else Availability.NotFound

    def version(self) -> tuple[int, ...]:
        """The version of the solver, () where there is none; of this package where the solver is chosen by class."""
        if self.solver is None:
            return _numbers(importlib.metadata.version("mktopt"))
        return _numbers(SOLVERS[self.solver].available().version)

    def solve(self, model: Any, **kwds: Any) -> Results:
        """Solve a Pyomo model or block; `kwds` are the entries of `CONFIG` for this call alone.

        Raises NoOptimalSolutionError, unless told not to; NoFeasibleSolutionError where there is nothing to load;
        IncompatibleModelError for a model that the solver does not take; ApplicationError for a solver that is not
        installed; UnknownNameError for an option that it does not have; Pyomo's SolverError for the rest.
        """
        start = time.perf_counter()
        results = Results()
        results.timing_info.start_timestamp = datetime.datetime.now(datetime.UTC)
        config = self.config(value=kwds, preserve_implicit=True)
        if config.timer is None:
            config.timer = HierarchicalTimer()
        StaleFlagManager.mark_all_as_stale()
        self._require()
        with _in_pyomos_words():
            with _timed(config.timer, "compile"):
                program, used = _without_unused(compile(model))
            with _timed(config.timer, "optimize"):
                solution, results.solver_log = self._solved(program, config)
        fill(results, program, solution, get_objective(model) is not None)
        results.solver_name = self.name
        results.solver_version = _numbers(solution.version) or self.version()
        results.solver_config = config
        results.solution_loader = Loader(model, program, used, solution)
        with _timed(config.timer, "load solution"):
            _deliver(results, solution, config)
        results.timing_info.timer = config.timer
        results.timing_info.wall_time = time.perf_counter() - start
        return results

    def _require(self) -> None:
        if not self.available():
            why = SOLVERS[self.solver].available() if self.solver else "none of its solvers is installed"
            raise ApplicationError(f"solver '{self.name}' is not available: {why}")

    def _solved(self, program: Program, config: Any) -> tuple[Solution, str]:
        """The solution, and the log of its solvers, which goes to the streams of `tee` as it is written; without `tee`
        they are quiet, and the log is their last word."""
        first = self.solver or choose(program).name
        # Several solvers would each have the limit anew.
        alone = self.solver is not None or config.time_limit is not None
        names = [first] if alone else _able(program, first)
        given = config.solver_options.value()
        own = {name: given.pop(name) for name in list(given) if name in SOLVERS and isinstance(given[name], Mapping)}
        logs = _LOG if config.tee else {}
        options: dict[str, Any] = {name: logs.get(name, {}) | _common(name, config, name == first) for name in names}
        options[first] = logs.get(first, {}) | given | _common(first, config, warn=False)
        for name, entries in own.items():
            options[name] = options.get(name, {}) | entries
        if config.threads is not None and highs.NAME in names:
            _forget_threads()
        solver = first if alone else None
        if not config.tee:
            solution = solve(program, solver, options)
            return solution, f"{solution.solver}: {solution.message}\n"
        log = io.StringIO()
        with _CONSOLE, capture_output(TeeStream(log, *config.tee), capture_fd=True):
            solution = solve(program, solver, options)
        return solution, log.getvalue()


@SolverFactory.register(name="mktopt", doc="mktopt: the open solver that suits the problem class")
class Mktopt(_Plugin):
    """LP, MILP, QP, convex MIQP, SOCP, logarithms and smooth NLP, each by the solver that suits it."""

    CONFIG = BranchAndBoundConfig()


@SolverFactory.register(name="mktopt_highs", doc="mktopt: HiGHS, for LP, MILP and convex QP")
class MktoptHighs(_Plugin):
    """HiGHS: LP, MILP and convex QP."""

    CONFIG = BranchAndBoundConfig()
    solver = highs.NAME


@SolverFactory.register(name="mktopt_clarabel", doc="mktopt: Clarabel, for LP, QP, SOCP and logarithms, all convex")
class MktoptClarabel(_Plugin):
    """Clarabel: convex programs, LP, QP, SOCP and exponential cones."""

    CONFIG = SolverConfig()
    solver = clarabel.NAME


@SolverFactory.register(name="mktopt_ipopt", doc="mktopt: IPOPT in this process, for any smooth program")
class MktoptIpopt(_Plugin):
    """IPOPT without a subprocess or files: any smooth program, to a local optimum where it is not convex."""

    CONFIG = SolverConfig()
    solver = ipopt.NAME


def _usable(name: str) -> bool:
    return bool(SOLVERS[name].available())


def _able(program: Program, first: str) -> list[str]:
    """The solvers that take the program's class, the first one first."""
    kind = program.problem_class
    return [first, *(name for name, item in SOLVERS.items() if name != first and kind in item.takes)]


def _common(name: str, config: Any, warn: bool) -> dict[str, Any]:
    """The options that Pyomo has for all solvers, as this one calls them; those that it lacks are left out."""
    found: dict[str, Any] = {}
    called = _CALLED.get(name, {"time_limit": "time_limit"})
    for option in ("time_limit", "threads", "rel_gap", "abs_gap"):
        value = config.get(option, None)
        value = value.value() if hasattr(value, "value") else value
        if value is None:
            continue
        if option in called:
            found[called[option]] = max(value, _SHORTEST) if option == "time_limit" else value
        elif warn:
            logger.warning("the option %s=%s is not used by the solver '%s'", option, value, name)
    return found


def _forget_threads() -> None:
    """Let HiGHS start anew with another number of threads: it keeps the first one of the process, and else stops."""
    import highspy

    highspy.Highs.resetGlobalScheduler(True)


def _without_unused(program: Program) -> tuple[Program, Array]:
    """(program, used (n,)), the variables in no row and not in the objective held at the value nearest to zero.

    For Pyomo such a variable is not in the model: its bounds or its domain must neither make the model infeasible nor
    make an LP a MILP.
    """
    used = np.zeros(program.n, dtype=bool)
    used[program.A.indices] = True
    used |= program.c != 0.0
    for part in (program.P, None if program.logs is None else program.logs.M):
        if part is not None:
            used[part.indices] = True
    if program.quadratics is not None:
        used[program.quadratics.first] = used[program.quadratics.second] = True
    if program.remainder is not None:
        columns = np.asarray(getattr(program.remainder, "columns", np.arange(program.n)))
        used[columns[columns >= 0]] = True
    if used.all():
        return program, used
    rest = np.clip(0.0, np.minimum(program.lower, program.upper), program.upper)
    rest = np.where(program.integer, np.ceil(rest), rest)
    return program.replace(
        lower=np.where(used, program.lower, rest),
        upper=np.where(used, program.upper, rest),
        integer=program.integer & used,
    ), used


def _deliver(results: Results, solution: Solution, config: Any) -> None:
    """Load the solution into the model, or say that there is none, as the config asks."""
    reason = f"{solution.solver} {solution.status}. {solution.message}".rstrip()
    if config.raise_exception_on_nonoptimal_result and (
        results.termination_condition is not CONVERGED or results.solution_status is not SolutionStatus.optimal
    ):
        raise NoOptimalSolutionError(f"{NoOptimalSolutionError.default_message} ({reason})")
    if config.load_solutions:
        if results.solution_status is SolutionStatus.noSolution:
            raise NoFeasibleSolutionError(f"{NoFeasibleSolutionError.default_message} ({reason})")
        results.solution_loader.load_solution()


@contextmanager
def _in_pyomos_words() -> Iterator[None]:
    """Our errors as those that a caller of Pyomo's solvers catches; the words stay."""
    try:
        yield
    except FormulationError as error:
        raise IncompatibleModelError(str(error)) from error
    except SolverError as error:
        raise PyomoSolverError(str(error)) from error


@contextmanager
def _timed(timer: HierarchicalTimer, step: str) -> Iterator[None]:
    timer.start(step)
    try:
        yield
    finally:
        timer.stop(step)


def _numbers(version: str) -> tuple[int, ...]:
    """The first dotted number in a version's text as a tuple: "highs 1.15.1" is (1, 15, 1)."""
    found = re.search(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
