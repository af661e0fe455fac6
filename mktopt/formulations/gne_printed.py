"""The two problems of the paper's DSO as printed: the step of Algorithm 2, and COP (10) with its budget in c(p).

**Algorithm 2**, p <- P_F(p + eta c), projects on

    F = { p : h(p) <= 0,   c'p >= c0 1'p }      with c frozen                                          `budget_step`

(the algorithm is printed with <=, (10) with >=; the latter says that the DSO does not lose money and is meant). As a
quadratic market: min 1/2 w p^2 - a p over the flow's set and `budget[t]`: sum_k (c_kt - c0_t) p_kt >= 0, with mutable
Params `post` a, `slope` w = 1/eta, and `margin` c - c0 1.

**COP (10)**: max 1'Theta(p)  s.t.  h(p) <= 0,  c'p >= c0 1'p, where c_k is what the agents' auction makes of p_k. So
the optimality of the agents is part of the constraints (a mathematical program with equilibrium constraints):

    max sum_t hours_t sum_i u_i(x_it)                                                                    `cop10`
    s.t. sum_{i of k} x_it = p_kt + G_k                                                                  `coupling`
         (<= where demand has an end, and c_kt times the rest <= relaxation: `spill`)
         c_kt >= u_i'(x_it)  and  x_it (c_kt - u_i'(x_it)) <= relaxation     `worth`, `idle`, each times b_i + x_it
         sum_k (c_kt - c0_t) p_kt >= 0                                                                   `budget`
         h(p) <= 0

which is not convex; `relaxation` is a mutable Param that is taken to zero along a path.
Reference: Das, Faqiry, Zarabie and Wu, Algorithm 2 and eq. (10); Scholtes, SIAM J. Optimization 11 (2001) for the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.numeric_expr import MonomialTermExpression, SumExpression

from mktopt.errors import DataError, Fault
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.gne import add_step_extra, declare_agents, declare_step, declare_trade, import_price, satiable
from mktopt.formulations.market import Declaration, Extra, declare
from mktopt.formulations.utilities import utility_expression
from mktopt.networks.network import Network
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]

BUILT_IN = ("log", "quadratic")


def budget_step(network: Network, prosumers: Prosumers, flow: Flow, extra: Sequence[Extra] = ()) -> Any:
    """The projection of Algorithm 2 as a ConcreteModel with mutable Params `post`, `slope` and `margin`.

    Components: `p_kw`, `import_kw`, `grid`, `budget[period]`; the import costs nothing here. Raises what
    `mktopt.formulations.gne.grid_step` raises.
    """
    with PauseGC():
        model = pyo.ConcreteModel("budget_step")
        orders = declare_trade(model, network, prosumers, flow)
        declare_step(model, network, prosumers, np.zeros(len(network.hours)))
        model.margin = pyo.Param(list(model.p_kw), initialize=0.0, mutable=True, within=pyo.Reals)

        def rule(model: Any, t: int) -> Any:
            terms = [MonomialTermExpression((model.margin[k, t], model.p_kw[k, t])) for k in model.aggregators]
            return (0.0, SumExpression(terms), None)

        model.budget = pyo.Constraint(model.periods, rule=rule)
    declare(model, Declaration("budget_step", network, orders, flow, prosumers=prosumers))
    add_step_extra(model, extra)
    return model


def cop10(
    network: Network,
    prosumers: Prosumers,
    flow: Flow,
    c0: float | Sequence[float] | FloatArray,
    extra: Sequence[Extra] = (),
    start: tuple[FloatArray, FloatArray, FloatArray, FloatArray] | None = None,
) -> Any:
    """COP (10) with c = c(p), a ConcreteModel with the mutable Param `relaxation` [$/h].

    Components: `consumption_kw[agent, period]`, `unit_cost[aggregator, period]`, `p_kw`, `import_kw`, `grid`,
    `coupling`, `worth`, `idle`, `budget` and the objective `utility`. start: where a local search may begin, as
    p_kw (T, K), import_kw (T,), unit costs (T, K), consumption (T, N). Raises DataError for a utility that is not built
    in, whose marginal is not written out here, and what `grid_step` raises.
    """
    own = ~np.isin(prosumers.table["utility"].to_numpy(), BUILT_IN)
    if own.any():
        agent = int(np.argmax(own))
        raise DataError(Fault(
            "prosumers", "COP (10) is written for logarithmic and quadratic utilities", prosumers.table["agent"][agent],
            "utility", prosumers.table["utility"][agent], "use another method of the auction",
        ))  # fmt: skip
    price = import_price(network, prosumers, c0)
    with PauseGC():
        model = pyo.ConcreteModel("cop10")
        orders = declare_trade(model, network, prosumers, flow)
        ends = dict(zip(model.aggregators, satiable(prosumers).tolist(), strict=True))
        declare_agents(model, network, prosumers, balanced=[k for k in ends if not ends[k]])
        model.unit_cost = pyo.Var(model.aggregators, model.periods, bounds=(0.0, None))
        model.relaxation = pyo.Param(initialize=1.0, mutable=True, within=pyo.NonNegativeReals)
        _answers(model, prosumers)
        _unused(model, [k for k in ends if ends[k]])
        _budget(model, price)
        _utility(model, network, prosumers)
        if start is not None:
            _begin(model, start)
    declare(model, Declaration("cop10", network, orders, flow, {"c0": tuple(price.tolist())}, prosumers=prosumers))
    add_step_extra(model, extra)
    return model


def _answers(model: Any, prosumers: Prosumers) -> None:
    """`worth` and `idle`: every agent consumes what is worth c_k to it, or nothing where even the first kWh is not."""
    names = prosumers.aggregators["aggregator"].to_numpy()[prosumers.group]
    a, b, log = prosumers.a.tolist(), prosumers.b.tolist(), prosumers.is_log.tolist()
    position = {agent: i for i, agent in enumerate(prosumers.table["agent"])}

    def excess(agent: str, t: int) -> Any:
        """c - u'(x) >= 0, for a log agent times b + x."""
        i = position[agent]
        x, c = model.consumption_kw[agent, t], model.unit_cost[names[i], t]
        return c * (1.0 + x / b[i]) - a[i] / b[i] if log[i] else c - a[i] + b[i] * x

    model.worth = pyo.Constraint(model.agents, model.periods, rule=lambda _, agent, t: (0.0, excess(agent, t), None))
    model.idle = pyo.Constraint(
        model.agents,
        model.periods,
        rule=lambda model, agent, t: model.consumption_kw[agent, t] * excess(agent, t) <= model.relaxation,
    )


