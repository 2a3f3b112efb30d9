"""A student that trains on the distilled images by plain SGD, and how what it becomes depends on them.

Used by trajectory matching (trajectory.py), where the literature stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, Weights


@dataclass(frozen=True)
class Lesson:
    """A step of the student: which distilled images it sees, int64 [b], and how they are augmented, float32 [b, a]."""

    positions: torch.Tensor
    uniforms: torch.Tensor


def lessons(problem: Problem, count: int, steps: int, batch: int, seed: int) -> Iterator[Lesson]:
    """Batches without repeats until all ``count`` distilled images were seen, then anew."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    size = min(batch, count)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(count)
        uniforms = torch.from_numpy(rng.random((size, problem.augmentation.width), dtype=np.float32))
        yield Lesson(torch.from_numpy(order[:size]).to(problem.device), uniforms.to(problem.device))
        order = order[size:]


@dataclass(frozen=True)
class Slope:
    """A student's loss, and its gradients: of the distilled pixels, of their labels, and of the student's rate."""

    loss: torch.Tensor
    pixels: torch.Tensor
    labels: torch.Tensor
    rate: torch.Tensor


@dataclass(frozen=True)
class Student:
    """A training on the distilled set by plain SGD: weights -> weights - rate * gradient, one lesson after the other.

    pixels: normalised float32 [n, c, h, w].  labels: float32 [n, k].  rate: float32 [].
    """

    problem: Problem
    pixels: torch.Tensor
    labels: torch.Tensor
    rate: torch.Tensor
    lessons: tuple[Lesson, ...]

    def gradient(
        self, weights: Mapping[str, torch.Tensor], lesson: Lesson, *, differentiable: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The gradients of a lesson's loss in the order of ``weights``, which must require them."""
        pixels = augment(self.pixels[lesson.positions], lesson.uniforms, self.problem.augmentation)
        loss = functional.cross_entropy(self.problem.logits(weights, pixels), self.labels[lesson.positions])
        return torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable)

    def path(self, start: Weights) -> Iterator[Weights]:
        """The weights before each lesson, and after the last: leaves without a history."""
        weights = _leaves(start)
        yield weights
        for lesson in self.lessons:
            gradients = self.gradient(weights, lesson)
            steps = zip(weights.items(), gradients, strict=True)
            weights = _leaves({name: value.detach() - self.rate * gradient for (name, value), gradient in steps})
            yield weights


def slope(student: Student, start: Weights, target: Weights, *, exact: bool) -> Slope:
    """The loss |end - target|^2 / |start - target|^2 of a student, and its gradients, with the graph of one step.

    end = start - rate * sum of gradients, so that a step's share of the loss's gradient is that of
    -rate * <gradient(weights, pixels, labels), force>, the force being the loss's gradient in the weights after it.
    TESLA's force is that at the end throughout.  The exact one goes from the last step to the first and gathers how
    later gradients depend on earlier weights; for that, the weights before all steps are kept.
    """
    far = _apart(start, target)
    if exact:
        *passed, end = student.path(start)
        visits: Iterable[tuple[Weights, Lesson]] = reversed(list(zip(passed, student.lessons, strict=True)))
    else:
        (end,) = deque(student.path(start), maxlen=1)
        visits = zip(student.path(start), student.lessons, strict=False)
    force = [2.0 * (end[name].detach() - target[name]) / far for name in target]
    return Slope(_apart(end, target) / far, *_gathered(student, visits, force, exact=exact))


def _gathered(
    student: Student, visits: Iterable[tuple[Weights, Lesson]], force: list[torch.Tensor], *, exact: bool
) -> list[torch.Tensor]:
    """The sum of all steps' shares: gradients of pixels, labels and rate."""
    inputs = [each.clone().requires_grad_(True) for each in (student.pixels, student.labels, student.rate)]
    again = replace(student, pixels=inputs[0], labels=inputs[1], rate=inputs[2])
    found = [torch.zeros_like(each) for each in inputs]
    for weights, lesson in visits:
        gradients = again.gradient(weights, lesson, differentiable=True)
        products = [(gradient * each).sum() for gradient, each in zip(gradients, force, strict=True)]
        share = -again.rate * torch.stack(products).sum()
        wanted = [*inputs, *(weights.values() if exact else ())]
        parts = torch.autograd.grad(share, wanted, materialize_grads=True)
        for total, part in zip(found, parts, strict=False):
            total += part
        if exact:
            force = [each + part for each, part in zip(force, parts[len(inputs) :], strict=True)]
    return found


def _apart(weights: Weights, target: Weights) -> torch.Tensor:
    """The squared distance of two networks."""
    return torch.stack([((weights[name].detach() - target[name]) ** 2).sum() for name in target]).sum()


def _leaves(weights: Weights) -> Weights:
    return {name: value.detach().requires_grad_(True) for name, value in weights.items()}
