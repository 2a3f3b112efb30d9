"""The way back of max pooling, without a scatter: to the first maximum of each window, in rows, as torch does.

The maximum of a window is the maximum over its rows of each row's maximum, so the way back takes one axis at a time:
from the windows to the rows that hold them, and within each row to its first maximum.  Along an axis a window's places
are asked in turn whether they hold the maximum; the first that does takes the gradient, and nothing is left for later
ones.  Only MaxPool without indices is needed, which is twenty times faster than with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Array, Value
from fieldkit.hq.compiler.rules.window import Window, join


def pooled(graph: Graph, x: Value, window: Window) -> Value:
    """The maximum of each window of x [n, c, h, w]."""
    x, window = _padded(graph, x, window)
    return graph.op("MaxPool", x, kernel_shape=list(window.kernel), **window.attributes())


def places(graph: Graph, x: Value, window: Window) -> Value:
    """Where in its image [h, w] each maximum lies: int64, row by row."""
    settings = {"kernel_shape": list(window.kernel), **window.attributes()}
    _, numbers = graph.ops("MaxPool", x, count=2, **settings)
    # MaxPool numbers places through the whole batch.
    return graph.op("Mod", numbers, graph.constant(x.size(2) * x.size(3), "int64"))


def _padded(graph: Graph, x: Value, window: Window) -> tuple[Value, Window]:
    """onnxruntime takes no more padding than the kernel has places, however far apart they lie."""
    if all(side[axis] < window.kernel[axis] for side in (window.before, window.after) for axis in (0, 1)):
        return x, window
    lowest = float(np.finfo(np.float32).min)
    return graph.pad(x, [2, 3], window.before, window.after, lowest), replace(window, before=(0, 0), after=(0, 0))


@dataclass(frozen=True)
class _Axis:
    """The windows along one axis.

    places: [kernel, windows], where on the axis each place of each window lies.  A place in the padding stands on the
    window's first place within the image instead, where it changes neither the maximum nor which place holds it first.
    """

    size: int
    places: Array


def _axis(size: int, window: Window, index: int) -> _Axis:
    count = window.output(size, size)[index]
    starts = np.arange(count) * window.stride[index] - window.before[index]
    places = starts + window.dilation[index] * np.arange(window.kernel[index])[:, None]
    inside = (places >= 0) & (places < size)
    first = np.take_along_axis(places, inside.argmax(axis=0)[None], axis=0)
    return _Axis(size, np.where(inside, places, first))


def is_filled(height: int, width: int, window: Window) -> bool:
    """Whether every window has a place within the image."""
    axes = (_axis(height, window, 0), _axis(width, window, 1))
    return all(((each.places >= 0) & (each.places < each.size)).all() for each in axes)


def gradient(graph: Graph, dy: Value, x: Value, y: Value, window: Window) -> Value:
    """The gradient of x [n, c, h, w] from that of its pooled y [n, c, h', w']."""
    rows, columns = _axis(x.size(2), window, 0), _axis(x.size(3), window, 1)
    if len(columns.places) == 1 and _is_everything(columns.places[0], x.size(3)):
        return _along(graph, dy, x, y, rows)
    # Along axis 2 whole rows are moved, so the width's turn is on the transposed image.
    turned = _turned(graph, x)
    maxima = pooled(graph, turned, _upright(window))
    to_rows = _along(graph, dy, _turned(graph, maxima), y, rows)
    return _turned(graph, _along(graph, _turned(graph, to_rows), turned, maxima, columns))


def _upright(window: Window) -> Window:
    """The window's way along the width, as one along the height of the transposed image."""
    return Window(
        (window.kernel[1], 1),
        (window.stride[1], 1),
        (window.before[1], 0),
        (window.after[1], 0),
        (window.dilation[1], 1),
    )


def _turned(graph: Graph, x: Value) -> Value:
    return graph.transpose(x, (0, 1, 3, 2))


def _along(graph: Graph, dy: Value, x: Value, y: Value, axis: _Axis) -> Value:
    """The gradient of x [n, c, h, w] where y [n, c, h', w] is the maximum over windows along the height."""
    shares, rest = [], dy
    for place in axis.places[:-1]:
        equal = graph.op("Equal", _rows(graph, x, place), y)
        share = graph.op("Mul", rest, graph.cast(equal, "float32"))
        shares.append(share)
        rest = graph.op("Sub", rest, share)
    return _collected(graph, [*shares, rest], axis)


def _rows(graph: Graph, x: Value, numbers: Array) -> Value:
    if _is_everything(numbers, x.size(2)):
        return x
    return graph.op("Gather", x, graph.constant(numbers, "int64"), axis=2)


def _is_everything(numbers: Array, size: int) -> bool:
    return np.array_equal(numbers, np.arange(size))


def _collected(graph: Graph, shares: list[Value], axis: _Axis) -> Value:
    """The sum of the shares of every place of every window in each row: [n, c, h', w] each -> [n, c, h, w].

    A row lies in several windows, one gather for each; a row in fewer windows gathers a row of zeros.
    """
    givers: list[list[int]] = [[] for _ in range(axis.size)]
    count = axis.places.shape[1]
    for number, place in enumerate(axis.places.reshape(-1)):
        first = int((axis.places[:, number % count] == place).argmax())
        if first == number // count:
            givers[place].append(number)
    most = max(len(each) for each in givers)
    every = join(graph, shares, 2)
    if any(len(each) < most for each in givers):
        every = graph.pad(every, [2, 3], (0, 0), (1, 0))
    nothing = axis.places.size
    indices = np.array([each + [nothing] * (most - len(each)) for each in givers], dtype=np.int64)
    parts = [_rows(graph, every, column) for column in indices.T]
    total = parts[0]
    for part in parts[1:]:
        total = graph.op("Add", total, part)
    return total
