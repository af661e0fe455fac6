"""What may give way in a market without a feasible dispatch, and the least of it that cures the market.

    serve less             firm demand is shed, firm supply (or a shunt) spilled, with its reactive power      [kW]
    load branches more     ratings are exceeded, those after an outage too                                     [kVA]
    support the voltage    reactive power is injected or absorbed                                              [kvar]
    widen voltage limits   voltages leave their limits                                                         [p.u.]

Each cure is a program of its own: the sum of what gives is least while everything else holds. Rows of the user's own
may give in any of them. A rating S of apparent power becomes a variable w <= S that stands in every row of its branch,

    P^2 + Q^2 <= w^2,     cos(a) P + sin(a) Q <= w cos(pi / sides),     P^2 + Q^2 <= W v2 with W = w^2,

so that these rows stay what they are while w exceeds S; of limits of currents, and of squared voltages, it is the sum
of squares, divided by twice the limit, that is least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo

from mktopt.clearing.result import FloatArray
from mktopt.formulations.market import Declaration, own_rows
from mktopt.solvers.diagnosis.further import with_columns
from mktopt.solvers.diagnosis.infeasible import Infeasibility, diagnose
from mktopt.solvers.program import Program

IntArray = npt.NDArray[np.int64]

SHED, OVERLOAD = "serve less", "load branches more"
SUPPORT, WIDEN = "support the voltage", "widen voltage limits"
CURES = (SHED, OVERLOAD, SUPPORT, WIDEN)
NONE: IntArray = np.zeros(0, dtype=np.int64)
# How far voltages may leave their limits to be a cure [p.u.].
FARTHEST = 0.3
# Rows that limit apparent power or current at one end of a branch, as flows name them.
POWER_LIMITS = ("apparent_power", "apparent_power_to")


@dataclass(frozen=True, eq=False)
class Cure:
    """One cure: its name, what was found, and the branch and period behind the columns that are ratings.

    squared: whether such a column is the square of a rating.
    """

    name: str
    found: Infeasibility
    ratings: dict[int, tuple[str, int]]
    squared: bool = False

    @property
    def nothing_to_cure(self) -> bool:
        """Whether no limit has to give at all, so that a feasible point was found."""
        return self.found.curable and self.found.total < (1e-7 if self.name == WIDEN else 1e-5)


def cures(declaration: Declaration, model: Any, program: Program) -> Iterator[Cure]:
    """Every cure that the flow has something for; the first one with the limits in conflict."""
    own = [program.row(row) for row in own_rows(model)]
    yield Cure(SHED, _serve_less(declaration, model, program, own), {})
    yield _load_more(declaration, model, program, own)
    yield from _of_voltages(model, program, own)


def _of_voltages(model: Any, program: Program, own: list[int]) -> Iterator[Cure]:
    """Reactive power and voltage limits, where the flow has them."""
    grid = model.grid
    reactive = grid.component("balance_q")
    if reactive is not None:
        rows = np.array([*program.row_indices(reactive.values()), *own], dtype=np.int64)
        yield Cure(SUPPORT, diagnose(program, rows=rows, columns=NONE, conflict=False), {})
    squared = grid.component("v_pu") is None
    voltage = grid.component("v2") if squared else grid.component("v_pu")
    if voltage is not None:
        at = program.columns(voltage.values())
        at = at[at >= 0]
        most = _farthest(program, at, squared)
        found = diagnose(program, rows=np.array(own, dtype=np.int64), columns=at, conflict=False, column_most=most,
                         column_weights=0.5 if squared else 1.0)  # fmt: skip
        yield Cure(WIDEN, found, {})


def _farthest(program: Program, at: IntArray, squared: bool) -> FloatArray:
    """How far the limits of voltages may give, (2, columns): beyond, a cure is none."""
    low, high = program.lower[at], program.upper[at]
    if not squared:
        return np.full((2, len(at)), FARTHEST)
    down = low - np.maximum(np.sqrt(np.maximum(low, 0.0)) - FARTHEST, 0.0) ** 2
    up = FARTHEST**2 + 2.0 * FARTHEST * np.sqrt(np.maximum(high, 0.0))
    return np.array([np.where(np.isfinite(down), down, 0.0), np.where(np.isfinite(up), up, 0.0)])


def _serve_less(declaration: Declaration, model: Any, program: Program, own: list[int]) -> Infeasibility:
    """Minima of orders give, the rest of those that are all or nothing, and balances where shunts draw or give."""
    columns = program.columns(model.segment_kw.values())
    columns = columns[columns >= 0]
    columns = columns[program.lower[columns] > 0.0]
    must = program.lower[columns]
    keys = list(model.grid.balance)
    shunt = _shunt_kw(declaration, model, keys)
    drawn = np.flatnonzero(shunt)
    rows = program.row_indices(model.grid.balance[keys[k]] for k in drawn)
    whole, part = _parts_of_wholes(model, program)
    most = np.hstack([np.maximum([shunt[drawn], -shunt[drawn]], 0.0), part, np.full((2, len(own)), np.inf)])
    return diagnose(
        program,
        rows=np.r_[rows, whole, own].astype(np.int64),
        columns=columns,
        row_most=most,
        column_most=np.array([must, np.zeros(len(must))]),
    )


def _parts_of_wholes(model: Any, program: Program) -> tuple[IntArray, FloatArray]:
    """The rows x = width y of orders that are all or nothing, and what of the width may be left, (2, rows)."""
    rows, most = program.row_indices(model.accepted_whole.values()), []
    for row, key in zip(rows.tolist(), model.accepted_whole, strict=True):
        width = float(pyo.value(model.segment_kw[key].upper))
        column = program.column_of.get(id(model.segment_kw[key]), -1)
        positive = column < 0 or program.A[[row], [column]].item() > 0.0
        most.append((width, 0.0) if positive else (0.0, width))
    return rows, np.array(most, dtype=float).reshape(-1, 2).T


def _shunt_kw(declaration: Declaration, model: Any, keys: list[tuple[str, int]]) -> FloatArray:
    """The most that the shunts of a bus draw in a period [kW], shape (keys,)."""
    network, v2 = declaration.network, model.grid.component("v2")
    high = network.buses["v_max_pu"].to_numpy(float) ** 2
    found = []
    for bus, t in keys:
        b = network.bus_index[bus]
        fixed = v2 is not None and network.shunt_kw[b] and v2[bus, t].fixed
        size = 1.0 if v2 is None else float(v2[bus, t].value) if fixed else high[b]
        found.append(network.shunt_kw[b] * size if network.shunt_kw[b] else 0.0)
    return np.array(found)


def _load_more(declaration: Declaration, model: Any, program: Program, own: list[int]) -> Cure:
    grid, at = model.grid, NONE
    if grid.component("p_kw") is not None:
        at = program.columns(grid.p_kw.values())
        at = at[at >= 0]
    squared = bool(declaration.flow.options.get("current_limits"))
    wider, ratings = _rated(declaration, model, program, squared)
    columns = np.r_[at, np.array(list(ratings), dtype=np.int64)]
    weight = np.ones(len(columns))
    if squared:
        weight[len(at) :] = 0.5 / np.sqrt(wider.upper[columns[len(at) :]])
    secured = grid.component("security")
    rows = np.array([*own, *program.row_indices(() if secured is None else secured.values())], dtype=np.int64)
    found = diagnose(wider, rows=rows, columns=columns, column_weights=weight, conflict=False)
    return Cure(OVERLOAD, found, ratings, squared)


def _rated(
    declaration: Declaration, model: Any, program: Program, squared: bool
) -> tuple[Program, dict[int, tuple[str, int]]]:
    """The program with ratings of apparent power as columns, and the branch and period of each of them."""
    reader = _Ratings(declaration, model, program, squared)
    for name in POWER_LIMITS:
        component = model.grid.component(name)
        for key, row in component.items() if component is not None else ():
            reader.read(key, program.row(row))
    return reader.program_with_ratings(), {program.n + k: key for key, k in reader.group.items()}


def ratings_of(declaration: Declaration, model: Any) -> dict[tuple[str, int], float]:
    """The rating of every branch and period [kVA]: of a parametric model what its Params say."""
    network = declaration.network
    found: dict[tuple[str, int], float] = {}
    for branch, rating in zip(network.lines["branch"], network.lines["rating_kva"].tolist(), strict=True):
        found |= {(branch, t): float(rating) for t in network.periods}
    for name, power in (("rating_kva", 1.0), ("rating_kva2", 0.5)):
        component = model.grid.component(name)
        if component is not None:
            found |= {key: float(pyo.value(item)) ** power for key, item in component.items()}
    return found


class _Ratings:
    """Turns rows with a rating into rows with a variable in its place, one by one."""

    def __init__(self, declaration: Declaration, model: Any, program: Program, squared: bool) -> None:
        self.program, self.squared = program, squared
        self.rating = ratings_of(declaration, model)
        self.grid = model.grid
        self.sides = declaration.flow.options.get("sides")
        self.group: dict[tuple[str, int], int] = {}
        self.upper: list[float] = []
        self.linear: list[tuple[int, int, float]] = []
        self.products: list[tuple[int, int, int, float]] = []
        self.change: list[tuple[int, int, float]] = []
        self.limits = program.row_upper.copy()
        components = [self.grid.component(name) for name in ("p_kw", "to_kw")]
        powers = [item for component in components if component is not None for item in component.values()]
        self.powers = {program.column_of.get(id(item), -1) for item in powers}

    def read(self, key: tuple[Any, ...], row: int) -> None:
        """Puts the rating's variable into a row, unless the row is not written as flows of this package do."""
        branch, t = key[0], key[1]
        rating = self.rating[branch, t]
        scale = np.cos(np.pi / self.sides) if len(key) == 3 and self.sides else self._scale(row)
        if not scale or not np.isfinite(rating):
            return
        k = self.group.setdefault((branch, t), len(self.group))
        if k == len(self.upper):
            self.upper.append(rating**2 if self.squared else rating)
        if len(key) == 3:
            self.linear.append((row, k, -scale))
            self.limits[row] -= scale * rating
        elif not self.squared:
            self.products.append((row, k, -1, -scale))
            self.limits[row] -= scale * rating**2
        else:
            self._current(row, k, scale, rating**2)

    def _current(self, row: int, k: int, scale: float, square: float) -> None:
        """... <= W v2 in place of ... <= rating^2 v2; v2 may be fixed, and then stands on the right."""
        A = self.program.A
        here = slice(A.indptr[row], A.indptr[row + 1])
        negative = [(int(j), float(a)) for j, a in zip(A.indices[here], A.data[here], strict=True) if a < 0.0]
        for column, value in negative:
            self.products.append((row, k, column, value / square))
            self.change.append((row, column, -value))
        if not negative:
            self.linear.append((row, k, -self.limits[row] / square))
            self.limits[row] = 0.0

    def _scale(self, row: int) -> float:
        """What the squares of a row are multiplied by, 0 where it has none."""
        terms = self.program.quadratics
        if terms is None:
            return 0.0
        low, high = np.searchsorted(terms.row, [row, row + 1])
        own = [k for k in range(low, high) if terms.first[k] == terms.second[k] and int(terms.first[k]) in self.powers]
        return float(terms.coef[own[0]]) if own else 0.0

    def program_with_ratings(self) -> Program:
        """The program in which every rating that was read is a column."""
        if not self.upper:
            return self.program

        def arrays(entries: list[Any], width: int) -> Any:
            table = np.array(entries, dtype=float).reshape(-1, width)
            return (*(table[:, j].astype(np.int64) for j in range(width - 1)), table[:, -1])

        parts = arrays(self.linear, 3), arrays(self.products, 4), arrays(self.change, 3)
        return with_columns(self.program.replace(row_upper=self.limits), np.array(self.upper), *parts)
