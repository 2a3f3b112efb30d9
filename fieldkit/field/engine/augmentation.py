"""The random numbers behind augmentation and dropout: drawn by the host, used inside the train program.

The strengths are constants of the program; a device only feeds uniforms.  They depend on the training seed and the step
alone, so a training that was stopped and resumed repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldkit.bundle.weights import halves, uniforms
from fieldkit.field.programs.interface import RANDOM

# Streams below belong to the initial weights (one per parameter); minibatch orders start at ORDERS.
DRAWS = 1 << 32
RANDOMS = 3 << 32


def draw(seed: int, step: int, shape: tuple[int, int]) -> np.ndarray:
    """The ``aug`` input of training step ``step``: float32 [batch, width] in [0, 1)."""
    flat = uniforms(seed, DRAWS + step, shape[0] * shape[1]).astype(np.float32)
    # Rounding may reach 1.0, which the program's contract leaves out.
    return np.minimum(flat, np.nextafter(np.float32(1), np.float32(0))).reshape(shape)


def in_order(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of the inputs ``random.<i>`` among ``feeds``, by their numbers."""
    numbered = {name.removeprefix(RANDOM): each for name, each in feeds.items() if name.startswith(RANDOM)}
    return [numbered[number] for number in sorted(numbered, key=lambda number: (len(number), number))]


def draw_randoms(seed: int, step: int, count: int) -> np.ndarray:
    """The ``random.<i>`` inputs of training step ``step``, one after the other: float32 [count] in [0, 1)."""
    return halves(seed, RANDOMS + step, count)
