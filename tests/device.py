"""Keys, signed bundles and a device of their own, for the tests of trust."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny

from fieldkit.bundle import write_bundle
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import sign

HQ, PARTNER, STRANGER = (PrivateKey.generate(name) for name in ("hq", "partner", "stranger"))


def plain(serial: int = 0, name: str = "tiny") -> bytes:
    """A small bundle that nobody signed."""
    made = tiny.bundle(probe=False, card=False)
    return write_bundle(replace(made, serial=serial, manifest=replace(made.manifest, name=name)))


def signed(*keys: PrivateKey, data: bytes | None = None) -> bytes:
    """``data``, or a small bundle, with the signatures of these keys."""
    data = plain() if data is None else data
    for key in keys:
        data = sign(data, key, "memory")
    return data


def write_public(folder: Path, key: PrivateKey) -> Path:
    """The key's .pub file."""
    path = folder / f"{key.name}.pub"
    path.write_text(key.public().encode() + "\n", encoding="ascii")
    return path


def write_private(folder: Path, key: PrivateKey) -> Path:
    """The key's .key file, without a passphrase."""
    path = folder / f"{key.name}.key"
    path.touch(mode=0o600)
    path.write_bytes(key.encode())
    return path
