"""Rules that move elements about without changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Gradient, Pullback, Rule, unbroadcast
from fieldkit.hq.compiler.rules.free_batch import is_static, of_one, repeated
from fieldkit.hq.compiler.rules.gathering import given_back

Made = tuple[Value, Pullback | None]
Several = tuple[tuple[Value, ...], Pullback | None]

# torch's modes of padding and ONNX's, which are numpy's.
PAD_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def reshape(call: Call, x: Value, *_settings: object) -> Made:
    """Reshape, view, flatten, squeeze, unsqueeze: torch's own description of the result says the shape."""
    graph = call.graph
    shape = of_one(call.shape, call.path) if is_static(x.shape) else call.shape
    if x.constant is not None:
        return graph.constant(x.constant.reshape(of_one(shape, call.path))), None
    return graph.reshape(x, shape), lambda dy: (graph.reshape(dy, x.shape),)


def permute(call: Call, x: Value, order: Sequence[int]) -> Made:
    graph = call.graph
    axes = [axis % x.rank for axis in order]
    back = [axes.index(axis) for axis in range(x.rank)]
    return graph.transpose(x, axes), lambda dy: (graph.transpose(dy, back),)


def transpose(call: Call, x: Value, first: int, second: int) -> Made:
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return permute(call, x, order)


def transpose_matrix(call: Call, x: Value) -> Made:
    return permute(call, x, range(x.rank)[::-1])


def transpose_last(call: Call, x: Value) -> Made:
    return transpose(call, x, -1, -2)


def move(call: Call, x: Value, sources: Sequence[int] | int, targets: Sequence[int] | int) -> Made:
    """Some axes to other positions, the rest in order."""
    first, second = (
        [axis % x.rank for axis in ([each] if isinstance(each, int) else each)] for each in (sources, targets)
    )
    rest = (axis for axis in range(x.rank) if axis not in first)
    return permute(call, x, [first[second.index(axis)] if axis in second else next(rest) for axis in range(x.rank)])


def expand(call: Call, x: Value, _size: object, _implicit: bool = False) -> Made:
    graph = call.graph
    # 1 leaves an axis as it is: a free batch, and what is the same for all of it.
    wanted = graph.constant([1 if isinstance(n, str) else n for n in call.shape], "int64")
    return graph.op("Expand", x, wanted), lambda dy: (unbroadcast(graph, dy, x),)


def select(call: Call, x: Value, axis: int, index: int) -> Made:
    axis %= x.rank
    index %= x.size(axis)
    return _cut(call, x, axis, (index, index + 1, 1))


def slicing(
    call: Call, x: Value, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Made:
    """Every ``step``-th element of an axis from ``start`` up to ``stop``; the gradient of the others is 0."""
    axis %= x.rank
    if isinstance(x.shape[axis], str):
        if call.shape == x.shape and step == 1:
            return x, lambda dy: (dy,)
        raise call.refuse("a part of the batch", "the whole batch", "slice along other axes only")
    span = slice(start, stop, step).indices(x.size(axis))
    if isinstance(call.shape[axis], int) and len(range(*span)) != call.shape[axis]:
        raise call.refuse("an end that depends on the batch", "a fixed one", "slice by fixed numbers")
    return _cut(call, x, axis, span)


def narrow(call: Call, x: Value, axis: int, start: int, length: int) -> Made:
    return slicing(call, x, axis, start, start + length)


def _cut(call: Call, x: Value, axis: int, span: tuple[int, int, int]) -> Made:
    """x[start:stop:step] along ``axis``, reshaped to the call's own shape (``select`` drops the axis)."""
    graph = call.graph
    start, stop, step = span
    size = x.size(axis)
    count = len(range(start, stop, step))
    whole = (start, count, step) == (0, size, 1)
    part = x if whole else graph.slice(x, axis, start, stop, step)

    def pullback(dy: Value) -> tuple[Value]:
        kept = graph.reshape(dy, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
        spread = _spread(call, kept, axis, step)
        length = (count - 1) * step + 1
        return (graph.pad(spread, [axis], [start], [size - start - length]),)

    return graph.reshape(part, call.shape), pullback


def _spread(call: Call, x: Value, axis: int, step: int) -> Value:
    """Put ``step - 1`` zeros between the elements of an axis."""
    if step == 1:
        return x
    graph = call.graph
    count = x.size(axis)
    apart = graph.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    padded = graph.pad(apart, [axis + 1], [0], [step - 1])
    joined = graph.reshape(padded, (*x.shape[:axis], count * step, *x.shape[axis + 1 :]))
    return graph.slice(joined, axis, 0, (count - 1) * step + 1)


def split(call: Call, x: Value, _sizes: object, axis: int = 0) -> Several:
    """Split, chunk and the like: torch's own description of the results says their sizes."""
    axis %= x.rank
    sizes = [each.shape[axis] for each in call.result]
    if not is_static(sizes):
        raise call.refuse("parts of the batch", "the whole batch", "split other axes only")
    return _split(call.graph, x, axis, sizes)


def unbind(call: Call, x: Value, axis: int = 0) -> Several:
    """The elements of an axis, each a tensor without it."""
    graph = call.graph
    axis %= x.rank
    parts, back = _split(graph, x, axis, [1] * x.size(axis))
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])

    def pullback(*arriving: Value | None) -> Sequence[Gradient]:
        pairs = zip(parts, arriving, strict=True)
        return back(*(None if dy is None else graph.reshape(dy, part.shape) for part, dy in pairs))

    return tuple(graph.reshape(part, shape) for part in parts), pullback


