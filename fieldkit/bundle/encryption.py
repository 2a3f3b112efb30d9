"""Encrypted bundles, and what a device writes while it works with one.

A bundle is encrypted as an age file (https://age-encryption.org/v1, by the library pyrage) for one or more X25519
keys, and that stands behind a user block of its own, so that signatures are checked before anything is decrypted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyrage
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fieldkit.bundle.files import MAX_FILE
from fieldkit.bundle.keys import PrivateKey, PublicKey
from fieldkit.bundle.seal import USER_BLOCK, Seal, open_seal, sealed
from fieldkit.errors import DamagedBundle, TrustError, UsageError

CLOSED = b"fkclosed-1\n"
CHECKPOINT = b"fieldkit checkpoint 1\n"
NONCE = 12
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encrypt(data: bytes, recipients: Sequence[PublicKey], where: object) -> bytes:
    """The file of an encrypted bundle that each of ``recipients`` can decrypt, not yet signed.

    data: the bytes of a bundle's file, which go in as they are.  The result differs each time.

    Raises BundleError if ``data`` is damaged or encrypted already, UsageError if nobody is to read it or it grows too
    large.
    """
    statement = open_seal(data, where).statement
    if not recipients:
        raise UsageError("nobody could read it", where="recipients", expected="at least one public key")
    ciphertext = pyrage.encrypt(data, [_recipient(key) for key in recipients])
    if USER_BLOCK + len(ciphertext) > MAX_FILE:
        raise UsageError("too large once it is encrypted", where=where, expected=f"at most {MAX_FILE} bytes")
    return sealed(statement, ciphertext)


def decrypt(data: bytes, seal: Seal, key: PrivateKey, where: object) -> tuple[bytes, Seal]:
    """The bytes of the bundle's file inside an encrypted one, and its own seal, checked.

    seal: what ``open_seal`` gave for ``data``.

    Raises TrustError if it was not encrypted for ``key``, BundleError if what is inside is not what the outside says.
    """
    identity = pyrage.x25519.Identity.from_str(_bech32("age-secret-key-", key.receiving_bytes()).upper())
    try:
        inside = pyrage.decrypt(data[USER_BLOCK:], [identity])
    except pyrage.DecryptError as error:
        raise TrustError(
            "cannot be decrypted with this key",
            where=where,
            found=f"{key.name}, {key.public().id}",
            expected="a key that it was encrypted for",
            remedy="name this device's key with --key, or have the bundle encrypted for it: fieldkit encrypt --to",
        ) from error
    inner = open_seal(inside, f"{where}, decrypted")
    if not inner.statement.fits(seal.statement):
        raise DamagedBundle(
            "another bundle inside than the outside says",
            where=where,
            found=f"{inner.statement.name!r}, serial {inner.statement.serial}",
            expected=f"{seal.statement.name!r}, serial {seal.statement.serial}",
        )
    return inside, inner


class DeviceSealer:
    """Closes what a device writes beside an encrypted bundle, so that only this device reads it, for this bundle.

    ChaCha20-Poly1305 (RFC 8439) with a random nonce, under a key that HKDF-SHA-256 (RFC 5869) derives from the device's
    private receiving key and the bundle's digest.
    """

    def __init__(self, key: PrivateKey, digest: str) -> None:
        secret = HKDF(SHA256(), 32, None, CHECKPOINT + digest.encode()).derive(key.receiving_bytes())
        self._cipher = ChaCha20Poly1305(secret)

    def close(self, data: bytes) -> bytes:
        """``data`` as nobody else can read or change it."""
        nonce = os.urandom(NONCE)
        return CLOSED + nonce + self._cipher.encrypt(nonce, data, CLOSED)

    def open(self, data: bytes) -> bytes:
        """What was closed.  Raises DamagedBundle for anything that this device did not close for this bundle."""
        start = len(CLOSED) + NONCE
        nonce = data[len(CLOSED) : start]
        if not data.startswith(CLOSED) or len(nonce) < NONCE:
            raise DamagedBundle("not closed by a device's key", expected="what an encrypted bundle's training wrote")
        try:
            return self._cipher.decrypt(nonce, data[start:], CLOSED)
        except InvalidTag as error:
            raise DamagedBundle("closed by another key or for another bundle, or changed since") from error


def _recipient(key: PublicKey) -> pyrage.x25519.Recipient:
    try:
        # Refuses the few points of small order, with which everybody would know the secret.
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key.receiving))
    except ValueError as error:
        raise UsageError("a receiving key that keeps nothing secret", where=key.name, found=key.id) from error
    return pyrage.x25519.Recipient.from_str(_bech32("age", key.receiving))


def _bech32(prefix: str, data: bytes) -> str:
    """``data`` in the letters by which age names keys (BIP 173)."""
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    values = [bits >> 5 * place & 31 for place in reversed(range(count))]
    expanded = [ord(sign) >> 5 for sign in prefix] + [0] + [ord(sign) & 31 for sign in prefix]
    rest = _remainder([*expanded, *values, *[0] * 6]) ^ 1
    checksum = [rest >> 5 * place & 31 for place in reversed(range(6))]
    return prefix + "1" + "".join(_BECH32[value] for value in [*values, *checksum])


def _remainder(values: Sequence[int]) -> int:
    """BIP 173's checksum over five-bit ``values``."""
    rest = 1
    for value in values:
        top = rest >> 25
        rest = (rest & 0x1FFFFFF) << 5 ^ value
        for place, factor in enumerate(_GENERATOR):
            rest ^= factor if top >> place & 1 else 0
    return rest
