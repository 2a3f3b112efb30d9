"""The device's training step in torch, as a differentiable function: SGD with momentum on soft labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.field.augmentation import draw
from fieldkit.field.training import minibatch
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.problem import Problem, Snapshot, Weights


@dataclass(frozen=True)
class Training:
    """A network in training: its seed, weights, momentum buffers, and how many of its steps it has made."""

    seed: int
    weights: Weights
    momentum: Weights
    step: int = 0

    @classmethod
    def begin(cls, problem: Problem, seed: int) -> Training:
        """Before the first step, as a device with this training seed begins."""
        weights = problem.fresh_model(seed)
        return cls(seed, weights, {name: torch.zeros_like(value) for name, value in weights.items()})

    def detached(self) -> Training:
        """The same state without its history, ready to take gradients."""
        weights = {name: value.detach().requires_grad_(True) for name, value in self.weights.items()}
        return replace(self, weights=weights, momentum={name: value.detach() for name, value in self.momentum.items()})


def descend(
    problem: Problem,
    training: Training,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    rate: torch.Tensor | float,
    *,
    differentiable: bool = False,
) -> Training:
    """One step, with the samples and the augmentation that a device with the training's seed takes at this step.

    pixels: the whole distilled set, normalised float32 [n, c, h, w].  labels: float32 [n, k], rows sum to 1.
    differentiable: keep the graph of the gradient, so that the new weights depend on pixels, labels and rate.
    """
    pixels, labels = _batch(problem, training, pixels, labels)
    loss = functional.cross_entropy(problem.logits(training.weights, pixels), labels)
    gradients = torch.autograd.grad(loss, list(training.weights.values()), create_graph=differentiable)
    weights: Weights = {}
    momentum: Weights = {}
    for (name, value), gradient in zip(training.weights.items(), gradients, strict=True):
        decayed = gradient + problem.weight_decay * value if problem.weight_decay else gradient
        momentum[name] = problem.momentum * training.momentum[name] + decayed
        weights[name] = value - rate * momentum[name]
    return replace(training, weights=weights, momentum=momentum, step=training.step + 1)


def _batch(
    problem: Problem, training: Training, pixels: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = problem.schedule.batch
    if len(pixels) > batch:
        positions = torch.from_numpy(minibatch(training.seed, training.step, len(pixels), batch)).to(pixels.device)
        pixels, labels = pixels[positions], labels[positions]
    width = problem.augmentation.width
    if width:
        # The device draws for its whole batch, of which a small set fills only the first rows.
        uniforms = draw(training.seed, training.step, (batch, width))[: len(pixels)]
        pixels = augment(pixels, torch.from_numpy(uniforms).to(pixels.device), problem.augmentation)
    return pixels, labels


def reference_weights(problem: Problem, snapshot: Snapshot, seed: int) -> Weights:
    """What a device would reach if it trained in torch, on pixels that were never rounded to the bundle's bits.

    The distance between its score and the field engine's is what rounding and arithmetic cost.
    """
    schedule = snapshot.schedule or problem.schedule
    pixels = problem.enlarged(problem.normalise(torch.from_numpy(snapshot.images).to(problem.device)))
    labels = torch.from_numpy(snapshot.labels).to(problem.device)
    training = Training.begin(problem, seed)
    for step in range(schedule.steps):
        training = descend(problem, training.detached(), pixels, labels, schedule.learning_rate(step))
    return training.detached().weights


def accuracy(problem: Problem, weights: Weights, images: np.ndarray, targets: np.ndarray, batch: int = 500) -> float:
    """Share of ``images`` (native counts [n, c, h, w]) that torch puts into the class of int64 [n] ``targets``."""
    right = 0
    with torch.no_grad():
        for first in range(0, len(images), batch):
            part = torch.from_numpy(images[first : first + batch]).to(problem.device)
            guesses = problem.logits(weights, problem.normalise(part)).argmax(dim=1).cpu().numpy()
            right += int((guesses == targets[first : first + batch]).sum())
    return right / len(images)
