"""How good a trained model is on labelled data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.errors import DataError
from fieldkit.field.datasets import Dataset
from fieldkit.field.models.prediction import BATCH, Predictor
from fieldkit.tasks import classification


@dataclass(frozen=True)
class Report:
    """A model's scores on one split ("test" or "train") of a data set; ``classes`` are the model's."""

    split: str
    classes: tuple[str, ...]
    scores: classification.Scores

    def to_json(self) -> dict[str, Any]:
        return {"split": self.split, **self.scores.to_json(self.classes)}


def score_dataset(predictor: Predictor, dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Report:
    """Score ``predictor`` on the test split, or on train where there is no test; classes are joined by name.

    Raises DataError that lists everything about the data that does not suit the model.
    """
    split, samples = ("train", dataset.train) if dataset.test is None else ("test", dataset.test)
    faults = [*predictor.faults(samples.images), *_foreign_classes(predictor, dataset, samples)]
    if faults:
        raise DataError(f"{dataset.name}, {split}", faults, remedy="test with the kind of data the model was made for")
    # A class that only the data set has got here without samples: any index will do.
    indices = [predictor.classes.index(name) if name in predictor.classes else 0 for name in dataset.classes]
    probabilities = predictor.predict(samples.images, BATCH, progress)
    scores = classification.score(probabilities, np.array(indices, np.int64)[samples.targets])
    return Report(split, predictor.classes, scores)


def _foreign_classes(predictor: Predictor, dataset: Dataset, samples: Samples) -> list[str]:
    counts = np.bincount(samples.targets, minlength=len(dataset.classes))
    known = ", ".join(predictor.classes)
    return [
        f"class {name!r} has {count} images, but the model knows only {known}"
        for name, count in zip(dataset.classes, counts, strict=True)
        if count and name not in predictor.classes
    ]
