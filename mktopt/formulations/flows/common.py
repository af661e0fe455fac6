"""What flows share: the record `Flow`, branch variables with ratings as bounds, and rows built without walking."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.changing import is_parametric, ratings, set_bounds
from mktopt.formulations.orders import Injections
from mktopt.networks.network import FloatArray, Network

FlowBuilder = Callable[..., None]


@dataclass(frozen=True)
class Flow:
    """How the wires behave: `build(block, network, injection, **options)` fills a Pyomo block.

    The block must have `balance[bus, period]` (injection of the orders = what the grid takes) and, where branches
    have flows, `p_kw[branch, period]`. radial_only: a meshed network is refused.
    """

    name: str
    build: FlowBuilder
    summary: str = ""
    radial_only: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, **options: Any) -> Flow:
        """This flow with `options` set; raises UnknownNameError for an option that it does not have,
        FormulationError for a value other than true or false of an option that is one of them."""
        known = dict(list(inspect.signature(self.build).parameters.items())[3:])
        for option, value in options.items():
            if option not in known:
                raise unknown_name(f"option of flow '{self.name}'", option, known)
            if isinstance(known[option].default, bool) and not isinstance(value, (bool, np.bool_)):
                raise FormulationError(f"option '{option}' of flow '{self.name}' takes true or false, not {value!r}")
        return Flow(self.name, self.build, self.summary, self.radial_only, {**self.options, **options})

    def fill(self, block: Any, network: Network, injection: Injections) -> None:
        """Fills `block`; raises FormulationError where the flow needs a radial grid and this one is meshed."""
        if self.radial_only:
            network.topology.refuse_loops(f"flow '{self.name}'")
        self.build(block, network, injection, **self.options)
        if not isinstance(block.component("balance"), pyo.Constraint):
            raise FormulationError(
                f"flow '{self.name}' declared no `balance` constraint; "
                "it needs balance[bus, period]: injection of the orders = what the grid takes"
            )


def index_sets(block: Any, network: Network) -> None:
    """Declares `buses`, `branches` and `periods` on `block`."""
    block.buses = pyo.Set(initialize=network.buses["bus"].tolist())
    block.branches = pyo.Set(initialize=network.lines["branch"].tolist())
    block.periods = pyo.Set(initialize=list(network.periods))


def branch_flows(block: Any, network: Network, reactance: FloatArray | None = None) -> None:
    """Declares `p_kw[branch, period]`, positive from `from_bus` to `to_bus`, with |p_kw| <= rating_kva as bounds.

    With the reactance x of each branch [rad/kW] the limits of the voltage angle across it bind too:
    theta_i - theta_j = x f + shift. In a parametric model the ratings are Params and these limits rows of their own,
    `angle_limit[branch, period]`, since the lesser of two limits is not affine in either.
    """
    block.p_kw = pyo.Var(block.branches, block.periods)
    if is_parametric(block):
        rating = ratings(block, network)
        set_bounds(block.p_kw.values(), -1.0 * rating, rating)
        if reactance is not None:
            _angle_limits(block, network, reactance)
        return
    periods = len(network.hours)
    lower, upper = (np.repeat(limit, periods) for limit in flow_limits(network, reactance))
    set_bounds(block.p_kw.values(), lower, upper)


def _angle_limits(block: Any, network: Network, reactance: FloatArray) -> None:
    lower, upper = angle_limits(network, reactance)
    limited = np.flatnonzero(np.isfinite(lower) | np.isfinite(upper))
    names = network.lines["branch"].to_numpy()
    ends = {
        names[k]: tuple(end if np.isfinite(end) else None for end in (lower[k].item(), upper[k].item()))
        for k in limited
    }

    def rule(block: Any, branch: str, t: int) -> Any:
        low, high = ends[branch]
        return (low, block.p_kw[branch, t], high)

    block.angle_limit = pyo.Constraint(list(ends), block.periods, rule=rule)


def flow_limits(network: Network, reactance: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Least and greatest flow of each branch in service [kW], each of shape (branches,)."""
    rating = network.lines["rating_kva"].to_numpy()
    if reactance is None:
        return -rating, rating
    lower, upper = angle_limits(network, reactance)
    return np.maximum(lower, -rating), np.minimum(upper, rating)


def angle_limits(network: Network, reactance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least and greatest flow that the angle limits of each branch in service allow [kW], infinite where none."""
    lines = network.lines
    upper = np.full(len(lines), np.inf)
    lower = -upper
    low, high = lines["angle_min_deg"].to_numpy(), lines["angle_max_deg"].to_numpy()
    if low.max(initial=-360) <= -360 and high.min(initial=360) >= 360:
        return lower, upper
    x, shift = reactance, lines["shift_deg"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.sort(np.radians(np.array([low - shift, high - shift])) / np.where(x == 0, np.nan, x), axis=0)
    lower = np.where((low > -360) & (x != 0), ends[0], lower)
    upper = np.where((high < 360) & (x != 0), ends[1], upper)
    return lower, upper


def nodal_balance(block: Any, network: Network, injection: Injections) -> None:
    """Declares Kirchhoff's current law, `balance[b, t]`: p_b = sum_{l from b} f_l - sum_{l to b} f_l."""
    grid_balance(block, network, injection)


def grid_balance(block: Any, network: Network, injection: Injections, losses: list[Any] | None = None) -> None:
    """The same where branches lose power, half of it at either end: `losses`, variables in the sequence of `p_kw`."""
    periods = len(network.hours)
    flows = list(block.p_kw.values())
    incidence = network.topology.incidence.tocsr()
    starts, branches, signs = incidence.indptr.tolist(), incidence.indices.tolist(), incidence.data.tolist()
    index = network.bus_index

    def rule(_: Any, bus: str, t: int) -> Any:
        b = index[bus]
        coefficients, variables, constant = injection.terms(b, t)
        span = range(starts[b], starts[b + 1])
        places = [branches[k] * periods + t for k in span]
        lost = [] if losses is None else [losses[place] for place in places]
        body = LinearExpression(
            constant=constant,
            linear_coefs=coefficients + [-signs[k] for k in span] + [-0.5] * len(lost),
            linear_vars=variables + [flows[place] for place in places] + lost,
        )
        return _zero_row(body)

    block.balance = pyo.Constraint(block.buses, block.periods, rule=rule)


def explicit_injection(block: Any, network: Network, injection: Injections) -> None:
    """Declares `injection_kw[b, t]` and `balance[b, t]`: what the orders put into bus b is `injection_kw[b, t]`."""
    block.injection_kw = pyo.Var(block.buses, block.periods)
    periods = len(network.hours)
    variables_kw = list(block.injection_kw.values())
    index = network.bus_index

    def rule(_: Any, bus: str, t: int) -> Any:
        b = index[bus]
        coefficients, variables, constant = injection.terms(b, t)
        body = LinearExpression(
            constant=constant,
            linear_coefs=[*coefficients, -1.0],
            linear_vars=[*variables, variables_kw[b * periods + t]],
        )
        return _zero_row(body)

    block.balance = pyo.Constraint(block.buses, block.periods, rule=rule)


def _zero_row(body: LinearExpression) -> Any:
    """`body == 0`; a lone bus without orders has nothing to state, unless a shunt there draws power from nowhere."""
    if not body.linear_vars and body.constant == 0:
        return pyo.Constraint.Feasible
    return (body, 0.0)
