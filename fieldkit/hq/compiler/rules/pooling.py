"""Rules of pooling over height and width, in tiles that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]

# Above this width the product that averages does too much arithmetic for what it saves in memory traffic.
PRODUCT_WIDTH = 64


def average(
    call: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil: bool = False,
    _count_padding: bool = True,
    _divisor: int | None = None,
) -> Made:
    if _divisor is not None:
        raise call.refuse(f"divisor {_divisor}", "the size of the kernel", "scale the result instead")
    tile = _tile(call, kernel, stride, padding, ceil)
    graph = call.graph
    y = _averaged(graph, x, tile)

    def pullback(dy: Value) -> tuple[Value]:
        share = graph.op("Mul", dy, graph.constant(1.0 / (tile[0] * tile[1]), "float32"))
        return (_spread(graph, share, tile, x),)

    return y, pullback


def _averaged(graph: Graph, x: Value, tile: tuple[int, int]) -> Value:
    """The mean of each tile.

    In a train step the rows of one row of tiles, laid end to end, are multiplied by a constant matrix: a third faster
    than AveragePool, for which onnxruntime reorders the whole tensor first.
    """
    height, width = x.size(2), x.size(3)
    if not x.trains or width > PRODUCT_WIDTH or height % tile[0] or width % tile[1]:
        return graph.op("AveragePool", x, kernel_shape=list(tile), strides=list(tile))
    rows, columns = height // tile[0], width // tile[1]
    across = np.kron(np.eye(columns), np.full((tile[1], 1), 1.0 / (tile[0] * tile[1])))
    matrix = graph.constant(np.tile(across, (tile[0], 1)), "float32")
    bands = graph.reshape(x, (*x.shape[:2], rows, tile[0] * width))
    return graph.op("MatMul", bands, matrix)


def maximum(
    call: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> Made:
    """The gradient goes to the first of equal maxima, as torch does."""
    if any(each != 1 for each in dilation):
        raise call.refuse(f"dilation {list(dilation)}", "dilation 1", "pool without dilation")
    tile = _tile(call, kernel, stride, padding, ceil)
    graph = call.graph
    attributes = {"kernel_shape": list(tile), "strides": list(tile)}
    if not x.trains:
        return graph.op("MaxPool", x, **attributes), None
    y, places = graph.ops("MaxPool", x, count=2, **attributes)

    def pullback(dy: Value) -> tuple[Value]:
        return (graph.op("Mul", _spread(graph, dy, tile, x), _chosen(graph, places, tile, x)),)

    return y, pullback


def _chosen(graph: Graph, places: Value, tile: tuple[int, int], x: Value) -> Value:
    """1 at the places that MaxPool chose and 0 elsewhere, in the shape of x.

    A comparison of each place's number with the chosen one, because a scatter runs on one core.
    """
    height, width = x.size(2), x.size(3)
    # MaxPool numbers places through the whole batch; within one image and channel float32 holds them exactly.
    number = graph.op("Mod", places, graph.constant(height * width, "int64"))
    chosen = _spread(graph, graph.cast(number, "float32"), tile, x)
    own = graph.constant(np.arange(height * width).reshape(height, width), "float32")
    return graph.cast(graph.op("Equal", chosen, own), "float32")


def _tile(
    call: Call, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: bool
) -> tuple[int, int]:
    """Height and width of the tiles; a pooling that overlaps or pads is refused."""
    size = (int(kernel[0]), int(kernel[-1]))
    step = (int(stride[0]), int(stride[-1])) if stride else size
    if step != size or any(padding) or ceil:
        found = f"kernel {size}, stride {step}, padding {tuple(padding)}, ceil_mode {ceil}"
        raise call.refuse(found, "stride equal to the kernel and no padding", "pool without overlap or padding")
    return size


def _spread(graph: Graph, tiles: Value, tile: tuple[int, int], like: Value) -> Value:
    """Each tile's number at each of its places, and zeros beyond the last whole tile."""
    scales = graph.constant([1.0, 1.0, *tile], "float32")
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    wide = tiles if tile == (1, 1) else graph.op("Resize", tiles, None, scales, **settings)
    missing = [like.size(2) - wide.size(2), like.size(3) - wide.size(3)]
    return graph.pad(wide, [2, 3], [0, 0], missing)


RULES: dict[str, Rule] = {
    "aten.avg_pool2d.default": average,
    "aten.max_pool2d.default": maximum,
}
