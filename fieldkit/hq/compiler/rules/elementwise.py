"""Rules that treat each element by itself: arithmetic with broadcasting, functions of one number, comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, dtype_name, unbroadcast, unbroadcast_product
from fieldkit.hq.compiler.rules.masks import above, below, between

Number = Value | bool | float
Made = tuple[Value, Pullback | None]
Function = Callable[..., Made]

# What a divisor that may be 0 is kept above, where a gradient is then 0 by its other factor.
TINY = 1e-30


def _operand(call: Call, argument: Number | None) -> Value:
    """An argument as a Value of the result's dtype."""
    if argument is None:
        raise call.refuse("the size of a free batch as a number", "a fixed number", "divide by no size of the batch")
    return call.tensor(argument)


def _back(call: Call, gradient: Value, argument: Number) -> Value | None:
    """The gradient of one argument of a broadcasting call, or None for what does not train."""
    if not isinstance(argument, Value) or not argument.trains:
        return None
    return unbroadcast(call.graph, gradient, argument)


def add(call: Call, a: Number, b: Number, alpha: float = 1) -> Made:
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Add", _operand(call, a), graph.op("Mul", _operand(call, b), scale))
    return y, lambda dy: (_back(call, dy, a), _back(call, graph.op("Mul", dy, scale), b))


def sub(call: Call, a: Number, b: Number, alpha: float = 1) -> Made:
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Sub", _operand(call, a), graph.op("Mul", _operand(call, b), scale))

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        da, db = _back(call, dy, a), _back(call, dy, b)
        return da, None if db is None else graph.op("Neg", graph.op("Mul", db, scale))

    return y, pullback


def reverse_sub(call: Call, a: Value, b: Number, alpha: float = 1) -> Made:
    graph = call.graph
    scale = call.tensor(alpha)
    y = graph.op("Sub", _operand(call, b), graph.op("Mul", call.tensor(a), scale))
    return y, lambda dy: (_back(call, graph.op("Neg", graph.op("Mul", dy, scale)), a), _back(call, dy, b))


def mul(call: Call, a: Number, b: Number) -> Made:
    graph = call.graph
    left, right = _operand(call, a), _operand(call, b)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        pairs = ((a, right), (b, left))
        return tuple(
            unbroadcast_product(graph, dy, other, each) if isinstance(each, Value) and each.trains else None
            for each, other in pairs
        )

    return graph.op("Mul", left, right), pullback


def div(call: Call, a: Number, b: Number) -> Made:
    graph = call.graph
    top, bottom = _operand(call, a), _operand(call, b)
    y = graph.op("Div", top, bottom)

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        da = graph.op("Div", dy, bottom)
        return _back(call, da, a), _back(call, graph.op("Neg", graph.op("Mul", da, y)), b)

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
    return div_rounded(call, a, b, "floor")


def add_product(call: Call, x: Value, a: Value, b: Value, value: float = 1) -> Made:
    graph = call.graph
    scale = call.tensor(value)
    y = graph.op("Add", x, graph.op("Mul", graph.op("Mul", a, b), scale))

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        scaled = graph.op("Mul", dy, scale)
        da, db = graph.op("Mul", scaled, b), graph.op("Mul", scaled, a)
        return _back(call, dy, x), _back(call, da, a), _back(call, db, b)

    return y, pullback


def square(call: Call, x: Value) -> Made:
    graph = call.graph
    typed = call.tensor(x)
    y = graph.op("Mul", typed, typed)
    return y, lambda dy: (graph.op("Mul", dy, graph.op("Mul", typed, call.tensor(2))),)


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
    if base <= 0:
        raise call.refuse(f"base {base}", "a base above 0", "raise positive numbers only")
    graph = call.graph
    rate = call.tensor(math.log(base))
    y = graph.op("Exp", graph.op("Mul", call.tensor(exponent), rate))
    return y, lambda dy: (None, graph.op("Mul", dy, graph.op("Mul", y, rate)))


