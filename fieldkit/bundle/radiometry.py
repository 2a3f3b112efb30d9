"""What an image's numbers mean: bands, dtype and the statistics that normalise them.

Written down at HQ, never guessed in the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.documents import Word
from fieldkit.bundle.samples import blocks

PIXEL_DTYPES = ("uint8", "uint16")
# Pixels of a band whose deviations are in memory at a time.
_PIXELS = 1 << 20
FORM = {"bands": [str], "dtype": Word(*PIXEL_DTYPES), "mean": [float], "std": [float]}


@dataclass(frozen=True)
class Radiometry:
    """The native counts of a sensor and their per-band statistics over the training set.

    bands: one name per band, in channel order.
    dtype: "uint8" or "uint16", the native dtype of an image.
    mean, std: per band, in native counts; std > 0.
    """

    bands: tuple[str, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measure(cls, images: np.ndarray, bands: tuple[str, ...] | None = None) -> Radiometry:
        """Statistics of ``images``: uint8 | uint16 [n, c, h, w].  A constant band gets std 1."""
        count = len(images) * math.prod(images.shape[2:])
        # Whole numbers add up exactly, whatever the order.
        mean = sum(images[rows].sum(axis=(0, 2, 3), dtype=np.uint64) for rows in blocks(images)) / np.float64(count)
        std = np.sqrt(_squared_deviations(images, mean, 0, count) / count)
        names = bands or default_bands(images.shape[1])
        return cls(tuple(names), images.dtype.name, tuple(mean.tolist()), tuple((std + (std == 0)).tolist()))

    def to_json(self) -> dict[str, Any]:
        return {"bands": list(self.bands), "dtype": self.dtype, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Radiometry:
        return cls(
            tuple(str(band) for band in document["bands"]),
            str(document["dtype"]),
            tuple(float(value) for value in document["mean"]),
            tuple(float(value) for value in document["std"]),
        )


def _squared_deviations(images: np.ndarray, mean: np.ndarray, first: int, count: int) -> np.ndarray:
    """Per band, the sum of squares of ``count`` pixels' deviations from ``mean``, from the pixel ``first`` on.

    float64 [c].  Halves are added up as numpy adds up one long array (pairwise summation), so that the last bit does
    not depend on how much is in memory at a time: bundles are repeatable.
    """
    area = math.prod(images.shape[2:])
    if count > _PIXELS:
        half = count // 2 - count // 2 % 8
        summed: np.ndarray = _squared_deviations(images, mean, first, half)
        summed += _squared_deviations(images, mean, first + half, count - half)
        return summed
    skipped, last = first // area, -(-(first + count) // area)
    start = first - skipped * area
    bands = images[skipped:last].swapaxes(0, 1).reshape(len(mean), -1)[:, start : start + count]
    return np.array([np.square(band - centre).sum() for band, centre in zip(bands, mean, strict=True)])


def default_bands(channels: int) -> tuple[str, ...]:
    """Band names for a source that names none."""
    if channels == 1:
        return ("grey",)
    if channels == 3:
        return ("red", "green", "blue")
    return tuple(f"band{index + 1}" for index in range(channels))
