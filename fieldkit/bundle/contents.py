"""What a bundle holds, as Python objects: the writer takes it, the reader returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples


@dataclass(frozen=True)
class Bundle:
    """The distilled set, the recipes that train on it, and what is said about them.

    images: the distilled images as stored (quantised); ``images.decode()`` gives float32 native counts.  They may be
    smaller than ``manifest.input_shape``; ``training_set`` brings them to size.
    labels: float16 [n, k] soft labels.
    probe: a few real labelled samples that were kept out of the distillation, or None.
    card: evidence measured at HQ, JSON.
    provenance: how it was made, an in-toto statement with SLSA's provenance; components: the libraries that made it, a
    CycloneDX bill of materials.  Both are JSON for people and other tools.
    digest: SHA-256 of the payload, hex; empty for a bundle that was not yet written.
    serial: grows with each issue of a bundle of this name.
    """

    manifest: Manifest
    images: Pixels
    labels: Any
    recipes: Mapping[str, Recipe]
    probe: Samples | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    serial: int = 0

    def training_set(self) -> Samples:
        """What a device trains on: float32 native counts at the input's size, and float32 soft labels."""
        _, height, width = self.manifest.input_shape
        return Samples(enlarge(self.images.decode(), height, width), self.labels.astype("float32"))
