"""The proof that a clearing is optimal, evaluated from its tables and the model's Pyomo expressions.

For the model  max f(x)  s.t.  g_i(x) in [a_i, b_i],  l <= x <= u  the clearing's tables give x (quantities, flows) and
the multipliers y of the balance rows (prices) and of the user's rows (duals); other values come from the solver.

    primal           greatest violation of a row or bound, relative to the size of its terms
    z = grad f - sum_i y_i grad g_i                 what a variable would still gain
    dual             greatest part of z, or of the wrong sign of y, that no bound explains, relative to the prices
    complementarity  greatest |z_j| (distance of x_j to its bound), |y_i| (slack of row i), relative to the turnover
    gap              sum of them: primal minus dual objective of a convex (quadratic) program, relative to the turnover
    regret           most that one participant could gain at its order_price on its own curve [$], relative to turnover
    budget           payments - receipts - rent, the rent taken from the flows, relative to the turnover

Nothing here reads the arrays that the solver saw. References: Boyd, Vandenberghe, Convex Optimization, 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
from pyomo.repn import generate_standard_repn

from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.errors import MktoptError


@dataclass(frozen=True)
class Certificate:
    """Figures of proof; all but `rent` [$] and `turnover` [$] are relative (see the module's text).

    `convex` is False where integer decisions were fixed to price them: the gap is then that of the fixed problem, and
    regret is uplift, reported but not asserted. `nodal` is False under other pricing rules: regret at `order_price`
    still holds for the dispatch. `rent_must_be_positive`: zero injection is feasible, so that a negative rent would
    be a wrong price. `source` says whether it was evaluated here or read with a saved result.
    """

    primal: float
    dual: float
    complementarity: float
    gap: float
    regret: float
    budget: float
    rent: float
    turnover: float
    convex: bool = True
    rent_must_be_positive: bool = False
    source: str = "evaluated"

    def failures(self, tol: float = 1e-6) -> list[str]:
        """The names of the figures that do not hold within `tol`."""
        figures = {"primal": self.primal, "dual": self.dual, "gap": self.gap, "budget": self.budget}
        if self.convex:
            figures["regret"] = self.regret
        failed = [name for name, value in figures.items() if not value <= tol]
        if self.rent_must_be_positive and not self.rent >= -tol * self.turnover:
            failed.append("rent")
        return failed

    def ok(self, tol: float = 1e-6) -> bool:
        """Whether every figure that must hold does so within `tol`."""
        return not self.failures(tol)

    def __str__(self) -> str:
        failed = self.failures()
        verdict = "holds" if not failed else f"FAILS in {', '.join(failed)}"
        kind = "" if self.convex else " (integers fixed; regret is uplift)"
        return (
            f"{verdict}: primal {self.primal:.1e}, dual {self.dual:.1e}, gap {self.gap:.1e}, "
            f"regret {self.regret:.1e}, budget {self.budget:.1e}, rent {self.rent:.4g} ${kind}"
        )


def certify(clearing: Clearing) -> Certificate:
    """Evaluates the certificate of `clearing`; raises MktoptError where it carries no evidence to evaluate."""
    evidence = clearing.evidence
    if evidence is None:
        raise MktoptError("this clearing has no evidence; clear the market again to certify it")
    if not isinstance(evidence, Evidence):
        certificate: Certificate = evidence.certificate(clearing)
        return certificate
    turnover = _turnover(clearing)
    x = _values(clearing, evidence)
    primal, dual, products = _optimality(clearing, evidence, x, turnover)
    regret = _regret(clearing)
    payments = float(clearing.dispatch["payment"].sum())
    rent = _rent(clearing)
    balanced = clearing.options.get("pricing", "nodal") == "budget_balanced"
    missing = payments if balanced else payments - rent
    if balanced and any("budget balance is out of reach" in note for note in clearing.notes):
        missing = 0.0  # the shortfall is reported as what it is
    whole = clearing.orders.orders["all_or_nothing"].any()
    return Certificate(
        primal=primal,
        dual=dual,
        complementarity=float(products.max(initial=0.0)) / turnover,
        gap=float(products.sum()) / turnover,
        regret=float(regret["regret"].max()) / turnover if len(regret) else 0.0,
        budget=abs(missing) / turnover,
        rent=rent,
        turnover=turnover,
        convex=not whole,
        rent_must_be_positive=not whole and _zero_is_feasible(clearing, evidence),
    )


def regrets(clearing: Clearing) -> pd.DataFrame:
    """What each participant could still gain [$] at the prices it faces: participant, regret (lost opportunity)."""
    return _regret(clearing)


def _turnover(clearing: Clearing) -> float:
    """Money that moves, the scale of every figure in $: sum of |price| q hours, at least the welfare's size."""
    hours = clearing.network.hours[clearing.dispatch["period"].to_numpy()]
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    faced = np.abs(clearing.order_prices["order_price"].to_numpy())
    moved = float(np.sum(faced * quantity * hours))
    return max(moved, abs(clearing.welfare), 1e-6)


def _values(clearing: Clearing, evidence: Evidence) -> dict[int, float]:
    """Values by id of variable: those of the tables where a table has them, else the solver's."""
    values = {id(v): value for v, value in zip(evidence.variables, evidence.values.tolist(), strict=True)}
    model, orders = evidence.model, clearing.orders
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    filled = orders.curves.fill(quantity)
    filled[orders.curves.first] += np.minimum(quantity, 0.0)  # a negative quantity must show as a violation
    beyond = np.maximum(quantity - orders.width_kw, 0.0)
    last = np.r_[orders.curves.first[1:], len(filled)] - 1
    filled[last] += beyond
    _put(values, model.segment_kw, filled)
    for (order, period), y in model.whole.items():
        width = sum(v.ub for v in model.segment_kw[order, period, :])
        accepted = sum(values[id(v)] for v in model.segment_kw[order, period, :])
        values[id(y)] = accepted / width if width > 0 else values[id(y)]
    branch_flows = model.grid.component("p_kw")
    if branch_flows is not None and len(clearing.flows):
        _put(values, branch_flows, clearing.flows["p_kw"].to_numpy())
    return values


def _put(values: dict[int, float], component: Any, numbers: FloatArray) -> None:
    values.update((id(v), number) for v, number in zip(component.values(), numbers.tolist(), strict=True))


def _multipliers(clearing: Clearing, evidence: Evidence) -> FloatArray:
    """Multipliers of all rows: prices and duals of the tables where a table has them, else the solver's."""
    y = evidence.multipliers.copy()
    hours = np.tile(clearing.network.hours, clearing.network.n_buses)
    has = evidence.balance >= 0
    price = clearing.prices["price"].to_numpy() * hours
    y[evidence.balance[has]] = -(price / evidence.balance_sign)[has]
    own = {id(row): k for k, row in enumerate(evidence.rows)}
    names = set(clearing.constraints["name"])
    duals = iter(clearing.constraints["dual"].tolist())
    for component in evidence.model.component_objects(pyo.Constraint, active=True):
        if component.name in names:
            for row in component.values():
                if row.active:
                    y[own[id(row)]] = next(duals)
    return y


def _optimality(
    clearing: Clearing, evidence: Evidence, x: dict[int, float], turnover: float
) -> tuple[float, float, FloatArray]:
    """(primal residual, dual residual, products of multipliers and slacks [$]) of the model at x and the prices."""
    y = _multipliers(clearing, evidence)
    objective = next(evidence.model.component_data_objects(pyo.Objective, active=True))
    sense = 1.0 if objective.sense == pyo.maximize else -1.0
    gradient: dict[int, float] = {}
    steepest = _add_gradient(gradient, objective.expr, sense, x)
    primal, wrong_sign, products = 0.0, 0.0, []
    for row, multiplier in zip(evidence.rows, y.tolist(), strict=True):
        body, size = _evaluate(row.body, x)
        low, high = _bound(row.lower, -np.inf), _bound(row.upper, np.inf)
        scale = max(1.0, size, *(abs(b) for b in (low, high) if np.isfinite(b)))
        primal = max(primal, (low - body) / scale, (body - high) / scale)
        if multiplier:
            _add_gradient(gradient, row.body, -multiplier, x)
            # a positive multiplier says: welfare rises with the right-hand side, so the upper bound holds it
            limit = high if multiplier > 0 else low
            if np.isfinite(limit):
                products.append(abs(multiplier) * abs(limit - body))
            else:
                wrong_sign = max(wrong_sign, abs(multiplier))
    price_scale = max(steepest, float(np.abs(y).max(initial=0.0)), 1e-9)
    unexplained = wrong_sign
    for v in evidence.variables:
        z, value = gradient.get(id(v), 0.0), x[id(v)]
        low, high = _bound(v.lower, -np.inf), _bound(v.upper, np.inf)
        if v.fixed or v.is_binary():
            continue
        scale = max(1.0, abs(value), *(abs(b) for b in (low, high) if np.isfinite(b)))
        primal = max(primal, (low - value) / scale, (value - high) / scale)
        limit = high if z > 0 else low
        if np.isfinite(limit):
            products.append(abs(z) * abs(limit - value))
        else:
            unexplained = max(unexplained, abs(z))
    return primal, unexplained / price_scale, np.array(products)


def _bound(value: Any, default: float) -> float:
    return default if value is None else float(pyo.value(value))


def _repn(expression: Any) -> Any:
    repn = generate_standard_repn(expression, quadratic=True)
    if repn.nonlinear_expr is not None:
        raise MktoptError("certificates of nonlinear models are not available for this mechanism")
    return repn


def _evaluate(expression: Any, x: dict[int, float]) -> tuple[float, float]:
    """Value of a linear or quadratic expression at x, and the size of its greatest term."""
    repn = _repn(expression)
    terms = [c * x[id(v)] for c, v in zip(repn.linear_coefs, repn.linear_vars, strict=True)]
    terms += [
        c * x[id(a)] * x[id(b)] for c, (a, b) in zip(repn.quadratic_coefs, repn.quadratic_vars, strict=True)
    ]
    constant = float(pyo.value(repn.constant))
    return constant + sum(terms), max((abs(term) for term in terms), default=abs(constant))


def _add_gradient(gradient: dict[int, float], expression: Any, factor: float, x: dict[int, float]) -> float:
    """Adds factor * grad(expression) at x to `gradient`; returns the greatest linear coefficient in size."""
    repn = _repn(expression)
    for c, v in zip(repn.linear_coefs, repn.linear_vars, strict=True):
        gradient[id(v)] = gradient.get(id(v), 0.0) + factor * c
    for c, (a, b) in zip(repn.quadratic_coefs, repn.quadratic_vars, strict=True):
        gradient[id(a)] = gradient.get(id(a), 0.0) + factor * c * x[id(b)]
        gradient[id(b)] = gradient.get(id(b), 0.0) + factor * c * x[id(a)]
    return max((abs(factor * c) for c in repn.linear_coefs), default=0.0)


def _regret(clearing: Clearing) -> pd.DataFrame:
    """Per participant: best surplus on its own curves at order_price, minus the surplus it has there [$]."""
    orders, network = clearing.orders, clearing.network
    hours = network.hours[orders.orders["period"].to_numpy()]
    price = clearing.order_prices["order_price"].to_numpy()
    sign = orders.injection_sign
    lower = orders.orders["minimum_kw"].to_numpy()
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    width = np.where(np.isinf(orders.width_kw), np.maximum(quantity, lower), orders.width_kw)

    def gain(q: FloatArray) -> FloatArray:
        gained: FloatArray = hours * sign * (price * q - orders.curves.value(q))
        return gained

    best = gain(orders.curves.best_response(price, sign, lower, width))
    whole = orders.orders["all_or_nothing"].to_numpy()
    if whole.any():  # nothing in between is open to them
        ends = np.maximum(gain(np.where(whole, width, 0.0)), np.where(lower > 0, -np.inf, 0.0))
        best = np.where(whole, ends, best)
    lost = best - gain(quantity)
    # an endless order gains without limit wherever its price is missed; say so by the money at stake
    endless = np.isinf(orders.width_kw)
    if endless.any():
        last = np.r_[orders.curves.first[1:], len(orders.curves.owner)] - 1
        missed = np.maximum(sign * (price - orders.curves.start[last]), 0.0)
        lost = np.where(endless, np.maximum(lost, missed * np.maximum(quantity, 1.0) * hours), lost)
    frame = pd.DataFrame({"participant": orders.orders["participant"].to_numpy(), "regret": lost})
    return frame.groupby("participant", sort=False)["regret"].sum().reset_index()


def _rent(clearing: Clearing) -> float:
    """Congestion rent from the wires: -sum_b lambda_b p_b hours, p_b what the flows and shunts take from bus b [$].

    With explicit flows p_b is their divergence, plus what shunts draw and user rows move; without (copperplate) one
    price serves all buses and the wires earn nothing.
    """
    network = clearing.network
    periods = len(network.hours)
    price = clearing.prices["price"].to_numpy().reshape(-1, periods) * network.hours
    rent = -float(np.sum(price * network.shunt_kw[:, None]))
    if len(clearing.flows):
        flow = clearing.flows["p_kw"].to_numpy().reshape(-1, periods)
        rent += float(np.sum(flow * (price[network.to_index] - price[network.from_index])))
    return rent


def _zero_is_feasible(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether nobody trading is feasible, so that the rent cannot be negative: no minimum, shunt or row forbids it."""
    if (clearing.orders.orders["minimum_kw"] > 0).any() or clearing.network.shunt_kw.any():
        return False
    if clearing.network.lines["shift_deg"].any():
        return False
    zero = {id(v): 0.0 for v in evidence.variables}
    names = set(clearing.constraints["name"])
    for row in evidence.rows:
        if row.parent_component().name in names:
            body, _ = _evaluate(row.body, zero)
            if not _bound(row.lower, -np.inf) - 1e-9 <= body <= _bound(row.upper, np.inf) + 1e-9:
                return False
    return True
