"""Shapes known before a program runs are those that onnxruntime makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import handmade
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.errors import ProgramError
from fieldkit.field.engine.session import open_session, run_session
from fieldkit.field.programs.extents import FREE, check_extents
from fieldkit.field.programs.program import ALLOWED_OPERATORS, check_program
from fieldkit.field.programs.protobuf import encode_bytes, encode_number
from fieldkit.field.programs.shapes import RULES


def node(operator: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, Any]) -> bytes:
    """A node with attributes that are whole numbers, lists of them, or text."""
    parts = [encode_bytes(1, name.encode()) for name in inputs]
    parts += [encode_bytes(2, f"y{index}".encode()) for index in range(outputs)]
    parts.append(encode_bytes(4, operator.encode()))
    for name, value in attributes.items():
        if isinstance(value, str):
            content = encode_bytes(4, value.encode()) + encode_number(20, 3)
        elif isinstance(value, int):
            content = encode_number(3, value % 2**64) + encode_number(20, 2)
        else:
            content = b"".join(encode_number(8, each % 2**64) for each in value) + encode_number(20, 7)
        parts.append(encode_bytes(5, encode_bytes(1, name.encode()), content))
    return b"".join(parts)


def agree(
    operator: str,
    inputs: Sequence[Sequence[int] | np.ndarray | None],
    outputs: int = 1,
    opset: int = 20,
    **attributes: Any,
) -> None:
    """The shapes of ``operator``'s outputs are those of onnxruntime; arrays are constants, shapes are inputs."""
    names = ["" if each is None else f"x{index}" for index, each in enumerate(inputs)]
    constants = {name: each for name, each in zip(names, inputs, strict=True) if isinstance(each, np.ndarray)}
    feeds = {
        name: np.full(each, 0.5, np.float32)
        for name, each in zip(names, inputs, strict=True)
        if each is not None and not isinstance(each, np.ndarray)
    }
    untyped = [encode_bytes(1, f"y{index}".encode()) for index in range(outputs)]
    declared = [handmade.value_info(name, each.shape) for name, each in feeds.items()]
    program = handmade.model([node(operator, names, outputs, attributes)], declared, untyped, constants, opset)
    check_program(program, operator)
    shapes = check_extents(program, operator)
    made = run_session(open_session(program, operator, threads=1), feeds, operator)
    assert [shapes[f"y{index}"] for index in range(outputs)] == [each.shape for each in made]


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_there_is_a_rule_for_every_operator() -> None:
    assert set(RULES) == set(ALLOWED_OPERATORS)


