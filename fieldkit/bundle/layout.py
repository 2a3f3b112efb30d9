"""Every path, dtype, rank, filter and size that a bundle of format version 1 may hold; what is not named is refused.

``docs/bundle-format.md`` shows the same table; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fieldkit.bundle.files import MAX_FILE as MAX_FILE
from fieldkit.bundle.radiometry import PIXEL_DTYPES
from fieldkit.bundle.recipe import is_scope

MIB = 2**20
MAX_LINKS = 256
"""Members of one group."""
MAX_CHUNKS = 4096
"""Chunks of one dataset."""
FREE_BYTES = 64 * MIB
MAX_RATIO = 32
"""Declared bytes, summed over all datasets, are at most FREE_BYTES + MAX_RATIO x the file's bytes."""
FILTERS = ("gzip", "shuffle", "fletcher32")
RECIPE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One dataset that a bundle may hold.

    path: segments in angle brackets stand for a recipe's name or a scope.
    limit: largest size in bytes, uncompressed.
    """

    path: str
    dtypes: tuple[str, ...]
    rank: int
    limit: int
    required: bool
    holds: str


IMAGES = Entry("/distilled/images", PIXEL_DTYPES, 4, 1024 * MIB, True, "codes (N,C,h,w), h <= H, w <= W")
ENTRIES = (
    Entry("/manifest", ("uint8",), 1, 4 * MIB, True, "JSON: what the bundle is"),
    Entry("/card", ("uint8",), 1, 16 * MIB, False, "JSON: evidence measured at HQ"),
    Entry("/provenance", ("uint8",), 1, 4 * MIB, False, "JSON: how it was made, an in-toto statement"),
    Entry("/components", ("uint8",), 1, 4 * MIB, False, "JSON: the libraries that made it, CycloneDX"),
    IMAGES,
    Entry("/distilled/scale", ("float32",), 1, MIB, True, "counts per code (C,)"),
    Entry("/distilled/offset", ("float32",), 1, MIB, True, "counts of code 0 (C,)"),
    Entry("/distilled/labels", ("float16",), 2, 256 * MIB, True, "soft labels (N,K)"),
    Entry("/recipes/<name>/recipe", ("uint8",), 1, 16 * MIB, True, "JSON: tensors, schedule, augmentation, start"),
    Entry("/recipes/<name>/predict", ("uint8",), 1, 64 * MIB, True, "ONNX without weights"),
    Entry("/recipes/<name>/train/<scope>", ("uint8",), 1, 64 * MIB, True, "ONNX, one step; at least one scope"),
    Entry("/recipes/<name>/weights", ("float16",), 1, 512 * MIB, False, "first values of all parameters, joined"),
    Entry("/probe/images", PIXEL_DTYPES, 4, 256 * MIB, False, "native counts (P,C,H,W)"),
    Entry("/probe/targets", ("int64",), 1, 16 * MIB, False, "class indices (P,)"),
)


def entry(path: str) -> Entry | None:
    """The entry that allows a dataset at ``path``, or None."""
    return next((each for each in ENTRIES if _matches(path.split("/"), each.path.split("/"))), None)


def is_group(path: str) -> bool:
    """True if a group may stand at ``path``; the root is ``/``."""
    segments = [] if path == "/" else path.split("/")
    return any(
        len(segments) < len(allowed) and _matches(segments, allowed[: len(segments)])
        for allowed in (each.path.split("/") for each in ENTRIES)
    )


def shape_faults(path: str, dtype: str, shape: Sequence[int], itemsize: int) -> list[str]:
    """Why an array may not stand at ``path``, one sentence each; none if it may."""
    allowed = entry(path)
    if allowed is None:
        return [f"{path}: not part of a bundle"]
    faults = []
    if dtype not in allowed.dtypes:
        faults.append(f"{path}: found dtype {dtype}; expected {' or '.join(allowed.dtypes)}")
    if len(shape) != allowed.rank:
        faults.append(f"{path}: found rank {len(shape)}; expected {allowed.rank}")
    size = itemsize
    for length in shape:
        size *= length
    if size == 0:
        faults.append(f"{path}: empty")
    if size > allowed.limit:
        faults.append(f"{path}: found {size} bytes; expected at most {allowed.limit}")
    return faults


def declared_limit(file_size: int) -> int:
    """How many bytes the datasets of a file of ``file_size`` bytes may declare together."""
    return FREE_BYTES + MAX_RATIO * file_size


def _matches(segments: Sequence[str], pattern: Sequence[str]) -> bool:
    if len(segments) != len(pattern):
        return False
    for segment, allowed in zip(segments, pattern, strict=True):
        if allowed == "<name>":
            if not RECIPE_NAME.fullmatch(segment):
                return False
        elif allowed == "<scope>":
            if not is_scope(segment):
                return False
        elif segment != allowed:
            return False
    return True
