"""Small Pyomo models whose optimum is known to be unique, duals included; each can be minimised or maximised."""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo


def market(sense: Any = pyo.minimize, demand_first: bool = False, curvature: float = 0.0) -> Any:
    """Three generators and a firm demand, with every form of row; strictly unique duals."""
    m = pyo.ConcreteModel()
    m.p = pyo.Var(range(3), bounds=(0, 10))
    m.p[2].setlb(1.0)
    m.demand = pyo.Var()
    m.demand.fix(12.0)
    supply = m.p[0] + m.p[1] + m.p[2]
    m.balance = pyo.Constraint(expr=m.demand == supply if demand_first else supply == m.demand)
    m.least = pyo.Constraint(expr=m.p[1] >= 2.0 + 0.1 * m.p[0])
    m.most = pyo.Constraint(expr=m.p[0] - 0.2 * m.p[1] <= 6.0)
    m.range = pyo.Constraint(expr=(-20.0, m.p[0] + m.p[2], 7.5))
    cost = sum((k + 2.0) * m.p[k] + curvature * (k + 1) * m.p[k] ** 2 for k in range(3))
    m.total = pyo.Objective(expr=cost if sense == pyo.minimize else -cost, sense=sense)
    m.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    m.rc = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return m


def curved(sense: Any = pyo.minimize) -> Any:
    """A disc, a second-order cone and a row: the optimum lies on all of them."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), initialize=1.0)
    m.x[2].setlb(0.0)
    m.disc = pyo.Constraint(expr=m.x[0] ** 2 + m.x[1] ** 2 <= 4.0)
    m.bowl = pyo.Constraint(expr=m.x[2] - (m.x[0] - 1.0) ** 2 >= 0.5)
    m.row = pyo.Constraint(expr=m.x[0] - m.x[1] <= 0.5)
    value = m.x[0] + 2.0 * m.x[1] - m.x[2]
    m.total = pyo.Objective(expr=value if sense == pyo.maximize else -value, sense=sense)
    m.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    m.rc = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return m


def useful(sense: Any = pyo.minimize) -> Any:
    """The logarithm of what is had, within a budget; one good has a least amount."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(0.05, 9.0), initialize=1.0)
    m.x[2].setlb(0.6)
    m.budget = pyo.Constraint(expr=m.x[0] + 3.0 * m.x[1] + 4.0 * m.x[2] <= 5.0)
    m.enough = pyo.Constraint(expr=pyo.log(1.0 + m.x[1]) >= 0.5)
    value = pyo.log(m.x[0]) + 2.0 * pyo.log(1.0 + m.x[1]) + 0.1 * pyo.log(m.x[2])
    m.total = pyo.Objective(expr=value if sense == pyo.maximize else -value, sense=sense)
    m.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    m.rc = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return m


def hilly(sense: Any = pyo.minimize) -> Any:
    """Not convex, with a nonlinear row that binds."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(0.1, 5), initialize=1.0)
    m.wave = pyo.Constraint(expr=m.x[0] * pyo.exp(0.3 * m.x[1]) >= 2.0)
    m.row = pyo.Constraint(expr=m.x[0] + m.x[1] == 2.5)
    value = m.x[0] ** 2 + pyo.sin(m.x[1])
    m.total = pyo.Objective(expr=value if sense == pyo.minimize else -value, sense=sense)
    m.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    m.rc = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return m


def knapsack(size: int = 25) -> Any:
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(size), domain=pyo.Binary)
    weights = [(37 * k) % 23 + 5 + 0.1 * k for k in range(size)]
    m.room = pyo.Constraint(expr=sum(w * x for w, x in zip(weights, m.x.values(), strict=True)) <= 0.4 * sum(weights))
    m.total = pyo.Objective(expr=sum((w + (k * 7) % 5) * m.x[k] for k, w in enumerate(weights)), sense=pyo.maximize)
    return m
