"""What of a bundle's probe a model has not learnt from, and can be measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.errors import ProgramError
from fieldkit.tasks import classification

ADAPTED = "fieldkit.adapted"
"""Metadata of a model: JSON, what it was adapted to, one object each time."""
PROBE = "probe"
"""Of such an object: SHA-256 of a probe, half of which was learnt from; null if none was."""


def history(metadata: Mapping[str, str], where: str = "model") -> list[dict[str, Any]]:
    """What a model was adapted to, the oldest first.  Raises ProgramError for metadata that make no sense."""
    try:
        found = json.loads(metadata.get(ADAPTED, "[]"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ProgramError(
            "a history that makes no sense in the model's metadata",
            where=where,
            found=metadata[ADAPTED][:100],
            expected="a list of objects",
            remedy="train the model again: fieldkit train BUNDLE -o MODEL",
        )
    return found


def halves(bundle: Bundle) -> tuple[Samples | None, Samples | None]:
    """Of the probe what can be learnt from, half of each class's images, and what is left; of a single one none is."""
    probe = bundle.probe
    if probe is None:
        return None, None
    groups = classification.group(probe.targets, len(bundle.manifest.classes))
    learnt = np.sort(np.concatenate([each[: len(each) // 2] for each in groups]))
    rest = np.setdiff1d(np.arange(len(probe)), learnt)
    return probe.take(learnt) if len(learnt) else None, probe.take(rest)


def unseen(bundle: Bundle, metadata: Mapping[str, str]) -> Samples | None:
    """The probe less what the model with these metadata has learnt from; None where the bundle carries none."""
    if bundle.probe is None or bundle.probe.digest() not in [each.get(PROBE) for each in history(metadata)]:
        return bundle.probe
    return halves(bundle)[1]
