"""The pixel codec: float images as integers with one scale and one offset per band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fieldkit.bundle.radiometry import PIXEL_DTYPES
from fieldkit.errors import UsageError


@dataclass(frozen=True)
class Pixels:
    """Quantised images: value = code * scale[band] + offset[band], in native counts.

    codes: uint8 | uint16 [n, c, h, w].
    scale, offset: float32 [c]; scale > 0.  Decoded values may lie outside of the sensor's own range.
    """

    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def encode(cls, images: np.ndarray, dtype: str, levels: int | None = None) -> Pixels:
        """Quantise float32 [n, c, h, w] to ``dtype``, each band over its own whole range.

        levels: how many codes to use, 2 or more, all by default; fewer compress better (64 of 256: by a quarter).
        The error of a finite value is at most scale / 2, apart from float32 rounding.
        """
        if dtype not in PIXEL_DTYPES:
            raise UsageError("pixels cannot be stored so", found=dtype, expected=" or ".join(PIXEL_DTYPES))
        if not np.isfinite(images).all():
            raise UsageError("pixels must be finite to be stored", found="NaN or infinity")
        top = np.iinfo(dtype).max if levels is None else levels - 1
        if not 1 <= top <= np.iinfo(dtype).max:
            raise UsageError("levels do not fit", found=levels, expected=f"2 to {np.iinfo(dtype).max + 1}")
        wide = images.astype(np.float64)
        low, high = wide.min(axis=(0, 2, 3)), wide.max(axis=(0, 2, 3))
        scale = np.where(high > low, (high - low) / top, 1.0).astype(np.float32)
        # A range below float32's smallest step would underflow to a zero scale.
        scale = np.maximum(scale, np.finfo(np.float32).tiny)
        offset = low.astype(np.float32)
        codes = np.rint((wide - offset[:, None, None]) / scale[:, None, None].astype(np.float64))
        return cls(np.clip(codes, 0, top).astype(dtype), scale, offset)

    def decode(self) -> np.ndarray:
        """float32 [n, c, h, w] in native counts."""
        decoded: np.ndarray = self.codes.astype(np.float32) * self.scale[:, None, None] + self.offset[:, None, None]
        return decoded
