"""Inputs and targets as arrays: the noun that every stage hands on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

# Bytes of an array that are in memory at a time, where it is read from its first row to its last.
BLOCK = 16 << 20


@dataclass(frozen=True)
class View:
    """Some rows of an array, which are read when they are asked for.

    base: the array.  positions: int64 [n], of its rows.
    """

    base: np.ndarray
    positions: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.positions), *self.base.shape[1:])

    @property
    def ndim(self) -> int:
        return self.base.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """The rows at these positions of the view: a copy, unless it is a single row."""
        found: np.ndarray = self.base[self.positions[index]]
        return found

    def part(self, positions: np.ndarray) -> View:
        """The rows at these positions of the view, int64 [n], unread."""
        return View(self.base, self.positions[positions])


@dataclass(frozen=True)
class Samples:
    """Labelled images of one classification data set, or a part of one.

    images: uint8 | uint16 | float32 [n, c, h, w], in the sensor's native counts.  They may be a mapped file, or a
    ``View``, which has an array's shape, length, dtype and rows and nothing else: read them by positions or slices.
    targets: int64 [n] class indices from 0, or float32 [n, k] soft labels whose rows sum to 1.
    """

    images: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Samples:
        """The samples at these positions, in this order, in memory."""
        return Samples(self.images[indices], self.targets[indices])

    def part(self, positions: np.ndarray) -> Samples:
        """The samples at these positions, int64 [n], in this order; their images stay where they are."""
        images = self.images
        view = images.part(positions) if isinstance(images, View) else View(images, positions)
        # It stands in for an array wherever samples are read.
        return Samples(cast(np.ndarray, view), self.targets[positions])

    def digest(self) -> str:
        """SHA-256, hex, of images and targets."""
        found = hashlib.sha256()
        for array in (self.images, self.targets):
            found.update(str((array.shape, array.dtype.str)).encode())
            for rows in blocks(array):
                found.update(np.ascontiguousarray(array[rows]).data)
        return found.hexdigest()


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Slices that cut an array's rows into blocks of about ``BLOCK`` bytes."""
    step = rows_in_block(array.shape, array.dtype)
    for first in range(0, len(array), step):
        yield slice(first, first + step)


def rows_in_block(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """How many rows of an array of this shape and dtype make a block; at least one."""
    return max(1, BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))
