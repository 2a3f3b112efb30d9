"""What a program may contain, checked on its raw bytes before onnxruntime sees any of them.

The rules are those of docs/program.md: plain ONNX of domain ``ai.onnx``, operators of an allow-list, nothing that
reads other files, no functions and no nested graphs, so that a program is a finite list of arithmetic and nothing else.
Protobuf lets a message come in several pieces; every piece is checked.  It also lets a single value be given twice, of
which the last counts, and skips what it does not know; both are refused, so that onnxruntime reads what was checked.
How large the tensors become is the matter of ``extents``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fieldkit.errors import ProgramError
from fieldkit.field.programs import protobuf

MAX_OPSET = 20
MAX_IR = 10
# onnxruntime takes 5 s to open a program of so many nodes; the largest recipe of HQ's tests has a fifth of them.
MAX_NODES = 20_000
MAX_TENSORS = 20_000
"""Initializers, and declared inputs, outputs and shapes in between, each."""
MAX_ARITY = 4_096
"""Inputs, outputs or attributes of one node."""
MAX_NAME = 512
"""Bytes of a name."""
MAX_FIELDS = 1_000_000
"""Fields of all messages and bytes of packed lists together, which bounds the time of this check."""
MAX_RANK = 16

# Arithmetic on tensors only: no control flow, nothing random, no strings, no sequences.
# fmt: off
ALLOWED_OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat",
        "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "DequantizeLinear", "Div", "Equal", "Erf", "Exp",
        "Expand", "Flatten", "Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
        "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
        "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
        "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow",
        "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "Round", "Shape", "Sigmoid",
        "Sign", "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh",
        "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    }
)
# fmt: on

# Field numbers of onnx.proto; see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA = 1, 7, 8, 14
MODEL_TRAINING_INFO, MODEL_FUNCTIONS = 20, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE_INITIALIZER = 1, 5, 15
GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = GRAPH_VALUES = 11, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INTS = 1, 8
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_REFERENCE, ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = 21, 22, 23
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
TENSOR_DATA = (4, 5, 7, 10, 11)
"""Values in fields by type, where they are not raw: floats, 32- and 64-bit integers, doubles, unsigned integers."""
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE = 1, 1, 2
SHAPE_DIM, DIM_VALUE, DIM_NAME = 1, 1, 2
ENTRY_KEY, ENTRY_VALUE = 1, 2

ONNX_DOMAINS = ("", "ai.onnx")


ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""Bytes of a value by ONNX's number of its type: numbers and booleans, no strings and no complex ones."""
_ABSURD = 1 << 62
# Why some fields are refused that ONNX knows: by message and number, what it is, what was found, what is expected.
FORBIDDEN = {
    ("a model", MODEL_FUNCTIONS): ("functions and training information", "one", "none"),
    ("a model", MODEL_TRAINING_INFO): ("functions and training information", "one", "none"),
    ("a graph", GRAPH_SPARSE_INITIALIZER): ("sparse initializers", "one", "none"),
    **{("an attribute", each): ("nested graphs", "one", "none") for each in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS)},
    **{
        ("an attribute", each): ("sparse or referring attributes", "one", "none")
        for each in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES, ATTRIBUTE_REFERENCE)
    },
    ("an attribute", ATTRIBUTE_TENSORS): ("lists of tensors", "one", "none"),
    ("a tensor", TENSOR_EXTERNAL): ("tensors kept in other files", "one", "none"),
}


@dataclass(frozen=True)
class _Form:
    """The fields that a message may have: by number, those that are given once at most, and those that repeat."""

    once: frozenset[int]
    repeated: frozenset[int] = frozenset()
    names: frozenset[int] = frozenset()
    """Those of either that are names."""


def _form(once: Iterable[int], repeated: Iterable[int] = (), names: Iterable[int] = ()) -> _Form:
    return _Form(frozenset(once), frozenset(repeated), frozenset(names))


# Numbers that have no name above are documentation, names of producers, and data that only onnxruntime reads.
_MODEL = _form({MODEL_IR, 2, 3, 4, 5, 6}, {MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA})
_OPSET = _form({OPSET_DOMAIN, OPSET_VERSION})
_GRAPH = _form({2, 10}, {GRAPH_NODE, GRAPH_INITIALIZER, *GRAPH_VALUES, 16}, {2})
_NODE = _form(
    {NODE_NAME, NODE_OPERATOR, 6, NODE_DOMAIN},
    {NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE, 9},
    {NODE_NAME, NODE_OPERATOR, NODE_DOMAIN, NODE_INPUT, NODE_OUTPUT},
)
_ATTRIBUTE = _form({ATTRIBUTE_NAME, 2, 3, 4, ATTRIBUTE_TENSOR, 13, 20}, {7, 8, 9}, {ATTRIBUTE_NAME})
_TENSOR = _form({TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, 12, TENSOR_LOCATION}, {TENSOR_DIMS, *TENSOR_DATA}, {TENSOR_NAME})
_VALUE = _form({VALUE_NAME, VALUE_TYPE, 3}, {4}, {VALUE_NAME})
_TYPE = _form({TYPE_TENSOR, 6})
_TENSOR_TYPE = _form({TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE})
_SHAPE = _form((), {SHAPE_DIM})
_DIM = _form({DIM_VALUE, DIM_NAME, 3}, (), {DIM_NAME})