def _split(graph: Graph, x: Value, axis: int, sizes: Sequence[int]) -> tuple[tuple[Value, ...], Pullback]:
    if len(sizes) == 1:
        return (x,), lambda dy: (dy,)
    parts = graph.ops("Split", x, graph.constant(sizes, "int64"), axis=axis, count=len(sizes))

    def pullback(*arriving: Value | None) -> tuple[Value]:
        present = [index for index, dy in enumerate(arriving) if dy is not None]
        if len(present) == 1:
            before = sum(sizes[: present[0]])
            after = sum(sizes[present[0] + 1 :])
            return (graph.pad(arriving[present[0]], [axis], [before], [after]),)  # type: ignore[arg-type]
        pieces = zip(arriving, parts, strict=True)
        filled = [_zeros(graph, part.sizes) if dy is None else dy for dy, part in pieces]
        return (graph.op("Concat", *filled, axis=axis),)

    return parts, pullback


def _zeros(graph: Graph, shape: Sequence[int]) -> Value:
    return graph.op("Expand", graph.constant(0.0, "float32"), graph.constant(shape, "int64"))


def concatenate(call: Call, parts: Sequence[Value], axis: int = 0) -> Made:
    """The parts one after the other along an axis."""
    # torch lets an empty tensor of one axis stand in any concatenation.
    filled = [each for each in parts if each.shape != (0,)]
    typed = [call.tensor(each) for each in filled]
    axis %= len(call.shape)
    y, back = _joined(call, typed, axis)

    def pullback(dy: Value) -> tuple[Gradient]:
        slices = iter(back(dy))
        return ([next(slices) if each.shape != (0,) else None for each in parts],)

    return y, pullback


def _joined(call: Call, parts: Sequence[Value], axis: int) -> tuple[Value, Callable[[Value], list[Value]]]:
    """Parts along an axis; what is the same for all images of a free batch is repeated for each of them."""
    graph = call.graph
    free = next((each for each in parts if isinstance(each.shape[0], str)), None)
    if free is not None and axis == 0:
        raise call.refuse("batches joined", "the batch as it is", "join along other axes only")
    if free is not None:
        parts = [repeated(graph, each, free) if each.shape[0] == 1 else each for each in parts]
    if len({each.shape[0] for each in parts}) > 1 and axis != 0:
        raise call.refuse([each.shape for each in parts], "equal batches", "expand over the batch before")

    def back(dy: Value) -> list[Value]:
        ends = [sum(each.size(axis) for each in parts[: index + 1]) for index in range(len(parts))]
        return [graph.slice(dy, axis, start, end) for start, end in zip([0, *ends], ends, strict=False)]

    return (graph.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]), back


def stack(call: Call, parts: Sequence[Value], axis: int = 0) -> Made:
    """The parts, which are of one shape, as the elements of a new axis."""
    graph = call.graph
    axis %= len(call.shape)
    typed = [call.tensor(each) for each in parts]
    joined, back = _joined(call, [graph.reshape(each, _apart(each.shape, axis)) for each in typed], axis)

    def pullback(dy: Value) -> tuple[Gradient]:
        return ([graph.reshape(each, part.shape) for each, part in zip(back(dy), parts, strict=True)],)

    return joined, pullback


def _apart(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], 1, *shape[axis:])


