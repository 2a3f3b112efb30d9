"""Data sets in npz files, as numpy.savez writes them."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.samples import rows_in_block
from fieldkit.errors import DataError
from fieldkit.field.datasets.arrays import ABOUT, Rows, from_arrays
from fieldkit.field.datasets.found import SPLITS, Found
from fieldkit.field.datasets.storage import Storage

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
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def recognises(path: Path) -> bool:
    """True for a zip archive."""
    return path.is_file() and zipfile.is_zipfile(path)


def read(path: Path, storage: Storage) -> Found:
    """The data set in a file; keys that are no part of one are left alone.  Raises DataError if it is damaged."""
    with _sound(path):
        archive = zipfile.ZipFile(path)
    with archive:
        with _sound(path):
            about = {key: _array(archive, member) for key, member in _members(archive, ABOUT)}
            labels = [f"y_{split}" for split in SPLITS]
            targets = {key[2:]: _array(archive, member) for key, member in _members(archive, labels)}
            images = [f"x_{split}" for split in SPLITS]
            sources = {key[2:]: _rows(archive, member, path) for key, member in _members(archive, images)}
        return from_arrays(sources, targets, about, [], storage)


def _members(archive: zipfile.ZipFile, keys: Sequence[str]) -> list[tuple[str, str]]:
    """Those of the keys that are there, each with its member's name."""
    there = archive.namelist()
    return [(key, f"{key}.npy") for key in keys if f"{key}.npy" in there]


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        # Pickled objects run code when they are loaded.
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _rows(archive: zipfile.ZipFile, member: str, path: Path) -> Rows:
    """An array of the archive, to be read in blocks; one in Fortran's order, whose images lie interleaved, is read."""
    with archive.open(member) as stream:
        read_header = _HEADERS.get(np.lib.format.read_magic(stream))
        shape, interleaved, dtype = read_header(stream) if read_header else ((), True, np.dtype(object))
        start = stream.tell()
    if interleaved or dtype.hasobject:
        whole = _array(archive, member)
        return Rows(whole.shape, whole.dtype, lambda: [whole])
    # Refuses lengths that no array can have, without the memory that one would take.
    np.broadcast_to(np.empty((), dtype), shape)
    if archive.getinfo(member).file_size < start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member} ends early")
    return Rows(shape, dtype, partial(_blocks, archive, member, shape, dtype, start, path))


def _blocks(
    archive: zipfile.ZipFile, member: str, shape: tuple[int, ...], dtype: np.dtype[Any], start: int, path: Path
) -> Iterator[np.ndarray]:
    """The rows of an array that begins ``start`` bytes into a member, some at a time."""
    step, size = rows_in_block(shape, dtype), math.prod(shape[1:]) * dtype.itemsize
    with archive.open(member) as stream:
        with _sound(path):
            stream.read(start)
        for first in range(0, shape[0], step):
            with _sound(path):
                count = min(step, shape[0] - first)
                block = np.frombuffer(stream.read(count * size), dtype).reshape(count, *shape[1:])
            yield block
        with _sound(path):
            # The checksum is compared at the end of the member.
            stream.read()


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """What zipfile or numpy cannot make sense of is a fault of the data."""
    try:
        yield
    except _DAMAGED as error:
        raise DataError(path, [f"damaged npz file: {error}"], remedy="write it again with numpy.savez") from error
