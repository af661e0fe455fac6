"""How the command line speaks and ends: tables on stdout, messages on stderr, an exit code for each kind of end.

Exit codes: 0 done; 1 the market is infeasible or unbounded; 2 bad input; 3 an answer that cannot be trusted, or a
defect of this program; 130 interrupted; 141 the reader of our output went away.
"""

from __future__ import annotations

import enum
import functools
import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mktopt.errors import DataError, InfeasibleError, MktoptError, UnboundedError

if TYPE_CHECKING:
    import pandas as pd

NO_MARKET, BAD_INPUT, UNTRUSTED, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141

P = ParamSpec("P")

# Decimals of a column, by the end of its name; more where its greatest number is small.
DECIMALS = {"price": 4, "price_end": 4, "payment": 2, "dual": 4, "v_pu": 4, "loading_percent": 1, "_kw": 2}
FOLDED = 6  # characters of a name that is folded, at least
LONG_NAME = 24  # longer names in the first column are folded where the terminal is narrow
UNITS = {"price": "$/kWh", "order_price": "$/kWh"} | dict.fromkeys(("payment", "rent", "cost", "alone", "saving"), "$")


class Format(enum.StrEnum):
    """How a command prints its tables."""

    table = "table"
    csv = "csv"
    json = "json"


class Terminal(Console):
    """A console that lets a broken pipe be seen by `guarded`, instead of ending the process with 1."""

    def on_broken_pipe(self) -> None:
        """Passes the error on."""
        raise BrokenPipeError


class Settings:
    """What the options before the command said."""

    debug = False


def debugging() -> bool:
    """Whether tracebacks are wanted: `mktopt --debug ...` or MKTOPT_DEBUG=1."""
    return Settings.debug or os.environ.get("MKTOPT_DEBUG", "") not in ("", "0")


def stdout() -> Terminal:
    """Where results go."""
    return Terminal(highlight=False)


def say(message: str, style: str = "") -> None:
    """One message to stderr, never wrapped by us and never read as markup."""
    Terminal(stderr=True, highlight=False).print(Text(message, style=style), soft_wrap=True)


def say_plainly(message: str) -> None:
    """One message to stdout, as it is."""
    stdout().print(Text(message), soft_wrap=True)


def complain(error: BaseException, label: str = "error") -> None:
    """The error on stderr, with a traceback where one is wanted."""
    if debugging():
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, DataError) and len(error.faults) > 1:
        message += "\n`mktopt check` names every fault of a file"
    Terminal(stderr=True, highlight=False).print(Text.assemble((f"{label}: ", "bold red"), message), soft_wrap=True)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """`command`, ending with a message and an exit code instead of a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _warnings_as_messages():
                command(*args, **kwargs)
                sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (InfeasibleError, UnboundedError) as error:
            complain(error, "no market")
            raise typer.Exit(NO_MARKET) from None
        except MktoptError as error:
            complain(error)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            silence()
            raise typer.Exit(PIPE_CLOSED) from None
        except OSError as error:
            complain(error)
            raise typer.Exit(BAD_INPUT) from None
        except Exception as error:  # noqa: BLE001 the last line of defence: it says what happened and ends with 3
            complain(RuntimeError(_defect(error)).with_traceback(error.__traceback__), "defect of mktopt")
            raise typer.Exit(UNTRUSTED) from None

    return run


def silence() -> None:
    """Sends what is still buffered nowhere, so that the interpreter does not complain about it when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _defect(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error}\n"
        "This is not your fault. Please report it with the command that you gave and what "
        "`mktopt --debug COMMAND ...` prints."
    )


@contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """Warnings meant for users as one line on stderr; those of libraries about their own future stay quiet.

    So do libraries' loggers: what Pyomo logs, on stdout, when it is interrupted would spoil what a pipe reads.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not debugging():
            logging.disable(logging.ERROR)
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            said: set[str] = set()

            def once(message: Warning | str, *_: Any, **__: Any) -> None:
                if str(message) not in said:
                    said.add(str(message))
                    say(f"warning: {message}", "yellow")

            warnings.showwarning = once
        try:
            yield
        finally:
            logging.disable(before)


# -- tables -------------------------------------------------------------------------------------------------


def show(frame: pd.DataFrame, title: str, limit: int = 0, note: str = "") -> None:
    """Prints `frame`; where it has more than `limit` rows, its head and tail. `note` goes below."""
    rows = len(frame)
    short = 0 < limit < rows
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    formats = []
    for name in map(str, frame.columns):
        number = frame[name].dtype.kind in "fiu"
        header = f"{name}\n\\[{UNITS[name]}]" if name in UNITS else escape(name)
        whole = number or (name == frame.columns[0] and frame[name].astype(str).str.len().max() <= LONG_NAME)
        table.add_column(header, justify="right" if number else "left", overflow="fold", no_wrap=whole)
        formats.append(_formatter(frame[name], name))
    tail = limit // 4 if short else 0
    shown = [*range(limit - tail), *range(rows - tail, rows)] if short else range(rows)
    for place, position in enumerate(shown):
        if short and place == limit - tail:
            table.add_row(*("..." for _ in formats))
        table.add_row(*(form(value) for form, value in zip(formats, frame.iloc[position], strict=True)))
    console = stdout()
    console.print(Text(title, style="bold"), soft_wrap=True)
    least = _least_width(table)
    if least > console.width:  # a number that is cut off is another number: rather lines that the terminal wraps
        console.width = least
    console.print(table, crop=False)
    notes = ([f"{limit} of {rows} rows"] if short else []) + ([note] if note else [])
    if notes:
        console.print(Text("; ".join(notes), style="dim"), soft_wrap=True)


def _least_width(table: Table) -> int:
    """Columns of a terminal on which nothing that stands on one line is cut off, with a little of what is folded."""
    total = 0
    for column in table.columns:
        size = max((len(str(cell)) for cell in column.cells), default=0)
        head = max(len(word) for word in str(column.header).replace("\\[", "[").split())
        total += max(size, head) if column.no_wrap else min(max(size, head), FOLDED)
    return total + 2 * len(table.columns)


def _formatter(values: pd.Series[Any], name: str) -> Callable[[Any], str]:
    """How the cells of a column are written: all with the same number of decimals."""
    if values.dtype.kind in "iu":
        return lambda value: "-" if missing(value) else str(int(value))
    if values.dtype.kind == "b":
        return lambda value: "yes" if value else "no"
    if values.dtype.kind != "f":
        return lambda value: "" if missing(value) else escape(str(value))
    decimals = next((n for end, n in DECIMALS.items() if name.endswith(end)), 4)
    top = values.abs()[values.abs() < math.inf].max()
    if top > 0:
        decimals = max(decimals, min(6, 2 - math.floor(math.log10(top))))

    def form(value: float) -> str:
        if not math.isfinite(value):
            return "-" if math.isnan(value) else "no limit"
        return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # + 0.0: never -0.00

    return form


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def write_csv(frame: pd.DataFrame) -> None:
    """One table as CSV on stdout, numbers in full."""
    sys.stdout.write(frame.to_csv(index=False, lineterminator="\n"))


def write_json(value: Any) -> None:
    """`value` as one JSON document on stdout; frames become lists of records, what is not finite null."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in the types of JSON."""
    if hasattr(value, "to_dict"):
        return [plain(record) for record in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if missing(value) or value in (math.inf, -math.inf):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def emit(frame: pd.DataFrame, title: str, form: Format) -> None:
    """One table in the form that was asked for."""
    if form is Format.csv:
        write_csv(frame)
    elif form is Format.json:
        write_json(frame)
    else:
        show(frame, title)
