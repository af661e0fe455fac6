"""Every error that mktopt raises: what is wrong, where, and the next step.

All of them are `MktoptError`, so that a caller (the command line among them) can tell a user's mistake
from a defect of the program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class MktoptError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a table, said so that its author can find and mend it.

    table: name of the table or file; row: key of the row (a name, a number), None for the whole table;
    column: name of the column, None for the whole row; value: what stands there; problem: what is wrong;
    hint: what to do.
    """

    table: str
    problem: str
    row: object = None
    column: str | None = None
    value: Any = None
    hint: str = ""

    def __str__(self) -> str:
        toml, file = self.table.endswith(".toml"), "." in self.table or "/" in self.table
        where = f"{'file' if file else 'table'} '{self.table}'"
        if self.row is not None:
            where += f", row {self.row!r}"
        if self.column is not None:
            where += f", {'key' if toml else 'column'} '{self.column}'"
            if self.value is not None:
                value = self.value.item() if hasattr(self.value, "item") else self.value
                where += f", value {value!r}"
        return f"{where}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


class DataError(MktoptError):
    """Network, order or scenario data that cannot be used; carries every fault found, not only the first."""

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        shown = [str(fault) for fault in self.faults[:10]]
        if len(self.faults) > 10:
            shown.append(f"... and {len(self.faults) - 10} more faults")
        super().__init__("\n".join(shown))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults,), self.__dict__  # as it was made: it comes back from other processes whole


class UnknownNameError(MktoptError, KeyError):
    """A name (of a case, mechanism, flow, solver, option, bus ...) that nothing here has."""

    def __str__(self) -> str:
        return str(self.args[0])


class FormulationError(MktoptError):
    """A model that cannot be built or taken as it was asked for."""


class SolverError(MktoptError):
    """A solver that is missing, refused the problem, or stopped without an answer."""


class InfeasibleError(MktoptError):
    """The market has no feasible dispatch; `report` says which constraints conflict and what would cure it."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class UnboundedError(MktoptError):
    """Welfare has no limit; `culprits` names the orders (or variables) that grow without bound."""

    def __init__(self, message: str, culprits: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.culprits = tuple(culprits)


def _quoted(name: object) -> str:
    return f"'{name}'" if str(name).startswith("(") else repr(str(name))  # an index of several names has its own


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for a `name` that is not among the `known` ones: lists them and the closest match."""
    names = [str(item) for item in known]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    meant = f"did you mean {_quoted(close[0])}? " if close else ""
    listed = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return UnknownNameError(f"unknown {kind} {_quoted(name)}; {meant}Known: {listed or '(none)'}")
