"""What is in the programs of each architecture, and what must not be: nothing dead, nothing twice, no weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx.numpy_helper import to_array

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation
from fieldkit.field.programs.program import ALLOWED_OPERATORS
from fieldkit.hq.compiler import AdamW
from fieldkit.hq.compiler.programs import Sizes, Tensors, TrainingLoss, predict_program, train_program
from fieldkit.hq.compiler.updates import Regularisation, Update
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

SHAPE, CLASSES = (3, 16, 16), 5
SIZES = Sizes(4, SHAPE, CLASSES)
COLOURS = Radiometry(("red", "green", "blue"), "uint8", (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
# One of each architecture, with the options that write the most kinds of nodes.
MODELS = {
    "convnet": {"depth": 2, "width": 8, "norm": "batch", "pooling": "max"},
    "mlp": {"depth": 2, "width": 8, "norm": "layer"},
    "mobilenet": {"width": 8, "norm": "group"},
    "resnet": {"depth": 8, "width": 8, "norm": "batch"},
    "vit": {"patch": 4, "depth": 2, "width": 16, "heads": 2, "dropout": 0.1, "drop_path": 0.1, "pool": "token"},
}
UPDATE = Update(AdamW(), Regularisation(clip_norm=1.0, average=0.9, label_smoothing=0.1))


@pytest.fixture(scope="module", params=sorted(MODELS))
def compiled(request):
    """A model's tensors by name, and its programs as graphs."""
    model = build_model(request.param, MODELS[request.param], SHAPE, CLASSES)
    weights = {name: each.detach().numpy().copy() for name, each in model.state_dict().items()}
    tensors, loss = Tensors.of(model), TrainingLoss(model, COLOURS, Augmentation(shift=0.1, flip=True), SIZES, 0.1)
    programs = {f"train/{scope}": train_program(loss, tensors, UPDATE, scope).program for scope in ("full", "head")}
    programs["predict"] = predict_program(model, COLOURS, SIZES, tensors)
    return weights, {name: onnx.load_from_string(each).graph for name, each in programs.items()}


def test_every_node_and_every_constant_is_read(compiled):
    for name, graph in compiled[1].items():
        read = {each for node in graph.node for each in node.input} | {each.name for each in graph.output}
        dead = [node.op_type for node in graph.node if not read & set(node.output)]
        assert not dead, name
        assert {each.name for each in graph.initializer} <= read, name


def test_no_node_is_there_twice(compiled):
    for name, graph in compiled[1].items():
        nodes = [(node.op_type, *node.input, *sorted(map(str, node.attribute))) for node in graph.node]
        assert len(nodes) == len(set(nodes)), name


def test_no_constant_is_there_twice_and_none_holds_weights(compiled):
    weights, programs = compiled
    carried = {each.tobytes() for each in weights.values() if len(np.unique(each)) > 1}
    for name, graph in programs.items():
        constants = [to_array(each) for each in graph.initializer]
        keys = [(each.dtype.str, each.shape, each.tobytes()) for each in constants]
        assert len(keys) == len(set(keys)), name
        assert not carried & {each.tobytes() for each in constants}, name


def test_nothing_scatters(compiled):
    # onnxruntime scatters on one thread; no device would take such a program either.
    used = {node.op_type for graph in compiled[1].values() for node in graph.node}
    assert used <= ALLOWED_OPERATORS
    assert not [each for each in (*used, *ALLOWED_OPERATORS) if "Scatter" in each]
