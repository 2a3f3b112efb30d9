"""Bytes that are no bundle, or no longer one; seals and payloads that do not belong together."""

from __future__ import annotations

import io
import random

from fieldkit.bundle import documents, write_bundle
from fieldkit.bundle.hdf5 import h5py
from fieldkit.bundle.seal import MAGIC, STATEMENT_AT, USER_BLOCK, user_block
from hostile.making import REAL, WHOLE, Case, resealed

_STEP = 4096


def cases() -> dict[str, Case]:
    noise = random.Random(0).randbytes(20_000)
    changed = bytearray(WHOLE)
    changed[STATEMENT_AT + 20] ^= 1
    return {
        "empty": Case(b"", "cut short"),
        "noise": Case(noise, "not a fieldkit bundle"),
        "sealed noise": Case(resealed(noise), "HDF5 cannot be parsed"),
        "magic and noise": Case(MAGIC + noise, "statement was changed"),
        "foreign HDF5": Case(_foreign(), "not a fieldkit bundle"),
        "statement edited": Case(bytes(changed), "statement was changed"),
        "statement of another version": Case(_stated(version=2), "another version"),
        "statement of a newer runtime": Case(_stated(min_runtime="99"), "needs a newer fieldkit"),
        "statement of another length": Case(_stated(payload_length=1), "too short or too long"),
        "statement with a key more": Case(_stated(note="x"), "unknown key"),
        "seal of another bundle": Case(WHOLE[:USER_BLOCK] + _other()[USER_BLOCK:], "too short or too long|changed"),
        "payload under another name": Case(resealed(WHOLE[USER_BLOCK:], "other"), "the statement says 'other'"),
        "bytes after the end": Case(WHOLE + b"x", "too short or too long"),
        **_truncations(),
    }


def _truncations() -> dict[str, Case]:
    """A real bundle cut at every 4 KB: as it is, and sealed anew so that HDF5 gets to see it."""
    whole, found = REAL.read_bytes(), {}
    for end in range(_STEP, len(whole), _STEP):
        found[f"cut at {end}"] = Case(whole[:end], "too short or too long|cut short")
        found[f"cut at {end}, resealed"] = Case(resealed(whole[USER_BLOCK:end], "mnist-1"), "HDF5 cannot be parsed")
    return found


def _stated(**changes: object) -> bytes:
    """The small bundle with another statement, rightly digested."""
    line = WHOLE[STATEMENT_AT : WHOLE.index(b"\n", STATEMENT_AT)]
    statement = documents.encode(documents.decode(line, "statement") | changes)
    return user_block(statement) + WHOLE[USER_BLOCK:]


def _other() -> bytes:
    import tiny

    return write_bundle(tiny.bundle(weights=False))


def _foreign() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file["x"] = 1
    return buffer.getvalue()
