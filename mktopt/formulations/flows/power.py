"""What the flows with reactive power and voltages share: coefficients, balances, voltages, apparent-power limits.

Branch l = (i, j) is a pi section on the side of bus i, then an ideal ratio n. With P, Q measured at the from-bus and
h = half of the charging [kvar at 1 p.u.],

    Q' = Q + h v2_i                    enters z = r + jx
    P - r l,   Q' - x l + (h / n^2) v2_j      arrive at bus j            (l: squared current; 0 in the linear flow)

v2: squared voltage [p.u.]; r, x per kW; l in p.u. of 1 kVA. Balances of bus b, with shunts g, b [kW, kvar at 1 p.u.]:

    p_b - g v2_b + sum_{l to b} (P - r l) - sum_{l from b} P = 0                                `balance`
    q_b + b v2_b + sum_{l to b} (Q' - x l + h v2_b / n^2) - sum_{l from b} Q = 0                `balance_q`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression
from pyomo.core.expr.numeric_expr import MonomialTermExpression, ProductExpression, SumExpression

from mktopt.errors import DataError, Fault
from mktopt.formulations.changing import numbers, rated, ratings, set_bounds
from mktopt.formulations.orders import Injections
from mktopt.formulations.reactive import ReactiveInjections
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network

Objects = npt.NDArray[np.object_]
Affine = list[tuple[float, Any]]
# A term of many rows at once: (row, coefficient, variable), arrays of one length.
Part = tuple[npt.NDArray[np.int64], FloatArray, Objects]


@dataclass(frozen=True, eq=False)
class Lines:
    """The branches in service as coefficients, arrays of shape (branches,), and the sequence of buses and periods.

    r, x: per kW and kvar; h: half of the charging [kvar at 1 p.u.]; n2: squared ratio; start, end: positions of buses.
    """

    network: Network

    @cached_property
    def r(self) -> FloatArray:
        """Series resistance [p.u. per kW]."""
        return units.resistance_pu_per_kw(self.network)

    @cached_property
    def x(self) -> FloatArray:
        """Series reactance [p.u. per kvar]."""
        return units.reactance_pu_per_kvar(self.network)

    @cached_property
    def h(self) -> FloatArray:
        """Half of the charging [kvar at 1 p.u.]."""
        return 0.5 * units.charging_kvar(self.network)

    @cached_property
    def n2(self) -> FloatArray:
        """Squared ratio."""
        return np.asarray(self.network.lines["ratio"].to_numpy() ** 2)

    @property
    def periods(self) -> int:
        """Number of periods."""
        return len(self.network.hours)

    def rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions in bus-by-bus (or branch-by-branch) sequence of the given ones, in every period."""
        return (positions[:, None] * self.periods + np.arange(self.periods)).ravel()

    def each(self, values: FloatArray) -> FloatArray:
        """`values`, one per bus or branch, for every period."""
        return np.repeat(values, self.periods)


def entries(component: Any) -> Objects:
    """The members of an indexed variable, in its sequence."""
    return np.array([*component.values(), None], dtype=object)[:-1]


def voltages(block: Any, network: Network, free_source: bool = False) -> None:
    """Declares `v2[bus, period]` with its limits as bounds; the source's is fixed, unless `free_source`."""
    block.v2 = pyo.Var(block.buses, block.periods)
    repeat, buses = len(network.hours), network.buses
    low, high = (np.repeat(buses[name].to_numpy(float) ** 2, repeat) for name in ("v_min_pu", "v_max_pu"))
    set_bounds(block.v2.values(), low, high)
    start = network.source_v_pu**2 * np.repeat(network.topology.voltage_gain, repeat)
    for variable, value in zip(block.v2.values(), np.clip(start, low, high).tolist(), strict=True):
        variable.set_value(value, skip_validation=True)
    if not free_source:
        fixed = source_voltage(network)
        for t in network.periods:
            block.v2[network.source_bus, t].fix(fixed**2)


def source_voltage(network: Network) -> float:
    """The voltage that a source holds [p.u.]; raises DataError where it is outside the limits of the source's bus."""
    bus = network.buses.iloc[network.source_index]
    v, low, high = network.source_v_pu, float(bus["v_min_pu"]), float(bus["v_max_pu"])
    if low - 1e-9 <= v <= high + 1e-9:
        return v
    problem = f"the source bus {network.source_bus!r} would be held outside its own limits, {low:g} to {high:g} p.u."
    hint = "change source_v_pu, or v_min_pu and v_max_pu of that bus, or let the flow choose: free_source=True"
    raise DataError(Fault("network", problem, None, "source_v_pu", v, hint))


