"""Rules of layers that normalise each image by itself, over groups of channels.

With g = dy * weight, S1 = sum(g) and S2 = sum(g * (x - mean)) * rstd over the m values of an image's group,

    dx = rstd * (g - S1 / m - (x - mean) * rstd * S2 / m):

everything but dy and x is one number per image and channel (see ``batch_norm.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.batch_norm import batch_norm
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.standardisation import rescale, scale_cells, standardise, standardise_each, trains
from fieldkit.hq.compiler.rules.sums import inner, summed

Made = tuple[Value, Pullback | None]


def group_norm(
    call: Call,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Made:
    """(x - mean) * rstd over each image's groups of channels, then a scale and an offset per channel."""
    if not trains(x, weight, bias):
        return _without_gradient(call.graph, x, groups, (weight, bias), eps), None
    graph = call.graph
    batch, channels, pixels = x.size(0), x.size(1), math.prod(x.sizes[2:])
    per = channels // groups
    cells = graph.reshape(x, (1, batch * groups, per * pixels))
    if per == 1:
        y, moments = standardise(graph, cells, eps, *(_repeated(graph, each, batch) for each in (weight, bias)))
    else:
        standard, moments = standardise(graph, cells, eps)
        y = scale_cells(graph, graph.reshape(standard, (batch, channels, pixels)), weight, bias)

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        # Axes from here on: image, group, channel within the group, pixel.
        wide = (batch, groups, per, pixels)
        dy, each_group = graph.reshape(gradient, wide), (batch, groups, 1, 1)
        scale = None if weight is None else graph.reshape(weight, (1, groups, per, 1))
        rstd, mean = graph.reshape(moments.rstd(graph), each_group), graph.reshape(moments.mean, each_group)
        sums = graph.sum(dy, [3], keep=True)
        products = inner(graph, dy, graph.reshape(x, wide), 1)
        along = graph.op("Mul", graph.op("Sub", products, graph.op("Mul", sums, mean)), rstd)
        share = graph.op("Mul", rstd, graph.constant(-1.0 / (per * pixels), "float32"))
        level, slope = (
            graph.reshape(graph.op("Mul", share, _over_group(graph, each, scale)), (batch * groups,))
            for each in (sums, along)
        )
        moved = graph.reshape(rescale(graph, cells, moments, slope, level), wide)
        gain = rstd if scale is None else graph.op("Mul", rstd, scale)
        return (
            graph.reshape(graph.op("Add", graph.op("Mul", dy, gain), moved), x.shape),
            None,
            None if weight is None else graph.reshape(summed(graph, along, [0], keep=True), weight.shape),
            None if bias is None else graph.reshape(summed(graph, sums, [0], keep=True), bias.shape),
        )

    return graph.reshape(y, x.shape), pullback


def _without_gradient(graph: Graph, x: Value, groups: int, affine: Sequence[Value | None], eps: float) -> Value:
    """Group normalisation where nothing trains, which also takes a free batch."""
    channels, pixels = x.size(1), math.prod(x.size(axis) for axis in range(2, x.rank))
    cells = graph.reshape(x, (x.shape[0], groups, channels // groups * pixels))
    if groups == channels:
        return graph.reshape(standardise_each(graph, cells, eps, *affine), x.shape)
    standard = graph.reshape(standardise_each(graph, cells, eps), (x.shape[0], channels, pixels))
    return graph.reshape(scale_cells(graph, standard, *affine), x.shape)


def _repeated(graph: Graph, x: Value | None, times: int) -> Value | None:
    """A number per channel as one per image and channel."""
    return None if x is None else graph.op("Tile", x, graph.constant([times], "int64"))


def _over_group(graph: Graph, x: Value, scale: Value | None) -> Value:
    """The sum over each group's channels of what was summed over their pixels, weighted by ``scale``."""
    return graph.sum(x if scale is None else graph.op("Mul", x, scale), [2], keep=True)


def instance_norm(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    by_input: bool,
    momentum: float,
    eps: float,
    _cudnn: bool,
) -> Made:
    """Each image's channels by themselves; with running statistics that are frozen, a batch normalisation by them."""
    if not by_input:
        return batch_norm(call, x, weight, bias, mean, variance, False, momentum, eps)
    if mean is not None:
        raise call.refuse(
            "instance normalisation that updates running statistics",
            "track_running_stats=False",
            "leave track_running_stats off, or use batch normalisation",
        )
    y, back = group_norm(call, x, x.size(1), weight, bias, eps)
    if back is None:
        return y, None

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dx, _, *rest = back(dy)
        return (dx, *rest)  # type: ignore[arg-type]

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.group_norm.default": group_norm,
    "aten.instance_norm.default": instance_norm,
}
