"""Rules that look elements up by index: selections of an axis, tables of relative positions, embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.gathering import Places, given_back, taken

Made = tuple[Value, Pullback | None]


def _look_up(call: Call, x: Value, axis: int, index: Value) -> Made:
    """x at an index of any shape along one axis."""
    graph = call.graph
    if index.dtype == "bool":
        raise call.refuse("a mask", "whole numbers", "use torch.where or a product with the mask")
    if index.constant is not None:
        return _look_up_constant(call, x, axis, index.constant)
    if x.trains:
        raise call.refuse("an index that is computed", "a constant one", "keep the index as a buffer")
    return graph.op("Gather", x, index, axis=axis), None


def _look_up_constant(call: Call, x: Value, axis: int, index: Places) -> Made:
    graph = call.graph
    size = x.size(axis)
    places = index.astype(np.int64) % size
    y = taken(graph, x, axis, places)
    return y, lambda dy: (given_back(graph, dy, axis, places, size),)


def index(call: Call, x: Value, indices: Sequence[Value | None]) -> Made:
    """x[:, index] and x[index, index]: constant indices of neighbouring axes are looked up as one."""
    axes = [axis for axis, each in enumerate(indices) if each is not None]
    given = [each for each in indices if each is not None]
    if len(given) == 1:
        return _look_up(call, x, axes[0], given[0])
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise call.refuse(f"indices of axes {axes}", "neighbouring axes", "index one axis after the other")
    known = [each.constant for each in given if each.constant is not None and each.dtype != "bool"]
    if len(known) < len(given):
        raise call.refuse("indices that are computed", "constant ones", "keep the indices as buffers")
    graph = call.graph
    sizes = [x.size(axis) for axis in axes]
    number = np.zeros((), np.int64)
    for each, size in zip(known, sizes, strict=True):
        number = number * size + each % size
    flat = graph.reshape(x, (*x.shape[: axes[0]], math.prod(sizes), *x.shape[axes[-1] + 1 :]))
    y, back = _look_up_constant(call, flat, axes[0], number)
    return y, back and (lambda dy: (graph.reshape(back(dy)[0], x.shape),))  # type: ignore[arg-type]


def index_select(call: Call, x: Value, axis: int, index: Value) -> Made:
    return _look_up(call, x, axis % x.rank, index)


def embedding(
    call: Call, weight: Value, indices: Value, padding: int = -1, by_frequency: bool = False, *_settings: Any
) -> Made:
    """Rows of a table."""
    if padding >= 0 and weight.trains:
        raise call.refuse(f"padding_idx {padding}", "none", "multiply the rows by a mask instead")
    if by_frequency and weight.trains:
        raise call.refuse("scale_grad_by_freq", "gradients as they are", "leave scale_grad_by_freq off")
    return _look_up(call, weight, 0, indices)


def repeat_each(call: Call, x: Value, repeats: int, axis: int | None = None, *_settings: Any) -> Made:
    """Every element of an axis, or of all, ``repeats`` times in a row."""
    graph = call.graph
    flat = graph.reshape(x, (math.prod(x.sizes),)) if axis is None else x
    axis = (axis or 0) % flat.rank
    y, back = _look_up_constant(call, flat, axis, np.repeat(np.arange(flat.size(axis)), repeats))
    return y, back and (lambda dy: (graph.reshape(back(dy)[0], x.shape),))  # type: ignore[arg-type]


RULES: dict[str, Rule] = {
    "aten.index.Tensor": index,
    "aten.index_select.default": index_select,
    "aten.embedding.default": embedding,
    "aten.repeat_interleave.self_int": repeat_each,
}
