"""A session's Clarabel on programs with curved rows: the form of `form.py` is built once, new numbers are products.

Every array of the scaled form is affine in the program's arrays (`standard_form.sources`), and these are affine in the
parameters θ (`parametric.py`), so that q, h, G.data and P.data are one sparse product with θ each. Duals are affine in
Clarabel's multipliers in the same way, but for rows with a product of two variables on their greater side.

**Centrality.** On the central path of a cone wᵀw <= p r the multipliers are z = μ (r, p, -2w)/(p r - wᵀw), so that
z_w = -2 λ w with λ = z_r: the gradient of the row times its multiplier. Long steps end off the path, with an error in
that of the square root of the gap, and stationarity of the program fails by 1e-4 where the gap is 1e-10. Newton's
method (`polish_curved`) mends that, for several times the work of the whole solve; shorter steps to a smaller gap (0.9
of the way to the boundary, 1e-13) do so for a quarter to two fifths more iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mktopt.errors import FormulationError
from mktopt.solvers.clarabel import NAME, _settings, defaults_for, version
from mktopt.solvers.cones.form import Form, Scales
from mktopt.solvers.cones.scaling import cone_scales, typical
from mktopt.solvers.cones.standard_form import sources, standard_form, unmapped
from mktopt.solvers.polish import polish_curved
from mktopt.solvers.prices import marginal_values
from mktopt.solvers.program import Array
from mktopt.solvers.reading.parametric import Parametric
from mktopt.solvers.sessions.data import Affine, Changes, Found, affine_of, product_into, same_always, stacked
from mktopt.solvers.sessions.residuals import GAP, LIMITS, Check, piece_of
from mktopt.solvers.solution import Has, Solution, Status, Stopped, judged

# Clarabel's arrays, and the arrays of the program that they are made of.
SOURCES = {"q": ("c", "log_coef"), "P": ("P",), "b": (*LIMITS, "log_offset"), "A": ("A", "log_coef", "log_M")}
CENTRAL: dict[str, Any] = {"max_step_fraction": 0.9, "tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13}
# How many times larger or smaller the sum of an array's entries may grow before the scales are made anew.
_DRIFT = 1e3
# How many times larger or smaller than its unit a typical value may be.
_APART = 16.0
_TINY = 1e-12
# Where Clarabel has nothing that could be an optimum.
_NOTHING = ("Infeasible", "Unsolved", "Callback")


def refused(parametric: Parametric) -> str:
    """Why parameters enter a program's form otherwise than affinely, or ''."""
    program, moving = parametric.program, {}
    for target, M in parametric.maps.items():
        M = M.tocsr()
        moving[target] = np.flatnonzero(np.bincount(M.nonzero()[0], minlength=M.shape[0]))
    rows, columns = np.zeros(program.m, dtype=bool), np.zeros(program.n, dtype=bool)
    for target in ("row_lower", "row_upper"):
        rows[moving.get(target, [])] = True
    entry_row = np.repeat(np.arange(program.m), np.diff(program.A.indptr))
    rows[entry_row[moving.get("A", np.zeros(0, dtype=np.int64))]] = True
    columns[moving.get("lower", [])] = True
    return unmapped(program, list(parametric.maps), rows, columns)


