"""Utilities of consumption: what a kW is worth to an agent, as vectorised functions.

    log:        u(x) = a log(1 + x / b),        u'(x) = a / (b + x),       u''(x) = -a / (b + x)^2
    quadratic:  u(x) = a x - b x^2 / 2,         u'(x) = a - b x,           u''(x) = -b

x: consumption [kW]; u: utility [$/h]; u': [$/kWh]; u'': [$/kWh per kW]. A utility must be strictly concave on x >= 0.
The logarithmic form is the usual a log(b + x) less its value at x = 0. A utility of one's own, written with Pyomo's
operators, becomes such a record by `mktopt.own_utility`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Curve = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]

LOG, QUADRATIC = "log", "quadratic"


@dataclass(frozen=True)
class Utility:
    """One form of utility, with parameters a and b of each agent.

    name; value, marginal, curvature: functions (x, a, b) -> u [$/h], u' [$/kWh], u'' < 0 [$/kWh per kW];
    demand: function (price, a, b) -> x >= 0 with u'(x) = price [kW], 0 where even the first unit is worth less, inf
    where the price is never reached. All take numpy arrays with the agents on the last axis and broadcast.
    expression: function (x, a, b) -> Pyomo expression of u at a Pyomo variable x, None for the two built-in forms.
    positive: whether a and b must both be greater than zero.
    """

    name: str
    value: Curve
    marginal: Curve
    curvature: Curve
    demand: Curve
    expression: Callable[[Any, Any, Any], Any] | None = None
    positive: bool = False


def _log_value(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return a * np.log1p(x / b)


def _log_marginal(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return a / (b + x)


def _log_curvature(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", over="ignore"):
        return -a / (b + x) ** 2


def _log_demand(price: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    # a finite price of next to nothing asks for more than a float holds: as unlimited as none
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(price > 0, np.maximum(0.0, a / price - b), np.inf)


def _quadratic_value(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    return a * x - 0.5 * b * x**2


def _quadratic_marginal(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    return a - b * x


def _quadratic_curvature(x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    return -b + 0.0 * x


def _quadratic_demand(price: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    return np.maximum(0.0, (a - price) / b)


UTILITIES: dict[str, Utility] = {
    utility.name: utility
    for utility in (
        Utility(LOG, _log_value, _log_marginal, _log_curvature, _log_demand, positive=True),
        Utility(
            QUADRATIC, _quadratic_value, _quadratic_marginal, _quadratic_curvature, _quadratic_demand, positive=True
        ),
    )
}
