"""Identity of a bundle: what it is for, what it was made from, and what it is expected to reach."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldkit.bundle.documents import Each
from fieldkit.bundle.radiometry import FORM as RADIOMETRY_FORM
from fieldkit.bundle.radiometry import Radiometry

TASKS = ("classification",)
EXPECTATION_FORM = {"mean": float, "std": float, "low": float, "high": float, "seeds": int, "samples": int}
FORM = {
    "name": str,
    "task": str,
    "classes": [str],
    "spare_classes?": int,
    "input_shape": (int, int, int),
    "radiometry": RADIOMETRY_FORM,
    "method": dict,
    "recipes": [str],
    "provenance": dict,
    "licence": str,
    "expectations": Each(Each(EXPECTATION_FORM)),
}


def class_name_fits(name: str) -> bool:
    """True for a name that shows on one line: not empty, no control character, line end or half of a surrogate pair."""
    return bool(name) and not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)


@dataclass(frozen=True)
class Expectation:
    """What HQ measured for one recipe with the field engine from the written bundle.

    mean, std, low, high: accuracy in 0-1 over ``seeds`` trainings; low-high is the range within which a device's own
    training should fall.  samples: how many images were scored.
    """

    mean: float
    std: float
    low: float
    high: float
    seeds: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Expectation:
        mean, std, low, high = (float(document[name]) for name in ("mean", "std", "low", "high"))
        return cls(mean, std, low, high, int(document["seeds"]), int(document["samples"]))


@dataclass(frozen=True)
class Manifest:
    """A bundle's description, stored as JSON.

    input_shape: (channels, height, width) of one image.
    spare_classes: outputs of every recipe beside those of ``classes``, which come first; a device gives them, in order,
    to classes of its own.
    method: how the set was distilled: {"name": ..., "ipc": ..., settings}.
    provenance: data source, licence, library versions.
    expectations: {recipe: {"held-out" | "probe": Expectation}}.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    radiometry: Radiometry
    method: Mapping[str, Any]
    recipes: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    expectations: Mapping[str, Mapping[str, Expectation]] = field(default_factory=dict)
    spare_classes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "task": self.task,
            "classes": list(self.classes),
            **({"spare_classes": self.spare_classes} if self.spare_classes else {}),
            "input_shape": list(self.input_shape),
            "radiometry": self.radiometry.to_json(),
            "method": dict(self.method),
            "recipes": list(self.recipes),
            "provenance": dict(self.provenance),
            "licence": self.licence,
            "expectations": {
                recipe: {split: each.to_json() for split, each in splits.items()}
                for recipe, splits in self.expectations.items()
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Manifest:
        channels, height, width = (int(n) for n in document["input_shape"])
        return cls(
            name=str(document["name"]),
            task=str(document["task"]),
            classes=tuple(str(each) for each in document["classes"]),
            spare_classes=int(document.get("spare_classes", 0)),
            input_shape=(channels, height, width),
            radiometry=Radiometry.from_json(document["radiometry"]),
            method=dict(document["method"]),
            recipes=tuple(str(each) for each in document["recipes"]),
            provenance=dict(document["provenance"]),
            licence=str(document["licence"]),
            expectations={
                recipe: {split: Expectation.from_json(each) for split, each in splits.items()}
                for recipe, splits in document["expectations"].items()
            },
        )
