"""What a model says about image files, one answer per file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldkit.errors import DataError, UsageError
from fieldkit.field.imagery import is_image_file, read_image
from fieldkit.field.prediction import BATCH, Predictor


@dataclass(frozen=True)
class Answer:
    """What a model says about one file: a class and its probability, or why the file could not be used."""

    file: str
    label: str | None = None
    probability: float | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, str | float | None]:
        return {"file": self.file, "class": self.label, "probability": self.probability, "fault": self.fault}


def find_images(places: Sequence[Path]) -> list[Path]:
    """The files named in ``places``, and the image files in its folders and their sub-folders, sorted by name."""
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            found = sorted(path for path in place.rglob("*") if is_image_file(path) and path.is_file())
            # An empty folder is named like a file that cannot be read: its owner should hear of it.
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
            if isinstance(each, str):
                yield Answer(str(file), fault=each)
                continue
            row = next(probabilities)
            best = int(row.argmax())
            yield Answer(str(file), predictor.classes[best], float(row[best]))


def _try_read(predictor: Predictor, file: Path) -> np.ndarray | str:
    """The image in ``file``, or why the model cannot take it."""
    if file.is_dir():
        return "a folder without image files"
    try:
        image = read_image(file)
    except DataError as error:
        return "; ".join(error.faults)
    except UsageError as error:
        return error.message
    return "; ".join(predictor.faults(image[None])) or image