class ConeSession:
    """Clarabel on the arrays of a `Parametric` that is an SOCP or an EXP, where `refused` is ''."""

    name = NAME
    takes = ("SOCP", "EXP")

    def __init__(
        self, parametric: Parametric, changes: Changes, theta: Array, options: Mapping[str, Any], x: Array | None = None
    ) -> None:
        import clarabel

        self.version = version()
        self._parametric, self._changes, self._near = parametric, changes, x
        defaults = defaults_for(parametric.program)
        self._settings = _settings({**defaults, **CENTRAL, **options, "presolve_enable": False})
        self._sense = float(parametric.program.sense)
        self._equal = same_always(affine_of(parametric, "row_lower"), affine_of(parametric, "row_upper"))
        self._pinned = same_always(affine_of(parametric, "lower"), affine_of(parametric, "upper"))
        self._check = Check(parametric, theta)
        self._solved = clarabel.SolverStatus.Solved
        self._arrays: _Arrays | None = None

    def fits(self, x: Array) -> bool:
        """It looks for itself, whenever scales are new: see `solve`."""
        return True

    def solve(self, theta: Array, dirty: int) -> Found | str:
        """See `Backend`; what is found is optimal for certain.

        Where limits are far away, units guessed from them are not those of the answer, and are then taken from it.
        """
        if dirty:
            self._check.refresh(theta)
        reason = self._updated(theta, dirty)
        if reason or self._arrays is None:
            return reason
        arrays, check = self._arrays, self._check
        raw = arrays.solver.solve()
        if raw.status != self._solved and any(word in str(raw.status) for word in _NOTHING):
            return f"Clarabel: {raw.status}"
        x, y, z = arrays.answer(raw)
        check.clip(x)
        if check.supports(x, y, z):
            found: Found | str = Found(x, y, z, check.value, raw.iterations)
        else:
            found = self._polished(theta, x, y, z, raw)
        if arrays.guessed:
            arrays.guessed = False
            if isinstance(found, Found) and not arrays.fits(found.x):
                self._near, self._arrays = found.x, None
        return found

    def _updated(self, theta: Array, dirty: int) -> str:
        """Brings Clarabel's arrays up to date; why that cannot be, or ''."""
        if self._arrays is not None and dirty:
            changed = self._arrays.refresh(theta, dirty)
            reason = self._bent(theta, dirty)
            if reason:
                self._arrays = None
                return reason
            if self._arrays.drifted(changed):
                self._arrays = None
            elif changed:
                self._arrays.solver.update(**changed)
        if self._arrays is None:
            try:
                form = standard_form(self._parametric.at(theta.copy()), self._equal, self._pinned)
            except FormulationError as error:
                return str(error)
            if form.program.logs is not None and not form.program.logs.coef.all():
                return "a logarithm has the coefficient 0"
            near, self._near = self._near, None
            self._arrays = _Arrays(self._parametric, self._changes, theta, form, _scales(form, near))
            self._arrays.guessed = near is None
            self._arrays.start(self._settings)
        return ""

    def _bent(self, theta: Array, dirty: int) -> str:
        """Why new coefficients of squares or logarithms in the objective or rows are not convex, or ''."""
        curve, logs = self._changes.touched(("P",), dirty), self._changes.touched(("log_coef",), dirty)
        numbers, before = self._check.numbers, None if self._arrays is None else self._arrays.form.program.logs
        if logs and before is not None and not (numbers["log_coef"] * before.coef > 0.0).all():
            return "a logarithm has the coefficient 0 or bends the wrong way with these values"
        P = self._parametric.program.P
        if curve and (P.indices == np.repeat(np.arange(P.shape[1]), np.diff(P.indptr))).all():
            curve = bool((self._sense * numbers["P"] < 0.0).any())
        if curve and self._parametric.at(theta.copy()).not_convex:
            return "the objective is not convex with these values"
        return ""

    def _polished(self, theta: Array, x: Array, y: Array, z: Array, raw: Any) -> Found | str:
        """What the quick look does not settle: the residuals themselves, and Newton steps where they fail."""
        assert self._arrays is not None
        program, scales = self._parametric.at(theta.copy()), self._arrays.scales
        claim = Solution(Status(Stopped.OPTIMAL, Has.OPTIMAL), NAME, x=x, row_dual=y, reduced_cost=z)
        if not all(np.isfinite(values).all() for values in (x, y, z)):
            return f"Clarabel: {raw.status}, with numbers that are not finite"
        found = judged(program, claim)
        if found.residuals is None or not found.residuals.ok(GAP):
            with np.errstate(all="ignore"):  # steps may leave the domain of a logarithm, and are then not taken
                found = polish_curved(program, found, scales.columns[: program.n], scales.money)
        if found.status.has is not Has.OPTIMAL:
            return f"the residuals of {NAME}'s answer do not support it ({found.residuals})"
        objective = found.objective - program.constant
        return Found(found.x, found.row_dual, found.reduced_cost, objective, raw.iterations)


