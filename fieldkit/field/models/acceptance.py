"""Does a model that was trained here do what HQ measured?  The probe that a bundle carries answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fieldkit.bundle.contents import Bundle
from fieldkit.field.engine.training import Trained
from fieldkit.field.models.prediction import Predictor
from fieldkit.tasks import classification


@dataclass(frozen=True)
class Acceptance:
    """A model's score on the probe beside the range that HQ measured with the same recipe.

    accuracy: 0-1 over ``samples`` images.
    low, high: HQ's range, or None where HQ measured none.
    comparable: whether this training was HQ's, of all weights in as many steps; else the range says nothing about it.
    """

    accuracy: float
    samples: int
    low: float | None
    high: float | None
    comparable: bool

    @property
    def within(self) -> bool | None:
        """Whether the score is at least as good as HQ's range; None where that cannot be said."""
        if self.low is None or not self.comparable:
            return None
        return self.accuracy >= self.low

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"within": self.within}


def accept(
    model: bytes, trained: Trained, bundle: Bundle, threads: int | None = None, *, scope: str = "full"
) -> Acceptance | None:
    """Score ``model``, made by the train program of ``scope``, on the bundle's probe; None where it carries none."""
    if bundle.probe is None:
        return None
    probabilities = Predictor.open(model, threads).predict(bundle.probe.images)
    expected = bundle.manifest.expectations.get(trained.recipe.name, {}).get("probe")
    return Acceptance(
        accuracy=classification.score(probabilities, bundle.probe.targets).accuracy,
        samples=len(bundle.probe),
        low=None if expected is None else expected.low,
        high=None if expected is None else expected.high,
        comparable=scope == "full" and trained.steps == trained.recipe.schedule.steps,
    )
