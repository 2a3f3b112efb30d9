"""Data sets in HDF5 files; images may be stored as encoded files, one per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.hdf5 import UNREADABLE, h5py
from fieldkit.bundle.samples import rows_in_block
from fieldkit.errors import DataError
from fieldkit.field.datasets.arrays import ABOUT, Rows, from_arrays
from fieldkit.field.datasets.decoding import Decoding
from fieldkit.field.datasets.found import SPLITS, Found, text
from fieldkit.field.datasets.storage import Storage
from fieldkit.field.images.imagery import decode_image

_ENCODINGS = ("jpeg", "png")
# Encoded images that are read at a time: their length is not known before.
_ENCODED = 64


def recognises(path: Path) -> bool:
    """True for an HDF5 file."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def read(path: Path, storage: Storage) -> Found:
    """The data set in a file.  Raises DataError if it is damaged."""
    with _sound(path):
        file = h5py.File(path, "r")
    with file:
        with _sound(path):
            about = {key: file.attrs[key] for key in ABOUT if key in file.attrs}
            encoded = text(file.attrs.get("encoding", "")) in _ENCODINGS
            stored = {key: file.get(key) for split in SPLITS for key in (f"x_{split}", f"y_{split}")}
            held = {
                key: each for key, each in stored.items() if isinstance(each, h5py.Dataset) and each.shape is not None
            }
            targets = {split: np.asarray(held[f"y_{split}"][()]) for split in SPLITS if f"y_{split}" in held}
            kind = Encoded if encoded else _rows
            sources = {split: kind(held[f"x_{split}"], path) for split in SPLITS if f"x_{split}" in held}
        return from_arrays(sources, targets, about, [], storage)


@dataclass(frozen=True)
class Encoded:
    """Images that are the bytes of one file in each row of a dataset."""

    dataset: Any
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    def images(self, split: str, layout: str, faults: list[str], storage: Storage) -> np.ndarray | None:
        """As in ``arrays.Source``; decoded images have their bands first, whatever the layout."""
        decoding = Decoding()
        found = decoding.images(split, len(self.dataset), self._files(split), storage)
        faults += [*decoding.unreadable, *decoding.odd]
        return found

    def _files(self, split: str) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        rows = (row for block in _blocks(self.dataset, _ENCODED, self.path) for row in block)
        for index, row in enumerate(rows):
            place = f"x_{split}[{index}]"
            yield place, partial(decode_image, bytes(row), place)


def _datasets(file: Any, letter: str) -> Iterator[tuple[str, Any]]:
    """The splits' datasets of images (x) or labels (y), where they hold anything."""
    for split in SPLITS:
        stored = file.get(f"{letter}_{split}")
        if isinstance(stored, h5py.Dataset) and stored.shape is not None:
            yield split, stored


def _rows(dataset: Any, path: Path) -> Rows:
    step = rows_in_block(dataset.shape, dataset.dtype)
    # A chunk is decompressed whole, and should be once: chunks of many rows make larger blocks.
    chunk = dataset.chunks[0] if dataset.chunks else 1
    return Rows(tuple(dataset.shape), dataset.dtype, partial(_blocks, dataset, -(-step // chunk) * chunk, path))


def _blocks(dataset: Any, step: int, path: Path) -> Iterator[np.ndarray]:
    """The rows of a dataset, ``step`` at a time."""
    for first in range(0, len(dataset), step):
        with _sound(path):
            block: np.ndarray = dataset[first : first + step]
        yield block


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """What libhdf5 cannot make sense of is a fault of the data."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(path, [f"damaged HDF5 file: {error}"], remedy="write or copy it again") from error
