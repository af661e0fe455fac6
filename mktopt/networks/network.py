"""The grid as frozen tables: buses, branches, loads, shunts, one source and the lengths of the periods.

Branch l = (i, j) is a pi section on the side of bus i followed by an ideal ratio (per unit of the base voltages):

    V_j = ratio exp(-j shift_deg) (V_i - z I),   z = r_ohm + j x_ohm [ohm at base_kv of i],   b_us / 2 at each end of z.

`p_kw > 0` of a load is consumption; a shunt draws `g_kw` and gives `b_kvar` at 1 p.u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.tables import Column, duplicates, read_table, refuse, unknown_values

if TYPE_CHECKING:
    from pathlib import Path

    from mktopt.networks.topology import Topology

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PRIVATE = "private"
BRANCH_KINDS = ("line", "transformer", "switch", PRIVATE)

BUS_COLUMNS = (
    Column("bus", "text"),
    Column("base_kv", positive=True),
    Column("v_min_pu", default=0.9, low=0.0, missing=True),
    Column("v_max_pu", default=1.1, low=0.0, missing=True),
    Column("x", default=np.nan, missing=True),
    Column("y", default=np.nan, missing=True),
)
BRANCH_COLUMNS = (
    Column("branch", "text"),
    Column("from_bus", "text"),
    Column("to_bus", "text"),
    Column("r_ohm", low=0.0),
    Column("x_ohm"),
    Column("b_us", default=0.0, missing=True),
    Column("ratio", default=1.0, positive=True, missing=True),
    Column("shift_deg", default=0.0, missing=True),
    Column("angle_min_deg", default=-360.0, missing=True),
    Column("angle_max_deg", default=360.0, missing=True),
    Column("rating_kva", default=np.inf, positive=True, infinite=True, missing=True),
    Column("length_km", default=np.nan, low=0.0, missing=True),
    Column("kind", "text", default="line", choices=BRANCH_KINDS),
    Column("in_service", "flag", default=True),
    Column("owner", "text", default=""),
)
LOAD_COLUMNS = (
    Column("load", "text"),
    Column("bus", "text"),
    Column("p_kw"),
    Column("q_kvar", default=0.0, missing=True),
)
SHUNT_COLUMNS = (
    Column("bus", "text"),
    Column("g_kw", default=0.0, missing=True),
    Column("b_kvar", default=0.0, missing=True),
)


def _empty(columns: Sequence[Column]) -> pd.DataFrame:
    return pd.DataFrame({column.name: [] for column in columns})


@dataclass(frozen=True, eq=False)
class Network:
    """A validated, frozen grid.

    buses: bus, base_kv [kV line to line], v_min_pu, v_max_pu, x, y (coordinates, any unit);
    branches: branch, from_bus, to_bus, r_ohm, x_ohm, b_us, ratio, shift_deg, angle_min_deg, angle_max_deg,
    rating_kva (inf = no limit), length_km, kind (line | transformer | switch | private), in_service, owner;
    loads: load, bus, p_kw, q_kvar; shunts: bus, g_kw, b_kvar at 1 p.u.; source_bus; source_v_pu [p.u.];
    hours: length of each period [h], shape (periods,).

    Optional columns are filled with their defaults. Frames are copied; do not write to them.
    Raises DataError with every fault found.
    """

    buses: pd.DataFrame
    branches: pd.DataFrame
    source_bus: str
    loads: pd.DataFrame = field(default_factory=lambda: _empty(LOAD_COLUMNS))
    shunts: pd.DataFrame = field(default_factory=lambda: _empty(SHUNT_COLUMNS))
    source_v_pu: float = 1.0
    hours: Any = (1.0,)
    name: str = "network"

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        put = object.__setattr__
        put(self, "source_bus", str(self.source_bus))
        put(self, "buses", read_table(self.buses, "buses", BUS_COLUMNS, faults, "bus"))
        put(self, "branches", read_table(self.branches, "branches", BRANCH_COLUMNS, faults, "branch"))
        put(self, "loads", read_table(self.loads, "loads", LOAD_COLUMNS, faults, "load"))
        put(self, "shunts", read_table(self.shunts, "shunts", SHUNT_COLUMNS, faults, "bus"))
        put(self, "hours", _hours(self.hours, faults))
        put(self, "source_v_pu", _positive(self.source_v_pu, "source_v_pu", faults))
        refuse(faults)
        self.validate()
        from mktopt.networks.checks import warn_about_units

        warn_about_units(self, stacklevel=3)

    def validate(self) -> None:
        """Refuses tables that do not fit together: raises DataError with every fault.

        Duplicate names, unknown buses, a branch from a bus to itself, voltage limits that cross, islands,
        a source that is no bus. Cells (finite, sign) are checked when the tables are read.
        """
        faults: list[Fault] = []
        known = self.buses["bus"]
        if len(known) == 0:
            faults.append(Fault("buses", "the table has no rows", hint="a network needs at least one bus"))
        duplicates(self.buses, "buses", "bus", faults)
        duplicates(self.branches, "branches", "branch", faults)
        duplicates(self.loads, "loads", "load", faults)
        for column in ("from_bus", "to_bus"):
            unknown_values(self.branches, "branches", "branch", column, known, faults, "buses")
        unknown_values(self.loads, "loads", "load", "bus", known, faults, "buses")
        unknown_values(self.shunts, "shunts", "bus", "bus", known, faults, "buses")
        for row in self.branches.loc[self.branches["from_bus"] == self.branches["to_bus"]].itertuples():
            faults.append(Fault("branches", "the branch ends where it starts", row.branch, "to_bus", row.to_bus))
        _crossed(self.buses, "buses", "bus", "v_min_pu", "v_max_pu", faults)
        _crossed(self.branches, "branches", "branch", "angle_min_deg", "angle_max_deg", faults)
        if self.source_bus not in set(known):
            hint = "name a bus of table 'buses'"
            faults.append(Fault("network", "the source is no bus", None, "source_bus", self.source_bus, hint))
        refuse(faults)
        self._refuse_islands()

    def _refuse_islands(self) -> None:
        island = self.parts()
        lost = self.buses["bus"].to_numpy()[island != island[self.source_index]]
        if not len(lost):
            return
        shown = ", ".join(map(str, lost[:8])) + (", ..." if len(lost) > 8 else "")
        problem = f"{len(lost)} of {self.n_buses} buses have no path to the source bus {self.source_bus!r}: {shown}"
        hint = "close a switch (in_service), add the missing branch, or drop these buses"
        raise DataError(Fault("branches", problem, hint=hint))

    # -- derived, computed once ---------------------------------------------------------------------------

    @property
    def n_buses(self) -> int:
        """Number of buses."""
        return len(self.buses)

    @property
    def n_branches(self) -> int:
        """Number of branches in service."""
        return len(self.lines)

    @property
    def periods(self) -> range:
        """The periods 0 .. T-1."""
        return range(len(self.hours))

    @cached_property
    def lines(self) -> pd.DataFrame:
        """The branches in service, numbered from 0 (the order of every branch array of the package)."""
        return self.branches[self.branches["in_service"]].reset_index(drop=True)

    @cached_property
    def private(self) -> npt.NDArray[np.bool_]:
        """Which branches in service are private wires, bool, shape (n_branches,)."""
        return np.asarray(self.lines["kind"].to_numpy() == PRIVATE)

    def parts(self, among: npt.NDArray[np.bool_] | None = None) -> IntArray:
        """The connected part that each bus is in, numbered by first bus, shape (n_buses,).

        among: the branches that join buses, bool, shape (n_branches,); all in service by default.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        used = slice(None) if among is None else among
        ends = self.from_index[used], self.to_index[used]
        graph = coo_array((np.ones(len(ends[0])), ends), shape=(self.n_buses, self.n_buses))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)

    @cached_property
    def bus_index(self) -> dict[str, int]:
        """Position of each bus in table `buses` (the order of every bus array of the package)."""
        return {bus: position for position, bus in enumerate(self.buses["bus"])}

    @cached_property
    def from_index(self) -> IntArray:
        """Position of the from-bus of each branch in service, shape (n_branches,)."""
        return self.bus_positions(self.lines["from_bus"])

    @cached_property
    def to_index(self) -> IntArray:
        """Position of the to-bus of each branch in service, shape (n_branches,)."""
        return self.bus_positions(self.lines["to_bus"])

    @cached_property
    def source_index(self) -> int:
        """Position of the source bus."""
        return self.bus_index[self.source_bus]

    @cached_property
    def shunt_kw(self) -> FloatArray:
        """Active power that the shunts of each bus draw at 1 p.u. [kW], shape (n_buses,)."""
        return self._per_bus(self.shunts, "g_kw")

    @cached_property
    def load_kw(self) -> FloatArray:
        """Active load of each bus [kW], shape (n_buses,)."""
        return self._per_bus(self.loads, "p_kw")

    @cached_property
    def load_kvar(self) -> FloatArray:
        """Reactive load of each bus [kvar], shape (n_buses,)."""
        return self._per_bus(self.loads, "q_kvar")

    @cached_property
    def topology(self) -> Topology:
        """Graph, tree order and sensitivities of this network (see `mktopt.networks.topology`)."""
        from mktopt.networks.topology import Topology

        return Topology(self)

    def bus_positions(self, buses: Sequence[str] | pd.Series[Any]) -> IntArray:
        """Positions of the named `buses` in table `buses`."""
        index = self.bus_index
        return np.fromiter((index[bus] for bus in buses), dtype=np.int64, count=len(buses))

    def _per_bus(self, frame: pd.DataFrame, column: str) -> FloatArray:
        where = self.bus_positions(frame["bus"])
        return np.bincount(where, weights=frame[column].to_numpy(float), minlength=self.n_buses).astype(float)

    # -- new networks from this one ------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Network:
        """A new, validated network with the named fields changed (tables, source, hours, name)."""
        return replace(self, **changes)

    def with_ratings(self, ratings_kva: dict[str, float]) -> Network:
        """A new network in which the named branches have the given `rating_kva`."""
        branches = self.branches.copy()
        known = set(branches["branch"])
        faults: list[Fault] = []
        for branch, rating in ratings_kva.items():
            if branch not in known:
                import difflib

                close = difflib.get_close_matches(branch, sorted(known), n=1)
                hint = f"did you mean {close[0]!r}?" if close else "see network.branches"
                faults.append(Fault("branches", "no such branch", branch, hint=hint))
            branches.loc[branches["branch"] == branch, "rating_kva"] = rating
        refuse(faults)
        return self.replace(branches=branches)

    # -- readers and writers -------------------------------------------------------------------------------

    @classmethod
    def from_csv(cls, folder: str | Path) -> Network:
        """A network from a folder of CSV files (see `mktopt.networks.csv_folder`)."""
        from mktopt.networks.csv_folder import read_network

        return read_network(folder)

    def to_csv(self, folder: str | Path) -> None:
        """Writes the tables as a folder of CSV files that `from_csv` reads back unchanged."""
        from mktopt.networks.csv_folder import write_network

        write_network(self, folder)

    @classmethod
    def from_pandapower(cls, net: Any, name: str | None = None) -> Network:
        """A network from a pandapower net (see `mktopt.networks.pandapower`)."""
        from mktopt.networks.pandapower import from_pandapower

        return from_pandapower(net, name)

    def to_pandapower(self) -> Any:
        """This network as a pandapower net (see `mktopt.networks.pandapower`)."""
        from mktopt.networks.pandapower import to_pandapower

        return to_pandapower(self)

    @classmethod
    def from_matpower(cls, path: str | Path) -> Network:
        """A network from a MATPOWER case file `.m` (see `mktopt.networks.matpower`)."""
        from mktopt.networks.matpower import read_network

        return read_network(path)

    def __repr__(self) -> str:
        return (
            f"Network({self.name!r}: {self.n_buses} buses, {self.n_branches} branches in service, "
            f"{len(self.loads)} loads, source {self.source_bus!r}, {len(self.hours)} period(s))"
        )


def _hours(hours: Any, faults: list[Fault]) -> FloatArray:
    try:
        array = np.atleast_1d(np.array(hours, dtype=float))
    except (TypeError, ValueError):
        faults.append(Fault("network", "not numbers", None, "hours", hours, "give the length of each period [h]"))
        return np.ones(1)
    if array.ndim != 1 or array.size == 0:
        faults.append(Fault("network", "must be a list of lengths", None, "hours", hours))
        return np.ones(1)
    for period in np.flatnonzero(~(np.isfinite(array) & (array > 0))):
        faults.append(Fault("network", "must be finite and above zero", f"period {period}", "hours", array[period]))
    array.setflags(write=False)
    return array


def _positive(value: Any, name: str, faults: list[Fault]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        faults.append(Fault("network", "must be a finite number above zero", None, name, value))
    return number


def _crossed(frame: pd.DataFrame, table: str, key: str, low: str, high: str, faults: list[Fault]) -> None:
    for row in frame.loc[frame[low] > frame[high]].to_dict("records"):
        faults.append(Fault(table, f"{low} {row[low]!r} is above {high}", row[key], high, row[high]))
