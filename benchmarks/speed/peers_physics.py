"""The market of branch flows with losses written by hand for others: arrays for Clarabel, and CVXPY, vectorised.

The relaxed DistFlow equations of a radial grid, with everything in MW, Mvar and per unit of 1 MVA and with flows
counted away from the source, so that branch l = (i, j) leads from bus i to its child j:

    min  sum_s s (start x + 1/2 slope x^2)                     s: +1 offer, -1 bid; x: accepted MW of a segment
    s.t. (J x)_j = sum_k P_jk - (P_ij - r l_ij),   (K x)_j + source = sum_k Q_jk - (Q_ij - x l_ij)
         v_j = v_i - 2 (r P + x Q) + (r^2 + x^2) l,   |(2 P, 2 Q, l - v_i)| <= l + v_i,
         |(P, Q)| <= rating,   |(P - r l, Q - x l)| <= rating,   0 <= x <= width,   v_min^2 <= v <= v_max^2

as its textbooks have it. All take the market as arrays, give no tables and check nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

import mktopt as mo
from mktopt.networks import units

FloatArray = npt.NDArray[np.float64]
MW = units.KW_PER_MW


@dataclass(frozen=True)
class Feeder:
    """A market of one period of one hour on a radial grid without charging, shunts and ratios.

    J, K: active and reactive power that an accepted MW puts into each bus, shape (buses, segments); start, end: buses
    of each branch, away from the source; r, x, rating: of each branch; low, high: of the squared voltages.
    """

    J: Any
    K: Any
    sign: FloatArray
    width: FloatArray
    price: FloatArray
    slope: FloatArray
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    r: FloatArray
    x: FloatArray
    rating: FloatArray
    low: FloatArray
    high: FloatArray
    source: int
    source_v2: float


def feeder_of(network: mo.Network, orders: mo.Orders) -> Feeder:
    """The numbers of a market; refuses what the models below leave out."""
    lines, table = network.lines, orders.orders
    simple = len(network.hours) == 1 and network.hours[0] == 1 and not len(network.shunts)
    simple &= not (lines["b_us"].any() or (lines["ratio"] != 1).any() or table["minimum_kw"].any())
    if not simple or table["all_or_nothing"].any() or table["q_min_kvar"].notna().any():
        raise ValueError(f"{network.name}: the peers take one hour, no charging, shunts, ratios, minima, ranges")
    curves, tree, owner = orders.curves, network.topology, orders.segment_order
    sign = orders.injection_sign[owner]
    bus, columns = network.bus_positions(table["bus"])[owner], np.arange(len(sign))
    shape = (network.n_buses, len(sign))
    J = sp.csr_array((sign, (bus, columns)), shape=shape)
    K = sp.csr_array((sign * table["tan_phi"].to_numpy()[owner], (bus, columns)), shape=shape)
    child = tree.other_buses
    branch = tree.parent_branch[child]
    limits = network.buses[["v_min_pu", "v_max_pu"]].to_numpy() ** 2
    return Feeder(
        J, K, sign, curves.width / MW, MW * curves.start, MW**2 * curves.slope, tree.parent[child], child,
        MW * units.resistance_pu_per_kw(network)[branch], MW * units.reactance_pu_per_kvar(network)[branch],
        lines["rating_kva"].to_numpy()[branch] / MW, limits[:, 0], limits[:, 1], network.source_index,
        network.source_v_pu**2,
    )  # fmt: skip


def _picked(feeder: Feeder) -> tuple[Any, Any]:
    """(from, to): which bus each branch leaves and reaches, shape (branches, buses)."""
    every, m = np.arange(len(feeder.r)), (len(feeder.r), len(feeder.low))
    one = np.ones(len(every))
    return sp.csr_array((one, (every, feeder.start)), shape=m), sp.csr_array((one, (every, feeder.end)), shape=m)


def raw(feeder: Feeder, settings: Mapping[str, Any] | None = None) -> float:
    """Welfare [$] by Clarabel on matrices written by hand; `settings` are Clarabel's, its own by default."""
    import clarabel

    s, m, n = len(feeder.sign), len(feeder.r), len(feeder.low)
    leaves, enters = _picked(feeder)
    r, x = sp.diags_array(feeder.r), sp.diags_array(feeder.x)
    z2 = sp.diags_array(feeder.r**2 + feeder.x**2)
    at_source = sp.csr_array(([1.0], ([feeder.source], [0])), shape=(n, 1))
    # columns: x, P, Q, l, v, source
    away = leaves.T - enters.T
    balance = sp.hstack([feeder.J, -away, sp.csr_array((n, m)), -enters.T @ r, sp.csr_array((n, n + 1))])
    balance_q = sp.hstack([feeder.K, sp.csr_array((n, m)), -away, -enters.T @ x, sp.csr_array((n, n)), at_source])
    drop = sp.hstack([sp.csr_array((m, s)), 2 * r, 2 * x, -z2, enters - leaves, sp.csr_array((m, 1))])
    pinned = sp.csr_array(([1.0], ([0], [s + 3 * m + feeder.source])), shape=(1, s + 3 * m + n + 1))
    equal = sp.vstack([balance, balance_q, drop, pinned])
    total = equal.shape[1]
    unit = sp.eye_array(total, format="csr")
    segments, volts = np.arange(s), s + 3 * m + np.setdiff1d(np.arange(n), [feeder.source])
    keep = np.setdiff1d(np.arange(n), [feeder.source])
    wide = np.flatnonzero(np.isfinite(feeder.width))
    bounds = sp.vstack([unit[wide], -unit[segments], unit[volts], -unit[volts]])
    limits = np.r_[feeder.width[wide], np.zeros(s), feeder.high[keep], -feeder.low[keep]]
    P, Q, ell = (unit[s + k * m : s + (k + 1) * m] for k in range(3))
    v = unit[s + 3 * m : s + 3 * m + n]
    v_from = leaves @ v
    cone = _interleaved([-(ell + v_from), -2 * P, -2 * Q, -(ell - v_from)])
    rated = np.flatnonzero(np.isfinite(feeder.rating))
    zero = sp.csr_array((len(rated), total))
    sent = _interleaved([zero, -P[rated], -Q[rated]])
    kept = _interleaved([zero, -(P - r @ ell)[rated], -(Q - x @ ell)[rated]])
    tops = np.zeros(3 * len(rated))
    tops[::3] = feeder.rating[rated]
    A = sp.vstack([equal, bounds, cone, sent, kept], format="csc")
    b = np.r_[np.zeros(equal.shape[0] - 1), feeder.source_v2, limits, np.zeros(4 * m), tops, tops]
    kinds = [clarabel.ZeroConeT(equal.shape[0]), clarabel.NonnegativeConeT(len(limits))]
    kinds += [clarabel.SecondOrderConeT(4)] * m + [clarabel.SecondOrderConeT(3)] * (2 * len(rated))
    curvature = np.r_[feeder.sign * feeder.slope, np.zeros(total - s)]
    q = np.r_[feeder.sign * feeder.price, np.zeros(total - s)]
    chosen = clarabel.DefaultSettings()
    for name, value in {"verbose": False, **(settings or {})}.items():
        setattr(chosen, name, value)
    quadratic = sp.csc_matrix((curvature, np.arange(total), np.arange(total + 1)), shape=(total, total))
    found = clarabel.DefaultSolver(quadratic, q, sp.csc_matrix(A), b, kinds, chosen).solve()
    if str(found.status) not in ("Solved", "AlmostSolved"):
        raise RuntimeError(f"Clarabel on raw arrays: {found.status}")
    return -float(found.obj_val)


