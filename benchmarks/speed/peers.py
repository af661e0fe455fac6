"""The same market written by hand for others: sparse arrays for Clarabel, and CVXPY in two forms.

With segment quantities x >= 0 [kW], branch flows f [kW], sign s (+1 offer, -1 bid) and marginal prices
`start + slope x` [$/kWh]:

    min  sum_s s (start x + 1/2 slope x^2)    s.t.   J x = A f,   0 <= x <= width,   |f| <= rating

J: s at the bus of each segment, shape (buses, segments); A: incidence, shape (buses, branches). All take the market
as arrays, give no tables and check nothing: they are the least that anybody could write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

import mktopt as mo
from mktopt.solvers.clarabel import DEFAULTS

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrays:
    """A market of one period of one hour: the matrices J and A, and a number per segment or branch."""

    J: Any
    A: Any
    sign: FloatArray
    width: FloatArray
    start: FloatArray
    slope: FloatArray
    rating: FloatArray


@dataclass(frozen=True)
class Answer:
    """Welfare [$] and the price of every bus [$/kWh], shape (buses,)."""

    welfare: float
    prices: FloatArray


def arrays_of(network: mo.Network, orders: mo.Orders) -> Arrays:
    """The numbers of a market; refuses what the models below leave out (more periods, shunts, minima)."""
    curves = orders.curves
    plain = len(network.hours) == 1 and network.hours[0] == 1 and not network.shunt_kw.any()
    if not plain or orders.orders["minimum_kw"].any() or orders.orders["all_or_nothing"].any():
        raise ValueError(f"{network.name}: the peers take one period of one hour, no shunts and no minima")
    sign = orders.injection_sign[orders.segment_order]
    bus = network.bus_positions(orders.orders["bus"])[orders.segment_order]
    columns = np.arange(len(sign))
    J = sp.csc_array((sign, (bus, columns)), shape=(network.n_buses, len(sign)))
    rating = network.lines["rating_kva"].to_numpy()
    A = sp.csc_array(network.topology.incidence)
    return Arrays(J, A, sign, curves.width, curves.start, curves.slope, rating)


def _clarabel(market: Arrays, settings: Mapping[str, Any]) -> tuple[Any, FloatArray, FloatArray]:
    """(Clarabel set up, the entries of P, q) on matrices written by hand."""
    import clarabel

    segments, branches = len(market.sign), len(market.rating)
    n = segments + branches
    curvature = np.r_[market.sign * market.slope, np.zeros(branches)]
    P = sp.csc_matrix((curvature, np.arange(n), np.arange(n + 1)), shape=(n, n))
    q = np.r_[market.sign * market.start, np.zeros(branches)]
    upper, lower = np.r_[market.width, market.rating], np.r_[np.zeros(segments), -market.rating]
    low, high = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    one = sp.eye_array(n, format="csr")
    G = sp.vstack([sp.hstack([market.J, -market.A]), one[high], -one[low]], format="csc")
    h = np.r_[np.zeros(market.J.shape[0]), upper[high], -lower[low]]
    cones = [clarabel.ZeroConeT(market.J.shape[0]), clarabel.NonnegativeConeT(len(high) + len(low))]
    chosen = clarabel.DefaultSettings()
    for name, value in {"verbose": False, **settings}.items():
        setattr(chosen, name, value)
    return clarabel.DefaultSolver(P, q, sp.csc_matrix(G), h, cones, chosen), P.data, q


def raw(market: Arrays, settings: Mapping[str, Any] = DEFAULTS) -> Answer:
    """Clarabel on matrices written by hand: assembly, set-up, solve; `settings` are Clarabel's, {} for its own."""
    found = _clarabel(market, settings)[0].solve()
    if str(found.status) != "Solved":
        raise RuntimeError(f"Clarabel on raw arrays: {found.status}")
    return Answer(-found.obj_val, -np.asarray(found.z)[: market.J.shape[0]])


def cvxpy_plain(market: Arrays, settings: Mapping[str, Any] | None = None) -> Answer:
    """CVXPY, vectorised, numbers as constants: what its documentation recommends for one solve."""
    import cvxpy as cp

    x, f = cp.Variable(len(market.sign)), cp.Variable(len(market.rating))
    price, half_slope = market.sign * market.start, 0.5 * market.sign * market.slope
    cost = price @ x + cp.sum(cp.multiply(half_slope, cp.square(x)))
    balance = market.J @ x == market.A @ f
    limits = [x >= 0, x <= market.width, f <= market.rating, f >= -market.rating]
    return _solved(cp.Problem(cp.Minimize(cost), [balance, *limits]), balance, settings)


