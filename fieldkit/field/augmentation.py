"""The random numbers behind augmentation: drawn by the host, used inside the train program.

The strengths are constants of the program; a device only feeds uniforms.  They depend on the training seed and the step
alone, so a training that was stopped and resumed repeats them.
"""

from __future__ import annotations

import numpy as np

from fieldkit.bundle.weights import uniforms

# Streams below belong to the initial weights (one per parameter); minibatch orders start at ORDERS.
DRAWS = 1 << 32


def draw(seed: int, step: int, shape: tuple[int, int]) -> np.ndarray:
    """The ``aug`` input of training step ``step``: float32 [batch, width] in [0, 1)."""
    flat = uniforms(seed, DRAWS + step, shape[0] * shape[1])
    # Rounding to float32 may reach 1.0, which the program's contract leaves out.
    return np.minimum(flat.astype(np.float32), np.nextafter(np.float32(1), np.float32(0))).reshape(shape)
