"""Rules that reduce axes: sums, means, norms, extremes; and softmax and its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldkit.hq.compiler.graph import FOLD_LIMIT, Graph, stopped
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.masks import TINY, above, below
from fieldkit.hq.compiler.rules.sums import averaged, summed

Made = tuple[Value, Pullback | None]
Two = tuple[tuple[Value, Value], Pullback | None]
Axes = Sequence[int] | int | None


def _axes(x: Value, axes: Axes) -> list[int]:
    """Axes counted from 0, in order; None and [] mean all of them."""
    listed = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    return sorted(axis % x.rank for axis in listed) if x.rank else []


def _dropped(graph: Graph, y: Value, axes: Sequence[int], keep: bool) -> Value:
    """The result of a reduction, without the axes that it reduced unless they are wanted."""
    return y if keep else graph.reshape(y, [n for axis, n in enumerate(y.shape) if axis not in axes])


def _kept(graph: Graph, y: Value, like: Value, axes: Sequence[int]) -> Value:
    """A reduction's result or gradient with the axes of ``like``, one element along those that were reduced."""
    return graph.reshape(y, tuple(1 if axis in axes else n for axis, n in enumerate(like.shape)))


def _spread(graph: Graph, kept: Value, like: Value, axes: Sequence[int], weight: float) -> Value:
    """``weight`` times each number at all places that were reduced to it: the shape of ``like``.

    A product with a constant that has these axes alone: a quarter of what Expand takes along the last axes.
    """
    sizes = [n if axis in axes else 1 for axis, n in enumerate(like.sizes)]
    if math.prod(sizes) <= FOLD_LIMIT:
        return graph.op("Mul", kept, graph.constant(np.full(sizes, weight), kept.dtype))
    weighted = graph.op("Mul", kept, graph.constant(weight, kept.dtype))
    return graph.op("Expand", weighted, graph.constant(like.sizes, "int64"))


def _count(x: Value, axes: Sequence[int]) -> int:
    return math.prod(x.size(axis) for axis in axes)


def total(call: Call, x: Value, axes: Axes = None, keep: bool = False, *_settings: Any) -> Made:
    """The sum over some axes, by default over all."""
    graph = call.graph
    reduced = _axes(x, axes)
    y = summed(graph, call.tensor(x), reduced, keep=True)

    def pullback(dy: Value) -> tuple[Value]:
        return (_spread(graph, _kept(graph, dy, x, reduced), x, reduced, 1.0),)

    return _dropped(graph, y, reduced, keep), pullback


def mean(call: Call, x: Value, axes: Axes = None, keep: bool = False, *_settings: Any) -> Made:
    """The mean over some axes, by default over all."""
    graph = call.graph
    reduced = _axes(x, axes)
    y = averaged(graph, call.tensor(x), reduced)

    def pullback(dy: Value) -> tuple[Value]:
        return (_spread(graph, _kept(graph, dy, x, reduced), x, reduced, 1.0 / _count(x, reduced)),)

    return _dropped(graph, y, reduced, keep), pullback


def total_of_all(call: Call, x: Value, *_settings: Any) -> Made:
    """The sum of all elements."""
    return total(call, x)


def mean_of_all(call: Call, x: Value, *_settings: Any) -> Made:
    """The mean of all elements."""
    return mean(call, x)


def cumulative(call: Call, x: Value, axis: int, *_settings: Any) -> Made:
    """Sums from the start of an axis to each place: a product with a triangular matrix."""
    graph = call.graph
    axis %= x.rank
    order = list(range(x.rank))
    order[axis], order[-1] = order[-1], order[axis]
    matrix = np.triu(np.ones((x.size(axis), x.size(axis))))

    def product(value: Value, factor: np.ndarray[Any, Any]) -> Value:
        last = graph.transpose(value, order)
        return graph.transpose(graph.op("MatMul", last, graph.constant(factor, value.dtype)), order)

    return product(call.tensor(x), matrix), lambda dy: (product(dy, matrix.T),)


def norm(call: Call, x: Value, order: float = 2, axes: Axes = None, keep: bool = False, *_settings: Any) -> Made:
    """The root of the squares' sum, or the sum of the sizes; no gradient where the norm is 0, as in torch."""
    if order not in (1, 2):
        raise call.refuse(f"order {order}", "1 or 2", "use a norm of order 1 or 2")
    graph = call.graph
    x, reduced = call.tensor(x), _axes(x, axes)
    if order == 1:
        y = summed(graph, graph.op("Abs", x), reduced, keep=True)
    else:
        y = graph.op("Sqrt", summed(graph, graph.op("Mul", x, x), reduced, keep=True))

    def pullback(dy: Value) -> tuple[Value]:
        kept = _kept(graph, dy, x, reduced)
        if order == 1:
            return (graph.op("Mul", graph.op("Sign", x), kept),)
        return (graph.op("Mul", x, graph.op("Div", kept, graph.op("Max", y, call.tensor(TINY)))),)

    return _dropped(graph, y, reduced, keep), pullback


