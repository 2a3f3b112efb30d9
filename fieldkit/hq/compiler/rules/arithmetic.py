"""Rules of sums, differences, products and quotients, of tensors and of numbers, with broadcasting."""

from __future__ import annotations

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, gradient_for, unbroadcast_product

Number = Value | bool | float
Made = tuple[Value, Pullback | None]


def add(call: Call, a: Number, b: Number, alpha: float = 1) -> Made:
    """a + alpha * b."""
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Add", call.operand(a), graph.op("Mul", call.operand(b), scale))
    return y, lambda dy: (gradient_for(graph, dy, a), gradient_for(graph, graph.op("Mul", dy, scale), b))


def sub(call: Call, a: Number, b: Number, alpha: float = 1) -> Made:
    """a - alpha * b."""
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Sub", call.operand(a), graph.op("Mul", call.operand(b), scale))

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        da, db = gradient_for(graph, dy, a), gradient_for(graph, dy, b)
        return da, None if db is None else graph.op("Neg", graph.op("Mul", db, scale))

    return y, pullback


def reverse_sub(call: Call, a: Value, b: Number, alpha: float = 1) -> Made:
    """b - alpha * a."""
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Sub", call.operand(b), graph.op("Mul", call.tensor(a), scale))
    return y, lambda dy: (
        gradient_for(graph, graph.op("Neg", graph.op("Mul", dy, scale)), a),
        gradient_for(graph, dy, b),
    )


def mul(call: Call, a: Number, b: Number) -> Made:
    """a * b."""
    graph = call.graph
    left, right = call.operand(a), call.operand(b)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        pairs = ((a, right), (b, left))
        return tuple(
            unbroadcast_product(graph, dy, other, each) if isinstance(each, Value) and each.trains else None
            for each, other in pairs
        )

    return graph.op("Mul", left, right), pullback


def div(call: Call, a: Number, b: Number) -> Made:
    """a / b."""
    graph = call.graph
    top, bottom = call.operand(a), call.operand(b)
    y = graph.op("Div", top, bottom)

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        da = graph.op("Div", dy, bottom)
        return gradient_for(graph, da, a), gradient_for(graph, graph.op("Neg", graph.op("Mul", da, y)), b)

    return y, pullback


def div_rounded(call: Call, a: Number, b: Number, mode: str | None = None) -> Made:
    """a / b, rounded down ("floor") or towards 0 ("trunc"): constant almost everywhere."""
    if mode is None:
        return div(call, a, b)
    graph = call.graph
    # Of whole numbers too: ONNX divides those towards 0 only.
    wide = call.dtype if call.dtype.startswith("float") else "float64"
    quotient = graph.op("Div", call.tensor(a, wide), call.tensor(b, wide))
    if mode == "floor":
        whole = graph.op("Floor", quotient)
    else:
        whole = graph.op("Mul", graph.op("Sign", quotient), graph.op("Floor", graph.op("Abs", quotient)))
    return graph.cast(whole, call.dtype), None


def div_floored(call: Call, a: Number, b: Number) -> Made:
    """a / b, rounded down: constant almost everywhere."""
    return div_rounded(call, a, b, "floor")


def add_product(call: Call, x: Value, a: Value, b: Value, value: float = 1) -> Made:
    """x + value * a * b."""
    graph = call.graph
    scale, left, right = call.tensor(value), call.tensor(a), call.tensor(b)
    y = graph.op("Add", call.tensor(x), graph.op("Mul", graph.op("Mul", left, right), scale))

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        scaled = graph.op("Mul", dy, scale)
        da, db = graph.op("Mul", scaled, right), graph.op("Mul", scaled, left)
        return gradient_for(graph, dy, x), gradient_for(graph, da, a), gradient_for(graph, db, b)

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": sub,
    "aten.sub.Scalar": sub,
    "aten.rsub.Scalar": reverse_sub,
    "aten.rsub.Tensor": reverse_sub,
    "aten.mul.Tensor": mul,
    "aten.mul.Scalar": mul,
    "aten.div.Tensor": div,
    "aten.div.Scalar": div,
    "aten.div.Tensor_mode": div_rounded,
    "aten.div.Scalar_mode": div_rounded,
    "aten.floor_divide.default": div_floored,
    "aten.floor_divide.Scalar": div_floored,
    "aten.addcmul.default": add_product,
}
