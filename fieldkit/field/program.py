"""What a program may contain, checked on its raw bytes before onnxruntime sees any of them.

The rules are those of docs/program.md: plain ONNX of domain ``ai.onnx``, operators of an allow-list, nothing that
reads other files, no functions and no nested graphs, so that a program is a finite list of arithmetic and nothing else.
Protobuf lets a message come in several pieces; every piece is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from fieldkit.errors import ProgramError
from fieldkit.field import protobuf

MAX_OPSET = 20
MAX_IR = 10
MAX_NODES = 50_000

# Arithmetic on tensors only: no control flow, nothing random, no strings, no sequences.
# fmt: off
ALLOWED_OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat",
        "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Div", "Equal", "Erf", "Exp", "Expand",
        "Flatten", "Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
        "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
        "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
        "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow",
        "Range", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
        "ReduceSumSquare", "Relu", "Reshape", "Resize", "Round", "Shape", "Sigmoid", "Sign", "Sin", "Slice",
        "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile", "TopK",
        "Transpose", "Unsqueeze", "Where",
    }
)
# fmt: on

# Field numbers of onnx.proto; see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA = 1, 7, 8, 14
MODEL_TRAINING_INFO, MODEL_FUNCTIONS = 20, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE_INITIALIZER = 1, 5, 15
NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 3, 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_REFERENCE, ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = 21, 22, 23
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
ELEMENT_TYPES = {"float32": 1, "int64": 7}
"""ONNX's numbers of the dtypes that fieldkit writes into models."""

ONNX_DOMAINS = ("", "ai.onnx")


@dataclass
class _Found:
    """What the walk over a program gathers for the checks that need the whole of it."""

    nodes: int = 0
    graph: bool = False
    opset: int = 0
    ir: int = 0


def check_program(program: bytes, where: str) -> None:
    """Raise ProgramError unless ``program`` keeps the program contract; ``where`` names it in the message."""
    try:
        found = _Found()
        for number, value in protobuf.fields(program):
            _check_model_field(number, value, found)
        _check_whole(found)
    except ProgramError as error:
        raise _placed(error, where) from None


def read_metadata(model: bytes, where: str) -> dict[str, str]:
    """The metadata properties of an ONNX model, key to value."""
    metadata: dict[str, str] = {}
    try:
        for number, value in protobuf.fields(model):
            if number == MODEL_METADATA:
                entry = dict(protobuf.fields(protobuf.payload(value)))
                key, content = (protobuf.text(entry.get(each, memoryview(b""))) for each in (ENTRY_KEY, ENTRY_VALUE))
                metadata[key] = content
    except ProgramError as error:
        raise _placed(error, where) from None
    return metadata


def _placed(error: ProgramError, where: str) -> ProgramError:
    place = where if error.where is None else f"{where}, {error.where}"
    return ProgramError(error.message, where=place, found=error.found, expected=error.expected, remedy=error.remedy)


def _check_model_field(number: int, value: int | memoryview, found: _Found) -> None:
    if number == MODEL_IR:
        found.ir = protobuf.number(value)
        if found.ir > MAX_IR:
            raise _refused("ONNX IR version", found.ir, f"at most {MAX_IR}")
    elif number == MODEL_OPSET:
        _check_opset(protobuf.payload(value), found)
    elif number == MODEL_GRAPH:
        found.graph = True
        _check_graph(protobuf.payload(value), found)
    elif number in (MODEL_FUNCTIONS, MODEL_TRAINING_INFO):
        raise _refused("functions and training information", "one", "none")


def _check_opset(message: memoryview, found: _Found) -> None:
    entry = dict(protobuf.fields(message))
    domain = protobuf.text(entry.get(OPSET_DOMAIN, memoryview(b"")))
    if domain not in ONNX_DOMAINS:
        raise _refused("operator domain", domain, "ai.onnx alone")
    found.opset = protobuf.number(entry.get(OPSET_VERSION, 0))
    if found.opset > MAX_OPSET:
        raise _refused("opset", found.opset, f"at most {MAX_OPSET}")


def _check_graph(message: memoryview, found: _Found) -> None:
    for number, value in protobuf.fields(message):
        if number == GRAPH_NODE:
            found.nodes += 1
            if found.nodes > MAX_NODES:
                raise _refused("number of nodes", f"more than {MAX_NODES}", f"at most {MAX_NODES}")
            _check_node(protobuf.payload(value))
        elif number == GRAPH_INITIALIZER:
            _check_tensor(protobuf.payload(value))
        elif number == GRAPH_SPARSE_INITIALIZER:
            raise _refused("sparse initializers", "one", "none")


def _check_node(message: memoryview) -> None:
    name = operator = domain = ""
    for number, value in protobuf.fields(message):
        if number == NODE_NAME:
            name = protobuf.text(value)
        elif number == NODE_OPERATOR:
            operator = protobuf.text(value)
        elif number == NODE_DOMAIN:
            domain = protobuf.text(value)
        elif number == NODE_ATTRIBUTE:
            _check_attribute(protobuf.payload(value))
    place = f"node {name!r}" if name else None
    if domain not in ONNX_DOMAINS:
        raise _refused("operator domain", domain, "ai.onnx alone", place)
    if operator not in ALLOWED_OPERATORS:
        raise _refused("operator", operator or "none", "one of the allow-list in docs/program.md", place)


def _check_attribute(message: memoryview) -> None:
    for number, value in protobuf.fields(message):
        if number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            raise _refused("nested graphs", "one", "none")
        if number in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES, ATTRIBUTE_REFERENCE):
            raise _refused("sparse or referring attributes", "one", "none")
        if number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
            _check_tensor(protobuf.payload(value))


def _check_tensor(message: memoryview) -> None:
    for number, value in protobuf.fields(message):
        if number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0):
            raise _refused("tensors kept in other files", "one", "none")


def _check_whole(found: _Found) -> None:
    if not (found.graph and found.ir and found.opset):
        missing = [name for name, here in vars(found).items() if name != "nodes" and not here]
        raise ProgramError(
            "these bytes are no ONNX model",
            found=f"no {' and no '.join(missing)}",
            expected="an ONNX model with IR version, opset and graph",
            remedy="get the file again",
        )


def _refused(what: str, found: object, expected: str, where: str | None = None) -> ProgramError:
    return ProgramError(
        f"{what} that a program may not have",
        where=where,
        found=found,
        expected=expected,
        remedy="build the bundle again with fieldkit build, or install a newer fieldkit",
    )
