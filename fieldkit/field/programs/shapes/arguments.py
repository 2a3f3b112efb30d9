"""What the rules of all operators share: their types, and arguments that are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from fieldkit.field.programs.graph import Node

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Sequence[Shape]
Values: TypeAlias = "Sequence[np.ndarray | None]"
Rule: TypeAlias = Callable[[Node, Shapes, Values], "list[Shape]"]


class Unknown(Exception):  # noqa: N818
    """A shape that depends on values; the argument says on which."""


def argument(node: Node, values: Values, place: int, attribute: str = "") -> tuple[int, ...] | None:
    """Whole numbers that an input gives, or, in older opsets, an attribute; None where neither is there."""
    if place < len(node.inputs) and node.inputs[place]:
        found = values[place]
        if found is None:
            raise Unknown(f"{node.inputs[place]!r}, which is no constant")
        return tuple(int(each) for each in found.ravel())
    return node.numbers(attribute) if attribute else None


def needed(node: Node, values: Values, place: int, attribute: str = "") -> tuple[int, ...]:
    """As ``argument``, where there must be one."""
    found = argument(node, values, place, attribute)
    if found is None:
        raise Unknown(f"input {place}, which is missing")
    return found


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [axis_of(axis, rank) for axis in axes]


def natural(shape: Shape) -> Shape:
    """The shape itself, if no length is negative."""
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return shape
