"""Private wires drawn at random over a public grid, and people with something to give or to ask for at its buses.

Between any two of n buses a wire exists with probability d, the edge density, each for itself (Erdos and Renyi):

    edges ~ Binomial(n (n - 1) / 2, d),      every set of so many edges equally likely
    d = a number in [0, 1], or 0, 1/n^2, 1/n, 1/log n  (natural logarithm)

Buses are placed anew, uniformly at random on the area, so that a wire has a length [km] and from it a resistance:

    r_ohm = length_km r_ohm_per_km (U_from / U_wire)^2

U_from: base_kv of the from-bus, on which r_ohm counts; U_wire: what the wire itself runs at, the same by default. With
U_wire given, wires of one length lose alike wherever they end: rho = length_km r_ohm_per_km / (1000 U_wire^2) [1/kW].

Places and edges come from streams of their own and places from the unit square: one seed puts the buses at the same
spots of any area, under any density. Source: poster "Coalitions on private infrastructure", which publishes densities
(0, 1/n^2, 1/n, 1/log n) and areas (1 km x 1 km, 100 km x 100 km); wires and endowments are ours.
Reference: Erdos and Renyi, On random graphs I, Publicationes Mathematicae 6 (1959); Gilbert, Random graphs, Annals of
Mathematical Statistics 30 (1959), for edges that exist each for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import DataError, Fault
from mktopt.networks.defaults import VOLL
from mktopt.networks.network import PRIVATE, FloatArray, IntArray, Network
from mktopt.networks.orders import Orders
from mktopt.networks.tables import refuse, unknown_values

DENSITIES = ("0", "1/n^2", "1/n", "1/log n")
RETAIL, FEED_IN = 0.20, 0.08
MAIN_GRID = "main_grid"
# Who keeps the rents of public wires.
PUBLIC_GRID = "public grid"
ENDS = "ends"
TABLE = "private wires"
# The main grid trades up to so many times all that agents need and give.
_PLENTY = 10.0
_FORMS = {"1/n^2": lambda n: n**-2.0, "1/n": lambda n: 1.0 / n, "1/logn": lambda n: 1.0 / np.log(n)}


@dataclass(frozen=True)
class Wire:
    """A type of wire: resistance and reactance [ohm/km], rating [kVA], voltage that it runs at [kV, None: its bus's].

    The default is an overhead line of 336.4 kcmil ACSR without a limit, as in the synthetic feeders. Raises DataError
    for a negative or infinite resistance, a reactance that is no number, a rating or a voltage that is not above zero.
    """

    r_ohm_per_km: float = 0.19
    x_ohm_per_km: float = 0.39
    rating_kva: float = np.inf
    kv: float | None = None

    def __post_init__(self) -> None:
        checks = (
            ("r_ohm_per_km", 0.0 <= self.r_ohm_per_km < np.inf, "must be finite and not negative"),
            ("x_ohm_per_km", abs(self.x_ohm_per_km) < np.inf, "must be finite"),
            ("rating_kva", self.rating_kva > 0.0, "must be above zero (inf: no limit)"),
            ("kv", self.kv is None or 0.0 < self.kv < np.inf, "must be above zero (None: that of the from-bus)"),
        )
        refuse(Fault("wire", problem, None, name, getattr(self, name)) for name, fine, problem in checks if not fine)


def density_of(density: float | str, n: int) -> float:
    """The edge density meant by `density` among `n` buses: a number, or text such as '1/n', '1/n^2', '1/log n', '0.2'.

    Raises DataError for text that is none of these and for numbers outside [0, 1].
    """
    text = re.sub(r"[\s()*]", "", str(density).lower().replace("²", "^2").replace("**", "^"))
    try:
        value = _FORMS[text](max(n, 3)) if text in _FORMS else float(text)
    except ValueError:
        value = np.nan
    if isinstance(density, (bool, np.bool_)) or not 0.0 <= value <= 1.0:
        hint = f"a number, or one of {', '.join(DENSITIES)}"
        raise DataError(Fault(TABLE, "the edge density must lie in [0, 1]", None, "density", density, hint))
    return float(value)


def with_private_wires(
    network: Network,
    density: float | str,
    area_km: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    *,
    wire: Wire | None = None,
    owner: str = ENDS,
    among: Sequence[str] | None = None,
    place: bool = True,
) -> Network:
    """`network` with private wires at random between its buses, at new places x, y [km].

    density: see `density_of`; area_km: its sides [km]; seed: of numpy's generator, the same seed giving the same
    network; wire: their type, `Wire()` by default; owner: 'ends' (the two buses, 'A+B') or the name of a third party;
    among: the buses that may have wires, all by default; place: False keeps x and y, then in km. Public branches stay
    as they are, and so do private ones that the network has. Raises DataError for a density outside [0, 1], sides that
    are not above zero, an unknown or doubled bus, and buses without places.
    """
    buses = _chosen(network, among)
    d = density_of(density, len(buses))
    seeds = np.random.SeedSequence(seed).spawn(2)
    spots, edges = (np.random.default_rng(one) for one in seeds)
    table = _placed(network, area_km, spots) if place else network.buses
    first, second = random_edges(len(buses), d, edges)
    ends = pd.DataFrame({"from_bus": buses[first], "to_bus": buses[second]})
    return add_private_wires(network.replace(buses=table) if place else network, ends, wire, owner=owner)


def add_private_wires(network: Network, ends: pd.DataFrame, wire: Wire | None = None, *, owner: str = ENDS) -> Network:
    """`network` with private wires between the given buses, as long as the way between their places x, y [km].

    ends: columns from_bus, to_bus; further columns of table `branches` (branch, r_ohm, x_ohm, rating_kva, length_km,
    owner) stand in place of what follows from `wire`, `Wire()` by default, and `owner` (see `with_private_wires`).
    Raises DataError for an unknown bus, a negative resistance, a name that is taken, a bus without a place whose wire
    has no length.
    """
    wire, faults = wire or Wire(), list[Fault]()
    table = ends.reset_index(drop=True)
    for column in ("from_bus", "to_bus"):
        if column not in table:
            raise DataError(Fault(TABLE, "the column is missing", column=column, hint="name the buses at both ends"))
        table[column] = table[column].astype(str).astype(object)
    names = table["from_bus"] + "-" + table["to_bus"]
    table = table if "branch" in table else table.assign(branch=_free(names + ":private", network))
    for column in ("from_bus", "to_bus"):
        unknown_values(table, TABLE, "branch", column, network.buses["bus"], faults, "buses")
    refuse(faults)
    if "length_km" not in table:
        table["length_km"] = _lengths(network, table)
    length = table["length_km"].to_numpy(dtype=float)
    kv = network.buses["base_kv"].to_numpy()[network.bus_positions(table["from_bus"])]
    ohm = length if wire.kv is None else length * (kv / wire.kv) ** 2
    given: dict[str, Any] = {
        "r_ohm": wire.r_ohm_per_km * ohm,
        "x_ohm": wire.x_ohm_per_km * ohm,
        "rating_kva": wire.rating_kva,
        "kind": PRIVATE,
        "owner": table["from_bus"] + "+" + table["to_bus"] if owner == ENDS else owner,
    }
    for column, values in given.items():
        if column not in table or column == "kind":
            table[column] = values
    if table.empty:
        return network
    return network.replace(branches=pd.concat([network.branches, table], ignore_index=True))


def _free(names: pd.Series[Any], network: Network) -> pd.Series[Any]:
    """`names`, numbered where they stand twice or the network has them already."""
    taken = set(network.branches["branch"])
    if names.is_unique and taken.isdisjoint(names):
        return names
    found = []
    for name in names:
        k, fresh = 1, name
        while fresh in taken:
            k += 1
            fresh = f"{name}{k}"
        taken.add(fresh)
        found.append(fresh)
    return pd.Series(found, dtype=object)


def random_edges(n: int, density: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Edges (i, j), i < j, of a random graph on n nodes in which each exists with probability `density`.

    Their number is drawn first and then that many different pairs, which takes no more than the edges that there are.
    """
    pairs = n * (n - 1) // 2
    count = int(rng.binomial(pairs, density)) if pairs else 0
    picked = np.sort(rng.choice(pairs, size=count, replace=False, shuffle=False)) if count else np.zeros(0, np.int64)
    last = pairs - 1 - picked  # pairs counted from the end: those below row i from the bottom are i (i + 1) / 2
    row = ((np.sqrt(8.0 * last + 1.0) - 1.0) / 2.0).astype(np.int64)
    row -= row * (row + 1) // 2 > last  # the root of a large number may be rounded across a whole one
    row += (row + 1) * (row + 2) // 2 <= last
    first = n - 2 - row
    second = n - 1 - (last - row * (row + 1) // 2)
    return first.astype(np.int64), second.astype(np.int64)


def _chosen(network: Network, among: Sequence[str] | None) -> npt.NDArray[Any]:
    if among is None:
        return np.asarray(network.buses["bus"].to_numpy(dtype=object))
    table, faults = pd.DataFrame({"bus": [str(bus) for bus in among]}, dtype=object), list[Fault]()
    unknown_values(table, TABLE, "bus", "bus", network.buses["bus"], faults, "buses")
    for bus in table["bus"][table["bus"].duplicated()].unique():
        faults.append(Fault(TABLE, "the bus stands twice", bus, "among", bus, "name it once"))
    refuse(faults)
    return np.asarray(table["bus"].to_numpy(dtype=object))


def _placed(network: Network, area_km: tuple[float, float], rng: np.random.Generator) -> pd.DataFrame:
    sides = np.asarray(area_km, dtype=float)
    if sides.shape != (2,) or not (np.isfinite(sides) & (sides > 0.0)).all():
        raise DataError(Fault(TABLE, "needs two sides above zero [km]", None, "area_km", area_km, "such as (1.0, 1.0)"))
    x, y = (rng.random((network.n_buses, 2)) * sides).T
    return network.buses.assign(x=x, y=y)


def _lengths(network: Network, table: pd.DataFrame) -> FloatArray:
    places = network.buses[["x", "y"]].to_numpy(dtype=float)
    first, second = (network.bus_positions(table[column]) for column in ("from_bus", "to_bus"))
    length = np.hypot(*(places[first] - places[second]).T)
    if (lost := np.isnan(length)).any():
        row = int(lost.argmax())
        bus = table.at[row, "from_bus" if np.isnan(places[first[row]]).any() else "to_bus"]
        hint = "give x and y [km] in table 'buses', or length_km"
        raise DataError(
            Fault("buses", "a private wire needs a length, and its bus has no place", bus, "x", np.nan, hint)
        )
    return np.asarray(length)


def endowments(
    network: Network,
    seed: int = 0,
    *,
    size_kw: Any = 1.0,
    surplus_share: float = 0.5,
    retail: float = RETAIL,
    feed_in: float = FEED_IN,
    voll: float = VOLL,
    generation_share: float = 0.0,
    generation_kw: Any = None,
    generation_cost: tuple[float, float] | None = None,
) -> Orders:
    """Firm orders of one agent at every bus but the source's, and the main grid's there, in every period.

    An agent has a surplus with probability `surplus_share`, else a need; how much is uniform between 0 and twice
    `size_kw`, a number or one per bus of table `buses` [kW]; zero leaves the agent out. A surplus is a firm offer at 0,
    a need a firm bid at `voll`; orders and participants are named after buses. Participant `main_grid` sells at
    `retail` and buys at `feed_in` [$/kWh], ten times all needs and surpluses.

    With probability `generation_share` an agent has a generator, too: order `<bus>:generation`, an offer that need not
    be taken, of a width uniform between 0 and twice `generation_kw` (None: `size_kw`) and at a marginal cost that rises
    evenly between two prices, uniform within `generation_cost` [$/kWh] (None: from feed-in to retail), the same in
    every period. Generators have a stream of their own: the rest of the orders is the same with and without them.

    The same seed gives the same orders. Raises DataError where retail is below feed-in, a share is outside [0, 1],
    sizes are negative, the costs are no two numbers in ascending order.
    """
    size = np.broadcast_to(np.asarray(size_kw, dtype=float), network.n_buses)
    power = size if generation_kw is None else np.broadcast_to(np.asarray(generation_kw, dtype=float), network.n_buses)
    costs = (min(feed_in, retail), retail) if generation_cost is None else generation_cost
    _refuse_endowments({"size_kw": size, "generation_kw": power}, surplus_share, retail, feed_in)
    _refuse_generation(generation_share, costs)
    agents = _agents(network, seed, size, surplus_share, voll)
    own = _generators(network, seed, power, generation_share, costs)
    most = pd.concat([agents, own]).groupby("period")["width_kw"].sum().max()
    main = _main_grid(network, _PLENTY * max(float(np.nan_to_num(most)), 1.0), retail, feed_in)
    table = pd.concat([agents, own, main], ignore_index=True)
    return Orders(
        table[["order", "participant", "bus", "period", "side", "minimum_kw"]],
        table[["order", "period", "width_kw", "price_start", "price_end"]].assign(segment=0),
    )


def _agents(network: Network, seed: int, size: FloatArray, surplus_share: float, voll: float) -> pd.DataFrame:
    """Firm surpluses and needs, a row per order and period."""
    rng, shape = np.random.default_rng(seed), (network.n_buses, len(network.hours))
    gives = rng.random(shape) < surplus_share
    kw = rng.random(shape) * 2.0 * size[:, None]
    kw[network.source_index] = 0.0
    at, period = np.nonzero(kw)
    amount, offer = kw[at, period], gives[at, period]
    bus = network.buses["bus"].to_numpy(dtype=object)[at]
    agents = pd.DataFrame({
        "order": bus,
        "participant": bus,
        "bus": bus,
        "period": period,
        "side": np.where(offer, "offer", "bid").astype(object),
        "minimum_kw": amount,
        "width_kw": amount,
        "price_start": np.where(offer, 0.0, voll),
        "price_end": np.where(offer, 0.0, voll),
    })  # fmt: skip
    # An order has one side: where an agent gives in one period and needs in another it has two orders.
    both = agents.groupby("order", sort=False)["side"].transform("nunique") > 1
    agents.loc[both, "order"] = agents["order"] + ":" + agents["side"]
    return agents


def _generators(
    network: Network, seed: int, power: FloatArray, share: float, costs: tuple[float, float]
) -> pd.DataFrame:
    """Elastic offers with rising costs, a row per order and period."""
    rng, periods = np.random.default_rng([seed, 1]), len(network.hours)
    owns = rng.random(network.n_buses) < share
    width = rng.random(network.n_buses) * 2.0 * power
    prices = np.sort(costs[0] + rng.random((network.n_buses, 2)) * (costs[1] - costs[0]), axis=1)
    owns[network.source_index] = False
    at = np.repeat(np.flatnonzero(owns & (width > 0.0)), periods)
    bus = network.buses["bus"].to_numpy(dtype=object)[at]
    return pd.DataFrame({
        "order": np.array([f"{name}:generation" for name in bus], dtype=object),
        "participant": bus,
        "bus": bus,
        "period": np.tile(np.arange(periods), len(at) // periods),
        "side": "offer",
        "minimum_kw": 0.0,
        "width_kw": width[at],
        "price_start": prices[at, 0],
        "price_end": prices[at, 1],
    })  # fmt: skip


def _main_grid(network: Network, width: float, retail: float, feed_in: float) -> pd.DataFrame:
    """The main grid's offer and bid, a row each per period."""
    periods = len(network.hours)
    price = np.tile([retail, feed_in], periods)
    return pd.DataFrame({
        "order": np.tile([f"{MAIN_GRID}:supply", f"{MAIN_GRID}:feed_in"], periods),
        "participant": MAIN_GRID,
        "bus": network.source_bus,
        "period": np.repeat(np.arange(periods), 2),
        "side": np.tile(["offer", "bid"], periods),
        "minimum_kw": 0.0,
        "width_kw": width,
        "price_start": price,
        "price_end": price,
    })  # fmt: skip


def _refuse_endowments(sizes: dict[str, FloatArray], share: float, retail: float, feed_in: float) -> None:
    faults = []
    for name, size in sizes.items():
        if not (fine := np.isfinite(size) & (size >= 0.0)).all():
            faults.append(Fault("endowments", "must be finite and not negative", None, name, size[~fine][0]))
    if not 0.0 <= share <= 1.0:
        faults.append(Fault("endowments", "must lie in [0, 1]", None, "surplus_share", share))
    if not retail >= feed_in:
        problem = f"retail is below feed-in ({feed_in:g} $/kWh): buying to sell would pay without end"
        faults.append(Fault("endowments", problem, None, "retail", retail, "the export price must not exceed it"))
    refuse(faults)


def _refuse_generation(share: float, costs: tuple[float, float]) -> None:
    faults, ends = [], np.asarray(costs, dtype=float)
    if not 0.0 <= share <= 1.0:
        faults.append(Fault("endowments", "must lie in [0, 1]", None, "generation_share", share))
    if ends.shape != (2,) or not np.isfinite(ends).all() or ends[0] > ends[1]:
        hint = "such as (0.05, 0.15)"
        faults.append(Fault("endowments", "needs two prices, the lower first", None, "generation_cost", costs, hint))
    refuse(faults)
