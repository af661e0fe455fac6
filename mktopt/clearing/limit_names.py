"""Rows and variables of a market model in the words of its data: what a report on an infeasible market names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyomo.environ as pyo

from mktopt.clearing.cures import OVERLOAD, POWER_LIMITS, SUPPORT, Cure, ratings_of
from mktopt.formulations.market import Declaration
from mktopt.solvers.diagnosis.infeasible import Member, Relaxed
from mktopt.solvers.program import Program

# Components of a flow's block that are indexed by buses; others with two indices or more are indexed by branches.
_OF_BUSES = ("balance", "balance_q", "square", "v2", "v_pu", "angle", "injection_kw")
_PHYSICS = 9  # rank of what follows from the grid: last


class LimitNames:
    """Names of limits, in the words of the data that they come from."""

    def __init__(self, model: Any, declaration: Declaration, program: Program) -> None:
        self.program = program
        self.currents = bool(declaration.flow.options.get("current_limits"))
        table = declaration.orders.orders
        self.known: dict[int, tuple[str, Any]] = {
            id(item): (component.local_name, key)
            for component in model.grid.component_objects((pyo.Constraint, pyo.Var), descend_into=False)
            for key, item in component.items()
        }
        for component in (model.segment_kw, model.accepted_whole):
            self.known |= {id(item): (component.local_name, key) for key, item in component.items()}
        keys = list(zip(table["order"], table["period"].tolist(), strict=True))
        self.rating = ratings_of(declaration, model)
        self.firm = dict(zip(keys, declaration.orders.firm.tolist(), strict=True))
        self.place = dict(zip(keys, zip(table["bus"], table["side"], strict=True), strict=True))

    def conflict(self, members: Iterable[Member]) -> list[str]:
        """The limits of a conflict, those that could be others first, the physics last."""
        named = [self._limit(member) for member in members]
        return [text for _, text in sorted(named, key=lambda item: item[0])]

    def _of(self, member: Member) -> tuple[str, Any]:
        """(component of the flow or 'segment_kw', index) of a limit; ('', None) for what is not of this package."""
        items = self.program.rows if member.kind == "row" else self.program.variables
        if member.index >= len(items):
            return "", None
        return self.known.get(id(items[member.index]), ("", None))

    def _limit(self, member: Member) -> tuple[int, str]:
        """(rank, words) of one limit."""
        name, key = self._of(member)
        most = "at least" if member.side == "lower" else "at most"
        if name in ("v2", "v_pu"):
            return 0, f"voltage of bus {key[0]}, period {key[1]}: {most} {_in_pu(name, member.limit):.6g} p.u."
        if name in POWER_LIMITS:
            what, unit = ("current", "kVA at 1 p.u.") if self.currents else ("apparent power", "kVA")
            return 1, f"{what} of branch {key[0]}, period {key[1]}: rating {self.rating[key[0], key[1]]:g} {unit}"
        if name == "p_kw":
            way = "against" if member.side == "lower" else "along"
            return 1, f"limit of branch {key[0]}, period {key[1]}: {abs(member.limit):g} kVA {way} its direction"
        if name == "security":
            outage, branch, period = key
            what = f"flow of branch {branch}, period {period}, after the outage of {outage}"
            return 1, f"{what}: {abs(member.limit):g} kVA"
        if name == "angle_limit":
            return 1, f"angle limit of branch {key[0]}, period {key[1]}: {most} {self._angle(member)}"
        if name == "reactive_kvar":
            return 2, f"reactive range of order {key[0]}, period {key[1]}: {most} {member.limit:g} kvar"
        if name == "segment_kw":
            return self._order(member, key)
        if name == "accepted_whole":
            return 4, f"all or nothing of order {key[0]}, period {key[1]}"
        if not name:
            return 3, str(member)
        return _PHYSICS - (name in ("total", "balance", "balance_q")), self._physics(name, key, member)

    def _angle(self, member: Member) -> str:
        """An angle limit; linear flows write it in kW."""
        in_kw = self.program.A[[member.index]].nnz == 1 and "p_kw" in str(
            self.program.variables[int(self.program.A[[member.index]].indices[0])].name
        )
        return f"{member.limit:g} kW" if in_kw else f"{np.degrees(member.limit):g} deg"

    def _order(self, member: Member, key: tuple[str, int, int]) -> tuple[int, str]:
        order, period, _ = key
        if self.firm.get((order, period)):  # its width is its minimum
            return 5, f"firm order {order}, period {period}: {member.limit:g} kW"
        if member.side == "upper":
            return 4, f"width of order {order}, period {period}: {member.limit:g} kW"
        return 5, f"minimum of order {order}, period {period}: {member.limit:g} kW"

    def _physics(self, name: str, key: Any, member: Member) -> str:
        if name == "total":
            return f"balance of the whole grid, period {key}"
        if not isinstance(key, tuple):
            return str(member)
        word = {"balance": "balance of bus", "balance_q": "reactive balance of bus", "voltage_drop": "voltage drop of "
                "branch"}.get(name, "physics of bus" if name in _OF_BUSES else "physics of branch")  # fmt: skip
        return f"{word} {key[0]}, period {key[1]}"

    def relaxed(self, item: Relaxed, cure: Cure) -> tuple[str, str, int | str, float, str]:
        """(what, where, period, amount, unit) of one limit that gives."""
        member, lower = item.member, item.side == "lower"
        if cure.name == OVERLOAD and member.kind == "variable" and member.index in cure.ratings:
            branch, period = cure.ratings[member.index]
            more = float(np.sqrt(member.limit + item.amount) - np.sqrt(member.limit))
            return "exceed the rating of branch", branch, period, more if cure.squared else item.amount, "kVA"
        name, key = self._of(member)
        if name == "p_kw":
            return "exceed the rating of branch", key[0], key[1], item.amount, "kVA"
        if name == "security":
            where = f"{key[1]} after the outage of {key[0]}"
            return "exceed the emergency rating of branch", where, key[2], item.amount, "kVA"
        if name == "balance_q" and cure.name == SUPPORT:
            # orders inject on the left: a row that ends below zero lacks supply
            return "inject at bus" if lower else "absorb at bus", key[0], key[1], item.amount, "kvar"
        if name in ("v2", "v_pu"):
            moved = member.limit - item.amount if lower else member.limit + item.amount
            change = abs(_in_pu(name, moved) - _in_pu(name, member.limit))
            return f"{'lower' if lower else 'raise'} the voltage limit of bus", key[0], key[1], change, "p.u."
        if name == "balance":
            return "shed at bus" if lower else "spill at bus", key[0], key[1], item.amount, "kW"
        if name in ("segment_kw", "accepted_whole"):
            bus, side = self.place[key[:2]]
            return "shed at bus" if side == "bid" else "spill at bus", bus, key[1], item.amount, "kW"
        return f"{'lower' if lower else 'raise'} the limit of", item.name, "", item.amount, ""


def _in_pu(name: str, value: float) -> float:
    return float(np.sqrt(max(value, 0.0))) if name == "v2" else value
