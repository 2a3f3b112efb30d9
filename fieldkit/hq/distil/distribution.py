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
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, Snapshot, State, annealed

SIAMESE = Augmentation(shift=0.125, scale=0.2, rotate=15, brightness=0.2, contrast=0.3, cutout=0.3)


@dataclass(frozen=True)
class Settings:
    """per_class: real images of each class in an iteration.  rate: Adam's step size, in normalised pixels.

    augmentation: the siamese augmentation's strengths.
    """

    per_class: int = 128
    rate: float = 0.02
    augmentation: Augmentation = Augmentation(
        shift=0.125, scale=0.2, rotate=15, brightness=0.2, contrast=0.3, cutout=0.3
    )


class DistributionMatching:
    """Distilled images start as real samples; their labels are hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        start = problem.pixels(problem.pick(problem.per_class, problem.rng(0)))
        self.images = problem.reduced(start).clone().requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.images], lr=settings.rate, betas=(0.5, 0.99))

    def step(self, done: float) -> float:
        """Move the images towards the real features under one freshly drawn network."""
        problem, settings = self.problem, self.settings
        self.iteration += 1
        rng = problem.rng(self.iteration)
        weights = problem.fresh_model(int(rng.integers(1 << 62)))
        real = problem.pixels(problem.pick(settings.per_class, rng))
        uniforms = rng.random((problem.class_count, settings.augmentation.width), dtype=np.float32)
        loss = matching_loss(problem, settings.augmentation, weights, (real, problem.enlarged(self.images)), uniforms)
        self.optimiser.param_groups[0]["lr"] = annealed(settings.rate, done)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss, inputs=[self.images])
        self.optimiser.step()
        return float(loss.detach())

    def snapshot(self) -> Snapshot:
        labels = np.eye(self.problem.class_count, dtype=np.float32)[self.problem.targets]
        return Snapshot(self.problem.normalise.restore(self.images.detach()).cpu().numpy().copy(), labels)

    def state(self) -> State:
        return {"iteration": self.iteration, "images": self.images.detach(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        with torch.no_grad():
            self.images.copy_(state["images"])
        self.optimiser.load_state_dict(state["optimiser"])


def matching_loss(
    problem: Problem,
    augmentation: Augmentation,
    weights: dict[str, torch.Tensor],
    sides: tuple[torch.Tensor, torch.Tensor],
    uniforms: np.ndarray,
) -> torch.Tensor:
    """Equation 6: squared distance between the classes' mean features, summed over features and classes.

    sides: real and distilled pixels, each float32 [per class * k, c, h, w] with class 0 first.
    uniforms: float32 [k, augmentation.width]: one augmentation per class, shared by both sides.
    """
    means = []
    for pixels in sides:
        rows = torch.from_numpy(uniforms).to(pixels.device).repeat_interleave(len(pixels) // problem.class_count, dim=0)
        with torch.set_grad_enabled(pixels.requires_grad):
            features = problem.features(weights, augment(pixels, rows, augmentation))
        means.append(features.reshape(problem.class_count, -1, features.shape[1]).mean(dim=1))
    return ((means[0] - means[1]) ** 2).sum()
