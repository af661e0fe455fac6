"""`Clearing`: a cleared market as tidy tables, with the money and the proof that it is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.errors import MktoptError, unknown_name
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.solvers.solution import Status

if TYPE_CHECKING:
    from pathlib import Path

    from mktopt.clearing.certificate import Certificate
    from mktopt.clearing.check_ac import AcCheck
    from mktopt.clearing.coalition import Coalition
    from mktopt.clearing.equilibrium import Equilibrium
    from mktopt.clearing.equilibrium_certificate import EquilibriumCertificate
    from mktopt.clearing.plots import Plots
    from mktopt.clearing.price_parts import PriceParts
    from mktopt.clearing.price_ranges import Ambiguity, PriceRanges
    from mktopt.clearing.settlement import Settlement
    from mktopt.networks.prosumers import Prosumers
    from mktopt.networks.utilities import Utility

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a certificate needs beside the tables: the solved Pyomo model, its values and multipliers.

    variables, values: shape (n,); rows, multipliers: shape (m,), each the welfare gained
    per unit of the row's right-hand side [$]; balance: the rows of `balance` in table sequence (bus by bus, period
    within), -1 where a bus has no row; balance_sign: the coefficient with which an injection enters the row; own: the
    rows of the user's own constraints, in the sequence of table `constraints`; balance_q, balance_q_sign: the same of
    `balance_q`, None where the flow has no reactive power. program, solution: the arrays that the
    solver saw and its answer (which prices come from), for the range of prices; no certificate reads them.
    """

    model: Any
    variables: list[Any]
    values: FloatArray
    rows: list[Any]
    multipliers: FloatArray
    balance: npt.NDArray[np.int64]
    balance_sign: FloatArray
    own: list[Any]
    program: Any = field(default=None, repr=False)
    solution: Any = field(default=None, repr=False)
    balance_q: npt.NDArray[np.int64] | None = None
    balance_q_sign: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Clearing:
    """The result of clearing a market. Frozen: a new clearing is a new object.

    prices: bus, period, price [$/kWh]; dispatch: order, participant, bus, side, period, quantity_kw, price [$/kWh],
    payment [$] (positive: the order pays; negative: it receives); flows: branch, period, p_kw, loading_percent;
    voltages: bus, period, v_pu, or None where the flow has none; constraints: name, index, slack, dual of the user's
    own constraints, where `dual` is the welfare [$] gained per unit by which the right-hand side rises;
    order_prices: order, period, order_price [$/kWh], what the order faces: the price of its bus plus the duals of
    other rows that contain it; reactive_prices: bus, period, price [$/kvarh], relaxation: branch, period, gap,
    phantom_kw, phantom_kvar, slack, both None where the flow has no such thing (then dispatch has no q_kvar either:
    what a bid draws and an offer gives); contingencies: what security was asked for and given, None where none was (see
    `mktopt.formulations.security`); prosumers, agents, aggregators, trace, equilibrium: who took part in an auction of
    prosumers, and how it went (see `mktopt.clearing.equilibrium`), None where orders were cleared;
    welfare [$]: value of accepted bids minus cost of accepted offers, over all hours (of an auction of prosumers: their
    utility minus the cost of the import); status: why the solver stopped, and what it has; notes: what a reader of the
    numbers must know.
    """

    prices: pd.DataFrame
    dispatch: pd.DataFrame
    flows: pd.DataFrame
    voltages: pd.DataFrame | None
    constraints: pd.DataFrame
    order_prices: pd.DataFrame
    welfare: float
    status: Status
    mechanism: str
    flow: str
    network: Network
    orders: Orders
    options: Mapping[str, Any] = field(default_factory=dict)
    flow_options: Mapping[str, Any] = field(default_factory=dict)
    solver: str = ""
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evidence: Any = field(default=None, repr=False)
    reactive_prices: pd.DataFrame | None = None
    relaxation: pd.DataFrame | None = None
    contingencies: pd.DataFrame | None = None
    prosumers: Prosumers | None = None
    agents: pd.DataFrame | None = None
    aggregators: pd.DataFrame | None = None
    trace: pd.DataFrame | None = None
    equilibrium: Equilibrium | None = None
    coalition: Coalition | None = None

    @cached_property
    def certificate(self) -> Certificate | EquilibriumCertificate:
        """Residuals, gap, regret and budget, evaluated from these tables and the model's Pyomo expressions.

        Of a clearing of prosumers: natural residual, greatest gain, budget (see
        `mktopt.clearing.equilibrium_certificate`)."""
        from mktopt.clearing.certificate import certify

        return certify(self)

    @property
    def prices_unique(self) -> bool:
        """Whether each price is the only one that supports the dispatch; see `price_interval`.

        Found out when first asked for, by one sparse factorisation and, where that leaves it open, two LPs. Raises
        MktoptError where the clearing has no evidence.
        """
        return self._ambiguity is None

    @cached_property
    def _ambiguity(self) -> Ambiguity | None:
        from mktopt.clearing.price_ranges import ambiguity

        return ambiguity(self)

    @cached_property
    def _price_ranges(self) -> PriceRanges:
        from mktopt.clearing.price_ranges import price_ranges

        return price_ranges(self)

    def price_interval(self, bus: str, period: int = 0) -> tuple[float, float]:
        """The least and the greatest price of `bus` in `period` that support the dispatch [$/kWh].

        low: what one kWh less of firm demand would save; high: what one kWh more would cost, infinite where it could
        not be served. They are equal where the price is unique. All-or-nothing decisions stand as they were taken; of a
        local optimum it is the range near this point. Two LPs. Raises UnknownNameError, and MktoptError for a clearing
        that was loaded or has no evidence.
        """
        low, high = self._price_ranges.ends(np.array([self._position(bus, period)]))
        return float(low[0]), float(high[0])

    def price_intervals(self) -> pd.DataFrame:
        """`price_interval` of every bus and period: bus, period, price, low, high [$/kWh].

        Costs two LPs per group of prices that can only move in proportion (a zone of one price), none for prices that
        the optimality conditions fix: next to nothing in most markets, seconds where many buses have each their own
        range.
        """
        low, high = self._price_ranges.ends(np.arange(len(self.prices)))
        return self.prices.assign(low=low, high=high)

    @cached_property
    def _price_causes(self) -> PriceParts:
        from mktopt.clearing.price_parts import PriceParts

        return PriceParts(self)

    @cached_property
    def price_parts(self) -> pd.DataFrame:
        """What each price is made of: bus, period, price, energy, loss, congestion, voltage, security, reactive,
        custom, unassigned [$/kWh]; see `mktopt.clearing.price_parts`.

        Found out when first asked for, by one sparse factorisation. Raises MktoptError for a clearing that was loaded.
        """
        from mktopt.clearing.price_parts import price_parts

        return price_parts(self)

    @cached_property
    def reactive_price_parts(self) -> pd.DataFrame:
        """The same of the reactive prices [$/kvarh]; raises MktoptError where the flow has no reactive power."""
        from mktopt.clearing.price_parts import price_parts

        return price_parts(self, of="reactive")

    def price_shares(self, part: str, of: str = "active") -> pd.DataFrame:
        """Who causes one part of the prices: bus, period, cause, share [$/kWh], causes without any share left out.

        part: 'congestion' (per branch), 'voltage' (per bus), 'security' (per contingency), 'custom' (per row of your
        own), 'unassigned' (per branch); of: 'active' or 'reactive'. The shares of a bus and period sum to its part.
        """
        from mktopt.clearing.price_parts import price_shares

        return price_shares(self, part, of)

    @cached_property
    def price_of_anarchy(self) -> float:
        """Of an auction of prosumers: gain in welfare of the central optimum over that of this equilibrium; 1 where
        nothing is lost. One solve; see `mktopt.clearing.equilibrium.price_of_anarchy`."""
        from mktopt.clearing.equilibrium import price_of_anarchy

        return price_of_anarchy(self)

    def check_ac(self, **options: Any) -> AcCheck:
        """The alternating-current power flow of the dispatch: voltages, loadings, losses and what they violate.

        See `mktopt.clearing.check_ac` for options; needs pandapower.
        """
        from mktopt.clearing.check_ac import check_ac

        return check_ac(self, **options)

    @cached_property
    def settlement(self) -> Settlement:
        """Payments, congestion rent and rewards, taking the submitted curves for the true ones."""
        from mktopt.clearing.settlement import settle

        return settle(self)

    @property
    def plot(self) -> Plots:
        """Pictures: `.prices()`, `.price_parts()`, `.voltages()`, `.network()`, `.curves()`, each a matplotlib Axes."""
        from mktopt.clearing.plots import Plots

        return Plots(self)

    @property
    def trades(self) -> pd.DataFrame | None:
        """Who sends what over private wires, None where no coalition was cleared (see `mktopt.clearing.coalition`)."""
        return None if self.coalition is None else self.coalition.trades

    @property
    def payments(self) -> pd.DataFrame | None:
        """What each player of a coalition pays and saves, None where no coalition was cleared."""
        return None if self.coalition is None else self.coalition.payments

    @property
    def groups(self) -> pd.DataFrame | None:
        """The groups of a coalition's players, None where no coalition was cleared."""
        return None if self.coalition is None else self.coalition.groups

    def price(self, bus: str, period: int = 0) -> float:
        """The price of `bus` in `period` [$/kWh]; raises UnknownNameError for a bus or period that is not there."""
        return float(self.prices["price"].iloc[self._position(bus, period)])

    def _position(self, bus: str, period: int) -> int:
        if bus not in self.network.bus_index:
            raise unknown_name("bus", bus, self.network.bus_index)
        if period not in self.network.periods:
            raise unknown_name("period", period, map(str, self.network.periods))
        return int(self.network.bus_index[bus]) * len(self.network.hours) + period

    def quantity(self, order: str, period: int = 0) -> float:
        """The accepted kW of `order` in `period`; raises UnknownNameError for an order that is not there."""
        found = self.dispatch[(self.dispatch["order"] == order) & (self.dispatch["period"] == period)]
        if found.empty:
            raise unknown_name(f"order in period {period}", order, self.orders.orders["order"])
        return float(found["quantity_kw"].iloc[0])

    def save(self, folder: str | Path, format: str = "csv") -> None:
        """Writes tables, inputs and a manifest to `folder` in one step (format 'csv' or 'parquet')."""
        from mktopt.clearing.storage import save

        save(self, folder, format)

    @classmethod
    def load(cls, folder: str | Path, utilities: Mapping[str, Utility] | None = None) -> Clearing:
        """Reads a saved clearing; nothing in the folder is executed. Raises DataError where a file was changed.

        utilities: those of your own that its prosumers have, by name, since functions are not saved.
        """
        from mktopt.clearing.storage import load

        return load(folder, utilities)

    def summary(self) -> str:
        """Some lines that say what was cleared, at what prices, and whether the proof holds."""
        dispatch, hours = self.dispatch, self.network.hours
        energy = dispatch["quantity_kw"].to_numpy() * hours[dispatch["period"].to_numpy()]
        bought = float(energy[(dispatch["side"] == "bid").to_numpy()].sum())
        sold = float(energy.sum()) - bought
        prices = self.prices["price"]
        lines = [
            f"{self.mechanism} on {self.network.name} ({self.flow}), solved by {self.solver}: {self.status}",
            f"  traded    {bought:,.1f} kWh bought, {sold:,.1f} kWh sold over {len(hours)} period(s)",
            f"  welfare   {self.welfare:,.4f} $",
            f"  prices    {prices.min():z.4f} to {prices.max():z.4f} $/kWh",
            *self._doubt(),
            *([f"  auction   {self.equilibrium}"] if self.equilibrium is not None else []),
            *([f"  coalition {self.coalition}"] if self.coalition is not None else []),
        ]
        try:
            lines.append(f"  proof     {self.certificate}")
        except MktoptError as error:
            lines.append(f"  proof     not available: {error}")
        return "\n".join([*lines, *(f"  note      {note}" for note in self.notes)])

    def _doubt(self) -> list[str]:
        """A line where prices are not unique."""
        try:
            example = self._ambiguity
        except MktoptError:
            return []
        return [f"            not unique: {example} (see price_interval)"] if example else []

    __str__ = summary
