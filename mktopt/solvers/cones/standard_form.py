"""From a program to the standard form of `form.py`, and how that form follows from the program's numbers.

`standard_form` makes the rows; `sources` gives the same arrays as affine functions of the
program's, for programs whose numbers change while their structure stands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from mktopt.errors import FormulationError
from mktopt.solvers.cones.form import GROUPS, Form, Scales
from mktopt.solvers.program import Array, Program


def standard_form(program: Program, equal: Array | None = None, pinned: Array | None = None) -> Form:
    """The form of a convex program; only finite limits become rows.

    equal: bool (m,), which rows are equalities, pinned: bool (n,), which columns have one value only; by default where
    both limits are the same. (Where limits change later, equal ones of today may differ then.) Raises FormulationError
    for a program that is not convex.
    """
    import scipy.sparse as sp

    if program.curved and program.not_convex:
        raise FormulationError(f"this program has no convex form: {program.not_convex}")
    conic = _conic_rows(program)
    A, P, q = program.A, _upper_triangle(program), float(program.sense) * program.c
    logs = 0 if program.logs is None else len(program.logs.row)
    if logs:
        A, P, q = _with_logarithms(program, A, P, q)
    groups = _groups(program, equal, pinned, conic)
    blocks = [A if len(rows) == program.m else A[rows] for rows in (groups["equal"],) if len(rows)]
    blocks += _bound_rows(groups["pinned"], 1.0, A.shape[1])
    blocks += [A if len(rows) == program.m else A[rows] for rows in (groups["above"],) if len(rows)]
    if len(groups["below"]):
        blocks.append(-(A if len(groups["below"]) == program.m else A[groups["below"]]))
    blocks += _bound_rows(groups["upper"], 1.0, A.shape[1]) + _bound_rows(groups["lower"], -1.0, A.shape[1])
    limits = [program.row_upper[groups["equal"]], program.upper[groups["pinned"]], program.row_upper[groups["above"]]]
    limits += [-program.row_lower[groups["below"]], program.upper[groups["upper"]], -program.lower[groups["lower"]]]
    sizes, rows, sign = (np.zeros(0, dtype=np.int64),) * 3
    linear = paired = np.zeros(0, dtype=bool)
    if conic is not None:
        G, h = conic.rows_of_form(program, A)
        blocks.append(G)
        limits.append(h)
        sizes, rows, sign = conic.sizes, conic.rows, conic.sign
        linear, paired = conic.linear, conic.paired
    if logs:
        blocks.append(_exponential_rows(program))
        limits.append(np.stack([np.zeros(logs), np.ones(logs), program.logs.offset], axis=1).ravel())  # type: ignore[union-attr]
    G = sp.vstack(blocks, format="csc") if blocks else sp.csc_array((0, A.shape[1]))
    cones = {"conic": rows, "sizes": sizes, "sign": sign, "linear": linear, "paired": paired}
    return Form(program, P, q, G, np.concatenate(limits), **groups, **cones, logs=logs)


def _conic_rows(program: Program) -> Any:
    if program.quadratics is None:
        return None
    from mktopt.solvers.cones.conic import recognise

    return recognise(program)


def _groups(program: Program, equal: Array | None, pinned: Array | None, conic: Any) -> dict[str, Array]:
    low, high = np.isfinite(program.row_lower), np.isfinite(program.row_upper)
    same = low & high & (program.row_lower == program.row_upper) if equal is None else equal
    used = ~program.empty_rows
    one = program.lower == program.upper if pinned is None else pinned
    lower = np.isfinite(program.lower) & ~one
    if conic is not None:
        used[conic.curved] = False
        lower[conic.implied(program.lower)] = False  # a second multiplier for one and the same limit
    masks = {
        "equal": same & used,
        "pinned": one,
        "above": high & ~same & used,
        "below": low & ~same & used,
        "upper": np.isfinite(program.upper) & ~one,
        "lower": lower,
    }
    return {name: np.flatnonzero(masks[name]) for name in GROUPS}


def _upper_triangle(program: Program) -> Any:
    import scipy.sparse as sp

    if program.P is None:
        return sp.csc_matrix((program.n, program.n))
    P = sp.csc_matrix(sp.triu(program.P, format="csc"))
    return P if program.sense > 0 else -P


def _bound_rows(columns: Array, sign: float, n: int) -> list[Any]:
    import scipy.sparse as sp

    if not len(columns):
        return []
    ends = np.arange(len(columns) + 1)
    return [sp.csr_array((np.full(len(columns), sign), columns, ends), shape=(len(columns), n))]


def _with_logarithms(program: Program, A: Any, P: Any, q: Array) -> tuple[Any, Any, Array]:
    """A, P, q with a column t_k for each logarithm."""
    import scipy.sparse as sp

    logs = program.logs
    assert logs is not None
    count = len(logs.row)
    of_rows = np.flatnonzero(logs.row >= 0)
    extra = sp.csr_array((logs.coef[of_rows], (logs.row[of_rows], of_rows)), shape=(program.m, count))
    P = P.copy()
    P.resize((program.n + count, program.n + count))
    objective = np.where(logs.row < 0, program.sense * logs.coef, 0.0)
    return sp.hstack([A, extra], format="csr"), P, np.r_[q, objective]


def _exponential_rows(program: Program) -> Any:
    """Rows (t, 1, u) of each logarithm: -t + s = 0, s = 1, -M x + s = offset."""
    import scipy.sparse as sp

    logs = program.logs
    assert logs is not None
    count, M = len(logs.row), logs.M.tocoo()
    where = np.r_[3 * np.arange(count), 3 * M.row + 2]
    column = np.r_[program.n + np.arange(count), M.col]
    return sp.csr_array((np.r_[-np.ones(count), -M.data], (where, column)), shape=(3 * count, program.n + count))


@dataclass(frozen=True, eq=False)
class Sources:
    """The scaled arrays of `Form.scaled(scales)` as affine functions of the program's arrays, K logarithms among them.

    q = q_base + q_map @ [c, logs.coef]                     q_map: csr (N, n + K)
    h = h_base + h_map @ [limits, logs.offset]              h_map: csr (M, 2m + 2n + K)
        limits = [row_lower, row_upper, lower, upper], infinite ones as 0
    G.data = G_base + G_map @ [A.data, logs.coef, logs.M.data]      G_map: csr (G.nnz, ...), A and M csr, G csc
    P.data = P_map @ program.P.data                         P_map: csr (P.nnz, program.P.nnz), program.P csc
    spread: csr (M, M), T of ĥ = T h + shift; the multipliers of G x + s = h are Tᵀ ẑ over the unit of money
    """

    q_base: Array
    q_map: Any
    h_base: Array
    h_map: Any
    G_base: Array
    G_map: Any
    P_map: Any
    spread: Any


def unmapped(
    program: Program, targets: Collection[str], rows: Array | None = None, columns: Array | None = None
) -> str:
    """Why changes in some of a program's numbers are not affine in its form, naming the first at fault, or ''.

    targets: names of the program's arrays that change; rows: bool (m,), rows whose linear coefficients or limits
    change; columns: bool (n,), columns whose lower bounds change. At fault are coefficients of products, and rows with
    a product of two variables on their greater side: their shape hangs on all of their numbers, and on the lower
    bounds of these two.
    """
    if "quadratics" in targets:
        return (
            "the coefficients of products in rows (quadratics) cannot change between solves of this program: change"
            " limits or linear coefficients instead, or compile anew"
        )
    if program.quadratics is None:
        return ""
    conic = _conic_rows(program)
    frozen = np.setdiff1d(conic.curved, conic.rows[conic.linear])
    if rows is not None and rows[frozen].any():
        name = program.rows[int(frozen[rows[frozen]][0])].name
        return (
            f"constraint '{name}' bounds squares by a product of two variables, so its numbers cannot change between"
            " solves: let a variable of its own carry what changes, or compile anew"
        )
    terms = program.quadratics
    held = np.isin(terms.row, frozen)
    factors = np.union1d(terms.first[held], terms.second[held])
    if columns is not None and columns[factors].any():
        name = program.variables[int(factors[columns[factors]][0])].name
        return (
            f"variable '{name}' stands in a product of two variables that bounds squares, so its lower bound cannot"
            " change between solves: put the bound into a constraint of its own, or compile anew"
        )
    return ""


def sources(
    form: Form,
    scales: Scales,
    targets: Collection[str] = (),
    rows: Array | None = None,
    columns: Array | None = None,
) -> Sources:
    """How q, h, G.data, P.data of `form.scaled(scales)` follow from the program's numbers, structure and scales fixed.

    targets, rows, columns: what changes, see `unmapped`. Raises FormulationError for changes that are not affine here.
    """
    import scipy.sparse as sp

    program = form.program
    reason = unmapped(program, targets, rows, columns)
    if reason:
        raise FormulationError(reason)
    spread, shift = _row_spread(form, scales)
    limits = _limit_map(form)
    base = np.where(np.diff(limits.indptr) > 0, 0.0, form.h)
    d = np.broadcast_to(scales.columns, len(form.q))
    priced = np.ones(len(form.q), dtype=bool)
    if program.logs is not None:
        priced[program.n :] = program.logs.row < 0
    q_map = sp.csr_array(sp.diags_array(np.where(priced, program.sense * scales.money * d, 0.0)))
    h_map = sp.csr_array(spread @ limits)
    G_base, G_map = _matrix_map(form, scales)
    curvature = _curvature_map(form, scales)
    return Sources(np.zeros(len(d)), q_map, spread @ base + shift, h_map, G_base, G_map, curvature, spread)


def _row_spread(form: Form, scales: Scales) -> tuple[Any, Array]:
    """(T csr (M, M), shift (M,)) with ĥ = T h + shift."""
    import scipy.sparse as sp

    every = np.arange(len(form.h))
    where, column, value = form.spread(every, every, np.ones(len(every)), scales)
    return sp.csr_array((value, (where, column)), shape=(len(every),) * 2), form.shift(scales)


def _limit_map(form: Form) -> Any:
    """h from [row_lower, row_upper, lower, upper, logs.offset]: csr (M, 2m + 2n + K)."""
    import scipy.sparse as sp

    m, n = form.program.m, form.program.n
    offsets = (m, 2 * m + n, m, 0, 2 * m + n, 2 * m)
    column = [group + offset for group, offset in zip(form.groups, offsets, strict=True)]
    value = [np.full(len(group), -1.0 if k in (3, 5) else 1.0) for k, group in enumerate(form.groups)]
    chosen = form.linear
    column += [form.conic[chosen] + np.where(form.sign[chosen] > 0, m, 0), 2 * (m + n) + np.arange(form.logs)]
    value += [form.sign[chosen].astype(float), np.ones(form.logs)]
    where = np.r_[np.arange(form.ends[-1]), form.heads[chosen] + 1, form.tail + 2 + 3 * np.arange(form.logs)]
    entries = np.concatenate(value), (where, np.concatenate(column))
    return sp.csr_array(entries, shape=(len(form.h), 2 * (m + n) + form.logs))


def _entries(form: Form) -> tuple[Array, Array]:
    """(row, column) of [A.data, logs.coef, logs.M.data], where row m + k is that of the k-th logarithm's inside."""
    program = form.program
    A = program.A.tocoo()
    if program.logs is None:
        return A.row.astype(np.int64), A.col.astype(np.int64)
    M = program.logs.M.tocoo()
    row = np.r_[A.row, program.logs.row, program.m + M.row]
    return row.astype(np.int64), np.r_[A.col, program.n + np.arange(form.logs), M.col].astype(np.int64)


