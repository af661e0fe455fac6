"""A clearing as a person or a program wants to see it in a terminal, and all of it in a folder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.text import Text

from mktopt.errors import DataError, Fault, InfeasibleError, MktoptError, UnboundedError
from mktopt.networks.files import write_folder
from mktopt.terminal import Format, say, say_plainly, show, stdout, write_csv, write_json

if TYPE_CHECKING:
    from mktopt.clearing.result import Clearing

TABLES = (
    "prices", "dispatch", "flows", "voltages", "constraints", "order_prices", "price_parts", "reactive_prices",
    "relaxation", "contingencies", "agents", "aggregators", "trace",
    "trades", "payments", "groups",
)  # fmt: skip
TITLES = {
    "prices": "Prices",
    "dispatch": "Dispatch (payment: what the order pays; negative: what it receives)",
    "flows": "Flows",
    "voltages": "Voltages",
    "constraints": "Constraints of your own (dual: welfare gained per unit of the right-hand side)",
    "order_prices": "What each order faces",
    "price_parts": "Prices in parts [$/kWh]",
    "reactive_prices": "Prices of reactive power [$/kvarh]",
    "relaxation": "Slack of the relaxation",
    "agents": "Agents (payoff: utility less payment; gain: what another p would add at the posted unit cost)",
    "aggregators": "Aggregators (p_kw: what they draw from the grid; unit cost in $/kWh)",
    "trace": "Iterations",
    "trades": "Trades over private wires (from seller to buyer)",
    "payments": "Players (payment: what the player pays; saving: less than by itself)",
    "groups": "Groups that private wires join",
    "contingencies": "Contingencies (loading of the emergency rating of the branch that is worst off)",
}
LIMIT = 16  # rows
PARTS_LIMIT = 40  # rows of prices in parts; beyond that the dearest and the cheapest are shown
WIDE = 6  # periods that stand beside each other
IDLE = 1e-6  # kW
TINY = 5e-7  # $/kWh: what no column of prices shows
# What a user writes and `Clearing.save` writes too.
INPUTS = ("network.toml", "buses.csv", "branches.csv", "loads.csv", "shunts.csv", "orders.csv", "prosumers.csv")
PLOTS = ("prices", "network", "curves")


def print_clearing(clearing: Clearing, form: Format, table: str | None, saved: Path | None, origin: str) -> None:
    """Prints the clearing on stdout: the whole report or JSON, or one table of it (CSV: always one)."""
    if form is Format.json:
        write_json(as_document(clearing) if table is None else tidy(clearing, table))
    elif form is Format.csv:
        write_csv(tidy(clearing, table or "prices"))
    elif table is not None:
        show(_few_parts(tidy(clearing, table)) if table == "price_parts" else tidy(clearing, table), TITLES[table])
    else:
        _print_report(clearing, saved, origin)


def tidy(clearing: Clearing, table: str) -> pd.DataFrame:
    """One table of the result; raises MktoptError where the flow has none of it."""
    frame: pd.DataFrame | None = getattr(clearing, table)
    if frame is None and table in ("agents", "aggregators", "trace"):
        raise MktoptError(f"mechanism '{clearing.mechanism}' has no {table}; choose another --table or --mechanism gne")
    if frame is None and table in ("trades", "payments", "groups"):
        advice = "choose another --table or --mechanism coalition"
        raise MktoptError(f"mechanism '{clearing.mechanism}' has no {table}; {advice}")
    if frame is None and table == "contingencies":
        raise MktoptError("no contingencies were asked for; add --mechanism dlmp --contingencies n-1")
    if frame is None:
        raise MktoptError(f"flow '{clearing.flow}' has no {table}; choose another --table or --flow")
    return frame


def _print_report(clearing: Clearing, saved: Path | None, origin: str) -> None:
    console = stdout()
    good = clearing.certificate.ok()
    for line in clearing.summary().splitlines():
        style = "" if not line.startswith("  proof") else "green" if good else "bold red"
        console.print(Text(line, style=style or ("bold" if not line.startswith(" ") else "")), soft_wrap=True)
    who = "orders" if clearing.prosumers is None else "agents"
    console.print(Text(f"  {who}    {origin}"), soft_wrap=True)
    parts = telling_parts(clearing)
    if parts.empty or len(clearing.network.hours) > 1:  # the table of parts holds the price too
        prices = _prices(clearing)
        _show(prices, "Prices [$/kWh]", _rest("prices", saved) if len(prices) > LIMIT else "")
    _show_parts(clearing, parts)
    if clearing.aggregators is None:
        _show_dispatch(clearing, saved)
    else:  # hundreds of agents say less than their aggregators
        stdout().print()
        show(_for_people(clearing, clearing.aggregators), TITLES["aggregators"], PARTS_LIMIT, _rest("agents", saved))
    _show_coalition(clearing, saved)
    _show(_for_people(clearing, congested(clearing)), "Branches at their rating", _rest("flows", saved))
    _show(clearing.constraints, TITLES["constraints"], "")
    if clearing.contingencies is not None:
        worst_first = clearing.contingencies.sort_values("loading_percent", ascending=False, kind="stable")
        note = _rest("contingencies", saved) if len(worst_first) > LIMIT else ""
        _show(_for_people(clearing, worst_first), TITLES["contingencies"], note)


def _show_coalition(clearing: Clearing, saved: Path | None) -> None:
    """Who trades over private wires, and what all pay."""
    for name in ("trades", "payments") if clearing.coalition is not None else ():
        table = tidy(clearing, name)
        _show(_for_people(clearing, table), TITLES[name], _rest(name, saved) if len(table) > LIMIT else "")


def _show_dispatch(clearing: Clearing, saved: Path | None) -> None:
    """The orders that trade."""
    traded, idle = _dispatch(clearing)
    if len(traded):
        notes = [f"orders that trade nothing are left out ({idle})"] if idle else []
        notes += [_rest("dispatch", saved)] if idle or len(traded) > LIMIT else []
        _show(traded, "Dispatch (a negative payment is received)", "; ".join(notes))
    else:
        stdout().print("\nNothing is traded: no bid is worth more than the cheapest offer that can reach it.")


def _rest(table: str, saved: Path | None) -> str:
    return f"all {table}: {saved / table}.csv" if saved else f"all {table}: --table {table}"


def _show(frame: pd.DataFrame, title: str, note: str) -> None:
    if len(frame):
        stdout().print()
        show(frame, title, LIMIT, note)


def telling_parts(clearing: Clearing) -> pd.DataFrame:
    """Prices and those of their parts that are not zero everywhere; empty where a price is energy and nothing else."""
    parts = _few_parts(clearing.price_parts)
    return parts if set(parts.columns[3:]) - {"energy"} else parts[:0]


def _few_parts(parts: pd.DataFrame) -> pd.DataFrame:
    """`parts` without the columns that are zero everywhere."""
    said = [name for name in parts.columns[3:] if (parts[name].abs() > TINY).any()]
    return parts[["bus", "period", "price", *said]]


def _show_parts(clearing: Clearing, parts: pd.DataFrame) -> None:
    """The parts of all prices where they are few, else of the dearest and the cheapest."""
    table, title, notes = _for_people(clearing, parts), TITLES["price_parts"], []
    if many := len(table) > PARTS_LIMIT:
        table, title = table.sort_values("price", ascending=False, kind="stable"), f"{title}, dearest and cheapest"
        notes.append("all of them: --table price_parts")
    if note := str(clearing.price_parts.attrs.get("note") or ""):
        notes.append(note)
    if len(table):
        stdout().print()
        show(table, title, LIMIT if many else 0, "; ".join(notes))


def _prices(clearing: Clearing) -> pd.DataFrame:
    """Prices with a column per period, where these are few."""
    prices, periods = clearing.prices, len(clearing.network.hours)
    if periods == 1:
        return prices.drop(columns="period")
    if periods > WIDE:
        return prices
    wide = prices["price"].to_numpy().reshape(-1, periods)
    buses = clearing.network.buses["bus"]
    return pd.DataFrame({"bus": buses, **{f"period {t}": wide[:, t] for t in range(periods)}})


def _dispatch(clearing: Clearing) -> tuple[pd.DataFrame, int]:
    """The orders that trade, and how many do not."""
    dispatch = clearing.dispatch
    trades = (dispatch["quantity_kw"].abs() > IDLE).to_numpy()
    return _for_people(clearing, dispatch[trades]), int((~trades).sum())


def congested(clearing: Clearing) -> pd.DataFrame:
    """The flows that use all of their branch's rating."""
    flows = clearing.flows
    return flows[flows["loading_percent"] >= 100 - 1e-3] if "loading_percent" in flows else flows[:0]


