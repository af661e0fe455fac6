"""`Session`: a program compiled once and solved again and again with other numbers, at the speed of its solver.

    session = Session(model)                 # a Pyomo model whose changing numbers are mutable Params
    session.set("price", array)              # in the sequence of the Param's index; the model is never written to
    solution = session.solve()

The Params are the parameters θ of the program. They enter its arrays affinely (`parametric.py`), so that new numbers
are one sparse product into arrays that the solver already holds. Structure is what a session does not change: rows and
columns, which limits are finite, which coefficients there are, and with them the problem class.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mktopt.errors import FormulationError, unknown_name
from mktopt.solvers.program import Array, Program
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.data import Backend, Changes, Doubt, Found, Margins, affine_of, without_pyomo
from mktopt.solvers.solution import Has, Residuals, Solution, Status, Stopped, residuals
from mktopt.solvers.table import SOLVERS, choose, solve

_OPTIMAL = Status(Stopped.OPTIMAL, Has.OPTIMAL)
_LIMITS = ("row_lower", "row_upper", "lower", "upper")


class Answer(Solution):
    """The solution of one `Session.solve`: arrays and objective at once, residuals and times when asked for.

    The session has already held its residuals below 1e-6; `residuals` evaluates them anew, in the program's own units.
    """

    status = _OPTIMAL
    message = "solved again with new data"

    def __init__(self, session: Session, found: Found, began: float) -> None:
        # A frozen dataclass sets field after field through object.__setattr__, which takes longer than all of this.
        self.__dict__.update(
            x=found.x,
            row_dual=found.row_dual,
            reduced_cost=found.reduced_cost,
            objective=found.objective + session.constant,
            _found=found,
            _session=session,
            _theta=session.theta.copy(),
            _seconds=time.perf_counter() - began,
        )

    @property
    def theta(self) -> Array:
        """The parameters that it belongs to (K,)."""
        return self.__dict__["_theta"]

    @property
    def residuals(self) -> Residuals | None:
        """How far the answer is from optimal."""
        known = self.__dict__.get("_residuals")
        if known is None:
            program = self.__dict__["_session"].parametric.at(self.theta)
            known = residuals(program, self.x, self.row_dual, self.reduced_cost)
            self.__dict__["_residuals"] = known
        return known

    @property
    def solver(self) -> str:
        """The name of the solver."""
        return self.__dict__["_session"].solver

    @property
    def version(self) -> str:
        """The version of the solver."""
        return self.__dict__["_session"].version

    @property
    def bound(self) -> float:
        """A bound on the objective, where variables are whole numbers."""
        return self.__dict__["_found"].bound

    @property
    def iterations(self) -> int:
        """How many the solver took; 0 where it was not asked."""
        return self.__dict__["_found"].iterations

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the whole `Session.solve`."""
        return dict.fromkeys(("solve", "total"), self.__dict__["_seconds"])

    def replace(self, **changes: Any) -> Solution:
        """An ordinary `Solution` with some fields changed."""
        return Solution(**{field.name: getattr(self, field.name) for field in fields(Solution)} | changes)

    def __reduce__(self) -> Any:
        return _restored, ({field.name: getattr(self, field.name) for field in fields(Solution)},)


