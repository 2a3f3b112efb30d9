"""The device's optimisers once more, as functions that gradients flow through.

The settings are those of fieldkit.hq.compiler.optimisers, which also write the same updates into the train programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fieldkit.errors import UsageError
from fieldkit.hq.compiler.optimisers import AdamW, Optimiser, Sgd

Moved = tuple[torch.Tensor, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Slot:
    """One parameter before a step: its value, its gradient and its states, by the optimiser's own names."""

    value: torch.Tensor
    gradient: torch.Tensor
    states: Mapping[str, torch.Tensor]


def moved(optimiser: Optimiser, slot: Slot, rate: torch.Tensor | float, step: int) -> Moved:
    """The new value and the new states; differentiable in all that the slot holds and in ``rate``.

    step: counts from 0.  Raises UsageError for an optimiser that is neither Sgd nor AdamW.
    """
    match optimiser:
        case Sgd():
            return _sgd(optimiser, slot, rate)
        case AdamW():
            return _adamw(optimiser, slot, rate, step)
    raise UsageError(
        "no gradient flows through this optimiser", where="optimiser", found=optimiser, expected="sgd or adamw"
    )


def _sgd(optimiser: Sgd, slot: Slot, rate: torch.Tensor | float) -> Moved:
    value, direction, decay = slot.value, slot.gradient, optimiser.weight_decay
    if decay and not optimiser.decoupled:
        direction = direction + decay * value
    states: dict[str, torch.Tensor] = {}
    if optimiser.momentum:
        buffer = optimiser.momentum * slot.states["momentum"] + direction
        states["momentum"] = buffer
        direction = direction + optimiser.momentum * buffer if optimiser.nesterov else buffer
    if decay and optimiser.decoupled:
        value = value * (1.0 - rate * decay)
    return value - rate * direction, states


def _adamw(optimiser: AdamW, slot: Slot, rate: torch.Tensor | float, step: int) -> Moved:
    beta1, beta2, gradient = optimiser.beta1, optimiser.beta2, slot.gradient
    mean = beta1 * slot.states["mean"] + (1.0 - beta1) * gradient
    square = beta2 * slot.states["square"] + (1.0 - beta2) * gradient.square()
    # The root of 0 has no finite slope, and a parameter that nothing reaches has a square of 0.
    root = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt() / (1.0 - beta2 ** (step + 1)) ** 0.5
    change = mean / (root + optimiser.eps) * (rate / (1.0 - beta1 ** (step + 1)))
    value = slot.value * (1.0 - rate * optimiser.weight_decay) if optimiser.weight_decay else slot.value
    return value - change, {"mean": mean, "square": square}
