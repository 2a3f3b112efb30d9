"""What a model says about image files: one answer per image, as they come, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.errors import DataError, ProgramError
from fieldkit.field.answers.reading import Question, Reader, read_ahead
from fieldkit.field.models import confidence
from fieldkit.field.models.prediction import BATCH, Predictor

# Files that could not be used are counted beyond this number, and not kept.
LISTED = 1000


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    batch: images that run through it at a time.  top: how many classes an answer names.
    threshold: probability below which an answer is uncertain; None takes the model's own, if it has one.
    resize: how images of another size are brought to the model's, "stretch" or "crop"; None refuses them.
    """

    batch: int = BATCH
    top: int = 1
    threshold: float | None = None
    resize: str | None = None

    def threshold_for(self, predictor: Predictor) -> float | None:
        """The threshold that counts for a model."""
        if self.threshold is not None:
            return self.threshold
        known = confidence.known(predictor.metadata, predictor.where)
        return None if known is None else known.threshold


@dataclass(frozen=True)
class Answer:
    """What a model says about one image, or why it could not be asked.

    file: its path.  array, index: of an image in an npz file the array's name; of one in a stack its place from 0.
    top: classes and their probabilities, the most probable first; calibrated where the model knows its temperature.
    confident: whether the first reaches the threshold; None where no threshold is known.
    remedy: what to do about the fault.
    """

    file: str
    array: str | None = None
    index: int | None = None
    top: tuple[tuple[str, float], ...] = ()
    confident: bool | None = None
    fault: str | None = None
    remedy: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """That of the most probable class, 0-1."""
        return self.top[0][1] if self.top else None

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON; classes after the first are listed only where they were asked for."""
        named = [{"class": label, "probability": probability} for label, probability in self.top]
        return {
            "file": self.file,
            "array": self.array,
            "index": self.index,
            "class": self.label,
            "probability": self.probability,
            "confident": self.confident,
            **({"top": named} if len(named) > 1 else {}),
            "fault": self.fault,
        }


@dataclass
class Tally:
    """Answers counted: files, images that were answered, answers that are uncertain, and files that failed.

    refused: the first of the files that failed.
    """

    files: int = 0
    images: int = 0
    uncertain: int = 0
    failed: int = 0
    refused: list[Answer] = field(default_factory=list)
    _last: str | None = None

    def add(self, answer: Answer) -> None:
        """Count one more answer; those of one file come one after the other."""
        self.files += answer.file != self._last
        self._last = answer.file
        if answer.fault is None:
            self.images += 1
            self.uncertain += answer.confident is False
            return
        self.failed += 1
        if len(self.refused) < LISTED:
            self.refused.append(answer)

    def refusal(self) -> DataError:
        """The error that lists the files that failed, and each remedy once."""
        faults = [f"{place(each)}: {each.fault}" for each in self.refused]
        faults += [f"... and {self.failed - LISTED} more"] * (self.failed > LISTED)
        remedies = dict.fromkeys(each.remedy for each in self.refused if each.remedy is not None)
        return DataError(f"{self.failed} of {self.files} files", faults, remedy="; ".join(remedies))


def predict_files(predictor: Predictor, files: Iterable[Path], asking: Asking = Asking()) -> Iterator[Answer]:
    """One answer per image, in order; a batch of images and a few files read ahead are in memory at a time.

    Files are read while the model works.  What is wrong with a file is its answer.  Raises ProgramError if the model
    cannot run.
    """
    reader = Reader(predictor, asking.resize)
    held: list[Question] = []
    for question in read_ahead(reader, files):
        held.append(question)
        if len(held) == asking.batch:
            yield from _answered(predictor, held, asking)
            held = []
    yield from _answered(predictor, held, asking)


def _answered(predictor: Predictor, questions: Sequence[Question], asking: Asking) -> Iterator[Answer]:
    """The answers to these questions, whose images are run as one batch."""
    images = [each.image for each in questions if each.image is not None]
    rows = iter(_probabilities(predictor, np.stack(images)) if images else ())
    threshold = asking.threshold_for(predictor)
    for each in questions:
        if each.image is None:
            yield Answer(each.file, each.array, each.index, fault=each.fault, remedy=each.remedy)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[: asking.top]
        top = tuple((predictor.classes[index], float(row[index])) for index in best)
        yield Answer(each.file, each.array, each.index, top, None if threshold is None else top[0][1] >= threshold)


def _probabilities(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """float64 [n, k] of one batch, calibrated where that is known."""
    found = predictor.predict(images, len(images))
    if not np.isfinite(found).all():
        raise ProgramError(
            "the model gives probabilities that are no numbers",
            where=predictor.where,
            found="NaN or infinity",
            remedy="train the model again: fieldkit train BUNDLE -o MODEL",
        )
    known = confidence.known(predictor.metadata, predictor.where)
    return found.astype(np.float64) if known is None else known.calibrated(found)


def place(answer: Answer) -> str:
    """A file, and where in it."""
    array = "" if answer.array is None else f":{answer.array}"
    return f"{answer.file}{array}" if answer.index is None else f"{answer.file}{array}[{answer.index}]"
