"""A multi-layer perceptron on all pixels: hidden layers of one width, then one linear layer.

Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 1986.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from fieldkit.hq.models.options import check_kind, check_whole

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class MlpOptions:
    """Size and kind of an MLP.

    depth: number of hidden layers.  width: values of each.
    norm: of each hidden layer before its activation: "none", "layer" (Ba et al. 2016) or "batch".
    activation: "relu", "gelu" or "tanh".
    """

    depth: int = 2
    width: int = 256
    norm: str = "none"
    activation: str = "relu"

    def __post_init__(self) -> None:
        check_whole("mlp depth", self.depth)
        check_whole("mlp width", self.width)
        check_kind("mlp norm", self.norm, tuple(NORMS))
        check_kind("mlp activation", self.activation, tuple(ACTIVATIONS))


class Block(nn.Module):
    """Linear layer, normalisation, activation: float32 [n, f] -> [n, width]."""

    def __init__(self, size: int, options: MlpOptions) -> None:
        super().__init__()
        self.linear = nn.Linear(size, options.width)
        self.norm = NORMS[options.norm](options.width)
        self.activation = ACTIVATIONS[options.activation]()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.activation(self.norm(self.linear(values))))


class Mlp(nn.Module):
    """Logits float32 [n, k] of normalised images float32 [n, c, h, w]."""

    def __init__(self, options: MlpOptions, input_shape: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        sizes = [math.prod(input_shape), *([options.width] * (options.depth - 1))]
        self.blocks = nn.Sequential(*(Block(size, options) for size in sizes))
        self.head = nn.Linear(options.width, class_count)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: float32 [n, width]."""
        return cast(torch.Tensor, self.blocks(images.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images)))
