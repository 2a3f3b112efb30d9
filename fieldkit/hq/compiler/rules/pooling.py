"""Rules of pooling over one or two axes: averages and maxima of windows, and of a fixed number of parts.

What lies over one axis is compiled as an image of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules import maxima, separable, tiles
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.window import Pair, Window, pair

Made = tuple[Value, Pullback | None]
Numbers = Sequence[int]
Averaging = Callable[[torch.Tensor], torch.Tensor]


def average(
    call: Call,
    x: Value,
    kernel: Numbers,
    stride: Numbers = (),
    padding: Numbers = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Made:
    """The mean of each window of x [n, c, h, w], or its sum divided by ``divisor``."""
    window = _window(call, x, kernel, stride, padding, (1,))
    if not any((*window.before, *window.after)) and window.kernel == window.stride and divisor is None:
        return _average_of_tiles(call, x, window.kernel)
    if not x.trains and not ceil and divisor is None:
        settings = {"kernel_shape": list(window.kernel), "strides": list(window.stride)}
        # The padding on both sides counts, whether or not the last window reaches it.
        pads = _both(call, padding, 0) * 2
        y = call.graph.op("AveragePool", _images(call, x), **settings, pads=pads, count_include_pad=int(count_padding))
        return call.graph.reshape(y, call.shape), None

    def averaging(axis: int, share: int | None) -> Averaging:
        sizes = ((1, each[axis]) for each in (window.kernel, window.stride))
        pads = (0, window.before[axis])
        return lambda eye: torch.ops.aten.avg_pool2d(eye, *sizes, pads, ceil, count_padding, share)

    # A divisor divides once, not along each axis.
    return _product(call, x, averaging(0, None if divisor is None else 1), averaging(1, divisor))


def _average_of_tiles(call: Call, x: Value, tile: Pair) -> Made:
    graph = call.graph
    images = _images(call, x)
    y = tiles.averaged(graph, images, tile)

    def pullback(gradient: Value) -> tuple[Value]:
        dy = graph.reshape(gradient, y.shape)
        share = graph.op("Mul", dy, graph.constant(1.0 / (tile[0] * tile[1]), "float32"))
        return (graph.reshape(tiles.spread_over(graph, share, tile, images), x.shape),)

    return graph.reshape(y, call.shape), pullback


def _product(call: Call, x: Value, vertical: Averaging, horizontal: Averaging) -> Made:
    """An average that is one along each axis, as torch does them."""
    graph = call.graph
    images = _images(call, x)
    rows, columns = separable.matrix(vertical, images.size(2)), separable.matrix(horizontal, images.size(3))
    y = separable.apply(graph, images, rows, columns)

    def pullback(gradient: Value) -> tuple[Value]:
        dy = graph.reshape(gradient, y.shape)
        return (graph.reshape(separable.apply(graph, dy, rows.T, columns.T), x.shape),)

    return graph.reshape(y, call.shape), pullback


def adaptive_average(call: Call, x: Value, _size: Numbers) -> Made:
    """The means of as many parts as the output has places; parts of a size that does not divide overlap."""
    tile = _parts(call, x)
    if tile is not None:
        return _average_of_tiles(call, x, tile)
    height, width = _output(call)

    def averaging(count: int) -> Averaging:
        return lambda eye: torch.ops.aten._adaptive_avg_pool2d(eye, (1, count))

    return _product(call, x, averaging(height), averaging(width))


def maximum(
    call: Call,
    x: Value,
    kernel: Numbers,
    stride: Numbers = (),
    padding: Numbers = (0,),
    dilation: Numbers = (1,),
    _ceil: bool = False,
) -> Made:
    """The gradient goes to the first of equal maxima, as torch does."""
    return _maximum(call, x, _window(call, x, kernel, stride, padding, dilation))


def _maximum(call: Call, x: Value, window: Window) -> Made:
    graph = call.graph
    images = _images(call, x)
    if not maxima.is_filled(images.size(2), images.size(3), window):
        raise call.refuse("a window in the padding alone", "windows that reach the image", "pad less")
    y = maxima.pooled(graph, images, window)

    def pullback(gradient: Value) -> tuple[Value]:
        dy = graph.reshape(gradient, y.shape)
        return (graph.reshape(maxima.gradient(graph, dy, images, y, window), x.shape),)

    return graph.reshape(y, call.shape), pullback


def maximum_and_places(call: Call, x: Value, *settings: Any) -> tuple[tuple[Value, Value], Pullback | None]:
    """``maximum`` with the place of each maximum in its image beside it."""
    call = replace(call, result=call.result[0])
    return _with_places(call, x, _window(call, x, *settings[:4]))


def adaptive_maximum(call: Call, x: Value, _size: Numbers) -> tuple[tuple[Value, Value], Pullback | None]:
    """The maxima of as many parts as the output has places, and where they lie."""
    call = replace(call, result=call.result[0])
    tile = _parts(call, x)
    if tile is None:
        found = f"{_output(call)} parts of {_sizes(call, x)} pixels"
        raise call.refuse(found, "parts of one size", "choose a number of parts that divides the image")
    return _with_places(call, x, Window(tile, tile))


def _with_places(call: Call, x: Value, window: Window) -> tuple[tuple[Value, Value], Pullback | None]:
    y, back = _maximum(call, x, window)
    numbers = call.graph.reshape(maxima.places(call.graph, _images(call, x), window), call.shape)
    return (y, numbers), back and (lambda dy, _numbers: back(dy))


def _window(
    call: Call, x: Value, kernel: Numbers, stride: Numbers = (), padding: Numbers = (0,), dilation: Numbers = (1,)
) -> Window:
    """How the kernel moves; whether a last window may lie partly outside is in the size that torch gives the result."""
    size = _both(call, kernel, 1)
    before = _both(call, padding, 0)
    window = Window(size, _both(call, stride or kernel, 1), before, dilation=_both(call, dilation, 1))
    lengths = zip(_output(call), _sizes(call, x), before, window.reach, window.stride, strict=True)
    after = [(count - 1) * step + reach + 1 - pad - size for count, size, pad, reach, step in lengths]
    return replace(window, after=(max(after[0], 0), max(after[1], 0)))


def _parts(call: Call, x: Value) -> Pair | None:
    """The size of the parts that an adaptive pooling makes of the image, if they are all of one size."""
    (height, width), (rows, columns) = _sizes(call, x), _output(call)
    return None if height % rows or width % columns else (height // rows, width // columns)


def _axes(call: Call) -> int:
    """Over how many axes an operator pools, which its name says."""
    return 1 if "1d" in call.operator else 2


def _both(call: Call, numbers: Numbers, missing: int) -> Pair:
    """The numbers for height and width; over one axis the height's is ``missing``."""
    first, second = pair(numbers)
    return (first, second) if _axes(call) == 2 else (missing, second)


