"""Rules of powers: of tensors by numbers, of numbers by tensors, of both."""

from __future__ import annotations

import math

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, gradient_for
from fieldkit.hq.compiler.rules.casting import to_dtype
from fieldkit.hq.compiler.rules.functions import Function, reciprocal, rsqrt, square, square_root
from fieldkit.hq.compiler.rules.masks import TINY

Made = tuple[Value, Pullback | None]

COMMON_POWERS: dict[float, Function] = {-1: reciprocal, -0.5: rsqrt, 0.5: square_root, 1: to_dtype, 2: square}


def power(call: Call, x: Value, exponent: float) -> Made:
    """x ** exponent; onnxruntime's Pow takes 20 times as long as what common exponents are written with."""
    if exponent in COMMON_POWERS:
        return COMMON_POWERS[exponent](call, x)
    graph = call.graph
    y = graph.op("Pow", call.tensor(x), call.tensor(exponent))

    def pullback(dy: Value) -> tuple[Value]:
        slope = graph.op("Pow", x, call.tensor(exponent - 1.0))
        return (graph.op("Mul", dy, graph.op("Mul", slope, call.tensor(exponent))),)

    return y, pullback if exponent != 0 else None


def power_of_number(call: Call, base: float, exponent: Value) -> Made:
    """base ** exponent for a number above 0."""
    if base <= 0:
        raise call.refuse(f"base {base}", "a base above 0", "raise positive numbers only")
    graph = call.graph
    rate = call.tensor(math.log(base))
    y = graph.op("Exp", graph.op("Mul", call.tensor(exponent), rate))
    return y, lambda dy: (None, graph.op("Mul", dy, graph.op("Mul", y, rate)))


def power_of_tensors(call: Call, x: Value, exponent: Value) -> Made:
    """x ** exponent, both tensors, broadcast."""
    graph = call.graph
    base, power = call.tensor(x), call.tensor(exponent)
    y = graph.op("Pow", base, power)

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        lower = graph.op("Pow", base, graph.op("Sub", power, call.tensor(1)))
        dx = graph.op("Mul", dy, graph.op("Mul", power, lower))
        # Where x is 0 the power is 0 as well, and so is what it passes on.
        growth = graph.op("Mul", y, graph.op("Log", graph.op("Max", base, call.tensor(TINY))))
        return gradient_for(graph, dx, x), gradient_for(graph, graph.op("Mul", dy, growth), exponent)

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Scalar": power_of_number,
    "aten.pow.Tensor_Tensor": power_of_tensors,
}
