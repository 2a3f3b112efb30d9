"""Parts to bytes, repeatable to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle import consistency, documents, hdf5, layout
from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.seal import USER_BLOCK, open_seal, seal
from fieldkit.errors import UsageError


def save_bundle(bundle: Bundle, path: str | Path, deflate: hdf5.Deflate = hdf5.deflate) -> Bundle:
    """Write ``bundle`` to ``path`` atomically; the same bundle with its digest is returned.

    deflate: makes zlib streams; one that takes its time (zopfli) saves about a twentieth of the file.

    Raises UsageError for a bundle that contradicts itself or a path that cannot be written, ResourceError if the disk
    is full.
    """
    data = write_bundle(bundle, deflate)
    write_atomically(path, data)
    return replace(bundle, digest=open_seal(data, path).statement.payload_sha256)


def write_bundle(bundle: Bundle, deflate: hdf5.Deflate = hdf5.deflate) -> bytes:
    """The bytes of a bundle file, its user block included.

    The same bundle gives the same bytes under the same versions of h5py, HDF5 and of what deflates.

    Raises UsageError that lists everything which a reader would refuse.
    """
    found = consistency.faults(bundle)
    if found:
        raise _refusal(bundle, found)
    parts = arrays(bundle)
    found = [
        fault
        for path, array in parts.items()
        for fault in layout.shape_faults(path, array.dtype.name, array.shape, array.itemsize)
    ]
    if found:
        raise _refusal(bundle, found)
    payload = hdf5.pack(parts, USER_BLOCK, deflate)
    size, declared = USER_BLOCK + len(payload), sum(array.nbytes for array in parts.values())
    if size > layout.MAX_FILE or declared > layout.declared_limit(size):
        raise _refusal(bundle, [f"{size} bytes that hold {declared}: more than a reader accepts"])
    return seal(bundle.manifest.name, payload, bundle.serial) + payload


def arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    """Every dataset of a bundle's file by path.  Raises UsageError for what cannot be written as JSON."""
    parts = {
        "/manifest": _document("/manifest", bundle.manifest.to_json()),
        "/distilled/images": bundle.images.codes,
        "/distilled/scale": bundle.images.scale,
        "/distilled/offset": bundle.images.offset,
        "/distilled/labels": bundle.labels,
    }
    for path, document in (
        ("/card", bundle.card),
        ("/provenance", bundle.provenance),
        ("/components", bundle.components),
    ):
        if document:
            parts[path] = _document(path, document)
    if bundle.probe is not None:
        parts |= {"/probe/images": bundle.probe.images, "/probe/targets": bundle.probe.targets}
    for name, recipe in bundle.recipes.items():
        parts |= _recipe_parts(f"/recipes/{name}", recipe)
    return parts


def _recipe_parts(folder: str, recipe: Recipe) -> dict[str, np.ndarray]:
    parts = {f"{folder}/recipe": _document(f"{folder}/recipe", recipe.to_json())}
    for name, program in recipe.programs.items():
        parts[f"{folder}/{name}"] = np.frombuffer(program, dtype=np.uint8)
    weights = recipe.initial.weights
    if weights:
        parts[f"{folder}/weights"] = np.concatenate([weights[each.name].ravel() for each in recipe.parameters])
    return parts


def _document(path: str, document: Mapping[str, Any]) -> np.ndarray:
    try:
        return np.frombuffer(documents.encode(document), dtype=np.uint8)
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot be written as JSON: {error}", where=path) from error


def _refusal(bundle: Bundle, faults: list[str]) -> UsageError:
    return UsageError("a bundle that no reader would accept: " + "; ".join(faults), where=bundle.manifest.name)
