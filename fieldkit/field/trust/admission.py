"""The one door through which every command opens a bundle: bytes are read once, judged, and only then parsed.

Whoever writes something that could show the distilled images (a checkpoint, a replay store) closes it with the admitted
bundle's ``sealer``, if it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.reader import parse_file
from fieldkit.field.trust.verification import Sealer as Sealer
from fieldkit.field.trust.verification import verified

if TYPE_CHECKING:
    from fieldkit.bundle.keys import Passphrase


@dataclass(frozen=True)
class Admitted:
    """A bundle that this device may use.

    data: the bytes of the bundle's file that were judged and parsed; of an encrypted file, what was inside.
    signers: ids of the trusted keys that signed it.
    sealer: for what is written beside it; None if the file was not encrypted.
    """

    bundle: Bundle
    data: bytes
    signers: tuple[str, ...] = ()
    sealer: Sealer | None = None


def open_bundle(
    path: str | Path,
    *,
    allow_unsigned: bool = False,
    key: str | Path | None = None,
    passphrase: Passphrase | None = None,
) -> Admitted:
    """The bundle in a file, if this device may use it.

    Without a trust store any sound bundle is taken.  With one, as many trusted keys must have signed it as the policy
    says, and no newer issue of it may have been opened here; this one's serial is then remembered.

    allow_unsigned: take it even if no trusted key signed it, unless the device is locked.
    key: the private key file of this device, for an encrypted bundle; None takes the one in the config folder.
    passphrase: asked with the key's name for its passphrase.

    Raises UsageError if there is no such file or key, TrustError if its origin is not trusted here or it was encrypted
    for others, BundleError for anything wrong in its bytes.
    """
    return admit(read_bytes(path), path, allow_unsigned=allow_unsigned, key=key, passphrase=passphrase)


def admit(
    data: bytes,
    where: object,
    *,
    allow_unsigned: bool = False,
    key: str | Path | None = None,
    passphrase: Passphrase | None = None,
) -> Admitted:
    """The bundle in the bytes of a file; ``where`` names them in an error.  Otherwise as ``open_bundle``."""
    found = verified(data, where, allow_unsigned=allow_unsigned, key=key, passphrase=passphrase)
    bundle = parse_file(found.data, where, found.seal).bundle
    if found.signers:
        from fieldkit.field.trust.serials import Serials
        from fieldkit.field.trust.store import Store

        Serials(Store()).record(bundle.manifest.name, bundle.serial, bundle.digest)
    return Admitted(bundle, found.data, found.signers, found.sealer)
