"""The AC verdict: does the cleared dispatch hold in an alternating-current power flow?

pandapower's Newton method finds the complex voltages V of every period that carry what the orders inject,

    p_b + j q_b = sum_{l from b} S_l - sum_{l to b} S_l^to + (g_b - j b_b) |V_b|^2      at every bus but the source's,

and branch l = (i, j) with z = r + jx, u = V_j exp(j shift) / n and I = (V_i - u) / z carries

    S = V_i I* - j h |V_i|^2   at its from-bus,      S^to = u I* + j h |u|^2   at its to-bus.

p, q: dispatch [kW, kvar]; g, b: shunts; h: half of the charging [kvar at 1 p.u.]; n: ratio. The source holds its
voltage and supplies the rest, losses included. Branches without impedance carry what Kirchhoff's current law leaves to
them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mktopt.clearing.result import Clearing, FloatArray
from mktopt.errors import DataError, Fault, unknown_name
from mktopt.networks import units
from mktopt.networks.network import Network
from mktopt.networks.pandapower_export import written_reactance

ComplexArray = npt.NDArray[np.complex128]

# Newton's mismatch [MVA, or share of all power where that is less than 1 MVA]: the second is for grids whose least
# impedances leave it no smaller one.
_MISMATCH = (1e-8, 1e-6)
_ITERATIONS = 30
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class AcCheck:
    """What an AC power flow says about a clearing.

    voltages: bus, period, v_pu, model_v_pu (NaN where the flow has no voltages), v_min_pu, v_max_pu;
    branches: branch, period, p_kw, q_kvar (which leave the from-bus), loss_kw, loading_percent, model_p_kw (NaN where
    the flow has no branches); loading: of the apparent power at the end that carries more, or of the current where the
    flow has `current_limits`; losses: period, converged, loss_kwh, model_loss_kwh (of branches), source_kw,
    source_kvar (what the source supplies), model_source_kw; violations: what ('voltage low', 'voltage high',
    'loading', 'angle low', 'angle high'), where (bus or branch), period, value, limit, unit. Numbers are NaN in
    periods without a power flow. converged: per period, whether Newton's method found one; tolerance: by how much
    [p.u., share of a rating, share of a right angle] a limit may be exceeded without being a violation.
    """

    voltages: pd.DataFrame
    branches: pd.DataFrame
    losses: pd.DataFrame
    violations: pd.DataFrame
    converged: Mapping[int, bool]
    tolerance: float
    title: str = ""

    @property
    def ok(self) -> bool:
        """Whether every period has a power flow, and none violates a limit."""
        return all(self.converged.values()) and not len(self.violations)

    @property
    def max_voltage_error(self) -> float:
        """The greatest difference between voltages of the model and of the power flow [p.u.], NaN without either."""
        error = self._voltage_error
        return float(error.max()) if error.notna().any() else float("nan")

    @property
    def _voltage_error(self) -> pd.Series[Any]:
        return (self.voltages["v_pu"] - self.voltages["model_v_pu"]).abs()

    def __str__(self) -> str:
        failed = [str(period) for period, found in self.converged.items() if not found]
        count = len(self.violations)
        verdict = "holds" if self.ok else f"{count} violation(s)" if count else "no violation where there is a solution"
        lines = [f"AC power flow of {self.title}: {verdict}"]
        if failed:
            which = ", ".join(failed[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
            lines.append(
                f"  no power flow in period(s) {which}: Newton's method does not converge, so that most likely no "
                "voltages carry this dispatch; clear with a flow that has voltages (lindistflow, distflow, ac)"
            )
        if len(failed) < len(self.converged):
            lines += self._found()
        for row in self.violations.head(_SHOWN).itertuples():
            kind = "bus" if str(row.what).startswith("voltage") else "branch"
            lines.append(
                f"  - {row.what} at {kind} {row.where}, period {row.period}: {row.value:.6g} {row.unit}, "
                f"limit {row.limit:.6g}"
            )
        return "\n".join([*lines, f"  - ... and {count - _SHOWN} more"] if count > _SHOWN else lines)

    def _found(self) -> list[str]:
        """Lines on voltages, loadings and losses of the periods that have a power flow."""
        v, error, table = self.voltages["v_pu"], self._voltage_error, self.voltages
        low, high = table.loc[v.idxmin()], table.loc[v.idxmax()]
        line = f"  voltages  {low.v_pu:.4f} (bus {low.bus}) to {high.v_pu:.4f} p.u. (bus {high.bus})"
        if error.notna().any():
            worst = table.loc[error.idxmax()]
            line += f"; the model is off by {error.max():.2g} (bus {worst.bus}, period {worst.period})"
        loading = self.branches["loading_percent"]
        lines = [line]
        if (loading > 0).any():
            at = self.branches.loc[loading.idxmax()]
            lines.append(f"  loading   at most {loading.max():.1f} % (branch {at.branch}, period {at.period})")
        lost, model = self.losses["loss_kwh"].sum(), self.losses.loc[self.losses["converged"], "model_loss_kwh"].sum()
        return [*lines, f"  losses    {lost:,.4g} kWh (in the model {model:,.4g})"]


def check_ac(clearing: Clearing, *, periods: int | Sequence[int] | None = None, tolerance: float = 1e-5) -> AcCheck:
    """The AC power flow of the dispatch of `clearing`, period by period.

    periods: one or several, all by default; tolerance: by how much a limit may be exceeded without being a violation
    [p.u. of voltage, share of a rating, share of a right angle]. Orders at the source bus, the upstream offer among
    them, are the source's affair. Reactive power is that of the dispatch (`q_kvar`) where the flow has it, else
    tan_phi times the accepted kW, and of an order with a reactive range what in it is nearest to zero. The source has
    the network's voltage, or the model's where its flow chose it (`free_source`). Private wires of flow `lossy` carry
    what their owners send and obey no law: at their ends they draw and give what they do in the model, and the verdict,
    losses included, is on public branches alone. Raises UnknownNameError for a period that is not there, DataError
    without pandapower and for a bus that only private wires join to the source.
    """
    chosen = _chosen(clearing.network, periods)
    power = injections(clearing)
    clearing, wired = _without_private(clearing)
    network = clearing.network
    power = (power + wired)[:, chosen]
    model_v = _of_model(clearing.voltages, "v_pu", network.n_buses, clearing)[:, chosen]
    source_v = np.full(len(chosen), network.source_v_pu)
    if clearing.flow_options.get("free_source") and clearing.voltages is not None:
        source_v = model_v[network.source_index]
    volts = _newton(network, power, source_v, model_v)
    return _Report(clearing, chosen, power, volts, model_v, tolerance).check()


def _without_private(clearing: Clearing) -> tuple[Clearing, FloatArray]:
    """The clearing without the private wires of flow `lossy`, and what these bring to each bus, (buses, periods) [kW].

    Reactive power goes over public wires.
    """
    network, flows = clearing.network, clearing.flows
    brought = np.zeros((network.n_buses, len(network.hours)))
    private = network.private
    if clearing.flow != "lossy" or not private.any():
        return clearing, brought
    sent, arrived = (_of_model(flows, name, network.n_branches, clearing)[private] for name in ("p_kw", "to_kw"))
    np.add.at(brought, network.from_index[private], -sent)
    np.add.at(brought, network.to_index[private], arrived)
    public = network.lines[~private].reset_index(drop=True)
    try:
        rest = network.replace(branches=public)
    except DataError as error:
        problem = "a bus that only private wires join to the source has no AC power flow"
        raise DataError(Fault("branches", problem, hint="join it by public wires")) from error
    kept = np.repeat(~private, len(network.hours))
    return replace(clearing, network=rest, flows=flows[kept].reset_index(drop=True)), brought


def _chosen(network: Network, periods: int | Sequence[int] | None) -> npt.NDArray[np.int64]:
    one = isinstance(periods, (int, np.integer))
    asked: Any = network.periods if periods is None else [periods] if one else periods
    for period in asked:
        if period not in network.periods:
            raise unknown_name("period", period, map(str, network.periods))
    return np.array([int(period) for period in asked], dtype=np.int64)


def injections(clearing: Clearing) -> ComplexArray:
    """What the orders of a clearing inject into each bus and period [kW + j kvar], shape (buses, periods); prosumers
    neither draw nor give reactive power."""
    network, dispatch, table = clearing.network, clearing.dispatch, clearing.orders.orders
    periods = len(network.hours)
    kw = dispatch["quantity_kw"].to_numpy(float)
    low, high = table["q_min_kvar"].to_numpy(float), table["q_max_kvar"].to_numpy(float)
    kvar = np.zeros(len(kw))
    if clearing.prosumers is None:
        kvar = np.where(np.isnan(low), table["tan_phi"].to_numpy(float) * kw, np.clip(0.0, low, high))
    if "q_kvar" in dispatch:
        stated = dispatch["q_kvar"].to_numpy(float)
        kvar = np.where(np.isnan(stated), kvar, stated)
    sign = np.where(dispatch["side"] == "bid", -1.0, 1.0)
    at = network.bus_positions(dispatch["bus"]) * periods + dispatch["period"].to_numpy()
    total = [np.bincount(at, sign * part, network.n_buses * periods) for part in (kw, kvar)]
    return np.asarray(total[0] + 1j * total[1]).reshape(network.n_buses, periods)


def _of_model(table: pd.DataFrame | None, column: str, count: int, clearing: Clearing) -> FloatArray:
    """A column of a clearing's table, shape (count, periods), NaN where it has none."""
    shape = (count, len(clearing.network.hours))
    if table is None or column not in table or not len(table):
        return np.full(shape, np.nan)
    return np.asarray(table[column].to_numpy(float).reshape(shape))


