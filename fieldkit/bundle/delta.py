"""What changed from one issue of a bundle to the next, for links over which a whole bundle is too much.

A patch names the old payload by its digest and the new file by its SHA-256, and lists where to copy bytes from the old
and which to insert.  It knows nothing of HDF5, so nothing is parsed to apply one; the writer lays bundles out such that
the images, probes and programs that two issues share are the same bytes in both.  Signatures stand outside of what is
named of the old file, and arrive with the new one.

    bytes                    content
    16                       magic, ``fieldkit-patch1`` and a newline
    a line                   canonical JSON: ``FORM``
    a line                   SHA-256 of all that follows the two lines, and of the JSON before them, 64 hex digits
    the rest                 a zlib stream: three numbers for each copy, and then all bytes to insert

The numbers are unsigned, of 64 bits, little-endian: how many bytes to insert before the copy, where the copied bytes
begin in the old payload, and how many they are.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle import documents
from fieldkit.bundle.files import MAX_FILE
from fieldkit.bundle.seal import USER_BLOCK, open_seal
from fieldkit.errors import DamagedBundle, IncompatibleBundle, UsageError

MAGIC = b"fieldkit-patch1\n"
MAX_COPIES = 100_000
MAX_GROWTH = 64
"""A new file is at most so many times as large as the old file and the patch together."""
_LINE = 4096
_DIGEST = 64
_NUMBERS = 3
FORM = {
    "name": str,
    "serial": int,
    "old_serial": int,
    "old_payload_sha256": str,
    "new_bytes": int,
    "new_sha256": str,
    "copies": int,
}


@dataclass(frozen=True)
class Patched:
    """A new file's bytes, and what the patch said of it: the name, the serial it replaces and its own."""

    data: bytes
    name: str
    old_serial: int
    serial: int


def make_patch(old: bytes, new: bytes, where: object = "new bundle") -> bytes:
    """The bytes that turn the old file of a bundle into the new one.

    Raises BundleError for a file that is no sound bundle, UsageError for two of different names; both are of plain
    bundles, since an encrypted one shares no bytes with another.
    """
    before, after = open_seal(old, "old bundle").statement, open_seal(new, where).statement
    if before.name != after.name:
        raise UsageError("two bundles of different names", where=where, found=after.name, expected=before.name)
    from fieldkit.bundle.matching import copies

    found = list(copies(old[USER_BLOCK:], new))
    header = {
        "name": after.name,
        "serial": after.serial,
        "old_serial": before.serial,
        "old_payload_sha256": before.payload_sha256,
        "new_bytes": len(new),
        "new_sha256": hashlib.sha256(new).hexdigest(),
        "copies": len(found),
    }
    line, body = documents.encode(header), zlib.compress(_plan(found, new), 9)
    return b"".join((MAGIC, line, b"\n", _digest(line, body), b"\n", body))


def apply_patch(old: bytes, patch: bytes, where: object = "patch", old_where: object = "old bundle") -> Patched:
    """The new file, from the old one's bytes and a patch's; what it is was checked, not who made it.

    Raises DamagedBundle for a patch that is damaged or hostile and for an old or a new file that is no sound bundle,
    IncompatibleBundle for a patch of another bundle or issue.
    """
    header, body = _opened(patch, where)
    statement = open_seal(old, old_where).statement
    if statement.payload_sha256 != header["old_payload_sha256"]:
        raise IncompatibleBundle(
            f"the patch is for another issue of {header['name']!r}",
            where=where,
            found=f"{statement.name!r}, serial {statement.serial}, digest {statement.payload_sha256}",
            expected=f"serial {header['old_serial']}, digest {header['old_payload_sha256']}",
            remedy="name the bundle that the patch was made from, or ask for the whole new one",
        )
    size = header["new_bytes"]
    if not USER_BLOCK <= size <= min(MAX_FILE, MAX_GROWTH * (len(old) + len(patch))):
        raise _damaged(where, f"a new file of {size} bytes")
    new = _rebuilt(old[USER_BLOCK:], body, header, where)
    if hashlib.sha256(new).hexdigest() != header["new_sha256"]:
        raise _damaged(where, "another new file than it promises")
    made = open_seal(new, where).statement
    told = (header["name"], header["old_serial"], header["serial"])
    if told != (made.name, statement.serial, made.serial):
        raise _damaged(where, "another name or serial than those of the two bundles")
    return Patched(new, made.name, statement.serial, made.serial)


def _plan(found: list[tuple[int, int, int]], new: bytes) -> bytes:
    """The list of copies, and the bytes of ``new`` that none of them gives."""
    numbers, inserted, place = [], [], 0
    for target, source, length in found:
        numbers.append((target - place, source, length))
        inserted.append(new[place:target])
        place = target + length
    return np.array(numbers, "<u8").tobytes() + b"".join([*inserted, new[place:]])


def _rebuilt(old: bytes, body: memoryview, header: dict[str, Any], where: object) -> bytes:
    """The new file's bytes, never more of them than the header says."""
    size, count = header["new_bytes"], header["copies"]
    if not 0 <= count <= MAX_COPIES:
        raise _damaged(where, f"{count} copies")
    stream, listed = zlib.decompressobj(), 8 * _NUMBERS * count
    try:
        content = stream.decompress(body, listed + size + 1)
    except zlib.error as error:
        raise _damaged(where, f"a body that cannot be inflated: {error}") from None
    if not listed <= len(content) <= listed + size or not stream.eof or stream.unused_data:
        raise _damaged(where, "a body of another length")
    plan = np.frombuffer(content, "<u8", _NUMBERS * count).reshape(count, _NUMBERS).tolist()
    return _joined(plan, memoryview(old), memoryview(content)[listed:], size, where)


def _joined(plan: list[list[int]], old: memoryview, inserted: memoryview, size: int, where: object) -> bytes:
    new, place = bytearray(), 0
    for before, source, length in plan:
        if before > len(inserted) - place or length > len(old) - source:
            raise _damaged(where, "a copy of bytes that are not there")
        if before + length > size - len(new):
            raise _damaged(where, "more bytes than it promises")
        new += inserted[place : place + before]
        new += old[source : source + length]
        place += before
    new += inserted[place:]
    if len(new) != size:
        raise _damaged(where, "another number of bytes than it promises")
    return bytes(new)


def _opened(patch: bytes, where: object) -> tuple[dict[str, Any], memoryview]:
    """A patch's header, checked, and its body."""
    if not patch.startswith(MAGIC):
        raise DamagedBundle(
            "not a fieldkit patch",
            where=where,
            found=f"a file that begins with {patch[:16]!r}",
            expected=repr(MAGIC),
            remedy="name a file of fieldkit diff",
        )
    line, _, rest = patch[len(MAGIC) : len(MAGIC) + _LINE].partition(b"\n")
    start = len(MAGIC) + len(line) + 1
    body = memoryview(patch)[start + _DIGEST + 1 :]
    if rest[: _DIGEST + 1] != _digest(line, body) + b"\n":
        raise _damaged(where, "bytes that were changed")
    header = documents.decode(line, f"{where}: header")
    faults = documents.listed(documents.faults(header, FORM, "header"))
    if faults:
        raise _damaged(where, faults)
    return header, body


def _digest(line: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(line + b"\n")
    digest.update(body)
    return digest.hexdigest().encode()


def _damaged(where: object, found: str) -> DamagedBundle:
    return DamagedBundle(
        "the patch is damaged", where=where, found=found, remedy="get the patch again, or the whole new bundle"
    )
