"""The three products between an image, a kernel and a signal: a convolution and its two gradients.

A transposed convolution is the same three with the image and the signal exchanged.

onnxruntime's Conv is as fast as its matrix product for images of some size, but packs the weights anew for each image:
for small images a product with the patches of the image is two to three times faster.  The gradient of the weight is
always such a product; where the patches are larger than the signal, it is made one row of the kernel at a time.
"""

from __future__ import annotations

from dataclasses import replace

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules import depthwise
from fieldkit.hq.compiler.rules.window import (
    Pair,
    Window,
    cut,
    join,
    kernel_matrix,
    kernel_of_matrix,
    patch_rows,
    patches,
)

# Measured (128 channels, 3x3): Conv against the product with patches takes 2.4 times at 8x8 pixels, 0.9 at 16x16.
SMALL_IMAGE = 128


def convolve(graph: Graph, x: Value, weight: Value, bias: Value | None, window: Window) -> Value:
    """y [n, out, h', w'] of x [n, in, h, w] and weight [out, in / groups, kh, kw]."""
    height, width = window.output(x.size(2), x.size(3))
    # In a prediction the weights are constants on the device, where onnxruntime prepares Conv once and for all.
    prepared = isinstance(x.shape[0], str) or weight.constant is not None
    if not prepared and _is_dense(x.size(0), (x.size(2), x.size(3)), weight, window):
        return _with_bias(graph, depthwise.dense_convolution(graph, x, weight, window), bias)
    if prepared or window.groups > 1 or height * width > SMALL_IMAGE:
        whole, window = cut(graph, x, window)
        return graph.op("Conv", whole, weight, bias, **window.attributes())
    y = graph.op("MatMul", kernel_matrix(graph, weight), patches(graph, x, window))
    return _with_bias(graph, graph.reshape(y, (x.shape[0], weight.size(0), height, width)), bias)


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
    """The sum over images of dy [out, h' w'] times the patches of x [h' w', kh * kw * in], for each group."""
    if _is_dense(x.size(0), (x.size(2), x.size(3)), weight, window):
        return depthwise.dense_weight_gradient(graph, dy, x, weight, window)
    if depthwise.is_depthwise(weight, window):
        return depthwise.weight_gradient(graph, dy, x, weight, window)
    batch, out, height, width = dy.sizes
    groups, channels = window.groups, weight.size(1)
    # The groups are independent of each other, as images are.
    signal = graph.reshape(dy, (batch * groups, out // groups, height * width))
    x = graph.reshape(x, (batch * groups, channels, x.size(2), x.size(3)))
    whole = window.places * channels <= out // groups
    parts = [patches(graph, x, window)] if whole else patch_rows(graph, x, window)
    each = [graph.op("MatMul", signal, graph.transpose(part, (0, 2, 1))) for part in parts]
    sums = [_sum_of_images(graph, one, groups) for one in each]
    return kernel_of_matrix(graph, join(graph, sums, 1), weight)


def _sum_of_images(graph: Graph, products: Value, groups: int) -> Value:
    """[n * groups, rows, columns] -> [groups * rows, columns]."""
    count, rows, columns = products.sizes
    parted = graph.reshape(products, (count // groups, groups * rows, columns))
    return graph.sum(parted, [0], keep=False)
