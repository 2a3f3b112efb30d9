"""``fieldkit diff``: what changed from one issue of a bundle to the next, as a small file."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import faces, options


@click.command(epilog="\b\nExample:\n  fieldkit diff digits-1.h5 digits-2.h5 -o digits.patch")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The patch to write.")
@options.as_json
def diff(old: Path, new: Path, output: Path, as_json: bool) -> None:
    """Write a patch that turns the bundle OLD into NEW, for a device that has OLD: fieldkit patch applies it."""
    from fieldkit.field.trust.updating import diff_bundles

    made = diff_bundles(old, new, output)
    if as_json:
        faces.print_json("diff", {"patch": str(output), **made.to_json()})
    else:
        share = faces.percent(made.patch_bytes / made.new_bytes)
        click.echo(f"{output}: {made.patch_bytes:,} bytes, {share} of the new bundle's {made.new_bytes:,}")