def _for_people(clearing: Clearing, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` without what says nothing: the only period, participants that are called like their orders."""
    if len(clearing.network.hours) == 1:
        frame = frame.drop(columns=["period", "worst_period"], errors="ignore")
    if "participant" in frame and (frame["participant"] == frame["order"]).all():
        frame = frame.drop(columns="participant")
    return frame


def as_document(clearing: Clearing) -> dict[str, Any]:
    """The clearing as one JSON-like document."""
    certificate = clearing.certificate
    return {
        "mechanism": clearing.mechanism,
        "flow": clearing.flow,
        "network": clearing.network.name,
        "hours": clearing.network.hours.tolist(),
        "solver": clearing.solver,
        "status": {"stopped": clearing.status.stopped.value, "has": clearing.status.has.value},
        "welfare": clearing.welfare,
        "certificate": {"ok": certificate.ok(), **vars(certificate)},
        "equilibrium": None if clearing.equilibrium is None else vars(clearing.equilibrium),
        "coalition": _scalars(clearing.coalition),
        "prices_unique": clearing.prices_unique,
        "notes": list(clearing.notes),
        **{name: getattr(clearing, name) for name in TABLES},
    }


def _scalars(record: Any) -> dict[str, Any] | None:
    """What a record holds beside its tables."""
    if record is None:
        return None
    return {name: value for name, value in vars(record).items() if not isinstance(value, pd.DataFrame)}


def print_no_market(error: InfeasibleError | UnboundedError, form: Format) -> None:
    """For a program that reads JSON: why there is no clearing, on stdout; people read it on stderr."""
    if form is not Format.json:
        return
    if isinstance(error, UnboundedError):
        write_json({"status": {"stopped": "unbounded"}, "culprits": error.culprits})
        return
    report = error.report
    write_json({
        "status": {"stopped": "infeasible"},
        "conflict": getattr(report, "conflict", ()),
        "relaxation": getattr(report, "relaxation", ()),
    })  # fmt: skip


def refuse_unwritable(folder: Path) -> None:
    """Raises DataError, before any work is done, where `folder` cannot be written or holds a market's own files."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        problem = "it is a file" if nearest == folder else f"{str(nearest)!r} is a file"
        problem = f"cannot be written: {problem}"
        raise DataError(Fault(str(folder), problem, hint="choose a folder"))
    own = [name for name in INPUTS if (folder / name).exists()]
    if own and not (folder / "manifest.json").exists():
        problem = f"holds {', '.join(own)}, which saving a result here would replace"
        raise DataError(Fault(str(folder), problem, hint="choose a new folder"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        problem = f"cannot be written: no permission in {str(nearest)!r}"
        raise DataError(Fault(str(folder), problem, hint="choose a folder that you may write to"))


def save(clearing: Clearing, folder: Path) -> None:
    """Saves tables, inputs and manifest in `folder`, and pictures where matplotlib is there; says so on stderr."""
    clearing.save(folder)
    if importlib.util.find_spec("matplotlib") is None:
        say(f"saved in {folder} (no pictures: pip install 'mktopt[plot]')")
        return
    write_folder(folder, lambda aside: _draw(clearing, aside), ["voltages.png", "convergence.png", "trades.png"])
    say(f"saved in {folder}: tables, inputs, manifest.json and {', '.join(f'{name}.png' for name in _plots(clearing))}")


def _plots(clearing: Clearing) -> tuple[str, ...]:
    more = ["voltages"] * (clearing.voltages is not None)
    wired = clearing.coalition is not None and bool(clearing.network.private.any())
    more += ["trades"] * wired
    more += ["convergence"] * (clearing.trace is not None and len(clearing.trace) > 0)
    return (*PLOTS, *more)


def _draw(clearing: Clearing, folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    period = _telling_period(clearing)
    for name in _plots(clearing):
        options = {} if name in ("prices", "convergence") else {"period": period}
        figure = getattr(clearing.plot, name)(**options).figure
        figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
        pyplot.close(figure)


def _telling_period(clearing: Clearing) -> int:
    """The period whose prices differ most between buses: where the wires say something."""
    prices = clearing.prices["price"].groupby(clearing.prices["period"])
    return int((prices.max() - prices.min()).fillna(0.0).round(9).idxmax())


def print_demo(folder: Path) -> None:
    """The headline of the demo, and what it left in `folder`."""
    stdout().print()
    figures = pd.read_csv(folder / "figures.csv")
    show(figures, "Use case 1: the paper's figures and ours [cents/kWh]", 0, "more in summary.md")
    say_plainly(f"\nLeft in {folder}:")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".md", ".csv", ".png"))
    for kind, ending in (("text", ".md"), ("pictures", ".png"), ("tables", ".csv")):
        names = ", ".join(path.name for path in files if path.suffix == ending)
        say_plainly(f"  {kind:9} {names}")
    saved = [path.parent.name for path in sorted(folder.glob("*/manifest.json"))]
    say_plainly(f"  {'clearings':9} {', '.join(f'{name}/' for name in saved)} (read one with mktopt.Clearing.load)")
