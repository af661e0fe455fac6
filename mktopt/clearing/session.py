"""`MarketSession` (public as `mktopt.Session`): a market compiled once and cleared again and again with other data.

    session = mktopt.Session(mktopt.build("surplus", network, orders, parametric=True))
    session.set("ask_price", array)            # in the sequence of session.names["ask_price"]
    cleared = session.solve()                  # arrays: dispatch_kw, prices, flows_kw, welfare
    session.clearing()                         # the same as a full `Clearing`, with tables and certificate

What can be set, and its units, is said in `mktopt.formulations.changing`. `update(orders=..., network=...)` sets it all
from validated tables, which takes milliseconds where `set` takes microseconds. Everything else is structure.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mktopt.clearing.diagnosis import infeasible, unbounded
from mktopt.clearing.present import (
    Layout,
    Monotone,
    changed_network,
    changed_orders,
    order_values,
    rating_values,
    refuse_other_market,
    refuse_other_network,
)
from mktopt.clearing.result import Clearing, FloatArray
from mktopt.clearing.ties import Ties
from mktopt.errors import FormulationError, InfeasibleError, MktoptError, SolverError, UnboundedError
from mktopt.formulations.changing import is_parametric
from mktopt.formulations.market import declaration_of, own_rows, with_network
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.solvers import compile, solve_fixed
from mktopt.solvers import solve as solve_program
from mktopt.solvers.program import Program
from mktopt.solvers.sessions.session import Answer, Session
from mktopt.solvers.solution import Solution, Status, Stopped

# A clearing's certificate is asked to hold within 1e-6; an answer closer to that than this is sought again for it.
_CLOSE = 1e-7


class Cleared:
    """One clearing of a session, as arrays; each is read from the solution when first asked for.

    solution: what the solver has (of the program with its all-or-nothing decisions fixed, where there are any);
    status: why the solver stopped, and what it has. Without an answer every array is NaN.
    """

    solution: Solution
    _first: Solution
    _layout: Layout
    _ties: Any

    def __init__(self, layout: Layout, ties: tuple[Ties, Any] | None, solution: Solution, first: Solution) -> None:
        self.__dict__.update(solution=solution, _first=first, _layout=layout, _ties=ties)

    @property
    def status(self) -> Status:
        """Why the solver stopped, and what it has."""
        return self._first.status

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a cleared market does not change; solve again")

    @property
    def dispatch_kw(self) -> FloatArray:
        """Accepted kW of every order, in the sequence of `orders.orders`, shape (rows,)."""
        known = self.__dict__.get("_dispatch")
        if known is None:
            known = self.__dict__["_dispatch"] = self._layout.dispatch(self.solution.x, self._ties)
        return known

    @property
    def prices(self) -> FloatArray:
        """The price of every bus and period [$/kWh], shape (buses, periods); NaN for a lone bus without orders."""
        known = self.__dict__.get("_prices")
        if known is None:
            known = self.__dict__["_prices"] = self._layout.prices(self.solution.row_dual)
        return known

    @property
    def flows_kw(self) -> FloatArray:
        """The flow of every branch in service and period [kW], shape (branches, periods); no rows without wires."""
        return self._layout.flows(self.solution.x)

    @property
    def welfare(self) -> float:
        """Value of accepted bids minus cost of accepted offers, over all hours [$]."""
        return self.solution.objective

    def __repr__(self) -> str:
        return f"Cleared(welfare={self.welfare:.6g} $, {self.status})"


class _Infeasible(InfeasibleError):
    """Its report is made when somebody reads it."""

    def __init__(self, message: str, session: MarketSession) -> None:
        super().__init__(message)
        self._session = session

    @property
    def report(self) -> Any:
        known = self.__dict__.get("_report")
        if known is None and self._session is not None:
            known = self.__dict__["_report"] = self._session._diagnosis()
        return known

    @report.setter
    def report(self, value: Any) -> None:
        self.__dict__["_report"] = value

    def __reduce__(self) -> Any:
        return InfeasibleError, (str(self), self.report)


class MarketSession:
    """A market cleared again and again with other prices, slopes, widths, firm demands or ratings.

    model: made by `mktopt.build(..., parametric=True)`; it is compiled once and never written to. solver: a name of
    `mktopt.SOLVERS`, None for the one that suits the problem class; solver_options: its own. Raises FormulationError
    for a model that was not built parametric, or whose Params enter otherwise than affinely.

    A session can be pickled and works in another process, if the functions of `extra` and the flow can (functions at
    the top level of a module; no lambdas).
    """

    def __init__(
        self, model: Any, solver: str | None = None, solver_options: Mapping[str, Any] | None = None
    ) -> None:
        declaration = declaration_of(model)
        if declaration.recipe is None or not is_parametric(model):
            raise FormulationError(
                "this model was not built for a session: its data are numbers; build it with"
                " mktopt.build(mechanism, network, orders, parametric=True)"
            )
        self._session = Session(model, solver, solver_options)
        self._recipe, self._network, self._orders = declaration.recipe, declaration.network, declaration.orders
        self._built = declaration.network  # flows choose the units of their variables by its ratings and loads
        program = self._session.parametric.program
        self._layout = Layout(model, declaration, program)
        self._ties = Ties(declaration.orders, self._layout.touched(model, own_rows(model)))
        self._monotone = Monotone(self._layout, self._session)
        self._last: tuple[Solution, Solution, FloatArray] | None = None

    # -- data ---------------------------------------------------------------------------------------------------

    @property
    def names(self) -> dict[str, list[Any]]:
        """What can be set, each with the keys of its index in sequence."""
        return self._session.names

    @property
    def solver(self) -> str:
        """The name of the solver."""
        return self._session.solver

    @property
    def statistics(self) -> dict[str, int]:
        """How many times it solved, and how many of these fell back to solving the program anew."""
        return dict(self._session.statistics)

    def get(self, name: str) -> FloatArray:
        """The present values of a parameter, in the sequence of `names[name]`."""
        return self._session.get(name)

    def set(self, name: str, values: Any) -> None:
        """Gives a parameter new values: an array in the sequence of `names[name]`, a number for all, or {key: number}.

        Raises UnknownNameError and FormulationError, naming parameter, key and value; see `mktopt.solvers.Session`.
        """
        self._session.set(name, values)

    def update(self, orders: Orders | None = None, network: Network | None = None) -> None:
        """Sets everything from new tables: the comfortable way, some milliseconds.

        orders: the same orders with the same segments at the same buses, with other prices, widths and minima; network:
        the same grid with other ratings. Raises FormulationError, naming what differs, for anything else, before
        anything is set.
        """
        new: dict[str, FloatArray] = {}
        grid = self._network if network is None else network
        if network is not None:
            refuse_other_network(self._network, network)
            new |= rating_values(self.names, network)
        if orders is not None:
            orders.check(grid)
            refuse_other_market(self._orders, orders, self._layout.at)
            new |= order_values(self._layout.at, orders)
        before = {name: self.get(name) for name in new if name in self.names}
        try:
            for name in before:
                self.set(name, new[name])
        except MktoptError:
            for name, values in before.items():
                self.set(name, values)
            raise
        self._network, self._orders = grid, self._orders if orders is None else orders

    # -- clearing -----------------------------------------------------------------------------------------------

    def solve(self, check: bool = True) -> Cleared:
        """Clears the market with the present data.

        Raises InfeasibleError (whose `.report` is made when it is read), UnboundedError and SolverError; with
        check=False it returns a record whose `status` says so and whose arrays are NaN. Raises FormulationError where
        widths or limits cross, or an order's price is not monotone along its segments.
        """
        session = self._session
        if session.dirty & self._monotone.dirty:
            self._monotone.check()
        first = solution = session.solve()
        self._last = None
        if solution.__class__ is not Answer and not solution.status.ok:
            if check:
                raise self._error(solution)
        elif self._layout.integers:
            solution = solve_fixed(session.program, solution)
        self._last = solution, first, first.theta if isinstance(first, Answer) else session.theta.copy()
        ties = (self._ties, self._layout.data(session)) if self._ties else None
        return Cleared(self._layout, ties, solution, first)

    def clearing(self) -> Clearing:
        """The last `solve` as a full `Clearing`: tables, settlement, certificate.

        The certificate is evaluated from a model built anew from the declaration with the data of that `solve`, so that
        the user's model is never written to; its arrays must be those that the session solved. Raises MktoptError where
        nothing was solved or they differ.
        """
        from mktopt.clearing.solve import tabulate

        if self._last is None:
            raise MktoptError("the session has not solved yet; call solve() first")
        solution, first, theta = self._last
        if not solution.status.ok:
            raise self._error(first)
        began = time.perf_counter()
        model, program = self._rebuilt(theta)
        compiled = time.perf_counter()
        if solution.residuals is not None and not solution.residuals.ok(_CLOSE):
            first = solution = solve_program(program, None)
            solution = solve_fixed(program, solution) if self._layout.integers else solution
        solved = time.perf_counter()
        options = dict(self._session.options)
        found = tabulate(model, declaration_of(model), program, solution, first, options)
        seconds = {"compile": compiled - began, "solve": solved - compiled, "tabulate": time.perf_counter() - solved}
        found.seconds.update(seconds)  # type: ignore[attr-defined]
        return found

    def _rebuilt(self, theta: FloatArray) -> tuple[Any, Program]:
        """(model, program): the market declared anew with the data θ, and its arrays, equal to the session's."""
        parts = self._session.split(theta)
        orders = changed_orders(self._layout.at, self._orders, parts)
        network = changed_network(self._network, parts, self.names)
        model = self._recipe(self._built, orders)
        for name, values in self._session.split(theta, whole_names=True).items():
            component = model.find_component(name)
            if component is None or len(component) != len(values):
                raise _other(f"parameter '{name}' is not there, or has another index")
            component.store_values(dict(zip(component, values.tolist(), strict=True)))
        program = compile(model)
        refuse_differing(program, self._session.parametric.at(theta))
        self._refuse_other_rows(model, network, orders)
        return with_network(model, network), program

    def _refuse_other_rows(self, model: Any, network: Network, orders: Orders) -> None:
        """Raises MktoptError where rows of the user's own would be others with the present ratings and loads."""
        was, now = (grid.lines["rating_kva"].to_numpy() for grid in (self._built, network))
        if not (own := own_rows(model)) or (self._network is self._built and np.allclose(was, now, rtol=1e-9, atol=0)):
            return
        if [str(row.expr) for row in own] != [str(row.expr) for row in own_rows(self._recipe(network, orders))]:
            raise MktoptError(
                "a constraint of `extra` reads what has changed in the network since the session was made, which solves"
                " it with the numbers of then; make a new session"
            )

    def _error(self, solution: Solution) -> MktoptError:
        if solution.status.stopped is Stopped.INFEASIBLE:
            text = "the market is infeasible with the session's present data: no dispatch satisfies every limit"
            return _Infeasible(f"{text}; the error's .report says what conflicts and what would cure it", self)
        if solution.status.stopped is Stopped.UNBOUNDED:
            model, program = self._rebuilt(self._session.theta.copy())
            error: UnboundedError = unbounded(model, program)
            return error
        return SolverError(f"{solution.solver} did not clear the market ({solution.status}): {solution.message}")

    def _diagnosis(self) -> Any:
        model, program = self._rebuilt(self._session.theta.copy())
        return infeasible(declaration_of(model), model, program).report

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self._recipe)
        except Exception as error:
            raise FormulationError(
                f"this session cannot go to another process, since its market cannot be built there ({error}): give"
                " functions of `extra` and flows of your own a name at the top level of a module"
            ) from error
        return {name: value for name, value in self.__dict__.items() if name != "_monotone"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._monotone = Monotone(self._layout, self._session)


def refuse_differing(rebuilt: Program, session: Program) -> None:
    """Raises MktoptError unless both programs have the same columns, rows and numbers."""
    if rebuilt.variable_names() != session.variable_names() or rebuilt.row_names() != session.row_names():
        raise _other("its variables or constraints are others")
    for name in ("c", "row_lower", "row_upper", "lower", "upper"):
        one, other = getattr(rebuilt, name), getattr(session, name)
        apart = ~np.isclose(one, other, rtol=1e-9, atol=1e-12 * _size(other))
        if apart.any():
            k = int(apart.argmax())
            raise _other(f"'{name}' of number {k} is {one[k]:g} there and {other[k]:g} in the session")
    for name in ("A", "P"):
        one, other = getattr(rebuilt, name), getattr(session, name)
        if one is None or other is None:
            difference = 0.0 if one is other else max(_size(part.data) for part in (one, other) if part is not None)
        else:
            difference = float(abs(one - other).max()) if min(one.shape) else 0.0
        if difference > 1e-9 * max(_size(other.data) if other is not None else 0.0, 1e-300):
            raise _other(f"coefficients of '{name}' differ by {difference:g}")


def _size(values: FloatArray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))


def _other(what: str) -> MktoptError:
    return MktoptError(
        f"the market built anew from its declaration is not the one that the session solved: {what}. A constraint that"
        " was added after mktopt.build is not in the declaration; pass it as extra="
    )
