"""Linear maps of images that work along height and along width: y = rows x columns^T, with constant matrices.

Averages over windows and every kind of interpolation are of this form, and the way back is the transposed pair.  Matrix
products are what onnxruntime is best at: overlapping windows need no scatter, and torch's own coordinates are kept,
because torch itself computes the matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fieldkit.hq.compiler.graph import FOLD_LIMIT, Graph
from fieldkit.hq.compiler.nodes import Array, Value


def matrix(function: Callable[[torch.Tensor], torch.Tensor], size: int) -> Array:
    """What ``function``, linear along the last axis of [n, c, 1, size], does to it: float32[out, size]."""
    with torch.no_grad():
        images = torch.eye(size).reshape(1, size, 1, size)
        return np.ascontiguousarray(function(images)[0, :, 0].numpy().T)


def apply(graph: Graph, x: Value, rows: Array, columns: Array) -> Value:
    """rows x columns^T for each channel: x [n, c, h, w], rows [h', h], columns [w', w] -> [n, c, h', w']."""
    (more, height), (wide, width) = rows.shape, columns.shape
    if rows.size * columns.size <= FOLD_LIMIT:
        # One product over all pixels of a small image.
        flat = graph.reshape(x, (*x.shape[:2], height * width))
        whole = graph.op("MatMul", flat, graph.constant(np.kron(rows, columns).T, "float32"))
        return graph.reshape(whole, (*x.shape[:2], more, wide))
    rows_last = height * width * wide + more * height * wide
    rows_first = more * height * width + more * width * wide
    if rows_first < rows_last:
        return _along_width(graph, _along_height(graph, x, rows), columns)
    return _along_height(graph, _along_width(graph, x, columns), rows)


def _along_width(graph: Graph, x: Value, columns: Array) -> Value:
    return x if _is_identity(columns) else graph.op("MatMul", x, graph.constant(columns.T, "float32"))


def _along_height(graph: Graph, x: Value, rows: Array) -> Value:
    return x if _is_identity(rows) else graph.op("MatMul", graph.constant(rows, "float32"), x)


def _is_identity(matrix: Array) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool((matrix == np.eye(len(matrix))).all())
