"""Models read as graphs and written back; weights folded into the layers that read them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import handmade
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fieldkit.errors import ProgramError
from fieldkit.field.compression.folding import fold
from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.programs.graph import Graph, Node, read_graph, with_outputs, write_graph
from fieldkit.field.programs.initializers import read_initializers
from fieldkit.field.programs.program import check_program, read_metadata
from fieldkit.field.programs.tensors import ELEMENT_TYPES, decode_tensor, encode_tensor

BUNDLE = replace(handmade.bundle(), digest="ab" * 32)
MODEL = exporting.export(train(BUNDLE, seed=5, threads=1), BUNDLE)


def answers(model: bytes, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: images})
    return found


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_a_model_written_back_is_the_same_model() -> None:
    graph = read_graph(MODEL, "model")
    written = write_graph(graph)
    check_program(written, "written")
    assert read_metadata(written, "written") == read_metadata(MODEL, "model") == graph.metadata
    images = handmade.images(9).images
    assert np.array_equal(answers(written, images)[0], answers(MODEL, images)[0])
    assert write_graph(read_graph(written, "written")) == written
    assert list(read_initializers(written, "written"))[-2:] == ["param.weight", "param.bias"]


def test_tensors_in_between_can_be_asked_for() -> None:
    graph = read_graph(MODEL, "model")
    probabilities, logits = answers(with_outputs(graph, ["logits"]), handmade.images(4).images)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(shares, probabilities, atol=1e-6)
    assert graph.outputs == ("probabilities",)


@given(
    st.sampled_from(sorted(ELEMENT_TYPES)).flatmap(
        lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, max_side=4))
    ),
    st.text(max_size=9),
)
def test_any_tensor_survives(values: np.ndarray, name: str) -> None:
    (found,) = decode_tensor(memoryview(encode_tensor(name, values))).items()
    assert found[0] == name
    assert found[1].dtype == values.dtype
    assert np.array_equal(found[1], values, equal_nan=True)


@given(st.integers(0, 2**63 - 1))
def test_attributes_are_read_as_they_were_written(value: int) -> None:
    assert Node.make("Gather", ["a", "b"], "y", axis=value).number("axis", 0) == value
    assert Node.make("Gather", ["a", "b"], "y").number("axis", 7) == 7


def test_negative_attributes_and_lists_are_read() -> None:
    onnx = pytest.importorskip("onnx")
    made = onnx.helper.make_node("X", ["a"], ["y"], axis=-1, slope=0.25, pads=[1, -2, 3])
    info = onnx.helper.make_tensor_value_info("a", 1, [1])
    graph = onnx.helper.make_graph([made], "g", [info], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    (node,) = read_graph(onnx.helper.make_model(graph).SerializeToString(), "model").nodes
    assert (node.number("axis", 0), node.number("slope", 0.0), node.numbers("pads")) == (-1, 0.25, (1, -2, 3))
    assert node.numbers("none") is None


@given(st.binary(max_size=60))
def test_bytes_that_are_no_model_are_refused(junk: bytes) -> None:
    with suppress(ProgramError):
        read_graph(junk, "junk")
    with pytest.raises(ProgramError, match=r"^junk"):
        read_graph(b"\x3a\x7f" + junk[:9], "junk")


def test_names_stay_unique() -> None:
    graph = Graph([Node("Relu", ("a",), ("b",))], {"c": np.zeros(1)}, ("b",), {}, b"", b"")
    assert graph.free_name("d") == "d"
    for taken in "abc":
        assert graph.free_name(taken) == f"{taken}.0"


def convolution(normalised: bool, biased: bool) -> bytes:
    """uint8 images through a convolution, a batch normalisation if ``normalised``, and a product, as compiled."""
    draw = np.random.default_rng(3).normal
    nodes = [handmade.node("Cast", ["images"], "x", to=1)]
    nodes.append(handmade.node("Conv", ["x", "param.kernel", *["param.offset"] * biased], "y"))
    constants = {
        "param.kernel": draw(size=(4, 2, 3, 3)).astype(np.float32),
        "shape": np.array([5, -1]),
        "flat": np.array([0, 16]),
    }
    if biased:
        constants["param.offset"] = draw(size=4).astype(np.float32)
    if normalised:
        names = ["param.scale", "param.shift", "param.mean", "param.variance"]
        nodes.append(handmade.node("BatchNormalization", ["y", *names], "z"))
        constants |= {name: draw(1, 0.3, size=4).astype(np.float32) for name in names}
        constants["param.variance"] = constants["param.variance"] ** 2
    nodes.append(handmade.node("Reshape", ["z" if normalised else "y", "flat"], "rows"))
    constants["param.weight"] = draw(size=(5, 4, 2, 2)).astype(np.float32)
    nodes.append(handmade.node("Reshape", ["param.weight", "shape"], "w"))
    nodes.append(handmade.node("Gemm", ["rows", "w"], "logits", transB=1))
    outputs = [handmade.value_info("logits", ("N", 5))]
    return handmade.model(nodes, [handmade.value_info("images", ("N", 2, 4, 4), "uint8")], outputs, constants)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_folding_changes_no_answer(normalised: bool, biased: bool) -> None:
    model = convolution(normalised, biased)
    graph = read_graph(model, "model")
    fold(graph)
    operators = [node.operator for node in graph.nodes]
    assert operators == ["Cast", "Conv", "Reshape", "Gemm"]
    assert graph.tensors["param.weight"].shape == (5, 16)
    assert "shape" not in graph.tensors
    images = pixels(6, 2, 4, 4)
    assert np.allclose(answers(write_graph(graph), images)[0], answers(model, images)[0], rtol=1e-4, atol=1e-2)


def test_what_others_read_is_not_folded() -> None:
    graph = read_graph(convolution(True, True), "model")
    watched = replace(graph, nodes=[*graph.nodes, Node("Relu", ("y",), ("seen",)), Node("Relu", ("w",), ("also",))])
    watched.nodes.append(Node("Relu", ("param.weight",), ("third",)))
    fold(watched)
    assert "BatchNormalization" in [node.operator for node in watched.nodes]
    assert [node.operator for node in watched.nodes].count("Reshape") == 2


@pytest.mark.hq
def test_a_transposed_weight_is_folded() -> None:
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Transpose", ["param.w"], ["t"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    made = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 4])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", 3])],
        [onnx.numpy_helper.from_array(weight, "param.w")],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    graph = read_graph(model.SerializeToString(), "model")
    fold(graph)
    assert [node.operator for node in graph.nodes] == ["MatMul"]
    assert np.array_equal(graph.tensors["param.w"], weight.T)
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    assert np.allclose(answers(write_graph(graph), x)[0], x @ weight.T, atol=1e-6)