def declare_units(block: Any, sizes: Mapping[str, Any]) -> None:
    """Tells solvers of what size the values of the named variables are: the suffix `scaling_factor` of Pyomo.

    sizes: arrays with an entry per variable, or one number for all of them. No result depends on it.
    """
    block.scaling_factor = pyo.Suffix(direction=pyo.Suffix.LOCAL)
    for name, size in sizes.items():
        variables = list(block.component(name).values())
        factors = (1.0 / np.broadcast_to(np.asarray(size, dtype=float), len(variables))).tolist()
        block.scaling_factor.update(zip(variables, factors, strict=True))


class Grouped:
    """Terms of many linear rows, grouped by row once: `at(row)` gives (coefficients, variables)."""

    def __init__(self, count: int, parts: Sequence[Part]) -> None:
        row = np.concatenate([part[0] for part in parts])
        coefficient, variable = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
        used = np.flatnonzero(coefficient)
        sequence = used[np.argsort(row[used], kind="stable")]
        self._starts: list[int] = np.searchsorted(row[sequence], np.arange(count + 1)).tolist()
        self._coefficients: list[float] = coefficient[sequence].astype(float).tolist()
        self._variables: list[Any] = variable[sequence].tolist()

    def at(self, row: int) -> tuple[list[float], list[Any]]:
        """(coefficients, variables) of a row."""
        here = slice(self._starts[row], self._starts[row + 1])
        return self._coefficients[here], self._variables[here]


def balances(block: Any, lines: Lines, injection: Injections, arriving: tuple[Sequence[Part], Sequence[Part]]) -> None:
    """Declares `balance[b, t]` and `balance_q[b, t]`; arriving: what the branches bring to the buses, in kW and kvar.

    What leaves at the from-buses (`p_kw`, `q_kvar`) and the shunts are added here.
    """
    network, v2 = lines.network, entries(block.v2)
    reactive = ReactiveInjections(block, network, injection)
    every, start = lines.rows(np.arange(network.n_buses)), lines.rows(network.from_index)
    kw = [*arriving[0], (start, -np.ones(len(start)), entries(block.p_kw)), (every, -lines.each(network.shunt_kw), v2)]
    kvar = [
        *arriving[1],
        (start, -np.ones(len(start)), entries(block.q_kvar)),
        (every, lines.each(units.shunt_kvar(network)), v2),
    ]
    # The injections draw the shunts' power at 1 p.u. already.
    for name, terms, part, given in (
        ("balance", injection, kw, network.shunt_kw),
        ("balance_q", reactive, kvar, np.zeros(network.n_buses)),
    ):
        _balance(block, name, lines, terms, Grouped(len(every), part), given.tolist())


def _balance(block: Any, name: str, lines: Lines, terms: Any, grouped: Grouped, given: list[float]) -> None:
    index, periods = lines.network.bus_index, lines.periods

    def rule(_: Any, bus: str, t: int) -> Any:
        b = index[bus]
        coefficients, variables, constant = terms.terms(b, t)
        more, others = grouped.at(b * periods + t)
        if not variables and not others:
            return pyo.Constraint.Feasible if constant + given[b] == 0 else pyo.Constraint.Infeasible
        body = LinearExpression(
            constant=constant + given[b], linear_coefs=coefficients + more, linear_vars=variables + others
        )
        return (body, 0.0)

    block.add_component(name, pyo.Constraint(block.buses, block.periods, rule=rule))


def linear_rows(block: Any, name: str, grouped: Grouped, index: Any) -> None:
    """Declares `name[key]`, key in the Pyomo set `index`: the k-th row of `grouped` is zero, k being its position."""
    position = {key: k for k, key in enumerate(index)}

    def rule(_: Any, *key: Any) -> Any:
        coefficients, variables = grouped.at(position[key])
        return (LinearExpression(linear_coefs=coefficients, linear_vars=variables), 0.0)

    block.add_component(name, pyo.Constraint(index, rule=rule))


def drop_scale(lines: Lines) -> FloatArray:
    """What rows of voltage drops are multiplied by, so that 1 and 2 r, 2 x stay alike in size, shape (branches,)."""
    largest = 2.0 * np.maximum(lines.r, np.abs(lines.x))
    return np.asarray(np.exp2(np.round(-0.5 * np.log2(np.where(largest > 0, largest, 1.0)))))


def typical_kva(network: Network) -> float:
    """A power of the size that branches carry [kVA], a power of two."""
    return float(np.exp2(np.round(np.log2(np.median(units.branch_kva(network)))))) if network.n_branches else 1.0


def squared(terms: Affine, scale: float = 1.0) -> list[Any]:
    """The terms of scale (sum a x)^2 as Pyomo expressions."""
    found = []
    for k, (a, x) in enumerate(terms):
        found.append(ProductExpression((MonomialTermExpression((scale * a * a, x)), x)))
        for b, y in terms[k + 1 :]:
            found.append(ProductExpression((MonomialTermExpression((2.0 * scale * a * b, x)), y)))
    return found