def _restored(values: dict[str, Any]) -> Solution:
    return Solution(**values)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One Param: its keys, its values in θ (a view), what it enters, its least value, and where it is infinite."""

    name: str
    keys: list[Any]
    values: Array
    dirty: int
    least: float
    infinite: Array | None


class Session:
    """A program solved again and again with other values of its Params.

    model: a Pyomo model with mutable Params, or what `compile_parametric` made of one; solver: a name of the table,
    None for the choice by problem class; options: the solver's own. Raises FormulationError where a Param enters
    otherwise than affinely. A session can be pickled, and works in another process; it then knows names, but no Pyomo
    objects.

    statistics: how many times it solved, and how many times it fell back to solving the program anew.
    """

    def __init__(self, model: Any, solver: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        domains: dict[str, float] = {}
        parametric: Parametric = model
        if not all(hasattr(model, name) for name in ("program", "maps", "at")):
            from mktopt.solvers.reading.parametric import compile_parametric

            parametric = compile_parametric(model)
            domains = {name: _least(model, name) for name in parametric.index}
        self._model = model  # rows and variables know their names only as long as their model is there
        self.options: dict[str, Any] = dict(options or {})
        self._begin(parametric, np.array(parametric.theta, dtype=float), domains, solver)

    def _begin(self, parametric: Parametric, theta: Array, least: dict[str, float], solver: str | None) -> None:
        self.parametric, self.theta, self._least = parametric, theta, least
        program = parametric.program
        if solver is not None and solver not in SOLVERS:
            raise unknown_name("solver", solver, SOLVERS)
        self._asked = solver
        self.solver = choose(program).name if solver is None else solver
        self._margins = Margins(parametric)
        self._constant = affine_of(parametric, "constant")
        self.constant = float(self._constant.at(theta)[0])
        self._changes = Changes(parametric)
        self._may_cross = sum(bit for bit in self._changes.bits.values() if self._changes.touched(_LIMITS, bit))
        self._start_backend()
        self._parts = self._all_parts()
        self.statistics = {"solves": 0, "fallbacks": 0}

    def _start_backend(self, x: Array | None = None) -> None:
        self._backend: Backend = backend_for(self.parametric, self._changes, self.theta, self.solver, self.options, x)
        self.version = self._backend.version
        self._dirty = 0

    def _all_parts(self) -> dict[str, _Part]:
        parametric, names = self.parametric, _local_names(self.parametric.index)
        parts = {}
        for full, keys in parametric.index.items():
            here = slice(parametric.start[full], parametric.start[full] + len(keys))
            values = self.theta[here]
            infinite = None if np.isfinite(values).all() else ~np.isfinite(values)
            least = self._least.get(full, -np.inf)
            bit = self._changes.bits[full]
            parts[names[full]] = _Part(names[full], keys, values, bit, least, infinite)
        return parts

    # -- parameters -------------------------------------------------------------------------------------------

    @property
    def names(self) -> dict[str, list[Any]]:
        """The parameters that can be set, each with the keys of its index in sequence."""
        return {name: list(part.keys) for name, part in self._parts.items()}

    def get(self, name: str) -> Array:
        """The present values of a parameter, in the sequence of its index; raises UnknownNameError."""
        return self._part(name).values.copy()

    def set(self, name: str, values: Any) -> None:
        """Gives a parameter new values, for the next `solve`.

        values: an array in the sequence of its index, a number for all of them, or a mapping {key: number} for some.
        Raises UnknownNameError for a name or key that is not there, FormulationError for a wrong length, a value that
        is no number, lies outside the Param's domain, or would take a limit away or add one (a change of structure).
        """
        part = self._parts.get(name) or self._part(name)
        if values.__class__ is np.ndarray and values.dtype == np.float64:
            array = values
        elif isinstance(values, Mapping):
            array = self._merged(part, values)
        else:
            try:
                array = np.asarray(values, dtype=float)
            except (TypeError, ValueError) as error:
                raise FormulationError(f"parameter '{name}' takes numbers, not {values!r}") from error
        if array.shape != part.values.shape:
            if array.ndim:
                raise FormulationError(
                    f"parameter '{name}' has {len(part.keys)} values, one per key {_shown(part.keys)}, and an array of"
                    f" shape {array.shape} was given; see session.names['{name}'] for their sequence"
                )
            array = np.broadcast_to(array, part.values.shape)
        # Where one of them is not finite, nor is their sum.
        if part.infinite is not None or not math.isfinite(np.add.reduce(array)):
            self._refuse_infinite(part, array)
        if part.least > -np.inf and np.minimum.reduce(array, initial=np.inf) < part.least:
            worst = int(np.argmin(array))
            raise FormulationError(
                f"parameter '{name}' must be at least {part.least:g}, and {array.min():g} was given"
                f" for {part.keys[worst]!r}"
            )
        part.values[...] = array
        self._dirty |= part.dirty

    @property
    def dirty(self) -> int:
        """The parameters set since the last `solve`, a bit for each: see `mask`."""
        return self._dirty

    def mask(self, names: Iterable[str]) -> int:
        """The bits of those of the named parameters that there are."""
        return sum(self._parts[name].dirty for name in names if name in self._parts)

    def place(self, name: str) -> slice:
        """Where a parameter stands in θ."""
        part = self._part(name)
        full = next(full for full, short in _local_names(self.parametric.index).items() if short == name)
        start = self.parametric.start[full]
        return slice(start, start + len(part.keys))

    def split(self, theta: Array, whole_names: bool = False) -> dict[str, Array]:
        """θ by parameter, under the names of `names` or under those of the model's components."""
        names, parametric = _local_names(self.parametric.index), self.parametric
        return {
            full if whole_names else names[full]: theta[parametric.start[full] :][: len(keys)]
            for full, keys in parametric.index.items()
        }

    def _part(self, name: str) -> _Part:
        if name not in self._parts:
            raise unknown_name("parameter of the session", name, self._parts)
        return self._parts[name]

    def _merged(self, part: _Part, values: Mapping[Any, Any]) -> Array:
        array = part.values.copy()
        at = {key: position for position, key in enumerate(part.keys)}
        for key, value in values.items():
            if key not in at:
                raise unknown_name(f"key of parameter '{part.name}'", key, map(str, part.keys))
            try:
                array[at[key]] = value
            except (TypeError, ValueError) as error:
                raise FormulationError(f"parameter '{part.name}' takes a number for {key!r}, not {value!r}") from error
        return array

    def _refuse_infinite(self, part: _Part, array: Array) -> None:
        was = np.zeros(len(part.keys), dtype=bool) if part.infinite is None else part.infinite
        wrong = np.flatnonzero(np.isnan(array) | (np.isinf(array) != was) | (was & (array != part.values)))
        if not len(wrong):
            return
        k = int(wrong[0])
        key, value = part.keys[k], float(array[k])
        if np.isnan(value):
            raise FormulationError(f"parameter '{part.name}' was given NaN for {key!r}; it takes numbers")
        raise FormulationError(
            f"parameter '{part.name}' is {part.values[k]:g} for {key!r} and cannot become {value:g}: a limit that comes"
            " or goes is a change of structure; build a new model and session, or use a large number from the start"
        )

    # -- solving ----------------------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """The program at the present values, as arrays; slower than a `solve`."""
        return self.parametric.at(self.theta.copy())

    def solve(self) -> Solution:
        """The solution at the present values. Infeasible and unbounded are answers.

        Its residuals are held below 1e-6 before it is returned. Where the solver that has the arrays does not get
        there, the program is solved anew, and the message says so. Raises FormulationError where limits cross.
        """
        began = time.perf_counter()
        dirty = self._dirty
        if dirty & self._may_cross:
            self._refuse_crossing()
        if self._constant.M is not None:
            self.constant = float(self._constant.at(self.theta)[0])
        self.statistics["solves"] += 1
        found = self._backend.solve(self.theta, dirty)
        self._dirty = 0
        if isinstance(found, Found):
            if self.statistics["solves"] == 1 and not self._backend.fits(found.x):
                self._start_backend(found.x)
            return Answer(self, found, began)
        if isinstance(found, Doubt):
            answer = Answer(self, found.found, began)
            if answer.residuals is not None and answer.residuals.ok():
                return answer
            return self._anew(f"the residuals of {self.solver}'s answer do not support it ({answer.residuals})", began)
        if isinstance(found, Solution):
            return found
        return self._anew(found, began)

    def _anew(self, reason: str, began: float) -> Solution:
        """The ordinary way; then the solver starts over from these numbers, whose scale may be another."""
        self.statistics["fallbacks"] += 1
        solution = solve(self.program, self._asked, self.options)
        if solution.status.ok:
            self._start_backend(solution.x)
        seconds = {**solution.seconds, "total": time.perf_counter() - began}
        return solution.replace(message=f"{reason}, so it was solved anew; {solution.message}", seconds=seconds)

    def _refuse_crossing(self) -> None:
        place = self._margins.crossed(self.theta)
        if place is None:
            return
        program, m = self.parametric.program, self.parametric.program.m
        what = program.rows[place].name if place < m else program.variables[place - m].name
        given = ", ".join(self._named(k) for k in self._margins.culprits(place).tolist())
        raise FormulationError(
            f"the limits of '{what}' cross, lower above upper, with {given}; set values that leave room"
        )

    def _named(self, position: int) -> str:
        """A parameter with its key and value, by its position in θ."""
        names, start = _local_names(self.parametric.index), self.parametric.start
        full = max((name for name in start if start[name] <= position), key=start.__getitem__)
        key = self.parametric.index[full][position - start[full]]
        text = "" if key is None else str(list(key) if isinstance(key, tuple) else [key])
        return f"{names[full]}{text} = {self.theta[position]:g}"

    # -- other processes --------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "parametric": without_pyomo(self.parametric),
            "theta": self.theta,
            "least": self._least,
            "solver": self._asked,
            "options": self.options,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.options = state["options"]
        self._begin(state["parametric"], state["theta"], state["least"], state["solver"])