def _unused(model: Any, aggregators: list[str]) -> None:
    """`spill`: where energy is left unused, which only satiated agents do, it costs nothing."""

    def rule(model: Any, k: str, t: int) -> Any:
        coupling = model.coupling[k, t]
        return model.unit_cost[k, t] * (coupling.upper - coupling.body) <= model.relaxation

    model.spill = pyo.Constraint(aggregators, model.periods, rule=rule)


def _budget(model: Any, price: FloatArray) -> None:
    def rule(model: Any, t: int) -> Any:
        powers = [model.p_kw[k, t] for k in model.aggregators]
        value = sum(model.unit_cost[k, t] * model.p_kw[k, t] for k in model.aggregators)
        cost = LinearExpression(linear_coefs=[-float(price[t])] * len(powers), linear_vars=powers)
        return (0.0, value + cost, None)

    model.budget = pyo.Constraint(model.periods, rule=rule)


def _utility(model: Any, network: Network, prosumers: Prosumers) -> None:
    variables, periods = list(model.consumption_kw.values()), len(network.hours)
    terms = [
        hours * utility_expression(prosumers, i, variables[i * periods + t])
        for t, hours in enumerate(network.hours.tolist())
        for i in range(len(prosumers))
    ]
    model.utility = pyo.Objective(expr=SumExpression(terms), sense=pyo.maximize)


def _begin(model: Any, start: tuple[FloatArray, FloatArray, FloatArray, FloatArray]) -> None:
    for name, values in zip(("p_kw", "import_kw", "unit_cost", "consumption_kw"), start, strict=True):
        component = model.component(name)
        for variable, value in zip(component.values(), np.asarray(values).T.ravel().tolist(), strict=True):
            variable.set_value(value, skip_validation=True)
