"""A model's graph as nodes and tensors, read from its bytes and written back, without the ``onnx`` package.

Only what rewriting a trained model needs: nodes with their attributes as raw bytes, and the tensors inside.  All other
fields are kept as they are, but for the shapes that a writer may have noted for tensors in between, which would no
longer be true.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fieldkit.errors import ProgramError
from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.protobuf import encode_bytes, encode_number
from fieldkit.field.programs.tensors import decode_tensor, encode_tensor

NODE_INPUT, NODE_OUTPUT = 1, 2
GRAPH_OUTPUT, GRAPH_SHAPES = 12, 13
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_TYPE = 1, 2, 3, 8, 20
INT = 2
VALUE_NAME = 1
# A negative number is written as its two's complement of 64 bits.
_SIGN, _WRAP = 1 << 63, 1 << 64


@dataclass(frozen=True)
class Node:
    """One operation.

    inputs: names of tensors, "" for one that is left out.  attributes: AttributeProto bytes by name.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, bytes] = field(default_factory=dict)

    def reading(self, places: Mapping[int, str]) -> Node:
        """The same node with other inputs at these places."""
        return replace(self, inputs=tuple(places.get(place, name) for place, name in enumerate(self.inputs)))

    def number(self, name: str, default: float) -> float:
        """The value of an integer or float attribute."""
        for number, value in protobuf.fields(self.attributes.get(name, b"")):
            if number == ATTRIBUTE_INT:
                return _signed(protobuf.number(value))
            if number == ATTRIBUTE_FLOAT:
                return float(struct.unpack("<f", protobuf.payload(value))[0])
        return default

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """The values of an attribute that is a list of integers, or None where there is none."""
        if name not in self.attributes:
            return None
        found: list[int] = []
        for number, value in protobuf.fields(self.attributes[name]):
            if number == ATTRIBUTE_INTS:
                # Packed or one by one: protobuf writers may do either.
                found += [value] if isinstance(value, int) else protobuf.varints(value)
        return tuple(_signed(each) for each in found)

    @classmethod
    def make(cls, operator: str, inputs: Sequence[str], output: str, **attributes: int) -> Node:
        """A node with integer attributes, none of them negative."""
        return cls(
            operator, tuple(inputs), (output,), {name: _integer(name, each) for name, each in attributes.items()}
        )


@dataclass
class Graph:
    """A model.

    nodes: in the order in which they run.
    tensors: the initializers by name: of dtypes that fieldkit writes, others stay in ``rest``.
    outputs: names of the model's outputs.  metadata: key to value.
    """

    nodes: list[Node]
    tensors: dict[str, np.ndarray]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    rest: bytes
    """All other fields of the graph."""
    head: bytes
    """All other fields of the model."""

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor, each once."""
        return [node for node in self.nodes if name in node.inputs]

    def sole_reader(self, name: str) -> Node | None:
        """The only node that reads a tensor, if there is just one and nobody outside reads it."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def redirect(self, name: str, other: str, nodes: Container[tuple[str, ...]] | None = None) -> None:
        """Let the nodes that read the tensor ``name`` read ``other``: all, or those with these outputs."""
        for place, node in enumerate(self.nodes):
            if name in node.inputs and (nodes is None or node.outputs in nodes):
                self.nodes[place] = node.reading({i: other for i, read in enumerate(node.inputs) if read == name})

    def free_name(self, name: str) -> str:
        """``name``, or with a number after it where a tensor has it already."""
        taken = {*self.tensors, *(each for node in self.nodes for each in (*node.inputs, *node.outputs))}
        return next(each for each in (name, *(f"{name}.{n}" for n in range(len(taken) + 1))) if each not in taken)

    def drop_unread(self) -> None:
        """Forget the tensors that nothing reads any more."""
        read = {name for node in self.nodes for name in node.inputs} | set(self.outputs)
        self.tensors = {name: values for name, values in self.tensors.items() if name in read}


def read_graph(model: bytes, where: str) -> Graph:
    """The graph of an ONNX model.  Raises ProgramError, with ``where`` the model is, for bytes that are none."""
    graph = Graph([], {}, (), onnx_format.read_metadata(model, where), b"", b"")
    head, rest = [], []
    try:
        for number, value in protobuf.fields(model):
            if number == onnx_format.MODEL_GRAPH:
                rest += [_read_part(graph, *each) for each in protobuf.fields(protobuf.payload(value))]
            elif number != onnx_format.MODEL_METADATA:
                head.append(_as_it_was(number, value))
    except ProgramError as error:
        raise onnx_format.placed(error, where) from None
    graph.rest, graph.head = b"".join(rest), b"".join(head)
    return graph


