"""A smaller copy of a trained model, of 8 or 16 bits, and what that costs on the bundle's own images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.compression.calibration import sensor_images
from fieldkit.field.compression.folding import fold
from fieldkit.field.compression.half import halve
from fieldkit.field.compression.quantisation import LAYERS, SCHEME, quantise
from fieldkit.field.datasets import Dataset
from fieldkit.field.models.confidence import calibrate
from fieldkit.field.models.exporting import BUNDLE
from fieldkit.field.models.latency import Speed, measure
from fieldkit.field.models.prediction import Predictor, read_model
from fieldkit.field.models.scoring import score_dataset
from fieldkit.field.models.unseen import unseen
from fieldkit.field.programs.graph import Graph, read_graph, write_graph

PRECISION = "fieldkit.precision"
"""The metadata of a smaller copy: JSON, how it was made."""
MAX_DROP = 0.01
# Shares of images are fractions; their difference may miss a limit by rounding alone.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Side:
    """One of the two models.  size: bytes of the file.  accuracy: on the probe, 0-1; None where there is none."""

    size: int
    speed: Speed
    accuracy: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": self.size,
            "latency_ms": 1e3 * self.speed.latency,
            "images_per_second": self.speed.rate,
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True)
class Compressed:
    """A smaller copy of a model beside the model it was made from, both on the same images of one device.

    model: the ONNX file's bytes.
    layers: how many compute with integers.  halved: how many tensors are of float16.
    probe: images that the accuracies are of; 0 where the bundle carries none.
    agreement: share, 0-1, of the ``distilled`` images of which both say the same class.
    same_bundle: whether the bundle is the one that the model was trained from.
    """

    model: bytes
    layers: int
    halved: int
    before: Side
    after: Side
    probe: int
    agreement: float
    distilled: int
    same_bundle: bool

    @property
    def drop(self) -> float:
        """What the copy costs: accuracy on the probe, else the share of distilled images that it calls otherwise."""
        if self.before.accuracy is None or self.after.accuracy is None:
            return 1.0 - self.agreement
        return self.before.accuracy - self.after.accuracy

    def to_json(self) -> dict[str, Any]:
        """All but the model's bytes."""
        return {
            "layers": self.layers,
            "halved": self.halved,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "probe": self.probe,
            "distilled": {"images": self.distilled, "agreement": self.agreement},
            "drop": self.drop,
            "same_bundle": self.same_bundle,
        }


def compress(
    model: str | Path | bytes,
    bundle: Bundle,
    *,
    int8: bool = False,
    fp16: bool = False,
    max_drop: float = MAX_DROP,
    threads: int | None = None,
) -> Compressed:
    """A copy of ``model`` whose layers compute with 8 bits, or whose weights are stored with 16, or both.

    int8: the layers, calibrated on the distilled set.  fp16: what is then still float32.
    max_drop: the largest ``Compressed.drop`` that is taken, 0-1.

    Raises UsageError for a model and a bundle that do not belong together or a call without either, ProgramError where
    the copy costs more than ``max_drop``.
    """
    if not int8 and not fp16:
        raise UsageError("nothing to do", where="export", expected="--int8, --fp16 or both")
    content = model if isinstance(model, bytes) else read_model(Path(model))
    where = "model" if isinstance(model, bytes) else str(model)
    before = Predictor.open(content, threads, where)
    _check_pair(before, bundle)
    images = sensor_images(bundle)
    graph = read_graph(content, where)
    layers = _quantised(graph, images, threads, where) if int8 else 0
    halved = halve(graph) if fp16 else 0
    graph.metadata[PRECISION] = json.dumps(_described(bundle.digest, len(images), layers, halved))
    made = calibrate(write_graph(graph), bundle, threads)
    after = Predictor.open(made, threads, f"{where}, made smaller")
    said = [each.predict(images).argmax(1) for each in (before, after)]
    speeds = measure((before, after), images[0])
    probe = unseen(bundle, before.metadata)
    compressed = Compressed(
        model=made,
        layers=layers,
        halved=halved,
        before=Side(len(content), speeds[0], _accuracy(before, probe, bundle)),
        after=Side(len(made), speeds[1], _accuracy(after, probe, bundle)),
        probe=0 if probe is None else len(probe),
        agreement=float((said[0] == said[1]).mean()),
        distilled=len(images),
        same_bundle=before.metadata.get(BUNDLE) == bundle.digest,
    )
    if compressed.drop > max_drop + ROUNDING:
        raise _too_costly(compressed, max_drop, where)
    return compressed


def _check_pair(predictor: Predictor, bundle: Bundle) -> None:
    """The model takes the bundle's images, knows its classes, and was not made smaller before."""
    manifest = bundle.manifest
    if PRECISION in predictor.metadata:
        raise UsageError(
            "already a smaller copy",
            where=predictor.where,
            found=predictor.metadata[PRECISION][:200],
            remedy="export the model that fieldkit train wrote",
        )
    unknown = [name for name in manifest.classes if name not in predictor.classes]
    faults = [f"it does not know class {', '.join(unknown)}"] if unknown else []
    if (predictor.shape, predictor.dtype) != (manifest.input_shape, manifest.radiometry.dtype):
        faults.append(f"it takes {predictor.dtype} {predictor.shape}")
    if faults:
        raise UsageError(
            "the model does not belong to this bundle",
            where=predictor.where,
            found="; ".join(faults),
            expected=f"{len(manifest.classes)} classes of {manifest.radiometry.dtype} {manifest.input_shape}",
            remedy="name the bundle that the model was trained from",
        )


def _quantised(graph: Graph, images: np.ndarray, threads: int | None, where: str) -> int:
    """How many layers of ``graph`` now compute with integers: at least one."""
    fold(graph)
    layers = quantise(graph, images, threads)
    if not layers:
        raise ProgramError(
            "no layer can compute with 8 bits",
            where=where,
            expected=f"{', '.join(LAYERS)} with weights inside the model",
            remedy="export it with --fp16",
        )
    return layers


def _described(digest: str, images: int, layers: int, halved: int) -> dict[str, Any]:
    """How a copy was made, for whoever finds the file."""
    made: dict[str, Any] = {}
    if layers:
        made["int8"] = {"layers": layers, "calibrated": {"bundle": digest, "images": images}, **SCHEME}
    if halved:
        made["float16"] = {"tensors": halved}
    return made


def _accuracy(predictor: Predictor, probe: Samples | None, bundle: Bundle) -> float | None:
    """On what a model has not learnt from of the bundle's probe; None where it carries none."""
    if probe is None:
        return None
    return score_dataset(predictor, Dataset(probe, None, bundle.manifest.classes, "probe", "", "", ())).scores.accuracy


def _too_costly(compressed: Compressed, max_drop: float, where: str) -> ProgramError:
    before, after = compressed.before.accuracy, compressed.after.accuracy
    if before is None or after is None:
        found = f"another class for {compressed.drop:.1%} of {compressed.distilled} distilled images"
    else:
        found = f"{before:.1%} before, {after:.1%} after, on {compressed.probe} probe images"
    return ProgramError(
        "the smaller model is less accurate than is allowed",
        where=where,
        found=found,
        expected=f"a drop of at most {max_drop:.1%}",
        remedy="allow more with --max-drop, or export with --fp16 alone",
    )
