"""Rules that put the elements of axes into another order, or repeat them: roll, flip, repeat, shuffles of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def _rolled(graph: Graph, x: Value, shifts: Sequence[int], axes: Sequence[int]) -> Value:
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.size(axis)
        start = -shift % size if size else 0
        if start:
            x = graph.op("Concat", graph.slice(x, axis, start, size), graph.slice(x, axis, 0, start), axis=axis)
    return x


def roll(call: Call, x: Value, shifts: Sequence[int], axes: Sequence[int] = ()) -> Made:
    """Without axes torch rolls all elements as one row."""
    graph = call.graph
    flat = x if axes else graph.reshape(x, (math.prod(x.sizes),))
    listed = [axis % x.rank for axis in axes] or [0]
    y = graph.reshape(_rolled(graph, flat, shifts, listed), x.shape)

    def pullback(dy: Value) -> tuple[Value]:
        back = _rolled(graph, graph.reshape(dy, flat.shape), [-each for each in shifts], listed)
        return (graph.reshape(back, x.shape),)

    return y, pullback


def flip(call: Call, x: Value, axes: Sequence[int]) -> Made:
    """x with its elements along each of ``axes`` in the opposite order."""
    graph = call.graph

    def flipped(value: Value) -> Value:
        for axis in axes:
            size = value.size(axis)
            value = graph.slice(value, axis % x.rank, size - 1, -size - 1, -1)
        return value

    return flipped(x), lambda dy: (flipped(dy),)


def repeat(call: Call, x: Value, counts: Sequence[int | None]) -> Made:
    """x several times along each axis; None is the size of a free batch, over which what is the same stays once."""
    graph = call.graph
    repeats = [1 if n is None else n for n in counts]
    repeats = [1] * (x.rank - len(repeats)) + repeats
    base = graph.reshape(x, (*(1 for _ in range(len(repeats) - x.rank)), *x.shape))
    if counts and counts[0] is None and base.shape[0] != 1:
        raise call.refuse("a repetition for each image of a free batch", "a fixed number", "repeat other axes only")
    # Each axis has one of its repetitions before it.
    apart = graph.reshape(base, [n for size in base.shape for n in (1, size)])
    wanted = [n for pair in zip(repeats, base.shape, strict=True) for n in pair]
    wide = graph.op("Expand", apart, graph.constant([1 if isinstance(n, str) else n for n in wanted], "int64"))
    shape = [n if repeats[axis] == 1 else repeats[axis] * base.size(axis) for axis, n in enumerate(base.shape)]

    def pullback(dy: Value) -> tuple[Value]:
        parts = graph.reshape(dy, wide.shape)
        for axis in reversed(range(len(repeats))):
            parts = graph.sum(parts, [2 * axis], keep=False)
        return (graph.reshape(parts, x.shape),)

    return graph.reshape(wide, shape), pullback


def _shuffled(call: Call, x: Value, split: Sequence[Dim], order: Sequence[int]) -> Made:
    """Axes split up, put into another order, and joined to the result's shape."""
    graph = call.graph
    parts = graph.reshape(x, split)
    turned = graph.transpose(parts, order)
    back = [order.index(axis) for axis in range(len(order))]

    def pullback(dy: Value) -> tuple[Value]:
        return (graph.reshape(graph.transpose(graph.reshape(dy, turned.shape), back), x.shape),)

    return graph.reshape(turned, (*x.shape[:-3], *call.shape[-3:])), pullback


def pixel_shuffle(call: Call, x: Value, factor: int) -> Made:
    """[..., c r^2, h, w] -> [..., c, h r, w r]."""
    leading, channels = x.shape[:-3], x.size(-3) // factor**2
    split = (*leading, channels, factor, factor, *x.shape[-2:])
    first = len(leading)
    return _shuffled(call, x, split, [*range(first), *(first + each for each in (0, 3, 1, 4, 2))])


def pixel_unshuffle(call: Call, x: Value, factor: int) -> Made:
    """[..., c, h r, w r] -> [..., c r^2, h, w]."""
    leading, (channels, height, width) = x.shape[:-3], (x.size(axis) for axis in (-3, -2, -1))
    split = (*leading, channels, height // factor, factor, width // factor, factor)
    first = len(leading)
    return _shuffled(call, x, split, [*range(first), *(first + each for each in (0, 2, 4, 1, 3))])


def channel_shuffle(call: Call, x: Value, groups: int) -> Made:
    """The channels [n, c, ...] of all groups in turn."""
    graph = call.graph
    channels = x.size(1)
    order = [0, 2, 1, *range(3, x.rank + 1)]

    def turned(value: Value, first: int) -> Value:
        parts = graph.reshape(value, (x.shape[0], first, channels // first, *x.shape[2:]))
        return graph.reshape(graph.transpose(parts, order), x.shape)

    return turned(x, groups), lambda dy: (turned(dy, channels // groups),)


RULES: dict[str, Rule] = {
    "aten.roll.default": roll,
    "aten.flip.default": flip,
    "aten.repeat.default": repeat,
    "aten.tile.default": repeat,
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
}