def cvxpy_parameters(market: Arrays, settings: Mapping[str, Any] | None = None) -> Answer:
    """CVXPY, vectorised, prices, slopes, widths and ratings as parameters: the form that can be solved again.

    The prices stand in constraints (`money`), the slopes inside the square. In the objective itself CVXPY would make
    its table of parameters dense: 12 GB for the prices of 20,000 orders alone, and half a minute.
    """
    import cvxpy as cp

    def parameter(values: FloatArray, **facts: Any) -> Any:
        return cp.Parameter(values.shape, value=values, **facts)

    x, f, money = (cp.Variable(len(v)) for v in (market.sign, market.rating, market.sign))
    price, root = parameter(market.sign * market.start), parameter(np.sqrt(0.5 * market.sign * market.slope))
    width, rating = parameter(market.width, nonneg=True), parameter(market.rating, nonneg=True)
    cost = cp.sum(money) + cp.sum_squares(cp.multiply(root, x))
    balance = market.J @ x == market.A @ f
    limits = [money == cp.multiply(price, x), x >= 0, x <= width, f <= rating, f >= -rating]
    return _solved(cp.Problem(cp.Minimize(cost), [balance, *limits]), balance, settings)


def _solved(problem: Any, balance: Any, settings: Mapping[str, Any] | None) -> Answer:
    import cvxpy as cp

    problem.solve(solver=cp.CLARABEL, **(settings or {}))
    if problem.status != cp.OPTIMAL:
        raise RuntimeError(f"CVXPY: {problem.status}")
    return Answer(-float(problem.value), -np.asarray(balance.dual_value))


class ClarabelAgain:
    """Clarabel set up once by hand, solved again with other prices of some orders: `update` and `solve`.

    asks: bool (segments,), those whose price and slope change.
    """

    def __init__(self, market: Arrays, asks: npt.NDArray[np.bool_], settings: Mapping[str, Any] = DEFAULTS) -> None:
        self.solver, self.P, self.q = _clarabel(market, settings)
        self.asks, self.sign, self.buses = np.flatnonzero(asks), market.sign[asks], market.J.shape[0]

    def solve(self, start: FloatArray, slope: FloatArray) -> Answer:
        """Another clearing, with these prices [$/kWh] and slopes [$/kWh per kW] of the asks."""
        self.q[self.asks] = self.sign * start
        self.P[self.asks] = self.sign * slope
        self.solver.update(q=self.q, P=self.P)
        found = self.solver.solve()
        if str(found.status) != "Solved":
            raise RuntimeError(f"Clarabel on raw arrays: {found.status}")
        self.x = np.asarray(found.x)
        return Answer(-found.obj_val, -np.asarray(found.z)[: self.buses])


class HighsAgain:
    """HiGHS set up once by hand for flat prices, solved again from its last basis: `changeColsCost` and `run`."""

    def __init__(self, market: Arrays, asks: npt.NDArray[np.bool_], settings: Mapping[str, Any]) -> None:
        import highspy

        segments, branches = len(market.sign), len(market.rating)
        buses, n = market.J.shape[0], segments + branches
        balance = sp.hstack([market.J, -market.A], format="csr")
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = n, buses
        lp.col_cost_ = np.r_[market.sign * market.start, np.zeros(branches)]
        lp.col_lower_ = np.r_[np.zeros(segments), -market.rating]
        lp.col_upper_ = np.r_[market.width, market.rating]
        lp.row_lower_ = lp.row_upper_ = np.zeros(buses)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = balance.indptr, balance.indices
        lp.a_matrix_.value_ = balance.data
        self.highs, self.optimal = highspy.Highs(), highspy.HighsModelStatus.kOptimal
        for name, value in {"output_flag": False, **settings}.items():
            self.highs.setOptionValue(name, value)
        self.highs.passModel(lp)
        self.asks = np.flatnonzero(asks).astype(np.int32)

    def solve(self, start: FloatArray) -> Answer:
        """Another clearing, with these prices [$/kWh] of the asks."""
        highs = self.highs
        highs.changeColsCost(len(self.asks), self.asks, start)
        highs.run()
        if highs.getModelStatus() != self.optimal:
            raise RuntimeError(f"HiGHS on raw arrays: {highs.getModelStatus()}")
        found = highs.getSolution()
        self.x = np.asarray(found.col_value)
        return Answer(-highs.getObjectiveValue(), np.asarray(found.row_dual))


class CvxpyAgain:
    """CVXPY with the prices and slopes of some orders as parameters, all else as constants, solved again (DPP)."""

    def __init__(self, market: Arrays, asks: npt.NDArray[np.bool_]) -> None:
        import cvxpy as cp

        x, f = cp.Variable(len(market.sign)), cp.Variable(len(market.rating))
        self.price = cp.Parameter(int(asks.sum()), value=market.start[asks])
        self.root = cp.Parameter(int(asks.sum()), value=np.sqrt(0.5 * market.slope[asks]), nonneg=True)
        bids = ~asks
        worth = market.start[bids] @ x[bids] + 0.5 * cp.sum(cp.multiply(market.slope[bids], cp.square(x[bids])))
        cost = self.price @ x[asks] + cp.sum_squares(cp.multiply(self.root, x[asks])) - worth
        self.balance = market.J @ x == market.A @ f
        limits = [x >= 0, x <= market.width, f <= market.rating, f >= -market.rating]
        self.problem = cp.Problem(cp.Minimize(cost), [self.balance, *limits])

    def solve(self, start: FloatArray, slope: FloatArray) -> Answer:
        """Another clearing, with these prices [$/kWh] and slopes [$/kWh per kW] of the asks."""
        self.price.value, self.root.value = start, np.sqrt(0.5 * slope)
        return _solved(self.problem, self.balance, None)
