"""From trained weights to a model file that any ONNX Runtime user can run.

Protobuf messages merge when their bytes are concatenated: repeated fields append.  A recipe's ``predict`` program
refers to weights that it does not hold; the model is that program followed by ``ModelProto { graph { initializer ... }
metadata_props ... }``, written here byte for byte.  So a device completes a model without the ``onnx`` package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fieldkit import __version__
from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Manifest
from fieldkit.errors import IncompatibleBundle
from fieldkit.field.engine.training import Trained
from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs.graph import encode_metadata
from fieldkit.field.programs.protobuf import encode_bytes
from fieldkit.field.programs.tensors import encode_tensor

CLASSES, BUNDLE, RADIOMETRY = "fieldkit.classes", "fieldkit.bundle", "fieldkit.radiometry"
CLASS_COUNT = "class_count"
"""The initializer, int64 [1], that says how many of the outputs are classes in use, where a bundle has spare ones."""
RECIPE, SEED, STEPS, VERSION = "fieldkit.recipe", "fieldkit.seed", "fieldkit.steps", "fieldkit.version"


def export(trained: Trained, bundle: Bundle) -> bytes:
    """The complete ONNX model of ``trained``, with all that a user of the file needs to know in its metadata."""
    predict = trained.recipe.programs.get("predict")
    if predict is None:
        raise IncompatibleBundle(
            "the recipe has no predict program",
            where=f"recipe {trained.recipe.name}",
            remedy="build the bundle again with fieldkit build",
        )
    used = len(bundle.manifest.classes) if bundle.manifest.spare_classes else None
    return complete_model(predict, trained.weights, describe(trained, bundle.manifest, bundle.digest), used)


def save_model(path: str | Path, trained: Trained, bundle: Bundle) -> None:
    """Write the complete ONNX model of ``trained`` to ``path``: whole or not at all.

    Raises UsageError or ResourceError where the folder is missing, closed or full.
    """
    write_atomically(Path(path), export(trained, bundle))


def describe(trained: Trained, manifest: Manifest, digest: str) -> dict[str, str]:
    """The metadata of a trained model: what its classes and counts mean, and how it came about."""
    return {
        CLASSES: json.dumps(list(manifest.classes), ensure_ascii=False),
        RADIOMETRY: json.dumps(manifest.radiometry.to_json(), ensure_ascii=False),
        BUNDLE: digest,
        RECIPE: trained.recipe.name,
        SEED: str(trained.seed),
        STEPS: str(trained.steps),
        VERSION: __version__,
    }


def complete_model(
    program: bytes,
    weights: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    class_count: int | None = None,
) -> bytes:
    """``program`` with ``weights`` (float32, by parameter name without prefix) inside and ``metadata`` added.

    class_count: how many classes are in use, for a program with spare ones; None for any other.
    """
    held = {f"param.{name}": values.astype(np.float32) for name, values in weights.items()}
    if class_count is not None:
        held[CLASS_COUNT] = np.array([class_count], np.int64)
    tensors = b"".join(
        encode_bytes(onnx_format.GRAPH_INITIALIZER, encode_tensor(name, values)) for name, values in held.items()
    )
    return b"".join((program, encode_bytes(onnx_format.MODEL_GRAPH, tensors), encode_metadata(metadata)))
