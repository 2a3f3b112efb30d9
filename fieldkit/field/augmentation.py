"""The random numbers behind augmentation and dropout: drawn by the host, used inside the train program.

The strengths are constants of the program; a device only feeds uniforms.  They depend on the training seed and the step
alone, so a training that was stopped and resumed repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fieldkit.bundle.weights import uniforms
from fieldkit.field.session import RANDOM

# Streams below belong to the initial weights (one per parameter); minibatch orders start at ORDERS.
DRAWS = 1 << 32
RANDOMS = 3 << 32


def draw(seed: int, step: int, shape: tuple[int, int]) -> np.ndarray:
    """The ``aug`` input of training step ``step``: float32 [batch, width] in [0, 1)."""
    return _below_one(uniforms(seed, DRAWS + step, shape[0] * shape[1])).reshape(shape)


def in_order(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of the inputs ``random.<i>`` among ``feeds``, by their numbers."""
    numbered = {name.removeprefix(RANDOM): each for name, each in feeds.items() if name.startswith(RANDOM)}
    return [numbered[number] for number in sorted(numbered, key=lambda number: (len(number), number))]


def draw_randoms(seed: int, step: int, arrays: Sequence[np.ndarray]) -> None:
    """Fill the ``random.<i>`` inputs of training step ``step``, float32 of any shapes, in order of their numbers."""
    flat = _below_one(uniforms(seed, RANDOMS + step, sum(each.size for each in arrays)))
    first = 0
    for each in arrays:
        each[...] = flat[first : first + each.size].reshape(each.shape)
        first += each.size


def _below_one(flat: np.ndarray) -> np.ndarray:
    """As float32; rounding may reach 1.0, which the program's contract leaves out."""
    return np.minimum(flat.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))
