"""The three products between an image, a kernel and a signal: a convolution and its two gradients.

A transposed convolution is the same three with the image and the signal exchanged.

onnxruntime's Conv gathers patches in its cache, image by image, so nothing is faster where it shares the images among
threads.  It does not where a group has more outputs than an image has places: there, two Convs have half of them each,
or all images side by side are one product with their patches.  The gradient of the weight is such a product as well.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules import depthwise, kernel_gradient
from fieldkit.hq.compiler.rules.window import Pair, Window, cut, every, join, kernel_matrix, patch_rows

# Measured with kernels of one place: Conv against one product of all images takes 2.4 times at 2x2 pixels, 0.8 at 4x4.
FEW_PLACES = 8
# Measured with 3x3 kernels and 8x8 pixels, 1 thread: two Convs of 128 outputs take 24 ms, a product 28; four of 256
# outputs 97 against 90.  More threads share all of the Convs' time, and 4/5 of the product's.
MOST_PARTS = 2


def convolve(graph: Graph, x: Value, weight: Value, bias: Value | None, window: Window) -> Value:
    """y [n, out, h', w'] of x [n, in, h, w] and weight [out, in / groups, kh, kw]."""
    height, width = window.output(x.size(2), x.size(3))
    # In a prediction the weights are constants on the device, where onnxruntime prepares Conv once and for all.
    prepared = isinstance(x.shape[0], str) or weight.constant is not None
    if not prepared and _is_dense(x.size(0), (x.size(2), x.size(3)), weight, window):
        return _with_bias(graph, depthwise.dense_convolution(graph, x, weight, window), bias)
    if not prepared and window.stride[0] == 1 and depthwise.has_short_rows(weight, window, x.size(3)):
        return _with_bias(graph, depthwise.convolution_by_rows(graph, x, weight, window), bias)
    parts = 1 if prepared else _parts(weight, window, height * width)
    if parts > 0:
        return _conv(graph, x, weight, bias, window, parts)
    batch, out = x.size(0), weight.size(0)
    matrix = graph.reshape(kernel_matrix(graph, weight), (window.groups, out // window.groups, -1))
    product = graph.op("MatMul", matrix, join(graph, _rows_of_all(graph, x, window), 1))
    y = graph.transpose(graph.reshape(product, (out, batch, height, width)), (1, 0, 2, 3))
    return _with_bias(graph, y, bias)


def _parts(weight: Value, window: Window, places: int) -> int:
    """Of how many Convs, each with some of the outputs, a convolution is best made; 0 for a product instead.

    onnxruntime shares images among threads where a group has no more outputs than an image has places.
    """
    if window.places == 1 and window.stride == (1, 1):
        return 1 if places >= FEW_PLACES else 0
    parts = -(-weight.size(0) // (window.groups * places))
    return parts if parts <= (MOST_PARTS if window.groups == 1 else 1) else 0


def _conv(graph: Graph, x: Value, weight: Value, bias: Value | None, window: Window, parts: int) -> Value:
    whole, window = cut(graph, x, window)
    if parts == 1:
        return graph.op("Conv", whole, weight, bias, **window.attributes())
    ends = [weight.size(0) * index // parts for index in range(parts + 1)]
    made = []
    for start, stop in itertools.pairwise(ends):
        kernel, offset = (None if each is None else graph.slice(each, 0, start, stop) for each in (weight, bias))
        made.append(graph.op("Conv", whole, kernel, offset, **window.attributes()))
    return join(graph, made, 1)


def _rows_of_all(graph: Graph, x: Value, window: Window) -> list[Value]:
    """The patch rows of all images side by side: [groups, kw * in / groups, n * h' * w'] per row of the kernel."""
    batch, channels, height, width = x.sizes
    parted = (window.groups, channels // window.groups, batch, height, width)
    return patch_rows(graph, graph.reshape(graph.transpose(x, (1, 0, 2, 3)), parted), window)


def _is_dense(batch: int, size: Pair, weight: Value, window: Window) -> bool:
    return depthwise.is_depthwise(weight, window) and depthwise.is_dense(batch, size, weight, window)


def _with_bias(graph: Graph, y: Value, bias: Value | None) -> Value:
    return y if bias is None else graph.op("Add", y, graph.reshape(bias, (bias.size(0), 1, 1)))


def input_gradient(graph: Graph, dy: Value, weight: Value, bias: Value | None, window: Window, size: Pair) -> Value:
    """The transposed convolution of dy [n, out, h', w']: [n, in, h, w] with ``size`` (h, w), and a bias [in].

    At stride 1 that is a convolution with the turned kernel, which is faster than ConvTranspose.
    """
    batch = dy.shape[0]
    if isinstance(batch, int) and weight.constant is None and _is_dense(batch, size, weight, window):
        return _with_bias(graph, depthwise.dense_input_gradient(graph, dy, weight, window, size), bias)
    if window.stride == (1, 1):
        before, after = (
            (window.reach[0] - each[0], window.reach[1] - each[1]) for each in (window.before, window.after)
        )
        back = replace(window, before=before, after=after)
        return convolve(graph, dy, _turned(graph, _exchanged(graph, weight, window.groups)), bias, back)
    if isinstance(batch, int) and weight.constant is None and depthwise.has_short_rows(weight, window, dy.size(3)):
        return _with_bias(graph, depthwise.input_gradient_by_rows(graph, dy, weight, window, size), bias)
    # ConvTranspose makes rows and columns for what was read; the rest has no gradient.
    lengths = zip(size, dy.shape[2:], window.before, window.reach, window.stride, strict=True)
    cuts = [(int(n) - 1) * stride + reach + 1 - before - full for full, n, before, reach, stride in lengths]
    unread = [divmod(max(-each, 0), stride) for each, stride in zip(cuts, window.stride, strict=True)]
    # It adds fewer of them than the stride; a row of zeros more in dy makes as many as the stride.
    dy = graph.pad(dy, [2, 3], (0, 0), [rows for rows, _ in unread])
    rest = [columns for _, columns in unread]
    back = replace(window, after=(max(cuts[0], 0), max(cuts[1], 0)))
    return graph.op("ConvTranspose", dy, weight, bias, **back.attributes(), output_padding=rest if any(rest) else None)


def _exchanged(graph: Graph, weight: Value, groups: int) -> Value:
    """The kernel with each group's inputs and outputs exchanged: [in, out / groups, kh, kw]."""
    out, per_group, height, width = weight.sizes
    if per_group == 1 and out == groups:
        return weight
    parted = graph.reshape(weight, (groups, out // groups, per_group, height, width))
    swapped = graph.transpose(parted, (0, 2, 1, 3, 4))
    return graph.reshape(swapped, (groups * per_group, out // groups, height, width))


def _turned(graph: Graph, weight: Value) -> Value:
    """The kernel turned by half a turn: weight[:, :, ::-1, ::-1]."""
    if weight.size(2) == weight.size(3) == 1:
        return weight
    last, before_first = graph.constant([-1, -1], "int64"), graph.constant([-(2**31), -(2**31)], "int64")
    return graph.op("Slice", weight, last, before_first, graph.constant([2, 3], "int64"), last)


def weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """The sum over images of the patches of x [kh * kw * in, h' w'] times dy [h' w', out], for each group."""
    if _is_dense(x.size(0), (x.size(2), x.size(3)), weight, window):
        return depthwise.dense_weight_gradient(graph, dy, x, weight, window)
    if depthwise.is_depthwise(weight, window):
        return depthwise.weight_gradient(graph, dy, x, weight, window)
    batch, out, height, width = dy.sizes
    groups, channels = window.groups, weight.size(1)
    if window.places == 1 and out * channels < height * width * (out + channels * groups):
        return _sum_of_products(graph, dy, x, weight, window)
    if _parts(weight, window, height * width) > 0:
        way = kernel_gradient.from_shifts if window.stride == (1, 1) else kernel_gradient.from_phases
        return graph.reshape(way(graph, dy, x, window), weight.shape)
    signal = graph.reshape(graph.transpose(dy, (1, 0, 2, 3)), (groups, out // groups, batch * height * width))
    turned = graph.transpose(signal, (0, 2, 1))
    # The way forward has made these rows.
    each = [graph.op("MatMul", row, turned) for row in _rows_of_all(graph, x, window)]
    parted = (groups, *window.kernel, channels, out // groups)
    ordered = graph.transpose(graph.reshape(join(graph, each, 1), parted), (0, 4, 3, 1, 2))
    return graph.reshape(ordered, weight.shape)


def _sum_of_products(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """The gradient of a kernel of one place image by image: less to move where images are large."""
    batch, out, height, width = dy.sizes
    groups, channels = window.groups, weight.size(1)
    padded = graph.pad(x, [2, 3], window.before, window.after)
    for axis, count, stride in zip((2, 3), (height, width), window.stride, strict=True):
        padded = every(graph, padded, axis, 0, count, stride)
    images = graph.reshape(padded, (batch, groups, channels, height * width))
    signal = graph.reshape(dy, (batch, groups, out // groups, height * width))
    each = graph.op("MatMul", signal, graph.transpose(images, (0, 1, 3, 2)))
    return graph.reshape(graph.sum(each, [0], keep=False), weight.shape)
