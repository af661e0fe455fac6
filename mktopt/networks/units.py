"""The only converter of electrical units: ohm, microsiemens and degrees to coefficients per kW and back.

The base power of the package is 1 kVA, so that a per-unit power is a number of kW and a per-unit reactance is a
number of radians per kW. With U = base_kv of the from-bus [kV line to line]:

    z_pu = z_ohm / (1000 U^2)          [p.u. per kVA]
    b_pu = b_us U^2 / 1000             [kvar at 1 p.u.]

Branch l = (i, j): a pi section on the side of bus i, then an ideal transformer,

    V_j = ratio exp(-j shift) (V_i - z I),

and its linear (DC) flow is f = (theta_i - theta_j - shift) / (x_pu ratio). A MATPOWER branch with tap tau has its
impedance behind the tap: there z becomes z tau^2, b becomes b / tau^2 and ratio 1 / tau, which leaves
1 / (x tau) as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mktopt.networks.network import Network

FloatArray = npt.NDArray[np.float64]

KW_PER_MW = 1000.0
BASE_KVA = 1.0


def base_ohm(base_kv: npt.ArrayLike, base_kva: float = BASE_KVA) -> FloatArray:
    """Impedance of 1 p.u. [ohm]: Z = 1000 U^2 / S.

    base_kv: U, line to line [kV]; base_kva: S [kVA]. The result has the shape of `base_kv`.
    """
    return 1000.0 * np.asarray(base_kv, dtype=float) ** 2 / base_kva


def ohm_to_pu(ohm: npt.ArrayLike, base_kv: npt.ArrayLike, base_kva: float = BASE_KVA) -> FloatArray:
    """`ohm` at `base_kv` in p.u. of `base_kva` (see `base_ohm`)."""
    return np.asarray(ohm, dtype=float) / base_ohm(base_kv, base_kva)


def pu_to_ohm(pu: npt.ArrayLike, base_kv: npt.ArrayLike, base_kva: float = BASE_KVA) -> FloatArray:
    """`pu` on `base_kva` as ohm at `base_kv` (see `base_ohm`)."""
    return np.asarray(pu, dtype=float) * base_ohm(base_kv, base_kva)


def us_to_pu(b_us: npt.ArrayLike, base_kv: npt.ArrayLike, base_kva: float = BASE_KVA) -> FloatArray:
    """A susceptance `b_us` [microsiemens] at `base_kv` in p.u. of `base_kva`."""
    return 1e-6 * np.asarray(b_us, dtype=float) * base_ohm(base_kv, base_kva)


def pu_to_us(b_pu: npt.ArrayLike, base_kv: npt.ArrayLike, base_kva: float = BASE_KVA) -> FloatArray:
    """A susceptance `b_pu` on `base_kva` as microsiemens at `base_kv`."""
    return 1e6 * np.asarray(b_pu, dtype=float) / base_ohm(base_kv, base_kva)


def amperes_to_kva(ampere: npt.ArrayLike, base_kv: npt.ArrayLike) -> FloatArray:
    """Three-phase rating [kVA] of a current per phase: S = sqrt(3) U I."""
    return np.sqrt(3.0) * np.asarray(base_kv, dtype=float) * np.asarray(ampere, dtype=float)


def kva_to_amperes(kva: npt.ArrayLike, base_kv: npt.ArrayLike) -> FloatArray:
    """Current per phase [A] of a three-phase power: I = S / (sqrt(3) U)."""
    return np.asarray(kva, dtype=float) / (np.sqrt(3.0) * np.asarray(base_kv, dtype=float))


# -- coefficients of the branches in service, in the order of `network.lines` ------------------------------------


def from_base_kv(network: Network) -> FloatArray:
    """Base voltage at the from-end of each branch in service [kV], shape (n_branches,)."""
    return network.buses["base_kv"].to_numpy()[network.from_index]


def resistance_pu_per_kw(network: Network) -> FloatArray:
    """Series resistance r of each branch in service [p.u. voltage squared per kW], shape (n_branches,).

    Used as in `v2_j = ratio^2 (v2_i - 2 (r P + x Q))` with P in kW and Q in kvar.
    """
    return ohm_to_pu(network.lines["r_ohm"], from_base_kv(network))


def reactance_pu_per_kvar(network: Network) -> FloatArray:
    """Series reactance x of each branch in service [p.u. voltage squared per kvar], shape (n_branches,)."""
    return ohm_to_pu(network.lines["x_ohm"], from_base_kv(network))


def reactance_per_kw(network: Network, susceptance: str = "reactance") -> FloatArray:
    """Angle that one kW turns over each branch in service [rad/kW], shape (n_branches,).

    susceptance 'reactance': x_pu ratio; 'powermodels': (r^2 + x^2) / x of the impedance behind the ratio, which then
    does not count (the DC model of PowerModels.jl), infinite for a resistance alone. Zero where the branch has no
    impedance (a switch); negative for a series capacitor.
    """
    x, ratio = reactance_pu_per_kvar(network), network.lines["ratio"].to_numpy()
    if susceptance == "reactance":
        return x * ratio
    r, x = resistance_pu_per_kw(network) * ratio**2, x * ratio**2
    without = np.where(r == 0, 0.0, np.inf)
    return np.divide(r**2 + x**2, x, out=without, where=x != 0)


def susceptance_kw(network: Network) -> FloatArray:
    """DC susceptance of each branch in service [kW/rad]: 1 / (x_pu ratio), shape (n_branches,).

    Infinite where the reactance is zero; flows that divide by it must treat those branches apart.
    """
    x = reactance_per_kw(network)
    return np.divide(1.0, x, out=np.full_like(x, np.inf), where=x != 0)


def charging_kvar(network: Network) -> FloatArray:
    """Reactive power that each branch in service gives at 1 p.u. on its from side [kvar], shape (n_branches,).

    Half of it sits at either end of z; seen from the to-bus that half counts with 1 / ratio^2.
    """
    return us_to_pu(network.lines["b_us"], from_base_kv(network))


def shift_rad(network: Network) -> FloatArray:
    """Phase shift of each branch in service [rad], shape (n_branches,)."""
    return np.deg2rad(network.lines["shift_deg"].to_numpy())


def loss_per_kw(network: Network, v_pu: float = 1.0) -> FloatArray:
    """Loss coefficient of each branch in service [kW per kW^2]: r_pu / v^2, shape (n_branches,).

    A branch with flow f [kW] at unit power factor and voltage `v_pu` loses r f^2 / v^2.
    """
    return resistance_pu_per_kw(network) / v_pu**2


def shunt_kvar(network: Network) -> FloatArray:
    """Reactive power that the shunts of each bus give at 1 p.u. [kvar], shape (n_buses,)."""
    where = network.bus_positions(network.shunts["bus"])
    return np.bincount(where, weights=network.shunts["b_kvar"].to_numpy(float), minlength=network.n_buses).astype(float)


def branch_kva(network: Network) -> FloatArray:
    """A power of the size that each branch in service carries [kVA], a power of two, shape (n_branches,).

    What `loads` below it in the spanning tree add up to, but no less than a thousandth of all of them; without loads,
    its rating, and without ratings, what drops the voltage by 1 % over the median branch. It serves as a unit that
    brings coefficients near one; no result depends on it.
    """
    topology, m = network.topology, network.n_branches
    size = np.zeros(m)
    load = np.hypot(network.load_kw, network.load_kvar)
    if load.any() and m:
        below = load.copy()
        for bus in topology.order[:0:-1].tolist():
            below[topology.parent[bus]] += below[bus]
        size[topology.parent_branch[topology.other_buses]] = below[topology.other_buses]
        size = np.maximum(size, 1e-3 * load.sum())
    else:
        rating = network.lines["rating_kva"].to_numpy()
        finite = rating[np.isfinite(rating)]
        impedance = np.hypot(resistance_pu_per_kw(network), reactance_pu_per_kvar(network))
        usual = 0.01 / np.median(impedance[impedance > 0]) if (impedance > 0).any() else 1.0
        size = np.where(np.isfinite(rating), rating, np.median(finite) if len(finite) else usual)
    return np.asarray(np.exp2(np.round(np.log2(size))))
