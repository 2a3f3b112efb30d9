"""Models of 8 and 16 bits against the arithmetic that they stand for, in numpy."""

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

from fieldkit.bundle.pixels import Pixels
from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.compression.calibration import STEPS, observe, sensor_images
from fieldkit.field.compression.compression import PRECISION, compress
from fieldkit.field.compression.half import halve
from fieldkit.field.compression.quantisation import WEIGHT_LIMIT, activation_scale, quantise, weight_scales
from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.programs.graph import Graph, Node, read_graph, with_outputs, write_graph
from fieldkit.field.programs.program import check_program

BUNDLE = replace(handmade.bundle(), digest="ab" * 32)
MODEL = exporting.export(train(BUNDLE, seed=5, threads=1), BUNDLE)
SHAPE = (2, 6, 6)
FINITE = st.floats(-1e6, 1e6, width=32)


def answers(model: bytes, images: np.ndarray, plainly: bool = False) -> list[np.ndarray]:
    """What onnxruntime computes; ``plainly``: node by node as written, without integer kernels."""
    options = onnxruntime.SessionOptions()
    if plainly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"images": images})
    return found


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def network(relu: bool = True, biased: bool = True) -> bytes:
    """uint8 images, normalised, through a convolution, a ReLU and a product."""
    draw = np.random.default_rng(3).normal
    last = "rectified" if relu else "convolved"
    nodes = [
        handmade.node("Cast", ["images"], "float", to=1),
        handmade.node("Sub", ["float", "mean"], "centred"),
        handmade.node("Div", ["centred", "std"], "x"),
        handmade.node("Conv", ["x", "param.kernel", *["param.offset"] * biased], "convolved"),
        *([handmade.node("Relu", ["convolved"], "rectified")] if relu else []),
        handmade.node("Flatten", [last], "flat", axis=1),
        handmade.node("Gemm", ["flat", "param.weight", "param.bias"], "logits", transB=1),
        handmade.node("Softmax", ["logits"], "probabilities", axis=1),
    ]
    constants = {
        "mean": np.array(128.0, np.float32),
        "std": np.array(64.0, np.float32),
        "param.kernel": draw(size=(4, 2, 3, 3)).astype(np.float32)
        * np.array([1, 0.1, 3, 0], np.float32)[:, None, None, None],
        "param.weight": draw(size=(3, 64)).astype(np.float32) * 0.1,
        "param.bias": draw(size=3).astype(np.float32),
    }
    if biased:
        constants["param.offset"] = draw(size=4).astype(np.float32)
    inputs = [handmade.value_info("images", ("N", *SHAPE), "uint8")]
    return handmade.model(nodes, inputs, [handmade.value_info("probabilities", ("N", 3))], constants)


def quantised(model: bytes, images: np.ndarray) -> Graph:
    graph = read_graph(model, "model")
    assert quantise(graph, images, threads=1) == 2
    return graph


@given(arrays.arrays(np.float32, (3, 2, 2), elements=FINITE), st.sampled_from([None, 0, 1, 2]))
def test_stored_weights_are_within_half_a_step(values: np.ndarray, axis: int | None) -> None:
    scales = weight_scales(values, axis)
    spread = scales if axis is None else np.expand_dims(scales, tuple(each for each in range(3) if each != axis))
    stored = np.rint(values / spread)
    assert np.abs(stored).max() <= WEIGHT_LIMIT
    assert (np.abs(stored * spread.astype(np.float64) - values) <= 0.5001 * spread).all()
    # No smaller scale would do: the largest weight of a slice takes the largest integer, unless all are nearly 0.
    largest = np.abs(values).max()
    assert largest < 1e-15 or np.abs(stored).max() == WEIGHT_LIMIT


@given(st.floats(-1e6, 0), st.floats(0, 1e6))
def test_values_in_a_range_are_within_a_step_and_zero_is_exact(low: float, high: float) -> None:
    scale, zero = activation_scale((low, high))
    values = np.linspace(low, high, 999)
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    assert (np.abs((stored - zero) * scale.astype(np.float64) - values) <= 1.0001 * scale).all()
    assert np.clip(np.rint(0 / scale) + zero, 0, 255) == zero


