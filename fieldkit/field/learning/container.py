"""A header and named arrays as bytes: what a device keeps for itself between two runs.

    offset    bytes
    0         8      magic: seven letters of the kind, and the format's version
    8         32     SHA-256 of everything after it
    40        8      length of the header, little-endian
    48        n      the header: canonical JSON, ``{"arrays": [{name, dtype, shape}], "about": {...}}``
    48 + n    ...    each array in the header's order, in C order, little-endian

Nothing in it is code, and bytes that differ in one bit are refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldkit.bundle import documents
from fieldkit.bundle.documents import Word
from fieldkit.errors import DamagedBundle

MAGIC = 8
DIGEST = 32
LENGTH = 8
HEAD = MAGIC + DIGEST + LENGTH
DTYPES = ("uint8", "uint16", "int64", "float16", "float32", "float64")
_FORM = {"arrays": [{"name": str, "dtype": Word(*DTYPES), "shape": [int]}], "about": dict}


def pack(magic: bytes, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """``about``, which is JSON, and ``arrays`` as bytes; the same ones give the same bytes."""
    listed = [{"name": name, "dtype": each.dtype.name, "shape": list(each.shape)} for name, each in arrays.items()]
    header = documents.encode({"arrays": listed, "about": dict(about)})
    parts = [np.ascontiguousarray(each, each.dtype.newbyteorder("<")).tobytes() for each in arrays.values()]
    content = b"".join((len(header).to_bytes(LENGTH, "little"), header, *parts))
    return b"".join((magic, hashlib.sha256(content).digest(), content))


def unpack(content: bytes, magic: bytes, where: object) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What ``pack`` was given: the JSON, and copies of the arrays.

    where: names the bytes in an error.  Raises DamagedBundle for any other bytes.
    """
    if content[:MAGIC] != magic or len(content) < HEAD:
        raise DamagedBundle("of another kind or version", where=where, expected=f"bytes that begin with {magic!r}")
    if hashlib.sha256(memoryview(content)[MAGIC + DIGEST :]).digest() != content[MAGIC : MAGIC + DIGEST]:
        raise DamagedBundle("damaged", where=where, found="another checksum than its own")
    start = HEAD + int.from_bytes(content[HEAD - LENGTH : HEAD], "little")
    header = documents.decode(content[HEAD:start], f"{where}: header")
    faults = list(documents.faults(header, _FORM, "header"))
    if faults:
        raise DamagedBundle("; ".join(faults), where=where)
    arrays: dict[str, np.ndarray] = {}
    for each in header["arrays"]:
        dtype = np.dtype(each["dtype"]).newbyteorder("<")
        count = math.prod(each["shape"])
        end = start + count * dtype.itemsize
        if min(each["shape"], default=0) < 0 or end > len(content) or each["name"] in arrays:
            raise DamagedBundle("an array that does not fit", where=where, found=each["name"][:40])
        found = np.frombuffer(content, dtype, count, start).reshape(each["shape"])
        arrays[each["name"]] = found.astype(dtype.newbyteorder("="))
        start = end
    if start != len(content):
        raise DamagedBundle("bytes after the last array", where=where, found=len(content) - start, expected=0)
    return header["about"], arrays