class _Arrays:
    """P, q, G, h of one scaled form, rewritten in place when parameters change, and the way back to the program."""

    def __init__(self, parametric: Parametric, changes: Changes, theta: Array, form: Form, scales: Scales) -> None:
        import scipy.sparse as sp

        self._changes, self.form, self.scales, self.guessed = changes, form, scales, True
        data, found = form.scaled(scales), sources(form, scales)
        count = len(theta)
        c, coef, M, offset = (piece_of(parametric, name) for name in ("c", "log_coef", "log_M", "log_offset"))
        limits = stacked([_finite(affine_of(parametric, name)) for name in LIMITS], count)
        maps = {
            "q": _through(found.q_base, found.q_map, stacked([c, coef], count)),
            "P": _through(np.zeros(data.P.nnz), found.P_map, affine_of(parametric, "P")),
            "b": _through(found.h_base, found.h_map, stacked([limits, offset], count)),
            "A": _through(found.G_base, found.G_map, stacked([affine_of(parametric, "A"), coef, M], count)),
        }
        self.at = {name: np.zeros(len(value.base)) for name, value in maps.items()}
        self._write = {name: value.writer(self.at[name]) for name, value in maps.items()}
        for write in self._write.values():
            write(theta)
        self._P = sp.csc_matrix((self.at["P"], data.P.indices, data.P.indptr), shape=data.P.shape)
        self._G = sp.csc_matrix((self.at["A"], data.G.indices, data.G.indptr), shape=data.G.shape)
        self._size = {name: _sum(value) for name, value in self.at.items()}
        self._plans: dict[int, list[str]] = {}
        self.units = np.ascontiguousarray(np.broadcast_to(scales.columns, len(form.q))[: form.program.n])
        self._m, self._n = form.program.m, form.program.n
        self._bent = bool(len(form.conic)) and not form.linear.all()
        self._back = product_into(_back(form, scales, found.spread))

    def fits(self, x: Array) -> bool:
        """Whether the typical value of an answer is of the size of its unit."""
        sizes = np.abs(x) / self.units
        return bool(1.0 / _APART <= typical(sizes[sizes > _TINY]) <= _APART)

    def start(self, settings: Any) -> None:
        """Sets up Clarabel."""
        import clarabel

        at = self.at
        self.solver = clarabel.DefaultSolver(self._P, at["q"], self._G, at["b"], self.form.kinds(), settings)

    def refresh(self, theta: Array, dirty: int) -> dict[str, Array]:
        """Rewrites what is dirty; the arguments of Clarabel's `update`."""
        plan = self._plans.get(dirty)
        if plan is None:
            plan = [name for name, targets in SOURCES.items() if self._changes.touched(targets, dirty)]
            self._plans[dirty] = plan
        for name in plan:
            self._write[name](theta)
        return {name: self.at[name] for name in plan}

    def drifted(self, changed: Mapping[str, Array]) -> bool:
        """Whether the numbers are of another size than those that the scales were made for."""
        for name, values in changed.items():
            before, now = self._size[name], _sum(values)
            if not (now <= _DRIFT * before and before <= _DRIFT * now):
                return True
        return False

    def answer(self, raw: Any) -> tuple[Array, Array, Array]:
        """x (n,), row_dual (m,), reduced_cost (n,) in the program's units."""
        z = np.asarray(raw.z)
        duals = np.zeros(self._m + self._n)
        self._back(z, duals)
        y, form = duals[: self._m], self.form
        if self._bent:
            product = ~form.linear
            y[form.conic[product]] = form.cone_duals(z, np.asarray(raw.s), self.scales)[product]
        return np.asarray(raw.x)[: self._n] * self.units, y, duals[self._m :]


def _scales(form: Form, x: Array | None) -> Scales:
    """Those of `cone_scales`, where x (n,) is an answer in its sizes, with the rows of far limits divided by these.

    Clarabel's tolerances are relative to the largest limit, far ones included.
    """
    scales, logs = cone_scales(form), form.program.logs
    if x is not None:
        more = np.zeros(0) if logs is None else np.log(np.maximum(logs.inside(x), _TINY))
        scales = cone_scales(form, np.r_[x, more], scales)
    rows, limits = np.array(scales.rows), slice(form.ends[1], form.ends[-1])
    far = np.maximum(np.abs(form.h[limits]) * rows[limits], 1.0)
    rows[limits] /= np.exp2(np.ceil(np.log2(far)))
    return replace(scales, rows=rows)


def _back(form: Form, scales: Scales, spread: Any) -> Any:
    """csr (m + n, M): canonical duals of rows and bounds from ẑ; rows of zeros for cones with a product on one side."""
    import scipy.sparse as sp

    of_rows, of_columns = form.dual_maps
    chosen = np.flatnonzero(form.linear)
    weight = marginal_values(form.program.sense, form.sign[chosen].astype(float), derivative=False)
    cones = sp.csr_array((weight, (form.conic[chosen], form.heads[chosen] + 1)), shape=of_rows.shape)
    every = sp.vstack([of_rows + cones, of_columns], format="csr")
    return sp.csr_array(every @ spread.T * (1.0 / scales.money))


def _through(base: Array, product: Any, inner: Affine) -> Affine:
    """base + product @ inner, without entries where no parameter enters."""
    import scipy.sparse as sp

    if inner.M is None or not len(base):
        return Affine(base + product @ inner.base if len(base) else base)
    M = sp.csr_array(product @ inner.M)
    return Affine(base + product @ inner.base, M if M.nnz else None)


def _finite(limits: Affine) -> Affine:
    """Zeros for limits that are not there."""
    return Affine(np.where(np.isfinite(limits.base), limits.base, 0.0), limits.M)


def _sum(values: Array) -> float:
    return float(np.add.reduce(np.abs(values)))
