"""Bundle files signed, encrypted and decrypted: what ``fieldkit sign``, ``encrypt`` and ``decrypt`` do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fieldkit.bundle.atomic import check_writable, write_atomically
from fieldkit.bundle.encryption import encrypt
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.keys import Passphrase, PrivateKey, PublicKey
from fieldkit.bundle.seal import Seal, open_seal, sign
from fieldkit.errors import UsageError
from fieldkit.field.trust.verification import Verified, verified


def sign_bundle(path: str | Path, key: PrivateKey) -> Seal:
    """Put a signature of ``key`` into a bundle's file, encrypted or not; its seal then.

    The file is written in place and atomically, or not at all; signing twice changes nothing.

    Raises UsageError if the file is not there, cannot be written or has no room left, BundleError if it is damaged.
    """
    data = sign(read_bytes(path), key, path)
    write_atomically(path, data)
    return open_seal(data, path, encrypted=None)


def encrypt_bundle(
    path: str | Path, output: str | Path, recipients: Sequence[PublicKey], key: PrivateKey | None = None
) -> Seal:
    """Write the bundle in ``path`` to ``output`` as only ``recipients`` can read it, signed by ``key`` if there is one.

    Signatures inside the bundle stay there; what a device trusts is the signature on the outside.

    Raises UsageError for paths that do not do or too large a bundle, BundleError for one that is damaged or encrypted.
    """
    _check_output(path, output)
    data = encrypt(read_bytes(path), recipients, path)
    if key is not None:
        data = sign(data, key, output)
    write_atomically(output, data)
    return open_seal(data, output, encrypted=True)


def decrypt_bundle(
    path: str | Path,
    output: str | Path,
    *,
    allow_unsigned: bool = False,
    key: str | Path | None = None,
    passphrase: Passphrase | None = None,
) -> Verified:
    """Write the bundle inside the encrypted file ``path`` to ``output`` (mode 0600), if this device may use it.

    Parameters and errors are those of ``admission.open_bundle``; IncompatibleBundle if it is not encrypted.
    """
    _check_output(path, output)
    data = read_bytes(path)
    found = verified(data, path, allow_unsigned=allow_unsigned, key=key, passphrase=passphrase, encrypted=True)
    write_atomically(output, found.data, mode=0o600)
    return found


def _check_output(path: str | Path, output: str | Path) -> None:
    if check_writable(output) == Path(os.path.realpath(path)):
        raise UsageError("it would replace the bundle it is made from", where=output, remedy="name another file")
