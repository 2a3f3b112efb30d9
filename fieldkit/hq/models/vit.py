"""A tiny vision transformer: patches become tokens, which blocks of attention and an MLP mix; a linear layer decides.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; the mean over tokens instead of a class token is Beyer
et al., "Better plain ViT baselines for ImageNet-1k", 2022; stochastic depth is Huang et al., ECCV 2016.  Differs in
size, in that only the ends of branches drop out, and in that images are padded right and below to whole patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from fieldkit.hq.models.options import check_kind, check_multiple, check_share, check_whole, image_error

POOLS = ("mean", "token")
# How many patches should lie along an image's shorter side.
PATCHES = 8
POSITION_SPREAD = 0.02


@dataclass(frozen=True)
class VitOptions:
    """Size and kind of a vision transformer.

    patch: side of a patch in pixels; ``fitting`` has the one that suits an image.
    depth: number of blocks.  width: length of a token.  heads: of each attention.  ratio: the MLP is so much wider.
    pool: what the classifier reads, the "mean" of all tokens or a "token" of its own.
    dropout: share of values that each branch drops.  drop_path: share of images for which the last block's branches
    are skipped while training; it grows from 0 at the first block.
    """

    patch: int = 4
    depth: int = 4
    width: int = 96
    heads: int = 4
    ratio: int = 2
    pool: str = "mean"
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patch", "depth", "width", "heads", "ratio"):
            check_whole(f"vit {name}", getattr(self, name))
        check_multiple("vit width", self.width, self.heads, f"attention with {self.heads} heads")
        check_kind("vit pool", self.pool, POOLS)
        check_share("vit dropout", self.dropout)
        check_share("vit drop_path", self.drop_path)

    def check_image(self, input_shape: tuple[int, int, int]) -> None:
        """Refuse an image that is smaller than a patch; input_shape is (channels, height, width)."""
        if min(input_shape[1:]) < self.patch:
            expected = f"at least {self.patch}x{self.patch}"
            remedy = "choose a smaller patch"
            raise image_error("vit patch", input_shape, "smaller than a patch", expected=expected, remedy=remedy)


def fitting(input_shape: tuple[int, int, int]) -> dict[str, int]:
    """The patch that puts up to eight along the shorter side: 4 for 28 and 32 pixels, 8 for 64."""
    return {"patch": -(-min(input_shape[1:]) // PATCHES)}


class Patches(nn.Module):
    """Images to tokens: float32 [n, c, h, w] -> [n, t, width]."""

    def __init__(self, options: VitOptions, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *size = input_shape
        counts = [-(-side // options.patch) for side in size]
        self.count = counts[0] * counts[1]
        self.missing = [count * options.patch - side for count, side in zip(counts, size, strict=True)]
        self.project = nn.Conv2d(channels, options.width, options.patch, options.patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if any(self.missing):
            images = functional.pad(images, (0, self.missing[1], 0, self.missing[0]))
        return cast(torch.Tensor, self.project(images).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Every token reads all others: float32 [n, t, width] -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv.unbind())
        return cast(torch.Tensor, self.project(mixed.transpose(1, 2).flatten(2)))


class StochasticDepth(nn.Module):
    """Leaves out a branch for some images while training, and makes up for it in the others: any float32 [n, ...]."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return branch
        shape = (branch.shape[0], *([1] * (branch.ndim - 1)))
        return branch * (branch.new_empty(shape).bernoulli_(1 - self.rate) / (1 - self.rate))


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to its input: float32 [n, t, width] -> the same."""

    def __init__(self, options: VitOptions, rate: float) -> None:
        super().__init__()
        width = options.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, options.heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width * options.ratio), nn.GELU(), nn.Linear(width * options.ratio, width)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.depth = StochasticDepth(rate)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.depth(self.dropout(self.attention(self.norm1(tokens))))
        return cast(torch.Tensor, tokens + self.depth(self.dropout(self.mlp(self.norm2(tokens)))))


class Vit(nn.Module):
    """Logits float32 [n, k] of normalised images float32 [n, c, h, w]."""

    def __init__(self, options: VitOptions, input_shape: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        options.check_image(input_shape)
        self.patches = Patches(options, input_shape)
        # A token of its own is zeros: its position, the first, is all that it starts as.
        self.own = int(options.pool == "token")
        self.position = nn.Parameter(torch.randn(1, self.own + self.patches.count, options.width) * POSITION_SPREAD)
        deepest = max(options.depth - 1, 1)
        rates = [options.drop_path * index / deepest for index in range(options.depth)]
        self.blocks = nn.Sequential(*(Block(options, rate) for rate in rates))
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, class_count)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier reads: float32 [n, width]."""
        if not self.own:
            return cast(torch.Tensor, self.norm(self.blocks(self.patches(images) + self.position)).mean(1))
        tokens = functional.pad(self.patches(images), (0, 0, 1, 0)) + self.position
        return cast(torch.Tensor, self.norm(self.blocks(tokens)[:, 0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images)))
