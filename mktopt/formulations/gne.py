"""Mechanism `gne`: the two-level energy auction of a DSO, its aggregators and their prosumers.

    max  sum_t hours_t ( sum_i u_i(x_it) - c0_t s_t )                       `welfare`
    s.t. sum_{i of k} x_it - G_k <= p_kt                                    `coupling`, multiplier hours_t c_kt
         x_it >= 0,   p_kt >= -G_k,   the flow's equations with -p_kt at the bus of k and s_t at the source

x_it: consumption of agent i [kW], `consumption_kw`; p_kt: what the DSO gives to aggregator k [kW], `p_kw`; s_t: import
at the source bus [kW], of either sign, `import_kw`; G_k: sum of its agents' generation [kW]; c0_t: price of the import
[$/kWh]; c_kt: unit cost of aggregator k [$/kWh]. Without losses s_t = sum_k p_kt, and this is

    max  sum_t hours_t ( sum_k Theta_k(p_kt) - c0_t 1'p_t )   s.t.  h(p) <= 0,

Theta_k(p_k) being the best that aggregator k makes of p_k, COP (7), with c_k = Theta_k'(p_k), eq. (11); with losses the
import pays for them too. A method of the auction knows c_k(p_k) alone and moves p by quadratic markets on that grid,

    min  sum_t hours_t ( sum_k (1/2 w_kt p_kt^2 - a_kt p_kt) + c0_t s_t )   over the same p, s and grid    `grid_step`

a_kt [$/kWh]: `post`; w_kt > 0 [$/kWh per kW]: `slope`, both mutable Params of one compiled model. Where demand has an
end and energy may be left unused, p in the bracket is `used_kw` <= p_kw; where several such aggregators share a surplus
that cannot leave, which of them keeps it is not unique, and worth nothing. With w = 1/eta and a = c + p/eta this is the
projection of p + eta (c - c0 1); with w = -c'(p) and a = c + w p each aggregator posts the tangent of its demand curve.
Its multipliers of `balance` are prices, which at the fixed point are the c_k.
Reference: Das, Faqiry, Zarabie and Wu, Game theoretic equilibrium analysis of energy auction in microgrid, eq.
(1)-(11), Algorithm 2; c0 in the objective in place of its budget constraint.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.numeric_expr import MonomialTermExpression, ProductExpression, SumExpression

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.changing import allow_changes
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.market import Declaration, Extra, add_extra, declare
from mktopt.formulations.orders import Injections, declare_orders
from mktopt.formulations.utilities import utility_expression
from mktopt.networks.network import Network
from mktopt.networks.orders import ORDER_COLUMNS, SEGMENT_COLUMNS, Orders
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

NAME = "gne"
# How the DSO looks for the equilibrium: of the default problem, or (the last two) of the paper's own ones.
METHODS = ("newton", "projection", "extragradient", "accelerated", "central", "paper", "cop10")
# Those of problems of their own, as printed: the multipliers of their steps are no prices of the default problem.
PRINTED = ("paper", "cop10")
# Natural residual asked for [$/kWh].
TOLERANCE = 1e-8
# How an aggregator answers p_k with c_k.
AGGREGATORS = ("exact", "damped", "paper")
# What only the central model has.
_CENTRAL_ONLY = ("consumption_kw", "coupling", "welfare", "agents")


def gne(
    network: Network,
    prosumers: Prosumers,
    flow: Flow,
    c0: float | Sequence[float] | None = None,
    scenario: str | None = None,
    method: str = "newton",
    aggregator: str = "exact",
    eta: float | None = None,
    tol: float = TOLERANCE,
    max_iterations: int | None = None,
    anticipating: bool = False,
) -> Any:
    """The auction of `prosumers` on `network` under `flow` as one declared model, a ConcreteModel.

    c0: price of the import [$/kWh], one number or one per period; scenario: a name in `prosumers.meta["c0"]` instead.
    The others say how the auction is run and do not change the model: method, one of METHODS; aggregator, one of
    AGGREGATORS; eta: a fixed step [kW per $/kWh] in place of the methods' own rule; tol: natural residual [$/kWh];
    max_iterations: None for the method's own number; anticipating: agents know that their bid moves the price.

    Components: `consumption_kw[agent, period]`, `p_kw[aggregator, period]`, `import_kw[period]`, `coupling[aggregator,
    period]`, `grid` (the flow's block) and the objective `welfare`. Raises UnknownNameError, DataError and
    FormulationError for a price, an option, prosumers or a network that cannot be taken.
    """
    price = import_price(network, prosumers, c0, scenario)
    options: dict[str, Any] = {"c0": tuple(price.tolist()), "scenario": scenario}
    options |= _checked(method, aggregator, eta, tol, max_iterations, anticipating)
    with PauseGC():
        model = pyo.ConcreteModel(NAME)
        orders = declare_trade(model, network, prosumers, flow)
        declare_agents(model, network, prosumers)
        _welfare(model, network, prosumers, price)
    declare(model, Declaration(NAME, network, orders, flow, options, prosumers=prosumers))
    return model


def grid_step(
    network: Network,
    prosumers: Prosumers,
    flow: Flow,
    c0: float | Sequence[float] | FloatArray,
    extra: Sequence[Extra] = (),
) -> Any:
    """The quadratic market by which every method moves, as a ConcreteModel with mutable Params `post` and `slope`.

    Components: `p_kw`, `import_kw`, `grid` and what `extra` adds, row by row those of `gne`; `post[aggregator, period]`
    [$/kWh], `slope[aggregator, period]` [$/kWh per kW], which start at zero and one. extra: functions as in
    `mktopt.build`, which may speak of these components. Raises what `gne` raises, and FormulationError for a function
    that asks for what only the central model has.
    """
    price = import_price(network, prosumers, c0)
    with PauseGC():
        model = pyo.ConcreteModel("grid_step")
        orders = declare_trade(model, network, prosumers, flow)
        declare_step(model, network, prosumers, price)
    declare(model, Declaration("grid_step", network, orders, flow, {"c0": tuple(price.tolist())}, prosumers=prosumers))
    add_step_extra(model, extra)
    return model


# -- data -------------------------------------------------------------------------------------------------------------


def import_price(
    network: Network,
    prosumers: Prosumers,
    c0: float | Sequence[float] | FloatArray | None = None,
    scenario: str | None = None,
) -> FloatArray:
    """The price of the import in every period [$/kWh], shape (T,): `c0`, or that of `scenario` in `prosumers.meta`.

    Raises UnknownNameError for an unknown scenario; FormulationError where neither or both are given, for a price that
    is no finite number, a wrong number of them, and one of zero or less where an agent's demand at it has no end.
    """
    known: Mapping[str, Any] = prosumers.meta.get("c0", {})
    if (c0 is None) == (scenario is None):
        named = f", or scenario= one of {', '.join(map(str, known))}" if known else ""
        what = "both c0 and scenario were" if c0 is not None else "neither c0 nor scenario was"
        raise FormulationError(f"{what} given; the auction needs the price of the import: c0= in $/kWh{named}")
    if scenario is not None and scenario not in known:
        raise unknown_name("scenario (of prosumers.meta['c0'])", scenario, known)
    given = c0 if scenario is None else known[scenario]
    periods = len(network.hours)
    try:
        price = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise FormulationError(f"c0 takes a price in $/kWh or one per period, not {given!r}") from None
    if price.shape not in ((), (1,), (periods,)):
        raise FormulationError(f"c0 has {price.size} prices, the network {periods} periods; give one, or one for each")
    price = np.broadcast_to(price, periods).copy()
    if not np.isfinite(price).all():
        raise FormulationError(f"c0 takes finite prices in $/kWh, not {given!r}")
    if price.min() <= 0:
        _refuse_endless(prosumers, float(price.min()))
    return price


def _refuse_endless(prosumers: Prosumers, price: float) -> None:
    """Energy that costs nothing or less is imported without end, unless demand has one and costs nothing."""
    demand = prosumers.demand_at(price)
    endless = np.flatnonzero(~np.isfinite(demand))
    if len(endless):
        agent = prosumers.table["agent"][int(endless[0])]
        raise FormulationError(
            f"c0 is {price:g} $/kWh, and agent {agent!r} wants energy without end at such a price; give c0 above zero"
        )
    if price < 0:
        raise FormulationError(
            f"c0 is {price:g} $/kWh: the DSO would be paid for every kWh that it imports, and import without end;"
            " give c0 of zero or more"
        )


def _checked(
    method: str, aggregator: str, eta: float | None, tol: float, max_iterations: int | None, anticipating: bool
) -> dict[str, Any]:
    """The options that say how the auction is run; raises UnknownNameError and FormulationError."""
    if method not in METHODS:
        raise unknown_name("method of the auction", method, METHODS)
    if aggregator not in AGGREGATORS:
        raise unknown_name("aggregator", aggregator, AGGREGATORS)
    sizes: tuple[tuple[str, Any, str], ...] = (("tol", tol, "$/kWh"), ("eta", eta, "kW per $/kWh"))
    for name, value, unit in sizes:
        if value is None and name == "eta":
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0.0 < float(value) < math.inf:
            raise FormulationError(f"{name} takes a finite number above zero [{unit}], not {value!r}")
    most: Any = max_iterations
    whole = isinstance(most, numbers.Integral) and not isinstance(most, bool)
    if most is not None and (not whole or most < 1):
        raise FormulationError(f"max_iterations takes a whole number of at least 1, not {most!r}")
    if not isinstance(anticipating, (bool, np.bool_)):
        raise FormulationError(f"anticipating takes true or false, not {anticipating!r}")
    return {
        "method": method,
        "aggregator": aggregator,
        "eta": None if eta is None else float(eta),
        "tol": float(tol),
        "max_iterations": max_iterations,
        "anticipating": bool(anticipating),
    }


# -- components -------------------------------------------------------------------------------------------------------


def declare_trade(model: Any, network: Network, prosumers: Prosumers, flow: Flow) -> Orders:
    """What all models of the auction share: `p_kw`, `import_kw` and the flow's block. Returns orders without rows.

    Raises DataError for agents at unknown buses and utilities of one's own that are not concave.
    """
    prosumers.check(network)
    prosumers.refuse_not_concave()
    none = [pd.DataFrame({column.name: [] for column in columns}) for columns in (ORDER_COLUMNS, SEGMENT_COLUMNS)]
    orders = Orders(none[0], none[1])
    allow_changes(model, False)
    declare_orders(model, network, orders)
    table = prosumers.aggregators
    model.aggregators = pyo.Set(initialize=table["aggregator"].tolist())
    lowest = dict(zip(table["aggregator"], (-table["generation_kw"]).tolist(), strict=True))
    model.p_kw = pyo.Var(model.aggregators, model.periods, bounds=lambda _, k, t: (lowest[k], None))
    model.import_kw = pyo.Var(model.periods)
    model.grid = pyo.Block()
    flow.fill(model.grid, network, Trades(model, network, orders, prosumers))
    return orders


class Trades(Injections):
    """Power that aggregators draw and the source gives, as the injections of the buses: see `Injections`."""

    def __init__(self, model: Any, network: Network, orders: Orders, prosumers: Prosumers) -> None:
        super().__init__(model, network, orders)
        periods = len(network.hours)
        variables = list(model.p_kw.values())
        self._more: dict[int, tuple[list[float], list[Any]]] = {}
        for k, bus in enumerate(network.bus_positions(prosumers.aggregators["bus"]).tolist()):
            for t in range(periods):
                self._add(bus * periods + t, -1.0, variables[k * periods + t])
        for t, variable in enumerate(model.import_kw.values()):
            self._add(network.source_index * periods + t, 1.0, variable)

    def _add(self, at: int, coefficient: float, variable: Any) -> None:
        coefficients, variables = self._more.setdefault(at, ([], []))
        coefficients.append(coefficient)
        variables.append(variable)

    def terms(self, bus: int, period: int) -> tuple[list[float], list[Any], float]:
        """(coefficients, variables, constant [kW]) of the injection at the bus in position `bus`."""
        coefficients, variables, constant = super().terms(bus, period)
        more = self._more.get(bus * self._periods + period)
        if more is None:
            return coefficients, variables, constant
        return coefficients + more[0], variables + more[1], constant


def declare_agents(model: Any, network: Network, prosumers: Prosumers, balanced: Collection[str] = ()) -> None:
    """`consumption_kw` and `coupling`, an equation for aggregators in `balanced`: they leave no energy unused."""
    model.agents = pyo.Set(initialize=prosumers.table["agent"].tolist())
    model.consumption_kw = pyo.Var(model.agents, model.periods, bounds=(0.0, None))
    periods = len(network.hours)
    x = np.array([*model.consumption_kw.values(), None], dtype=object)[:-1].reshape(-1, periods)
    table = prosumers.aggregators
    sequence = np.argsort(prosumers.group, kind="stable")
    ends = np.cumsum(table["agents"].to_numpy()).tolist()
    members = dict(zip(table["aggregator"], np.split(sequence, ends[:-1]), strict=True))
    generation = dict(zip(table["aggregator"], table["generation_kw"].tolist(), strict=True))

    def rule(model: Any, k: str, t: int) -> Any:
        rows = members[k]
        body = LinearExpression(
            linear_coefs=[*[1.0] * len(rows), -1.0], linear_vars=[*x[rows, t].tolist(), model.p_kw[k, t]]
        )
        return (generation[k] if k in balanced else None, body, generation[k])

    model.coupling = pyo.Constraint(model.aggregators, model.periods, rule=rule)


def _welfare(model: Any, network: Network, prosumers: Prosumers, price: FloatArray) -> None:
    variables = list(model.consumption_kw.values())
    periods = len(network.hours)
    terms: list[Any] = []
    for t, hours in enumerate(network.hours.tolist()):
        found = [utility_expression(prosumers, i, variables[i * periods + t]) for i in range(len(prosumers))]
        terms += found if hours == 1.0 else [hours * term for term in found]
    cost = LinearExpression(linear_coefs=(-network.hours * price).tolist(), linear_vars=list(model.import_kw.values()))
    model.welfare = pyo.Objective(expr=SumExpression([cost, *terms]), sense=pyo.maximize)


def satiable(prosumers: Prosumers) -> npt.NDArray[np.bool_]:
    """Which aggregators' demand has an end even where energy costs nothing, shape (K,)."""
    endless = ~np.isfinite(prosumers.demand_at(0.0))
    return np.bincount(prosumers.group, weights=endless, minlength=len(prosumers.aggregators)) == 0


def used_power(model: Any) -> list[Any]:
    """What each aggregator uses of what it is given, one variable per key of `p_kw`: `used_kw`, or `p_kw` itself."""
    used = dict(model.used_kw.items())
    return [used.get(key, given) for key, given in model.p_kw.items()]


def declare_step(model: Any, network: Network, prosumers: Prosumers, price: FloatArray) -> None:
    """`used_kw`, `post`, `slope` and the objective `cost` of a step whose import costs `price` (T,) [$/kWh]."""
    keys = list(model.p_kw)
    has_end = dict(zip(model.aggregators, satiable(prosumers).tolist(), strict=True))
    sated = [key for key in keys if has_end[key[0]]]
    model.used_kw = pyo.Var(sated, bounds=lambda model, *key: (model.p_kw[key].lb, None))
    model.unused = pyo.Constraint(sated, rule=lambda model, *key: model.used_kw[key] - model.p_kw[key] <= 0.0)
    model.post = pyo.Param(keys, initialize=0.0, mutable=True, within=pyo.Reals)
    model.slope = pyo.Param(keys, initialize=1.0, mutable=True, within=pyo.NonNegativeReals)
    hours: list[float] = network.hours.tolist()
    linear = LinearExpression(linear_coefs=(network.hours * price).tolist(), linear_vars=list(model.import_kw.values()))
    terms: list[Any] = [linear]
    for key, p in zip(keys, used_power(model), strict=True):
        length = hours[key[1]]
        square = ProductExpression((MonomialTermExpression((0.5 * length * model.slope[key], p)), p))
        terms += [square, MonomialTermExpression((-length * model.post[key], p))]
    model.cost = pyo.Objective(expr=SumExpression(terms), sense=pyo.minimize)


def add_step_extra(model: Any, extra: Sequence[Extra]) -> None:
    """Adds the user's constraints; what only the central model has is refused with the way out."""
    for function in extra:
        try:
            add_extra(model, [function])
        except AttributeError as error:
            missing = next((name for name in _CENTRAL_ONLY if f"'{name}'" in str(error)), None)
            if missing is None:
                raise
            label = getattr(function, "__name__", "extra")
            raise FormulationError(
                f"extra constraint '{label}' asks for model.{missing}, which the DSO's step does not have: aggregators"
                " keep their agents to themselves; speak of p_kw, import_kw and grid, or use method='central'"
            ) from error
