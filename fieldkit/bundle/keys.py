"""Keys of people and devices: an Ed25519 pair that signs, and an X25519 pair that bundles are encrypted for.

A private key file is two PEM blocks of PKCS #8, the signing key first.  A public key file is one line of text:

    fieldkit-key-1 NAME ID BASE64

BASE64 holds the signing key (32 bytes), the receiving key (32 bytes) and the signing key's signature over
``CERTIFIED`` and the receiving key (64 bytes), so that whoever trusts the ID trusts both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fieldkit.bundle.atomic import check_writable, write_atomically
from fieldkit.bundle.files import read_bytes
from fieldkit.errors import TrustError, UsageError

WORD = "fieldkit-key-1"
CERTIFIED = b"fieldkit receiving key 1\n"
KEY = 32
SIGNATURE = 64
MAX_KEY_FILE = 16384
LEAST_PASSPHRASE, MOST_PASSPHRASE = 8, 200
"""Characters of a new one; OpenSSL takes at most 1023 bytes."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----\r?\n[A-Za-z0-9+/=\r\n]+-----END [A-Z0-9 ]+-----\r?\n", re.ASCII)

Passphrase = Callable[[str], str]
"""Asked with a key's name for its passphrase."""


def key_id(signing: bytes) -> str:
    """What a key is called: 32 hex digits, the first half of the SHA-256 of its public signing key."""
    return hashlib.sha256(signing).hexdigest()[:32]


@dataclass(frozen=True)
class PublicKey:
    """Who signs, and whom a bundle can be encrypted for.

    name: a label for people; nothing rests on it.  signing, receiving: 32 bytes each, Ed25519 and X25519.
    certificate: the signing key's signature over the receiving key, 64 bytes.
    """

    name: str
    signing: bytes
    receiving: bytes
    certificate: bytes

    @property
    def id(self) -> str:
        return key_id(self.signing)

    def encode(self) -> str:
        """The line of a public key file, without its line end."""
        content = base64.b64encode(self.signing + self.receiving + self.certificate).decode()
        return f"{WORD} {self.name} {self.id} {content}"

    @classmethod
    def decode(cls, line: str, where: object) -> PublicKey:
        """The key in a line.  Raises UsageError for anything else, TrustError if its parts do not belong together."""
        words = line.removesuffix("\n").split(" ")
        if len(words) != 4 or words[0] != WORD or not NAME.fullmatch(words[1]):
            raise _not_public(where, words[0])
        try:
            content = base64.b64decode(words[3], validate=True)
        except (binascii.Error, ValueError) as error:
            raise _not_public(where, f"{WORD} without base64") from error
        if len(content) != 2 * KEY + SIGNATURE:
            raise _not_public(where, f"{WORD} of {len(content)} bytes")
        key = cls(words[1], content[:KEY], content[KEY : 2 * KEY], content[2 * KEY :])
        try:
            Ed25519PublicKey.from_public_bytes(key.signing).verify(key.certificate, CERTIFIED + key.receiving)
        except InvalidSignature as error:
            raise _altered(where, "its receiving key is not certified by its signing key") from error
        # Not canonical base64, or another id than the key's own.
        if key.encode() != line.removesuffix("\n"):
            raise _altered(where, f"the key's own id is {key.id}")
        return key


