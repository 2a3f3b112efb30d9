"""Lists of keys that are never to be trusted again: a line per key, its id and then anything; # begins a remark."""

from __future__ import annotations

import re
from pathlib import Path

from fieldkit.bundle.files import read_bytes
from fieldkit.errors import DataError

MAX_LIST = 2**20
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def is_id(word: str) -> bool:
    """True for what may be a key's id: 32 hex digits, lower case."""
    return _ID.fullmatch(word) is not None


def read_revoked(path: str | Path) -> frozenset[str]:
    """The ids in a list file.

    Raises UsageError if there is no such file, DataError that names every line which is none, so that nothing is left
    out unnoticed.
    """
    data = read_bytes(path, MAX_LIST, "revocation list")
    if len(data) > MAX_LIST:
        raise DataError(path, [f"more than {MAX_LIST} bytes"])
    found, faults = set(), []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words and is_id(words[0]):
            found.add(words[0])
        elif words:
            faults.append(f"line {number}: {words[0][:40]!r} is not a key's id (32 hex digits, lower case)")
    if not found and not faults:
        faults.append("no key's id in it")
    if faults:
        raise DataError(path, faults, remedy="list one id on each line; fieldkit trust list shows ids")
    return frozenset(found)