# fmt: off
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Add", [(3, 1, 4), (2, 1)], {}),
    ("Softmax", [(3, 4)], {"axis": 1}), ("Clip", [(3, 4)], {}), ("Max", [(3, 1), (4,), (1, 1, 1)], {}),
    ("ReduceSum", [(2, 3, 4), whole(0, -1)], {"keepdims": 0}), ("ReduceSum", [(2, 3, 4)], {}),
    ("ReduceMean", [(2, 3, 4), whole(1)], {}),
    ("ReduceMean", [(2, 3, 4)], {"axes": [1, 2], "keepdims": 0, "opset": 13}),
    ("ArgMax", [(2, 3, 4)], {"axis": -1, "keepdims": 0}), ("ArgMax", [(2, 3, 4)], {}),
    ("Concat", [(2, 3), (2, 5), (2, 1)], {"axis": -1}), ("Split", [(7, 2)], {"num_outputs": 3, "outputs": 3}),
    ("Split", [(7, 2), whole(3, 4)], {"outputs": 2}), ("Split", [(2, 6)], {"axis": 1, "outputs": 3, "opset": 13}),
    ("Slice", [(9, 8), whole(1, -1), whole(7, -99), whole(0, 1), whole(2, -3)], {}),
    ("Slice", [(9, 8), whole(2), whole(2**60)], {}), ("Gather", [(5, 4), np.zeros((2, 3), np.int64)], {"axis": 1}),
    ("Transpose", [(2, 3, 4)], {}), ("Transpose", [(2, 3, 4)], {"perm": [1, 2, 0]}),
    ("Reshape", [(4, 6), whole(2, -1, 3)], {}), ("Reshape", [(4, 6), whole(0, 2, 3)], {}),
    ("Flatten", [(2, 3, 4)], {"axis": 2}), ("Flatten", [(2, 3, 4)], {"axis": -1}), ("Flatten", [(2, 3)], {"axis": 0}),
    ("Squeeze", [(1, 3, 1)], {}), ("Squeeze", [(1, 3, 1), whole(-1)], {}), ("Unsqueeze", [(3, 4), whole(0, -1)], {}),
    ("Unsqueeze", [(3, 4)], {"axes": [0, 3], "opset": 11}), ("Expand", [(3, 1), whole(2, 1, 4)], {}),
    ("Tile", [(2, 3), whole(3, 2)], {}), ("Pad", [(4, 5), whole(1, -2, 0, 3)], {}),
    ("Pad", [(4, 5), whole(1, 2), None, whole(1)], {}), ("Range", [np.array(7), np.array(-2), np.array(-2)], {}),
    ("Resize", [(1, 1, 4, 6), None, None, whole(1, 1, 7, 3)], {}),
    ("Resize", [(1, 1, 4, 6), None, np.array([1, 1, 2.5, 0.6], np.float32)], {}),
    ("Resize", [(1, 1, 4, 6), None, np.array([2, 2], np.float32)], {"axes": [2, 3]}),
    ("OneHot", [whole(0, 1), np.array(5), np.array([0, 1], np.float32)], {"axis": 0}),
    ("ConstantOfShape", [whole(2, 3)], {}), ("Shape", [(2, 3, 4)], {"start": 1}), ("Shape", [(2, 3, 4)], {"end": -1}),
    ("TopK", [(3, 6), whole(2)], {"axis": 1, "outputs": 2}),
    ("MatMul", [(2, 1, 3, 4), (5, 4, 6)], {}), ("MatMul", [(4,), (4, 6)], {}), ("MatMul", [(3, 4), (4,)], {}),
    ("MatMul", [(4,), (4,)], {}), ("Gemm", [(4, 3), (5, 4)], {"transA": 1, "transB": 1}),
    ("Conv", [(2, 4, 9, 8), (6, 2, 3, 2)], {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    ("Conv", [(1, 1, 7, 8), (1, 1, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [(1, 1, 7, 8), (1, 1, 3, 3)], {"auto_pad": "VALID"}),
    ("ConvTranspose", [(2, 4, 5, 6), (4, 3, 3, 2)], {"group": 2, "strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", [(1, 1, 5, 6), (1, 1, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "dilations": [2, 1]}),
    ("MaxPool", [(1, 2, 7, 8)], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "outputs": 2}),
    ("AveragePool", [(1, 2, 7, 8)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [(2, 3, 4, 5)], {}), ("InstanceNormalization", [(2, 3, 4), (3,), (3,)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {"training_mode": 1, "outputs": 3}),
    ("LayerNormalization", [(2, 3, 4), (4,)], {}), ("GridSample", [(2, 3, 4, 5), (2, 6, 7, 2)], {}),
]
# fmt: on


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=[f"{place} {case[0]}" for place, case in enumerate(CASES)]
)
def test_a_rule_agrees_with_onnxruntime(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agree(operator, inputs, **attributes)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_windows_of_any_kind(data: st.DataObject) -> None:
    def pair(least: int, most: int) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2))

    kernel, strides, dilations = pair(1, 3), pair(1, 3), pair(1, 2)
    pads = [min(each, size - 1) for each, size in zip(pair(0, 2) + pair(0, 2), kernel * 2, strict=True)]
    how = {"strides": strides, "dilations": dilations, "pads": pads}
    image = (1, 2, *pair(6, 12))
    agree("Conv", [image, (3, 2, *kernel)], **how)
    agree("MaxPool", [image], kernel_shape=kernel, **how)
    agree("ConvTranspose", [image, (2, 3, *kernel)], **how)


def test_a_free_number_of_images_counts_as_a_batch() -> None:
    program = handmade.recipe().programs["predict"]
    weights = {"param.weight": np.zeros((3, 16), np.float32), "param.bias": np.zeros(3, np.float32)}
    constants = [encode_bytes(5, handmade.constant(name, each)) for name, each in weights.items()]
    assert check_extents(program + encode_bytes(7, *constants), "predict")["probabilities"] == (FREE, 3)


def test_the_message_names_the_operator_and_what_it_makes() -> None:
    far = np.array([2**40])
    program = handmade.model(
        [handmade.node("Tile", ["x", "far"], "y")],
        [handmade.value_info("x", (4,))],
        [handmade.value_info("y", (4,))],
        {"far": far},
    )
    with pytest.raises(ProgramError, match=r"the program: size of tensor 'y' .*found 4398046511104 values") as caught:
        check_extents(program, "the program")
    assert caught.value.exit_code == 4
