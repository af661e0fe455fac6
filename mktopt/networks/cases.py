"""Named cases: a network and a market on it, ready to be cleared.

`load_case("ieee34")` gives both; `load_network` gives the network alone. Either also takes a path: a folder of CSV
files, a MATPOWER `.m` file or a pandapower `.json` file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mktopt.errors import DataError, Fault, unknown_name
from mktopt.networks.csv_folder import read_about, read_network
from mktopt.networks.defaults import FEEDER_DEFAULTS, FIRM_DEFAULTS, feeder_orders, firm_orders
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.networks.prosumers import Prosumers

DATA = Path(__file__).parent / "data"
SYNTHETIC = "synthetic:radial:N:seed"


class Case(NamedTuple):
    """A network with a default market on it.

    network; orders: the default orders, None where the case has prosumers that need an inexact conversion;
    prosumers: None where the case has none; meta: source, licence, notes and what the defaults are.
    """

    network: Network
    orders: Orders | None
    prosumers: Prosumers | None
    meta: dict[str, Any]


# One line each: what the case is. Its tables are in data/<name>.
CASES: dict[str, str] = {
    "ieee13": "IEEE 13-node feeder, single-line",
    "ieee34": "IEEE 34-node feeder (Mod1), single-line",
    "ieee37": "IEEE 37-node feeder, single-line",
    "ieee123": "IEEE 123-node feeder, single-line, two tie switches",
    "eulv": "European low voltage feeder, 906 buses",
    "ieee8500": "IEEE 8500-node feeder, radial single-line reduction, 4,876 buses",
    "case33bw": "Baran and Wu's 33-bus feeder with five tie lines",
    "case30": "30-bus transmission case with costs",
    "case57": "IEEE 57-bus case with costs",
    "case118": "IEEE 118-bus case with costs",
    "case300": "IEEE 300-bus case with the limits and costs of PGLib",
    "eight_node": "eight agents on a public grid with private edges (coalitions)",
    "ieee37_aggregators": "IEEE 37 with 17 aggregators of 483 log-utility agents",
    "ieee37_aggregators:stressed": "the same with three lines derated, so that they bind",
    SYNTHETIC: "random radial feeder of N buses with 2 N affine orders",
}


def case_names() -> list[str]:
    """Names that `load_case` and `load_network` take; the synthetic one stands for all N and seeds."""
    return list(CASES)


def load_case(name: str | Path) -> Case:
    """The network and default market of a named case, or of a path.

    A folder's market is its `orders.csv`, a MATPOWER or pandapower file's comes from its costs; where there is none,
    the feeder defaults of `defaults.feeder_orders` apply. What was taken is said in `meta["defaults"]`. Raises
    UnknownNameError or DataError.
    """
    if _is_path(name):
        return _from_path(Path(name))
    text = str(name)
    if text.startswith("synthetic"):
        return _synthetic(text)
    if text not in CASES:
        raise unknown_name("case", text, case_names())
    return _variant(_from_folder(folder_of(text)), text)


def load_network(name: str | Path) -> Network:
    """The network of a named case, or of a path (CSV folder, `.m`, pandapower `.json`)."""
    if _is_path(name):
        return _reader(Path(name))[0](Path(name))
    if str(name) in CASES and ":" not in str(name):
        return read_network(folder_of(str(name)))
    return load_case(name).network


def folder_of(name: str) -> Path:
    """The folder with the tables of a named case; a variant such as "ieee37_aggregators:stressed" has those of the
    case that it varies."""
    return DATA / name.split(":")[0]


def _variant(case: Case, name: str) -> Case:
    """`case` with the ratings of the variant that `name` asks for after its colon, which its [about] holds [kVA]."""
    if ":" not in name:
        return case
    network = case.network.with_ratings(case.meta[name.split(":")[1]]).replace(name=name)
    return case._replace(network=network, meta={**case.meta, "name": name})


def _is_path(name: str | Path) -> bool:
    """Whether `name` is a path and no case: it is a Path, has a slash or a known ending, or exists."""
    if isinstance(name, Path):
        return True
    if name in CASES or name.startswith("synthetic:"):
        return False
    return "/" in name or Path(name).suffix in (".m", ".json") or Path(name).exists()


def _from_folder(folder: Path) -> Case:
    network = read_network(folder)
    about = read_about(folder)
    prosumers: Prosumers | None = None
    if (folder / "prosumers.csv").exists():
        prosumers = replace(Prosumers.from_csv(folder / "prosumers.csv"), meta={"c0": about.get("c0", {})})
    orders: Orders | None = None
    if (folder / "orders.csv").exists():
        orders = Orders.from_csv(folder / "orders.csv")
        if "wholesale" in about:  # what the main grid's energy costs [$/kWh], for mechanism coalition
            orders = replace(orders, meta={**orders.meta, "wholesale": about["wholesale"]})
        about.setdefault("defaults", "orders.csv of the folder")
    elif prosumers is None:
        orders = feeder_orders(network)
        about.setdefault("defaults", FEEDER_DEFAULTS)
    else:
        about.setdefault("defaults", "none: see Prosumers.to_orders")
    return Case(network, orders, prosumers, {"name": network.name, **about})


def _from_matpower(path: Path) -> Case:
    from mktopt.networks import matpower

    data = matpower.read_case(path)
    network = matpower.to_network(data)
    meta: dict[str, Any] = {"name": network.name, "source": str(path)}
    if data.gencost is None:
        return Case(
            network, feeder_orders(network), None, meta | {"defaults": f"no costs in the file: {FEEDER_DEFAULTS}"}
        )
    orders, costs = matpower.to_orders(data, network)
    return Case(network, orders, None, meta | costs | {"defaults": f"offers from gencost; {FIRM_DEFAULTS}"})


def _from_pandapower(path: Path) -> Case:
    from mktopt.networks.pandapower import from_pandapower, offers_from_pandapower, read_json

    net = read_json(path)
    network = from_pandapower(net)
    meta: dict[str, Any] = {"name": network.name, "source": str(path)}
    if len(net.poly_cost) + len(net.pwl_cost) == 0:
        return Case(
            network, feeder_orders(network), None, meta | {"defaults": f"no costs in the file: {FEEDER_DEFAULTS}"}
        )
    offers, costs = offers_from_pandapower(net, network)
    orders = offers.merge(firm_orders(network))
    return Case(network, orders, None, meta | costs | {"defaults": f"offers from its costs; {FIRM_DEFAULTS}"})


def _reader(path: Path) -> tuple[Callable[[Path], Network], Callable[[Path], Case]]:
    """How to read `path`: a function for the network and one for the case."""
    if path.suffix == ".m":
        return Network.from_matpower, _from_matpower
    if path.suffix == ".json":
        return Network.from_pandapower, _from_pandapower
    if path.is_file():
        hint = "give a folder with network.toml, a MATPOWER .m file or a pandapower .json file"
        raise DataError(Fault(str(path), "not a network file", hint=hint))
    return read_network, _from_folder


def _from_path(path: Path) -> Case:
    return _reader(path)[1](path)


def _synthetic(name: str) -> Case:
    from mktopt.networks.synthetic import radial

    parts = name.split(":")
    hint = f"write {SYNTHETIC}, for example synthetic:radial:1000:0 (seed 0 where left out)"
    if parts[:2] != ["synthetic", "radial"] or len(parts) not in (3, 4):
        if len(parts) >= 2 and parts[1] != "radial":
            raise unknown_name("synthetic shape", parts[1], ["radial"])
        raise DataError(Fault("case", f"cannot read the name {name!r}", hint=hint))
    if not all(part.isascii() and part.isdigit() for part in parts[2:]):
        raise DataError(Fault("case", f"N and seed of {name!r} must be whole numbers", hint=hint))
    seed = int(parts[3]) if len(parts) == 4 else 0
    network, orders = radial(int(parts[2]), seed)
    meta = {
        "name": network.name,
        "source": "random recursive tree, generated",
        "licence": "free",
        "seed": seed,
        "defaults": "one falling bid per bus, one rising offer per bus; the source offers twice the load",
    }
    return Case(network, orders, None, meta)
