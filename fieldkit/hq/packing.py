"""Snapshots of a distillation as bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged
from fieldkit.hq.distil.problem import Snapshot


@dataclass(frozen=True)
class Packing:
    """Makes a bundle of any snapshot of one build."""

    manifest: Manifest
    recipes: Mapping[str, Recipe]
    probe: Samples | None
    levels: int | None
    serial: int = 0

    def pack(self, snapshot: Snapshot) -> Bundle:
        """The bundle of this distilled set; the learnt schedule, if any, is the first recipe's.

        Raises Diverged for a set that holds no numbers.
        """
        if not (np.isfinite(snapshot.images).all() and np.isfinite(snapshot.labels).all()):
            raise Diverged("the distillation diverged", where="distilled set", found="NaN or infinity")
        recipes = dict(self.recipes)
        if snapshot.schedule is not None:
            first = next(iter(recipes))
            recipes[first] = recipes[first].with_training(snapshot.schedule, recipes[first].initial)
        codes = Pixels.encode(snapshot.images, self.manifest.radiometry.dtype, self.levels)
        return Bundle(self.manifest, codes, snapshot.labels.astype(np.float16), recipes, self.probe, serial=self.serial)
