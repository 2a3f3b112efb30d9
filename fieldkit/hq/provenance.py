"""What a bundle says of where it comes from, and what two runs of one build share.

The statement that ``attested`` adds has the shape of in-toto's (Statement v1) and of SLSA's provenance (v1), so that
tools for these can read it.  Its subject is the bundle's logical digest, since a file cannot hold its own.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.logical import LOGICAL, content_digest
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.writer import arrays
from fieldkit.errors import UsageError
from fieldkit.field.datasets import Dataset
from fieldkit.hq.compiler import Data
from fieldkit.hq.distil import method
from fieldkit.hq.distil.problem import PRECISIONS
from fieldkit.hq.libraries import bill_of_materials
from fieldkit.hq.spec import Spec


def manifest(
    spec: Spec, dataset: Dataset, data: Data, *, name: str, recipes: tuple[str, ...], beside: Sequence[Bundle] = ()
) -> Manifest:
    """The bundle's description, before anything was measured; ``beside``: the earlier tasks' bundles."""
    return Manifest(
        name=name,
        task="classification",
        classes=dataset.classes,
        spare_classes=spec.spare_classes,
        input_shape=data.input_shape,
        radiometry=data.radiometry,
        method=described_method(spec) | _told_beside(beside),
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
    return {**described, **precision, "settings": told_settings(spec)}


def told_settings(spec: Spec) -> dict[str, Any]:
    """The method's settings in the order of their names; of a file its bare name and its digest, and no path."""
    files = method(spec.method).files
    return {
        name: _file(name, value) if value and name in files else value for name, value in sorted(spec.settings.items())
    }


def _told(spec: Spec, beside: Sequence[Bundle]) -> dict[str, Any]:
    told = asdict(spec) | {"settings": told_settings(spec)}
    # Files by what they hold, and nothing where there are none.
    del told["beside"]
    return told | _told_beside(beside)


def _told_beside(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Which bundles a set was made beside, by name and digest."""
    return {"beside": [{"name": each.manifest.name, "sha256": each.digest} for each in bundles]} if bundles else {}


def _file(name: str, path: str) -> dict[str, str]:
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise UsageError("cannot be read", where=name, found=f"{path}: {error}", expected="a file") from error
    return {"file": Path(path).name, "sha256": digest}


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


def attested(bundle: Bundle, spec: Spec, dataset: Dataset, beside: Sequence[Bundle] = ()) -> Bundle:
    """The bundle with a statement of how it was made and the libraries that made it."""
    statement = _statement(bundle, spec, dataset, beside)
    return replace(bundle, provenance=statement, components=bill_of_materials(bundle.manifest.name))


def _statement(bundle: Bundle, spec: Spec, dataset: Dataset, beside: Sequence[Bundle]) -> dict[str, Any]:
    told = _told(spec, beside)
    sources = [(dataset.name, dataset.train.digest()), *((each.manifest.name, each.digest) for each in beside)]
    # Where the data lies and how many threads worked on it is this machine's matter, and name and serial are said.
    for name in ("data", "threads", "name", "serial"):
        del told[name]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": bundle.manifest.name, "digest": {LOGICAL: content_digest(arrays(bundle))}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "fieldkit:build/1",
                "externalParameters": _plain(told),
                "internalParameters": {"python": platform.python_version()},
                "resolvedDependencies": [{"name": name, "digest": {"sha256": digest}} for name, digest in sources],
            },
            "runDetails": {"builder": {"id": "fieldkit:headquarters", "version": {"fieldkit": version("fieldkit")}}},
        },
    }


def _plain(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else repr(value)


def fingerprint(spec: Spec, dataset: Dataset, beside: Sequence[Bundle] = ()) -> dict[str, Any]:
    """What two runs must share for one to resume the other: all of the spec but where it reads and for how long."""
    document = _told(spec, beside)
    for name in ("data", "threads", "budget", "name", "serial"):
        del document[name]
    plain = {name: value if isinstance(value, int | str | None) else repr(value) for name, value in document.items()}
    return plain | {"data": dataset.train.digest()}
