"""Rules that move elements about without changing them."""

from __future__ import annotations

from collections.abc import Sequence

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Gradient, Pullback, Rule, unbroadcast

Made = tuple[Value, Pullback | None]


def reshape(call: Call, x: Value, *_settings: object) -> Made:
    """Reshape, view, flatten, squeeze, unsqueeze: torch's own description of the result says the shape."""
    graph = call.graph
    return graph.reshape(x, call.shape), lambda dy: (graph.reshape(dy, x.shape),)


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


def expand(call: Call, x: Value, _size: object, _implicit: bool = False) -> Made:
    graph = call.graph
    # 1 leaves an axis as it is, which is what a free batch needs.
    wanted = graph.constant([1 if isinstance(n, str) else n for n in call.shape], "int64")
    return graph.op("Expand", x, wanted), lambda dy: (unbroadcast(graph, dy, x),)


def select(call: Call, x: Value, axis: int, index: int) -> Made:
    axis %= x.rank
    index %= x.size(axis)
    return _cut(call, x, axis, (index, index + 1, 1))


def slicing(
    call: Call, x: Value, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Made:
    axis %= x.rank
    if isinstance(x.shape[axis], str):
        if (start or 0) == 0 and (stop is None or stop == 2**63 - 1) and step == 1:
            return x, lambda dy: (dy,)
        raise call.refuse("a part of the batch", "the whole batch", "slice along other axes only")
    return _cut(call, x, axis, slice(start, stop, step).indices(x.size(axis)))


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


def concatenate(call: Call, parts: Sequence[Value], axis: int = 0) -> Made:
    graph = call.graph
    axis %= len(call.shape)
    typed = [call.tensor(each) for each in parts]

    def pullback(dy: Value) -> tuple[Gradient]:
        ends = [sum(each.size(axis) for each in typed[: index + 1]) for index in range(len(typed))]
        starts = [0, *ends[:-1]]
        return ([graph.slice(dy, axis, start, end) for start, end in zip(starts, ends, strict=True)],)

    return graph.op("Concat", *typed, axis=axis), pullback


def stack(call: Call, parts: Sequence[Value], axis: int = 0) -> Made:
    graph = call.graph
    axis %= len(call.shape)
    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    joined, back = concatenate(call, [graph.reshape(each, shape) for each in parts], axis)
    if back is None:
        return joined, None

    def pullback(dy: Value) -> tuple[Gradient]:
        (slices,) = back(dy)
        pairs = zip(slices, parts, strict=True)  # type: ignore[arg-type]
        return ([graph.reshape(each, part.shape) for each, part in pairs if isinstance(each, Value)],)

    return joined, pullback


def pad(call: Call, x: Value, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Made:
    """Zeros around the last axes: pads are (before, after) of the last axis, then of the one before it, and so on."""
    if mode != "constant" or value:
        raise call.refuse(f"mode {mode}, value {value}", "zeros", "pad by zeros")
    graph = call.graph
    axes = [x.rank - 1 - index for index in range(len(pads) // 2)]
    before, after = list(pads[::2]), list(pads[1::2])
    back = ([-each for each in before], [-each for each in after])
    return graph.pad(x, axes, before, after), lambda dy: (graph.pad(dy, axes, *back),)


def pad_constant(call: Call, x: Value, pads: Sequence[int], value: float = 0.0) -> Made:
    return pad(call, x, pads, "constant", value)


RULES: dict[str, Rule] = {
    "aten.reshape.default": reshape,
    "aten.view.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.flatten.using_ints": reshape,
    "aten.unflatten.int": reshape,
    "aten.unsqueeze.default": reshape,
    "aten.squeeze.default": reshape,
    "aten.squeeze.dim": reshape,
    "aten.squeeze.dims": reshape,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.t.default": transpose_matrix,
    "aten.expand.default": expand,
    "aten.select.int": select,
    "aten.slice.Tensor": slicing,
    "aten.cat.default": concatenate,
    "aten.stack.default": stack,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": pad_constant,
}
