"""Algorithm 1 of the paper: the auction by which an aggregator finds its unit cost, as printed and damped.

As printed (method "paper"), one round at unit cost c with net requirement p_k:

    sellers   S = {i : d_i(c) < g_i} answer with the power p_i = d_i(c) - g_i < 0; all others are buyers
    supply    s = p_k - sum_{i in S} p_i
    shares    p_i = m_i / (sum_j m_j) s,      m_i = p_i c_i: the buyer's money of the previous round              (3)
    bids      c_i = u_i'(p_i + g_i)           of each buyer
    c <- sum_{buyers} c_i p_i / s                                                                                 (4)

d_i(c): consumption with u_i' = c. Roles are found anew each round. The denominator of the shares is printed without
the costs in the algorithm and with them in (3); (3) is meant, since only then do the shares add up to s. The paper does
not say what money a buyer has that had none (in the first round, or because it has just become one): here it is what
it would pay for its demand at c, m_i = c (d_i(c) - g_i); a share of zero would stay zero for ever.

The iteration is a cobweb: sellers answer the cost of the round before. It may converge, cycle, or reach a round in
which there is nothing to share; the verdict says which. Method "damped" always converges: everyone answers c with
power, so that excess demand e(c) = sum_i (d_i(c) - g_i) - p_k, which falls in c, tells on which side of c the unit cost
lies. Buyers share s in proportion to their demand, bid c_i, and c moves half of the way towards (4), but never out of
the bracket; where that has not halved in three rounds, to its middle. `Aggregators.unit_costs` finds the same cost
exactly.
Reference: Das, Faqiry, Zarabie, Wu, Game Theoretic Equilibrium Analysis of Energy Auction in Microgrid, Algorithm 1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.agents.aggregators import Aggregators
from mktopt.errors import FormulationError, unknown_name
from mktopt.networks.prosumers import Prosumers

FloatArray = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

METHODS = ("damped", "paper")
# The longest cycle looked for, and the share of its own swing by which it must repeat, for as many rounds as it has.
MAX_PERIOD = 16
_REPEATS = 1e-6
_BEYOND = 1e9


class Verdict(enum.Enum):
    """How an auction ended."""

    CONVERGED = "converged"
    CYCLES = "cycles"
    DIVERGES = "diverges"
    NO_BUYERS = "no buyers"
    STOPPED = "stopped at the limit of rounds"


@dataclass(frozen=True, eq=False)
class Outcome:
    """The auctions of K aggregators with N agents in all.

    unit_costs: the last c_k (K,) [$/kWh]; verdicts: (K,) `Verdict`; rounds: how many (K,); periods: length of the
    cycle, 0 where there is none (K,); net_kw: each agent's p_i of the last round (N,) [kW]; bids: the unit cost that
    each agent answered or was told (N,) [$/kWh]; buying: who did not sell (N,).
    """

    unit_costs: FloatArray
    verdicts: npt.NDArray[np.object_]
    rounds: npt.NDArray[np.int64]
    periods: npt.NDArray[np.int64]
    net_kw: FloatArray
    bids: FloatArray
    buying: Flags

    @property
    def converged(self) -> Flags:
        """Which auctions converged (K,)."""
        return np.array([verdict is Verdict.CONVERGED for verdict in self.verdicts], dtype=bool)


@dataclass(frozen=True, eq=False)
class Auction:
    """The auction of one aggregator.

    aggregator; p_kw: its net requirement [kW]; method; unit_cost: the last c_k [$/kWh]; verdict; rounds; period:
    length of the cycle, 0 without one; reason: the verdict in words; agents: agent, role, p_kw, unit_cost; trace:
    round, unit_cost (at which it was called), supply_kw (s), demand_kw (of its buyers at that cost), buyers, sellers,
    next_cost.
    """

    aggregator: str
    p_kw: float
    method: str
    unit_cost: float
    verdict: Verdict
    rounds: int
    period: int
    reason: str
    trace: pd.DataFrame = field(repr=False)
    agents: pd.DataFrame = field(repr=False)

    def __str__(self) -> str:
        return f"auction of {self.aggregator!r} at {self.p_kw:.6g} kW ({self.method}): {self.reason}"


def algorithm1(
    prosumers: Prosumers,
    aggregator: str,
    p_kw: float,
    *,
    method: str = "damped",
    start: float | None = None,
    max_rounds: int = 2000,
    tol: float | None = None,
) -> Auction:
    """Algorithm 1 for one aggregator with net requirement `p_kw` [kW], from unit cost `start` [$/kWh], with its trace.

    start: None is the mean marginal utility of the agents' own generation; method: damped | paper; tol: relative change
    of c, and distance of the bids from it, at which it has converged (1e-6; damped: share of power that is not
    balanced, 1e-10).
    Raises UnknownNameError for an unknown aggregator or method, and DataError for p_kw < -G_k.
    """
    table = prosumers.table
    rows = table["aggregator"] == aggregator
    if not rows.any():
        raise unknown_name("aggregator", aggregator, table["aggregator"].unique())
    own = replace(prosumers, table=table[rows].reset_index(drop=True))
    trace: list[tuple[float, ...]] = []
    begun = None if start is None else np.array([start], dtype=float)
    outcome = run_algorithm1(
        own, np.array([p_kw], dtype=float), begun, method=method, max_rounds=max_rounds, tol=tol, trace=trace
    )
    columns = ["unit_cost", "supply_kw", "demand_kw", "buyers", "sellers", "next_cost"]
    rounds = pd.DataFrame(trace, columns=columns).astype({"buyers": int, "sellers": int})
    rounds.insert(0, "round", np.arange(1, len(rounds) + 1))
    agents = pd.DataFrame({
        "agent": own.table["agent"],
        "role": np.where(outcome.buying, "buyer", "seller").astype(object),
        "p_kw": outcome.net_kw,
        "unit_cost": outcome.bids,
    })  # fmt: skip
    verdict, cost, period = outcome.verdicts[0], float(outcome.unit_costs[0]), int(outcome.periods[0])
    reason = _in_words(verdict, cost, period, len(rounds), rounds)
    return Auction(aggregator, float(p_kw), method, cost, verdict, len(rounds), period, reason, rounds, agents)


def run_algorithm1(
    prosumers: Prosumers | Aggregators,
    p_kw: npt.ArrayLike,
    start: npt.ArrayLike | None = None,
    *,
    method: str = "damped",
    max_rounds: int = 2000,
    tol: float | None = None,
    trace: list[tuple[float, ...]] | None = None,
) -> Outcome:
    """Algorithm 1 for all aggregators at once: `p_kw` (K,) [kW], `start` (K,) [$/kWh]; otherwise see `algorithm1`.

    An auction that has ended stays as it is while the others go on. trace: a list to which each round of the first
    aggregator is appended.
    """
    everyone = prosumers if isinstance(prosumers, Aggregators) else Aggregators(prosumers)
    if method not in METHODS:
        raise unknown_name("method of Algorithm 1", method, METHODS)
    if tol is None:
        tol = 1e-10 if method == "damped" else 1e-6
    if max_rounds < 1 or not tol > 0:
        raise FormulationError(f"max_rounds={max_rounds} and tol={tol}: both must be greater than zero")
    p = np.broadcast_to(np.asarray(p_kw, dtype=float), (len(everyone),))
    consumed = everyone.consumed_kw(p)
    if start is None:
        begun = everyone.total(everyone.prosumers.marginal(everyone.prosumers.generation_kw)) / everyone.agents
        low, _ = everyone.bracket(consumed)
        c = np.where(np.isfinite(begun), begun, np.where(np.isfinite(low), low, 1.0))
    else:
        c = np.broadcast_to(np.asarray(start, dtype=float), (len(everyone),)).copy()
        if not np.isfinite(c).all():
            raise FormulationError("start: every unit cost to begin with must be finite")
    auctions = _Damped(everyone, p, c, tol) if method == "damped" else _Printed(everyone, p, c, tol)
    while auctions.running.any() and auctions.turn < max_rounds:
        auctions.round()
        if trace is not None:
            trace.append(auctions.line())
    return auctions.outcome()


class _Auctions:
    """What both methods share: where each auction stands, and how it ended."""

    def __init__(self, everyone: Aggregators, p: FloatArray, c: FloatArray, tol: float) -> None:
        self.everyone, self.p, self.c, self.tol = everyone, p, c, tol
        self.group, self.g = everyone.group, everyone.prosumers.generation_kw
        self.running = np.ones(len(everyone), dtype=bool)
        self.turn = 0
        self.verdicts = np.full(len(everyone), Verdict.STOPPED, dtype=object)
        self.rounds, self.periods = np.zeros((2, len(everyone)), dtype=np.int64)
        self.net, self.bids = np.zeros(len(self.g)), c[self.group]
        self.buying = np.zeros(len(self.g), dtype=bool)
        self.called, self.following, self.supply, self.demand = c, c, p, p

    def round(self) -> None:
        """One round of all auctions that still run."""
        raise NotImplementedError

    def answer(self) -> tuple[FloatArray, Flags]:
        """Agents' power at the unit costs [kW], and who does not sell; notes supply and demand."""
        power = self.everyone.consumption(self.c) - self.g
        buying = power >= 0
        self.called = self.c
        self.supply = self.p - self.everyone.total(np.where(buying, 0.0, power))
        self.demand = self.everyone.total(np.where(buying, power, 0.0))
        return power, buying

    def shared(self, money: FloatArray, buying: Flags) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Buyers' shares of the supply in proportion to `money`, their bids, and the cost that follows: (3), (4)."""
        money = np.where(buying, money, 0.0)
        with np.errstate(all="ignore"):
            share = money * (self.supply / self.everyone.total(money))[self.group]
            bids = self.everyone.prosumers.marginal(np.where(buying, share, 0.0) + self.g)
            cost = self.everyone.total(np.where(buying & (share != 0), bids * share, 0.0)) / self.supply
        return share, bids, cost

    def keep(self, net: FloatArray, bids: FloatArray, buying: Flags) -> None:
        """Notes what the agents of running auctions do."""
        here = self.running[self.group]
        self.net, self.bids = np.where(here, net, self.net), np.where(here, bids, self.bids)
        self.buying = np.where(here, buying, self.buying)

    def end(self, which: Flags, verdict: Verdict) -> None:
        """Ends the running auctions among `which`."""
        ended = which & self.running
        self.verdicts[ended] = verdict
        self.running = self.running & ~ended

    def line(self) -> tuple[float, ...]:
        """The round of the first aggregator, for a trace."""
        mine = self.group == 0
        buyers = int(self.buying[mine].sum())
        figures = (self.called[0], self.supply[0], self.demand[0])
        return (*map(float, figures), buyers, int(mine.sum()) - buyers, float(self.following[0]))

    def outcome(self) -> Outcome:
        """Where all stand now."""
        return Outcome(self.c, self.verdicts, self.rounds, self.periods, self.net, self.bids, self.buying)


