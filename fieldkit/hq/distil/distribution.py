"""Distribution matching (DM), and its improvements (IDM).

Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv 2110.04181, 2021), equation 6: the
distilled images of a class are moved until their mean feature equals that of real images of the class, under networks
with random weights and under the same random augmentation on both sides (equation 5, "siamese").

Zhao, Li, Qin & Yu, "Improved Distribution Matching for Dataset Condensation", CVPR 2023 (arXiv 2307.09742): networks
come from a ``queue`` of partly trained ones, into which a new one goes now and then (section 4.2), and a network's
cross-entropy on the distilled images, weighted by how often it is right, keeps classes apart (section 4.3, the setting
``regularisation``).  The third improvement, several smaller images in the place of one, is the problem's ``formation``.

Differs in that all classes go through the network in one batch, that Adam moves the images where the authors use SGD,
and that the shared augmentation is one affine warp with brightness, contrast and cutout (fieldkit.hq.augmentation),
drawn anew for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.distil.distilled import DistilledSet, matching
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights
from fieldkit.hq.distil.queue import Queue
from fieldkit.hq.distil.siamese import SIAMESE, Share, augmented, features, nothing, own_share, real_features

WITNESSES = 128


@dataclass(frozen=True)
class Settings:
    """per_class: real images of each class in an iteration.  rate: Adam's step size, in normalised pixels.

    augmentation: the siamese augmentation's strengths.
    queue: partly trained networks at most (IDM); None compares under a new, untrained one each time (DM).
    interval: iterations after which the queue takes in a new network.
    lesson: steps of training, on real images, that one network of the queue makes in an iteration.
    regularisation: weight of cross-entropy under a network of the queue.
    """

    per_class: int = 128
    rate: float = 0.02
    augmentation: Augmentation = SIAMESE
    queue: int | None = None
    interval: int = 30
    lesson: int = 10
    regularisation: float = 0.0

    def __post_init__(self) -> None:
        if self.regularisation and self.queue is None:
            raise UsageError(
                "an untrained network cannot tell classes apart",
                where="distribution regularisation",
                found=self.regularisation,
                expected="0 without a queue",
                remedy="set a queue of networks too",
            )


class DistributionMatching:
    """Distilled images start as real samples; their labels are hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.distilled = DistilledSet(problem, problem.rng(0), matching(settings.rate))
        self.queue = None if settings.queue is None else Queue(problem, settings.queue, settings.lesson)

    def step(self, done: float) -> float:
        """Move the images towards the real features under one network."""
        problem, settings = self.problem, self.settings
        self.iteration += 1
        rng = problem.rng(self.iteration)
        weights = self._network(rng)
        share = own_share(problem, self.distilled, settings.per_class, settings.augmentation, rng)
        loss = matched(problem, self.distilled, settings.augmentation, weights, share)
        if share is not None and settings.regularisation:
            witnesses = rng.integers(len(problem.real), size=WITNESSES)
            own = augmented(share.pixels, share.uniforms, settings.augmentation)
            loss = loss + settings.regularisation * misplaced(problem, weights, own, (share.classes, witnesses))
        self.distilled.move(loss, done)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()

    def state(self) -> State:
        queue = {} if self.queue is None else self.queue.state()
        return {"iteration": self.iteration, "distilled": self.distilled.state(), "queue": queue}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.distilled.restore(state["distilled"])
        if self.queue is not None:
            self.queue.restore(state["queue"])

    def _network(self, rng: np.random.Generator) -> Weights:
        """Whose features are compared: a new network's, or those of one in the queue, which then learns on."""
        if self.queue is None:
            return self.problem.fresh_model(int(rng.integers(1 << 62)))
        if self.iteration % self.settings.interval == 0:
            self.queue.push()
        weights = self.queue.weights(rng)
        self.queue.learn(rng)
        return weights


def matched(
    problem: Problem,
    distilled: DistilledSet,
    augmentation: Augmentation,
    weights: Weights,
    share: Share | None,
) -> torch.Tensor:
    """The matching loss of a worker's share; without one, 0 with a gradient of 0."""
    if share is None:
        return nothing(distilled.pixels)
    return matching_loss(problem, augmentation, weights, (share.positions, share.pixels), share.uniforms)


def matching_loss(
    problem: Problem,
    augmentation: Augmentation,
    weights: Weights,
    sides: tuple[np.ndarray, torch.Tensor],
    uniforms: np.ndarray,
) -> torch.Tensor:
    """Equation 6: squared distance between the classes' mean features, summed over features and classes.

    sides: positions of real images and distilled pixels float32 [n * k, c, h, w], both class by class, of k classes.
    uniforms: float32 [k, augmentation.width]: one augmentation for each of these classes, shared by both sides.
    """
    positions, pixels = sides
    real = real_features(problem, weights, positions, uniforms, augmentation)
    distilled = features(problem, weights, augmented(pixels, uniforms, augmentation), len(uniforms))
    return ((real.mean(dim=1) - distilled.mean(dim=1)) ** 2).sum()


def misplaced(
    problem: Problem, weights: Weights, pixels: torch.Tensor, known: tuple[list[int], np.ndarray]
) -> torch.Tensor:
    """Cross-entropy on the distilled images of some classes, summed over these, times the network's own accuracy.

    pixels: float32 [n * k, c, h, w], class by class.  known: their k classes, and positions of the real images, of any
    class, that the accuracy is measured on.
    """
    classes, witnesses = known
    targets = torch.tensor(classes, device=pixels.device).repeat_interleave(len(pixels) // len(classes))
    right = problem.answers(weights, problem.pixels(witnesses)).argmax(dim=1) == problem.classes(witnesses)
    with problem.in_use():
        logits = problem.logits(weights, pixels)
    return functional.cross_entropy(logits, targets) * (len(classes) * right.float().mean())
