"""The one door through which every command opens a bundle: bytes are read once, judged, and only then parsed.

Whoever writes something that could show the distilled images (a checkpoint, a replay store) closes it with the admitted
bundle's ``sealer``, if it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.reader import parse_bundle, read_bytes


class Sealer(Protocol):
    """Keeps bytes secret on the disk: what ``close`` gives, only ``open`` on this device turns back."""

    def close(self, data: bytes) -> bytes: ...

    def open(self, data: bytes) -> bytes: ...


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
    passphrase: Callable[[str], str] | None = None,
) -> Admitted:
    """The bundle in a file, if this device may use it.

    allow_unsigned: take it even if no trusted key signed it.
    key: the private key file of this device, for an encrypted bundle; None takes the one in the config folder.
    passphrase: asked with the key's name for its passphrase.

    Raises UsageError if there is no such file, TrustError if its origin is not trusted here, BundleError for anything
    wrong in its bytes.
    """
    data = read_bytes(path)
    return Admitted(parse_bundle(data, path), data)
