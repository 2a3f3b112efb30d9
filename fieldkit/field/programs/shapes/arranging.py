"""Shapes of what computes on all values, or arranges them anew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fieldkit.field.programs.graph import Node
from fieldkit.field.programs.shapes.arguments import Rule, Shape, Shapes, Values, argument, axes_of, axis_of, needed

_OF_FIRST = (
    "Cast Clip DequantizeLinear GroupNormalization Identity InstanceNormalization LayerNormalization LogSoftmax "
    "QuantizeLinear Softmax"
)
_OF_ALL = (
    "Abs Add And Ceil Cos Div Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish LeakyRelu Less "
    "LessOrEqual Log Max Min Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Sin Softplus Sqrt Sub Sum "
    "Tanh ThresholdedRelu Where"
)
_REDUCTIONS = "ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare"


def _first(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [shapes[0]] * len(node.outputs)


def _broadcast(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [np.broadcast_shapes(*shapes)]


def _reduce(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    shape, axes = shapes[0], argument(node, values, 1, "axes")
    if not axes:
        axes = () if node.number("noop_with_empty_axes", 0) else tuple(range(len(shape)))
    return [_without(shape, axes_of(axes, len(shape)), bool(node.number("keepdims", 1)))]


def _without(shape: Shape, axes: Sequence[int], keep: bool) -> Shape:
    if keep:
        return tuple(1 if place in axes else length for place, length in enumerate(shape))
    return tuple(length for place, length in enumerate(shape) if place not in axes)


def _arg_max(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axis = axis_of(int(node.number("axis", 0)), len(shapes[0]))
    return [_without(shapes[0], [axis], bool(node.number("keepdims", 1)))]


def _concat(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axis = axis_of(int(node.number("axis", 0)), len(shapes[0]))
    if len({(*each[:axis], *each[axis + 1 :]) for each in shapes}) != 1:
        raise ValueError("unequal lengths")
    return [(*shapes[0][:axis], sum(each[axis] for each in shapes), *shapes[0][axis + 1 :])]


def _split(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    shape = shapes[0]
    axis, parts = axis_of(int(node.number("axis", 0)), len(shape)), len(node.outputs)
    step = -(-shape[axis] // parts)
    even = [min(step, max(shape[axis] - step * part, 0)) for part in range(parts)]
    sizes = argument(node, values, 1, "split") or even
    if sum(sizes) != shape[axis] or min(sizes) < 0:
        raise ValueError(f"parts {sizes}")
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _slice(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    lengths = list(shapes[0])
    starts, ends = needed(node, values, 1, "starts"), needed(node, values, 2, "ends")
    axes = axes_of(argument(node, values, 3, "axes") or range(len(starts)), len(lengths))
    steps = argument(node, values, 4) or (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        lengths[axis] = len(range(*slice(start, end, step).indices(shapes[0][axis])))
    return [tuple(lengths)]


def _gather(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axis = axis_of(int(node.number("axis", 0)), len(shapes[0]))
    return [(*shapes[0][:axis], *shapes[1], *shapes[0][axis + 1 :])]


def _transpose(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    rank = len(shapes[0])
    order = node.numbers("perm") or tuple(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise ValueError(f"order {order}")
    return [tuple(shapes[0][axis] for axis in order)]


def _reshape(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    size, asked = math.prod(shapes[0]), needed(node, values, 1, "shape")
    keep = not node.number("allowzero", 0)
    lengths = [shapes[0][place] if keep and length == 0 else length for place, length in enumerate(asked)]
    if lengths.count(-1) == 1:
        rest = -math.prod(lengths)
        lengths[lengths.index(-1)] = size // rest
    if min(lengths, default=0) < 0 or math.prod(lengths) != size:
        raise ValueError(f"{size} values as {asked}")
    return [tuple(lengths)]


def _flatten(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axis = int(node.number("axis", 1))
    axis += len(shapes[0]) if axis < 0 else 0
    return [(math.prod(shapes[0][:axis]), math.prod(shapes[0][axis:]))]


def _squeeze(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axes = argument(node, values, 1, "axes")
    if axes is None:
        axes = tuple(place for place, length in enumerate(shapes[0]) if length == 1)
    chosen = axes_of(axes, len(shapes[0]))
    if any(shapes[0][axis] != 1 for axis in chosen):
        raise ValueError(f"axes {axes}")
    return [_without(shapes[0], chosen, keep=False)]


def _unsqueeze(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    axes = needed(node, values, 1, "axes")
    rank = len(shapes[0]) + len(axes)
    chosen, rest = set(axes_of(axes, rank)), iter(shapes[0])
    return [tuple(1 if place in chosen else next(rest) for place in range(rank))]


def _matmul(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    left, right = shapes[0], shapes[1]
    wide, tall = (1, *left) if len(left) == 1 else left, (*right, 1) if len(right) == 1 else right
    if wide[-1] != tall[-2]:
        raise ValueError("unequal inner lengths")
    rows, columns = (wide[-2],) * (len(left) > 1), (tall[-1],) * (len(right) > 1)
    return [(*np.broadcast_shapes(wide[:-2], tall[:-2]), *rows, *columns)]


def _gemm(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    (rows, inner), (other, columns) = (
        each[::-1] if node.number(flag, 0) else each
        for each, flag in zip(shapes[:2], ("transA", "transB"), strict=True)
    )
    if inner != other:
        raise ValueError("unequal inner lengths")
    return [(rows, columns)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_OF_FIRST.split(), _first),
    **dict.fromkeys(_OF_ALL.split(), _broadcast),
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    "ArgMax": _arg_max,
    "Concat": _concat,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