class _Printed(_Auctions):
    """Algorithm 1 as printed."""

    def __init__(self, everyone: Aggregators, p: FloatArray, c: FloatArray, tol: float) -> None:
        super().__init__(everyone, p, c, tol)
        self.money = np.zeros(len(self.g))
        self.start = np.maximum(np.abs(c), 1e-300)
        self.past = np.empty((0, len(c)))

    def round(self) -> None:
        self.turn += 1
        self.rounds[self.running] = self.turn
        power, buying = self.answer()
        unpaid = ~(self.buying & (self.money != 0)) if self.turn > 1 else np.ones(len(power), dtype=bool)
        with np.errstate(invalid="ignore"):
            money = np.where(unpaid, self.c[self.group] * power, self.money)
        share, bids, cost = self.shared(money, buying)
        self.following = cost
        asked = self.everyone.total(np.where(buying, np.abs(money), 0.0))
        self.keep(np.where(buying, share, power), np.where(buying, bids, self.c[self.group]), buying)
        self.end(asked == 0, Verdict.NO_BUYERS)
        self.end((self.supply <= 0) | ~np.isfinite(cost) | (np.abs(cost) > _BEYOND * self.start), Verdict.DIVERGES)
        self.money = np.where(buying, bids * share, 0.0)
        # an agent that neither sells nor wants to buy keeps bidding less than c for a share that dies away
        idle = (power == 0) & (bids < cost[self.group])
        astray = np.where(buying & ~idle, np.abs(bids - cost[self.group]), 0.0)
        left = self.everyone.largest(np.where(buying & idle, share, 0.0)) <= self.tol * self.supply
        near = self.tol * np.abs(cost)
        steady = (np.abs(cost - self.c) <= near) & (self.everyone.largest(astray) <= near) & left
        self.c = np.where(self.running, cost, self.c)
        self.end(steady, Verdict.CONVERGED)
        self.find_cycles()

    def find_cycles(self) -> None:
        """Ends auctions whose unit cost repeats with a period of 2 to MAX_PERIOD, the shortest first."""
        past = self.past = np.concatenate([self.past, self.c[None]])[-2 * MAX_PERIOD :]
        # most rounds are nowhere near an earlier one, which one look at all of them tells
        near = (np.abs(past[:-1] - past[-1]) <= _REPEATS * np.ptp(past, axis=0)) & self.running
        for period in range(2, min(MAX_PERIOD, len(past) // 2) + 1):
            if not near[-period].any():
                continue
            last = past[-period:]
            swing = np.ptp(last, axis=0)
            repeats = np.max(np.abs(last - past[-2 * period : -period]), axis=0) <= _REPEATS * swing
            found = repeats & (swing > self.tol * np.abs(self.c)) & self.running
            self.periods[found] = period
            self.end(found, Verdict.CYCLES)


class _Damped(_Auctions):
    """Algorithm 1 with a relaxed step inside a bracket, which converges for strictly concave utilities."""

    def __init__(self, everyone: Aggregators, p: FloatArray, c: FloatArray, tol: float) -> None:
        super().__init__(everyone, p, c, tol)
        consumed = everyone.consumed_kw(p)
        self.low, self.high = everyone.bracket(consumed)
        self.size = np.maximum(consumed, np.abs(p)) - everyone.lowest_kw
        idle = consumed == 0
        self.low, self.high = (np.where(idle, everyone.highest, bound) for bound in (self.low, self.high))
        inside = (c >= self.low) & (c <= self.high)
        self.c = np.where(inside, c, self.low + 0.5 * (self.high - self.low))
        self.c = np.where(idle, everyone.highest, self.c)
        self.width = [self.high - self.low]

    def round(self) -> None:
        self.turn += 1
        self.rounds[self.running] = self.turn
        power, buying = self.answer()
        excess = self.everyone.total(power) - self.p
        self.keep(power, self.c[self.group], buying)
        done = np.abs(excess) <= self.tol * self.size
        self.low = np.where(excess >= 0, self.c, self.low)
        self.high = np.where(excess <= 0, self.c, self.high)
        self.end(done | (np.nextafter(self.low, self.high) >= self.high), Verdict.CONVERGED)
        with np.errstate(invalid="ignore"):
            _, _, cost = self.shared(self.c[self.group] * power, buying)
            trial = 0.5 * (self.c + cost)
        middle = self.low + 0.5 * (self.high - self.low)
        self.width = [*self.width, self.high - self.low][-4:]
        slow = (self.width[-1] > 0.5 * self.width[0]) & (len(self.width) == 4)
        usable = (trial > self.low) & (trial < self.high) & ~slow
        self.c = np.where(self.running, np.where(usable, trial, middle), self.c)
        self.following = self.c


def _in_words(verdict: Verdict, cost: float, period: int, rounds: int, trace: pd.DataFrame) -> str:
    at = f"after {rounds} rounds"
    last = trace.iloc[-1]
    if verdict is Verdict.CONVERGED:
        return f"converged {at} at {cost:.6g} $/kWh"
    if verdict is Verdict.CYCLES:
        around = ", ".join(f"{value:.6g}" for value in trace["next_cost"].iloc[-period:])
        return f"cycles with period {period} {at} (unit costs {around} $/kWh); method 'damped' converges"
    if verdict is Verdict.NO_BUYERS:
        return (
            f"no buyers in round {rounds}: at {last['unit_cost']:.6g} $/kWh nobody asks for power, so that there is "
            "nobody to share the supply; start at a lower unit cost, or use method 'damped'"
        )
    if verdict is Verdict.DIVERGES:
        became = f"the next unit cost is {last['next_cost']:.6g}"
        what = "there is nothing to share" if last["supply_kw"] <= 0 else became
        return (
            f"diverges in round {rounds}: at {last['unit_cost']:.6g} $/kWh the supply is {last['supply_kw']:.6g} kW "
            f"and {what}; start at a higher unit cost, or use method 'damped'"
        )
    return f"stopped {at} without convergence at {cost:.6g} $/kWh; raise max_rounds, or use method 'damped'"
