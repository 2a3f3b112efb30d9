"""Rules that sum or average, softmax and its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def _axes(x: Value, axes: Sequence[int] | int | None) -> list[int]:
    """Axes counted from 0, in order; None and [] mean all of them."""
    listed = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    return sorted(axis % x.rank for axis in listed) if x.rank else []


def total(call: Call, x: Value, axes: Sequence[int] | None = None, keep: bool = False, *_settings: Any) -> Made:
    graph = call.graph
    reduced = _axes(x, axes)
    y = graph.sum(call.tensor(x), reduced, keep=keep)

    def pullback(dy: Value) -> tuple[Value]:
        kept = graph.reshape(dy, tuple(1 if axis in reduced else n for axis, n in enumerate(x.shape)))
        return (graph.op("Expand", kept, graph.constant(x.sizes, "int64")),)

    return y, pullback


def mean(call: Call, x: Value, axes: Sequence[int] | None = None, keep: bool = False, *_settings: Any) -> Made:
    graph = call.graph
    reduced = _axes(x, axes)
    y = graph.mean(call.tensor(x), reduced, keep=keep)

    def pullback(dy: Value) -> tuple[Value]:
        count = math.prod(x.size(axis) for axis in reduced)
        shared = graph.op("Mul", dy, graph.constant(1.0 / count, dy.dtype))
        kept = graph.reshape(shared, tuple(1 if axis in reduced else n for axis, n in enumerate(x.shape)))
        return (graph.op("Expand", kept, graph.constant(x.sizes, "int64")),)

    return y, pullback


def total_of_all(call: Call, x: Value, *_settings: Any) -> Made:
    return total(call, x)


def mean_of_all(call: Call, x: Value, *_settings: Any) -> Made:
    return mean(call, x)


def softmax(call: Call, x: Value, axis: int, *_settings: Any) -> Made:
    graph = call.graph
    axis %= x.rank
    y = graph.op("Softmax", call.tensor(x), axis=axis)

    def pullback(dy: Value) -> tuple[Value]:
        inner = graph.sum(graph.op("Mul", dy, y), [axis], keep=True)
        return (graph.op("Mul", y, graph.op("Sub", dy, inner)),)

    return y, pullback


def log_softmax(call: Call, x: Value, axis: int, *_settings: Any) -> Made:
    graph = call.graph
    axis %= x.rank
    y = graph.op("LogSoftmax", call.tensor(x), axis=axis)

    def pullback(dy: Value) -> tuple[Value]:
        inner = graph.sum(dy, [axis], keep=True)
        return (graph.op("Sub", dy, graph.op("Mul", graph.op("Exp", y), inner)),)

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.sum.default": total_of_all,
    "aten.sum.dim_IntList": total,
    "aten.mean.default": mean_of_all,
    "aten.mean.dim": mean,
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten._log_softmax.default": log_softmax,
}
