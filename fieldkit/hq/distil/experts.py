"""Networks trained on the real data: teachers of soft labels, and the trajectories that a method follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Schedule
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, Weights
from fieldkit.hq.models.laws import carried_buffers


@dataclass(frozen=True)
class Lessons:
    """How an expert is trained: SGD with momentum on minibatches augmented as the recipe's are.

    epochs: passes over the real images.  batch: images in a step.  rate: the highest learning rate, which falls along a
    half cosine if ``falling``.
    """

    epochs: int = 20
    batch: int = 128
    rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    falling: bool = True

    def schedule(self, count: int) -> Schedule:
        """The learning rates of lessons on ``count`` real images."""
        steps = self.epochs * -(-count // self.batch)
        if not self.falling:
            return Schedule(steps, self.batch, "constant", self.rate)
        return Schedule(steps, self.batch, "cosine", self.rate, warmup=steps // 20)


def train_expert(
    problem: Problem,
    lessons: Lessons,
    seed: int,
    keep: Callable[[int, Weights], None] = lambda epoch, weights: None,
) -> Weights:
    """A network's weights after its lessons; ``keep`` is given those before the first epoch (0) and after each.

    Beside what is trained they hold the running statistics of batch normalisation (``Problem.answers`` reads them).

    The same problem, lessons and seed give the same weights on the same machine.
    """
    rng = np.random.default_rng([problem.seed, 2, seed])
    weights = problem.fresh_model(int(rng.integers(1 << 62)))
    moved = [each.requires_grad_(True) for each in weights.values()]
    for each in carried_buffers(problem.module):
        weights[each.name] = torch.full(each.shape, each.law[1], device=problem.device)
    decay = lessons.weight_decay
    optimiser = torch.optim.SGD(moved, lr=lessons.rate, momentum=lessons.momentum, weight_decay=decay)
    count, step = len(problem.real), 0
    schedule = lessons.schedule(count)
    keep(0, _detached(weights))
    for epoch in range(lessons.epochs):
        order = rng.permutation(count)
        for positions in (order[start : start + lessons.batch] for start in range(0, count, lessons.batch)):
            pixels = problem.pixels(positions)
            uniforms = rng.random((len(positions), problem.augmentation.width), dtype=np.float32)
            pixels = augment(pixels, torch.from_numpy(uniforms).to(pixels.device), problem.augmentation)
            loss = functional.cross_entropy(problem.logits(weights, pixels), problem.classes(positions))
            optimiser.param_groups[0]["lr"] = schedule.learning_rate(step)
            optimiser.zero_grad()
            torch.autograd.backward(loss, inputs=moved)
            optimiser.step()
            step += 1
        keep(epoch + 1, _detached(weights))
    return _detached(weights)


def _detached(weights: Weights) -> Weights:
    return {name: each.detach().clone() for name, each in weights.items()}
