"""2x2 average pooling for the networks that HQ itself trains and looks through on a CPU.

torch's CPU kernel for contiguous images goes pixel by pixel: of the features of a ConvNet-3 of width 128 it takes a
fifth of the time.  Sums of shifted rows and columns use the processor's vectors (20x128x28x28, 2 threads: 3.2 ms and
0.3 ms).  Programs for the device are compiled from the plain layer.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from fieldkit.hq.models.replacing import replaced


class HalvingMean(nn.Module):
    """What ``nn.AvgPool2d(2)`` does: float32 [n, c, h, w] -> [n, c, h // 2, w // 2]; differentiable to any order."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _applied(_Halve, images)


class _Halve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images: torch.Tensor) -> torch.Tensor:
        height, width = (size // 2 * 2 for size in images.shape[2:])
        rows = images[:, :, 0:height:2] + images[:, :, 1:height:2]
        return (rows[..., 0:width:2] + rows[..., 1:width:2]) * 0.25

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.size = inputs[0].shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _applied(_Spread, gradient, *ctx.size)


class _Spread(torch.autograd.Function):
    """The transpose of _Halve: a quarter of each pixel to each of its four, 0 to a row or column left over."""

    generate_vmap_rule = True

    @staticmethod
    def forward(halves: torch.Tensor, height: int, width: int) -> torch.Tensor:
        quarters = halves * 0.25
        spread = halves.new_zeros(*halves.shape[:2], height, width)
        for row in (0, 1):
            for column in (0, 1):
                spread[:, :, row : height // 2 * 2 : 2, column : width // 2 * 2 : 2] = quarters
        return spread

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        del ctx
        return _applied(_Halve, gradient), None, None


def _applied(function: Any, *inputs: Any) -> torch.Tensor:
    return cast(torch.Tensor, function.apply(*inputs))


def quickened(module: nn.Module) -> nn.Module:
    """``module`` itself, each of its plain 2x2 average poolings replaced by a HalvingMean; parameters are the same."""
    return replaced(module, lambda layer: HalvingMean() if _halves(layer) else None)


def _halves(pool: nn.Module) -> bool:
    if not isinstance(pool, nn.AvgPool2d):
        return False
    both = {pool.kernel_size, pool.stride}
    return both <= {2, (2, 2)} and pool.padding in (0, (0, 0)) and not pool.ceil_mode and not pool.divisor_override
