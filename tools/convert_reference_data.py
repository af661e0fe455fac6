"""Converts published test networks into the CSV folders of mktopt/networks/data. Run once; the result is committed.

    python tools/convert_reference_data.py SOURCE [CASE ...]

SOURCE is a folder of reference tables: per feeder `balanced/nodes.csv` and `balanced/branches.csv` (the positive
sequence equivalent), `lines.csv`, `loads.csv`, `sources.csv`; for ieee8500 the three-phase tables as read back from
OpenDSS; for case300 MATPOWER-like tables. case33bw, case30, case57 and case118 come from pandapower, which must be
installed. What each step drops is said in mktopt/networks/data/SOURCES.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mktopt.networks import matpower
from mktopt.networks.csv_folder import write_network
from mktopt.networks.defaults import FIRM_DEFAULTS, firm_orders
from mktopt.networks.network import Network
from mktopt.networks.prosumers import Prosumers

DATA = Path(__file__).resolve().parents[1] / "mktopt" / "networks" / "data"
OPENDSS = "IEEE PES test feeder, from the OpenDSS model in dss-extensions/electricdss-tst, commit 3b208397"
OPENDSS_LICENCE = "BSD-3-Clause (EPRI, DSS-Extensions), see LICENSE.electricdss-tst.txt"
FEEDERS = {
    "ieee13": "single-line equivalent; regulator at its mean controlled tap",
    "ieee34": "single-line equivalent of the Mod1 model; regulators at their mean controlled taps; substation and "
    "regulators are stiff stand-ins (25 and 60 MVA)",
    "ieee37": "single-line equivalent with the 2500 kVA, 8 % substation transformer; regulator at its mean controlled "
    "tap",
    "ieee123": "single-line equivalent; regulators at their mean controlled taps; the two tie switches are open "
    "branches",
    "eulv": "European low voltage feeder at nominal load (1 kW each); no line ratings published",
}


def main(arguments: list[str]) -> None:
    """Converts the named cases, or all of them."""
    if not arguments:
        sys.exit(__doc__)
    source, wanted = Path(arguments[0]), arguments[1:]
    makers = {name: lambda name=name: feeder(source / name, name) for name in FEEDERS}
    makers["ieee8500"] = lambda: ieee8500(source / "ieee8500")
    makers["ieee37_aggregators"] = lambda: ieee37_aggregators(source / "ieee37_aggregators")
    makers["case300"] = lambda: case300(source / "case300")
    makers |= {name: lambda name=name: pandapower_case(name) for name in ("case33bw", "case30", "case57", "case118")}
    for name in wanted or makers:
        makers[name]()
        print(name, "written")


def feeder(folder: Path, name: str) -> None:
    """A feeder from its positive-sequence tables; loads one by one, not summed per bus."""
    nodes = pd.read_csv(folder / "balanced" / "nodes.csv", dtype={"bus": str})
    source = pd.read_csv(folder / "sources.csv", dtype={"bus": str}).iloc[0]
    branches = _balanced_branches(pd.read_csv(folder / "balanced" / "branches.csv", dtype=str))
    lines = pd.read_csv(folder / "lines.csv", dtype={"name": str})
    length = dict(zip(lines["name"], lines["length_m"] / 1000.0, strict=True))
    branches["length_km"] = branches.pop("element").map(length).round(9)
    loads = pd.read_csv(folder / "loads.csv", dtype={"name": str, "bus": str})
    loads = loads.rename(columns={"name": "load"})[["load", "bus", "p_kw", "q_kvar"]]
    summed = loads.groupby("bus")[["p_kw", "q_kvar"]].sum().reindex(nodes["bus"]).fillna(0.0)
    if not np.allclose(summed.to_numpy(), nodes[["p_kw", "q_kvar"]].to_numpy(), atol=1e-6):
        raise SystemExit(f"{name}: loads.csv and balanced/nodes.csv disagree")
    if name == "ieee123":
        branches = pd.concat([branches, _ties(folder)], ignore_index=True)
    capacitors = nodes[nodes["cap_kvar_at_1pu"] != 0]
    network = Network(
        buses=nodes.rename(columns={"kv_base_ll": "base_kv"})[["bus", "base_kv", "x", "y"]],
        branches=branches,
        loads=loads,
        shunts=capacitors.rename(columns={"cap_kvar_at_1pu": "b_kvar"})[["bus", "b_kvar"]],
        source_bus=source["bus"],
        source_v_pu=float(source["v_pu"]),
        name=name,
    )
    about = {"source": OPENDSS, "licence": OPENDSS_LICENCE, "notes": FEEDERS[name]}
    write_network(network, DATA / name, about=about, compact=True)


def _balanced_branches(table: pd.DataFrame) -> pd.DataFrame:
    number = table[["r_ohm", "x_ohm", "b_us", "ratio", "s_max_kva"]].astype(float)
    return pd.DataFrame({
        "branch": table["bus_from"] + "-" + table["bus_to"],
        "from_bus": table["bus_from"],
        "to_bus": table["bus_to"],
        "r_ohm": number["r_ohm"],
        "x_ohm": number["x_ohm"],
        "b_us": number["b_us"],
        "ratio": number["ratio"],
        "rating_kva": number["s_max_kva"].fillna(np.inf),
        "kind": table["kind"].replace({"regulator": "transformer", "reactor": "line"}),
        "element": table["element"],
    })  # fmt: skip


def _ties(folder: Path) -> pd.DataFrame:
    """The open tie switches of ieee123, between the buses that they would connect (not their dummy ends)."""
    switches = pd.read_csv(folder / "switches.csv", dtype=str)
    ties = switches[switches["normal_state"] == "open"].copy()
    ties["bus_to"] = ties["bus_to"].str.removesuffix("_open")
    ties[["element", "kind", "ratio", "b_us", "s_max_kva"]] = ["", "switch", 1.0, 0.0, np.inf]
    return _balanced_branches(ties).assign(in_service=False)


# -- ieee8500 -----------------------------------------------------------------------------------------------------


def ieee8500(folder: Path) -> None:
    """The 8500-node feeder as a radial single-line equivalent, regulators at the taps that hold their set points."""
    kv = pd.read_csv(folder / "buses.csv", index_col="bus")["kv_base_ll"]
    transformers = pd.read_csv(folder / "transformers.csv")
    parts = [_lines_8500(folder, kv), _transformers_8500(transformers, kv), _reactors_8500(folder)]
    branches = _merge_parallel(pd.concat(parts, ignore_index=True))
    loads = pd.read_csv(folder / "loads.csv").rename(columns={"name": "load"})
    source = pd.read_csv(folder / "sources.csv").iloc[0]
    network = Network(
        buses=pd.read_csv(folder / "buses.csv").rename(columns={"kv_base_ll": "base_kv"})[["bus", "base_kv", "x", "y"]],
        branches=branches,
        loads=loads[["load", "bus", "p_kw", "q_kvar"]],
        shunts=_shunts_8500(folder, transformers),
        source_bus=source["bus"],
        source_v_pu=float(source["v_pu"]),
        name="ieee8500",
    )
    network = _set_taps(network, _set_points(folder, transformers))
    about = {
        "source": OPENDSS,
        "licence": OPENDSS_LICENCE,
        "notes": "radial single-line reduction of 4,876 buses; regulators at the taps that hold their set points in "
        "it; see SOURCES.md for what it drops",
    }
    write_network(network, DATA / "ieee8500", about=about, compact=True)


def _lines_8500(folder: Path, kv: pd.Series) -> pd.DataFrame:
    lines = pd.read_csv(folder / "lines.csv")
    share = lines["n_phases"] / 3.0
    rating = np.sqrt(3.0) * lines["bus_from"].map(kv) * lines["ampacity_a"] * share
    return pd.DataFrame({
        "from_bus": lines["bus_from"],
        "to_bus": lines["bus_to"],
        "r_ohm": lines["r_bal_ohm"],
        "x_ohm": lines["x_bal_ohm"],
        "b_us": lines["b1_us"] * share,
        "ratio": 1.0,
        "rating_kva": rating.fillna(np.inf).round(6),
        "length_km": (lines["length_m"] / 1000.0).round(9),
        "kind": np.where(lines["is_switch"] == 1, "switch", "line"),
    })  # fmt: skip


def _transformers_8500(table: pd.DataFrame, kv: pd.Series) -> pd.DataFrame:
    """Two-winding units in series; centre-tapped ones with equally loaded halves.

    Equal halves carry half the current each: R = R1 + R2 / 2, X = X1 + X2 / 2 with the star of the three leakages.
    Single-phase units count as a three-phase one of the same kVA per loaded phase.
    """
    tapped = table["windings"] == 3
    r = table["r1_pct"] + np.where(tapped, table["r2_pct"] / 2, table["r2_pct"])
    star1 = (table["xhl_pct"] + table["xht_pct"] - table["xlt_pct"]) / 2
    star2 = (table["xhl_pct"] + table["xlt_pct"] - table["xht_pct"]) / 2
    x = np.where(tapped, star1 + star2 / 2, table["xhl_pct"])
    line_to_line = np.where(table["phases"] == 1, np.sqrt(3.0), 1.0)
    base = 1000.0 * (table["kv1"] * line_to_line) ** 2 / table["kva1"]
    ratio = (table["kv2"] * line_to_line / table["bus2"].map(kv)) / (
        table["kv1"] * line_to_line / table["bus1"].map(kv)
    )
    return pd.DataFrame({
        "from_bus": table["bus1"],
        "to_bus": table["bus2"],
        "r_ohm": r / 100.0 * base,
        "x_ohm": x / 100.0 * base,
        "b_us": 0.0,
        "ratio": np.where(table["is_regulator"] == 1, 1.0, ratio),
        "rating_kva": table["kva1"],
        "kind": "transformer",
    })  # fmt: skip


def _reactors_8500(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "reactors.csv")
    columns = table.rename(columns={"bus_from": "from_bus", "bus_to": "to_bus"})[
        ["from_bus", "to_bus", "r_ohm", "x_ohm"]
    ]
    return columns.assign(b_us=0.0, ratio=1.0, rating_kva=np.inf, kind="line")


def _merge_parallel(table: pd.DataFrame) -> pd.DataFrame:
    """Single-phase branches between the same two buses as one three-phase branch."""
    rows = []
    for (start, end), group in table.groupby(["from_bus", "to_bus"], sort=False):
        row = group.iloc[0].to_dict()
        z = 1.0 / np.sum(1.0 / (group["r_ohm"] + 1j * group["x_ohm"]).to_numpy())
        row |= {"r_ohm": float(z.real), "x_ohm": float(z.imag), "b_us": float(group["b_us"].sum())}
        row |= {"rating_kva": float(group["rating_kva"].sum()), "branch": f"{start}-{end}"}
        rows.append(row)
    merged = pd.DataFrame(rows)
    for column in ("r_ohm", "x_ohm", "b_us", "ratio", "rating_kva"):
        merged[column] = [float(f"{value:.9g}") for value in merged[column]]
    return merged


def _shunts_8500(folder: Path, transformers: pd.DataFrame) -> pd.DataFrame:
    capacitors = pd.read_csv(folder / "capacitors.csv")
    banks = pd.DataFrame({"bus": capacitors["bus"], "g_kw": 0.0, "b_kvar": capacitors["kvar"]})
    iron = pd.DataFrame({
        "bus": transformers["bus1"],
        "g_kw": transformers["noloadloss_pct"] / 100.0 * transformers["kva1"],
        "b_kvar": -transformers["imag_pct"] / 100.0 * transformers["kva1"],
    })  # fmt: skip
    both = pd.concat([banks, iron[iron["b_kvar"] != 0]])
    return both.groupby("bus", sort=False)[["g_kw", "b_kvar"]].sum().round(9).reset_index()


def _set_points(folder: Path, transformers: pd.DataFrame) -> Mapping[str, float]:
    """Voltage [p.u.] that each regulator branch holds at its to-bus: mean of its phases."""
    regulators = pd.read_csv(folder / "regulators.csv").merge(transformers, left_on="transformer", right_on="name")
    held = regulators["vreg_v"] * regulators["pt_ratio"] / (1000.0 * regulators["kv2"])
    return held.groupby(regulators["bus1"] + "-" + regulators["bus2"], sort=False).mean().to_dict()


def _set_taps(network: Network, set_points: Mapping[str, float]) -> Network:
    """Regulator ratios in steps of 1/160 such that a power flow at nominal load meets their set points."""
    import pandapower as pp

    for _ in range(8):
        net = network.to_pandapower()
        pp.runpp(net, init_vm_pu=network.topology.no_load_v_pu, init_va_degree="dc", max_iteration=50)
        volts = dict(zip(net.bus["name"], net.res_bus["vm_pu"], strict=True))
        branches = network.branches.set_index("branch")
        changed = False
        for branch, held in set_points.items():
            row = branches.loc[branch]
            wanted = row["ratio"] * held / volts[row["to_bus"]]
            ratio = float(np.clip(np.round((wanted - 1.0) * 160.0), -16, 16) / 160.0 + 1.0)
            changed |= ratio != row["ratio"]
            branches.loc[branch, "ratio"] = ratio
        network = network.replace(branches=branches.reset_index())
        if not changed:
            break
    return network


# -- transmission cases, and the aggregators' feeder ----------------------------------------------------------------


def case300(folder: Path) -> None:
    """IEEE 300 with the thermal limits and costs of PGLib and the source voltage of the solved MATPOWER case."""
    tables = {
        name: pd.read_csv(folder / f"pglib_{name}.csv").to_numpy(dtype=float) for name in ("bus", "branch", "gen")
    }
    cost = pd.read_csv(folder / "pglib_gencost.csv").to_numpy(dtype=float)
    volts = pd.read_csv(folder / "matpower_gen.csv").set_index("bus")["vg_pu"]
    reference = int(tables["bus"][tables["bus"][:, 1] == 3, 0][0])
    gen = tables["gen"].copy()
    gen[gen[:, 0] == reference, 5] = volts[reference]
    case = matpower.MatpowerCase("case300", 100.0, tables["bus"], gen, tables["branch"], cost)
    network = matpower.to_network(case)
    orders, costs = matpower.to_orders(case, network)
    about = {
        "source": "IEEE 300-bus test case (UW archive, R. D. Christie) with limits and costs of PGLib-OPF v23.07",
        "licence": "CC BY 4.0 (PGLib-OPF)",
        "notes": "line limits, angle limits and costs of PGLib-OPF; voltage of the source bus from the solved case",
        "defaults": f"offers from the generators' costs; {FIRM_DEFAULTS}",
        "fixed_cost_per_h": costs["fixed_cost_per_h"],
    }
    write_network(network, DATA / "case300", orders=orders, about=about, compact=True)


def pandapower_case(name: str) -> None:
    """One of pandapower's networks with offers from its costs and firm bids of its loads."""
    import pandapower.networks as cases

    from mktopt.networks.pandapower import from_pandapower, offers_from_pandapower

    net = getattr(cases, name)()
    bus = net.bus["name"].astype(str)
    net.line["name"] = [f"{bus[a]}-{bus[b]}" for a, b in zip(net.line["from_bus"], net.line["to_bus"], strict=True)]
    net.trafo["name"] = [f"{bus[a]}-{bus[b]}" for a, b in zip(net.trafo["hv_bus"], net.trafo["lv_bus"], strict=True)]
    for table, prefix in (("load", "load_"), ("gen", "gen_"), ("ext_grid", "gen_")):
        net[table]["name"] = [prefix + bus[position] for position in net[table]["bus"]]
    network = from_pandapower(net, name)
    offers, costs = offers_from_pandapower(net, network)
    about = {
        "source": f"pandapower.networks.{name} (after MATPOWER's case of that name)",
        "licence": "BSD-3-Clause (pandapower); the figures are public test data",
        "notes": "identical to pandapower's network; ratings are those of pandapower, none where it has 99999 kA",
        "defaults": f"offers from the generators' costs; {FIRM_DEFAULTS}",
        "fixed_cost_per_h": costs["fixed_cost_per_h"],
    }
    write_network(network, DATA / name, orders=offers.merge(firm_orders(network)), about=about, compact=True)


