"""What a bundle says about itself, as one JSON document for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.logical import LOGICAL, content_digest, logical_digest
from fieldkit.bundle.reader import Parsed, parse_file
from fieldkit.bundle.recipe import Recipe
from fieldkit.field.inspection import sheet


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
        "spare_classes": manifest.spare_classes,
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


def prepare(request: Mapping[str, Any]) -> None:
    """Load what ``perform`` needs, as long as files can be opened."""
    if request["sheet"] is not None:
        sheet.load()
    if request["signed"]:
        import_module("fieldkit.bundle.signatures")


def perform(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """All that ``inspect`` says of a bundle's bytes, and its contact sheet as an image file if one was asked for.

    request: {"where": what messages call the file, "sheet": the image format or null, "provenance": whether to add the
    statements, "signed": whether there are signatures}.
    """
    parsed = parse_file(data, request["where"])
    document = {
        "file": request["where"],
        "bytes": len(data),
        **describe(parsed.bundle),
        "logical_digest": logical_digest(parsed.arrays),
        "attested": _attested(parsed),
        "parts": dict(sorted(parsed.sizes.items())),
    }
    if request["provenance"]:
        document |= {"statement": dict(parsed.bundle.provenance), "components": dict(parsed.bundle.components)}
    return document, sheet.encoded(parsed.bundle, request["sheet"]) if request["sheet"] else b""


def _attested(parsed: Parsed) -> bool | None:
    """Whether the provenance speaks of what is in this bundle; None if there is none."""
    if not parsed.bundle.provenance:
        return None
    subject = {"name": parsed.bundle.manifest.name, "digest": {LOGICAL: content_digest(parsed.arrays)}}
    return parsed.bundle.provenance.get("subject") == [subject]


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