def _extreme(operator: str) -> Rule:
    """The largest or smallest of each group; equal ones share the gradient."""

    def rule(call: Call, x: Value, axes: Axes = None, keep: bool = False) -> Made:
        graph = call.graph
        reduced = _axes(x, axes)
        y = graph.op(operator, x, graph.constant(reduced, "int64")) if reduced else x

        def pullback(dy: Value) -> tuple[Value]:
            beyond, mask = graph.op("Sub", x, y), above if operator == "ReduceMax" else below
            taken = mask(graph, beyond, 0.0, equal=True)
            share = graph.op("Div", _kept(graph, dy, x, reduced), summed(graph, taken, reduced, keep=True))
            return (graph.op("Mul", taken, share),)

        return _dropped(graph, y, reduced, keep), pullback

    return rule


def _first_extreme(operator: str) -> Rule:
    """The largest or smallest along an axis and its place; the first of equal ones takes the gradient, as in torch."""

    def rule(call: Call, x: Value, axis: int, keep: bool = False) -> Two:
        graph = call.graph
        axis %= max(x.rank, 1)
        reduced = _axes(x, axis)
        if not reduced:
            return (x, graph.constant(0, "int64")), lambda dy, _place: (dy,)
        y = graph.op(operator, x, graph.constant(reduced, "int64"))
        place = graph.op("ArgMax", x if operator == "ReduceMax" else graph.op("Neg", x), axis=axis)

        def pullback(dy: Value, _place: Value | None) -> tuple[Value]:
            count = x.size(axis)
            places = graph.constant(np.arange(count).reshape(count, *(1 for _ in x.shape[axis + 1 :])), "int64")
            taken = graph.cast(graph.op("Equal", place, places), "float32")
            return (graph.op("Mul", taken, _kept(graph, dy, x, reduced)),)

        return (_dropped(graph, y, reduced, keep), stopped(_dropped(graph, place, reduced, keep))), pullback

    return rule


def arg_max(call: Call, x: Value, axis: int | None = None, keep: bool = False) -> Made:
    """The place of the largest along an axis, or in the whole tensor laid out flat."""
    graph = call.graph
    if axis is None or not x.rank:
        flat = graph.reshape(x, (math.prod(x.sizes),))
        return graph.reshape(graph.op("ArgMax", flat, axis=0), call.shape), None
    axis %= x.rank
    return _dropped(graph, graph.op("ArgMax", x, axis=axis), [axis], keep), None


def log_sum_exp(call: Call, x: Value, axes: Axes, keep: bool = False) -> Made:
    """log(sum(exp(x))) over some axes, of slope softmax(x)."""
    graph = call.graph
    reduced = _axes(x, axes)
    y = graph.op("ReduceLogSumExp", x, graph.constant(reduced, "int64")) if reduced else x

    def pullback(dy: Value) -> tuple[Value]:
        return (graph.op("Mul", graph.op("Exp", graph.op("Sub", x, y)), _kept(graph, dy, x, reduced)),)

    return _dropped(graph, y, reduced, keep), pullback


def softmax(call: Call, x: Value, axis: int, *_settings: Any) -> Made:
    """exp(x) over its sum along an axis."""
    graph = call.graph
    axis %= x.rank
    y = graph.op("Softmax", call.tensor(x), axis=axis)

    def pullback(dy: Value) -> tuple[Value]:
        inner = graph.sum(graph.op("Mul", dy, y), [axis], keep=True)
        return (graph.op("Mul", y, graph.op("Sub", dy, inner)),)

    return y, pullback


def log_softmax(call: Call, x: Value, axis: int, *_settings: Any) -> Made:
    """The logarithm of ``softmax``, computed at once."""
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
    "aten.cumsum.default": cumulative,
    "aten.linalg_vector_norm.default": norm,
    "aten.amax.default": _extreme("ReduceMax"),
    "aten.amin.default": _extreme("ReduceMin"),
    "aten.max.default": _extreme("ReduceMax"),
    "aten.min.default": _extreme("ReduceMin"),
    "aten.max.dim": _first_extreme("ReduceMax"),
    "aten.min.dim": _first_extreme("ReduceMin"),
    "aten.argmax.default": arg_max,
    "aten.logsumexp.default": log_sum_exp,
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten._log_softmax.default": log_softmax,
}
