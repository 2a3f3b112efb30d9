"""Rules of layers that normalise the last axes by themselves: layer and RMS normalisation.

With s the standardised values of a row of k, g = dy * weight, S1 = sum(g) and S2 = sum(g * s),

    dx = rstd * (g - S1 / k - s * S2 / k),   dweight = sum over rows of dy * s,   dbias = sum over rows of dy.

S1 and S2 are the products of dy and of dy * s with the vector of weights, so that g * s is never made.  RMS
normalisation is the same without a mean, and so without S1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fieldkit.hq.compiler.graph import Graph, stopped
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.standardisation import (
    reciprocal_root,
    scale_cells,
    standardise,
    standardise_each,
    trains,
)
from fieldkit.hq.compiler.rules.sums import summed

Made = tuple[Value, Pullback | None]


def layer_norm(
    call: Call,
    x: Value,
    normalised: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Made:
    """(x - mean) * rstd over the last axes, then a scale and an offset per value."""
    graph = call.graph
    shape = _rows(x, len(normalised))
    width = shape[-1]
    if not trains(x, weight, bias):
        standard = standardise_each(graph, graph.reshape(x, shape), eps)
        return graph.reshape(_affine(graph, standard, weight, bias), x.shape), None
    standard, moments = standardise(graph, graph.reshape(x, shape), eps)

    def pullback(gradient: Value, *_statistics: Value | None) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, shape)
        products = graph.op("Mul", dy, standard)
        rstd = moments.rstd(graph)
        share = graph.op("Mul", rstd, graph.constant(-1.0 / width, "float32"))
        level, slope = (
            graph.op("Mul", graph.reshape(_row_sums(graph, each, weight), rstd.shape), share) for each in (dy, products)
        )
        direct = graph.op("Mul", _affine(graph, dy, weight), graph.reshape(rstd, (1, shape[1], 1)))
        dx = graph.op("Add", direct, scale_cells(graph, standard, slope, level))
        return (
            graph.reshape(dx, x.shape),
            None,
            None if weight is None else _column_sums(graph, products, weight),
            None if bias is None else _column_sums(graph, dy, bias),
        )

    return graph.reshape(_affine(graph, standard, weight, bias), x.shape), pullback


def native_layer_norm(
    call: Call, x: Value, normalised: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[tuple[Value, Value, Value], Pullback | None]:
    """As ``layer_norm``, with the rows' means and 1 / std beside it."""
    graph = call.graph
    y, pullback = layer_norm(call, x, normalised, weight, bias, eps)
    axes = list(range(x.rank - len(normalised), x.rank))
    mean = graph.mean(x, axes, keep=True)
    centred = graph.op("Sub", x, mean)
    rstd = reciprocal_root(graph, graph.mean(graph.op("Mul", centred, centred), axes, keep=True), eps)
    return (y, stopped(mean), stopped(rstd)), pullback


def rms_norm(
    call: Call, x: Value, normalised: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Made:
    """x / sqrt(mean of x^2 + eps) over the last axes, then a scale per value."""
    (y, _), pullback = fused_rms_norm(call, x, normalised, weight, eps)
    return y, pullback


def fused_rms_norm(
    call: Call, x: Value, normalised: Sequence[int], weight: Value | None, eps: float | None
) -> tuple[tuple[Value, Value], Pullback | None]:
    """As ``rms_norm``, with 1 / rms beside it."""
    graph = call.graph
    shape = _rows(x, len(normalised))
    rows = graph.reshape(x, shape)
    square = graph.mean(graph.op("Mul", rows, rows), [2], keep=True)
    factor = reciprocal_root(graph, square, float(np.finfo(np.float32).eps) if eps is None else eps)
    standard = graph.op("Mul", rows, factor)

    def pullback(gradient: Value, *_factor: Value | None) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, shape)
        products = graph.op("Mul", dy, standard)
        slope = graph.op("Mul", _row_sums(graph, products, weight), graph.constant(1.0 / shape[-1], "float32"))
        along = graph.op("Sub", _affine(graph, dy, weight), graph.op("Mul", standard, slope))
        dx = graph.reshape(graph.op("Mul", along, factor), x.shape)
        return dx, None, None if weight is None else _column_sums(graph, products, weight)

    kept = (*x.shape[: x.rank - len(normalised)], *(1 for _ in normalised))
    y = graph.reshape(_affine(graph, standard, weight), x.shape)
    return (y, stopped(graph.reshape(factor, kept))), pullback


def _rows(x: Value, count: int) -> tuple[Dim, int, int]:
    """(1 or the free batch, rows, values in a row), where the last ``count`` axes make the rows."""
    cut = x.rank - count
    free = 1 if cut and isinstance(x.shape[0], str) else 0
    rows, width = (math.prod(x.size(axis) for axis in axes) for axes in (range(free, cut), range(cut, x.rank)))
    return x.shape[0] if free else 1, rows, width


def _affine(graph: Graph, x: Value, weight: Value | None, bias: Value | None = None) -> Value:
    """x * weight + bias along the rows x[a, rows, k]."""
    width = (x.size(2),)
    x = x if weight is None else graph.op("Mul", x, graph.reshape(weight, width))
    return x if bias is None else graph.op("Add", x, graph.reshape(bias, width))


def _row_sums(graph: Graph, x: Value, weight: Value | None) -> Value:
    """The sum of each row of x[1, rows, k], weighted by ``weight``: [1, rows, 1]."""
    if weight is None:
        return graph.sum(x, [2], keep=True)
    return graph.op("MatMul", x, graph.reshape(weight, (x.size(2), 1)))


def _column_sums(graph: Graph, x: Value, like: Value) -> Value:
    """The sum over the rows of x[1, rows, k], in the shape of ``like``."""
    return graph.reshape(summed(graph, x, [1], keep=True), like.shape)


RULES: dict[str, Rule] = {
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten._fused_rms_norm.default": fused_rms_norm,
}
