"""Flows: how the wires behave, one file per physics, named in the table `FLOWS`."""

from __future__ import annotations

from typing import Any

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.flows.ac import ac
from mktopt.formulations.flows.common import Flow, FlowBuilder
from mktopt.formulations.flows.copperplate import copperplate
from mktopt.formulations.flows.dc import dc
from mktopt.formulations.flows.distflow import distflow
from mktopt.formulations.flows.lindistflow import lindistflow
from mktopt.formulations.flows.lossy import lossy
from mktopt.formulations.flows.ptdf import ptdf
from mktopt.formulations.flows.transport import transport

__all__ = ["FLOWS", "Flow", "FlowBuilder", "flow"]

FLOWS: dict[str, Flow] = {
    flow.name: flow
    for flow in (
        Flow("copperplate", copperplate, "no grid: one price everywhere"),
        Flow("transport", transport, "power conserved, ratings; exact DC model on radial grids"),
        Flow("dc", dc, "linear power flow with voltage angles; meshed grids"),
        Flow("ptdf", ptdf, "linear power flow by sensitivities H; meshed grids"),
        Flow("lindistflow", lindistflow, "active and reactive power, voltages, no losses", radial_only=True),
        Flow("distflow", distflow, "losses and voltages by second-order cones, or exactly", radial_only=True),
        Flow("lossy", lossy, "linear power flow with quadratic losses; private wires free; meshed grids"),
        Flow("ac", ac, "alternating current: losses, voltages, angles (a local optimum); meshed grids"),
    )
}


def flow(which: str | Flow | FlowBuilder, **options: Any) -> Flow:
    """The flow named `which` (or a flow function of your own), with `options` set.

    Raises UnknownNameError for a name that is not in `FLOWS` or an option that the flow does not have.
    """
    if isinstance(which, str):
        if which not in FLOWS:
            raise unknown_name("flow", which, FLOWS)
        found = FLOWS[which]
    elif isinstance(which, Flow):
        found = which
    elif callable(which):
        found = Flow(getattr(which, "__name__", "custom"), which, (which.__doc__ or "").split("\n")[0])
    else:
        raise FormulationError(f"a flow is a name, a function or mktopt.flow(...), not {which!r}")
    return found.with_options(**options) if options else found
