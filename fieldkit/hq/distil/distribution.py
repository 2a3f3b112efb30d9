"""Distribution matching (DM).

Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv 2110.04181, 2021), equation 6: the
distilled images of a class are moved until their mean feature equals that of real images of the class, under networks
with random weights and under the same random augmentation on both sides (equation 5, "siamese").

Differs in that all classes go through the network in one batch, that Adam moves the images where the authors use SGD,
and that the shared augmentation is one affine warp with brightness, contrast and cutout (fieldkit.hq.augmentation),
drawn anew for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.distil import siamese
from fieldkit.hq.distil.distilled import DistilledSet
from fieldkit.hq.distil.problem import Problem, Snapshot, State


@dataclass(frozen=True)
class Settings:
    """per_class: real images of each class in an iteration.  rate: Adam's step size, in normalised pixels.

    augmentation: the siamese augmentation's strengths.
    """

    per_class: int = 128
    rate: float = 0.02
    augmentation: Augmentation = siamese.SIAMESE


class DistributionMatching:
    """Distilled images start as real samples; their labels are hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.distilled = DistilledSet(problem, problem.rng(0), start="real", rate=settings.rate, betas=(0.5, 0.99))

    def step(self, done: float) -> float:
        """Move the images towards the real features under one freshly drawn network."""
        problem, settings = self.problem, self.settings
        self.iteration += 1
        rng = problem.rng(self.iteration)
        weights = problem.fresh_model(int(rng.integers(1 << 62)))
        positions = problem.pick(settings.per_class, rng)
        uniforms = rng.random((problem.class_count, settings.augmentation.width), dtype=np.float32)
        classes = problem.workers.mine(range(problem.class_count))
        real = problem.pixels(positions[problem.rows(classes, settings.per_class)])
        distilled = self.distilled.seen()[torch.from_numpy(problem.rows(classes, problem.per_class))]
        loss = matching_loss(problem, settings.augmentation, weights, (real, distilled), uniforms[list(classes)])
        self.distilled.move(loss, done)
        return float(problem.workers.total(loss))

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()

    def state(self) -> State:
        return {"iteration": self.iteration, "distilled": self.distilled.state()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.distilled.restore(state["distilled"])


def matching_loss(
    problem: Problem,
    augmentation: Augmentation,
    weights: dict[str, torch.Tensor],
    sides: tuple[torch.Tensor, torch.Tensor],
    uniforms: np.ndarray,
) -> torch.Tensor:
    """Equation 6: squared distance between the classes' mean features, summed over features and classes.

    sides: real and distilled pixels, each float32 [per class * k, c, h, w] class by class, of all classes or some.
    uniforms: float32 [k, augmentation.width]: one augmentation for each of these classes, shared by both sides.
    """
    real, distilled = (
        siamese.features(problem, weights, pixels, uniforms, augmentation).mean(dim=1) for pixels in sides
    )
    return ((real - distilled) ** 2).sum()
