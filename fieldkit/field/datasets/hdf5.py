"""Data sets in HDF5 files; images may be stored as encoded files, one per row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fieldkit.bundle.hdf5 import UNREADABLE, h5py
from fieldkit.errors import DataError
from fieldkit.field.datasets.arrays import ABOUT, KEYS, from_arrays
from fieldkit.field.datasets.found import Found, odd_kinds, text
from fieldkit.field.imagery import decode_image

_ENCODINGS = ("jpeg", "png")


def recognises(path: Path) -> bool:
    """True for an HDF5 file."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def read(path: Path) -> Found:
    """The data set in a file.  Raises DataError if it is damaged."""
    faults: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            about = {key: file.attrs[key] for key in ABOUT if key in file.attrs}
            encoded = text(file.attrs.get("encoding", "")) in _ENCODINGS
            for key in KEYS:
                stored = file.get(key)
                if isinstance(stored, h5py.Dataset) and stored.shape is not None:
                    images = encoded and key.startswith("x")
                    arrays[key] = _decoded(stored[()], key, faults) if images else stored[()]
    except UNREADABLE as error:
        raise DataError(path, [f"damaged HDF5 file: {error}"], remedy="write or copy it again") from error
    return from_arrays(arrays, about, faults)


def _decoded(rows: np.ndarray, key: str, faults: list[str]) -> np.ndarray:
    """Images (N,H,W,C) from one encoded file per row; faults are added to ``faults``."""
    images: list[np.ndarray] = []
    places: list[str] = []
    for index, row in enumerate(rows):
        place = f"{key}[{index}]"
        try:
            images.append(decode_image(bytes(row), place))
            places.append(place)
        except DataError as error:
            faults += [f"{place}: {fault}" for fault in error.faults]
    odd = list(odd_kinds(images, places))
    faults += odd
    if odd or len(images) != len(rows) or not images:
        return np.zeros((len(rows), 1, 1), np.uint8)
    return np.stack(images).transpose(0, 2, 3, 1)
