"""What a model says about image files, one answer per file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldkit.errors import DataError, UsageError
from fieldkit.field.imagery import SUFFIXES, is_image_file, read_image
from fieldkit.field.prediction import BATCH, Predictor


@dataclass(frozen=True)
class Answer:
    """What a model says about one file: a class and its probability, or why the file could not be used.

    remedy: what to do about the fault.
    """

    file: str
    label: str | None = None
    probability: float | None = None
    fault: str | None = None
    remedy: str | None = None

    def to_json(self) -> dict[str, str | float | None]:
        return {"file": self.file, "class": self.label, "probability": self.probability, "fault": self.fault}


def find_images(places: Sequence[Path]) -> list[Path]:
    """The files named in ``places``, and the image files in its folders and their sub-folders, sorted by name.

    Raises UsageError if there is nothing at any of the places; one that is missing among others is kept, so that its
    owner hears of it.
    """
    # os.path answers no where pathlib would raise: for a name that is too long, say.
    if not any(os.path.exists(place) for place in places):
        raise UsageError("no such file", where=", ".join(map(str, places)), remedy="check the path")
    files: list[Path] = []
    for place in places:
        if os.path.isdir(place):
            found = sorted(path for path in place.rglob("*") if is_image_file(path) and path.is_file())
            # So is an empty folder.
            files += found or [place]
        else:
            files.append(place)
    return files


def predict_files(predictor: Predictor, files: Sequence[Path], batch: int = BATCH) -> Iterator[Answer]:
    """One answer per file, in order; ``batch`` files are held in memory at a time."""
    for first in range(0, len(files), batch):
        part = files[first : first + batch]
        read = [_try_read(predictor, file) for file in part]
        images = [each for each in read if isinstance(each, np.ndarray)]
        probabilities = iter(predictor.predict(np.stack(images)) if images else ())
        for file, each in zip(part, read, strict=True):
            if isinstance(each, Answer):
                yield each
                continue
            row = next(probabilities)
            best = int(row.argmax())
            yield Answer(str(file), predictor.classes[best], float(row[best]))


def refusal(refused: Sequence[Answer], count: int) -> DataError:
    """The error that lists the files, of ``count`` in all, that could not be used, and each remedy once."""
    faults = [f"{each.file}: {each.fault}" for each in refused]
    remedies = dict.fromkeys(each.remedy for each in refused if each.remedy is not None)
    return DataError(f"{len(faults)} of {count} files", faults, remedy="; ".join(remedies))


def _try_read(predictor: Predictor, file: Path) -> np.ndarray | Answer:
    """The image in ``file``, or the answer that says why the model cannot take it."""
    if os.path.isdir(file):
        remedy = "name folders that hold " + ", ".join(SUFFIXES)
        return Answer(str(file), fault="a folder without image files", remedy=remedy)
    try:
        image = read_image(file)
    except DataError as error:
        return Answer(str(file), fault="; ".join(error.faults), remedy=error.remedy)
    except UsageError as error:
        return Answer(str(file), fault=error.message, remedy=error.remedy)
    faults = predictor.faults(image[None])
    return Answer(str(file), fault="; ".join(faults), remedy=predictor.remedy) if faults else image
