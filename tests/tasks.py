"""Small bundles and data sets of two classes each, out of six: what a device learns one after the other, no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import handmade
import numpy as np

from fieldkit.bundle import parse_bundle, write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples
from fieldkit.field.datasets import Dataset

CLASSES = 6


def names(*classes: int) -> tuple[str, ...]:
    return tuple(f"kind {index}" for index in classes)


def recipe(**options: Any) -> Recipe:
    """The linear classifier of six outputs, all but two of them spare."""
    return handmade.recipe(**{"classes": CLASSES, "spare": CLASSES - 2, "steps": 30, **options})


def samples(first: int, count: int, seed: int = 0) -> Samples:
    """``count`` images of each of the classes ``first`` and ``first`` + 1, labelled 0 and 1."""
    every = handmade.images(CLASSES * count, classes=CLASSES, seed=seed)
    mine = np.flatnonzero((every.targets >= first) & (every.targets < first + 2))
    return Samples(every.images[mine], every.targets[mine] - first)


def bundle(first: int, per_class: int = 3, *, probe: int = 10, chosen: Recipe | None = None, **changes: Any) -> Bundle:
    """A bundle of the classes ``first`` and ``first`` + 1, as read from its file.  changes: of the manifest."""
    made, distilled = handmade.bundle(chosen or recipe()), samples(first, per_class, 1 + first)
    soft = np.full((len(distilled), 2), 0.1)
    soft[np.arange(len(distilled)), distilled.targets] = 0.9
    about: dict[str, Any] = {"name": f"task-{first}", "classes": names(first, first + 1), "spare_classes": CLASSES - 2}
    described = replace(made.manifest, **about | {"expectations": {}} | changes)
    whole = replace(
        made,
        manifest=described,
        images=Pixels.encode(distilled.images.astype(np.float32), "uint8"),
        labels=soft.astype(np.float16),
        probe=samples(first, probe, 2) if probe else None,
    )
    return parse_bundle(write_bundle(whole), "bundle")


def dataset(first: int, per_class: int, *, test: int = 10, seed: int = 3) -> Dataset:
    """The device's own samples of these two classes."""
    held = samples(first, test, 4) if test else None
    return Dataset(
        samples(first, per_class, seed), held, names(first, first + 1), f"own-{first}", "CC0-1.0", "drawn", ("grey",)
    )
