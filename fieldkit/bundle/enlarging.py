"""Distilled images that are stored smaller than a network's input, brought to its size.

Several half-size images take the space of one and teach more: Kim et al., "Dataset Condensation via Efficient
Synthetic-Data Parameterization", ICML 2022 (IDC; its "multi-formation"), whose upsampling is bilinear as well.
"""

from __future__ import annotations

import numpy as np


def enlarge(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [n, c, height, width] from float32 [n, c, h, w], bilinear with pixel centres at halves.

    Pixels outside of the first and last centre repeat the border.  An image that has the size already stays as it is.
    """
    return _along(_along(images, 2, height), 3, width)


def _along(images: np.ndarray, axis: int, length: int) -> np.ndarray:
    """``images`` with ``length`` pixels along ``axis``: each a mean of its two nearest ones."""
    given = images.shape[axis]
    if given == length:
        return images
    places = np.clip((np.arange(length) + 0.5) * (given / length) - 0.5, 0.0, given - 1.0)
    first = places.astype(np.int64)
    share = (places - first).astype(np.float32)
    share = share.reshape([-1 if each == axis else 1 for each in range(images.ndim)])
    low, high = images.take(first, axis), images.take(np.minimum(first + 1, given - 1), axis)
    found: np.ndarray = low + (high - low) * share
    return found
