"""A look at a device before a mission: what it is, how fast it is, and which recipes fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldkit.field.device.description import Device, examine
from fieldkit.field.measurement.benchmark import Measurement, bench, yardstick
from fieldkit.field.trust.admission import open_bundle

SHARE = 0.2
"""How long each recipe of a bundle is measured, as a share of the time for the device itself."""


@dataclass(frozen=True)
class Diagnosis:
    """device: what it is.  speed: of the yardstick.  recipes: what each recipe takes, by the bundle's file."""

    device: Device
    speed: Measurement
    recipes: Mapping[str, tuple[Measurement, ...]]

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device.to_json(),
            "speed": self.speed.to_json(),
            "bundles": {
                file: [each.to_json() | {"misfits": each.misfits(self.device)} for each in recipes]
                for file, recipes in self.recipes.items()
            },
        }


def diagnose(
    bundles: Sequence[Path],
    seconds: float,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
    **opening: Any,
) -> Diagnosis:
    """Examine this device and measure it for ``seconds``, and each recipe of ``bundles`` a fifth as long.

    opening: as for ``open_bundle``, which says what is raised for a bundle that cannot be used.
    """
    opened = {str(path): open_bundle(path, **opening).bundle for path in bundles}
    total, done = 1 + sum(len(bundle.recipes) for bundle in opened.values()), 1
    ruler = yardstick()
    speed = bench(ruler, next(iter(ruler.recipes.values())), seconds=seconds, threads=threads)
    progress(done, total, "yardstick")
    found: dict[str, tuple[Measurement, ...]] = {}
    for file, bundle in opened.items():
        for recipe in bundle.recipes.values():
            measured = bench(bundle, recipe, seconds=SHARE * seconds, threads=threads)
            found[file] = (*found.get(file, ()), measured)
            done += 1
            progress(done, total, recipe.name)
    return Diagnosis(examine(Path()), speed, found)