def power_of_tensors(call: Call, x: Value, exponent: Value) -> Made:
    graph = call.graph
    y = graph.op("Pow", call.tensor(x), call.tensor(exponent))

    def pullback(dy: Value) -> tuple[Value | None, Value | None]:
        lower = graph.op("Pow", x, graph.op("Sub", exponent, call.tensor(1)))
        dx = graph.op("Mul", dy, graph.op("Mul", exponent, lower))
        # Where x is 0 the power is 0 as well, and so is what it passes on.
        growth = graph.op("Mul", y, graph.op("Log", graph.op("Max", x, call.tensor(TINY))))
        return _back(call, dx, x), _back(call, graph.op("Mul", dy, growth), exponent)

    return y, pullback


def _unary(operator: str, slope: Callable[[Call, Value, Value], Value]) -> Function:
    """A rule for y = f(x) from ONNX's name of f and its derivative, written in x and y."""

    def rule(call: Call, x: Value) -> Made:
        y = call.graph.op(operator, call.tensor(x))
        return y, lambda dy: (call.graph.op("Mul", dy, slope(call, x, y)),)

    return rule


def negative(call: Call, x: Value) -> Made:
    return call.graph.op("Neg", x), lambda dy: (call.graph.op("Neg", dy),)


def rsqrt(call: Call, x: Value) -> Made:
    graph = call.graph
    y = graph.op("Reciprocal", graph.op("Sqrt", call.tensor(x)))

    def pullback(dy: Value) -> tuple[Value]:
        slope = graph.op("Mul", graph.op("Mul", y, graph.op("Mul", y, y)), call.tensor(-0.5))
        return (graph.op("Mul", dy, slope),)

    return y, pullback


def erf(call: Call, x: Value) -> Made:
    graph = call.graph

    def pullback(dy: Value) -> tuple[Value]:
        height = call.tensor(math.log(2.0 / math.sqrt(math.pi)))
        return (graph.op("Mul", dy, graph.op("Exp", graph.op("Sub", height, graph.op("Mul", x, x)))),)

    return graph.op("Erf", x), pullback


def log1p(call: Call, x: Value) -> Made:
    graph = call.graph
    inner = graph.op("Add", call.tensor(x), call.tensor(1.0))
    return graph.op("Log", inner), lambda dy: (graph.op("Div", dy, inner),)


def expm1(call: Call, x: Value) -> Made:
    graph = call.graph
    e = graph.op("Exp", call.tensor(x))
    return graph.op("Sub", e, call.tensor(1.0)), lambda dy: (graph.op("Mul", dy, e),)


def _step(operator: str) -> Rule:
    """A rule for a function that is constant almost everywhere."""

    def rule(call: Call, x: Value) -> Made:
        return call.graph.op(operator, x), None

    return rule


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
        return (_back(call, dy, x),)

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
            return _back(call, taken, a), _back(call, graph.op("Sub", dy, taken), b)

        return y, pullback

    return rule


def _compare(operator: str) -> Function:
    def rule(call: Call, a: Number, b: Number) -> Made:
        if a is None or b is None:
            raise call.refuse("the size of a free batch", "a fixed number", "compare with no size of the batch")
        dtype = _common_dtype(a, b)
        return call.graph.op(operator, call.tensor(a, dtype), call.tensor(b, dtype)), None

    return rule


def _common_dtype(a: Number, b: Number) -> str:
    """torch's promotion of two arguments, of which at least one is a tensor."""
    kinds = [torch.empty(0, dtype=getattr(torch, each.dtype)) if isinstance(each, Value) else each for each in (a, b)]
    return dtype_name(torch.result_type(kinds[0], kinds[1]))


def not_equal(call: Call, a: Number, b: Number) -> Made:
    equal, _ = _compare("Equal")(call, a, b)
    return call.graph.op("Not", equal), None


def _logic(operator: str) -> Rule:
    """A rule that combines one or two results of comparisons."""

    def rule(call: Call, *parts: Value) -> Made:
        if any(each.dtype != "bool" for each in parts):
            found = " and ".join(each.dtype for each in parts)
            raise call.refuse(found, "bool", "combine the results of comparisons only")
        return call.graph.op(operator, *parts), None

    return rule


