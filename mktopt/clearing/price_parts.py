"""Prices in parts: what the price at a bus owes to energy, losses, each limit of the grid, and rows of the user's own.

    price_b = energy + loss + congestion + voltage + security + reactive + custom + unassigned

With u the grid's own variables and F(u, p) = 0 its physics at injections p, all balances but the source's among them,
the optimality conditions in u are

    F_u' y = sum_c R_c          so that          y = sum_c w_c,      F_u' w_c = R_c

and y on the balance of bus b is its price: each cause c has its share w_c there, which is its multiplier times its
sensitivity to a withdrawal at b that the source serves (one factorisation for all of them; see `causes.py` for R).

    energy       the price at the source bus                      (0 in a reactive price)
    loss         energy x what the source must send beyond the kW that is drawn: marginal losses, what shunts draw with
                 the voltage, and in a reactive price all that a kvar makes it send
    reactive     price of the source's reactive power x what it must send of it
    congestion, voltage, security, custom       multipliers of limits x their sensitivities
    unassigned   energy x marginal losses of branches whose cone is slack: no power flow binds their current

A tight cone is an equality. A slack one is taken as one that keeps its distance. Since the market is indifferent to its
current, its shares cancel in the sum of all parts: what `unassigned` takes from the loss there, parts of limits hold
with the other sign. Where the physics does not fix all flows (a meshed grid under `transport`) the w_c are those of
least error; where it leaves a price open (a flow that the user fixed cuts buses off) the rest is `unassigned`, too.
Reference: Papavasiliou, "Analysis of distribution locational marginal prices", IEEE Trans. Smart Grid 9 (2018); Conejo,
Castillo, Minguez and Garcia-Bertrand, Decomposition Techniques in Mathematical Programming (2006), chapter 8.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.adjoint import Adjoint
from mktopt.clearing.causes import Ints, Pull, grid_conditions
from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import MktoptError, unknown_name

PARTS = ("energy", "loss", "congestion", "voltage", "security", "reactive", "custom", "unassigned")
SHARED = ("congestion", "voltage", "security", "custom", "unassigned")
OPEN = "the grid's equations do not fix every flow and price here: what is nobody's part of a price is 'unassigned'"
# Of the greatest price: what is rounding, what is no remainder and no share, what a solver may leave unsaid.
_ROUNDING, _REMAINDER, _ACCURATE = 1e-12, 1e-9, 1e-6
_AT_ONCE = 32


def price_parts(clearing: Clearing, of: str = "active") -> pd.DataFrame:
    """What each price is made of: bus, period, price and the parts, which sum to it [$/kWh, or $/kvarh].

    of: 'active' (prices of `balance`) or 'reactive' (of `balance_q`). A price that is not there (NaN) has no parts.
    `attrs["note"]` says where the grid's equations leave something open, and where the solver left the prices less
    accurate than a millionth of the greatest, which the sum then shows; else it is ''. Raises MktoptError for a
    clearing that was loaded and for reactive prices where the flow has none, UnknownNameError for another `of`.
    """
    return clearing._price_causes.table(of)


def price_shares(clearing: Clearing, part: str, of: str = "active") -> pd.DataFrame:
    """Who causes one part of the prices: bus, period, cause, share [$/kWh, or $/kvarh].

    part: congestion (causes: branches), voltage (buses), security (contingencies), custom (rows of the user's own, or
    variables that the user has bounded) or unassigned (branches; the remainder is nobody's). Shares below 1e-9 of the
    greatest price are left out. Raises UnknownNameError for another part, and as `price_parts`.
    """
    return clearing._price_causes.shares(part, of)


class PriceParts:
    """The factorised conditions of one clearing, from which parts and shares are read."""

    def __init__(self, clearing: Clearing) -> None:
        self.clearing = clearing
        self.conditions = grid_conditions(clearing)
        self.adjoint = Adjoint(self.conditions.jacobian)

    def table(self, of: str = "active") -> pd.DataFrame:
        """See `price_parts`."""
        price, rows, factor, home = self._prices(of)
        missing, level = np.isnan(price), self._level(price)
        groups = {name: [pull for pull in self.conditions.pulls if pull.part == name] for name in PARTS}
        found = dict(zip(PARTS, self._values(list(groups.values()), rows, factor).T, strict=True))
        found["energy"] = np.nan_to_num(home) if of == "active" else np.zeros(len(price))
        found["loss"] = np.where(rows < 0, 0.0, found["loss"] - found["energy"] - found["unassigned"])
        if of == "reactive":
            found["reactive"] = np.where(self._at_source(), price, found["reactive"])
        error = self._solvers_error(rows, factor)
        note = self._add_remainder(found, price, error, level) or _doubt(float(np.abs(error).max(initial=0.0)), level)
        table = self.clearing.prices[["bus", "period"]].assign(price=price)
        for name in PARTS:
            values = np.where(np.abs(found[name]) <= _ROUNDING * level, 0.0, found[name])
            table[name] = np.where(missing, np.nan, values)
        table.attrs["note"] = note
        return table

    def shares(self, part: str, of: str = "active") -> pd.DataFrame:
        """See `price_shares`."""
        if part not in SHARED:
            raise unknown_name("part with causes", part, SHARED)
        price, rows, factor, _ = self._prices(of)
        level = self._level(price)
        grouped: dict[str, list[Pull]] = {}
        for pull in self.conditions.pulls:
            if pull.part == part:
                grouped.setdefault(pull.cause, []).append(pull)
        causes, keys = self._felt(grouped, rows, factor, _REMAINDER * level), self.clearing.prices[["bus", "period"]]
        tables = []
        for first in range(0, len(causes), _AT_ONCE):
            names = causes[first : first + _AT_ONCE]
            values = self._values([grouped[name] for name in names], rows, factor)
            at, which = np.nonzero(np.abs(values) > _REMAINDER * level)
            tables.append(keys.iloc[at].assign(cause=np.array(names, dtype=object)[which], share=values[at, which]))
        if not tables:
            return keys.iloc[:0].assign(cause=np.zeros(0, dtype=object), share=np.zeros(0))
        return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)

    def _felt(self, grouped: dict[str, list[Pull]], rows: Ints, factor: FloatArray, least: float) -> list[str]:
        """The causes that could have a share of `least`; a solver leaves multipliers to thousands that could not."""
        weights, has = np.zeros(len(self.conditions.rows)), rows >= 0
        weights[rows[has]] = factor[has]
        reach = self.adjoint.reach(weights)
        return [
            name
            for name, pulls in grouped.items()
            if sum(float(np.sum(np.abs(pull.values) * reach[pull.at])) for pull in pulls) > least
        ]

    def _prices(self, of: str) -> tuple[FloatArray, Ints, FloatArray, FloatArray]:
        """(price, row among the physics' or -1, price over dual, price at the source) per bus and period."""
        evidence, network = self.clearing.evidence, self.clearing.network
        frame: pd.DataFrame | None
        if of == "active":
            frame, rows, sign = self.clearing.prices, evidence.balance, evidence.balance_sign
        elif of == "reactive":
            frame, rows, sign = self.clearing.reactive_prices, evidence.balance_q, evidence.balance_q_sign
        else:
            raise unknown_name("kind of price", of, ("active", "reactive"))
        if frame is None:
            raise MktoptError(
                f"flow '{self.clearing.flow}' has no reactive power, so there are no reactive prices to take apart; "
                "clear with flow lindistflow, distflow or ac"
            )
        place = np.full(evidence.program.m + 1, -1)  # the last one for rows that are not there
        place[self.conditions.rows] = np.arange(len(self.conditions.rows))
        price, periods = frame["price"].to_numpy(dtype=float), len(network.hours)
        at = network.source_index * periods
        home = np.tile(price[at : at + periods], network.n_buses)
        return price, place[rows], evidence.program.sense * sign / np.tile(network.hours, network.n_buses), home

    def _values(self, groups: list[list[Pull]], rows: Ints, factor: FloatArray) -> FloatArray:
        """Shares in the prices, shape (buses and periods, groups), of several groups of right-hand sides."""
        right = np.zeros((len(self.conditions.columns), len(groups)))
        for k, group in enumerate(groups):
            for pull in group:
                right[pull.at, k] += pull.values
        return self._read(right, rows, factor)

    def _read(self, right: FloatArray, rows: Ints, factor: FloatArray) -> FloatArray:
        w = self.adjoint.solve(right)
        return np.asarray(factor[:, None] * np.vstack([w, np.zeros((1, w.shape[1]))])[rows])

    def _solvers_error(self, rows: Ints, factor: FloatArray) -> FloatArray:
        """What the solver's own inaccuracy takes from the prices, which is no part of them."""
        return self._read(self.conditions.error[:, None], rows, factor)[:, 0]

    def _level(self, price: FloatArray) -> float:
        """The size of prices: the greatest, or where all are next to nothing a share of what orders bid and ask."""
        curves = np.abs(self.clearing.orders.curves.start).max(initial=0.0)
        return float(max(np.nanmax(np.abs(price), initial=0.0), 1e-4 * curves, 1e-12))

    def _at_source(self) -> npt.NDArray[np.bool_]:
        network = self.clearing.network
        return np.repeat(np.arange(network.n_buses) == network.source_index, len(network.hours))

    def _add_remainder(self, found: dict[str, FloatArray], price: FloatArray, error: FloatArray, level: float) -> str:
        """Puts what the grid's equations leave open into `unassigned`; a sentence that says so, or ''."""
        if self.adjoint.regular:
            return ""
        rest = np.nan_to_num(price - sum(found.values()) + error)
        if not (np.abs(rest) > _REMAINDER * level).any():
            return ""
        found["unassigned"] = found["unassigned"] + rest
        return OPEN


def _doubt(error: float, level: float) -> str:
    """A sentence on prices that the solver left inaccurate, '' of others."""
    if error <= _ACCURATE * level:
        return ""
    return f"the solver left prices inaccurate by {error / level:.0e} of the greatest; the parts sum to them no closer"
