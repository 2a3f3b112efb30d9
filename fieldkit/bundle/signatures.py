"""Signatures in the user block: fixed records of one length, in one order, and zeros after them.

    offset    bytes
    0         16     ``KIND``
    16        32     the signer's Ed25519 public key
    48        64     Ed25519 signature (RFC 8032) over ``SIGNED`` and the statement

The public key stands in the record, so that every signature is checked, be its key trusted or not, and no bit of a
file is left uncovered.
"""

from __future__ import annotations

import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fieldkit.bundle.keys import KEY, SIGNATURE, PrivateKey, key_id
from fieldkit.errors import BundleError, DamagedBundle, IncompatibleBundle, UsageError

KIND = b"ed25519-sig-1\0\0\0"
SIGNED = b"fieldkit statement 1\n"
RECORD = len(KIND) + KEY + SIGNATURE
ROOM = 2048
MOST = ROOM // RECORD
_WORD = re.compile(rb"[a-z][a-z0-9-]{3,}\0*", re.ASCII)


def signers(block: bytes, statement: bytes, where: object) -> tuple[bytes, ...]:
    """The public keys of all who signed ``statement``, ascending.

    block: the 2048 bytes of the user block.  Raises DamagedBundle for any byte that is not as the format says and any
    signature that is not right, IncompatibleBundle for a record of a kind that is not known.
    """
    found = _records(block, where)
    for public, signature in found.items():
        _check(public, signature, statement, where)
    return tuple(found)


def signed(block: bytes, statement: bytes, key: PrivateKey, where: object) -> bytes:
    """``block`` with the signature of ``key`` over ``statement``; the same if it is there already.

    Raises UsageError if there is no room for another.
    """
    found = _records(block, where) | {key.public().signing: key.sign(SIGNED + statement)}
    if len(found) > MOST:
        raise UsageError("no room for another signature", where=where, expected=f"at most {MOST}")
    return b"".join(KIND + public + found[public] for public in sorted(found)).ljust(ROOM, b"\0")


def _records(block: bytes, where: object) -> dict[bytes, bytes]:
    """Signatures by public key."""
    found: dict[bytes, bytes] = {}
    rest = block
    while any(rest):
        record, rest = rest[:RECORD], rest[RECORD:]
        if not record.startswith(KIND):
            raise _unknown(record[: len(KIND)], where)
        if len(record) < RECORD:
            raise DamagedBundle("a signature that is cut short", where=where)
        public, signature = record[len(KIND) : len(KIND) + KEY], record[-SIGNATURE:]
        if found and public <= max(found):
            raise DamagedBundle("signatures out of order, or two of one key", where=where)
        found[public] = signature
    return found


def _check(public: bytes, signature: bytes, statement: bytes, where: object) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, SIGNED + statement)
    except InvalidSignature as error:
        raise DamagedBundle(
            "a signature that does not fit the statement",
            where=where,
            found=f"one of key {key_id(public)}",
            remedy="get the bundle again from whoever signed it",
        ) from error


def _unknown(kind: bytes, where: object) -> BundleError:
    """What begins a record that is none of ours: a later version's word, or noise."""
    if not _WORD.fullmatch(kind):
        return DamagedBundle("bytes where signatures stand that are none", where=where, found=repr(kind))
    return IncompatibleBundle(
        "a signature of a kind that this fieldkit does not know",
        where=where,
        found=repr(kind),
        expected=repr(KIND),
        remedy="upgrade fieldkit on this machine, or get the bundle again",
    )
