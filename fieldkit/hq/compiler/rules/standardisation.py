"""The two kernels of which normalisations are made, both ONNX's ``BatchNormalization``.

In its training form the operator measures the mean of each cell (an index of axis 1) and the variance about that mean,
and standardises; in its other form it is an affine map per cell, in one pass.  Written out in ``ReduceMean``, ``Sub``,
``Mul`` and ``Add`` either takes 2.5 times as long, and the centred tensor would have to be kept for the way back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.sums import filled


@dataclass(frozen=True)
class Moments:
    """What a tensor's cells were standardised by.

    mean, variance: float32[cells], the variance of the values themselves (divided by their number).
    """

    mean: Value
    variance: Value
    eps: float

    def rstd(self, graph: Graph) -> Value:
        """1 / sqrt(variance + eps), float32[cells]."""
        return reciprocal_root(graph, self.variance, self.eps)


def reciprocal_root(graph: Graph, x: Value, eps: float) -> Value:
    """1 / sqrt(x + eps)."""
    return graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", x, graph.constant(eps, "float32"))))


def standardise(
    graph: Graph, x: Value, eps: float, scale: Value | None = None, offset: Value | None = None
) -> tuple[Value, Moments]:
    """(x - mean) / sqrt(variance + eps) * scale + offset by each cell's own moments.

    x: float32[n, cells, ...].  scale, offset: float32[cells], by default 1 and 0.
    """
    cells = x.size(1)
    scale = filled(graph, 1.0, cells) if scale is None else scale
    offset = filled(graph, 0.0, cells) if offset is None else offset
    # With a momentum of 0 the "running" results are this tensor's own moments, whatever the last two inputs are.  They
    # must be tensors of their own all the same, not constants or anyone's: onnxruntime writes the results over them.
    corner = x
    for axis in (each for each, size in enumerate(x.shape) if each != 1 and size != 1):
        corner = graph.slice(corner, axis, 0, 1)
    corner = graph.reshape(corner, (cells,))
    inputs = (x, scale, offset, graph.op("Neg", corner), graph.op("Abs", corner))
    y, mean, variance = graph.ops("BatchNormalization", *inputs, count=3, epsilon=eps, momentum=0.0, training_mode=1)
    return y, Moments(mean, variance, eps)


def standardise_each(
    graph: Graph, x: Value, eps: float, scale: Value | None = None, offset: Value | None = None
) -> Value:
    """As ``standardise``, but with moments of each pair of n and cell: where the way back is not needed."""
    scale = filled(graph, 1.0, x.size(1)) if scale is None else scale
    offset = filled(graph, 0.0, x.size(1)) if offset is None else offset
    return graph.op("InstanceNormalization", x, scale, offset, epsilon=eps)


def rescale(graph: Graph, x: Value, moments: Moments, scale: Value, offset: Value) -> Value:
    """(x - mean) / sqrt(variance + eps) * scale + offset by given moments, cell by cell."""
    return graph.op("BatchNormalization", x, scale, offset, moments.mean, moments.variance, epsilon=moments.eps)


def scale_cells(graph: Graph, x: Value, scale: Value | None, offset: Value | None) -> Value:
    """x * scale + offset, cell by cell, in one pass; as it is where both are None."""
    if scale is None and offset is None:
        return x
    zeros, ones = filled(graph, 0.0, x.size(1)), filled(graph, 1.0, x.size(1))
    neutral = Moments(zeros, ones, 0.0)
    return rescale(graph, x, neutral, ones if scale is None else scale, zeros if offset is None else offset)


def line(graph: Graph, x: Value, slope: float, level: float) -> Value:
    """slope * x + level in one pass; x is float32, of any static shape."""
    cells = x if x.rank > 1 else graph.reshape(x, (1, math.prod(x.sizes)))
    numbers = (filled(graph, each, cells.size(1)) for each in (slope, level))
    return graph.reshape(scale_cells(graph, cells, *numbers), x.shape)


def trains(*values: Value | None) -> bool:
    """Whether a gradient is wanted for any of these."""
    return any(each is not None and each.trains for each in values)
