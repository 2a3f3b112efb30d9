"""How large every tensor of a program becomes, known from its bytes before onnxruntime allocates any of them.

A program's shapes follow from what it declares: the shapes of its inputs and of its constants, and arguments such as
the new shape of a Reshape, which must be constants themselves.  So a few bytes that would stand for terabytes (a Tile,
a Pad, a product of a column and a row) are found by arithmetic on shapes.  A free number of images counts as FREE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fieldkit.errors import ProgramError
from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.graph import Node, read_node
from fieldkit.field.programs.program import refused
from fieldkit.field.programs.shapes import RULES
from fieldkit.field.programs.shapes.arguments import Shape, Unknown
from fieldkit.field.programs.shapes.making import constant_values, tensor_shape
from fieldkit.field.programs.shapes.work import work
from fieldkit.field.programs.tensors import decode_tensor

FREE = 32
"""What the first axis of an input is counted as where it is free: as many images as ``prediction`` takes at a time."""
MAX_VALUES = 2**30
"""Values of one tensor, inputs and outputs included."""
MAX_TOTAL = 2**36
"""Values of all tensors together, an upper bound of what one run writes."""
MAX_FOLDED = 2**26
"""Values of all tensors that depend on no input, which onnxruntime computes when it opens a program."""
MAX_FOLDED_WORK = 2**32
"""Multiplications for them, a second or two: a convolution of constants, once begun, is not interrupted."""
# A shape argument has as many values as a tensor has axes, or two for each.
_ARGUMENT = 256


@dataclass
class _Extents:
    """What is known of a program's tensors by name.

    shapes: of each tensor.  constants: values of small whole-number tensors.  fixed: tensors that depend on no input.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    total: int = 0
    folded: int = 0
    work: int = 0

    def note(self, name: str, shape: Shape, fixed: bool) -> None:
        """Take a tensor in, and refuse one that is too large or that was there before."""
        size = math.prod(shape)
        if name in self.shapes:
            raise refused(f"tensor {name!r} that is made twice", "two", "one")
        self.shapes[name] = shape
        self.total += size
        if fixed:
            self.fixed.add(name)
            self.folded += size
        for found, most, what in (
            (size, MAX_VALUES, f"tensor {name!r}"),
            (self.total, MAX_TOTAL, "all tensors together"),
            (self.folded, MAX_FOLDED, "what is computed from constants"),
        ):
            if found > most:
                raise refused(f"size of {what}", f"{found} values", f"at most {most}")


def check_extents(program: bytes, where: str) -> dict[str, Shape]:
    """The shape of every tensor of a program that ``check_program`` has passed.

    Raises ProgramError where one becomes too large; also where a node reads what no node before it makes, as in a graph
    with a cycle, where shapes contradict each other, and where they depend on values.
    """
    extents = _Extents()
    nodes: list[Node] = []
    try:
        for number, value in protobuf.fields(program):
            if number == onnx_format.MODEL_GRAPH:
                nodes += _nodes(protobuf.payload(value), extents)
        for node in nodes:
            _note_node(extents, node)
    except ProgramError as error:
        raise onnx_format.placed(error, where) from None
    return extents.shapes


def _nodes(graph: memoryview, extents: _Extents) -> Iterator[Node]:
    """The nodes of a graph; its inputs and initializers are noted on the way."""
    for number, value in protobuf.fields(graph):
        content = protobuf.payload(value)
        if number == onnx_format.GRAPH_NODE:
            yield read_node(content)
        elif number == onnx_format.GRAPH_INITIALIZER:
            _note_tensor(extents, content)
        elif number == onnx_format.GRAPH_INPUT:
            extents.note(*_declared(content), False)


def _note_node(extents: _Extents, node: Node) -> None:
    place = f"{node.operator} that makes {', '.join(node.outputs)}"
    read = [name for name in node.inputs if name]
    missing = [name for name in read if name not in extents.shapes]
    if missing:
        raise refused("order of nodes", f"{missing[0]!r} read before it is made", "inputs first, no cycle", place)
    try:
        # An input that is left out has no shape; no rule looks at one that may be.
        shapes = [extents.shapes[name] if name else () for name in node.inputs]
        constants = [extents.constants.get(name) for name in node.inputs]
        made = RULES[node.operator](node, shapes, constants)
    except Unknown as error:
        raise refused("shape", error, "shapes that follow from the inputs' and from constants", place) from None
    except (IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError, KeyError) as error:
        raise refused("shape", f"inputs {shapes}: {error}", "shapes that fit together", place) from None
    fixed = all(name in extents.fixed for name in read)
    if fixed:
        extents.work += work(node, shapes, made)
        if extents.work > MAX_FOLDED_WORK:
            expected = f"at most {MAX_FOLDED_WORK}"
            raise refused("work on constants", f"{extents.work} multiplications", expected, place)
    for name, shape in zip(node.outputs, made, strict=False):
        if name:
            extents.note(name, shape, fixed)
    if node.operator == "Constant" and math.prod(made[0]) <= _ARGUMENT:
        values = constant_values(node)
        if values is not None:
            extents.constants[node.outputs[0]] = values


def _note_tensor(extents: _Extents, message: memoryview) -> None:
    """An initializer; the values of small ones may be shapes."""
    name, shape = tensor_shape(message)
    extents.note(name, shape, True)
    if math.prod(shape) <= _ARGUMENT:
        extents.constants |= decode_tensor(message)


def _declared(message: memoryview) -> tuple[str, Shape]:
    """Name and shape of an input, whose first length alone may be free."""
    name, shape = "", []
    for number, value in protobuf.fields(message):
        if number == onnx_format.VALUE_NAME:
            name = protobuf.text(value)
        elif number == onnx_format.VALUE_TYPE:
            shape = [_length(each) for each in _dims(protobuf.payload(value))]
    if None in shape[1:]:
        raise refused(f"shape of input {name!r}", "lengths that are free", "none after the first")
    return name, tuple(FREE if length is None else length for length in shape)


def _dims(message: memoryview) -> Iterator[memoryview]:
    """The dimensions in a TypeProto of a tensor."""
    for number in (onnx_format.TYPE_TENSOR, onnx_format.TENSOR_TYPE_SHAPE):
        found = dict(protobuf.fields(message))
        if number not in found:
            return
        message = protobuf.payload(found[number])
    for _, value in protobuf.fields(message):
        yield protobuf.payload(value)


def _length(message: memoryview) -> int | None:
    """A dimension's length, or None where it is free."""
    found: Mapping[int, int | memoryview] = dict(protobuf.fields(message))
    length = found.get(onnx_format.DIM_VALUE)
    return None if length is None else protobuf.number(length)
