"""Coalitions of n players as whole numbers and as rows of yes and no: bit i of a mask is player i.

An array over all masks has shape (2^n,); entry 0 is the empty coalition, the last one all players.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# How far a 0/1 row may stand off a space [share of its length] and count as within.
_INSIDE = 1e-8


def sums(weights: FloatArray) -> FloatArray:
    """sum_{i in S} w_i for all S (2^n,), of `weights` (n,)."""
    total = np.zeros(1)
    for weight in weights:
        total = np.concatenate([total, total + weight])
    return total


def sizes(n: int) -> IntArray:
    """|S| for all S (2^n,)."""
    return sums(np.ones(n)).astype(np.int64)


def rows_of(masks: Iterable[int], n: int) -> BoolArray:
    """Which players each mask holds (k, n)."""
    wide = (n + 7) // 8
    raw = b"".join(int(mask).to_bytes(wide, "little") for mask in masks)
    packed = np.frombuffer(raw, dtype=np.uint8).reshape(-1, wide)
    return np.unpackbits(packed, axis=1, count=n, bitorder="little").astype(bool)


def masks_of(rows: BoolArray) -> list[int]:
    """The masks of `rows` (k, n)."""
    packed = np.packbits(np.atleast_2d(rows), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


class Span:
    """The linear span of rows of yes and no: the coalitions whose payoff follows from that of others.

    basis: orthonormal (rank, n).
    """

    def __init__(self, n: int, rows: Sequence[BoolArray] = ()) -> None:
        self.n = n
        self.basis: FloatArray = np.zeros((0, n))
        for row in rows:
            self.add(row)

    @property
    def rank(self) -> int:
        """Its dimension."""
        return len(self.basis)

    def add(self, row: BoolArray) -> bool:
        """Whether `row` (n,) was outside, as it no longer is."""
        left = self._off(row.astype(float))
        length = float(np.linalg.norm(left))
        if length <= _INSIDE * np.sqrt(max(1, int(row.sum()))):
            return False
        left = self._off(left / length)  # twice is enough to be orthogonal to the last place
        self.basis = np.vstack([self.basis, left / np.linalg.norm(left)])
        return True

    def outside(self, rows: BoolArray) -> BoolArray:
        """Whether each of `rows` (k, n) is outside (k,)."""
        dense = np.asarray(rows, dtype=float)
        off = dense - (dense @ self.basis.T) @ self.basis
        return np.asarray(np.linalg.norm(off, axis=1) > _INSIDE * np.sqrt(np.maximum(1.0, dense.sum(axis=1))))

    def all_outside(self) -> BoolArray:
        """Whether each of all coalitions is outside (2^n,)."""
        if self.rank >= self.n:
            return np.zeros(2**self.n, dtype=bool)
        rest = np.linalg.svd(self.basis, full_matrices=True)[2][self.rank :] if self.rank else np.eye(self.n)
        found = np.zeros(2**self.n, dtype=bool)
        for direction in rest:  # one at a time: (n, 2^n) would not fit where 2^n does
            found |= np.abs(sums(direction)) > _INSIDE
        return found

    def _off(self, vector: FloatArray) -> FloatArray:
        return np.asarray(vector - self.basis.T @ (self.basis @ vector))