Powers = Callable[[int], tuple[Affine, Affine]]


class End(NamedTuple):
    """Where power is limited: powers(k) gives (P, Q) there, lists of (coefficient, variable), of the k-th in
    branch-by-branch sequence of branches and periods; used: of which branches, bool (branches,); v2: the squared
    voltages there, of all branches and periods, where currents are limited."""

    powers: Powers
    used: npt.NDArray[np.bool_]
    v2: Objects | None = None


def apparent_power(
    block: Any, network: Network, ends: Mapping[str, End], sides: int | None = None, unit: float = 1.0
) -> None:
    """Declares per end `name[branch, period]`: P^2 + Q^2 <= rating^2, or <= rating^2 v2 where the end has voltages.

    Rows are divided by the square of `unit` [kVA].

    Branches without rating have no row. In a parametric model the rating is the Param `rating_kva2`, since it enters by
    its square. With `sides` (P, Q) stays in a regular polygon inscribed in the circle, `name[branch, period, side]`:
    cos(a_s) P + sin(a_s) Q <= rating_kva cos(pi / sides),   a_s = 2 pi s / sides.
    """
    keys, at = list(block.p_kw), rated(network)
    limit = dict(zip(at.tolist(), _limits(block, network, [keys[k] for k in at], at, sides), strict=True))
    for name, end in ends.items():
        chosen = at[np.repeat(end.used, len(network.hours))[at]].tolist()
        if not chosen:
            continue
        position = {keys[k]: k for k in chosen}
        whole = len(position) == len(keys)
        index = [block.p_kw.index_set() if whole else pyo.Set(initialize=list(position), dimen=2)]
        if sides is not None:
            index.append(range(sides))
            rule = _polygon(position, end.powers, limit, sides)
        else:
            rule = _circle(position, end, limit, unit**-2)
        block.add_component(name, pyo.Constraint(*index, rule=rule))


def end_limits(block: Any, lines: Lines, current_limits: bool, unit: float = 1.0) -> None:
    """`apparent_power` and `apparent_power_to` of flows whose powers at both ends are variables; a branch that changes
    nothing has one end. current_limits: the rating is one of current, rating_kva at 1 p.u.; unit: of `apparent_power`.
    """
    network = lines.network
    p, q, to_p, to_q = (entries(c) for c in (block.p_kw, block.q_kvar, block.to_kw, block.to_kvar))
    start = end = None
    if current_limits:
        v2 = entries(block.v2)
        start, end = v2[lines.rows(network.from_index)], v2[lines.rows(network.to_index)]
    every = np.ones(network.n_branches, dtype=bool)
    changes = (lines.r != 0) | (lines.x != 0) | (lines.h != 0) | ((lines.n2 != 1) & current_limits)

    def leaving(k: int) -> tuple[Affine, Affine]:
        return [(1.0, p[k])], [(1.0, q[k])]

    def arriving(k: int) -> tuple[Affine, Affine]:
        return [(1.0, to_p[k])], [(1.0, to_q[k])]

    ends = {"apparent_power": End(leaving, every, start), "apparent_power_to": End(arriving, changes, end)}
    apparent_power(block, network, ends, unit=unit)


def _limits(block: Any, network: Network, keys: list[Any], at: Any, sides: int | None) -> list[Any]:
    if sides is not None:
        return list(ratings(block, network)[at])
    rating = np.repeat(network.lines["rating_kva"].to_numpy(), len(network.hours))[at]
    return numbers(block, "rating_kva2", keys, rating**2)


def _circle(position: dict[Any, int], end: End, limit: dict[int, Any], scale: float) -> Any:
    def rule(_: Any, branch: str, t: int) -> Any:
        k = position[branch, t]
        p, q = end.powers(k)
        terms = squared(p, scale) + squared(q, scale)
        most = limit[k] * scale
        if end.v2 is None:
            return (None, SumExpression(terms), most)
        return (None, SumExpression([*terms, MonomialTermExpression((-most, end.v2[k]))]), 0.0)

    return rule


def _polygon(position: dict[Any, int], powers: Powers, limit: dict[int, Any], sides: int) -> Any:
    angles = 2.0 * np.pi * np.arange(sides) / sides
    cos, sin = (np.where(np.abs(f(angles)) < 1e-12, 0.0, f(angles)).tolist() for f in (np.cos, np.sin))
    shrink = float(np.cos(np.pi / sides))

    def rule(_: Any, branch: str, t: int, side: int) -> Any:
        k = position[branch, t]
        p, q = powers(k)
        weights = [cos[side] * a for a, _ in p] + [sin[side] * a for a, _ in q]
        body = LinearExpression(linear_coefs=weights, linear_vars=[v for _, v in p] + [v for _, v in q])
        return (None, body, shrink * limit[k])

    return rule
