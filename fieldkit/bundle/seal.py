"""The user block: what is decided on bytes before any parser of HDF5 sees them.

    offset     bytes
    0          16      magic, ``fieldkit-bundle`` and a newline
    16         <=2032  the statement: canonical JSON and a newline; its own SHA-256 and a newline; then zeros
    2048       2048    signatures over the statement; all zeros in a bundle that is not signed
    4096       ...     the payload: HDF5; of an encrypted bundle, an age file

The statement says how long the payload is and what its SHA-256 is, so that a file is checked as a whole.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fieldkit.bundle import documents
from fieldkit.bundle.files import MAX_FILE
from fieldkit.bundle.versions import FORMAT, FORMAT_VERSION, MIN_RUNTIME, RUNTIME
from fieldkit.errors import DamagedBundle, IncompatibleBundle, UsageError

if TYPE_CHECKING:
    from fieldkit.bundle.keys import PrivateKey

SEALED = "fieldkit-sealed"
"""The format of an encrypted bundle."""
MAGIC = f"{FORMAT}\n".encode()
SEALED_MAGIC = f"{SEALED}\n".encode()
STATEMENT_AT = len(MAGIC)
SIGNATURES_AT = 2048
USER_BLOCK = 4096
MAX_NAME = 100
MAX_SERIAL = 2**63 - 1

_HDF5 = b"\x89HDF\r\n\x1a\n"
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}", re.ASCII)
_FORM = {
    "format": str,
    "version": int,
    "name": str,
    "serial": int,
    "min_runtime": str,
    "payload_length": int,
    "payload_sha256": str,
}


@dataclass(frozen=True)
class Statement:
    """What the user block says about the payload.

    serial: grows with each issue of a bundle of this name.
    min_runtime: the oldest fieldkit that can use the bundle.
    format: "fieldkit-bundle", or "fieldkit-sealed" if the payload is encrypted.
    payload_sha256: lower-case hex, over the bytes from offset 4096 to the end of the file.
    """

    name: str
    payload_length: int
    payload_sha256: str
    serial: int = 0
    min_runtime: str = MIN_RUNTIME
    format: str = FORMAT

    def encode(self) -> bytes:
        """The statement's canonical JSON, without the newline: the bytes that a signature covers."""
        return documents.encode({"version": FORMAT_VERSION, **vars(self)})

    def fits(self, other: Statement) -> bool:
        """Whether both speak of the same issue of a bundle, one of them as it is encrypted."""
        return (self.name, self.serial, self.min_runtime) == (other.name, other.serial, other.min_runtime)


@dataclass(frozen=True)
class Seal:
    """A user block that was checked against the whole file.

    signers: public Ed25519 keys, 32 bytes each, ascending; each one's signature over the statement is right.
    """

    statement: Statement
    signers: tuple[bytes, ...] = ()


def seal(name: str, payload: bytes, serial: int = 0) -> bytes:
    """The user block (4096 bytes) that stands before ``payload``.  Raises UsageError for a name that does not fit."""
    if not name_fits(name):
        raise UsageError(
            "not a name for a bundle", found=repr(name), expected=f"1 to {MAX_NAME} printable characters", where="name"
        )
    if not 0 <= serial <= MAX_SERIAL:
        raise UsageError("not a serial number", where="serial", found=serial, expected=f"0 to {MAX_SERIAL}")
    statement = Statement(name, len(payload), hashlib.sha256(payload).hexdigest(), serial)
    return user_block(statement.encode())


def sealed(statement: Statement, ciphertext: bytes) -> bytes:
    """The file of an encrypted bundle: ``ciphertext`` behind a user block like that of the bundle inside.

    statement: of the bundle inside.
    """
    digest = hashlib.sha256(ciphertext).hexdigest()
    outer = replace(statement, payload_length=len(ciphertext), payload_sha256=digest, format=SEALED)
    return user_block(outer.encode(), SEALED_MAGIC) + ciphertext


def sign(data: bytes, key: PrivateKey, where: object) -> bytes:
    """The bytes of a bundle's file, encrypted or not, with one more signature; its statement and payload stay.

    Raises BundleError if the file is damaged, UsageError if there is no room for another signature.
    """
    from fieldkit.bundle import signatures

    statement = open_seal(data, where, encrypted=None).statement.encode()
    block = signatures.signed(data[SIGNATURES_AT:USER_BLOCK], statement, key, where)
    return data[:SIGNATURES_AT] + block + data[USER_BLOCK:]


def user_block(statement: bytes, magic: bytes = MAGIC) -> bytes:
    """The 4096 bytes that hold an encoded statement."""
    lines = magic + statement + b"\n" + hashlib.sha256(statement).hexdigest().encode() + b"\n"
    return lines.ljust(USER_BLOCK, b"\0")


