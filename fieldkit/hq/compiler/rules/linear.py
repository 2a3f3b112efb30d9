"""Rules whose work is matrix products: linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Made:
    """y = x weight^T + bias for x [n, in] and weight [out, in]."""
    if x.rank != 2:
        raise call.refuse(f"an input of {x.rank} axes", "2 axes", "flatten what comes before the linear layer")
    graph = call.graph
    y = graph.op("Gemm", x, weight, bias, transB=1)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dx = graph.op("MatMul", dy, weight) if x.trains else None
        dweight = graph.op("Gemm", dy, x, transA=1)
        dbias = None if bias is None else graph.sum(dy, [0], keep=False)
        return dx, dweight, dbias

    return y, pullback


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves over height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """The distance from the first to the last row and column that one kernel reads."""
        return (self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1))


def convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Made:
    """2-d convolution of x [n, in, h, w] with weight [out, in, kh, kw]."""
    if groups != 1:
        raise call.refuse(f"{groups} groups", "1 group", "use an ordinary convolution")
    graph = call.graph
    window = Window((weight.size(2), weight.size(3)), _pair(stride), _pair(padding), _pair(dilation))
    y = graph.op(
        "Conv",
        x,
        weight,
        bias,
        kernel_shape=list(window.kernel),
        strides=list(window.stride),
        pads=[*window.padding, *window.padding],
        dilations=list(window.dilation),
    )

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dx = _input_gradient(graph, dy, weight, x, window) if x.trains else None
        dbias = None if bias is None else graph.sum(dy, [0, 2, 3], keep=False)
        return dx, _weight_gradient(graph, dy, x, weight, window), dbias

    return y, pullback


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return (int(numbers[0]), int(numbers[-1]))


def _input_gradient(graph: Graph, dy: Value, weight: Value, x: Value, window: Window) -> Value:
    """The transposed convolution of dy; its output is padded by what the stride left unread."""
    unread = [
        x.size(2 + i) + 2 * window.padding[i] - window.reach[i] - 1 - (dy.size(2 + i) - 1) * window.stride[i]
        for i in range(2)
    ]
    return graph.op(
        "ConvTranspose",
        dy,
        weight,
        kernel_shape=list(window.kernel),
        strides=list(window.stride),
        pads=[*window.padding, *window.padding],
        dilations=list(window.dilation),
        output_padding=unread,
    )


def _weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """sum over images of dy [out, h'w'] times the patches of x [h'w', in * kh * kw]."""
    batch, out, height, width = dy.sizes
    patches = _patches(graph, x, window, (height, width))
    rows = graph.reshape(dy, (batch, out, height * width))
    columns = graph.reshape(patches, (batch, -1, height * width))
    each = graph.op("MatMul", rows, graph.transpose(columns, (0, 2, 1)))
    kernel = (window.kernel[0], window.kernel[1], x.size(1), out)
    total = graph.reshape(graph.sum(each, [0], keep=False), (out, *kernel[:3]))
    return graph.transpose(total, (0, 3, 1, 2))


def _patches(graph: Graph, x: Value, window: Window, size: tuple[int, int]) -> Value:
    """What each place of the kernel reads: [n, kh * kw * in, h', w']."""
    padded = graph.pad(x, [2, 3], window.padding, window.padding)
    places = []
    for row in range(window.kernel[0]):
        top = row * window.dilation[0]
        band = graph.slice(padded, 2, top, top + (size[0] - 1) * window.stride[0] + 1, window.stride[0])
        for column in range(window.kernel[1]):
            left = column * window.dilation[1]
            places.append(graph.slice(band, 3, left, left + (size[1] - 1) * window.stride[1] + 1, window.stride[1]))
    return graph.op("Concat", *places, axis=1)


RULES: dict[str, Rule] = {
    "aten.linear.default": linear,
    "aten.conv2d.default": convolution,
}
