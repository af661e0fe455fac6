"""What may fail: the outages that a secure dispatch must survive, by name.

A contingency is the loss of one branch in service, or of generators: one offer by its order's name, or all offers of a
participant by its name; what must run (a negative load) is an offer like others. What stands at the source bus cannot
fail, since the upstream grid there picks up what is lost. `"n-1"` is every branch and every offer that is not at the
source bus, one at a time. A name that could mean several of these is told apart by its kind: 'branch x', 'offer x',
'participant x'.

A branch without which the grid falls apart (a bridge) leaves `islands`: buses that nothing can supply any more. No
dispatch is secure against that, so such an outage limits nothing; it stays in the list, to be reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.errors import DataError, Fault, FormulationError, unknown_name
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

IntArray = npt.NDArray[np.int64]

ALL = "n-1"
BRANCH, GENERATOR = "branch", "generator"
_SHOWN = 8  # islanded buses that are listed


@dataclass(frozen=True, eq=False)
class Contingency:
    """One outage.

    name; kind: 'branch' or 'generator'; branch: its position among the branches in service, -1 for a generator; rows:
    the rows of `orders.orders` that are lost, empty for a branch; islands: names of the buses that are cut off.
    """

    name: str
    kind: str
    branch: int
    rows: IntArray
    islands: tuple[str, ...] = ()

    @property
    def island_text(self) -> str:
        """The buses that are cut off, as words."""
        more = len(self.islands) - _SHOWN
        listed = ", ".join(self.islands[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"islands: bus{'es' if len(self.islands) > 1 else ''} {listed}"


def contingencies(network: Network, orders: Orders, asked: str | int | Sequence[str]) -> list[Contingency]:
    """The outages that `asked` names: 'n-1', names in a sequence or between commas, or both (doubled ones count once).

    Raises UnknownNameError for a name of nothing that can fail (with the nearest one), FormulationError for a name
    that could mean several things, for a bid and for an offer at the source bus.
    """
    known = _Known(network, orders)
    if isinstance(asked, int) and asked.__class__ is not bool:  # a name of digits alone, from a command line
        asked = str(asked)
    if not isinstance(asked, str):
        if isinstance(asked, Mapping) or not isinstance(asked, Iterable):
            raise FormulationError(f"option 'contingencies' takes 'n-1' or names of branches and offers, not {asked!r}")
        names = [str(name) for name in asked]
    elif asked in known:
        names = [asked]
    else:
        names = [name.strip() for name in asked.split(",")]
    found: dict[str, Contingency] = {}
    for name in names:
        for item in known.every() if name == ALL else [known.named(name)]:
            found.setdefault(item.name, item)
    return list(found.values())


class _Known:
    """What can fail on `network` under `orders`."""

    def __init__(self, network: Network, orders: Orders) -> None:
        self._network, self._orders = network, orders
        table = orders.orders
        at_source = (table["bus"] == network.source_bus).to_numpy()
        fails = ~orders.is_bid & ~at_source
        self._branches = {str(name): k for k, name in enumerate(network.lines["branch"])}
        self._offers = _rows_by(table["order"], fails)
        self._participants = {
            name: rows for name, rows in _rows_by(table["participant"], fails).items() if not self._is_offer(name, rows)
        }
        self._bids = set(table["order"][orders.is_bid])
        self._upstream = set(table["order"][at_source & ~orders.is_bid])

    def _is_offer(self, name: str, rows: IntArray) -> bool:
        """Whether participant `name` is the order of that name and nothing more."""
        return np.array_equal(self._offers.get(name, ()), rows)

    def __contains__(self, name: str) -> bool:
        return any(name in names for _, names in self._tables())

    def every(self) -> list[Contingency]:
        """Every branch and every offer; a name that both have gets its kind before it."""
        both = self._branches.keys() & self._offers.keys()
        branches = [self._branch(k, f"branch {name}" if name in both else name) for name, k in self._branches.items()]
        offers = [
            self._generator(rows, f"offer {name}" if name in both else name) for name, rows in self._offers.items()
        ]
        return [*branches, *offers]

    def named(self, name: str) -> Contingency:
        """The contingency called `name`."""
        found = [kind for kind, names in self._tables() if name in names]
        if len(found) > 1:
            words = " or ".join(f"'{kind} {name}'" for kind in found)
            raise FormulationError(f"contingency '{name}' could mean several things; write {words}")
        kind, plain = (found[0], name) if found else self._prefixed(name)
        if kind == BRANCH:
            return self._branch(self._branches[plain], name)
        return self._generator(dict(self._tables())[kind][plain], name)

    def _tables(self) -> list[tuple[str, dict[str, Any]]]:
        return [(BRANCH, self._branches), ("offer", self._offers), ("participant", self._participants)]

    def _prefixed(self, name: str) -> tuple[str, str]:
        """Kind and name of a name with its kind before it."""
        kind, _, plain = name.partition(" ")
        if plain in dict(self._tables()).get(kind, ()):
            return kind, plain
        lines = self._network.branches
        if name in set(lines["branch"][~lines["in_service"]]):
            raise FormulationError(f"contingency '{name}' is a branch that is out of service; leave it out")
        if name in self._upstream:
            raise FormulationError(
                f"contingency '{name}' is an offer at the source bus '{self._network.source_bus}', which picks up what "
                "others lose, so that its own loss has no answer; name branches and offers at other buses"
            )
        if name in self._bids:
            raise FormulationError(f"contingency '{name}' is a bid; only branches and offers can fail here")
        raise unknown_name("contingency", name, [ALL, *(key for _, names in self._tables() for key in names)])

    def _branch(self, k: int, name: str) -> Contingency:
        islands: tuple[str, ...] = ()
        if self._network.topology.bridge_mask[k]:
            islands = tuple(self._network.buses["bus"].to_numpy()[_cut_off(self._network, k)])
        return Contingency(name, BRANCH, k, np.zeros(0, dtype=np.int64), islands)

    def _generator(self, rows: IntArray, name: str) -> Contingency:
        return Contingency(name, GENERATOR, -1, rows)


def _rows_by(names: Iterable[Any], kept: npt.NDArray[np.bool_]) -> dict[str, IntArray]:
    """Positions of the rows that are `kept`, by their name."""
    found: dict[str, list[int]] = {}
    for row, (name, keep) in enumerate(zip(names, kept.tolist(), strict=True)):
        if keep:
            found.setdefault(str(name), []).append(row)
    return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}


def _cut_off(network: Network, bridge: int) -> IntArray:
    """The buses beyond a bridge: it is in every spanning tree, so they are the subtree behind it."""
    topology = network.topology
    below = np.flatnonzero(topology.parent_branch == bridge)[0]
    tree = topology.subtree
    return np.sort(tree.indices[tree.indptr[below] : tree.indptr[below + 1]])


def emergency_limits(network: Network, emergency: Any) -> npt.NDArray[np.float64]:
    """What each branch in service may carry after an outage [kVA], inf for no limit, shape (branches,).

    emergency: a positive factor on `rating_kva`, or a mapping from branches to factors (others: 1). Raises DataError
    for a factor that is no positive number, UnknownNameError for a branch that is not there.
    """
    names, rating = network.lines["branch"].to_numpy(), network.lines["rating_kva"].to_numpy()
    if not isinstance(emergency, Mapping):
        return np.asarray(rating * _factor(emergency, None))
    known = set(names)
    factors = {str(name): _factor(factor, name) for name, factor in emergency.items()}
    for name in factors:
        if name not in known:
            raise unknown_name("branch of option 'emergency'", name, names)
    return np.asarray(rating * np.array([factors.get(name, 1.0) for name in names]))


def _factor(factor: Any, branch: str | None) -> float:
    if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)) or not 0 < factor < np.inf:
        hint = "give a positive factor on the rating, such as 1.2"
        raise DataError(Fault("options", "no emergency rating follows from it", branch, "emergency", factor, hint))
    return float(factor)