@dataclass
class _Found:
    """What the walk over a program gathers for the checks that need the whole of it."""

    graph: bool = False
    opset: int = 0
    ir: int = 0
    fields: int = 0
    parts: Counter[int] = field(default_factory=Counter)

    def read(self, message: memoryview, form: _Form, what: str) -> Iterator[protobuf.Field]:
        """The fields of a message, each of which is known and no more often there than it may be."""
        seen: set[int] = set()
        for number, value in protobuf.fields(message):
            self.fields += 1
            self._check_fields()
            if number in form.once:
                if number in seen:
                    raise refused(f"field of {what} given twice", f"field {number}", "each once")
                seen.add(number)
            elif number not in form.repeated:
                raise refused(*FORBIDDEN.get((what, number), (f"field of {what}", f"field {number}", "known fields")))
            if number in form.names and len(protobuf.payload(value)) > MAX_NAME:
                raise refused("name", f"{len(protobuf.payload(value))} bytes", f"at most {MAX_NAME}")
            yield number, value

    def listed(self, packed: memoryview) -> list[int]:
        """The numbers of a packed list; each counts as a field, since reading it takes as long."""
        self.note_list(packed)
        return protobuf.varints(packed)

    def note_list(self, packed: memoryview) -> None:
        """Count a packed list that is read later: of no more numbers than it has bytes."""
        self.fields += len(packed)
        self._check_fields()

    def _check_fields(self) -> None:
        if self.fields > MAX_FIELDS:
            raise refused("number of fields", f"more than {MAX_FIELDS}", f"at most {MAX_FIELDS}")

    def count(self, number: int, most: int, what: str) -> None:
        """Count a part of the graph by its field's number."""
        self.parts[number] += 1
        if self.parts[number] > most:
            raise refused(f"number of {what}", f"more than {most}", f"at most {most}")


def check_program(program: bytes, where: str) -> None:
    """Raise ProgramError unless ``program`` keeps the program contract; ``where`` names it in the message."""
    try:
        found = _Found()
        for number, value in found.read(memoryview(program), _MODEL, "a model"):
            _check_model_field(number, value, found)
        _check_whole(found)
    except ProgramError as error:
        raise placed(error, where) from None


def read_metadata(model: bytes, where: str) -> dict[str, str]:
    """The metadata properties of an ONNX model, key to value."""
    metadata: dict[str, str] = {}
    try:
        for count, (number, value) in enumerate(protobuf.fields(model)):
            # Models are asked for this before they are checked.
            if count > MAX_FIELDS:
                raise refused("number of fields", f"more than {MAX_FIELDS}", f"at most {MAX_FIELDS}")
            if number == MODEL_METADATA:
                entry = dict(protobuf.fields(protobuf.payload(value)))
                key, content = (protobuf.text(entry.get(each, memoryview(b""))) for each in (ENTRY_KEY, ENTRY_VALUE))
                metadata[key] = content
    except ProgramError as error:
        raise placed(error, where) from None
    return metadata


def placed(error: ProgramError, where: str) -> ProgramError:
    """The same error, with ``where`` the program is."""
    place = where if error.where is None else f"{where}, {error.where}"
    return ProgramError(error.message, where=place, found=error.found, expected=error.expected, remedy=error.remedy)


def _check_model_field(number: int, value: int | memoryview, found: _Found) -> None:
    if number == MODEL_IR:
        found.ir = protobuf.number(value)
        if found.ir > MAX_IR:
            raise refused("ONNX IR version", found.ir, f"at most {MAX_IR}")
    elif number == MODEL_OPSET:
        _check_opset(protobuf.payload(value), found)
    elif number == MODEL_GRAPH:
        found.graph = True
        _check_graph(protobuf.payload(value), found)


def _check_opset(message: memoryview, found: _Found) -> None:
    entry = dict(found.read(message, _OPSET, "an opset"))
    domain = protobuf.text(entry.get(OPSET_DOMAIN, memoryview(b"")))
    if domain not in ONNX_DOMAINS:
        raise refused("operator domain", domain, "ai.onnx alone")
    found.opset = protobuf.number(entry.get(OPSET_VERSION, 0))
    if found.opset > MAX_OPSET:
        raise refused("opset", found.opset, f"at most {MAX_OPSET}")


def _check_graph(message: memoryview, found: _Found) -> None:
    for number, value in found.read(message, _GRAPH, "a graph"):
        if number == GRAPH_NODE:
            found.count(number, MAX_NODES, "nodes")
            _check_node(protobuf.payload(value), found)
        elif number == GRAPH_INITIALIZER:
            found.count(number, MAX_TENSORS, "initializers")
            _check_tensor(protobuf.payload(value), found)
        elif number in GRAPH_VALUES:
            found.count(number, MAX_TENSORS, "declared tensors")
            _check_value(protobuf.payload(value), found)


