"""Rules of functions that treat what lies near 0, or below a number, apart: shrinkage and thresholds."""

from __future__ import annotations

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.masks import above, below

Made = tuple[Value, Pullback | None]


def soft_shrink(call: Call, x: Value, limit: float = 0.5) -> Made:
    """x moved towards 0 by ``limit``, and 0 where it would pass it."""
    graph = call.graph
    y = graph.op("Sub", x, graph.op("Clip", x, call.tensor(-limit), call.tensor(limit)))
    return y, lambda dy: (graph.op("Mul", dy, _far(call, x, limit)),)


def hard_shrink(call: Call, x: Value, limit: float = 0.5) -> Made:
    """x, or 0 between -limit and limit."""
    graph = call.graph
    far = _far(call, x, limit)
    return graph.op("Mul", x, far), lambda dy: (graph.op("Mul", dy, far),)


def threshold(call: Call, x: Value, limit: float, otherwise: float) -> Made:
    """x where it is above ``limit``, ``otherwise`` elsewhere."""
    graph = call.graph
    higher = above(graph, x, limit)
    rest = graph.op("Sub", call.tensor(otherwise), graph.op("Mul", higher, call.tensor(otherwise)))
    return graph.op("Add", graph.op("Mul", x, higher), rest), lambda dy: (graph.op("Mul", dy, higher),)


def _far(call: Call, x: Value, limit: float) -> Value:
    """1.0 where |x| > limit, else 0.0."""
    return call.graph.op("Add", above(call.graph, x, limit), below(call.graph, x, -limit))


RULES: dict[str, Rule] = {
    "aten.softshrink.default": soft_shrink,
    "aten.hardshrink.default": hard_shrink,
    "aten.threshold.default": threshold,
}
