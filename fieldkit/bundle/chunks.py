"""Chunks of an HDF5 dataset: how they are cut, and undone here rather than by libhdf5, never larger than declared.

libhdf5 inflates a chunk into whatever room its stream asks for.  zlib's own interface stops at a given length.
The filters are those of ``layout.FILTERS``; their formats are described in the HDF5 File Format Specification 3.0,
IV.A.2.l (filter pipeline), and in H5Zdeflate.c, H5Zshuffle.c and H5checksum.c.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

CHECKSUM_BYTES = 4
MAX_DEFLATE_RATIO = 1032
"""A byte of a deflate stream stands for at most so many: 258 from each quarter of it (RFC 1951, 3.2.5)."""


_LIST_CHUNK, _ROWS_CHUNK = 16 * 2**20, 8 * 2**10
_MOST_CHUNKS = 1024


def restore(stored: bytes, filters: Sequence[str], size: int, itemsize: int) -> bytes:
    """The ``size`` bytes of a chunk's values, from what the file holds.

    filters: "shuffle", "gzip" and "fletcher32" in the order in which they were applied.
    Raises ValueError where the bytes are not a chunk of that size.
    """
    for index in range(len(filters) - 1, -1, -1):
        # A checksum that was added before this filter is part of what this one gives.
        expected = size + CHECKSUM_BYTES * ("fletcher32" in filters[:index])
        if filters[index] == "gzip":
            stored = _inflated(stored, expected)
        elif filters[index] == "shuffle":
            stored = _unshuffled(stored, itemsize)
        else:
            stored = _verified(stored)
    if len(stored) != size:
        raise ValueError(f"a chunk of {len(stored)} bytes where {size} were declared")
    return stored


def rows_of_chunk(array: np.ndarray) -> int:
    """How many of an array's rows make a chunk: of images and labels few, always of the same number of bytes.

    So the images that two issues of a bundle share are the same bytes in both files, and a patch need not carry them
    (``delta``).  It costs a hundredth of the file.
    """
    if array.ndim == 1:
        return max(1, min(len(array), _LIST_CHUNK // array.itemsize))
    size = _ROWS_CHUNK
    while size * _MOST_CHUNKS < array.nbytes:
        size *= 2
    return max(1, min(len(array), size * len(array) // array.nbytes))


def whole_chunk(part: np.ndarray, rows: int) -> np.ndarray:
    """The last chunk is stored at full size, whatever the array's length."""
    return np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])


def shuffled(chunk: np.ndarray) -> bytes:
    """HDF5's shuffle filter: first bytes of all values, then second bytes, and so on."""
    little = chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8).reshape(-1, chunk.itemsize).T.tobytes()


def fletcher32(data: bytes) -> int:
    """HDF5's checksum: Fletcher's over 16-bit big-endian words, an odd last byte being a word's upper half."""
    words = np.frombuffer(data + bytes(len(data) % 2), dtype=">u2").astype(np.uint64)
    # The sum of sums holds the first word as often as there are words.  Zero is represented as 65535, except at the
    # start, which is why ``_verified`` compares remainders.
    places = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    first, second = int(words.sum()) % 65535, int((words * places).sum()) % 65535
    return second << 16 | first


def _inflated(stored: bytes, expected: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, expected + 1)
    except zlib.error as error:
        raise ValueError(f"a chunk that cannot be inflated: {error}") from None
    if len(data) != expected or not stream.eof or stream.unused_data:
        found = f"more than {expected}" if len(data) > expected else len(data)
        raise ValueError(f"a chunk that inflates to {found} bytes where {expected} were declared")
    return data


def _unshuffled(stored: bytes, itemsize: int) -> bytes:
    whole = len(stored) // itemsize * itemsize
    planes = np.frombuffer(stored, np.uint8, whole).reshape(itemsize, -1)
    return planes.T.tobytes() + stored[whole:]


def _verified(stored: bytes) -> bytes:
    """The bytes before a chunk's checksum, which is stored little-endian."""
    data, found = stored[:-CHECKSUM_BYTES], int.from_bytes(stored[-CHECKSUM_BYTES:], "little")
    expected = fletcher32(data)
    if (found >> 16) % 65535 != expected >> 16 or (found & 0xFFFF) % 65535 != expected & 0xFFFF:
        raise ValueError("a chunk whose checksum is another")
    return data
