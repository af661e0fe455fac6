"""Reactive power of a clearing: what orders draw and give, what it costs, and what they pay for it.

    kvar_o = tan_phi_o q_o,   or what the flow chose within [q_min_o, q_max_o]      (bids draw it, offers give it)
    lambda_q = cost of one more kvarh of firm reactive demand at a bus              [$/kvarh]
    payment_o = hours (lambda + tan_phi lambda_q) q_o,   or   hours (lambda q_o + lambda_q kvar_o) with a range

so that all reactive power is settled at its price, as active power is, and the operator keeps the rent of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mktopt.clearing.result import FloatArray
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders
from mktopt.solvers.prices import orientation
from mktopt.solvers.program import Program


def balance_rows(model: Any, network: Network, program: Program) -> tuple[npt.NDArray[np.int64], FloatArray] | None:
    """(rows, sign) of `balance_q`: the program's row of each bus and period (bus by bus), -1 where there is none, and
    the coefficient with which an injection enters it; None where the flow has no reactive power."""
    component = model.grid.component("balance_q")
    if component is None:
        return None
    at = {key: program.row(row) for key, row in component.items() if row.active}
    rows = np.array([at.get((bus, t), -1) for bus in network.buses["bus"] for t in network.periods], dtype=np.int64)
    has = rows >= 0
    sign = np.ones(len(rows))
    source = model.grid.component("source_kvar")
    free = [] if source is None else list(source.values())
    sign[has] = orientation(program, rows[has], program.columns(free), np.ones(len(free)))
    return rows, sign


def order_kvar(model: Any, orders: Orders, quantity_kw: FloatArray) -> FloatArray | None:
    """What each order draws or gives [kvar], shape (rows of `orders.orders`,); None where the flow has none."""
    if model.grid.component("balance_q") is None:
        return None
    kvar = np.asarray(orders.orders["tan_phi"].to_numpy() * quantity_kw)
    chosen = model.grid.component("reactive_kvar")
    ranged = np.flatnonzero(has_range(orders))
    if chosen is not None and len(ranged):
        kvar[ranged] = np.fromiter((variable.value for variable in chosen.values()), float, len(chosen))
    return kvar


def has_range(orders: Orders) -> npt.NDArray[np.bool_]:
    """Which orders have a reactive range of their own, bool (rows of `orders.orders`,)."""
    return ~np.isnan(orders.orders["q_min_kvar"].to_numpy())


def delivered_price(orders: Orders, price: FloatArray, reactive: FloatArray | None) -> FloatArray:
    """lambda + tan_phi lambda_q of each order [$/kWh]; price, reactive: those of its bus and period."""
    if reactive is None:
        return price
    tied = np.where(has_range(orders), 0.0, orders.orders["tan_phi"].to_numpy())
    return np.asarray(price + np.where(tied != 0.0, tied * reactive, 0.0))


def range_payment(orders: Orders, reactive: FloatArray | None, kvar: FloatArray | None) -> FloatArray:
    """What orders with a range pay for what they draw per hour [$/h], zero for all others; given power is paid for."""
    if reactive is None or kvar is None:
        return np.zeros(len(orders))
    return np.where(has_range(orders), -orders.injection_sign * np.nan_to_num(reactive) * kvar, 0.0)
