"""``fieldkit patch``: the next issue of a bundle, from the one that is here and a small file."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import faces, options


@click.command(epilog="\b\nExample:\n  fieldkit patch digits-1.h5 digits.patch -o digits-2.h5")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("change", metavar="PATCH", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new bundle to write.")
@click.option(
    "--allow-unsigned", is_flag=True, help="Take the new bundle even if no key that this device trusts signed it."
)
@options.as_json
def patch(old: Path, change: Path, output: Path, allow_unsigned: bool, as_json: bool) -> None:
    """Turn the bundle OLD into the one that PATCH was made for, byte for byte and with its signatures."""
    from fieldkit.field.trust.updating import patch_bundle

    document = patch_bundle(old, change, output, allow_unsigned=allow_unsigned)
    if as_json:
        faces.print_json("patch", {"file": str(output), **document})
    else:
        signed = ", ".join(document["trusted_signers"]) or "nobody whom this device trusts"
        serials = f"serial {document['old_serial']} -> {document['serial']}"
        click.echo(f"{output}: {document['name']}, {serials}, {document['bytes']:,} bytes, signed by {signed}")
