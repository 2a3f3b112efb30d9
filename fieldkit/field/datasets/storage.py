"""Where a data set's images are while it is in use: in memory, or in files that are mapped into it.

A mapped file is read where it is touched, and dropped again where memory is wanted for something else, so that memory
does not grow with the data set.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.atomic import explained
from fieldkit.errors import ResourceError

# Bytes of images that any machine of HQ's has to spare.
SMALL = 256 << 20


@dataclass(frozen=True)
class Storage:
    """Takes in the images of each split as they are read.

    folder: for the files, made when the first is written; whoever names it removes it.  None keeps all in memory.
    most: bytes of a split's images that are kept in memory all the same.
    """

    folder: Path | None = None
    most: int = SMALL

    def put(
        self, split: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[np.ndarray]
    ) -> np.ndarray | None:
        """The images [n, c, h, w] that come in ``blocks`` [m, c, h, w]; None if fewer than n come.

        An OSError is taken for the disk's: ``blocks`` raise none.
        Raises ResourceError if memory or disk are full; then, and where images are missing, no file is left.
        """
        if self.folder is None or math.prod(shape) * dtype.itemsize <= self.most:
            return _in_memory(split, shape, dtype, blocks)
        return _in_file(self.folder / f"{split}.npy", shape, dtype, blocks)


IN_MEMORY = Storage()


def _in_memory(
    split: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[np.ndarray]
) -> np.ndarray | None:
    try:
        images = np.empty(shape, dtype)
    except MemoryError as error:
        found = f"{math.prod(shape) * dtype.itemsize:,} bytes"
        remedy = "use a machine with more, or a part of the data set"
        raise ResourceError("not enough memory for the images", where=split, found=found, remedy=remedy) from error
    done = 0
    for block in blocks:
        images[done : done + len(block)] = block
        done += len(block)
    return images if done == len(images) else None


def _in_file(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[np.ndarray]
) -> np.ndarray | None:
    mapped: np.ndarray | None = None
    try:
        _make_room(path, math.prod(shape) * dtype.itemsize)
        # Not through a mapping: there, a full disk ends the process.
        with path.open("xb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            done = 0
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype).data)
                done += len(block)
        if done == shape[0]:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        if mapped is None:
            with suppress(OSError):
                path.unlink()
    return mapped


def _make_room(path: Path, size: int) -> None:
    """Make the folder, and remove what a killed process may have left; refuse what the disk cannot hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What another process has mapped stays as it is.
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ResourceError(
            "no space left for the images of the data set",
            where=path,
            found=f"{free:,} bytes",
            expected=f"{size:,} bytes",
            remedy="free some space, or write the bundle to another disk",
        )
