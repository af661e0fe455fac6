"""A function in several processes: answers in order, errors that come back whole, and no process left behind.

The processes are fresh ones, not forks: a solver's threads do not survive a fork.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import copy
from typing import Any, Generic, TypeVar

from mktopt.errors import FormulationError, MktoptError, SolverError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Items are handed to a process in portions: often enough to keep all busy, seldom enough to cost nothing.
_PORTIONS = 8


class Workers(Generic[Item, Answer]):
    """`count` processes that compute `function(item)`. Raises FormulationError for a function that cannot be sent."""

    def __init__(self, function: Callable[[Item], Answer], count: int) -> None:
        import multiprocessing
        from multiprocessing.reduction import ForkingPickler

        try:
            ForkingPickler.dumps(function)
        except Exception as error:  # whatever an object's own reduction raises
            raise FormulationError(
                f"the value function cannot be sent to other processes ({error}); define it at the top level of a"
                " module, or as a class there with __call__, or use workers=1"
            ) from error
        self.count, self.busy, self.broken = count, False, False
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(function,))

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        """`function` of each item, in order. What it raises is raised here, with a note that says where; SolverError
        where a process ended without an answer, after which these workers are `broken`."""
        portion = max(1, len(items) // (_PORTIONS * self.count))
        self.busy = True
        try:
            for answer, error in self._pool.map(_in_worker, items, chunksize=portion):
                if error is not None:
                    raise error
                yield answer
        except BrokenProcessPool as error:
            self.broken = True
            self.close()
            raise SolverError(
                f"one of {self.count} workers ended without an answer: it was killed (too little memory?), it crashed,"
                ' or the script lacks `if __name__ == "__main__":`; use fewer, or workers=1, which shows where'
            ) from error
        except KeyboardInterrupt:
            self.broken = True
            self.close()
            raise
        self.busy = False

    def close(self) -> None:
        """Ends the processes; what they are at is lost."""
        if self.busy:  # they would finish their portions first
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)


_HERE: dict[str, Callable[[Any], Any]] = {}


def _begin(function: Callable[[Any], Any]) -> None:
    _HERE["function"] = function


def _in_worker(item: Any) -> tuple[Any, Exception | None]:
    try:
        return _HERE["function"](item), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where it was asked for
        return None, _portable(error)


def _portable(error: Exception) -> Exception:
    """`error` if it can be sent as it is, else one that says the same: what cannot be read breaks the whole pool."""
    if not isinstance(error, MktoptError):
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
    if _can_be_sent(error):
        return error
    told = FormulationError(f"the value function raised {type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.dumps(error)
        back = copy(error)  # made again of its arguments, as it is where it arrives
    except Exception:  # noqa: BLE001 - whatever its reduction or its constructor raises
        return False
    return type(back) is type(error) and str(back) == str(error)