class PrivateKey:
    """A signing and a receiving key, which never leave their owner."""

    def __init__(self, name: str, signing: Ed25519PrivateKey, receiving: X25519PrivateKey) -> None:
        self.name = name
        self._signing = signing
        self._receiving = receiving

    @classmethod
    def generate(cls, name: str) -> PrivateKey:
        """A new key of the operating system's randomness."""
        return cls(name, Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of ``message``, 64 bytes."""
        return self._signing.sign(message)

    def public(self) -> PublicKey:
        """What may be given to anyone."""
        receiving = self._receiving.public_key().public_bytes_raw()
        signing = self._signing.public_key().public_bytes_raw()
        return PublicKey(self.name, signing, receiving, self.sign(CERTIFIED + receiving))

    def receiving_bytes(self) -> bytes:
        """The private X25519 key, 32 bytes."""
        return self._receiving.private_bytes_raw()

    def encode(self, passphrase: str | None = None) -> bytes:
        """The private key file."""
        lock: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            lock = BestAvailableEncryption(_bytes(passphrase))
        pair = (self._signing, self._receiving)
        return b"".join(each.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock) for each in pair)

    @classmethod
    def decode(cls, data: bytes, name: str, where: object, passphrase: str | None = None) -> PrivateKey:
        """The key in a private key file.  Raises UsageError for anything else, and for a wrong passphrase."""
        blocks = _BLOCK.findall(data)
        if len(blocks) != 2 or b"".join(blocks) != data:
            raise _not_private(where, "a public key" if data.startswith(WORD.encode()) else "something else")
        signing, receiving = (_loaded(each, where, passphrase) for each in blocks)
        if not isinstance(signing, Ed25519PrivateKey) or not isinstance(receiving, X25519PrivateKey):
            raise _not_private(where, f"{type(signing).__name__} and {type(receiving).__name__}")
        return cls(name, signing, receiving)


def write_key_pair(folder: Path, key: PrivateKey, passphrase: str | None = None) -> tuple[Path, Path]:
    """Write NAME.key (mode 0600) and NAME.pub into ``folder``; their paths.

    Raises UsageError for a name that is none, a passphrase that is too short or long, or a file that is already there.
    """
    if not NAME.fullmatch(key.name):
        expected = "up to 64 letters, digits, dots, dashes and underscores; the first a letter or digit"
        raise UsageError("not a name for a key", where="name", found=repr(key.name), expected=expected)
    if passphrase is not None and not LEAST_PASSPHRASE <= len(passphrase) <= MOST_PASSPHRASE:
        raise UsageError(
            "not a passphrase to use",
            where=key.name,
            found=f"{len(passphrase)} characters",
            expected=f"{LEAST_PASSPHRASE} to {MOST_PASSPHRASE}",
            remedy="take six or more words drawn at random",
        )
    private, public = folder / f"{key.name}.key", folder / f"{key.name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise UsageError("a key is never written over", where=path, found="a file", remedy="choose another name")
        check_writable(path)
    write_atomically(private, key.encode(passphrase), mode=0o600)
    write_atomically(public, f"{key.public().encode()}\n".encode())
    return private, public


def read_public_key(path: str | Path) -> PublicKey:
    """The key in a public key file.  Raises UsageError or TrustError."""
    data = read_bytes(path, MAX_KEY_FILE, "public key")
    if data.startswith(b"-----BEGIN"):
        raise _not_public(path, "a private key")
    return PublicKey.decode(data.decode("ascii", "replace"), path)


def read_private_key(path: str | Path, passphrase: Passphrase | None = None) -> PrivateKey:
    """The key in a private key file; ``passphrase`` is called only if it has one.

    Raises UsageError for a file that is none, a wrong passphrase, or a bare key that others can read.
    """
    data, name = read_bytes(path, MAX_KEY_FILE, "private key"), Path(path).stem
    if b"-----BEGIN ENCRYPTED" not in data:
        mode = os.stat(path).st_mode & 0o777
        if mode & 0o077 and data.startswith(b"-----BEGIN"):
            raise UsageError(
                "a private key that others may read",
                where=path,
                found=f"mode {mode:04o}",
                expected="0600",
                remedy=f"chmod 600 {path}; if others could have read it, make a new one",
            )
        return PrivateKey.decode(data, name, path)
    if passphrase is None:
        raise UsageError("the key has a passphrase", where=path, remedy="give it: set FIELDKIT_PASSPHRASE")
    return PrivateKey.decode(data, name, path, passphrase(name))


def _loaded(block: bytes, where: object, passphrase: str | None) -> Any:
    secret = _bytes(passphrase) if passphrase is not None and b"ENCRYPTED" in block else None
    try:
        return load_pem_private_key(block, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if secret is None:
            raise _not_private(where, "a damaged key") from error
        raise UsageError("the passphrase is wrong, or the key is damaged", where=where) from error


def _bytes(passphrase: str) -> bytes:
    # An environment variable may hold bytes that are not UTF-8.
    return passphrase.encode("utf-8", "surrogateescape")


def _not_public(where: object, found: str) -> UsageError:
    remedy = "name a .pub file of fieldkit keygen"
    return UsageError("not a public key", where=where, found=found[:60], expected=f"a line {WORD} ...", remedy=remedy)


def _altered(where: object, reason: str) -> TrustError:
    remedy = "get it again from its owner, and compare the id by another way"
    return TrustError("a public key that was changed", where=where, found=reason, remedy=remedy)


def _not_private(where: object, found: str) -> UsageError:
    expected = "an Ed25519 and an X25519 key, PEM"
    return UsageError(
        "not a private key", where=where, found=found, expected=expected, remedy="name a .key file of fieldkit keygen"
    )
