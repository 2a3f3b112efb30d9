"""Performance matching by kernel ridge regression on the features of networks in training.

Zhou, Nezhadarya & Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022 (FRePo, arXiv 2206.00719):
a network's last layer, fitted to the distilled features, has a closed form, so the loss on real images is
differentiable in the distilled images without unrolling anything (equation 2).  The features are those of a pool of
networks that train on the distilled set as it stands, each at another point of its training (algorithm 1); images and
labels are learnt.

Differs in that the networks train as a device will train, step for step (augmentation, minibatches, its optimiser,
the recipe's own schedule, to its end), while images enter the kernel unaugmented; that pixels pass the bundle's
rounding; and that Adam's step falls along a half cosine, where the authors use LAMB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional

from fieldkit.errors import UsageError
from fieldkit.hq.distil.descent import descend
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.pool import Pool, Pooled
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.distil.siamese import nothing


@dataclass(frozen=True)
class Settings:
    """How to regress.

    pool: networks kept in training.  real: real images that score a regression.
    rate: Adam's step size for normalised pixels; label_rate: for label logits.
    ridge: regularisation, as a share of the kernel's mean diagonal.
    sharpness: logit of an image's own class at the start.  contrast: standard deviation of the noise on first pixels.
    """

    pool: int = 10
    real: int = 512
    rate: float = 0.03
    label_rate: float = 0.02
    ridge: float = 1e-5
    sharpness: float = 3.0
    contrast: float = 0.1

    def __post_init__(self) -> None:
        if self.ridge <= 0:
            raise UsageError("too small", where="ridge ridge", found=self.ridge, expected="more than 0")


class Ridge(Pooled):
    """Images start as the classes' k-means centres with noise, so that no single real image is copied."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.settings = settings
        rng = problem.rng(0)
        moves = Moves(
            start="centres",
            contrast=settings.contrast,
            rate=settings.rate,
            label_rate=settings.label_rate,
            sharpness=settings.sharpness,
        )
        distilled = DistilledSet(problem, rng, moves)
        super().__init__(problem, distilled, Pool(problem, settings.pool, rng))

    def step(self, done: float) -> float:
        """Regress on the features of one network, move what is distilled, and let the network train one step on."""
        problem = self.problem
        rng, slot, training = self.turn()
        weights = {name: value.detach() for name, value in training.weights.items()}
        positions = problem.workers.mine(rng.integers(len(problem.real), size=self.settings.real))
        with torch.no_grad():
            real = problem.features(weights, problem.pixels(positions))
        features = problem.features(weights, self.distilled.seen())
        sides = (features, self.distilled.labels()), (real, problem.classes(positions))
        share = len(positions) / self.settings.real
        loss = regression_loss(*sides, ridge=self.settings.ridge) * share if share else nothing(self.distilled.pixels)
        self.distilled.move(loss, done)
        pixels, labels = self.distilled.seen().detach(), self.distilled.labels().detach()
        rate = problem.schedule.learning_rate(training.step)
        self.pool.put(slot, descend(problem, training.detached(), pixels, labels, rate), rng)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()


def regression_loss(
    distilled: tuple[torch.Tensor, torch.Tensor], real: tuple[torch.Tensor, torch.Tensor], *, ridge: float
) -> torch.Tensor:
    """Equation 2: half the squared error on real images of a ridge regression fitted to the distilled ones, averaged.

    distilled: features float32 [n, f] and soft labels float32 [n, k].  real: features [m, f] and int64 [m] classes.
    ridge: regularisation, as a share of the kernel's mean diagonal.
    """
    features, labels = distilled
    classes = labels.shape[1]
    kernel = features @ features.T
    weight = ridge * torch.diagonal(kernel).mean().detach()
    # Targets are centred: with k classes, a network that knows nothing answers 1/k.
    regularised = kernel + weight * torch.eye(len(kernel), device=kernel.device)
    # Features that are all 0, as of a network that died, have no solution: the loss is no number then, and no error.
    coefficients = torch.linalg.solve_ex(regularised, labels - 1.0 / classes).result
    answers = (real[0] @ features.T) @ coefficients
    wanted = functional.one_hot(real[1], classes).float() - 1.0 / classes
    return cast(torch.Tensor, 0.5 * ((answers - wanted) ** 2).sum(dim=1).mean())
