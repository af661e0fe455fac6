"""What public wires carry and lose for given injections, by Newton's method, without any optimisation.

    A' f + |A|' rho f^2 / 2 = p,     x f = A theta - shift

A: incidence of the public branches; f: mean flow [kW]; p: injections into the public grid [kW], which are free at one
bus of each connected part (the source, where the part has it). What is missing there is the last unknown: what the main
grid gives. The equations are those of flow `lossy`, solved by other means, to hold a settlement against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.formulations.flows.lossy import angle_references
from mktopt.networks import units
from mktopt.networks.network import FloatArray, Network

_STEPS = 30
_EXACT = 1e-11


def lossy_power_flow(network: Network, injection_kw: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """(mean flows (n_branches, T), what each bus lacks (n_buses, T)) [kW]; None where Newton's method finds no flow.

    injection_kw: into the public grid at each bus, (n_buses, T). Private branches carry nothing here. A bus lacks
    nothing but at the one of each part whose angle is the reference; losses of public wires are included there.
    """
    public = np.flatnonzero(~network.private)
    flows, lack = np.zeros((network.n_branches, injection_kw.shape[1])), np.zeros_like(injection_kw)
    solve = _Newton(network, public)
    for t in range(injection_kw.shape[1]):
        found = solve(injection_kw[:, t])
        if found is None:
            return None
        flows[public, t], lack[:, t] = found
    return flows, lack


class _Newton:
    """The equations of the public branches at positions `public`; unknowns are flows, then angles."""

    def __init__(self, network: Network, public: Any) -> None:
        from scipy.sparse import csr_array

        m, n = len(public), network.n_buses
        ends, one = (network.from_index[public], network.to_index[public]), np.ones(m)
        rows, shape = np.arange(m), (m, n)
        start = csr_array((one, (rows, ends[0])), shape=shape)
        end = csr_array((one, (rows, ends[1])), shape=shape)
        self._incidence, self._touches = (start - end).tocsr(), (start + end).tocsr()
        reactance = units.reactance_per_kw(network)[public]
        used = np.abs(reactance[reactance != 0.0])
        scale = float(np.median(used)) if len(used) else 1.0
        self._x, self._shift = reactance / scale, units.shift_rad(network)[public] / scale
        self._rho = units.loss_per_kw(network)[public]
        self._free = np.ones(n, dtype=bool)
        self._free[angle_references(network, ~network.private)] = False

    def __call__(self, p: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """(flows (public branches,), lack (n_buses,)) for injections `p` (n_buses,) [kW]."""
        from scipy.sparse import block_array, diags_array
        from scipy.sparse.linalg import splu

        m, free = len(self._x), self._free
        f, theta = np.zeros(m), np.zeros(int(free.sum()))
        drop, size = self._incidence[:, free], max(float(np.abs(p).max(initial=0.0)), 1e-12)
        for _ in range(_STEPS):
            lack = self._lack(f, p)
            angles = self._x * f - drop @ theta + self._shift
            error = np.r_[angles, lack[free]]
            if np.abs(error).max(initial=0.0) <= _EXACT * size:
                return f, lack
            kcl = self._incidence.T + (diags_array(self._rho * f) @ self._touches).T
            matrix = block_array([[diags_array(self._x), -drop], [kcl.tocsr()[free], None]]).tocsc()
            try:
                step = splu(matrix).solve(error)
            except RuntimeError:  # singular: losses as great as what is sent
                return None
            f, theta = f - step[:m], theta - step[m:]
            if not np.isfinite(f).all():
                return None
        return None

    def _lack(self, f: FloatArray, p: FloatArray) -> FloatArray:
        taken = self._incidence.T @ f + 0.5 * (self._touches.T @ (self._rho * f**2))
        return np.asarray(taken - p)
