"""Identity of what a bundle says, apart from the bytes that say it.

Two files hold the same if their datasets do: another library of HDF5 or zlib, another chunk size or filter writes other
bytes, and so another SHA-256, of the same arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fieldkit.bundle import documents

LOGICAL = "fieldkitLogical1"
"""What this digest is called where the kinds of digests are named."""
STATEMENTS = ("/provenance", "/components")
"""Datasets that speak of all others."""
_MARK = b"fieldkit logical digest 1\n"


def logical_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, hex, over each dataset in the order of the paths' bytes.

    A dataset is a line of canonical JSON, [path, dtype, shape] and a newline, and then its values, little-endian in C
    order.  The line says how many bytes follow, so no two sets of arrays give the same stream.
    """
    digest = hashlib.sha256(_MARK)
    for path in sorted(arrays, key=str.encode):
        array = arrays[path]
        digest.update(documents.encode([path, array.dtype.name, list(array.shape)]) + b"\n")
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).view(np.uint8).data)
    return digest.hexdigest()


def content_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The logical digest of what the statements in a bundle speak of: of everything but themselves."""
    return logical_digest({path: array for path, array in arrays.items() if path not in STATEMENTS})
