"""The fallback where cyipopt cannot be imported: CasADi's own IPOPT, on the functions of an `Nlp` as SX.

The numbers of the program are parameters p of the expressions, so that a program of the same structure with other
numbers is solved without building anything anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mktopt.errors import SolverError
from mktopt.solvers.nlp.backends import Raw, Start, Watch
from mktopt.solvers.nlp.options import refused
from mktopt.solvers.nlp.problem import Nlp
from mktopt.solvers.nlp.remainder import casadi_module
from mktopt.solvers.program import Array


def numbers(nlp: Nlp) -> dict[str, Array]:
    """The numbers of the program that enter the functions, by name; of the same sizes for one structure."""
    found = {"constant": np.array([nlp.constant]), "c": nlp.c, "A": nlp.constant_jacobian}
    if nlp.program.P is not None:
        found["P"] = nlp.P.data
    if nlp.program.quadratics is not None:
        found["quadratics"] = nlp.q_coef
    if nlp.program.logs is not None:
        found |= {"log_coef": nlp.log_coef, "log_slope": nlp.log_slope}
    return found


def symbolic(nlp: Nlp) -> tuple[Any, Any, Any, Any]:
    """(x̂, p, objective, rows) as SX: the functions of `Nlp`, of a point and of the numbers of the program."""
    casadi = casadi_module()
    x = casadi.SX.sym("x", nlp.n)
    p = {name: casadi.SX.sym(name, len(value)) for name, value in numbers(nlp).items()}
    f = p["constant"] + casadi.dot(p["c"], x)
    g = _sparse(casadi, (nlp.m, nlp.n), nlp.jacobian_at, p["A"]) @ x
    n = nlp.program.n
    if "P" in p:
        P = nlp.P.tocoo()
        part = x[:n]
        f += 0.5 * casadi.dot(part, _sparse(casadi, (n, n), (P.row, P.col), p["P"]) @ part)
    if "quadratics" in p:
        terms = p["quadratics"] * x[nlp.q_first.tolist()] * x[nlp.q_second.tolist()]
        g += _sums(casadi, nlp.m, nlp.q_row) @ terms
    if "log_coef" in p:
        terms = p["log_coef"] * casadi.log(p["log_slope"] * x[nlp.log_in.tolist()])
        f += casadi.dot(casadi.DM((nlp.log_row == -1).astype(float)), terms)
        g += _sums(casadi, nlp.m, nlp.log_row) @ terms
    if nlp.program.remainder is not None:
        remainder: Any = nlp.program.remainder
        terms = casadi.DM(nlp.r_factor) * remainder.symbolic(x[:n] * casadi.DM(nlp.D[:n]))
        f += casadi.dot(casadi.DM((nlp.r_row == -1).astype(float)), terms)
        g += _sums(casadi, nlp.m, nlp.r_row) @ terms
    return x, casadi.vertcat(*p.values()), f, casadi.densify(g)


def _sparse(casadi: Any, shape: tuple[int, int], where: Any, values: Any) -> Any:
    """A sparse SX matrix from triplets, each place once."""
    return casadi.SX.triplet(where[0].tolist(), where[1].tolist(), values, *shape)


def _sums(casadi: Any, m: int, row: Array) -> Any:
    """The matrix (m, K) that adds term k to row[k]; a negative row to none."""
    used = np.flatnonzero(row >= 0)
    return casadi.DM.triplet(row[used].tolist(), used.tolist(), casadi.DM(np.ones(len(used))), m, len(row))


class _Watcher:
    """CasADi's iteration callback around a `Watch`; CasADi swallows exceptions, so they are kept here."""

    def __init__(self, nlp: Nlp, watch: Watch) -> None:
        self.nlp, self.watch, self.count = nlp, watch, 0
        self.raised: BaseException | None = None
        self.callback = self._callback()

    def _callback(self) -> Any:
        casadi = casadi_module()
        nlp, step = self.nlp, self.step
        sizes = {"x": nlp.n, "f": 1, "g": nlp.m, "lam_x": nlp.n, "lam_g": nlp.m}

        class Callback(casadi.Callback):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                casadi.Callback.__init__(self)
                self.construct("watch", {})

            def get_n_in(self) -> int:
                return int(casadi.nlpsol_n_out())

            def get_n_out(self) -> int:
                return 1

            def get_name_in(self, i: int) -> str:
                return str(casadi.nlpsol_out(i))

            def get_name_out(self, i: int) -> str:
                return "stop"

            def get_sparsity_in(self, i: int) -> Any:
                return casadi.Sparsity.dense(sizes.get(casadi.nlpsol_out(i), 0), 1)

            def eval(self, arguments: Any) -> list[int]:
                return [step(*arguments)]

        return Callback()

    def step(self, *arguments: Any) -> int:
        """1 to stop, 0 to go on."""
        try:
            x, f, g, lam_x, lam_g = (np.array(value).ravel() for value in arguments[:5])
            nlp = self.nlp
            outside = [nlp.row_lower - g, g - nlp.row_upper, nlp.lower - x, x - nlp.upper]
            primal = max(float(part.max(initial=0.0)) for part in outside)
            pull = np.bincount(nlp.jacobian_at[1], nlp.jacobian(x) * lam_g[nlp.jacobian_at[0]], nlp.n)
            dual = float(np.abs(nlp.gradient(x) + pull + lam_x).max(initial=0.0))
            self.count += 1
            return 0 if self.watch(self.count - 1, float(f[0]), primal, dual, float("nan")) else 1
        except BaseException as error:  # noqa: BLE001 - raised again once IPOPT has let go
            self.raised = error
            return 1


