"""The gradient of a convolution's kernel: the products of a signal with what each place of the kernel read for it.

Everything is laid out channel by channel, so that the sum over images is part of a product.  onnxruntime copies on one
thread, and copying such a tensor takes as long as its product with ten channels: the ways below are those that copy
little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.window import Pair, Window, every, join, shifted


def from_shifts(graph: Graph, dy: Value, x: Value, window: Window) -> Value:
    """[groups, out / groups, in / groups, kh, kw] at stride 1: x is shifted along the width, dy along the height.

    With all rows of all images end to end, a shift is a later beginning: one Concat lays out all shifts of x.  What
    would then meet in another row, or another image, is set to 0 before.
    """
    batch, groups = x.size(0), window.groups
    channels, out = x.size(1) // groups, dy.size(1) // groups
    # Rows of the same length on both sides.
    height, width = size = (max(x.size(2), dy.size(2)), max(x.size(3), dy.size(3)))
    count = batch * height * width
    signal, image = (_channel_by_channel(graph, each, size) for each in (dy, x))
    tops, lefts = ([window.shift(axis, index)[0] for index in range(window.kernel[axis])] for axis in (0, 1))
    # The elements by which each begins later: between signal and image lie the rows above and the columns left.
    between = max(lefts) + min(tops) * width
    images_late = [max(-between, 0) + max(lefts) - left for left in lefts]
    signals_late = [max(between, 0) + (top - min(tops)) * width for top in tops]
    length = count + max(*images_late, *signals_late)
    # What is in column j is read by the place j - left; the place in row i reads row i + top.
    columns, rows = np.arange(width)[None], np.arange(height)[:, None]
    images = [_kept(graph, image, (left <= columns) & (columns < width + left)) for left in lefts]
    flat = [graph.reshape(each, (groups, channels, count)) for each in images]
    read, products = _laid_out(graph, flat, images_late, length), []
    for top, late in zip(tops, signals_late, strict=True):
        kept = _kept(graph, signal, (-top <= rows) & (rows < height - top))
        felt = graph.pad(graph.reshape(kept, (groups, out, count)), [2], [late], [length - late - count])
        products.append(graph.op("MatMul", read, graph.transpose(felt, (0, 2, 1))))
    parted = graph.reshape(join(graph, products, 1), (groups, len(tops), channels, len(lefts), out))
    return graph.transpose(parted, (0, 4, 2, 1, 3))


def _channel_by_channel(graph: Graph, x: Value, size: Pair) -> Value:
    """[c, n, h, w] of x [n, c, ., .], with zeros up to ``size`` (h, w)."""
    more = (size[0] - x.size(2), size[1] - x.size(3))
    return graph.pad(graph.transpose(x, (1, 0, 2, 3)), [2, 3], (0, 0), more)


def _kept(graph: Graph, x: Value, kept: np.ndarray) -> Value:
    """x [c, n, h, w], and 0 where it is not kept: bool[h, 1] or bool[1, w]."""
    if kept.all():
        return x
    # onnxruntime multiplies with a whole image three times as fast as with one row of it.
    return graph.op("Mul", x, graph.op("Expand", graph.constant(kept, "float32"), graph.constant(x.sizes[2:], "int64")))


def _laid_out(graph: Graph, parts: Sequence[Value], late: Sequence[int], length: int) -> Value:
    """Each channel of each part [groups, c, .], begun late, in ``length`` elements: [groups, c * parts, length]."""
    groups, channels, count = parts[0].sizes
    pieces, filled = [], 0
    for index, part in enumerate(parts):
        start = index * length + late[index]
        pieces += [*_zeros(graph, (groups, channels, start - filled)), part]
        filled = start + count
    pieces += _zeros(graph, (groups, channels, len(parts) * length - filled))
    return graph.reshape(join(graph, pieces, 2), (groups, channels * len(parts), length))


def _zeros(graph: Graph, shape: tuple[int, int, int]) -> list[Value]:
    """Zeros of this shape, if it has any elements; as a node they need no place in the program."""
    if not shape[2]:
        return []
    return [graph.op("Expand", graph.constant(0.0, "float32"), graph.constant(shape, "int64"))]


def from_phases(graph: Graph, dy: Value, x: Value, window: Window) -> Value:
    """The same at any stride: of x one row in every ``stride``, of these the columns by a product that picks them.

    Such products take half the time of strided Slices, and pad as well.
    """
    batch, columns, groups = x.size(0), dy.size(3), window.groups
    channels, out, stride = x.size(1) // groups, dy.size(1) // groups, window.stride[0]
    padded = graph.pad(x, [2], [0], [max(stride - x.size(2), 0)])
    height, width = padded.size(2), padded.size(3)
    picks = graph.constant(window.reads(1, width, columns))
    signal, products = graph.transpose(dy, (1, 0, 2, 3)), []
    for row in range(window.kernel[0]):
        shift, phase = window.shift(0, row)
        count = len(range(phase, height, stride))
        rows = graph.transpose(every(graph, padded, 2, phase, count, stride), (1, 0, 2, 3))
        picked = graph.op("MatMul", graph.reshape(rows, (groups, 1, channels * batch * count, width)), picks)
        read = graph.reshape(picked, (groups, window.kernel[1] * channels, batch * count * columns))
        felt = graph.reshape(shifted(graph, signal, 2, -shift, count), (groups, out, batch * count * columns))
        products.append(graph.op("MatMul", read, graph.transpose(felt, (0, 2, 1))))
    parted = graph.reshape(join(graph, products, 1), (groups, *window.kernel, channels, out))
    return graph.transpose(parted, (0, 4, 3, 1, 2))
