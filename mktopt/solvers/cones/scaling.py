"""Units in which a standard form is handed to an interior-point method: see `form.py` for what may be scaled.

Without cones one unit of power κ does for all columns. With them voltages (about 1), powers (thousands) and squared
currents (millions) meet, so every column has its own. At first it is the one that makes the entries of each row of G,
and its limit, most alike in size (geometric means of rows and columns in turn, limits being a column whose unit is
fixed), but only half of the way there from the median, because far limits pull at it as much as near ones (on feeders
in very unlike units 1.9 attempts were needed, against 2.1 and 2.0 at 0.3 and 0.7 of the way, and more at the ends).
A large model that knows better says so (`Program.units`): on feeders of 3,000 to 10,000 buses one attempt is enough
then. A small one is finished by polishing, which the units from its rows suit better. Where an answer is known, its own
sizes are the units of another look.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktopt.solvers.cones.form import Form, Scales
from mktopt.solvers.program import Array

_SWEEPS = 12
_SHARE = 0.5
# Columns up to which a program's own units are not asked for.
_FEW = 2000
# Below this share of its unit so far, a value says nothing about the unit of its column.
_SMALL = 2.0**-10
# Limits below this share of the greatest are what rounding leaves of zero.
_ROUNDING = 1e-15


def plain_scales(form: Form) -> Scales:
    """One unit of power κ for all columns, and of money: the typical finite limit, and the typical money per κ."""
    limits = np.abs(form.h[: form.ends[-1]])
    kappa = typical(limits[limits > _ROUNDING * limits.max(initial=0.0)])
    gradient = np.abs(form.q) + np.abs(form.P.diagonal()) * kappa
    return uniform_scales(form, kappa, 1.0 / (kappa * typical(gradient[gradient > 0.0])))


def uniform_scales(form: Form, kappa: float, sigma: float) -> Scales:
    """The scales x = κ x̂, objective times σ, of a form without cones."""
    return Scales(kappa, sigma, 1.0 / kappa, np.ones(len(form.sizes)), np.ones(form.logs))


def typical(sizes: Array) -> float:
    """A power of two near the median, so that scaling rounds nothing; 1 without any."""
    return float(2.0 ** np.round(np.log2(np.median(sizes)))) if len(sizes) else 1.0


def cone_scales(form: Form, x: Array | None = None, before: Scales | None = None) -> Scales:
    """Scales of a form with cones; x: (N,) an answer found with the scales `before`, for a closer look."""
    if x is None or before is None:
        d, told = _geometric(form), form.program.units
        if told is not None and form.program.n > _FEW:
            known = np.flatnonzero(np.isfinite(told))
            d[known] = _power(told[known])
    else:
        unit = np.broadcast_to(before.columns, len(x))
        d = _power(np.maximum(np.abs(x), _SMALL * unit))
    d[form.program.n :] = 1.0
    G = abs(form.G).tocsr()
    size = np.maximum(_row_maxima(G, d), np.abs(form.h) if x is None else 0.0)
    if form.logs:
        inside = slice(form.tail + 2, None, 3)
        size[inside] = np.maximum(size[inside], (G @ d)[inside])
    if x is not None:
        size = np.maximum(size, np.abs(form.h - form.G @ x))
    size = np.where(size > 0.0, size, 1.0)
    gradient = np.abs(form.q) * d
    if x is not None:
        gradient = gradient + np.abs(_symmetric(form, x)) * d
    else:
        gradient = gradient + np.abs(form.P.diagonal()) * d * d
    return _with_rows(form, d, 1.0 / typical(gradient[gradient > 0.0]), G, size)


def _symmetric(form: Form, x: Array) -> Array:
    return np.asarray(form.P @ x + form.P.T @ x - form.P.diagonal() * x)


def _with_rows(form: Form, d: Array, sigma: float, G: Any, size: Array) -> Scales:
    rows = np.ones(len(size))
    straight = slice(0, form.ends[-1])
    largest = _row_maxima(G, d)[straight]
    rows[straight] = 1.0 / _power(np.where(largest > 0.0, largest, 1.0))
    first = form.heads[form.paired]
    p, r = size[first], size[first + 1]
    tilt = np.ones(len(form.sizes))
    tilt[form.paired] = _power(np.sqrt(r / p))
    if len(form.sizes):
        part = size[form.ends[-1] : form.tail].copy()
        part[first - form.ends[-1]] = part[first + 1 - form.ends[-1]] = np.sqrt(p * r)
        widest = np.maximum.reduceat(part, form.heads - form.ends[-1])
        rows[form.ends[-1] : form.tail] = 1.0 / _power(widest)[form.cone_of]
    return Scales(d, sigma, rows, tilt, 1.0 / _power(size[form.tail + 2 :: 3]))


def _power(sizes: Array) -> Array:
    """The nearest powers of two, so that scaling rounds nothing."""
    return np.exp2(np.round(np.log2(sizes)))


def _row_maxima(G: Any, d: Array) -> Array:
    value = G.data * d[G.indices]
    found = np.zeros(G.shape[0])
    full = np.flatnonzero(np.diff(G.indptr))
    if len(full):
        found[full] = np.maximum.reduceat(value, G.indptr[full])
    return found


def _geometric(form: Form) -> Array:
    """Units of the columns (N,), half of the way to where entries of G and h are, row by row, most alike."""
    G = form.G.tocoo()
    live = np.flatnonzero(G.data)
    row, column, value = G.row[live], G.col[live], np.log2(np.abs(G.data[live]))
    # What is left of a difference of powers is no limit: 1e-60 kW would pull its row's columns along.
    limit = np.flatnonzero(np.abs(form.h) > _ROUNDING * np.abs(form.h).max(initial=0.0))
    base = np.log2(np.abs(form.h[limit]))
    m, n = G.shape
    each = np.bincount(row, minlength=m) + np.bincount(limit, minlength=m)
    times = np.maximum(np.bincount(column, minlength=n), 1)
    kappa = plain_scales(form).columns
    d = np.full(n, np.log2(kappa))
    fixed = np.bincount(limit, base, m)
    first = form.heads[form.paired] - form.ends[-1]
    for _ in range(_SWEEPS):
        e = -(np.bincount(row, value + d[column], m) + fixed) / np.maximum(each, 1)
        if len(form.sizes):  # the components of w share the unit √(p r)
            block = e[form.ends[-1] : form.tail]
            half = e[form.heads]
            half[form.paired] = 0.5 * (block[first] + block[first + 1])
            inner = half[form.cone_of]
            inner[first], inner[first + 1] = block[first], block[first + 1]
            e[form.ends[-1] : form.tail] = inner
        d = -np.bincount(column, value + e[row], n) / times
    return np.exp2(np.round(d + _SHARE * (np.median(d) - d)))
