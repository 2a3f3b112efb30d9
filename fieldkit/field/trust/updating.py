"""From one issue of a bundle to the next by a small file: made at headquarters, applied on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import check_writable, write_atomically
from fieldkit.bundle.delta import apply_patch, make_patch
from fieldkit.bundle.files import read_bytes
from fieldkit.field.trust.verification import verified


@dataclass(frozen=True)
class Difference:
    """A patch that was written: its size and that of the new bundle, in bytes."""

    patch_bytes: int
    new_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "share": round(self.patch_bytes / self.new_bytes, 4)}


def diff_bundles(old: str | Path, new: str | Path, output: str | Path) -> Difference:
    """Write a patch that turns the bundle ``old`` into ``new``.

    Raises UsageError for a file that is not there or bundles of different names, BundleError for a damaged one.
    """
    check_writable(output)
    before, after = read_bytes(old), read_bytes(new)
    patch = make_patch(before, after, new)
    # A patch that is no use to a device is told here, not at the end of a thin link.
    apply_patch(before, patch, output, old)
    write_atomically(output, patch)
    return Difference(len(patch), len(after))


def patch_bundle(
    old: str | Path, change: str | Path, output: str | Path, *, allow_unsigned: bool = False
) -> dict[str, Any]:
    """Write the bundle that ``old`` becomes by the patch in the file ``change``; what became of it, as JSON.

    The new bundle is byte for byte that of headquarters, signatures included, and passes this device's policy before it
    is written; allow_unsigned is as for ``admission.open_bundle``.

    Raises UsageError for a file that is not there, IncompatibleBundle for another old bundle than the patch is for,
    DamagedBundle for a damaged patch, TrustError if the policy forbids the new bundle.
    """
    check_writable(output)
    found = apply_patch(read_bytes(old), read_bytes(change, what="patch"), change, old)
    signers = verified(found.data, output, allow_unsigned=allow_unsigned, encrypted=False).signers
    write_atomically(output, found.data)
    return {
        "name": found.name,
        "old_serial": found.old_serial,
        "serial": found.serial,
        "bytes": len(found.data),
        "trusted_signers": list(signers),
    }
