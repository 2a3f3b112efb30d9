"""How good a model is before and after a change, on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.field.models.prediction import Predictor
from fieldkit.tasks import classification

HOLD_OUT = "local hold-out"


@dataclass(frozen=True)
class Comparison:
    """Scores of two models on one set of images.

    where: HOLD_OUT, or what ``Knowledge.measured`` names.
    classes: of the model afterwards.  known: how many of them both models know.
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


def score_before(model: bytes, samples: Samples, count: int) -> classification.Scores:
    """A model's scores on native counts and int64 targets of ``count`` classes; those it does not know are wrong."""
    probabilities = Predictor.open(model).predict(samples.images)
    return classification.score(np.pad(probabilities, ((0, 0), (0, count - probabilities.shape[1]))), samples.targets)


def compare(where: str, known: int, before: classification.Scores, after: Predictor, samples: Samples) -> Comparison:
    """The scores of a model afterwards beside those from before, on the same samples."""
    scores = classification.score(after.predict(samples.images), samples.targets)
    return Comparison(where, after.classes, known, before, scores)
