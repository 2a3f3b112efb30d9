"""Layers that torch differentiates once, in a form that it differentiates twice.

Several methods of distillation take the gradient of a gradient.  Programs for the device are compiled from the plain
layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fieldkit.hq.models.replacing import replaced


class HardSigmoid(nn.Module):
    """What ``nn.Hardsigmoid`` does: relu6(x + 3) / 6, value by value."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.relu6(values + 3.0) / 6.0


def twice_differentiable(module: nn.Module) -> nn.Module:
    """``module`` itself, with such layers replaced; parameters are the same."""
    return replaced(module, lambda layer: HardSigmoid() if isinstance(layer, nn.Hardsigmoid) else None)