def _interleaved(parts: list[Any]) -> Any:
    """The k-th rows of all parts after one another, for k = 0, 1, ..."""
    count = parts[0].shape[0]
    order = np.arange(count * len(parts)).reshape(len(parts), count).T.ravel()
    return sp.vstack(parts, format="csr")[order]


def cvxpy(feeder: Feeder, settings: Mapping[str, Any] | None = None) -> float:
    """Welfare [$] by CVXPY, vectorised, with Clarabel behind it."""
    import cvxpy as cp

    m, n = len(feeder.r), len(feeder.low)
    leaves, enters = _picked(feeder)
    x, source = cp.Variable(len(feeder.sign)), cp.Variable()
    P, Q, ell, v = cp.Variable(m), cp.Variable(m), cp.Variable(m), cp.Variable(n)
    r, z = feeder.r, feeder.x
    cost = (feeder.sign * feeder.price) @ x + cp.sum(cp.multiply(0.5 * feeder.sign * feeder.slope, cp.square(x)))
    at_source = np.zeros(n)
    at_source[feeder.source] = 1.0
    v_from, arriving_p, arriving_q = leaves @ v, P - cp.multiply(r, ell), Q - cp.multiply(z, ell)
    rules = [
        feeder.J @ x == leaves.T @ P - enters.T @ arriving_p,
        feeder.K @ x + source * at_source == leaves.T @ Q - enters.T @ arriving_q,
        enters @ v == v_from - 2 * (cp.multiply(r, P) + cp.multiply(z, Q)) + cp.multiply(r**2 + z**2, ell),
        v[feeder.source] == feeder.source_v2,
        cp.SOC(ell + v_from, cp.vstack([2 * P, 2 * Q, ell - v_from])),
        x >= 0,
        x <= feeder.width,
        v >= feeder.low,
        v <= feeder.high,
    ]
    rated = np.flatnonzero(np.isfinite(feeder.rating))
    if len(rated):
        top = feeder.rating[rated]
        rules += [cp.SOC(top, cp.vstack([P[rated], Q[rated]]))]
        rules += [cp.SOC(top, cp.vstack([arriving_p[rated], arriving_q[rated]]))]
    problem = cp.Problem(cp.Minimize(cost), rules)
    problem.solve(solver=cp.CLARABEL, **(settings or {}))
    if problem.status not in ("optimal", "optimal_inaccurate"):
        raise RuntimeError(f"CVXPY: {problem.status}")
    return -float(problem.value)
