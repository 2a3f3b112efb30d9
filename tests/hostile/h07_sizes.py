"""ONNX models of a few hundred bytes whose tensors would fill any memory."""

from __future__ import annotations

from collections.abc import Sequence

import handmade
import numpy as np
from handmade import node

from fieldkit.field.programs.protobuf import encode_bytes, encode_number
from hostile.h06_programs import model
from hostile.making import Case

FAR = 2**40


def _whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _shaped(shape: Sequence[int | str], *nodes: bytes, **constants: np.ndarray) -> bytes:
    """A model whose input has this shape."""
    output = handmade.value_info("y", (1,))
    return handmade.model(nodes, [handmade.value_info("x", shape)], [output], constants)


def _listed(operator: str, inputs: Sequence[str], **lists: Sequence[int]) -> bytes:
    """A node with attributes that are lists."""
    made = node(operator, inputs, "y")
    return made + b"".join(_numbers(name, values) for name, values in lists.items())


def _numbers(name: str, values: Sequence[int]) -> bytes:
    """An attribute that is a list of whole numbers, as a field of its node."""
    numbers = b"".join(encode_number(8, each) for each in values)
    return encode_bytes(5, encode_bytes(1, name.encode()), numbers, encode_number(20, 7))


def _initializer(dims: Sequence[int], raw: bytes) -> bytes:
    lengths = b"".join(encode_number(1, each) for each in dims)
    tensor = lengths + encode_number(2, 1) + encode_bytes(8, b"c") + encode_bytes(9, raw)
    return model(more=encode_bytes(5, tensor))


def _doubled(times: int) -> bytes:
    nodes = [node("Concat", [f"t{index}", f"t{index}"], f"t{index + 1}", axis=0) for index in range(times)]
    return model(node("Neg", ["x"], "t0"), *nodes, node("Neg", [f"t{times}"], "y"))


def cases() -> dict[str, Case]:
    kernel = np.ones((1, 1, 3, 3), np.float32)
    column, row, image = (2**16, 1), np.ones((1, 2**16), np.float32), (1, 1, 4, 4)
    found = {
        "initializer": (_initializer([FAR], b"\0" * 4), "declared"),
        "initializer whose size wraps": (_initializer([2**33, 2**33], b""), "declared"),
        "initializer of negative length": (_initializer([2**64 - 1], b"\0" * 4), "declared"),
        "initializer of rank 100": (_initializer([1] * 100, b"\0" * 4), "rank"),
        "input": (_shaped((FAR,), node("Neg", ["x"], "y")), "size of tensor 'x'"),
        "input of negative length": (_shaped((2**64 - 1,), node("Neg", ["x"], "y")), "size of tensor 'x'"),
        "free lengths": (_shaped(("N", "M"), node("Neg", ["x"], "y")), "free"),
        "expand": (model(node("Expand", ["x", "c"], "y"), c=_whole(FAR, 4)), "size of tensor 'y'"),
        "tile": (model(node("Tile", ["x", "c"], "y"), c=_whole(FAR)), "size of tensor 'y'"),
        "constant of shape": (model(node("ConstantOfShape", ["c"], "y"), c=_whole(FAR, FAR)), "size of tensor 'y'"),
        "constants folded": (model(node("ConstantOfShape", ["c"], "y"), c=_whole(2**29)), "computed from constants"),
        "range": (
            model(node("Range", ["a", "b", "c"], "y"), a=np.array(0), b=np.array(FAR), c=np.array(1)),
            "size of tensor 'y'",
        ),
        "pad": (model(node("Pad", ["x", "c"], "y"), c=_whole(FAR, FAR)), "size of tensor 'y'"),
        "resize": (_shaped((1, 4), node("Resize", ["x", "", "", "c"], "y"), c=_whole(FAR, 4)), "size of tensor 'y'"),
        "one-hot": (
            model(node("OneHot", ["i", "d", "v"], "y"), i=_whole(0), d=np.array(FAR), v=np.zeros(2, np.float32)),
            "size of tensor 'y'",
        ),
        "gather": (
            _shaped((2, 2**16), node("Gather", ["x", "c"], "y", axis=0), c=np.zeros(2**15, np.int64)),
            "size of tensor 'y'",
        ),
        "concat, doubled forty times": (_doubled(40), "size of tensor"),
        "column by row": (_shaped(column, node("MatMul", ["x", "c"], "y"), c=row), "size of tensor 'y'"),
        "column and row": (_shaped(column, node("Add", ["x", "c"], "y"), c=row), "size of tensor 'y'"),
        "convolution, padded": (
            _shaped(image, _listed("Conv", ["x", "c"], pads=[FAR] * 4), c=kernel),
            "size of tensor 'y'",
        ),
        "convolution, transposed": (
            _shaped(image, _listed("ConvTranspose", ["x", "c"], strides=[FAR, FAR]), c=kernel),
            "size of tensor 'y'",
        ),
        "pooling, padded": (
            _shaped(image, _listed("MaxPool", ["x"], kernel_shape=[1, 1], pads=[FAR] * 4)),
            "size of tensor 'y'",
        ),
        "convolution of constants": (
            model(
                node("ConstantOfShape", ["s"], "a"),
                node("ConstantOfShape", ["k"], "b"),
                node("Conv", ["a", "b"], "c"),
                node("ReduceMax", ["c"], "d"),
                node("Add", ["x", "d"], "y"),
                s=_whole(1, 1, 2048, 2048),
                k=_whole(1, 1, 1024, 1024),
            ),
            "work on constants",
        ),
        "pooling of constants": (
            model(
                node("ConstantOfShape", ["s"], "a"),
                node("MaxPool", ["a"], "b") + _numbers("kernel_shape", [1024, 1024]),
                node("ReduceMax", ["b"], "d"),
                node("Add", ["x", "d"], "y"),
                s=_whole(1, 1, 2048, 2048),
            ),
            "work on constants",
        ),
        "shape from values": (
            _shaped((4,), node("Cast", ["x"], "c", to=7), node("ConstantOfShape", ["c"], "y")),
            "no constant",
        ),
        "reshape to another size": (model(node("Reshape", ["x", "c"], "y"), c=_whole(FAR)), "shape"),
        "reshape by nothing": (model(node("Reshape", ["x", "c"], "y"), c=_whole(0, -1, 0)), "shape"),
    }
    return {name: Case(data, reason, program=True) for name, (data, reason) in found.items()}