def write_graph(graph: Graph) -> bytes:
    """The model's bytes: its weights come last, as in every model that fieldkit writes."""
    ordered = sorted(graph.tensors, key=lambda name: name.startswith("param."))
    body = [encode_bytes(onnx_format.GRAPH_NODE, _node(each)) for each in graph.nodes]
    body.append(graph.rest)
    body += [encode_bytes(onnx_format.GRAPH_INITIALIZER, encode_tensor(name, graph.tensors[name])) for name in ordered]
    return b"".join((graph.head, encode_bytes(onnx_format.MODEL_GRAPH, *body), encode_metadata(graph.metadata)))


def encode_metadata(metadata: Mapping[str, str]) -> bytes:
    """The fields of a model that hold its metadata."""
    return b"".join(
        encode_bytes(
            onnx_format.MODEL_METADATA,
            encode_bytes(onnx_format.ENTRY_KEY, key.encode()),
            encode_bytes(onnx_format.ENTRY_VALUE, value.encode()),
        )
        for key, value in metadata.items()
    )


def with_outputs(graph: Graph, names: Sequence[str]) -> bytes:
    """The model's bytes with these tensors in between among its outputs, after its own."""
    values = (encode_bytes(GRAPH_OUTPUT, encode_bytes(VALUE_NAME, name.encode())) for name in names)
    return write_graph(replace(graph, rest=graph.rest + b"".join(values)))


def _read_part(graph: Graph, number: int, value: int | memoryview) -> bytes:
    """Take one field of a graph into ``graph``; what it has no place for is returned as bytes."""
    if number == onnx_format.GRAPH_NODE:
        graph.nodes.append(read_node(protobuf.payload(value)))
    elif number == onnx_format.GRAPH_INITIALIZER:
        tensor = decode_tensor(protobuf.payload(value))
        graph.tensors |= tensor
        return b"" if tensor else _as_it_was(number, value)
    elif number != GRAPH_SHAPES:
        if number == GRAPH_OUTPUT:
            names = (each for key, each in protobuf.fields(protobuf.payload(value)) if key == VALUE_NAME)
            graph.outputs += tuple(protobuf.text(each) for each in names)
        return _as_it_was(number, value)
    return b""


def read_node(message: memoryview) -> Node:
    operator, inputs, outputs, attributes = "", [], [], {}
    for number, value in protobuf.fields(message):
        if number == NODE_INPUT:
            inputs.append(protobuf.text(value))
        elif number == NODE_OUTPUT:
            outputs.append(protobuf.text(value))
        elif number == onnx_format.NODE_OPERATOR:
            operator = protobuf.text(value)
        elif number == onnx_format.NODE_ATTRIBUTE:
            content = bytes(protobuf.payload(value))
            names = [protobuf.text(each) for key, each in protobuf.fields(content) if key == ATTRIBUTE_NAME]
            attributes["".join(names)] = content
    return Node(operator, tuple(inputs), tuple(outputs), attributes)


def _node(node: Node) -> bytes:
    return b"".join(
        (
            *(encode_bytes(NODE_INPUT, name.encode()) for name in node.inputs),
            *(encode_bytes(NODE_OUTPUT, name.encode()) for name in node.outputs),
            encode_bytes(onnx_format.NODE_OPERATOR, node.operator.encode()),
            *(encode_bytes(onnx_format.NODE_ATTRIBUTE, each) for each in node.attributes.values()),
        )
    )


def _integer(name: str, value: int) -> bytes:
    """An AttributeProto of one integer."""
    parts = encode_number(ATTRIBUTE_INT, value) + encode_number(ATTRIBUTE_TYPE, INT)
    return encode_bytes(ATTRIBUTE_NAME, name.encode()) + parts


def _as_it_was(number: int, value: int | memoryview) -> bytes:
    """The bytes of a field of a number or of bytes: neither a graph nor a model has others."""
    return encode_number(number, value) if isinstance(value, int) else encode_bytes(number, value)


def _signed(value: int) -> int:
    return value - _WRAP if value >= _SIGN else value
