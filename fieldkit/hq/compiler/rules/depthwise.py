"""Convolutions whose groups hold one input channel each."""

from __future__ import annotations

from dataclasses import replace

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.window import Window, every


def weight_gradient(graph: Graph, dy: Value, x: Value, weight: Value, window: Window) -> Value:
    """The convolution of each channel of each image with its own signal, summed over images.

    Each place of the kernel reads the image ``stride`` apart and starts ``dilation`` from the next: as a convolution
    with the signal for a kernel, the two are exchanged.
    """
    batch, out, height, width = dy.sizes
    repeats = out // x.size(1)
    padded = graph.pad(x, [2, 3], window.before, window.after)
    # What the stride leaves unread would make more places than the kernel has.
    for axis, count, stride, reach in zip((2, 3), (height, width), window.stride, window.reach, strict=True):
        padded = every(graph, padded, axis, 0, (count - 1) * stride + reach + 1, 1)
    channels = batch * x.size(1)
    images = graph.reshape(padded, (1, channels, padded.size(2), padded.size(3)))
    signal = graph.reshape(dy, (channels * repeats, 1, height, width))
    exchanged = replace(Window((height, width), groups=channels), stride=window.dilation, dilation=window.stride)
    each = graph.op("Conv", images, signal, **exchanged.attributes())
    return graph.sum(graph.reshape(each, (batch, *weight.sizes)), [0], keep=False)
