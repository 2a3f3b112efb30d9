"""Inputs and targets as arrays: the noun that every stage hands on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """Labelled images of one classification data set, or a part of one.

    images: uint8 | uint16 | float32 [n, c, h, w], in the sensor's native counts.
    targets: int64 [n] class indices from 0, or float32 [n, k] soft labels whose rows sum to 1.
    """

    images: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Samples:
        """The samples at these positions, in this order."""
        return Samples(self.images[indices], self.targets[indices])

    def digest(self) -> str:
        """SHA-256, hex, of images and targets."""
        found = hashlib.sha256()
        for array in (self.images, self.targets):
            found.update(str((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()
