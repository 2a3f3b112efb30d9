"""A few samples seen in several ways: turned a little, softened, mirrored.

A device has few samples of a new class, all of one sensor on one day.  Their copies show what does not matter: small
turns, as far as the recipe's own augmentation goes, and sharpness, in which distilled images are unlike a sensor's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fieldkit.bundle.recipe import Augmentation

# Turns as a part of the recipe's largest, and the softening's standard deviation as a part of an image's side.
TURN, SOFTENING = 0.8, 1.0 / 64
# A softening of so few pixels changes nothing.
LEAST = 0.25


def views(images: np.ndarray, augmentation: Augmentation, mirror: bool) -> Iterator[np.ndarray]:
    """Copies of uint8 | uint16 [n, c, h, w], each as a whole set, themselves first.

    augmentation: of the recipe; mirror: whether left and right may change places, which it may say as well.
    """
    spread = SOFTENING * min(images.shape[2:])
    sides = [images, np.ascontiguousarray(images[..., ::-1])] if mirror or augmentation.flip else [images]
    for each in sides:
        yield each
        if spread >= LEAST:
            yield softened(each, spread)
    if augmentation.rotate:
        for degrees in (TURN * augmentation.rotate, -TURN * augmentation.rotate):
            yield turned(images, degrees)


def softened(images: np.ndarray, spread: float) -> np.ndarray:
    """Images blurred by a Gaussian of this standard deviation in pixels; what comes from outside repeats the border."""
    reach = max(1, math.ceil(3.0 * spread))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    kernel /= kernel.sum()
    made = images.astype(np.float64)
    for axis in (2, 3):
        length = made.shape[axis]
        padded = np.pad(made, [(reach, reach) if each == axis else (0, 0) for each in range(4)], mode="edge")
        made = sum(
            part * padded.take(range(start, start + length), axis=axis) for start, part in enumerate(kernel.tolist())
        )
    return _as_counts(np.asarray(made), images.dtype)


def turned(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images turned anticlockwise about their middle, bilinear; what comes from outside repeats the border."""
    height, width = images.shape[2:]
    angle = math.radians(degrees)
    y, x = np.mgrid[:height, :width]
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    # Where each pixel comes from: the way back.
    row = math.cos(angle) * down + math.sin(angle) * right + (height - 1) / 2
    column = math.cos(angle) * right - math.sin(angle) * down + (width - 1) / 2
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    part, share = row - top, column - left
    upper = images[:, :, top, left] * (1 - share) + images[:, :, top, beside] * share
    lower = images[:, :, below, left] * (1 - share) + images[:, :, below, beside] * share
    return _as_counts(upper * (1 - part) + lower * part, images.dtype)


def _as_counts(values: np.ndarray, dtype: np.dtype[np.generic]) -> np.ndarray:
    made: np.ndarray = np.clip(np.rint(values), 0, np.iinfo(dtype.name).max).astype(dtype)
    return made
