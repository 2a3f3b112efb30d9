"""Look into a bundle, even one whose origin nobody vouches for: its seal here, all else in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldkit.bundle.atomic import check_writable, write_atomically
from fieldkit.bundle.files import read_bytes
from fieldkit.errors import UsageError
from fieldkit.field.inspection.confinement import confined
from fieldkit.field.trust.verification import verified

if TYPE_CHECKING:
    from fieldkit.bundle.keys import Passphrase

SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def inspect_bundle(
    path: str | Path,
    *,
    sheet: Path | None = None,
    provenance: bool = False,
    allow_unsigned: bool = False,
    key: str | Path | None = None,
    passphrase: Passphrase | None = None,
) -> dict[str, Any]:
    """What the bundle in a file holds, as one JSON document; its digests, and the bytes that each part takes.

    sheet: also write a contact sheet of the distilled images there, as .png or .jpg.
    provenance: also what it says of how it was made: the in-toto ``statement`` and the CycloneDX ``components``.
    allow_unsigned, key, passphrase: as for ``admission.open_bundle``; no serial is remembered.

    Raises UsageError if there is no such file or the sheet cannot be written, TrustError if the device's policy forbids
    the bundle, BundleError for anything wrong in it.
    """
    kind = None if sheet is None else _sheet_format(sheet)
    found = verified(read_bytes(path), path, allow_unsigned=allow_unsigned, key=key, passphrase=passphrase)
    request = {"where": str(path), "sheet": kind, "provenance": provenance, "signed": bool(found.seal.signers)}
    document, image = confined("inspect", request, found.data, path)
    document |= {"encrypted": found.sealer is not None, "trusted_signers": list(found.signers)}
    if sheet is not None:
        write_atomically(sheet, image)
    return document


def _sheet_format(path: Path) -> str:
    kind = SHEET_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError("no image format of this name", where=path, expected=" or ".join(SHEET_FORMATS))
    check_writable(path)
    return kind
