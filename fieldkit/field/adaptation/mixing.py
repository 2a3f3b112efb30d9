"""What an adaptation learns from together: a device's own samples, and what is replayed so that it stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.field.adaptation.knowledge import Knowledge
from fieldkit.field.adaptation.local import Local
from fieldkit.field.engine.training import widened
from fieldkit.tasks import classification

REAL = 0.2
"""How much of what is replayed of a class are real images, if there are any."""


def joined(local: Local, known: Knowledge, replay: float | None) -> Samples:
    """All samples, float32 counts and labels: the device's own, the distilled set, and of the probe what is learnt.

    replay: as of ``Adaptation``; with 0 the own ones alone.
    """
    count = len(local.classes)
    hard = [local.train, *(known.real if replay != 0.0 else ())]
    made = [Samples(each.images.astype(np.float32), np.eye(count, dtype=np.float32)[each.targets]) for each in hard]
    if replay != 0.0:
        made.insert(1, Samples(known.distilled.images, widened(known.distilled.targets, count)))
    return Samples(*(np.concatenate([getattr(each, name) for each in made]) for name in ("images", "targets")))


def mixed(local: Local, known: Knowledge, replay: float | None) -> list[tuple[np.ndarray, float]]:
    """Who counts how much: positions in ``joined``, one group for each class of each source, and the group's share.

    replay: the share that all replayed groups get together; None gives each class the same, half of it from either side
    where both have it.  Of what is replayed of a class, ``REAL`` is for real images if there are any.
    """
    mine = _by_class(local.train.targets, 0, len(local.classes))
    if replay == 0.0:
        return [(group, 1.0) for group in mine.values()]
    own, distilled = len(local.train), len(known.distilled)
    theirs = _by_class(known.distilled.targets.argmax(axis=1), own, len(local.classes))
    real: Mapping[int, np.ndarray] = {}
    for each in known.real:
        real = _by_class(each.targets, own + distilled, len(local.classes))
    replayed = sorted({*theirs, *real})
    if replay is None:
        new = {slot: 0.5 if slot in replayed else 1.0 for slot in mine}
        old = {slot: 0.5 if slot in mine else 1.0 for slot in replayed}
    else:
        # As if each class had 1 on average.
        whole = len({*mine, *replayed})
        new = dict.fromkeys(mine, whole * (1.0 - replay) / len(mine))
        old = dict.fromkeys(replayed, whole * replay / len(replayed))
    part = {slot: REAL if slot in theirs else 1.0 for slot in real}
    return [
        *((group, new[slot]) for slot, group in mine.items()),
        *((group, old[slot] * (1.0 - part.get(slot, 0.0))) for slot, group in theirs.items()),
        *((group, old[slot] * part[slot]) for slot, group in real.items()),
    ]


def _by_class(targets: np.ndarray, first: int, count: int) -> dict[int, np.ndarray]:
    """Positions of each class that has any, the first sample's being ``first``."""
    return {slot: each + first for slot, each in enumerate(classification.group(targets, count)) if len(each)}
