"""How good a model is before and after a change, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.field.prediction import Predictor
from fieldkit.tasks import classification

PROBE, DISTILLED, HOLD_OUT = "probe", "distilled set", "local hold-out"


@dataclass(frozen=True)
class Comparison:
    """Scores of two models on one set of images.

    where: PROBE, DISTILLED or HOLD_OUT.  classes: of the model afterwards.  known: how many of them both models know.
    """

    where: str
    classes: tuple[str, ...]
    known: int
    before: classification.Scores
    after: classification.Scores

    @property
    def change(self) -> float:
        """Accuracy after less accuracy before, in -1 to 1."""
        return self.after.accuracy - self.before.accuracy

    def part(self, scores: classification.Scores, *, new: bool) -> float | None:
        """Share of the samples of the new classes, or of the known ones, that were right; None without samples."""
        chosen = scores.classes[self.known :] if new else scores.classes[: self.known]
        support = sum(each.support for each in chosen)
        return sum(each.correct for each in chosen) / support if support else None

    def to_json(self) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        return {
            "where": self.where,
            **{
                side: {
                    **scores.to_json(self.classes),
                    "known": self.part(scores, new=False),
                    "new": self.part(scores, new=True),
                }
                for side, scores in sides.items()
            },
        }


def compare(where: str, before: Predictor, after: Predictor, samples: Samples) -> Comparison:
    """Both models' scores on native counts and int64 targets; a class that only the second knows is wrong before."""
    more = len(after.classes) - len(before.classes)
    first = np.pad(before.predict(samples.images), ((0, 0), (0, more)))
    second = after.predict(samples.images)
    return Comparison(
        where,
        after.classes,
        len(before.classes),
        classification.score(first, samples.targets),
        classification.score(second, samples.targets),
    )


def remembered(bundle: Bundle) -> tuple[str, Samples]:
    """What shows whether a model still knows what its bundle taught: the probe, or else the distilled set."""
    return (DISTILLED, distilled_counts(bundle)) if bundle.probe is None else (PROBE, bundle.probe)


def distilled_counts(bundle: Bundle) -> Samples:
    """The distilled set as a sensor would give it: whole counts within its range, and of soft labels the strongest."""
    distilled, dtype = bundle.training_set(), np.dtype(bundle.manifest.radiometry.dtype)
    images = np.clip(np.rint(distilled.images), 0, np.iinfo(dtype).max).astype(dtype)
    return Samples(images, distilled.targets.argmax(axis=1))


def without_gain(comparisons: Sequence[Comparison], tolerance: float) -> list[Comparison]:
    """Those on which the second model is worse than the first by more than ``tolerance``, in accuracy 0-1."""
    return [each for each in comparisons if each.change < -tolerance]
