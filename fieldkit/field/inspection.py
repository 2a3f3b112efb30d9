"""What a bundle says about itself, as one JSON document for people and programs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.hdf5 import h5py
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.seal import open_seal
from fieldkit.errors import DamagedBundle


def describe(bundle: Bundle) -> dict[str, Any]:
    """Identity, distilled set, recipes, expectations and probe of ``bundle``."""
    manifest = bundle.manifest
    labels = bundle.labels.astype(np.float32)
    strongest = np.bincount(labels.argmax(1), minlength=len(manifest.classes))
    return {
        "name": manifest.name,
        "serial": bundle.serial,
        "digest": bundle.digest,
        "task": manifest.task,
        "classes": list(manifest.classes),
        "input_shape": list(manifest.input_shape),
        "radiometry": manifest.radiometry.to_json(),
        "method": dict(manifest.method),
        "distilled": {
            "images": len(bundle.images),
            "dtype": bundle.images.codes.dtype.name,
            "per_class": strongest.tolist(),
            "strongest_label": round(float(labels.max(1).mean()), 4),
        },
        "recipes": [_describe_recipe(bundle, bundle.recipes[name]) for name in manifest.recipes],
        "probe": None if bundle.probe is None else {"images": len(bundle.probe)},
        "licence": manifest.licence,
        "provenance": dict(manifest.provenance),
    }


def stored_sizes(path: Path, bundle: Bundle) -> dict[str, int]:
    """Bytes that each dataset of the file takes, compressed, by its HDF5 path.

    Raises DamagedBundle if the file is no longer the one that ``bundle`` was read from.
    """
    data = path.read_bytes()
    if open_seal(data, path).payload_sha256 != bundle.digest:
        raise DamagedBundle("the file changed while it was read", where=path, remedy="run the command again")
    sizes: dict[str, int] = {}

    def measure(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset):
            sizes[f"/{name}"] = found.id.get_storage_size()

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(measure)
    return sizes


def _describe_recipe(bundle: Bundle, recipe: Recipe) -> dict[str, Any]:
    expectations = bundle.manifest.expectations.get(recipe.name, {})
    return {
        "name": recipe.name,
        "architecture": dict(recipe.architecture),
        "parameters": recipe.size,
        "scopes": sorted(recipe.state),
        "schedule": recipe.schedule.to_json(),
        "augmentation": recipe.augmentation.to_json(),
        "initial": "fixed" if recipe.initial.fixed else "random",
        "expectations": {split: each.to_json() for split, each in expectations.items()},
    }
