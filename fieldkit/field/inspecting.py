"""Look into a bundle whose origin nobody vouches for: its seal here, all else in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import check_writable, write_atomically
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.seal import open_seal
from fieldkit.errors import UsageError
from fieldkit.field.confinement import confined

SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def inspect_bundle(path: str | Path, *, sheet: Path | None = None) -> dict[str, Any]:
    """What the bundle in a file holds, as one JSON document; its digests, and the bytes that each part takes.

    sheet: also write a contact sheet of the distilled images there, as .png or .jpg.

    Raises UsageError if there is no such file or the sheet cannot be written, BundleError for anything wrong in it.
    """
    kind = None if sheet is None else _sheet_format(sheet)
    data = read_bytes(path)
    open_seal(data, path)
    document, image = confined("inspect", {"where": str(path), "sheet": kind}, data, path)
    if sheet is not None:
        write_atomically(sheet, image)
    return document


def _sheet_format(path: Path) -> str:
    kind = SHEET_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError("no image format of this name", where=path, expected=" or ".join(SHEET_FORMATS))
    check_writable(path)
    return kind
