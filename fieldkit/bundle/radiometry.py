"""What an image's numbers mean: bands, dtype and the statistics that normalise them.

Written down at HQ, never guessed in the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.documents import Word

PIXEL_DTYPES = ("uint8", "uint16")
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
        channels = images.shape[1]
        # One band at a time keeps the float64 copy small on large sets.
        mean = [float(images[:, c].mean(dtype=np.float64)) for c in range(channels)]
        std = [float(images[:, c].std(dtype=np.float64)) or 1.0 for c in range(channels)]
        names = bands or default_bands(channels)
        return cls(tuple(names), images.dtype.name, tuple(mean), tuple(std))

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


def default_bands(channels: int) -> tuple[str, ...]:
    """Band names for a source that names none."""
    if channels == 1:
        return ("grey",)
    if channels == 3:
        return ("red", "green", "blue")
    return tuple(f"band{index + 1}" for index in range(channels))
