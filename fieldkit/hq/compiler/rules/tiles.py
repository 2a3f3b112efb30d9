"""Images as tiles that do not overlap: their means, and a number spread over each."""

from __future__ import annotations

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.window import Pair

# Above this width the product that sums does too much arithmetic for what it saves in memory traffic.
PRODUCT_WIDTH = 64


def averaged(graph: Graph, x: Value, tile: Pair) -> Value:
    """The mean of each tile of x [n, c, h, w]; what is left beyond the last whole tile has no part in it.

    In a train step this is a product with a constant matrix, a third faster than AveragePool, for which onnxruntime
    reorders the whole tensor first.
    """
    if tile == (x.size(2), x.size(3)):
        return graph.mean(x, [2, 3], keep=True)
    if x.trains and _is_product(x, tile):
        return _product(graph, x, tile, 1.0 / (tile[0] * tile[1]))
    return graph.op("AveragePool", x, kernel_shape=list(tile), strides=list(tile))


def summed(graph: Graph, x: Value, tile: Pair) -> Value:
    """The sum over each tile of x [n, c, h, w]."""
    if _is_product(x, tile):
        return _product(graph, x, tile, 1.0)
    means = graph.op("AveragePool", x, kernel_shape=list(tile), strides=list(tile))
    return graph.op("Mul", means, graph.constant(tile[0] * tile[1], "float32"))


def _is_product(x: Value, tile: Pair) -> bool:
    height, width = x.size(2), x.size(3)
    return width <= PRODUCT_WIDTH and height % tile[0] == 0 and width % tile[1] == 0


def _product(graph: Graph, x: Value, tile: Pair, weight: float) -> Value:
    """``weight`` times the sum of each tile: the rows of one row of tiles, laid end to end, times a matrix."""
    height, width = x.size(2), x.size(3)
    rows, columns = height // tile[0], width // tile[1]
    across = np.kron(np.eye(columns), np.full((tile[1], 1), weight))
    matrix = graph.constant(np.tile(across, (tile[0], 1)), "float32")
    bands = graph.reshape(x, (*x.shape[:2], rows, tile[0] * width))
    return graph.op("MatMul", bands, matrix)


def spread(graph: Graph, tiles: Value, tile: Pair) -> Value:
    """Each tile's number at each of its places: [n, c, h, w] -> [n, c, h * tile[0], w * tile[1]]."""
    if tile == (1, 1):
        return tiles
    scales = graph.constant([1.0, 1.0, *tile], "float32")
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.op("Resize", tiles, None, scales, **settings)


def spread_over(graph: Graph, tiles: Value, tile: Pair, like: Value) -> Value:
    """As ``spread``, with zeros beyond the last whole tile up to the size of ``like``."""
    wide = spread(graph, tiles, tile)
    return graph.pad(wide, [2, 3], [0, 0], [like.size(2) - wide.size(2), like.size(3) - wide.size(3)])
