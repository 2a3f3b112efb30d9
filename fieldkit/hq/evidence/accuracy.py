"""Accuracy as a device will get it: from the written bundle, through the field engine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fieldkit.bundle import parse_bundle, write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Expectation
from fieldkit.bundle.samples import Samples
from fieldkit.field.engine.training import Trainer
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.tasks import classification

# A device's own training may fall this many standard deviations, or this many images, off what HQ measured.
DEVIATIONS = 3.0
IMAGES = 3


class FieldScores:
    """Scores bundles that share their compiled recipes; every train program is opened once.

    threads: None takes every processor.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._trainers: dict[str, Trainer] = {}

    def accuracies(
        self, bundle: Bundle, recipe: str, seeds: Sequence[int], sets: Sequence[Samples]
    ) -> list[list[float]]:
        """For each of ``sets``, the accuracy (0-1) of one training per seed.

        The bundle is written and read back first: 8-bit pixels, float16 labels and the device's arithmetic all count.
        Raises Diverged if a training does.
        """
        written = parse_bundle(write_bundle(bundle), bundle.manifest.name)
        if recipe not in self._trainers:
            self._trainers[recipe] = Trainer(written.recipes[recipe], threads=self.threads)
        trainer, own = self._trainers[recipe], written.recipes[recipe]
        found: list[list[float]] = [[] for _ in sets]
        for seed in seeds:
            trained = trainer.fit(written.training_set(), seed=seed, schedule=own.schedule, initial=own.initial)
            predictor = Predictor.open(exporting.export(trained, written), self.threads)
            for scores, samples in zip(found, sets, strict=True):
                guesses = predictor.predict(samples.images)
                scores.append(classification.score(guesses, samples.targets).accuracy)
        return found


def expectation(accuracies: Sequence[float], samples: int) -> Expectation:
    """What a device may expect on ``samples`` images, from the accuracies (0-1) of several trainings."""
    mean = statistics.fmean(accuracies)
    std = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    margin = max(DEVIATIONS * std, IMAGES / samples)
    return Expectation(mean, std, max(mean - margin, 0.0), min(mean + margin, 1.0), len(accuracies), samples)
