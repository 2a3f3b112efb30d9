"""Data sets in npz files, as numpy.savez writes them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fieldkit.field.datasets.arrays import ABOUT, Rows, from_arrays
from fieldkit.field.datasets.found import SPLITS, Found
from fieldkit.field.datasets.storage import Storage
from fieldkit.field.images import npy


def recognises(path: Path) -> bool:
    """True for a zip archive."""
    return path.is_file() and zipfile.is_zipfile(path)


def read(path: Path, storage: Storage) -> Found:
    """The data set in a file; keys that are no part of one are left alone.  Raises DataError if it is damaged."""
    with npy.sound(path):
        archive = zipfile.ZipFile(path)
    with archive:
        there = npy.keys(archive)
        with npy.sound(path):
            about = {key: npy.load_member(archive, key) for key in ABOUT if key in there}
            targets = {split: npy.load_member(archive, f"y_{split}") for split in SPLITS if f"y_{split}" in there}
        images = {split: npy.read_member(archive, f"x_{split}", path) for split in SPLITS if f"x_{split}" in there}
        sources = {split: Rows(each.shape, each.dtype, each.read) for split, each in images.items()}
        return from_arrays(sources, targets, about, [], storage)
