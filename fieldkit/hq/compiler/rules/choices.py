"""Rules of comparisons, of what combines them, and of choices by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, dtype_name, gradient_for

Number = Value | bool | float
Made = tuple[Value, Pullback | None]
Function = Callable[..., Made]


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
    """Where a and b differ."""
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
    """a where the condition holds, else b."""
    graph = call.graph
    y = graph.op("Where", condition, call.operand(a), call.operand(b))
    zero = call.tensor(0)

    def pullback(dy: Value) -> tuple[None, Value | None, Value | None]:
        da, db = graph.op("Where", condition, dy, zero), graph.op("Where", condition, zero, dy)
        return None, gradient_for(graph, da, a), gradient_for(graph, db, b)

    return y, pullback


def masked_fill(call: Call, x: Value, mask: Value, number: Number) -> Made:
    """x, and ``number`` where the mask holds."""
    y, back = where(call, mask, number, x)
    if back is None:
        return y, None

    def pullback(dy: Value) -> tuple[Any, None, Any]:
        _, dnumber, dx = back(dy)
        return dx, None, dnumber

    return y, pullback


RULES: dict[str, Rule] = {
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
}
