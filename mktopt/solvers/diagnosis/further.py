"""A program with further columns: limits that stand in several rows at once become the bound of a variable.

    row_lower <= A x + D x + sum_k coef_k w_k + sum_k coef_k w_k y_k + (what the rows hold already) <= row_upper
    0 <= w <= upper,      y_k: a column x_j, or w_k itself

so that all of these rows give way by one amount, and a row such as `squares <= (rating + s)^2` stays a cone.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from mktopt.solvers.curved import Logs, Quadratics
from mktopt.solvers.diagnosis.carried import Carried
from mktopt.solvers.program import Array, Program

Entries = tuple[Array, Array, Array]


def with_columns(
    program: Program, upper: Array, linear: Entries, products: tuple[Array, Array, Array, Array], change: Entries
) -> Program:
    """`program` with columns w (K,) behind its own, 0 <= w <= upper, and nothing to optimise but logarithms.

    linear: (row, k, coef) of terms coef w_k; products: (row, k, column, coef) of terms coef w_k x_column, column -1 for
    w_k itself; change: (row, column, value), which is added to A. Limits of rows are the caller's to replace.
    """
    import scipy.sparse as sp

    n, count = program.n, len(upper)
    row, k, coef = linear
    more = sp.csr_array((coef, (row, k)), shape=(program.m, count))
    own = program.A + sp.csr_array((change[2], (change[0], change[1])), shape=program.A.shape)
    own.eliminate_zeros()
    logs, remainder = program.logs, program.remainder
    wider = None if remainder is None else Carried(remainder, np.arange(len(remainder.rows)), remainder.rows, n, count)
    if logs is not None:
        wide = sp.hstack([logs.M, sp.csr_array((logs.M.shape[0], count))], format="csr")
        logs = Logs(logs.row, logs.coef, wide, logs.offset)
    names = [SimpleNamespace(name=f"limit {j}", value=float(limit)) for j, limit in enumerate(upper)]
    return program.replace(
        variables=[*program.variables, *names],
        A=sp.hstack([own, more], format="csr"),
        lower=np.r_[program.lower, np.zeros(count)],
        upper=np.r_[program.upper, upper],
        integer=np.r_[program.integer, np.zeros(count, dtype=bool)],
        c=np.zeros(n + count),
        P=None,
        quadratics=_with_products(program.quadratics, products, n),
        logs=logs,
        remainder=wider,
    )


def _with_products(known: Quadratics | None, products: tuple[Array, Array, Array, Array], n: int) -> Quadratics | None:
    row, k, column, coef = products
    if not len(row):
        return known
    second = n + k
    parts = [np.asarray(part) for part in (row, np.where(column < 0, second, column), second, coef)]
    if known is not None:
        parts = [np.r_[a, b] for a, b in zip((known.row, known.first, known.second, known.coef), parts, strict=True)]
    order = np.argsort(parts[0], kind="stable")
    return Quadratics(*(part[order] for part in parts))
