"""Initial weights from a generator's name and a seed, so that a few bytes stand for a whole network.

Generator "philox-1": tensor number i of a recipe takes the raw 64-bit stream of a Philox counter generator with key
(seed, i).  numpy guarantees the stream of a bit generator (unlike that of ``Generator``'s distributions), so HQ and
field agree across numpy versions.  Each raw value gives a uniform of 53 bits; normals come by Box and Muller (1958).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fieldkit.bundle.recipe import GENERATOR, Initial, Tensor
from fieldkit.errors import IncompatibleBundle


def uniforms(seed: int, stream: int, count: int) -> np.ndarray:
    """float64 [count] in [0, 1): value j depends on (seed, stream, j) alone."""
    key = np.array([seed, stream], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def halves(seed: int, stream: int, count: int) -> np.ndarray:
    """float32 [count] in [0, 1), two from each raw value, the lower half first: a third of the time of ``uniforms``.

    Value j depends on (seed, stream, j) alone.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw((count + 1) // 2).astype("<u8", copy=False)
    return (raw.view("<u4")[:count] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def draw(tensor: Tensor, seed: int, stream: int) -> np.ndarray:
    """First values of one tensor, float32 [*tensor.shape], by its law."""
    law, value = tensor.law
    if law == "constant":
        return np.full(tensor.shape, value, dtype=np.float32)
    if law == "uniform":
        flat = (2.0 * uniforms(seed, stream, tensor.size) - 1.0) * value
    else:
        pair = uniforms(seed, stream, 2 * tensor.size).reshape(2, -1)
        flat = np.sqrt(-2.0 * np.log1p(-pair[0])) * np.cos(2.0 * np.pi * pair[1]) * value
    return flat.astype(np.float32).reshape(tensor.shape)


def initial_weights(parameters: Sequence[Tensor], initial: Initial, seed: int) -> dict[str, np.ndarray]:
    """Every parameter's first values, float32, by name.

    ``initial`` decides: stored weights, else the generator with the bundle's own seed, else with ``seed``.
    """
    if initial.weights:
        return {each.name: initial.weights[each.name].astype(np.float32) for each in parameters}
    if initial.generator != GENERATOR:
        raise IncompatibleBundle(
            "unknown generator of initial weights",
            found=initial.generator,
            expected=GENERATOR,
            remedy="install a newer fieldkit",
        )
    chosen = seed if initial.seed is None else initial.seed
    return {each.name: draw(each, chosen, stream) for stream, each in enumerate(parameters)}
