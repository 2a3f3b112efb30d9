"""Rules of functions of one number, each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]
Function = Callable[..., Made]


def _unary(operator: str, slope: Callable[[Call, Value, Value], Value]) -> Function:
    """A rule for y = f(x) from ONNX's name of f and its derivative, written in x and y."""

    def rule(call: Call, x: Value) -> Made:
        y = call.graph.op(operator, call.tensor(x))
        return y, lambda dy: (call.graph.op("Mul", dy, slope(call, x, y)),)

    return rule


def negative(call: Call, x: Value) -> Made:
    """-x."""
    return call.graph.op("Neg", x), lambda dy: (call.graph.op("Neg", dy),)


def square(call: Call, x: Value) -> Made:
    """x * x."""
    graph = call.graph
    typed = call.tensor(x)
    y = graph.op("Mul", typed, typed)
    return y, lambda dy: (graph.op("Mul", dy, graph.op("Mul", typed, call.tensor(2))),)


def rsqrt(call: Call, x: Value) -> Made:
    """1 / sqrt(x)."""
    graph = call.graph
    y = graph.op("Reciprocal", graph.op("Sqrt", call.tensor(x)))

    def pullback(dy: Value) -> tuple[Value]:
        slope = graph.op("Mul", graph.op("Mul", y, graph.op("Mul", y, y)), call.tensor(-0.5))
        return (graph.op("Mul", dy, slope),)

    return y, pullback


def erf(call: Call, x: Value) -> Made:
    """The error function, of slope 2 / sqrt(pi) * exp(-x^2)."""
    graph = call.graph

    def pullback(dy: Value) -> tuple[Value]:
        height = call.tensor(math.log(2.0 / math.sqrt(math.pi)))
        return (graph.op("Mul", dy, graph.op("Exp", graph.op("Sub", height, graph.op("Mul", x, x)))),)

    return graph.op("Erf", x), pullback


def log1p(call: Call, x: Value) -> Made:
    """log(1 + x)."""
    graph = call.graph
    inner = graph.op("Add", call.tensor(x), call.tensor(1.0))
    return graph.op("Log", inner), lambda dy: (graph.op("Div", dy, inner),)


def expm1(call: Call, x: Value) -> Made:
    """exp(x) - 1."""
    graph = call.graph
    e = graph.op("Exp", call.tensor(x))
    return graph.op("Sub", e, call.tensor(1.0)), lambda dy: (graph.op("Mul", dy, e),)


def _step(operator: str) -> Rule:
    """A rule for a function that is constant almost everywhere."""

    def rule(call: Call, x: Value) -> Made:
        return call.graph.op(operator, x), None

    return rule


def _twice(call: Call, y: Value) -> Value:
    return call.graph.op("Mul", y, call.tensor(2))


reciprocal = _unary("Reciprocal", lambda call, x, y: call.graph.op("Neg", call.graph.op("Mul", y, y)))
square_root = _unary("Sqrt", lambda call, x, y: call.graph.op("Reciprocal", _twice(call, y)))

RULES: dict[str, Rule] = {
    "aten.square.default": square,
    "aten.neg.default": negative,
    "aten.abs.default": _unary("Abs", lambda call, x, y: call.graph.op("Sign", x)),
    "aten.exp.default": _unary("Exp", lambda call, x, y: y),
    "aten.expm1.default": expm1,
    "aten.log.default": _unary("Log", lambda call, x, y: call.graph.op("Reciprocal", x)),
    "aten.log1p.default": log1p,
    "aten.sqrt.default": square_root,
    "aten.rsqrt.default": rsqrt,
    "aten.reciprocal.default": reciprocal,
    "aten.erf.default": erf,
    "aten.sin.default": _unary("Sin", lambda call, x, y: call.graph.op("Cos", x)),
    "aten.cos.default": _unary("Cos", lambda call, x, y: call.graph.op("Neg", call.graph.op("Sin", x))),
    "aten.floor.default": _step("Floor"),
    "aten.ceil.default": _step("Ceil"),
    "aten.round.default": _step("Round"),
    "aten.sign.default": _step("Sign"),
}
