"""Shapes of what slides a window over images, or samples them."""

from __future__ import annotations

from collections.abc import Sequence

from fieldkit.field.programs import protobuf
from fieldkit.field.programs.graph import Node
from fieldkit.field.programs.shapes.arguments import Rule, Shape, Shapes, Unknown, Values, natural

_TEXT = 4
"""The field of an attribute that is text."""


def _window(node: Node, lengths: Sequence[int], kernel: Sequence[int]) -> Shape:
    """The spatial lengths of what a convolution or a pooling gives."""
    rank, mode = len(lengths), _text(node, "auto_pad")
    strides, dilations = node.numbers("strides") or (1,) * rank, node.numbers("dilations") or (1,) * rank
    pads = node.numbers("pads") or (0,) * (2 * rank)
    if len(kernel) != rank or len(pads) != 2 * rank or min(*strides, *dilations, *kernel) < 1:
        raise ValueError("window")
    found = []
    for axis in range(rank):
        room = lengths[axis] + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1
        if mode.startswith("SAME"):
            room = lengths[axis] - 1
        room += (strides[axis] - 1) * bool(node.number("ceil_mode", 0))
        found.append(room // strides[axis] + 1)
    return natural(tuple(found))


def _text(node: Node, name: str) -> str:
    content = dict(protobuf.fields(node.attributes.get(name, b"")))
    return protobuf.text(content.get(_TEXT, memoryview(b"")))


def _conv(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    images, kernels = shapes[0], shapes[1]
    if images[1] != kernels[1] * int(node.number("group", 1)):
        raise ValueError("unequal channels")
    return [(images[0], kernels[0], *_window(node, images[2:], kernels[2:]))]


def _conv_transpose(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    images, kernels = shapes[0], shapes[1]
    rank, channels = len(images) - 2, kernels[1] * int(node.number("group", 1))
    if node.numbers("output_shape") or _text(node, "auto_pad") not in ("", "NOTSET"):
        raise Unknown("output_shape or auto_pad")
    strides, dilations = node.numbers("strides") or (1,) * rank, node.numbers("dilations") or (1,) * rank
    more, pads = node.numbers("output_padding") or (0,) * rank, node.numbers("pads") or (0,) * (2 * rank)
    if images[1] != kernels[0] or min(strides + dilations) < 1:
        raise ValueError("unequal channels")
    found = [
        strides[axis] * (images[axis + 2] - 1)
        + more[axis]
        + (kernels[axis + 2] - 1) * dilations[axis]
        + 1
        - pads[axis]
        - pads[axis + rank]
        for axis in range(rank)
    ]
    return [(images[0], channels, *natural(tuple(found)))]


def _pool(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    kernel = node.numbers("kernel_shape") or ()
    return [(*shapes[0][:2], *_window(node, shapes[0][2:], kernel))] * len(node.outputs)


def _global_pool(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [(*shapes[0][:2], *(1 for _ in shapes[0][2:]))]


def _batch_norm(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [shapes[0], *[shapes[1]] * (len(node.outputs) - 1)]


def _grid_sample(node: Node, shapes: Shapes, values: Values) -> list[Shape]:
    return [(*shapes[0][:2], *shapes[1][1:-1])]


RULES: dict[str, Rule] = {
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GridSample": _grid_sample,
    "MaxPool": _pool,
}
