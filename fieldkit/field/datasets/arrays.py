"""Images and labels that come as arrays, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldkit.bundle.radiometry import PIXEL_DTYPES
from fieldkit.field.datasets.found import SPLITS, Found, names, text

KEYS = tuple(f"{letter}_{split}" for split in SPLITS for letter in "xy")
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


def from_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], faults: list[str]) -> Found:
    """The data set in ``arrays`` (x_train, y_train, x_test, y_test), described by ``about``; ``faults`` is added to."""
    splits = [split for split in SPLITS if f"x_{split}" in arrays or f"y_{split}" in arrays or split == "train"]
    missing = [key for split in splits for key in (f"x_{split}", f"y_{split}") if key not in arrays]
    faults += [f"{key}: missing" for key in missing]
    whole = [split for split in splits if not {f"x_{split}", f"y_{split}"} & set(missing)]
    layout = text(about.get("layout", "")).upper()
    if layout not in ("", "NHWC", "NCHW"):
        faults.append(f"layout: found {layout!r}; expected NHWC or NCHW")
    images, labels = {}, {}
    for split in whole:
        pixels = _pixels(arrays[f"x_{split}"], f"x_{split}", layout, faults)
        targets = _targets(arrays[f"y_{split}"], f"y_{split}", faults)
        if pixels is not None:
            images[split] = pixels
        if targets is not None:
            labels[split] = targets
        if pixels is not None and targets is not None and len(pixels) != len(targets):
            faults.append(f"x_{split} has {len(pixels)} images, y_{split} {len(targets)} labels")
    classes = names(about.get("classes"))
    if "classes" in about and not classes:
        faults.append("classes: expected a JSON list or an array of names")
    if not classes:
        top = max((int(each.max(initial=-1)) for each in labels.values()), default=-1)
        classes = tuple(str(index) for index in range(min(top + 1, _MOST_CLASSES)))
    return Found(images, labels, classes, faults, _REMEDY, about)


def _pixels(array: np.ndarray, key: str, layout: str, faults: list[str]) -> np.ndarray | None:
    """Images as [n, c, h, w], or None with the reason added to ``faults``."""
    before = len(faults)
    if array.dtype.name not in PIXEL_DTYPES:
        faults.append(f"{key}: {_foreign_pixels(array)}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        faults.append(f"{key}: shape {array.shape}; expected (N,H,W) or (N,H,W,C), none of them 0")
    elif array.ndim == 4 and not layout and any(array.shape[1] <= most < array.shape[3] for most in _FEW_BANDS):
        _, height, width, bands = array.shape
        faults.append(
            f"{key}: shape {array.shape} means {width}x{height} pixels with {bands} bands; say layout = NCHW if bands "
            "come first, else layout = NHWC (in npz a key, in HDF5 an attribute)"
        )
    if len(faults) > before:
        return None
    if array.ndim == 3:
        array = array[:, None]
    elif layout != "NCHW":
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _foreign_pixels(array: np.ndarray) -> str:
    """Why these pixels are not native counts, and how to make them so."""
    found = f"{array.dtype} pixels; expected the sensor's native counts as uint8 or uint16"
    if array.dtype.kind == "f":
        broken = int(np.count_nonzero(~np.isfinite(array)))
        if broken:
            return f"{found}; {broken} are NaN or infinite"
    if array.dtype.kind not in "fiub" or not array.size:
        return found
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= np.iinfo(np.uint16).max and np.array_equal(array, np.rint(array)):
        smallest = "uint8" if high <= np.iinfo(np.uint8).max else "uint16"
        return f"{found}; all are whole, {low:g} to {high:g}: store x.astype({smallest!r})"
    return f"{found}; they run from {low:g} to {high:g}: undo the scaling that made them"


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
