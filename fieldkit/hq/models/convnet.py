"""The field's standard ConvNet: blocks of convolution, normalisation, ReLU and pooling, then one linear layer.

Gidaris & Komodakis, "Dynamic few-shot visual learning without forgetting", CVPR 2018, in the form that dataset
distillation uses (Zhao, Mopuri & Bilen 2021; Zhao & Bilen 2021): ``instance`` is a group normalisation with one group
per channel and learned scale and offset.  Differs in that the first block pads one-band images by 1, not 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from fieldkit.hq.models.norms import check_norm, norm_layer
from fieldkit.hq.models.options import check_kind, check_whole, image_error

NORMS = ("instance", "group", "batch", "none")
POOLINGS = ("avg", "max", "none")
# What the blocks should leave of the image's shorter side, and how many blocks there should be even if they leave less.
LEFT = 3
SHALLOWEST = 2


@dataclass(frozen=True)
class ConvNetOptions:
    """Size and kind of a ConvNet.

    depth: number of blocks; 3 is the field's for 32x32 pixels, ``fitting`` has that of other sizes.
    width: channels of every block.
    norm: "instance" (a group per channel), "group" (four groups), "batch" or "none".
    pooling: "avg", "max" (both 2x2, halving height and width) or "none".
    """

    depth: int = 3
    width: int = 128
    norm: str = "instance"
    pooling: str = "avg"

    def __post_init__(self) -> None:
        check_whole("convnet depth", self.depth)
        check_whole("convnet width", self.width)
        check_norm("convnet", self.norm, self.width, NORMS)
        check_kind("convnet pooling", self.pooling, POOLINGS)

    def check_image(self, input_shape: tuple[int, int, int]) -> None:
        """Refuse an image that the blocks would shrink to nothing; input_shape is (channels, height, width)."""
        height, width = input_shape[1:]
        smallest = 2**self.depth if self.pooling != "none" else 1
        # Normalising a single pixel leaves nothing of it.
        if min(height, width) < smallest or (self.norm == "instance" and height * width == 1):
            raise image_error(
                "convnet depth",
                input_shape,
                f"too small for a depth of {self.depth}",
                expected=f"at least {smallest}x{smallest}" if smallest > 1 else "more than one pixel",
                remedy="choose a smaller depth, pooling 'none', or larger images",
            )


def fitting(input_shape: tuple[int, int, int]) -> dict[str, int]:
    """The depth that suits an image of (channels, height, width), where the blocks halve it.

    3x3 pixels take 1 block, 8x8 and 16x16 take 2, 28x28 and 32x32 take 3, 64x64 takes 4: a classifier that reads one
    pixel of each channel learns far less.
    """
    shorter = min(input_shape[1:])
    possible = shorter.bit_length() - 1
    leaving = (shorter // LEFT).bit_length() - 1
    return {"depth": max(1, min(possible, max(SHALLOWEST, leaving)))}


class Block(nn.Module):
    """Convolution 3x3, normalisation, ReLU, pooling: float32 [n, c, h, w] -> [n, width, h // 2, w // 2]."""

    def __init__(self, channels: int, options: ConvNetOptions) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, options.width, kernel_size=3, padding=1)
        self.norm = norm_layer(options.norm, options.width)
        pools = {"avg": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "none": nn.Identity()}
        self.pool = pools[options.pooling]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.pool(torch.relu(self.norm(self.conv(images)))))


class ConvNet(nn.Module):
    """Logits float32 [n, k] of normalised images float32 [n, c, h, w]."""

    def __init__(self, options: ConvNetOptions, input_shape: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        options.check_image(input_shape)
        channels, height, width = input_shape
        blocks: list[nn.Module] = []
        for _ in range(options.depth):
            blocks.append(Block(channels, options))
            channels = options.width
            if options.pooling != "none":
                height, width = height // 2, width // 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels * height * width, class_count)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: float32 [n, width * h' * w'].  Distribution matching compares these."""
        return cast(torch.Tensor, self.blocks(images).flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images)))
