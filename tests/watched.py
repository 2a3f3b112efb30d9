"""A problem of many tiny classes, and how many of its images pass through the network at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.hq.distil.problem import Problem
from fieldkit.hq.models import build_model
from fieldkit.hq.models.normalisation import Normalise


def many_classes(count: int) -> Problem:
    """``count`` classes of four 4x4 images, one distilled image of each."""
    images = np.random.default_rng(0).integers(0, 256, (4 * count, 1, 4, 4)).astype(np.uint8)
    return Problem(
        real=Samples(images, np.repeat(np.arange(count), 4)),
        module=build_model("convnet", {"depth": 1, "width": 4}, (1, 4, 4), count),
        normalise=Normalise(Radiometry.measure(images)),
        ipc=1,
        class_count=count,
        schedule=Schedule(steps=2, batch=6, rate=0.05),
    )


@contextmanager
def passes(module: nn.Module) -> Iterator[list[int]]:
    """Yields what fills with the number of images of each forward pass."""
    seen: list[int] = []

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    hook = module.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
