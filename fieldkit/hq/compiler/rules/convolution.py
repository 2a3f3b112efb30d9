"""The rules of convolution, plain and transposed, over one or two axes.

What lies over one axis is compiled as an image of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.correlation import convolve, input_gradient, weight_gradient
from fieldkit.hq.compiler.rules.window import pair, window_of

Made = tuple[Value, Pullback | None]
Numbers = Sequence[int]


def convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Numbers = (1,),
    padding: Numbers | str = (0,),
    dilation: Numbers = (1,),
    groups: int = 1,
) -> Made:
    """y [n, out, h', w'] of x [n, in, h, w] and weight [out, in / groups, kh, kw]; h and kh, or n, may be missing."""
    graph = call.graph
    kernel, images = _kernel(call, weight), _images(call, x, weight)
    if not isinstance(padding, str):
        padding = _both(padding, weight, 0)
    window = window_of(kernel, _both(stride, weight, 1), padding, _both(dilation, weight, 1), groups)
    y = convolve(graph, images, kernel, bias, window)

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, y.shape)
        dx = dweight = None
        if x.trains:
            size = (images.size(2), images.size(3))
            dx = graph.reshape(input_gradient(graph, dy, kernel, None, window, size), x.shape)
        if weight.trains:
            dweight = graph.reshape(weight_gradient(graph, dy, images, kernel, window), weight.shape)
        return dx, dweight, _bias_gradient(graph, dy, bias)

    return graph.reshape(y, call.shape), pullback


def transposed_convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Numbers = (1,),
    padding: Numbers = (0,),
    output_padding: Numbers = (0,),
    groups: int = 1,
    dilation: Numbers = (1,),
) -> Made:
    """y [n, out, h', w'] of x [n, in, h, w] and weight [in, out / groups, kh, kw]; h and kh, or n, may be missing.

    It is what takes a convolution's gradient from its output back to its input, so its own way back is a convolution.
    """
    graph = call.graph
    kernel, images = _kernel(call, weight), _images(call, x, weight)
    padding, more = _both(padding, weight, 0), _both(output_padding, weight, 0)
    window = window_of(kernel, _both(stride, weight, 1), padding, _both(dilation, weight, 1), groups)
    # The rows and columns added at the end are those that the convolution would not read.
    window = replace(window, after=(window.after[0] - more[0], window.after[1] - more[1]))
    height, width = call.shape[-2:] if weight.rank == 4 else (1, call.shape[-1])
    y = input_gradient(graph, images, kernel, bias, window, (int(height), int(width)))

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, y.shape)
        dx = dweight = None
        if x.trains:
            dx = graph.reshape(convolve(graph, dy, kernel, None, window), x.shape)
        if weight.trains:
            dweight = graph.reshape(weight_gradient(graph, images, dy, kernel, window), weight.shape)
        return dx, dweight, _bias_gradient(graph, dy, bias)

    return graph.reshape(y, call.shape), pullback


def either_convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Made:
    """ATen's general form of the two."""
    if transposed:
        return transposed_convolution(call, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(call, x, weight, bias, stride, padding, dilation, groups)


def _both(numbers: Numbers, weight: Value, missing: int) -> tuple[int, int]:
    """The numbers for height and width; over one axis the height's is ``missing``."""
    first, second = pair(numbers)
    return (first, second) if weight.rank == 4 else (missing, second)


def _images(call: Call, x: Value, weight: Value) -> Value:
    """x as [n, in, h, w]."""
    batch: tuple[Dim, ...] = x.shape[:1] if x.rank == weight.rank else (1,)
    channels, *spatial = x.shape[-weight.rank + 1 :]
    height: tuple[Dim, ...] = () if weight.rank == 4 else (1,)
    return call.graph.reshape(x, (*batch, channels, *height, *spatial))


def _kernel(call: Call, weight: Value) -> Value:
    """The weight as [out, in, kh, kw]."""
    if weight.rank not in (3, 4):
        raise call.refuse(f"{weight.rank - 2} axes", "1 or 2 axes", "convolve over height and width only")
    return weight if weight.rank == 4 else call.graph.reshape(weight, (*weight.sizes[:2], 1, weight.size(2)))


def _bias_gradient(graph: Graph, dy: Value, bias: Value | None) -> Value | None:
    if bias is None or not bias.trains:
        return None
    # Two steps, because one reduction over axes that are not neighbours is ten times slower.
    return graph.sum(graph.sum(dy, [2, 3], keep=False), [0], keep=False)


RULES: dict[str, Rule] = {
    "aten.conv1d.default": convolution,
    "aten.conv1d.padding": convolution,
    "aten.conv2d.default": convolution,
    "aten.conv2d.padding": convolution,
    "aten.conv_transpose1d.default": transposed_convolution,
    "aten.conv_transpose2d.input": transposed_convolution,
    "aten.convolution.default": either_convolution,
}