def test_saturation_cannot_happen() -> None:
    # Without VNNI, two products of uint8 and int8 are added in 16 bits.
    assert 2 * STEPS * WEIGHT_LIMIT < 2**15


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_graph_computes_what_numpy_computes_with_integers(relu: bool, biased: bool) -> None:
    model, images = network(relu, biased), pixels(40)
    graph = quantised(model, images)
    tensors = graph.tensors
    assert tensors["param.kernel"].dtype == tensors["param.weight"].dtype == np.int8
    assert tensors["param.bias"].dtype == np.int32

    def steps(values: np.ndarray, name: str) -> np.ndarray:
        """Integers without their zero point."""
        zero = tensors[f"{name}.zero"].astype(np.int64)
        return np.clip(np.rint(values / tensors[f"{name}.scale"]) + zero, 0, 255).astype(np.int64) - zero

    x = steps((images.astype(np.float32) - 128.0) / np.float32(64.0), "x")
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    summed = np.einsum("nchwij,kcij->nkhw", patches, tensors["param.kernel"].astype(np.int64))
    if biased:
        summed += tensors["param.offset"].astype(np.int64)[:, None, None]
    scales = tensors["x.scale"].astype(np.float64) * tensors["param.kernel.scale"]
    convolved = summed * scales[:, None, None]
    name = "rectified" if relu else "convolved"
    flat = steps(np.maximum(convolved, 0.0) if relu else convolved, name).reshape(len(images), -1)
    scale = (tensors[f"{name}.scale"].astype(np.float64), tensors["flat.scale"].astype(np.float64))
    flat = steps(flat * scale[0], "flat")
    logits = (flat @ tensors["param.weight"].astype(np.int64).T + tensors["param.bias"]) * (
        scale[1] * tensors["param.weight.scale"].astype(np.float64)
    )
    written = with_outputs(graph, ["logits"])
    check_program(written, "written")
    for plainly in (True, False):
        _, found = answers(written, images, plainly)
        # A value between two steps may be rounded either way; it then moves a logit by a step of its weight.
        step = scale[1] * np.abs(tensors["param.weight"] * tensors["param.weight.scale"][:, None]).max()
        assert np.abs(found - logits).max() <= 1.01 * step
        assert np.mean(np.abs(found - logits) < 1e-4) > 0.9


def test_the_answers_stay_near_those_of_the_float_model() -> None:
    model, images = network(), pixels(300, seed=1)
    small = write_graph(quantised(model, pixels(40)))
    before, after = answers(model, images)[0], answers(small, images)[0]
    assert np.abs(before - after).max() < 0.08
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97


