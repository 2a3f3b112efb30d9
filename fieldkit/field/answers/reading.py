"""Files of every kind as images that one model takes, or as the reasons why it cannot take them.

An image file holds one image.  An npy file holds one or a stack of them, (H,W), (C,H,W), (H,W,C), (N,H,W), (N,C,H,W) or
(N,H,W,C): the model's own shape decides, bands first where both fit.  So does each array of an npz file; those that can
be no images, such as labels, are passed over.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldkit.errors import DataError, UsageError
from fieldkit.field.images import npy
from fieldkit.field.images.finding import SUFFIXES
from fieldkit.field.images.imagery import MAX_FILE_BYTES, read_image
from fieldkit.field.images.resizing import resize
from fieldkit.field.models.prediction import Predictor

# Files that are read before the model is ready for them.
AHEAD = 64
# Threads that read.  With the files in memory, on two cores, it makes no difference; where each takes a millisecond to
# come, as from a memory card or a network, two read twice as fast as one.
READERS = 2
# How an array may hold images, by its number of axes: n images, c bands, h rows, w columns.
_LAYOUTS = {2: ("hw",), 3: ("chw", "hwc", "nhw"), 4: ("nchw", "nhwc")}


@dataclass(frozen=True)
class Question:
    """One image that a model is asked about, or why it cannot be.

    file: its path.  array, index: of an image in an npz file the array's name; of one in a stack its place from 0.
    image: uint8 | uint16 [c, h, w] as the model takes it, or None where there is a fault.
    remedy: what to do about the fault.
    """

    file: str
    array: str | None = None
    index: int | None = None
    image: np.ndarray | None = None
    fault: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Reader:
    """Reads files for one model; called with a file, it gives the file's images, or one fault.

    way: how images of another size are brought to the model's, "stretch" or "crop"; None refuses them.
    """

    predictor: Predictor
    way: str | None = None

    def __call__(self, file: Path) -> Iterable[Question]:
        """What is in a file.  An image is read at once, arrays while their images are taken."""
        try:
            if os.path.isdir(file):
                return [_folder(file)]
            if npy.is_array_file(file):
                return self._arrays(file)
            return [self._question(str(file), None, None, read_image(file))]
        except (DataError, UsageError, MemoryError) as error:
            return [_faulty(file, error)]

    def _question(self, file: str, array: str | None, index: int | None, image: np.ndarray) -> Question:
        """The question that ``image`` [c, h, w] makes, once it is of the model's size."""
        takes = self.predictor.shape
        if self.way is not None and image.dtype.name == self.predictor.dtype and len(image) == takes[0]:
            image = resize(image, *takes[1:], self.way)
        faults = self.predictor.faults(image[None])
        if faults:
            return Question(file, array, index, fault="; ".join(faults), remedy=self._remedy(image))
        return Question(file, array, index, image)

    def _remedy(self, image: np.ndarray) -> str:
        takes = self.predictor.shape
        resizable = image.dtype.name == self.predictor.dtype and len(image) == takes[0]
        return f"{self.predictor.remedy}; --resize does it here" if resizable else self.predictor.remedy

    def _arrays(self, file: Path) -> Iterator[Question]:
        """The images in an npy or npz file."""
        try:
            if not zipfile.is_zipfile(file):
                yield from self._stack(file, None, npy.read_npy(file))
                return
            with npy.sound(file):
                archive = zipfile.ZipFile(file)
            with archive:
                stored = {key: npy.read_member(archive, key, file) for key in npy.keys(archive)}
                fitting = {key: each for key, each in stored.items() if self._layout(each.shape)}
                # None fits: the first says what is wrong.
                for key, each in (fitting or dict([*stored.items()][:1])).items():
                    yield from self._stack(file, key, each)
                if not stored:
                    yield Question(str(file), fault="an npz file without arrays", remedy="get the file again")
        except (DataError, MemoryError) as error:
            yield _faulty(file, error)

    def _stack(self, file: Path, key: str | None, stored: npy.Stored) -> Iterator[Question]:
        """The images of one array."""
        layout, shape = self._layout(stored.shape), self.predictor.shape
        if layout is None or 0 in stored.shape or stored.dtype.name != self.predictor.dtype:
            found = f"an array {stored.shape} of {stored.dtype.name}"
            expected = f"images (C,H,W) = {shape} of {self.predictor.dtype}, one or a stack of them"
            yield Question(str(file), key, fault=f"{found}; expected {expected}", remedy=self.predictor.remedy)
            return
        single = "n" not in layout
        size = math.prod(stored.shape) * stored.dtype.itemsize
        if single and size > MAX_FILE_BYTES:
            fault = f"an image of {size:,} bytes; expected at most {MAX_FILE_BYTES:,}"
            yield Question(str(file), key, fault=fault, remedy="cut it into tiles")
            return
        if single:
            blocks: Iterable[np.ndarray] = [np.concatenate(list(stored.read()))[None]]
        else:
            blocks = stored.read()
        place = 0
        for block in blocks:
            for image in _bands_first(block.astype(self.predictor.dtype, copy=False), layout):
                yield self._question(str(file), key, None if single else place, image)
                place += 1

    def _layout(self, shape: Sequence[int]) -> str | None:
        """Which of the axes n, c, h, w these are: of the model's own sizes, or, if need be, of its number of bands."""
        takes = dict(zip("chw", self.predictor.shape, strict=True))
        for fixed in ("chw", "c") if self.way is not None else ("chw",):
            for layout in _LAYOUTS.get(len(shape), ()):
                lengths = {"c": 1} | dict(zip(layout, shape, strict=True))
                if all(lengths[axis] == takes[axis] for axis in fixed):
                    return layout
        return None


def read_ahead(reader: Reader, files: Iterable[Path]) -> Iterator[Question]:
    """What ``reader`` finds in each of ``files``, in order, read in threads beside whoever takes it."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[Iterable[Question]]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(reader, file))
                if len(waiting) > AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _bands_first(block: np.ndarray, layout: str) -> np.ndarray:
    """``block`` as [n, c, h, w]; a single image comes with an axis of its own before it."""
    if "c" not in layout:
        return block[:, None]
    return np.moveaxis(block, -1, 1) if layout.endswith("c") else block


def _folder(folder: Path) -> Question:
    """Why a folder comes where files are expected."""
    try:
        os.listdir(folder)
    except OSError as error:
        return Question(
            str(folder), fault=f"cannot be listed: {error.strerror}", remedy="check the folder's permissions"
        )
    remedy = "name folders that hold " + ", ".join(SUFFIXES)
    return Question(str(folder), fault="a folder without image files", remedy=remedy)


def _faulty(file: Path, error: DataError | UsageError | MemoryError) -> Question:
    if isinstance(error, MemoryError):
        return Question(str(file), fault="more than the memory that is free", remedy="cut it into tiles")
    reason = "; ".join(error.faults) if isinstance(error, DataError) else error.message
    return Question(str(file), fault=reason, remedy=error.remedy)
