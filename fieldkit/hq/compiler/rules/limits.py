"""Rules that keep numbers between limits: clamping, and the larger or smaller of two tensors."""

from __future__ import annotations

import math

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, gradient_for
from fieldkit.hq.compiler.rules.masks import above, below, between

Made = tuple[Value, Pullback | None]


def clamp(call: Call, x: Value, low: float | None = None, high: float | None = None) -> Made:
    """x cut to [low, high], with the whole gradient at the ends themselves."""
    graph = call.graph
    ends = [None if each is None else call.tensor(each) for each in (low, high)]
    y = graph.op("Clip", call.tensor(x), *ends)

    def pullback(dy: Value) -> tuple[Value]:
        lowest, highest = -math.inf if low is None else low, math.inf if high is None else high
        return (graph.op("Mul", dy, between(graph, x, lowest, highest, equal=True)),)

    return y, pullback


def clamp_max(call: Call, x: Value, high: float) -> Made:
    """x where it is at most ``high``, with the whole gradient at the end itself."""
    return clamp(call, x, None, high)


def clamp_between(call: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Made:
    """x cut to what two tensors say, which must not train."""
    graph = call.graph
    if any(each is not None and each.trains for each in (low, high)):
        raise call.refuse("an end that trains", "fixed ends", "use torch.maximum and torch.minimum")
    y = call.tensor(x)
    y = y if low is None else graph.op("Max", y, call.tensor(low))
    y = y if high is None else graph.op("Min", y, call.tensor(high))

    def pullback(dy: Value) -> tuple[Value | None]:
        for end, mask in ((low, above), (high, below)):
            if end is not None:
                dy = graph.op("Mul", dy, mask(graph, graph.op("Sub", x, end), 0.0, equal=True))
        return (gradient_for(graph, dy, x),)

    return y, pullback


def _extreme(operator: str, sign: float) -> Rule:
    """The larger or the smaller of two tensors; equal ones share the gradient."""

    def rule(call: Call, a: Value, b: Value) -> Made:
        graph = call.graph
        left, right = call.tensor(a), call.tensor(b)
        y = graph.op(operator, left, right)

        def pullback(dy: Value) -> tuple[Value | None, Value | None]:
            # 1 where a is taken, 0 where b is, a half where they are equal.
            share = graph.op("HardSigmoid", graph.op("Sub", left, right), alpha=sign * 2.0**125, beta=0.5)
            taken = graph.op("Mul", dy, share)
            return gradient_for(graph, taken, a), gradient_for(graph, graph.op("Sub", dy, taken), b)

        return y, pullback

    return rule


RULES: dict[str, Rule] = {
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp_between,
    "aten.clamp_min.default": clamp,
    "aten.clamp_max.default": clamp_max,
    "aten.maximum.default": _extreme("Max", 1.0),
    "aten.max.other": _extreme("Max", 1.0),
    "aten.minimum.default": _extreme("Min", -1.0),
    "aten.min.other": _extreme("Min", -1.0),
}