def test_integer_kernels_run_it(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    small = write_graph(quantised(network(), pixels(40)))
    onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    optimised = (tmp_path / "optimised.onnx").read_bytes()
    used = {node.operator for node in read_graph(optimised, "optimised").nodes}
    assert {"QLinearConv", "QGemm"} <= used
    assert not used & {"Conv", "Gemm", "FusedConv"}


def test_a_bias_that_is_huge_beside_its_weights_does_not_overflow() -> None:
    graph = read_graph(network(), "model")
    graph.tensors["param.offset"] = np.array([1e9, -1e9, 1.0, 5.0], np.float32)
    large = write_graph(graph)
    quantise(graph, pixels(20), threads=1)
    stored, scales = (graph.tensors[f"param.offset{end}"].astype(np.float64) for end in ("", ".scale"))
    assert (np.abs(stored * scales - [1e9, -1e9, 1.0, 5.0]) <= 1.01 * scales).all()
    assert np.allclose(answers(write_graph(graph), pixels(5))[0], answers(large, pixels(5))[0], atol=0.05)


def test_layers_that_integers_cannot_run_stay_as_they_are() -> None:
    graph = read_graph(network(), "model")
    # Read by somebody else as well; and a product that is scaled.
    graph.nodes.append(Node("Abs", ("param.kernel",), ("seen",)))
    place = next(place for place, node in enumerate(graph.nodes) if node.operator == "Gemm")
    turned = Node.make("Gemm", [], "", transA=1).attributes
    graph.nodes[place] = replace(graph.nodes[place], attributes={**graph.nodes[place].attributes, **turned})
    before = list(graph.nodes)
    assert quantise(graph, pixels(4), threads=1) == 0
    assert graph.nodes == before


def test_names_that_a_model_uses_already_are_left_alone() -> None:
    graph = read_graph(network(), "model")
    graph.tensors["param.kernel.scale"] = graph.tensors["x.zero"] = np.zeros((), np.float32)
    graph.nodes.append(Node("Add", ("param.kernel.scale", "x.zero"), ("sum",)))
    assert quantise(graph, pixels(9), threads=1) == 2
    written = [name for node in graph.nodes for name in node.outputs] + list(graph.tensors)
    assert len(set(written)) == len(written)
    answers(write_graph(graph), pixels(2))


def test_ranges_are_those_of_least_error() -> None:
    graph, images = read_graph(network(relu=False), "model"), pixels(60)
    images[0] = 255 * (np.indices(SHAPE).sum(0) % 2)
    _, values = answers(with_outputs(graph, ["convolved"]), images)

    def error(ends: tuple[float, float]) -> float:
        scale, zero = activation_scale(ends)
        kept = (np.clip(np.rint(values / scale) + zero, 0, STEPS) - zero) * scale
        return float(((kept - values) ** 2).sum())

    ends = observe(graph, ["convolved"], images, 1)["convolved"].best_range()
    shares = np.linspace(0.3, 1.0, 36)
    tried = [(float(values.min() * low), float(values.max() * high)) for low in shares for high in shares]
    assert error(ends) <= 1.02 * min(error(each) for each in tried)
    assert error(ends) < 0.95 * error((float(values.min()), float(values.max())))


def test_half_a_model_computes_with_rounded_weights() -> None:
    graph = read_graph(network(), "model")
    rounded = read_graph(network(), "model")
    assert halve(graph) == 2
    for name in ("param.kernel", "param.weight"):
        assert graph.tensors[name].dtype == np.float16
        rounded.tensors[name] = rounded.tensors[name].astype(np.float16).astype(np.float32)
    # Tensors that are too small gain nothing.
    assert graph.tensors["param.bias"].dtype == np.float32
    assert np.array_equal(answers(write_graph(graph), pixels(9))[0], answers(write_graph(rounded), pixels(9))[0])


def test_weights_that_16_bits_cannot_hold_stay() -> None:
    graph = read_graph(network(), "model")
    graph.tensors["param.weight"][0, 0] = 70_000.0
    assert halve(graph) == 1
    assert graph.tensors["param.weight"].dtype == np.float32


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_the_same_model_and_bundle_give_the_same_bytes(seed: int) -> None:
    images = pixels(6, seed)
    assert write_graph(quantised(network(), images)) == write_graph(quantised(network(), images))


def test_a_smaller_copy_is_a_model_that_says_how_it_was_made() -> None:
    made = compress(MODEL, BUNDLE, int8=True, threads=1)
    predictor = Predictor.open(made.model, 1)
    assert predictor.classes == BUNDLE.manifest.classes
    assert predictor.metadata["fieldkit.bundle"] == BUNDLE.digest
    assert json.loads(predictor.metadata[PRECISION])["int8"]["calibrated"] == {"bundle": BUNDLE.digest, "images": 6}
    assert (made.before.accuracy, made.after.accuracy, made.probe, made.distilled) == (1.0, 1.0, 30, 6)
    assert (made.layers, made.halved, made.drop, made.same_bundle) == (1, 0, 0.0, True)
    assert made.after.size == len(made.model)


def test_spare_classes_stay_spare_in_a_smaller_copy() -> None:
    bundle = replace(handmade.bundle(handmade.recipe(classes=5, spare=2)), digest="12" * 32)
    bundle = replace(bundle, manifest=replace(bundle.manifest, spare_classes=2))
    model = exporting.export(train(bundle, threads=1), bundle)
    for made in (compress(model, bundle, int8=True, threads=1), compress(model, bundle, fp16=True, threads=1)):
        assert made.after.accuracy == 1.0
        assert Predictor.open(made.model, 1).predict(bundle.probe.images).shape == (30, 3)  # type: ignore[union-attr]


def test_a_copy_that_costs_too_much_is_refused() -> None:
    # Each class has a large weight that all share, beside which 8 bits forget the small ones that tell them apart.
    crippled = read_graph(MODEL, "model")
    crippled.tensors["param.weight"] = crippled.tensors["param.weight"] * np.float32(0.01)
    crippled.tensors["param.weight"][:, 0] = 3.0
    crippled.tensors["param.bias"] = np.zeros(3, np.float32)
    model = write_graph(crippled)
    said = Predictor.open(model, 1).predict(BUNDLE.probe.images).argmax(1)  # type: ignore[union-attr]
    bundle = replace(BUNDLE, probe=replace(BUNDLE.probe, targets=said.astype(np.int64)))  # type: ignore[type-var]
    with pytest.raises(ProgramError, match=r"less accurate than is allowed; found 100.0% before, \d+.\d% after, on 30"):
        compress(model, bundle, int8=True, threads=1)
    made = compress(model, bundle, int8=True, max_drop=1.0, threads=1)
    assert 0.0 < made.drop <= 1.0
    with pytest.raises(ProgramError, match=r"another class for .* of 6 distilled images"):
        compress(model, replace(bundle, probe=None), int8=True, threads=1)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to do"):
        compress(MODEL, BUNDLE)
    small = compress(MODEL, BUNDLE, fp16=True, int8=True, threads=1).model
    with pytest.raises(UsageError, match="already a smaller copy"):
        compress(small, BUNDLE, int8=True)
    other = replace(handmade.bundle(classes=4), digest="cd" * 32)
    with pytest.raises(UsageError, match="does not know class kind 3"):
        compress(MODEL, other, int8=True)
    with pytest.raises(UsageError, match=r"it takes uint8 \(1, 4, 4\)"):
        compress(MODEL, handmade.bundle(shape=(1, 4, 5)), int8=True)


def test_the_distilled_images_are_brought_into_the_sensors_range() -> None:
    wild = np.array([-300.0, -0.4, 0.4, 0.6, 254.6, 900.0], np.float32)
    images = np.tile(wild, (6, 1, 4, 1))[..., :4] * 0 + wild[np.arange(6)][:, None, None, None]
    bundle = replace(BUNDLE, images=Pixels.encode(images, "uint16"))
    found = sensor_images(bundle)
    assert found.dtype == np.uint8
    assert found[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 255, 255]