def slice_scatter(
    call: Call,
    x: Value,
    part: Value,
    axis: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Made:
    """x with x[start:stop] along an axis replaced by ``part``."""
    axis %= x.rank
    if step != 1:
        raise call.refuse(f"step {step}", "step 1", "stack the parts and reshape")
    if x.shape[axis] == part.shape[axis] or isinstance(x.shape[axis], str):
        return part, lambda dy: (None, dy)
    first, last, _ = slice(start, stop).indices(x.size(axis))
    return _replaced(call, x, part, axis, (first, last))


def select_scatter(call: Call, x: Value, part: Value, axis: int, index: int) -> Made:
    """x with x[index] along an axis replaced by ``part``."""
    graph = call.graph
    axis %= x.rank
    index %= x.size(axis)
    y, back = _replaced(call, x, graph.reshape(part, _apart(part.shape, axis)), axis, (index, index + 1))

    def pullback(dy: Value) -> tuple[Value, Value]:
        dx, dpart = back(dy)
        return dx, graph.reshape(dpart, part.shape)

    return y, pullback


def _replaced(
    call: Call, x: Value, part: Value, axis: int, span: tuple[int, int]
) -> tuple[Value, Callable[[Value], tuple[Value, Value]]]:
    graph = call.graph
    size = x.size(axis)

    def outside(value: Value) -> tuple[list[Value], list[Value]]:
        """What lies before and after the span."""
        before = [graph.slice(value, axis, 0, span[0])] if span[0] else []
        return before, [graph.slice(value, axis, span[1], size)] if span[1] < size else []

    def around(value: Value, middle: Value) -> Value:
        before, after = outside(value)
        return _joined(call, [*before, middle, *after], axis)[0]

    def pullback(dy: Value) -> tuple[Value, Value]:
        return around(dy, _zeros(graph, part.sizes)), graph.slice(dy, axis, *span)

    return around(x, call.tensor(part)), pullback


def pad(call: Call, x: Value, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Made:
    """Around the last axes: pads are (before, after) of the last axis, then of the one before it, and so on."""
    graph = call.graph
    axes = [x.rank - 1 - index for index in range(len(pads) // 2)]
    before, after = list(pads[::2]), list(pads[1::2])
    if mode != "constant":
        return _pad_by_own(call, x, mode, [each for each in zip(axes, before, after, strict=True) if any(each[1:])])
    back = ([-each for each in before], [-each for each in after])
    return graph.pad(x, axes, before, after, value or 0), lambda dy: (graph.pad(dy, axes, *back),)


def _pad_by_own(call: Call, x: Value, mode: str, sides: Sequence[tuple[int, int, int]]) -> Made:
    """Padding by the tensor's own elements; sides: axis, before, after."""
    graph = call.graph
    axes, *widths = ([each[number] for each in sides] for number in range(3))
    pads = graph.constant([*widths[0], *widths[1]], "int64")
    y = graph.op("Pad", x, pads, None, graph.constant(axes, "int64"), mode=PAD_MODES[mode])
    shape = tuple(n if axis in axes else x.shape[axis] for axis, n in enumerate(call.shape))

    def pullback(dy: Value) -> tuple[Value]:
        for axis, before, after in sides:
            places = np.pad(np.arange(x.size(axis)), (before, after), mode=PAD_MODES[mode])
            dy = given_back(graph, dy, axis, places, x.size(axis))
        return (dy,)

    # ONNX does not tell a free batch beside padding.
    return replace(y, shape=shape), pullback


def pad_constant(call: Call, x: Value, pads: Sequence[int], value: float = 0.0) -> Made:
    return pad(call, x, pads, "constant", value)


RULES: dict[str, Rule] = {
    "aten.reshape.default": reshape,
    "aten.view.default": reshape,
    "aten.view_as.default": reshape,
    "aten.reshape_as.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.flatten.using_ints": reshape,
    "aten.unflatten.int": reshape,
    "aten.ravel.default": reshape,
    "aten.unsqueeze.default": reshape,
    "aten.squeeze.default": reshape,
    "aten.squeeze.dim": reshape,
    "aten.squeeze.dims": reshape,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.swapaxes.default": transpose,
    "aten.swapdims.default": transpose,
    "aten.t.default": transpose_matrix,
    "aten.mT.default": transpose_last,
    "aten.movedim.int": move,
    "aten.movedim.intlist": move,
    "aten.moveaxis.int": move,
    "aten.moveaxis.intlist": move,
    "aten.expand.default": expand,
    "aten.expand_as.default": expand,
    "aten.broadcast_to.default": expand,
    "aten.select.int": select,
    "aten.slice.Tensor": slicing,
    "aten.narrow.default": narrow,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split,
    "aten.chunk.default": split,
    "aten.tensor_split.sections": split,
    "aten.tensor_split.indices": split,
    "aten.unbind.int": unbind,
    "aten.cat.default": concatenate,
    "aten.stack.default": stack,
    "aten.slice_scatter.default": slice_scatter,
    "aten.select_scatter.default": select_scatter,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": pad_constant,
}