def run(nlp: Nlp, start: Start, options: Mapping[str, Any], watch: Watch | None) -> Raw:
    """Solve with CasADi's IPOPT; see `nlp_backends.run`."""
    watcher = None if watch is None else _Watcher(nlp, watch)
    solver = _solver(nlp, options, watcher)
    values = np.concatenate(list(numbers(nlp).values()))
    raw = solver(
        x0=start.x, p=values, lbx=nlp.lower, ubx=nlp.upper, lbg=nlp.row_lower, ubg=nlp.row_upper,
        lam_x0=start.z_upper - start.z_lower, lam_g0=start.y,
    )  # fmt: skip
    if watcher is not None and watcher.raised is not None:
        raise watcher.raised
    stats = solver.stats()
    status = str(stats["return_status"])
    if status == "NonIpopt_Exception_Thrown":
        # The functions are plain arithmetic and raise nothing: CasADi has met Ctrl-C, and keeps it to itself.
        raise KeyboardInterrupt
    x, lam_x, lam_g = (np.array(raw[name]).ravel() for name in ("x", "lam_x", "lam_g"))
    z_lower, z_upper = np.maximum(-lam_x, 0.0), np.maximum(lam_x, 0.0)
    return Raw(status, x, lam_g, z_lower, z_upper, int(stats["iter_count"]))


def _solver(nlp: Nlp, options: Mapping[str, Any], watcher: _Watcher | None) -> Any:
    """The solver for these options, kept with the `Nlp`; one with a callback serves once."""
    casadi = casadi_module()
    key = tuple(sorted((name, repr(value)) for name, value in options.items()))
    kept = nlp.solvers.get(key) if watcher is None else None
    if kept is not None:
        return kept
    settings: dict[str, Any] = {
        "ipopt": dict(options),
        "print_time": False,
        "error_on_fail": False,
        "show_eval_warnings": False,
    }
    if watcher is not None:
        settings["iteration_callback"] = watcher.callback
    if "functions" not in nlp.solvers:
        nlp.solvers["functions"] = _functions(casadi, nlp)
    problem, derivatives = nlp.solvers["functions"]
    try:
        solver = casadi.nlpsol("ipopt", "ipopt", problem, settings | derivatives)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise _why(casadi, options, error) from error
    if watcher is None:
        nlp.solvers[key] = solver
    return solver


def _functions(casadi: Any, nlp: Nlp) -> tuple[dict[str, Any], dict[str, Any]]:
    """The problem, and the functions of its derivatives, which CasADi would work out anew for each set of options."""
    x, p, f, g = symbolic(nlp)
    lam_f, lam_g = casadi.SX.sym("lam_f"), casadi.SX.sym("lam_g", nlp.m)
    hessian = casadi.triu(casadi.hessian(lam_f * f + casadi.dot(lam_g, g), x)[0])
    derivatives = {
        "grad_f": casadi.Function("grad_f", [x, p], [f, casadi.gradient(f, x)]),
        "jac_g": casadi.Function("jac_g", [x, p], [g, casadi.jacobian(g, x)]),
        "hess_lag": casadi.Function("hess_lag", [x, p, lam_f, lam_g], [hessian]),
    }
    return {"x": x, "p": p, "f": f, "g": g}, derivatives


def _why(casadi: Any, options: Mapping[str, Any], error: Exception) -> Exception:
    """Which option IPOPT refuses: known once each is tried alone."""
    x = casadi.SX.sym("x")
    for name, value in options.items():
        try:
            casadi.nlpsol("test", "ipopt", {"x": x, "f": x**2}, {"ipopt": {name: value}})
        except (RuntimeError, NotImplementedError, TypeError):
            return refused(name, value)
    return SolverError(f"CasADi cannot set up IPOPT: {str(error).strip().splitlines()[-1]}")