def _check_node(message: memoryview, found: _Found) -> None:
    name = operator = domain = ""
    attributes: list[str] = []
    arity: Counter[int] = Counter()
    for number, value in found.read(message, _NODE, "a node"):
        arity[number] += 1
        if number == NODE_NAME:
            name = protobuf.text(value)
        elif number == NODE_OPERATOR:
            operator = protobuf.text(value)
        elif number == NODE_DOMAIN:
            domain = protobuf.text(value)
        elif number == NODE_ATTRIBUTE:
            attributes.append(_check_attribute(protobuf.payload(value), found))
    place = f"node {name!r}" if name else None
    if domain not in ONNX_DOMAINS:
        raise refused("operator domain", domain, "ai.onnx alone", place)
    if operator not in ALLOWED_OPERATORS:
        raise refused("operator", operator or "none", "one of the allow-list in docs/program.md", place)
    if len(set(attributes)) < len(attributes) or max(arity.values()) > MAX_ARITY:
        raise refused("node", "an attribute twice, or too many parts", f"at most {MAX_ARITY} of each", place)


def _check_attribute(message: memoryview, found: _Found) -> str:
    """The attribute's name."""
    name = ""
    for number, value in found.read(message, _ATTRIBUTE, "an attribute"):
        if number == ATTRIBUTE_NAME:
            name = protobuf.text(value)
        elif number == ATTRIBUTE_TENSOR:
            _check_tensor(protobuf.payload(value), found)
        elif number == ATTRIBUTE_INTS and not isinstance(value, int):
            found.note_list(value)
    return name


def _check_tensor(message: memoryview, found: _Found) -> None:
    """What a tensor declares must be there: else a few bytes would make onnxruntime take gigabytes."""
    count, rank, raw, kind, given = 1, 0, None, 0, 0
    for number, value in found.read(message, _TENSOR, "a tensor"):
        if number == TENSOR_DIMS:
            for length in [value] if isinstance(value, int) else found.listed(value):
                count, rank = min(count * length, _ABSURD), rank + 1
        elif number == TENSOR_TYPE:
            kind = protobuf.number(value)
        elif number == TENSOR_RAW:
            raw = len(protobuf.payload(value))
        elif number in TENSOR_DATA:
            # A value takes at least a byte, and outside of a packed list the one of its key as well.
            given += 1 if isinstance(value, int) else len(value)
        elif number == TENSOR_LOCATION and value != 0:
            raise refused("tensors kept in other files", "one", "none")
    if kind not in ELEMENT_BYTES or rank > MAX_RANK:
        raise refused("tensor", f"type {kind}, rank {rank}", f"a number's type, rank at most {MAX_RANK}")
    if (count * ELEMENT_BYTES[kind] != raw) if raw is not None else count > given:
        raise refused("tensor", f"{count} values declared, {raw or given} bytes of them", "all that is declared")


def _check_value(message: memoryview, found: _Found) -> None:
    """A declared input, output or tensor in between: a plain tensor; ``extents`` judges its size."""
    for number, value in found.read(message, _VALUE, "a declared tensor"):
        if number == VALUE_TYPE:
            for each, inner in found.read(protobuf.payload(value), _TYPE, "a type"):
                if each == TYPE_TENSOR:
                    _check_tensor_type(protobuf.payload(inner), found)


def _check_tensor_type(message: memoryview, found: _Found) -> None:
    for number, value in found.read(message, _TENSOR_TYPE, "a tensor's type"):
        if number == TENSOR_TYPE_ELEMENT and protobuf.number(value) not in ELEMENT_BYTES:
            raise refused("element type", value, "a number's")
        if number == TENSOR_TYPE_SHAPE:
            dims = [each for _, each in found.read(protobuf.payload(value), _SHAPE, "a shape")]
            if len(dims) > MAX_RANK:
                raise refused("rank", len(dims), f"at most {MAX_RANK}")
            for each in dims:
                tuple(found.read(protobuf.payload(each), _DIM, "a dimension"))


def _check_whole(found: _Found) -> None:
    if not (found.graph and found.ir and found.opset):
        missing = [name for name in ("graph", "opset", "ir") if not getattr(found, name)]
        raise ProgramError(
            "these bytes are no ONNX model",
            found=f"no {' and no '.join(missing)}",
            expected="an ONNX model with IR version, opset and graph",
            remedy="get the file again",
        )


def refused(what: str, found: object, expected: str, where: str | None = None) -> ProgramError:
    """The error for something in a program that may not be there."""
    return ProgramError(
        f"{what} that a program may not have",
        where=where,
        found=found,
        expected=expected,
        remedy="build the bundle again with fieldkit build, or install a newer fieldkit",
    )
