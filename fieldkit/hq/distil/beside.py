"""Sets for learning task after task: made beside those of earlier tasks, with which a device will learn them.

Ridge regression on the features of networks in training (ridge.py; FRePo, arXiv 2206.00719), with three changes.  The
networks train on the new set and the earlier ones together; the regression is fitted to both; and it is judged on real
images of the task and, since no real ones of earlier tasks are at hand, on augmented images of their sets.  Nothing is
known of later tasks, so the new images' mean features are kept close to those of real ones under random networks as
well (distribution.py; DM, arXiv 2110.04181), for any classes to come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.errors import UsageError
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.descent import descend
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.distribution import matched
from fieldkit.hq.distil.pool import Pool, Pooled
from fieldkit.hq.distil.problem import Problem, Snapshot, Weights
from fieldkit.hq.distil.ridge import regression_loss
from fieldkit.hq.distil.siamese import SIAMESE, nothing, own_share


@dataclass(frozen=True)
class Settings:
    """How to regress, and how much to match.

    pool: networks kept in training.  real: real images of the task, and recalled: augmented images of earlier sets,
    that score a regression.  matched: real images of each class whose mean feature is matched; matching: the weight of
    that.  The others are those of ``ridge``.
    """

    pool: int = 10
    real: int = 256
    recalled: int = 128
    matched: int = 64
    matching: float = 0.1
    rate: float = 0.03
    label_rate: float = 0.02
    ridge: float = 1e-5
    sharpness: float = 3.0
    contrast: float = 0.1

    def __post_init__(self) -> None:
        if self.ridge <= 0:
            raise UsageError("too small", where="beside ridge", found=self.ridge, expected="more than 0")


class Beside(Pooled):
    """Images of the task's own classes; without earlier sets they are those of a first task."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.settings = settings
        earlier, rng = problem.earlier, problem.rng(0)
        self.known = 0 if earlier is None else earlier.class_count
        # The problem of all classes: its networks answer for the earlier ones too, which come first.
        self.union = problem
        if earlier is not None:
            self.union = replace(problem, module=earlier.module, class_count=self.known + problem.class_count)
        moves = Moves(
            start="centres",
            contrast=settings.contrast,
            rate=settings.rate,
            label_rate=settings.label_rate,
            sharpness=settings.sharpness,
        )
        distilled = DistilledSet(problem, rng, moves)
        super().__init__(problem, distilled, Pool(self.union, settings.pool, rng))

    def step(self, done: float) -> float:
        """Regress on the features of one network, move what is distilled, and let the network train one step on."""
        problem = self.problem
        rng, slot, training = self.turn()
        weights = {name: value.detach() for name, value in training.weights.items()}
        judges = self._judges(rng)
        pixels, labels = self._together()
        loss = self._regression(weights, (pixels, labels), judges) + self._matching(rng)
        self.distilled.move(loss, done)
        pixels, labels = self._together()
        rate = problem.schedule.learning_rate(training.step)
        gone = descend(self.union, training.detached(), pixels.detach(), labels.detach(), rate)
        self.pool.put(slot, gone, rng)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        """The task's own images, with labels over its own classes."""
        return self.distilled.snapshot()

    def _together(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The set and the earlier ones: pixels float32 [n, c, h, w], and labels over all classes float32 [n, k]."""
        pixels, labels = self.distilled.seen(), functional.pad(self.distilled.labels(), (self.known, 0))
        earlier = self.problem.earlier
        if earlier is None:
            return pixels, labels
        old = functional.pad(earlier.labels, (0, self.problem.class_count))
        return torch.cat([pixels, earlier.pixels]), torch.cat([labels, old])

    def _judges(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """This worker's part of what scores a regression: pixels, and int64 classes among all; maybe none."""
        problem, workers = self.problem, self.problem.workers
        positions = workers.mine(rng.integers(len(problem.real), size=self.settings.real))
        pixels, classes = problem.pixels(positions), problem.classes(positions) + self.known
        if problem.earlier is None:
            return pixels, classes
        old, count = problem.earlier, self.settings.recalled
        chosen = torch.from_numpy(workers.mine(rng.integers(len(old.pixels), size=count))).to(problem.device)
        uniforms = workers.mine(rng.random((count, problem.augmentation.width), dtype=np.float32))
        changed = augment(old.pixels[chosen], torch.from_numpy(uniforms).to(problem.device), problem.augmentation)
        return torch.cat([pixels, changed]), torch.cat([classes, old.labels[chosen].argmax(dim=1)])

    def _regression(
        self,
        weights: Weights,
        fitted: tuple[torch.Tensor, torch.Tensor],
        judges: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """This worker's part of the mean loss of a regression that is fitted to all sets."""
        pixels, labels = fitted
        judging, classes = judges
        if not len(judging):
            return nothing(self.distilled.pixels)
        with torch.no_grad():
            found = self.union.features(weights, judging)
        whole = self.settings.real + (self.settings.recalled if self.known else 0)
        sides = (self.union.features(weights, pixels), labels), (found, classes)
        return regression_loss(*sides, ridge=self.settings.ridge) * (len(judging) / whole)

    def _matching(self, rng: np.random.Generator) -> torch.Tensor:
        """This worker's part of the distance between mean features under a new, untrained network, as it weighs."""
        fresh = self.problem.fresh_model(int(rng.integers(1 << 62)))
        share = own_share(self.problem, self.distilled, self.settings.matched, SIAMESE, rng)
        return self.settings.matching * matched(self.problem, self.distilled, SIAMESE, fresh, share)
