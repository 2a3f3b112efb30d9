"""Data sets in npz files, as numpy.savez writes them."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fieldkit.errors import DataError
from fieldkit.field.datasets.arrays import ABOUT, KEYS, from_arrays
from fieldkit.field.datasets.found import Found

# An array's header is Python's own syntax, so that damage there has many names.
_DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def recognises(path: Path) -> bool:
    """True for a zip archive."""
    return path.is_file() and zipfile.is_zipfile(path)


def read(path: Path) -> Found:
    """The data set in a file; keys that are no part of one are left alone.  Raises DataError if it is damaged."""
    try:
        # Pickled objects run code when they are loaded.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in KEYS if key in archive.files}
            about = {key: archive[key] for key in ABOUT if key in archive.files}
    except _DAMAGED as error:
        raise DataError(path, [f"damaged npz file: {error}"], remedy="write it again with numpy.savez") from error
    return from_arrays(arrays, about, [])
