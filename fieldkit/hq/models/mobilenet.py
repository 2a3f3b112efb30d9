"""A MobileNet for small images: inverted residual blocks of depthwise separable convolutions with squeeze-excite.

Sandler et al., "MobileNetV2", CVPR 2018 (the block); Howard et al., "Searching for MobileNetV3", ICCV 2019 (squeeze-
excite with a hard sigmoid, hard-swish); Hu et al., "Squeeze-and-excitation networks", CVPR 2018.  Differs in fewer and
narrower stages, kernels of 3x3 throughout, one activation throughout, and group normalisation by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.models.norms import check_image_for_norm, check_norm, norm_layer
from fieldkit.hq.models.options import check_flag, check_kind, check_multiple, check_whole

ACTIVATIONS: dict[str, type[nn.Module]] = {"hardswish": nn.Hardswish, "silu": nn.SiLU}
# Of each block: how far it expands its input, its channels in eighths of the width, its stride.
BLOCKS = ((1, 8, 1), (4, 12, 2), (4, 12, 1), (4, 20, 2), (4, 20, 1), (4, 32, 2), (4, 32, 1))
EIGHTHS = 8
# The last convolution, before the mean over the image, has so many times the channels of the last block.
LAST_EXPANSION = 4
# Squeeze-excite passes through so many times fewer channels.
SQUEEZE = 4
# The blocks shrink an image so many times; from this many pixels on, the first convolution halves it as well.
SHRINKAGE = 8
LARGE = 48


@dataclass(frozen=True)
class MobileNetOptions:
    """Size and kind of a MobileNet.

    width: channels after the first convolution; the blocks have 1 to 4 times as many.
    stride: of the first convolution, 1 or 2; ``fitting`` has the one that suits an image.
    norm: "group" (four groups), "instance" (a group per channel) or "batch".
    activation: "hardswish" or "silu".
    squeeze: whether blocks weigh their channels by squeeze-excite.
    """

    width: int = 16
    stride: int = 1
    norm: str = "group"
    activation: str = "hardswish"
    squeeze: bool = True

    def __post_init__(self) -> None:
        check_whole("mobilenet width", self.width)
        check_multiple("mobilenet width", self.width, EIGHTHS, "a mobilenet")
        check_whole("mobilenet stride", self.stride)
        if self.stride > 2:
            raise UsageError("unknown stride", where="mobilenet stride", found=self.stride, expected="1 or 2")
        check_norm("mobilenet", self.norm, self.width)
        check_kind("mobilenet activation", self.activation, tuple(ACTIVATIONS))
        check_flag("mobilenet squeeze", self.squeeze)

    def check_image(self, input_shape: tuple[int, int, int]) -> None:
        """Refuse an image of which the last blocks would leave nothing; input_shape is (channels, height, width)."""
        check_image_for_norm("mobilenet", self.norm, input_shape, SHRINKAGE * self.stride + 1)


def fitting(input_shape: tuple[int, int, int]) -> dict[str, int]:
    """The first stride that suits an image of (channels, height, width): 28 and 32 pixels keep their size, 64 halve."""
    return {"stride": 2 if min(input_shape[1:]) >= LARGE else 1}


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole image holds: float32 [n, c, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // SQUEEZE)
        self.excite = nn.Linear(channels // SQUEEZE, channels)
        self.gate = nn.Hardsigmoid()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gates = self.gate(self.excite(torch.relu(self.squeeze(images.mean((2, 3))))))
        return cast(torch.Tensor, images * gates[:, :, None, None])


def convolution(channels: int, width: int, options: MobileNetOptions, **kind: int) -> nn.Sequential:
    """A convolution, its normalisation and the activation."""
    conv = nn.Conv2d(channels, width, bias=False, **kind)  # type: ignore[arg-type]
    return nn.Sequential(conv, norm_layer(options.norm, width), ACTIVATIONS[options.activation]())


class Block(nn.Module):
    """Expand, filter each channel, weigh, project: float32 [n, c, h, w] -> [n, width, h / stride, w / stride]."""

    def __init__(self, channels: int, width: int, kind: tuple[int, int], options: MobileNetOptions) -> None:
        super().__init__()
        expansion, stride = kind
        inner = channels * expansion
        self.adds = stride == 1 and channels == width
        self.expand = convolution(channels, inner, options, kernel_size=1) if expansion > 1 else nn.Identity()
        self.filter = convolution(inner, inner, options, kernel_size=3, stride=stride, padding=1, groups=inner)
        self.weigh = SqueezeExcite(inner) if options.squeeze else nn.Identity()
        self.project = nn.Conv2d(inner, width, 1, bias=False)
        self.norm = norm_layer(options.norm, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        made = self.norm(self.project(self.weigh(self.filter(self.expand(images)))))
        return cast(torch.Tensor, images + made if self.adds else made)


class MobileNet(nn.Module):
    """Logits float32 [n, k] of normalised images float32 [n, c, h, w]."""

    def __init__(self, options: MobileNetOptions, input_shape: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        options.check_image(input_shape)
        channels = options.width
        self.stem = convolution(input_shape[0], channels, options, kernel_size=3, stride=options.stride, padding=1)
        blocks: list[nn.Module] = []
        for expansion, eighths, stride in BLOCKS:
            width = options.width * eighths // EIGHTHS
            blocks.append(Block(channels, width, (expansion, stride), options))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.last = convolution(channels, channels * LAST_EXPANSION, options, kernel_size=1)
        self.head = nn.Linear(channels * LAST_EXPANSION, class_count)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: the last maps' means, float32 [n, 16 * width]."""
        return cast(torch.Tensor, self.last(self.blocks(self.stem(images))).mean((2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images)))