def _newton(network: Network, power: ComplexArray, source_v: FloatArray, model_v: FloatArray) -> ComplexArray:
    """Complex voltages of all buses and the given periods [p.u.], NaN where no power flow was found."""
    net = network.to_pandapower()
    import pandapower as pp

    net.load = net.load.iloc[:0]
    others = np.delete(np.arange(network.n_buses), network.source_index)
    if len(others):
        pp.create_loads(net, others, p_mw=np.zeros(len(others)), q_mvar=0.0)
    volts = np.full(power.shape, np.nan, dtype=complex)
    for k in range(power.shape[1]):
        net.ext_grid["vm_pu"] = source_v[k]
        net.load["p_mw"] = -power[others, k].real / units.KW_PER_MW
        net.load["q_mvar"] = -power[others, k].imag / units.KW_PER_MW
        starts = [network.topology.no_load_v_pu * source_v[k] / network.source_v_pu]
        starts += [model_v[:, k]] if np.isfinite(model_v[:, k]).all() else []
        unit = float(np.clip(np.abs(power[:, k]).sum() / units.KW_PER_MW, 1e-6, 1.0))
        if any(_runs(pp, net, start, unit * mismatch) for start in starts for mismatch in _MISMATCH):
            angle = np.radians(net.res_bus["va_degree"].to_numpy(float))
            volts[:, k] = net.res_bus["vm_pu"].to_numpy(float) * np.exp(1j * angle)
    return volts


