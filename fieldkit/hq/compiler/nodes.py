"""Single ONNX nodes: their protobuf form, the types of their outputs, and their value where all inputs are constant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import checker, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from fieldkit.errors import ProgramError

OPSET = 20
UNKNOWN = "?"
# ONNX cannot tell what a free batch becomes in a reshape or beside padding; whoever asked for it can.
FREE = ("Reshape", "Pad")
IR_VERSION = 10

Dim = int | str
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the graph; compared by identity.

    shape: static, except for a symbolic batch such as "N".
    trains: whether a trained parameter is among what it was computed from.
    constant: its value where that is known at compile time.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    trains: bool = False
    constant: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    def size(self, axis: int) -> int:
        """The static size of one axis."""
        size = self.shape[axis]
        if not isinstance(size, int):
            raise ProgramError("a static size is needed here", where=self.name, found=f"{size} on axis {axis}")
        return size

    @property
    def sizes(self) -> tuple[int, ...]:
        """The whole shape, where all of it is static."""
        return tuple(self.size(axis) for axis in range(self.rank))


@dataclass(frozen=True)
class Node:
    """One operation, by the names of its inputs ("" for an absent one) and outputs."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]

    def proto(self, names: Mapping[str, str] | None = None) -> onnx.NodeProto:
        """The node as protobuf, its tensors renamed by ``names``."""
        inputs, outputs = (
            [names[each] for each in side] if names else list(side) for side in (self.inputs, self.outputs)
        )
        stated = {name: value for name, value in self.attributes if not _is_default(self.operator, name, value)}
        return helper.make_node(self.operator, inputs, outputs, **stated)


def _is_default(operator: str, name: str, value: Any) -> bool:
    default = defs.get_schema(operator, OPSET).attributes[name].default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return False
    known = helper.get_attribute_value(default)
    return bool((known.decode() if isinstance(known, bytes) else known) == value)


def element_type(dtype: str) -> int:
    """ONNX's number of a numpy dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def value_info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type(value.dtype), list(value.shape))


def output_types(node: Node, inputs: Sequence[Value]) -> list[tuple[str, tuple[Dim, ...]]]:
    """dtype and shape of each output of a node, by ONNX's own inference."""
    types = {each.name: value_info(each.name, each).type for each in inputs}
    data = {each.name: numpy_helper.from_array(each.constant) for each in inputs if each.constant is not None}
    schema = defs.get_schema(node.operator, OPSET)
    opset = [helper.make_opsetid("", OPSET)]
    try:
        found = shape_inference.infer_node_outputs(schema, node.proto(), types, data, None, opset, IR_VERSION)
    except (shape_inference.InferenceError, checker.ValidationError, RuntimeError) as error:
        shapes = [each.shape for each in inputs]
        raise _bug("the compiler wrote a node that ONNX refuses", node, f"{error} for shapes {shapes}") from error
    # Where a device says how far to cut, nobody knows yet how much is left.
    free = node.operator in FREE or (node.operator == "Slice" and inputs[2].constant is None)
    return [_plain_type(node, found[name], free) for name in node.outputs]


def _plain_type(node: Node, proto: onnx.TypeProto, free: bool) -> tuple[str, tuple[Dim, ...]]:
    tensor = proto.tensor_type
    named = [each.dim_value if each.HasField("dim_value") else each.dim_param for each in tensor.shape.dim]
    dims = tuple(UNKNOWN if n == "" and free else n for n in named)
    if not tensor.HasField("shape") or "" in dims:
        raise _bug("the compiler lost track of a shape", node, dims)
    return helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, dims


def _bug(message: str, node: Node, found: object) -> ProgramError:
    return ProgramError(
        message, where=node.operator, found=found, remedy="report this as a bug of fieldkit, with the model"
    )


def evaluate(node: Node, inputs: Iterable[Value]) -> list[Array]:
    """The outputs of a node whose inputs are all constant."""
    known = {each.name: each for each in inputs}
    graph = helper.make_graph(
        [node.proto()],
        "fold",
        [value_info(name, each) for name, each in known.items()],
        [onnx.ValueInfoProto(name=name) for name in node.outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    feeds = {name: each.constant for name, each in known.items()}
    return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, feeds)]
