"""Figures 5 to 7 of OpenGridGym's use case 1, drawn from our own numbers. Prices in cents/kWh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mktopt.clearing.drawing import BID, OFFER, aggregate_curve, pyplot
from mktopt.clearing.result import Clearing
from mktopt.market_power import consumer_prices, mean_prices

FIRST, SECOND, FLEXIBLE = "#878787", "#b2182b", "#2166ac"
# The paper's mean consumer prices: share of flexible bidders, cents/kWh, whether our parameters were fitted to it.
PUBLISHED_MEANS = ((0.08, 6.64, True), (0.75, 5.28, False))
TOP = 13.0  # cents/kWh: above every offer that sells; inelastic bids go on far beyond


def dispatch_figure(first: Clearing, second: Clearing) -> Any:
    """Fig. 5: what each inelastic consumer pays before and after, and the curves behind it."""
    figure, (left, right) = _two()
    _consumers(left, [(first, FIRST, "act 1: offers at cost, no congestion"),
                      (second, SECOND, "act 2: offers raised, two branches full")])  # fmt: skip
    left.set_title("What each of the 28 consumers pays", fontsize=10.5)
    _curve(right, first, "offer", FIRST, "offers at cost (act 1)", ls="--")
    _curve(right, second, "offer", OFFER, "offers raised (act 2)")
    _curve(right, second, "bid", BID, "bids, inelastic")
    _cleared(right, [(first, FIRST, "act 1"), (second, SECOND, "act 2")])
    right.set_title("Supply and demand of the whole feeder", fontsize=10.5)
    _curve_axes(right)
    figure.suptitle("Raised offers and full branches raise the prices of inelastic demand (the paper's Fig. 5)",
                    fontsize=11.5)  # fmt: skip
    return figure


def elastic_figure(inelastic: Clearing, flexible: Clearing) -> Any:
    """Fig. 6: more elastic demand curves lead to lower prices, though the offers are the same."""
    figure, (left, right) = _two()
    _curve(left, inelastic, "offer", OFFER, "offers raised (both)")
    _curve(left, inelastic, "bid", SECOND, "bids, all inelastic", ls="--")
    _curve(left, flexible, "bid", FLEXIBLE, "bids, all flexible")
    _cleared(left, [(inelastic, SECOND, "inelastic"), (flexible, FLEXIBLE, "flexible")])
    left.set_title("Supply and demand of the whole feeder", fontsize=10.5)
    _curve_axes(left)
    _consumers(right, [(inelastic, SECOND, "all inelastic"), (flexible, FLEXIBLE, "all flexible")])
    right.set_title("What each of the 28 consumers pays", fontsize=10.5)
    figure.suptitle("More elastic demand curves lead to lower prices (the paper's Fig. 6)", fontsize=11.5)
    return figure


def flexibility_figure(summary: pd.DataFrame) -> Any:
    """Fig. 7: mean consumer price against the share of flexible bidders, with its spread and the published means."""
    figure, ax = pyplot().subplots(figsize=(7.6, 4.9), layout="constrained")
    share = 100 * summary["share"].to_numpy(float)
    mean, spread = summary["mean_price"].to_numpy(float), summary["std"].to_numpy(float)
    ax.fill_between(share, summary["lowest"], summary["highest"], color=FLEXIBLE, alpha=0.12, lw=0, label="all draws")
    ax.errorbar(share, mean, spread, color=FLEXIBLE, marker="o", ms=5, lw=1.8, capsize=4,
                label="mean by kWh, with one standard deviation of the draws")  # fmt: skip
    ax.plot(share, summary["mean_price_per_head"], color="0.45", lw=1.2, ls="--", marker=".", label="mean by head")
    for at, published, fitted in PUBLISHED_MEANS:
        label = "published, fitted to" if fitted else "published, not fitted to"
        ax.plot(100 * at, published, marker="D", ms=8, ls="none", color=SECOND, mfc=SECOND if fitted else "white",
                mew=1.6, zorder=5, label=label)  # fmt: skip
        ours = float(np.interp(100 * at, share, mean))
        text = f"paper {published:.2f}\nours {ours:.2f}" + ("" if fitted else "\n(a prediction)")
        ax.annotate(text, (100 * at, published), xytext=(10, 14) if fitted else (-10, -4), textcoords="offset points",
                    ha="left" if fitted else "right", va="bottom" if fitted else "top", fontsize=9,
                    color=SECOND)  # fmt: skip
    ax.set_xlabel("share of the 28 bidders who are flexible [%]")
    ax.set_ylabel("mean consumer price [cents/kWh]")
    ax.set_title("Flexible demand lowers the price on a congested feeder (the paper's Fig. 7)", fontsize=11.5)
    low = min(float(summary["lowest"].min()), *(published for _, published, _ in PUBLISHED_MEANS))
    ax.set_ylim(low - 0.45, float(summary["highest"].max()) + 0.35)
    ax.set_xticks(share)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8.5, loc="upper right")
    return figure


def _two() -> Any:
    return pyplot().subplots(1, 2, figsize=(12.0, 4.6), layout="constrained", width_ratios=(1.25, 1.0))


def _consumers(ax: Any, cases: list[tuple[Clearing, str, str]]) -> None:
    width = 0.8 / len(cases)
    for number, (clearing, colour, label) in enumerate(cases):
        table = consumer_prices(clearing)
        at = np.arange(len(table)) + (number - 0.5 * (len(cases) - 1)) * width
        ax.bar(at, 100 * table["price"], width=width, color=colour, label=label)
    ax.set_xticks(range(len(table)), table["bus"], rotation=90, fontsize=8)
    ax.set_xlim(-0.7, len(table) - 0.3)
    ax.set_xlabel("bus of the consumer, from the feeder head outwards")
    ax.set_ylabel("price [cents/kWh]")
    ax.set_ylim(0, 9.2)
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=8.5, loc="upper left", ncols=len(cases))


def _curve(ax: Any, clearing: Clearing, side: str, colour: str, label: str, ls: str = "-") -> None:
    quantity, price = aggregate_curve(clearing.orders, side, 0)
    ax.plot(quantity, 100 * price, color=colour, lw=2, ls=ls, label=label)


def _cleared(ax: Any, cases: list[tuple[Clearing, str, str]]) -> None:
    """Where each case cleared: its quantity and its mean consumer price."""
    for clearing, colour, label in cases:
        means = mean_prices(clearing)
        text = f"{label}: {means['energy_kwh']:,.0f} kW at {100 * means['mean_price']:.2f} on average"
        ax.plot(means["energy_kwh"], 100 * means["mean_price"], marker="o", ms=8, color=colour, mec="white",
                ls="none", zorder=5, label=text)  # fmt: skip


def _curve_axes(ax: Any) -> None:
    ax.set_xlim(0, None)
    ax.set_ylim(0, TOP)
    ax.set_xlabel("quantity [kW]")
    ax.set_ylabel("price [cents/kWh]")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8.5, loc="lower right")
