"""One class per image: whether labels are sound, where each class's samples are, how good predictions are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.errors import DataError, ProgramError

_SHOWN = 5


@dataclass(frozen=True)
class ClassScore:
    """How one class fared, as counts of samples.

    support: samples of the class.  predicted: samples given the class.  correct: samples of which both hold.
    """

    support: int
    predicted: int
    correct: int

    @property
    def recall(self) -> float | None:
        """Share of the class's samples that were found, 0-1; None without samples.  The class's own accuracy."""
        return self.correct / self.support if self.support else None

    @property
    def precision(self) -> float | None:
        """Share of the predictions of this class that were right, 0-1; None without predictions."""
        return self.correct / self.predicted if self.predicted else None


@dataclass(frozen=True)
class Scores:
    """The score of a set of predictions; ``classes`` in label order."""

    classes: tuple[ClassScore, ...]

    @property
    def count(self) -> int:
        return sum(each.support for each in self.classes)

    @property
    def correct(self) -> int:
        return sum(each.correct for each in self.classes)

    @property
    def accuracy(self) -> float:
        """Share of all samples that were right, 0-1."""
        return self.correct / self.count

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores as JSON, each class by its name; recall and precision are null where undefined."""
        return {
            "accuracy": self.accuracy,
            "correct": self.correct,
            "count": self.count,
            "classes": [
                {"name": name, **vars(each), "recall": each.recall, "precision": each.precision}
                for name, each in zip(names, self.classes, strict=True)
            ],
        }


def score(probabilities: np.ndarray, targets: np.ndarray) -> Scores:
    """Score predictions: float [n, k] against int64 [n]; of equal probabilities the first class counts.

    Raises ProgramError for probabilities that are no numbers, DataError for labels that no class has or no samples.
    """
    count = probabilities.shape[1]
    if targets.shape != probabilities.shape[:1] or not len(targets):
        raise DataError("labels", [f"{targets.shape} for predictions of {probabilities.shape}; expected one for each"])
    faults = list(label_faults(targets, count, "labels"))
    if faults:
        raise DataError("labels", faults, remedy="check that the data has the model's classes")
    if not np.isfinite(probabilities).all():
        raise ProgramError("the model gives probabilities that are no numbers", found="NaN or infinity")
    guesses = probabilities.argmax(axis=1)
    support = np.bincount(targets, minlength=count)
    predicted = np.bincount(guesses, minlength=count)
    correct = np.bincount(targets[guesses == targets], minlength=count)
    return Scores(
        tuple(ClassScore(int(s), int(p), int(c)) for s, p, c in zip(support, predicted, correct, strict=True))
    )


def group(targets: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """Positions of the samples of each of ``count`` classes: int64 arrays, ascending."""
    return tuple(np.flatnonzero(targets == index) for index in range(count))


def label_faults(targets: np.ndarray, count: int, place: str) -> Iterator[str]:
    """One sentence for each way in which int64 [n] labels are not class indices 0 to ``count`` - 1."""
    wrong = np.flatnonzero((targets < 0) | (targets >= count))
    if len(wrong):
        examples = ", ".join(f"[{index}] = {targets[index]}" for index in wrong[:_SHOWN])
        more = ", ..." if len(wrong) > _SHOWN else ""
        yield f"{place}: {len(wrong)} labels out of range 0 to {count - 1}: {examples}{more}"


def class_faults(targets: np.ndarray, names: Sequence[str], place: str) -> Iterator[str]:
    """One sentence for each reason why these labels cannot be learnt: a single class, a class without samples."""
    if len(names) < 2:
        yield f"{place}: only one class, {', '.join(names) or 'unnamed'}; expected at least two"
    for name, positions in zip(names, group(targets, len(names)), strict=True):
        if not len(positions):
            yield f"{place}: class {name!r} has no samples"
