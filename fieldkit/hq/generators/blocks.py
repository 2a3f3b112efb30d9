"""The residual block that autoencoder and flow are made of."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional

GROUPS = 4


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: float32 [n, width, h, w] -> the same shape.

    condition: the length of a vector [n, condition] that scales and shifts between the two (FiLM: Perez et al.,
    AAAI 2018, arXiv 1709.07871); 0 for none.
    """

    def __init__(self, width: int, condition: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.film = nn.Linear(condition, 2 * width) if condition else None

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        inner = self.norm(self.first(x))
        if self.film is not None:
            scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
            inner = inner * (1.0 + scale) + shift
        return cast(torch.Tensor, x + self.second(functional.silu(inner)))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of 0, so that what it adds begins with nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
