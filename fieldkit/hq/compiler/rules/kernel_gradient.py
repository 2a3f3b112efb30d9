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

# Up to so many channels one product with the signal's shifts is faster than one with each, and costs little memory.
FEW_CHANNELS = 32


def from_shifts(graph: Graph, dy: Value, x: Value, window: Window) -> Value:
    """[groups, out / groups, in / groups, kh, kw] at stride 1: x is shifted along the width, dy along the height.

    With all rows of all images end to end, a shift is a later beginning: one Concat lays out all shifts of a side.
    What would then meet in another row, or another image, is set to 0 before.
    """
    batch, groups = x.size(0), window.groups
    channels, out = x.size(1) // groups, dy.size(1) // groups
    # Rows of the same length on both sides.
    height, width = size = (max(x.size(2), dy.size(2)), max(x.size(3), dy.size(3)))
    tops, lefts = ([window.shift(axis, index)[0] for index in range(window.kernel[axis])] for axis in (0, 1))
    signal, image = (_channel_by_channel(graph, each, groups, size) for each in (dy, x))
    # The place i reads row i + top; what is in column j is read by the place j - left.
    signals = [_kept_rows(graph, signal, size, -top) for top in tops]
    images = [_kept_columns(graph, image, size, left) for left in lefts]
    # The elements by which each begins later: the difference is its top and left.
    first = max(lefts) + min(tops) * width
    images_late = [max(-first, 0) + max(lefts) - left for left in lefts]
    signals_late = [max(first, 0) + (top - min(tops)) * width for top in tops]
    length = batch * height * width + max(*images_late, *signals_late)
    read = _laid_out(graph, images, images_late, length)
    rows_at_once = len(tops) if out <= FEW_CHANNELS else 1
    products = []
    for row in range(0, len(tops), rows_at_once):
        rows = slice(row, row + rows_at_once)
        felt = _laid_out(graph, signals[rows], signals_late[rows], length)
        products.append(graph.op("MatMul", read, graph.transpose(felt, (0, 2, 1))))
    parted = graph.reshape(join(graph, products, 1), (groups, len(products), channels, len(lefts), out, rows_at_once))
    return graph.transpose(parted, (0, 4, 2, 1, 5, 3))


def _channel_by_channel(graph: Graph, x: Value, groups: int, size: Pair) -> Value:
    """[groups, c / groups, n, h * w] of x [n, c, ., .], with zeros up to ``size`` (h, w)."""
    batch, channels, height, width = x.sizes
    padded = graph.pad(graph.transpose(x, (1, 0, 2, 3)), [2, 3], (0, 0), (size[0] - height, size[1] - width))
    return graph.reshape(padded, (groups, channels // groups, batch, size[0] * size[1]))


def _kept_rows(graph: Graph, x: Value, size: Pair, top: int) -> Value:
    rows = np.arange(size[0])[:, None]
    return _kept(graph, x, size, (top <= rows) & (rows < size[0] + top))


def _kept_columns(graph: Graph, x: Value, size: Pair, left: int) -> Value:
    columns = np.arange(size[1])[None]
    return _kept(graph, x, size, (left <= columns) & (columns < size[1] + left))


def _kept(graph: Graph, x: Value, size: Pair, kept: np.ndarray) -> Value:
    """x [..., h * w], and 0 where it is not kept."""
    if kept.all():
        return x
    # onnxruntime multiplies long rows three times as fast as such of a single image's width.
    whole = graph.op("Expand", graph.constant(kept, "float32"), graph.constant(size, "int64"))
    return graph.op("Mul", x, graph.reshape(whole, (size[0] * size[1],)))


def _laid_out(graph: Graph, parts: Sequence[Value], late: Sequence[int], length: int) -> Value:
    """Each channel's row of each part, begun late, in ``length`` elements: [groups, c * parts, length]."""
    groups, channels, *rest = parts[0].sizes
    count = int(np.prod(rest))
    starts = [index * length + each for index, each in enumerate(late)]
    ends = [0, *(start + count for start in starts)]
    pieces = []
    for part, start, end in zip([*parts, None], [*starts, len(parts) * length], ends, strict=True):
        if start > end:
            shape = graph.constant([groups, channels, start - end], "int64")
            pieces.append(graph.op("Expand", graph.constant(0.0, "float32"), shape))
        if part is not None:
            pieces.append(graph.reshape(part, (groups, channels, count)))
    return graph.reshape(join(graph, pieces, 2), (groups, channels * len(parts), length))


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
