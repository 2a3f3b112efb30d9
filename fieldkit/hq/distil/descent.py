"""The device's training step in torch, as a differentiable function: the problem's optimiser on soft labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.field.engine.augmentation import draw
from fieldkit.field.engine.training import minibatch
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.inner import Slot, moved
from fieldkit.hq.distil.problem import Problem, State, Weights


@dataclass(frozen=True)
class Training:
    """A network in training.

    seed: as a device's training has it.  weights: by parameter name.  states: what the problem's optimiser carries, by
    "state.parameter" as in the train programs.  step: how many steps were made.
    """

    seed: int
    weights: Weights
    states: Weights
    step: int = 0

    @classmethod
    def begin(cls, problem: Problem, seed: int) -> Training:
        """Before the first step, as a device with this training seed begins."""
        weights = problem.fresh_model(seed)
        states = problem.optimiser.states
        zeros = {f"{state}.{name}": torch.zeros_like(value) for name, value in weights.items() for state in states}
        return cls(seed, weights, zeros)

    @classmethod
    def restored(cls, state: State, device: str) -> Training:
        """What ``state`` gave, on this device."""
        tensors = ("weights", "states")
        return cls(**state | {kind: {name: each.to(device) for name, each in state[kind].items()} for kind in tensors})

    def state(self) -> State:
        return vars(self.detached())

    def detached(self) -> Training:
        """The same state without its history, ready to take gradients."""
        weights = {name: value.detach().requires_grad_(True) for name, value in self.weights.items()}
        return replace(self, weights=weights, states={name: value.detach() for name, value in self.states.items()})


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
    states: Weights = {}
    for (name, value), gradient in zip(training.weights.items(), gradients, strict=True):
        own = {state: training.states[f"{state}.{name}"] for state in problem.optimiser.states}
        weights[name], new = moved(problem.optimiser, Slot(value, gradient, own), rate, training.step)
        states |= {f"{state}.{name}": each for state, each in new.items()}
    return replace(training, weights=weights, states=states, step=training.step + 1)


def real_loss(problem: Problem, weights: Weights, positions: np.ndarray, whole: int) -> torch.Tensor:
    """This worker's part of a network's mean cross-entropy on ``whole`` real images, those at ``positions`` its own."""
    logits = problem.logits(weights, problem.pixels(positions))
    if not len(positions):
        # The mean of nothing is no number; the sum of no logits is 0, and has a gradient.
        return logits.sum()
    return functional.cross_entropy(logits, problem.classes(positions)) * (len(positions) / whole)


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
