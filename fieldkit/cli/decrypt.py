"""``fieldkit decrypt``: the bundle inside an encrypted one, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fieldkit.cli import options
from fieldkit.cli.faces import print_json


@click.command(epilog="\b\nExample:\n  fieldkit decrypt mnist-10.sealed --key device-7.key -o mnist-10.h5")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: BUNDLE's name with .h5]"
)
@options.opening
@options.as_json
def decrypt(bundle: Path, output: Path | None, as_json: bool, **opening: Any) -> None:
    """Write the bundle inside BUNDLE to a file that anyone can read who can read your files.

    No other command needs this: each of them decrypts in memory.
    """
    from fieldkit.field.trust.sealing import decrypt_bundle

    target = output or options.beside(bundle, ".h5")
    statement = decrypt_bundle(bundle, target, **opening).seal.statement
    if as_json:
        document = {"file": str(target), "name": statement.name, "serial": statement.serial}
        print_json("decrypt", {**document, "digest": statement.payload_sha256})
    else:
        click.echo(f"{target}: {statement.name}, serial {statement.serial}")
