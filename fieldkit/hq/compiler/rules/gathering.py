"""Elements taken from an axis at constant places, and gradients given back to them without a scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value

Places = np.ndarray[Any, np.dtype[np.int64]]

# Up to this many entries a matrix of zeros and ones gives back to the last axis, where Gather copies number by number.
MATRIX_LIMIT = 1 << 14


def taken(graph: Graph, x: Value, axis: int, places: Places) -> Value:
    """x at ``places`` (from 0, of any shape) along an axis: [..., size, ...] -> [..., *places.shape, ...]."""
    if places.ndim and np.array_equal(places.ravel(), np.arange(x.size(axis))):
        return graph.reshape(x, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))
    return graph.op("Gather", x, graph.constant(places, "int32"), axis=axis)


def given_back(graph: Graph, dy: Value, axis: int, places: Places, size: int) -> Value:
    """The way back of ``taken``: each place of the axis gets the sum of what was taken from it.

    Each place looks up where it was taken to, as often as the one taken most often; what is missing reads a zero.
    """
    count = places.size
    merged = graph.reshape(dy, (*dy.shape[:axis], count, *dy.shape[axis + places.ndim :]))
    if axis == merged.rank - 1 and count * size <= MATRIX_LIMIT:
        return graph.op("MatMul", merged, graph.constant(np.eye(size)[places.ravel()], merged.dtype))
    sources = _sources(places.ravel(), size)
    padded = graph.pad(merged, [axis], [0], [1]) if sources.max() == count else merged
    parts = taken(graph, padded, axis, sources)
    return graph.sum(parts, [axis + 1], keep=False)


def _sources(places: Places, size: int) -> Places:
    """For each place the positions in ``places`` that hold it, filled up with the number of positions: [size, most]."""
    counts = np.bincount(places, minlength=size)
    order = np.argsort(places, kind="stable")
    number = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    sources = np.full((size, max(counts.max(initial=0), 1)), len(places))
    sources[places[order], number] = order
    return sources
