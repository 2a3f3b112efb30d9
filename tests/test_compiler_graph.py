"""The graph that programs grow in: equal nodes are one, constants fold, dead nodes vanish, names are stable."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.graph import Graph, stopped

pytestmark = pytest.mark.hq


def model_of(graph: Graph) -> onnx.ModelProto:
    model = onnx.load_from_string(graph.serialise())
    onnx.checker.check_model(model, full_check=True)
    return model


def test_equal_nodes_are_one_and_dead_nodes_vanish():
    graph = Graph("g")
    x, unused = graph.input("x", "float32", (2, 3)), graph.input("unused", "float32", (1,))
    first, second = graph.op("Exp", x), graph.op("Exp", x)
    assert first is second
    graph.op("Log", unused)
    graph.output("y", graph.op("Add", first, second))
    model = model_of(graph)
    assert [node.op_type for node in model.graph.node] == ["Exp", "Add"]
    assert [each.name for each in model.graph.input] == ["x"]


def test_constants_fold_and_neutral_ones_vanish():
    graph = Graph("g")
    x = graph.input("x", "float32", (2, 3))
    two = graph.op("Add", graph.constant(1.0, "float32"), graph.constant(1.0, "float32"))
    assert two.constant == 2
    assert graph.op("Mul", x, graph.constant(1.0, "float32")) is x
    assert graph.op("Add", graph.constant(0.0, "float32"), x) is x
    assert graph.reshape(x, (2, 3)) is x
    assert graph.transpose(x, (0, 1)) is x
    assert graph.cast(x, "float32") is x
    assert graph.pad(x, [0], [0], [0]) is x
    wider = graph.op("Mul", x, graph.constant(np.ones((4, 1, 1)), "float32"))
    assert wider.shape == (4, 2, 3)


def test_shapes_keep_a_free_batch():
    graph = Graph("g")
    x = graph.input("x", "uint8", ("N", 4, 6))
    y = graph.reshape(graph.cast(x, "float32"), ("N", 2, 12))
    assert y.shape == ("N", 2, 12)
    assert y.dtype == "float32"
    with pytest.raises(ProgramError, match="static size"):
        y.size(0)


def test_padding_by_less_than_nothing_cuts():
    graph = Graph("g")
    x = graph.constant(np.arange(6).reshape(2, 3), "float32")
    padded = graph.pad(x, [0, 1], [1, -1], [0, 0])
    np.testing.assert_array_equal(padded.constant, [[0, 0], [1, 2], [4, 5]])


def test_training_is_inherited_and_can_be_stopped():
    graph = Graph("g")
    x = graph.input("x", "float32", (2,), trains=True)
    assert graph.op("Exp", x).trains
    assert not graph.op("Exp", stopped(x)).trains
    assert graph.op("Exp", x).trains


def test_an_output_may_be_an_input_a_constant_or_asked_for_twice():
    graph = Graph("g")
    x = graph.input("x", "float32", (2,))
    y = graph.op("Exp", x)
    for name, value in (("a", x), ("b", y), ("c", y), ("d", graph.constant([1.0], "float32"))):
        graph.output(name, value)
    model = model_of(graph)
    assert [each.name for each in model.graph.output] == ["a", "b", "c", "d"]


def test_tensors_and_constants_are_numbered_from_0():
    graph = Graph("g")
    x = graph.input("x", "float32", (2, 3))
    graph.output("y", graph.op("Exp", graph.op("Mul", graph.op("Log", x), graph.constant(2.0, "float32"))))
    model = model_of(graph)
    assert [list(node.output) for node in model.graph.node] == [["t0"], ["t1"], ["y"]]
    assert [each.name for each in model.graph.initializer] == ["c0"]


def test_a_node_that_onnx_refuses_names_itself():
    graph = Graph("g")
    x, y = graph.input("x", "float32", (2, 3)), graph.input("y", "float32", (2, 3))
    with pytest.raises(ProgramError, match=r"MatMul: .*\(2, 3\)"):
        graph.op("MatMul", x, y)
    with pytest.raises(ProgramError, match=r"Add: .*inconsistent type"):
        graph.op("Add", x, graph.constant([1, 2, 3], "int64"))
