"""Tables and verdicts of `coalition_losses.py` (no script): means, what must hold always, what the poster orders.

    losses        percent of demand: wires' losses over the firm needs of the same hour
    cost          $ per MWh of demand, less that of behaviour `cooperative` without private wires in the same draw
    mean, error   over draws; error: standard deviation / sqrt(draws)

Comparisons are paired: both sides are of one draw, so that what draws have in common cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

BEHAVIOURS = ("ad_hoc", "self_interested", "cooperative", "integrated")
PLACE = ["study", "area_km", "density", "draw"]
# A share of what demand costs at the main grid's price; solvers answer to about 1e-7 of it.
EXACT = 1e-6
NONE, RARE, MIDDLE, DENSE = "0", "1/n^2", "1/n", "1/log n"
# "Hardly matters": the poster's own areas differ by less than this but for one figure.
NEAR = 0.02
# Losses this near are the same, in percent of demand.
TIE = 1e-6


def measured(rows: pd.DataFrame, wholesale: dict[str, float]) -> pd.DataFrame:
    """`rows` with losses in percent of demand and `cost_change` [$/MWh]; wholesale: of each study [$/kWh].

    Adds public_percent, private_percent, loss_percent, cost_change, scale (what demand costs at the wholesale price
    [$]) and imbalance, what import, surpluses, needs, shunts and losses miss of adding up, as a share of demand.
    """
    table = rows.copy()
    demand = table["demand_kwh"]
    for kind in ("public", "private"):
        table[f"{kind}_percent"] = 100.0 * table[f"{kind}_loss_kwh"] / demand
    table["loss_percent"] = table["public_percent"] + table["private_percent"]
    table["scale"] = table["study"].map(wholesale) * demand
    alone = table[(table["density"] == NONE) & (table["behaviour"] == "cooperative")]
    base = alone.set_index(["study", "area_km", "draw"])["resource_cost"]
    at = pd.MultiIndex.from_frame(table[["study", "area_km", "draw"]])
    table["cost_change"] = 1e3 * (table["resource_cost"] - base.reindex(at).to_numpy()) / demand
    lost = table["public_loss_kwh"] + table["private_loss_kwh"]
    given = table["import_kwh"] - table["export_kwh"] + table["surplus_kwh"]
    table["imbalance"] = (given - demand - table["shunt_kwh"] - lost).abs() / demand
    return table


def wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """`column` with a row per place (study, area, density, draw) and a column per behaviour."""
    return table.pivot(index=PLACE, columns="behaviour", values=column).reindex(columns=list(BEHAVIOURS))


def means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """area_km, behaviour, density, mean, error (standard error), draws of `column`."""
    groups = table.groupby(["area_km", "behaviour", "density"], sort=False)[column]
    found = groups.agg(mean="mean", error="sem", draws="count").reset_index()
    order = {name: k for k, name in enumerate(BEHAVIOURS)}
    return found.sort_values(["area_km", "behaviour"], key=lambda c: c.map(order) if c.name == "behaviour" else c,
                             kind="stable", ignore_index=True)  # fmt: skip


def as_printed(found: pd.DataFrame, densities: list[str], digits: int = 2) -> pd.DataFrame:
    """`means` as the poster has them: a row per area and behaviour, a column per density, mean ± standard error."""
    text = [f"{mean:.{digits}f} ± {error:.{digits}f}" if np.isfinite(mean) else "-"
            for mean, error in zip(found["mean"], found["error"], strict=True)]  # fmt: skip
    spread = found.assign(text=text).pivot(index=["area_km", "behaviour"], columns="density", values="text")
    return spread.reindex(pd.MultiIndex.from_frame(found[["area_km", "behaviour"]].drop_duplicates()))[
        [d for d in densities if d in spread]
    ].reset_index()


# -- what must hold ----------------------------------------------------------------------------------------------------


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """claim, measured, asked (at most), verdict: the worst of all cells of all studies.

    Costs are compared as shares of what demand costs at the main grid's price. A cell without a result fails; a claim
    about behaviours that were not run is left out.
    """
    cost = wide(table, "resource_cost").div(wide(table, "scale").max(axis=1), axis=0)
    settled = wide(table, "settled_cost")["integrated"] / wide(table, "scale").max(axis=1)
    densities = dict(table.groupby("density")["edge_density"].max())
    none = cost[cost.index.get_level_values("density") == NONE]
    rows = [
        ("cells without a result", table["problem"].notna().sum(), 0),
        ("clearings whose certificate fails", (~table["certificate"].astype(bool)).sum(), 0),
        ("records of trades and payments whose certificate fails", (~table["record"].astype(bool)).sum(), 0),
        ("import, surpluses, needs, shunts and losses miss of adding up", table["imbalance"].max(), EXACT),
        ("losses that no wire has (slack cones)", (table["phantom_kw"] / table["demand_kwh"]).max(), EXACT),
        ("integrated costs more than cooperative", (cost["integrated"] - cost["cooperative"]).max(), EXACT),
        ("cooperative costs more than ad hoc", (cost["cooperative"] - cost["ad_hoc"]).max(), EXACT),
        ("cooperative costs more than self-interested", (cost["cooperative"] - cost["self_interested"]).max(), EXACT),
        ("cooperative costs more than integrated settled", (cost["cooperative"] - settled).max(), EXACT),
        ("density 0: ad hoc and cooperative differ", (none["ad_hoc"] - none["cooperative"]).abs().max(), EXACT),
        ("density 0: self-interested and cooperative differ",
         (none["self_interested"] - none["cooperative"]).abs().max(), EXACT),
        ("more wires cost a cooperative or integrated grid more", _dearer(cost, densities), EXACT),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["claim", "measured", "asked"]).dropna(ignore_index=True)
    met = found["measured"] <= found["asked"]
    return found.assign(verdict=met.map({True: "holds", False: "FAILS"}))


def _dearer(cost: pd.DataFrame, density: dict[str, float]) -> float:
    """Most that a higher density adds to the cost of those who may leave wires idle (wires of a draw are nested)."""
    worst, rising = [0.0], sorted(density, key=lambda name: density[name])
    for behaviour in ("cooperative", "integrated"):
        by_density = cost[behaviour].unstack("density")
        # Not every study has every density: each is held against the next lower one that its draw has.
        steps = by_density[rising] - by_density[rising].ffill(axis=1).shift(axis=1)
        worst.append(float(np.nanmax(steps.to_numpy(dtype=float), initial=0.0)))
    return max(worst)


# -- what the poster's table orders ------------------------------------------------------------------------------------


class Ordering(NamedTuple):
    """Less is lost in cell `less` than in cell `more`, both (behaviour, density)."""

    text: str
    less: tuple[str, str]
    more: tuple[str, str]


def _falls(behaviour: str) -> list[Ordering]:
    steps = ((RARE, NONE), (MIDDLE, RARE), (DENSE, MIDDLE))
    return [Ordering(f"{behaviour}: {a} below {b}", (behaviour, a), (behaviour, b)) for a, b in steps]


ORDERINGS = (
    *_falls("cooperative"),
    *_falls("integrated"),
    Ordering("self-interested: 1/n^2 above 0", ("self_interested", NONE), ("self_interested", RARE)),
    Ordering("self-interested: 1/n below 0", ("self_interested", MIDDLE), ("self_interested", NONE)),
    Ordering("self-interested: 1/log n below 1/n", ("self_interested", DENSE), ("self_interested", MIDDLE)),
    Ordering("ad hoc: 1/n^2 above 0", ("ad_hoc", NONE), ("ad_hoc", RARE)),
    Ordering("ad hoc: 1/n below 0", ("ad_hoc", MIDDLE), ("ad_hoc", NONE)),
    Ordering("ad hoc: 1/log n below 1/n", ("ad_hoc", DENSE), ("ad_hoc", MIDDLE)),
    Ordering("1/n^2: ad hoc below self-interested", ("ad_hoc", RARE), ("self_interested", RARE)),
    Ordering("1/n: self-interested below ad hoc", ("self_interested", MIDDLE), ("ad_hoc", MIDDLE)),
    Ordering("1/log n: self-interested below ad hoc", ("self_interested", DENSE), ("ad_hoc", DENSE)),
    *(Ordering(f"{d}: cooperative below {name}", ("cooperative", d), (other, d))
      for d in (RARE, MIDDLE, DENSE) for other, name in (("ad_hoc", "ad hoc"), ("self_interested", "self-interested"))),
    *(Ordering(f"{d}: integrated below cooperative", ("integrated", d), ("cooperative", d))
      for d in (NONE, RARE, MIDDLE, DENSE)),
)  # fmt: skip


ORDERED = ["area_km", "ordering", "poster_less", "poster_more", "less", "more", "difference", "error", "share", "ties",
           "verdict"]  # fmt: skip


def orderings(table: pd.DataFrame, poster: pd.DataFrame) -> pd.DataFrame:
    """The poster's orderings of losses, in the draws of one study.

    area_km, ordering, poster_less, poster_more (as printed), less, more (means, percent of demand), difference, error
    (of the mean difference), share (of draws that have it), ties (share of draws where both are the same), verdict:
    `yes` where the mean difference is above two standard errors, `no` where it is below minus two, else `open`.
    """
    losses = table.pivot(index=["area_km", "draw"], columns=["behaviour", "density"], values="loss_percent")
    printed = poster.set_index(["area_km", "behaviour", "density"])["loss"]
    found = []
    for area in losses.index.unique("area_km"):
        here = losses.loc[area]
        for text, less, more in ORDERINGS:
            if less not in here or more not in here:
                continue
            gap = (here[more] - here[less]).dropna()
            error = float(gap.sem()) if len(gap) > 1 else np.nan
            found.append({
                "area_km": area, "ordering": text,
                "poster_less": printed.get((area, *less)), "poster_more": printed.get((area, *more)),
                "less": here[less].mean(), "more": here[more].mean(), "difference": gap.mean(), "error": error,
                "share": float((gap > TIE).mean()), "ties": float((gap.abs() <= TIE).mean()),
                "verdict": _verdict(float(gap.mean()), error),
            })  # fmt: skip
    return pd.DataFrame(found, columns=ORDERED)


def _verdict(difference: float, error: float) -> str:
    if not abs(difference) > 2.0 * error:
        return "open"
    return "yes" if difference > 0 else "no"


def areas(table: pd.DataFrame, poster: pd.DataFrame, densities: Sequence[str]) -> pd.DataFrame:
    """Whether the area matters: behaviour, density, small, large (mean losses), ratio of ours, error, ratio printed."""
    sides = sorted(table["area_km"].unique())
    if len(sides) < 2:
        return pd.DataFrame()
    small, large = sides[0], sides[-1]
    losses = table.pivot(index=["behaviour", "density", "draw"], columns="area_km", values="loss_percent")
    printed = poster.set_index(["area_km", "behaviour", "density"])["loss"]
    found = []
    for behaviour in BEHAVIOURS:
        for density in densities:
            if (behaviour, density) not in losses.index.droplevel("draw"):
                continue
            pair = losses.loc[(behaviour, density)]
            ratio = pair[large].mean() / pair[small].mean()
            of = (printed.get((area, behaviour, density), np.nan) for area in (large, small))
            found.append({
                "behaviour": behaviour, "density": density, "small": pair[small].mean(), "large": pair[large].mean(),
                "ratio": ratio, "poster_ratio": float(np.divide(*of)),
                "verdict": "hardly matters" if abs(ratio - 1.0) <= NEAR else "matters",
            })  # fmt: skip
    return pd.DataFrame(found)


def outcome(table: pd.DataFrame) -> dict[str, Any]:
    """The mean losses of one study in few figures, for the table of sensitivities."""
    found = table.groupby(["behaviour", "density"])["loss_percent"].mean()
    return {f"{behaviour} {density}": found.get((behaviour, density), np.nan)
            for behaviour in BEHAVIOURS[:3] for density in (NONE, RARE, MIDDLE, DENSE)
            if density != NONE or behaviour == "cooperative"}  # fmt: skip
