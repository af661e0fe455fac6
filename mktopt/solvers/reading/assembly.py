"""From lists of terms to arrays: fixed variables folded in, equal entries summed, one form for every number.

With parameters every array y is base + M θ (`Forms`), and an entry stays where a parameter enters it, whatever the
values; without them M is None and exact zeros are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mktopt.errors import FormulationError
from mktopt.solvers.reading.affine import Forms, NotAffine, forms, joined
from mktopt.solvers.reading.terms import Terms, located

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Assembled:
    """The terms of R rows over free columns; entries sorted by row, then column, each place once.

    row, column, linear: the linear terms; q_row, first, second, quadratic: the products, first <= second;
    l_row, l_coef: the logarithms, of m_data at (m_row, m_column) times x plus offset; constant: (R,).
    """

    row: Array
    column: Array
    linear: Forms
    q_row: Array
    first: Array
    second: Array
    quadratic: Forms
    constant: Forms
    l_row: Array
    l_coef: Forms
    m_row: Array
    m_column: Array
    m_data: Forms
    offset: Forms


def assemble(terms: Terms, fixed: Array, count: int | None, name: Callable[[int], str]) -> Assembled:
    """The arrays of `terms`, whose variables have places.

    fixed: the values of the fixed variables, number k of which has the place -1-k; count: the number of parameters,
    None where they are numbers; name: of a row, in errors.
    Raises FormulationError, naming the row, for a number that is not finite, and for a logarithm of a constant that
    has none.
    """
    place, linear, pairs, quadratic, constant = _folded(terms, fixed, count)
    for values, rows in ((linear, place[0]), (quadratic, pairs[0]), (constant, np.arange(len(constant)))):
        _refuse_not_finite(values, rows, name)
    low, high = np.minimum(pairs[1], pairs[2]), np.maximum(pairs[1], pairs[2])  # x·y and y·x meet and may cancel
    (row, column), linear = gathered(place, linear)
    (q_row, first, second), quadratic = gathered((pairs[0], low, high), quadratic)
    (l_row, l_coef, m_place, m_data, offset), constant = _logarithms(terms, fixed, count, name, constant)
    return Assembled(
        row, column, linear, q_row, first, second, quadratic, constant, l_row, l_coef, *m_place, m_data, offset
    )


def gathered(keys: tuple[Array, ...], values: Forms) -> tuple[tuple[Array, ...], Forms]:
    """Sums of the values with equal keys, in ascending order of the keys, without those that are always zero."""
    if not len(values):
        return keys, values
    order = np.lexsort(keys[::-1])
    keys = tuple(key[order] for key in keys)
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    values = values.take(order)
    if not new.all():
        values = values.sums(np.cumsum(new) - 1, int(new.sum()))
    there = values.there
    if there.all():
        return tuple(key[new] for key in keys), values
    return tuple(key[new][there] for key in keys), values.take(there)


def _folded(
    terms: Terms, fixed: Array, count: int | None
) -> tuple[tuple[Array, Array], Forms, tuple[Array, Array, Array], Forms, Forms]:
    """((row, column), linear, (row, first, second), quadratic, constant) over the free columns."""
    m = len(terms.constants)
    column, first, second = terms.places
    linear, quadratic = forms(terms.coefs, count), forms(terms.q_coefs, count)
    q_row = np.array(terms.q_rows, dtype=np.int64)
    constant = forms(terms.constants, count)
    row = np.repeat(np.arange(m), np.diff(np.array([0, *terms.ends])))
    if not len(fixed):
        return (row, column), linear, (q_row, first, second), quadratic, constant
    values = np.r_[0.0, fixed[::-1]]  # indexed from the end, like the columns
    half = (first < 0) != (second < 0)  # a fixed variable times a free one is linear
    known, free = np.minimum(first[half], second[half]), np.maximum(first[half], second[half])
    row, column = np.r_[row, q_row[half]], np.r_[column, free]
    linear = joined(linear, quadratic.take(half).times(values[known]))
    both = (first < 0) & (second < 0)
    product = values[first[both]] * values[second[both]]
    constant = constant.plus(quadratic.take(both).times(product).sums(q_row[both], m))
    keep = column < 0
    constant = constant.plus(linear.take(keep).times(values[column[keep]]).sums(row[keep], m))
    row, column, linear = row[~keep], column[~keep], linear.take(~keep)
    keep = ~(half | both)
    return (row, column), linear, (q_row[keep], first[keep], second[keep]), quadratic.take(keep), constant


def _logarithms(
    terms: Terms, fixed: Array, count: int | None, name: Callable[[int], str], constant: Forms
) -> tuple[tuple[Array, Forms, tuple[Array, Array], Forms, Forms], Forms]:
    """((row, coef, place in M, M, offset) of the logarithms, constants with those of constants added)."""
    row, coef = np.array(terms.l_rows, dtype=np.int64), forms(terms.l_coefs, count)
    _refuse_not_finite(coef, row, name)
    place, data, _, _, offset = _folded(terms.inside or Terms(), fixed, count)
    for values, at in ((data, place[0]), (offset, np.arange(len(row)))):
        _refuse_not_finite(values, row[at], name)
    (m_row, m_column), data = gathered(place, data)
    if not len(row):
        return (row, coef, (m_row, m_column), data, offset), constant
    keep = coef.there
    flat = keep & (np.bincount(m_row, minlength=len(row)) == 0)
    if flat.any():
        moved = flat & offset.moving
        if moved.any():
            k = int(moved.argmax())
            raise located(NotAffine(offset.M[[k]].indices), name(int(row[k])), terms.parameters)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.log(offset.base[flat])
        if not np.isfinite(value).all():
            k = int(np.flatnonzero(flat)[np.argmin(np.isfinite(value))])
            raise FormulationError(f"{name(int(row[k]))} has the logarithm of {offset.base[k]:g}, which is no number")
        constant = constant.plus(coef.take(flat).times(value).sums(row[flat], len(constant)))
        keep &= ~flat
    new = np.cumsum(keep) - 1
    kept = keep[m_row]
    place = new[m_row[kept]], m_column[kept]
    return (row[keep], coef.take(keep), place, data.take(kept), offset.take(keep)), constant


def _refuse_not_finite(values: Forms, rows: Array, name: Callable[[int], str]) -> None:
    checked = [(values.base, np.arange(len(values)))]
    if values.M is not None:
        checked.append((values.M.data, np.repeat(np.arange(len(values)), np.diff(values.M.indptr))))
    for numbers, at in checked:
        bad = ~np.isfinite(numbers)
        if bad.any():
            k = int(bad.argmax())
            raise FormulationError(
                f"{name(int(rows[at[k]]))} has a coefficient that is {numbers[k]}; every number must be finite"
            )