def backend_for(
    parametric: Parametric,
    changes: Changes,
    theta: Array,
    solver: str,
    options: Mapping[str, Any],
    x: Array | None = None,
) -> Backend:
    """The solver that keeps the arrays of a session, by name and problem class; x: an answer, for its scale."""
    from mktopt.solvers.sessions.clarabel import ClarabelSession
    from mktopt.solvers.sessions.cones import ConeSession, refused
    from mktopt.solvers.sessions.data import Anew
    from mktopt.solvers.sessions.highs import HighsSession
    from mktopt.solvers.sessions.ipopt import IpoptSession

    program, kind = parametric.program, parametric.program.problem_class
    if not program.n or program.empty_rows.any():  # what is false, or settled, without a solver
        return Anew(parametric, solver, options)
    if solver == ClarabelSession.name and kind in ClarabelSession.takes:
        return ClarabelSession(parametric, changes, theta, options, x)
    if solver == ConeSession.name and kind in ConeSession.takes and not refused(parametric):
        return ConeSession(parametric, changes, theta, options, x)
    if solver == HighsSession.name and kind in HighsSession.takes:
        return HighsSession(parametric, changes, theta, options)
    if solver == IpoptSession.name and kind in SOLVERS[solver].takes:
        return IpoptSession(parametric, options)
    return Anew(parametric, solver, options)


def _least(model: Any, name: str) -> float:
    """The least value that the domain of a Param allows."""
    low = model.find_component(name).domain.bounds()[0]
    return -np.inf if low is None else float(low)


def _local_names(names: Iterable[str]) -> dict[str, str]:
    """The last part of each component's name, the whole name where two share it."""
    names = list(names)
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def _shown(keys: list[Any]) -> str:
    text = ", ".join(map(repr, keys[:2]))
    return f"({text}, ...)" if len(keys) > 2 else f"({text})"
