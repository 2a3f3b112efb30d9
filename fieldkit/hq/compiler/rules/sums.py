"""Sums over some axes of a tensor, by the kernels that onnxruntime is fast at.

Its ``ReduceSum`` is fast along the last axes only.  Over the first ones a product with a row of ones takes a half to a
tenth of the time, and over several that are no neighbours one sum after the other a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value

# From this length on, a product of rows and columns is faster than the rows' elementwise product and its sums.
LONG = 1024
# Below this length, onnxruntime sums faster over what stands before the last axes first.
SHORT = 32


def summed(graph: Graph, x: Value, axes: Sequence[int], *, keep: bool) -> Value:
    """The sum of x over ``axes`` (from 0), which stay with one element if ``keep``."""
    runs = _runs(sorted(axes))
    if runs and not _is_short(x, runs[-1]):
        runs.reverse()
    y = x
    for run in runs:
        y = _sum_of_neighbours(graph, y, run)
    return y if keep else graph.reshape(y, [n for axis, n in enumerate(x.shape) if axis not in axes])


def averaged(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """The mean of x over ``axes`` (from 0), which stay with one element; for a free batch too."""
    for run in reversed(_runs(sorted(axes))):
        x = graph.mean(x, run, keep=True)
    return x


def inner(graph: Graph, a: Value, b: Value, count: int) -> Value:
    """The sum of a * b over the last ``count`` axes, which stay with one element; a and b have one static shape."""
    lead, length = a.sizes[: a.rank - count], math.prod(a.sizes[a.rank - count :])
    if length < LONG:
        return summed(graph, graph.op("Mul", a, b), range(a.rank - count, a.rank), keep=True)
    left, right = (graph.reshape(each, (math.prod(lead), 1, length)) for each in (a, b))
    # onnxruntime takes the transposition into the product.
    product = graph.op("MatMul", left, graph.transpose(right, (0, 2, 1)))
    return graph.reshape(product, (*lead, *(1 for _ in range(count))))


def filled(graph: Graph, number: float, count: int) -> Value:
    """float32[count], all of them ``number``."""
    return graph.op("Expand", graph.constant([number], "float32"), graph.constant([count], "int64"))


def _runs(axes: Sequence[int]) -> list[list[int]]:
    """Axes in order, neighbours together."""
    runs: list[list[int]] = []
    for axis in axes:
        if runs and axis == runs[-1][-1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs


def _is_short(x: Value, run: Sequence[int]) -> bool:
    sizes = [x.shape[axis] for axis in run]
    return all(isinstance(n, int) for n in sizes) and math.prod(x.size(axis) for axis in run) < SHORT


def _sum_of_neighbours(graph: Graph, x: Value, run: Sequence[int]) -> Value:
    before, sizes, after = x.shape[: run[0]], x.shape[run[0] : run[-1] + 1], x.shape[run[-1] + 1 :]
    static = all(isinstance(n, int) for n in x.shape)
    if not static or x.dtype != "float32" or any(n != 1 for n in before) or all(n == 1 for n in after):
        return graph.sum(x, run, keep=True)
    rows = math.prod(int(n) for n in sizes)
    if rows == 1:
        return x
    ones = graph.reshape(filled(graph, 1.0, rows), (1, rows))
    columns = graph.op("MatMul", ones, graph.reshape(x, (rows, math.prod(int(n) for n in after))))
    return graph.reshape(columns, (*before, *(1 for _ in run), *after))
