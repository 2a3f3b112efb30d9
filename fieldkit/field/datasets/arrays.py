"""Images and labels that come as arrays, whatever file they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fieldkit.bundle.radiometry import PIXEL_DTYPES
from fieldkit.field.datasets.found import SPLITS, Found, names, text
from fieldkit.field.datasets.storage import Storage

ABOUT = ("classes", "bands", "layout", "licence", "license", "source")
# An array (N,A,B,C) with at most so many A and more C is either images of few rows and many bands, or was meant with
# channels first: in colour, or with the bands of a multispectral sensor.
_FEW_BANDS = (4, 16)
# Without names of classes, the labels themselves say how many there are; a stray one must not make millions.
_MOST_CLASSES = 10_000
_REMEDY = (
    "x_train, y_train, x_test, y_test: uint8 or uint16 counts (N,H,W), (N,H,W,C), or with layout = NCHW (N,C,H,W); "
    "labels from 0"
)


class Source(Protocol):
    """The images of one split, in a file.

    shape: of what the file holds, images along the first axis.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def images(self, split: str, layout: str, faults: list[str], storage: Storage) -> np.ndarray | None:
        """The images as native uint8 | uint16 [n, c, h, w], or None with the reason added to ``faults``.

        layout: "NHWC", "NCHW" or "" of arrays with four axes.
        """


@dataclass(frozen=True)
class Rows:
    """Images that a file holds as one array.

    shape, dtype: of the array.  read: its rows in order, some at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Iterable[np.ndarray]]

    def images(self, split: str, layout: str, faults: list[str], storage: Storage) -> np.ndarray | None:
        """As in ``Source``."""
        key = f"x_{split}"
        found = list(self._faults(key, layout))
        if found:
            faults += found
            return None
        one = _arranged(np.empty((0, *self.shape[1:]), self.dtype), layout).shape[1:]
        blocks = (_arranged(block, layout) for block in self.read())
        return storage.put(split, (self.shape[0], *one), self.dtype.newbyteorder("="), blocks)

    def _faults(self, key: str, layout: str) -> Iterator[str]:
        if self.dtype.name not in PIXEL_DTYPES:
            yield f"{key}: {self._foreign_pixels()}"
        shape = self.shape
        if len(shape) not in (3, 4) or 0 in shape:
            yield f"{key}: shape {shape}; expected (N,H,W) or (N,H,W,C), none of them 0"
        elif len(shape) == 4 and not layout and any(shape[1] <= most < shape[3] for most in _FEW_BANDS):
            _, height, width, bands = shape
            yield (
                f"{key}: shape {shape} means {width}x{height} pixels with {bands} bands; say layout = NCHW if bands "
                "come first, else layout = NHWC (in npz a key, in HDF5 an attribute)"
            )

    def _foreign_pixels(self) -> str:
        """Why these pixels are not native counts, and how to make them so."""
        found = f"{self.dtype} pixels; expected the sensor's native counts as uint8 or uint16"
        if self.dtype.kind not in "fiub" or not self.shape or 0 in self.shape:
            return found
        broken, low, high, whole = 0, math.inf, -math.inf, True
        for block in self.read():
            broken += int(np.count_nonzero(~np.isfinite(block)))
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            whole = whole and np.array_equal(block, np.rint(block))
        if broken:
            return f"{found}; {broken} are NaN or infinite"
        if low >= 0 and high <= np.iinfo(np.uint16).max and whole:
            smallest = "uint8" if high <= np.iinfo(np.uint8).max else "uint16"
            return f"{found}; all are whole, {low:g} to {high:g}: store x.astype({smallest!r})"
        return f"{found}; they run from {low:g} to {high:g}: undo the scaling that made them"


def from_arrays(
    sources: Mapping[str, Source],
    targets: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    faults: list[str],
    storage: Storage,
) -> Found:
    """The data set in ``sources`` and ``targets`` (by split), described by ``about``; ``faults`` is added to."""
    splits = [split for split in SPLITS if split in sources or split in targets or split == "train"]
    given = (("x", sources), ("y", targets))
    faults += [f"{letter}_{split}: missing" for split in splits for letter, held in given if split not in held]
    layout = text(about.get("layout", "")).upper()
    if layout not in ("", "NHWC", "NCHW"):
        faults.append(f"layout: found {layout!r}; expected NHWC or NCHW")
    images, labels = {}, {}
    for split in [each for each in splits if each in sources and each in targets]:
        pixels = sources[split].images(split, layout, faults, storage)
        found = _targets(targets[split], f"y_{split}", faults)
        if pixels is not None:
            images[split] = pixels
        if found is not None:
            labels[split] = found
        count = sources[split].shape[:1]
        if found is not None and count and count[0] != len(found):
            faults.append(f"x_{split} has {count[0]} images, y_{split} {len(found)} labels")
    classes = names(about.get("classes"))
    if "classes" in about and not classes:
        faults.append("classes: expected a JSON list or an array of names")
    if not classes:
        top = max((int(each.max(initial=-1)) for each in labels.values()), default=-1)
        classes = tuple(str(index) for index in range(min(top + 1, _MOST_CLASSES)))
    return Found(images, labels, classes, faults, _REMEDY, about)


def _arranged(block: np.ndarray, layout: str) -> np.ndarray:
    """Images (M,H,W), (M,H,W,C) or, in the layout NCHW, (M,C,H,W) as [m, c, h, w]."""
    if block.ndim == 3:
        return block[:, None]
    return block if layout == "NCHW" else block.transpose(0, 3, 1, 2)


def _targets(array: np.ndarray, key: str, faults: list[str]) -> np.ndarray | None:
    """Labels as int64 [n], or None with the reason added to ``faults``."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        faults.append(f"{key}: shape {array.shape}; expected (N,) class indices (of one-hot rows, take argmax)")
        return None
    if array.dtype.kind not in "iu":
        broken = f", {int(np.isnan(array).sum())} of them NaN" if array.dtype.kind == "f" else ""
        faults.append(f"{key}: {array.dtype} labels{broken}; expected whole numbers from 0")
        return None
    return array.astype(np.int64)
