"""Shapes of what makes more or other values of an argument's number: enlarging, counting, constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.graph import Node
from fieldkit.field.programs.shapes.arguments import (
    Rule,
    Shape,
    Shapes,
    Unknown,
    Values,
    argument,
    axes_of,
    axis_of,
    natural,
    needed,
)
from fieldkit.field.programs.tensors import decode_tensor


def _expand(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [np.broadcast_shapes(shapes[0], natural(needed(node, values, 1)))]


def _tile(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    repeats = natural(needed(node, values, 1))
    return [tuple(length * each for length, each in zip(shapes[0], repeats, strict=True))]


def _pad(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    lengths, pads = list(shapes[0]), needed(node, values, 1, "pads")
    axes = axes_of(argument(node, values, 3) or range(len(lengths)), len(lengths))
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        lengths[axis] += before + after
    return [natural(tuple(lengths))]


def _resize(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    lengths = list(shapes[0])
    if "keep_aspect_ratio_policy" in node.attributes:
        raise Unknown("the aspect ratio")
    axes = axes_of(node.numbers("axes") or range(len(lengths)), len(lengths))
    if len(node.inputs) > 3 and node.inputs[3]:
        sizes: Sequence[int] = needed(node, values, 3)
    else:
        place = min(2, len(node.inputs) - 1)
        needed(node, values, place)
        factors = values[place]
        assert factors is not None
        sizes = [int(lengths[axis] * float(each)) for axis, each in zip(axes, factors.ravel(), strict=True)]
    for axis, size in zip(axes, sizes, strict=True):
        lengths[axis] = size
    return [natural(tuple(lengths))]


def _one_hot(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    (depth,) = natural(needed(node, values, 1))
    axis = axis_of(int(node.number("axis", -1)), len(shapes[0]) + 1)
    return [(*shapes[0][:axis], depth, *shapes[0][axis:])]


def _range(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    needed(node, values, 0), needed(node, values, 1), needed(node, values, 2)
    start, end, step = (float(each.ravel()[0]) for each in values if each is not None)
    return [(max(math.ceil((end - start) / step), 0),)]


def _constant_of_shape(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [natural(needed(node, values, 0))]


def _shape(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    rank = len(shapes[0])
    bounds = slice(int(node.number("start", 0)), int(node.number("end", rank)))
    return [(len(range(*bounds.indices(rank))),)]


def _top_k(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    (count,) = natural(needed(node, values, 1, "k"))
    axis = axis_of(int(node.number("axis", -1)), len(shapes[0]))
    return [(*shapes[0][:axis], count, *shapes[0][axis + 1 :])] * 2


def _constant(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    content = node.attributes.get("value")
    if content is not None:
        return [tensor_shape(_tensor(content))[1]]
    listed = node.numbers("value_ints")
    if listed is None and not {"value_int", "value_float"} & set(node.attributes):
        raise Unknown("a constant of a kind that no program needs")
    return [() if listed is None else (len(listed),)]


def constant_values(node: Node) -> np.ndarray | None:
    """The values of a Constant node, if they are numbers of a kind that arguments are of."""
    if "value" in node.attributes:
        return next(iter(decode_tensor(_tensor(node.attributes["value"])).values()), None)
    if "value_int" in node.attributes:
        return np.array(int(node.number("value_int", 0)))
    listed = node.numbers("value_ints")
    return None if listed is None else np.array(listed, np.int64)


def tensor_shape(message: memoryview) -> tuple[str, Shape]:
    """Name and shape that a TensorProto declares."""
    name, shape = "", []
    for number, value in protobuf.fields(message):
        if number == onnx_format.TENSOR_NAME:
            name = protobuf.text(value)
        elif number == onnx_format.TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else protobuf.varints(value)
    return name, tuple(shape)


def _tensor(attribute: bytes) -> memoryview:
    """The tensor in an attribute's bytes; an empty one where there is none."""
    content = dict(protobuf.fields(attribute))
    return protobuf.payload(content.get(onnx_format.ATTRIBUTE_TENSOR, memoryview(b"")))


RULES: dict[str, Rule] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Resize": _resize,
    "Shape": _shape,
    "Tile": _tile,
    "TopK": _top_k,
}
