"""What a bundle taught a model: what is replayed so that it stays, and what shows whether it has.

Distilled images are unlike a sensor's.  A last layer that is solved with distilled images of the known classes and a
device's own of the new ones learns that difference as well, and takes what looks real for new; a few real images of the
known classes among the replayed ones cure it.  A bundle's probe is such images: half of it is learnt from, and the
other half measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.field.models.unseen import halves, unseen

PROBE, DISTILLED = "probe", "distilled set"


@dataclass(frozen=True)
class Knowledge:
    """What can be learnt again, and what only measures.

    distilled: float32 native counts, float32 labels [n, k].
    real: of the probe, to be learnt from; native counts and int64 targets.  One set, or none.
    probe: the rest of it, which only measures; None where the bundle carries none.
    dtype: of the native counts.
    """

    distilled: Samples
    real: tuple[Samples, ...]
    probe: Samples | None
    dtype: np.dtype[np.generic]

    @cached_property
    def counts(self) -> Samples:
        """The distilled set as a sensor would give it: whole counts in its range, and of soft labels the strongest."""
        images = np.clip(np.rint(self.distilled.images), 0, np.iinfo(self.dtype.name).max).astype(self.dtype)
        return Samples(images, self.distilled.targets.argmax(axis=1))

    @property
    def measured(self) -> tuple[str, Samples]:
        """Where, and on what, it shows whether a model still knows: the probe, or else the distilled set."""
        return (DISTILLED, self.counts) if self.probe is None else (PROBE, self.probe)


def knowledge(bundle: Bundle, metadata: Mapping[str, str], *, learn_probe: bool = False) -> Knowledge:
    """What ``bundle`` taught the model with these metadata.

    learn_probe: whether half of each class's images of the probe may be learnt from; of a single one none is.  What
    the model learnt from earlier never measures.
    """
    learnt, rest = halves(bundle) if learn_probe else (None, unseen(bundle, metadata))
    dtype = np.dtype(bundle.manifest.radiometry.dtype)
    return Knowledge(bundle.training_set(), () if learnt is None else (learnt,), rest, dtype)
