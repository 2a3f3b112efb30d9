"""Features of real and of distilled images under the same network and the same random augmentation.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv 2102.08259), equation 5:
what is compared must have been augmented alike.  The authors draw one change for each class and iteration; so do we.

On a CPU a large batch goes through the network in portions.  The C library hands large blocks of memory back to the
system and must ask for each page of them again; small ones it keeps, and they stay in the cache too (ConvNet-3 of width
128, 256 images of 28x28, 2 threads: 298 ms whole, 137 ms in portions of 16).  Most of the gain is the pages: an
allocator that keeps what is freed gives whole batches nearly all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.distilled import DistilledSet
from fieldkit.hq.distil.problem import Problem, Weights
from fieldkit.hq.models.laws import carried_buffers

SIAMESE = Augmentation(shift=0.125, scale=0.2, rotate=15, brightness=0.2, contrast=0.3, cutout=0.3)
# Numbers in the first layer's maps of a portion: 4 MiB of them.
PORTION = 1 << 20


@dataclass(frozen=True)
class Share:
    """What one worker compares in an iteration: real and distilled images of some classes, to be augmented alike.

    classes: k of them, at least 1.  positions: of real images, int64 [n * k].  pixels: distilled ones as a device will
    have them, float32 [m * k, c, h, w]; differentiable.  Both come class by class.
    uniforms: float32 [k, width of the augmentation], a row for each class.
    """

    classes: list[int]
    positions: np.ndarray
    pixels: torch.Tensor
    uniforms: np.ndarray


def own_share(
    problem: Problem, distilled: DistilledSet, per_class: int, augmentation: Augmentation, rng: np.random.Generator
) -> Share | None:
    """This worker's share of an iteration with ``per_class`` real images of each class; None if no class is its own.

    All workers draw alike.
    """
    positions = problem.pick(per_class, rng)
    uniforms = rng.random((problem.class_count, augmentation.width), dtype=np.float32)
    classes = list(problem.workers.mine(range(problem.class_count)))
    if not classes:
        return None
    seen = distilled.seen()[torch.from_numpy(problem.rows(classes, problem.per_class))]
    return Share(classes, positions[problem.rows(classes, per_class)], seen, uniforms[classes])


def nothing(distilled: torch.Tensor) -> torch.Tensor:
    """The part of a loss that a worker without a class has: 0, whose gradient in ``distilled`` is 0."""
    return distilled.sum() * 0.0


def augmented(pixels: torch.Tensor, uniforms: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """Pixels float32 [n * k, c, h, w], class by class, each class changed by its own row of ``uniforms``.

    uniforms: float32 [k, augmentation.width].
    """
    return augment(pixels, _rows(uniforms, len(pixels)).to(pixels.device), augmentation)


def real_features(
    problem: Problem, weights: Weights, positions: np.ndarray, uniforms: np.ndarray, augmentation: Augmentation
) -> torch.Tensor:
    """float32 [k, n, f] of the real images at ``positions`` int64 [n * k], class by class; without a graph.

    They are read, augmented and sent through the network a portion at a time, so memory does not grow with them.
    """
    rows = _rows(uniforms, len(positions))
    size = len(positions) if carried_buffers(problem.module) else portion(problem, len(positions))
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(positions), size):
            pixels = problem.pixels(positions[start : start + size])
            changed = augment(pixels, rows[start : start + size].to(pixels.device), augmentation)
            found.append(problem.features(weights, changed))
    return torch.cat(found).reshape(len(uniforms), -1, found[0].shape[1])


def features(problem: Problem, weights: Weights, pixels: torch.Tensor, class_count: int) -> torch.Tensor:
    """float32 [k, n, f] of pixels float32 [k * n, c, h, w], which are k classes after each other; differentiable."""
    size = len(pixels) if carried_buffers(problem.module) else portion(problem, len(pixels))
    found = [problem.features(weights, each) for each in torch.split(pixels, size)]
    return torch.cat(found).reshape(class_count, -1, found[0].shape[1])


def portion(problem: Problem, count: int) -> int:
    """How many of ``count`` images pass through the network at a time: all, except on a CPU.

    Only where a sample's features do not depend on the batch, as they do under batch normalisation in training.
    """
    if torch.device(problem.device).type != "cpu":
        return count
    height, width = problem.real.images.shape[2:]
    channels = next((each.shape[0] for each in problem.parameters if len(each.shape) == 4), 1)
    return max(1, PORTION // int(channels * height * width))


def _rows(uniforms: np.ndarray, count: int) -> torch.Tensor:
    """A row for each of ``count`` images, class by class."""
    return torch.from_numpy(uniforms).repeat_interleave(count // len(uniforms), dim=0)