def _runs(pp: Any, net: Any, start: FloatArray, mismatch: float) -> bool:
    """Whether Newton's method finds a power flow from these voltages; it is then in `net.res_bus`."""
    options = {"calculate_voltage_angles": True, "max_iteration": _ITERATIONS, "numba": False}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # singular matrices and overflows, on the way to "does not converge"
        try:
            pp.runpp(net, init_vm_pu=start, init_va_degree="dc", tolerance_mva=mismatch, **options)
        except (pp.LoadflowNotConverged, np.linalg.LinAlgError, FloatingPointError):
            return False
    return bool(np.isfinite(net.res_bus[["vm_pu", "va_degree"]].to_numpy(float)).all())


def branch_powers(network: Network, volts: ComplexArray, power: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
    """(S, S^to) of each branch in service, (branches, periods) [kW + j kvar], from voltages and injections.

    volts, power: shape (buses, periods), the source's own injection included.
    """
    r, x = units.resistance_pu_per_kw(network), units.reactance_pu_per_kvar(network)
    written = written_reactance(r * units.KW_PER_MW, x * units.KW_PER_MW) / units.KW_PER_MW
    x = np.where((x == 0) & (r != 0), written, x)
    z, h = (r + 1j * x)[:, None], 0.5 * units.charging_kvar(network)[:, None]
    turn = (np.exp(1j * units.shift_rad(network)) / network.lines["ratio"].to_numpy(float))[:, None]
    start, end = volts[network.from_index], volts[network.to_index] * turn
    ideal = (z == 0)[:, 0]
    current = np.conj((start - end) / np.where(z == 0, 1.0, z))
    sent = start * current - 1j * h * np.abs(start) ** 2
    received = end * current + 1j * h * np.abs(end) ** 2
    if ideal.any():
        sent[ideal], received[ideal] = 0.0, 0.0
        through = _left_over(network, ideal, power - _taken(network, volts, sent, received))
        charged = 1j * h[ideal] * np.abs(start[ideal]) ** 2
        sent[ideal], received[ideal] = through - charged, through + charged
    return sent, received


def _taken(network: Network, volts: ComplexArray, sent: ComplexArray, received: ComplexArray) -> ComplexArray:
    """What branches and shunts take from each bus, shape (buses, periods)."""
    shunt = network.shunt_kw - 1j * units.shunt_kvar(network)
    taken: ComplexArray = shunt[:, None] * np.abs(volts) ** 2
    np.add.at(taken, network.from_index, sent)
    np.add.at(taken, network.to_index, -received)
    return taken


def _left_over(network: Network, ideal: npt.NDArray[np.bool_], surplus: ComplexArray) -> ComplexArray:
    """What branches without impedance carry from buses with a surplus; in loops of them, as equal impedances would."""
    ends = np.array([network.from_index[ideal], network.to_index[ideal]])
    buses, place = np.unique(ends, return_inverse=True)
    place = place.reshape(ends.shape)
    incidence = np.zeros((len(buses), ends.shape[1]))
    np.add.at(incidence, (place[0], np.arange(ends.shape[1])), 1.0)
    np.add.at(incidence, (place[1], np.arange(ends.shape[1])), -1.0)
    return np.asarray(np.linalg.pinv(incidence) @ surplus[buses])


@dataclass(frozen=True, eq=False)
class _Report:
    """The tables of an AcCheck, from voltages; arrays of shape (buses or branches, chosen periods)."""

    clearing: Clearing
    chosen: npt.NDArray[np.int64]
    power: ComplexArray
    volts: ComplexArray
    model_v: FloatArray
    tolerance: float

    def check(self) -> AcCheck:
        """The verdict."""
        clearing, network = self.clearing, self.clearing.network
        found: npt.NDArray[np.bool_] = np.asarray(np.isfinite(self.volts).all(axis=0))
        power, model_source = self.power.copy(), self.power[network.source_index].real
        power[network.source_index] = 0.0
        supplied = self._supplied(power)
        power[network.source_index] = supplied
        sent, received = branch_powers(network, self.volts, power)
        carried, loading = self._loading(sent, received)
        lost = (sent - received).real
        voltages = self._frame("bus", network.buses["bus"], v_pu=np.abs(self.volts), model_v_pu=self.model_v,
                               v_min_pu=self._column("v_min_pu"), v_max_pu=self._column("v_max_pu"))  # fmt: skip
        flows = _of_model(clearing.flows, "p_kw", network.n_branches, clearing)[:, self.chosen]
        branches = self._frame("branch", network.lines["branch"], p_kw=sent.real, q_kvar=sent.imag, loss_kw=lost,
                               loading_percent=loading, model_p_kw=flows)  # fmt: skip
        model_lost = np.nan_to_num(_of_model(clearing.flows, "loss_kw", network.n_branches, clearing)[:, self.chosen])
        hours = network.hours[self.chosen]
        losses = pd.DataFrame({
            "period": self.chosen, "converged": found, "loss_kwh": lost.sum(axis=0) * hours,
            "model_loss_kwh": model_lost.sum(axis=0) * hours, "source_kw": supplied.real,
            "source_kvar": supplied.imag, "model_source_kw": model_source,
        })  # fmt: skip
        converged = dict(zip(self.chosen.tolist(), found.tolist(), strict=True))
        title = f"{clearing.mechanism} on {network.name} ({clearing.flow})"
        return AcCheck(voltages, branches, losses, self._violations(carried), converged, self.tolerance, title)

    def _supplied(self, power: ComplexArray) -> ComplexArray:
        """What the source supplies: what the others do not, of branches' losses and shunts; shape (periods,)."""
        network = self.clearing.network
        sent, received = branch_powers(network, self.volts, power)
        total = _taken(network, self.volts, sent, received).sum(axis=0)
        return np.asarray(total - power.sum(axis=0))

    def _loading(self, sent: ComplexArray, received: ComplexArray) -> tuple[FloatArray, FloatArray]:
        """(what counts against the rating [kVA, or kVA at 1 p.u. of a current limit], in percent of it)."""
        network, size = self.clearing.network, np.abs(self.volts)
        ends = [np.abs(sent), np.abs(received)]
        if self.clearing.flow_options.get("current_limits"):
            ends = [ends[0] / size[network.from_index], ends[1] / size[network.to_index]]
        carried = np.maximum(*ends)
        return carried, 100.0 * carried / network.lines["rating_kva"].to_numpy(float)[:, None]

    def _violations(self, carried: FloatArray) -> pd.DataFrame:
        """All limits that are exceeded, the worst of each kind first."""
        network, lines, slack = self.clearing.network, self.clearing.network.lines, self.tolerance
        buses, names, size = network.buses["bus"].to_numpy(), lines["branch"].to_numpy(), np.abs(self.volts)
        turned = np.degrees(np.angle(self.volts[network.from_index] * np.conj(self.volts[network.to_index])))
        limited = ((lines["angle_min_deg"] > -360) | (lines["angle_max_deg"] < 360)).to_numpy()[:, None]
        turned = np.where(limited, turned, 0.0)
        rating = lines["rating_kva"].to_numpy(float)[:, None]
        low, high = self._column("v_min_pu"), self._column("v_max_pu")
        least, most = (lines[name].to_numpy(float)[:, None] for name in ("angle_min_deg", "angle_max_deg"))
        kinds = [
            ("voltage low", buses, size, low, low - size, slack, "p.u."),
            ("voltage high", buses, size, high, size - high, slack, "p.u."),
            ("loading", names, carried, rating, carried / rating - 1.0, slack, "kVA"),
            ("angle low", names, turned, least, least - turned, 90.0 * slack, "deg"),
            ("angle high", names, turned, most, turned - most, 90.0 * slack, "deg"),
        ]
        records = []
        for what, where, value, limit, excess, allowed, unit in kinds:
            at = np.argwhere(excess > allowed)
            for i, k in at[np.argsort(-excess[tuple(at.T)], kind="stable")]:
                stated = float(np.broadcast_to(limit, value.shape)[i, k])
                records.append((what, where[i], int(self.chosen[k]), float(value[i, k]), stated, unit))
        return pd.DataFrame(records, columns=["what", "where", "period", "value", "limit", "unit"])

    def _column(self, name: str) -> FloatArray:
        return np.asarray(self.clearing.network.buses[name].to_numpy(float)[:, None])

    def _frame(self, key: str, names: pd.Series[Any], **columns: FloatArray) -> pd.DataFrame:
        shape = (len(names), len(self.chosen))
        data = {name: np.broadcast_to(values, shape).ravel() for name, values in columns.items()}
        repeated = np.repeat(names.to_numpy(), shape[1])
        return pd.DataFrame({key: repeated, "period": np.tile(self.chosen, shape[0]), **data})
