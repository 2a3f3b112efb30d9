"""The model that a device writes: complete, self-describing, and readable by everybody's tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fieldkit
from fieldkit.errors import IncompatibleBundle, UsageError
from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.programs.program import read_metadata

BUNDLE = replace(handmade.bundle(), digest="ab" * 32)
TRAINED = train(BUNDLE, seed=5, threads=1)


def numpy_probabilities(images: np.ndarray) -> np.ndarray:
    x = (images.reshape(len(images), -1).astype(np.float64) - 100.0) / 50.0
    logits = x @ TRAINED.weights["weight"].astype(np.float64).T + TRAINED.weights["bias"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_plain_onnxruntime_runs_the_model() -> None:
    session = onnxruntime.InferenceSession(exporting.export(TRAINED, BUNDLE), providers=["CPUExecutionProvider"])
    assert [(each.name, each.type) for each in session.get_inputs()] == [("images", "tensor(uint8)")]
    for count in (1, 30):
        images = handmade.images(count, seed=3).images
        (found,) = session.run(["probabilities"], {"images": images})
        assert np.allclose(found, numpy_probabilities(images), atol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["fieldkit.classes"]) == ["kind 0", "kind 1", "kind 2"]
    assert metadata["fieldkit.bundle"] == BUNDLE.digest


def test_metadata_says_how_the_model_came_about() -> None:
    metadata = read_metadata(exporting.export(TRAINED, BUNDLE), "model")
    assert json.loads(metadata.pop("fieldkit.radiometry")) == BUNDLE.manifest.radiometry.to_json()
    assert metadata == {
        "fieldkit.classes": '["kind 0", "kind 1", "kind 2"]',
        "fieldkit.bundle": BUNDLE.digest,
        "fieldkit.recipe": "linear",
        "fieldkit.seed": "5",
        "fieldkit.steps": "20",
        "fieldkit.version": fieldkit.__version__,
    }


def test_the_same_training_writes_the_same_bytes() -> None:
    assert exporting.export(TRAINED, BUNDLE) == exporting.export(train(BUNDLE, seed=5, threads=1), BUNDLE)


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4), elements=st.floats(width=32)),
    st.text(max_size=20),
)
def test_any_weights_and_text_survive(values: np.ndarray, words: str) -> None:
    program = handmade.model(
        [handmade.node("Identity", ["param.w"], "y")], [], [handmade.value_info("y", values.shape)], {}
    )
    model = exporting.complete_model(program, {"w": values}, {"said": words})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {})[0], values, equal_nan=True)
    assert read_metadata(model, "model") == {"said": words}


def test_save_model_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exporting.save_model(path, TRAINED, BUNDLE)
    assert path.read_bytes() == exporting.export(TRAINED, BUNDLE)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match="folder does not exist"):
        exporting.save_model(tmp_path / "missing" / "model.onnx", TRAINED, BUNDLE)


def test_a_recipe_without_predict_cannot_be_exported() -> None:
    crippled = replace(TRAINED, recipe=replace(TRAINED.recipe, programs={}))
    with pytest.raises(IncompatibleBundle, match="no predict program"):
        exporting.export(crippled, BUNDLE)


@pytest.mark.hq
def test_the_model_passes_the_onnx_checker() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(exporting.export(TRAINED, BUNDLE))
    onnx.checker.check_model(model, full_check=True)
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    assert np.array_equal(weights["param.weight"], TRAINED.weights["weight"])
    assert {each.key for each in model.metadata_props} >= {"fieldkit.classes", "fieldkit.bundle"}
