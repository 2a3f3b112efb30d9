"""Parameter matching by gradients (DC, DSA).

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021 (arXiv 2006.05929), algorithm 1: the
distilled images of a class are moved until the gradient of a network's loss on them points where that on real images of
the class does, layer by layer and output unit by output unit (equation 9), at several points of the network's training
on the distilled set.  Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021
(arXiv 2102.08259), equation 5: both sides under the same augmentation.

As in the authors' code only weights of two or more dimensions are compared, one network serves ``outer`` comparisons
(1 for one image per class, 10 for 10, 50 for 50), and where there is batch normalisation its statistics are those of
real images of all classes.

Differs in that the gradients of all classes come from one batched pass (``torch.func.vmap``; on a CPU from as many
classes at a time as the cache holds); in that between two comparisons the network trains as a device will, with the
recipe's optimiser, rates and augmentation, of which a few steps lead as far as the authors' 10 to 50 passes of plain
SGD at a rate of 0.01; and in that Adam moves the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.func import grad, vmap
from torch.nn import functional

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.distil.descent import Training, descend
from fieldkit.hq.distil.distilled import DistilledSet, matching
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights
from fieldkit.hq.distil.siamese import SIAMESE, augmented, nothing, own_share, portion
from fieldkit.hq.models.laws import carried_buffers

# What the authors add to the product of two gradients' lengths.
LEAST = 1e-6
MOST_OUTER = 50
BATCH_NORM_IMAGES = 16


@dataclass(frozen=True)
class Settings:
    """per_class: real images of each class in a comparison.

    outer: comparisons under one network; None takes as many as there are images per class, up to 50.
    inner: steps of the network's training between two comparisons.
    rate: Adam's step size, in normalised pixels.  augmentation: the siamese augmentation's strengths.
    """

    per_class: int = 64
    outer: int | None = None
    inner: int = 5
    rate: float = 0.02
    augmentation: Augmentation = SIAMESE


class GradientMatching:
    """Distilled images start as real samples; their labels are hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.comparisons = 0
        self.outer = settings.outer or min(problem.ipc, MOST_OUTER)
        rng = problem.rng(0)
        self.distilled = DistilledSet(problem, rng, matching(settings.rate))
        self.training = Training.begin(problem, int(rng.integers(1 << 62)))

    def step(self, done: float) -> float:
        """Compare gradients once, move the images, and train the network a little on them."""
        self.iteration += 1
        rng = self.problem.rng(self.iteration)
        loss = self._loss(rng)
        self.distilled.move(loss, done)
        self._go_on(rng)
        return self.problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()

    def state(self) -> State:
        return {
            "iteration": self.iteration,
            "comparisons": self.comparisons,
            "distilled": self.distilled.state(),
            "training": self.training.state(),
        }

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.comparisons = state["comparisons"]
        self.distilled.restore(state["distilled"])
        self.training = Training.restored(state["training"], self.problem.device)

    def _loss(self, rng: np.random.Generator) -> torch.Tensor:
        """This worker's part of the distance: that of its classes."""
        problem, settings = self.problem, self.settings
        share = own_share(problem, self.distilled, settings.per_class, settings.augmentation, rng)
        weights = {name: value.detach() for name, value in self.training.weights.items()}
        weights |= batch_statistics(problem, weights, rng)
        if share is None:
            return nothing(self.distilled.pixels)
        real, distilled = (
            augmented(each, share.uniforms, settings.augmentation)
            for each in (problem.pixels(share.positions), share.pixels)
        )
        with torch.no_grad():
            wanted = class_gradients(problem, weights, real, share.classes)
        return distance(wanted, class_gradients(problem, weights, distilled, share.classes))

    def _go_on(self, rng: np.random.Generator) -> None:
        """Train the network on the set as it is now, or begin a new one after its last comparison."""
        problem = self.problem
        self.comparisons += 1
        if self.comparisons >= self.outer or self.training.step + self.settings.inner > problem.schedule.steps:
            self.comparisons = 0
            self.training = Training.begin(problem, int(rng.integers(1 << 62)))
            return
        pixels, labels = self.distilled.seen().detach(), self.distilled.labels().detach()
        for _ in range(self.settings.inner):
            rate = problem.schedule.learning_rate(self.training.step)
            self.training = descend(problem, self.training.detached(), pixels, labels, rate)


def class_gradients(problem: Problem, weights: Weights, pixels: torch.Tensor, classes: Sequence[int]) -> Weights:
    """The gradients of each class's mean cross-entropy in the weights of two or more dimensions: [k, ...] each.

    weights: running statistics among them.  pixels: float32 [n * k, c, h, w], class by class; differentiable in them.
    classes: their k classes.
    """
    compared = {name: value for name, value in weights.items() if value.ndim >= 2}
    fixed = {name: value for name, value in weights.items() if value.ndim < 2}

    def loss(moving: Weights, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(problem.logits(fixed | moving, images), target.expand(len(images)))

    grouped = pixels.reshape(len(classes), -1, *pixels.shape[1:])
    targets = torch.tensor(list(classes), device=pixels.device)
    together = max(1, portion(problem, len(pixels)) // grouped.shape[1])
    with problem.in_use():
        found: Weights = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=together)(compared, grouped, targets)
    return found


def distance(wanted: Weights, found: Weights) -> torch.Tensor:
    """Equation 9: 1 - cosine of two gradients, summed over a layer's output units, layers and classes.

    wanted, found: gradients [k, units, ...] of each layer.
    """
    total = torch.zeros(())
    for name, goal in wanted.items():
        real, distilled = goal.flatten(2), found[name].flatten(2)
        lengths = torch.linalg.vector_norm(real, dim=2) * torch.linalg.vector_norm(distilled, dim=2)
        total = total.to(real.device) + (1.0 - (real * distilled).sum(dim=2) / (lengths + LEAST)).sum()
    return total


def batch_statistics(problem: Problem, weights: Weights, rng: np.random.Generator) -> Weights:
    """What batch normalisation is to know in use: the statistics of some real images of all classes.

    Without batch normalisation there is nothing to know.
    """
    known = {each.name: torch.full(each.shape, each.law[1]) for each in carried_buffers(problem.module)}
    if not known:
        return {}
    known = {name: value.to(problem.device) for name, value in known.items()}
    first = {name: value.clone() for name, value in known.items()}
    with torch.no_grad():
        problem.logits(weights | known, problem.pixels(problem.pick(BATCH_NORM_IMAGES, rng)))
    for name, value in known.items():
        # One pass goes only a part of the way from the first values to the batch's.
        share = cast(float, problem.module.get_submodule(name.rpartition(".")[0]).momentum)
        known[name] = first[name] + (value - first[name]) / share
    return known