def ieee37_aggregators(folder: Path) -> None:
    """The synthetic aggregator case: feeder without background load, 483 agents with logarithmic utility."""
    nodes = pd.read_csv(folder / "nodes.csv", dtype={"bus": str}).rename(columns={"kv_base_ll": "base_kv"})
    table = pd.read_csv(folder / "branches.csv", dtype=str)
    branches = _balanced_branches(table).drop(columns="element")
    network = Network(
        buses=nodes[["bus", "base_kv", "v_min_pu", "v_max_pu", "x", "y"]],
        branches=branches,
        source_bus="799",
        source_v_pu=1.0,
        name="ieee37_aggregators",
    )
    agents = pd.read_csv(folder / "agents.csv", dtype={"agent": str, "aggregator_bus": str})
    prosumers = Prosumers(pd.DataFrame({
        "agent": agents["agent"],
        "bus": agents["aggregator_bus"],
        "aggregator": agents["aggregator_bus"],
        "utility": "log",
        "a": agents["alpha_usd_per_h"],
        "b": agents["beta_kw"],
        "generation_kw": agents["generation_kw"],
    }))  # fmt: skip
    scenarios = pd.read_csv(folder / "scenarios.csv")
    about: dict[str, Any] = {
        "source": "synthetic agents (made for this package, seed 37) on the IEEE 37 feeder of OpenDSS",
        "licence": f"agents: free; feeder: {OPENDSS_LICENCE}",
        "notes": "bus 799 is held at 1.0 p.u.; no background load: the 483 agents replace it; agents are logarithmic, "
        "so orders need Prosumers.to_orders(max_error=...)",
    }
    about["c0"] = {row.scenario: float(row.c0_usd_per_kwh) for row in scenarios.itertuples()}
    rating, stressed = table["s_max_kva"].astype(float), table["s_max_stressed_kva"].astype(float)
    derated = np.flatnonzero((rating != stressed).to_numpy())
    about["stressed"] = {branches["branch"][position]: float(stressed[position]) for position in derated}
    write_network(network, DATA / "ieee37_aggregators", about=about, compact=True)
    prosumers.to_csv(DATA / "ieee37_aggregators" / "prosumers.csv")


if __name__ == "__main__":
    main(sys.argv[1:])
