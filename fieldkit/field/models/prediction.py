"""Running a trained model: the file that ``fieldkit train`` wrote, or its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.seal import MAGIC, SEALED_MAGIC
from fieldkit.errors import DataError, ProgramError, UsageError
from fieldkit.field.engine.session import Session, open_session, run_session
from fieldkit.field.models import exporting
from fieldkit.field.programs.initializers import read_initializers
from fieldkit.field.programs.program import read_metadata

# On two cores larger batches were no faster (ConvNet-3, width 32 and 64) and took up to 3x the memory.
BATCH = 32
MAX_MODEL = 2**31 - 1
"""Bytes of a model: what Protocol Buffers can hold."""
_DTYPES = {"tensor(uint8)": "uint8", "tensor(uint16)": "uint16"}


@dataclass(frozen=True)
class Predictor:
    """A trained model, ready to run.

    classes: names, in the order of the probabilities.
    shape: (channels, height, width) of one image; dtype: "uint8" or "uint16", in native counts.
    metadata: everything that the model file says about itself.
    where: the model's file name, for messages.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str
    radiometry: Radiometry
    metadata: Mapping[str, str]
    where: str
    session: Session

    @classmethod
    def open(cls, model: str | Path | bytes, threads: int | None = None, where: str | None = None) -> Predictor:
        """Open a model file, or a model's bytes, which messages then call ``where``.

        Raises UsageError where there is no such file, ProgramError for one that fieldkit did not write.
        """
        where = where or ("model" if isinstance(model, bytes) else str(model))
        content = model if isinstance(model, bytes) else read_model(Path(model))
        metadata = read_metadata(content, where)
        if exporting.CLASSES not in metadata or exporting.RADIOMETRY not in metadata:
            raise _foreign(where, f"no metadata {exporting.CLASSES} and {exporting.RADIOMETRY}")
        session = open_session(content, where, threads)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if [each.name for each in inputs] != ["images"] or [each.name for each in outputs] != ["probabilities"]:
            raise _foreign(where, "other inputs or outputs than images and probabilities")
        try:
            classes = tuple(str(name) for name in json.loads(metadata[exporting.CLASSES]))
            radiometry = Radiometry.from_json(json.loads(metadata[exporting.RADIOMETRY]))
            channels, height, width = (int(length) for length in inputs[0].shape[1:])
            dtype = _DTYPES[inputs[0].type]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _foreign(where, f"metadata or an input that cannot be read: {error}") from error
        count = list(outputs[0].shape[1:])
        if any(isinstance(length, str) for length in count):
            # With spare classes, a number inside the model says how many are in use.
            count = read_initializers(content, where).get(exporting.CLASS_COUNT, np.zeros(0)).tolist()
        if count != [len(classes)]:
            raise _foreign(where, f"{len(classes)} class names for probabilities of {_counted(count)}")
        return cls(classes, (channels, height, width), dtype, radiometry, metadata, where, session)

    def predict(
        self, images: np.ndarray, batch: int = BATCH, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Probabilities, float32 [n, k], of ``images``: [n, c, h, w] of the model's dtype, in native counts.

        Works through ``batch`` images at a time, so that memory does not grow with n; ``progress`` is called after each
        with (images done, images in all).
        Raises DataError where the images are not what the model takes.
        """
        faults = self.faults(images)
        if faults:
            raise DataError("images", faults, remedy=self.remedy)
        found = np.empty((len(images), len(self.classes)), np.float32)
        for first in range(0, len(images), batch):
            part = np.ascontiguousarray(images[first : first + batch])
            found[first : first + len(part)] = run_session(self.session, {"images": part}, self.where)[0]
            if progress is not None:
                progress(first + len(part), len(images))
        return found

    @property
    def remedy(self) -> str:
        """What to do about images that the model cannot take."""
        return f"{self.where} takes {_size(self.shape)}, {self.dtype}: crop or resize the images, or train for theirs"

    def faults(self, images: np.ndarray) -> list[str]:
        """Why the model cannot take ``images`` [n, c, h, w], one sentence each; empty if it can."""
        faults = []
        if images.dtype.name != self.dtype:
            faults.append(f"pixels are {images.dtype.name}, the model takes {self.dtype}")
        if images.ndim != 4 or images.shape[1:] != self.shape:
            faults.append(f"{_size(images.shape[1:])}, the model takes {_size(self.shape)}")
        return faults


def _counted(count: list[object]) -> str:
    return f"{count[0]} classes" if len(count) == 1 else f"an unknown number of classes, {count}"


def _size(shape: tuple[int, ...]) -> str:
    """The shape of one image in words, width first."""
    if len(shape) != 3:
        return f"the shape of one image is {shape}"
    return f"{shape[2]}x{shape[1]} pixels with {shape[0]} {'band' if shape[0] == 1 else 'bands'}"


def read_model(path: Path) -> bytes:
    """The bytes of a model file.  Raises UsageError where there is none, ProgramError for one that is too large."""
    try:
        content = read_bytes(path, MAX_MODEL, "model")
    except UsageError as error:
        raise UsageError(
            f"cannot read the model: {error.message}", where=path, remedy="train one: fieldkit train BUNDLE -o MODEL"
        ) from error
    if content.startswith((MAGIC, SEALED_MAGIC)):
        raise _foreign(str(path), "a bundle")
    if len(content) > MAX_MODEL:
        raise _foreign(str(path), f"more than {MAX_MODEL} bytes")
    return content


def _foreign(where: str, found: str) -> ProgramError:
    return ProgramError(
        "not a model that fieldkit wrote",
        where=where,
        found=found,
        expected="a model file of fieldkit train",
        remedy="train one: fieldkit train BUNDLE -o MODEL",
    )
