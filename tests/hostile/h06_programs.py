"""ONNX models that reach out, call themselves, contradict themselves, or mean two things."""

from __future__ import annotations

import handmade
import numpy as np
from handmade import node

from fieldkit.field.programs.protobuf import encode_bytes, encode_number, encode_varint
from hostile.making import Case

X, Y = handmade.value_info("x", (4,)), handmade.value_info("y", (4,))
NEG = node("Neg", ["x"], "y")
SOUND = handmade.model([NEG], [X], [Y], {})


def model(*nodes: bytes, more: bytes = b"", **constants: np.ndarray) -> bytes:
    """A model of one input and one output; ``more`` is merged into its graph."""
    return handmade.model(nodes or (NEG,), [X], [Y], constants) + (encode_bytes(7, more) if more else b"")


def _outside(path: bytes) -> bytes:
    """A tensor that says that its values are in a file."""
    where = encode_bytes(13, encode_bytes(1, b"location"), encode_bytes(2, path))
    return encode_number(1, 4) + encode_number(2, 1) + encode_bytes(8, b"c") + where + encode_number(14, 1)


def _in_attribute(number: int, content: bytes) -> bytes:
    return NEG + encode_bytes(5, encode_bytes(1, b"value"), encode_bytes(number, content))


def _nested(depth: int) -> bytes:
    """A node whose attribute is a graph of a node whose attribute is a graph, and so on."""
    inner = NEG
    for _ in range(depth):
        inner = _in_attribute(6, encode_bytes(1, inner))
    return inner


def _tensor(dims: list[int], kind: int, raw: bytes, name: bytes = b"c") -> bytes:
    lengths = b"".join(encode_number(1, each) for each in dims)
    return lengths + encode_number(2, kind) + encode_bytes(8, name) + encode_bytes(9, raw)


def _constant_of(packed: bytes) -> bytes:
    """A node that lists whole numbers."""
    listed = encode_bytes(1, b"value_ints"), encode_bytes(8, packed), encode_number(20, 7)
    return node("Constant", [], "c") + encode_bytes(5, *listed)


def cases() -> dict[str, Case]:
    found = {
        "outside, absolute": (model(more=encode_bytes(5, _outside(b"/etc/passwd"))), "other files"),
        "outside, climbing": (model(more=encode_bytes(5, _outside(b"../../../etc/passwd"))), "other files"),
        "outside, by place alone": (model(more=encode_bytes(5, encode_number(14, 1))), "other files"),
        "outside, in an attribute": (model(_in_attribute(5, _outside(b"/etc/shadow"))), "other files"),
        "control flow": (model(node("If", ["x"], "y")), "operator"),
        "random": (model(node("RandomNormal", [], "y")), "operator"),
        "foreign operator": (model(NEG + encode_bytes(7, b"com.microsoft")), "domain"),
        "foreign domain": (SOUND + encode_bytes(8, encode_bytes(1, b"ai.onnx.ml"), encode_number(2, 3)), "domain"),
        "function": (SOUND + encode_bytes(25, encode_bytes(1, b"f")), "functions"),
        "function that calls itself": (
            SOUND + encode_bytes(25, encode_bytes(1, b"f"), encode_bytes(7, node("f", ["x"], "y"))),
            "functions",
        ),
        "a graph in a graph": (model(_nested(1)), "nested graphs"),
        "graphs two thousand deep": (model(_nested(2000)), "nested graphs"),
        "sparse": (model(more=encode_bytes(15, b"")), "sparse"),
        "new opset": (handmade.model([NEG], [X], [Y], {}, opset=21), "opset"),
        "new IR": (handmade.model([NEG], [X], [Y], {}, ir=11), "IR version"),
        "cycle": (model(node("Add", ["x", "b"], "a"), node("Neg", ["a"], "b"), node("Neg", ["b"], "y")), "no cycle"),
        "node that reads itself": (model(node("Neg", ["y"], "y")), "no cycle"),
        "input that nobody makes": (model(node("Neg", ["nothing"], "y")), "read before it is made"),
        "output that nobody makes": (model(node("Neg", ["x"], "z")), "onnxruntime cannot run"),
        "name made twice": (model(NEG, node("Abs", ["x"], "y")), "made twice"),
        "constant over an input": (model(x=np.zeros(4, np.float32)), "made twice"),
        "too few inputs": (model(node("Conv", ["x"], "y")), "shape"),
        "too many inputs": (model(node("Neg", ["x", "x"], "y")), "onnxruntime cannot run"),
        "wrong type": (model(node("Sqrt", ["c"], "y"), c=np.arange(4)), "onnxruntime cannot run"),
        "type of text": (model(more=encode_bytes(5, _tensor([1], 8, b"x"))), "a number's type"),
        "type that is none": (model(more=encode_bytes(5, _tensor([1], 99, b"x"))), "a number's type"),
        "unknown field": (SOUND + encode_number(99, 1), "field of a model"),
        "operator twice": (model(NEG + encode_bytes(4, b"Abs")), "given twice"),
        "attribute twice": (model(NEG + 2 * encode_bytes(5, encode_bytes(1, b"to"), encode_number(3, 1))), "twice"),
        "key of 33 bits": (
            model(more=encode_varint(1 << 32 | 1 << 3 | 2) + encode_varint(len(NEG)) + NEG),
            "no ONNX model",
        ),
        "cut": (SOUND[:-3], "no ONNX model"),
        "no model": (b"hello, world", "field of a model"),
        "empty": (b"", "no ONNX model"),
        "name of a megabyte": (model(node("Neg", ["x"], "y" * 2**20)), "name"),
        "twenty thousand and one nodes": (
            model(*(node("Neg", ["x"], f"t{index}") for index in range(20_001))),
            "number of nodes",
        ),
        "twenty million lengths, packed": (
            model(more=encode_bytes(5, encode_bytes(1, bytes(20_000_000)) + _tensor([], 1, b""))),
            "number of fields",
        ),
        "twenty million numbers, packed": (
            model(node("Reshape", ["x", "c"], "y"), _constant_of(bytes(20_000_000))),
            "number of fields",
        ),
        "five thousand inputs": (model(node("Concat", ["x"] * 5000, "y", axis=0)), "too many parts"),
        "two million fields": (model(more=encode_bytes(1, encode_bytes(6, b"") + NEG) + b"\x0a\x00" * 10), "operator"),
    }
    return {name: Case(data, reason, program=True) for name, (data, reason) in found.items()}