def where(call: Call, condition: Value, a: Number, b: Number) -> Made:
    graph = call.graph
    y = graph.op("Where", condition, _operand(call, a), _operand(call, b))
    zero = call.tensor(0)

    def pullback(dy: Value) -> tuple[None, Value | None, Value | None]:
        da, db = graph.op("Where", condition, dy, zero), graph.op("Where", condition, zero, dy)
        return None, _back(call, da, a), _back(call, db, b)

    return y, pullback


def masked_fill(call: Call, x: Value, mask: Value, number: Number) -> Made:
    y, back = where(call, mask, number, x)
    if back is None:
        return y, None

    def pullback(dy: Value) -> tuple[Any, None, Any]:
        _, dnumber, dx = back(dy)
        return dx, None, dnumber

    return y, pullback


def to_dtype(call: Call, x: Value, *_settings: Any) -> Made:
    floats = x.dtype.startswith("float") and call.dtype.startswith("float")
    return call.tensor(x), (lambda dy: (call.graph.cast(dy, x.dtype),)) if floats else None


def unchanged(_call: Call, x: Value, *_settings: Any) -> Made:
    return x, lambda dy: (dy,)


def detach(_call: Call, x: Value) -> Made:
    return x, None


def _twice(call: Call, y: Value) -> Value:
    return call.graph.op("Mul", y, call.tensor(2))


reciprocal = _unary("Reciprocal", lambda call, x, y: call.graph.op("Neg", call.graph.op("Mul", y, y)))
square_root = _unary("Sqrt", lambda call, x, y: call.graph.op("Reciprocal", _twice(call, y)))

COMMON_POWERS: dict[float, Function] = {-1: reciprocal, -0.5: rsqrt, 0.5: square_root, 1: to_dtype, 2: square}

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
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Scalar": power_of_number,
    "aten.pow.Tensor_Tensor": power_of_tensors,
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
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp_between,
    "aten.clamp_min.default": clamp,
    "aten.clamp_max.default": clamp_max,
    "aten.maximum.default": _extreme("Max", 1.0),
    "aten.max.other": _extreme("Max", 1.0),
    "aten.minimum.default": _extreme("Min", -1.0),
    "aten.min.other": _extreme("Min", -1.0),
    "aten.eq.Scalar": _compare("Equal"),
    "aten.eq.Tensor": _compare("Equal"),
    "aten.ne.Scalar": not_equal,
    "aten.ne.Tensor": not_equal,
    "aten.lt.Scalar": _compare("Less"),
    "aten.lt.Tensor": _compare("Less"),
    "aten.gt.Scalar": _compare("Greater"),
    "aten.gt.Tensor": _compare("Greater"),
    "aten.le.Scalar": _compare("LessOrEqual"),
    "aten.le.Tensor": _compare("LessOrEqual"),
    "aten.ge.Scalar": _compare("GreaterOrEqual"),
    "aten.ge.Tensor": _compare("GreaterOrEqual"),
    "aten.__and__.Tensor": _logic("And"),
    "aten.bitwise_and.Tensor": _logic("And"),
    "aten.logical_and.default": _logic("And"),
    "aten.__or__.Tensor": _logic("Or"),
    "aten.bitwise_or.Tensor": _logic("Or"),
    "aten.logical_or.default": _logic("Or"),
    "aten.bitwise_not.default": _logic("Not"),
    "aten.logical_not.default": _logic("Not"),
    "aten.where.self": where,
    "aten.where.Scalar": where,
    "aten.where.ScalarSelf": where,
    "aten.where.ScalarOther": where,
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
    "aten.to.dtype": to_dtype,
    "aten.to.dtype_layout": to_dtype,
    "aten.to.device": to_dtype,
    "aten.type_as.default": to_dtype,
    "aten._to_copy.default": to_dtype,
    "aten.clone.default": unchanged,
    "aten.contiguous.default": unchanged,
    "aten.alias.default": unchanged,
    "aten.lift_fresh_copy.default": unchanged,
    "aten.detach.default": detach,
}
