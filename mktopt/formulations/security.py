"""Security: the dispatch must survive every contingency without any branch above its emergency rating.

After the loss of branch c, and after that of the generators o in c, whose power the substation picks up,

    f^c_l = f_l + L_lc f_c                   -e_l F_l <= f^c_l <= e_l F_l        `security[c, l, t]`
    f^c_l = f_l - sum_{o in c} H_l,b(o) q_o

f: flow before [kW]; q: accepted power of an offer [kW]; F: rating [kVA]; e: emergency factor; L: line outage
distribution factors; H: power transfer distribution factors with the source as slack. Nothing is dispatched anew after
an outage, and limits of angles hold before it only. The rows hold where flows are linear in injections: `ptdf`, `dc`,
and `transport` on a radial grid; without branch flows (`copperplate`) there are none. Only rows that could bind at all
are declared.

Where there are many, rows are declared lazily: the market is cleared without them, those that its flows violate are
declared, and so on until none is. What is then declared is a part of all rows, and the dispatch satisfies the others
with room to spare, so that it is an optimum of the market with all of them, and its prices are theirs.
Reference: OpenGridGym (IEEE Trans. Smart Grid 2023), eq. (16)-(18), f^c = (H + L_c H_c) p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import LinearExpression

from mktopt.errors import FormulationError
from mktopt.formulations.contingencies import contingencies, emergency_limits
from mktopt.formulations.flows.common import Flow
from mktopt.formulations.flows.copperplate import copperplate
from mktopt.formulations.flows.dc import dc
from mktopt.formulations.flows.ptdf import ptdf
from mktopt.formulations.flows.transport import transport
from mktopt.formulations.outages import Outages, Rows
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

FEW = 20_000  # rows that are declared all at once
PER_ROUND = 2_000  # rows that are declared in one round of those that are too many
_LINEAR = (ptdf, dc, transport, copperplate)


def check_flow(network: Network, flow: Flow) -> None:
    """Raises FormulationError where the flows of `flow` after an outage do not follow from those before it."""
    if flow.build not in _LINEAR:
        raise FormulationError(
            f"flow '{flow.name}' cannot take contingencies: flows after an outage follow from those before it only in "
            "linear power flow; use ptdf or dc (any grid), transport (radial grids) or copperplate"
        )
    if flow.options.get("susceptance", "reactance") != "reactance":
        raise FormulationError(
            f"flow 'dc' with susceptance={flow.options['susceptance']!r} cannot take contingencies: outage factors are "
            "those of susceptance='reactance'"
        )
    if flow.build is transport and not network.topology.is_radial:
        raise FormulationError(
            "flow 'transport' cannot take contingencies on a meshed grid: its flows there are not bound to physics, "
            "so that nothing says where they go after an outage; use ptdf or dc"
        )


class Security(Outages):
    """The contingencies that a dispatch must survive, and their rows.

    contingencies: see `mktopt.formulations.contingencies`; lazy: whether rows are declared as they are needed; many:
    whether there are more of them than are declared at once unless that is asked for.
    """

    def __init__(
        self,
        network: Network,
        orders: Orders,
        flow: Flow,
        asked: str | Sequence[str],
        emergency: float | Mapping[str, float] = 1.0,
        lazy: bool | None = None,
    ) -> None:
        check_flow(network, flow)
        if lazy is not None and not isinstance(lazy, bool):
            raise FormulationError(f"option 'lazy' takes true, false or nothing, not {lazy!r}")
        limit = emergency_limits(network, emergency)
        super().__init__(network, orders, contingencies(network, orders, asked), limit, flow.build is not copperplate)
        self.many = sum(len(rows.branch) for rows in self.reachable()) > FEW
        self.lazy = self.many if lazy is None else lazy

    def declare(self, model: Any) -> None:
        """Declares `security` on the block of the flow: all rows that could bind, or none yet where they are lazy."""
        model.grid.security = pyo.Constraint(pyo.Any)
        if not self.lazy:
            self._declare_all(model)

    def separate(self, model: Any) -> int:
        """Declares the most violated rows that are missing, at the values that the model has; says how many.

        Those that just hold count too: they move no optimum, but the range of prices that support it.

        Where the model has no values (it is unbounded without these rows) all of them are declared.
        """
        flow, segments = model.grid.component("p_kw"), list(model.segment_kw.values())
        if flow is None:
            return 0
        known = set(model.grid.security)
        kw = np.array([variable.value for variable in [*flow.values(), *segments]], dtype=float)
        if np.isnan(kw).any():
            self._declare_all(model)
            return len(model.grid.security) - len(known)
        flow_kw, segment_kw = kw[: len(flow)].reshape(-1, self._periods), kw[len(flow) :]
        found, excess = self.violated(flow_kw, self.orders.curves.total(segment_kw), tight=True)
        sequence = np.argsort(-excess, kind="stable")
        keys = self._keys(found)
        missing = [k for k in sequence.tolist() if keys[k] not in known][:PER_ROUND]
        self._add(model, Rows(*(column[missing] for column in found)))
        return len(missing)

    def _keys(self, rows: Rows) -> list[tuple[str, str, int]]:
        names = self.network.lines["branch"].to_numpy()
        titles = [self.contingencies[j].name for j in rows.contingency]
        return list(zip(titles, names[rows.branch].tolist(), rows.period.tolist(), strict=True))

    def _declare_all(self, model: Any) -> None:
        known = set(model.grid.security)
        for rows in self.reachable():
            fresh = [k for k, key in enumerate(self._keys(rows)) if key not in known]
            self._add(model, Rows(*(column[fresh] for column in rows)))

    def _add(self, model: Any, rows: Rows) -> None:
        """Declares `rows`: f_l + L_lc f_c, or f_l - sum_o H_l,b(o) q_o, between the limits."""
        constraint, limit = model.grid.security, self.limit_kw.tolist()
        flows, segments = list(model.grid.p_kw.values()), list(model.segment_kw.values())
        first, periods = [*self.orders.curves.first.tolist(), len(segments)], len(self.network.hours)
        positions = zip(*(column.tolist() for column in rows), strict=True)
        for key, (j, branch, t) in zip(self._keys(rows), positions, strict=True):
            coefficients, variables = [1.0], [flows[branch * periods + t]]
            if (lost := self.contingencies[j].branch) >= 0:
                coefficients.append(float(self.network.topology.lodf[branch, lost]))
                variables.append(flows[lost * periods + t])
            for row in self.lost_orders(j, t).tolist():
                here = segments[first[row] : first[row + 1]]
                coefficients += [-self.transfer(branch, row)] * len(here)
                variables += here
            body = LinearExpression(linear_coefs=coefficients, linear_vars=variables)
            constraint[key] = (-limit[branch], body, limit[branch])

    def notes(self) -> list[str]:
        """What a reader must know: outages that no dispatch is secure against, or a flow without branches."""
        found = []
        lost = [item.name for item in self.contingencies if item.islands]
        if lost:
            named = ", ".join(lost[:4]) + (", ..." if len(lost) > 4 else "")
            found.append(
                f"{len(lost)} of {len(self.contingencies)} contingencies cut buses off ({named}): no dispatch is "
                "secure against them, and they limit nothing (see table contingencies)"
            )
        if self.contingencies and not self.has_flows:
            found.append("this flow has no branches, so that contingencies limit nothing")
        return found
