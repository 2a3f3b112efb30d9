"""A distillation for learning task after task: the sets of two tasks, made one after the other, are learnt together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.descent import descend
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.distribution import matching_loss
from fieldkit.hq.distil.pool import Pool
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.distil.ridge import regression_loss
from fieldkit.hq.distil.siamese import SIAMESE

# Networks in training; real images of the task, and augmented images of earlier sets, that score a regression; real
# ones of a class whose mean features are matched, and the weight of that.
POOL, SCORED, RECALLED, MATCHED, MATCHING = 10, 256, 128, 64, 0.1
RIDGE = 1e-5


@dataclass(frozen=True)
class Earlier:
    """The distilled sets of earlier tasks, of k classes: normalised pixels float32 [n, c, h, w], labels [n, k]."""

    pixels: torch.Tensor
    labels: torch.Tensor


class Beside:
    """Images of a task's classes that are made to be learnt together with those of earlier tasks.

    Ridge regression on the features of networks in training (``fieldkit.hq.distil.ridge``): the networks train on the
    new images and the earlier sets together, the regression is fitted to both, and judged on real images of the task
    and on augmented ones of the earlier sets.  Since nothing is known of later tasks, the new images' mean features are
    kept close to those of real ones under random networks as well (``distribution``), for any classes to come.

    problem: of the task's own classes; its network has outputs for the earlier ones too, which come first.
    """

    def __init__(self, problem: Problem, earlier: Earlier) -> None:
        self.problem = problem
        self.earlier = earlier
        self.known = earlier.labels.shape[1]
        # The problem of all classes: its network answers for the earlier ones too.
        self.union = replace(problem, class_count=self.known + problem.class_count)
        self.old_labels = functional.pad(earlier.labels, (0, problem.class_count))
        rng = problem.rng(0)
        moves = Moves(start="centres", contrast=0.1, rate=0.03, label_rate=0.02, sharpness=3.0)
        self.distilled = DistilledSet(problem, rng, moves)
        self.pool = Pool(self.union, POOL, rng)
        self.iteration = 0

    def step(self, done: float) -> float:
        """Move the task's images and labels, and let one network train on; ``done``: the share of the time, 0-1."""
        self.iteration += 1
        problem, rng = self.problem, self.problem.rng(self.iteration)
        slot = self.iteration % POOL
        training = self.pool.trainings[slot]
        weights = {name: value.detach() for name, value in training.weights.items()}
        seen, own = self.distilled.seen(), self.distilled.labels()
        pixels = torch.cat([seen, self.earlier.pixels])
        labels = torch.cat([functional.pad(own, (self.known, 0)), self.old_labels])
        with torch.no_grad():
            judges, classes = self._judges(rng)
            found = problem.features(weights, judges)
        loss = regression_loss((problem.features(weights, pixels), labels), (found, classes), ridge=RIDGE)
        loss = loss + MATCHING * self._distance(seen, rng)
        self.distilled.move(loss, done)
        rate = problem.schedule.learning_rate(training.step)
        self.pool.put(slot, descend(self.union, training.detached(), pixels.detach(), labels.detach(), rate), rng)
        return float(loss)

    def snapshot(self) -> Snapshot:
        """The task's images, and labels over its own classes."""
        return self.distilled.snapshot()

    def _distance(self, seen: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        problem = self.problem
        uniforms = rng.random((problem.class_count, SIAMESE.width), dtype=np.float32)
        fresh = problem.fresh_model(int(rng.integers(1 << 62)))
        return matching_loss(problem, SIAMESE, fresh, (problem.pick(MATCHED, rng), seen), uniforms)

    def _judges(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Real images of the task, and augmented images of earlier sets: pixels and classes among all outputs."""
        problem = self.problem
        positions = rng.integers(len(problem.real), size=SCORED)
        pixels, classes = problem.pixels(positions), problem.classes(positions) + self.known
        if not self.known:
            return pixels, classes
        chosen = torch.from_numpy(rng.integers(len(self.earlier.pixels), size=RECALLED))
        uniforms = torch.from_numpy(rng.random((RECALLED, problem.augmentation.width), dtype=np.float32))
        old = augment(self.earlier.pixels[chosen], uniforms, problem.augmentation)
        return torch.cat([pixels, old]), torch.cat([classes, self.earlier.labels[chosen].argmax(dim=1)])