def open_seal(data: bytes, where: object, encrypted: bool | None = False) -> Seal:
    """Check a file's bytes against its own statement, and that against its signatures.

    encrypted: which of the two formats is wanted; None takes both.

    Raises DamagedBundle if any byte differs from what was written, IncompatibleBundle if the bundle is sound but of
    another version or format.  Neither HDF5 nor a decryption is involved, and nothing is trusted by it.
    """
    if len(data) > MAX_FILE:
        raise DamagedBundle("too large for a bundle", where=where, expected=f"at most {MAX_FILE} bytes")
    magic = _magic(data, where)
    if encrypted is not None and encrypted != (magic == SEALED_MAGIC):
        raise _other_format(where, encrypted)
    document = _statement(data, magic, where)
    _check_versions(document, magic, where)
    found = list(documents.faults(document, _FORM, "statement"))
    if found:
        raise DamagedBundle("; ".join(found), where=where)
    statement = Statement(
        document["name"],
        document["payload_length"],
        document["payload_sha256"],
        document["serial"],
        document["min_runtime"],
        document["format"],
    )
    _check_fields(statement, where)
    _check_payload(memoryview(data)[USER_BLOCK:], statement, where)
    return Seal(statement, _signers(data[SIGNATURES_AT:USER_BLOCK], statement, where))


def name_fits(name: str) -> bool:
    """True for a name that the statement can hold."""
    return 1 <= len(name) <= MAX_NAME and name.isprintable()


def _magic(data: bytes, where: object) -> bytes:
    """Which of the two magics the file begins with."""
    start = data[: len(MAGIC)]
    if len(data) < USER_BLOCK and (MAGIC.startswith(start) or SEALED_MAGIC.startswith(start)):
        raise DamagedBundle(
            "the file is cut short", where=where, found=f"{len(data)} bytes", expected="a whole bundle", remedy=_AGAIN
        )
    if start in (MAGIC, SEALED_MAGIC):
        return start
    if any(data.startswith(_HDF5, place) for place in (0, 512, 1024, 2048, 4096)):
        raise DamagedBundle("an HDF5 file, but not a fieldkit bundle", where=where, remedy="make one: fieldkit build")
    raise DamagedBundle(
        "not a fieldkit bundle",
        where=where,
        found=f"a file that begins with {data[:16]!r}",
        expected=repr(MAGIC),
        remedy="name a file of fieldkit build; a trained model (.onnx) is for fieldkit predict and fieldkit test",
    )


def _other_format(where: object, encrypted: bool) -> IncompatibleBundle:
    if encrypted:
        return IncompatibleBundle("a bundle that is not encrypted", where=where, expected="one of fieldkit encrypt")
    return IncompatibleBundle(
        "the bundle is encrypted",
        where=where,
        expected="one that is not",
        remedy="decrypt it: fieldkit decrypt; or open it with fieldkit.open_bundle, which decrypts in memory",
    )


def _signers(block: bytes, statement: Statement, where: object) -> tuple[bytes, ...]:
    if not any(block):
        return ()
    # Loaded only where it is needed: cryptography takes as long to load as a small bundle to open.
    from fieldkit.bundle import signatures

    return signatures.signers(block, statement.encode(), where)


def _statement(data: bytes, magic: bytes, where: object) -> dict[str, Any]:
    """The statement as a JSON object; its bytes must be the canonical ones, and what follows it as written."""
    line = data[STATEMENT_AT:SIGNATURES_AT].partition(b"\n")[0]
    if data[:SIGNATURES_AT] != user_block(line, magic)[:SIGNATURES_AT]:
        raise DamagedBundle("the statement was changed after it was written", where=where, remedy=_AGAIN)
    document = documents.decode(line, f"{where}: statement")
    if line != documents.encode(document):
        raise DamagedBundle("the statement is not canonical JSON", where=where, remedy=_AGAIN)
    return document


def _check_versions(document: dict[str, Any], magic: bytes, where: object) -> None:
    """Versions come before the rest: a later version may say things that this one cannot judge."""
    wanted = magic.decode().strip()
    if document.get("format") != wanted:
        raise DamagedBundle("another format", where=where, found=document.get("format"), expected=wanted)
    if document.get("version") != FORMAT_VERSION:
        raise IncompatibleBundle(
            "another version of the bundle format",
            where=where,
            found=document.get("version"),
            expected=FORMAT_VERSION,
            remedy="use the fieldkit that wrote it, or build it again",
        )
    oldest = document.get("min_runtime")
    if not isinstance(oldest, str) or not _VERSION.fullmatch(oldest):
        raise DamagedBundle("min_runtime is not a version", where=where, found=oldest, expected=f"such as {RUNTIME}")
    if _ordered(oldest) > _ordered(RUNTIME):
        raise IncompatibleBundle(
            "the bundle needs a newer fieldkit",
            where=where,
            found=RUNTIME,
            expected=f"{oldest} or newer",
            remedy="upgrade fieldkit on this machine",
        )


def _ordered(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in version.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _check_fields(statement: Statement, where: object) -> None:
    if not name_fits(statement.name):
        raise DamagedBundle("the statement's name does not fit", where=where, found=repr(statement.name))
    if not 0 <= statement.serial <= MAX_SERIAL:
        raise DamagedBundle("the serial number does not fit", where=where, found=statement.serial)


def _check_payload(payload: memoryview, statement: Statement, where: object) -> None:
    if len(payload) != statement.payload_length:
        raise DamagedBundle(
            "the payload is too short or too long",
            where=where,
            found=f"{len(payload)} bytes",
            expected=f"{statement.payload_length} bytes",
            remedy=_AGAIN,
        )
    digest = hashlib.sha256(payload).hexdigest()
    if digest != statement.payload_sha256:
        raise DamagedBundle(
            "the payload was changed after it was written",
            where=where,
            found=f"SHA-256 {digest}",
            expected=statement.payload_sha256,
            remedy=_AGAIN,
        )


_AGAIN = "copy or download the bundle again"
