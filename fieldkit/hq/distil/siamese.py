"""Features of real and of distilled images under the same network and the same random augmentation.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv 2102.08259), equation 5:
what is compared must have been augmented alike.  The authors draw one change for each class and iteration; so do we.

On a CPU a large batch goes through the network in portions whose maps stay in the cache.  That halves the time of a
ConvNet-3 of width 128 (256 images of 28x28 with 2 threads: 298 ms whole, 137 ms in portions of 16).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, Weights
from fieldkit.hq.models.laws import carried_buffers

SIAMESE = Augmentation(shift=0.125, scale=0.2, rotate=15, brightness=0.2, contrast=0.3, cutout=0.3)
# Numbers in the first layer's maps of a portion: 4 MiB of them.
PORTION = 1 << 20


def nothing(distilled: torch.Tensor) -> torch.Tensor:
    """The part of a loss that a worker without a class has: 0, whose gradient in ``distilled`` is 0."""
    return distilled.sum() * 0.0


def augmented(pixels: torch.Tensor, uniforms: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """Pixels float32 [n * k, c, h, w], class by class, each class changed by its own row of ``uniforms``.

    uniforms: float32 [k, augmentation.width].
    """
    rows = torch.from_numpy(uniforms).to(pixels.device).repeat_interleave(len(pixels) // len(uniforms), dim=0)
    return augment(pixels, rows, augmentation)


def features(problem: Problem, weights: Weights, pixels: torch.Tensor, class_count: int) -> torch.Tensor:
    """float32 [k, n, f] of pixels float32 [k * n, c, h, w], which are k classes after each other.

    The graph is kept only where pixels take gradients.
    """
    with torch.set_grad_enabled(pixels.requires_grad):
        found = [problem.features(weights, each) for each in portions(problem, pixels)]
        return torch.cat(found).reshape(class_count, -1, found[0].shape[1])


def portions(problem: Problem, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
    """A batch float32 [n, c, h, w] in portions that pass through the network faster than all at once.

    One portion where a sample's features depend on the batch (batch normalisation), and on a GPU.
    """
    return (pixels,) if carried_buffers(problem.module) else torch.split(pixels, portion(problem, pixels))


def portion(problem: Problem, pixels: torch.Tensor) -> int:
    """How many images of a batch float32 [n, c, h, w] pass through the network at a time: all, except on a CPU."""
    if pixels.device.type != "cpu":
        return len(pixels)
    height, width = pixels.shape[2:]
    channels = next((each.shape[0] for each in problem.parameters if len(each.shape) == 4), 1)
    return max(1, PORTION // (channels * height * width))
