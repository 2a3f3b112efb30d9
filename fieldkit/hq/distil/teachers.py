"""An ensemble of networks trained on the real data: what it makes of images, and the soft labels that it gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.archive import Archive
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.problem import Problem, Weights

BATCH = 256


@dataclass(frozen=True)
class Teachers:
    """Trained networks of the problem's architecture, which answer together; a batch of images at a time.

    temperature: divides their logits, so that more of it makes softer labels.
    """

    problem: Problem
    members: tuple[Weights, ...]
    temperature: float = 1.0

    @classmethod
    def trained(cls, problem: Problem, count: int, lessons: Lessons) -> Teachers:
        """The first ``count`` experts under these lessons, from ``problem.cache`` where they are there already."""
        archive = Archive(problem, lessons, count)
        archive.provide(count, lambda ready, wanted: problem.note(f"{ready} of {wanted} teachers trained"))
        return cls(problem, tuple(archive.weights(seed) for seed in range(count)))

    def losses(self, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy float32 [n] on normalised pixels float32 [n, c, h, w] of classes int64 [n]."""
        each = [functional.cross_entropy(logits, classes, reduction="none") for logits in self._logits(pixels)]
        return torch.stack(each).mean(dim=0)

    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [n, k] of normalised pixels float32 [n, c, h, w]: the mean of the members' softmax."""
        return torch.stack([torch.softmax(each / self.temperature, dim=1) for each in self._logits(pixels)]).mean(dim=0)

    def labels(self, pixels: torch.Tensor, views: int, rng: np.random.Generator) -> torch.Tensor:
        """Soft labels float32 [n, k], rows sum to 1, of distilled pixels float32 [n, c, h, w], as small as stored.

        A device sees an image augmented, so its label is the mean of what the teachers say to ``views`` augmented
        copies.
        """
        return torch.cat([self._label(each.to(self.problem.device), views, rng) for each in torch.split(pixels, BATCH)])

    def _label(self, pixels: torch.Tensor, views: int, rng: np.random.Generator) -> torch.Tensor:
        seen, strengths = self.problem.enlarged(pixels), self.problem.augmentation
        if not strengths.width:
            return self.probabilities(seen)
        found = torch.zeros(len(seen), self.problem.class_count, device=seen.device)
        for _ in range(views):
            uniforms = torch.from_numpy(rng.random((len(seen), strengths.width), dtype=np.float32))
            found += self.probabilities(augment(seen, uniforms.to(seen.device), strengths))
        return found / views

    def _logits(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
        return [self.problem.answers(weights, pixels) for weights in self.members]
