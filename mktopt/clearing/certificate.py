"""The proof that a clearing is optimal, evaluated from its tables and the model's Pyomo expressions.

The tables give the values of the model's variables (quantities, flows, voltages) and the multipliers of the balance
rows (prices) and of the user's rows (duals); what no table has (angles, multipliers of the physics) comes from the
solver. With these, at the turnover as the scale of money,

    primal, dual     residuals of the optimality conditions (see `mktopt.clearing.optimality`)
    gap              sum of |multiplier| times slack: primal minus dual objective of a convex program; none (None) where
                     the model is not convex and the optimum is local, which complementarity then vouches for
    complementarity  its greatest term
    regret           most that one participant could gain at its order_price on its own curve [$]
    budget           payments - receipts - rent, the rent taken from the flows [$]
    tables           greatest disagreement between tables that say the same: names, welfare, payments, order prices, ...
    record, choice   of a coalition: its costs, losses and payments made anew, and what private traders missed (see
                     `mktopt.clearing.coalition_certificate`); else none (None)

Nothing here reads the arrays that the solver saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyomo.environ as pyo
from pyomo.core.expr.visitor import identify_variables

from mktopt.clearing.consistency import disagreement, names_agree
from mktopt.clearing.optimality import conditions, zero_is_feasible
from mktopt.clearing.pricing import PRICING
from mktopt.clearing.reactive import has_range
from mktopt.clearing.result import Clearing, Evidence, FloatArray
from mktopt.clearing.security import security_violation
from mktopt.clearing.testimony import multipliers_of, values_of
from mktopt.errors import MktoptError
from mktopt.formulations.budget_balance import shortfall
from mktopt.formulations.coalition import DECIDED, decided_before
from mktopt.formulations.market import declaration_of
from mktopt.networks.units import shunt_kvar
from mktopt.solvers.solution import Has

if TYPE_CHECKING:
    from mktopt.clearing.equilibrium_certificate import EquilibriumCertificate

# Money at stake is far more than money that moves where hardly anything is traded; figures are judged by at least
# this share of it.
_STAKE = 1e-2


@dataclass(frozen=True)
class Certificate:
    """Figures of proof; all but `rent` [$] and `turnover` [$] are relative (see the module's text).

    `convex` is False where integer decisions were fixed to price them: the gap is then that of the fixed problem, and
    regret is uplift, reported but not asserted; and where the optimum is `local`: then there is no gap (None).
    `rent_must_be_positive`: zero injection is feasible, so that a
    negative rent would be a wrong price. `source` says whether it was evaluated here or read with a saved result.
    """

    primal: float
    dual: float
    complementarity: float
    gap: float | None
    regret: float
    budget: float
    tables: float
    rent: float
    turnover: float
    convex: bool = True
    rent_must_be_positive: bool = False
    source: str = "evaluated"
    local: bool = False
    record: float | None = None
    choice: float | None = None

    def failures(self, tol: float = 1e-6) -> list[str]:
        """The names of the figures that do not hold within `tol`."""
        money = "complementarity" if self.local else "gap"
        names = ["primal", "dual", money, "budget", "tables"] + ["regret"] * self.convex
        names += [name for name in ("record", "choice") if getattr(self, name) is not None]
        failed = [name for name in names if not getattr(self, name) <= tol]
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
        kind = " (a local optimum; regret is lost opportunity)" if self.local else kind
        gap = f"slackness {self.complementarity:.1e}" if self.gap is None else f"gap {self.gap:.1e}"
        more = [("record", self.record), ("choice", self.choice)]
        said = "".join(f"{name} {value:.1e}, " for name, value in more if value is not None)
        return (
            f"{verdict}: primal {self.primal:.1e}, dual {self.dual:.1e}, {gap}, regret {self.regret:.1e}, "
            f"budget {self.budget:.1e}, tables {self.tables:.1e}, {said}rent {self.rent:.4g} ${kind}"
        )


def certify(clearing: Clearing) -> Certificate | EquilibriumCertificate:
    """Evaluates the certificate of `clearing`; raises MktoptError where it carries no evidence to evaluate."""
    evidence = clearing.evidence
    if evidence is None:
        raise MktoptError("this clearing has no evidence; clear the market again to certify it")
    if not isinstance(evidence, Evidence):
        certificate: Certificate | EquilibriumCertificate = evidence.certificate(clearing)
        return certificate
    if clearing.equilibrium is not None:
        from mktopt.clearing.equilibrium_certificate import certify_equilibrium

        return certify_equilibrium(clearing)
    if not names_agree(clearing, evidence):  # numbers that belong to nothing prove nothing
        unknown = float("nan")
        return Certificate(
            unknown, unknown, unknown, unknown, unknown, unknown, tables=float("inf"), rent=unknown, turnover=unknown
        )
    objective = next(evidence.model.component_data_objects(pyo.Objective, active=True))
    x, y = values_of(clearing, evidence), multipliers_of(clearing, evidence)
    found = conditions(objective, evidence.rows, evidence.variables, x, y)
    turnover = _turnover(clearing, found.objective)
    rent, regret = rent_of_wires(clearing), regrets(clearing)["regret"]
    local = _is_local(clearing, evidence)
    convex = not local and all(v.is_continuous() for v in evidence.variables)
    record, choice = _of_coalition(clearing)
    return Certificate(
        primal=float(np.maximum(found.primal, security_violation(clearing))),
        dual=found.dual,
        complementarity=float(found.products.max(initial=0.0)) / turnover,
        gap=None if local else float(found.products.sum()) / turnover,
        regret=float(regret.max()) / turnover,
        budget=abs(float(clearing.dispatch["payment"].sum()) - _surplus_kept(clearing, rent)) / turnover,
        tables=disagreement(clearing, evidence, found, x, turnover),
        rent=rent,
        turnover=turnover,
        convex=convex,
        rent_must_be_positive=convex and _rent_is_the_grids_own(clearing, evidence),
        local=local,
        record=record,
        choice=choice,
    )


def _of_coalition(clearing: Clearing) -> tuple[float | None, float | None]:
    """Figures `record` and `choice`, None of other mechanisms."""
    if clearing.coalition is None:
        return None, None
    from mktopt.clearing.coalition_certificate import coalition_certificate

    found = coalition_certificate(clearing)
    return float(np.max([found.losses, found.costs, found.payments])), found.choice


def _is_local(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether no gap can be claimed: the solver says so, or the program that it solved is not convex."""
    return clearing.status.has is Has.LOCAL or bool(evidence.program is not None and evidence.program.not_convex)


def regrets(clearing: Clearing) -> pd.DataFrame:
    """What each participant could still gain [$] at the prices it faces: participant, regret (lost opportunity).

    Best surplus on its own curves at order_price, minus the surplus that it has there.
    """
    orders, network = clearing.orders, clearing.network
    hours = network.hours[orders.orders["period"].to_numpy()]
    price = clearing.order_prices["order_price"].to_numpy()
    sign = orders.injection_sign
    lower = orders.orders["minimum_kw"].to_numpy()
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    width = np.where(np.isinf(orders.width_kw), np.maximum(quantity, lower), orders.width_kw)

    def gain(q: FloatArray) -> FloatArray:
        return hours * sign * (price * q - orders.curves.value(q))

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
    if clearing.coalition is not None:  # what was decided before the market is no choice at its prices
        lost = np.where(decided_before(orders, clearing.coalition.behaviour), 0.0, lost)
    lost = lost + _reactive_regret(clearing) * hours
    frame = pd.DataFrame({"participant": orders.orders["participant"].to_numpy(), "regret": lost})
    return frame.groupby("participant", sort=False)["regret"].sum().reset_index()


def _reactive_regret(clearing: Clearing) -> FloatArray:
    """What orders with a reactive range could gain by giving or drawing other kvar at their price [$/h]."""
    orders, network = clearing.orders, clearing.network
    if clearing.reactive_prices is None or not has_range(orders).any():
        return np.zeros(len(orders))
    where = network.bus_positions(orders.orders["bus"]) * len(network.hours) + orders.orders["period"].to_numpy()
    price = np.nan_to_num(clearing.reactive_prices["price"].to_numpy()[where]) * orders.injection_sign
    ends = orders.orders[["q_min_kvar", "q_max_kvar"]].to_numpy()
    with np.errstate(invalid="ignore"):
        best = np.maximum(price * ends[:, 0], price * ends[:, 1])
    return np.where(has_range(orders), np.nan_to_num(best) - price * clearing.dispatch["q_kvar"].to_numpy(), 0.0)


def _turnover(clearing: Clearing, objective: float) -> float:
    """The scale of figures in $: sum of |price| q hours, at least the welfare and a share of what is at stake."""
    orders = clearing.orders
    hours = clearing.network.hours[clearing.dispatch["period"].to_numpy()]
    where = clearing.network.bus_positions(orders.orders["bus"]) * len(clearing.network.hours)
    price = np.abs(clearing.prices["price"].to_numpy()[where + orders.orders["period"].to_numpy()])
    moved = float(np.sum(price * clearing.dispatch["quantity_kw"].to_numpy() * hours))
    width = np.where(np.isfinite(orders.width_kw), orders.width_kw, 1.0)
    # values of lost load are no prices, but where every price is zero they still say what money means here
    highest = float(np.abs(np.r_[orders.curves.start, orders.curves.end]).max()) or 1.0
    level = max(float(np.nanmax(np.abs(clearing.prices["price"]))), 1e-3 * highest)
    return max(moved, abs(objective), _STAKE * level * float(np.sum(width * hours)), 1e-12)


def _surplus_kept(clearing: Clearing, rent: float) -> float:
    """What the payments must add up to [$]: the rent, or minus what is short where the rule gives the rent away."""
    if PRICING[clearing.options.get("pricing", "nodal")].keeps_rent:
        return rent
    quantity = clearing.dispatch["quantity_kw"].to_numpy()
    hours = clearing.network.hours
    return -sum(float(hours[t]) * shortfall(clearing.orders, quantity, t) for t in clearing.network.periods)


def rent_of_wires(clearing: Clearing) -> float:
    """Congestion rent from the wires: -sum_b lambda_b p_b hours, p_b what the flows and shunts take from bus b [$].

    With explicit flows p_b is their divergence, plus what shunts draw; without (copperplate) one price serves all
    buses and the wires earn nothing.
    """
    network = clearing.network
    periods = len(network.hours)
    price = np.nan_to_num(clearing.prices["price"].to_numpy()).reshape(-1, periods) * network.hours
    v2 = 1.0 if clearing.voltages is None else clearing.voltages["v_pu"].to_numpy().reshape(-1, periods) ** 2
    rent = -float(np.sum(price * network.shunt_kw[:, None] * v2))
    if len(clearing.flows):
        sent = clearing.flows["p_kw"].to_numpy().reshape(-1, periods)
        # With losses less arrives than is sent.
        arrived = clearing.flows["to_kw"].to_numpy().reshape(-1, periods) if "to_kw" in clearing.flows else sent
        rent += float(np.sum(arrived * price[network.to_index]) - np.sum(sent * price[network.from_index]))
    return rent + _reactive_rent(clearing)


def _reactive_rent(clearing: Clearing) -> float:
    """The same from the reactive power that wires and shunts take [$]; what the source gives for nothing costs nothing.

    Its price there is zero, so that it need not be told from what the orders give.
    """
    if clearing.reactive_prices is None:
        return 0.0
    network, flows = clearing.network, clearing.flows
    periods = len(network.hours)
    price = np.nan_to_num(clearing.reactive_prices["price"].to_numpy()).reshape(-1, periods) * network.hours
    v2 = 1.0 if clearing.voltages is None else clearing.voltages["v_pu"].to_numpy().reshape(-1, periods) ** 2
    sent = flows["q_kvar"].to_numpy().reshape(-1, periods)
    arrived = flows["to_kvar"].to_numpy().reshape(-1, periods) if "to_kvar" in flows else sent
    rent = float(np.sum(arrived * price[network.to_index]) - np.sum(sent * price[network.from_index]))
    return rent + float(np.sum(price * shunt_kvar(network)[:, None] * v2))


def no_load(clearing: Clearing, evidence: Evidence) -> FloatArray:
    """Values of a grid that nobody uses: all zero but the voltages, those at no load, shape (n,)."""
    values, v2 = np.zeros(len(evidence.variables)), evidence.model.grid.component("v2")
    if v2 is None or not clearing.network.topology.is_radial:
        return values
    at = {id(variable): k for k, variable in enumerate(evidence.variables)}
    for (bus, _), variable in v2.items():
        if id(variable) in at:
            values[at[id(variable)]] = clearing.network.topology.no_load_v_pu[clearing.network.bus_index[bus]] ** 2
    return values


def _rent_is_the_grids_own(clearing: Clearing, evidence: Evidence) -> bool:
    """Whether the rent cannot be negative: nothing at all is feasible, and no row of the user's own lends the grid
    money by tying flows to orders."""
    if clearing.coalition is not None and clearing.coalition.behaviour in DECIDED:
        return False  # private wires carry what was decided, also where it does not pay at these prices
    grid = {id(v) for v in evidence.model.grid.component_data_objects(pyo.Var)}
    if any(id(v) in grid for row in evidence.own for v in identify_variables(row.body)):
        return False
    security = declaration_of(evidence.model).security
    if security is not None and security.loses_orders:  # an offer's own outage limits the flow beside it
        return False
    return zero_is_feasible(evidence.rows, evidence.variables, no_load(clearing, evidence))
