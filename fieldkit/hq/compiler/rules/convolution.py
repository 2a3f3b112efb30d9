"""The rule of 2-d convolution.

onnxruntime's Conv is as fast as its matrix product for images of some size, but packs the weights anew for each image:
for small images a product with the patches of the image is two to three times faster.  The gradient of the weight is
always such a product; where the patches are larger than the signal, it is made one row of the kernel at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

# Measured (128 channels, 3x3): Conv against the product with patches takes 2.4 times at 8x8 pixels, 0.9 at 16x16.
SMALL_IMAGE = 128


@dataclass(frozen=True)
class Window:
    """How a kernel moves over height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """The distance from the first to the last row and column that one place of the kernel reads."""
        return (self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1))

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the convolution of an image."""
        sizes = [
            (size + 2 * pad - reach - 1) // stride + 1
            for size, pad, reach, stride in zip((height, width), self.padding, self.reach, self.stride, strict=True)
        ]
        return (sizes[0], sizes[1])

    def attributes(self) -> dict[str, list[int] | None]:
        """As ONNX's Conv and ConvTranspose take it; None where their default says it."""
        return {
            "strides": list(self.stride) if self.stride != (1, 1) else None,
            "pads": [*self.padding, *self.padding] if self.padding != (0, 0) else None,
            "dilations": list(self.dilation) if self.dilation != (1, 1) else None,
        }


def convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> tuple[Value, Pullback | None]:
    """y [n, out, h', w'] of x [n, in, h, w] and weight [out, in, kh, kw]."""
    if groups != 1:
        raise call.refuse(f"{groups} groups", "1 group", "use an ordinary convolution")
    graph = call.graph
    window = window_of(weight, stride, padding, dilation)
    y = _convolve(graph, x, weight, bias, window)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dx = _input_gradient(graph, dy, weight, x, window) if x.trains else None
        # Two steps, because one reduction over axes that are not neighbours is ten times slower.
        dbias = None if bias is None else graph.sum(graph.sum(dy, [2, 3], keep=False), [0], keep=False)
        return dx, _weight_gradient(graph, dy, x, weight, window), dbias

    return y, pullback


def window_of(weight: Value, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Window:
    """The window of a convolution with ``weight``."""
    return Window((weight.size(2), weight.size(3)), _pair(stride), _pair(padding), _pair(dilation))


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return (int(numbers[0]), int(numbers[-1]))


def _convolve(graph: Graph, x: Value, weight: Value, bias: Value | None, window: Window) -> Value:
    height, width = window.output(x.size(2), x.size(3))
    # A weight that does not train is a constant on the device, where onnxruntime prepares Conv once and for all.
    if not weight.trains or height * width > SMALL_IMAGE:
        return graph.op("Conv", x, weight, bias, **window.attributes())
    y = graph.op("MatMul", kernel_matrix(graph, weight), patches(graph, x, window))
    if bias is not None:
        y = graph.op("Add", y, graph.reshape(bias, (bias.size(0), 1)))
    return graph.reshape(y, (x.shape[0], weight.size(0), height, width))


def _input_gradient(graph: Graph, dy: Value, weight: Value, x: Value, window: Window) -> Value:
    """The transposed convolution of dy.

    At stride 1 that is a convolution with the turned kernel, which is faster than ConvTranspose.
    """
    margin = (window.reach[0] - window.padding[0], window.reach[1] - window.padding[1])
    if window.stride == (1, 1) and min(margin) >= 0:
        swapped = graph.transpose(weight, (1, 0, 2, 3))
        back = Window(window.kernel, (1, 1), margin, window.dilation)
        return _convolve(graph, dy, _turned(graph, swapped), None, back)
    # ConvTranspose must be told of the rows and columns that the stride left unread.
    sizes = zip((2, 3), window.stride, window.padding, window.reach, strict=True)
    unread = [(x.size(axis) + 2 * pad - reach - 1) % stride for axis, stride, pad, reach in sizes]
    return graph.op("ConvTranspose", dy, weight, **window.attributes(), output_padding=unread if any(unread) else None)


def _turned(graph: Graph, weight: Value) -> Value:
    """The kernel turned by half a turn: weight[:, :, ::-1, ::-1]."""
    if weight.size(2) == weight.size(3) == 1:
        return weight
    last, before_first = graph.constant([-1, -1], "int64"), graph.constant([-(2**31), -(2**31)], "int64")
    return graph.op("Slice", weight, last, before_first, graph.constant([2, 3], "int64"), last)


def _weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """The sum over images of dy [out, h' w'] times the patches of x [h' w', kh * kw * in]."""
    batch, out, height, width = dy.sizes
    signal = graph.reshape(dy, (batch, out, height * width))
    whole = window.kernel[0] * window.kernel[1] * x.size(1) <= out
    parts = [patches(graph, x, window)] if whole else patch_rows(graph, x, window)
    each = [graph.op("MatMul", signal, graph.transpose(part, (0, 2, 1))) for part in parts]
    return kernel_of_matrix(graph, join(graph, [graph.sum(one, [0], keep=False) for one in each], 1), weight)


def kernel_matrix(graph: Graph, weight: Value) -> Value:
    """The kernel [out, in, kh, kw] as the matrix [out, kh * kw * in] that multiplies patches."""
    return graph.reshape(graph.transpose(weight, (0, 2, 3, 1)), (weight.size(0), -1))


def kernel_of_matrix(graph: Graph, matrix: Value, weight: Value) -> Value:
    """The inverse of ``kernel_matrix``: a gradient in the shape of ``weight``."""
    out, channels, height, width = weight.sizes
    return graph.transpose(graph.reshape(matrix, (out, height, width, channels)), (0, 3, 1, 2))


def patches(graph: Graph, x: Value, window: Window) -> Value:
    """What the kernel reads at each place: [n, kh * kw * in, h' * w']."""
    return join(graph, patch_rows(graph, x, window), 1)


def patch_rows(graph: Graph, x: Value, window: Window) -> list[Value]:
    """What each row of the kernel reads at each place: [n, kw * in, h' * w'] per row.

    The shifts along the width are made once for all rows.
    """
    height, width = window.output(x.size(2), x.size(3))
    padded = graph.pad(x, [2, 3], window.padding, window.padding)
    lefts = [column * window.dilation[1] for column in range(window.kernel[1])]
    band = join(graph, [_every(graph, padded, 3, left, width, window.stride[1]) for left in lefts], 1)
    tops = [row * window.dilation[0] for row in range(window.kernel[0])]
    rows = [_every(graph, band, 2, top, height, window.stride[0]) for top in tops]
    return [graph.reshape(row, (x.shape[0], window.kernel[1] * x.size(1), height * width)) for row in rows]


def join(graph: Graph, parts: Sequence[Value], axis: int) -> Value:
    return graph.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


def _every(graph: Graph, x: Value, axis: int, start: int, count: int, step: int) -> Value:
    """``count`` elements of an axis from ``start``, ``step`` apart."""
    if (start, count, step) == (0, x.size(axis), 1):
        return x
    return graph.slice(x, axis, start, start + (count - 1) * step + 1, step)


RULES: dict[str, Rule] = {
    "aten.conv2d.default": convolution,
}
