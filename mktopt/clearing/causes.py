"""What pulls at a grid's free variables in a cleared market, sorted by the part of the prices that it makes.

    sum_{r physics} y_r grad F_r  =  grad f - sum_{k limits} y_k grad h_k - z - y_s grad B_s - y_q grad B_q  =: sum R

in the grid's own variables u: the optimality conditions, in which y of the physics' rows, the prices among them, answer
to a sum of right-hand sides R, one per limit that binds (y_k, z: multipliers of rows and bounds), and one for either
balance of the source bus (B_s, B_q), which are no physics here: the source serves what the grid takes.

Physics are the equations of the flow's block, and the inequalities that stand for an equation, tight or not: the cones
of `current`, and what a flow of one's own names in `block.relaxed_rows`. Limits are its other inequalities and its
variables' bounds: `congestion` where they belong to a branch, `voltage` where they belong to a bus, `security`
where they hold after an outage; rows of the user's own, and whatever else contains a grid variable, are `custom`. The
grid's own variables are those of its block, without the reactive power of orders and of the source, and without the
voltage of the source, which where it is free is a choice like a dispatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo

from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError

Ints = npt.NDArray[np.int64]

# Inequalities that stand for an equation of the physics, and variables of the block that are not the grid's own.
RELAXED = ("current",)
_OF_ORDERS = ("reactive_kvar", "source_kvar")


@dataclass(frozen=True, eq=False)
class Pull:
    """One right-hand side of many: part, cause, and its entries (positions among the grid's variables, values)."""

    part: str
    cause: str
    at: Ints
    values: FloatArray


@dataclass(frozen=True, eq=False)
class GridConditions:
    """The optimality conditions of the grid's variables.

    rows: (R,) the program's rows of the physics; columns: (C,) the program's columns of the grid's variables; jacobian:
    sparse (R, C); pulls: the right-hand sides; error: (C,) what the solver left of the conditions.
    """

    rows: Ints
    columns: Ints
    jacobian: Any
    pulls: list[Pull]
    error: FloatArray


def grid_conditions(clearing: Clearing) -> GridConditions:
    """The conditions at the solution of `clearing`; raises MktoptError where it does not carry its program."""
    evidence = clearing.evidence
    if not isinstance(evidence, Evidence) or evidence.program is None or evidence.solution is None:
        raise MktoptError(
            "this clearing does not carry the program that it was solved from (a loaded one does not); "
            "clear the market again to take its prices apart"
        )
    return _Reading(clearing, evidence).conditions()


class _Reading:
    def __init__(self, clearing: Clearing, evidence: Evidence) -> None:
        self.clearing, self.evidence, self.grid = clearing, evidence, evidence.model.grid
        self.program, self.solution = evidence.program, evidence.solution
        self.J = self.program.jacobian(self.solution.x)
        self.own = {id(row) for row in evidence.own}
        network = clearing.network
        periods = len(network.hours)
        at = network.source_index * periods + np.arange(periods)
        self.balance = evidence.balance[at]
        self.balance_sign = evidence.balance_sign[at]
        self.balance_q = np.full(periods, -1) if evidence.balance_q is None else evidence.balance_q[at]
        self.components = self._components()
        self.built = {id(component) for component, _ in self.components}
        self.kinds: dict[int, str | None] = {}
        self.branches, self.buses = set(network.lines["branch"]), set(network.buses["bus"])

    def conditions(self) -> GridConditions:
        rows, columns = self._physics(), self._variables()
        part = self.J[rows][:, columns]
        rows = rows[np.diff(part.indptr) > 0]  # a balance without branches ties no variable of the grid
        columns = columns[np.diff(part.tocsc().indptr) > 0]
        U = self.J[:, columns]
        y, z = self.solution.row_dual, self.solution.reduced_cost[columns]
        slope = self.program.gradient(self.solution.x)[columns]
        pulls = [*self._limits(U, rows, y), *self._bounds(columns, z), *self._source(U, y), *self._phantom(columns, y)]
        if slope.any():
            pulls.append(Pull("custom", "objective", np.flatnonzero(slope), slope[slope != 0]))
        return GridConditions(rows, columns, U[rows], pulls, slope - U.T @ y - z)

    # -- what is physics ------------------------------------------------------------------------------------------

    def _components(self) -> list[tuple[Any, Ints]]:
        """The flow's own constraints, each with the program's rows of its active members."""
        found = []
        for component in self.grid.component_objects(pyo.Constraint, active=True):
            rows = [row for row in component.values() if row.active and id(row) not in self.own]
            if rows and not component.is_reference():
                found.append((component, self.program.row_indices(rows)))
        return found

    def _physics(self) -> Ints:
        lower, upper = self.program.row_lower, self.program.row_upper
        relaxed = {*RELAXED, *getattr(self.grid, "relaxed_rows", ())}
        chosen = [
            rows if component.local_name in relaxed else rows[lower[rows] == upper[rows]]
            for component, rows in self.components
        ]
        every = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
        return np.setdiff1d(every, np.r_[self.balance, self.balance_q])

    def _variables(self) -> Ints:
        known, source = self.program.column_of, self.clearing.network.source_bus
        voltage = self.grid.component("v_pu") or self.grid.component("v2") or {}
        held = {id(voltage[source, t]) for t in self.clearing.network.periods if (source, t) in voltage}
        columns = [
            known.get(id(variable), -1)
            for component in self.grid.component_objects(pyo.Var)
            if component.local_name not in _OF_ORDERS and not component.is_reference()
            for variable in component.values()
            if id(variable) not in held
        ]
        return np.array([column for column in columns if column >= 0], dtype=np.int64)

    # -- what pulls -----------------------------------------------------------------------------------------------

    def _limits(self, U: Any, physics: Ints, y: FloatArray) -> list[Pull]:
        """Rows with a multiplier that contain variables of the grid and are no physics."""
        counts = (np.diff(U.indptr) > 0) & (y != 0.0)
        counts[physics] = False
        for rows in (self.balance, self.balance_q):
            counts[rows[rows >= 0]] = False
        pulls = []
        for row in np.flatnonzero(counts).tolist():
            here = slice(U.indptr[row], U.indptr[row + 1])
            pulls.append(Pull(*self._label(self.program.rows[row]), U.indices[here], -y[row] * U.data[here]))
        return pulls

    def _label(self, row: Any) -> tuple[str, str]:
        """(part, cause) of a limit."""
        component = row.parent_component()
        if id(row) not in self.own and id(component) in self.built:
            name = component.local_name
            if name.startswith("security"):
                return "security", str(_first(row.index()))
            where = self._owner(component, row.index())
            if where is not None:
                return where, str(_first(row.index()))
        return "custom", str(row.name)

    def _bounds(self, columns: Ints, z: FloatArray) -> list[Pull]:
        """Bounds with a multiplier."""
        pulls = []
        for k in np.flatnonzero(z).tolist():
            variable = self.program.variables[columns[k]]
            where = self._owner(variable.parent_component(), variable.index())
            cause = str(variable.name) if where is None else str(_first(variable.index()))
            pulls.append(Pull(where or "custom", cause, np.array([k]), -z[k : k + 1]))
        return pulls

    def _owner(self, component: Any, index: Any) -> str | None:
        """'congestion' of what belongs to branches, 'voltage' of what belongs to buses, None of neither.

        A branch may have the name of a bus, so that the sets of the index count before the name.
        """
        if id(component) not in self.kinds:
            self.kinds[id(component)] = self._kind(component)
        kind, name = self.kinds[id(component)], _first(index)
        if kind is not None or component.local_name == "injection_kw":
            return kind
        return "congestion" if name in self.branches else "voltage" if name in self.buses else None

    def _kind(self, component: Any) -> str | None:
        """What the sets of its index say; a limit of what a bus injects is none of the grid's."""
        sets = {id(part) for part in component.index_set().subsets()}
        kinds = {"buses": "voltage", "branches": "congestion"}
        found = [kind for name, kind in kinds.items() if id(self.grid.component(name)) in sets]
        return found[0] if found and component.local_name != "injection_kw" else None

    def _source(self, U: Any, y: FloatArray) -> list[Pull]:
        pulls = []
        for part, rows in (("loss", self.balance), ("reactive", self.balance_q)):
            for row in rows[rows >= 0].tolist():
                here = slice(U.indptr[row], U.indptr[row + 1])
                pulls.append(Pull(part, "source", U.indices[here], -y[row] * U.data[here]))
        return pulls

    def _phantom(self, columns: Ints, y: FloatArray) -> list[Pull]:
        """The share of slack cones in the losses: y_s d(r_l i_l), i_l the current that the cone leaves free.

        Flow `lossy` has the loss itself for a variable.
        """
        grid, table = self.grid, self.clearing.relaxation
        shared = getattr(grid, "loss_shared", False)
        missing = any(grid.component(name) is None for name in ("current2", "loss", "to_kw"))
        if table is None or (missing and not shared):
            return []
        position = {int(column): k for k, column in enumerate(columns)}
        slack = table[table["slack"]]
        pulls = []
        for branch, t in zip(slack["branch"], slack["period"].tolist(), strict=True):
            row, home = self.program.row(grid.loss[branch, t]), self.balance[t]
            if shared:
                column = int(self.program.columns([grid.loss_kw[branch, t]])[0])
                if column in position and home >= 0:
                    weight = y[home] * self.balance_sign[t]
                    pulls.append(Pull("unassigned", str(branch), np.array([position[column]]), np.array([weight])))
                continue
            current, arriving = self.program.columns([grid.current2[branch, t], grid.to_kw[branch, t]]).tolist()
            if current in position and arriving >= 0 and home >= 0:
                lost = self.J[row, current] / self.J[row, arriving]
                weight = y[home] * self.balance_sign[t] * lost
                pulls.append(Pull("unassigned", str(branch), np.array([position[current]]), np.array([weight])))
        return pulls


def _first(index: Any) -> Any:
    return index[0] if isinstance(index, tuple) else index
