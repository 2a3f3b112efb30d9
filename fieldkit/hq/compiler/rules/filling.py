"""Rules of tensors that are filled with one number or are constant, and of those that another overwrites."""

from __future__ import annotations

from typing import Any

import torch

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, unbroadcast
from fieldkit.hq.compiler.rules.free_batch import of_one

Made = tuple[Value, Pullback | None]


def _filled(call: Call, number: Value | bool | float) -> Value:
    """``number`` in the result's shape, as a node where it is large: zeros need no place in a program."""
    shape = of_one(call.shape, call.path)
    return call.graph.op("Expand", call.tensor(number), call.graph.constant(shape, "int64"))


def _all(number: float) -> Rule:
    """A rule of a tensor filled with a number that the operator's name says."""

    def rule(call: Call, *_settings: Any) -> Made:
        return _filled(call, number), None

    return rule


def full(call: Call, _shape: object, number: bool | float, *_settings: Any) -> Made:
    return _filled(call, number), None


def new_full(call: Call, _x: Value, _shape: object, number: bool | float, *_settings: Any) -> Made:
    return _filled(call, number), None


def fill(call: Call, _x: Value, number: Value | bool | float) -> Made:
    y = _filled(call, number)
    if not isinstance(number, Value):
        return y, None
    return y, lambda dy: (None, unbroadcast(call.graph, dy, number))


def copy(call: Call, x: Value, source: Value, *_settings: Any) -> Made:
    """The source, over all of what was x."""
    graph = call.graph
    shape = graph.constant(of_one(call.shape, call.path), "int64")
    y = graph.op("Expand", call.tensor(source), shape) if source.shape != x.shape else call.tensor(source)
    return y, lambda dy: (None, unbroadcast(graph, dy, source))


def computed(call: Call, *arguments: Any) -> tuple[Any, None]:
    """What torch itself computes, from constants alone."""

    def known(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [known(each) for each in argument]
        if not isinstance(argument, Value):
            return argument
        if argument.constant is None:
            raise call.refuse("tensors that are computed", "constants", "keep the result as a buffer")
        return torch.from_numpy(argument.constant.copy())

    space, name, overload = call.operator.split(".")
    operator = getattr(getattr(getattr(torch.ops, space), name), overload)
    named = {each.name: known(argument) for each, argument in zip(operator._schema.arguments, arguments, strict=True)}
    result = operator(**named)
    if isinstance(result, torch.Tensor):
        return call.graph.constant(result.numpy()), None
    return tuple(call.graph.constant(each.numpy()) for each in result), None


RULES: dict[str, Rule] = {
    "aten.zeros.default": _all(0),
    "aten.zeros_like.default": _all(0),
    "aten.new_zeros.default": _all(0),
    "aten.ones.default": _all(1),
    "aten.ones_like.default": _all(1),
    "aten.new_ones.default": _all(1),
    "aten.full.default": full,
    "aten.full_like.default": full,
    "aten.new_full.default": new_full,
    "aten.fill.Scalar": fill,
    "aten.fill.Tensor": fill,
    "aten.copy.default": copy,
    "aten.meshgrid.default": computed,
    "aten.meshgrid.indexing": computed,
    "aten.tril.default": computed,
    "aten.triu.default": computed,
}
