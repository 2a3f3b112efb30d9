"""A residual network for small images: three stages of basic blocks, each after the first at half the size.

He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.  Differs in group normalisation by
default, which needs no large batches (Wu & He 2018); with norm "batch" it is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from fieldkit.errors import UsageError
from fieldkit.hq.models.norms import check_image_for_norm, check_norm, norm_layer
from fieldkit.hq.models.options import check_kind, check_whole

SHORTCUTS = ("projection", "padded")
STAGES = 3
# With instance normalisation the last stage, at a quarter of the size, must keep more than one pixel.
SMALLEST_FOR_INSTANCE = 5


@dataclass(frozen=True)
class ResNetOptions:
    """Size and kind of a ResNet.

    depth: layers with weights, 6n + 2: 8, 14, 20 have 1, 2, 3 blocks a stage.
    width: channels of the first stage; the others have twice and four times as many.
    norm: "group" (four groups), "instance" (a group per channel) or "batch".
    shortcut: past a block that halves the size, "projection" (a convolution 1x1 and a normalisation: option B of the
    paper) or "padded" (every other pixel, and zeros for the new channels: option A, without weights but slower).
    """

    depth: int = 8
    width: int = 16
    norm: str = "group"
    shortcut: str = "projection"

    def __post_init__(self) -> None:
        check_whole("resnet depth", self.depth, 8)
        if self.depth % 6 != 2:
            raise UsageError("not a depth of this network", where="resnet depth", found=self.depth, expected="6n + 2")
        check_whole("resnet width", self.width)
        check_norm("resnet", self.norm, self.width)
        check_kind("resnet shortcut", self.shortcut, SHORTCUTS)

    def check_image(self, input_shape: tuple[int, int, int]) -> None:
        """Refuse an image of which the last stage would leave nothing; input_shape is (channels, height, width)."""
        check_image_for_norm("resnet", self.norm, input_shape, SMALLEST_FOR_INSTANCE)


class PaddedShortcut(nn.Module):
    """Every other pixel, and zeros for new channels: float32 [n, c, h, w] -> [n, c + added, h / 2, w / 2]."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))


class Block(nn.Module):
    """Two convolutions 3x3 beside a shortcut: float32 [n, c, h, w] -> [n, width, h / stride, w / stride]."""

    def __init__(self, channels: int, width: int, stride: int, options: ResNetOptions) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = norm_layer(options.norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = norm_layer(options.norm, width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and options.shortcut == "padded":
            self.shortcut = PaddedShortcut(width - channels)
        elif stride > 1:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm_layer(options.norm, width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


class ResNet(nn.Module):
    """Logits float32 [n, k] of normalised images float32 [n, c, h, w]."""

    def __init__(self, options: ResNetOptions, input_shape: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        options.check_image(input_shape)
        channels = options.width
        self.conv = nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False)
        self.norm = norm_layer(options.norm, channels)
        blocks: list[nn.Module] = []
        for stage in range(STAGES):
            width = options.width << stage
            for index in range((options.depth - 2) // (2 * STAGES)):
                blocks.append(Block(channels, width, 2 if stage and not index else 1, options))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, class_count)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: the last maps' means, float32 [n, 4 * width]."""
        return cast(torch.Tensor, self.blocks(torch.relu(self.norm(self.conv(images)))).mean((2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images)))
