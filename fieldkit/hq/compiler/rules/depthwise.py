"""Convolutions whose groups hold one input channel each: a kernel of its own for each channel.

Of small images in a large batch each channel's kernel is written out as the matrix that takes all pixels to all places:
products of such matrices with a batch of one channel take half the time of Conv, whatever the size of the kernel.
In a small batch the matrix is that of one row of places, if the rows are short.

The gradient of the weight is the sum over images and places of signal times shifted image.  As a Conv with the signal
for kernel, or as a sum of elementwise products, it is slow.  Here each column of the kernel takes one product of all
rows of the signal with all rows of the shifted image, of which the sums along some diagonals are the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.window import SHORT_ROW, Pair, Window, every, join, shifted

# The matrices of images of so many pixels take little memory in any batch.
SMALL_IMAGE = 64
# Measured with kernels 3x3: up to so many columns products by rows take 0.6 of Conv's and ConvTranspose's time.
FEW_COLUMNS = 8


def is_depthwise(weight: Value, window: Window) -> bool:
    """Whether each group has one input channel, for any number of output channels."""
    return window.groups > 1 and weight.size(1) == 1


def is_dense(batch: int, size: Pair, weight: Value, window: Window) -> bool:
    """Whether writing out each kernel as a matrix is faster, and the matrices are not larger than the images.

    Measured at 1 thread and 64 channels: writing one number of the matrix takes as long as 40 multiplications with it,
    one number read by Conv as long as 14.
    """
    pixels = size[0] * size[1]
    if weight.size(0) != window.groups or pixels > max(batch, SMALL_IMAGE):
        return False
    return pixels * (40 + batch) < 14 * batch * window.places


def dense_convolution(graph: Graph, x: Value, weight: Value, window: Window) -> Value:
    """y [n, c, h', w'] of x [n, c, h, w] by each channel's matrix."""
    size = (x.size(2), x.size(3))
    return _by_channel(graph, x, _matrices(graph, weight, window, size), window.output(*size))


def dense_input_gradient(graph: Graph, dy: Value, weight: Value, window: Window, size: Pair) -> Value:
    """The gradient of x [n, c, h, w], by each channel's matrix transposed."""
    return _by_channel(graph, dy, graph.transpose(_matrices(graph, weight, window, size), (0, 2, 1)), size)


def _by_channel(graph: Graph, x: Value, matrices: Value, size: Pair) -> Value:
    batch, channels, height, width = x.sizes
    images = graph.transpose(graph.reshape(x, (batch, channels, height * width)), (1, 0, 2))
    y = graph.transpose(graph.op("MatMul", images, matrices), (1, 0, 2))
    return graph.reshape(y, (batch, channels, *size))


def _matrices(graph: Graph, weight: Value, window: Window, size: Pair) -> Value:
    """Each channel's kernel as a matrix from pixels to places: [c, h * w, h' * w']."""
    (height, width), (rows, columns) = size, window.output(*size)
    across = graph.constant(window.reads(1, width, columns).reshape(window.kernel[1], -1))
    down = graph.constant(window.reads(0, height, rows).reshape(window.kernel[0], -1).T)
    each = graph.op("MatMul", graph.reshape(weight, (-1, window.kernel[1])), across)
    both = graph.op("MatMul", down, graph.reshape(each, (-1, window.kernel[0], width * columns)))
    ordered = graph.transpose(graph.reshape(both, (-1, height, rows, width, columns)), (0, 1, 3, 2, 4))
    return graph.reshape(ordered, (weight.size(0), height * width, rows * columns))


def dense_weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """The gradient of each channel's matrix, gathered into that of its kernel."""
    batch, channels, rows, columns = dy.sizes
    height, width = x.size(2), x.size(3)
    images = graph.transpose(graph.reshape(x, (batch, channels, height * width)), (1, 2, 0))
    signal = graph.transpose(graph.reshape(dy, (batch, channels, rows * columns)), (1, 0, 2))
    whole = graph.reshape(graph.op("MatMul", images, signal), (channels, height, width, rows, columns))
    ordered = graph.reshape(graph.transpose(whole, (0, 1, 3, 2, 4)), (-1, width * columns))
    across = graph.constant(window.reads(1, width, columns).reshape(window.kernel[1], -1).T)
    down = graph.constant(window.reads(0, height, rows).reshape(window.kernel[0], -1))
    each = graph.reshape(graph.op("MatMul", ordered, across), (channels, height * rows, window.kernel[1]))
    return graph.reshape(graph.op("MatMul", down, each), weight.shape)


def has_short_rows(weight: Value, window: Window, columns: int) -> bool:
    """Whether products with rows of so many columns are faster than Conv, for a kernel of its own for each channel."""
    return is_depthwise(weight, window) and weight.size(0) == window.groups and columns <= FEW_COLUMNS


