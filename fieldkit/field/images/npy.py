"""Arrays in npy and npz files, as numpy writes them: described by their headers, and read some rows at a time."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from fieldkit.bundle.samples import rows_in_block
from fieldkit.errors import DataError

SUFFIX = ".npy"
SUFFIXES = (SUFFIX, ".npz")
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
Source: TypeAlias = "Callable[[], IO[bytes]]"
Checked: TypeAlias = "Callable[[], AbstractContextManager[None]]"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    read: its rows (what the first axis counts) in order, some at a time; raises DataError where the file is damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Iterator[np.ndarray]]


def is_array_file(path: Path) -> bool:
    """Whether there is a file that is called like an npy or npz file."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_npy(path: Path) -> Stored:
    """The array in an npy file.  Raises DataError if it is damaged or holds Python objects."""
    with sound(path, "npy"):
        return _stored(lambda: path.open("rb"), path.stat().st_size, path.name, partial(sound, path, "npy"))


def read_member(archive: zipfile.ZipFile, key: str, path: Path) -> Stored:
    """The array of this key in an npz file, which stays open until it was read.  Raises DataError, as above."""
    with sound(path):
        member = archive.getinfo(key + SUFFIX)
        return _stored(partial(archive.open, member), member.file_size, member.filename, partial(sound, path))


def load_member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """The whole array of this key in an npz file.  Raises what ``sound`` names."""
    with archive.open(key + SUFFIX) as stream:
        return _loaded(stream)


def keys(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in an npz file, in file order."""
    return [name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX)]


@contextmanager
def sound(path: Path, kind: str = "npz") -> Iterator[None]:
    """What zipfile or numpy cannot make sense of is a fault of the data."""
    try:
        yield
    except _DAMAGED as error:
        remedy = f"write it again with numpy.{'save' if kind == 'npy' else 'savez'}"
        raise DataError(path, [f"damaged {kind} file: {error}"], remedy=remedy) from error


def _loaded(stream: IO[bytes]) -> np.ndarray:
    # Pickled objects run code when they are loaded.
    array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _stored(source: Source, size: int, name: str, checked: Checked) -> Stored:
    """The array in a stream of ``size`` bytes; one in Fortran's order, whose rows lie interleaved, is read at once."""
    with source() as stream:
        read_header = _HEADERS.get(np.lib.format.read_magic(stream))
        shape, interleaved, dtype = read_header(stream) if read_header else ((), True, np.dtype(object))
        start = stream.tell()
    if interleaved or dtype.hasobject:
        with source() as stream:
            whole = _loaded(stream)
        return Stored(whole.shape, whole.dtype, lambda: iter([whole]))
    # Refuses lengths that no array can have, without the memory that one would take.
    np.broadcast_to(np.empty((), dtype), shape)
    if size < start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} ends early")
    return Stored(shape, dtype, partial(_blocks, source, shape, dtype, start, checked))


def _blocks(
    source: Source, shape: tuple[int, ...], dtype: np.dtype[Any], start: int, checked: Checked
) -> Iterator[np.ndarray]:
    """The rows of an array that begins ``start`` bytes into a stream, some at a time."""
    step, size = rows_in_block(shape, dtype), math.prod(shape[1:]) * dtype.itemsize
    with source() as stream:
        with checked():
            stream.read(start)
        for first in range(0, shape[0], step):
            with checked():
                count = min(step, shape[0] - first)
                block = np.frombuffer(stream.read(count * size), dtype).reshape(count, *shape[1:])
            yield block
        with checked():
            # The checksum of a zip archive's member is compared at its end.
            stream.read()
