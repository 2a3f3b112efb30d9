"""Layers that torch differentiates once, in a form that it differentiates twice.

Several methods of distillation take the gradient of a gradient.  Programs for the device are compiled from the plain
layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class HardSigmoid(nn.Module):
    """What ``nn.Hardsigmoid`` does: relu6(x + 3) / 6, value by value."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.relu6(values + 3.0) / 6.0


def twice_differentiable(module: nn.Module) -> nn.Module:
    """``module`` itself, with such layers replaced; parameters are the same."""
    for parent in module.modules():
        # One that stands in two places, which ``named_children`` tells once, is replaced in both.
        for name, child in [*parent._modules.items()]:
            if isinstance(child, nn.Hardsigmoid):
                setattr(parent, name, HardSigmoid())
    return module