def convolution_by_rows(graph: Graph, x: Value, weight: Value, window: Window) -> Value:
    """y [n, c, h', w'] of x [n, c, h, w]: each row from all rows that its places read, at stride 1 along the height."""
    (rows, columns), width = window.output(x.size(2), x.size(3)), x.size(3)
    across = graph.constant(window.reads(1, width, columns).reshape(window.kernel[1], -1))
    each = graph.op("MatMul", graph.reshape(weight, (-1, window.kernel[1])), across)
    matrices = graph.reshape(each, (weight.size(0), window.kernel[0] * width, columns))
    tops = [window.shift(0, row)[0] for row in range(window.kernel[0])]
    return graph.transpose(_by_rows(graph, x, matrices, tops, rows), (1, 0, 2, 3))


def input_gradient_by_rows(graph: Graph, dy: Value, weight: Value, window: Window, size: Pair) -> Value:
    """The gradient of x [n, c, h, w]: as many of its rows as the stride from all rows of dy that have read them."""
    (height, width), columns, stride = size, dy.size(3), window.stride[0]
    # Row index of the kernel reads, for place i, row (i + top) * stride + phase.
    reads = [window.shift(0, row) for row in range(window.kernel[0])]
    tops = sorted({top for top, _ in reads})
    block = [[[read == (top, phase) for read in reads] for phase in range(stride)] for top in tops]
    down = graph.constant(np.reshape(block, (-1, window.kernel[0])), "float32")
    across = graph.constant(window.reads(1, width, columns).swapaxes(1, 2).reshape(window.kernel[1], -1))
    each = graph.op("MatMul", down, graph.op("MatMul", graph.reshape(weight, (-1, *window.kernel)), across))
    ordered = graph.transpose(graph.reshape(each, (-1, len(tops), stride, columns, width)), (0, 1, 3, 2, 4))
    matrices = graph.reshape(ordered, (-1, len(tops) * columns, stride * width))
    made = _by_rows(graph, dy, matrices, [-top for top in tops], -(-height // stride))
    whole = graph.reshape(made, (weight.size(0), dy.size(0), -1, width))
    return graph.transpose(every(graph, whole, 2, 0, height, 1), (1, 0, 2, 3))


def _by_rows(graph: Graph, x: Value, matrices: Value, tops: Sequence[int], rows: int) -> Value:
    """[c, n, rows, .]: for each row i the products of rows i + top of x [n, c, h, w] with each channel's matrix."""
    channels, batch = x.size(1), x.size(0)
    ordered = graph.transpose(x, (1, 0, 2, 3))
    read = join(graph, [shifted(graph, ordered, 2, top, rows) for top in tops], 3)
    made = graph.op("MatMul", graph.reshape(read, (channels, batch * rows, -1)), matrices)
    return graph.reshape(made, (channels, batch, rows, -1))


def weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """For each column of the kernel the product of the rows of dy with those of x, and its sums along diagonals."""
    batch, out, rows, columns = dy.sizes
    channels, height = x.size(1), x.size(2)
    repeats = out // channels
    parted = graph.reshape(dy, (batch, channels, repeats * rows, columns))
    signal = graph.reshape(graph.transpose(parted, (1, 2, 0, 3)), (channels, repeats * rows, batch * columns))
    images = graph.transpose(x, (1, 2, 0, 3))
    signal = graph.reshape(signal, (channels, 1, repeats * rows, batch * columns))
    each = []
    for part in _columns(graph, images, columns, window):
        read = graph.reshape(part, (channels, -1, height, batch * columns))
        each.append(graph.op("MatMul", signal, graph.transpose(read, (0, 1, 3, 2))))
    parted = graph.reshape(join(graph, each, 1), (channels, window.kernel[1], repeats, rows, height))
    products = graph.reshape(graph.transpose(parted, (0, 2, 1, 3, 4)), (out, window.kernel[1], rows, height))
    return graph.reshape(_diagonals(graph, products, window), weight.shape)


def _columns(graph: Graph, x: Value, count: int, window: Window) -> list[Value]:
    """What the columns of the kernel read along the last axis of x [c, h, n, w]: all at once or one after the other."""
    channels, height, batch, width = x.sizes
    if window.stride[1] == 1 and width > SHORT_ROW:
        lefts = [window.shift(1, column)[0] for column in range(window.kernel[1])]
        return [shifted(graph, x, 3, left, count) for left in lefts]
    # A strided Slice, and a Pad of short rows, take longer than a product.
    picks = graph.constant(window.reads(1, width, count))
    return [graph.op("MatMul", graph.reshape(x, (channels, 1, height * batch, width)), picks)]


def _diagonals(graph: Graph, products: Value, window: Window) -> Value:
    """[out, kw, h', h] -> [out, kh, kw]: for each row of the kernel the sum where row h is what it reads at place h'.

    With rows of ``length`` elements laid end to end and cut anew, ``stride`` elements longer, diagonals are columns.
    """
    out, columns, places, _ = products.sizes
    stride, reach = window.stride[0], window.reach[0]
    length = (places - 1) * stride + reach + 1
    padded = graph.pad(products, [3], [window.before[0]], [window.after[0]])
    read = every(graph, padded, 3, 0, length, 1)
    flat = graph.pad(graph.reshape(read, (out, columns, places * length)), [2], [0], [places * stride])
    skewed = graph.reshape(flat, (out, columns, places, length + stride))
    kept = graph.slice(skewed, 3, 0, reach + 1, window.dilation[0])
    return graph.transpose(graph.sum(kept, [2], keep=False), (0, 2, 1))