def _matrix_map(form: Form, scales: Scales) -> tuple[Array, Any]:
    """(base, map) of the scaled G.data over [A.data, logs.coef, logs.M.data]."""
    import scipy.sparse as sp

    program, G = form.program, form.G.tocoo()
    # Which of their rows each row of G repeats, and with which sign.
    row_of, sign = np.full(len(form.h), -1), np.zeros(len(form.h))
    for k in (0, 2, 3):
        part = slice(form.ends[k] - len(form.groups[k]), form.ends[k])
        row_of[part], sign[part] = form.groups[k], -1.0 if k == 3 else 1.0
    chosen = form.linear
    row_of[form.heads[chosen] + 1], sign[form.heads[chosen] + 1] = form.conic[chosen], form.sign[chosen]
    row_of[form.tail + 2 :: 3], sign[form.tail + 2 :: 3] = program.m + np.arange(form.logs), -1.0
    row, col = _entries(form)
    width = np.int64(len(form.q))
    keys = np.where(row < 0, -2, row * width + col)  # a logarithm of the objective is in no row
    order = np.argsort(keys)
    wanted = np.where(row_of[G.row] < 0, -1, row_of[G.row].astype(np.int64) * width + G.col)
    at = np.searchsorted(keys, wanted, sorter=order)
    at = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(wanted), dtype=np.int64)
    from_A = (wanted >= 0) & (keys[at] == wanted) if len(order) else np.zeros(len(wanted), dtype=bool)
    entry = np.flatnonzero(from_A)
    origin = sp.csr_array((sign[G.row[entry]], (entry, at[entry])), shape=(G.nnz, len(keys)))
    constant = np.where(from_A, 0.0, G.data)

    d = np.broadcast_to(scales.columns, len(form.q))
    where, tag, factor = form.spread(G.row, np.arange(G.nnz), d[G.col], scales)
    scaled = form.scaled(scales).G
    place = np.repeat(np.arange(scaled.shape[1]), np.diff(scaled.indptr)) * len(form.h) + scaled.indices
    sort = np.argsort(place)
    at = sort[np.searchsorted(place, G.col[tag] * np.int64(len(form.h)) + where, sorter=sort)]
    carry = sp.csr_array((factor, (at, tag)), shape=(scaled.nnz, G.nnz))
    return carry @ constant, sp.csr_array(carry @ origin)


def _curvature_map(form: Form, scales: Scales) -> Any:
    import scipy.sparse as sp

    program, P = form.program, form.P
    if program.P is None:
        return sp.csr_array((0, 0))
    d = np.broadcast_to(scales.columns, len(form.q))
    column = np.repeat(np.arange(program.n), np.diff(program.P.indptr))
    upper = np.flatnonzero(program.P.indices <= column)
    own = np.repeat(np.arange(P.shape[1]), np.diff(P.indptr)) * np.int64(program.n) + P.indices
    sort = np.argsort(own)
    row = program.P.indices[upper]
    at = sort[np.searchsorted(own, column[upper] * np.int64(program.n) + row, sorter=sort)]
    weight = program.sense * scales.money * d[row] * d[column[upper]]
    return sp.csr_array((weight, (at, upper)), shape=(P.nnz, program.P.nnz))
