"""What a bundle says of where it comes from, and what two runs of one build share."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fieldkit.bundle.manifest import Manifest
from fieldkit.field.datasets import Dataset
from fieldkit.hq.compiler import Data
from fieldkit.hq.distil import method
from fieldkit.hq.distil.problem import PRECISIONS
from fieldkit.hq.spec import Spec


def manifest(spec: Spec, dataset: Dataset, data: Data, *, name: str, recipes: tuple[str, ...]) -> Manifest:
    """The bundle's description, before anything was measured."""
    return Manifest(
        name=name,
        task="classification",
        classes=dataset.classes,
        spare_classes=spec.spare_classes,
        input_shape=data.input_shape,
        radiometry=data.radiometry,
        method=described_method(spec),
        recipes=recipes,
        provenance=provenance(spec, dataset),
        licence=dataset.licence,
    )


def described_method(spec: Spec) -> dict[str, Any]:
    """How the set was distilled, as the manifest says it; what is usual goes without saying."""
    own = method(spec.method)
    start = {"start": spec.start or own.starts} if own.starts else {}
    labels = spec.labels.to_json() if spec.labels else {"kind": own.labels}
    formation = {"formation": spec.formation} if spec.formation > 1 else {}
    described = {"name": spec.method, "ipc": spec.ipc, **formation, **start, "labels": labels}
    precision = {"precision": spec.precision} if spec.precision not in (None, PRECISIONS[0]) else {}
    return {**described, **precision, "settings": dict(spec.settings)}


def provenance(spec: Spec, dataset: Dataset) -> dict[str, Any]:
    """Where a bundle comes from: no paths, no dates, so that the same build gives the same bytes."""
    libraries = ("fieldkit", "numpy", "torch", "onnx", "onnxruntime", "h5py")
    return {
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.train.digest()},
        "seed": spec.seed,
        "init": spec.init,
        "python": platform.python_version(),
        "libraries": {name: version(name).partition("+")[0] for name in libraries},
    }


def fingerprint(spec: Spec, dataset: Dataset) -> dict[str, Any]:
    """What two runs must share for one to resume the other: all of the spec but where it reads and for how long."""
    document = asdict(spec)
    for name in ("data", "threads", "budget", "name", "serial"):
        del document[name]
    plain = {name: value if isinstance(value, int | str | None) else repr(value) for name, value in document.items()}
    return plain | {"data": dataset.train.digest()}
