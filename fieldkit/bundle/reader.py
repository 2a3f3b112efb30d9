"""Bytes to a Bundle, refusing what the layout does not allow.

The order of opening: size cap, one read of the bytes, the user block's statement, the payload's length and SHA-256, and
only then HDF5, from those same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle import consistency, documents, hdf5, layout, manifest, recipe
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.files import read_bytes as read_bytes
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import MAX_RANK, Recipe, Tensor
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.seal import Seal, open_seal
from fieldkit.errors import DamagedBundle

Parts = Mapping[str, np.ndarray]
_DOCUMENTS = ("/manifest", "/card", "/provenance", "/components", "/recipe")


def read_bundle(path: str | Path) -> Bundle:
    """The bundle in a file.

    Raises UsageError if there is no such file, BundleError for anything wrong in its bytes.
    """
    return parse_bundle(read_bytes(path), path)


def parse_bundle(data: bytes, where: object) -> Bundle:
    """The bundle in the bytes of a file; ``where`` names them in an error.

    Raises DamagedBundle or IncompatibleBundle (both BundleError), never anything else, whatever the bytes are.
    """
    return parse_file(data, where).bundle


@dataclass(frozen=True)
class Parsed:
    """A bundle, and the file that it was.

    arrays: every dataset by path.  sizes: the bytes that each takes in the file, compressed.
    """

    bundle: Bundle
    arrays: Parts
    sizes: Mapping[str, int]


def parse_file(data: bytes, where: object, seal: Seal | None = None) -> Parsed:
    """As ``parse_bundle``, with what is known of the file beside.

    seal: what ``open_seal`` gave for these very bytes, where that was done before.
    """
    statement = (seal or open_seal(data, where)).statement
    stored = hdf5.unpack(data, where)
    arrays = {path: each.array for path, each in stored.items()}
    bundle = _assemble(arrays, where)
    faults = consistency.faults(bundle)
    if statement.name != bundle.manifest.name:
        faults.append(f"name: the statement says {statement.name!r}, the manifest {bundle.manifest.name!r}")
    if faults:
        raise DamagedBundle("the parts do not fit together: " + documents.listed(faults), where=where)
    bundle = replace(bundle, digest=statement.payload_sha256, serial=statement.serial)
    return Parsed(bundle, arrays, {path: each.size for path, each in stored.items()})


def _assemble(parts: Parts, where: object) -> Bundle:
    names = sorted({path.split("/")[2] for path in parts if path.startswith("/recipes/")})
    missing = list(_missing(parts, names))
    if missing:
        raise DamagedBundle("incomplete: missing " + documents.listed(missing), where=where)
    _check_documents(parts, where)
    described = Manifest.from_json(_document(parts, "/manifest", manifest.FORM, where))
    # The manifest's order is the author's: its first recipe is the default one.
    ordered = sorted(names, key=[*described.recipes, *names].index)
    return Bundle(
        manifest=described,
        images=Pixels(parts["/distilled/images"], parts["/distilled/scale"], parts["/distilled/offset"]),
        labels=parts["/distilled/labels"],
        recipes={name: _recipe(name, parts, where) for name in ordered},
        probe=Samples(parts["/probe/images"], parts["/probe/targets"]) if "/probe/images" in parts else None,
        card=_optional(parts, "/card", where),
        provenance=_optional(parts, "/provenance", where),
        components=_optional(parts, "/components", where),
    )


def _missing(parts: Parts, names: list[str]) -> Iterator[str]:
    """The required datasets that are not there."""
    for entry in layout.ENTRIES:
        if entry.required and "<" not in entry.path and entry.path not in parts:
            yield entry.path
    if not names:
        yield "/recipes/<name>"
    for folder in (f"/recipes/{name}" for name in names):
        yield from (path for path in (f"{folder}/recipe", f"{folder}/predict") if path not in parts)
        if not any(path.startswith(f"{folder}/train/") for path in parts):
            yield f"{folder}/train/<scope>"
    probe = {"/probe/images", "/probe/targets"}
    yield from sorted(probe - set(parts)) if probe & set(parts) else ()


def _check_documents(parts: Parts, where: object) -> None:
    """Objects take many times the memory of their JSON, so values are counted before any is decoded."""
    texts = [array.tobytes() for path, array in parts.items() if path.endswith(_DOCUMENTS)]
    count = sum(map(documents.values_at_most, texts))
    if count > documents.MAX_VALUES:
        raise DamagedBundle("too many values in JSON", where=where, found=count, expected=documents.MAX_VALUES)


def _document(parts: Parts, path: str, form: Any, where: object) -> dict[str, Any]:
    """The JSON object of one dataset, checked against its form."""
    document = documents.decode(parts[path].tobytes(), f"{where}: {path}")
    faults = documents.listed(documents.faults(document, form, path))
    if faults:
        raise DamagedBundle(faults, where=where)
    return document


def _optional(parts: Parts, path: str, where: object) -> dict[str, Any]:
    """The JSON object of a dataset, or an empty one."""
    return _document(parts, path, dict, where) if path in parts else {}


def _recipe(name: str, parts: Parts, where: object) -> Recipe:
    folder = f"/recipes/{name}"
    document = _document(parts, f"{folder}/recipe", recipe.FORM, where)
    programs = {
        path.removeprefix(f"{folder}/"): array.tobytes()
        for path, array in parts.items()
        if path == f"{folder}/predict" or path.startswith(f"{folder}/train/")
    }
    weights: dict[str, np.ndarray] = {}
    if f"{folder}/weights" in parts:
        tensors = [Tensor.from_json(each) for each in document["parameters"]]
        weights = _split(parts[f"{folder}/weights"], tensors, f"{where}: {folder}/weights")
    return Recipe.from_json(name, document, programs, weights)


def _split(joined: np.ndarray, tensors: Sequence[Tensor], where: str) -> dict[str, np.ndarray]:
    """The joined weights as one array per parameter."""
    if any(len(tensor.shape) > MAX_RANK for tensor in tensors):
        raise DamagedBundle("a parameter of too many axes", where=where, expected=f"at most {MAX_RANK}")
    total = sum(tensor.size for tensor in tensors)
    if len(joined) != total or any(min(tensor.shape, default=1) < 1 for tensor in tensors):
        raise DamagedBundle("weights do not fit the parameters", where=where, found=len(joined), expected=total)
    starts = np.cumsum([0, *(tensor.size for tensor in tensors)])
    return {
        tensor.name: joined[start : start + tensor.size].reshape(tensor.shape)
        for tensor, start in zip(tensors, starts, strict=False)
    }