def _output(call: Call) -> Pair:
    """Height and width of the result."""
    return _last_two(call.shape, _axes(call))


def _sizes(call: Call, x: Value) -> Pair:
    """Height and width of the images."""
    return _last_two(x.shape, _axes(call))


def _last_two(shape: Sequence[Dim], axes: int) -> Pair:
    return (int(shape[-2]) if axes == 2 else 1, int(shape[-1]))


def _images(call: Call, x: Value) -> Value:
    """x as [n, c, h, w]; n may be what torch calls the channels, if it pools a single image."""
    axes = _axes(call)
    leading = (*x.shape[:-axes], 1, 1)[:2]
    return call.graph.reshape(x, (*leading, *([1] * (2 - axes)), *x.shape[-axes:]))


RULES: dict[str, Rule] = {
    "aten.avg_pool1d.default": average,
    "aten.avg_pool2d.default": average,
    "aten.adaptive_avg_pool1d.default": adaptive_average,
    "aten.adaptive_avg_pool2d.default": adaptive_average,
    "aten._adaptive_avg_pool2d.default": adaptive_average,
    "aten.max_pool1d.default": maximum,
    "aten.max_pool2d.default": maximum,
    "aten.max_pool1d_with_indices.default": maximum_and_places,
    "aten.max_pool2d_with_indices.default": maximum_and_places,
    "aten.adaptive_max_pool1d.default": adaptive_maximum,
    "aten.adaptive_max_pool2d.default": adaptive_maximum,
}
