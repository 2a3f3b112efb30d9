"""Rules of layers that normalise by the statistics of their own input."""

from __future__ import annotations

import math

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

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
    """(x - mean) * rstd over each image's groups of channels, then a scale and an offset per channel.

    With c = x - mean, g = dy * weight, S1 = sum(g) and S2 = sum(g * c) over the m values of a group,
    dx = rstd * (g - S1 / m - c * rstd^2 * S2 / m): everything but dy and c is one number per image and channel.
    """
    graph = call.graph
    channels, pixels = x.size(1), math.prod(x.size(axis) for axis in range(2, x.rank))
    per = channels // groups
    count = graph.constant(1.0 / (per * pixels), "float32")
    # Axes from here on: image, group, channel within the group, pixel.
    wide = graph.reshape(x, (x.shape[0], groups, per, pixels))
    centred = graph.op("Sub", wide, graph.mean(wide, [2, 3], keep=True))
    # ReduceSumSquare would save a tensor, but takes four times as long as the two steps.
    variance = graph.mean(graph.op("Mul", centred, centred), [2, 3], keep=True)
    rstd = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", variance, graph.constant(eps, "float32"))))
    scale = graph.constant([[[[1.0]]]], "float32") if weight is None else graph.reshape(weight, (1, groups, per, 1))
    gain = graph.op("Mul", rstd, scale)
    y = graph.op("Mul", centred, gain)
    if bias is not None:
        y = graph.op("Add", y, graph.reshape(bias, (1, groups, per, 1)))

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, wide.shape)
        sums = graph.sum(dy, [3], keep=True)
        products = graph.sum(graph.op("Mul", dy, centred), [3], keep=True)
        first = graph.op("Mul", graph.sum(graph.op("Mul", sums, scale), [2], keep=True), count)
        second = graph.op("Mul", graph.sum(graph.op("Mul", products, scale), [2], keep=True), count)
        slope = graph.op("Mul", graph.op("Mul", graph.op("Mul", rstd, rstd), rstd), second)
        moved = graph.op("Add", graph.op("Mul", centred, slope), graph.op("Mul", rstd, first))
        dx = graph.op("Sub", graph.op("Mul", dy, gain), moved)
        dweight = graph.sum(graph.op("Mul", products, rstd), [0], keep=False)
        return (
            graph.reshape(dx, x.shape),
            None,
            None if weight is None else graph.reshape(dweight, weight.shape),
            None if bias is None else graph.reshape(graph.sum(sums, [0], keep=False), bias.shape),
        )

    return graph.reshape(y, x.shape), pullback


RULES: dict[str, Rule] = {
    "aten.group_norm.default": group_norm,
}
