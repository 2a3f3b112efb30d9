"""Networks trained on the real data: teachers of soft labels, and the trajectories that a method follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import Diverged
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, State, Weights
from fieldkit.hq.models.laws import carried_buffers


@dataclass(frozen=True)
class Lessons:
    """How an expert is trained: SGD with momentum on minibatches augmented as the recipe's are.

    epochs: passes over the real images, or over ``most`` of them, which are drawn anew for each.  batch: images in a
    step.  rate: the highest learning rate, which falls along a half cosine if ``falling``.
    """

    epochs: int = 20
    batch: int = 128
    rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    falling: bool = True
    most: int | None = None

    def images(self, count: int) -> int:
        """Images in an epoch, where there are ``count`` real ones."""
        return count if self.most is None else min(count, self.most)

    def schedule(self, count: int) -> Schedule:
        """The learning rates of lessons on ``count`` real images."""
        steps = self.epochs * -(-self.images(count) // self.batch)
        if not self.falling:
            return Schedule(steps, self.batch, "constant", self.rate)
        return Schedule(steps, self.batch, "cosine", self.rate, warmup=steps // 20)


class Expert:
    """A network at its lessons, one epoch at a time.

    The same problem, lessons and seed give the same weights on the same machine, however often its lessons stop.
    """

    def __init__(self, problem: Problem, lessons: Lessons, seed: int) -> None:
        self.problem = problem
        self.lessons = lessons
        self.seed = seed
        self.epoch = 0
        self._schedule = lessons.schedule(len(problem.real))
        self._weights = problem.fresh_model(int(self._rng(0).integers(1 << 62)))
        self._trained = [each.requires_grad_(True) for each in self._weights.values()]
        for each in carried_buffers(problem.module):
            self._weights[each.name] = torch.full(each.shape, each.law[1], device=problem.device)
        self._optimiser = torch.optim.SGD(
            self._trained, lr=lessons.rate, momentum=lessons.momentum, weight_decay=lessons.weight_decay
        )

    def learn(self) -> None:
        """One epoch.  Raises Diverged if the weights are no numbers after it."""
        rng, lessons = self._rng(1 + self.epoch), self.lessons
        order = rng.permutation(len(self.problem.real))[: lessons.images(len(self.problem.real))]
        batches = [order[start : start + lessons.batch] for start in range(0, len(order), lessons.batch)]
        for index, positions in enumerate(batches):
            rate = self._schedule.learning_rate(self.epoch * len(batches) + index)
            self._optimiser.param_groups[0]["lr"] = rate
            self._optimiser.zero_grad()
            torch.autograd.backward(self._loss(positions, rng), inputs=self._trained)
            self._optimiser.step()
        self.epoch += 1
        if not all(bool(torch.isfinite(each).all()) for each in self._trained):
            raise Diverged(
                "training on the real images diverged",
                where=f"expert {self.seed}",
                found=f"weights that are no numbers after epoch {self.epoch}",
                remedy="choose a smaller learning rate for the experts",
            )

    def weights(self) -> Weights:
        """A copy of what it has learnt, and the running statistics of its batch normalisation."""
        return {name: each.detach().clone() for name, each in self._weights.items()}

    def state(self) -> State:
        """All that ``restore`` needs to go on."""
        return {"epoch": self.epoch, "weights": self.weights(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: State) -> None:
        """Go on from a state that ``state`` gave."""
        self.epoch = state["epoch"]
        with torch.no_grad():
            for name, each in self._weights.items():
                each.copy_(state["weights"][name])
        self._optimiser.load_state_dict(state["optimiser"])

    def _rng(self, part: int) -> np.random.Generator:
        """Of the first weights (0) or of an epoch (from 1): it depends on nothing that came before."""
        return np.random.default_rng([self.problem.seed, 2, self.seed, part])

    def _loss(self, positions: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        problem = self.problem
        uniforms = rng.random((len(positions), problem.augmentation.width), dtype=np.float32)
        pixels = problem.pixels(positions)
        pixels = augment(pixels, torch.from_numpy(uniforms).to(pixels.device), problem.augmentation)
        return functional.cross_entropy(problem.logits(self._weights, pixels), problem.classes(positions))


def train_expert(
    problem: Problem,
    lessons: Lessons,
    seed: int,
    keep: Callable[[int, Weights], None] = lambda epoch, weights: None,
) -> Weights:
    """A network's weights after its lessons; ``keep`` is given those before the first epoch (0) and after each.

    Beside what is trained they hold the running statistics of batch normalisation (``Problem.answers`` reads them).
    Raises Diverged if the training does.
    """
    expert = Expert(problem, lessons, seed)
    keep(0, expert.weights())
    while expert.epoch < lessons.epochs:
        expert.learn()
        keep(expert.epoch, expert.weights())
    return expert.weights()
