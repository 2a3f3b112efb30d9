"""Every architecture as a model of 8 and 16 bits, beside onnxruntime's own static quantisation of the same model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import handmade
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("sklearn")

import onnxruntime
from onnxruntime import quantization
from sklearn.datasets import load_digits

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.samples import Samples
from fieldkit.field.compression.calibration import sensor_images
from fieldkit.field.compression.compression import compress
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.programs.graph import read_graph
from fieldkit.hq.compiler.programs import Sizes, Tensors, predict_program
from fieldkit.hq.models import build_model
from fieldkit.hq.models.normalisation import Normalise

pytestmark = pytest.mark.hq

SHAPE, CLASSES = (1, 8, 8), 10
RECIPES = {
    "convnet-batch": ("convnet", {"width": 16, "norm": "batch"}),
    "mlp": ("mlp", {"width": 64}),
    "resnet": ("resnet", {"width": 8}),
    "mobilenet": ("mobilenet", {"width": 8}),
    "vit": ("vit", {"width": 32, "depth": 2, "patch": 4}),
}
STEPS, BATCH = 80, 50


@dataclass(frozen=True)
class Subject:
    """A trained model, the bundle that would have made it, and images that it never saw."""

    model: bytes
    bundle: Bundle
    unseen: Samples


def digits() -> tuple[Samples, Samples, Samples]:
    """A hundred digits to calibrate with, the rest of the first half to train on, and the second half: 8x8, 0 to 16."""
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    counts = images[order].reshape(-1, *SHAPE).astype(np.uint8)
    all_of_them = Samples(counts, targets[order].astype(np.int64))
    return tuple(all_of_them.take(part) for part in (slice(0, 100), slice(100, 900), slice(900, None)))  # type: ignore[return-value]


@cache
def subject(name: str) -> Subject:
    """Trained by torch, which is quicker than compiling a train program, and completed as a device would."""
    architecture, options = RECIPES[name]
    few, many, unseen = digits()
    torch.manual_seed(0)
    radiometry = Radiometry.measure(many.images)
    module = build_model(architecture, options, SHAPE, CLASSES)
    whole = torch.nn.Sequential(Normalise(radiometry), module)
    optimiser = torch.optim.AdamW(module.parameters(), 3e-3)
    drawn = np.random.default_rng(1)
    whole.train()
    for _ in range(STEPS):
        picked = many.take(drawn.permutation(len(many))[:BATCH])
        loss = torch.nn.functional.cross_entropy(
            whole(torch.from_numpy(picked.images).float()), torch.from_numpy(picked.targets)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tensors = Tensors.of(module)
    program = predict_program(module, radiometry, Sizes(BATCH, SHAPE, CLASSES), tensors)
    stored = module.state_dict()
    weights = {each.name: stored[each.name].numpy() for each in tensors.all}
    manifest = replace(handmade.bundle(shape=SHAPE, classes=CLASSES).manifest, radiometry=radiometry, expectations={})
    bundle = Bundle(
        manifest,
        Pixels.encode(few.images.astype(np.float32), "uint8"),
        np.eye(CLASSES, dtype=np.float16)[few.targets],
        {},
        many.take(slice(0, 200)),
        digest="ef" * 32,
    )
    metadata = exporting.describe(
        exporting.Trained(handmade.recipe(name), weights, np.zeros(0, np.float32), 0, STEPS), manifest, bundle.digest
    )
    return Subject(exporting.complete_model(program, weights, metadata), bundle, unseen)


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """What onnxruntime's quantiser asks for its images."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter(
            {"images": images[first : first + 20]} for first in range(0, len(images), 20)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def by_onnxruntime(each: Subject, folder: Path) -> bytes:
    """The same model through ``onnxruntime.quantization``, with the same images and as many bits."""
    (folder / "float.onnx").write_bytes(each.model)
    quantization.shape_inference.quant_pre_process(folder / "float.onnx", folder / "ready.onnx")
    quantization.quantize_static(
        folder / "ready.onnx",
        folder / "int8.onnx",
        Reader(sensor_images(each.bundle)),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return (folder / "int8.onnx").read_bytes()


def probabilities(model: bytes, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"images": images})[0]
    return found


def accuracy(found: np.ndarray, samples: Samples) -> float:
    return float((found.argmax(1) == samples.targets).mean())


@pytest.mark.parametrize("name", RECIPES)
def test_as_accurate_as_onnxruntimes_own_quantisation(name: str, tmp_path: Path) -> None:
    each = subject(name)
    made = compress(each.model, each.bundle, int8=True, threads=1)
    onnx.checker.check_model(onnx.load_from_string(made.model), full_check=True)
    before = probabilities(each.model, each.unseen.images)
    ours = probabilities(made.model, each.unseen.images)
    theirs = probabilities(by_onnxruntime(each, tmp_path), each.unseen.images)
    right = accuracy(before, each.unseen)
    assert right > 0.75
    # 897 images: a standard error of about one point.
    assert accuracy(ours, each.unseen) > right - 0.012
    assert accuracy(ours, each.unseen) > accuracy(theirs, each.unseen) - 0.012
    assert np.abs(ours - before).mean() < 1.5 * np.abs(theirs - before).mean() + 1e-3
    assert len(made.model) < 0.62 * len(each.model)


@pytest.mark.parametrize("name", RECIPES)
def test_sixteen_bits_halve_a_model_and_change_no_class(name: str) -> None:
    each = subject(name)
    made = compress(each.model, each.bundle, fp16=True, threads=1)
    before = probabilities(each.model, each.unseen.images)
    after = Predictor.open(made.model, 1).predict(each.unseen.images)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.995
    weights = sum(values.nbytes for values in read_graph(each.model, "model").tensors.values())
    saved = len(each.model) - len(made.model)
    assert saved > 0.4 * weights


def test_a_batch_normalisation_after_a_convolution_is_folded() -> None:
    each = subject("convnet-batch")
    made = compress(each.model, each.bundle, int8=True, threads=1)
    assert "BatchNormalization" in [node.operator for node in read_graph(each.model, "model").nodes]
    assert "BatchNormalization" not in [node.operator for node in read_graph(made.model, "small").nodes]
