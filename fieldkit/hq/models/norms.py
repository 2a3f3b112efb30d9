"""Normalisation layers of convolutional architectures, by the name that a recipe's option gives them."""

from __future__ import annotations

from torch import nn

from fieldkit.hq.models.options import check_kind, check_multiple, image_error

NORMS = ("group", "instance", "batch")
GROUPS = 4


def check_norm(where: str, kind: str, width: int, valid: tuple[str, ...] = NORMS) -> None:
    """Refuse a kind that ``where`` ("resnet") does not offer, or a width that its groups do not divide."""
    check_kind(f"{where} norm", kind, valid)
    if kind == "group":
        check_multiple(f"{where} width", width, GROUPS, "group normalisation")


def check_image_for_norm(where: str, kind: str, input_shape: tuple[int, int, int], smallest: int) -> None:
    """Refuse an image of which instance normalisation leaves nothing, since the last layers make it a single pixel.

    input_shape: (channels, height, width).  smallest: the least longer side of which more is left.
    """
    if kind == "instance" and max(input_shape[1:]) < smallest:
        reason, expected = "too small for instance normalisation", f"a side of at least {smallest}"
        raise image_error(f"{where} norm", input_shape, reason, expected=expected, remedy="choose norm 'group'")


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The normalisation of float32 [n, channels, h, w].

    group: four groups (Wu & He 2018).  instance: a group per channel, with learned scale and offset.  batch: Ioffe &
    Szegedy 2015, whose running statistics training carries along.  none: nothing.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(GROUPS if kind == "group" else channels, channels)
