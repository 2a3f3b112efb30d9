"""Rules of vectors that are brought to length 1: weight normalisation and the cosine of an angle.

With u = v / |v| the change of u for a change of v is (dv - u (u . dv)) / |v|, and so is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, gradient_for

Made = tuple[Value, Pullback | None]


def weight_norm(call: Call, v: Value, g: Value, axis: int = 0) -> Made:
    """g v / |v|, a length for each place along ``axis`` or, of -1, for all (Salimans & Kingma 2016, equation 2)."""
    graph = call.graph
    others = [each for each in range(v.rank) if each != axis]
    length = _length(graph, v, others)
    u, scale = graph.op("Div", v, length), graph.op("Div", g, length)

    def pullback(dy: Value) -> tuple[Value, Value]:
        # Equation 3.
        along = graph.sum(graph.op("Mul", dy, u), others, keep=True)
        across = graph.op("Sub", dy, graph.op("Mul", u, along))
        return graph.op("Mul", across, scale), graph.reshape(along, g.shape)

    return graph.op("Mul", v, scale), pullback


def cosine_similarity(call: Call, a: Value, b: Value, axis: int = 1, least: float = 1e-8) -> Made:
    """The cosine between vectors along an axis; lengths below ``least`` count as that."""
    graph = call.graph
    axis %= max(a.rank, b.rank)
    sides = []
    for each in (a, b):
        own = axis - max(a.rank, b.rank) + each.rank
        length = graph.op("Max", _length(graph, each, [own]), call.tensor(least))
        sides.append((graph.op("Div", each, length), length))
    (first, first_length), (second, second_length) = sides
    cosine = graph.sum(graph.op("Mul", first, second), [axis], keep=True)

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        slope = graph.op("Unsqueeze", dy, graph.constant([axis], "int64"))

        def back(own: Value, other: Value, length: Value) -> Value:
            across = graph.op("Sub", other, graph.op("Mul", own, cosine))
            return graph.op("Mul", slope, graph.op("Div", across, length))

        da = gradient_for(graph, back(first, second, first_length), a)
        return da, gradient_for(graph, back(second, first, second_length), b)

    return graph.op("Squeeze", cosine, graph.constant([axis], "int64")), pullback


def _length(graph: Graph, v: Value, axes: Sequence[int]) -> Value:
    """The Euclidean length over some axes, which keep a size of 1."""
    return graph.op("Sqrt", graph.sum(graph.op("Mul", v, v), list(axes), keep=True))


RULES: dict[str, Rule] = {
    "aten._weight_norm.default": weight_norm,
    "aten.cosine_similarity.default": cosine_similarity,
}
