"""How a kernel moves over an image, and what it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value

Pair = tuple[int, int]

# Rows of so many elements are moved along faster by products than by copies.
SHORT_ROW = 16


@dataclass(frozen=True)
class Window:
    """A kernel's way over height and width, and over groups of channels.

    before, after: rows and columns of zeros around the image; negative numbers cut from it.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def places(self) -> int:
        """How many places of the image one kernel reads."""
        return self.kernel[0] * self.kernel[1]

    @property
    def reach(self) -> Pair:
        """The distance from the first to the last row and column that one place of the kernel reads."""
        return (self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1))

    def output(self, height: int, width: int) -> Pair:
        """Height and width of the convolution of an image."""
        first, second = (
            (size + before + after - reach - 1) // stride + 1
            for size, before, after, reach, stride in zip(
                (height, width), self.before, self.after, self.reach, self.stride, strict=True
            )
        )
        return (first, second)

    def shift(self, axis: int, index: int) -> tuple[int, int]:
        """Row or column ``index`` of the kernel reads, for place i, element (i + first) * stride + second."""
        return divmod(self.dilation[axis] * index - self.before[axis], self.stride[axis])

    def reads(self, axis: int, size: int, places: int) -> np.ndarray:
        """1 where row or column k of the kernel at place p reads element i, else 0: float32[kernel, size, places]."""
        first = np.arange(places) * self.stride[axis] - self.before[axis]
        read = first + self.dilation[axis] * np.arange(self.kernel[axis])[:, None]
        return np.asarray(read[:, None, :] == np.arange(size)[:, None], np.float32)

    def attributes(self) -> dict[str, list[int] | int | None]:
        """As ONNX's Conv and ConvTranspose take it; None where their default says it."""
        pads = [*self.before, *self.after]
        return {
            "strides": list(self.stride) if self.stride != (1, 1) else None,
            "pads": pads if any(pads) else None,
            "dilations": list(self.dilation) if self.dilation != (1, 1) else None,
            "group": self.groups if self.groups > 1 else None,
        }


def window_of(
    weight: Value,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int = 1,
) -> Window:
    """The window of a convolution with ``weight`` [out, in / groups, kh, kw]; ``padding`` may be "same" or "valid"."""
    window = Window((weight.size(2), weight.size(3)), pair(stride), dilation=pair(dilation), groups=groups)
    if padding == "same":
        before = (window.reach[0] // 2, window.reach[1] // 2)
        return replace(window, before=before, after=(window.reach[0] - before[0], window.reach[1] - before[1]))
    if isinstance(padding, str):
        return window
    return replace(window, before=pair(padding), after=pair(padding))


def pair(numbers: Sequence[int]) -> Pair:
    """One number for both axes, or one for each."""
    return (int(numbers[0]), int(numbers[-1]))


def cut(graph: Graph, x: Value, window: Window) -> tuple[Value, Window]:
    """The image without what the window cuts from it, and the window that only pads."""
    before, after = ((min(0, each[0]), min(0, each[1])) for each in (window.before, window.after))
    kept = replace(
        window,
        before=(window.before[0] - before[0], window.before[1] - before[1]),
        after=(window.after[0] - after[0], window.after[1] - after[1]),
    )
    return graph.pad(x, [2, 3], before, after), kept


def kernel_matrix(graph: Graph, weight: Value) -> Value:
    """The kernel [out, in, kh, kw] as the matrix [out, kh * kw * in] that multiplies patches."""
    return graph.reshape(graph.transpose(weight, (0, 2, 3, 1)), (weight.size(0), -1))


def kernel_of_matrix(graph: Graph, matrix: Value, weight: Value) -> Value:
    """The inverse of ``kernel_matrix``: a gradient in the shape of ``weight``."""
    out, channels, height, width = weight.sizes
    return graph.transpose(graph.reshape(matrix, (out, height, width, channels)), (0, 3, 1, 2))


def patches(graph: Graph, x: Value, window: Window) -> Value:
    """What the kernel reads at each place of x [n, in, h, w]: [n, kh * kw * in, h' * w']."""
    return join(graph, patch_rows(graph, x, window), 1)


def patch_rows(graph: Graph, x: Value, window: Window) -> list[Value]:
    """What each row of the kernel reads at each place of x [a, in, ..., h, w]: [a, kw * in, ... * h' * w'] per row.

    The shifts along the width are made once for all rows.
    """
    down, across = x.rank - 2, x.rank - 1
    height, width = window.output(x.size(down), x.size(across))
    padded = graph.pad(x, [down, across], window.before, window.after)
    lefts = [column * window.dilation[1] for column in range(window.kernel[1])]
    band = join(graph, [every(graph, padded, across, left, width, window.stride[1]) for left in lefts], 1)
    tops = [row * window.dilation[0] for row in range(window.kernel[0])]
    rows = [every(graph, band, down, top, height, window.stride[0]) for top in tops]
    return [graph.reshape(row, (x.shape[0], window.kernel[1] * x.size(1), -1)) for row in rows]


def join(graph: Graph, parts: Sequence[Value], axis: int) -> Value:
    """The parts along ``axis``."""
    return graph.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


def every(graph: Graph, x: Value, axis: int, start: int, count: int, step: int) -> Value:
    """``count`` elements of an axis from ``start``, ``step`` apart."""
    if (start, count, step) == (0, x.size(axis), 1):
        return x
    return graph.slice(x, axis, start, start + (count - 1) * step + 1, step)


def shifted(graph: Graph, x: Value, axis: int, first: int, count: int) -> Value:
    """``count`` neighbours along an axis from ``first``; what lies outside reads 0."""
    before, after = -first, first + count - x.size(axis)
    if max(before, after) >= count:
        # Nothing lies inside, and onnxruntime cuts no more than there is.
        padded = graph.pad(x, [axis], [max(before, 0)], [max(after, 0)])
        return every(graph, padded, axis, max(first, 0), count, 1)
    # A Pad that cuts takes 10 ns for a row of the last axis, however short; numpy, which computes constants, has none.
    rows_are_long = axis == x.rank - 1 or x.size(x.rank - 1) > SHORT_ROW
    if min(before, after) < 0 < max(before, after) and rows_are_long and x.constant is None:
        pads, axes = graph.constant([before, after], "int64"), graph.constant([axis], "int64")
        return graph.op("Pad", x, pads, graph.constant(0.0, "float32"), axes)
    return graph.pad(x, [axis], [before], [after])
